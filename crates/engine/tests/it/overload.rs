//! Overload: a queue tells, then throttles, then refuses, in this order, and goes back the same way.

use tidewheel_engine::config::{Pressure, QueueConfig, TenantConfig};
use tidewheel_engine::effect::{Refusal, Submitted};
use tidewheel_engine::partition::Options;
use tidewheel_engine::task::Spec;
use tidewheel_engine::{Command, Effect};

use crate::bench::{Bench, task, worker};

fn told(bench: &Bench) -> Vec<(Pressure, Pressure)> {
    let told = bench.effects.iter().filter_map(|effect| match effect {
        Effect::Pressure { from, to, .. } => Some((*from, *to)),
        _ => None,
    });
    told.collect()
}

/// Submits one by one for so many seconds, ten per second; how each second went: accepted, throttled, refused.
fn load(bench: &mut Bench, seconds: usize) -> Vec<[u32; 3]> {
    let mut out = Vec::new();
    for _ in 0..seconds {
        let mut counts = [0; 3];
        for _ in 0..10 {
            match bench.submit_all(vec![task(Spec::default())]).remove(0) {
                Submitted::New(_) => counts[0] += 1,
                Submitted::Refused(Refusal::Throttled { retry_after_ms, .. }) => {
                    assert!(retry_after_ms >= 1_000);
                    counts[1] += 1;
                }
                Submitted::Refused(Refusal::Overloaded { .. }) => counts[2] += 1,
                other => panic!("{other:?}"),
            }
            bench.pass(100);
        }
        out.push(counts);
    }
    out
}

#[test]
fn the_stages_come_in_order_and_go_again() {
    let config = QueueConfig { alert_depth: 20, throttle_depth: 50, max_depth: 100, ..QueueConfig::default() };
    let mut bench = Bench::new(Options::default(), config);
    let seconds = load(&mut bench, 80);
    assert!(seconds[..4].iter().all(|[_, throttled, refused]| throttled + refused == 0), "{seconds:?}");
    let throttled = seconds.iter().position(|[_, throttled, _]| *throttled > 0).expect("it throttles");
    let refused = seconds.iter().position(|[_, _, refused]| *refused > 0).expect("it refuses");
    assert!(throttled < refused, "{seconds:?}");
    let accepted: u32 = seconds[throttled + 1..refused].iter().map(|[accepted, ..]| accepted).sum();
    let part = f64::from(accepted) / (refused - throttled - 1) as f64;
    assert!((0.5..3.0).contains(&part), "nothing ends, so about one per second is taken in: {part}");
    use Pressure::{Alert, Full, None, Throttled};
    assert_eq!(told(&bench), [(None, Alert), (Alert, Throttled), (Throttled, Full)]);
    bench.effects.clear();
    let w = bench.connect("w", worker(1));
    while bench.store.tasks.values().any(|t| !t.state.is_terminal()) {
        let running = bench.granted_running();
        running.into_iter().for_each(|id| bench.succeed(w, id));
    }
    assert_eq!(told(&bench).first(), Some(&(Full, Throttled)));
    assert_eq!(told(&bench).last().map(|(_, to)| *to), Some(None));
}

#[test]
fn a_queue_without_bounds_takes_everything_and_only_tells() {
    let mut bench = Bench::new(Options::default(), QueueConfig { alert_depth: 5, ..QueueConfig::default() });
    let outcomes = bench.submit_all((0..2_000).map(|_| task(Spec::default())).collect());
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Submitted::New(_))));
    assert_eq!(told(&bench), [(Pressure::None, Pressure::Alert)]);
    let mut silent = Bench::new(Options::default(), QueueConfig { alert_depth: 0, ..QueueConfig::default() });
    silent.submit_all((0..2_000).map(|_| task(Spec::default())).collect());
    assert!(told(&silent).is_empty());
}

#[test]
fn what_is_worked_off_decides_how_much_is_taken_in() {
    let config = QueueConfig { throttle_depth: 100, max_depth: 10_000, ..QueueConfig::default() };
    let mut bench = Bench::new(Options::default(), config);
    let w = bench.connect("w", worker(5));
    let mut last = Vec::new();
    for _ in 0..120 {
        // Twenty come each second and five end.
        let mut accepted = 0;
        for _ in 0..20 {
            let outcome = bench.submit_all(vec![task(Spec::default())]).remove(0);
            accepted += u32::from(matches!(outcome, Submitted::New(_)));
            bench.pass(50);
        }
        let running = bench.granted_running();
        running.into_iter().for_each(|id| bench.succeed(w, id));
        bench.apply(Command::Heartbeat { session: w, beat: Box::default() });
        last.push(accepted);
    }
    let mean = f64::from(last[100..].iter().sum::<u32>()) / 20.0;
    assert!((4.0..12.0).contains(&mean), "between once and twice what ends: {mean} per second, {last:?}");
}

#[test]
fn a_tenant_throttles_before_its_bound_over_all_its_queues() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    bench.put_tenant(TenantConfig { max_queued: 100, ..TenantConfig::default() });
    let outcomes = bench.submit_all((0..100).map(|_| task(Spec::default())).collect());
    let accepted = outcomes.iter().filter(|outcome| matches!(outcome, Submitted::New(_))).count();
    assert_eq!(accepted, 81, "four fifths, and one at the rate that is left to it");
    let throttled = |o: &Submitted| matches!(o, Submitted::Refused(Refusal::Throttled { .. }));
    assert!(outcomes[81..].iter().all(throttled), "{:?}", outcomes.last());
    let seconds = load(&mut bench, 30);
    let first = seconds.iter().position(|[_, _, refused]| *refused > 0).expect("it comes to its bound");
    assert!(first >= 5 && seconds[..first].iter().all(|[accepted, ..]| *accepted <= 3), "{seconds:?}");
    bench.put_tenant(TenantConfig { max_queued: 10, ..TenantConfig::default() });
    let refused = bench.submit_all(vec![task(Spec::default())]).remove(0);
    assert!(matches!(refused, Submitted::Refused(Refusal::Overloaded { .. })), "{refused:?}");
}

#[test]
fn bounds_of_any_size_are_bounds() {
    let all = u64::MAX;
    let config = QueueConfig { max_depth: all, throttle_depth: all, alert_depth: all, ..QueueConfig::default() };
    let mut bench = Bench::new(Options::default(), config);
    bench.submit(task(Spec::default()));
    let low = QueueConfig { max_depth: 2, throttle_depth: 1, alert_depth: 1, ..QueueConfig::default() };
    bench.put_queue(low, tidewheel_engine::config::QueueState::Active);
    bench.submit_all(vec![task(Spec::default()), task(Spec::default()), task(Spec::default())]);
    let high = QueueConfig { max_depth: all, throttle_depth: all, alert_depth: all, ..QueueConfig::default() };
    bench.put_queue(high, tidewheel_engine::config::QueueState::Active);
    bench.submit(task(Spec::default()));
    assert_eq!(told(&bench).last().map(|(_, to)| *to), Some(Pressure::None));
}
