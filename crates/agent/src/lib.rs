//! The agent: connects to a Tidewheel server, discovers what the machine can do, and runs attempts: Python packages in warm
//! processes, command lines, and built-in types. It knows the worker protocol and nothing of the engine or the stores.
//!
//! `link` talks to the server, `runner` decides, `process` starts and kills, `pump` listens to processes, `package` and
//! `environment` prepare code, `bundle` builds packages from projects.

mod attempt;
mod blobs;
mod builds;
mod bundle;
mod cache;
mod capacity;
mod cgroup;
mod client;
mod config;
mod environment;
mod error;
mod guard;
mod import;
mod inputs;
mod lease;
mod link;
mod log_ship;
mod noop;
mod on_demand;
mod outbox;
mod package;
mod parts;
mod process;
mod procfs;
mod project;
mod pump;
mod python;
mod rest;
mod runner;
mod sandbox;
mod script;
mod seccomp;
mod serve;
mod shell;
mod shim;
mod start;
mod tally;
mod unpack;
mod warm;

pub use bundle::{BuildOptions, BuiltPackage, LocalCode, build_package, describe, prepare_local, replay};
pub use config::{AgentConfig, BuildLimits, Credential, Isolation, Limits, Reread, Secret};
pub use error::Error;
pub use package::local_name;
pub use serve::Serves;
pub use start::{Agent, AgentHandle, AgentStatus, inspect, run};
