//! What a submitter asks for, checked and put into the engine's terms: retry policy, time limits, resources, labels.

use tidewheel_engine::config::{Backoff, RetryPolicy, Timeouts};
use tidewheel_engine::id::Name;
use tidewheel_engine::limit;
use tidewheel_engine::task::{CLASSES, DEFAULT_CLASS, Resources, Spec, class};
use tidewheel_proto::rest;

use crate::problem::Failure;
use crate::units::{duration_ms, size_of};

/// Priority of a task that names none: medium.
pub(crate) const DEFAULT_PRIORITY: u8 = 5;
/// Labels of one task; each is an indexed row.
pub(crate) const MAX_LABELS: usize = limit::LABELS;
/// Bytes of a label's name or value.
pub(crate) const LABEL_BYTES: usize = limit::LABEL_BYTES;
/// Bytes of a key of any kind.
pub(crate) const KEY_BYTES: usize = limit::KEY_BYTES;
/// Characters of a task type.
pub(crate) const TYPE_CHARS: usize = 200;
/// Requirements of one task: each is compared with every worker.
const MAX_REQUIRES: usize = limit::REQUIRES;
/// Growth of a delay per attempt, at most; the Python package checks the same bound.
const MAX_FACTOR: f64 = 100.0;
/// Error types a retry policy may name.
const MAX_ERROR_TYPES: usize = 32;

/// A task type is 1 to 200 characters without control characters.
pub(crate) fn check_type(kind: &str) -> Result<(), Failure> {
    if kind.is_empty() {
        return Err(Failure::field("/type", "the task type is empty"));
    }
    if kind.len() > TYPE_CHARS && kind.chars().count() > TYPE_CHARS {
        return Err(Failure::field("/type", format!("a task type has at most {TYPE_CHARS} characters")));
    }
    if kind.bytes().any(|b| b.is_ascii_control()) {
        return Err(Failure::field("/type", "a task type has no control characters"));
    }
    Ok(())
}

/// 0 to 9, `low` (2), `medium` (5), `high` (8).
pub(crate) fn priority(value: &rest::Priority) -> Result<u8, Failure> {
    match value {
        rest::Priority::Level(level @ 0..=9) => Ok(*level),
        rest::Priority::Level(_) => Err(Failure::field("/priority", "a priority is 0 to 9, low, medium or high")),
        rest::Priority::Name(name) => {
            priority_name(name).ok_or_else(|| Failure::field("/priority", "a priority is 0 to 9, low, medium or high"))
        }
    }
}

pub(crate) fn priority_name(name: &str) -> Option<u8> {
    match name {
        "low" => Some(2),
        "medium" => Some(5),
        "high" => Some(8),
        _ => name.parse().ok().filter(|level| *level <= 9),
    }
}

/// Whether a submit asks for anything that its type does not already give.
pub(crate) fn is_plain(task: &rest::SubmitTask) -> bool {
    task.ttl.is_none()
        && task.timeout.is_none()
        && task.retry.is_none()
        && task.key.is_none()
        && task.concurrency_key.is_none()
        && task.concurrency_limit.is_none()
        && task.affinity_key.is_none()
        && task.requires.is_empty()
        && task.resources.is_none()
        && task.batchable.is_none()
        && task.labels.is_empty()
        && task.correlation_id.is_none()
        && task.workflow_id.is_none()
        && task.package.is_none()
        && task.idempotency_key.is_none()
        && task.expected_duration.is_none()
        && task.near.is_empty()
        && class_of_type(&task.kind).is_none()
}

/// Puts what the submit asks for over what its type gives. A retry policy that names only some of its fields takes
/// the others from the type's policy, else from `queue_retry`.
pub(crate) fn overlay(
    spec: &mut Spec,
    task: &rest::SubmitTask,
    kind: &str,
    queue_retry: impl FnOnce() -> RetryPolicy,
) -> Result<(), Failure> {
    if let Some(ttl) = &task.ttl {
        spec.ttl_ms = positive("/ttl", ttl)?;
    }
    if let Some(timeout) = &task.timeout {
        timeouts(&mut spec.timeouts, timeout, "/timeout")?;
    }
    if let Some(retry) = &task.retry {
        let base = spec.retry.take().unwrap_or_else(queue_retry);
        spec.retry = Some(retry_policy(retry, base, "/retry")?);
    }
    for (slot, value, pointer) in [
        (&mut spec.ordering_key, &task.key, "/key"),
        (&mut spec.concurrency_key, &task.concurrency_key, "/concurrency_key"),
        (&mut spec.affinity_key, &task.affinity_key, "/affinity_key"),
        (&mut spec.correlation_id, &task.correlation_id, "/correlation_id"),
        (&mut spec.workflow_id, &task.workflow_id, "/workflow_id"),
        (&mut spec.idempotency_key, &task.idempotency_key, "/idempotency_key"),
    ] {
        if let Some(text) = value {
            *slot = Some(key(text, pointer)?);
        }
    }
    if let Some(limit) = task.concurrency_limit {
        spec.concurrency_limit = limit;
    }
    if let Some(batchable) = task.batchable {
        spec.batchable = batchable;
    }
    if !task.labels.is_empty() {
        spec.labels = labels(&task.labels)?;
    }
    if !task.requires.is_empty() {
        spec.requires = requires(&task.requires)?;
    }
    if let Some(expected) = &task.expected_duration {
        spec.expected_ms = positive("/expected_duration", expected)?;
    }
    if !task.near.is_empty() {
        spec.near = near(&task.near)?;
    }
    match &task.resources {
        Some(wanted) => (spec.resources, spec.fast_io) = resources(wanted)?,
        None => class_by_type(spec, kind),
    }
    Ok(())
}

/// What a task gets whose type names a class, and which asks for nothing itself.
pub(crate) fn class_by_type(spec: &mut Spec, kind: &str) {
    if spec.resources == Resources::default()
        && let Some((resources, fast_io)) = class_of_type(kind)
    {
        (spec.resources, spec.fast_io) = (resources, fast_io);
    }
}

/// At most 8 names of data.
pub(crate) fn near(given: &[String]) -> Result<Vec<Name>, Failure> {
    if given.len() > limit::NEAR_HINTS {
        return Err(Failure::field("/near", format!("a task names at most {} data", limit::NEAR_HINTS)));
    }
    let name = |(index, name): (usize, &String)| key(name, &format!("/near/{index}"));
    given.iter().enumerate().map(name).collect()
}

/// A key of 1 to 256 bytes.
pub(crate) fn key(text: &str, pointer: &str) -> Result<Name, Failure> {
    check_key(text, pointer)?;
    Ok(text.into())
}

/// Bounds of a key.
pub(crate) fn check_key(text: &str, pointer: &str) -> Result<(), Failure> {
    if text.is_empty() || text.len() > KEY_BYTES {
        return Err(Failure::field(pointer, format!("a key has 1 to {KEY_BYTES} bytes")));
    }
    Ok(())
}

/// At most 8 labels, sorted by name as the map already is.
pub(crate) fn labels(given: &std::collections::BTreeMap<String, String>) -> Result<Vec<(Name, Name)>, Failure> {
    check_labels(given)?;
    Ok(given.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect())
}

/// Bounds of labels, before anything is done with them.
pub(crate) fn check_labels<'a>(
    given: impl IntoIterator<Item = (&'a String, &'a String), IntoIter: ExactSizeIterator>,
) -> Result<(), Failure> {
    let given = given.into_iter();
    if given.len() > MAX_LABELS {
        return Err(Failure::field("/labels", format!("a task has at most {MAX_LABELS} labels")));
    }
    for (name, value) in given {
        if name.is_empty() || name.len() > LABEL_BYTES || value.len() > LABEL_BYTES {
            let detail = format!("names and values of labels have at most {LABEL_BYTES} bytes, and names at least one");
            return Err(Failure::field(format!("/labels/{name}"), detail));
        }
    }
    Ok(())
}

/// Values may be texts, numbers or booleans; a worker's labels are texts.
pub(crate) fn requires(
    given: &std::collections::BTreeMap<String, serde_json::Value>,
) -> Result<Vec<(Name, Name)>, Failure> {
    use serde_json::Value;
    if given.len() > MAX_REQUIRES {
        return Err(Failure::field("/requires", format!("a task has at most {MAX_REQUIRES} requirements")));
    }
    let mut out = Vec::with_capacity(given.len());
    for (name, value) in given {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => return Err(Failure::field(format!("/requires/{name}"), "a requirement is a text, a number or true")),
        };
        if name.is_empty() || name.len() > LABEL_BYTES || text.len() > LABEL_BYTES {
            return Err(Failure::field(format!("/requires/{name}"), format!("at most {LABEL_BYTES} bytes each")));
        }
        out.push((name.as_str().into(), text.as_str().into()));
    }
    Ok(out)
}

/// Figures of a class of document B, with explicit figures over it.
fn resources(wanted: &rest::Resources) -> Result<(Resources, bool), Failure> {
    let (mut out, mut fast_io) = match wanted.class.as_deref() {
        None => (Resources::default(), false),
        Some(name) => class(name).ok_or_else(|| {
            let known = "cpu-intensive, memory-intensive, io-intensive or default";
            Failure::field("/resources/class", format!("a class is {known}"))
        })?,
    };
    if let Some(cpu) = wanted.cpu {
        if !(0.0..=limit::TASK_CORES).contains(&cpu) {
            return Err(Failure::field("/resources/cpu", "cores are 0 to 1,024"));
        }
        out.cpu_millis = (cpu * 1_000.0).round() as u32;
    }
    if let Some(memory) = &wanted.memory {
        out.memory_bytes = size_of(memory).map_err(|detail| Failure::field("/resources/memory", detail))?;
    }
    match wanted.iops.as_deref() {
        None => {}
        Some("high") => fast_io = true,
        Some("normal") => fast_io = false,
        Some(_) => return Err(Failure::field("/resources/iops", "iops are high or normal")),
    }
    Ok((out, fast_io))
}

/// The class that a task's type names by itself; every other type is of class `default`.
pub(crate) fn class_of_type(kind: &str) -> Option<(Resources, bool)> {
    class(kind).filter(|_| kind != "default")
}

/// What a task was given, with the name of the class that gives just this.
pub(crate) fn shown_resources(spec: &Spec) -> rest::Resources {
    let plain = spec.resources == Resources::default();
    let given = if plain { DEFAULT_CLASS } else { spec.resources };
    let same = |(_, resources, fast_io): &&(&str, Resources, bool)| *resources == given && *fast_io == spec.fast_io;
    let class = CLASSES.iter().find(same).map(|(name, ..)| *name);
    rest::Resources {
        class: class.map(str::to_owned),
        cpu: (given.cpu_millis > 0).then(|| f64::from(given.cpu_millis) / 1_000.0),
        memory: (given.memory_bytes > 0).then(|| given.memory_bytes.into()),
        iops: spec.fast_io.then(|| "high".to_owned()),
    }
}

/// Time limits; an absent one keeps what is there.
pub(crate) fn timeouts(out: &mut Timeouts, given: &rest::Timeouts, pointer: &str) -> Result<(), Failure> {
    for (slot, value, name) in [
        (&mut out.queue_ms, &given.queue, "queue"),
        (&mut out.start_ms, &given.start, "start"),
        (&mut out.run_ms, &given.run, "run"),
        (&mut out.heartbeat_ms, &given.heartbeat, "heartbeat"),
    ] {
        if let Some(value) = value {
            *slot = duration_ms(value).map_err(|detail| Failure::field(format!("{pointer}/{name}"), detail))?;
        }
    }
    Ok(())
}

/// A retry policy over a base.
pub(crate) fn retry_policy(given: &rest::Retry, base: RetryPolicy, pointer: &str) -> Result<RetryPolicy, Failure> {
    let mut out = base;
    let field = |name: &str, detail: String| Failure::field(format!("{pointer}/{name}"), detail);
    if let Some(attempts) = given.max_attempts {
        if attempts == 0 || attempts > limit::MAX_ATTEMPTS {
            return Err(field("max_attempts", format!("attempts are 1 to {}", limit::MAX_ATTEMPTS)));
        }
        out.max_attempts = attempts;
    }
    if let Some(delay) = &given.delay {
        out.delay_ms = duration_ms(delay).map_err(|detail| field("delay", detail))?;
    }
    if let Some(max) = &given.max_delay {
        out.max_delay_ms = duration_ms(max).map_err(|detail| field("max_delay", detail))?;
    }
    if let Some(jitter) = &given.jitter {
        out.jitter_ms = duration_ms(jitter).map_err(|detail| field("jitter", detail))?;
    }
    if let Some(factor) = given.factor {
        if !(1.0..=MAX_FACTOR).contains(&factor) {
            return Err(field("factor", format!("a factor is 1 to {MAX_FACTOR}, and 1 keeps the delay constant")));
        }
        out.backoff = Backoff::Exponential { factor };
    }
    match given.backoff.as_deref() {
        None => {}
        Some("constant") => out.backoff = Backoff::Constant,
        Some("exponential") => {
            out.backoff = Backoff::Exponential { factor: given.factor.unwrap_or(2.0) };
        }
        Some(_) => return Err(field("backoff", "a backoff is constant or exponential".to_owned())),
    }
    for (slot, list, name) in [(&mut out.on, &given.on, "on"), (&mut out.not_on, &given.not_on, "not_on")] {
        if list.len() > MAX_ERROR_TYPES || list.iter().any(|t| t.is_empty() || t.len() > LABEL_BYTES) {
            return Err(field(name, format!("at most {MAX_ERROR_TYPES} error types of 1 to {LABEL_BYTES} bytes")));
        }
        if !list.is_empty() {
            *slot = list.iter().map(|t| t.as_str().into()).collect();
        }
    }
    Ok(out)
}

fn positive(pointer: &str, value: &rest::DurationText) -> Result<u64, Failure> {
    match duration_ms(value) {
        Ok(0) => Err(Failure::field(pointer, "has to be longer than nothing")),
        Ok(ms) => Ok(ms),
        Err(detail) => Err(Failure::field(pointer, detail)),
    }
}
