//! Warm processes: lanes (one per tenant, package, limits and isolation) with the work that waits for each, the processes that
//! serve them, and the pace of every function, from which follows how much is sent ahead. Bookkeeping only: the runner
//! starts, feeds and ends the processes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::attempt::AttemptId;
use crate::config::Limits;
use crate::environment::Environment;
use crate::package::Package;
use crate::process::Tree;

pub(crate) type LaneId = u64;
pub(crate) type ProcId = u64;

/// Tasks sent ahead to one process at most.
const MAX_AHEAD: usize = 64;
/// ... and no more than are expected to take so long together, so that one that turns out slow holds up little.
const MAX_AHEAD_MS: f32 = 20.0;
/// A call that turns out slow is noticed after this time, and what was sent behind it is taken back.
pub(crate) const STALL: Duration = Duration::from_millis(50);
/// A function slower than this is never sent ahead.
const SHORT_MS: f32 = 5.0;
/// Runs without output before a function is sent ahead: the output of tasks sent together cannot be told apart.
const QUIET_RUNS: u32 = 16;

/// What has to be equal for two attempts to share a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LaneKey {
    /// A process keeps what its tasks leave in it: memory, a working folder, open connections.
    pub(crate) tenant: u32,
    pub(crate) package: String,
    pub(crate) limits: Limits,
    pub(crate) isolated: bool,
}

/// One call of a handler: one attempt, or several that form a batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unit {
    pub(crate) lease: u64,
    pub(crate) members: Vec<AttemptId>,
    pub(crate) batch: bool,
}

/// Where a lane's code runs.
pub(crate) struct Home {
    pub(crate) package: Package,
    pub(crate) environment: Environment,
}

pub(crate) struct Lane {
    pub(crate) key: LaneKey,
    /// `None` while package and environment are being prepared.
    pub(crate) home: Option<Arc<Home>>,
    pub(crate) ready: VecDeque<Unit>,
    pub(crate) procs: Vec<ProcId>,
    paces: HashMap<String, Pace>,
    /// When work last came, and when it was last handed out.
    pub(crate) last_used: Instant,
    pub(crate) last_served: Instant,
    /// Raised when the code changed; processes and preparations of an older one are not used.
    pub(crate) generation: u64,
    /// Which process had the last activation of a run, and may hold its program.
    holders: HashMap<String, ProcId>,
}

/// Runs of a lane that are remembered with their processes.
const MAX_HOLDERS: usize = 20_000;
/// Units that are looked at for one that can be handed out, where the first have to wait for the process that holds their program.
pub(crate) const LOOK_AHEAD: usize = 256;

#[derive(Clone, Copy)]
struct Pace {
    ms: f32,
    quiet: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ProcState {
    Starting,
    Ready,
    /// Finishes what it has and gets nothing new.
    Retiring,
}

pub(crate) struct Proc {
    pub(crate) lane: LaneId,
    pub(crate) state: ProcState,
    /// Kept in the cache for as long as it runs, though its lane may be given up.
    #[allow(dead_code, reason = "it is held, not read")]
    pub(crate) home: Option<Arc<Home>>,
    pub(crate) tree: Option<Arc<Tree>>,
    pub(crate) frames: Option<mpsc::UnboundedSender<Bytes>>,
    /// What was sent and is not done, in the order in which the process takes it.
    pub(crate) queue: VecDeque<Sent>,
    /// The attempt that began last and is not done.
    pub(crate) current: Option<AttemptId>,
    pub(crate) muted: Arc<AtomicBool>,
    /// Since when it has nothing to do, or works on what is first in the queue.
    pub(crate) since: Instant,
    /// The call it works on takes long: what was sent behind it is asked back, and nothing more is sent.
    pub(crate) stalled: bool,
    /// Why we killed it.
    pub(crate) killed: Option<&'static str>,
    /// What it said against the protocol.
    pub(crate) broke: Option<String>,
    /// Looked at since it last had something to do: whether a task left daemons.
    pub(crate) searched: bool,
    /// The last lines it printed outside of any task.
    pub(crate) tail: VecDeque<String>,
    pub(crate) work: std::path::PathBuf,
}

pub(crate) struct Sent {
    pub(crate) unit: Unit,
    /// Members that are not done.
    pub(crate) open: Vec<AttemptId>,
    pub(crate) function: String,
    expected_ms: f32,
}

impl Sent {
    pub(crate) fn new(unit: Unit, function: String, expected_ms: f32) -> Self {
        Self { open: unit.members.clone(), unit, function, expected_ms }
    }
}

impl Lane {
    pub(crate) fn new(key: LaneKey, now: Instant) -> Self {
        Self {
            key,
            home: None,
            ready: VecDeque::new(),
            procs: Vec::new(),
            paces: HashMap::new(),
            last_used: now,
            last_served: now,
            generation: 0,
            holders: HashMap::new(),
        }
    }

    /// Remembers which process has the program of a run.
    pub(crate) fn holds(&mut self, run: &str, proc: ProcId) {
        match self.holders.get_mut(run) {
            Some(holder) => *holder = proc,
            None => {
                if self.holders.len() >= MAX_HOLDERS {
                    // Those that are forgotten are replayed, wherever they go.
                    self.holders.clear();
                }
                self.holders.insert(run.to_owned(), proc);
            }
        }
    }

    /// The process that may have the program of a run.
    pub(crate) fn holder(&self, run: &str) -> Option<ProcId> {
        if run.is_empty() { None } else { self.holders.get(run).copied() }
    }

    /// The expected time of a call, if it is short and quiet enough to be sent ahead.
    fn short(&self, function: &str) -> Option<f32> {
        self.paces.get(function).filter(|p| p.ms < SHORT_MS && p.quiet >= QUIET_RUNS).map(|p| p.ms)
    }

    pub(crate) fn expected_ms(&self, function: &str) -> f32 {
        self.paces.get(function).map_or(SHORT_MS, |p| p.ms)
    }

    /// Several calls took so long together.
    pub(crate) fn note(&mut self, function: &str, took: Duration, calls: u32) {
        let ms = took.as_secs_f32() * 1000.0 / calls as f32;
        match self.paces.get_mut(function) {
            Some(pace) => {
                // A slow call counts at once, quick ones have to prove themselves.
                let weight = if ms > pace.ms * 4.0 { 0.5 } else { 0.1 };
                pace.ms += (ms - pace.ms) * weight;
                pace.quiet = pace.quiet.saturating_add(calls);
            }
            None => {
                self.paces.insert(function.to_owned(), Pace { ms, quiet: calls });
            }
        }
    }

    pub(crate) fn printed(&mut self, function: &str) {
        if let Some(pace) = self.paces.get_mut(function) {
            pace.quiet = 0;
        }
    }
}

impl Proc {
    pub(crate) fn is_busy(&self) -> bool {
        self.state == ProcState::Starting || !self.queue.is_empty()
    }

    /// Whether a call fits behind what is already there.
    fn room(&self, expected: f32) -> Option<f32> {
        let waiting: f32 = self.queue.iter().map(|s| s.expected_ms).sum();
        let all_short = self.queue.iter().all(|s| s.expected_ms < SHORT_MS);
        let fits = !self.stalled && all_short && self.queue.len() < MAX_AHEAD && waiting + expected <= MAX_AHEAD_MS;
        (self.state == ProcState::Ready && self.killed.is_none() && fits).then_some(waiting)
    }
}

/// Lanes and processes.
#[derive(Default)]
pub(crate) struct Pool {
    pub(crate) lanes: HashMap<LaneId, Lane>,
    pub(crate) procs: HashMap<ProcId, Proc>,
    by_key: HashMap<LaneKey, LaneId>,
    last: u64,
}

/// What to do with the first unit of a lane.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Send(ProcId),
    Start,
    Wait,
}

impl Pool {
    pub(crate) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The lane of a key, and whether it is new.
    pub(crate) fn lane(&mut self, key: LaneKey, now: Instant) -> (LaneId, bool) {
        if let Some(id) = self.by_key.get(&key) {
            return (*id, false);
        }
        let id = self.number();
        self.by_key.insert(key.clone(), id);
        self.lanes.insert(id, Lane::new(key, now));
        (id, true)
    }

    pub(crate) fn remove_lane(&mut self, id: LaneId) -> Option<Lane> {
        let lane = self.lanes.remove(&id)?;
        self.by_key.remove(&lane.key);
        Some(lane)
    }

    pub(crate) fn busy(&self) -> usize {
        self.procs.values().filter(|p| p.is_busy()).count()
    }

    /// Decides on an activation whose program a process may hold: that one, now or later. `None` = any will do.
    pub(crate) fn next_for(&self, holder: ProcId, lane: &Lane, function: &str, free: usize) -> Option<Next> {
        let proc =
            self.procs.get(&holder).filter(|p| p.state == ProcState::Ready && p.killed.is_none() && !p.stalled)?;
        if proc.queue.is_empty() {
            return Some(if free > 0 { Next::Send(holder) } else { Next::Wait });
        }
        let room = lane.short(function).and_then(|expected| proc.room(expected));
        Some(if room.is_some() { Next::Send(holder) } else { Next::Wait })
    }

    /// Decides on the first waiting unit of a lane. `free` = permits nobody uses.
    pub(crate) fn next(&self, lane: &Lane, function: &str, batch: bool, free: usize) -> Next {
        let procs = || lane.procs.iter().filter_map(|id| self.procs.get(id).map(|p| (*id, p)));
        let idle = |p: &Proc| p.state == ProcState::Ready && p.queue.is_empty() && p.killed.is_none();
        // The one that was idle for the shortest time has the warmest caches, and the others can end.
        if free > 0
            && let Some((id, _)) = procs().filter(|(_, p)| idle(p)).max_by_key(|(_, p)| p.since)
        {
            return Next::Send(id);
        }
        let expected = lane.short(function).filter(|_| !batch);
        if let Some(expected) = expected {
            let roomy = procs().filter_map(|(id, p)| (!idle(p)).then(|| p.room(expected)).flatten().map(|w| (id, w)));
            if let Some((id, _)) = roomy.min_by(|a, b| a.1.total_cmp(&b.1)) {
                return Next::Send(id);
            }
        }
        let starting = procs().filter(|(_, p)| p.state == ProcState::Starting).count();
        if free > 0 && starting < lane.ready.len() { Next::Start } else { Next::Wait }
    }

    /// The process that was idle for the longest time, if there are more than `keep` processes.
    pub(crate) fn to_evict(&self, keep: usize) -> Option<ProcId> {
        if self.procs.len() < keep {
            return None;
        }
        let idle = self.procs.iter().filter(|(_, p)| p.state == ProcState::Ready && p.queue.is_empty());
        idle.min_by_key(|(_, p)| p.since).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proc(lane: LaneId) -> Proc {
        Proc {
            lane,
            state: ProcState::Ready,
            home: None,
            tree: None,
            frames: None,
            queue: VecDeque::new(),
            current: None,
            muted: Arc::default(),
            since: Instant::now(),
            stalled: false,
            killed: None,
            broke: None,
            searched: false,
            tail: VecDeque::new(),
            work: Default::default(),
        }
    }

    fn pool() -> (Pool, LaneId, ProcId) {
        let mut pool = Pool::default();
        let key = LaneKey { tenant: 0, package: "p".into(), limits: Limits::default(), isolated: false };
        let (lane, _) = pool.lane(key, Instant::now());
        let id = pool.number();
        pool.procs.insert(id, proc(lane));
        let state = pool.lanes.get_mut(&lane).expect("made above");
        state.procs.push(id);
        state.ready.push_back(unit());
        (pool, lane, id)
    }

    fn unit() -> Unit {
        Unit { lease: 1, members: vec![1], batch: false }
    }

    fn fill(pool: &mut Pool, id: ProcId, count: usize, ms: f32) {
        let queue = &mut pool.procs.get_mut(&id).expect("there").queue;
        queue.extend((0..count).map(|_| Sent::new(unit(), "f".into(), ms)));
    }

    #[test]
    fn an_idle_process_is_used_first_and_only_with_a_permit() {
        let (pool, lane, id) = pool();
        assert_eq!(pool.next(&pool.lanes[&lane], "f", false, 1), Next::Send(id));
        assert_eq!(pool.next(&pool.lanes[&lane], "f", false, 0), Next::Wait);
    }

    #[test]
    fn an_unknown_function_is_not_sent_ahead() {
        let (mut pool, lane, id) = pool();
        fill(&mut pool, id, 1, SHORT_MS);
        assert_eq!(pool.next(&pool.lanes[&lane], "f", false, 0), Next::Wait);
        assert_eq!(pool.next(&pool.lanes[&lane], "f", false, 1), Next::Start);
    }

    #[test]
    fn a_short_and_quiet_function_is_sent_ahead_up_to_the_bound() {
        let (mut pool, lane, id) = pool();
        pool.lanes.get_mut(&lane).expect("there").note("f", Duration::from_millis(2), 20);
        fill(&mut pool, id, MAX_AHEAD - 1, 0.1);
        assert_eq!(pool.next(&pool.lanes[&lane], "f", false, 0), Next::Send(id));
        assert_eq!(pool.next(&pool.lanes[&lane], "f", true, 0), Next::Wait, "a batch is never sent ahead");
        fill(&mut pool, id, 1, 0.1);
        assert_eq!(pool.next(&pool.lanes[&lane], "f", false, 0), Next::Wait);
    }

    #[test]
    fn nothing_is_sent_behind_a_call_that_takes_long() {
        let (mut pool, lane, id) = pool();
        pool.lanes.get_mut(&lane).expect("there").note("f", Duration::from_millis(2), 20);
        fill(&mut pool, id, 1, 0.1);
        assert_eq!(pool.next(&pool.lanes[&lane], "f", false, 0), Next::Send(id));
        pool.procs.get_mut(&id).expect("there").stalled = true;
        assert_eq!(pool.next(&pool.lanes[&lane], "f", false, 0), Next::Wait);
        assert_eq!(pool.next(&pool.lanes[&lane], "f", false, 1), Next::Start);
    }

    #[test]
    fn a_function_that_prints_or_turns_slow_is_no_longer_sent_ahead() {
        let (mut pool, lane, id) = pool();
        fill(&mut pool, id, 1, 0.1);
        let state = pool.lanes.get_mut(&lane).expect("there");
        state.note("f", Duration::from_millis(2), 20);
        state.printed("f");
        assert_eq!(pool.next(&pool.lanes[&lane], "f", false, 0), Next::Wait);
        let state = pool.lanes.get_mut(&lane).expect("there");
        state.note("f", Duration::from_millis(2), 20);
        state.note("f", Duration::from_secs(1), 1);
        assert_eq!(pool.next(&pool.lanes[&lane], "f", false, 0), Next::Wait);
    }
}
