//! S10: no step starts before what is before it has ended, an entry ends once, a join fires once, and what was cancelled
//! starts nothing later.

use std::collections::{BTreeMap, BTreeSet};

use tidewheel_engine::id::{RunId, TaskId};
use tidewheel_engine::invariant::Fold;
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::head::{Head, Outside};
use tidewheel_engine::run::journal::{EntryKind, Fact, Key, Segment};
use tidewheel_engine::task::{State, Task};

use super::runs::{Found, Log};
use crate::plan::SECOND;

/// A task that has to be read before it can be cancelled may still begin within this.
const CANCELLED_WITHIN: u64 = 5 * SECOND;

/// Entries of a run, from its facts.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    open: BTreeMap<u64, (u64, Key)>,
    keys: BTreeSet<Key>,
    kinds: BTreeMap<u64, EntryKind>,
    ended: BTreeSet<u64>,
}

impl Entries {
    /// The key of an entry that is open.
    pub(super) fn key(&self, entry: u64) -> Option<&Key> {
        self.open.get(&entry).map(|open| &open.1)
    }
}

/// The facts of a turn.
pub(super) fn opened(run: RunId, log: &mut Log, segment: &Segment) -> Found {
    let mut found = Found::new();
    let entries = &mut log.order;
    if matches!(segment.event, Event::Reset { .. } | Event::Retry) {
        // What was open is opened again, under new entries.
        entries.open.clear();
        entries.keys.clear();
        entries.ended.clear();
    }
    for fact in &segment.facts {
        match fact {
            Fact::Opened { entry, within, key, .. } => {
                if entries.kinds.insert(*entry, key.kind).is_some() {
                    found.push(("S12", format!("entry {entry} of run {run} is opened twice")));
                }
                if !entries.keys.insert(key.clone()) {
                    found.push(("S12", format!("the key {key} of run {run} is open twice")));
                }
                let together = entries.kinds.get(within).is_none_or(|kind| {
                    matches!(kind, EntryKind::Fork | EntryKind::Map | EntryKind::Event | EntryKind::Program)
                });
                let sibling = entries.open.iter().find(|(_, (of, _))| of == within);
                if let Some((_, (_, other))) = sibling.filter(|_| !together) {
                    found.push(("S10", format!("{key} of run {run} begins before {other} has ended")));
                }
                entries.open.insert(*entry, (*within, key.clone()));
            }
            Fact::Done { entry, .. } => {
                if let Some((_, key)) = entries.open.remove(entry) {
                    entries.keys.remove(&key);
                }
                if !entries.ended.insert(*entry) {
                    found.push(("S10", format!("entry {entry} of run {run} ends twice")));
                }
            }
            _ => {}
        }
    }
    found
}

/// What a turn was taken for: it is what the log says of the task or run that it names. `before` = the head before the turn.
pub(super) fn came(
    run: RunId,
    logs: &BTreeMap<RunId, Log>,
    children: &BTreeMap<(RunId, u64, u64), RunId>,
    before: &Head,
    segment: &Segment,
    fold: &Fold,
) -> Found {
    let (entry, ends): (u64, Vec<(u64, &Outcome)>) = match &segment.event {
        Event::Done { entry, outcome } => (*entry, vec![(0, outcome)]),
        Event::Items { entry, first, outcomes } => {
            (*entry, outcomes.iter().enumerate().map(|(at, outcome)| (first + at as u64, outcome)).collect())
        }
        Event::Many { entry, ended } => {
            let items = ended.iter().flat_map(|(first, outcomes)| (*first..).zip(outcomes));
            (*entry, items.collect())
        }
        _ => return Found::new(),
    };
    let mut found = Found::new();
    let is_child = matches!(before.opened(entry), Some(open) if matches!(open.what, Outside::Child(_)));
    for (item, outcome) in ends {
        let child = children.get(&(run, entry, item)).and_then(|child| logs.get(child));
        let task = logs.get(&run).and_then(|log| log.tasks.get(&(entry, item)));
        let problem = match (child, task.and_then(|id| fold.tasks.get(id))) {
            (Some(child), _) if child.ends == 0 => Some("the run has not ended".to_owned()),
            (Some(_), _) => None,
            (None, Some(task)) => differs(task, outcome),
            (None, None) if is_child || matches!(outcome, Outcome::Err(_) | Outcome::Cancelled) => None,
            (None, None) => Some("there is no such task".to_owned()),
        };
        let told = problem.map(|what| ("S10", format!("run {run} goes on with the end of entry {entry}: {what}")));
        found.extend(told);
    }
    found
}

fn differs(task: &Task, outcome: &Outcome) -> Option<String> {
    let succeeded = matches!(outcome, Outcome::Ok(_));
    match task.state {
        State::Succeeded if succeeded => None,
        state if state.is_terminal() && state != State::Succeeded && !succeeded => None,
        state => Some(format!("task {:x} is {state:?}, the run takes {outcome:?}", task.id.0)),
    }
}

/// A task of a run is handed out. `closed` = since when nothing is open for it.
pub(super) fn started(
    run: RunId,
    task: &Task,
    closed: Option<u64>,
    fold: &Fold,
    now: u64,
) -> Option<(&'static str, String)> {
    let running = task.state == State::Running && !task.cancelling;
    let fresh = fold.tasks.get(&TaskId(task.id.0)).is_some_and(|stored| stored.token == task.token);
    let late = closed.is_some_and(|closed| now > closed + CANCELLED_WITHIN);
    let began = task.started == 0 && task.granted > 0;
    (running && fresh && began && late)
        .then(|| ("S10", format!("task {:x} of run {run} is handed out after it was cancelled", task.id.0)))
}
