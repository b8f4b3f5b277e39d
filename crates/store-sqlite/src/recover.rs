//! What a new owner of a partition starts from.

use rusqlite::{Connection, Row, params};
use tidewheel_engine::config::{Queue, Tenant};
use tidewheel_engine::id::{Name, QueueId, TenantId, TypeId};
use tidewheel_engine::mutation::{NameKind, RateKey, Record, RecordKind, Recovered};
use tidewheel_engine::task::{State, Task};
use tidewheel_store::{Error, codec};

use crate::error::{self, During};
use crate::layout::TaskKey;
use crate::row::{self, cold_columns};
use crate::statement::{RATE_QUEUE, RATE_TENANT, queue_state};
use crate::{run_read, running};

pub(crate) const RAISE_EPOCH: &str = "INSERT INTO partition (id, epoch, last_index, wall, seq) VALUES (?1, 1, 0, 0, 0) \
     ON CONFLICT (id) DO UPDATE SET epoch = epoch + 1 RETURNING epoch, last_index, wall, seq";
/// Running tasks are close together as a rule, so a stretch of keys is read as a range.
pub(crate) const SELECT_RANGE: &str =
    concat!("SELECT ", cold_columns!(), " FROM task t WHERE t.key >= ?1 AND t.key <= ?2 ORDER BY t.key LIMIT ?3");
const SELECT_RUNNING_PAGES: &str = "SELECT page, keys FROM running_page ORDER BY page";
const SELECT_TENANTS: &str = "SELECT id, name, version, config FROM tenant ORDER BY id";
const SELECT_QUEUES: &str = "SELECT id, tenant, name, version, state, deleted, config FROM queue ORDER BY id";
const SELECT_NAMES: &str = "SELECT kind, tenant, id, name FROM name ORDER BY kind, tenant, id";
const SELECT_COUNTS: &str = "SELECT queue, s0, s1, s2, s3, s4, s5, s6, s7, s8 FROM count ORDER BY queue";
const SELECT_RATES: &str = "SELECT kind, id, tat_us FROM rate ORDER BY kind, id";
const SELECT_RECORDS: &str = "SELECT kind, tenant, key, version, value FROM record ORDER BY kind, tenant, key";

/// Raises the partition's epoch, in a transaction of its own. After it no batch of an earlier epoch can land.
pub(crate) fn raise_epoch(connection: &Connection, partition: u32) -> Result<Recovered, Error> {
    let position = connection.query_row(RAISE_EPOCH, [partition], |row| {
        Ok(Recovered {
            epoch: row.get(0)?,
            last_index: number(row, 1)?,
            wall: number(row, 2)?,
            seq: number(row, 3)?,
            ..Recovered::default()
        })
    });
    position.during("open a partition")
}

/// Fills in all but the partition's position and the running tasks, inside one read.
pub(crate) fn fill(connection: &Connection, recovered: &mut Recovered) -> Result<(), Error> {
    recovered.tenants = all(connection, SELECT_TENANTS, |row| {
        let (id, name, config): (u32, String, Vec<u8>) = get(row, |r| Ok((r.get(0)?, r.get(1)?, r.get(3)?)))?;
        let config = codec::decode_tenant_config(&config)?;
        Ok(Tenant { id: TenantId(id), name: name.into(), version: get(row, |r| number(r, 2))?, config })
    })?;
    recovered.queues = all(connection, SELECT_QUEUES, queue)?;
    recovered.names = all(connection, SELECT_NAMES, |row| {
        let (kind, tenant, id, name): (u8, u32, u32, String) =
            get(row, |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?;
        let kind = match kind {
            1 => NameKind::Type,
            2 => NameKind::Worker,
            _ => return Err(Error::Corrupt(format!("name of unknown kind {kind}"))),
        };
        Ok((kind, TenantId(tenant), id, Name::from(name)))
    })?;
    let types = recovered.names.iter().filter(|name| name.0 == NameKind::Type);
    recovered.types = types.map(|name| TypeId(name.2)).collect();
    recovered.counts = all(connection, SELECT_COUNTS, |row| {
        let mut counts = [0; 9];
        for (state, count) in counts.iter_mut().enumerate() {
            *count = get(row, |r| r.get(state + 1))?;
        }
        Ok((QueueId(get(row, |r| r.get(0))?), counts))
    })?;
    recovered.rates = all(connection, SELECT_RATES, |row| {
        let (kind, id): (i64, u32) = get(row, |r| Ok((r.get(0)?, r.get(1)?)))?;
        let key = match kind {
            RATE_QUEUE => RateKey::Queue(QueueId(id)),
            RATE_TENANT => RateKey::Tenant(TenantId(id)),
            _ => return Err(Error::Corrupt(format!("rate of unknown kind {kind}"))),
        };
        Ok((key, get(row, |r| number(r, 2))?))
    })?;
    recovered.records = all(connection, SELECT_RECORDS, record)?;
    recovered.waiting_runs = run_read::waiting(connection)?;
    Ok(())
}

/// Keys of tasks that may run, in order and each once, and the last page they came from.
pub(crate) fn running_keys(connection: &Connection) -> Result<(Vec<TaskKey>, i64), Error> {
    let mut statement = connection.prepare_cached(SELECT_RUNNING_PAGES).during("find running tasks")?;
    let mut rows = statement.query([]).during("find running tasks")?;
    let (mut keys, mut last) = (Vec::new(), -1);
    while let Some(row) = rows.next().during("find running tasks")? {
        last = get(row, |row| row.get(0))?;
        let page = row.get_ref(1).during("find running tasks")?.as_blob().unwrap_or_default();
        keys.extend_from_slice(running::keys_of(page));
    }
    keys.sort_unstable();
    keys.dedup();
    Ok((keys, last))
}

/// Keys looked up by one statement.
const KEYS_AT_ONCE: usize = 256;
/// Rows read for them at most; where other tasks lie between, each is looked up alone.
const ROWS_AT_ONCE: usize = 4 * KEYS_AT_ONCE;

/// The running ones of these tasks, which are in key order; and the keys of those that do not run.
pub(crate) fn running(connection: &Connection, keys: &[TaskKey]) -> Result<(Vec<Task>, Vec<TaskKey>), Error> {
    let (mut tasks, mut over) = (Vec::with_capacity(keys.len()), Vec::new());
    for keys in keys.chunks(KEYS_AT_ONCE) {
        let mut rest = keys;
        rest = range(connection, rest, ROWS_AT_ONCE, &mut tasks, &mut over)?;
        while let [first, ..] = rest {
            range(connection, &[*first], 1, &mut tasks, &mut over)?;
            rest = &rest[1..];
        }
    }
    Ok((tasks, over))
}

/// Reads from the first key to the last, up to a limit of rows; returns the keys that were not reached.
fn range<'k>(
    connection: &Connection,
    keys: &'k [TaskKey],
    limit: usize,
    tasks: &mut Vec<Task>,
    over: &mut Vec<TaskKey>,
) -> Result<&'k [TaskKey], Error> {
    let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return Ok(keys) };
    let mut statement = connection.prepare_cached(SELECT_RANGE).during("read running tasks")?;
    let mut rows = statement.query(params![first, last, limit as i64]).during("read running tasks")?;
    let (mut rest, mut seen) = (keys, 0);
    while let Some(found) = rows.next().during("read running tasks")? {
        seen += 1;
        let key = found.get_ref(0).during("read running tasks")?.as_blob().unwrap_or_default();
        // What was passed over has been removed.
        while let [passed, later @ ..] = rest
            && passed[..] < *key
        {
            over.push(*passed);
            rest = later;
        }
        let [wanted, later @ ..] = rest else { break };
        if wanted[..] != *key {
            continue;
        }
        rest = later;
        let mut task = row::head(found)?;
        if task.state == State::Running {
            row::cold_body(connection, found, &mut task)?;
            tasks.push(task);
        } else {
            over.push(*wanted);
        }
    }
    if seen < limit {
        over.extend_from_slice(rest);
        rest = &[];
    }
    Ok(rest)
}

fn queue(row: &Row<'_>) -> Result<Queue, Error> {
    let (id, tenant, name, state, deleted): (u32, u32, String, u8, bool) =
        get(row, |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(4)?, r.get(5)?)))?;
    let config: Vec<u8> = get(row, |r| r.get(6))?;
    Ok(Queue {
        id: QueueId(id),
        tenant: TenantId(tenant),
        name: name.into(),
        version: get(row, |r| number(r, 3))?,
        state: queue_state::parse(state).ok_or_else(|| Error::Corrupt(format!("queue of unknown state {state}")))?,
        config: codec::decode_queue_config(&config)?,
        deleted,
    })
}

fn record(row: &Row<'_>) -> Result<Record, Error> {
    let (kind, tenant, key, value): (u8, u32, String, String) =
        get(row, |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(4)?)))?;
    let known = RecordKind::from_number(kind);
    Ok(Record {
        kind: known.ok_or_else(|| Error::Corrupt(format!("record of unknown kind {kind}")))?,
        tenant: TenantId(tenant),
        key: key.into(),
        version: get(row, |r| number(r, 3))?,
        value: value.into(),
    })
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| number as u64)
}

fn get<T>(row: &Row<'_>, get: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>) -> Result<T, Error> {
    get(row).map_err(|error| error::map("read a row", &error))
}

fn all<T>(
    connection: &Connection,
    sql: &str,
    mut read: impl FnMut(&Row<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let mut statement = connection.prepare_cached(sql).during("recover")?;
    let mut rows = statement.query([]).during("recover")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("recover")? {
        found.push(read(row)?);
    }
    Ok(found)
}
