//! What people do to single tasks: cancel, retry, change.

use super::{MonoTimer, Partition, Stage};
use crate::command::{Command, Seen};
use crate::effect::{Effect, Refusal};
use crate::id::{Name, RequestId, TaskId, TenantId};
use crate::mutation::Mutation;
use crate::planted::Bug;
use crate::task::{Ending, Failure, Payload, Spec, State};
use crate::time::Now;
use std::sync::Arc;

/// What a patch may change.
pub(crate) type Changes = (Option<u8>, Option<u64>, Option<Vec<(Name, Name)>>);

impl Partition {
    /// Whether the task is in memory and the tenant's; otherwise the command waits for it, or is refused.
    pub(super) fn at_hand(&mut self, tenant: TenantId, task: TaskId, command: impl FnOnce() -> Command) -> bool {
        match self.tasks.get(&task) {
            Some(entry) if entry.task.tenant == tenant => true,
            Some(_) => {
                let command = command();
                if let Some(request) = super::request_of(&command) {
                    self.refuse(request, Refusal::NotFound);
                }
                false
            }
            None => {
                self.wait_for_task(tenant, task, command());
                false
            }
        }
    }

    /// Looks and acts in one step, so that nothing comes between.
    pub(super) fn act_if(
        &mut self,
        request: RequestId,
        tenant: TenantId,
        task: TaskId,
        seen: Vec<Seen>,
        then: Box<Command>,
        now: Now,
    ) {
        let again = || Command::If { request, tenant, task, seen: seen.clone(), then: then.clone() };
        if !self.at_hand(tenant, task, again) {
            return;
        }
        let now_is = &self.tasks[&task].task;
        let current = Seen { changed: now_is.changed, attempt: now_is.attempt, state: now_is.state };
        if !seen.contains(&current) && !self.options.planted.has(Bug::IgnoredVersion) {
            return self.refuse(request, Refusal::Version { current: current.changed });
        }
        self.execute(*then, Vec::new(), now, None);
    }

    pub(super) fn cancel(&mut self, request: RequestId, tenant: TenantId, task: TaskId, reason: Name, now: Now) {
        let again = || Command::Cancel { request, tenant, task, reason: reason.clone() };
        if !self.at_hand(tenant, task, again) {
            return;
        }
        match self.tasks[&task].task.state {
            State::Scheduled | State::Queued | State::Waiting => {
                let failure = Failure { retryable: false, ..Failure::ours("cancelled", &reason) };
                let ending = Ending { result: Payload::None, failure: Some(failure), artifacts: Vec::new() };
                let entry = self.entry(task);
                entry.task.ending = Some(Arc::new(ending));
                let due = entry.task.due;
                self.end(task, State::Cancelled, now);
                if self.options.planted.has(Bug::FireAfterCancel) {
                    self.entry(task).task.due = due;
                }
            }
            State::Running => {
                if !self.tasks[&task].task.cancelling {
                    self.entry(task).task.cancelling = true;
                    self.touch(task);
                }
                self.ask_to_stop(task, reason, now);
            }
            State::Cancelled => {}
            other => {
                let text = format!("the task has already ended: {}", other.as_str());
                return self.refuse(request, Refusal::Conflict(text.into()));
            }
        }
        self.reply_task(request, task);
    }

    /// Tells the worker, and counts the attempt as stopped when it does not answer. An attempt without a worker ends at
    /// once.
    pub(crate) fn ask_to_stop(&mut self, id: TaskId, reason: Name, now: Now) {
        let grace = self.options.cancel_grace_ms;
        let entry = self.entry(id);
        let token = entry.task.token;
        let session = entry.run.as_ref().and_then(|run| run.session);
        let Some(session) = session else {
            return self.lose(id, crate::mutation::AttemptOutcome::Cancelled, Failure::ours("cancelled", &reason), now);
        };
        self.tell(session, Effect::Cancel { session, task: id, token, reason });
        let timer = self.mono_wheel.insert(now.mono + grace, MonoTimer::Attempt(id, token, Stage::Cancel));
        if let Some(run) = self.entry(id).run.as_mut()
            && let Some(old) = run.timers[Stage::Cancel as usize].replace(timer)
        {
            self.mono_wheel.cancel(old);
        }
    }

    pub(super) fn retry(&mut self, request: RequestId, tenant: TenantId, task: TaskId, now: Now) {
        if !self.at_hand(tenant, task, || Command::Retry { request, tenant, task }) {
            return;
        }
        let entry = self.entry(task);
        let state = entry.task.state;
        if !matches!(state, State::Failed | State::Dead | State::Cancelled | State::Expired) {
            let text =
                format!("only a failed, dead, cancelled or expired task can be retried; it is {}", state.as_str());
            return self.refuse(request, Refusal::Conflict(text.into()));
        }
        entry.task.attempt_base = entry.task.attempt;
        entry.task.cancelling = false;
        self.run_again(task, 0, now);
        self.reply_task(request, task);
    }

    pub(super) fn patch(&mut self, request: RequestId, tenant: TenantId, task: TaskId, changes: Changes, now: Now) {
        let (priority, run_at, labels) = changes;
        let again = || Command::Patch { request, tenant, task, priority, run_at, labels: labels.clone() };
        if !self.at_hand(tenant, task, again) {
            return;
        }
        let (state, changed) = (self.tasks[&task].task.state, self.tasks[&task].task.changed);
        let waits = matches!(state, State::Scheduled | State::Queued);
        if priority.is_some() && state.is_terminal() {
            let text = format!("the priority of a task that has ended means nothing; it is {}", state.as_str());
            return self.refuse(request, Refusal::Conflict(text.into()));
        }
        if run_at.is_some() && !waits {
            let text = format!("the time can only be changed while a task waits; it is {}", state.as_str());
            return self.refuse(request, Refusal::Conflict(text.into()));
        }
        if priority.is_some_and(|p| p > 9) {
            return self.refuse(request, Refusal::Invalid("priority is 0 to 9".into()));
        }
        if let Some(labels) = labels {
            let entry = self.entry(task);
            let spec = Arc::new(Spec { labels, ..(*entry.task.spec).clone() });
            let before = std::mem::replace(&mut entry.task.spec, spec.clone());
            // A task that is not stored yet brings its spec along.
            if !entry.new {
                self.mutations.push(Mutation::PutSpec { tenant, task, spec, before });
            }
            self.touch(task);
        }
        if waits && (priority.is_some() || run_at.is_some()) {
            self.move_waiting(task, priority, run_at, now);
        } else if let Some(priority) = priority {
            // It runs: the priority is that of its next attempt, if there is one.
            self.entry(task).task.priority = priority;
            self.touch(task);
        }
        // Two changes within a millisecond are two versions.
        let entry = self.entry(task);
        entry.task.changed = now.wall.max(changed + 1);
        self.reply_task(request, task);
    }

    fn move_waiting(&mut self, id: TaskId, priority: Option<u8>, run_at: Option<u64>, now: Now) {
        // Out of its window first: where it stands there follows from its lane and priority.
        self.leave_window(id);
        let entry = self.entry(id);
        entry.task.lane = None;
        if let Some(priority) = priority {
            entry.task.priority = priority;
        }
        if let Some(run_at) = run_at {
            entry.task.run_at = run_at;
        }
        let later = entry.task.run_at > now.wall;
        let lane = self.lane_of(&self.tasks[&id].task);
        let entry = self.entry(id);
        let ordered = entry.task.spec.ordering_key.is_some();
        let (tenant, queue) = (entry.task.tenant, entry.task.queue);
        self.set_state(id, if later { State::Scheduled } else { State::Queued }, now);
        let due = super::submit::deadline(&self.tasks[&id].task, &self.queues[&queue].queue.config);
        let entry = self.entry(id);
        entry.task.due = due;
        entry.task.lane = if later && !ordered { None } else { lane };
        self.arm(tenant, id, due);
        self.enqueue(id);
    }
}
