//! S1 and S2: what was accepted is kept and ends; one idempotency key is one task.

use std::collections::{BTreeMap, BTreeSet};

use tidewheel_engine::Reply;
use tidewheel_engine::effect::{Refusal, Submitted};
use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_engine::invariant::Fold;
use tidewheel_engine::task::{Payload, Task};

use super::At;
use crate::world::Item;

#[derive(Debug, Default)]
pub(crate) struct Accept {
    stored: BTreeSet<At>,
    acknowledged: BTreeSet<At>,
    /// By key: the body and task that a client was told of.
    keys: BTreeMap<(usize, TenantId, [u8; 16]), (u64, TaskId)>,
    /// Item to task, from the log.
    markers: BTreeMap<u64, At>,
    unknown: BTreeSet<u64>,
}

/// The number a client put into its input.
pub(super) fn marker_of(task: &Task) -> Option<u64> {
    match &task.input {
        Payload::Inline(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

impl Accept {
    pub(super) fn stored(&mut self, partition: usize, task: &Task, new: bool) {
        if new {
            self.stored.insert((partition, task.id));
            if let Some(marker) = marker_of(task) {
                self.markers.insert(marker, (partition, task.id));
            }
        }
    }

    /// A client will never know: either outcome is right.
    pub(crate) fn unknown(&mut self, marker: u64) {
        self.unknown.insert(marker);
    }

    /// An answer leaves the node: what it accepts is stored by now.
    pub(super) fn replied(&self, partition: usize, reply: &Reply) -> Vec<String> {
        let Reply::Submitted(outcomes) = reply else { return Vec::new() };
        let accepted = outcomes.iter().filter_map(|o| match o {
            Submitted::New(id) | Submitted::Replayed(id) => Some(*id),
            Submitted::Refused(_) => None,
        });
        let missing = accepted.filter(|id| !self.stored.contains(&(partition, *id)));
        missing.map(|id| format!("task {:x} is acknowledged and not stored", id.0)).collect()
    }

    /// A client was told.
    pub(super) fn told(&mut self, item: &Item, outcome: &Submitted) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let key = item.submit.idempotency.map(|(hash, body)| ((item.partition, item.tenant, hash), body));
        match (outcome, key) {
            (Submitted::New(id) | Submitted::Replayed(id), key) => {
                self.acknowledged.insert((item.partition, *id));
                if matches!(outcome, Submitted::Replayed(_)) && key.is_none() {
                    found.push(("S2", format!("task {:x} is a replay of a submit without a key", id.0)));
                }
                let Some((key, body)) = key else { return found };
                let known = *self.keys.entry(key).or_insert((body, *id));
                if known.1 != *id {
                    found.push(("S2", format!("one key stands for task {:x} and for task {:x}", known.1.0, id.0)));
                }
                if known.0 != body {
                    found.push(("S2", format!("task {:x} is the answer to two different bodies of one key", id.0)));
                }
            }
            (Submitted::Refused(Refusal::IdempotencyMismatch { task }), key) => {
                let known = key.and_then(|(key, body)| self.keys.get(&key).map(|known| (*known, body)));
                if let Some(((body, id), asked)) = known
                    && (body == asked || id != *task)
                {
                    found.push(("S2", format!("key of task {:x} is refused as that of task {:x}", id.0, task.0)));
                }
                if key.is_none() {
                    found.push(("S2", format!("a submit without a key is refused for the key of task {:x}", task.0)));
                }
            }
            _ => {}
        }
        found
    }

    /// After everything: what was acknowledged is there and has ended.
    pub(super) fn end(&self, partition: usize, fold: &Fold) -> Vec<String> {
        let mut found = Vec::new();
        let mine = self.acknowledged.iter().filter(|(p, _)| *p == partition);
        for (_, id) in mine {
            match fold.tasks.get(id) {
                None => found.push(format!("task {:x} was acknowledged and is gone", id.0)),
                Some(task) if !task.state.is_terminal() => {
                    found.push(format!("task {:x} was acknowledged and never ends: {:?}", id.0, task.state));
                }
                Some(_) => {}
            }
        }
        found
    }
}
