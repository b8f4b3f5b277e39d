//! Many runs that wait: what they take of the memory, and how long a server that was killed takes to go on with them.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::server::Server;
use crate::workflow::{completed, document};
use crate::{Figure, Options, probe};

/// Runs that one other run starts.
pub(crate) const EACH: u64 = 1_000;
/// Measured: what a waiting run takes of the disk, with room for the log beside it.
const BYTES_PER_RUN: u64 = 3_000;
/// Runs that get their signal after the restart.
const SIGNALLED: usize = 100;

/// Half of them sleep for a day, half of them wait for a signal. Then the server is killed and comes back.
pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let runs = options.size(1_000_000, 4_000).next_multiple_of(2 * EACH);
    let mut server = Server::start(options)?;
    probe::room_for(server.data(), runs * BYTES_PER_RUN)?;
    deploy(&server)?;
    let begun = Instant::now();
    start(&server, runs)?;
    let started = begun.elapsed().as_secs_f64();
    let before = probe::resident_bytes(server.pid()?)?;
    server.kill()?;
    server.launch()?;
    let ready = server.ready_in.as_secs_f64();
    let answered = signal_some(&server)?;
    let rss = probe::resident_bytes(server.pid()?)?;
    let config = json!({
        "runs": runs, "of_which": "half sleep for a day, half wait for a signal", "cache_bytes": 64 << 20,
        "after": "kill -9 and restart", "disk_bytes": probe::folder_bytes(server.data())?,
        "start_s": started, "rss_before_kill_bytes": before, "signalled": SIGNALLED,
    });
    let full = |target: f64| options.target(target);
    report(Figure::low("waiting", "restart_s", ready, "s", full(10.0)).with(config.clone()));
    report(Figure::low("waiting", "first_signals_done_s", ready + answered, "s", None).with(config.clone()));
    report(Figure::low("waiting", "rss_bytes", rss, "bytes", full(1e9)).with(config));
    Ok(())
}

/// Starts so many runs that wait, half of them for a day and half for a signal.
pub(crate) fn start(server: &Server, runs: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut left = runs;
    while left > 0 {
        // A run of the map is done when those that it starts have begun.
        let now = left.min(200 * EACH);
        completed(server, "spawn", json!({"n": now / EACH}))?;
        left -= now;
        crate::client::say(&format!(
            "{} of {runs} runs started after {:.0} s",
            runs - left,
            begun.elapsed().as_secs_f64()
        ));
    }
    server.wait_for("all runs to wait", || {
        let page = server.http()?.call("GET", "/api/v1/runs?phase=pending,running&limit=1", "", "")?;
        Ok(page["items"].as_array().is_some_and(Vec::is_empty))
    })?;
    Ok(())
}

/// The workflows of [`start`].
pub(crate) fn deploy(server: &Server) -> anyhow::Result<()> {
    let start = |name: &str| {
        json!({
            "run": {"workflow": {"namespace": "bench", "name": name, "version": "1.0.0"}, "await": false},
            "metadata": {"tidewheel": {"parentClose": "abandon"}},
        })
    };
    let each = json!({"for": {"each": "i", "in": "${ [range(500)] }"},
        "do": [{"sleeper": start("sleeper")}, {"hearer": start("hearer")}]});
    let with = json!({
        "items": "${ [range(.n)] }", "workflow": {"namespace": "bench", "name": "thousand", "version": "1.0.0"},
        "concurrency": 4,
    });
    let documents = [
        ("sleeper", json!([{"rest": {"wait": {"hours": 24}}}])),
        ("hearer", json!([{"hear": {"listen": {"to": {"one": {"with": {"type": "go"}}}}}}])),
        ("thousand", json!([{"each": each}, {"end": {"set": {"done": true}}}])),
        ("spawn", json!([{"all": {"call": "map:1.0.0@default", "with": with}}, {"end": {"set": {"done": true}}}])),
    ];
    for (name, statements) in documents {
        let path = format!("/api/v1/workflows/bench/{name}/1.0.0");
        server.http()?.call("PUT", &path, "", &document(name, statements).to_string())?;
    }
    Ok(())
}

/// Gives some runs their signal and waits until each is completed; the seconds that took.
fn signal_some(server: &Server) -> anyhow::Result<f64> {
    let mut http = server.http()?;
    let begun = Instant::now();
    let page = http.call("GET", &format!("/api/v1/runs?workflow=bench/hearer&limit={SIGNALLED}"), "", "")?;
    let ids: Vec<String> = page["items"].as_array().into_iter().flatten().filter_map(id).collect();
    if ids.len() < SIGNALLED {
        bail!("only {} runs are listed: {page}", ids.len());
    }
    for run in &ids {
        http.call("POST", &format!("/api/v1/runs/{run}/signals/go"), "", "{}")?;
    }
    for run in &ids {
        let now = http.call("GET", &format!("/api/v1/runs/{run}?wait=30"), "", "")?;
        if now["phase"] != "completed" {
            bail!("a run that got its signal does not complete: {now}");
        }
    }
    Ok(begun.elapsed().max(Duration::from_micros(1)).as_secs_f64())
}

fn id(run: &Value) -> Option<String> {
    run["id"].as_str().map(str::to_owned)
}

/// Whether the ten-thousandth step of a run takes longer than the tenth.
pub(crate) fn growth(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let steps = options.size(10_000, 1_000);
    let server = Server::start(options)?;
    let step = json!({"call": "task:1.0.0@default", "with": {"type": "noop", "input": {}}});
    let each = json!({"for": {"each": "i", "in": "${ [range(.n)] }"}, "do": [{"step": step}]});
    let long = document("long", json!([{"each": each}, {"end": {"set": {"done": true}}}]));
    server.http()?.call("PUT", "/api/v1/workflows/bench/long/1.0.0", "", &long.to_string())?;
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let worker = server.role("worker", &[format!("total={steps}"), "permits=1".to_owned(), "laps=1".to_owned()])?;
        server.has_workers(1)?;
        completed(&server, "long", json!({"n": steps}))?;
        let answer = worker.answer()?;
        let laps: Vec<f64> = answer["laps_ms"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let (from, window) = (10, WINDOW.min(laps.len().saturating_sub(10)));
        first.extend_from_slice(laps.get(from..from + window).context("no times of steps")?);
        last.extend_from_slice(&laps[laps.len() - window..]);
    }
    let (first, last) = (crate::figure::median(first), crate::figure::median(last));
    let config = json!({
        "steps": steps, "runs": TURNS, "first_ms": first, "last_ms": last,
        "compared": "medians of the 200 steps from the tenth on and of the last 200",
    });
    report(Figure::low("workflow", "last_step_of_tenth", last / first, "ratio", options.target(1.2)).with(config));
    Ok(())
}

/// Runs of which the steps are compared.
const TURNS: usize = 3;
/// Steps at the beginning and at the end.
const WINDOW: usize = 200;
