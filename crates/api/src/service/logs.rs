//! Reading log lines: of one task in order, or over a whole tenant by search, newest first.

use tidewheel_engine::id::TaskId;
use tidewheel_proto::rest;

use super::filter::{Filter, Op, Resource, Value, What};
use super::list_tasks::{MAX_LIMIT, refused};
use crate::auth::Principal;
use crate::cursor::List;
use crate::problem::Failure;
use crate::state::Api;
use crate::store::log::{Level, Line, LogPage, LogQuery, Stream};
use crate::text::{task_id, task_text};
use crate::units::time_text;

/// Lines of one answer that asks for no number.
pub(crate) const DEFAULT_LINES: usize = 1_000;
/// Lines of one answer, at most: the store's own bound.
pub(crate) const MAX_LINES: usize = 10_000;

/// What lines of a task are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinesRequest {
    pub(crate) attempt: Option<u32>,
    pub(crate) level: Option<Level>,
    /// The last so many.
    pub(crate) tail: Option<usize>,
    /// Only lines at or after this wall time.
    pub(crate) since: Option<u64>,
    /// After this row.
    pub(crate) after: Option<u64>,
    pub(crate) limit: usize,
}

/// `debug`, `info`, `warning`, `error`.
pub(crate) fn level(text: &str) -> Option<Level> {
    match text {
        "debug" => Some(Level::Debug),
        "info" => Some(Level::Info),
        "warning" | "warn" => Some(Level::Warning),
        "error" => Some(Level::Error),
        _ => None,
    }
}

pub(crate) fn level_text(level: Level) -> &'static str {
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

pub(crate) fn stream_text(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
        Stream::Log => "log",
    }
}

pub(crate) fn shown(line: &Line) -> rest::LogLine {
    rest::LogLine {
        task: task_text(line.task),
        attempt: line.attempt,
        offset: line.offset,
        at: time_text(line.at),
        stream: stream_text(line.stream).to_owned(),
        level: level_text(line.level).to_owned(),
        text: line.text.clone(),
    }
}

/// Lines of a task with their rows, oldest first. The caller has checked that the task is its tenant's.
pub(crate) async fn of_task(
    api: &Api,
    caller: &Principal,
    task: TaskId,
    wanted: &LinesRequest,
) -> Result<LogPage, Failure> {
    let query = LogQuery {
        tenant: caller.tenant,
        task: Some(task),
        attempt: wanted.attempt,
        level: wanted.level,
        text: None,
        cursor: wanted.after,
        tail: wanted.tail.is_some(),
        limit: wanted.tail.unwrap_or(wanted.limit).clamp(1, MAX_LINES),
    };
    let since = wanted.since.unwrap_or(0);
    let mut page = api.read_logs(move |logs| logs.query(&query)).await?;
    page.retain(|(_, line)| line.at >= since);
    page.sort_by_key(|(row, _)| *row);
    Ok(page)
}

/// A search over the tenant's lines.
pub(crate) async fn search(
    api: &Api,
    caller: &Principal,
    filter: &str,
    cursor: Option<&str>,
    limit: usize,
) -> Result<rest::Page<rest::LogLine>, Failure> {
    let list = List { key: api.runtime.token_key(), resource: Resource::Logs.as_str(), tenant: caller.tenant, filter };
    let mut query = query_of(caller, filter)?;
    query.limit = limit.clamp(1, MAX_LIMIT);
    if let Some(text) = cursor {
        let row: [u8; 8] = list
            .open(text)?
            .try_into()
            .map_err(|_| Failure::query("cursor", "the cursor is not one of this list; start again without it"))?;
        query.cursor = Some(u64::from_be_bytes(row));
    }
    let limit = query.limit;
    let page = api.read_logs(move |logs| logs.query(&query)).await?;
    let next = (page.len() == limit).then(|| page.last().map(|(row, _)| list.seal(&row.to_be_bytes()))).flatten();
    Ok(rest::Page {
        items: page.iter().map(|(_, line)| shown(line)).collect(),
        next_cursor: next,
        as_of: api.runtime.committed_index(),
        searched_back_to: None,
    })
}

fn query_of(caller: &Principal, text: &str) -> Result<LogQuery, Failure> {
    let filter = Filter::parse(Resource::Logs, text).map_err(refused)?;
    let mut query = LogQuery { tenant: caller.tenant, ..LogQuery::default() };
    let mut words = Vec::new();
    for term in &filter.terms {
        let bad = |message: &str| Failure::query("filter", format!("at position {}: {message}", term.at + 1));
        if term.negated {
            return Err(bad("log search has no negation"));
        }
        match &term.what {
            What::Word(word) => words.push(word.clone()),
            What::Field { name, op, values } => match (name.as_str(), op, values.as_slice()) {
                ("task" | "id", Op::Is, [Value::Exact(id)]) => query.task = Some(task_id(id)?),
                ("level", Op::Is | Op::AtLeast, [Value::Exact(name)]) => {
                    let at_least = level(name).ok_or_else(|| bad("a level is debug, info, warning or error"))?;
                    query.level = Some(at_least);
                }
                _ => return Err(bad("log search takes words, task:<id> and level:<at least>")),
            },
        }
    }
    if !words.is_empty() {
        query.text = Some(words.join(" "));
    }
    Ok(query)
}
