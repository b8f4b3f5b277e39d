//! What fails: in the program, in what it asked for, and in what runs it.

use std::sync::Arc;

use serde_json::json;
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::fault::Fault;

use super::kit::{World, command, error, ok};

#[test]
fn a_retry_does_what_failed_again_and_nothing_else() {
    let mut world = World::new(|heard| {
        let all = [command("task", "good", 0), command("task", "bad", 0)];
        match heard.ask("all", &all) {
            Some(result) => result,
            None if heard.done("/task:bad#0").unwrap()["status"] == "error" => error("it failed", Some("/task:bad#0")),
            None => ok(json!("done")),
        }
    });
    world.failing.insert("bad".into(), 1);
    world.start(json!({}));
    world.go();
    assert_eq!(world.error()["detail"], "it failed");
    assert!(world.feed(Event::Retry));
    world.go();
    assert_eq!(world.output(), json!("done"));
    assert_eq!((world.times("good"), world.times("bad")), (1, 2));
}

#[test]
fn an_error_that_the_program_catches_is_its_own_matter() {
    let mut world = World::new(|heard| {
        let task = command("task", "bad", 0);
        heard.ask("all", &[task]).unwrap_or_else(|| ok(heard.done("/task:bad#0").unwrap()["error"]["instance"].clone()))
    });
    world.failing.insert("bad".into(), 9);
    world.start(json!({}));
    world.go();
    assert_eq!(world.output(), json!("/task:bad#0"), "it says where");
}

#[test]
fn what_cannot_be_used_is_a_clear_error_and_the_run_can_be_retried() {
    let cases = [
        (json!({"v": 9}), "another version"),
        (json!("text"), "another version"),
        (json!({"v": 1, "commands": []}), "waits for nothing"),
        (json!({"v": 1, "commands": [{"kind": "task"}]}), "no key"),
        (json!({"v": 1, "commands": [command("task", "a", 0), command("task", "a", 0)]}), "there twice"),
        (json!({"v": 1, "commands": [command("dance", "a", 0)]}), "unknown kind"),
        (json!({"v": 1, "commands": [], "end": {"stop": 1}}), "unknown way"),
        (json!({"v": 1, "commands": (0..10_001).map(|n| command("task", "a", n)).collect::<Vec<_>>()}), "at most"),
    ];
    for (result, expected) in cases {
        let shown = result.to_string();
        let mut world = World::new(move |_| result.clone());
        world.start(json!({}));
        world.go();
        let detail = world.error()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(expected), "{detail} for {}", &shown[..shown.len().min(100)]);
        world.program = Box::new(|_| ok(json!(1)));
        assert!(world.feed(Event::Retry));
        world.go();
        assert_eq!(world.output(), json!(1));
    }
}

#[test]
fn an_activation_that_cannot_be_run_faults_the_run_and_a_retry_begins_it_again() {
    let mut world = World::new(|_| ok(json!(1)));
    world.start(json!({}));
    let ((entry, _), _) = world.tasks.pop_first().unwrap();
    let fault = Fault(Arc::new(json!({"detail": "the package is gone"})));
    world.feed(Event::Done { entry, outcome: Outcome::Err(fault) });
    assert_eq!(world.error()["detail"], "the package is gone");
    world.feed(Event::Retry);
    world.go();
    assert_eq!(world.output(), json!(1));
}

#[test]
fn a_retry_after_an_activation_that_could_not_be_run_does_nothing_twice() {
    let mut world = World::new(|heard| {
        for n in 0..2 {
            if let Some(result) = heard.ask("all", &[command("task", "fetch", n)]) {
                return result;
            }
        }
        ok(json!("end"))
    });
    world.start(json!({}));
    // The first activation, what it asked for, and then the second activation, which cannot be run.
    world.work();
    world.work();
    let ((entry, _), _) = world.tasks.pop_first().unwrap();
    let fault = Fault(Arc::new(json!({"detail": "the package is gone"})));
    world.feed(Event::Done { entry, outcome: Outcome::Err(fault) });
    assert_eq!(world.error()["detail"], "the package is gone");
    world.feed(Event::Retry);
    world.go();
    assert_eq!((world.output(), world.times("fetch")), (json!("end"), 2));
}
