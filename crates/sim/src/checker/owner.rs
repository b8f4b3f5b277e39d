//! S16: at most one owner commits in an epoch, and only the newest.

use std::collections::BTreeMap;

use tidewheel_engine::Batch;

#[derive(Debug)]
pub(super) struct Owner {
    parts: Vec<(u32, u64, BTreeMap<u32, u64>)>,
}

impl Owner {
    pub(super) fn new(partitions: usize) -> Owner {
        Owner { parts: vec![(0, 0, BTreeMap::new()); partitions] }
    }

    pub(super) fn opened(&mut self, partition: usize, epoch: u32) -> Option<String> {
        let newest = &mut self.parts[partition].0;
        let fell = epoch <= *newest;
        *newest = epoch.max(*newest);
        fell.then(|| format!("partition {partition} was opened at epoch {epoch} after epoch {newest}"))
    }

    pub(super) fn landed(&mut self, partition: usize, batch: &Batch) -> Option<String> {
        let (newest, wall, commits) = &mut self.parts[partition];
        *wall = batch.wall.max(*wall);
        *commits.entry(batch.epoch).or_default() += 1;
        let (epoch, newest) = (batch.epoch, *newest);
        (epoch != newest)
            .then(|| format!("epoch {epoch} of partition {partition} commits although epoch {newest} is open"))
    }

    /// Highest wall time committed.
    pub(super) fn wall(&self, partition: usize) -> u64 {
        self.parts[partition].1
    }
}
