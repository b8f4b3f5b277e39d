//! What happens in a run, in order of time and, within one microsecond, of scheduling.

use std::cmp::Ordering;

use tidewheel_engine::Command;
use tidewheel_engine::Reply;
use tidewheel_engine::effect::Grant;
use tidewheel_engine::id::{RequestId, TaskId, TenantId, Token};
use tidewheel_engine::load::{Load, LoadId, Loaded};

use crate::world::Move;

/// One thing that happens.
#[derive(Debug)]
pub enum Event {
    /// A process looks at its clock.
    Wake { process: u64, partition: usize },
    /// The disk of a partition is done with the first commit.
    Written { partition: usize },
    /// A process learns how its commit went.
    Reported { process: u64, partition: usize, epoch: u32, index: u64, report: Report },
    /// A read looks at the rows.
    Read { process: u64, partition: usize, epoch: u32, id: LoadId, load: Load },
    /// A read's answer arrives.
    Loaded { process: u64, partition: usize, epoch: u32, id: LoadId, load: Load, answer: Option<(u64, Loaded)> },
    /// A process tries to open its partition again.
    Reopen { process: u64, partition: usize },
    /// A turn of a run was computed beside the loop.
    Computed { process: u64, partition: usize, command: Box<Command> },
    /// A client's request arrives.
    Asked { partition: usize, request: RequestId, command: Box<Command> },
    /// A client's answer arrives; `None` = the node says that it does not know.
    Answered { request: RequestId, reply: Option<Box<Reply>> },
    /// A client waits no longer.
    CallTimeout { request: RequestId },
    /// A client acts.
    Act(Act),
    /// A worker's message arrives at the node.
    FromWorker { conn: u64, command: Box<Command> },
    /// The node sees that a connection is gone.
    NodeSeesBreak { conn: u64 },
    /// A node's message arrives at a worker.
    ToWorker { conn: u64, message: ToWorker },
    /// A worker sees that a connection is gone.
    WorkerSeesBreak { conn: u64 },
    /// A worker connects.
    Connect { worker: usize, link: usize, life: u32 },
    /// A worker's heartbeat is due.
    Beat { worker: usize, life: u32 },
    /// An attempt ends at a worker.
    Done { worker: usize, link: usize, life: u32, task: TaskId, token: Token, how: How },
    /// An attempt shows that it is alive.
    Progress { worker: usize, link: usize, life: u32, task: TaskId, token: Token, every: u64 },
    /// A worker starts again.
    WorkerStarts { worker: usize },
    /// A worker begins or ends a drain.
    WorkerDrains { worker: usize, life: u32, draining: bool },
    /// All streams break.
    LinksBreak,
    /// The node starts again.
    NodeStarts,
    /// Something breaks.
    Fault(Fault),
    /// Items are asked for.
    Take,
    /// A taker of an item is done with it, or gives a sign of life first.
    Settle { partition: usize, tenant: TenantId, task: TaskId, token: Token, renews: bool },
    /// A client of runs acts.
    ActOnRuns(RunAct),
    /// A client moves a run to another version.
    MoveRun(Box<Move>),
    /// The checkers look.
    Tick,
    /// The next part of the run.
    Phase(Phase),
}

/// How a commit went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Report {
    /// It is durable.
    Ok,
    /// It failed.
    Failed,
    /// The sync failed.
    Fsync,
    /// Another owner has the partition.
    Stale,
}

/// A message to a worker.
#[derive(Clone, Debug)]
pub enum ToWorker {
    /// Grants.
    Grants(Vec<Grant>),
    /// It is registered.
    Welcome(Vec<(TaskId, Token)>),
    /// So many results were dealt with.
    Accepted(u32),
    /// Stop an attempt.
    Cancel(TaskId, Token),
    /// Attempts that are no longer its own.
    Revoke(Vec<(TaskId, Token)>),
    Recall(Vec<(TaskId, Token)>),
    /// The session is over.
    Close,
}

/// How an attempt ends at its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// With a result.
    Ok,
    /// With an error of this number.
    Error(u8),
    /// It was told to stop.
    Cancelled,
    /// The worker dies of it.
    Poison,
}

/// Kinds of acts of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Submit.
    Submit,
    /// Cancel.
    Cancel,
    /// Retry.
    Retry,
    /// Change a task.
    Patch,
    /// Pause or resume a queue.
    Pause,
    /// Change settings.
    Config,
    /// Look.
    Read,
    /// Drain a worker.
    Drain,
    /// Register a package for a type of tasks.
    Register,
}

/// Kinds of acts on runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is an action of the engine")]
pub enum RunAct {
    Start,
    Read,
    Signal,
    Cancel,
    Suspend,
    Resume,
    Retry,
    Reset,
    Fork,
    Deploy,
    DeployLast,
    Move,
    Accept,
    Pair,
}

impl RunAct {
    /// All that come again and again.
    pub const ALL: [RunAct; 9] = [
        RunAct::Start,
        RunAct::Read,
        RunAct::Signal,
        RunAct::Cancel,
        RunAct::Suspend,
        RunAct::Resume,
        RunAct::Retry,
        RunAct::Reset,
        RunAct::Fork,
    ];

    /// Those that have to do with versions.
    pub const MOVES: [RunAct; 2] = [RunAct::Move, RunAct::Accept];
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is described in the plan")]
pub enum Fault {
    Crash,
    Takeover,
    Pause,
    CommitFails,
    CommitLandsAndFails,
    FsyncFails,
    Full,
    Slow,
    WorkerCrash,
    WorkerFreeze,
    BreakLink,
    Clog,
    Jump,
    WorkerDrain,
}

/// Parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Faults and load stop, what is broken is repaired.
    Heal,
    /// Limits are lifted.
    Lift,
}

/// An event and its time.
#[derive(Debug)]
pub struct Scheduled {
    /// Microseconds since the run began.
    pub at: u64,
    /// Order among equals.
    pub seq: u64,
    /// What.
    pub event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, as a heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}
