//! The conformance kit on a partition over SQLite: plainly, and with the partition dropped and the file read again after
//! every commit. What reads the scenarios, and who answers their calls, is that of `lang`.

#[path = "../../../lang/tests/it/examples/everybody.rs"]
mod everybody;
#[path = "../../../lang/tests/it/kit/gherkin.rs"]
mod gherkin;
#[path = "../../../lang/tests/it/kit/holds.rs"]
mod holds;
mod node;
#[path = "../../../lang/tests/it/kit/peer.rs"]
mod peer;
mod programs;
#[path = "../../../lang/tests/it/suite.rs"]
mod suite;

use std::fmt::Write;
use std::path::Path;

use everybody::Everybody;
use gherkin::Scenario;
use holds::{holds, yaml};
use node::Node;
use peer::Peer;
use serde_json::Value as Json;
use suite::{Peers, files, folder};
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::plan::Profile;
use tidewheel_lang::compile::is_refusal;
use tidewheel_lang::feature::Features;
use tidewheel_lang::resolve::{Options, Resolved, deploy};
use tidewheel_lang::testkit::world::Ended;

/// How the part of the page begins that this test writes.
const HEADING: &str = "\n## On SQLite\n";

/// The ways, and whether everything is read again after each commit.
const WAYS: [(bool, &str); 2] =
    [(false, "on SQLite"), (true, "on SQLite, read again from the file after every commit")];

/// Counts of one suite.
#[derive(Debug)]
struct Row {
    suite: String,
    passed: usize,
    refused: usize,
    not_run: usize,
}

/// What came of a scenario.
enum Verdict {
    Passed,
    Refused,
    NotRun,
    Failed(String),
}

fn played(workflow: &Resolved, input: &Json, reload: bool) -> (Ended, Vec<String>, Vec<String>) {
    let mut peer = Peer::default();
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::open(folder.path(), &mut peer, reload);
    let (ended, ran) = node.execute(workflow, input.clone());
    node.close();
    (ended, ran, peer.calls)
}

fn play(scenario: &Scenario, profile: Profile, reload: bool) -> Verdict {
    let options = Options { profile: Some(profile), features: Features::all() };
    let deployed = deploy(scenario.definition.as_bytes(), options, &Peers);
    let Some((workflow, _)) = deployed.workflow else {
        return match deployed.diagnostics.iter().any(is_refusal) {
            true => Verdict::Refused,
            false => Verdict::Failed(format!("{:?}", deployed.diagnostics)),
        };
    };
    let input = scenario.input.as_deref().map_or(Json::Null, yaml);
    let (ended, ran, calls) = played(&workflow, &input, reload);
    // A server does not deliver events yet, and refuses such documents; the scenario is for those that do.
    if matches!(ended, Ended::Stuck(Phase::Waiting)) && scenario.definition.contains("listen:") {
        return Verdict::NotRun;
    }
    for step in &scenario.steps {
        if let Err(why) = holds(step, &ended, &ran) {
            return Verdict::Failed(format!("{step:?}: {why}\n  ended: {ended:?}\n  ran: {ran:?}"));
        }
    }
    if reload {
        let (_, calm_ran, calm) = played(&workflow, &input, false);
        if (&calm, &calm_ran) != (&calls, &ran) {
            return Verdict::Failed(format!("effects differ: {calls:?}, calmly {calm:?}; ran {ran:?}, {calm_ran:?}"));
        }
    }
    Verdict::Passed
}

fn row(suite: String, scenarios: &[Scenario], profile: Profile, reload: bool) -> Row {
    let mut row = Row { suite, passed: 0, refused: 0, not_run: 0 };
    let mut failed = String::new();
    for scenario in scenarios {
        match play(scenario, profile, reload) {
            Verdict::Passed => row.passed += 1,
            Verdict::Refused => row.refused += 1,
            Verdict::NotRun => row.not_run += 1,
            Verdict::Failed(why) => {
                let _ = writeln!(failed, "{}: {why}", scenario.name);
            }
        }
    }
    assert!(failed.is_empty(), "{}:\n{failed}", row.suite);
    row
}

fn scenarios(folder: &Path) -> Vec<Scenario> {
    files(folder, "feature").iter().flat_map(|(name, text)| gherkin::read(name, text)).collect()
}

/// The examples of the standard that call nothing, or what this node's worker can be, and listen for nothing: they end as they do in
/// memory, which `crates/lang/tests/examples.json` says.
fn examples(version: &str, profile: Profile, (reload, how): (bool, &str)) -> Option<Row> {
    let known = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../lang/tests/examples.json"));
    let known: Json = serde_json::from_str(&known.unwrap()).unwrap();
    let mut row = Row { suite: format!("examples `{version}`, {how}"), passed: 0, refused: 0, not_run: 0 };
    for (name, text) in files(&folder(&format!("ows/{version}/examples"))?, "yaml") {
        let options = Options { profile: Some(profile), features: Features::all() };
        let Some((workflow, _)) = deploy(text.as_bytes(), options, &Peers).workflow else {
            row.refused += 1;
            continue;
        };
        let expected = &known[format!("{version}/examples/{name}")];
        let served = |call: &Json| {
            let call = call.as_str().unwrap_or_default();
            ["GET ", "PUT ", "POST ", "Outbound(OpenApi)"].iter().any(|start| call.starts_with(start))
        };
        let calls = expected["calls"].as_array().is_none_or(|calls| calls.iter().all(served));
        if !calls || text.contains("listen:") || text.contains("emit:") {
            row.not_run += 1;
            continue;
        }
        let mut everybody = Everybody::default();
        let folder = tempfile::tempdir().unwrap();
        let mut node = Node::open(folder.path(), &mut everybody, reload);
        let (ended, _) = node.execute(&workflow, everybody::input(&name));
        node.close();
        let found = match ended {
            Ended::Completed(output) => serde_json::json!({"output": output}),
            Ended::Faulted(error) => serde_json::json!({"error": error}),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(found, expected["ended"], "{name}, {how}");
        assert_eq!(everybody.calls.len(), expected["calls"].as_array().map_or(0, Vec::len), "{name}, {how}");
        row.passed += 1;
    }
    Some(row)
}

/// The kit in both editions, and the scenarios for what it leaves out, each in both ways.
fn rows() -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    for (version, profile) in [("v1.0.3", Profile::V1_0_3), ("main", Profile::Next)] {
        let scenarios = scenarios(&folder(&format!("ows/{version}/ctk/features"))?);
        for (reload, how) in WAYS {
            rows.push(row(format!("conformance kit `{version}`, {how}"), &scenarios, profile, reload));
        }
    }
    let own = scenarios(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../lang/tests/features"));
    for (reload, how) in WAYS {
        rows.push(row(format!("scenarios for what the kit leaves out, {how}"), &own, Profile::Next, reload));
    }
    for (version, profile) in [("v1.0.3", Profile::V1_0_3), ("main", Profile::Next)] {
        for way in WAYS {
            rows.push(examples(version, profile, way)?);
        }
    }
    Some(rows)
}

fn page(rows: &[Row]) -> String {
    let mut page = format!(
        "{HEADING}\nThe same scenarios on a partition with SQLite under it. Generated by `UPDATE_EXPECT=1 cargo test -p tidewheel-api --test conformance`.\n\
         *Not run* = needs events between runs, which a server refuses by name; of the examples also what asks for a worker of another kind.\n\n\
         | suite | passed | refused | not run |\n|---|---:|---:|---:|\n"
    );
    for Row { suite, passed, refused, not_run } in rows {
        let _ = writeln!(page, "| {suite} | {passed} | {refused} | {not_run} |");
    }
    page
}

#[test]
fn every_scenario_passes_on_sqlite_and_when_everything_is_read_again_after_every_commit() {
    let Some(rows) = rows() else { return };
    for row in &rows[..4] {
        assert_eq!((row.passed, row.refused, row.not_run), (21, 0, 0), "{}", row.suite);
    }
    assert!(rows[4..6].iter().all(|row| row.passed > 14 && row.refused == 0 && row.not_run < 2), "{rows:?}");
    assert!(rows[6..].iter().all(|row| row.passed > 25 && row.refused == 1), "{rows:?}");
    let page = page(&rows);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/conformance.md");
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    let (before, held) = held.find(HEADING).map_or((&*held, ""), |at| held.split_at(at));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return std::fs::write(&path, before.to_owned() + &page).unwrap();
    }
    assert!(held == page, "docs/reference/conformance.md is stale: run the test again with UPDATE_EXPECT=1");
}
