//! The task record: what is fixed when it is accepted ([`Spec`]), and what changes ([`Task`]).

use std::sync::Arc;

use bytes::Bytes;

use crate::config::{RetryPolicy, Timeouts};
use crate::id::{Name, QueueId, RunId, TaskId, TenantId, Token, TypeId, WorkerId};
use crate::serve::Length;

/// Where a task is in its life. Transitions are in [`State::can_become`] and drawn in `docs/reference/states.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Waits for its time: delayed, or backing off after a failed attempt.
    Scheduled = 0,
    /// Could run; waits for a permit or a worker.
    Queued = 1,
    /// Granted to a worker.
    Running = 2,
    /// Waits for a person or an outside answer, holding no permit.
    Waiting = 3,
    /// Ended with a result.
    Succeeded = 4,
    /// Ended with an error that is not retried.
    Failed = 5,
    /// Ended out of attempts; in the dead-letter queue.
    Dead = 6,
    /// Ended by a cancel.
    Cancelled = 7,
    /// Its time to live ran out before it started.
    Expired = 8,
}

impl State {
    /// Every state, in number order.
    pub const ALL: [State; 9] = [
        State::Scheduled,
        State::Queued,
        State::Running,
        State::Waiting,
        State::Succeeded,
        State::Failed,
        State::Dead,
        State::Cancelled,
        State::Expired,
    ];

    /// The name used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Scheduled => "scheduled",
            State::Queued => "queued",
            State::Running => "running",
            State::Waiting => "waiting",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Dead => "dead",
            State::Cancelled => "cancelled",
            State::Expired => "expired",
        }
    }

    /// The state for its stored number.
    pub fn from_number(number: u8) -> Option<State> {
        State::ALL.get(usize::from(number)).copied()
    }

    /// The state for its name.
    pub fn parse(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|s| s.as_str() == name)
    }

    /// Nothing follows, save an explicit retry.
    pub fn is_terminal(self) -> bool {
        self >= State::Succeeded
    }

    /// Whether `next` may follow. A retry by a person may take a task out of each terminal state but `succeeded`.
    pub fn can_become(self, next: State) -> bool {
        use State::{Cancelled, Dead, Expired, Failed, Queued, Running, Scheduled, Succeeded, Waiting};
        match self {
            Scheduled => matches!(next, Scheduled | Queued | Running | Cancelled | Expired | Failed | Dead),
            Queued => matches!(next, Queued | Scheduled | Running | Cancelled | Expired | Failed | Dead),
            Running => {
                matches!(next, Scheduled | Queued | Waiting | Succeeded | Failed | Dead | Cancelled | Running | Expired)
            }
            Waiting => matches!(next, Succeeded | Failed | Dead | Cancelled | Scheduled | Queued),
            Succeeded => false,
            Failed | Dead | Cancelled | Expired => matches!(next, Scheduled | Queued | Running),
        }
    }
}

/// The label that an item of a queue requires. No worker offers it by itself, so items wait for those who take them.
pub const ITEM: (&str, &str) = ("tidewheel.item", "taken");

/// Bytes of an input or result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// Nothing was given.
    #[default]
    None,
    /// JSON text, at most [`crate::limit::INLINE_BYTES`].
    Inline(Bytes),
    /// A blob of the store by its SHA-256.
    Blob {
        /// SHA-256 of the content.
        hash: [u8; 32],
        /// Bytes.
        size: u64,
    },
    /// It exists in the store but is not in memory; never stored in this form.
    Cold,
}

/// What a task needs of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resources {
    /// 1,000 = one core; 0 = not counted.
    pub cpu_millis: u32,
    /// 0 = not counted.
    pub memory_bytes: u64,
}

const MB: u64 = 1 << 20;

/// What the class `default` stands for. To a task that asks for nothing it is a share, and a permit of a worker is what it
/// takes of that: counted in cores it would keep all but a few of the tasks that only wait for something from running at
/// once. Such a task has no resources in its [`Spec`]. Who asks for the class by its name gets its figures.
pub const DEFAULT_CLASS: Resources = Resources { cpu_millis: 1_000, memory_bytes: 256 * MB };

/// Classes by name, with whether their reads and writes go first: document B's `allocateResources`.
pub const CLASSES: [(&str, Resources, bool); 4] = [
    ("default", DEFAULT_CLASS, false),
    ("cpu-intensive", Resources { cpu_millis: 2_000, memory_bytes: 1_024 * MB }, false),
    ("memory-intensive", Resources { cpu_millis: 1_000, memory_bytes: 4_096 * MB }, false),
    ("io-intensive", Resources { cpu_millis: 1_000, memory_bytes: 512 * MB }, true),
];

/// The figures of a class, and whether its reads and writes go first. `None` = there is no such class.
pub fn class(name: &str) -> Option<(Resources, bool)> {
    CLASSES.iter().find(|(known, ..)| *known == name).map(|(_, resources, fast_io)| (*resources, *fast_io))
}

/// A file left by an attempt; the content is a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Unique in the attempt.
    pub name: Name,
    /// SHA-256 of the content.
    pub hash: [u8; 32],
    /// Bytes.
    pub size: u64,
    /// Media type.
    pub content_type: Name,
}

/// What the submitter fixed. Shared by all tasks of a batch that ask for the same; the default stands for "nothing special".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {
    /// The task's own retry policy, else the queue's.
    pub retry: Option<RetryPolicy>,
    /// The task's own limits; 0 = the queue's.
    pub timeouts: Timeouts,
    /// From accept; 0 = the queue's.
    pub ttl_ms: u64,
    /// Tasks of a queue with the same key run one after another in accept order.
    pub ordering_key: Option<Name>,
    /// Tasks with the same key share a limit.
    pub concurrency_key: Option<Name>,
    /// The key's limit; 0 = the queue's `key_concurrency`.
    pub concurrency_limit: u32,
    /// Prefers the same worker for the same key.
    pub affinity_key: Option<Name>,
    /// Labels a worker has to have; sorted by name.
    pub requires: Vec<(Name, Name)>,
    /// What it needs.
    pub resources: Resources,
    /// May share a handler call.
    pub batchable: bool,
    /// Searchable; sorted by name.
    pub labels: Vec<(Name, Name)>,
    /// Ties related work together.
    pub correlation_id: Option<Name>,
    /// Run the submitter named.
    pub workflow_id: Option<Name>,
    /// SHA-256 (64 hex) of the package that has the code.
    pub package: Option<Name>,
    /// `module:function` in it.
    pub entrypoint: Option<Name>,
    /// W3C trace context of the submitter.
    pub traceparent: Option<Name>,
    /// As sent.
    pub idempotency_key: Option<Name>,
    /// Executor key that a routing rule gave it; `None` = [`crate::serve::PLAIN_EXECUTOR`].
    pub executor: Option<Name>,
    /// Name of the routing rule that matched.
    pub rule: Option<Name>,
    /// Expected run in milliseconds; 0 = as long as its own run timeout, if it has one.
    pub expected_ms: u64,
    /// Data it works on: a worker that holds some of it goes before its equals.
    pub near: Vec<Name>,
    /// Its files and disks go before those of others.
    pub fast_io: bool,
}

impl Spec {
    /// How long it is expected to run: what was said, else what its own run timeout allows.
    pub fn length(&self) -> Length {
        Length::of(if self.expected_ms > 0 { self.expected_ms } else { self.timeouts.run_ms })
    }

    /// Whether it asks a worker for nothing but its type.
    pub(crate) fn is_undemanding(&self) -> bool {
        self.requires.is_empty()
            && self.resources == Resources::default()
            && self.executor.is_none()
            && self.length() == Length::Medium
    }
}

/// Why an attempt ended without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exception class, or one of ours: `lost`, `timeout`, `start-timeout`, `heartbeat-timeout`, `queue-timeout`, `cancelled`, `expired`.
    pub kind: Name,
    /// One line.
    pub message: Name,
    /// Traceback.
    pub detail: Name,
    /// Whether the worker allows a retry.
    pub retryable: bool,
}

impl Failure {
    /// A failure that the engine itself found.
    pub fn ours(kind: &str, message: &str) -> Failure {
        Failure { kind: kind.into(), message: message.into(), detail: "".into(), retryable: true }
    }
}

/// How an attempt ended, as the worker reports it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// With a result.
    Ok {
        /// JSON text or blob.
        result: Payload,
        /// Files.
        artifacts: Vec<Artifact>,
    },
    /// With an error.
    Failed {
        /// Which.
        failure: Failure,
        /// Files.
        artifacts: Vec<Artifact>,
        /// The worker stopped it because it was told to.
        cancelled: bool,
    },
}

/// What is kept of the last attempt that ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ending {
    /// Result of a succeeded task.
    pub result: Payload,
    /// Error of the last failed attempt.
    pub failure: Option<Failure>,
    /// Files of that attempt.
    pub artifacts: Vec<Artifact>,
}

/// The step of a run that a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// The run.
    pub run: RunId,
    /// Its entry for the step.
    pub entry: u64,
    /// Of a map: index of the first item. 0 otherwise.
    pub first: u64,
    /// Of a map: items in the task. 0 = it is no item of a map.
    pub items: u32,
}

/// A task.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Identity; carries its slot.
    pub id: TaskId,
    /// Owner.
    pub tenant: TenantId,
    /// Queue it waits in.
    pub queue: QueueId,
    /// Task type.
    pub kind: TypeId,
    /// Where it is in its life.
    pub state: State,
    /// 0 to 9, 9 first.
    pub priority: u8,
    /// Accept order within the partition.
    pub seq: u64,
    /// Lane it waits in: see [`crate::ready::lane_key`]. `None` when it does not wait in a queue.
    pub lane: Option<i64>,
    /// Wall time of acceptance.
    pub created: u64,
    /// Wall time of the last change of state.
    pub changed: u64,
    /// Wall time at which it is due (scheduled) or expires (queued); 0 = never. Of a running task: the first end of the
    /// lease under which it was taken; 0 = it was granted to a worker's session.
    pub due: u64,
    /// Wall time before which it does not run, as the submitter asked; 0 = at once.
    pub run_at: u64,
    /// Grants so far.
    pub attempt: u32,
    /// Grants a person added by a retry; the bound on attempts counts from here.
    pub attempt_base: u32,
    /// Token of the last grant.
    pub token: Token,
    /// Worker of the last grant.
    pub worker: WorkerId,
    /// Wall time of the last grant; 0 = none yet.
    pub granted: u64,
    /// Wall time at which the handler of the last grant began; 0 = not yet, or not reported. Written with the task's next
    /// change, so a crash loses it.
    pub started: u64,
    /// A cancel was asked for while it ran.
    pub cancelling: bool,
    /// What was asked for.
    pub spec: Arc<Spec>,
    /// Input.
    pub input: Payload,
    /// Of the last attempt that ended.
    pub ending: Option<Arc<Ending>>,
    /// The step of a run that waits for it.
    pub step: Option<Box<Step>>,
}

impl Spec {
    /// Whether it is an item: for those who take it, not for workers.
    pub fn is_item(&self) -> bool {
        self.requires.iter().any(|(name, value)| (&**name, &**value) == ITEM)
    }
}

impl Task {
    /// A queued task of which nothing is known but its key and what was asked for: no time, no attempt, no input.
    pub fn blank(tenant: TenantId, id: TaskId, spec: Arc<Spec>) -> Task {
        Task {
            id,
            tenant,
            queue: QueueId(0),
            kind: TypeId(0),
            state: State::Queued,
            priority: 0,
            seq: 0,
            lane: None,
            created: 0,
            changed: 0,
            due: 0,
            run_at: 0,
            attempt: 0,
            attempt_base: 0,
            token: Token::default(),
            worker: WorkerId(0),
            granted: 0,
            started: 0,
            cancelling: false,
            spec,
            input: Payload::None,
            ending: None,
            step: None,
        }
    }

    /// The lease under which it was taken, in milliseconds; 0 = none. It never changes while the attempt lives.
    pub fn lease_ms(&self) -> u64 {
        if self.state == State::Running { self.due.saturating_sub(self.granted) } else { 0 }
    }

    /// Order within its lane: higher priority first, then accept order.
    pub fn order(&self) -> u64 {
        order_of(self.priority, self.seq)
    }
}

/// See [`Task::order`]. Ordering-key lanes ignore priority, since accept order is their promise.
pub fn order_of(priority: u8, seq: u64) -> u64 {
    (u64::from(9 - priority.min(9)) << 56) | (seq & 0x00FF_FFFF_FFFF_FFFF)
}

/// Priority class: 0 (priorities 0-3), 1 (4-6), 2 (7-9).
pub fn class_of(priority: u8) -> u8 {
    match priority {
        0..=3 => 0,
        4..=6 => 1,
        _ => 2,
    }
}
