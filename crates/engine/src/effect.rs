//! Effects out: what the shell does after the commit. Plain data; replies are addressed by request id.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Pressure, Queue, Tenant};
use crate::id::{Name, RequestId, RunId, SessionId, TaskId, TenantId, Token, WorkerId};
use crate::mutation::Record;
use crate::run::act::Event;
use crate::run::code::Bounds;
use crate::run::data::BlobHash;
use crate::run::eval::{Definition, Fuel, Json};
use crate::run::fold::{Change, FoldError, Journal};
use crate::run::head::Head;
use crate::run::journal::Segment;
use crate::run::turn::{Env, Turn};
use crate::task::{Payload, Spec, Task};
use crate::view::Answer;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer a caller.
    Reply {
        /// Waiter.
        request: RequestId,
        /// What.
        reply: Reply,
    },
    /// Send grants to a worker.
    Grant {
        /// To whom.
        session: SessionId,
        /// Which.
        grants: Vec<Grant>,
    },
    /// The session is registered.
    Welcome {
        /// Whose.
        session: SessionId,
        /// Number of the worker's name.
        worker: WorkerId,
        /// Attempts that go on; every other one has to stop.
        resumed: Vec<(TaskId, Token)>,
    },
    /// Results were stored, or came too late.
    Accepted {
        /// Whose.
        session: SessionId,
        /// Results dealt with, refused ones included.
        count: u32,
        /// Which came too late.
        refused: Vec<(TaskId, Token)>,
    },
    /// Ask a worker to stop an attempt.
    Cancel {
        /// To whom.
        session: SessionId,
        /// Which.
        task: TaskId,
        /// Its token.
        token: Token,
        /// Why.
        reason: Name,
    },
    /// Tell a worker that attempts are no longer its own.
    Revoke {
        /// To whom.
        session: SessionId,
        /// Which.
        attempts: Vec<(TaskId, Token)>,
    },
    /// Ask for attempts back that have not begun: another worker is idle. The worker answers with
    /// [`crate::Command::Returned`] for those it did not start meanwhile.
    Recall {
        /// Of which session.
        session: SessionId,
        /// Which.
        attempts: Vec<(TaskId, Token)>,
    },
    /// A queue came nearer to its bounds, or left them.
    Pressure {
        /// Owner.
        tenant: TenantId,
        /// Which.
        queue: Name,
        /// Stage before.
        from: Pressure,
        /// Stage now.
        to: Pressure,
        /// Tasks that wait, delayed ones included.
        waiting: u64,
    },
    /// Take a turn of a run in a pool: it needs more than the loop can give. The answer is [`crate::Command::TurnComputed`].
    Compute(Box<Computation>),
    /// End the session: another one of the same worker has come, or its lease ended.
    Close {
        /// Which.
        session: SessionId,
        /// Why.
        reason: Name,
    },
}

/// A turn to be taken elsewhere.
#[derive(Clone, Debug)]
pub struct Computation {
    /// Owner.
    pub tenant: TenantId,
    /// Run.
    pub run: RunId,
    /// Stands for this computation and no other one, not even of another epoch of the partition.
    pub ticket: u64,
    /// The run as it is.
    pub head: Head,
    /// What is to be done.
    pub work: Work,
    /// The workflow.
    pub definition: Arc<dyn Definition>,
    /// Values that were read for it.
    pub blobs: Arc<BTreeMap<BlobHash, Arc<Json>>>,
    /// Wall time.
    pub now_ms: u64,
    /// Bounds on programs.
    pub bounds: Bounds,
}

/// What is done beside the loop.
#[derive(Clone, Debug)]
pub enum Work {
    /// A turn with what came.
    Turn(Event),
    /// The way back to a key, for which the whole journal is played.
    Back(Box<WayBack>),
}

/// See [`Work::Back`].
#[derive(Clone, Debug)]
pub struct WayBack {
    /// The key.
    pub key: Name,
    /// What is changed besides.
    pub change: Change,
    /// All turns of the run.
    pub segments: Arc<Vec<Segment>>,
    /// Versions of its workflow that it followed before.
    pub earlier: Vec<Arc<dyn Definition>>,
}

impl PartialEq for Computation {
    fn eq(&self, other: &Computation) -> bool {
        (self.run, self.head.turns) == (other.run, other.head.turns)
    }
}

impl Computation {
    /// Takes the turn, with as much fuel as it may have.
    pub fn run(&self) -> Result<Option<Turn>, FoldError> {
        let (definition, blobs, now_ms) = (&*self.definition, &*self.blobs, self.now_ms);
        let mut fuel = Fuel { steps: 4 * crate::limit::EVAL_STEPS, bytes: 4 * crate::limit::EVAL_BYTES };
        match &self.work {
            Work::Turn(event) => {
                let env = Env { definition, blobs, now_ms, bounds: self.bounds };
                Ok(crate::run::turn::advance(&self.head, event.clone(), &env, &mut fuel)?)
            }
            Work::Back(back) => {
                let WayBack { key, change, segments, earlier } = &**back;
                let journal = Journal { from: None, segments, definition, earlier, blobs };
                journal.reset(&self.head, key, change.clone(), now_ms, &mut fuel).map(Some)
            }
        }
    }
}

/// An attempt handed to a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Task.
    pub task: TaskId,
    /// Fencing token.
    pub token: Token,
    /// Owner.
    pub tenant: TenantId,
    /// Queue.
    pub queue: Name,
    /// Task type.
    pub kind: Name,
    /// 1 for the first.
    pub attempt: u32,
    /// Bound on attempts.
    pub max_attempts: u32,
    /// 0 to 9.
    pub priority: u8,
    /// Input.
    pub input: Payload,
    /// Longest run in milliseconds, from the start of the handler; 0 = no bound.
    pub run_ms: u64,
    /// What was asked for.
    pub spec: Arc<Spec>,
    /// Same non-zero number = one handler call.
    pub batch: u32,
}

/// What became of one submitted task.
#[derive(Clone, Debug, PartialEq)]
pub enum Submitted {
    /// Stored.
    New(TaskId),
    /// The idempotency key was known, with the same body.
    Replayed(TaskId),
    /// Not stored.
    Refused(Refusal),
}

/// Why something was not done. Nothing changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// No such queue; the nearest name, if one is near.
    UnknownQueue {
        /// What was asked for.
        name: Name,
        /// A name that may have been meant.
        nearest: Option<Name>,
    },
    /// The queue takes nothing in.
    QueueDraining,
    /// The queue or tenant is at its bound.
    Overloaded {
        /// What is full.
        what: Name,
        /// When to come again.
        retry_after_ms: u64,
    },
    /// The queue is so deep that only a part of what comes is taken.
    Throttled {
        /// What is deep.
        what: Name,
        /// When to come again.
        retry_after_ms: u64,
        /// Tasks that it takes in a second now, at least 1.
        per_second: u32,
    },
    /// Same idempotency key, other body.
    IdempotencyMismatch {
        /// The task that has the key.
        task: TaskId,
    },
    /// No such thing in this tenant.
    NotFound,
    /// The state does not allow it.
    Conflict(Name),
    /// The version is another one.
    Version {
        /// Current.
        current: u64,
    },
    /// A value out of bounds.
    Invalid(Name),
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// To a submit, one each.
    Submitted(Vec<Submitted>),
    /// The task as it is now.
    Task(Box<Task>),
    /// The run as it is now.
    Run(Box<Head>),
    /// Items under a lease; none when the wait ran out.
    Taken(Vec<Grant>),
    /// The queue as it is now.
    Queue(Arc<Queue>),
    /// The tenant as it is now.
    Tenant(Arc<Tenant>),
    /// The record as it is now, or that it is gone.
    Record(Option<Arc<Record>>),
    /// What a view showed.
    View(Answer),
    /// Done.
    Done,
    /// Not done.
    Refused(Refusal),
}
