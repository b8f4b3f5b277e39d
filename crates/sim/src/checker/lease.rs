//! Leases of taken items: none is cut short by anything but its own time, and none is endless.

use std::collections::BTreeMap;

use tidewheel_engine::id::{TaskId, Token};
use tidewheel_engine::task::{State, Task};

use crate::plan::{MS, SECOND};

/// A lease may be so late in ending, once things are well.
const LATE: u64 = 10 * SECOND;

#[derive(Debug, Default)]
pub(crate) struct Lease {
    out: BTreeMap<(usize, TaskId, Token), Out>,
}

#[derive(Debug)]
struct Out {
    since: u64,
    length: u64,
    /// It has to be over by then.
    until: u64,
}

impl Lease {
    pub(super) fn changed(&mut self, partition: usize, before: Option<&Task>, task: &Task, now: u64) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(before) =
            before.filter(|b| b.lease_ms() > 0 && (task.state != State::Running || task.token != b.token))
            && let Some(out) = self.out.remove(&(partition, task.id, before.token))
        {
            let ending = task.ending.as_ref().filter(|_| before.ending != task.ending);
            let lost =
                ending.and_then(|e| e.failure.as_ref()).is_some_and(|f| matches!(&*f.kind, "lost" | "lease-expired"));
            // Half of it, since the commit of its beginning may have taken a while.
            if lost && now < out.since + out.length / 2 {
                let (had, length) = ((now - out.since) / MS, out.length / MS);
                found.push(format!("the lease of item {:x} of {length} ms ends after {had} ms", task.id.0));
            }
        }
        let length = task.lease_ms() * MS;
        if length > 0 {
            let out = Out { since: now, length, until: now + length };
            self.out.entry((partition, task.id, task.token)).or_insert(out);
        }
        found
    }

    /// Its taker gave a sign of life.
    pub(crate) fn renewed(&mut self, partition: usize, task: TaskId, token: Token, now: u64) {
        if let Some(out) = self.out.get_mut(&(partition, task, token)) {
            // What the node gets late counts from there.
            out.until = out.until.max(now + out.length + 5 * SECOND);
        }
    }

    /// What an owner that has been there since `opened` should have ended by now.
    pub(crate) fn look(&self, partition: usize, now: u64, opened: u64) -> Vec<String> {
        let mine = self.out.iter().filter(|((p, ..), _)| *p == partition);
        let late = mine.filter(|(_, out)| now > out.until.max(opened + out.length) + LATE);
        late.map(|((_, task, _), _)| format!("the lease of item {:x} does not end", task.0)).collect()
    }
}
