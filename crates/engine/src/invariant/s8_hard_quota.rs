//! S8: limits hold at every commit.

use std::collections::BTreeMap;

use super::{Invariant, Step, Violation};
use crate::config::Rate;
use crate::id::{QueueId, TenantId};
use crate::mutation::RateKey;
use crate::ready::gcra;
use crate::task::Task;

/// A rate is checked to the millisecond of the engine's clock.
const SLACK_US: u64 = 1_000;

#[derive(Default)]
pub(super) struct HardQuota {
    rates: BTreeMap<RateKey, (Rate, u64)>,
}

impl Invariant for HardQuota {
    fn id(&self) -> &'static str {
        "S8"
    }

    fn statement(&self) -> &'static str {
        "a grant is committed only while running tasks of its queue, tenant and concurrency key are within their limits, \
         and grants come no faster than their rates"
    }

    fn provenance(&self) -> &'static str {
        "Prefect 18933, 7239: permits kept apart from leases drift; a fold of the log cannot"
    }

    fn commit(&mut self, step: &Step<'_>, found: &mut Vec<Violation>) {
        let mut grants: Vec<&Task> = step.changes.iter().filter(|c| c.is_grant()).map(|c| &*c.after).collect();
        grants.sort_by_key(|task| (task.granted, task.token));
        for task in &grants {
            over_limits(step, task, &grants, found);
            self.over_rates(step, task, found);
        }
    }
}

/// The larger of two limits, of which 0 is the largest.
fn larger(limits: impl Iterator<Item = u32>) -> u32 {
    limits.map(|limit| limit.wrapping_sub(1)).max().map_or(0, |limit| limit.wrapping_add(1))
}

fn over_limits(step: &Step<'_>, task: &Task, grants: &[&Task], found: &mut Vec<Violation>) {
    let fold = step.fold;
    let mut check = |what: &str, running: Option<&u32>, limit: u32| {
        let running = running.copied().unwrap_or(0);
        if limit > 0 && running > limit {
            let text = format!("commit {}: {running} run in {what}, its limit is {limit}", step.batch.index);
            found.push(Violation { id: "S8", text });
        }
    };
    let queue = larger(fold.queue_settings(task.queue).map(|q| q.config.concurrency));
    check(&format!("queue {}", task.queue.0), fold.by_queue.get(&task.queue), queue);
    let tenant = larger(fold.tenant_settings(task.tenant).map(|t| t.config.concurrency));
    check(&format!("tenant {}", task.tenant.0), fold.by_tenant.get(&task.tenant), tenant);
    if let Some(key) = &task.spec.concurrency_key {
        // Tasks may bring different limits for one key; which of this commit's grants came last is not told.
        let of_queue = larger(fold.queue_settings(task.queue).map(|q| q.config.key_concurrency));
        let same = grants.iter().filter(|t| t.queue == task.queue && t.spec.concurrency_key.as_ref() == Some(key));
        let limit =
            larger(same.map(|t| if t.spec.concurrency_limit > 0 { t.spec.concurrency_limit } else { of_queue }));
        check(&format!("key {key}"), fold.by_key.get(&(task.queue, key.clone())), limit);
    }
}

impl HardQuota {
    fn over_rates(&mut self, step: &Step<'_>, task: &Task, found: &mut Vec<Violation>) {
        let queue: Vec<Option<Rate>> = step.fold.queue_settings(task.queue).map(|q| q.config.rate).collect();
        let tenant: Vec<Option<Rate>> = step.fold.tenant_settings(task.tenant).map(|t| t.config.rate).collect();
        self.over_rate(RateKey::Queue(task.queue), &queue, task.granted, found);
        self.over_rate(RateKey::Tenant(task.tenant), &tenant, task.granted, found);
    }

    fn over_rate(&mut self, key: RateKey, rates: &[Option<Rate>], granted: u64, found: &mut Vec<Violation>) {
        let [Some(rate)] = rates else {
            // No rate, or one that changed in this very commit: the next grant starts anew.
            self.rates.remove(&key);
            return;
        };
        let (known, tat) = self.rates.get(&key).copied().unwrap_or((*rate, 0));
        let tat = if known == *rate { tat } else { 0 };
        let now = granted * 1_000;
        let tat = match gcra(tat, now + SLACK_US, *rate) {
            Ok(_) => tat.max(now) + rate.interval_us,
            Err(wait) => {
                let text = format!("{} got a grant {wait} us before its rate allows it", name(key));
                found.push(Violation { id: "S8", text });
                tat + rate.interval_us
            }
        };
        self.rates.insert(key, (*rate, tat));
    }
}

fn name(key: RateKey) -> String {
    match key {
        RateKey::Queue(QueueId(id)) => format!("queue {id}"),
        RateKey::Tenant(TenantId(id)) => format!("tenant {id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_the_largest_limit() {
        assert_eq!(larger([3, 5].into_iter()), 5);
        assert_eq!(larger([3, 0].into_iter()), 0);
        assert_eq!(larger(std::iter::empty()), 0);
    }
}
