//! S21: what was refused was not taken.

use std::collections::BTreeSet;

use tidewheel_engine::task::Task;

use super::accept::marker_of;
use crate::world::Item;

#[derive(Debug, Default)]
pub(crate) struct Overload {
    refused: BTreeSet<u64>,
    /// Asked for more than once: a refusal of one does not speak for the others.
    again: BTreeSet<u64>,
    stored: BTreeSet<u64>,
    found: Vec<u64>,
}

impl Overload {
    /// A client was told no. An earlier try of the same item may have been taken all the same.
    pub(crate) fn refused(&mut self, item: &Item) {
        if item.tried || self.again.contains(&item.marker) {
            return;
        }
        self.refused.insert(item.marker);
        if self.stored.contains(&item.marker) {
            self.found.push(item.marker);
        }
    }

    /// A client asks for the same item another time.
    pub(crate) fn asked_again(&mut self, marker: u64) {
        self.again.insert(marker);
        self.refused.remove(&marker);
    }

    pub(super) fn stored(&mut self, task: &Task, new: bool) -> Vec<String> {
        if new && let Some(marker) = marker_of(task) {
            self.stored.insert(marker);
            if self.refused.contains(&marker) {
                self.found.push(marker);
            }
        }
        std::mem::take(&mut self.found).into_iter().map(|m| format!("item {m} was refused and is stored")).collect()
    }
}
