//! Overload: a queue that fills up says so in stages. First it tells ([`Pressure::Alert`]), then it takes new tasks at
//! about the rate at which old ones end ([`Pressure::Throttled`]), and at its bound it refuses them ([`Pressure::Full`]).
//! What it has accepted is not touched by any of these.

use super::Partition;
use crate::config::{Pressure, Rate, throttles_from};
use crate::effect::{Effect, Refusal};
use crate::id::{QueueId, TenantId};
use crate::limit;
use crate::ready::{QueueWork, gcra};
use crate::task::State;
use crate::time::Now;

/// A stage is left when a tenth is missing to where it began, so that a queue at its bound does not tell of every task.
const LEAVES_AT: (u64, u64) = (9, 10);

impl Partition {
    /// Why a queue does not take another task now, if it does not. Costs two comparisons below the bounds.
    pub(super) fn overloaded(&mut self, queue: QueueId, now: Now) -> Option<Refusal> {
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let (waiting, most, from) = (q.waiting(), q.queue.config.max_depth, q.queue.config.throttles_from());
        if most > 0 && waiting >= most {
            return Some(Refusal::Overloaded { what: "the queue".into(), retry_after_ms: 1_000 });
        }
        if from == 0 || waiting < from {
            return None;
        }
        let rate = intake(q.ended.1.per_second(now.mono), waiting, from, most);
        throttled(&mut q.intake_us, rate, "the queue", now)
    }

    /// The same for all queues of a tenant together, whose bound is `max_queued`.
    pub(super) fn tenant_overloaded(&mut self, tenant: TenantId, now: Now) -> Option<Refusal> {
        let t = self.tenants.get_mut(&tenant)?;
        let (waiting, most) = (t.queued, t.tenant.config.max_queued);
        if most == 0 || waiting < throttles_from(0, most) {
            return None;
        }
        let what = "the tenant's queued tasks";
        if waiting >= most {
            return Some(Refusal::Overloaded { what: what.into(), retry_after_ms: 1_000 });
        }
        let rate = intake(t.ended.per_second(now.mono), waiting, throttles_from(0, most), most);
        throttled(&mut t.intake_us, rate, what, now)
    }

    /// Tells when a queue has reached another stage. Called once per batch for each queue whose counts changed.
    pub(super) fn tell_pressure(&mut self, queue: QueueId) {
        let Some(q) = self.queues.get_mut(&queue) else { return };
        let (from, to) = (q.pressure, stage(q));
        if from == to {
            return;
        }
        q.pressure = to;
        let (tenant, queue, waiting) = (q.queue.tenant, q.queue.name.clone(), q.waiting());
        self.effects.push(Effect::Pressure { tenant, queue, from, to, waiting });
    }
}

fn throttled(intake_us: &mut u64, rate: Rate, what: &str, now: Now) -> Option<Refusal> {
    match gcra(*intake_us, now.mono * 1_000, rate) {
        Ok(next) => {
            *intake_us = next;
            None
        }
        Err(wait_us) => {
            let retry_after_ms = wait_us.div_ceil(1_000).max(1_000);
            let per_second = u32::try_from(1_000_000 / rate.interval_us.max(1)).unwrap_or(u32::MAX).max(1);
            Some(Refusal::Throttled { what: what.into(), retry_after_ms, per_second })
        }
    }
}

/// The rate at which a throttled queue takes in: twice the rate at which its tasks end where throttling begins, falling
/// to just that rate at its bound (at twice the depth, where it has none).
fn intake(drain_per_s: f64, waiting: u64, from: u64, most: u64) -> Rate {
    let end = if most > from { most } else { from * 2 };
    let way = ((waiting - from) as f64 / (end - from).max(1) as f64).min(1.0);
    let per_s = drain_per_s.max(limit::THROTTLED_LEAST_PER_S) * (2.0 - way);
    Rate { interval_us: ((1_000_000.0 / per_s) as u64).max(1), burst: ((per_s / 10.0) as u32).max(1) }
}

fn stage(q: &QueueWork) -> Pressure {
    let config = &q.queue.config;
    let reached = |stage: Pressure, count: u64, bound: u64| {
        let (part, of) = if q.pressure >= stage { LEAVES_AT } else { (1, 1) };
        // Wide: a bound may be any number, one that means `never` too.
        bound > 0 && u128::from(count) >= (u128::from(bound) * u128::from(part)).div_ceil(u128::from(of))
    };
    if reached(Pressure::Full, q.waiting(), config.max_depth) {
        Pressure::Full
    } else if reached(Pressure::Throttled, q.waiting(), config.throttles_from()) {
        Pressure::Throttled
    } else if config.alert_depth > 0
        && reached(Pressure::Alert, q.counts[State::Queued as usize], config.alert_depth.saturating_add(1))
    {
        Pressure::Alert
    } else {
        Pressure::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_s(rate: Rate) -> f64 {
        1_000_000.0 / rate.interval_us as f64
    }

    #[test]
    fn the_intake_falls_from_twice_the_drain_rate_to_the_drain_rate() {
        assert_eq!(per_s(intake(50.0, 80, 80, 100)).round(), 100.0);
        assert_eq!(per_s(intake(50.0, 90, 80, 100)).round(), 75.0);
        assert_eq!(per_s(intake(50.0, 99, 80, 100)).round(), 53.0);
        assert_eq!(per_s(intake(50.0, 5_000, 1_000, 0)).round(), 50.0, "without a bound, at twice the depth");
        assert_eq!(per_s(intake(0.0, 100, 80, 100)).round(), 1.0, "one that nobody works off still comes to its bound");
    }
}
