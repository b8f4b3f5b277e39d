//! Compensations of programs, and their cancellation.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use tidewheel_engine::id::RunId;
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::fault::Fault;
use tidewheel_engine::run::fold::Change;
use tidewheel_engine::run::head::{Identity, Phase};
use tidewheel_lang::program::ProgramDocument;

use super::kit::{Heard, World, command, document, error, name_of, ok};

/// Books, arms two undos of it, and then does what may fail.
fn undoes(heard: &Heard<'_>) -> Json {
    if let Some(result) = heard.ask("all", &[command("task", "book", 0)]) {
        return result;
    }
    if !heard.opened("/undo:cancel#0") {
        return json!({"v": 1, "commands": [command("undo", "cancel", 0), command("undo", "cancel", 1), command("task", "bad", 0)],
            "wait": [{"mode": "all", "keys": ["/task:bad#0"]}]});
    }
    match heard.done("/task:bad#0") {
        Some(done) if done["status"] == "ok" => ok(json!("kept")),
        Some(_) if heard.cancelled() => json!({"v": 1, "commands": [], "end": {"cancelled": true}}),
        Some(_) => error("it failed", Some("/task:bad#0")),
        None => heard.ask("all", &[command("task", "bad", 0)]).unwrap(),
    }
}

#[test]
fn what_was_done_is_undone_in_reverse_when_the_program_fails_and_it_begins_again_with_a_retry() {
    let mut world = World::new(undoes);
    world.failing.insert("bad".into(), 1);
    world.start(json!({}));
    world.go();
    assert_eq!(world.head.phase, Phase::Faulted);
    let undone: Vec<String> = world.keys().into_iter().filter(|key| key.contains("undo:")).collect();
    assert_eq!(undone, ["/u1/undo:cancel#0", "/u0/undo:cancel#0"]);
    world.feed(Event::Retry);
    world.go();
    assert_eq!(world.output(), json!("kept"));
    assert_eq!((world.times("book"), world.times("cancel")), (2, 2));
}

#[test]
fn a_cancel_is_told_to_the_program_and_what_was_done_is_undone() {
    let mut world = World::new(undoes);
    world.start(json!({}));
    // Up to where the second task is at work.
    while world.times("bad") == 0 {
        world.work();
    }
    assert!(world.feed(Event::Cancel { reason: "no longer wanted".into() }));
    world.go();
    assert_eq!(world.head.phase, Phase::Cancelled);
    assert_eq!(world.times("cancel"), 2);
    assert_eq!(world.head.reason.as_deref(), Some("no longer wanted"));
    assert!(world.tasks.is_empty() && world.timers.is_empty());
}

#[test]
fn a_reset_to_before_what_was_undone_begins_the_program_anew_and_undoes_nothing_twice() {
    let mut world = World::new(undoes);
    world.failing.insert("bad".into(), 1);
    world.start(json!({}));
    world.go();
    assert_eq!((world.head.phase, world.times("cancel")), (Phase::Faulted, 2));
    // The booking holds at that moment; since then it was cancelled.
    world.failing.insert("bad".into(), 1);
    world.reset("/task:bad#0", Change::default()).unwrap();
    world.go();
    assert_eq!(world.times("book"), 2, "it has to be booked once more");
    let undone = world.keys().into_iter().filter(|key| key.contains("undo:")).collect::<Vec<_>>();
    assert_eq!(undone.len(), 2 * world.times("book"), "one booking, two undos: {undone:?}");
}

/// Books, then charges, then ships; what it booked and charged it can undo.
fn books_and_charges(heard: &Heard<'_>) -> Json {
    for (done, undo, next) in [("book", "cancel", "charge"), ("charge", "refund", "ship")] {
        if let Some(result) = heard.ask("all", &[command("task", done, 0)]) {
            return result;
        }
        if !heard.opened(&format!("/undo:{undo}#0")) {
            let keys = json!([{"mode": "all", "keys": [format!("/task:{next}#0")]}]);
            return json!({"v": 1, "commands": [command("undo", undo, 0), command("task", next, 0)], "wait": keys});
        }
    }
    match heard.ask("all", &[command("task", "ship", 0)]) {
        Some(result) => result,
        None if heard.done("/task:ship#0").unwrap()["status"] == "error" => error("not shipped", Some("/task:ship#0")),
        None => ok(json!("shipped")),
    }
}

#[test]
fn a_reset_undoes_what_a_program_armed_after_that_entry_and_nothing_before_it() {
    for over in [false, true] {
        let mut world = World::new(books_and_charges);
        world.start(json!({}));
        if over {
            world.go();
            assert_eq!(world.output(), json!("shipped"));
        }
        while world.times("ship") == 0 {
            world.work();
        }
        world.reset("/task:charge#0", Change::default()).unwrap();
        world.failing.insert("ship".into(), 1);
        world.go();
        assert_eq!((world.times("book"), world.times("charge"), world.times("ship")), (1, 2, 2));
        assert_eq!(world.error()["detail"], "not shipped");
        // The first charge by the reset, the second one and the booking because the run failed.
        assert_eq!((world.times("refund"), world.times("cancel")), (2, 1), "{:?}", world.begun);
        let order: Vec<&str> = world.begun.iter().map(String::as_str).filter(|name| *name != "@").collect();
        let expected = ["book", "charge", "ship", "refund", "charge", "ship", "refund", "cancel"];
        assert_eq!(order, expected);
    }
}

#[test]
fn a_reset_that_is_to_keep_what_was_done_undoes_nothing() {
    let mut world = World::new(books_and_charges);
    world.start(json!({}));
    while world.times("ship") == 0 {
        world.work();
    }
    world.reset("/task:charge#0", Change { keeps: true, ..Change::default() }).unwrap();
    world.go();
    assert_eq!(world.output(), json!("shipped"));
    assert_eq!((world.times("charge"), world.times("refund"), world.times("cancel")), (2, 0, 0));
}

#[test]
fn a_fork_does_not_undo_what_the_other_run_did() {
    let mut world = World::new(undoes);
    world.start(json!({}));
    while world.times("bad") == 0 {
        world.work();
    }
    let identity = Arc::new(Identity { run: RunId(99), ..(*world.head.identity).clone() });
    world.reset("/task:bad#0", Change { input: None, identity: Some(identity), keeps: false }).unwrap();
    assert!(world.head.undo.is_none(), "{:?}", world.head.undo);
    world.feed(Event::Terminate { reason: "enough".into() });
    assert_eq!(world.times("cancel"), 0);
}

#[test]
fn an_activation_that_is_given_up_leaves_no_turn_that_a_parked_program_takes_for_its_own() {
    let mut world = World::new(undoes);
    world.start(json!({}));
    let turn = |world: &World| {
        let task = world.tasks.values().find(|task| name_of(task) == "@").unwrap();
        let args = task.args.json().unwrap()["args"].clone();
        (args["epoch"].clone(), args["turns"].as_array().unwrap().last().unwrap()["no"].clone())
    };
    let before = turn(&world);
    assert!(world.feed(Event::Cancel { reason: "no longer wanted".into() }));
    let after = turn(&world);
    assert_eq!(before.1, after.1, "it is the same turn once more, with a cancel in it");
    assert_ne!(before.0, after.0, "so its number alone does not say which");
}

#[test]
fn a_second_cancel_does_not_wait_for_the_program() {
    let mut world = World::new(undoes);
    world.start(json!({}));
    while world.times("bad") == 0 {
        world.work();
    }
    world.feed(Event::Cancel { reason: "one".into() });
    assert!(world.feed(Event::Cancel { reason: "two".into() }));
    world.go();
    assert_eq!(world.head.phase, Phase::Cancelled);
    assert_eq!(world.times("cancel"), 2, "compensations run all the same");
}

#[test]
fn a_cancelled_program_whose_activation_does_not_end_is_cancelled_all_the_same_and_what_was_done_is_undone() {
    let mut world = World::new(undoes);
    world.start(json!({}));
    for _ in ["the first activation", "book", "the second activation"] {
        world.work();
    }
    assert!(world.feed(Event::Cancel { reason: "asked for".into() }));
    let (entry, task) = world.tasks.iter().map(|(key, task)| (key.0, task.clone())).next().unwrap();
    let call = task.args.json().unwrap().clone();
    assert_eq!(call["retry"]["not_on"], json!(["WorkflowStuck", "timeout"]));
    assert!(call["timeouts"]["run_ms"].as_u64().unwrap() <= 60_000 && call["args"]["stall_ms"].as_u64().is_some());
    world.tasks.remove(&(entry, 0));
    let stuck =
        Fault(Arc::new(json!({"type": "https://serverlessworkflow.io/spec/1.0.0/errors/runtime", "status": 500})));
    assert!(world.feed(Event::Done { entry, outcome: Outcome::Err(stuck) }));
    world.go();
    assert_eq!(world.head.phase, Phase::Cancelled);
    assert_eq!(world.times("cancel"), 2, "{:?}", world.begun);
}

#[test]
fn a_time_limit_of_the_run_undoes_and_faults() {
    let mut world = World::of(ProgramDocument { timeout_ms: 60_000, ..document() }, undoes);
    world.start(json!({}));
    while world.times("bad") == 0 {
        world.work();
    }
    world.tick();
    world.go();
    assert_eq!(world.head.phase, Phase::Faulted);
    assert_eq!(world.error()["status"], 408);
    assert_eq!(world.times("cancel"), 2);
}
