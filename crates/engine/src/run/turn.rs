//! A turn: one event, and all that follows from it until the run has to wait.

use super::act::{Act, Event, Outcome};
use super::code::Bounds;
use super::data::{BlobHash, Blobs, Data};
use super::eval::{Definition, Fuel, Json};
use super::head::{Head, Outside, Phase, Seq};
use super::journal::{Fact, Segment};
use super::machine::{End, Machine, Mode};
use crate::limit::{BYTES_PER_HEAD, SEEN, TURNS_PER_HEAD};
use crate::planted::Bug;

/// What a turn works with besides head and event.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// The workflow.
    pub definition: &'a dyn Definition,
    /// Blobs that were read for this turn.
    pub blobs: &'a dyn Blobs,
    /// Wall time.
    pub now_ms: u64,
    /// Bounds on programs. What came of them is in the journal, so that a fold does not depend on them.
    pub bounds: Bounds,
}

/// The outcome of a turn: all of it goes into one commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// The run afterwards.
    pub head: Head,
    /// Appended to its journal.
    pub segment: Segment,
    /// What the shell has to do: first the blobs to be stored before the commit, then at most
    /// [`crate::limit::ACTS_PER_TURN`] other acts.
    pub acts: Vec<Act>,
    /// Whether [`Event::Continue`] has to follow, behind what others have to do.
    pub more: bool,
    /// Whether the head has to be written whole with this turn.
    pub snapshot: bool,
}

/// Why there is no turn. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The fuel is used up: the same call is to be made elsewhere with at least [`crate::limit::EVAL_STEPS`], with which it
    /// never ends so.
    OutOfFuel,
    /// These blobs have to be read first, then the same call made again.
    Blobs(Vec<BlobHash>),
}

/// Takes a run on. `None` = the event changes nothing: it came before, or is for something that is not open. The head is
/// not touched; the next one is in the turn.
pub fn advance(head: &Head, event: Event, env: &Env<'_>, fuel: &mut Fuel) -> Result<Option<Turn>, Halt> {
    if !matters(head, &event) {
        return Ok(None);
    }
    let mut machine = Machine::new(head.clone(), env, *fuel, Mode::Live);
    match machine.play(&event) {
        Ok(()) => {}
        Err(End::Halt(halt)) => return Err(halt),
        // Neither happens outside of a fold.
        Err(End::Diverged(_) | End::Reached) => return Ok(None),
    }
    *fuel = machine.meter.fuel;
    Ok(Some(machine.finish(event)))
}

/// Whether an event changes anything.
pub(super) fn matters(head: &Head, event: &Event) -> bool {
    let ended = head.phase.ended();
    match event {
        Event::Start { .. } => head.phase == Phase::Pending,
        Event::Continue => head.runnable(),
        Event::Done { entry, .. } => {
            let open = matches!(head.opened(*entry), Some(open) if matches!(open.what, Outside::Task | Outside::Child(_) | Outside::Undo));
            open || head.children.iter().any(|child| child.0 == *entry)
        }
        Event::Items { entry, first, outcomes } => {
            !outcomes.is_empty() && head.opened(*entry).is_some() && at_work(head, *entry, *first)
        }
        Event::Many { entry, ended } => {
            let news = |(first, outcomes): &(u64, Vec<Outcome>)| !outcomes.is_empty() && at_work(head, *entry, *first);
            head.opened(*entry).is_some() && ended.iter().any(news)
        }
        Event::Fired { entry } => matches!(head.opened(*entry), Some(open) if open.what.is_timer()),
        Event::Arrived { .. } | Event::Signal { .. } => {
            !ended && head.closing.is_none() && head.phase != Phase::Pending
        }
        Event::Cancel { .. } | Event::Terminate { .. } => !ended,
        Event::Suspend { .. } => matches!(head.phase, Phase::Running | Phase::Waiting) && head.closing.is_none(),
        Event::Resume => head.phase == Phase::Suspended,
        Event::Retry => head.phase == Phase::Faulted,
        Event::Moved { identity, .. } => !ended && head.closing.is_none() && identity.plan != head.identity.plan,
        Event::Accepted { .. } => {
            head.phase == Phase::Suspended && super::code::of(head).is_some_and(|code| code.mismatch.is_some())
        }
        Event::Reset { .. } => false,
    }
}

/// The plan with which a run takes an event in.
pub fn plan_of<'h>(head: &'h Head, event: &'h Event) -> &'h [u8; 32] {
    match event {
        Event::Moved { identity, .. } | Event::Reset { identity, .. } => &identity.plan,
        _ => &head.identity.plan,
    }
}

fn at_work(head: &Head, entry: Seq, first: u64) -> bool {
    let Some(line) = head.opened(entry).and_then(|open| head.line(open.line)) else { return false };
    match line.frames.last().map(|frame| &frame.step) {
        Some(super::head::Step::Map(map)) => map.at_work(first),
        _ => false,
    }
}

impl Outside {
    /// Whether a timer stands for it.
    pub fn is_timer(self) -> bool {
        use Outside::{AttemptLimit, Backoff, Timeout, UndoPause, Wait};
        matches!(self, Wait | Timeout | AttemptLimit | Backoff | UndoPause)
    }
}

impl Machine<'_> {
    /// The whole turn but its packing.
    pub(super) fn play(&mut self, event: &Event) -> Result<(), End> {
        let owed = std::mem::take(&mut self.head.owed);
        owed.into_iter().for_each(|act| self.act(act));
        if self.head.phase == Phase::Suspended && self.hold(event) {
            return Ok(());
        }
        self.take(event)?;
        self.run()
    }

    /// Keeps what comes while the run is suspended.
    fn hold(&mut self, event: &Event) -> bool {
        let kept = matches!(
            event,
            Event::Done { .. }
                | Event::Items { .. }
                | Event::Many { .. }
                | Event::Fired { .. }
                | Event::Arrived { .. }
                | Event::Signal { .. }
        );
        if kept && !self.head.held.iter().any(|held| same_source(held, event)) {
            self.head.held.push(event.clone());
        }
        kept
    }

    fn take(&mut self, event: &Event) -> Result<(), End> {
        if matches!(
            event,
            Event::Done { .. } | Event::Items { .. } | Event::Many { .. } | Event::Fired { .. } | Event::Arrived { .. }
        ) {
            self.head.work = 0;
        }
        match event {
            Event::Start { input, .. } => self.begin_run(input),
            Event::Continue => {}
            Event::Done { entry, outcome } => self.outside_done(*entry, outcome)?,
            Event::Items { entry, first, outcomes } => self.items_done(*entry, *first, outcomes)?,
            Event::Many { entry, ended } => {
                for (first, outcomes) in ended {
                    // One that fails ends the map: what comes after it is for nothing that is open.
                    if !outcomes.is_empty() && self.head.opened(*entry).is_some() && at_work(&self.head, *entry, *first)
                    {
                        self.items_done(*entry, *first, outcomes)?;
                    }
                }
            }
            Event::Fired { entry } => self.fired(*entry)?,
            Event::Arrived { event } => self.arrived(event)?,
            Event::Signal { id, kind, data } => {
                let signal = signal(id, kind, data);
                self.arrived(&signal)?;
            }
            Event::Cancel { reason } if self.cancel_code(reason) => {}
            Event::Cancel { reason } | Event::Terminate { reason } => {
                let terminates = matches!(event, Event::Terminate { .. });
                if !terminates && !self.head.held.is_empty() {
                    self.take_held_steps()?;
                    if self.head.phase.ended() {
                        return Ok(());
                    }
                }
                self.unwind_all();
                if terminates {
                    self.head.undo = None;
                }
                self.head.reason = Some(reason.clone());
                self.end_run(Phase::Cancelled, Outcome::Cancelled);
            }
            Event::Suspend { reason } => self.set_phase(Phase::Suspended, Some(reason.clone())),
            Event::Resume => self.resume()?,
            Event::Retry => self.retry_run()?,
            Event::Moved { identity, by } => self.moved(identity, by)?,
            Event::Accepted { by } => self.accept(by)?,
            Event::Reset { .. } => {}
        }
        Ok(())
    }

    /// The run goes on after a suspension, with what came meanwhile.
    pub(super) fn resume(&mut self) -> Result<(), End> {
        self.set_phase(Phase::Running, None);
        for held in std::mem::take(&mut self.head.held) {
            if matters(&self.head, &held) {
                self.take(&held)?;
            }
        }
        Ok(())
    }

    /// Lets every line go on that can, until all wait or the turn is full.
    pub(super) fn run(&mut self) -> Result<(), End> {
        if self.head.undo.is_some() && self.head.phase != Phase::Suspended {
            self.compensate();
        }
        if !self.may_go_on() {
            return Ok(());
        }
        self.ready.extend(self.head.lines.iter().filter(|line| line.next.ready()).map(|line| line.id));
        while let Some(id) = self.ready.pop_front() {
            while self.may_go_on() && self.head.line(id).is_some_and(|line| line.next.ready()) {
                if self.begins(id) {
                    if self.full() {
                        self.more = true;
                        return Ok(());
                    }
                    self.begun += 1;
                }
                self.step(id)?;
                if self.head.undo.is_some() {
                    self.compensate();
                }
            }
        }
        Ok(())
    }

    /// Whether statements may begin and go on: not while the run holds, ends, or has something to be undone first.
    fn may_go_on(&self) -> bool {
        let at_work = matches!(self.head.phase, Phase::Running | Phase::Waiting);
        let undone = self.head.undo_idle() || self.def.planted().has(Bug::HastyCatch);
        at_work && self.head.closing.is_none() && undone
    }

    pub(super) fn set_phase(&mut self, phase: Phase, reason: Option<crate::id::Name>) {
        self.head.phase = phase;
        self.head.reason.clone_from(&reason);
        self.facts.push(Fact::Phase { phase, reason, value: None });
    }

    /// The run ends with an outcome, or will when the children it has to wait for have ended and what is to be undone is.
    pub(super) fn end_run(&mut self, phase: Phase, outcome: Outcome) {
        if self.head.undo.is_some() {
            let kept = self.def.planted().has(Bug::UndoAfterEnd);
            let undo = self.head.undo_mut();
            if phase == Phase::Completed && !kept { undo.commit() } else { undo.begin_all() }
        }
        self.close_all();
        // Children that ended during a suspension are not waited for.
        let mut undone = None;
        for held in std::mem::take(&mut self.head.held) {
            match held {
                Event::Done { entry, .. } | Event::Fired { entry } if self.owned_by_undo(entry) => undone = Some(held),
                Event::Done { entry, .. } => self.head.children.retain(|child| child.0 != entry),
                _ => {}
            }
        }
        for (entry, close) in std::mem::take(&mut self.head.children) {
            match close {
                super::plan::ParentClose::Cancel => self.act(Act::CancelChild { entry }),
                super::plan::ParentClose::Abandon => {}
                super::plan::ParentClose::Wait => self.head.children.push((entry, close)),
            }
        }
        if phase != Phase::Faulted {
            self.head.lines.clear();
        }
        self.ready.clear();
        if self.head.children.is_empty() && self.head.undo.is_none() {
            return self.ended(phase, outcome);
        }
        self.head.phase = Phase::Running;
        self.head.closing = Some((phase, outcome));
        match undone {
            Some(Event::Done { entry, outcome }) => {
                self.settle(entry);
                self.undone(entry, &outcome);
            }
            Some(Event::Fired { entry }) => {
                self.settle(entry);
                self.undo_again();
            }
            _ if self.head.undo.is_some() => self.compensate(),
            _ => {}
        }
    }

    /// The run has ended.
    pub(super) fn ended(&mut self, phase: Phase, outcome: Outcome) {
        let value = match &outcome {
            Outcome::Ok(data) => Some(self.value(data)),
            Outcome::Err(fault) => Some(self.fault_value(fault)),
            Outcome::Cancelled => None,
        };
        self.head.phase = phase;
        self.head.closing = None;
        self.head.ended_ms = self.now;
        self.head.inbox.clear();
        let reason = self.head.reason.clone();
        self.facts.push(Fact::Phase { phase, reason, value });
        self.head.outcome = Some(outcome.clone());
        self.act(Act::Finished { phase, outcome });
    }

    /// Packs the turn.
    pub(super) fn finish(mut self, event: Event) -> Turn {
        let before = self.before;
        if matches!(self.head.phase, Phase::Running | Phase::Waiting) && self.head.closing.is_none() {
            let timed = |open: &(Seq, super::head::Open)| open.1.what.is_timer() || open.1.what == Outside::Events;
            let waits = !self.more && self.head.open.iter().all(timed);
            self.head.phase = if waits { Phase::Waiting } else { Phase::Running };
        }
        self.more |= !self.head.owed.is_empty();
        self.head.turns += 1;
        self.head.work = match self.mode {
            Mode::Live => self.head.work + self.meter.work(),
            Mode::Replay { segment, .. } => segment.work,
        };
        // Lists find a run by its phase as it was last written.
        let snapshot = self.head.phase != before
            || self.head.turns.is_multiple_of(TURNS_PER_HEAD) && self.head.turns.is_multiple_of(self.turns_per_head())
            || matches!(event, Event::Reset { .. } | Event::Retry)
            || matches!(event, Event::Moved { .. }) && !self.def.planted().has(Bug::MoveWithoutHead);
        let segment = Segment {
            revision: self.revision(),
            turn: self.head.turns,
            now_ms: self.now,
            event,
            begun: self.begun,
            more: self.more,
            work: self.head.work,
            tape: self.tape,
            values: self.values,
            facts: self.facts,
        };
        let mut acts = self.blobs_made;
        acts.append(&mut self.acts);
        Turn { head: self.head, segment, acts, more: self.more, snapshot }
    }

    /// A large head is written less often: what is written of it stays about what its turns write.
    fn turns_per_head(&self) -> u64 {
        TURNS_PER_HEAD * (1 + self.head.inline() / BYTES_PER_HEAD).next_power_of_two() as u64
    }

    /// Whether an event with this source and id was seen before; if not, it is from now on.
    pub(super) fn seen_before(&mut self, hash: u64) -> bool {
        if self.head.seen.contains(&hash) {
            return true;
        }
        let seen = std::sync::Arc::make_mut(&mut self.head.seen);
        if seen.len() >= SEEN {
            seen.drain(..SEEN / 4);
        }
        seen.push(hash);
        false
    }
}

/// Whether two events end the same entry or bring the same message.
fn same_source(a: &Event, b: &Event) -> bool {
    match (a, b) {
        (Event::Done { entry: a, .. }, Event::Done { entry: b, .. })
        | (Event::Fired { entry: a }, Event::Fired { entry: b }) => a == b,
        (Event::Items { entry: a, first: x, .. }, Event::Items { entry: b, first: y, .. }) => (a, x) == (b, y),
        (Event::Signal { id: a, .. }, Event::Signal { id: b, .. }) => a == b,
        _ => a == b,
    }
}

/// A signal as an event.
pub fn signalled(id: &str, kind: &str, data: Json) -> Json {
    serde_json::json!({"specversion": "1.0", "source": "tidewheel:signal", "id": id, "type": kind, "data": data})
}

/// The same of one that came with its value beside; a large one is a name in it.
pub(super) fn signal(id: &str, kind: &str, data: &Data) -> Data {
    Data::small(signalled(id, kind, data.written()))
}
