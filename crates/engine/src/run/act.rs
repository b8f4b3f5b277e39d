//! The border to the shell: what happens to a run, and what a turn asks for.

use std::sync::Arc;

use bytes::Bytes;

use super::data::{BlobHash, Data};
use super::eval::Json;
use super::fault::Fault;
use super::head::{Identity, Phase, Seq};
use super::journal::Key;
use super::plan::{ParentClose, Target};
use crate::id::Name;

/// How something ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// With a value.
    Ok(Data),
    /// With an error.
    Err(Fault),
    /// It was cancelled.
    Cancelled,
}

/// What happens to a run. What comes twice, or for something that is not open, changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It begins.
    Start {
        /// Who it is.
        identity: Arc<Identity>,
        /// Its raw input.
        input: Data,
    },
    /// It goes on where the last turn stopped ([`super::turn::Turn::more`]).
    Continue,
    /// A task or child run ended.
    Done {
        /// Its entry.
        entry: Seq,
        /// How.
        outcome: Outcome,
    },
    /// Items of a map ended: those from `first` on, as many as were opened together.
    Items {
        /// The entry of the map.
        entry: Seq,
        /// Index of the first.
        first: u64,
        /// How each ended. One error for all of them if it is one alone.
        outcomes: Vec<Outcome>,
    },
    /// As several [`Event::Items`] of one map, one after another, of which each came before the one before it was taken in:
    /// one turn for all of them.
    Many {
        /// The entry of the map.
        entry: Seq,
        /// First item and outcomes of each.
        ended: Vec<(u64, Vec<Outcome>)>,
    },
    /// A timer is due.
    Fired {
        /// Its entry.
        entry: Seq,
    },
    /// A CloudEvent came that may fit a `listen`.
    Arrived {
        /// The event with all attributes.
        event: Data,
    },
    /// A signal came: as an event whose source is `tidewheel:signal`.
    Signal {
        /// De-duplicates.
        id: Name,
        /// Type.
        kind: Name,
        /// Payload.
        data: Data,
    },
    /// It is to end; what is open is cancelled, depth first.
    Cancel {
        /// Why.
        reason: Name,
    },
    /// It is to end at once, without compensation.
    Terminate {
        /// Why.
        reason: Name,
    },
    /// It is to hold. What ends meanwhile is kept until it resumes.
    Suspend {
        /// Why.
        reason: Name,
    },
    /// It goes on after a suspension.
    Resume,
    /// A faulted run goes on from the statements that failed or were interrupted.
    Retry,
    /// It went back to where a key was opened; made by [`super::fold::Journal::reset`] alone, which needs the whole history.
    Reset {
        /// The key, as text.
        key: Name,
        /// Replaces the raw input of the statement.
        input: Option<Data>,
        /// The first entry that is free.
        next_seq: Seq,
        /// The run that it goes on as: another one if it was forked.
        identity: Arc<Identity>,
        /// What was armed after this entry is undone first. `None` = nothing is but what is being undone already.
        since: Option<Seq>,
    },
    /// It goes on with another version of its workflow, which it was found to fit ([`super::moves::fits`]). A program that holds
    /// because of a mismatch goes on.
    Moved {
        /// As which: the same run, with another plan and version.
        identity: Arc<Identity>,
        /// Who moved it.
        by: Name,
    },
    /// What the replay of a program found to differ from its history is accepted, and it goes on.
    Accepted {
        /// By whom.
        by: Name,
    },
}

/// What a turn asks the shell to do, in the commit of the turn or after it.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Store a blob before the commit.
    PutBlob {
        /// Its name.
        hash: BlobHash,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Open a task. Its end comes back as [`Event::Done`], or [`Event::Items`] if it has items.
    OpenTask(Box<OpenTask>),
    /// Cancel a task.
    CancelTask {
        /// Its entry.
        entry: Seq,
    },
    /// Cancel all tasks and runs of the items of a map.
    CancelItems {
        /// The entry of the map.
        entry: Seq,
    },
    /// Set a timer; comes back as [`Event::Fired`].
    OpenTimer {
        /// Its entry.
        entry: Seq,
        /// Wall time in milliseconds.
        due: u64,
    },
    /// Cancel a timer.
    CancelTimer {
        /// Its entry.
        entry: Seq,
    },
    /// Start a run; its end comes back as [`Event::Done`] (or [`Event::Items`]).
    StartChild(Box<StartChild>),
    /// Cancel a child run.
    CancelChild {
        /// Its entry.
        entry: Seq,
    },
    /// Send an event through the outbox.
    Emit {
        /// Its entry.
        entry: Seq,
        /// The CloudEvent.
        event: Data,
    },
    /// Deliver events that fit any of these filters; entry 0 stands for the whole run, from its start.
    Subscribe {
        /// The entry of the `listen`.
        entry: Seq,
        /// Which events; the run looks again itself.
        filters: Vec<EventFilter>,
    },
    /// The end of a subscription.
    Unsubscribe {
        /// The entry of the `listen`.
        entry: Seq,
    },
    /// The inbox is full: give the event again later.
    Defer {
        /// The event.
        event: Data,
    },
    /// These search attributes have new values; `null` = removed.
    Attributes(Vec<(Name, Json)>),
    /// The run ended: settle with the parent, free what it holds, keep its history.
    Finished {
        /// Completed, faulted or cancelled.
        phase: Phase,
        /// Output, error.
        outcome: Outcome,
    },
}

/// See [`Act::OpenTask`].
#[derive(Clone, Debug, PartialEq)]
pub struct OpenTask {
    /// Entry: unique in the run for ever. Ids and idempotency keys derive from (run, entry, first item).
    pub entry: Seq,
    /// Key in the journal.
    pub key: Key,
    /// By whom.
    pub target: Target,
    /// Arguments, or the template and its variables if sealed. Of a batch: the array of the arguments of its items.
    pub args: Data,
    /// The executor evaluates the arguments under its lease.
    pub sealed: bool,
    /// Items of a map: index of the first and how many. `None` = no item.
    pub items: Option<(u64, u32)>,
    /// Whether the run waits for it.
    pub awaited: bool,
    /// Wall time at which the statement's timeout ends it; 0 = none.
    pub deadline_ms: u64,
    /// Hints, with their values.
    pub hints: TaskHints,
}

/// See [`super::plan::Hints`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskHints {
    /// Queue.
    pub queue: Option<Name>,
    /// 0 to 9.
    pub priority: Option<u8>,
    /// Labels a worker has to have.
    pub requires: Vec<(Name, Name)>,
    /// Value of the affinity key.
    pub affinity_key: Option<Name>,
    /// Value of the concurrency key.
    pub concurrency_key: Option<Name>,
    /// Value of the idempotency key.
    pub idempotency_key: Option<Name>,
    /// Expected time from opened to done; 0 = none.
    pub sla_ms: u64,
}

/// See [`Act::StartChild`].
#[derive(Clone, Debug, PartialEq)]
pub struct StartChild {
    /// Entry; see [`OpenTask::entry`].
    pub entry: Seq,
    /// Key in the journal.
    pub key: Key,
    /// Namespace.
    pub namespace: Name,
    /// Name.
    pub name: Name,
    /// Version, or `latest`.
    pub version: Name,
    /// Its raw input.
    pub input: Data,
    /// Index, if it is an item of a map.
    pub item: Option<u64>,
    /// Whether the run waits for it.
    pub awaited: bool,
    /// What becomes of it when this run ends first.
    pub close: ParentClose,
    /// Its depth: 1 for a child of a run that nobody started.
    pub depth: u8,
}

/// Which events to deliver. Without anything: every one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventFilter {
    /// `type`, if it is the same for all events that fit.
    pub kind: Option<Name>,
    /// Names of correlations and what is expected, where that is known.
    pub correlate: Vec<(Name, Option<Json>)>,
}
