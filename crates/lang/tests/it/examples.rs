//! The examples of the standard, run: against peers in the process, with the events and inputs that they are about, in memory, with a
//! crash after every commit, with commits that are lost, and with commits that land but are reported as failed. What comes out is
//! `tests/examples.json`, which `UPDATE_EXPECT=1` writes anew.

mod everybody;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::eval::Definition;
use tidewheel_lang::compile::is_refusal;
use tidewheel_lang::feature::Features;
use tidewheel_lang::resolve::{Options, deploy};
use tidewheel_lang::testkit::world::{Ended, Mode, START_MS, World};

use crate::conformance::Row;
use crate::documents::documents;
use crate::suite::Peers;
use everybody::{Everybody, input};

const MODES: [Mode; 4] = [Mode::Memory, Mode::Crash, Mode::Lost, Mode::Landed];

/// What happens while an example listens, a second apart.
fn events(name: &str) -> Vec<(u64, Event)> {
    if !["listen", "for", "accumulate"].iter().any(|about| name.starts_with(about)) {
        return Vec::new();
    }
    let event = |kind: &str, data: Json| json!({"type": kind, "source": "https://my.home.com/sensor", "roomid": "r1", "data": data});
    let all = [
        event("com.fake-hospital.vitals.measurements.temperature", json!({"temperature": 37})),
        event("com.fake-hospital.vitals.measurements.temperature", json!({"temperature": 39})),
        event("com.fake-hospital.vitals.measurements.bpm", json!({"bpm": 120})),
        event("my.home.sensors.temperature", json!({"reading": 21})),
        event("my.home.sensors.humidity", json!({"reading": 40})),
        event("com.virtual-wf-powered-race.events.race.started.v1", json!({"lap": 1})),
        event("com.fake.petclinic.pets.checkup.completed.v2", json!({"well": true})),
        event("com.fake-hospital.patient.checked-out", json!({"patient": "Tom"})),
        event("com.fake.petclinic.pets.checkup.completed.v2", json!({"well": true})),
    ];
    let arrived = |(number, mut event): (usize, Json)| {
        (event["specversion"], event["id"]) = ("1.0".into(), number.to_string().into());
        (1_000 * (number as u64 + 1), Event::Arrived { event: Data::of(event).0 })
    };
    all.into_iter().enumerate().map(arrived).collect()
}

fn play(name: &str, definition: &[Arc<dyn Definition>; 1], mode: Mode) -> Json {
    let mut everybody = Everybody::default();
    let mut world = World::new(definition, mode, START_MS, &mut everybody);
    let ended = match world.execute(input(name), events(name)) {
        Ended::Completed(output) => json!({"output": output}),
        Ended::Faulted(error) => json!({"error": error}),
        Ended::Cancelled => json!("cancelled"),
        Ended::Stuck(phase) => json!({"stays": format!("{phase:?}").to_lowercase()}),
        Ended::Broken(why) => panic!("{name}: {why}"),
    };
    let emitted: Vec<Json> = world.emitted.iter().map(|event| event["type"].clone()).collect();
    let mut found = json!({"ended": ended, "seconds": world.elapsed() / 1_000});
    if !emitted.is_empty() {
        found["emitted"] = emitted.into();
    }
    if !everybody.calls.is_empty() {
        found["calls"] = json!(everybody.calls);
    }
    found
}

/// Rows for the page, one for each version of the standard. Fails where something else comes out than is expected.
pub(crate) fn examples() -> Option<Vec<Row>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/examples.json");
    let known: BTreeMap<String, Json> =
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap_or_else(|_| "{}".into())).unwrap();
    let (mut rows, mut found): (Vec<Row>, BTreeMap<String, Json>) = (Vec::new(), BTreeMap::new());
    for (path, text, profile) in documents() {
        let (folder, name) = path.rsplit_once('/')?;
        if !folder.ends_with("examples") {
            continue;
        }
        let suite = format!("examples run to what is expected, in memory and with each kind of crash: `{folder}`");
        if rows.last().is_none_or(|row| row.suite != suite) {
            rows.push(Row { suite, passed: 0, refused: Vec::new(), not_run: Vec::new() });
        }
        let row = rows.last_mut()?;
        let options = Options { profile: Some(profile), features: Features::all() };
        let deployed = deploy(text.as_bytes(), options, &Peers);
        let Some((_, compiled)) = deployed.workflow else {
            let one = deployed.diagnostics.iter().find(|one| is_refusal(one)).expect("refused by name");
            assert!(one.hint.is_some() && one.span.start.line > 0, "{path}: {one:?}");
            row.refused.push(format!("`{name}`: {}", one.message));
            continue;
        };
        let definition: [Arc<dyn Definition>; 1] = [Arc::new(compiled)];
        let calm = play(name, &definition, Mode::Memory);
        for mode in MODES {
            assert_eq!(play(name, &definition, mode), calm, "{path}, {mode:?}");
        }
        row.passed += 1;
        found.insert(path.clone(), calm);
    }
    if rows.is_empty() {
        return None;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&file, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
    } else {
        for (path, found) in &found {
            assert_eq!(known.get(path), Some(found), "{path}: see tests/examples.json");
        }
        assert_eq!(known.len(), found.len());
    }
    Some(rows)
}

#[test]
fn every_example_of_the_standard_runs_to_what_is_expected_or_is_refused_by_name() {
    for row in examples().into_iter().flatten() {
        assert!(row.passed >= 65 && row.refused.len() == 1, "{}: {:?}", row.suite, row.refused);
    }
}
