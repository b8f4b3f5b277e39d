//! Drives the real agent, with real processes, through a server that a test controls.

mod connection;
mod mock;
mod packages;
mod python;
mod speed;
