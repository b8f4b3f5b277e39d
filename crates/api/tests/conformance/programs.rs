//! Programs (workflows in Python) on a partition over SQLite, plainly and with everything read again after every commit. The program is a
//! function here, which says what it wants by the history that it is given; like a process that was killed, it has nothing else.

use serde_json::{Value as Json, json};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::run::plan::Target;
use tidewheel_lang::program::ProgramDocument;
use tidewheel_lang::resolve::Resolved;
use tidewheel_lang::testkit::world::{Answer, Ask, Ended, Peer, Whom};

use crate::node::Node;

/// A program and the tasks that it calls.
struct Worker<P> {
    program: P,
    /// Tasks that were done, by name and number.
    done: Vec<String>,
    /// How many of the first undos fail.
    failing: usize,
    /// Activations, and the most turns that one was given.
    activations: usize,
    turns: usize,
}

impl<P: Fn(&[Json]) -> Json> Peer for Worker<P> {
    fn answer(&mut self, ask: &Ask<'_>) -> Answer {
        let Whom::Task(Target::Task(kind)) = ask.whom else { panic!("{ask:?}") };
        if &**kind == "flow" {
            let turns = ask.args["turns"].as_array().unwrap();
            let numbers: Vec<u64> = turns.iter().map(|turn| turn["no"].as_u64().unwrap()).collect();
            assert_eq!(numbers, (1..=turns.len() as u64).collect::<Vec<_>>(), "the history has all turns");
            (self.activations, self.turns) = (self.activations + 1, self.turns.max(turns.len()));
            return Answer::Ends(Ok((self.program)(turns)), 0);
        }
        self.done.push(format!("{kind} {}", ask.args["n"]));
        if &**kind == "undo" && self.failing > 0 {
            self.failing -= 1;
            return Answer::Ends(Err(json!({"type": "https://example.com/busy", "status": 503})), 0);
        }
        Answer::Ends(Ok(json!({"n": ask.args["n"], "text": "x".repeat(2_000)})), 0)
    }
}

fn command(kind: &str, name: &str, n: usize, args: &Json) -> Json {
    json!({"key": format!("/{kind}:{name}#{n}"), "kind": kind, "name": name, "args": args, "hash": "00"})
}

/// What the history says of a key.
fn done<'t>(turns: &'t [Json], key: &str) -> Option<&'t Json> {
    turns.iter().flat_map(|turn| turn["done"].as_array().unwrap()).find(|done| done["key"] == key)
}

impl<P> Worker<P> {
    fn new(program: P, failing: usize) -> Worker<P> {
        Worker { program, done: Vec::new(), failing, activations: 0, turns: 0 }
    }
}

/// Registers a package, version 1.0.0, with these entries.
fn register(node: &mut Node<'_>, name: &str, entries: &[&str]) {
    let entries: Vec<Json> =
        entries.iter().map(|entry| json!({"name": entry, "fn": format!("flows:{entry}")})).collect();
    let package = json!({"name": name, "version": "1.0.0", "hash": "ab".repeat(32), "created_at": "2026-01-01T00:00:00Z",
        "entries": entries});
    node.put(RecordKind::Package, &format!("{name}@1.0.0"), &package.to_string());
}

/// Runs a program to its end; the worker after it, and how many pages were read.
fn played<P: Fn(&[Json]) -> Json>(program: P, failing: usize, reload: bool) -> (Ended, Worker<P>, usize) {
    let mut worker = Worker::new(program, failing);
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::open(folder.path(), &mut worker, reload);
    register(&mut node, "flows", &["flow", "fetch", "undo"]);
    let (ended, _) = node.execute(&flow(), json!({}));
    let pages = node.pages.len();
    node.close();
    (ended, worker, pages)
}

/// The workflow `test/flow` of the package `flows`.
fn flow() -> Resolved {
    let document = ProgramDocument {
        namespace: "test".into(),
        name: "flow".into(),
        version: "1.0.0".into(),
        package: "flows".into(),
        package_version: "1.0.0".into(),
        package_hash: format!("sha256:{}", "ab".repeat(32)),
        function: "flows:flow".into(),
        tasks: vec!["fetch".into(), "undo".into()],
        ..ProgramDocument::default()
    };
    document.resolved().unwrap()
}

/// One task after the other, and at the end what they gave.
fn chain(count: usize) -> impl Fn(&[Json]) -> Json {
    move |turns| {
        let given: Vec<&Json> = (0..count).map_while(|n| done(turns, &format!("/task:fetch#{n}"))).collect();
        match given.len() {
            n if n == count => {
                let numbers: Vec<&Json> = given.iter().map(|done| &done["value"]["n"]).collect();
                json!({"v": 1, "commands": [], "end": {"ok": numbers}})
            }
            n => {
                let task = command("task", "fetch", n, &json!({"n": n}));
                json!({"v": 1, "commands": [task], "wait": [{"mode": "all", "keys": [task["key"]]}]})
            }
        }
    }
}

#[test]
fn a_program_goes_on_from_the_pages_of_its_history_when_everything_is_read_again_after_every_commit() {
    const STEPS: usize = 40;
    for reload in [false, true] {
        let (ended, worker, pages) = played(chain(STEPS), 0, reload);
        assert_eq!(ended, Ended::Completed((0..STEPS).collect()), "reload: {reload}");
        assert_eq!(worker.done, (0..STEPS).map(|n| format!("fetch {n}")).collect::<Vec<_>>(), "each once, in order");
        assert_eq!((worker.activations, worker.turns), (STEPS + 1, STEPS + 1));
        assert!(pages > 2, "{pages} pages");
    }
}

#[test]
fn what_a_program_armed_with_large_arguments_is_undone_after_everything_was_read_again() {
    // Beyond what a run carries along.
    let large = json!({"n": 7, "text": "x".repeat(100_000)});
    let program = |turns: &[Json]| match done(turns, "/task:fetch#0") {
        Some(_) => json!({"v": 1, "commands": [], "end": {"error": {"detail": "it failed"}}}),
        None => {
            let commands = [command("undo", "undo", 0, &large), command("task", "fetch", 0, &json!({"n": 0}))];
            json!({"v": 1, "commands": commands, "wait": [{"mode": "all", "keys": ["/task:fetch#0"]}]})
        }
    };
    for reload in [false, true] {
        for failing in [0, 2] {
            let (ended, worker, _) = played(program, failing, reload);
            let Ended::Faulted(error) = ended else { panic!("{ended:?}") };
            assert_eq!(error["detail"], "it failed", "reload: {reload}, {failing} fail: {error}");
            let undone = worker.done.iter().filter(|done| *done == "undo 7").count();
            assert_eq!(undone, failing + 1, "{:?}", worker.done);
        }
    }
}

#[test]
fn an_undo_whose_package_is_gone_faults_the_run_by_name_and_is_done_with_a_retry_once_it_is_there_again() {
    let program = |turns: &[Json]| match done(turns, "/task:fetch#0") {
        Some(_) => json!({"v": 1, "commands": [], "end": {"error": {"detail": "it failed"}}}),
        None => {
            let mut undo = command("undo", "undo", 0, &json!({"n": 7}));
            undo["opts"] = json!({"package": "tools@1.0.0"});
            let commands = [undo, command("task", "fetch", 0, &json!({"n": 0}))];
            json!({"v": 1, "commands": commands, "wait": [{"mode": "all", "keys": ["/task:fetch#0"]}]})
        }
    };
    for reload in [false, true] {
        let mut worker = Worker::new(program, 0);
        let folder = tempfile::tempdir().unwrap();
        let mut node = Node::open(folder.path(), &mut worker, reload);
        register(&mut node, "flows", &["flow", "fetch"]);
        let (Ended::Faulted(error), _) = node.execute(&flow(), json!({})) else { panic!("not faulted") };
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        assert!(text(&error["detail"]).contains("the undo of `undo` failed for good"), "{error}");
        assert!(text(&error["detail"]).contains("a retry of the run goes on with it"), "{error}");
        assert!(text(&error["undo"]["error"]["detail"]).contains("there is no package tools@1.0.0"), "{error}");
        assert_eq!((&error["undo"]["remains"], &error["cause"]["detail"]), (&json!(["undo"]), &json!("it failed")));
        // Somebody uploads that version again.
        register(&mut node, "tools", &["undo"]);
        let run = node.run();
        let Ended::Faulted(error) = node.retry(run) else { panic!("not faulted") };
        assert_eq!(error["detail"], "it failed", "what remained was undone, and the program began anew");
        node.close();
        // ... and undid what it did then.
        assert_eq!(worker.done, ["fetch 0", "undo 7", "fetch 0", "undo 7"], "reload: {reload}");
    }
}
