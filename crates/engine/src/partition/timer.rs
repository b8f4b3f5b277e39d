//! Timers: what happens when a time has come. A timer is only a hint to look: the record decides.

use super::submit::{deadline, has_expired};
use super::{Partition, Purpose};
use crate::effect::Effect;
use crate::id::{QueueId, SessionId, TaskId, TenantId, Token};
use crate::limit;
use crate::load::{Due, Load};
use crate::mutation::{AttemptOutcome, RunTimer};
use crate::planted::Bug;
use crate::task::{Ending, Failure, Payload, State, Task};
use crate::time::Now;
use std::sync::Arc;

/// Timers on the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WallTimer {
    /// A task is due or expires.
    Task(TenantId, TaskId),
    /// A timer of a run is due.
    Run(RunTimer),
}

/// Timers on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MonoTimer {
    /// A session's lease may have ended.
    Session(SessionId),
    /// Attempts without a session were not claimed.
    Orphans,
    /// A time limit of an attempt.
    Attempt(TaskId, Token, Stage),
    /// A queue's rate allows the next grant.
    QueueRate(QueueId),
    /// A tenant's rate allows the next grant.
    TenantRate(TenantId),
    /// A batch has waited long enough.
    BatchWait(QueueId, i64),
    /// What lies in buffers of workers is looked at.
    Balance,
    /// A caller waits no longer for items of a queue.
    Take(QueueId),
    /// A lane has waited long enough for its key's worker.
    AffinityWait(QueueId, i64),
}

/// Which time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Run = 0,
    Start = 1,
    Heartbeat = 2,
    Cancel = 3,
}

/// What became of timers of tasks.
#[derive(Debug, Default)]
pub(crate) struct Fired {
    /// See [`Partition::take_fired`].
    pub(super) late: Vec<u64>,
    /// Tasks whose time came while they were not in memory.
    misses: Vec<(TenantId, TaskId)>,
    /// See [`crate::view::PartitionFigures::timer_hits`].
    pub(super) hits: [u64; 3],
}

/// The part of the stored due times that the wheel holds, and the read of the next part.
#[derive(Debug, Default)]
pub(crate) struct DueWindow {
    /// Tasks due up to here are in the wheel; later ones are in the store.
    pub(super) horizon: u64,
    /// No task in the store beyond the horizon is due before this.
    pub(super) far: u64,
    /// A page is being read.
    pub(super) loading: bool,
    /// The horizon was moved and what lies before it is being read.
    pub(super) pass: bool,
    /// The pass may read once this batch is committed.
    pub(super) after: u64,
    /// How far it has read.
    pub(super) cursor: (u64, u128, u64),
}

impl Partition {
    /// Fires the due times of tasks. Returns whether more are due than one turn takes.
    pub(super) fn fire_wall(&mut self, now: Now) -> bool {
        let mut due: Vec<(TenantId, TaskId)> = Vec::new();
        let mut runs = Vec::new();
        let early = if self.options.planted.has(Bug::EarlyTimer) { 1_000 } else { 0 };
        let fired = self.wall_wheel.advance(now.wall + early, limit::TIMERS_PER_TURN, &mut |_, timer| match timer {
            WallTimer::Task(tenant, id) => due.push((tenant, id)),
            WallTimer::Run(timer) => runs.push(timer),
        });
        for timer in runs {
            self.fire_run(timer, Now { wall: now.wall + early, ..now });
        }
        for (tenant, id) in due {
            if self.tasks.contains_key(&id) {
                self.fired.hits[0] += 1;
                self.fire_task(id, Now { wall: now.wall + early, ..now });
            } else {
                self.fired.hits[1] += 1;
                self.fired.misses.push((tenant, id));
            }
        }
        if !self.fired.misses.is_empty() {
            let misses = std::mem::take(&mut self.fired.misses);
            self.ask(Load::Tasks(misses), Purpose::Fire);
        }
        fired == limit::TIMERS_PER_TURN
    }

    /// Fires leases, limits of attempts and rates. Returns whether more are due than one turn takes.
    pub(super) fn fire_mono(&mut self, now: Now) -> bool {
        let mut timers: Vec<MonoTimer> = Vec::new();
        let mono = self.mono_wheel.advance(now.mono, limit::TIMERS_PER_TURN, &mut |_, timer| timers.push(timer));
        for timer in timers {
            self.fire_one(timer, now);
        }
        mono == limit::TIMERS_PER_TURN
    }

    fn fire_one(&mut self, timer: MonoTimer, now: Now) {
        match timer {
            MonoTimer::Session(session) => self.session_timer(session, now),
            MonoTimer::Orphans => self.orphan_timer(now),
            MonoTimer::Attempt(id, token, stage) => self.attempt_timer(id, token, stage, now),
            MonoTimer::QueueRate(queue) => {
                if let Some(q) = self.queues.get_mut(&queue) {
                    q.rate_until = 0;
                }
                self.wake_queue(queue);
            }
            MonoTimer::TenantRate(tenant) => {
                if let Some(t) = self.tenants.get_mut(&tenant) {
                    t.rate_until = 0;
                }
                self.wake_tenant(tenant);
            }
            MonoTimer::BatchWait(queue, lane) => self.unpark(queue, lane),
            MonoTimer::Balance => self.balance(now),
            MonoTimer::Take(queue) => self.takers.wake(queue),
            MonoTimer::AffinityWait(queue, lane) => self.patience_over(queue, lane),
        }
    }

    /// A stored deadline has come: a scheduled task is ready, or a waiting one gives up.
    fn fire_task(&mut self, id: TaskId, now: Now) {
        let task = &self.tasks[&id].task;
        let cancelled = task.state == State::Cancelled && self.options.planted.has(Bug::FireAfterCancel);
        // The due time of a running task is the end of its lease, which has a timer of its own.
        if task.due == 0 || task.due > now.wall || task.state == State::Running {
            return;
        }
        if cancelled {
            // What a missing check would do: a task that was cancelled is back in its queue.
            let entry = self.entry(id);
            entry.task.due = 0;
            entry.task.state = State::Queued;
            return self.touch(id);
        }
        let config = self.queues[&task.queue].queue.config.clone();
        let next = deadline(task, &config);
        if next == 0 || next > now.wall {
            // The settings that made it due have changed since.
            let tenant = task.tenant;
            self.entry(id).task.due = next;
            self.touch(id);
            return self.arm(tenant, id, next);
        }
        match task.state {
            State::Scheduled | State::Queued if has_expired(task, &config, now.wall) => self.expire(id, now),
            State::Scheduled => {
                let late = now.wall.saturating_sub(task.due);
                self.fired.late.push(late);
                self.become_ready(id, &config, now);
            }
            State::Queued => {
                let failure = Failure {
                    retryable: false,
                    ..Failure::ours("queue-timeout", "it waited longer than its queue timeout")
                };
                self.entry(id).task.ending =
                    Some(Arc::new(Ending { result: Payload::None, failure: Some(failure), artifacts: Vec::new() }));
                self.end(id, State::Failed, now);
            }
            _ => {}
        }
    }

    fn become_ready(&mut self, id: TaskId, config: &crate::config::QueueConfig, now: Now) {
        let lane = self.lane_of(&self.tasks[&id].task);
        self.entry(id).task.lane = lane;
        self.set_state(id, State::Queued, now);
        let due = deadline(&self.tasks[&id].task, config);
        let entry = self.entry(id);
        entry.task.due = due;
        let tenant = entry.task.tenant;
        self.arm(tenant, id, due);
        self.enqueue(id);
    }

    pub(crate) fn expire(&mut self, id: TaskId, now: Now) {
        let failure =
            Failure { retryable: false, ..Failure::ours("expired", "its time to live ran out before it started") };
        self.entry(id).task.ending =
            Some(Arc::new(Ending { result: Payload::None, failure: Some(failure), artifacts: Vec::new() }));
        self.end(id, State::Expired, now);
    }

    fn attempt_timer(&mut self, id: TaskId, token: Token, stage: Stage, now: Now) {
        if !self.is_current(id, token) {
            return;
        }
        let Some(run) = self.entry(id).run.as_mut() else { return };
        run.timers[stage as usize] = None;
        let session = run.session;
        if stage == Stage::Heartbeat && self.tasks[&id].task.lease_ms() > 0 {
            return self.lease_over(id, now);
        }
        let (how, kind, text) = match stage {
            Stage::Run => (AttemptOutcome::TimedOut, "timeout", "the attempt ran longer than its run timeout"),
            Stage::Start => (AttemptOutcome::TimedOut, "start-timeout", "the worker did not start it in time"),
            Stage::Heartbeat => {
                (AttemptOutcome::TimedOut, "heartbeat-timeout", "the attempt gave no sign of life in time")
            }
            Stage::Cancel => (AttemptOutcome::Cancelled, "cancelled", "cancelled; the worker did not confirm in time"),
        };
        if let Some(session) = session {
            self.tell(session, Effect::Revoke { session, attempts: vec![(id, token)] });
        }
        self.lose(id, how, Failure::ours(kind, text), now);
    }

    /// Answer to a read of tasks whose time had come while they were not in memory.
    pub(super) fn fire_loaded(&mut self, rows: Vec<Option<Task>>, now: Now) {
        for row in rows.into_iter().flatten() {
            let id = row.id;
            self.adopt(row);
            self.fire_task(id, now);
        }
    }

    /// Asks for the next stored due times when the horizon comes near the first of them. An idle partition asks nothing.
    ///
    /// A pass moves the horizon first: from then on new tasks within it go to the wheel. Those accepted before are in
    /// batches up to `due_after`, so the reads of the pass wait until that is committed.
    pub(super) fn plan_due_load(&mut self, now: Now) {
        if self.due.loading || !(self.due.pass || self.due_pass_wanted(now)) {
            return;
        }
        if !self.due.pass {
            self.due.pass = true;
            self.due.cursor = (self.due.horizon, u128::MAX, u64::MAX);
            if self.due.horizon == 0 {
                self.due.cursor = (0, 0, 0);
            }
            self.due.horizon = self.due.horizon.max(now.wall + self.options.timer_horizon_ms);
            self.due.after = if self.has_output() { self.index } else { self.index - 1 };
            self.due.far = u64::MAX;
        }
        if self.due.after <= self.committed {
            self.due.loading = true;
            self.ask(Load::Due { from: self.due.cursor, until: u64::MAX, limit: limit::DUE_PAGE }, Purpose::Due);
        }
    }

    fn due_pass_wanted(&self, now: Now) -> bool {
        self.due_pass_at().is_some_and(|at| at <= now.wall)
    }

    /// When the next stored due times should be read. A wheel that is half full reads on only when it has to.
    pub(super) fn due_pass_at(&self) -> Option<u64> {
        let crowded = self.wall_wheel.len() >= self.options.timers_in_memory / 2;
        let ahead = if crowded { limit::TIMER_URGENT_MS / 2 } else { self.options.timer_horizon_ms / 2 };
        (self.due.far != u64::MAX).then(|| self.due.far.saturating_sub(ahead.min(self.options.timer_horizon_ms / 2)))
    }

    pub(super) fn due_loaded(&mut self, rows: Vec<Due>, now: Now) {
        self.due.loading = false;
        let full = rows.len() >= limit::DUE_PAGE;
        for row in rows {
            if self.wall_wheel.len() >= self.options.timers_in_memory {
                // The rest stays in the store for now. What lies beyond and is in the wheel already may come again.
                self.due.horizon = self.due.horizon.min((row.at() - 1).max(now.wall + limit::TIMER_URGENT_MS));
            }
            if row.at() > self.due.horizon {
                self.due.far = self.due.far.min(row.at());
                self.due.pass = false;
                return;
            }
            self.due.cursor = row.place();
            self.fired.hits[2] += 1;
            let row = match row {
                Due::Task(task) => task,
                Due::Run(timer, due) => {
                    let key = self.wall_wheel.insert(due.max(now.wall), WallTimer::Run(timer));
                    if let Some(entry) = self.runs.held.get_mut(&timer.run) {
                        entry.timers.push((timer.entry, key));
                    }
                    continue;
                }
            };
            self.wall_wheel.insert(row.due.max(now.wall), WallTimer::Task(row.tenant, row.id));
            if row.state == State::Scheduled && self.warm < self.options.warm_tasks {
                self.adopt(*row);
            }
        }
        self.due.pass = full;
    }
}
