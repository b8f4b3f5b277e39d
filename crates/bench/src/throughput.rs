//! Throughput over the worker protocol: submitter, server and worker are three processes.

use anyhow::bail;
use serde_json::{Value, json};

use crate::server::{Server, number, told};
use crate::{Figure, Options};

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let total = options.size(1_000_000, 50_000);
    let (bulk, permits) = (1_000, 16_000);
    let config = json!({"tasks": total, "bulk": bulk, "permits": permits, "idempotency_keys": true, "processes": 3});
    let server = Server::start(options)?;
    // Submit alone, then drain alone: nothing overlaps.
    let submitted = server.role("submitter", &told(&[("total", total), ("bulk", bulk), ("keys", 1)]))?.answer()?;
    report(
        Figure::high("throughput", "submit_per_s", total as f64 / number(&submitted, "seconds")?, "tasks/s", None)
            .with(config.clone()),
    );
    let drained = server.role("worker", &told(&[("total", total), ("permits", permits)]))?.answer()?;
    check(&drained, total)?;
    report(
        Figure::high("throughput", "drain_per_s", total as f64 / number(&drained, "seconds")?, "tasks/s", None)
            .with(config.clone()),
    );
    // End to end: from the first submit to the last durable result, both sides at once.
    let worker = server.role("worker", &told(&[("total", total), ("permits", permits)]))?;
    let submitted = server.role("submitter", &told(&[("total", total), ("bulk", bulk), ("keys", 1)]))?.answer()?;
    let worked = worker.answer()?;
    check(&worked, total)?;
    let seconds = (number(&worked, "end_us")? - number(&submitted, "start_us")?) / 1e6;
    report(Figure::high("throughput", "end_to_end_per_s", total as f64 / seconds, "tasks/s", 100_000.0).with(config));
    server.has_succeeded(2 * total)
}

fn check(worked: &Value, total: u64) -> anyhow::Result<()> {
    let accepted = worked["accepted"].as_u64().unwrap_or(0);
    if accepted != total {
        bail!("{total} tasks were acknowledged, but {accepted} results");
    }
    Ok(())
}
