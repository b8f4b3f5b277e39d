//! Benchmarks: each figure is a number with a unit, the target it is held against and the settings it was taken with.
//!
//! `engine` runs in process; everything else starts the built binary in a temporary folder and drives it from processes
//! of its own, so that what is measured is what is shipped. A run whose counts do not add up fails instead of printing
//! a figure.

mod client;
mod engine;
mod figure;
mod http;
mod latency;
mod memory;
mod packages;
mod probe;
mod python;
mod server;
mod throughput;
mod timers;

use anyhow::bail;
pub use figure::Figure;

/// What a run can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary to start; default: this program itself.
    pub binary: std::path::PathBuf,
    /// A server that is already there, instead of one started here.
    pub url: Option<String>,
    /// Its token.
    pub token: Option<String>,
    /// Tasks per run, where a figure counts tasks.
    pub tasks: u64,
    /// Smaller sizes, to see that it works; such figures carry `quick` in their settings.
    pub quick: bool,
}

impl Default for Options {
    fn default() -> Self {
        let binary = std::env::current_exe().unwrap_or_else(|_| "tidewheel".into());
        Options { binary, url: None, token: None, tasks: 1_000_000, quick: false }
    }
}

/// The benchmarks by name, with one line each.
pub const NAMES: &[(&str, &str)] = &[
    ("engine", "engine and SQLite store in process: submit to completed"),
    ("throughput", "submit, drain and end to end over the worker protocol, separate processes"),
    ("api", "POST /api/tasks, 100 keep-alive connections (document B's load test)"),
    ("latency", "submit to handler start and to result, 50 tasks/s"),
    ("timers", "100,000 tasks due in one second: lateness"),
    ("packages", "a package of 10 MB deployed to 100 agents, fetched and checked by each"),
    ("python", "Python no-op tasks through agent and shim; start times"),
    ("memory", "idle server, cold start, memory with many queued tasks"),
    ("restart", "kill -9 with many granted tasks: time to the first grant"),
];

/// Runs one benchmark. `report` gets each figure as it is there.
pub fn run(name: &str, options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    probe::disk(report)?;
    match name {
        "engine" => engine::run(options, report),
        "throughput" => throughput::run(options, report),
        "api" => http::run(options, report),
        "latency" => latency::run(options, report),
        "timers" => timers::run(options, report),
        "packages" => packages::run(options, report),
        "python" => python::run(options, report),
        "memory" => memory::run(options, report),
        "restart" => memory::restart(options, report),
        other => {
            let names: Vec<&str> = NAMES.iter().map(|(n, _)| *n).collect();
            bail!("there is no benchmark `{other}`; there are: {}", names.join(", "))
        }
    }
}

/// Runs as a part of a benchmark in a process of its own. Not for people: `tidewheel bench` starts it.
pub fn run_role(role: &str, arguments: &[String]) -> anyhow::Result<()> {
    client::run_role(role, arguments)
}
