//! What a reset gives up. What was armed after the entry that it goes back to is undone, the last first, before the run goes on;
//! what was armed before that entry stays armed.
//!
//! One rule for sagas and programs, whether a saga, or the run itself, had ended well by then or not: what is done again
//! must not be there twice. Nothing is undone twice, for the journal says what was. Where something was undone, for another reason
//! than a reset, of what is kept, a saga or a program begins anew. A program is taken back to the activation that asked for
//! the entry; what that activation armed before it, it arms again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::act::Event;
use super::head::{Head, Line, Seq, Step};
use super::journal::{Ending, EntryKind, Fact, Segment};
use super::saga::{SagaState, begins_anew, nothing_armed};
use super::undo::{Compensations, Undo};
use crate::id::Name;
use crate::planted::{Bug, Planted};

/// What was armed, in that order, each with the number that the next entry had then.
pub(super) type Armed = Vec<(Seq, Undo)>;

/// What was armed and undone in a run, as a fold comes by it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// What is armed or was undone, in the order of arming, each with the number that the next entry had then.
    armed: Armed,
    /// Entries that undo, by the scope and the name of their keys: together they are those of one [`Undo`].
    tries: BTreeMap<(Name, Name), Vec<Try>>,
    /// Those of them that are open.
    open: BTreeMap<Seq, (Name, Name)>,
    /// What is undone at the moment is so because of a reset.
    resetting: bool,
}

/// An entry that undoes something.
#[derive(Debug)]
struct Try {
    entry: Seq,
    /// Because of a reset, and of nothing else.
    by_reset: bool,
    well: bool,
}

/// How a run goes back.
pub(super) struct Back<'a> {
    /// The run as it is.
    pub(super) current: &'a Head,
    /// The number that the next entry had at the moment that it goes back to.
    pub(super) moment: Seq,
    /// See [`Event::Reset`].
    pub(super) since: Option<Seq>,
    pub(super) planted: Planted,
}

impl Ledger {
    /// A further turn, with what it armed.
    pub(super) fn note(&mut self, segment: &Segment, armed: Armed) {
        self.armed.extend(armed);
        let resets = match &segment.event {
            Event::Reset { since, .. } => {
                self.resetting = since.is_some();
                true
            }
            Event::Cancel { .. } | Event::Terminate { .. } | Event::Retry => {
                self.resetting = false;
                false
            }
            _ => false,
        };
        for fact in &segment.facts {
            match fact {
                Fact::Opened { entry, key, .. } if key.kind == EntryKind::Undo => {
                    let undo = (key.scope.clone(), key.name.clone());
                    let by_reset = self.resetting;
                    self.tries.entry(undo.clone()).or_default().push(Try { entry: *entry, by_reset, well: false });
                    self.open.insert(*entry, undo);
                }
                // Nothing begins before the last undo has ended, but what the reset itself opens again.
                Fact::Opened { .. } if !resets => self.resetting = false,
                Fact::Done { entry, how } if !self.open.is_empty() => {
                    if let Some(undo) = self.open.remove(entry)
                        && let Some(tries) = self.tries.get_mut(&undo)
                        && let Some(last) = tries.iter_mut().rfind(|tried| tried.entry == *entry)
                    {
                        last.well = matches!(how, Ending::Ok(_));
                    }
                }
                _ => {}
            }
        }
    }

    /// What was armed after a moment is no concern any more.
    pub(super) fn forget(&mut self, moment: Seq) {
        self.armed.retain(|(at, _)| *at <= moment);
    }

    fn tries(&self, undo: &Undo) -> impl Iterator<Item = &Try> {
        let all = self.tries.get(&(undo.scope.clone(), undo.reference.clone()));
        let of = undo.of;
        all.into_iter().flatten().filter(move |tried| tried.entry >= of)
    }

    /// A run went back to an earlier moment (`head`): what is undone before it goes on from there.
    pub(super) fn roll_back(&mut self, head: &mut Head, back: &Back<'_>) {
        let begun = |undo: &Undo| self.tries(undo).any(|tried| tried.entry >= back.moment);
        let (kept, lost) = sagas_of(head, &begun);
        let program = head.lines.iter().any(is_program);
        let anew = program && self.begins_anew(head, back, &begun);
        let mut held = match head.undo.take() {
            // What was being undone then is undone by now, or the run as it is knows of it.
            Some(undo) if !anew => {
                let holds = if undo.unwinding { undo.holds } else { undo.armed.len() };
                undo.armed[..holds].to_vec()
            }
            _ => Vec::new(),
        };
        if anew {
            begins_anew(head);
        }
        let mut next = being_undone(back.current);
        if !back.planted.has(Bug::KeptAndUndone) {
            // It was to be undone, and is of what holds now.
            let holds = |undo: &Undo| kept.iter().chain(&held).any(|kept| named(kept) == named(undo));
            next.armed.retain(|undo| !holds(undo));
        }
        let known: BTreeSet<_> = next.all().chain(&held).map(named).chain(kept.iter().map(named)).collect();
        let mut given_up = Vec::new();
        for (at, undo) in &self.armed {
            let gone = back.since.is_some_and(|since| anew || lost.contains(&undo.of) || *at > since);
            let left = gone && !known.contains(&named(undo)) && !self.tries(undo).any(|tried| tried.well);
            if left && !forgets(back, undo) {
                let tries = u32::try_from(self.tries(undo).count()).unwrap_or(u32::MAX);
                given_up.push(Undo { tries, ..undo.clone() });
            }
        }
        self.armed.retain(|(at, undo)| !anew && *at <= back.moment && !lost.contains(&undo.of));
        next.armed.append(&mut given_up);
        next.armed.sort_by_key(|undo| undo.of);
        next.unwinding = !next.is_empty();
        next.holds = if next.unwinding { held.len() } else { 0 };
        held.append(&mut next.armed);
        next.armed = held;
        head.undo = (!next.is_empty()).then(|| Arc::new(next));
    }

    /// Whether something of what a program has kept was undone since. What was undone for another reason than a reset may be of
    /// what it had done by then, though it was armed later.
    fn begins_anew(&self, head: &Head, back: &Back<'_>, begun: &dyn Fn(&Undo) -> bool) -> bool {
        let unwound = head.undo.as_ref().is_some_and(|undo| undo.unwinding || undo.armed.iter().any(begun));
        let since = back.since.unwrap_or(Seq::MAX);
        let kept = self.armed.iter().filter(|(at, _)| *at <= since);
        let failed = self.tries.values().flatten().any(|tried| tried.entry >= back.moment && !tried.by_reset);
        unwound || failed || kept.map(|(_, undo)| undo).any(begun)
    }
}

/// The sagas of a run that went back: what they have armed that holds, and, of those of which something was undone since and that
/// begin anew, the entries that they had done.
fn sagas_of(head: &mut Head, begun: &dyn Fn(&Undo) -> bool) -> (Vec<Undo>, BTreeSet<Seq>) {
    let (mut kept, mut lost) = (Vec::new(), BTreeSet::new());
    let is_one = |line: &Line| line.frames.iter().any(|frame| matches!(frame.step, Step::Saga(_)));
    for line in head.lines.iter_mut().filter(|line| is_one(line)) {
        for frame in &mut Arc::make_mut(line).frames {
            let Step::Saga(state) = &mut frame.step else { continue };
            if state.armed.iter().any(begun) {
                lost.extend(state.armed.iter().map(|undo| undo.of));
                **state = SagaState::default();
            }
            kept.extend(state.armed.iter().cloned());
        }
    }
    (kept, lost)
}

/// A run that was forked goes back to before that: what was done by then is the other run's to undo. Its sagas begin anew.
pub(super) fn disown(head: &mut Head) {
    sagas_of(head, &|_| true);
    nothing_armed(head);
    head.undo = None;
}

fn is_program(line: &Arc<Line>) -> bool {
    matches!(line.frames.last().map(|frame| &frame.step), Some(Step::Code(_)))
}

/// What a run is undoing: it goes on with that. What holds meanwhile is left out.
fn being_undone(current: &Head) -> Compensations {
    let begun = current.undo.as_ref().filter(|undo| undo.unwinding || !undo.failed.is_empty());
    let mut next = begun.map_or_else(Compensations::default, |undo| (**undo).clone());
    next.armed.drain(..std::mem::take(&mut next.holds));
    next
}

/// What tells one from another.
fn named(undo: &Undo) -> (Seq, Name, Name) {
    (undo.of, undo.scope.clone(), undo.reference.clone())
}

fn forgets(back: &Back<'_>, undo: &Undo) -> bool {
    let frames = back.current.lines.iter().flat_map(|line| &line.frames);
    let of_open = |undo: &Undo| {
        frames
            .clone()
            .any(|frame| matches!(&frame.step, Step::Saga(state) if state.armed.iter().any(|a| a.of == undo.of)))
    };
    back.planted.has(Bug::ForgottenGivenUp) || back.planted.has(Bug::EndedSagaKept) && !of_open(undo)
}
