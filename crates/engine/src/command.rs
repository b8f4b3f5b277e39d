//! Commands in: the closed list of what can be asked of a partition.

use std::sync::Arc;

use crate::config::{QueueConfig, QueueState, TenantConfig};
use crate::id::{Name, RequestId, RunId, SessionId, TaskId, TenantId, Token};
use crate::mutation::RecordKind;
use crate::run::data::Data;
use crate::run::fold::FoldError;
use crate::run::moves::CodePlace;
use crate::run::promise::Completion;
use crate::run::turn::Turn;
use crate::serve::Serves;
use crate::task::{Outcome, Payload, Resources, Spec, State};
use crate::view::View;

/// One task to accept.
#[derive(Clone, Debug, PartialEq)]
pub struct Submit {
    /// Task type.
    pub kind: Name,
    /// Queue; has to exist.
    pub queue: Name,
    /// 0 to 9.
    pub priority: u8,
    /// Wall time before which it does not run; 0 = at once.
    pub run_at: u64,
    /// Delay from acceptance, added to the wall time of the commit; 0 = none.
    pub delay_ms: u64,
    /// Input.
    pub input: Payload,
    /// Everything else; share it between equal ones.
    pub spec: Arc<Spec>,
    /// Key hash and body hash; `None` = no key.
    pub idempotency: Option<([u8; 16], u64)>,
}

/// Who a worker is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hello {
    /// The tenant it serves; `None` = every tenant (system scope).
    pub tenant: Option<TenantId>,
    /// Unique in its tenant.
    pub name: Name2,
    /// Tells a restart from a reconnect.
    pub instance: Name2,
    /// `agent`, `executor`, `sdk`.
    pub kind: Name2,
    /// Software version.
    pub version: Name2,
    /// Queue names served; empty = all.
    pub queues: Vec<Name>,
    /// Task types served; empty = all.
    pub types: Vec<Name>,
    /// Of the types served, those it has code for itself; a trailing `*` stands for any end. It is given the others only
    /// with a package that brings them. `None` = it has code for every type it serves.
    pub own_types: Option<Vec<Name>>,
    /// Labels and capabilities, sorted by name.
    pub labels: Vec<(Name, Name)>,
    /// What it has; zero = not counted.
    pub resources: Resources,
    /// Attempts at once.
    pub permits: u32,
    /// Grants it holds ready beyond them.
    pub buffer: u32,
    /// Hashes of cached packages.
    pub packages: Vec<Name>,
    /// What it serves of that.
    pub serves: Serves,
    /// Data it holds, sorted.
    pub data: Vec<Name>,
    /// Which walls are up.
    pub enforced: Vec<(Name, Name)>,
    /// Attempts of an earlier session that are still alive there.
    pub resume: Vec<(TaskId, Token)>,
    /// Its wall clock minus ours, in milliseconds.
    pub clock_offset_ms: i64,
}

/// A name that may be empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name2(pub Name);

impl Default for Name2 {
    fn default() -> Self {
        Name2("".into())
    }
}

impl From<&str> for Name2 {
    fn from(text: &str) -> Self {
        Name2(text.into())
    }
}

/// What a worker reports of its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// 0..1.
    pub cpu_ratio: f32,
    /// Bytes.
    pub memory_used_bytes: u64,
    /// Bytes.
    pub disk_free_bytes: u64,
    /// Give it nothing new.
    pub tight: bool,
}

/// A sign of life of a worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beat {
    /// Its machine.
    pub usage: Usage,
    /// Packages it now has.
    pub packages_added: Vec<Name>,
    /// Packages it no longer has.
    pub packages_removed: Vec<Name>,
    /// Data it now holds.
    pub data_added: Vec<Name>,
    /// Data it no longer holds.
    pub data_removed: Vec<Name>,
    /// Its wall clock minus ours.
    pub clock_offset_ms: i64,
}

/// A task as a caller saw it. Every change of a task changes one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Wall time of its last change.
    pub changed: u64,
    /// Grants so far.
    pub attempt: u32,
    /// Where it was.
    pub state: State,
}

/// What becomes of a taken item.
#[derive(Clone, Debug, PartialEq)]
pub enum Settlement {
    /// It ended.
    End(Outcome),
    /// It is still being worked on: the lease counts from now.
    Renew,
    /// It is for later; the attempt uses up none of its allowance.
    Postpone {
        /// From now.
        delay_ms: u64,
    },
}

/// See [`Command::StartRun`].
#[derive(Clone, Debug, PartialEq)]
pub struct StartRun {
    /// Namespace of the workflow.
    pub namespace: Name,
    /// Name of the workflow.
    pub name: Name,
    /// Version, or `latest`.
    pub version: Name,
    /// Its raw input.
    pub input: Data,
    /// Ties related work together.
    pub correlation: Option<Name>,
    /// Key hash and body hash: under the same key, there is one run.
    pub claim: Option<([u8; 16], u64)>,
}

/// See [`Command::ActOnRun`].
#[derive(Clone, Debug, PartialEq)]
pub enum RunAction {
    /// End it; what is open is cancelled.
    Cancel(Name),
    /// End it at once, without compensation.
    Terminate(Name),
    /// Hold it.
    Suspend(Name),
    /// Let it go on.
    Resume,
    /// Let a faulted run go on from what failed.
    Retry,
    /// Give it a signal: id, type, data.
    Signal(Name, Name, Data),
    /// Give it an event, whole.
    Arrive(Data),
    /// Complete one promise of its program.
    Complete(Box<Completion>),
    /// Take it back to where a key was opened; the input of that statement may be another one.
    Reset(Name, Option<Data>, GivenUp),
    /// Start another run that goes on from where a key was opened.
    Fork(Name, Option<Data>),
    /// Go on with another version of its workflow.
    Move(MoveRun),
    /// Accept that its program differs from its history, and go on; who does.
    Accept(Name),
}

/// What becomes of what sagas and programs did after the moment that a reset goes back to, and know how to undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// It is undone before the run goes on.
    Undone,
    /// It stays: somebody says that it holds, or was undone by hand.
    Kept,
}

/// See [`RunAction::Move`].
#[derive(Clone, Debug, PartialEq)]
pub struct MoveRun {
    /// Hash of the document of that version.
    pub plan: [u8; 32],
    /// Who moves it.
    pub by: Name,
    /// Only while its program stands there: what was found out about its history holds for that place alone.
    pub at: Option<CodePlace>,
}

/// Everything that can be asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Accept tasks; the reply has one outcome each.
    Submit {
        /// Waiter.
        request: RequestId,
        /// Owner, from the authenticated principal.
        tenant: TenantId,
        /// At most [`crate::limit::SUBMIT_ITEMS`].
        items: Vec<Submit>,
    },
    /// Accept tasks under a key for all of them: with another body under the same key, none is looked at, and the answer is
    /// [`crate::effect::Refusal::IdempotencyMismatch`]. Whether a task is a repeat is decided by its own key.
    SubmitOnce {
        /// Waiter.
        request: RequestId,
        /// Owner.
        tenant: TenantId,
        /// Key hash and body hash of the whole.
        claim: ([u8; 16], u64),
        /// At most [`crate::limit::SUBMIT_ITEMS`].
        items: Vec<Submit>,
    },
    /// Act on a task only while it is as the caller saw it; otherwise refused with
    /// [`crate::effect::Refusal::Version`].
    If {
        /// Waiter; the same as that of the action.
        request: RequestId,
        /// Owner.
        tenant: TenantId,
        /// Which.
        task: TaskId,
        /// Any of these.
        seen: Vec<Seen>,
        /// `Cancel`, `Retry` or `Patch` of this task.
        then: Box<Command>,
    },
    /// Cancel a task in any state.
    Cancel {
        /// Waiter.
        request: RequestId,
        /// Owner.
        tenant: TenantId,
        /// Which.
        task: TaskId,
        /// Shown in its error.
        reason: Name,
    },
    /// Run a failed, dead, cancelled or expired task again, with fresh attempts.
    Retry {
        /// Waiter.
        request: RequestId,
        /// Owner.
        tenant: TenantId,
        /// Which.
        task: TaskId,
    },
    /// Change what may change while it waits.
    Patch {
        /// Waiter.
        request: RequestId,
        /// Owner.
        tenant: TenantId,
        /// Which.
        task: TaskId,
        /// New priority.
        priority: Option<u8>,
        /// New earliest wall time.
        run_at: Option<u64>,
        /// New labels, sorted by name.
        labels: Option<Vec<(Name, Name)>>,
    },
    /// A worker opened a session.
    Connect {
        /// Its session.
        session: SessionId,
        /// Who it is.
        hello: Box<Hello>,
    },
    /// The session's stream ended. Its attempts live on until the lease ends.
    Disconnect {
        /// Which.
        session: SessionId,
    },
    /// New capacity, absolute.
    Capacity {
        /// Which.
        session: SessionId,
        /// Attempts at once.
        permits: u32,
        /// Beyond them.
        buffer: u32,
    },
    /// A sign of life; renews every lease of the session.
    Heartbeat {
        /// Which.
        session: SessionId,
        /// What it says.
        beat: Box<Beat>,
    },
    /// Attempts began.
    Started {
        /// Which session.
        session: SessionId,
        /// Which attempts.
        attempts: Vec<(TaskId, Token)>,
    },
    /// An attempt shows that it is alive and how far it is.
    Progress {
        /// Which session.
        session: SessionId,
        /// Which attempt.
        task: TaskId,
        /// Its token.
        token: Token,
        /// 0..1.
        fraction: f32,
        /// Free text.
        text: Name,
    },
    /// Attempts ended.
    Results {
        /// Which session.
        session: SessionId,
        /// Task, token, how.
        results: Vec<(TaskId, Token, Outcome)>,
    },
    /// Grants that come back unstarted. The attempt was counted and stays so; the task runs again at once.
    Returned {
        /// Which session.
        session: SessionId,
        /// Which.
        attempts: Vec<(TaskId, Token)>,
    },
    /// Take items of a queue (tasks whose spec asks for [`crate::task::ITEM`]) under a lease, without a session: what is
    /// taken is the caller's until it settles it or the lease runs out. Waits for items if there are none.
    Take {
        /// Waiter.
        request: RequestId,
        /// Owner.
        tenant: TenantId,
        /// Queue name.
        queue: Name,
        /// Who takes; shown as the worker of the attempt.
        taker: Name,
        /// At most so many; 1 to [`crate::limit::TAKE_ITEMS`].
        most: u32,
        /// How long they are the caller's, from now and from each sign of life.
        lease_ms: u64,
        /// How long to wait for the first item; 0 = not at all.
        wait_ms: u64,
    },
    /// Say what became of a taken item.
    Settle {
        /// Waiter.
        request: RequestId,
        /// Owner.
        tenant: TenantId,
        /// Which.
        task: TaskId,
        /// Token of the taking; any other one is refused and changes nothing.
        token: Token,
        /// What became of it.
        how: Settlement,
    },
    /// Stop giving a worker new tasks, or start again.
    DrainWorker {
        /// Waiter, if any.
        request: Option<RequestId>,
        /// Owner of the worker.
        tenant: Option<TenantId>,
        /// Its name; with `None` in `session`, found by name.
        name: Name,
        /// Or its session.
        session: Option<SessionId>,
        /// True = nothing new.
        draining: bool,
    },
    /// Create or change a queue.
    PutQueue {
        /// Waiter.
        request: RequestId,
        /// Owner.
        tenant: TenantId,
        /// Name.
        name: Name,
        /// New settings; `None` keeps them.
        config: Option<Box<QueueConfig>>,
        /// New state; `None` keeps it.
        state: Option<QueueState>,
        /// Refused unless this is the current version; 0 = has to be new.
        expected: Option<u64>,
    },
    /// Delete an empty queue.
    DeleteQueue {
        /// Waiter.
        request: RequestId,
        /// Owner.
        tenant: TenantId,
        /// Name.
        name: Name,
        /// Refused unless this is the current version.
        expected: Option<u64>,
    },
    /// Create or change a tenant.
    PutTenant {
        /// Waiter.
        request: RequestId,
        /// Name.
        name: Name,
        /// Settings.
        config: TenantConfig,
        /// Refused unless this is the current version; 0 = has to be new.
        expected: Option<u64>,
    },
    /// Keep a record.
    PutRecord {
        /// Waiter.
        request: RequestId,
        /// Kind.
        kind: RecordKind,
        /// Owner.
        tenant: TenantId,
        /// Key.
        key: Name,
        /// JSON text; `None` deletes it.
        value: Option<Name>,
        /// Refused unless this is the current version; `Some(0)` = has to be new.
        expected: Option<u64>,
    },
    /// Start a run of a workflow.
    StartRun {
        /// Waiter.
        request: RequestId,
        /// Owner.
        tenant: TenantId,
        /// Which.
        start: Box<StartRun>,
    },
    /// Act on a run.
    ActOnRun {
        /// Waiter.
        request: RequestId,
        /// Owner.
        tenant: TenantId,
        /// Which.
        run: RunId,
        /// What to do.
        action: RunAction,
    },
    /// A turn that was taken elsewhere, see [`crate::Effect::Compute`].
    TurnComputed {
        /// Owner.
        tenant: TenantId,
        /// Run.
        run: RunId,
        /// That of its [`crate::effect::Computation`]: with another one it comes too late.
        ticket: u64,
        /// What came of it.
        outcome: Box<Result<Option<Turn>, FoldError>>,
    },
    /// Look at the state; the reply leaves with the batch that is open.
    Read {
        /// Waiter.
        request: RequestId,
        /// What to look at.
        view: View,
    },
}

impl Command {
    /// Whether it brings new tasks.
    pub fn is_submit(&self) -> bool {
        matches!(self, Command::Submit { .. } | Command::SubmitOnce { .. })
    }

    /// How much work it is: the tasks or results that it carries, at least 1.
    pub fn weight(&self) -> usize {
        match self {
            Command::Submit { items, .. } | Command::SubmitOnce { items, .. } => items.len().max(1),
            Command::Results { results, .. } => results.len().max(1),
            _ => 1,
        }
    }
}
