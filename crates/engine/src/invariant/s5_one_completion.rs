//! S5: an attempt ends once, and what has ended stays as it is.

use std::collections::BTreeSet;

use super::{Change, Invariant, Step, Violation};
use crate::id::{TaskId, Token};
use crate::task::State;

#[derive(Default)]
pub(super) struct OneCompletion {
    ended: BTreeSet<(TaskId, Token)>,
}

impl Invariant for OneCompletion {
    fn id(&self) -> &'static str {
        "S5"
    }

    fn statement(&self) -> &'static str {
        "an attempt has one end; a task that ended runs again only by a person's retry; a success is final"
    }

    fn provenance(&self) -> &'static str {
        "Airflow 12396, 51969: failed as a zombie after it had succeeded, and purged twice; Windmill 9214"
    }

    fn commit(&mut self, step: &Step<'_>, found: &mut Vec<Violation>) {
        let mut fail = |text: String| found.push(Violation { id: "S5", text });
        for attempt in step.attempts() {
            if !self.ended.insert((attempt.task, attempt.token)) {
                fail(format!("attempt {:?} of task {:x} ends twice", attempt.token, attempt.task.0));
            }
        }
        for change in &step.changes {
            let task = &change.after;
            let succeeds = task.state == State::Succeeded && change.was() != Some(State::Succeeded);
            if succeeds && !self.ended.insert((task.id, task.token)) {
                fail(format!("attempt {:?} of task {:x} succeeds after it has ended", task.token, task.id.0));
            }
            if succeeds && change.was() != Some(State::Running) {
                fail(format!("task {:x} succeeds out of {:?}", task.id.0, change.was()));
            }
            if let Some(text) = reopened(change) {
                fail(text);
            }
        }
    }
}

fn reopened(change: &Change) -> Option<String> {
    let (before, after) = (change.before.as_ref()?, &change.after);
    if !before.state.is_terminal() {
        return None;
    }
    let id = after.id.0;
    if before.state == State::Succeeded && after.state != State::Succeeded {
        return Some(format!("task {id:x} leaves succeeded for {:?}", after.state));
    }
    if change.is_retry() {
        // A retry gives fresh attempts. It may be granted within the same commit.
        let granted = u32::from(after.state == State::Running);
        let fresh = after.attempt_base == after.attempt - granted.min(after.attempt);
        let waits = after.lane.is_some() || after.state != State::Queued;
        return (!fresh || !waits).then(|| format!("task {id:x} is {:?} again, but not by a retry", after.state));
    }
    // Any other end may be followed by a retry and the next end within one commit.
    (before.state == State::Succeeded && (after.changed != before.changed || after.ending != before.ending))
        .then(|| format!("task {id:x} is {:?} and ends a second time", before.state))
}
