//! S5, S10, S12, S13 and L4 for programs: the histories of a program are one growing log that says what the journal says, in its
//! order and once; an activation begins when what is waited for has ended, and never beside another one; what was done is undone
//! once, in reverse, and only if the run did not complete.

use std::collections::{BTreeMap, BTreeSet};

use tidewheel_engine::id::RunId;
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::eval::Json;
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::journal::{Ending, EntryKind, Fact, Segment};

use super::runs::{Found, Log, Pages, Runs};
use crate::program;

/// Activations whose beginning is remembered until what they were given is seen.
const REMEMBERED: usize = 4;

/// Something that a program asked for and that has ended.
#[derive(Clone, Debug, PartialEq)]
struct Ended {
    key: String,
    status: &'static str,
    value: Json,
}

/// What an activation was given.
#[derive(Debug)]
struct History {
    epoch: u64,
    generation: u64,
    version: String,
    input: Json,
    turns: Vec<Json>,
}

/// What was known when an activation began.
#[derive(Debug)]
struct Begun {
    entry: u64,
    ended: Vec<Ended>,
    /// What was known before says nothing about it: the run was taken back.
    fresh: bool,
    /// The run was resumed, with so many ends known before: what had come meanwhile came at once. What of it the program heard of
    /// behind the news for which it began is for the next.
    resumed: Option<usize>,
}

/// A program as the log tells it.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// Its own entries.
    own: BTreeSet<u64>,
    /// What it asked for that has not ended.
    open: BTreeMap<u64, String>,
    /// Keys since it was last taken back.
    keys: BTreeSet<String>,
    /// Ends in order, those of this generation, without what was cancelled.
    ended: Vec<Ended>,
    /// What had ended when it was taken back, or came with much else when it was resumed, and of what it has not heard since.
    untold: Vec<Ended>,
    /// All that ever ended.
    ever: BTreeMap<String, Vec<Ended>>,
    active: Option<u64>,
    begun: Vec<Begun>,
    /// Given and not looked at yet: entry, and what.
    given: Vec<(u64, Json)>,
    last: Option<History>,
    /// What the last activation waits for, without what has ended: any of it, or all.
    waits: Option<Vec<(bool, BTreeSet<String>)>>,
    fresh: bool,
    /// Names of what is to be undone, and of what was.
    armed: Vec<String>,
    undoing: BTreeMap<u64, String>,
    undone: Vec<String>,
    /// It was taken back, let go on after a fault, or ended without a chance to undo.
    odd: bool,
}

impl Program {
    /// Whether it is one, and has begun.
    pub(super) fn has_begun(&self) -> bool {
        !self.own.is_empty()
    }

    /// Whether an entry is the activation at work.
    pub(super) fn is_at_work(&self, entry: u64) -> bool {
        self.active == Some(entry)
    }

    /// Whether an entry undoes something.
    pub(super) fn undoes(&self, entry: u64) -> bool {
        self.undoing.contains_key(&entry)
    }

    /// The version whose code was run last: an activation comes to its end with the one with which it began.
    pub(super) fn version(&self) -> Option<&str> {
        self.last.as_ref().map(|last| &*last.version)
    }

    /// What the last activation was told: its generation, its input and all turns.
    pub(super) fn history(&self) -> Option<(u64, &Json, &[Json])> {
        self.last.as_ref().map(|last| (last.generation, &last.input, &last.turns[..]))
    }

    /// Whether it could go on and no activation is there to do so.
    pub(super) fn is_due(&self) -> bool {
        self.active.is_none() && self.waits.as_ref().is_some_and(|waits| satisfied(waits))
    }

    /// `over`: what had ended by the moment to which it is taken back; `None` = all that ended counts.
    fn taken_back(&mut self, over: Option<&BTreeSet<String>>) {
        self.untold.append(&mut self.ended);
        self.untold.retain(|ended| over.is_none_or(|over| over.contains(&ended.key)));
        (self.fresh, self.odd, self.waits, self.active) = (true, true, None, None);
        self.open.clear();
        self.keys.clear();
        self.undoing.clear();
    }
}

fn satisfied(waits: &[(bool, BTreeSet<String>)]) -> bool {
    waits.iter().any(|(_, keys)| keys.is_empty())
}

/// A turn of a run.
pub(super) fn turn(run: RunId, log: &mut Log, segment: &Segment) -> Found {
    let mut found = Found::new();
    let over = match &segment.event {
        Event::Reset { key, .. } => Some(over_by_then(&log.segments, key)),
        _ => None,
    };
    let program = &mut log.program;
    match segment.event {
        Event::Reset { .. } | Event::Retry => program.taken_back(over.as_ref()),
        Event::Terminate { .. } => program.odd = true,
        _ => {}
    }
    // A cancel is told at once, whatever is waited for.
    let told_at_once = matches!(segment.event, Event::Cancel { .. });
    let resumes = matches!(segment.event, Event::Resume | Event::Moved { .. } | Event::Accepted { .. });
    let resumed = resumes.then_some(program.ended.len());
    for fact in &segment.facts {
        match fact {
            Fact::Opened { entry, within, key, .. } => {
                if key.kind == EntryKind::Program {
                    program.own.insert(*entry);
                } else if key.kind == EntryKind::Undo {
                    // It stands in the run itself.
                    program.undoing.insert(*entry, key.name.to_string());
                } else if program.own.contains(within) {
                    let text = key.to_string();
                    match key.kind {
                        EntryKind::Activation => {
                            found.extend(begins(run, program, *entry, &text, (told_at_once, resumed)));
                        }
                        _ if !program.keys.insert(text.clone()) => {
                            found.push(("S12", format!("run {run} asks twice for {text}")));
                        }
                        _ => drop(program.open.insert(*entry, asked_as(&text))),
                    }
                }
            }
            Fact::Done { entry, how } => ends(program, *entry, *how, segment),
            _ => {}
        }
    }
    found
}

/// The key as the program gave it: what is done again has a scope of its own.
fn asked_as(key: &str) -> String {
    match (key.find('~'), key.find('/')) {
        (Some(mark), Some(slash)) if mark < slash => format!("{}{}", &key[..mark], &key[slash..]),
        _ => key.to_owned(),
    }
}

fn begins(
    run: RunId,
    program: &mut Program,
    entry: u64,
    key: &str,
    (at_once, resumed): (bool, Option<usize>),
) -> Found {
    let mut found = Found::new();
    if program.active.is_some() {
        found.push(("S10", format!("{key} of run {run} begins while an activation is at work")));
    }
    if !at_once
        && !program.fresh
        && let Some(waits) = program.waits.as_ref().filter(|waits| !satisfied(waits))
    {
        found.push(("S10", format!("{key} of run {run} begins, and what it waits for is open: {waits:?}")));
    }
    if program.fresh {
        program.untold.append(&mut program.ended);
    }
    program.active = Some(entry);
    program.waits = None;
    program.begun.push(Begun { entry, ended: program.ended.clone(), fresh: program.fresh, resumed });
    if program.begun.len() > REMEMBERED {
        program.begun.remove(0);
    }
    found
}

fn ends(program: &mut Program, entry: u64, how: Ending, segment: &Segment) {
    let value = |id| segment.value(id).and_then(|data| data.json()).cloned().unwrap_or(Json::Null);
    if program.active == Some(entry) {
        program.active = None;
        if let Ending::Ok(id) = how {
            takes(program, &value(id));
        }
        return;
    }
    if let Some(name) = program.undoing.remove(&entry) {
        if matches!(how, Ending::Ok(_)) {
            program.undone.push(name);
        }
        return;
    }
    let Some(key) = program.open.remove(&entry) else { return };
    if let Some(waits) = &mut program.waits {
        for (any, keys) in waits {
            if keys.remove(&key) && *any {
                keys.clear();
            }
        }
    }
    let (status, value) = match how {
        Ending::Ok(id) => ("ok", value(id)),
        Ending::Err(_) => ("error", Json::Null),
        Ending::Skipped | Ending::Cancelled => return,
    };
    // A marker ends unheard.
    if !key.contains("/patch:") {
        let ended = Ended { key: key.clone(), status, value };
        program.ended.push(ended.clone());
        program.ever.entry(key).or_default().push(ended);
    }
}

/// What an activation gave that the run took.
fn takes(program: &mut Program, result: &Json) {
    let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
    for command in list(&result["commands"]).iter().filter(|command| command["kind"] == "undo") {
        program.armed.push(command["name"].as_str().unwrap_or_default().to_owned());
    }
    if !result["end"]["continue"].is_null() {
        program.ended.clear();
        program.untold.clear();
        program.keys.clear();
    }
    program.waits = result.get("wait").map(|waits| {
        let mut read: Vec<(bool, BTreeSet<String>)> = list(waits)
            .iter()
            .map(|wait| {
                let keys = list(&wait["keys"]).iter().filter_map(|key| key.as_str().map(str::to_owned)).collect();
                (wait["mode"] == "any", keys)
            })
            .collect();
        // What ended while it was at work is over already.
        let over = |key: &String| program.ended.iter().chain(&program.untold).any(|ended| ended.key == *key);
        for (any, keys) in &mut read {
            let before = keys.len();
            keys.retain(|key| !over(key));
            if *any && keys.len() < before {
                keys.clear();
            }
        }
        if result["again"] == true {
            read.push((false, BTreeSet::new()));
        }
        read
    });
}

/// The task of an activation was stored with what it is given.
pub(super) fn given(log: &mut Log, entry: u64, input: Json) {
    if input["epoch"].is_u64() && input["turns"].is_array() {
        log.program.given.push((entry, input));
    }
}

/// The whole history of an activation: what it brings, and what the pages have that it names.
fn whole(log: &Log, input: &Json, pages: &Pages) -> Result<History, String> {
    let (epoch, generation) = (input["epoch"].as_u64().unwrap_or(0), input["generation"].as_u64().unwrap_or(0));
    let identity = &log.head.identity;
    let workflow = format!("{}/{}:", identity.namespace, identity.name);
    let version = input["workflow"].as_str().and_then(|given| given.strip_prefix(&workflow)).unwrap_or_default();
    let version = version.to_owned();
    if version.is_empty() {
        // A workflow that is not its own has no history of its own either.
        return Ok(History { epoch, generation, version, input: Json::Null, turns: Vec::new() });
    }
    let mut turns = program::earlier(input, |hash| pages.get(&(log.tenant, hash)).cloned())?;
    turns.extend(input["turns"].as_array().into_iter().flatten().cloned());
    Ok(History { epoch, generation, version, input: input["input"].clone(), turns })
}

/// After a commit: what activations were given is what the journal says.
pub(super) fn settle(run: RunId, log: &mut Log, pages: &Pages) -> Found {
    let mut found = Found::new();
    for (entry, input) in std::mem::take(&mut log.program.given) {
        let history = match whole(log, &input, pages) {
            Ok(history) => history,
            Err(text) => {
                found.push(("S13", format!("run {run}: its history is not whole: {text}")));
                continue;
            }
        };
        found.extend(grows(run, log.program.last.as_ref(), &history));
        let Some(at) = log.program.begun.iter().position(|begun| begun.entry == entry) else { continue };
        let begun = log.program.begun.remove(at);
        let told = told(&history);
        if begun.fresh {
            let known = |one: &Ended| log.program.ever.get(&one.key).is_some_and(|all| all.contains(one));
            if let Some(one) = told.iter().find(|one| !known(one)) {
                found.push(("S12", format!("run {run} is told {one:?}, and no journal has it")));
            }
            // What the history has is what counts from here on. What ended and is not there is news for later.
            let program = &mut log.program;
            let another = program.last.as_ref().is_some_and(|last| last.generation != history.generation);
            program.untold.retain(|ended| !another && !told.contains(ended));
            let after = std::mem::take(&mut log.program.ended);
            log.program.ended = told.into_iter().chain(after).collect();
            log.program.fresh = false;
        } else if told != begun.ended && !belated(&begun, &told, &mut log.program) {
            found.push(("S12", format!("run {run} is told {told:?}, its journal has {:?}", begun.ended)));
        }
        log.program.last = Some(history);
    }
    found
}

/// Whether what it hears of too much had ended before the program was taken back, and what it does not hear of is of the turn in which
/// the run was resumed: that is told later.
fn belated(begun: &Begun, told: &[Ended], program: &mut Program) -> bool {
    let (mut known, mut untold) = (begun.ended.clone(), program.untold.clone());
    let take = |from: &mut Vec<Ended>, one: &Ended| {
        let at = from.iter().position(|other| other == one);
        at.map(|at| from.remove(at)).is_some()
    };
    let expected: Vec<_> =
        told.iter().filter(|one| take(&mut known, one) || !take(&mut untold, one)).cloned().collect();
    let left = match expected == begun.ended {
        true => Some(Vec::new()),
        false => postponed(begun, &expected),
    };
    let (Some(left), true) = (left, program.ended.starts_with(&begun.ended)) else { return false };
    // That is the order from here on, also for an activation that began in the same commit.
    let begun_since = program.begun.iter_mut().map(|later| &mut later.ended);
    for ended in begun_since.chain([&mut program.ended]).filter(|ended| ended.starts_with(&begun.ended)) {
        let later = ended.split_off(begun.ended.len());
        *ended = told.iter().cloned().chain(later).collect();
    }
    program.untold = untold;
    program.untold.extend(left);
    true
}

/// What of the turn in which the run was resumed was not told; `None` = something else was not told either. What came in that turn came at
/// once, and has no order.
fn postponed(begun: &Begun, told: &[Ended]) -> Option<Vec<Ended>> {
    let known = begun.resumed?;
    let (before, came) = begun.ended.split_at_checked(known)?;
    let (first, rest) = told.split_at_checked(known)?;
    let mut left = came.to_vec();
    for one in rest {
        left.remove(left.iter().position(|other| other == one)?);
    }
    (before == first).then_some(left)
}

/// What a program had asked for that had ended before a key was opened the last time.
fn over_by_then(segments: &[Segment], key: &str) -> BTreeSet<String> {
    let is_it = |fact: &Fact| matches!(fact, Fact::Opened { key: opened, .. } if opened.to_string() == key);
    let until = segments.iter().rposition(|segment| segment.facts.iter().any(is_it)).map_or(0, |at| at + 1);
    let (mut keys, mut over) = (BTreeMap::new(), BTreeSet::new());
    for (at, segment) in segments[..until].iter().enumerate() {
        if let Event::Reset { key, .. } = &segment.event {
            over = over_by_then(&segments[..at], key);
        }
        for fact in &segment.facts {
            match fact {
                Fact::Opened { entry, key, .. } => drop(keys.insert(*entry, asked_as(&key.to_string()))),
                Fact::Done { entry, .. } => over.extend(keys.get(entry).cloned()),
                _ => {}
            }
        }
    }
    over
}

fn told(history: &History) -> Vec<Ended> {
    let all = history.turns.iter().flat_map(|turn| turn["done"].as_array().into_iter().flatten());
    let told = all.filter_map(|done| {
        let (status, value) = match done["status"].as_str() {
            Some("ok") => ("ok", done["value"].clone()),
            Some("error") => ("error", Json::Null),
            _ => return None,
        };
        Some(Ended { key: done["key"].as_str()?.to_owned(), status, value })
    });
    told.collect()
}

/// A history goes on from the one before, or is one of another epoch.
fn grows(run: RunId, last: Option<&History>, new: &History) -> Found {
    let fail = |text: String| vec![("S13", format!("run {run}: {text}"))];
    let numbers: Vec<_> = new.turns.iter().filter_map(|turn| turn["no"].as_u64()).collect();
    if numbers.first() != Some(&1) || numbers.windows(2).any(|pair| pair[1] != pair[0] + 1) {
        return fail(format!("its history has the turns {numbers:?}, or is that of another version"));
    }
    let mut opened = BTreeSet::new();
    for turn in &new.turns {
        for done in turn["done"].as_array().into_iter().flatten() {
            if !opened.contains(&done["key"].to_string()) {
                return fail(format!("it is told twice, or of what it did not ask for: {done}"));
            }
            opened.remove(&done["key"].to_string());
        }
        let asked = turn["opened"].as_array().into_iter().flatten();
        opened.extend(asked.map(|asked| asked["key"].to_string()));
    }
    let Some(last) = last.filter(|last| (last.epoch, last.generation) == (new.epoch, new.generation)) else {
        return Found::new();
    };
    let common = last.turns.len().saturating_sub(1);
    if new.turns.len() != last.turns.len() + 1 || new.turns[..common] != last.turns[..common] {
        return fail(format!("its history was {:?} and is {:?}", last.turns, new.turns));
    }
    let (was, is) = (&last.turns[common], &new.turns[common]);
    if ["no", "now", "done", "cancel"].iter().any(|part| was.get(part) != is.get(part)) {
        return fail(format!("its turn was {was} and is {is}"));
    }
    Found::new()
}

/// A run is over.
pub(super) fn end(partition: usize, run: RunId, log: &Log, runs: &Runs) -> Found {
    let mut found = Found::new();
    let (head, program) = (&log.head, &log.program);
    let (name, version) = (&*head.identity.name, &*head.identity.version);
    let Some(flow) = runs.flows.find(name, version) else {
        return vec![("S12", format!("run {run} is of {name}:{version}, which is not there"))];
    };
    if flow.definition.plan().hash != head.identity.plan {
        found.push(("S12", format!("run {run} of {name}:{version} has the plan of another version")));
    }
    let touched = log.hurt || runs.revived.contains(&(partition, run));
    if head.phase == Phase::Completed
        && !touched
        && !log.versions.has_moved()
        && let Some(expected) = runs.flows.entries(name, version)
    {
        let mut counts = BTreeMap::new();
        for fact in log.segments.iter().flat_map(|segment| &segment.facts) {
            if let Fact::Opened { key, .. } = fact
                && matches!(key.kind, EntryKind::Task | EntryKind::Sleep | EntryKind::Child | EntryKind::Map)
            {
                *counts.entry(key.kind).or_default() += 1u64;
            }
        }
        if counts != expected {
            found.push(("S10", format!("run {run} of {name}:{version} opens {counts:?} instead of {expected:?}")));
        }
    }
    if !flow.program || program.odd || log.is_copy() {
        return found;
    }
    let undone = &program.undone;
    if head.phase == Phase::Completed {
        if !undone.is_empty() {
            found.push(("S5", format!("run {run} of {name} completed, and undid {undone:?}")));
        }
        return found;
    }
    // What failed for good and all before it are left.
    let left = head.undo.iter().flat_map(|undo| undo.all()).count();
    let expected: Vec<&String> = program.armed[left.min(program.armed.len())..].iter().rev().collect();
    if undone.iter().collect::<Vec<_>>() != expected {
        let (armed, phase) = (&program.armed, head.phase);
        let text = format!("run {run} of {name} is {phase:?}: armed {armed:?}, undone {undone:?}, {left} are left");
        found.push(("S10", text));
    }
    found
}
