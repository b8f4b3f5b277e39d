//! The fields of each record by number, and the way between them and the engine's types. A number is never used again.

use super::{
    Artifact, AttemptOutcome, AttemptRecord, Backoff, Bytes, Decoded, Error, Failure, Name, Payload, Policy, Rate,
    Resources, RetryPolicy, TaskId, TenantId, Timeouts, damaged, name,
};
use tidewheel_engine::config as engine_config;
use tidewheel_engine::id::{Token, WorkerId};
use tidewheel_engine::limit::AFFINITY_WAIT_MS;
use tidewheel_engine::task as engine;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Pair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Retry {
    #[prost(uint32, tag = "1")]
    max_attempts: u32,
    #[prost(uint64, tag = "2")]
    delay_ms: u64,
    /// Absent = constant.
    #[prost(double, optional, tag = "3")]
    factor: Option<f64>,
    #[prost(uint64, tag = "4")]
    max_delay_ms: u64,
    #[prost(uint64, tag = "5")]
    jitter_ms: u64,
    #[prost(string, repeated, tag = "6")]
    on: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    not_on: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Limits {
    #[prost(uint64, tag = "1")]
    queue_ms: u64,
    #[prost(uint64, tag = "2")]
    start_ms: u64,
    #[prost(uint64, tag = "3")]
    run_ms: u64,
    #[prost(uint64, tag = "4")]
    heartbeat_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Spec {
    #[prost(message, optional, tag = "1")]
    retry: Option<Retry>,
    #[prost(message, optional, tag = "2")]
    timeouts: Option<Limits>,
    #[prost(uint64, tag = "3")]
    ttl_ms: u64,
    #[prost(string, optional, tag = "4")]
    ordering_key: Option<String>,
    #[prost(string, optional, tag = "5")]
    concurrency_key: Option<String>,
    #[prost(uint32, tag = "6")]
    concurrency_limit: u32,
    #[prost(string, optional, tag = "7")]
    affinity_key: Option<String>,
    #[prost(message, repeated, tag = "8")]
    requires: Vec<Pair>,
    #[prost(uint32, tag = "9")]
    cpu_millis: u32,
    #[prost(uint64, tag = "10")]
    memory_bytes: u64,
    #[prost(bool, tag = "11")]
    batchable: bool,
    #[prost(message, repeated, tag = "12")]
    labels: Vec<Pair>,
    #[prost(string, optional, tag = "13")]
    correlation_id: Option<String>,
    #[prost(string, optional, tag = "14")]
    workflow_id: Option<String>,
    #[prost(string, optional, tag = "15")]
    package: Option<String>,
    #[prost(string, optional, tag = "16")]
    entrypoint: Option<String>,
    #[prost(string, optional, tag = "17")]
    traceparent: Option<String>,
    #[prost(string, optional, tag = "18")]
    idempotency_key: Option<String>,
    #[prost(string, optional, tag = "19")]
    executor: Option<String>,
    #[prost(string, optional, tag = "20")]
    rule: Option<String>,
    #[prost(uint64, tag = "21")]
    expected_ms: u64,
    #[prost(string, repeated, tag = "22")]
    near: Vec<String>,
    #[prost(bool, tag = "23")]
    fast_io: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Fault {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(string, tag = "3")]
    detail: String,
    #[prost(bool, tag = "4")]
    retryable: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct File {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    hash: Bytes,
    #[prost(uint64, tag = "3")]
    size: u64,
    #[prost(string, tag = "4")]
    content_type: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ending {
    #[prost(message, optional, tag = "1")]
    failure: Option<Fault>,
    #[prost(message, repeated, tag = "2")]
    artifacts: Vec<File>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Pace {
    #[prost(uint64, tag = "1")]
    interval_us: u64,
    #[prost(uint32, tag = "2")]
    burst: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct QueueConfig {
    #[prost(uint32, tag = "1")]
    concurrency: u32,
    #[prost(uint32, tag = "2")]
    key_concurrency: u32,
    #[prost(message, optional, tag = "3")]
    rate: Option<Pace>,
    #[prost(uint32, tag = "4")]
    policy: u32,
    #[prost(message, optional, tag = "5")]
    retry: Option<Retry>,
    #[prost(message, optional, tag = "6")]
    timeouts: Option<Limits>,
    #[prost(uint64, tag = "7")]
    ttl_ms: u64,
    #[prost(uint32, tag = "8")]
    batch_size: u32,
    #[prost(uint64, tag = "9")]
    batch_wait_ms: u64,
    #[prost(uint64, tag = "10")]
    max_depth: u64,
    #[prost(bool, tag = "11")]
    dead_letter: bool,
    #[prost(uint64, tag = "12")]
    aging_ms: u64,
    /// Absent = the default, which queues had before they could say otherwise.
    #[prost(uint64, optional, tag = "13")]
    alert_depth: Option<u64>,
    #[prost(uint64, tag = "14")]
    throttle_depth: u64,
    /// Absent = the default, which is what queues have that were stored before there was such a setting.
    #[prost(uint64, optional, tag = "15")]
    affinity_wait_ms: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TenantConfig {
    #[prost(uint32, tag = "1")]
    weight: u32,
    #[prost(uint32, tag = "2")]
    concurrency: u32,
    #[prost(message, optional, tag = "3")]
    rate: Option<Pace>,
    #[prost(uint64, tag = "4")]
    max_queued: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Attempt {
    #[prost(uint32, tag = "1")]
    epoch: u32,
    #[prost(uint64, tag = "2")]
    grant: u64,
    #[prost(uint32, tag = "3")]
    worker: u32,
    #[prost(uint64, tag = "4")]
    granted: u64,
    #[prost(uint64, tag = "5")]
    ended: u64,
    #[prost(uint32, tag = "6")]
    outcome: u32,
    #[prost(message, optional, tag = "7")]
    failure: Option<Fault>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Task {
    #[prost(uint32, tag = "1")]
    pub(super) tenant: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) id: Vec<u8>,
    #[prost(sint64, optional, tag = "3")]
    pub(super) lane: Option<i64>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) head: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) spec: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub(super) input: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "7")]
    pub(super) ending: Option<Vec<u8>>,
    #[prost(bytes = "vec", tag = "8")]
    pub(super) result: Vec<u8>,
}

fn text(name: &Name) -> String {
    name.as_ref().to_owned()
}

fn texts(names: &[Name]) -> Vec<String> {
    names.iter().map(text).collect()
}

fn names(texts: Vec<String>) -> Vec<Name> {
    texts.into_iter().map(name).collect()
}

fn pairs(list: &[(Name, Name)]) -> Vec<Pair> {
    list.iter().map(|(n, v)| Pair { name: text(n), value: text(v) }).collect()
}

fn unpair(list: Vec<Pair>) -> Vec<(Name, Name)> {
    list.into_iter().map(|p| (name(p.name), name(p.value))).collect()
}

impl From<&RetryPolicy> for Retry {
    fn from(policy: &RetryPolicy) -> Retry {
        Retry {
            max_attempts: policy.max_attempts,
            delay_ms: policy.delay_ms,
            factor: match policy.backoff {
                Backoff::Constant => None,
                Backoff::Exponential { factor } => Some(factor),
            },
            max_delay_ms: policy.max_delay_ms,
            jitter_ms: policy.jitter_ms,
            on: texts(&policy.on),
            not_on: texts(&policy.not_on),
        }
    }
}

impl From<Retry> for RetryPolicy {
    fn from(retry: Retry) -> RetryPolicy {
        RetryPolicy {
            max_attempts: retry.max_attempts,
            delay_ms: retry.delay_ms,
            backoff: match retry.factor {
                None => Backoff::Constant,
                Some(factor) => Backoff::Exponential { factor },
            },
            max_delay_ms: retry.max_delay_ms,
            jitter_ms: retry.jitter_ms,
            on: names(retry.on),
            not_on: names(retry.not_on),
        }
    }
}

fn limits(timeouts: &Timeouts) -> Option<Limits> {
    (*timeouts != Timeouts::default()).then_some(Limits {
        queue_ms: timeouts.queue_ms,
        start_ms: timeouts.start_ms,
        run_ms: timeouts.run_ms,
        heartbeat_ms: timeouts.heartbeat_ms,
    })
}

fn unlimit(limits: Option<Limits>) -> Timeouts {
    let limits = limits.unwrap_or_default();
    Timeouts {
        queue_ms: limits.queue_ms,
        start_ms: limits.start_ms,
        run_ms: limits.run_ms,
        heartbeat_ms: limits.heartbeat_ms,
    }
}

fn pace(rate: Option<Rate>) -> Option<Pace> {
    rate.map(|r| Pace { interval_us: r.interval_us, burst: r.burst })
}

fn rate(pace: Option<Pace>) -> Option<Rate> {
    pace.map(|p| Rate { interval_us: p.interval_us, burst: p.burst })
}

impl From<&engine::Spec> for Spec {
    fn from(spec: &engine::Spec) -> Spec {
        let key = |key: &Option<Name>| key.as_ref().map(text);
        Spec {
            retry: spec.retry.as_ref().map(Retry::from),
            timeouts: limits(&spec.timeouts),
            ttl_ms: spec.ttl_ms,
            ordering_key: key(&spec.ordering_key),
            concurrency_key: key(&spec.concurrency_key),
            concurrency_limit: spec.concurrency_limit,
            affinity_key: key(&spec.affinity_key),
            requires: pairs(&spec.requires),
            cpu_millis: spec.resources.cpu_millis,
            memory_bytes: spec.resources.memory_bytes,
            batchable: spec.batchable,
            labels: pairs(&spec.labels),
            correlation_id: key(&spec.correlation_id),
            workflow_id: key(&spec.workflow_id),
            package: key(&spec.package),
            entrypoint: key(&spec.entrypoint),
            traceparent: key(&spec.traceparent),
            idempotency_key: key(&spec.idempotency_key),
            executor: key(&spec.executor),
            rule: key(&spec.rule),
            expected_ms: spec.expected_ms,
            near: texts(&spec.near),
            fast_io: spec.fast_io,
        }
    }
}

impl From<Spec> for engine::Spec {
    fn from(spec: Spec) -> engine::Spec {
        engine::Spec {
            retry: spec.retry.map(RetryPolicy::from),
            timeouts: unlimit(spec.timeouts),
            ttl_ms: spec.ttl_ms,
            ordering_key: spec.ordering_key.map(name),
            concurrency_key: spec.concurrency_key.map(name),
            concurrency_limit: spec.concurrency_limit,
            affinity_key: spec.affinity_key.map(name),
            requires: unpair(spec.requires),
            resources: Resources { cpu_millis: spec.cpu_millis, memory_bytes: spec.memory_bytes },
            batchable: spec.batchable,
            labels: unpair(spec.labels),
            correlation_id: spec.correlation_id.map(name),
            workflow_id: spec.workflow_id.map(name),
            package: spec.package.map(name),
            entrypoint: spec.entrypoint.map(name),
            traceparent: spec.traceparent.map(name),
            idempotency_key: spec.idempotency_key.map(name),
            executor: spec.executor.map(name),
            rule: spec.rule.map(name),
            expected_ms: spec.expected_ms,
            near: names(spec.near),
            fast_io: spec.fast_io,
        }
    }
}

impl From<&Failure> for Fault {
    fn from(failure: &Failure) -> Fault {
        Fault {
            kind: text(&failure.kind),
            message: text(&failure.message),
            detail: text(&failure.detail),
            retryable: failure.retryable,
        }
    }
}

impl From<Fault> for Failure {
    fn from(error: Fault) -> Failure {
        Failure {
            kind: name(error.kind),
            message: name(error.message),
            detail: name(error.detail),
            retryable: error.retryable,
        }
    }
}

impl From<&engine::Ending> for Ending {
    fn from(ending: &engine::Ending) -> Ending {
        let file = |artifact: &Artifact| File {
            name: text(&artifact.name),
            hash: Bytes::copy_from_slice(&artifact.hash),
            size: artifact.size,
            content_type: text(&artifact.content_type),
        };
        Ending {
            failure: ending.failure.as_ref().map(Fault::from),
            artifacts: ending.artifacts.iter().map(file).collect(),
        }
    }
}

impl TryFrom<Ending> for engine::Ending {
    type Error = Error;

    fn try_from(ending: Ending) -> Decoded<engine::Ending> {
        let artifact = |file: File| {
            let hash = file.hash.as_ref().try_into();
            Ok(Artifact {
                name: name(file.name),
                hash: hash.map_err(|_| damaged("an artefact", "its hash is not 32 bytes"))?,
                size: file.size,
                content_type: name(file.content_type),
            })
        };
        Ok(engine::Ending {
            result: Payload::None,
            failure: ending.failure.map(Failure::from),
            artifacts: ending.artifacts.into_iter().map(artifact).collect::<Decoded<_>>()?,
        })
    }
}

impl From<&engine_config::QueueConfig> for QueueConfig {
    fn from(config: &engine_config::QueueConfig) -> QueueConfig {
        QueueConfig {
            concurrency: config.concurrency,
            key_concurrency: config.key_concurrency,
            rate: pace(config.rate),
            policy: match config.policy {
                Policy::LeastLoaded => 0,
                Policy::RoundRobin => 1,
                Policy::Weighted => 2,
                Policy::ConsistentHash => 3,
            },
            retry: Some(Retry::from(&config.retry)),
            timeouts: limits(&config.timeouts),
            ttl_ms: config.ttl_ms,
            batch_size: config.batch_size,
            batch_wait_ms: config.batch_wait_ms,
            max_depth: config.max_depth,
            dead_letter: config.dead_letter,
            aging_ms: config.aging_ms,
            alert_depth: (config.alert_depth != engine_config::DEFAULT_ALERT_DEPTH).then_some(config.alert_depth),
            throttle_depth: config.throttle_depth,
            affinity_wait_ms: (config.affinity_wait_ms != AFFINITY_WAIT_MS).then_some(config.affinity_wait_ms),
        }
    }
}

impl TryFrom<QueueConfig> for engine_config::QueueConfig {
    type Error = Error;

    fn try_from(config: QueueConfig) -> Decoded<engine_config::QueueConfig> {
        let policy = match config.policy {
            0 => Policy::LeastLoaded,
            1 => Policy::RoundRobin,
            2 => Policy::Weighted,
            3 => Policy::ConsistentHash,
            _ => return Err(damaged("a queue's settings", "they name an unknown policy")),
        };
        Ok(engine_config::QueueConfig {
            concurrency: config.concurrency,
            key_concurrency: config.key_concurrency,
            rate: rate(config.rate),
            policy,
            retry: config.retry.map(RetryPolicy::from).unwrap_or_default(),
            timeouts: unlimit(config.timeouts),
            ttl_ms: config.ttl_ms,
            batch_size: config.batch_size,
            batch_wait_ms: config.batch_wait_ms,
            max_depth: config.max_depth,
            dead_letter: config.dead_letter,
            aging_ms: config.aging_ms,
            alert_depth: config.alert_depth.unwrap_or(engine_config::DEFAULT_ALERT_DEPTH),
            throttle_depth: config.throttle_depth,
            affinity_wait_ms: config.affinity_wait_ms.unwrap_or(AFFINITY_WAIT_MS),
        })
    }
}

impl From<&engine_config::TenantConfig> for TenantConfig {
    fn from(config: &engine_config::TenantConfig) -> TenantConfig {
        TenantConfig {
            weight: config.weight,
            concurrency: config.concurrency,
            rate: pace(config.rate),
            max_queued: config.max_queued,
        }
    }
}

impl From<TenantConfig> for engine_config::TenantConfig {
    fn from(config: TenantConfig) -> engine_config::TenantConfig {
        engine_config::TenantConfig {
            weight: config.weight,
            concurrency: config.concurrency,
            rate: rate(config.rate),
            max_queued: config.max_queued,
        }
    }
}

impl From<&AttemptRecord> for Attempt {
    fn from(record: &AttemptRecord) -> Attempt {
        Attempt {
            epoch: record.token.epoch,
            grant: record.token.grant,
            worker: record.worker.0,
            granted: record.granted,
            ended: record.ended,
            outcome: record.outcome as u32,
            failure: record.failure.as_ref().map(Fault::from),
        }
    }
}

impl Attempt {
    pub(super) fn into_record(self, tenant: TenantId, task: TaskId, number: u32) -> Decoded<AttemptRecord> {
        let outcome = u8::try_from(self.outcome).ok().and_then(AttemptOutcome::from_number);
        Ok(AttemptRecord {
            tenant,
            task,
            number,
            token: Token { epoch: self.epoch, grant: self.grant },
            worker: WorkerId(self.worker),
            granted: self.granted,
            ended: self.ended,
            outcome: outcome.ok_or_else(|| damaged("an attempt", "its outcome is unknown"))?,
            failure: self.failure.map(Failure::from),
        })
    }
}
