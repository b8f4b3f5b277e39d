//! Ordering keys.

use std::sync::Arc;

use tidewheel_engine::command::{Hello, Submit};
use tidewheel_engine::config::{Backoff, QueueConfig, RetryPolicy};
use tidewheel_engine::partition::Options;
use tidewheel_engine::ready::lane_key;
use tidewheel_engine::task::{Spec, State};

use crate::bench::{Bench, ordered, task, tight, worker};

fn slow_retry() -> QueueConfig {
    let retry = RetryPolicy { delay_ms: 1_000, backoff: Backoff::Constant, jitter_ms: 0, ..RetryPolicy::default() };
    QueueConfig { retry, ..QueueConfig::default() }
}

#[test]
fn an_ordering_key_is_one_lane_though_some_of_its_tasks_may_share_a_call() {
    let plain = Spec { ordering_key: Some("k".into()), ..Spec::default() };
    let batchable = Spec { batchable: true, ..plain.clone() };
    assert_eq!(lane_key(5, "a", &plain, false), lane_key(1, "b", &batchable, false));
}

#[test]
fn tasks_of_an_ordering_key_never_share_a_call() {
    let mut bench =
        Bench::new(Options::default(), QueueConfig { batch_size: 4, batch_wait_ms: 0, ..QueueConfig::default() });
    let item = || task(Spec { ordering_key: Some("k".into()), batchable: true, ..Spec::default() });
    bench.submit_all(vec![item(), item(), item()]);
    bench.connect("w", worker(8));
    assert_eq!(bench.granted().len(), 1);
}

#[test]
fn the_next_task_of_an_ordering_key_goes_to_a_worker_that_it_fits() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let first = bench.submit(ordered("k"));
    let second = bench.submit(Submit { kind: "b".into(), ..ordered("k") });
    let a = bench.connect("only-a", Hello { types: vec!["a".into()], ..worker(8) });
    assert_eq!(bench.granted_ids(), [first]);
    bench.succeed(a, first);
    assert_eq!(bench.granted_ids(), [], "only a worker of type b may have it");
    bench.connect("only-b", Hello { types: vec!["b".into()], ..worker(8) });
    assert_eq!(bench.granted_ids(), [second]);
}

#[test]
fn a_new_head_of_an_ordering_key_wakes_its_queue() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    bench.connect("only-b", Hello { types: vec!["b".into()], ..worker(8) });
    let blocking = bench.submit(ordered("k"));
    let second = bench.submit(Submit { kind: "b".into(), ..ordered("k") });
    assert_eq!(bench.granted_ids(), []);
    bench.cancel(blocking);
    assert_eq!(bench.granted_ids(), [second]);
}

#[test]
fn a_task_that_backs_off_does_not_lock_its_ordering_key_out() {
    let mut bench = Bench::new(Options::default(), slow_retry());
    let w = bench.connect("w", worker(8));
    let first = bench.submit(ordered("k"));
    bench.submit(ordered("k"));
    bench.granted();
    bench.fail(w, first);
    assert_eq!(bench.granted_ids(), [], "the second one waits for the first one's retry");
    bench.pass(1_000);
    assert_eq!(bench.granted_ids(), [first]);
}

#[test]
fn a_retried_task_and_a_later_one_that_backs_off_do_not_wait_for_each_other() {
    let mut bench = Bench::new(Options::default(), slow_retry());
    let early = bench.submit(ordered("k"));
    bench.cancel(early);
    let w = bench.connect("w", worker(8));
    let late = bench.submit(ordered("k"));
    bench.granted();
    bench.retry(early);
    bench.fail(w, late);
    assert_eq!(bench.granted_ids(), [early], "it was accepted before the one that backs off");
    bench.succeed(w, early);
    bench.pass(1_000);
    assert_eq!(bench.granted_ids(), [late]);
}

#[test]
fn what_was_left_to_the_store_goes_before_what_came_later() {
    let mut bench = Bench::new(tight(), QueueConfig::default());
    let ids: Vec<_> = (0..9).map(|_| bench.submit(ordered("k"))).collect();
    bench.restart();
    let newest = bench.submit(ordered("k"));
    let w = bench.connect("w", worker(8));
    let mut order = Vec::new();
    while let [id] = bench.granted_ids()[..] {
        order.push(id);
        bench.succeed(w, id);
    }
    assert_eq!(order, [ids, vec![newest]].concat());
    assert!(bench.store.tasks.values().all(|t| t.state == State::Succeeded && Arc::strong_count(&t.spec) > 0));
}
