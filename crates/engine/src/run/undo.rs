//! Compensations: finished work that is undone when its run fails or is cancelled, the last first, one at a time, each
//! through a task that is tried again.
//!
//! What is to be undone is *armed* as it finishes. [`Head::undo`] holds what belongs to the run itself, and takes in what a
//! statement armed that was interrupted or failed. From then on it *unwinds*: no statement begins before the last
//! undo has ended, and a run that is to end ends after it. An undo that fails for good stops the unwinding and faults the run;
//! what remains stays here, and a retry of the run goes on with it.
//!
//! [`Head::undo`]: super::head::Head::undo

use std::sync::Arc;

use super::act::{Act, OpenTask, Outcome, TaskHints};
use super::data::Data;
use super::eval::Json;
use super::fault::{Fault, Standard};
use super::head::{Head, Outside, Phase, Seq};
use super::journal::{Ending, EntryKind, Fact, Key};
use super::machine::Machine;
use super::plan::{Backoff, Target};
use crate::id::Name;
use crate::limit::BACKOFF_MS;
use crate::planted::Bug;

/// How an undo is done, and what it undoes.
#[derive(Clone, Debug, PartialEq)]
pub struct Undo {
    /// What is undone, for people: the name of a step.
    pub name: Name,
    /// The entry of what is undone.
    pub of: Seq,
    /// Scope of the keys of its own entries ([`undo_scope`]).
    pub scope: Name,
    /// Name in the keys of its own entries.
    pub reference: Name,
    /// By whom.
    pub target: Target,
    /// Its arguments.
    pub args: Data,
    /// Hints, with their values.
    pub hints: TaskHints,
    /// How it is tried again.
    pub retry: UndoRetry,
    /// Entries that it has had: the `n` of the key of the next one.
    pub tries: u32,
    /// How often it failed since the unwinding began or the run was retried.
    pub failures: u32,
}

/// How an undo is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UndoRetry {
    /// Retries, not attempts.
    pub count: u32,
    /// Milliseconds before the first retry.
    pub delay_ms: u64,
    /// How the pause grows; at most an hour, or `delay_ms` if that is more.
    pub backoff: Backoff,
}

impl Default for UndoRetry {
    /// Ten retries: after a second, then after twice as long each time. About 17 minutes in all.
    fn default() -> UndoRetry {
        UndoRetry { count: 10, delay_ms: 1_000, backoff: Backoff::Exponential }
    }
}

impl UndoRetry {
    /// The pause after so many failures; `None` = it is not tried again.
    fn pause(&self, failures: u32) -> Option<u64> {
        if failures > self.count {
            return None;
        }
        let grown = match self.backoff {
            Backoff::Constant => self.delay_ms,
            Backoff::Exponential => {
                let factor = 1u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
                self.delay_ms.saturating_mul(factor)
            }
            Backoff::Linear => self.delay_ms.saturating_mul(u64::from(failures.max(1))),
        };
        Some(grown.min(BACKOFF_MS.max(self.delay_ms)))
    }
}

/// Scope of the keys of what undoes an entry: that of the entry and its number, so that the keys of what is done and undone
/// again after a reset differ.
pub fn undo_scope(scope: &str, of: Seq) -> Name {
    format!("{scope}/u{of}").into()
}

impl Undo {
    /// Bytes it takes in a stored run, about.
    pub(super) fn stored(&self) -> usize {
        self.args.stored() + 64
    }
}

/// What is to be undone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compensations {
    /// In the order in which it was armed; undone from the end.
    pub armed: Vec<Undo>,
    /// So many of the first ones hold while the later ones are undone: a reset gave up only those.
    pub holds: usize,
    /// The one at work: the entry of its task.
    pub running: Option<(Seq, Undo)>,
    /// The timer after which the last one armed is tried again.
    pub pause: Option<Seq>,
    /// Whether it is being undone, rather than kept for the case.
    pub unwinding: bool,
    /// Names of what failed for good and stopped the unwinding. It is the last one armed.
    pub failed: Vec<Name>,
}

/// What follows when an undo has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undone {
    /// The next one, or the end.
    Next,
    /// The same again, after so many milliseconds.
    Again(u64),
    /// It failed for good: everything stops.
    Failed,
}

impl Compensations {
    /// Keeps something that may have to be undone.
    pub fn arm(&mut self, undo: Undo) {
        self.armed.push(undo);
    }

    /// Takes in what is to be undone from now on. The order is that in which it was done.
    pub fn take_in(&mut self, more: Vec<Undo>) {
        self.armed.extend(more);
        self.armed.sort_by_key(|undo| undo.of);
        self.begin();
    }

    /// All that is armed holds: there is nothing to be undone any more. Does nothing once it unwinds.
    pub fn commit(&mut self) {
        if !self.unwinding {
            self.armed.clear();
        }
    }

    /// From now on what is armed is undone, but for what holds.
    pub fn begin(&mut self) {
        self.unwinding |= self.armed.len() > self.holds;
    }

    /// From now on all that is armed is undone.
    pub fn begin_all(&mut self) {
        self.holds = 0;
        self.begin();
    }

    /// Whether nothing waits for an undo: there is none, none is wanted, or one failed for good.
    pub fn idle(&self) -> bool {
        !self.unwinding || !self.failed.is_empty()
    }

    /// Whether nothing is left to be kept.
    pub fn is_empty(&self) -> bool {
        self.armed.is_empty() && self.running.is_none()
    }

    /// Takes out the one to be undone next: the last one armed. `None` = one is at work or pauses, or there is nothing to do.
    /// The caller opens its task and says under which entry ([`Compensations::opened`]).
    pub fn take_next(&mut self) -> Option<Undo> {
        if self.idle() || self.running.is_some() || self.pause.is_some() {
            return None;
        }
        let next = if self.armed.len() > self.holds { self.armed.pop() } else { None };
        self.unwinding = next.is_some();
        if next.is_none() {
            self.holds = 0;
        }
        next
    }

    /// The task of the one taken out has this entry.
    pub fn opened(&mut self, mut undo: Undo, entry: Seq) {
        undo.tries += 1;
        self.running = Some((entry, undo));
    }

    /// The one at work has ended: well, badly (it may be tried again), or for good.
    pub fn done(&mut self, how: &Outcome) -> Undone {
        let Some((_, mut undo)) = self.running.take() else { return Undone::Next };
        if matches!(how, Outcome::Ok(_)) {
            return Undone::Next;
        }
        undo.failures += 1;
        let pause = match how {
            Outcome::Err(_) => undo.retry.pause(undo.failures),
            // Whoever cancelled it does not want it again.
            _ => None,
        };
        let name = undo.name.clone();
        self.armed.push(undo);
        pause.map_or_else(
            || {
                self.failed.push(name);
                Undone::Failed
            },
            Undone::Again,
        )
    }

    /// After a failure for good: goes on with what remains.
    pub fn resume(&mut self) {
        self.failed.clear();
        self.armed.iter_mut().for_each(|undo| undo.failures = 0);
        self.begin();
    }

    /// Whether an entry outside is its own.
    pub fn owns(&self, entry: Seq) -> bool {
        self.running.as_ref().is_some_and(|running| running.0 == entry) || self.pause == Some(entry)
    }

    /// All of them, the one at work included.
    pub fn all(&self) -> impl Iterator<Item = &Undo> {
        self.armed.iter().chain(self.running.as_ref().map(|running| &running.1))
    }
}

impl Head {
    /// Whether nothing waits for an undo.
    pub fn undo_idle(&self) -> bool {
        self.undo.as_ref().is_none_or(|undo| undo.idle())
    }

    /// What is to be undone, to be changed.
    pub fn undo_mut(&mut self) -> &mut Compensations {
        Arc::make_mut(self.undo.get_or_insert_default())
    }
}

impl Machine<'_> {
    /// Undoes what a statement armed that was interrupted or failed. It begins with the next [`Machine::compensate`].
    pub(super) fn undo_later(&mut self, armed: Vec<Undo>) {
        if armed.is_empty() {
            return;
        }
        self.head.undo_mut().take_in(armed);
    }

    /// Opens the next undo if it is time, and lets a run end that waited for the last one.
    pub(super) fn compensate(&mut self) {
        let waits = |undo: &Arc<Compensations>| !undo.idle() && undo.running.is_none() && !undo.armed.is_empty();
        if self.def.planted().has(Bug::UndoInOrder) && self.head.undo.as_ref().is_some_and(waits) {
            let undo = self.head.undo_mut();
            undo.armed[undo.holds..].rotate_left(1);
        }
        let Some(undo) = self.head.undo.is_some().then(|| self.head.undo_mut().take_next()).flatten() else {
            if self.head.undo.as_ref().is_some_and(|undo| undo.is_empty()) {
                self.head.undo = None;
            }
            return self.may_end();
        };
        let entry = self.next_seq();
        self.head.entries += 1;
        let (scope, name) = (undo.scope.clone(), undo.reference.clone());
        let key = Key { scope, kind: EntryKind::Undo, name, n: undo.tries };
        let opened = Fact::Opened { entry, within: 0, key: key.clone(), value: None, args_hash: 0, due_ms: 0 };
        self.facts.push(opened);
        self.note_args(entry, &undo.args);
        let task = OpenTask {
            entry,
            key,
            target: undo.target.clone(),
            args: undo.args.clone(),
            sealed: false,
            items: None,
            awaited: true,
            deadline_ms: 0,
            hints: undo.hints.clone(),
        };
        self.act(Act::OpenTask(Box::new(task)));
        self.open(entry, 0, 0, Outside::Undo);
        self.head.undo_mut().opened(undo, entry);
    }

    /// The task of an undo ended.
    pub(super) fn undone(&mut self, entry: Seq, outcome: &Outcome) {
        let how = match outcome {
            Outcome::Ok(data) => Ending::Ok(self.value(data)),
            Outcome::Err(fault) => Ending::Err(self.fault_value(fault)),
            Outcome::Cancelled => Ending::Cancelled,
        };
        self.done(entry, how);
        match self.head.undo_mut().done(outcome) {
            Undone::Next | Undone::Again(0) => self.compensate(),
            Undone::Again(ms) => {
                let timer = self.head.next_seq;
                self.open_timer(0, 0, Outside::UndoPause, ms);
                self.head.undo_mut().pause = Some(timer);
            }
            Undone::Failed => self.undo_failed(outcome),
        }
    }

    /// Whether an entry outside belongs to what undoes.
    pub(super) fn owned_by_undo(&self, entry: Seq) -> bool {
        self.head.undo.as_ref().is_some_and(|undo| undo.owns(entry))
    }

    /// The pause before an undo is tried again is over.
    pub(super) fn undo_again(&mut self) {
        self.head.undo_mut().pause = None;
        self.compensate();
    }

    /// An undo failed for good: the run faults and says what remains.
    fn undo_failed(&mut self, outcome: &Outcome) {
        let undo = self.head.undo_mut();
        let name = undo.failed.last().cloned().unwrap_or_else(|| "".into());
        let reference = undo.armed.last().map_or_else(|| name.clone(), |undo| undo.reference.clone());
        let remains: Vec<Json> = undo.armed.iter().rev().map(|undo| Json::from(&*undo.name)).collect();
        let cause = match outcome {
            Outcome::Err(fault) => (*fault.0).clone(),
            _ => Json::from("it was cancelled"),
        };
        let detail = format!(
            "the undo of `{name}` failed for good, and {} of what was done is not undone; a retry of the run goes on with it",
            remains.len()
        );
        let fault = Fault::new(Standard::Runtime, self.plan.profile, &detail, &reference);
        let Json::Object(mut error) = (*fault.0).clone() else { return };
        error.insert("undo".into(), serde_json::json!({"failed": &*name, "error": cause, "remains": remains}));
        if let Some((_, Outcome::Err(first))) = &self.head.closing {
            error.insert("cause".into(), (*first.0).clone());
        }
        let fault = Fault(Arc::new(Json::Object(error)));
        if self.head.closing.is_none() {
            return self.fault_run(None, fault);
        }
        self.head.closing = Some((Phase::Faulted, Outcome::Err(fault)));
        self.may_end();
    }

    /// After a reset: what is being undone goes on, and is tried again where it had failed for good.
    pub(super) fn undo_on(&mut self, current: &Head) {
        if self.head.undo.as_ref().is_none_or(|undo| !undo.unwinding) {
            return;
        }
        let kept = current.open.iter().filter(|open| self.owned_by_undo(open.0)).copied().collect::<Vec<_>>();
        self.head.open.extend(kept);
        self.head.undo_mut().resume();
        // What ended while the run was suspended came for this.
        for held in &current.held {
            match held {
                super::act::Event::Done { entry, outcome } if self.owned_by_undo(*entry) => {
                    self.settle(*entry);
                    self.undone(*entry, outcome);
                }
                super::act::Event::Fired { entry } if self.owned_by_undo(*entry) => {
                    self.settle(*entry);
                    self.undo_again();
                }
                _ => {}
            }
        }
    }

    /// Ends a run that is to end, if neither a child nor an undo is waited for.
    pub(super) fn may_end(&mut self) {
        if self.head.children.is_empty()
            && self.head.undo_idle()
            && let Some((phase, outcome)) = self.head.closing.take()
        {
            self.ended(phase, outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undo(name: &str) -> Undo {
        Undo {
            name: name.into(),
            of: 1,
            scope: "".into(),
            reference: "/do/0/saga".into(),
            target: Target::Task("undo".into()),
            args: Data::null(),
            hints: TaskHints::default(),
            retry: UndoRetry { count: 2, delay_ms: 100, backoff: Backoff::Exponential },
            tries: 0,
            failures: 0,
        }
    }

    fn failed() -> Outcome {
        Outcome::Err(Fault(Arc::new(Json::Null)))
    }

    fn two() -> Compensations {
        let mut all = Compensations::default();
        all.arm(undo("a"));
        all.arm(undo("b"));
        all
    }

    #[test]
    fn what_is_armed_is_undone_in_reverse_one_at_a_time() {
        let mut all = two();
        assert!(all.idle() && all.take_next().is_none(), "nobody asked for it yet");
        all.begin();
        let last = all.take_next().unwrap();
        assert_eq!(&*last.name, "b");
        all.opened(last, 7);
        assert!(all.take_next().is_none() && all.owns(7), "one is at work");
        assert_eq!(all.done(&Outcome::Ok(Data::null())), Undone::Next);
        let first = all.take_next().unwrap();
        assert_eq!(&*first.name, "a");
        all.opened(first, 8);
        assert_eq!(all.done(&Outcome::Ok(Data::null())), Undone::Next);
        assert!(all.take_next().is_none() && all.idle() && all.is_empty());
    }

    #[test]
    fn an_undo_is_tried_again_and_then_stops_everything_until_somebody_resumes() {
        let mut all = two();
        all.begin();
        for (try_no, expected) in [Undone::Again(100), Undone::Again(200), Undone::Failed].into_iter().enumerate() {
            let next = all.take_next().unwrap();
            assert_eq!((&*next.name, next.tries as usize), ("b", try_no), "each attempt has a key of its own");
            all.opened(next, 10);
            assert_eq!(all.done(&failed()), expected);
        }
        assert!(all.idle() && all.take_next().is_none());
        assert_eq!(all.armed.len(), 2, "both remain");
        all.resume();
        assert_eq!(&*all.take_next().unwrap().name, "b");
    }

    #[test]
    fn what_holds_stays_armed_until_all_is_to_be_undone() {
        let mut all = two();
        all.holds = 1;
        all.begin();
        let last = all.take_next().unwrap();
        assert_eq!(&*last.name, "b");
        all.opened(last, 7);
        assert_eq!(all.done(&Outcome::Ok(Data::null())), Undone::Next);
        assert!(all.take_next().is_none() && all.idle() && !all.is_empty(), "`a` holds");
        assert_eq!((all.armed.len(), all.holds), (1, 0));
        all.begin();
        assert_eq!(&*all.take_next().unwrap().name, "a", "the run fails later");
    }

    #[test]
    fn what_was_committed_is_not_undone() {
        let mut all = two();
        all.commit();
        all.begin();
        assert!(all.idle() && all.is_empty());
        let mut all = two();
        all.begin();
        all.commit();
        assert_eq!(all.armed.len(), 2, "too late");
    }

    #[test]
    fn pauses_grow_up_to_an_hour() {
        let retry = UndoRetry { count: 100, delay_ms: 1_000, backoff: Backoff::Exponential };
        assert_eq!([1, 2, 3, 90].map(|n| retry.pause(n)), [Some(1_000), Some(2_000), Some(4_000), Some(3_600_000)]);
        let linear = UndoRetry { backoff: Backoff::Linear, ..retry };
        assert_eq!([1, 2, 3].map(|n| linear.pause(n)), [Some(1_000), Some(2_000), Some(3_000)]);
        assert_eq!(retry.pause(101), None);
    }
}
