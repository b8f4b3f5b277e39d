//! Benchmarks: each figure is a number with a unit, the target it is held against and the settings it was taken with.
//!
//! `engine` runs in process; everything else starts the built binary in a temporary folder and drives it from processes
//! of its own, so that what is measured is what is shipped. A run whose counts do not add up fails instead of printing
//! a figure.

mod agent;
mod bulk;
mod client;
mod engine;
mod figure;
mod http;
mod isolation;
mod latency;
mod memory;
mod packages;
mod probe;
mod python;
mod server;
mod soak;
mod steady;
mod store;
mod streams;
mod throughput;
mod timers;
mod volume;
mod waiting;
mod workflow;
mod workflow_python;

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
    /// Tasks (or workers, rows, lines) of a run, instead of the benchmark's own size.
    pub tasks: Option<u64>,
    /// How long a soak lasts, in minutes.
    pub minutes: Option<f64>,
    /// Smaller sizes, to see that it works; such figures are held against no target of a size.
    pub quick: bool,
}

impl Options {
    /// The size of a run: what was asked for, or the benchmark's own, full or quick.
    fn size(&self, full: u64, quick: u64) -> u64 {
        self.tasks.unwrap_or(if self.quick { quick } else { full })
    }

    /// A target that only holds for the full size.
    fn target(&self, target: f64) -> Option<f64> {
        (!self.quick && self.tasks.is_none()).then_some(target)
    }
}

impl Default for Options {
    fn default() -> Self {
        let binary = std::env::current_exe().unwrap_or_else(|_| "tidewheel".into());
        Options { binary, url: None, token: None, tasks: None, minutes: None, quick: false }
    }
}

/// The benchmarks by name, with one line each.
pub const NAMES: &[(&str, &str)] = &[
    ("engine", "engine and SQLite store in process: submit to completed"),
    ("throughput", "submit, drain and end to end over the worker protocol, separate processes"),
    ("steady", "10,000 tasks/s that wait for nothing: submit to stored, to a worker, to done; writes of the disk"),
    ("api", "POST /api/tasks, 100 keep-alive connections (document B's load test)"),
    ("bulk", "POST /api/tasks beside bulk actions over 100,000 runs and a million tasks, against alone"),
    ("latency", "submit to assignment, to handler start and to result, 50 tasks/s"),
    ("timers", "tasks with due times, over 20 seconds and within one: lateness"),
    ("timer_cache", "due times: lookups in memory, and reads among many stored ones"),
    ("packages", "a package of 10 MB deployed to 100 agents, fetched and checked by each"),
    ("python", "Python no-op tasks through agent and shim; start times"),
    ("resources", "memory and cores that 1,000 Python executions a second need"),
    ("workflow-python", "durable runs written in Python: three steps through an agent, one run at a time"),
    ("workflow", "durable runs: steps of workers and of expressions, a large fan-out, one run at a time"),
    ("waiting", "a million runs that sleep or wait for a signal: memory, and restart after kill -9"),
    ("isolation", "one tenant's worker stops and its tasks pile up: what the others notice"),
    ("concurrent", "100,000 attempts that run at once"),
    ("agents", "10,000 connected workers without work"),
    ("volume", "latency with millions of tasks stored, against an empty server"),
    ("storage", "bytes on disk per million tasks"),
    ("pages", "the list of tasks: page 10,000 against page 1"),
    ("logs", "full-text search among many log lines"),
    ("memory", "idle server, cold start, memory with many queued tasks"),
    ("restart", "kill -9 with many granted tasks: time to the first grant"),
    ("soak", "resident memory over time under a steady load"),
];

/// Runs one benchmark. `report` gets each figure as it is there.
pub fn run(name: &str, options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    probe::disk(report)?;
    match name {
        "engine" => engine::run(options, report),
        "throughput" => throughput::run(options, report),
        "api" => http::run(options, report),
        "bulk" => bulk::run(options, report),
        "latency" => latency::run(options, report),
        "timers" => timers::run(options, report),
        "packages" => packages::run(options, report),
        "python" => python::run(options, report),
        "memory" => memory::run(options, report),
        "restart" => memory::restart(options, report),
        "steady" => steady::run(options, report),
        "timer_cache" => store::timers(options, report),
        "resources" => python::resources(options, report),
        "isolation" => isolation::run(options, report),
        "workflow" => workflow::run(options, report),
        "workflow-python" => workflow_python::run(options, report),
        "waiting" => waiting::run(options, report),
        "concurrent" => streams::concurrent(options, report),
        "agents" => streams::agents(options, report),
        "volume" => volume::run(options, report),
        "storage" => volume::storage(options, report),
        "pages" => volume::pages(options, report),
        "logs" => store::logs(options, report),
        "soak" => soak::run(options, report),
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
