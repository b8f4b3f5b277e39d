//! Background operations: one action over all tasks that a filter finds.
//!
//! Protocol. An operation is a record with its own cursor, written after each page of [`PAGE`] tasks; one tokio task
//! works on it, newest id first. Only that task moves the cursor; a caller may set the state to `cancelled`, which
//! the worker finds when its write is refused for a stale version. After a restart every running operation goes on
//! from its cursor, so a page may be done twice: each action is harmless when repeated (a second cancel or retry is
//! refused by the task's state).

use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tidewheel_engine::effect::Refusal;
use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_proto::code::Code;
use tidewheel_proto::{id, rest};

use super::filter::{Filter, Resource};
use super::list_tasks::{find, plan_for, refused};
use super::records;
use super::task_action::{Action, act};
use super::task_query::{Asker, plan};
use crate::auth::Principal;
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::text::{fresh_id, task_text};
use crate::units::time_text;

/// Tasks changed between two writes of the cursor; as many commands reach the engine together.
const PAGE: usize = 256;
/// Running operations of one tenant.
const MAX_RUNNING: usize = 16;
/// Ended operations kept per tenant, so that their records stay few.
const KEEP_ENDED: usize = 100;
/// Failures that are kept by name.
const MAX_FAILURES: usize = 20;
/// Pause before a page is tried again after the server was at its bound.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// An operation as it is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Stored {
    action: String,
    state: String,
    filter: String,
    /// Name of the token that started it: what `me` means in the filter.
    by: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    priority: Option<rest::Priority>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    would_change: u64,
    #[serde(default)]
    max: Option<u64>,
    seen: u64,
    done: u64,
    failed: u64,
    created: u64,
    #[serde(default)]
    finished: Option<u64>,
    /// Last task id looked at, as text.
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    failures: Vec<rest::OperationFailure>,
}

/// Starts an operation and returns at once.
pub(crate) async fn start(
    api: &Api,
    caller: &Principal,
    action: &str,
    request: &rest::BulkRequest,
) -> Result<rest::Operation, Failure> {
    if request.filter.trim().is_empty() {
        return Err(Failure::field("/filter", "a bulk action needs a filter, so that nothing is changed by omission"));
    }
    plan_for(api, caller, &request.filter)?;
    let stored = Stored {
        action: action.to_owned(),
        state: "running".to_owned(),
        filter: request.filter.clone(),
        by: caller.name.to_string(),
        reason: request.reason.clone(),
        priority: request.priority.clone(),
        dry_run: request.dry_run,
        max: request.max,
        created: api.runtime.now_ms(),
        ..Stored::default()
    };
    action_of(&stored)?;
    make_room(api, caller).await?;
    let key = id::format("op", fresh_id(stored.created));
    records::put(api, RecordKind::Operation, caller.tenant, &key, &stored, Some(0)).await?.map_err(from_refusal)?;
    let shown = shown(&key, &stored);
    spawn(api, caller.tenant, key);
    Ok(shown)
}

/// Refuses above the bound of running ones and forgets the oldest ended ones.
async fn make_room(api: &Api, caller: &Principal) -> Result<(), Failure> {
    let all = read_all(api, caller.tenant);
    if all.iter().filter(|(_, s)| s.state == "running").count() >= MAX_RUNNING {
        let detail = format!("{MAX_RUNNING} operations of this tenant are running; wait for one to end.");
        return Err(Failure::new(Code::Overloaded, detail));
    }
    let mut ended: Vec<_> = all.into_iter().filter(|(_, s)| s.state != "running").map(|(key, _)| key).collect();
    ended.sort_unstable();
    let surplus = (ended.len() + 1).saturating_sub(KEEP_ENDED);
    for key in ended.into_iter().take(surplus) {
        records::delete(api, RecordKind::Operation, caller.tenant, &key).await?;
    }
    Ok(())
}

/// Goes on with what a restart broke off.
pub(crate) fn resume_all(api: &Api) {
    for tenant in api.runtime.directory().tenants() {
        for (key, stored) in read_all(api, tenant.id) {
            if stored.state == "running" {
                spawn(api, tenant.id, key);
            }
        }
    }
}

pub(crate) fn list(api: &Api, caller: &Principal) -> Vec<rest::Operation> {
    let mut all = read_all(api, caller.tenant);
    all.sort_by(|(a, _), (b, _)| b.cmp(a));
    all.iter().map(|(key, stored)| shown(key, stored)).collect()
}

pub(crate) fn get(api: &Api, caller: &Principal, key: &str) -> Result<rest::Operation, Failure> {
    let (stored, _) = read(api, caller.tenant, key).ok_or_else(|| Failure::not_found("operation", key))?;
    Ok(shown(key, &stored))
}

/// Stops a running operation before its next page.
pub(crate) async fn cancel(api: &Api, caller: &Principal, key: &str) -> Result<rest::Operation, Failure> {
    loop {
        let (mut stored, version) =
            read(api, caller.tenant, key).ok_or_else(|| Failure::not_found("operation", key))?;
        if stored.state != "running" {
            return Err(Failure::new(Code::Conflict, format!("The operation is already {}.", stored.state)));
        }
        stored.state = "cancelled".to_owned();
        stored.finished = Some(api.runtime.now_ms());
        match records::put(api, RecordKind::Operation, caller.tenant, key, &stored, Some(version)).await? {
            Ok(_) => return Ok(shown(key, &stored)),
            // The worker wrote its cursor in between.
            Err(Refusal::Version { .. }) => {}
            Err(other) => return Err(from_refusal(other)),
        }
    }
}

fn read_all(api: &Api, tenant: TenantId) -> Vec<(String, Stored)> {
    let all = api.runtime.directory().records(RecordKind::Operation, tenant);
    all.iter().filter_map(|r| Some((r.key.to_string(), serde_json::from_str(&r.value).ok()?))).collect()
}

fn read(api: &Api, tenant: TenantId, key: &str) -> Option<(Stored, u64)> {
    let record = api.runtime.directory().record(RecordKind::Operation, tenant, key)?;
    Some((serde_json::from_str(&record.value).ok()?, record.version))
}

fn shown(key: &str, stored: &Stored) -> rest::Operation {
    rest::Operation {
        id: key.to_owned(),
        action: stored.action.clone(),
        state: stored.state.clone(),
        filter: stored.filter.clone(),
        seen: stored.seen,
        done: stored.done,
        failed: stored.failed,
        created_at: time_text(stored.created),
        finished_at: stored.finished.map(time_text),
        failures: stored.failures.clone(),
        dry_run: stored.dry_run,
        would_change: stored.dry_run.then_some(stored.would_change),
    }
}

fn action_of(stored: &Stored) -> Result<Action, Failure> {
    match stored.action.as_str() {
        "cancel" => Action::cancel(stored.reason.as_deref()),
        "reprioritise" => Action::reprioritise(stored.priority.as_ref()),
        _ => Ok(Action::Retry),
    }
}

fn spawn(api: &Api, tenant: TenantId, key: String) {
    let api = api.clone();
    tokio::spawn(async move {
        if let Err(failure) = work(&api, tenant, &key).await {
            // It stays `running` in its record and goes on at the next start.
            tracing::warn!(operation = key, detail = failure.0.detail, "an operation was broken off");
        }
    });
}

async fn work(api: &Api, tenant: TenantId, key: &str) -> Result<(), Failure> {
    loop {
        let Some((mut stored, version)) = read(api, tenant, key) else { return Ok(()) };
        if stored.state != "running" {
            return Ok(());
        }
        match page(api, tenant, &mut stored).await {
            Ok(()) => {}
            Err(failure)
                if matches!(failure.code(), Code::Overloaded | Code::Unavailable) && api.runtime.is_ready().is_ok() =>
            {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
            Err(failure) => return Err(failure),
        }
        match records::put(api, RecordKind::Operation, tenant, key, &stored, Some(version)).await? {
            Ok(_) => {}
            Err(Refusal::Version { .. }) => return settle(api, tenant, key, stored).await,
            Err(other) => return Err(from_refusal(other)),
        }
    }
}

/// A caller cancelled it while a page was under way: its state holds, the figures are ours.
async fn settle(api: &Api, tenant: TenantId, key: &str, mine: Stored) -> Result<(), Failure> {
    let Some((theirs, version)) = read(api, tenant, key) else { return Ok(()) };
    let merged = Stored { state: theirs.state, finished: theirs.finished, ..mine };
    let _ = records::put(api, RecordKind::Operation, tenant, key, &merged, Some(version)).await?;
    Ok(())
}

/// Works on one page and moves the cursor.
async fn page(api: &Api, tenant: TenantId, stored: &mut Stored) -> Result<(), Failure> {
    let filter = Filter::parse(Resource::Tasks, &stored.filter).map_err(refused)?;
    // Times that were given as "so long ago" are meant from the start of the operation.
    let asker = Asker { tenant, me: &stored.by, now: stored.created };
    let plan = plan(&api.runtime.directory(), &asker, &filter).map_err(refused)?;
    let before = stored.cursor.as_deref().and_then(|text| id::parse("task", text)).map(TaskId);
    let left = stored.max.map_or(u64::MAX, |max| max.saturating_sub(stored.done + stored.would_change));
    let limit = PAGE.min(usize::try_from(left).unwrap_or(PAGE));
    if limit == 0 {
        return finish(api, stored);
    }
    let found = find(api, plan, before, limit).await?;
    stored.seen += found.tasks.len() as u64;
    let action = action_of(stored)?;
    if stored.dry_run {
        stored.would_change += found.tasks.iter().filter(|task| action.applies_to(task.state)).count() as u64;
    } else {
        let outcomes = join_all(found.tasks.iter().map(|task| act(api, tenant, task.id, &action, None))).await;
        // Nothing of a page counts until every task of it has an answer: an overload repeats the page as a whole.
        let overload = outcomes.iter().filter_map(|o| o.as_ref().err()).find(|f| f.0.retryable);
        if let Some(failure) = overload {
            stored.seen -= found.tasks.len() as u64;
            return Err(failure.clone());
        }
        for (task, outcome) in found.tasks.iter().zip(outcomes) {
            match outcome {
                Ok(_) => stored.done += 1,
                Err(failure) => {
                    stored.failed += 1;
                    if stored.failures.len() < MAX_FAILURES {
                        let detail = failure.0.detail.clone();
                        stored.failures.push(rest::OperationFailure { task: task_text(task.id), detail });
                    }
                }
            }
        }
    }
    match found.next {
        Some(next) => stored.cursor = Some(task_text(next)),
        None => finish(api, stored)?,
    }
    Ok(())
}

fn finish(api: &Api, stored: &mut Stored) -> Result<(), Failure> {
    stored.state = "done".to_owned();
    stored.finished = Some(api.runtime.now_ms());
    Ok(())
}
