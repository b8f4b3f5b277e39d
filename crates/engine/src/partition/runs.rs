//! Runs: what comes for a run goes into its turn, and what the turn asks for becomes tasks, timers, other runs and rows.
//!
//! A turn is taken in the batch of what caused it, when the run is in memory and nothing is before it. What has to wait (the
//! run is read, a turn is computed elsewhere, others are before it) is stored as a row of its own when that batch closes, so
//! that a crash loses none of it; a turn that takes it in removes the row.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;

use super::{Partition, Purpose, WallTimer};
use crate::command::Command;
use crate::effect::{Computation, Effect};
use crate::id::{Name, RunId, TenantId};
use crate::limit;
use crate::load::{Load, StoredRun};
use crate::mutation::{Mutation, RecordKind, RunRecord, RunTimer};
use crate::planted::Bug;
use crate::run::act::Event;
use crate::run::data::BlobHash;
use crate::run::eval::{Definition, Fuel, Json};
use crate::run::head::{Head, Identity, Seq};
use crate::run::moves::fits;
use crate::run::turn::{Env, Halt, Turn, advance, plan_of};
use crate::time::Now;
use crate::version::Version;
use crate::wheel::TimerKey;

/// All that the partition knows of runs.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(super) held: HashMap<RunId, RunEntry>,
    /// Runs with something that may be taken in.
    line: VecDeque<RunId>,
    /// Runs of which the open batch has rows to write, see [`Partition::write_runs`].
    pub(super) changed: Vec<RunId>,
    /// What the open batch has of turns beside their number: one takes as long to write as several tasks.
    pub(super) turns_weigh: usize,
    /// Runs changed by a batch, for when it is durable.
    pub(super) settled: VecDeque<(u64, RunId)>,
    /// Runs that could be let go, the longest unused first, each with the batch that changed it last.
    pub(super) cold: VecDeque<(u64, RunId)>,
    /// Runs that are to be read, when there is room for them.
    pub(super) wanted: VecDeque<(TenantId, RunId)>,
    /// How many are being read.
    pub(super) loading: usize,
    /// Bytes of the runs in memory, about.
    pub(super) weight: usize,
    /// Turns that were handed out.
    tickets: u32,
    definitions: HashMap<[u8; 32], Arc<dyn Definition>>,
    /// The order in which they were compiled.
    compiled: VecDeque<[u8; 32]>,
    /// Versions of workflows by tenant and `namespace/name`, with the hash of their documents.
    pub(super) workflows: BTreeMap<(TenantId, Name), BTreeMap<Version, Deployed>>,
    /// Tasks of items that are to be cancelled, a few at a time.
    pub(super) cancels: VecDeque<super::run_acts::Unneeded>,
}

/// A deployed version.
#[derive(Clone, Debug)]
pub(crate) struct Deployed {
    version: Name,
    hash: [u8; 32],
}

/// Where a run in memory stands.
#[derive(Debug)]
pub(crate) enum Stage {
    /// It is to be read, and that was not asked for yet.
    Wanted,
    /// It is being read; then what came from the store, while values are read for it.
    Loading(Option<Box<StoredRun>>),
    /// It can take something in.
    Ready(Head),
    /// Values are being read for its next turn.
    Fetching(Head),
    /// A turn is taken elsewhere, under this ticket.
    Computing(Head, u64),
}

/// Something that came for a run.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Number of the row that keeps it; 0 = none, or the timer's own.
    pub(super) number: u64,
    /// Whether that row was written. Until the batch closes that it came with, it was not: what is taken in before needs none.
    pub(super) stored: bool,
    pub(super) event: Event,
}

/// A run in memory.
#[derive(Debug)]
pub(crate) struct RunEntry {
    pub(super) tenant: TenantId,
    pub(super) stage: Stage,
    /// Batch that changed it last.
    pub(super) batch: u64,
    pub(super) weight: usize,
    /// What came and is not taken in.
    pub(super) inbox: VecDeque<Arrival>,
    pub(super) next_event: u64,
    /// Values that were read for it, and their bytes.
    pub(super) blobs: Arc<BTreeMap<BlobHash, Arc<Json>>>,
    pub(super) blob_bytes: usize,
    /// Timers in the wheel.
    pub(super) timers: Vec<(Seq, TimerKey)>,
    /// Commands that wait for it to be read.
    pub(super) commands: Vec<Command>,
    /// In [`Runs::line`].
    lined: bool,
    /// In [`Runs::changed`].
    changed: bool,
    /// Its head is to be written when the batch closes.
    save: bool,
    /// What is first in its line cannot be taken in: its document is not there.
    pub(super) stuck: bool,
}

impl RunEntry {
    pub(super) fn new(tenant: TenantId, stage: Stage, batch: u64) -> RunEntry {
        RunEntry {
            tenant,
            stage,
            batch,
            weight: 0,
            inbox: VecDeque::new(),
            next_event: 1,
            blobs: Arc::default(),
            blob_bytes: 0,
            timers: Vec::new(),
            commands: Vec::new(),
            lined: false,
            changed: false,
            save: false,
            stuck: false,
        }
    }

    /// The run, if it has been read.
    pub(super) fn head(&self) -> Option<&Head> {
        match &self.stage {
            Stage::Wanted | Stage::Loading(_) => None,
            Stage::Ready(head) | Stage::Fetching(head) | Stage::Computing(head, _) => Some(head),
        }
    }

    /// Moves it from one stage with a head to another.
    pub(super) fn restage(&mut self, next: impl FnOnce(Head) -> Stage) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Wanted) {
            Stage::Ready(head) | Stage::Fetching(head) | Stage::Computing(head, _) => next(head),
            other => other,
        };
    }
}

impl Partition {
    /// Puts a new run into memory and begins it.
    pub(super) fn begin_run(
        &mut self,
        tenant: TenantId,
        identity: Arc<Identity>,
        input: crate::run::data::Data,
        now: Now,
    ) {
        let run = identity.run;
        let head = Head::new(identity.clone());
        self.runs.held.insert(run, RunEntry::new(tenant, Stage::Ready(head), self.index));
        self.deliver(tenant, run, Event::Start { identity, input }, now);
    }

    /// Gives a run what came for it: now, if nothing is before it. Ends of items wait for those that come with them.
    pub(crate) fn deliver(&mut self, tenant: TenantId, run: RunId, event: Event, now: Now) {
        match self.runs.held.get(&run) {
            Some(entry)
                if matches!(entry.stage, Stage::Ready(_))
                    && entry.inbox.is_empty()
                    && !matches!(event, Event::Items { .. }) =>
            {
                self.take_in(run, Arrival { number: 0, stored: true, event }, now);
            }
            _ => self.queue_event(tenant, run, event),
        }
    }

    /// Puts what came for a run behind what came before. If it is not taken in with this batch, a row keeps it.
    pub(super) fn queue_event(&mut self, tenant: TenantId, run: RunId, event: Event) {
        self.want_run(tenant, run);
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        // A timer's own row keeps it.
        let own = matches!(event, Event::Fired { .. });
        let number = if own { 0 } else { entry.next_event };
        entry.next_event += u64::from(!own);
        entry.inbox.push_back(Arrival { number, stored: own, event });
        entry.stuck = false;
        if matches!(entry.stage, Stage::Wanted) {
            // Its row alone keeps it, once it is there.
            entry.batch = self.index;
            self.runs.settled.push_back((self.index, run));
        }
        if !own {
            self.run_changed(run);
        }
        self.line_up(run);
    }

    /// Takes the number of a row that keeps something for a run in memory.
    pub(super) fn next_event_of(&mut self, run: RunId) -> u64 {
        let Some(entry) = self.runs.held.get_mut(&run) else { return self.index << 20 };
        entry.next_event += 1;
        entry.next_event - 1
    }

    /// The open batch may have rows to write for it.
    fn run_changed(&mut self, run: RunId) {
        if let Some(entry) = self.runs.held.get_mut(&run)
            && !entry.changed
        {
            entry.changed = true;
            self.runs.changed.push(run);
        }
    }

    /// Its head is written with the open batch, as it is then.
    pub(super) fn save_run(&mut self, run: RunId) {
        if let Some(entry) = self.runs.held.get_mut(&run) {
            entry.save = true;
            self.run_changed(run);
        }
    }

    /// Rows for what runs have become in this batch: their heads, where they are to be written, once each; and what came and
    /// was not taken in.
    pub(super) fn write_runs(&mut self, mutations: &mut Vec<Mutation>) {
        let forgets = self.options.planted.has(Bug::ForgottenRunEvent);
        self.runs.turns_weigh = 0;
        for run in std::mem::take(&mut self.runs.changed) {
            let Some(entry) = self.runs.held.get_mut(&run) else { continue };
            entry.changed = false;
            let tenant = entry.tenant;
            if std::mem::take(&mut entry.save)
                && let Some(head) = entry.head().cloned()
            {
                mutations.push(Mutation::PutRun(Box::new(RunRecord { tenant, changed: self.wall, head })));
            }
            for arrival in entry.inbox.iter_mut().filter(|arrival| !arrival.stored) {
                arrival.stored = true;
                let (number, event) = (arrival.number, Box::new(arrival.event.clone()));
                if !forgets {
                    mutations.push(Mutation::PutRunEvent { tenant, run, number, event });
                }
            }
        }
    }

    pub(super) fn line_up(&mut self, run: RunId) {
        if let Some(entry) = self.runs.held.get_mut(&run)
            && !entry.lined
            && !entry.stuck
            && matches!(entry.stage, Stage::Ready(_))
        {
            entry.lined = true;
            self.runs.line.push_back(run);
        }
    }

    /// Lets runs go on that have something in line, in turns, until so much has changed as a round has time for. What a run
    /// causes for another one (a child that ends, and the parent that goes on) is taken in by the same batch as a rule, and
    /// then has no row of its own. Returns whether there is more.
    pub(super) fn serve_runs(&mut self, now: Now) -> bool {
        for _ in 0..limit::CANCELS_PER_TURN {
            let Some(unneeded) = self.runs.cancels.pop_front() else { break };
            self.cancel_unneeded(unneeded, now);
        }
        let mut left = limit::RUN_CHANGES_PER_TURN;
        while left > 0
            && let Some(run) = self.runs.line.pop_front()
        {
            let Some(entry) = self.runs.held.get_mut(&run) else { continue };
            entry.lined = false;
            if !matches!(entry.stage, Stage::Ready(_)) {
                continue;
            }
            let Some(arrival) = entry.inbox.pop_front() else { continue };
            let before = self.output_len();
            let steps = self.serve_run(run, arrival, now);
            let changes = self.output_len().saturating_sub(before);
            left = left.saturating_sub(1 + changes + (steps / limit::STEPS_PER_CHANGE) as usize);
            if self.runs.held.get(&run).is_some_and(|entry| !entry.inbox.is_empty()) {
                self.line_up(run);
            }
        }
        !self.runs.line.is_empty() || !self.runs.cancels.is_empty()
    }

    /// One turn of a run with what is first in its line, or with several ends of items of a map; how many steps it took.
    fn serve_run(&mut self, run: RunId, first: Arrival, now: Now) -> u64 {
        let Some(entry) = self.runs.held.get_mut(&run) else { return 0 };
        let Some((event, others)) = together(&first, &mut entry.inbox) else { return self.take_in(run, first, now) };
        match self.try_turn(run, &event, now) {
            Ok((Some(turn), steps)) => {
                let tenant = self.runs.held[&run].tenant;
                for arrival in std::iter::once(&first).chain(&others) {
                    self.taken(tenant, run, arrival);
                }
                self.take_turn(run, turn, now);
                steps
            }
            // One after the other, then.
            _ => {
                if let Some(entry) = self.runs.held.get_mut(&run) {
                    others.into_iter().rev().for_each(|arrival| entry.inbox.push_front(arrival));
                }
                self.take_in(run, first, now)
            }
        }
    }

    /// Takes a turn and changes nothing: the turn, and how many steps it took.
    fn try_turn(&mut self, run: RunId, event: &Event, now: Now) -> Result<(Option<Turn>, u64), Option<Halt>> {
        let Some(entry) = self.runs.held.get(&run) else { return Err(None) };
        let Stage::Ready(head) = &entry.stage else { return Err(None) };
        let (tenant, plan, own) = (entry.tenant, *plan_of(head, event), head.identity.plan);
        let Some(definition) = self.definition(tenant, &plan) else { return Err(None) };
        let from = if plan == own { None } else { self.definition(tenant, &own) };
        let Some(entry) = self.runs.held.get(&run) else { return Err(None) };
        let Stage::Ready(head) = &entry.stage else { return Err(None) };
        if let Some(from) = from
            && fits(head, from.plan(), definition.plan()).is_err()
        {
            // It went on since it was found to fit. It stays where it is.
            return Ok((None, 0));
        }
        let env =
            Env { definition: &*definition, blobs: &*entry.blobs, now_ms: now.wall, bounds: self.options.programs };
        let mut fuel = Fuel { steps: limit::SLICE_STEPS, bytes: limit::SLICE_BYTES };
        let turn = advance(head, event.clone(), &env, &mut fuel).map_err(Some)?;
        Ok((turn, limit::SLICE_STEPS.saturating_sub(fuel.steps)))
    }

    /// One turn; how many steps it took.
    fn take_in(&mut self, run: RunId, arrival: Arrival, now: Now) -> u64 {
        let Some(tenant) = self.runs.held.get(&run).map(|entry| entry.tenant) else { return 0 };
        match self.try_turn(run, &arrival.event, now) {
            Ok((None, _)) => {
                self.not_needed(tenant, run, &arrival, now);
                0
            }
            Ok((Some(turn), steps)) => {
                self.taken(tenant, run, &arrival);
                self.take_turn(run, turn, now);
                steps
            }
            Err(Some(Halt::OutOfFuel)) => {
                self.compute(run, arrival, now);
                limit::SLICE_STEPS
            }
            Err(Some(Halt::Blobs(hashes))) => {
                self.fetch(run, arrival, hashes);
                0
            }
            // The run cannot go on: its document is not there. Nothing is lost: with the document back, it goes on with the
            // next thing that comes for it, or when the partition is opened anew.
            Err(None) => {
                self.put_off(run, arrival);
                if let Some(entry) = self.runs.held.get_mut(&run) {
                    (entry.stuck, entry.batch) = (true, self.index);
                }
                self.rest(run);
                0
            }
        }
    }

    /// The event changes nothing. One that says that something was cancelled may stand for a cancel that is still to be made.
    fn not_needed(&mut self, tenant: TenantId, run: RunId, arrival: &Arrival, now: Now) {
        match super::run_acts::cancelled(&arrival.event).filter(|_| arrival.number > 0 && arrival.stored) {
            Some((entry, first)) => {
                let number = arrival.number;
                self.cancel_unneeded(super::run_acts::Unneeded { tenant, run, entry, first, number }, now);
            }
            None => self.taken(tenant, run, arrival),
        }
        // Its row is gone with this batch: until then it stays in memory.
        if let Some(entry) = self.runs.held.get_mut(&run) {
            entry.batch = self.index;
        }
        self.rest(run);
    }

    /// The run may be let go once what changed it last is durable.
    pub(super) fn rest(&mut self, run: RunId) {
        if let Some(entry) = self.runs.held.get(&run) {
            self.runs.settled.push_back((entry.batch, run));
        }
    }

    /// The event needs no row any more.
    fn taken(&mut self, tenant: TenantId, run: RunId, arrival: &Arrival) {
        let number = arrival.number;
        if number > 0 {
            match (self.options.planted.has(Bug::KeptRunEvent), arrival.stored) {
                (false, true) => self.mutations.push(Mutation::DeleteRunEvent { tenant, run, number }),
                (true, false) => {
                    let event = Box::new(arrival.event.clone());
                    self.mutations.push(Mutation::PutRunEvent { tenant, run, number, event });
                }
                _ => {}
            }
        }
        if let Event::Fired { entry } = &arrival.event {
            self.mutations.push(Mutation::DeleteRunTimer(RunTimer { tenant, run, entry: *entry }));
        }
    }

    /// Puts an event back in front. A row keeps it if it is still there when the batch closes.
    fn put_off(&mut self, run: RunId, mut arrival: Arrival) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let own = matches!(arrival.event, Event::Fired { .. });
        if arrival.number == 0 && !own {
            (arrival.number, arrival.stored) = (entry.next_event, false);
            entry.next_event += 1;
        }
        // It was answered, or will be, and has no turn yet that would stand for it.
        let begins = matches!(arrival.event, Event::Start { .. }) && !arrival.stored;
        entry.inbox.push_front(arrival);
        self.run_changed(run);
        if begins && !self.options.planted.has(Bug::StartWithoutHead) {
            self.save_run(run);
        }
    }

    fn compute(&mut self, run: RunId, arrival: Arrival, now: Now) {
        let event = arrival.event.clone();
        self.put_off(run, arrival);
        let Some(entry) = self.runs.held.get(&run) else { return };
        let (tenant, Some(head)) = (entry.tenant, entry.head().cloned()) else { return };
        let Some(definition) = self.definition(tenant, plan_of(&head, &event)) else { return };
        self.runs.tickets = self.runs.tickets.wrapping_add(1);
        let ticket = u64::from(self.epoch) << 32 | u64::from(self.runs.tickets);
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        entry.restage(|head| Stage::Computing(head, ticket));
        entry.batch = self.index;
        let (blobs, now_ms) = (entry.blobs.clone(), now.wall);
        let bounds = self.options.programs;
        let work = Computation { tenant, run, ticket, head, event, definition, blobs, now_ms, bounds };
        self.effects.push(Effect::Compute(Box::new(work)));
    }

    /// What came of a turn that was taken elsewhere. Its ticket says that it is one of this run as it is, with the event that is
    /// first in line: until it comes back nothing else is taken in.
    pub(super) fn turn_computed(&mut self, run: RunId, ticket: u64, outcome: Result<Option<Turn>, Halt>, now: Now) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        if !matches!(&entry.stage, Stage::Computing(_, known) if *known == ticket) {
            return;
        }
        entry.restage(Stage::Ready);
        let tenant = entry.tenant;
        let Some(arrival) = entry.inbox.pop_front() else { return };
        match outcome {
            // The loop finds that out again, for nothing.
            Ok(None) => self.put_off(run, arrival),
            Ok(Some(turn)) => {
                self.taken(tenant, run, &arrival);
                self.take_turn(run, turn, now);
            }
            Err(Halt::Blobs(hashes)) => return self.fetch(run, arrival, hashes),
            // It had all that it may have: the event cannot be taken in. The run stays as it is, for a person.
            Err(Halt::OutOfFuel) => self.taken(tenant, run, &arrival),
        }
        self.after_wait(run, now);
    }

    /// Values are read before an event is tried again.
    fn fetch(&mut self, run: RunId, arrival: Arrival, hashes: Vec<BlobHash>) {
        self.put_off(run, arrival);
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        entry.restage(Stage::Fetching);
        let tenant = entry.tenant;
        let wanted = hashes.iter().map(|hash| hash.0).collect();
        self.ask(Load::Values(tenant, wanted), Purpose::RunValues(run, hashes));
    }

    /// The run can take things in again.
    pub(super) fn after_wait(&mut self, run: RunId, now: Now) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        if !matches!(entry.stage, Stage::Ready(_)) {
            return;
        }
        let commands = std::mem::take(&mut entry.commands);
        if !entry.inbox.is_empty() {
            self.line_up(run);
        }
        for command in commands {
            self.execute(command, Vec::new(), now, None);
        }
        self.rest(run);
    }

    /// A turn becomes part of the batch.
    pub(super) fn take_turn(&mut self, run: RunId, turn: Turn, now: Now) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let tenant = entry.tenant;
        let before = std::mem::replace(&mut entry.stage, Stage::Ready(turn.head));
        entry.batch = self.index;
        self.weigh_run(run);
        self.runs.settled.push_back((self.index, run));
        let before = match before {
            Stage::Ready(head) => Some(head),
            _ => None,
        };
        if turn.snapshot {
            match before.as_ref().filter(|_| self.options.planted.has(Bug::StaleSnapshot)) {
                Some(stale) => {
                    let record = RunRecord { tenant, changed: now.wall, head: stale.clone() };
                    self.mutations.push(Mutation::PutRun(Box::new(record)));
                }
                None => self.save_run(run),
            }
        }
        self.mutations.push(Mutation::AppendTurn { tenant, run, segment: Arc::new(turn.segment) });
        self.runs.turns_weigh += limit::TURN_WEIGHT - 1;
        for act in turn.acts {
            self.act(tenant, run, before.as_ref(), act, now);
        }
        if turn.more {
            self.queue_event(tenant, run, Event::Continue);
        }
    }

    /// The workflow behind a hash.
    pub(super) fn definition(&mut self, tenant: TenantId, hash: &[u8; 32]) -> Option<Arc<dyn Definition>> {
        if let Some(known) = self.runs.definitions.get(hash) {
            return Some(known.clone());
        }
        let record = self.records.get(&(RecordKind::Definition, tenant, hex(hash).into()))?;
        let compiler = self.options.compiler.0.as_ref()?;
        let definition = compiler.compile(record.value.as_bytes()).ok()?;
        while self.runs.compiled.len() >= limit::DEFINITIONS {
            if let Some(old) = self.runs.compiled.pop_front() {
                self.runs.definitions.remove(&old);
            }
        }
        self.runs.definitions.insert(*hash, definition.clone());
        self.runs.compiled.push_back(*hash);
        Some(definition)
    }

    /// The hash of a version of a workflow, and its version in full. `latest` = the highest that is no candidate, else the
    /// highest.
    pub(super) fn workflow(
        &self,
        tenant: TenantId,
        namespace: &str,
        name: &str,
        version: &str,
    ) -> Option<([u8; 32], Name)> {
        let versions = self.runs.workflows.get(&(tenant, format!("{namespace}/{name}").into()))?;
        let found = if version == "latest" {
            let released = versions.iter().rev().find(|(version, _)| version.is_release());
            released.or_else(|| versions.iter().next_back()).map(|(_, deployed)| deployed)
        } else {
            versions.get(&Version::read(version)).or_else(|| {
                // Build metadata may be left out: the newest with that version.
                let same = versions.iter().rev().find(|(known, _)| known.is_build_of(version));
                same.map(|(_, deployed)| deployed)
            })
        };
        found.map(|deployed| (deployed.hash, deployed.version.clone()))
    }

    /// A record of a workflow version was put or deleted.
    pub(super) fn adopt_workflow(&mut self, tenant: TenantId, key: &Name, value: Option<&Name>) {
        let Some((name, version)) = key.rsplit_once('/') else { return };
        let version: Name = version.into();
        let versions = self.runs.workflows.entry((tenant, name.into())).or_default();
        match value.and_then(|value| unhex(value.get(..64)?)) {
            Some(hash) => drop(versions.insert(Version::read(&version), Deployed { version, hash })),
            None => drop(versions.remove(&Version::read(&version))),
        }
    }

    /// Sets a timer of a run, or leaves it to the store when it is far away.
    pub(super) fn arm_run(&mut self, timer: RunTimer, due: u64) {
        if let Some(key) = self.arm_timer(WallTimer::Run(timer), due)
            && let Some(entry) = self.runs.held.get_mut(&timer.run)
        {
            entry.timers.push((timer.entry, key));
        }
    }

    /// A timer of a run is due.
    pub(super) fn fire_run(&mut self, timer: RunTimer, now: Now) {
        if let Some(entry) = self.runs.held.get_mut(&timer.run) {
            entry.timers.retain(|(entry, _)| *entry != timer.entry);
        }
        self.deliver(timer.tenant, timer.run, Event::Fired { entry: timer.entry }, now);
    }
}

/// Ends of items of one map that came one after another, as one event, with those that follow the first taken out of the line.
/// News of a cancel stand for more than themselves, and stay alone.
fn together(first: &Arrival, inbox: &mut VecDeque<Arrival>) -> Option<(Event, Vec<Arrival>)> {
    let plain = |event: &Event| super::run_acts::cancelled(event).is_none();
    let Event::Items { entry: map, first: item, outcomes } = &first.event else { return None };
    let same = |arrival: &Arrival| matches!(&arrival.event, Event::Items { entry, .. } if entry == map);
    if !plain(&first.event) {
        return None;
    }
    let more = inbox.iter().take(limit::ENDS_PER_TURN - 1).take_while(|next| same(next) && plain(&next.event)).count();
    if more == 0 {
        return None;
    }
    let others: Vec<Arrival> = inbox.drain(..more).collect();
    let mut ended = Vec::with_capacity(1 + others.len());
    ended.push((*item, outcomes.clone()));
    ended.extend(others.iter().filter_map(|arrival| match &arrival.event {
        Event::Items { first, outcomes, .. } => Some((*first, outcomes.clone())),
        _ => None,
    }));
    Some((Event::Many { entry: *map, ended }, others))
}

/// 64 hexadecimal digits.
pub(super) fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    // Writing to a text never fails.
    bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap_or_default());
    text
}

/// The inverse of [`hex`].
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_was_written() {
        let hash = std::array::from_fn(|at| at as u8 * 7);
        assert_eq!(unhex(&hex(&hash)), Some(hash));
        assert_eq!(unhex("zz"), None);
    }
}
