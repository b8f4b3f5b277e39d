//! The database file: who may open it, and how a connection to it is set up.
//!
//! One process at a time holds the lock file beside it, for SQLite's own locks would let a second server in between
//! two transactions. The lock is the kernel's, so a dead process leaves none behind.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tidewheel_store::Error;

use crate::error::During;
use crate::hot;

/// Where the data is. A temporary place goes away with the value.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Held, never read: the lock ends with it.
    lock: Mutex<Option<File>>,
    temporary: bool,
}

impl Place {
    /// Takes the lock of a database path. `:memory:` stands for a temporary file, since readers need one to share.
    pub(crate) fn take(path: &Path) -> Result<Place, Error> {
        let temporary = path == Path::new(":memory:");
        let path = if temporary { temporary_path() } else { path.to_owned() };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| failed("create the folder of", &path, &e))?;
        }
        let lock = lock(&path)?;
        Ok(Place { path, lock: Mutex::new(Some(lock)), temporary })
    }

    /// Lets another process open the database; all connections are closed.
    pub(crate) fn give_back(&self) {
        drop(self.lock.lock().take());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary {
            for suffix in ["", "-wal", "-shm", ".lock"] {
                // Best effort: what stays is an unused file in the temporary folder.
                let _ = std::fs::remove_file(beside(&self.path, suffix));
            }
        }
    }
}

fn temporary_path() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("tidewheel-{}-{number}.db", std::process::id()))
}

/// The path with something appended to its last part.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::Failed(format!("cannot {what} {}: {error}", path.display()))
}

/// How often, and how long apart, a lock that somebody holds is tried again.
const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(25);

fn lock(path: &Path) -> Result<File, Error> {
    let name = beside(path, ".lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&name).map_err(|e| failed("open", &name, &e))?;
    // A process that this one has just started holds a copy of the old lock until it runs its own program.
    let mut tries = LOCK_TRIES;
    let mut locked = file.try_lock();
    while tries > 0 && matches!(locked, Err(TryLockError::WouldBlock)) {
        tries -= 1;
        std::thread::sleep(LOCK_WAIT);
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // Who it is, is only for the message.
            let _ = file.read_to_string(&mut owner);
            let owner = owner.trim();
            let owner = if owner.is_empty() { "another process".to_owned() } else { format!("process {owner}") };
            return Err(Error::Failed(format!("{} is in use by {owner}", path.display())));
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock", &name, &error)),
    }
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
    written.map_err(|e| failed("write", &name, &e))?;
    Ok(file)
}

/// Page size of a new database. Rows of about 100 bytes that are written twice within seconds: see the measurements in
/// the example `lifecycle`.
const PAGE_BYTES: u32 = 4_096;
/// The write-ahead log keeps so much of its file when it starts over: writing into allocated space syncs faster.
const LOG_KEPT_BYTES: i64 = 128 << 20;
/// Page cache of a reader.
const READER_CACHE_KIB: i64 = 4 << 10;

/// A plan never depends on bound values. Otherwise SQLite would prepare a statement again for each new value of a limit,
/// which costs ten times as much as running it.
fn keep_plans(connection: &Connection) -> Result<(), Error> {
    let kept = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true);
    kept.during("set up a connection").map(drop)
}

/// Opens the connection that writes, and creates the database.
pub(crate) fn open_writer(path: &Path, cache_kib: i64, durable: bool) -> Result<Connection, Error> {
    hot::without_memory_count();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).during("open the database")?;
    keep_plans(&connection)?;
    let set = |name: &str, value: &dyn rusqlite::ToSql| {
        connection.pragma_update(None, name, value).during("set up the database")
    };
    set("page_size", &PAGE_BYTES)?;
    set("journal_mode", &"wal")?;
    set("synchronous", &if durable { "full" } else { "off" })?;
    set("wal_autocheckpoint", &0)?;
    set("journal_size_limit", &LOG_KEPT_BYTES)?;
    set("cache_size", &-cache_kib)?;
    set("foreign_keys", &false)?;
    set("temp_store", &"memory")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Keeps the database below a size; 0 = any size.
pub(crate) fn limit(connection: &Connection, bytes: u64) -> Result<(), Error> {
    if bytes == 0 {
        return Ok(());
    }
    let page: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0)).during("read the page size")?;
    let pages = (bytes / u64::from(page)).clamp(1, u64::from(u32::MAX - 1)) as i64;
    let set = connection.pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0));
    set.during("limit the database").map(drop)
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).during("open the database for reading")?;
    keep_plans(&connection)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB).during("set up a reader")?;
    connection.pragma_update(None, "temp_store", "memory").during("set up a reader")?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).during("set up a reader")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Opens the connection that copies the log into the database.
pub(crate) fn open_copier(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).during("open the database for checkpoints")?;
    for (name, value) in [("synchronous", "full"), ("wal_autocheckpoint", "0")] {
        connection.pragma_update(None, name, value).during("set up checkpoints")?;
    }
    Ok(connection)
}
