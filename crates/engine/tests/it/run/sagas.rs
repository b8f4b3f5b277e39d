//! Sagas, and what undoes them.

use serde_json::{Value as Json, json};
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::fold::{Change, FoldError};
use tidewheel_engine::run::head::{Identity, Phase};

use super::kit::{FUEL, Flowchart, Handler, Outside, S, World, error, run};

fn saga() -> S {
    S::Saga(vec![("a", true), ("b", true), ("c", true)])
}

/// Types of the tasks that are open.
fn at_work(world: &World) -> Vec<String> {
    let task = |outside: &Outside| match outside {
        Outside::Task(task) => Some(format!("{:?}", task.target).split('"').nth(1).unwrap_or_default().to_owned()),
        _ => None,
    };
    world.open.values().filter_map(task).collect()
}

fn args(world: &World, name: &str) -> Json {
    match &world.open[&world.task(name)] {
        Outside::Task(task) => world.read(&task.args),
        other => panic!("{other:?}"),
    }
}

fn key_of(world: &World, end: &str) -> String {
    world.keys().into_iter().find(|key| key.ends_with(end)).unwrap_or_else(|| panic!("no key {end}"))
}

fn go_back(world: &mut World, key: &str, change: Change) {
    let segments = world.segments.clone();
    let turn = world.journal(&segments).reset(&world.head, key, change, world.now, &mut FUEL.clone()).expect("a turn");
    world.finished = None;
    if world.commit(turn) {
        world.send(Event::Continue);
    }
}

#[test]
fn steps_come_one_after_another_and_see_the_outputs_before_them() {
    let mut world = run(&[saga()], json!(7));
    assert_eq!(at_work(&world), ["a"]);
    assert_eq!(args(&world, "a"), json!({"in": 7, "steps": {}}));
    world.complete("a", json!("A"));
    assert_eq!(args(&world, "b"), json!({"in": 7, "steps": {"a": "A"}}));
    world.complete("b", json!("B"));
    world.complete("c", json!("C"));
    assert_eq!(world.output(), json!(["A", "B", "C"]));
    assert!(world.head.undo.is_none(), "what came to its end stays");
}

#[test]
fn a_step_that_fails_undoes_those_before_it_in_reverse_and_only_then_the_error_goes_on() {
    let caught = S::Try(vec![saga()], Handler { handler: Some(vec![S::Task("handler")]), ..Handler::default() });
    let mut world = run(&[caught], json!(null));
    world.complete("a", json!("A"));
    world.complete("b", json!("B"));
    world.break_task("c", 503);
    assert_eq!(at_work(&world), ["undo b"], "the last one first, alone");
    assert_eq!(args(&world, "undo b"), json!("B"));
    world.complete("undo b", json!(null));
    assert_eq!(at_work(&world), ["undo a"]);
    world.complete("undo a", json!(null));
    assert_eq!(at_work(&world), ["handler"], "the catch waits until everything is undone");
    world.complete("handler", json!("handled"));
    assert_eq!(world.output(), json!("handled"));
}

#[test]
fn a_run_that_faults_ends_when_everything_is_undone_with_the_error_of_the_step() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    world.break_task("b", 503);
    assert!(world.finished.is_none() && !world.head.phase.ended());
    world.complete("undo a", json!(null));
    assert_eq!(world.error()["status"], 503);
    assert_eq!(world.error()["instance"], "/do/0/step/b");
    world.finished = None;
    world.send(Event::Retry);
    assert_eq!(at_work(&world), ["a"], "it is a unit: it begins anew");
}

#[test]
fn a_cancel_undoes_what_is_done_and_a_terminate_does_not() {
    let fork = S::Fork(false, vec![saga(), S::Task("slow")]);
    let mut world = run(std::slice::from_ref(&fork), json!(null));
    world.complete("a", json!("A"));
    world.complete("b", json!("B"));
    world.send(Event::Cancel { reason: "r".into() });
    assert_eq!(at_work(&world), ["undo b"], "the step at work and the other branch are cancelled");
    world.complete("undo b", json!(null));
    assert!(world.finished.is_none());
    world.complete("undo a", json!(null));
    assert_eq!(world.finished, Some((Phase::Cancelled, Outcome::Cancelled)));

    let mut world = run(&[fork], json!(null));
    world.complete("a", json!("A"));
    world.send(Event::Terminate { reason: "r".into() });
    assert!(world.open.is_empty());
    assert_eq!(world.head.phase, Phase::Cancelled);
}

#[test]
fn a_step_that_ended_while_the_run_was_suspended_is_undone_by_a_cancel() {
    let mut world = run(&[saga()], json!(null));
    world.send(Event::Suspend { reason: "r".into() });
    world.complete("a", json!("A"));
    world.send(Event::Cancel { reason: "r".into() });
    assert_eq!(at_work(&world), ["undo a"]);
    world.complete("undo a", json!(null));
    assert_eq!(world.head.phase, Phase::Cancelled);
}

#[test]
fn an_undo_whose_end_came_during_a_suspension_counts_when_the_run_is_cancelled() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    world.complete("b", json!("B"));
    world.break_task("c", 500);
    world.send(Event::Cancel { reason: "r".into() });
    assert_eq!(at_work(&world), ["undo b"], "it goes on");
    world.complete("undo b", json!(null));
    world.complete("undo a", json!(null));
    assert_eq!(world.head.phase, Phase::Cancelled);

    let caught = S::Try(vec![saga()], Handler { handler: Some(vec![S::Lit(json!(1))]), ..Handler::default() });
    let mut world = run(&[caught], json!(null));
    world.complete("a", json!("A"));
    world.break_task("b", 500);
    world.send(Event::Suspend { reason: "r".into() });
    world.complete("undo a", json!(null));
    assert_eq!(world.head.phase, Phase::Suspended);
    world.send(Event::Cancel { reason: "r".into() });
    assert_eq!(world.head.phase, Phase::Cancelled);
    assert!(world.open.is_empty() && world.head.undo.is_none());
}

#[test]
fn an_undo_is_tried_again_after_a_pause() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    world.break_task("b", 503);
    world.break_task("undo a", 500);
    assert_eq!(at_work(&world), Vec::<String>::new());
    world.pass(9);
    assert_eq!(at_work(&world), Vec::<String>::new());
    world.pass(1);
    world.complete("undo a", json!(null));
    assert_eq!(world.error()["status"], 503);
    let undos: Vec<String> = world.keys().into_iter().filter(|key| key.contains("/undo:")).collect();
    assert_eq!(undos, ["/u3/undo:/do/0/step/a/undo#0", "/u3/undo:/do/0/step/a/undo#1"]);
}

#[test]
fn an_undo_that_fails_for_good_faults_the_run_and_says_what_remains_and_a_retry_goes_on_with_it() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    world.complete("b", json!("B"));
    world.break_task("c", 503);
    world.break_task("undo b", 500);
    world.pass(10);
    world.break_task("undo b", 501);
    let error = world.error();
    assert_eq!(error["undo"]["remains"], json!(["b", "a"]));
    assert_eq!((&error["undo"]["failed"], &error["undo"]["error"]["status"]), (&json!("b"), &json!(501)));
    assert_eq!(error["cause"]["status"], 503, "what it began with");
    world.finished = None;
    world.send(Event::Retry);
    assert_eq!(at_work(&world), ["undo b"], "first what remains");
    world.complete("undo b", json!(null));
    world.complete("undo a", json!(null));
    assert_eq!(at_work(&world), ["a"], "then the statement that failed");
}

#[test]
fn a_cancelled_run_whose_undo_failed_for_good_is_cancelled_once_a_retry_undid_the_rest() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    world.send(Event::Cancel { reason: "r".into() });
    world.break_task("undo a", 500);
    world.pass(10);
    world.break_task("undo a", 500);
    assert_eq!(world.head.phase, Phase::Faulted);
    world.finished = None;
    world.send(Event::Retry);
    world.complete("undo a", json!(null));
    assert_eq!(world.finished, Some((Phase::Cancelled, Outcome::Cancelled)));
}

#[test]
fn a_time_limit_and_a_lost_competition_undo_too_before_anything_else_goes_on() {
    let caught = S::Try(
        vec![S::Do(vec![saga()]).timeout(50)],
        Handler { handler: Some(vec![S::Task("handler")]), ..Handler::default() },
    );
    let mut world = run(&[caught], json!(null));
    world.complete("a", json!("A"));
    world.pass(50);
    assert_eq!(at_work(&world), ["undo a"]);
    world.complete("undo a", json!(null));
    assert_eq!(at_work(&world), ["handler"]);

    let race = S::Fork(true, vec![saga(), S::Task("quick")]);
    let mut world = run(&[race, S::push("after")], json!(null));
    world.complete("a", json!("A"));
    world.complete("quick", json!(["q"]));
    assert_eq!(at_work(&world), ["undo a"]);
    assert!(world.finished.is_none());
    world.complete("undo a", json!(null));
    assert_eq!(world.output(), json!(["q", "after"]));
}

#[test]
fn a_run_that_faults_elsewhere_undoes_its_sagas_and_keeps_those_that_had_ended() {
    let first = S::Saga(vec![("kept", true)]);
    let fork = S::Fork(false, vec![saga(), S::Task("other")]);
    let mut world = run(&[first, fork], json!(null));
    world.complete("kept", json!("K"));
    world.complete("a", json!("A"));
    world.break_task("other", 500);
    assert_eq!(at_work(&world), ["undo a"]);
    world.complete("undo a", json!(null));
    assert_eq!(world.error()["status"], 500);
}

#[test]
fn a_reset_into_a_saga_goes_on_there_if_its_steps_hold_and_undoes_later_ones_first() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    world.complete("b", json!("B"));
    let key = key_of(&world, "/step/b#0");
    go_back(&mut world, &key, Change::default());
    assert_eq!(at_work(&world), ["undo b"], "the step that is done again is undone first");
    world.complete("undo b", json!(null));
    assert_eq!(at_work(&world), ["b"]);
    assert_eq!(args(&world, "b")["steps"], json!({"a": "A"}));
    world.complete("b", json!("B2"));
    world.complete("c", json!("C"));
    assert_eq!(world.output(), json!(["A", "B2", "C"]));
}

#[test]
fn a_reset_into_a_saga_that_was_undone_begins_it_anew() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    let key = key_of(&world, "/step/b#0");
    world.break_task("b", 503);
    world.complete("undo a", json!(null));
    go_back(&mut world, &key, Change::default());
    assert_eq!(at_work(&world), ["a"]);
}

#[test]
fn a_reset_while_it_is_undone_lets_that_come_to_its_end_first() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    let key = key_of(&world, "/step/b#0");
    world.break_task("b", 503);
    go_back(&mut world, &key, Change::default());
    assert_eq!(at_work(&world), ["undo a"]);
    world.complete("undo a", json!(null));
    assert_eq!(at_work(&world), ["a"]);
}

#[test]
fn a_reset_while_it_is_undone_keeps_the_steps_before_that_moment_whose_undo_has_not_begun() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    world.complete("b", json!("B"));
    let key = key_of(&world, "/step/b#0");
    world.break_task("c", 503);
    assert_eq!(at_work(&world), ["undo b"]);
    go_back(&mut world, &key, Change::default());
    assert_eq!(at_work(&world), ["undo b"]);
    world.complete("undo b", json!(null));
    assert_eq!(at_work(&world), ["b"], "`a` holds");
    assert_eq!(args(&world, "b")["steps"], json!({"a": "A"}));
    world.complete("b", json!("B2"));
    world.break_task("c", 500);
    for step in ["undo b", "undo a"] {
        assert_eq!(at_work(&world), [step]);
        world.complete(step, json!(null));
    }
    assert_eq!(world.error()["status"], 500, "each was undone once");
}

#[test]
fn a_reset_of_a_suspended_run_takes_the_end_of_an_undo_in() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    world.complete("b", json!("B"));
    let key = key_of(&world, "/step/b#0");
    let caught = world.task("c");
    world.open.remove(&caught);
    world.send(Event::Done { entry: caught, outcome: Outcome::Err(error(500)) });
    assert_eq!(at_work(&world), ["undo b"]);
    world.head.phase = Phase::Running;
    world.send(Event::Cancel { reason: "r".into() });
    world.complete("undo b", json!(null));
    world.complete("undo a", json!(null));
    go_back(&mut world, &key, Change::default());
    assert_eq!(at_work(&world), ["a"], "all of it was undone");

    let caught = S::Try(vec![saga()], Handler { handler: Some(vec![S::Lit(json!(1))]), ..Handler::default() });
    let mut world = run(&[caught], json!(null));
    world.complete("a", json!("A"));
    let key = key_of(&world, "/step/b#0");
    world.break_task("b", 500);
    world.send(Event::Suspend { reason: "r".into() });
    world.complete("undo a", json!(null));
    go_back(&mut world, &key, Change::default());
    assert_eq!(at_work(&world), ["a"]);
}

#[test]
fn a_fork_answers_for_its_own_steps_alone() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    let key = key_of(&world, "/step/b#0");
    let mut identity = Identity::new(tidewheel_engine::id::RunId(78), &world.chart.plan);
    identity.depth = 0;
    let change = Change { identity: Some(identity.into()), ..Change::default() };
    let segments = world.segments.clone();
    let turn = world.journal(&segments).reset(&world.head, &key, change, world.now, &mut FUEL.clone()).unwrap();
    let tasks: Vec<String> = turn.acts.iter().map(|act| format!("{act:?}")).collect();
    assert!(turn.head.undo.is_none());
    assert!(tasks.iter().any(|task| task.contains("Task(\"a\")")), "{tasks:?}");
}

#[test]
fn a_fork_that_goes_back_to_before_it_was_one_undoes_its_own_steps_and_no_others() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    let key = key_of(&world, "/step/b#0");
    // What the other run has open is no concern of this one.
    world.open.clear();
    let identity = Identity::new(tidewheel_engine::id::RunId(78), &world.chart.plan);
    go_back(&mut world, &key, Change { identity: Some(identity.into()), ..Change::default() });
    assert_eq!(at_work(&world), ["a"], "its saga begins anew");
    world.complete("a", json!("A2"));
    assert_eq!(at_work(&world), ["b"]);
    go_back(&mut world, &key, Change::default());
    assert_eq!((at_work(&world), args(&world, "undo a")), (vec!["undo a".to_owned()], json!("A2")));
    world.complete("undo a", json!(null));
    assert_eq!(at_work(&world), ["a"], "nothing of what the other run did is kept");
    world.complete("a", json!("A3"));
    world.break_task("b", 500);
    assert_eq!(args(&world, "undo a"), json!("A3"));
    world.complete("undo a", json!(null));
    assert_eq!(world.error()["status"], 500, "what the other run did is not undone");
}

#[test]
fn large_outputs_and_events_that_come_twice_are_no_trouble() {
    let mut world = World::started(Flowchart::of(&[saga()]), json!(null));
    let large = Json::String("x".repeat(200_000));
    let entry = world.task("a");
    world.complete("a", large.clone());
    let before = world.head.clone();
    let value = world.data(large.clone());
    assert_eq!(world.send(Event::Done { entry, outcome: Outcome::Ok(value) }), 0);
    assert_eq!(world.head, before);
    world.send(Event::Done { entry: world.task("b"), outcome: Outcome::Err(error(500)) });
    assert_eq!(args(&world, "undo a"), large);
}

#[test]
fn another_input_for_a_step_is_refused_with_the_key_of_the_saga_which_takes_it() {
    let mut world = run(&[saga()], json!(1));
    world.complete("a", json!("A"));
    let (step, whole) = (key_of(&world, "/step/b#0"), key_of(&world, "saga:/do/0/step#0"));
    let input = world.data(json!(2));
    let change = Change { input: Some(input), identity: None, keeps: false };
    let segments = world.segments.clone();
    let refused =
        world.journal(&segments).reset(&world.head, &step, change.clone(), world.now, &mut FUEL.clone()).err();
    let Some(FoldError::NoInput(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains(&format!("'{whole}'")), "{why}");
    go_back(&mut world, &whole, change);
    assert_eq!(at_work(&world), ["undo a"], "what it did with the first input");
    world.complete("undo a", json!(null));
    assert_eq!(args(&world, "a"), json!({"in": 2, "steps": {}}));
}

#[test]
fn a_second_reset_to_the_same_saga_does_not_undo_again_what_the_first_undid() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    world.complete("b", json!("B"));
    let key = key_of(&world, "/step/b#0");
    // The saga goes on in the turn of the reset, in which `b` is still to be undone.
    go_back(&mut world, &key, Change::default());
    world.complete("undo b", json!(null));
    let again = key_of(&world, "saga:/do/0/step#1");
    go_back(&mut world, &again, Change::default());
    assert_eq!(at_work(&world), ["b"], "nothing has been done since that is to be undone");
    world.complete("b", json!("B2"));
    world.break_task("c", 500);
    world.complete("undo b", json!(null));
    world.complete("undo a", json!(null));
    assert_eq!(world.error()["status"], 500);
}

/// A run whose saga has ended well, with its last task at work.
fn behind_a_saga() -> (World, String) {
    let mut world = run(&[saga(), S::Task("after")], json!(null));
    for step in ["a", "b", "c"] {
        world.complete(step, json!(step));
    }
    assert_eq!(at_work(&world), ["after"]);
    let key = key_of(&world, "/step/b#0");
    (world, key)
}

#[test]
fn a_reset_into_a_saga_that_had_ended_well_undoes_what_it_did_after_that_step() {
    let (mut world, key) = behind_a_saga();
    go_back(&mut world, &key, Change::default());
    assert_eq!(at_work(&world), ["undo c"], "the last first, before anything else begins");
    world.complete("undo c", json!(null));
    assert_eq!(at_work(&world), ["undo b"]);
    world.complete("undo b", json!(null));
    assert_eq!(at_work(&world), ["b"], "`a` holds");
    assert_eq!(args(&world, "b")["steps"], json!({"a": "a"}));
    world.complete("b", json!("B"));
    world.break_task("c", 500);
    world.complete("undo b", json!(null));
    world.complete("undo a", json!(null));
    assert_eq!(world.error()["status"], 500, "each was undone once");
}

#[test]
fn a_reset_to_before_a_saga_undoes_all_of_it_also_of_a_run_that_is_over() {
    for over in [false, true] {
        let (mut world, _) = behind_a_saga();
        if over {
            world.complete("after", json!(1));
        }
        let key = key_of(&world, "saga:/do/0/step#0");
        go_back(&mut world, &key, Change::default());
        for step in ["undo c", "undo b", "undo a"] {
            assert_eq!(at_work(&world), [step]);
            world.complete(step, json!(null));
        }
        assert_eq!(at_work(&world), ["a"]);
    }
}

#[test]
fn a_reset_to_behind_a_saga_leaves_what_it_did() {
    let (mut world, _) = behind_a_saga();
    let key = key_of(&world, "task:/do/1/step#0");
    go_back(&mut world, &key, Change::default());
    assert_eq!(at_work(&world), ["after"]);
    assert!(world.head.undo.is_none());
}

#[test]
fn what_was_done_stays_where_somebody_says_so_and_no_later_reset_undoes_it() {
    let (mut world, key) = behind_a_saga();
    go_back(&mut world, &key, Change { keeps: true, ..Change::default() });
    assert_eq!(at_work(&world), ["b"]);
    world.complete("b", json!("B"));
    // Only the second `b` is given up.
    go_back(&mut world, &key, Change::default());
    assert_eq!(at_work(&world), ["undo b"]);
    world.complete("undo b", json!(null));
    assert_eq!(at_work(&world), ["b"]);
}

#[test]
fn resets_one_after_another_undo_nothing_twice() {
    let (mut world, key) = behind_a_saga();
    let whole = key_of(&world, "saga:/do/0/step#0");
    go_back(&mut world, &key, Change::default());
    world.complete("undo c", json!(null));
    // In the middle of it: `b` is at work, and `a` is given up, too.
    assert_eq!(at_work(&world), ["undo b"]);
    go_back(&mut world, &whole, Change::default());
    assert_eq!(at_work(&world), ["undo b"]);
    world.complete("undo b", json!(null));
    assert_eq!(at_work(&world), ["undo a"]);
    world.complete("undo a", json!(null));
    assert_eq!(at_work(&world), ["a"]);
    go_back(&mut world, &whole, Change::default());
    assert_eq!(at_work(&world), ["a"], "nothing is left of it");
}

#[test]
fn what_a_terminated_run_left_behind_is_undone_by_a_reset_to_before_it() {
    let mut world = run(&[saga()], json!(null));
    world.complete("a", json!("A"));
    world.complete("b", json!("B"));
    let key = key_of(&world, "/step/b#0");
    world.send(Event::Terminate { reason: "at once".into() });
    go_back(&mut world, &key, Change::default());
    assert_eq!(at_work(&world), ["undo b"]);
    world.complete("undo b", json!(null));
    assert_eq!(at_work(&world), ["b"]);
}

#[test]
fn a_reset_that_was_made_before_is_folded_as_it_was() {
    let mut world = run(&[saga(), S::Task("after")], json!(null));
    world.complete("a", json!("A"));
    world.complete("b", json!("B"));
    let key = key_of(&world, "/step/b#0");
    go_back(&mut world, &key, Change::default());
    world.complete("undo b", json!(null));
    let mut segments = world.segments.clone();
    for segment in &mut segments {
        segment.revision = 5;
        if let Event::Reset { since, .. } = &mut segment.event {
            assert!(since.is_some());
            *since = None;
        }
    }
    let folded = world.journal(&segments).fold().expect("as a program of then wrote it");
    assert_eq!(folded, world.head);
}
