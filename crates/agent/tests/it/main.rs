//! Drives the real agent, with real processes, through a server that a test controls.

mod builds;
mod connection;
mod limits;
mod mock;
mod packages;
mod python;
mod speed;
mod transport;
