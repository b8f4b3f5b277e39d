//! The simulator's own gate: fixed seeds pass, planted bugs are caught, a seed is the whole story.

use tidewheel_engine::planted::Bug;
use tidewheel_sim::{planted, run};

/// Simulated minutes with faults of each seed here; shorter than the command's, so that the gate takes a minute.
const MINUTES: f64 = 2.0;
/// Seeds of the gate. Both measured scenarios and both numbers of partitions are among them.
const SEEDS: u64 = 64;

/// Seeds that once found something and are named after it. They run longer, as they did then.
const FOUND: [(&str, u64); 22] = [
    ("a retry of the task that holds an ordering key", 16),
    ("an ordering key with tasks of two types", 24),
    ("a batch under a tenant's rate", 44),
    ("lanes that nobody can serve", 2),
    ("two pages of a scan and a lane between them", 57),
    ("a person's retry before one that backs off", 78),
    ("a window that reaches beyond what it left to the store", 154),
    ("a commit that overtakes a read", 10),
    ("a key that lands while another one is read", 1290),
    ("a key that lands before a failed read is repeated", 345),
    ("a new head of an ordering key", 732),
    ("rows of a new owner in an old one", 915),
    ("a run of a document that only another tenant has", 304),
    ("a move behind what takes the run elsewhere", 249),
    ("a rehearsed move behind a reset", 63),
    ("a reset into a saga that is being undone", 383),
    ("a fork that goes back to before it was one", 990),
    ("news that came before a program was taken back", 76),
    ("news that came at once when a program was resumed", 1072),
    ("a fork of a run whose children moved", 624),
    ("the window of a task that ended", 2),
    ("a retried expired task", 17),
];

fn violations(seed: u64, minutes: f64, bug: Option<Bug>) -> Vec<(String, String)> {
    run::run(seed, minutes, bug, run::Shown::default()).violations
}

#[test]
fn fixed_seeds_keep_every_promise() {
    for seed in 0..SEEDS {
        assert_eq!(violations(seed, MINUTES, None), [], "tidewheel sim --seed {seed} --minutes {MINUTES}");
    }
}

#[test]
fn seeds_that_once_failed_keep_every_promise() {
    for (what, seed) in FOUND {
        assert_eq!(violations(seed, 6.0, None), [], "{what}: tidewheel sim --seed {seed}");
    }
}

#[test]
fn a_seed_is_the_whole_story() {
    for seed in [1, 3, 7, 11] {
        let (first, second) = (
            run::run(seed, MINUTES, None, run::Shown::default()),
            run::run(seed, MINUTES, None, run::Shown::default()),
        );
        assert_eq!((first.trace, first.events), (second.trace, second.events), "seed {seed}");
        assert_eq!(first.faults, second.faults);
        assert!(first.commits > 100, "seed {seed} does something");
    }
}

#[test]
fn every_planted_bug_is_caught_by_a_checker() {
    let survivors: Vec<&str> = Bug::ALL
        .iter()
        .map(|bug| planted::hunt(*bug, planted::MINUTES))
        .filter(|hunt| hunt.by.is_none())
        .map(|hunt| hunt.bug.name())
        .collect();
    assert_eq!(survivors, [] as [&str; 0]);
    assert!(Bug::ALL.len() >= 24);
}
