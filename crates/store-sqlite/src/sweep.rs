//! Forgetting: finished tasks beyond their retention and idempotency keys beyond their life.

use std::ops::Range;

use parking_lot::Mutex;
use rusqlite::{Connection, params};
use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_engine::task::Payload;
use tidewheel_store::Error;

use crate::batch::{marks, signed};
use crate::error::During;
use crate::layout::{task_key, task_name};
use crate::reader::Readers;
use crate::row::{self, cold_columns};
use crate::run_read;

pub(crate) const SELECT_AFTER: &str =
    concat!("SELECT ", cold_columns!(), " FROM task t WHERE t.key > ?1 ORDER BY t.key LIMIT ?2");
const DELETE_TASK: &str = "DELETE FROM task WHERE key = ?1";
const DELETE_PAYLOADS: &str = "DELETE FROM payload WHERE key = ?1";
const DELETE_ATTEMPTS: &str = "DELETE FROM attempt WHERE key = ?1";
pub(crate) const DELETE_MARK: &str = "DELETE FROM mark WHERE mark = ?1 AND key = ?2";
const DELETE_KEY_PAGES: &str = "DELETE FROM key_page WHERE page >= ?1 AND page < ?2";

/// Rows of one read.
const READ_ROWS: usize = 4_096;
/// Rows looked at by one call, at most: about a second.
const LOOKED_AT_ONCE: usize = 1 << 20;

/// Where the next sweep goes on. Tasks that were passed over are seen again in the next round.
#[derive(Default)]
pub(crate) struct Cursor(Mutex<Option<(TenantId, TaskId)>>);

/// A task that may go.
pub(crate) struct Old {
    tenant: TenantId,
    id: TaskId,
    marks: Vec<i64>,
}

/// Finds finished tasks last changed before a time, from where the last call ended. Each read is short; together they
/// look at [`LOOKED_AT_ONCE`] rows, so that many tasks that stay do not end a round before it has found any that go.
pub(crate) fn find(readers: &Readers, cursor: &Cursor, before: u64, limit: usize) -> Result<Vec<Old>, Error> {
    let mut old = Vec::new();
    let mut from = *cursor.0.lock();
    for _ in 0..LOOKED_AT_ONCE / READ_ROWS {
        from = readers.read(|connection| look(connection, from, before, limit, &mut old))?;
        if from.is_none() || old.len() >= limit {
            break;
        }
    }
    *cursor.0.lock() = from;
    Ok(old)
}

/// Looks at some rows; returns where to go on, or nothing at the end of the table.
fn look(
    connection: &Connection,
    from: Option<(TenantId, TaskId)>,
    before: u64,
    limit: usize,
    old: &mut Vec<Old>,
) -> Result<Option<(TenantId, TaskId)>, Error> {
    let (tenant, id) = from.unwrap_or_default();
    let mut statement = connection.prepare_cached(SELECT_AFTER).during("find old tasks")?;
    let bounds = params![task_key(tenant, id), READ_ROWS as i64];
    let mut rows = statement.query(bounds).during("find old tasks")?;
    let (mut last, mut seen) = (None, 0);
    while let Some(found) = rows.next().during("find old tasks")? {
        let mut task = row::head(found)?;
        seen += 1;
        last = Some((task.tenant, task.id));
        if task.state.is_terminal() && task.changed < before {
            row::cold_body(connection, found, &mut task)?;
            old.push(Old { tenant: task.tenant, id: task.id, marks: marks(&task.spec).collect() });
            if old.len() >= limit {
                return Ok(last);
            }
        }
    }
    Ok(last.filter(|_| seen == READ_ROWS))
}

/// Removes tasks, on the writer. What has been taken up again since it was found stays.
pub(crate) fn remove(connection: &Connection, old: &[Old], before: u64) -> Result<u64, Error> {
    let mut gone = 0;
    for task in old {
        let current = crate::reader::task(connection, task.tenant, task.id)?;
        let Some(current) = current.filter(|current| current.state.is_terminal() && current.changed < before) else {
            continue;
        };
        let key = task_key(task.tenant, task.id);
        for sql in [DELETE_TASK, DELETE_PAYLOADS, DELETE_ATTEMPTS] {
            let mut statement = connection.prepare_cached(sql).during("remove a task")?;
            statement.execute([key]).during("remove a task")?;
        }
        // Its input may be a value of a run that went before it.
        if matches!(current.input, Payload::Blob { .. }) {
            run_read::unname(connection, &task_name(&key))?;
        }
        let mut statement = connection.prepare_cached(DELETE_MARK).during("remove a task")?;
        for mark in &task.marks {
            statement.execute(params![mark, key]).during("remove a task")?;
        }
        gone += 1;
    }
    Ok(gone)
}

/// Removes pages of keys.
pub(crate) fn remove_pages(connection: &Connection, ranges: &[Range<u64>]) -> Result<(), Error> {
    let mut statement = connection.prepare_cached(DELETE_KEY_PAGES).during("forget keys")?;
    for range in ranges {
        statement.execute(params![signed(range.start), signed(range.end)]).during("forget keys")?;
    }
    Ok(())
}

/// Runs statements as one transaction on the writer's connection.
pub(crate) fn transaction<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    let run = |sql: &str| connection.prepare_cached(sql).and_then(|mut s| s.raw_execute()).during("transaction");
    run("BEGIN IMMEDIATE")?;
    let result = work(connection).and_then(|value| run("COMMIT").map(|_| value));
    if result.is_err() && !connection.is_autocommit() {
        run("ROLLBACK")?;
    }
    result
}
