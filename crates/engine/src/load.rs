//! What the engine asks of the store: reads it cannot do itself. An answer says which commit it saw (`as_of`).

use crate::id::{QueueId, TaskId, TenantId};
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
    /// Rows with `due` in [`from.0`, `until`], in (due, id) order, after `from`. With their inputs.
    Due {
        /// Last (due, id) seen, exclusive.
        from: (u64, TaskId),
        /// Inclusive.
        until: u64,
        /// At most so many.
        limit: usize,
    },
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
    Due(Vec<Task>),
}
