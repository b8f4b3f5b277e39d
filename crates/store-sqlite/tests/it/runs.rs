//! What runs take on the disk.

use std::sync::Arc;
use std::sync::mpsc::channel;

use serde_json::json;
use tempfile::TempDir;
use tidewheel_engine::id::{RunId, TenantId};
use tidewheel_engine::mutation::{Batch, Mutation, RunRecord};
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::head::{Head, Identity, Phase};
use tidewheel_engine::run::journal::{Ending, EntryKind, Fact, Key, REVISION, Segment, Taped, ValueId};
use tidewheel_store::Store;
use tidewheel_store_sqlite::{Options, SqliteStore};

const RUNS: u64 = 5_000;
const START: u64 = 1_750_000_000_000;

fn run_id(number: u64) -> RunId {
    RunId(u128::from(START + number / 100) << 80 | 0x7000_8000_0000_0000_0000 | u128::from(number))
}

fn head(number: u64, turns: u64, phase: Phase) -> Head {
    let (namespace, name, version) = ("shop".into(), "order".into(), "1.0.0".into());
    let (parent, correlation) = (None, None);
    let run = run_id(number);
    let identity = Identity { run, plan: [7; 32], namespace, name, version, parent, correlation, depth: 0 };
    let value = |value| Data::of(value).0;
    let ended = phase.ended();
    Head {
        phase,
        turns,
        started_ms: START,
        ended_ms: if ended { START + turns } else { 0 },
        input: value(json!({"order": number, "items": ["a", "b"], "customer": {"name": "Ada"}})),
        outcome: ended.then(|| Outcome::Ok(value(json!({"shipped": true, "receipt": "r-17"})))),
        ..Head::new(Arc::new(identity))
    }
}

/// A turn in which a task ended and the next one was opened.
fn turn(number: u64, turn: u64) -> Mutation {
    let output = Data::of(json!({"paid": true, "receipt": "r-17"})).0;
    let args = Data::of(json!({"receipt": "r-17"})).0;
    let key = Key { scope: "".into(), kind: EntryKind::Task, name: "/do/1/ship".into(), n: 0 };
    let (value, args_hash, due_ms) = (Some(ValueId(1)), 0x1234_5678_9ABC, 0);
    let segment = Segment {
        revision: REVISION,
        turn,
        now_ms: START + turn,
        event: Event::Done { entry: turn, outcome: Outcome::Ok(output.clone()) },
        begun: 1,
        more: false,
        work: 5,
        tape: vec![Taped::Value(ValueId(1))],
        values: vec![output, args],
        facts: vec![
            Fact::Done { entry: turn, how: Ending::Ok(ValueId(0)) },
            Fact::Opened { entry: turn + 1, within: 1, key, value, args_hash, due_ms },
        ],
    };
    Mutation::AppendTurn { tenant: TenantId(1), run: run_id(number), segment: Arc::new(segment) }
}

fn put(head: Head) -> Mutation {
    Mutation::PutRun(Box::new(RunRecord { tenant: TenantId(1), changed: START, head }))
}

#[test]
fn a_run_of_three_turns_takes_little_of_the_disk() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tidewheel.db");
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    let epoch = store.open(0).unwrap().epoch;
    let mut index = 0;
    let mut commit = |mutations: Vec<Mutation>| {
        index += 1;
        let (answer, answered) = channel();
        let batch = Batch { partition: 0, epoch, index, wall: START, seq: index, mutations };
        store.commit(batch, Box::new(move |result| answer.send(result).unwrap()));
        answered.recv().unwrap().unwrap();
    };
    let many: Vec<u64> = (0..RUNS).collect();
    for runs in many.chunks(100) {
        commit(runs.iter().flat_map(|n| [turn(*n, 1), put(head(*n, 1, Phase::Running))]).collect());
        commit(runs.iter().map(|n| turn(*n, 2)).collect());
        commit(runs.iter().flat_map(|n| [turn(*n, 3), put(head(*n, 3, Phase::Completed))]).collect());
    }
    store.close();
    let bytes = std::fs::metadata(&path).unwrap().len() / RUNS;
    println!("{bytes} bytes per run of three turns");
    assert!(bytes < 2_000, "{bytes} bytes per run of three turns");
}
