//! Timers: tasks that are all due within one second; how late each reaches a worker, by a durable grant.

use anyhow::Context;
use serde_json::json;

use crate::server::Server;
use crate::{Figure, Options};

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    for (total, names) in [(10_000u64, None), (100_000, Some(()))] {
        if options.quick && names.is_some() {
            continue;
        }
        let server = Server::start(options)?;
        let due_in = if total > 50_000 { 6_000 } else { 3_000 };
        let arguments = [format!("total={total}"), "bulk=1000".to_owned(), format!("due_in_ms={due_in}")];
        let worker = server.role("worker", &[format!("total={total}"), "permits=20000".to_owned()])?;
        server.role("submitter", &arguments)?.answer()?;
        let worked = worker.answer()?;
        let number = |name: &str| worked[name].as_f64().with_context(|| format!("`{name}`"));
        let config = json!({"tasks": total, "due_within_ms": 1000, "lateness": "due time to arrival of the durable grant at the worker"});
        let (fired_p99, fired) = server.quantile_edge("tidewheel_timer_late_seconds", 0.99)?;
        if fired != total as f64 {
            anyhow::bail!("{total} timers were set, but {fired} fired");
        }
        let mut put = |figure: Figure| report(figure.with(config.clone()));
        if names.is_some() {
            put(Figure::low("timers", "fired_p99_ms", fired_p99 * 1000.0, "ms", 10.0));
            put(Figure::low("timers", "late_p50_ms", number("p50_ms")?, "ms", None));
            put(Figure::low("timers", "late_p99_ms", number("p99_ms")?, "ms", None));
            put(Figure::low("timers", "early", number("early")?, "tasks", 0.0));
            put(Figure::high("timers", "grants_per_s", total as f64 / number("seconds")?, "tasks/s", 50_000.0));
        } else {
            put(Figure::low("timers", "fired_p99_ms_10k", fired_p99 * 1000.0, "ms", 10.0));
            put(Figure::low("timers", "late_p50_ms_10k", number("p50_ms")?, "ms", 1.0));
            put(Figure::low("timers", "late_p99_ms_10k", number("p99_ms")?, "ms", 10.0));
            put(Figure::low("timers", "early_10k", number("early")?, "tasks", 0.0));
        }
    }
    Ok(())
}
