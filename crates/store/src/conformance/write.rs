//! Commits: order, fencing, all or nothing, and that what goes in comes out.

use std::sync::Arc;

use bytes::Bytes;
use tidewheel_engine::config::RetryPolicy;
use tidewheel_engine::id::{TaskId, Token, WorkerId};
use tidewheel_engine::mutation::Batch;
use tidewheel_engine::task::{Artifact, Ending, Failure, Payload, Resources, Spec, State, Task};

use super::support::{
    OTHER, Owner, START, TENANT, failed, id, insert, queue, running, succeeded, task, update, with_spec,
};
use super::{Case, Fixture};
use crate::Error;

pub(super) const CASES: &[Case] = &[
    ("the first epoch is one and each open raises it", epochs_rise),
    ("a batch is there when it is done", a_batch_is_there),
    ("a batch without mutations takes its index", an_empty_batch_counts),
    ("a batch of an old epoch is refused and changes nothing", an_old_epoch_is_refused),
    ("a batch before the first open is refused", an_unopened_partition_is_refused),
    ("a batch with a wrong index is refused and changes nothing", a_wrong_index_is_refused),
    ("a refused batch does not harm those that share its transaction", a_stale_batch_among_others),
    ("a batch after a refused one is refused too", the_next_after_a_stale_one),
    ("an open fences the batches of the old owner", an_open_fences),
    ("partitions have epochs and indexes of their own", partitions_are_apart),
    ("a contradicting batch changes nothing and fails alone", a_contradiction_fails_alone),
    ("the index of a failed batch is used again", a_failed_index_is_free),
    ("a task is inserted once", an_insert_is_once),
    ("several changes of one task in one batch count in order", changes_in_order),
    ("an update keeps spec and input", an_update_keeps_spec_and_input),
    ("an update without the result in memory keeps the result", an_update_keeps_a_cold_result),
    ("an update replaces an ending by another and by none", endings_are_replaced),
    ("inputs results and errors of every size come back", sizes_come_back),
    ("blob payloads come back", blobs_come_back),
    ("every field of a task comes back", every_field_comes_back),
    ("every state comes back", every_state_comes_back),
    ("numbers at their limits come back", limits_come_back),
    ("tasks of two tenants with one id are two tasks", tenants_are_apart),
    ("a big batch is one commit", a_big_batch),
    ("batches are done in the order they were given", done_in_order),
    ("close finishes what is queued and refuses what comes later", close_finishes),
    ("the figures count commits and mutations", figures_count),
];

fn epochs_rise(fixture: &mut dyn Fixture) {
    let first = fixture.store().open(0).unwrap();
    assert_eq!((first.epoch, first.last_index, first.wall, first.seq), (1, 0, 0, 0));
    assert_eq!(fixture.store().open(0).unwrap().epoch, 2);
    fixture.reopen();
    assert_eq!(fixture.store().open(0).unwrap().epoch, 3);
}

fn a_batch_is_there(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![insert(task(1)), insert(task(2))]);
    assert_eq!(owner.task(1), Some(task(1)));
    assert_eq!(owner.task(2), Some(task(2)));
    assert_eq!(owner.task(3), None);
}

fn an_empty_batch_counts(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![]);
    owner.commit(vec![]);
    let recovered = fixture.store().open(0).unwrap();
    assert_eq!((recovered.last_index, recovered.wall, recovered.seq), (2, START + 2, 20));
}

fn assert_stale(result: Result<(), Error>, batch: &Batch) {
    match result {
        Err(Error::Stale { epoch, index }) => assert_eq!((epoch, index), (batch.epoch, batch.index)),
        other => panic!("expected stale, got {other:?}"),
    }
}

fn an_old_epoch_is_refused(fixture: &mut dyn Fixture) {
    let mut old = Owner::of(fixture);
    old.commit(vec![insert(task(1))]);
    let mut new = Owner::of(fixture);
    let late = old.batch(vec![insert(task(2))]);
    assert_stale(old.send(late.clone()), &late);
    assert_eq!(new.task(2), None);
    new.commit(vec![insert(task(3))]);
    assert_stale(old.send(late.clone()), &late);
    let future = Batch { epoch: new.epoch + 1, ..new.batch(vec![insert(task(4))]) };
    assert_stale(new.send(future.clone()), &future);
    assert_eq!((new.task(2), new.task(4)), (None, None));
}

fn an_unopened_partition_is_refused(fixture: &mut dyn Fixture) {
    let batch = Batch { partition: 9, epoch: 0, index: 1, mutations: vec![insert(task(1))], ..Batch::default() };
    assert_stale(queue(&fixture.store(), batch.clone()).recv().unwrap(), &batch);
    let batch = Batch { epoch: 1, ..batch };
    assert_stale(queue(&fixture.store(), batch.clone()).recv().unwrap(), &batch);
    assert_eq!(fixture.store().task(TENANT, id(1)).unwrap(), None);
}

fn a_wrong_index_is_refused(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![insert(task(1))]);
    for index in [0, 1, 3, u64::MAX >> 1] {
        let (partition, epoch) = (owner.partition, owner.epoch);
        let batch = Batch { partition, epoch, index, mutations: vec![insert(task(2))], ..Batch::default() };
        assert_stale(owner.send(batch.clone()), &batch);
        assert_eq!(owner.task(2), None);
    }
    owner.commit(vec![insert(task(2))]);
    assert_eq!(owner.task(2), Some(task(2)));
}

/// Queues many batches at once, so that a store that merges them does so.
fn a_stale_batch_among_others(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut good = Owner::open(store.clone(), 1);
    let mut bad = Owner::open(store.clone(), 2);
    drop(store.open(2).unwrap());
    let mut answers = Vec::new();
    for number in 0..200 {
        answers.push((true, number, good.queue_task(number)));
        let batch = bad.batch(vec![insert(task(1_000 + number))]);
        answers.push((false, 1_000 + number, bad.queue(batch)));
    }
    for (lands, number, answer) in answers {
        let result = answer.recv().unwrap();
        assert_eq!(result.is_ok(), lands, "task {number}: {result:?}");
        assert_eq!(good.task(number).is_some(), lands, "task {number}");
    }
    assert_eq!(store.open(1).unwrap().last_index, 200);
    assert_eq!(store.open(2).unwrap().last_index, 0);
}

fn the_next_after_a_stale_one(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.index = 1;
    let answers: Vec<_> = (0..20).map(|n| owner.queue_task(n)).collect();
    for answer in answers {
        assert!(matches!(answer.recv().unwrap(), Err(Error::Stale { .. })));
    }
    assert_eq!(fixture.store().open(0).unwrap().last_index, 0);
}

fn an_open_fences(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut old = Owner::open(store.clone(), 0);
    let before: Vec<_> = (0..50).map(|n| old.queue_task(n)).collect();
    let new = store.open(0).unwrap();
    let after: Vec<_> = (50..100).map(|n| old.queue_task(n)).collect();
    let landed = before.into_iter().filter(|answer| answer.recv().unwrap().is_ok()).count() as u64;
    assert_eq!(new.last_index, landed, "the new owner has to know each commit that landed");
    for answer in after {
        assert!(matches!(answer.recv().unwrap(), Err(Error::Stale { .. })));
    }
    for number in 0..100 {
        assert_eq!(old.task(number).is_some(), number < landed);
    }
}

fn partitions_are_apart(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut one = Owner::open(store.clone(), 1);
    let mut two = Owner::open(store.clone(), 2);
    one.commit(vec![insert(task(1))]);
    one.commit(vec![insert(task(2))]);
    two.commit(vec![insert(task(3))]);
    drop(store.open(1).unwrap());
    two.commit(vec![insert(task(4))]);
    let (one, two) = (store.open(1).unwrap(), store.open(2).unwrap());
    assert_eq!((one.epoch, one.last_index), (3, 2));
    assert_eq!((two.epoch, two.last_index), (2, 2));
}

fn a_contradiction_fails_alone(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut good = Owner::open(store.clone(), 1);
    let mut bad = Owner::open(store.clone(), 2);
    let mut answers = Vec::new();
    for number in 0..50 {
        answers.push((true, good.queue_task(number)));
        let mutations = vec![insert(task(500)), update(task(600)), insert(task(501))];
        let batch = bad.batch(mutations);
        answers.push((false, bad.queue(batch)));
        bad.index -= 1;
    }
    for (lands, answer) in answers {
        match answer.recv().unwrap() {
            Ok(()) => assert!(lands),
            Err(error) => assert!(!lands && matches!(error, Error::Failed(_)), "{error}"),
        }
    }
    assert_eq!((good.task(500), good.task(501), good.task(600)), (None, None, None));
    assert_eq!(store.open(2).unwrap().last_index, 0);
}

fn a_failed_index_is_free(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let bad = owner.batch(vec![insert(task(1)), update(task(2))]);
    assert!(matches!(owner.send(bad), Err(Error::Failed(_))));
    owner.index -= 1;
    owner.commit(vec![insert(task(1))]);
    assert_eq!(owner.task(1), Some(task(1)));
}

fn an_insert_is_once(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![insert(task(1))]);
    let again = owner.batch(vec![insert(task(2)), insert(running(1))]);
    assert!(matches!(owner.send(again), Err(Error::Failed(_))));
    let twice = Batch { index: owner.index, ..owner.batch(vec![insert(task(2)), insert(task(2))]) };
    assert!(matches!(owner.send(Batch { index: 2, ..twice }), Err(Error::Failed(_))));
    assert_eq!((owner.task(1), owner.task(2)), (Some(task(1)), None));
}

fn changes_in_order(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![insert(task(1)), insert(task(2)), update(running(1)), update(succeeded(1)), update(running(2))]);
    assert_eq!(owner.task(1), Some(succeeded(1)));
    assert_eq!(owner.task(2), Some(running(2)));
}

fn an_update_keeps_spec_and_input(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let spec = Spec { ttl_ms: 5, ordering_key: Some("k".into()), ..Spec::default() };
    let long = Payload::Inline(vec![b'x'; 5_000].into());
    owner.commit(vec![
        insert(with_spec(task(1), spec.clone())),
        insert(Task { input: long.clone(), ..task(2) }),
        insert(Task { input: Payload::None, ..task(3) }),
    ]);
    owner.commit(vec![update(with_spec(running(1), spec.clone())), update(running(2)), update(running(3))]);
    assert_eq!(owner.task(1), Some(with_spec(running(1), spec)));
    assert_eq!(owner.task(2), Some(Task { input: long, ..running(2) }));
    assert_eq!(owner.task(3), Some(Task { input: Payload::None, ..running(3) }));
}

fn with_result(mut task: Task, result: Payload) -> Task {
    let ending = task.ending.take().unwrap_or_default();
    task.ending = Some(Arc::new(Ending { result, ..(*ending).clone() }));
    task
}

fn an_update_keeps_a_cold_result(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![insert(task(1)), insert(task(2))]);
    let long = Payload::Inline(vec![b'r'; 9_000].into());
    owner.commit(vec![update(succeeded(1)), update(with_result(succeeded(2), long.clone()))]);
    let later = |number, result| Task { changed: START + 99, ..with_result(succeeded(number), result) };
    owner.commit(vec![update(later(1, Payload::Cold)), update(later(2, Payload::Cold))]);
    assert_eq!(owner.task(1), Some(Task { changed: START + 99, ..succeeded(1) }));
    assert_eq!(owner.task(2), Some(later(2, long)));
}

fn endings_are_replaced(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![insert(task(1))]);
    for message in ["short", &"long ".repeat(2_000), "short again", &"longer ".repeat(2_000)] {
        owner.commit(vec![update(failed(1, "ValueError", message))]);
        assert_eq!(owner.task(1), Some(failed(1, "ValueError", message)));
    }
    owner.commit(vec![update(task(1))]);
    assert_eq!(owner.task(1), Some(task(1)));
    owner.commit(vec![update(succeeded(1))]);
    assert_eq!(owner.task(1), Some(succeeded(1)));
}

fn sizes_come_back(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    for (number, size) in (1..).zip([0, 1, 2, 100, 383, 384, 385, 512, 1_000, 4_096, 20_000, 65_536]) {
        let bytes = Payload::Inline((0..size).map(|at| (at % 251) as u8).collect::<Vec<_>>().into());
        let text = "é".repeat(size / 2);
        let new = Task { input: bytes.clone(), ..task(number) };
        owner.commit(vec![insert(new.clone())]);
        assert_eq!(owner.task(number), Some(new), "input of {size}");
        let input = bytes.clone();
        let over = Task { input: input.clone(), ..with_result(succeeded(number), bytes) };
        owner.commit(vec![update(over.clone())]);
        assert_eq!(owner.task(number), Some(over), "result of {size}");
        let over = Task { input, ..failed(number, "E", &text) };
        owner.commit(vec![update(over.clone())]);
        assert_eq!(owner.task(number), Some(over), "error of {size}");
    }
}

fn blobs_come_back(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let blob = |byte| Payload::Blob { hash: [byte; 32], size: 1 << 40 };
    owner.commit(vec![insert(Task { input: blob(1), ..task(1) })]);
    owner.commit(vec![update(with_result(succeeded(1), blob(2)))]);
    let expected = Task { input: blob(1), ..with_result(succeeded(1), blob(2)) };
    assert_eq!(owner.task(1), Some(expected));
}

pub(super) fn rich_spec() -> Spec {
    Spec {
        retry: Some(RetryPolicy {
            on: vec!["A".into()],
            not_on: vec!["B".into(), "".into()],
            ..RetryPolicy::default()
        }),
        timeouts: tidewheel_engine::config::Timeouts { queue_ms: 1, start_ms: 2, run_ms: 3, heartbeat_ms: 4 },
        ttl_ms: 5,
        ordering_key: Some("".into()),
        concurrency_key: Some("customer-7".into()),
        concurrency_limit: 6,
        affinity_key: Some("near".into()),
        requires: vec![("gpu".into(), "a100".into())],
        resources: Resources { cpu_millis: 1_500, memory_bytes: 1 << 33 },
        batchable: true,
        labels: vec![("env".into(), "prod".into()), ("team".into(), "ünïcode".into())],
        correlation_id: Some("corr".into()),
        workflow_id: Some("run-1".into()),
        package: Some("ab".repeat(32).into()),
        entrypoint: Some("mod:fn".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        idempotency_key: Some("key-1".into()),
        executor: Some("gpu".into()),
        rule: Some("to-gpu".into()),
        expected_ms: 61_000,
        near: vec!["set-1".into(), "set-2".into()],
        fast_io: true,
    }
}

fn every_field_comes_back(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let artifact =
        |name: &str| Artifact { name: name.into(), hash: [9; 32], size: 1 << 35, content_type: "text/csv".into() };
    let ending = Ending {
        result: Payload::Inline(Bytes::from_static(b"[1,2]")),
        failure: Some(Failure { kind: "K".into(), message: "".into(), detail: "d\nd".into(), retryable: true }),
        artifacts: vec![artifact("a.csv"), artifact("b.csv")],
    };
    let full = Task {
        due: START + 77,
        run_at: START + 66,
        attempt: 3,
        attempt_base: 2,
        token: Token { epoch: 8, grant: 99 },
        worker: WorkerId(12),
        granted: START + 55,
        started: START + 56,
        cancelling: true,
        ending: Some(Arc::new(ending)),
        ..with_spec(task(1), rich_spec())
    };
    owner.commit(vec![insert(full.clone())]);
    assert_eq!(owner.task(1), Some(full.clone()));
    let changed = Task { queue: super::support::QUEUE, priority: 9, lane: Some(-4), cancelling: false, ..full };
    owner.commit(vec![update(changed.clone())]);
    assert_eq!(owner.task(1), Some(changed));
}

fn every_state_comes_back(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let of = |state| Task { state, ..task(state as u64) };
    owner.commit(State::ALL.iter().map(|state| insert(of(*state))).collect());
    for state in State::ALL {
        assert_eq!(owner.task(state as u64), Some(of(state)));
    }
    for next in State::ALL {
        owner.commit(vec![update(Task { state: next, ..task(0) })]);
        assert_eq!(owner.task(0), Some(Task { state: next, ..task(0) }));
    }
}

fn limits_come_back(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    for (number, big) in (1..).zip([(1 << 48) - 1, 1 << 48, i64::MAX as u64, u64::MAX]) {
        let extreme = Task {
            seq: big,
            created: big,
            changed: big,
            due: big,
            run_at: big,
            granted: big,
            token: Token { epoch: u32::MAX, grant: big },
            worker: WorkerId(u32::MAX),
            attempt: u32::MAX,
            attempt_base: u32::MAX,
            lane: Some(i64::MIN),
            ..task(number)
        };
        owner.commit(vec![insert(extreme.clone())]);
        assert_eq!(owner.task(number), Some(extreme));
    }
    let highest = Task { id: TaskId(u128::MAX - 1), ..task(1) };
    owner.commit(vec![insert(highest.clone())]);
    assert_eq!(owner.store.task(TENANT, highest.id).unwrap(), Some(highest));
}

fn tenants_are_apart(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let theirs = Task { tenant: OTHER, priority: 1, ..task(1) };
    owner.commit(vec![insert(task(1)), insert(theirs.clone())]);
    owner.commit(vec![update(running(1))]);
    assert_eq!(owner.task(1), Some(running(1)));
    assert_eq!(owner.store.task(OTHER, id(1)).unwrap(), Some(theirs));
}

fn a_big_batch(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..20_000).map(|number| insert(task(number))).collect());
    owner.commit((0..20_000).map(|number| update(succeeded(number))).collect());
    assert_eq!(owner.task(19_999), Some(succeeded(19_999)));
    assert_eq!(fixture.store().open(0).unwrap().last_index, 2);
}

fn done_in_order(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let (note, notes) = std::sync::mpsc::channel();
    for number in 0..300 {
        let note = note.clone();
        let batch = owner.batch(vec![insert(task(number))]);
        owner.store.commit(batch, Box::new(move |result| note.send((number, result.is_ok())).unwrap()));
    }
    drop(note);
    let expected: Vec<_> = (0..300).map(|number| (number, true)).collect();
    assert_eq!(notes.into_iter().collect::<Vec<_>>(), expected);
}

fn close_finishes(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let answers: Vec<_> = (0..100).map(|n| owner.queue_task(n)).collect();
    owner.store.close();
    for answer in answers {
        answer.recv().unwrap().unwrap();
    }
    assert!(matches!(owner.queue_task(100).recv().unwrap(), Err(Error::Closed)));
    drop(owner);
    fixture.reopen();
    let recovered = fixture.store().open(0).unwrap();
    assert_eq!(recovered.last_index, 100);
}

fn figures_count(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let before = owner.store.figures();
    owner.commit(vec![insert(task(1)), insert(task(2))]);
    owner.commit(vec![update(running(1))]);
    let after = owner.store.figures();
    assert_eq!(after.batches - before.batches, 2);
    assert_eq!(after.mutations - before.mutations, 3);
    assert!(after.commits - before.commits <= 2);
    assert!(owner.task(1).is_some() && owner.store.figures().reads > after.reads);
}
