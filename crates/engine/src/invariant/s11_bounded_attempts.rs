//! S11: a task gets so many attempts and no more.

use std::collections::BTreeMap;

use super::{Invariant, Step, Violation};
use crate::id::TaskId;
use crate::limit;
use crate::mutation::AttemptOutcome;

#[derive(Default)]
pub(super) struct BoundedAttempts {
    /// Grants since the task was accepted or retried, less those that came back unstarted.
    grants: BTreeMap<TaskId, u32>,
}

impl Invariant for BoundedAttempts {
    fn id(&self) -> &'static str {
        "S11"
    }

    fn statement(&self) -> &'static str {
        "grants of a task are at most its policy's attempts, a lost or undelivered grant included; a person's retry starts \
         the count anew, a grant that came back unstarted is not counted"
    }

    fn provenance(&self) -> &'static str {
        "activepieces 15130, OasisPlatform PR 975: a job that kills its workers was redelivered for 17 hours, uncounted"
    }

    fn commit(&mut self, step: &Step<'_>, found: &mut Vec<Violation>) {
        for attempt in step.attempts().filter(|a| a.outcome == AttemptOutcome::Returned) {
            let grants = self.grants.entry(attempt.task).or_default();
            *grants = grants.saturating_sub(1);
        }
        for change in &step.changes {
            let task = &change.after;
            if change.is_retry() || change.was_retried_between() {
                self.grants.insert(task.id, 0);
            }
            if !change.is_grant() {
                continue;
            }
            let grants = self.grants.entry(task.id).or_default();
            *grants += 1;
            let policies = step.fold.queue_settings(task.queue).map(|q| q.config.retry.max_attempts).max().unwrap_or(1);
            let most = task.spec.retry.as_ref().map_or(policies, |own| own.max_attempts).clamp(1, limit::MAX_ATTEMPTS);
            if *grants > most {
                let text = format!("task {:x} is granted for the {grants}th time of {most}", task.id.0);
                found.push(Violation { id: "S11", text });
            }
        }
    }
}
