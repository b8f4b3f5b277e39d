//! Folds, resets, forks of runs, checkpoints.

use std::sync::Arc;

use serde_json::json;
use tidewheel_engine::id::RunId;
use tidewheel_engine::run::act::Act;
use tidewheel_engine::run::fold::{Change, FoldError};
use tidewheel_engine::run::head::{Identity, Phase};
use tidewheel_engine::run::journal::{EntryKind, Fact};

use super::kit::{FUEL, Flowchart, Handler, S, World, run};

fn reset(world: &World, key: &str, change: Change) -> Result<tidewheel_engine::run::turn::Turn, FoldError> {
    let segments = world.segments.clone();
    world.journal(&segments).reset(&world.head, key, change, world.now, &mut FUEL.clone())
}

#[test]
fn a_journal_with_a_gap_or_another_plan_is_refused() {
    let mut world = run(&[S::Task("a"), S::push("x")], json!([]));
    world.complete("a", json!([]));
    let fold = |segments: &[_]| world.journal(segments).fold();
    assert_eq!(fold(&world.segments[1..]), Err(FoldError::NoStart));
    let twice = [world.segments[0].clone(), world.segments[0].clone()];
    assert_eq!(fold(&twice), Err(FoldError::Gap { expected: 2, found: 1 }));
    let mut wrong = world.segments.clone();
    wrong[1].facts.pop();
    assert_eq!(fold(&wrong), Err(FoldError::Diverged { turn: 2, what: "the facts" }));
    let other = World::new(Flowchart::of(&[S::push("y"), S::Task("a")]));
    let journal = tidewheel_engine::run::fold::Journal { segments: &world.segments, ..other.journal(&[]) };
    assert!(matches!(journal.fold(), Err(FoldError::Diverged { .. })));
}

#[test]
fn a_fold_evaluates_nothing() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let mut world =
        run(&[S::eval(move |_| json!(counted.fetch_add(1, Ordering::Relaxed))), S::Task("a"), S::push("x")], json!([]));
    world.complete("a", json!([]));
    let before = count.load(Ordering::Relaxed);
    world.fold();
    assert_eq!(count.load(Ordering::Relaxed), before);
    assert_eq!(before, 1);
}

#[test]
fn a_fold_may_begin_at_a_whole_head() {
    let mut world = run(&[S::Task("a"), S::Task("b"), S::push("x")], json!([]));
    let from = world.head.clone();
    world.complete("a", json!([]));
    world.complete("b", json!([]));
    let journal = tidewheel_engine::run::fold::Journal { from: Some(&from), ..world.journal(&world.segments[1..]) };
    assert_eq!(journal.fold(), Ok(world.head.clone()));
}

#[test]
fn a_reset_goes_back_to_a_key_in_the_middle_of_a_turn_and_evaluates_only_what_is_new() {
    let mut world = run(
        &[S::Task("a").named("a"), S::push("one").named("one"), S::push("two").named("two"), S::Task("b").named("b")],
        json!([]),
    );
    world.complete("a", json!(["a"]));
    world.complete("b", json!("wrong"));
    assert_eq!(world.output(), json!("wrong"));
    world.finished = None;
    let input = world.data(json!(["changed"]));
    let turn =
        reset(&world, "/set:/do/2/two#0", Change { input: Some(input), identity: None, keeps: false }).expect("a turn");
    assert!(turn.snapshot);
    world.commit(turn);
    let entry = world.task("b");
    let Some(super::kit::Outside::Task(task)) = world.open.get(&entry) else { panic!() };
    assert_eq!(world.read(&task.args), json!(["changed", "two"]));
    world.finish(entry, json!("right"));
    assert_eq!(world.output(), json!("right"));
    assert_eq!(world.head.phase, Phase::Completed);
}

#[test]
fn a_reset_cancels_what_is_open_and_opens_again_what_was() {
    let fork = S::Fork(
        false,
        vec![S::Task("slow").named("slow"), S::Do(vec![S::Task("x").named("x"), S::Task("y").named("y")])],
    );
    let mut world = run(&[fork], json!(null));
    let slow = world.task("slow");
    world.complete("x", json!(1));
    let old = world.task("y");
    let key = world.keys().into_iter().find(|key| key.contains("/x#0")).expect("x");
    let turn = reset(&world, &key, Change::default()).expect("a turn");
    let cancels: Vec<u64> = turn
        .acts
        .iter()
        .filter_map(|act| match act {
            Act::CancelTask { entry } => Some(*entry),
            _ => None,
        })
        .collect();
    assert_eq!(cancels, [slow, old]);
    world.commit(turn);
    assert_ne!(world.task("slow"), slow, "a new entry, so that the old result is not taken for it");
    world.complete("slow", json!("s"));
    world.complete("x", json!(2));
    world.complete("y", json!("y"));
    assert_eq!(world.output(), json!(["s", "y"]));
}

#[test]
fn a_fork_of_a_run_is_another_run_with_the_same_past() {
    let mut world = run(&[S::Task("a").named("a"), S::Task("b").named("b")], json!(null));
    world.complete("a", json!(1));
    let identity = Identity { run: RunId(78), ..(*world.head.identity).clone() };
    let input = world.data(json!("other"));
    let change = Change { input: Some(input), identity: Some(identity.into()), keeps: false };
    let turn = reset(&world, "/task:/do/1/b#0", change).expect("a turn");
    assert!(!turn.acts.iter().any(|act| matches!(act, Act::CancelTask { .. })), "the first run stays as it is");
    assert_eq!(turn.head.identity.run, RunId(78));
    assert!(turn.acts.iter().any(|act| matches!(act, Act::OpenTask(task) if world.read(&task.args) == json!("other"))));
}

#[test]
fn events_that_came_later_are_there_again_after_a_reset() {
    let mut world = run(&[S::Task("a").named("a")], json!(null));
    world.event("k", "1", json!(1));
    world.complete("a", json!(null));
    world.finished = None;
    let turn = reset(&world, "/task:/do/0/a#0", Change::default()).expect("a turn");
    world.commit(turn);
    assert_eq!(world.head.inbox.len(), 1);
}

#[test]
fn an_unknown_key_is_refused() {
    let world = run(&[S::Task("a")], json!(null));
    assert_eq!(reset(&world, "/task:/do/9/no#0", Change::default()), Err(FoldError::NoKey));
}

#[test]
fn a_checkpoint_leaves_one_entry_of_a_finished_loop_and_names_the_oldest_key() {
    let items: Vec<u64> = (0..50).collect();
    let mut world = run(
        &[S::For(json!(items), vec![S::push("x")]).named("loop"), S::Task("a"), S::Task("b").named("b")],
        json!([]),
    );
    world.complete("a", json!([]));
    let stored: Vec<Vec<u8>> = world.segments.iter().map(|segment| format!("{segment:?}").into_bytes()).collect();
    let stored: Vec<&[u8]> = stored.iter().map(Vec::as_slice).collect();
    let checkpoint = world.journal(&world.segments[..1]).checkpoint(None, &stored[..1]).expect("a checkpoint");
    let opened: Vec<EntryKind> = checkpoint
        .facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Opened { key, .. } => Some(key.kind),
            _ => None,
        })
        .collect();
    assert_eq!(opened, [EntryKind::Run, EntryKind::For, EntryKind::Task]);
    assert_eq!(checkpoint.dropped, 100);
    let journal =
        tidewheel_engine::run::fold::Journal { from: Some(&checkpoint.head), ..world.journal(&world.segments[1..]) };
    let mut folded = journal.fold().expect("it goes on from there");
    assert_eq!(folded.compacted.map(|compacted| compacted.turns), Some(1));
    let refused = journal.reset(&folded, "/for:/do/0/loop#0", Change::default(), world.now, &mut FUEL.clone());
    assert_eq!(refused, Err(FoldError::Compacted(Some("/task:/do/2/b#0".into()))));
    folded.compacted = None;
    assert_eq!(folded, world.head);
}

#[test]
fn a_retried_run_folds_too() {
    let caught = S::Try(vec![S::Task("a")], Handler { retry: Some(super::kit::retry(1, 10)), ..Handler::default() });
    let mut world = run(&[caught], json!(null));
    world.break_task("a", 500);
    world.pass(10);
    world.break_task("a", 500);
    world.finished = None;
    world.send(tidewheel_engine::run::act::Event::Retry);
    assert_eq!(world.fold(), world.head);
}

#[test]
fn a_reset_goes_back_to_the_last_time_that_its_key_was_opened() {
    let mut world = run(&[S::Task("a").named("a"), S::Task("b").named("b"), S::Task("c").named("c")], json!(null));
    world.complete("a", json!(1));
    world.complete("b", json!("wrong"));
    let go_back = |world: &mut World, key: &str| {
        let turn = reset(world, key, Change::default()).expect("a turn");
        world.finished = None;
        world.commit(turn);
    };
    go_back(&mut world, "/task:/do/1/b#0");
    world.complete("b", json!("right"));
    world.break_task("c", 500);
    go_back(&mut world, "/task:/do/2/c#0");
    let Some(super::kit::Outside::Task(task)) = world.open.get(&world.task("c")) else { panic!() };
    assert_eq!(world.read(&task.args), json!("right"), "what the first reset brought is not lost");
    world.complete("c", json!(3));
    world.fold();
}

#[test]
fn a_journal_with_many_resets_is_folded_in_the_time_that_its_turns_take() {
    let mut world = run(&[S::Task("a").named("a"), S::Task("b").named("b")], json!(null));
    world.complete("a", json!(1));
    for time in 0..200 {
        let turn = reset(&world, "/task:/do/1/b#0", Change::default()).expect("a turn");
        world.finished = None;
        world.commit(turn);
        world.complete("b", json!(time));
    }
    assert_eq!(world.output(), json!(199));
    world.fold();
}
