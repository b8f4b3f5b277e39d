//! Lists of tasks: by the best index there is, newest first, with a bound on the rows looked at.

use std::collections::VecDeque;

use rusqlite::{Connection, Row, params};
use tidewheel_engine::id::{QueueId, TaskId};
use tidewheel_engine::task::State;
use tidewheel_store::{Error, TaskPage, TaskQuery};

use crate::batch::{CORRELATION, LABEL, WORKFLOW, below, mark};
use crate::error::During;
use crate::layout::{TaskKey, live, parse_task_key, ready_key};
use crate::row::{self, cold_columns};
use crate::running;

pub(crate) const SELECT_BY_KEY: &str =
    concat!("SELECT ", cold_columns!(), " FROM task t WHERE t.key >= ?1 AND t.key < ?2 ORDER BY t.key DESC");
pub(crate) const SELECT_BY_MARK: &str = concat!(
    "SELECT ",
    cold_columns!(),
    " FROM mark m CROSS JOIN task t ON t.key = m.key",
    " WHERE m.mark = ?3 AND m.key >= ?1 AND m.key < ?2 ORDER BY m.key DESC"
);
pub(crate) const SELECT_ONE: &str = concat!("SELECT ", cold_columns!(), " FROM task t WHERE t.key = ?1");
pub(crate) const SELECT_LIVE: &str =
    "SELECT key FROM task WHERE live = ?1 AND key >= ?2 AND key < ?3 ORDER BY key DESC LIMIT ?4";
pub(crate) const SELECT_READY: &str = "SELECT key FROM task WHERE ready >= ?1 AND ready < ?2 LIMIT ?3";
const SELECT_RUNNING_PAGES: &str = "SELECT keys FROM running_page";
const SELECT_NEWEST: &str = "SELECT max(last_index) FROM partition";

/// Waiting tasks that are sorted for a list. With more of them, a scan by key soon meets one.
const READY_KEYS: usize = 10_000;
/// Keys read from an index at once.
const KEYS_AT_ONCE: usize = 256;

/// How a list is read.
#[derive(Debug, PartialEq)]
enum Plan {
    Mark(i64),
    States(Vec<State>),
    Keys,
}

/// Chooses the most selective index that the conditions allow.
fn plan(query: &TaskQuery) -> Plan {
    let correlation = query.correlation_id.as_deref().map(|id| mark(CORRELATION, "", id));
    let workflow = query.workflow_id.as_deref().map(|id| mark(WORKFLOW, "", id));
    let label = query.labels.first().map(|(name, value)| mark(LABEL, name, value));
    if let Some(mark) = correlation.or(workflow).or(label) {
        return Plan::Mark(mark);
    }
    let mut states = query.states.clone();
    states.retain(|state| !query.not_states.contains(state));
    if query.states.is_empty() || states.contains(&State::Succeeded) { Plan::Keys } else { Plan::States(states) }
}

/// A page.
pub(crate) fn tasks(connection: &Connection, query: &TaskQuery) -> Result<TaskPage, Error> {
    let mut statement = connection.prepare_cached(SELECT_NEWEST).during("read the newest commit")?;
    let as_of: Option<i64> = statement.query_row([], |row| row.get(0)).during("read the newest commit")?;
    let page = TaskPage { as_of: as_of.unwrap_or(0) as u64, ..TaskPage::default() };
    let mut pager = Pager { connection, query, page, looked_at: 0, last: None };
    let (from, until) = below(query.tenant, query.before);
    match plan(query) {
        Plan::Mark(mark) => pager.rows(SELECT_BY_MARK, params![from, until, mark])?,
        Plan::Keys => pager.rows(SELECT_BY_KEY, params![from, until])?,
        Plan::States(states) => match sources(connection, query, &states, (from, until.clone()))? {
            Some(sources) => pager.merge(sources)?,
            None => pager.rows(SELECT_BY_KEY, params![from, until])?,
        },
    }
    Ok(pager.page)
}

/// Fills a page with the rows it is offered, newest first.
struct Pager<'a> {
    connection: &'a Connection,
    query: &'a TaskQuery,
    page: TaskPage,
    looked_at: usize,
    last: Option<TaskId>,
}

impl Pager<'_> {
    fn rows(&mut self, sql: &str, bounds: &[&dyn rusqlite::ToSql]) -> Result<(), Error> {
        let mut statement = self.connection.prepare_cached(sql).during("list tasks")?;
        let mut rows = statement.query(bounds).during("list tasks")?;
        while let Some(found) = rows.next().during("list tasks")? {
            if !self.offer(found)? {
                break;
            }
        }
        Ok(())
    }

    fn merge(&mut self, mut sources: Vec<Source>) -> Result<(), Error> {
        let mut one = self.connection.prepare_cached(SELECT_ONE).during("list tasks")?;
        while let Some(key) = next(self.connection, &mut sources)? {
            let mut rows = one.query([key]).during("list tasks")?;
            let Some(found) = rows.next().during("list tasks")? else { continue };
            if !self.offer(found)? {
                break;
            }
        }
        Ok(())
    }

    /// Takes a row if it fits; whether to go on.
    fn offer(&mut self, found: &Row<'_>) -> Result<bool, Error> {
        let mut task = row::head(found)?;
        if self.page.tasks.len() == self.query.page_limit() {
            self.page.next = self.page.tasks.last().map(|task| task.id);
            return Ok(false);
        }
        if self.looked_at == self.query.scan_limit.max(1) {
            self.page.next = self.last;
            self.page.searched_back_to = Some(task.id.millis());
            return Ok(false);
        }
        self.looked_at += 1;
        self.last = Some(task.id);
        if self.query.head_matches(&task) {
            row::cold_body(self.connection, found, &mut task)?;
            if self.query.body_matches(&task) {
                self.page.tasks.push(task);
            }
        }
        Ok(true)
    }
}

/// Keys of one tenant, newest first.
enum Source {
    Sorted(std::vec::IntoIter<TaskKey>, Option<TaskKey>),
    Live { state: u8, range: (TaskKey, Vec<u8>), read: VecDeque<TaskKey>, more: bool },
}

impl Source {
    fn sorted(mut keys: Vec<TaskKey>, range: &(TaskKey, Vec<u8>)) -> Source {
        keys.retain(|key| *key >= range.0 && key[..] < range.1[..]);
        keys.sort_unstable_by(|a, b| b.cmp(a));
        let mut keys = keys.into_iter();
        let first = keys.next();
        Source::Sorted(keys, first)
    }

    fn peek(&mut self, connection: &Connection) -> Result<Option<TaskKey>, Error> {
        match self {
            Source::Sorted(_, first) => Ok(*first),
            Source::Live { state, range, read, more } => {
                if read.is_empty() && *more {
                    let mut statement = connection.prepare_cached(SELECT_LIVE).during("list tasks")?;
                    let bounds = params![*state, range.0, range.1, KEYS_AT_ONCE as i64];
                    let mut rows = statement.query(bounds).during("list tasks")?;
                    while let Some(row) = rows.next().during("list tasks")? {
                        read.push_back(key_of(row)?);
                    }
                    *more = read.len() == KEYS_AT_ONCE;
                    if let Some(last) = read.back() {
                        range.1 = last.to_vec();
                    }
                }
                Ok(read.front().copied())
            }
        }
    }

    fn advance(&mut self) {
        match self {
            Source::Sorted(rest, first) => *first = rest.next(),
            Source::Live { read, .. } => drop(read.pop_front()),
        }
    }
}

fn key_of(row: &Row<'_>) -> Result<TaskKey, Error> {
    let bytes = row.get_ref(0).during("read a key")?.as_blob().unwrap_or_default();
    parse_task_key(bytes)?;
    bytes.try_into().map_err(|_| Error::Corrupt("a task's key is not 20 bytes".to_owned()))
}

/// The newest key of all sources, once even if several have it.
fn next(connection: &Connection, sources: &mut [Source]) -> Result<Option<TaskKey>, Error> {
    let mut newest = None;
    for source in &mut *sources {
        newest = newest.max(source.peek(connection)?);
    }
    for source in sources {
        if newest.is_some() && source.peek(connection)? == newest {
            source.advance();
        }
    }
    Ok(newest)
}

/// Where tasks of these states are found; `None` if a scan by key is better.
fn sources(
    connection: &Connection,
    query: &TaskQuery,
    states: &[State],
    range: (TaskKey, Vec<u8>),
) -> Result<Option<Vec<Source>>, Error> {
    let mut sources = Vec::new();
    for state in states {
        if *state == State::Running {
            sources.push(Source::sorted(running_keys(connection)?, &range));
        }
        if *state == State::Queued {
            let Some(keys) = ready_keys(connection, &query.queues)? else { return Ok(None) };
            sources.push(Source::sorted(keys, &range));
        }
        if let Some(state) = live(*state, None) {
            sources.push(Source::Live { state, range: range.clone(), read: VecDeque::new(), more: true });
        }
    }
    Ok(Some(sources))
}

fn running_keys(connection: &Connection) -> Result<Vec<TaskKey>, Error> {
    let mut statement = connection.prepare_cached(SELECT_RUNNING_PAGES).during("list running tasks")?;
    let mut rows = statement.query([]).during("list running tasks")?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next().during("list running tasks")? {
        let page = row.get_ref(0).during("list running tasks")?.as_blob().unwrap_or_default();
        keys.extend_from_slice(running::keys_of(page));
    }
    Ok(keys)
}

/// Keys of all waiting tasks (of some queues), if they are not too many.
fn ready_keys(connection: &Connection, queues: &[QueueId]) -> Result<Option<Vec<TaskKey>>, Error> {
    let everything = (QueueId(0), None);
    let ranges: Vec<_> = match queues {
        [] => vec![everything],
        queues => queues.iter().map(|queue| (*queue, queue.0.checked_add(1).map(QueueId))).collect(),
    };
    let mut keys = Vec::new();
    let mut statement = connection.prepare_cached(SELECT_READY).during("list waiting tasks")?;
    for (queue, next) in ranges {
        let from = ready_key(queue, i64::MIN, 0);
        let until = next.map_or(vec![0xFF; 21], |next| ready_key(next, i64::MIN, 0).to_vec());
        let left = (READY_KEYS + 1 - keys.len()) as i64;
        let mut rows = statement.query(params![from, until, left]).during("list waiting tasks")?;
        while let Some(row) = rows.next().during("list waiting tasks")? {
            keys.push(key_of(row)?);
        }
        if keys.len() > READY_KEYS {
            return Ok(None);
        }
    }
    Ok(Some(keys))
}
