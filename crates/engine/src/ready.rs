//! Ready queues: what waits in a queue, as far as it is in memory.
//!
//! A queue has three lines (priority classes), a line has lanes (tasks that need the same of a worker and share one
//! concurrency or ordering key), a lane has a window of its first tasks. All that does not fit stays in the store's
//! ready index (queue, lane, order) and is read in again when the window runs low: see `partition/window.rs`.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;

use crate::config::{Policy, Pressure, Queue, QueueState as Intake, Rate};
use crate::id::{Name, SessionId, TaskId};
use crate::serve::Length;
use crate::task::{Spec, class_of};

/// Key of a lane: class in bits 60-61, above a 60-bit hash of what its tasks have in common. Stored; never changes
/// between releases.
///
/// `by_key` = the queue gives each affinity key to one worker, so that each of them is a lane: one that waits for its
/// worker must not hold up the others.
pub fn lane_key(priority: u8, kind: &str, spec: &Spec, by_key: bool) -> i64 {
    let mut hash = Fnv::new();
    hash.text(kind);
    for (name, value) in &spec.requires {
        hash.text(name);
        hash.text(value);
    }
    hash.number(u64::from(spec.resources.cpu_millis));
    hash.number(spec.resources.memory_bytes);
    hash.text(spec.concurrency_key.as_deref().unwrap_or(""));
    hash.number(u64::from(spec.batchable));
    if spec.package.is_some() {
        // Who can run a task without a package of its own depends on what is registered for its type.
        hash.text("package");
    }
    if let Some(executor) = &spec.executor {
        hash.text("executor");
        hash.text(executor);
    }
    if spec.length() != Length::Medium {
        hash.text(spec.length().as_str());
    }
    if by_key && let Some(key) = &spec.affinity_key {
        hash.text("affinity");
        hash.text(key);
    }
    if let Some(key) = &spec.ordering_key {
        // An ordering key is one lane whatever else its tasks ask for, since their order is the promise.
        hash = Fnv::new();
        hash.text("ordering");
        hash.text(key);
    }
    let class = if spec.ordering_key.is_some() { 1 } else { class_of(priority) };
    (i64::from(class) << 60) | (hash.finish() & 0x0FFF_FFFF_FFFF_FFFF) as i64
}

/// The range of lane keys of a class.
pub fn class_range(class: usize) -> (i64, i64) {
    ((class as i64) << 60, (class as i64 + 1) << 60)
}

/// The class of a lane key.
pub fn class_of_lane(lane: i64) -> usize {
    ((lane >> 60) & 3) as usize
}

/// FNV-1a with a finaliser; chosen because it is a page of code that never changes.
/// Source: Fowler, Noll, Vo, and the 64-bit finaliser of MurmurHash3.
#[derive(Clone, Copy, Debug)]
pub struct Fnv(u64);

impl Fnv {
    /// The offset basis.
    pub fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    /// Adds a text and its end.
    pub fn text(&mut self, text: &str) {
        text.bytes().for_each(|b| self.byte(b));
        self.byte(0xFF);
    }
    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        number.to_le_bytes().into_iter().for_each(|b| self.byte(b));
    }
    /// The hash.
    pub fn finish(self) -> u64 {
        mix(self.0)
    }
}

impl Default for Fnv {
    fn default() -> Self {
        Fnv::new()
    }
}

/// Spreads the bits of a number. Source: the 64-bit finaliser of MurmurHash3.
pub fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Generic cell rate algorithm (ITU-T I.371): one number per limiter, no timer. Returns the new theoretical arrival
/// time when a grant is allowed at `now_us`, or the time to wait in microseconds.
pub fn gcra(tat_us: u64, now_us: u64, rate: Rate) -> Result<u64, u64> {
    let tolerance = rate.interval_us.saturating_mul(u64::from(rate.burst.max(1)) - 1);
    let earliest = tat_us.saturating_sub(tolerance);
    if now_us < earliest {
        return Err(earliest - now_us);
    }
    Ok(tat_us.max(now_us).saturating_add(rate.interval_us))
}

/// What a lane's tasks need of a worker, interned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequirementId(pub u32);

/// A task in a lane's window.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Order within the lane.
    pub order: u64,
    /// Which.
    pub id: TaskId,
    /// Wall time since which it waits.
    pub since: u64,
}

/// Why a lane is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked {
    /// Its concurrency key is at the limit.
    Key,
    /// The task before it has not ended.
    Order,
    /// It waits for more tasks to make a batch, until this monotonic time.
    Batch(u64),
    /// Its head waits for its time.
    Due,
    /// The worker of its affinity key has no room.
    Worker,
}

/// A lane.
#[derive(Debug)]
pub struct Lane {
    /// First tasks, in order.
    pub window: VecDeque<Ready>,
    /// There may be more in the store, with an order >= `from`.
    pub spilled: bool,
    /// See `spilled`.
    pub from: u64,
    /// Batch in which a task was last left to the store; a read that has not seen it proves nothing.
    pub spill_batch: u64,
    /// A read is under way.
    pub loading: bool,
    /// Rows it asked for.
    pub asked: usize,
    /// Where the read under way began.
    pub asked_from: u64,
    /// It is in its line's ring.
    pub in_ring: bool,
    /// What its tasks need.
    pub requirement: RequirementId,
    /// Concurrency key.
    pub key: Option<Name>,
    /// One at a time, in order.
    pub ordered: bool,
    /// The store may have tasks that go before those of the window; nothing is offered until a read has shown it.
    pub unverified: bool,
    /// Why it is not in the ring although it has tasks.
    pub parked: Option<Parked>,
    /// Its tasks may share a handler call.
    pub batchable: bool,
    /// The session it waits for, and the monotonic time until which it does. Kept when that time is over, so that the
    /// key's tasks go elsewhere until this session takes one again.
    pub patience: Option<(SessionId, u64)>,
}

impl Lane {
    /// A lane without tasks in memory, for tasks that ask for the same as this one.
    pub fn new(requirement: RequirementId, spec: &Spec, spill_batch: u64) -> Lane {
        Lane {
            window: VecDeque::new(),
            spilled: false,
            from: 0,
            spill_batch,
            loading: false,
            asked: 0,
            asked_from: 0,
            in_ring: false,
            requirement,
            key: spec.concurrency_key.clone(),
            ordered: spec.ordering_key.is_some(),
            unverified: false,
            parked: None,
            batchable: spec.batchable,
            patience: None,
        }
    }
}

/// A priority class of a queue.
#[derive(Debug, Default)]
pub struct Line {
    /// Lanes that have something to offer, in turn.
    pub ring: VecDeque<i64>,
    /// Lanes of the class in memory.
    pub lanes: usize,
    /// Those of them that wait for the worker of their affinity key.
    pub waiting: usize,
    /// There may be lanes in the store that are not in memory.
    pub unloaded: bool,
    /// Where the skip scan goes on.
    pub cursor: i64,
    /// No lane was left out since the scan began.
    pub scan_clean: bool,
    /// Something could be offered since the scan began.
    pub scan_useful: bool,
    /// Oldest commit that a read of the scan saw: what was left to the store later may have been passed.
    pub scan_seen: u64,
    /// The scan found nothing that could run; it waits for a permit or a new lane.
    pub scan_idle: bool,
    /// Batch in which a lane was last left to the store.
    pub spill_batch: u64,
    /// A scan's read is under way.
    pub loading: bool,
    /// Rows per lane it asked for.
    pub asked: usize,
    /// Reads of single lanes under way.
    pub fetching: usize,
    /// Lanes that were parked, oldest first; looked at when room is needed.
    pub parked: VecDeque<i64>,
}

impl Line {
    /// Lanes that take a place. Those that wait for their key's worker stand aside: however many they are, others go on.
    pub fn places(&self) -> usize {
        self.lanes - self.waiting
    }

    /// Something may have become possible for lanes that are only in the store: a scan has to look at all of them again,
    /// also when one is under way that has passed some already.
    pub fn rescan(&mut self) {
        self.scan_idle = false;
        self.scan_useful = true;
    }
}

/// A concurrency key in use.
#[derive(Debug, Default)]
pub struct Key {
    /// Attempts out.
    pub running: u32,
    /// Lanes that wait for it, in memory.
    pub waiting: Vec<i64>,
    /// Lanes that wait for it and were left to the store.
    pub dropped: Vec<i64>,
}

/// Lanes of a queue that nobody free could serve and that were left to the store.
#[derive(Debug, Default)]
pub struct Aside {
    /// By what their tasks need.
    pub by: HashMap<RequirementId, Starved>,
    /// Those of them for whom somebody came free since.
    pub called: BTreeSet<RequirementId>,
    /// Which of these was looked at last.
    pub last: RequirementId,
    /// Reads of such lanes under way.
    pub coming: u32,
    /// How often lanes were read since something was granted.
    pub rounds: u32,
}

/// Lanes of [`Aside`] that need the same of a worker.
#[derive(Debug, Default)]
pub struct Starved {
    /// Some of them, the one that was left first in front: about [`LANES_ASIDE`](crate::limit::LANES_ASIDE) at most.
    pub lanes: VecDeque<i64>,
    /// By class: there are others, which a scan finds.
    pub more: [bool; 3],
}

/// A rate of events per second, exponentially weighted over a minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    rate: f64,
    count: u64,
    second: u64,
}

impl Meter {
    /// Counts events at a monotonic time.
    pub fn add(&mut self, mono: u64, events: u64) {
        self.roll(mono);
        self.count += events;
    }

    /// The rate now.
    pub fn per_second(&mut self, mono: u64) -> f64 {
        self.roll(mono);
        self.rate
    }

    fn roll(&mut self, mono: u64) {
        let second = mono / 1000;
        if second == self.second {
            return;
        }
        let passed = (second - self.second).min(600);
        // One second's weight in a mean over a minute.
        let keep = 1.0 - 1.0 / 60.0;
        self.rate = self.rate * keep + self.count as f64 / 60.0;
        self.rate *= f64::powi(keep, passed as i32 - 1);
        self.count = 0;
        self.second = second;
    }
}

/// A queue at work.
#[derive(Debug)]
pub struct QueueWork {
    /// Its record.
    pub queue: std::sync::Arc<Queue>,
    /// Tasks by state.
    pub counts: [u64; 9],
    /// Changes of the counts in the open batch.
    pub deltas: [i64; 9],
    /// `deltas` is in the list of the open batch.
    pub touched: bool,
    /// Attempts out.
    pub running: u32,
    /// Lines by class.
    pub lines: [Line; 3],
    /// Lanes in memory.
    pub lanes: HashMap<i64, Lane>,
    /// Concurrency keys in use.
    pub keys: HashMap<Name, Key>,
    /// Lanes that wait in the store for somebody who can serve them.
    pub aside: Aside,
    /// Rate limiter.
    pub tat_us: u64,
    /// `tat_us` changed in the open batch.
    pub rate_touched: bool,
    /// Waits for its rate until this monotonic time.
    pub rate_until: u64,
    /// Pools that serve it.
    pub pools: Vec<u32>,
    /// Accepted.
    pub accepted: (u64, Meter),
    /// Ended.
    pub ended: (u64, Meter),
    /// Limiter of what is taken in while it is throttled, in microseconds of the monotonic clock.
    pub intake_us: u64,
    /// How far it is from its bounds, as last told.
    pub pressure: Pressure,
}

impl QueueWork {
    /// A queue without anything in memory.
    pub fn new(queue: std::sync::Arc<Queue>) -> QueueWork {
        let mut lines: [Line; 3] = Default::default();
        for (class, line) in lines.iter_mut().enumerate() {
            line.cursor = class_range(class).0;
            line.scan_clean = true;
        }
        QueueWork {
            queue,
            counts: [0; 9],
            deltas: [0; 9],
            touched: false,
            running: 0,
            lines,
            lanes: HashMap::new(),
            keys: HashMap::new(),
            aside: Aside::default(),
            tat_us: 0,
            rate_touched: false,
            rate_until: 0,
            pools: Vec::new(),
            accepted: Default::default(),
            ended: Default::default(),
            intake_us: 0,
            pressure: Pressure::None,
        }
    }

    /// Tasks that have not been granted yet, or not again.
    pub fn waiting(&self) -> u64 {
        self.counts[crate::task::State::Queued as usize] + self.counts[crate::task::State::Scheduled as usize]
    }

    /// Whether each affinity key belongs to one worker.
    pub fn gives_by_key(&self) -> bool {
        self.queue.config.policy == Policy::ConsistentHash
    }

    /// Whether it gives out tasks at all.
    pub fn gives(&self) -> bool {
        !matches!(self.queue.state, Intake::Paused) && !self.queue.deleted
    }

    /// Whether anything is, or may be found, to offer.
    pub fn has_ready(&self) -> bool {
        let has = |l: &Line| !l.ring.is_empty() || (l.unloaded && !l.scan_idle && !l.loading);
        self.lines.iter().any(has) || !self.aside.called.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gcra_allows_the_burst_and_then_the_interval() {
        let rate = Rate { interval_us: 100, burst: 3 };
        let mut tat = 0;
        for _ in 0..3 {
            tat = gcra(tat, 1_000, rate).expect("within the burst");
        }
        assert_eq!(gcra(tat, 1_000, rate), Err(100));
        assert!(gcra(tat, 1_100, rate).is_ok());
    }

    #[test]
    fn a_lane_key_is_stable_and_keeps_classes_apart() {
        let spec = Spec::default();
        assert_eq!(lane_key(5, "t", &spec, false), lane_key(4, "t", &spec, false));
        assert_ne!(lane_key(5, "t", &spec, false), lane_key(9, "t", &spec, false));
        assert_eq!(class_of_lane(lane_key(9, "t", &spec, false)), 2);
        let (from, until) = class_range(2);
        assert!((from..until).contains(&lane_key(9, "t", &spec, false)));
        // Stored in every ready index: a change of this number needs a migration.
        assert_eq!(
            lane_key(5, "builtin.noop", &spec, false),
            lane_key(5, "builtin.noop", &Spec { labels: vec![("a".into(), "b".into())], ..Spec::default() }, false)
        );
    }
}
