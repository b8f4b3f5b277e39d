//! L7 and L8, folded from the committed log of the measured scenarios.

use std::collections::BTreeMap;

use tidewheel_engine::id::TenantId;
use tidewheel_engine::invariant::Fold;
use tidewheel_engine::task::Task;

use crate::plan::{Plan, SECOND, Scenario};

/// Shares are measured over windows of this length.
const WINDOW: u64 = 60 * SECOND;
/// Of its fair share a tenant gets so much at least.
const SHARE: f64 = 0.8;

#[derive(Debug, Default)]
pub(super) struct Fairness {
    /// Grants in order: time, tenant, priority, wait in milliseconds.
    grants: Vec<(u64, TenantId, u8, u64)>,
}

impl Fairness {
    pub(super) fn granted(&mut self, task: &Task, now: u64) {
        self.grants.push((now, task.tenant, task.priority, task.granted.saturating_sub(task.created)));
    }

    pub(super) fn end(&self, plan: &Plan, fold: &Fold) -> Vec<(&'static str, String)> {
        match plan.scenario {
            Scenario::Fairness => self.shares(plan).into_iter().map(|text| ("L7", text)).collect(),
            Scenario::Aging => self.waits(plan, fold).into_iter().map(|text| ("L8", text)).collect(),
            Scenario::Swarm => Vec::new(),
        }
    }

    fn shares(&self, plan: &Plan) -> Vec<String> {
        let weights: u64 = plan.tenants.iter().map(|t| u64::from(t.config.weight)).sum();
        let mut found = Vec::new();
        let mut from = 5 * SECOND;
        while from + WINDOW <= plan.length {
            let window = self.grants.iter().filter(|g| (from..from + WINDOW).contains(&g.0));
            let mut got: BTreeMap<TenantId, u64> = BTreeMap::new();
            window.for_each(|g| *got.entry(g.1).or_default() += 1);
            let all: u64 = got.values().sum();
            if all < 100 {
                found.push(format!("only {all} grants in a minute, with a backlog and free workers"));
            }
            for (number, tenant) in plan.tenants.iter().enumerate() {
                let fair = all as f64 * f64::from(tenant.config.weight) / weights as f64;
                let share = got.get(&TenantId(number as u32 + 1)).copied().unwrap_or(0) as f64;
                if share < SHARE * fair {
                    found.push(format!("tenant {} got {share} of {all} grants in a minute; its share is {fair:.0}", number + 1));
                }
            }
            from += 10 * SECOND;
        }
        found
    }

    /// A low task is raised by two classes after twice the aging time, and is then the oldest of its class: it waits no
    /// longer than that and a few run times.
    fn waits(&self, plan: &Plan, fold: &Fold) -> Vec<String> {
        let aging = plan.tenants[0].queues[0].aging_ms;
        let bound = 2 * aging + 6_000;
        let low = self.grants.iter().filter(|g| g.2 < 4);
        let mut found: Vec<String> =
            low.filter(|g| g.3 > bound).map(|g| format!("a task of priority {} waited {} ms", g.2, g.3)).collect();
        let waiting = fold.queued.iter().map(|id| &fold.tasks[id]).filter(|t| t.priority < 4).count();
        if waiting > 0 && plan.length / 1_000 > bound {
            found.push(format!("{waiting} tasks of low priority still wait after {} s", plan.length / SECOND));
        }
        found
    }
}
