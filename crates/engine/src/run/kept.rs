//! Calls that a run keeps and makes later: compensations that are armed, and the items of maps that a program asked for. They
//! name what they call as it was when they were kept, whatever version of its workflow the run follows by then.

use super::data::Data;
use super::head::{Head, Step};
use super::plan::Target;

/// Every call that a run keeps: whom, and with what. Those of a Python function have its package and the version of that in their
/// arguments.
pub fn kept(head: &Head) -> impl Iterator<Item = (&Target, &Data)> {
    let undone = head.undo.iter().flat_map(|undo| undo.all());
    let steps = || head.lines.iter().flat_map(|line| &line.frames).map(|frame| &frame.step);
    let of_sagas = steps().filter_map(|step| match step {
        Step::Saga(saga) => Some(&saga.armed),
        _ => None,
    });
    let of_maps = steps().filter_map(|step| match step {
        Step::Map(map) => map.given.as_deref().map(|given| (&given.target, &given.call)),
        _ => None,
    });
    undone.chain(of_sagas.flatten()).map(|undo| (&undo.target, &undo.args)).chain(of_maps)
}
