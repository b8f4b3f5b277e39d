//! Runs: given a plan and events, then these facts, acts and outputs.

mod errors;
mod events;
mod flow;
mod forks;
mod history;
pub(crate) mod kit;
mod limits;
mod maps;
mod random;
mod sagas;
