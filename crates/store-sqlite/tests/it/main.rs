//! The SQLite store from outside: its contract, its plans, its faults.

mod contract;
mod faults;
mod keys;
mod runs;
