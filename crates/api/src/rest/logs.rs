//! `/logs` and the logs of a task.

use axum::extract::State;
use axum::http::Method;
use axum::response::IntoResponse;
use tidewheel_proto::rest;

use super::params::{CURSOR, FIELDS, FILTER, LIMIT, Params, Path};
use super::reply::{Reply, json, narrowed, with_next};
use super::route::{Param, Route};
use crate::auth::guard::{Anyone, Viewer};
use crate::live::stream::{self, LastEvent};
use crate::problem::Failure;
use crate::service::filter_values::moment;
use crate::service::get_task;
use crate::service::logs::{self, DEFAULT_LINES, LinesRequest, MAX_LINES};
use crate::state::Api;
use crate::text::task_id;

const SEARCH: &[Param] = &[FILTER, CURSOR, LIMIT, FIELDS, HISTOGRAM];
const EVERYWHERE: &[Param] = &[FILTER, LIMIT];
const HISTOGRAM: Param = ("histogram", "Counts the lines by time as well, in at most so many buckets (1 to 500).");
pub(super) const TASK_LOGS: &[Param] = &[
    ("follow", "Streams lines as server-sent events until the task has ended."),
    ("tail", "Only the last so many lines."),
    ("since", "Only lines from this time on: `10m` (ago), a date or a time."),
    ("level", "At least this severe: debug, info, warning, error."),
    ("attempt", "Only this attempt."),
    ("after", "Only lines after this row, as `id` of the stream gives it."),
    ("limit", "Lines of the answer, 1 to 10,000; default 1,000."),
];

pub(super) fn routes() -> Vec<Route> {
    let search =
        Route::new(Method::GET, "/logs", "searchLogs", "Searches the log lines of the tenant, newest first.", search);
    vec![
        search.query(SEARCH).answers::<rest::LogLines>(200, "A page."),
        Route::new(Method::GET, "/search", "search", "Searches tasks and log lines, newest first.", everywhere)
            .query(EVERYWHERE)
            .answers::<rest::SearchAnswer>(200, "The newest of each."),
    ]
}

async fn everywhere(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let list = params.list()?;
    json(200, &logs::everywhere(&api, &caller, &list.filter, list.limit).await?)
}

async fn search(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let list = params.list()?;
    let mut found = logs::search(&api, &caller, &list.filter, list.cursor.as_deref(), list.limit).await?;
    if let Some(buckets) = params.number("histogram", 1..=500)? {
        found.histogram = Some(logs::histogram(&api, &caller, &list.filter, buckets as usize).await?);
    }
    let response = narrowed(&params, &found)?;
    Ok(with_next(response, "/api/v1/logs", &params, found.next_cursor.as_deref()))
}

pub(super) async fn of_task(
    caller: Anyone,
    State(api): State<Api>,
    Path(id): Path<String>,
    params: Params,
    last: LastEvent,
) -> Reply {
    let task = task_id(&id)?;
    let mut wanted = lines(&api, &params)?;
    get_task::record(&api, &caller, task).await?;
    if params.flag("follow")? {
        // A client that resumes names the last row it has.
        wanted.after = last.row().or(wanted.after);
        if last.row().is_some() {
            wanted.tail = None;
        }
        return Ok(stream::follow_logs(&api, &caller, task, wanted)?.into_response());
    }
    let (rows, next) = logs::of_task(&api, &caller, task, &wanted).await?;
    let answer = rest::Page {
        items: rows.iter().map(|(row, line)| logs::shown(*row, line)).collect(),
        next_cursor: next.map(|row| row.to_string()),
        as_of: api.runtime.committed_index(),
        searched_back_to: None,
    };
    json(200, &answer)
}

pub(super) fn lines(api: &Api, params: &Params) -> Result<LinesRequest, Failure> {
    let level = match params.get("level") {
        None => None,
        Some(text) => {
            let level = logs::level(text);
            Some(level.ok_or_else(|| Failure::query("level", "a level is debug, info, warning or error"))?)
        }
    };
    let since = match params.get("since") {
        None => None,
        Some(text) => Some(moment(text, api.runtime.now_ms()).map_err(|detail| Failure::query("since", detail))?.0),
    };
    let number = |name: &str, max: u64| params.number(name, 1..=max);
    Ok(LinesRequest {
        attempt: number("attempt", u64::from(u32::MAX))?.and_then(|n| u32::try_from(n).ok()),
        level,
        tail: number("tail", MAX_LINES as u64)?.map(|n| n as usize),
        since,
        after: params.number("after", 0..=u64::MAX)?,
        limit: number("limit", MAX_LINES as u64)?.map_or(DEFAULT_LINES, |n| n as usize),
    })
}
