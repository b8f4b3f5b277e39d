//! The end of a run: what is broken is repaired, limits stay for a while and are then lifted, and every task has to end.
//! A fault that is over must leave no trace: no permit held, no task forgotten, no old token that still works.

use tidewheel_engine::Command;
use tidewheel_engine::command::Settlement;
use tidewheel_engine::config::{QueueState, TenantConfig};
use tidewheel_engine::id::{RequestId, SessionId};
use tidewheel_engine::task::{Outcome, Payload, State};

use super::{CallKind, EPOCH_MS, Worker, World};
use crate::event::{Event, Phase};
use crate::plan::{MS, SECOND, Scenario, WorkerPlan};

/// Limits stay in force for so long after the faults.
const LIMITED: u64 = 40 * SECOND;
/// Once limits are lifted and nothing waits for its time, all has to end within this.
const PATIENCE: u64 = 300 * SECOND;
/// A leap over waiting time ends so long before the next due time.
const BEFORE_DUE: u64 = 8 * SECOND;
/// Old tokens that are tried again at the end.
const OLD_TOKENS: usize = 200;

impl World {
    pub(crate) fn enter_phase(&mut self, phase: Phase) {
        self.phase = Some(phase);
        match (phase, self.plan.scenario) {
            (Phase::Heal, Scenario::Fairness | Scenario::Aging) => self.over = true,
            (Phase::Heal, Scenario::Swarm) => self.heal(),
            (Phase::Lift, _) => self.lift(),
        }
    }

    fn heal(&mut self) {
        (self.full_until, self.slow_until) = (0, 0);
        self.disks.iter_mut().for_each(|disk| disk.fate = None);
        let wait = self.rng.below(SECOND);
        self.after(wait, Event::NodeStarts);
        self.hire_crew();
        for worker in 0..self.workers.len() {
            let wait = self.rng.below(SECOND);
            self.after(wait, Event::WorkerStarts { worker });
        }
        self.after(LIMITED, Event::Phase(Phase::Lift));
    }

    /// Workers that can run everything, so that whatever still waits has somebody to run it.
    fn hire_crew(&mut self) {
        let plan = WorkerPlan {
            tenant: None,
            queues: Vec::new(),
            types: Vec::new(),
            own_types: None,
            labels: vec![usize::MAX],
            permits: 40,
            buffer: 0,
            cpu_millis: 0,
            serves: Default::default(),
            data: Vec::new(),
            guarded: true,
            resumes: true,
        };
        self.workers.push(Worker::new(plan, self.disks.len()));
    }

    fn lift(&mut self) {
        self.busy_since = self.now;
        for tenant in 0..self.plan.tenants.len() {
            for partition in 0..self.disks.len() {
                self.put_tenant(partition, tenant, TenantConfig::default());
                for queue in 0..self.plan.tenants[tenant].queues.len() {
                    let mut config = self.client.plan[tenant].queues[queue].clone();
                    (config.concurrency, config.rate, config.max_depth, config.throttle_depth) = (0, None, 0, 0);
                    self.put_queue(partition, tenant, queue, Some(config), Some(QueueState::Active));
                }
            }
        }
        // Half of what is due in hours is called off; the rest has to come in its time.
        for partition in 0..self.disks.len() {
            let soon = self.node_wall(partition) + 600_000;
            let far = self.checkers.due_after(partition, soon);
            for (tenant, task) in far.into_iter().step_by(2) {
                let cancel = |request| Command::Cancel { request, tenant, task, reason: "called off".into() };
                self.call(partition, CallKind::Other, cancel);
            }
        }
    }

    /// The wall clock that the live owner works with.
    pub(crate) fn node_wall(&mut self, partition: usize) -> u64 {
        let process = self.current.unwrap_or_default();
        let observed = self.node_now(process, partition).map_or(0, |now| now.wall);
        observed.max(self.checkers.wall(partition))
    }

    /// Looks whether all has ended, or whether only time is missing.
    pub(crate) fn settle(&mut self) {
        if self.phase != Some(Phase::Lift) {
            return;
        }
        let live: u64 = (0..self.disks.len()).map(|p| self.checkers.live(p) + self.checkers.runs.live(p)).sum();
        let calls_out = !self.client.calls.is_empty();
        if live == 0 && !calls_out {
            self.over = true;
            return;
        }
        let waits: Vec<Option<u64>> = (0..self.disks.len()).map(|p| self.wait_of(p)).collect();
        let least = waits.into_iter().try_fold(u64::MAX, |least, wait| wait.map(|wait| wait.min(least)));
        let long = least.filter(|wait| *wait > 60_000 && !calls_out);
        let moved = live.wrapping_add(self.checkers.runs.turns << 20);
        if least.is_some() || moved != self.live_before {
            self.live_before = moved;
            self.busy_since = self.now;
        }
        if self.asleep {
            if self.now >= self.asleep_until {
                self.wake_workers();
            }
            return;
        }
        match long {
            Some(wait) => self.leap(wait.saturating_mul(MS)),
            None if self.now > self.busy_since + LIMITED + PATIENCE => self.stuck(),
            None => {}
        }
    }

    /// Milliseconds until the first task of a partition is due, if all its tasks only wait for their time. `None` = some
    /// can run now.
    fn wait_of(&mut self, partition: usize) -> Option<u64> {
        if self.checkers.runs.live(partition) > 0 {
            return None;
        }
        let live = self.checkers.live(partition);
        if live == 0 {
            return Some(u64::MAX);
        }
        let wall = self.node_wall(partition);
        self.checkers.only_due(partition).map(|due| due.saturating_sub(wall))
    }

    /// Nothing happens for hours: workers go home, so that the hours cost nothing.
    fn leap(&mut self, wait: u64) {
        if wait > 100 * 86_400 * SECOND {
            return;
        }
        for worker in 0..self.workers.len() {
            let w = &mut self.workers[worker];
            w.away = true;
            w.up = false;
            let conns: Vec<u64> = w.links.iter_mut().filter_map(|l| l.conn.take()).collect();
            conns.into_iter().for_each(|conn| self.break_conn(conn));
        }
        self.asleep = true;
        let length = wait.saturating_sub(BEFORE_DUE + 5 * SECOND);
        self.asleep_until = self.now + length;
        self.leapt += length;
        self.checkers.leap();
        self.after(length, Event::Tick);
    }

    fn wake_workers(&mut self) {
        self.busy_since = self.now;
        self.asleep = false;
        for worker in 0..self.workers.len() {
            self.workers[worker].away = false;
            self.after(0, Event::WorkerStarts { worker });
        }
    }

    fn stuck(&mut self) {
        for partition in 0..self.disks.len() {
            if let Some(text) = self.checkers.runs.oldest_live(partition) {
                self.checkers.fail("L4", format!("nothing has happened for long: {text}"));
            }
            let Some((tenant, task)) = self.checkers.oldest_live(partition) else { continue };
            let seconds = (PATIENCE + LIMITED) / SECOND;
            let state = self.checkers.fold(partition).tasks[&task].clone();
            let place = self.live_shell(partition).map(|(_, shell)| {
                let (partition, audit) = (shell.partition(), shell.partition().audit());
                let fits: Vec<_> = audit.sessions.iter().map(|s| partition.session_fits(s.session, &state)).collect();
                format!("{}; sessions {:?} fit {fits:?}", partition.describe_place(&state), audit.sessions)
            });
            let place = place.unwrap_or_default();
            let text = format!(
                "task {:x} of tenant {} has not ended, and none has for {seconds} s: {state:?}; {place}",
                task.0, tenant.0
            );
            self.checkers.fail("L2", text);
        }
    }

    /// The run is over: what is left in memory and on disk is compared with the log, and old tokens are tried again.
    pub(crate) fn end(&mut self) {
        if self.plan.scenario != Scenario::Swarm {
            return self.checkers.end_measured(&self.plan);
        }
        if !self.over {
            return self.checkers.fail("L4", "nothing is left to happen, and tasks have not ended".to_owned());
        }
        for partition in 0..self.disks.len() {
            self.checkers.end(partition, &self.disks[partition].state);
            let Some((_, shell)) = self.live_shell(partition) else {
                self.checkers.fail("L1", format!("partition {partition} has no owner at the end"));
                continue;
            };
            let audit = shell.partition().audit();
            let records: Vec<_> = shell.partition().settled_records().cloned().collect();
            self.checkers.end_memory(partition, &audit, &records);
            self.try_old_tokens(partition);
        }
    }

    /// S4: every old token is refused and changes nothing.
    fn try_old_tokens(&mut self, partition: usize) {
        let process = self.current.unwrap_or_default();
        let before = self.disks[partition].state.state_hash();
        let position = self.disks[partition].state.position(partition as u32);
        let session = SessionId(u64::MAX);
        for (task, token) in self.checkers.stale.old_tokens(partition, OLD_TOKENS) {
            let result = Payload::Inline("\"old\"".into());
            let outcome = Outcome::Ok { result, artifacts: Vec::new() };
            self.give(process, partition, Command::Started { session, attempts: vec![(task, token)] });
            self.give(process, partition, Command::Returned { session, attempts: vec![(task, token)] });
            let how = Settlement::End(outcome.clone());
            self.give(process, partition, Command::Results { session, results: vec![(task, token, outcome)] });
            if let Some(tenant) = self.checkers.tenant_of(partition, task) {
                let request = RequestId(u64::MAX);
                self.give(process, partition, Command::Settle { request, tenant, task, token, how });
            }
        }
        while self.disks[partition].busy {
            self.written(partition);
        }
        let after = self.disks[partition].state.state_hash();
        if before != after || position != self.disks[partition].state.position(partition as u32) {
            self.checkers.fail("S4", format!("old tokens of partition {partition} change its state"));
        }
        let left = self.disks[partition].state.tasks().find(|task| !task.state.is_terminal());
        if let Some(task) = left {
            let text = format!("task {:x} is {:?} at the end", task.id.0, State::as_str(task.state));
            self.checkers.fail("S1", text);
        }
    }

    /// Microseconds that were really simulated.
    pub(crate) fn simulated(&self) -> u64 {
        self.now - self.leapt.min(self.now)
    }

    /// The true wall clock, for reports.
    #[allow(dead_code, reason = "for debugging a seed")]
    pub(crate) fn true_wall(&self) -> u64 {
        EPOCH_MS + self.now / MS
    }
}
