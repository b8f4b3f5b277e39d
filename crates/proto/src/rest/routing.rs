use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Priority;

/// The routing rules of a tenant, in order: the first one that matches a task decides.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// At most 256.
    pub rules: Vec<RoutingRule>,
    /// Rises with each change, also the ETag; not read on `PUT`.
    #[serde(default)]
    pub version: u64,
}

/// A routing rule. A condition that is absent holds for every task; all that are given have to hold. At least one of
/// `queue` and `executor` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoutingRule {
    /// Unique; shown with each task that the rule routed.
    pub name: String,
    /// Task type; `*` stands for any characters, `?` for one.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub task_type: Option<String>,
    /// Priority classes: `low` (0-3), `medium` (4-6), `high` (7-9).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priority: Vec<String>,
    /// Who does the work: `automated`, `manual` or `integration`; today every task is automated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The `workflow_id` of the task; `*` and `?` as in `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// Labels that the task has to have; values with `*` and `?` as in `type`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Queue for tasks whose submitter names none. It has to exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Executor key: only workers that serve it, or that bound nothing, are given the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<String>,
}

/// `POST /routing:test`: a task as far as routing looks at it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteTest {
    /// Task type.
    #[serde(rename = "type")]
    pub task_type: String,
    /// The priority it would be submitted with; that of its type if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The queue its submitter would name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Its workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Where a task would go.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// Queue.
    pub queue: String,
    /// Executor key; `automated` unless a rule says otherwise.
    pub executor: String,
    /// The rule that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// `low`, `medium` or `high`
    pub priority_class: String,
}

/// The event `task.queued` of the live streams: a task was accepted and routed. One for each task.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskQueued {
    /// Executor key.
    pub executor_key: String,
    /// Queue.
    pub queue_name: String,
    /// Task id.
    pub task_instance_id: String,
}
