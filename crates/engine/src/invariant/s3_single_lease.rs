//! S3: one attempt of a task at a time, and its token rises.

use std::collections::BTreeSet;

use super::{Invariant, Step, Violation};
use crate::id::Token;
use crate::task::State;

#[derive(Default)]
pub(super) struct SingleLease {
    tokens: BTreeSet<Token>,
}

impl Invariant for SingleLease {
    fn id(&self) -> &'static str {
        "S3"
    }

    fn statement(&self) -> &'static str {
        "a task is granted again only after its attempt has ended; each grant has a token of its own, above the last one's"
    }

    fn provenance(&self) -> &'static str {
        "Airflow 25843, 27657 and Celery 5935: two schedulers, or a timeout, gave one task to two workers"
    }

    fn commit(&mut self, step: &Step<'_>, found: &mut Vec<Violation>) {
        let mut fail = |text: String| found.push(Violation { id: "S3", text });
        for change in &step.changes {
            let task = &change.after;
            if let Some(before) = &change.before
                && before.state == State::Running
                && (task.state != State::Running || task.token != before.token)
                && task.state != State::Succeeded
                && !step.attempts().any(|a| a.task == task.id && a.token == before.token)
            {
                fail(format!("attempt {:?} of task {:x} went away without an end", before.token, task.id.0));
            }
            if !change.is_grant() {
                continue;
            }
            if task.token.epoch != step.batch.epoch {
                fail(format!(
                    "task {:x} is granted in epoch {} with token {:?}",
                    task.id.0, step.batch.epoch, task.token
                ));
            }
            if change.before.as_ref().is_some_and(|b| b.token >= task.token) {
                fail(format!("the token of task {:x} does not rise: {:?}", task.id.0, task.token));
            }
            if !self.tokens.insert(task.token) {
                fail(format!("token {:?} is given twice, the second time to task {:x}", task.token, task.id.0));
            }
        }
    }
}
