//! Reads on committed state. Each takes a connection of its own for one short transaction, so that no reader can hold
//! the write-ahead log back for long.

use std::path::PathBuf;

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, OptionalExtension, params};
use tidewheel_engine::id::{QueueId, TaskId, TenantId};
use tidewheel_engine::load::{Due, Load, Loaded};
use tidewheel_engine::mutation::AttemptRecord;
use tidewheel_engine::task::Task;
use tidewheel_store::{Error, codec};

use crate::batch::signed;
use crate::error::During;
use crate::keys::run::Found;
use crate::layout::{lane_of, ready_key, task_key, timer_key};
use crate::row::full_columns;
use crate::{files, keys, row, run_read};

/// Connections at once; further readers wait for one. More would only fight for two cores.
const READERS: usize = 8;

/// The pool.
pub(crate) struct Readers {
    path: PathBuf,
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    opened: usize,
    closed: bool,
}

impl Readers {
    pub(crate) fn new(path: PathBuf) -> Readers {
        Readers { path, pool: Mutex::default(), returned: Condvar::new() }
    }

    /// Runs a read with a connection, inside one transaction: all its statements see the same commits.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let connection = Borrowed { readers: self, connection: Some(self.take()?) };
        let connection = connection.connection.as_ref().expect("it is given back on drop only");
        let transaction = connection.unchecked_transaction().during("begin a read")?;
        let result = read(&transaction);
        transaction.finish().during("end a read")?;
        result
    }

    /// Runs one statement that may not be inside a transaction, on a connection of its own.
    pub(crate) fn read_alone<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        read(&files::open_reader(&self.path)?)
    }

    /// Connections in use, and those that wait for the next read.
    pub(crate) fn open(&self) -> (usize, usize) {
        let pool = self.pool.lock();
        (pool.opened - pool.idle.len(), pool.idle.len())
    }

    fn take(&self) -> Result<Connection, Error> {
        let mut pool = self.pool.lock();
        loop {
            if pool.closed {
                return Err(Error::Closed);
            }
            if let Some(connection) = pool.idle.pop() {
                return Ok(connection);
            }
            if pool.opened < READERS {
                pool.opened += 1;
                drop(pool);
                return files::open_reader(&self.path).inspect_err(|_| {
                    self.pool.lock().opened -= 1;
                    self.returned.notify_all();
                });
            }
            self.returned.wait(&mut pool);
        }
    }

    /// Lets nobody in any more, and returns when all connections are closed.
    pub(crate) fn close(&self) {
        let mut pool = self.pool.lock();
        pool.closed = true;
        self.returned.notify_all();
        loop {
            pool.opened -= pool.idle.len();
            pool.idle.clear();
            if pool.opened == 0 {
                return;
            }
            self.returned.wait(&mut pool);
        }
    }
}

struct Borrowed<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.readers.pool.lock().idle.push(connection);
            self.readers.returned.notify_all();
        }
    }
}

pub(crate) const SELECT_INDEX: &str = "SELECT last_index FROM partition WHERE id = ?1";
pub(crate) const SELECT_TASK: &str = concat!("SELECT ", full_columns!(), " FROM task t WHERE t.key = ?1");
pub(crate) const SELECT_LANE: &str = concat!(
    "SELECT ",
    full_columns!(),
    " FROM task t WHERE t.ready >= ?1 AND t.ready <= ?2 ORDER BY t.ready, t.key LIMIT ?3"
);
pub(crate) const SELECT_NEXT_LANE: &str =
    "SELECT ready FROM task WHERE ready >= ?1 AND ready < ?2 ORDER BY ready LIMIT 1";
pub(crate) const SELECT_DUE: &str =
    concat!("SELECT ", full_columns!(), " FROM task t WHERE t.timer > ?1 AND t.timer <= ?2 ORDER BY t.timer LIMIT ?3");
pub(crate) const SELECT_KEY_PAGE: &str = "SELECT entries FROM key_page WHERE page = ?1";
pub(crate) const SELECT_ATTEMPTS: &str = "SELECT number, body FROM attempt WHERE key = ?1 ORDER BY number";

/// Index of the newest commit that the transaction sees.
pub(crate) fn as_of(connection: &Connection, partition: u32) -> Result<u64, Error> {
    let mut statement = connection.prepare_cached(SELECT_INDEX).during("read the partition")?;
    let index: Option<i64> =
        statement.query_row([partition], |row| row.get(0)).optional().during("read the partition")?;
    Ok(index.unwrap_or(0) as u64)
}

/// Answers a read of the engine.
///
/// `None` means that the transaction is too old for what memory knows: the read has to be made again.
pub(crate) fn load(connection: &Connection, index: &keys::Index, wanted: &Load) -> Result<Option<Loaded>, Error> {
    Ok(Some(match wanted {
        Load::Tasks(wanted) => {
            let found = wanted.iter().map(|(tenant, id)| task(connection, *tenant, *id));
            Loaded::Tasks(found.collect::<Result<_, _>>()?)
        }
        Load::Idempotency { tenant, hash } => match key(connection, index, *tenant, hash)? {
            Some(found) => Loaded::Idempotency(found),
            None => return Ok(None),
        },
        Load::Lane { queue, lane, from, limit } => Loaded::Lane(rows_of(connection, *queue, *lane, *from, *limit)?),
        Load::Lanes { queue, from, until, lanes, rows } => {
            let mut found = Vec::new();
            let mut start = *from;
            while found.len() < *lanes {
                let Some(lane) = next_lane(connection, *queue, start, *until)? else { break };
                found.push((lane, rows_of(connection, *queue, lane, 0, *rows)?));
                let Some(next) = lane.checked_add(1) else { break };
                start = next;
            }
            Loaded::Lanes(found)
        }
        Load::Due { from, until, limit } => {
            let (after, last) = (timer_key(from.0, TaskId(from.1)), timer_key(*until, TaskId(u128::MAX)));
            let tasks = tasks(connection, SELECT_DUE, params![after, last, signed(*limit as u64)])?;
            let mut due: Vec<Due> = tasks.into_iter().map(|task| Due::Task(Box::new(task))).collect();
            let timers = run_read::due(connection, *from, *until, *limit)?;
            if !timers.is_empty() {
                due.extend(timers);
                due.sort_by_key(Due::place);
                due.truncate(*limit);
            }
            Loaded::Due(due)
        }
        Load::Run { tenant, run, at_most } => run_read::within(connection, *tenant, *run, *at_most)?,
        Load::History(tenant, run) => Loaded::Run(run_read::stored(connection, *tenant, *run, true)?),
        Load::Values(tenant, hashes) => {
            let found = hashes.iter().map(|hash| run_read::value(connection, *tenant, hash));
            // What is empty is a blob.
            let bytes = found.map(|value| Ok(value?.filter(|bytes| !bytes.is_empty())));
            Loaded::Values(bytes.collect::<Result<_, Error>>()?)
        }
    }))
}

fn tasks(connection: &Connection, sql: &str, bounds: &[&dyn rusqlite::ToSql]) -> Result<Vec<Task>, Error> {
    let mut statement = connection.prepare_cached(sql).during("read tasks")?;
    let mut rows = statement.query(bounds).during("read tasks")?;
    let mut found = Vec::new();
    while let Some(next) = rows.next().during("read tasks")? {
        found.push(row::full(connection, next)?);
    }
    Ok(found)
}

fn rows_of(connection: &Connection, queue: QueueId, lane: i64, from: u64, limit: usize) -> Result<Vec<Task>, Error> {
    let (first, last) = (ready_key(queue, lane, from), ready_key(queue, lane, u64::MAX));
    tasks(connection, SELECT_LANE, params![first, last, signed(limit as u64)])
}

/// One seek, however many rows a lane has.
fn next_lane(connection: &Connection, queue: QueueId, from: i64, until: i64) -> Result<Option<i64>, Error> {
    let mut statement = connection.prepare_cached(SELECT_NEXT_LANE).during("read lanes")?;
    let range = params![ready_key(queue, from, 0), ready_key(queue, until, 0)];
    let found: Option<Vec<u8>> = statement.query_row(range, |row| row.get(0)).optional().during("read lanes")?;
    found.map(|ready| lane_of(&ready)).transpose()
}

/// One task with its input.
pub(crate) fn task(connection: &Connection, tenant: TenantId, id: TaskId) -> Result<Option<Task>, Error> {
    let mut statement = connection.prepare_cached(SELECT_TASK).during("read a task")?;
    let mut rows = statement.query([task_key(tenant, id)]).during("read a task")?;
    match rows.next().during("read a task")? {
        Some(found) => row::full(connection, found).map(Some),
        None => Ok(None),
    }
}

/// A key's task and body hash. The outer `None`: see [`load`].
type KeyFound = Option<Option<(TaskId, u64)>>;

fn key(connection: &Connection, index: &keys::Index, tenant: TenantId, hash: &[u8; 16]) -> Result<KeyFound, Error> {
    let print = keys::fingerprint(tenant, hash);
    for page in index.pages(print) {
        let mut statement = connection.prepare_cached(SELECT_KEY_PAGE).during("read a key")?;
        let entries: Option<Vec<u8>> =
            statement.query_row([page as i64], |row| row.get(0)).optional().during("read a key")?;
        if let Some(found) = entries.and_then(|entries| keys::find(&entries, tenant, hash)) {
            return Ok(Some(Some(found)));
        }
    }
    for run in index.runs(print) {
        match run.find(connection, tenant, hash)? {
            Found::Key(task, body) => return Ok(Some(Some((task, body)))),
            Found::Nothing => {}
            Found::Unseen => return Ok(None),
        }
    }
    Ok(Some(None))
}

/// Ended attempts of a task, oldest first.
pub(crate) fn attempts(connection: &Connection, tenant: TenantId, id: TaskId) -> Result<Vec<AttemptRecord>, Error> {
    let mut statement = connection.prepare_cached(SELECT_ATTEMPTS).during("read attempts")?;
    let mut rows = statement.query([task_key(tenant, id)]).during("read attempts")?;
    let mut found = Vec::new();
    while let Some(next) = rows.next().during("read attempts")? {
        let number: u32 = next.get(0).during("read attempts")?;
        let body: Vec<u8> = next.get(1).during("read attempts")?;
        found.push(codec::decode_attempt(tenant, id, number, &body)?);
    }
    Ok(found)
}
