//! Errors: raised, caught, tried again, timed out.

use serde_json::json;
use tidewheel_engine::run::act::{Act, Event, Outcome};
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::journal::{Ending, Fact};
use tidewheel_engine::run::plan::{Backoff, Duration, Flow, Kind};

use super::kit::{Flowchart, Handler, S, World, local, retry, run};

fn handler(handler: Vec<S>) -> Handler {
    Handler { handler: Some(handler), ..Handler::default() }
}

fn seen() -> S {
    S::eval(|scope| local(scope, "error"))
}

#[test]
fn a_raised_error_names_its_statement_and_faults_the_run() {
    let world = run(&[S::Raise(404).named("boom")], json!(null));
    let error = world.error();
    assert_eq!(error["instance"], "/do/0/boom");
    assert_eq!(error["status"], 404);
    assert_eq!(error["type"], "https://serverlessworkflow.io/spec/1.0.0/errors/communication");
    assert_eq!(world.head.phase, Phase::Faulted);
}

#[test]
fn an_error_is_handled_once_and_the_handler_gives_the_output() {
    let caught = S::Try(vec![S::Raise(404).named("boom")], handler(vec![seen()])).named("guard");
    let output = run(&[caught], json!(null)).output();
    assert_eq!(output["instance"], "/do/0/guard/try/0/boom");
}

#[test]
fn the_type_in_a_filter_is_read_in_every_spelling() {
    for kind in [
        "https://open-workflow-specification.org/dsl/errors/types/communication",
        "https://serverlessworkflow.io/dsl/errors/types/communication",
    ] {
        let filter = Some(json!({"type": kind, "status": 404}));
        let caught = S::Try(vec![S::Raise(404)], Handler { filter, ..handler(vec![S::Lit(json!("ok"))]) });
        assert_eq!(run(&[caught], json!(null)).output(), json!("ok"), "{kind}");
    }
    let filter = Some(json!({"status": 503}));
    let not = S::Try(vec![S::Raise(404)], Handler { filter, ..handler(vec![S::Lit(json!("ok"))]) });
    assert_eq!(run(&[not], json!(null)).error()["status"], 404);
}

#[test]
fn without_retry_and_handler_an_error_is_swallowed_and_the_output_is_the_input() {
    let swallow = S::Try(vec![S::push("lost"), S::Raise(1)], Handler::default());
    assert_eq!(run(&[swallow, S::push("on")], json!(["in"])).output(), json!(["in", "on"]));
}

#[test]
fn retries_come_first_then_the_handler_then_the_error_again() {
    let tried = |handler: Option<Vec<S>>| {
        S::Try(vec![S::Task("a")], Handler { retry: Some(retry(2, 100)), handler, ..Handler::default() })
    };
    let mut world = run(&[tried(Some(vec![S::Lit(json!("gave up"))]))], json!(null));
    for _ in 0..2 {
        world.break_task("a", 500);
        assert!(world.tasks("a").is_empty());
        assert_eq!(world.head.phase, Phase::Waiting);
        world.pass(100);
    }
    world.break_task("a", 500);
    assert_eq!(world.output(), json!("gave up"));
    let keys = world.keys();
    assert!(keys.contains(&"/a2@2/task:/do/0/step/try/0/step#0".to_owned()), "{keys:?}");

    let mut world = run(&[tried(None)], json!(null));
    for _ in 0..2 {
        world.break_task("a", 503);
        world.pass(100);
    }
    world.break_task("a", 503);
    assert_eq!(world.error()["status"], 503);

    let mut world = run(&[tried(None)], json!(null));
    world.break_task("a", 503);
    world.pass(100);
    world.complete("a", json!("fine"));
    assert_eq!(world.output(), json!("fine"));
}

fn pauses(policy: tidewheel_engine::run::plan::Retry, failures: usize) -> Vec<u64> {
    let tried = S::Try(vec![S::Task("a")], Handler { retry: Some(policy), ..Handler::default() });
    let mut world = run(&[tried], json!(null));
    let mut pauses = Vec::new();
    for _ in 0..failures {
        world.break_task("a", 500);
        if let Some((due, _)) = world.timers().first() {
            pauses.push(due - world.now);
            world.pass(due - world.now);
        }
    }
    pauses
}

#[test]
fn pauses_grow_as_the_backoff_says_up_to_an_hour() {
    let policy = |backoff, delay| tidewheel_engine::run::plan::Retry { backoff, ..retry(9, delay) };
    assert_eq!(pauses(policy(Backoff::Constant, 100), 3), [100, 100, 100]);
    assert_eq!(pauses(policy(Backoff::Exponential, 100), 4), [100, 200, 400, 800]);
    assert_eq!(pauses(policy(Backoff::Linear, 100), 4), [100, 200, 300, 400]);
    assert_eq!(pauses(policy(Backoff::Exponential, 1_800_000), 3), [1_800_000, 3_600_000, 3_600_000]);
}

#[test]
fn jitter_is_added_after_the_cap_and_is_the_same_each_time() {
    let mut policy = retry(5, 100);
    policy.jitter = Some((Duration::Fixed(10), Duration::Fixed(50)));
    let first = pauses(policy.clone(), 5);
    assert!(first.iter().all(|pause| (110..=150).contains(pause)), "{first:?}");
    assert!(first.windows(2).any(|pair| pair[0] != pair[1]), "{first:?}");
    assert_eq!(first, pauses(policy, 5));
}

#[test]
fn limits_bound_each_attempt_and_all_of_them() {
    let mut policy = retry(9, 100);
    policy.attempt_limit = Some(Duration::Fixed(1_000));
    policy.limit = Some(Duration::Fixed(2_500));
    let tried = S::Try(vec![S::Task("a")], Handler { retry: Some(policy), ..Handler::default() });
    let mut world = run(&[tried], json!(null));
    world.pass(1_050);
    assert!(world.tasks("a").is_empty(), "the attempt was ended and its task cancelled");
    world.pass(60);
    assert_eq!(world.tasks("a").len(), 1, "and there is another");
    world.pass(3_000);
    assert_eq!(world.error()["status"], 408);
    assert!(world.open.is_empty(), "{:?}", world.open);
}

#[test]
fn catch_then_says_what_follows_a_handled_error() {
    let caught = S::Try(vec![S::Raise(1)], handler(vec![S::Lit(json!("handled"))])).with(|_, node| {
        if let Kind::Try { catch, .. } = &mut node.kind {
            catch.then = Some(Flow::End);
        }
    });
    assert_eq!(run(&[caught, S::Lit(json!("never"))], json!(null)).output(), json!("handled"));
}

#[test]
fn conditions_of_a_catch_see_the_error() {
    let caught = |wanted: u16| {
        let caught = S::Try(vec![S::Raise(404)], handler(vec![S::Lit(json!("ok"))])).with(move |chart, node| {
            let when = chart.expr(move |scope| json!(local(scope, "error")["status"] == wanted));
            if let Kind::Try { catch, .. } = &mut node.kind {
                catch.when = Some(when);
            }
        });
        run(&[caught], json!(null))
    };
    assert_eq!(caught(404).output(), json!("ok"));
    assert_eq!(caught(500).error()["status"], 404);
}

#[test]
fn an_error_in_a_handler_goes_outwards() {
    let inner = S::Try(vec![S::Raise(1)], handler(vec![S::Raise(2)]));
    let outer = S::Try(vec![inner], handler(vec![seen()]));
    assert_eq!(run(&[outer], json!(null)).output()["status"], 2);
}

#[test]
fn an_expression_that_fails_raises_an_expression_error() {
    let failing = S::Eval(std::sync::Arc::new(|_| {
        Err(tidewheel_engine::run::eval::EvalError::Failed("cannot index a number".into()))
    }));
    let error = run(&[failing], json!(null)).error();
    assert!(error["type"].as_str().is_some_and(|kind| kind.ends_with("/errors/expression")));
    assert_eq!(error["detail"], "cannot index a number");
    assert_eq!(error["instance"], "/do/0/step");
}

#[test]
fn a_timeout_interrupts_a_statement_and_cancels_what_it_opened() {
    let slow =
        S::Do(vec![S::Fork(false, vec![S::Task("a"), S::Wait(60_000), S::Task("b")])]).timeout(500).named("slow");
    let caught = S::Try(vec![slow], handler(vec![seen()]));
    let mut world = run(&[caught], json!(null));
    assert_eq!(world.open.len(), 4);
    world.pass(500);
    let output = world.output();
    assert_eq!(output["status"], 408);
    assert_eq!(output["instance"], "/do/0/step/try/0/slow");
    assert!(world.open.is_empty(), "{:?}", world.open);
    let cancelled = world.endings().iter().filter(|ending| ending.1 == Ending::Cancelled).count();
    assert_eq!(cancelled, 4, "a, b, the wait and the fork");
}

#[test]
fn what_ends_in_time_is_not_timed_out() {
    let mut world = run(&[S::Task("a").timeout(500), S::Wait(10_000)], json!(null));
    world.pass(400);
    world.complete("a", json!(1));
    assert_eq!(world.timers().len(), 1, "the limit is gone, the wait is there");
    world.pass(10_000);
    assert_eq!(world.output(), json!(1));
}

#[test]
fn the_runs_own_limit_faults_it() {
    let mut chart = Flowchart::of(&[S::Try(vec![S::Task("a")], Handler::default())]);
    chart.plan.timeout = Some(Duration::Fixed(1_000));
    let mut world = World::started(chart, json!(null));
    world.pass(1_000);
    assert_eq!(world.error()["status"], 408);
    assert!(world.open.is_empty());
    world.finished = None;
    world.send(Event::Retry);
    assert_eq!(world.timers(), [(world.now + 1_000, world.timers()[0].1)], "set again in full");
    world.complete("a", json!("late"));
    assert_eq!(world.output(), json!("late"));
}

#[test]
fn a_faulted_run_goes_on_from_the_statement_that_failed() {
    let mut world = run(&[S::push("once"), S::Do(vec![S::Task("a"), S::push("after")])], json!([]));
    world.break_task("a", 500);
    assert_eq!(world.error()["status"], 500);
    world.finished = None;
    world.send(Event::Retry);
    assert_eq!(world.head.phase, Phase::Running);
    world.complete("a", json!(["fixed"]));
    assert_eq!(world.output(), json!(["fixed", "after"]));
    let sets = world.keys().iter().filter(|key| key.contains("set:/do/0")).count();
    assert_eq!(sets, 1, "what had ended is not done again");
}

#[test]
fn a_retry_of_the_run_takes_up_the_other_branches_too() {
    let fork = S::Fork(false, vec![S::Task("a"), S::Do(vec![S::Task("b"), S::push("b2")])]);
    let mut world = run(&[fork], json!([]));
    world.break_task("a", 500);
    assert!(world.open.is_empty(), "the other branch was interrupted");
    world.finished = None;
    world.send(Event::Retry);
    world.complete("a", json!(1));
    world.complete("b", json!([2]));
    assert_eq!(world.output(), json!([1, [2, "b2"]]));
}

#[test]
fn a_failed_way_out_is_gone_again_without_the_work() {
    let flaky = S::Task("a").with(|chart, node| {
        node.output.output_schema = Some(chart.schema(|value| value["ok"] == true));
    });
    let mut world = run(&[flaky], json!(null));
    world.complete("a", json!({"ok": false}));
    assert_eq!(world.error()["status"], 400);
    world.finished = None;
    world.send(Event::Retry);
    assert!(world.tasks("a").is_empty());
    assert_eq!(world.error()["status"], 400);
}

#[test]
fn a_cancelled_task_is_an_error_of_its_statement() {
    let mut world = run(&[S::Task("a")], json!(null));
    let entry = world.task("a");
    world.open.remove(&entry);
    world.send(Event::Done { entry, outcome: Outcome::Cancelled });
    assert!(world.error()["type"].as_str().is_some_and(|kind| kind.ends_with("/errors/runtime")));
}

#[test]
fn cancellation_unwinds_depth_first_runs_no_handler_and_opens_nothing() {
    let caught =
        S::Try(vec![S::Do(vec![S::Task("a")])], Handler { retry: Some(retry(5, 1)), ..handler(vec![S::Task("no")]) });
    let mut world = run(&[caught], json!(null));
    let before = world.acts.len();
    world.send(Event::Cancel { reason: "enough".into() });
    assert_eq!(world.head.phase, Phase::Cancelled);
    assert_eq!(world.head.reason.as_deref(), Some("enough"));
    assert!(world.open.is_empty());
    let opens = |act: &Act| matches!(act, Act::OpenTask(_) | Act::OpenTimer { .. } | Act::StartChild(_));
    assert!(!world.acts[before..].iter().any(opens));
    let Some(segment) = world.segments.last() else { panic!("a turn") };
    let ended: Vec<u64> = segment
        .facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Done { entry, .. } => Some(*entry),
            _ => None,
        })
        .collect();
    assert_eq!(ended, [4, 3, 2, 1], "the innermost first");
    assert_eq!(world.send(Event::Cancel { reason: "again".into() }), 0);
    assert_eq!(world.send(Event::Retry), 0, "what was cancelled stays so");
}
