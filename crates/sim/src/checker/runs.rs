//! Durable runs as the committed log tells them: each run's turns played again, and its rows. The checkers of runs look at
//! this, and at nothing that the engine has in memory.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tidewheel_engine::command::RunAction;
use tidewheel_engine::id::{Name, RunId, TaskId, TenantId};
use tidewheel_engine::invariant::Fold;
use tidewheel_engine::planted::Planted;
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::command::MISMATCH;
use tidewheel_engine::run::data::BlobHash;
use tidewheel_engine::run::eval::Json;
use tidewheel_engine::run::fold::Journal;
use tidewheel_engine::run::head::{Head, Outside, Phase};
use tidewheel_engine::run::journal::{EntryKind, Fact, Segment};
use tidewheel_engine::run::turn::plan_of;
use tidewheel_engine::task::{Payload, State, Task};
use tidewheel_engine::{Batch, Mutation};

use super::run_version::{self, Asks, Definitions, Versions};
use super::{run_end, run_journal, run_order, run_program, run_saga, run_timers, run_twins};
use crate::flow::{self, Flows};
use crate::plan::Plan;

/// What a checker found: its promise, and for people.
pub(super) type Found = Vec<(&'static str, String)>;

/// A run as the log tells it.
#[derive(Debug)]
pub(crate) struct Log {
    pub(super) tenant: TenantId,
    pub(super) head: Head,
    pub(super) segments: Vec<Segment>,
    /// Phase, next entry and plan after each turn.
    pub(super) marks: Vec<(Phase, u64, [u8; 32])>,
    /// Rows of timers, and all that there ever were.
    pub(super) timers: BTreeMap<u64, u64>,
    pub(super) due: BTreeMap<u64, u64>,
    /// Rows of events.
    pub(super) events: BTreeMap<u64, Event>,
    /// Tasks by entry and first item.
    pub(super) tasks: BTreeMap<(u64, u64), TaskId>,
    /// Those that have not ended, and since when nothing is open for them.
    pub(super) live: BTreeMap<TaskId, (u64, u64, Option<u64>)>,
    pub(super) order: run_order::Entries,
    pub(super) program: run_program::Program,
    pub(super) sagas: run_saga::Sagas,
    /// The same before the facts of each turn.
    pub(super) saga_past: Vec<run_saga::Sagas>,
    /// Children whose ends were put in line, by entry and item.
    pub(super) told: BTreeSet<(u64, u64)>,
    /// Ends that the log has.
    pub(super) ends: u32,
    /// A head that was written whole, until its turn is known.
    snapshot: Option<Head>,
    /// Of another run whose journal this one's begins with.
    pub(super) copies: bool,
    pub(super) versions: Versions,
    /// Its steps, and those of them that fail as planned.
    pub(super) effects: run_twins::Effects,
    planned: BTreeSet<TaskId>,
    /// A step of it, or of a run below it, did not succeed, or somebody acted on it so that it may end otherwise.
    pub(super) hurt: bool,
    /// Since when it should have ended.
    pub(super) cancelled: Option<u64>,
    /// Since when nothing keeps it from going on.
    pub(super) could_go: Option<u64>,
}

impl Log {
    fn new(tenant: TenantId, head: Head) -> Log {
        Log {
            tenant,
            head,
            segments: Vec::new(),
            marks: Vec::new(),
            timers: BTreeMap::new(),
            due: BTreeMap::new(),
            events: BTreeMap::new(),
            tasks: BTreeMap::new(),
            live: BTreeMap::new(),
            order: run_order::Entries::default(),
            program: run_program::Program::default(),
            sagas: run_saga::Sagas::default(),
            saga_past: Vec::new(),
            told: BTreeSet::new(),
            ends: 0,
            snapshot: None,
            copies: false,
            versions: Versions::default(),
            effects: run_twins::Effects::new(),
            planned: BTreeSet::new(),
            hurt: false,
            could_go: None,
            cancelled: None,
        }
    }

    /// Whether its journal begins with that of another run.
    pub(super) fn is_copy(&self) -> bool {
        matches!(self.segments.first().map(|s| &s.event), Some(Event::Start { identity, .. }) if identity.run != self.head.identity.run)
    }

    fn is_of_program(&self, flows: &Flows) -> bool {
        let identity = &self.head.identity;
        flows.find(&identity.name, &identity.version).is_some_and(|flow| flow.program)
    }

    /// Whether something outside is open for a task's entry.
    fn wants(&self, entry: u64, first: u64) -> bool {
        match self.head.opened(entry).map(|open| (open.what, open.line)) {
            Some((Outside::Items, line)) => {
                let line = self.head.lines.iter().find(|l| l.id == line);
                match line.and_then(|line| line.frames.last()).map(|frame| &frame.step) {
                    Some(tidewheel_engine::run::head::Step::Map(map)) => map.at_work(first),
                    _ => false,
                }
            }
            Some(_) => true,
            None => false,
        }
    }
}

/// Pages of the histories of programs, by owner and hash.
pub(super) type Pages = BTreeMap<(TenantId, [u8; 32]), Bytes>;

/// What a page has, and another stored value has not.
const PAGE: &[u8] = b"\"turns\":";

/// All runs of the world.
#[derive(Debug)]
pub(crate) struct Runs {
    pub(super) definitions: Definitions,
    pub(super) flows: Flows,
    pub(super) parts: Vec<BTreeMap<RunId, Log>>,
    /// Runs that have not ended.
    pub(super) open: Vec<BTreeSet<RunId>>,
    /// Whose task it is.
    of_task: Vec<BTreeMap<TaskId, RunId>>,
    /// The run of an entry, and an item, of another one.
    pub(super) children: Vec<BTreeMap<(RunId, u64, u64), RunId>>,
    /// Runs that somebody wanted ended.
    pub(super) unwanted: BTreeSet<(usize, RunId)>,
    /// Runs that somebody took back, or let go on after a fault.
    pub(super) revived: BTreeSet<(usize, RunId)>,
    pages: Vec<Pages>,
    /// Moves that somebody asked for.
    pub(crate) asks: Asks,
    pub(crate) twins: run_twins::Twins,
    /// Turns, for whoever waits for something to happen.
    pub(crate) turns: u64,
    /// Runs that began as a copy of another one.
    forked: Vec<(usize, TenantId, RunId)>,
    /// A run whose turns are printed.
    pub(crate) shown: Option<String>,
}

impl Runs {
    pub(super) fn new(plan: &Plan, planted: Planted) -> Runs {
        let partitions = plan.partitions as usize;
        Runs {
            definitions: flow::definitions(&plan.runs.flows, planted),
            flows: plan.runs.flows.clone(),
            parts: (0..partitions).map(|_| BTreeMap::new()).collect(),
            open: vec![BTreeSet::new(); partitions],
            of_task: vec![BTreeMap::new(); partitions],
            children: vec![BTreeMap::new(); partitions],
            unwanted: BTreeSet::new(),
            revived: BTreeSet::new(),
            pages: vec![Pages::new(); partitions],
            asks: Asks::default(),
            twins: run_twins::Twins::default(),
            turns: 0,
            forked: Vec::new(),
            shown: None,
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.definitions.is_empty()
    }

    /// A commit. `fold` has it already.
    pub(super) fn landed(&mut self, partition: usize, batch: &Batch, fold: &Fold, now: u64) -> Found {
        let mut found = Found::new();
        let mut touched = BTreeSet::new();
        for mutation in &batch.mutations {
            match mutation {
                Mutation::PutRun(record) => {
                    let run = record.head.identity.run;
                    let log = self.parts[partition]
                        .entry(run)
                        .or_insert_with(|| Log::new(record.tenant, Head::new(record.head.identity.clone())));
                    log.versions.written(&record.head);
                    if record.head.turns == log.head.turns {
                        found.extend(run_journal::same(run, &record.head, &log.head));
                    } else {
                        log.snapshot = Some(record.head.clone());
                    }
                    touched.insert(run);
                }
                Mutation::AppendTurn { tenant, run, segment } => {
                    touched.insert(*run);
                    self.turn(partition, (*tenant, *run), segment, fold, &mut found);
                }
                Mutation::PutValue { tenant, hash, bytes, .. } => {
                    let is_page = bytes.windows(PAGE.len()).any(|part| part == PAGE);
                    self.pages[partition].extend(is_page.then(|| ((*tenant, *hash), bytes.clone())));
                }
                Mutation::PutRunTimer { timer, due } => {
                    touched.insert(timer.run);
                    if let Some(log) = self.parts[partition].get_mut(&timer.run) {
                        log.timers.insert(timer.entry, *due);
                        log.due.insert(timer.entry, *due);
                    }
                }
                Mutation::DeleteRunTimer(timer) => {
                    touched.insert(timer.run);
                    if let Some(log) = self.parts[partition].get_mut(&timer.run) {
                        log.timers.remove(&timer.entry);
                    }
                }
                Mutation::PutRunEvent { tenant, run, number, event } => {
                    touched.insert(*run);
                    let known = self.parts[partition].contains_key(run);
                    if let Event::Start { identity, .. } = &**event
                        && !known
                    {
                        self.parts[partition].insert(*run, Log::new(*tenant, Head::new(identity.clone())));
                    }
                    let of = run_end::end_of(event).map(|(entry, first)| (*run, entry, first));
                    let child = of.and_then(|of| self.children[partition].get(&of)).copied();
                    let revived = child.is_some_and(|child| self.revived.contains(&(partition, child)));
                    if let Some(log) = self.parts[partition].get_mut(run) {
                        // A child that somebody took back after its end may end once more.
                        found.extend(run_end::put_in_line(*run, log, event).filter(|_| !revived));
                        log.versions.lined(event);
                        log.events.insert(*number, (**event).clone());
                    }
                }
                Mutation::DeleteRunEvent { run, number, .. } => {
                    touched.insert(*run);
                    if let Some(log) = self.parts[partition].get_mut(run)
                        && let Some(event) = log.events.remove(number)
                    {
                        log.versions.unlined(&event);
                    }
                }
                Mutation::InsertTask(task) | Mutation::UpdateTask(task) => {
                    touched.extend(self.task(partition, task, fold, now, &mut found));
                }
                _ => {}
            }
        }
        for run in touched {
            self.settle(partition, run, now, &mut found);
        }
        found
    }

    fn turn(
        &mut self,
        partition: usize,
        (tenant, run): (TenantId, RunId),
        segment: &Segment,
        fold: &Fold,
        found: &mut Found,
    ) {
        self.turns += 1;
        if self.shown.as_ref().is_some_and(|shown| *shown == run.to_string()) {
            eprintln!("turn {} (revision {}): {:?}", segment.turn, segment.revision, segment.event);
            segment.facts.iter().for_each(|fact| eprintln!("    {fact:?}"));
        }
        let fresh = |segment: &Segment| match &segment.event {
            Event::Start { identity, .. } => Some(Log::new(tenant, Head::new(identity.clone()))),
            _ => None,
        };
        if let Entry::Vacant(place) = self.parts[partition].entry(run) {
            let Some(log) = fresh(segment) else {
                return found.push(("S12", format!("run {run} begins with turn {}", segment.turn)));
            };
            place.insert(log);
        }
        let foreign =
            |segment: &Segment| matches!(&segment.event, Event::Start { identity, .. } if identity.run != run);
        let strange = match &segment.event {
            Event::Start { identity, .. } => self.parts[partition].get(&identity.run).map(|log| log.versions.strange),
            _ => None,
        };
        let Some(log) = self.parts[partition].get_mut(&run) else { return };
        if foreign(segment) {
            // What it begins with may have gone another way than planned.
            (log.copies, log.hurt) = (true, true);
            log.versions.strange = strange == Some(true);
            self.forked.push((partition, tenant, run));
        }
        let mut forks = false;
        if matches!(&segment.event, Event::Reset { identity, .. } if identity.run == run) {
            forks = std::mem::take(&mut log.copies);
        }
        let copies = log.copies;
        if !copies {
            found.extend(run_end::goes_on(run, log, segment));
            found.extend(run_timers::fired(run, log, segment));
        }
        found.extend(run_order::opened(run, log, segment));
        found.extend(run_version::turn(run, log, segment, &self.definitions, &self.asks));
        found.extend(run_program::turn(run, log, segment));
        if !log.is_of_program(&self.flows) {
            let of_saga = run_saga::turn(run, log, segment, forks);
            found.extend(of_saga.into_iter().filter(|_| !copies));
        }
        found.extend(run_journal::follows(run, log, segment));
        if !found.is_empty() {
            return;
        }
        log.segments.push(segment.clone());
        let Some(definition) = self.definitions.get(plan_of(&log.head, &segment.event)) else { return };
        let blobs = BTreeMap::<BlobHash, Arc<Json>>::new();
        let again = matches!(segment.event, Event::Reset { .. });
        let earlier =
            if again && log.versions.has_moved() { log.versions.plans(&self.definitions) } else { Vec::new() };
        let journal = Journal {
            from: (!again).then_some(&log.head),
            segments: if again { &log.segments } else { &log.segments[log.segments.len() - 1..] },
            definition: &**definition,
            earlier: &earlier,
            blobs: &blobs,
        };
        match journal.fold() {
            Ok(head) => {
                let before = std::mem::replace(&mut log.head, head);
                log.marks.push((log.head.phase, log.head.next_seq, log.head.identity.plan));
                if log.snapshot.as_ref().is_some_and(|whole| whole.turns == log.head.turns)
                    && let Some(whole) = log.snapshot.take()
                {
                    found.extend(run_journal::same(run, &whole, &log.head));
                }
                if !copies {
                    let logs = &self.parts[partition];
                    found.extend(run_order::came(run, logs, &self.children[partition], &before, segment, fold));
                }
            }
            Err(error) => found.push(("S12", format!("turn {} of run {run} does not fold: {error:?}", segment.turn))),
        }
        if matches!(segment.event, Event::Moved { .. }) {
            self.above(partition, run, |log| log.versions.strange = true);
        }
        self.family(partition, run);
    }

    /// Who its parent is.
    fn family(&mut self, partition: usize, run: RunId) {
        let Some(log) = self.parts[partition].get(&run) else { return };
        if let Some(parent) = &log.head.identity.parent {
            self.children[partition].insert((parent.run, parent.entry, parent.item.unwrap_or(0)), run);
        }
    }

    fn task(&mut self, partition: usize, task: &Task, fold: &Fold, now: u64, found: &mut Found) -> Option<RunId> {
        let known = self.of_task[partition].get(&task.id).copied();
        let run = known.or_else(|| task.step.as_deref().map(|step| step.run))?;
        let log = self.parts[partition].get_mut(&run)?;
        if let Some(step) = task.step.as_deref()
            && known.is_none()
        {
            self.of_task[partition].insert(task.id, run);
            log.tasks.insert((step.entry, step.first), task.id);
            log.live.insert(task.id, (step.entry, step.first, None));
            if let Payload::Inline(bytes) = &task.input
                && let Ok(input) = serde_json::from_slice::<Json>(bytes)
            {
                found.extend(run_saga::given(run, log, step.entry, &input));
                found.extend(run_version::given(run, log, task, &input, &self.definitions));
                if input["fails"] == true {
                    log.planned.insert(task.id);
                }
                let effect = run_twins::given(log, task, log.order.key(step.entry), input["n"].as_i64());
                log.effects.extend(effect.map(|effect| ((step.entry, step.first), effect)));
                run_program::given(log, step.entry, input);
            }
        }
        if task.state.is_terminal() {
            log.live.remove(&task.id);
        } else {
            let closed = log.live.get(&task.id).and_then(|live| live.2);
            found.extend(run_order::started(run, task, closed, fold, now));
        }
        if task.state.is_terminal() && task.state != State::Succeeded && !log.planned.contains(&task.id) {
            self.hurt(partition, run);
        }
        Some(run)
    }

    /// It, and whatever waits for it, may end otherwise than planned.
    pub(super) fn hurt(&mut self, partition: usize, run: RunId) {
        if let Some(log) = self.parts[partition].get_mut(&run) {
            log.hurt = true;
        }
        self.above(partition, run, |log| log.hurt = true);
    }

    /// Those that wait for a run, and for those.
    fn above(&mut self, partition: usize, run: RunId, mut note: impl FnMut(&mut Log)) {
        let parent = |log: &Log| log.head.identity.parent.as_ref().map(|parent| parent.run);
        let mut at = self.parts[partition].get(&run).and_then(parent);
        while let Some(log) = at.and_then(|run| self.parts[partition].get_mut(&run)) {
            note(log);
            at = parent(log);
        }
    }

    /// After a commit that touched it.
    fn settle(&mut self, partition: usize, run: RunId, now: u64, found: &mut Found) {
        self.family(partition, run);
        let Some(log) = self.parts[partition].get_mut(&run) else { return };
        if let Some(whole) = log.snapshot.take() {
            found.extend(run_journal::same(run, &whole, &log.head));
        }
        found.extend(run_timers::rows(run, log));
        found.extend(run_program::settle(run, log, &self.pages[partition]));
        found.extend(run_version::settle(run, log));
        let mut live = std::mem::take(&mut log.live);
        for (entry, first, closed) in live.values_mut() {
            *closed = if log.wants(*entry, *first) { None } else { closed.or(Some(now)) };
        }
        log.live = live;
        log.could_go = None;
        if log.head.phase.ended() || log.head.closing.is_some() {
            log.cancelled = None;
        }
        if log.head.phase.ended() {
            self.open[partition].remove(&run);
        } else {
            self.open[partition].insert(run);
        }
    }

    /// A client is about to act on a run.
    pub(crate) fn asked(&mut self, partition: usize, run: RunId, action: &RunAction) {
        match action {
            RunAction::Cancel(_) | RunAction::Terminate(_) => {
                self.unwanted.insert((partition, run));
                self.hurt(partition, run);
            }
            RunAction::Retry | RunAction::Reset(..) => {
                self.revived.insert((partition, run));
            }
            _ => {}
        }
    }

    /// Some key of a run that it can go back to.
    pub(crate) fn some_key(&self, partition: usize, run: RunId, draw: u64) -> Option<Name> {
        let log = self.parts[partition].get(&run)?;
        // Of a forked run every other time a moment from before it was one.
        let copied = log.sagas.copied();
        let early = copied > 0 && draw.is_multiple_of(2);
        let segments = if early { &log.segments[..copied.min(log.segments.len())] } else { &log.segments[..] };
        let keys: Vec<_> = segments
            .iter()
            .flat_map(|segment| &segment.facts)
            .filter_map(|fact| match fact {
                Fact::Opened { key, .. } if !matches!(key.kind, EntryKind::Run) => Some(key),
                _ => None,
            })
            .collect();
        keys.get((draw / 2 % keys.len().max(1) as u64) as usize).map(|key| key.to_string().into())
    }

    pub(crate) fn tenant_of(&self, partition: usize, run: RunId) -> Option<TenantId> {
        self.parts[partition].get(&run).map(|log| log.tenant)
    }

    /// Whether a run is one of a program.
    pub(crate) fn is_program(&self, partition: usize, run: RunId) -> bool {
        let identity = self.parts[partition].get(&run).map(|log| &log.head.identity);
        identity.and_then(|id| self.flows.find(&id.name, &id.version)).is_some_and(|flow| flow.program)
    }

    /// Runs that have not ended.
    pub(crate) fn live(&self, partition: usize) -> u64 {
        self.open[partition].len() as u64
    }

    /// A run that has not ended, for people.
    pub(crate) fn oldest_live(&self, partition: usize) -> Option<String> {
        let run = self.open[partition].first()?;
        let log = &self.parts[partition][run];
        Some(format!(
            "run {run} of {}: {:?}; events {:?}; timers {:?}; {:?}",
            log.head.identity.name, log.head.phase, log.events, log.timers, log.head
        ))
    }

    /// Runs that wait for a person or a signal, and for what.
    pub(crate) fn need_help(&self, partition: usize) -> Vec<(TenantId, RunId, Help)> {
        let all = self.open[partition].iter().map(|run| (run, &self.parts[partition][run]));
        all.filter_map(|(run, log)| {
            let help = match log.head.phase {
                Phase::Suspended if log.head.reason.as_deref() == Some(MISMATCH) => Help::Differs,
                Phase::Suspended => Help::Holds,
                _ if log.head.open.iter().any(|(_, open)| open.what == Outside::Events) => Help::Listens,
                _ => return None,
            };
            Some((log.tenant, *run, help))
        })
        .collect()
    }

    /// Runs that hold because their replay differed.
    pub(crate) fn mismatched(&self, partition: usize) -> Vec<(TenantId, RunId)> {
        let all = self.need_help(partition).into_iter();
        all.filter(|(.., help)| *help == Help::Differs).map(|(tenant, run, _)| (tenant, run)).collect()
    }

    /// Some run that has not ended.
    pub(crate) fn some_open(&self, partition: usize, draw: u64) -> Option<(TenantId, RunId)> {
        let open = &self.open[partition];
        let run = open.iter().nth((draw % open.len().max(1) as u64) as usize)?;
        Some((self.parts[partition][run].tenant, *run))
    }

    /// Some run that began as a copy of another one; rather one that has something to undo.
    pub(crate) fn some_fork(&self, draw: u64) -> Option<(usize, TenantId, RunId)> {
        let some = || self.forked.get((draw % self.forked.len().max(1) as u64) as usize).copied();
        self.some_saga(&self.forked, draw).or_else(some)
    }

    /// Some of these runs that has something to undo, if one is found soon.
    pub(crate) fn some_saga(&self, runs: &[(usize, TenantId, RunId)], draw: u64) -> Option<(usize, TenantId, RunId)> {
        let looks = runs.iter().cycle().skip((draw % runs.len().max(1) as u64) as usize).take(runs.len().min(32));
        let holds = |at: &&(usize, TenantId, RunId)| {
            self.parts[at.0].get(&at.2).is_some_and(|log| !log.sagas.is_idle() && !log.head.phase.ended())
        };
        looks.into_iter().find(holds).copied()
    }

    /// Runs of a workflow that have not ended, and the plans that they follow.
    pub(crate) fn open_of(&self, partition: usize, name: &str) -> Vec<(TenantId, RunId, [u8; 32])> {
        let all = self.open[partition].iter().map(|run| (run, &self.parts[partition][run]));
        let of = all.filter(|(_, log)| &*log.head.identity.name == name);
        of.map(|(run, log)| (log.tenant, *run, log.head.identity.plan)).collect()
    }

    /// The workflow of a run, and the plan that it follows.
    pub(crate) fn followed(&self, partition: usize, run: RunId) -> Option<(Name, [u8; 32])> {
        let identity = &self.parts[partition].get(&run)?.head.identity;
        Some((identity.name.clone(), identity.plan))
    }

    /// The plan that a run followed before its last move.
    pub(crate) fn previous(&self, partition: usize, run: RunId) -> Option<[u8; 32]> {
        self.parts[partition].get(&run)?.versions.previous()
    }

    pub(crate) fn has_moved(&self, partition: usize, run: RunId) -> bool {
        self.parts[partition].get(&run).is_some_and(|log| log.versions.has_moved())
    }

    pub(crate) fn turns_of(&self, partition: usize, run: RunId) -> u64 {
        self.parts[partition].get(&run).map_or(0, |log| log.head.turns)
    }

    /// Whose task it is.
    pub(crate) fn run_of(&self, partition: usize, task: TaskId) -> Option<RunId> {
        self.of_task[partition].get(&task).copied()
    }
}

/// What a run waits for that nobody but a person gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Help {
    /// Somebody holds it.
    Holds,
    /// The replay of its program differed.
    Differs,
    /// It listens.
    Listens,
}
