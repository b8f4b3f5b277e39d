//! Settings of queues and tenants between their wire form and the engine's.

use tidewheel_engine::config::{Backoff, Policy, QueueConfig, Rate, RetryPolicy, TenantConfig};
use tidewheel_proto::rest;
use tidewheel_proto::rest::DurationText;

use super::spec;
use crate::problem::Failure;
use crate::units::{duration_ms, duration_text, parse_rate, rate_text};

/// Tasks per handler call, at most: a batch is one message to a worker.
const MAX_BATCH: u32 = 10_000;

/// Puts given settings over what is there.
pub(crate) fn apply(config: &mut QueueConfig, given: &rest::QueueSettings, pointer: &str) -> Result<(), Failure> {
    let at = |name: &str| format!("{pointer}/{name}");
    if let Some(value) = given.concurrency {
        config.concurrency = value;
    }
    if let Some(value) = given.key_concurrency {
        config.key_concurrency = value;
    }
    config.rate = rate(config.rate, given.rate.as_deref(), given.burst, &at("rate"))?;
    if let Some(name) = &given.policy {
        config.policy = policy(name).ok_or_else(|| {
            Failure::field(at("policy"), "a policy is least_loaded, round_robin, weighted or consistent_hash")
        })?;
    }
    if let Some(retry) = &given.retry {
        config.retry = spec::retry_policy(retry, config.retry.clone(), &at("retry"))?;
    }
    if let Some(timeout) = &given.timeout {
        spec::timeouts(&mut config.timeouts, timeout, &at("timeout"))?;
    }
    for (slot, value, name) in [
        (&mut config.ttl_ms, &given.ttl, "ttl"),
        (&mut config.batch_wait_ms, &given.batch_wait, "batch_wait"),
        (&mut config.aging_ms, &given.aging, "aging"),
        (&mut config.affinity_wait_ms, &given.affinity_wait, "affinity_wait"),
    ] {
        if let Some(value) = value {
            *slot = duration_ms(value).map_err(|detail| Failure::field(at(name), detail))?;
        }
    }
    if let Some(value) = given.batch_size {
        if value > MAX_BATCH {
            return Err(Failure::field(at("batch_size"), format!("a batch has at most {MAX_BATCH} tasks")));
        }
        config.batch_size = value;
    }
    if let Some(value) = given.max_depth {
        config.max_depth = value;
    }
    if let Some(value) = given.throttle_depth {
        config.throttle_depth = value;
    }
    if let Some(value) = given.alert_depth {
        config.alert_depth = value;
    }
    if let Some(value) = given.dead_letter {
        config.dead_letter = value;
    }
    Ok(())
}

/// A rate and its burst are two fields of one setting: each may be given alone.
fn rate(old: Option<Rate>, text: Option<&str>, burst: Option<u32>, pointer: &str) -> Result<Option<Rate>, Failure> {
    let burst = burst.or(old.map(|r| r.burst)).unwrap_or(1);
    match text {
        Some(text) => parse_rate(text, burst).map_err(|detail| Failure::field(pointer, detail)),
        None => Ok(old.map(|r| Rate { burst: burst.max(1), ..r })),
    }
}

fn policy(name: &str) -> Option<Policy> {
    Some(match name {
        "least_loaded" => Policy::LeastLoaded,
        "round_robin" => Policy::RoundRobin,
        "weighted" => Policy::Weighted,
        "consistent_hash" => Policy::ConsistentHash,
        _ => return None,
    })
}

fn policy_text(policy: Policy) -> &'static str {
    match policy {
        Policy::LeastLoaded => "least_loaded",
        Policy::RoundRobin => "round_robin",
        Policy::Weighted => "weighted",
        Policy::ConsistentHash => "consistent_hash",
    }
}

/// Settings in force, complete.
pub(crate) fn shown_settings(config: &QueueConfig) -> rest::QueueSettings {
    rest::QueueSettings {
        concurrency: Some(config.concurrency),
        key_concurrency: Some(config.key_concurrency),
        rate: config.rate.map(rate_text),
        burst: config.rate.map(|r| r.burst),
        policy: Some(policy_text(config.policy).to_owned()),
        retry: Some(shown_retry(&config.retry)),
        timeout: Some(rest::Timeouts {
            queue: duration(config.timeouts.queue_ms),
            start: duration(config.timeouts.start_ms),
            run: duration(config.timeouts.run_ms),
            heartbeat: duration(config.timeouts.heartbeat_ms),
        }),
        ttl: duration(config.ttl_ms),
        batch_size: Some(config.batch_size),
        batch_wait: Some(DurationText::Text(duration_text(config.batch_wait_ms))),
        max_depth: Some(config.max_depth),
        throttle_depth: Some(config.throttle_depth),
        alert_depth: Some(config.alert_depth),
        dead_letter: Some(config.dead_letter),
        aging: Some(DurationText::Text(duration_text(config.aging_ms))),
        affinity_wait: Some(DurationText::Text(duration_text(config.affinity_wait_ms))),
    }
}

/// Zero stands for "none" and is left out.
pub(crate) fn duration(ms: u64) -> Option<DurationText> {
    (ms > 0).then(|| DurationText::Text(duration_text(ms)))
}

pub(crate) fn shown_retry(retry: &RetryPolicy) -> rest::Retry {
    let (backoff, factor) = match retry.backoff {
        Backoff::Constant => ("constant", None),
        Backoff::Exponential { factor } => ("exponential", Some(factor)),
    };
    rest::Retry {
        max_attempts: Some(retry.max_attempts),
        delay: Some(DurationText::Text(duration_text(retry.delay_ms))),
        backoff: Some(backoff.to_owned()),
        factor,
        max_delay: Some(DurationText::Text(duration_text(retry.max_delay_ms))),
        jitter: Some(DurationText::Text(duration_text(retry.jitter_ms))),
        on: retry.on.iter().map(|n| n.to_string()).collect(),
        not_on: retry.not_on.iter().map(|n| n.to_string()).collect(),
    }
}

/// The same for a tenant.
pub(crate) fn apply_tenant(config: &mut TenantConfig, given: &rest::PutTenant) -> Result<(), Failure> {
    if let Some(weight) = given.weight {
        if !(1..=10_000).contains(&weight) {
            return Err(Failure::field("/weight", "a weight is 1 to 10,000"));
        }
        config.weight = weight;
    }
    if let Some(concurrency) = given.concurrency {
        config.concurrency = concurrency;
    }
    if let Some(max_queued) = given.max_queued {
        config.max_queued = max_queued;
    }
    config.rate = rate(config.rate, given.rate.as_deref(), None, "/rate")?;
    Ok(())
}

pub(crate) fn shown_tenant(config: &TenantConfig) -> rest::PutTenant {
    rest::PutTenant {
        weight: Some(config.weight),
        concurrency: Some(config.concurrency),
        rate: config.rate.map(rate_text),
        max_queued: Some(config.max_queued),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_settings_read_back_to_the_same_queue() {
        let given = rest::QueueSettings {
            concurrency: Some(4),
            rate: Some("100/s".to_owned()),
            burst: Some(7),
            policy: Some("weighted".to_owned()),
            retry: Some(rest::Retry {
                max_attempts: Some(9),
                delay: Some(DurationText::Text("250ms".to_owned())),
                backoff: Some("constant".to_owned()),
                not_on: vec!["ValueError".to_owned()],
                ..rest::Retry::default()
            }),
            ttl: Some(DurationText::Millis(90_000)),
            dead_letter: Some(false),
            ..rest::QueueSettings::default()
        };
        let mut first = QueueConfig::default();
        apply(&mut first, &given, "").unwrap();
        let mut second = QueueConfig::default();
        apply(&mut second, &shown_settings(&first), "").unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn wrong_settings_are_named() {
        let mut config = QueueConfig::default();
        let given = rest::QueueSettings { policy: Some("random".to_owned()), ..rest::QueueSettings::default() };
        let failure = apply(&mut config, &given, "").unwrap_err();
        assert_eq!(failure.0.errors[0].pointer, "/policy");
        let given = rest::QueueSettings { rate: Some("fast".to_owned()), ..rest::QueueSettings::default() };
        assert_eq!(apply(&mut config, &given, "").unwrap_err().0.errors[0].pointer, "/rate");
    }
}
