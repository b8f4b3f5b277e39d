//! Reads of durable runs, lists of them, and forgetting those that are over.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tidewheel_engine::id::{RunId, TenantId};
use tidewheel_engine::load::{Due, Loaded, StoredRun};
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::journal::Segment;
use tidewheel_store::run::{PHASES, RunPage, RunPager, RunQuery};
use tidewheel_store::{Error, codec};

use crate::batch::signed;
use crate::error::During;
use crate::layout::{
    PartKey, RunKey, parse_part_key, parse_run_timer_key, part_key, run_key, run_timer_key, value_key,
};
use crate::run::{
    DELETE_LONG, DELETE_MARK, attribute_mark, correlation_mark, live, marks_of, parent_mark, workflow_mark,
};

pub(crate) const SELECT_HEAD: &str = "SELECT turns, head FROM run WHERE key = ?1";
/// Lengths alone: neither long rows nor what they point at are read for them.
pub(crate) const SELECT_HEAD_SIZE: &str = "SELECT turns, length(head) FROM run WHERE key = ?1";
pub(crate) const SELECT_TURNS_SIZE: &str = "SELECT count(*), ifnull(sum(ifnull(\
     (SELECT length(bytes) FROM run_long WHERE id = t.long), length(t.body))), 0) FROM run_turn t WHERE t.key >= ?1 AND t.key <= ?2";
pub(crate) const SELECT_EVENTS_SIZE: &str = "SELECT ifnull(sum(ifnull(\
     (SELECT length(bytes) FROM run_long WHERE id = t.long), length(t.body))), 0) FROM run_event t WHERE t.key >= ?1 AND t.key <= ?2";
pub(crate) const SELECT_TURNS: &str =
    "SELECT key, body, long FROM run_turn WHERE key >= ?1 AND key <= ?2 ORDER BY key LIMIT ?3";
pub(crate) const SELECT_EVENTS: &str =
    "SELECT key, body, long FROM run_event WHERE key >= ?1 AND key <= ?2 ORDER BY key LIMIT ?3";
pub(crate) const SELECT_TIMERS: &str = "SELECT due FROM run_timer WHERE key >= ?1 AND key <= ?2 ORDER BY key";
pub(crate) const SELECT_DUE: &str = "SELECT due FROM run_timer WHERE due > ?1 AND due <= ?2 ORDER BY due LIMIT ?3";
pub(crate) const SELECT_LONG: &str = "SELECT bytes FROM run_long WHERE id = ?1";
pub(crate) const SELECT_VALUE: &str = "SELECT bytes FROM value WHERE key = ?1";
pub(crate) const SELECT_NEXT_WAITING: &str = "SELECT key FROM run_event WHERE key > ?1 ORDER BY key LIMIT 1";
pub(crate) const SELECT_BY_KEY: &str =
    "SELECT r.changed, r.head FROM run r WHERE r.key >= ?1 AND r.key < ?2 ORDER BY r.key DESC";
pub(crate) const SELECT_BY_MARK: &str = "SELECT r.changed, r.head FROM run_mark m CROSS JOIN run r ON r.key = m.key \
     WHERE m.mark = ?3 AND m.key >= ?1 AND m.key < ?2 ORDER BY m.key DESC";
pub(crate) const SELECT_LIVE: &str = "SELECT r.changed, r.head FROM run r \
     WHERE r.live = ?3 AND r.key >= ?1 AND r.key < ?2 ORDER BY r.key DESC";
pub(crate) const SELECT_LIVE_KEYS: &str =
    "SELECT key FROM run WHERE live = ?3 AND key >= ?1 AND key < ?2 ORDER BY key DESC LIMIT ?4";
pub(crate) const SELECT_KEYS: &str = "SELECT key FROM run WHERE key >= ?1 AND key < ?2 ORDER BY key DESC LIMIT ?3";
pub(crate) const SELECT_ONE: &str = "SELECT r.changed, r.head FROM run r WHERE r.key = ?1";
pub(crate) const SELECT_ENDED: &str =
    "SELECT id, key, marks FROM run WHERE ended IS NOT NULL AND ended < ?1 ORDER BY ended LIMIT ?2";
pub(crate) const DELETE_NAMES: &str = "DELETE FROM value_name WHERE namer = ?1 RETURNING value";
pub(crate) const SELECT_NAMED: &str = "SELECT 1 FROM value_name WHERE value = ?1 LIMIT 1";
pub(crate) const DELETE_VALUE: &str = "DELETE FROM value WHERE key = ?1";
const SELECT_NEWEST: &str = "SELECT max(last_index) FROM partition";
const DELETE_RUN: &str = "DELETE FROM run WHERE id = ?1";
pub(crate) const DELETE_TURNS: &str = "DELETE FROM run_turn WHERE key >= ?1 AND key <= ?2 RETURNING long";
pub(crate) const DELETE_EVENTS: &str = "DELETE FROM run_event WHERE key >= ?1 AND key <= ?2 RETURNING long";
pub(crate) const DELETE_TIMERS: &str = "DELETE FROM run_timer WHERE key >= ?1 AND key <= ?2";

/// Keys of a phase that are merged with those of others, for each page of them.
const KEYS_AT_ONCE: usize = 256;

const READ: &str = "read a run";
const LIST: &str = "list runs";
const REMOVE: &str = "remove a run";

fn blob<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], Error> {
    let bytes = row.get_ref(column).during(READ)?.as_blob();
    bytes.map_err(|_| Error::Corrupt(format!("column {column} of a run is not bytes")))
}

/// Parts of a run from one number on, read by a statement: so many at most. `None` = they have more bytes than are left, which is
/// what remains of them.
fn parts<T>(
    connection: &Connection,
    sql: &str,
    (tenant, run, from): (TenantId, RunId, u64),
    (limit, left): (usize, &mut usize),
    read: impl Fn(&[u8]) -> Result<T, Error>,
) -> Result<Option<Vec<(u64, T)>>, Error> {
    let mut statement = connection.prepare_cached(sql).during(READ)?;
    let bounds = params![part_key(tenant, run, from), part_key(tenant, run, u64::MAX), signed(limit as u64)];
    let mut rows = statement.query(bounds).during(READ)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during(READ)? {
        let number = parse_part_key(blob(row, 0)?)?.2;
        let long: Option<i64> = row.get(2).during(READ)?;
        let read_of = |bytes: &[u8], left: &mut usize| {
            let Some(less) = left.checked_sub(bytes.len()) else { return Ok(None) };
            *left = less;
            read(bytes).map(Some)
        };
        let part = match long {
            Some(long) => read_of(&long_bytes(connection, long)?, left)?,
            None => read_of(blob(row, 1)?, left)?,
        };
        let Some(part) = part else { return Ok(None) };
        found.push((number, part));
    }
    Ok(Some(found))
}

fn long_bytes(connection: &Connection, id: i64) -> Result<Vec<u8>, Error> {
    let mut statement = connection.prepare_cached(SELECT_LONG).during(READ)?;
    let bytes = statement.query_row([id], |row| row.get(0)).optional().during(READ)?;
    bytes.ok_or_else(|| Error::Corrupt(format!("part {id} of a run is missing")))
}

/// Turns after one, in order.
pub(crate) fn turns(
    connection: &Connection,
    tenant: TenantId,
    run: RunId,
    after: u64,
    limit: usize,
) -> Result<Vec<Segment>, Error> {
    let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
    let mut room = usize::MAX;
    let found = parts(connection, SELECT_TURNS, (tenant, run, from), (limit, &mut room), codec::decode_turn)?;
    Ok(found.into_iter().flatten().map(|(_, segment)| segment).collect())
}

fn timers(connection: &Connection, tenant: TenantId, run: RunId) -> Result<Vec<(u64, u64)>, Error> {
    let mut statement = connection.prepare_cached(SELECT_TIMERS).during(READ)?;
    let bounds = params![part_key(tenant, run, 0), part_key(tenant, run, u64::MAX)];
    let mut rows = statement.query(bounds).during(READ)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during(READ)? {
        let (timer, due) = parse_run_timer_key(blob(row, 0)?)?;
        found.push((timer.entry, due));
    }
    Ok(found)
}

/// A run with the turns that its head has not, if it has at most so many bytes; otherwise how many they are.
pub(crate) fn within(connection: &Connection, tenant: TenantId, run: RunId, at_most: usize) -> Result<Loaded, Error> {
    if at_most > 0
        && let Some(found) = read(connection, (tenant, run), false, at_most)?
    {
        return Ok(Loaded::Run(found));
    }
    Ok(size(connection, tenant, run)?.map_or(Loaded::Run(None), Loaded::RunTooLarge))
}

/// How many bytes are stored of a run: of its head, the turns after it, and what was not taken in yet. Reads none of them.
fn size(connection: &Connection, tenant: TenantId, run: RunId) -> Result<Option<usize>, Error> {
    let mut statement = connection.prepare_cached(SELECT_HEAD_SIZE).during(READ)?;
    let of_head = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let head = statement.query_row([run_key(tenant, run)], of_head).optional().during(READ)?;
    let (after, of_head) = head.unwrap_or_default();
    let last = part_key(tenant, run, u64::MAX);
    let mut statement = connection.prepare_cached(SELECT_TURNS_SIZE).during(READ)?;
    let first = part_key(tenant, run, (after as u64).saturating_add(1));
    let counted = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let (turns, of_turns) = statement.query_row(params![first, last], counted).during(READ)?;
    if head.is_none() && turns == 0 {
        return Ok(None);
    }
    let mut statement = connection.prepare_cached(SELECT_EVENTS_SIZE).during(READ)?;
    let first = part_key(tenant, run, 0);
    let of_events: i64 = statement.query_row(params![first, last], |row| row.get(0)).during(READ)?;
    Ok(Some(usize::try_from(of_head + of_turns + of_events).unwrap_or(usize::MAX)))
}

/// A run with the turns that its head has not; or with all of them.
pub(crate) fn stored(
    connection: &Connection,
    tenant: TenantId,
    run: RunId,
    all: bool,
) -> Result<Option<Box<StoredRun>>, Error> {
    Ok(read(connection, (tenant, run), all, usize::MAX)?.flatten())
}

/// The same, if head, turns and what was not taken in have at most so many bytes together; the outer `None` = they have more.
fn read(
    connection: &Connection,
    (tenant, run): (TenantId, RunId),
    all: bool,
    mut at_most: usize,
) -> Result<Option<Option<Box<StoredRun>>>, Error> {
    let mut statement = connection.prepare_cached(SELECT_HEAD).during(READ)?;
    let mut rows = statement.query([run_key(tenant, run)]).during(READ)?;
    let (mut head, mut after) = (None, 0);
    if let Some(row) = rows.next().during(READ)? {
        after = if all { 0 } else { row.get::<_, i64>(0).during(READ)? as u64 };
        let bytes = blob(row, 1)?;
        let Some(left) = at_most.checked_sub(bytes.len()) else { return Ok(None) };
        at_most = left;
        head = Some(Box::new(codec::decode_run(bytes)?));
    }
    let from = (tenant, run, after.saturating_add(1));
    let Some(segments) = parts(connection, SELECT_TURNS, from, (usize::MAX, &mut at_most), codec::decode_turn)? else {
        return Ok(None);
    };
    if head.is_none() && segments.is_empty() {
        return Ok(Some(None));
    }
    let from = (tenant, run, 0);
    let Some(events) = parts(connection, SELECT_EVENTS, from, (usize::MAX, &mut at_most), codec::decode_event)? else {
        return Ok(None);
    };
    let timers = timers(connection, tenant, run)?;
    let segments = segments.into_iter().map(|(_, segment)| segment).collect();
    Ok(Some(Some(Box::new(StoredRun { head, segments, timers, events }))))
}

/// Timers after a place in the order of [`Due::place`], up to a time.
pub(crate) fn due(
    connection: &Connection,
    after: (u64, u128, u64),
    until: u64,
    limit: usize,
) -> Result<Vec<Due>, Error> {
    let mut statement = connection.prepare_cached(SELECT_DUE).during("read timers of runs")?;
    let last = TenantId(u32::MAX);
    let first = run_timer_key(after.0, RunId(after.1), after.2, last);
    let bounds = params![first, run_timer_key(until, RunId(u128::MAX), u64::MAX, last), signed(limit as u64)];
    let mut rows = statement.query(bounds).during("read timers of runs")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("read timers of runs")? {
        let (timer, due) = parse_run_timer_key(blob(row, 0)?)?;
        found.push(Due::Run(timer, due));
    }
    Ok(found)
}

/// A value by its hash.
pub(crate) fn value(connection: &Connection, tenant: TenantId, hash: &[u8; 32]) -> Result<Option<Bytes>, Error> {
    let mut statement = connection.prepare_cached(SELECT_VALUE).during("read a value")?;
    let found: Option<Vec<u8>> =
        statement.query_row([&value_key(tenant, hash)[..]], |row| row.get(0)).optional().during("read a value")?;
    Ok(found.map(Bytes::from))
}

/// Runs for which something waits: one seek each.
pub(crate) fn waiting(connection: &Connection) -> Result<Vec<(TenantId, RunId)>, Error> {
    let mut statement = connection.prepare_cached(SELECT_NEXT_WAITING).during("find waiting runs")?;
    let mut found = Vec::new();
    let mut after: Vec<u8> = Vec::new();
    loop {
        let next: Option<Vec<u8>> =
            statement.query_row([&after], |row| row.get(0)).optional().during("find waiting runs")?;
        let Some(key) = next else { return Ok(found) };
        let (tenant, run, _) = parse_part_key(&key)?;
        found.push((tenant, run));
        after = part_key(tenant, run, u64::MAX).to_vec();
    }
}

/// How a list is read.
#[derive(Debug, PartialEq)]
enum Plan {
    Mark(i64),
    Phases(Vec<u8>),
    Keys,
}

/// Chooses the most selective index that the conditions allow.
fn plan(query: &RunQuery) -> Plan {
    let parent = query.parent.map(parent_mark);
    let correlation = query.correlation.as_deref().map(correlation_mark);
    let attribute = query.attributes.first().map(|(name, value)| attribute_mark(name, value));
    if let Some(mark) = parent.or(correlation).or(attribute) {
        return Plan::Mark(mark);
    }
    let phases: Option<Vec<u8>> = query.phases.iter().map(|phase| live(*phase)).collect();
    if let Some(mut phases) = phases.filter(|phases| !phases.is_empty()) {
        phases.sort_unstable();
        phases.dedup();
        return Plan::Phases(phases);
    }
    match (&query.namespace, &query.name) {
        (Some(namespace), Some(name)) => Plan::Mark(workflow_mark(namespace, name)),
        _ => Plan::Keys,
    }
}

/// A page.
pub(crate) fn list(connection: &Connection, query: &RunQuery) -> Result<RunPage, Error> {
    let mut statement = connection.prepare_cached(SELECT_NEWEST).during(LIST)?;
    let as_of: Option<i64> = statement.query_row([], |row| row.get(0)).during(LIST)?;
    let mut pager = RunPager::new(query, as_of.unwrap_or(0) as u64);
    let Some((from, until)) = query.ids() else { return Ok(pager.page()) };
    let (from, until) = (run_key(query.tenant, from), run_key(query.tenant, until));
    match plan(query) {
        Plan::Mark(mark) => rows(connection, SELECT_BY_MARK, params![from, until, mark], &mut pager)?,
        Plan::Keys => rows(connection, SELECT_BY_KEY, params![from, until], &mut pager)?,
        Plan::Phases(phases) => match phases[..] {
            [phase] => rows(connection, SELECT_LIVE, params![from, until, phase], &mut pager)?,
            _ => merge(connection, &phases, from, until, &mut pager)?,
        },
    }
    Ok(pager.page())
}

/// Runs by phase, counted in indexes alone. Completed ones are what is left of all of them.
pub(crate) fn counts(connection: &Connection, tenant: TenantId, at_most: u64) -> Result<Vec<(Phase, u64)>, Error> {
    let (from, until) = (run_key(tenant, RunId(0)), run_key(tenant, RunId(u128::MAX)));
    let count = |sql: &str, values: &[&dyn rusqlite::ToSql]| -> Result<u64, Error> {
        let mut statement = connection.prepare_cached(sql).during(LIST)?;
        let mut rows = statement.query(values).during(LIST)?;
        let mut count = 0;
        while rows.next().during(LIST)?.is_some() {
            count += 1;
        }
        Ok(count)
    };
    let (mut found, mut live_ones) = (Vec::new(), 0);
    for phase in PHASES {
        let counted = match live(phase) {
            Some(number) => count(SELECT_LIVE_KEYS, params![from, until, number, signed(at_most)])?,
            None => {
                let limit = at_most.saturating_add(live_ones);
                count(SELECT_KEYS, params![from, until, signed(limit)])?.saturating_sub(live_ones)
            }
        };
        live_ones += counted;
        found.push((phase, counted));
    }
    Ok(found)
}

fn rows(
    connection: &Connection,
    sql: &str,
    bounds: &[&dyn rusqlite::ToSql],
    pager: &mut RunPager<'_>,
) -> Result<(), Error> {
    let mut statement = connection.prepare_cached(sql).during(LIST)?;
    let mut rows = statement.query(bounds).during(LIST)?;
    while let Some(row) = rows.next().during(LIST)? {
        if !offer(row, pager)? {
            break;
        }
    }
    Ok(())
}

fn offer(row: &Row<'_>, pager: &mut RunPager<'_>) -> Result<bool, Error> {
    let changed: i64 = row.get(0).during(LIST)?;
    Ok(pager.offer(codec::decode_run_facts(blob(row, 1)?)?, changed as u64))
}

/// The newest keys of several phases, a stretch at a time.
fn merge(
    connection: &Connection,
    phases: &[u8],
    from: RunKey,
    mut until: RunKey,
    pager: &mut RunPager<'_>,
) -> Result<(), Error> {
    let mut one = connection.prepare_cached(SELECT_ONE).during(LIST)?;
    let mut select = connection.prepare_cached(SELECT_LIVE_KEYS).during(LIST)?;
    loop {
        let mut keys: Vec<RunKey> = Vec::new();
        for phase in phases {
            let found = select.query_map(params![from, until, phase, KEYS_AT_ONCE as i64], |row| row.get(0));
            for key in found.during(LIST)? {
                keys.push(key.during(LIST)?);
            }
        }
        // Each phase gave its newest, so the newest of all of them are without a gap.
        keys.sort_unstable_by(|a, b| b.cmp(a));
        keys.truncate(KEYS_AT_ONCE);
        let Some(last) = keys.last() else { return Ok(()) };
        until = *last;
        for key in &keys {
            let mut rows = one.query([key]).during(LIST)?;
            if let Some(row) = rows.next().during(LIST)?
                && !offer(row, pager)?
            {
                return Ok(());
            }
        }
    }
}

/// Rows of turns and events that one sweep removes, about: it stops after the run that passes this, so that commits of others do
/// not wait for long.
const SWEPT_ROWS: usize = 10_000;

/// Removes runs that ended before a time, on the writer.
pub(crate) fn sweep(connection: &Connection, ended_before: u64, limit: usize) -> Result<u64, Error> {
    let mut statement = connection.prepare_cached(SELECT_ENDED).during("find old runs")?;
    let bounds = params![signed(ended_before), signed(limit as u64)];
    let found = statement.query_map(bounds, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let old: Vec<(i64, Vec<u8>, Vec<u8>)> =
        found.and_then(|rows| rows.collect::<rusqlite::Result<_>>()).during("find old runs")?;
    let (mut gone, mut rows) = (0, 0);
    for (id, key, marks) in &old {
        let bounds = |last: u64| -> Result<PartKey, Error> {
            let key = [&key[..], &last.to_be_bytes()].concat();
            key.try_into().map_err(|_| Error::Corrupt("a run's key is not 20 bytes".to_owned()))
        };
        let (first, last) = (bounds(0)?, bounds(u64::MAX)?);
        for sql in [DELETE_TURNS, DELETE_EVENTS] {
            rows += delete_parts(connection, sql, first, last)?;
        }
        let execute = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
            connection.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).during(REMOVE)
        };
        execute(DELETE_TIMERS, params![first, last])?;
        for mark in marks_of(marks) {
            execute(DELETE_MARK, params![mark, key])?;
        }
        execute(DELETE_RUN, params![id])?;
        rows += unname(connection, key)?;
        gone += 1;
        if rows >= SWEPT_ROWS {
            break;
        }
    }
    Ok(gone)
}

/// Forgets what something names, and the values that nothing names any more. How many names went.
pub(crate) fn unname(connection: &Connection, by: &[u8]) -> Result<usize, Error> {
    let mut delete_names = connection.prepare_cached(DELETE_NAMES).during(REMOVE)?;
    let mut named = connection.prepare_cached(SELECT_NAMED).during(REMOVE)?;
    let mut delete = connection.prepare_cached(DELETE_VALUE).during(REMOVE)?;
    let (mut gone, mut count) = (vec![by.to_vec()], 0);
    while let Some(by) = gone.pop() {
        let values = delete_names.query_map([&by], |row| row.get(0));
        let values: Vec<Vec<u8>> = values.and_then(|rows| rows.collect()).during(REMOVE)?;
        count += values.len();
        for value in values {
            if !named.exists([&value]).during(REMOVE)? {
                delete.execute([&value]).during(REMOVE)?;
                gone.push(value);
            }
        }
    }
    Ok(count)
}

fn delete_parts(connection: &Connection, sql: &str, first: PartKey, last: PartKey) -> Result<usize, Error> {
    let mut statement = connection.prepare_cached(sql).during(REMOVE)?;
    let long = statement.query_map([first, last], |row| row.get::<_, Option<i64>>(0));
    let long: Vec<Option<i64>> = long.and_then(|rows| rows.collect()).during(REMOVE)?;
    let mut delete = connection.prepare_cached(DELETE_LONG).during(REMOVE)?;
    let rows = long.len();
    for id in long.into_iter().flatten() {
        delete.execute([id]).during(REMOVE)?;
    }
    Ok(rows)
}
