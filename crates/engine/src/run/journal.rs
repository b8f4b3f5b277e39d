//! The journal of a run: the packed facts of each turn, append-only.
//!
//! A segment holds what came (the event), what was evaluated (the tape) and what it meant (the facts). Folding segments plays
//! the events again and takes every value from the tape, so that nothing is ever evaluated twice; the facts have to come out
//! the same.

use std::sync::Arc;

use super::act::Event;
use super::data::Data;
use super::eval::Violation;
use super::head::{Phase, Seq};
use crate::id::Name;

/// Order in which turns evaluate; part of every segment. A change of that order is a new revision, and folds of older
/// segments keep the older order. Revision 2: ends of items are taken in together ([`super::act::Event::Many`]), and finished
/// pages of a map are blobs beyond a bound. Revision 3: a reset goes back to the moment in which its key was opened last, and
/// takes no compensation along that was made since, or that is another run's. Revision 4: a run may move to another plan, and keys
/// that a document names as hints hold for statements that name none. Revision 5: turns of a program that are over become pages
/// ([`Taped::Page`]), what it is told in one turn is bounded, and one that begins again after a retry has nothing open. Revision 6: a reset undoes what was armed
/// after the entry that it goes back to, whether or not what armed it had ended well (see `rollback`), and what a program asks for is not
/// begun where its arguments leave too little room for results. Revision 7: a result for which the run has no room is a blob and
/// fails nothing, and a reset takes large events along that came since.
pub const REVISION: u16 = 7;

/// Kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryKind {
    /// The run itself: its input and output.
    Run,
    /// A list.
    Do,
    /// A value.
    Set,
    /// A choice.
    Switch,
    /// A loop.
    For,
    /// Branches.
    Fork,
    /// A `try`.
    Try,
    /// A raised error.
    Raise,
    /// A function of the document.
    Function,
    /// A task.
    Task,
    /// Another run.
    Child,
    /// A wait for a time.
    Sleep,
    /// A wait for events.
    Event,
    /// A sent event.
    Emit,
    /// Many items.
    Map,
    /// A recorded local step (durable Python).
    Step,
    /// A signal (durable Python).
    Signal,
    /// A promise (durable Python).
    Promise,
    /// Work of a person.
    Human,
    /// A compensation.
    Undo,
    /// A patch marker (durable Python).
    Patch,
    /// Queryable state (durable Python).
    State,
    /// A program (durable Python).
    Program,
    /// An activation of a program.
    Activation,
    /// Steps that are undone where it fails.
    Saga,
    /// The run went over to another version of its workflow.
    Moved,
    /// A difference between a program and its history was accepted.
    Accepted,
}

impl EntryKind {
    /// As it stands in a key.
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::Run => "run",
            EntryKind::Do => "do",
            EntryKind::Set => "set",
            EntryKind::Switch => "switch",
            EntryKind::For => "for",
            EntryKind::Fork => "fork",
            EntryKind::Try => "try",
            EntryKind::Raise => "raise",
            EntryKind::Function => "function",
            EntryKind::Task => "task",
            EntryKind::Child => "child",
            EntryKind::Sleep => "sleep",
            EntryKind::Event => "event",
            EntryKind::Emit => "emit",
            EntryKind::Map => "map",
            EntryKind::Step => "step",
            EntryKind::Signal => "signal",
            EntryKind::Promise => "promise",
            EntryKind::Human => "human",
            EntryKind::Undo => "undo",
            EntryKind::Patch => "patch",
            EntryKind::State => "state",
            EntryKind::Program => "program",
            EntryKind::Activation => "activation",
            EntryKind::Saga => "saga",
            EntryKind::Moved => "moved",
            EntryKind::Accepted => "accepted",
        }
    }
}

/// Key of an entry: `<scope>/<kind>:<name>#<n>`, where the scope is the chain of branches (`b`), iterations (`i`), attempts
/// (`a`), catches (`c`), events (`e`), rounds (`r`), calls of functions (`f`), undone entries (`u`) and extensions (`x`, `y`) that it stands in (those
/// that are left out where they are 0 say at which depth of their line), and the name is the
/// reference of the statement. Never depends on the order in which things arrive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Scope; empty at the top.
    pub scope: Name,
    /// Kind.
    pub kind: EntryKind,
    /// Reference of the statement.
    pub name: Name,
    /// Which time in its scope.
    pub n: u32,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}#{}", self.scope, self.kind.name(), self.name, self.n)
    }
}

/// A value of a segment: index into [`Segment::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueId(pub u32);

/// What a turn meant.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// An entry was opened.
    Opened {
        /// Its number.
        entry: Seq,
        /// The entry it is in; 0 = none.
        within: Seq,
        /// Its key.
        key: Key,
        /// What it was given, where that is not the output of another entry: input of the run, arguments.
        value: Option<ValueId>,
        /// Hash of the arguments of a task, child or map; 0 = none.
        args_hash: u64,
        /// Wall time at which it is due; 0 = none.
        due_ms: u64,
    },
    /// An entry ended.
    Done {
        /// Its number.
        entry: Seq,
        /// How.
        how: Ending,
    },
    /// A `try` will go at it again.
    Retried {
        /// Its entry.
        entry: Seq,
        /// Which retry, from 1.
        attempt: u32,
        /// When, in wall time.
        due_ms: u64,
        /// The error.
        error: ValueId,
    },
    /// The run changed its phase.
    Phase {
        /// To which.
        phase: Phase,
        /// Why.
        reason: Option<Name>,
        /// Output or error.
        value: Option<ValueId>,
    },
}

/// How an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With its transformed output.
    Ok(ValueId),
    /// Its condition was not true.
    Skipped,
    /// With an error.
    Err(ValueId),
    /// It was cancelled.
    Cancelled,
}

/// What was evaluated, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Taped {
    /// A value.
    Value(ValueId),
    /// A condition.
    Verdict(bool),
    /// It failed.
    Failed(Arc<str>),
    /// It used up the fuel of one evaluation.
    Fuel,
    /// A value fits its schema, or what of it does not.
    Checked(Vec<Violation>),
    /// A length of time.
    Millis(u64),
    /// The run used up its work.
    Work,
    /// The turns of a program below a number left the run as a page.
    Page {
        /// The page: a reference to what is stored.
        page: ValueId,
        /// Number of the first turn that stayed.
        first: u64,
    },
    /// A program asked for more than it may have open.
    Full,
}

/// One turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// [`REVISION`] of the engine that made it.
    pub revision: u16,
    /// Which turn, from 1.
    pub turn: u64,
    /// Wall time.
    pub now_ms: u64,
    /// What came.
    pub event: Event,
    /// Statements that were begun.
    pub begun: u32,
    /// Whether it stopped before it had to wait.
    pub more: bool,
    /// Work counter of the run after it.
    pub work: u64,
    /// What was evaluated.
    pub tape: Vec<Taped>,
    /// Values that tape and facts name.
    pub values: Vec<Data>,
    /// What it meant.
    pub facts: Vec<Fact>,
}

impl Segment {
    /// A value.
    pub fn value(&self, id: ValueId) -> Option<&Data> {
        self.values.get(id.0 as usize)
    }
}
