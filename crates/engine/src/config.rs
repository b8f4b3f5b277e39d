//! Settings that the engine obeys: retry policies, timeouts, queues, tenants.

use crate::id::{Name, QueueId, TenantId};

/// How the wait between attempts grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Backoff {
    /// Always the same.
    Constant,
    /// Times `factor` for each further attempt.
    Exponential {
        /// 1.0 to 10.0.
        factor: f64,
    },
}

/// What happens after a failed attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Grants in all, the first included; 1 to [`crate::limit::MAX_ATTEMPTS`].
    pub max_attempts: u32,
    /// Wait before the second attempt, in milliseconds.
    pub delay_ms: u64,
    /// Growth of the wait.
    pub backoff: Backoff,
    /// The wait never grows beyond this.
    pub max_delay_ms: u64,
    /// Up to so much is added to each wait, drawn from a hash of task and attempt.
    pub jitter_ms: u64,
    /// Error types that are retried; empty = every one that the worker calls retryable.
    pub on: Vec<Name>,
    /// Error types that are never retried.
    pub not_on: Vec<Name>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            max_attempts: 3,
            delay_ms: 1_000,
            backoff: Backoff::Exponential { factor: 2.0 },
            max_delay_ms: 3_600_000,
            jitter_ms: 200,
            on: Vec::new(),
            not_on: Vec::new(),
        }
    }
}

/// Time limits of a task's stages, in milliseconds; 0 = the queue's, and there 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Accept to first grant.
    pub queue_ms: u64,
    /// Grant to the worker's `started`.
    pub start_ms: u64,
    /// Grant to result.
    pub run_ms: u64,
    /// Between two signs of life of the attempt.
    pub heartbeat_ms: u64,
}

/// How a task's worker is chosen among those that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The one with the smallest share of its permits in use.
    #[default]
    LeastLoaded,
    /// Each in turn.
    RoundRobin,
    /// In proportion to permits.
    Weighted,
    /// By rendezvous hash of the affinity key, whose worker is waited for; without one of the task id, among the free.
    ConsistentHash,
}

/// At most `burst` grants at once and one per `interval_us` in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Microseconds between two grants.
    pub interval_us: u64,
    /// Grants that may come together; at least 1.
    pub burst: u32,
}

/// Whether a queue gives out and takes in tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueState {
    /// Takes in and gives out.
    #[default]
    Active,
    /// Takes in only.
    Paused,
    /// Gives out only.
    Draining,
}

/// Settings of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueConfig {
    /// Attempts at once; 0 = no limit.
    pub concurrency: u32,
    /// Attempts per concurrency key; 0 = no limit.
    pub key_concurrency: u32,
    /// Grants per time.
    pub rate: Option<Rate>,
    /// Choice of worker.
    pub policy: Policy,
    /// For tasks that bring none.
    pub retry: RetryPolicy,
    /// For tasks that bring none.
    pub timeouts: Timeouts,
    /// Time to live of tasks that bring none; 0 = none.
    pub ttl_ms: u64,
    /// Tasks per handler call; below 2 = no batching.
    pub batch_size: u32,
    /// A smaller batch is handed over after so long.
    pub batch_wait_ms: u64,
    /// Tasks that may wait; 0 = no bound.
    pub max_depth: u64,
    /// More ready tasks than this are told to operators; 0 = never.
    pub alert_depth: u64,
    /// From so many waiting tasks on, new ones are taken at about the rate at which old ones end; 0 = four fifths of
    /// `max_depth`, where that is at least [`crate::limit::THROTTLED_DEPTH`].
    pub throttle_depth: u64,
    /// Out of attempts: `dead` (true) or `failed` (false).
    pub dead_letter: bool,
    /// Waiting so long raises a task by one class; 0 = never.
    pub aging_ms: u64,
    /// With [`Policy::ConsistentHash`]: how long a task waits for the worker of its affinity key before another may have
    /// it; 0 = not at all.
    pub affinity_wait_ms: u64,
}

/// More ready tasks than this are an alert where a queue says nothing else.
pub const DEFAULT_ALERT_DEPTH: u64 = 1_000;

impl QueueConfig {
    /// The number of waiting tasks from which new ones are throttled; 0 = never.
    pub fn throttles_from(&self) -> u64 {
        match throttles_from(self.throttle_depth, self.max_depth) {
            from if from == self.max_depth && self.throttle_depth == 0 => 0,
            from => from,
        }
    }
}

/// Where throttling before a bound begins: where it is said, else at four fifths of a bound with room for it, else at the
/// bound itself.
pub(crate) fn throttles_from(own: u64, most: u64) -> u64 {
    match own {
        0 if most >= crate::limit::THROTTLED_DEPTH => most / 5 * 4,
        0 => most,
        own => own,
    }
}

/// How far a queue is from its bounds, least first. Each stage has the effects of those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pressure {
    /// As usual.
    #[default]
    None,
    /// Deeper than `alert_depth`: told, and nothing else.
    Alert,
    /// New tasks are taken at about the rate at which old ones end.
    Throttled,
    /// At `max_depth`: new tasks are refused.
    Full,
}

impl Pressure {
    /// Every stage, least first.
    pub const ALL: [Pressure; 4] = [Pressure::None, Pressure::Alert, Pressure::Throttled, Pressure::Full];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Pressure::None => "none",
            Pressure::Alert => "alert",
            Pressure::Throttled => "throttled",
            Pressure::Full => "full",
        }
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        QueueConfig {
            concurrency: 0,
            key_concurrency: 0,
            rate: None,
            policy: Policy::LeastLoaded,
            retry: RetryPolicy::default(),
            // A day: long enough for any batch job, and no attempt can hold its permit for ever.
            timeouts: Timeouts { run_ms: 86_400_000, ..Timeouts::default() },
            ttl_ms: 0,
            batch_size: 0,
            batch_wait_ms: 100,
            max_depth: 0,
            alert_depth: DEFAULT_ALERT_DEPTH,
            throttle_depth: 0,
            dead_letter: true,
            aging_ms: 30_000,
            affinity_wait_ms: crate::limit::AFFINITY_WAIT_MS,
        }
    }
}

/// A queue as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// Never reused.
    pub id: QueueId,
    /// Owner.
    pub tenant: TenantId,
    /// Unique in the tenant.
    pub name: Name,
    /// Rises by one with each change.
    pub version: u64,
    /// Whether it gives out and takes in.
    pub state: QueueState,
    /// Settings.
    pub config: QueueConfig,
    /// Removed; kept so that old tasks can still be shown.
    pub deleted: bool,
}

/// Limits of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantConfig {
    /// Share of workers against other tenants; 1 to 10,000.
    pub weight: u32,
    /// Attempts at once; 0 = no limit.
    pub concurrency: u32,
    /// Grants per time.
    pub rate: Option<Rate>,
    /// Tasks that may wait; 0 = no bound.
    pub max_queued: u64,
}

impl Default for TenantConfig {
    fn default() -> Self {
        TenantConfig { weight: 100, concurrency: 0, rate: None, max_queued: 0 }
    }
}

/// A tenant as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// Never reused.
    pub id: TenantId,
    /// Unique.
    pub name: Name,
    /// Rises by one with each change.
    pub version: u64,
    /// Limits.
    pub config: TenantConfig,
}
