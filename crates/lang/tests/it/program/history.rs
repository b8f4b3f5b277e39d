//! How a history is kept, paged and told.

use serde_json::{Value as Json, json};
use tidewheel_engine::run::code::{Bounds, CodeState};
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::fold::Journal;
use tidewheel_engine::run::history;
use tidewheel_engine::run::journal::Taped;

use super::kit::{Heard, World, chain, command, name_of, ok, with};

#[test]
fn a_long_history_caps_no_run_and_its_later_steps_cost_what_its_first_did() {
    let mut world = World::new(chain(500));
    world.bounds = Bounds::default();
    world.start(json!({}));
    let mut sizes = Vec::new();
    let mut activations = 0;
    while world.head.outcome.is_none() {
        let sent = world.tasks.values().find(|task| name_of(task) == "@").map(|task| task.args.stored());
        if let Some(sent) = sent {
            activations += 1;
            sizes.push(sent + world.head.inline());
        }
        assert!(world.work());
    }
    assert_eq!((world.output(), activations), (json!(501), 501));
    let most = |part: &[usize]| *part.iter().max().unwrap();
    let (early, late) = (most(&sizes[..200]), most(&sizes[300..]));
    assert!(late <= early + early / 10, "{early} bytes early, {late} late");
    let pages = world.stored.values().filter(|value| value.get("turns").is_some()).count();
    assert!(pages > 2 && pages < 50, "{pages} pages");
}

#[test]
fn a_history_is_whole_before_and_after_the_end_of_its_run() {
    let mut world = World::new(chain(20));
    world.start(json!({}));
    for _ in 0..30 {
        world.work();
    }
    let written = |world: &World, state: &CodeState| {
        let mut turns = world.whole(&history::written(state, &world.head.identity, world.head.started_ms));
        // The activation at work has asked for nothing yet.
        turns.retain(|turn| turn.get("opened").is_some());
        turns
    };
    let before = written(&world, world.state());
    world.go();
    let (segments, definition) = (&world.segments[..], &*world.definition);
    let (_, state) =
        Journal { from: None, segments, definition, earlier: &world.earlier, blobs: &world.stored }.program().unwrap();
    let after = written(&world, &state.unwrap());
    assert_eq!((before.len() >= 14, after.len()), (true, 21));
    assert_eq!(after[..before.len()], before[..]);
}

#[test]
fn what_leaves_a_run_is_named_by_its_journal_and_stored_in_the_same_turn() {
    let mut world = World::new(chain(20));
    world.start(json!({}));
    world.go();
    let mut named = 0;
    for segment in &world.segments {
        for taped in &segment.tape {
            let Taped::Page { page, first } = taped else { continue };
            let Some(Data::Ref { hash, .. }) = segment.value(*page) else { panic!("a page is a reference") };
            let page = &world.stored[hash];
            let turns = page["turns"].as_array().unwrap();
            assert_eq!(page["first"].as_u64().unwrap() + turns.len() as u64, *first);
            named += 1;
        }
    }
    assert_eq!(named, world.stored.len());
    assert!(world.most <= 3, "{} turns were carried along", world.most);
}

/// Sixty tasks at once; how many turns it took, and how many ends it heard of.
fn wide(heard: &Heard<'_>) -> Json {
    let all: Vec<Json> = (0..60).map(|n| command("task", "fetch", n)).collect();
    match heard.ask("all", &all) {
        Some(result) => result,
        None => {
            let ends = heard.turns.iter().flat_map(|turn| turn["done"].as_array().unwrap()).count();
            ok(json!({"turns": heard.turns.len(), "ends": ends}))
        }
    }
}

#[test]
fn large_values_that_come_together_are_not_carried_along_and_are_told_once_each() {
    let mut world = World::new(wide);
    world.big = 60_000;
    world.start(json!({}));
    let mut most = 0;
    while world.head.outcome.is_none() {
        assert!(world.work());
        most = most.max(world.head.inline());
    }
    assert_eq!(world.output(), json!({"turns": 2, "ends": 60}));
    assert!(most < 400_000, "{most} bytes were carried along");
}

#[test]
fn more_than_one_turn_can_tell_is_told_in_several() {
    let mut world = World::new(wide);
    world.big = 15_000;
    world.failing.insert("fetch".into(), 60);
    world.start(json!({}));
    world.go();
    assert_eq!(world.output(), json!({"turns": 3, "ends": 60}));
}

#[test]
fn a_value_that_looks_like_the_name_of_another_one_is_told_as_it_is() {
    let mut world = World::new(|heard| {
        let step = with(command("step", "odd", 0), "value", json!({"$ref": "sha256:nothing", "size": 5}));
        heard.ask("all", &[step]).unwrap_or_else(|| ok(heard.value("/step:odd#0").unwrap().clone()))
    });
    world.start(json!({}));
    world.go();
    assert_eq!(world.output(), json!({"$ref": "sha256:nothing", "size": 5}));
}
