//! Options of a task that a call in a run asks for: those of a submission, in plain units, as a durable program or a statement gives them.

use std::sync::Arc;

use super::step_types;
use crate::id::Name;
use crate::limit;
use crate::run::act::TaskHints;
use crate::run::eval::Json;
use crate::task::{Spec, class};

/// What the arguments of a Python call ask for beside what goes into a [`Spec`].
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) queue: Option<Name>,
    pub(super) priority: Option<u8>,
}

/// Members of a call that are no options of its task.
const CALL: [&str; 7] = ["package", "version", "entrypoint", "args", "range", "env", "assets"];
/// Longest time limit: a hundred years. Beyond, a sum of two would not fit.
const MAX_MS: u64 = 100 * 366 * 86_400_000;

/// Reads the options of a call over what its task type gives. The error names the option.
pub(super) fn apply(call: &Json, spec: &mut Arc<Spec>) -> Result<Asked, String> {
    let mut asked = Asked::default();
    let Some(call) = call.as_object() else { return Ok(asked) };
    for (name, value) in call {
        match name.as_str() {
            _ if value.is_null() || CALL.contains(&name.as_str()) => {}
            "queue" => asked.queue = Some(text(name, value)?),
            "priority" => {
                let priority = value.as_u64().filter(|priority| *priority <= 9);
                asked.priority = Some(priority.ok_or_else(|| wrong(name, "a number from 0 to 9"))? as u8);
            }
            _ => option(name, value, Arc::make_mut(spec))?,
        }
    }
    Ok(asked)
}

/// What a document says of the tasks of a statement, over what their type gives.
pub(super) fn hint(hints: TaskHints, spec: &mut Arc<Spec>) -> Result<(), String> {
    let TaskHints { queue: _, priority: _, requires, affinity_key, concurrency_key, idempotency_key, sla_ms } = hints;
    if let Some(key) = affinity_key {
        check_key("affinityKey", &key)?;
        Arc::make_mut(spec).affinity_key = Some(key);
    }
    if let Some(key) = concurrency_key {
        check_key("concurrencyKey", &key)?;
        Arc::make_mut(spec).concurrency_key = Some(key);
    }
    if let Some(key) = idempotency_key {
        check_key("idempotencyKey", &key)?;
        Arc::make_mut(spec).idempotency_key = Some(key);
    }
    if sla_ms > 0 {
        Arc::make_mut(spec).expected_ms = sla_ms;
    }
    if !requires.is_empty() {
        add_requires(Arc::make_mut(spec), requires)?;
    }
    Ok(())
}

fn option(name: &str, value: &Json, spec: &mut Spec) -> Result<(), String> {
    match name {
        "retry" => spec.retry = Some(step_types::retry_policy(value).ok_or_else(|| wrong(name, "a retry policy"))?),
        "timeouts" => timeouts(value, spec)?,
        "ttl_ms" => spec.ttl_ms = millis(name, value)?,
        "expected_ms" => spec.expected_ms = millis(name, value)?,
        "key" => spec.ordering_key = Some(key(name, value)?),
        "concurrency_key" => spec.concurrency_key = Some(key(name, value)?),
        "concurrency_limit" => {
            let limit = value.as_u64().and_then(|limit| u32::try_from(limit).ok());
            spec.concurrency_limit = limit.ok_or_else(|| wrong(name, "a number"))?;
        }
        "affinity_key" => spec.affinity_key = Some(key(name, value)?),
        "idempotency_key" => spec.idempotency_key = Some(key(name, value)?),
        "correlation_id" => spec.correlation_id = Some(key(name, value)?),
        // The run whose program it is an activation of.
        "activation" => spec.workflow_id = Some(key(name, value)?),
        "batchable" => spec.batchable = value.as_bool().ok_or_else(|| wrong(name, "true or false"))?,
        "near" => {
            let names = value.as_array().filter(|names| names.len() <= limit::NEAR_HINTS);
            let names = names.ok_or_else(|| wrong(name, &format!("at most {} names of data", limit::NEAR_HINTS)))?;
            spec.near = names.iter().map(|data| key(name, data)).collect::<Result<_, _>>()?;
        }
        "labels" => labels(value, spec)?,
        "requires" => {
            let wanted = value.as_object().ok_or_else(|| wrong(name, "a map of labels"))?;
            let read = wanted.iter().map(|(label, value)| Ok((label.as_str().into(), plain(name, value)?)));
            add_requires(spec, read.collect::<Result<_, String>>()?)?;
        }
        "resources" => resources(value, spec)?,
        _ => return Err(format!("there is no option `{name}`")),
    }
    Ok(())
}

fn timeouts(value: &Json, spec: &mut Spec) -> Result<(), String> {
    let limits = value.as_object().ok_or_else(|| wrong("timeouts", "a map of time limits"))?;
    for (stage, value) in limits.iter().filter(|(_, value)| !value.is_null()) {
        let slot = match stage.as_str() {
            "queue_ms" => &mut spec.timeouts.queue_ms,
            "start_ms" => &mut spec.timeouts.start_ms,
            "run_ms" => &mut spec.timeouts.run_ms,
            "heartbeat_ms" => &mut spec.timeouts.heartbeat_ms,
            _ => return Err(format!("the option `timeouts` has no stage `{stage}`")),
        };
        *slot = millis(&format!("timeouts.{stage}"), value)?;
    }
    Ok(())
}

/// Figures of a class, with those that are given over them.
fn resources(value: &Json, spec: &mut Spec) -> Result<(), String> {
    let wanted = value.as_object().ok_or_else(|| wrong("resources", "a map of class, cpu, memory and iops"))?;
    let classes = "cpu-intensive, memory-intensive, io-intensive or default";
    if let Some(name) = wanted.get("class").filter(|class| !class.is_null()) {
        let found = name.as_str().and_then(class).ok_or_else(|| wrong("resources.class", classes))?;
        (spec.resources, spec.fast_io) = found;
    }
    for (name, value) in wanted.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "class" => {}
            "cpu" => {
                let cores = value.as_f64().filter(|cores| (0.0..=limit::TASK_CORES).contains(cores));
                let cores = cores.ok_or_else(|| wrong("resources.cpu", "a number of cores, 0 to 1,024"))?;
                spec.resources.cpu_millis = (cores * 1_000.0).round() as u32;
            }
            "memory" => {
                let bytes = value.as_u64().ok_or_else(|| wrong("resources.memory", "a number of bytes"))?;
                spec.resources.memory_bytes = bytes;
            }
            "iops" => match value.as_str() {
                Some("high") => spec.fast_io = true,
                Some("normal") => spec.fast_io = false,
                _ => return Err(wrong("resources.iops", "high or normal")),
            },
            _ => return Err(format!("the option `resources` has no `{name}`")),
        }
    }
    Ok(())
}

fn labels(value: &Json, spec: &mut Spec) -> Result<(), String> {
    let labels = value.as_object().ok_or_else(|| wrong("labels", "a map of texts"))?;
    for (label, value) in labels {
        let value = plain("labels", value)?;
        match spec.labels.iter_mut().find(|(known, _)| **known == **label) {
            Some(known) => known.1 = value,
            None => spec.labels.push((label.as_str().into(), value)),
        }
    }
    check_pairs("labels", &spec.labels, limit::LABELS)?;
    spec.labels.sort();
    Ok(())
}

fn add_requires(spec: &mut Spec, requires: Vec<(Name, Name)>) -> Result<(), String> {
    for (label, value) in requires {
        match spec.requires.iter_mut().find(|(known, _)| *known == label) {
            Some(known) => known.1 = value,
            None => spec.requires.push((label, value)),
        }
    }
    check_pairs("requires", &spec.requires, limit::REQUIRES)?;
    spec.requires.sort();
    Ok(())
}

fn check_pairs(option: &str, pairs: &[(Name, Name)], most: usize) -> Result<(), String> {
    if pairs.len() > most {
        return Err(wrong(option, &format!("at most {most} labels")));
    }
    let fits = |(name, value): &(Name, Name)| {
        !name.is_empty() && name.len() <= limit::LABEL_BYTES && value.len() <= limit::LABEL_BYTES
    };
    match pairs.iter().all(fits) {
        true => Ok(()),
        false => Err(wrong(option, &format!("a map whose names and values have at most {} bytes", limit::LABEL_BYTES))),
    }
}

fn text(option: &str, value: &Json) -> Result<Name, String> {
    value.as_str().map(Name::from).ok_or_else(|| wrong(option, "a text"))
}

/// A text, or a number or truth value written out.
fn plain(option: &str, value: &Json) -> Result<Name, String> {
    match value {
        Json::String(text) => Ok(text.as_str().into()),
        Json::Bool(_) | Json::Number(_) => Ok(value.to_string().into()),
        _ => Err(wrong(option, "a map whose values are texts")),
    }
}

fn key(option: &str, value: &Json) -> Result<Name, String> {
    let text = text(option, value)?;
    check_key(option, &text).map(|()| text)
}

fn check_key(option: &str, text: &str) -> Result<(), String> {
    match text.is_empty() || text.len() > limit::KEY_BYTES {
        true => Err(wrong(option, &format!("a text of 1 to {} bytes", limit::KEY_BYTES))),
        false => Ok(()),
    }
}

fn millis(option: &str, value: &Json) -> Result<u64, String> {
    let ms = value.as_u64().filter(|ms| *ms <= MAX_MS);
    ms.ok_or_else(|| wrong(option, "a number of milliseconds"))
}

fn wrong(option: &str, expected: &str) -> String {
    format!("the option `{option}` is {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn applied(call: Json) -> Result<(Asked, Spec), String> {
        let mut spec = Arc::new(Spec::default());
        let asked = apply(&call, &mut spec)?;
        Ok((asked, (*spec).clone()))
    }

    #[test]
    fn every_option_of_a_submission_counts() {
        let (asked, spec) = applied(json!({
            "entrypoint": "fetch", "args": {"requires": 1}, "queue": "gpu", "priority": 9, "key": "order-1",
            "concurrency_key": "customer:7", "concurrency_limit": 2, "affinity_key": "region", "ttl_ms": 5000,
            "timeouts": {"queue_ms": 1, "start_ms": 2, "run_ms": 3, "heartbeat_ms": 4}, "expected_ms": 70,
            "retry": {"max_attempts": 4, "delay_ms": 10, "factor": 2.0}, "requires": {"gpu": true, "os": "linux"},
            "resources": {"class": "io-intensive", "cpu": 0.5}, "labels": {"n": 1}, "batchable": true,
            "near": ["set-1"], "correlation_id": "c", "idempotency_key": "once", "activation": null,
        }))
        .unwrap();
        assert_eq!((asked.queue.as_deref(), asked.priority), (Some("gpu"), Some(9)));
        let keys = [&spec.ordering_key, &spec.concurrency_key, &spec.affinity_key, &spec.idempotency_key];
        assert_eq!(keys.map(|key| key.as_deref().unwrap()), ["order-1", "customer:7", "region", "once"]);
        assert_eq!((spec.concurrency_limit, spec.ttl_ms, spec.expected_ms, spec.batchable), (2, 5_000, 70, true));
        let limits = &spec.timeouts;
        assert_eq!((limits.queue_ms, limits.start_ms, limits.run_ms, limits.heartbeat_ms), (1, 2, 3, 4));
        assert_eq!(spec.requires, [("gpu".into(), "true".into()), ("os".into(), "linux".into())]);
        assert_eq!((spec.resources.cpu_millis, spec.resources.memory_bytes, spec.fast_io), (500, 512 << 20, true));
        assert_eq!(spec.retry.unwrap().max_attempts, 4);
    }

    #[test]
    fn a_value_that_cannot_be_used_is_named_with_its_option() {
        for (call, said) in [
            (json!({"priority": 12}), "`priority` is a number from 0 to 9"),
            (json!({"concurrency_key": ""}), "`concurrency_key` is a text of 1 to 256 bytes"),
            (json!({"concurrency_limit": -1}), "`concurrency_limit` is a number"),
            (json!({"timeouts": {"run_ms": "1h"}}), "`timeouts.run_ms` is a number of milliseconds"),
            (json!({"timeouts": {"walk_ms": 1}}), "no stage `walk_ms`"),
            (json!({"timeouts": {"run_ms": u64::MAX}}), "`timeouts.run_ms`"),
            (json!({"resources": {"class": "huge"}}), "`resources.class`"),
            (json!({"resources": {"cpu": 1e9}}), "`resources.cpu`"),
            (json!({"resources": {"disk": 1}}), "no `disk`"),
            (json!({"requires": [1]}), "`requires` is a map of labels"),
            (json!({"labels": {"": "x"}}), "`labels`"),
            (json!({"retry": 7}), "`retry` is a retry policy"),
            (json!({"delay_ms": 7}), "no option `delay_ms`"),
        ] {
            let error = applied(call.clone()).unwrap_err();
            assert!(error.contains(said), "{call}: {error}");
        }
    }

    #[test]
    fn a_call_that_asks_for_nothing_shares_the_spec_of_its_type() {
        let mut spec = Arc::new(Spec::default());
        let own = spec.clone();
        apply(&json!({"package": "p", "entrypoint": "f", "args": {}, "queue": "q", "retry": null}), &mut spec).unwrap();
        assert!(Arc::ptr_eq(&spec, &own));
    }
}
