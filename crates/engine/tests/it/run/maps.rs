//! Many items.

use serde_json::{Value as Json, json};
use tidewheel_engine::run::act::{Act, Event, Outcome};
use tidewheel_engine::run::plan::{Kind, Target};

use super::kit::{Handler, Outside, S, World, error, run};

fn items(n: usize) -> Json {
    (0..n).collect()
}

fn map(n: usize, concurrency: u32, batch: u32, collect: bool) -> S {
    S::Map { items: items(n), concurrency, batch, collect }
}

fn at_work(world: &World) -> Vec<(u64, u64, u32)> {
    let each = |(entry, outside): (&u64, &Outside)| match outside {
        Outside::Items(items) => items.iter().map(|(first, count)| (*entry, *first, *count)).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    world.open.iter().flat_map(each).collect()
}

fn ok(world: &mut World, item: u64) -> Outcome {
    Outcome::Ok(world.data(json!(item * 10)))
}

#[test]
fn so_many_items_at_a_time_and_results_in_order() {
    let mut world = run(&[map(5, 2, 1, false)], json!(null));
    assert_eq!(at_work(&world).len(), 2);
    while let Some((entry, first, _)) = at_work(&world).last().copied() {
        let outcome = ok(&mut world, first);
        world.items(entry, first, vec![outcome]);
        assert!(at_work(&world).len() <= 2);
    }
    assert_eq!(world.output(), json!([0, 10, 20, 30, 40]));
    assert_eq!(world.keys().len(), 2, "the run and the map: items have no entries");
}

#[test]
fn ends_that_come_together_are_one_turn_and_the_same_as_one_after_another() {
    let mut world = run(&[map(9, 3, 1, false)], json!(null));
    let turns = world.segments.len();
    for from in [0, 3, 6] {
        let entry = at_work(&world)[0].0;
        // The last of them comes twice, as after a crash; so does one of before.
        let told = [from + 2, from, from + 1, from + 1, 0];
        let ended = told.iter().map(|item| (*item, vec![ok(&mut world, *item)])).collect();
        world.many_items(entry, ended);
    }
    assert_eq!(world.output(), json!([0, 10, 20, 30, 40, 50, 60, 70, 80]));
    assert_eq!(world.segments.len() - turns, 3, "one turn for each three");
}

#[test]
fn one_error_among_ends_that_come_together_ends_the_map() {
    let mut world = run(&[map(9, 4, 1, false)], json!(null));
    let entry = at_work(&world)[0].0;
    let ended = vec![
        (0, vec![ok(&mut world, 0)]),
        (1, vec![Outcome::Err(error(500))]),
        (2, vec![ok(&mut world, 2)]),
        (3, vec![Outcome::Err(error(501))]),
    ];
    world.many_items(entry, ended);
    assert_eq!(world.error()["status"], json!(500));
    assert!(world.open.is_empty());
}

#[test]
fn finished_pages_are_blobs_beyond_a_bound_so_that_a_map_of_any_length_leaves_room() {
    let count = 8_000;
    let mut world = World::new(super::kit::Flowchart::of(&[map(count, 500, 1, false)]));
    world.checked = false;
    world.start(json!(null));
    let result = "x".repeat(56);
    let mut largest = 0;
    while let Some((entry, ..)) = at_work(&world).first().copied() {
        let ended: Vec<_> = at_work(&world).into_iter().map(|work| work.1).take(100).collect();
        let ended = ended.into_iter().map(|item| (item, vec![Outcome::Ok(world.data(json!(result)))])).collect();
        world.many_items(entry, ended);
        largest = largest.max(world.head.inline());
    }
    assert_eq!(world.output().as_array().map(Vec::len), Some(count));
    assert!((200_000..600_000).contains(&largest), "{largest} bytes in the run");
}

#[test]
fn without_items_the_result_is_empty() {
    assert_eq!(run(&[map(0, 2, 1, false)], json!(null)).output(), json!([]));
}

#[test]
fn batches_are_one_task_and_give_an_array() {
    let mut world = run(&[map(5, 4, 2, false)], json!(null));
    assert_eq!(at_work(&world).iter().map(|work| (work.1, work.2)).collect::<Vec<_>>(), [(0, 2), (2, 2)]);
    let Some(Act::OpenTask(task)) = world.acts.iter().find(|act| matches!(act, Act::OpenTask(_))) else { panic!() };
    assert_eq!(world.read(&task.args), json!([0, 1]));
    while let Some((entry, first, count)) = at_work(&world).first().copied() {
        let outcomes = (0..u64::from(count)).map(|at| ok(&mut world, first + at)).collect();
        world.items(entry, first, outcomes);
    }
    assert_eq!(world.output(), json!([0, 10, 20, 30, 40]));
}

#[test]
fn an_error_ends_the_map_and_cancels_the_rest_unless_errors_are_collected() {
    let caught = S::Try(
        vec![map(10, 5, 1, false)],
        Handler { handler: Some(vec![S::Lit(json!("caught"))]), ..Handler::default() },
    );
    let mut world = run(&[caught], json!(null));
    let (entry, first, _) = at_work(&world)[2];
    world.items(entry, first, vec![Outcome::Err(error(500))]);
    assert_eq!(world.output(), json!("caught"));
    assert!(world.open.is_empty());

    let mut world = run(&[map(2, 5, 1, true)], json!(null));
    let entry = at_work(&world)[0].0;
    world.items(entry, 1, vec![Outcome::Err(error(500))]);
    let outcome = ok(&mut world, 0);
    world.items(entry, 0, vec![outcome]);
    assert_eq!(world.output()[0], json!({"ok": 0}));
    assert_eq!(world.output()[1]["error"]["status"], 500);
}

#[test]
fn an_item_that_ends_twice_counts_once() {
    let mut world = run(&[map(3, 3, 1, false)], json!(null));
    let entry = at_work(&world)[0].0;
    let outcome = ok(&mut world, 1);
    world.items(entry, 1, vec![outcome.clone()]);
    let before = world.head.clone();
    assert_eq!(world.send(Event::Items { entry, first: 1, outcomes: vec![outcome] }), 0);
    assert_eq!(world.head, before);
}

#[test]
fn thousands_of_items_are_opened_in_bounded_turns_and_become_pages() {
    let mut world = World::new(super::kit::Flowchart::of(&[map(2_500, 2_000, 1, false)]));
    world.checked = false;
    world.start(json!(null));
    assert_eq!(at_work(&world).len(), 2_000);
    let mut order = at_work(&world);
    while let Some((entry, first, _)) = order.pop() {
        let outcome = ok(&mut world, first);
        world.items(entry, first, vec![outcome]);
        if order.is_empty() {
            order = at_work(&world);
        }
    }
    let all: Vec<u64> = (0..2_500).map(|item| item * 10).collect();
    assert_eq!(world.output(), json!(all));
    assert_eq!(world.fold(), world.head);
}

#[test]
fn a_faulted_map_does_again_only_what_is_not_done() {
    let mut world = run(&[map(4, 4, 1, false)], json!(null));
    let entry = at_work(&world)[0].0;
    for item in [0, 2] {
        let outcome = ok(&mut world, item);
        world.items(entry, item, vec![outcome]);
    }
    world.items(entry, 1, vec![Outcome::Err(error(500))]);
    assert_eq!(world.error()["status"], 500);
    world.finished = None;
    world.send(Event::Retry);
    assert_eq!(at_work(&world).iter().map(|work| work.1).collect::<Vec<_>>(), [1, 3]);
    while let Some((entry, first, _)) = at_work(&world).first().copied() {
        let outcome = ok(&mut world, first);
        world.items(entry, first, vec![outcome]);
    }
    assert_eq!(world.output(), json!([0, 10, 20, 30]));
}

#[test]
fn a_workflow_may_do_the_items() {
    let over = map(2, 2, 1, false).with(|_, node| {
        if let Kind::Map { target, .. } = &mut node.kind {
            *target = Target::Workflow("test".into(), "each".into(), "1.0.0".into());
        }
    });
    let world = run(&[over], json!(null));
    let starts: Vec<_> = world
        .acts
        .iter()
        .filter_map(|act| match act {
            Act::StartChild(child) => Some((child.item, world.read(&child.input))),
            _ => None,
        })
        .collect();
    assert_eq!(starts, [(Some(0), json!(0)), (Some(1), json!(1))]);
}

#[test]
fn large_results_of_a_batch_are_blobs_of_their_own_and_none_is_put_off() {
    let mut world = run(&[map(700, 700, 350, false)], json!(null));
    let all = at_work(&world);
    for (entry, first, count) in all {
        let results =
            (0..u64::from(count)).map(|at| Outcome::Ok(world.data(json!([first + at, "r".repeat(2_000)])))).collect();
        world.items(entry, first, results);
        assert!(world.head.inline() < 1 << 20, "{}", world.head.inline());
    }
    let output = world.output();
    assert_eq!(output.as_array().map(Vec::len), Some(700));
    assert_eq!(output[699][0], 699);
}
