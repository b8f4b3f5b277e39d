//! State out: what a commit changes in the store. Each mutation is absolute (a record as it is afterwards) save the
//! counters, so that a log of batches folds to the state.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::{Queue, Tenant};
use crate::id::{Name, QueueId, RunId, TaskId, TenantId, Token, TypeId, WorkerId};
use crate::run::act::Event;
use crate::run::head::Head;
use crate::run::journal::Segment;
use crate::task::{Failure, Spec, Task};

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Mutation {
    /// A new task, with its input.
    InsertTask(Box<Task>),
    /// The task as it is now. Its input never changes and its spec has a mutation of its own: neither is written again.
    UpdateTask(Box<Task>),
    /// The spec of a stored task, whose labels were changed.
    PutSpec {
        /// Owner.
        tenant: TenantId,
        /// Task.
        task: TaskId,
        /// As it is now.
        spec: Arc<Spec>,
        /// As it was: what it can no longer be found by.
        before: Arc<Spec>,
    },
    /// An attempt that ended other than by success. The last successful or current one is in the task itself.
    PutAttempt(Box<AttemptRecord>),
    /// An idempotency key and what it stands for.
    PutIdempotency {
        /// Owner.
        tenant: TenantId,
        /// First 16 bytes of the key's blake3.
        hash: [u8; 16],
        /// Task.
        task: TaskId,
        /// Hash of the body.
        body: u64,
        /// Wall time after which it may be forgotten.
        expires: u64,
    },
    /// A name that got a number.
    PutName {
        /// Of what.
        kind: NameKind,
        /// Owner.
        tenant: TenantId,
        /// Number.
        id: u32,
        /// Name.
        name: Name,
    },
    /// A queue as it is now.
    PutQueue(Arc<Queue>),
    /// A tenant as it is now.
    PutTenant(Arc<Tenant>),
    /// A rate limiter's theoretical arrival time, in microseconds of wall time.
    PutRate {
        /// Whose.
        key: RateKey,
        /// See [`crate::ready::gcra`].
        tat_us: u64,
    },
    /// Counters of a queue: how many tasks more (or fewer) are in each state, by state number.
    AddCounts {
        /// Whose.
        queue: QueueId,
        /// By [`crate::task::State`] number.
        deltas: [i64; 9],
    },
    /// A record that the engine only keeps: tokens, packages, operations.
    PutRecord(Arc<Record>),
    /// A run as it is now: written when it begins, begins to wait, ends, and every few turns.
    PutRun(Box<RunRecord>),
    /// One more turn of a run.
    AppendTurn {
        /// Owner.
        tenant: TenantId,
        /// Run.
        run: RunId,
        /// What happened in it.
        segment: Arc<Segment>,
    },
    /// A timer of a run.
    PutRunTimer {
        /// Whose.
        timer: RunTimer,
        /// Wall time.
        due: u64,
    },
    /// It has fired, or is not wanted any more.
    DeleteRunTimer(RunTimer),
    /// Something that came for a run and was not taken in yet.
    PutRunEvent {
        /// Owner.
        tenant: TenantId,
        /// Run.
        run: RunId,
        /// Unique in the run while it is there.
        number: u64,
        /// What came.
        event: Box<Event>,
    },
    /// It was taken in.
    DeleteRunEvent {
        /// Owner.
        tenant: TenantId,
        /// Run.
        run: RunId,
        /// See [`Mutation::PutRunEvent`].
        number: u64,
    },
    /// A value that is too large to be carried along in runs.
    PutValue {
        /// Owner: what another tenant made is not found by its hash.
        tenant: TenantId,
        /// The run that it is kept for.
        run: RunId,
        /// SHA-256 of the bytes.
        hash: [u8; 32],
        /// JSON text. Empty = it is a blob of the tenant, such as the large result of a task, and runs name it from now on:
        /// nobody may delete it. Never takes the place of a value that is there; a value takes its place.
        bytes: Bytes,
    },
    /// It is gone.
    DeleteRecord {
        /// Of what.
        kind: RecordKind,
        /// Owner.
        tenant: TenantId,
        /// Key.
        key: Name,
    },
}

/// A run as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    /// Owner.
    pub tenant: TenantId,
    /// Wall time of the last change.
    pub changed: u64,
    /// All of it.
    pub head: Head,
}

/// A timer of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunTimer {
    /// Owner.
    pub tenant: TenantId,
    /// Run.
    pub run: RunId,
    /// The entry that it belongs to.
    pub entry: u64,
}

/// What a number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum NameKind {
    /// A task type.
    Type = 1,
    /// A worker.
    Worker = 2,
}

/// Whose rate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RateKey {
    /// A queue's.
    Queue(QueueId),
    /// A tenant's.
    Tenant(TenantId),
}

/// Kinds of kept records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// API tokens (hashed).
    Token = 1,
    /// Package versions.
    Package = 2,
    /// Background operations.
    Operation = 3,
    /// Task types and the package entry that serves each.
    TaskType = 4,
    /// Labels and permits an operator gave to a worker.
    WorkerOverride = 5,
    /// Settings changed through the API.
    Setting = 6,
    /// Answers of calls that were made with an idempotency key.
    Answer = 7,
    /// Resolved documents of workflows under their SHA-256 in 64 hex.
    Definition = 8,
    /// Versions of workflows under `namespace/name/version`: the hash of the document (64 hex), a blank, and what the shell keeps
    /// of it as JSON.
    Workflow = 9,
}

impl RecordKind {
    /// The kind for its stored number.
    pub fn from_number(number: u8) -> Option<RecordKind> {
        Some(match number {
            1 => RecordKind::Token,
            2 => RecordKind::Package,
            3 => RecordKind::Operation,
            4 => RecordKind::TaskType,
            5 => RecordKind::WorkerOverride,
            6 => RecordKind::Setting,
            7 => RecordKind::Answer,
            8 => RecordKind::Definition,
            9 => RecordKind::Workflow,
            _ => return None,
        })
    }
}

/// A kept record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Of what.
    pub kind: RecordKind,
    /// Owner; 0 = the system.
    pub tenant: TenantId,
    /// Unique in kind and tenant.
    pub key: Name,
    /// Rises by one with each change.
    pub version: u64,
    /// JSON text.
    pub value: Name,
}

/// An attempt that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRecord {
    /// Owner.
    pub tenant: TenantId,
    /// Task.
    pub task: TaskId,
    /// 1 for the first.
    pub number: u32,
    /// Its token.
    pub token: Token,
    /// Who had it.
    pub worker: WorkerId,
    /// Wall time.
    pub granted: u64,
    /// Wall time.
    pub ended: u64,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why.
    pub failure: Option<Failure>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AttemptOutcome {
    /// The worker reported an error.
    Failed = 1,
    /// The lease ended without a report.
    Lost = 2,
    /// A time limit was passed.
    TimedOut = 3,
    /// It was cancelled.
    Cancelled = 4,
    /// The worker gave it back unstarted.
    Returned = 5,
}

impl AttemptOutcome {
    /// The outcome for its stored number.
    pub fn from_number(number: u8) -> Option<AttemptOutcome> {
        Some(match number {
            1 => AttemptOutcome::Failed,
            2 => AttemptOutcome::Lost,
            3 => AttemptOutcome::TimedOut,
            4 => AttemptOutcome::Cancelled,
            5 => AttemptOutcome::Returned,
            _ => return None,
        })
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::Lost => "lost",
            AttemptOutcome::TimedOut => "timed_out",
            AttemptOutcome::Cancelled => "cancelled",
            AttemptOutcome::Returned => "returned",
        }
    }
}

/// What one commit stores: all or nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Partition, numbered on its node.
    pub partition: u32,
    /// Epoch under which it was made; the store refuses a stale one.
    pub epoch: u32,
    /// 1, 2, 3 ... over the life of the partition, not of the epoch.
    pub index: u64,
    /// Highest wall time seen; no later owner goes below it.
    pub wall: u64,
    /// Highest sequence given out.
    pub seq: u64,
    /// Changes, in order.
    pub mutations: Vec<Mutation>,
}

/// What a partition starts from: the store's answer to opening it.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Epoch of the new owner; larger than any before.
    pub epoch: u32,
    /// Index of the last commit.
    pub last_index: u64,
    /// Highest wall time.
    pub wall: u64,
    /// Highest sequence.
    pub seq: u64,
    /// All tenants.
    pub tenants: Vec<Tenant>,
    /// All queues, deleted ones too.
    pub queues: Vec<Queue>,
    /// All names.
    pub names: Vec<(NameKind, TenantId, u32, Name)>,
    /// Counters.
    pub counts: Vec<(QueueId, [i64; 9])>,
    /// Rate limiters.
    pub rates: Vec<(RateKey, u64)>,
    /// All kept records.
    pub records: Vec<Record>,
    /// Runs for which something came that was not taken in yet.
    pub waiting_runs: Vec<(TenantId, RunId)>,
    /// All running tasks, without their inputs ([`crate::task::Payload::Cold`]).
    pub running: Vec<Task>,
    /// Ids of types in use, for readers that only need the number.
    pub types: Vec<TypeId>,
}
