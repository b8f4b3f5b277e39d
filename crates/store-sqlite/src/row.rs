//! A task out of its row.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use tidewheel_engine::task::{Payload, Task};
use tidewheel_store::Error;
use tidewheel_store::codec::{self, Stored};

use crate::batch::{ENDING_APART, PART_ENDING, PART_INPUT, PART_RESULT};
use crate::error::During;
use crate::layout::{lane_of, parse_task_key, task_key};

/// Columns in the order the functions here read them, with all payloads.
macro_rules! full_columns {
    () => {
        "t.key, t.ready, t.head, t.spec, t.ending, t.result, t.input"
    };
}
/// The same, with only the sign of whether there is an input and a result.
macro_rules! cold_columns {
    () => {
        "t.key, t.ready, t.head, t.spec, t.ending, t.result IS NOT NULL, t.input IS NOT NULL"
    };
}
pub(crate) use {cold_columns, full_columns};

const SELECT_PAYLOAD: &str = "SELECT bytes FROM payload WHERE key = ?1 AND part = ?2";

fn blob<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], Error> {
    match row.get_ref(column).during("read a task")? {
        ValueRef::Blob(bytes) => Ok(bytes),
        ValueRef::Null => Ok(&[]),
        _ => Err(Error::Corrupt(format!("column {column} of a task is not bytes"))),
    }
}

fn integer(row: &Row<'_>, column: usize) -> Result<i64, Error> {
    row.get(column).during("read a task")
}

/// Key, numbers and state: all that is of fixed length.
pub(crate) fn head(row: &Row<'_>) -> Result<Task, Error> {
    let (tenant, id) = parse_task_key(blob(row, 0)?)?;
    let mut task = codec::blank_task(tenant, id);
    let ready = blob(row, 1)?;
    task.lane = if ready.is_empty() { None } else { Some(lane_of(ready)?) };
    codec::decode_head(blob(row, 2)?, &mut task)?;
    Ok(task)
}

/// The rest of a row of `cold_columns`.
pub(crate) fn cold_body(connection: &Connection, row: &Row<'_>, task: &mut Task) -> Result<(), Error> {
    let sign = |there: i64| if there == 0 { Payload::None } else { Payload::Cold };
    task.spec = codec::decode_spec(blob(row, 3)?)?;
    ending(connection, row, task, sign(integer(row, 5)?))?;
    task.input = sign(integer(row, 6)?);
    Ok(())
}

/// A task from a row of `full_columns`.
pub(crate) fn full(connection: &Connection, row: &Row<'_>) -> Result<Task, Error> {
    let mut task = head(row)?;
    task.spec = codec::decode_spec(blob(row, 3)?)?;
    let result = payload(connection, &task, PART_RESULT, blob(row, 5)?)?;
    ending(connection, row, &mut task, result)?;
    task.input = payload(connection, &task, PART_INPUT, blob(row, 6)?)?;
    Ok(task)
}

fn ending(connection: &Connection, row: &Row<'_>, task: &mut Task, result: Payload) -> Result<(), Error> {
    if row.get_ref(4).during("read a task")? == ValueRef::Null {
        return Ok(());
    }
    let bytes = blob(row, 4)?;
    task.ending = Some(if bytes == ENDING_APART {
        codec::decode_ending(&apart(connection, task, PART_ENDING)?, result)?
    } else {
        codec::decode_ending(bytes, result)?
    });
    Ok(())
}

fn payload(connection: &Connection, task: &Task, part: u8, bytes: &[u8]) -> Result<Payload, Error> {
    match codec::decode_payload(bytes)? {
        Stored::Here(payload) => Ok(payload),
        Stored::Apart(size) => {
            let bytes = apart(connection, task, part)?;
            if bytes.len() as u64 != size {
                return Err(Error::Corrupt(format!("part {part} of task {:032x} has a wrong length", task.id.0)));
            }
            Ok(Payload::Inline(bytes.into()))
        }
    }
}

fn apart(connection: &Connection, task: &Task, part: u8) -> Result<Vec<u8>, Error> {
    let mut statement = connection.prepare_cached(SELECT_PAYLOAD).during("read a payload")?;
    let found = statement.query_row((task_key(task.tenant, task.id), part), |row| row.get(0));
    found.map_err(|error| match error {
        rusqlite::Error::QueryReturnedNoRows => {
            Error::Corrupt(format!("part {part} of task {:032x} is missing", task.id.0))
        }
        other => crate::error::map("read a payload", &other),
    })
}
