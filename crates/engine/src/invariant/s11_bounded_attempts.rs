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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::RetryPolicy;
    use crate::id::{QueueId, TenantId, Token, TypeId, WorkerId};
    use crate::invariant::Fold;
    use crate::mutation::{AttemptRecord, Batch, Mutation};
    use crate::task::{Spec, State, Task};

    /// A log with one task that gets three attempts.
    struct World {
        fold: Fold,
        check: BoundedAttempts,
        task: Task,
    }

    impl World {
        fn new() -> World {
            let retry = Some(RetryPolicy { max_attempts: 3, ..RetryPolicy::default() });
            let spec = Arc::new(Spec { retry, ..Spec::default() });
            let (queue, kind) = (QueueId(1), TypeId(1));
            let task = Task { queue, kind, priority: 5, seq: 1, ..Task::blank(TenantId(1), TaskId(1), spec) };
            let mut world = World { fold: Fold::default(), check: BoundedAttempts::default(), task };
            assert_eq!(world.commit(None), 0);
            world
        }

        /// The task as it is now, and how its last attempt ended; how often the bound is broken.
        fn commit(&mut self, ended: Option<AttemptOutcome>) -> usize {
            let record = |outcome| AttemptRecord {
                tenant: self.task.tenant,
                task: self.task.id,
                number: self.task.attempt,
                token: self.task.token,
                worker: WorkerId(1),
                granted: 0,
                ended: 0,
                outcome,
                failure: None,
            };
            let attempt = ended.map(|outcome| Mutation::PutAttempt(Box::new(record(outcome))));
            let task = Mutation::UpdateTask(Box::new(self.task.clone()));
            let mutations = attempt.into_iter().chain([task]).collect();
            let batch = Batch { partition: 0, epoch: 1, index: 1, wall: 1, seq: 1, mutations };
            let changes = self.fold.commit(&batch);
            let mut found = Vec::new();
            self.check.commit(&Step { batch: &batch, fold: &self.fold, changes }, &mut found);
            assert!(found.iter().all(|violation| violation.id == "S11"));
            found.len()
        }

        fn grant(&mut self) -> usize {
            self.task.state = State::Running;
            self.task.attempt += 1;
            self.task.token = Token { epoch: 1, grant: u64::from(self.task.attempt) };
            self.commit(None)
        }

        fn end(&mut self, state: State, how: AttemptOutcome) -> usize {
            self.task.state = state;
            self.commit(Some(how))
        }

        /// Three attempts, all lost, without the end of the last one.
        fn use_up(&mut self) {
            for attempt in 1..=3 {
                assert_eq!(self.grant(), 0);
                if attempt < 3 {
                    assert_eq!(self.end(State::Queued, AttemptOutcome::Lost), 0);
                }
            }
        }
    }

    #[test]
    fn one_attempt_more_than_the_policy_has_is_found_also_after_lost_ones() {
        let mut world = World::new();
        world.use_up();
        assert_eq!(world.end(State::Queued, AttemptOutcome::Lost), 0);
        assert_eq!(world.grant(), 1);
    }

    #[test]
    fn a_retry_by_a_person_starts_the_count_anew() {
        let mut world = World::new();
        world.use_up();
        assert_eq!(world.end(State::Dead, AttemptOutcome::Failed), 0);
        (world.task.state, world.task.attempt_base) = (State::Queued, 3);
        assert_eq!(world.commit(None), 0);
        world.use_up();
        assert_eq!(world.end(State::Queued, AttemptOutcome::Lost), 0);
        assert_eq!(world.grant(), 1, "and it has an end, too");
    }

    #[test]
    fn a_task_that_ended_and_was_retried_in_one_commit_is_known_by_the_rise_of_its_base() {
        let mut world = World::new();
        world.use_up();
        // Dead and queued again: no state in between is in the log.
        world.task.attempt_base = 3;
        assert_eq!(world.end(State::Queued, AttemptOutcome::Failed), 0);
        world.use_up();
    }

    #[test]
    fn a_base_that_rises_by_less_than_the_attempts_so_far_is_no_retry() {
        let mut world = World::new();
        world.use_up();
        world.task.attempt_base = 2;
        assert_eq!(world.end(State::Queued, AttemptOutcome::Lost), 0);
        assert_eq!(world.grant(), 1);
    }

    #[test]
    fn a_grant_that_came_back_unstarted_is_not_counted_and_counts_as_nothing_else() {
        let mut world = World::new();
        for _ in 0..5 {
            assert_eq!(world.grant(), 0);
            world.task.attempt_base += 1;
            assert_eq!(world.end(State::Queued, AttemptOutcome::Returned), 0);
        }
        world.use_up();
        assert_eq!(world.end(State::Queued, AttemptOutcome::Lost), 0);
        assert_eq!(world.grant(), 1);
        // One that came back between lost ones gives back itself alone.
        let mut world = World::new();
        assert_eq!(world.grant() + world.end(State::Queued, AttemptOutcome::Lost), 0);
        assert_eq!(world.grant(), 0);
        world.task.attempt_base = 1;
        assert_eq!(world.end(State::Queued, AttemptOutcome::Returned), 0);
        assert_eq!(world.grant() + world.end(State::Queued, AttemptOutcome::Lost) + world.grant(), 0);
        assert_eq!(world.end(State::Queued, AttemptOutcome::Lost), 0);
        assert_eq!(world.grant(), 1);
    }
}
