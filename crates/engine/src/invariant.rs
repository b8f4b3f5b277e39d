//! Facts that the committed log of one partition never breaks, each named, one file each. The simulator, tests and a
//! watch in production fold the same log through the same functions.
//!
//! Never here: anything that needs more than the log, such as what a client was told or what a worker saw. Those facts
//! are checkers of the simulator.

mod fold;
mod s11_bounded_attempts;
mod s12_journal;
mod s16_one_owner;
mod s2_idempotent_accept;
mod s3_single_lease;
mod s5_one_completion;
mod s6_timers;
mod s8_hard_quota;
mod s9_key_order;

use std::fmt;

pub use fold::{Change, Fold, Step};

use crate::mutation::Batch;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub id: &'static str,
    /// What was found, for people.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.text)
    }
}

/// One fact about a log.
pub trait Invariant {
    /// Its number in the list of promises.
    fn id(&self) -> &'static str;
    /// What always holds.
    fn statement(&self) -> &'static str;
    /// What taught it.
    fn provenance(&self) -> &'static str;
    /// Looks at one commit. The fold has it already; `step` says what it changed.
    fn commit(&mut self, step: &Step<'_>, found: &mut Vec<Violation>);
}

/// All invariants over one growing log.
pub struct Watch {
    fold: Fold,
    invariants: Vec<Box<dyn Invariant>>,
}

impl Default for Watch {
    fn default() -> Self {
        Watch { fold: Fold::default(), invariants: all() }
    }
}

/// Every invariant, fresh.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<s2_idempotent_accept::IdempotentAccept>::default(),
        Box::<s3_single_lease::SingleLease>::default(),
        Box::<s5_one_completion::OneCompletion>::default(),
        Box::new(s6_timers::Timers),
        Box::<s8_hard_quota::HardQuota>::default(),
        Box::<s9_key_order::KeyOrder>::default(),
        Box::<s11_bounded_attempts::BoundedAttempts>::default(),
        Box::<s12_journal::Journal>::default(),
        Box::<s16_one_owner::OneOwner>::default(),
    ]
}

impl Watch {
    /// Folds the next commit and returns what it broke.
    pub fn commit(&mut self, batch: &Batch) -> Vec<Violation> {
        let step = self.fold.commit(batch);
        let step = Step { batch, fold: &self.fold, changes: step };
        let mut found = Vec::new();
        self.invariants.iter_mut().for_each(|invariant| invariant.commit(&step, &mut found));
        found
    }

    /// What the log says so far.
    pub fn fold(&self) -> &Fold {
        &self.fold
    }
}
