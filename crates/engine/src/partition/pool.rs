//! Pools: sessions that serve the same queues and types. A pool knows which of its sessions are free, in the order of
//! each policy, and which tenants have something for it, in turn.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;

use super::{MonoTimer, Partition, Requirement};
use crate::command::Hello;
use crate::config::Policy;
use crate::effect::Effect;
use crate::id::{Name, QueueId, SessionId, TaskId, TenantId, Token};
use crate::limit;
use crate::ready::{Fnv, RequirementId, mix};
use crate::task::Spec;
use crate::time::Now;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    tenant: Option<TenantId>,
    /// Queue names; empty = all.
    queues: Vec<Name>,
    types: Vec<Name>,
    /// Live sessions in it.
    pub(crate) sessions: u32,
    /// Free sessions by load, by the time of their last grant, by weighted time; each with the session. Those with a free
    /// permit go before those with nothing but room in their buffers.
    orders: [BTreeSet<(u64, SessionId)>; 3],
    /// Tenants that may have something, in turn.
    pub(crate) ring: VecDeque<TenantId>,
    /// What each of them may have.
    pub(crate) tenants: HashMap<TenantId, TenantTurn>,
    /// Requirements that no free session meets, and the queues that wait for one.
    pub(crate) starved: HashMap<RequirementId, Vec<QueueId>>,
}

/// A tenant's turn in a pool.
#[derive(Debug, Default)]
pub(crate) struct TenantTurn {
    /// Queues that may have something, in turn.
    pub(crate) queues: VecDeque<QueueId>,
    /// Deficit round robin: what it may still take before the next tenant's turn, in hundredths of a grant.
    pub(crate) deficit: u64,
}

/// Goes into the key of a session whose permits are all in use.
const LATE: u64 = 1 << 63;

impl Pool {
    pub(crate) fn serves(&self, tenant: TenantId, queue: &Name) -> bool {
        self.tenant.is_none_or(|t| t == tenant) && (self.queues.is_empty() || self.queues.contains(queue))
    }

    /// Whether no other tenant waits for this pool, so that its sessions may be given away outside its own turns.
    fn waits_for_none_but(&self, tenant: TenantId) -> bool {
        self.ring.iter().all(|t| *t == tenant)
    }

    pub(crate) fn has_free(&self) -> bool {
        !self.orders[0].is_empty()
    }
}

impl Partition {
    pub(super) fn pool_for(&mut self, hello: &Hello) -> usize {
        let mut queues = hello.queues.clone();
        queues.sort();
        queues.dedup();
        let mut types = hello.types.clone();
        types.sort();
        types.dedup();
        let same = |p: &Pool| p.tenant == hello.tenant && p.queues == queues && p.types == types;
        if let Some(index) = self.pools.iter().position(same) {
            return index;
        }
        let pool = Pool {
            tenant: hello.tenant,
            queues,
            types,
            sessions: 0,
            orders: Default::default(),
            ring: VecDeque::new(),
            tenants: HashMap::new(),
            starved: HashMap::new(),
        };
        // A pool without sessions is used again, so that their number is bounded by the sessions that ever lived at once.
        let index = match self.pools.iter().position(|p| p.sessions == 0) {
            Some(index) => {
                self.queues.values_mut().for_each(|q| q.pools.retain(|p| *p as usize != index));
                self.pools[index] = pool;
                index
            }
            None => {
                self.pools.push(pool);
                self.pools.len() - 1
            }
        };
        let number = u32::try_from(index).expect("fewer pools than sessions");
        let pool = &self.pools[index];
        let mut served: Vec<QueueId> = Vec::new();
        for (id, q) in &mut self.queues {
            if pool.serves(q.queue.tenant, &q.queue.name) {
                q.pools.push(number);
                served.push(*id);
            }
        }
        // The map has no order of its own that may decide anything.
        served.sort();
        served.into_iter().for_each(|id| self.rouse_queue(id));
        index
    }

    /// A queue may have something to give: its pools look at it when they have a free session.
    pub(crate) fn wake_queue(&mut self, id: QueueId) {
        let Some(q) = self.queues.get(&id) else { return };
        let tenant = q.queue.tenant;
        self.takers.wake(id);
        for pool in &q.pools {
            let pool = &mut self.pools[*pool as usize];
            if !pool.tenants.contains_key(&tenant) {
                pool.ring.push_back(tenant);
            }
            let turn = pool.tenants.entry(tenant).or_default();
            if !turn.queues.contains(&id) {
                turn.queues.push_back(id);
            }
        }
    }

    /// As [`Partition::wake_queue`], and what it has in the store is looked at again: somebody may serve it now.
    fn rouse_queue(&mut self, id: QueueId) {
        if let Some(q) = self.queues.get_mut(&id) {
            q.lines.iter_mut().for_each(crate::ready::Line::rescan);
        }
        self.wake_queue(id);
    }

    /// Whether a free session could take such a task at once.
    pub(crate) fn somebody_free(&self, queue: QueueId, requirement: RequirementId) -> bool {
        let needed = &self.requirements[requirement.0 as usize];
        let packaged = self.is_packaged(needed);
        let Some(q) = self.queues.get(&queue) else { return false };
        let mut free = q.pools.iter().flat_map(|pool| &self.pools[*pool as usize].orders[0]);
        free.any(|(_, id)| fits(needed, &self.sessions[id], packaged)) || self.taker_waits(queue, requirement)
    }

    /// A queue has something that no free session can run: one that can wakes it.
    pub(crate) fn await_session(&mut self, queue: QueueId, requirement: RequirementId) {
        let pools = self.queues.get(&queue).map(|q| q.pools.clone()).unwrap_or_default();
        for pool in pools {
            let waiting = self.pools[pool as usize].starved.entry(requirement).or_default();
            if !waiting.contains(&queue) {
                waiting.push(queue);
            }
        }
    }

    pub(crate) fn wake_tenant(&mut self, tenant: TenantId) {
        let queues = self.tenants.get(&tenant).map(|t| t.queues.clone()).unwrap_or_default();
        for id in queues {
            if self.queues.get(&id).is_some_and(|q| q.has_ready()) {
                self.wake_queue(id);
            }
        }
    }

    /// A session joined or left: what waits for a capability is looked at again.
    pub(super) fn pool_changed(&mut self, pool: usize) {
        let mut starved: Vec<QueueId> = self.pools[pool].starved.drain().flat_map(|(_, queues)| queues).collect();
        starved.sort();
        starved.dedup();
        starved.into_iter().for_each(|id| self.rouse_queue(id));
    }

    /// What such requirements need changed: their queues are looked at again by every pool that had nobody for them.
    pub(super) fn pools_changed(&mut self, concerned: impl Fn(&Requirement) -> bool) {
        let mut starved: Vec<QueueId> = Vec::new();
        for pool in &mut self.pools {
            let requirements = &self.requirements;
            let found = pool.starved.extract_if(|id, _| concerned(&requirements[id.0 as usize]));
            found.for_each(|(_, queues)| starved.extend(queues));
        }
        starved.sort();
        starved.dedup();
        starved.into_iter().for_each(|id| self.rouse_queue(id));
    }

    fn place_of(&self, id: SessionId) -> [u64; 3] {
        let s = &self.sessions[&id];
        // The share of its permits in use, in 1/65536. The buffer counts only when all permits are in use.
        let load = (u64::from(s.used) << 16) / u64::from(s.hello.permits.max(1));
        let late = if s.used < s.hello.permits { 0 } else { LATE };
        [load, s.virtual_time[0] | late, s.virtual_time[1] | late]
    }

    pub(super) fn enter_pool(&mut self, id: SessionId) {
        let Some(s) = self.sessions.get(&id) else { return };
        if s.place.is_some() || !s.is_free() {
            return;
        }
        let pool = s.pool;
        // A newcomer starts where the others are, or it would get everything until it has caught up.
        let floor = self.pools[pool].orders[2].first().map_or(0, |(time, _)| *time & !LATE);
        let s = self.sessions.get_mut(&id).expect("it was just there");
        s.virtual_time[1] = s.virtual_time[1].max(floor);
        let place = self.place_of(id);
        for (order, key) in self.pools[pool].orders.iter_mut().zip(place) {
            order.insert((key, id));
        }
        self.sessions.get_mut(&id).expect("it was just there").place = Some(place);
        self.feed_starved(pool, id);
    }

    pub(super) fn leave_pool(&mut self, id: SessionId) {
        let Some(s) = self.sessions.get_mut(&id) else { return };
        let Some(place) = s.place.take() else { return };
        for (order, key) in self.pools[s.pool].orders.iter_mut().zip(place) {
            order.remove(&(key, id));
        }
    }

    /// Something of the session changed: its place among the free ones, or whether it is free.
    pub(super) fn reenter_pool(&mut self, id: SessionId) {
        self.leave_pool(id);
        self.enter_pool(id);
    }

    /// A session became free: queues whose tasks only such a session can run are looked at again.
    fn feed_starved(&mut self, pool: usize, session: SessionId) {
        if self.pools[pool].starved.is_empty() {
            return;
        }
        let s = &self.sessions[&session];
        let mut fed: Vec<RequirementId> = self.pools[pool].starved.keys().copied().collect();
        fed.retain(|r| {
            let needed = &self.requirements[r.0 as usize];
            fits(needed, s, self.is_packaged(needed))
        });
        fed.sort();
        for requirement in fed {
            for queue in self.pools[pool].starved.remove(&requirement).unwrap_or_default() {
                self.rouse_queue(queue);
            }
        }
    }

    /// The free session that gets a task, by the queue's policy; `None` = none fits. It is looked for in all pools that
    /// serve the queue, except those whose sessions other tenants wait for: these are shared out in their own turns.
    pub(super) fn choose(
        &self,
        pool: usize,
        queue: QueueId,
        policy: Policy,
        requirement: RequirementId,
        task: TaskId,
        spec: &Spec,
    ) -> Option<SessionId> {
        let needed = &self.requirements[requirement.0 as usize];
        let wanted = Wanted { needed, packaged: self.is_packaged(needed), spec };
        let q = &self.queues[&queue];
        let others = q.pools.iter().map(|p| *p as usize).filter(|p| *p != pool);
        let others = others.filter(|p| self.pools[*p].waits_for_none_but(q.queue.tenant));
        let pools = std::iter::once(pool).chain(others).map(|p| &self.pools[p]);
        match policy {
            Policy::ConsistentHash => self.choose_by_hash(pools, &wanted, task),
            Policy::LeastLoaded => pools.filter_map(|p| self.first_of(&p.orders[0], &wanted)).min().map(|(_, id)| id),
            Policy::RoundRobin => pools.filter_map(|p| self.first_of(&p.orders[1], &wanted)).min().map(|(_, id)| id),
            // Weighted times of different pools cannot be compared: the less loaded pool gives, by its own order.
            Policy::Weighted => {
                let least = pools.filter_map(|p| Some((self.first_of(&p.orders[0], &wanted)?, p))).min_by_key(|(at, _)| *at);
                least.and_then(|(_, p)| self.first_of(&p.orders[2], &wanted)).map(|(_, id)| id)
            }
        }
    }

    /// The first session of an order that fits. Among equals, one that has the package already spares a transfer, and
    /// counts as one before the others.
    fn first_of(&self, order: &BTreeSet<(u64, SessionId)>, wanted: &Wanted<'_>) -> Option<((u64, bool), SessionId)> {
        let mut best: Option<((u64, bool), SessionId)> = None;
        for (key, id) in order {
            if best.is_some_and(|((first, _), _)| *key != first) {
                break;
            }
            let session = &self.sessions[id];
            if !fits(wanted.needed, session, wanted.packaged) {
                continue;
            }
            let cached = wanted.spec.package.as_ref().is_none_or(|p| session.hello.packages.contains(p));
            if cached {
                return Some(((*key, false), *id));
            }
            best = best.or(Some(((*key, true), *id)));
        }
        best
    }

    /// Rendezvous hashing: of the free sessions that fit, the one whose hash with the key is highest. A worker that
    /// comes or goes moves only the keys it wins or loses. Source: Thaler and Ravishankar, 1998.
    fn choose_by_hash<'p>(
        &self,
        pools: impl Iterator<Item = &'p Pool>,
        wanted: &Wanted<'_>,
        task: TaskId,
    ) -> Option<SessionId> {
        let mut hash = Fnv::new();
        match &wanted.spec.affinity_key {
            Some(key) => hash.text(key),
            None => hash.number(task.0 as u64),
        }
        let key = hash.finish();
        let free = pools.flat_map(|pool| &pool.orders[0]);
        let fitting = free.filter(|(_, id)| fits(wanted.needed, &self.sessions[id], wanted.packaged));
        fitting.map(|(_, id)| (mix(key ^ mix(u64::from(self.sessions[id].worker.0))), *id)).max().map(|(_, id)| id)
    }

    /// The session got a grant: its place changes.
    pub(super) fn granted_to(&mut self, id: SessionId, now: Now) {
        let s = self.sessions.get_mut(&id).expect("grants go to live sessions");
        s.virtual_time[0] = self.grants;
        s.virtual_time[1] += 1_000_000 / u64::from(s.hello.permits.max(1));
        if s.used > s.hello.permits && !self.balancing {
            self.balancing = true;
            self.mono_wheel.insert(now.mono + limit::RECALL_MS, MonoTimer::Balance);
        }
        self.reenter_pool(id);
    }

    /// Asks for what lies in a worker's buffer while another worker that could run it is idle.
    pub(super) fn balance(&mut self, now: Now) {
        let mut full: Vec<(u32, SessionId)> = Vec::new();
        let mut idle: Vec<SessionId> = Vec::new();
        for (id, s) in &self.sessions {
            if s.used > s.hello.permits && s.connected {
                full.push((s.used - s.hello.permits, *id));
            } else if s.used < s.hello.permits && s.is_free() && self.pools[s.pool].ring.is_empty() {
                idle.push(*id);
            }
        }
        self.balancing = !full.is_empty();
        if self.balancing {
            self.mono_wheel.insert(now.mono + limit::RECALL_MS, MonoTimer::Balance);
        }
        full.sort_unstable_by(|a, b| b.cmp(a));
        // What was asked for before and has not come back yet will need its place.
        let waits = |id: &&TaskId| self.tasks[*id].run.as_ref().is_some_and(|run| run.recalled && !run.started);
        let asked: usize = full.iter().map(|(_, id)| self.sessions[id].attempts.iter().filter(waits).count()).sum();
        let room: u32 = idle.iter().map(|id| self.sessions[id].hello.permits - self.sessions[id].used).sum();
        let mut room = room.saturating_sub(asked as u32);
        for (excess, session) in full {
            let most = excess.min(room) as usize;
            let candidates = self.sessions[&session].attempts.iter().rev();
            let attempts: Vec<(TaskId, Token)> =
                candidates.filter_map(|id| self.recallable(*id, &idle, now)).take(most).collect();
            room -= attempts.len() as u32;
            for (id, _) in &attempts {
                if let Some(run) = self.entry(*id).run.as_mut() {
                    run.recalled = true;
                }
            }
            if !attempts.is_empty() {
                self.effects.push(Effect::Recall { session, attempts });
            }
        }
    }

    /// An attempt that has been in a buffer for long enough, and that one of these sessions could run. Members of a
    /// handler call stay together.
    fn recallable(&self, id: TaskId, idle: &[SessionId], now: Now) -> Option<(TaskId, Token)> {
        let entry = &self.tasks[&id];
        let run = entry.run.as_ref()?;
        let task = &entry.task;
        let waits = !run.started && !run.recalled && run.call == 0 && !task.cancelling;
        if !waits || now.wall < task.granted + limit::RECALL_MS {
            return None;
        }
        let queue = &self.queues.get(&task.queue)?.queue;
        let needed = self.requirements.get(self.known_requirement(task.kind, &task.spec)?.0 as usize)?;
        let packaged = self.is_packaged(needed);
        let could = |id: &SessionId| {
            let s = &self.sessions[id];
            self.pools[s.pool].serves(queue.tenant, &queue.name) && fits(needed, s, packaged)
        };
        idle.iter().any(could).then_some((id, task.token))
    }
}

/// What a session has to have to get a task.
struct Wanted<'a> {
    needed: &'a Requirement,
    /// A package brings the code.
    packaged: bool,
    spec: &'a Spec,
}

/// Whether a worker serves the type and has code for it: its own, or that of a package.
fn runs(needed: &Requirement, hello: &Hello, packaged: bool) -> bool {
    let own = |name: &Name| match name.strip_suffix('*') {
        Some(start) => needed.kind.starts_with(start),
        None => *name == needed.kind,
    };
    (hello.types.is_empty() || hello.types.contains(&needed.kind))
        && (packaged || hello.own_types.as_ref().is_none_or(|names| names.iter().any(own)))
}

/// Whether a session can run tasks with this requirement, with the resources it has left. `packaged` = a package brings
/// their code.
pub(crate) fn fits(needed: &Requirement, session: &super::Session, packaged: bool) -> bool {
    let hello = &session.hello;
    if !runs(needed, hello, packaged) {
        return false;
    }
    let has = |(name, value): &(Name, Name)| hello.labels.iter().any(|(n, v)| n == name && (v == value || &**value == "*"));
    if !needed.requires.iter().all(has) {
        return false;
    }
    let free = |all: u64, taken: u64, wanted: u64| all == 0 || wanted == 0 || taken + wanted <= all;
    let (all, taken, wanted) = (hello.resources, session.taken, needed.resources);
    free(u64::from(all.cpu_millis), u64::from(taken.cpu_millis), u64::from(wanted.cpu_millis))
        && free(all.memory_bytes, taken.memory_bytes, wanted.memory_bytes)
}

/// Whether a session could ever run such tasks, whatever is taken now.
pub(crate) fn could_fit(needed: &Requirement, session: &super::Session, packaged: bool) -> bool {
    let hello = &session.hello;
    let labels = |(name, value): &(Name, Name)| hello.labels.iter().any(|(n, v)| n == name && (v == value || &**value == "*"));
    runs(needed, hello, packaged)
        && needed.requires.iter().all(labels)
        && (hello.resources.cpu_millis == 0 || needed.resources.cpu_millis <= hello.resources.cpu_millis)
        && (hello.resources.memory_bytes == 0 || needed.resources.memory_bytes <= hello.resources.memory_bytes)
}

