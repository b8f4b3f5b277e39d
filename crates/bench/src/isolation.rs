//! One tenant's worker has stopped and its tasks pile up: what the others notice of it.

use anyhow::{Context, bail};
use serde_json::json;

use crate::figure::median;
use crate::server::{Server, number, told};
use crate::steady::{LOOP, pace};
use crate::{Figure, Options};

/// Tasks per second of the tenant that is looked at.
const RATE: u64 = 2_000;
/// Rounds with and without the stalled neighbour, in turns: the machine's own noise then hits both.
const ROUNDS: u64 = 3;
const STALLED: &str = "stalled";

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let total = options.size(5 * RATE, RATE);
    let backlog = if options.quick { 10_000 } else { 100_000 };
    let mut server = Server::start(options)?;
    server.http()?.call("PUT", &format!("/api/v1/tenants/{STALLED}"), "", "{}")?;
    server.http()?.call("PUT", "/api/v1/queues/default", STALLED, "{}")?;
    let other = token(&server, STALLED)?;
    // The first token of a server is one for every tenant: its workers would help the stalled one out.
    server.token = token(&server, "default")?;
    pace(&server, RATE, RATE, "")?;
    let (mut alone, mut beside, mut loops) = (Vec::new(), Vec::new(), None);
    for _ in 0..ROUNDS {
        alone.push(number(&pace(&server, RATE, total, "")?.worked, "p99_ms")?);
        // A worker that takes grants and is then stopped: its connection stays open and nobody reads from it.
        let arguments =
            [told(&[("total", u64::MAX), ("permits", 50_000), ("hold", 1)]), vec!["name=gone".to_owned()]].concat();
        let gone = server.role_as("worker", &other, &arguments)?;
        server.has_workers(1)?;
        stop(gone.pid())?;
        let tasks = told(&[("total", backlog), ("bulk", 1_000), ("input", 1_000)]);
        server.role_as("submitter", &other, &tasks)?.answer()?;
        let before = server.histogram(LOOP)?;
        beside.push(number(&pace(&server, RATE, total, "")?.worked, "p99_ms")?);
        let rounds = server.histogram(LOOP)?.since(&before);
        loops = Some((rounds.edge(0.99), rounds.edge(1.0), rounds.above(0.01), rounds.count()));
        drop(gone);
        server.has_workers(0)?;
    }
    server.has_succeeded(RATE + 2 * ROUNDS * total)?;
    let (p99, longest, above, count) = loops.context("at least one round")?;
    let config = json!({
        "rate_per_s": RATE, "tasks": total, "rounds": ROUNDS, "waiting_of_the_stalled_tenant": backlog,
        "stalled": "the worker of another tenant is stopped (SIGSTOP) while it is granted tasks",
    });
    let (alone, beside) = (median(alone), median(beside));
    report(Figure::low("isolation", "start_p99_alone_ms", alone, "ms", None).with(config.clone()));
    report(Figure::low("isolation", "start_p99_ms", beside, "ms", 10.0).with(config.clone()));
    let engine = json!({"rounds_of_the_loop": count, "rounds_above_10_ms": above, "edges": "of the histogram"});
    report(Figure::low("isolation", "loop_p99_ms", p99 * 1000.0, "ms", None).with(engine.clone()));
    report(Figure::low("isolation", "loop_longest_ms", longest * 1000.0, "ms", 10.0).with(engine));
    Ok(())
}

/// A token for one tenant alone.
fn token(server: &Server, tenant: &str) -> anyhow::Result<String> {
    let body = json!({"name": "bench", "role": "admin"}).to_string();
    let token = server.http()?.call("POST", "/api/v1/tokens", tenant, &body)?;
    token["secret"].as_str().map(str::to_owned).with_context(|| format!("no secret: {token}"))
}

fn stop(pid: u32) -> anyhow::Result<()> {
    // SAFETY: a signal to a child that is ours.
    if unsafe { libc::kill(pid as libc::pid_t, libc::SIGSTOP) } != 0 {
        bail!("cannot stop the worker: {}", std::io::Error::last_os_error());
    }
    Ok(())
}
