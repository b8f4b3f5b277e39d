//! What is written stays readable: the bytes of version 1, and what damaged or newer bytes give.

use tidewheel_engine::id::{QueueId, Token, TypeId, WorkerId};

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn task() -> Task {
    let mut task = blank_task(TenantId(7), TaskId::build(1_750_000_000_123, tidewheel_engine::id::Slot(9), 2, 77));
    task.queue = QueueId(3);
    task.kind = TypeId(4);
    task.state = State::Running;
    task.priority = 8;
    task.seq = 77;
    task.created = 1_750_000_000_123;
    task.changed = 1_750_000_000_456;
    task.due = 1_750_000_009_000;
    task.run_at = 1;
    task.attempt = 2;
    task.attempt_base = 1;
    task.token = Token { epoch: 2, grant: 5 };
    task.worker = WorkerId(6);
    task.granted = 1_750_000_000_400;
    task.started = 1_750_000_000_450;
    task.cancelling = true;
    task
}

fn spec() -> Spec {
    Spec {
        retry: Some(RetryPolicy { on: vec!["A".into()], ..RetryPolicy::default() }),
        timeouts: Timeouts { queue_ms: 1, start_ms: 2, run_ms: 3, heartbeat_ms: 4 },
        ttl_ms: 5,
        ordering_key: Some("o".into()),
        concurrency_key: Some("c".into()),
        concurrency_limit: 6,
        affinity_key: Some("".into()),
        requires: vec![("gpu".into(), "a".into())],
        resources: Resources { cpu_millis: 7, memory_bytes: 8 },
        batchable: true,
        labels: vec![("l".into(), "v".into())],
        correlation_id: Some("x".into()),
        workflow_id: Some("w".into()),
        package: Some("p".into()),
        entrypoint: Some("e".into()),
        traceparent: Some("t".into()),
        idempotency_key: Some("i".into()),
        ..Spec::default()
    }
}

/// What version 3 of the golden bytes is for.
fn routed_spec() -> Spec {
    Spec {
        executor: Some("gpu".into()),
        rule: Some("r".into()),
        expected_ms: 60_000,
        near: vec!["d".into(), "e".into()],
        fast_io: true,
        ..Spec::default()
    }
}

fn ending() -> Ending {
    let artifact = Artifact { name: "f".into(), hash: [1; 32], size: 9, content_type: "a/b".into() };
    let failure = Failure { kind: "K".into(), message: "m".into(), detail: "d".into(), retryable: true };
    Ending { result: Payload::None, failure: Some(failure), artifacts: vec![artifact] }
}

fn queue_config() -> QueueConfig {
    QueueConfig {
        concurrency: 1,
        key_concurrency: 2,
        rate: Some(Rate { interval_us: 3, burst: 4 }),
        policy: Policy::ConsistentHash,
        retry: RetryPolicy { backoff: Backoff::Constant, ..RetryPolicy::default() },
        timeouts: Timeouts::default(),
        ttl_ms: 5,
        batch_size: 6,
        batch_wait_ms: 7,
        max_depth: 8,
        dead_letter: true,
        aging_ms: 9,
        alert_depth: 10,
        throttle_depth: 11,
        ..QueueConfig::default()
    }
}

fn tenant_config() -> TenantConfig {
    TenantConfig { weight: 1, concurrency: 2, rate: Some(Rate { interval_us: 3, burst: 4 }), max_queued: 5 }
}

fn attempt() -> AttemptRecord {
    AttemptRecord {
        tenant: TenantId(1),
        task: TaskId(2),
        number: 3,
        token: Token { epoch: 4, grant: 5 },
        worker: WorkerId(6),
        granted: 7,
        ended: 8,
        outcome: AttemptOutcome::TimedOut,
        failure: Some(Failure::ours("timeout", "m")),
    }
}

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// What each version has written: a name and the bytes in hexadecimal. A file of a released version never changes; a
/// later version adds a file of its own, and every file stays readable.
const VERSION_1: &str = include_str!("golden/v1.txt");
/// Heads know when the handler began.
const VERSION_2: &str = include_str!("golden/v2.txt");

/// Queues know when they alert and throttle, and how long a key waits for its worker; specs know where routing sent a task:
/// fields that older programs pass over.
const VERSION_3: &str = include_str!("golden/v3.txt");

/// What is written today.
fn golden(name: &str) -> Vec<u8> {
    let has = |version: &&str| version.lines().any(|line| line.split(' ').next() == Some(name));
    golden_of([VERSION_3, VERSION_2].into_iter().find(has).unwrap_or(VERSION_1), name)
}

fn golden_of(version: &str, name: &str) -> Vec<u8> {
    let line = version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let text = line.unwrap_or_else(|| panic!("no golden bytes of {name}")).as_bytes();
    let digit = |digit: u8| (digit as char).to_digit(16).unwrap() as u8;
    text.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[test]
fn the_bytes_of_the_newest_versions_are_still_written() {
    let check = |name: &str, bytes: &[u8]| assert_eq!(hex(bytes), hex(&golden(name)), "{name}");
    check("head", &encoded(|out| encode_head(&task(), out)));
    check("wide-head", &encoded(|out| encode_head(&Task { due: u64::MAX, ..task() }, out)));
    check("spec", &encoded(|out| encode_spec(&spec(), out)));
    check("routed-spec", &encoded(|out| encode_spec(&routed_spec(), out)));
    check("keyed-queue", &encode_queue_config(&QueueConfig { affinity_wait_ms: 0, ..queue_config() }));
    check("ending", &encoded(|out| encode_ending(&ending(), out)));
    check("queue", &encode_queue_config(&queue_config()));
    check("tenant", &encode_tenant_config(&tenant_config()));
    check("attempt", &encoded(|out| encode_attempt(&attempt(), out)));
    let payload = |payload: Payload, inline: usize| {
        encoded(|out| {
            encode_payload(&payload, inline, out);
        })
    };
    check("inline", &payload(Payload::Inline(Bytes::from_static(b"{}")), 2));
    check("apart", &payload(Payload::Inline(Bytes::from_static(b"{}")), 1));
    check("blob", &payload(Payload::Blob { hash: [2; 32], size: 300 }, 0));
    check("task", &encoded(|out| encode_task(&full_task(), out)));
}

fn full_task() -> Task {
    let ending = Ending { result: Payload::Inline(Bytes::from_static(b"1")), ..ending() };
    let input = Payload::Inline(Bytes::from_static(b"{}"));
    Task { lane: Some(-5), spec: Arc::new(spec()), input, ending: Some(Arc::new(ending)), ..task() }
}

#[test]
fn heads_of_version_1_are_read() {
    let old = |task: Task| Task { started: 0, ..task };
    let mut read = blank_task(TenantId(7), task().id);
    decode_head(&golden_of(VERSION_1, "head"), &mut read).unwrap();
    assert_eq!(read, old(task()));
    decode_head(&golden_of(VERSION_1, "wide-head"), &mut read).unwrap();
    assert_eq!(read, old(Task { due: u64::MAX, ..task() }));
    assert_eq!(decode_task(&golden_of(VERSION_1, "task")).unwrap(), old(full_task()));
}

#[test]
fn queues_of_version_1_alert_at_the_default_depth() {
    let old = QueueConfig { alert_depth: 1_000, throttle_depth: 0, ..queue_config() };
    assert_eq!(decode_queue_config(&golden_of(VERSION_1, "queue")).unwrap(), old);
    assert_eq!(hex(&encode_queue_config(&old)), hex(&golden_of(VERSION_1, "queue")));
}

#[test]
fn the_bytes_of_the_newest_versions_are_read() {
    let mut read = blank_task(TenantId(7), task().id);
    decode_head(&golden("head"), &mut read).unwrap();
    assert_eq!(read, task());
    decode_head(&golden("wide-head"), &mut read).unwrap();
    assert_eq!(read, Task { due: u64::MAX, ..task() });
    assert_eq!(*decode_spec(&golden("spec")).unwrap(), spec());
    assert_eq!(*decode_spec(&golden("routed-spec")).unwrap(), routed_spec());
    let keyed = QueueConfig { affinity_wait_ms: 0, ..queue_config() };
    assert_eq!(decode_queue_config(&golden("keyed-queue")).unwrap(), keyed);
    assert_eq!(*decode_ending(&golden("ending"), Payload::None).unwrap(), ending());
    assert_eq!(decode_queue_config(&golden("queue")).unwrap(), queue_config());
    assert_eq!(decode_tenant_config(&golden("tenant")).unwrap(), tenant_config());
    assert_eq!(decode_attempt(TenantId(1), TaskId(2), 3, &golden("attempt")).unwrap(), attempt());
    let inline = Stored::Here(Payload::Inline(Bytes::from_static(b"{}")));
    assert_eq!(decode_payload(&golden("inline")).unwrap(), inline);
    assert_eq!(decode_payload(&golden("apart")).unwrap(), Stored::Apart(2));
    let blob = Stored::Here(Payload::Blob { hash: [2; 32], size: 300 });
    assert_eq!(decode_payload(&golden("blob")).unwrap(), blob);
    assert_eq!(decode_task(&golden("task")).unwrap(), full_task());
}

#[test]
fn the_default_spec_takes_no_bytes_and_no_memory() {
    assert!(encoded(|out| encode_spec(&Spec::default(), out)).is_empty());
    let (one, two) = (decode_spec(&[]).unwrap(), decode_spec(&[]).unwrap());
    assert!(Arc::ptr_eq(&one, &two) && *one == Spec::default());
    assert!(encoded(|out| encode_ending(&Ending::default(), out)).is_empty());
}

#[test]
fn fields_that_a_later_program_added_are_passed_over() {
    let mut bytes = golden("spec");
    // Field 500, a text.
    bytes.extend_from_slice(&[0xA2, 0x1F, 2, b'h', b'i']);
    assert_eq!(*decode_spec(&bytes).unwrap(), spec());
}

/// Decodes bytes as every kind of record.
fn decode_all(bytes: &[u8]) -> Vec<(&'static str, Option<Error>)> {
    let mut task = blank_task(TenantId(1), TaskId(1));
    vec![
        ("head", decode_head(bytes, &mut task).err()),
        ("spec", decode_spec(bytes).err()),
        ("ending", decode_ending(bytes, Payload::None).err()),
        ("queue", decode_queue_config(bytes).err()),
        ("tenant", decode_tenant_config(bytes).err()),
        ("attempt", decode_attempt(TenantId(1), TaskId(1), 1, bytes).err()),
        ("task", decode_task(bytes).err()),
    ]
}

#[test]
fn a_newer_version_is_refused_as_newer() {
    for (name, ..) in decode_all(&[]) {
        let mut bytes = golden(name);
        // Version 3 of a head is that of a task which is a step of a run.
        bytes[0] += if name == "head" { 2 } else { 1 };
        let error = decode_all(&bytes).into_iter().find(|(other, _)| *other == name).unwrap().1;
        assert!(matches!(error, Some(Error::TooNew(_))), "{name}: {error:?}");
    }
}

#[test]
fn damaged_bytes_are_refused_or_read_but_never_end_the_program() {
    for (name, ..) in decode_all(&[]) {
        let whole = golden(name);
        for length in 0..whole.len() {
            decode_all(&whole[..length]);
            decode_payload(&whole[..length]).ok();
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                decode_all(&bytes);
            }
        }
        let mut unversioned = whole;
        unversioned[0] = 0;
        let error = decode_all(&unversioned).into_iter().find(|(other, _)| *other == name).unwrap().1;
        assert!(matches!(error, Some(Error::Corrupt(_))), "{name}: {error:?}");
    }
    for error in decode_all(&[1, 0xFF, 0xFF, 0xFF]).into_iter().map(|(_, error)| error) {
        assert!(matches!(error, Some(Error::Corrupt(_))), "{error:?}");
    }
    assert!(matches!(decode_payload(&[9]), Err(Error::TooNew(_))));
    for damaged in [&[0, 1][..], &[2, 1], &[3, 1]] {
        assert!(matches!(decode_payload(damaged), Err(Error::Corrupt(_))));
    }
}
