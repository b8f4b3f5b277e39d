//! Which runs are in memory. A run is read when something comes for it, and let go when it has nothing to do and others need its
//! room. So memory holds what is at work, however many runs wait.
//!
//! The bound: idle runs keep [`crate::partition::Options::run_cache`] bytes at most. A run that is being read counts from the
//! moment in which it is asked for, by what is stored of it; of one that may be large that is asked first. Only so many are read as
//! have room below [`crate::partition::Options::run_room`], and one at least; those that have to wait for that pause, and what
//! came for them is in the store alone. At twice as much no further run is started from outside.

use std::collections::VecDeque;
use std::sync::Arc;

use super::runs::{Arrival, RunEntry, Stage, Wanted};
use super::{Partition, Purpose};
use crate::command::Command;
use crate::effect::Refusal;
use crate::id::{RunId, TenantId};
use crate::limit;
use crate::load::{Load, StoredRun};
use crate::mutation::Mutation;
use crate::planted::Bug;
use crate::run::act::Event;
use crate::run::data::BlobHash;
use crate::run::eval::Json;
use crate::run::fold::{FoldError, Journal};
use crate::run::head::{Head, Identity};
use crate::time::Now;

impl Partition {
    /// Puts a run that is not in memory in line to be read. `stored`: its bytes, if they are known.
    pub(super) fn want_run(&mut self, tenant: TenantId, run: RunId, stored: Option<usize>) {
        if !self.runs.held.contains_key(&run) {
            let entry = self.wanted_entry(tenant);
            self.runs.held.insert(run, entry);
            self.runs.wanted.push_back(Wanted { tenant, run, stored });
            self.read_wanted();
        }
    }

    fn wanted_entry(&self, tenant: TenantId) -> RunEntry {
        let mut entry = RunEntry::new(tenant, Stage::Wanted, self.committed);
        // Above what a row of the store may have: numbers that were given before are read with the run.
        entry.next_event = self.index << 20;
        entry
    }

    /// Reads runs that are wanted, as many at a time as there is room for.
    pub(super) fn read_wanted(&mut self) {
        while let Some(Wanted { tenant, run, stored }) = self.runs.wanted.front().copied() {
            let weight = limit::RUN_BYTES + limit::READ_IN_MEMORY * stored.unwrap_or(limit::RUN_READ);
            let fits = self.runs.weight + weight <= self.options.run_room && self.runs.loading < limit::RUN_LOADS;
            if !fits && self.runs.loading > 0 {
                return;
            }
            self.runs.wanted.pop_front();
            let fresh = self.wanted_entry(tenant);
            let entry = self.runs.held.entry(run).or_insert(fresh);
            if matches!(entry.stage, Stage::Wanted) {
                entry.stage = Stage::Loading(None);
                entry.weight = weight;
                self.runs.weight += weight;
                self.runs.loading += 1;
                let at_most = stored.map_or(limit::RUN_READ, |_| usize::MAX);
                self.ask(Load::Run { tenant, run, at_most }, Purpose::Run(run));
            }
        }
    }

    /// A run has more bytes than it was asked to be read with: it waits, in front of the others, until there is room for them.
    pub(super) fn run_too_large(&mut self, run: RunId, bytes: usize) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        entry.stage = Stage::Wanted;
        let (tenant, weight) = (entry.tenant, std::mem::take(&mut entry.weight));
        self.runs.weight = self.runs.weight.saturating_sub(weight);
        self.runs.loading = self.runs.loading.saturating_sub(1);
        self.runs.wanted.push_front(Wanted { tenant, run, stored: Some(bytes) });
        self.read_wanted();
    }

    /// Whether runs at work take so much memory that no further one is to be started.
    pub(super) fn runs_are_full(&self) -> bool {
        self.runs.weight > 2 * self.options.run_room
    }

    /// Makes a command wait until a run is in memory. False = it is there already.
    pub(super) fn wait_for_run(&mut self, run: RunId, command: impl FnOnce() -> Command) -> bool {
        let Some(entry) = self.runs.held.get_mut(&run) else { return false };
        if matches!(entry.stage, Stage::Ready(_)) {
            return false;
        }
        self.keep_command(run, command);
        true
    }

    /// Keeps a command with a run in memory until it can be carried out ([`Partition::after_wait`]).
    pub(super) fn keep_command(&mut self, run: RunId, command: impl FnOnce() -> Command) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        if entry.commands.len() >= limit::RUN_COMMANDS {
            if let Some(request) = super::request_of(&command()) {
                let refusal = Refusal::Overloaded { what: "the run".into(), retry_after_ms: 1_000 };
                self.refuse(request, refusal);
            }
            return;
        }
        entry.commands.push(command());
    }

    /// Values that were read for a run.
    pub(super) fn values_loaded(
        &mut self,
        run: RunId,
        hashes: Vec<BlobHash>,
        values: Vec<Option<(Arc<Json>, usize)>>,
        now: Now,
    ) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let blobs = Arc::make_mut(&mut entry.blobs);
        for (hash, value) in hashes.into_iter().zip(values) {
            // What is gone is null: the run goes on and says what it misses.
            let (value, bytes) = value.unwrap_or_default();
            entry.blob_bytes += limit::VALUE_IN_MEMORY * bytes;
            blobs.insert(hash, value);
        }
        if let Stage::Loading(stored) = &mut entry.stage {
            if let Some(stored) = stored.take() {
                self.run_read(run, Some(stored), now);
            }
        } else if matches!(entry.stage, Stage::Fetching(_)) {
            entry.restage(Stage::Ready);
            self.weigh_run(run);
            self.after_wait(run, now);
        }
    }

    /// The answer of the store to [`Load::Run`].
    pub(super) fn run_loaded(&mut self, run: RunId, stored: Option<Box<StoredRun>>, now: Now) {
        if self.runs.held.contains_key(&run) {
            self.run_read(run, stored, now);
        }
    }

    fn run_read(&mut self, run: RunId, stored: Option<Box<StoredRun>>, now: Now) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let tenant = entry.tenant;
        let Some(stored) = stored.filter(|stored| stored.head.is_some() || !stored.segments.is_empty()) else {
            // What came for it will never be taken in.
            let rows = entry.inbox.iter().filter(|arrival| arrival.number > 0 && arrival.stored);
            let gone = rows.map(|arrival| Mutation::DeleteRunEvent { tenant, run, number: arrival.number });
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
            // A move writes the head whole: what comes after it is of one plan.
            earlier: &[],
            blobs: &*blobs,
        };
        match journal.fold() {
            Ok(mut head) => {
                if self.options.planted.has(Bug::UndoLostByReload) {
                    head.undo = None;
                }
                if self.options.planted.has(Bug::LatestByReload) {
                    let who = &head.identity;
                    if let Some((plan, version)) = self.workflow(tenant, &who.namespace, &who.name, "latest") {
                        head.identity = Arc::new(Identity { plan, version, ..(**who).clone() });
                    }
                }
                self.adopt_run(run, head, *stored, now);
            }
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
        let goes_on = head.runnable() && stored.events.is_empty() && entry.inbox.is_empty();
        entry.stage = Stage::Ready(head);
        // What was stored before it was read came before what came meanwhile, and is in both: those that came
        // meanwhile have rows that the read may have seen.
        let known: Vec<u64> = entry.inbox.iter().map(|arrival| arrival.number).collect();
        let earlier = stored.events.into_iter().filter(|(number, _)| !known.contains(number));
        let mut inbox: VecDeque<Arrival> =
            earlier.map(|(number, event)| Arrival { number, stored: true, event }).collect();
        inbox.append(&mut entry.inbox);
        entry.inbox = inbox;
        let next = entry.inbox.iter().map(|arrival| arrival.number + 1).max().unwrap_or(1);
        entry.next_event = entry.next_event.max(next);
        self.runs.settled.push_back((entry.batch, run));
        self.runs.loading = self.runs.loading.saturating_sub(1);
        self.weigh_run(run);
        let _ = stored.timers;
        if goes_on {
            self.queue_event(tenant, run, Event::Continue);
        }
        self.after_wait(run, now);
        self.read_wanted();
    }

    /// There is no such run, or it cannot be read.
    fn no_run(&mut self, run: RunId) {
        self.runs.loading = self.runs.loading.saturating_sub(1);
        if let Some(entry) = self.runs.held.remove(&run) {
            self.runs.weight = self.runs.weight.saturating_sub(entry.weight);
            for command in entry.commands {
                if let Some(request) = super::request_of(&command) {
                    self.refuse(request, Refusal::NotFound);
                }
            }
        }
        self.read_wanted();
    }

    /// Says how much memory a run takes now.
    pub(super) fn weigh_run(&mut self, run: RunId) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        if entry.blob_bytes > limit::RUN_BLOB_BYTES && matches!(entry.stage, Stage::Ready(_)) && entry.inbox.is_empty()
        {
            (entry.blobs, entry.blob_bytes) = (Arc::default(), 0);
        }
        let Some(head) = entry.head() else { return };
        let weight = limit::RUN_BYTES + head.inline() + limit::VALUE_IN_MEMORY * head.at_hand() + entry.blob_bytes;
        self.runs.weight = (self.runs.weight + weight).saturating_sub(entry.weight);
        entry.weight = weight;
    }

    /// Runs whose last change is durable may be let go.
    pub(super) fn settle_runs(&mut self) {
        while let Some((batch, run)) = self.runs.settled.front().copied() {
            if batch > self.committed {
                break;
            }
            self.runs.settled.pop_front();
            let Some(entry) = self.runs.held.get_mut(&run) else { continue };
            if entry.batch != batch {
                continue;
            }
            if matches!(entry.stage, Stage::Wanted) {
                // It is read after this: what is stored comes with it. A timer's own row does not bring its event.
                entry.inbox.retain(|arrival| !arrival.stored || arrival.number == 0);
                if entry.inbox.is_empty() && entry.commands.is_empty() {
                    self.runs.held.remove(&run);
                }
            } else if entry.head().is_some_and(|head| head.phase.ended()) {
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
        self.read_wanted();
    }

    fn release_run(&mut self, run: RunId) {
        let Some(entry) = self.runs.held.get(&run) else { return };
        let quiet = entry.inbox.is_empty() || entry.stuck && entry.inbox.iter().all(|arrival| arrival.stored);
        // One that is at something comes back here when it rests.
        if !quiet || !matches!(entry.stage, Stage::Ready(_)) || !entry.commands.is_empty() {
            return;
        }
        self.runs.weight = self.runs.weight.saturating_sub(entry.weight);
        self.runs.held.remove(&run);
    }

    /// Figures: runs in memory and their bytes.
    pub fn run_figures(&self) -> (usize, usize) {
        (self.runs.held.len(), self.runs.weight)
    }
}
