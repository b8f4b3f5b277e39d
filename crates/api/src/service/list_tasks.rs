//! Lists of tasks: keyset pages, newest first.

use tidewheel_engine::id::TaskId;
use tidewheel_engine::task::Task;
use tidewheel_proto::rest;

use super::convert;
use super::filter::{Filter, FilterError, Resource};
use super::task_query::{Asker, Plan, plan};
use crate::auth::Principal;
use crate::cursor::List;
use crate::problem::Failure;
use crate::state::Api;
use crate::units::time_text;

/// Items of a page that asks for no number.
pub(crate) const DEFAULT_LIMIT: usize = 50;
/// Items of a page, at most.
pub(crate) const MAX_LIMIT: usize = 1_000;
/// Rows that one page looks at, at most; then the answer says how far it came (`interfaces.md`, section 4).
const SCAN_ROWS: usize = 50_000;
/// Rows read at once when the store's filter is not enough.
const SCAN_PAGE: usize = 1_000;

/// What a list was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListRequest {
    pub(crate) filter: String,
    pub(crate) cursor: Option<String>,
    pub(crate) limit: usize,
}

/// Rows found.
pub(crate) struct Found {
    pub(crate) tasks: Vec<Task>,
    /// There may be more below this id.
    pub(crate) next: Option<TaskId>,
    pub(crate) searched_back_to: Option<u64>,
    pub(crate) as_of: u64,
}

pub(crate) async fn list(
    api: &Api,
    caller: &Principal,
    request: &ListRequest,
) -> Result<rest::Page<rest::Task>, Failure> {
    let list = List {
        key: api.runtime.token_key(),
        resource: Resource::Tasks.as_str(),
        tenant: caller.tenant,
        filter: &request.filter,
    };
    let before = match &request.cursor {
        Some(text) => Some(TaskId(list.open_id(text)?)),
        None => None,
    };
    let plan = plan_for(api, caller, &request.filter)?;
    let found = find(api, plan, before, request.limit.clamp(1, MAX_LIMIT)).await?;
    let directory = api.runtime.directory();
    Ok(rest::Page {
        items: found.tasks.iter().map(|task| convert::task(&directory, task, false)).collect(),
        next_cursor: found.next.map(|next| list.seal(&next.to_bytes())),
        as_of: found.as_of,
        searched_back_to: found.searched_back_to.map(time_text),
    })
}

/// The plan of a filter's text.
pub(crate) fn plan_for(api: &Api, caller: &Principal, filter: &str) -> Result<Plan, Failure> {
    let asker = Asker { tenant: caller.tenant, me: &caller.name, now: api.runtime.now_ms() };
    let filter = Filter::parse(Resource::Tasks, filter).map_err(refused)?;
    plan(&api.runtime.directory(), &asker, &filter).map_err(refused)
}

/// A filter error as a problem.
pub(crate) fn refused(error: FilterError) -> Failure {
    Failure::query("filter", error.to_string())
}

/// Rows of a plan below an id, at most `limit`.
pub(crate) async fn find(api: &Api, plan: Plan, before: Option<TaskId>, limit: usize) -> Result<Found, Failure> {
    if plan.never {
        let as_of = api.runtime.committed_index();
        return Ok(Found { tasks: Vec::new(), next: None, searched_back_to: None, as_of });
    }
    let directory = api.runtime.directory();
    let page_size = if plan.has_checks() { SCAN_PAGE } else { limit };
    let mut found = Found { tasks: Vec::new(), next: before, searched_back_to: None, as_of: 0 };
    let mut looked_at = 0;
    loop {
        let mut query = plan.query.clone();
        query.before = found.next;
        query.limit = page_size;
        query.scan_limit = SCAN_ROWS - looked_at.min(SCAN_ROWS - 1);
        let page = api.read_store(move |store| store.tasks(&query)).await?;
        looked_at += page.tasks.len().max(1);
        found.as_of = page.as_of;
        found.next = page.next;
        found.searched_back_to = page.searched_back_to;
        for task in page.tasks {
            if !plan.passes(&directory, &task) {
                continue;
            }
            let id = task.id;
            found.tasks.push(task);
            if found.tasks.len() == limit {
                // With checks, the page of the store may hold more rows that pass: go on behind the last one shown.
                if plan.has_checks() {
                    found.next = Some(id);
                }
                found.searched_back_to = None;
                return Ok(found);
            }
        }
        if found.next.is_none() || found.searched_back_to.is_some() {
            return Ok(found);
        }
        if looked_at >= SCAN_ROWS {
            found.searched_back_to = found.next.map(TaskId::millis);
            return Ok(found);
        }
    }
}
