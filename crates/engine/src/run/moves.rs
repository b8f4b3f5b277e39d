//! Moves: a run goes on with another version of its workflow. And what else is done about a program whose replay differs from
//! its history: the difference is accepted.
//!
//! A document's run moves if every statement that is open exists in the other plan, under its reference and of its kind. A
//! program's run always can: whether its new code fits the history shows when it is replayed.

use std::mem::discriminant;
use std::sync::Arc;

use super::code;
use super::data::Data;
use super::eval::Json;
use super::head::{Frame, Head, Identity, Next, Phase, Seq, Step};
use super::journal::{Ending, EntryKind, Fact, Key};
use super::machine::{End, Machine, Mode};
use super::plan::{Flow, Kind, Listen, Node, Plan, Strategy, Target, Until};
use super::step::{entry_kind, list_of};
use crate::id::Name;
use crate::planted::Bug;

/// Where a program stands. It changes with each activation, so that what was found of a history is known to hold still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePlace {
    /// See [`code::CodeState::generation`].
    pub generation: u32,
    /// See [`code::CodeState::epoch`].
    pub epoch: u64,
    /// See [`code::CodeState::activation`].
    pub activation: u64,
}

impl CodePlace {
    /// Where the program of a run stands. `None` = it is no program, has not begun, or is at work right now.
    pub fn of(head: &Head) -> Option<CodePlace> {
        let state = code::of(head).filter(|state| state.active.is_none())?;
        let code::CodeState { generation, epoch, activation, .. } = *state;
        Some(CodePlace { generation, epoch, activation })
    }
}

/// Whether a run can go on with another plan. The error says what of it has no place there, in one sentence.
pub fn fits(head: &Head, old: &Plan, new: &Plan) -> Result<(), String> {
    if (&old.namespace, &old.name) != (&new.namespace, &new.name) {
        return Err(format!("{}/{} is another workflow than {}/{}", new.namespace, new.name, old.namespace, old.name));
    }
    let is_program = |plan: &Plan| plan.nodes.iter().any(|node| matches!(node.kind, Kind::Code(_)));
    if is_program(old) != is_program(new) {
        let what = |plan: &Plan| if is_program(plan) { "a program" } else { "a document" };
        return Err(format!("{} is {}, and {} is {}", old.version, what(old), new.version, what(new)));
    }
    for line in &head.lines {
        let above = std::iter::once(None).chain(line.frames.iter().map(Some));
        for (outer, frame) in above.zip(&line.frames) {
            same_place(&frame.place.reference, old, new)?;
            same_inside(frame, old, new)?;
            if let (Some(Flow::To(at)), Some(outer)) = (frame.flow, outer) {
                same_position(outer, at, old, new)?;
            }
        }
        match (&line.next, line.frames.last()) {
            (Next::Begin { place, .. }, _) => same_place(&place.reference, old, new)?,
            (Next::Return { flow: Flow::To(at), .. }, Some(frame)) => same_position(frame, *at, old, new)?,
            _ => {}
        }
    }
    Ok(())
}

fn node_of<'p>(reference: &str, plan: &'p Plan) -> Option<&'p Node> {
    plan.find(reference).map(|id| plan.node(id))
}

/// A statement stands in both, and is of the same kind.
fn same_place(reference: &str, old: &Plan, new: &Plan) -> Result<(), String> {
    if reference.is_empty() {
        return Ok(());
    }
    let Some(was) = node_of(reference, old) else { return Ok(()) };
    let Some(is) = node_of(reference, new) else {
        return Err(format!("the run is at {reference}, which {} does not have", new.version));
    };
    let (before, after) = (entry_kind(Some(was)), entry_kind(Some(is)));
    if before != after || discriminant(&was.kind) != discriminant(&is.kind) {
        let (before, after, version) = (before.name(), after.name(), &new.version);
        return Err(format!("the run is at {reference}, which is a `{before}` and in {version} a `{after}`"));
    }
    Ok(())
}

/// What a statement remembers of its inside means the same in both.
fn same_inside(frame: &Frame, old: &Plan, new: &Plan) -> Result<(), String> {
    if frame.list != super::head::List::None {
        same_position(frame, frame.cursor, old, new)?;
    }
    let reference = &*frame.place.reference;
    let (Some(was), Some(is)) = (node_of(reference, old), node_of(reference, new)) else { return Ok(()) };
    let same = was.extensions.len() == is.extensions.len()
        && match (&was.kind, &is.kind) {
            (Kind::Fork { branches: a, compete: x }, Kind::Fork { branches: b, compete: y }) => {
                a.len() == b.len() && x == y
            }
            (Kind::Map { target: a, batch: x, .. }, Kind::Map { target: b, batch: y, .. }) => {
                x == y && matches!(a, Target::Workflow(..)) == matches!(b, Target::Workflow(..))
            }
            (Kind::Saga { steps: a, .. }, Kind::Saga { steps: b, .. }) => {
                let begun = match &frame.step {
                    Step::Saga(state) => state.outputs.len() + 1,
                    _ => 0,
                };
                let names = |steps: &[super::plan::SagaStep]| -> Vec<Name> {
                    steps.iter().take(begun).map(|step| step.name.clone()).collect()
                };
                names(a) == names(b)
            }
            (Kind::Listen(a), Kind::Listen(b)) => same_listen(a, b),
            _ => true,
        };
    match same {
        true => Ok(()),
        false => Err(format!("the run is in the middle of {reference}, which {} has in another shape", new.version)),
    }
}

/// The statement at a position of the list that a statement walks is the same in both.
fn same_position(frame: &Frame, at: u32, old: &Plan, new: &Plan) -> Result<(), String> {
    fn reference_at<'p>(frame: &Frame, at: u32, plan: &'p Plan) -> Option<&'p Name> {
        let list = list_of(plan, node_of(&frame.place.reference, plan), frame.list);
        list.get(at as usize).map(|id| &plan.node(*id).reference)
    }
    let (was, is) = (reference_at(frame, at, old), reference_at(frame, at, new));
    match was == is {
        true => Ok(()),
        false => {
            let was = was.map_or(&*frame.place.reference, |was| &**was);
            Err(format!("the run goes on behind {was}, which {} does not have there", new.version))
        }
    }
}

fn same_listen(a: &Listen, b: &Listen) -> bool {
    fn shape(strategy: &Strategy) -> (u8, usize, Option<(u8, usize)>) {
        match strategy {
            Strategy::One(_) => (0, 1, None),
            Strategy::All(filters) => (1, filters.len(), None),
            Strategy::Any(filters, until) => {
                let until = until.as_ref().map(|until| match until {
                    Until::Condition(_) => (0, 0),
                    Until::Events(strategy) => {
                        let (kind, filters, _) = shape(strategy);
                        (kind + 1, filters)
                    }
                });
                (2, filters.len(), until)
            }
        }
    }
    shape(&a.strategy) == shape(&b.strategy) && a.read == b.read && a.foreach.is_some() == b.foreach.is_some()
}

impl Machine<'_> {
    /// The run goes on with another plan, which is that of this turn already.
    pub(super) fn moved(&mut self, identity: &Arc<Identity>, by: &Name) -> Result<(), End> {
        let side = |who: &Identity| serde_json::json!({"version": &*who.version, "hash": hash_text(&who.plan)});
        let value = serde_json::json!({"from": side(&self.head.identity), "to": side(identity), "by": &**by});
        self.noted(EntryKind::Moved, identity.version.clone(), value)?;
        self.head.identity = identity.clone();
        let held = self.head.phase == Phase::Suspended && self.def.planted().has(Bug::MoveEndsHold);
        if self.holds_for_mismatch() || held {
            self.resume()?;
        }
        Ok(())
    }

    /// Whatever the program's history has differs no more from its code, for this run: what is there stands, and what the code asks
    /// for instead is begun.
    pub(super) fn accept(&mut self, by: &Name) -> Result<(), End> {
        let Some(id) = self.code_line() else { return Ok(()) };
        let Some(found) = self.code(id).and_then(|state| state.mismatch.clone()) else { return Ok(()) };
        let mut value = found.json().cloned().unwrap_or(Json::Null);
        value["by"] = (&**by).into();
        let sides = ["expected", "actual"].into_iter().filter_map(|side| value[side].as_str());
        let name: Name = sides.map(Name::from).next().unwrap_or_else(|| "".into());
        let through = self.code(id).map_or(0, |state| state.activation);
        value["through"] = through.into();
        self.noted(EntryKind::Accepted, name, value)?;
        let told = !self.def.planted().has(Bug::ForgottenAccept);
        if let Some(state) = self.code_mut(id).filter(|_| told) {
            state.accepted = through;
        }
        self.resume()
    }

    /// Whether the run holds because a replay of its program differed from its history.
    fn holds_for_mismatch(&self) -> bool {
        self.head.phase == Phase::Suspended && self.head.reason.as_deref() == Some(super::command::MISMATCH)
    }

    /// An entry of what was done to the run, over in the moment in which it is made.
    fn noted(&mut self, kind: EntryKind, name: Name, value: Json) -> Result<Seq, End> {
        let key = Key { scope: "".into(), kind, name, n: u32::try_from(self.head.turns + 1).unwrap_or(u32::MAX) };
        if let Mode::Replay { until: Some(until), .. } = self.mode
            && key.to_string() == until
        {
            return Err(End::Reached);
        }
        let entry = self.next_seq();
        self.head.entries += 1;
        let value = Some(self.value(&Data::small(value)));
        self.facts.push(Fact::Opened { entry, within: 0, key, value, args_hash: 0, due_ms: 0 });
        let nothing = self.value(&Data::null());
        self.done(entry, Ending::Ok(nothing));
        Ok(entry)
    }
}

fn hash_text(hash: &[u8; 32]) -> String {
    use std::fmt::Write;
    let mut text = "sha256:".to_owned();
    // Writing to a text never fails.
    hash.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap_or_default());
    text
}
