//! The command line as people and scripts meet it: the built binary against a server that is only played.

mod config;
mod docs;
mod exit;
mod help;
mod mock;
mod output;
mod profile;
mod verb;
mod workflow;
