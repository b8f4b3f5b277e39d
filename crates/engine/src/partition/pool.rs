//! Pools: sessions that serve the same queues and types. A pool knows which of its sessions are free, in the order of
//! each policy, and which tenants have something for it, in turn.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;

use super::affinity::{key_hash, rank};
use super::{MonoTimer, Partition, Requirement, Session};
use crate::command::Hello;
use crate::config::Policy;
use crate::effect::Effect;
use crate::id::{Name, QueueId, SessionId, TaskId, TenantId, Token};
use crate::limit;
use crate::ready::{RequirementId, mix};
use crate::serve::Serves;
use crate::task::Spec;
use crate::time::Now;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    tenant: Option<TenantId>,
    /// Queue names; empty = all.
    queues: Vec<Name>,
    types: Vec<Name>,
    serves: Serves,
    /// See [`Serves::breadth`].
    breadth: u32,
    /// Live sessions in it, free or not.
    pub(crate) members: BTreeSet<SessionId>,
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
    pub(super) fn waits_for_none_but(&self, tenant: TenantId) -> bool {
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
        let served = &hello.serves;
        let same = |p: &Pool| p.tenant == hello.tenant && p.queues == queues && p.types == types && p.serves == *served;
        if let Some(index) = self.pools.iter().position(same) {
            return index;
        }
        let pool = Pool {
            tenant: hello.tenant,
            queues,
            types,
            breadth: served.breadth(),
            serves: served.clone(),
            members: BTreeSet::new(),
            orders: Default::default(),
            ring: VecDeque::new(),
            tenants: HashMap::new(),
            starved: HashMap::new(),
        };
        // A pool without sessions is used again, so that their number is bounded by the sessions that ever lived at once.
        let index = match self.pools.iter().position(|p| p.members.is_empty()) {
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
        // Who has code for a type may be another one now.
        self.homes.forget();
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
        let free = s.hello.permits.saturating_sub(s.used);
        self.free += u64::from(free);
        let place = self.place_of(id);
        for (order, key) in self.pools[pool].orders.iter_mut().zip(place) {
            order.insert((key, id));
        }
        self.sessions.get_mut(&id).expect("it was just there").place = Some((place, free));
        self.feed_starved(pool, id);
        let s = &self.sessions[&id];
        if !s.awaited.is_empty() && s.called.is_empty() {
            self.call_awaiting(id);
        }
    }

    pub(super) fn leave_pool(&mut self, id: SessionId) {
        let Some(s) = self.sessions.get_mut(&id) else { return };
        let Some((place, free)) = s.place.take() else { return };
        self.free -= u64::from(free);
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
                self.call_aside(queue, requirement);
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
        let pools = pools.filter(|p| p.serves.takes(needed.class, needed.length, needed.executor.as_ref()));
        match policy {
            Policy::ConsistentHash => self.choose_by_hash(pools, &wanted, task),
            Policy::LeastLoaded => pools.filter_map(|p| self.first_of(p, 0, &wanted)).min().map(|(_, id)| id),
            Policy::RoundRobin => pools.filter_map(|p| self.first_of(p, 1, &wanted)).min().map(|(_, id)| id),
            // Weighted times of different pools cannot be compared: the less loaded pool gives, by its own order.
            Policy::Weighted => {
                let least = pools.filter_map(|p| Some((self.first_of(p, 0, &wanted)?, p))).min_by_key(|(at, _)| *at);
                least.and_then(|(_, p)| self.first_of(p, 2, &wanted)).map(|(_, id)| id)
            }
        }
    }

    /// The first session of an order that fits, with its place among those of other pools: a free permit goes before room
    /// in a buffer, the worker that serves least before one that serves more, then the policy's own order. Among equals,
    /// one that has the package already spares a transfer, then one that holds the task's data.
    fn first_of(&self, pool: &Pool, order: usize, wanted: &Wanted<'_>) -> Option<(Place, SessionId)> {
        let mut best: Option<(Place, SessionId)> = None;
        for (key, id) in &pool.orders[order] {
            if best.is_some_and(|(first, _)| *key != first.key) {
                break;
            }
            let session = &self.sessions[id];
            if !fits(wanted.needed, session, wanted.packaged) {
                continue;
            }
            let late = session.used >= session.hello.permits;
            let place = Place { late, breadth: pool.breadth, key: *key, far: wanted.far(session) };
            if place.far == (false, false) {
                return Some((place, *id));
            }
            if best.is_none_or(|(first, _)| place.far < first.far) {
                best = Some((place, *id));
            }
        }
        best
    }

    /// Rendezvous hashing among those that are free: of those that fit, and have a permit if any of them has, the one
    /// that ranks highest for the key. For tasks without a key, and for those whose worker is no longer waited for.
    fn choose_by_hash<'p>(
        &self,
        pools: impl Iterator<Item = &'p Pool>,
        wanted: &Wanted<'_>,
        task: TaskId,
    ) -> Option<SessionId> {
        let key = wanted.spec.affinity_key.as_ref().map_or_else(|| mix(task.0 as u64), key_hash);
        let free = pools.flat_map(|pool| &pool.orders[0]).map(|(_, id)| (*id, &self.sessions[id]));
        let fitting = free.filter(|(_, s)| fits(wanted.needed, s, wanted.packaged));
        fitting.map(|(id, s)| (s.used < s.hello.permits, rank(key, s.worker), id)).max().map(|(_, _, id)| id)
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
                self.tell(session, Effect::Recall { session, attempts });
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
        let requirement = self.known_requirement(task)?;
        if now.wall < task.granted + queue.config.affinity_wait_ms
            && self.home_of(task.queue, requirement, task.spec.affinity_key.as_ref()) == run.session
        {
            // It is with the worker of its key, which is worth some waiting.
            return None;
        }
        let needed = self.requirements.get(requirement.0 as usize)?;
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

impl Wanted<'_> {
    /// Whether a session lacks the package, and whether it holds none of the data.
    fn far(&self, session: &Session) -> (bool, bool) {
        let hello = &session.hello;
        let lacks = self.spec.package.as_ref().is_some_and(|p| !hello.packages.contains(p));
        let near = &self.spec.near;
        (lacks, !near.is_empty() && !near.iter().any(|name| hello.data.binary_search(name).is_ok()))
    }
}

/// Where a free session stands among those of all pools; the least one gets the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// It has nothing but room in its buffer.
    late: bool,
    /// See [`Serves::breadth`].
    breadth: u32,
    /// By the queue's policy.
    key: u64,
    /// See [`Wanted::far`].
    far: (bool, bool),
}

/// Whether a worker serves the type and has code for it: its own, or that of a package.
pub(super) fn runs(needed: &Requirement, hello: &Hello, packaged: bool) -> bool {
    let own = |name: &Name| match name.strip_suffix('*') {
        Some(start) => needed.kind.starts_with(start),
        None => *name == needed.kind,
    };
    (hello.types.is_empty() || hello.types.contains(&needed.kind))
        && (packaged || hello.own_types.as_ref().is_none_or(|names| names.iter().any(own)))
}

/// Whether the bounds that a worker declares on what it serves let such tasks in.
fn serves(needed: &Requirement, hello: &Hello) -> bool {
    hello.serves.takes(needed.class, needed.length, needed.executor.as_ref())
}

/// Whether a session can run tasks with this requirement, with the resources it has left. `packaged` = a package brings
/// their code.
pub(crate) fn fits(needed: &Requirement, session: &super::Session, packaged: bool) -> bool {
    let hello = &session.hello;
    if !runs(needed, hello, packaged) || !serves(needed, hello) {
        return false;
    }
    let has =
        |(name, value): &(Name, Name)| hello.labels.iter().any(|(n, v)| n == name && (v == value || &**value == "*"));
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
    let labels =
        |(name, value): &(Name, Name)| hello.labels.iter().any(|(n, v)| n == name && (v == value || &**value == "*"));
    runs(needed, hello, packaged)
        && serves(needed, hello)
        && needed.requires.iter().all(labels)
        && (hello.resources.cpu_millis == 0 || needed.resources.cpu_millis <= hello.resources.cpu_millis)
        && (hello.resources.memory_bytes == 0 || needed.resources.memory_bytes <= hello.resources.memory_bytes)
}
