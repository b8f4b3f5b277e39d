//! What a log says, folded: the tasks, settings and permits in use after each commit. Kept apart from the store's own
//! fold on purpose, so that the two can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::{Queue, Tenant};
use crate::id::{Name, QueueId, TaskId, TenantId, WorkerId};
use crate::mutation::{AttemptRecord, Batch, Mutation, NameKind, RateKey};
use crate::task::{State, Task};

/// One task before and after a commit.
#[derive(Clone, Debug)]
pub struct Change {
    /// `None` = it is new.
    pub before: Option<Arc<Task>>,
    /// As committed.
    pub after: Arc<Task>,
}

impl Change {
    /// The state before, if there was one.
    pub fn was(&self) -> Option<State> {
        self.before.as_ref().map(|task| task.state)
    }

    /// Whether this commit granted the task.
    pub fn is_grant(&self) -> bool {
        self.after.state == State::Running
            && self.before.as_ref().is_none_or(|b| b.state != State::Running || b.token != self.after.token)
    }

    /// Whether a person's retry took it out of a terminal state.
    pub fn is_retry(&self) -> bool {
        self.was().is_some_and(State::is_terminal) && !self.after.state.is_terminal()
    }

    /// Whether it ended and a person's retry opened it again in this one commit, so that no state in between shows: the
    /// attempts of its policy begin anew behind those that it had.
    pub fn was_retried_between(&self) -> bool {
        let base = self.after.attempt_base;
        self.before.as_ref().is_some_and(|before| base > before.attempt_base && base >= before.attempt)
    }
}

/// What an invariant looks at.
#[derive(Debug)]
pub struct Step<'a> {
    /// The commit.
    pub batch: &'a Batch,
    /// The log with this commit.
    pub fold: &'a Fold,
    /// Tasks it changed.
    pub changes: Vec<Change>,
}

impl Step<'_> {
    /// Attempts that ended in it.
    pub fn attempts(&self) -> impl Iterator<Item = &AttemptRecord> {
        self.batch.mutations.iter().filter_map(|m| match m {
            Mutation::PutAttempt(record) => Some(&**record),
            _ => None,
        })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Fold {
    /// Commits folded.
    pub commits: u64,
    /// Every task.
    pub tasks: BTreeMap<TaskId, Arc<Task>>,
    /// Queued tasks.
    pub queued: BTreeSet<TaskId>,
    /// Running tasks.
    pub running: BTreeSet<TaskId>,
    /// Stored deadlines of waiting tasks.
    pub due: BTreeSet<(u64, TaskId)>,
    /// Tasks that have not ended.
    pub live: u64,
    /// Queues with the settings in force.
    pub queues: BTreeMap<QueueId, Arc<Queue>>,
    /// The same before the last commit that changed them; both hold within that commit.
    pub queues_before: BTreeMap<QueueId, Arc<Queue>>,
    /// Tenants with the settings in force.
    pub tenants: BTreeMap<TenantId, Arc<Tenant>>,
    /// The same before the last commit that changed them.
    pub tenants_before: BTreeMap<TenantId, Arc<Tenant>>,
    /// Names of workers.
    pub workers: BTreeMap<WorkerId, (TenantId, Name)>,
    /// Rate limiters.
    pub rates: BTreeMap<RateKey, u64>,
    /// Running by queue.
    pub by_queue: BTreeMap<QueueId, u32>,
    /// Running by tenant.
    pub by_tenant: BTreeMap<TenantId, u32>,
    /// Running by concurrency key.
    pub by_key: BTreeMap<(QueueId, Name), u32>,
    /// Tasks by state, counted from the records.
    pub counts: BTreeMap<QueueId, [i64; 9]>,
    /// Tasks by state, summed from the counter rows.
    pub counters: BTreeMap<QueueId, [i64; 9]>,
}

impl Fold {
    pub(super) fn commit(&mut self, batch: &Batch) -> Vec<Change> {
        self.commits += 1;
        self.queues_before.clear();
        self.tenants_before.clear();
        let mut changes = Vec::with_capacity(batch.mutations.len());
        for mutation in &batch.mutations {
            match mutation {
                Mutation::InsertTask(task) | Mutation::UpdateTask(task) => changes.push(self.task((**task).clone())),
                Mutation::PutQueue(queue) => {
                    if let Some(old) = self.queues.insert(queue.id, queue.clone()) {
                        self.queues_before.entry(queue.id).or_insert(old);
                    }
                }
                Mutation::PutTenant(tenant) => {
                    if let Some(old) = self.tenants.insert(tenant.id, tenant.clone()) {
                        self.tenants_before.entry(tenant.id).or_insert(old);
                    }
                }
                Mutation::PutName { kind: NameKind::Worker, tenant, id, name } => {
                    self.workers.insert(WorkerId(*id), (*tenant, name.clone()));
                }
                Mutation::PutRate { key, tat_us } => drop(self.rates.insert(*key, *tat_us)),
                Mutation::AddCounts { queue, deltas } => {
                    let counts = self.counters.entry(*queue).or_default();
                    counts.iter_mut().zip(deltas).for_each(|(count, delta)| *count += delta);
                }
                _ => {}
            }
        }
        changes
    }

    fn task(&mut self, mut task: Task) -> Change {
        let before = self.tasks.get(&task.id).cloned();
        if let Some(before) = &before {
            // The store keeps what never changes; a record that went through memory may lack it.
            task.input = before.input.clone();
            self.count(before, -1);
        }
        let after = Arc::new(task);
        self.count(&after, 1);
        self.tasks.insert(after.id, after.clone());
        Change { before, after }
    }

    fn count(&mut self, task: &Task, by: i32) {
        self.counts.entry(task.queue).or_default()[task.state as usize] += i64::from(by);
        let set = |set: &mut BTreeSet<TaskId>| {
            if by > 0 {
                set.insert(task.id)
            } else {
                set.remove(&task.id)
            };
        };
        self.live = self.live.saturating_add_signed(if task.state.is_terminal() { 0 } else { i64::from(by) });
        match task.state {
            State::Queued => set(&mut self.queued),
            State::Running => set(&mut self.running),
            _ => {}
        }
        if matches!(task.state, State::Queued | State::Scheduled) && task.due > 0 {
            if by > 0 {
                self.due.insert((task.due, task.id))
            } else {
                self.due.remove(&(task.due, task.id))
            };
        }
        if task.state == State::Running {
            add(&mut self.by_queue, task.queue, by);
            add(&mut self.by_tenant, task.tenant, by);
            if let Some(key) = &task.spec.concurrency_key {
                add(&mut self.by_key, (task.queue, key.clone()), by);
            }
        }
    }

    /// The settings of a queue before and after the last commit; both may have been obeyed within it.
    pub fn queue_settings(&self, id: QueueId) -> impl Iterator<Item = &Queue> {
        self.queues.get(&id).into_iter().chain(self.queues_before.get(&id)).map(|q| &**q)
    }

    /// The settings of a tenant before and after the last commit.
    pub fn tenant_settings(&self, id: TenantId) -> impl Iterator<Item = &Tenant> {
        self.tenants.get(&id).into_iter().chain(self.tenants_before.get(&id)).map(|t| &**t)
    }
}

fn add<K: Ord>(map: &mut BTreeMap<K, u32>, key: K, by: i32) {
    let count = map.entry(key).or_default();
    *count = count.saturating_add_signed(by);
}
