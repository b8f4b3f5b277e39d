//! The contract of [`Store`](crate::Store) as code. Every backend runs all of it; no case knows which backend it is.
//!
//! A case gets an empty store and panics if a promise is broken. The names of the cases are sentences: together they
//! are the contract's text.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::SharedStore;

mod idempotency;
mod query;
mod read;
mod recovery;
mod run;
mod support;
mod write;

/// A backend under test.
pub trait Fixture {
    /// The store.
    fn store(&self) -> SharedStore;
    /// Closes the store and opens it again on what it has kept.
    fn reopen(&mut self);
}

/// A named case.
pub type Case = (&'static str, fn(&mut dyn Fixture));

/// Every case.
pub fn cases() -> impl Iterator<Item = Case> {
    [write::CASES, read::CASES, query::CASES, idempotency::CASES, recovery::CASES, run::CASES]
        .into_iter()
        .flatten()
        .copied()
}

/// Runs every case on a store of its own, and fails with the names of those that did not hold.
pub fn run_all(make: &dyn Fn() -> Box<dyn Fixture>) {
    let broken: Vec<_> = cases()
        .filter(|(name, case)| {
            let started = std::time::Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| case(&mut *make())));
            println!("{name}: {} in {:.0?}", if result.is_ok() { "holds" } else { "BROKEN" }, started.elapsed());
            result.is_err()
        })
        .map(|(name, _)| name)
        .collect();
    assert!(broken.is_empty(), "the store breaks its contract: {broken:#?}");
}
