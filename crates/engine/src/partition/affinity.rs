//! Affinity: in a queue that hands out by consistent hash, each affinity key has one worker, and its tasks wait for that
//! one while it is there, for as long as the queue's patience lasts.
//!
//! A key's worker wins the rendezvous hash among those that live and could run the task, whatever they have at hand
//! now (Thaler and Ravishankar, 1998): one that comes or goes moves only the keys that it wins or loses. A lane that
//! waits is out of its line's turns and takes none of the line's places; room at its worker, the worker's leaving or the end
//! of its patience puts it back. Room lets in as many as it is for, those first that have waited longest, so that the cost
//! of a permit that becomes free does not grow with what waits for it.
//!
//! Who wins a key is remembered until a session comes, goes or drains.

use hashbrown::HashMap;

use super::pool::{could_fit, fits};
use super::{MonoTimer, Partition};
use crate::config::Policy;
use crate::id::{Name, QueueId, SessionId, TaskId};
use crate::limit;
use crate::planted::Bug;
use crate::ready::{Fnv, Parked, QueueWork, RequirementId, class_of_lane, mix};
use crate::task::Task;
use crate::time::Now;

/// What a lane's key says about its turn.
pub(super) enum Turn {
    /// It goes to whoever is chosen among the free.
    Open,
    /// It goes to its worker.
    Home(SessionId),
    /// Its worker has room, and is given away in the turn of its own pool.
    Elsewhere,
    /// It waits, and is out of its line's ring.
    Parked,
}

/// What is remembered of keys and their workers.
#[derive(Debug, Default)]
pub(crate) struct Homes {
    /// Workers of keys, by queue, requirement and the key's hash.
    known: HashMap<(QueueId, RequirementId, u64), SessionId>,
    /// Sessions whose room lanes were called for.
    called: Vec<SessionId>,
}

impl Homes {
    /// A session came, went or drains: every key may have another worker.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}

/// A lane that waits for its key's worker, in the order in which they are called: by what may be held back as a whole
/// (queue, class, requirement), then by the end of its patience.
pub(crate) type Awaiting = (QueueId, usize, RequirementId, u64, i64);

/// Where a lane that waits for its key's worker stands.
pub(super) fn awaiting(q: &QueueWork, queue: QueueId, lane_id: i64) -> Option<(SessionId, Awaiting)> {
    let lane = q.lanes.get(&lane_id).filter(|lane| lane.parked == Some(Parked::Worker))?;
    let (session, until) = lane.patience?;
    Some((session, (queue, class_of_lane(lane_id), lane.requirement, until, lane_id)))
}

/// The rank of a worker for a key: the highest wins.
pub(super) fn rank(key: u64, worker: crate::id::WorkerId) -> u64 {
    mix(key ^ mix(u64::from(worker.0)))
}

/// The number that stands for a key.
pub(super) fn key_hash(key: &Name) -> u64 {
    let mut hash = Fnv::new();
    hash.text(key);
    hash.finish()
}

impl Partition {
    /// The session that an affinity key belongs to in a queue that keeps keys to their workers.
    pub(super) fn home_of(&self, queue: QueueId, requirement: RequirementId, key: Option<&Name>) -> Option<SessionId> {
        let config = &self.queues[&queue].queue.config;
        if config.policy != Policy::ConsistentHash || config.affinity_wait_ms == 0 {
            return None;
        }
        let key = key_hash(key?);
        self.homes.known.get(&(queue, requirement, key)).copied().or_else(|| self.find_home(queue, requirement, key))
    }

    /// As [`Partition::home_of`], and remembered.
    fn learn_home(&mut self, queue: QueueId, requirement: RequirementId, key: Option<&Name>) -> Option<SessionId> {
        let home = self.home_of(queue, requirement, key)?;
        let known = &mut self.homes.known;
        if known.len() >= limit::KNOWN_HOMES {
            known.clear();
        }
        known.entry((queue, requirement, key_hash(key?))).or_insert(home);
        Some(home)
    }

    fn find_home(&self, queue: QueueId, requirement: RequirementId, key: u64) -> Option<SessionId> {
        let q = &self.queues[&queue];
        let needed = &self.requirements[requirement.0 as usize];
        let packaged = self.is_packaged(needed);
        let members = q.pools.iter().flat_map(|pool| &self.pools[*pool as usize].members);
        let able = members.filter(|id| {
            let s = &self.sessions[*id];
            s.connected && !s.draining && could_fit(needed, s, packaged)
        });
        able.map(|id| (rank(key, self.sessions[id].worker), *id)).max().map(|(_, id)| id)
    }

    /// Who may have the head of a lane in a pool's turn, as far as its affinity key goes.
    pub(super) fn keyed_turn(
        &mut self,
        pool: usize,
        queue: QueueId,
        lane_id: i64,
        key: Option<&Name>,
        now: Now,
    ) -> Turn {
        let requirement = self.queues[&queue].lanes[&lane_id].requirement;
        let Some(home) = self.learn_home(queue, requirement, key) else { return Turn::Open };
        let q = &self.queues[&queue];
        let lane = &q.lanes[&lane_id];
        let needed = &self.requirements[lane.requirement.0 as usize];
        let s = &self.sessions[&home];
        let has_room = s.is_free() && fits(needed, s, self.is_packaged(needed));
        let has_permit = has_room && s.used < s.hello.permits;
        let endless = self.options.planted.has(Bug::EndlessAffinity);
        let over = lane.patience.is_some_and(|(session, until)| session == home && until <= now.mono) && !endless;
        if !has_permit && over {
            return Turn::Open;
        }
        if !has_room {
            return self.await_home(queue, lane_id, home, now);
        }
        if s.pool != pool && !self.pools[s.pool].waits_for_none_but(q.queue.tenant) {
            // It is not parked, but it waits for no longer than if it were.
            self.be_patient(queue, lane_id, home, now);
            return Turn::Elsewhere;
        }
        let lane = self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id));
        lane.expect("the caller found it").patience = None;
        Turn::Home(home)
    }

    /// Takes a lane out of its line's turns until its worker has room, or for as long as its queue's patience lasts. Where
    /// too many wait already, the lane goes to whoever is free: what waits is in memory.
    fn await_home(&mut self, queue: QueueId, lane_id: i64, home: SessionId, now: Now) -> Turn {
        let most = self.options.line_lanes * limit::WAITING_LINES;
        if self.queues[&queue].lines[class_of_lane(lane_id)].waiting >= most {
            return Turn::Open;
        }
        self.be_patient(queue, lane_id, home, now);
        self.leave_ring(queue, lane_id, Some(Parked::Worker));
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let aside = !self.options.planted.has(Bug::CrowdingAffinity);
        q.lines[class_of_lane(lane_id)].waiting += usize::from(aside);
        let (_, place) = awaiting(q, queue, lane_id).expect("it was just parked");
        self.sessions.get_mut(&home).expect("a key's worker is there").awaited.insert(place);
        Turn::Parked
    }

    /// A lane waits for its key's worker no longer, whatever becomes of it now.
    pub(super) fn stop_waiting(&mut self, queue: QueueId, lane_id: i64) {
        let Some(q) = self.queues.get_mut(&queue) else { return };
        let Some((session, place)) = awaiting(q, queue, lane_id) else { return };
        let aside = !self.options.planted.has(Bug::CrowdingAffinity);
        q.lines[class_of_lane(lane_id)].waiting -= usize::from(aside);
        q.lanes.get_mut(&lane_id).expect("it was just found").parked = None;
        if let Some(s) = self.sessions.get_mut(&session) {
            s.awaited.remove(&place);
        }
    }

    /// The queue's patience with a key's worker begins, unless it has.
    fn be_patient(&mut self, queue: QueueId, lane_id: i64, home: SessionId, now: Now) {
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let until = now.mono + q.queue.config.affinity_wait_ms;
        let lane = q.lanes.get_mut(&lane_id).expect("the caller found it");
        if lane.patience.is_none_or(|(session, _)| session != home) {
            lane.patience = Some((home, until));
            if !self.options.planted.has(Bug::EndlessAffinity) {
                self.mono_wheel.insert(until, MonoTimer::AffinityWait(queue, lane_id));
            }
        }
    }

    /// The patience of a lane's queue is over: whoever is free may have it.
    pub(super) fn patience_over(&mut self, queue: QueueId, lane_id: i64) {
        self.end_wait(queue, lane_id);
        self.wake_queue(queue);
    }

    /// A task came back from its worker's buffer, where it waited long enough: the next one that is free may have it.
    pub(super) fn lose_patience(&mut self, id: TaskId, session: SessionId, now: Now) {
        let task = &self.tasks[&id].task;
        let (queue, lane) = (task.queue, task.lane.filter(|_| task.spec.affinity_key.is_some()));
        let Some(lane_id) = lane else { return };
        self.end_wait(queue, lane_id);
        if let Some(lane) = self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id)) {
            lane.patience = Some((session, now.mono));
        }
    }

    /// A session is no longer the one to wait for: what waited for it takes its turns again.
    pub(super) fn release_awaiting(&mut self, session: SessionId) {
        self.homes.forget();
        let waiting = self.sessions.get(&session).map(|s| s.awaited.clone()).unwrap_or_default();
        waiting.into_iter().for_each(|(queue, _, _, _, lane)| self.end_wait(queue, lane));
    }

    /// A session has room: of each kind of lane that waits for it and that it could run now, as many take their turns again
    /// as there is room for. Those called before go first: as long as one of them is on offer, its kind has had its call.
    pub(super) fn call_awaiting(&mut self, session: SessionId) -> bool {
        let Some(s) = self.sessions.get_mut(&session) else { return false };
        let mut called = std::mem::take(&mut s.called);
        let s = &self.sessions[&session];
        let offered =
            |q: QueueId, lane: i64| self.queues.get(&q).and_then(|q| q.lanes.get(&lane)).is_some_and(|l| l.in_ring);
        called.retain(|(queue, lane)| s.is_free() && offered(*queue, *lane));
        let mut found: Vec<(QueueId, i64)> = Vec::new();
        let mut from = (QueueId(0), 0, RequirementId(0), 0, i64::MIN);
        while s.is_free()
            && let Some((queue, class, requirement, ..)) = s.awaited.range(from..).next().copied()
        {
            let needed = &self.requirements[requirement.0 as usize];
            let busy = called.iter().any(|(q, lane)| *q == queue && class_of_lane(*lane) == class);
            if !busy && fits(needed, s, self.is_packaged(needed)) {
                let room = s.capacity().saturating_sub(s.used) as usize;
                let same = s.awaited.range((queue, class, requirement, 0, i64::MIN)..).take(room);
                let same = same.take_while(|place| (place.0, place.1, place.2) == (queue, class, requirement));
                found.extend(same.map(|place| (place.0, place.4)));
            }
            from = (queue, class, requirement, u64::MAX, i64::MAX);
        }
        let more = !found.is_empty();
        for (queue, lane) in found {
            self.end_wait(queue, lane);
            called.push((queue, lane));
        }
        if !called.is_empty() {
            self.homes.called.push(session);
        }
        self.sessions.get_mut(&session).expect("it was just there").called = called;
        more
    }

    /// What was called for a session's room has had its turn and may have left room: the next ones are called.
    pub(super) fn call_again(&mut self) -> bool {
        let mut more = false;
        for session in std::mem::take(&mut self.homes.called) {
            more |= self.call_awaiting(session);
        }
        more
    }

    /// A lane that waits for its key's worker takes its turns again.
    pub(super) fn end_wait(&mut self, queue: QueueId, lane_id: i64) {
        let lane = self.queues.get(&queue).and_then(|q| q.lanes.get(&lane_id));
        if lane.is_some_and(|lane| lane.parked == Some(Parked::Worker)) {
            self.unpark(queue, lane_id);
        }
    }

    /// The session that a waiting task is held for, and the monotonic time until which it is.
    pub fn held_for(&self, task: &Task) -> Option<(SessionId, u64)> {
        let lane = self.queues.get(&task.queue)?.lanes.get(&task.lane?)?;
        lane.patience.filter(|_| lane.parked == Some(Parked::Worker))
    }
}
