//! Cost of a task's life in the engine alone: submit, grant, complete, with commits that return at once.
//!
//! `cargo run --release -p tidewheel-engine --example lifecycle`
#![allow(clippy::print_stdout, reason = "an example prints its figures")]

use std::sync::Arc;
use std::time::Instant;

use tidewheel_engine::command::{Hello, Submit};
use tidewheel_engine::config::{QueueConfig, TenantConfig};
use tidewheel_engine::id::{RequestId, SessionId, TaskId, TenantId, Token};
use tidewheel_engine::load::Loaded;
use tidewheel_engine::mutation::Recovered;
use tidewheel_engine::node::{Action, Shell};
use tidewheel_engine::partition::{Options, Probe};
use tidewheel_engine::task::{Outcome, Payload, Spec};
use tidewheel_engine::time::Now;
use tidewheel_engine::{Command, Effect};

struct Nothing;
impl Probe for Nothing {
    fn may_know(&self, _: TenantId, _: &[u8; 16]) -> bool {
        false
    }
}

struct Rig {
    shell: Shell,
    now: Now,
    granted: Vec<(TaskId, Token)>,
    mutations: usize,
}

impl Rig {
    fn run(&mut self, command: Command) {
        self.shell.command(command, self.now, &Nothing);
        self.turn();
    }

    fn turn(&mut self) {
        loop {
            let mut actions = Vec::new();
            let more = self.shell.turn(self.now, &mut actions);
            let idle = actions.is_empty();
            while let Some(action) = actions.pop() {
                match action {
                    Action::Commit(batch) => {
                        self.mutations += batch.mutations.len();
                        self.shell.committed(batch.index, &mut actions);
                    }
                    Action::Perform(effects) => {
                        for effect in effects {
                            if let Effect::Grant { grants, .. } = effect {
                                self.granted.extend(grants.iter().map(|g| (g.task, g.token)));
                            }
                        }
                    }
                    Action::Fired(_) => {}
                    Action::Load(id, _) => self.shell.loaded(id, u64::MAX, Loaded::Due(Vec::new()), self.now),
                }
            }
            if idle && !more {
                return;
            }
        }
    }
}

fn main() {
    let now = Now { wall: 1_700_000_000_000, mono: 0 };
    let recovered = Recovered { epoch: 1, ..Recovered::default() };
    // The window takes everything in, so that no store is needed.
    let options = Options { lane_window: 10_000_000, ..Options::default() };
    let mut rig = Rig { shell: Shell::new(options, recovered, now), now, granted: Vec::new(), mutations: 0 };
    rig.run(Command::PutTenant {
        request: RequestId(1),
        name: "t".into(),
        config: TenantConfig::default(),
        expected: None,
    });
    rig.run(Command::PutQueue {
        request: RequestId(2),
        tenant: TenantId(1),
        name: "default".into(),
        config: Some(Box::new(QueueConfig::default())),
        state: None,
        expected: None,
    });
    let hello = Hello { tenant: Some(TenantId(1)), name: "w".into(), permits: 4_000, ..Hello::default() };
    rig.run(Command::Connect { session: SessionId(1), hello: Box::new(hello) });
    let spec = Arc::new(Spec::default());
    let (kind, queue): (Arc<str>, Arc<str>) = ("noop".into(), "default".into());
    let rounds = 500;
    let size = 4_000;
    let begun = Instant::now();
    for round in 0..rounds {
        let items = (0..size)
            .map(|i| Submit {
                kind: kind.clone(),
                queue: queue.clone(),
                priority: 5,
                run_at: 0,
                delay_ms: 0,
                input: Payload::None,
                spec: spec.clone(),
                idempotency: Some(((round * size + i) as u128 * 7_919).to_le_bytes()).map(|hash| (hash, 1)),
            })
            .collect();
        rig.run(Command::Submit { request: RequestId(3), tenant: TenantId(1), items });
        let results = std::mem::take(&mut rig.granted);
        assert_eq!(results.len(), size);
        let ok = |(task, token)| (task, token, Outcome::Ok { result: Payload::None, artifacts: Vec::new() });
        rig.run(Command::Results { session: SessionId(1), results: results.into_iter().map(ok).collect() });
    }
    let tasks = (rounds * size) as f64;
    let nanos = begun.elapsed().as_nanos() as f64 / tasks;
    println!(
        "{nanos:.0} ns per task life, {:.0} lives/s, {:.2} mutations each",
        1e9 / nanos,
        rig.mutations as f64 / tasks
    );
}
