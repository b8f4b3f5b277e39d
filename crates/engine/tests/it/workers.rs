//! Workers: who gets a task, what lies in a buffer, and from when a run is counted.

use tidewheel_engine::command::Hello;
use tidewheel_engine::config::{Policy, QueueConfig, Timeouts};
use tidewheel_engine::id::{SessionId, TaskId, Token};
use tidewheel_engine::partition::Options;
use tidewheel_engine::task::{Spec, State};
use tidewheel_engine::{Command, Effect};

use crate::bench::{Bench, task, worker};

fn limited(run_ms: u64) -> Spec {
    Spec { timeouts: Timeouts { run_ms, ..Timeouts::default() }, ..Spec::default() }
}

fn with_buffer(permits: u32, buffer: u32) -> Hello {
    Hello { buffer, ..worker(permits) }
}

fn serving(queue: &str, permits: u32) -> Hello {
    Hello { queues: vec![queue.into()], ..worker(permits) }
}

/// Grants since the last call, by session.
fn shares(bench: &mut Bench, sessions: &[SessionId]) -> Vec<usize> {
    let effects = std::mem::take(&mut bench.effects);
    let of = |wanted: SessionId| {
        let grants = effects.iter().map(|effect| match effect {
            Effect::Grant { session, grants } if *session == wanted => grants.len(),
            _ => 0,
        });
        grants.sum()
    };
    sessions.iter().map(|session| of(*session)).collect()
}

fn started(bench: &mut Bench, session: SessionId, id: TaskId) {
    let token = bench.store.tasks[&id].token;
    bench.apply(Command::Started { session, attempts: vec![(id, token)] });
    bench.settle();
}

fn recalls(bench: &mut Bench) -> Vec<(SessionId, Vec<(TaskId, Token)>)> {
    let effects = std::mem::take(&mut bench.effects);
    let recalls = effects.into_iter().filter_map(|effect| match effect {
        Effect::Recall { session, attempts } => Some((session, attempts)),
        _ => None,
    });
    recalls.collect()
}

#[test]
fn a_run_in_a_buffer_is_counted_from_its_start() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let w = bench.connect("w", with_buffer(1, 2));
    let (first, second) = (bench.submit(task(limited(1_000))), bench.submit(task(limited(1_000))));
    let attempts = [first, second].map(|id| bench.store.tasks[&id].attempt);
    assert_eq!(attempts, [1, 1], "both are with the worker");
    started(&mut bench, w, first);
    bench.pass(1_100);
    assert_ne!(bench.state(first), State::Running, "its second is over");
    assert_eq!((bench.state(second), bench.store.tasks[&second].attempt), (State::Running, 1), "it has not begun");
    started(&mut bench, w, second);
    bench.pass(900);
    assert_eq!(bench.state(second), State::Running);
    bench.pass(200);
    assert_ne!(bench.state(second), State::Running);
}

#[test]
fn a_worker_without_a_buffer_starts_at_once() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    bench.connect("w", worker(1));
    let id = bench.submit(task(limited(1_000)));
    bench.pass(900);
    assert_eq!(bench.state(id), State::Running);
    bench.pass(200);
    assert_ne!(bench.state(id), State::Running);
}

#[test]
fn the_time_of_the_start_is_kept_with_the_end() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let w = bench.connect("w", with_buffer(1, 1));
    let id = bench.submit(task(Spec::default()));
    bench.pass(300);
    let granted = bench.store.tasks[&id].granted;
    started(&mut bench, w, id);
    assert_eq!(bench.store.tasks[&id].started, 0, "a start writes no row");
    bench.pass(300);
    bench.succeed(w, id);
    assert_eq!(bench.store.tasks[&id].started, granted + 300);
}

#[test]
fn what_lies_in_a_buffer_goes_to_a_worker_that_is_idle() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let busy = bench.connect("busy", with_buffer(1, 4));
    let ids: Vec<TaskId> = (0..3).map(|_| bench.submit(task(Spec::default()))).collect();
    assert_eq!(shares(&mut bench, &[busy]), [3]);
    started(&mut bench, busy, ids[0]);
    bench.pass(1_000);
    assert_eq!(recalls(&mut bench), [], "nobody else could run them");
    let idle = bench.connect("idle", worker(1));
    bench.pass(250);
    let asked = recalls(&mut bench);
    let [(from, attempts)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((*from, attempts.len()), (busy, 1), "as many as the idle one has room for");
    assert_ne!(attempts[0].0, ids[0], "what has begun stays");
    bench.pass(250);
    assert_eq!(recalls(&mut bench), [], "asked once");
    let back = attempts.clone();
    bench.apply(Command::Returned { session: busy, attempts: back.clone() });
    bench.settle();
    assert_eq!(shares(&mut bench, &[busy, idle]), [0, 1]);
    let moved = &bench.store.tasks[&back[0].0];
    assert_eq!((moved.attempt, moved.attempt_base), (2, 1), "it used up no attempt");
}

#[test]
fn permits_are_used_before_buffers() {
    for policy in [Policy::LeastLoaded, Policy::RoundRobin, Policy::Weighted] {
        let mut bench = Bench::new(Options::default(), QueueConfig { policy, ..QueueConfig::default() });
        let sessions = [bench.connect("a", with_buffer(1, 8)), bench.connect("b", with_buffer(1, 8))];
        bench.submit_all((0..2).map(|_| task(Spec::default())).collect());
        assert_eq!(shares(&mut bench, &sessions), [1, 1], "{policy:?}");
    }
}

#[test]
fn a_policy_holds_over_workers_that_serve_different_queues() {
    let share = |policy: Policy, permits: [u32; 3], tasks: usize| {
        let mut bench = Bench::new(Options::default(), QueueConfig { policy, ..QueueConfig::default() });
        let all = bench.connect("all", worker(permits[0]));
        let one = bench.connect("one", serving("q", permits[1]));
        let two = Hello { queues: vec!["q".into(), "other".into()], ..worker(permits[2]) };
        let two = bench.connect("two", two);
        bench.submit_all((0..tasks).map(|_| task(Spec::default())).collect());
        shares(&mut bench, &[all, one, two])
    };
    assert_eq!(share(Policy::LeastLoaded, [4, 4, 4], 3), [1, 1, 1]);
    assert_eq!(share(Policy::RoundRobin, [4, 4, 4], 6), [2, 2, 2]);
    assert_eq!(share(Policy::Weighted, [2, 4, 6], 6), [1, 2, 3]);
}

#[test]
fn one_by_one_the_turn_goes_round() {
    let mut bench =
        Bench::new(Options::default(), QueueConfig { policy: Policy::RoundRobin, ..QueueConfig::default() });
    let sessions =
        [bench.connect("all", worker(8)), bench.connect("one", serving("q", 8)), bench.connect("too", worker(8))];
    for _ in 0..4 {
        for _ in 0..3 {
            bench.submit(task(Spec::default()));
        }
        assert_eq!(shares(&mut bench, &sessions), [1, 1, 1]);
    }
}

/// Two tasks and a worker for both, after the first of two pieces of one batch: one task is granted, and nothing has left.
fn half_a_batch() -> (Bench, SessionId, TaskId) {
    let mut bench = Bench::new(Options { grants_per_turn: 1, ..Options::default() }, QueueConfig::default());
    let ids = [bench.submit(task(Spec::default())), bench.submit(task(Spec::default()))];
    let session = SessionId(77);
    bench.effects.clear();
    bench.apply(Command::Connect { session, hello: Box::new(Hello { name: "w".into(), ..worker(2) }) });
    assert!(bench.p.turn(bench.now), "one of two grants ends the turn");
    (bench, session, ids[0])
}

#[test]
fn a_cancel_never_overtakes_the_grant_of_its_batch() {
    let (mut bench, _, id) = half_a_batch();
    bench.cancel(id);
    let place = |wanted: &dyn Fn(&Effect) -> bool| bench.effects.iter().position(wanted).expect("it left");
    let granted = place(&|e| matches!(e, Effect::Grant { grants, .. } if grants.iter().any(|g| g.task == id)));
    let cancelled = place(&|e| matches!(e, Effect::Cancel { task, .. } if *task == id));
    assert!(granted < cancelled);
}

#[test]
fn a_grant_that_never_left_costs_no_attempt_when_its_worker_goes() {
    let (mut bench, session, id) = half_a_batch();
    bench.apply(Command::Disconnect { session });
    bench.settle();
    assert!(bench.granted_ids().is_empty());
    let task = &bench.store.tasks[&id];
    assert_eq!((task.state, task.attempt, task.attempt_base), (State::Queued, 1, 1));
}

#[test]
fn what_a_large_worker_had_is_given_away_in_pieces_and_completely() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let ids: Vec<TaskId> = (0..1_000).map(|_| bench.submit(task(Spec::default()))).collect();
    bench.connect("w", worker(1_000));
    let running = |bench: &Bench| ids.iter().filter(|id| bench.state(**id) == State::Running).count();
    assert_eq!(running(&bench), 1_000);
    bench.pass(Options::default().lease_ms);
    let left = running(&bench);
    assert!((1..1_000).contains(&left), "{left} of 1,000 wait for their turn");
    // A sign of life comes too late: the worker is over.
    (0..1_000).for_each(|_| bench.pass(1));
    assert_eq!(running(&bench), 0);
}

#[test]
fn a_large_worker_that_comes_again_keeps_what_it_names_and_the_rest_is_given_away_in_pieces() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let ids: Vec<TaskId> = (0..1_000).map(|_| bench.submit(task(Spec::default()))).collect();
    let old = bench.connect("w", worker(1_000));
    let tokens: Vec<_> = ids.iter().map(|id| (*id, bench.store.tasks[id].token)).collect();
    // Some of them twice, and one with a token that is not its own.
    let mut resume: Vec<_> = tokens[..100].iter().chain(&tokens[..10]).copied().collect();
    resume.push((ids[500], tokens[501].1));
    bench.effects.clear();
    bench.connect("w", Hello { resume, ..worker(1_000) });
    let welcome = bench.effects.iter().find_map(|effect| match effect {
        Effect::Welcome { resumed, .. } => Some(resumed.clone()),
        _ => None,
    });
    assert_eq!(welcome.as_deref(), Some(&tokens[..100]));
    let closed = bench.effects.iter().filter(|e| matches!(e, Effect::Close { session, .. } if *session == old)).count();
    assert_eq!(closed, 1);
    let lost = |bench: &Bench| {
        let again = |id: &&TaskId| bench.store.tasks[*id].attempt > 1 || bench.state(**id) != State::Running;
        ids.iter().filter(again).count()
    };
    let first = lost(&bench);
    assert!((1..900).contains(&first), "{first} of 900 are given away at once");
    (0..1_000).for_each(|_| bench.pass(1));
    assert_eq!(lost(&bench), 900);
    assert!(ids[..100].iter().all(|id| bench.store.tasks[id].attempt == 1 && bench.state(*id) == State::Running));
}
