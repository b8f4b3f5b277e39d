//! Loads of the engine: windows of lanes and of due times.

use tidewheel_engine::id::{QueueId, TaskId};
use tidewheel_engine::load::{Due, Load, Loaded};
use tidewheel_engine::task::{Payload, Spec, State, Task, order_of};

use super::support::{
    OTHER, Owner, QUEUE, START, TENANT, failed, id, ids, insert, numbers, running, succeeded, task, update, with_spec,
};
use super::{Case, Fixture};

pub(super) const CASES: &[Case] = &[
    ("tasks are loaded in the order asked and with their inputs", tasks_in_order_asked),
    ("a load says which commit it saw", a_load_says_what_it_saw),
    ("a lane is read by priority and then accept order", a_lane_in_order),
    ("an ordering key lane is read by accept order alone", an_ordering_lane),
    ("a lane is read from an order on and up to a limit", a_lane_window),
    ("a task leaves its lane when it is granted and enters it when it comes back", a_lane_follows_updates),
    ("lanes are found in order without reading their rows", lanes_in_order),
    ("lanes of other queues are not seen", lanes_of_others),
    ("due rows come in order of time and id", due_in_order),
    ("due pages do not lose or repeat rows with the same time", due_ties),
    ("only what is scheduled queued or waiting is due", due_states),
    ("a due row follows its updates", due_follows_updates),
];

fn tasks_in_order_asked(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let long = Task { input: Payload::Inline(vec![b'x'; 3_000].into()), ..task(2) };
    owner.commit(vec![insert(task(1)), insert(long.clone()), insert(succeeded(3))]);
    let wanted = [(TENANT, id(3)), (TENANT, id(9)), (OTHER, id(1)), (TENANT, id(2)), (TENANT, id(1)), (TENANT, id(1))];
    let expected = [Some(succeeded(3)), None, None, Some(long), Some(task(1)), Some(task(1))];
    assert_eq!(owner.load(Load::Tasks(wanted.to_vec())), Loaded::Tasks(expected.to_vec()));
}

fn a_load_says_what_it_saw(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    for number in 1..=5 {
        owner.commit(vec![insert(task(number))]);
        let (as_of, loaded) = owner.store.load(0, &Load::Tasks(vec![(TENANT, id(number))])).unwrap();
        assert_eq!(as_of, number, "a commit that is done has to be seen");
        assert_eq!(loaded, Loaded::Tasks(vec![Some(task(number))]));
    }
    assert_eq!(owner.store.load(3, &Load::Tasks(vec![])).unwrap().0, 0);
}

fn lane(owner: &Owner, from: u64, limit: usize) -> Vec<TaskId> {
    match owner.load(Load::Lane { queue: QUEUE, lane: 5, from, limit }) {
        Loaded::Lane(tasks) => ids(&tasks),
        other => panic!("{other:?}"),
    }
}

fn a_lane_in_order(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let priorities = [5, 9, 0, 5, 9, 7];
    let tasks = (1..).zip(priorities).map(|(number, priority)| insert(Task { priority, ..task(number) }));
    owner.commit(tasks.collect());
    assert_eq!(lane(&owner, 0, 100), numbers([2, 5, 6, 1, 4, 3]));
    let Loaded::Lane(rows) = owner.load(Load::Lane { queue: QUEUE, lane: 5, from: 0, limit: 1 }) else { panic!() };
    assert_eq!(rows, vec![Task { priority: 9, ..task(2) }], "rows are whole tasks with their inputs");
}

fn an_ordering_lane(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let spec = Spec { ordering_key: Some("k".into()), ..Spec::default() };
    let tasks = [(4, 0), (2, 9), (3, 5), (1, 1)]
        .map(|(number, priority)| insert(Task { priority, ..with_spec(task(number), spec.clone()) }));
    owner.commit(tasks.to_vec());
    assert_eq!(lane(&owner, 0, 100), numbers([1, 2, 3, 4]));
    assert_eq!(lane(&owner, 3, 100), numbers([3, 4]));
}

fn a_lane_window(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((1..=50).map(|number| insert(task(number))).collect());
    assert_eq!(lane(&owner, 0, 3), numbers([1, 2, 3]));
    assert_eq!(lane(&owner, order_of(5, 4), 3), numbers([4, 5, 6]));
    assert_eq!(lane(&owner, order_of(5, 49), 10), numbers([49, 50]));
    assert_eq!(lane(&owner, order_of(4, 0), 10), vec![]);
    assert_eq!(lane(&owner, u64::MAX, 10), vec![]);
    assert_eq!(lane(&owner, 0, 0), vec![]);
}

fn a_lane_follows_updates(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((1..=4).map(|number| insert(task(number))).collect());
    owner.commit(vec![update(running(2)), update(Task { lane: Some(6), ..task(3) })]);
    assert_eq!(lane(&owner, 0, 10), numbers([1, 4]));
    owner.commit(vec![update(task(2)), update(Task { priority: 9, ..task(4) })]);
    assert_eq!(lane(&owner, 0, 10), numbers([4, 1, 2]));
    // An ordering key's task keeps its place while it waits for its next attempt.
    owner.commit(vec![update(Task { state: State::Scheduled, due: START + 9, ..task(1) })]);
    assert_eq!(lane(&owner, 0, 10), numbers([4, 1, 2]));
}

fn lanes(owner: &Owner, queue: QueueId, range: (i64, i64), count: usize, rows: usize) -> Vec<(i64, Vec<TaskId>)> {
    match owner.load(Load::Lanes { queue, from: range.0, until: range.1, lanes: count, rows }) {
        Loaded::Lanes(lanes) => lanes.into_iter().map(|(lane, tasks)| (lane, ids(&tasks))).collect(),
        other => panic!("{other:?}"),
    }
}

fn lanes_in_order(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let keys = [i64::MIN, -3, 0, 1, 1 << 61, i64::MAX];
    let mut mutations = Vec::new();
    for number in 0..60 {
        mutations.push(insert(Task { lane: Some(keys[number as usize % 6]), ..task(number) }));
    }
    owner.commit(mutations);
    let all = lanes(&owner, QUEUE, (i64::MIN, i64::MAX), 100, 2);
    let expected: Vec<_> = (0..5).map(|at| (keys[at as usize], numbers([at, at + 6]))).collect();
    assert_eq!(all, expected, "the upper bound is exclusive");
    assert_eq!(lanes(&owner, QUEUE, (-3, 1), 100, 1), vec![(-3, numbers([1])), (0, numbers([2]))]);
    assert_eq!(lanes(&owner, QUEUE, (-2, i64::MAX), 2, 1), vec![(0, numbers([2])), (1, numbers([3]))]);
    assert_eq!(lanes(&owner, QUEUE, (2, 3), 2, 1), vec![]);
    assert_eq!(lanes(&owner, QUEUE, (0, 1), 1, 100), vec![(0, numbers((0..10).map(|n| 2 + 6 * n)))]);
    assert_eq!(lanes(&owner, QUEUE, (0, 1), 0, 100), vec![]);
}

fn lanes_of_others(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let other = QueueId(8);
    owner.commit(vec![
        insert(task(1)),
        insert(Task { queue: other, lane: Some(4), ..task(2) }),
        insert(Task { queue: QueueId(6), lane: Some(9), ..task(3) }),
        insert(Task { tenant: OTHER, queue: other, ..task(4) }),
    ]);
    assert_eq!(lanes(&owner, QUEUE, (0, 100), 10, 10), vec![(5, numbers([1]))]);
    assert_eq!(lanes(&owner, other, (0, 100), 10, 10), vec![(4, numbers([2])), (5, numbers([4]))]);
    assert_eq!(lane(&owner, 0, 10), numbers([1]));
}

fn scheduled(number: u64, due: u64) -> Task {
    Task { state: State::Scheduled, lane: None, due, run_at: due, ..task(number) }
}

fn task_of(due: Due) -> Task {
    match due {
        Due::Task(task) => *task,
        Due::Run(..) => panic!("{due:?}"),
    }
}

fn due(owner: &Owner, from: (u64, TaskId), until: u64, limit: usize) -> Vec<Task> {
    match owner.load(Load::Due { from: (from.0, from.1.0, 0), until, limit }) {
        Loaded::Due(rows) => rows.into_iter().map(task_of).collect(),
        other => panic!("{other:?}"),
    }
}

fn due_in_order(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..5).zip([50, 20, 40, 20, 30]).map(|(n, at)| insert(scheduled(n, START + at))).collect());
    let rows = due(&owner, (0, TaskId(0)), START + 40, 100);
    assert_eq!(ids(&rows), numbers([1, 3, 4, 2]));
    assert_eq!(rows[0], scheduled(1, START + 20), "rows are whole tasks with their inputs");
    assert_eq!(ids(&due(&owner, (START + 20, id(1)), START + 30, 100)), numbers([3, 4]));
    assert_eq!(ids(&due(&owner, (START + 30, TaskId(u128::MAX)), START + 100, 100)), numbers([2, 0]));
    assert_eq!(ids(&due(&owner, (0, TaskId(0)), START + 19, 100)), vec![]);
}

fn due_ties(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..500).map(|number| insert(scheduled(number, START + number / 100))).collect());
    let (mut from, mut seen) = ((0, TaskId(0)), Vec::new());
    loop {
        let page = due(&owner, from, START + 10, 7);
        assert!(page.len() <= 7);
        let Some(last) = page.last() else { break };
        from = (last.due, last.id);
        let last_page = page.len() < 7;
        seen.extend(ids(&page));
        if last_page {
            break;
        }
    }
    assert_eq!(seen, numbers(0..500));
}

fn due_states(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let of = |state: State| Task { state, due: START + 1, ..scheduled(state as u64, START + 1) };
    owner.commit(State::ALL.iter().map(|state| insert(of(*state))).collect());
    owner.commit(vec![insert(scheduled(20, 0)), insert(Task { due: START + 1, ..failed(21, "E", "m") })]);
    let pending = [State::Scheduled, State::Queued, State::Waiting];
    assert_eq!(ids(&due(&owner, (0, TaskId(0)), u64::MAX, 100)), numbers(pending.map(|state| state as u64)));
}

fn due_follows_updates(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..3).map(|number| insert(scheduled(number, START + 5))).collect());
    owner.commit(vec![update(scheduled(0, START + 9)), update(running(1)), update(Task { due: START + 5, ..task(2) })]);
    assert_eq!(ids(&due(&owner, (0, TaskId(0)), u64::MAX, 100)), numbers([2, 0]));
    owner.commit(vec![update(Task { due: 0, ..task(2) })]);
    assert_eq!(ids(&due(&owner, (0, TaskId(0)), u64::MAX, 100)), numbers([0]));
}
