//! Tenants, queues and kept records: versioned, changed by compare and set.

use std::sync::Arc;

use super::{Partition, TenantWork};
use crate::config::{Queue, QueueConfig, QueueState, Rate, Tenant, TenantConfig};
use crate::effect::{Refusal, Reply};
use crate::id::{Name, QueueId, RequestId, TenantId};
use crate::mutation::{Mutation, Record, RecordKind};
use crate::ready::QueueWork;
use crate::task::State;
use crate::time::Now;

impl Partition {
    pub(crate) fn adopt_tenant(&mut self, tenant: Arc<Tenant>) {
        self.tenant_names.insert(tenant.name.clone(), tenant.id);
        match self.tenants.get_mut(&tenant.id) {
            Some(work) => work.tenant = tenant,
            None => {
                let id = tenant.id;
                let work = TenantWork {
                    tenant,
                    running: 0,
                    queued: 0,
                    ended: crate::ready::Meter::default(),
                    intake_us: 0,
                    tat_us: 0,
                    rate_touched: false,
                    rate_until: 0,
                    queues: Vec::new(),
                };
                self.tenants.insert(id, work);
            }
        }
    }

    pub(crate) fn adopt_queue(&mut self, queue: Arc<Queue>) {
        let key = (queue.tenant, queue.name.clone());
        if queue.deleted {
            self.queue_names.remove(&key);
        } else {
            self.queue_names.insert(key, queue.id);
        }
        let id = queue.id;
        if let Some(work) = self.queues.get_mut(&id) {
            work.queue = queue;
            return;
        }
        if let Some(tenant) = self.tenants.get_mut(&queue.tenant) {
            tenant.queues.push(id);
        }
        let mut work = QueueWork::new(queue);
        for (number, pool) in self.pools.iter().enumerate() {
            if pool.serves(work.queue.tenant, &work.queue.name) {
                work.pools.push(u32::try_from(number).expect("fewer pools than sessions"));
            }
        }
        self.queues.insert(id, work);
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn put_queue(
        &mut self,
        request: RequestId,
        tenant: TenantId,
        name: Name,
        config: Option<Box<QueueConfig>>,
        state: Option<QueueState>,
        expected: Option<u64>,
        now: Now,
    ) {
        let _ = now;
        if !self.tenants.contains_key(&tenant) {
            return self.refuse(request, Refusal::NotFound);
        }
        let current = self.queue_id(tenant, &name).map(|id| self.queues[&id].queue.clone());
        let version = current.as_ref().map_or(0, |q| q.version);
        if expected.is_some_and(|e| e != version) {
            return self.refuse(request, Refusal::Version { current: version });
        }
        let queue = match current {
            Some(q) => Queue {
                version: version + 1,
                state: state.unwrap_or(q.state),
                config: config.map_or_else(|| q.config.clone(), |c| *c),
                ..(*q).clone()
            },
            None if config.is_none() => return self.refuse(request, Refusal::NotFound),
            None => {
                let id = QueueId(self.next_queue);
                self.next_queue += 1;
                let (state, config) = (state.unwrap_or_default(), config.map(|c| *c).unwrap_or_default());
                Queue { id, tenant, name, version: 1, state, config, deleted: false }
            }
        };
        let queue = Arc::new(queue);
        self.adopt_queue(queue.clone());
        self.mutations.push(Mutation::PutQueue(queue.clone()));
        self.retune(queue.id);
        self.reply(request, Reply::Queue(queue));
    }

    /// New settings may let go what waited: limits, rates, keys, batches.
    fn retune(&mut self, id: QueueId) {
        let Some(q) = self.queues.get_mut(&id) else { return };
        q.rate_until = 0;
        // New bounds may be another stage.
        self.touched_queues.push(id);
        q.tat_us = reset(q.tat_us, self.wall, q.queue.config.rate);
        let mut lanes: Vec<i64> = q.lanes.iter().filter(|(_, lane)| lane.parked.is_some()).map(|(id, _)| *id).collect();
        lanes.sort_unstable();
        for key in q.keys.values_mut() {
            key.waiting.clear();
            key.dropped.clear();
        }
        q.lines.iter_mut().for_each(crate::ready::Line::rescan);
        lanes.into_iter().for_each(|lane| self.unpark(id, lane));
        self.wake_queue(id);
    }

    pub(super) fn delete_queue(&mut self, request: RequestId, tenant: TenantId, name: &Name, expected: Option<u64>) {
        let Some(id) = self.queue_id(tenant, name) else { return self.refuse(request, Refusal::NotFound) };
        let q = &self.queues[&id];
        let current = q.queue.version;
        if expected.is_some_and(|expected| expected != current) {
            return self.refuse(request, Refusal::Version { current });
        }
        let live: u64 = State::ALL.iter().filter(|s| !s.is_terminal()).map(|s| q.counts[*s as usize]).sum();
        if live > 0 {
            let text = format!("{live} tasks of the queue have not ended; drain or purge it first");
            return self.refuse(request, Refusal::Conflict(text.into()));
        }
        let queue = Arc::new(Queue { deleted: true, version: q.queue.version + 1, ..(*q.queue).clone() });
        self.adopt_queue(queue.clone());
        self.mutations.push(Mutation::PutQueue(queue));
        self.reply(request, Reply::Done);
    }

    pub(super) fn put_tenant(&mut self, request: RequestId, name: Name, config: TenantConfig, expected: Option<u64>) {
        if name.is_empty() || config.weight == 0 || config.weight > 10_000 {
            return self.refuse(request, Refusal::Invalid("a tenant has a name and a weight of 1 to 10,000".into()));
        }
        let known = self.tenant_names.get(&name).copied();
        let current = known.map_or(0, |id| self.tenants[&id].tenant.version);
        if expected.is_some_and(|expected| expected != current) {
            return self.refuse(request, Refusal::Version { current });
        }
        let tenant = match known {
            Some(id) => {
                let old = &self.tenants[&id].tenant;
                Tenant { version: old.version + 1, config, ..(**old).clone() }
            }
            None => {
                let id = TenantId(self.next_tenant);
                self.next_tenant += 1;
                Tenant { id, name, version: 1, config }
            }
        };
        let tenant = Arc::new(tenant);
        self.adopt_tenant(tenant.clone());
        self.mutations.push(Mutation::PutTenant(tenant.clone()));
        let wall = self.wall;
        if let Some(work) = self.tenants.get_mut(&tenant.id) {
            work.rate_until = 0;
            work.tat_us = reset(work.tat_us, wall, tenant.config.rate);
        }
        self.wake_tenant(tenant.id);
        self.reply(request, Reply::Tenant(tenant));
    }

    pub(super) fn put_record(
        &mut self,
        request: RequestId,
        kind: RecordKind,
        tenant: TenantId,
        key: Name,
        value: Option<Name>,
        expected: Option<u64>,
    ) {
        let slot = (kind, tenant, key.clone());
        let version = self.records.get(&slot).map_or(0, |r| r.version);
        if expected.is_some_and(|e| e != version) {
            return self.refuse(request, Refusal::Version { current: version });
        }
        let Some(value) = value else {
            if self.records.remove(&slot).is_none() {
                return self.refuse(request, Refusal::NotFound);
            }
            if kind == RecordKind::TaskType {
                self.register_type(tenant, &key, false);
            }
            if kind == RecordKind::Workflow {
                self.adopt_workflow(tenant, &key, None);
            }
            self.mutations.push(Mutation::DeleteRecord { kind, tenant, key });
            return self.reply(request, Reply::Record(None));
        };
        let record = Arc::new(Record { kind, tenant, key, version: version + 1, value });
        self.records.insert(slot, record.clone());
        if kind == RecordKind::TaskType {
            self.register_type(tenant, &record.key, true);
        }
        if kind == RecordKind::Workflow {
            self.adopt_workflow(tenant, &record.key, Some(&record.value));
        }
        self.mutations.push(Mutation::PutRecord(record.clone()));
        self.reply(request, Reply::Record(Some(record)));
    }
}

/// A limiter whose rate may have changed: its next grant is due one interval of the present rate from now at the latest,
/// whatever the one before made it wait for.
fn reset(tat_us: u64, wall: u64, rate: Option<Rate>) -> u64 {
    tat_us.min(wall * 1_000 + rate.map_or(0, |rate| rate.interval_us.saturating_mul(u64::from(rate.burst.max(1)))))
}
