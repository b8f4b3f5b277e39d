//! Items: tasks that a caller takes for a lease and settles, without a worker.

use tidewheel_engine::command::{Settlement, Submit};
use tidewheel_engine::config::{QueueConfig, QueueState, RetryPolicy};
use tidewheel_engine::effect::{Grant, Refusal};
use tidewheel_engine::id::{RequestId, TaskId, Token};
use tidewheel_engine::partition::Options;
use tidewheel_engine::task::{Failure, ITEM, Outcome, Payload, Spec, State};
use tidewheel_engine::{Command, Effect, Reply};

use crate::bench::{Bench, START, TENANT, ordered, task, tight, worker};

const LEASE: u64 = 60_000;

fn item() -> Submit {
    item_of(Spec::default())
}

fn item_of(spec: Spec) -> Submit {
    Submit { kind: "item".into(), ..task(Spec { requires: vec![(ITEM.0.into(), ITEM.1.into())], ..spec }) }
}

fn bench() -> Bench {
    Bench::new(Options::default(), QueueConfig::default())
}

/// Asks for items; the answer comes when it comes.
fn ask(bench: &mut Bench, number: u64, most: u32, wait_ms: u64) {
    let (queue, taker) = ("q".into(), "ann".into());
    let request = RequestId(number);
    bench.apply(Command::Take { request, tenant: TENANT, queue, taker, most, lease_ms: LEASE, wait_ms });
    bench.settle();
}

fn answer(bench: &Bench, number: u64) -> Option<Reply> {
    bench.effects.iter().find_map(|effect| match effect {
        Effect::Reply { request, reply } if request.0 == number => Some(reply.clone()),
        _ => None,
    })
}

fn taken(bench: &Bench, number: u64) -> Option<Vec<Grant>> {
    match answer(bench, number)? {
        Reply::Taken(grants) => Some(grants),
        other => panic!("{other:?}"),
    }
}

fn take(bench: &mut Bench, number: u64) -> Grant {
    ask(bench, number, 1, 0);
    taken(bench, number).expect("an answer").pop().expect("an item")
}

fn settle(bench: &mut Bench, number: u64, (task, token): (TaskId, Token), how: Settlement) -> Reply {
    bench.apply(Command::Settle { request: RequestId(number), tenant: TENANT, task, token, how });
    bench.settle();
    answer(bench, number).expect("an answer")
}

fn done() -> Settlement {
    Settlement::End(Outcome::Ok { result: Payload::Inline("1".into()), artifacts: Vec::new() })
}

fn failed(retryable: bool) -> Settlement {
    let failure = Failure { retryable, ..Failure::ours("E", "e") };
    Settlement::End(Outcome::Failed { failure, artifacts: Vec::new(), cancelled: false })
}

#[test]
fn an_item_is_taken_by_a_caller_and_never_given_to_a_worker() {
    let mut bench = bench();
    bench.connect("w", worker(10));
    let id = bench.submit(item());
    assert_eq!(bench.state(id), State::Queued, "the free worker does not get it");
    assert_eq!(bench.why(id), ["not-taken"]);
    let grant = take(&mut bench, 900);
    assert_eq!((grant.task, grant.attempt), (id, 1));
    assert_eq!((bench.state(id), bench.store.tasks[&id].lease_ms()), (State::Running, LEASE));
    assert!(
        matches!(settle(&mut bench, 901, (id, grant.token), done()), Reply::Task(t) if t.state == State::Succeeded)
    );
    // A repeat of the call whose answer was lost is told the same; another end under the token is not.
    assert!(
        matches!(settle(&mut bench, 902, (id, grant.token), done()), Reply::Task(t) if t.state == State::Succeeded)
    );
    let late = settle(&mut bench, 903, (id, grant.token), failed(true));
    assert!(matches!(late, Reply::Refused(Refusal::Conflict(_))), "{late:?}");
    assert!(bench.p.audit().queues.is_empty(), "its permit is back");
}

#[test]
fn a_caller_waits_for_an_item_as_long_as_it_said() {
    let mut bench = bench();
    ask(&mut bench, 900, 2, 5_000);
    ask(&mut bench, 901, 2, 9_000);
    assert_eq!(taken(&bench, 900), None);
    bench.pass(5_000);
    assert_eq!(taken(&bench, 900), Some(Vec::new()), "its wait is over");
    let id = bench.submit(item());
    assert_eq!(taken(&bench, 901).map(|grants| grants[0].task), Some(id), "the other one still waited");
    bench.pass(10_000);
    assert_eq!(bench.state(id), State::Running);
}

#[test]
fn a_lease_that_runs_out_counts_as_an_attempt_and_the_old_token_is_refused() {
    let retry = RetryPolicy { max_attempts: 2, ..RetryPolicy::default() };
    let mut bench = Bench::new(Options::default(), QueueConfig { retry, ..QueueConfig::default() });
    let id = bench.submit(item());
    let first = take(&mut bench, 900);
    bench.pass(LEASE - 1_000);
    assert!(matches!(settle(&mut bench, 901, (id, first.token), Settlement::Renew), Reply::Task(_)));
    bench.pass(LEASE - 1);
    assert_eq!(bench.state(id), State::Running, "it was renewed");
    bench.pass(1);
    assert_eq!(bench.state(id), State::Queued, "at once, without a backoff");
    let late = settle(&mut bench, 902, (id, first.token), done());
    assert!(matches!(late, Reply::Refused(Refusal::Conflict(_))), "{late:?}");
    let second = take(&mut bench, 903);
    assert_eq!((second.attempt, second.token > first.token), (2, true));
    let late = settle(&mut bench, 904, (id, first.token), done());
    assert!(matches!(late, Reply::Refused(Refusal::Conflict(_))), "{late:?}");
    bench.pass(LEASE);
    assert_eq!(bench.state(id), State::Dead, "two attempts are used up");
}

#[test]
fn a_taken_item_is_still_its_takers_after_a_restart_and_its_lease_begins_anew() {
    let mut bench = bench();
    let id = bench.submit(item());
    let grant = take(&mut bench, 900);
    bench.pass(LEASE - 1_000);
    bench.restart();
    bench.pass(LEASE - 1_000);
    assert_eq!(bench.state(id), State::Running, "no worker claims it, and none has to");
    assert!(
        matches!(settle(&mut bench, 901, (id, grant.token), done()), Reply::Task(t) if t.state == State::Succeeded)
    );
    let other = bench.submit(item());
    take(&mut bench, 902);
    bench.restart();
    bench.pass(LEASE);
    assert_eq!(bench.state(other), State::Queued, "it ends at last");
}

#[test]
fn a_business_error_is_final_a_system_error_is_tried_again_and_a_postponed_item_comes_back() {
    let mut bench = bench();
    let (a, b, c) = (bench.submit(item()), bench.submit(item()), bench.submit(item()));
    let grants: Vec<Grant> = (900..903).map(|n| take(&mut bench, n)).collect();
    let at = |n: usize| (grants[n].task, grants[n].token);
    assert_eq!([at(0).0, at(1).0, at(2).0], [a, b, c], "in the order of their acceptance");
    settle(&mut bench, 910, at(0), failed(false));
    settle(&mut bench, 911, at(1), failed(true));
    settle(&mut bench, 912, at(2), Settlement::Postpone { delay_ms: 30_000 });
    assert_eq!([bench.state(a), bench.state(b), bench.state(c)], [State::Failed, State::Scheduled, State::Scheduled]);
    bench.pass(10_000);
    assert_eq!([bench.state(b), bench.state(c)], [State::Queued, State::Scheduled]);
    bench.pass(20_000);
    let again: Vec<(TaskId, u32)> = (920..922).map(|n| take(&mut bench, n)).map(|g| (g.task, g.max_attempts)).collect();
    assert_eq!(again, [(b, 3), (c, 4)], "what was postponed used up none of its attempts");
}

#[test]
fn limits_order_and_pauses_hold_for_items_too() {
    let mut bench = Bench::new(Options::default(), QueueConfig { concurrency: 2, ..QueueConfig::default() });
    let ordered = || item_of(Spec { ordering_key: Some("k".into()), ..Spec::default() });
    let first = bench.submit(ordered());
    bench.submit(ordered());
    let others = [bench.submit(item()), bench.submit(item())];
    ask(&mut bench, 900, 10, 0);
    let got: Vec<TaskId> = taken(&bench, 900).unwrap_or_default().iter().map(|g| g.task).collect();
    assert_eq!(got.len(), 2, "the queue's limit");
    assert!(got.contains(&first) && got.iter().any(|id| others.contains(id)), "one of the key at a time");
    bench.put_queue(QueueConfig::default(), QueueState::Paused);
    ask(&mut bench, 901, 10, 0);
    assert_eq!(taken(&bench, 901), Some(Vec::new()), "it is paused");
    bench.put_queue(QueueConfig::default(), QueueState::Active);
    ask(&mut bench, 902, 10, 0);
    assert_eq!(taken(&bench, 902).map(|g| g.len()), Some(1), "the second of the key waits for the first");
}

#[test]
fn why_a_task_waits_names_what_goes_first_in_its_ordering_key() {
    let mut bench = bench();
    let before = |bench: &mut Bench, id| -> Vec<(&str, Option<TaskId>)> {
        bench.reasons(id).into_iter().map(|reason| (reason.code, reason.task)).collect()
    };
    let first = bench.submit(item_of(Spec { ordering_key: Some("k".into()), ..Spec::default() }));
    let second = bench.submit(ordered("k"));
    let third = bench.submit(ordered("k"));
    bench.connect("w", worker(10));
    assert_eq!(before(&mut bench, first), [("not-taken", None)]);
    for id in [second, third] {
        assert_eq!(before(&mut bench, id), [("ordering", Some(first))], "nobody has taken the item");
    }
    let text = bench.reasons(second).remove(0).text;
    assert_eq!(text, "it waits behind an item of ordering key k that nobody has taken");
    let grant = take(&mut bench, 900);
    assert_eq!(before(&mut bench, second), [("ordering", Some(first))], "it was taken and has not ended");
    settle(&mut bench, 901, (first, grant.token), done());
    assert_eq!(before(&mut bench, second), [("running", None)]);
    assert_eq!(before(&mut bench, third), [("ordering", Some(second))]);
}

#[test]
fn why_a_task_waits_names_the_next_item_after_the_first_was_cancelled() {
    let mut bench = bench();
    let item = || item_of(Spec { ordering_key: Some("k".into()), ..Spec::default() });
    let (first, second, last) = (bench.submit(item()), bench.submit(item()), bench.submit(ordered("k")));
    bench.connect("w", worker(10));
    bench.cancel(first);
    let reasons = bench.reasons(last);
    assert_eq!((reasons.len(), reasons[0].code, reasons[0].task), (1, "ordering", Some(second)));
    bench.cancel(second);
    assert_eq!(bench.why(last), ["running"]);
}

#[test]
fn whoever_does_not_wait_is_answered_at_once_though_the_queue_is_paused_and_its_items_are_in_the_store() {
    let mut bench = Bench::new(tight(), QueueConfig::default());
    let ids: Vec<TaskId> =
        (0..6).map(|_| bench.submit(item_of(Spec { ordering_key: Some("k".into()), ..Spec::default() }))).collect();
    bench.put_queue(QueueConfig::default(), QueueState::Paused);
    // Nothing is left in memory of the key, and nobody reads on while the queue gives nothing.
    ids.iter().take(2).for_each(|id| bench.cancel(*id));
    ask(&mut bench, 900, 1, 0);
    assert_eq!(taken(&bench, 900), Some(Vec::new()));
    ask(&mut bench, 901, 1, 1_000);
    assert_eq!(taken(&bench, 901), None, "it waits as long as it said");
    bench.pass(1_000);
    assert_eq!(taken(&bench, 901), Some(Vec::new()));
    bench.put_queue(QueueConfig::default(), QueueState::Active);
    assert_eq!(take(&mut bench, 902).task, ids[2]);
}

#[test]
fn items_that_are_only_in_the_store_are_found() {
    let mut bench = Bench::new(tight(), QueueConfig::default());
    let keyed = |n: u64| item_of(Spec { concurrency_key: Some(format!("k{n}").into()), ..Spec::default() });
    let mut ids: Vec<TaskId> = (0..20).map(|n| bench.submit(keyed(n))).collect();
    ids.sort();
    bench.restart();
    let mut got = Vec::new();
    for number in 900..920 {
        ask(&mut bench, number, 1, 0);
        got.extend(taken(&bench, number).unwrap_or_default().into_iter().map(|g| g.task));
    }
    got.sort();
    assert_eq!(got, ids);
}

#[test]
fn a_cancelled_item_is_its_takers_no_longer() {
    let mut bench = bench();
    let id = bench.submit(item());
    let grant = take(&mut bench, 900);
    bench.cancel(id);
    assert_eq!(bench.state(id), State::Cancelled);
    let late = settle(&mut bench, 901, (id, grant.token), done());
    assert!(matches!(late, Reply::Refused(Refusal::Conflict(_))), "{late:?}");
    let worker_task = bench.submit(task(Spec::default()));
    let refused = settle(&mut bench, 902, (worker_task, grant.token), done());
    assert!(matches!(refused, Reply::Refused(Refusal::Conflict(_))), "{refused:?}");
    assert!(bench.now.wall >= START);
}

#[test]
fn a_node_that_is_about_to_end_sends_waiting_callers_away() {
    let mut bench = bench();
    ask(&mut bench, 900, 1, 60_000);
    bench.p.hold_grants(true);
    bench.settle();
    assert_eq!(taken(&bench, 900), Some(Vec::new()));
}
