//! Values that were stored before it was written down what names them (schema 4). The migration gave each an empty name, so that it
//! stays. It can go as soon as nothing from that time is left that may name it: then every name that counts is written down.
//!
//! That is so when no run and no task is older than the migration. Until then a look costs a seek per tenant. Afterwards, in small
//! steps that may be cut off anywhere: first each value writes down what its text names, which marks it with another empty
//! name; when all have, those names are dropped, and with them the values that have no other.

use rusqlite::{Connection, OptionalExtension, params};
use tidewheel_store::{Error, naming};

use crate::error::During;
use crate::layout::{ValueKey, value_key};
use crate::run::PUT_NAME;
use crate::run_read::{SELECT_VALUE, unname};

/// The name that the migration gave.
const UNKNOWN: &[u8] = b"";
/// The name of a value whose own names are written down. No run, task or value has a key of one byte.
const LOOKED_THROUGH: &[u8] = b"\0";
/// Values looked at in one step.
const STEP: usize = 100;
/// What is younger than the migration by this was surely made behind it, whatever the clocks said.
const SURE_MS: i64 = 24 * 3_600_000;

const SELECT_BY_NAME: &str = "SELECT value FROM value_name WHERE namer = ?1 LIMIT ?2";
const DELETE_NAME: &str = "DELETE FROM value_name WHERE value = ?1 AND namer = ?2";
const SELECT_MIGRATED: &str =
    "SELECT CAST(strftime('%s', applied_on) AS INTEGER) * 1000 FROM refinery_schema_history WHERE version = 4";
const NEXT_RUN: &str = "SELECT key FROM run WHERE key > ?1 ORDER BY key LIMIT 1";
const NEXT_TASK: &str = "SELECT key FROM task WHERE key > ?1 ORDER BY key LIMIT 1";

const WHAT: &str = "look at values without names";

/// One step; how many values went, or were looked through. 0 = there is nothing to do, or it is too early.
pub(crate) fn step(connection: &Connection) -> Result<usize, Error> {
    let unknown = named(connection, UNKNOWN)?;
    let values = if unknown.is_empty() { named(connection, LOOKED_THROUGH)? } else { unknown.clone() };
    if values.is_empty() || !all_is_younger(connection)? {
        return Ok(0);
    }
    for value in &values {
        if unknown.is_empty() {
            drop_name(connection, value)?;
        } else {
            write_own_names(connection, value)?;
        }
    }
    Ok(values.len())
}

fn named(connection: &Connection, name: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut statement = connection.prepare_cached(SELECT_BY_NAME).during(WHAT)?;
    let rows = statement.query_map(params![name, STEP as i64], |row| row.get(0));
    rows.and_then(|rows| rows.collect()).during(WHAT)
}

/// Whether no run and no task is left that was there before names were written down. Their keys are in the order of time in
/// each tenant, so the first one of each says it.
fn all_is_younger(connection: &Connection) -> Result<bool, Error> {
    let migrated: Option<Option<i64>> =
        connection.query_row(SELECT_MIGRATED, [], |row| row.get(0)).optional().during(WHAT)?;
    let Some(migrated) = migrated.flatten() else { return Ok(false) };
    for sql in [NEXT_RUN, NEXT_TASK] {
        let mut next = connection.prepare_cached(sql).during(WHAT)?;
        let mut after = Vec::new();
        while let Some(first) = next.query_row([&after], |row| row.get::<_, Vec<u8>>(0)).optional().during(WHAT)? {
            let Some((tenant, id)) = first.split_first_chunk::<4>() else { return Ok(false) };
            // Milliseconds are the first six bytes of an id.
            let made =
                id.first_chunk::<6>().map_or(0, |time| time.iter().fold(0, |ms, byte| ms << 8 | i64::from(*byte)));
            if made <= migrated.saturating_add(SURE_MS) {
                return Ok(false);
            }
            after = [&tenant[..], &[0xff; 17]].concat();
        }
    }
    Ok(true)
}

fn write_own_names(connection: &Connection, value: &[u8]) -> Result<(), Error> {
    let mut put = connection.prepare_cached(PUT_NAME).during(WHAT)?;
    let bytes: Option<Vec<u8>> = connection
        .prepare_cached(SELECT_VALUE)
        .during(WHAT)?
        .query_row([value], |row| row.get(0))
        .optional()
        .during(WHAT)?;
    let tenant = value.first_chunk::<4>().map(|tenant| tidewheel_engine::id::TenantId(u32::from_be_bytes(*tenant)));
    let mut inner: Vec<ValueKey> = Vec::new();
    if let (Some(bytes), Some(tenant)) = (bytes, tenant) {
        naming::in_text(&bytes, |hash| inner.push(value_key(tenant, hash)));
    }
    for inner in &inner {
        put.execute(params![&inner[..], value]).during(WHAT)?;
    }
    put.execute(params![value, LOOKED_THROUGH]).during(WHAT)?;
    connection.prepare_cached(DELETE_NAME).during(WHAT)?.execute(params![value, UNKNOWN]).during(WHAT).map(drop)
}

fn drop_name(connection: &Connection, value: &[u8]) -> Result<(), Error> {
    connection.prepare_cached(DELETE_NAME).during(WHAT)?.execute(params![value, LOOKED_THROUGH]).during(WHAT)?;
    let named = connection.prepare_cached(crate::run_read::SELECT_NAMED).during(WHAT)?.exists([value]).during(WHAT)?;
    if !named {
        connection.prepare_cached(crate::run_read::DELETE_VALUE).during(WHAT)?.execute([value]).during(WHAT)?;
        unname(connection, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidewheel_engine::id::{RunId, TaskId, TenantId};

    use super::*;
    use crate::layout::{run_key, task_key};

    const TENANT: TenantId = TenantId(3);

    /// A database as a program with schema 3 left it, brought to this schema: a run, a task and these values.
    fn database(values: &[(u8, &str)]) -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        crate::migrate::store_up_to(&mut connection, 3).unwrap();
        connection
            .execute(
                "INSERT INTO run (key, changed, turns, marks, head) VALUES (?1, 1, 1, x'', x'')",
                [run_key(TENANT, RunId(time(0)))],
            )
            .unwrap();
        connection
            .execute("INSERT INTO task (key, head, spec) VALUES (?1, x'', x'')", [task_key(TENANT, TaskId(time(0)))])
            .unwrap();
        for (byte, text) in values {
            let key = value_key(TENANT, &[*byte; 32]);
            connection
                .execute("INSERT INTO value (key, bytes) VALUES (?1, ?2)", params![&key[..], text.as_bytes()])
                .unwrap();
        }
        crate::migrate::store(&mut connection).unwrap();
        connection
    }

    /// An id that was made so many days after now.
    fn time(days: i64) -> u128 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        ((now + days * 24 * 3_600_000) as u128) << 80 | 7
    }

    fn name(connection: &Connection, value: u8, by: &[u8]) {
        connection.execute(PUT_NAME, params![&value_key(TENANT, &[value; 32])[..], by]).unwrap();
    }

    fn values(connection: &Connection) -> Vec<u8> {
        let mut statement = connection.prepare("SELECT key FROM value ORDER BY key").unwrap();
        let keys = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
        keys.map(|key| key.unwrap()[4]).collect()
    }

    fn all_steps(connection: &Connection) {
        while step(connection).unwrap() > 0 {}
    }

    #[test]
    fn values_without_names_stay_as_long_as_a_run_or_a_task_of_their_time_does() {
        let connection = database(&[(1, "one"), (2, "two")]);
        assert_eq!(step(&connection).unwrap(), 0, "both are there");
        connection.execute("DELETE FROM run", []).unwrap();
        assert_eq!(step(&connection).unwrap(), 0, "the task is");
        connection.execute("DELETE FROM task", []).unwrap();
        connection
            .execute(
                "INSERT INTO run (key, changed, turns, marks, head) VALUES (?1, 1, 1, x'', x'')",
                [run_key(TENANT, RunId(time(2)))],
            )
            .unwrap();
        all_steps(&connection);
        assert_eq!(values(&connection), [] as [u8; 0], "a younger run writes down what it names");
    }

    #[test]
    fn what_something_younger_names_stays_with_all_that_stands_in_its_text() {
        let inner = format!("\"sha256:{}\"", "02".repeat(32));
        let connection = database(&[(1, &inner), (2, "two"), (3, "three")]);
        connection.execute_batch("DELETE FROM run; DELETE FROM task").unwrap();
        let young = run_key(TENANT, RunId(time(2)));
        name(&connection, 1, &young);
        all_steps(&connection);
        assert_eq!(values(&connection), [1, 2], "the third is named by nothing");
        unname(&connection, &young).unwrap();
        assert_eq!(values(&connection), [] as [u8; 0], "they go with the run");
    }

    #[test]
    fn it_goes_on_where_it_was_cut_off_and_is_done_in_bounded_steps() {
        let text = |next: u8| format!("\"sha256:{}\"", format!("{next:02x}").repeat(32));
        // Each names the next one; the last one is named by a run.
        let texts: Vec<String> = (1..=250u8).map(|byte| text(byte.wrapping_add(1))).collect();
        let all: Vec<(u8, &str)> = texts.iter().enumerate().map(|(at, text)| (at as u8 + 1, &**text)).collect();
        let connection = database(&all);
        connection.execute_batch("DELETE FROM run; DELETE FROM task").unwrap();
        name(&connection, 200, &run_key(TENANT, RunId(time(2))));
        assert_eq!(step(&connection).unwrap(), STEP);
        connection.execute_batch("SAVEPOINT cut").unwrap();
        step(&connection).unwrap();
        connection.execute_batch("ROLLBACK TO cut").unwrap();
        all_steps(&connection);
        assert_eq!(values(&connection), (200..=250).collect::<Vec<u8>>(), "the chain from the named one on");
        assert_eq!(step(&connection).unwrap(), 0);
    }
}
