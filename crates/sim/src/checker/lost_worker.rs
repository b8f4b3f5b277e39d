//! L5: an attempt that nobody has ends within a lease and a second; after a reload within one lease more.

use std::collections::BTreeMap;

use tidewheel_engine::id::{TaskId, Token};

#[derive(Debug, Default)]
pub(crate) struct LostWorker {
    /// Running attempts that no live worker has, and since when.
    unheld: BTreeMap<(usize, TaskId, Token), u64>,
}

impl LostWorker {
    /// The owner cannot do anything now: the time begins anew.
    pub(crate) fn interrupted(&mut self, partition: usize) {
        self.unheld.retain(|(p, ..), _| *p != partition);
    }

    /// A worker took it over, if only for less than the time between two looks.
    pub(crate) fn taken(&mut self, partition: usize, task: TaskId, token: Token) {
        self.unheld.remove(&(partition, task, token));
    }

    pub(super) fn look(
        &mut self,
        partition: usize,
        now: u64,
        opened: u64,
        allowed: u64,
        running: impl Iterator<Item = (TaskId, Token)>,
        held: impl Fn(TaskId, Token) -> bool,
    ) -> Vec<String> {
        let mut found = Vec::new();
        let mut unheld = BTreeMap::new();
        for (task, token) in running.filter(|(task, token)| !held(*task, *token)) {
            let at = (partition, task, token);
            let since = self.unheld.get(&at).copied().unwrap_or(now).max(opened);
            if now > since + allowed {
                let ms = (now - since) / 1_000;
                found
                    .push(format!("task {:x} has had no worker for {ms} ms and is still running for the node", task.0));
            }
            unheld.insert(at, since);
        }
        self.unheld.retain(|(p, ..), _| *p != partition);
        self.unheld.extend(unheld);
        found
    }
}
