//! Runs: what comes for a run goes into its turn, and what the turn asks for becomes tasks, timers, other runs and rows.
//!
//! A turn is taken in the batch of what caused it, when the run is in memory and nothing is before it. What has to wait (the
//! run is read, a turn is computed elsewhere, others are before it) is stored as a row of its own in that batch, so that a
//! crash loses none of it; a turn that takes it in removes the row.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;

use super::{Partition, Purpose, WallTimer};
use crate::command::Command;
use crate::effect::{Computation, Effect, Refusal};
use crate::id::{Name, RunId, TenantId};
use crate::limit;
use crate::load::{Load, StoredRun};
use crate::mutation::{Mutation, RecordKind, RunRecord, RunTimer};
use crate::planted::Bug;
use crate::run::act::Event;
use crate::run::data::BlobHash;
use crate::run::eval::{Definition, Fuel, Json};
use crate::run::fold::{FoldError, Journal};
use crate::run::head::{Head, Identity, Seq};
use crate::run::turn::{Env, Halt, Turn, advance};
use crate::time::Now;
use crate::version::Version;
use crate::wheel::TimerKey;

/// All that the partition knows of runs.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(super) held: HashMap<RunId, RunEntry>,
    /// Runs with something that may be taken in.
    line: VecDeque<RunId>,
    /// Runs changed by a batch, for when it is durable.
    settled: VecDeque<(u64, RunId)>,
    /// Runs that could be let go, the longest unused first, each with the batch that changed it last.
    cold: VecDeque<(u64, RunId)>,
    weight: usize,
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
    /// It is being read; then what came from the store, while values are read for it.
    Loading(Option<Box<StoredRun>>),
    /// It can take something in.
    Ready(Head),
    /// Values are being read for its next turn.
    Fetching(Head),
    /// A turn is taken elsewhere.
    Computing(Head),
}

/// A run in memory.
#[derive(Debug)]
pub(crate) struct RunEntry {
    pub(super) tenant: TenantId,
    pub(super) stage: Stage,
    /// Batch that changed it last.
    batch: u64,
    weight: usize,
    /// What came and is not taken in, with the number of its row; 0 = it has none.
    inbox: VecDeque<(u64, Event)>,
    next_event: u64,
    blobs: Arc<BTreeMap<BlobHash, Json>>,
    /// Timers in the wheel.
    pub(super) timers: Vec<(Seq, TimerKey)>,
    /// Commands that wait for it to be read.
    commands: Vec<Command>,
    /// In [`Runs::line`].
    lined: bool,
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
            timers: Vec::new(),
            commands: Vec::new(),
            lined: false,
        }
    }

    /// The run, if it has been read.
    pub(super) fn head(&self) -> Option<&Head> {
        match &self.stage {
            Stage::Loading(_) => None,
            Stage::Ready(head) | Stage::Fetching(head) | Stage::Computing(head) => Some(head),
        }
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

    /// Gives a run what came for it: now, if nothing is before it.
    pub(crate) fn deliver(&mut self, tenant: TenantId, run: RunId, event: Event, now: Now) {
        match self.runs.held.get(&run) {
            Some(entry) if matches!(entry.stage, Stage::Ready(_)) && entry.inbox.is_empty() => {
                self.take_in(run, 0, event, now);
            }
            _ => self.queue_event(tenant, run, event),
        }
    }

    /// Puts what came for a run behind what came before, with a row that keeps it.
    pub(super) fn queue_event(&mut self, tenant: TenantId, run: RunId, event: Event) {
        self.want_run(tenant, run);
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        // A timer's own row keeps it.
        let number = if matches!(event, Event::Fired { .. }) { 0 } else { entry.next_event };
        if number > 0 {
            entry.next_event += 1;
            let event = Box::new(event.clone());
            if !self.options.planted.has(Bug::ForgottenRunEvent) {
                self.mutations.push(Mutation::PutRunEvent { tenant, run, number, event });
            }
        }
        entry.inbox.push_back((number, event));
        self.line_up(run);
    }

    /// Takes the number of a row that keeps something for a run in memory.
    pub(super) fn next_event_of(&mut self, run: RunId) -> u64 {
        let Some(entry) = self.runs.held.get_mut(&run) else { return self.index << 20 };
        entry.next_event += 1;
        entry.next_event - 1
    }

    /// Reads a run that is not in memory.
    pub(super) fn want_run(&mut self, tenant: TenantId, run: RunId) {
        if !self.runs.held.contains_key(&run) {
            let mut entry = RunEntry::new(tenant, Stage::Loading(None), self.committed);
            // Above what a row of the store may have: numbers that were given before are read with the run.
            entry.next_event = self.index << 20;
            self.runs.held.insert(run, entry);
            self.ask(Load::Run(tenant, run), Purpose::Run(run));
        }
    }

    /// Makes a command wait until a run is in memory. False = it is there already.
    pub(super) fn wait_for_run(&mut self, run: RunId, command: impl FnOnce() -> Command) -> bool {
        let Some(entry) = self.runs.held.get_mut(&run) else { return false };
        if entry.head().is_some() && !matches!(entry.stage, Stage::Computing(_) | Stage::Fetching(_)) {
            return false;
        }
        if entry.commands.len() >= limit::RUN_COMMANDS {
            if let Some(request) = super::request_of(&command()) {
                let refusal = Refusal::Overloaded { what: "the run".into(), retry_after_ms: 1_000 };
                self.refuse(request, refusal);
            }
            return true;
        }
        entry.commands.push(command());
        true
    }

    fn line_up(&mut self, run: RunId) {
        if let Some(entry) = self.runs.held.get_mut(&run)
            && !entry.lined
            && matches!(entry.stage, Stage::Ready(_))
        {
            entry.lined = true;
            self.runs.line.push_back(run);
        }
    }

    /// Lets runs go on that have something in line, each by one turn. Returns whether there is more.
    pub(super) fn serve_runs(&mut self, now: Now) -> bool {
        for _ in 0..limit::CANCELS_PER_TURN {
            let Some(unneeded) = self.runs.cancels.pop_front() else { break };
            self.cancel_unneeded(unneeded, now);
        }
        for _ in 0..self.runs.line.len().min(limit::RUNS_PER_TURN) {
            let Some(run) = self.runs.line.pop_front() else { break };
            let Some(entry) = self.runs.held.get_mut(&run) else { continue };
            entry.lined = false;
            if !matches!(entry.stage, Stage::Ready(_)) {
                continue;
            }
            if let Some((number, event)) = entry.inbox.pop_front() {
                self.take_in(run, number, event, now);
                let more = self.runs.held.get(&run).is_some_and(|entry| !entry.inbox.is_empty());
                if more {
                    self.line_up(run);
                }
            }
        }
        !self.runs.line.is_empty() || !self.runs.cancels.is_empty()
    }

    /// One turn. `number` is that of the row that keeps the event.
    fn take_in(&mut self, run: RunId, number: u64, event: Event, now: Now) {
        let Some(entry) = self.runs.held.get(&run) else { return };
        let (tenant, blobs) = (entry.tenant, entry.blobs.clone());
        let Stage::Ready(head) = &entry.stage else { return };
        let plan = head.identity.plan;
        let Some(definition) = self.definition(tenant, &plan) else {
            return self.lost_definition(run, number, event);
        };
        let Some(Stage::Ready(head)) = self.runs.held.get(&run).map(|entry| &entry.stage) else { return };
        let env = Env { definition: &*definition, blobs: &*blobs, now_ms: now.wall };
        let mut fuel = Fuel { steps: limit::SLICE_STEPS, bytes: limit::SLICE_BYTES };
        match advance(head, event.clone(), &env, &mut fuel) {
            Ok(None) => self.not_needed(tenant, run, number, &event, now),
            Ok(Some(turn)) => {
                self.taken(tenant, run, number, &event);
                self.take_turn(run, turn, now);
            }
            Err(Halt::OutOfFuel) => self.compute(run, number, event, definition, now),
            Err(Halt::Blobs(hashes)) => self.fetch(run, number, event, hashes),
        }
    }

    /// The event changes nothing. One that says that something was cancelled may stand for a cancel that is still to be made.
    fn not_needed(&mut self, tenant: TenantId, run: RunId, number: u64, event: &Event, now: Now) {
        match super::run_acts::cancelled(event).filter(|_| number > 0) {
            Some((entry, first)) => {
                self.cancel_unneeded(super::run_acts::Unneeded { tenant, run, entry, first, number }, now);
            }
            None => self.taken(tenant, run, number, event),
        }
        // Its row is gone with this batch: until then it stays in memory.
        if let Some(entry) = self.runs.held.get_mut(&run) {
            entry.batch = self.index;
        }
        self.rest(run);
    }

    /// The run may be let go once what changed it last is durable.
    fn rest(&mut self, run: RunId) {
        if let Some(entry) = self.runs.held.get(&run) {
            self.runs.settled.push_back((entry.batch, run));
        }
    }

    /// The event needs no row any more.
    fn taken(&mut self, tenant: TenantId, run: RunId, number: u64, event: &Event) {
        if number > 0 && !self.options.planted.has(Bug::KeptRunEvent) {
            self.mutations.push(Mutation::DeleteRunEvent { tenant, run, number });
        }
        if let Event::Fired { entry } = event {
            self.mutations.push(Mutation::DeleteRunTimer(RunTimer { tenant, run, entry: *entry }));
        }
    }

    /// Puts an event back in front, kept by a row.
    fn put_off(&mut self, run: RunId, number: u64, event: Event) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let mut number = number;
        if number == 0 && !matches!(event, Event::Fired { .. }) {
            number = entry.next_event;
            entry.next_event += 1;
            let (tenant, event) = (entry.tenant, Box::new(event.clone()));
            if let Event::Start { identity, .. } = &*event
                && !self.options.planted.has(Bug::StartWithoutHead)
            {
                // It was answered, or will be, and has no turn yet that would stand for it.
                let head = Head::new(identity.clone());
                self.mutations.push(Mutation::PutRun(Box::new(RunRecord { tenant, changed: self.wall, head })));
            }
            self.mutations.push(Mutation::PutRunEvent { tenant, run, number, event });
        }
        entry.inbox.push_front((number, event));
    }

    fn compute(&mut self, run: RunId, number: u64, event: Event, definition: Arc<dyn Definition>, now: Now) {
        self.put_off(run, number, event.clone());
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let Stage::Ready(head) = &entry.stage else { return };
        let head = head.clone();
        entry.stage = Stage::Computing(head.clone());
        entry.batch = self.index;
        let (tenant, blobs) = (entry.tenant, entry.blobs.clone());
        let now_ms = now.wall;
        self.effects.push(Effect::Compute(Box::new(Computation {
            tenant,
            run,
            head,
            event,
            definition,
            blobs,
            now_ms,
        })));
    }

    /// What came of a turn that was taken elsewhere.
    pub(super) fn turn_computed(&mut self, run: RunId, turns: u64, outcome: Result<Option<Turn>, Halt>, now: Now) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let Stage::Computing(head) = &entry.stage else { return };
        if head.turns != turns {
            return;
        }
        let (tenant, head) = (entry.tenant, head.clone());
        entry.stage = Stage::Ready(head);
        let Some((number, event)) = entry.inbox.pop_front() else { return };
        match outcome {
            // The loop finds that out again, for nothing.
            Ok(None) => self.put_off(run, number, event),
            Ok(Some(turn)) if !self.follows(run, &turn, &event) => self.put_off(run, number, event),
            Ok(Some(turn)) => {
                self.taken(tenant, run, number, &event);
                self.take_turn(run, turn, now);
            }
            Err(Halt::Blobs(hashes)) => return self.fetch(run, number, event, hashes),
            // It had all that it may have: the event cannot be taken in. The run stays as it is, for a person.
            Err(Halt::OutOfFuel) => self.taken(tenant, run, number, &event),
        }
        self.after_wait(run, now);
    }

    /// Whether a turn that was taken elsewhere is one of this run as it is, for this event. The partition may have been loaded
    /// anew since it was handed out, and then the run may stand at another turn of the same number.
    fn follows(&mut self, run: RunId, turn: &Turn, event: &Event) -> bool {
        let Some(entry) = self.runs.held.get(&run) else { return false };
        let (tenant, blobs) = (entry.tenant, entry.blobs.clone());
        let Some(plan) = entry.head().map(|head| head.identity.plan) else { return false };
        let Some(definition) = self.definition(tenant, &plan) else { return false };
        let Some(head) = self.runs.held.get(&run).and_then(RunEntry::head) else { return false };
        let segments = std::slice::from_ref(&turn.segment);
        let journal = Journal { from: Some(head), segments, definition: &*definition, blobs: &*blobs };
        turn.segment.event == *event && journal.fold().is_ok_and(|head| head == turn.head)
    }

    /// Values are read before an event is tried again.
    fn fetch(&mut self, run: RunId, number: u64, event: Event, hashes: Vec<BlobHash>) {
        self.put_off(run, number, event);
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let Stage::Ready(head) = &entry.stage else { return };
        entry.stage = Stage::Fetching(head.clone());
        let tenant = entry.tenant;
        let wanted = hashes.iter().map(|hash| hash.0).collect();
        self.ask(Load::Values(tenant, wanted), Purpose::RunValues(run, hashes));
    }

    /// Values that were read for a run.
    pub(super) fn values_loaded(
        &mut self,
        run: RunId,
        hashes: Vec<BlobHash>,
        values: Vec<Option<bytes::Bytes>>,
        now: Now,
    ) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let mut blobs = (*entry.blobs).clone();
        for (hash, bytes) in hashes.into_iter().zip(values) {
            // What is gone is null: the run goes on and says what it misses.
            let value = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(Json::Null);
            blobs.insert(hash, value);
        }
        entry.blobs = Arc::new(blobs);
        match &mut entry.stage {
            Stage::Loading(stored) => {
                if let Some(stored) = stored.take() {
                    self.run_loaded(run, Some(stored), now);
                }
            }
            Stage::Fetching(head) => {
                entry.stage = Stage::Ready(head.clone());
                self.after_wait(run, now);
            }
            _ => {}
        }
    }

    /// The run can take things in again.
    fn after_wait(&mut self, run: RunId, now: Now) {
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
        let before = std::mem::replace(&mut entry.stage, Stage::Ready(turn.head.clone()));
        entry.batch = self.index;
        entry.blobs = Arc::default();
        let weight = limit::RUN_BYTES + turn.head.inline();
        self.runs.weight = (self.runs.weight + weight).saturating_sub(entry.weight);
        entry.weight = weight;
        self.runs.settled.push_back((self.index, run));
        if turn.snapshot {
            let stale = matches!(&before, Stage::Ready(_)) && self.options.planted.has(Bug::StaleSnapshot);
            let head = match &before {
                Stage::Ready(before) if stale => before.clone(),
                _ => turn.head,
            };
            let record = RunRecord { tenant, changed: now.wall, head };
            self.mutations.push(Mutation::PutRun(Box::new(record)));
        }
        self.mutations.push(Mutation::AppendTurn { tenant, run, segment: Arc::new(turn.segment) });
        let before = match &before {
            Stage::Ready(head) => Some(head),
            _ => None,
        };
        for act in turn.acts {
            self.act(tenant, run, before, act, now);
        }
        if turn.more {
            self.queue_event(tenant, run, Event::Continue);
        }
    }

    /// The run cannot go on: its document is not there. Nothing is lost: with the document back, it goes on with the next thing
    /// that comes for it, or when the partition is opened anew.
    fn lost_definition(&mut self, run: RunId, number: u64, event: Event) {
        self.put_off(run, number, event);
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

    /// The answer of the store to [`Load::Run`].
    pub(super) fn run_loaded(&mut self, run: RunId, stored: Option<Box<StoredRun>>, now: Now) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let tenant = entry.tenant;
        let Some(stored) = stored.filter(|stored| stored.head.is_some() || !stored.segments.is_empty()) else {
            // What came for it will never be taken in.
            let rows: Vec<u64> = entry.inbox.iter().map(|(number, _)| *number).filter(|number| *number > 0).collect();
            let gone = rows.into_iter().map(|number| Mutation::DeleteRunEvent { tenant, run, number });
            self.mutations.extend(gone);
            return self.no_run(run);
        };
        let plan = match (&stored.head, stored.segments.first().map(|segment| &segment.event)) {
            (Some(head), _) => head.identity.plan,
            (None, Some(Event::Start { identity, .. })) => identity.plan,
            _ => return self.no_run(run),
        };
        let blobs = entry.blobs.clone();
        let Some(definition) = self.definition(tenant, &plan) else { return self.no_run(run) };
        let journal = Journal {
            from: stored.head.as_deref(),
            segments: &stored.segments,
            definition: &*definition,
            blobs: &*blobs,
        };
        match journal.fold() {
            Ok(head) => self.adopt_run(run, head, *stored, now),
            Err(FoldError::Blobs(hashes)) => {
                let wanted = hashes.iter().map(|hash| hash.0).collect();
                if let Some(entry) = self.runs.held.get_mut(&run) {
                    entry.stage = Stage::Loading(Some(stored));
                }
                self.ask(Load::Values(tenant, wanted), Purpose::RunValues(run, hashes));
            }
            // A journal that does not fold is damaged. What waits for it is told so; its rows stay.
            Err(_) => self.no_run(run),
        }
    }

    fn adopt_run(&mut self, run: RunId, head: Head, stored: StoredRun, now: Now) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let tenant = entry.tenant;
        entry.weight = limit::RUN_BYTES + head.inline();
        self.runs.weight += entry.weight;
        let goes_on = head.runnable() && stored.events.is_empty() && entry.inbox.is_empty();
        entry.stage = Stage::Ready(head);
        // What was stored before it was read came before what came meanwhile, and is in both: those that came
        // meanwhile have rows that the read may have seen.
        let known: Vec<u64> = entry.inbox.iter().map(|(number, _)| *number).collect();
        let earlier = stored.events.into_iter().filter(|(number, _)| !known.contains(number));
        let mut inbox: VecDeque<(u64, Event)> = earlier.collect();
        inbox.append(&mut entry.inbox);
        entry.inbox = inbox;
        entry.next_event = entry.next_event.max(entry.inbox.iter().map(|(n, _)| n + 1).max().unwrap_or(1));
        self.runs.settled.push_back((entry.batch, run));
        let _ = stored.timers;
        if goes_on {
            self.queue_event(tenant, run, Event::Continue);
        }
        self.after_wait(run, now);
    }

    /// There is no such run, or it cannot be read.
    fn no_run(&mut self, run: RunId) {
        let Some(entry) = self.runs.held.remove(&run) else { return };
        for command in entry.commands {
            if let Some(request) = super::request_of(&command) {
                self.refuse(request, Refusal::NotFound);
            }
        }
    }

    /// Runs whose last change is durable may be let go.
    pub(super) fn settle_runs(&mut self) {
        while let Some((batch, run)) = self.runs.settled.front().copied() {
            if batch > self.committed {
                break;
            }
            self.runs.settled.pop_front();
            let Some(entry) = self.runs.held.get(&run) else { continue };
            if entry.batch != batch {
                continue;
            }
            if entry.head().is_some_and(|head| head.phase.ended()) {
                self.release_run(run);
            } else {
                self.runs.cold.push_back((batch, run));
            }
        }
        while self.runs.weight > self.options.run_cache {
            let Some((batch, run)) = self.runs.cold.pop_front() else { break };
            if self.runs.held.get(&run).is_some_and(|entry| entry.batch == batch) {
                self.release_run(run);
            }
        }
    }

    fn release_run(&mut self, run: RunId) {
        let Some(entry) = self.runs.held.get(&run) else { return };
        let idle = matches!(entry.stage, Stage::Ready(_)) && entry.inbox.is_empty() && entry.commands.is_empty();
        // One that is at something comes back here when it rests.
        if !idle {
            return;
        }
        self.runs.weight = self.runs.weight.saturating_sub(entry.weight);
        self.runs.held.remove(&run);
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

    /// Figures: runs in memory and their bytes.
    pub fn run_figures(&self) -> (usize, usize) {
        (self.runs.held.len(), self.runs.weight)
    }
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
