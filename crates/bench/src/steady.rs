//! A steady rate of tasks that does not wait for answers (an open loop): how long until a task is stored, is with a
//! worker, and is done; and how often the disk is written to meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use tidewheel_proto::v1::client_client::ClientClient;
use tidewheel_proto::v1::{SubmitRequest, TaskSpec};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::client::{Arguments, Authed, channel, now_us, spec};
use crate::figure::percentile;
use crate::server::{Server, number, told};
use crate::{Figure, Options, probe};

/// The rate of the requirement.
const RATE: u64 = 10_000;

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let total = options.size(20 * RATE, 2 * RATE);
    let server = Server::start(options)?;
    // What a first run pays for (connections, threads, pages of the file) is not what a steady rate costs.
    pace(&server, RATE, RATE / 2, "")?;
    let before = server.histogram(LOOP)?;
    let (syncs, writes) = (number(&server.status()?["store"], "fsyncs")?, probe::device_writes(&server));
    let run = pace(&server, RATE, total, "")?;
    server.has_succeeded(RATE / 2 + total)?;
    let seconds = number(&run.submitted, "seconds")?;
    let config = json!({
        "tasks": total, "rate_per_s": RATE, "arrivals": "one batch each millisecond, whatever the answers are", "processes": 3,
    });
    let mut low = |name: &'static str, value, target: Option<f64>| {
        report(Figure::low("steady", name, value, "ms", target).with(config.clone()));
    };
    low("accept_p50_ms", number(&run.submitted, "p50_ms")?, None);
    low("accept_p99_ms", number(&run.submitted, "p99_ms")?, Some(10.0));
    low("start_p50_ms", number(&run.worked, "p50_ms")?, None);
    low("start_p99_ms", number(&run.worked, "p99_ms")?, Some(10.0));
    low("done_p50_ms", number(&run.worked, "done_p50_ms")?, None);
    low("done_p99_ms", number(&run.worked, "done_p99_ms")?, Some(10.0));
    let rounds = server.histogram(LOOP)?.since(&before);
    low("loop_p99_ms", rounds.edge(0.99) * 1000.0, Some(10.0));
    let syncs = number(&server.status()?["store"], "fsyncs")? - syncs;
    report(Figure::low("steady", "fsyncs_per_s", syncs / seconds, "1/s", None).with(config.clone()));
    if let (Some(before), Some(after)) = (writes, probe::device_writes(&server)) {
        let config = json!({"tasks": total, "rate_per_s": RATE, "counted": "write requests that the disk completed, of all processes"});
        report(Figure::low("steady", "disk_writes_per_s", (after - before) / seconds, "1/s", 1_000.0).with(config));
    }
    Ok(())
}

/// One round of a partition loop.
pub(crate) const LOOP: &str = "tidewheel_engine_loop_seconds";

/// What a steady run answered.
pub(crate) struct Run {
    /// Of the submitter: submit to acknowledgement.
    pub(crate) submitted: Value,
    /// Of the worker: submit to grant, and to the acknowledgement of the result.
    pub(crate) worked: Value,
}

/// A worker and a submitter at a rate, until everything is done. `queue` may be empty.
pub(crate) fn pace(server: &Server, rate: u64, total: u64, queue: &str) -> anyhow::Result<Run> {
    static PACED: AtomicU64 = AtomicU64::new(1);
    let name = format!("paced-{}", PACED.fetch_add(1, Ordering::Relaxed));
    let mut worker = told(&[("total", total), ("permits", 10_000)]);
    worker.push(format!("name={name}"));
    let mut submitter = told(&[("total", total), ("rate", rate)]);
    if !queue.is_empty() {
        worker.push(format!("queue={queue}"));
        submitter.push(format!("queue={queue}"));
    }
    let worker = server.role("worker", &worker)?;
    server.has_worker(&name)?;
    let submitted = server.role("steady", &submitter)?.answer()?;
    let worked = worker.answer()?;
    let accepted = (submitted["accepted"].as_u64(), worked["accepted"].as_u64());
    if accepted != (Some(total), Some(total)) {
        bail!("of {total} tasks {:?} were acknowledged and {:?} completed", accepted.0, accepted.1);
    }
    Ok(Run { submitted, worked })
}

/// Streams of submits, as from so many clients: one alone has a bound of requests whose commit it awaits, which on a slow
/// disk would hold the arrivals back.
const STREAMS: usize = 16;

/// Arrivals on their way to one stream: the request, and when and how many.
type Arrivals = mpsc::UnboundedSender<(SubmitRequest, u64)>;

/// Submits at a rate without waiting: the tasks of each millisecond in one request, each with the time of its arrival
/// in its input. A clock of its own gives the arrivals, so that a slow answer delays none of them.
pub(crate) async fn submit(arguments: &Arguments) -> anyhow::Result<Value> {
    let (total, rate) = (arguments.number("total")?, arguments.number("rate")?);
    let kind = arguments.text("type").unwrap_or("bench.noop").to_owned();
    let queue = arguments.text("queue").unwrap_or_default().to_owned();
    let (channel, bearer) = channel().await?;
    let client: ClientClient<Authed> = ClientClient::with_interceptor(channel, bearer);
    let mut streams: Vec<Arrivals> = Vec::new();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let (sender, arrivals) = mpsc::unbounded_channel();
        streams.push(sender);
        readers.spawn(stream(client.clone(), arrivals));
    }
    let begun = Instant::now();
    let task = TaskSpec { queue, ..spec(&kind) };
    let clock = std::thread::spawn(move || arrive(begun, total, rate, &task, &streams));
    let (mut accepted, mut waits) = (0u64, Vec::with_capacity(total as usize));
    while let Some(of_stream) = readers.join_next().await {
        for (waited, count) in of_stream?? {
            accepted += count;
            waits.extend((0..count).map(|_| waited));
        }
    }
    let latest = clock.join().ok().flatten().context("the clock of the arrivals ended early")?;
    waits.sort_by(f64::total_cmp);
    Ok(json!({
        "accepted": accepted, "seconds": begun.elapsed().as_secs_f64(), "latest_arrival_ms": latest,
        "p50_ms": percentile(&waits, 0.5), "p99_ms": percentile(&waits, 0.99), "max_ms": percentile(&waits, 1.0),
    }))
}

/// The clock: each millisecond, what is due by then goes to the next stream. Returns by how much it was late at most.
fn arrive(begun: Instant, total: u64, rate: u64, task: &TaskSpec, streams: &[Arrivals]) -> Option<f64> {
    let start_us = now_us();
    let (mut sent, mut latest) = (0u64, Duration::ZERO);
    for tick in 1u64.. {
        let due = begun + Duration::from_millis(tick);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        latest = latest.max(due.elapsed());
        let until = (tick * rate / 1_000).min(total);
        let at = start_us + tick * 1_000;
        if until > sent {
            let task = TaskSpec { input: Bytes::from(at.to_string()), ..task.clone() };
            let tasks = (sent..until).map(|_| task.clone()).collect();
            streams[tick as usize % streams.len()].send((SubmitRequest { request: tick, tasks }, at)).ok()?;
            sent = until;
        }
        if sent == total {
            break;
        }
    }
    Some(latest.as_secs_f64() * 1000.0)
}

/// One stream: for each request how long its answer took, in milliseconds, and for how many tasks.
async fn stream(
    mut client: ClientClient<Authed>,
    mut arrivals: mpsc::UnboundedReceiver<(SubmitRequest, u64)>,
) -> anyhow::Result<Vec<(f64, u64)>> {
    let (sender, requests) = mpsc::unbounded_channel();
    let (opened, mut open) = mpsc::unbounded_channel();
    let forward = tokio::spawn(async move {
        while let Some((request, at)) = arrivals.recv().await {
            // The reader is gone: it says why.
            if opened.send((at, request.tasks.len())).is_err() || sender.send(request).is_err() {
                return;
            }
        }
    });
    let mut answers = client.submit_stream(UnboundedReceiverStream::new(requests)).await?.into_inner();
    let mut waits = Vec::new();
    while let Some((at, count)) = open.recv().await {
        let answer = answers.message().await?.context("the server ended the stream of submits")?;
        if let Some(refused) = answer.outcomes.iter().find(|o| !o.error_code.is_empty()) {
            bail!("a submit was refused: {}: {}", refused.error_code, refused.error_detail);
        }
        if count != answer.outcomes.len() {
            bail!("{count} tasks were sent, {} answered", answer.outcomes.len());
        }
        waits.push(((now_us() as f64 - at as f64) / 1000.0, count as u64));
    }
    forward.await?;
    Ok(waits)
}
