//! Lists of tasks: keyset pages, newest first.

use tidewheel_proto::rest;

use super::convert;
use super::filter::{Filter, FilterError, Resource};
use super::task_query::{self, Asker, Plan, plan};
use crate::auth::Principal;
use crate::cursor::List;
use crate::problem::Failure;
use crate::state::Api;
use crate::units::time_text;

/// Items of a page that asks for no number.
pub(crate) const DEFAULT_LIMIT: usize = 50;
/// Items of a page, at most.
pub(crate) const MAX_LIMIT: usize = 1_000;
/// What a list was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListRequest {
    pub(crate) filter: String,
    pub(crate) cursor: Option<String>,
    pub(crate) limit: usize,
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
        Some(text) => Some(list.open_id(text)?),
        None => None,
    };
    let plan = plan_for(api, caller, &request.filter)?;
    let found = task_query::find(api, &plan, before, request.limit.clamp(1, MAX_LIMIT)).await?;
    let directory = api.runtime.directory();
    Ok(rest::Page {
        items: found.rows.iter().map(|task| convert::task(&directory, task, false)).collect(),
        next_cursor: found.next.map(|next| list.seal(&next.to_be_bytes())),
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
