//! S12: the log is a log: whole, ordered, and its counters are those of its records.

use super::{Invariant, Step, Violation};
use crate::mutation::Mutation;

#[derive(Default)]
pub(super) struct Journal {
    index: u64,
    wall: u64,
    seq: u64,
}

impl Invariant for Journal {
    fn id(&self) -> &'static str {
        "S12"
    }

    fn statement(&self) -> &'static str {
        "commits are numbered 1, 2, 3 without gaps, their wall time and sequence never fall, an id is inserted once, and \
         counter rows add up to the records"
    }

    fn provenance(&self) -> &'static str {
        "NATS 2.12.1 under Jepsen: a log that lost its middle was served as if it were whole"
    }

    fn commit(&mut self, step: &Step<'_>, found: &mut Vec<Violation>) {
        let batch = step.batch;
        let mut fail = |text: String| found.push(Violation { id: "S12", text });
        if batch.index != self.index + 1 {
            fail(format!("commit {} follows commit {}", batch.index, self.index));
        }
        if batch.wall < self.wall {
            fail(format!("the wall time of commit {} falls by {} ms", batch.index, self.wall - batch.wall));
        }
        if batch.seq < self.seq {
            fail(format!("the sequence of commit {} falls from {} to {}", batch.index, self.seq, batch.seq));
        }
        (self.index, self.wall, self.seq) = (batch.index, batch.wall, batch.seq);
        for mutation in &batch.mutations {
            match mutation {
                Mutation::InsertTask(task) => {
                    let change = step.changes.iter().find(|c| c.after.id == task.id);
                    if change.is_some_and(|c| c.before.is_some()) {
                        fail(format!("id {:x} is given a second time", task.id.0));
                    }
                }
                Mutation::AddCounts { queue, .. } if step.fold.counts.get(queue) != step.fold.counters.get(queue) => {
                    let (records, counters) = (step.fold.counts.get(queue), step.fold.counters.get(queue));
                    fail(format!("queue {}: its records count {records:?}, its counters {counters:?}", queue.0));
                }
                _ => {}
            }
        }
        for change in &step.changes {
            if change.was() != Some(change.after.state)
                && step.fold.counts.get(&change.after.queue) != step.fold.counters.get(&change.after.queue)
            {
                fail(format!("commit {} moves task {:x} without its counters", batch.index, change.after.id.0));
            }
        }
    }
}
