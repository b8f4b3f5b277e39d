//! Affinity: in a queue that hands out by consistent hash, each affinity key has one worker, and its tasks wait for that
//! one while it is there, for as long as the queue's patience lasts.
//!
//! A key's worker wins the rendezvous hash among those that live and could run the task, whatever they have at hand
//! now (Thaler and Ravishankar, 1998): one that comes or goes moves only the keys that it wins or loses. A lane that
//! waits is out of its line's turns; room at its worker, the worker's leaving or the end of its patience puts it back.

use super::pool::{could_fit, fits};
use super::{MonoTimer, Partition};
use crate::config::Policy;
use crate::id::{Name, QueueId, SessionId, TaskId};
use crate::planted::Bug;
use crate::ready::{Fnv, Parked, RequirementId, mix};
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
        let key = key?;
        let q = &self.queues[&queue];
        if q.queue.config.policy != Policy::ConsistentHash || q.queue.config.affinity_wait_ms == 0 {
            return None;
        }
        let needed = &self.requirements[requirement.0 as usize];
        let packaged = self.is_packaged(needed);
        let key = key_hash(key);
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
        let q = &self.queues[&queue];
        let lane = &q.lanes[&lane_id];
        let Some(home) = self.home_of(queue, lane.requirement, key) else { return Turn::Open };
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

    /// Takes a lane out of its line's turns until its worker has room, or for as long as its queue's patience lasts.
    fn await_home(&mut self, queue: QueueId, lane_id: i64, home: SessionId, now: Now) -> Turn {
        self.be_patient(queue, lane_id, home, now);
        self.leave_ring(queue, lane_id, Some(Parked::Worker));
        self.sessions.get_mut(&home).expect("a key's worker is there").awaited.insert((queue, lane_id));
        Turn::Parked
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
        let lane = self.queues.get(&queue).and_then(|q| q.lanes.get(&lane_id));
        if let Some((session, _)) = lane.and_then(|lane| lane.patience)
            && let Some(s) = self.sessions.get_mut(&session)
        {
            s.awaited.remove(&(queue, lane_id));
        }
        self.end_wait(queue, lane_id);
        self.wake_queue(queue);
    }

    /// A task came back from its worker's buffer, where it waited long enough: the next one that is free may have it.
    pub(super) fn lose_patience(&mut self, id: TaskId, session: SessionId, now: Now) {
        let task = &self.tasks[&id].task;
        if task.spec.affinity_key.is_some()
            && let Some(lane) = task.lane
            && let Some(lane) = self.queues.get_mut(&task.queue).and_then(|q| q.lanes.get_mut(&lane))
        {
            lane.patience = Some((session, now.mono));
        }
    }

    /// A session has room again, or is no longer the one to wait for: what waited for it takes its turns again.
    pub(super) fn release_awaiting(&mut self, session: SessionId) {
        let Some(s) = self.sessions.get_mut(&session) else { return };
        for (queue, lane) in std::mem::take(&mut s.awaited) {
            self.end_wait(queue, lane);
        }
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
