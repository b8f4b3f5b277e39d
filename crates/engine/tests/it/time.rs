//! Due times, times to live, clocks.

use tidewheel_engine::Command;
use tidewheel_engine::command::Submit;
use tidewheel_engine::config::{QueueConfig, QueueState};
use tidewheel_engine::id::RequestId;
use tidewheel_engine::partition::Options;
use tidewheel_engine::task::{Spec, State};
use tidewheel_engine::time::Now;
use tidewheel_engine::view::View;

use crate::bench::{Bench, START, task, worker};

fn living(ttl_ms: u64) -> QueueConfig {
    QueueConfig { ttl_ms, ..QueueConfig::default() }
}

#[test]
fn an_expired_task_that_is_retried_does_not_expire_again_even_after_a_restart() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let id = bench.submit(task(Spec { ttl_ms: 1_000, ..Spec::default() }));
    bench.pass(2_000);
    assert_eq!(bench.state(id), State::Expired);
    bench.retry(id);
    assert_eq!(bench.state(id), State::Queued);
    bench.restart();
    bench.pass(2_000);
    bench.connect("w", worker(1));
    assert_eq!(bench.granted_ids(), [id]);
}

#[test]
fn a_delayed_task_does_not_run_early_when_its_time_to_live_is_taken_away() {
    let mut bench = Bench::new(Options::default(), living(5_000));
    let id = bench.submit(Submit { delay_ms: 60_000, ..task(Spec::default()) });
    bench.put_queue(living(0), QueueState::Active);
    bench.pass(6_000);
    assert_eq!(bench.state(id), State::Scheduled);
    bench.pass(54_000);
    bench.connect("w", worker(1));
    assert_eq!(bench.granted_ids(), [id]);
}

#[test]
fn a_full_wheel_leaves_far_times_to_the_store_and_misses_none() {
    let options = Options { timers_in_memory: 10, warm_tasks: 5, ..Options::default() };
    let mut bench = Bench::new(options, QueueConfig::default());
    // In no order, so that some of those that are already in the wheel are beyond its shrunken horizon.
    let delay = |n: u64| 1_000 * (1 + n * 37 % 100);
    let ids: Vec<_> = (0..100).map(|n| bench.submit(Submit { delay_ms: delay(n), ..task(Spec::default()) })).collect();
    for second in 0..=100 {
        let ready = ids.iter().filter(|id| bench.state(**id) == State::Queued).count();
        assert_eq!(ready, second, "after {second} s");
        bench.pass(1_000);
    }
}

#[test]
fn a_far_timer_fires_although_only_a_look_came_when_it_was_to_be_read() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let hour = 3_600_000;
    let id = bench.submit(Submit { delay_ms: hour, ..task(Spec::default()) });
    let ahead = Options::default().timer_horizon_ms / 2;
    bench.now = Now { wall: bench.now.wall + hour - ahead, mono: bench.now.mono + hour - ahead };
    // A batch that answers and changes nothing: it is never committed, and nothing may wait for that.
    bench.apply(Command::Read { request: RequestId(1), view: View::Partition });
    bench.settle();
    bench.pass(ahead);
    assert_eq!(bench.state(id), State::Queued);
}

#[test]
fn a_clock_behind_that_of_the_last_owner_goes_on_at_half_speed() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    bench.connect("w", worker(1));
    bench.now = Now { wall: START + 3_600_000, mono: 1_000 };
    bench.submit(task(Spec::default()));
    bench.now = Now { wall: START, mono: 1_000 };
    bench.restart();
    let id = bench.submit(Submit { delay_ms: 1_000, ..task(Spec::default()) });
    for _ in 0..1_990 {
        bench.pass(1);
    }
    assert_eq!(bench.state(id), State::Scheduled);
    let (wall, _) = bench.p.next_wake();
    assert!(wall.is_some_and(|wall| wall <= bench.now.wall + 10), "it is woken in its caller's time: {wall:?}");
    for _ in 0..20 {
        bench.pass(1);
    }
    assert_eq!(bench.state(id), State::Queued);
}
