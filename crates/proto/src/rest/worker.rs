use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A worker as it is shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// `work_...`
    pub id: String,
    /// Name it gave.
    pub name: String,
    /// `agent`, `executor` or `sdk`
    pub kind: String,
    /// `online`, `silent`, `draining`, `reconnecting` (its labels were changed, and it opens its stream anew), `lost`
    pub state: String,
    /// Software version.
    pub version: String,
    /// Queues served.
    pub queues: Vec<String>,
    /// Bounds that it declares on the tasks it is given; absent ones serve all.
    #[serde(default, skip_serializing_if = "Serves::is_open")]
    pub serves: Serves,
    /// Data that its owner says it holds (`--data`). Inputs in its cache, which the server also knows, are not listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<String>,
    /// Labels and discovered capabilities.
    pub labels: BTreeMap<String, String>,
    /// Attempts at once: what it offers, or less where an operator set less.
    pub permits: u32,
    /// Attempts at once that it offers itself; while it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_permits: Option<u32>,
    /// Attempts out.
    pub used: u32,
    /// Cores offered.
    pub cpu: f64,
    /// Bytes offered.
    pub memory_bytes: u64,
    /// 0..1 of the machine, as last reported.
    pub cpu_ratio: f64,
    /// As last reported.
    pub memory_used_bytes: u64,
    /// As last reported.
    pub disk_free_bytes: u64,
    /// Its clock minus ours, milliseconds.
    pub clock_offset_ms: i64,
    /// Packages it holds.
    pub packages: Vec<String>,
    /// Which walls are up.
    pub enforced: BTreeMap<String, String>,
    /// RFC 3339.
    pub last_seen: String,
}

/// Bounds on the tasks that a worker is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Serves {
    /// Of `low`, `medium` and `high`; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priority: Vec<String>,
    /// Of `short`, `medium` and `long`; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub duration: Vec<String>,
    /// Executor keys; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub executor: Vec<String>,
}

impl Serves {
    /// Whether nothing is bounded.
    pub fn is_open(&self) -> bool {
        *self == Serves::default()
    }
}

/// `PATCH /workers/{id}`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchWorker {
    /// New number of permits, at most what the worker offers; 0 gives it nothing new. It holds at once, for later offers
    /// of the worker, and when it comes back: what it runs at once is the smaller of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// Replaces the labels an operator gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}
