//! Counters for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidewheel_store::{Connections, Figures, Times};

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
    syncs: [AtomicU64; Times::EDGES_US.len() + 1],
    sync_us: AtomicU64,
    /// Connections of the writer and of the copier.
    pub(crate) writers: AtomicU64,
    pub(crate) copiers: AtomicU64,
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

    /// A commit took so long to reach the disk.
    pub(crate) fn sync_took(&self, took: Duration) {
        let us = took.as_micros() as u64;
        self.syncs[Times::slot(us)].fetch_add(1, Ordering::Relaxed);
        self.sync_us.fetch_add(us, Ordering::Relaxed);
    }

    /// `readers` are used and idle.
    pub(crate) fn figures(&self, database_bytes: u64, readers: (usize, usize)) -> Figures {
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
            syncs: Times { counts: std::array::from_fn(|slot| read(&self.syncs[slot])), sum_us: read(&self.sync_us) },
            connections: Connections {
                writers: read(&self.writers),
                copiers: read(&self.copiers),
                readers_used: readers.0 as u64,
                readers_idle: readers.1 as u64,
            },
        }
    }
}
