//! Scans: lanes that are only in the store are found, and lanes that cannot run now make room for them.
//!
//! A scan goes through the lanes of a line in key order, a page at a time. What cannot run when it is found stays in the
//! store, and what frees it asks for it: the end of an attempt for a key's permit or an ordering key, a due time, a
//! session for what nobody could serve. A scan that found nothing rests until one of these happens.

use super::window::order;
use super::{LaterRead, Partition, Purpose};
use crate::id::{QueueId, TaskId};
use crate::load::Load;
use crate::planted::Bug;
use crate::ready::{Lane, Parked, RequirementId, class_of_lane, class_range};
use crate::task::{Spec, State, Task};

/// Lanes are looked for in the store while a line has fewer than this on offer.
const SCAN_BELOW: usize = 8;

impl Partition {
    /// Looks for lanes that are only in the store, when few are left in memory and there is room. `fruitless` = none of
    /// the lanes in memory could give anything: then those that nobody free can serve make room.
    pub(crate) fn scan_lanes(&mut self, queue: QueueId, class: usize, fruitless: bool) {
        let cap = self.options.line_lanes;
        let rows = self.window_cap().min(self.options.lane_window);
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let line = &mut q.lines[class];
        if !line.unloaded || line.loading || line.scan_idle || (line.ring.len() >= SCAN_BELOW && !fruitless) {
            return;
        }
        let mut room = cap.saturating_sub(line.places());
        let wanted = (cap / 4).max(1);
        if room < wanted {
            room += self.drop_parked(queue, class, wanted);
        }
        if room < wanted && fruitless {
            room += self.drop_starved(queue, class, wanted);
        }
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let line = &mut q.lines[class];
        if room == 0 {
            return;
        }
        let (start, until) = class_range(class);
        if line.cursor == start {
            line.scan_clean = true;
            line.scan_useful = false;
            line.scan_seen = u64::MAX;
        }
        line.loading = true;
        line.asked = rows;
        let load = Load::Lanes { queue, from: line.cursor, until, lanes: room.clamp(1, 64), rows };
        self.ask(load, Purpose::Lanes(queue, class));
    }

    /// Makes room by leaving parked lanes to the store; what they wait for brings them back.
    fn drop_parked(&mut self, queue: QueueId, class: usize, wanted: usize) -> usize {
        let mut dropped = 0;
        while dropped < wanted {
            let q = self.queues.get_mut(&queue).expect("the caller found it");
            let Some(lane_id) = q.lines[class].parked.pop_front() else { break };
            let waits = |l: &Lane| matches!(l.parked, Some(Parked::Key | Parked::Order | Parked::Due));
            if q.lanes.get(&lane_id).is_some_and(|l| !l.loading && waits(l)) {
                self.drop_lane(queue, lane_id);
                dropped += 1;
            }
        }
        dropped
    }

    /// Makes room by leaving lanes to the store that no free session can serve. A session that can wakes the queue.
    fn drop_starved(&mut self, queue: QueueId, class: usize, wanted: usize) -> usize {
        let q = &self.queues[&queue];
        let starved =
            q.lines[class].ring.iter().copied().filter(|lane| {
                q.lanes.get(lane).is_some_and(|l| !l.loading && !self.somebody_free(queue, l.requirement))
            });
        let starved: Vec<i64> = starved.take(wanted).collect();
        for lane_id in &starved {
            let requirement = self.queues[&queue].lanes[lane_id].requirement;
            self.await_session(queue, requirement);
            self.leave_ring(queue, *lane_id, None);
            self.drop_lane(queue, *lane_id);
        }
        starved.len()
    }

    fn drop_lane(&mut self, queue: QueueId, lane_id: i64) {
        let class = class_of_lane(lane_id);
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let Some(lane) = q.lanes.remove(&lane_id) else { return };
        let line = &mut q.lines[class];
        line.lanes -= 1;
        line.unloaded = true;
        line.scan_clean = false;
        line.spill_batch = line.spill_batch.max(lane.spill_batch);
        if lane.parked == Some(Parked::Key)
            && let Some(key) = &lane.key
        {
            let key = q.keys.entry(key.clone()).or_default();
            key.waiting.retain(|l| *l != lane_id);
            if !key.dropped.contains(&lane_id) {
                key.dropped.push(lane_id);
            }
        }
        for ready in lane.window {
            let newest = self.tasks.get(&ready.id).map_or(0, |e| e.batch);
            let line = &mut self.queues.get_mut(&queue).expect("it is there").lines[class];
            line.spill_batch = line.spill_batch.max(newest);
            self.let_go(lane_id, ready.id);
        }
    }

    /// Brings a lane back that was left to the store while it waited.
    pub(crate) fn fetch_lane(&mut self, queue: QueueId, lane_id: i64) {
        let class = class_of_lane(lane_id);
        let rows = self.window_cap().min(self.options.lane_window);
        let Some(q) = self.queues.get_mut(&queue) else { return };
        if q.lanes.contains_key(&lane_id) {
            return self.unpark(queue, lane_id);
        }
        let line = &mut q.lines[class];
        if !line.unloaded {
            return;
        }
        line.rescan();
        if line.loading {
            // The scan under way may have passed it; that it is called useful makes another one follow.
            return;
        }
        // One lane exactly: a scan that begins and ends at its key.
        line.loading = true;
        line.asked = rows;
        let load = Load::Lanes { queue, from: lane_id, until: lane_id + 1, lanes: 2, rows };
        self.ask(load, Purpose::Lanes(queue, class + 4));
    }

    /// The answer of a scan. `class` above 3 = a single lane was asked for and the scan's own place is not moved.
    pub(super) fn lanes_loaded(&mut self, queue: QueueId, class: usize, lanes: Vec<(i64, Vec<Task>)>, as_of: u64) {
        let (single, class) = (class >= 4, class % 4);
        let cap = self.options.line_lanes;
        let Some(q) = self.queues.get_mut(&queue) else { return };
        q.lines[class].loading = false;
        let (start, _) = class_range(class);
        let mut last = None;
        let mut stopped = false;
        for (lane_id, rows) in lanes {
            last = Some(lane_id);
            let q = &self.queues[&queue];
            if q.lanes.contains_key(&lane_id) {
                continue;
            }
            if q.lines[class].places() >= cap && self.drop_parked(queue, class, 1) == 0 {
                let line = &mut self.queues.get_mut(&queue).expect("it is there").lines[class];
                line.scan_clean = false;
                line.cursor = if single { line.cursor } else { lane_id };
                stopped = true;
                break;
            }
            self.adopt_lane(queue, lane_id, rows, as_of);
        }
        let line = &mut self.queues.get_mut(&queue).expect("it is there").lines[class];
        if !single {
            line.scan_seen = line.scan_seen.min(as_of);
        }
        match last {
            _ if single || stopped => {}
            Some(lane) => line.cursor = lane + 1,
            // An empty answer is the end of the range: the next scan begins anew.
            None => self.end_scan(queue, class, start),
        }
        self.wake_queue(queue);
    }

    fn end_scan(&mut self, queue: QueueId, class: usize, start: i64) {
        let line = &mut self.queues.get_mut(&queue).expect("it is there").lines[class];
        line.cursor = start;
        let blind = line.scan_seen < line.spill_batch && !self.options.planted.has(Bug::BlindScan);
        if blind {
            line.scan_idle = true;
            let batch = line.spill_batch;
            self.read_after(batch, queue, LaterRead::Class(class));
        } else if line.scan_clean {
            line.unloaded = false;
        } else if !line.scan_useful {
            line.scan_idle = true;
        }
    }

    /// A lane found in the store. One that could not run now stays there, and what frees it brings it in.
    fn adopt_lane(&mut self, queue: QueueId, lane_id: i64, rows: Vec<Task>, as_of: u64) {
        let class = class_of_lane(lane_id);
        let elsewhere = |row: &&Task| self.tasks.get(&row.id).is_some_and(|e| e.task.lane != Some(lane_id));
        let first = rows.iter().find(|row| !elsewhere(row));
        let first = first.map(|row| (row.id, row.seq, (row.kind, row.priority), row.spec.clone(), row.state));
        let Some((id, seq, (kind, priority), spec, state)) = first else {
            // All these rows are out of date. There may be others behind them.
            let line = &mut self.queues.get_mut(&queue).expect("the caller found it").lines[class];
            if rows.len() >= line.asked {
                (line.scan_clean, line.scan_useful) = (false, true);
            }
            return;
        };
        let requirement = self.requirement_of(kind, priority, &spec);
        if self.stays_out(queue, lane_id, (id, seq, state), requirement, &spec) {
            self.queues.get_mut(&queue).expect("the caller found it").lines[class].scan_clean = false;
            return;
        }
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let line = &mut q.lines[class];
        line.lanes += 1;
        line.scan_useful = true;
        let full = rows.len() >= line.asked;
        let blind = as_of < line.spill_batch;
        let spill_batch = line.spill_batch;
        let from = match (blind, full) {
            (true, _) | (false, false) => 0,
            (false, true) => rows.last().map_or(0, |row| order(row) + 1),
        };
        let lane =
            Lane { spilled: full || blind, from, unverified: blind, ..Lane::new(requirement, &spec, spill_batch) };
        q.lanes.insert(lane_id, lane);
        self.merge_rows(queue, lane_id, rows);
        if blind {
            self.read_after(spill_batch, queue, LaterRead::Lane(lane_id));
        }
        self.offer_lane(queue, lane_id);
    }

    /// Whether a lane found in the store cannot run now and is brought in by what frees it: its key's permit, the end
    /// of the task before it, its time, or a session.
    fn stays_out(
        &mut self,
        queue: QueueId,
        lane_id: i64,
        (id, seq, state): (TaskId, u64, State),
        requirement: RequirementId,
        spec: &Spec,
    ) -> bool {
        if spec.ordering_key.is_some() {
            let held = self.is_held(queue, lane_id, id, seq);
            let state = self.tasks.get(&id).map_or(state, |entry| entry.task.state);
            if held || state == State::Scheduled {
                return true;
            }
        }
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        if let Some(name) = &spec.concurrency_key {
            let limit =
                if spec.concurrency_limit > 0 { spec.concurrency_limit } else { q.queue.config.key_concurrency };
            if limit > 0
                && let Some(key) = q.keys.get_mut(name)
                && key.running >= limit
            {
                if !key.dropped.contains(&lane_id) {
                    key.dropped.push(lane_id);
                }
                return true;
            }
        }
        let starved = !self.somebody_free(queue, requirement);
        if starved {
            self.await_session(queue, requirement);
        }
        starved
    }
}
