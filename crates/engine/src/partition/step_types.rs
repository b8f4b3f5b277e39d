//! What steps of runs get that call a registered function: its package, and what its decorator says.

use std::sync::Arc;

use super::Partition;
use crate::config::{Backoff, RetryPolicy};
use crate::id::{Name, TenantId};
use crate::input_keys::InputKeys;
use crate::mutation::RecordKind;
use crate::run::eval::Json;
use crate::task::{Resources, Spec};

/// A registered task type, as steps use it.
#[derive(Debug)]
pub(crate) struct StepType {
    /// Version of its record.
    version: u64,
    package: Name,
    package_version: Name,
    pub(super) queue: Option<Name>,
    pub(super) priority: Option<u8>,
    pub(super) spec: Arc<Spec>,
    /// Keys that it takes from its inputs.
    pub(super) keys: Option<Arc<InputKeys>>,
}

fn text(value: &Json, key: &str) -> Option<Name> {
    value.get(key).and_then(Json::as_str).map(Name::from)
}

fn number(value: &Json, key: &str) -> u64 {
    value.get(key).and_then(Json::as_u64).unwrap_or(0)
}

fn names(value: &Json, key: &str) -> Vec<Name> {
    value
        .get(key)
        .and_then(Json::as_array)
        .map_or_else(Vec::new, |list| list.iter().filter_map(|name| name.as_str().map(Name::from)).collect())
}

fn pairs(value: &Json, key: &str) -> Vec<(Name, Name)> {
    let Some(Json::Object(map)) = value.get(key) else { return Vec::new() };
    let mut pairs: Vec<(Name, Name)> =
        map.iter().filter_map(|(name, value)| Some((name.as_str().into(), value.as_str()?.into()))).collect();
    pairs.sort();
    pairs
}

/// Reads the retry policy of a registration or a call: times in milliseconds.
pub(super) fn retry_policy(retry: &Json) -> Option<RetryPolicy> {
    if !retry.is_object() {
        return None;
    }
    let backoff = match retry.get("factor").and_then(Json::as_f64) {
        Some(factor) => Backoff::Exponential { factor },
        None => Backoff::Constant,
    };
    Some(RetryPolicy {
        max_attempts: u32::try_from(number(retry, "max_attempts")).unwrap_or(1).clamp(1, crate::limit::MAX_ATTEMPTS),
        delay_ms: number(retry, "delay_ms"),
        backoff,
        max_delay_ms: number(retry, "max_delay_ms"),
        jitter_ms: number(retry, "jitter_ms"),
        on: names(retry, "on"),
        not_on: names(retry, "not_on"),
    })
}

impl StepType {
    /// Reads the member `step` of a registration, which the shell wrote when the package was registered.
    fn read(value: &str, version: u64) -> Option<StepType> {
        let record: Json = serde_json::from_str(value).ok()?;
        let none = Json::Null;
        let step = record.get("step").unwrap_or(&none);
        let timeouts = step.get("timeouts").unwrap_or(&none);
        let spec = Spec {
            package: text(&record, "hash"),
            entrypoint: text(&record, "entrypoint"),
            retry: step.get("retry").and_then(retry_policy),
            timeouts: crate::config::Timeouts {
                queue_ms: number(timeouts, "queue_ms"),
                start_ms: number(timeouts, "start_ms"),
                run_ms: number(timeouts, "run_ms"),
                heartbeat_ms: number(timeouts, "heartbeat_ms"),
            },
            ttl_ms: number(step, "ttl_ms"),
            requires: pairs(step, "requires"),
            resources: Resources {
                cpu_millis: u32::try_from(number(step, "cpu_millis")).unwrap_or(u32::MAX),
                memory_bytes: number(step, "memory_bytes"),
            },
            batchable: step.get("batchable").and_then(Json::as_bool).unwrap_or(false),
            expected_ms: number(step, "expected_ms"),
            fast_io: step.get("fast_io").and_then(Json::as_bool).unwrap_or(false),
            labels: pairs(step, "labels"),
            ..Spec::default()
        };
        Some(StepType {
            version,
            package: text(&record, "package")?,
            package_version: text(&record, "version")?,
            queue: text(step, "queue"),
            priority: step.get("priority").and_then(Json::as_u64).and_then(|n| u8::try_from(n).ok()),
            spec: Arc::new(spec),
            keys: step.get("keys").and_then(InputKeys::read).map(Arc::new),
        })
    }
}

impl Partition {
    /// What is registered under a name.
    pub(super) fn step_type(&mut self, tenant: TenantId, name: &Name) -> Option<Arc<StepType>> {
        let key = (tenant, name.clone());
        let record = self.records.get(&(RecordKind::TaskType, tenant, name.clone()))?;
        if let Some(known) = self.step_types.get(&key)
            && known.version == record.version
        {
            return Some(known.clone());
        }
        let read = Arc::new(StepType::read(&record.value, record.version)?);
        if self.step_types.len() >= crate::limit::TYPES_PER_TENANT {
            self.step_types.clear();
        }
        self.step_types.insert(key, read.clone());
        Some(read)
    }

    /// The function of a package that a document names: its task type and what it gets. A name without a colon is that of
    /// the task type.
    pub(super) fn python_function(
        &mut self,
        tenant: TenantId,
        package: Option<&str>,
        version: Option<&str>,
        entry: &str,
    ) -> Result<(Name, Arc<StepType>), String> {
        let registered = self.step_type(tenant, &entry.into());
        let ours = |step: &StepType| {
            package.is_none_or(|package| *package == *step.package)
                && version.is_none_or(|version| *version == *step.package_version)
        };
        if let Some(step) = registered.filter(|step| ours(step)) {
            return Ok((entry.into(), step));
        }
        let Some(package) = package else { return Err(format!("no package registers the task '{entry}'")) };
        let (name, value, record_version) = self.package_record(tenant, package, version)?;
        let missing = || format!("the package {name} has no task '{entry}'");
        let record: Json = serde_json::from_str(&value).map_err(|_| missing())?;
        let entries = record.get("entries").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        let fits = |known: &&Json| {
            text(known, "name").as_deref() == Some(entry) || text(known, "fn").as_deref() == Some(entry)
        };
        let found = entries.iter().find(fits).ok_or_else(missing)?;
        let kind = text(found, "name").ok_or_else(missing)?;
        // The registration of another version of it says what its decorator says, or nearly so; the code is this version's.
        let known = self.step_type(tenant, &kind).filter(|step| *step.package == *package);
        let mut spec = known.as_ref().map_or_else(Spec::default, |step| (*step.spec).clone());
        let hash = text(&record, "hash").ok_or_else(missing)?;
        spec.package = Some(hash.trim_start_matches("sha256:").into());
        spec.entrypoint = Some(text(found, "fn").ok_or_else(missing)?);
        let step = StepType {
            version: record_version,
            package: package.into(),
            package_version: text(&record, "version").unwrap_or_else(|| "".into()),
            queue: known.as_ref().and_then(|step| step.queue.clone()),
            priority: known.as_ref().and_then(|step| step.priority),
            spec: Arc::new(spec),
            keys: known.as_ref().and_then(|step| step.keys.clone()),
        };
        Ok((kind, Arc::new(step)))
    }

    fn package_record(
        &self,
        tenant: TenantId,
        package: &str,
        version: Option<&str>,
    ) -> Result<(Name, Name, u64), String> {
        let found = match version {
            Some(version) => {
                let key: Name = format!("{package}@{version}").into();
                self.records.get(&(RecordKind::Package, tenant, key))
            }
            None => {
                // The newest registration stands for the package; which one that is does not depend on any order of a map.
                let of = |key: &str| key.rsplit_once('@').is_some_and(|(name, _)| name == package);
                let records = self
                    .records
                    .iter()
                    .filter(|((kind, owner, key), _)| *kind == RecordKind::Package && *owner == tenant && of(key));
                records.map(|(_, record)| record).max_by_key(|record| created(&record.value, &record.key))
            }
        };
        let asked = version.map_or_else(|| package.to_owned(), |version| format!("{package}@{version}"));
        let record = found.ok_or_else(|| format!("there is no package {asked}"))?;
        Ok((record.key.clone(), record.value.clone(), record.version))
    }
}

/// When a version was made; of several in a moment the one with the greatest key.
fn created(value: &str, key: &Name) -> (Option<Name>, Name) {
    let record: Json = serde_json::from_str(value).unwrap_or(Json::Null);
    (text(&record, "created_at"), key.clone())
}
