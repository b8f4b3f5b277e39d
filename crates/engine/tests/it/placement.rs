//! Placement: which workers serve a task, which one a key belongs to, and who goes before its equals.

use std::collections::BTreeMap;

use tidewheel_engine::command::{Beat, Hello, Submit};
use tidewheel_engine::config::{Policy, QueueConfig};
use tidewheel_engine::id::{SessionId, TaskId};
use tidewheel_engine::partition::Options;
use tidewheel_engine::serve::Serves;
use tidewheel_engine::task::{Spec, State};
use tidewheel_engine::{Command, Effect};

use crate::bench::{Bench, task, tight, worker};

const LOW: u8 = 0b001;
const MEDIUM: u8 = 0b010;
const HIGH: u8 = 0b100;

fn classes(classes: u8, permits: u32) -> Hello {
    Hello { serves: Serves { classes, ..Serves::default() }, ..worker(permits) }
}

fn lengths(lengths: u8, permits: u32) -> Hello {
    Hello { serves: Serves { lengths, ..Serves::default() }, ..worker(permits) }
}

fn executors(keys: &[&str], permits: u32) -> Hello {
    let executors = keys.iter().map(|key| (*key).into()).collect();
    Hello { serves: Serves { executors, ..Serves::default() }, ..worker(permits) }
}

fn of(priority: u8) -> Submit {
    Submit { priority, ..task(Spec::default()) }
}

fn expected(minutes: u64) -> Submit {
    task(Spec { expected_ms: minutes * 60_000 + 1, ..Spec::default() })
}

fn keyed(key: &str) -> Submit {
    task(Spec { affinity_key: Some(key.into()), ..Spec::default() })
}

fn near(data: &str) -> Submit {
    task(Spec { near: vec![data.into()], ..Spec::default() })
}

fn by_key(affinity_wait_ms: u64) -> QueueConfig {
    QueueConfig { policy: Policy::ConsistentHash, affinity_wait_ms, ..QueueConfig::default() }
}

/// Grants since the last call: task and who got it.
fn given(bench: &mut Bench) -> Vec<(TaskId, SessionId)> {
    let mut out = Vec::new();
    for effect in std::mem::take(&mut bench.effects) {
        if let Effect::Grant { session, grants } = effect {
            out.extend(grants.iter().map(|grant| (grant.task, session)));
        }
    }
    out
}

fn holder(bench: &Bench, id: TaskId) -> Option<u32> {
    let task = &bench.store.tasks[&id];
    (task.state == State::Running).then_some(task.worker.0)
}

#[test]
fn each_priority_class_runs_on_the_workers_that_serve_it() {
    for options in [Options::default(), tight()] {
        let mut bench = Bench::new(options, QueueConfig::default());
        let sessions = [(HIGH, "dedicated"), (MEDIUM, "shared"), (LOW, "best-effort")]
            .map(|(bits, name)| bench.connect(name, classes(bits, 9)));
        let ids: Vec<TaskId> = [9, 8, 7, 6, 5, 4, 3, 1, 0].map(|priority| bench.submit(of(priority))).into();
        let wanted = ids.iter().enumerate().map(|(n, id)| (*id, sessions[n / 3]));
        let found: BTreeMap<TaskId, SessionId> = given(&mut bench).into_iter().collect();
        assert_eq!(found, wanted.collect());
    }
}

#[test]
fn a_class_that_nobody_serves_waits_and_says_so_until_somebody_does() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    bench.connect("dedicated", classes(HIGH, 4));
    let low = bench.submit(of(1));
    assert_eq!(bench.why(low), ["missing-capability"]);
    bench.pass(60_000);
    assert_eq!(bench.state(low), State::Queued, "waiting raises it in its line, not into another class of workers");
    let shared = bench.connect("shared", classes(LOW | MEDIUM, 1));
    assert_eq!(given(&mut bench), [(low, shared)]);
}

#[test]
fn low_tasks_progress_on_workers_that_serve_all_classes_under_a_flood_of_high_ones() {
    let mut bench = Bench::new(Options::default(), QueueConfig { aging_ms: 1_000, ..QueueConfig::default() });
    let all = bench.connect("all", worker(1));
    bench.submit(of(9));
    let low = bench.submit(of(0));
    bench.pass(1);
    bench.submit_all((0..100).map(|_| of(9)).collect());
    let mut turns = 0;
    while bench.state(low) == State::Queued && turns < 20 {
        let at_work = bench.store.tasks.values().find(|t| t.state == State::Running).map(|t| t.id).expect("one runs");
        bench.pass(500);
        bench.apply(Command::Heartbeat { session: all, beat: Box::default() });
        bench.succeed(all, at_work);
        turns += 1;
    }
    assert!(turns < 10, "the low one waited for {turns} high ones");
}

#[test]
fn short_and_long_tasks_go_to_the_workers_that_serve_them() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let (light, heavy) = (bench.connect("light", lengths(0b001, 5)), bench.connect("heavy", lengths(0b100, 5)));
    let (short, long) = (bench.submit(expected(0)), bench.submit(expected(10)));
    assert_eq!(given(&mut bench), [(short, light), (long, heavy)]);
    let unknown = bench.submit(task(Spec::default()));
    assert_eq!(bench.why(unknown), ["missing-capability"], "nobody said how long it takes: it counts as medium");
    let mut limited = Spec::default();
    limited.timeouts.run_ms = 30_000;
    let limited = bench.submit(task(limited));
    assert_eq!(given(&mut bench).last(), Some(&(limited, light)), "its run timeout says it");
}

#[test]
fn an_executor_key_is_served_only_where_it_is_named_or_everything_is() {
    let gpu = || task(Spec { executor: Some("gpu".into()), ..Spec::default() });
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let of_gpu = bench.connect("gpu", executors(&["gpu"], 5));
    let (plain, routed) = (bench.submit(task(Spec::default())), bench.submit(gpu()));
    assert_eq!(given(&mut bench), [(routed, of_gpu)]);
    assert_eq!(bench.why(plain), ["missing-capability"]);
    let every = bench.connect("every", worker(5));
    assert_eq!(given(&mut bench), [(plain, every)]);
    let routed = bench.submit(gpu());
    assert_eq!(given(&mut bench), [(routed, of_gpu)], "the more dedicated one goes first, although it has more to do");
}

#[test]
fn dedicated_workers_go_first_and_shared_ones_take_what_they_have_no_permit_for() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let (shared, dedicated) = (bench.connect("shared", worker(4)), bench.connect("dedicated", classes(HIGH, 2)));
    let ids: Vec<TaskId> = (0..4).map(|_| bench.submit(of(8))).collect();
    let wanted = [dedicated, dedicated, shared, shared];
    assert_eq!(given(&mut bench), ids.into_iter().zip(wanted).collect::<Vec<_>>());
}

#[test]
fn a_key_waits_for_its_worker_and_holds_no_other_key_up() {
    for options in [Options::default(), Options { line_lanes: 8, ..tight() }] {
        let mut bench = Bench::new(options, by_key(60_000));
        let sessions = [bench.connect("a", worker(1)), bench.connect("b", worker(1))];
        let first: Vec<TaskId> = (0..8).map(|n| bench.submit(keyed(&format!("k{n}")))).collect();
        let homes: BTreeMap<TaskId, SessionId> = given(&mut bench).into_iter().collect();
        assert_eq!(homes.len(), 2, "one for each worker");
        let waiting = *first.iter().find(|id| bench.state(**id) == State::Queued).expect("six wait");
        assert_eq!(bench.why(waiting), ["affinity"]);
        // Whatever is done, each worker goes on with keys of its own only.
        let mut key_of: BTreeMap<TaskId, usize> = first.iter().enumerate().map(|(n, id)| (*id, n)).collect();
        let mut seen: BTreeMap<usize, SessionId> = homes.iter().map(|(id, s)| (key_of[id], *s)).collect();
        let mut open: Vec<(TaskId, SessionId)> = homes.into_iter().collect();
        for round in 0..40 {
            let Some((id, session)) = (!open.is_empty()).then(|| open.remove(0)) else { break };
            bench.succeed(session, id);
            if round < 20 {
                let again = bench.submit(keyed(&format!("k{}", key_of[&id])));
                key_of.insert(again, key_of[&id]);
            }
            for (id, session) in given(&mut bench) {
                let home = *seen.entry(key_of[&id]).or_insert(session);
                assert_eq!(home, session, "key {} moved in round {round}", key_of[&id]);
                open.push((id, session));
            }
        }
        assert!(sessions.iter().all(|s| seen.values().any(|home| home == s)), "both have keys");
        assert!(bench.store.tasks.values().all(|t| t.state == State::Succeeded), "and none is left behind");
    }
}

#[test]
fn a_key_goes_elsewhere_when_its_worker_keeps_it_waiting_for_too_long() {
    let mut bench = Bench::new(Options::default(), by_key(2_000));
    let sessions = [bench.connect("a", worker(1)), bench.connect("b", worker(1))];
    let first = bench.submit(keyed("k"));
    let home = given(&mut bench)[0].1;
    let other = *sessions.iter().find(|s| **s != home).expect("two");
    let (second, third) = (bench.submit(keyed("k")), bench.submit(keyed("k")));
    bench.pass(1_900);
    assert_eq!(bench.state(second), State::Queued);
    bench.pass(200);
    assert_eq!(given(&mut bench), [(second, other)]);
    bench.succeed(other, second);
    assert_eq!(given(&mut bench), [(third, other)], "its worker is still busy: no second wait");
    bench.succeed(other, third);
    bench.succeed(home, first);
    let fourth = bench.submit(keyed("k"));
    assert_eq!(given(&mut bench), [(fourth, home)], "and it comes back");
}

#[test]
fn a_key_does_not_wait_for_a_worker_that_leaves_or_drains() {
    let mut bench = Bench::new(Options::default(), by_key(600_000));
    let sessions = [bench.connect("a", worker(1)), bench.connect("b", worker(1))];
    bench.submit(keyed("k"));
    let home = given(&mut bench)[0].1;
    let other = *sessions.iter().find(|s| **s != home).expect("two");
    let second = bench.submit(keyed("k"));
    assert_eq!(bench.state(second), State::Queued);
    bench.apply(Command::DrainWorker {
        request: None,
        tenant: None,
        name: "".into(),
        session: Some(home),
        draining: true,
    });
    bench.settle();
    assert_eq!(given(&mut bench), [(second, other)]);
}

#[test]
fn one_worker_more_or_less_moves_few_keys() {
    const KEYS: usize = 2_000;
    let home_of_all = |bench: &mut Bench| -> Vec<u32> {
        let ids: Vec<TaskId> = (0..KEYS).map(|n| bench.submit(keyed(&format!("key-{n}")))).collect();
        ids.iter().map(|id| holder(bench, *id).expect("there is room for all")).collect()
    };
    for workers in [2, 5, 10] {
        let mut bench = Bench::new(Options::default(), by_key(5_000));
        let sessions: Vec<SessionId> =
            (0..workers).map(|n| bench.connect(&format!("w{n}"), worker(10 * KEYS as u32))).collect();
        let before = home_of_all(&mut bench);
        assert_eq!(home_of_all(&mut bench), before, "the same key, the same worker");
        bench.connect("new", worker(10 * KEYS as u32));
        let grown = home_of_all(&mut bench);
        let moved = before.iter().zip(&grown).filter(|(a, b)| a != b).count();
        let most = |n: usize| KEYS / n + KEYS / 20;
        assert!(moved > 0 && moved <= most(workers + 1), "{moved} of {KEYS} keys move to worker {}", workers + 1);
        bench.apply(Command::Disconnect { session: sessions[0] });
        bench.settle();
        let shrunk = home_of_all(&mut bench);
        let moved = grown.iter().zip(&shrunk).filter(|(a, b)| a != b).count();
        assert!(moved <= most(workers + 1), "{moved} of {KEYS} keys leave one of {} workers", workers + 1);
    }
}

#[test]
fn what_lies_in_the_buffer_of_its_worker_is_asked_back_only_after_the_patience() {
    let mut bench = Bench::new(Options::default(), by_key(3_000));
    let buffered = || Hello { buffer: 4, ..worker(1) };
    let sessions = [bench.connect("a", buffered()), bench.connect("b", buffered())];
    let (first, second) = (bench.submit(keyed("k")), bench.submit(keyed("k")));
    let grants = given(&mut bench);
    let home = grants[0].1;
    assert_eq!(grants, [(first, home), (second, home)], "its worker holds it ready");
    let token = bench.store.tasks[&first].token;
    bench.apply(Command::Started { session: home, attempts: vec![(first, token)] });
    let recalled = |bench: &mut Bench| {
        let effects = std::mem::take(&mut bench.effects);
        effects.into_iter().find_map(|e| if let Effect::Recall { attempts, .. } = e { Some(attempts) } else { None })
    };
    let beat = |bench: &mut Bench| {
        for session in sessions {
            bench.apply(Command::Heartbeat { session, beat: Box::new(Beat::default()) });
        }
        bench.pass(900);
    };
    beat(&mut bench);
    beat(&mut bench);
    assert_eq!(recalled(&mut bench), None);
    beat(&mut bench);
    beat(&mut bench);
    let attempts = recalled(&mut bench).expect("it is asked back");
    bench.apply(Command::Returned { session: home, attempts });
    bench.settle();
    let other = *sessions.iter().find(|s| **s != home).expect("two");
    assert_eq!(given(&mut bench), [(second, other)]);
}

#[test]
fn data_decides_among_equals_only_and_after_the_package() {
    let holds = |data: &[&str], permits| Hello { data: data.iter().map(|d| (*d).into()).collect(), ..worker(permits) };
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let (_far, close) = (bench.connect("far", holds(&[], 2)), bench.connect("close", holds(&["d1", "d2"], 2)));
    let ids: Vec<TaskId> = (0..4).map(|_| bench.submit(near("d2"))).collect();
    let found = given(&mut bench);
    assert_eq!(found[0], (ids[0], close), "both are idle: the near one");
    assert_eq!(found.iter().filter(|(_, s)| *s == close).count(), 2, "but it is not piled upon");

    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let cached = bench.connect("cached", Hello { packages: vec!["p".into()], ..worker(1) });
    bench.connect("close", holds(&["d1"], 1));
    let both = Spec { package: Some("p".into()), near: vec!["d1".into()], ..Spec::default() };
    let id = bench.submit(task(both));
    assert_eq!(given(&mut bench), [(id, cached)]);
}

#[test]
fn heartbeats_tell_which_data_came_and_went() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let (a, b) = (bench.connect("a", worker(9)), bench.connect("b", worker(9)));
    let tell = |bench: &mut Bench, session, added: &[&str], removed: &[&str]| {
        let names = |list: &[&str]| list.iter().map(|d| (*d).into()).collect();
        let beat = Beat { data_added: names(added), data_removed: names(removed), ..Beat::default() };
        bench.apply(Command::Heartbeat { session, beat: Box::new(beat) });
        bench.settle();
    };
    tell(&mut bench, b, &["x"], &[]);
    let id = bench.submit(near("x"));
    assert_eq!(given(&mut bench), [(id, b)]);
    bench.succeed(b, id);
    tell(&mut bench, b, &[], &["x"]);
    tell(&mut bench, a, &["x"], &[]);
    let id = bench.submit(near("x"));
    assert_eq!(given(&mut bench), [(id, a)]);
}

#[test]
fn keys_that_wait_for_a_busy_worker_shut_other_keys_out() {
    const KEYS: usize = 600;
    for (options, keys) in [(Options::default(), KEYS), (tight(), 20)] {
        let line = options.line_lanes;
        let mut bench = Bench::new(options, by_key(600_000));
        let (a, b) = (bench.connect("a", worker(1)), bench.connect("b", worker(1)));
        let names: Vec<String> = (0..keys).map(|n| format!("key-{n}")).collect();
        // Which worker each key belongs to.
        let mut of_a = Vec::new();
        let mut of_b = Vec::new();
        for name in &names {
            let id = bench.submit(keyed(name));
            let session = given(&mut bench)[0].1;
            bench.succeed(session, id);
            if session == a { of_a.push(name) } else { of_b.push(name) }
        }
        assert!(of_a.len() > line && !of_b.is_empty(), "{} {}", of_a.len(), of_b.len());
        let all: Vec<&&String> = of_a.iter().chain(&of_b).collect();
        let mut waits: BTreeMap<TaskId, bool> = BTreeMap::new();
        let mut at_work = None;
        for name in all {
            let id = bench.submit(keyed(name));
            waits.insert(id, of_a.contains(name));
            at_work = at_work.or_else(|| given(&mut bench).first().copied());
        }
        let (first, home) = at_work.expect("the first key has a free worker");
        assert_eq!(home, a);
        // The worker of the others is free: each of them runs, while those of the busy one wait.
        let b_ran =
            |bench: &Bench| waits.iter().filter(|(id, of_a)| !**of_a && bench.state(**id) == State::Succeeded).count();
        for _ in 0..of_b.len() {
            let id = bench.store.tasks.values().find(|t| t.state == State::Running && t.id != first).map(|t| t.id);
            let id = id.unwrap_or_else(|| panic!("{} of {} ran: the others are shut out", b_ran(&bench), of_b.len()));
            bench.succeed(b, id);
            assert!(bench.p.waits_agree());
        }
        assert_eq!(b_ran(&bench), of_b.len());
        let moved = waits.iter().filter(|(id, of_a)| **of_a && bench.state(**id) == State::Succeeded).count();
        assert!(moved == 0 || of_a.len() > line * 16, "and no key of the busy one moved, as long as they can be kept");
        // And then its own, one after the other.
        let mut next = Some(first);
        while let Some(id) = next {
            let session = if bench.p.audit().sessions.iter().any(|s| s.session == a && s.used > 0) { a } else { b };
            bench.succeed(session, id);
            assert!(bench.p.waits_agree());
            next = bench.store.tasks.values().find(|t| t.state == State::Running).map(|t| t.id);
        }
        assert!(bench.store.tasks.values().all(|t| t.state == State::Succeeded), "none is left behind");
    }
}

#[test]
fn cancelled_tasks_of_keys_were_kept_in_mind_while_their_worker_was_busy() {
    let mut bench = Bench::new(Options::default(), by_key(3_600_000));
    bench.connect("a", worker(1));
    bench.submit(keyed("first"));
    for n in 0..2_000 {
        let id = bench.submit(keyed(&format!("k{n}")));
        assert_eq!(bench.state(id), State::Queued);
        bench.cancel(id);
        assert!(bench.p.waits_agree());
    }
    let awaited = bench.p.audit().sessions[0].awaited;
    assert!(awaited <= 1, "{awaited} lanes are waited for, and there are no tasks");
}
