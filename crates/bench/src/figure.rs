//! A figure.

use std::borrow::Cow;

use serde::Serialize;

/// One measured number.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Benchmark.
    pub bench: &'static str,
    /// Name within it.
    pub figure: Cow<'static, str>,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it has to reach, if anything.
    pub target: Option<f64>,
    /// Which way is better.
    pub higher_is_better: bool,
    /// Sizes and settings it was taken with.
    pub config: serde_json::Value,
}

impl Figure {
    /// A figure that should be high.
    pub fn high(
        bench: &'static str,
        figure: impl Into<Cow<'static, str>>,
        value: f64,
        unit: &'static str,
        target: impl Into<Option<f64>>,
    ) -> Figure {
        let (figure, target) = (figure.into(), target.into());
        Figure { bench, figure, value, unit, target, higher_is_better: true, config: serde_json::json!({}) }
    }

    /// A figure that should be low.
    pub fn low(
        bench: &'static str,
        figure: impl Into<Cow<'static, str>>,
        value: f64,
        unit: &'static str,
        target: impl Into<Option<f64>>,
    ) -> Figure {
        Figure { higher_is_better: false, ..Figure::high(bench, figure, value, unit, target) }
    }

    /// With its settings.
    pub fn with(mut self, config: serde_json::Value) -> Figure {
        self.config = config;
        self
    }

    /// Whether the target is met; `None` without a target.
    pub fn met(&self) -> Option<bool> {
        self.target.map(|t| if self.higher_is_better { self.value >= t } else { self.value <= t })
    }
}

/// The middle of some values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(&values, 0.5)
}

/// The value below which `share` (0..1) of the sorted values lie.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}
