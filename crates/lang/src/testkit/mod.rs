//! Tests of workflows: in memory, against mocks, with a clock that jumps to whatever happens next. Nothing is read, sent or
//! waited for.
//!
//! A [`Suite`] is a test file with its workflows; `Suite::play` runs one test. What runs a workflow is [`world`]; the
//! conformance kit uses it with peers of its own.

mod compare;
pub(crate) mod file;
mod journal;
mod mock;
mod play;
mod suite;
pub mod world;

pub use compare::diff;
pub use play::{Called, Failure, Played, Report};
pub use suite::{Coverage, Files, Findings, Suite, Uncovered, load};
