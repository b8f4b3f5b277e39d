//! Runs of workflows: starting, reading, waiting for and acting on them.

use std::time::Duration;

use serde_json::Value;
use tidewheel_engine::Command;
use tidewheel_engine::command::{RunAction, StartRun};
use tidewheel_engine::effect::{Refusal, Reply};
use tidewheel_engine::id::{Name, RunId, TaskId, TenantId};
use tidewheel_engine::run::act::Outcome;
use tidewheel_engine::run::code;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::head::{Head, Identity, Outside, Phase};
use tidewheel_engine::run::turn::signalled;
use tidewheel_engine::view::View;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::list_tasks::MAX_LIMIT;
use super::submit_task::{idempotency_mismatch, key_hash, short_hash};
use super::workflow::{self, LATEST, Named};
use super::{list_tasks, run_query, run_status, spec};
use crate::auth::Principal;
use crate::cursor::List;
use crate::live::waiters::Seen;
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::store::{RunQuery, RunRow};
use crate::text::{fresh_id, hash_text, nearest, run_id, run_text, task_text};
use crate::units::{parse_time, time_text};

/// Longest reason that is kept.
const REASON_BYTES: usize = 1_024;
/// Longest key of a journal that is looked for.
const KEY_BYTES: usize = 4_096;
/// Runs of one tree that are shown.
const TREE_RUNS: usize = 1_000;
/// Rows of children that one level of a tree looks at, at most.
const SCAN_ROWS: usize = 50_000;
/// Children of one run that are shown in a tree.
const TREE_CHILDREN: usize = 100;

/// The names of all phases.
pub(crate) const PHASES: [(&str, Phase); 7] = [
    ("pending", Phase::Pending),
    ("running", Phase::Running),
    ("waiting", Phase::Waiting),
    ("suspended", Phase::Suspended),
    ("cancelled", Phase::Cancelled),
    ("faulted", Phase::Faulted),
    ("completed", Phase::Completed),
];

/// The name of a phase.
pub(crate) fn phase_name(phase: Phase) -> &'static str {
    PHASES.iter().find(|(_, own)| *own == phase).map_or("pending", |(name, _)| name)
}

/// A run that was started, or found by its key.
pub(crate) struct Started {
    pub(crate) head: Box<Head>,
    /// Its key was known from before.
    pub(crate) replayed: bool,
}

/// Starts a run. `path`: the workflow, where the path names it. `raw`: the body, which tells one call from another under a key.
pub(crate) async fn start(
    api: &Api,
    caller: &Principal,
    body: rest::StartRun,
    path: Option<(&str, &str)>,
    key: Option<&str>,
    raw: &[u8],
) -> Result<Started, Failure> {
    let (namespace, name) = workflow_of(&body, path)?;
    let version = body.version.as_deref().unwrap_or(LATEST).to_owned();
    let correlation = body.correlation_id.as_deref().map(|id| spec::key(id, "/correlation_id")).transpose()?;
    let claim = match key {
        None => None,
        Some(key) => {
            spec::key(key, "Idempotency-Key")?;
            // A byte that no header can hold keeps these keys apart from those of tasks.
            let own = key_hash(caller.tenant, &format!("run\0{key}"));
            let (space, own_name) = (namespace.as_bytes(), name.as_bytes());
            Some((own, short_hash(&[space, own_name, raw])))
        }
    };
    let input = data(api, caller.tenant, body.input.unwrap_or_else(|| Value::Object(serde_json::Map::new()))).await?;
    let begun = api.runtime.now_ms();
    let start = Box::new(StartRun {
        namespace: namespace.as_str().into(),
        name: name.as_str().into(),
        version: version.as_str().into(),
        input,
        correlation,
        claim,
    });
    let tenant = caller.tenant;
    match api.runtime.call(move |request| Command::StartRun { request, tenant, start }).await? {
        Reply::Run(head) => {
            // Ids carry the time of their making, which never falls.
            let replayed = claim.is_some() && head.identity.run.millis() < begun;
            Ok(Started { head, replayed })
        }
        Reply::Refused(Refusal::NotFound) => {
            let named = Named { namespace: &namespace, name: &name, version: &version };
            Err(workflow::unknown(api, tenant, named))
        }
        Reply::Refused(Refusal::IdempotencyMismatch { .. }) => Err(idempotency_mismatch()),
        Reply::Refused(refusal) => Err(from_refusal(refusal)),
        _ => Err(Failure::internal("the start of a run was answered with something else")),
    }
}

fn workflow_of(body: &rest::StartRun, path: Option<(&str, &str)>) -> Result<(String, String), Failure> {
    let example = "name the workflow as namespace/name, such as {\"workflow\":\"shop/order\",\"input\":{}}";
    let named = match body.workflow.as_deref() {
        None => None,
        Some(text) => match text.split('/').collect::<Vec<_>>()[..] {
            [namespace, name] if !namespace.is_empty() && !name.is_empty() => Some((namespace, name)),
            _ => return Err(Failure::field("/workflow", example)),
        },
    };
    match (path, named) {
        (Some(path), Some(named)) if path != named => {
            Err(Failure::field("/workflow", "the body names another workflow than the path"))
        }
        (Some((namespace, name)), _) | (None, Some((namespace, name))) => Ok((namespace.to_owned(), name.to_owned())),
        (None, None) => Err(Failure::field("/workflow", format!("this field is missing; {example}"))),
    }
}

/// A value for a run: a large one is durable in the blob store before it is named.
pub(crate) async fn data(api: &Api, tenant: TenantId, value: Value) -> Result<Data, Failure> {
    let (data, bytes) = Data::of(value);
    if let Some(bytes) = bytes {
        api.runtime.blobs().put(tenant.0, bytes).await?;
    }
    Ok(data)
}

/// The run as it is now.
pub(crate) async fn head(api: &Api, caller: &Principal, run: RunId) -> Result<Box<Head>, Failure> {
    head_of(api, caller.tenant, run).await
}

/// The same for a run of a tenant.
pub(crate) async fn head_of(api: &Api, tenant: TenantId, run: RunId) -> Result<Box<Head>, Failure> {
    let read = move |request| Command::Read { request, view: View::Run { tenant, run } };
    match api.runtime.call(read).await? {
        Reply::Run(head) => Ok(head),
        Reply::Refused(Refusal::NotFound) => Err(Failure::not_found("run", &run_text(run))),
        Reply::Refused(refusal) => Err(from_refusal(refusal)),
        _ => Err(Failure::internal("a read of a run was answered with something else")),
    }
}

/// The run with its input, its output and what it waits for.
pub(crate) async fn shown(api: &Api, caller: &Principal, head: &Head) -> Result<rest::Run, Failure> {
    let mut run = summary(head);
    run.input = Some(head.input.written());
    if let Some(Outcome::Ok(output)) = &head.outcome {
        run.output = Some(output.written());
    }
    run.status = match code::of(head) {
        Some(program) => program.state.as_ref().map(Data::written),
        None if head.phase.ended() => run_status::last(api, caller.tenant, head).await?,
        None => None,
    };
    run.waiting = waiting(head);
    if run.waiting.iter().any(|wait| matches!(wait.what.as_str(), "time" | "retry" | "timeout" | "attempt_timeout")) {
        let (tenant, id) = (caller.tenant, head.identity.run);
        let stored = api.read_store(move |store| store.run(tenant, id)).await?;
        let timers = stored.map(|stored| stored.timers).unwrap_or_default();
        for wait in &mut run.waiting {
            wait.until = timers.iter().find(|(entry, _)| *entry == wait.entry).map(|(_, due)| time_text(*due));
        }
    }
    Ok(run)
}

/// What is shown of a run as it is in memory.
pub(crate) fn summary(head: &Head) -> rest::Run {
    let times = (head.started_ms, head.ended_ms);
    let shown = about(&head.identity, (head.phase, head.reason.as_deref()), times, head.outcome.as_ref());
    let attributes = head.attributes.iter().map(|(name, value)| (name.to_string(), value.clone()));
    rest::Run { turns: head.turns, entries: Some(head.entries), attributes: attributes.collect(), ..shown }
}

/// What lists show of a run: as it was last written whole.
fn row(row: &RunRow) -> rest::Run {
    let times = (row.started, row.ended);
    let shown = about(&row.identity, (row.phase, row.reason.as_deref()), times, row.outcome.as_ref());
    let attributes = row.attributes.iter().map(|(name, value)| (name.to_string(), value.clone()));
    rest::Run { turns: row.turns, attributes: attributes.collect(), ..shown }
}

fn about(
    who: &Identity,
    (phase, reason): (Phase, Option<&str>),
    (started, ended): (u64, u64),
    outcome: Option<&Outcome>,
) -> rest::Run {
    let error = match outcome {
        Some(Outcome::Err(fault)) => Some((*fault.0).clone()),
        _ => None,
    };
    rest::Run {
        id: run_text(who.run),
        namespace: who.namespace.to_string(),
        workflow: who.name.to_string(),
        version: who.version.to_string(),
        phase: phase_name(phase).to_owned(),
        reason: reason.map(str::to_owned),
        parent: who.parent.as_ref().map(|parent| run_text(parent.run)),
        correlation_id: who.correlation.as_deref().map(str::to_owned),
        // A run that waits for its first turn has begun when its id was made.
        started_at: time_text(if started > 0 { started } else { who.run.millis() }),
        ended_at: (ended > 0).then(|| time_text(ended)),
        hash: hash_text(&who.plan),
        error,
        ..rest::Run::default()
    }
}

fn waiting(head: &Head) -> Vec<rest::RunWait> {
    let run = head.identity.run;
    let frame = |seq: u64| head.lines.iter().flat_map(|line| &line.frames).find(move |frame| frame.seq == seq);
    let one = |(entry, open): &(u64, tidewheel_engine::run::head::Open)| {
        let what = match open.what {
            Outside::Task => "task",
            Outside::Child(_) => "run",
            Outside::Items => "items",
            Outside::Wait => "time",
            Outside::Timeout => "timeout",
            Outside::AttemptLimit => "attempt_timeout",
            Outside::Backoff => "retry",
            Outside::Events => "event",
            Outside::Undo => "undo",
            Outside::UndoPause => "undo_retry",
        };
        let frame = frame(open.owner);
        rest::RunWait {
            what: what.to_owned(),
            entry: *entry,
            statement: frame
                .map(|frame| frame.place.reference.to_string())
                .or_else(|| {
                    Some(head.undo.as_ref().filter(|undo| undo.owns(*entry))?.all().last()?.reference.to_string())
                })
                .unwrap_or_default(),
            since: frame.map(|frame| time_text(frame.started_ms)),
            until: None,
            task: matches!(open.what, Outside::Task | Outside::Undo)
                .then(|| task_text(TaskId::of_step(run, *entry, 0))),
            run: matches!(open.what, Outside::Child(_)).then(|| run_text(RunId::of_child(run, *entry, 0))),
        }
    };
    head.open.iter().map(one).collect()
}

/// The run, at its end or when the wait is over, whichever comes first.
pub(crate) async fn wait(api: &Api, caller: &Principal, run: RunId, at_most: Duration) -> Result<Box<Head>, Failure> {
    if at_most.is_zero() {
        return head(api, caller, run).await;
    }
    // Registered first, read second, so that an end in between is not missed.
    let mut watch = api.runs.watch(run);
    let found = head(api, caller, run).await?;
    if found.phase.ended() {
        return Ok(found);
    }
    let ended = tokio::time::timeout(at_most.min(api.config.max_wait), async {
        loop {
            match watch.next().await {
                Seen::Change(change) if !change.phase.is_some_and(Phase::ended) => {}
                _ => {
                    let now = head(api, caller, run).await?;
                    if now.phase.ended() {
                        return Ok(now);
                    }
                }
            }
        }
    });
    match ended.await {
        Ok(result) => result,
        Err(_) => head(api, caller, run).await,
    }
}

/// Acts on a run; the run as it is afterwards (for a fork: the new one).
pub(crate) async fn act(api: &Api, caller: &Principal, run: RunId, action: RunAction) -> Result<Box<Head>, Failure> {
    act_on(api, caller.tenant, run, action).await
}

/// The same for a run of a tenant.
pub(crate) async fn act_on(api: &Api, tenant: TenantId, run: RunId, action: RunAction) -> Result<Box<Head>, Failure> {
    match api.runtime.call(move |request| Command::ActOnRun { request, tenant, run, action }).await? {
        Reply::Run(head) => Ok(head),
        Reply::Refused(Refusal::NotFound) => Err(Failure::not_found("run", &run_text(run))),
        Reply::Refused(refusal) => Err(from_refusal(refusal)),
        _ => Err(Failure::internal("an action on a run was answered with something else")),
    }
}

/// A reason for people, or what stands for it.
fn reason(given: Option<&str>, default: &str) -> Result<Name, Failure> {
    let reason = given.unwrap_or(default);
    if reason.len() > REASON_BYTES {
        return Err(Failure::field("/reason", format!("a reason has at most {REASON_BYTES} bytes")));
    }
    Ok(reason.into())
}

/// The action of this name that needs no more than a reason; `None` if there is none.
pub(crate) fn action(verb: &str, reason: Option<&str>) -> Result<Option<RunAction>, Failure> {
    let why = |done: &str| self::reason(reason, &format!("{done} by a user"));
    Ok(Some(match verb {
        "cancel" => RunAction::Cancel(why("cancelled")?),
        "terminate" => RunAction::Terminate(why("terminated")?),
        "suspend" => RunAction::Suspend(why("suspended")?),
        "resume" => RunAction::Resume,
        "retry" => RunAction::Retry,
        _ => return Ok(None),
    }))
}

/// Where to go back to, and with which input.
pub(crate) async fn go_back(
    api: &Api,
    caller: &Principal,
    body: rest::GoBack,
) -> Result<(Name, Option<Data>), Failure> {
    if body.key.is_empty() || body.key.len() > KEY_BYTES {
        let detail =
            "a key of the journal is needed, such as '/task:/do/0/pay#0'; GET /api/v1/runs/{id}/journal lists them";
        return Err(Failure::field("/key", detail));
    }
    let input = match body.input {
        Some(value) => Some(data(api, caller.tenant, value).await?),
        None => None,
    };
    Ok((body.key.as_str().into(), input))
}

/// A signal of a type.
pub(crate) async fn signal(
    api: &Api,
    caller: &Principal,
    run: RunId,
    kind: &str,
    body: rest::SignalRun,
) -> Result<Box<Head>, Failure> {
    spec::check_type(kind).map_err(|_| {
        Failure::new(
            Code::InvalidField,
            "The type of a signal has 1 to 200 characters, none of them a control character.",
        )
    })?;
    let id = match &body.id {
        Some(id) => spec::key(id, "/id")?,
        None => format!("{:032x}", fresh_id(api.runtime.now_ms())).as_str().into(),
    };
    let value = body.data.unwrap_or(Value::Null);
    match Data::of(value.clone()) {
        (data, None) => act(api, caller, run, RunAction::Signal(id, kind.into(), data)).await,
        // As the event that it is: in that of a signal a large value would be its name.
        (_, Some(_)) => {
            let event = data(api, caller.tenant, signalled(&id, kind, value)).await?;
            act(api, caller, run, RunAction::Arrive(event)).await
        }
    }
}

/// What a list of runs was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) phase: Option<&'a str>,
    pub(crate) workflow: Option<&'a str>,
    pub(crate) version: Option<&'a str>,
    pub(crate) parent: Option<&'a str>,
    pub(crate) correlation: Option<&'a str>,
    pub(crate) started_from: Option<&'a str>,
    pub(crate) started_until: Option<&'a str>,
    pub(crate) filter: Option<&'a str>,
    pub(crate) cursor: Option<&'a str>,
    pub(crate) limit: usize,
}

/// A page of runs, newest first.
pub(crate) async fn list(api: &Api, caller: &Principal, wanted: &Wanted<'_>) -> Result<rest::Page<rest::Run>, Failure> {
    // The cursor belongs to these conditions.
    let filter = format!("{:?}", Wanted { cursor: None, limit: 0, ..wanted.clone() });
    let list = List { key: api.runtime.token_key(), resource: "runs", tenant: caller.tenant, filter: &filter };
    let before = wanted.cursor.map(|cursor| list.open_id(cursor)).transpose()?;
    let base = query(caller.tenant, wanted)?;
    let plan = run_query::Plan::new(base, wanted.filter.unwrap_or_default(), api.runtime.now_ms())?;
    let found = run_query::find(api, &plan, before, wanted.limit.clamp(1, MAX_LIMIT)).await?;
    Ok(rest::Page {
        items: found.rows.iter().map(row).collect(),
        next_cursor: found.next.map(|next| list.seal(&next.to_be_bytes())),
        as_of: found.as_of,
        searched_back_to: found.searched_back_to.map(time_text),
    })
}

fn query(tenant: TenantId, wanted: &Wanted<'_>) -> Result<RunQuery, Failure> {
    let time = |name: &str, text: Option<&str>| {
        text.map(parse_time).transpose().map_err(|detail| Failure::query(name, detail))
    };
    let workflow = match wanted.workflow {
        None => (None, None),
        Some(text) => match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), Some(name)),
            None => (None, Some(text)),
        },
    };
    let phases = wanted.phase.into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|p| !p.is_empty());
    let phases = phases.map(phase).collect::<Result<Vec<_>, _>>()?;
    Ok(RunQuery {
        tenant,
        phases,
        namespace: workflow.0.map(str::to_owned),
        name: workflow.1.map(str::to_owned),
        version: wanted.version.map(str::to_owned),
        parent: wanted
            .parent
            .map(run_id)
            .transpose()
            .map_err(|_| Failure::query("parent", "this is no id of a run"))?,
        correlation: wanted.correlation.map(str::to_owned),
        started_from: time("started_from", wanted.started_from)?,
        started_until: time("started_until", wanted.started_until)?,
        ..RunQuery::default()
    })
}

fn phase(name: &str) -> Result<Phase, Failure> {
    phase_named(name).map_err(|detail| Failure::query("phase", detail))
}

/// The phase of a name, or what is wrong with it.
pub(super) fn phase_named(name: &str) -> Result<Phase, String> {
    let found = PHASES.iter().find(|(own, _)| *own == name).map(|(_, phase)| *phase);
    found.ok_or_else(|| {
        let names = PHASES.map(|(name, _)| name);
        match nearest(name, names) {
            Some(near) => format!("there is no phase '{name}'; did you mean '{near}'?"),
            None => format!("there is no phase '{name}'; phases are {}", names.join(", ")),
        }
    })
}

/// Which runs of a workflow are counted.
pub(crate) enum Follow {
    /// Those of the version that have not ended.
    Open,
    /// Any run of the workflow, of whatever version: one, if there is one.
    Any,
}

/// Runs counted at once.
const COUNTED: usize = 1_000;

/// How many runs follow a version of a workflow.
pub(crate) async fn followers(api: &Api, tenant: TenantId, named: Named<'_>, which: &Follow) -> Result<usize, Failure> {
    let any = matches!(which, Follow::Any);
    let mut query = RunQuery {
        tenant,
        phases: PHASES.iter().map(|(_, phase)| *phase).filter(|phase| any || !phase.ended()).collect(),
        namespace: Some(named.namespace.to_owned()),
        name: Some(named.name.to_owned()),
        version: (!any).then(|| named.version.to_owned()),
        limit: if any { 1 } else { COUNTED },
        scan_limit: usize::MAX,
        ..RunQuery::default()
    };
    let mut count = 0;
    loop {
        let asked = query.clone();
        let page = api.read_store(move |store| store.runs(&asked)).await?;
        count += page.runs.len();
        query.before = page.next;
        if page.next.is_none() || any {
            return Ok(count);
        }
    }
}

/// `1 run`, `2 runs`.
pub(crate) fn counted(count: usize) -> String {
    format!("{count} run{}", if count == 1 { "" } else { "s" })
}

/// A run with those that it started, and theirs.
pub(crate) async fn tree(api: &Api, caller: &Principal, run: RunId) -> Result<rest::RunTree, Failure> {
    let root = head(api, caller, run).await?;
    let mut left = TREE_RUNS;
    // Level by level, so that a wide tree shows its upper levels whole.
    let mut nodes: Vec<(RunId, rest::RunTree, Option<usize>)> =
        vec![(run, rest::RunTree { run: summary(&root), ..rest::RunTree::default() }, None)];
    let mut at = 0;
    while at < nodes.len() {
        let (parent, tenant) = (nodes[at].0, caller.tenant);
        let limit = TREE_CHILDREN.min(left) + 1;
        let query = RunQuery { tenant, parent: Some(parent), limit, scan_limit: SCAN_ROWS, ..RunQuery::default() };
        let page = api.read_store(move |store| store.runs(&query)).await?;
        let mut children = page.runs;
        if children.len() >= limit {
            children.truncate(limit - 1);
            nodes[at].1.more = true;
        }
        left -= children.len();
        for child in children.iter().rev() {
            let tree = rest::RunTree { run: row(child), ..rest::RunTree::default() };
            nodes.push((child.identity.run, tree, Some(at)));
        }
        at += 1;
    }
    // Children stand behind their parents: from the end on, each is whole when it is put into its parent.
    while let Some((_, mut node, Some(parent))) = nodes.pop_if(|(_, _, parent)| parent.is_some()) {
        node.children.reverse();
        nodes[parent].1.children.push(node);
    }
    let (_, mut root, _) = nodes.pop().ok_or_else(|| Failure::internal("a tree has no root"))?;
    root.children.reverse();
    Ok(root)
}

/// Items of a page that asks for no number.
pub(crate) const DEFAULT_LIMIT: usize = list_tasks::DEFAULT_LIMIT;
