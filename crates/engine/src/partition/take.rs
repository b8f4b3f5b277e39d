//! Items of queues: tasks that no worker runs but a caller takes, for a lease, and settles. Selection is that of every
//! grant (classes, lanes, order, limits, rates); what differs is who gets it. A taken item belongs to no session: it is
//! fenced by its token, and its lease is the heartbeat limit of its attempt, which a reload re-arms in full.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::{MonoTimer, Partition, Stage};
use crate::command::Settlement;
use crate::effect::{Grant, Refusal, Reply};
use crate::id::{Name, QueueId, RequestId, TaskId, TenantId, Token, WorkerId};
use crate::limit;
use crate::mutation::AttemptOutcome;
use crate::planted::Bug;
use crate::ready::RequirementId;
use crate::task::{Failure, Outcome, State};
use crate::time::Now;

/// A caller that waits for items.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taker {
    request: RequestId,
    worker: WorkerId,
    most: u32,
    lease_ms: u64,
    /// Monotonic time at which it waits no longer.
    until: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Takers {
    /// By queue, first come first served; no queue without one.
    waiting: HashMap<QueueId, VecDeque<Taker>>,
    /// Queues of theirs that may have something.
    woken: Vec<QueueId>,
}

impl Takers {
    /// A queue may have something: it is looked at in the next turn, if somebody waits for it.
    pub(super) fn wake(&mut self, queue: QueueId) {
        if !self.waiting.is_empty() && self.waiting.contains_key(&queue) && !self.woken.contains(&queue) {
            self.woken.push(queue);
        }
    }
}

/// What a caller asks for.
pub(super) struct Wish {
    pub(super) taker: Name,
    pub(super) most: u32,
    pub(super) lease_ms: u64,
    pub(super) wait_ms: u64,
}

impl Partition {
    pub(super) fn take(&mut self, request: RequestId, tenant: TenantId, queue: &Name, wish: Wish, now: Now) {
        let Some(id) = self.queue_id(tenant, queue) else {
            let nearest = self.nearest_queue(tenant, queue);
            return self.refuse(request, Refusal::UnknownQueue { name: queue.clone(), nearest });
        };
        if !(1..=limit::TAKE_ITEMS).contains(&wish.most) || wish.lease_ms == 0 {
            return self
                .refuse(request, Refusal::Invalid("one call takes 1 to 100 items, for a lease above zero".into()));
        }
        if self.takers.waiting.get(&id).is_some_and(|waiting| waiting.len() >= limit::WAITING_TAKERS) {
            let what = "the calls that wait for items of the queue".into();
            return self.refuse(request, Refusal::Overloaded { what, retry_after_ms: 1_000 });
        }
        let worker = self.worker_id(tenant, &wish.taker);
        let until = now.mono + wish.wait_ms;
        let taker = Taker { request, worker, most: wish.most, lease_ms: wish.lease_ms, until };
        self.takers.waiting.entry(id).or_default().push_back(taker);
        self.mono_wheel.insert(until, MonoTimer::Take(id));
        self.wake_queue(id);
        // Somebody wants what nobody could run: lanes that were left to the store for it are brought in.
        let aside = self.queues[&id].aside.by.keys().copied().filter(|requirement| self.is_of_items(*requirement));
        let mut aside: Vec<RequirementId> = aside.collect();
        aside.sort_unstable();
        aside.into_iter().for_each(|requirement| self.call_aside(id, requirement));
    }

    /// Gives items to those who wait for them, first come first served. Only queues that woke since are looked at.
    ///
    /// Returns whether the turn ended at its bound.
    pub(super) fn serve_takers(&mut self, now: Now) -> bool {
        if self.takers.waiting.is_empty() {
            self.takers.woken.clear();
            return false;
        }
        if self.holding {
            self.send_takers_away();
            return false;
        }
        let mut left = self.options.grants_per_turn;
        for queue in std::mem::take(&mut self.takers.woken) {
            if left == 0 {
                self.takers.wake(queue);
                continue;
            }
            while left > 0
                && let Some(taker) = self.takers.waiting.get(&queue).and_then(|waiting| waiting.front()).copied()
            {
                let grants = self.take_for(queue, taker, now);
                if grants.is_empty() {
                    break;
                }
                left = left.saturating_sub(grants.len());
                if let Some(waiting) = self.takers.waiting.get_mut(&queue) {
                    waiting.pop_front();
                }
                self.reply(taker.request, Reply::Taken(grants));
            }
            self.end_waits(queue, now);
            if left == 0 {
                self.takers.wake(queue);
            }
        }
        left == 0
    }

    /// Answers those whose wait is over, unless a read that may bring an item is under way: its answer wakes the queue. A queue
    /// that gives nothing now has nobody wait for its reads.
    fn end_waits(&mut self, queue: QueueId, now: Now) {
        let tenant = self.queues.get(&queue).map(|q| q.queue.tenant);
        let gives = tenant.is_some_and(|tenant| self.tenant_may_grant(tenant, now)) && self.queue_may_grant(queue, now);
        let Some(waiting) = self.takers.waiting.get_mut(&queue) else { return };
        let reads = gives
            && self.queues.get(&queue).is_some_and(|q| {
                q.lines.iter().any(|line| line.loading || line.fetching > 0)
                    || q.lanes.values().any(|l| l.loading || (l.spilled && l.window.is_empty()))
            });
        let mut over = Vec::new();
        if !reads {
            waiting.retain(|taker| {
                let waits = taker.until > now.mono;
                if !waits {
                    over.push(taker.request);
                }
                waits
            });
        }
        if waiting.is_empty() {
            self.takers.waiting.remove(&queue);
        }
        over.into_iter().for_each(|request| self.reply(request, Reply::Taken(Vec::new())));
    }

    /// The node is about to end: nobody waits for what will not be given.
    fn send_takers_away(&mut self) {
        let mut all: Vec<(QueueId, VecDeque<Taker>)> = self.takers.waiting.drain().collect();
        all.sort_by_key(|(queue, _)| *queue);
        for taker in all.into_iter().flat_map(|(_, waiting)| waiting) {
            self.reply(taker.request, Reply::Taken(Vec::new()));
        }
    }

    fn take_for(&mut self, queue: QueueId, taker: Taker, now: Now) -> Vec<Grant> {
        let mut grants = Vec::new();
        while grants.len() < taker.most as usize {
            match self.next_item(queue, now) {
                Some((id, lane)) => {
                    let task = self.begin_attempt(id, taker.worker, true, taker.lease_ms, now);
                    grants.push(self.grant_of(task, 0));
                    self.after_grant(queue, lane);
                    self.next_turn(queue, lane);
                }
                None => break,
            }
        }
        grants
    }

    /// Lanes of a class take turns, wherever in the ring this one was.
    fn next_turn(&mut self, queue: QueueId, lane: i64) {
        let Some(q) = self.queues.get_mut(&queue) else { return };
        if q.lanes.get(&lane).is_some_and(|l| l.in_ring) {
            let ring = &mut q.lines[crate::ready::class_of_lane(lane)].ring;
            ring.retain(|other| *other != lane);
            ring.push_back(lane);
        }
    }

    /// The item that goes next, out of its window; expired ones end on the way.
    fn next_item(&mut self, queue: QueueId, now: Now) -> Option<(TaskId, i64)> {
        let tenant = self.queues.get(&queue)?.queue.tenant;
        for class in 0..3 {
            self.scan_lanes(queue, class, false);
        }
        for (_, _, class) in self.ranked_lines(queue, now).into_iter().flatten() {
            let ring: Vec<i64> = self.queues[&queue].lines[class].ring.iter().copied().collect();
            for lane in ring {
                while self.tenant_may_grant(tenant, now) && self.queue_may_grant(queue, now) {
                    let Some(id) = self.item_of_lane(queue, lane, now) else { break };
                    let config = &self.queues[&queue].queue.config;
                    let expired = super::submit::has_expired(&self.tasks[&id].task, config, now.wall);
                    if expired && !self.options.planted.has(Bug::ExpiredStarts) {
                        self.expire(id, now);
                        self.after_grant(queue, lane);
                        continue;
                    }
                    return Some((id, lane));
                }
            }
        }
        self.bring_aside(queue);
        for class in 0..3 {
            self.scan_lanes(queue, class, true);
        }
        None
    }

    /// Takes the head of a lane if it is an item and nothing holds it back.
    fn item_of_lane(&mut self, queue: QueueId, lane: i64, now: Now) -> Option<TaskId> {
        let known = self.queues[&queue].lanes.get(&lane)?;
        // Of an ordering key, each head decides for itself.
        if !known.ordered && !self.is_of_items(known.requirement) {
            return None;
        }
        let (head, _) = self.ready_head(queue, lane, now)?;
        if !self.tasks[&head].task.spec.is_item() {
            return None;
        }
        self.queues.get_mut(&queue)?.lanes.get_mut(&lane)?.window.pop_front();
        self.entry(head).in_window = false;
        Some(head)
    }

    fn is_of_items(&self, requirement: crate::ready::RequirementId) -> bool {
        let needed = &self.requirements[requirement.0 as usize].requires;
        needed.iter().any(|(name, value)| (&**name, &**value) == crate::task::ITEM)
    }

    /// Whether somebody waits for tasks with such a requirement who is not a worker.
    pub(super) fn taker_waits(&self, queue: QueueId, requirement: RequirementId) -> bool {
        !self.takers.waiting.is_empty() && self.takers.waiting.contains_key(&queue) && self.is_of_items(requirement)
    }

    pub(super) fn settle_item(
        &mut self,
        request: RequestId,
        tenant: TenantId,
        id: TaskId,
        (token, how): (Token, Settlement),
        now: Now,
    ) {
        let again = || crate::command::Command::Settle { request, tenant, task: id, token, how: how.clone() };
        if !self.at_hand(tenant, id, again) {
            return;
        }
        let task = &self.tasks[&id].task;
        if !task.spec.is_item() {
            return self
                .refuse(request, Refusal::Conflict("it is a task of workers, not an item that is taken".into()));
        }
        if !self.is_current(id, token) {
            if task.token == token && is_done_already(task, &how) {
                // The answer to the first call was lost on its way.
                return self.reply_task(request, id);
            }
            let text = match task.token == token {
                true => format!("the lease is over and nothing was changed; the item is {}", task.state.as_str()),
                false => "the item was taken again since and nothing was changed".to_owned(),
            };
            return self.refuse(request, Refusal::Conflict(text.into()));
        }
        let cancelling = task.cancelling;
        match how {
            Settlement::End(outcome) => self.finish(id, outcome, now),
            Settlement::Renew => self.renew(id, token, now),
            Settlement::Postpone { .. } if cancelling => {
                self.lose(id, AttemptOutcome::Cancelled, Failure::ours("cancelled", "cancelled while it was out"), now);
            }
            Settlement::Postpone { delay_ms } => self.put_back(id, delay_ms, now),
        }
        self.reply_task(request, id);
    }

    /// A lease that ran out: the attempt is counted, and the item is for the next one at once.
    pub(super) fn lease_over(&mut self, id: TaskId, now: Now) {
        if self.options.planted.has(Bug::EndlessLease) {
            return;
        }
        let text = "the lease ran out before the item was settled";
        self.lose(id, AttemptOutcome::Lost, Failure::ours("lease-expired", text), now);
    }

    /// A sign of life of an attempt: its heartbeat limit counts from now.
    pub(super) fn renew(&mut self, id: TaskId, token: Token, now: Now) {
        let limit = self.heartbeat_limit(id);
        let Some(run) = self.entry(id).run.as_mut() else { return };
        if let Some(timer) = run.timers[Stage::Heartbeat as usize].take() {
            self.mono_wheel.cancel(timer);
            let timer = self.mono_wheel.insert(now.mono + limit, MonoTimer::Attempt(id, token, Stage::Heartbeat));
            self.entry(id).run.as_mut().expect("it was just there").timers[Stage::Heartbeat as usize] = Some(timer);
        }
    }
}

/// Whether a task already is as a settlement under its token would make it.
fn is_done_already(task: &crate::task::Task, how: &Settlement) -> bool {
    match how {
        Settlement::End(Outcome::Ok { .. }) => task.state == State::Succeeded,
        Settlement::End(Outcome::Failed { failure, .. }) => {
            task.state != State::Running && task.ending.as_ref().and_then(|e| e.failure.as_ref()) == Some(failure)
        }
        Settlement::Renew | Settlement::Postpone { .. } => false,
    }
}
