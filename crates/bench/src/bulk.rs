//! Single creates over REST at a steady rate, alone and beside bulk actions over many runs and tasks: what callers notice
//! of the work in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::figure::percentile;
use crate::server::{Http, Server, told};
use crate::{Figure, Options, probe, waiting};

/// Creates per second, over all connections.
const RATE: u64 = 200;
const CONNECTIONS: u64 = 8;
/// The queue of the tasks that the actions are about. Nobody serves it.
const QUEUE: &str = "bulk";
/// Measured: what a task takes of the disk with the outcomes of its actions, with room for the log beside it.
const BYTES_PER_TASK: u64 = 2_500;
const BYTES_PER_RUN: u64 = 6_000;
/// Beside an action, a create is to take at most so much longer than alone: the larger of the two.
const FACTOR: f64 = 1.5;
const ADDED_MS: f64 = 5.0;

/// What is done, in this order, to whom.
struct Action {
    name: &'static str,
    path: &'static str,
    body: Value,
    of: u64,
}

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let tasks = options.size(1_000_000, 10_000);
    // A tenth of them, as the sizes of the requirement are to each other.
    let runs = options.size(1_000_000, 10_000).div_ceil(10).next_multiple_of(2 * waiting::EACH);
    let server = Server::start(options)?;
    if options.url.is_none() {
        probe::room_for(server.data(), tasks * BYTES_PER_TASK + runs * BYTES_PER_RUN)?;
    }
    server.http()?.call("PUT", &format!("/api/v1/queues/{QUEUE}"), "", "{}")?;
    waiting::deploy(&server)?;
    waiting::start(&server, runs)?;
    let mut submit = told(&[("total", tasks), ("bulk", 1_000), ("progress", 1)]);
    submit.push(format!("queue={QUEUE}"));
    server.role("submitter", &submit)?.answer()?;
    // What a first caller pays for is not what a steady rate costs.
    Callers::start(&server)?.end_after(seconds(options, 3))?;
    let of_tasks = |priority: Value| json!({"filter": format!("queue:{QUEUE} state:queued"), "priority": priority});
    let of_runs = json!({"filter": "workflow:bench/sleeper,bench/hearer phase:waiting"});
    let actions = [
        Action { name: "cancel_runs", path: "/api/v1/runs:cancel", body: of_runs, of: runs },
        Action { name: "reprioritise_tasks", path: "/api/v1/tasks:reprioritise", body: of_tasks(json!(7)), of: tasks },
        Action { name: "cancel_tasks", path: "/api/v1/tasks:cancel", body: of_tasks(Value::Null), of: tasks },
    ];
    let mut alone = Callers::start(&server)?.end_after(seconds(options, 10))?;
    for action in actions {
        let callers = Callers::start(&server)?;
        let took = act(&server, &action)?;
        let beside = callers.end_after(Duration::ZERO)?;
        // In turns, so that what else the machine does hits both.
        let after = Callers::start(&server)?.end_after(seconds(options, 10))?;
        compare(&action, took, (&[alone, after.clone()].concat(), beside), report);
        alone = after;
    }
    Ok(())
}

fn seconds(options: &Options, full: u64) -> Duration {
    Duration::from_secs(if options.quick { 1 } else { full })
}

/// Does it and waits for its end; the seconds that took.
fn act(server: &Server, action: &Action) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut http = server.http()?;
    let mut operation = http.call("POST", action.path, "", &action.body.to_string())?;
    let id = operation["id"].as_str().context("no id of the operation")?.to_owned();
    let mut said = Instant::now();
    while operation["state"] == "running" {
        std::thread::sleep(Duration::from_millis(100));
        operation = http.call("GET", &format!("/api/v1/operations/{id}"), "", "")?;
        if said.elapsed() > Duration::from_secs(10) {
            let took = begun.elapsed().as_secs_f64();
            crate::client::say(&format!("{}: {} of {} after {took:.0} s", action.name, operation["done"], action.of));
            said = Instant::now();
        }
    }
    if operation["done"] != action.of || operation["failed"] != 0 {
        bail!("{} was to change {}: {operation}", action.name, action.of);
    }
    Ok(begun.elapsed().as_secs_f64())
}

fn compare(action: &Action, took: f64, (alone, beside): (&[f64], Vec<f64>), report: &mut dyn FnMut(Figure)) {
    let (alone, beside) = (sorted(alone.to_vec()), sorted(beside));
    let p95 = percentile(&alone, 0.95);
    let target = (FACTOR * p95).max(p95 + ADDED_MS);
    let config = json!({
        "creates_per_s": RATE, "connections": CONNECTIONS, "arrivals": "by a clock that waits for no answer",
        "of": action.of, "alone": {"creates": alone.len(), "when": "before and after the action"},
        "beside": {"creates": beside.len()}, "target": "1.5 times the 95th percentile alone, or 5 ms more",
    });
    let mut low = |figure: String, value, unit, target: Option<f64>| {
        report(Figure::low("bulk", figure, value, unit, target).with(config.clone()));
    };
    let name = action.name;
    low(format!("create_p50_alone_{name}_ms"), percentile(&alone, 0.5), "ms", None);
    low(format!("create_p95_alone_{name}_ms"), p95, "ms", None);
    low(format!("create_p50_beside_{name}_ms"), percentile(&beside, 0.5), "ms", None);
    low(format!("create_p95_beside_{name}_ms"), percentile(&beside, 0.95), "ms", Some(target));
    low(format!("create_p99_beside_{name}_ms"), percentile(&beside, 0.99), "ms", None);
    report(Figure::high("bulk", format!("{name}_per_s"), action.of as f64 / took, "1/s", None).with(config.clone()));
}

fn sorted(mut times: Vec<f64>) -> Vec<f64> {
    times.sort_by(f64::total_cmp);
    times
}

/// Callers at a steady rate until they are told to end.
struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<Vec<f64>>>>,
}

impl Callers {
    fn start(server: &Server) -> anyhow::Result<Callers> {
        let stop = Arc::new(AtomicBool::new(false));
        let every = Duration::from_micros(1_000_000 * CONNECTIONS / RATE);
        let begun = Instant::now();
        let mut threads = Vec::new();
        for place in 0..CONNECTIONS {
            let (http, stop) = (server.http()?, stop.clone());
            // One after another: what arrives together would wait for itself.
            let first = begun + every * place as u32 / CONNECTIONS as u32;
            threads.push(std::thread::spawn(move || call(http, first, every, &stop)));
        }
        Ok(Callers { stop, threads })
    }

    /// What each call took, in milliseconds.
    fn end_after(self, time: Duration) -> anyhow::Result<Vec<f64>> {
        std::thread::sleep(time);
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            let times = thread.join().map_err(|_| anyhow::anyhow!("a caller ended early"))??;
            all.extend(times);
        }
        Ok(all)
    }
}

/// Calls at fixed times; a call that is late because the one before it was slow counts from when it was due.
fn call(mut http: Http, first: Instant, every: Duration, stop: &AtomicBool) -> anyhow::Result<Vec<f64>> {
    let (mut times, mut due) = (Vec::new(), first);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        http.call("POST", "/api/tasks", "", r#"{"type":"bench.noop"}"#)?;
        times.push(due.elapsed().as_secs_f64() * 1000.0);
        due += every;
    }
    Ok(times)
}
