//! Memory and starts: an idle server, a cold start to the first task done, many queued tasks, a restart with many granted.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use crate::figure::median;
use crate::server::{Server, told};
use crate::{Figure, Options, probe};

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    cold_start(options, report)?;
    idle(options, report)?;
    let sizes = match options.tasks {
        Some(tasks) => vec![tasks],
        None if options.quick => vec![100_000],
        None => vec![1_000_000, 10_000_000],
    };
    for tasks in sizes {
        queued(options, tasks, report)?;
    }
    Ok(())
}

/// Measured: 106 bytes in the database for a waiting task without an input, and what the log takes beside it.
const BYTES_PER_TASK: u64 = 250;

/// `1m` of 1,000,000: as in the names of figures.
fn short(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{}k", count / 1_000),
        _ => format!("{}m", count / 1_000_000),
    }
}

/// From the start of the server process on an empty folder until a task was done.
fn cold_start(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let server = Server::start(options)?;
        let worker = server.role("worker", &["total=1".to_owned(), "permits=1".to_owned()])?;
        server.role("submitter", &["total=1".to_owned(), "bulk=1".to_owned()])?.answer()?;
        worker.answer()?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let config =
        json!({"runs": 5, "from": "start of the server process on an empty folder", "until": "first task done"});
    report(Figure::low("memory", "cold_start_ms", times[2], "ms", 300.0).with(config));
    Ok(())
}

fn idle(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let server = Server::start(options)?;
    let pid = server.pid()?;
    let seconds = if options.quick { 2 } else { 10 };
    std::thread::sleep(Duration::from_secs(1));
    let before = probe::cpu_seconds(pid)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let percent = (probe::cpu_seconds(pid)? - before) / seconds as f64 * 100.0;
    let config = json!({"seconds": seconds});
    report(Figure::low("memory", "idle_cpu_percent", percent, "%", 1.0).with(config.clone()));
    report(Figure::low("memory", "idle_rss_bytes", probe::resident_bytes(pid)?, "bytes", 60e6).with(config));
    Ok(())
}

fn queued(options: &Options, tasks: u64, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let mut server = Server::start(options)?;
    probe::room_for(server.data(), tasks * BYTES_PER_TASK)?;
    // The rate of an empty system first, on the same server and machine.
    let sample = 200_000.min(tasks / 4);
    let empty = drains(&server, sample, true)?;
    server.role("submitter", &told(&[("total", tasks), ("bulk", 1_000), ("progress", 1)]))?.answer()?;
    // What counts is a server that was killed and has come back, not one whose memory is still that of the submits.
    server.kill()?;
    server.launch()?;
    let waiting = server.count("queued")?;
    if waiting != tasks {
        bail!("{tasks} tasks were acknowledged, but {waiting} are stored as queued");
    }
    let full = drains(&server, sample, false)?;
    let config = json!({
        "queued": tasks, "after": "kill -9 and restart", "ready_ms": server.ready_in.as_secs_f64() * 1000.0,
        "disk_bytes": probe::folder_bytes(server.data())?, "drains": DRAINS, "tasks_of_a_drain": sample,
        "empty_per_s": &empty, "queued_per_s": &full,
    });
    let target = (tasks >= 10_000_000).then_some(1e9);
    let rss = probe::resident_bytes(server.pid()?)?;
    report(
        Figure::low("memory", format!("rss_bytes_{}_queued", short(tasks)), rss, "bytes", target).with(config.clone()),
    );
    let ratio = median(full) / median(empty);
    report(Figure::high("memory", "drain_rate_of_empty", ratio, "ratio", 0.8).with(config));
    Ok(())
}

/// A drain takes about a second, and one differs from the next by a tenth: medians are compared.
const DRAINS: usize = 3;

/// Tasks per second of one drain after the other.
fn drains(server: &Server, tasks: u64, submit: bool) -> anyhow::Result<Vec<f64>> {
    (0..DRAINS).map(|_| drain(server, tasks, submit)).collect()
}

fn drain(server: &Server, tasks: u64, submit: bool) -> anyhow::Result<f64> {
    if submit {
        server.role("submitter", &[format!("total={tasks}"), "bulk=1000".to_owned()])?.answer()?;
    }
    let worked = server.role("worker", &[format!("total={tasks}"), "permits=16000".to_owned()])?.answer()?;
    Ok(tasks as f64 / worked["seconds"].as_f64().context("seconds")?)
}

/// Kill -9 with many granted tasks: until the first grant of the new process.
pub(crate) fn restart(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let granted: u64 = if options.quick { 20_000 } else { 1_000_000 };
    let mut server = Server::start(options)?;
    server.role("submitter", &[format!("total={}", granted + 1_000), "bulk=1000".to_owned()])?.answer()?;
    // A worker that takes everything and never answers: `hold` keeps grants until nothing more comes.
    server
        .role(
            "worker",
            &[
                "total=18446744073709551615".to_owned(),
                format!("permits={granted}"),
                "idle_ms=3000".to_owned(),
                "hold=1".to_owned(),
            ],
        )?
        .answer()?;
    server.kill()?;
    let begun = Instant::now();
    server.launch()?;
    let ready = begun.elapsed().as_secs_f64() * 1000.0;
    server.role("worker", &["total=1".to_owned(), "permits=1".to_owned(), "name=second".to_owned()])?.answer()?;
    let first = begun.elapsed().as_secs_f64() * 1000.0;
    let config = json!({"granted": granted, "ready_ms": ready});
    report(Figure::low("restart", "first_grant_ms", first, "ms", 2_000.0).with(config));
    Ok(())
}
