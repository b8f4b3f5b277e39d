//! S3, the part that needs the workers: nobody sees a grant that is not in the committed log.

use std::collections::BTreeSet;

use tidewheel_engine::effect::Grant;
use tidewheel_engine::id::{TaskId, Token};
use tidewheel_engine::task::Task;

#[derive(Debug, Default)]
pub(super) struct Visible {
    committed: BTreeSet<(usize, TaskId, Token)>,
}

impl Visible {
    pub(super) fn committed(&mut self, partition: usize, task: &Task) {
        self.committed.insert((partition, task.id, task.token));
    }

    pub(super) fn sent(&self, partition: usize, grants: &[Grant]) -> Vec<String> {
        let early = grants.iter().filter(|g| !self.committed.contains(&(partition, g.task, g.token)));
        early.map(|g| format!("grant {:?} of task {:x} leaves before its commit", g.token, g.task.0)).collect()
    }

    pub(super) fn seen(&self, partition: usize, task: TaskId, token: Token) -> Option<String> {
        let known = self.committed.contains(&(partition, task, token));
        (!known).then(|| format!("a worker sees grant {token:?} of task {:x}, which the log does not have", task.0))
    }
}
