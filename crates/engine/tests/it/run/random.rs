//! Random workflows and random orders of events. [`super::kit::World`] checks after each turn that the fold of the journal is
//! the head, that keys are unique, that entries end once, and that nothing begins inside of what has ended.

use proptest::prelude::*;
use serde_json::json;
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::head::{Phase, Seq};
use tidewheel_engine::run::journal::Segment;
use tidewheel_engine::run::plan::{
    Filter, Flow, Foreach, Kind, Listen, ParentClose, Read, Strategy as Events, Until, Yield,
};

use super::kit::{Flowchart, Handler, Outside, S, World, error, retry};

/// Waits for so many events of type `k`: one for each filter, or until there are so many; each is worked on.
fn listen(all: bool, count: usize) -> S {
    S::kind(move |chart, at| {
        let kind = chart.lit(json!("k"));
        let filter = || Filter { with: vec![("type".into(), kind)], correlate: Vec::new() };
        let body = chart.list(&[S::Task("heard")], &format!("{at}/foreach/do"));
        let foreach = Foreach { item: "event".into(), at: "n".into(), body: Some(body), output: Yield::default() };
        let strategy = if all {
            Events::All((0..count).map(|_| filter()).collect())
        } else {
            let enough = chart.expr(move |scope| json!(scope.dot().as_array().map_or(0, Vec::len) >= count));
            Events::Any(vec![filter()], Some(Until::Condition(enough)))
        };
        Kind::Listen(Listen { strategy, read: Read::Data, foreach: (!all).then_some(foreach) })
    })
}

fn statement() -> impl Strategy<Value = S> {
    let leaf = prop_oneof![
        Just(S::push("x")),
        Just(S::Lit(json!({"k": [1, 2]}))),
        Just(S::Task("t")),
        Just(S::Task("u").timeout(30)),
        (1u64..50).prop_map(S::Wait),
        (400u16..405).prop_map(S::Raise),
        Just(S::Emit(json!({"type": "e"}))),
        Just(S::Child(ParentClose::Cancel, true)),
        Just(S::Child(ParentClose::Wait, false)),
        (0usize..5, 1u32..4, 1u32..3, any::<bool>()).prop_map(|(n, concurrency, batch, collect)| S::Map {
            items: (0..n).collect(),
            concurrency,
            batch,
            collect
        }),
        (any::<bool>(), 1usize..3).prop_map(|(all, count)| listen(all, count)),
        Just(listen(true, 2).timeout(25)),
        Just(S::Saga(vec![("t", true), ("u", false), ("v", true)])),
        Just(S::Saga(vec![("t", true), ("u", true)]).timeout(30)),
        Just(S::push("end").then(Flow::End)),
        Just(S::push("exit").then(Flow::Exit)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            list.clone().prop_map(S::Do),
            list.clone().prop_map(|list| S::Do(list).timeout(40)),
            (0usize..3, list.clone()).prop_map(|(n, list)| S::For((0..n).collect(), list)),
            (any::<bool>(), list.clone()).prop_map(|(compete, list)| S::Fork(compete, list)),
            (list.clone(), prop::option::of(list), prop::option::of((0u32..3, 0u64..20))).prop_map(
                |(body, handler, policy)| {
                    let retry = policy.map(|(count, delay)| retry(count, delay));
                    S::Try(body, Handler { filter: None, retry, handler })
                }
            ),
        ]
    })
}

/// What happens next, from a number.
fn happen(world: &mut World, dice: u32, done: &mut Vec<Event>) {
    let open: Vec<Seq> = world.open.keys().copied().collect();
    match dice % 16 {
        0 => world.send(Event::Suspend { reason: "r".into() }),
        1 | 2 => world.send(Event::Resume),
        3 if dice % 64 == 3 => world.send(Event::Cancel { reason: "c".into() }),
        3 | 4 => world.event("k", &(dice % 19).to_string(), json!(dice)),
        5 => match done.last() {
            Some(event) => {
                let before = world.head.clone();
                let event = event.clone();
                let turns = world.send(event);
                assert!(turns == 0 || world.head.phase == Phase::Suspended, "what came before changes nothing");
                if turns == 0 {
                    assert_eq!(world.head, before);
                }
                turns
            }
            None => 0,
        },
        6 => {
            world.finished = None;
            world.send(Event::Retry)
        }
        7 => {
            world.pass(u64::from(dice % 40));
            0
        }
        _ if open.is_empty() => 0,
        _ => end(world, open[dice as usize / 16 % open.len()], dice, done),
    };
}

fn end(world: &mut World, entry: Seq, dice: u32, done: &mut Vec<Event>) -> usize {
    let outcome = |world: &mut World| match dice % 5 {
        0 => Outcome::Err(error(500)),
        _ => Outcome::Ok(world.data(json!([dice % 3]))),
    };
    let event = match world.open.get(&entry).cloned() {
        Some(Outside::Task(_) | Outside::Child(_)) => {
            world.open.remove(&entry);
            Event::Done { entry, outcome: outcome(world) }
        }
        Some(Outside::Items(items)) => {
            let (first, count) = items[dice as usize % items.len()];
            let outcomes = (0..count).map(|_| outcome(world)).collect();
            if let Some(Outside::Items(all)) = world.open.get_mut(&entry) {
                all.retain(|items| items.0 != first);
                if all.is_empty() {
                    world.open.remove(&entry);
                }
            }
            Event::Items { entry, first, outcomes }
        }
        Some(Outside::Timer(due)) => {
            let ms = due.saturating_sub(world.now);
            world.pass(ms);
            return 0;
        }
        None => return 0,
    };
    done.push(event.clone());
    world.send(event)
}

fn play(statements: &[S], dice: &[u32]) -> World {
    let mut world = World::started(Flowchart::of(statements), json!([]));
    let mut done = Vec::new();
    for roll in dice {
        happen(&mut world, *roll, &mut done);
    }
    world
}

/// Lets everything come to its end.
fn settle(world: &mut World) {
    world.send(Event::Resume);
    for round in 0..400 {
        if world.head.phase.ended() {
            break;
        }
        let Some(entry) = world.open.keys().next().copied() else {
            world.event("k", &format!("late {round}"), json!(round));
            continue;
        };
        end(world, entry, 16 * round + 1, &mut Vec::new());
    }
}

/// A join fires once, and a run that nothing holds up ends, with nothing left open.
fn judge_end(world: &World) {
    assert!(world.head.phase.ended(), "stuck in {:?} with {:?}", world.head.phase, world.head.open);
    assert!(world.head.open.is_empty());
    let left: Vec<_> = world.open.values().collect();
    assert!(left.is_empty(), "left open: {left:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_folds_and_ends_whatever_comes_in_whatever_order(
        statements in prop::collection::vec(statement(), 1..4),
        dice in prop::collection::vec(any::<u32>(), 0..40),
    ) {
        let mut world = play(&statements, &dice);
        settle(&mut world);
        judge_end(&world);
    }

    #[test]
    fn the_same_events_give_the_same_journal(
        statements in prop::collection::vec(statement(), 1..3),
        dice in prop::collection::vec(any::<u32>(), 0..25),
    ) {
        let (first, second) = (play(&statements, &dice), play(&statements, &dice));
        prop_assert_eq!(&first.segments, &second.segments);
        prop_assert_eq!(&first.acts, &second.acts);
        prop_assert_eq!(&first.head, &second.head);
    }

    #[test]
    fn a_run_can_go_back_to_any_of_its_keys(
        statements in prop::collection::vec(statement(), 1..3),
        dice in prop::collection::vec(any::<u32>(), 0..20),
        which in any::<prop::sample::Index>(),
    ) {
        let mut world = play(&statements, &dice);
        // An undo is no moment to go back to.
        let keys: Vec<String> = world.keys().into_iter().filter(|key| !key.contains("/undo:")).collect();
        let key = which.get(&keys).clone();
        let segments: Vec<Segment> = world.segments.clone();
        let turn = world.journal(&segments).reset(&world.head, &key, Default::default(), world.now, &mut super::kit::FUEL.clone());
        let turn = turn.expect("every key can be gone back to");
        world.finished = None;
        if world.commit(turn) {
            world.send(Event::Continue);
        }
        prop_assert_eq!(world.fold(), world.head.clone());
        settle(&mut world);
        judge_end(&world);
    }
}
