use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{DurationText, Priority, Retry};

/// An item to put into a queue: work for whoever takes it. `POST /queues/{name}/items`. Every field may be absent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddItem {
    /// Any JSON value; what the item is about.
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
    /// An item that has not been taken by then expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<DurationText>,
    /// What happens after a system error or a lease that ran out; the queue's policy if absent.
    #[serde(default, deserialize_with = "super::object::optional", skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Ordering key: items of one queue with the same key are taken one after another, in accept order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Concurrency key: at most the key's limit are out at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Limit of the concurrency key; the queue's `key_concurrency` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    /// Searchable names and values; at most 8.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Ties related work together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The same key and body give the same item for 24 h (also as the `Idempotency-Key` header).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// `POST /queues/{name}/items:take`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeItems {
    /// How long an item is the caller's, from now and from each `:renew`; 1 s to 24 h, default 5 min. Then it is for the
    /// next one, and the attempt counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<DurationText>,
    /// Items at most, 1 to 100; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// How long to wait for the first one, at most the server's `server.maxWait`; default not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<DurationText>,
}

/// An item that is the caller's until its lease ends.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TakenItem {
    /// `task_...`: an item is a task of type `item`.
    pub id: String,
    /// Queue.
    pub queue: String,
    /// Proves that it is the caller's; `:done`, `:fail`, `:postpone` and `:renew` need it. Every later taking has another
    /// one, and this one is then refused.
    pub token: String,
    /// When the lease ends unless it is renewed (RFC 3339).
    pub leased_until: String,
    /// Length of the lease in milliseconds.
    pub lease_ms: u64,
    /// 1 for the first.
    pub attempt: u32,
    /// Attempts allowed.
    pub max_attempts: u32,
    /// 0-9, 9 first.
    pub priority: u8,
    /// When it was put into the queue.
    pub created_at: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    pub input: Option<Box<RawValue>>,
    /// Address of the input's blob, where it is too large to be held inline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_ref: Option<String>,
    /// Ordering key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Correlation id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// `POST /queues/{name}/items/{id}:done`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemDone {
    /// Of the taking.
    pub token: String,
    /// Any JSON value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    pub result: Option<Box<RawValue>>,
}

/// `POST /queues/{name}/items/{id}:fail`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemFailed {
    /// Of the taking.
    pub token: String,
    /// `system` (default): something was in the way, it is tried again by the retry policy. `business`: the item itself
    /// is wrong, it ends as failed at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Error type, for retry policies and filters; `SystemError` or `BusinessError` if absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// One line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// More, such as a traceback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// `POST /queues/{name}/items/{id}:postpone`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemPostponed {
    /// Of the taking.
    pub token: String,
    /// For so long from now; or `until`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<DurationText>,
    /// Until this time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// `POST /queues/{name}/items/{id}:renew`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemRenewed {
    /// Of the taking.
    pub token: String,
}

/// The lease of an item after it was renewed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ItemLease {
    /// Which item.
    pub id: String,
    /// When it ends unless it is renewed again (RFC 3339).
    pub leased_until: String,
    /// Its length in milliseconds.
    pub lease_ms: u64,
}

/// What became of one task of an operation: `GET /operations/{id}/items`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct OperationItem {
    /// `task_...`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// `run_...`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// `done`, `failed`, or `would_change` of a dry run.
    pub outcome: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
