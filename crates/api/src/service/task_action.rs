//! Acting on one task: cancel, retry, change what may still change.

use tidewheel_engine::command::Seen;
use tidewheel_engine::effect::Reply;
use tidewheel_engine::id::{Name, TaskId, TenantId};
use tidewheel_engine::task::{State, Task};
use tidewheel_engine::{Command, effect::Refusal};
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::{convert, spec};
use crate::auth::Principal;
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::text::task_text;
use crate::units::parse_time;

/// Longest reason that is kept.
const REASON_BYTES: usize = 1_024;

/// What is done to a task.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Cancel { reason: Name },
    Retry,
    Patch { priority: Option<u8>, run_at: Option<u64>, labels: Option<Vec<(Name, Name)>> },
}

impl Action {
    pub(crate) fn cancel(reason: Option<&str>) -> Result<Action, Failure> {
        let reason = reason.unwrap_or("cancelled by a user");
        if reason.len() > REASON_BYTES {
            return Err(Failure::field("/reason", format!("a reason has at most {REASON_BYTES} bytes")));
        }
        Ok(Action::Cancel { reason: reason.into() })
    }

    pub(crate) fn reprioritise(priority: Option<&rest::Priority>) -> Result<Action, Failure> {
        let value = priority.ok_or_else(|| Failure::field("/priority", "this field is missing"))?;
        Ok(Action::Patch { priority: Some(spec::priority(value)?), run_at: None, labels: None })
    }

    pub(crate) fn patch(body: &rest::PatchTask) -> Result<Action, Failure> {
        let priority = body.priority.as_ref().map(spec::priority).transpose()?;
        let run_at = body.run_at.as_deref().map(parse_time).transpose();
        let run_at = run_at.map_err(|detail| Failure::field("/run_at", detail))?;
        let labels = body.labels.as_ref().map(spec::labels).transpose()?;
        if priority.is_none() && run_at.is_none() && labels.is_none() {
            return Err(Failure::field("", "nothing to change: send priority, run_at or labels"));
        }
        Ok(Action::Patch { priority, run_at, labels })
    }

    /// Whether a task in this state can be changed so; the engine decides the same way.
    pub(crate) fn applies_to(&self, state: State) -> bool {
        match self {
            Action::Cancel { .. } => !state.is_terminal(),
            Action::Retry => matches!(state, State::Failed | State::Dead | State::Cancelled | State::Expired),
            Action::Patch { run_at: Some(_), .. } => matches!(state, State::Scheduled | State::Queued),
            Action::Patch { priority, .. } => priority.is_none() || !state.is_terminal(),
        }
    }
}

/// Does it; the task as it is afterwards. With `seen`, only while the task is as one of these.
pub(crate) async fn act(
    api: &Api,
    tenant: TenantId,
    task: TaskId,
    action: &Action,
    seen: Option<Vec<Seen>>,
) -> Result<Box<Task>, Failure> {
    let action = action.clone();
    let command = move |request| {
        let then = match action {
            Action::Cancel { reason } => Command::Cancel { request, tenant, task, reason },
            Action::Retry => Command::Retry { request, tenant, task },
            Action::Patch { priority, run_at, labels } => {
                Command::Patch { request, tenant, task, priority, run_at, labels }
            }
        };
        match seen {
            Some(seen) => Command::If { request, tenant, task, seen, then: Box::new(then) },
            None => then,
        }
    };
    match api.runtime.call(command).await? {
        Reply::Task(task) => Ok(task),
        Reply::Refused(Refusal::Version { .. }) => Err(Failure::new(
            Code::PreconditionFailed,
            "The task has changed since then; read it again, with its ETag, and repeat.",
        )),
        Reply::Refused(Refusal::NotFound) => Err(Failure::not_found("task", &task_text(task))),
        Reply::Refused(refusal) => Err(from_refusal(refusal)),
        _ => Err(Failure::internal("an action on a task was answered with something else")),
    }
}

/// The same with the condition of a REST call.
pub(crate) async fn checked(
    api: &Api,
    caller: &Principal,
    task: TaskId,
    if_match: Option<&str>,
    action: &Action,
) -> Result<(rest::Task, String), Failure> {
    let wanted = if_match.filter(|wanted| *wanted != "*");
    // A tag that is not one of ours is one that the task does not have.
    let seen = wanted.map(|tags| tags.split(',').filter_map(|tag| convert::seen(tag.trim())).collect());
    let after = act(api, caller.tenant, task, action, seen).await?;
    let tag = convert::task_etag(&after);
    Ok((convert::task(&api.runtime.directory(), &after, false), tag))
}
