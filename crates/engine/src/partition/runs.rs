//! Runs: what comes for a run goes into its turn, and what the turn asks for becomes tasks, timers, other runs and rows.
//!
//! A turn is taken in the batch of what caused it, when the run is in memory and nothing is before it. What has to wait (the
//! run is read, a turn is computed elsewhere, others are before it) is stored as a row of its own when that batch closes, so
//! that a crash loses none of it; a turn that takes it in removes the row.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;

use super::go_back::GoingBack;
use super::{Partition, WallTimer};
use crate::command::Command;
use crate::id::{Name, RunId, TenantId};
use crate::limit;
use crate::load::StoredRun;
use crate::mutation::{Mutation, RunRecord, RunTimer};
use crate::planted::Bug;
use crate::run::act::Event;
use crate::run::data::BlobHash;
use crate::run::eval::{Definition, Json};
use crate::run::head::{Head, Identity, Seq};
use crate::run::journal::Segment;
use crate::time::Now;
use crate::version::Version;
use crate::wheel::TimerKey;

/// All that the partition knows of runs.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(super) held: HashMap<RunId, RunEntry>,
    /// Runs with something that may be taken in.
    pub(super) line: VecDeque<RunId>,
    /// Runs of which the open batch has rows to write, see [`Partition::write_runs`].
    pub(super) changed: Vec<RunId>,
    /// What the open batch has of turns beside their number: one takes as long to write as several tasks.
    pub(super) turns_weigh: usize,
    /// Runs changed by a batch, for when it is durable.
    pub(super) settled: VecDeque<(u64, RunId)>,
    /// Runs that could be let go, the longest unused first, each with the batch that changed it last.
    pub(super) cold: VecDeque<(u64, RunId)>,
    /// Runs that are to be read, when there is room for them.
    pub(super) wanted: VecDeque<Wanted>,
    /// How many are being read.
    pub(super) loading: usize,
    /// Bytes of the runs in memory and of those on their way there, about.
    pub(super) weight: usize,
    /// Turns that were handed out.
    pub(super) tickets: u32,
    pub(super) definitions: HashMap<(TenantId, [u8; 32]), Arc<dyn Definition>>,
    /// The order in which they were compiled.
    pub(super) compiled: VecDeque<(TenantId, [u8; 32])>,
    /// Versions of workflows by tenant and `namespace/name`, with the hash of their documents.
    pub(super) workflows: BTreeMap<(TenantId, Name), BTreeMap<Version, super::workflows::Deployed>>,
    /// Journals that were played and are done with: there may be very many turns to be let go.
    pub(super) played: Vec<Vec<Segment>>,
    /// Tasks of items that are to be cancelled, a few at a time.
    pub(super) cancels: VecDeque<super::run_acts::Unneeded>,
}

/// A run that is to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) tenant: TenantId,
    pub(super) run: RunId,
    /// Its stored bytes, if they are known.
    pub(super) stored: Option<usize>,
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
    /// It goes back, or another run does from a moment of it.
    pub(super) back: Option<Box<GoingBack>>,
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
            back: None,
        }
    }

    /// The run, if it has been read.
    pub(super) fn head(&self) -> Option<&Head> {
        match &self.stage {
            Stage::Wanted | Stage::Loading(_) => None,
            Stage::Ready(head) | Stage::Fetching(head) | Stage::Computing(head, _) => Some(head),
        }
    }

    /// Whether nothing is in line that could change where it stands: all that came is taken in, but for its own going on, or what is
    /// first cannot be.
    pub(super) fn caught_up(&self) -> bool {
        let goes_on = |arrival: &Arrival| matches!(arrival.event, Event::Continue);
        self.stuck || self.inbox.iter().all(goes_on)
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
        self.want_run(tenant, run, None);
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
    pub(super) fn run_changed(&mut self, run: RunId) {
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
        if let Some(played) = self.runs.played.last_mut() {
            played.truncate(played.len().saturating_sub(limit::TURNS_LET_GO));
            if played.is_empty() {
                self.runs.played.pop();
            }
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
            let Some(entry) = self.runs.held.get(&run) else { continue };
            let (waits, caught_up) = (!entry.commands.is_empty(), entry.caught_up());
            if !entry.inbox.is_empty() {
                self.line_up(run);
            }
            if waits && caught_up {
                self.after_wait(run, now);
            }
        }
        !self.runs.line.is_empty() || !self.runs.cancels.is_empty() || !self.runs.played.is_empty()
    }

    /// The run may be let go once what changed it last is durable.
    pub(super) fn rest(&mut self, run: RunId) {
        if let Some(entry) = self.runs.held.get(&run) {
            self.runs.settled.push_back((entry.batch, run));
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
