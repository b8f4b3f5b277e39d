//! Waiting for changes of one thing: a task or a run. One task reads the runtime's feed and wakes those who wait.
//!
//! Protocol. A waiter registers first and reads second, so that nothing falls between. It gets the changes through a channel of
//! [`BUFFER`]; one that does not read loses the channel, not a change in the middle, and is told to look for itself.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Changes of one thing that a waiter may be behind.
const BUFFER: usize = 64;

/// Who waits for changes `C` of which `K`.
pub(crate) struct Waiters<K, C> {
    all: Mutex<HashMap<K, Vec<mpsc::Sender<Seen<C>>>>>,
    /// Number of things waited for; spares the lock while there are none.
    waiting: AtomicUsize,
}

/// What a waiter is told.
#[derive(Clone, Debug)]
pub(crate) enum Seen<C> {
    /// It changed.
    Change(C),
    /// Changes may have been missed: look.
    Resync,
}

impl<K, C> Default for Waiters<K, C> {
    fn default() -> Waiters<K, C> {
        Waiters { all: Mutex::default(), waiting: AtomicUsize::new(0) }
    }
}

impl<K: Copy + Eq + Hash, C: Clone> Waiters<K, C> {
    /// Tells those who wait for what changed.
    pub(crate) fn wake(&self, changes: &[C], of: impl Fn(&C) -> K) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut all = self.all.lock();
        for change in changes {
            if let Some(list) = all.get_mut(&of(change)) {
                list.retain(|sender| sender.try_send(Seen::Change(change.clone())).is_ok());
            }
        }
    }

    /// The feed ran over: every waiter has to look for itself.
    pub(crate) fn lost(&self) {
        for list in self.all.lock().values_mut() {
            list.retain(|sender| sender.try_send(Seen::Resync).is_ok());
        }
    }

    /// Waits for changes of one thing from now on.
    pub(crate) fn watch(self: &Arc<Self>, key: K) -> Watch<K, C> {
        let (sender, receiver) = mpsc::channel(BUFFER);
        let mut all = self.all.lock();
        all.entry(key).or_default().push(sender);
        self.waiting.store(all.len(), Ordering::Release);
        Watch { waiters: self.clone(), key, receiver }
    }
}

/// A registration that ends when it is dropped.
pub(crate) struct Watch<K: Copy + Eq + Hash, C: Clone> {
    waiters: Arc<Waiters<K, C>>,
    key: K,
    receiver: mpsc::Receiver<Seen<C>>,
}

impl<K: Copy + Eq + Hash, C: Clone> Watch<K, C> {
    /// The next change; [`Seen::Resync`] also when the channel was lost.
    pub(crate) async fn next(&mut self) -> Seen<C> {
        match self.receiver.recv().await {
            Some(seen) => seen,
            None => {
                *self = self.waiters.watch(self.key);
                Seen::Resync
            }
        }
    }
}

impl<K: Copy + Eq + Hash, C: Clone> Drop for Watch<K, C> {
    fn drop(&mut self) {
        self.receiver.close();
        let mut all = self.waiters.all.lock();
        if let Some(list) = all.get_mut(&self.key) {
            list.retain(|sender| !sender.is_closed());
            if list.is_empty() {
                all.remove(&self.key);
            }
        }
        self.waiters.waiting.store(all.len(), Ordering::Release);
    }
}
