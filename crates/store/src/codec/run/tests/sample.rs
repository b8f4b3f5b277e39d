//! A run of a simple workflow that waits for its second task.

use std::sync::Arc;

use serde_json::json;
use tidewheel_engine::id::{Name, RunId};
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::head::{
    Frame, HEAD_VERSION, Head, Identity, Line, List, Next, Open, Outside, Phase, Place, Step,
};
use tidewheel_engine::run::journal::{Ending, EntryKind, Fact, Key, Segment, Taped, ValueId};

const START: u64 = 1_750_000_000_000;

fn empty() -> Name {
    "".into()
}

fn identity() -> Identity {
    Identity {
        run: RunId((u128::from(START) << 80) | 0x7001_8000_0040_0000_002A),
        plan: [7; 32],
        namespace: "shop".into(),
        name: "order".into(),
        version: "1.0.0".into(),
        parent: None,
        correlation: None,
        depth: 0,
    }
}

fn frame(reference: &str, seq: u64, data: &Data, list: List, step: Step) -> Frame {
    Frame {
        place: Place::new(reference.into()),
        seq,
        n: 0,
        scope: empty(),
        inner: empty(),
        started_ms: START + seq,
        raw: data.clone(),
        input: data.clone(),
        result: None,
        flow: None,
        limit_ms: 0,
        list,
        cursor: u32::from(list == List::Body),
        round: 0,
        step,
    }
}

/// The head after the second turn.
pub(super) fn head() -> Head {
    let input = Data::of(json!({"order": 17, "items": ["a", "b"], "customer": {"name": "Ada"}})).0;
    let output = Data::of(json!({"paid": true, "receipt": "r-17"})).0;
    let frames =
        vec![frame("", 1, &input, List::Body, Step::Root), frame("/do/1/ship", 3, &output, List::None, Step::Plain)];
    let line = Line { id: 0, parent: None, context: Data::null(), exported: false, frames, next: Next::Wait };
    Head {
        version: HEAD_VERSION,
        phase: Phase::Running,
        started_ms: START,
        input,
        lines: vec![Arc::new(line)],
        next_line: 1,
        next_seq: 4,
        turns: 2,
        entries: 3,
        work: 5,
        open: vec![(3, Open { line: 0, owner: 3, what: Outside::Task })],
        ..Head::new(Arc::new(identity()))
    }
}

/// The second turn: a task ended, the next one is opened.
pub(super) fn segment() -> Segment {
    let output = Data::of(json!({"paid": true, "receipt": "r-17"})).0;
    let args = Data::of(json!({"receipt": "r-17"})).0;
    let key = Key { scope: empty(), kind: EntryKind::Task, name: "/do/1/ship".into(), n: 0 };
    Segment {
        revision: 1,
        turn: 2,
        now_ms: START + 100,
        event: Event::Done { entry: 2, outcome: Outcome::Ok(output.clone()) },
        begun: 1,
        more: false,
        work: 5,
        tape: vec![Taped::Value(ValueId(1))],
        values: vec![output, args],
        facts: vec![
            Fact::Done { entry: 2, how: Ending::Ok(ValueId(0)) },
            Fact::Opened { entry: 3, within: 1, key, value: Some(ValueId(1)), args_hash: 0x1234_5678_9ABC, due_ms: 0 },
        ],
    }
}
