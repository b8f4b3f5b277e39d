//! Checkers: facts across the log, what clients were told and what workers saw. Facts inside one log are the engine's
//! own [`Watch`], which runs on every commit. Any violation fails the seed.

mod accept;
mod cancel;
mod dispatch;
mod fairness;
mod lease;
mod lost_worker;
mod memory;
mod overload;
mod owner;
mod run_end;
mod run_journal;
mod run_live;
mod run_order;
mod run_program;
mod run_saga;
mod run_timers;
pub(crate) mod run_twins;
pub(crate) mod run_version;
pub(crate) mod runs;
mod seen;
mod stale;
mod visible;

use std::collections::BTreeMap;

use tidewheel_engine::effect::{Grant, Submitted};
use tidewheel_engine::id::{Name, QueueId, RunId, TaskId, TenantId, Token};
use tidewheel_engine::invariant::{Fold, Violation, Watch};
use tidewheel_engine::partition::Audit;
use tidewheel_engine::planted::Planted;
use tidewheel_engine::run::head::Head;
use tidewheel_engine::task::{State, Task};
use tidewheel_engine::{Batch, Mutation, Reply};
use tidewheel_store::memory as store;

use crate::plan::{Plan, Scenario};
use crate::world::Item;

/// A task in the world: ids are unique within a partition.
pub(crate) type At = (usize, TaskId);

/// All checkers of a run.
pub(crate) struct Checkers {
    pub(crate) violations: Vec<Violation>,
    watches: Vec<Watch>,
    /// Tasks of an ordering key that have not ended.
    ordered: Vec<BTreeMap<(QueueId, Name), BTreeMap<u64, TaskId>>>,
    /// Failed, dead, cancelled and expired tasks.
    failed: Vec<Vec<TaskId>>,
    pub(crate) accept: accept::Accept,
    pub(crate) overload: overload::Overload,
    pub(crate) stale: stale::Stale,
    pub(crate) sights: seen::Sights,
    pub(crate) lost_worker: lost_worker::LostWorker,
    pub(crate) dispatch: dispatch::Dispatch,
    pub(crate) lease: lease::Lease,
    visible: visible::Visible,
    owner: owner::Owner,
    cancel: cancel::Cancel,
    fairness: fairness::Fairness,
    measured: bool,
    starts: run_end::Starts,
    pub(crate) runs: runs::Runs,
}

impl Checkers {
    pub(crate) fn new(plan: &Plan, planted: Planted) -> Checkers {
        let partitions = plan.partitions as usize;
        Checkers {
            violations: Vec::new(),
            watches: (0..partitions).map(|_| Watch::default()).collect(),
            ordered: vec![BTreeMap::new(); partitions],
            failed: vec![Vec::new(); partitions],
            accept: accept::Accept::default(),
            overload: overload::Overload::default(),
            stale: stale::Stale::default(),
            sights: seen::Sights::default(),
            lost_worker: lost_worker::LostWorker::default(),
            dispatch: dispatch::Dispatch::new(partitions),
            lease: lease::Lease::default(),
            visible: visible::Visible::default(),
            owner: owner::Owner::new(partitions),
            cancel: cancel::Cancel::default(),
            fairness: fairness::Fairness::default(),
            measured: plan.scenario != Scenario::Swarm,
            starts: run_end::Starts::default(),
            runs: runs::Runs::new(plan, planted),
        }
    }

    pub(crate) fn fail(&mut self, id: &'static str, text: String) {
        self.violations.push(Violation { id, text });
    }

    fn add(&mut self, id: &'static str, texts: impl IntoIterator<Item = String>) {
        texts.into_iter().for_each(|text| self.violations.push(Violation { id, text }));
    }

    pub(crate) fn add_all(&mut self, found: runs::Found) {
        found.into_iter().for_each(|(id, text)| self.fail(id, text));
    }

    /// Whether it is a task that somebody submitted.
    fn is_no_step(&self, partition: usize, task: &Task) -> bool {
        let stored = self.watches[partition].fold().tasks.get(&task.id);
        task.step.is_none() && stored.is_none_or(|stored| stored.step.is_none())
    }

    /// A client is told of a run.
    pub(crate) fn run_read(&mut self, partition: usize, reply: &Reply) {
        let Reply::Run(head) = reply else { return };
        let run = head.identity.run;
        let found = run_journal::read(run, self.runs.parts[partition].get(&run), head);
        self.add_all(found);
    }

    /// A start was acknowledged.
    pub(crate) fn run_started(
        &mut self,
        partition: usize,
        tenant: TenantId,
        run: RunId,
        claim: Option<([u8; 16], u64)>,
    ) {
        let found = self.starts.told(partition, tenant, run, claim);
        self.add_all(found);
    }

    /// A start was refused for its claim.
    pub(crate) fn run_start_refused(
        &mut self,
        partition: usize,
        tenant: TenantId,
        run: RunId,
        claim: Option<([u8; 16], u64)>,
    ) {
        let found = self.starts.refused(partition, tenant, run, claim);
        self.add_all(found);
    }

    /// A move was acknowledged.
    pub(crate) fn run_moved(&mut self, partition: usize, run: RunId, by: &Name, told: &Head) {
        let log = self.runs.parts[partition].get(&run);
        let found = log.and_then(|log| run_version::told(log, by, told, &self.runs.asks));
        self.add_all(found.into_iter().collect());
    }

    /// A move was refused.
    pub(crate) fn run_move_refused(&mut self, partition: usize, run: RunId, by: &Name, why: &str) {
        let runs::Runs { parts, asks, definitions, .. } = &mut self.runs;
        let Some(log) = parts[partition].get(&run) else { return };
        let found = run_version::refused(log, by, why, asks, definitions);
        self.add_all(found);
    }

    /// A cancel was acknowledged.
    pub(crate) fn run_cancelled(&mut self, partition: usize, run: RunId, now: u64) {
        if self.runs.is_program(partition, run) {
            // It is told, and ends in its own time.
            return;
        }
        let log = self.runs.parts[partition].get_mut(&run);
        if let Some(log) = log.filter(|log| !log.head.phase.ended() && log.head.closing.is_none()) {
            log.cancelled = Some(now);
        }
    }

    /// Looks whether runs go on. `allowed` = how long a cancelled task may take to end, and how long a run may be held by what is
    /// computed for it.
    pub(crate) fn look_at_runs(&mut self, partition: usize, wall: u64, now: u64, allowed: (u64, u64)) {
        let fold = self.watches[partition].fold();
        let found = run_live::look(&mut self.runs, partition, fold, (wall, now), allowed);
        self.add_all(found);
    }

    /// Nothing can be said about runs now.
    pub(crate) fn runs_unwell(&mut self, partition: usize, now: u64) {
        run_live::unwell(&mut self.runs, partition, now);
    }

    fn end_runs(&mut self, partition: usize, state: &store::State) {
        let mut found = runs::Found::new();
        for (run, log) in &self.runs.parts[partition] {
            found.extend(run_live::left(*run, log));
            found.extend(run_journal::stored(*run, log, state));
            found.extend(run_end::result(partition, *run, log, &self.runs));
            found.extend(run_program::end(partition, *run, log, &self.runs));
            found.extend(run_saga::end(*run, log));
            found.extend(run_version::end(*run, log, &self.runs.definitions));
        }
        if partition == 0 {
            found.extend(self.starts.end(&self.runs));
            let (compared, differing) = run_twins::end(&self.runs);
            self.runs.twins.compared = compared;
            found.extend(differing);
        }
        self.add_all(found);
    }

    /// A new owner opened a partition.
    pub(crate) fn opened(&mut self, partition: usize, epoch: u32) {
        let found = self.owner.opened(partition, epoch);
        self.add("S16", found);
    }

    /// A batch is stored.
    pub(crate) fn landed(&mut self, partition: usize, batch: &Batch, now: u64) {
        let found = self.owner.landed(partition, batch);
        self.add("S16", found);
        let mut granted = false;
        for mutation in &batch.mutations {
            if let Mutation::InsertTask(task) | Mutation::UpdateTask(task) = mutation {
                granted |= self.follow(partition, task, now);
            }
        }
        if granted {
            self.dispatch.granted(partition, now);
        }
        let found = self.watches[partition].commit(batch);
        self.violations.extend(found);
        if !self.runs.is_off() {
            let found = self.runs.landed(partition, batch, self.watches[partition].fold(), now);
            self.add_all(found);
        }
    }

    /// A task as it is committed, before the watch folds it. Returns whether it is a grant.
    fn follow(&mut self, partition: usize, task: &Task, now: u64) -> bool {
        let before = self.watches[partition].fold().tasks.get(&task.id).cloned();
        let was = before.as_ref().map(|task| task.state);
        let found = self.cancel.changed((partition, task.id), was, task);
        self.add("S6", found);
        self.sights.changed((partition, task.id), task);
        let found = self.stale.changed(partition, before.as_deref(), task);
        self.add("S4", found);
        let found = self.lease.changed(partition, before.as_deref(), task, now);
        self.add("L5", found);
        self.accept.stored(partition, task, was.is_none());
        let found = self.overload.stored(task, was.is_none());
        self.add("S21", found);
        if let Some(key) = &task.spec.ordering_key {
            let tasks = self.ordered[partition].entry((task.queue, key.clone())).or_default();
            if task.state.is_terminal() {
                tasks.remove(&task.seq)
            } else {
                tasks.insert(task.seq, task.id)
            };
        }
        if task.state.is_terminal() && task.state != State::Succeeded && self.is_no_step(partition, task) {
            self.failed[partition].push(task.id);
        }
        let granted = task.state == State::Running && before.is_none_or(|b| b.token != task.token);
        if granted {
            self.visible.committed(partition, task);
            if self.measured {
                self.fairness.granted(task, now);
            }
        }
        granted
    }

    /// Grants leave the node.
    pub(crate) fn sent(&mut self, partition: usize, grants: &[Grant]) {
        let found = self.visible.sent(partition, grants);
        self.add("S3", found);
    }

    /// A worker got a grant.
    pub(crate) fn worker_saw(&mut self, partition: usize, task: TaskId, token: Token) {
        let found = self.visible.seen(partition, task, token);
        self.add("S3", found);
    }

    /// An answer leaves the node.
    pub(crate) fn replied(&mut self, partition: usize, reply: &Reply) {
        let found = self.accept.replied(partition, reply);
        self.add("S1", found);
    }

    /// A client got the outcome of a submit.
    pub(crate) fn submitted(&mut self, item: &Item, outcome: &Submitted) -> Option<TaskId> {
        let found = self.accept.told(item, outcome);
        found.into_iter().for_each(|(id, text)| self.fail(id, text));
        match outcome {
            Submitted::New(id) | Submitted::Replayed(id) => Some(*id),
            Submitted::Refused(_) => {
                self.overload.refused(item);
                None
            }
        }
    }

    /// A client asks, or asked, for a retry.
    pub(crate) fn retried(&mut self, partition: usize, task: TaskId) {
        self.cancel.retried((partition, task));
    }

    pub(crate) fn fold(&self, partition: usize) -> &Fold {
        self.watches[partition].fold()
    }

    pub(crate) fn wall(&self, partition: usize) -> u64 {
        self.owner.wall(partition)
    }

    /// Tasks that have not ended.
    pub(crate) fn live(&self, partition: usize) -> u64 {
        self.fold(partition).live
    }

    pub(crate) fn oldest_live(&self, partition: usize) -> Option<(TenantId, TaskId)> {
        let fold = self.fold(partition);
        let first = fold.running.first().or(fold.queued.first()).map(|id| &fold.tasks[id]);
        let live = first.or_else(|| fold.tasks.values().find(|task| !task.state.is_terminal()))?;
        Some((live.tenant, live.id))
    }

    /// Tasks due after a wall time.
    pub(crate) fn due_after(&self, partition: usize, wall: u64) -> Vec<(TenantId, TaskId)> {
        let fold = self.fold(partition);
        let late = fold.due.range((wall, TaskId(0))..).map(|(_, id)| &fold.tasks[id]);
        late.filter(|task| task.state == State::Scheduled).map(|task| (task.tenant, task.id)).collect()
    }

    /// The first due time, if every task that has not ended waits for its time or for one of an ordering key that does.
    pub(crate) fn only_due(&self, partition: usize) -> Option<u64> {
        let fold = self.fold(partition);
        if !fold.running.is_empty() {
            return None;
        }
        let free = |id: &TaskId| {
            let task = &fold.tasks[id];
            task.spec.ordering_key.is_none() || self.is_first(partition, task)
        };
        if fold.queued.iter().any(free) {
            return None;
        }
        fold.due.first().map(|(due, _)| *due)
    }

    /// Whether no task of its ordering key is before it.
    pub(crate) fn is_first(&self, partition: usize, task: &Task) -> bool {
        let Some(key) = &task.spec.ordering_key else { return true };
        let Some(tasks) = self.ordered[partition].get(&(task.queue, key.clone())) else { return true };
        let fold = self.fold(partition);
        let others = tasks.values().filter(|id| **id != task.id);
        tasks.first_key_value().is_some_and(|(_, id)| *id == task.id)
            && others.into_iter().all(|id| fold.tasks[id].attempt == 0)
    }

    pub(crate) fn some_failed(&self, partition: usize, draw: u64) -> Option<TaskId> {
        let failed = &self.failed[partition];
        let window = failed.len().min(40);
        (window > 0).then(|| failed[failed.len() - 1 - (draw % window as u64) as usize])
    }

    pub(crate) fn tenant_of(&self, partition: usize, task: TaskId) -> Option<TenantId> {
        self.fold(partition).tasks.get(&task).map(|task| task.tenant)
    }

    pub(crate) fn look_for_lost(
        &mut self,
        partition: usize,
        now: u64,
        opened: u64,
        allowed: u64,
        held: impl Fn(TaskId, Token) -> bool,
    ) -> Vec<String> {
        let fold = self.watches[partition].fold();
        // What was taken under a lease of its own is looked at by it.
        let of_workers = fold.running.iter().filter(|id| fold.tasks[id].lease_ms() == 0);
        let running = of_workers.map(|id| (*id, fold.tasks[id].token));
        self.lost_worker.look(partition, now, opened, allowed, running, held)
    }

    /// Hours go by in which nobody is there.
    pub(crate) fn leap(&mut self) {
        for partition in 0..self.watches.len() {
            self.dispatch.unwell(partition);
        }
    }

    /// The log, what clients were told, and what is stored, held against each other.
    pub(crate) fn end(&mut self, partition: usize, state: &store::State) {
        let found = self.accept.end(partition, self.watches[partition].fold());
        self.add("S1", found);
        let found = memory::end(self.watches[partition].fold(), state);
        self.add("S12", found);
        self.end_runs(partition, state);
    }

    pub(crate) fn end_memory(&mut self, partition: usize, audit: &Audit, records: &[Task]) {
        let found = memory::permits(self.watches[partition].fold(), audit);
        self.add("S8", found);
        let found = memory::records(self.watches[partition].fold(), records);
        self.add("S12", found);
    }

    pub(crate) fn end_measured(&mut self, plan: &Plan) {
        let found = self.fairness.end(plan, self.watches[0].fold());
        found.into_iter().for_each(|(id, text)| self.fail(id, text));
    }
}
