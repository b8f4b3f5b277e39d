//! Faults on the real process: killed, frozen, without disk, with a disk that fails, with more work than it can do.
//! `make chaos` runs exactly this module.

mod disk_full;
mod freeze;
mod fsync_error;
mod kill;
mod overload;
