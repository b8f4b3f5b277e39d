//! S6: nothing happens before its time, and nothing that ended has a time.

use super::{Change, Invariant, Step, Violation};
use crate::config::Queue;
use crate::task::State;

pub(super) struct Timers;

impl Invariant for Timers {
    fn id(&self) -> &'static str {
        "S6"
    }

    fn statement(&self) -> &'static str {
        "a task is ready or granted only at or after its time; it expires, and waits too long, only at or after that time; \
         what has outlived its time to live is not started; what has ended has no timer"
    }

    fn provenance(&self) -> &'static str {
        "Nomad 2721, Dkron 998: early and repeated firings around clock changes and elections"
    }

    fn commit(&mut self, step: &Step<'_>, found: &mut Vec<Violation>) {
        let mut fail = |text: String| found.push(Violation { id: "S6", text });
        let wall = step.batch.wall;
        for change in &step.changes {
            let task = &change.after;
            let id = task.id.0;
            let settings: Vec<&Queue> = step.fold.queue_settings(task.queue).collect();
            if matches!(task.state, State::Queued | State::Running) && task.run_at > wall {
                fail(format!("task {id:x} is {:?} {} ms before its time", task.state, task.run_at - wall));
            }
            if task.state.is_terminal() && task.due != 0 {
                fail(format!("task {id:x} is {:?} and still has a timer", task.state));
            }
            let ttl = |q: &&Queue| if task.spec.ttl_ms > 0 { task.spec.ttl_ms } else { q.config.ttl_ms };
            let expired = |q: &&Queue| ttl(q) > 0 && task.created + ttl(q) <= task.granted;
            let fresh = change.is_grant() && task.attempt == 1 && task.ending.is_none();
            if fresh && !settings.is_empty() && settings.iter().all(expired) {
                fail(format!("task {id:x} starts although its time to live has run out"));
            }
            let early = |q: &&Queue| ttl(q) == 0 || task.created + ttl(q) > wall;
            if task.state == State::Expired && change.was() != Some(State::Expired) && settings.iter().all(early) {
                fail(format!("task {id:x} expires before its time to live has run out"));
            }
            if gave_up_early(change, &settings, wall) {
                fail(format!("task {id:x} gives up waiting before its queue timeout"));
            }
        }
    }
}

fn gave_up_early(change: &Change, settings: &[&Queue], wall: u64) -> bool {
    let task = &change.after;
    let ours = |f: &crate::task::Failure| &*f.kind == "queue-timeout";
    let gave_up = task.ending.as_ref().and_then(|e| e.failure.as_ref()).is_some_and(ours);
    if task.state != State::Failed || change.was().is_some_and(State::is_terminal) || !gave_up {
        return false;
    }
    let own = task.spec.timeouts.queue_ms;
    let early = |q: &&Queue| {
        let limit = if own > 0 { own } else { q.config.timeouts.queue_ms };
        limit == 0 || task.created.max(task.run_at) + limit > wall
    };
    settings.iter().all(early)
}
