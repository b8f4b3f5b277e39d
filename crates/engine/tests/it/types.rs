//! Types and who has code for them: a task waits until somebody can run it.

use tidewheel_engine::command::{Hello, Submit};
use tidewheel_engine::config::QueueConfig;
use tidewheel_engine::partition::Options;
use tidewheel_engine::task::{Spec, State};

use crate::bench::{Bench, task, tight, worker};

/// A worker that runs packages and has code of its own for `sh` and everything below `built.`.
fn agent(permits: u32) -> Hello {
    Hello { own_types: Some(vec!["sh".into(), "built.*".into()]), ..worker(permits) }
}

fn of(kind: &str) -> Submit {
    Submit { kind: kind.into(), ..task(Spec::default()) }
}

fn with_package() -> Submit {
    task(Spec { package: Some("hash".into()), entrypoint: Some("m:f".into()), ..Spec::default() })
}

#[test]
fn a_type_without_code_waits_until_a_package_brings_it() {
    for options in [Options::default(), tight()] {
        let mut bench = Bench::new(options, QueueConfig::default());
        bench.connect("agent", agent(8));
        let waits: Vec<_> = (0..5).map(|_| bench.submit(of("a"))).collect();
        let own = ["sh", "built.x"].map(|kind| bench.submit(of(kind)));
        assert_eq!(bench.granted_ids(), own, "its own types are not held up");
        assert_eq!(bench.why(waits[0]), ["missing-capability"]);
        bench.register("b", Some("{}"));
        assert!(bench.granted_ids().is_empty(), "another type was registered");
        bench.register("a", Some("{}"));
        assert_eq!(bench.granted_ids().len(), waits.len());
        assert_eq!(bench.why(waits[0]), ["running"]);
    }
}

#[test]
fn a_task_that_names_its_package_goes_past_those_that_wait_for_one() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    bench.connect("agent", agent(8));
    bench.register("a", Some("{}"));
    bench.register("a", None);
    let waits = bench.submit(task(Spec::default()));
    let goes = bench.submit(with_package());
    assert_eq!(bench.granted_ids(), [goes]);
    assert_eq!(bench.state(waits), State::Queued);
}

#[test]
fn a_worker_with_code_of_its_own_takes_what_no_package_brings() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    bench.connect("agent", agent(8));
    let id = bench.submit(of("a"));
    bench.connect("other", Hello { types: vec!["b".into()], ..worker(1) });
    assert_eq!(bench.why(id), ["missing-capability"]);
    bench.connect("sdk", Hello { types: vec!["a".into()], ..worker(1) });
    assert_eq!(bench.granted_ids(), [id]);
}

#[test]
fn what_is_registered_is_known_after_a_restart() {
    let mut bench = Bench::new(Options::default(), QueueConfig::default());
    let ids = ["a", "b"].map(|kind| bench.submit(of(kind)));
    bench.register("a", Some("{}"));
    bench.restart();
    bench.connect("agent", agent(8));
    assert_eq!(bench.granted_ids(), [ids[0]]);
}
