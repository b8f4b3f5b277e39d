//! The statements of the writer, prepared once. Values are bound by position from a batch's buffer.
//!
//! Most updates change no index: the task ran and is over. For them a statement that touches the table alone, and only
//! if the row is in no index, costs half of one that has to look at all; the rest goes the long way.

use rusqlite::{Connection, OptionalExtension, Statement};
use tidewheel_engine::mutation::{Mutation, RateKey};
use tidewheel_engine::task::State;
use tidewheel_store::{Error, codec};

use crate::batch::{Encoded, NewRow, Op, Row, Span, signed};
use crate::error::During;
use crate::hot::{Binder, Hot};
use crate::run::RunStatements;
use crate::sweep::DELETE_MARK;

pub(crate) const FENCE: &str = "UPDATE partition SET last_index = ?3, wall = max(wall, ?4), seq = max(seq, ?5) \
     WHERE id = ?1 AND epoch = ?2 AND last_index = ?3 - 1";
/// New tasks that run at once. Several rows by one statement; a failure in the middle is undone with the whole
/// transaction, so SQLite need not keep what it takes to undo the statement (`OR FAIL`).
const INSERT_PLAIN: Rows =
    Rows { into: "INSERT OR FAIL INTO task (key, head, spec, input) VALUES ", row: "(?, ?, ?, ?)" };
/// All other new tasks.
const INSERT_TASK: Rows = Rows {
    into: "INSERT OR FAIL INTO task (key, ready, timer, live, head, spec, input, ending, result) VALUES ",
    row: "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
};
/// A grant out of the ready index, as a rule.
pub(crate) const UPDATE_READY: &str = "UPDATE task SET head = ?2, ending = ?3, result = ?4, ready = NULL \
     WHERE key = ?1 AND timer IS NULL AND live IS NULL";
pub(crate) const UPDATE_PLAIN: &str = "UPDATE task SET head = ?2, ending = ?3, result = ?4 \
     WHERE key = ?1 AND ready IS NULL AND timer IS NULL AND live IS NULL";
pub(crate) const UPDATE_TASK: &str = "UPDATE task SET head = ?2, ending = ?3, result = ?4, ready = ?5, timer = ?6, \
     live = ?7 WHERE key = ?1";
pub(crate) const UPDATE_KEEPING_RESULT: &str =
    "UPDATE task SET head = ?2, ending = ?3, ready = ?4, timer = ?5, live = ?6 WHERE key = ?1";
const PUT_PAYLOAD: &str = "INSERT OR REPLACE INTO payload (key, part, bytes) VALUES (?1, ?2, ?3)";
pub(crate) const UPDATE_SPEC: &str = "UPDATE task SET spec = ?2 WHERE key = ?1";
const PUT_MARK: &str = "INSERT OR IGNORE INTO mark (mark, key) VALUES (?1, ?2)";
const PUT_ATTEMPT: &str = "INSERT OR REPLACE INTO attempt (key, number, body) VALUES (?1, ?2, ?3)";
const PUT_KEY_PAGE: &str = "INSERT INTO key_page (page, hour, entries) VALUES (?1, ?2, ?3)";
const PUT_RUNNING_PAGE: &str = "INSERT INTO running_page (page, keys) VALUES (?1, ?2)";
const SELECT_RUNNING_PAGE: &str = "SELECT keys FROM running_page WHERE page = ?1";
const DELETE_RUNNING_PAGE: &str = "DELETE FROM running_page WHERE page = ?1";
const PUT_NAME: &str = "INSERT OR REPLACE INTO name (kind, tenant, id, name) VALUES (?1, ?2, ?3, ?4)";
const PUT_QUEUE: &str = "INSERT OR REPLACE INTO queue (id, tenant, name, version, state, deleted, config) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const PUT_TENANT: &str = "INSERT OR REPLACE INTO tenant (id, name, version, config) VALUES (?1, ?2, ?3, ?4)";
const PUT_RATE: &str = "INSERT OR REPLACE INTO rate (kind, id, tat_us) VALUES (?1, ?2, ?3)";
const ADD_COUNTS: &str = "INSERT INTO count VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
     ON CONFLICT (queue) DO UPDATE SET s0 = s0 + excluded.s0, s1 = s1 + excluded.s1, s2 = s2 + excluded.s2, \
     s3 = s3 + excluded.s3, s4 = s4 + excluded.s4, s5 = s5 + excluded.s5, s6 = s6 + excluded.s6, \
     s7 = s7 + excluded.s7, s8 = s8 + excluded.s8";
const PUT_RECORD: &str = "INSERT OR REPLACE INTO record (kind, tenant, key, version, value) \
     VALUES (?1, ?2, ?3, ?4, ?5)";
const DELETE_RECORD: &str = "DELETE FROM record WHERE kind = ?1 AND tenant = ?2 AND key = ?3";

/// Rows of one insert statement: each costs the opening of the table and of its indexes once.
const ROWS_AT_ONCE: usize = 32;

/// Numbers under which rate keys are stored.
pub(crate) const RATE_QUEUE: i64 = 1;
pub(crate) const RATE_TENANT: i64 = 2;

pub(crate) struct Statements<'c> {
    pub(crate) begin: Statement<'c>,
    pub(crate) commit: Statement<'c>,
    pub(crate) rollback: Statement<'c>,
    fence: Statement<'c>,
    insert_plain: Insert<'c>,
    insert: Insert<'c>,
    update_plain: Hot<'c>,
    update_ready: Hot<'c>,
    update: Hot<'c>,
    update_keeping: Hot<'c>,
    payload: Statement<'c>,
    spec: Statement<'c>,
    mark: Statement<'c>,
    unmark: Statement<'c>,
    attempt: Statement<'c>,
    key_page: Statement<'c>,
    put_running: Statement<'c>,
    select_running: Statement<'c>,
    delete_running: Statement<'c>,
    name: Statement<'c>,
    queue: Statement<'c>,
    tenant: Statement<'c>,
    rate: Statement<'c>,
    counts: Statement<'c>,
    record: Statement<'c>,
    delete_record: Statement<'c>,
    runs: RunStatements<'c>,
}

/// An insert of several rows.
struct Rows {
    into: &'static str,
    row: &'static str,
}

impl Rows {
    fn sql(&self, rows: usize) -> String {
        format!("{}{}", self.into, vec![self.row; rows].join(", "))
    }
}

/// The same insert for one row and for many.
struct Insert<'c> {
    one: Hot<'c>,
    many: Hot<'c>,
}

impl<'c> Insert<'c> {
    fn prepare(connection: &'c Connection, rows: &Rows) -> rusqlite::Result<Insert<'c>> {
        let prepare = |count| Hot::prepare(connection, &rows.sql(count));
        Ok(Insert { one: prepare(1)?, many: prepare(ROWS_AT_ONCE)? })
    }

    /// Inserts rows of which all have the shape of the statement.
    fn execute<'v>(&mut self, rows: &'v [NewRow], bind: impl Fn(&mut Binder<'_, 'v>, &'v NewRow)) -> Result<(), Error> {
        let (many, rest) = rows.as_chunks::<ROWS_AT_ONCE>();
        for rows in many {
            self.many.execute(|to| rows.iter().for_each(|row| bind(to, row))).during("insert tasks")?;
        }
        for row in rest {
            self.one.execute(|to| bind(to, row)).during("insert a task")?;
        }
        Ok(())
    }
}

impl<'c> Statements<'c> {
    pub(crate) fn prepare(connection: &'c Connection) -> rusqlite::Result<Statements<'c>> {
        Ok(Statements {
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            rollback: connection.prepare("ROLLBACK")?,
            fence: connection.prepare(FENCE)?,
            insert_plain: Insert::prepare(connection, &INSERT_PLAIN)?,
            insert: Insert::prepare(connection, &INSERT_TASK)?,
            update_plain: Hot::prepare(connection, UPDATE_PLAIN)?,
            update_ready: Hot::prepare(connection, UPDATE_READY)?,
            update: Hot::prepare(connection, UPDATE_TASK)?,
            update_keeping: Hot::prepare(connection, UPDATE_KEEPING_RESULT)?,
            payload: connection.prepare(PUT_PAYLOAD)?,
            spec: connection.prepare(UPDATE_SPEC)?,
            mark: connection.prepare(PUT_MARK)?,
            unmark: connection.prepare(DELETE_MARK)?,
            attempt: connection.prepare(PUT_ATTEMPT)?,
            key_page: connection.prepare(PUT_KEY_PAGE)?,
            put_running: connection.prepare(PUT_RUNNING_PAGE)?,
            select_running: connection.prepare(SELECT_RUNNING_PAGE)?,
            delete_running: connection.prepare(DELETE_RUNNING_PAGE)?,
            name: connection.prepare(PUT_NAME)?,
            queue: connection.prepare(PUT_QUEUE)?,
            tenant: connection.prepare(PUT_TENANT)?,
            rate: connection.prepare(PUT_RATE)?,
            counts: connection.prepare(ADD_COUNTS)?,
            record: connection.prepare(PUT_RECORD)?,
            delete_record: connection.prepare(DELETE_RECORD)?,
            runs: RunStatements::prepare(connection)?,
        })
    }

    /// Whether the batch is the partition's next one under its newest epoch; then its place is taken.
    pub(crate) fn fence(&mut self, batch: &Encoded) -> Result<bool, Error> {
        let position = (batch.partition, batch.epoch, signed(batch.index), signed(batch.wall), signed(batch.seq));
        Ok(self.fence.execute(position).during("check the epoch")? == 1)
    }

    /// Applies a batch inside the open transaction.
    pub(crate) fn apply(&mut self, batch: &Encoded) -> Result<(), Error> {
        self.insert_all(batch)?;
        for row in &batch.updates {
            self.update(batch, row)?;
        }
        for op in &batch.ops {
            match op {
                Op::Payload { key, part, bytes } => {
                    self.payload.execute((key, part, &bytes[..])).during("put a payload")?;
                }
                Op::Spec { key, spec } => {
                    self.spec.execute((key, batch.bytes(*spec))).during("put a spec")?;
                }
                Op::Unmark { mark, key } => {
                    self.unmark.execute((mark, key)).during("remove a mark")?;
                }
                Op::Mark { mark, key } => {
                    self.mark.execute((mark, key)).during("put a mark")?;
                }
                Op::Attempt { key, number, body } => {
                    self.attempt.execute((key, number, batch.bytes(*body))).during("put an attempt")?;
                }
                Op::Run(op) => self.runs.apply(batch, op)?,
                Op::Other(mutation) => self.other(mutation)?,
            }
        }
        Ok(())
    }

    fn insert_all(&mut self, batch: &Encoded) -> Result<(), Error> {
        let mut rest = &batch.inserts[..];
        while let Some(first) = rest.first() {
            let plain = is_plain(first);
            let alike = rest.iter().take_while(|new| is_plain(new) == plain).count();
            let (rows, others) = rest.split_at(alike);
            if plain {
                self.insert_plain.execute(rows, |bind, new| bind_plain(bind, batch, new))?;
            } else {
                self.insert.execute(rows, |bind, new| bind_new(bind, batch, new))?;
            }
            rest = others;
        }
        Ok(())
    }

    fn update(&mut self, batch: &Encoded, row: &Row) -> Result<(), Error> {
        if row.places.is_empty() && !row.keep_result {
            // A task that runs was most likely in the ready index just before, one that is over was not.
            let likely = if row.state == State::Running { &mut self.update_ready } else { &mut self.update_plain };
            if update_plain(likely, batch, row).during("update a task")? == 1 {
                return Ok(());
            }
        }
        let changed = if row.keep_result {
            update_keeping(&mut self.update_keeping, batch, row)
        } else {
            update(&mut self.update, batch, row)
        };
        if changed.during("update a task")? == 1 {
            return Ok(());
        }
        let id = row.key[4..].iter().fold(0u128, |sum, byte| (sum << 8) | u128::from(*byte));
        Err(Error::Failed(format!("task {id:032x} is updated but not stored")))
    }

    pub(crate) fn key_page(&mut self, page: u64, hour: u64, entries: &[u8]) -> Result<(), Error> {
        self.key_page.execute((signed(page), signed(hour), entries)).during("put keys").map(drop)
    }

    pub(crate) fn put_running(&mut self, page: i64, keys: &[u8]) -> Result<(), Error> {
        self.put_running.execute((page, keys)).during("put running tasks").map(drop)
    }

    pub(crate) fn delete_running(&mut self, page: i64) -> Result<(), Error> {
        self.delete_running.execute([page]).during("remove running tasks").map(drop)
    }

    /// Reads a page back; it was written by this process or found at its start.
    pub(crate) fn running_page(&mut self, page: i64) -> Result<Vec<u8>, Error> {
        let keys = self.select_running.query_row([page], |row| row.get(0)).optional().during("read running tasks")?;
        keys.ok_or_else(|| Error::Corrupt(format!("page {page} of running tasks is missing")))
    }

    fn other(&mut self, mutation: &Mutation) -> Result<(), Error> {
        match mutation {
            Mutation::PutName { kind, tenant, id, name } => {
                self.name.execute((*kind as u8, tenant.0, id, &**name)).during("put a name")
            }
            Mutation::PutQueue(queue) => {
                let config = codec::encode_queue_config(&queue.config);
                let state = queue_state::number(queue.state);
                let name = &*queue.name;
                let row = (queue.id.0, queue.tenant.0, name, signed(queue.version), state, queue.deleted, config);
                self.queue.execute(row).during("put a queue")
            }
            Mutation::PutTenant(tenant) => {
                let config = codec::encode_tenant_config(&tenant.config);
                let row = (tenant.id.0, &*tenant.name, signed(tenant.version), config);
                self.tenant.execute(row).during("put a tenant")
            }
            Mutation::PutRate { key, tat_us } => {
                let (kind, id) = match key {
                    RateKey::Queue(queue) => (RATE_QUEUE, queue.0),
                    RateKey::Tenant(tenant) => (RATE_TENANT, tenant.0),
                };
                self.rate.execute((kind, id, signed(*tat_us))).during("put a rate")
            }
            Mutation::AddCounts { queue, deltas: d } => {
                let row = (queue.0, d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7], d[8]);
                self.counts.execute(row).during("add to the counters")
            }
            Mutation::PutRecord(record) => {
                let row = (record.kind as u8, record.tenant.0, &*record.key, signed(record.version), &*record.value);
                self.record.execute(row).during("put a record")
            }
            Mutation::DeleteRecord { kind, tenant, key } => {
                self.delete_record.execute((*kind as u8, tenant.0, &**key)).during("delete a record")
            }
            Mutation::InsertTask(_)
            | Mutation::UpdateTask(_)
            | Mutation::PutSpec { .. }
            | Mutation::PutAttempt(_)
            | Mutation::PutIdempotency { .. }
            | Mutation::PutRun(_)
            | Mutation::AppendTurn { .. }
            | Mutation::PutRunTimer { .. }
            | Mutation::DeleteRunTimer(_)
            | Mutation::PutRunEvent { .. }
            | Mutation::DeleteRunEvent { .. }
            | Mutation::PutValue { .. } => unreachable!("encoded apart"),
        }
        .map(drop)
    }
}

fn is_plain(new: &NewRow) -> bool {
    new.row.places.is_empty() && new.row.ending.is_none()
}

fn optional(batch: &Encoded, span: Option<Span>) -> Option<&[u8]> {
    span.map(|span| batch.bytes(span))
}

fn bind_plain<'v>(bind: &mut Binder<'_, 'v>, batch: &'v Encoded, new: &'v NewRow) {
    bind.blob(&new.row.key);
    bind.blob(batch.bytes(new.row.head));
    bind.blob(batch.bytes(new.spec));
    bind.optional(optional(batch, new.input));
}

fn bind_new<'v>(bind: &mut Binder<'_, 'v>, batch: &'v Encoded, new: &'v NewRow) {
    bind.blob(&new.row.key);
    bind_places(bind, &new.row);
    bind.blob(batch.bytes(new.row.head));
    bind.blob(batch.bytes(new.spec));
    bind.optional(optional(batch, new.input));
    bind.optional(optional(batch, new.row.ending));
    bind.optional(optional(batch, new.row.result));
}

fn update_plain(statement: &mut Hot<'_>, batch: &Encoded, row: &Row) -> rusqlite::Result<usize> {
    statement.execute(|bind| {
        bind.blob(&row.key);
        bind.blob(batch.bytes(row.head));
        bind.optional(optional(batch, row.ending));
        bind.optional(optional(batch, row.result));
    })
}

fn update(statement: &mut Hot<'_>, batch: &Encoded, row: &Row) -> rusqlite::Result<usize> {
    statement.execute(|bind| {
        bind.blob(&row.key);
        bind.blob(batch.bytes(row.head));
        bind.optional(optional(batch, row.ending));
        bind.optional(optional(batch, row.result));
        bind_places(bind, row);
    })
}

fn update_keeping(statement: &mut Hot<'_>, batch: &Encoded, row: &Row) -> rusqlite::Result<usize> {
    statement.execute(|bind| {
        bind.blob(&row.key);
        bind.blob(batch.bytes(row.head));
        bind.optional(optional(batch, row.ending));
        bind_places(bind, row);
    })
}

fn bind_places<'v>(bind: &mut Binder<'_, 'v>, row: &'v Row) {
    bind.optional(row.places.ready.as_ref().map(|key| &key[..]));
    bind.optional(row.places.timer.as_ref().map(|key| &key[..]));
    match row.places.live {
        Some(state) => bind.integer(i64::from(state)),
        None => bind.null(),
    }
}

/// Numbers under which a queue's state is stored.
pub(crate) mod queue_state {
    use tidewheel_engine::config::QueueState;

    pub(crate) fn number(state: QueueState) -> u8 {
        match state {
            QueueState::Active => 0,
            QueueState::Paused => 1,
            QueueState::Draining => 2,
        }
    }

    pub(crate) fn parse(number: u8) -> Option<QueueState> {
        [QueueState::Active, QueueState::Paused, QueueState::Draining].get(usize::from(number)).copied()
    }
}
