//! Clients: they submit, cancel, retry, change, look, and put up with lost answers. What they were told is what the
//! checkers hold against the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidewheel_engine::Command;
use tidewheel_engine::command::{RunAction, Seen, Submit};
use tidewheel_engine::config::{QueueState, TenantConfig};
use tidewheel_engine::effect::{Refusal, Reply};
use tidewheel_engine::id::{RequestId, RunId, TaskId, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::task::Spec;
use tidewheel_engine::view::{Answer, View};

use super::World;
use crate::event::{Act, Event};
use crate::plan::{MS, Plan, SECOND};
use crate::rng::Rng;

/// A call is given up after this.
const PATIENCE: u64 = 4 * SECOND;
/// Tasks of which a client remembers the ids.
const REMEMBERED: usize = 2_000;

/// All clients.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) rng: Rng,
    /// For what not every client does, so that all others draw the same whether it is done or not.
    pub(crate) other: Rng,
    pub(crate) calls: BTreeMap<RequestId, Call>,
    pub(crate) next_request: u64,
    pub(crate) next_marker: u64,
    pub(crate) next_key: u64,
    /// Accepted tasks: partition, tenant, id.
    pub(crate) known: VecDeque<(usize, TenantId, TaskId)>,
    /// Items with a key, for asking again.
    pub(crate) keyed: Vec<Item>,
    pub(crate) specs: Vec<Arc<Spec>>,
    /// A task as it was when somebody looked at it.
    glance: Option<(usize, TenantId, TaskId, u64, Seen)>,
    /// Submits under a key for the whole.
    pub(crate) claimed: Vec<(Vec<Item>, Claim)>,
    paused: BTreeMap<(usize, usize), QueueState>,
    /// Settings as last asked for, so that a lift keeps the rest.
    pub(crate) plan: Vec<crate::plan::TenantPlan>,
}

/// One task of a submit, as a client sees it.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) tenant: TenantId,
    pub(crate) marker: u64,
    pub(crate) submit: Submit,
    pub(crate) partition: usize,
    /// An earlier try ended without an answer, or is still out.
    pub(crate) tried: bool,
}

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) partition: usize,
    pub(crate) kind: CallKind,
}

/// A key for a whole submit.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// Where it holds.
    pub(crate) key: (usize, TenantId, [u8; 16]),
    /// Hash of the body that it stands for.
    pub(crate) body: u64,
}

/// What it asks for.
#[derive(Clone, Debug)]
pub(crate) enum CallKind {
    /// Tasks, and maybe under a key for all of them.
    Submit(Vec<Item>, Option<Claim>),
    /// Items of a tenant's queue.
    Take(TenantId),
    /// About an accepted task.
    Task(TaskId, bool),
    /// To cancel a task as it was seen.
    Seen(TaskId),
    /// A run.
    Start(Box<super::Start>),
    /// About an acknowledged run, and what is to be done to it.
    Run(RunId, Option<RunAction>),
    /// The run whose history is to be rehearsed.
    Rehearse(Box<super::Move>),
    /// Anything else.
    Other,
}

impl Client {
    pub(crate) fn new(plan: &Plan, mut rng: Rng) -> Client {
        let specs = super::submit::specs(plan, &mut rng);
        Client {
            rng,
            other: Rng::new(plan.seed ^ 0x6f74_6865),
            calls: BTreeMap::new(),
            next_request: 1,
            next_marker: 1,
            next_key: 1,
            known: VecDeque::new(),
            keyed: Vec::new(),
            specs,
            glance: None,
            claimed: Vec::new(),
            paused: BTreeMap::new(),
            plan: plan.tenants.clone(),
        }
    }
}

impl World {
    pub(crate) fn set_up_tenants(&mut self) {
        for (number, tenant) in self.plan.tenants.clone().into_iter().enumerate() {
            for partition in 0..self.disks.len() {
                self.put_tenant(partition, number, tenant.config.clone());
                for (queue, config) in tenant.queues.iter().enumerate() {
                    self.put_queue(partition, number, queue, Some(config.clone()), None);
                }
            }
        }
    }

    pub(crate) fn put_tenant(&mut self, partition: usize, number: usize, config: TenantConfig) {
        let name = format!("tenant-{number}").into();
        self.call(partition, CallKind::Other, |request| Command::PutTenant { request, name, config, expected: None });
    }

    pub(crate) fn put_queue(
        &mut self,
        partition: usize,
        tenant: usize,
        queue: usize,
        config: Option<tidewheel_engine::config::QueueConfig>,
        state: Option<QueueState>,
    ) {
        let (name, tenant) = (format!("q{queue}").into(), TenantId(tenant as u32 + 1));
        let config = config.map(Box::new);
        let command = |request| Command::PutQueue { request, tenant, name, config, state, expected: None };
        self.call(partition, CallKind::Other, command);
    }

    /// Sends a call to a partition.
    pub(crate) fn call(&mut self, partition: usize, kind: CallKind, command: impl FnOnce(RequestId) -> Command) {
        let request = RequestId(self.client.next_request);
        self.client.next_request += 1;
        let command = command(request);
        if self.now == 0 {
            // Setting up is not part of what is tested.
            let process = self.current.unwrap_or_default();
            return self.give(process, partition, command);
        }
        self.client.calls.insert(request, Call { partition, kind });
        self.after(PATIENCE, Event::CallTimeout { request });
        let faults = !self.is_quiet();
        if faults && self.rng.chance(self.plan.faults.lost_call) {
            return self.count("request lost");
        }
        if faults && self.rng.chance(self.plan.faults.double_call) {
            self.count("request twice");
            if let Some(Call { kind: CallKind::Run(_, Some(RunAction::Move(to))), .. }) =
                self.client.calls.get(&request)
            {
                self.checkers.runs.asks.twice(&to.by);
            }
            let wait = self.delay();
            self.after(wait, Event::Asked { partition, request, command: Box::new(command.clone()) });
            if let Some(Call { kind: CallKind::Submit(items, _), .. }) = self.client.calls.get_mut(&request) {
                items.iter_mut().for_each(|item| item.tried = true);
            }
        }
        let wait = self.delay();
        self.after(wait, Event::Asked { partition, request, command: Box::new(command) });
    }

    pub(crate) fn call_timeout(&mut self, request: RequestId) {
        if let Some(call) = self.client.calls.remove(&request) {
            self.count("call without answer");
            self.unknown(call);
        }
    }

    /// A call ended without an answer: what has a key is asked again, the rest may be stored or not.
    fn unknown(&mut self, call: Call) {
        let CallKind::Submit(items, claim) = call.kind else { return self.run_unknown(call) };
        let (mut again, lost): (Vec<Item>, Vec<Item>) =
            items.into_iter().partition(|item| item.submit.idempotency.is_some());
        lost.iter().for_each(|item| self.checkers.accept.unknown(item.marker));
        again.iter_mut().for_each(|item| item.tried = true);
        if !again.is_empty() && (!self.is_quiet() || self.now < self.plan.length + 30 * SECOND) {
            match claim {
                Some(claim) => self.submit_once(again, claim),
                None => self.submit(call.partition, again),
            }
        }
    }

    pub(crate) fn answered(&mut self, request: RequestId, reply: Option<Reply>) {
        let Some(call) = self.client.calls.remove(&request) else { return };
        let Some(reply) = reply else { return self.unknown(call) };
        if let CallKind::Submit(_, Some(claim)) = &call.kind {
            let refusal = match &reply {
                Reply::Refused(refusal) => Some(refusal),
                _ => None,
            };
            let found = self.checkers.sights.claimed(claim, refusal);
            self.checkers.add_all(found);
        }
        match (call.kind, reply) {
            (CallKind::Submit(items, _), Reply::Submitted(outcomes)) => {
                if items.len() != outcomes.len() {
                    self.checkers.fail("S1", format!("{} outcomes for {} tasks", outcomes.len(), items.len()));
                }
                for (item, outcome) in items.iter().zip(outcomes) {
                    if let Some(id) = self.checkers.submitted(item, &outcome) {
                        self.client.known.push_back((item.partition, item.tenant, id));
                    }
                }
                while self.client.known.len() > REMEMBERED {
                    self.client.known.pop_front();
                }
            }
            (CallKind::Submit(items, _), Reply::Refused(_)) => {
                items.iter().for_each(|item| self.checkers.overload.refused(item));
            }
            (
                CallKind::Seen(task) | CallKind::Task(task, _),
                Reply::Refused(Refusal::NotFound) | Reply::View(Answer::NotFound),
            ) => {
                self.checkers.fail("S1", format!("task {:x} was accepted, and a strong read does not find it", task.0));
            }
            (CallKind::Task(task, _), Reply::View(Answer::Why(reasons))) if reasons.is_empty() => {
                self.checkers.fail("L2", format!("there is no reason why task {:x} is where it is", task.0));
            }
            (kind @ (CallKind::Start(_) | CallKind::Run(..) | CallKind::Rehearse(_)), reply) => {
                self.run_answered(call.partition, kind, reply)
            }
            (CallKind::Take(tenant), Reply::Taken(grants)) => self.taken(call.partition, tenant, &grants),
            (CallKind::Seen(_), Reply::Task(_)) => {
                let found = self.checkers.sights.cancelled(request);
                found.into_iter().for_each(|text| self.checkers.fail("L10", text));
            }
            (CallKind::Task(task, true), Reply::Task(_)) => self.checkers.retried(call.partition, task),
            _ => {}
        }
    }

    pub(crate) fn plan_acts(&mut self) {
        let load = self.plan.load.clone();
        for (mean, act) in [
            (load.task_every, Act::Submit),
            (load.cancel_every, Act::Cancel),
            (load.retry_every, Act::Retry),
            (load.patch_every, Act::Patch),
            (load.pause_every, Act::Pause),
            (load.config_every, Act::Config),
            (load.read_every, Act::Read),
            (load.drain_every, Act::Drain),
        ] {
            self.act_after(mean, act);
        }
        if self.plan.workers.iter().any(|worker| worker.own_types.is_some()) {
            self.at(self.plan.length / 3, Event::Act(Act::Register));
        }
    }

    /// From now on every worker can run tasks of one type: its code comes with a package.
    fn act_register(&mut self) {
        self.registered = true;
        for tenant in (0..self.plan.tenants.len()).map(|n| TenantId(n as u32 + 1)) {
            for partition in 0..self.disks.len() {
                self.put_record(partition, RecordKind::TaskType, tenant, super::worker::REGISTERED, "{}");
            }
        }
    }

    fn act_after(&mut self, mean: u64, act: Act) {
        if mean > 0 && !self.is_quiet() {
            let wait = self.client.rng.exponential(mean);
            self.after(wait.max(MS), Event::Act(act));
        }
    }

    pub(crate) fn act(&mut self, act: Act) {
        if self.is_quiet() {
            return;
        }
        let load = &self.plan.load;
        let mean = match act {
            Act::Submit => return self.act_submit(),
            Act::Register => return self.act_register(),
            Act::Cancel => load.cancel_every,
            Act::Retry => load.retry_every,
            Act::Patch => load.patch_every,
            Act::Pause => load.pause_every,
            Act::Config => load.config_every,
            Act::Read => load.read_every,
            Act::Drain => load.drain_every,
        };
        match act {
            Act::Pause => self.act_pause(),
            Act::Config => self.act_config(),
            Act::Drain => self.act_drain(),
            _ => self.act_on_task(act),
        }
        self.act_after(mean, act);
    }

    fn act_submit(&mut self) {
        let most = self.plan.load.bulk;
        let number = if most > 1 && self.client.rng.chance(0.3) { self.client.rng.range(2, most) } else { 1 };
        self.submit_some(number);
        // The same number of tasks per second, whatever the size of a submit.
        self.act_after(self.plan.load.task_every * number, Act::Submit);
    }

    fn some_task(&mut self) -> Option<(usize, TenantId, TaskId)> {
        let all = self.client.known.len() as u64;
        // Young ones are more often in the middle of something.
        let window = if self.client.rng.chance(0.7) { all.min(60) } else { all };
        let at = all.checked_sub(1 + self.client.rng.below(window))?;
        self.client.known.get(at as usize).copied()
    }

    fn act_on_task(&mut self, act: Act) {
        let Some((partition, tenant, mut task)) = self.some_task() else { return };
        if act == Act::Cancel && self.client.other.chance(0.3) {
            return self.cancel_as_seen((partition, tenant, task));
        }
        let mut retry = false;
        let command = match act {
            Act::Cancel => self.cancel_command(tenant, task),
            Act::Retry => {
                retry = true;
                task = self.checkers.some_failed(partition, self.client.rng.next()).unwrap_or(task);
                let tenant = self.checkers.tenant_of(partition, task).unwrap_or(tenant);
                let request = RequestId(self.client.next_request);
                self.checkers.retried(partition, task);
                Command::Retry { request, tenant, task }
            }
            Act::Patch => self.patch_command(partition, tenant, task),
            _ => self.read_command(tenant, task),
        };
        self.call(partition, CallKind::Task(task, retry), |_| command);
    }

    /// Cancels what was seen some time ago, or just now, unless it has changed since; and has a look at another task for the next time.
    fn cancel_as_seen(&mut self, (partition, tenant, task): (usize, TenantId, TaskId)) {
        let look = |world: &mut World| {
            let stored = world.checkers.fold(partition).tasks.get(&task).cloned()?;
            let (glance, seen) = world.checkers.sights.look((partition, task), &stored);
            Some((partition, tenant, task, glance, seen))
        };
        let Some(fresh) = look(self) else { return };
        let seen = if self.client.other.chance(0.5) { self.client.glance.replace(fresh) } else { Some(fresh) };
        let Some((partition, tenant, task, glance, seen)) = seen else { return };
        let request = RequestId(self.client.next_request);
        self.checkers.sights.cancels(request, glance);
        let then = Box::new(self.cancel_command(tenant, task));
        let command = |request| Command::If { request, tenant, task, seen: vec![seen], then };
        self.call(partition, CallKind::Seen(task), command);
    }

    fn cancel_command(&mut self, tenant: TenantId, task: TaskId) -> Command {
        let request = RequestId(self.client.next_request);
        Command::Cancel { request, tenant, task, reason: "asked for".into() }
    }

    fn patch_command(&mut self, partition: usize, tenant: TenantId, task: TaskId) -> Command {
        let request = RequestId(self.client.next_request);
        let wall = self.node_now(self.current.unwrap_or_default(), partition).map_or(0, |now| now.wall);
        let rng = &mut self.client.rng;
        let priority = rng.chance(0.5).then(|| rng.below(10) as u8);
        let run_at = rng.chance(0.4).then(|| if rng.chance(0.3) { 0 } else { wall + rng.below(20_000) });
        // Labels are part of the spec, which an update does not write again: they are left alone here.
        Command::Patch { request, tenant, task, priority, run_at, labels: None }
    }

    fn read_command(&mut self, tenant: TenantId, task: TaskId) -> Command {
        let request = RequestId(self.client.next_request);
        Command::Read { request, view: View::Why { tenant, task } }
    }

    fn act_pause(&mut self) {
        let tenant = self.client.rng.below(self.plan.tenants.len() as u64) as usize;
        let queue = self.client.rng.below(self.plan.tenants[tenant].queues.len() as u64) as usize;
        let states = [QueueState::Paused, QueueState::Draining];
        let other = *self.client.rng.pick(&states);
        let state = self.client.paused.entry((tenant, queue)).or_default();
        *state = if *state == QueueState::Active { other } else { QueueState::Active };
        let state = *state;
        for partition in 0..self.disks.len() {
            self.put_queue(partition, tenant, queue, None, Some(state));
        }
    }

    fn act_config(&mut self) {
        let tenant = self.client.rng.below(self.plan.tenants.len() as u64) as usize;
        if self.client.rng.chance(0.3) {
            let config = TenantConfig {
                weight: *self.client.rng.pick(&[10, 100, 300]),
                concurrency: *self.client.rng.pick(&[0, 2, 5]),
                ..TenantConfig::default()
            };
            self.client.plan[tenant].config = config.clone();
            return (0..self.disks.len()).for_each(|partition| self.put_tenant(partition, tenant, config.clone()));
        }
        let queue = self.client.rng.below(self.plan.tenants[tenant].queues.len() as u64) as usize;
        let load = self.plan.load.clone();
        let config = crate::plan::queue(&mut self.client.rng, &load, true);
        self.client.plan[tenant].queues[queue] = config.clone();
        for partition in 0..self.disks.len() {
            self.put_queue(partition, tenant, queue, Some(config.clone()), None);
        }
    }

    fn act_drain(&mut self) {
        let worker = self.client.rng.below(self.plan.workers.len() as u64) as usize;
        let (name, draining) = (super::worker::name_of(worker), self.client.rng.chance(0.4));
        let tenant = self.workers[worker].plan.tenant.map(|t| TenantId(t as u32 + 1));
        for partition in 0..self.disks.len() {
            let name = name.as_str().into();
            let drain =
                |request| Command::DrainWorker { request: Some(request), tenant, name, session: None, draining };
            self.call(partition, CallKind::Other, drain);
        }
    }
}
