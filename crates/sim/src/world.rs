//! The world of a run: one clock, one queue of events, one source of randomness, and everything that lives in it.
//!
//! One thread takes the earliest event, lets what it concerns react, and schedules what follows. So a seed is the whole
//! story: the same seed and the same code give the same events.

mod client;
mod fault;
mod moves;
mod network;
mod node;
mod outcome;
mod quiet;
mod runs;
mod submit;
mod taker;
mod tick;
mod worker;

use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use tidewheel_engine::partition::WithCompiler;
use tidewheel_engine::planted::Planted;

use crate::checker::Checkers;
use crate::disk::Disk;
use crate::event::{Event, Fault, Phase, Scheduled};
use crate::flow::Spoiled;
use crate::plan::{MS, Plan, SECOND, Scenario};
use crate::rng::Rng;

pub(crate) use client::{Call, CallKind, Claim, Client, Item};
pub use moves::Move;
pub(crate) use moves::Movers;
pub(crate) use network::Conn;
pub(crate) use node::Process;
pub(crate) use runs::{Start, Starters};
pub(crate) use worker::Worker;

/// The wall clock when a run begins.
pub const EPOCH_MS: u64 = 1_700_000_000_000;
/// How often the checkers look.
pub const TICK: u64 = 500 * MS;
/// A run that comes to so many events goes round in circles.
const MOST_EVENTS: u64 = 3_000_000;

/// See the module.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) planted: Planted,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    pub(crate) phase: Option<Phase>,
    pub(crate) over: bool,
    /// A package was registered for a type of tasks.
    pub(crate) registered: bool,
    heap: BinaryHeap<Scheduled>,
    seq: u64,
    /// A hash of all that happened.
    pub(crate) trace: u64,
    pub(crate) talk: bool,
    pub(crate) events: u64,
    /// Wall clock of the node's machine, ahead of the true time, in milliseconds.
    pub(crate) wall_offset: i64,
    pub(crate) disks: Vec<Disk>,
    pub(crate) full_until: u64,
    pub(crate) slow_until: u64,
    pub(crate) processes: BTreeMap<u64, Process>,
    /// The process that clients and workers reach.
    pub(crate) current: Option<u64>,
    pub(crate) next_process: u64,
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) next_conn: u64,
    pub(crate) workers: Vec<Worker>,
    /// What takers of items draw from, apart from the rest: a run without items is the same with and without them.
    pub(crate) takers: Rng,
    pub(crate) client: Client,
    pub(crate) starters: Starters,
    pub(crate) movers: Movers,
    pub(crate) checkers: Checkers,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// Microseconds that were leapt over with nothing but a sleeping node in them.
    pub(crate) leapt: u64,
    pub(crate) asleep: bool,
    pub(crate) asleep_until: u64,
    /// Since when something that has not ended could run.
    pub(crate) busy_since: u64,
    pub(crate) live_before: u64,
}

impl World {
    /// A world as its plan says, before anything happened.
    pub fn new(mut plan: Plan, planted: Planted, talk: bool) -> World {
        if plan.options.compiler.0.is_some() {
            plan.options.compiler = WithCompiler(Some(Arc::new(Spoiled(planted))));
        }
        let mut rng = Rng::new(plan.seed ^ 0x7469_6465);
        let takers = Rng::new(plan.seed ^ 0x6974_656d);
        let disks = (0..plan.partitions).map(|_| Disk::new(planted)).collect();
        let workers = plan.workers.iter().map(|w| Worker::new(w.clone(), plan.partitions as usize)).collect();
        let client = Client::new(&plan, rng.fork());
        let checkers = Checkers::new(&plan, planted);
        let starters = Starters::new(plan.seed);
        let movers = Movers::new(plan.seed);
        let mut world = World {
            plan,
            planted,
            rng,
            now: 0,
            phase: None,
            over: false,
            registered: false,
            heap: BinaryHeap::new(),
            seq: 0,
            trace: 0,
            talk,
            events: 0,
            wall_offset: 0,
            disks,
            full_until: 0,
            slow_until: 0,
            processes: BTreeMap::new(),
            current: None,
            next_process: 1,
            conns: BTreeMap::new(),
            next_conn: 1,
            workers,
            takers,
            client,
            starters,
            movers,
            checkers,
            faults: BTreeMap::new(),
            leapt: 0,
            asleep: false,
            asleep_until: 0,
            busy_since: 0,
            live_before: 0,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.start_node();
        self.set_up_tenants();
        self.deploy_flows();
        for worker in 0..self.workers.len() {
            let at = self.rng.below(SECOND);
            self.at(at, Event::WorkerStarts { worker });
        }
        match self.plan.scenario {
            Scenario::Swarm => {
                self.plan_acts();
                self.start_takers();
                self.plan_runs();
                self.plan_moves();
                self.plan_pairs();
                self.plan_faults();
            }
            Scenario::Fairness | Scenario::Aging => self.flood(),
        }
        self.at(TICK, Event::Tick);
        self.at(self.plan.length, Event::Phase(Phase::Heal));
    }

    /// Runs to the end.
    pub fn run(&mut self) {
        while !self.over && self.checkers.violations.is_empty() {
            let Some(next) = self.heap.pop() else { break };
            self.now = next.at;
            self.events += 1;
            if self.events > MOST_EVENTS {
                self.checkers.fail("L4", format!("{MOST_EVENTS} events and no end: something goes round in circles"));
                break;
            }
            self.note(&next.event);
            self.happen(next.event);
        }
        if self.checkers.violations.is_empty() {
            self.end();
        }
    }

    /// Schedules an event at a time.
    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.seq += 1;
        self.heap.push(Scheduled { at: at.max(self.now), seq: self.seq, event });
    }

    /// Schedules an event after a time.
    pub(crate) fn after(&mut self, wait: u64, event: Event) {
        self.at(self.now + wait, event);
    }

    /// Adds to the trace's hash, and prints the event if that is wanted.
    fn note(&mut self, event: &Event) {
        let kind = std::mem::discriminant(event);
        let mut hash = Fnv(self.trace ^ self.now);
        std::hash::Hash::hash(&kind, &mut hash);
        self.trace = hash.0;
        if self.talk {
            let mut text = format!("{event:?}");
            text.truncate(text.char_indices().nth(400).map_or(text.len(), |(i, _)| i));
            eprintln!("{:>14} {text}", self.now);
        }
    }

    /// Adds a number to the trace's hash.
    pub(crate) fn mark(&mut self, number: u64) {
        self.trace = tidewheel_engine::ready::mix(self.trace ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }

    pub(crate) fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { process, partition } => self.wake(process, partition),
            Event::Written { partition } => self.written(partition),
            Event::Reported { .. } | Event::Loaded { .. } => self.node_event(event),
            Event::Read { process, partition, epoch, id, load } => self.read_rows(process, partition, epoch, id, load),
            Event::Reopen { process, partition } => self.reopen(process, partition),
            Event::Asked { partition, request, command } => self.asked(partition, request, command),
            Event::Answered { request, reply } => self.answered(request, reply.map(|r| *r)),
            Event::CallTimeout { request } => self.call_timeout(request),
            Event::Act(act) => self.act(act),
            Event::FromWorker { conn, command } => self.worker_says(conn, command),
            Event::NodeSeesBreak { conn } => self.node_sees_break(conn),
            Event::ToWorker { conn, message } => self.arrives_at_worker(conn, message),
            Event::WorkerSeesBreak { conn } => self.worker_sees_break(conn),
            Event::Connect { worker, link, life } => self.connect(worker, link, life),
            Event::Beat { worker, life } => self.beat(worker, life),
            Event::Done { worker, link, life, task, token, how } => self.done(worker, link, life, (task, token), how),
            Event::Progress { worker, link, life, task, token, every } => {
                self.progress(worker, link, life, (task, token), every);
            }
            Event::WorkerStarts { worker } => self.worker_starts(worker),
            Event::WorkerDrains { worker, life, draining } => self.worker_drains(worker, life, draining),
            Event::LinksBreak => self.break_all_conns(),
            Event::NodeStarts => self.node_starts(),
            Event::Fault(fault) => self.fault(fault),
            Event::Take => self.take_items(),
            Event::Settle { partition, tenant, task, token, renews } => {
                self.settle_item(partition, tenant, (task, token), renews);
            }
            Event::ActOnRuns(act) => self.act_on_runs(act),
            Event::MoveRun(to) => self.send_move(*to),
            Event::Computed { process, partition, command } => self.computed(process, partition, command),
            Event::Tick => self.tick(),
            Event::Phase(phase) => self.enter_phase(phase),
        }
    }

    /// Whether faults and load are over.
    pub(crate) fn is_quiet(&self) -> bool {
        self.phase.is_some()
    }

    pub(crate) fn fault_after(&mut self, mean: u64, fault: Fault) {
        if mean > 0 {
            let wait = self.rng.exponential(mean).max(MS);
            self.after(wait, Event::Fault(fault));
        }
    }
}

/// A hasher that is the same everywhere.
struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
