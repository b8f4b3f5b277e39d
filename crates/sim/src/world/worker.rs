//! Workers as the protocol allows them to be: they connect, take grants, run, report in batches, resend what was not
//! acknowledged, resume, drain, freeze and die. A worker has one link (stream, permits, attempts) per partition.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use serde_json::Value as Json;
use tidewheel_engine::Command;
use tidewheel_engine::command::{Beat, Hello, Usage};
use tidewheel_engine::effect::Grant;
use tidewheel_engine::id::{Name, SessionId, TaskId, TenantId, Token};
use tidewheel_engine::load::{Load, Loaded};
use tidewheel_engine::ready::mix;
use tidewheel_engine::task::{Outcome, Payload, Resources, class_of};
use tidewheel_store::memory;

use super::World;
use super::outcome::{made_by, outcome, step_outcome};
use crate::event::{Event, How, ToWorker};
use crate::plan::{MS, SECOND, WorkerPlan};
use crate::program;

/// Time between heartbeats.
const BEAT: u64 = SECOND;

/// A worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) plan: WorkerPlan,
    pub(crate) up: bool,
    /// Rises with each start.
    pub(crate) life: u32,
    pub(crate) frozen_until: u64,
    pub(crate) draining: bool,
    /// It shall not connect by itself.
    pub(crate) away: bool,
    pub(crate) links: Vec<Link>,
    /// Programs that it has in memory, by run: generation and epoch, and the turns that they have seen.
    parked: BTreeMap<String, Parked>,
}

/// See [`Worker::parked`].
type Parked = ((u64, u64), Vec<Json>);

/// What the input of an activation has, and that of a task has not.
const ACTIVATION: &[u8] = b"\"turns\":";

/// Steps of runs, for which every worker has code.
const STEPS: [&str; 3] = ["s*", "u*", "@*"];
/// The type for which a package is registered in the middle.
pub(super) const REGISTERED: &str = "t0";

/// The name of a type that a worker has code for: of every other one also those that begin like it.
fn own_type(number: usize) -> Name {
    if number % 2 == 1 { format!("t{number}*") } else { format!("t{number}") }.into()
}

/// A worker's stream to one partition and what it got through it.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) conn: Option<u64>,
    pub(crate) welcomed: bool,
    pub(crate) attempts: BTreeMap<(TaskId, Token), Attempt>,
    waiting: VecDeque<(TaskId, Token)>,
    /// Handler calls that run, with their members that are left.
    calls: BTreeMap<u64, u32>,
    next_call: u64,
    unacked: VecDeque<(TaskId, Token, Outcome)>,
    /// Of `unacked`, from the front, sent on this stream.
    sent: usize,
    heard: u64,
}

#[derive(Debug)]
pub(crate) struct Attempt {
    grant: Grant,
    call: u64,
    running: bool,
}

impl Worker {
    pub(crate) fn new(plan: WorkerPlan, links: usize) -> Worker {
        let links = (0..links).map(|_| Link::default()).collect();
        Worker {
            plan,
            up: false,
            life: 0,
            frozen_until: 0,
            draining: false,
            away: false,
            links,
            parked: BTreeMap::new(),
        }
    }

    /// Whether it is alive and still has this attempt, or its unsent result.
    pub(crate) fn holds(&self, link: usize, now: u64, task: TaskId, token: Token) -> bool {
        let l = &self.links[link];
        self.up
            && self.frozen_until <= now
            && l.welcomed
            && (l.attempts.contains_key(&(task, token)) || l.unacked.iter().any(|u| (u.0, u.1) == (task, token)))
    }
}

/// The name of a worker.
pub(crate) fn name_of(worker: usize) -> String {
    format!("w{worker}")
}

impl World {
    pub(crate) fn worker_starts(&mut self, worker: usize) {
        let links = self.workers[worker].links.len();
        let w = &mut self.workers[worker];
        if w.up {
            return;
        }
        w.up = true;
        w.life += 1;
        w.frozen_until = 0;
        w.draining = false;
        let life = w.life;
        w.links = (0..links).map(|_| Link::default()).collect();
        w.parked.clear();
        for link in 0..links {
            self.after(0, Event::Connect { worker, link, life });
        }
        let wait = self.rng.below(BEAT);
        self.after(wait, Event::Beat { worker, life });
    }

    /// Whether an event of a worker is still its own; a frozen one gets it later.
    fn awake(&mut self, worker: usize, life: u32, again: Event) -> bool {
        let w = &self.workers[worker];
        if !w.up || w.life != life {
            return false;
        }
        let until = w.frozen_until;
        if until > self.now {
            self.at(until, again);
            return false;
        }
        true
    }

    pub(crate) fn connect(&mut self, worker: usize, link: usize, life: u32) {
        if !self.awake(worker, life, Event::Connect { worker, link, life }) {
            return;
        }
        let w = &self.workers[worker];
        if w.links[link].conn.is_some() || w.away {
            return;
        }
        let reachable = self.current.filter(|p| self.processes[p].parts[link].shell.is_some());
        let Some(process) = reachable else {
            let wait = self.rng.range(50, 500) * MS;
            return self.after(wait, Event::Connect { worker, link, life });
        };
        let conn = self.open_conn(worker, link, process);
        let hello = self.hello(worker, link);
        let l = &mut self.workers[worker].links[link];
        (l.conn, l.welcomed, l.sent) = (Some(conn), false, 0);
        self.send_to_node(conn, Command::Connect { session: SessionId(conn), hello: Box::new(hello) });
        // A hello that gets no answer is given up.
        self.after(5 * SECOND, Event::Connect { worker, link, life });
    }

    fn hello(&self, worker: usize, link: usize) -> Hello {
        let w = &self.workers[worker];
        let l = &w.links[link];
        let unsent = l.unacked.iter().map(|u| (u.0, u.1));
        let resume: BTreeSet<_> = l.attempts.keys().copied().chain(unsent).collect();
        let label = |n: &usize| match *n {
            usize::MAX => ["l0", "l1", "l2"].map(|l| (l.into(), "yes".into())).to_vec(),
            n => vec![(format!("l{n}").into(), "yes".into())],
        };
        Hello {
            tenant: w.plan.tenant.map(|t| TenantId(t as u32 + 1)),
            name: name_of(worker).as_str().into(),
            instance: format!("{}", w.life).as_str().into(),
            queues: w.plan.queues.iter().map(|q| format!("q{q}").into()).collect(),
            types: w.plan.types.iter().map(|t| format!("t{t}").into()).collect(),
            own_types: w
                .plan
                .own_types
                .as_ref()
                .map(|own| own.iter().copied().map(own_type).chain(STEPS.map(Into::into)).collect()),
            labels: w.plan.labels.iter().flat_map(label).collect(),
            resources: Resources { cpu_millis: w.plan.cpu_millis, memory_bytes: 0 },
            serves: w.plan.serves.clone(),
            data: w.plan.data.iter().map(|d| format!("d{d}").into()).collect(),
            permits: w.plan.permits,
            buffer: w.plan.buffer,
            resume: if w.plan.resumes { resume.into_iter().collect() } else { Vec::new() },
            ..Hello::default()
        }
    }

    pub(crate) fn worker_hears(&mut self, worker: usize, link: usize, conn: u64, message: ToWorker) {
        let now = self.now;
        let l = &mut self.workers[worker].links[link];
        if l.conn != Some(conn) {
            return;
        }
        l.heard = now;
        match message {
            ToWorker::Welcome(resumed) => self.welcomed(worker, link, &resumed),
            ToWorker::Grants(grants) => grants.into_iter().for_each(|grant| self.take_grant(worker, link, grant)),
            ToWorker::Accepted(count) => {
                let count = (count as usize).min(l.sent);
                l.unacked.drain(..count);
                l.sent -= count;
            }
            ToWorker::Cancel(task, token) => self.told_to_stop(worker, link, task, token),
            ToWorker::Revoke(attempts) => {
                attempts.into_iter().for_each(|at| self.drop_attempt(worker, link, at));
                self.start_waiting(worker, link);
            }
            ToWorker::Recall(attempts) => self.give_back(worker, link, conn, attempts),
            ToWorker::Close => self.worker_lost_conn(worker, link, conn),
        }
    }

    fn welcomed(&mut self, worker: usize, link: usize, resumed: &[(TaskId, Token)]) {
        let draining = self.workers[worker].draining;
        let l = &mut self.workers[worker].links[link];
        l.welcomed = true;
        let gone: Vec<_> = l.attempts.keys().filter(|at| !resumed.contains(at)).copied().collect();
        // An attempt that was stopped after the hello had named it is the worker's to report: nobody else will.
        let unsent = |at: &(TaskId, Token)| l.unacked.iter().any(|u| (u.0, u.1) == *at);
        let stopped: Vec<_> =
            resumed.iter().filter(|at| !l.attempts.contains_key(at) && !unsent(at)).copied().collect();
        l.unacked.extend(stopped.into_iter().map(|at| (at.0, at.1, outcome(at.1, How::Error(0)))));
        let conn = l.conn.unwrap_or_default();
        // That they began may have been lost with the stream before.
        resumed.iter().for_each(|at| self.checkers.lost_worker.taken(link, at.0, at.1));
        let began: Vec<_> =
            resumed.iter().filter(|at| l.attempts.get(at).is_some_and(|a| a.running)).copied().collect();
        if !began.is_empty() {
            self.send_to_node(conn, Command::Started { session: SessionId(conn), attempts: began });
        }
        for at in gone {
            self.drop_attempt(worker, link, at);
        }
        self.start_waiting(worker, link);
        self.send_results(worker, link);
        if draining {
            let name = name_of(worker).into();
            let drain = Command::DrainWorker {
                request: None,
                tenant: None,
                name,
                session: Some(SessionId(conn)),
                draining: true,
            };
            self.send_to_node(conn, drain);
        }
    }

    /// Returns what was asked back and has not begun.
    fn give_back(&mut self, worker: usize, link: usize, conn: u64, mut attempts: Vec<(TaskId, Token)>) {
        let l = &mut self.workers[worker].links[link];
        attempts.retain(|at| l.attempts.get(at).is_some_and(|attempt| !attempt.running));
        for at in &attempts {
            l.attempts.remove(at);
        }
        if !attempts.is_empty() {
            self.send_to_node(conn, Command::Returned { session: SessionId(conn), attempts });
        }
    }

    fn take_grant(&mut self, worker: usize, link: usize, grant: Grant) {
        let at = (grant.task, grant.token);
        self.checkers.worker_saw(link, at.0, at.1);
        let serves = &self.workers[worker].plan.serves;
        if !serves.takes(class_of(grant.priority), grant.spec.length(), grant.spec.executor.as_ref()) {
            let text = format!("worker {worker} serves {serves:?} and is given {grant:?}");
            self.checkers.fail("S23", text);
        }
        if !self.has_code(worker, &grant) {
            let text = format!(
                "worker {worker} is given {:?} and has code for {:?}",
                grant.kind, self.workers[worker].plan.own_types
            );
            self.checkers.fail("S23", text);
        }
        let l = &mut self.workers[worker].links[link];
        let call = if grant.batch > 0 {
            u64::from(grant.batch)
        } else {
            l.next_call += 1;
            l.next_call << 32
        };
        l.attempts.insert(at, Attempt { grant, call, running: false });
        l.waiting.push_back(at);
        self.start_waiting(worker, link);
    }

    /// Whether it has code for a task, or a package brings it along.
    fn has_code(&self, worker: usize, grant: &Grant) -> bool {
        let Some(own) = &self.workers[worker].plan.own_types else { return true };
        let fits = |number: &usize| match own_type(*number).strip_suffix('*') {
            Some(start) => grant.kind.starts_with(start),
            None => *own_type(*number) == *grant.kind,
        };
        let registered = &*grant.kind == REGISTERED && self.registered;
        grant.spec.package.is_some() || registered || !grant.kind.starts_with('t') || own.iter().any(fits)
    }

    /// Starts what waits, as far as permits go. Members of one call share a permit.
    fn start_waiting(&mut self, worker: usize, link: usize) {
        let permits = self.workers[worker].plan.permits as usize;
        let mut started = Vec::new();
        loop {
            let l = &mut self.workers[worker].links[link];
            let Some(at) = l.waiting.front().copied() else { break };
            let Some(attempt) = l.attempts.get_mut(&at) else {
                l.waiting.pop_front();
                continue;
            };
            if l.calls.len() >= permits && !l.calls.contains_key(&attempt.call) {
                break;
            }
            attempt.running = true;
            *l.calls.entry(attempt.call).or_default() += 1;
            l.waiting.pop_front();
            started.push(at);
        }
        for at in &started {
            self.run_attempt(worker, link, *at);
        }
        let l = &self.workers[worker].links[link];
        if let Some(conn) = l.conn
            && l.welcomed
            && !started.is_empty()
        {
            self.send_to_node(conn, Command::Started { session: SessionId(conn), attempts: started });
        }
    }

    /// What an attempt does is drawn from its task and number, so that a repeat can differ.
    fn run_attempt(&mut self, worker: usize, link: usize, at: (TaskId, Token)) {
        let life = self.workers[worker].life;
        let Some(attempt) = self.workers[worker].links[link].attempts.get(&at) else { return };
        let Payload::Inline(marker) = &attempt.grant.input else {
            return self.checkers.fail("S1", format!("task {:x} is granted without its input", at.0.0));
        };
        let marker = std::str::from_utf8(marker).ok().and_then(|t| t.parse::<u64>().ok());
        // Steps of runs carry no marker: their ids differ.
        let marker = marker.unwrap_or(at.0.0 as u64);
        let draw = mix(mix(marker) ^ u64::from(attempt.grant.attempt));
        let part = |n: u32| ((mix(draw ^ u64::from(n)) >> 11) as f64) / (1u64 << 53) as f64;
        let load = &self.plan.load;
        let usual = load.run_ms as f64;
        let length = match part(1) {
            p if p < 0.6 => usual * 0.02 + usual * 0.2 * part(2),
            p if p < 0.92 => usual * part(2),
            p if p < 0.99 => usual * 3.0 * part(2),
            _ => usual * 15.0 * part(2),
        };
        let heartbeat = attempt.grant.spec.timeouts.heartbeat_ms;
        let limited = attempt.grant.spec.timeouts.run_ms > 0;
        let hangs = limited && part(3) < load.hanging && !self.is_quiet();
        let how = match part(4) {
            p if p < load.poison => How::Poison,
            p if p < load.poison + load.failing => How::Error((part(5) * 4.0) as u8),
            _ => How::Ok,
        };
        if heartbeat > 0 && part(6) < 0.8 {
            let every = heartbeat * MS / 3;
            self.after(every, Event::Progress { worker, link, life, task: at.0, token: at.1, every });
        }
        if !hangs {
            let wait = (length * MS as f64) as u64 + 100;
            self.after(wait, Event::Done { worker, link, life, task: at.0, token: at.1, how });
        }
    }

    pub(crate) fn progress(&mut self, worker: usize, link: usize, life: u32, at: (TaskId, Token), every: u64) {
        let again = |at: (TaskId, Token)| Event::Progress { worker, link, life, task: at.0, token: at.1, every };
        if !self.awake(worker, life, again(at)) {
            return;
        }
        let l = &self.workers[worker].links[link];
        if !l.attempts.contains_key(&at) {
            return;
        }
        if let Some(conn) = l.conn {
            let (session, fraction, text) = (SessionId(conn), 0.5, "half way".into());
            self.send_to_node(conn, Command::Progress { session, task: at.0, token: at.1, fraction, text });
        }
        self.after(every, again(at));
    }

    pub(crate) fn done(&mut self, worker: usize, link: usize, life: u32, at: (TaskId, Token), how: How) {
        if !self.awake(worker, life, Event::Done { worker, link, life, task: at.0, token: at.1, how }) {
            return;
        }
        if !self.workers[worker].links[link].attempts.contains_key(&at) {
            return;
        }
        if how == How::Poison && !self.is_quiet() {
            self.count("worker killed by its task");
            return self.kill_worker(worker);
        }
        let how = if how == How::Poison { How::Ok } else { how };
        let grant = self.workers[worker].links[link].attempts.get(&at).map(|attempt| &attempt.grant);
        let (input, tenant) = (grant.map(|grant| grant.input.clone()), grant.map_or(TenantId(0), |grant| grant.tenant));
        self.drop_attempt(worker, link, at);
        let made = match &input {
            Some(Payload::Inline(bytes)) if how == How::Ok => self.activation(worker, link, tenant, at, bytes),
            _ => None,
        };
        let made = made.or_else(|| step_outcome(at.1, how, input));
        let outcome = made.unwrap_or_else(|| outcome(at.1, how));
        self.workers[worker].links[link].unacked.push_back((at.0, at.1, outcome));
        self.start_waiting(worker, link);
        self.send_results(worker, link);
    }

    /// Runs a program: from its whole history, or on from where this worker has it parked.
    fn activation(
        &mut self,
        worker: usize,
        link: usize,
        tenant: TenantId,
        (task, token): (TaskId, Token),
        bytes: &Bytes,
    ) -> Option<Outcome> {
        if !bytes.windows(ACTIVATION.len()).any(|part| part == ACTIVATION) {
            return None;
        }
        let input: Json = serde_json::from_slice(bytes).ok()?;
        let (run, turns) = (input["run"].as_str()?.to_owned(), input["turns"].as_array()?);
        let (name, version) = input["workflow"].as_str()?.split_once('/')?.1.split_once(':')?;
        let flows = self.plan.runs.flows.clone();
        let flow = flows.find(name, version)?;
        // The code of another version is in another process.
        let parked_as = format!("{run} {version}");
        let which = (input["generation"].as_u64()?, input["epoch"].as_u64()?);
        let (first, no) = (input["first"].as_u64()?, turns.last()?["no"].as_u64()?);
        let fits = |known: &&Parked| known.0 == which && (first..=no).contains(&(known.1.len() as u64 + 1));
        let parked = self.workers[worker].parked.get(&parked_as).filter(fits).map(|known| known.1.clone());
        let goes_on = |known: &Vec<Json>| !mix(known.len() as u64 ^ which.1).is_multiple_of(4);
        let mut history = match &parked {
            Some(known) if goes_on(known) => known[..known.len().min(first as usize - 1)].to_vec(),
            _ => match self.earlier_turns(link, tenant, &input) {
                Ok(earlier) => earlier,
                Err(text) => {
                    self.checkers.fail("S13", format!("run {run} of {name}:{version} cannot be replayed: {text}"));
                    return None;
                }
            },
        };
        history.extend(turns.iter().cloned());
        if let Some(known) = parked.filter(|known| known[..] != history[..known.len().min(history.len())]) {
            let text = format!("run {run} is parked with {known:?} and is told {history:?}");
            self.checkers.fail("S13", text);
        }
        match program::activate(&flows, flow, &input, &history) {
            Ok(result) => {
                let mut seen = history;
                if let (Some(last), Some(commands)) = (seen.last_mut(), result["commands"].as_array()) {
                    let opened = commands.iter().map(|c| serde_json::json!({"key": c["key"], "hash": c["hash"]}));
                    last["opened"] = opened.collect();
                }
                self.workers[worker].parked.insert(parked_as, (which, seen));
                Some(made_by(token, &result))
            }
            Err(text) => {
                let id = self.checkers.runs.run_of(link, task);
                let differs = id.and_then(|id| self.differs(link, id, &text));
                if differs.is_none() {
                    self.checkers.fail("S13", format!("run {run} of {name}:{version} is replayed and differs: {text}"));
                }
                differs.map(|result| made_by(token, &result))
            }
        }
    }

    /// The turns before those that an activation brings, from the pages in the store.
    fn earlier_turns(&self, link: usize, tenant: TenantId, input: &Json) -> Result<Vec<Json>, String> {
        let state = &self.disks[link].state;
        program::earlier(input, |hash| match memory::load(state, &Load::Values(tenant, vec![hash])) {
            Loaded::Values(mut values) => values.pop().flatten(),
            _ => None,
        })
    }

    fn send_results(&mut self, worker: usize, link: usize) {
        let l = &mut self.workers[worker].links[link];
        let Some(conn) = l.conn.filter(|_| l.welcomed) else { return };
        let results: Vec<_> = l.unacked.iter().skip(l.sent).cloned().collect();
        if results.is_empty() {
            return;
        }
        l.sent = l.unacked.len();
        self.checkers.stale.reported(link, &results);
        if !self.is_quiet() && self.rng.chance(self.plan.faults.double_report) {
            // As if an old stream brought the same report once more.
            self.count("report twice");
            self.send_to_node(conn, Command::Results { session: SessionId(u64::MAX), results: results.clone() });
        }
        self.send_to_node(conn, Command::Results { session: SessionId(conn), results });
    }

    /// The attempt is no longer here; a permit is free when it was the last of its call.
    fn drop_attempt(&mut self, worker: usize, link: usize, at: (TaskId, Token)) {
        let l = &mut self.workers[worker].links[link];
        let Some(attempt) = l.attempts.remove(&at) else { return };
        if attempt.running
            && let Some(members) = l.calls.get_mut(&attempt.call)
        {
            *members -= 1;
            if *members == 0 {
                l.calls.remove(&attempt.call);
            }
        }
    }

    fn told_to_stop(&mut self, worker: usize, link: usize, task: TaskId, token: Token) {
        let life = self.workers[worker].life;
        let draw = self.rng.fraction();
        let wait = self.rng.below(SECOND);
        match draw {
            // It does not listen: its grace runs out.
            d if d < 0.1 && !self.is_quiet() => {}
            // It had finished at that moment.
            d if d < 0.3 => self.after(0, Event::Done { worker, link, life, task, token, how: How::Ok }),
            _ => self.after(wait, Event::Done { worker, link, life, task, token, how: How::Cancelled }),
        }
    }

    pub(crate) fn beat(&mut self, worker: usize, life: u32) {
        if !self.awake(worker, life, Event::Beat { worker, life }) {
            return;
        }
        let lease = self.plan.options.lease_ms * MS;
        for link in 0..self.workers[worker].links.len() {
            let guarded = self.workers[worker].plan.guarded;
            let l = &self.workers[worker].links[link];
            match l.conn {
                Some(conn) if l.welcomed => {
                    let usage = Usage {
                        tight: !self.is_quiet() && mix(self.now ^ conn).is_multiple_of(200),
                        ..Usage::default()
                    };
                    let beat = Box::new(Beat { usage, ..Beat::default() });
                    // It may stand still again before the next look; its lease is renewed all the same.
                    l.attempts.keys().for_each(|at| self.checkers.lost_worker.taken(link, at.0, at.1));
                    self.send_to_node(conn, Command::Heartbeat { session: SessionId(conn), beat });
                }
                _ if guarded && self.now > l.heard + lease => {
                    let gone: Vec<_> = l.attempts.keys().copied().collect();
                    gone.into_iter().for_each(|at| self.drop_attempt(worker, link, at));
                }
                _ => {}
            }
        }
        self.after(BEAT, Event::Beat { worker, life });
    }

    pub(crate) fn worker_lost_conn(&mut self, worker: usize, link: usize, conn: u64) {
        let l = &mut self.workers[worker].links[link];
        if l.conn != Some(conn) {
            return;
        }
        (l.conn, l.welcomed, l.sent) = (None, false, 0);
        if let Some(c) = self.conns.get_mut(&conn) {
            c.worker_told = true;
        }
        let life = self.workers[worker].life;
        let wait = self.rng.range(1, 800) * MS;
        self.after(wait, Event::Connect { worker, link, life });
    }

    pub(crate) fn kill_worker(&mut self, worker: usize) {
        let w = &mut self.workers[worker];
        if !w.up {
            return;
        }
        w.up = false;
        let conns: Vec<u64> = w.links.iter_mut().filter_map(|l| l.conn.take()).collect();
        w.links.iter_mut().for_each(|l| *l = Link::default());
        conns.into_iter().for_each(|conn| self.break_conn(conn));
        let wait = self.rng.range(100, 15_000) * MS;
        self.after(wait, Event::WorkerStarts { worker });
    }

    /// A drain: nothing new, unstarted grants go back, and after a while it serves again.
    pub(crate) fn worker_drains(&mut self, worker: usize, life: u32, draining: bool) {
        if !self.awake(worker, life, Event::WorkerDrains { worker, life, draining }) {
            return;
        }
        self.workers[worker].draining = draining;
        for link in 0..self.workers[worker].links.len() {
            let l = &mut self.workers[worker].links[link];
            let Some(conn) = l.conn.filter(|_| l.welcomed) else { continue };
            let back: Vec<_> = if draining { l.waiting.drain(..).collect() } else { Vec::new() };
            back.iter().for_each(|at| drop(l.attempts.remove(at)));
            let (name, session) = (name_of(worker).into(), Some(SessionId(conn)));
            self.send_to_node(conn, Command::DrainWorker { request: None, tenant: None, name, session, draining });
            if !back.is_empty() {
                self.send_to_node(conn, Command::Returned { session: SessionId(conn), attempts: back });
            }
        }
        if draining {
            let wait = self.rng.range(1, 5) * SECOND;
            self.after(wait, Event::WorkerDrains { worker, life, draining: false });
        }
    }
}
