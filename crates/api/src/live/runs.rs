//! Waiting for changes of runs: one task reads the runtime's feed of them.

use std::sync::Arc;

use tidewheel_engine::id::RunId;
use tidewheel_runtime::{RunChange, Runtime};
use tokio::sync::broadcast;

use super::waiters::{Waiters, Watch};

/// Who waits for which run.
pub(crate) type RunWaiters = Waiters<RunId, RunChange>;
/// A registration for a run.
pub(crate) type RunWatch = Watch<RunId, RunChange>;

/// Starts the task, which ends with the last that holds what comes back.
pub(crate) fn start(runtime: &Runtime) -> Arc<RunWaiters> {
    let waiters = Arc::new(RunWaiters::default());
    let mut feed = runtime.run_feed();
    let weak = Arc::downgrade(&waiters);
    tokio::spawn(async move {
        loop {
            let event = feed.recv().await;
            let Some(waiters) = weak.upgrade() else { return };
            match event {
                Ok(batch) => waiters.wake(&batch, |change| change.run),
                Err(broadcast::error::RecvError::Lagged(_)) => waiters.lost(),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    });
    waiters
}
