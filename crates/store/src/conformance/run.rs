//! Durable runs: heads and turns, timers, events, values, lists, and forgetting.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tidewheel_engine::id::{Name, RunId, TenantId};
use tidewheel_engine::load::{Due, Load, Loaded, StoredRun};
use tidewheel_engine::mutation::{Batch, Mutation, RunRecord, RunTimer};
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::data::{BlobHash, Data};
use tidewheel_engine::run::eval::Json;
use tidewheel_engine::run::head::{Head, Identity, Parent, Phase};
use tidewheel_engine::run::journal::{REVISION, Segment};
use tidewheel_engine::run::plan::ParentClose;
use tidewheel_engine::task::{Payload, State, Step, Task};

use super::support::{OTHER, Owner, Random, START, TENANT, id, insert, running, succeeded, task, update};
use super::{Case, Fixture};
use crate::memory;
use crate::run::{PHASES, ROW_VALUE, RunPage, RunQuery};

pub(super) const CASES: &[Case] = &[
    ("a run is read as its newest head and the turns after it", a_run_is_its_head_and_later_turns),
    ("a history has all turns in order however long they are", a_history_has_all_turns),
    ("turns are read a page at a time", turns_by_pages),
    ("a turn is stored once", a_turn_is_stored_once),
    ("runs of other tenants are not seen", runs_of_other_tenants),
    ("timers of runs come due with tasks in one order", due_in_one_order),
    ("due pages of tasks and timers do not lose or repeat any", due_pages),
    ("a timer moves and goes", timers_follow_changes),
    ("events wait until they are taken in", events_wait),
    ("runs with waiting events come back once each", waiting_runs_come_back),
    ("values are read by their hashes", values_by_hash),
    ("a task keeps the step that it is", tasks_keep_their_steps),
    ("runs are listed newest first and by pages", runs_newest_first),
    ("runs are found by phase as it is now", runs_by_phase),
    ("runs are counted by phase", runs_are_counted),
    ("runs are found by workflow parent correlation and attributes", runs_by_marks),
    ("runs are found by when they were accepted", runs_by_time),
    ("a list shows small values and leaves long ones out", rows_show_small_values),
    ("a list of runs stops at its scan limit", runs_scan_limit),
    ("runs that ended go with all that is theirs", sweep_forgets_runs),
    ("a value goes with the last thing that names it", values_go_with_the_last_name),
    ("a restart keeps runs", a_restart_keeps_runs),
    ("what is read of runs is the fold of the log", runs_are_the_fold),
];

/// No run and no turn.
const NOTHING: [u64; 0] = [];

/// The n-th run; ids rise with n.
fn run_id(number: u64) -> RunId {
    RunId(id(number).0)
}

fn identity(number: u64) -> Identity {
    let (namespace, name, version) = ("shop".into(), "order".into(), "1.0.0".into());
    let (parent, correlation) = (None, None);
    Identity { run: run_id(number), plan: [7; 32], namespace, name, version, parent, correlation, depth: 0 }
}

fn data(value: Json) -> Data {
    Data::of(value).0
}

fn head(number: u64, turns: u64, phase: Phase) -> Head {
    let ended_ms = if phase.ended() { START + number + turns } else { 0 };
    let outcome = phase.ended().then(|| Outcome::Ok(data(json!({"total": turns}))));
    let input = data(json!({"order": number}));
    let started_ms = START + number;
    Head { phase, turns, started_ms, ended_ms, outcome, input, ..Head::new(Arc::new(identity(number))) }
}

fn put_of(tenant: TenantId, head: Head) -> Mutation {
    Mutation::PutRun(Box::new(RunRecord { tenant, changed: START + head.turns, head }))
}

fn put(head: Head) -> Mutation {
    put_of(TENANT, head)
}

/// A turn whose event takes so many bytes.
fn segment(turn: u64, bytes: usize) -> Segment {
    let event = Event::Done { entry: turn, outcome: Outcome::Ok(data(json!("x".repeat(bytes)))) };
    let (tape, values, facts) = (Vec::new(), Vec::new(), Vec::new());
    let now_ms = START + turn;
    Segment { revision: REVISION, turn, now_ms, event, begun: 1, more: false, work: turn, tape, values, facts }
}

fn append(number: u64, segment: Segment) -> Mutation {
    Mutation::AppendTurn { tenant: TENANT, run: run_id(number), segment: Arc::new(segment) }
}

fn timer(number: u64, entry: u64) -> RunTimer {
    RunTimer { tenant: TENANT, run: run_id(number), entry }
}

fn put_timer(number: u64, entry: u64, due: u64) -> Mutation {
    Mutation::PutRunTimer { timer: timer(number, entry), due }
}

fn event(bytes: usize) -> Event {
    Event::Arrived { event: data(json!({"id": "e", "data": "y".repeat(bytes)})) }
}

fn put_event(run: u64, number: u64, bytes: usize) -> Mutation {
    Mutation::PutRunEvent { tenant: TENANT, run: run_id(run), number, event: Box::new(event(bytes)) }
}

fn delete_event(run: u64, number: u64) -> Mutation {
    Mutation::DeleteRunEvent { tenant: TENANT, run: run_id(run), number }
}

fn whole(tenant: TenantId, number: u64) -> Load {
    Load::Run { tenant, run: run_id(number), at_most: usize::MAX }
}

fn loaded(owner: &Owner, load: Load) -> Option<StoredRun> {
    match owner.load(load) {
        Loaded::Run(stored) => stored.map(|stored| *stored),
        other => panic!("{other:?}"),
    }
}

fn read(owner: &Owner, number: u64) -> Option<StoredRun> {
    let stored = loaded(owner, whole(TENANT, number));
    let same = owner.store.run(TENANT, run_id(number)).unwrap().map(|stored| *stored);
    assert_eq!(stored, same, "the engine and readers are told the same");
    stored
}

fn numbers_of(segments: &[Segment]) -> Vec<u64> {
    segments.iter().map(|segment| segment.turn).collect()
}

fn a_run_is_its_head_and_later_turns(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    assert_eq!(read(&owner, 1), None);
    owner.commit(vec![append(1, segment(1, 10)), put(head(1, 1, Phase::Running))]);
    let first = read(&owner, 1).unwrap();
    assert_eq!((*first.head.unwrap(), first.segments.len()), (head(1, 1, Phase::Running), 0));
    owner.commit(vec![append(1, segment(2, 20))]);
    owner.commit(vec![append(1, segment(3, 30))]);
    let stored = read(&owner, 1).unwrap();
    assert_eq!(*stored.head.unwrap(), head(1, 1, Phase::Running), "the head that was written whole");
    assert_eq!(stored.segments, [segment(2, 20), segment(3, 30)]);
    owner.commit(vec![append(1, segment(4, 40)), put(head(1, 4, Phase::Waiting)), append(2, segment(1, 1))]);
    let stored = read(&owner, 1).unwrap();
    assert_eq!((*stored.head.unwrap(), stored.segments), (head(1, 4, Phase::Waiting), vec![]));
    let stored = read(&owner, 2).unwrap();
    assert_eq!((stored.head, stored.segments), (None, vec![segment(1, 1)]), "a run that has no whole head yet");
}

fn a_history_has_all_turns(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let sizes = [10, 850, 880, 900, 950, 1_100, 5_000, 60_000];
    let turn = |number: u64| segment(number, sizes[number as usize % sizes.len()]);
    // Turns of two runs in turn, over a border where numbers get longer.
    for number in 1..=300 {
        owner.commit(vec![append(1, turn(number)), append(2, turn(number))]);
    }
    owner.commit(vec![put(head(1, 300, Phase::Running))]);
    for number in [1, 2] {
        let stored = loaded(&owner, Load::History(TENANT, run_id(number))).unwrap();
        assert_eq!(stored.segments, (1..=300).map(turn).collect::<Vec<_>>());
    }
    assert_eq!(read(&owner, 1).unwrap().segments, vec![]);
}

fn turns_by_pages(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((1..=50).map(|turn| append(1, segment(turn, 5))).collect());
    let page = |after, limit| numbers_of(&owner.store.turns(TENANT, run_id(1), after, limit).unwrap());
    assert_eq!(page(0, 3), [1, 2, 3]);
    assert_eq!(page(3, 100), (4..=50).collect::<Vec<_>>());
    assert_eq!(page(50, 10), NOTHING);
    assert_eq!(page(u64::MAX, 10), NOTHING);
    assert_eq!(page(0, 0), NOTHING);
    assert_eq!(numbers_of(&owner.store.turns(OTHER, run_id(1), 0, 10).unwrap()), NOTHING);
}

fn a_turn_is_stored_once(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![append(1, segment(1, 5)), append(1, segment(2, 5_000))]);
    for again in [1, 2] {
        let batch = owner.batch(vec![insert(task(1)), append(1, segment(again, 9))]);
        assert!(owner.send(batch).is_err());
        owner.index -= 1;
        assert_eq!(owner.task(1), None, "a batch that is refused changes nothing");
    }
    assert_eq!(loaded(&owner, Load::History(TENANT, run_id(1))).unwrap().segments, [segment(1, 5), segment(2, 5_000)]);
}

fn runs_of_other_tenants(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![
        put(head(1, 1, Phase::Running)),
        append(1, segment(1, 5)),
        put_event(1, 3, 5),
        put_timer(1, 4, 9),
    ]);
    assert!(read(&owner, 1).is_some());
    assert_eq!(loaded(&owner, whole(OTHER, 1)), None);
    assert_eq!(loaded(&owner, Load::History(OTHER, run_id(1))), None);
    owner.commit(vec![put_of(OTHER, head(1, 7, Phase::Waiting))]);
    assert_eq!(read(&owner, 1).unwrap().head.unwrap().turns, 1);
    let other = loaded(&owner, whole(OTHER, 1)).unwrap();
    assert_eq!((other.head.unwrap().turns, other.timers, other.events), (7, vec![], vec![]));
    assert_eq!(list(&owner, &RunQuery { tenant: OTHER, ..query() }), [1]);
    assert_eq!(owner.store.runs(&RunQuery { tenant: OTHER, ..query() }).unwrap().runs[0].turns, 7);
}

fn scheduled(number: u64, due: u64) -> Task {
    Task { state: State::Scheduled, lane: None, due, run_at: due, ..task(number) }
}

fn due(owner: &Owner, from: (u64, u128, u64), until: u64, limit: usize) -> Vec<Due> {
    match owner.load(Load::Due { from, until, limit }) {
        Loaded::Due(rows) => rows,
        other => panic!("{other:?}"),
    }
}

fn places(rows: &[Due]) -> Vec<(u64, u128, u64)> {
    rows.iter().map(Due::place).collect()
}

fn due_in_one_order(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![
        insert(scheduled(1, START + 20)),
        insert(scheduled(3, START + 10)),
        put_timer(2, 5, START + 20),
        put_timer(2, 4, START + 20),
        put_timer(9, 1, START + 5),
        put_timer(0, 1, START + 30),
    ]);
    let (run, task) = (|number| run_id(number).0, |number| id(number).0);
    let expected = [
        (START + 5, run(9), 1),
        (START + 10, task(3), 0),
        (START + 20, task(1), 0),
        (START + 20, run(2), 4),
        (START + 20, run(2), 5),
        (START + 30, run(0), 1),
    ];
    let rows = due(&owner, (0, 0, 0), START + 30, 100);
    assert_eq!(places(&rows), expected);
    assert_eq!(rows[0], Due::Run(timer(9, 1), START + 5));
    assert_eq!(rows[1], Due::Task(Box::new(scheduled(3, START + 10))), "tasks with their inputs");
    for (at, place) in expected.into_iter().enumerate() {
        assert_eq!(places(&due(&owner, place, START + 30, 100)), expected[at + 1..], "after {place:?}");
        assert_eq!(places(&due(&owner, (0, 0, 0), START + 30, at)), expected[..at], "{at} rows");
    }
    assert_eq!(places(&due(&owner, (0, 0, 0), START + 29, 100)), expected[..5]);
    assert_eq!(places(&due(&owner, (START + 20, u128::MAX, 0), START + 30, 100)), expected[5..]);
}

fn due_pages(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let mut mutations: Vec<Mutation> = (0..200).map(|n| insert(scheduled(n, START + n / 50))).collect();
    mutations.extend((0..300).map(|n| put_timer(n / 3, 1 + n % 3, START + n / 100)));
    owner.commit(mutations);
    for limit in [1, 7, 499, 500] {
        let (mut from, mut seen) = ((0, 0, 0), Vec::new());
        loop {
            let rows = due(&owner, from, u64::MAX, limit);
            let Some(last) = rows.last() else { break };
            from = last.place();
            seen.extend(places(&rows));
        }
        assert_eq!(seen.len(), 500);
        assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]));
    }
}

fn timers_follow_changes(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![put(head(1, 1, Phase::Waiting)), put_timer(1, 2, START + 9), put_timer(1, 7, START + 3)]);
    assert_eq!(read(&owner, 1).unwrap().timers, [(2, START + 9), (7, START + 3)], "by entry");
    owner.commit(vec![put_timer(1, 2, START + 1), Mutation::DeleteRunTimer(timer(1, 7)), put_timer(1, 8, u64::MAX)]);
    assert_eq!(read(&owner, 1).unwrap().timers, [(2, START + 1), (8, u64::MAX)]);
    assert_eq!(places(&due(&owner, (0, 0, 0), u64::MAX - 1, 9)), [(START + 1, run_id(1).0, 2)]);
    owner.commit(vec![Mutation::DeleteRunTimer(timer(1, 2)), Mutation::DeleteRunTimer(timer(1, 99))]);
    assert_eq!(read(&owner, 1).unwrap().timers, [(8, u64::MAX)]);
    // Set and taken back in one commit.
    owner.commit(vec![put_timer(1, 5, START), Mutation::DeleteRunTimer(timer(1, 5))]);
    assert_eq!(places(&due(&owner, (0, 0, 0), u64::MAX, 9)), [(u64::MAX, run_id(1).0, 8)]);
}

fn events_wait(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![
        put(head(1, 1, Phase::Waiting)),
        put_event(1, 1 << 40, 9_000),
        put_event(1, 3, 10),
        put_event(1, 2, 10),
    ]);
    let events = read(&owner, 1).unwrap().events;
    assert_eq!(events, [(2, event(10)), (3, event(10)), (1 << 40, event(9_000))], "by number");
    owner.commit(vec![delete_event(1, 3), delete_event(1, 1 << 40), put_event(1, 2, 20_000), delete_event(1, 77)]);
    assert_eq!(read(&owner, 1).unwrap().events, [(2, event(20_000))], "one that is put again is replaced");
    owner.commit(vec![delete_event(1, 2), put_event(1, 4, 5), delete_event(1, 4)]);
    assert_eq!(read(&owner, 1).unwrap().events, []);
}

fn waiting_runs_come_back(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let other =
        Mutation::PutRunEvent { tenant: OTHER, run: run_id(2), number: u64::MAX >> 1, event: Box::new(event(1)) };
    owner.commit(vec![put_event(1, 1, 5), put_event(1, 2, 5_000), put_event(5, 1, 5), put_event(9, 9, 5), other]);
    owner.commit(vec![delete_event(5, 1)]);
    let expected = vec![(TENANT, run_id(1)), (TENANT, run_id(9)), (OTHER, run_id(2))];
    assert_eq!(owner.store.open(0).unwrap().waiting_runs, expected);
    drop(owner);
    fixture.reopen();
    assert_eq!(fixture.store().open(0).unwrap().waiting_runs, expected);
}

fn values_by_hash(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let value = |byte: u8, size: usize| Mutation::PutValue {
        tenant: TenantId(1),
        run: run_id(1),
        hash: [byte; 32],
        bytes: vec![byte; size].into(),
    };
    owner.commit(vec![value(1, 70_000), value(2, 3), value(1, 70_000)]);
    owner.commit(vec![value(2, 3)]);
    let wanted = vec![[2; 32], [9; 32], [1; 32], [2; 32]];
    let bytes = |byte: u8, size: usize| Some(Bytes::from(vec![byte; size]));
    let expected = vec![bytes(2, 3), None, bytes(1, 70_000), bytes(2, 3)];
    assert_eq!(owner.load(Load::Values(TenantId(1), wanted)), Loaded::Values(expected));
    assert_eq!(owner.store.value(TenantId(1), &[1; 32]).unwrap(), bytes(1, 70_000));
    assert_eq!(owner.store.value(TenantId(1), &[3; 32]).unwrap(), None);
    // A blob that runs name is known, and is no value; a value takes its place and is not taken by it.
    owner.commit(vec![value(7, 0), value(1, 0)]);
    assert_eq!(owner.store.value(TenantId(1), &[7; 32]).unwrap(), bytes(7, 0));
    assert_eq!(
        owner.load(Load::Values(TenantId(1), vec![[7; 32], [1; 32]])),
        Loaded::Values(vec![None, bytes(1, 70_000)])
    );
    owner.commit(vec![value(7, 9)]);
    assert_eq!(owner.store.value(TenantId(1), &[7; 32]).unwrap(), bytes(7, 9));
    // Another tenant finds nothing by a hash that it knows.
    assert_eq!(owner.store.value(TenantId(2), &[1; 32]).unwrap(), None);
    assert_eq!(owner.load(Load::Values(TenantId(2), vec![[1; 32]])), Loaded::Values(vec![None]));
}

fn tasks_keep_their_steps(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let step = |n: u64| Some(Box::new(Step { run: run_id(n), entry: n << 33, first: n << 34, items: n as u32 }));
    owner.commit(vec![insert(Task { step: step(1), ..task(1) }), insert(task(2))]);
    owner.commit(vec![update(Task { step: step(1), ..running(1) }), update(running(2))]);
    assert_eq!(
        owner.store.open(0).unwrap().running.iter().map(|task| task.step.clone()).collect::<Vec<_>>(),
        [step(1), None]
    );
    owner = Owner::of(fixture);
    owner.commit(vec![update(Task { step: step(1), ..succeeded(1) }), update(succeeded(2))]);
    assert_eq!((owner.task(1).unwrap().step, owner.task(2).unwrap().step), (step(1), None));
}

fn query() -> RunQuery {
    RunQuery { tenant: TENANT, limit: 1_000, scan_limit: 100_000, ..RunQuery::default() }
}

fn numbers_on(page: &RunPage) -> Vec<u64> {
    page.runs.iter().map(|row| row.identity.run.0 as u64 & 0xFF_FFFF_FFFF).collect()
}

fn list(owner: &Owner, query: &RunQuery) -> Vec<u64> {
    let page = owner.store.runs(query).unwrap();
    assert_eq!((page.next, page.searched_back_to, page.as_of), (None, None, owner.index));
    numbers_on(&page)
}

/// Reads a list to its end by pages.
fn paged(owner: &Owner, query: &RunQuery, limit: usize) -> Vec<u64> {
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = owner.store.runs(&RunQuery { before, limit, ..query.clone() }).unwrap();
        assert!(page.runs.len() <= limit);
        seen.extend(numbers_on(&page));
        before = page.next;
        if before.is_none() {
            return seen;
        }
    }
}

fn runs_newest_first(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    assert_eq!(list(&owner, &query()), NOTHING);
    owner.commit((0..100).map(|n| put(head(n * 37 % 100, 1, Phase::Running))).collect());
    let all: Vec<u64> = (0..100).rev().collect();
    assert_eq!(list(&owner, &query()), all);
    for limit in [1, 7, 100, 1_000] {
        assert_eq!(paged(&owner, &query(), limit), all);
    }
    let row = owner.store.runs(&RunQuery { limit: 1, ..query() }).unwrap().runs.remove(0);
    assert_eq!((row.identity, row.phase), (Arc::new(identity(99)), Phase::Running));
    assert_eq!((row.started, row.ended, row.changed, row.turns), (START + 99, 0, START + 1, 1));
    assert_eq!((row.input, row.outcome), (Some(data(json!({"order": 99}))), None));
}

fn runs_by_phase(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let mut random = Random(7);
    let mut phases = BTreeMap::new();
    for _ in 0..40 {
        let mut mutations = Vec::new();
        for _ in 0..30 {
            let (number, phase) = (random.below(700), PHASES[random.below(7) as usize]);
            phases.insert(number, phase);
            mutations.push(put(head(number, random.below(20), phase)));
        }
        owner.commit(mutations);
    }
    for wanted in 1..128u32 {
        let wanted: Vec<Phase> = (0..7).filter(|bit| wanted >> bit & 1 == 1).map(|bit| PHASES[bit]).collect();
        let expected: Vec<u64> =
            phases.iter().rev().filter(|(_, phase)| wanted.contains(phase)).map(|(number, _)| *number).collect();
        let query = RunQuery { phases: wanted, ..query() };
        assert_eq!(list(&owner, &query), expected, "{:?}", query.phases);
        assert_eq!(paged(&owner, &query, 41), expected, "{:?}", query.phases);
    }
}

fn runs_are_counted(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..70).map(|n| put(head(n, 1, PHASES[n as usize % 7]))).collect());
    owner.commit(vec![put(head(0, 2, Phase::Completed)), put_of(OTHER, head(200, 1, Phase::Waiting))]);
    let counts = |at_most: u64| owner.store.run_counts(TENANT, at_most).unwrap();
    let of = |phase: Phase| counts(100).into_iter().find(|(own, _)| *own == phase).unwrap().1;
    let all: u64 = counts(100).iter().map(|(_, count)| count).sum();
    assert_eq!((all, of(Phase::Completed), of(Phase::Waiting)), (70, 11, 10));
    assert!(counts(5).iter().all(|(_, count)| *count == 5), "no more than asked for are counted");
}

fn runs_by_marks(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let attributes = |pairs: &[(&str, Json)]| -> Arc<Vec<(Name, Json)>> {
        Arc::new(pairs.iter().map(|(name, value)| ((*name).into(), value.clone())).collect())
    };
    let with = |number: u64, change: &dyn Fn(&mut Identity), pairs: &[(&str, Json)]| {
        let mut who = identity(number);
        change(&mut who);
        Head { attributes: attributes(pairs), identity: Arc::new(who), ..head(number, 1, Phase::Running) }
    };
    let parent = Parent { run: run_id(1), entry: 5, item: Some(2), close: ParentClose::Wait };
    owner.commit(vec![
        put(with(1, &|_| {}, &[("colour", json!("red")), ("size", json!(42))])),
        put(with(2, &|who| who.parent = Some(parent.clone()), &[("colour", json!("red"))])),
        put(with(3, &|who| who.correlation = Some("c-1".into()), &[("colour", json!("blue"))])),
        put(with(4, &|who| who.version = "2.0.0".into(), &[("size", json!("42"))])),
        put(with(5, &|who| who.name = "refund".into(), &[("colour", json!("red"))])),
        put(with(6, &|who| who.namespace = "other".into(), &[])),
    ]);
    let some = |text: &str| Some(text.to_owned());
    let having = |pairs: &[(&str, &str)]| RunQuery {
        attributes: pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..query()
    };
    let found = |query: RunQuery| list(&owner, &query);
    assert_eq!(found(RunQuery { namespace: some("shop"), name: some("order"), ..query() }), [4, 3, 2, 1]);
    assert_eq!(found(RunQuery { name: some("order"), ..query() }), [6, 4, 3, 2, 1]);
    assert_eq!(found(RunQuery { namespace: some("other"), ..query() }), [6]);
    let second = RunQuery { namespace: some("shop"), name: some("order"), version: some("2.0.0"), ..query() };
    assert_eq!(found(second.clone()), [4]);
    assert_eq!(found(RunQuery { phases: vec![Phase::Waiting], ..second }), NOTHING);
    assert_eq!(found(RunQuery { parent: Some(run_id(1)), ..query() }), [2]);
    assert_eq!(found(RunQuery { correlation: some("c-1"), ..query() }), [3]);
    assert_eq!(found(RunQuery { correlation: some("c-1"), name: some("refund"), ..query() }), NOTHING);
    assert_eq!(found(having(&[("colour", "red")])), [5, 2, 1]);
    assert_eq!(found(having(&[("size", "42")])), [4, 1], "a number is found by its text");
    assert_eq!(found(having(&[("colour", "red"), ("size", "42")])), [1]);
    assert_eq!(found(RunQuery { before: Some(run_id(5)), ..having(&[("colour", "red")]) }), [2, 1]);
    // Attributes change; what does not change is found as before.
    owner.commit(vec![
        put(with(1, &|_| {}, &[("colour", json!("green")), ("size", json!(42))])),
        put(with(2, &|who| who.parent = Some(parent.clone()), &[])),
    ]);
    let found = |query: RunQuery| list(&owner, &query);
    assert_eq!(found(having(&[("colour", "red")])), [5]);
    assert_eq!(found(having(&[("colour", "green")])), [1]);
    assert_eq!(found(having(&[("size", "42")])), [4, 1]);
    assert_eq!(found(RunQuery { parent: Some(run_id(1)), ..query() }), [2]);
}

fn runs_by_time(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..50).map(|n| put(head(n, 1, PHASES[n as usize % 7]))).collect());
    let between = |from: Option<u64>, until: Option<u64>| RunQuery {
        started_from: from.map(|n| START + n),
        started_until: until.map(|n| START + n),
        ..query()
    };
    assert_eq!(list(&owner, &between(Some(10), Some(13))), [12, 11, 10]);
    assert_eq!(list(&owner, &between(None, Some(2))), [1, 0]);
    assert_eq!(list(&owner, &between(Some(48), None)), [49, 48]);
    assert_eq!(list(&owner, &between(Some(5), Some(5))), NOTHING);
    assert_eq!(list(&owner, &RunQuery { started_from: Some(u64::MAX), ..query() }), NOTHING);
    assert_eq!(list(&owner, &RunQuery { started_until: Some(u64::MAX), ..query() }).len(), 50);
    let phases = vec![Phase::Running];
    assert_eq!(list(&owner, &RunQuery { phases, ..between(Some(8), Some(23)) }), [22, 15, 8]);
}

fn rows_show_small_values(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let long = data(json!("x".repeat(ROW_VALUE)));
    let short = data(json!("x".repeat(ROW_VALUE - 2)));
    let of = |number, input: &Data, output: &Data| Head {
        input: input.clone(),
        outcome: Some(Outcome::Ok(output.clone())),
        reason: Some("because".into()),
        ..head(number, 3, Phase::Completed)
    };
    owner.commit(vec![put(of(1, &short, &long)), put(of(2, &long, &short))]);
    let rows = owner.store.runs(&query()).unwrap().runs;
    assert_eq!((&rows[0].input, &rows[0].outcome), (&None, &Some(Outcome::Ok(short.clone()))));
    assert_eq!((&rows[1].input, &rows[1].outcome), (&Some(short), &None));
    assert_eq!((rows[0].ended, rows[0].reason.as_deref()), (START + 5, Some("because")));
}

fn runs_scan_limit(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..50).map(|n| put(head(n, 1, Phase::Completed))).collect());
    let none = RunQuery { version: Some("9".to_owned()), scan_limit: 20, ..query() };
    let page = owner.store.runs(&none).unwrap();
    assert_eq!((page.runs.len(), page.next, page.searched_back_to), (0, Some(run_id(30)), Some(START + 29)));
    let page = owner.store.runs(&RunQuery { before: page.next, ..none.clone() }).unwrap();
    assert_eq!(page.next, Some(run_id(10)));
    let page = owner.store.runs(&RunQuery { before: page.next, ..none }).unwrap();
    assert_eq!((page.next, page.searched_back_to), (None, None));
}

fn sweep_forgets_runs(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let mut mutations = Vec::new();
    for number in 0..20 {
        mutations.extend([
            append(number, segment(1, 50)),
            append(number, segment(2, 5_000)),
            put_timer(number, 3, START),
        ]);
        mutations.extend([put_event(number, 1, 10), put_event(number, 2, 5_000)]);
        let phase = if number % 2 == 0 { Phase::Completed } else { Phase::Waiting };
        mutations.push(put(head(number, 2, phase)));
    }
    owner.commit(mutations);
    // The n-th ended at START + n + 2.
    assert_eq!(owner.store.sweep_runs(START + 2, 100).unwrap(), 0);
    assert_eq!(owner.store.sweep_runs(START + 13, 4).unwrap(), 4, "those that ended first");
    let left: Vec<u64> = (0..20).rev().filter(|number| number % 2 == 1 || *number >= 8).collect();
    assert_eq!(list(&owner, &query()), left);
    assert_eq!(owner.store.sweep_runs(START + 13, 100).unwrap(), 2);
    assert_eq!(owner.store.sweep_runs(START + 13, 100).unwrap(), 0);
    for number in 0..20 {
        let gone = number % 2 == 0 && number <= 10;
        assert_eq!(read(&owner, number).is_none(), gone, "run {number}");
        let turns = owner.store.turns(TENANT, run_id(number), 0, 9).unwrap();
        assert_eq!(turns.len(), if gone { 0 } else { 2 });
    }
    assert_eq!(due(&owner, (0, 0, 0), u64::MAX, 100).len(), 14);
    assert_eq!(owner.store.open(0).unwrap().waiting_runs.len(), 14);
    let by_workflow = RunQuery { namespace: Some("shop".to_owned()), name: Some("order".to_owned()), ..query() };
    assert_eq!(owner.store.runs(&by_workflow).unwrap().runs.len(), 14);
    // What is taken up again does not go.
    owner = Owner::of(fixture);
    owner.commit(vec![put(head(12, 3, Phase::Running))]);
    assert_eq!(owner.store.sweep_runs(u64::MAX, 100).unwrap(), 3);
    assert!(read(&owner, 12).is_some());
}

fn a_restart_keeps_runs(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![
        append(1, segment(1, 50)),
        put(head(1, 1, Phase::Waiting)),
        append(1, segment(2, 5_000)),
        put_timer(1, 3, START + 7),
        put_event(1, 1, 9_000),
        Mutation::PutValue { tenant: TenantId(1), run: run_id(1), hash: [1; 32], bytes: vec![5; 80_000].into() },
    ]);
    let before = read(&owner, 1);
    for _ in 0..2 {
        drop(owner);
        fixture.reopen();
        owner = Owner::of(fixture);
        assert_eq!(read(&owner, 1), before);
        assert_eq!(list(&owner, &RunQuery { phases: vec![Phase::Waiting], ..query() }), [1]);
        assert_eq!(owner.store.value(TenantId(1), &[1; 32]).unwrap(), Some(vec![5; 80_000].into()));
    }
}

/// A large value by the first byte of its hash.
fn reference(byte: u8) -> Data {
    Data::Ref { hash: BlobHash([byte; 32]), size: 70_000, value: None }
}

fn put_value(run: u64, byte: u8, text: &str) -> Mutation {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    Mutation::PutValue { tenant: TENANT, run: run_id(run), hash: [byte; 32], bytes }
}

fn values_go_with_the_last_name(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let done = |turn: u64, value: Data| {
        let event = Event::Done { entry: turn, outcome: Outcome::Ok(value) };
        Segment { event, ..segment(turn, 1) }
    };
    let ended = |number: u64| put(Head { ended_ms: START + number, ..head(number, 1, Phase::Completed) });
    let text = |byte: u8| format!(r#"[{{"$ref":"sha256:{}"}}]"#, format!("{byte:02x}").repeat(32));
    owner.commit(vec![
        // Of the first run alone; also of the second, which is open; of the third, which goes later.
        put_value(1, 1, "[1]"),
        put_value(1, 2, "[2]"),
        put_value(1, 3, "[3]"),
        append(2, done(1, reference(2))),
        append(3, Segment { values: vec![reference(3)], ..segment(1, 1) }),
        // Named by the text of a value that the fourth has; by a text in its turn; by its head; by what waits for it.
        put_value(1, 4, "[4]"),
        put_value(4, 5, &text(4)),
        put_value(1, 6, "[6]"),
        append(4, done(1, Data::of(serde_json::from_str(&text(6)).unwrap()).0)),
        put_value(1, 7, "[7]"),
        put(Head { input: reference(7), ..head(4, 1, Phase::Waiting) }),
        put_value(1, 8, "[8]"),
        Mutation::PutRunEvent {
            tenant: TENANT,
            run: run_id(4),
            number: 1,
            event: Box::new(Event::Start { identity: Arc::new(identity(4)), input: reference(8) }),
        },
        // The input of a task that outlives its run.
        put_value(1, 9, "[9]"),
        insert(Task { input: Payload::Blob { hash: [9; 32], size: 3 }, ..task(1) }),
        // The same hash of another tenant is another value.
        Mutation::PutValue { tenant: OTHER, run: run_id(1), hash: [1; 32], bytes: Bytes::from_static(b"[1]") },
    ]);
    owner.commit(vec![ended(1), put(head(2, 1, Phase::Waiting)), ended(3)]);
    let left = |owner: &Owner| -> Vec<u8> {
        (1..=9).filter(|byte| owner.store.value(TENANT, &[*byte; 32]).unwrap().is_some()).collect()
    };
    assert_eq!(left(&owner), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(owner.store.sweep_runs(START + 2, 100).unwrap(), 1);
    assert_eq!(left(&owner), [2, 3, 4, 5, 6, 7, 8, 9], "what another run names stays");
    assert!(owner.store.value(OTHER, &[1; 32]).unwrap().is_some());
    // A value that was forgotten can be kept again.
    owner.commit(vec![put_value(2, 1, "[1]")]);
    drop(owner);
    fixture.reopen();
    let mut owner = Owner::of(fixture);
    assert_eq!(owner.store.sweep_runs(START + 4, 100).unwrap(), 1);
    assert_eq!(left(&owner), [1, 2, 4, 5, 6, 7, 8, 9]);
    owner.commit(vec![ended(2), ended(4)]);
    assert_eq!(owner.store.sweep_runs(u64::MAX, 100).unwrap(), 2);
    assert_eq!(left(&owner), [9], "a value in the text of a value goes with it");
    owner.commit(vec![update(running(1))]);
    owner.commit(vec![update(succeeded(1))]);
    while owner.store.sweep(START, u64::MAX, 100).unwrap() > 0 {}
    assert!(left(&owner).is_empty());
}

/// A change by chance. Turns are dense, as the engine makes them.
fn change(random: &mut Random, turns: &mut BTreeMap<u64, u64>) -> Mutation {
    let number = random.below(30);
    let next = turns.entry(number).or_default();
    match random.below(8) {
        0..=2 => {
            *next += 1;
            append(number, segment(*next, random.below(2_000) as usize))
        }
        3 => put(head(number, *next, PHASES[random.below(7) as usize])),
        4 => put_timer(number, random.below(4) + 1, START + random.below(50)),
        5 => Mutation::DeleteRunTimer(timer(number, random.below(4) + 1)),
        6 => put_event(number, random.below(5), random.below(2_000) as usize),
        _ => delete_event(number, random.below(5)),
    }
}

fn runs_are_the_fold(fixture: &mut dyn Fixture) {
    let (mut random, mut turns) = (Random(42), BTreeMap::new());
    let mut state = memory::State::default();
    for _ in 0..4 {
        let mut owner = Owner::of(fixture);
        memory::take_over(&mut state, 0);
        for _ in 0..40 {
            let count = random.below(20);
            let batch: Batch = owner.batch((0..count).map(|_| change(&mut random, &mut turns)).collect());
            memory::apply(&mut state, &batch).unwrap();
            owner.send(batch).unwrap();
        }
        let mut loads = vec![Load::Due { from: (START + 10, 0, 0), until: u64::MAX, limit: 100 }];
        for number in 0..30 {
            loads.extend([whole(TENANT, number), Load::History(TENANT, run_id(number))]);
            let sized = |at_most| Load::Run { tenant: TENANT, run: run_id(number), at_most };
            loads.extend([sized(0), sized(500), sized(5_000)]);
        }
        for load in loads {
            assert_eq!(owner.load(load.clone()), memory::load(&state, &load), "{load:?}");
        }
        drop(owner);
        fixture.reopen();
        let waiting = fixture.store().open(0).unwrap().waiting_runs;
        assert_eq!(waiting, memory::take_over(&mut state, 0).waiting_runs);
    }
}
