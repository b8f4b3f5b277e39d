//! The hub: one task reads the runtime's feed of committed changes, keeps the newest in a ring, and wakes those who
//! wait for a task.
//!
//! Protocol. The feed task is the only writer of the ring. Streams do not have buffers: each reads the ring at its
//! own pace from its own position, and one that fell behind the ring's end is told to load anew (`Since::Gap`).
//! Waiters of one task get its changes through a channel of [`WAITER_BUFFER`]; one that does not read loses the
//! channel, not a change in the middle. A waiter registers first and reads the store second, so that nothing falls
//! between.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tidewheel_engine::id::TaskId;
use tidewheel_runtime::{Change, Runtime};
use tokio::sync::{Notify, broadcast, mpsc, watch};

/// Changes kept for streams that resume. About 64 bytes each.
const RING_CHANGES: usize = 65_536;
/// Changes of one task that a waiter may be behind.
const WAITER_BUFFER: usize = 32;

pub(crate) struct Hub {
    /// Tells this process's event ids from those of an earlier one.
    pub(crate) boot: u64,
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
    waiters: Mutex<HashMap<TaskId, Vec<mpsc::Sender<Seen>>>>,
    /// Number of tasks waited for; spares the lock while there are none.
    waiting: AtomicUsize,
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

/// What a waiter is told.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// It changed.
    Change(Change),
    /// Changes may have been missed: read the store.
    Resync,
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
            waiters: Mutex::default(),
            waiting: AtomicUsize::new(0),
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
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.wake(&batch);
        }
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

    fn wake(&self, batch: &[Change]) {
        let mut waiters = self.waiters.lock();
        for change in batch {
            if let Some(list) = waiters.get_mut(&change.task) {
                list.retain(|sender| sender.try_send(Seen::Change(change.clone())).is_ok());
            }
        }
    }

    /// The feed ran over: positions before now are gone, and every waiter has to look for itself.
    fn lost(&self) {
        let mut ring = self.ring.lock();
        ring.batches.clear();
        ring.held = 0;
        ring.next += 1;
        let next = ring.next;
        drop(ring);
        for list in self.waiters.lock().values_mut() {
            list.retain(|sender| sender.try_send(Seen::Resync).is_ok());
        }
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
    pub(crate) fn watch(self: &Arc<Self>, task: TaskId) -> TaskWatch {
        let (sender, receiver) = mpsc::channel(WAITER_BUFFER);
        let mut waiters = self.waiters.lock();
        waiters.entry(task).or_default().push(sender);
        self.waiting.store(waiters.len(), Ordering::Release);
        TaskWatch { hub: self.clone(), task, receiver }
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

/// A registration that ends when it is dropped.
pub(crate) struct TaskWatch {
    hub: Arc<Hub>,
    task: TaskId,
    receiver: mpsc::Receiver<Seen>,
}

impl TaskWatch {
    /// The next change; [`Seen::Resync`] also when the channel was lost.
    pub(crate) async fn next(&mut self) -> Seen {
        match self.receiver.recv().await {
            Some(seen) => seen,
            None => {
                *self = self.hub.watch(self.task);
                Seen::Resync
            }
        }
    }
}

impl Drop for TaskWatch {
    fn drop(&mut self) {
        self.receiver.close();
        let mut waiters = self.hub.waiters.lock();
        if let Some(list) = waiters.get_mut(&self.task) {
            list.retain(|sender| !sender.is_closed());
            if list.is_empty() {
                waiters.remove(&self.task);
            }
        }
        self.hub.waiting.store(waiters.len(), Ordering::Release);
    }
}
