//! The statements of the writer, prepared once. A row is bound by position from a batch's buffer.

use rusqlite::{Connection, Statement};
use tidewheel_engine::mutation::{Mutation, RateKey};
use tidewheel_store::{Error, codec};

use crate::batch::{Encoded, Op, Row, Span, signed};
use crate::error::During;

pub(crate) const FENCE: &str = "UPDATE partition SET last_index = ?3, wall = max(wall, ?4), seq = max(seq, ?5) \
     WHERE id = ?1 AND epoch = ?2 AND last_index = ?3 - 1";
pub(crate) const INSERT_TASK: &str =
    "INSERT INTO task (tenant, id, queue, kind, lane, ord, timer, live, head, ending, result, spec, input) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
pub(crate) const UPDATE_TASK: &str = "UPDATE task SET queue = ?3, kind = ?4, lane = ?5, ord = ?6, timer = ?7, \
     live = ?8, head = ?9, ending = ?10, result = ?11 WHERE tenant = ?1 AND id = ?2";
pub(crate) const UPDATE_TASK_KEEPING_RESULT: &str = "UPDATE task SET queue = ?3, kind = ?4, lane = ?5, ord = ?6, \
     timer = ?7, live = ?8, head = ?9, ending = ?10 WHERE tenant = ?1 AND id = ?2";
const PUT_PAYLOAD: &str = "INSERT OR REPLACE INTO payload (tenant, id, part, bytes) VALUES (?1, ?2, ?3, ?4)";
const PUT_MARK: &str = "INSERT OR IGNORE INTO mark (tenant, mark, id) VALUES (?1, ?2, ?3)";
const PUT_ATTEMPT: &str = "INSERT OR REPLACE INTO attempt (tenant, id, number, body) VALUES (?1, ?2, ?3, ?4)";
const PUT_KEY_PAGE: &str = "INSERT INTO key_page (page, hour, entries) VALUES (?1, ?2, ?3)";
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

/// Numbers under which rate keys are stored.
pub(crate) const RATE_QUEUE: i64 = 1;
pub(crate) const RATE_TENANT: i64 = 2;

pub(crate) struct Statements<'c> {
    pub(crate) begin: Statement<'c>,
    pub(crate) commit: Statement<'c>,
    pub(crate) rollback: Statement<'c>,
    fence: Statement<'c>,
    insert: Statement<'c>,
    update: Statement<'c>,
    update_keeping: Statement<'c>,
    payload: Statement<'c>,
    mark: Statement<'c>,
    attempt: Statement<'c>,
    key_page: Statement<'c>,
    name: Statement<'c>,
    queue: Statement<'c>,
    tenant: Statement<'c>,
    rate: Statement<'c>,
    counts: Statement<'c>,
    record: Statement<'c>,
    delete_record: Statement<'c>,
}

impl<'c> Statements<'c> {
    pub(crate) fn prepare(connection: &'c Connection) -> rusqlite::Result<Statements<'c>> {
        Ok(Statements {
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            rollback: connection.prepare("ROLLBACK")?,
            fence: connection.prepare(FENCE)?,
            insert: connection.prepare(INSERT_TASK)?,
            update: connection.prepare(UPDATE_TASK)?,
            update_keeping: connection.prepare(UPDATE_TASK_KEEPING_RESULT)?,
            payload: connection.prepare(PUT_PAYLOAD)?,
            mark: connection.prepare(PUT_MARK)?,
            attempt: connection.prepare(PUT_ATTEMPT)?,
            key_page: connection.prepare(PUT_KEY_PAGE)?,
            name: connection.prepare(PUT_NAME)?,
            queue: connection.prepare(PUT_QUEUE)?,
            tenant: connection.prepare(PUT_TENANT)?,
            rate: connection.prepare(PUT_RATE)?,
            counts: connection.prepare(ADD_COUNTS)?,
            record: connection.prepare(PUT_RECORD)?,
            delete_record: connection.prepare(DELETE_RECORD)?,
        })
    }

    /// Whether the batch is the partition's next one under its newest epoch; then its place is taken.
    pub(crate) fn fence(&mut self, batch: &Encoded) -> Result<bool, Error> {
        let position = (batch.partition, batch.epoch, signed(batch.index), signed(batch.wall), signed(batch.seq));
        Ok(self.fence.execute(position).during("check the epoch")? == 1)
    }

    /// Applies a batch inside the open transaction.
    pub(crate) fn apply(&mut self, batch: &Encoded) -> Result<(), Error> {
        for op in &batch.ops {
            match op {
                Op::Insert(row) => {
                    bind_row(&mut self.insert, batch, row, true)
                        .and_then(|()| bind_rest(&mut self.insert, batch, row))
                        .and_then(|()| self.insert.raw_execute())
                        .during("insert a task")?;
                }
                Op::Update(row) => update(&mut self.update, batch, row, true)?,
                Op::UpdateKeepingResult(row) => update(&mut self.update_keeping, batch, row, false)?,
                Op::Payload { tenant, id, part, bytes } => {
                    self.payload.execute((tenant, id, part, &bytes[..])).during("put a payload")?;
                }
                Op::Mark { tenant, mark, id } => {
                    self.mark.execute((tenant, mark, id)).during("put a mark")?;
                }
                Op::Attempt { tenant, id, number, body } => {
                    self.attempt.execute((tenant, id, number, batch.bytes(*body))).during("put an attempt")?;
                }
                Op::Other(mutation) => self.other(mutation)?,
            }
        }
        Ok(())
    }

    pub(crate) fn key_page(&mut self, page: u64, hour: u64, entries: &[u8]) -> Result<(), Error> {
        self.key_page.execute((signed(page), signed(hour), entries)).during("put keys").map(drop)
    }

    fn other(&mut self, mutation: &Mutation) -> Result<(), Error> {
        match mutation {
            Mutation::PutName { kind, tenant, id, name } => {
                self.name.execute((*kind as u8, tenant.0, id, &**name)).during("put a name")
            }
            Mutation::PutQueue(queue) => {
                let config = codec::encode_queue_config(&queue.config);
                let state = queue_state::number(queue.state);
                let row = (queue.id.0, queue.tenant.0, &*queue.name, signed(queue.version), state, queue.deleted, config);
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
            | Mutation::PutAttempt(_)
            | Mutation::PutIdempotency { .. } => unreachable!("encoded apart"),
        }
        .map(drop)
    }
}

fn update(statement: &mut Statement<'_>, batch: &Encoded, row: &Row, with_result: bool) -> Result<(), Error> {
    let changed =
        bind_row(statement, batch, row, with_result).and_then(|()| statement.raw_execute()).during("update a task")?;
    if changed != 1 {
        let id = u128::from_be_bytes(row.id);
        return Err(Error::Failed(format!("task {id:032x} is updated but not stored")));
    }
    Ok(())
}

fn bind_row(statement: &mut Statement<'_>, batch: &Encoded, row: &Row, with_result: bool) -> rusqlite::Result<()> {
    let bytes = |span: Option<Span>| span.map(|span| batch.bytes(span));
    statement.raw_bind_parameter(1, row.tenant)?;
    statement.raw_bind_parameter(2, &row.id[..])?;
    statement.raw_bind_parameter(3, row.queue)?;
    statement.raw_bind_parameter(4, row.kind)?;
    statement.raw_bind_parameter(5, row.lane.map(|lane| lane.0))?;
    statement.raw_bind_parameter(6, row.lane.map(|lane| lane.1))?;
    statement.raw_bind_parameter(7, row.timer)?;
    statement.raw_bind_parameter(8, row.live)?;
    statement.raw_bind_parameter(9, batch.bytes(row.head))?;
    statement.raw_bind_parameter(10, bytes(row.ending))?;
    if with_result {
        statement.raw_bind_parameter(11, bytes(row.result))?;
    }
    Ok(())
}

fn bind_rest(statement: &mut Statement<'_>, batch: &Encoded, row: &Row) -> rusqlite::Result<()> {
    statement.raw_bind_parameter(12, batch.bytes(row.spec))?;
    statement.raw_bind_parameter(13, row.input.map(|span| batch.bytes(span)))
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
