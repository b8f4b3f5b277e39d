//! Recovery: what a new owner takes over from the store before its first command.

use std::sync::Arc;

use super::{Entry, MonoTimer, Partition, Run};
use crate::id::{QueueId, TypeId, WorkerId};
use crate::mutation::{NameKind, RateKey, Recovered};
use crate::task::{State, Task};
use crate::time::Now;

impl Partition {
    pub(super) fn recover(&mut self, recovered: Recovered, now: Now) {
        for tenant in recovered.tenants {
            self.next_tenant = self.next_tenant.max(tenant.id.0 + 1);
            self.adopt_tenant(Arc::new(tenant));
        }
        for queue in recovered.queues {
            self.next_queue = self.next_queue.max(queue.id.0 + 1);
            self.adopt_queue(Arc::new(queue));
        }
        // Before the types: these know which of them a package brings.
        for record in recovered.records {
            if record.kind == crate::mutation::RecordKind::Workflow {
                self.adopt_workflow(record.tenant, &record.key, Some(&record.value));
            }
            self.records.insert((record.kind, record.tenant, record.key.clone()), Arc::new(record));
        }
        for (kind, tenant, id, name) in recovered.names {
            match kind {
                NameKind::Type => {
                    self.next_type = self.next_type.max(id + 1);
                    self.adopt_type(tenant, TypeId(id), name);
                }
                NameKind::Worker => {
                    self.next_worker = self.next_worker.max(id + 1);
                    self.adopt_worker(tenant, WorkerId(id), name);
                }
            }
        }
        for (queue, counts) in recovered.counts {
            self.adopt_counts(queue, counts);
        }
        for (key, tat_us) in recovered.rates {
            match key {
                RateKey::Queue(id) => drop(self.queues.get_mut(&id).map(|q| q.tat_us = tat_us)),
                RateKey::Tenant(id) => drop(self.tenants.get_mut(&id).map(|t| t.tat_us = tat_us)),
            }
        }
        // A table that grows to a million entries step by step copies and touches twice its memory.
        self.tasks.reserve(recovered.running.len());
        self.orphans.reserve(recovered.running.len());
        for task in recovered.running {
            self.adopt_running(task, now);
        }
        let wanted = |(tenant, run)| super::runs::Wanted { tenant, run, stored: None };
        self.runs.wanted.extend(recovered.waiting_runs.into_iter().map(wanted));
        self.read_wanted();
        if !self.orphans.is_empty() {
            self.mono_wheel.insert(now.mono + self.options.lease_ms, MonoTimer::Orphans);
        }
    }

    fn adopt_counts(&mut self, queue: QueueId, counts: [i64; 9]) {
        // Rows of different batches may be summed in any order, but the sum of what was committed is never below zero.
        let counts = counts.map(|n| u64::try_from(n).unwrap_or(0));
        let Some(q) = self.queues.get_mut(&queue) else { return };
        q.counts = counts;
        let waiting = counts[State::Queued as usize] + counts[State::Scheduled as usize];
        if waiting > 0 {
            q.lines.iter_mut().for_each(|line| line.unloaded = true);
        }
        self.queued += counts[State::Queued as usize];
        self.live += waiting + counts[State::Running as usize] + counts[State::Waiting as usize];
        if let Some(tenant) = self.tenants.get_mut(&q.queue.tenant) {
            tenant.queued += waiting;
        }
    }

    fn adopt_running(&mut self, task: Task, now: Now) {
        let id = task.id;
        self.take_permits(&task);
        if task.spec.ordering_key.is_some()
            && let Some(lane) = self.lane_of(&task)
        {
            self.holders.insert((task.queue, lane), (id, task.seq));
        }
        self.running += 1;
        // A taken item has no session that could claim it: its lease goes on, in full.
        if task.lease_ms() == 0 || self.options.planted.has(crate::planted::Bug::LeaseForgottenByReload) {
            self.orphans.push(id);
        }
        let batch = self.committed;
        self.tasks
            .insert(id, Entry { task, batch, dirty: false, new: false, in_window: false, warm: false, run: None });
        // Whether it has begun is not known here, so its limits count from now.
        let timers = self.attempt_timers(id, true, now);
        self.entry(id).run = Some(Box::new(Run { timers, started: true, ..Run::default() }));
    }
}
