//! Reading log lines: of one task in order, or over a whole tenant by search, newest first.

use std::collections::{BTreeSet, HashMap};

use tidewheel_engine::id::{RunId, TaskId, TenantId, WorkerId};
use tidewheel_proto::code::Code;
use tidewheel_proto::{id, rest};

use super::filter::{Filter, Op, Resource, Value, What};
use super::filter_values::created;
use super::list_tasks::{self, ListRequest, MAX_LIMIT, refused};
use super::task_query::run_of;
use crate::auth::Principal;
use crate::cursor::List;
use crate::problem::Failure;
use crate::state::Api;
use crate::store::log::{Level, Line, LogPage, LogQuery, Stream};
use crate::text::{run_text, task_text};
use crate::units::time_text;

/// Lines of one answer that asks for no number.
pub(crate) const DEFAULT_LINES: usize = 1_000;
/// Lines of one answer, at most: the store's own bound.
pub(crate) const MAX_LINES: usize = 10_000;

/// Lines read at once when the store's own search is not enough.
const LOOK_PAGE: usize = 1_000;
/// Lines that one answer looks at, at most; then it says how far it came.
const LOOKED: usize = 50_000;
/// Lines that a histogram counts, at most.
const COUNTED: usize = 10_000;

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

pub(crate) fn shown(row: u64, line: &Line) -> rest::LogLine {
    rest::LogLine {
        task: task_text(line.task),
        attempt: line.attempt,
        offset: line.offset,
        at: time_text(line.at),
        stream: stream_text(line.stream).to_owned(),
        level: level_text(line.level).to_owned(),
        text: line.text.clone(),
        row,
        statement: None,
    }
}

/// Lines of a task with their rows, oldest first, and the row behind which there may be more. The caller has checked that the task is
/// its tenant's.
pub(crate) async fn of_task(
    api: &Api,
    caller: &Principal,
    task: TaskId,
    wanted: &LinesRequest,
) -> Result<(LogPage, Option<u64>), Failure> {
    let mut query = LogQuery {
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
    loop {
        let asked = query.clone();
        let mut page = api.read_logs(move |logs| logs.query(&asked)).await?;
        page.sort_by_key(|(row, _)| *row);
        let next = page.last().map(|(row, _)| *row).filter(|_| page.len() == query.limit && !query.tail);
        page.retain(|(_, line)| line.at >= since);
        // Lines that are too old may fill whole pages.
        if !page.is_empty() || next.is_none() {
            return Ok((page, next));
        }
        query.cursor = next;
    }
}

/// Where a search stands.
struct Looked {
    lines: LogPage,
    /// Go on behind this row.
    next: Option<u64>,
    /// Time of the last line looked at, when the search stopped for having looked at too many.
    searched_back_to: Option<u64>,
}

/// A search over the tenant's lines.
pub(crate) async fn search(
    api: &Api,
    caller: &Principal,
    filter: &str,
    cursor: Option<&str>,
    limit: usize,
) -> Result<rest::LogLines, Failure> {
    let list = List { key: api.runtime.token_key(), resource: Resource::Logs.as_str(), tenant: caller.tenant, filter };
    let mut search = search_of(api, caller, filter)?;
    if let Some(text) = cursor {
        let row: [u8; 8] = list
            .open(text)?
            .try_into()
            .map_err(|_| Failure::query("cursor", "the cursor is not one of this list; start again without it"))?;
        search.query.cursor = Some(u64::from_be_bytes(row));
    }
    let looked = look(api, search, limit.clamp(1, MAX_LIMIT)).await?;
    Ok(rest::LogLines {
        items: looked.lines.iter().map(|(row, line)| shown(*row, line)).collect(),
        next_cursor: looked.next.map(|row| list.seal(&row.to_be_bytes())),
        as_of: api.runtime.committed_index(),
        searched_back_to: looked.searched_back_to.map(time_text),
        histogram: None,
    })
}

/// The newest lines that a filter finds, counted by time and level in at most so many buckets.
pub(crate) async fn histogram(
    api: &Api,
    caller: &Principal,
    filter: &str,
    buckets: usize,
) -> Result<rest::LogHistogram, Failure> {
    let looked = look(api, search_of(api, caller, filter)?, COUNTED).await?;
    let times = || looked.lines.iter().map(|(_, line)| line.at);
    let (Some(from), Some(until)) = (times().min(), times().max()) else {
        return Ok(rest::LogHistogram { step_ms: 0, buckets: Vec::new(), complete: looked.next.is_none() });
    };
    let step = ((until - from) / buckets.max(1) as u64 + 1).max(1);
    let begin = |index: u64| rest::LogBucket { at: time_text(from + index * step), ..rest::LogBucket::default() };
    let mut counted: Vec<rest::LogBucket> = (0..=(until - from) / step).map(begin).collect();
    for (_, line) in &looked.lines {
        let bucket = &mut counted[((line.at - from) / step) as usize];
        *match line.level {
            Level::Debug => &mut bucket.debug,
            Level::Info => &mut bucket.info,
            Level::Warning => &mut bucket.warning,
            Level::Error => &mut bucket.error,
        } += 1;
    }
    Ok(rest::LogHistogram { step_ms: step, buckets: counted, complete: looked.next.is_none() })
}

/// A filter over lines: what the log store looks for, and what is left to look at here.
struct Search {
    tenant: TenantId,
    query: LogQuery,
    /// Ranges of times, both ends included: of each of these a line's is in one.
    times: Vec<Vec<(u64, u64)>>,
    /// Only lines of these workers' attempts.
    workers: Option<Vec<WorkerId>>,
    /// Only lines of these runs' tasks.
    runs: Option<Vec<String>>,
}

impl Search {
    fn has_checks(&self) -> bool {
        !self.times.is_empty() || self.workers.is_some() || self.runs.is_some()
    }
}

/// Who had an attempt, and the run of its task.
type Origin = (WorkerId, Option<String>);

/// Looks through the lines until `limit` are found, the end is reached, or enough were looked at.
async fn look(api: &Api, search: Search, limit: usize) -> Result<Looked, Failure> {
    let by_origin = search.workers.is_some() || search.runs.is_some();
    let mut query = search.query.clone();
    query.limit = if search.has_checks() { LOOK_PAGE } else { limit.min(MAX_LINES) };
    let mut out = Looked { lines: Vec::new(), next: None, searched_back_to: None };
    let mut origins: HashMap<(TaskId, u32), Option<Origin>> = HashMap::new();
    let mut seen = 0;
    loop {
        let one = query.clone();
        let page = api.read_logs(move |logs| logs.query(&one)).await?;
        let full = page.len() == query.limit;
        if by_origin {
            let unknown: BTreeSet<_> = page.iter().map(|(_, line)| (line.task, line.attempt)).collect();
            let unknown: Vec<_> = unknown.into_iter().filter(|key| !origins.contains_key(key)).collect();
            origins.extend(origins_of(api, search.tenant, unknown).await?);
        }
        let last = page.last().map(|(row, line)| (*row, line.at));
        seen += page.len();
        for (row, line) in page {
            let origin = origins.get(&(line.task, line.attempt)).and_then(Option::as_ref);
            let of_worker = |wanted: &Vec<WorkerId>| origin.is_some_and(|(worker, _)| wanted.contains(worker));
            let of_run =
                |wanted: &Vec<String>| origin.and_then(|(_, run)| run.as_ref()).is_some_and(|run| wanted.contains(run));
            let in_one =
                |ranges: &Vec<(u64, u64)>| ranges.iter().any(|(from, until)| (*from..=*until).contains(&line.at));
            let passes = search.times.iter().all(in_one)
                && search.workers.as_ref().is_none_or(of_worker)
                && search.runs.as_ref().is_none_or(of_run);
            if !passes {
                continue;
            }
            out.lines.push((row, line));
            if out.lines.len() == limit {
                out.next = Some(row);
                return Ok(out);
            }
        }
        let Some((row, at)) = last.filter(|_| full) else { return Ok(out) };
        query.cursor = Some(row);
        if seen >= LOOKED {
            out.next = Some(row);
            out.searched_back_to = Some(at);
            return Ok(out);
        }
    }
}

/// Where attempts came from; `None` for those of tasks that are gone.
async fn origins_of(
    api: &Api,
    tenant: TenantId,
    wanted: Vec<(TaskId, u32)>,
) -> Result<Vec<((TaskId, u32), Option<Origin>)>, Failure> {
    let read = move |store: &dyn crate::store::Store| {
        let mut out = Vec::with_capacity(wanted.len());
        for (id, number) in wanted {
            let Some(task) = store.task(tenant, id)? else {
                out.push(((id, number), None));
                continue;
            };
            // The attempt that runs or ended the task well stands in the task, the others in records of their own.
            let earlier = store.attempts(tenant, id)?.into_iter().find(|attempt| attempt.number == number);
            let worker = earlier.map_or(task.worker, |attempt| attempt.worker);
            out.push(((id, number), Some((worker, run_of(&task)))));
        }
        Ok(out)
    };
    api.read_store(read).await
}

fn search_of(api: &Api, caller: &Principal, text: &str) -> Result<Search, Failure> {
    let filter = Filter::parse(Resource::Logs, text).map_err(refused)?;
    let query = LogQuery { tenant: caller.tenant, ..LogQuery::default() };
    let mut search = Search { tenant: caller.tenant, query, times: Vec::new(), workers: None, runs: None };
    let now = api.runtime.now_ms();
    let mut words = Vec::new();
    for term in &filter.terms {
        let bad = |message: &str| Failure::query("filter", format!("at position {}: {message}", term.at + 1));
        if term.negated {
            return Err(bad("log search has no negation"));
        }
        let (name, op, values) = match &term.what {
            What::Word(word) => {
                words.push(word.clone());
                continue;
            }
            What::Field { name, op, values } => (name.as_str(), op, values.as_slice()),
        };
        let exact: Option<Vec<String>> =
            values.iter().map(|value| if let Value::Exact(text) = value { Some(text.clone()) } else { None }).collect();
        match (name, op, exact.as_deref()) {
            ("task" | "id", Op::Is, Some([text])) => {
                let task = id::parse("task", text).map(TaskId).ok_or_else(|| bad("an id looks like task_01h..."))?;
                if search.query.task.replace(task).is_some_and(|other| other != task) {
                    return Err(bad("log search looks at one task, or at all"));
                }
            }
            ("level", Op::Is | Op::AtLeast, Some([name])) => {
                let at_least = level(name).ok_or_else(|| bad("a level is debug, info, warning or error"))?;
                search.query.level = Some(at_least);
            }
            ("created" | "after" | "before", ..) => {
                search.times.push(created(name, *op, values, now).map_err(|why| bad(&why))?);
            }
            ("worker", Op::Is, Some(names)) => search.workers = Some(worker_ids(api, caller, names)),
            ("run", Op::Is, Some(runs)) => {
                let one = |text: &String| id::parse("run", text).map_or(text.clone(), |id| run_text(RunId(id)));
                search.runs = Some(runs.iter().map(one).collect());
            }
            _ => {
                return Err(bad(
                    "log search takes words, task:<id>, level:<at least>, worker:<name>, run:<id>, created:<times>, \
                     after:<time> and before:<time>",
                ));
            }
        }
    }
    if !words.is_empty() {
        search.query.text = Some(words.join(" "));
    }
    Ok(search)
}

/// Numbers of workers by name or id: those of the tenant and those that serve every tenant.
fn worker_ids(api: &Api, caller: &Principal, names: &[String]) -> Vec<WorkerId> {
    let directory = api.runtime.directory();
    let of_name = |name: &String| {
        let by_id = id::parse("work", name).and_then(|n| u32::try_from(n).ok()).map(WorkerId);
        let by_name = [caller.tenant, TenantId(0)].map(|tenant| directory.worker_id(tenant, name));
        by_id.into_iter().chain(by_name.into_iter().flatten()).collect::<Vec<_>>()
    };
    names.iter().flat_map(of_name).collect()
}

/// Tasks and log lines that a filter finds, newest first.
pub(crate) async fn everywhere(
    api: &Api,
    caller: &Principal,
    filter: &str,
    limit: usize,
) -> Result<rest::SearchAnswer, Failure> {
    let wanted = ListRequest { filter: filter.to_owned(), cursor: None, limit };
    let tasks = list_tasks::list(api, caller, &wanted).await;
    let lines = search(api, caller, filter, None, limit).await;
    // A field that only one of them has leaves the other without a hit; one that neither has is a mistake.
    let (tasks, lines) = match (tasks, lines) {
        (Err(failure), Err(_)) => return Err(failure),
        (tasks, lines) => (tasks.map(|page| page.items), lines.map(|page| page.items)),
    };
    let is_filter = |failure: &Failure| failure.code() == Code::InvalidQuery;
    let tasks = tasks.or_else(|failure| if is_filter(&failure) { Ok(Vec::new()) } else { Err(failure) })?;
    let lines = lines.or_else(|failure| if is_filter(&failure) { Ok(Vec::new()) } else { Err(failure) })?;
    Ok(rest::SearchAnswer { tasks, lines, as_of: api.runtime.committed_index() })
}
