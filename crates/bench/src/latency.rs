//! Latency at a steady 50 tasks/s: submit to handler start in a warm worker, and to the result in the caller's hands.

use anyhow::Context;
use serde_json::json;

use crate::server::Server;
use crate::{Figure, Options};

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let (total, rate) = (if options.quick { 100 } else { 1_500 }, 50);
    let config = json!({"tasks": total, "rate_per_s": rate, "processes": 3});
    let server = Server::start(options)?;
    let worker = server.role("worker", &[format!("total={total}"), "permits=16".to_owned()])?;
    let paced = server.role("pacer", &[format!("total={total}"), format!("rate={rate}")])?.answer()?;
    let worked = worker.answer()?;
    let number = |value: &serde_json::Value, name: &str| value[name].as_f64().with_context(|| format!("`{name}`"));
    let mut low = |name, value, target| report(Figure::low("latency", name, value, "ms", target).with(config.clone()));
    low("start_p50_ms", number(&worked, "p50_ms")?, Some(1.5));
    low("start_p99_ms", number(&worked, "p99_ms")?, Some(5.0));
    low("accept_p50_ms", number(&paced, "accept_p50_ms")?, None);
    low("accept_p99_ms", number(&paced, "accept_p99_ms")?, None);
    low("result_p50_ms", number(&paced, "result_p50_ms")?, None);
    low("result_p99_ms", number(&paced, "result_p99_ms")?, None);
    Ok(())
}
