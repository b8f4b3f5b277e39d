//! Engine and SQLite store in one process: bulk submit, grant, complete, each durable; no network, no worker process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::bail;
use bytes::Bytes;
use tidewheel_engine::Command;
use tidewheel_engine::command::{Hello, Submit};
use tidewheel_engine::config::{QueueConfig, TenantConfig};
use tidewheel_engine::effect::Submitted;
use tidewheel_engine::id::TenantId;
use tidewheel_engine::task::{Outcome, Payload, Spec};
use tidewheel_engine::view::{Answer, View};
use tidewheel_runtime::{Config, Runtime, ToWorker};
use tidewheel_store::blob::{BlobFigures, Blobs, Pending};
use tidewheel_store::log::{Line, LogPage, LogQuery, LogStore};
use tidewheel_store::{Error, Hash, Store};

use crate::{Figure, Options};

/// Tasks per submit: what a bulk client sends.
const BULK: u64 = 1_000;
/// Submits under way at once.
const PIPELINE: usize = 16;

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for keys in [false, true] {
        let (rate, config) = tokio.block_on(lifecycles(options, keys))?;
        let name = if keys { "lifecycle_per_s" } else { "lifecycle_without_keys_per_s" };
        report(Figure::high("engine", name, rate, "tasks/s", keys.then_some(150_000.0)).with(config));
    }
    Ok(())
}

async fn lifecycles(options: &Options, keys: bool) -> anyhow::Result<(f64, serde_json::Value)> {
    let total = options.size(1_000_000, 50_000);
    let folder = tempfile::tempdir()?;
    let store = tidewheel_store_sqlite::SqliteStore::open(&folder.path().join("tidewheel.db"), Default::default())?;
    let fatal = Box::new(|text: &str| panic!("the disk failed: {text}"));
    let runtime = Runtime::start(Config::default(), store.clone(), Arc::new(Unused), Arc::new(Unused), fatal)?;
    let (name, config) = ("bench".into(), TenantConfig::default());
    runtime.call(|request| Command::PutTenant { request, name, config, expected: None }).await?;
    runtime
        .call(|request| Command::PutQueue {
            request,
            tenant: TenantId(1),
            name: "default".into(),
            config: Some(Box::new(QueueConfig::default())),
            state: None,
            expected: None,
        })
        .await?;
    let before = store.figures();
    let begun = Instant::now();
    let worker = tokio::spawn(work(runtime.clone(), total));
    submit_all(&runtime, total, keys).await?;
    worker.await??;
    let seconds = begun.elapsed().as_secs_f64();
    let done = finished(&runtime).await?;
    if done != total {
        bail!("{total} tasks were acknowledged, but {done} are stored as succeeded");
    }
    let after = store.figures();
    let syncs = after.fsyncs - before.fsyncs;
    let config = serde_json::json!({
        "tasks": total, "bulk": BULK, "idempotency_keys": keys, "fsyncs": syncs,
        "rows_per_task": (after.mutations - before.mutations) as f64 / total as f64,
        "lifecycles_per_fsync": total as f64 / syncs.max(1) as f64,
        "database_bytes_per_task": after.database_bytes as f64 / total as f64,
    });
    tokio::task::spawn_blocking(move || runtime.stop()).await?;
    Ok((total as f64 / seconds, config))
}

/// No-op tasks have no logs and no blobs.
struct Unused;

impl LogStore for Unused {
    fn append(&self, _: Vec<Line>) -> Result<(), Error> {
        Err(Error::Closed)
    }
    fn query(&self, _: &LogQuery) -> Result<LogPage, Error> {
        Err(Error::Closed)
    }
    fn sweep(&self, _: u64, _: usize) -> Result<u64, Error> {
        Err(Error::Closed)
    }
    fn backup(&self, _: &std::path::Path) -> Result<(), Error> {
        Err(Error::Closed)
    }
}

impl Blobs for Unused {
    fn put(&self, _: u32, _: Bytes) -> Pending<'_, Hash> {
        Box::pin(async { Err(Error::Closed) })
    }
    fn put_file<'a>(&'a self, _: u32, _: &'a std::path::Path) -> Pending<'a, (Hash, u64)> {
        Box::pin(async { Err(Error::Closed) })
    }
    fn size(&self, _: u32, _: Hash) -> Pending<'_, Option<u64>> {
        Box::pin(async { Err(Error::Closed) })
    }
    fn read(&self, _: u32, _: Hash, _: u64, _: u64) -> Pending<'_, Bytes> {
        Box::pin(async { Err(Error::Closed) })
    }
    fn old(&self, _: u32, _: std::time::Duration) -> Pending<'_, Vec<Hash>> {
        Box::pin(async { Err(Error::Closed) })
    }
    fn remove(&self, _: u32, _: Hash, _: std::time::Duration) -> Pending<'_, bool> {
        Box::pin(async { Err(Error::Closed) })
    }
    fn count(&self, _: u32) -> Pending<'_, u64> {
        Box::pin(async { Ok(0) })
    }
    fn figures(&self) -> BlobFigures {
        BlobFigures::default()
    }
}

async fn finished(runtime: &Runtime) -> anyhow::Result<u64> {
    match runtime.read(View::Queues { tenant: TenantId(1), name: Some("default".into()) }).await? {
        Answer::Queues(queues) => Ok(queues.first().map_or(0, |q| q.counts[4])),
        other => bail!("unexpected answer {other:?}"),
    }
}

async fn submit_all(runtime: &Runtime, total: u64, keys: bool) -> anyhow::Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut lanes = Vec::new();
    for _ in 0..PIPELINE {
        lanes.push(tokio::spawn(submit_lane(runtime.clone(), next.clone(), total, keys)));
    }
    for lane in lanes {
        lane.await??;
    }
    Ok(())
}

async fn submit_lane(runtime: Runtime, next: Arc<AtomicU64>, total: u64, keys: bool) -> anyhow::Result<()> {
    let spec = Arc::new(Spec::default());
    let (kind, queue): (Arc<str>, Arc<str>) = ("noop".into(), "default".into());
    loop {
        let from = next.fetch_add(BULK, Ordering::Relaxed);
        if from >= total {
            return Ok(());
        }
        let items: Vec<Submit> = (from..(from + BULK).min(total))
            .map(|i| Submit {
                kind: kind.clone(),
                queue: queue.clone(),
                priority: 5,
                run_at: 0,
                delay_ms: 0,
                input: Payload::None,
                spec: spec.clone(),
                idempotency: keys.then(|| (key_hash(i), i)),
            })
            .collect();
        let outcomes = runtime.submit(TenantId(1), items).await?;
        if !outcomes.iter().all(|o| matches!(o, Submitted::New(_))) {
            bail!("a submit was refused");
        }
    }
}

fn key_hash(number: u64) -> [u8; 16] {
    let hash = blake3::hash(&number.to_le_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}

async fn work(runtime: Runtime, total: u64) -> anyhow::Result<()> {
    let hello = Hello { tenant: Some(TenantId(1)), name: "bench".into(), permits: 16_000, ..Hello::default() };
    let mut session = runtime.connect(hello)?;
    let mut accepted = 0;
    let mut heartbeat = tokio::time::interval(std::time::Duration::from_secs(1));
    while accepted < total {
        tokio::select! {
            event = session.events.recv() => match event {
                Some(ToWorker::Grants(grants)) => {
                    let ok = || Outcome::Ok { result: Payload::None, artifacts: Vec::new() };
                    let results = grants.iter().map(|g| (g.task, g.token, ok())).collect();
                    runtime.send_wait(Command::Results { session: session.id, results }).await?;
                }
                Some(ToWorker::Accepted { count, .. }) => accepted += u64::from(count),
                Some(ToWorker::Close { reason }) => bail!("the session was closed: {reason}"),
                Some(_) => {}
                None => bail!("the session ended"),
            },
            _ = heartbeat.tick() => runtime.send(Command::Heartbeat {
                session: session.id,
                beat: Default::default(),
            })?,
        }
    }
    Ok(())
}
