//! Planted bugs: each has to be caught by a checker within a bounded number of seeds. A checker that cannot fail proves
//! nothing.

use tidewheel_engine::planted::Bug;

use crate::run::{Shown, run};

/// Seeds a bug is given.
pub const SEEDS: u64 = 600;

/// Simulated minutes of each.
pub const MINUTES: f64 = 3.0;

/// What caught a bug.
#[derive(Clone, Debug)]
pub struct Catch {
    /// Which bug.
    pub bug: Bug,
    /// Checker, seed and what it said; `None` = it survived.
    pub by: Option<(String, u64, String)>,
}

/// Hunts one bug.
pub fn hunt(bug: Bug, minutes: f64) -> Catch {
    let caught = (0..SEEDS).find_map(|seed| {
        let outcome = run(seed, minutes, Some(bug), Shown::default());
        let (id, text) = outcome.violations.into_iter().next()?;
        // A seed that fails without the bug says nothing about it.
        run(seed, minutes, None, Shown::default()).violations.is_empty().then_some((id, seed, text))
    });
    Catch { bug, by: caught }
}
