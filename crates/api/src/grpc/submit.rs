//! From the bulk client's tasks to the engine's submits. What neighbouring tasks have in common (type, queue,
//! settings) is made once and shared, since a stream of equal tasks is the usual case.

use std::sync::Arc;

use bytes::Bytes;
use tidewheel_engine::command::Submit;
use tidewheel_engine::id::{Name, TenantId};
use tidewheel_engine::limit;
use tidewheel_engine::task::{Payload, Spec};
use tidewheel_proto::v1;

use crate::auth::Principal;
use crate::problem::Failure;
use crate::service::routing::{self, Labels, Rule, Rules, Subject};
use crate::service::spec::{self, DEFAULT_PRIORITY};
use crate::service::submit_task::{key_hash, queue_retry, short_hash};
use crate::service::task_type::{self, TypeDefaults};
use crate::state::Api;
use crate::{body, text};

/// What the last task of a stream was, to share it with the next.
#[derive(Default)]
pub(crate) struct Last {
    kind: Option<(Name, Option<Arc<TypeDefaults>>)>,
    /// Version of the directory that the defaults were read at.
    version: u64,
    queue: Option<Name>,
    spec: Option<Arc<Spec>>,
    rules: Option<Arc<Rules>>,
}

/// A submit, and an input that has to be stored as a blob first.
pub(crate) struct Prepared {
    pub(crate) item: Submit,
    pub(crate) large: Option<Bytes>,
}

impl Last {
    /// Called once per message, so that a registration made meanwhile is seen.
    pub(crate) fn refresh(&mut self, api: &Api, tenant: TenantId) {
        let version = api.runtime.directory().version();
        if self.version != version {
            self.version = version;
            self.kind = None;
            self.rules = routing::of(api, tenant);
        }
    }

    pub(crate) fn prepare(&mut self, api: &Api, caller: &Principal, task: v1::TaskSpec) -> Result<Prepared, Failure> {
        let (kind, given) = self.kind(api, caller.tenant, &task.r#type)?;
        let priority = match task.priority {
            Some(level @ 0..=9) => level as u8,
            Some(_) => return Err(Failure::field("/priority", "a priority is 0 to 9")),
            None => given.as_ref().map_or(DEFAULT_PRIORITY, |g| g.priority),
        };
        let rules = self.rules.clone();
        let base = given.as_ref().map_or(&api.plain_spec, |g| &g.spec);
        let rule = match &rules {
            Some(rules) => rules.find(&subject(&task, base, priority))?,
            None => None,
        };
        let queue = match rule.and_then(|rule| rule.queue.as_ref()).filter(|_| task.queue.is_empty()) {
            Some(queue) => queue.clone(),
            None => self.queue(api, &task.queue, given.as_deref())?,
        };
        let run_at = u64::try_from(task.run_at_unix_ms).unwrap_or(0);
        if run_at > 0 && task.delay_ms > 0 {
            return Err(Failure::field("/delay_ms", "a task has run_at_unix_ms or delay_ms, not both"));
        }
        let (input, large) = input(&task.input)?;
        let idempotency = if task.idempotency_key.is_empty() {
            None
        } else {
            let key = spec::key(&task.idempotency_key, "/idempotency_key")?;
            Some((key_hash(caller.tenant, &key), body_hash(&task)))
        };
        let spec = self.spec(api, caller.tenant, &queue, given.as_deref(), &task, rule)?;
        let item = Submit { kind, queue, priority, run_at, delay_ms: task.delay_ms, input, spec, idempotency };
        Ok(Prepared { item, large })
    }

    fn kind(&mut self, api: &Api, tenant: TenantId, kind: &str) -> Result<(Name, Option<Arc<TypeDefaults>>), Failure> {
        if let Some((name, given)) = &self.kind
            && **name == *kind
        {
            return Ok((name.clone(), given.clone()));
        }
        spec::check_type(kind)?;
        let name: Name = kind.into();
        let given = task_type::defaults(api, tenant, kind);
        self.kind = Some((name.clone(), given.clone()));
        Ok((name, given))
    }

    fn queue(&mut self, api: &Api, queue: &str, given: Option<&TypeDefaults>) -> Result<Name, Failure> {
        if queue.is_empty() {
            return Ok(given.and_then(|g| g.queue.clone()).unwrap_or_else(|| api.default_queue.clone()));
        }
        if let Some(name) = self.queue.as_ref().filter(|name| ***name == *queue) {
            return Ok(name.clone());
        }
        if !text::is_name(queue) {
            return Err(Failure::field("/queue", "a queue name has 1 to 200 letters, digits, '.', '_' or '-'"));
        }
        let name: Name = queue.into();
        self.queue = Some(name.clone());
        Ok(name)
    }

    fn spec(
        &mut self,
        api: &Api,
        tenant: TenantId,
        queue: &str,
        given: Option<&TypeDefaults>,
        task: &v1::TaskSpec,
        rule: Option<&Rule>,
    ) -> Result<Arc<Spec>, Failure> {
        let base = given.map_or(&api.plain_spec, |g| &g.spec);
        let keys = given.and_then(|g| g.keys.as_ref());
        if is_plain(task) && keys.is_none() && rule.is_none() {
            return Ok(base.clone());
        }
        let mut own = Spec::clone(base);
        overlay(&mut own, task)?;
        if task.max_attempts > 0 {
            if task.max_attempts > limit::MAX_ATTEMPTS {
                return Err(Failure::field("/max_attempts", format!("attempts are 1 to {}", limit::MAX_ATTEMPTS)));
            }
            let mut retry = own.retry.take().unwrap_or_else(|| queue_retry(api, tenant, queue));
            retry.max_attempts = task.max_attempts;
            own.retry = Some(retry);
        }
        if let Some(keys) = keys {
            task_type::fill_keys(keys, &mut own, &task.input)?;
        }
        if let Some(rule) = rule {
            rule.mark(&mut own);
        }
        if let Some(last) = self.spec.as_ref().filter(|last| ***last == own) {
            return Ok(last.clone());
        }
        let own = Arc::new(own);
        self.spec = Some(own.clone());
        Ok(own)
    }
}

/// What routing looks at.
fn subject<'a>(task: &'a v1::TaskSpec, base: &'a Spec, priority: u8) -> Subject<'a> {
    let workflow = Some(task.workflow_id.as_str()).filter(|id| !id.is_empty());
    Subject {
        task_type: &task.r#type,
        priority,
        workflow: workflow.or(base.workflow_id.as_deref()),
        labels: if task.labels.is_empty() { Labels::Kept(&base.labels) } else { Labels::Told(&task.labels) },
    }
}

fn is_plain(task: &v1::TaskSpec) -> bool {
    task.ttl_ms == 0
        && task.run_timeout_ms == 0
        && task.max_attempts == 0
        && !task.batchable
        && task.key.is_empty()
        && task.concurrency_key.is_empty()
        && task.affinity_key.is_empty()
        && task.correlation_id.is_empty()
        && task.idempotency_key.is_empty()
        && task.labels.is_empty()
        && task.requires.is_empty()
        && task.workflow_id.is_empty()
        && task.expected_duration_ms == 0
        && task.near.is_empty()
        && spec::class_of_type(&task.r#type).is_none()
}

fn overlay(own: &mut Spec, task: &v1::TaskSpec) -> Result<(), Failure> {
    if task.ttl_ms > 0 {
        own.ttl_ms = task.ttl_ms;
    }
    if task.run_timeout_ms > 0 {
        own.timeouts.run_ms = task.run_timeout_ms;
    }
    own.batchable |= task.batchable;
    for (slot, value, pointer) in [
        (&mut own.ordering_key, &task.key, "/key"),
        (&mut own.concurrency_key, &task.concurrency_key, "/concurrency_key"),
        (&mut own.affinity_key, &task.affinity_key, "/affinity_key"),
        (&mut own.correlation_id, &task.correlation_id, "/correlation_id"),
        (&mut own.workflow_id, &task.workflow_id, "/workflow_id"),
        (&mut own.idempotency_key, &task.idempotency_key, "/idempotency_key"),
    ] {
        if !value.is_empty() {
            *slot = Some(spec::key(value, pointer)?);
        }
    }
    if !task.labels.is_empty() {
        let sorted = task.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        own.labels = spec::labels(&sorted)?;
    }
    if !task.requires.is_empty() {
        let sorted = task.requires.iter().map(|(k, v)| (k.clone(), serde_json::Value::from(v.as_str()))).collect();
        own.requires = spec::requires(&sorted)?;
    }
    if task.expected_duration_ms > 0 {
        own.expected_ms = task.expected_duration_ms;
    }
    if !task.near.is_empty() {
        own.near = spec::near(&task.near)?;
    }
    spec::class_by_type(own, &task.r#type);
    Ok(())
}

fn input(bytes: &Bytes) -> Result<(Payload, Option<Bytes>), Failure> {
    if bytes.is_empty() {
        return Ok((Payload::None, None));
    }
    body::check_json(bytes).map_err(|failure| failure.under("/input"))?;
    if bytes.len() > limit::INLINE_BYTES {
        return Ok((Payload::None, Some(bytes.clone())));
    }
    Ok((Payload::Inline(bytes.clone()), None))
}

/// A hash over everything that the submitter said, in a fixed order: maps come in any.
fn body_hash(task: &v1::TaskSpec) -> u64 {
    let mut labels: Vec<_> = task.labels.iter().collect();
    labels.sort();
    let mut requires: Vec<_> = task.requires.iter().collect();
    requires.sort();
    let numbers = [
        task.priority.map_or(u64::MAX, u64::from),
        task.delay_ms,
        task.ttl_ms,
        u64::from(task.max_attempts),
        task.run_timeout_ms,
        u64::from(task.batchable),
        task.run_at_unix_ms as u64,
        labels.len() as u64,
    ];
    // What came to the message later is added only when it is there, so that a repeat is known across an update.
    let expected = task.expected_duration_ms.to_be_bytes();
    let numbers: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
    let mut parts: Vec<&[u8]> = vec![&numbers, task.r#type.as_bytes(), task.queue.as_bytes(), &task.input];
    parts.extend([task.key.as_bytes(), task.concurrency_key.as_bytes()]);
    parts.extend([task.affinity_key.as_bytes(), task.correlation_id.as_bytes()]);
    for (name, value) in labels.into_iter().chain(requires) {
        parts.extend([name.as_bytes(), value.as_bytes()]);
    }
    if !task.workflow_id.is_empty() {
        parts.extend(["workflow".as_bytes(), task.workflow_id.as_bytes()]);
    }
    if task.expected_duration_ms > 0 {
        parts.extend(["expected".as_bytes(), &expected]);
    }
    for name in &task.near {
        parts.extend(["near".as_bytes(), name.as_bytes()]);
    }
    short_hash(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_body_does_not_depend_on_the_order_of_its_maps() {
        let task = |pairs: &[(&str, &str)]| v1::TaskSpec {
            r#type: "a".to_owned(),
            labels: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..v1::TaskSpec::default()
        };
        let one = task(&[("x", "1"), ("y", "2"), ("z", "3")]);
        let other = task(&[("z", "3"), ("y", "2"), ("x", "1")]);
        assert_eq!(body_hash(&one), body_hash(&other));
        assert_ne!(body_hash(&one), body_hash(&task(&[("x", "1"), ("y", "2")])));
        assert_ne!(body_hash(&one), body_hash(&v1::TaskSpec { delay_ms: 1, ..one.clone() }));
    }
}
