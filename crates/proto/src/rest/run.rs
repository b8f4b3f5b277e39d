use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// What starts a run. On `/runs` the workflow is named in it, on `/workflows/{ns}/{name}/runs` by the path.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRun {
    /// `namespace/name`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// A version, or `latest` (the default): the highest that is no candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Any JSON value; `{}` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub input: Option<Value>,
    /// Ties related work together; runs that this one starts have it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// A run of a workflow.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// `run_...`
    pub id: String,
    /// Namespace of its workflow.
    pub namespace: String,
    /// Name of its workflow.
    pub workflow: String,
    /// Version of its workflow that it follows: that of its start until it is moved to another one.
    pub version: String,
    /// `pending, running, waiting, suspended, cancelled, faulted, completed`
    pub phase: String,
    /// Why it is in that phase, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The run that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Ties related work together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Turns so far; in lists those that it had when it was last written whole.
    pub turns: u64,
    /// Entries of its journal so far; in single reads only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// `sha256:...` of the document that it follows.
    pub hash: String,
    /// Search attributes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub attributes: BTreeMap<String, Value>,
    /// Raw input; in single reads only. A large one is `{"$ref": "sha256:...", "size": bytes}`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub input: Option<Value>,
    /// What it gave, once it has completed; in single reads only. In the form of `input`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub output: Option<Value>,
    /// The error that ended it: `type`, `status`, `title`, `detail`, `instance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub error: Option<Value>,
    /// What its program says of itself (`wf.status`), after its end what it said last, in its newest 128 turns; in single reads
    /// only. In the form of `input`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub status: Option<Value>,
    /// What it waits for; in single reads only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<RunWait>,
}

/// Something that a run waits for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunWait {
    /// `task, run, items, time, event, retry, timeout, attempt_timeout`
    #[serde(rename = "for")]
    pub what: String,
    /// Number of its entry in the journal.
    pub entry: u64,
    /// JSON pointer to the statement in the document.
    pub statement: String,
    /// Since when (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When it is over by itself (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The task, for `task`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The run, for `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

/// An entry of the journal of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct JournalEntry {
    /// Number, from 1; never used twice.
    pub entry: u64,
    /// The key that a reset or fork goes back to.
    pub key: String,
    /// `run, do, set, switch, for, fork, try, raise, function, task, child, sleep, event, emit, map, ...`
    pub kind: String,
    /// JSON pointer to the statement in the document.
    pub statement: String,
    /// `open, done, skipped, failed, cancelled, superseded` (a reset went back before it), or `ended` (its end lies too far
    /// on to be read for a list)
    pub status: String,
    /// The entry that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<u64>,
    /// RFC 3339.
    pub opened_at: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at: Option<String>,
    /// When it is due, for waits (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
    /// Retries of a `try`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// What it was given, where that is not the output of another entry; a large value is `{"$ref", "size"}`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub input: Option<Value>,
    /// What it gave; a large value is `{"$ref", "size"}`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub output: Option<Value>,
    /// Why it failed, or why it was tried again last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub error: Option<Value>,
    /// Its task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The run that it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The turn that opened it.
    pub turn: u64,
}

/// The document of a run as nodes and edges, with what the run made of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RunGraph {
    /// Of the run.
    pub id: String,
    /// Of the run.
    pub phase: String,
    /// `namespace/name:version`
    pub workflow: String,
    /// Start, end and the statements. Those that the run came to have a `status` (that of their newest entry in the journal) and a
    /// number of `entries`.
    #[schema(value_type = Vec<Object>)]
    pub nodes: Vec<Value>,
    /// Ways between them.
    #[schema(value_type = Vec<Object>)]
    pub edges: Vec<Value>,
    /// Entries of the journal after the first 20,000 are not counted.
    pub more: bool,
}

/// A run and those that it started.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RunTree {
    /// The run.
    pub run: Run,
    /// Those that it started, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub children: Vec<RunTree>,
    /// There are more, which are not shown: `GET /runs?parent=`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// Body of an action on a run that takes a reason.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunActionBody {
    /// Shown with the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of `:move`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveRun {
    /// The version that the run is to follow: `1.2.0`, `latest`, `previous` (the one before its last move), or the hash of a document
    /// (`sha256:...`).
    pub to: String,
    /// A workflow in Python: move it only if its history fits the new code, which an agent replays first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
}

/// Body of `:reset`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetRun {
    /// Key of the journal entry to go back to, as `/runs/{id}/journal` shows it.
    pub key: String,
    /// Replaces the input of that statement.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub input: Option<Value>,
    /// `false`: what sagas and programs did after that entry stays. Otherwise it is undone before the run goes on.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub undo: bool,
}

fn yes() -> bool {
    true
}

fn is_yes(undo: &bool) -> bool {
    *undo
}

/// Body of `:fork`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GoBack {
    /// Key of the journal entry to go back to, as `/runs/{id}/journal` shows it.
    pub key: String,
    /// Replaces the input of that statement.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub input: Option<Value>,
}

/// Body of a signal.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRun {
    /// Any JSON value: the data of the event that the run sees.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub data: Option<Value>,
    /// De-duplicates: a run takes one signal of an id. A fresh one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Body of the completion of a promise. An empty one completes it with `null`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompletePromise {
    /// Any JSON value: what the workflow gets.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub value: Option<Value>,
    /// The same as `value`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub data: Option<Value>,
    /// An error in place of a value, at most 16 KiB: a text, or an object with `type`, `title`, `detail` and `status` (RFC 9457). The
    /// workflow sees it as `TaskFailed`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub error: Option<Value>,
    /// By name alone: de-duplicates, as the id of a signal does. A fresh one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// A field that was given, `null` too.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A change of a run, as its stream of events tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunChange {
    /// The run.
    pub id: String,
    /// Its phase.
    pub phase: String,
    /// Turns so far.
    pub turn: u64,
    /// When (RFC 3339).
    pub at: String,
}
