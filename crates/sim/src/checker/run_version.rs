//! S13 over moves: a run takes each turn with the version that it follows then. It goes to another one when somebody asked for that,
//! if what it stands in has a place there and, where its history was rehearsed, if it still stands where it stood; a move that
//! was refused changes nothing, and one that was acknowledged is not lost. A program whose code differs from its history holds and
//! writes nothing. The rest of a run is that of its new version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use tidewheel_engine::id::{Name, RunId};
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::code;
use tidewheel_engine::run::command::MISMATCH;
use tidewheel_engine::run::data::BlobHash;
use tidewheel_engine::run::eval::{Definition, Json};
use tidewheel_engine::run::fold::Journal;
use tidewheel_engine::run::head::{Head, Identity, Phase};
use tidewheel_engine::run::journal::{EntryKind, Fact, Segment};
use tidewheel_engine::run::moves::{CodePlace, fits};
use tidewheel_engine::task::Task;

use super::runs::{Found, Log, Runs};
use crate::flow::{Flow, package_of};
use crate::program;

/// Definitions by the hash of their documents.
pub(super) type Definitions = BTreeMap<[u8; 32], Arc<dyn Definition>>;

/// A move that somebody asked for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Of which run.
    pub(crate) run: RunId,
    /// To which version.
    pub(crate) plan: [u8; 32],
    /// Where its program stood when its history was rehearsed.
    pub(crate) at: Option<CodePlace>,
    /// Turns of the run by then.
    pub(crate) turns: u64,
}

/// What was asked for, by who asked: each time it is somebody else.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    moves: BTreeMap<Name, Ask>,
    /// The request came twice: of its two answers only one is known.
    twice: BTreeSet<Name>,
    refused: BTreeSet<Name>,
    accepts: BTreeSet<Name>,
}

impl Asks {
    pub(crate) fn moves(&mut self, by: Name, ask: Ask) {
        self.moves.insert(by, ask);
    }

    pub(crate) fn accepts(&mut self, by: Name) {
        self.accepts.insert(by);
    }

    pub(crate) fn twice(&mut self, by: &Name) {
        self.twice.insert(by.clone());
    }
}

type List = BTreeMap<usize, (u64, usize, usize)>;

/// Which versions a run followed.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    /// Their plans, in order; the last one is that of now.
    followed: Vec<[u8; 32]>,
    /// Under which of them an entry was opened, if that is not the first.
    began: BTreeMap<u64, usize>,
    /// Statements of a document's own list: their entry, and the versions in which they began and ended.
    list: List,
    /// The same before the facts of each turn, and the version of the turn.
    past: Vec<(List, usize)>,
    /// Moves that were put in line, and that were made.
    lined: BTreeSet<Name>,
    moved: BTreeSet<Name>,
    /// Moves that were taken out of the line in this commit.
    gone: Vec<Name>,
    /// The newest head that was written whole, and the turn of the last move.
    whole: u64,
    wanted: u64,
    /// The last move was one of a program whose history fitted.
    rehearsed: bool,
    /// Up to which activation of which generation differences were accepted.
    accepted: Option<(u32, u64)>,
    /// Something of its history is not that of its code.
    odd: bool,
    /// A run below it went to another version.
    pub(super) strange: bool,
}

impl Versions {
    fn now(&self) -> usize {
        self.followed.len().saturating_sub(1)
    }

    /// Whether it ever went to another version.
    pub(super) fn has_moved(&self) -> bool {
        self.followed.len() > 1
    }

    /// The plan before the current one.
    pub(super) fn previous(&self) -> Option<[u8; 32]> {
        self.followed.len().checked_sub(2).map(|at| self.followed[at])
    }

    /// All versions that it followed.
    pub(super) fn plans(&self, definitions: &Definitions) -> Vec<Arc<dyn Definition>> {
        self.followed.iter().filter_map(|plan| definitions.get(plan).cloned()).collect()
    }

    /// A head was written whole.
    pub(super) fn written(&mut self, head: &Head) {
        self.whole = self.whole.max(head.turns);
    }

    /// Something was put in line.
    pub(super) fn lined(&mut self, event: &Event) {
        if let Event::Moved { by, .. } = event {
            self.lined.insert(by.clone());
        }
    }

    /// Something was taken out of the line.
    pub(super) fn unlined(&mut self, event: &Event) {
        if let Event::Moved { by, .. } = event {
            self.gone.push(by.clone());
        }
    }

    /// A reset goes back to the moment before a key was opened the last time.
    fn go_back(&mut self, segments: &[Segment], key: &str) {
        let is_it = |fact: &Fact| matches!(fact, Fact::Opened { key: opened, .. } if opened.to_string() == key);
        let Some(at) = segments.iter().rposition(|segment| segment.facts.iter().any(is_it)) else { return };
        let Some((list, now)) = self.past.get(at).cloned() else { return };
        self.list = list;
        self.note(segments[at].facts.iter().take_while(|fact| !is_it(fact)), now, false);
    }

    /// `again` = what was open is opened once more, and goes on with what it had begun.
    fn note<'f>(&mut self, facts: impl Iterator<Item = &'f Fact>, now: usize, again: bool) {
        for fact in facts {
            match fact {
                Fact::Opened { entry, key, .. } => {
                    // A map that is opened again goes on with the task that it had begun with, of whichever version.
                    if now > 0 && !(again && key.kind == EntryKind::Map) {
                        self.began.insert(*entry, now);
                    }
                    if let Some(at) = place(&key.name) {
                        let first = self.list.get(&at).map(|known| known.1).filter(|_| again);
                        self.list.insert(at, (*entry, first.unwrap_or(now), now));
                    }
                }
                Fact::Done { entry, .. } if now > 0 => {
                    let of = self.list.values_mut().find(|statement| statement.0 == *entry);
                    if let Some((_, _, last)) = of {
                        *last = now;
                    }
                }
                _ => {}
            }
        }
    }
}

/// The position of a statement in the list of its workflow; `None` = it stands inside of another one.
fn place(reference: &str) -> Option<usize> {
    let (at, name) = reference.strip_prefix("/do/")?.split_once('/')?;
    (!name.contains('/')).then(|| at.parse().ok()).flatten()
}

/// A turn of a run, before it is folded.
pub(super) fn turn(run: RunId, log: &mut Log, segment: &Segment, definitions: &Definitions, asks: &Asks) -> Found {
    let mut found = Found::new();
    let copies = log.copies;
    match &segment.event {
        Event::Start { identity, .. } => log.versions.followed = vec![identity.plan],
        Event::Moved { identity, by } => {
            if !copies {
                found.extend(moves(run, log, segment, (identity, by), (definitions, asks)));
            }
            let rehearsed = asks.moves.get(by).is_some_and(|ask| ask.at.is_some());
            let versions = &mut log.versions;
            versions.followed.push(identity.plan);
            versions.moved.insert(by.clone());
            (versions.wanted, versions.rehearsed) = (segment.turn, rehearsed);
        }
        Event::Accepted { by } => {
            if !copies && !asks.accepts.contains(by) {
                found.push(("S13", format!("run {run} accepts how its replay differs, and nobody asked for that")));
            }
            if let Some(state) = code::of(&log.head) {
                log.versions.accepted = Some((state.generation, state.activation));
                log.versions.odd = true;
            }
        }
        Event::Reset { identity, key, .. } => {
            log.versions.go_back(&log.segments, key);
            (log.versions.rehearsed, log.versions.accepted) = (false, None);
            if log.versions.followed.last() != Some(&identity.plan) {
                log.versions.followed.push(identity.plan);
            }
        }
        Event::Retry => (log.versions.rehearsed, log.versions.accepted) = (false, None),
        event if log.head.phase == Phase::Suspended && is_held(event) => {
            let facts = &segment.facts;
            let written =
                (!facts.is_empty()).then(|| format!("run {run} holds, and writes {facts:?} because of {event:?}"));
            found.extend(written.map(|what| ("S13", what)));
        }
        Event::Done { entry, outcome: Outcome::Ok(data) } if log.program.is_at_work(*entry) => {
            let differs = data.json().is_some_and(|result| !result["end"]["mismatch"].is_null());
            if differs {
                found.extend(holds(run, log, segment));
            }
        }
        _ => {}
    }
    let (now, before) = (log.versions.now(), log.versions.list.clone());
    log.versions.past.push((before, now));
    let again = matches!(segment.event, Event::Reset { .. } | Event::Retry);
    log.versions.note(segment.facts.iter(), now, again);
    found
}

fn is_held(event: &Event) -> bool {
    matches!(
        event,
        Event::Done { .. } | Event::Items { .. } | Event::Many { .. } | Event::Fired { .. } | Event::Signal { .. }
    )
}

/// The replay of a program differed: the run holds because of it, and nothing else happens.
fn holds(run: RunId, log: &Log, segment: &Segment) -> Found {
    let mut found = Found::new();
    let is_hold = |fact: &Fact| matches!(fact, Fact::Phase { phase: Phase::Suspended, reason: Some(reason), .. } if &**reason == MISMATCH);
    let writes = |fact: &Fact| matches!(fact, Fact::Opened { .. });
    if !segment.facts.iter().any(is_hold) || segment.facts.iter().any(writes) || segment.more {
        let facts = &segment.facts;
        found.push(("S13", format!("the replay of run {run} differs from its history, and it goes on: {facts:?}")));
    }
    if log.versions.rehearsed {
        found.push(("S13", format!("run {run} was moved because its history fitted, and its replay differs from it")));
    }
    found
}

/// A run goes to another version.
fn moves(
    run: RunId,
    log: &Log,
    segment: &Segment,
    (identity, by): (&Identity, &Name),
    (definitions, asks): (&Definitions, &Asks),
) -> Found {
    let before = &log.head;
    let mut wrong: Vec<String> = Vec::new();
    match asks.moves.get(by) {
        None => wrong.push("and nobody asked for it".to_owned()),
        Some(ask) => {
            if (ask.run, ask.plan) != (run, identity.plan) {
                wrong.push("and something else was asked for".to_owned());
            }
            if asks.refused.contains(by) && !asks.twice.contains(by) {
                wrong.push("and that was refused".to_owned());
            }
            if ask.at.is_some() && CodePlace::of(before) != ask.at {
                let is = CodePlace::of(before);
                wrong.push(format!("and its program is at {is:?}, its history was rehearsed at {:?}", ask.at));
            }
        }
    }
    if before.phase.ended() || before.closing.is_some() {
        wrong.push("and has ended, or is about to".to_owned());
    }
    match (definitions.get(&before.identity.plan), definitions.get(&identity.plan)) {
        (Some(old), Some(new)) => wrong.extend(fits(before, old.plan(), new.plan()).err()),
        _ => wrong.push("and there is no such version".to_owned()),
    }
    let same = Identity { plan: identity.plan, version: identity.version.clone(), ..(*before.identity).clone() };
    if same != *identity {
        wrong.push("and becomes another run".to_owned());
    }
    if before.phase == Phase::Suspended {
        let goes_on = |fact: &Fact| matches!(fact, Fact::Phase { phase: Phase::Running, .. });
        let differed = before.reason.as_deref() == Some(MISMATCH);
        if segment.facts.iter().any(goes_on) != differed {
            wrong.push(format!("and was held because of {:?}: {:?}", before.reason, segment.facts));
        }
    }
    let (from, to) = (&before.identity.version, &identity.version);
    wrong.into_iter().map(|what| ("S13", format!("run {run} goes from {from} to {to}, {what}"))).collect()
}

/// A task of a run was stored: it was made of the version that the run followed when its entry was opened.
pub(super) fn given(run: RunId, log: &Log, task: &Task, input: &Json, definitions: &Definitions) -> Found {
    let Some(step) = task.step.as_deref() else { return Found::new() };
    let versions = &log.versions;
    let activation = log.program.is_at_work(step.entry);
    let said = match input["workflow"].as_str().filter(|_| activation) {
        Some(workflow) => workflow.rsplit_once(':').map(|(_, version)| version),
        None => input["v"].as_str(),
    };
    let package = task.spec.package.as_deref().filter(|_| !log.program.undoes(step.entry));
    if said.is_none() && package.is_none() {
        return Found::new();
    }
    let began = versions.began.get(&step.entry).copied().unwrap_or(0);
    // Items of a map are made one after another.
    let until = if step.items > 0 { versions.now() } else { began };
    let mut followed =
        versions.followed.get(began..=until).into_iter().flatten().filter_map(|plan| definitions.get(plan));
    let fits =
        |version: &str| said.is_none_or(|said| said == version) && package.is_none_or(|p| p == package_of(version));
    let mut found = Found::new();
    if !followed.any(|definition| fits(&definition.plan().version)) {
        let of = versions.followed[began..=until].iter().filter_map(|plan| definitions.get(plan));
        let of: Vec<_> = of.map(|definition| definition.plan().version.clone()).collect();
        let text = format!("entry {} of run {run} is made of version {said:?} (package {package:?})", step.entry);
        found.push(("S13", format!("{text}, and the run followed {of:?}")));
    }
    if activation
        && let Some((generation, through)) = versions.accepted
        && input["generation"] == generation
        && input["accepted"].as_u64().unwrap_or(0) != through
    {
        let text = format!("run {run} is replayed, and that it differs up to {through} was accepted");
        found.push(("S13", format!("{text}: it is told {}", input["accepted"])));
    }
    found
}

/// After a commit that touched a run.
pub(super) fn settle(run: RunId, log: &mut Log) -> Found {
    let mut found = Found::new();
    let gone = std::mem::take(&mut log.versions.gone);
    let versions = &log.versions;
    if versions.wanted > versions.whole {
        let turn = versions.wanted;
        found.push(("S12", format!("run {run} moved in turn {turn}, and its head was not written whole with it")));
    }
    for by in gone.into_iter().filter(|by| !versions.moved.contains(by)) {
        found.push(("S13", format!("a move of run {run} by {by} was in line and is dropped")));
    }
    found
}

/// A move was answered with the run: it is first in line or in the journal.
pub(super) fn told(log: &Log, by: &Name, told: &Head, asks: &Asks) -> Option<(&'static str, String)> {
    let ask = asks.moves.get(by)?;
    let (run, versions) = (ask.run, &log.versions);
    // Of two that ask for the same version at once, one moves the run; the other has nothing left to do.
    let is_there = [told, &log.head].iter().any(|head| head.identity.plan == ask.plan);
    let known = versions.lined.contains(by) || versions.moved.contains(by) || is_there;
    (!known).then(|| ("S1", format!("the move of run {run} by {by} was acknowledged and is nowhere")))
}

/// A move was refused.
pub(super) fn refused(log: &Log, by: &Name, why: &str, asks: &mut Asks, definitions: &Definitions) -> Found {
    asks.refused.insert(by.clone());
    let Some(ask) = asks.moves.get(by).filter(|_| !asks.twice.contains(by)) else { return Found::new() };
    let (run, head) = (ask.run, &log.head);
    if log.versions.moved.contains(by) {
        return vec![("S13", format!("the move of run {run} by {by} was refused ({why}), and it was moved"))];
    }
    let stands = head.turns == ask.turns && !head.phase.ended() && head.closing.is_none() && log.events.is_empty();
    let (old, new) = (definitions.get(&head.identity.plan), definitions.get(&ask.plan));
    let fitting = matches!((old, new), (Some(old), Some(new)) if fits(head, old.plan(), new.plan()).is_ok());
    // Whether the engine has both versions is not known here.
    let missing = why.contains("cannot be read");
    if stands && fitting && ask.at.is_none() && !missing {
        return vec![("S13", format!("the move of run {run} by {by} fits and is refused: {why}"))];
    }
    Found::new()
}

/// A run is over: its whole journal, through all versions, gives what it has become.
pub(super) fn end(run: RunId, log: &Log, definitions: &Definitions) -> Option<(&'static str, String)> {
    let definition = definitions.get(&log.head.identity.plan).filter(|_| log.versions.has_moved())?;
    let earlier = log.versions.plans(definitions);
    let blobs = BTreeMap::<BlobHash, Arc<Json>>::new();
    let journal =
        Journal { from: None, segments: &log.segments, definition: &**definition, earlier: &earlier, blobs: &blobs };
    let problem = match journal.fold() {
        Ok(head) if head == log.head => return None,
        Ok(head) => format!("{head:?} instead of {:?}", log.head),
        Err(error) => format!("{error:?}"),
    };
    Some(("S12", format!("the journal of run {run}, which moved, gives {problem}")))
}

/// The versions that a run followed, for people.
pub(super) fn said(log: &Log, definitions: &Definitions) -> String {
    let followed = log.versions.followed.iter().filter_map(|plan| definitions.get(plan));
    let versions: Vec<_> = followed.map(|definition| &*definition.plan().version).collect();
    versions.join(", then ")
}

/// What a completed run of some versions may have made of a number. `None` = nothing is known of that.
pub(super) fn results(log: &Log, runs: &Runs, n: i64) -> Option<Vec<i64>> {
    let (versions, identity) = (&log.versions, &log.head.identity);
    if versions.strange {
        return None;
    }
    let ended_as = log.program.version().unwrap_or(&identity.version);
    let flow = runs.flows.find(&identity.name, ended_as)?;
    // Values of steps stand, whatever another version would have made of them.
    if versions.odd || flow.program && versions.has_moved() {
        return of_history(log, runs, flow);
    }
    let version = |at: usize| {
        let plan = versions.followed.get(at)?;
        runs.flows.iter().find(|flow| flow.definition.plan().hash == *plan).map(|flow| flow.version)
    };
    if !versions.has_moved() {
        return Some(runs.flows.results(&identity.name, flow.version, n));
    }
    let mut open = Vec::new();
    for at in 0..flow.statements.len() {
        let Some((_, first, last)) = versions.list.get(&at) else { return Some(Vec::new()) };
        open.push((*first..=*last).filter_map(version).collect());
    }
    runs.flows.moved_results(&identity.name, n, &open)
}

/// What its program gives that is told what the last activation was told.
fn of_history(log: &Log, runs: &Runs, flow: &Flow) -> Option<Vec<i64>> {
    let (generation, input, turns) = log.program.history()?;
    let input = json!({"generation": generation, "input": input});
    let end = program::ends(&runs.flows, flow, &input, turns)?;
    end["ok"]["n"].as_i64().map(|n| vec![n])
}
