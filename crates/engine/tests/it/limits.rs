//! Limits, rates, classes.

use tidewheel_engine::command::Submit;
use tidewheel_engine::config::{QueueConfig, Rate, TenantConfig};
use tidewheel_engine::partition::Options;
use tidewheel_engine::task::Spec;

use crate::bench::{Bench, task, worker};

#[test]
fn a_batch_keeps_to_the_tenants_rate() {
    let mut bench =
        Bench::new(Options::default(), QueueConfig { batch_size: 4, batch_wait_ms: 0, ..QueueConfig::default() });
    bench.put_tenant(TenantConfig { rate: Some(Rate { interval_us: 1_000_000, burst: 1 }), ..TenantConfig::default() });
    bench.submit_all((0..4).map(|_| task(Spec { batchable: true, ..Spec::default() })).collect());
    bench.connect("w", worker(8));
    assert_eq!(bench.granted().len(), 1);
    bench.pass(1_000);
    assert_eq!(bench.granted().len(), 1);
}

#[test]
fn a_new_rate_does_not_wait_for_the_old_ones_time() {
    let rate = |interval_us| TenantConfig { rate: Some(Rate { interval_us, burst: 1 }), ..TenantConfig::default() };
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    bench.put_tenant(rate(60_000_000));
    bench.submit_all((0..3).map(|_| task(Spec::default())).collect());
    bench.connect("w", worker(8));
    assert_eq!(bench.granted().len(), 1);
    bench.pass(1_000);
    bench.put_tenant(rate(1_000_000));
    bench.pass(1_000);
    assert_eq!(bench.granted().len(), 1);
}

#[test]
fn a_high_task_does_not_pass_a_low_one_that_has_waited_for_both_its_raises() {
    let mut bench = Bench::new(Options::default(), QueueConfig { aging_ms: 500, ..QueueConfig::default() });
    let w = bench.connect("w", worker(1));
    let first = bench.submit(Submit { priority: 9, ..task(Spec::default()) });
    let low = bench.submit(Submit { priority: 0, ..task(Spec::default()) });
    bench.pass(100);
    // Both classes have waited for longer than any raise takes.
    let high = bench.submit(Submit { priority: 9, ..task(Spec::default()) });
    bench.pass(3_000);
    bench.granted();
    bench.succeed(w, first);
    assert_eq!(bench.granted_ids(), [low]);
    bench.succeed(w, low);
    assert_eq!(bench.granted_ids(), [high]);
}
