//! What is seen of runs: counts, reasons, times, differences.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{JournalEntry, WhyReason};

/// How many runs there are.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RunCounts {
    /// Phase to count; each is exact up to 100,000.
    pub counts: BTreeMap<String, u64>,
    /// Phases that have at least so many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at_least: Vec<String>,
    /// The commit they hold for.
    pub as_of: u64,
}

/// Why a run does not go on, computed when it is asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RunWhy {
    /// `run_...`
    pub id: String,
    /// Its phase.
    pub phase: String,
    /// One sentence.
    pub summary: String,
    /// Everything that it waits for, at most 100.
    pub reasons: Vec<RunReason>,
    /// There are more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// Something that a run waits for.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RunReason {
    /// Stable code: `task`, `run`, `items`, `time`, `event`, `retry`, `undo`, `undo_retry`, `timeout` and `attempt_timeout` (limits
    /// that end it), `suspended`, `ended`, `at_work`.
    pub code: String,
    /// The sentence shown to people.
    pub text: String,
    /// Number of its entry in the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// The key of that entry, for a reset or fork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// JSON pointer to the statement in the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
    /// The task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Since when (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When it is over by itself (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Why the task is not running.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<WhyReason>,
}

/// What a run did when.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RunTimeline {
    /// `run_...`
    pub id: String,
    /// When it began (RFC 3339); spans count from here.
    pub started_at: String,
    /// When it ended (RFC 3339); absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Milliseconds from its beginning to its end, or until now.
    pub duration_ms: u64,
    /// In the order in which they were begun.
    pub items: Vec<RunSpan>,
    /// Give it back as `?cursor=` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The time that an entry of the journal took.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RunSpan {
    /// Number of the entry.
    pub entry: u64,
    /// The entry that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<u64>,
    /// Its key.
    pub key: String,
    /// As in the journal.
    pub kind: String,
    /// JSON pointer to the statement in the document.
    pub statement: String,
    /// As in the journal.
    pub status: String,
    /// Milliseconds from the beginning of the run.
    pub from_ms: u64,
    /// Milliseconds that it took; absent while it is open, or where its end is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// Retries of a `try`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Its task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The run that it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

/// Two runs side by side.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RunComparison {
    /// Both did the same, with the same values.
    pub same: bool,
    /// One sentence.
    pub summary: String,
    /// The first run.
    pub a: ComparedRun,
    /// The second run.
    pub b: ComparedRun,
    /// The first entry that differs, whole, as each of them has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<EntryDifference>,
    /// Every entry of both in order, at most 1,000, with how long each took.
    pub entries: Vec<ComparedEntry>,
    /// One of the journals is longer than the 5,000 entries that are compared, or than the 1,000 that are shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// One of two runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ComparedRun {
    /// `run_...`
    pub id: String,
    /// `namespace/name:version`
    pub workflow: String,
    /// `sha256:...` of the document.
    pub hash: String,
    /// Its phase.
    pub phase: String,
    /// Milliseconds from its beginning to its end, or until now.
    pub duration_ms: u64,
    /// Raw input.
    #[schema(value_type = Value)]
    pub input: Value,
    /// What it gave, or the error that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    pub outcome: Option<Value>,
}

/// An entry that two runs have differently.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct EntryDifference {
    /// Its key.
    pub key: String,
    /// What differs: `missing`, `status`, `input`, `output`, `error`.
    pub what: String,
    /// As the first run has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a: Option<JournalEntry>,
    /// As the second run has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b: Option<JournalEntry>,
}

/// An entry of two runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ComparedEntry {
    /// Its key.
    pub key: String,
    /// What differs, as in `first`; absent where nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs: Option<String>,
    /// Status in the first run; absent = it has no such entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a_status: Option<String>,
    /// Status in the second run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b_status: Option<String>,
    /// Milliseconds it took in the first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a_ms: Option<u64>,
    /// Milliseconds it took in the second run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b_ms: Option<u64>,
}

/// What two versions of a workflow have differently.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct WorkflowDiff {
    /// `namespace/name:version`
    pub from: String,
    /// `namespace/name:version`
    pub to: String,
    /// They do the same: nothing but their versions differs.
    pub same: bool,
    /// In the order of the documents, at most 1,000.
    pub changes: Vec<WorkflowChange>,
    /// There are more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// A place at which two versions differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkflowChange {
    /// `added`, `removed`, `changed`, or `moved` (a statement that stands elsewhere in its list)
    pub change: String,
    /// Where: names of fields and statements, each behind a `/`. Statements of a list are told by their names, not by their places.
    pub path: String,
    /// What was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    pub from: Option<Value>,
    /// What is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    pub to: Option<Value>,
}
