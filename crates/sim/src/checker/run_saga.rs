//! S10 for sagas: each step that finished, and whose saga failed or was interrupted, is undone once, the last first, one at a time, with
//! what the step gave, before anything else of the run begins; a step that did not finish, or whose saga ended well, is never
//! undone. A reset keeps the steps before its moment, and undoes those after it first, whether their saga had ended well by then or not;
//! a fork answers for its own steps alone.
//!
//! It is told by the facts of the journal alone. What a reset goes back to is made by going through the facts once more.

use std::collections::{BTreeMap, BTreeSet};

use tidewheel_engine::id::RunId;
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::eval::Json;
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::journal::{Ending, EntryKind, Fact, Key, Segment};

use super::runs::{Found, Log};

/// The sagas of a run that is none of a program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sagas {
    /// By entry: which it is, and the steps of it that finished.
    open: BTreeMap<u64, (Name, Vec<u64>)>,
    /// Steps at work: their saga, and whether they can be undone.
    at_work: BTreeMap<u64, (u64, bool)>,
    /// Steps that finished and can be undone, with what they gave.
    done: BTreeMap<u64, Json>,
    /// Of those, the ones that have to be undone.
    owed: BTreeSet<u64>,
    undone: BTreeSet<u64>,
    /// What resets gave up: it is undone, or to be undone, or stays because the run was terminated in the middle of that.
    given_up: BTreeSet<u64>,
    /// The undo at work, and of what.
    undoing: Option<(u64, u64)>,
    /// What sagas that a reset went back to have done already.
    kept: BTreeMap<Name, Vec<u64>>,
    /// Undos that were opened: entry and of what, until their tasks were seen.
    told: BTreeMap<u64, u64>,
    /// Nothing of it is undone any more.
    terminated: bool,
    /// Turns that are a copy of another run's.
    copied: usize,
}

/// Scope and name of a saga: the same however often it goes on.
type Name = (String, String);

impl Sagas {
    /// How many of its turns are a copy of another run's.
    pub(super) fn copied(&self) -> usize {
        self.copied
    }

    /// Nothing of it is to be undone.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.done.is_empty() && self.kept.is_empty()
    }

    fn fact(&mut self, run: RunId, fact: &Fact, segment: &Segment, found: &mut Found) {
        match fact {
            Fact::Opened { entry, within, key, .. } => self.opens(run, (*entry, *within, key), segment, found),
            Fact::Done { entry, how } => self.ends(*entry, *how, segment),
            _ => {}
        }
    }

    fn opens(&mut self, run: RunId, (entry, within, key): (u64, u64, &Key), segment: &Segment, found: &mut Found) {
        let begins = match key.kind {
            EntryKind::Saga => {
                let name = (key.scope.to_string(), key.name.to_string());
                let kept = self.kept.remove(&name).unwrap_or_default();
                self.open.insert(entry, (name, kept));
                // One that goes on after a reset is opened at once, and goes on when all is undone.
                !matches!(segment.event, Event::Reset { .. })
            }
            EntryKind::Undo => {
                self.undoes(run, entry, key, found);
                false
            }
            EntryKind::Task => {
                if self.open.contains_key(&within) {
                    let undoes = key.name.rsplit('/').next().is_some_and(|step| step.starts_with('t'));
                    self.at_work.insert(entry, (within, undoes));
                }
                true
            }
            // They say what was done to the run.
            EntryKind::Moved | EntryKind::Accepted => false,
            _ => !matches!(segment.event, Event::Reset { .. } | Event::Retry),
        };
        if begins && let Some(first) = self.owed.last() {
            found.push(("S10", format!("{key} of run {run} begins before step {first} is undone")));
        }
    }

    fn undoes(&mut self, run: RunId, entry: u64, key: &Key, found: &mut Found) {
        let of = key.scope.rsplit_once("/u").and_then(|(_, of)| of.parse::<u64>().ok()).unwrap_or(u64::MAX);
        let last = self.owed.last().copied();
        let problem = match () {
            () if !self.done.contains_key(&of) => Some("which did not finish"),
            () if self.undone.contains(&of) => Some("which is undone"),
            () if self.terminated => Some("of a run that was terminated"),
            () if !self.owed.contains(&of) => Some("which holds"),
            () if last != Some(of) => Some("before a later one"),
            () if self.undoing.is_some() => Some("beside another one"),
            () => None,
        };
        if let Some(problem) = problem {
            found.push(("S10", format!("{key} of run {run} undoes entry {of}, {problem}; it owes {:?}", self.owed)));
        }
        self.undoing = Some((entry, of));
        self.told.insert(entry, of);
    }

    fn ends(&mut self, entry: u64, how: Ending, segment: &Segment) {
        if let Some((_, of)) = self.undoing.filter(|undoing| undoing.0 == entry) {
            self.undoing = None;
            if matches!(how, Ending::Ok(_)) {
                self.owed.remove(&of);
                self.undone.insert(of);
            }
        } else if let Some((saga, undoes)) = self.at_work.remove(&entry) {
            let Ending::Ok(value) = how else { return };
            if let Some((_, steps)) = self.open.get_mut(&saga).filter(|_| undoes) {
                steps.push(entry);
                let given = segment.value(value).and_then(|data| data.json()).cloned();
                self.done.insert(entry, given.unwrap_or(Json::Null));
            }
        } else if let Some((_, steps)) = self.open.remove(&entry) {
            // A step at work that was stopped with it may have done something or not: nobody knows.
            self.at_work.retain(|_, step| step.0 != entry);
            if !matches!(how, Ending::Ok(_)) {
                self.owed.extend(steps);
            }
        }
    }

    /// What a turn was taken for.
    fn event(&mut self, run: RunId, segment: &Segment, (before, past): (&[Segment], &[Sagas]), forks: bool) {
        match &segment.event {
            Event::Reset { .. } if forks => *self = Sagas { copied: before.len(), ..Sagas::default() },
            Event::Reset { key, .. } if !self.is_idle() => {
                if let Some((then, undone)) = moment(run, (before, past), self.copied, key) {
                    self.goes_back(then, &undone);
                }
            }
            // It has no saga yet, and may have one from here on.
            Event::Reset { .. } => self.terminated = false,
            Event::Terminate { .. } => self.terminated = true,
            Event::Retry => self.undoing = None,
            _ => {}
        }
    }

    fn goes_back(&mut self, then: Sagas, undone: &BTreeSet<u64>) {
        self.kept.clear();
        let mut anew = BTreeSet::new();
        // One that an earlier reset went back to and that had not gone on by then is as that one kept it.
        for (name, steps) in then.kept.into_iter().chain(then.open.into_values()) {
            if steps.iter().any(|step| undone.contains(step)) {
                anew.extend(steps);
            } else {
                self.kept.insert(name, steps);
            }
        }
        let gone = |step: &u64| !then.done.contains_key(step) || anew.contains(step);
        let stands = |step: &u64| !self.undone.contains(step) && !self.given_up.contains(step);
        let lost: Vec<u64> = self.done.keys().copied().filter(|step| gone(step) && stands(step)).collect();
        // What was to be undone and is kept holds again.
        let kept: BTreeSet<u64> = self.kept.values().flatten().copied().collect();
        self.owed.retain(|step| !kept.contains(step));
        self.owed.extend(&lost);
        self.given_up.extend(lost);
        self.open.clear();
        self.at_work.clear();
        self.terminated = false;
    }
}

/// Up to the moment before a key was opened the last time, and what was undone since.
fn moment(
    run: RunId,
    (segments, past): (&[Segment], &[Sagas]),
    copied: usize,
    key: &str,
) -> Option<(Sagas, BTreeSet<u64>)> {
    let is_it = |fact: &Fact| matches!(fact, Fact::Opened { key: opened, .. } if opened.to_string() == key);
    let at = segments.iter().rposition(|segment| segment.facts.iter().any(is_it))?;
    if at < copied {
        // Nothing of what was done by then is its own.
        return Some((Sagas::default(), BTreeSet::new()));
    }
    let (mut then, mut ignored) = (past.get(at)?.clone(), Found::new());
    let segment = &segments[at];
    let mut facts = segment.facts.iter();
    facts.by_ref().take_while(|fact| !is_it(fact)).for_each(|fact| then.fact(run, fact, segment, &mut ignored));
    let later = facts.chain(segments[at + 1..].iter().flat_map(|segment| &segment.facts));
    let undone = later.filter_map(|fact| match fact {
        Fact::Opened { key, .. } if key.kind == EntryKind::Undo => key.scope.rsplit_once("/u")?.1.parse().ok(),
        _ => None,
    });
    Some((then, undone.collect()))
}

/// A turn of a run. `forks` = it is the first of its own, behind a copy.
pub(super) fn turn(run: RunId, log: &mut Log, segment: &Segment, forks: bool) -> Found {
    let mut found = Found::new();
    let sagas = &mut log.sagas;
    sagas.event(run, segment, (&log.segments, &log.saga_past), forks);
    // Where a reset goes back to begins with this.
    log.saga_past.push(sagas.clone());
    for fact in &segment.facts {
        sagas.fact(run, fact, segment, &mut found);
    }
    if sagas.terminated {
        sagas.owed.clear();
        sagas.undoing = None;
    }
    found
}

/// The task of an undo was stored with what it is given: that is what the step gave.
pub(super) fn given(run: RunId, log: &mut Log, entry: u64, input: &Json) -> Option<(&'static str, String)> {
    let of = log.sagas.told.remove(&entry)?;
    let step = log.sagas.done.get(&of)?;
    (input["of"] != step["by"] || input["n"] != step["n"])
        .then(|| ("S10", format!("the undo of entry {of} of run {run} is given {input}, the step gave {step}")))
}

/// A run is over: what is not undone is what an undo that failed for good left.
pub(super) fn end(run: RunId, log: &Log) -> Option<(&'static str, String)> {
    let sagas = &log.sagas;
    let left = log.head.undo.iter().flat_map(|undo| undo.all()).map(|undo| undo.of).collect::<BTreeSet<_>>();
    let stopped = log.head.phase == Phase::Faulted && !left.is_empty();
    if sagas.owed.is_empty() || stopped && sagas.owed == left || log.is_copy() {
        return None;
    }
    let text = format!("run {run} is {:?} and owes the undo of {:?}, {left:?} are left", log.head.phase, sagas.owed);
    Some(("S10", text))
}
