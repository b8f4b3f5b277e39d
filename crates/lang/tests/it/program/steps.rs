//! What a program can ask for, and what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};
use tidewheel_engine::id::Name;
use tidewheel_engine::run::act::{Event, Outcome, StartChild};
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::fault::Fault;
use tidewheel_engine::run::head::{Identity, Phase, Step};
use tidewheel_engine::run::weight::{Part, weights};
use tidewheel_lang::program::ProgramDocument;

use super::kit::{World, command, document, ok, with};

#[test]
fn steps_one_after_another_give_the_output_and_each_key_is_there_once() {
    let mut world = World::new(|heard| {
        for n in 0..3 {
            if let Some(result) = heard.ask("all", &[command("task", "fetch", n)]) {
                return result;
            }
        }
        ok(json!({"last": heard.value("/task:fetch#2"), "from": heard.input}))
    });
    world.start(json!({"a": 1}));
    world.go();
    assert_eq!(world.output(), json!({"last": {"did": "fetch", "args": {"n": 2}}, "from": {"a": 1}}));
    let keys = world.keys();
    let all: BTreeSet<&String> = keys.iter().collect();
    assert_eq!(all.len(), keys.len(), "{keys:?}");
    assert_eq!(world.times("@"), 4);
}

#[test]
fn a_task_of_its_own_package_is_that_of_the_same_version() {
    let mut world = World::new(|heard| {
        heard.ask("all", &[command("task", "fetch", 0), command("task", "other", 0)]).unwrap_or_else(|| ok(json!(1)))
    });
    world.start(json!({}));
    world.work();
    let calls: Vec<Json> = world.tasks.values().map(|task| task.args.json().unwrap().clone()).collect();
    assert_eq!((&calls[0]["package"], &calls[0]["version"]), (&json!("flows"), &json!("2.0.0")));
    assert_eq!(calls[1]["package"], Json::Null);
}

#[test]
fn a_program_that_waits_for_any_goes_on_with_the_first_and_for_all_with_the_last() {
    for (mode, activations) in [("any", 2), ("all", 2)] {
        let mut world = World::new(move |heard| {
            let both = [command("task", "fetch", 0), command("sleep", "", 0)];
            let both = [both[0].clone(), with(both[1].clone(), "opts", json!({"ms": 5_000}))];
            heard.ask(mode, &both).unwrap_or_else(|| ok(json!(heard.done("/sleep:#0").is_some())))
        });
        world.start(json!({}));
        world.go();
        assert_eq!(world.output(), json!(mode == "all"));
        assert_eq!(world.times("@"), activations);
        assert!(world.timers.is_empty(), "what it no longer waits for is closed");
    }
}

#[test]
fn a_step_is_durable_before_the_program_goes_on() {
    let mut world = World::new(|heard| {
        let step = with(command("step", "id", 0), "value", json!(42));
        heard.ask("all", &[step]).unwrap_or_else(|| ok(heard.value("/step:id#0").unwrap().clone()))
    });
    world.start(json!({}));
    world.work();
    assert_eq!(world.times("@"), 2, "its value is in the journal, and the next activation is open");
    world.go();
    assert_eq!(world.output(), json!(42));
}

#[test]
fn a_limit_of_time_ends_what_the_program_waits_for_and_it_hears_of_it() {
    let mut world = World::new(|heard| {
        let task = with(command("task", "slow", 0), "opts", json!({"timeout_ms": 700}));
        heard.ask("all", &[task]).unwrap_or_else(|| ok(heard.done("/task:slow#0").unwrap()["error"]["status"].clone()))
    });
    world.start(json!({}));
    world.work();
    assert!(world.tick());
    assert!(!world.cancelled.is_empty(), "the task is cancelled");
    world.go();
    assert_eq!(world.output(), json!(408));
}

#[test]
fn signals_and_promises_are_taken_once_also_when_they_come_before() {
    let mut world = World::new(|heard| {
        let all = [command("signal", "paid", 0), command("signal", "paid", 1), command("promise", "ok", 0)];
        heard.ask("all", &all).unwrap_or_else(|| {
            ok(json!([heard.value("/signal:paid#0"), heard.value("/signal:paid#1"), heard.value("/promise:ok#0")]))
        })
    });
    world.start(json!({}));
    world.signal("s1", "paid", json!(1));
    world.signal("s1", "paid", json!(1));
    world.work_all();
    assert_eq!(world.head.phase, Phase::Waiting);
    world.signal("s2", "promise:ok", json!("yes"));
    world.signal("s3", "paid", json!(2));
    world.go();
    assert_eq!(world.output(), json!([1, 2, "yes"]));
}

#[test]
fn children_give_their_output_or_their_error() {
    let mut world = World::new(|heard| {
        let all = [command("child", "acme/ship:1.2.0", 0), command("child", "pack", 0)];
        heard.ask("all", &all).unwrap_or_else(|| {
            ok(json!([heard.value("/child:acme/ship:1.2.0#0"), heard.done("/child:pack#0").unwrap()["status"]]))
        })
    });
    world.start(json!({}));
    world.work_all();
    let children: Vec<StartChild> = std::mem::take(&mut world.children).into_values().collect();
    let named = |child: &StartChild| format!("{}/{}:{}", child.namespace, child.name, child.version);
    assert_eq!(children.iter().map(named).collect::<Vec<_>>(), ["acme/ship:1.2.0", "default/pack:latest"]);
    world.feed(Event::Done { entry: children[0].entry, outcome: Outcome::Ok(Data::of(json!("shipped")).0) });
    let fault = Fault(Arc::new(json!({"detail": "no boxes"})));
    world.feed(Event::Done { entry: children[1].entry, outcome: Outcome::Err(fault) });
    world.go();
    assert_eq!(world.output(), json!(["shipped", "error"]));
}

#[test]
fn a_map_opens_as_many_items_as_it_may_and_collects() {
    let mut world = World::new(|heard| {
        let map = with(command("map", "fetch", 0), "args", json!((0..25).collect::<Vec<_>>()));
        let map = with(map, "opts", json!({"concurrency": 4, "batch": 2}));
        heard
            .ask("all", &[map])
            .unwrap_or_else(|| ok(json!(heard.value("/map:fetch#0").unwrap().as_array().unwrap().len())))
    });
    world.start(json!({}));
    world.work();
    assert_eq!(world.tasks.len(), 2, "four items at a time, two in a task");
    world.go();
    assert_eq!(world.output(), json!(25));
    assert_eq!(world.times("@"), 2, "the program hears of it once");
}

#[test]
fn a_program_that_continues_as_new_has_a_short_history_and_one_run() {
    let mut world = World::new(|heard| {
        let round = heard.input.as_u64().unwrap();
        let key = if round == 0 { "/task:fetch#0".to_owned() } else { format!("g{round}/task:fetch#0") };
        let task = with(command("task", "fetch", 0), "key", json!(key));
        match heard.ask("all", &[task]) {
            Some(result) => result,
            None if round < 20 => json!({"v": 1, "commands": [], "end": {"continue": round + 1}}),
            None => ok(json!(heard.turns.len())),
        }
    });
    world.start(json!(0));
    world.go();
    assert_eq!(world.output(), json!(2), "the history is that of the last generation");
    assert_eq!(world.times("fetch"), 21);
}

#[test]
fn a_suspended_program_keeps_what_ends_meanwhile() {
    let mut world = World::new(|heard| {
        for n in 0..2 {
            if let Some(result) = heard.ask("all", &[command("task", "fetch", n)]) {
                return result;
            }
        }
        ok(json!("end"))
    });
    world.start(json!({}));
    world.work();
    world.feed(Event::Suspend { reason: "night".into() });
    world.work_all();
    assert_eq!((world.head.phase, world.times("@")), (Phase::Suspended, 1));
    world.feed(Event::Resume);
    world.go();
    assert_eq!(world.output(), json!("end"));
}

#[test]
fn input_and_output_have_to_fit_their_schemas() {
    let schema = json!({"type": "object", "required": ["n"]});
    let mut world = World::of(ProgramDocument { input: schema.clone(), ..document() }, |_| ok(json!(1)));
    world.start(json!({}));
    world.go();
    assert_eq!(world.error()["status"], 400);
    assert_eq!(world.times("@"), 0, "the program never began");
    let mut world = World::of(ProgramDocument { input: schema.clone(), ..document() }, |_| ok(json!(1)));
    world.start(json!([1]));
    world.go();
    assert_eq!(world.head.phase, Phase::Completed, "arguments by position are for the program to check");
    let mut world = World::of(ProgramDocument { output: schema, ..document() }, |_| ok(json!(1)));
    world.start(json!({}));
    world.go();
    assert_eq!(world.error()["status"], 400);
}

#[test]
fn more_open_at_once_than_is_set_is_an_error_that_says_what_to_do_and_a_fold_does_not_ask_for_the_bound() {
    let mut world = World::new(|heard| {
        let all: Vec<Json> = (0..11).map(|n| command("signal", "s", n)).collect();
        heard.ask("all", &all).unwrap()
    });
    world.bounds.open = 10;
    world.start(json!({}));
    world.go();
    let detail = world.error()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("11 things open at once") && detail.contains("wf.continue_as_new"), "{detail}");
    // The bound was raised, and the run is retried.
    world.bounds.open = 20;
    world.feed(Event::Retry);
    world.work_all();
    assert_eq!(world.head.phase, Phase::Waiting);
}

#[test]
fn state_and_attributes_are_those_of_the_last_activation_that_gave_some() {
    let mut world = World::new(|heard| {
        let mut result = heard.ask("all", &[command("task", "fetch", 0)]).unwrap_or_else(|| ok(json!(1)));
        result["state"] = json!({"turn": heard.turns.len()});
        result["attributes"] = json!({"customer": "acme", "turn": heard.turns.len(), "gone": Json::Null});
        result
    });
    world.start(json!({}));
    world.work();
    let line = world.head.lines.iter().find_map(|line| match line.frames.last().map(|frame| &frame.step) {
        Some(Step::Code(code)) => code.state.clone(),
        _ => None,
    });
    assert_eq!(line.unwrap().json(), Some(&json!({"turn": 1})));
    world.go();
    let attributes: BTreeMap<Name, Json> = world.head.attributes.iter().cloned().collect();
    assert_eq!(attributes.get("turn"), Some(&json!(2)));
    assert!(!attributes.contains_key("gone"));
}

#[test]
fn what_makes_a_run_too_heavy_can_be_asked_and_what_has_no_room_is_an_error_before_it_begins() {
    let mut world = World::new(|heard| {
        let big =
            |n: u32| with(command("signal", "s", n), "args", json!("x".repeat(if n == 7 { 50_000 } else { 40_000 })));
        let mut all: Vec<Json> = (0..30).map(big).collect();
        all.push(command("task", "fetch", 0));
        let wait = ["/task:fetch#0"];
        match (heard.done("/task:fetch#0"), heard.done("/signal:s#29")) {
            (None, _) => json!({"v": 1, "commands": all, "wait": [{"mode": "any", "keys": wait}]}),
            (Some(done), refused) => ok(json!([
                done["status"],
                done["error"]["detail"],
                refused.map(|refused| refused["error"]["detail"].clone())
            ])),
        }
    });
    world.big = 1_000;
    world.start(json!({}));
    world.work();
    let weights = weights(&world.head);
    assert_eq!(weights.iter().map(|weight| weight.bytes).sum::<usize>(), world.head.inline());
    let open = weights.iter().find(|weight| weight.part == Part::Open).unwrap();
    assert!(open.count < 25 && open.bytes < 800_000 && open.largest.0 > 50_000, "{open:?}");
    assert_eq!(&*open.largest.1, "/signal:s#7");
    world.work_all();
    let output = world.output();
    assert_eq!(output[0], "ok", "there is room for results: {output}");
    let said = ["not begun", "more than 768 KiB", "in what is open (", "the largest /signal:s#7 with 49 KiB", "wf.map"];
    assert!(said.iter().all(|said| output[2].as_str().unwrap().contains(said)), "{output}");
}

#[test]
fn ten_thousand_things_at_once_are_taken() {
    let mut world = World::new(|heard| {
        let all: Vec<Json> = (0..10_000).map(|n| command("signal", "s", n)).collect();
        match heard.turns.len() {
            1 => heard.ask("all", &all).unwrap(),
            _ => {
                json!({"v": 1, "commands": [command("task", "fetch", 0)], "wait": [{"mode": "any", "keys": ["/task:fetch#0"]}]})
            }
        }
    });
    world.start(json!({}));
    world.work_all();
    assert_eq!(world.head.phase, Phase::Waiting);
    assert!(world.feed(Event::Cancel { reason: "enough".into() }), "it can be cancelled");
}

#[test]
fn a_program_that_runs_itself_is_told_how_deep_it_was_and_may_end_as_it_likes() {
    let mut world = World::new(|heard| match heard.ask("all", &[command("child", "acme/flow:latest", 0)]) {
        Some(result) => result,
        None => {
            let child = heard.done("/child:acme/flow:latest#0").unwrap();
            ok(json!([child["status"], child["error"]["detail"]]))
        }
    });
    let identity = Identity { depth: 32, ..(*world.head.identity).clone() };
    world.head.identity = identity.into();
    world.start(json!({}));
    world.go();
    let output = world.output();
    assert_eq!(output[0], "error");
    assert!(output[1].as_str().unwrap().contains("32 deep"), "{output}");
    assert!(world.children.is_empty(), "it was not started");
}

#[test]
fn classes_that_a_schema_shares_are_found_in_an_input_by_name() {
    let order = json!({"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]});
    let schema = json!({
        "type": "object", "properties": {"order": {"$ref": "#/$defs/Order"}}, "required": ["order"], "$defs": {"Order": order},
    });
    let output = json!({"$ref": "#/$defs/Order", "$defs": {"Order": order}});
    let document = ProgramDocument { input: schema, output, ..document() };
    for (input, status) in [
        (json!({"order": {"id": "a"}}), None),
        (json!({"order": {"id": 7}}), Some(400)),
        (json!([{"id": "by position, which the program reads itself"}]), None),
    ] {
        let mut world = World::of(document.clone(), |_| ok(json!({"id": "b"})));
        world.start(input.clone());
        world.go();
        match (&world.head.outcome, status) {
            (Some(Outcome::Ok(_)), None) => {}
            (Some(Outcome::Err(fault)), Some(status)) => assert_eq!(fault.0["status"], status, "{fault:?}"),
            (other, _) => panic!("{input} ended as {other:?}"),
        }
    }
}
