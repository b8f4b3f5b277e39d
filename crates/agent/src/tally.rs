//! What happened since the last heartbeat, for the server's metrics: use of the package cache, starts of Python, packages
//! that could not be fetched ahead. Bounded; what does not fit is dropped, because it is only statistics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidewheel_proto::v1::{Heartbeat, PackageFault, PackageUse, PythonStart};

/// Entries between two heartbeats.
const MOST: usize = 256;

#[derive(Default)]
pub(crate) struct Tally {
    hits: AtomicU64,
    misses: AtomicU64,
    fetched: AtomicU64,
    reused: AtomicU64,
    starts: Mutex<Vec<PythonStart>>,
    failed: Mutex<Vec<PackageFault>>,
}

impl Tally {
    /// A package was needed; whether it was there.
    pub(crate) fn package(&self, hit: bool) {
        if hit { &self.hits } else { &self.misses }.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of a package came over the network, or from others in the cache.
    pub(crate) fn bytes(&self, fetched: u64, reused: u64) {
        self.fetched.fetch_add(fetched, Ordering::Relaxed);
        self.reused.fetch_add(reused, Ordering::Relaxed);
    }

    /// An environment was built, or a process takes calls.
    pub(crate) fn start(&self, kind: &str, took: Duration) {
        let mut starts = self.starts.lock();
        if starts.len() < MOST {
            starts.push(PythonStart { kind: kind.to_owned(), seconds: took.as_secs_f32() });
        }
    }

    /// A package that the server asked for could not be fetched.
    pub(crate) fn failed(&self, hash: String, reason: String) {
        let mut failed = self.failed.lock();
        if failed.len() < MOST {
            failed.push(PackageFault { hash, reason });
        }
    }

    /// Moves everything into a heartbeat.
    pub(crate) fn tell(&self, beat: &mut Heartbeat) {
        let take = |n: &AtomicU64| n.swap(0, Ordering::Relaxed);
        let used = PackageUse {
            hits: take(&self.hits),
            misses: take(&self.misses),
            fetched_bytes: take(&self.fetched),
            reused_bytes: take(&self.reused),
        };
        beat.package_use = (used != PackageUse::default()).then_some(used);
        beat.python_starts = std::mem::take(&mut self.starts.lock());
        beat.packages_failed = std::mem::take(&mut self.failed.lock());
    }
}
