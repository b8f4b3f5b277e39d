//! Moving the write-ahead log into the database.
//!
//! A long log slows readers and restarts, and a checkpoint of a long log would hold up commits. So a thread with a
//! connection of its own copies the bulk while commits go on (a passive checkpoint excludes nobody); then the writer,
//! between two transactions, copies the little that came meanwhile, and its next write starts the log over at its
//! beginning. A log that nobody writes to is emptied once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use tidewheel_store::Error;

use crate::error::During;
use crate::figures::Counters;
use crate::files;

/// The writer copies everything itself when the log is so many times as long as it should be: a reader was in the way.
const TOO_LONG: u64 = 4;

/// The copier goes over what came meanwhile until less than this is left for the writer: a millisecond or so of its time.
const LITTLE: u64 = 2 << 20;
/// It stops all the same after so many passes.
const PASSES: usize = 5;

const PASSIVE: &str = "PRAGMA wal_checkpoint(PASSIVE)";
const TRUNCATE: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

const WAITING: u8 = 0;
const WANTED: u8 = 1;
const COPIED: u8 = 2;
const ENDED: u8 = 3;

/// What writer and copier share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Bytes of the log that count, set after each commit.
    bytes: AtomicU64,
    state: AtomicU8,
    lock: Mutex<()>,
    changed: Condvar,
    /// The disk failed to keep what the copier gave it.
    failed: Mutex<Option<Error>>,
}

impl Shared {
    fn set(&self, state: u8) {
        let _guard = self.lock.lock();
        // The end is final.
        if self.state.load(Ordering::Acquire) != ENDED {
            self.state.store(state, Ordering::Release);
        }
        self.changed.notify_all();
    }

    /// Ends the copier.
    pub(crate) fn end(&self) {
        self.set(ENDED);
    }
}

/// The writer's side.
pub(crate) struct Log {
    shared: Arc<Shared>,
    /// Bytes at which the bulk is copied.
    long: u64,
    /// Bytes that the copier has been asked at.
    asked_at: u64,
    rested: bool,
}

impl Log {
    /// Watches the log of the writer's connection.
    pub(crate) fn watch(connection: &mut Connection, shared: Arc<Shared>, long: u64) -> Result<Log, Error> {
        let page: u32 =
            connection.pragma_query_value(None, "page_size", |row| row.get(0)).during("read the page size")?;
        let watched = Arc::clone(&shared);
        let hook = move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            watched.bytes.store(u64::from(pages.unsigned_abs()) * u64::from(page), Ordering::Release);
            Ok(())
        };
        connection.wal_hook(Some(hook)).during("watch the log")?;
        Ok(Log { shared, long: long.max(1), asked_at: 0, rested: true })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Acquire)
    }

    /// Between two transactions: lets the log start over if the bulk of it has been copied. An error means that the disk
    /// did not keep what it was told to keep.
    pub(crate) fn checkpoint_if_long(&mut self, connection: &Connection, counters: &Counters) -> Result<(), Error> {
        let bytes = self.bytes();
        self.rested = false;
        if bytes < self.long {
            self.asked_at = 0;
        }
        match self.shared.state.load(Ordering::Acquire) {
            WAITING if bytes >= self.asked_at + self.long => {
                self.asked_at = bytes;
                self.shared.set(WANTED);
            }
            COPIED => {
                self.shared.set(WAITING);
                if let Some(error) = self.shared.failed.lock().take() {
                    return Err(error);
                }
                run(connection, PASSIVE, counters)?;
            }
            _ if bytes >= self.asked_at + TOO_LONG * self.long => {
                self.asked_at = bytes;
                run(connection, PASSIVE, counters)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether there is something to empty when nobody writes.
    pub(crate) fn wants_rest(&self) -> bool {
        !self.rested
    }

    /// Empties the log, once until something is written again.
    pub(crate) fn rest(&mut self, connection: &Connection, counters: &Counters) -> Result<(), Error> {
        self.rested = true;
        if run(connection, TRUNCATE, counters)? {
            self.shared.bytes.store(0, Ordering::Release);
            self.asked_at = 0;
            counters.wal_bytes.store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Runs a checkpoint; whether all of the log was copied. Most failures are no loss: the log stays, and the next try
/// comes. But a failed sync is: a second one may report success for pages that are gone, and the log would be dropped.
fn run(connection: &Connection, sql: &str, counters: &Counters) -> Result<bool, Error> {
    counters.synced(2);
    let result = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    match result.during("copy the write-ahead log into the database") {
        Ok::<(i64, i64, i64), _>((busy, log, copied)) => Ok(busy == 0 && log == copied),
        Err(error @ Error::Fsync(_)) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the write-ahead log stays as it is for now");
            Ok(false)
        }
    }
}

/// The copier's thread.
pub(crate) fn copy(path: PathBuf, shared: Arc<Shared>, counters: Arc<Counters>) {
    let mut connection = None;
    loop {
        let mut guard = shared.lock.lock();
        loop {
            match shared.state.load(Ordering::Acquire) {
                WANTED => break,
                ENDED => return counters.copiers.store(0, Ordering::Relaxed),
                _ => shared.changed.wait(&mut guard),
            }
        }
        drop(guard);
        if connection.is_none() {
            connection = files::open_copier(&path)
                .inspect_err(|error| tracing::warn!(%error, "the write-ahead log is not copied"))
                .ok();
            counters.copiers.store(u64::from(connection.is_some()), Ordering::Relaxed);
        }
        if let Some(connection) = &connection
            && let Err(error) = copy_most(connection, &shared, &counters)
        {
            *shared.failed.lock() = Some(error);
        }
        shared.set(COPIED);
    }
}

fn copy_most(connection: &Connection, shared: &Shared, counters: &Counters) -> Result<(), Error> {
    for _ in 0..PASSES {
        let before = shared.bytes.load(Ordering::Acquire);
        run(connection, PASSIVE, counters)?;
        let left = shared.bytes.load(Ordering::Acquire).saturating_sub(before);
        if left < LITTLE || shared.state.load(Ordering::Acquire) == ENDED {
            break;
        }
    }
    Ok(())
}
