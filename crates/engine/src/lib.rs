//! The partition state machine of Tidewheel: commands and time in, mutations and effects out.
//!
//! Everything that decides lives here: queues, fairness, limits, timers, leases, retries. Nothing here does: no clock,
//! file, socket, thread, randomness, environment or logging, and no result depends on the iteration order of a hash map.
//! The shell (`runtime`) feeds [`Partition::apply`], stores what [`Partition::finish_batch`] returns, reports the commit
//! with [`Partition::committed`], and only then performs the effects.

pub mod command;
pub mod config;
pub mod effect;
pub mod id;
pub mod input_keys;
pub mod invariant;
pub mod limit;
pub mod load;
pub mod mutation;
pub mod node;
pub mod partition;
pub mod planted;
pub mod ready;
pub mod run;
pub mod serve;
pub mod task;
pub mod time;
pub mod version;
pub mod view;
pub mod wheel;

pub use command::Command;
pub use effect::{Effect, Reply};
pub use mutation::{Batch, Mutation};
pub use partition::Partition;
