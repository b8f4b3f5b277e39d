//! The partition: one engine loop's state. `apply` takes commands, `turn` hands out what is ready, `finish_batch` gives
//! what has to be stored and what is to be done after that, `committed` says that it was stored.
//!
//! Order of one round: any number of `apply`, `loaded` and one `turn`, then `finish_batch`. Effects belong to their batch
//! and must not be performed before it is durable. Loads may be performed at once. If a commit fails, the partition is
//! dropped and a new one is built from the store at a higher epoch.

mod affinity;
mod audit;
mod commit;
mod config;
mod control;
mod dispatch;
mod go_back;
mod loads;
mod options;
mod overload;
mod pool;
mod recover;
mod requirement;
mod results;
mod run_acts;
mod run_cache;
mod run_commands;
mod runs;
mod scan;
mod step_options;
mod step_types;
mod submit;
mod take;
mod timer;
mod turns;
mod view;
mod window;
mod worker;
mod workflows;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;

use crate::command::Command;
use crate::config::Tenant;
use crate::effect::{Effect, Refusal, Reply};
use crate::id::{Name, QueueId, RequestId, RunId, SessionId, TaskId, TenantId, TypeId, WorkerId};
use crate::load::{Load, LoadId};
use crate::mutation::{Mutation, Record, RecordKind, Recovered};
use crate::planted::Bug;
use crate::ready::{QueueWork, RequirementId};
use crate::task::{Spec, State, Task};
use crate::time::{Now, Steady};
use crate::wheel::{TimerKey, Wheel};

pub use audit::{Audit, SessionAudit};
pub use options::{Options, WithCompiler};
pub(crate) use pool::Pool;
pub(crate) use requirement::{Requirement, TypeWork};
pub(crate) use timer::{MonoTimer, Stage, WallTimer};
pub(crate) use worker::Session;

/// What the shell can tell without a read: whether an idempotency key may be known to the store.
pub trait Probe {
    /// `false` is certain.
    fn may_know(&self, tenant: TenantId, hash: &[u8; 16]) -> bool;
}

/// Who asks for a command that the partition gives itself: nobody waits for the answer, and none is made. Callers count from 1.
const NOBODY: RequestId = RequestId(0);

/// A record in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) task: Task,
    /// Batch that changed it last.
    pub(crate) batch: u64,
    /// It is in the open batch's list.
    pub(crate) dirty: bool,
    /// The store does not have it yet.
    pub(crate) new: bool,
    /// It is in a lane's window.
    pub(crate) in_window: bool,
    /// Counted as a warm task.
    pub(crate) warm: bool,
    /// Set while it runs.
    pub(crate) run: Option<Box<Run>>,
}

/// What is known of a running attempt, in memory only.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Session that has it; `None` = waits to be claimed after a reload or a lost stream.
    pub(crate) session: Option<SessionId>,
    /// Position in the session's list of attempts.
    pub(crate) position: usize,
    /// Timers: run, start, heartbeat, cancel.
    pub(crate) timers: [Option<TimerKey>; 4],
    /// Handler call it is part of; 0 = its own.
    pub(crate) call: u32,
    /// Last progress.
    pub(crate) progress: Option<(f32, Name)>,
    /// The worker said that it began.
    pub(crate) started: bool,
    /// It was asked back.
    pub(crate) recalled: bool,
}

/// A tenant at work.
#[derive(Debug)]
pub(crate) struct TenantWork {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) running: u32,
    pub(crate) queued: u64,
    /// Tasks that ended.
    pub(crate) ended: crate::ready::Meter,
    /// Limiter of what is taken in while it is throttled, in microseconds of the monotonic clock.
    pub(crate) intake_us: u64,
    pub(crate) tat_us: u64,
    pub(crate) rate_touched: bool,
    pub(crate) rate_until: u64,
    /// Its queues, for waking them.
    pub(crate) queues: Vec<QueueId>,
}

/// A read that has to see a commit that is still under way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LaterRead {
    /// Of a lane's window.
    Lane(QueueId, i64),
    /// Of the lanes of a class.
    Class(QueueId, usize),
    /// Of the history of a run that goes back, under its ticket.
    History(TenantId, RunId, u64),
}

/// A command that waits for loads.
#[derive(Debug)]
pub(crate) struct Waiting {
    command: Command,
    missing: usize,
    known: submit::Known,
}

/// What a load is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A command waits for a task.
    Command(u64),
    /// A command waits for an idempotency key.
    Key(u64, (TenantId, [u8; 16])),
    /// A lane's window.
    Lane(QueueId, i64),
    /// A scan for lanes.
    Lanes(QueueId, usize),
    /// One lane that was left to the store.
    OneLane(scan::Fetch),
    /// A run.
    Run(RunId),
    /// A command asks whether a run exists.
    RunExists(u64, TenantId, RunId),
    /// Values of a run.
    RunValues(RunId, Vec<crate::run::data::BlobHash>),
    /// The task of a step is to be cancelled.
    Unneeded(run_acts::Unneeded),
    /// The history of a run that goes back, under its ticket.
    History(RunId, u64),
    /// And values that it names.
    HistoryValues(RunId, u64, Vec<crate::run::data::BlobHash>),
    /// Due tasks that were not in memory.
    Fire,
    /// The next due window.
    Due,
}

/// See the module.
#[derive(Debug)]
pub struct Partition {
    pub(crate) options: Options,
    epoch: u32,
    /// Index of the open batch.
    index: u64,
    /// Newest committed batch.
    committed: u64,
    wall: u64,
    clock: Steady,
    /// How far the partition's wall clock is ahead of its caller's.
    ahead: u64,
    seq: u64,
    id_sequence: u64,
    grants: u64,
    calls: u32,

    pub(crate) tasks: HashMap<TaskId, Entry>,
    dirty: Vec<TaskId>,
    warm: usize,
    live: u64,
    /// Tasks that wait for a permit.
    queued: u64,
    /// Permits that nobody uses, of sessions that take more.
    free: u64,
    settled: VecDeque<(u64, TaskId)>,
    mutations: Vec<Mutation>,
    effects: Vec<Effect>,
    fired: timer::Fired,

    pub(crate) tenants: HashMap<TenantId, TenantWork>,
    tenant_names: HashMap<Name, TenantId>,
    next_tenant: u32,
    pub(crate) queues: HashMap<QueueId, QueueWork>,
    queue_names: HashMap<(TenantId, Name), QueueId>,
    next_queue: u32,
    touched_queues: Vec<QueueId>,
    touched_tenants: Vec<TenantId>,
    types: HashMap<TypeId, TypeWork>,
    type_ids: HashMap<TenantId, HashMap<Name, TypeId>>,
    next_type: u32,
    workers: HashMap<WorkerId, (TenantId, Name)>,
    worker_ids: HashMap<(TenantId, Name), WorkerId>,
    next_worker: u32,
    records: HashMap<(RecordKind, TenantId, Name), Arc<Record>>,
    requirements: Vec<Requirement>,
    requirement_ids: HashMap<Requirement, RequirementId>,

    /// Tasks that hold an ordering key, with their place in its order: granted at least once and not ended.
    holders: HashMap<(QueueId, i64), (TaskId, u64)>,
    /// Reads that make sense only when this batch is committed.
    later: VecDeque<(u64, LaterRead)>,

    idempotency: HashMap<(TenantId, [u8; 16]), (TaskId, u64)>,
    idempotency_settled: VecDeque<(u64, (TenantId, [u8; 16]))>,

    pub(crate) sessions: HashMap<SessionId, Session>,
    session_names: HashMap<(Option<TenantId>, Name), SessionId>,
    outbox: Vec<SessionId>,
    pub(crate) pools: Vec<Pool>,
    orphans: Vec<TaskId>,
    takers: take::Takers,
    pub(crate) runs: runs::Runs,
    /// What is registered for steps of runs, as it was last read.
    step_types: HashMap<(TenantId, Name), Arc<step_types::StepType>>,
    homes: affinity::Homes,
    running: usize,
    /// No grants: the node is shutting down.
    holding: bool,
    /// A [`MonoTimer::Balance`] is set.
    balancing: bool,

    wall_wheel: Wheel<WallTimer>,
    mono_wheel: Wheel<MonoTimer>,
    /// What of the stored due times is in the wheel.
    due: timer::DueWindow,

    next_load: u64,
    loads: Vec<(LoadId, Load)>,
    purposes: BTreeMap<LoadId, (Purpose, u64)>,
    waiting: HashMap<u64, Waiting>,
    next_waiting: u64,
    plain_spec: Arc<Spec>,
}

impl Partition {
    /// A partition from what the store has. Attempts that were running wait one lease to be claimed by their workers.
    pub fn new(options: Options, recovered: Recovered, now: Now) -> Partition {
        let wall = recovered.wall.max(now.wall);
        let mut p = Partition {
            epoch: recovered.epoch,
            index: recovered.last_index + 1,
            committed: recovered.last_index,
            wall,
            clock: Steady::new(Now { wall, mono: now.mono }),
            ahead: wall - now.wall,
            seq: recovered.seq,
            id_sequence: 0,
            grants: 0,
            calls: 0,
            tasks: HashMap::new(),
            dirty: Vec::new(),
            warm: 0,
            live: 0,
            queued: 0,
            free: 0,
            settled: VecDeque::new(),
            mutations: Vec::new(),
            effects: Vec::new(),
            tenants: HashMap::new(),
            tenant_names: HashMap::new(),
            next_tenant: 1,
            queues: HashMap::new(),
            queue_names: HashMap::new(),
            next_queue: 1,
            touched_queues: Vec::new(),
            touched_tenants: Vec::new(),
            types: HashMap::new(),
            type_ids: HashMap::new(),
            next_type: 1,
            workers: HashMap::new(),
            worker_ids: HashMap::new(),
            next_worker: 1,
            records: HashMap::new(),
            requirements: Vec::new(),
            requirement_ids: HashMap::new(),
            holders: HashMap::new(),
            later: VecDeque::new(),
            idempotency: HashMap::new(),
            idempotency_settled: VecDeque::new(),
            sessions: HashMap::new(),
            session_names: HashMap::new(),
            outbox: Vec::new(),
            pools: Vec::new(),
            orphans: Vec::new(),
            takers: take::Takers::default(),
            runs: runs::Runs::default(),
            step_types: HashMap::new(),
            homes: affinity::Homes::default(),
            running: 0,
            holding: false,
            balancing: false,
            fired: timer::Fired::default(),
            wall_wheel: Wheel::new(wall),
            mono_wheel: Wheel::new(now.mono),
            due: timer::DueWindow { after: recovered.last_index, ..Default::default() },
            next_load: 1,
            loads: Vec::new(),
            purposes: BTreeMap::new(),
            waiting: HashMap::new(),
            next_waiting: 1,
            plain_spec: Arc::new(Spec::default()),
            options,
        };
        p.recover(recovered, now);
        p
    }

    /// Epoch under which it commits.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Permits that are free and that no queued task is waiting for.
    pub fn spare_permits(&self) -> u64 {
        self.free.saturating_sub(self.queued)
    }

    /// Executes a command. Its reply, if it has one, is an effect of this batch or of a later one.
    pub fn apply(&mut self, command: Command, now: Now, probe: &dyn Probe) {
        let now = self.observe(now);
        self.execute(command, Vec::new(), now, Some(probe));
    }

    fn execute(&mut self, command: Command, known: submit::Known, now: Now, probe: Option<&dyn Probe>) {
        match command {
            Command::Submit { request, tenant, items } => self.submit(request, tenant, items, known, now, probe),
            Command::SubmitOnce { request, tenant, claim, items } => {
                self.submit_once(request, tenant, claim, items, known, now, probe);
            }
            Command::If { request, tenant, task, seen, then } => self.act_if(request, tenant, task, seen, then, now),
            Command::Cancel { request, tenant, task, reason } => self.cancel(request, tenant, task, reason, now),
            Command::Retry { request, tenant, task } => self.retry(request, tenant, task, now),
            Command::Patch { request, tenant, task, priority, run_at, labels } => {
                self.patch(request, tenant, task, (priority, run_at, labels), now);
            }
            Command::Connect { session, hello } => self.connect(session, *hello, now),
            Command::Disconnect { session } => self.disconnect(session, now),
            Command::Capacity { session, permits, buffer } => self.set_capacity(session, permits, buffer),
            Command::Heartbeat { session, beat } => self.heartbeat(session, *beat, now),
            Command::Started { session, attempts } => self.started(session, &attempts, now),
            Command::Progress { session, task, token, fraction, text } => {
                self.progress(session, task, token, (fraction, text), now);
            }
            Command::Results { session, results } => self.results(session, results, now),
            Command::Returned { session, attempts } => self.returned(session, &attempts, now),
            Command::Take { request, tenant, queue, taker, most, lease_ms, wait_ms } => {
                self.take(request, tenant, &queue, take::Wish { taker, most, lease_ms, wait_ms }, now);
            }
            Command::Settle { request, tenant, task, token, how } => {
                self.settle_item(request, tenant, task, (token, how), now);
            }
            Command::DrainWorker { request, tenant, name, session, draining } => {
                self.drain_worker(request, tenant, &name, session, draining);
            }
            Command::PutQueue { request, tenant, name, config, state, expected } => {
                self.put_queue(request, tenant, name, config, state, expected, now);
            }
            Command::DeleteQueue { request, tenant, name, expected } => {
                self.delete_queue(request, tenant, &name, expected);
            }
            Command::PutTenant { request, name, config, expected } => self.put_tenant(request, name, config, expected),
            Command::PutRecord { request, kind, tenant, key, value, expected } => {
                self.put_record(request, kind, tenant, key, value, expected);
            }
            Command::StartRun { request, tenant, start } => {
                if let Some(probe) = probe
                    && let Some((hash, _)) = start.claim
                    && !self.idempotency.contains_key(&(tenant, hash))
                    && probe.may_know(tenant, &hash)
                {
                    let command = Command::StartRun { request, tenant, start };
                    return self.wait_for_keys(command, vec![(tenant, hash)]);
                }
                self.start_run(request, tenant, *start, &known, now);
            }
            Command::ActOnRun { request, tenant, run, action } => self.act_on_run(request, tenant, run, action, now),
            Command::TurnComputed { run, ticket, outcome, .. } => self.turn_computed(run, ticket, *outcome, now),
            Command::Read { request, view } => self.read(request, view, now),
        }
    }

    /// The time of a call: wall time never falls within a partition, not even below that of its last owner.
    pub(crate) fn observe(&mut self, now: Now) -> Now {
        let seen = self.clock.observe(now);
        self.ahead = seen.wall - now.wall.min(seen.wall);
        self.wall = if self.options.planted.has(Bug::WallFallsBack) { now.wall } else { seen.wall };
        Now { wall: self.wall, mono: now.mono }
    }

    /// Fires what is due and hands out what is ready. Returns whether there is more to do at once.
    pub fn turn(&mut self, now: Now) -> bool {
        let now = self.observe(now);
        let more_timers = self.fire_wall(now) | self.fire_mono(now);
        let more_runs = self.serve_runs(now);
        let more_grants = self.dispatch(now);
        let more_items = self.serve_takers(now);
        self.plan_due_load(now);
        more_timers || more_grants || more_items || more_runs
    }

    /// Makes ready what is due and hands out nothing. Returns whether more is due than one turn takes. Leases and limits
    /// of attempts are not looked at: the signs of life that keep them may be waiting beside the commits.
    pub fn fire(&mut self, now: Now) -> bool {
        let now = self.observe(now);
        self.fire_wall(now)
    }

    /// By how many milliseconds the tasks that have become ready since the last call were late.
    pub fn take_fired(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.fired.late)
    }

    /// Whether nothing new is granted, whatever waits and whoever is free. Everything else goes on.
    pub fn hold_grants(&mut self, holding: bool) {
        self.holding = holding;
    }

    /// Loads to perform now. They do not wait for a commit.
    pub fn take_loads(&mut self) -> Vec<(LoadId, Load)> {
        std::mem::take(&mut self.loads)
    }

    /// The next time at which `turn` has something to do: (wall, mono), `None` = never by itself.
    pub fn next_wake(&self) -> (Option<u64>, Option<u64>) {
        let mut wall = self.wall_wheel.next_due();
        if !self.due.pass
            && let Some(at) = self.due_pass_at()
        {
            wall = Some(wall.map_or(at, |w| w.min(at)));
        }
        // In the caller's time: it may be behind, and then it comes too early and asks again.
        (wall.map(|at| at.saturating_sub(self.ahead)), self.mono_wheel.next_due())
    }

    /// Sessions, running attempts: what the shell shows without asking.
    pub fn load_figures(&self) -> (usize, usize, usize) {
        (self.sessions.len(), self.running, self.tasks.len())
    }

    // ---- shared by the rules ------------------------------------------------------------------------------------

    pub(crate) fn reply(&mut self, request: RequestId, reply: Reply) {
        if request != NOBODY {
            self.effects.push(Effect::Reply { request, reply });
        }
    }

    pub(crate) fn refuse(&mut self, request: RequestId, refusal: Refusal) {
        self.reply(request, Reply::Refused(refusal));
    }

    pub(crate) fn reply_task(&mut self, request: RequestId, id: TaskId) {
        if request == NOBODY {
            return;
        }
        if let Some(entry) = self.tasks.get(&id) {
            let task = Box::new(entry.task.clone());
            self.reply(request, Reply::Task(task));
        }
    }

    /// Marks a record as changed in the open batch.
    pub(crate) fn touch(&mut self, id: TaskId) {
        let index = self.index;
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.batch = index;
            if !entry.dirty {
                entry.dirty = true;
                self.dirty.push(id);
            }
        }
    }

    /// Moves a task to a state: counters, time of change, mark. Every change of state goes through here.
    pub(crate) fn set_state(&mut self, id: TaskId, next: State, now: Now) {
        let entry = self.tasks.get_mut(&id).expect("the task is in memory");
        let before = entry.task.state;
        assert!(before.can_become(next), "illegal transition {before:?} -> {next:?} of {id:?}");
        entry.task.state = next;
        entry.task.changed = now.wall;
        if entry.warm && next != State::Scheduled {
            entry.warm = false;
            self.warm -= 1;
        }
        let (queue, tenant) = (entry.task.queue, entry.task.tenant);
        self.count(queue, tenant, Some(before), next, now);
        self.touch(id);
    }

    /// Counts a task in (`before` = none) or from one state to the next.
    pub(crate) fn count(&mut self, queue: QueueId, tenant: TenantId, before: Option<State>, next: State, now: Now) {
        let Some(q) = self.queues.get_mut(&queue) else { return };
        if !q.touched {
            q.touched = true;
            self.touched_queues.push(queue);
        }
        let waits = |s: State| matches!(s, State::Queued | State::Scheduled);
        let mut waiting: i64 = 0;
        if let Some(before) = before {
            q.counts[before as usize] = q.counts[before as usize].saturating_sub(1);
            q.deltas[before as usize] -= 1;
            waiting -= i64::from(waits(before));
            self.queued = self.queued.saturating_sub(u64::from(before == State::Queued));
            self.live -= u64::from(!before.is_terminal() && self.live > 0);
        } else {
            q.accepted.0 += 1;
            q.accepted.1.add(now.mono, 1);
        }
        q.counts[next as usize] += 1;
        let left_out = next == State::Cancelled && self.options.planted.has(Bug::Miscounted);
        q.deltas[next as usize] += i64::from(!left_out);
        waiting += i64::from(waits(next));
        self.queued += u64::from(next == State::Queued);
        if next.is_terminal() {
            q.ended.0 += 1;
            q.ended.1.add(now.mono, 1);
        } else {
            self.live += 1;
        }
        if let Some(t) = self.tenants.get_mut(&tenant) {
            t.queued = t.queued.saturating_add_signed(waiting);
            if next.is_terminal() {
                t.ended.add(now.mono, 1);
            }
        }
    }
}

/// Who waits for a command.
pub fn request_of(command: &Command) -> Option<RequestId> {
    match command {
        Command::Submit { request, .. }
        | Command::SubmitOnce { request, .. }
        | Command::If { request, .. }
        | Command::Cancel { request, .. }
        | Command::Retry { request, .. }
        | Command::Patch { request, .. }
        | Command::Take { request, .. }
        | Command::Settle { request, .. }
        | Command::PutQueue { request, .. }
        | Command::DeleteQueue { request, .. }
        | Command::PutTenant { request, .. }
        | Command::PutRecord { request, .. }
        | Command::StartRun { request, .. }
        | Command::ActOnRun { request, .. }
        | Command::Read { request, .. } => Some(*request),
        Command::DrainWorker { request, .. } => *request,
        Command::Connect { .. }
        | Command::Disconnect { .. }
        | Command::Capacity { .. }
        | Command::Heartbeat { .. }
        | Command::Started { .. }
        | Command::Progress { .. }
        | Command::Results { .. }
        | Command::TurnComputed { .. }
        | Command::Returned { .. } => None,
    }
}
