//! What a turn of a run costs in the engine alone: expressions are closures here, nothing is stored.
//!
//! `cargo run --release -p tidewheel-engine --example run_turns`
#![allow(clippy::print_stdout, reason = "an example prints its figures")]

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};
use tidewheel_engine::id::RunId;
use tidewheel_engine::run::act::{Act, Event, Outcome};
use tidewheel_engine::run::data::{Data, NoBlobs};
use tidewheel_engine::run::eval::{Definition, EvalError, Fuel, Scope, Violation};
use tidewheel_engine::run::head::{Head, Identity};
use tidewheel_engine::run::plan::{
    Case, Duration, ExprId, Flow, Hints, Intake, Kind, ListId, Node, NodeId, Plan, Profile, SchemaId, Target, Yield,
};
use tidewheel_engine::run::turn::{Env, Turn, advance};

#[derive(Debug)]
struct Flowchart(Plan);

impl Definition for Flowchart {
    fn plan(&self) -> &Plan {
        &self.0
    }
    fn eval(&self, expr: ExprId, scope: &dyn Scope, fuel: &mut Fuel) -> Result<Json, EvalError> {
        if !fuel.take(3) {
            return Err(EvalError::Fuel);
        }
        Ok(match expr.0 {
            0 => Json::Bool(scope.dot().get("n").and_then(Json::as_u64) > Some(0)),
            1 => scope.dot().into_owned(),
            _ => json!({"n": scope.dot()["n"].as_u64().unwrap_or(0) + 1, "name": "order"}),
        })
    }
    fn check(&self, _: SchemaId, _: &Json, _: &mut Fuel) -> Result<Vec<Violation>, EvalError> {
        Ok(Vec::new())
    }
    fn duration(&self, _: &Json) -> Result<u64, EvalError> {
        Ok(0)
    }
    fn weight(&self) -> usize {
        0
    }
}

fn plan(kinds: Vec<Kind>) -> Flowchart {
    let node = |(at, kind): (usize, Kind)| Node {
        name: format!("step{at}").into(),
        reference: format!("/do/{at}/step{at}").into(),
        condition: None,
        input: Intake::default(),
        output: Yield::default(),
        timeout: None,
        then: Flow::Continue,
        extensions: Vec::new(),
        hints: Hints::default(),
        definition: ExprId(1),
        kind,
    };
    let nodes: Vec<Node> = kinds.into_iter().enumerate().map(node).collect();
    Flowchart(Plan {
        hash: [0; 32],
        namespace: "bench".into(),
        name: "bench".into(),
        version: "1.0.0".into(),
        profile: Profile::V1_0_3,
        input: Intake::default(),
        output: Yield::default(),
        timeout: None,
        root: ListId(0),
        lists: vec![(0..nodes.len() as u32).map(NodeId).collect()],
        nodes,
        attributes: Vec::new(),
        definition: ExprId(1),
        hints: Hints::default(),
        version_policy: Default::default(),
    })
}

fn turn(chart: &Flowchart, head: &Head, event: Event) -> Turn {
    let env = Env { definition: chart, blobs: &NoBlobs, now_ms: 1, bounds: Default::default() };
    let mut fuel = Fuel { steps: 20_000, bytes: 4 << 20 };
    advance(head, event, &env, &mut fuel).expect("small enough").expect("it goes on")
}

fn started(chart: &Flowchart, run: u128) -> Turn {
    let identity = Arc::new(Identity::new(RunId(run), &chart.0));
    let (input, _) = Data::of(json!({"n": 1, "name": "order"}));
    turn(chart, &Head::new(identity.clone()), Event::Start { identity, input })
}

fn measured(what: &str, count: u64, unit: &str, mut each: impl FnMut(u64)) {
    for at in 0..count / 10 {
        each(at);
    }
    let begin = Instant::now();
    for at in 0..count {
        each(at);
    }
    let each_ns = begin.elapsed().as_nanos() as u64 / count;
    println!("{what:<44} {each_ns:>7} ns per {unit}");
}

fn main() {
    let set = || Kind::Set(ExprId(2));
    let switch = || Kind::Switch(vec![Case { name: "yes".into(), when: Some(ExprId(0)), then: Flow::Continue }]);
    let simple = plan(vec![set(), switch(), set()]);
    measured("a run of set, switch, set: one turn", 200_000, "run", |at| {
        std::hint::black_box(started(&simple, u128::from(at)));
    });

    let long = plan((0..300).map(|_| set()).collect());
    measured("300 set in one turn", 2_000, "300 statements", |at| {
        std::hint::black_box(started(&long, u128::from(at)));
    });

    let task = || Kind::Call { target: Target::Task("t".into()), with: ExprId(1), sealed: false, awaited: true };
    let tasks = plan((0..100).map(|_| task()).collect());
    let (output, _) = Data::of(json!({"n": 2, "name": "order"}));
    let mut at = started(&tasks, 1);
    measured("a task done, the next one opened: one turn", 200_000, "turn", |_| {
        let entry = at.acts.iter().find_map(|act| match act {
            Act::OpenTask(task) => Some(task.entry),
            _ => None,
        });
        at = match entry {
            Some(entry) => turn(&tasks, &at.head, Event::Done { entry, outcome: Outcome::Ok(output.clone()) }),
            None => started(&tasks, 1),
        };
    });

    let wait = plan(vec![Kind::Wait(Duration::Fixed(5)), set()]);
    measured("a run that waits: two turns", 100_000, "run", |run| {
        let first = started(&wait, u128::from(run));
        let entry = first.acts.iter().find_map(|act| match act {
            Act::OpenTimer { entry, .. } => Some(*entry),
            _ => None,
        });
        let entry = entry.expect("a timer");
        std::hint::black_box(turn(&wait, &first.head, Event::Fired { entry }));
    });
}
