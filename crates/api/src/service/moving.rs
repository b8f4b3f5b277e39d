//! Runs go over to another version of their workflow: by hand, one or all that a filter finds, and by a deploy where the version
//! that a run follows says so (`versionPolicy`).
//!
//! A document's run is moved by the engine, which says what does not fit. The history of a program is replayed on the new code
//! first where that is wanted: by a task on an agent, which changes nothing. What it finds holds for the place in the history
//! that it has seen; the engine moves the run only while it stands there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidewheel_engine::command::{MoveRun, RunAction, Submit};
use tidewheel_engine::config::{RetryPolicy, Timeouts};
use tidewheel_engine::effect::Submitted;
use tidewheel_engine::id::{RunId, TaskId, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::code;
use tidewheel_engine::run::head::{Head, Phase};
use tidewheel_engine::run::moves::CodePlace;
use tidewheel_engine::run::plan::VersionPolicy;
use tidewheel_engine::task::{Payload, Spec, State, Task};
use tidewheel_lang::program::ProgramDocument;
use tidewheel_lang::resolve::Resolved;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::operation::{self, Stored};
use super::submit_task::payload;
use super::workflow::{self, LATEST, Named};
use super::{package_use, run, run_history, spec};
use crate::auth::Principal;
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::store::RunQuery;
use crate::text::{parse_hash, run_text, task_text};

/// The version that a run followed before its last move.
pub(crate) const PREVIOUS: &str = "previous";
/// How often the history of a run that goes on meanwhile is replayed.
const ROUNDS: usize = 5;
/// Between two looks at a run that is in the middle of something, and how many.
const PAUSE: Duration = Duration::from_millis(100);
const LOOKS: usize = 100;
/// How long a replay may wait for an agent, and how long it may take.
const REPLAY_QUEUE_MS: u64 = 120_000;
const REPLAY_RUN_MS: u64 = 300_000;
/// Turns read at once on the way back through a journal.
const TURNS: u64 = 256;
/// Open runs that a deploy looks at before it starts an operation over all of them.
const LOOKED_AT: usize = 1_000;

/// How a run is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// At once. Whether a program fits shows when it is replayed next.
    Now,
    /// A program only if its history fits.
    Checked,
    /// As the version that the run follows says.
    ByPolicy,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Moved {
    /// The run follows the version.
    Done(Box<Head>),
    /// It stays where it is, as it should: why.
    Stays(&'static str),
}

/// Moves one run by hand.
pub(crate) async fn by_hand(
    api: &Api,
    caller: &Principal,
    run: RunId,
    body: &rest::MoveRun,
) -> Result<Box<Head>, Failure> {
    let how = if body.check { How::Checked } else { How::Now };
    match one(api, caller.tenant, run, &body.to, how, &caller.name).await? {
        Moved::Done(head) => Ok(head),
        Moved::Stays(why) => Err(Failure::new(Code::Conflict, why)),
    }
}

/// Moves one run. `to`: a version, `latest`, `previous`, or the hash of a document.
pub(crate) async fn one(
    api: &Api,
    tenant: TenantId,
    id: RunId,
    to: &str,
    how: How,
    by: &str,
) -> Result<Moved, Failure> {
    let head = run::head_of(api, tenant, id).await?;
    if head.phase.ended() {
        let phase = run::phase_name(head.phase);
        return Err(Failure::new(Code::Conflict, format!("the run has already ended: {phase}")));
    }
    let plan = target(api, tenant, &head, to).await?;
    if head.identity.plan == plan {
        return Ok(Moved::Done(head));
    }
    let how = match how {
        How::ByPolicy => match policy(api, tenant, &head.identity.plan) {
            VersionPolicy::Pin => return Ok(Moved::Stays("the version that it follows pins its runs")),
            VersionPolicy::Compatible => How::Checked,
            VersionPolicy::Latest => How::Now,
        },
        how => how,
    };
    let document = resolved(api, tenant, &plan);
    if let Some((name, version)) = document.as_ref().and_then(|document| package_use::missing(api, tenant, document)) {
        let detail = format!(
            "the run cannot go on with that version: it calls the package {name} {version}, which was deleted; upload that version of \
             the package again first"
        );
        return Err(Failure::new(Code::Conflict, detail));
    }
    let program = document.and_then(|document| document.program());
    match program.filter(|_| how == How::Checked) {
        Some(program) => checked(api, tenant, id, (plan, &program), by).await,
        None => act(api, tenant, id, MoveRun { plan, by: by.into(), at: None }).await,
    }
    .map(Moved::Done)
}

/// Moves a program whose history fits, as long as it does not go on meanwhile.
async fn checked(
    api: &Api,
    tenant: TenantId,
    id: RunId,
    (plan, program): ([u8; 32], &ProgramDocument),
    by: &str,
) -> Result<Box<Head>, Failure> {
    for _ in 0..ROUNDS {
        let Some(at) = resting(api, tenant, id).await? else {
            // It has not begun: nothing of it could differ.
            return act(api, tenant, id, MoveRun { plan, by: by.into(), at: None }).await;
        };
        let history = run_history::of(api, tenant, id).await?;
        if CodePlace::of(&*run::head_of(api, tenant, id).await?) != Some(at) {
            continue;
        }
        replay(api, tenant, program, history).await?;
        match act(api, tenant, id, MoveRun { plan, by: by.into(), at: Some(at) }).await {
            Err(failure) if failure.code() == Code::Conflict => {
                let now = run::head_of(api, tenant, id).await?;
                if now.phase.ended() || CodePlace::of(&now) == Some(at) {
                    return Err(failure);
                }
            }
            other => return other,
        }
    }
    let detail =
        "the run goes on faster than its history can be replayed; suspend it first, or move it without the check";
    Err(Failure::new(Code::Conflict, detail))
}

/// Where a program stands, once it is not at work; `None` = it has not begun.
async fn resting(api: &Api, tenant: TenantId, id: RunId) -> Result<Option<CodePlace>, Failure> {
    for _ in 0..LOOKS {
        let head = run::head_of(api, tenant, id).await?;
        if let Some(at) = CodePlace::of(&head) {
            return Ok(Some(at));
        }
        if code::of(&head).is_none() {
            return match head.phase {
                phase if phase.ended() || head.closing.is_some() => {
                    Err(Failure::new(Code::Conflict, "the run has ended, or is about to"))
                }
                _ => Ok(None),
            };
        }
        tokio::time::sleep(PAUSE).await;
    }
    let detail = "the program has been at work the whole time; an activation of it has to end before its history can be \
                  replayed";
    Err(Failure::new(Code::Conflict, detail))
}

/// Replays a history on the code of a version, on an agent. An error says where it does not fit.
async fn replay(api: &Api, tenant: TenantId, program: &ProgramDocument, mut history: Value) -> Result<(), Failure> {
    history["rehearsal"] = true.into();
    let content = serde_json::to_vec(&history).map_err(|_| Failure::internal("a history does not serialise"))?;
    let hash = program.package_hash.trim_start_matches("sha256:").to_owned();
    let spec = Spec {
        package: Some(hash.as_str().into()),
        entrypoint: Some(program.function.as_str().into()),
        retry: Some(RetryPolicy { max_attempts: 3, ..RetryPolicy::default() }),
        timeouts: Timeouts { queue_ms: REPLAY_QUEUE_MS, run_ms: REPLAY_RUN_MS, ..Timeouts::default() },
        ..Spec::default()
    };
    let item = Submit {
        kind: program.name.as_str().into(),
        queue: program.queue.as_deref().map_or_else(|| api.default_queue.clone(), Into::into),
        priority: program.priority.unwrap_or(spec::DEFAULT_PRIORITY),
        run_at: 0,
        delay_ms: 0,
        input: payload(api, tenant, content.into()).await?,
        spec: Arc::new(spec),
        // After a crash of the server in between it is done again; it changes nothing.
        idempotency: None,
    };
    let task = match api.runtime.submit(tenant, vec![item]).await?.pop() {
        Some(Submitted::New(task) | Submitted::Replayed(task)) => task,
        Some(Submitted::Refused(refusal)) => return Err(from_refusal(refusal)),
        None => return Err(Failure::internal("a submit was answered with nothing")),
    };
    verdict(api, tenant, program, &ended(api, tenant, task).await?).await
}

/// The task, once it has ended: its own time limits bound the wait.
async fn ended(api: &Api, tenant: TenantId, task: TaskId) -> Result<Task, Failure> {
    let mut watch = api.hub.watch(task);
    loop {
        let found = api.read_store(move |store| store.task(tenant, task)).await?;
        match found {
            Some(found) if found.state.is_terminal() => return Ok(found),
            Some(_) => {}
            None => return Err(Failure::not_found("task", &task_text(task))),
        }
        // A change may be missed over a restart of the partition.
        let _ = tokio::time::timeout(Duration::from_secs(5), watch.next()).await;
    }
}

async fn verdict(api: &Api, tenant: TenantId, program: &ProgramDocument, task: &Task) -> Result<(), Failure> {
    let ending = task.ending.as_deref();
    let version = format!("{} {}", program.package, program.package_version);
    if task.state != State::Succeeded {
        let why = ending
            .and_then(|ending| ending.failure.as_ref())
            .map_or_else(String::new, |failure| format!(": {}: {}", failure.kind, failure.message));
        let detail = format!(
            "the history of the run could not be replayed on {version} ({}, {}{why}); is there an agent for it?",
            task_text(task.id),
            task.state.as_str()
        );
        return Err(Failure::new(Code::Conflict, detail));
    }
    let result = match ending.map(|ending| &ending.result) {
        Some(Payload::Inline(bytes)) => bytes.clone(),
        Some(Payload::Blob { hash, size }) => api.runtime.blobs().read(tenant.0, *hash, 0, *size).await?,
        _ => bytes::Bytes::new(),
    };
    let found: Value = serde_json::from_slice(&result).unwrap_or_default();
    if found["ok"] == true {
        return Ok(());
    }
    let why = found["why"].as_str().unwrap_or("its package is too old to replay a history: it needs a newer tidewheel");
    let place = match (found["file"].as_str(), found["line"].as_u64()) {
        (Some(file), Some(line)) if !file.is_empty() => format!(" ({file}:{line})"),
        _ => String::new(),
    };
    Err(Failure::new(Code::Conflict, format!("the history of the run does not fit {version}: {why}{place}")))
}

/// Lets the engine move it; the run as it is then.
async fn act(api: &Api, tenant: TenantId, id: RunId, to: MoveRun) -> Result<Box<Head>, Failure> {
    let plan = to.plan;
    let mut head = run::act_on(api, tenant, id, RunAction::Move(to)).await?;
    // What came for the run before goes first.
    for _ in 0..LOOKS {
        if head.identity.plan == plan {
            return Ok(head);
        }
        if head.phase.ended() {
            break;
        }
        tokio::time::sleep(PAUSE / 4).await;
        head = run::head_of(api, tenant, id).await?;
    }
    Err(Failure::new(Code::Conflict, "the run went on meanwhile, and where it is now it does not fit that version"))
}

/// The document that a run is to follow.
async fn target(api: &Api, tenant: TenantId, head: &Head, to: &str) -> Result<[u8; 32], Failure> {
    let example = "name a version, such as 1.2.0, or latest, previous, or the hash of a document (sha256:...)";
    if to.is_empty() {
        return Err(Failure::field("/to", example));
    }
    if to == PREVIOUS {
        return previous(api, tenant, head).await;
    }
    let hash = if to.starts_with("sha256:") {
        let hash = parse_hash(to).ok_or_else(|| Failure::field("/to", example))?;
        match api.runtime.directory().record(RecordKind::Definition, tenant, &hex::encode(hash)) {
            Some(_) => Some(hash),
            None => return Err(Failure::not_found("document", to)),
        }
    } else {
        let found = workflow::hash_at(api, tenant, Named { version: to, ..followed(head) })?;
        parse_hash(&format!("sha256:{found}"))
    };
    hash.ok_or_else(|| Failure::internal("a version has no hash"))
}

/// The version of a workflow that a run follows.
fn followed(head: &Head) -> Named<'_> {
    let who = &head.identity;
    Named { namespace: &who.namespace, name: &who.name, version: &who.version }
}

/// What the run followed before its last move.
async fn previous(api: &Api, tenant: TenantId, head: &Head) -> Result<[u8; 32], Failure> {
    let (id, mut below) = (head.identity.run, head.turns);
    while below > 0 {
        let after = below.saturating_sub(TURNS);
        let count = usize::try_from(below - after).unwrap_or(usize::MAX);
        let turns = api.read_store(move |store| store.turns(tenant, id, after, count)).await?;
        for segment in turns.iter().rev().filter(|segment| matches!(segment.event, Event::Moved { .. })) {
            let from = segment.values.iter().filter_map(|value| value.json()?["from"]["hash"].as_str());
            if let Some(hash) = from.filter_map(parse_hash).next() {
                return Ok(hash);
            }
        }
        below = after;
    }
    Err(Failure::field("/to", "the run was never moved, so that it has no previous version"))
}

pub(crate) fn resolved(api: &Api, tenant: TenantId, plan: &[u8; 32]) -> Option<Resolved> {
    let record = api.runtime.directory().record(RecordKind::Definition, tenant, &hex::encode(plan))?;
    Resolved::read(record.value.as_bytes()).ok()
}

/// What a version says of its runs. One that is not there pins them.
pub(crate) fn policy(api: &Api, tenant: TenantId, plan: &[u8; 32]) -> VersionPolicy {
    resolved(api, tenant, plan).map_or(VersionPolicy::Pin, |resolved| resolved.version_policy())
}

/// A version was deployed: starts moving the runs of other versions that say so. Nothing is to be done as a rule, and then nothing is
/// started. Runs go to the newest version alone.
pub(crate) async fn deployed(
    api: &Api,
    tenant: TenantId,
    by: &str,
    named: Named<'_>,
) -> Result<Option<String>, Failure> {
    let Named { namespace, name, version } = named;
    let latest = workflow::hash_at(api, tenant, Named { version: LATEST, ..named });
    let Ok(latest) = latest else { return Ok(None) };
    if workflow::hash_at(api, tenant, named).ok().as_deref() != Some(&*latest) {
        return Ok(None);
    }
    let phases = run::PHASES.iter().map(|(_, phase)| *phase).filter(|phase: &Phase| !phase.ended());
    let query = RunQuery {
        tenant,
        phases: phases.collect(),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        limit: LOOKED_AT,
        scan_limit: usize::MAX,
        ..RunQuery::default()
    };
    let page = api.read_store(move |store| store.runs(&query)).await?;
    let mut policies: BTreeMap<[u8; 32], bool> = BTreeMap::new();
    let mut goes = |plan: &[u8; 32]| {
        hex::encode(plan) != latest
            && *policies.entry(*plan).or_insert_with(|| policy(api, tenant, plan) != VersionPolicy::Pin)
    };
    if page.next.is_none() && !page.runs.iter().any(|row| goes(&row.identity.plan)) {
        return Ok(None);
    }
    let open = "pending,running,waiting,suspended";
    let stored = Stored {
        action: "move".to_owned(),
        state: "running".to_owned(),
        of_runs: true,
        filter: format!("workflow:\"{namespace}/{name}\" phase:{open}"),
        by: by.to_owned(),
        to: Some(version.to_owned()),
        by_policy: true,
        created: api.runtime.now_ms(),
        ..Stored::default()
    };
    operation::begin_of(api, tenant, stored).await.map(|operation| Some(operation.id))
}

/// Why a run follows another version than the newest one, for those who ask what it waits for. `None` = it follows the newest, or is
/// meant to stay.
pub(crate) fn why_not_newest(api: &Api, tenant: TenantId, head: &Head) -> Option<String> {
    if head.phase.ended() || policy(api, tenant, &head.identity.plan) == VersionPolicy::Pin {
        return None;
    }
    let Named { namespace, name, .. } = followed(head);
    let hash = workflow::hash_at(api, tenant, Named { version: LATEST, ..followed(head) }).ok()?;
    let latest = parse_hash(&format!("sha256:{hash}")).filter(|latest| *latest != head.identity.plan)?;
    let (from, id) = (&head.identity.version, run_text(head.identity.run));
    let found = operation::moves_of(api, tenant, &format!("{namespace}/{name}"));
    let operation = found.map_or_else(String::new, |key| format!(" `tidewheel op items {key}` says what came of it."));
    let newest = resolved(api, tenant, &latest)?;
    let to = newest.workflow()["document"]["version"].as_str().unwrap_or(LATEST).to_owned();
    let why = run_history::unfit(api, tenant, head, &latest).map_or_else(String::new, |why| format!(": {why}"));
    Some(format!(
        "It stays on {from} although {to} is there{why}.{operation} `tidewheel run move {id} --to {to}` tries it again."
    ))
}
