//! Log lines: a database of their own with full-text search, so that results never wait for logs.
//!
//! One thread writes ([`writer`]): it takes all that waits, stores it in one transaction and answers every caller after
//! the sync. Readers ([`query`]) have connections of their own. A line that is there already (same attempt and number)
//! is left out, so that a resend is harmless.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tidewheel_store::Error;
use tidewheel_store::log::{Line, LogPage, LogQuery, LogStore};

use crate::error::During;
use crate::reader::Readers;
use crate::{files, migrate};

mod query;
mod writer;

/// Page cache of the writer in KiB.
const CACHE_KIB: i64 = 16 << 10;
/// The log of changes is copied into the database when it has so many pages. Only other log lines wait for that.
const CHECKPOINT_PAGES: u32 = 4_000;

/// A store of log lines in one SQLite file.
pub struct SqliteLogStore {
    inbox: Arc<writer::Inbox>,
    readers: Readers,
    thread: Mutex<Option<JoinHandle<()>>>,
    place: files::Place,
}

impl SqliteLogStore {
    /// Opens or creates the log database. `:memory:` is a temporary file.
    ///
    /// # Errors
    ///
    /// When the file cannot be used, is in use by another process, or is damaged or too new.
    pub fn open(path: &Path) -> Result<Arc<SqliteLogStore>, Error> {
        let place = files::Place::take(path)?;
        let durable = path != Path::new(":memory:");
        let mut connection = files::open_writer(&place.path, CACHE_KIB, durable)?;
        migrate::logs(&mut connection)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).during("set up the log database")?;
        let inbox = Arc::new(writer::Inbox::default());
        let thread = std::thread::Builder::new().name("log-writer".to_owned()).spawn({
            let inbox = Arc::clone(&inbox);
            move || writer::run(&connection, &inbox)
        });
        let thread = thread.map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
        let readers = Readers::new(place.path.clone());
        Ok(Arc::new(SqliteLogStore { inbox, readers, thread: Mutex::new(Some(thread)), place }))
    }

    /// Stores what waits and closes the files.
    pub fn close(&self) {
        self.inbox.close();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the writer has been printed by itself.
            let _ = thread.join();
            self.readers.close();
            self.place.give_back();
        }
    }
}

impl Drop for SqliteLogStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl LogStore for SqliteLogStore {
    fn append(&self, lines: Vec<Line>) -> Result<(), Error> {
        if lines.is_empty() { Ok(()) } else { self.inbox.append(lines) }
    }

    fn query(&self, query: &LogQuery) -> Result<LogPage, Error> {
        self.readers.read(|connection| query::page(connection, query))
    }

    fn sweep(&self, before: u64, limit: usize) -> Result<u64, Error> {
        self.inbox.sweep(before, limit)
    }

    fn backup(&self, path: &Path) -> Result<(), Error> {
        crate::copy_into(&self.readers, path)
    }
}

#[cfg(test)]
mod tests;
