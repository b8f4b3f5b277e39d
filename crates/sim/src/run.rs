//! One seed from plan to verdict.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tidewheel_engine::planted::{Bug, Planted};

use crate::plan::{Plan, SECOND};
use crate::world::World;

/// What came of a seed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Which.
    pub seed: u64,
    /// Microseconds that were simulated, leaps over waiting time left out.
    pub simulated: u64,
    /// Events.
    pub events: u64,
    /// Commits in the logs.
    pub commits: u64,
    /// Tasks in the logs.
    pub tasks: u64,
    /// Workflows that were run as a document and as a program, and compared.
    pub twins: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What was broken.
    pub violations: Vec<(String, String)>,
    /// A hash of all that happened.
    pub trace: u64,
}

/// What is printed on stderr while a seed runs.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Every event.
    pub events: bool,
    /// Every turn of the run with this id.
    pub run: Option<String>,
}

/// Runs a seed.
pub fn run(seed: u64, minutes: f64, bug: Option<Bug>, shown: Shown) -> Outcome {
    let planted = bug.map_or_else(Planted::default, Planted::plant);
    let mut world = World::new(Plan::new(seed, minutes), planted, shown.events);
    world.checkers.runs.shown = shown.run;
    // An assertion of the engine is a checker too: it stops the partition in the product, and the seed here.
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run())).err();
    let found = world.checkers.violations.iter().take(20);
    let mut violations: Vec<_> = found.map(|v| (v.id.to_owned(), v.text.clone())).collect();
    if let Some(panic) = panicked {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        violations.push(("assert".to_owned(), text.unwrap_or_default()));
    }
    if let Some((_, text)) = violations.first_mut() {
        *text = format!("{text} (at {:.3} s)", world.now as f64 / SECOND as f64);
    }
    let folds = (0..world.disks.len()).map(|p| world.checkers.fold(p));
    let (commits, tasks) = folds.fold((0, 0), |(c, t), fold| (c + fold.commits, t + fold.tasks.len() as u64));
    Outcome {
        seed,
        simulated: world.simulated(),
        events: world.events,
        commits,
        tasks,
        twins: world.checkers.runs.twins.compared,
        faults: world.faults.clone(),
        violations,
        trace: world.trace,
    }
}
