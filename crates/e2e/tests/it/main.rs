//! End-to-end tests. `tidy` reads the sources; everything else drives the built binary over its public interfaces.
//! A test whose means are missing on this machine prints a line that begins with `not run:`.

mod abuse;
mod affinity;
mod agent;
mod backup;
mod bulk;
mod chaos;
mod cli;
mod fleet;
mod idle;
mod items;
mod limits;
mod load;
mod moves;
mod pressure;
mod programs;
mod promises;
mod reload;
mod results;
mod tidy;
mod workflows;
