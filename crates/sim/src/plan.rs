//! What a seed stands for: settings, load and faults of one run. Each feature and each fault is left out of about half
//! of the seeds, since a run that has everything seldom gets far into anything (swarm testing, Groce et al., 2012).

use std::sync::Arc;

use tidewheel_engine::config::{Backoff, Policy, QueueConfig, Rate, RetryPolicy, TenantConfig, Timeouts};
use tidewheel_engine::partition::{Options, WithCompiler};
use tidewheel_engine::serve::Serves;
use tidewheel_lang::compile::Language;

use crate::flow::Flows;
use crate::rng::Rng;

/// Microseconds of a second.
pub const SECOND: u64 = 1_000_000;
/// Microseconds of a millisecond.
pub const MS: u64 = 1_000;

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Random load and faults.
    Swarm,
    /// Equal or weighted tenants with a backlog each, without faults: shares are measured.
    Fairness,
    /// One class floods a queue, a low one waits: its wait is measured.
    Aging,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u64,
    /// What it is about.
    pub scenario: Scenario,
    /// Length of the phase with load and faults.
    pub length: u64,
    /// Partitions of the node.
    pub partitions: u32,
    /// Settings of each.
    pub options: Options,
    /// Tenants.
    pub tenants: Vec<TenantPlan>,
    /// Workers.
    pub workers: Vec<WorkerPlan>,
    /// What clients do.
    pub load: LoadPlan,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// Durable runs.
    pub runs: RunPlan,
}

/// What clients of durable runs do.
#[derive(Clone, Debug, Default)]
pub struct RunPlan {
    /// Mean microseconds between starts; 0 = there are no runs.
    pub every: u64,
    /// Mean microseconds between acts of each kind; 0 = never.
    pub act_every: u64,
    /// Mean microseconds between moves to other versions; 0 = never.
    pub move_every: u64,
    /// Mean microseconds between starts of the same workflow as a document and as a program; 0 = never.
    pub pair_every: u64,
    /// A start has a claim.
    pub claimed: f64,
    /// A turn that is taken beside the loop comes back late.
    pub late: f64,
    /// What is started.
    pub flows: Flows,
}

/// A tenant with its queues.
#[derive(Clone, Debug)]
pub struct TenantPlan {
    /// Limits.
    pub config: TenantConfig,
    /// Queues by number; their names are `q0`, `q1` ...
    pub queues: Vec<QueueConfig>,
}

/// A worker.
#[derive(Clone, Debug)]
pub struct WorkerPlan {
    /// Index of its tenant; `None` = all.
    pub tenant: Option<usize>,
    /// Queues served by number; empty = all.
    pub queues: Vec<usize>,
    /// Types served by number; empty = all.
    pub types: Vec<usize>,
    /// Types it has code for by number, and those that begin with an odd one; `None` = all. Steps of runs are among them.
    pub own_types: Option<Vec<usize>>,
    /// Labels it has, by number.
    pub labels: Vec<usize>,
    /// Attempts at once, in each partition.
    pub permits: u32,
    /// Grants held beyond them.
    pub buffer: u32,
    /// 0 = not counted.
    pub cpu_millis: u32,
    /// Bounds on what it serves.
    pub serves: Serves,
    /// Data it holds, by number.
    pub data: Vec<usize>,
    /// It stops its attempts when it cannot reach the node for a lease.
    pub guarded: bool,
    /// It names live attempts when it comes back.
    pub resumes: bool,
}

/// Chances of what a client asks for. 0 = never in this run.
#[derive(Clone, Debug, Default)]
pub struct LoadPlan {
    /// Mean microseconds between tasks, over all tenants.
    pub task_every: u64,
    /// Tasks in one submit, at most.
    pub bulk: u64,
    /// Idempotency key.
    pub keyed: f64,
    /// An old key again, with the same or another body.
    pub key_again: f64,
    /// Delay of seconds.
    pub delayed: f64,
    /// Delay of hours.
    pub far: f64,
    /// Time to live.
    pub ttl: f64,
    /// Ordering key.
    pub ordered: f64,
    /// Concurrency key.
    pub keyed_limit: f64,
    /// Distinct keys of either kind.
    pub keys: u64,
    /// A label that only some workers have.
    pub requires: f64,
    /// Cores.
    pub resources: f64,
    /// May share a call.
    pub batchable: f64,
    /// A priority other than 5.
    pub priority: f64,
    /// A retry policy of its own.
    pub retry_policy: f64,
    /// Time limits of its own.
    pub timeouts: f64,
    /// Labels, affinity and the like.
    pub decorated: f64,
    /// An affinity key.
    pub affine: f64,
    /// An executor key, which only some workers serve.
    pub routed: f64,
    /// An expected run.
    pub expected: f64,
    /// Names data that it works on.
    pub near: f64,
    /// Task types.
    pub types: u64,
    /// An attempt fails.
    pub failing: f64,
    /// An attempt never ends by itself (its task has a run limit).
    pub hanging: f64,
    /// An attempt kills its worker.
    pub poison: f64,
    /// Longest usual run time in milliseconds.
    pub run_ms: u64,
    /// Mean microseconds between acts of each kind; 0 = never.
    pub cancel_every: u64,
    /// See `cancel_every`.
    pub retry_every: u64,
    /// See `cancel_every`.
    pub patch_every: u64,
    /// See `cancel_every`.
    pub pause_every: u64,
    /// See `cancel_every`.
    pub config_every: u64,
    /// See `cancel_every`.
    pub read_every: u64,
    /// See `cancel_every`.
    pub drain_every: u64,
    /// For whoever takes it, not for workers.
    pub items: f64,
}

/// Mean microseconds between faults of each kind; 0 = never in this run.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    /// The node dies and comes back.
    pub crash: u64,
    /// The node stands still; another one takes its partitions over; the old one wakes up.
    pub takeover: u64,
    /// The node stands still for a while.
    pub pause: u64,
    /// A commit fails and nothing is stored.
    pub commit_fails: u64,
    /// A commit is stored, and reported as failed.
    pub commit_lands_and_fails: u64,
    /// An fsync fails: the process ends.
    pub fsync_fails: u64,
    /// The disk is full for a while.
    pub full: u64,
    /// The disk is slow for a while.
    pub slow: u64,
    /// Reads fail.
    pub load_fails: f64,
    /// A worker dies.
    pub worker_crash: u64,
    /// A worker stands still, up to three leases.
    pub worker_freeze: u64,
    /// A connection breaks.
    pub break_link: u64,
    /// All connections break, one after another, and come back in random order.
    pub clog: u64,
    /// The wall clock jumps.
    pub jump: u64,
    /// A worker goes through a drain.
    pub worker_drain: u64,
    /// A client's message or its answer is lost.
    pub lost_call: f64,
    /// A client's message comes twice.
    pub double_call: f64,
    /// A worker's report comes twice.
    pub double_report: f64,
    /// Usual delay of a message in microseconds.
    pub delay: u64,
    /// A message takes up to a hundred times that.
    pub spike: f64,
    /// Drift of the node's clock in parts per million.
    pub drift_ppm: i64,
    /// Usual duration of a commit in microseconds.
    pub commit: u64,
    /// Usual duration of a read in microseconds.
    pub read: u64,
    /// A filter says "maybe" of an unknown key so often.
    pub maybe: f64,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, minutes: f64) -> Plan {
        let mut rng = Rng::new(seed);
        let length = (minutes * 60.0 * SECOND as f64) as u64;
        match seed % 16 {
            7 => return special(seed, &mut rng, Scenario::Fairness),
            11 => return special(seed, &mut rng, Scenario::Aging),
            _ => {}
        }
        let partitions = if seed % 4 == 3 { 4 } else { 1 };
        let tight = rng.chance(0.5);
        let mut load = load(&mut rng);
        load.items = half(&mut Rng::new(seed ^ 0x6974_656d), 0.3);
        let tenants = tenants(&mut rng, &load);
        let workers = workers(&mut rng, &load, tenants.len());
        let calm = rng.chance(0.1);
        let faults = faults(&mut rng, calm);
        let options = options(&mut rng, tight);
        let (mut load, mut tenants, mut workers) = (load, tenants, workers);
        placement(&mut Rng::new(seed ^ 0x91AC_E0F5), &mut load, &mut tenants, &mut workers);
        code(&mut Rng::new(seed ^ 0x636f_6465), &load, &mut workers);
        let mut options = options;
        let mut runs = runs(&mut Rng::new(seed ^ 0x666c_6f77), &mut options);
        versions(&mut Rng::new(seed ^ 0x7665_7273), &mut runs);
        pairs(&mut Rng::new(seed ^ 0x7061_6972), &mut runs);
        Plan { seed, scenario: Scenario::Swarm, length, partitions, options, tenants, workers, load, faults, runs }
    }
}

/// Who serves what, and which worker a key belongs to. Drawn from a row of numbers of its own.
fn placement(rng: &mut Rng, load: &mut LoadPlan, tenants: &mut [TenantPlan], workers: &mut [WorkerPlan]) {
    load.affine = half(rng, 0.6);
    load.routed = half(rng, 0.3);
    load.expected = half(rng, 0.4);
    load.near = half(rng, 0.3);
    for queue in tenants.iter_mut().flat_map(|tenant| &mut tenant.queues) {
        queue.affinity_wait_ms = *rng.pick(&[0, 200, 1_000, 20_000]);
        if load.affine > 0.0 && rng.chance(0.5) {
            queue.policy = Policy::ConsistentHash;
        }
    }
    let bounded = rng.chance(0.5);
    for worker in workers {
        worker.data = (0..4).filter(|_| rng.chance(0.3)).collect();
        if !bounded || rng.chance(0.4) {
            continue;
        }
        worker.serves.classes = *rng.pick(&[0, 0b001, 0b010, 0b100, 0b110]);
        worker.serves.lengths = *rng.pick(&[0, 0, 0b001, 0b100, 0b011]);
        let executors: [&[&str]; 4] = [&[], &["automated"], &["e0"], &["automated", "e1"]];
        worker.serves.executors = rng.pick(&executors).iter().map(|name| (*name).into()).collect();
    }
}

/// Which types a worker has code for. Drawn from a row of numbers of its own.
fn code(rng: &mut Rng, load: &LoadPlan, workers: &mut [WorkerPlan]) {
    if rng.chance(0.6) {
        return;
    }
    for worker in workers.iter_mut().filter(|_| rng.chance(0.5)) {
        worker.own_types = Some(Vec::new());
    }
    for own in workers.iter_mut().filter_map(|worker| worker.own_types.as_mut()) {
        own.extend((0..load.types as usize).filter(|_| rng.chance(0.5)));
    }
}

/// Durable runs, in half of the seeds. Drawn from a row of numbers of its own.
fn runs(rng: &mut Rng, options: &mut Options) -> RunPlan {
    if rng.chance(0.5) {
        return RunPlan::default();
    }
    options.compiler = WithCompiler(Some(Arc::new(Language)));
    if rng.chance(0.5) {
        options.run_cache = *rng.pick(&[0, 0, 10_000]);
        // Without a cache also little room: runs are read one after the other.
        options.run_room = if options.run_cache == 0 { 8_000 } else { 1 << 30 };
    }
    let plan = RunPlan {
        every: rng.range(1_000, 6_000) * MS,
        act_every: if rng.chance(0.7) { rng.range(4, 20) * SECOND } else { 0 },
        move_every: 0,
        pair_every: 0,
        claimed: half(rng, 0.5),
        late: half(rng, 0.3),
        flows: Flows::new(rng),
    };
    // Histories are short here: mostly their turns leave the run at once, or after a few.
    options.programs.tail = *rng.pick(&[0, 0, 300, 1_000, options.programs.tail]);
    plan
}

/// Workflows that are run in both ways of saying them. Drawn from a row of numbers of its own.
fn pairs(rng: &mut Rng, runs: &mut RunPlan) {
    if runs.every > 0 && rng.chance(0.5) {
        runs.flows.pair(rng);
        runs.pair_every = rng.range(4_000, 12_000) * MS;
    }
}

/// Later versions of workflows, and moves between them. Drawn from a row of numbers of its own.
fn versions(rng: &mut Rng, runs: &mut RunPlan) {
    if runs.every > 0 && rng.chance(0.6) {
        runs.flows.grow(rng);
        runs.move_every = rng.range(1_500, 6_000) * MS;
    }
}

fn options(rng: &mut Rng, tight: bool) -> Options {
    let usual = Options::default();
    let window = if tight { *rng.pick(&[2, 4, 8]) } else { usual.lane_window };
    Options {
        lane_window: window,
        lane_window_most: if tight && rng.chance(0.7) { window } else { usual.lane_window_most },
        window_tasks: if tight { *rng.pick(&[0, 20, 200]) } else { usual.window_tasks },
        line_lanes: if tight { *rng.pick(&[2, 4, 8]) } else { usual.line_lanes },
        warm_tasks: if tight { *rng.pick(&[0, 8]) } else { usual.warm_tasks },
        timer_horizon_ms: *rng.pick(&[2_000, 10_000, usual.timer_horizon_ms]),
        grants_per_turn: if tight { *rng.pick(&[1, 3]) } else { usual.grants_per_turn },
        timers_in_memory: if tight { *rng.pick(&[4, 40]) } else { usual.timers_in_memory },
        lease_ms: *rng.pick(&[3_000, 4_000, 10_000]),
        cancel_grace_ms: *rng.pick(&[1_000, 4_000]),
        max_live: if rng.chance(0.1) { 400 } else { 0 },
        ..usual
    }
}

/// A value in half of the runs, else nothing.
fn half(rng: &mut Rng, value: f64) -> f64 {
    if rng.chance(0.5) { value } else { 0.0 }
}

fn every(rng: &mut Rng, chance: f64, seconds: u64) -> u64 {
    if rng.chance(chance) { rng.range(seconds / 2, seconds * 2) * SECOND } else { 0 }
}

fn load(rng: &mut Rng) -> LoadPlan {
    LoadPlan {
        task_every: SECOND / *rng.pick(&[5, 10, 10, 10, 20]),
        bulk: *rng.pick(&[1, 5, 40]),
        keyed: half(rng, 0.4),
        key_again: half(rng, 0.1),
        delayed: half(rng, 0.2),
        far: half(rng, 0.003),
        ttl: half(rng, 0.2),
        ordered: half(rng, 0.3),
        keyed_limit: half(rng, 0.4),
        keys: *rng.pick(&[1, 4, 30, 300]),
        requires: half(rng, 0.2),
        resources: half(rng, 0.2),
        batchable: half(rng, 0.4),
        priority: half(rng, 0.6),
        retry_policy: half(rng, 0.4),
        timeouts: half(rng, 0.3),
        decorated: half(rng, 0.2),
        affine: 0.0,
        routed: 0.0,
        expected: 0.0,
        near: 0.0,
        types: *rng.pick(&[1, 3, 12]),
        failing: *rng.pick(&[0.0, 0.05, 0.3]),
        hanging: half(rng, 0.01),
        poison: half(rng, 0.001),
        run_ms: *rng.pick(&[50, 400, 3_000]),
        cancel_every: every(rng, 0.5, 3),
        retry_every: every(rng, 0.5, 5),
        patch_every: every(rng, 0.5, 4),
        pause_every: every(rng, 0.3, 30),
        config_every: every(rng, 0.4, 20),
        read_every: every(rng, 0.8, 2),
        drain_every: every(rng, 0.2, 40),
        items: 0.0,
    }
}

fn rate(rng: &mut Rng, load: &LoadPlan) -> Rate {
    Rate { interval_us: load.task_every * rng.range(1, 4), burst: rng.range(1, 10) as u32 }
}

fn tenants(rng: &mut Rng, load: &LoadPlan) -> Vec<TenantPlan> {
    let number = *rng.pick(&[1, 2, 5, 12]);
    let limits = rng.chance(0.5);
    (0..number)
        .map(|_| {
            let queues = rng.range(1, 3);
            TenantPlan {
                config: TenantConfig {
                    weight: *rng.pick(&[10, 100, 100, 300]),
                    concurrency: if limits && rng.chance(0.4) { rng.range(1, 6) as u32 } else { 0 },
                    rate: (limits && rng.chance(0.2)).then(|| rate(rng, load)),
                    max_queued: if limits && rng.chance(0.2) { rng.range(5, 100) } else { 0 },
                },
                queues: (0..queues).map(|_| queue(rng, load, limits)).collect(),
            }
        })
        .collect()
}

/// Settings of a queue; also what a running one is changed to.
pub fn queue(rng: &mut Rng, load: &LoadPlan, limits: bool) -> QueueConfig {
    let config = QueueConfig {
        concurrency: if limits && rng.chance(0.4) { rng.range(1, 6) as u32 } else { 0 },
        key_concurrency: if rng.chance(0.6) { rng.range(1, 2) as u32 } else { 0 },
        rate: (limits && rng.chance(0.2)).then(|| rate(rng, load)),
        policy: *rng.pick(&[Policy::LeastLoaded, Policy::RoundRobin, Policy::Weighted, Policy::ConsistentHash]),
        retry: RetryPolicy { max_attempts: 3, ..retry(rng) },
        timeouts: Timeouts { run_ms: *rng.pick(&[0, 30_000, 86_400_000]), ..Timeouts::default() },
        ttl_ms: if rng.chance(0.1) { rng.range(500, 60_000) } else { 0 },
        batch_size: if rng.chance(0.5) { rng.range(2, 8) as u32 } else { 0 },
        batch_wait_ms: rng.range(0, 500),
        max_depth: if limits && rng.chance(0.2) { rng.range(5, 200) } else { 0 },
        dead_letter: rng.chance(0.7),
        aging_ms: *rng.pick(&[0, 2_000, 30_000]),
        ..QueueConfig::default()
    };
    // Half of the bounds are announced by throttling, and each by an alert at another depth.
    let throttle_depth = if config.max_depth.is_multiple_of(2) { config.max_depth / 2 } else { 0 };
    QueueConfig { throttle_depth, alert_depth: config.batch_wait_ms / 5, ..config }
}

/// A retry policy.
pub fn retry(rng: &mut Rng) -> RetryPolicy {
    let backoff = if rng.chance(0.5) { Backoff::Constant } else { Backoff::Exponential { factor: 2.0 } };
    RetryPolicy {
        max_attempts: rng.range(1, 5) as u32,
        delay_ms: *rng.pick(&[0, 20, 500, 3_000]),
        backoff,
        max_delay_ms: 8_000,
        jitter_ms: rng.range(0, 200),
        on: if rng.chance(0.2) { vec!["E1".into()] } else { Vec::new() },
        not_on: if rng.chance(0.2) { vec!["E2".into()] } else { Vec::new() },
    }
}

fn workers(rng: &mut Rng, load: &LoadPlan, tenants: usize) -> Vec<WorkerPlan> {
    let number = rng.range(2, 8);
    let special = rng.chance(0.5);
    (0..number)
        .map(|_| {
            let some = |rng: &mut Rng, chance: f64, of: u64| -> Vec<usize> {
                let chosen = special && rng.chance(chance);
                if chosen { (0..of as usize).filter(|_| rng.chance(0.5)).collect() } else { Vec::new() }
            };
            WorkerPlan {
                tenant: (special && rng.chance(0.3)).then(|| rng.below(tenants as u64) as usize),
                queues: some(rng, 0.3, 3),
                types: some(rng, 0.3, load.types),
                own_types: None,
                labels: some(rng, 0.5, 3),
                permits: rng.range(1, 12) as u32,
                buffer: *rng.pick(&[0, 0, 2, 8]),
                cpu_millis: if rng.chance(0.3) { rng.range(1, 4) as u32 * 1_000 } else { 0 },
                serves: Serves::default(),
                data: Vec::new(),
                guarded: rng.chance(0.7),
                resumes: rng.chance(0.8),
            }
        })
        .collect()
}

fn faults(rng: &mut Rng, calm: bool) -> FaultPlan {
    let basic = FaultPlan {
        delay: rng.range(100, 3_000),
        drift_ppm: rng.range(0, 2_000) as i64 - 1_000,
        commit: *rng.pick(&[300, 2_000, 12_000]),
        read: *rng.pick(&[100, 1_000, 20_000]),
        maybe: 0.01,
        ..FaultPlan::default()
    };
    if calm {
        return basic;
    }
    FaultPlan {
        crash: every(rng, 0.5, 60),
        takeover: every(rng, 0.3, 90),
        pause: every(rng, 0.3, 60),
        commit_fails: every(rng, 0.4, 40),
        commit_lands_and_fails: every(rng, 0.4, 40),
        fsync_fails: every(rng, 0.2, 120),
        full: every(rng, 0.2, 120),
        slow: every(rng, 0.3, 60),
        load_fails: half(rng, 0.05),
        worker_crash: every(rng, 0.5, 20),
        worker_freeze: every(rng, 0.5, 20),
        break_link: every(rng, 0.5, 8),
        clog: every(rng, 0.2, 60),
        jump: every(rng, 0.3, 60),
        worker_drain: every(rng, 0.3, 30),
        lost_call: half(rng, 0.03),
        double_call: half(rng, 0.03),
        double_report: half(rng, 0.03),
        spike: half(rng, 0.02),
        ..basic
    }
}

/// The two measured scenarios: simple on purpose, so that a bound can be stated.
fn special(seed: u64, rng: &mut Rng, scenario: Scenario) -> Plan {
    let plain = |weight: u32, aging_ms: u64| TenantPlan {
        config: TenantConfig { weight, ..TenantConfig::default() },
        queues: vec![QueueConfig { aging_ms, ..QueueConfig::default() }],
    };
    let fairness = scenario == Scenario::Fairness;
    let weighted = rng.chance(0.5);
    let tenants = if fairness {
        let number = rng.range(2, 6);
        (0..number).map(|_| plain(if weighted { *rng.pick(&[50, 100, 200]) } else { 100 }, 0)).collect()
    } else {
        vec![plain(100, 2_000)]
    };
    // The high class of the aging scenario asks for about twice of what the workers can do.
    let run_ms = if fairness { 400 } else { 3_000 };
    let tight = fairness && rng.chance(0.5);
    let worker = WorkerPlan {
        tenant: None,
        queues: Vec::new(),
        types: Vec::new(),
        own_types: None,
        labels: Vec::new(),
        permits: 6,
        buffer: 0,
        cpu_millis: 0,
        serves: Serves::default(),
        data: Vec::new(),
        guarded: true,
        resumes: true,
    };
    Plan {
        seed,
        scenario,
        length: if fairness { 120 } else { 90 } * SECOND,
        partitions: 1,
        options: Options { max_live: 0, ..options(rng, tight) },
        tenants,
        workers: vec![worker.clone(), worker],
        load: LoadPlan { task_every: SECOND / 10, bulk: 1, types: 1, keys: 1, run_ms, ..LoadPlan::default() },
        faults: FaultPlan { delay: 300, commit: 1_000, read: 500, ..FaultPlan::default() },
        runs: RunPlan::default(),
    }
}
