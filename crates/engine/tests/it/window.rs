//! Windows and scans: what is in the store is found.

use tidewheel_engine::Command;
use tidewheel_engine::command::{Hello, Submit};
use tidewheel_engine::config::QueueConfig;
use tidewheel_engine::id::{RequestId, SessionId, TypeId};
use tidewheel_engine::load::{Load, Loaded};
use tidewheel_engine::partition::Options;
use tidewheel_engine::task::{Spec, State};

use crate::bench::{Bench, TENANT, ordered, task, tight, worker};

fn needs(label: &str) -> Submit {
    task(Spec { requires: vec![(label.into(), "yes".into())], ..Spec::default() })
}

fn drain(bench: &mut Bench, w: SessionId) {
    loop {
        let ids = bench.granted_ids();
        if ids.is_empty() {
            return;
        }
        ids.into_iter().for_each(|id| bench.succeed(w, id));
    }
}

#[test]
fn lanes_that_nobody_can_serve_do_not_hold_up_the_others() {
    let mut bench = Bench::new(tight(), QueueConfig::default());
    let w = bench.connect("w", worker(8));
    for label in ["gpu", "tpu", "fpga", "quantum"] {
        bench.submit(needs(label));
    }
    let plain: Vec<_> = (0..5).map(|_| bench.submit(task(Spec::default()))).collect();
    drain(&mut bench, w);
    assert!(plain.iter().all(|id| bench.state(*id) == State::Succeeded));
    let late = bench.connect("late", Hello { labels: vec![("tpu".into(), "yes".into())], ..worker(1) });
    drain(&mut bench, late);
    let done = bench.store.tasks.values().filter(|t| t.state == State::Succeeded).count();
    assert_eq!(done, 6, "the worker that came later finds the task that waited for it");
}

#[test]
fn ordering_keys_whose_heads_are_delayed_do_not_hold_up_the_others() {
    let mut bench = Bench::new(tight(), QueueConfig::default());
    for key in ["a", "b", "c", "d"] {
        bench.submit(Submit { delay_ms: 86_400_000, ..ordered(key) });
    }
    bench.connect("w", worker(8));
    let now = bench.submit(ordered("e"));
    assert_eq!(bench.granted_ids(), [now]);
}

#[test]
fn a_task_left_to_the_store_is_found_though_its_commit_overtakes_the_read() {
    let mut bench = Bench::new(tight(), QueueConfig::default());
    bench.connect("w", worker(3));
    let items = (0..3).map(|_| task(Spec::default())).collect();
    bench.apply(Command::Submit { request: RequestId(900), tenant: TENANT, items });
    let batch = bench.turn().expect("tasks and grants");
    let as_of = batch.0.index - 1;
    let loads = bench.p.take_loads();
    let answers: Vec<Loaded> = loads.iter().map(|(_, load)| bench.store.load(load)).collect();
    bench.land(batch);
    for ((id, _), answer) in loads.into_iter().zip(answers) {
        bench.p.loaded(id, as_of, answer, bench.now);
    }
    bench.settle();
    assert_eq!(bench.granted().len(), 3, "nothing else is committed that could bring the third one");
}

#[test]
fn an_old_answer_does_not_hide_what_was_pushed_out_meanwhile() {
    let mut bench = Bench::new(tight(), QueueConfig::default());
    bench.submit_all((0..6).map(|_| task(Spec::default())).collect());
    let request = RequestId(9_000);
    let w = SessionId(9_001);
    let hello = Box::new(Hello { name: "w".into(), ..worker(2) });
    bench.apply(Command::Connect { session: w, hello });
    let batch = bench.turn().expect("grants");
    let loads = bench.p.take_loads();
    bench.land(batch);
    assert!(loads.iter().any(|(_, load)| matches!(load, Load::Lane { .. })), "the window is read on");
    // Higher tasks come while the read is under way and push out what it began behind.
    let items = (0..4).map(|_| Submit { priority: 6, ..task(Spec::default()) }).collect();
    bench.apply(Command::Submit { request, tenant: TENANT, items });
    let batch = bench.turn().expect("tasks");
    bench.land(batch);
    loads.into_iter().for_each(|load| bench.answer(load));
    bench.settle();
    drain(&mut bench, w);
    assert!(bench.store.tasks.values().all(|t| t.state == State::Succeeded));
}

#[test]
fn an_answer_that_shows_somebody_elses_commit_is_not_used() {
    let mut bench = Bench::new(tight(), QueueConfig::default());
    let id = bench.submit(task(Spec::default()));
    bench.restart();
    bench.apply(Command::Connect { session: SessionId(900), hello: Box::new(Hello { name: "w".into(), ..worker(2) }) });
    let batch = bench.turn().expect("a welcome");
    bench.land(batch);
    let mut foreign = bench.store.tasks[&id].clone();
    foreign.kind = TypeId(4_711);
    let loads = bench.p.take_loads();
    assert!(!loads.is_empty());
    for (id, load) in loads {
        // Of a type that only the new owner knows: the old one must neither use nor choke on it.
        let answer = match load {
            Load::Lanes { .. } => Loaded::Lanes(vec![(foreign.lane.expect("it waits"), vec![foreign.clone()])]),
            other => bench.store.load(&other),
        };
        bench.p.loaded(id, 1_000_000, answer, bench.now);
    }
    bench.settle();
    assert_eq!(bench.granted_ids(), []);
}

#[test]
fn who_comes_free_for_what_waits_in_the_store_has_a_few_lanes_read_and_not_all() {
    const TASKS: usize = 600;
    let mut bench = Bench::new(Options { line_lanes: 8, ..tight() }, QueueConfig::default());
    // Somebody who can do nothing of it is free all the time.
    bench.connect("idle", worker(1));
    let special = |kind: &str| Hello { labels: vec![("kind".into(), kind.into())], ..worker(1) };
    let (a, b) = (bench.connect("a", special("a")), bench.connect("b", special("b")));
    let needs = |n: usize| Spec {
        concurrency_key: Some(format!("key-{n}").as_str().into()),
        requires: vec![("kind".into(), if n.is_multiple_of(2) { "a" } else { "b" }.into())],
        ..Spec::default()
    };
    bench.submit_all((0..TASKS).map(|n| task(needs(n))).collect());
    bench.settle();
    let mut rounds = 0;
    loop {
        let granted = bench.granted_running();
        if granted.is_empty() {
            break;
        }
        for id in granted {
            let of_a = bench.store.tasks[&id].spec.requires[0].1 == "a".into();
            bench.succeed(if of_a { a } else { b }, id);
        }
        rounds += 1;
    }
    assert!(bench.store.tasks.values().all(|task| task.state == State::Succeeded), "none is forgotten");
    assert!(rounds >= TASKS / 2, "one at a time each: {rounds}");
    // Each once or twice by its name, and all of them by the few scans that find those that were not remembered.
    assert!(bench.lanes_read < 8 * TASKS, "{} lanes were read for {TASKS} tasks", bench.lanes_read);
}
