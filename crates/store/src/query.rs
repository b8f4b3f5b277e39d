//! What the conditions of a [`TaskQuery`] mean, once for all backends. An index narrows what is looked at; whether a
//! task belongs in the answer is decided here, so that no backend can differ.

use tidewheel_engine::id::Name;
use tidewheel_engine::task::{Payload, State, Task};

use crate::TaskQuery;

/// Most tasks of one page.
pub const PAGE_LIMIT: usize = 1_000;
/// Labels of a task that can be searched for; further ones are kept and shown.
pub const INDEXED_LABELS: usize = 8;

impl TaskQuery {
    /// Whether a task meets all conditions but the cursor.
    pub fn matches(&self, task: &Task) -> bool {
        self.head_matches(task) && self.body_matches(task)
    }

    /// The conditions on numbers and state, which are cheap to read.
    pub fn head_matches(&self, task: &Task) -> bool {
        task.tenant == self.tenant
            && any(&self.states, &task.state)
            && !self.not_states.contains(&task.state)
            && any(&self.queues, &task.queue)
            && any(&self.kinds, &task.kind)
            && any(&self.workers, &task.worker)
            && self.priority.is_none_or(|(low, high)| (low..=high).contains(&task.priority))
            && self.attempts.is_none_or(|(low, high)| (low..=high).contains(&task.attempt))
            && self.created_from.is_none_or(|from| task.created >= from)
            && self.created_until.is_none_or(|until| task.created < until)
    }

    /// The conditions on spec and ending.
    pub fn body_matches(&self, task: &Task) -> bool {
        self.labels.iter().all(|(name, value)| has_label(task, name, value))
            && wanted(&self.correlation_id, &task.spec.correlation_id)
            && wanted(&self.workflow_id, &task.spec.workflow_id)
            && self.failure_matches(task)
    }

    fn failure_matches(&self, task: &Task) -> bool {
        if self.error_kind.is_none() && self.words.is_empty() {
            return true;
        }
        let Some(failure) = task.ending.as_ref().and_then(|ending| ending.failure.as_ref()) else {
            return false;
        };
        if self.error_kind.as_ref().is_some_and(|kind| **kind != *failure.kind) {
            return false;
        }
        let (kind, message) = (failure.kind.to_lowercase(), failure.message.to_lowercase());
        self.words.iter().map(|word| word.to_lowercase()).all(|word| kind.contains(&word) || message.contains(&word))
    }

    /// The page's size within its bounds.
    pub fn page_limit(&self) -> usize {
        self.limit.clamp(1, PAGE_LIMIT)
    }
}

fn any<T: PartialEq>(wanted: &[T], found: &T) -> bool {
    wanted.is_empty() || wanted.contains(found)
}

fn wanted(wanted: &Option<String>, found: &Option<Name>) -> bool {
    wanted.as_deref().is_none_or(|wanted| found.as_deref() == Some(wanted))
}

fn has_label(task: &Task, name: &str, value: &str) -> bool {
    task.spec.labels.iter().take(INDEXED_LABELS).any(|(n, v)| &**n == name && &**v == value)
}

/// Where a waiting task stands within its lane. An ordering key's promise is accept order, so priority is left out.
pub fn lane_order(task: &Task) -> u64 {
    if task.spec.ordering_key.is_some() { task.seq } else { task.order() }
}

/// The deadline that a store pages in by time, if the task has one. That of a running task is in memory while it runs.
pub fn stored_due(task: &Task) -> Option<u64> {
    let pending = matches!(task.state, State::Scheduled | State::Queued | State::Waiting);
    (pending && task.due > 0).then_some(task.due)
}

/// Takes the payload out, leaving the sign that there is one.
pub fn chill(payload: &mut Payload) {
    if *payload != Payload::None {
        *payload = Payload::Cold;
    }
}
