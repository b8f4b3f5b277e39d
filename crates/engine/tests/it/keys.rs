//! Idempotency keys.

use tidewheel_engine::Command;
use tidewheel_engine::Reply;
use tidewheel_engine::command::Submit;
use tidewheel_engine::config::QueueConfig;
use tidewheel_engine::effect::{Effect, Submitted};
use tidewheel_engine::id::RequestId;
use tidewheel_engine::partition::Options;
use tidewheel_engine::task::Spec;

use crate::bench::{Bench, TENANT, task};

fn keyed(key: u8) -> Submit {
    Submit { idempotency: Some(([key; 16], u64::from(key))), ..task(Spec::default()) }
}

fn submit(request: u64, keys: &[u8]) -> Command {
    let items = keys.iter().map(|key| keyed(*key)).collect();
    Command::Submit { request: RequestId(request), tenant: TENANT, items }
}

fn all_replayed(bench: &Bench, wanted: u64) -> bool {
    let outcomes = bench.effects.iter().find_map(|effect| match effect {
        Effect::Reply { request, reply: Reply::Submitted(outcomes) } if request.0 == wanted => Some(outcomes.clone()),
        _ => None,
    });
    outcomes.expect("an answer").iter().all(|outcome| matches!(outcome, Submitted::Replayed(_)))
}

#[test]
fn a_key_that_memory_lets_go_while_another_one_is_read_is_still_known() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    bench.submit(keyed(1));
    bench.submit(keyed(3));
    // A read is under way, so that key 2 stays in memory beyond its commit ...
    bench.apply(submit(900, &[3]));
    let first = bench.p.take_loads();
    bench.apply(submit(901, &[2]));
    let batch = bench.turn().expect("a task");
    bench.land(batch);
    // ... where this submit finds it, and waits for key 1 ...
    bench.apply(submit(902, &[1, 2]));
    let second = bench.p.take_loads();
    first.into_iter().for_each(|load| bench.answer(load));
    // ... and the next commit lets it go.
    bench.submit(keyed(5));
    second.into_iter().for_each(|load| bench.answer(load));
    bench.settle();
    assert!(all_replayed(&bench, 902));
}

#[test]
fn a_key_that_lands_before_a_failed_read_is_repeated_is_still_known() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    bench.submit(keyed(1));
    bench.apply(submit(900, &[2]));
    let batch = bench.turn().expect("a task");
    bench.apply(submit(901, &[1, 2]));
    let loads = bench.p.take_loads();
    bench.land(batch);
    loads.into_iter().for_each(|(id, load)| bench.p.load_failed(id, load));
    bench.submit(keyed(4));
    bench.settle();
    assert!(all_replayed(&bench, 901));
}
