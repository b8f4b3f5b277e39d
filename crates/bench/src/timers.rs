//! Timers: tasks with a due time; how late each reaches a worker, by a durable grant.

use anyhow::Context;
use serde_json::json;

use crate::server::Server;
use crate::{Figure, Options};

/// Timers that are spread evenly over some time, and what is asked of them.
struct Load {
    timers: u64,
    over_ms: u64,
    /// From the first submit to the first due time: all are stored by then.
    due_in_ms: u64,
    /// Behind the names of its figures.
    suffix: &'static str,
    late_p50_ms: Option<f64>,
    late_p99_ms: Option<f64>,
    grants_per_s: Option<f64>,
}

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    // One timer after another, as single runs wait for them.
    let mut spread = Load {
        timers: 10_000,
        over_ms: 20_000,
        due_in_ms: 3_000,
        suffix: "_spread",
        late_p50_ms: Some(1.0),
        late_p99_ms: Some(3.0),
        grants_per_s: None,
    };
    // So many that commits keep a distance (ADR 0011), which is most of how late they are.
    let many = Load { over_ms: 1_000, suffix: "_10k", late_p50_ms: None, late_p99_ms: Some(10.0), ..spread };
    // More than the machine grants in the second in which they fire: their median says how long the rest takes.
    let most =
        Load { timers: 100_000, due_in_ms: 6_000, suffix: "", late_p99_ms: None, grants_per_s: Some(50_000.0), ..many };
    if options.quick {
        (spread.timers, spread.over_ms) = (2_000, 4_000);
        return [spread, many].iter().try_for_each(|load| load.measure(options, report));
    }
    [spread, many, most].iter().try_for_each(|load| load.measure(options, report))
}

impl Load {
    fn measure(&self, options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
        let &Self { timers, over_ms, due_in_ms, suffix, .. } = self;
        let server = Server::start(options)?;
        let arguments = [
            format!("total={timers}"),
            "bulk=1000".to_owned(),
            format!("due_in_ms={due_in_ms}"),
            format!("due_over_ms={over_ms}"),
        ];
        let worker = server.role("worker", &[format!("total={timers}"), "permits=20000".to_owned()])?;
        server.role("submitter", &arguments)?.answer()?;
        let worked = worker.answer()?;
        let number = |name: &str| worked[name].as_f64().with_context(|| format!("`{name}`"));
        let (fired_p99, fired) = server.quantile_edge("tidewheel_timer_late_seconds", 0.99)?;
        if fired != timers as f64 {
            anyhow::bail!("{timers} timers were set, but {fired} fired");
        }
        let config = json!({
            "tasks": timers,
            "due_within_ms": over_ms,
            "lateness": "due time to arrival of the durable grant at the worker",
        });
        let mut put = |name: &str, value: f64, unit: &'static str, most: Option<f64>| {
            report(Figure::low("timers", format!("{name}{suffix}"), value, unit, most).with(config.clone()));
        };
        put("fired_p99_ms", fired_p99 * 1000.0, "ms", Some(10.0));
        put("late_p50_ms", number("p50_ms")?, "ms", self.late_p50_ms);
        put("late_p99_ms", number("p99_ms")?, "ms", self.late_p99_ms);
        put("early", number("early")?, "tasks", Some(0.0));
        if let Some(least) = self.grants_per_s {
            let rate = timers as f64 / number("seconds")?;
            report(Figure::high("timers", "grants_per_s", rate, "tasks/s", least).with(config));
        }
        Ok(())
    }
}
