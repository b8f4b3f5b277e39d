//! Turns of runs: what came is taken in here, or elsewhere when it takes long or needs values first; what a turn asks for
//! becomes part of the batch.

use std::collections::VecDeque;
use std::sync::Arc;

use super::runs::{Arrival, Stage};
use super::{Partition, Purpose};
use crate::effect::{Computation, Effect, Work};
use crate::id::{RunId, TenantId};
use crate::limit;
use crate::load::Load;
use crate::mutation::{Mutation, RunRecord, RunTimer};
use crate::planted::Bug;
use crate::run::act::Event;
use crate::run::data::BlobHash;
use crate::run::eval::Fuel;
use crate::run::fold::FoldError;
use crate::run::moves::fits;
use crate::run::turn::{Env, Halt, Turn, advance, plan_of};
use crate::time::Now;

impl Partition {
    /// One turn of a run with what is first in its line, or with several ends of items of a map; how many steps it took.
    pub(super) fn serve_run(&mut self, run: RunId, first: Arrival, now: Now) -> u64 {
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
    pub(super) fn try_turn(
        &mut self,
        run: RunId,
        event: &Event,
        now: Now,
    ) -> Result<(Option<Turn>, u64), Option<Halt>> {
        let Some(entry) = self.runs.held.get(&run) else { return Err(None) };
        let Stage::Ready(head) = &entry.stage else { return Err(None) };
        let (tenant, plan, own) = (entry.tenant, *plan_of(head, event), head.identity.plan);
        let Some(definition) = self.definition(tenant, &plan) else { return Err(None) };
        let from = if plan == own { None } else { self.definition(tenant, &own) };
        let Some(entry) = self.runs.held.get(&run) else { return Err(None) };
        let Stage::Ready(head) = &entry.stage else { return Err(None) };
        if let Some(from) = from
            && fits(head, from.plan(), definition.plan()).is_err()
            && !self.options.planted.has(Bug::UncheckedMove)
        {
            // It was found to fit where it stands, and is first in line since; but that row was written by an older program.
            return Ok((None, 0));
        }
        let env =
            Env { definition: &*definition, blobs: &*entry.blobs, now_ms: now.wall, bounds: self.options.programs };
        let mut fuel = Fuel { steps: limit::SLICE_STEPS, bytes: limit::SLICE_BYTES };
        let turn = advance(head, event.clone(), &env, &mut fuel).map_err(Some)?;
        Ok((turn, limit::SLICE_STEPS.saturating_sub(fuel.steps)))
    }

    /// One turn; how many steps it took.
    pub(super) fn take_in(&mut self, run: RunId, arrival: Arrival, now: Now) -> u64 {
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

    /// The event needs no row any more.
    pub(super) fn taken(&mut self, tenant: TenantId, run: RunId, arrival: &Arrival) {
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
    pub(super) fn put_off(&mut self, run: RunId, mut arrival: Arrival) {
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
        let ticket = self.next_ticket();
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        entry.restage(|head| Stage::Computing(head, ticket));
        entry.batch = self.index;
        let (blobs, now_ms) = (entry.blobs.clone(), now.wall);
        let bounds = self.options.programs;
        let work = Work::Turn(event);
        let work = Computation { tenant, run, ticket, head, work, definition, blobs, now_ms, bounds };
        self.effects.push(Effect::Compute(Box::new(work)));
    }

    /// Stands for one computation, and no other one.
    pub(super) fn next_ticket(&mut self) -> u64 {
        self.runs.tickets = self.runs.tickets.wrapping_add(1);
        u64::from(self.epoch) << 32 | u64::from(self.runs.tickets)
    }

    /// What came of a turn that was taken elsewhere. Its ticket says that it is one of this run as it is, with the event that is
    /// first in line: until it comes back nothing else is taken in.
    pub(super) fn turn_computed(
        &mut self,
        run: RunId,
        ticket: u64,
        outcome: Result<Option<Turn>, FoldError>,
        now: Now,
    ) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        if !matches!(&entry.stage, Stage::Computing(_, known) if *known == ticket) {
            return;
        }
        if let Some(back) = entry.back.take() {
            return self.way_back(run, back, outcome, now);
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
            Err(FoldError::Blobs(hashes)) => return self.fetch(run, arrival, hashes),
            // It had all that it may have: the event cannot be taken in. The run stays as it is, for a person.
            Err(_) => self.taken(tenant, run, &arrival),
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

    /// What a run in memory was to go on with is not needed: the turn that comes instead goes on by itself.
    pub(super) fn forget_continue(&mut self, run: RunId) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let (tenant, goes_on) = (entry.tenant, |arrival: &Arrival| matches!(arrival.event, Event::Continue));
        let (gone, rest) = std::mem::take(&mut entry.inbox).into_iter().partition::<Vec<_>, _>(goes_on);
        entry.inbox = rest.into();
        for arrival in gone.iter().filter(|arrival| arrival.stored) {
            self.taken(tenant, run, arrival);
        }
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
