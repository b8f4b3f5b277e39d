//! S2: one idempotency key stands for one task.

use std::collections::BTreeMap;

use super::{Invariant, Step, Violation};
use crate::id::{RunId, TaskId, TenantId};
use crate::mutation::Mutation;

#[derive(Default)]
pub(super) struct IdempotentAccept {
    keys: BTreeMap<(TenantId, [u8; 16]), (TaskId, u64)>,
}

/// Whether it is the first that is stored of a run.
fn begins(mutation: &Mutation, run: RunId) -> bool {
    match mutation {
        Mutation::PutRun(record) => record.head.identity.run == run && record.head.turns <= 1,
        Mutation::AppendTurn { run: of, segment, .. } => *of == run && segment.turn == 1,
        _ => false,
    }
}

impl Invariant for IdempotentAccept {
    fn id(&self) -> &'static str {
        "S2"
    }

    fn statement(&self) -> &'static str {
        "within its life an idempotency key of a tenant is written once and names a task or run that the same commit inserts, \
         or a whole submit"
    }

    fn provenance(&self) -> &'static str {
        "Dkron 1210, 541: jobs doubled around an election; a retry after an unknown outcome is the ordinary case"
    }

    fn commit(&mut self, step: &Step<'_>, found: &mut Vec<Violation>) {
        for mutation in &step.batch.mutations {
            let Mutation::PutIdempotency { tenant, hash, task, expires, .. } = mutation else { continue };
            let inserted = step.changes.iter().any(|c| c.before.is_none() && c.after.id == *task);
            // A key for a whole submit names none of its tasks: each has a key of its own.
            let whole = *task == TaskId::default();
            if !whole && !inserted && !step.batch.mutations.iter().any(|mutation| begins(mutation, RunId(task.0))) {
                let text =
                    format!("commit {} gives a key to task {:x}, which it does not insert", step.batch.index, task.0);
                found.push(Violation { id: "S2", text });
            }
            if let Some((earlier, until)) = self.keys.insert((*tenant, *hash), (*task, *expires))
                && until > step.batch.wall
            {
                let text = format!("one key stands for task {:x} and for task {:x}", earlier.0, task.0);
                found.push(Violation { id: "S2", text });
            }
        }
    }
}
