//! Lists.

use std::sync::Arc;

use tidewheel_engine::id::{QueueId, TaskId, TypeId, WorkerId};
use tidewheel_engine::mutation::Mutation;
use tidewheel_engine::task::{Ending, Payload, Spec, State, Task};

use super::support::{
    OTHER, Owner, QUEUE, START, TENANT, failed, id, ids, insert, numbers, running, succeeded, task, update, with_spec,
};
use super::write::rich_spec;
use super::{Case, Fixture};
use crate::{TaskPage, TaskQuery};

pub(super) const CASES: &[Case] = &[
    ("a list is newest first and of one tenant", newest_first),
    ("a list has no inputs and no results", no_payloads),
    ("a list is narrowed by each condition", each_condition),
    ("conditions hold together", conditions_together),
    ("states in every combination give what they say", every_state_combination),
    ("labels and ids are found among many tasks", marks_among_many),
    ("a changed label is found and the old one is not", changed_labels),
    ("pages follow each other without gap or repeat", pages_follow),
    ("pages stay whole while tasks come and change", pages_under_writes),
    ("a scan limit ends a page and says how far it came", scan_limit),
    ("a page is never longer than it may be", page_limit),
    ("a list says which commit it saw", a_list_says_what_it_saw),
    ("finished tasks go when their time is over", finished_tasks_go),
    ("a sweep goes on where it ended", sweeps_go_on),
];

fn query() -> TaskQuery {
    TaskQuery { tenant: TENANT, limit: 100, scan_limit: 1_000_000, ..TaskQuery::default() }
}

fn list(owner: &Owner, query: &TaskQuery) -> Vec<TaskId> {
    page(owner, query).tasks.iter().map(|task| task.id).collect()
}

fn page(owner: &Owner, query: &TaskQuery) -> TaskPage {
    owner.store.tasks(query).unwrap()
}

fn newest_first(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![insert(task(2)), insert(task(1)), insert(Task { tenant: OTHER, ..task(9) }), insert(task(3))]);
    assert_eq!(list(&owner, &query()), numbers([3, 2, 1]));
    assert_eq!(list(&owner, &TaskQuery { tenant: OTHER, ..query() }), numbers([9]));
    assert_eq!(list(&owner, &TaskQuery { tenant: tidewheel_engine::id::TenantId(3), ..query() }), vec![]);
}

fn no_payloads(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let long = "long ".repeat(1_000);
    owner.commit(vec![
        insert(with_spec(task(1), rich_spec())),
        insert(Task { input: Payload::None, ..succeeded(2) }),
        insert(failed(3, "E", &long)),
        insert(Task { ending: Some(Arc::default()), ..succeeded(4) }),
    ]);
    let cold = Some(Arc::new(Ending { result: Payload::Cold, ..Ending::default() }));
    let expected = [
        Task { input: Payload::Cold, ending: Some(Arc::default()), ..succeeded(4) },
        Task { input: Payload::Cold, ..failed(3, "E", &long) },
        Task { input: Payload::None, ending: cold, ..succeeded(2) },
        Task { input: Payload::Cold, ..with_spec(task(1), rich_spec()) },
    ];
    assert_eq!(page(&owner, &query()).tasks, expected);
}

/// Ten tasks that differ in all that can be asked for.
fn zoo(owner: &mut Owner) {
    let labelled = |labels: &[(&str, &str)]| Spec {
        labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ..Spec::default()
    };
    let correlated = Spec { correlation_id: Some("c-1".into()), ..Spec::default() };
    let flow = Spec { workflow_id: Some("w-1".into()), ..labelled(&[("a", "1")]) };
    owner.commit(vec![
        insert(task(1)),
        insert(Task { queue: QueueId(8), priority: 9, ..task(2) }),
        insert(Task { kind: TypeId(4), worker: WorkerId(9), ..running(3) }),
        insert(with_spec(
            Task { attempt: 3, ..failed(4, "ValueError", "Bad Input 17") },
            labelled(&[("a", "1"), ("b", "2")]),
        )),
        insert(with_spec(succeeded(5), labelled(&[("a", "2")]))),
        insert(with_spec(Task { state: State::Dead, ..failed(6, "lost", "no sign of life") }, correlated)),
        insert(with_spec(Task { state: State::Scheduled, lane: None, due: START + 99, ..task(7) }, flow)),
        insert(Task { state: State::Waiting, lane: None, ..running(8) }),
        insert(Task { state: State::Cancelled, created: START + 500, ..failed(9, "ValueError", "ÜBER") }),
        insert(Task { state: State::Expired, lane: None, ..task(10) }),
    ]);
}

fn changed_labels(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let labelled = |labels: &[(&str, &str)]| Spec {
        labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ..Spec::default()
    };
    let (before, after) = (labelled(&[("a", "1"), ("b", "1")]), labelled(&[("a", "2"), ("b", "1")]));
    owner.commit(vec![insert(with_spec(task(1), before.clone()))]);
    let changed = Task { changed: START + 9, ..with_spec(task(1), after.clone()) };
    let (spec, before) = (Arc::new(after), Arc::new(before));
    let put = Mutation::PutSpec { tenant: TENANT, task: id(1), spec: spec.clone(), before };
    owner.commit(vec![put, update(changed)]);
    assert_eq!(owner.task(1).map(|task| task.spec), Some(spec));
    for (name, value, found) in [("a", "1", vec![]), ("a", "2", vec![1]), ("b", "1", vec![1])] {
        let labels = vec![(name.to_owned(), value.to_owned())];
        assert_eq!(list(&owner, &TaskQuery { labels, ..query() }), numbers(found), "{name}:{value}");
    }
}

fn each_condition(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    zoo(&mut owner);
    let text = |text: &str| Some(text.to_owned());
    let label = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let cases: Vec<(TaskQuery, Vec<u64>)> = vec![
        (query(), vec![10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (TaskQuery { states: vec![State::Running], ..query() }, vec![3]),
        (TaskQuery { states: vec![State::Queued, State::Failed], ..query() }, vec![4, 2, 1]),
        (TaskQuery { not_states: vec![State::Queued, State::Succeeded], ..query() }, vec![10, 9, 8, 7, 6, 4, 3]),
        (TaskQuery { queues: vec![QueueId(8)], ..query() }, vec![2]),
        (TaskQuery { queues: vec![QueueId(8), QueueId(99)], ..query() }, vec![2]),
        (TaskQuery { kinds: vec![TypeId(4)], ..query() }, vec![3]),
        (TaskQuery { workers: vec![WorkerId(9), WorkerId(10)], ..query() }, vec![3]),
        (TaskQuery { priority: Some((6, 9)), ..query() }, vec![2]),
        (TaskQuery { priority: Some((9, 9)), ..query() }, vec![2]),
        (TaskQuery { attempts: Some((2, 3)), ..query() }, vec![4]),
        (TaskQuery { attempts: Some((0, 0)), ..query() }, vec![10, 7, 2, 1]),
        (TaskQuery { created_from: Some(START + 8), ..query() }, vec![10, 9, 8]),
        (TaskQuery { created_until: Some(START + 3), ..query() }, vec![2, 1]),
        (TaskQuery { labels: label("a", "1"), ..query() }, vec![7, 4]),
        (TaskQuery { labels: [label("b", "2"), label("a", "1")].concat(), ..query() }, vec![4]),
        (TaskQuery { labels: label("a", "3"), ..query() }, vec![]),
        (TaskQuery { correlation_id: text("c-1"), ..query() }, vec![6]),
        (TaskQuery { correlation_id: text("w-1"), ..query() }, vec![]),
        (TaskQuery { workflow_id: text("w-1"), ..query() }, vec![7]),
        (TaskQuery { error_kind: text("ValueError"), ..query() }, vec![9, 4]),
        (TaskQuery { error_kind: text("valueerror"), ..query() }, vec![]),
        (TaskQuery { words: words(&["bad", "17"]), ..query() }, vec![4]),
        (TaskQuery { words: words(&["valueERROR", "über"]), ..query() }, vec![9]),
        (TaskQuery { words: words(&["bad", "18"]), ..query() }, vec![]),
        (TaskQuery { words: words(&["%"]), ..query() }, vec![]),
        (TaskQuery { before: Some(id(3)), ..query() }, vec![2, 1]),
        (TaskQuery { before: Some(id(1)), ..query() }, vec![]),
        (TaskQuery { limit: 2, ..query() }, vec![10, 9]),
    ];
    for (query, expected) in cases {
        assert_eq!(list(&owner, &query), numbers(expected), "{query:?}");
    }
}

fn conditions_together(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    zoo(&mut owner);
    let narrow = TaskQuery {
        states: vec![State::Failed, State::Cancelled],
        not_states: vec![State::Cancelled],
        labels: vec![("a".to_owned(), "1".to_owned())],
        error_kind: Some("ValueError".to_owned()),
        ..query()
    };
    assert_eq!(list(&owner, &narrow), numbers([4]));
    assert_eq!(list(&owner, &TaskQuery { queues: vec![QueueId(8)], ..narrow.clone() }), vec![]);
    let all_refused = TaskQuery { states: vec![State::Failed], not_states: vec![State::Failed], ..query() };
    assert_eq!(list(&owner, &all_refused), vec![]);
    assert_eq!(list(&owner, &TaskQuery { workflow_id: Some("w-1".to_owned()), ..narrow }), vec![]);
}

fn every_state_combination(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let state_of = |number: u64| State::ALL[(number * 7 % 9) as usize];
    let count = 45;
    owner.commit((0..count).map(|number| insert(Task { state: state_of(number), ..task(number) })).collect());
    for chosen in 0..512u32 {
        let states: Vec<_> = State::ALL.into_iter().filter(|state| chosen & (1 << *state as u32) != 0).collect();
        let wanted = |number: &u64| states.is_empty() || states.contains(&state_of(*number));
        let expected = numbers((0..count).rev().filter(wanted));
        let before = expected.get(expected.len() / 2).copied();
        let query = TaskQuery { states: states.clone(), ..query() };
        assert_eq!(list(&owner, &query), expected, "{states:?}");
        let rest = expected.iter().copied().filter(|id| before.is_none_or(|before| *id < before)).collect::<Vec<_>>();
        assert_eq!(list(&owner, &TaskQuery { before, ..query }), rest, "{states:?}");
    }
}

fn marks_among_many(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let spec = |number: u64| Spec {
        labels: (0..10).map(|at| (format!("l{at}").into(), format!("{}", number % 50).into())).collect(),
        correlation_id: number.is_multiple_of(3).then(|| format!("c{}", number % 30).into()),
        ..Spec::default()
    };
    owner.commit((0..500).map(|number| insert(with_spec(task(number), spec(number)))).collect());
    let label = |name: &str, value: &str| TaskQuery { labels: vec![(name.to_owned(), value.to_owned())], ..query() };
    assert_eq!(list(&owner, &label("l0", "7")), numbers((0..10).rev().map(|n| 7 + n * 50)));
    assert_eq!(list(&owner, &label("l7", "7")), numbers((0..10).rev().map(|n| 7 + n * 50)));
    assert_eq!(list(&owner, &label("l8", "7")), vec![], "eight labels of a task are searchable");
    let both = TaskQuery { correlation_id: Some("c27".to_owned()), ..label("l1", "7") };
    assert_eq!(list(&owner, &both), numbers([357, 207, 57]));
    assert_eq!(list(&owner, &TaskQuery { before: Some(id(207)), ..both }), numbers([57]));
}

/// Follows a list to its end.
fn follow(owner: &Owner, mut query: TaskQuery, mut between: impl FnMut()) -> Vec<TaskId> {
    let mut seen = Vec::new();
    for _ in 0..10_000 {
        let page = page(owner, &query);
        assert!(page.tasks.len() <= query.limit);
        seen.extend(ids(&page.tasks));
        let Some(next) = page.next else { return seen };
        assert!(query.before.is_none_or(|before| next < before), "the cursor has to go on");
        query.before = Some(next);
        between();
    }
    panic!("the list does not end");
}

fn pages_follow(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let state = |number: u64| if number.is_multiple_of(5) { State::Failed } else { State::Queued };
    owner.commit((0..300).map(|number| insert(Task { state: state(number), ..task(number) })).collect());
    for (limit, scan_limit) in [(1, 1), (7, 1_000), (7, 3), (100, 10), (300, 1_000), (1_000, 1_000)] {
        let query = TaskQuery { limit, scan_limit, ..query() };
        assert_eq!(follow(&owner, query.clone(), || ()), numbers((0..300).rev()));
        let failed = TaskQuery { states: vec![State::Failed], ..query.clone() };
        assert_eq!(follow(&owner, failed, || ()), numbers((0..60).rev().map(|n| n * 5)));
        let old = TaskQuery { created_until: Some(START + 20), ..query };
        assert_eq!(follow(&owner, old, || ()), numbers((0..20).rev()));
    }
}

fn pages_under_writes(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..100).map(|number| insert(task(number))).collect());
    let mut writer = Owner { store: owner.store.clone(), partition: 0, epoch: owner.epoch, index: owner.index };
    let mut number = 100;
    let seen = follow(&owner, TaskQuery { limit: 9, ..query() }, || {
        writer.commit(vec![insert(task(number)), update(running(number - 50)), update(succeeded(number - 100))]);
        number += 1;
    });
    assert_eq!(seen, numbers((0..100).rev()), "what came later is newer than the first page");
}

fn scan_limit(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..100).map(|number| insert(task(number))).collect());
    let rare = TaskQuery { priority: Some((9, 9)), scan_limit: 10, ..query() };
    let first = page(&owner, &rare);
    assert!(first.tasks.is_empty());
    assert_eq!(first.next, Some(id(90)), "ten rows were looked at");
    assert_eq!(first.searched_back_to, Some(START + 89));
    let last = page(&owner, &TaskQuery { before: Some(id(10)), ..rare });
    assert_eq!((last.next, last.searched_back_to), (None, None));
}

fn page_limit(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..1_100).map(|number| insert(task(number))).collect());
    let long = page(&owner, &TaskQuery { limit: 5_000, ..query() });
    assert_eq!((long.tasks.len(), long.next), (1_000, Some(id(100))));
    assert_eq!(page(&owner, &TaskQuery { limit: 0, ..query() }).tasks.len(), 1);
    let whole = page(&owner, &TaskQuery { before: Some(id(50)), limit: 50, ..query() });
    assert_eq!((whole.tasks.len(), whole.next, whole.searched_back_to), (50, None, None));
}

fn a_list_says_what_it_saw(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    assert_eq!(page(&owner, &query()).as_of, 0);
    owner.commit(vec![insert(Task { queue: QUEUE, ..task(1) })]);
    owner.commit(vec![insert(task(2))]);
    assert_eq!(page(&owner, &query()).as_of, 2);
}

fn finished_tasks_go(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let long = Task { input: Payload::Inline(vec![b'x'; 3_000].into()), ..succeeded(1) };
    let attempt = super::recovery::attempt(1, 1);
    owner.commit(vec![
        insert(with_spec(long, rich_spec())),
        tidewheel_engine::mutation::Mutation::PutAttempt(Box::new(attempt)),
        insert(failed(2, "E", "m")),
        insert(task(3)),
        insert(running(4)),
        insert(Task { changed: START + 1_000, ..succeeded(5) }),
    ]);
    assert_eq!(owner.store.sweep(0, 0, 100).unwrap(), 0);
    assert_eq!(owner.store.sweep(0, START + 100, 100).unwrap(), 2);
    assert_eq!(list(&owner, &query()), numbers([5, 4, 3]));
    assert_eq!(owner.store.attempts(TENANT, id(1)).unwrap(), vec![]);
    let labelled = TaskQuery { labels: vec![("env".to_owned(), "prod".to_owned())], ..query() };
    assert_eq!(list(&owner, &labelled), vec![]);
    let gone = owner.batch(vec![update(succeeded(1))]);
    assert!(owner.send(gone).is_err(), "what is gone cannot be changed");
    owner.index -= 1;
    owner.commit(vec![insert(task(1))]);
    assert_eq!(owner.task(1), Some(task(1)));
    fixture.reopen();
    let owner = Owner::of(fixture);
    assert_eq!(list(&owner, &query()), numbers([5, 4, 3, 1]));
}

fn sweeps_go_on(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let over = |number: u64| if number.is_multiple_of(3) { succeeded(number) } else { task(number) };
    owner.commit((0..300).map(|number| insert(over(number))).collect());
    let mut gone = 0;
    for _ in 0..1_000 {
        let now = owner.store.sweep(0, u64::MAX >> 1, 7).unwrap();
        assert!(now <= 7);
        gone += now;
        if gone == 100 {
            break;
        }
    }
    assert_eq!(gone, 100);
    assert_eq!(list(&owner, &TaskQuery { states: vec![State::Succeeded], ..query() }), vec![]);
    assert_eq!(page(&owner, &TaskQuery { limit: 1_000, ..query() }).tasks.len(), 200);
}
