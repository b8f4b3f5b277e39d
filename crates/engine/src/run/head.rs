//! The head of a run: everything it needs to go on, and nothing else.
//!
//! Statements are remembered by their reference, never by a number of the plan. Cloning a head copies a few counters and the
//! short lists of what is open; values and the frames of lines that a turn does not touch are shared.

use std::sync::Arc;

use super::act::{Act, Event, Outcome};
use super::code::CodeState;
use super::data::{BlobHash, Data};
use super::eval::Json;
use super::fault::Fault;
use super::listen::ListenState;
use super::map::MapState;
use super::plan::{Flow, NodeId, ParentClose, Plan};
use super::saga::SagaState;
use super::undo::{Compensations, Undo};
use crate::id::{Name, RunId, TaskId};

/// Layout of [`Head`]; part of what is stored. 2: has compensations. 3: programs have pages. 4: of what is armed
/// a part may hold while the rest is undone.
pub const HEAD_VERSION: u16 = 4;

/// Number of an entry in the journal of a run, from 1. Never used twice, not even after a reset.
pub type Seq = u64;

/// What never changes in a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The run.
    pub run: RunId,
    /// Hash of its plan.
    pub plan: [u8; 32],
    /// Namespace of its workflow.
    pub namespace: Name,
    /// Name of its workflow.
    pub name: Name,
    /// Version of its workflow.
    pub version: Name,
    /// Who started it, if a run did.
    pub parent: Option<Parent>,
    /// Correlation id.
    pub correlation: Option<Name>,
    /// How many runs are above it.
    pub depth: u8,
}

impl Identity {
    /// A run of a plan that no other run started.
    pub fn new(run: RunId, plan: &Plan) -> Identity {
        let (namespace, name, version) = (plan.namespace.clone(), plan.name.clone(), plan.version.clone());
        Identity { run, plan: plan.hash, namespace, name, version, parent: None, correlation: None, depth: 0 }
    }
}

/// The run that started a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Parent {
    /// The run.
    pub run: RunId,
    /// Its entry for this one.
    pub entry: Seq,
    /// Index, if this one is an item of a map.
    pub item: Option<u64>,
    /// What becomes of this one when that one ends first.
    pub close: ParentClose,
}

/// Phases of the standard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not begun.
    #[default]
    Pending,
    /// At work, or its tasks and children are.
    Running,
    /// For an event or a time.
    Waiting,
    /// By a person, or by the server with a reason.
    Suspended,
    /// Ended from outside.
    Cancelled,
    /// Ended by an error; can be retried.
    Faulted,
    /// Ended with an output.
    Completed,
}

impl Phase {
    /// Whether the run is over.
    pub fn ended(self) -> bool {
        matches!(self, Phase::Cancelled | Phase::Faulted | Phase::Completed)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// [`HEAD_VERSION`].
    pub version: u16,
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Phase.
    pub phase: Phase,
    /// Why it is in that phase, where somebody said so.
    pub reason: Option<Name>,
    /// Wall time of its start.
    pub started_ms: u64,
    /// Wall time of its end; 0 = not ended.
    pub ended_ms: u64,
    /// Raw input.
    pub input: Data,
    /// Output or error, once it ended.
    pub outcome: Option<Outcome>,
    /// How it will end when the children it waits for have.
    pub closing: Option<(Phase, Outcome)>,
    /// Lines of statements, in order of their numbers: the main one is 0, others are branches of a fork.
    pub lines: Vec<Arc<Line>>,
    /// Number of the next line.
    pub next_line: u32,
    /// Number of the next entry.
    pub next_seq: Seq,
    /// Turns so far.
    pub turns: u64,
    /// Entries opened so far.
    pub entries: u64,
    /// Work since something came from outside; see [`crate::limit::RUN_WORK`].
    pub work: u64,
    /// What is open outside, in order of entries.
    pub open: Vec<(Seq, Open)>,
    /// Child runs that are not done and that no statement waits for.
    pub children: Vec<(Seq, ParentClose)>,
    /// Search attributes.
    pub attributes: Arc<Vec<(Name, Json)>>,
    /// Events that no `listen` has taken yet, in order of arrival.
    pub inbox: Vec<Waiting>,
    /// Events that came so far.
    pub arrivals: u64,
    /// Hashes of source and id of events that were seen, the newest last.
    pub seen: Arc<Vec<u64>>,
    /// What came while it was suspended.
    pub held: Vec<Event>,
    /// Acts that did not go into their turn.
    pub owed: Vec<Act>,
    /// What of the journal was compacted.
    pub compacted: Option<Compacted>,
    /// What is to be undone if it fails or is cancelled, or is being undone.
    pub undo: Option<Arc<Compensations>>,
}

/// How far the journal of a run was compacted into a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Turns that are in the checkpoint.
    pub turns: u64,
    /// Chain hash over their segments.
    pub chain: [u8; 32],
}

/// An event that no `listen` has taken yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Which arrival of the run, from 1.
    pub no: u64,
    /// The event.
    pub event: Data,
}

/// What stands outside for an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Open {
    /// Line of the statement.
    pub line: u32,
    /// Entry of the statement: the one itself, but for timers of limits.
    pub owner: Seq,
    /// What it is.
    pub what: Outside,
}

/// What stands outside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outside {
    /// A task.
    Task,
    /// A child run.
    Child(ParentClose),
    /// Tasks or runs of the items of a map.
    Items,
    /// The end of a `wait`.
    Wait,
    /// The time limit of a statement or of the run.
    Timeout,
    /// The time limit of one attempt of a `try`.
    AttemptLimit,
    /// The pause before a retry.
    Backoff,
    /// A subscription.
    Events,
    /// A task that undoes something; its owner is 0, the run itself.
    Undo,
    /// The pause before an undo is tried again; as [`Outside::Undo`].
    UndoPause,
}

/// A line of statements: the frames from the outermost statement to the one at hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Number.
    pub id: u32,
    /// The line whose fork it is a branch of, and which branch.
    pub parent: Option<(u32, u32)>,
    /// `$context`.
    pub context: Data,
    /// Whether it has a context of its own: something was exported.
    pub exported: bool,
    /// Outermost first.
    pub frames: Vec<Frame>,
    /// What it does next.
    pub next: Next,
}

/// What a line does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Begins a statement.
    Begin {
        /// Which.
        place: Place,
        /// With which raw input.
        raw: Data,
        /// Which time in its scope.
        n: u32,
        /// Scope of its key.
        scope: Name,
    },
    /// A statement gave its transformed output, and this follows.
    Return {
        /// The output.
        output: Data,
        /// What follows.
        flow: Flow,
    },
    /// Goes on with the events that are there for its `listen`.
    Listen,
    /// Opens further items of its `map`, or the next step of its saga.
    Refill,
    /// Waits for something outside or for its branches.
    Wait,
    /// Failed, with nothing to catch it.
    Failed(Fault),
    /// Was interrupted because the run faulted.
    Interrupted,
}

/// A statement of the plan.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its reference; empty = the workflow itself.
    pub reference: Name,
    /// Where it was found last: looked at first, never stored.
    pub hint: NodeId,
}

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        self.reference == other.reference
    }
}

impl Place {
    /// As it was stored.
    pub fn new(reference: Name) -> Place {
        Place { reference, hint: NodeId(u32::MAX) }
    }

    /// A statement of a plan.
    pub fn of(plan: &Plan, id: NodeId) -> Place {
        Place { reference: plan.node(id).reference.clone(), hint: id }
    }

    /// Its name in keys.
    pub(super) fn name(&self) -> Name {
        super::code::name_of(&self.reference)
    }

    /// Its number in a plan.
    pub fn find(&self, plan: &Plan) -> Option<NodeId> {
        if let Some(node) = plan.nodes.get(self.hint.0 as usize)
            && (Arc::ptr_eq(&node.reference, &self.reference) || node.reference == self.reference)
        {
            return Some(self.hint);
        }
        plan.find(&self.reference)
    }
}

/// A statement that has begun and not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Which.
    pub place: Place,
    /// Its entry.
    pub seq: Seq,
    /// Which time in its scope.
    pub n: u32,
    /// Scope of its key.
    pub scope: Name,
    /// Scope of the keys of its statements.
    pub inner: Name,
    /// Wall time of its begin.
    pub started_ms: u64,
    /// Raw input.
    pub raw: Data,
    /// Transformed input.
    pub input: Data,
    /// Raw output, once the body has ended.
    pub result: Option<Data>,
    /// What follows instead of its own `then`.
    pub flow: Option<Flow>,
    /// Its time limit in milliseconds; 0 = none.
    pub limit_ms: u64,
    /// The list it walks.
    pub list: List,
    /// Position in it.
    pub cursor: u32,
    /// How often the list was gone back in.
    pub round: u32,
    /// What it does.
    pub step: Step,
}

/// The lists of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// None.
    None,
    /// The body.
    Body,
    /// What is done with an error.
    Catch,
    /// Before it, by which extension.
    Before(u16),
    /// After it, by which extension.
    After(u16),
}

/// State of a statement, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing to remember.
    Plain,
    /// The run itself.
    Root,
    /// A loop.
    For {
        /// The items.
        items: Data,
        /// The one at hand.
        index: u32,
    },
    /// A fork.
    Fork(Vec<Branch>),
    /// A `try`.
    Try(TryState),
    /// A map.
    Map(Box<MapState>),
    /// A listen.
    Listen(Box<ListenState>),
    /// A program.
    Code(Box<CodeState>),
    /// A saga.
    Saga(Box<SagaState>),
}

/// A branch of a fork.
#[derive(Clone, Debug, PartialEq)]
pub enum Branch {
    /// At work: its line.
    Open(u32),
    /// Ended: its output, and its context if it exported.
    Done(Data, Option<Data>),
    /// Failed (in a competition).
    Failed(Fault),
}

/// State of a `try`.
#[derive(Clone, Debug, PartialEq)]
pub struct TryState {
    /// Retries so far.
    pub attempt: u32,
    /// Wall time of the first attempt.
    pub first_ms: u64,
    /// Time limit of the attempt at hand in milliseconds; 0 = none.
    pub limit_ms: u64,
    /// The error at hand, while it is handled or a retry is to come.
    pub error: Option<Data>,
}

impl Head {
    /// A run that has not begun.
    pub fn new(identity: Arc<Identity>) -> Head {
        Head {
            version: HEAD_VERSION,
            identity,
            phase: Phase::Pending,
            reason: None,
            started_ms: 0,
            ended_ms: 0,
            input: Data::null(),
            outcome: None,
            closing: None,
            lines: Vec::new(),
            next_line: 0,
            next_seq: 1,
            turns: 0,
            entries: 0,
            work: 0,
            open: Vec::new(),
            children: Vec::new(),
            attributes: Arc::default(),
            inbox: Vec::new(),
            arrivals: 0,
            seen: Arc::default(),
            held: Vec::new(),
            owed: Vec::new(),
            compacted: None,
            undo: None,
        }
    }

    /// What is open for an entry.
    pub fn opened(&self, entry: Seq) -> Option<&Open> {
        self.open.binary_search_by_key(&entry, |open| open.0).ok().map(|at| &self.open[at].1)
    }

    /// Whether it could go on without anything from outside: the shell queues [`Event::Continue`] when it loads such a run.
    pub fn runnable(&self) -> bool {
        let ready = |line: &Arc<Line>| line.next.ready();
        let goes = matches!(self.phase, Phase::Running | Phase::Waiting) && self.closing.is_none() && self.undo_idle();
        !self.owed.is_empty() || goes && self.lines.iter().any(ready)
    }

    /// Bytes of the values that it carries, about. Values that several frames share count each time.
    pub fn inline(&self) -> usize {
        let frame = |frame: &Frame| {
            let step = match &frame.step {
                Step::For { items, .. } => items.stored(),
                Step::Map(map) => map.stored(),
                Step::Listen(listen) => listen.stored(),
                Step::Code(code) => code.stored(),
                Step::Saga(saga) => saga.stored(),
                Step::Fork(branches) => branches.iter().map(Branch::stored).sum(),
                _ => 0,
            };
            let input = if frame.input.same(&frame.raw) { 0 } else { frame.input.stored() };
            frame.raw.stored() + input + frame.result.as_ref().map_or(0, Data::stored) + step
        };
        let line = |line: &Arc<Line>| line.context.stored() + line.frames.iter().map(frame).sum::<usize>();
        let inbox: usize = self.inbox.iter().map(|waiting| waiting.event.stored()).sum();
        let undo = self.undo.iter().flat_map(|undo| undo.all()).map(Undo::stored).sum::<usize>();
        self.lines.iter().map(line).sum::<usize>() + inbox + undo
    }

    /// The tasks that it waits for, those of the items of its maps too. Of items that go together the first one has the task.
    pub fn open_tasks(&self) -> Vec<TaskId> {
        let run = self.identity.run;
        let step = |entry: Seq, first: u64| TaskId::of_step(run, entry, first);
        let frames = || self.lines.iter().flat_map(|line| &line.frames);
        let mut tasks = Vec::new();
        for (entry, open) in self.open.iter() {
            match open.what {
                Outside::Task | Outside::Undo => tasks.push(step(*entry, 0)),
                Outside::Items => {
                    let maps = frames().filter(|frame| frame.seq == *entry).filter_map(|frame| match &frame.step {
                        Step::Map(map) => Some(map),
                        _ => None,
                    });
                    for map in maps {
                        tasks.extend((0..map.cursor).filter(|item| map.at_work(*item)).map(|item| step(*entry, item)));
                    }
                }
                _ => {}
            }
        }
        tasks
    }

    /// Bytes of text of the large values that it has at hand beside those it carries, about.
    pub fn at_hand(&self) -> usize {
        let size = |data: &Data| match data {
            Data::Ref { size, value: Some(_), .. } => *size as usize,
            _ => 0,
        };
        let frame = |frame: &Frame| {
            let items = match &frame.step {
                Step::For { items, .. } => size(items),
                Step::Map(map) => size(&map.items),
                _ => 0,
            };
            let input = if frame.input.same(&frame.raw) { 0 } else { size(&frame.input) };
            items + size(&frame.raw) + input + frame.result.as_ref().map_or(0, size)
        };
        let lines = self.lines.iter().map(|line| size(&line.context) + line.frames.iter().map(frame).sum::<usize>());
        size(&self.input) + lines.sum::<usize>()
    }

    /// A line by its number.
    pub(super) fn line(&self, id: u32) -> Option<&Line> {
        self.lines.binary_search_by_key(&id, |line| line.id).ok().map(|at| &*self.lines[at])
    }
}

impl Step {
    /// Whether other lines branch off from it, for which it waits.
    pub(super) fn has_lines(&self) -> bool {
        matches!(self, Step::Fork(_) | Step::Code(_))
    }
}

impl Branch {
    pub(super) fn stored(&self) -> usize {
        match self {
            Branch::Done(output, context) => output.stored() + context.as_ref().map_or(0, Data::stored),
            _ => 16,
        }
    }
}

impl Next {
    /// Whether the line can go on by itself.
    pub(super) fn ready(&self) -> bool {
        matches!(self, Next::Begin { .. } | Next::Return { .. } | Next::Listen | Next::Refill)
    }
}

/// Every blob that values of a head are in, sorted.
pub fn blobs(head: &Head) -> Vec<BlobHash> {
    let mut found = Vec::new();
    let mut see = |data: &Data| {
        if let Data::Ref { hash, .. } = data {
            found.push(*hash);
        }
    };
    see(&head.input);
    head.inbox.iter().for_each(|waiting| see(&waiting.event));
    head.undo.iter().flat_map(|undo| undo.all()).for_each(|undo| see(&undo.args));
    for line in &head.lines {
        see(&line.context);
        match &line.next {
            Next::Begin { raw: data, .. } | Next::Return { output: data, .. } => see(data),
            _ => {}
        }
        for frame in &line.frames {
            [&frame.raw, &frame.input].into_iter().chain(&frame.result).for_each(&mut see);
            match &frame.step {
                Step::For { items, .. } => see(items),
                Step::Map(map) => map.values().for_each(&mut see),
                Step::Saga(saga) => saga.values().for_each(&mut see),
                Step::Listen(listen) => {
                    listen.at_hand.iter().chain(&listen.pages).chain(&listen.read).for_each(&mut see)
                }
                Step::Try(state) => state.error.iter().for_each(&mut see),
                Step::Code(code) => code.values().for_each(&mut see),
                Step::Fork(branches) => {
                    for branch in branches {
                        if let Branch::Done(output, context) = branch {
                            std::iter::once(output).chain(context).for_each(&mut see);
                        }
                    }
                }
                Step::Plain | Step::Root => {}
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}
