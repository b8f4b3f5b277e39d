//! Runs inside a partition: turns in batches, tasks, timers, other runs, and a crash after every commit.

use std::sync::Arc;

use serde_json::json;
use tidewheel_engine::command::{GivenUp, RunAction, StartRun};
use tidewheel_engine::config::{QueueConfig, QueueState};
use tidewheel_engine::effect::Refusal;
use tidewheel_engine::id::{RequestId, RunId, SessionId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::partition::{Options, WithCompiler};
use tidewheel_engine::run::act::Outcome;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::eval::{Compiler, Definition};
use tidewheel_engine::run::head::{Head, Phase};
use tidewheel_engine::run::plan::ParentClose;
use tidewheel_engine::task::{Outcome as Ended, Payload, State};
use tidewheel_engine::view::View;
use tidewheel_engine::{Command, Reply};

use crate::bench::{Bench, TENANT, worker};
use crate::run::kit::{Flowchart, Handler, S};

/// Flowcharts by the text that stands for them.
#[derive(Debug)]
pub(crate) struct Charts(pub(crate) Vec<Arc<Flowchart>>);

impl Compiler for Charts {
    fn compile(&self, document: &[u8]) -> Result<Arc<dyn Definition>, String> {
        let at: usize = std::str::from_utf8(document).unwrap().parse().unwrap();
        Ok(self.0[at].clone())
    }
}

/// A partition that knows these workflows: the first is `test/flow`, the second `test/other`.
fn bench(charts: &[&[S]]) -> Bench {
    bench_with(charts, Options::default())
}

fn bench_with(charts: &[&[S]], options: Options) -> Bench {
    let made = charts.iter().enumerate().map(|(at, statements)| {
        let mut chart = Flowchart::of(statements);
        chart.plan.hash = [at as u8; 32];
        Arc::new(chart)
    });
    let compiler = WithCompiler(Some(Arc::new(Charts(made.collect()))));
    let mut bench = Bench::new(Options { compiler, ..options }, QueueConfig::default());
    let config = Some(Box::new(QueueConfig::default()));
    let state = Some(QueueState::Active);
    bench.ask(|request| Command::PutQueue {
        request,
        tenant: TENANT,
        name: "default".into(),
        config,
        state,
        expected: None,
    });
    for at in 0..charts.len() {
        let hash: String = [at as u8; 32].iter().map(|byte| format!("{byte:02x}")).collect();
        bench.put_record(RecordKind::Definition, &hash, &at.to_string());
        let name = ["flow", "other"][at];
        bench.put_record(RecordKind::Workflow, &format!("test/{name}/1.0.0"), &format!("{hash} {{}}"));
    }
    bench
}

pub(crate) fn start(name: &str) -> StartRun {
    StartRun {
        namespace: "test".into(),
        name: name.into(),
        version: "latest".into(),
        input: Data::of(json!({"n": 1})).0,
        correlation: None,
        claim: None,
    }
}

pub(crate) fn started(bench: &mut Bench) -> RunId {
    let reply = bench.ask(|request| Command::StartRun { request, tenant: TENANT, start: Box::new(start("flow")) });
    match reply {
        Reply::Run(head) => head.identity.run,
        other => panic!("not started: {other:?}"),
    }
}

pub(crate) fn head(bench: &mut Bench, run: RunId) -> Head {
    match bench.ask(|request| Command::Read { request, view: View::Run { tenant: TENANT, run } }) {
        Reply::Run(head) => *head,
        other => panic!("no run: {other:?}"),
    }
}

pub(crate) fn act(bench: &mut Bench, run: RunId, action: RunAction) -> Reply {
    bench.ask(|request| Command::ActOnRun { request, tenant: TENANT, run, action })
}

/// Ends every task that was granted, with its input as the result.
pub(crate) fn work(bench: &mut Bench, session: SessionId) -> usize {
    let grants = bench.granted();
    for grant in &grants {
        let outcome = Ended::Ok { result: grant.input.clone(), artifacts: Vec::new() };
        bench.apply(Command::Results { session, results: vec![(grant.task, grant.token, outcome)] });
        bench.settle();
    }
    grants.len()
}

/// Fails every attempt until none comes any more.
fn fail_all(bench: &mut Bench) {
    for _ in 0..5 {
        let session = bench.connect("w", worker(1));
        while let Some(grant) = bench.granted().pop() {
            bench.fail(session, grant.task);
        }
        bench.pass(60_000);
    }
}

pub(crate) fn output(head: &Head) -> serde_json::Value {
    match &head.outcome {
        Some(Outcome::Ok(data)) => data.written(),
        other => panic!("no output: {other:?}"),
    }
}

#[test]
fn a_run_without_outside_work_is_over_when_it_is_answered() {
    let mut bench = bench(&[&[S::Lit(json!(1)), S::Lit(json!({"a": 2}))]]);
    let run = started(&mut bench);
    let head = head(&mut bench, run);
    assert_eq!((head.phase, output(&head)), (Phase::Completed, json!({"a": 2})));
    let (_, stored) = &bench.store.runs[&run];
    assert_eq!(stored.segments.len(), 1, "one turn");
    assert!(stored.events.is_empty() && stored.timers.is_empty());
}

#[test]
fn steps_are_tasks_and_their_results_take_the_run_on() {
    let mut bench = bench(&[&[S::Task("a"), S::Task("b"), S::Task("c")]]);
    let session = bench.connect("w", worker(4));
    let run = started(&mut bench);
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let grants = bench.granted();
        assert_eq!(grants.len(), 1);
        kinds.push(grants[0].kind.to_string());
        let result = Payload::Inline(json!({"step": kinds.len()}).to_string().into());
        let outcome = Ended::Ok { result, artifacts: Vec::new() };
        bench.apply(Command::Results { session, results: vec![(grants[0].task, grants[0].token, outcome)] });
        bench.settle();
    }
    assert_eq!(kinds, ["a", "b", "c"]);
    let head = head(&mut bench, run);
    assert_eq!((head.phase, output(&head)), (Phase::Completed, json!({"step": 3})));
    assert!(bench.store.runs[&run].1.events.is_empty(), "what came was taken in by the batch that brought it");
}

#[test]
fn a_run_goes_on_after_a_crash_at_each_of_its_commits() {
    let flow = [
        S::Task("a"),
        S::Wait(1_000),
        S::Fork(false, vec![S::Task("b"), S::Do(vec![S::Wait(500), S::Task("c")])]),
        S::Child(ParentClose::Cancel, true),
        S::Map { items: json!([1, 2, 3, 4, 5]), concurrency: 2, batch: 1, collect: false },
        S::Lit(json!("done")),
    ];
    let other = [S::Task("d"), S::Wait(300)];
    // Without a cache, so that each event finds its run in the store.
    for (cache, crashes) in [(64 << 20, false), (64 << 20, true), (0, false), (0, true)] {
        let options = Options { run_cache: cache, ..Options::default() };
        let mut bench = bench_with(&[&flow, &other], options);
        let mut session = bench.connect("w", worker(4));
        let run = started(&mut bench);
        let mut done = 0;
        for _ in 0..100 {
            if crashes {
                // Everything that was not stored is gone, the worker too.
                bench.restart();
                bench.pass(4_001);
                session = bench.connect("w", worker(4));
            }
            done += work(&mut bench, session);
            bench.pass(200);
            if head(&mut bench, run).phase.ended() {
                break;
            }
        }
        let head = head(&mut bench, run);
        assert_eq!((head.phase, output(&head)), (Phase::Completed, json!("done")), "cache {cache}, crashes {crashes}");
        let succeeded = bench.store.tasks.values().filter(|task| task.state == State::Succeeded).count();
        assert_eq!(succeeded, 9, "each step once: a, b, c, d and five items");
        assert!(done >= 9);
        for (_, stored) in bench.store.runs.values() {
            assert!(stored.timers.is_empty() && stored.events.is_empty(), "{stored:?}");
        }
    }
}

#[test]
fn a_cancelled_run_cancels_what_it_waits_for() {
    let flow =
        [S::Fork(false, vec![S::Task("a"), S::Wait(60_000), S::Child(ParentClose::Cancel, true)]), S::Lit(json!(1))];
    let mut bench = bench(&[&flow, &[S::Task("d")]]);
    let run = started(&mut bench);
    let waiting = |bench: &Bench| bench.store.tasks.values().filter(|task| task.state == State::Queued).count();
    assert_eq!(waiting(&bench), 2);
    assert!(matches!(act(&mut bench, run, RunAction::Cancel("asked for".into())), Reply::Run(_)));
    assert_eq!(head(&mut bench, run).phase, Phase::Cancelled);
    assert_eq!(waiting(&bench), 0);
    for (_, stored) in bench.store.runs.values() {
        assert_eq!(stored.head.as_ref().unwrap().phase, Phase::Cancelled, "the child too");
        assert!(stored.timers.is_empty());
    }
    bench.pass(120_000);
    assert_eq!(head(&mut bench, run).phase, Phase::Cancelled);
}

#[test]
fn a_failed_task_is_an_error_that_a_try_catches() {
    let flow = [S::Try(
        vec![S::Task("a")],
        Handler { filter: None, retry: None, handler: Some(vec![S::Lit(json!("handled"))]) },
    )];
    let mut bench = bench(&[&flow]);
    let run = started(&mut bench);
    fail_all(&mut bench);
    let head = head(&mut bench, run);
    assert_eq!((head.phase, output(&head)), (Phase::Completed, json!("handled")));
}

#[test]
fn a_faulted_run_is_retried_from_what_failed_and_a_run_goes_back_to_a_key() {
    let mut bench = bench(&[&[S::Task("a"), S::Task("b")]]);
    let session = bench.connect("w", worker(1));
    let run = started(&mut bench);
    work(&mut bench, session);
    fail_all(&mut bench);
    assert_eq!(head(&mut bench, run).phase, Phase::Faulted);
    assert!(matches!(act(&mut bench, run, RunAction::Resume), Reply::Refused(Refusal::Conflict(_))));
    assert!(matches!(act(&mut bench, run, RunAction::Retry), Reply::Run(_)));
    let session = bench.connect("w", worker(1));
    work(&mut bench, session);
    assert_eq!(head(&mut bench, run).phase, Phase::Completed);
    let tasks = bench.store.tasks.len();
    let key: tidewheel_engine::id::Name = "/task:/do/1/step#0".into();
    let reply = act(&mut bench, run, RunAction::Reset(key.clone(), None, GivenUp::Undone));
    assert!(matches!(reply, Reply::Run(_)), "{reply:?}");
    assert_eq!(head(&mut bench, run).phase, Phase::Running);
    assert_eq!(bench.store.tasks.len(), tasks + 1, "only the second step is done again");
    work(&mut bench, session);
    assert_eq!(head(&mut bench, run).phase, Phase::Completed);
    let Reply::Run(fork) = act(&mut bench, run, RunAction::Fork(key, Some(Data::of(json!({"other": true})).0))) else {
        panic!("no fork")
    };
    let fork = fork.identity.run;
    assert_ne!(fork, run);
    work(&mut bench, session);
    let head = head(&mut bench, fork);
    assert_eq!((head.phase, output(&head)), (Phase::Completed, json!({"other": true})));
    let unknown = act(&mut bench, run, RunAction::Reset("/task:/do/9/none#0".into(), None, GivenUp::Undone));
    assert!(matches!(unknown, Reply::Refused(Refusal::Conflict(_))), "{unknown:?}");
}

#[test]
fn a_suspended_run_keeps_what_comes_and_goes_on_with_it() {
    let mut bench = bench(&[&[S::Task("a"), S::Wait(100), S::Lit(json!("end"))]]);
    let session = bench.connect("w", worker(1));
    let run = started(&mut bench);
    act(&mut bench, run, RunAction::Suspend("look first".into()));
    work(&mut bench, session);
    bench.restart();
    bench.pass(10_000);
    assert_eq!(head(&mut bench, run).phase, Phase::Suspended);
    act(&mut bench, run, RunAction::Resume);
    bench.pass(200);
    assert_eq!(head(&mut bench, run).phase, Phase::Completed);
}

#[test]
fn the_same_key_starts_one_run() {
    let mut bench = bench(&[&[S::Wait(1_000)]]);
    let claimed = |body| Box::new(StartRun { claim: Some(([9; 16], body)), ..start("flow") });
    let ask = |bench: &mut Bench, body| {
        bench.ask(|request: RequestId| Command::StartRun { request, tenant: TENANT, start: claimed(body) })
    };
    let Reply::Run(first) = ask(&mut bench, 1) else { panic!("not started") };
    bench.restart();
    let Reply::Run(again) = ask(&mut bench, 1) else { panic!("not started") };
    assert_eq!(first.identity.run, again.identity.run);
    assert!(matches!(ask(&mut bench, 2), Reply::Refused(Refusal::IdempotencyMismatch { .. })));
}

#[test]
fn another_tenant_sees_no_run() {
    let mut bench = bench(&[&[S::Wait(1_000)]]);
    let run = started(&mut bench);
    let tenant = tidewheel_engine::id::TenantId(99);
    for restart in [false, true] {
        if restart {
            bench.restart();
        }
        let reply = bench.ask(|request| Command::Read { request, view: View::Run { tenant, run } });
        assert!(matches!(reply, Reply::Refused(Refusal::NotFound)), "{reply:?}");
    }
    // Whoever asks first: what comes for the owner is not lost in between.
    bench.restart();
    let view = View::Run { tenant, run };
    bench.apply(Command::Read { request: RequestId(1 << 40), view });
    bench.pass(1_000);
    assert_eq!(head(&mut bench, run).phase, Phase::Completed);
    let run = started(&mut bench);
    let action = RunAction::Cancel("mine".into());
    let reply = bench.ask(|request| Command::ActOnRun { request, tenant, run, action });
    assert!(matches!(reply, Reply::Refused(Refusal::NotFound)), "{reply:?}");
    assert_eq!(head(&mut bench, run).phase, Phase::Waiting);
}

#[test]
fn a_signal_that_would_not_be_kept_is_refused() {
    let mut bench = bench(&[&[S::Wait(1_000)]]);
    let run = started(&mut bench);
    let signal = |n: usize| RunAction::Signal(format!("s{n}").as_str().into(), "go".into(), Data::null());
    for n in 0..tidewheel_engine::limit::INBOX {
        assert!(matches!(act(&mut bench, run, signal(n)), Reply::Run(_)), "{n}");
    }
    let reply = act(&mut bench, run, signal(usize::MAX));
    assert!(matches!(reply, Reply::Refused(Refusal::Overloaded { .. })), "{reply:?}");
    assert_eq!(head(&mut bench, run).inbox.len(), tidewheel_engine::limit::INBOX);
}

#[test]
fn a_python_call_gets_what_its_registration_says() {
    let call = |args: serde_json::Value| {
        S::kind(move |chart, _| {
            let target = tidewheel_engine::run::plan::Target::Python;
            tidewheel_engine::run::plan::Kind::Call {
                target,
                with: chart.lit(args.clone()),
                sealed: false,
                awaited: true,
            }
        })
    };
    let known = json!({"package": "reports", "entrypoint": "build", "args": {"n": 1}, "requires": {"os": "linux"}});
    let unknown = json!({"package": "reports", "entrypoint": "nothing"});
    let mut bench = bench(&[&[call(known), call(unknown)]]);
    let record = json!({
        "package": "reports", "version": "1.0.0", "hash": "ab".repeat(32), "entrypoint": "reports.tasks:build",
        "step": {"queue": "q", "priority": 8, "retry": {"max_attempts": 1}, "timeouts": {"run_ms": 5_000}},
    });
    bench.register("build", Some(&record.to_string()));
    let labels = vec![("os".into(), "linux".into())];
    let hello = tidewheel_engine::command::Hello { labels, ..worker(1) };
    let session = bench.connect("w", hello);
    let run = started(&mut bench);
    let grant = bench.granted().pop().expect("a task");
    assert_eq!((&*grant.kind, &*grant.queue, grant.priority, grant.max_attempts), ("build", "q", 8, 1));
    assert_eq!(grant.spec.entrypoint.as_deref(), Some("reports.tasks:build"));
    assert_eq!(grant.spec.package.as_deref(), Some(&*"ab".repeat(32)));
    assert_eq!((grant.run_ms, grant.input), (5_000, Payload::Inline(json!({"n": 1}).to_string().into())));
    bench.succeed(session, grant.task);
    let head = head(&mut bench, run);
    let Some(Outcome::Err(fault)) = &head.outcome else { panic!("{:?}", head.outcome) };
    assert_eq!(fault.0["detail"], "there is no package reports");
    assert!(fault.kind().ends_with("/configuration"), "{fault:?}");
}

/// An expression that needs more than the loop of a partition gives.
pub(crate) fn long() -> S {
    S::kind(|chart, _| {
        let steps = tidewheel_engine::limit::SLICE_STEPS * 2;
        tidewheel_engine::run::plan::Kind::Set(chart.costly(steps, |_| Ok(json!("long"))))
    })
}

#[test]
fn a_run_whose_first_turn_is_taken_elsewhere_is_there_after_a_crash() {
    let mut bench = bench(&[&[long(), S::Lit(json!("end"))]]);
    bench.apply(Command::StartRun { request: RequestId(1 << 40), tenant: TENANT, start: Box::new(start("flow")) });
    let first = bench.turn().expect("it is stored before it is answered");
    bench.land(first);
    let run = *bench.store.runs.keys().next().expect("a run");
    assert!(bench.store.runs[&run].1.head.is_some(), "a head stands for it until its first turn");
    // The turn that was handed out never comes back.
    bench.restart();
    assert_eq!(head(&mut bench, run).phase, Phase::Completed);
}

#[test]
fn a_cancel_of_a_task_that_has_to_be_read_first_outlives_a_crash() {
    let flow = [S::Fork(true, vec![S::Task("a"), S::Wait(1_000)]), S::Wait(3_600_000)];
    let mut bench = bench(&[&flow]);
    let run = started(&mut bench);
    assert_eq!(bench.store.tasks.len(), 1);
    // Its task is in the store alone.
    bench.restart();
    bench.now.wall += 2_000;
    bench.now.mono += 2_000;
    // The wait is over and wins; the commit that says so lands, and the read of the task does not come any more.
    for _ in 0..8 {
        let batch = bench.turn();
        batch.into_iter().for_each(|batch| bench.land(batch));
        if bench.store.runs[&run].1.segments.len() > 1 {
            break;
        }
        let loads = bench.p.take_loads();
        loads.into_iter().for_each(|load| bench.answer(load));
    }
    assert!(bench.store.runs[&run].1.segments.len() > 1, "the wait fired");
    bench.restart();
    bench.settle();
    let states: Vec<State> = bench.store.tasks.values().map(|task| task.state).collect();
    assert_eq!(states, [State::Cancelled]);
    assert!(bench.store.runs[&run].1.events.is_empty(), "nothing is left to be done");
}

#[test]
fn a_turn_that_was_taken_for_a_partition_that_was_loaded_anew_counts_for_nothing() {
    let mut bench = bench(&[&[S::Wait(1_000), long(), S::Lit(json!("end"))]]);
    let run = started(&mut bench);
    bench.now.wall += 2_000;
    bench.now.mono += 2_000;
    let mut works = Vec::new();
    for _ in 0..2 {
        // Each time the turn is handed out, and the partition is loaded anew before it comes back.
        let mut batch = bench.turn();
        for _ in 0..4 {
            let (next, effects) = match batch.take() {
                Some((next, effects)) => (Some(next), effects),
                None => (None, Vec::new()),
            };
            works.extend(effects.into_iter().filter_map(|effect| match effect {
                tidewheel_engine::Effect::Compute(work) => Some(work),
                _ => None,
            }));
            next.into_iter().for_each(|next| bench.land((next, Vec::new())));
            let loads = bench.p.take_loads();
            loads.into_iter().for_each(|load| bench.answer(load));
            batch = bench.turn();
        }
        bench.now.wall += 7;
        bench.restart();
    }
    for work in works {
        let (tenant, ticket, outcome) = (work.tenant, work.ticket, Box::new(work.run()));
        bench.apply(Command::TurnComputed { tenant, run, ticket, outcome });
    }
    bench.settle();
    let head = head(&mut bench, run);
    assert_eq!((head.phase, output(&head)), (Phase::Completed, json!("end")));
}

#[test]
fn without_a_cache_a_busy_run_does_not_keep_the_partition_from_going_on() {
    let flow = [S::Map { items: json!([1, 2, 3, 4, 5, 6, 7, 8]), concurrency: 8, batch: 1, collect: false }];
    let mut bench = bench_with(&[&flow], Options { run_cache: 0, ..Options::default() });
    let session = bench.connect("w", worker(8));
    let run = started(&mut bench);
    let grants = bench.granted();
    for grant in &grants {
        // All of them end in one batch: what is behind the first waits in line while the run is read.
        let outcome = Ended::Ok { result: grant.input.clone(), artifacts: Vec::new() };
        bench.apply(Command::Results { session, results: vec![(grant.task, grant.token, outcome)] });
    }
    bench.settle();
    assert_eq!(head(&mut bench, run).phase, Phase::Completed);
}

/// A run whose first step gave a large result, which the second statement reads and the third step follows.
fn with_a_large_result() -> (Bench, RunId, [u8; 32]) {
    let length = S::eval(|scope| json!(scope.dot().as_str().map_or(0, str::len)));
    let mut bench = bench(&[&[S::Task("a"), length, S::Task("b")]]);
    let session = bench.connect("w", worker(1));
    let run = started(&mut bench);
    let text = serde_json::to_vec(&json!("x".repeat(100_000))).unwrap();
    let (hash, size) = ([9; 32], text.len() as u64);
    bench.store.values.insert(hash, text.into());
    let grant = bench.granted().remove(0);
    let outcome = Ended::Ok { result: Payload::Blob { hash, size }, artifacts: Vec::new() };
    bench.apply(Command::Results { session, results: vec![(grant.task, grant.token, outcome)] });
    bench.settle();
    (bench, run, hash)
}

#[test]
fn the_large_result_of_a_step_is_kept_for_its_run_from_the_commit_on_that_brings_it() {
    let (bench, _, hash) = with_a_large_result();
    assert!(bench.store.kept.contains(&hash));
}

#[test]
fn a_reset_and_a_fork_read_the_large_values_of_the_journal_first() {
    let (mut bench, run, _) = with_a_large_result();
    let session = bench.connect("w", worker(1));
    work(&mut bench, session);
    assert_eq!(output(&head(&mut bench, run)), json!(100_000));
    let key = || "/set:/do/1/step#0".into();
    for action in [RunAction::Fork(key(), None), RunAction::Reset(key(), None, GivenUp::Undone)] {
        let reply = act(&mut bench, run, action);
        let Reply::Run(other) = reply else { panic!("{reply:?}") };
        work(&mut bench, session);
        assert_eq!(output(&head(&mut bench, other.identity.run)), json!(100_000));
    }
}

/// Bytes that a run of the flow below carries along.
const LARGE: usize = 200_000;

/// So many runs that carry much and wait for their tasks, with little room for runs in memory.
fn large_runs(count: usize, (run_cache, run_room): (usize, usize)) -> (Bench, Vec<RunId>) {
    let values = (0..4).map(|_| S::Lit(json!("x".repeat(LARGE / 4))));
    let flow = [S::Fork(false, values.chain([S::Task("a")]).collect()), S::Lit(json!("done"))];
    let options = Options { run_cache, run_room, ..Options::default() };
    let mut bench = bench_with(&[&flow], options);
    let runs = (0..count).map(|_| started(&mut bench)).collect();
    (bench, runs)
}

#[test]
fn runs_that_do_not_fit_into_memory_wait_in_the_store_and_all_of_them_go_on() {
    let (mut bench, runs) = large_runs(30, (2 * LARGE, 3 * LARGE));
    assert!(bench.p.run_figures().1 <= 2 * LARGE, "idle runs are let go: {:?}", bench.p.run_figures());
    let session = bench.connect("w", worker(64));
    let grants = bench.granted();
    assert_eq!(grants.len(), 30);
    for grant in &grants {
        let outcome = Ended::Ok { result: grant.input.clone(), artifacts: Vec::new() };
        bench.apply(Command::Results { session, results: vec![(grant.task, grant.token, outcome)] });
    }
    let (mut most, mut rounds) = (0, 0);
    loop {
        let batch = bench.turn();
        let loads = bench.p.take_loads();
        most = most.max(bench.p.run_figures().1);
        if batch.is_none() && loads.is_empty() {
            break;
        }
        batch.into_iter().for_each(|batch| bench.land(batch));
        loads.into_iter().for_each(|load| bench.answer(load));
        rounds += 1;
        assert!(rounds < 1_000);
    }
    // Those on their way count, by what is stored of them: what was asked for and came, and one more.
    assert!(most <= 3 * LARGE + LARGE * 3, "{most} bytes of runs in memory at a time");
    for run in runs {
        assert_eq!(head(&mut bench, run).phase, Phase::Completed);
    }
}

#[test]
fn a_reset_is_played_beside_the_loop_while_what_comes_for_the_run_waits() {
    let (mut bench, run, _) = with_a_large_result();
    let session = bench.connect("w", worker(1));
    work(&mut bench, session);
    let request = RequestId(2_000_000);
    let action = RunAction::Reset("/set:/do/1/step#0".into(), None, GivenUp::Undone);
    bench.apply(Command::ActOnRun { request, tenant: TENANT, run, action });
    // The read of the history is answered, and the loop plays none of its turns.
    let mut works = Vec::new();
    for _ in 0..10 {
        bench.turn().into_iter().for_each(|batch| bench.land(batch));
        let loads = bench.p.take_loads();
        loads.into_iter().for_each(|load| bench.answer(load));
        let (found, others) = std::mem::take(&mut bench.effects)
            .into_iter()
            .partition(|effect| matches!(effect, tidewheel_engine::Effect::Compute(_)));
        bench.effects = others;
        works = found;
        if !works.is_empty() {
            break;
        }
    }
    let Some(tidewheel_engine::Effect::Compute(work)) = works.pop() else { panic!("nothing to be played") };
    assert!(matches!(&work.work, tidewheel_engine::effect::Work::Back(back) if back.segments.len() > 1));
    let before = head(&mut bench, run);
    let signal = RunAction::Cancel("meanwhile".into());
    bench.apply(Command::ActOnRun { request: RequestId(2_000_001), tenant: TENANT, run, action: signal });
    bench.turn().into_iter().for_each(|batch| bench.land(batch));
    assert_eq!(head(&mut bench, run), before, "it stays as it is");
    let (tenant, run, ticket, outcome) = (work.tenant, work.run, work.ticket, Box::new(work.run()));
    bench.apply(Command::TurnComputed { tenant, run, ticket, outcome });
    bench.settle();
    assert_eq!(head(&mut bench, run).phase, Phase::Cancelled, "what waited comes after the reset");
}

#[test]
fn a_reset_says_which_large_value_is_gone() {
    let (mut bench, run, hash) = with_a_large_result();
    bench.store.values.remove(&hash);
    let reply = act(&mut bench, run, RunAction::Reset("/set:/do/1/step#0".into(), None, GivenUp::Undone));
    assert!(matches!(&reply, Reply::Refused(Refusal::Conflict(why)) if why.contains("0909")), "{reply:?}");
}

#[test]
fn no_run_is_started_from_outside_while_those_at_work_take_all_memory() {
    let (mut bench, _) = large_runs(2, (0, LARGE / 4));
    // What was started is not let go before it is stored.
    let ask = |bench: &mut Bench, number| {
        let request = RequestId(number);
        bench.apply(Command::StartRun { request, tenant: TENANT, start: Box::new(start("flow")) });
    };
    (1_000_001..1_000_004).for_each(|number| ask(&mut bench, number));
    bench.settle();
    let replies: Vec<&Reply> = bench
        .effects
        .iter()
        .filter_map(|effect| match effect {
            tidewheel_engine::Effect::Reply { request, reply } if request.0 > 1_000_000 => Some(reply),
            _ => None,
        })
        .collect();
    let refused = |reply: &&&Reply| matches!(reply, Reply::Refused(Refusal::Overloaded { what, retry_after_ms: 1_000 }) if what.contains("memory"));
    assert_eq!(replies.len(), 3);
    assert!(matches!(replies[0], Reply::Run(_)), "{:?}", replies[0]);
    assert_eq!(replies.iter().filter(refused).count(), 2, "{replies:?}");
}
