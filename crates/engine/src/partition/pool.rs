//! Pools: sessions that serve the same queues and types. A pool knows which of its sessions are free, in the order of
//! each policy, and which tenants have something for it, in turn.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;

use super::{Partition, Requirement};
use crate::command::Hello;
use crate::config::Policy;
use crate::id::{Name, QueueId, SessionId, TaskId, TenantId};
use crate::ready::{Fnv, RequirementId, mix};
use crate::task::Spec;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    tenant: Option<TenantId>,
    /// Queue names; empty = all.
    queues: Vec<Name>,
    types: Vec<Name>,
    /// Live sessions in it.
    pub(crate) sessions: u32,
    /// Free sessions by load, by round-robin time, by weighted time; each with the session.
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

impl Pool {
    pub(crate) fn serves(&self, tenant: TenantId, queue: &Name) -> bool {
        self.tenant.is_none_or(|t| t == tenant) && (self.queues.is_empty() || self.queues.contains(queue))
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
        free.any(|(_, id)| fits(needed, &self.sessions[id], packaged))
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
        [load, s.virtual_time[0], s.virtual_time[1]]
    }

    pub(super) fn enter_pool(&mut self, id: SessionId) {
        let Some(s) = self.sessions.get(&id) else { return };
        if s.place.is_some() || !s.is_free() {
            return;
        }
        let pool = s.pool;
        // A newcomer starts where the others are, or it would get everything until it has caught up.
        let floor = [1, 2].map(|i| self.pools[pool].orders[i].first().map_or(0, |(time, _)| *time));
        let s = self.sessions.get_mut(&id).expect("it was just there");
        s.virtual_time[0] = s.virtual_time[0].max(floor[0]);
        s.virtual_time[1] = s.virtual_time[1].max(floor[1]);
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

    /// The free session that gets a task, by the queue's policy; `None` = none fits.
    pub(super) fn choose(&self, pool: usize, policy: Policy, requirement: RequirementId, task: TaskId, spec: &Spec) -> Option<SessionId> {
        let needed = &self.requirements[requirement.0 as usize];
        let packaged = self.is_packaged(needed);
        let pool = &self.pools[pool];
        if policy == Policy::ConsistentHash {
            return self.choose_by_hash(pool, (needed, packaged), task, spec);
        }
        let order = match policy {
            Policy::LeastLoaded | Policy::ConsistentHash => &pool.orders[0],
            Policy::RoundRobin => &pool.orders[1],
            Policy::Weighted => &pool.orders[2],
        };
        let mut best: Option<(u64, SessionId)> = None;
        for (key, id) in order {
            // Among equals, one that has the package already spares a transfer.
            if best.is_some_and(|(k, _)| *key != k) {
                break;
            }
            let session = &self.sessions[id];
            if !fits(needed, session, packaged) {
                continue;
            }
            let cached = spec.package.as_ref().is_none_or(|p| session.hello.packages.contains(p));
            if cached {
                return Some(*id);
            }
            best = best.or(Some((*key, *id)));
        }
        best.map(|(_, id)| id)
    }

    /// Rendezvous hashing: of the free sessions that fit, the one whose hash with the key is highest. A worker that
    /// comes or goes moves only the keys it wins or loses. Source: Thaler and Ravishankar, 1998.
    fn choose_by_hash(&self, pool: &Pool, (needed, packaged): (&Requirement, bool), task: TaskId, spec: &Spec) -> Option<SessionId> {
        let mut hash = Fnv::new();
        match &spec.affinity_key {
            Some(key) => hash.text(key),
            None => hash.number(task.0 as u64),
        }
        let key = hash.finish();
        let fitting = pool.orders[0].iter().filter(|(_, id)| fits(needed, &self.sessions[id], packaged));
        fitting.map(|(_, id)| (mix(key ^ mix(u64::from(self.sessions[id].worker.0))), *id)).max().map(|(_, id)| id)
    }

    /// The session got a grant: its place changes.
    pub(super) fn granted_to(&mut self, id: SessionId) {
        let s = self.sessions.get_mut(&id).expect("grants go to live sessions");
        s.virtual_time[0] += 1;
        s.virtual_time[1] += 1_000_000 / u64::from(s.hello.permits.max(1));
        self.reenter_pool(id);
    }
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

