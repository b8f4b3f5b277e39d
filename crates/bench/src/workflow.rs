//! Durable runs: three steps done by a worker, three steps that need none, a large fan-out, and one run at a time.

use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::figure::percentile;
use crate::server::{Server, told};
use crate::{Figure, Options};

/// Attempts that the worker takes at once.
const PERMITS: u64 = 4_000;

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let server = Server::start(options)?;
    for (name, document) in
        [("three", three()), ("plain", plain()), ("runs", runs()), ("plains", plains()), ("fan", fan())]
    {
        let path = format!("/api/v1/workflows/bench/{name}/1.0.0");
        server.http()?.call("PUT", &path, "", &document.to_string())?;
    }
    steps(&server, options, report)?;
    plain_runs(&server, options, report)?;
    fan_out(&server, options, report)?;
    one_at_a_time(&server, options, report)?;
    crate::waiting::growth(options, report)
}

pub(crate) fn document(name: &str, statements: Value) -> Value {
    let document = json!({"dsl": "1.0.3", "namespace": "bench", "name": name, "version": "1.0.0"});
    json!({"document": document, "do": statements})
}

/// Three tasks, one after another.
fn three() -> Value {
    let step = json!({"call": "task:1.0.0@default", "with": {"type": "noop", "input": {}}});
    document("three", json!([{"first": step.clone()}, {"second": step.clone()}, {"third": step}]))
}

/// Three statements that need nobody: set, switch, an expression.
fn plain() -> Value {
    document(
        "plain",
        json!([
            {"order": {"set": {"amount": "${ .amount }", "lines": [1, 2, 3]}}},
            {"choose": {"switch": [{"large": {"when": ".amount > 100", "then": "total"}}, {"other": {"then": "total"}}]}},
            {"total": {"set": {"total": "${ .amount * (.lines | add) }"}}},
        ]),
    )
}

/// So many runs of another workflow, 2,000 at a time.
fn many(name: &str, of: &str) -> Value {
    let with = json!({
        "items": "${ [range(.n)] }", "workflow": {"namespace": "bench", "name": of, "version": "1.0.0"},
        "with": {"amount": "${ $item }"}, "concurrency": 2_000,
    });
    document(name, json!([{"all": {"call": "map:1.0.0@default", "with": with}}, {"end": {"set": {"done": true}}}]))
}

fn runs() -> Value {
    many("runs", "three")
}

fn plains() -> Value {
    many("plains", "plain")
}

/// So many items in one map, 1,000 at a time.
fn fan() -> Value {
    let with = json!({"items": "${ [range(.n)] }", "task": "noop", "concurrency": 1_000});
    document("fan", json!([{"all": {"call": "map:1.0.0@default", "with": with}}, {"end": {"set": {"done": true}}}]))
}

/// Starts a run and waits for its end; the seconds between.
pub(crate) fn completed(server: &Server, workflow: &str, input: Value) -> anyhow::Result<f64> {
    Ok(output(server, workflow, input)?.0)
}

/// Runs a workflow to its end: seconds, and what it gave.
pub(crate) fn output(server: &Server, workflow: &str, input: Value) -> anyhow::Result<(f64, Value)> {
    let begun = Instant::now();
    let workflow = if workflow.contains('/') { workflow.to_owned() } else { format!("bench/{workflow}") };
    let body = json!({"workflow": workflow, "input": input}).to_string();
    let mut run = server.http()?.call("POST", "/api/v1/runs?wait=60", "", &body)?;
    let id = run["id"].as_str().context("no id of the run")?.to_owned();
    while !matches!(run["phase"].as_str(), Some("completed" | "faulted" | "cancelled")) {
        if begun.elapsed().as_secs() > 600 {
            bail!("the run does not end: {run}");
        }
        run = server.http()?.call("GET", &format!("/api/v1/runs/{id}?wait=60"), "", "")?;
    }
    if run["phase"] != "completed" {
        bail!("the run did not complete: {run}");
    }
    Ok((begun.elapsed().as_secs_f64(), run["output"].take()))
}

fn steps(server: &Server, options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let runs = options.size(50_000, 1_000);
    let worker = server.role("worker", &told(&[("total", 3 * runs), ("permits", PERMITS)]))?;
    server.has_workers(1)?;
    let seconds = completed(server, "runs", json!({"n": runs}))?;
    worker.answer()?;
    let config = json!({"runs": runs, "steps_each": 3, "at_a_time": 2_000, "permits": PERMITS, "processes": 3});
    let per_s = (3 * runs) as f64 / seconds;
    report(Figure::high("workflow", "steps_per_s", per_s, "steps/s", options.target(40_000.0)).with(config));
    Ok(())
}

fn plain_runs(server: &Server, options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let runs = options.size(100_000, 2_000);
    let seconds = completed(server, "plains", json!({"n": runs}))?;
    let config = json!({"runs": runs, "statements": "set, switch, an expression", "at_a_time": 2_000});
    let per_s = runs as f64 / seconds;
    report(Figure::high("workflow", "plain_runs_per_s", per_s, "runs/s", options.target(10_000.0)).with(config));
    Ok(())
}

fn fan_out(server: &Server, options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let items = options.size(100_000, 5_000);
    let worker = server.role("worker", &told(&[("total", items), ("permits", PERMITS)]))?;
    server.has_workers(1)?;
    let before = server.histogram(crate::steady::LOOP)?;
    let seconds = completed(server, "fan", json!({"n": items}))?;
    worker.answer()?;
    let rounds = server.histogram(crate::steady::LOOP)?.since(&before);
    let config = json!({"items": items, "concurrency": 1_000});
    report(Figure::low("workflow", "fan_out_s", seconds, "s", options.target(10.0)).with(config.clone()));
    let longest = rounds.edge(1.0) * 1000.0;
    report(Figure::low("workflow", "fan_out_loop_longest_ms", longest, "ms", options.target(10.0)).with(config));
    Ok(())
}

fn one_at_a_time(server: &Server, options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let runs = options.size(500, 50);
    let worker = server.role("worker", &told(&[("total", 3 * runs), ("permits", 16)]))?;
    server.has_workers(1)?;
    let times: Result<Vec<f64>, _> = (0..runs).map(|_| completed(server, "three", json!({}))).collect();
    let mut times = times?;
    worker.answer()?;
    times.sort_by(f64::total_cmp);
    let config = json!({"runs": runs, "steps_each": 3, "from": "request", "until": "answer with the result"});
    for (name, part, target) in [("run_p50_ms", 0.5, 5.0), ("run_p99_ms", 0.99, 15.0)] {
        let ms = percentile(&times, part) * 1000.0;
        report(Figure::low("workflow", name, ms, "ms", target).with(config.clone()));
    }
    Ok(())
}
