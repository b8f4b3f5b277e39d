//! Registered task types: which package entry serves a type, and what its tasks get when the submitter says nothing.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tidewheel_engine::config::RetryPolicy;
use tidewheel_engine::id::{Name, TenantId};
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
    pub(crate) schema_in: serde_json::Value,
    /// In the form of a submit: what the decorator says.
    #[serde(default)]
    pub(crate) defaults: serde_json::Value,
}

/// What tasks of a type get.
#[derive(Debug)]
pub(crate) struct TypeDefaults {
    pub(crate) queue: Option<Name>,
    pub(crate) priority: u8,
    /// Shared by every task of the type that asks for nothing special.
    pub(crate) spec: Arc<Spec>,
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
    if let Some(cached) = api.types.0.read().get(&key) {
        if cached.version == record.version {
            return Some(cached.defaults.clone());
        }
    }
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
    let mut base = Spec {
        package: Some(stored.hash.as_str().into()),
        entrypoint: Some(stored.entrypoint.as_str().into()),
        ..Spec::default()
    };
    // Checked when the package was registered; a registration of another release that no longer reads counts as plain.
    let wanted = entry_defaults(&stored.defaults).unwrap_or_default();
    let queue = wanted.queue.as_deref().map(Name::from);
    let priority = wanted.priority.as_ref().and_then(|p| spec::priority(p).ok()).unwrap_or(spec::DEFAULT_PRIORITY);
    let _ = spec::overlay(&mut base, &wanted, &record.key, RetryPolicy::default);
    Some(TypeDefaults { queue, priority, spec: Arc::new(base) })
}

/// The defaults that a package entry declares, in the form of a submit.
///
/// The decorator's own spelling is accepted where it differs from a submit's: `max_attempts` and `delay` beside `retry`, a bare
/// duration as `timeout`, `cpu` and `memory` beside `resources`, `concurrency: {key, limit}`, `batch`.
pub(crate) fn entry_defaults(value: &serde_json::Value) -> Result<rest::SubmitTask, Failure> {
    use serde_json::{Map, Value, json};
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
            ("concurrency", Value::Object(inner)) => {
                // A key taken from an argument is evaluated by the package's own client; here only the limit holds.
                if let Some(limit) = inner.get("limit") {
                    out.insert("concurrency_limit".to_owned(), limit.clone());
                }
            }
            ("batch", _) => {
                out.insert("batchable".to_owned(), Value::from(*value != Value::Bool(false)));
            }
            // Settings of the queue or of the handler, not of a single task.
            ("rate" | "concurrency" | "batch_size" | "batch_wait" | "doc" | "version" | "idempotent", _) => {}
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
