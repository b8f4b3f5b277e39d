//! Views: what can be looked at in the engine's own state. Lists of tasks are the store's readers' business.

use crate::command::{Hello, Usage};
use crate::config::Pressure;
use crate::id::{Name, RunId, SessionId, TaskId, TenantId, WorkerId};

/// What to look at.
#[derive(Clone, Debug, PartialEq)]
pub enum View {
    /// Why a task is not running.
    Why {
        /// Owner.
        tenant: TenantId,
        /// Which.
        task: TaskId,
    },
    /// Live figures of a queue, or of all of a tenant.
    Queues {
        /// Owner.
        tenant: TenantId,
        /// One, or all.
        name: Option<Name>,
    },
    /// Workers of a tenant; of all with `None`.
    Workers {
        /// Owner.
        tenant: Option<TenantId>,
    },
    /// Progress last reported by a running task.
    Progress {
        /// Owner.
        tenant: TenantId,
        /// Which.
        task: TaskId,
    },
    /// A run as it is now.
    Run {
        /// Owner.
        tenant: TenantId,
        /// Which.
        run: RunId,
    },
    /// Figures of the partition itself.
    Partition,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Reasons, most important first.
    Why(Vec<Reason>),
    /// Figures.
    Queues(Vec<QueueFigures>),
    /// Workers.
    Workers(Vec<WorkerFigures>),
    /// Fraction and text.
    Progress(Option<(f32, Name)>),
    /// Figures.
    Partition(PartitionFigures),
    /// No such thing.
    NotFound,
}

/// One reason why a task is not running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Stable code, listed in `docs/reference/why.md`.
    pub code: &'static str,
    /// For people.
    pub text: String,
    /// The task that it waits for, where it is one; the text leaves its id to whoever shows it.
    pub task: Option<TaskId>,
    /// Wall time at which it ends by itself, if that is known.
    pub until: Option<u64>,
}

/// Live figures of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueFigures {
    /// Name.
    pub name: Name,
    /// Owner.
    pub tenant: TenantId,
    /// Tasks by state number.
    pub counts: [u64; 9],
    /// Wall time since which the oldest task known waits; 0 = none waits.
    pub oldest: u64,
    /// Workers that serve it.
    pub workers: u32,
    /// Permits of those workers.
    pub permits: u64,
    /// Accepted since the partition opened.
    pub accepted: u64,
    /// Ended since the partition opened.
    pub ended: u64,
    /// Accepted per second, exponentially weighted over a minute.
    pub in_per_s: f64,
    /// Ended per second, exponentially weighted over a minute.
    pub out_per_s: f64,
    /// How far it is from its bounds.
    pub pressure: Pressure,
}

/// A worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerFigures {
    /// Number of its name.
    pub worker: WorkerId,
    /// Its session.
    pub session: SessionId,
    /// What it said.
    pub hello: Hello,
    /// Attempts out.
    pub used: u32,
    /// Its stream is open.
    pub connected: bool,
    /// Gets nothing new.
    pub draining: bool,
    /// Its machine.
    pub usage: Usage,
    /// Wall time of the last sign of life.
    pub seen: u64,
}

/// Figures of a partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartitionFigures {
    /// Epoch.
    pub epoch: u32,
    /// Index of the open batch.
    pub index: u64,
    /// Records in memory.
    pub tasks_in_memory: usize,
    /// Running attempts.
    pub running: usize,
    /// Timers in memory, by wheel level.
    pub timers: Vec<usize>,
    /// Due times since it was opened whose task was in memory, whose timer was but not the task, and that were read from the
    /// store ahead of their time.
    pub timer_hits: [u64; 3],
    /// Sessions.
    pub sessions: usize,
    /// Commands that wait for a load.
    pub parked: usize,
    /// Reads under way.
    pub loads: usize,
}
