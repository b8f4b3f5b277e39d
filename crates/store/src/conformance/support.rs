//! What the cases share: a partition with its position, and tasks to fill it with.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use tidewheel_engine::id::{QueueId, Slot, TaskId, TenantId, Token, TypeId, WorkerId};
use tidewheel_engine::load::{Load, Loaded};
use tidewheel_engine::mutation::{Batch, Mutation};
use tidewheel_engine::task::{Ending, Failure, Payload, Spec, State, Task};

use super::Fixture;
use crate::{Error, SharedStore, codec};

pub(super) const TENANT: TenantId = TenantId(1);
pub(super) const OTHER: TenantId = TenantId(2);
pub(super) const QUEUE: QueueId = QueueId(7);
/// Wall time of the first task.
pub(super) const START: u64 = 1_750_000_000_000;

/// An owner of a partition.
pub(super) struct Owner {
    pub(super) store: SharedStore,
    pub(super) partition: u32,
    pub(super) epoch: u32,
    pub(super) index: u64,
}

impl Owner {
    pub(super) fn of(fixture: &dyn Fixture) -> Owner {
        Owner::open(fixture.store(), 0)
    }

    pub(super) fn open(store: SharedStore, partition: u32) -> Owner {
        let recovered = store.open(partition).unwrap();
        Owner { store, partition, epoch: recovered.epoch, index: recovered.last_index }
    }

    /// The next batch.
    pub(super) fn batch(&mut self, mutations: Vec<Mutation>) -> Batch {
        self.index += 1;
        let (partition, epoch, index) = (self.partition, self.epoch, self.index);
        Batch { partition, epoch, index, wall: START + index, seq: index * 10, mutations }
    }

    /// Commits the next batch, which has to land.
    pub(super) fn commit(&mut self, mutations: Vec<Mutation>) {
        let batch = self.batch(mutations);
        self.send(batch).unwrap();
    }

    /// Commits a batch and waits for the answer.
    pub(super) fn send(&self, batch: Batch) -> Result<(), Error> {
        self.queue(batch).recv().unwrap()
    }

    /// Commits a batch without waiting.
    pub(super) fn queue(&self, batch: Batch) -> Receiver<Result<(), Error>> {
        queue(&self.store, batch)
    }

    /// Commits the next batch, a new task, without waiting.
    pub(super) fn queue_task(&mut self, number: u64) -> Receiver<Result<(), Error>> {
        let batch = self.batch(vec![insert(task(number))]);
        self.queue(batch)
    }

    pub(super) fn load(&self, load: Load) -> Loaded {
        let (as_of, loaded) = self.store.load(self.partition, &load).unwrap();
        assert!(as_of <= self.index, "a read has seen commit {as_of}, but there were only {}", self.index);
        loaded
    }

    pub(super) fn task(&self, number: u64) -> Option<Task> {
        self.store.task(TENANT, id(number)).unwrap()
    }
}

pub(super) fn queue(store: &SharedStore, batch: Batch) -> Receiver<Result<(), Error>> {
    let (answer, answered) = channel();
    store.commit(batch, Box::new(move |result| answer.send(result).unwrap()));
    answered
}

/// The id of the n-th task; ids rise with n.
pub(super) fn id(number: u64) -> TaskId {
    TaskId::build(START + number, Slot((number * 31 % 4096) as u16), 1, number)
}

/// A plain queued task that waits in lane 5.
pub(super) fn task(number: u64) -> Task {
    let mut task = codec::blank_task(TENANT, id(number));
    task.queue = QUEUE;
    task.kind = TypeId(3);
    task.state = State::Queued;
    task.priority = 5;
    task.seq = number;
    task.lane = Some(5);
    task.created = START + number;
    task.changed = START + number;
    task.input = Payload::Inline(format!("{{\"n\":{number}}}").into());
    task
}

/// The task, granted.
pub(super) fn running(number: u64) -> Task {
    let mut task = task(number);
    task.state = State::Running;
    task.lane = None;
    task.attempt = 1;
    task.token = Token { epoch: 1, grant: number };
    task.worker = WorkerId(4);
    task.granted = START + number + 1;
    task.changed = task.granted;
    task
}

/// The task, over.
pub(super) fn succeeded(number: u64) -> Task {
    let mut task = running(number);
    task.state = State::Succeeded;
    task.changed += 5;
    task.ending = Some(Arc::new(Ending { result: Payload::Inline("\"done\"".into()), ..Ending::default() }));
    task
}

/// The task, failed for good.
pub(super) fn failed(number: u64, kind: &str, message: &str) -> Task {
    let mut task = running(number);
    task.state = State::Failed;
    task.changed += 5;
    let failure = Failure { kind: kind.into(), message: message.into(), detail: "line 1".into(), retryable: false };
    task.ending = Some(Arc::new(Ending { failure: Some(failure), ..Ending::default() }));
    task
}

pub(super) fn with_spec(mut task: Task, spec: Spec) -> Task {
    task.spec = Arc::new(spec);
    task
}

pub(super) fn insert(task: Task) -> Mutation {
    Mutation::InsertTask(Box::new(task))
}

/// An update as the engine writes it: without the input.
pub(super) fn update(mut task: Task) -> Mutation {
    task.input = Payload::Cold;
    Mutation::UpdateTask(Box::new(task))
}

pub(super) fn ids(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

pub(super) fn numbers(wanted: impl IntoIterator<Item = u64>) -> Vec<TaskId> {
    wanted.into_iter().map(id).collect()
}

/// A small generator, so that a case is the same in each run. Source: Marsaglia, Xorshift RNGs (2003).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
