//! Background operations: one action over all tasks, or all runs, that a filter finds ([`subject`]).
//!
//! Protocol. An operation is a record with its own cursor, written after each page; one tokio task
//! works on it, newest id first. Only that task moves the cursor; a caller may set the state to `cancelled`, which
//! the worker finds when its write is refused for a stale version.
//!
//! The record names what is in a page before they are changed, so that a restart finds them again although the filter
//! may not: after it every running operation goes on with that page, and each action is harmless when repeated. What
//! became of each is kept in blobs, one per page, each with the address of the one before; the record holds the
//! newest address. So outcomes cost no memory, whatever their number.

pub(crate) mod pace;
mod subject;

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tidewheel_engine::effect::Refusal;
use tidewheel_engine::id::TenantId;
use tidewheel_engine::mutation::RecordKind;
use tidewheel_proto::code::Code;
use tidewheel_proto::{id, rest};

use self::pace::Pace;
use self::subject::{Acted, Subject};
use super::list_tasks::MAX_LIMIT;
use super::records;
use super::rollout::{self, Job};
use super::short_list::Part;
use crate::auth::Principal;
use crate::cursor::List;
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::text::{fresh_id, hash_text, parse_hash};
use crate::units::time_text;

/// Running operations of one tenant.
const MAX_RUNNING: usize = 16;
/// Ended operations kept per tenant, so that their records stay few.
const KEEP_ENDED: usize = 100;
/// Failures that are kept by name.
const MAX_FAILURES: usize = 20;
/// Characters of the reason that is kept for one that could not be changed.
const DETAIL_CHARS: usize = 300;
/// Pause before a page is tried again after the server was at its bound.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// An operation as it is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) action: String,
    pub(super) state: String,
    /// It acts on runs, not on tasks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) of_runs: bool,
    #[serde(default)]
    pub(super) filter: String,
    /// Name of the token that started it: what `me` means in the filter.
    pub(super) by: String,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) priority: Option<rest::Priority>,
    /// Where runs move: a version, `latest`, `previous`, or the hash of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<String>,
    /// Runs move only if their histories fit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) check: bool,
    /// Runs move as the versions say that they follow: a deploy began it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) by_policy: bool,
    #[serde(default)]
    pub(super) dry_run: bool,
    #[serde(default)]
    pub(super) would_change: u64,
    #[serde(default)]
    pub(super) max: Option<u64>,
    pub(super) seen: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) created: u64,
    #[serde(default)]
    pub(super) finished: Option<u64>,
    /// It is about a package on agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) package: Option<Job>,
    /// Why it failed as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    /// Last id looked at, as text.
    #[serde(default)]
    pub(super) cursor: Option<String>,
    /// Ids of the page that is being worked on.
    #[serde(default)]
    pub(super) planned: Vec<String>,
    /// The page that is being worked on is the last one.
    #[serde(default)]
    pub(super) is_last: bool,
    /// Address of the newest page of outcomes.
    #[serde(default)]
    pub(super) outcomes: Option<String>,
    #[serde(default)]
    pub(super) failures: Vec<rest::OperationFailure>,
}

/// Starts an operation on tasks, or on runs, and returns at once.
pub(crate) async fn start(
    api: &Api,
    caller: &Principal,
    (of_runs, action): (bool, &str),
    request: &rest::BulkRequest,
) -> Result<rest::Operation, Failure> {
    if request.filter.trim().is_empty() {
        return Err(Failure::field("/filter", "a bulk action needs a filter, so that nothing is changed by omission"));
    }
    let stored = Stored {
        action: action.to_owned(),
        state: "running".to_owned(),
        of_runs,
        filter: request.filter.clone(),
        by: caller.name.to_string(),
        reason: request.reason.clone(),
        priority: request.priority.clone(),
        to: request.to.clone(),
        check: request.check,
        dry_run: request.dry_run,
        max: request.max,
        created: api.runtime.now_ms(),
        ..Stored::default()
    };
    subject::check(api, caller, &stored)?;
    begin(api, caller, stored).await
}

/// Keeps an operation and starts the work on it.
pub(super) async fn begin(api: &Api, caller: &Principal, stored: Stored) -> Result<rest::Operation, Failure> {
    begin_of(api, caller.tenant, stored).await
}

/// The same for whoever acts for a tenant.
pub(super) async fn begin_of(api: &Api, tenant: TenantId, stored: Stored) -> Result<rest::Operation, Failure> {
    make_room(api, tenant).await?;
    let key = id::format("op", fresh_id(stored.created));
    records::put(api, RecordKind::Operation, tenant, &key, &stored, Some(0)).await?.map_err(from_refusal)?;
    let shown = shown(&key, &stored);
    spawn(api, tenant, key);
    Ok(shown)
}

/// The newest operation with which a deploy moved runs of a workflow (`namespace/name`).
pub(super) fn moves_of(api: &Api, tenant: TenantId, workflow: &str) -> Option<String> {
    let named = format!("workflow:\"{workflow}\"");
    let all = read_all(api, tenant).into_iter();
    all.filter(|(_, stored)| stored.by_policy && stored.filter.starts_with(&named)).map(|(key, _)| key).max()
}

/// Refuses above the bound of running ones and forgets the oldest ended ones.
async fn make_room(api: &Api, tenant: TenantId) -> Result<(), Failure> {
    let all = read_all(api, tenant);
    if all.iter().filter(|(_, s)| s.state == "running").count() >= MAX_RUNNING {
        let detail = format!("{MAX_RUNNING} operations of this tenant are running; wait for one to end.");
        return Err(Failure::new(Code::Overloaded, detail));
    }
    let mut ended: Vec<_> = all.into_iter().filter(|(_, s)| s.state != "running").map(|(key, _)| key).collect();
    ended.sort_unstable();
    let surplus = (ended.len() + 1).saturating_sub(KEEP_ENDED);
    for key in ended.into_iter().take(surplus) {
        records::delete(api, RecordKind::Operation, tenant, &key).await?;
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

/// The same with its version.
pub(crate) fn get_versioned(api: &Api, caller: &Principal, key: &str) -> Result<(rest::Operation, u64), Failure> {
    let (stored, version) = read(api, caller.tenant, key).ok_or_else(|| Failure::not_found("operation", key))?;
    Ok((shown(key, &stored), version))
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

pub(super) fn read(api: &Api, tenant: TenantId, key: &str) -> Option<(Stored, u64)> {
    let record = api.runtime.directory().record(RecordKind::Operation, tenant, key)?;
    Some((serde_json::from_str(&record.value).ok()?, record.version))
}

fn shown(key: &str, stored: &Stored) -> rest::Operation {
    rest::Operation {
        id: key.to_owned(),
        resource: if stored.package.is_some() {
            "packages"
        } else if stored.of_runs {
            "runs"
        } else {
            "tasks"
        }
        .to_owned(),
        action: stored.action.clone(),
        to: stored.to.clone(),
        state: stored.state.clone(),
        detail: stored.detail.clone(),
        filter: stored.filter.clone(),
        seen: stored.seen,
        done: stored.done,
        failed: stored.failed,
        created_at: time_text(stored.created),
        finished_at: stored.finished.map(time_text),
        failures: stored.failures.clone(),
        dry_run: stored.dry_run,
        would_change: stored.dry_run.then_some(stored.would_change),
        package: stored.package.as_ref().map(|job| job.package.clone()),
        agents: stored.package.as_ref().map(|job| job.agents.clone()).unwrap_or_default(),
    }
}

fn spawn(api: &Api, tenant: TenantId, key: String) {
    let api = api.clone();
    tokio::spawn(async move {
        let about_package = read(&api, tenant, &key).is_some_and(|(stored, _)| stored.package.is_some());
        let worked = match about_package {
            true => rollout::work(&api, tenant, &key).await,
            false => work(&api, tenant, &key).await,
        };
        if let Err(failure) = worked {
            // It stays `running` in its record and goes on at the next start.
            tracing::warn!(operation = key, detail = failure.0.detail, "an operation was broken off");
        }
    });
}

/// Whether a write that was refused is worth another try: the server was at its bound, and is not going down.
pub(super) fn passes(api: &Api, failure: &Failure) -> bool {
    matches!(failure.code(), Code::Overloaded | Code::Unavailable | Code::RateLimited) && api.runtime.is_ready().is_ok()
}

async fn work(api: &Api, tenant: TenantId, key: &str) -> Result<(), Failure> {
    // What is planned already was begun by an earlier process.
    let mut repeats = true;
    let mut pace = Pace::new(api, subject::PAGE);
    loop {
        let Some((mut stored, version)) = read(api, tenant, key) else { return Ok(()) };
        if stored.state != "running" {
            return Ok(());
        }
        let step = match stored.planned.is_empty() {
            true => {
                repeats = false;
                let begun = Instant::now();
                let step = plan_page(api, tenant, &mut stored).await;
                pace.rest(api, begun.elapsed()).await;
                step
            }
            false => do_page(api, tenant, &mut stored, (repeats, &mut pace)).await,
        };
        match step {
            Ok(()) => {}
            Err(failure) if passes(api, &failure) => {
                // Some of the page may be done by now.
                repeats = true;
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
    let merged = Stored { state: theirs.state, finished: theirs.finished, planned: Vec::new(), ..mine };
    let _ = records::put(api, RecordKind::Operation, tenant, key, &merged, Some(version)).await?;
    Ok(())
}

/// Finds the next page and moves the cursor behind it. A dry run is done with it at once.
async fn plan_page(api: &Api, tenant: TenantId, stored: &mut Stored) -> Result<(), Failure> {
    let subject = Subject::of(stored)?;
    let left = stored.max.map_or(u64::MAX, |max| max.saturating_sub(stored.done + stored.would_change));
    if left == 0 {
        finish(api, stored);
        return Ok(());
    }
    let found = subject.find(api, tenant, stored, left).await?;
    stored.seen += found.ids.len() as u64;
    stored.is_last = found.next.is_none();
    stored.cursor = found.next.or(stored.cursor.take());
    if stored.dry_run {
        let changes = found.ids.into_iter().filter(|(_, applies)| *applies);
        let items: Vec<_> = changes.map(|(id, _)| subject.item(id, "would_change", None)).collect();
        stored.would_change += items.len() as u64;
        keep_outcomes(api, tenant, stored, items).await?;
    } else {
        stored.planned = found.ids.into_iter().map(|(id, _)| id).collect();
    }
    if stored.is_last && stored.planned.is_empty() {
        finish(api, stored);
    }
    Ok(())
}

/// Changes what is planned. `repeats`: some may have been changed before, by this operation.
async fn do_page(
    api: &Api,
    tenant: TenantId,
    stored: &mut Stored,
    (repeats, pace): (bool, &mut Pace),
) -> Result<(), Failure> {
    let subject = Subject::of(stored)?;
    let since = repeats.then_some(stored.created);
    let mut outcomes = Vec::with_capacity(stored.planned.len());
    while outcomes.len() < stored.planned.len() {
        let begun = Instant::now();
        let piece = stored.planned[outcomes.len()..].iter().take(pace.together());
        let done = join_all(piece.map(|id| subject.act(api, tenant, id, since))).await;
        // Nothing of a page counts until all of it has an answer: an overload repeats the page as a whole.
        if let Some(failure) = done.iter().filter_map(|o| o.as_ref().err()).find(|f| f.0.retryable) {
            return Err(failure.clone());
        }
        outcomes.extend(done);
        pace.rest(api, begun.elapsed()).await;
    }
    let mut items = Vec::with_capacity(outcomes.len());
    for (id, outcome) in std::mem::take(&mut stored.planned).into_iter().zip(outcomes) {
        if let Ok(Acted::Skipped(why)) = &outcome {
            items.push(subject.item(id, "skipped", Some((*why).to_owned())));
            continue;
        }
        let detail = outcome.err().map(|failure| failure.0.detail.chars().take(DETAIL_CHARS).collect::<String>());
        if let Some(detail) = &detail
            && stored.failures.len() < MAX_FAILURES
        {
            stored.failures.push(subject.failure(id.clone(), detail.clone()));
        }
        match detail {
            None => stored.done += 1,
            Some(_) => stored.failed += 1,
        }
        items.push(subject.item(id, if detail.is_none() { "done" } else { "failed" }, detail));
    }
    keep_outcomes(api, tenant, stored, items).await?;
    if stored.is_last {
        finish(api, stored);
    }
    Ok(())
}

fn finish(api: &Api, stored: &mut Stored) {
    stored.state = "done".to_owned();
    stored.finished = Some(api.runtime.now_ms());
}

/// A page of outcomes as it is kept.
#[derive(Serialize, Deserialize)]
struct Outcomes {
    /// Address of the page before.
    before: Option<String>,
    items: Vec<rest::OperationItem>,
}

/// Keeps the outcomes of a page; the record that is written next names them.
async fn keep_outcomes(
    api: &Api,
    tenant: TenantId,
    stored: &mut Stored,
    items: Vec<rest::OperationItem>,
) -> Result<(), Failure> {
    if items.is_empty() {
        return Ok(());
    }
    let page = Outcomes { before: stored.outcomes.clone(), items };
    let text = serde_json::to_vec(&page).map_err(|_| Failure::internal("outcomes do not serialise"))?;
    let hash = api.runtime.blobs().put(tenant.0, text.into()).await?;
    stored.outcomes = Some(hash_text(&hash));
    Ok(())
}

/// Pages of outcomes that one call looks through for outcomes of one kind.
const LOOKED_AT: usize = 64;
/// Bytes of a page of outcomes, at most: each is an id and a short text.
const OUTCOMES_BYTES: u64 = 4 << 20;

/// What became of each, the newest first; only those with an outcome of `wanted`, if given.
pub(crate) async fn items(
    api: &Api,
    caller: &Principal,
    key: &str,
    wanted: Option<&str>,
    part: &Part,
) -> Result<rest::Page<rest::OperationItem>, Failure> {
    let (stored, _) = read(api, caller.tenant, key).ok_or_else(|| Failure::not_found("operation", key))?;
    let filter = format!("{key} {}", wanted.unwrap_or_default());
    let list =
        List { key: api.runtime.token_key(), resource: "operation-items", tenant: caller.tenant, filter: &filter };
    // A place is the address of a page and a number in it.
    let (mut page, mut skip) = match &part.cursor {
        Some(cursor) => place_of(&list.open(cursor)?)?,
        None => (stored.outcomes, 0),
    };
    let limit = part.limit.clamp(1, MAX_LIMIT);
    let mut out = rest::Page {
        items: Vec::new(),
        next_cursor: None,
        as_of: api.runtime.committed_index(),
        searched_back_to: None,
    };
    for _ in 0..LOOKED_AT {
        let Some(address) = page.clone() else { return Ok(out) };
        let outcomes = read_outcomes(api, caller.tenant, &address).await?;
        for (at, item) in outcomes.items.into_iter().enumerate().skip(skip) {
            if wanted.is_some_and(|wanted| wanted != item.outcome) {
                continue;
            }
            if out.items.len() == limit {
                out.next_cursor = Some(list.seal(format!("{address} {at}").as_bytes()));
                return Ok(out);
            }
            out.items.push(item);
        }
        (page, skip) = (outcomes.before, 0);
    }
    out.next_cursor = page.map(|address| list.seal(format!("{address} 0").as_bytes()));
    Ok(out)
}

fn place_of(bytes: &[u8]) -> Result<(Option<String>, usize), Failure> {
    let text = std::str::from_utf8(bytes).ok().and_then(|text| text.split_once(' '));
    let place = text.and_then(|(address, at)| Some((Some(address.to_owned()), at.parse().ok()?)));
    place.ok_or_else(|| Failure::query("cursor", "the cursor is not one of this list; start again without it"))
}

async fn read_outcomes(api: &Api, tenant: TenantId, address: &str) -> Result<Outcomes, Failure> {
    let hash = parse_hash(address).ok_or_else(|| Failure::internal("outcomes have no address"))?;
    let bytes = api.runtime.blobs().read(tenant.0, hash, 0, OUTCOMES_BYTES).await?;
    serde_json::from_slice(&bytes).map_err(|_| Failure::internal("outcomes cannot be read"))
}
