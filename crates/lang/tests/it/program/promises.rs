//! Promises that are completed by their key, as the token of one does it, and by their name.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value as Json, json};
use tidewheel_engine::id::Name;
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::fold::Change;
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::promise::{self, Completion, Verdict};

use super::kit::{Heard, World, command, error, ok, with};

const FIRST: &str = "/promise:ok#0";
const SECOND: &str = "/promise:ok#1";

fn arrived(key: Option<&str>, how: &Result<Json, Json>) -> Data {
    // An id of its own each time, as every call has.
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let id = CALLS.fetch_add(1, Ordering::Relaxed).to_string();
    Data::of(promise::event(&id, "ok", key, how)).0
}

fn completion(key: &str, how: &Result<Json, Json>) -> Completion {
    Completion { key: Name::from(key), event: arrived(Some(key), how), unknown_at: None }
}

/// Completes it, as a partition does, if it is the first that does.
fn complete(world: &mut World, key: Option<&str>, how: Result<Json, Json>) -> Verdict {
    let Some(key) = key else {
        world.feed(Event::Arrived { event: arrived(None, &how) });
        return Verdict::First;
    };
    let completion = completion(key, &how);
    let verdict = promise::judge(&world.head, std::iter::empty(), &completion);
    if verdict == Verdict::First {
        world.feed(Event::Arrived { event: completion.event });
    }
    verdict
}

fn late(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Late(_))
}

fn two(heard: &Heard<'_>) -> Json {
    heard
        .ask("all", &[command("promise", "ok", 0), command("promise", "ok", 1)])
        .unwrap_or_else(|| ok(json!([heard.value(FIRST), heard.value(SECOND)])))
}

#[test]
fn promises_of_one_name_are_told_apart_by_their_keys() {
    let mut world = World::new(two);
    world.start(json!({}));
    world.work_all();
    assert_eq!(complete(&mut world, Some(SECOND), Ok(json!("b"))), Verdict::First);
    assert_eq!(world.head.phase, Phase::Waiting, "the other one waits still");
    assert_eq!(complete(&mut world, Some(SECOND), Ok(json!("b"))), Verdict::Again);
    assert!(late(&complete(&mut world, Some(SECOND), Ok(json!("c")))));
    assert!(late(&complete(&mut world, Some(SECOND), Err(json!("no")))));
    assert_eq!(complete(&mut world, Some(FIRST), Ok(json!("a"))), Verdict::First);
    world.go();
    assert_eq!(world.output(), json!(["a", "b"]));
}

#[test]
fn the_name_and_the_key_complete_the_same_promise_and_the_first_one_counts() {
    let mut world = World::new(two);
    world.start(json!({}));
    world.work_all();
    world.signal("s", "promise:ok", json!("by name"));
    assert!(late(&complete(&mut world, Some(FIRST), Ok(json!("by key")))));
    assert_eq!(complete(&mut world, Some(FIRST), Ok(json!("by name"))), Verdict::Again);
    assert_eq!(complete(&mut world, Some(SECOND), Ok(json!("by key"))), Verdict::First);
    world.go();
    assert_eq!(world.output(), json!(["by name", "by key"]));
}

#[test]
fn what_comes_before_the_program_has_asked_is_kept_for_that_promise_alone() {
    let mut world = World::new(|heard| {
        let step = with(command("step", "mail", 0), "value", json!(null));
        if let Some(result) = heard.ask("all", &[step]) {
            return result;
        }
        two(heard)
    });
    world.start(json!({}));
    world.work();
    let mut early = completion(SECOND, &Ok(json!("early")));
    let judge = |world: &World, completion: &Completion| promise::judge(&world.head, std::iter::empty(), completion);
    assert_eq!(judge(&world, &early), Verdict::Unknown, "the journal has to be asked whether it ended long ago");
    early.unknown_at = Some(world.head.turns - 1);
    assert_eq!(judge(&world, &early), Verdict::Unknown, "the run went on meanwhile");
    early.unknown_at = Some(world.head.turns);
    assert_eq!(judge(&world, &early), Verdict::First);
    world.feed(Event::Arrived { event: early.event.clone() });
    assert_eq!(judge(&world, &early), Verdict::Again);
    assert!(late(&judge(&world, &completion(SECOND, &Ok(json!("other"))))));
    world.work_all();
    assert_eq!(complete(&mut world, None, Ok(json!("by name"))), Verdict::First);
    world.go();
    assert_eq!(world.output(), json!(["by name", "early"]));
}

#[test]
fn a_promise_that_is_completed_with_an_error_fails_with_it() {
    for key in [Some(FIRST), None] {
        let mut world = World::new(|heard| {
            heard.ask("all", &[command("promise", "ok", 0)]).unwrap_or_else(|| ok(heard.done(FIRST).unwrap().clone()))
        });
        world.start(json!({}));
        world.work_all();
        let how =
            json!({"type": "https://shop.example/rejected", "title": "Rejected", "detail": "too dear", "status": 409});
        assert_eq!(complete(&mut world, key, Err(how.clone())), Verdict::First);
        assert_eq!(complete(&mut world, Some(FIRST), Err(how)), Verdict::Again);
        assert!(late(&complete(&mut world, Some(FIRST), Err(json!("another")))));
        world.go();
        let done = world.output();
        assert_eq!((&done["status"], &done["error"]["detail"]), (&json!("error"), &json!("too dear")));
        assert_eq!(
            (&done["error"]["type"], &done["error"]["instance"]),
            (&json!("https://shop.example/rejected"), &json!(FIRST))
        );
    }
}

#[test]
fn a_retry_waits_for_the_same_key_again_and_a_reset_takes_what_was_answered() {
    let mut world = World::new(|heard| {
        if let Some(result) = heard.ask("all", &[command("promise", "ok", 0)]) {
            return result;
        }
        match heard.value(FIRST) {
            Some(value) if !value.is_null() => ok(value.clone()),
            _ => error("it was rejected", Some(FIRST)),
        }
    });
    world.start(json!({}));
    world.work_all();
    complete(&mut world, Some(FIRST), Err(json!("rejected")));
    world.go();
    assert_eq!(world.head.phase, Phase::Faulted);
    world.feed(Event::Retry);
    world.work_all();
    assert_eq!(complete(&mut world, Some(FIRST), Ok(json!("yes"))), Verdict::First);
    world.go();
    assert_eq!(world.output(), json!("yes"));

    let mut world = World::new(two);
    world.start(json!({}));
    world.work_all();
    complete(&mut world, Some(FIRST), Ok(json!("a")));
    complete(&mut world, Some(SECOND), Ok(json!("b")));
    world.go();
    world.reset(FIRST, Change::default()).unwrap();
    world.go();
    assert_eq!(world.output(), json!(["a", "b"]), "what came from outside is there once more");
}

#[test]
fn a_reset_takes_a_large_answer_along_that_is_not_in_memory() {
    let mut world = World::new(two);
    world.start(json!({}));
    world.work_all();
    complete(&mut world, Some(FIRST), Ok(json!("x".repeat(100_000))));
    complete(&mut world, Some(SECOND), Ok(json!("b")));
    world.go();
    let whole = world.output();
    for segment in &mut world.segments {
        if let Event::Arrived { event: Data::Ref { hash, value, .. } } = &mut segment.event {
            world.stored.insert(*hash, value.take().unwrap());
        }
    }
    world.reset(FIRST, Change::default()).unwrap();
    world.go();
    assert_eq!(world.output(), whole);
}

#[test]
fn a_run_that_holds_keeps_a_completion_and_refuses_another_one() {
    let mut world = World::new(two);
    world.start(json!({}));
    world.work_all();
    world.feed(Event::Suspend { reason: "look first".into() });
    assert_eq!(complete(&mut world, Some(FIRST), Ok(json!("a"))), Verdict::First);
    assert_eq!(complete(&mut world, Some(FIRST), Ok(json!("a"))), Verdict::Again);
    assert!(late(&complete(&mut world, Some(FIRST), Ok(json!("b")))));
    world.feed(Event::Resume);
    complete(&mut world, Some(SECOND), Ok(json!("x".repeat(100_000))));
    world.go();
    assert_eq!(world.output()[0], json!("a"));
}

#[test]
fn a_promise_that_is_waited_for_no_more_is_refused() {
    let mut world = World::new(|heard| {
        let asked = with(command("promise", "ok", 0), "opts", json!({"timeout_ms": 500}));
        let both = [asked, command("signal", "end", 0)];
        heard.ask("all", &both).unwrap_or_else(|| ok(heard.done(FIRST).unwrap()["error"]["status"].clone()))
    });
    world.start(json!({}));
    world.work_all();
    assert!(world.tick());
    assert!(late(&complete(&mut world, Some(FIRST), Ok(json!("too late")))));
    world.signal("s", "end", json!(null));
    world.go();
    assert_eq!(world.output(), json!(408));
}
