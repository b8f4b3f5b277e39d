//! Accepting tasks. The way of each single create: read the body once, put what it asks for into an engine submit
//! that shares what tasks of its type have in common, hand it to the runtime, answer after the commit.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidewheel_engine::command::Submit;
use tidewheel_engine::config::RetryPolicy;
use tidewheel_engine::effect::{Refusal, Submitted};
use tidewheel_engine::id::{Name, TaskId, TenantId};
use tidewheel_engine::limit;
use tidewheel_engine::task::{Payload, Spec};
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::routing::{Labels, Subject};
use super::{package, routing, spec, task_type};
use crate::auth::Principal;
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::units::{duration_ms, parse_time};
use crate::{body, text};

/// Tasks in one `POST /tasks:batch`.
pub(crate) const BATCH_ITEMS: usize = 1_000;

/// What stands around a body and belongs to the task.
#[derive(Clone, Copy, Default)]
pub(crate) struct Around<'a> {
    /// `Idempotency-Key`
    pub(crate) key: Option<&'a str>,
    /// W3C `traceparent`
    pub(crate) traceparent: Option<&'a str>,
}

/// A task that was accepted, with what its answer shows.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) id: TaskId,
    pub(crate) tenant: TenantId,
    /// An earlier task with the same key; only its id is known here.
    pub(crate) replayed: bool,
    pub(crate) kind: Name,
    pub(crate) queue: Name,
    pub(crate) priority: u8,
    /// Wall time before which it does not run; 0 = at once.
    pub(crate) due: u64,
    pub(crate) spec: Arc<Spec>,
}

/// One task from its JSON body.
pub(crate) async fn one(api: &Api, caller: &Principal, bytes: &Bytes, around: Around<'_>) -> Result<Accepted, Failure> {
    let begun = Instant::now();
    let accept = async {
        let item = read(api, caller, bytes, around).await?;
        api.metrics.validated(begun.elapsed());
        let accepted = store(api, caller, item).await?;
        api.metrics.routed(begun);
        Ok(accepted)
    };
    accept.await.inspect_err(|failure: &Failure| api.metrics.rejected(failure.code()))
}

/// An item for whoever takes it: a task that no worker runs.
pub(crate) async fn item(
    api: &Api,
    caller: &Principal,
    mut task: rest::SubmitTask,
    bytes: &Bytes,
    around: Around<'_>,
) -> Result<Accepted, Failure> {
    let accept = async {
        add_key(&mut task, around.key)?;
        let input = task.input.take();
        let mut item = prepare(api, caller, &task, input.as_deref(), bytes, around.traceparent)?;
        if let Some((_, hash)) = &mut item.idempotency {
            // Unlike a task's, the body does not name the queue.
            *hash = short_hash(&[item.queue.as_bytes(), bytes]);
        }
        let mut spec = Spec::clone(&item.spec);
        let (name, value) = tidewheel_engine::task::ITEM;
        spec.requires = vec![(name.into(), value.into())];
        item.spec = Arc::new(spec);
        if let Some(raw) = input {
            let content = Bytes::from(Box::<str>::from(raw).into_boxed_bytes());
            item.input = payload(api, caller.tenant, content).await?;
        }
        store(api, caller, item).await
    };
    accept.await.inspect_err(|failure| api.metrics.rejected(failure.code()))
}

async fn store(api: &Api, caller: &Principal, item: Submit) -> Result<Accepted, Failure> {
    let shown = Shown::of(caller.tenant, &item, api.runtime.now_ms());
    let outcome = api.runtime.submit(caller.tenant, vec![item]).await?.pop();
    shown.accepted(outcome.ok_or_else(|| Failure::internal("a submit was answered with nothing"))?)
}

/// Many tasks; the answer has one outcome each. Only a broken frame refuses the whole.
/// With a key, each task that brings none of its own gets one that follows from it, so that a repeat finds every task again.
pub(crate) async fn batch(
    api: &Api,
    caller: &Principal,
    bytes: &Bytes,
    key: Option<&str>,
) -> Result<rest::SubmitBatchAnswer, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Frame<'a> {
        #[serde(borrow)]
        tasks: Vec<&'a RawValue>,
    }
    let text = body::check(bytes)?;
    if !text.trim_start().starts_with('{') {
        if !text.trim().is_empty() {
            // What is no JSON at all is told so.
            body::parse_borrowed::<serde::de::IgnoredAny>(text)?;
        }
        return Err(no_frame(""));
    }
    let frame: Frame<'_> = body::parse_borrowed(text).map_err(|failure| {
        let lacks = failure.0.errors.iter().any(|e| e.pointer == "/tasks");
        if lacks { no_frame("/tasks") } else { failure }
    })?;
    if frame.tasks.len() > BATCH_ITEMS {
        return Err(Failure::field("/tasks", format!("a batch has at most {BATCH_ITEMS} tasks")));
    }
    let begun = Instant::now();
    let mut refused: Vec<Option<Failure>> = Vec::with_capacity(frame.tasks.len());
    let mut items = Vec::with_capacity(frame.tasks.len());
    if let Some(key) = key {
        spec::key(key, "Idempotency-Key")?;
    }
    for (index, raw) in frame.tasks.iter().enumerate() {
        let raw = bytes.slice_ref(raw.get().as_bytes());
        match read(api, caller, &raw, Around::default()).await {
            Ok(mut item) => {
                if let Some(key) = key
                    && item.idempotency.is_none()
                {
                    // A byte that no header can hold keeps these keys apart from those that callers choose.
                    let own = format!("batch\0{key}\0{index}");
                    item.idempotency = Some((key_hash(caller.tenant, &own), short_hash(&[&raw])));
                }
                items.push(item);
                refused.push(None);
            }
            Err(failure) => refused.push(Some(failure)),
        }
    }
    api.metrics.validated(begun.elapsed());
    let outcomes = match key {
        None if items.is_empty() => Vec::new(),
        None => api.runtime.submit(caller.tenant, items).await?,
        Some(key) => {
            let claim = (key_hash(caller.tenant, &format!("batch\0{key}")), short_hash(&[bytes]));
            let outcomes = api.runtime.submit_once(caller.tenant, claim, items).await?;
            outcomes.map_err(|refusal| match refusal {
                Refusal::IdempotencyMismatch { .. } => idempotency_mismatch(),
                other => from_refusal(other),
            })?
        }
    };
    if !outcomes.is_empty() {
        api.metrics.routed(begun);
    }
    let mut outcomes = outcomes.into_iter();
    let mut answer = rest::SubmitBatchAnswer { items: Vec::with_capacity(refused.len()), accepted: 0, refused: 0 };
    for (index, failure) in refused.into_iter().enumerate() {
        let item = match failure {
            Some(failure) => refused_item(failure.under(&format!("/tasks/{index}"))),
            None => match outcomes.next() {
                Some(outcome) => item_of(outcome, index),
                None => refused_item(Failure::internal("a submit was answered with too little")),
            },
        };
        match &item.problem {
            None => answer.accepted += 1,
            Some(problem) => {
                answer.refused += 1;
                api.metrics.rejected(problem.code);
            }
        }
        answer.items.push(item);
    }
    Ok(answer)
}

fn item_of(outcome: Submitted, index: usize) -> rest::SubmitItemAnswer {
    match outcome {
        Submitted::New(id) => {
            rest::SubmitItemAnswer { status: 201, id: Some(text::task_text(id)), replayed: false, problem: None }
        }
        Submitted::Replayed(id) => {
            rest::SubmitItemAnswer { status: 200, id: Some(text::task_text(id)), replayed: true, problem: None }
        }
        Submitted::Refused(refusal) => refused_item(from_refusal(refusal).under(&format!("/tasks/{index}"))),
    }
}

fn refused_item(failure: Failure) -> rest::SubmitItemAnswer {
    rest::SubmitItemAnswer { status: failure.0.status, id: None, replayed: false, problem: Some(*failure.0) }
}

/// Reads, checks and prepares one body; a large input is in the blob store when this returns.
async fn read(api: &Api, caller: &Principal, bytes: &Bytes, around: Around<'_>) -> Result<Submit, Failure> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(empty_body(api));
    }
    let mut task: rest::SubmitTask = body::parse(bytes).map_err(|mut failure| {
        if failure.0.errors.iter().any(|error| error.pointer == "/type" && error.detail.contains("missing")) {
            failure.0.detail = format!("'type' is missing. {}", example(api));
        }
        failure
    })?;
    add_key(&mut task, around.key)?;
    let input = task.input.take();
    let mut item = prepare(api, caller, &task, input.as_deref(), bytes, around.traceparent)?;
    if let Some(raw) = input {
        let content = Bytes::from(Box::<str>::from(raw).into_boxed_bytes());
        item.input = payload(api, caller.tenant, content).await?;
        near_input(&mut item);
    }
    Ok(item)
}

/// The key of the header, if there is one, as if it stood in the body.
fn add_key(task: &mut rest::SubmitTask, header: Option<&str>) -> Result<(), Failure> {
    let Some(key) = header else { return Ok(()) };
    if task.idempotency_key.as_ref().is_some_and(|field| field != key) {
        let detail = "the body names another key than the Idempotency-Key header";
        return Err(Failure::field("/idempotency_key", detail));
    }
    task.idempotency_key = Some(key.to_owned());
    Ok(())
}

/// Everything but the payload itself.
fn prepare(
    api: &Api,
    caller: &Principal,
    task: &rest::SubmitTask,
    input: Option<&RawValue>,
    raw: &[u8],
    traceparent: Option<&str>,
) -> Result<Submit, Failure> {
    spec::check_type(&task.kind)?;
    let given = task_type::defaults(api, caller.tenant, &task.kind);
    let base = given.as_ref().map_or(&api.plain_spec, |g| &g.spec);
    let priority = match &task.priority {
        Some(value) => spec::priority(value)?,
        None => given.as_ref().map_or(spec::DEFAULT_PRIORITY, |g| g.priority),
    };
    let rules = routing::of(api, caller.tenant);
    let rule = match &rules {
        Some(rules) => rules.find(&subject(task, base, priority))?,
        None => None,
    };
    let queue: Name = match &task.queue {
        Some(name) => {
            if !text::is_name(name) {
                return Err(Failure::field("/queue", "a queue name has 1 to 200 letters, digits, '.', '_' or '-'"));
            }
            name.as_str().into()
        }
        None => {
            let routed = rule.and_then(|rule| rule.queue.clone());
            let of_type = || given.as_ref().and_then(|g| g.queue.clone());
            routed.or_else(of_type).unwrap_or_else(|| api.default_queue.clone())
        }
    };
    let keys = given.as_ref().and_then(|g| g.keys.as_ref());
    let wanted = if spec::is_plain(task) && traceparent.is_none() && keys.is_none() && rule.is_none() {
        base.clone()
    } else {
        let mut own = Spec::clone(base);
        if let Some(named) = &task.package {
            let (hash, entrypoint) = package::resolve(api, caller, named, &task.kind)?;
            own.package = Some(hash);
            own.entrypoint = Some(entrypoint);
        }
        spec::overlay(&mut own, task, &task.kind, || queue_retry(api, caller.tenant, &queue))?;
        if let Some(keys) = keys {
            task_type::fill_keys(keys, &mut own, input.map_or(&[], |raw| raw.get().as_bytes()))?;
        }
        own.traceparent = traceparent.filter(|t| t.len() <= spec::KEY_BYTES).map(Name::from);
        if let Some(rule) = rule {
            rule.mark(&mut own);
        }
        Arc::new(own)
    };
    let run_at = match &task.run_at {
        Some(text) => parse_time(text).map_err(|detail| Failure::field("/run_at", detail))?,
        None => 0,
    };
    let delay_ms = match &task.delay {
        Some(value) => duration_ms(value).map_err(|detail| Failure::field("/delay", detail))?,
        None => 0,
    };
    if run_at > 0 && delay_ms > 0 {
        return Err(Failure::field("/delay", "a task has run_at or delay, not both"));
    }
    let idempotency = task.idempotency_key.as_deref().map(|key| (key_hash(caller.tenant, key), short_hash(&[raw])));
    Ok(Submit {
        kind: task.kind.as_str().into(),
        queue,
        priority,
        run_at,
        delay_ms,
        input: Payload::None,
        spec: wanted,
        idempotency,
    })
}

/// What routing looks at: what the submit says, over what its type gives.
fn subject<'a>(task: &'a rest::SubmitTask, base: &'a Spec, priority: u8) -> Subject<'a> {
    Subject {
        task_type: &task.kind,
        priority,
        workflow: task.workflow_id.as_deref().or(base.workflow_id.as_deref()),
        labels: if task.labels.is_empty() { Labels::Kept(&base.labels) } else { Labels::Sent(&task.labels) },
    }
}

/// The policy of the queue, for tasks that change a part of it.
pub(crate) fn queue_retry(api: &Api, tenant: TenantId, queue: &str) -> RetryPolicy {
    api.runtime.directory().queue(tenant, queue).map(|q| q.config.retry.clone()).unwrap_or_default()
}

/// Inline, or a blob that is durable before the task that names it is submitted.
pub(crate) async fn payload(api: &Api, tenant: TenantId, content: Bytes) -> Result<Payload, Failure> {
    if content.len() <= limit::INLINE_BYTES {
        return Ok(Payload::Inline(content));
    }
    let size = content.len() as u64;
    let hash = api.runtime.blobs().put(tenant.0, content).await?;
    Ok(Payload::Blob { hash, size })
}

/// A task with a large input is near it: a worker that has fetched it for another task gets this one before its equals.
pub(crate) fn near_input(item: &mut Submit) {
    if let Payload::Blob { hash, .. } = &item.input {
        let near = &mut Arc::make_mut(&mut item.spec).near;
        let name = Name::from(text::hash_text(hash).as_str());
        if near.len() < limit::NEAR_HINTS && !near.contains(&name) {
            near.push(name);
        }
    }
}

/// The first 16 bytes of blake3 over tenant and key: what the engine keeps of an idempotency key.
pub(crate) fn key_hash(tenant: TenantId, key: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&tenant.0.to_be_bytes());
    hasher.update(key.as_bytes());
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

/// Eight bytes that tell one body from another.
pub(crate) fn short_hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut out = [0; 8];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(out)
}

/// What an answer needs of a submit that is about to be given away.
struct Shown {
    tenant: TenantId,
    kind: Name,
    queue: Name,
    priority: u8,
    due: u64,
    spec: Arc<Spec>,
}

impl Shown {
    fn of(tenant: TenantId, item: &Submit, now: u64) -> Shown {
        let due = if item.delay_ms > 0 { now + item.delay_ms } else { item.run_at };
        Shown {
            tenant,
            kind: item.kind.clone(),
            queue: item.queue.clone(),
            priority: item.priority,
            due: if due > now { due } else { 0 },
            spec: item.spec.clone(),
        }
    }

    fn accepted(self, outcome: Submitted) -> Result<Accepted, Failure> {
        let (id, replayed) = match outcome {
            Submitted::New(id) => (id, false),
            Submitted::Replayed(id) => (id, true),
            Submitted::Refused(refusal) => return Err(from_refusal(refusal)),
        };
        let Shown { tenant, kind, queue, priority, due, spec } = self;
        Ok(Accepted { id, tenant, replayed, kind, queue, priority, due, spec })
    }
}

/// A key that was used for something else.
pub(crate) fn idempotency_mismatch() -> Failure {
    Failure::new(Code::IdempotencyMismatch, "The idempotency key was used with another body within the last 24 hours.")
}

/// The answer to a batch without its frame: what is wanted, and the smallest body that works.
fn no_frame(pointer: &str) -> Failure {
    let detail = "an object with an array 'tasks' is wanted";
    let mut failure = Failure::field(pointer, detail);
    let smallest = r#"{"tasks":[{"type":"builtin.noop"}]}"#;
    failure.0.detail = format!("For the body of a batch, {detail}; the smallest one is {smallest}.");
    failure
}

/// The smallest body that works, and the line to try it with.
fn example(api: &Api) -> String {
    let url = &api.config.public_url;
    let body = r#"{"type":"builtin.noop"}"#;
    format!(
        "The smallest valid body is {body}. Try: curl -X POST {url}/api/v1/tasks -H \"Authorization: Bearer \
         $TIDEWHEEL_TOKEN\" -H 'Content-Type: application/json' -d '{body}'"
    )
}

/// The answer to an empty body: what is missing, the smallest body that works, and the line to try it with.
fn empty_body(api: &Api) -> Failure {
    let detail = format!("The body is empty and 'type' is missing. {}", example(api));
    let mut failure = Failure::new(Code::InvalidField, detail);
    let field = rest::FieldError::new("/type", "this field is missing");
    failure.0.errors.push(field);
    failure
}
