//! Python through agent and shim: no-op tasks per second, the three kinds of start, and what a steady rate needs of the
//! machine.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;

use crate::agent::{Agent, cli, deploy, stamps, wheel};
use crate::figure::{median, percentile};
use crate::server::{Server, told};
use crate::{Figure, Options, probe};

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let server = Server::start(options)?;
    let folder = tempfile::tempdir()?;
    deploy(&server, options, folder.path(), "0.1.0", &[])?;
    let agent = Agent::start(&server, options, "bench", folder.path())?;
    // The first task pays for environment and process, the next ones find them warm.
    let first = stamps(&server, 1, 0)?.starts[0];
    report(
        Figure::low("python", "first_task_ms", first, "ms", None)
            .with(json!({"from": "submit", "until": "the handler is called", "on": "a new agent, no dependencies"})),
    );
    let warm = stamps(&server, if options.quick { 20 } else { 300 }, 10)?.starts;
    let config = json!({"from": "submit", "until": "the handler is called", "runs": warm.len(), "agents": 1});
    report(Figure::low("python", "warm_start_ms", percentile(&warm, 0.5), "ms", None).with(config.clone()));
    report(Figure::low("python", "warm_start_p99_ms", percentile(&warm, 0.99), "ms", 50.0).with(config));
    let mut starts = Vec::new();
    for _ in 0..if options.quick { 3 } else { 15 } {
        end_processes(agent.pid());
        starts.push(stamps(&server, 1, 0)?.starts[0]);
    }
    let config =
        json!({"from": "submit", "until": "the handler is called", "runs": starts.len(), "environment": "cached"});
    report(Figure::low("python", "process_start_ms", median(starts), "ms", 50.0).with(config));
    let total: u64 = options.size(50_000, 2_000);
    let before = server.count("succeeded")?;
    let begun = Instant::now();
    bulk(&server, options, folder.path(), before, total)?;
    let seconds = begun.elapsed().as_secs_f64();
    server.has_succeeded(before + total)?;
    report(
        Figure::high("python", "noop_per_s", total as f64 / seconds, "tasks/s", 10_000.0)
            .with(json!({"agents": 1, "tasks": total, "from": "first submit", "until": "last result stored"})),
    );
    drop(agent);
    environments(options, report)
}

/// From the submit to the handler where package and environment are new to the agent: fetched, built with one small
/// dependency that needs no network, and started.
fn environments(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let server = Server::start(options)?;
    let folder = tempfile::tempdir()?;
    let _agent = Agent::start(&server, options, "bench", folder.path())?;
    let mut starts = Vec::new();
    for version in 1..=if options.quick { 2 } else { 5 } {
        let version = format!("0.{version}.0");
        let dependency = wheel(folder.path(), &version)?;
        deploy(&server, options, folder.path(), &version, &[dependency])?;
        starts.push(stamps(&server, 1, 0)?.starts[0]);
    }
    let log = std::fs::read_to_string(folder.path().join("bench.log"))?;
    let builder = if log.contains("uv was not found") { "venv and pip" } else { "uv" };
    let config = json!({
        "from": "submit", "until": "the handler is called", "runs": starts.len(), "environment": "new, one local wheel",
        "builder": builder,
    });
    report(Figure::low("python", "environment_start_ms", median(starts), "ms", 2_000.0).with(config));
    Ok(())
}

/// What 1,000 executions a second need: memory and processor time of server, agent and Python together.
pub(crate) fn resources(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let (rate, seconds) = (1_000, if options.quick { 3 } else { 20 });
    let total = rate * seconds;
    let server = Server::start(options)?;
    let folder = tempfile::tempdir()?;
    deploy(&server, options, folder.path(), "0.1.0", &[])?;
    let agent = Agent::start(&server, options, "bench", folder.path())?;
    stamps(&server, 20, 0)?;
    let (mut most_server, mut most_all) = (0f64, 0f64);
    let before = (probe::cpu_seconds(server.pid()?)?, probe::cpu_of_tree(agent.pid()));
    let begun = Instant::now();
    let submitter =
        server.role("steady", &[told(&[("total", total), ("rate", rate)]), vec!["type=noop".to_owned()]].concat())?;
    while begun.elapsed() < Duration::from_secs(seconds) {
        let of_server = probe::resident_bytes(server.pid()?)?;
        most_server = most_server.max(of_server);
        most_all = most_all.max(of_server + probe::resident_of_tree(agent.pid()));
        std::thread::sleep(Duration::from_millis(200));
    }
    let wall = begun.elapsed().as_secs_f64();
    let of_server = (probe::cpu_seconds(server.pid()?)? - before.0) / wall;
    let of_agent = (probe::cpu_of_tree(agent.pid()) - before.1) / wall;
    let accepted = submitter.answer()?["accepted"].as_u64();
    if accepted != Some(total) {
        bail!("{accepted:?} of {total} were acknowledged");
    }
    server.wait_for("every execution to end", || Ok(server.count("succeeded")? == total + 20))?;
    let config = json!({"rate_per_s": rate, "tasks": total, "executions": "Python no-ops through one agent"});
    let waits = server.histogram("tidewheel_task_wait_seconds")?;
    report(Figure::low("resources", "server_rss_bytes", most_server, "bytes", 1e9).with(config.clone()));
    report(
        Figure::low("resources", "rss_bytes", most_all, "bytes", 1e9)
            .with(json!({"rate_per_s": rate, "counted": "server, agent and Python; pages they share more than once"})),
    );
    report(Figure::low("resources", "server_cores", of_server, "cores", None).with(config.clone()));
    report(Figure::low("resources", "agent_cores", of_agent, "cores", None).with(config.clone()));
    report(Figure::low("resources", "wait_p99_ms", waits.edge(0.99) * 1000.0, "ms", None).with(config));
    Ok(())
}

/// Ends the processes of user code, so that the next task needs a new one.
fn end_processes(agent: u32) {
    let tree = probe::tree(agent);
    for pid in tree.iter().copied().filter(|pid| *pid != agent) {
        // SAFETY: a signal to a descendant of our agent; it may be gone already.
        unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
    }
    let begun = Instant::now();
    while probe::tree(agent).len() > 1 && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(5));
    }
    // The agent has to have seen it, too.
    std::thread::sleep(Duration::from_millis(100));
}

fn bulk(server: &Server, options: &Options, folder: &std::path::Path, before: u64, total: u64) -> anyhow::Result<()> {
    let file = folder.join("many.jsonl");
    std::fs::write(&file, "{\"type\":\"noop\"}\n".repeat(total as usize))?;
    cli(server, options, &["task", "submit", "--many", &file.to_string_lossy(), "-o", "none"])?;
    server.wait_for("every task to end", || {
        std::thread::sleep(Duration::from_millis(15));
        Ok(server.count("succeeded")? >= before + total)
    })
}

/// Latency of a task from submit to its assignment, and from there to the handler, on a warm agent.
pub(crate) fn assignment(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let server = Server::start(options)?;
    let folder = tempfile::tempdir()?;
    deploy(&server, options, folder.path(), "0.1.0", &[])?;
    let _agent = Agent::start(&server, options, "bench", folder.path())?;
    stamps(&server, 20, 10)?;
    let begins = stamps(&server, if options.quick { 50 } else { 500 }, 20)?.begins;
    let config = json!({"runs": begins.len(), "from": "time of the grant", "until": "the handler is called", "agents": 1, "warm": true});
    let mut low = |name: &'static str, share, target: Option<f64>| {
        report(Figure::low("latency", name, percentile(&begins, share), "ms", target).with(config.clone()));
    };
    low("assigned_to_handler_p50_ms", 0.5, None);
    low("assigned_to_handler_p99_ms", 0.99, Some(50.0));
    Ok(())
}
