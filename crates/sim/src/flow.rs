//! Workflows of a run: some that are always there, one for each construct, and some that the seed makes up. Each is a function
//! of one number, so that a step that is lost, done twice or out of order shows in what comes out.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::{Value as Json, json};
use tidewheel_engine::run::eval::{Compiler, Definition};
use tidewheel_engine::run::journal::EntryKind;
use tidewheel_engine::run::plan::VersionPolicy;
use tidewheel_lang::compile::Language;
use tidewheel_lang::feature::Features;
use tidewheel_lang::program::ProgramDocument;
use tidewheel_lang::resolve::{Offline, Options, deploy};

use crate::rng::Rng;

mod fixed;
mod later;
mod mixed;
mod pair;
mod spoiled;

use fixed::fixed;
pub(crate) use spoiled::Spoiled;
pub use spoiled::definitions;

/// Namespace of all of them.
pub const NAMESPACE: &str = "sim";
/// Version of all of them.
pub const VERSION: &str = "1.0.0";
/// Type of the signal that some wait for, and the number it brings.
pub const SIGNAL: (&str, i64) = ("go", 7);
/// Name of the promise that some programs wait for; it brings the number of the signal.
pub const PROMISE: &str = "kept";
/// Version of what is deployed in the middle of a run.
pub const NEXT_VERSION: &str = "2.0.0";
/// Version of what is deployed later still.
pub const LAST_VERSION: &str = "3.0.0";
/// All versions, in order.
pub const VERSIONS: [&str; 3] = [VERSION, NEXT_VERSION, LAST_VERSION];
/// The package that has all programs and what they call.
pub const PACKAGE: &str = "flows";
/// How often a body is tried again, and after which time.
pub(crate) const RETRIES: u32 = 2;
/// See [`RETRIES`].
pub(crate) const RETRY_MS: u64 = 400;
/// What is put in place of the number by a handler of an error.
pub(crate) const CAUGHT: i64 = 1_000;
/// Workflows that a seed makes up.
const MADE: usize = 3;

/// A statement. Each takes `{n}` and gives `{n}`.
#[derive(Clone, Debug)]
pub(crate) enum Statement {
    /// A task: n + 1.
    Step(u8),
    /// A task that fails whenever it is tried.
    Fails(u8),
    /// So many milliseconds.
    Wait(u64),
    /// n + k.
    Add(i64),
    /// An expression that needs more than a slice: n.
    Heavy,
    /// The sum of the branches.
    Fork(Vec<Vec<Statement>>),
    /// The first of two that give the same: n + 1.
    Race(u64),
    /// So many times, each with the output of the one before.
    For(u64, Vec<Statement>),
    /// With retries and, when they are used up, another number.
    Try(Vec<Statement>, bool),
    /// Another workflow.
    Child(usize),
    /// Tasks for 0, 1, 2 ..: n + the sum of their results.
    Map(u64, u32),
    /// Runs for 0, 1, 2 ..: n + the sum of their results.
    MapRuns(u64, usize),
    /// A signal that brings a number.
    Listen,
    /// Steps one after another, each one more: n + their number.
    Saga(Trip),
    /// A saga of one step, against a time: n + 1 either way. The one that loses is undone.
    Outrun(u64),
    /// A saga that a time limit of so many milliseconds stops, unless it is done by then: the number of an error.
    Overtaken(u64, Trip),
    /// A promise that brings the same number. Programs alone have it, and what follows.
    Promise,
    /// What it did is to be undone if it fails: n.
    Undo(u8),
    /// The marker of a patch: n.
    Patch(u8),
}

/// The steps of a saga.
#[derive(Clone, Debug)]
pub(crate) struct Trip {
    /// The kind of each, and whether it can be undone.
    pub(crate) steps: Vec<(u8, bool)>,
    /// How often an undo is tried again.
    pub(crate) retries: u32,
    /// After all of them it fails.
    pub(crate) fails: bool,
}

/// A workflow.
#[derive(Debug)]
pub struct Flow {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: &'static str,
    /// Whether it is a program rather than a document of the language.
    pub program: bool,
    /// How often it continues as new.
    pub rounds: u64,
    /// What is stored of it.
    pub document: String,
    /// SHA-256 of that, in hex.
    pub hash: String,
    /// Compiled.
    pub definition: Arc<dyn Definition>,
    pub(crate) statements: Vec<Statement>,
}

/// The workflows of a run. Children stand before those that start them.
#[derive(Clone, Debug, Default)]
pub struct Flows(Vec<Arc<Flow>>);

impl Flows {
    /// Those of a seed.
    pub fn new(rng: &mut Rng) -> Flows {
        static FIXED: OnceLock<Vec<Arc<Flow>>> = OnceLock::new();
        let mut all = FIXED.get_or_init(fixed).clone();
        for number in 0..MADE {
            let mut left = 6;
            let made = some(rng, &all, &mut left, 0);
            let who = Who { name: &format!("made-{number}"), version: VERSION, policy: policy_of(number) };
            all.push(flow(who, made, &all));
        }
        if rng.chance(0.6) {
            programs(rng, &mut all);
        }
        Flows(all)
    }

    /// A version of one.
    pub fn find(&self, name: &str, version: &str) -> Option<&Arc<Flow>> {
        self.0.iter().find(|flow| flow.name == name && flow.version == version)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Flow>> {
        self.0.iter()
    }

    /// One by chance.
    pub fn pick(&self, rng: &mut Rng) -> Option<Arc<Flow>> {
        let picked = (!self.0.is_empty()).then(|| rng.pick(&self.0).clone())?;
        // A later version is that of its time, and asked for as the latest.
        self.find(&picked.name, VERSION).cloned()
    }

    /// What a run may give for a number: first what it gives if no step fails.
    pub fn results(&self, name: &str, version: &str, n: i64) -> Vec<i64> {
        let Some(flow) = self.find(name, version) else { return Vec::new() };
        (0..=flow.rounds).fold(vec![n], |values, _| self.walk(&flow.statements, values))
    }

    /// What a run opens of tasks, sleeps, children and maps if no step fails: the same in either way of saying it. `None` = that depends
    /// on how fast it is.
    pub fn entries(&self, name: &str, version: &str) -> Option<BTreeMap<EntryKind, u64>> {
        let mut counts = BTreeMap::new();
        let flow = self.find(name, version)?;
        (0..=flow.rounds).all(|_| count(&flow.statements, 1, &mut counts)).then_some(counts)
    }

    fn walk(&self, statements: &[Statement], from: Vec<i64>) -> Vec<i64> {
        statements.iter().fold(from, |values, statement| {
            let mut found = Vec::new();
            for n in values.iter().flat_map(|n| self.one(statement, *n)) {
                if !found.contains(&n) {
                    found.push(n);
                }
            }
            found
        })
    }

    fn one(&self, statement: &Statement, n: i64) -> Vec<i64> {
        match statement {
            Statement::Step(_) | Statement::Race(_) | Statement::Outrun(_) => vec![n + 1],
            Statement::Fails(_) => Vec::new(),
            Statement::Saga(trip) if trip.fails => Vec::new(),
            Statement::Saga(trip) => vec![n + trip.steps.len() as i64],
            Statement::Overtaken(..) => vec![CAUGHT],
            Statement::Wait(_) | Statement::Heavy => vec![n],
            Statement::Add(k) => vec![n + k],
            Statement::Listen | Statement::Promise => vec![n + SIGNAL.1],
            Statement::Undo(_) | Statement::Patch(_) => vec![n],
            Statement::Fork(branches) => branches.iter().fold(vec![0], |sums, branch| {
                let each = self.walk(branch, vec![n]);
                sums.iter().flat_map(|sum| each.iter().map(move |m| sum + m)).collect()
            }),
            Statement::For(times, body) => (0..*times).fold(vec![n], |values, _| self.walk(body, values)),
            Statement::Try(body, _) => {
                let mut values = self.walk(body, vec![n]);
                values.push(CAUGHT);
                values
            }
            Statement::Child(of) => self.walk(&self.0[*of].statements, vec![n]),
            Statement::Map(items, _) => vec![n + (0..*items as i64).map(|item| item + 1).sum::<i64>()],
            Statement::MapRuns(items, of) => (0..*items as i64).fold(vec![n], |sums, item| {
                let each = self.walk(&self.0[*of].statements, vec![item]);
                sums.iter().flat_map(|sum| each.iter().map(move |m| sum + m)).collect()
            }),
        }
    }
}

fn count(statements: &[Statement], times: u64, counts: &mut BTreeMap<EntryKind, u64>) -> bool {
    let mut known = true;
    for statement in statements {
        let mut add = |kind| *counts.entry(kind).or_default() += times;
        match statement {
            Statement::Step(_) => add(EntryKind::Task),
            Statement::Wait(_) => add(EntryKind::Sleep),
            Statement::Child(_) => add(EntryKind::Child),
            Statement::Map(..) | Statement::MapRuns(..) => add(EntryKind::Map),
            Statement::Race(_) | Statement::Outrun(_) => [EntryKind::Task, EntryKind::Sleep].into_iter().for_each(add),
            Statement::Fork(branches) => known &= branches.iter().all(|branch| count(branch, times, counts)),
            Statement::For(rounds, body) => known &= count(body, times * rounds, counts),
            Statement::Try(body, _) => known &= count(body, times, counts),
            Statement::Saga(trip) => {
                trip.steps.iter().for_each(|_| add(EntryKind::Task));
                if trip.fails {
                    // What stands behind it is never come to.
                    break;
                }
            }
            Statement::Overtaken(..) | Statement::Fails(_) => known = false,
            Statement::Add(_) | Statement::Heavy | Statement::Listen | Statement::Promise => {}
            Statement::Undo(_) | Statement::Patch(_) => {}
        }
    }
    known
}

/// Programs: each workflow of the language said once more as one, some that only a program can say, and some that have a
/// second version.
fn programs(rng: &mut Rng, all: &mut Vec<Arc<Flow>>) {
    use Statement::{Add, Child, Fork, Listen, MapRuns, Patch, Promise, Race, Step, Undo, Wait};
    static FIXED: OnceLock<Vec<Arc<Flow>>> = OnceLock::new();
    let fixed = FIXED.get_or_init(|| {
        let mut made: Vec<_> = fixed().iter().map(twin).collect();
        let first = |name: &'static str| Who { name, version: VERSION, policy: VersionPolicy::Compatible };
        let saga =
            vec![Step(0), Undo(0), Step(1), Undo(1), Wait(800), Fork(vec![vec![Step(2), Undo(2)], vec![Step(0)]])];
        let next = vec![Step(1), Undo(3), Patch(1), Wait(1_500), Add(4), Step(0), Undo(0), Step(2), Step(2)];
        let ordered =
            vec![Fork(vec![vec![Race(60)], vec![Race(90), Wait(200)], vec![Race(30), Add(1)]]), Wait(900), Step(0)];
        let joins = vec![Fork(vec![vec![Step(0)], vec![Step(1)], vec![Wait(700)]]), Add(1), Step(2)];
        made.push(program(first("saga"), 0, saga));
        made.push(program(Who { version: NEXT_VERSION, ..first("saga") }, 0, next));
        made.push(program(first("rounds"), 3, vec![Step(0), Add(3), Patch(0), Wait(400)]));
        made.push(program(first("hears"), 0, vec![Step(0), Listen, Promise, Add(5)]));
        made.push(program(first("notes"), 0, vec![Add(1), Add(3), Patch(2), Step(1), Add(5)]));
        made.push(program(
            first("family"),
            0,
            vec![Child(3), MapRuns(3, 0), Fork(vec![vec![Child(0)], vec![Step(1)]])],
        ));
        made.push(program(first("ordered"), 0, ordered));
        made.push(program(first("joins"), 0, joins));
        made
    });
    let made: Vec<_> = all.iter().skip(all.len() - MADE).map(twin).collect();
    let mut left = 6;
    let next = some(rng, all, &mut left, 0);
    let first = made.first().map(|first| {
        let who = Who { name: &first.name, version: NEXT_VERSION, policy: VersionPolicy::Pin };
        program(who, 0, next)
    });
    all.extend(fixed.iter().cloned().chain(made).chain(first));
}

/// A workflow of the language as a program.
fn twin(flow: &Arc<Flow>) -> Arc<Flow> {
    let policy = flow.definition.plan().version_policy;
    let who = Who { name: &format!("{}{TWIN}", flow.name), version: flow.version, policy };
    program(who, 0, flow.statements.clone())
}

/// What the name of a twin has at its end.
const TWIN: &str = "-p";

/// Which version of which workflow, and what it says of its runs when another one is deployed.
#[derive(Clone, Copy)]
struct Who<'n> {
    name: &'n str,
    version: &'static str,
    policy: VersionPolicy,
}

/// The policy of the first version of a workflow.
fn policy_of(number: usize) -> VersionPolicy {
    VersionPolicy::ALL[number % VersionPolicy::ALL.len()].1
}

fn program(who: Who<'_>, rounds: u64, statements: Vec<Statement>) -> Arc<Flow> {
    let Who { name, version, policy } = who;
    let document = ProgramDocument {
        namespace: NAMESPACE.into(),
        name: name.into(),
        version: version.into(),
        package: PACKAGE.into(),
        package_version: version.into(),
        package_hash: format!("sha256:{}", package_of(version)),
        function: format!("{PACKAGE}:run"),
        tasks: TASKS.iter().map(|task| (*task).to_owned()).collect(),
        queue: Some("q0".into()),
        version_policy: policy.name().to_owned(),
        ..ProgramDocument::default()
    };
    let resolved = document.resolved().unwrap_or_else(|error| panic!("the program {name} is none: {error}"));
    let hash = resolved.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let definition = Language.compile(&resolved.bytes).expect("what was deployed is read back");
    let document = String::from_utf8(resolved.bytes).expect("it is JSON");
    Arc::new(Flow { name: name.to_owned(), version, program: true, rounds, document, hash, definition, statements })
}

/// What programs call.
const TASKS: [&str; 7] = ["s0", "s1", "s2", "u0", "u1", "u2", "u3"];

/// The hash of the package that has the programs of a version.
pub fn package_of(version: &str) -> &'static str {
    match version {
        NEXT_VERSION => "01",
        LAST_VERSION => "02",
        _ => "00",
    }
}

/// The record of the package that has the programs of a version.
pub fn package(version: &str) -> (String, String) {
    let mut entries: Vec<Json> =
        TASKS.iter().map(|task| json!({"name": task, "fn": format!("{PACKAGE}:{task}")})).collect();
    entries.push(json!({"name": "program", "fn": format!("{PACKAGE}:run")}));
    let hash = format!("sha256:{}", package_of(version));
    let record = json!({"hash": hash, "version": version, "created_at": "2023", "entries": entries});
    (format!("{PACKAGE}@{version}"), record.to_string())
}

/// A few statements, as deep as `left` goes.
fn some(rng: &mut Rng, before: &[Arc<Flow>], left: &mut u64, depth: u32) -> Vec<Statement> {
    let mut made = Vec::new();
    let most = rng.range(1, 3);
    for _ in 0..most {
        *left = left.saturating_sub(1);
        let deep = depth < 2 && *left > 0;
        made.push(match rng.below(15) {
            0..=3 => Statement::Step(rng.below(3) as u8),
            4 => Statement::Wait(rng.range(1, 5_000)),
            5 => Statement::Add(rng.range(1, 9) as i64),
            6 if deep => {
                let number = rng.range(2, 3);
                Statement::Fork((0..number).map(|_| some(rng, before, left, depth + 1)).collect())
            }
            7 if deep => {
                // No handler of errors in a loop: what it may give is all that was ever given.
                let body = vec![Statement::Step(rng.below(3) as u8), Statement::Wait(rng.range(1, 900))];
                Statement::For(rng.range(1, 3), body)
            }
            8 if deep => Statement::Try(some(rng, before, left, depth + 1), rng.chance(0.5)),
            9 => Statement::Child(rng.below(before.len().min(8) as u64) as usize),
            10 => Statement::Map(rng.range(1, 6), rng.range(1, 3) as u32),
            11 if depth == 0 => Statement::Heavy,
            12 => Statement::Saga(made_trip(rng, false)),
            13 if deep => Statement::Try(vec![Statement::Saga(made_trip(rng, true))], false),
            14 => Statement::Outrun(rng.range(1, 3_000)),
            _ => Statement::Race(rng.range(1, 4_000)),
        });
    }
    made
}

fn made_trip(rng: &mut Rng, fails: bool) -> Trip {
    let steps = (0..rng.range(1, 4)).map(|_| (rng.below(3) as u8, rng.chance(0.8))).collect();
    Trip { steps, retries: rng.range(0, 4) as u32, fails }
}

fn flow(who: Who<'_>, statements: Vec<Statement>, before: &[Arc<Flow>]) -> Arc<Flow> {
    let Who { name, version, policy } = who;
    let document = json!({
        "document": {
            "dsl": "1.0.3", "namespace": NAMESPACE, "name": name, "version": version,
            "metadata": {"tidewheel": {"queue": "q0", "versionPolicy": policy.name()}},
        },
        "do": list(&statements, &Said { before, version }),
    });
    let options = Options { profile: None, features: Features::all() };
    let deployed = deploy(document.to_string().as_bytes(), options, &Offline);
    let Some((resolved, _)) = deployed.workflow else {
        panic!("the workflow {name} is no workflow: {:?}\n{document:#}", deployed.diagnostics)
    };
    let hash = resolved.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let definition = Language.compile(&resolved.bytes).expect("what was deployed is read back");
    let document = String::from_utf8(resolved.bytes).expect("it is JSON");
    let (program, rounds) = (false, 0);
    Arc::new(Flow { name: name.to_owned(), version, program, rounds, document, hash, definition, statements })
}

/// What a statement is written with besides itself.
struct Said<'f> {
    /// The workflows that it may start.
    before: &'f [Arc<Flow>],
    /// Steps say by `v` which version they were made of.
    version: &'static str,
}

fn list(statements: &[Statement], said: &Said<'_>) -> Json {
    let named = statements.iter().enumerate();
    named.map(|(at, statement)| json!({ format!("s{at}"): text(statement, said) })).collect()
}

fn text(statement: &Statement, said: &Said<'_>) -> Json {
    let workflow = |of: usize| json!({"namespace": NAMESPACE, "name": said.before[of].name, "version": VERSION});
    let v = said.version;
    match statement {
        Statement::Step(kind) => json!({
            "call": "task:1.0.0@default",
            "with": {"type": format!("s{kind}"), "input": {"n": "${ .n }", "v": v}},
            "output": {"as": "${ {n: .n} }"},
        }),
        Statement::Fails(kind) => json!({
            "call": "task:1.0.0@default",
            "with": {"type": format!("s{kind}"), "input": {"n": "${ .n }", "v": v, "fails": true}},
        }),
        Statement::Wait(ms) => json!({"wait": {"milliseconds": ms}}),
        Statement::Add(k) => json!({"set": {"n": format!("${{ .n + {k} }}")}}),
        Statement::Heavy => json!({"set": {"n": "${ .n + ([range(6000)] | map(. + 1) | length) - 6000 }"}}),
        Statement::Fork(branches) => {
            let named = branches.iter().enumerate();
            let branches: Json =
                named.map(|(at, branch)| json!({ format!("b{at}"): {"do": list(branch, said)} })).collect();
            json!({"fork": {"branches": branches}, "output": {"as": "${ {n: (map(.n) | add)} }"}})
        }
        Statement::Race(ms) => {
            let late = [Statement::Wait(*ms), Statement::Add(1)];
            let branches = json!([
                {"a": {"do": list(&[Statement::Step(0)], said)}},
                {"b": {"do": list(&late, said)}},
            ]);
            json!({"fork": {"compete": true, "branches": branches}})
        }
        Statement::For(times, body) => json!({
            "for": {"each": "x", "in": format!("${{ [range({times})] }}")},
            "do": list(body, said),
        }),
        Statement::Try(body, retries) => {
            let mut catch = json!({"do": [{"caught": {"set": {"n": CAUGHT}}}]});
            if *retries {
                catch["retry"] = json!({"delay": {"milliseconds": RETRY_MS}, "limit": {"attempt": {"count": RETRIES}}});
            }
            json!({"try": list(body, said), "catch": catch})
        }
        Statement::Child(of) => {
            let mut workflow = workflow(*of);
            workflow["input"] = json!({"n": "${ .n }"});
            json!({"run": {"workflow": workflow}})
        }
        Statement::Map(items, concurrency) => json!({
            "call": "map:1.0.0@default",
            "with": {
                "items": format!("${{ [range({items})] }}"), "task": "s0", "with": {"n": "${ $item }", "v": v},
                "concurrency": concurrency,
            },
            "output": {"as": "${ {n: ($input.n + (map(.n) | add))} }"},
        }),
        Statement::MapRuns(items, of) => json!({
            "call": "map:1.0.0@default",
            "with": {
                "items": format!("${{ [range({items})] }}"), "workflow": workflow(*of), "with": {"n": "${ $item }"},
                "concurrency": 2,
            },
            "output": {"as": "${ {n: ($input.n + (map(.n) | add))} }"},
        }),
        Statement::Listen => json!({
            "listen": {"to": {"one": {"with": {"type": SIGNAL.0}}}},
            "output": {"as": "${ {n: ($input.n + .[0].k)} }"},
        }),
        Statement::Saga(trip) => saga(trip, v),
        Statement::Outrun(ms) => {
            let late = [Statement::Wait(*ms), Statement::Add(1)];
            let one = Trip { steps: vec![(0, true)], retries: 3, fails: false };
            let branches = json!([
                {"a": {"do": list(&[Statement::Saga(one)], said)}},
                {"b": {"do": list(&late, said)}},
            ]);
            json!({"fork": {"compete": true, "branches": branches}})
        }
        Statement::Overtaken(ms, trip) => {
            let branches = [vec![Statement::Saga(trip.clone())], vec![Statement::Wait(3_600_000)]];
            let mut body = json!({"do": list(&[Statement::Fork(branches.into())], said)});
            body["timeout"] = json!({"after": {"milliseconds": ms}});
            json!({"try": [{"late": body}], "catch": {"do": [{"caught": {"set": {"n": CAUGHT}}}]}})
        }
        Statement::Promise | Statement::Undo(_) | Statement::Patch(_) => {
            panic!("{statement:?} is said by programs alone")
        }
    }
}

/// A step that can be undone has a `t` before its number. An undo is given what the step gave, so that it can be told what it undoes.
fn saga(trip: &Trip, v: &str) -> Json {
    let name = |at: usize| format!("{}{at}", if trip.steps[at].1 { 't' } else { 'k' });
    let input = |at: usize| match at {
        0 => "${ .n }".to_owned(),
        _ => format!("${{ $steps.{}.n }}", name(at - 1)),
    };
    let step = |(at, (kind, undone)): (usize, &(u8, bool))| {
        let call = "task:1.0.0@default";
        let mut step = json!({"name": name(at), "do": call, "with": {"type": format!("s{kind}"), "input": {"n": input(at), "v": v}}});
        if *undone {
            step["undo"] = call.into();
            step["undoWith"] = json!({"type": format!("u{kind}"), "input": {"n": "${ .n }", "of": "${ .by }"}});
        }
        step
    };
    let mut steps: Vec<Json> = trip.steps.iter().enumerate().map(step).collect();
    if trip.fails {
        let with = json!({"type": "s0", "input": {"n": "${ error(\"as planned\") }"}});
        steps.push(json!({"name": "fails", "do": "task:1.0.0@default", "with": with}));
    }
    let retry = json!({
        "delay": {"milliseconds": 300}, "backoff": {"linear": {}}, "limit": {"attempt": {"count": trip.retries}},
    });
    json!({
        "call": "saga:1.0.0@default",
        "with": {"steps": steps, "retry": retry},
        "output": {"as": "${ {n: .[-1].n} }"},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_seed_makes_up_is_a_workflow() {
        for seed in 0..40 {
            let flows = Flows::new(&mut Rng::new(seed));
            for flow in flows.iter() {
                assert!(!flows.results(&flow.name, flow.version, 3).is_empty());
            }
        }
        let flows = Flows::new(&mut Rng::new(1));
        assert_eq!(flows.results("chain", VERSION, 1), [9]);
        assert_eq!(flows.results("fork", VERSION, 1), [10]);
        assert_eq!(flows.results("try", VERSION, 1), [4, 1_001]);
        assert_eq!(flows.results("spread", VERSION, 1), [11]);
        assert_eq!(flows.results("trip", VERSION, 1), [6]);
        assert_eq!(flows.results("refund", VERSION, 1), [1_001]);
        assert_eq!(flows.results("outrun", VERSION, 1), [1_000]);
    }
}
