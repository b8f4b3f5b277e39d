//! Scans: lanes that are only in the store are found, and lanes that cannot run now make room for them.
//!
//! A scan goes through the lanes of a line in key order, a page at a time. What cannot run when it is found stays in the
//! store, and what frees it asks for it: the end of an attempt for a key's permit or an ordering key, a due time, a
//! session for what nobody could serve. A scan that found nothing rests until one of these happens.

use std::ops::Bound;

use super::window::order;
use super::{LaterRead, Partition, Purpose};
use crate::id::{QueueId, TaskId};
use crate::limit;
use crate::load::Load;
use crate::planted::Bug;
use crate::ready::{Lane, Parked, RequirementId, class_of_lane, class_range};
use crate::task::{Spec, State, Task};

/// Lanes are looked for in the store while a line has fewer than this on offer.
const SCAN_BELOW: usize = 8;

/// A read of one lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    queue: QueueId,
    lane: i64,
    /// What it was set aside for.
    aside: Option<RequirementId>,
    /// Rows it asked for.
    asked: usize,
}

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
            self.leave_ring(queue, *lane_id, None);
            self.drop_lane(queue, *lane_id);
            self.set_aside(queue, *lane_id, requirement);
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

    /// A task of a lane that has no place in memory was left to the store.
    pub(super) fn left_to_store(&mut self, queue: QueueId, lane_id: i64, requirement: RequirementId) {
        if !self.somebody_free(queue, requirement) {
            return self.set_aside(queue, lane_id, requirement);
        }
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        q.lines[class_of_lane(lane_id)].rescan();
        self.wake_queue(queue);
    }

    /// Nobody free can serve a lane that stays in the store: whoever comes free for it brings it in.
    fn set_aside(&mut self, queue: QueueId, lane_id: i64, requirement: RequirementId) {
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let starved = q.aside.by.entry(requirement).or_default();
        if !starved.lanes.contains(&lane_id) {
            match starved.lanes.len() < limit::LANES_ASIDE {
                true => starved.lanes.push_back(lane_id),
                false => starved.more[class_of_lane(lane_id)] = true,
            }
        }
        self.await_session(queue, requirement);
    }

    /// Somebody came free for what nobody could serve: if nothing in memory can be given, lanes that were set aside for it are
    /// brought in.
    pub(crate) fn call_aside(&mut self, queue: QueueId, requirement: RequirementId) {
        if let Some(q) = self.queues.get_mut(&queue)
            && q.aside.by.contains_key(&requirement)
        {
            q.aside.called.insert(requirement);
        }
        self.wake_queue(queue);
    }

    /// Nothing in memory can be given. Of lanes that were set aside for somebody who is free now, some are read by name, more
    /// each time while that is not enough; when none is left of those that were remembered, a scan looks for the others.
    pub(super) fn bring_aside(&mut self, queue: QueueId) {
        let Some(q) = self.queues.get_mut(&queue).filter(|q| !q.aside.called.is_empty()) else { return };
        let several = limit::LANES_BROUGHT.min(1 << q.aside.rounds.min(16));
        q.aside.rounds = q.aside.rounds.saturating_add(1);
        // Each requirement in turn, once.
        let mut looks = q.aside.called.len();
        while looks > 0 && self.queues[&queue].aside.coming == 0 {
            looks -= 1;
            let aside = &self.queues[&queue].aside;
            let after = aside.called.range((Bound::Excluded(aside.last), Bound::Unbounded)).next();
            let Some(requirement) = after.or_else(|| aside.called.first()).copied() else { return };
            let free = self.somebody_free(queue, requirement);
            let aside = &mut self.queues.get_mut(&queue).expect("it was just there").aside;
            aside.last = requirement;
            match aside.by.get_mut(&requirement) {
                Some(_) if !free => {
                    aside.called.remove(&requirement);
                    self.await_session(queue, requirement);
                }
                Some(starved) if !starved.lanes.is_empty() => {
                    let brought: Vec<i64> = starved.lanes.drain(..several.min(starved.lanes.len())).collect();
                    if !self.options.planted.has(Bug::ForgottenAside) {
                        brought.into_iter().for_each(|lane| self.ask_for_lane(queue, lane, Some(requirement)));
                    }
                    // Those that are in memory already bring no answer: then it is the turn of the next ones.
                    looks += usize::from(self.queues[&queue].aside.coming == 0);
                }
                found => {
                    let more = found.map(|starved| starved.more).unwrap_or_default();
                    aside.called.remove(&requirement);
                    aside.by.remove(&requirement);
                    let q = self.queues.get_mut(&queue).expect("it was just there");
                    let lines = q.lines.iter_mut().zip(more).filter(|(_, more)| *more);
                    lines.for_each(|(line, _)| line.rescan());
                }
            }
        }
    }

    /// Brings lanes back that were left to the store while they waited.
    pub(super) fn fetch_lanes(&mut self, queue: QueueId, lanes: Vec<i64>) {
        for (place, lane) in lanes.into_iter().enumerate() {
            match place < limit::LANES_BROUGHT {
                true => self.fetch_lane(queue, lane),
                false => {
                    let line = self.queues.get_mut(&queue).map(|q| &mut q.lines[class_of_lane(lane)]);
                    line.into_iter().for_each(|line| line.rescan());
                }
            }
        }
    }

    /// Brings a lane back that was left to the store while it waited.
    pub(crate) fn fetch_lane(&mut self, queue: QueueId, lane_id: i64) {
        self.ask_for_lane(queue, lane_id, None);
    }

    fn ask_for_lane(&mut self, queue: QueueId, lane_id: i64, requirement: Option<RequirementId>) {
        let rows = self.window_cap().min(self.options.lane_window);
        let Some(q) = self.queues.get_mut(&queue) else { return };
        if q.lanes.contains_key(&lane_id) {
            return self.unpark(queue, lane_id);
        }
        let line = &mut q.lines[class_of_lane(lane_id)];
        if !line.unloaded {
            return;
        }
        line.fetching += 1;
        q.aside.coming += u32::from(requirement.is_some());
        // One lane exactly: a scan that begins and ends at its key.
        let load = Load::Lanes { queue, from: lane_id, until: lane_id + 1, lanes: 1, rows };
        self.ask(load, Purpose::OneLane(Fetch { queue, lane: lane_id, aside: requirement, asked: rows }));
    }

    /// The answer of a read of one lane.
    pub(super) fn one_lane_loaded(&mut self, fetch: Fetch, lanes: Vec<(i64, Vec<Task>)>, as_of: u64) {
        let Fetch { queue, lane: lane_id, aside: requirement, asked } = fetch;
        let rows = lanes.into_iter().find(|(found, _)| *found == lane_id).map(|(_, rows)| rows).unwrap_or_default();
        let (class, cap) = (class_of_lane(lane_id), self.options.line_lanes);
        let Some(q) = self.queues.get_mut(&queue) else { return };
        let line = &mut q.lines[class];
        line.fetching -= 1;
        let (spill_batch, unloaded) = (line.spill_batch, line.unloaded);
        q.aside.coming -= u32::from(requirement.is_some());
        if q.lanes.contains_key(&lane_id) || !unloaded {
            return self.wake_queue(queue);
        }
        // One for which nobody is free any more comes in where there is room: it is needed next.
        let wanted = requirement.is_none_or(|requirement| self.somebody_free(queue, requirement));
        let room = self.queues[&queue].lines[class].places() < cap
            || (wanted && (self.drop_parked(queue, class, 1) > 0 || self.drop_starved(queue, class, 1) > 0));
        if room {
            if !self.adopt_lane(queue, lane_id, (rows, asked), as_of, requirement.is_some()) && as_of < spill_batch {
                // What was left to the store after the commit that this read saw may be of this lane.
                self.read_after(spill_batch, LaterRead::Class(queue, class));
            }
            return self.wake_queue(queue);
        }
        let q = self.queues.get_mut(&queue).expect("it is there");
        match requirement {
            // A lane that leaves memory makes room for it.
            Some(requirement) => {
                q.aside.by.entry(requirement).or_default().lanes.push_front(lane_id);
                self.await_session(queue, requirement);
            }
            None => q.lines[class].rescan(),
        }
    }

    /// The answer of a scan.
    pub(super) fn lanes_loaded(&mut self, queue: QueueId, class: usize, lanes: Vec<(i64, Vec<Task>)>, as_of: u64) {
        let cap = self.options.line_lanes;
        let Some(q) = self.queues.get_mut(&queue) else { return };
        q.lines[class].loading = false;
        let asked = q.lines[class].asked;
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
                line.cursor = lane_id;
                stopped = true;
                break;
            }
            self.adopt_lane(queue, lane_id, (rows, asked), as_of, false);
        }
        let line = &mut self.queues.get_mut(&queue).expect("it is there").lines[class];
        line.scan_seen = line.scan_seen.min(as_of);
        match last {
            _ if stopped => {}
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
            self.read_after(batch, LaterRead::Class(queue, class));
        } else if line.scan_clean {
            line.unloaded = false;
        } else if !line.scan_useful {
            line.scan_idle = true;
        }
    }

    /// A lane found in the store. One that could not run now stays there, and what frees it brings it in. Returns false if
    /// nothing was found but rows that are out of date. `starved` = it is taken in even if nobody can serve it now.
    fn adopt_lane(
        &mut self,
        queue: QueueId,
        lane_id: i64,
        (rows, asked): (Vec<Task>, usize),
        as_of: u64,
        starved: bool,
    ) -> bool {
        let class = class_of_lane(lane_id);
        let elsewhere = |row: &&Task| self.tasks.get(&row.id).is_some_and(|e| e.task.lane != Some(lane_id));
        let first = rows.iter().find(|row| !elsewhere(row));
        let first = first.map(|row| (row.id, row.seq, (row.kind, row.priority), row.spec.clone(), row.state));
        let Some((id, seq, (kind, priority), spec, state)) = first else {
            // All these rows are out of date. There may be others behind them.
            let line = &mut self.queues.get_mut(&queue).expect("the caller found it").lines[class];
            if rows.len() >= asked {
                line.scan_clean = false;
                line.rescan();
            }
            return false;
        };
        let requirement = self.requirement_of(kind, priority, &spec);
        if self.stays_out(queue, lane_id, (id, seq, state), &spec)
            || (!starved && self.is_starved(queue, lane_id, requirement))
        {
            self.queues.get_mut(&queue).expect("the caller found it").lines[class].scan_clean = false;
            return true;
        }
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let line = &mut q.lines[class];
        line.lanes += 1;
        line.scan_useful = true;
        let full = rows.len() >= asked;
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
            self.read_after(spill_batch, LaterRead::Lane(queue, lane_id));
        }
        self.offer_lane(queue, lane_id);
        true
    }

    /// Whether a lane found in the store cannot run now, whoever is free, and is brought in by what frees it: its key's permit,
    /// the end of the task before it, its time.
    fn stays_out(&mut self, queue: QueueId, lane_id: i64, (id, seq, state): (TaskId, u64, State), spec: &Spec) -> bool {
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
        false
    }

    /// Whether nobody free can serve a lane found in the store; whoever comes free for it brings it in.
    fn is_starved(&mut self, queue: QueueId, lane_id: i64, requirement: RequirementId) -> bool {
        let starved = !self.somebody_free(queue, requirement);
        if starved {
            self.set_aside(queue, lane_id, requirement);
        }
        starved
    }
}
