//! The simulator: the product's engine and its shell's decisions in a world of its own, with faults, checkers that look
//! at everything, and planted bugs that prove that the checkers can fail.
//!
//! A seed and a commit are a whole run. Never here: a real clock, thread, file or socket in anything that decides.

pub mod checker;
pub mod cli;
pub mod disk;
pub mod event;
pub mod flow;
pub mod plan;
pub mod planted;
pub mod program;
pub mod rng;
pub mod run;
pub mod world;

pub use cli::main_with_args;
