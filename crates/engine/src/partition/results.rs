//! Results: how attempts end, and what follows. A result is looked at only under the current token of its task.

use std::sync::Arc;

use super::dispatch::max_attempts;
use super::{Partition, Stage};
use crate::config::{Backoff, RetryPolicy};
use crate::effect::Effect;
use crate::id::{Name, SessionId, TaskId, Token};
use crate::limit;
use crate::mutation::{AttemptOutcome, AttemptRecord, Mutation};
use crate::planted::Bug;
use crate::ready::mix;
use crate::task::{Artifact, Ending, Failure, Outcome, Payload, State, Task};
use crate::time::Now;

impl Partition {
    pub(super) fn results(&mut self, session: SessionId, results: Vec<(TaskId, Token, Outcome)>, now: Now) {
        let count = u32::try_from(results.len()).unwrap_or(u32::MAX);
        let mut refused = Vec::new();
        for (id, token, outcome) in results {
            if !self.is_current(id, token) {
                refused.push((id, token));
                continue;
            }
            self.finish(id, outcome, now);
        }
        self.effects.push(Effect::Accepted { session, count, refused });
    }

    /// Whether the token is that of the attempt that runs now.
    pub(crate) fn is_current(&self, id: TaskId, token: Token) -> bool {
        let Some(entry) = self.tasks.get(&id) else { return false };
        if self.options.planted.has(Bug::DoubleCompletion) && entry.task.state == State::Succeeded {
            return true;
        }
        let same = entry.task.token == token || self.options.planted.has(Bug::SkipTokenCheck);
        entry.task.state == State::Running && same
    }

    pub(super) fn finish(&mut self, id: TaskId, outcome: Outcome, now: Now) {
        if self.options.planted.has(Bug::DoubleCompletion) && self.tasks[&id].task.state == State::Succeeded {
            self.entry(id).task.changed = now.wall;
            return self.touch(id);
        }
        let cancelling = self.tasks[&id].task.cancelling;
        match outcome {
            Outcome::Ok { .. } if cancelling && self.options.planted.has(Bug::SuccessBecomesFailure) => {
                self.end_failed(
                    id,
                    AttemptOutcome::Cancelled,
                    Failure::ours("cancelled", "cancelled"),
                    Vec::new(),
                    now,
                );
            }
            Outcome::Ok { result, artifacts } => self.succeed(id, result, artifacts, now),
            Outcome::Failed { failure, artifacts, cancelled } => {
                let how = if cancelled || cancelling { AttemptOutcome::Cancelled } else { AttemptOutcome::Failed };
                self.end_failed(id, how, clip(failure), artifacts, now);
            }
        }
    }

    fn succeed(&mut self, id: TaskId, result: Payload, artifacts: Vec<Artifact>, now: Now) {
        self.detach(id);
        self.entry(id).task.ending = Some(Arc::new(Ending { result, failure: None, artifacts }));
        self.end(id, State::Succeeded, now);
    }

    /// The attempt is no longer anybody's: timers stopped, permits back.
    fn detach(&mut self, id: TaskId) {
        self.unbind(id);
        if let Some(run) = self.entry(id).run.take() {
            for timer in run.timers.into_iter().flatten() {
                self.mono_wheel.cancel(timer);
            }
        }
        if !self.options.planted.has(Bug::LostPermit) || self.tasks[&id].task.attempt.is_multiple_of(2) {
            self.release_permits(id);
        }
    }

    /// A task reaches a terminal state.
    pub(crate) fn end(&mut self, id: TaskId, state: State, now: Now) {
        self.leave_window(id);
        let entry = self.entry(id);
        entry.task.lane = None;
        entry.task.due = 0;
        entry.task.cancelling = false;
        let task = &entry.task;
        let (queue, ordered) = (task.queue, task.spec.ordering_key.is_some());
        let step = entry_has_step(&self.tasks[&id].task);
        self.set_state(id, state, now);
        if ordered {
            self.release_order(id, queue);
        }
        if step {
            self.step_ended(id, now);
        }
    }

    fn release_order(&mut self, id: TaskId, queue: crate::id::QueueId) {
        let Some(lane) = self.lane_of(&self.tasks[&id].task) else { return };
        let kept = self.options.planted.has(Bug::KeptOrder);
        if !kept && self.holders.get(&(queue, lane)).is_some_and(|(holder, _)| *holder == id) {
            self.holders.remove(&(queue, lane));
        }
        // Also when it held nothing: a cancelled head lets the next one go.
        self.fetch_lane(queue, lane);
    }

    /// An attempt ended without a result; the task may get another one.
    fn end_failed(&mut self, id: TaskId, how: AttemptOutcome, failure: Failure, artifacts: Vec<Artifact>, now: Now) {
        self.record_attempt(id, how, Some(failure.clone()), now);
        self.detach(id);
        let task = &self.tasks[&id].task;
        let config = &self.queues[&task.queue].queue.config;
        let next = after_failure(task, config, how, &failure, self.options.planted.has(Bug::OneAttemptMore));
        let policy = task.spec.retry.as_ref().unwrap_or(&config.retry);
        let wait = match how {
            AttemptOutcome::Failed | AttemptOutcome::TimedOut => {
                backoff_ms(policy, task.attempt - task.attempt_base, id)
            }
            AttemptOutcome::Lost | AttemptOutcome::Cancelled | AttemptOutcome::Returned => 0,
        };
        self.entry(id).task.ending =
            Some(Arc::new(Ending { result: Payload::None, failure: Some(failure), artifacts }));
        match next {
            State::Queued => self.run_again(id, wait, now),
            terminal => self.end(id, terminal, now),
        }
    }

    /// Waits `wait` milliseconds, then queues again.
    pub(crate) fn run_again(&mut self, id: TaskId, wait: u64, now: Now) {
        let lane = self.lane_of(&self.tasks[&id].task);
        let entry = self.entry(id);
        let ordered = entry.task.spec.ordering_key.is_some();
        entry.task.run_at = if wait == 0 { 0 } else { now.wall + wait };
        entry.task.due = entry.task.run_at;
        entry.task.lane = if wait == 0 || ordered { lane } else { None };
        let (tenant, due) = (entry.task.tenant, entry.task.due);
        self.set_state(id, if wait == 0 { State::Queued } else { State::Scheduled }, now);
        self.arm(tenant, id, due);
        self.enqueue(id);
    }

    /// The attempt ended without a report of its worker.
    pub(crate) fn lose(&mut self, id: TaskId, how: AttemptOutcome, failure: Failure, now: Now) {
        let how = if self.tasks[&id].task.cancelling { AttemptOutcome::Cancelled } else { how };
        self.end_failed(id, how, failure, Vec::new(), now);
    }

    pub(super) fn returned(&mut self, session: SessionId, attempts: &[(TaskId, Token)], now: Now) {
        for (id, token) in attempts {
            if !self.is_current(*id, *token) {
                continue;
            }
            if self.tasks[id].task.cancelling {
                self.lose(*id, AttemptOutcome::Cancelled, Failure::ours("cancelled", "cancelled before it began"), now);
                continue;
            }
            self.put_back(*id, 0, now);
            self.lose_patience(*id, session, now);
        }
    }

    /// The attempt ends unused, and the task waits so long for the next one.
    pub(super) fn put_back(&mut self, id: TaskId, wait_ms: u64, now: Now) {
        self.record_attempt(id, AttemptOutcome::Returned, None, now);
        self.detach(id);
        // It was counted as a grant, but it does not use up one of the task's attempts.
        self.entry(id).task.attempt_base += 1;
        self.run_again(id, wait_ms, now);
    }

    fn record_attempt(&mut self, id: TaskId, outcome: AttemptOutcome, failure: Option<Failure>, now: Now) {
        let task = &self.tasks[&id].task;
        self.mutations.push(Mutation::PutAttempt(Box::new(AttemptRecord {
            tenant: task.tenant,
            task: id,
            number: task.attempt,
            token: task.token,
            worker: task.worker,
            granted: task.granted,
            ended: now.wall,
            outcome,
            failure,
        })));
    }

    pub(super) fn started(&mut self, session: SessionId, attempts: &[(TaskId, Token)], now: Now) {
        let _ = session;
        for (id, token) in attempts {
            if !self.is_current(*id, *token) {
                continue;
            }
            let entry = self.entry(*id);
            let Some(run) = entry.run.as_mut().filter(|run| !run.started) else { continue };
            run.started = true;
            let start = run.timers[Stage::Start as usize].take();
            let counted = run.timers[Stage::Run as usize].is_some() || run.timers[Stage::Heartbeat as usize].is_some();
            // Stored with the next change of the task: a row for each start would cost as much as its grant.
            entry.task.started = now.wall;
            if let Some(timer) = start {
                self.mono_wheel.cancel(timer);
            }
            if !counted {
                let [limit, start, heartbeat, _] = self.attempt_timers(*id, true, now);
                if let Some(timer) = start {
                    self.mono_wheel.cancel(timer);
                }
                let Some(run) = self.entry(*id).run.as_mut() else { continue };
                run.timers[Stage::Run as usize] = limit;
                run.timers[Stage::Heartbeat as usize] = heartbeat;
            }
        }
    }

    pub(super) fn progress(&mut self, session: SessionId, id: TaskId, token: Token, progress: (f32, Name), now: Now) {
        let _ = session;
        if !self.is_current(id, token) {
            return;
        }
        let Some(run) = self.entry(id).run.as_mut() else { return };
        run.progress = Some(progress);
        self.renew(id, token, now);
    }
}

fn entry_has_step(task: &Task) -> bool {
    task.step.is_some()
}

/// Where a task goes after an attempt without a result. `Queued` stands for "another attempt".
fn after_failure(
    task: &Task,
    config: &crate::config::QueueConfig,
    how: AttemptOutcome,
    failure: &Failure,
    one_more: bool,
) -> State {
    if how == AttemptOutcome::Cancelled {
        return State::Cancelled;
    }
    let policy = task.spec.retry.as_ref().unwrap_or(&config.retry);
    let listed = |list: &[Name]| list.contains(&failure.kind);
    let ours = how != AttemptOutcome::Failed;
    let wanted = failure.retryable && !listed(&policy.not_on) && (ours || policy.on.is_empty() || listed(&policy.on));
    if !wanted {
        return State::Failed;
    }
    if task.attempt < max_attempts(task, config) + u32::from(one_more) {
        return State::Queued;
    }
    if config.dead_letter { State::Dead } else { State::Failed }
}

/// The wait before the next attempt: `failed` attempts of this round have ended. Jitter is added after the cap and is
/// drawn from a hash, so that the same log gives the same times.
pub(crate) fn backoff_ms(policy: &RetryPolicy, failed: u32, id: TaskId) -> u64 {
    let base = match policy.backoff {
        Backoff::Constant => policy.delay_ms as f64,
        Backoff::Exponential { factor } => {
            policy.delay_ms as f64 * factor.max(1.0).powi(failed.saturating_sub(1).min(64) as i32)
        }
    };
    let capped = base.min(policy.max_delay_ms as f64) as u64;
    let jitter = match policy.jitter_ms {
        0 => 0,
        most => mix((id.0 as u64) ^ u64::from(failed)) % (most + 1),
    };
    capped + jitter
}

/// Long error texts are cut: the whole is in the log.
fn clip(failure: Failure) -> Failure {
    let cut = |text: Name| -> Name {
        if text.len() <= limit::ERROR_BYTES {
            return text;
        }
        let mut end = limit::ERROR_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}\n... cut, the whole is in the log", &text[..end]).into()
    };
    Failure { kind: cut(failure.kind), message: cut(failure.message), detail: cut(failure.detail), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_up_to_its_cap_and_jitter_comes_after() {
        let policy = RetryPolicy { delay_ms: 100, max_delay_ms: 1_000, jitter_ms: 0, ..RetryPolicy::default() };
        let waits: Vec<u64> = (1..=6).map(|n| backoff_ms(&policy, n, TaskId(1))).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
        let jittered = RetryPolicy { jitter_ms: 50, ..policy };
        assert!((1_000..=1_050).contains(&backoff_ms(&jittered, 9, TaskId(7))));
        let constant = RetryPolicy { backoff: Backoff::Constant, jitter_ms: 0, ..jittered };
        assert_eq!(backoff_ms(&constant, 9, TaskId(7)), 100);
    }
}
