//! Log lines: a database of their own with full-text search, so that results never wait for logs.
//!
//! One thread writes. It takes all that waits, stores it in one transaction and answers every caller after the sync; a
//! line that is there already (same attempt and number) is left out, so that a resend is harmless.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::types::ToSql;
use rusqlite::{Connection, Row, params};
use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_store::Error;
use tidewheel_store::log::{Level, Line, LogPage, LogQuery, LogStore, Stream};

use crate::error::{During, map};
use crate::{files, migrate};

const INSERT: &str = "INSERT OR IGNORE INTO line (tenant, task, attempt, number, at, stream, level, text) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
const INSERT_TEXT: &str = "INSERT INTO line_text (rowid, text) VALUES (?1, ?2)";
const DELETE_TEXT: &str = "DELETE FROM line_text WHERE rowid IN (SELECT row FROM line WHERE at < ?1 ORDER BY row LIMIT ?2)";
const DELETE: &str = "DELETE FROM line WHERE row IN (SELECT row FROM line WHERE at < ?1 ORDER BY row LIMIT ?2)";
const COLUMNS: &str = "line.row, line.tenant, line.task, line.attempt, line.number, line.at, line.stream, line.level, line.text";
/// Page cache of the writer.
const CACHE_KIB: i64 = 16 << 10;
/// The log of changes is copied into the database when it has so many pages.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Readers kept open.
const READERS: usize = 4;
/// Lines of one transaction.
const LINES_AT_ONCE: usize = 50_000;

type Answer = SyncSender<Result<u64, Error>>;

enum Job {
    Append(Vec<Line>, Answer),
    Sweep(u64, usize, Answer),
}

/// See the module.
pub struct SqliteLogStore {
    place: files::Place,
    jobs: Mutex<Option<Sender<Job>>>,
    writer: OnceLock<Mutex<Option<JoinHandle<()>>>>,
    readers: Mutex<Vec<Connection>>,
}

impl SqliteLogStore {
    /// Opens or creates the log database. `:memory:` is a temporary file.
    ///
    /// # Errors
    ///
    /// When the file cannot be used, is in use by another process, or is damaged or too new.
    pub fn open(path: &Path) -> Result<Arc<SqliteLogStore>, Error> {
        let place = files::Place::take(path)?;
        let mut connection = files::open_writer(&place.path, CACHE_KIB, true)?;
        migrate::logs(&mut connection)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).during("set up the log database")?;
        let (sender, receiver) = channel();
        let store = Arc::new(SqliteLogStore {
            place,
            jobs: Mutex::new(Some(sender)),
            writer: OnceLock::new(),
            readers: Mutex::default(),
        });
        let thread = std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || write(connection, &receiver));
        let thread = thread.map_err(|e| Error::Failed(format!("the log writer does not start: {e}")))?;
        store.writer.get_or_init(|| Mutex::new(Some(thread)));
        Ok(store)
    }

    /// Stores what waits and closes the files.
    pub fn close(&self) {
        drop(self.jobs.lock().take());
        if let Some(thread) = self.writer.get().and_then(|w| w.lock().take()) {
            // A panic of the writer has been printed by itself.
            let _ = thread.join();
        }
        self.readers.lock().clear();
        self.place.give_back();
    }

    fn run(&self, make: impl FnOnce(Answer) -> Job) -> Result<u64, Error> {
        let (answer, receiver) = sync_channel(1);
        let sent = self.jobs.lock().as_ref().map(|jobs| jobs.send(make(answer)));
        match sent {
            Some(Ok(())) => receiver.recv().unwrap_or(Err(Error::Closed)),
            _ => Err(Error::Closed),
        }
    }

    fn read(&self, query: &LogQuery) -> Result<LogPage, Error> {
        let pooled = self.readers.lock().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => files::open_reader(&self.place.path)?,
        };
        let page = select(&connection, query);
        let mut readers = self.readers.lock();
        if readers.len() < READERS {
            readers.push(connection);
        }
        page
    }
}

impl Drop for SqliteLogStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl LogStore for SqliteLogStore {
    fn append(&self, lines: Vec<Line>) -> Result<(), Error> {
        if lines.is_empty() {
            return Ok(());
        }
        self.run(|answer| Job::Append(lines, answer)).map(|_| ())
    }

    fn query(&self, query: &LogQuery) -> Result<LogPage, Error> {
        self.read(query)
    }

    fn sweep(&self, before: u64, limit: usize) -> Result<u64, Error> {
        self.run(|answer| Job::Sweep(before, limit, answer))
    }
}

fn write(mut connection: Connection, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        let mut lines = 0;
        while lines < LINES_AT_ONCE
            && let Ok(next) = jobs.try_recv()
        {
            lines += if let Job::Append(more, _) = &next { more.len() } else { 1 };
            batch.push(next);
        }
        let result = store(&mut connection, &batch);
        for (i, job) in batch.into_iter().enumerate() {
            let (Job::Append(_, answer) | Job::Sweep(_, _, answer)) = job;
            // The caller may have gone; its lines are stored all the same.
            let _ = answer.send(result.as_ref().map(|counts| counts[i]).map_err(Clone::clone));
        }
    }
}

fn store(connection: &mut Connection, batch: &[Job]) -> Result<Vec<u64>, Error> {
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .during("begin to store log lines")?;
    let mut counts = Vec::with_capacity(batch.len());
    for job in batch {
        counts.push(match job {
            Job::Append(lines, _) => append(&transaction, lines).during("store log lines")?,
            Job::Sweep(before, limit, _) => sweep(&transaction, *before, *limit).during("delete old log lines")?,
        });
    }
    transaction.commit().map_err(|error| map("store log lines", &error))?;
    Ok(counts)
}

fn append(connection: &Connection, lines: &[Line]) -> rusqlite::Result<u64> {
    let mut insert = connection.prepare_cached(INSERT)?;
    let mut text = connection.prepare_cached(INSERT_TEXT)?;
    let mut stored = 0;
    for line in lines {
        let id = line.task.to_bytes();
        let (stream, level) = (line.stream as u8, line.level as u8);
        let fields = params![line.tenant.0, id, line.attempt, line.offset as i64, line.at as i64, stream, level, line.text];
        if insert.execute(fields)? == 1 {
            text.execute(params![connection.last_insert_rowid(), line.text])?;
            stored += 1;
        }
    }
    Ok(stored)
}

fn sweep(connection: &Connection, before: u64, limit: usize) -> rusqlite::Result<u64> {
    let bounds = params![before as i64, limit as i64];
    connection.execute(DELETE_TEXT, bounds)?;
    Ok(connection.execute(DELETE, bounds)? as u64)
}

/// The statement of a search and its values. A task's lines come in order of arrival; a tenant's newest first.
fn select(connection: &Connection, query: &LogQuery) -> Result<LogPage, Error> {
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(query.tenant.0)];
    let mut sql = format!("SELECT {COLUMNS} FROM line WHERE line.tenant = ?1");
    let words = query.text.as_deref().map(match_words).filter(|words| !words.is_empty());
    if let Some(words) = words {
        sql = format!("SELECT {COLUMNS} FROM line_text JOIN line ON line.row = line_text.rowid WHERE line.tenant = ?1 AND line_text MATCH ?2");
        values.push(Box::new(words));
    }
    let mut add = |sql: &mut String, condition: &str, value: Box<dyn ToSql>| {
        values.push(value);
        sql.push_str(&format!(" AND {condition} ?{}", values.len()));
    };
    if let Some(task) = query.task {
        add(&mut sql, "line.task =", Box::new(task.to_bytes().to_vec()));
    }
    if let Some(attempt) = query.attempt {
        add(&mut sql, "line.attempt =", Box::new(attempt));
    }
    if let Some(level) = query.level {
        add(&mut sql, "line.level >=", Box::new(level as u8));
    }
    let newest_first = query.tail || query.task.is_none();
    if let Some(cursor) = query.cursor {
        let side = if query.task.is_some() { "line.row >" } else { "line.row <" };
        add(&mut sql, side, Box::new(cursor as i64));
    }
    let order = if newest_first { "DESC" } else { "ASC" };
    sql.push_str(&format!(" ORDER BY line.row {order} LIMIT {}", query.limit.clamp(1, 10_000)));
    let mut statement = connection.prepare_cached(&sql).during("search log lines")?;
    let bound: Vec<&dyn ToSql> = values.iter().map(AsRef::as_ref).collect();
    let rows = statement.query_map(&bound[..], line_of).during("search log lines")?;
    let mut page = rows.collect::<rusqlite::Result<LogPage>>().during("search log lines")?;
    if query.tail && query.task.is_some() {
        page.reverse();
    }
    Ok(page)
}

fn line_of(row: &Row<'_>) -> rusqlite::Result<(u64, Line)> {
    let task: [u8; 16] = row.get(2)?;
    let line = Line {
        tenant: TenantId(row.get(1)?),
        task: TaskId::from_bytes(task),
        attempt: row.get(3)?,
        offset: row.get::<_, i64>(4)? as u64,
        at: row.get::<_, i64>(5)? as u64,
        stream: match row.get::<_, u8>(6)? {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            _ => Stream::Log,
        },
        level: match row.get::<_, u8>(7)? {
            1 => Level::Debug,
            2 => Level::Info,
            3 => Level::Warning,
            _ => Level::Error,
        },
        text: row.get(8)?,
    };
    Ok((row.get::<_, i64>(0)? as u64, line))
}

/// Each word as a quoted term, so that nothing of the text is taken for the search language.
fn match_words(text: &str) -> String {
    let words = text.split_whitespace().map(|word| format!("\"{}\"", word.replace('"', "\"\"")));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(task: u128, offset: u64, text: &str) -> Line {
        Line {
            tenant: TenantId(1),
            task: TaskId(task),
            attempt: 1,
            offset,
            at: 1_000 + offset,
            stream: Stream::Stdout,
            level: Level::Info,
            text: text.to_owned(),
        }
    }

    fn texts(page: &LogPage) -> Vec<&str> {
        page.iter().map(|(_, line)| line.text.as_str()).collect()
    }

    #[test]
    fn lines_come_back_in_order_and_a_resend_is_harmless() {
        let store = SqliteLogStore::open(Path::new(":memory:")).expect("a store");
        store.append(vec![line(1, 0, "one"), line(1, 1, "two")]).expect("stored");
        store.append(vec![line(1, 1, "two"), line(1, 2, "three")]).expect("stored");
        let query = LogQuery { tenant: TenantId(1), task: Some(TaskId(1)), limit: 10, ..LogQuery::default() };
        let page = store.query(&query).expect("a page");
        assert_eq!(texts(&page), ["one", "two", "three"]);
        let rest = store.query(&LogQuery { cursor: Some(page[0].0), ..query.clone() }).expect("the rest");
        assert_eq!(texts(&rest), ["two", "three"]);
        let tail = store.query(&LogQuery { tail: true, limit: 2, ..query }).expect("the tail");
        assert_eq!(texts(&tail), ["two", "three"]);
    }

    #[test]
    fn words_are_found_newest_first_and_only_in_the_tenant() {
        let store = SqliteLogStore::open(Path::new(":memory:")).expect("a store");
        store.append(vec![line(1, 0, "connection refused by host"), line(2, 0, "Connection reset")]).expect("stored");
        let query = LogQuery { tenant: TenantId(1), text: Some("connection".into()), limit: 10, ..LogQuery::default() };
        assert_eq!(texts(&store.query(&query).expect("found")), ["Connection reset", "connection refused by host"]);
        let both = LogQuery { text: Some("refused connection".into()), ..query.clone() };
        assert_eq!(texts(&store.query(&both).expect("found")), ["connection refused by host"]);
        let hostile = LogQuery { text: Some("\" OR 1=1 NEAR( *".into()), ..query.clone() };
        assert_eq!(texts(&store.query(&hostile).expect("no error")), [""; 0]);
        let other = LogQuery { tenant: TenantId(2), ..query };
        assert!(store.query(&other).expect("nothing").is_empty());
    }

    #[test]
    fn old_lines_go_with_their_words() {
        let store = SqliteLogStore::open(Path::new(":memory:")).expect("a store");
        store.append((0..10).map(|i| line(1, i, "word")).collect()).expect("stored");
        assert_eq!(store.sweep(1_005, 100).expect("swept"), 5);
        let query = LogQuery { tenant: TenantId(1), text: Some("word".into()), limit: 100, ..LogQuery::default() };
        assert_eq!(store.query(&query).expect("found").len(), 5);
    }
}
