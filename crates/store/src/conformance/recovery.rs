//! What a new owner starts from, and that nothing is forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidewheel_engine::config::{
    Backoff, Policy, Queue, QueueConfig, QueueState, Rate, RetryPolicy, Tenant, TenantConfig, Timeouts,
};
use tidewheel_engine::id::{QueueId, TaskId, TenantId, Token, WorkerId};
use tidewheel_engine::load::{Load, Loaded};
use tidewheel_engine::mutation::{
    AttemptOutcome, AttemptRecord, Mutation, NameKind, RateKey, Record, RecordKind, Recovered,
};
use tidewheel_engine::task::{Failure, Payload, State, Task};

use super::support::{
    OTHER, Owner, QUEUE, Random, START, TENANT, failed, id, insert, running, succeeded, task, update, with_spec,
};
use super::write::rich_spec;
use super::{Case, Fixture};
use crate::memory;

pub(super) const CASES: &[Case] = &[
    ("wall time and sequence never go back", position_never_goes_back),
    ("tenants and queues come back as they are now", tenants_and_queues),
    ("names come back", names),
    ("counters add up", counters),
    ("rates come back", rates),
    ("records are replaced and removed", records),
    ("running tasks come back without their inputs", running_tasks),
    ("many running tasks come back each once", many_running_tasks),
    ("ended attempts come back oldest first", attempts),
    ("what is recovered is the fold of the log", recovered_is_the_fold),
    ("a restart keeps all", a_restart_keeps_all),
];

/// An ended attempt.
pub(super) fn attempt(task: u64, number: u32) -> AttemptRecord {
    AttemptRecord {
        tenant: TENANT,
        task: id(task),
        number,
        token: Token { epoch: 3, grant: u64::from(number) },
        worker: WorkerId(4),
        granted: START,
        ended: START + u64::from(number),
        outcome: AttemptOutcome::from_number((number % 5 + 1) as u8).unwrap(),
        failure: (!number.is_multiple_of(2)).then(|| Failure::ours("lost", &"m".repeat(number as usize * 100))),
    }
}

fn put_attempt(record: AttemptRecord) -> Mutation {
    Mutation::PutAttempt(Box::new(record))
}

fn position_never_goes_back(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let high = owner.batch(vec![]);
    owner.send(tidewheel_engine::mutation::Batch { wall: 900, seq: 90, ..high }).unwrap();
    let low = owner.batch(vec![]);
    owner.send(tidewheel_engine::mutation::Batch { wall: 100, seq: 10, ..low }).unwrap();
    let recovered = fixture.store().open(0).unwrap();
    assert_eq!((recovered.wall, recovered.seq, recovered.last_index), (900, 90, 2));
}

fn queue(id: u32, version: u64) -> Queue {
    Queue {
        id: QueueId(id),
        tenant: TENANT,
        name: format!("queue {id}").into(),
        version,
        state: [QueueState::Active, QueueState::Paused, QueueState::Draining][version as usize % 3],
        config: QueueConfig {
            concurrency: 1,
            key_concurrency: 2,
            rate: Some(Rate { interval_us: 3, burst: 4 }),
            policy: [Policy::LeastLoaded, Policy::RoundRobin, Policy::Weighted, Policy::ConsistentHash]
                [version as usize % 4],
            retry: RetryPolicy { backoff: Backoff::Constant, max_attempts: 9, ..RetryPolicy::default() },
            timeouts: Timeouts { run_ms: 5, ..Timeouts::default() },
            ttl_ms: 6,
            batch_size: 7,
            batch_wait_ms: 8,
            max_depth: 9,
            dead_letter: version.is_multiple_of(2),
            aging_ms: 10,
            alert_depth: 11,
            throttle_depth: 12,
            affinity_wait_ms: 750,
        },
        deleted: version > 5,
    }
}

fn tenant(id: u32, version: u64) -> Tenant {
    let rate = version.is_multiple_of(2).then_some(Rate { interval_us: version, burst: 1 });
    let config = TenantConfig { weight: 5, concurrency: 6, rate, max_queued: version };
    Tenant { id: TenantId(id), name: format!("tenant {id}").into(), version, config }
}

fn tenants_and_queues(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let plain = Queue { config: QueueConfig::default(), ..queue(1, 3) };
    owner.commit(vec![
        Mutation::PutQueue(Arc::new(queue(2, 1))),
        Mutation::PutQueue(Arc::new(plain.clone())),
        Mutation::PutTenant(Arc::new(tenant(2, 1))),
        Mutation::PutTenant(Arc::new(tenant(1, 4))),
    ]);
    owner.commit(vec![Mutation::PutQueue(Arc::new(queue(2, 7))), Mutation::PutTenant(Arc::new(tenant(2, 2)))]);
    for _ in 0..2 {
        let recovered = fixture.store().open(0).unwrap();
        assert_eq!(recovered.queues, vec![plain.clone(), queue(2, 7)]);
        assert_eq!(recovered.tenants, vec![tenant(1, 4), tenant(2, 2)]);
        fixture.reopen();
    }
}

fn name(kind: NameKind, tenant: TenantId, id: u32, name: &str) -> Mutation {
    Mutation::PutName { kind, tenant, id, name: name.into() }
}

fn names(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![
        name(NameKind::Worker, TENANT, 1, "w1"),
        name(NameKind::Type, OTHER, 1, "other's"),
        name(NameKind::Type, TENANT, 2, "grün"),
        name(NameKind::Type, TENANT, 1, ""),
    ]);
    let recovered = fixture.store().open(0).unwrap();
    let expected = vec![
        (NameKind::Type, TENANT, 1, "".into()),
        (NameKind::Type, TENANT, 2, "grün".into()),
        (NameKind::Type, OTHER, 1, "other's".into()),
        (NameKind::Worker, TENANT, 1, "w1".into()),
    ];
    assert_eq!(recovered.names, expected);
    assert_eq!(recovered.types.iter().map(|kind| kind.0).collect::<Vec<_>>(), vec![1, 2, 1]);
}

fn counters(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let add = |queue: u32, deltas: [i64; 9]| Mutation::AddCounts { queue: QueueId(queue), deltas };
    owner.commit(vec![add(1, [1, 2, 3, 4, 5, 6, 7, 8, 9]), add(2, [0, 5, 0, 0, 0, 0, 0, 0, 0])]);
    owner.commit(vec![add(1, [-1, 0, 1, 0, 0, 0, 0, 0, 1 << 40]), add(1, [1; 9])]);
    let recovered = fixture.store().open(0).unwrap();
    let expected =
        vec![(QueueId(1), [1, 3, 5, 5, 6, 7, 8, 9, (1 << 40) + 10]), (QueueId(2), [0, 5, 0, 0, 0, 0, 0, 0, 0])];
    assert_eq!(recovered.counts, expected);
}

fn rates(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let put = |key, tat_us| Mutation::PutRate { key, tat_us };
    let (queue, tenant) = (RateKey::Queue(QUEUE), RateKey::Tenant(TenantId(QUEUE.0)));
    owner.commit(vec![put(queue, 5), put(tenant, 6), put(queue, 1 << 50)]);
    owner.commit(vec![put(tenant, 4)]);
    assert_eq!(fixture.store().open(0).unwrap().rates, vec![(queue, 1 << 50), (tenant, 4)]);
}

fn record(kind: RecordKind, tenant: TenantId, key: &str, version: u64) -> Record {
    Record { kind, tenant, key: key.into(), version, value: format!("{{\"v\":{version},\"s\":\"ü\"}}").into() }
}

fn records(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let put = |record: Record| Mutation::PutRecord(Arc::new(record));
    owner.commit(vec![
        put(record(RecordKind::Token, TENANT, "b", 1)),
        put(record(RecordKind::Token, TENANT, "a", 1)),
        put(record(RecordKind::Token, OTHER, "a", 1)),
        put(record(RecordKind::Setting, TenantId(0), "a", 1)),
        put(record(RecordKind::Package, TENANT, "gone", 1)),
    ]);
    let delete = |key: &str| Mutation::DeleteRecord { kind: RecordKind::Package, tenant: TENANT, key: key.into() };
    owner.commit(vec![put(record(RecordKind::Token, TENANT, "a", 2)), delete("gone"), delete("never there")]);
    let expected = vec![
        record(RecordKind::Token, TENANT, "a", 2),
        record(RecordKind::Token, TENANT, "b", 1),
        record(RecordKind::Token, OTHER, "a", 1),
        record(RecordKind::Setting, TenantId(0), "a", 1),
    ];
    assert_eq!(fixture.store().open(0).unwrap().records, expected);
}

fn running_tasks(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![
        insert(with_spec(running(1), rich_spec())),
        insert(task(2)),
        insert(Task { input: Payload::None, ..running(3) }),
        insert(running(4)),
        insert(Task { tenant: OTHER, ..running(5) }),
    ]);
    owner.commit(vec![update(running(2)), update(succeeded(4))]);
    let recovered = fixture.store().open(0).unwrap();
    let cold = |task: Task| Task { input: Payload::Cold, ..task };
    let expected = vec![
        cold(with_spec(running(1), rich_spec())),
        cold(running(2)),
        Task { input: Payload::None, ..running(3) },
        cold(Task { tenant: OTHER, ..running(5) }),
    ];
    assert_eq!(recovered.running, expected);
}

fn many_running_tasks(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    for part in 0..13 {
        let each = |number: u64| if number.is_multiple_of(3) { succeeded(number) } else { running(number) };
        owner.commit((part * 10_000..(part + 1) * 10_000).map(|number| insert(each(number))).collect());
    }
    let recovered = fixture.store().open(0).unwrap();
    let found: BTreeSet<_> = recovered.running.iter().map(|task| task.id).collect();
    assert_eq!(found.len(), recovered.running.len(), "none comes twice");
    let expected: BTreeSet<_> = (0..130_000).filter(|number| number % 3 != 0).map(id).collect();
    assert!(found == expected, "{} of {} came back", found.len(), expected.len());
}

fn attempts(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![insert(task(1)), put_attempt(attempt(1, 2)), put_attempt(attempt(1, 1))]);
    owner.commit((3..30).map(|number| put_attempt(attempt(1, number))).chain([put_attempt(attempt(2, 1))]).collect());
    let expected: Vec<_> = (1..30).map(|number| attempt(1, number)).collect();
    assert_eq!(owner.store.attempts(TENANT, id(1)).unwrap(), expected);
    assert_eq!(owner.store.attempts(TENANT, id(2)).unwrap(), vec![attempt(2, 1)]);
    assert_eq!(owner.store.attempts(OTHER, id(1)).unwrap(), vec![]);
    assert_eq!(owner.store.attempts(TENANT, id(3)).unwrap(), vec![]);
}

/// A random but repeatable log, with everything in it that a batch can hold.
fn random_mutations(random: &mut Random, born: &mut u64) -> Vec<Mutation> {
    let mut mutations = Vec::new();
    for _ in 0..random.below(30) {
        if *born == 0 || random.below(3) == 0 {
            let new = match random.below(4) {
                0 => running(*born),
                1 => with_spec(task(*born), rich_spec()),
                2 => Task { state: State::Scheduled, lane: None, due: START + random.below(1_000), ..task(*born) },
                _ => Task { lane: Some(random.below(5) as i64), priority: random.below(10) as u8, ..task(*born) },
            };
            mutations.push(insert(new));
            *born += 1;
            continue;
        }
        let number = random.below(*born);
        mutations.push(match random.below(12) {
            0..=2 => update(running(number)),
            3 | 4 => update(succeeded(number)),
            5 => update(failed(number, "E", &"m".repeat(random.below(2_000) as usize))),
            6 => update(Task { priority: random.below(10) as u8, ..task(number) }),
            7 => put_attempt(attempt(number, random.below(4) as u32 + 1)),
            8 => Mutation::AddCounts { queue: QueueId(random.below(3) as u32), deltas: [1, -1, 2, 0, 0, 0, 0, 0, 3] },
            9 => Mutation::PutRate { key: RateKey::Queue(QUEUE), tat_us: random.below(1 << 50) },
            10 => Mutation::PutRecord(Arc::new(record(RecordKind::Setting, TENANT, "k", random.below(100)))),
            _ => Mutation::PutQueue(Arc::new(queue(random.below(4) as u32, random.below(8)))),
        });
    }
    mutations
}

fn assert_same(found: &Recovered, expected: &Recovered) {
    assert_eq!(
        (found.epoch, found.last_index, found.wall, found.seq),
        (expected.epoch, expected.last_index, expected.wall, expected.seq)
    );
    assert_eq!(found.tenants, expected.tenants);
    assert_eq!(found.queues, expected.queues);
    assert_eq!(found.names, expected.names);
    assert_eq!(found.counts, expected.counts);
    assert_eq!(found.rates, expected.rates);
    assert_eq!(found.records, expected.records);
    assert_eq!(found.running, expected.running);
    assert_eq!(found.types, expected.types);
}

/// An update as the engine makes it carries the spec the task has.
fn fill_specs(state: &memory::State, mutations: &mut [Mutation]) {
    let mut specs: std::collections::BTreeMap<TaskId, _> =
        state.tasks().map(|task| (task.id, Arc::clone(&task.spec))).collect();
    for mutation in mutations {
        match mutation {
            Mutation::InsertTask(task) => drop(specs.insert(task.id, Arc::clone(&task.spec))),
            Mutation::UpdateTask(task) => task.spec = Arc::clone(&specs[&task.id]),
            _ => {}
        }
    }
}

fn recovered_is_the_fold(fixture: &mut dyn Fixture) {
    let mut state = memory::State::default();
    let (mut random, mut born) = (Random(0x5EED), 0);
    for _ in 0..4 {
        let mut owner = Owner::of(fixture);
        let expected = memory::take_over(&mut state, 0);
        assert_eq!(expected.epoch, owner.epoch);
        for _ in 0..60 {
            let mut mutations = random_mutations(&mut random, &mut born);
            fill_specs(&state, &mut mutations);
            let batch = owner.batch(mutations);
            memory::apply(&mut state, &batch).unwrap();
            owner.send(batch).unwrap();
        }
        drop(owner);
        fixture.reopen();
        let expected = memory::take_over(&mut state, 0);
        assert_same(&fixture.store().open(0).unwrap(), &expected);
        compare_reads(fixture, &state, born);
    }
}

fn compare_reads(fixture: &dyn Fixture, state: &memory::State, born: u64) {
    let store = fixture.store();
    for number in 0..born {
        assert_eq!(store.task(TENANT, id(number)).unwrap().as_ref(), state.task(TENANT, id(number)));
        let attempts: Vec<_> = state.attempts().filter(|record| record.task == id(number)).cloned().collect();
        assert_eq!(store.attempts(TENANT, id(number)).unwrap(), attempts);
    }
    let everything = Load::Lanes { queue: QUEUE, from: i64::MIN, until: i64::MAX, lanes: 1_000, rows: 10_000 };
    let due = Load::Due { from: (0, 0, 0), until: u64::MAX, limit: 100_000 };
    for load in [everything, due] {
        let expected: Loaded = memory::load(state, &load);
        assert_eq!(store.load(0, &load).unwrap(), (state.position(0).1, expected));
    }
}

fn a_restart_keeps_all(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![
        insert(with_spec(task(1), rich_spec())),
        insert(Task { input: Payload::Inline(vec![b'y'; 40_000].into()), ..running(2) }),
        insert(failed(3, "E", &"x".repeat(5_000))),
        put_attempt(attempt(3, 1)),
        name(NameKind::Type, TENANT, 3, "t"),
    ]);
    for _ in 0..3 {
        drop(owner);
        fixture.reopen();
        owner = Owner::of(fixture);
        assert_eq!(owner.task(1), Some(with_spec(task(1), rich_spec())));
        assert_eq!(owner.task(2).unwrap().input, Payload::Inline(vec![b'y'; 40_000].into()));
        assert_eq!(owner.task(3), Some(failed(3, "E", &"x".repeat(5_000))));
        assert_eq!(owner.store.attempts(TENANT, id(3)).unwrap(), vec![attempt(3, 1)]);
        owner.commit(vec![]);
    }
    assert_eq!(owner.index, 4);
}
