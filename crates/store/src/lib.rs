//! The store: what a partition needs of a database, and nothing else. One contract ([`conformance`]), many backends.
//!
//! Never here: a database driver, business rules, a clock.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tidewheel_engine::id::{QueueId, RunId, TaskId, TenantId, TypeId, WorkerId};
use tidewheel_engine::load::{Load, Loaded, StoredRun};
use tidewheel_engine::mutation::{AttemptRecord, Batch, Recovered};
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::journal::Segment;
use tidewheel_engine::task::{State, Task};

pub mod blob;
pub mod codec;
pub mod conformance;
pub mod log;
pub mod memory;
pub mod naming;
pub mod query;
pub mod run;

pub use run::{RunPage, RunQuery, RunRow};

/// Called once, from the store's own thread, when a batch is on disk or has failed. Must not block.
pub type Committed = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// What a partition needs. Every method may be called from any thread.
///
/// Order: batches of one partition are committed in the order of [`Store::commit`]; a batch whose epoch is not the
/// partition's newest, or whose index is not the next one, fails with [`Error::Stale`] and changes nothing.
pub trait Store: Send + Sync + 'static {
    /// Takes the partition over: raises its epoch and returns what a new owner starts from. After it returned, no commit of an earlier epoch can succeed.
    fn open(&self, partition: u32) -> Result<Recovered, Error>;
    /// Queues a batch. `done` runs after it is durable (or has failed). Many batches may share one transaction and one
    /// fsync; the store never waits for more to come.
    fn commit(&self, batch: Batch, done: Committed);
    /// Reads for the engine, on committed state. Returns the answer and the index of the newest commit of `partition`
    /// that it is sure to have seen.
    fn load(&self, partition: u32, load: &Load) -> Result<(u64, Loaded), Error>;
    /// Whether an idempotency key may be known. `false` is certain and costs no read; takes no lock for long.
    fn may_know(&self, tenant: TenantId, hash: &[u8; 16]) -> bool;
    /// One task with its input.
    fn task(&self, tenant: TenantId, id: TaskId) -> Result<Option<Task>, Error>;
    /// A page of tasks, without inputs, newest first.
    fn tasks(&self, query: &TaskQuery) -> Result<TaskPage, Error>;
    /// Ended attempts of a task that did not succeed, oldest first.
    fn attempts(&self, tenant: TenantId, id: TaskId) -> Result<Vec<AttemptRecord>, Error>;
    /// Forgets what may be forgotten: idempotency keys that are over, finished tasks changed before `finished_before`
    /// (0 = none). At most `limit` rows of each; returns how many went.
    fn sweep(&self, now: u64, finished_before: u64, limit: usize) -> Result<u64, Error>;
    /// A run as it was last written whole, with the turns after that, its timers and what was not taken in yet.
    fn run(&self, tenant: TenantId, run: RunId) -> Result<Option<Box<StoredRun>>, Error>;
    /// Turns of a run after the n-th (0 = from the first), in order; at most `limit` of them.
    fn turns(&self, tenant: TenantId, run: RunId, after: u64, limit: usize) -> Result<Vec<Segment>, Error>;
    /// A page of runs, newest first.
    fn runs(&self, query: &RunQuery) -> Result<RunPage, Error>;
    /// How many runs of a tenant are in each phase; none is counted beyond `at_most`.
    fn run_counts(&self, tenant: TenantId, at_most: u64) -> Result<Vec<(Phase, u64)>, Error>;
    /// A value that is too large to be carried along in runs, by the SHA-256 of its JSON text. Empty = it is a blob of the tenant
    /// that runs name.
    fn value(&self, tenant: TenantId, hash: &[u8; 32]) -> Result<Option<Bytes>, Error>;
    /// Forgets runs that ended before a wall time, with their turns, timers and events, and the values that nothing else names
    /// ([`naming`]): at most `limit` runs, those that ended first. It may stop before that when there was much to remove;
    /// returns how many went.
    fn sweep_runs(&self, ended_before: u64, limit: usize) -> Result<u64, Error>;
    /// A consistent copy of the whole store at `path`, made while it runs.
    fn backup(&self, path: &std::path::Path) -> Result<(), Error>;
    /// Figures for `/metrics`.
    fn figures(&self) -> Figures;
    /// Finishes what is queued and closes. Later commits fail with [`Error::Closed`].
    fn close(&self);
}

/// A list of tasks. All conditions hold together; empty ones do not restrict.
#[derive(Clone, Debug, Default)]
pub struct TaskQuery {
    /// Owner.
    pub tenant: TenantId,
    /// Any of these states.
    pub states: Vec<State>,
    /// None of these.
    pub not_states: Vec<State>,
    /// Any of these queues.
    pub queues: Vec<QueueId>,
    /// Any of these types.
    pub kinds: Vec<TypeId>,
    /// Last worker is any of these.
    pub workers: Vec<WorkerId>,
    /// Priority within.
    pub priority: Option<(u8, u8)>,
    /// Attempts within.
    pub attempts: Option<(u32, u32)>,
    /// Created at or after this wall time.
    pub created_from: Option<u64>,
    /// Created before this wall time.
    pub created_until: Option<u64>,
    /// Each label has the value.
    pub labels: Vec<(String, String)>,
    /// Correlation id.
    pub correlation_id: Option<String>,
    /// Workflow named by the submitter.
    pub workflow_id: Option<String>,
    /// Type of the last error.
    pub error_kind: Option<String>,
    /// All of these occur in the error's type or message, whatever the case.
    pub words: Vec<String>,
    /// Only ids below this one (the last of the page before).
    pub before: Option<TaskId>,
    /// 1 to 1,000.
    pub limit: usize,
    /// Rows looked at, at most; the page then says how far it came.
    pub scan_limit: usize,
}

/// A page.
#[derive(Clone, Debug, Default)]
pub struct TaskPage {
    /// Newest first.
    pub tasks: Vec<Task>,
    /// There may be more below this id.
    pub next: Option<TaskId>,
    /// The scan limit was reached: everything newer than this wall time was looked at.
    pub searched_back_to: Option<u64>,
    /// Commit it was read at.
    pub as_of: u64,
}

/// Figures of a store since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Transactions committed.
    pub commits: u64,
    /// Batches in them.
    pub batches: u64,
    /// Mutations in them.
    pub mutations: u64,
    /// Syncs of the log file.
    pub fsyncs: u64,
    /// Microseconds spent in commits.
    pub commit_us: u64,
    /// Size of the write-ahead log.
    pub wal_bytes: u64,
    /// Size of the database.
    pub database_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// How long commits took to reach the disk: writing the log and syncing it.
    pub syncs: Times,
    /// Open connections to the database.
    pub connections: Connections,
}

/// Open connections to a database, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Of the one that writes.
    pub writers: u64,
    /// Of what copies the log into the database.
    pub copiers: u64,
    /// Of reads that are under way.
    pub readers_used: u64,
    /// That wait for the next read.
    pub readers_idle: u64,
}

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Counts between two edges of [`Times::EDGES_US`], each with its upper edge; the last is beyond all of them.
    pub counts: [u64; Times::EDGES_US.len() + 1],
    /// Microseconds in all.
    pub sum_us: u64,
}

impl Times {
    /// Upper edges in microseconds.
    pub const EDGES_US: [u64; 18] = [
        100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
        5_000_000, 10_000_000, 30_000_000, 60_000_000,
    ];

    /// Where a time counts.
    pub fn slot(us: u64) -> usize {
        Times::EDGES_US.partition_point(|edge| *edge < us)
    }
}

/// What went wrong, from the caller's view.
#[derive(Debug, Clone)]
pub enum Error {
    /// Another owner has taken the partition over, or the index does not follow. Nothing changed.
    Stale {
        /// Epoch of the refused batch.
        epoch: u32,
        /// Index of the refused batch.
        index: u64,
    },
    /// No space left. Nothing changed; it may be tried again.
    Full(String),
    /// The disk did not keep what it was told to keep. The process has to end: what is in its caches can no longer be trusted.
    Fsync(String),
    /// Busy, locked, interrupted: nothing is known to have changed; reload and try again.
    Failed(String),
    /// The stored data contradicts itself or its checksum.
    Corrupt(String),
    /// Written by a newer version of the program.
    TooNew(String),
    /// Closed by [`Store::close`].
    Closed,
}

impl Error {
    /// Whether the same operation may succeed later in this process.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Full(_) | Error::Failed(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Stale { epoch, index } => {
                write!(f, "batch {index} of epoch {epoch} is stale: the partition has a newer owner")
            }
            Error::Full(text) => write!(f, "no space left on the store's disk: {text}"),
            Error::Fsync(text) => write!(f, "the disk failed to keep data (fsync): {text}"),
            Error::Failed(text) => write!(f, "the store failed: {text}"),
            Error::Corrupt(text) => write!(f, "stored data is damaged: {text}"),
            Error::TooNew(text) => write!(f, "the data was written by a newer version: {text}"),
            Error::Closed => write!(f, "the store is closed"),
        }
    }
}

impl std::error::Error for Error {}

/// A store shared by the partitions of a node.
pub type SharedStore = Arc<dyn Store>;

/// Bytes with their SHA-256, as blobs are addressed.
pub type Hash = [u8; 32];

#[doc(hidden)]
pub type BlobBytes = Bytes;
