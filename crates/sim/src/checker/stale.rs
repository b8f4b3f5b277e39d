//! S4: a report under an old token changes nothing; and a success that a worker reported in time stays one.

use std::collections::{BTreeMap, BTreeSet};

use tidewheel_engine::id::{SessionId, TaskId, Token};
use tidewheel_engine::task::{Outcome, Payload, State, Task};

#[derive(Debug, Default)]
pub(crate) struct Stale {
    /// Every token ever granted.
    tokens: BTreeSet<(usize, TaskId, Token)>,
    /// Successes that workers reported.
    succeeded: BTreeMap<(usize, TaskId, Token), ()>,
    /// Old tokens that workers named when they came back.
    named: BTreeSet<(usize, SessionId, TaskId, Token)>,
}

impl Stale {
    /// A worker comes back and names what it has. `current` = the newest token of a task, as far as it is in memory.
    pub(crate) fn named(
        &mut self,
        partition: usize,
        session: SessionId,
        attempts: &[(TaskId, Token)],
        current: impl Fn(TaskId) -> Option<Token>,
    ) {
        let old = attempts.iter().filter(|(task, token)| current(*task).is_some_and(|newest| newest != *token));
        self.named.extend(old.map(|(task, token)| (partition, session, *task, *token)));
    }

    /// What it was told is its own.
    pub(crate) fn resumed(&self, partition: usize, session: SessionId, attempts: &[(TaskId, Token)]) -> Vec<String> {
        let stale = attempts.iter().filter(|at| self.named.contains(&(partition, session, at.0, at.1)));
        stale.map(|(task, _)| format!("an old attempt of task {:x} is resumed", task.0)).collect()
    }

    /// A worker reports.
    pub(crate) fn reported(&mut self, partition: usize, results: &[(TaskId, Token, Outcome)]) {
        for (task, token, outcome) in results {
            if matches!(outcome, Outcome::Ok { .. }) {
                self.succeeded.insert((partition, *task, *token), ());
            }
        }
    }

    pub(super) fn changed(&mut self, partition: usize, before: Option<&Task>, task: &Task) -> Vec<String> {
        let mut found = Vec::new();
        let was = before.map(|task| task.state);
        if task.state == State::Running {
            self.tokens.insert((partition, task.id, task.token));
        }
        let current = format!("\"{}-{}\"", task.token.epoch, task.token.grant);
        // An attempt that came back unstarted leaves the ending of the one before.
        let new = before.is_none_or(|before| before.ending != task.ending);
        let ending = task.ending.as_deref().filter(|_| new);
        if task.state == State::Succeeded
            && was != Some(State::Succeeded)
            && let Some(Payload::Inline(result)) = ending.map(|e| &e.result)
            && **result != *current.as_bytes()
            && !result.starts_with(format!("{{\"by\":{current},").as_bytes())
        {
            let result = String::from_utf8_lossy(result);
            found.push(format!(
                "task {:x} ends with the result of attempt {result}, the current one is {current}",
                task.id.0
            ));
        }
        if let Some(failure) = ending.and_then(|e| e.failure.as_ref())
            && was == Some(State::Running)
            && task.state != State::Running
            && failure.message.starts_with('"')
            && *failure.message != *current
        {
            found.push(format!(
                "task {:x} fails by attempt {}, the current one is {current}",
                task.id.0, failure.message
            ));
        }
        if was == Some(State::Running)
            && task.state == State::Cancelled
            && self.succeeded.contains_key(&(partition, task.id, task.token))
            && ending.and_then(|e| e.failure.as_ref()).is_some_and(|f| &*f.message == "cancelled")
        {
            found.push(format!("the success of task {:x} was turned into a failure", task.id.0));
        }
        found
    }

    /// Tokens of tasks, the newest tasks first.
    pub(crate) fn old_tokens(&self, partition: usize, most: usize) -> Vec<(TaskId, Token)> {
        let mine = self.tokens.iter().rev().filter(|(p, ..)| *p == partition);
        mine.take(most).map(|(_, task, token)| (*task, *token)).collect()
    }
}
