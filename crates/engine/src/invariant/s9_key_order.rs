//! S9: tasks of one ordering key run one after another in accept order.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Step, Violation};
use crate::id::{Name, QueueId, TaskId};
use crate::task::State;

#[derive(Default)]
pub(super) struct KeyOrder {
    /// Tasks of a key that have not ended, in accept order.
    live: BTreeMap<(QueueId, Name), BTreeMap<u64, TaskId>>,
    /// A retry by a person puts a task out of its order: it comes when it is its turn again.
    retried: BTreeSet<TaskId>,
}

impl Invariant for KeyOrder {
    fn id(&self) -> &'static str {
        "S9"
    }

    fn statement(&self) -> &'static str {
        "of the tasks of a queue with one ordering key, one is granted only when every one accepted before it has ended"
    }

    fn provenance(&self) -> &'static str {
        "decision G4: a retry keeps its place; a backoff must not let the next one pass"
    }

    fn commit(&mut self, step: &Step<'_>, found: &mut Vec<Violation>) {
        for change in &step.changes {
            let task = &change.after;
            let Some(key) = &task.spec.ordering_key else { continue };
            let live = self.live.entry((task.queue, key.clone())).or_default();
            if change.is_retry() {
                self.retried.insert(task.id);
            }
            if task.state.is_terminal() {
                live.remove(&task.seq);
            } else {
                live.insert(task.seq, task.id);
            }
        }
        for change in step.changes.iter().filter(|c| c.is_grant()) {
            let task = &change.after;
            let Some(key) = &task.spec.ordering_key else { continue };
            let live = &self.live[&(task.queue, key.clone())];
            let running = live.values().filter(|id| step.fold.tasks[*id].state == State::Running).count();
            if running > 1 {
                let text = format!("{running} tasks of ordering key {key} run at once");
                found.push(Violation { id: "S9", text });
            }
            let earlier = live.range(..task.seq).find(|(_, id)| !self.retried.contains(*id));
            if let Some((_, earlier)) = earlier
                && !self.retried.contains(&task.id)
            {
                let state = step.fold.tasks[earlier].state;
                let text =
                    format!("task {:x} of key {key} is granted before {:x}, which is {state:?}", task.id.0, earlier.0);
                found.push(Violation { id: "S9", text });
            }
        }
    }
}
