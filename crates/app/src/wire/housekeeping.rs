//! Forgetting what is over: idempotency keys, ended tasks, ended runs and log lines beyond their retention, and blobs and documents that
//! nothing names, in small steps.
//!
//! Nothing is done while nothing changes: a server that stands idle does not touch its disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidewheel_runtime::Runtime;
use tokio::task::JoinHandle;

use crate::config::Config;

/// Time between two rounds. Retention is counted in days: this is soon enough.
const EVERY: Duration = Duration::from_secs(600);
/// Rows of one step; commits of tasks come between two steps.
const STEP: usize = 2_000;
/// Runs of one step: each may have many turns.
const RUNS: usize = 200;
/// Pause between two steps of a round.
const PAUSE: Duration = Duration::from_millis(50);

struct Retention {
    finished_ms: AtomicU64,
    runs_ms: AtomicU64,
    logs_ms: AtomicU64,
    orphans_ms: AtomicU64,
}

impl Retention {
    fn set(&self, config: &Config) {
        let ms = |path| super::millis(config.duration(path));
        self.finished_ms.store(ms("retention.finished"), Ordering::Relaxed);
        self.runs_ms.store(ms("retention.runs"), Ordering::Relaxed);
        self.logs_ms.store(ms("retention.logs"), Ordering::Relaxed);
        self.orphans_ms.store(ms("blobs.orphanAge"), Ordering::Relaxed);
    }
}

/// The task that does it.
pub(super) struct Housekeeping {
    retention: Arc<Retention>,
    task: JoinHandle<()>,
    blobs: JoinHandle<()>,
}

impl Housekeeping {
    pub(super) fn start(runtime: &Runtime, config: &Config) -> Housekeeping {
        let retention = Arc::new(Retention {
            finished_ms: AtomicU64::new(0),
            runs_ms: AtomicU64::new(0),
            logs_ms: AtomicU64::new(0),
            orphans_ms: AtomicU64::new(0),
        });
        retention.set(config);
        let task = tokio::spawn(rounds(runtime.clone(), retention.clone()));
        let blobs = tokio::spawn(blob_rounds(runtime.clone(), retention.clone()));
        Housekeeping { retention, task, blobs }
    }

    pub(super) fn reload(&self, config: &Config) {
        self.retention.set(config);
    }

    pub(super) fn stop(&self) {
        self.task.abort();
        self.blobs.abort();
    }
}

async fn rounds(runtime: Runtime, retention: Arc<Retention>) {
    let mut seen = runtime.committed_index();
    let mut documents = tidewheel_api::OldDocuments::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let now = runtime.committed_index();
        if now == seen {
            continue;
        }
        seen = now;
        if let Err(error) = round(&runtime, &retention).await {
            tracing::warn!(%error, "a round of forgetting what is over did not end");
        }
        match tidewheel_api::sweep_documents(&runtime, &mut documents).await {
            Ok(0) => {}
            Ok(gone) => tracing::info!(documents = gone, "deleted documents of workflows that nothing needs"),
            Err(error) => tracing::warn!(%error, "a round over the documents of workflows did not end"),
        }
        // Its own commits are no reason for the next round.
        seen = seen.max(runtime.committed_index());
    }
}

/// Time between two rounds over the blobs: a part of the age, so that one lives little longer than it has to.
fn blob_pause(age: Duration) -> Duration {
    (age / 24).clamp(Duration::from_secs(1), Duration::from_secs(3600))
}

/// Its own task: a listing of many blobs must not hold up the others. An idle server lists its blobs once an hour and asks
/// the database nothing, unless there are old ones that no package names.
async fn blob_rounds(runtime: Runtime, retention: Arc<Retention>) {
    tidewheel_api::count_blobs(&runtime).await;
    loop {
        let age = Duration::from_millis(retention.orphans_ms.load(Ordering::Relaxed));
        // The setting may change while this sleeps.
        tokio::time::sleep(if age.is_zero() { EVERY } else { blob_pause(age) }).await;
        if age.is_zero() {
            continue;
        }
        match tidewheel_api::sweep_blobs(&runtime, age).await {
            0 => {}
            gone => tracing::info!(blobs = gone, "deleted blobs that nothing named"),
        }
    }
}

async fn round(runtime: &Runtime, retention: &Retention) -> Result<(), tidewheel_store::Error> {
    let now = runtime.now_ms();
    let before = |kept: &AtomicU64| match kept.load(Ordering::Relaxed) {
        0 => 0,
        kept => now.saturating_sub(kept),
    };
    let (tasks, runs, lines) = (before(&retention.finished_ms), before(&retention.runs_ms), before(&retention.logs_ms));
    let store = runtime.store().clone();
    let gone = steps(STEP, move || store.sweep(now, tasks, STEP)).await?;
    let (mut runs_gone, mut lines_gone) = (0, 0);
    if runs > 0 {
        let store = runtime.store().clone();
        // A step may have found one run that is as long as many.
        runs_gone = steps(1, move || store.sweep_runs(runs, RUNS)).await?;
    }
    if lines > 0 {
        let logs = runtime.logs().clone();
        lines_gone = steps(STEP, move || logs.sweep(lines, STEP)).await?;
    }
    if gone + runs_gone + lines_gone > 0 {
        tracing::info!(records = gone, runs = runs_gone, lines = lines_gone, "forgot what is beyond its retention");
    }
    Ok(())
}

/// Repeats a step until it finds less than `little`.
async fn steps<F>(little: usize, step: F) -> Result<u64, tidewheel_store::Error>
where
    F: Fn() -> Result<u64, tidewheel_store::Error> + Send + Sync + 'static,
{
    let step = Arc::new(step);
    let mut total = 0;
    loop {
        let one = step.clone();
        // A panic in the store is its own report; here it only ends the round.
        let gone = tokio::task::spawn_blocking(move || one()).await.unwrap_or(Ok(0))?;
        total += gone;
        if gone < little as u64 {
            return Ok(total);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_go_on_until_one_finds_little() {
        let left = Arc::new(AtomicU64::new(25));
        let step = {
            let left = left.clone();
            move || {
                let before = left.load(Ordering::Relaxed);
                left.store(before.saturating_sub(10), Ordering::Relaxed);
                Ok(before.min(10))
            }
        };
        assert_eq!(steps(10, step.clone()).await.unwrap(), 25);
        left.store(12, Ordering::Relaxed);
        assert_eq!(steps(1, step).await.unwrap(), 12);
    }
}
