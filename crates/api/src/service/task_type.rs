//! Registered task types: which package entry serves a type, and what its tasks get when the submitter says nothing.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tidewheel_engine::config::{Backoff, RetryPolicy};
use tidewheel_engine::id::{Name, TenantId};
use tidewheel_engine::input_keys::InputKeys;
use tidewheel_engine::mutation::{Record, RecordKind};
use tidewheel_engine::task::Spec;
use tidewheel_proto::rest;

use super::spec;
use crate::auth::Principal;
use crate::problem::Failure;
use crate::state::Api;

/// A registration as it is stored, as JSON under the task type's name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredType {
    pub(crate) package: String,
    pub(crate) version: String,
    /// SHA-256 of the archive, 64 hex.
    pub(crate) hash: String,
    pub(crate) entrypoint: String,
    #[serde(default)]
    pub(crate) doc: String,
    #[serde(default)]
    pub(crate) schema_in: Value,
    /// In the form of a submit: what the decorator says.
    #[serde(default)]
    pub(crate) defaults: Value,
    /// What the engine gives to steps of runs that call it: the same as `defaults`, read and in plain units.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) step: Value,
}

impl StoredType {
    /// With [`StoredType::step`] filled.
    pub(crate) fn with_step(mut self, name: &str) -> StoredType {
        let (queue, priority, spec) = base_of(&self, name);
        let retry = spec.retry.as_ref().map(|retry| {
            json!({
                "max_attempts": retry.max_attempts, "delay_ms": retry.delay_ms, "max_delay_ms": retry.max_delay_ms,
                "jitter_ms": retry.jitter_ms, "on": names(&retry.on), "not_on": names(&retry.not_on),
                "factor": match retry.backoff {
                    Backoff::Constant => None,
                    Backoff::Exponential { factor } => Some(factor),
                },
            })
        });
        let requires: Map<String, Value> =
            spec.requires.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect();
        let labels: Map<String, Value> =
            spec.labels.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect();
        let timeouts = &spec.timeouts;
        self.step = json!({
            "queue": queue.as_deref(), "priority": priority, "retry": retry, "requires": requires,
            "timeouts": {
                "queue_ms": timeouts.queue_ms, "start_ms": timeouts.start_ms, "run_ms": timeouts.run_ms,
                "heartbeat_ms": timeouts.heartbeat_ms,
            },
            "ttl_ms": spec.ttl_ms, "cpu_millis": spec.resources.cpu_millis,
            "memory_bytes": spec.resources.memory_bytes, "fast_io": spec.fast_io, "batchable": spec.batchable,
            "expected_ms": spec.expected_ms, "labels": labels,
            "keys": keys_of(&self).map(|keys| keys.written()),
        });
        self
    }
}

fn names(list: &[Name]) -> Vec<&str> {
    list.iter().map(|name| &**name).collect()
}

/// What tasks of a type get.
#[derive(Debug)]
pub(crate) struct TypeDefaults {
    pub(crate) queue: Option<Name>,
    pub(crate) priority: u8,
    /// Shared by every task of the type that asks for nothing special.
    pub(crate) spec: Arc<Spec>,
    /// Keys that are taken from the input.
    pub(crate) keys: Option<InputKeys>,
}

/// What `key=` and `concurrency=` of a decorator name.
fn keys_of(stored: &StoredType) -> Option<InputKeys> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let ordering = text(stored.defaults.get("key"));
    let concurrency = stored.defaults.get("concurrency").and_then(|given| {
        let limit = given.get("limit").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        Some((text(given.get("key"))?, limit.unwrap_or(0)))
    });
    if ordering.is_none() && concurrency.is_none() {
        return None;
    }
    let empty = Map::new();
    let properties = stored.schema_in.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let default = |(name, schema): (&String, &Value)| Some((name.clone(), schema.get("default")?.clone()));
    Some(InputKeys {
        ordering,
        concurrency,
        parameters: properties.keys().cloned().collect(),
        defaults: properties.iter().filter_map(default).collect(),
    })
}

/// Fills the keys that the submitter left out.
pub(crate) fn fill_keys(keys: &InputKeys, spec: &mut Spec, input: &[u8]) -> Result<(), Failure> {
    if !keys.is_wanted(spec) {
        return Ok(());
    }
    let input: Value = serde_json::from_slice(input).unwrap_or(Value::Null);
    keys.fill(spec, &input).map_err(|detail| Failure::field("/input", detail))
}

/// Reads registrations once per version. Bounded by the number of registered types.
#[derive(Default)]
pub(crate) struct TypeCache(RwLock<HashMap<(TenantId, Name), Cached>>);

struct Cached {
    version: u64,
    defaults: Arc<TypeDefaults>,
}

/// Types remembered; beyond, the cache starts anew.
const CACHE_ENTRIES: usize = 10_000;

/// The defaults of a type, or `None` when nobody registered it: an SDK worker may still serve it.
pub(crate) fn defaults(api: &Api, tenant: TenantId, kind: &str) -> Option<Arc<TypeDefaults>> {
    let record = api.runtime.directory().record(RecordKind::TaskType, tenant, kind)?;
    // The record's own key is the cache's key, so that the good path copies no text.
    let key = (tenant, record.key.clone());
    if let Some(cached) = api.types.0.read().get(&key)
        && cached.version == record.version
    {
        api.metrics.types.hit();
        return Some(cached.defaults.clone());
    }
    api.metrics.types.miss();
    let defaults = Arc::new(read(&record)?);
    let mut cache = api.types.0.write();
    if cache.len() >= CACHE_ENTRIES {
        cache.clear();
    }
    cache.insert(key, Cached { version: record.version, defaults: defaults.clone() });
    Some(defaults)
}

fn read(record: &Record) -> Option<TypeDefaults> {
    let stored: StoredType = serde_json::from_str(&record.value).ok()?;
    let (queue, priority, base) = base_of(&stored, &record.key);
    Some(TypeDefaults { queue, priority, spec: Arc::new(base), keys: keys_of(&stored) })
}

fn base_of(stored: &StoredType, name: &str) -> (Option<Name>, u8, Spec) {
    let mut base = Spec {
        package: Some(stored.hash.as_str().into()),
        entrypoint: Some(stored.entrypoint.as_str().into()),
        ..Spec::default()
    };
    // Checked when the package was registered; a registration of another release that no longer reads counts as plain.
    let wanted = entry_defaults(&stored.defaults).unwrap_or_default();
    let queue = wanted.queue.as_deref().map(Name::from);
    let priority = wanted.priority.as_ref().and_then(|p| spec::priority(p).ok()).unwrap_or(spec::DEFAULT_PRIORITY);
    let _ = spec::overlay(&mut base, &wanted, name, RetryPolicy::default);
    (queue, priority, base)
}

/// The defaults that a package entry declares, in the form of a submit.
///
/// The decorator's own spelling is accepted where it differs from a submit's: `max_attempts` and `delay` beside
/// `retry`, a bare duration as `timeout`, `cpu` and `memory` beside `resources`, `concurrency: {key, limit}`,
/// `batch`.
pub(crate) fn entry_defaults(value: &Value) -> Result<rest::SubmitTask, Failure> {
    let mut out = Map::new();
    out.insert("type".to_owned(), Value::from("x"));
    let empty = Map::new();
    let given = match value {
        Value::Object(map) => map,
        Value::Null => &empty,
        _ => return Err(Failure::field("/defaults", "the defaults of an entry are an object")),
    };
    let mut resources = Map::new();
    for (name, value) in given {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            ("timeout", Value::Number(_) | Value::String(_)) => {
                out.insert(name.clone(), json!({ "run": value }));
            }
            ("retry", Value::Number(_)) => {
                out.insert(name.clone(), json!({ "max_attempts": value }));
            }
            ("cpu" | "memory", _) => {
                resources.insert(name.clone(), value.clone());
            }
            ("batch", _) => {
                out.insert("batchable".to_owned(), Value::from(*value != Value::Bool(false)));
            }
            // Names of parameters, see [`InputKeys`]; and settings of the queue or of the handler, not of a single task.
            ("key" | "concurrency" | "rate" | "batch_size" | "batch_wait" | "doc" | "version" | "idempotent", _) => {}
            _ => {
                out.insert(name.clone(), value.clone());
            }
        }
    }
    if !resources.is_empty() {
        out.insert("resources".to_owned(), Value::Object(resources));
    }
    let text = Value::Object(out).to_string();
    crate::body::parse(text.as_bytes()).map_err(|failure| failure.under("/defaults"))
}

/// All registered types of a tenant.
pub(crate) fn list(api: &Api, principal: &Principal) -> Vec<rest::TaskType> {
    let mut types: Vec<_> = api.runtime.directory().records(RecordKind::TaskType, principal.tenant);
    types.sort_by(|a, b| a.key.cmp(&b.key));
    types.iter().filter_map(|record| shown(record)).collect()
}

fn shown(record: &Record) -> Option<rest::TaskType> {
    let stored: StoredType = serde_json::from_str(&record.value).ok()?;
    Some(rest::TaskType {
        name: record.key.to_string(),
        package: stored.package,
        version: stored.version,
        hash: format!("sha256:{}", stored.hash),
        entrypoint: stored.entrypoint,
        doc: stored.doc,
        schema_in: stored.schema_in,
        defaults: stored.defaults,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_decorator_are_taken_from_the_input() {
        let stored = StoredType {
            defaults: json!({ "key": "order.id", "concurrency": { "key": "customer", "limit": 3 } }),
            schema_in: json!({ "properties": { "order": {}, "customer": { "default": "nobody" } } }),
            ..StoredType::default()
        };
        let keys = keys_of(&stored).unwrap();
        let mut spec = Spec::default();
        fill_keys(&keys, &mut spec, br#"[{"id":"7"}]"#).unwrap();
        assert_eq!(spec.ordering_key.as_deref(), Some("7"));
        assert_eq!((spec.concurrency_key.as_deref(), spec.concurrency_limit), (Some("customer:nobody"), 3));
        let failure = fill_keys(&keys, &mut Spec::default(), b"{}").unwrap_err();
        assert_eq!(failure.0.errors[0].pointer, "/input");
        let step = stored.with_step("pay").step;
        assert_eq!(InputKeys::read(&step["keys"]), Some(keys));
    }

    #[test]
    fn the_decorators_own_spelling_is_understood() {
        let given = json!({
            "timeout": "10m", "retry": 5, "cpu": 1, "memory": "512MB", "batch": { "size": 100, "wait": "1s" },
            "key": "customer", "rate": "100/m", "queue": "pdf",
        });
        let task = entry_defaults(&given).unwrap();
        assert_eq!(task.retry.unwrap().max_attempts, Some(5));
        assert_eq!((task.batchable, task.key, task.queue.as_deref()), (Some(true), None, Some("pdf")));
        assert!(task.timeout.unwrap().run.is_some() && task.resources.unwrap().memory.is_some());
        let failure = entry_defaults(&json!({ "timout": "1s" })).unwrap_err();
        assert_eq!(failure.0.errors[0].pointer, "/defaults/timout");
    }
}
