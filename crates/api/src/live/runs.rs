//! Waiting for changes of runs: one task reads the runtime's feed and wakes those who wait for a run.
//!
//! Protocol as in [`super::hub`]: a waiter registers first and reads second; one that does not read loses its channel, not a
//! change in the middle.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tidewheel_engine::id::RunId;
use tidewheel_runtime::{RunChange, Runtime};
use tokio::sync::{broadcast, mpsc};

/// Changes of one run that a waiter may be behind.
const WAITER_BUFFER: usize = 64;

#[derive(Default)]
pub(crate) struct RunHub {
    waiters: Mutex<HashMap<RunId, Vec<mpsc::Sender<Seen>>>>,
    /// Number of runs waited for; spares the lock while there are none.
    waiting: AtomicUsize,
}

/// What a waiter is told.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// It changed.
    Change(RunChange),
    /// Changes may have been missed: look.
    Resync,
}

impl RunHub {
    pub(crate) fn start(runtime: &Runtime) -> Arc<RunHub> {
        let hub = Arc::new(RunHub::default());
        let mut feed = runtime.run_feed();
        let weak = Arc::downgrade(&hub);
        tokio::spawn(async move {
            loop {
                let event = feed.recv().await;
                let Some(hub) = weak.upgrade() else { return };
                match event {
                    Ok(batch) => hub.wake(&batch),
                    Err(broadcast::error::RecvError::Lagged(_)) => hub.lost(),
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        hub
    }

    fn wake(&self, batch: &[RunChange]) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut waiters = self.waiters.lock();
        for change in batch {
            if let Some(list) = waiters.get_mut(&change.run) {
                list.retain(|sender| sender.try_send(Seen::Change(*change)).is_ok());
            }
        }
    }

    /// The feed ran over: every waiter has to look for itself.
    fn lost(&self) {
        for list in self.waiters.lock().values_mut() {
            list.retain(|sender| sender.try_send(Seen::Resync).is_ok());
        }
    }

    /// Waits for changes of one run from now on.
    pub(crate) fn watch(self: &Arc<Self>, run: RunId) -> RunWatch {
        let (sender, receiver) = mpsc::channel(WAITER_BUFFER);
        let mut waiters = self.waiters.lock();
        waiters.entry(run).or_default().push(sender);
        self.waiting.store(waiters.len(), Ordering::Release);
        RunWatch { hub: self.clone(), run, receiver }
    }
}

/// A registration that ends when it is dropped.
pub(crate) struct RunWatch {
    hub: Arc<RunHub>,
    run: RunId,
    receiver: mpsc::Receiver<Seen>,
}

impl RunWatch {
    /// The next change; [`Seen::Resync`] also when the channel was lost.
    pub(crate) async fn next(&mut self) -> Seen {
        match self.receiver.recv().await {
            Some(seen) => seen,
            None => {
                *self = self.hub.watch(self.run);
                Seen::Resync
            }
        }
    }
}

impl Drop for RunWatch {
    fn drop(&mut self) {
        self.receiver.close();
        let mut waiters = self.hub.waiters.lock();
        if let Some(list) = waiters.get_mut(&self.run) {
            list.retain(|sender| !sender.is_closed());
            if list.is_empty() {
                waiters.remove(&self.run);
            }
        }
        self.hub.waiting.store(waiters.len(), Ordering::Release);
    }
}
