//! What a new owner of a partition starts from.

use rusqlite::{Connection, Row};
use tidewheel_engine::config::{Queue, Tenant};
use tidewheel_engine::id::{Name, QueueId, TenantId, TypeId};
use tidewheel_engine::mutation::{NameKind, RateKey, Record, RecordKind, Recovered};
use tidewheel_engine::task::Task;
use tidewheel_store::{Error, codec};

use crate::error::{self, During};
use crate::row::{self, cold_columns};
use crate::statement::{RATE_QUEUE, RATE_TENANT, queue_state};

pub(crate) const RAISE_EPOCH: &str = "INSERT INTO partition (id, epoch, last_index, wall, seq) VALUES (?1, 1, 0, 0, 0) \
     ON CONFLICT (id) DO UPDATE SET epoch = epoch + 1 RETURNING epoch, last_index, wall, seq";
pub(crate) const SELECT_RUNNING: &str =
    concat!("SELECT ", cold_columns!(), " FROM task t WHERE t.live = 1 ORDER BY t.tenant, t.id");
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

/// Fills in all that is not the partition's position, inside one read.
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
    recovered.running = running(connection)?;
    Ok(())
}

fn running(connection: &Connection) -> Result<Vec<Task>, Error> {
    all(connection, SELECT_RUNNING, |found| {
        let mut task = row::head(found)?;
        row::cold_body(connection, found, &mut task)?;
        Ok(task)
    })
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
