//! What is looked at twice a second: liveness while things are well.

use tidewheel_engine::config::QueueState;
use tidewheel_engine::id::TaskId;
use tidewheel_engine::mutation::RateKey;
use tidewheel_engine::ready::gcra;
use tidewheel_engine::task::Task;

use super::runs::LATEST_MS;
use super::{TICK, World};
use crate::event::Event;
use crate::plan::{MS, SECOND};

/// Queued tasks of a partition that are looked at in one tick.
const LOOKS: usize = 64;

impl World {
    pub(crate) fn tick(&mut self) {
        for partition in 0..self.disks.len() {
            self.look_for_lost_workers(partition);
            if self.is_well(partition) {
                self.look_for_late_timers(partition);
                self.look_for_idle(partition);
                self.look_for_endless_leases(partition);
            } else {
                self.checkers.dispatch.unwell(partition);
            }
        }
        self.look_at_runs();
        self.help_runs();
        self.settle();
        if !self.over && !self.asleep {
            self.after(TICK, Event::Tick);
        }
    }

    /// L4 and L9 for runs.
    fn look_at_runs(&mut self) {
        if self.plan.runs.every == 0 {
            return;
        }
        for partition in 0..self.disks.len() {
            if !self.is_well(partition) || self.asleep {
                self.checkers.runs_unwell(partition, self.now);
                continue;
            }
            let wall = self.node_wall(partition);
            let lease = self.plan.options.lease_ms * MS;
            let grace = self.plan.options.cancel_grace_ms * MS;
            let slack = self.plan.faults.read * 40 + self.plan.faults.commit * 20;
            let allowed = 5 * SECOND + lease + grace + slack;
            // A cancel may stand behind a reset, and its own turn may be computed beside the loop, too.
            let computing = if self.plan.runs.late > 0.0 { 2 * LATEST_MS * MS } else { 0 };
            self.checkers.look_at_runs(partition, wall, self.now, (allowed, computing));
        }
    }

    /// The owner has been up for a while and the disk works.
    fn is_well(&self, partition: usize) -> bool {
        let settled = 2 * SECOND + self.plan.faults.read * 20;
        let Some((part, _)) = self.live_shell(partition) else { return false };
        let disk = self.now >= self.full_until && self.now >= self.slow_until + 2 * SECOND;
        let paused = self.current.is_none_or(|id| self.processes[&id].paused_until + 2 * SECOND > self.now);
        disk && !paused && self.now > part.opened + settled
    }

    /// L5: what a silent worker has is somebody else's within a lease and a second.
    fn look_for_lost_workers(&mut self, partition: usize) {
        let Some((part, _)) = self.live_shell(partition) else {
            return self.checkers.lost_worker.interrupted(partition);
        };
        let stalled = self.now < self.full_until || self.now < self.slow_until + SECOND;
        let paused = self.current.is_none_or(|id| self.processes[&id].paused_until + TICK > self.now);
        if stalled || paused || self.asleep {
            return self.checkers.lost_worker.interrupted(partition);
        }
        let (now, opened) = (self.now, part.opened);
        let workers = &self.workers;
        let held = |task: TaskId, token| workers.iter().any(|w| w.holds(partition, now, task, token));
        let slack = 2 * TICK + self.plan.faults.delay * 250 + self.plan.faults.commit * 10;
        let lease = self.plan.options.lease_ms * MS;
        let grace = self.plan.options.cancel_grace_ms * MS;
        let found = self.checkers.look_for_lost(partition, now, opened, lease.max(grace) + SECOND + slack, held);
        found.into_iter().for_each(|text| self.checkers.fail("L5", text));
    }

    /// L5: what was taken and forgotten is for the next one.
    fn look_for_endless_leases(&mut self, partition: usize) {
        let Some((part, _)) = self.live_shell(partition) else { return };
        let found = self.checkers.lease.look(partition, self.now, part.opened);
        found.into_iter().for_each(|text| self.checkers.fail("L5", text));
    }

    /// L3: what is due has fired.
    fn look_for_late_timers(&mut self, partition: usize) {
        let wall = self.node_wall(partition);
        let allowed = 1_500 + (self.plan.faults.read * 12 + self.plan.faults.commit * 6) / MS;
        if let Some((due, task)) = self.checkers.fold(partition).due.first().copied()
            && due + allowed < wall
        {
            let late = wall - due;
            self.checkers.dispatch.late(partition, task, self.now, late);
        } else {
            self.checkers.dispatch.on_time(partition);
        }
        let text = self.checkers.dispatch.too_late(partition, self.now);
        text.into_iter().for_each(|text| self.checkers.fail("L3", text));
    }

    /// L2: as long as a worker is free and a task could go to it, tasks are granted.
    fn look_for_idle(&mut self, partition: usize) {
        let wall = self.node_wall(partition);
        let Some(process) = self.current else { return };
        let mono = self.node_now(process, partition).map_or(0, |now| now.mono);
        let fold = self.checkers.fold(partition);
        let Some(shell) = self.processes[&process].parts[partition].shell.as_ref() else { return };
        if !shell.partition().waits_agree() {
            let text = "lanes that wait for workers of their keys take the places of others".to_owned();
            return self.checkers.fail("L2", text);
        }
        let audit = shell.partition().audit();
        if !audit.sessions.iter().any(|s| s.free) {
            return self.checkers.dispatch.busy(partition);
        }
        let waits_on = fold.queued.iter().take(LOOKS).find(|id| {
            let held = shell.partition().held_for(&fold.tasks[*id]);
            held.is_some_and(|(_, until)| mono > until + 2_000)
        });
        if let Some(id) = waits_on {
            let text = format!("task {:x} waits for its key's worker beyond the patience of its queue", id.0);
            return self.checkers.fail("L2", text);
        }
        let could_go = fold.queued.iter().take(LOOKS).copied().filter(|id| {
            let task = &fold.tasks[id];
            // One that waits for the worker of its affinity key may do so until its queue's patience is over.
            let held = shell.partition().held_for(task).is_some_and(|(_, until)| until > mono);
            !held
                && self.may_go(partition, task, wall)
                && audit.sessions.iter().any(|s| s.free && shell.partition().session_fits(s.session, task))
        });
        let could_go: Vec<TaskId> = could_go.collect();
        // Lanes that wait for their key's worker keep nobody behind them waiting.
        let allowed = 2 * SECOND + self.plan.faults.read * 12 + self.plan.faults.commit * 6;
        let stuck = self.checkers.dispatch.could_go(partition, self.now, allowed, &could_go);
        if let Some((task, for_us)) = stuck {
            let task = &self.checkers.fold(partition).tasks[&task];
            let place = shell.partition().describe_place(task);
            let text = format!(
                "task {:x} of queue {} could run on a free worker for {} ms and nothing is granted: {task:?}; {place}",
                task.id.0,
                task.queue.0,
                for_us / MS
            );
            self.checkers.fail("L2", text);
        }
    }

    /// Whether limits and order allow a queued task to run, by the log alone.
    fn may_go(&self, partition: usize, task: &Task, wall: u64) -> bool {
        let fold = self.checkers.fold(partition);
        let (Some(queue), Some(tenant)) = (fold.queues.get(&task.queue), fold.tenants.get(&task.tenant)) else {
            return false;
        };
        let room = |limit: u32, running: Option<&u32>| limit == 0 || running.copied().unwrap_or(0) < limit;
        let rate = |key: RateKey, rate: Option<tidewheel_engine::config::Rate>| {
            rate.is_none_or(|r| gcra(fold.rates.get(&key).copied().unwrap_or(0), wall * 1_000, r).is_ok())
        };
        let key = task.spec.concurrency_key.as_ref().is_none_or(|key| {
            let own = task.spec.concurrency_limit;
            let limit = if own > 0 { own } else { queue.config.key_concurrency };
            room(limit, fold.by_key.get(&(task.queue, key.clone())))
        });
        let ordered = task.spec.ordering_key.is_some();
        let batch = task.spec.batchable && wall < task.changed + queue.config.batch_wait_ms + 1_000;
        queue.state != QueueState::Paused
            && !queue.deleted
            && room(queue.config.concurrency, fold.by_queue.get(&task.queue))
            && room(tenant.config.concurrency, fold.by_tenant.get(&task.tenant))
            && rate(RateKey::Queue(task.queue), queue.config.rate)
            && rate(RateKey::Tenant(task.tenant), tenant.config.rate)
            && key
            && !batch
            && (!ordered || self.checkers.is_first(partition, task))
    }
}
