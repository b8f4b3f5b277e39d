//! Counters for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidewheel_store::Figures;

#[derive(Default)]
pub(crate) struct Counters {
    commits: AtomicU64,
    batches: AtomicU64,
    mutations: AtomicU64,
    commit_us: AtomicU64,
    /// One per commit (of the log), two per checkpoint (of the log before, of the database after).
    fsyncs: AtomicU64,
    pub(crate) wal_bytes: AtomicU64,
    pub(crate) reads: AtomicU64,
}

impl Counters {
    pub(crate) fn committed(&self, batches: usize, mutations: usize, took: Duration) {
        if batches == 0 {
            return;
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.batches.fetch_add(batches as u64, Ordering::Relaxed);
        self.mutations.fetch_add(mutations as u64, Ordering::Relaxed);
        self.commit_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    pub(crate) fn synced(&self, times: u64) {
        self.fsyncs.fetch_add(times, Ordering::Relaxed);
    }

    pub(crate) fn figures(&self, database_bytes: u64) -> Figures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            commits: read(&self.commits),
            batches: read(&self.batches),
            mutations: read(&self.mutations),
            fsyncs: read(&self.fsyncs),
            commit_us: read(&self.commit_us),
            wal_bytes: read(&self.wal_bytes),
            database_bytes,
            reads: read(&self.reads),
        }
    }
}
