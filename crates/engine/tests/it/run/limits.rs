//! Bounds: acts, statements, work, fuel, sizes.

use serde_json::json;
use tidewheel_engine::run::act::{Act, Event};
use tidewheel_engine::run::data::{Data, NoBlobs};
use tidewheel_engine::run::eval::Fuel;
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::plan::{Case, Flow, Kind};
use tidewheel_engine::run::turn::{Env, Halt, advance};

use super::kit::{Flowchart, Handler, S, World, run};

#[test]
fn a_turn_asks_for_256_acts_at_most_and_the_rest_follows() {
    let mut world = run(&[S::Fork(false, (0..400).map(|_| S::Task("t")).collect())], json!(null));
    assert_eq!(world.tasks("t").len(), 400);
    assert!(world.head.turns > 1);
    let turns = world.head.turns;
    world.send(Event::Cancel { reason: "all of it".into() });
    assert!(world.head.turns > turns + 1, "so many tasks are not cancelled in one turn");
    assert_eq!(world.head.phase, Phase::Cancelled);
    assert!(world.open.is_empty());
    assert!(matches!(world.acts.last(), Some(Act::Finished { .. })), "the end comes after all that it cancels");
}

#[test]
fn a_long_loop_goes_on_in_many_turns() {
    let items: Vec<u64> = (0..3_000).collect();
    let mut world = World::new(Flowchart::of(&[S::For(json!(items), vec![S::Lit(json!(1))])]));
    world.checked = false;
    world.start(json!(null));
    assert!(world.head.turns > 4, "{}", world.head.turns);
    assert_eq!(world.output(), json!(1));
    assert_eq!(world.fold(), world.head);
}

#[test]
fn a_loop_without_end_runs_into_the_cap_of_work_and_a_wait_does_not() {
    let forever = |costly: u64, inner: S| {
        let again = S::kind(|_, _| Kind::Switch(vec![Case { name: "again".into(), when: None, then: Flow::To(0) }]));
        let heavy = S::Lit(json!(1)).with(move |chart, node| {
            node.kind = Kind::Set(chart.costly(costly, |_| Ok(json!(1))));
        });
        Flowchart::of(&[heavy, inner, again])
    };
    let mut world = World::new(forever(900_000, S::Lit(json!(2))));
    world.start(json!(null));
    let detail = world.error()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("10 million"), "{detail}");

    let mut world = World::new(forever(900_000, S::Wait(10)));
    world.checked = false;
    world.start(json!(null));
    world.pass(500);
    assert_eq!(world.head.phase, Phase::Waiting);
}

#[test]
fn a_loop_that_makes_large_values_ends_before_they_fill_a_disk() {
    let again = S::kind(|_, _| Kind::Switch(vec![Case { name: "again".into(), when: None, then: Flow::To(0) }]));
    // Each is another one.
    let next = S::eval(|scope| {
        let number = scope.dot().as_str().and_then(|text| text.trim_start().parse::<u64>().ok()).unwrap_or(0) + 1;
        json!(format!("{}{number}", " ".repeat(4_000_000)))
    });
    let mut world = World::new(Flowchart::of(&[next, again]));
    world.checked = false;
    world.start(json!(null));
    let detail = world.error()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("10 million"), "{detail}");
    let written = |act: &Act| if let Act::PutBlob { bytes, .. } = act { bytes.len() } else { 0 };
    let written: usize = world.acts.iter().map(written).sum();
    assert!((150_000_000..180_000_000).contains(&written), "{written} bytes");
}

#[test]
fn too_little_fuel_changes_nothing_and_full_fuel_always_ends() {
    let chart = |cost| {
        Flowchart::of(&[S::Lit(json!(1)).with(move |chart, node| {
            node.kind = Kind::Set(chart.costly(cost, |_| Ok(json!("heavy"))));
        })])
    };
    let world = World::new(chart(50_000));
    let event = Event::Start { identity: world.head.identity.clone(), input: Data::null() };
    let env = Env { definition: &*world.chart, blobs: &NoBlobs, now_ms: 1, bounds: Default::default() };
    let mut fuel = Fuel { steps: 20_000, bytes: 1 << 20 };
    assert_eq!(advance(&world.head, event.clone(), &env, &mut fuel), Err(Halt::OutOfFuel));
    assert_eq!(fuel.steps, 20_000);
    let mut fuel = Fuel { steps: 1_000_000, bytes: 64 << 20 };
    let turn = advance(&world.head, event, &env, &mut fuel).expect("a turn").expect("it begins");
    assert_eq!(turn.head.phase, Phase::Completed);

    let mut bomb = World::new(chart(2_000_000));
    bomb.start(json!(null));
    assert!(bomb.error()["detail"].as_str().is_some_and(|detail| detail.contains("fuel")));
}

#[test]
fn a_value_above_64_kib_is_a_blob_and_expressions_still_see_it() {
    let large = "x".repeat(100_000);
    let world = run(
        &[
            S::Lit(json!({"large": large})),
            S::Task("a"),
            S::eval(|scope| json!(scope.dot()["large"].as_str().map(str::len))),
        ],
        json!(null),
    );
    let put = world.acts.iter().any(|act| matches!(act, Act::PutBlob { bytes, .. } if bytes.len() > 100_000));
    assert!(put);
    let mut world = world;
    let entry = world.task("a");
    world.finish(entry, json!({"large": large}));
    assert_eq!(world.output(), json!(100_000));
}

#[test]
fn a_turn_that_needs_a_blob_says_which() {
    let large = json!({"large": "x".repeat(100_000)});
    let mut world = World::new(Flowchart::of(&[S::eval(|scope| scope.dot()["large"].clone())]));
    let input = world.data(large);
    let event = Event::Start { identity: world.head.identity.clone(), input };
    let env = Env { definition: &*world.chart, blobs: &NoBlobs, now_ms: 1, bounds: Default::default() };
    let halt = advance(&world.head, event, &env, &mut super::kit::FUEL.clone());
    let known: Vec<_> = world.blobs.keys().copied().collect();
    assert_eq!(halt, Err(Halt::Blobs(known)));
}

#[test]
fn results_that_find_no_room_in_the_run_are_kept_beside_it() {
    let long = |n: usize| json!(format!("{n}").repeat(30_000));
    let branch = |n| S::Do(vec![S::Task("t"), S::Lit(long(n)), S::Task("u")]);
    let length = |value: &serde_json::Value| value.as_str().map_or(0, str::len);
    let all = S::Fork(false, (10..40).map(branch).collect());
    let mut world = run(
        &[all, S::eval(move |scope| json!(scope.dot().as_array().unwrap().iter().map(length).sum::<usize>()))],
        json!(null),
    );
    for entry in world.tasks("t") {
        world.finish(entry, long(99));
    }
    assert_eq!(world.tasks("u").len(), 30, "what `set` gives, too");
    assert!(world.head.inline() <= 1 << 20);
    let beside =
        world.acts.iter().filter(|act| matches!(act, Act::PutBlob { bytes, .. } if bytes.len() < 65_536)).count();
    assert!(beside > 10, "those below 64 KiB for which there was no room: {beside}");
    for entry in world.tasks("u") {
        world.finish(entry, long(77));
    }
    assert_eq!(world.output(), json!(30 * 60_000));
}

#[test]
fn more_than_1_mib_of_context_is_a_runtime_error_that_leaves_the_run_usable() {
    let keep = |statement: S| {
        statement.with(|chart, node| node.output.export_as = Some(chart.expr(|scope| scope.dot().into_owned())))
    };
    let branch = || S::Do(vec![keep(S::Lit(json!("y".repeat(60_000)))), S::Task("t")]);
    let half = S::Fork(false, (0..30).map(|_| branch()).collect());
    let caught = S::Try(vec![half], Handler { handler: Some(vec![S::Lit(json!("too much"))]), ..Handler::default() });
    let mut world = run(&[caught, S::Task("on")], json!(null));
    assert_eq!(world.tasks("on").len(), 1);
    assert!(world.head.inline() < 1 << 20);
    world.complete("on", json!("usable"));
    assert_eq!(world.output(), json!("usable"));
}

#[test]
fn the_head_is_written_when_the_phase_changes_and_every_16_turns() {
    let mut world = World::new(Flowchart::of(&[S::Do((0..40).map(|_| S::Task("t")).collect()), S::Wait(5)]));
    let identity = world.head.identity.clone();
    let turn = world.turn(Event::Start { identity, input: Data::null() }).expect("it begins");
    assert!(turn.snapshot, "lists show it from its first turn on");
    world.commit(turn);
    let mut snapshots = Vec::new();
    for _ in 0..40 {
        let entry = world.task("t");
        world.open.remove(&entry);
        let outcome = tidewheel_engine::run::act::Outcome::Ok(Data::null());
        let turn = world.turn(Event::Done { entry, outcome }).expect("it goes on");
        if turn.snapshot {
            snapshots.push(turn.head.turns);
        }
        world.commit(turn);
    }
    assert_eq!(snapshots, [16, 32, 41]);
}

#[test]
fn a_function_that_calls_itself_is_stopped() {
    let mut chart = Flowchart::of(&[S::Lit(json!(0))]);
    let with = chart.expr(|scope| scope.dot().into_owned());
    let id = tidewheel_engine::run::plan::NodeId(0);
    chart.plan.nodes[0].kind = Kind::Function { with, schema: None, body: id };
    let mut world = World::new(chart);
    world.checked = false;
    world.start(json!(null));
    assert!(world.error()["detail"].as_str().is_some_and(|detail| detail.contains("256 deep")));
}

#[test]
fn a_run_with_a_hundred_thousand_open_branches_is_cancelled_at_once_and_its_tasks_in_bounded_turns() {
    let branches = 100_000;
    let mut world = World::new(Flowchart::of(&[S::Fork(false, (0..branches).map(|_| S::Task("t")).collect())]));
    world.checked = false;
    world.start(json!(null));
    assert_eq!(world.open.len(), branches);
    let turns = world.head.turns;
    let begun = std::time::Instant::now();
    world.send(Event::Cancel { reason: "too many".into() });
    let took = begun.elapsed();
    assert_eq!(world.head.phase, Phase::Cancelled);
    assert!(world.open.is_empty() && world.head.lines.is_empty() && world.head.owed.is_empty());
    assert!(world.head.turns - turns >= branches as u64 / 256, "256 acts in a turn at most");
    // Not a matter of speed but of kind: looked for one by one, each among all others, they would take hours.
    assert!(took.as_secs() < 300, "{took:?}");
}
