//! Durable runs: what the writer does for them, and the statements for it.
//!
//! A turn is one row in one tree, and no index. A head that is written again touches the row alone unless its phase, its end
//! or what it is found by has changed.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Statement};
use tidewheel_engine::id::TenantId;
use tidewheel_engine::mutation::{Mutation, RunRecord};
use tidewheel_engine::run::head::{Head, Identity, Phase};
use tidewheel_store::Error;
use tidewheel_store::codec::{self, phase_number};
use tidewheel_store::run::attribute_text;
use tidewheel_store::{Hash, naming};

use crate::batch::{Encoded, Encoder, Span, mark, signed};
use crate::error::During;
use crate::hot::Hot;
use crate::layout::{PartKey, RunKey, RunTimerKey, ValueKey, part_key, run_key, run_timer_key, value_key};

pub(crate) const UPDATE_PLAIN: &str = "UPDATE run SET changed = ?2, turns = ?3, head = ?4 \
     WHERE key = ?1 AND live IS ?5 AND ended IS ?6 AND marks = ?7";
pub(crate) const UPDATE: &str =
    "UPDATE run SET changed = ?2, turns = ?3, head = ?4, live = ?5, ended = ?6, marks = ?7 WHERE key = ?1";
const INSERT: &str =
    "INSERT OR FAIL INTO run (key, changed, turns, head, live, ended, marks) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
pub(crate) const SELECT_MARKS: &str = "SELECT marks FROM run WHERE key = ?1";
const PUT_MARK: &str = "INSERT OR IGNORE INTO run_mark (mark, key) VALUES (?1, ?2)";
pub(crate) const DELETE_MARK: &str = "DELETE FROM run_mark WHERE mark = ?1 AND key = ?2";
pub(crate) const APPEND_TURN: &str = "INSERT OR FAIL INTO run_turn (key, body) VALUES (?1, ?2)";
const APPEND_LONG_TURN: &str = "INSERT OR FAIL INTO run_turn (key, long) VALUES (?1, ?2)";
const PUT_LONG: &str = "INSERT INTO run_long (bytes) VALUES (?1)";
pub(crate) const DELETE_LONG: &str = "DELETE FROM run_long WHERE id = ?1";
const PUT_EVENT: &str = "INSERT OR FAIL INTO run_event (key, body, long) VALUES (?1, ?2, ?3)";
pub(crate) const DELETE_EVENT: &str = "DELETE FROM run_event WHERE key = ?1 RETURNING long";
const PUT_TIMER: &str =
    "INSERT INTO run_timer (key, due) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET due = excluded.due";
pub(crate) const DELETE_TIMER: &str = "DELETE FROM run_timer WHERE key = ?1";
const PUT_VALUE: &str = "INSERT INTO value (key, bytes) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET bytes = excluded.bytes WHERE length(value.bytes) = 0";
pub(crate) const PUT_NAME: &str = "INSERT OR IGNORE INTO value_name (value, namer) VALUES (?1, ?2)";

/// Longest turn or event inside its row: with its key it stays below the 1,002 bytes that a row keeps in its place.
const SHORT_BYTES: usize = 900;

/// What changes of runs.
#[derive(Debug)]
pub(crate) enum RunOp {
    Put(Box<RunRow>),
    Turn {
        key: PartKey,
        body: Span,
    },
    Timer {
        key: PartKey,
        due: RunTimerKey,
    },
    DeleteTimer(PartKey),
    Event {
        key: PartKey,
        body: Span,
    },
    DeleteEvent(PartKey),
    Value {
        key: ValueKey,
        bytes: Bytes,
    },
    /// Something names a value.
    Name {
        value: ValueKey,
        by: Span,
    },
}

/// A run as it is now.
#[derive(Debug)]
pub(crate) struct RunRow {
    key: RunKey,
    live: Option<u8>,
    ended: Option<i64>,
    changed: i64,
    turns: i64,
    marks: Span,
    head: Span,
}

/// The column `live`.
pub(crate) fn live(phase: Phase) -> Option<u8> {
    (phase != Phase::Completed).then(|| phase_number(phase))
}

/// Kinds of marks. Stored, as part of the hash; they never change.
const BY_WORKFLOW: u64 = 11;
const BY_CORRELATION: u64 = 12;
const BY_PARENT: u64 = 13;
const BY_ATTRIBUTE: u64 = 14;

pub(crate) fn workflow_mark(namespace: &str, name: &str) -> i64 {
    mark(BY_WORKFLOW, namespace, name)
}

pub(crate) fn correlation_mark(correlation: &str) -> i64 {
    mark(BY_CORRELATION, "", correlation)
}

pub(crate) fn parent_mark(parent: tidewheel_engine::id::RunId) -> i64 {
    mark(BY_PARENT, "", &parent.to_string())
}

pub(crate) fn attribute_mark(name: &str, value: &str) -> i64 {
    mark(BY_ATTRIBUTE, name, value)
}

/// What a run is found by, each once.
fn marks(head: &Head) -> Vec<i64> {
    let Identity { namespace, name, parent, correlation, .. } = &*head.identity;
    let mut marks = vec![workflow_mark(namespace, name)];
    marks.extend(correlation.as_deref().map(correlation_mark));
    marks.extend(parent.as_ref().map(|parent| parent_mark(parent.run)));
    marks.extend(head.attributes.iter().map(|(name, value)| attribute_mark(name, &attribute_text(value))));
    marks.sort_unstable();
    marks.dedup();
    marks
}

/// Marks of a row's column.
pub(crate) fn marks_of(column: &[u8]) -> impl Iterator<Item = i64> + '_ {
    column.as_chunks::<8>().0.iter().map(|mark| i64::from_le_bytes(*mark))
}

/// Encodes a change of a run; gives back what is none.
pub(crate) fn encode(encoder: &mut Encoder, mutation: Mutation) -> Result<RunOp, Mutation> {
    if let Mutation::PutRun(_) | Mutation::PutValue { .. } = &mutation {
        name(encoder, &mutation, None);
    }
    Ok(match mutation {
        Mutation::PutRun(record) => RunOp::Put(Box::new(row(encoder, &record))),
        Mutation::AppendTurn { tenant, run, ref segment } => {
            let body = encoder.span(|out| codec::encode_turn(segment, out));
            name(encoder, &mutation, Some(body));
            RunOp::Turn { key: part_key(tenant, run, segment.turn), body }
        }
        Mutation::PutRunTimer { timer, due } => RunOp::Timer {
            key: part_key(timer.tenant, timer.run, timer.entry),
            due: run_timer_key(due, timer.run, timer.entry, timer.tenant),
        },
        Mutation::DeleteRunTimer(timer) => RunOp::DeleteTimer(part_key(timer.tenant, timer.run, timer.entry)),
        Mutation::PutRunEvent { tenant, run, number, ref event } => {
            let body = encoder.span(|out| codec::encode_event(event, out));
            name(encoder, &mutation, Some(body));
            RunOp::Event { key: part_key(tenant, run, number), body }
        }
        Mutation::DeleteRunEvent { tenant, run, number } => RunOp::DeleteEvent(part_key(tenant, run, number)),
        Mutation::PutValue { tenant, hash, bytes, .. } => {
            let key = value_key(tenant, &hash);
            let mut inner: Vec<Hash> = Vec::new();
            naming::in_text(&bytes, |hash| inner.push(*hash));
            write_names(encoder, tenant, &inner, &key);
            RunOp::Value { key, bytes }
        }
        other => return Err(other),
    })
}

/// Writes down which values a change of a run names. `body`: what it is stored as. Costs nothing where there are none.
fn name(encoder: &mut Encoder, mutation: &Mutation, body: Option<Span>) {
    let (tenant, run) = match mutation {
        Mutation::PutRun(record) => (record.tenant, record.head.identity.run),
        Mutation::AppendTurn { tenant, run, .. }
        | Mutation::PutRunEvent { tenant, run, .. }
        | Mutation::PutValue { tenant, run, .. } => (*tenant, *run),
        _ => return,
    };
    let mut named: Vec<Hash> = Vec::new();
    naming::names(mutation, body.map_or(&[], |body| encoder.bytes(body)), |hash| named.push(*hash));
    write_names(encoder, tenant, &named, &run_key(tenant, run));
}

/// Writes down that something names these values.
pub(crate) fn write_names(encoder: &mut Encoder, tenant: TenantId, named: &[Hash], by: &[u8]) {
    if named.is_empty() {
        return;
    }
    let by = encoder.span(|out| out.extend_from_slice(by));
    for hash in named {
        encoder.run(RunOp::Name { value: value_key(tenant, hash), by });
    }
}

fn row(encoder: &mut Encoder, record: &RunRecord) -> RunRow {
    let head = &record.head;
    let marks = marks(head);
    RunRow {
        key: run_key(record.tenant, head.identity.run),
        live: live(head.phase),
        ended: (head.ended_ms > 0).then(|| signed(head.ended_ms)),
        changed: signed(record.changed),
        turns: signed(head.turns),
        marks: encoder.span(|out| marks.iter().for_each(|mark| out.extend_from_slice(&mark.to_le_bytes()))),
        head: encoder.span(|out| codec::encode_run(head, out)),
    }
}

/// The statements for runs, prepared once.
pub(crate) struct RunStatements<'c> {
    connection: &'c Connection,
    update_plain: Hot<'c>,
    update: Hot<'c>,
    insert: Hot<'c>,
    select_marks: Statement<'c>,
    put_mark: Statement<'c>,
    delete_mark: Statement<'c>,
    append: Hot<'c>,
    append_long: Statement<'c>,
    put_long: Statement<'c>,
    delete_long: Statement<'c>,
    put_event: Statement<'c>,
    delete_event: Statement<'c>,
    put_timer: Hot<'c>,
    delete_timer: Hot<'c>,
    put_value: Statement<'c>,
    put_name: Statement<'c>,
}

impl<'c> RunStatements<'c> {
    pub(crate) fn prepare(connection: &'c Connection) -> rusqlite::Result<RunStatements<'c>> {
        Ok(RunStatements {
            connection,
            update_plain: Hot::prepare(connection, UPDATE_PLAIN)?,
            update: Hot::prepare(connection, UPDATE)?,
            insert: Hot::prepare(connection, INSERT)?,
            select_marks: connection.prepare(SELECT_MARKS)?,
            put_mark: connection.prepare(PUT_MARK)?,
            delete_mark: connection.prepare(DELETE_MARK)?,
            append: Hot::prepare(connection, APPEND_TURN)?,
            append_long: connection.prepare(APPEND_LONG_TURN)?,
            put_long: connection.prepare(PUT_LONG)?,
            delete_long: connection.prepare(DELETE_LONG)?,
            put_event: connection.prepare(PUT_EVENT)?,
            delete_event: connection.prepare(DELETE_EVENT)?,
            put_timer: Hot::prepare(connection, PUT_TIMER)?,
            delete_timer: Hot::prepare(connection, DELETE_TIMER)?,
            put_value: connection.prepare(PUT_VALUE)?,
            put_name: connection.prepare(PUT_NAME)?,
        })
    }

    /// Applies a change inside the open transaction.
    pub(crate) fn apply(&mut self, batch: &Encoded, op: &RunOp) -> Result<(), Error> {
        match op {
            RunOp::Put(row) => self.put(batch, row),
            RunOp::Turn { key, body } => self.turn(key, batch.bytes(*body)),
            RunOp::Timer { key, due } => {
                let put = self.put_timer.execute(|bind| {
                    bind.blob(key);
                    bind.blob(due);
                });
                put.during("put a run's timer").map(drop)
            }
            RunOp::DeleteTimer(key) => {
                self.delete_timer.execute(|bind| bind.blob(key)).during("delete a run's timer").map(drop)
            }
            RunOp::Event { key, body } => self.event(key, batch.bytes(*body)),
            RunOp::DeleteEvent(key) => self.delete_event(key),
            RunOp::Value { key, bytes } => {
                self.put_value.execute((&key[..], &bytes[..])).during("put a value of a run").map(drop)
            }
            RunOp::Name { value, by } => {
                self.put_name.execute((&value[..], batch.bytes(*by))).during("name a value").map(drop)
            }
        }
    }

    fn turn(&mut self, key: &PartKey, body: &[u8]) -> Result<(), Error> {
        if body.len() <= SHORT_BYTES {
            let appended = self.append.execute(|bind| {
                bind.blob(key);
                bind.blob(body);
            });
            return appended.during("append a turn").map(drop);
        }
        let long = self.long(body)?;
        self.append_long.execute((key, long)).during("append a turn").map(drop)
    }

    fn long(&mut self, bytes: &[u8]) -> Result<i64, Error> {
        self.put_long.execute([bytes]).during("put a long part of a run")?;
        Ok(self.connection.last_insert_rowid())
    }

    /// What is there under the number is replaced.
    fn event(&mut self, key: &PartKey, body: &[u8]) -> Result<(), Error> {
        self.delete_event(key)?;
        let (short, long) = if body.len() <= SHORT_BYTES { (Some(body), None) } else { (None, Some(self.long(body)?)) };
        self.put_event.execute((key, short, long)).during("put a run's event").map(drop)
    }

    fn delete_event(&mut self, key: &PartKey) -> Result<(), Error> {
        let long: Option<Option<i64>> =
            self.delete_event.query_row([key], |row| row.get(0)).optional().during("delete a run's event")?;
        match long.flatten() {
            Some(long) => self.delete_long.execute([long]).during("delete a run's event").map(drop),
            None => Ok(()),
        }
    }

    fn put(&mut self, batch: &Encoded, row: &RunRow) -> Result<(), Error> {
        if put(&mut self.update_plain, batch, row)? == 1 {
            return Ok(());
        }
        let marks = batch.bytes(row.marks);
        let before: Option<Vec<u8>> =
            self.select_marks.query_row([row.key], |row| row.get(0)).optional().during("put a run")?;
        let changed = put(if before.is_some() { &mut self.update } else { &mut self.insert }, batch, row)?;
        debug_assert_eq!(changed, 1, "a run has one row");
        let before: Vec<i64> = before.iter().flat_map(|before| marks_of(before)).collect();
        let now: Vec<i64> = marks_of(marks).collect();
        for mark in before.iter().filter(|mark| !now.contains(mark)) {
            self.delete_mark.execute((mark, row.key)).during("put a run")?;
        }
        for mark in now.iter().filter(|mark| !before.contains(mark)) {
            self.put_mark.execute((mark, row.key)).during("put a run")?;
        }
        Ok(())
    }
}

fn put(statement: &mut Hot<'_>, batch: &Encoded, row: &RunRow) -> Result<usize, Error> {
    let done = statement.execute(|bind| {
        bind.blob(&row.key);
        bind.integer(row.changed);
        bind.integer(row.turns);
        bind.blob(batch.bytes(row.head));
        match row.live {
            Some(phase) => bind.integer(i64::from(phase)),
            None => bind.null(),
        }
        match row.ended {
            Some(ended) => bind.integer(ended),
            None => bind.null(),
        }
        bind.blob(batch.bytes(row.marks));
    });
    done.during("put a run")
}
