//! The hub: one task reads the runtime's feed of committed changes, keeps the newest in a ring, and wakes those who
//! wait for a task.
//!
//! Protocol. The feed task is the only writer of the ring. Streams do not have buffers: each reads the ring at its
//! own pace from its own position, and one that fell behind the ring's end is told to load anew (`Since::Gap`).
//! Those who wait for one task are [`super::waiters`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tidewheel_engine::id::TaskId;
use tidewheel_runtime::{Change, Runtime};
use tokio::sync::{Notify, broadcast, watch};

use super::waiters::{Waiters, Watch};

/// Changes kept for streams that resume. About 64 bytes each.
const RING_CHANGES: usize = 65_536;
/// A registration for a task.
pub(crate) type TaskWatch = Watch<TaskId, Change>;

pub(crate) struct Hub {
    /// Tells this process's event ids from those of an earlier one.
    pub(crate) boot: u64,
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
    waiters: Arc<Waiters<TaskId, Change>>,
    log_waiters: Mutex<HashMap<TaskId, Arc<Notify>>>,
}

#[derive(Default)]
struct Ring {
    /// Sequence number of the first change of each batch, and the batch.
    batches: VecDeque<(u64, Arc<Vec<Change>>)>,
    held: usize,
    /// Sequence number of the next change.
    next: u64,
}

/// What happened after a position.
pub(crate) enum Since {
    /// These batches, the first from this index on; and the position after them.
    Changes(Vec<(u64, Arc<Vec<Change>>)>, u64),
    /// The position is no longer in the ring; the position to go on from.
    Gap(u64),
}

impl Hub {
    pub(crate) fn start(runtime: &Runtime) -> Arc<Hub> {
        let hub = Arc::new(Hub {
            boot: runtime.now_ms(),
            ring: Mutex::default(),
            newest: watch::Sender::new(0),
            waiters: Arc::default(),
            log_waiters: Mutex::default(),
        });
        let mut feed = runtime.feed();
        let weak = Arc::downgrade(&hub);
        tokio::spawn(async move {
            loop {
                let event = feed.recv().await;
                let Some(hub) = weak.upgrade() else { return };
                match event {
                    Ok(batch) => hub.take(batch),
                    Err(broadcast::error::RecvError::Lagged(_)) => hub.lost(),
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        hub
    }

    fn take(&self, batch: Arc<Vec<Change>>) {
        self.waiters.wake(&batch, |change| change.task);
        let mut ring = self.ring.lock();
        let first = ring.next;
        ring.next += batch.len() as u64;
        ring.held += batch.len();
        ring.batches.push_back((first, batch));
        while ring.held > RING_CHANGES && ring.batches.len() > 1 {
            if let Some((_, old)) = ring.batches.pop_front() {
                ring.held -= old.len();
            }
        }
        let next = ring.next;
        drop(ring);
        self.newest.send_replace(next);
    }

    /// The feed ran over: positions before now are gone, and every waiter has to look for itself.
    fn lost(&self) {
        let mut ring = self.ring.lock();
        ring.batches.clear();
        ring.held = 0;
        ring.next += 1;
        let next = ring.next;
        drop(ring);
        self.waiters.lost();
        self.newest.send_replace(next);
    }

    /// The position after the newest change.
    pub(crate) fn position(&self) -> u64 {
        self.ring.lock().next
    }

    /// Signals each new position.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// What happened since a position.
    pub(crate) fn since(&self, position: u64) -> Since {
        let ring = self.ring.lock();
        if position > ring.next {
            return Since::Gap(ring.next);
        }
        let first = ring.batches.front().map_or(ring.next, |(first, _)| *first);
        if position < first {
            return Since::Gap(ring.next);
        }
        let start = ring.batches.partition_point(|(first, batch)| first + batch.len() as u64 <= position);
        Since::Changes(ring.batches.range(start..).cloned().collect(), ring.next)
    }

    /// Waits for changes of one task from now on.
    pub(crate) fn watch(&self, task: TaskId) -> TaskWatch {
        self.waiters.watch(task)
    }

    /// Signalled when log lines of a task were stored.
    pub(crate) fn watch_logs(&self, task: TaskId) -> Arc<Notify> {
        self.log_waiters.lock().entry(task).or_default().clone()
    }

    /// Log lines of these tasks were stored.
    pub(crate) fn logs_arrived(&self, tasks: impl Iterator<Item = TaskId>) {
        let mut waiters = self.log_waiters.lock();
        if waiters.is_empty() {
            return;
        }
        // One that nobody holds any more is dropped on the way.
        waiters.retain(|_, notify| Arc::strong_count(notify) > 1);
        for task in tasks {
            if let Some(notify) = waiters.get(&task) {
                notify.notify_waiters();
            }
        }
    }
}
