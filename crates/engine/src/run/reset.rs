//! Back to a key: the head of that moment, and the turn that goes on from it.

use std::ops::Range;
use std::sync::Arc;

use super::act::{Act, Event};
use super::code::{self, Bounds};
use super::data::Data;
use super::eval::Fuel;
use super::fold::{FoldError, Journal, Past};
use super::head::{Head, Identity, Next, Phase, Seq, Waiting};
use super::journal::{EntryKind, Fact, Key, REVISION, Segment};
use super::machine::{End, Machine, Mode};
use super::rollback::Back;
use super::turn::{Env, Turn, plan_of};
use crate::id::Name;
use crate::planted::Bug;

/// Turns between the heads that are kept while a journal is played for a reset.
const TURNS_APART: usize = 1_024;

/// What a reset changes besides going back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Replaces the raw input of the statement.
    pub input: Option<Data>,
    /// Goes on as another run.
    pub identity: Option<Arc<Identity>>,
    /// What was armed after that moment is not undone: somebody says that what was done holds, or was undone by hand.
    pub keeps: bool,
}

impl Journal<'_> {
    /// The same as [`Journal::went_back`], for a turn of the journal, once.
    pub(super) fn went_back_in(&self, past: &mut Past, head: &Head, at: usize, key: &str) -> Result<Head, FoldError> {
        if let Some(back) = past.back.get(&at) {
            return Ok(back.clone());
        }
        let segment = &self.segments[at];
        let back = self.went_back(past, head, at, key, (&segment.event, segment.revision))?;
        past.before.insert(at, head.clone());
        past.back.insert(at, back.clone());
        Ok(back)
    }

    /// The head at the moment before a key was opened the last time, as a reset goes on from it. Up to revision 2 it was the first time,
    /// which is another one after an earlier reset.
    fn went_back(
        &self,
        past: &mut Past,
        current: &Head,
        before: usize,
        key: &str,
        (event, revision): (&Event, u16),
    ) -> Result<Head, FoldError> {
        let Event::Reset { input, next_seq, identity, since, .. } = event else { return Err(FoldError::NoKey) };
        let is_it = |fact: &Fact| matches!(fact, Fact::Opened { key: opened, .. } if opened.to_string() == key);
        let last = || self.segments[..before].iter().rposition(|segment| segment.facts.iter().any(is_it));
        let until = if revision >= 3 { last().ok_or_else(|| self.unknown(current))? } else { 0 };
        let Some((at, mut head)) = self.moment(past, until..before, key)? else { return Err(self.unknown(current)) };
        if head.identity.plan != identity.plan {
            let (old, new) = (self.definition_of(&head.identity.plan)?, self.definition_of(&identity.plan)?);
            super::moves::fits(&head, old.plan(), new.plan()).map_err(FoldError::Unfit)?;
        }
        self.take_up(&mut head, at..before, revision)?;
        let (moment, foreign) = (head.next_seq, head.identity.run != identity.run);
        head.identity = identity.clone();
        head.next_seq = *next_seq;
        head.turns = current.turns;
        head.entries = current.entries;
        head.compacted = current.compacted;
        head.phase = Phase::Running;
        head.reason = None;
        head.outcome = None;
        head.closing = None;
        head.ended_ms = 0;
        head.work = 0;
        head.held.clear();
        head.owed.clear();
        // Children from before that moment stay, those that are still there; those of another run are not this one's.
        let forks = identity.run != current.identity.run;
        let planted = self.definition.planted();
        if forks || revision < 6 {
            let later = &self.segments[at.min(before)..before];
            super::saga::went_back(&mut head, current, later, &super::saga::GoesBack { forks, revision, planted });
            // What another run armed is that run's.
            past.ledger.forget(if forks { 0 } else { moment });
        } else {
            if foreign && !planted.has(Bug::ForeignUndo) {
                super::rollback::disown(&mut head);
            }
            past.ledger.roll_back(&mut head, &Back { current, moment, since: *since, planted });
        }
        let ended =
            |entry: Seq| current.held.iter().any(|held| matches!(held, Event::Done { entry: e, .. } if *e == entry));
        head.children.retain(|child| !forks && current.children.contains(child) && !ended(child.0));
        if let Some(input) = input
            && !set_input(&mut head, key, input)
            && revision >= 3
        {
            return Err(FoldError::NoInput(self.whose_input(&head, key)));
        }
        Ok(head)
    }

    /// The head at the moment before a key was opened in one of these turns, and the turn in which it was.
    fn moment(&self, past: &mut Past, turns: Range<usize>, key: &str) -> Result<Option<(usize, Head)>, FoldError> {
        let (mut at, mut head) = match past.before.range(..=turns.start).next_back() {
            Some((at, head)) => (*at, head.clone()),
            None => (0, self.base()?),
        };
        let mut reached = None;
        while at < turns.end {
            let stops = (at >= turns.start).then_some((key, &mut reached));
            match self.play(past, &head, at, stops)? {
                Some((next, _)) => head = next,
                None => break,
            }
            at += 1;
        }
        Ok(reached.map(|head| (at, head)))
    }

    /// Events that came later are there for the run once more.
    fn take_up(&self, head: &mut Head, later: Range<usize>, revision: u16) -> Result<(), FoldError> {
        for segment in &self.segments[later] {
            let event = match &segment.event {
                Event::Arrived { event } => event.clone(),
                Event::Signal { id, kind, data } => super::turn::signal(id, kind, data),
                _ => continue,
            };
            let json = match (&event, event.json()) {
                (_, Some(json)) => json,
                // Read for it, as what a turn needs is.
                (Data::Ref { hash, .. }, None) if revision >= 7 => {
                    self.blobs.get(hash).map(|json| &**json).ok_or_else(|| FoldError::Blobs(vec![*hash]))?
                }
                // Up to revision 6 a large one was not there once more.
                (Data::Ref { .. } | Data::Inline { .. }, None) => continue,
            };
            let hash = super::listen::identity_of(json);
            if segment.turn > head.turns + 1 && !head.seen.contains(&hash) {
                Arc::make_mut(&mut head.seen).push(hash);
                head.arrivals += 1;
                head.inbox.push(Waiting { no: head.arrivals, event });
            }
        }
        Ok(())
    }

    /// What to do where an entry takes no other input.
    fn whose_input(&self, head: &Head, key: &str) -> Name {
        let sagas = head.lines.iter().filter_map(|line| line.frames.last());
        let mut sagas = sagas.filter(|frame| matches!(frame.step, super::head::Step::Saga(_)));
        let of_step = |frame: &super::head::Frame| key.contains(&format!(":{}/", frame.place.reference));
        match sagas.find(|frame| of_step(frame)) {
            Some(frame) => {
                let saga =
                    Key { scope: frame.scope.clone(), kind: EntryKind::Saga, name: frame.place.name(), n: frame.n };
                format!(
                    "a step of a saga has the saga's input; go back to the saga itself, '{saga}', with the other input"
                )
                .into()
            }
            None => format!("'{key}' goes on with what it had begun; give the input to an entry before it").into(),
        }
    }

    fn unknown(&self, current: &Head) -> FoldError {
        if current.compacted.is_none() {
            return FoldError::NoKey;
        }
        let opened = |segment: &Segment| {
            segment.facts.iter().find_map(|fact| match fact {
                Fact::Opened { key, .. } => Some(key.to_string().into()),
                _ => None,
            })
        };
        FoldError::Compacted(self.segments.iter().find_map(opened))
    }

    /// Takes a run back to the moment before a key was opened, and on from there. What is open now is cancelled; what was
    /// open then is opened again under new entries. Keys of entries after that moment are free again. With another
    /// `identity` it is a fork: this run stays as it is, and the turn belongs to the new one, whose journal begins with a
    /// copy of this one's.
    pub fn reset(
        &self,
        current: &Head,
        key: &str,
        change: Change,
        now_ms: u64,
        fuel: &mut Fuel,
    ) -> Result<Turn, FoldError> {
        let forks = change.identity.is_some();
        let since = if forks || change.keeps { None } else { self.entry_of(key) };
        let activation = self.activation_of(key);
        if activation.is_some() && change.input.is_some() {
            return Err(FoldError::Input);
        }
        let key = activation.as_deref().unwrap_or(key);
        let identity = change.identity.unwrap_or_else(|| current.identity.clone());
        let next_seq = current.next_seq;
        let event = Event::Reset { key: key.into(), input: change.input, next_seq, identity, since };
        let start = self.went_back(&mut self.walked()?, current, self.segments.len(), key, (&event, REVISION))?;
        if code::of(&start).is_some_and(|state| state.cancel.is_some()) {
            return Err(FoldError::Cancelled(self.before_cancel()));
        }
        let definition = self.definition_of(plan_of(current, &event))?;
        let env = Env { definition, blobs: self.blobs, now_ms, bounds: Bounds::default() };
        let mut machine = Machine::new(start, &env, *fuel, Mode::Live);
        match machine.go_on(current) {
            Ok(()) => {}
            Err(End::Halt(halt)) => return Err(halt.into()),
            Err(End::Diverged(_) | End::Reached) => return Err(FoldError::NoKey),
        }
        *fuel = machine.meter.fuel;
        let mut turn = machine.finish(event);
        if forks {
            // Nothing is open outside for the new run but what this turn opens.
            let old = |entry: &Seq| *entry < next_seq;
            let foreign = |act: &Act| match act {
                Act::CancelTask { entry } | Act::CancelItems { entry } | Act::CancelTimer { entry } => old(entry),
                Act::CancelChild { entry } | Act::Unsubscribe { entry } => old(entry),
                _ => false,
            };
            turn.acts.retain(|act| !foreign(act));
            turn.head.owed.retain(|act| !foreign(act));
        }
        Ok(turn)
    }

    /// Plays everything once, and keeps heads on the way from which a moment is near.
    fn walked(&self) -> Result<Past, FoldError> {
        let (mut head, mut past) = (self.base()?, Past::default());
        for at in 0..self.segments.len() {
            if at.is_multiple_of(TURNS_APART) {
                past.before.insert(at, head.clone());
            }
            head = self.play_next(&mut past, &head, at)?;
        }
        Ok(past)
    }

    /// The entry that a key had last.
    fn entry_of(&self, key: &str) -> Option<Seq> {
        let facts = self.segments.iter().rev().flat_map(|segment| segment.facts.iter().rev());
        let mut entries = facts.filter_map(|fact| match fact {
            Fact::Opened { entry, key: opened, .. } if opened.to_string() == key => Some(*entry),
            _ => None,
        });
        entries.next()
    }

    /// The last key that was opened before the run was cancelled, of what is not the run itself or how it is driven.
    fn before_cancel(&self) -> Option<Name> {
        use super::journal::EntryKind::{Activation, Program, Run};
        let cancel = self.segments.iter().rposition(|segment| matches!(segment.event, Event::Cancel { .. }))?;
        let facts = self.segments[..cancel].iter().rev().flat_map(|segment| segment.facts.iter().rev());
        let mut opened = facts.filter_map(|fact| match fact {
            Fact::Opened { key, .. } if !matches!(key.kind, Activation | Program | Run) => Some(key.to_string().into()),
            _ => None,
        });
        opened.next()
    }

    /// The activation in which a program asked for a key: it is done again as a whole, since what it asked for first may depend on what
    /// only the program knows. `None` = no program asked for it.
    fn activation_of(&self, key: &str) -> Option<String> {
        let mut activation = None;
        let mut asked = None;
        for fact in self.segments.iter().flat_map(|segment| &segment.facts) {
            let Fact::Opened { key: opened, .. } = fact else { continue };
            let is_it = opened.to_string() == key;
            match opened.kind {
                EntryKind::Activation => {
                    activation = Some(opened.to_string());
                    asked = if is_it { activation.clone() } else { asked };
                }
                // The last time counts, as it does for every key.
                _ if activation.is_some() && is_it => asked = activation.clone(),
                _ => {}
            }
        }
        asked
    }
}

impl Machine<'_> {
    /// Goes on from where a run was taken back to.
    pub(super) fn go_on(&mut self, current: &Head) -> Result<(), End> {
        self.cancel_of(current);
        // Programs have another history from here.
        let epoch = self.head.turns + 1;
        let kept = self.def.planted().has(Bug::KeptEpoch);
        for id in self.head.lines.iter().map(|line| line.id).collect::<Vec<_>>() {
            if let Some(code) = self.code_mut(id).filter(|_| !kept) {
                code.epoch = epoch;
            }
        }
        // What was open at that moment is opened again.
        self.head.open.clear();
        self.undo_on(current);
        for line in &mut self.head.lines {
            let forks = line.frames.last().is_some_and(|frame| frame.step.has_lines());
            if matches!(line.next, Next::Wait | Next::Refill | Next::Listen) && !forks && !line.frames.is_empty() {
                Arc::make_mut(line).next = Next::Interrupted;
            }
        }
        self.facts.push(Fact::Phase { phase: Phase::Running, reason: Some("reset".into()), value: None });
        self.subscribe_from_the_start();
        self.rearm();
        self.redo(|next| matches!(next, Next::Failed(_) | Next::Interrupted))?;
        self.run()
    }
}

/// Gives the statement of a key, which is to begin, another raw input. Says whether there is one.
fn set_input(head: &mut Head, key: &str, input: &Data) -> bool {
    let mut set = false;
    for line in &mut head.lines {
        let ours =
            matches!(&line.next, Next::Begin { place, n, .. } if key.ends_with(&format!(":{}#{n}", place.reference)));
        if ours && let Next::Begin { raw, .. } = &mut Arc::make_mut(line).next {
            *raw = input.clone();
            set = true;
        }
    }
    set
}
