//! A test file as it was read.

use serde_json::Value as Json;

use crate::model::Text;
use crate::text::At;

/// A test file.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// The workflow under test, if it is not the one beside the file.
    pub(crate) workflow: Option<Text>,
    /// Further documents, for the runs that it starts.
    pub(crate) workflows: Vec<Text>,
    /// What documents name elsewhere: URI and path.
    pub(crate) resources: Vec<(Text, Text)>,
    /// The tests.
    pub(crate) tests: Vec<Test>,
}

/// A test.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    /// Its name.
    pub(crate) name: Text,
    /// Input of the run.
    pub(crate) input: Json,
    /// `$secrets`.
    pub(crate) secrets: Json,
    /// Wall time at which the run begins.
    pub(crate) start: Option<u64>,
    /// Who answers its calls; the first one that fits does.
    pub(crate) mocks: Vec<Mock>,
    /// Events that come.
    pub(crate) events: Vec<Event>,
    /// Signals that come.
    pub(crate) signals: Vec<Event>,
    /// When it is cancelled: milliseconds after its start.
    pub(crate) cancel: Option<u64>,
    /// What has to hold at its end.
    pub(crate) expect: Expect,
}

/// Answers calls.
#[derive(Clone, Debug)]
pub(crate) struct Mock {
    /// Its map.
    pub(crate) at: At,
    /// Calls of this statement: its name or reference.
    pub(crate) statement: Option<Text>,
    /// Calls of this kind.
    pub(crate) call: Option<String>,
    /// Calls whose arguments hold this.
    pub(crate) with: Option<Json>,
    /// How often it answers.
    pub(crate) times: Option<u64>,
    /// After how many milliseconds.
    pub(crate) delay: u64,
    /// What it says.
    pub(crate) reply: Reply,
}

/// What a mock says.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A value, in which `${ }` sees the arguments; `null` if it is not given.
    Result(Option<At>),
    /// An error.
    Error(Json),
    /// Nothing, ever.
    Never,
}

/// An event or a signal that comes from outside.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// Milliseconds after the start of the run.
    pub(crate) after: u64,
    /// Its attributes.
    pub(crate) value: Json,
}

/// What has to hold at the end of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expect {
    /// Its phase; `completed` if nothing is said, `faulted` if an error is.
    pub(crate) phase: Option<&'static str>,
    /// Its whole output.
    pub(crate) output: Option<Json>,
    /// What its error holds.
    pub(crate) error: Option<Json>,
    /// Calls that were made.
    pub(crate) calls: Vec<Call>,
    /// Statements that were run, in this order; others may lie between.
    pub(crate) steps: Vec<Text>,
    /// Statements that were not run.
    pub(crate) not_run: Vec<Text>,
    /// What events hold that were sent, in this order; others may lie between.
    pub(crate) events: Vec<Json>,
    /// How much time passed.
    pub(crate) elapsed: Option<Elapsed>,
}

/// A call that is expected.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// See [`Mock::statement`].
    pub(crate) statement: Option<Text>,
    /// See [`Mock::call`].
    pub(crate) call: Option<String>,
    /// See [`Mock::with`].
    pub(crate) with: Option<Json>,
    /// How often it was made; at least once if nothing is said.
    pub(crate) times: Option<u64>,
}

/// A bound on the time that passes, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elapsed {
    /// At least.
    pub(crate) least: u64,
    /// At most.
    pub(crate) most: u64,
}
