//! Listening.

use serde_json::{Value as Json, json};
use tidewheel_engine::run::act::{Act, Event};
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::plan::{Filter, Foreach, Kind, Listen, Read, Strategy, Until, Yield};

use super::kit::{Flowchart, S, local, run};

fn filter(chart: &mut Flowchart, kind: &str) -> Filter {
    Filter { with: vec![("type".into(), chart.lit(json!(kind)))], correlate: Vec::new() }
}

fn listen(make: impl Fn(&mut Flowchart) -> Strategy + Send + Sync + 'static) -> S {
    S::kind(move |chart, _| Kind::Listen(Listen { strategy: make(chart), read: Read::Data, foreach: None }))
}

#[test]
fn one_event_gives_an_array_of_one() {
    let mut world = run(&[listen(|chart| Strategy::One(filter(chart, "a")))], json!(null));
    assert_eq!(world.head.phase, Phase::Waiting);
    world.event("b", "1", json!("not this"));
    world.event("a", "2", json!("this"));
    assert_eq!(world.output(), json!(["this"]));
}

#[test]
fn an_event_that_came_before_the_listen_is_taken_and_only_once() {
    let two = [
        S::Task("first"),
        listen(|chart| Strategy::One(filter(chart, "a"))),
        listen(|chart| Strategy::One(filter(chart, "a"))),
    ];
    let mut world = run(&two, json!(null));
    assert_eq!(world.event("a", "1", json!(1)), 1);
    assert_eq!(world.event("a", "1", json!(1)), 1, "a duplicate is taken note of, and no more");
    assert_eq!(world.head.inbox.len(), 1);
    world.complete("first", json!(null));
    assert_eq!(world.head.phase, Phase::Waiting, "the second one waits");
    world.event("a", "2", json!(2));
    assert_eq!(world.output(), json!([2]));
}

#[test]
fn a_listen_without_buffer_takes_only_what_comes_while_it_waits() {
    let live = listen(|chart| Strategy::One(filter(chart, "a"))).with(|_, node| node.hints.live_only = true);
    let mut world = run(&[S::Task("first"), live], json!(null));
    world.event("a", "1", json!("early"));
    world.complete("first", json!(null));
    assert!(world.finished.is_none());
    world.event("a", "2", json!("live"));
    assert_eq!(world.output(), json!(["live"]));
}

#[test]
fn any_ends_with_the_first_and_all_needs_one_of_each() {
    let mut any =
        run(&[listen(|chart| Strategy::Any(vec![filter(chart, "a"), filter(chart, "b")], None))], json!(null));
    any.event("b", "1", json!(1));
    assert_eq!(any.output(), json!([1]));
    let mut all = run(&[listen(|chart| Strategy::All(vec![filter(chart, "a"), filter(chart, "b")]))], json!(null));
    all.event("b", "1", json!(1));
    all.event("b", "2", json!(2));
    assert!(all.finished.is_none());
    all.event("a", "3", json!(3));
    assert_eq!(all.output(), json!([1, 3]), "in the order in which they came");
    let mut every = run(&[listen(|_| Strategy::Any(Vec::new(), None))], json!(null));
    every.event("whatever", "1", json!(1));
    assert_eq!(every.output(), json!([1]));
}

#[test]
fn any_until_a_condition_or_an_event() {
    let counted = listen(|chart| {
        let three = chart.expr(|scope| json!(scope.dot().as_array().map_or(0, Vec::len) >= 3));
        Strategy::Any(vec![filter(chart, "a")], Some(Until::Condition(three)))
    });
    let mut world = run(&[counted], json!(null));
    for n in 1..=3 {
        world.event("a", &n.to_string(), json!(n));
    }
    assert_eq!(world.output(), json!([1, 2, 3]));
    let until = listen(|chart| {
        let stop = Strategy::One(filter(chart, "stop"));
        Strategy::Any(vec![filter(chart, "a")], Some(Until::Events(Box::new(stop))))
    });
    let mut world = run(&[until], json!(null));
    world.event("a", "1", json!(1));
    world.event("stop", "2", json!("not in the output"));
    assert_eq!(world.output(), json!([1]));
}

#[test]
fn correlation_by_expectation_and_by_the_first_value() {
    let by = |expect: Option<&'static str>| {
        listen(move |chart| {
            let from = chart.expr(|scope| scope.dot()["data"]["order"].clone());
            let expect = expect.map(|expect| chart.lit(json!(expect)));
            let correlate = vec![("order".into(), from, expect)];
            let of = |chart: &mut Flowchart, kind| Filter { correlate: correlate.clone(), ..filter(chart, kind) };
            Strategy::All(vec![of(chart, "a"), of(chart, "b")])
        })
    };
    let mut world = run(&[by(Some("7"))], json!(null));
    world.event("a", "1", json!({"order": "8"}));
    world.event("a", "2", json!({"order": "7"}));
    world.event("b", "3", json!({"order": "7"}));
    assert_eq!(world.output(), json!([{"order": "7"}, {"order": "7"}]));
    let mut world = run(&[by(None)], json!(null));
    world.event("a", "1", json!({"order": "8"}));
    world.event("b", "2", json!({"order": "7"}));
    assert!(world.finished.is_none(), "the first value is what is expected");
    world.event("b", "3", json!({"order": "8"}));
    assert_eq!(world.output(), json!([{"order": "8"}, {"order": "8"}]));
}

#[test]
fn an_event_on_which_a_filter_fails_does_not_fit_and_hurts_nobody() {
    let odd = listen(|chart| {
        let hot = chart.fallible(|scope| match scope.dot()["temperature"].as_i64() {
            Some(n) => Ok(json!(n > 38)),
            None => Err(tidewheel_engine::run::eval::EvalError::Failed("no number".into())),
        });
        Strategy::One(Filter { with: vec![("data".into(), hot)], correlate: Vec::new() })
    });
    let mut world = run(&[odd], json!(null));
    world.event("x", "1", json!("nonsense"));
    world.event("x", "2", json!({"temperature": 37}));
    world.event("x", "3", json!({"temperature": 39}));
    assert_eq!(world.output(), json!([{"temperature": 39}]));
}

#[test]
fn foreach_runs_first_in_first_out_and_gives_the_outputs() {
    let each = S::kind(|chart, at| {
        let list = chart.list(
            &[
                S::Task("work"),
                S::eval(|scope| json!([local(scope, "event"), local(scope, "n"), scope.dot().into_owned()])),
            ],
            &format!("{at}/foreach/do"),
        );
        let stop = Until::Events(Box::new(Strategy::One(filter(chart, "stop"))));
        let strategy = Strategy::Any(vec![filter(chart, "a")], Some(stop));
        let foreach = Foreach { item: "event".into(), at: "n".into(), body: Some(list), output: Yield::default() };
        Kind::Listen(Listen { strategy, read: Read::Data, foreach: Some(foreach) })
    });
    let mut world = run(&[each], json!(null));
    world.event("a", "1", json!("x"));
    world.event("a", "2", json!("y"));
    assert_eq!(world.tasks("work").len(), 1, "one after the other");
    world.complete("work", json!("did x"));
    world.complete("work", json!("did y"));
    world.event("stop", "3", json!(null));
    assert_eq!(world.output(), json!([["x", 0, "did x"], ["y", 1, "did y"]]));
}

#[test]
fn envelopes_and_signals() {
    let envelope = S::kind(|chart, _| {
        Kind::Listen(Listen { strategy: Strategy::One(filter(chart, "go")), read: Read::Envelope, foreach: None })
    });
    let mut world = run(&[envelope], json!(null));
    let data = world.data(json!({"by": "me"}));
    world.send(Event::Signal { id: "s1".into(), kind: "go".into(), data });
    let output: Json = world.output();
    assert_eq!(output[0]["type"], "go");
    assert_eq!(output[0]["data"], json!({"by": "me"}));
}

#[test]
fn subscriptions_stand_from_the_start_and_end_with_the_listen() {
    let mut world = run(&[S::Task("first"), listen(|chart| Strategy::One(filter(chart, "a")))], json!(null));
    let of = |acts: &[Act]| -> Vec<u64> {
        acts.iter()
            .filter_map(|act| match act {
                Act::Subscribe { entry, filters } => {
                    assert_eq!(filters[0].kind.as_deref(), Some("a"));
                    Some(*entry)
                }
                _ => None,
            })
            .collect()
    };
    assert_eq!(of(&world.acts), [0]);
    world.complete("first", json!(null));
    assert_eq!(of(&world.acts).len(), 2);
    world.event("a", "1", json!(1));
    assert!(world.acts.iter().any(|act| matches!(act, Act::Unsubscribe { .. })));
}

#[test]
fn a_full_inbox_puts_events_off() {
    let mut world = run(&[S::Task("first")], json!(null));
    world.checked = false;
    for n in 0..1_001 {
        world.event("a", &n.to_string(), json!(format!("{n}{}", "y".repeat(4_000))));
    }
    assert!(world.head.inline() < 512 * 1024, "{}", world.head.inline());
    assert_eq!(world.fold(), world.head);
    assert_eq!(world.head.inbox.len(), 1_000);
    assert!(matches!(world.acts.last(), Some(Act::Defer { .. })));
}

#[test]
fn a_listen_that_a_fault_interrupted_goes_on_with_what_it_has() {
    let both =
        S::Fork(false, vec![listen(|chart| Strategy::All(vec![filter(chart, "a"), filter(chart, "b")])), S::Task("t")]);
    let mut world = run(&[both], json!(null));
    world.event("a", "1", json!(1));
    world.break_task("t", 500);
    world.finished = None;
    world.send(Event::Retry);
    world.complete("t", json!("t"));
    world.event("b", "2", json!(2));
    assert_eq!(world.output(), json!([[1, 2], "t"]));
}

#[test]
fn a_listen_that_hears_for_ever_does_not_fill_the_run() {
    let until = |touches: bool| {
        listen(move |chart| {
            let enough = chart.expr(move |scope| json!(touches && scope.dot().as_array().map_or(0, Vec::len) >= 30));
            Strategy::Any(vec![filter(chart, "a")], Some(Until::Condition(enough)))
        })
    };
    let mut world = run(&[until(false)], json!(null));
    world.checked = false;
    for n in 0..100 {
        world.event("a", &n.to_string(), json!("x".repeat(30_000)));
    }
    assert!(world.head.inline() < 128 * 1024, "{}", world.head.inline());
    assert_eq!(world.fold(), world.head);
    let mut world = run(&[until(true)], json!(null));
    world.checked = false;
    for n in 0..30 {
        world.event("a", &n.to_string(), json!(format!("{n}{}", "x".repeat(30_000))));
    }
    let output = world.output();
    let mut at_once = run(&[S::Task("first"), until(true)], json!(null));
    at_once.checked = false;
    for n in 0..30 {
        at_once.event("a", &n.to_string(), json!(format!("{n}{}", "x".repeat(30_000))));
    }
    at_once.complete("first", json!(null));
    assert_eq!(at_once.output(), output, "events that were there before, in few turns");
    assert_eq!(at_once.fold(), at_once.head);
    assert_eq!(output.as_array().map(Vec::len), Some(30));
    assert!(output[29].as_str().is_some_and(|text| text.starts_with("29x")));
}
