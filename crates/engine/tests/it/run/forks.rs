//! Branches, child runs, suspension.

use serde_json::json;
use tidewheel_engine::run::act::{Act, Event};
use tidewheel_engine::run::eval::Var;
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::plan::{Flow, ParentClose};

use super::kit::{Handler, Outside, S, World, local, run};

fn export(statement: S, key: &'static str, value: u64) -> S {
    statement.with(move |chart, node| {
        node.output.export_as = Some(chart.expr(move |scope| {
            let mut context = scope.var(&Var::Context).as_object().cloned().unwrap_or_default();
            context.insert(key.into(), value.into());
            context.into()
        }));
    })
}

#[test]
fn branches_give_their_outputs_in_order_of_declaration_whatever_ends_first() {
    let mut world = run(&[S::Fork(false, vec![S::Task("a"), S::Task("b"), S::Lit(json!("c"))])], json!(null));
    world.complete("b", json!("second"));
    assert!(world.finished.is_none());
    world.complete("a", json!("first"));
    assert_eq!(world.output(), json!(["first", "second", "c"]));
    assert_eq!(run(&[S::Fork(false, vec![])], json!(1)).output(), json!([]));
}

#[test]
fn in_a_competition_the_first_success_wins_and_the_others_are_cancelled() {
    let mut world = run(&[S::Fork(true, vec![S::Task("a"), S::Task("b"), S::Wait(9)]), S::Task("next")], json!(null));
    world.complete("b", json!("winner"));
    assert_eq!(world.open.len(), 1, "only what comes next: {:?}", world.open);
    let next = world.task("next");
    world.finish(next, json!("end"));
    assert_eq!(world.output(), json!("end"));
}

#[test]
fn a_competition_that_all_lose_raises_the_first_error() {
    let caught = S::Try(
        vec![S::Fork(true, vec![S::Task("a"), S::Task("b")])],
        Handler { handler: Some(vec![S::eval(|scope| local(scope, "error")["status"].clone())]), ..Handler::default() },
    );
    let mut world = run(&[caught], json!(null));
    world.break_task("b", 502);
    assert!(world.finished.is_none());
    world.break_task("a", 501);
    assert_eq!(world.output(), json!(501));
}

#[test]
fn an_error_in_a_branch_cancels_the_others_and_is_caught_around_the_fork() {
    let fork = S::Fork(false, vec![S::Task("a"), S::Do(vec![S::Task("b"), S::Task("never")])]);
    let caught = S::Try(vec![fork], Handler { handler: Some(vec![S::Lit(json!("ok"))]), ..Handler::default() });
    let mut world = run(&[caught], json!(null));
    world.break_task("a", 500);
    assert_eq!(world.output(), json!("ok"));
    assert!(world.open.is_empty());
}

#[test]
fn a_branch_may_handle_its_own_error() {
    let own = S::Try(vec![S::Raise(1)], Handler { handler: Some(vec![S::Lit(json!("mine"))]), ..Handler::default() });
    assert_eq!(run(&[S::Fork(false, vec![own, S::Lit(json!(2))])], json!(null)).output(), json!(["mine", 2]));
}

#[test]
fn contexts_of_branches_are_merged_in_order_and_do_not_undo_each_other() {
    let first = export(S::Lit(json!(0)), "a", 0);
    let fork = S::Fork(
        false,
        vec![
            export(S::Lit(json!(1)), "a", 1),
            export(S::Lit(json!(2)), "b", 2),
            S::eval(|scope| scope.var(&Var::Context).into_owned()),
        ],
    );
    let world = run(
        &[first, fork, S::eval(|scope| json!([scope.dot().into_owned(), scope.var(&Var::Context).into_owned()]))],
        json!(null),
    );
    assert_eq!(world.output(), json!([[1, 2, {"a": 0}], {"a": 1, "b": 2}]));
    let race = S::Fork(true, vec![export(S::Lit(json!(1)), "a", 1), export(S::Lit(json!(2)), "b", 2)]);
    assert_eq!(
        run(&[race, S::eval(|scope| scope.var(&Var::Context).into_owned())], json!(null)).output(),
        json!({"a": 1})
    );
}

#[test]
fn end_in_a_branch_ends_the_run() {
    let mut world = run(
        &[S::Fork(false, vec![S::Task("a"), S::Do(vec![S::Task("b"), S::Lit(json!("done")).then(Flow::End)])])],
        json!(null),
    );
    world.complete("b", json!(null));
    assert_eq!(world.output(), json!("done"));
    assert!(world.open.is_empty());
}

#[test]
fn a_branch_sees_the_variables_around_the_fork() {
    let world =
        run(&[S::For(json!(["x"]), vec![S::Fork(false, vec![S::eval(|scope| local(scope, "item"))])])], json!(null));
    assert_eq!(world.output(), json!(["x"]));
}

fn child(world: &World) -> u64 {
    let is = |outside: &Outside| matches!(outside, Outside::Child(_));
    world.open.iter().find(|(_, outside)| is(outside)).map(|(entry, _)| *entry).expect("a child")
}

#[test]
fn a_child_run_gives_its_output() {
    let mut world = run(&[S::Child(ParentClose::Cancel, true)], json!({"in": 1}));
    let entry = child(&world);
    let Outside::Child(start) = &world.open[&entry] else { panic!() };
    assert_eq!((&*start.namespace, &*start.name, &*start.version, start.depth), ("test", "other", "latest", 1));
    world.finish(entry, json!("from the child"));
    assert_eq!(world.output(), json!("from the child"));
}

#[test]
fn what_becomes_of_children_is_as_the_plan_says() {
    let cancel = run(&[S::Child(ParentClose::Cancel, false)], json!(1));
    assert_eq!(cancel.output(), json!(1));
    assert!(cancel.open.is_empty(), "cancelled with the run");

    let abandon = run(&[S::Child(ParentClose::Abandon, false)], json!(1));
    assert_eq!(abandon.output(), json!(1));
    assert_eq!(abandon.open.len(), 1, "goes on");

    let mut wait = run(&[S::Child(ParentClose::Wait, false)], json!(1));
    assert!(wait.finished.is_none(), "the run ends when its child has");
    let entry = child(&wait);
    wait.finish(entry, json!("ignored"));
    assert_eq!(wait.output(), json!(1));
    assert!(!wait.acts.iter().any(|act| matches!(act, Act::CancelChild { .. })));
}

#[test]
fn runs_do_not_start_runs_without_end() {
    let chart = super::kit::Flowchart::of(&[S::Child(ParentClose::Cancel, true)]);
    let mut world = World::new(chart);
    let mut identity = (*world.head.identity).clone();
    identity.depth = 32;
    world.head.identity = identity.into();
    world.start(json!(null));
    assert!(world.error()["detail"].as_str().is_some_and(|detail| detail.contains("32 deep")));
}

#[test]
fn what_ends_during_a_suspension_counts_when_the_run_resumes() {
    let mut world =
        run(&[S::Fork(false, vec![S::Task("a"), S::Wait(100), S::Task("b")]), S::Task("next")], json!(null));
    world.send(Event::Suspend { reason: "look".into() });
    assert_eq!((world.head.phase, world.head.reason.as_deref()), (Phase::Suspended, Some("look")));
    world.complete("a", json!(1));
    world.complete("b", json!(2));
    world.pass(100);
    assert!(world.tasks("next").is_empty(), "nothing begins");
    assert_eq!(world.head.phase, Phase::Suspended);
    world.send(Event::Resume);
    assert_eq!(world.tasks("next").len(), 1);
    world.complete("next", json!("end"));
    assert_eq!(world.output(), json!("end"));
}

#[test]
fn a_suspended_run_can_be_cancelled() {
    let mut world = run(&[S::Task("a")], json!(null));
    world.send(Event::Suspend { reason: "look".into() });
    world.send(Event::Cancel { reason: "no".into() });
    assert_eq!(world.head.phase, Phase::Cancelled);
    assert!(world.open.is_empty());
}

#[test]
fn phases_tell_work_from_waiting() {
    let mut world = run(&[S::Wait(10), S::Task("a")], json!(null));
    assert_eq!(world.head.phase, Phase::Waiting);
    world.pass(10);
    assert_eq!(world.head.phase, Phase::Running);
}
