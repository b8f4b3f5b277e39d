//! The node: a process with one [`Shell`] per partition, driven the way `runtime` drives it. What the runtime's loop
//! decides on its own (hold commands back, reload after a failed commit) is kept as close to it as it can be.

use std::collections::BTreeSet;

use tidewheel_engine::command::Settlement;
use tidewheel_engine::id::{RequestId, TenantId};
use tidewheel_engine::load::{Load, LoadId, Loaded};
use tidewheel_engine::node::{Action, Clock, Intake, Shell};
use tidewheel_engine::partition::{Options, Probe, request_of};
use tidewheel_engine::planted::Bug;
use tidewheel_engine::time::Now;
use tidewheel_engine::{Command, Effect, Reply};
use tidewheel_store::memory::{self, State};

use super::{EPOCH_MS, World};
use crate::disk::{Fate, Pending};
use crate::event::{Event, Report, ToWorker};
use crate::plan::{MS, SECOND};

/// A sleep is never longer than this.
const LONGEST_SLEEP: u64 = 60 * SECOND;
/// From the disk to the loop. Always the same, since reports keep their order.
const REPORT: u64 = 50;
/// Wakes in a row at one wall time after which a shell is said to spin.
const MOST_SPINS: u32 = 2_000;

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) parts: Vec<Part>,
    pub(crate) paused_until: u64,
    born: u64,
}

/// A partition's loop.
#[derive(Debug)]
pub(crate) struct Part {
    /// `None` while it cannot be opened.
    pub(crate) shell: Option<Shell>,
    pub(crate) epoch: u32,
    pub(crate) opened: u64,
    clock: Clock,
    intake: Intake,
    callers: BTreeSet<RequestId>,
    wake_at: u64,
    spins: u32,
}

struct DiskProbe<'a> {
    state: &'a State,
    maybe: bool,
}

impl Probe for DiskProbe<'_> {
    fn may_know(&self, tenant: TenantId, hash: &[u8; 16]) -> bool {
        let load = Load::Idempotency { tenant, hash: *hash };
        self.maybe || matches!(memory::load(self.state, &load), Loaded::Idempotency(Some(_)))
    }
}

impl World {
    pub(crate) fn start_node(&mut self) {
        let id = self.next_process;
        self.next_process += 1;
        let parts = (0..self.plan.partitions).map(|_| Part {
            shell: None,
            epoch: 0,
            opened: self.now,
            clock: Clock::default(),
            intake: Intake::default(),
            callers: BTreeSet::new(),
            wake_at: u64::MAX,
            spins: 0,
        });
        let process = Process { parts: parts.collect(), paused_until: 0, born: self.now };
        self.processes.insert(id, process);
        self.current = Some(id);
        for partition in 0..self.plan.partitions as usize {
            self.open(id, partition);
        }
    }

    pub(crate) fn node_starts(&mut self) {
        if self.current.is_none() {
            self.start_node();
        }
    }

    /// What the machine's clocks say to a process.
    fn raw_now(&self, process: &Process) -> Now {
        let passed = self.now - process.born;
        let drift = passed as i128 * i128::from(self.plan.faults.drift_ppm) / 1_000_000;
        let mono = (i128::from(passed) + drift).max(0) as u64 / MS;
        let wall = (EPOCH_MS + self.now / MS).saturating_add_signed(self.wall_offset);
        Now { wall, mono }
    }

    /// The time a partition works with.
    pub(crate) fn node_now(&mut self, process: u64, partition: usize) -> Option<Now> {
        let raw = self.raw_now(self.processes.get(&process)?);
        Some(self.processes.get_mut(&process)?.parts[partition].clock.observe(raw))
    }

    pub(crate) fn paused(&self, process: u64) -> Option<u64> {
        self.processes.get(&process).map(|p| p.paused_until).filter(|until| *until > self.now)
    }

    fn open(&mut self, process: u64, partition: usize) {
        let Some(now) = self.node_now(process, partition) else { return };
        let recovered = self.disks[partition].take_over(partition as u32);
        let epoch = recovered.epoch;
        self.checkers.opened(partition, epoch);
        let options = Options { partition: partition as u32, planted: self.planted, ..self.plan.options.clone() };
        let shell = Shell::new(options, recovered, now);
        let true_now = self.now;
        let Some(part) = self.part(process, partition) else { return };
        part.shell = Some(shell);
        part.epoch = epoch;
        part.opened = true_now;
        part.wake_at = u64::MAX;
        self.pump(process, partition);
    }

    fn part(&mut self, process: u64, partition: usize) -> Option<&mut Part> {
        self.processes.get_mut(&process).map(|p| &mut p.parts[partition])
    }

    /// The shell that workers and clients reach.
    pub(crate) fn live_shell(&self, partition: usize) -> Option<(&Part, &Shell)> {
        let process = self.processes.get(&self.current?)?;
        let part = &process.parts[partition];
        part.shell.as_ref().map(|shell| (part, shell))
    }

    /// The process dies with all that it had in memory.
    pub(crate) fn kill_process(&mut self, id: u64) {
        let Some(process) = self.processes.remove(&id) else { return };
        let callers: Vec<RequestId> = process.parts.into_iter().flat_map(|part| part.callers).collect();
        for request in callers {
            let wait = self.delay();
            self.after(wait, Event::Answered { request, reply: None });
        }
        for disk in &mut self.disks {
            let in_write = disk.busy.then(|| disk.queue.pop_front()).flatten();
            disk.lose_power(id);
            // What was being written when the power went may be there or not; the disk decides when its time has come.
            if let Some(pending) = in_write {
                disk.queue.push_front(pending);
                if disk.fate.is_none() && disk.queue.front().is_some_and(|p| p.process == id) && self.rng.chance(0.5) {
                    disk.fate = Some(Fate::Fails);
                }
            }
        }
        self.settle_writes(id);
        let conns: Vec<u64> = self.conns.iter().filter(|(_, c)| c.process == id).map(|(id, _)| *id).collect();
        conns.into_iter().for_each(|conn| self.node_closes(conn));
        if self.current == Some(id) {
            self.current = None;
        }
    }

    /// A write of a dead process ends before anybody opens the file again.
    fn settle_writes(&mut self, process: u64) {
        for partition in 0..self.disks.len() {
            let disk = &self.disks[partition];
            if disk.busy && disk.queue.front().is_some_and(|p| p.process == process) {
                self.write_one(partition);
            }
        }
    }

    pub(crate) fn give(&mut self, process: u64, partition: usize, command: Command) {
        let Some(part) = self.part(process, partition) else { return };
        if part.shell.is_none() {
            return;
        }
        if let Some(request) = request_of(&command) {
            part.callers.insert(request);
        }
        part.intake.push(command);
        self.pump(process, partition);
    }

    pub(crate) fn asked(&mut self, partition: usize, request: RequestId, command: Box<Command>) {
        let Some(process) = self.current else {
            return self.after(MS, Event::Answered { request, reply: None });
        };
        if let Some(until) = self.paused(process) {
            return self.at(until, Event::Asked { partition, request, command });
        }
        if self.processes[&process].parts[partition].shell.is_none() {
            return self.after(MS, Event::Answered { request, reply: None });
        }
        if let Command::Settle { task, token, how: Settlement::Renew, .. } = &*command {
            // A sign of life counts from when it arrives, which may be long after it was given.
            self.checkers.lease.renewed(partition, *task, *token, self.now);
        }
        self.give(process, partition, *command);
    }

    /// A turn of a run comes back from beside the loop.
    pub(crate) fn computed(&mut self, process: u64, partition: usize, command: Box<Command>) {
        if let Some(until) = self.paused(process) {
            return self.at(until, Event::Computed { process, partition, command });
        }
        self.give(process, partition, *command);
    }

    /// One round of the loop: commands, a turn, actions, and when to wake next.
    fn pump(&mut self, process: u64, partition: usize) {
        let Some(now) = self.node_now(process, partition) else { return };
        let maybe = self.rng.chance(self.plan.faults.maybe);
        let mut actions = Vec::new();
        let Some(part) = self.processes.get_mut(&process).map(|p| &mut p.parts[partition]) else { return };
        let Some(shell) = part.shell.as_mut() else { return };
        let probe = DiskProbe { state: &self.disks[partition].state, maybe };
        while let Some(command) = shell.next(&mut part.intake, now) {
            if let Command::Connect { session, hello } = &command {
                let current = |task| shell.partition().token_of(task);
                self.checkers.stale.named(partition, *session, &hello.resume, current);
            }
            shell.command(command, now, &probe);
        }
        let more = shell.turn(now, &mut actions);
        let again = more || shell.has_next(&part.intake, now);
        self.perform(process, partition, actions);
        if again {
            self.after(20, Event::Wake { process, partition });
        } else {
            self.plan_wake(process, partition, now);
        }
    }

    fn plan_wake(&mut self, process: u64, partition: usize, now: Now) {
        let true_now = self.now;
        let drift = self.plan.faults.drift_ppm;
        let Some(part) = self.part(process, partition) else { return };
        let Some(shell) = part.shell.as_ref() else { return };
        let (wall, mono) = shell.next_wake(&part.intake);
        let waits = [wall.map(|w| w.saturating_sub(now.wall)), mono.map(|m| m.saturating_sub(now.mono))];
        let least = waits.into_iter().flatten().min().map_or(LONGEST_SLEEP, |ms| ms * MS).min(LONGEST_SLEEP);
        if least == 0 && !shell.takes_commands() {
            // The next commit's report wakes it.
            return;
        }
        part.spins = if least == 0 { part.spins + 1 } else { 0 };
        let spins = part.spins > MOST_SPINS;
        let slow = (i128::from(least) * i128::from(-drift) / 1_000_000).max(0) as u64;
        let at = true_now + least.max(MS) + slow;
        if part.wake_at > at || part.wake_at <= true_now {
            part.wake_at = at;
            self.at(at, Event::Wake { process, partition });
        }
        if spins {
            self.checkers.fail("L4", format!("partition {partition} wakes without end and has nothing to do"));
        }
    }

    pub(crate) fn wake(&mut self, process: u64, partition: usize) {
        if let Some(until) = self.paused(process) {
            return self.at(until, Event::Wake { process, partition });
        }
        self.pump(process, partition);
    }

    fn perform(&mut self, process: u64, partition: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Commit(batch) => {
                    self.mark(batch.index ^ (batch.mutations.len() as u64) << 32);
                    self.disks[partition].queue.push_back(Pending { process, batch });
                    self.start_write(partition);
                }
                Action::Load(id, load) => {
                    let wait = self.rng.below(self.plan.faults.read.max(1));
                    let epoch = self.processes[&process].parts[partition].epoch;
                    self.after(wait, Event::Read { process, partition, epoch, id, load });
                }
                Action::Fired(_) => {}
                Action::Perform(effects) => {
                    effects.into_iter().for_each(|effect| self.effect(process, partition, effect));
                }
            }
        }
    }

    fn start_write(&mut self, partition: usize) {
        if self.disks[partition].busy || self.disks[partition].queue.is_empty() {
            return;
        }
        self.disks[partition].busy = true;
        let usual = self.plan.faults.commit.max(1);
        let slow = if self.now < self.slow_until { self.rng.range(20, 200) } else { 1 };
        let wait = (usual / 2 + self.rng.below(usual)) * slow;
        self.after(wait.min(2 * SECOND), Event::Written { partition });
    }

    pub(crate) fn written(&mut self, partition: usize) {
        // A write that ended early (its process died) leaves its event behind; then another one is under way or none.
        if self.disks[partition].busy {
            self.write_one(partition);
        }
        self.start_write(partition);
    }

    fn write_one(&mut self, partition: usize) {
        if self.now < self.full_until && self.disks[partition].fate.is_none() {
            self.disks[partition].fate = Some(Fate::Fails);
        }
        let Some((pending, fate, result)) = self.disks[partition].write() else { return };
        let (epoch, index) = (pending.batch.epoch, pending.batch.index);
        let stored = result.is_ok();
        if stored {
            self.checkers.landed(partition, &pending.batch, self.now);
        }
        let report = match (fate, result) {
            (Fate::FsyncFails(_), _) => Report::Fsync,
            (Fate::LandsAndFails | Fate::Fails, _) => Report::Failed,
            (Fate::Stored, Ok(())) => Report::Ok,
            (Fate::Stored, Err(tidewheel_store::Error::Stale { .. })) => Report::Stale,
            (Fate::Stored, Err(error)) => {
                self.checkers
                    .fail("S12", format!("the store refuses commit {index} of partition {partition}: {error}"));
                Report::Failed
            }
        };
        let process = pending.process;
        self.after(REPORT, Event::Reported { process, partition, epoch, index, report });
    }

    pub(crate) fn read_rows(&mut self, process: u64, partition: usize, epoch: u32, id: LoadId, load: Load) {
        let state = &self.disks[partition].state;
        let fails = !self.is_quiet() && self.rng.chance(self.plan.faults.load_fails);
        let answer = (!fails).then(|| (state.position(partition as u32).1, memory::load(state, &load)));
        if fails {
            self.count("read fails");
        }
        let wait = self.rng.below(self.plan.faults.read.max(1));
        self.after(wait, Event::Loaded { process, partition, epoch, id, load, answer });
    }

    /// A report of the disk or an answer of a read.
    pub(crate) fn node_event(&mut self, event: Event) {
        let (Event::Reported { process, partition, epoch, .. } | Event::Loaded { process, partition, epoch, .. }) =
            event
        else {
            return;
        };
        if let Some(until) = self.paused(process) {
            return self.at(until, event);
        }
        let Some(now) = self.node_now(process, partition) else { return };
        let Some(part) = self.part(process, partition) else { return };
        if part.epoch != epoch {
            return;
        }
        let Some(shell) = part.shell.as_mut() else { return };
        match event {
            Event::Loaded { id, load, answer, .. } => match answer {
                Some((as_of, loaded)) => shell.loaded(id, as_of, loaded, now),
                None => shell.load_failed(id, load),
            },
            Event::Reported { index, report, .. } => return self.reported(process, partition, index, report),
            _ => {}
        }
        self.pump(process, partition);
    }

    fn reported(&mut self, process: u64, partition: usize, index: u64, report: Report) {
        self.mark(index ^ (report as u64) << 48);
        if report == Report::Fsync {
            self.count("fsync fails: process ends");
            self.kill_process(process);
            return self.after(SECOND, Event::NodeStarts);
        }
        if report == Report::Stale && self.current != Some(process) {
            // A deposed owner: what it has in memory is worth nothing.
            self.count("deposed owner refused");
            return self.kill_process(process);
        }
        let ignored = self.planted.has(Bug::NoReload);
        if report != Report::Ok && !ignored {
            return self.reload(process, partition);
        }
        let mut actions = Vec::new();
        if let Some(shell) = self.part(process, partition).and_then(|p| p.shell.as_mut()) {
            shell.committed(index, &mut actions);
        }
        self.perform(process, partition, actions);
        self.pump(process, partition);
    }

    /// A commit failed: everybody who waits is told that the outcome is unknown, and the partition starts anew.
    fn reload(&mut self, process: u64, partition: usize) {
        let Some(part) = self.part(process, partition) else { return };
        let callers = std::mem::take(&mut part.callers);
        part.intake = Intake::default();
        let failed = part.shell.take().map(Shell::failed).unwrap_or_default();
        debug_assert!(failed.iter().all(|request| callers.contains(request)), "every reply has its caller");
        for request in callers {
            let wait = self.delay();
            self.after(wait, Event::Answered { request, reply: None });
        }
        let of_part = |c: &super::Conn| c.process == process && c.link == partition;
        let conns: Vec<u64> = self.conns.iter().filter(|(_, c)| of_part(c)).map(|(id, _)| *id).collect();
        conns.into_iter().for_each(|conn| self.node_closes(conn));
        self.after(MS, Event::Reopen { process, partition });
    }

    pub(crate) fn reopen(&mut self, process: u64, partition: usize) {
        if let Some(until) = self.paused(process) {
            return self.at(until, Event::Reopen { process, partition });
        }
        // An owner that was deposed while it reloaded must not take the partition back.
        if self.current != Some(process) || !self.processes.contains_key(&process) {
            return;
        }
        if self.now < self.full_until {
            return self.after(500 * MS, Event::Reopen { process, partition });
        }
        self.open(process, partition);
    }

    fn effect(&mut self, process: u64, partition: usize, effect: Effect) {
        match effect {
            Effect::Reply { request, reply } => {
                if let Some(part) = self.part(process, partition) {
                    part.callers.remove(&request);
                }
                self.checkers.replied(partition, &reply);
                self.checkers.run_read(partition, &reply);
                if let Reply::Taken(grants) = &reply {
                    self.checkers.sent(partition, grants);
                }
                let lost = !self.is_quiet() && self.rng.chance(self.plan.faults.lost_call);
                if lost {
                    return self.count("answer lost");
                }
                let wait = self.delay();
                self.after(wait, Event::Answered { request, reply: Some(Box::new(reply)) });
            }
            Effect::Grant { session, grants } => {
                self.checkers.sent(partition, &grants);
                self.send_to_worker(session.0, ToWorker::Grants(grants));
            }
            Effect::Welcome { session, resumed, .. } => {
                let found = self.checkers.stale.resumed(partition, session, &resumed);
                found.into_iter().for_each(|text| self.checkers.fail("S4", text));
                self.send_to_worker(session.0, ToWorker::Welcome(resumed));
            }
            Effect::Accepted { session, count, .. } => self.send_to_worker(session.0, ToWorker::Accepted(count)),
            Effect::Cancel { session, task, token, .. } => {
                self.send_to_worker(session.0, ToWorker::Cancel(task, token))
            }
            Effect::Revoke { session, attempts } => self.send_to_worker(session.0, ToWorker::Revoke(attempts)),
            Effect::Recall { session, attempts } => self.send_to_worker(session.0, ToWorker::Recall(attempts)),
            Effect::Pressure { .. } => {}
            Effect::Compute(work) => self.compute(process, partition, work),
            Effect::Close { session, .. } => {
                self.send_to_worker(session.0, ToWorker::Close);
                self.node_closes(session.0);
            }
        }
    }
}
