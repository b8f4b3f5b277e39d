//! Dispatch: who gets a permit next. Tenants share by weight (deficit round robin), within a tenant the higher class
//! goes first, raised by waiting, and within a class lanes take turns. Every limit is looked at here, and only here is
//! one taken.
//!
//! What cannot go on is taken out of the turn and put back by what frees it: a result, a timer, a new session. So the
//! cost of a turn is that of its grants, whatever the number of queues, lanes and workers that wait.

use super::affinity::Turn;
use super::{Entry, MonoTimer, Partition, Run, Stage};
use crate::effect::Grant;
use crate::id::{Name, QueueId, SessionId, TaskId, TenantId, Token, WorkerId};
use crate::limit;
use crate::planted::Bug;
use crate::ready::{Parked, QueueWork, gcra, lane_key};
use crate::task::{Payload, State, Task};
use crate::time::Now;
use crate::wheel::TimerKey;

/// What became of an offer of a lane.
enum Offer {
    /// So many tasks went out.
    Granted(u32),
    /// The lane is out of the ring until something changes.
    Gone,
    /// No free session of this pool fits.
    Starved,
}

impl Partition {
    /// Hands out what is ready. Returns whether the turn ended at its bound.
    pub(super) fn dispatch(&mut self, now: Now) -> bool {
        if self.holding {
            return false;
        }
        let mut left = self.options.grants_per_turn as u64;
        loop {
            self.dispatch_pools(&mut left, now);
            // Each time some leave what waits for a worker, or a permit goes: it ends.
            if left == 0 || !self.call_again() {
                return left == 0;
            }
        }
    }

    fn dispatch_pools(&mut self, bound: &mut u64, now: Now) {
        let mut left = *bound;
        for pool in 0..self.pools.len() {
            while left > 0 && self.pools[pool].has_free() {
                let Some(tenant) = self.pools[pool].ring.front().copied() else { break };
                let weight = self.tenants.get(&tenant).map_or(100, |t| u64::from(t.tenant.config.weight.max(1)));
                let Some(turn) = self.pools[pool].tenants.get_mut(&tenant) else {
                    self.pools[pool].ring.pop_front();
                    continue;
                };
                if turn.deficit < 100 {
                    turn.deficit += weight;
                }
                left = left.saturating_sub(self.serve_tenant(pool, tenant, left, now));
                // The turn passes on unless it was cut short by the bound or by the lack of sessions.
                let spent = self.pools[pool].tenants.get(&tenant).is_none_or(|t| t.deficit < 100);
                let stays = self.options.planted.has(Bug::UnfairTurns);
                if spent && !stays && self.pools[pool].ring.front() == Some(&tenant) {
                    self.pools[pool].ring.rotate_left(1);
                }
            }
        }
        *bound = left;
    }

    fn serve_tenant(&mut self, pool: usize, tenant: TenantId, bound: u64, now: Now) -> u64 {
        let mut served = 0;
        while served < bound && self.pools[pool].has_free() {
            match self.pools[pool].tenants.get(&tenant) {
                Some(turn) if turn.deficit >= 100 => {}
                _ => break,
            }
            let granted = u64::from(self.grant_from_tenant(pool, tenant, now));
            if granted == 0 {
                let pool = &mut self.pools[pool];
                pool.tenants.remove(&tenant);
                pool.ring.retain(|t| *t != tenant);
                break;
            }
            served += granted;
            if let Some(turn) = self.pools[pool].tenants.get_mut(&tenant) {
                turn.deficit = turn.deficit.saturating_sub(100 * granted);
            }
        }
        served
    }

    /// One grant (or one batch) of a tenant; 0 = it has nothing that can go.
    fn grant_from_tenant(&mut self, pool: usize, tenant: TenantId, now: Now) -> u32 {
        if !self.tenant_may_grant(tenant, now) {
            return 0;
        }
        while let Some(queue) = self.best_queue(pool, tenant, now) {
            let granted = self.grant_from_queue(pool, queue, now);
            if granted > 0 {
                if let Some(turn) = self.pools[pool].tenants.get_mut(&tenant)
                    && turn.queues.len() > 1
                {
                    turn.queues.retain(|q| *q != queue);
                    turn.queues.push_back(queue);
                }
                return granted;
            }
            if let Some(turn) = self.pools[pool].tenants.get_mut(&tenant) {
                turn.queues.retain(|q| *q != queue);
            }
        }
        0
    }

    pub(super) fn tenant_may_grant(&mut self, tenant: TenantId, now: Now) -> bool {
        let Some(t) = self.tenants.get_mut(&tenant) else { return false };
        let limited = t.tenant.config.concurrency > 0 && !self.options.planted.has(Bug::IgnoredTenantLimit);
        if limited && t.running >= t.tenant.config.concurrency {
            return false;
        }
        let Some(rate) = t.tenant.config.rate else { return true };
        match gcra(t.tat_us, now.wall * 1000, rate) {
            _ if self.options.planted.has(Bug::IgnoredRate) => true,
            Ok(_) => true,
            Err(wait_us) => {
                let at = now.mono + wait_us.div_ceil(1000);
                if t.rate_until <= now.mono {
                    t.rate_until = at;
                    self.mono_wheel.insert(at, MonoTimer::TenantRate(tenant));
                }
                false
            }
        }
    }

    /// The queue of a tenant whose head has the highest class; among equals the next in turn. Looks at 8 at most.
    fn best_queue(&mut self, pool: usize, tenant: TenantId, now: Now) -> Option<QueueId> {
        let turn = self.pools[pool].tenants.get(&tenant)?;
        if turn.queues.len() == 1 {
            return turn.queues.front().copied();
        }
        let rank =
            |id: &QueueId| self.queues.get(id).and_then(|q| self.ranked_lines(q.queue.id, now)[0]).map_or(-1, |r| r.0);
        let mut best = None;
        for id in turn.queues.iter().take(8) {
            let rank = rank(id);
            if best.is_none_or(|(r, _)| rank > r) {
                best = Some((rank, *id));
            }
        }
        best.map(|(_, id)| id)
    }

    /// Lines of a queue that offer something, best first: class raised by one for each aging time the head has waited.
    pub(super) fn ranked_lines(&self, queue: QueueId, now: Now) -> [Option<(i64, u64, usize)>; 3] {
        let q = &self.queues[&queue];
        let aging = if self.options.planted.has(Bug::NoAging) { 0 } else { q.queue.config.aging_ms };
        let mut ranked = [None; 3];
        for (class, line) in q.lines.iter().enumerate() {
            let Some(lane) = line.ring.front() else { continue };
            let since = q.lanes.get(lane).and_then(|l| l.window.front()).map_or(now.wall, |r| r.since);
            let age = now.wall.saturating_sub(since);
            let raise = age.checked_div(aging).unwrap_or(0) as i64;
            // No class is raised above the highest: there the older goes first, so that a backlog of high tasks, however
            // old, cannot hold a low one back for ever.
            ranked[class] = Some(((class as i64).saturating_add(raise).min(2), age, class));
        }
        ranked.sort_by(|a, b| b.cmp(a));
        ranked
    }

    fn grant_from_queue(&mut self, pool: usize, queue: QueueId, now: Now) -> u32 {
        if !self.queue_may_grant(queue, now) {
            return 0;
        }
        for class in 0..3 {
            self.scan_lanes(queue, class, false);
        }
        for (_, _, class) in self.ranked_lines(queue, now).into_iter().flatten() {
            let mut looks = self.queues[&queue].lines[class].ring.len();
            while looks > 0 {
                looks -= 1;
                let Some(lane) = self.queues[&queue].lines[class].ring.front().copied() else { break };
                match self.offer(pool, queue, lane, now) {
                    Offer::Granted(n) => return n,
                    Offer::Gone => {}
                    Offer::Starved => {
                        self.queues.get_mut(&queue).expect("it is there").lines[class].ring.rotate_left(1)
                    }
                }
            }
        }
        self.bring_aside(queue);
        for class in 0..3 {
            self.scan_lanes(queue, class, true);
        }
        0
    }

    pub(super) fn queue_may_grant(&mut self, queue: QueueId, now: Now) -> bool {
        let Some(q) = self.queues.get_mut(&queue) else { return false };
        let mut limit = q.queue.config.concurrency;
        if limit > 0 && self.options.planted.has(Bug::LimitOffByOne) {
            limit += 1;
        }
        if !q.gives() || (limit > 0 && q.running >= limit) {
            return false;
        }
        let Some(rate) = q.queue.config.rate else { return true };
        match gcra(q.tat_us, now.wall * 1000, rate) {
            _ if self.options.planted.has(Bug::IgnoredRate) => true,
            Ok(_) => true,
            Err(wait_us) => {
                let at = now.mono + wait_us.div_ceil(1000);
                if q.rate_until <= now.mono {
                    q.rate_until = at;
                    self.mono_wheel.insert(at, MonoTimer::QueueRate(queue));
                }
                false
            }
        }
    }

    /// The head of a lane, if it can go now, and whether others may share its call. A lane whose head cannot is out of the
    /// ring until something changes.
    pub(super) fn ready_head(&mut self, queue: QueueId, lane_id: i64, now: Now) -> Option<(TaskId, bool)> {
        self.trim_head(queue, lane_id);
        let q = self.queues.get_mut(&queue).expect("a served queue exists");
        let class = crate::ready::class_of_lane(lane_id);
        let Some(lane) = q.lanes.get_mut(&lane_id) else {
            q.lines[class].ring.retain(|l| *l != lane_id);
            return None;
        };
        let Some(head) = lane.window.front().copied() else {
            self.drain_lane(queue, lane_id);
            return None;
        };
        // Tasks that go before the head may be in the store: of an ordering key they have to.
        if lane.unverified || (lane.ordered && lane.spilled && head.order >= lane.from) {
            self.leave_ring(queue, lane_id, None);
            self.read_lane(queue, lane_id);
            return None;
        }
        let size = q.queue.config.batch_size;
        let wait = q.queue.config.batch_wait_ms;
        // Tasks of an ordering key run one after another, so they never share a call.
        let batching = lane.batchable && size >= 2 && !lane.ordered;
        if batching && (lane.window.len() as u32) < size && !lane.spilled && now.wall < head.since + wait {
            let until = now.mono + (head.since + wait - now.wall);
            self.leave_ring(queue, lane_id, Some(Parked::Batch(until)));
            self.mono_wheel.insert(until, MonoTimer::BatchWait(queue, lane_id));
            return None;
        }
        if lane.ordered {
            self.fit_lane_to_head(queue, lane_id, head.id);
        }
        if let Some(parked) = self.held_back(queue, lane_id, head.id) {
            self.leave_ring(queue, lane_id, Some(parked));
            return None;
        }
        Some((head.id, batching))
    }

    /// Offers the head of a lane to a pool.
    fn offer(&mut self, pool: usize, queue: QueueId, lane_id: i64, now: Now) -> Offer {
        let Some((head, batching)) = self.ready_head(queue, lane_id, now) else { return Offer::Gone };
        let config = &self.queues[&queue].queue.config;
        let (policy, size) = (config.policy, config.batch_size);
        let lane = &self.queues[&queue].lanes[&lane_id];
        let (requirement, key) = (lane.requirement, lane.key.clone());
        let room = self.key_room(queue, key.as_ref(), head);
        let spec = self.tasks[&head].task.spec.clone();
        let chosen = match self.keyed_turn(pool, queue, lane_id, spec.affinity_key.as_ref(), now) {
            Turn::Open => self.choose(pool, queue, policy, requirement, head, &spec),
            Turn::Home(session) => Some(session),
            Turn::Elsewhere => return Offer::Starved,
            Turn::Parked => return Offer::Gone,
        };
        let Some(session) = chosen else {
            self.await_session(queue, requirement);
            return Offer::Starved;
        };
        let members = if batching { size.min(room).min(self.room_of_limits(queue)) } else { 1 };
        let granted = self.grant_members(queue, lane_id, session, members, now);
        self.granted_to(session, now);
        self.after_grant(queue, lane_id);
        Offer::Granted(granted)
    }

    /// Tasks of an ordering key are one lane whatever each of them needs: what its next task needs counts.
    fn fit_lane_to_head(&mut self, queue: QueueId, lane_id: i64, head: TaskId) {
        let task = &self.tasks[&head].task;
        let (kind, priority, spec) = (task.kind, task.priority, task.spec.clone());
        let requirement = self.requirement_of(kind, priority, &spec);
        let lane = self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id));
        let lane = lane.expect("the caller found it");
        lane.requirement = requirement;
        lane.key = spec.concurrency_key.clone();
    }

    /// Why the head of a lane cannot go now, whoever is free.
    fn held_back(&self, queue: QueueId, lane_id: i64, head: TaskId) -> Option<Parked> {
        let lane = &self.queues[&queue].lanes[&lane_id];
        let broken = self.options.planted.has(Bug::BrokenOrder);
        let task = &self.tasks[&head].task;
        if task.state == State::Scheduled {
            return Some(Parked::Due);
        }
        if lane.ordered && !broken && self.is_held(queue, lane_id, head, task.seq) {
            return Some(Parked::Order);
        }
        (self.key_room(queue, lane.key.as_ref(), head) == 0).then_some(Parked::Key)
    }

    /// Whether another task of the ordering key goes first: one that was granted and has not ended. A task that was
    /// accepted before that one (and came back by a person's retry) need not wait for it, unless it runs.
    pub(crate) fn is_held(&self, queue: QueueId, lane_id: i64, head: TaskId, head_seq: u64) -> bool {
        let Some((holder, seq)) = self.holders.get(&(queue, lane_id)).filter(|(holder, _)| *holder != head) else {
            return false;
        };
        head_seq > *seq || self.tasks.get(holder).is_some_and(|entry| entry.task.state == State::Running)
    }

    /// Removes from the head of a lane what is no longer waiting: cancelled, moved, expired.
    fn trim_head(&mut self, queue: QueueId, lane_id: i64) {
        loop {
            let Some(lane) = self.queues.get_mut(&queue).and_then(|q| q.lanes.get_mut(&lane_id)) else { return };
            let Some(head) = lane.window.front().copied() else { return };
            let waits = self.tasks.get(&head.id).is_some_and(|e| e.in_window && e.task.lane == Some(lane_id));
            if waits {
                return;
            }
            lane.window.pop_front();
        }
    }

    fn key_room(&self, queue: QueueId, key: Option<&Name>, head: TaskId) -> u32 {
        let Some(key) = key else { return u32::MAX };
        let q = &self.queues[&queue];
        let own = self.tasks[&head].task.spec.concurrency_limit;
        let limit = if own > 0 { own } else { q.queue.config.key_concurrency };
        if limit == 0 || self.options.planted.has(Bug::IgnoredKeyLimit) {
            return u32::MAX;
        }
        limit.saturating_sub(q.keys.get(key).map_or(0, |k| k.running))
    }

    fn room_of_limits(&self, queue: QueueId) -> u32 {
        let q = &self.queues[&queue];
        let room = |limit: u32, running: u32| if limit == 0 { u32::MAX } else { limit.saturating_sub(running) };
        let of_queue = room(q.queue.config.concurrency, q.running);
        let tenant = self.tenants.get(&q.queue.tenant);
        let of_tenant = tenant.map_or(u32::MAX, |t| room(t.tenant.config.concurrency, t.running));
        let rated = q.queue.config.rate.is_some() || tenant.is_some_and(|t| t.tenant.config.rate.is_some());
        let of_rate = if rated { 1 } else { u32::MAX };
        of_queue.min(of_tenant).min(of_rate)
    }

    fn grant_members(&mut self, queue: QueueId, lane_id: i64, session: SessionId, members: u32, now: Now) -> u32 {
        let call = if members > 1 {
            self.calls = self.calls.wrapping_add(1).max(1);
            self.calls
        } else {
            0
        };
        let mut granted = 0;
        while granted < members {
            self.trim_head(queue, lane_id);
            let q = self.queues.get_mut(&queue).expect("it is there");
            let Some(head) = q.lanes.get_mut(&lane_id).and_then(|l| l.window.pop_front()) else { break };
            let entry = self.tasks.get_mut(&head.id).expect("trimmed heads are in memory");
            entry.in_window = false;
            if super::submit::has_expired(&entry.task, &q.queue.config, now.wall)
                && !self.options.planted.has(Bug::ExpiredStarts)
            {
                self.expire(head.id, now);
                // A place in the turn is used up all the same, so that a pile of expired tasks cannot hold the loop.
                granted += 1;
                continue;
            }
            self.grant(head.id, session, call, now);
            granted += 1;
        }
        granted
    }

    fn grant(&mut self, id: TaskId, session: SessionId, call: u32, now: Now) {
        let s = &self.sessions[&session];
        let (worker, at_once) = (s.worker, s.hello.buffer == 0);
        let task = self.begin_attempt(id, worker, at_once, 0, now);
        self.bind(session, id, call);
        let grant = self.grant_of(task, call);
        let s = self.sessions.get_mut(&session).expect("grants go to live sessions");
        if s.outbox.is_empty() {
            self.outbox.push(session);
        }
        s.outbox.push(grant);
    }

    /// The grant: counted, fenced and written in one change. `at_once` = it begins now; `lease_ms` above 0 = it is taken
    /// for so long and belongs to no session.
    pub(super) fn begin_attempt(
        &mut self,
        id: TaskId,
        worker: WorkerId,
        at_once: bool,
        lease_ms: u64,
        now: Now,
    ) -> Task {
        self.grants += 1;
        let token = Token { epoch: self.epoch, grant: self.grants };
        let entry = self.tasks.get_mut(&id).expect("a granted task is in memory");
        let lane = entry.task.lane.take();
        if !self.options.planted.has(Bug::UncountedAttempt) {
            entry.task.attempt += 1;
        }
        entry.task.token = token;
        entry.task.worker = worker;
        entry.task.granted = now.wall;
        entry.task.due = if lease_ms > 0 { now.wall + lease_ms } else { 0 };
        let ordered = entry.task.spec.ordering_key.is_some();
        let (queue, tenant, seq) = (entry.task.queue, entry.task.tenant, entry.task.seq);
        if ordered && let Some(lane) = lane {
            self.holders.insert((queue, lane), (id, seq));
        }
        self.set_state(id, State::Running, now);
        self.running += 1;
        self.entry(id).task.started = if at_once { now.wall } else { 0 };
        let task = self.tasks[&id].task.clone();
        self.take_permits(&task);
        self.take_rates(queue, tenant, now);
        let timers = self.attempt_timers(id, at_once, now);
        let entry = self.tasks.get_mut(&id).expect("it was just there");
        entry.run = Some(Box::new(Run { timers, ..Run::default() }));
        task
    }

    /// What whoever gets the attempt is told.
    pub(super) fn grant_of(&self, task: Task, call: u32) -> Grant {
        let q = &self.queues[&task.queue];
        let config = &q.queue.config;
        let run_ms = if task.spec.timeouts.run_ms > 0 { task.spec.timeouts.run_ms } else { config.timeouts.run_ms };
        let grant = Grant {
            task: task.id,
            token: task.token,
            tenant: task.tenant,
            queue: q.queue.name.clone(),
            kind: self.types[&task.kind].name.clone(),
            attempt: task.attempt,
            max_attempts: max_attempts(&task, config),
            priority: task.priority,
            run_ms,
            batch: call,
            input: task.input,
            spec: task.spec,
        };
        debug_assert!(grant.input != Payload::Cold, "a granted task has its input in memory");
        grant
    }

    pub(crate) fn take_permits(&mut self, task: &Task) {
        if let Some(t) = self.tenants.get_mut(&task.tenant) {
            t.running += 1;
        }
        let Some(q) = self.queues.get_mut(&task.queue) else { return };
        q.running += 1;
        if let Some(key) = &task.spec.concurrency_key {
            q.keys.entry(key.clone()).or_default().running += 1;
        }
    }

    fn take_rates(&mut self, queue: QueueId, tenant: TenantId, now: Now) {
        if let Some(q) = self.queues.get_mut(&queue)
            && let Some(rate) = q.queue.config.rate
        {
            // The state is at most one interval ahead: a grant was allowed a moment ago at the same time.
            q.tat_us = gcra(q.tat_us, now.wall * 1000, rate).unwrap_or(q.tat_us + rate.interval_us);
            q.rate_touched = true;
            self.touched_queues.push(queue);
        }
        if let Some(t) = self.tenants.get_mut(&tenant)
            && let Some(rate) = t.tenant.config.rate
        {
            t.tat_us = gcra(t.tat_us, now.wall * 1000, rate).unwrap_or(t.tat_us + rate.interval_us);
            t.rate_touched = true;
            self.touched_tenants.push(tenant);
        }
    }

    /// Gives back what `take_permits` took and wakes what waited for it.
    pub(crate) fn release_permits(&mut self, id: TaskId) {
        let task = &self.tasks[&id].task;
        let (tenant, queue, key) = (task.tenant, task.queue, task.spec.concurrency_key.clone());
        self.running = self.running.saturating_sub(1);
        let mut wake_tenant = false;
        if let Some(t) = self.tenants.get_mut(&tenant) {
            t.running = t.running.saturating_sub(1);
            wake_tenant = t.tenant.config.concurrency > 0;
        }
        let Some(q) = self.queues.get_mut(&queue) else { return };
        q.running = q.running.saturating_sub(1);
        let wake_queue = q.queue.config.concurrency > 0;
        if let Some(key) = key {
            self.release_key(queue, &key);
        }
        if self.options.planted.has(Bug::LostWakeUp) {
            return;
        }
        if wake_tenant {
            self.wake_tenant(tenant);
        } else if wake_queue {
            self.wake_queue(queue);
        }
    }

    fn release_key(&mut self, queue: QueueId, name: &Name) {
        let q = self.queues.get_mut(&queue).expect("the caller found it");
        let Some(key) = q.keys.get_mut(name) else { return };
        key.running = key.running.saturating_sub(1);
        let waiting = std::mem::take(&mut key.waiting);
        let dropped = std::mem::take(&mut key.dropped);
        if key.running == 0 {
            q.keys.remove(name);
        }
        for lane in waiting {
            self.unpark(queue, lane);
        }
        self.fetch_lanes(queue, dropped);
    }

    /// The time limits of an attempt as timers, all from now. A worker with a buffer may hold it for a while, so its run
    /// and its signs of life are counted from the start that it reports.
    pub(crate) fn attempt_timers(&mut self, id: TaskId, begun: bool, now: Now) -> [Option<TimerKey>; 4] {
        let task = &self.tasks[&id].task;
        let (token, own) = (task.token, task.spec.timeouts);
        let config = self.queues.get(&task.queue).map(|q| q.queue.config.timeouts).unwrap_or_default();
        let pick = |own: u64, theirs: u64| if own > 0 { own } else { theirs };
        let heartbeat = self.heartbeat_limit(id);
        let mut arm = |limit: u64, stage: Stage| {
            (limit > 0).then(|| self.mono_wheel.insert(now.mono + limit, MonoTimer::Attempt(id, token, stage)))
        };
        let start = arm(pick(own.start_ms, config.start_ms), Stage::Start);
        if !begun {
            return [None, start, None, None];
        }
        let run = arm(pick(own.run_ms, config.run_ms), Stage::Run);
        [run, start, arm(heartbeat, Stage::Heartbeat), None]
    }

    /// How long an attempt may give no sign of life, in milliseconds; 0 = for ever. Of a taken item that is its lease.
    pub(super) fn heartbeat_limit(&self, id: TaskId) -> u64 {
        let task = &self.tasks[&id].task;
        let own = task.spec.timeouts.heartbeat_ms;
        match task.lease_ms() {
            0 if own > 0 => own,
            0 => self.queues.get(&task.queue).map_or(0, |q| q.queue.config.timeouts.heartbeat_ms),
            lease => lease,
        }
    }

    pub(crate) fn lane_of(&self, task: &Task) -> Option<i64> {
        let by_key = self.queues.get(&task.queue).is_some_and(QueueWork::gives_by_key);
        Some(lane_key(task.priority, &self.types.get(&task.kind)?.name, &task.spec, by_key))
    }

    pub(crate) fn entry(&mut self, id: TaskId) -> &mut Entry {
        self.tasks.get_mut(&id).expect("the task is in memory")
    }
}

/// Grants a task may have in all.
pub(crate) fn max_attempts(task: &Task, config: &crate::config::QueueConfig) -> u32 {
    let policy = task.spec.retry.as_ref().unwrap_or(&config.retry);
    task.attempt_base + policy.max_attempts.clamp(1, limit::MAX_ATTEMPTS)
}
