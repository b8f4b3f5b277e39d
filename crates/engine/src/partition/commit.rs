//! Commits: what goes into a batch, and what memory lets go of once the batch is durable.

use super::Partition;
use crate::effect::Effect;
use crate::id::{SessionId, TaskId};
use crate::limit;
use crate::mutation::{Batch, Mutation, RateKey};
use crate::planted::Bug;
use crate::task::{Payload, State};

impl Partition {
    /// Whether the open batch changes anything or has effects.
    pub fn has_output(&self) -> bool {
        !self.dirty.is_empty()
            || !self.mutations.is_empty()
            || !self.effects.is_empty()
            || !self.outbox.is_empty()
            || !self.touched_queues.is_empty()
            || !self.runs.changed.is_empty()
    }

    /// Whether the open batch changes anything that is stored.
    pub fn has_changes(&self) -> bool {
        let rows = !self.dirty.is_empty() || !self.mutations.is_empty() || !self.runs.changed.is_empty();
        rows || !self.touched_queues.is_empty()
    }

    /// Roughly how much is in the open batch.
    pub fn output_len(&self) -> usize {
        let runs = limit::TURN_WEIGHT * self.runs.changed.len() + self.runs.turns_weigh;
        self.dirty.len() + self.mutations.len() + self.effects.len() + runs
    }

    /// Closes the open batch. A batch without mutations needs no commit: its effects may leave when all batches before
    /// it are durable; its index is used again.
    pub fn finish_batch(&mut self) -> (Batch, Vec<Effect>) {
        for session in std::mem::take(&mut self.outbox) {
            self.post(session);
        }
        let mut mutations = std::mem::take(&mut self.mutations);
        mutations.reserve(self.dirty.len() + self.runs.changed.len());
        self.write_runs(&mut mutations);
        for id in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.tasks.get_mut(&id) else { continue };
            entry.dirty = false;
            let task = Box::new(entry.task.clone());
            mutations.push(if entry.new { Mutation::InsertTask(task) } else { Mutation::UpdateTask(task) });
            entry.new = false;
            self.settled.push_back((self.index, id));
        }
        self.finish_counters(&mut mutations);
        let batch = Batch {
            partition: self.options.partition,
            epoch: self.epoch,
            index: self.index,
            wall: self.wall,
            seq: self.seq,
            mutations,
        };
        if batch.mutations.is_empty() {
            // It changes nothing and is never committed: the read of due times need not wait for it.
            self.due.after = self.due.after.min(self.index - 1);
        } else {
            self.index += 1;
        }
        (batch, std::mem::take(&mut self.effects))
    }

    /// The grants of the open batch to a session become an effect.
    fn post(&mut self, session: SessionId) {
        let Some(s) = self.sessions.get_mut(&session) else { return };
        let grants = std::mem::take(&mut s.outbox);
        if !grants.is_empty() {
            self.effects.push(Effect::Grant { session, grants });
        }
    }

    /// Says something about an attempt to its session, after the grants that the open batch has for it: a worker that hears
    /// of an end before the beginning would begin what is over.
    pub(crate) fn tell(&mut self, session: SessionId, effect: Effect) {
        self.post(session);
        self.effects.push(effect);
    }

    fn finish_counters(&mut self, mutations: &mut Vec<Mutation>) {
        for id in std::mem::take(&mut self.touched_queues) {
            let Some(q) = self.queues.get_mut(&id) else { continue };
            if q.touched {
                q.touched = false;
                let deltas = std::mem::take(&mut q.deltas);
                if deltas.iter().any(|d| *d != 0) {
                    mutations.push(Mutation::AddCounts { queue: id, deltas });
                }
            }
            if q.rate_touched {
                q.rate_touched = false;
                mutations.push(Mutation::PutRate { key: RateKey::Queue(id), tat_us: q.tat_us });
            }
            self.tell_pressure(id);
        }
        for id in std::mem::take(&mut self.touched_tenants) {
            let Some(t) = self.tenants.get_mut(&id) else { continue };
            if t.rate_touched {
                t.rate_touched = false;
                mutations.push(Mutation::PutRate { key: RateKey::Tenant(id), tat_us: t.tat_us });
            }
        }
    }

    /// The batch with this index, and all before it, are durable.
    pub fn committed(&mut self, index: u64) {
        self.committed = self.committed.max(index);
        // A read that began before a commit may still bring the old row of a task that this commit ended. As long as
        // such a read is under way the record stays, and wins over what the read brings.
        let fence = self.purposes.values().map(|(_, begun)| *begun).min().unwrap_or(u64::MAX);
        let planted = self.options.planted.has(Bug::StaleWindow);
        while let Some((batch, id)) = self.settled.front().copied() {
            if batch > self.committed || (batch > fence && !planted) {
                break;
            }
            self.settled.pop_front();
            self.settle(id, batch);
        }
        self.settle_runs();
        while self.later.front().is_some_and(|(batch, _)| *batch <= self.committed) {
            let (_, read) = self.later.pop_front().expect("it was just there");
            self.read_later(read);
        }
        while let Some((batch, key)) = self.idempotency_settled.front().copied() {
            if batch > self.committed || batch > fence {
                break;
            }
            self.idempotency_settled.pop_front();
            self.idempotency.remove(&key);
        }
    }

    /// Decides whether a record that is safely stored stays in memory.
    fn settle(&mut self, id: TaskId, batch: u64) {
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        if entry.batch > batch || entry.dirty || entry.in_window {
            return;
        }
        match entry.task.state {
            State::Running => {
                // The worker has the input; a retry reads it again.
                if matches!(&entry.task.input, Payload::Inline(bytes) if bytes.len() > 512) {
                    entry.task.input = Payload::Cold;
                }
            }
            State::Scheduled if entry.warm => {}
            State::Scheduled if entry.task.due <= self.due.horizon && self.warm < self.options.warm_tasks => {
                entry.warm = true;
                self.warm += 1;
            }
            _ => self.forget(id),
        }
    }

    pub(crate) fn forget(&mut self, id: TaskId) {
        if let Some(entry) = self.tasks.remove(&id)
            && entry.warm
        {
            self.warm -= 1;
        }
    }
}
