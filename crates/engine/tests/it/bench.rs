//! A partition with a small store of its own: commits land at once, reads are answered, unless a test does it by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewheel_engine::command::{Hello, Submit};
use tidewheel_engine::config::{QueueConfig, QueueState, TenantConfig};
use tidewheel_engine::effect::{Grant, Submitted};
use tidewheel_engine::id::{RequestId, RunId, SessionId, TaskId, TenantId, Token};
use tidewheel_engine::load::{Due, Load, LoadId, Loaded, StoredRun};
use tidewheel_engine::mutation::{Mutation, NameKind, RecordKind, Recovered, RunTimer};
use tidewheel_engine::partition::{Options, Probe};
use tidewheel_engine::run::journal::Segment;
use tidewheel_engine::task::{Failure, Outcome, Payload, Spec, State, Task};
use tidewheel_engine::time::Now;
use tidewheel_engine::view::{Answer, Reason, View};
use tidewheel_engine::{Batch, Command, Effect, Partition, Reply};

pub(crate) const TENANT: TenantId = TenantId(1);

/// A wall time to begin with.
pub(crate) const START: u64 = 1_700_000_000_000;

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    keys: BTreeMap<[u8; 16], (TaskId, u64)>,
    pub(crate) runs: BTreeMap<RunId, (TenantId, StoredRun)>,
    pub(crate) values: BTreeMap<[u8; 32], bytes::Bytes>,
    /// Blobs that runs name.
    pub(crate) kept: std::collections::BTreeSet<[u8; 32]>,
    base: Recovered,
}

impl Probe for Store {
    fn may_know(&self, _tenant: TenantId, hash: &[u8; 16]) -> bool {
        self.keys.contains_key(hash)
    }
}

impl Store {
    fn fold(&mut self, batch: Batch) {
        (self.base.last_index, self.base.wall, self.base.seq) = (batch.index, batch.wall, batch.seq);
        for mutation in batch.mutations {
            match mutation {
                Mutation::InsertTask(task) => drop(self.tasks.insert(task.id, *task)),
                Mutation::UpdateTask(task) => {
                    let old = &self.tasks[&task.id];
                    let task = Task { input: old.input.clone(), spec: old.spec.clone(), ..*task };
                    self.tasks.insert(task.id, task);
                }
                Mutation::PutSpec { task, spec, .. } => {
                    self.tasks.get_mut(&task).expect("it is stored").spec = spec;
                }
                Mutation::PutIdempotency { hash, task, body, .. } => drop(self.keys.insert(hash, (task, body))),
                Mutation::PutName { kind, tenant, id, name } => self.base.names.push((kind, tenant, id, name)),
                Mutation::PutQueue(queue) => {
                    self.base.queues.retain(|q| q.id != queue.id);
                    self.base.queues.push((*queue).clone());
                }
                Mutation::PutRecord(record) => {
                    self.drop_record(record.kind, &record.key);
                    self.base.records.push((*record).clone());
                }
                Mutation::DeleteRecord { kind, key, .. } => self.drop_record(kind, &key),
                Mutation::PutTenant(tenant) => {
                    self.base.tenants.retain(|t| t.id != tenant.id);
                    self.base.tenants.push((*tenant).clone());
                }
                Mutation::PutRun(record) => {
                    let run = record.head.identity.run;
                    let (_, stored) = self.runs.entry(run).or_insert((record.tenant, StoredRun::default()));
                    stored.head = Some(Box::new(record.head));
                }
                Mutation::AppendTurn { tenant, run, segment } => {
                    let (_, stored) = self.runs.entry(run).or_insert((tenant, StoredRun::default()));
                    let last = stored.segments.last().map_or(0, |segment| segment.turn);
                    assert_eq!(segment.turn, last + 1, "turns without a gap (S12)");
                    stored.segments.push((*segment).clone());
                }
                Mutation::PutRunTimer { timer, due } => {
                    self.runs.get_mut(&timer.run).expect("it is stored").1.timers.push((timer.entry, due));
                }
                Mutation::DeleteRunTimer(timer) => {
                    self.runs.get_mut(&timer.run).expect("it is stored").1.timers.retain(|t| t.0 != timer.entry);
                }
                Mutation::PutRunEvent { tenant, run, number, event } => {
                    let (_, stored) = self.runs.entry(run).or_insert((tenant, StoredRun::default()));
                    assert!(stored.events.iter().all(|(n, _)| *n != number), "numbers of events are unique");
                    stored.events.push((number, *event));
                }
                Mutation::DeleteRunEvent { run, number, .. } => {
                    let stored = &mut self.runs.get_mut(&run).expect("it is stored").1;
                    let before = stored.events.len();
                    stored.events.retain(|(n, _)| *n != number);
                    assert_eq!(stored.events.len() + 1, before, "an event is taken in once");
                }
                Mutation::PutValue { hash, bytes, .. } if bytes.is_empty() => {
                    self.kept.insert(hash);
                }
                Mutation::PutValue { hash, bytes, .. } => drop(self.values.insert(hash, bytes)),
                _ => {}
            }
        }
    }

    fn run(&self, tenant: TenantId, run: RunId, all: bool) -> Option<Box<StoredRun>> {
        let (_, stored) = self.runs.get(&run).filter(|(owner, _)| *owner == tenant)?;
        let mut stored = stored.clone();
        let from = stored.head.as_ref().map_or(0, |head| head.turns);
        stored.segments.retain(|segment| all || segment.turn > from);
        Some(Box::new(stored))
    }

    fn drop_record(&mut self, kind: RecordKind, key: &str) {
        self.base.records.retain(|r| (r.kind, &*r.key) != (kind, key));
    }

    fn lane(&self, lane: i64, from: u64, limit: usize) -> Vec<Task> {
        let order = |t: &Task| if t.spec.ordering_key.is_some() { t.seq } else { t.order() };
        let mut rows: Vec<Task> =
            self.tasks.values().filter(|t| t.lane == Some(lane) && order(t) >= from).cloned().collect();
        rows.sort_by_key(|t| order(t));
        rows.truncate(limit);
        rows
    }

    pub(crate) fn load(&self, load: &Load) -> Loaded {
        match load {
            Load::Tasks(ids) => Loaded::Tasks(ids.iter().map(|(_, id)| self.tasks.get(id).cloned()).collect()),
            Load::Idempotency { hash, .. } => Loaded::Idempotency(self.keys.get(hash).copied()),
            Load::Lane { lane, from, limit, .. } => Loaded::Lane(self.lane(*lane, *from, *limit)),
            Load::Lanes { from, until, lanes, rows, .. } => {
                let mut found: Vec<i64> = self.tasks.values().filter_map(|t| t.lane).collect();
                found.retain(|lane| (*from..*until).contains(lane));
                found.sort_unstable();
                found.dedup();
                found.truncate(*lanes);
                Loaded::Lanes(found.into_iter().map(|lane| (lane, self.lane(lane, 0, *rows))).collect())
            }
            Load::Due { from, until, limit } => {
                let waits = |t: &&Task| matches!(t.state, State::Scheduled | State::Queued) && t.due > 0;
                let tasks = self.tasks.values().filter(waits).map(|task| Due::Task(Box::new(task.clone())));
                let timers = self.runs.iter().flat_map(|(run, (tenant, stored))| {
                    let timer = |entry| RunTimer { tenant: *tenant, run: *run, entry };
                    stored.timers.iter().map(move |(entry, due)| Due::Run(timer(*entry), *due))
                });
                let mut rows: Vec<Due> = tasks.chain(timers).collect();
                rows.retain(|row| row.place() > *from && row.at() <= *until);
                rows.sort_by_key(Due::place);
                rows.truncate(*limit);
                Loaded::Due(rows)
            }
            Load::Run { tenant, run, at_most } => match self.run(*tenant, *run, false) {
                Some(stored) if bytes_of(&stored) > *at_most => Loaded::RunTooLarge(bytes_of(&stored)),
                stored => Loaded::Run(stored),
            },
            Load::History(tenant, run) => Loaded::Run(self.run(*tenant, *run, true)),
            Load::Values(_, hashes) => {
                Loaded::Values(hashes.iter().map(|hash| self.values.get(hash).cloned()).collect())
            }
        }
    }
}

/// About what a store would have of it.
fn bytes_of(stored: &StoredRun) -> usize {
    let head = stored.head.as_ref().map_or(0, |head| 100 + head.inline());
    let turn = |segment: &Segment| 100 + segment.values.iter().map(|value| value.stored()).sum::<usize>();
    head + stored.segments.iter().map(turn).sum::<usize>()
}

pub(crate) struct Bench {
    pub(crate) p: Partition,
    pub(crate) store: Store,
    pub(crate) now: Now,
    pub(crate) effects: Vec<Effect>,
    options: Options,
    last: u64,
    /// Lanes that were read since the last look.
    pub(crate) lanes_read: usize,
}

/// Small windows, so that a handful of tasks meets the store.
pub(crate) fn tight() -> Options {
    Options { lane_window: 2, lane_window_most: 2, line_lanes: 2, window_tasks: 0, warm_tasks: 0, ..Options::default() }
}

impl Bench {
    /// A partition with one tenant and the queue `q`.
    pub(crate) fn new(options: Options, config: QueueConfig) -> Bench {
        let now = Now { wall: START, mono: 0 };
        let store = Store { base: Recovered { epoch: 1, ..Recovered::default() }, ..Store::default() };
        let p = Partition::new(options.clone(), store.base.clone(), now);
        let mut bench = Bench { p, store, now, effects: Vec::new(), options, last: 0, lanes_read: 0 };
        bench.put_tenant(TenantConfig::default());
        bench.put_queue(config, QueueState::Active);
        bench
    }

    pub(crate) fn put_tenant(&mut self, config: TenantConfig) {
        let request = self.number();
        self.apply(Command::PutTenant { request: RequestId(request), name: "t".into(), config, expected: None });
        self.settle();
    }

    pub(crate) fn put_queue(&mut self, config: QueueConfig, state: QueueState) {
        let request = RequestId(self.number());
        let (config, state) = (Some(Box::new(config)), Some(state));
        self.apply(Command::PutQueue { request, tenant: TENANT, name: "q".into(), config, state, expected: None });
        self.settle();
    }

    /// Registers a package for a type, or takes the registration away.
    pub(crate) fn register(&mut self, kind: &str, value: Option<&str>) {
        let (request, key, value) = (RequestId(self.number()), kind.into(), value.map(Into::into));
        let kind = RecordKind::TaskType;
        self.apply(Command::PutRecord { request, kind, tenant: TENANT, key, value, expected: None });
        self.settle();
    }

    /// The codes of why a task waits.
    pub(crate) fn why(&mut self, task: TaskId) -> Vec<&'static str> {
        self.reasons(task).iter().map(|reason| reason.code).collect()
    }

    /// Why a task waits.
    pub(crate) fn reasons(&mut self, task: TaskId) -> Vec<Reason> {
        let request = RequestId(self.number());
        self.apply(Command::Read { request, view: View::Why { tenant: TENANT, task } });
        self.settle();
        let answer = self.effects.iter().find_map(|effect| match effect {
            Effect::Reply { request: r, reply: Reply::View(Answer::Why(reasons)) } if *r == request => Some(reasons),
            _ => None,
        });
        answer.expect("an answer").clone()
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(crate) fn apply(&mut self, command: Command) {
        self.p.apply(command, self.now, &self.store);
    }

    /// One turn; what is to be stored, if anything.
    pub(crate) fn turn(&mut self) -> Option<(Batch, Vec<Effect>)> {
        while self.p.turn(self.now) {}
        self.p.has_output().then(|| self.p.finish_batch())
    }

    /// Stores a batch and performs its effects.
    pub(crate) fn land(&mut self, (batch, effects): (Batch, Vec<Effect>)) {
        let index = batch.index;
        if !batch.mutations.is_empty() {
            self.store.fold(batch);
            self.p.committed(index);
        }
        self.effects.extend(effects);
    }

    pub(crate) fn answer(&mut self, (id, load): (LoadId, Load)) {
        let answer = self.store.load(&load);
        if let Loaded::Lanes(lanes) = &answer {
            self.lanes_read += lanes.len();
        }
        self.p.loaded(id, self.store.base.last_index, answer, self.now);
    }

    /// Turns, commits and reads until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..1_000 {
            let batch = self.turn();
            let loads = self.p.take_loads();
            if batch.is_none() && loads.is_empty() {
                return;
            }
            batch.into_iter().for_each(|batch| self.land(batch));
            loads.into_iter().for_each(|load| self.answer(load));
            self.compute();
        }
        panic!("it goes round in circles");
    }

    /// Takes the turns that were handed out.
    fn compute(&mut self) {
        let (turns, others) =
            std::mem::take(&mut self.effects).into_iter().partition(|e| matches!(e, Effect::Compute(_)));
        self.effects = others;
        for effect in turns {
            let Effect::Compute(work) = effect else { continue };
            let outcome = Box::new(work.run());
            let (tenant, run, ticket) = (work.tenant, work.run, work.ticket);
            self.apply(Command::TurnComputed { tenant, run, ticket, outcome });
        }
    }

    pub(crate) fn put_record(&mut self, kind: RecordKind, key: &str, value: &str) {
        let request = RequestId(self.number());
        let (key, value) = (key.into(), Some(value.into()));
        self.apply(Command::PutRecord { request, kind, tenant: TENANT, key, value, expected: None });
        self.settle();
    }

    /// What was answered to a command that the closure makes for a request.
    pub(crate) fn ask(&mut self, command: impl FnOnce(RequestId) -> Command) -> Reply {
        let request = RequestId(self.number());
        self.apply(command(request));
        self.settle();
        let found = self.effects.iter().position(|e| matches!(e, Effect::Reply { request: r, .. } if *r == request));
        match self.effects.remove(found.expect("an answer")) {
            Effect::Reply { reply, .. } => reply,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now = Now { wall: self.now.wall + ms, mono: self.now.mono + ms };
        self.settle();
    }

    /// Submits and returns the id.
    pub(crate) fn submit(&mut self, item: Submit) -> TaskId {
        let outcome = self.submit_all(vec![item]).remove(0);
        match outcome {
            Submitted::New(id) => id,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub(crate) fn submit_all(&mut self, items: Vec<Submit>) -> Vec<Submitted> {
        let request = RequestId(self.number());
        self.apply(Command::Submit { request, tenant: TENANT, items });
        self.settle();
        self.reply(request).unwrap_or_default()
    }

    fn reply(&self, wanted: RequestId) -> Option<Vec<Submitted>> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Reply { request, reply: Reply::Submitted(outcomes) } if *request == wanted => {
                Some(outcomes.clone())
            }
            _ => None,
        })
    }

    /// Connects a worker and returns its session.
    pub(crate) fn connect(&mut self, name: &str, hello: Hello) -> SessionId {
        let session = SessionId(self.number());
        let hello = Box::new(Hello { name: name.into(), ..hello });
        self.apply(Command::Connect { session, hello });
        self.settle();
        session
    }

    /// Grants since the last call, of all workers.
    pub(crate) fn granted(&mut self) -> Vec<Grant> {
        let effects = std::mem::take(&mut self.effects);
        let grants = effects.into_iter().filter_map(|effect| match effect {
            Effect::Grant { grants, .. } => Some(grants),
            _ => None,
        });
        grants.flatten().collect()
    }

    pub(crate) fn granted_ids(&mut self) -> Vec<TaskId> {
        self.granted().into_iter().map(|grant| grant.task).collect()
    }

    /// Tasks that run now.
    pub(crate) fn granted_running(&self) -> Vec<TaskId> {
        self.store.tasks.values().filter(|t| t.state == State::Running).map(|t| t.id).collect()
    }

    pub(crate) fn succeed(&mut self, session: SessionId, id: TaskId) {
        self.report(session, id, Outcome::Ok { result: Payload::None, artifacts: Vec::new() });
    }

    pub(crate) fn fail(&mut self, session: SessionId, id: TaskId) {
        let failure = Failure { kind: "E".into(), ..Failure::ours("E", "e") };
        self.report(session, id, Outcome::Failed { failure, artifacts: Vec::new(), cancelled: false });
    }

    fn report(&mut self, session: SessionId, id: TaskId, outcome: Outcome) {
        let token = self.token(id);
        self.apply(Command::Results { session, results: vec![(id, token, outcome)] });
        self.settle();
    }

    fn token(&self, id: TaskId) -> Token {
        self.store.tasks[&id].token
    }

    pub(crate) fn cancel(&mut self, task: TaskId) {
        let request = RequestId(self.number());
        self.apply(Command::Cancel { request, tenant: TENANT, task, reason: "asked for".into() });
        self.settle();
    }

    pub(crate) fn retry(&mut self, task: TaskId) {
        let request = RequestId(self.number());
        self.apply(Command::Retry { request, tenant: TENANT, task });
        self.settle();
    }

    pub(crate) fn state(&self, id: TaskId) -> State {
        self.store.tasks[&id].state
    }

    /// The process dies and another one opens the store.
    pub(crate) fn restart(&mut self) {
        let mut base = self.store.base.clone();
        base.epoch += 1;
        self.store.base.epoch = base.epoch;
        base.running = self.store.tasks.values().filter(|t| t.state == State::Running).cloned().collect();
        for queue in &base.queues {
            let mut counts = [0; 9];
            self.store.tasks.values().filter(|t| t.queue == queue.id).for_each(|t| counts[t.state as usize] += 1);
            base.counts.push((queue.id, counts));
        }
        let waits = |(run, (tenant, stored)): (&RunId, &(TenantId, StoredRun))| {
            (!stored.events.is_empty()).then_some((*tenant, *run))
        };
        base.waiting_runs = self.store.runs.iter().filter_map(waits).collect();
        assert!(base.names.iter().all(|n| matches!(n.0, NameKind::Type | NameKind::Worker)));
        self.effects.clear();
        self.p = Partition::new(self.options.clone(), base, self.now);
        self.settle();
    }
}

/// A task of type `a` in queue `q`.
pub(crate) fn task(spec: Spec) -> Submit {
    Submit {
        kind: "a".into(),
        queue: "q".into(),
        priority: 5,
        run_at: 0,
        delay_ms: 0,
        input: Payload::None,
        spec: Arc::new(spec),
        idempotency: None,
    }
}

/// A task with an ordering key.
pub(crate) fn ordered(key: &str) -> Submit {
    task(Spec { ordering_key: Some(key.into()), ..Spec::default() })
}

/// A worker with so many permits.
pub(crate) fn worker(permits: u32) -> Hello {
    Hello { permits, ..Hello::default() }
}
