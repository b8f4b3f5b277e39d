//! Workflows that every run has: one for each construct.

use std::sync::Arc;

use super::{Flow, Statement, Trip, VERSION, Who, flow, policy_of};

pub(super) fn fixed() -> Vec<Arc<Flow>> {
    use Statement::{
        Add, Child, For, Fork, Heavy, Listen, Map, MapRuns, Outrun, Overtaken, Race, Saga, Step, Try, Wait,
    };
    let trip = |undone: &[bool], fails| Trip {
        steps: undone.iter().zip(0..).map(|(undone, at)| (at % 3, *undone)).collect(),
        retries: 2,
        fails,
    };
    let all: Vec<(&str, Vec<Statement>)> = vec![
        ("leaf", vec![Step(0), Wait(300)]),
        ("chain", vec![Step(0), Step(1), Add(5), Step(2)]),
        ("waits", vec![Wait(700), Step(0), Wait(3_000), Step(1)]),
        ("fork", vec![Fork(vec![vec![Step(0), Step(1)], vec![Wait(900), Step(2)], vec![Add(3)]]), Step(0)]),
        ("race", vec![Race(1_500), Step(1)]),
        ("loop", vec![For(4, vec![Step(0), Add(2)])]),
        ("try", vec![Try(vec![Step(0), Step(1)], true), Add(1)]),
        ("heavy", vec![Heavy, Step(0), Heavy]),
        ("parent", vec![Child(0), Fork(vec![vec![Child(0)], vec![Step(0)]])]),
        ("map", vec![Map(5, 2), Step(0)]),
        ("spread", vec![MapRuns(4, 0)]),
        ("listen", vec![Step(0), Listen, Step(1)]),
        ("quick", vec![Add(1), Add(2)]),
        ("trip", vec![Saga(trip(&[true, true, true, true], false)), Step(0)]),
        (
            "refund",
            vec![Saga(trip(&[true], false)), Try(vec![Saga(trip(&[true, false, true, true], true))], false), Step(1)],
        ),
        (
            "trips",
            vec![
                Step(0),
                Fork(vec![
                    vec![Saga(trip(&[true, true], false)), Wait(900)],
                    vec![Saga(trip(&[true, true, false, true], false))],
                    vec![Wait(600), Step(1)],
                    vec![Map(3, 1)],
                ]),
            ],
        ),
        (
            "outrun",
            vec![Outrun(250), Saga(trip(&[true, true], false)), Overtaken(1_500, trip(&[true, true, true], false))],
        ),
    ];
    let mut made = Vec::new();
    for (at, (name, statements)) in all.into_iter().enumerate() {
        let next = flow(Who { name, version: VERSION, policy: policy_of(at) }, statements, &made);
        made.push(next);
    }
    made
}
