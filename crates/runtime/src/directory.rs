//! The directory: committed configuration as an immutable snapshot, for everyone who only reads it.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;
use tidewheel_engine::Mutation;
use tidewheel_engine::config::{Queue, Tenant};
use tidewheel_engine::id::{Name, QueueId, TenantId, TypeId, WorkerId};
use tidewheel_engine::mutation::{NameKind, Record, RecordKind, Recovered};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    version: u64,
    has_settings: bool,
    tenants: HashMap<TenantId, Arc<Tenant>>,
    tenant_names: HashMap<Name, TenantId>,
    queues: HashMap<QueueId, Arc<Queue>>,
    queue_names: HashMap<TenantId, HashMap<Name, QueueId>>,
    types: HashMap<TypeId, Name>,
    type_ids: HashMap<TenantId, HashMap<Name, TypeId>>,
    workers: HashMap<WorkerId, Name>,
    worker_ids: HashMap<TenantId, HashMap<Name, WorkerId>>,
    records: HashMap<(RecordKind, TenantId), HashMap<Name, Arc<Record>>>,
}

impl Directory {
    /// A tenant by name.
    pub fn tenant(&self, name: &str) -> Option<Arc<Tenant>> {
        self.tenants.get(self.tenant_names.get(name)?).cloned()
    }

    /// A tenant by number.
    pub fn tenant_by_id(&self, id: TenantId) -> Option<Arc<Tenant>> {
        self.tenants.get(&id).cloned()
    }

    /// All tenants, by number.
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        let mut all: Vec<_> = self.tenants.values().cloned().collect();
        all.sort_by_key(|t| t.id);
        all
    }

    /// A queue that is not deleted.
    pub fn queue(&self, tenant: TenantId, name: &str) -> Option<Arc<Queue>> {
        self.queues.get(self.queue_names.get(&tenant)?.get(name)?).cloned()
    }

    /// A queue by number, deleted or not.
    pub fn queue_by_id(&self, id: QueueId) -> Option<Arc<Queue>> {
        self.queues.get(&id).cloned()
    }

    /// The queues of a tenant that are not deleted, by name.
    pub fn queues(&self, tenant: TenantId) -> Vec<Arc<Queue>> {
        let names = self.queue_names.get(&tenant).into_iter().flatten();
        let mut all: Vec<_> = names.filter_map(|(_, id)| self.queues.get(id).cloned()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Name of a task type.
    pub fn type_name(&self, id: TypeId) -> Option<Name> {
        self.types.get(&id).cloned()
    }

    /// Number of a task type.
    pub fn type_id(&self, tenant: TenantId, name: &str) -> Option<TypeId> {
        self.type_ids.get(&tenant)?.get(name).copied()
    }

    /// Task types a tenant has used, by name.
    pub fn type_names(&self, tenant: TenantId) -> Vec<Name> {
        let mut all: Vec<_> = self.type_ids.get(&tenant).into_iter().flatten().map(|(name, _)| name.clone()).collect();
        all.sort();
        all
    }

    /// Name of a worker.
    pub fn worker_name(&self, id: WorkerId) -> Option<Name> {
        self.workers.get(&id).cloned()
    }

    /// Number of a worker.
    pub fn worker_id(&self, tenant: TenantId, name: &str) -> Option<WorkerId> {
        self.worker_ids.get(&tenant)?.get(name).copied()
    }

    /// A kept record.
    pub fn record(&self, kind: RecordKind, tenant: TenantId, key: &str) -> Option<Arc<Record>> {
        self.records.get(&(kind, tenant))?.get(key).cloned()
    }

    /// Kept records of a kind, by key.
    pub fn records(&self, kind: RecordKind, tenant: TenantId) -> Vec<Arc<Record>> {
        let mut all: Vec<_> = self.records.get(&(kind, tenant)).into_iter().flatten().map(|(_, r)| r.clone()).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// Whether any tenant has settings changed through the API: a question that costs nothing.
    pub fn has_settings(&self) -> bool {
        self.has_settings
    }

    /// Rises with each change.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn put_name(&mut self, kind: NameKind, tenant: TenantId, id: u32, name: Name) {
        match kind {
            NameKind::Type => {
                self.types.insert(TypeId(id), name.clone());
                self.type_ids.entry(tenant).or_default().insert(name, TypeId(id));
            }
            NameKind::Worker => {
                self.workers.insert(WorkerId(id), name.clone());
                self.worker_ids.entry(tenant).or_default().insert(name, WorkerId(id));
            }
        }
    }

    fn put_queue(&mut self, queue: Arc<Queue>) {
        let names = self.queue_names.entry(queue.tenant).or_default();
        if queue.deleted {
            names.remove(&queue.name);
        } else {
            names.insert(queue.name.clone(), queue.id);
        }
        self.queues.insert(queue.id, queue);
    }

    fn put_tenant(&mut self, tenant: Arc<Tenant>) {
        self.tenant_names.insert(tenant.name.clone(), tenant.id);
        self.tenants.insert(tenant.id, tenant);
    }

    fn put_record(&mut self, record: Arc<Record>) {
        self.has_settings |= record.kind == RecordKind::Setting;
        self.records.entry((record.kind, record.tenant)).or_default().insert(record.key.clone(), record);
    }

    fn apply(&mut self, change: ConfigChange) {
        match change {
            ConfigChange::Name(kind, tenant, id, name) => self.put_name(kind, tenant, id, name),
            ConfigChange::Queue(queue) => self.put_queue(queue),
            ConfigChange::Tenant(tenant) => self.put_tenant(tenant),
            ConfigChange::Record(record) => self.put_record(record),
            ConfigChange::NoRecord(kind, tenant, key) => {
                if let Some(records) = self.records.get_mut(&(kind, tenant)) {
                    records.remove(&key);
                }
            }
        }
    }
}

/// A change of configuration, kept until its batch is committed.
#[derive(Debug)]
pub(crate) enum ConfigChange {
    Name(NameKind, TenantId, u32, Name),
    Queue(Arc<Queue>),
    Tenant(Arc<Tenant>),
    Record(Arc<Record>),
    NoRecord(RecordKind, TenantId, Name),
}

impl ConfigChange {
    pub(crate) fn of(mutation: &Mutation) -> Option<ConfigChange> {
        Some(match mutation {
            Mutation::PutName { kind, tenant, id, name } => ConfigChange::Name(*kind, *tenant, *id, name.clone()),
            Mutation::PutQueue(queue) => ConfigChange::Queue(queue.clone()),
            Mutation::PutTenant(tenant) => ConfigChange::Tenant(tenant.clone()),
            Mutation::PutRecord(record) => ConfigChange::Record(record.clone()),
            Mutation::DeleteRecord { kind, tenant, key } => ConfigChange::NoRecord(*kind, *tenant, key.clone()),
            _ => return None,
        })
    }
}

/// Where the current directory is.
pub(crate) struct Home {
    current: RwLock<Arc<Directory>>,
}

impl Home {
    pub(crate) fn new(recovered: &Recovered) -> Home {
        Home { current: RwLock::new(Arc::new(from_recovered(recovered, 1))) }
    }

    pub(crate) fn current(&self) -> Arc<Directory> {
        self.current.read().clone()
    }

    pub(crate) fn apply(&self, changes: Vec<ConfigChange>) {
        if changes.is_empty() {
            return;
        }
        let mut next = (*self.current()).clone();
        changes.into_iter().for_each(|change| next.apply(change));
        next.version += 1;
        *self.current.write() = Arc::new(next);
    }

    pub(crate) fn reset(&self, recovered: &Recovered) {
        let version = self.current().version + 1;
        *self.current.write() = Arc::new(from_recovered(recovered, version));
    }
}

fn from_recovered(recovered: &Recovered, version: u64) -> Directory {
    let mut directory = Directory { version, ..Directory::default() };
    recovered.tenants.iter().for_each(|t| directory.put_tenant(Arc::new(t.clone())));
    recovered.queues.iter().for_each(|q| directory.put_queue(Arc::new(q.clone())));
    recovered.names.iter().for_each(|(kind, tenant, id, name)| directory.put_name(*kind, *tenant, *id, name.clone()));
    recovered.records.iter().for_each(|r| directory.put_record(Arc::new(r.clone())));
    directory
}
