use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{DurationText, Retry, Timeouts};

/// Settings of a queue. Absent fields keep their value on `PATCH` and take their default on `PUT`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueSettings {
    /// Attempts of the queue that run at once; absent or 0 = no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Attempts per concurrency key; absent or 0 = no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_concurrency: Option<u32>,
    /// Grants per time: `100/s`, `30/m`, `5/h`; empty = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Grants that may come at once within the rate; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// `least_loaded` (default), `round_robin`, `weighted`, `consistent_hash`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Retry policy of tasks that bring none.
    #[serde(default, deserialize_with = "super::object::optional", skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Time limits of tasks that bring none.
    #[serde(default, deserialize_with = "super::object::optional", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeouts>,
    /// Time to live of tasks that bring none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<DurationText>,
    /// Tasks handed to a batch handler at once; absent or below 2 = no batching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// A smaller batch is handed over after so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_wait: Option<DurationText>,
    /// Tasks that may wait; a submit above is refused with 503. Absent or 0 = no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u64>,
    /// From so many waiting tasks on, new ones are taken at about the rate at which old ones end, and the others refused
    /// with 429. Absent or 0 = four fifths of `max_depth`, if that is at least 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_depth: Option<u64>,
    /// More tasks than this that could run are an alert: metrics, an event in the live stream, a line in the server's
    /// log. Default 1,000; 0 = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_depth: Option<u64>,
    /// Whether a task out of attempts goes to the dead-letter queue (default true) or ends as failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<bool>,
    /// Waiting so long raises a task by one priority class; default 30 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aging: Option<DurationText>,
    /// With policy `consistent_hash`: how long a task waits for the worker of its affinity key; default 5 s, 0 = not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_wait: Option<DurationText>,
}

/// A queue as it is shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    /// Unique in the tenant.
    pub name: String,
    /// `active`, `paused` or `draining` (takes no new tasks)
    pub state: String,
    /// Rises with each change; also the ETag.
    pub version: u64,
    /// Settings in force.
    pub settings: QueueSettings,
}

/// Live figures of a queue.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct QueueStats {
    /// Queue.
    pub name: String,
    /// `active`, `paused` or `draining`
    pub state: String,
    /// Waiting tasks that could run.
    pub depth: u64,
    /// Delayed and backing off.
    pub scheduled: u64,
    /// Granted.
    pub running: u64,
    /// In the dead-letter queue.
    pub dead: u64,
    /// Age of the oldest waiting task known, in seconds.
    pub oldest_wait_seconds: f64,
    /// Accepted per second, mean of the last minute.
    pub in_per_s: f64,
    /// Finished per second, mean of the last minute.
    pub out_per_s: f64,
    /// Workers that serve it.
    pub workers: u32,
    /// Permits that would keep the depth from growing: what an autoscaler reads.
    pub desired_permits: u64,
    /// How far it is from its bounds: `none`, `alert`, `throttled` (429 for a part of what comes) or `full` (503).
    #[serde(default)]
    pub pressure: String,
}

/// A queue reached another stage of overload: the event `pressure` of the live stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct QueuePressure {
    /// Queue.
    pub queue: String,
    /// Stage before: `none`, `alert`, `throttled` or `full`.
    pub from: String,
    /// Stage now.
    pub to: String,
    /// Tasks that wait, delayed ones included.
    pub waiting: u64,
    /// When (RFC 3339).
    pub at: String,
}

/// `POST /queues/{name}/dead:redrive`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redrive {
    /// Only those that this filter finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// Count only, change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}
