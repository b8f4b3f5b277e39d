//! Replays that differ, and moves to other code.

use std::sync::{Arc, Mutex};

use serde_json::{Value as Json, json};
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::fold::Change;
use tidewheel_engine::run::head::Phase;
use tidewheel_lang::program::ProgramDocument;

use super::kit::{Heard, World, command, document, ok};

#[test]
fn a_replay_that_differs_holds_the_run_until_somebody_resumes_it() {
    let mut world = World::new(|heard| {
        let task = command("task", "fetch", 0);
        match heard.ask("all", &[task]) {
            Some(result) => result,
            None if heard.turns.len() == 2 && heard.input["broken"] == json!(true) => {
                json!({"v": 1, "commands": [], "end": {"mismatch": {"turn": 1, "expected": "/task:fetch#0", "actual": "/task:other#0"}}})
            }
            None => ok(json!("well")),
        }
    });
    world.start(json!({"broken": true}));
    world.go();
    assert_eq!((world.head.phase, world.head.reason.as_deref()), (Phase::Suspended, Some("replay-mismatch")));
    let before = world.times("@");
    world.go();
    assert_eq!(world.times("@"), before, "nothing is tried again by itself");
    world.program =
        Box::new(|heard| heard.ask("all", &[command("task", "fetch", 0)]).unwrap_or_else(|| ok(json!("well"))));
    assert!(world.feed(Event::Resume));
    world.go();
    assert_eq!(world.output(), json!("well"));
    assert_eq!(world.times("fetch"), 1);
}

/// A program whose replay differs as soon as `fetch` has ended, unless that was accepted or it is of the package 3.0.0.
fn differing(accepted: Arc<Mutex<Vec<Json>>>) -> World {
    World::new(move |heard| {
        let task = command("task", "fetch", 0);
        if let Some(result) = heard.ask("all", &[task]) {
            return result;
        }
        if accepted.lock().unwrap().is_empty() {
            return json!({"v": 1, "commands": [], "end": {"mismatch": {
                "turn": 1, "expected": "/task:fetch#0", "actual": "/task:other#0", "why": "differs", "file": "f.py", "line": 3,
            }}});
        }
        heard.ask("all", &[command("task", "other", 0)]).unwrap_or_else(|| ok(json!("accepted")))
    })
}

#[test]
fn a_difference_that_is_accepted_stands_in_the_journal_and_in_every_history_from_then_on() {
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let mut world = differing(accepted.clone());
    world.start(json!({}));
    assert!(!world.feed(Event::Accepted { by: "ann".into() }), "there is nothing to accept yet");
    world.go();
    assert_eq!(world.head.reason.as_deref(), Some("replay-mismatch"));
    accepted.lock().unwrap().push(json!(1));
    assert!(world.feed(Event::Accepted { by: "ann".into() }));
    let task = world.tasks.values().next().unwrap();
    assert_eq!(task.args.json().unwrap()["args"]["accepted"], json!(1));
    world.go();
    assert_eq!(world.output(), json!("accepted"));
    assert_eq!((world.times("fetch"), world.times("other")), (1, 1));
    let entry = world.keys().into_iter().find(|key| key.contains("accepted:")).unwrap();
    assert!(entry.starts_with("/accepted:/task:fetch#0#"), "{entry}");
    let turn = world.segments.iter().find(|segment| matches!(segment.event, Event::Accepted { .. })).unwrap();
    assert!(turn.values.iter().any(|value| value.written()["by"] == "ann" && value.written()["line"] == 3));
}

#[test]
fn a_program_that_holds_because_of_a_difference_goes_on_with_the_code_that_it_is_moved_to() {
    let mut world = differing(Arc::default());
    world.start(json!({}));
    world.go();
    assert_eq!(world.head.phase, Phase::Suspended);
    world.program =
        Box::new(|heard| heard.ask("all", &[command("task", "fetch", 0)]).unwrap_or_else(|| ok(json!("fixed"))));
    let fixed = ProgramDocument { package_version: "3.0.0".into(), package_hash: "sha256:33".into(), ..document() };
    world.move_to(&fixed);
    let task = world.tasks.values().next().unwrap();
    assert_eq!(task.args.json().unwrap()["version"], "3.0.0", "the activation runs the other code");
    world.go();
    assert_eq!(world.output(), json!("fixed"));
    assert_eq!(world.times("fetch"), 1);
    assert!(world.keys().iter().any(|key| key.starts_with("/moved:1.0.0#")), "{:?}", world.keys());
    world.reset("/task:fetch#0", Change::default()).unwrap();
    world.go();
    assert_eq!(world.output(), json!("fixed"), "also after a reset to before the move");
}

#[test]
fn a_program_that_is_moved_while_it_runs_takes_the_other_code_with_its_next_activation() {
    let steps = |heard: &Heard<'_>| {
        for name in ["a", "b"] {
            if let Some(result) = heard.ask("all", &[command("task", name, 0)]) {
                return result;
            }
        }
        ok(json!("done"))
    };
    let mut world = World::new(steps);
    world.start(json!({}));
    let other = ProgramDocument { version: "2.0.0".into(), package_version: "3.0.0".into(), ..document() };
    world.move_to(&other);
    assert_eq!(world.tasks.len(), 1, "the activation at work goes on");
    world.go();
    assert_eq!((world.output(), world.times("a"), world.times("b")), (json!("done"), 1, 1));
    assert_eq!(&*world.head.identity.version, "2.0.0");
}
