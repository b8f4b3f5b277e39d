//! Log lines of attempts: their own store, so that results never wait for logs.

use tidewheel_engine::id::{TaskId, TenantId};

use crate::Error;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Owner.
    pub tenant: TenantId,
    /// Task.
    pub task: TaskId,
    /// Attempt, 1 for the first.
    pub attempt: u32,
    /// Number of the line within the attempt; (task, attempt, offset) is unique, a repeat is ignored.
    pub offset: u64,
    /// Wall time in milliseconds.
    pub at: u64,
    /// `stdout`, `stderr`, `log`.
    pub stream: Stream,
    /// Severity.
    pub level: Level,
    /// Text without the line end; control characters as they came.
    pub text: String,
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// `ctx.log`.
    Log = 3,
}

/// Severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Detail.
    Debug = 1,
    /// Normal.
    Info = 2,
    /// Worth a look.
    Warning = 3,
    /// Wrong.
    Error = 4,
}

/// A search. All conditions hold together.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Owner.
    pub tenant: TenantId,
    /// One task only.
    pub task: Option<TaskId>,
    /// One attempt only.
    pub attempt: Option<u32>,
    /// At least this severe.
    pub level: Option<Level>,
    /// Full-text words, all of them.
    pub text: Option<String>,
    /// After this row (for a task: in order of arrival; without a task: newest first, below this row).
    pub cursor: Option<u64>,
    /// The last lines instead of the first.
    pub tail: bool,
    /// 1 to 10,000.
    pub limit: usize,
}

/// Lines with their row numbers.
pub type LogPage = Vec<(u64, Line)>;

/// Where lines are kept.
pub trait LogStore: Send + Sync + 'static {
    /// Stores lines; returns when they are on disk.
    fn append(&self, lines: Vec<Line>) -> Result<(), Error>;
    /// Searches.
    fn query(&self, query: &LogQuery) -> Result<LogPage, Error>;
    /// Deletes lines older than this wall time; at most `limit`; returns how many went.
    fn sweep(&self, before: u64, limit: usize) -> Result<u64, Error>;
    /// Writes a copy of all lines as of now to a new file, durably, while lines come and go.
    fn backup(&self, path: &std::path::Path) -> Result<(), Error>;
}
