//! Many at once: attempts that run, and workers that are connected.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tidewheel_proto::v1::server_message::Message as FromServer;
use tidewheel_proto::v1::worker_client::WorkerClient;
use tidewheel_proto::v1::worker_message::Message as ToServer;
use tidewheel_proto::v1::{Heartbeat, Hello, WorkerMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Arguments, Authed, channel, message};
use crate::server::{Server, number, told};
use crate::{Figure, Options, probe};

/// 100,000 attempts that run at once on one node: their leases are kept by heartbeats, and all of them end.
pub(crate) fn concurrent(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let total = options.size(100_000, 20_000);
    // Several times a lease: an attempt whose lease was not renewed would be lost, and its result refused.
    let hold = Duration::from_secs(15);
    let server = Server::start(options)?;
    server.role("submitter", &told(&[("total", total), ("bulk", 1_000)]))?.answer()?;
    let arguments = told(&[("total", total), ("permits", total), ("hold_ms", hold.as_millis() as u64)]);
    let worker = server.role("worker", &arguments)?;
    server.wait_for(&format!("{total} tasks to run"), || Ok(number(&server.status()?, "running")? as u64 >= total))?;
    let pid = server.pid()?;
    let (at, cpu) = (Instant::now(), probe::cpu_seconds(pid)?);
    std::thread::sleep(hold / 2);
    let busy = (probe::cpu_seconds(pid)? - cpu) / at.elapsed().as_secs_f64() * 100.0;
    let running = number(&server.status()?, "running")?;
    let rss = probe::resident_bytes(pid)?;
    let worked = worker.answer()?;
    if worked["granted"].as_u64() != Some(total) || worked["accepted"].as_u64() != Some(total) {
        bail!("{total} tasks were acknowledged, but the worker says {worked}");
    }
    server.has_succeeded(total)?;
    let config =
        json!({"permits": total, "held_ms": hold.as_millis() as u64, "workers": 1, "heartbeats": "one a second"});
    report(Figure::high("concurrent", "running", running, "tasks", options.target(100_000.0)).with(config.clone()));
    report(
        Figure::high("concurrent", "grants_per_s", total as f64 / number(&worked, "grant_seconds")?, "tasks/s", None)
            .with(config.clone()),
    );
    report(
        Figure::high(
            "concurrent",
            "results_per_s",
            total as f64 / number(&worked, "release_seconds")?,
            "tasks/s",
            None,
        )
        .with(config.clone()),
    );
    report(Figure::low("concurrent", "cpu_percent", busy, "%", 100.0).with(config.clone()));
    report(Figure::low("concurrent", "rss_bytes", rss, "bytes", 1e9).with(config));
    Ok(())
}

/// Workers that are connected and have nothing to do, each with a connection of its own.
pub(crate) fn agents(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let count = options.size(10_000, 500);
    let seconds = if options.quick { 3 } else { 20 };
    let files = probe::open_file_limit();
    if files < count + 1_000 {
        bail!(
            "{count} connections need {} open files per process, the limit is {files}: raise it with `ulimit -n`",
            count + 1_000
        );
    }
    let server = Server::start(options)?;
    let pid = server.pid()?;
    let empty = probe::resident_bytes(pid)?;
    let begun = Instant::now();
    let workers = server.role("streams", &told(&[("count", count), ("seconds", seconds + 5)]))?;
    server.has_workers(count)?;
    let connected = begun.elapsed().as_secs_f64();
    // The storm of the hellos is over; what is left is the idle state.
    std::thread::sleep(Duration::from_secs(2));
    let (at, cpu) = (Instant::now(), probe::cpu_seconds(pid)?);
    std::thread::sleep(Duration::from_secs(seconds));
    let busy = (probe::cpu_seconds(pid)? - cpu) / at.elapsed().as_secs_f64() * 100.0;
    let rss = probe::resident_bytes(pid)?;
    server.has_workers(count)?;
    let held = workers.answer()?;
    if held["connected"].as_u64() != Some(count) || held["lost"].as_u64() != Some(0) {
        bail!("{count} workers were to stay connected: {held}");
    }
    let config =
        json!({"workers": count, "seconds": seconds, "heartbeats": held["heartbeats"], "connected_in_s": connected});
    report(Figure::high("agents", "connected", count as f64, "workers", options.target(10_000.0)).with(config.clone()));
    report(Figure::low("agents", "idle_cpu_percent", busy, "%", 100.0).with(config.clone()));
    report(Figure::low("agents", "rss_bytes", rss, "bytes", None).with(config.clone()));
    report(Figure::low("agents", "rss_bytes_per_worker", (rss - empty) / count as f64, "bytes", None).with(config));
    Ok(())
}

/// The workers themselves: each connects, says hello and sends heartbeats until the time is over, which begins when all
/// of them are there.
pub(crate) async fn hold(arguments: &Arguments) -> anyhow::Result<Value> {
    probe::raise_open_files();
    let (count, seconds) = (arguments.number("count")?, arguments.number("seconds")?);
    let (end, over) = tokio::sync::watch::channel(false);
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..count {
        // As many dials at once as a server's accept queue holds with ease.
        let (welcome, welcomed) = tokio::sync::oneshot::channel();
        workers.spawn(idle(n, over.clone(), welcome));
        if n % 32 == 31 || n + 1 == count {
            welcomed.await.ok().context("a worker was not welcomed")?;
        }
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let _ = end.send(true);
    let (mut heartbeats, mut lost) = (0, 0);
    while let Some(worker) = workers.join_next().await {
        match worker? {
            Ok(sent) => heartbeats += sent,
            Err(_) => lost += 1,
        }
    }
    Ok(json!({"connected": count - lost, "lost": lost, "heartbeats": heartbeats}))
}

async fn idle(
    n: u64,
    mut over: tokio::sync::watch::Receiver<bool>,
    welcome: tokio::sync::oneshot::Sender<()>,
) -> anyhow::Result<u64> {
    let (channel, bearer) = channel().await?;
    let mut client: WorkerClient<Authed> = WorkerClient::with_interceptor(channel, bearer);
    let (sender, receiver) = mpsc::channel::<WorkerMessage>(4);
    let hello = Hello {
        name: format!("idle-{n}"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        queues: vec!["*".to_owned()],
        permits: 1,
        instance: n.to_string(),
        kind: "sdk".to_owned(),
        ..Hello::default()
    };
    sender.send(message(ToServer::Hello(hello))).await?;
    let mut stream = client.connect(ReceiverStream::new(receiver)).await?.into_inner();
    let first = stream.message().await?.context("the server ended the stream")?.message;
    let Some(FromServer::Welcome(welcomed)) = first else { bail!("no welcome") };
    let _ = welcome.send(());
    let mut beat = tokio::time::interval(Duration::from_millis(u64::from(welcomed.heartbeat_ms.max(100))));
    let mut sent = 0;
    loop {
        tokio::select! {
            received = stream.message() => drop(received?.context("the server ended the stream")?),
            _ = beat.tick() => {
                sender.send(message(ToServer::Heartbeat(Heartbeat::default()))).await?;
                sent += 1;
            }
            _ = over.changed() => return Ok(sent),
        }
    }
}
