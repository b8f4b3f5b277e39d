//! Runs that go over to another version of their workflow, inside a partition.

use std::sync::Arc;

use serde_json::json;
use tidewheel_engine::command::{GivenUp, MoveRun, RunAction};
use tidewheel_engine::config::{QueueConfig, QueueState};
use tidewheel_engine::effect::{Computation, Effect, Refusal};
use tidewheel_engine::id::{RequestId, RunId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::partition::{Options, WithCompiler};
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::journal::{EntryKind, Fact};
use tidewheel_engine::run::plan::ParentClose;
use tidewheel_engine::task::{Outcome as Ended, State};
use tidewheel_engine::{Command, Reply};

use crate::bench::{Bench, TENANT, worker};
use crate::run::kit::{Flowchart, S};
use crate::runs::{Charts, act, head, output, started, work};

/// A partition that knows these versions of `test/flow`: 1.0.0, 2.0.0 and so on. The first is started.
fn versions(charts: &[&[S]]) -> Bench {
    let made = charts.iter().enumerate().map(|(at, statements)| {
        let mut chart = Flowchart::of(statements);
        chart.plan.hash = [at as u8; 32];
        chart.plan.version = format!("{}.0.0", at + 1).into();
        Arc::new(chart)
    });
    let compiler = WithCompiler(Some(Arc::new(Charts(made.collect()))));
    // Runs are read anew whenever something comes for them.
    let mut bench = Bench::new(Options { compiler, run_cache: 0, ..Options::default() }, QueueConfig::default());
    let (config, state) = (Some(Box::new(QueueConfig::default())), Some(QueueState::Active));
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
        if at == 0 {
            bench.put_record(RecordKind::Workflow, "test/flow/1.0.0", &format!("{hash} {{}}"));
        }
    }
    bench
}

fn go(bench: &mut Bench, run: RunId, to: u8) -> Reply {
    act(bench, run, RunAction::Move(MoveRun { plan: [to; 32], by: "ann".into(), at: None }))
}

fn refused(reply: Reply) -> String {
    match reply {
        Reply::Refused(Refusal::Conflict(why)) => why.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_run_moves_to_another_version_and_goes_on_with_it() {
    let old = [S::Task("a"), S::Lit(json!("old"))];
    let new = [S::Task("a"), S::Task("more"), S::Lit(json!("new"))];
    let mut bench = versions(&[&old, &new]);
    let run = started(&mut bench);
    assert!(matches!(go(&mut bench, run, 1), Reply::Run(head) if &*head.identity.version == "2.0.0"));
    bench.restart();
    let session = bench.connect("w", worker(1));
    assert_eq!((work(&mut bench, session), work(&mut bench, session)), (1, 1), "the task of the new version, too");
    let head = head(&mut bench, run);
    assert_eq!((head.phase, output(&head)), (Phase::Completed, json!("new")));
    let stored = bench.store.runs.values().next().map(|(_, stored)| stored.clone()).unwrap();
    let moved = stored.segments.iter().find(|segment| matches!(segment.event, Event::Moved { .. })).unwrap();
    let Some(Fact::Opened { key, value: Some(value), .. }) = moved.facts.first() else { panic!("{moved:?}") };
    assert_eq!(key.kind, EntryKind::Moved);
    let noted = moved.value(*value).unwrap().written();
    assert_eq!((&noted["from"]["version"], &noted["to"]["version"]), (&json!("1.0.0"), &json!("2.0.0")));
    assert_eq!(noted["by"], "ann");
}

#[test]
fn a_move_to_where_a_run_is_changes_nothing_and_one_that_does_not_fit_is_refused_with_the_statement() {
    let old = [S::Task("a"), S::Wait(60_000), S::Lit(json!(1))];
    let kind = [S::Lit(json!(0)), S::Task("a"), S::Lit(json!(1))];
    let short = [S::Do(vec![S::Task("a")])];
    let mut bench = versions(&[&old, &kind, &short]);
    let run = started(&mut bench);
    let turns = head(&mut bench, run).turns;
    assert!(matches!(go(&mut bench, run, 0), Reply::Run(_)));
    assert_eq!(head(&mut bench, run).turns, turns, "it follows that version");
    let why = refused(go(&mut bench, run, 1));
    assert!(why.contains("/do/0/step") && why.contains("`task`") && why.contains("`set`"), "{why}");
    let why = refused(go(&mut bench, run, 2));
    assert!(why.contains("/do/0/step"), "{why}");
    assert!(refused(go(&mut bench, run, 9)).contains("cannot be read"));
    assert_eq!(&*head(&mut bench, run).identity.version, "1.0.0");
    assert!(matches!(act(&mut bench, run, RunAction::Cancel("over".into())), Reply::Run(_)));
    assert!(refused(go(&mut bench, run, 1)).contains("ended"));
}

#[test]
fn what_is_open_in_branches_and_maps_has_to_be_of_the_same_shape() {
    let map = |batch| S::Map { items: json!([1, 2, 3, 4]), concurrency: 2, batch, collect: false };
    let old = [S::Fork(false, vec![S::Task("a"), S::Wait(60_000), map(2)])];
    let same = [S::Fork(false, vec![S::Task("b"), S::Wait(1), map(2)]), S::Lit(json!("more"))];
    let fewer = [S::Fork(false, vec![S::Task("a"), S::Wait(60_000)])];
    let competing = [S::Fork(true, vec![S::Task("a"), S::Wait(60_000), map(2)])];
    let other = [S::Fork(false, vec![S::Task("a"), S::Wait(60_000), map(1)])];
    let child = [S::Fork(false, vec![S::Child(ParentClose::Cancel, true), S::Wait(60_000), map(2)])];
    let mut bench = versions(&[&old, &same, &fewer, &competing, &other, &child]);
    let run = started(&mut bench);
    for (to, said) in [(2, "/do/0/step"), (3, "another shape"), (4, "another shape"), (5, "`child`")] {
        let why = refused(go(&mut bench, run, to));
        assert!(why.contains(said), "{to}: {why}");
    }
    assert!(matches!(go(&mut bench, run, 1), Reply::Run(_)));
    let session = bench.connect("w", worker(9));
    while work(&mut bench, session) > 0 {}
    bench.pass(60_000);
    let head = head(&mut bench, run);
    assert_eq!((head.phase, output(&head)), (Phase::Completed, json!("more")));
}

#[test]
fn a_run_moves_back_and_forth_and_its_whole_journal_still_folds() {
    let old = [S::Task("a"), S::Task("b"), S::Lit(json!("old"))];
    let new = [S::Task("a"), S::Task("b"), S::Task("c"), S::Lit(json!("new"))];
    let mut bench = versions(&[&old, &new]);
    let session = bench.connect("w", worker(1));
    let run = started(&mut bench);
    assert!(matches!(go(&mut bench, run, 1), Reply::Run(_)));
    work(&mut bench, session);
    assert!(matches!(go(&mut bench, run, 0), Reply::Run(_)));
    work(&mut bench, session);
    assert_eq!(output(&head(&mut bench, run)), json!("old"));
    // A reset plays the journal from its start, through both versions; the run stays with the one it has.
    let reply = act(&mut bench, run, RunAction::Reset("/task:/do/0/step#0".into(), None, GivenUp::Undone));
    assert!(matches!(reply, Reply::Run(_)), "{reply:?}");
    assert!(matches!(go(&mut bench, run, 1), Reply::Run(_)));
    for _ in 0..3 {
        work(&mut bench, session);
    }
    assert_eq!(output(&head(&mut bench, run)), json!("new"));
    let Reply::Run(fork) = act(&mut bench, run, RunAction::Fork("/task:/do/1/step#0".into(), None)) else {
        panic!("no fork")
    };
    assert_eq!(&*fork.identity.version, "2.0.0");
    while work(&mut bench, session) > 0 {}
    bench.restart();
    assert_eq!(output(&head(&mut bench, fork.identity.run)), json!("new"));
}

#[test]
fn a_reset_to_a_moment_that_the_new_version_does_not_know_is_refused_and_says_what_to_do() {
    let old = [S::Do(vec![S::Task("a")]), S::Task("b")];
    let new = [S::Lit(json!(0)), S::Task("b"), S::Lit(json!("new"))];
    let mut bench = versions(&[&old, &new]);
    let session = bench.connect("w", worker(1));
    let run = started(&mut bench);
    work(&mut bench, session);
    assert!(matches!(go(&mut bench, run, 1), Reply::Run(_)));
    let why =
        refused(act(&mut bench, run, RunAction::Reset("/task:/do/0/step/do/0/step#0".into(), None, GivenUp::Undone)));
    assert!(why.contains("move it back first"), "{why}");
    assert!(matches!(go(&mut bench, run, 0), Reply::Run(_)));
    let reply = act(&mut bench, run, RunAction::Reset("/task:/do/0/step/do/0/step#0".into(), None, GivenUp::Undone));
    assert!(matches!(reply, Reply::Run(_)), "{reply:?}");
    let queued = bench.store.tasks.values().filter(|task| task.state == State::Queued).count();
    assert_eq!(queued, 1);
}

#[test]
fn a_suspended_run_moves_and_stays_suspended() {
    let mut bench = versions(&[&[S::Task("a")], &[S::Task("a"), S::Lit(json!("new"))]]);
    let run = started(&mut bench);
    act(&mut bench, run, RunAction::Suspend("look first".into()));
    assert!(matches!(go(&mut bench, run, 1), Reply::Run(head) if head.phase == Phase::Suspended));
    assert!(refused(act(&mut bench, run, RunAction::Accept("ann".into()))).contains("nothing to accept"));
    let session = bench.connect("w", worker(1));
    work(&mut bench, session);
    act(&mut bench, run, RunAction::Resume);
    assert_eq!(output(&head(&mut bench, run)), json!("new"));
}

/// Turns, commits and reads, but no turn that was handed out comes back; those.
fn without_computing(bench: &mut Bench) -> Vec<Computation> {
    for _ in 0..20 {
        bench.turn().into_iter().for_each(|batch| bench.land(batch));
        let loads = bench.p.take_loads();
        loads.into_iter().for_each(|load| bench.answer(load));
    }
    let (works, others) =
        std::mem::take(&mut bench.effects).into_iter().partition(|effect| matches!(effect, Effect::Compute(_)));
    bench.effects = others;
    let work = |effect| match effect {
        Effect::Compute(work) => Some(*work),
        _ => None,
    };
    Vec::into_iter(works).filter_map(work).collect()
}

#[test]
fn whether_a_run_fits_is_asked_once_all_is_taken_in_that_came_before() {
    let fork = || S::Fork(false, vec![S::Do(vec![S::Task("a"), crate::runs::long()]), S::Task("b")]);
    let old = [fork(), S::Task("c"), S::Lit(json!("old"))];
    // The fork has a place in both, and what comes behind it only in one.
    let (fits, other) = ([fork(), S::Task("d"), S::Lit(json!("new"))], [fork(), S::Wait(60_000)]);
    for (to, new) in [(1, &fits[..]), (2, &other[..])] {
        let mut bench = versions(&[&old, &fits, &other]);
        let run = started(&mut bench);
        let session = bench.connect("w", worker(2));
        let both = bench.granted();
        assert_eq!(both.len(), 2, "{new:?}");
        for grant in &both {
            let outcome = Ended::Ok { result: grant.input.clone(), artifacts: Vec::new() };
            bench.apply(Command::Results { session, results: vec![(grant.task, grant.token, outcome)] });
        }
        // The turn of one of them takes long, and the other one waits behind it; the move comes behind both.
        let mut works = without_computing(&mut bench);
        assert_eq!(works.len(), 1);
        let action = RunAction::Move(MoveRun { plan: [to; 32], by: "ann".into(), at: None });
        bench.apply(Command::ActOnRun { request: RequestId(1 << 40), tenant: TENANT, run, action });
        assert!(without_computing(&mut bench).is_empty());
        let work = works.remove(0);
        let (tenant, ticket, outcome) = (work.tenant, work.ticket, Box::new(work.run()));
        bench.apply(Command::TurnComputed { tenant, run, ticket, outcome });
        bench.settle();
        let is_it = |effect: &Effect| matches!(effect, Effect::Reply { request, .. } if request.0 == 1 << 40);
        let at = bench.effects.iter().position(is_it).expect("an answer");
        let Effect::Reply { reply, .. } = bench.effects.remove(at) else { unreachable!() };
        let now = head(&mut bench, run).identity.version.clone();
        match to {
            1 => assert!(matches!(&reply, Reply::Run(head) if head.identity.version == now && &*now == "2.0.0")),
            _ => assert!(refused(reply).contains("/do/1/step") && &*now == "1.0.0"),
        }
    }
}
