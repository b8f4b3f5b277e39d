//! The thread that stores log lines.

use std::collections::{BTreeSet, VecDeque};
use std::sync::mpsc::{SyncSender, sync_channel};

use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, params};
use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_store::Error;
use tidewheel_store::log::Line;

use super::query::kind_of;
use crate::batch::signed;
use crate::error::During;
use crate::sweep::transaction;

const FIND_SOURCE: &str = "INSERT INTO source (tenant, task, attempt) VALUES (?1, ?2, ?3) \
     ON CONFLICT (tenant, task, attempt) DO UPDATE SET attempt = excluded.attempt RETURNING id";
const INSERT: &str =
    "INSERT OR IGNORE INTO line (tenant, source, number, at, kind, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const INSERT_TEXT: &str = "INSERT INTO line_text (rowid, text, owner) VALUES (?1, ?2, ?3)";
const SELECT_OLD: &str = "SELECT row, source, at FROM line WHERE row > ?1 ORDER BY row LIMIT ?2";
const DELETE_TEXT: &str = "DELETE FROM line_text WHERE rowid = ?1";
const DELETE: &str = "DELETE FROM line WHERE row = ?1";
const DELETE_SOURCE: &str =
    "DELETE FROM source WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM line WHERE line.source = source.id)";

/// Lines of one transaction.
const LINES_AT_ONCE: usize = 20_000;
/// Attempts whose numbers are kept in memory.
const SOURCES_KEPT: usize = 100_000;
/// Rows looked at for each one that may go, so that lines of a clock that was ahead do not stop a sweep.
const LOOKED_AT_PER_ROW: usize = 16;

type Answer<T> = SyncSender<Result<T, Error>>;

enum Item {
    Append(Vec<Line>, Answer<()>),
    Sweep(u64, usize, Answer<u64>),
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    closed: bool,
}

/// The queue in front of the writer.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl Inbox {
    pub(super) fn append(&self, lines: Vec<Line>) -> Result<(), Error> {
        self.ask(|answer| Item::Append(lines, answer))
    }

    pub(super) fn sweep(&self, before: u64, limit: usize) -> Result<u64, Error> {
        self.ask(|answer| Item::Sweep(before, limit, answer))
    }

    fn ask<T>(&self, item: impl FnOnce(Answer<T>) -> Item) -> Result<T, Error> {
        let (answer, answered) = sync_channel(1);
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Error::Closed);
        }
        waiting.items.push_back(item(answer));
        drop(waiting);
        self.arrived.notify_one();
        // If the writer has ended without an answer, it ended by a panic.
        answered.recv().unwrap_or_else(|_| Err(Error::Failed("the log writer has ended".to_owned())))
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_one();
    }

    /// All that waits, within the bound; `None` at the end.
    fn next(&self) -> Option<Vec<Item>> {
        let mut waiting = self.waiting.lock();
        while waiting.items.is_empty() {
            if waiting.closed {
                return None;
            }
            self.arrived.wait(&mut waiting);
        }
        let (mut taken, mut lines) = (Vec::new(), 0);
        while lines < LINES_AT_ONCE
            && let Some(item) = waiting.items.pop_front()
        {
            lines += if let Item::Append(more, _) = &item { more.len() } else { 1 };
            taken.push(item);
        }
        Some(taken)
    }
}

/// If the thread ends by a panic, nobody may wait for ever.
struct Farewell<'a>(&'a Inbox);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.closed = true;
        waiting.items.clear();
    }
}

/// Runs until the inbox is closed and empty.
pub(super) fn run(connection: &Connection, inbox: &Inbox) {
    let _farewell = Farewell(inbox);
    let mut writer = Writer { connection, sources: HashMap::new(), swept: 0, fatal: None };
    while let Some(items) = inbox.next() {
        let (mut appends, mut sweeps) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::Append(lines, answer) => appends.push((lines, answer)),
                Item::Sweep(before, limit, answer) => sweeps.push((before, limit, answer)),
            }
        }
        if !appends.is_empty() {
            let result = writer.append(appends.iter().flat_map(|(lines, _)| lines));
            for (_, answer) in appends {
                // The caller may have gone; its lines are stored all the same.
                let _ = answer.send(result.clone());
            }
        }
        for (before, limit, answer) in sweeps {
            let _ = answer.send(writer.sweep(before, limit));
        }
    }
}

struct Writer<'c> {
    connection: &'c Connection,
    sources: HashMap<(TenantId, TaskId, u32), i64>,
    /// Where the next sweep goes on.
    swept: i64,
    /// After a failed sync nothing is written any more.
    fatal: Option<Error>,
}

impl Writer<'_> {
    fn attempt<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(error) = &self.fatal {
            return Err(error.clone());
        }
        let result = transaction(self.connection, |_| work(self));
        if let Err(error) = &result {
            // Numbers that the transaction gave out are not stored.
            self.sources.clear();
            if matches!(error, Error::Fsync(_)) {
                tracing::error!(%error, "the disk failed to keep log lines; no more are written");
                self.fatal = Some(error.clone());
            }
        }
        result
    }

    fn append<'a>(&mut self, lines: impl Iterator<Item = &'a Line>) -> Result<(), Error> {
        self.attempt(|writer| {
            for line in lines {
                let source = writer.source(line)?;
                let mut insert = writer.connection.prepare_cached(INSERT).during("store log lines")?;
                let (number, at) = (signed(line.offset), signed(line.at));
                let row = params![line.tenant.0, source, number, at, kind_of(line.stream, line.level), line.text];
                if insert.execute(row).during("store log lines")? == 1 {
                    let mut words = writer.connection.prepare_cached(INSERT_TEXT).during("store log lines")?;
                    let row = params![writer.connection.last_insert_rowid(), line.text, owner(line.tenant)];
                    words.execute(row).during("store log lines")?;
                }
            }
            Ok(())
        })
    }

    /// The number of a line's attempt.
    fn source(&mut self, line: &Line) -> Result<i64, Error> {
        let key = (line.tenant, line.task, line.attempt);
        if let Some(source) = self.sources.get(&key) {
            return Ok(*source);
        }
        let mut find = self.connection.prepare_cached(FIND_SOURCE).during("store log lines")?;
        let values = params![line.tenant.0, line.task.to_bytes(), line.attempt];
        let source = find.query_row(values, |row| row.get(0)).during("store log lines")?;
        if self.sources.len() >= SOURCES_KEPT {
            self.sources.clear();
        }
        self.sources.insert(key, source);
        Ok(source)
    }

    /// Deletes old lines from where the last call ended.
    fn sweep(&mut self, before: u64, limit: usize) -> Result<u64, Error> {
        self.attempt(|writer| {
            let old = writer.find_old(before, limit)?;
            let run = |sql: &str, value: i64| {
                let mut statement = writer.connection.prepare_cached(sql).during("delete log lines")?;
                statement.execute([value]).during("delete log lines")
            };
            for (row, _) in &old {
                run(DELETE_TEXT, *row)?;
                run(DELETE, *row)?;
            }
            let sources: BTreeSet<i64> = old.iter().map(|(_, source)| *source).collect();
            let mut gone = 0;
            for source in sources {
                gone += run(DELETE_SOURCE, source)?;
            }
            if gone > 0 {
                writer.sources.clear();
            }
            Ok(old.len() as u64)
        })
    }

    fn find_old(&mut self, before: u64, limit: usize) -> Result<Vec<(i64, i64)>, Error> {
        let look = limit.saturating_mul(LOOKED_AT_PER_ROW);
        let mut statement = self.connection.prepare_cached(SELECT_OLD).during("find old log lines")?;
        let mut rows = statement.query([self.swept, signed(look as u64)]).during("find old log lines")?;
        let (mut old, mut seen) = (Vec::new(), 0);
        while let Some(found) = rows.next().during("find old log lines")? {
            let get = |column| found.get::<_, i64>(column).during("find old log lines");
            let (row, source, at) = (get(0)?, get(1)?, get(2)?);
            (self.swept, seen) = (row, seen + 1);
            if at < signed(before) {
                old.push((row, source));
                if old.len() == limit {
                    return Ok(old);
                }
            }
        }
        if seen < look {
            self.swept = 0;
        }
        Ok(old)
    }
}

/// The word that stands for a tenant.
pub(super) fn owner(tenant: TenantId) -> String {
    format!("t{}", tenant.0)
}
