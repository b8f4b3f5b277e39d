//! The conformance kit of the standard, and scenarios of our own for what it leaves out, each in memory, with a crash after
//! every commit, with commits that are lost, and with commits that land but are reported as failed.

mod gherkin;
mod holds;
mod peer;

use std::sync::Arc;

use serde_json::Value as Json;
use tidewheel_engine::run::eval::Definition;
use tidewheel_engine::run::plan::Profile;
use tidewheel_lang::compile::is_refusal;
use tidewheel_lang::feature::Features;
use tidewheel_lang::resolve::{Options, deploy};
use tidewheel_lang::testkit::world::{Mode, START_MS, World};

use crate::conformance::Row;
use crate::suite::{Peers, files, folder};
use gherkin::Scenario;
use holds::{holds, yaml};
use peer::Peer;

const MODES: [(Mode, &str); 4] = [
    (Mode::Memory, "in memory"),
    (Mode::Crash, "with a crash after every commit"),
    (Mode::Lost, "with commits that are lost"),
    (Mode::Landed, "with commits that land but are reported as failed"),
];

/// What a scenario says about its end.
enum Verdict {
    Passed,
    Refused(String),
    Failed(String),
}

/// Runs a scenario; its effects are counted against those of a run without faults.
fn play(scenario: &Scenario, profile: Profile, mode: Mode) -> Verdict {
    let options = Options { profile: Some(profile), features: Features::all() };
    let deployed = deploy(scenario.definition.as_bytes(), options, &Peers);
    let Some((_, compiled)) = deployed.workflow else {
        return match deployed.diagnostics.iter().find(|one| is_refusal(one)) {
            Some(one) => Verdict::Refused(one.message.clone()),
            None => Verdict::Failed(format!("{:?}", deployed.diagnostics)),
        };
    };
    let input = scenario.input.as_deref().map_or(Json::Null, yaml);
    let documents: [Arc<dyn Definition>; 1] = [Arc::new(compiled)];
    let run = |mode: Mode| {
        let mut peer = Peer::default();
        let mut world = World::new(&documents, mode, START_MS, &mut peer);
        let ended = world.execute(input.clone(), Vec::new());
        let name = gherkin::name_of;
        let ran: Vec<String> = world.steps.iter().map(|step| name(&step.reference)).collect();
        let emitted = world.emitted.len();
        (ended, ran, emitted, peer.calls)
    };
    let (ended, ran, emitted, calls) = run(mode);
    for step in &scenario.steps {
        if let Err(why) = holds(step, &ended, &ran) {
            return Verdict::Failed(format!("{step:?}: {why}\n  ended: {ended:?}\n  ran: {ran:?}"));
        }
    }
    if mode != Mode::Memory {
        let calm = run(Mode::Memory);
        if (calm.2, &calm.3) != (emitted, &calls) {
            return Verdict::Failed(format!("effects differ: {calls:?}, calmly {:?}", calm.3));
        }
    }
    Verdict::Passed
}

/// The kit, once for each edition and way.
pub(crate) fn kit() -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    for (version, profile) in [("v1.0.3", Profile::V1_0_3), ("main", Profile::Next)] {
        let scenarios = scenarios_of(&files(&folder(&format!("ows/{version}/ctk/features"))?, "feature"));
        for (mode, how) in MODES {
            let suite = format!("conformance kit `{version}`, {how}");
            rows.push(row(suite, &scenarios, profile, mode));
        }
    }
    Some(rows)
}

/// Our own scenarios for what the kit leaves out.
pub(crate) fn own() -> Option<Vec<Row>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/features");
    let scenarios = scenarios_of(&files(&folder, "feature"));
    let row = |(mode, how): (Mode, &str)| {
        row(format!("scenarios for what the kit leaves out, {how}"), &scenarios, Profile::Next, mode)
    };
    Some(MODES.into_iter().map(row).collect())
}

fn scenarios_of(files: &[(String, String)]) -> Vec<Scenario> {
    files.iter().flat_map(|(name, text)| gherkin::read(name, text)).collect()
}

fn row(suite: String, scenarios: &[Scenario], profile: Profile, mode: Mode) -> Row {
    let mut row = Row { suite, passed: 0, refused: Vec::new(), not_run: Vec::new() };
    let mut failed = String::new();
    for scenario in scenarios {
        match play(scenario, profile, mode) {
            Verdict::Passed => row.passed += 1,
            Verdict::Refused(why) => row.refused.push(format!("`{}`: {why}", scenario.name)),
            Verdict::Failed(why) => failed += &format!("{}: {why}\n", scenario.name),
        }
    }
    assert!(failed.is_empty(), "{}:\n{failed}", row.suite);
    row
}

#[test]
fn every_scenario_of_the_kit_passes_in_both_editions_and_every_way() {
    let Some(rows) = kit() else { return };
    for row in rows {
        assert_eq!((row.passed, row.refused.len()), (21, 0), "{}", row.suite);
    }
}

#[test]
fn our_own_scenarios_pass_in_every_way() {
    for row in own().unwrap() {
        assert!(row.refused.is_empty() && row.passed > 10, "{}: {:?}", row.suite, row.refused);
    }
}
