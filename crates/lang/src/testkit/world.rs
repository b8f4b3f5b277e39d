//! Runs in memory: what a commit would store, an executor that the caller gives, faults, and a clock that jumps to whatever
//! happens next.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use tidewheel_engine::id::{Name, RunId};
use tidewheel_engine::limit::{EVAL_BYTES, EVAL_STEPS, INBOX, SLICE_BYTES, SLICE_STEPS};
use tidewheel_engine::run::act::{Act, Event, EventFilter, OpenTask, Outcome, StartChild};
use tidewheel_engine::run::data::{BlobHash, Data};
use tidewheel_engine::run::eval::{Definition, Fuel};
use tidewheel_engine::run::fault::Fault;
use tidewheel_engine::run::fold::Journal;
use tidewheel_engine::run::head::{Head, Identity, Parent, Phase, Seq};
use tidewheel_engine::run::journal::{EntryKind, Fact, Segment};
use tidewheel_engine::run::plan::{Kind, Target};
use tidewheel_engine::run::turn::{Env, Halt, Turn, advance};

/// Wall time at which runs begin unless the caller says otherwise: 2026-01-01T00:00:00Z.
pub const START_MS: u64 = 1_767_225_600_000;
/// Turns of all runs together. A loop that waits, and so never uses up its work, ends here.
const TURNS: u64 = 20_000;
/// Work of all runs together: twice what one may use without anything from outside.
const WORK: u64 = 2 * tidewheel_engine::limit::RUN_WORK;
/// Bytes of memory that journals and values may take, about.
const BYTES: u64 = 256 << 20;
/// Runs, the first one and all children.
const RUNS: usize = 1_000;
/// Bytes of a fact or a taped value in memory, about.
const FACT_BYTES: u64 = 160;
/// Turns up to which every load is also made from the first turn on, to be compared with the one from the last whole head.
const COMPARED: usize = 64;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Memory,
    /// After every commit all memory is gone.
    Crash,
    /// Every commit is lost at first.
    Lost,
    /// Every commit lands and is reported as failed, so that its event comes again.
    Landed,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// With its output.
    Completed(Json),
    /// With its error.
    Faulted(Json),
    /// It was cancelled.
    Cancelled,
    /// Nothing is left to be done, and it has not ended.
    Stuck(Phase),
    /// It could not go on: nobody answers, a bound is reached, or the engine contradicts itself. One sentence.
    Broken(String),
}

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub enum Whom<'a> {
    /// A worker or a service.
    Task(&'a Target),
    /// Another workflow: namespace, name, version.
    Workflow(&'a str, &'a str, &'a str),
}

/// What a run asks of the world outside.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Whom.
    pub whom: Whom<'a>,
    /// Reference of the statement.
    pub reference: &'a Name,
    /// Arguments: the input of a workflow, of a map those of one item. If sealed, template and variables.
    pub args: &'a Json,
    /// Whether only the executor may evaluate the arguments.
    pub sealed: bool,
}

/// What the world says.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A value or an error, after so many milliseconds.
    Ends(Result<Json, Json>, u64),
    /// Nothing, ever.
    Never,
    /// The workflow itself is to be run.
    Run,
    /// There is nobody: the test is at its end, for this reason.
    Nobody(String),
}

/// Workers and services.
pub trait Peer {
    /// Answers; asked once for each task or run that is opened, and for each item of a batch.
    fn answer(&mut self, ask: &Ask<'_>) -> Answer;
}

/// A run.
#[derive(Debug)]
pub struct Run {
    /// Which document.
    pub document: usize,
    /// Turns so far.
    pub segments: Vec<Segment>,
    identity: Arc<Identity>,
    head: Head,
    /// The last head that was written whole, and how many segments are in it.
    whole: Option<(Head, usize)>,
    /// The run that waits for it.
    parent: Option<(usize, Seq, Option<u64>)>,
    finished: Option<(Phase, Outcome)>,
    /// Which events it wants, by the entry that does.
    wanted: BTreeMap<Seq, Vec<EventFilter>>,
    /// Events that came while its inbox was full.
    deferred: Vec<Event>,
}

impl Run {
    /// Whether an event is to be delivered to it. The run looks again itself.
    fn wants(&self, event: &Event) -> bool {
        let Event::Arrived { event } = event else { return true };
        let kind = event.json().and_then(|event| event["type"].as_str());
        let fits = |filter: &EventFilter| filter.kind.as_deref().is_none_or(|wanted| Some(wanted) == kind);
        // What is not at hand is looked at by the run.
        event.json().is_none() || self.wanted.values().flatten().any(fits)
    }
}

/// A statement that was begun.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which run.
    pub run: usize,
    /// Its entry.
    pub entry: Seq,
    /// Its reference.
    pub reference: Name,
    /// Whether its condition was not true.
    pub skipped: bool,
}

/// What happens at a time, and to which run; to every one if none is named.
type Happening = (Option<usize>, Event);
/// A moment: wall time, and the order of what happens at that time.
type Moment = (u64, u64);

/// Runs, and all that is around them.
pub struct World<'w> {
    documents: &'w [Arc<dyn Definition>],
    mode: Mode,
    peer: &'w mut dyn Peer,
    /// All runs; the first one is the one that was started.
    pub runs: Vec<Run>,
    /// Events that were sent, in order.
    pub emitted: Vec<Json>,
    /// Statements that were begun, in order.
    pub steps: Vec<Step>,
    /// Which run each turn was of, in order.
    pub commits: Vec<usize>,
    start: u64,
    now: u64,
    agenda: BTreeMap<Moment, Happening>,
    /// Where what is open stands in the agenda: run, entry, whether it is a timer.
    open: BTreeMap<(usize, Seq, bool), Vec<Moment>>,
    moments: u64,
    blobs: BTreeMap<BlobHash, Arc<Json>>,
    turns: u64,
    work: u64,
    bytes: u64,
    broken: Option<String>,
}

impl<'w> World<'w> {
    /// A world with these workflows in which nothing has happened. The first one is the one that is run.
    pub fn new(documents: &'w [Arc<dyn Definition>], mode: Mode, start: u64, peer: &'w mut dyn Peer) -> World<'w> {
        World {
            documents,
            mode,
            peer,
            runs: Vec::new(),
            emitted: Vec::new(),
            steps: Vec::new(),
            commits: Vec::new(),
            start,
            now: start,
            agenda: BTreeMap::new(),
            open: BTreeMap::new(),
            moments: 0,
            blobs: BTreeMap::new(),
            turns: 0,
            work: 0,
            bytes: 0,
            broken: None,
        }
    }

    /// Milliseconds that have passed.
    pub fn elapsed(&self) -> u64 {
        self.now - self.start
    }

    /// Starts the first workflow and does all that its run asks for. What happens beside it comes so many milliseconds after
    /// its start, to it alone or (events) to every run.
    pub fn execute(&mut self, input: Json, beside: Vec<(u64, Event)>) -> Ended {
        let input = self.data(input);
        let identity = Identity::new(RunId(7), self.documents[0].plan());
        self.begin(0, identity, input, None);
        for (after, event) in beside {
            let run = (!matches!(event, Event::Arrived { .. })).then_some(0);
            self.schedule(self.start.saturating_add(after), run, event);
        }
        while self.runs[0].finished.is_none() {
            if let Some(broken) = self.broken.take() {
                return Ended::Broken(broken);
            }
            let Some(((due, _), (run, event))) = self.agenda.pop_first() else {
                return Ended::Stuck(self.runs[0].head.phase);
            };
            self.now = self.now.max(due);
            match run {
                Some(run) => self.drive(run, event),
                None => {
                    for run in 0..self.runs.len() {
                        if self.runs[run].wants(&event) {
                            self.drive(run, event.clone());
                        }
                    }
                }
            }
        }
        self.ended()
    }

    fn ended(&mut self) -> Ended {
        if let Some(broken) = self.broken.take() {
            return Ended::Broken(broken);
        }
        match &self.runs[0].finished {
            Some((Phase::Completed, Outcome::Ok(output))) => Ended::Completed(self.read(output)),
            Some((_, Outcome::Err(fault))) => Ended::Faulted((*fault.0).clone()),
            _ => Ended::Cancelled,
        }
    }

    /// The value behind what a run carries along.
    pub fn read(&self, data: &Data) -> Json {
        match (data.json(), data) {
            (Some(value), _) => value.clone(),
            (None, Data::Ref { hash, .. }) => self.blobs.get(hash).map(|json| (**json).clone()).unwrap_or_default(),
            (None, Data::Inline { .. }) => Json::Null,
        }
    }

    fn data(&mut self, value: Json) -> Data {
        self.bytes += weight(&value);
        let (data, _) = Data::of(value);
        if let Data::Ref { hash, value: Some(value), .. } = &data {
            self.blobs.insert(*hash, value.clone());
        }
        data
    }

    fn begin(&mut self, document: usize, identity: Identity, input: Data, parent: Option<(usize, Seq, Option<u64>)>) {
        let identity = Arc::new(identity);
        let head = Head::new(identity.clone());
        self.runs.push(Run {
            document,
            segments: Vec::new(),
            identity: identity.clone(),
            head,
            whole: None,
            parent,
            finished: None,
            wanted: BTreeMap::new(),
            deferred: Vec::new(),
        });
        self.schedule(self.now, Some(self.runs.len() - 1), Event::Start { identity, input });
    }

    fn schedule(&mut self, due: u64, run: Option<usize>, event: Event) {
        self.moments += 1;
        let moment = (due.max(self.now), self.moments);
        if let Some((run, (entry, timer))) = run.zip(entry_of(&event)) {
            self.open.entry((run, entry, timer)).or_default().push(moment);
        }
        self.agenda.insert(moment, (run, event));
    }

    /// What is open does not come any more.
    fn close(&mut self, run: usize, entry: Seq, timer: bool) {
        for moment in self.open.remove(&(run, entry, timer)).unwrap_or_default() {
            self.agenda.remove(&moment);
        }
    }

    /// One event and the turns that follow from it, with the faults of the mode.
    fn drive(&mut self, run: usize, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            match self.one_turn(run, &event) {
                Ok(Some(true)) => next = Some(Event::Continue),
                Ok(_) => {}
                Err(why) => {
                    self.broken.get_or_insert(why);
                }
            }
            if self.broken.is_some() {
                return;
            }
        }
        if !self.runs[run].deferred.is_empty() && self.runs[run].head.inbox.len() < INBOX {
            for event in std::mem::take(&mut self.runs[run].deferred) {
                self.schedule(self.now, Some(run), event);
            }
        }
    }

    /// A turn and its commit; whether another one follows, `None` = the event changes nothing.
    fn one_turn(&mut self, run: usize, event: &Event) -> Result<Option<bool>, String> {
        let Some(turn) = self.turn(run, event)? else { return Ok(None) };
        if self.mode == Mode::Lost {
            // The effects never leave; the engine loads the run again, and the event comes again.
            self.runs[run].head = self.fold(run)?;
            if self.turn(run, event)?.as_ref() != Some(&turn) {
                return Err("the same event gave another turn after a commit that was lost".to_string());
            }
        }
        let more = turn.more;
        self.commit(run, event, turn)?;
        if self.mode != Mode::Memory {
            self.runs[run].head = self.fold(run)?;
            if self.runs[run].head.runnable() != more {
                return Err("a load does not show whether the run goes on by itself".to_string());
            }
        }
        if self.mode == Mode::Landed
            && !matches!(event, Event::Continue)
            && self.turn(run, event)?.is_some_and(|again| !again.acts.is_empty())
        {
            return Err("an event that came twice counted twice".to_string());
        }
        Ok(Some(more))
    }

    fn turn(&self, run: usize, event: &Event) -> Result<Option<Turn>, String> {
        let Run { document, head, .. } = &self.runs[run];
        let env = Env {
            definition: &*self.documents[*document],
            blobs: &self.blobs,
            now_ms: self.now,
            bounds: Default::default(),
        };
        let mut slice = Fuel { steps: SLICE_STEPS, bytes: SLICE_BYTES };
        let turn = match advance(head, event.clone(), &env, &mut slice) {
            Err(Halt::OutOfFuel) => {
                let mut whole = Fuel { steps: EVAL_STEPS, bytes: EVAL_BYTES };
                advance(head, event.clone(), &env, &mut whole)
            }
            other => other,
        };
        turn.map_err(|halt| format!("a turn cannot be made: {halt:?}"))
    }

    fn commit(&mut self, run: usize, event: &Event, turn: Turn) -> Result<(), String> {
        let Turn { head, segment, acts, snapshot, .. } = turn;
        let outside =
            matches!(event, Event::Done { .. } | Event::Items { .. } | Event::Fired { .. } | Event::Arrived { .. });
        self.turns += 1;
        self.work += if outside { head.work } else { head.work.saturating_sub(self.runs[run].head.work) };
        self.bytes += segment.values.iter().filter_map(Data::json).map(weight).sum::<u64>();
        self.bytes += (segment.facts.len() + segment.tape.len()) as u64 * FACT_BYTES;
        self.note_steps(run, &segment);
        self.commits.push(run);
        let here = &mut self.runs[run];
        here.segments.push(segment);
        if snapshot {
            here.whole = Some((head.clone(), here.segments.len()));
        }
        here.head = head;
        acts.into_iter().for_each(|act| self.perform(run, act));
        if self.turns > TURNS {
            return Err(format!("the test takes more than {TURNS} turns: does a loop never end?"));
        }
        if self.work > WORK {
            return Err(format!("the test takes more than {WORK} steps of work: does a loop never end?"));
        }
        if self.bytes > BYTES {
            return Err(format!("the journals and values of the test take more than {} MiB", BYTES >> 20));
        }
        Ok(())
    }

    fn note_steps(&mut self, run: usize, segment: &Segment) {
        for fact in &segment.facts {
            match fact {
                Fact::Opened { entry, key, .. } if key.kind != EntryKind::Run => {
                    self.steps.push(Step { run, entry: *entry, reference: key.name.clone(), skipped: false });
                }
                Fact::Done { entry, how: tidewheel_engine::run::journal::Ending::Skipped } => {
                    let step = self.steps.iter_mut().rev().find(|step| step.run == run && step.entry == *entry);
                    step.into_iter().for_each(|step| step.skipped = true);
                }
                _ => {}
            }
        }
    }

    fn perform(&mut self, run: usize, act: Act) {
        match act {
            Act::PutBlob { hash, bytes } => {
                let value = crate::text::read_json(&bytes).unwrap_or_default();
                self.bytes += weight(&value);
                self.blobs.insert(hash, Arc::new(value));
            }
            Act::OpenTask(task) => self.open_task(run, &task),
            Act::CancelTask { entry } => self.close(run, entry, false),
            Act::CancelItems { entry } => {
                self.close(run, entry, false);
                self.cancel_children(run, entry);
            }
            Act::OpenTimer { entry, due } => {
                self.close(run, entry, true);
                self.schedule(due, Some(run), Event::Fired { entry });
            }
            Act::CancelTimer { entry } => self.close(run, entry, true),
            Act::Emit { event, .. } => {
                let value = self.read(&event);
                self.bytes += weight(&value);
                self.emitted.push(value);
                self.schedule(self.now, None, Event::Arrived { event });
            }
            Act::Defer { event } => self.runs[run].deferred.push(Event::Arrived { event }),
            Act::StartChild(child) => self.start_child(run, &child),
            Act::CancelChild { entry } => {
                self.close(run, entry, false);
                self.cancel_children(run, entry);
            }
            Act::Finished { phase, outcome } => {
                if let Some((parent, entry, item)) = self.runs[run].parent {
                    let event = match item {
                        Some(first) => Event::Items { entry, first, outcomes: vec![outcome.clone()] },
                        None => Event::Done { entry, outcome: outcome.clone() },
                    };
                    self.schedule(self.now, Some(parent), event);
                }
                self.runs[run].finished = Some((phase, outcome));
            }
            Act::Subscribe { entry, filters } => {
                self.runs[run].wanted.insert(entry, filters);
            }
            Act::Unsubscribe { entry } => {
                self.runs[run].wanted.remove(&entry);
            }
            Act::Attributes(_) => {}
        }
    }

    fn cancel_children(&mut self, run: usize, entry: Seq) {
        for child in 0..self.runs.len() {
            let ours = matches!(self.runs[child].parent, Some((parent, of, _)) if parent == run && of == entry);
            if ours && self.runs[child].finished.is_none() {
                self.schedule(self.now, Some(child), Event::Cancel { reason: "parent".into() });
            }
        }
    }

    fn open_task(&mut self, run: usize, task: &OpenTask) {
        let args = self.read(&task.args);
        self.bytes += weight(&args);
        let Some((first, _)) = task.items else {
            let answer = self.ask(Whom::Task(&task.target), &task.key.name, &args, task.sealed);
            if let Some((outcome, after)) = answer {
                let event = Event::Done { entry: task.entry, outcome };
                self.schedule(self.now.saturating_add(after), Some(run), event);
            }
            return;
        };
        let plan = self.documents[self.runs[run].document].plan();
        let node = plan.find(&task.key.name).map(|id| &plan.node(id).kind);
        let batched = matches!(node, Some(Kind::Map { batch, .. }) if *batch > 1);
        let each: &[Json] = match &args {
            Json::Array(all) if batched => all,
            one => std::slice::from_ref(one),
        };
        let (mut outcomes, mut last) = (Vec::new(), 0);
        for args in each {
            // A batch ends as a whole: an item that never does holds up all of it.
            let Some((outcome, after)) = self.ask(Whom::Task(&task.target), &task.key.name, args, task.sealed) else {
                return;
            };
            outcomes.push(outcome);
            last = last.max(after);
        }
        let event = Event::Items { entry: task.entry, first, outcomes };
        self.schedule(self.now.saturating_add(last), Some(run), event);
    }

    /// How something ends, and when; `None` = it does not, or the test is broken.
    fn ask(&mut self, whom: Whom<'_>, reference: &Name, args: &Json, sealed: bool) -> Option<(Outcome, u64)> {
        match self.peer.answer(&Ask { whom, reference, args, sealed }) {
            Answer::Ends(Ok(value), after) => Some((Outcome::Ok(self.data(value)), after)),
            Answer::Ends(Err(error), after) => Some((Outcome::Err(Fault(Arc::new(error))), after)),
            Answer::Never => None,
            Answer::Run => {
                self.broken.get_or_insert(format!("`{reference}` is no workflow that could be run"));
                None
            }
            Answer::Nobody(why) => {
                self.broken.get_or_insert(why);
                None
            }
        }
    }

    fn start_child(&mut self, run: usize, child: &StartChild) {
        let StartChild { namespace, name, version, entry, item, close, depth, .. } = child;
        let args = self.read(&child.input);
        self.bytes += weight(&args);
        let whom = Whom::Workflow(namespace, name, version);
        let (outcome, after) = match self.peer.answer(&Ask {
            whom,
            reference: &child.key.name,
            args: &args,
            sealed: false,
        }) {
            Answer::Ends(Ok(value), after) => (Outcome::Ok(self.data(value)), after),
            Answer::Ends(Err(error), after) => (Outcome::Err(Fault(Arc::new(error))), after),
            Answer::Never => return,
            Answer::Nobody(why) => {
                self.broken.get_or_insert(why);
                return;
            }
            Answer::Run => {
                let Some(document) = find(self.documents, namespace, name, version) else {
                    let known: Vec<String> = self.documents.iter().map(|one| title(&**one)).collect();
                    self.broken.get_or_insert(format!(
                        "`{}` runs the workflow `{namespace}/{name}:{version}`, which is neither mocked nor among the documents of the test (`{}`)",
                        child.key.name,
                        known.join("`, `")
                    ));
                    return;
                };
                if self.runs.len() >= RUNS {
                    self.broken.get_or_insert(format!("the test starts more than {RUNS} runs"));
                    return;
                }
                let above = self.runs[run].identity.run;
                let parent = Parent { run: above, entry: *entry, item: *item, close: *close };
                let number = RunId(7 + self.runs.len() as u128);
                let identity = Identity::new(number, self.documents[document].plan());
                let identity = Identity { parent: Some(parent), depth: *depth, ..identity };
                self.begin(document, identity, child.input.clone(), Some((run, *entry, *item)));
                return;
            }
        };
        let (entry, due) = (*entry, self.now.saturating_add(after));
        let event = match *item {
            Some(first) => Event::Items { entry, first, outcomes: vec![outcome] },
            None => Event::Done { entry, outcome },
        };
        self.schedule(due, Some(run), event);
    }

    /// What a load gives: the same from the last whole head as from the start.
    fn fold(&self, run: usize) -> Result<Head, String> {
        let Run { document, segments, identity, whole, .. } = &self.runs[run];
        if segments.is_empty() {
            return Ok(Head::new(identity.clone()));
        }
        let definition = &*self.documents[*document];
        let all = Journal { from: None, segments, definition, earlier: &[], blobs: &self.blobs };
        let failed = |error| format!("the journal cannot be read: {error:?}");
        let Some((whole, count)) = whole else { return all.fold().map_err(failed) };
        let later = Journal { from: Some(whole), segments: &segments[*count..], ..all };
        let head = later.fold().map_err(failed)?;
        if segments.len() <= COMPARED && all.fold().map_err(failed)? != head {
            return Err("a load from the last whole head differs from one from the start".to_string());
        }
        Ok(head)
    }
}

/// The entry for which an event comes, and whether it is a timer's.
fn entry_of(event: &Event) -> Option<(Seq, bool)> {
    match event {
        Event::Done { entry, .. } | Event::Items { entry, .. } => Some((*entry, false)),
        Event::Fired { entry } => Some((*entry, true)),
        _ => None,
    }
}

/// Bytes that a value takes in memory, about.
pub(super) fn weight(value: &Json) -> u64 {
    32 + match value {
        Json::String(text) => text.len() as u64,
        Json::Array(items) => items.iter().map(weight).sum(),
        Json::Object(entries) => entries.iter().map(|(key, value)| 48 + key.len() as u64 + weight(value)).sum(),
        _ => 0,
    }
}

/// `namespace/name:version`.
pub(super) fn title(definition: &dyn Definition) -> String {
    let plan = definition.plan();
    format!("{}/{}:{}", plan.namespace, plan.name, plan.version)
}

/// The document of a workflow: of this version, or the latest one.
pub(super) fn find(documents: &[Arc<dyn Definition>], namespace: &str, name: &str, version: &str) -> Option<usize> {
    let order = |version: &str| crate::check::semver(version).unwrap_or_default();
    let fits = |at: &usize| {
        let plan = documents[*at].plan();
        &*plan.namespace == namespace && &*plan.name == name && (version == "latest" || &*plan.version == version)
    };
    (0..documents.len()).filter(fits).max_by_key(|at| order(&documents[*at].plan().version))
}
