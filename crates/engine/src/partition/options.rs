//! What a partition is told when it is opened.

use std::sync::Arc;

use crate::limit;
use crate::planted::Planted;
use crate::run::code::Bounds;

/// Settings of a partition that tests vary.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number on its node; goes into ids' slots only through the slot hash.
    pub partition: u32,
    /// See [`limit::LANE_WINDOW`].
    pub lane_window: usize,
    /// See [`limit::LANE_WINDOW_MOST`]; never below `lane_window`.
    pub lane_window_most: usize,
    /// See [`limit::WINDOW_TASKS`].
    pub window_tasks: usize,
    /// See [`limit::LINE_LANES`].
    pub line_lanes: usize,
    /// See [`limit::WARM_TASKS`].
    pub warm_tasks: usize,
    /// See [`limit::TIMER_HORIZON_MS`].
    pub timer_horizon_ms: u64,
    /// See [`limit::GRANTS_PER_TURN`].
    pub grants_per_turn: usize,
    /// See [`limit::TIMERS_IN_MEMORY`].
    pub timers_in_memory: usize,
    /// A session without a sign of life for so long loses its attempts. 4 s, with a heartbeat each second: a lost worker's
    /// tasks run again within 5 s (L5), and three lost heartbeats in a row are forgiven.
    pub lease_ms: u64,
    /// How long a worker may take to stop a cancelled attempt before it is taken as stopped.
    pub cancel_grace_ms: u64,
    /// Tasks not ended that the partition takes in, over all tenants; 0 = no bound.
    pub max_live: u64,
    /// See [`limit::RUN_CACHE_BYTES`].
    pub run_cache: usize,
    /// See [`limit::RUN_ROOM_BYTES`].
    pub run_room: usize,
    /// Bounds on programs.
    pub programs: Bounds,
    /// Reads workflows.
    pub compiler: WithCompiler,
    /// A planted bug.
    pub planted: Planted,
}

/// What compiles workflows, if there is something that does.
#[derive(Clone, Default)]
pub struct WithCompiler(pub Option<Arc<dyn crate::run::eval::Compiler>>);

impl std::fmt::Debug for WithCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "a compiler" } else { "no compiler" })
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            partition: 0,
            lane_window: limit::LANE_WINDOW,
            lane_window_most: limit::LANE_WINDOW_MOST,
            window_tasks: limit::WINDOW_TASKS,
            line_lanes: limit::LINE_LANES,
            warm_tasks: limit::WARM_TASKS,
            timer_horizon_ms: limit::TIMER_HORIZON_MS,
            grants_per_turn: limit::GRANTS_PER_TURN,
            timers_in_memory: limit::TIMERS_IN_MEMORY,
            lease_ms: 4_000,
            cancel_grace_ms: 4_000,
            max_live: 0,
            run_cache: limit::RUN_CACHE_BYTES,
            run_room: limit::RUN_ROOM_BYTES,
            programs: Bounds::default(),
            compiler: WithCompiler::default(),
            planted: Planted::default(),
        }
    }
}
