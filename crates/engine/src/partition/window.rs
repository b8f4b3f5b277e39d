//! Windows: which waiting tasks are in memory. Everything here keeps one promise: a task that waits in the store's ready
//! index is either in a window, or its lane says `spilled`, or its line says `unloaded`, and each of these is followed by
//! a read as soon as there is room and somebody to run the task.

use super::{LaterRead, Partition, Purpose};
use crate::id::{QueueId, TaskId};
use crate::limit;
use crate::load::Load;
use crate::planted::Bug;
use crate::ready::{Lane, Parked, Ready, class_of_lane};
use crate::task::{Payload, State, Task};

impl Partition {
    /// A task waits in its queue: into its lane's window, or left to the store.
    pub(crate) fn enqueue(&mut self, id: TaskId) {
        let entry = self.entry(id);
        let Some(lane_id) = entry.task.lane else { return };
        if entry.in_window {
            let queue = entry.task.queue;
            return self.offer_lane(queue, lane_id);
        }
        let cold = entry.task.input == Payload::Cold;
        let queue = entry.task.queue;
        let ready = ready_of(&entry.task);
        let (kind, priority, spec) = (entry.task.kind, entry.task.priority, entry.task.spec.clone());
        let class = class_of_lane(lane_id);
        let requirement = self.requirement_of(kind, priority, &spec);
        let index = self.index;
        let cap = self.options.line_lanes;
        let q = self.queues.get_mut(&queue).expect("a waiting task's queue exists");
        let line = &mut q.lines[class];
        if !q.lanes.contains_key(&lane_id) {
            if line.places() >= cap {
                line.unloaded = true;
                line.scan_clean = false;
                line.spill_batch = index;
                return self.left_to_store(queue, lane_id, requirement);
            }
            line.lanes += 1;
            // Where other lanes are in the store, this one may be there too, with tasks that go before this one.
            let unverified = line.unloaded;
            let spill_batch = line.spill_batch;
            let lane = Lane { spilled: unverified, unverified, ..Lane::new(requirement, &spec, spill_batch) };
            q.lanes.insert(lane_id, lane);
        }
        let lane = q.lanes.get_mut(&lane_id).expect("it was just made");
        if cold {
            lane.spilled = true;
            lane.from = lane.from.min(ready.order);
            lane.spill_batch = index;
            self.later.push_back((index, LaterRead::Lane(queue, lane_id)));
            return;
        }
        self.insert_into_window(queue, lane_id, ready);
        let lane = self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id)).expect("it was just there");
        if lane.ordered || lane.window.front().is_some_and(|head| head.id == id) {
            // It was parked for another head; or this task is the one that its head waits for, and no longer runs.
            self.forget_parking(queue, lane_id);
        }
        self.offer_lane(queue, lane_id);
    }

    /// Tasks a lane may hold in memory now: plenty while there is room, a few rows when there is none.
    pub(super) fn window_cap(&self) -> usize {
        let (held, budget) = (self.tasks.len(), self.options.window_tasks);
        match held {
            n if n < budget => self.options.lane_window.max(self.options.lane_window_most),
            n if n < budget * 2 => self.options.lane_window,
            _ => self.options.lane_window.min(limit::LANE_WINDOW_LEAST),
        }
    }

    /// Inserts in order; what does not fit is left to the store.
    fn insert_into_window(&mut self, queue: QueueId, lane_id: i64, ready: Ready) {
        let index = self.index;
        let cap = self.window_cap();
        let lane = self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id)).expect("the caller made it");
        let beyond = lane.spilled && !lane.unverified && ready.order >= lane.from;
        let full = lane.window.len() >= cap && lane.window.back().is_some_and(|last| ready.order > last.order);
        if beyond || full {
            if self.options.planted.has(Bug::ForgottenSpill) {
                return;
            }
            if !lane.spilled {
                lane.spilled = true;
                lane.from = ready.order;
            }
            lane.from = lane.from.min(ready.order);
            lane.spill_batch = index;
            return;
        }
        let at = lane.window.partition_point(|r| r.order < ready.order);
        lane.window.insert(at, ready);
        let pushed_out = if lane.window.len() > cap { lane.window.pop_back() } else { None };
        if let Some(out) = pushed_out {
            lane.from = if lane.spilled { lane.from.min(out.order) } else { out.order };
            lane.spilled = true;
            lane.spill_batch = index;
        }
        self.entry(ready.id).in_window = true;
        if let Some(out) = pushed_out {
            self.let_go(lane_id, out.id);
        }
    }

    /// A task that ends or moves is taken out of its window, so that windows name only what waits in their lane.
    pub(crate) fn leave_window(&mut self, id: TaskId) {
        let entry = self.entry(id);
        if !std::mem::replace(&mut entry.in_window, false) {
            return;
        }
        let (queue, lane, order) = (entry.task.queue, entry.task.lane, order(&entry.task));
        let lane = lane.and_then(|lane| self.queues.get_mut(&queue)?.lanes.get_mut(&lane));
        if let Some(lane) = lane {
            let at = lane.window.partition_point(|r| r.order < order);
            if lane.window.get(at).is_some_and(|r| r.id == id) {
                lane.window.remove(at);
            }
        }
    }

    /// A task leaves its lane's window for the store; its record may leave memory once it is settled.
    pub(super) fn let_go(&mut self, lane_id: i64, id: TaskId) {
        if let Some(entry) = self.tasks.get_mut(&id)
            && entry.task.lane == Some(lane_id)
        {
            entry.in_window = false;
            let batch = entry.batch;
            if !entry.dirty {
                self.settled.push_back((batch, id));
            }
        }
    }

    /// A lane that has something and is not parked takes part in its line's turns.
    pub(crate) fn offer_lane(&mut self, queue: QueueId, lane_id: i64) {
        let Some(q) = self.queues.get_mut(&queue) else { return };
        let Some(lane) = q.lanes.get_mut(&lane_id) else { return };
        match lane.parked {
            // A higher task may have come before the one it was parked for, or the batch is full now.
            Some(Parked::Batch(_) | Parked::Due) => lane.parked = None,
            Some(Parked::Key | Parked::Order | Parked::Worker) => return,
            None => {}
        }
        if lane.in_ring {
            if lane.ordered {
                // Another head may need another worker than the one it waited for.
                self.wake_queue(queue);
            }
            return;
        }
        if lane.loading && (lane.unverified || lane.window.is_empty()) {
            return;
        }
        if lane.window.is_empty() {
            // What it was parked for has ended or moved.
            return self.drain_lane(queue, lane_id);
        }
        lane.in_ring = true;
        q.lines[class_of_lane(lane_id)].ring.push_back(lane_id);
        self.wake_queue(queue);
    }

    pub(crate) fn unpark(&mut self, queue: QueueId, lane_id: i64) {
        self.forget_parking(queue, lane_id);
        self.offer_lane(queue, lane_id);
    }

    /// What a lane was parked for no longer matters; it is yet to be offered.
    fn forget_parking(&mut self, queue: QueueId, lane_id: i64) {
        self.stop_waiting(queue, lane_id);
        if let Some(lane) = self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id)) {
            lane.parked = None;
        }
    }

    /// Takes a lane out of its line's turns.
    pub(crate) fn leave_ring(&mut self, queue: QueueId, lane_id: i64, parked: Option<Parked>) {
        self.stop_waiting(queue, lane_id);
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let Some(lane) = q.lanes.get_mut(&lane_id) else { return };
        lane.in_ring = false;
        lane.parked = parked;
        let line = &mut q.lines[class_of_lane(lane_id)];
        if line.ring.front() == Some(&lane_id) {
            line.ring.pop_front();
        } else {
            line.ring.retain(|l| *l != lane_id);
        }
        match parked {
            Some(Parked::Key) => {
                line.parked.push_back(lane_id);
                if let Some(key) = lane.key.clone() {
                    let key = q.keys.entry(key).or_default();
                    if !key.waiting.contains(&lane_id) {
                        key.waiting.push(lane_id);
                    }
                }
            }
            Some(Parked::Order | Parked::Due) => line.parked.push_back(lane_id),
            // What waits for a worker is not left to the store, which knows nothing of its patience.
            Some(Parked::Batch(_) | Parked::Worker) | None => {}
        }
        let line = &mut q.lines[class_of_lane(lane_id)];
        if line.parked.len() > 2 * line.lanes + 8 {
            // A lane is named again each time it parks: the old names go.
            let mut seen = std::collections::BTreeSet::new();
            line.parked.retain(|l| q.lanes.get(l).is_some_and(|lane| lane.parked.is_some()) && seen.insert(*l));
        }
    }

    /// After a grant: the next lane's turn, and a look at whether the window runs low.
    pub(crate) fn after_grant(&mut self, queue: QueueId, lane_id: i64) {
        // Early enough that the read is back before the window is empty, however fast it drains.
        let low = self.window_cap() / 4;
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        q.aside.rounds = 0;
        let Some(lane) = q.lanes.get_mut(&lane_id) else { return };
        let (left, spilled) = (lane.window.len(), lane.spilled);
        if left == 0 {
            self.drain_lane(queue, lane_id);
            return;
        }
        let line = &mut q.lines[class_of_lane(lane_id)];
        if line.ring.len() > 1 && line.ring.front() == Some(&lane_id) {
            line.ring.rotate_left(1);
        }
        if spilled && left <= low {
            self.read_lane(queue, lane_id);
        }
    }

    /// A lane without tasks in memory: read on, or forget it.
    pub(crate) fn drain_lane(&mut self, queue: QueueId, lane_id: i64) {
        self.leave_ring(queue, lane_id, None);
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let Some(lane) = q.lanes.get(&lane_id) else { return };
        if lane.spilled || lane.loading {
            self.read_lane(queue, lane_id);
            return;
        }
        q.lanes.remove(&lane_id);
        let line = &mut q.lines[class_of_lane(lane_id)];
        line.lanes -= 1;
        if line.unloaded && (!line.scan_idle || !q.aside.called.is_empty()) {
            // There is room for one that was left to the store.
            self.wake_queue(queue);
        }
    }

    pub(crate) fn read_lane(&mut self, queue: QueueId, lane_id: i64) {
        let cap = self.window_cap().min(limit::LANE_READ);
        let Some(lane) = self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id)) else { return };
        if lane.loading || !lane.spilled {
            return;
        }
        lane.loading = true;
        // What is held already comes again where the window reaches beyond `from`: it must not fill the answer.
        let held = lane.window.iter().filter(|r| r.order >= lane.from).count();
        lane.asked = cap + held;
        lane.asked_from = lane.from;
        let load = Load::Lane { queue, lane: lane_id, from: lane.from, limit: lane.asked };
        self.ask(load, Purpose::Lane(queue, lane_id));
    }

    /// Reads once a batch is committed: at once, if it is.
    pub(super) fn read_after(&mut self, batch: u64, read: LaterRead) {
        if batch <= self.committed {
            self.read_later(read);
        } else {
            self.later.push_back((batch, read));
        }
    }

    pub(super) fn read_later(&mut self, read: LaterRead) {
        match read {
            LaterRead::Lane(queue, lane) => self.read_lane(queue, lane),
            LaterRead::Class(queue, class) => {
                if let Some(q) = self.queues.get_mut(&queue) {
                    q.lines[class].rescan();
                    self.wake_queue(queue);
                }
            }
            LaterRead::History(tenant, run, ticket) => {
                self.ask(Load::History(tenant, run), Purpose::History(run, ticket));
            }
        }
    }

    pub(super) fn lane_loaded(&mut self, queue: QueueId, lane_id: i64, rows: Vec<Task>, as_of: u64) {
        let Some(lane) = self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id)) else { return };
        lane.loading = false;
        let seen_all = rows.len() < lane.asked;
        let next = rows.last().map_or(lane.from, |row| order(row) + 1);
        let blind = as_of < lane.spill_batch;
        let spill_batch = lane.spill_batch;
        if !blind {
            // Tasks may have been left to the store before the place where this read began, while it was under way.
            let lowered = lane.from < lane.asked_from;
            lane.spilled = !seen_all || lowered;
            if !lowered {
                lane.from = if seen_all { 0 } else { next };
            }
            lane.unverified = false;
        }
        self.merge_rows(queue, lane_id, rows);
        if blind {
            // Something was left to the store after the commit this read saw: it shows only when that is committed.
            self.read_after(spill_batch, LaterRead::Lane(queue, lane_id));
        }
        // It may have another head now than the one it was parked for.
        self.forget_parking(queue, lane_id);
        let lane = self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id)).expect("it was just there");
        if !lane.window.is_empty() {
            self.offer_lane(queue, lane_id);
        } else if !lane.spilled || !blind {
            self.drain_lane(queue, lane_id);
        }
        // A caller whose wait ended during the read was kept for what it might bring.
        self.takers.wake(queue);
    }

    /// Rows of the store into the window. What memory knows of a task wins over the row.
    pub(super) fn merge_rows(&mut self, queue: QueueId, lane_id: i64, rows: Vec<Task>) {
        let stale = self.options.planted.has(Bug::StaleWindow);
        for row in rows {
            let id = row.id;
            if stale
                && let Some(entry) = self.tasks.get_mut(&id)
                && entry.task.state == State::Running
            {
                entry.task = row.clone();
            }
            self.adopt(row);
            let entry = self.entry(id);
            if entry.in_window || entry.task.lane != Some(lane_id) || entry.task.input == Payload::Cold {
                continue;
            }
            let ready = ready_of(&entry.task);
            let lane =
                self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id)).expect("the caller found it");
            let at = lane.window.partition_point(|r| r.order < ready.order);
            lane.window.insert(at, ready);
            self.entry(id).in_window = true;
        }
        self.cut_window(queue, lane_id);
    }

    /// Windows may come to twice their size by a read; what is beyond goes back to the store.
    fn cut_window(&mut self, queue: QueueId, lane_id: i64) {
        let cap = self.window_cap() * 2;
        loop {
            let index = self.committed;
            let lane =
                self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id)).expect("the caller found it");
            if lane.window.len() <= cap {
                return;
            }
            let out = lane.window.pop_back().expect("it is longer than its bound");
            lane.from = if lane.spilled { lane.from.min(out.order) } else { out.order };
            lane.spilled = true;
            let newest = self.tasks.get(&out.id).map_or(0, |entry| entry.batch);
            lane.spill_batch = lane.spill_batch.max(newest.max(index));
            self.let_go(lane_id, out.id);
        }
    }
}

pub(super) fn order(task: &Task) -> u64 {
    if task.spec.ordering_key.is_some() { task.seq } else { task.order() }
}

fn ready_of(task: &Task) -> Ready {
    Ready { order: order(task), id: task.id, since: task.changed }
}
