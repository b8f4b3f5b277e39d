use std::collections::BTreeMap;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

/// A duration: a text such as `500ms`, `1h30m`, `PT5M`, or a number of milliseconds.
#[derive(Clone, Debug, Serialize, ToSchema, PartialEq)]
#[serde(untagged)]
pub enum DurationText {
    /// Milliseconds.
    Millis(u64),
    /// `500ms`, `10s`, `1h30m`, `2d` or ISO 8601.
    Text(String),
}

/// A priority: 0 to 9 (9 first), or `low` (2), `medium` (5), `high` (8).
#[derive(Clone, Debug, Serialize, ToSchema, PartialEq)]
#[serde(untagged)]
pub enum Priority {
    /// 0 to 9.
    Level(u8),
    /// `low`, `medium` or `high`.
    Name(String),
}

// Read by hand: what serde derives for an untagged enum forgets where in the body it was and what would be right.

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a duration: a text such as 500ms, 10s or 1h30m, or a whole number of milliseconds";
        deserializer.deserialize_any(NumberOrText { expecting, most: u64::MAX }).map(|read| match read {
            Either::Number(ms) => DurationText::Millis(ms),
            Either::Text(text) => DurationText::Text(text),
        })
    }
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = NumberOrText { expecting: "a priority: 0 to 9, or low, medium or high", most: 9 };
        deserializer.deserialize_any(visitor).map(|read| match read {
            // At most 9.
            Either::Number(level) => Priority::Level(level as u8),
            Either::Text(text) => Priority::Name(text),
        })
    }
}

enum Either {
    Number(u64),
    Text(String),
}

struct NumberOrText {
    expecting: &'static str,
    most: u64,
}

impl Visitor<'_> for NumberOrText {
    type Value = Either;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Either, E> {
        if number > self.most {
            return Err(E::invalid_value(de::Unexpected::Unsigned(number), &self));
        }
        Ok(Either::Number(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Either, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Either, E> {
        Ok(Either::Text(text.to_owned()))
    }
}

/// What a submitter sends. Only `type` is required.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitTask {
    /// Name of the task type, 1 to 200 characters.
    #[serde(rename = "type")]
    pub kind: String,
    /// Queue. Absent: where the routing rules send the task, else its type's queue, else `default`. It has to exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Any JSON value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    pub input: Option<Box<RawValue>>,
    /// Who goes first: 0-9, 9 first, or low, medium, high. Default 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Not before this time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<String>,
    /// Not before so long from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<DurationText>,
    /// A task that has not started by then expires and never starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<DurationText>,
    /// Time limits of the task's stages.
    #[serde(default, deserialize_with = "super::object::optional", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeouts>,
    /// What happens after a failed attempt; the queue's policy if absent.
    #[serde(default, deserialize_with = "super::object::optional", skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Ordering key: tasks of one queue with the same key run one after another, in accept order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Concurrency key: at most the key's limit run at once; keys of one queue share it fairly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Limit of the concurrency key; the queue's `key_concurrency` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    /// Tasks with the same key go to the same worker, and wait for it for a while (queues with policy `consistent_hash`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_key: Option<String>,
    /// Labels a worker has to have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requires: BTreeMap<String, serde_json::Value>,
    /// What the task needs of a worker; its class is chosen by type if absent.
    #[serde(default, deserialize_with = "super::object::optional", skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// May be handed over together with others of its type, where the queue batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batchable: Option<bool>,
    /// Searchable names and values; at most 8.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Ties related work together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The workflow run this belongs to, as the submitter names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// How long it is expected to run: below 1 min it is short, above 10 min long. Workers may serve one or the other. Absent:
    /// as long as its own run timeout, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_duration: Option<DurationText>,
    /// Names of data that it works on, at most 8: a worker that holds some of it goes before its equals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<String>,
    /// `name` or `name@version` of the package to run; found by the task type if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// The same key and body give the same task for 24 h (also as the `Idempotency-Key` header).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// Time limits. Absent ones are the queue's.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// From accept to the first grant; then the task fails with `queue-timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<DurationText>,
    /// From grant to the worker's `started`; then the attempt is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<DurationText>,
    /// From grant to the result; then the attempt fails with `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<DurationText>,
    /// Between two signs of life of the task itself (`progress`); then the attempt fails with `heartbeat-timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<DurationText>,
}

/// Retry policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Grants in all, the first included; 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Wait before the second attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<DurationText>,
    /// `constant` or `exponential` (default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<String>,
    /// Growth per attempt of the exponential form, 1 to 100; default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// The delay never grows beyond this; default 1 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<DurationText>,
    /// Up to so much is added to each delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<DurationText>,
    /// Error types that are retried; empty = all that the worker calls retryable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
    /// Error types that are never retried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_on: Vec<String>,
}

/// Needs or capacity.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// `cpu-intensive`, `memory-intensive`, `io-intensive` or `default`; explicit figures override it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// `512MB`, `4Gi`, or bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = memory)]
    pub memory: Option<serde_json::Value>,
    /// `high`: its reads and writes go before those of others; `normal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<String>,
}

/// Bytes as a number or as a text.
fn memory() -> Schema {
    let kinds = SchemaType::from_iter([Type::Integer, Type::String]);
    let description = "`512MB`, `4Gi`, or bytes.";
    Schema::Object(ObjectBuilder::new().schema_type(kinds).description(Some(description)).build())
}

/// A task as it is shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// `task_...`
    pub id: String,
    /// `scheduled, queued, running, waiting, succeeded, failed, dead, cancelled, expired`
    pub state: String,
    /// Task type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Executor key: `automated`, or what a routing rule gave it
    #[serde(default)]
    pub executor: String,
    /// The routing rule that matched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Queue.
    pub queue: String,
    /// 0-9, 9 first.
    pub priority: u8,
    /// Grants so far.
    pub attempt: u32,
    /// Grants allowed.
    pub max_attempts: u32,
    /// When it was accepted (RFC 3339, UTC, milliseconds).
    pub created_at: String,
    /// When the state last changed.
    pub updated_at: String,
    /// Not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<String>,
    /// When the current or last attempt was given to its worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_at: Option<String>,
    /// When its handler began; a worker may hold an attempt in its buffer for a while. Absent before, and after a crash of
    /// the server while it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it reached its terminal state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Worker of the current or last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Ordering key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Concurrency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Correlation id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Workflow the submitter named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// `run_...` of which it is a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// `sha256:...` of the package's archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// `name@version` of the package; in single reads only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_version: Option<String>,
    /// It expires when it has not started so long after it was accepted; in single reads only, as everything that was
    /// asked for on submit and follows here. What is absent is the queue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<DurationText>,
    /// Time limits of its stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeouts>,
    /// What happens after a failed attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Tasks with the same key prefer the same worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_key: Option<String>,
    /// Limit of the concurrency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    /// Labels a worker has to have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requires: BTreeMap<String, String>,
    /// How long it is expected to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_duration: Option<DurationText>,
    /// Data that it works on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<String>,
    /// What it needs of a worker; its memory is bytes. Class `default` when nothing was asked for: that is what one permit
    /// of a worker stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// It may be handed over together with others of its type, where the queue batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batchable: Option<bool>,
    /// The key that finds this task again for 24 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The last attempt's error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// How the result is held: `inline`, or `sha256:...` of a blob. The value is at `/tasks/{id}/result`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_ref: Option<String>,
    /// Address of the input's blob, where it is too large to be held inline; in single reads only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_ref: Option<String>,
    /// The input; in single reads only, never in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    pub input: Option<Box<RawValue>>,
    /// The result; in single reads and waits only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    pub result: Option<Box<RawValue>>,
    /// A cancel was asked for and the worker has not ended the attempt yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelling: bool,
    /// What a running task last reported; in single reads only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// True when an earlier task was found by its idempotency key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
}

/// How far a running task is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema, PartialEq)]
pub struct Progress {
    /// 0 to 1.
    pub fraction: f32,
    /// What it is doing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// Why an attempt ended without a result.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema, PartialEq)]
pub struct TaskError {
    /// Exception class, or one of our own: `lost`, `timeout`, `start-timeout`, `heartbeat-timeout`, `queue-timeout`, `cancelled`.
    #[serde(rename = "type")]
    pub kind: String,
    /// One line.
    pub message: String,
    /// Traceback or further lines.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Whether the worker allowed a retry.
    pub retryable: bool,
}

/// One attempt of a task.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// Who ran it.
    pub worker: String,
    /// `running, succeeded, failed, lost, timed_out, cancelled, returned`
    pub outcome: String,
    /// When it was granted.
    pub granted_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
}

/// `POST /tasks:batch`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitBatch {
    /// Up to 1,000 tasks.
    pub tasks: Vec<SubmitTask>,
}

/// Answer to a batch: one item each, in order.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SubmitBatchAnswer {
    /// One outcome per task sent.
    pub items: Vec<SubmitItemAnswer>,
    /// How many were stored.
    pub accepted: u32,
    /// How many were refused.
    pub refused: u32,
}

/// Outcome of one task of a batch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SubmitItemAnswer {
    /// HTTP status the single call would have had.
    pub status: u16,
    /// The task's id when stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Found by its idempotency key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<super::Problem>,
}

/// Why a task is not running (yet), computed when asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// One sentence.
    pub summary: String,
    /// Every reason that holds now.
    pub reasons: Vec<WhyReason>,
    /// Since when the task has been in its present state: so long it has waited, run, or been over (RFC 3339).
    #[serde(default)]
    pub since: String,
}

/// One reason.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct WhyReason {
    /// Stable code, such as `queue-paused`, `no-worker`, `queue-limit`, `key-limit`, `tenant-limit`, `rate-limit`,
    /// `ordering`, `affinity`, `not-due`, `no-permit`, `missing-capability`, `behind`.
    pub code: String,
    /// The sentence shown to people.
    pub text: String,
    /// Since when it has held, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When it ends by itself, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Counts by state.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TaskCounts {
    /// State to count.
    pub counts: BTreeMap<String, u64>,
    /// `eq`: exact as of `as_of`.
    pub relation: String,
    /// The commit they hold for.
    pub as_of: u64,
}

/// Body of an action that takes a reason.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionBody {
    /// Shown in the task's error and in the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// New priority (`:reprioritise`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

/// `PATCH /tasks/{id}`; absent fields stay.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchTask {
    /// New priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// New earliest time; only while scheduled or queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<String>,
    /// Replaces all labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// One line of a task's log.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Task id.
    pub task: String,
    /// Attempt number.
    pub attempt: u32,
    /// Line number within the attempt.
    pub offset: u64,
    /// RFC 3339.
    pub at: String,
    /// `stdout`, `stderr` or `log`
    pub stream: String,
    /// `debug`, `info`, `warning`, `error`
    pub level: String,
    /// The line.
    pub text: String,
    /// Its row in the log: `after` takes it, to go on behind this line.
    #[serde(default)]
    pub row: u64,
    /// In the log of a run: JSON pointer to the statement in its document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
}

/// A file a task left.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    /// `art_...`: `GET /artifacts/{id}` gives its content for as long as the task and this attempt's files are kept.
    #[serde(default)]
    pub id: String,
    /// Name within the task.
    pub name: String,
    /// `sha256:...`; content at `/blobs/{hash}`.
    pub hash: String,
    /// Bytes.
    pub size: u64,
    /// Media type.
    pub content_type: String,
    /// Attempt that made it.
    pub attempt: u32,
}

/// A background operation over many tasks or runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// `op_...`
    pub id: String,
    /// What it acts on: `tasks`, `runs`, or `packages` (a prefetch or rollout)
    #[serde(default)]
    pub resource: String,
    /// `cancel`, `retry`, `redrive`, `reprioritise`; of runs `terminate`, `suspend`, `resume`, `move`, `accept` too; `prefetch`,
    /// `rollout`
    pub action: String,
    /// The version that runs are to follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `running`, `done`, `cancelled`; `failed`: a rollout that did not reach enough agents or whose version was taken out
    /// of use meanwhile, and changed nothing
    pub state: String,
    /// Why it failed as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What it was started with.
    #[serde(default)]
    pub filter: String,
    /// Looked at so far.
    pub seen: u64,
    /// Changed so far.
    pub done: u64,
    /// Could not be changed.
    pub failed: u64,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339; when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// The first few that could not be changed, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<OperationFailure>,
    /// It only counts: nothing is changed, and `done` stays 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// With `dry_run`: those so far that the action would change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_change: Option<u64>,
    /// Of a prefetch or rollout: `name@version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Of a prefetch or rollout: each agent and how far it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<OperationAgent>,
}

/// What became of a prefetch or rollout on one agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct OperationAgent {
    /// Its name.
    pub agent: String,
    /// `waiting`, `done`, `failed`, `offline` (gone meanwhile), `late` (not done in time)
    pub state: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Milliseconds from the start of the operation until it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
}

/// A task or run that an operation could not change.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct OperationFailure {
    /// Task id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Run id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Why.
    pub detail: String,
}

/// `POST /tasks:cancel`, `POST /tasks:retry`: an operation over all tasks that a filter finds.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// Which ones, in the filter grammar; an empty one is refused.
    pub filter: String,
    /// Shown in each task's error, or with each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// New priority (`reprioritise`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The version that the runs are to follow (`move`): `1.2.0`, `latest`, `previous`, or the hash of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Move a workflow in Python only if its history fits the new code (`move`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
    /// Count only, change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Change at most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
}

/// `POST /bulk`: one action over all tasks, or all runs, that a filter finds.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Bulk {
    /// `tasks` (the default) or `runs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Of tasks: `cancel`, `retry`, `redrive` (dead tasks) or `reprioritise`; of runs: `cancel`, `terminate`, `suspend`,
    /// `resume`, `retry`, `reprioritise` (the tasks that they wait for), `move` (to another version) or `accept`.
    pub action: String,
    /// Which ones, in the filter grammar; an empty one is refused.
    pub filter: String,
    /// Shown in each task's error, or with each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// New priority (`reprioritise`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The version that runs are to follow (`move`): `1.2.0`, `latest`, `previous`, or the hash of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Move a workflow in Python only if its history fits the new code (`move`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
    /// Count only, change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Change at most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
}

/// A task type that a package serves.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TaskType {
    /// Task type.
    pub name: String,
    /// Package that serves it.
    pub package: String,
    /// Its version.
    pub version: String,
    /// `sha256:...` of its archive.
    pub hash: String,
    /// `module:function`
    pub entrypoint: String,
    /// First paragraph of the docstring.
    #[serde(default)]
    pub doc: String,
    /// JSON Schema of the input.
    #[serde(default)]
    #[schema(value_type = Value)]
    pub schema_in: serde_json::Value,
    /// What the decorator says: queue, retry, timeout, priority, resources, requires, batch.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub defaults: serde_json::Value,
}

/// A change of a task, as the live streams send it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TaskChange {
    /// Task id.
    pub id: String,
    /// Its new state.
    pub state: String,
    /// Task type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Queue.
    pub queue: String,
    /// Grants so far.
    pub attempt: u32,
    /// RFC 3339.
    pub at: String,
}
