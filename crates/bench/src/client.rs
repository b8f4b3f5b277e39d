//! The parts of a benchmark that run in processes of their own: submitters and workers over the worker protocol.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use bytes::Bytes;
use tidewheel_proto::v1::client_client::ClientClient;
use tidewheel_proto::v1::server_message::Message as FromServer;
use tidewheel_proto::v1::task_result::Outcome;
use tidewheel_proto::v1::worker_client::WorkerClient;
use tidewheel_proto::v1::worker_message::Message as ToServer;
use tidewheel_proto::v1::{
    GetRequest, Grant, Heartbeat, Hello, Results, SubmitRequest, TaskResult, TaskSpec, WorkerMessage,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::figure::percentile;

/// What a part is told, as `name=value`.
pub(crate) struct Arguments(HashMap<String, String>);

impl Arguments {
    fn parse(arguments: &[String]) -> Arguments {
        let pairs = arguments.iter().filter_map(|a| a.split_once('='));
        Arguments(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    pub(crate) fn number(&self, name: &str) -> anyhow::Result<u64> {
        self.0.get(name).with_context(|| format!("`{name}` is missing"))?.parse().with_context(|| format!("`{name}`"))
    }

    /// The same with what holds where the part was not told.
    pub(crate) fn number_or(&self, name: &str, default: u64) -> anyhow::Result<u64> {
        if self.0.contains_key(name) { self.number(name) } else { Ok(default) }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

pub(crate) fn run_role(role: &str, arguments: &[String]) -> anyhow::Result<()> {
    let arguments = Arguments::parse(arguments);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = tokio.block_on(async {
        match role {
            "worker" => worker(&arguments).await,
            "submitter" => submitter(&arguments).await,
            "pacer" => pacer(&arguments).await,
            "http" => crate::http::load(&arguments).await,
            "steady" => crate::steady::submit(&arguments).await,
            "streams" => crate::streams::hold(&arguments).await,
            "handlers" => crate::agent::handlers(&arguments).await,
            other => bail!("there is no part `{other}`"),
        }
    })?;
    use std::io::Write;
    writeln!(std::io::stdout(), "{answer}")?;
    Ok(())
}

pub(crate) type Authed = InterceptedService<Channel, Bearer>;

#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<tonic::metadata::Ascii>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A connection of its own to the server under test, and the token for it.
pub(crate) async fn channel() -> anyhow::Result<(Channel, Bearer)> {
    let url = std::env::var("TIDEWHEEL_BENCH_URL").context("TIDEWHEEL_BENCH_URL")?;
    let token = std::env::var("TIDEWHEEL_BENCH_TOKEN").context("TIDEWHEEL_BENCH_TOKEN")?;
    connect(url, &token).await
}

/// A connection of its own.
pub(crate) async fn connect(url: String, token: &str) -> anyhow::Result<(Channel, Bearer)> {
    let endpoint = Endpoint::from_shared(url)?
        .tcp_nodelay(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20);
    Ok((endpoint.connect().await?, Bearer(format!("Bearer {token}").parse()?)))
}

pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

pub(crate) fn message(message: ToServer) -> WorkerMessage {
    WorkerMessage { message: Some(message) }
}

/// Takes grants and answers each at once, until `total` results are acknowledged as durable (`laps`: the times
/// between grants are told). Tasks whose input is a
/// number are taken as microseconds since 1970, and the times from then to the grant and to the acknowledgement of the
/// result are kept. `hold`: never answers; `hold_ms`: answers all of them so long after the last one has come.
async fn worker(arguments: &Arguments) -> anyhow::Result<serde_json::Value> {
    let total = arguments.number("total")?;
    let permits = arguments.number("permits")?;
    let idle_ms = arguments.number_or("idle_ms", 0)?;
    let hold_ms = arguments.number_or("hold_ms", 0)?;
    let hold = arguments.number_or("hold", 0)? == 1;
    let (channel, bearer) = channel().await?;
    let mut client: WorkerClient<Authed> =
        WorkerClient::with_interceptor(channel, bearer).max_decoding_message_size(64 << 20);
    let (sender, receiver) = mpsc::channel(64);
    let hello = Hello {
        name: arguments.text("name").unwrap_or("bench").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        queues: vec![arguments.text("queue").unwrap_or("*").to_owned()],
        permits: permits as u32,
        instance: std::process::id().to_string(),
        kind: "sdk".to_owned(),
        ..Hello::default()
    };
    sender.send(message(ToServer::Hello(hello))).await?;
    let mut stream = client.connect(ReceiverStream::new(receiver)).await?.into_inner();
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    let mut seen = Seen { laps: (arguments.number_or("laps", 0)? == 1).then(Vec::new), ..Seen::default() };
    let mut held: Vec<Grant> = Vec::new();
    let patience = Duration::from_millis(if idle_ms == 0 { 120_000 } else { idle_ms });
    let idle = tokio::time::sleep(patience);
    tokio::pin!(idle);
    let release = tokio::time::sleep(Duration::from_secs(1 << 30));
    tokio::pin!(release);
    while seen.accepted < total {
        tokio::select! {
            next = stream.next() => match next.context("the server ended the stream")??.message {
                Some(FromServer::Grants(grants)) => {
                    idle.as_mut().reset(tokio::time::Instant::now() + patience);
                    grants.grants.iter().for_each(|g| seen.granted(g));
                    if hold_ms > 0 {
                        held.extend(grants.grants);
                        if seen.granted == total {
                            release.as_mut().reset(tokio::time::Instant::now() + Duration::from_millis(hold_ms));
                        }
                    } else if !hold {
                        answer(&sender, &mut seen, grants.grants).await?;
                    }
                }
                Some(FromServer::Ack(ack)) => {
                    seen.acknowledged(ack.accepted);
                    idle.as_mut().reset(tokio::time::Instant::now() + patience);
                    if !ack.refused.is_empty() {
                        bail!("{} results were refused", ack.refused.len());
                    }
                }
                _ => {}
            },
            _ = beat.tick() => {
                let beat = Heartbeat { clock_unix_ms: (now_us() / 1000) as i64, ..Heartbeat::default() };
                sender.send(message(ToServer::Heartbeat(beat))).await?;
            }
            () = &mut release => {
                seen.released = Some(Instant::now());
                for chunk in std::mem::take(&mut held).chunks(1_000) {
                    answer(&sender, &mut seen, chunk.to_vec()).await?;
                }
                release.as_mut().reset(tokio::time::Instant::now() + Duration::from_secs(1 << 30));
            }
            () = &mut idle => {
                if idle_ms > 0 { break; }
                let Seen { granted, accepted, .. } = seen;
                bail!("no grant and no acknowledgement for two minutes: {granted} granted, {accepted} of {total} accepted");
            }
        }
    }
    Ok(seen.answer())
}

async fn answer(sender: &mpsc::Sender<WorkerMessage>, seen: &mut Seen, grants: Vec<Grant>) -> anyhow::Result<()> {
    seen.sent.extend(grants.iter().map(|g| stamp(g).unwrap_or(0)));
    let results = grants.into_iter().map(done).collect();
    sender.send(message(ToServer::Results(Results { results }))).await?;
    Ok(())
}

/// What a worker has seen so far.
#[derive(Default)]
struct Seen {
    granted: u64,
    accepted: u64,
    early: u64,
    first: Option<Instant>,
    /// When the newest grant came.
    newest: Option<Instant>,
    /// When the results that were held back were sent.
    released: Option<Instant>,
    last: Option<Instant>,
    /// Stamps of the results that are not acknowledged, in the order in which they were sent.
    sent: VecDeque<u64>,
    waits: Vec<f64>,
    dones: Vec<f64>,
    /// When each grant came, where the times between them are asked for.
    laps: Option<Vec<Instant>>,
}

impl Seen {
    fn granted(&mut self, grant: &Grant) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.newest = Some(now);
        self.granted += 1;
        self.laps.iter_mut().for_each(|laps| laps.push(now));
        if let Some(at) = stamp(grant) {
            let now = now_us();
            self.early += u64::from(now < at);
            self.waits.push((now as f64 - at as f64) / 1000.0);
        }
    }

    fn acknowledged(&mut self, accepted: u64) {
        let now = now_us();
        for at in self.sent.drain(..((accepted - self.accepted) as usize).min(self.sent.len())).filter(|at| *at > 0) {
            self.dones.push((now as f64 - at as f64) / 1000.0);
        }
        self.accepted = accepted;
        self.last = Some(Instant::now());
    }

    fn answer(mut self) -> serde_json::Value {
        self.waits.sort_by(f64::total_cmp);
        self.dones.sort_by(f64::total_cmp);
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from).as_secs_f64(),
            _ => 0.0,
        };
        let laps = self.laps.take().unwrap_or_default();
        let laps: Vec<f64> = laps.windows(2).map(|two| (two[1] - two[0]).as_secs_f64() * 1000.0).collect();
        serde_json::json!({
            "laps_ms": laps,
            "granted": self.granted, "accepted": self.accepted, "early": self.early, "end_us": now_us(),
            "seconds": between(self.first, self.last), "grant_seconds": between(self.first, self.newest),
            "release_seconds": between(self.released, self.last), "samples": self.waits.len(),
            "p50_ms": percentile(&self.waits, 0.5), "p99_ms": percentile(&self.waits, 0.99),
            "max_ms": percentile(&self.waits, 1.0),
            "done_p50_ms": percentile(&self.dones, 0.5), "done_p99_ms": percentile(&self.dones, 0.99),
            "done_max_ms": percentile(&self.dones, 1.0),
        })
    }
}

/// The time in a task's input, in microseconds since 1970.
fn stamp(grant: &Grant) -> Option<u64> {
    std::str::from_utf8(&grant.input).ok()?.parse().ok()
}

fn done(grant: Grant) -> TaskResult {
    TaskResult { token: grant.token, outcome: Some(Outcome::Ok(Bytes::from_static(b"null"))), artifacts: Vec::new() }
}

pub(crate) fn spec(kind: &str) -> TaskSpec {
    TaskSpec { r#type: kind.to_owned(), ..TaskSpec::default() }
}

/// How often a long part says on stderr how far it has come.
pub(crate) const PROGRESS: Duration = Duration::from_secs(10);

/// Submits `total` tasks in bulk and waits for each acknowledgement. `input` is the size of their inputs in bytes.
async fn submitter(arguments: &Arguments) -> anyhow::Result<serde_json::Value> {
    let (total, bulk) = (arguments.number("total")?, arguments.number("bulk")?);
    let keys = arguments.number_or("keys", 0)? == 1;
    let due_ms = arguments.number_or("due_in_ms", 0)?;
    let due_over_ms = arguments.number_or("due_over_ms", 1_000)?;
    let progress = arguments.number_or("progress", 0)? == 1;
    let queue = arguments.text("queue").unwrap_or_default().to_owned();
    let input = Bytes::from(match arguments.number_or("input", 0)? as usize {
        0 => String::new(),
        size => format!("\"{}\"", "x".repeat(size.saturating_sub(2))),
    });
    let (channel, bearer) = channel().await?;
    let mut client: ClientClient<Authed> =
        ClientClient::with_interceptor(channel, bearer).max_decoding_message_size(64 << 20);
    let begun = Instant::now();
    let start = now_us();
    let due_from = if due_ms == 0 { 0 } else { start / 1000 + due_ms };
    let (sender, receiver) = mpsc::channel(8);
    let run = start;
    tokio::spawn(async move {
        for from in (0..total).step_by(bulk as usize) {
            let until = (from + bulk).min(total);
            let tasks = (from..until).map(|i| {
                let mut task = TaskSpec { queue: queue.clone(), input: input.clone(), ..spec("bench.noop") };
                if keys {
                    task.idempotency_key = format!("{run}-{i}");
                }
                if due_from > 0 {
                    let due = due_from + i * due_over_ms / total;
                    task.run_at_unix_ms = due as i64;
                    task.input = Bytes::from((due * 1000).to_string());
                }
                task
            });
            let request = SubmitRequest { request: from, tasks: tasks.collect() };
            if sender.send(request).await.is_err() {
                return;
            }
        }
    });
    let mut answers = client.submit_stream(ReceiverStream::new(receiver)).await?.into_inner();
    let (mut accepted, mut said) = (0u64, Instant::now());
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        if let Some(refused) = answer.outcomes.iter().find(|o| !o.error_code.is_empty()) {
            bail!("a submit was refused: {}: {}", refused.error_code, refused.error_detail);
        }
        accepted += answer.outcomes.len() as u64;
        if progress && said.elapsed() >= PROGRESS {
            say(&format!("{accepted} of {total} tasks submitted after {:.0} s", begun.elapsed().as_secs_f64()));
            said = Instant::now();
        }
        if accepted >= total {
            break;
        }
    }
    if accepted != total {
        bail!("{accepted} of {total} were acknowledged");
    }
    Ok(serde_json::json!({
        "accepted": accepted, "seconds": begun.elapsed().as_secs_f64(), "start_us": start, "due_from_ms": due_from,
    }))
}

/// A line for people on stderr; that nobody reads it is no reason to fail.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Submits one task each 1/`rate` seconds and waits for its result.
async fn pacer(arguments: &Arguments) -> anyhow::Result<serde_json::Value> {
    let (total, rate) = (arguments.number("total")?, arguments.number("rate")?);
    let (channel, bearer) = channel().await?;
    let client: ClientClient<Authed> = ClientClient::with_interceptor(channel, bearer);
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
    let mut waits = Vec::new();
    for _ in 0..total {
        tick.tick().await;
        let mut client = client.clone();
        waits.push(tokio::spawn(async move {
            let at = now_us();
            let mut task = spec("bench.noop");
            task.input = Bytes::from(at.to_string());
            let answer = client.submit(SubmitRequest { request: 0, tasks: vec![task] }).await?.into_inner();
            let accepted = (now_us() - at) as f64 / 1000.0;
            let id = answer.outcomes.into_iter().next().context("one outcome")?.id;
            let view = client.get(GetRequest { id, wait_ms: 10_000 }).await?.into_inner();
            if view.state != "succeeded" {
                bail!("a task ended as {}", view.state);
            }
            Ok::<_, anyhow::Error>((accepted, (now_us() - at) as f64 / 1000.0))
        }));
    }
    let (mut accepted, mut results) = (Vec::new(), Vec::new());
    for wait in waits {
        let (a, r) = wait.await??;
        accepted.push(a);
        results.push(r);
    }
    accepted.sort_by(f64::total_cmp);
    results.sort_by(f64::total_cmp);
    Ok(serde_json::json!({
        "accept_p50_ms": percentile(&accepted, 0.5), "accept_p99_ms": percentile(&accepted, 0.99),
        "result_p50_ms": percentile(&results, 0.5), "result_p99_ms": percentile(&results, 0.99),
    }))
}
