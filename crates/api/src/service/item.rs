//! Items of queues: put in, taken under a lease, settled under the token of the taking.

use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;
use tidewheel_engine::Command;
use tidewheel_engine::command::Settlement;
use tidewheel_engine::effect::{Grant, Refusal, Reply};
use tidewheel_engine::id::{Name, TaskId, TenantId, Token};
use tidewheel_engine::limit::TAKE_ITEMS;
use tidewheel_engine::task::{Failure as TaskFailure, Outcome, Payload, Task};
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::{convert, enrolment, queue, submit_task};
use crate::auth::Principal;
use crate::body;
use crate::problem::{Failure, from_refusal};
use crate::seal::Sealer;
use crate::state::Api;
use crate::text::{task_id, task_text};
use crate::units::{duration_ms, parse_time, time_text};

/// Task type of every item.
pub(crate) const ITEM_TYPE: &str = "item";
/// A lease of a call that names none: long enough for a person or a robot to look at an item.
const DEFAULT_LEASE_MS: u64 = 5 * 60_000;
const LEASE_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
/// Bytes of an error's type or message, and of its detail; the engine cuts longer ones too.
const MESSAGE_BYTES: usize = 4 * 1024;
const DETAIL_BYTES: usize = 16 * 1024;

/// Puts an item into a queue.
pub(crate) async fn add(
    api: &Api,
    caller: &Principal,
    name: &str,
    bytes: &Bytes,
    around: submit_task::Around<'_>,
) -> Result<submit_task::Accepted, Failure> {
    let queue = queue::find(api, caller, name)?;
    let given: rest::AddItem = body::parse_or_default(bytes)?;
    let task = rest::SubmitTask {
        kind: ITEM_TYPE.to_owned(),
        queue: Some(queue.name.to_string()),
        input: given.input,
        priority: given.priority,
        run_at: given.run_at,
        delay: given.delay,
        ttl: given.ttl,
        retry: given.retry,
        key: given.key,
        concurrency_key: given.concurrency_key,
        concurrency_limit: given.concurrency_limit,
        labels: given.labels,
        correlation_id: given.correlation_id,
        idempotency_key: given.idempotency_key,
        ..rest::SubmitTask::default()
    };
    submit_task::item(api, caller, task, bytes, around).await
}

/// Takes items, or none when the wait is over.
pub(crate) async fn take(
    api: &Api,
    caller: &Principal,
    name: &str,
    wanted: &rest::TakeItems,
) -> Result<Vec<rest::TakenItem>, Failure> {
    let queue = queue::find(api, caller, name)?.name.clone();
    enrolment::check_queue(caller, &queue)?;
    let lease_ms = lease(wanted)?;
    let most = wanted.max.unwrap_or(1);
    if !(1..=TAKE_ITEMS).contains(&most) {
        return Err(Failure::field("/max", format!("one call takes 1 to {TAKE_ITEMS} items")));
    }
    let wait = wanted.wait.as_ref().map(duration_ms).transpose().map_err(|detail| Failure::field("/wait", detail))?;
    let wait_ms = wait.unwrap_or(0).min(u64::try_from(api.config.max_wait.as_millis()).unwrap_or(u64::MAX));
    let (tell, told) = tokio::sync::oneshot::channel();
    let (tenant, taker): (_, Name) = (caller.tenant, (*caller.name).into());
    let own = api.clone();
    // On a task of its own: what is granted to a caller that has hung up goes back at once, not after its lease.
    tokio::spawn(async move {
        let take = |request| Command::Take { request, tenant, queue, taker, most, lease_ms, wait_ms };
        let answer = own.runtime.call(take).await.map_err(Failure::from).and_then(granted);
        if let Err(Ok(unheard)) = tell.send(answer) {
            give_back(&own, tenant, unheard).await;
        }
    });
    let grants = told.await.map_err(|_| Failure::internal("a take panicked"))??;
    let sealer = sealer(api, caller);
    let now = api.runtime.now_ms();
    Ok(grants.iter().map(|grant| shown(&sealer, grant, lease_ms, now)).collect())
}

fn lease(wanted: &rest::TakeItems) -> Result<u64, Failure> {
    let Some(given) = &wanted.lease else { return Ok(DEFAULT_LEASE_MS) };
    let ms = duration_ms(given).map_err(|detail| Failure::field("/lease", detail))?;
    if !LEASE_MS.contains(&ms) {
        return Err(Failure::field("/lease", "a lease is 1 s to 24 h; renew it for longer work"));
    }
    Ok(ms)
}

fn granted(reply: Reply) -> Result<Vec<Grant>, Failure> {
    match reply {
        Reply::Taken(grants) => Ok(grants),
        Reply::Refused(refusal) => Err(from_refusal(refusal)),
        _ => Err(Failure::internal("a take was answered with something else")),
    }
}

async fn give_back(api: &Api, tenant: TenantId, grants: Vec<Grant>) {
    for Grant { task, token, .. } in grants {
        let how = Settlement::Postpone { delay_ms: 0 };
        // If it cannot be told, the lease tells it.
        let _ = api.runtime.call(|request| Command::Settle { request, tenant, task, token, how }).await;
    }
}

/// Tokens of items are those of attempts: made with the server's key, for one tenant.
fn sealer(api: &Api, caller: &Principal) -> Sealer {
    Sealer::new(api.runtime.token_key(), Some(caller.tenant))
}

fn shown(sealer: &Sealer, grant: &Grant, lease_ms: u64, now: u64) -> rest::TakenItem {
    let (input, input_ref) = match &grant.input {
        Payload::Inline(bytes) => {
            let text = std::str::from_utf8(bytes).ok().map(str::to_owned);
            (text.and_then(|text| RawValue::from_string(text).ok()), None)
        }
        other => (None, convert::payload_ref(other)),
    };
    rest::TakenItem {
        id: task_text(grant.task),
        queue: grant.queue.to_string(),
        token: hex::encode(sealer.seal(&mut BytesMut::new(), grant.task, grant.token)),
        leased_until: time_text(now + lease_ms),
        lease_ms,
        attempt: grant.attempt,
        max_attempts: grant.max_attempts,
        priority: grant.priority,
        created_at: time_text(grant.task.millis()),
        input,
        input_ref,
        key: grant.spec.ordering_key.as_ref().map(|key| key.to_string()),
        labels: convert::pairs(&grant.spec.labels),
        correlation_id: grant.spec.correlation_id.as_ref().map(|id| id.to_string()),
    }
}

/// What is wanted of a taken item.
pub(crate) struct Wanted<'a> {
    pub(crate) queue: &'a str,
    pub(crate) id: &'a str,
    pub(crate) token: &'a str,
}

/// It ended with a result.
pub(crate) async fn done(
    api: &Api,
    caller: &Principal,
    of: Wanted<'_>,
    result: Option<Box<RawValue>>,
) -> Result<Box<Task>, Failure> {
    let result = match result {
        Some(raw) => {
            let content = Bytes::from(Box::<str>::from(raw).into_boxed_bytes());
            submit_task::payload(api, caller.tenant, content).await?
        }
        None => Payload::None,
    };
    settle(api, caller, of, Settlement::End(Outcome::Ok { result, artifacts: Vec::new() })).await
}

/// It could not be done.
pub(crate) async fn fail(
    api: &Api,
    caller: &Principal,
    of: Wanted<'_>,
    given: &rest::ItemFailed,
) -> Result<Box<Task>, Failure> {
    let (retryable, usual) = match given.kind.as_deref() {
        None | Some("system") => (true, "SystemError"),
        Some("business") => (false, "BusinessError"),
        Some(_) => return Err(Failure::field("/kind", "an error is of kind business or system")),
    };
    let kind = given.error_type.as_deref().unwrap_or(usual);
    let message = given.message.as_deref().unwrap_or_default();
    let detail = given.detail.as_deref().unwrap_or_default();
    for (text, pointer, most) in
        [(kind, "/type", 256), (message, "/message", MESSAGE_BYTES), (detail, "/detail", DETAIL_BYTES)]
    {
        if text.len() > most {
            return Err(Failure::field(pointer, format!("at most {most} bytes are kept")));
        }
    }
    let failure = TaskFailure { kind: kind.into(), message: message.into(), detail: detail.into(), retryable };
    let outcome = Outcome::Failed { failure, artifacts: Vec::new(), cancelled: false };
    settle(api, caller, of, Settlement::End(outcome)).await
}

/// It is for later.
pub(crate) async fn postpone(
    api: &Api,
    caller: &Principal,
    of: Wanted<'_>,
    given: &rest::ItemPostponed,
) -> Result<Box<Task>, Failure> {
    let delay_ms = match (&given.delay, &given.until) {
        (Some(delay), None) => duration_ms(delay).map_err(|detail| Failure::field("/delay", detail))?,
        (None, Some(until)) => {
            let until = parse_time(until).map_err(|detail| Failure::field("/until", detail))?;
            until.saturating_sub(api.runtime.now_ms())
        }
        _ => return Err(Failure::field("/delay", "say for how long (delay) or until when (until), one of the two")),
    };
    settle(api, caller, of, Settlement::Postpone { delay_ms }).await
}

/// It is still being worked on.
pub(crate) async fn renew(api: &Api, caller: &Principal, of: Wanted<'_>) -> Result<rest::ItemLease, Failure> {
    let task = settle(api, caller, of, Settlement::Renew).await?;
    let leased_until = time_text(api.runtime.now_ms() + task.lease_ms());
    Ok(rest::ItemLease { id: task_text(task.id), leased_until, lease_ms: task.lease_ms() })
}

async fn settle(api: &Api, caller: &Principal, of: Wanted<'_>, how: Settlement) -> Result<Box<Task>, Failure> {
    enrolment::check_queue(caller, &queue::find(api, caller, of.queue)?.name)?;
    let (task, token) = opened(api, caller, &of)?;
    let tenant = caller.tenant;
    let reply = api.runtime.call(|request| Command::Settle { request, tenant, task, token, how }).await?;
    match reply {
        Reply::Task(task) => Ok(task),
        Reply::Refused(Refusal::NotFound) => Err(Failure::not_found("item", of.id)),
        Reply::Refused(refusal) => Err(from_refusal(refusal)),
        _ => Err(Failure::internal("the end of an item was answered with something else")),
    }
}

/// The attempt that a token stands for, which has to be one of this item.
fn opened(api: &Api, caller: &Principal, of: &Wanted<'_>) -> Result<(TaskId, Token), Failure> {
    let id = task_id(of.id)?;
    if of.token.is_empty() {
        return Err(Failure::field("/token", "this field is missing: it is in the answer of items:take"));
    }
    let bytes = hex::decode(of.token).unwrap_or_default();
    match sealer(api, caller).open(&bytes) {
        Some((task, token)) if task == id => Ok((task, token)),
        Some((task, _)) => {
            let detail = format!("the token is one of {}, not of this item", task_text(task));
            Err(Failure::field("/token", detail))
        }
        None => Err(Failure::new(Code::Conflict, "The token is none of this server's; nothing was changed.")),
    }
}
