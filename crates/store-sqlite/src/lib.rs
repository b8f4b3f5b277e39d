//! The SQLite store: the embedded default.
//!
//! One thread writes (`writer`), any number read (`reader`), one copies the log into the database (`checkpoint`).
//! All SQL of tasks is here; the crate knows nothing of commands, scheduling or the network.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use tidewheel_engine::id::{RunId, TaskId, TenantId};
use tidewheel_engine::load::{Load, Loaded, StoredRun};
use tidewheel_engine::mutation::{AttemptRecord, Batch, Recovered};
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::journal::Segment;
use tidewheel_engine::task::Task;
use tidewheel_store::{Committed, Error, Figures, RunPage, RunQuery, Store, TaskPage, TaskQuery};

mod batch;
mod checkpoint;
mod error;
mod figures;
mod files;
mod hot;
mod keys;
mod layout;
mod list;
mod logs;
mod migrate;
mod reader;
mod recover;
mod row;
mod run;
mod run_read;
mod running;
mod statement;
mod sweep;
mod unnamed;
mod writer;

/// A copy of a database as of one moment, in a new file that is on disk when this returns.
fn copy_into(readers: &reader::Readers, path: &Path) -> Result<(), Error> {
    let name = path.to_str().ok_or_else(|| Error::Failed("the path is not UTF-8".to_owned()))?;
    readers.read_alone(|connection| connection.execute("VACUUM INTO ?1", [name]).during("copy the store"))?;
    // The copy is asked for to be kept: SQLite itself does not sync it.
    let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::Fsync(format!("the copy at {} is not on disk: {error}", path.display())))
}

#[cfg(test)]
mod plans;

use error::During;
use layout::TaskKey;
pub use logs::SqliteLogStore;

/// Settings of the store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Page cache of the writer in KiB.
    pub cache_kib: u32,
    /// Whether a commit is on disk when it is reported. Off only for tests that do not look at durability.
    pub durable: bool,
    /// Length of the write-ahead log at which it is copied into the database. It may be up to four times as long while
    /// that goes on, and longer while a reader (a backup) holds it.
    pub checkpoint_bytes: u64,
    /// Memory for idempotency keys: about 24 bytes for each of the newest, 2 for older ones. What does not fit costs each
    /// new key a read. The default serves 16 million keys in their 24 hours.
    pub key_bytes: usize,
    /// The database may not grow beyond this; then commits fail as if the disk were full. 0 = as far as the disk goes.
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { cache_kib: 64 << 10, durable: true, checkpoint_bytes: 64 << 20, key_bytes: 64 << 20, max_bytes: 0 }
    }
}

/// Fewer running tasks than this are not worth a thread.
const KEYS_PER_THREAD: usize = 20_000;

/// A load is made again if it met keys that had just moved; each time it has a newer view.
const LOAD_TRIES: usize = 5;

/// A store in one SQLite file.
pub struct SqliteStore {
    inbox: Arc<writer::Inbox>,
    readers: Arc<reader::Readers>,
    bell: Arc<keys::keeper::Bell>,
    index: Arc<keys::Index>,
    counters: Arc<figures::Counters>,
    copier: Arc<checkpoint::Shared>,
    cursor: sweep::Cursor,
    threads: Mutex<Vec<JoinHandle<()>>>,
    place: files::Place,
}

impl SqliteStore {
    /// Opens or creates a database; `:memory:` is a temporary one. A second process (or a second call) is refused while
    /// the first is open.
    pub fn open(path: &Path, options: Options) -> Result<Arc<SqliteStore>, Error> {
        let place = files::Place::take(path)?;
        let durable = options.durable && path != Path::new(":memory:");
        let mut connection = files::open_writer(&place.path, i64::from(options.cache_kib), durable)?;
        migrate::store(&mut connection)?;
        files::limit(&connection, options.max_bytes)?;
        let counters = Arc::new(figures::Counters::default());
        let index = Arc::new(keys::Index::new(options.key_bytes));
        let books = writer::Books { keys: keys::open_book(&connection)?, running: running::rebuild(&connection)? };
        let copier = Arc::new(checkpoint::Shared::default());
        let log = checkpoint::Log::watch(&mut connection, Arc::clone(&copier), options.checkpoint_bytes)?;
        let inbox = Arc::new(writer::Inbox::default());
        let readers = Arc::new(reader::Readers::new(place.path.clone()));
        let bell = Arc::new(keys::keeper::Bell::default());
        let threads = vec![
            spawn("store-writer", {
                let (inbox, index, counters) = (Arc::clone(&inbox), Arc::clone(&index), Arc::clone(&counters));
                let bell = Arc::clone(&bell);
                move || {
                    counters.writers.store(1, Ordering::Relaxed);
                    let ended = Arc::clone(&counters);
                    if let Err(error) = writer::run(&connection, inbox, index, bell, counters, books, log) {
                        tracing::error!(%error, "the writer cannot start");
                    }
                    drop(connection);
                    ended.writers.store(0, Ordering::Relaxed);
                }
            })?,
            spawn("store-copier", {
                let (path, shared, counters) = (place.path.clone(), Arc::clone(&copier), Arc::clone(&counters));
                move || checkpoint::copy(path, shared, counters)
            })?,
            spawn("store-keys", {
                let (bell, readers) = (Arc::clone(&bell), Arc::clone(&readers));
                let (inbox, index) = (Arc::clone(&inbox), Arc::clone(&index));
                move || keys::keeper::work(&bell, &readers, &inbox, &index)
            })?,
        ];
        let (cursor, threads) = (sweep::Cursor::default(), Mutex::new(threads));
        Ok(Arc::new(SqliteStore { inbox, readers, bell, index, counters, copier, cursor, threads, place }))
    }

    /// Checks the whole file: `Ok` if SQLite finds it sound. Reads everything.
    pub fn verify(&self) -> Result<(), Error> {
        self.readers.read(|connection| {
            let answer: String =
                connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).during("check the file")?;
            if answer == "ok" { Ok(()) } else { Err(Error::Corrupt(answer)) }
        })
    }

    /// The running ones of many tasks, read by as many threads as the machine has.
    ///
    /// Each has a transaction of its own: what runs in the partition that is being opened cannot change, and what runs
    /// in another is of no interest to the caller.
    fn running(&self, keys: &[TaskKey]) -> Result<(Vec<Task>, Vec<TaskKey>), Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        let part = keys.len().div_ceil(threads).max(KEYS_PER_THREAD);
        let read = |part| self.read(|connection| recover::running(connection, part));
        let (mut running, mut over) = (Vec::with_capacity(keys.len()), Vec::new());
        std::thread::scope(|scope| {
            let parts: Vec<_> = keys.chunks(part).map(|part| scope.spawn(move || read(part))).collect();
            for part in parts {
                let found = part.join().unwrap_or_else(|_| Err(Error::Failed("a reader has panicked".to_owned())))?;
                running.extend(found.0);
                over.extend(found.1);
            }
            Ok((running, over))
        })
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        self.readers.read(read)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))
}

impl Store for SqliteStore {
    fn open(&self, partition: u32) -> Result<Recovered, Error> {
        let mut recovered = self.inbox.run(move |connection| recover::raise_epoch(connection, partition))?;
        let (keys, last) = self.read(|connection| {
            recover::fill(connection, &mut recovered)?;
            recover::running_keys(connection)
        })?;
        let (running, over) = self.running(&keys)?;
        recovered.running = running;
        if !over.is_empty() {
            self.inbox.prune_running(over, last);
        }
        Ok(recovered)
    }

    fn commit(&self, batch: Batch, done: Committed) {
        self.inbox.commit(batch::encode(batch), done);
    }

    fn load(&self, partition: u32, load: &Load) -> Result<(u64, Loaded), Error> {
        if let Load::Idempotency { .. } = load {
            self.index.wait_until_filled()?;
        }
        for _ in 0..LOAD_TRIES {
            let loaded = self.read(|connection| {
                let as_of = reader::as_of(connection, partition)?;
                Ok(reader::load(connection, &self.index, load)?.map(|loaded| (as_of, loaded)))
            })?;
            if let Some(loaded) = loaded {
                return Ok(loaded);
            }
        }
        Err(Error::Failed("the idempotency keys were on the move".to_owned()))
    }

    fn may_know(&self, tenant: TenantId, hash: &[u8; 16]) -> bool {
        self.index.may_know(keys::fingerprint(tenant, hash))
    }

    fn task(&self, tenant: TenantId, id: TaskId) -> Result<Option<Task>, Error> {
        self.read(|connection| reader::task(connection, tenant, id))
    }

    fn tasks(&self, query: &TaskQuery) -> Result<TaskPage, Error> {
        self.read(|connection| list::tasks(connection, query))
    }

    fn attempts(&self, tenant: TenantId, id: TaskId) -> Result<Vec<AttemptRecord>, Error> {
        self.read(|connection| reader::attempts(connection, tenant, id))
    }

    fn sweep(&self, now: u64, finished_before: u64, limit: usize) -> Result<u64, Error> {
        let old = match finished_before {
            0 => Vec::new(),
            before => sweep::find(&self.readers, &self.cursor, before, limit)?,
        };
        let keys = self.inbox.forget_keys(now, limit)?;
        if old.is_empty() {
            return Ok(keys);
        }
        let tasks = self.inbox.run(move |connection| {
            sweep::transaction(connection, |connection| sweep::remove(connection, &old, finished_before))
        })?;
        Ok(keys + tasks)
    }

    fn run(&self, tenant: TenantId, run: RunId) -> Result<Option<Box<StoredRun>>, Error> {
        self.read(|connection| run_read::stored(connection, tenant, run, false))
    }

    fn turns(&self, tenant: TenantId, run: RunId, after: u64, limit: usize) -> Result<Vec<Segment>, Error> {
        self.read(|connection| run_read::turns(connection, tenant, run, after, limit))
    }

    fn runs(&self, query: &RunQuery) -> Result<RunPage, Error> {
        self.read(|connection| run_read::list(connection, query))
    }

    fn value(&self, tenant: TenantId, hash: &[u8; 32]) -> Result<Option<Bytes>, Error> {
        self.read(|connection| run_read::value(connection, tenant, hash))
    }

    fn run_counts(&self, tenant: TenantId, at_most: u64) -> Result<Vec<(Phase, u64)>, Error> {
        self.read(|connection| run_read::counts(connection, tenant, at_most))
    }

    fn sweep_runs(&self, ended_before: u64, limit: usize) -> Result<u64, Error> {
        self.inbox.run(move |connection| {
            sweep::transaction(connection, |connection| {
                let gone = run_read::sweep(connection, ended_before, limit)?;
                unnamed::step(connection)?;
                Ok(gone)
            })
        })
    }

    fn backup(&self, path: &Path) -> Result<(), Error> {
        copy_into(&self.readers, path)
    }

    fn figures(&self) -> Figures {
        let size = std::fs::metadata(&self.place.path).map_or(0, |metadata| metadata.len());
        self.counters.figures(size, self.readers.open())
    }

    fn close(&self) {
        self.inbox.close();
        self.readers.close();
        self.bell.end();
        let mut threads = self.threads.lock();
        if threads.is_empty() {
            return;
        }
        // In the order they were started: the writer goes on to ask the others until it ends.
        for thread in threads.drain(..1) {
            let _ = thread.join();
        }
        self.copier.end();
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
        self.place.give_back();
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.close();
    }
}
