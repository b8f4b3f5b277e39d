//! Latency at a steady 50 tasks/s: submit to assignment, which in a warm worker of its own is the start of the handler;
//! to the result in the caller's hands; and on an agent from the assignment to the handler.

use serde_json::json;

use crate::server::{Server, number};
use crate::{Figure, Options, python};

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let (total, rate) = (options.size(1_500, 100), 50);
    let config = json!({"tasks": total, "rate_per_s": rate, "processes": 3});
    let server = Server::start(options)?;
    let worker = server.role("worker", &[format!("total={total}"), "permits=16".to_owned()])?;
    let paced = server.role("pacer", &[format!("total={total}"), format!("rate={rate}")])?.answer()?;
    let worked = worker.answer()?;
    server.has_succeeded(total)?;
    let mut low = |name: &'static str, value, target| {
        report(Figure::low("latency", name, value, "ms", target).with(config.clone()))
    };
    low("start_p50_ms", number(&worked, "p50_ms")?, Some(1.5));
    low("start_p99_ms", number(&worked, "p99_ms")?, Some(5.0));
    low("accept_p50_ms", number(&paced, "accept_p50_ms")?, None);
    low("accept_p99_ms", number(&paced, "accept_p99_ms")?, None);
    low("result_p50_ms", number(&paced, "result_p50_ms")?, None);
    low("result_p99_ms", number(&paced, "result_p99_ms")?, None);
    // The grant has come to the worker when it is durable on the server: this is the assignment as its user sees it.
    low("submit_to_assigned_p99_ms", number(&worked, "p99_ms")?, Some(10.0));
    python::assignment(options, report)
}
