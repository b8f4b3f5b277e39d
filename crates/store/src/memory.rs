//! The memory store: the contract as plain functions over a value ([`State`]), and a [`Store`] around one.
//!
//! It is synchronous and deterministic: [`apply`] folds a batch into the state at once. The simulator calls the
//! functions itself, so that it decides what is lost in a crash; tests use [`MemoryStore`]. Never here: a thread, a
//! clock, a file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tidewheel_engine::config::{Queue, Tenant};
use tidewheel_engine::id::{Name, QueueId, RunId, TaskId, TenantId, TypeId};
use tidewheel_engine::load::{Due, Load, Loaded, StoredRun};
use tidewheel_engine::mutation::{AttemptRecord, Batch, Mutation, NameKind, RateKey, Record, Recovered};
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::journal::Segment;
use tidewheel_engine::task::{self, Ending, Payload, Task};

mod run;

use crate::query::{chill, lane_order, stored_due};
use crate::run::{RunPage, RunQuery};
use crate::{Committed, Error, Figures, Store, TaskPage, TaskQuery, codec};

type TaskKey = (TenantId, TaskId);

/// Everything a store keeps.
#[derive(Clone, Debug, Default)]
pub struct State {
    partitions: BTreeMap<u32, Partition>,
    tasks: BTreeMap<TaskKey, Arc<Task>>,
    ready: BTreeSet<(QueueId, i64, u64, TaskId, TenantId)>,
    due: BTreeSet<(u64, TaskId, TenantId)>,
    running: BTreeSet<TaskKey>,
    attempts: BTreeMap<(TenantId, TaskId, u32), Arc<AttemptRecord>>,
    keys: BTreeMap<(TenantId, [u8; 16]), Key>,
    names: BTreeMap<(u8, TenantId, u32), Name>,
    tenants: BTreeMap<TenantId, Arc<Tenant>>,
    queues: BTreeMap<QueueId, Arc<Queue>>,
    rates: BTreeMap<RateKey, u64>,
    counts: BTreeMap<QueueId, [i64; 9]>,
    records: BTreeMap<(u8, TenantId, Name), Arc<Record>>,
    runs: run::Runs,
}

#[derive(Clone, Copy, Debug, Default)]
struct Partition {
    epoch: u32,
    last_index: u64,
    wall: u64,
    seq: u64,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    task: TaskId,
    body: u64,
    expires: u64,
}

/// Takes a partition over: raises its epoch and returns what the new owner starts from.
pub fn take_over(state: &mut State, partition: u32) -> Recovered {
    state.partitions.entry(partition).or_default().epoch += 1;
    recover(state, partition)
}

/// What an owner of the partition starts from, at its present epoch.
pub fn recover(state: &State, partition: u32) -> Recovered {
    let row = state.partitions.get(&partition).copied().unwrap_or_default();
    let names = state
        .names
        .iter()
        .filter_map(|(&(kind, tenant, id), name)| Some((name_kind(kind)?, tenant, id, Arc::clone(name))));
    let names: Vec<_> = names.collect();
    Recovered {
        epoch: row.epoch,
        last_index: row.last_index,
        wall: row.wall,
        seq: row.seq,
        tenants: state.tenants.values().map(|t| (**t).clone()).collect(),
        queues: state.queues.values().map(|q| (**q).clone()).collect(),
        types: names.iter().filter(|n| n.0 == NameKind::Type).map(|n| TypeId(n.2)).collect(),
        names,
        counts: state.counts.iter().map(|(queue, counts)| (*queue, *counts)).collect(),
        rates: state.rates.iter().map(|(key, tat)| (*key, *tat)).collect(),
        records: state.records.values().map(|r| (**r).clone()).collect(),
        waiting_runs: state.runs.waiting(),
        running: state.running.iter().map(|key| without_input(&state.tasks[key])).collect(),
    }
}

fn name_kind(number: u8) -> Option<NameKind> {
    [NameKind::Type, NameKind::Worker].into_iter().find(|kind| *kind as u8 == number)
}

fn without_input(task: &Task) -> Task {
    let mut task = task.clone();
    chill(&mut task.input);
    task
}

/// Folds a batch into the state, or refuses it and changes nothing.
pub fn apply(state: &mut State, batch: &Batch) -> Result<(), Error> {
    let row = state.partitions.get(&batch.partition).copied().unwrap_or_default();
    if row.epoch == 0 || row.epoch != batch.epoch || row.last_index + 1 != batch.index {
        return Err(Error::Stale { epoch: batch.epoch, index: batch.index });
    }
    check(state, batch)?;
    let row = Partition {
        epoch: row.epoch,
        last_index: batch.index,
        wall: row.wall.max(batch.wall),
        seq: row.seq.max(batch.seq),
    };
    state.partitions.insert(batch.partition, row);
    for mutation in &batch.mutations {
        state.fold(mutation);
    }
    Ok(())
}

/// Refuses what contradicts the stored rows, before anything is changed.
fn check(state: &State, batch: &Batch) -> Result<(), Error> {
    let (mut new, mut turns) = (BTreeSet::new(), BTreeSet::new());
    for mutation in &batch.mutations {
        match mutation {
            Mutation::InsertTask(task) => {
                let key = (task.tenant, task.id);
                if state.tasks.contains_key(&key) || !new.insert(key) {
                    return Err(Error::Failed(format!("task {:032x} is inserted twice", task.id.0)));
                }
            }
            Mutation::UpdateTask(task) => {
                let key = (task.tenant, task.id);
                if !state.tasks.contains_key(&key) && !new.contains(&key) {
                    return Err(Error::Failed(format!("task {:032x} is updated but not stored", task.id.0)));
                }
            }
            Mutation::AppendTurn { tenant, run, segment } => {
                let turn = segment.turn;
                if state.runs.has_turn(*tenant, *run, turn) || !turns.insert((*tenant, *run, turn)) {
                    return Err(Error::Failed(format!("turn {turn} of run {run} is stored twice")));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

impl State {
    fn fold(&mut self, mutation: &Mutation) {
        match mutation {
            Mutation::InsertTask(task) => {
                self.put_task((**task).clone());
                self.runs.fold(mutation);
            }
            Mutation::UpdateTask(task) => self.update_task(task),
            Mutation::PutSpec { tenant, task, spec, .. } => {
                if let Some(task) = self.tasks.get_mut(&(*tenant, *task)) {
                    Arc::make_mut(task).spec = Arc::clone(spec);
                }
            }
            Mutation::PutAttempt(record) => {
                let key = (record.tenant, record.task, record.number);
                self.attempts.insert(key, Arc::new((**record).clone()));
            }
            Mutation::PutIdempotency { tenant, hash, task, body, expires } => {
                self.keys.insert((*tenant, *hash), Key { task: *task, body: *body, expires: *expires });
            }
            Mutation::PutName { kind, tenant, id, name } => {
                self.names.insert((*kind as u8, *tenant, *id), Arc::clone(name));
            }
            Mutation::PutQueue(queue) => {
                self.queues.insert(queue.id, Arc::clone(queue));
            }
            Mutation::PutTenant(tenant) => {
                self.tenants.insert(tenant.id, Arc::clone(tenant));
            }
            Mutation::PutRate { key, tat_us } => {
                self.rates.insert(*key, *tat_us);
            }
            Mutation::AddCounts { queue, deltas } => {
                let counts = self.counts.entry(*queue).or_default();
                counts.iter_mut().zip(deltas).for_each(|(count, delta)| *count += delta);
            }
            Mutation::PutRecord(record) => {
                let key = (record.kind as u8, record.tenant, Arc::clone(&record.key));
                self.records.insert(key, Arc::clone(record));
            }
            Mutation::DeleteRecord { kind, tenant, key } => {
                self.records.remove(&(*kind as u8, *tenant, Arc::clone(key)));
            }
            Mutation::PutRun(_)
            | Mutation::AppendTurn { .. }
            | Mutation::PutRunTimer { .. }
            | Mutation::DeleteRunTimer(_)
            | Mutation::PutRunEvent { .. }
            | Mutation::DeleteRunEvent { .. }
            | Mutation::PutValue { .. } => self.runs.fold(mutation),
        }
    }

    /// The new record, with spec and input (and a result that is not in memory) of the old one.
    fn update_task(&mut self, task: &Task) {
        let mut task = task.clone();
        let old = &self.tasks[&(task.tenant, task.id)];
        task.spec = Arc::clone(&old.spec);
        task.input = old.input.clone();
        if let Some(ending) = task.ending.as_mut().filter(|ending| ending.result == Payload::Cold) {
            let result = old.ending.as_ref().map(|old| old.result.clone()).unwrap_or_default();
            *ending = Arc::new(Ending { result, ..(**ending).clone() });
        }
        self.put_task(task);
    }

    fn put_task(&mut self, task: Task) {
        let key = (task.tenant, task.id);
        self.remove_task(key);
        if let Some(lane) = task.lane {
            self.ready.insert((task.queue, lane, lane_order(&task), task.id, task.tenant));
        }
        if let Some(due) = stored_due(&task) {
            self.due.insert((due, task.id, task.tenant));
        }
        if task.state == task::State::Running {
            self.running.insert(key);
        }
        self.tasks.insert(key, Arc::new(task));
    }

    fn remove_task(&mut self, key: TaskKey) {
        let Some(task) = self.tasks.remove(&key) else { return };
        if let Some(lane) = task.lane {
            self.ready.remove(&(task.queue, lane, lane_order(&task), task.id, task.tenant));
        }
        if let Some(due) = stored_due(&task) {
            self.due.remove(&(due, task.id, task.tenant));
        }
        self.running.remove(&key);
    }

    /// A task with its input.
    pub fn task(&self, tenant: TenantId, id: TaskId) -> Option<&Task> {
        self.tasks.get(&(tenant, id)).map(|task| &**task)
    }

    /// All tasks in key order.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values().map(|task| &**task)
    }

    /// All ended attempts in key order.
    pub fn attempts(&self) -> impl Iterator<Item = &AttemptRecord> {
        self.attempts.values().map(|record| &**record)
    }

    /// Epoch and last index of a partition.
    pub fn position(&self, partition: u32) -> (u32, u64) {
        self.partitions.get(&partition).map_or((0, 0), |row| (row.epoch, row.last_index))
    }

    fn last_index(&self) -> u64 {
        self.partitions.values().map(|row| row.last_index).max().unwrap_or(0)
    }

    fn waiting(&self, at: &(QueueId, i64, u64, TaskId, TenantId)) -> Task {
        (*self.tasks[&(at.4, at.3)]).clone()
    }

    fn lane(&self, queue: QueueId, lane: i64, from: u64, limit: usize) -> Vec<Task> {
        let start = (queue, lane, from, TaskId(0), TenantId(0));
        let rows = self.ready.range(start..).take_while(|at| (at.0, at.1) == (queue, lane));
        rows.take(limit).map(|at| self.waiting(at)).collect()
    }

    /// One seek per lane, however many rows it has.
    fn lanes(&self, queue: QueueId, from: i64, until: i64, lanes: usize, rows: usize) -> Vec<(i64, Vec<Task>)> {
        let mut found = Vec::new();
        let mut start = (queue, from, 0, TaskId(0), TenantId(0));
        while found.len() < lanes {
            let Some(&(_, lane, ..)) = self.ready.range(start..).next().filter(|at| at.0 == queue && at.1 < until)
            else {
                break;
            };
            found.push((lane, self.lane(queue, lane, 0, rows)));
            let Some(next) = lane.checked_add(1) else { break };
            start.1 = next;
        }
        found
    }

    /// A hash of all that is kept, the same for equal states however they came about.
    pub fn state_hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut bytes = Vec::new();
        for task in self.tasks.values() {
            bytes.clear();
            codec::encode_task(task, &mut bytes);
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        }
        for ((tenant, task, number), record) in &self.attempts {
            bytes.clear();
            codec::encode_attempt(record, &mut bytes);
            hasher.update(&tenant.0.to_le_bytes()).update(&task.to_bytes()).update(&number.to_le_bytes());
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        }
        self.runs.hash(&mut hasher);
        // The rest is small and has no floating text forms, so its debug form is canonical enough for one program.
        let rest = format!(
            "{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}",
            self.partitions, self.keys, self.names, self.tenants, self.queues, self.rates, self.counts, self.records
        );
        hasher.update(rest.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// Answers a read of the engine.
pub fn load(state: &State, load: &Load) -> Loaded {
    match load {
        Load::Tasks(keys) => Loaded::Tasks(keys.iter().map(|key| state.task(key.0, key.1).cloned()).collect()),
        Load::Idempotency { tenant, hash } => {
            Loaded::Idempotency(state.keys.get(&(*tenant, *hash)).map(|key| (key.task, key.body)))
        }
        Load::Lane { queue, lane, from, limit } => Loaded::Lane(state.lane(*queue, *lane, *from, *limit)),
        Load::Lanes { queue, from, until, lanes, rows } => {
            Loaded::Lanes(state.lanes(*queue, *from, *until, *lanes, *rows))
        }
        Load::Due { from, until, limit } => {
            let after = (from.0, TaskId(from.1), TenantId(u32::MAX));
            let rows = state.due.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
            let rows = rows.take_while(|row| row.0 <= *until).take(*limit);
            let tasks = rows.map(|row| Due::Task(Box::new((*state.tasks[&(row.2, row.1)]).clone())));
            let mut due: Vec<Due> = tasks.chain(state.runs.due(*from, *until).take(*limit)).collect();
            due.sort_by_key(Due::place);
            due.truncate(*limit);
            Loaded::Due(due)
        }
        Load::Run { tenant, run, at_most } => match state.runs.size(*tenant, *run) {
            Some(bytes) if bytes > *at_most => Loaded::RunTooLarge(bytes),
            _ => Loaded::Run(state.runs.stored(*tenant, *run, false)),
        },
        Load::History(tenant, run) => Loaded::Run(state.runs.stored(*tenant, *run, true)),
        Load::Values(tenant, hashes) => Loaded::Values(
            hashes.iter().map(|hash| state.runs.value(*tenant, hash).filter(|bytes| !bytes.is_empty())).collect(),
        ),
    }
}

/// Answers a list query.
pub fn tasks(state: &State, query: &TaskQuery) -> TaskPage {
    let mut page = TaskPage { as_of: state.last_index(), ..TaskPage::default() };
    let below = (query.tenant, query.before.unwrap_or(TaskId(u128::MAX)));
    let rows = state.tasks.range((query.tenant, TaskId(0))..below).rev();
    let mut last = None;
    for (looked_at, (key, task)) in rows.enumerate() {
        if page.tasks.len() == query.page_limit() {
            page.next = page.tasks.last().map(|task| task.id);
            break;
        }
        if looked_at == query.scan_limit.max(1) {
            page.next = last;
            page.searched_back_to = Some(task.id.millis());
            break;
        }
        last = Some(key.1);
        if query.matches(task) {
            let mut task = without_input(task);
            if let Some(ending) = task.ending.as_mut().filter(|ending| ending.result != Payload::None) {
                chill(&mut Arc::make_mut(ending).result);
            }
            page.tasks.push(task);
        }
    }
    page
}

/// See [`Store::sweep`].
pub fn sweep(state: &mut State, now: u64, finished_before: u64, limit: usize) -> u64 {
    let over = state.keys.iter().filter(|(_, key)| key.expires <= now).map(|(key, _)| *key);
    let over: Vec<_> = over.take(limit).collect();
    for key in &over {
        state.keys.remove(key);
    }
    let old = |task: &Task| task.state.is_terminal() && task.changed < finished_before;
    let finished: Vec<_> = state.tasks.iter().filter(|(_, t)| old(t)).map(|(key, _)| *key).take(limit).collect();
    for key in &finished {
        state.remove_task(*key);
        state.runs.task_gone(key.0, key.1);
        state.attempts.retain(|at, _| (at.0, at.1) != *key);
    }
    (over.len() + finished.len()) as u64
}

/// A [`Store`] around a [`State`].
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    closed: AtomicBool,
    batches: AtomicU64,
    mutations: AtomicU64,
    reads: AtomicU64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Arc<MemoryStore> {
        Arc::default()
    }

    /// A store with the given content, as after a restart.
    pub fn from_state(state: State) -> Arc<MemoryStore> {
        Arc::new(MemoryStore { state: Mutex::new(state), ..MemoryStore::default() })
    }

    /// A copy of the content.
    pub fn snapshot(&self) -> State {
        self.state.lock().clone()
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        self.reads.fetch_add(1, Ordering::Relaxed);
        read(&self.state.lock())
    }
}

impl Store for MemoryStore {
    fn open(&self, partition: u32) -> Result<Recovered, Error> {
        Ok(take_over(&mut self.state.lock(), partition))
    }

    fn commit(&self, batch: Batch, done: Committed) {
        if self.closed.load(Ordering::Acquire) {
            return done(Err(Error::Closed));
        }
        let result = apply(&mut self.state.lock(), &batch);
        if result.is_ok() {
            self.batches.fetch_add(1, Ordering::Relaxed);
            self.mutations.fetch_add(batch.mutations.len() as u64, Ordering::Relaxed);
        }
        done(result);
    }

    fn load(&self, partition: u32, wanted: &Load) -> Result<(u64, Loaded), Error> {
        Ok(self.read(|state| (state.position(partition).1, load(state, wanted))))
    }

    fn may_know(&self, tenant: TenantId, hash: &[u8; 16]) -> bool {
        self.state.lock().keys.contains_key(&(tenant, *hash))
    }

    fn task(&self, tenant: TenantId, id: TaskId) -> Result<Option<Task>, Error> {
        Ok(self.read(|state| state.task(tenant, id).cloned()))
    }

    fn tasks(&self, query: &TaskQuery) -> Result<TaskPage, Error> {
        Ok(self.read(|state| tasks(state, query)))
    }

    fn attempts(&self, tenant: TenantId, id: TaskId) -> Result<Vec<AttemptRecord>, Error> {
        let range = (tenant, id, 0)..=(tenant, id, u32::MAX);
        Ok(self.read(|state| state.attempts.range(range).map(|(_, record)| (**record).clone()).collect()))
    }

    fn sweep(&self, now: u64, finished_before: u64, limit: usize) -> Result<u64, Error> {
        Ok(sweep(&mut self.state.lock(), now, finished_before, limit))
    }

    fn run(&self, tenant: TenantId, run: RunId) -> Result<Option<Box<StoredRun>>, Error> {
        Ok(self.read(|state| state.runs.stored(tenant, run, false)))
    }

    fn turns(&self, tenant: TenantId, run: RunId, after: u64, limit: usize) -> Result<Vec<Segment>, Error> {
        Ok(self.read(|state| state.runs.turns(tenant, run, after, limit)))
    }

    fn runs(&self, query: &RunQuery) -> Result<RunPage, Error> {
        Ok(self.read(|state| state.runs.list(query, state.last_index())))
    }

    fn value(&self, tenant: TenantId, hash: &[u8; 32]) -> Result<Option<Bytes>, Error> {
        Ok(self.read(|state| state.runs.value(tenant, hash)))
    }

    fn run_counts(&self, tenant: TenantId, at_most: u64) -> Result<Vec<(Phase, u64)>, Error> {
        Ok(self.read(|state| state.runs.counts(tenant, at_most)))
    }

    fn sweep_runs(&self, ended_before: u64, limit: usize) -> Result<u64, Error> {
        Ok(self.state.lock().runs.sweep(ended_before, limit))
    }

    fn backup(&self, path: &std::path::Path) -> Result<(), Error> {
        Err(Error::Failed(format!("the memory store has no file to copy to {}", path.display())))
    }

    fn figures(&self) -> Figures {
        let batches = self.batches.load(Ordering::Relaxed);
        Figures {
            commits: batches,
            batches,
            mutations: self.mutations.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
            ..Figures::default()
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}
