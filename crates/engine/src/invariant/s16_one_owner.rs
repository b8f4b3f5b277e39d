//! S16: one owner at a time.

use super::{Invariant, Step, Violation};

#[derive(Default)]
pub(super) struct OneOwner {
    epoch: u32,
}

impl Invariant for OneOwner {
    fn id(&self) -> &'static str {
        "S16"
    }

    fn statement(&self) -> &'static str {
        "the epochs of a partition's commits never fall: after the first commit of a new owner none of an old one follows"
    }

    fn provenance(&self) -> &'static str {
        "Temporal's range id; Martin Kleppmann, \"How to do distributed locking\" (2016): a lease without a fence is a wish"
    }

    fn commit(&mut self, step: &Step<'_>, found: &mut Vec<Violation>) {
        if step.batch.epoch < self.epoch {
            let text = format!(
                "commit {} of epoch {} follows one of epoch {}",
                step.batch.index, step.batch.epoch, self.epoch
            );
            found.push(Violation { id: "S16", text });
        }
        self.epoch = self.epoch.max(step.batch.epoch);
    }
}
