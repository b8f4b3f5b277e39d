//! What the server says of itself.

use std::sync::atomic::Ordering;

use tidewheel_engine::view::{Answer, View};
use tidewheel_proto::rest;

use crate::problem::Failure;
use crate::state::Api;
use crate::units::time_text;

pub(crate) async fn status(api: &Api) -> Result<rest::SystemStatus, Failure> {
    let ready = api.runtime.is_ready();
    let state = match (&ready, api.runtime.is_draining()) {
        (_, true) => "draining",
        (Ok(()), false) => "ready",
        (Err(_), false) => "starting",
    };
    let mut out = rest::SystemStatus {
        version: api.config.version.clone(),
        state: state.to_owned(),
        reason: ready.err().unwrap_or_default(),
        started_at: time_text(api.started_ms),
        committed_index: api.runtime.committed_index(),
        streams: api.streams.load(Ordering::Relaxed) as u64,
        ..rest::SystemStatus::default()
    };
    if let Answer::Partition(figures) = api.runtime.read(View::Partition).await? {
        out.epoch = figures.epoch;
        out.running = figures.running as u64;
        out.tasks_in_memory = figures.tasks_in_memory as u64;
        out.timers = figures.timers.iter().map(|n| *n as u64).sum();
        out.workers = figures.sessions as u64;
    }
    let figures = api.read_store(|store| Ok(store.figures())).await?;
    out.store = rest::StoreStatus {
        commits: figures.commits,
        batches: figures.batches,
        mutations: figures.mutations,
        fsyncs: figures.fsyncs,
        wal_bytes: figures.wal_bytes,
        database_bytes: figures.database_bytes,
    };
    Ok(out)
}
