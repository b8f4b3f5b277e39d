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
    /// Grants in order: time, tenant, priority, wall time since which it was ready.
    grants: Vec<(u64, TenantId, u8, u64)>,
}

impl Fairness {
    pub(super) fn granted(&mut self, task: &Task, now: u64) {
        self.grants.push((now, task.tenant, task.priority, task.created.max(task.run_at)));
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
                    found.push(format!(
                        "tenant {} got {share} of {all} grants in a minute; its share is {fair:.0}",
                        number + 1
                    ));
                }
            }
            from += 10 * SECOND;
        }
        found
    }

    /// A low task is raised by two classes after twice the aging time, and then the older goes first: no task that became
    /// ready later than that is granted before it.
    fn waits(&self, plan: &Plan, fold: &Fold) -> Vec<String> {
        let bound = 2 * plan.tenants[0].queues[0].aging_ms + 1_000;
        let mut found = Vec::new();
        let mut newest = 0;
        for (_, _, priority, ready) in &self.grants {
            if *priority < 4 && newest > ready + bound {
                let text = format!(
                    "a task of priority {priority} was passed by one that was ready {} ms later",
                    newest - ready
                );
                found.push(text);
            }
            newest = newest.max(*ready);
        }
        let waiting = fold.queued.iter().map(|id| &fold.tasks[id]).filter(|task| task.priority < 4);
        let passed = waiting.filter(|task| newest > task.created.max(task.run_at) + bound).count();
        if passed > 0 {
            found.push(format!("{passed} tasks of low priority still wait, passed by younger ones"));
        }
        if self.grants.len() < 300 {
            found.push(format!("only {} grants, with a backlog and free workers", self.grants.len()));
        }
        found
    }
}
