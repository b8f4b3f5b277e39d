//! From the engine's records to the wire's types.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use tidewheel_engine::command::Seen;
use tidewheel_engine::config::Timeouts;
use tidewheel_engine::id::Name;
use tidewheel_engine::mutation::AttemptRecord;
use tidewheel_engine::serve::PLAIN_EXECUTOR;
use tidewheel_engine::task::{Failure, Payload, Spec, State, Task};
use tidewheel_proto::rest;
use tidewheel_runtime::Directory;

use super::queue_settings::{duration, shown_retry};
use super::spec::shown_resources;
use crate::text::{hash_text, run_text, task_text};
use crate::units::time_text;

/// A task as it is shown. `detail` adds what lists leave out: input and result.
pub(crate) fn task(directory: &Directory, task: &Task, detail: bool) -> rest::Task {
    let queue = directory.queue_by_id(task.queue);
    let policy = task.spec.retry.as_ref().map(|r| r.max_attempts);
    let max_attempts = policy.or(queue.as_ref().map(|q| q.config.retry.max_attempts)).unwrap_or(1);
    let ending = task.ending.as_deref();
    let result = ending.map(|e| &e.result).filter(|_| task.state == State::Succeeded);
    let asked = if detail { asked_for(&task.spec) } else { rest::Task::default() };
    rest::Task {
        id: task_text(task.id),
        state: task.state.as_str().to_owned(),
        kind: directory.type_name(task.kind).map(|n| n.to_string()).unwrap_or_default(),
        executor: task.spec.executor.as_deref().unwrap_or(PLAIN_EXECUTOR).to_owned(),
        rule: owned(&task.spec.rule),
        queue: queue.map(|q| q.name.to_string()).unwrap_or_default(),
        priority: task.priority,
        attempt: task.attempt,
        max_attempts: max_attempts.saturating_add(task.attempt_base),
        created_at: time_text(task.created),
        updated_at: time_text(task.changed),
        run_at: run_at(task).map(time_text),
        granted_at: (task.granted > 0).then(|| time_text(task.granted)),
        started_at: (task.started > 0).then(|| time_text(task.started)),
        finished_at: task.state.is_terminal().then(|| time_text(task.changed)),
        worker: if task.attempt > 0 { directory.worker_name(task.worker).map(|n| n.to_string()) } else { None },
        key: owned(&task.spec.ordering_key),
        concurrency_key: owned(&task.spec.concurrency_key),
        labels: pairs(&task.spec.labels),
        correlation_id: owned(&task.spec.correlation_id),
        // Of a step it names the run for workers alone, in a form of theirs.
        workflow_id: owned(&task.spec.workflow_id).filter(|_| task.step.is_none()),
        run: task.step.as_ref().map(|step| run_text(step.run)),
        package: task.spec.package.as_ref().map(|hash| format!("sha256:{hash}")),
        error: ending.and_then(|e| e.failure.as_ref()).map(error),
        result_ref: result.and_then(payload_ref),
        input_ref: detail.then(|| payload_ref(&task.input)).flatten().filter(|r| r != "inline"),
        input: if detail { inline(&task.input) } else { None },
        result: if detail { result.and_then(inline) } else { None },
        cancelling: task.cancelling && !task.state.is_terminal(),
        progress: None,
        replayed: false,
        ..asked
    }
}

/// What the submitter or the task's type asked for, beyond the few fields that lists show.
fn asked_for(spec: &Spec) -> rest::Task {
    let Timeouts { queue_ms, start_ms, run_ms, heartbeat_ms } = spec.timeouts;
    let timeout = rest::Timeouts {
        queue: duration(queue_ms),
        start: duration(start_ms),
        run: duration(run_ms),
        heartbeat: duration(heartbeat_ms),
    };
    rest::Task {
        ttl: duration(spec.ttl_ms),
        timeout: (spec.timeouts != Timeouts::default()).then_some(timeout),
        retry: spec.retry.as_ref().map(shown_retry),
        affinity_key: owned(&spec.affinity_key),
        concurrency_limit: (spec.concurrency_limit > 0).then_some(spec.concurrency_limit),
        requires: pairs(&spec.requires),
        resources: Some(shown_resources(spec)),
        expected_duration: duration(spec.expected_ms),
        near: spec.near.iter().map(|name| name.to_string()).collect(),
        batchable: spec.batchable.then_some(true),
        idempotency_key: owned(&spec.idempotency_key),
        ..rest::Task::default()
    }
}

/// When it becomes due, while it waits for that; later what was asked for.
fn run_at(task: &Task) -> Option<u64> {
    match task.state {
        State::Scheduled if task.due > 0 => Some(task.due),
        _ => (task.run_at > 0).then_some(task.run_at),
    }
}

/// `inline`, the blob's address, or nothing.
pub(crate) fn payload_ref(payload: &Payload) -> Option<String> {
    match payload {
        Payload::None => None,
        Payload::Inline(_) | Payload::Cold => Some("inline".to_owned()),
        Payload::Blob { hash, .. } => Some(hash_text(hash)),
    }
}

/// Inline JSON as it was sent. What is no JSON (it was checked on its way in) is left out rather than breaking the
/// answer.
fn inline(payload: &Payload) -> Option<Box<RawValue>> {
    match payload {
        Payload::Inline(bytes) => RawValue::from_string(std::str::from_utf8(bytes).ok()?.to_owned()).ok(),
        _ => None,
    }
}

pub(crate) fn error(failure: &Failure) -> rest::TaskError {
    rest::TaskError {
        kind: failure.kind.to_string(),
        message: failure.message.to_string(),
        detail: failure.detail.to_string(),
        retryable: failure.retryable,
    }
}

pub(crate) fn attempt(directory: &Directory, record: &AttemptRecord) -> rest::Attempt {
    rest::Attempt {
        number: record.number,
        worker: directory.worker_name(record.worker).map(|n| n.to_string()).unwrap_or_default(),
        outcome: record.outcome.as_str().to_owned(),
        granted_at: time_text(record.granted),
        ended_at: Some(time_text(record.ended)),
        error: record.failure.as_ref().map(error),
    }
}

/// The attempt that the task record itself holds: the current one, or the one that succeeded.
pub(crate) fn last_attempt(directory: &Directory, task: &Task) -> Option<rest::Attempt> {
    let outcome = match task.state {
        State::Running | State::Waiting => "running",
        State::Succeeded => "succeeded",
        _ => return None,
    };
    Some(rest::Attempt {
        number: task.attempt,
        worker: directory.worker_name(task.worker).map(|n| n.to_string()).unwrap_or_default(),
        outcome: outcome.to_owned(),
        granted_at: time_text(task.granted),
        ended_at: task.state.is_terminal().then(|| time_text(task.changed)),
        error: None,
    })
}

pub(crate) fn pairs(list: &[(Name, Name)]) -> BTreeMap<String, String> {
    list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn owned(name: &Option<Name>) -> Option<String> {
    name.as_ref().map(|n| n.to_string())
}

/// The version of a task for `ETag`: it changes whenever something shown changes by a commit.
pub(crate) fn task_etag(task: &Task) -> String {
    format!("\"{:x}-{}-{}\"", task.changed, task.attempt, task.state as u8)
}

/// What an [`task_etag`] says, weak or not.
pub(crate) fn seen(tag: &str) -> Option<Seen> {
    let inner = tag.trim_start_matches("W/").strip_prefix('"')?.strip_suffix('"')?;
    let mut parts = inner.split('-');
    let changed = u64::from_str_radix(parts.next()?, 16).ok()?;
    let attempt = parts.next()?.parse().ok()?;
    let number: u8 = parts.next()?.parse().ok()?;
    let state = *State::ALL.iter().find(|state| **state as u8 == number)?;
    parts.next().is_none().then_some(Seen { changed, attempt, state })
}
