//! Resets and forks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use tidewheel_engine::id::RunId;
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::fold::{Change, FoldError, Journal};
use tidewheel_engine::run::head::{Identity, Phase, Step};

use super::kit::{Heard, World, chain, command, ok};

#[test]
fn a_copy_of_a_cancelled_run_begins_before_the_cancel_and_is_not_cancelled() {
    let mut world = World::new(|heard| {
        if heard.cancelled() {
            return match heard.ask("all", &[command("task", "clean", 0)]) {
                Some(result) => result,
                None => json!({"v": 1, "commands": [], "end": {"cancelled": true}}),
            };
        }
        heard.ask("all", &[command("task", "a", 0)]).unwrap_or_else(|| ok(json!("well")))
    });
    world.start(json!({}));
    world.work();
    assert!(world.feed(Event::Cancel { reason: "asked for".into() }));
    world.go();
    assert_eq!(world.head.phase, Phase::Cancelled);
    let error = world.reset("/task:clean#0", Change::default()).unwrap_err();
    assert_eq!(error, FoldError::Cancelled(Some("/task:a#0".into())));
    world.reset("/task:a#0", Change::default()).unwrap();
    world.go();
    assert_eq!((world.head.phase, world.output()), (Phase::Completed, json!("well")));
}

#[test]
fn a_run_goes_back_to_a_key_by_the_activation_that_asked_for_it() {
    let chain = |heard: &Heard<'_>| {
        for n in 0..4 {
            if let Some(result) = heard.ask("all", &[command("task", "fetch", n)]) {
                return result;
            }
        }
        ok(heard.value("/task:fetch#3").unwrap()["args"].clone())
    };
    let mut world = World::new(chain);
    world.start(json!({}));
    world.go();
    let before = world.times("fetch");
    world.reset("/task:fetch#2", Change::default()).unwrap();
    world.go();
    assert_eq!(world.output(), json!({"n": 3}));
    assert_eq!(world.times("fetch"), before + 2, "the two before it are kept");
    let changed = Change { input: Some(Data::of(json!(5)).0), identity: None, keeps: false };
    assert_eq!(world.reset("/task:fetch#1", changed), Err(FoldError::Input));
    assert_eq!(world.reset("/task:nothing#1", Change::default()), Err(FoldError::NoKey));
    // From its start, with another input.
    let changed = Change { input: Some(Data::of(json!({"x": 1})).0), identity: None, keeps: false };
    world.reset("/run:#0", changed).unwrap();
    world.go();
    assert_eq!(world.times("fetch"), before + 6);
    let epochs: BTreeSet<u64> = code_epochs(&world);
    assert!(epochs.len() >= 3, "parked programs can tell the histories apart: {epochs:?}");
}

/// Epochs of the activations that were opened.
fn code_epochs(world: &World) -> BTreeSet<u64> {
    let none = BTreeMap::new();
    let mut found = BTreeSet::new();
    for at in 1..=world.segments.len() {
        let segments = &world.segments[..at];
        let journal =
            Journal { from: None, segments, definition: &*world.definition, earlier: &world.earlier, blobs: &none };
        let head = journal.fold().unwrap();
        for line in &head.lines {
            if let Some(Step::Code(code)) = line.frames.last().map(|frame| &frame.step) {
                found.insert(code.epoch);
            }
        }
    }
    found
}

#[test]
fn a_fork_goes_on_as_another_run_with_the_history_so_far() {
    let mut world = World::new(|heard| {
        for n in 0..2 {
            if let Some(result) = heard.ask("all", &[command("task", "fetch", n)]) {
                return result;
            }
        }
        ok(json!("end"))
    });
    world.start(json!({}));
    world.go();
    let identity = Arc::new(Identity { run: RunId(8), ..(*world.head.identity).clone() });
    world.reset("/task:fetch#1", Change { input: None, identity: Some(identity), keeps: false }).unwrap();
    world.go();
    assert_eq!(world.head.identity.run, RunId(8));
    assert_eq!((world.output(), world.times("fetch")), (json!("end"), 3));
}

#[test]
fn a_run_goes_back_to_a_key_whose_turn_has_left_it_and_on_from_there() {
    let mut world = World::new(chain(60));
    world.start(json!({}));
    for _ in 0..80 {
        world.work();
    }
    assert!(world.state().turns[0].no > 30, "only the newest turns are carried along");
    world.reset("/task:fetch#3", Change::default()).unwrap();
    assert_eq!(world.state().activation, 4, "what came later is gone from its history");
    world.go();
    assert_eq!(world.output(), json!(61));
    assert_eq!(world.times("fetch"), 60 + 37);
    // And once more, now that it has ended; as another run, too.
    world.reset("/task:fetch#50", Change::default()).unwrap();
    world.go();
    let identity = Arc::new(Identity { run: RunId(8), ..(*world.head.identity).clone() });
    world.reset("/task:fetch#10", Change { input: None, identity: Some(identity), keeps: false }).unwrap();
    world.go();
    assert_eq!((world.output(), world.head.identity.run), (json!(61), RunId(8)));
}
