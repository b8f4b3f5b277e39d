//! What the engine asks of the store: reads it cannot do itself. An answer says which commit it saw (`as_of`).

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{QueueId, RunId, TaskId, TenantId};
use crate::mutation::RunTimer;
use crate::run::act::Event;
use crate::run::eval::Json;
use crate::run::head::Head;
use crate::run::journal::Segment;
use crate::task::Task;

/// Identifies a load, so that its answer finds what waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoadId(pub u64);

/// A read.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// Records by id. With their inputs.
    Tasks(Vec<(TenantId, TaskId)>),
    /// The task an idempotency key stands for.
    Idempotency {
        /// Owner.
        tenant: TenantId,
        /// First 16 bytes of the key's blake3.
        hash: [u8; 16],
    },
    /// The next rows of one lane, in order.
    Lane {
        /// Queue.
        queue: QueueId,
        /// Lane key.
        lane: i64,
        /// Rows with an order >= this.
        from: u64,
        /// At most so many.
        limit: usize,
    },
    /// Lanes of a queue within [`from`, `until`), each with its first rows.
    Lanes {
        /// Queue.
        queue: QueueId,
        /// Lanes with a key >= this.
        from: i64,
        /// And < this.
        until: i64,
        /// At most so many lanes.
        lanes: usize,
        /// Rows per lane.
        rows: usize,
    },
    /// What is due in [`from.0`, `until`], tasks and timers of runs together, in (due, id, entry) order, after `from`.
    Due {
        /// Last (due, id of task or run, entry of the run or 0) seen, exclusive.
        from: (u64, u128, u64),
        /// Inclusive.
        until: u64,
        /// At most so many.
        limit: usize,
    },
    /// A run: its newest whole head and what came after it.
    Run {
        /// Owner.
        tenant: TenantId,
        /// Which.
        run: RunId,
        /// With more stored bytes than these it is not read, and the answer says how many they are. 0 = only that is asked.
        at_most: usize,
    },
    /// A run with all its turns.
    History(TenantId, RunId),
    /// Values by the SHA-256 of their bytes. One that a run has not stored itself (a large result of a task) is a blob of the
    /// tenant.
    Values(TenantId, Vec<[u8; 32]>),
}

/// Something due.
#[derive(Clone, Debug, PartialEq)]
pub enum Due {
    /// A task, with its input.
    Task(Box<Task>),
    /// A timer of a run.
    Run(RunTimer, u64),
}

impl Due {
    /// When.
    pub fn at(&self) -> u64 {
        self.place().0
    }

    /// Its place in the order of [`Load::Due`].
    pub fn place(&self) -> (u64, u128, u64) {
        match self {
            Due::Task(task) => (task.due, task.id.0, 0),
            Due::Run(timer, due) => (*due, timer.run.0, timer.entry),
        }
    }
}

/// A run as the store has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredRun {
    /// The newest head that was written whole.
    pub head: Option<Box<Head>>,
    /// The turns after it, in order; with [`Load::History`] all of them.
    pub segments: Vec<Segment>,
    /// Its timers: entry and due time.
    pub timers: Vec<(u64, u64)>,
    /// What was not taken in yet, by number.
    pub events: Vec<(u64, Event)>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Loaded {
    /// In the order asked; `None` = there is none.
    Tasks(Vec<Option<Task>>),
    /// Task and 8-byte body hash.
    Idempotency(Option<(TaskId, u64)>),
    /// Rows of the lane; fewer than the limit = the lane ends here.
    Lane(Vec<Task>),
    /// Lanes in key order with their first rows; fewer than the limit = the range ends here.
    Lanes(Vec<(i64, Vec<Task>)>),
    /// Rows; fewer than the limit = the window ends here.
    Due(Vec<Due>),
    /// `None` = there is none.
    Run(Option<Box<StoredRun>>),
    /// It is there and was not read: it has so many bytes, of its head, the turns after it and what was not taken in yet.
    RunTooLarge(usize),
    /// In the order asked; `None` = there is none.
    Values(Vec<Option<Bytes>>),
    /// The same, read beside the loop, each with the bytes of its text. What is no JSON is `None`, too.
    Parsed(Vec<Option<(Arc<Json>, usize)>>),
}

impl Loaded {
    /// Reads the texts of values: large ones take their time, which the loop of a partition does not have.
    pub fn parsed(self) -> Loaded {
        let Loaded::Values(values) = self else { return self };
        let read = |bytes: Bytes| Some((Arc::new(serde_json::from_slice(&bytes).ok()?), bytes.len()));
        Loaded::Parsed(values.into_iter().map(|value| value.and_then(read)).collect())
    }
}
