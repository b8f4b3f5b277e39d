//! `saga`: steps one after another, each a task, each with a task that undoes it. Where it fails or is interrupted before its
//! end, the steps that finished are undone, the last first ([`super::undo`]). Once it has ended well, they stay.
//!
//! A saga is a unit: after it was undone it begins again from its first step. One whose steps all still hold goes on where it
//! stopped.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::act::{Act, OpenTask, Outcome};
use super::code::CodeState;
use super::data::Data;
use super::eval::Json;
use super::fault::{Fault, Standard};
use super::head::{Frame, Head, Line, Next, Outside, Seq, Step};
use super::journal::{Ending, EntryKind, Fact, Key, Segment};
use super::look::Look;
use super::machine::{End, Machine, Res, Stop};
use super::plan::{Kind, Node, SagaStep};
use super::undo::{Undo, UndoRetry, undo_scope};
use crate::id::Name;
use crate::planted::{Bug, Planted};

/// State of a saga.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SagaState {
    /// Outputs of the steps that finished, in order; the next one is at work or about to begin.
    pub outputs: Vec<Data>,
    /// What undoes them.
    pub armed: Vec<Undo>,
}

impl SagaState {
    pub(super) fn stored(&self) -> usize {
        self.values().map(Data::stored).sum::<usize>() + 64 * self.armed.len()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Data> {
        self.outputs.iter().chain(self.armed.iter().map(|undo| &undo.args))
    }
}

impl Frame {
    /// Whether it is a saga of which steps hold, so that it goes on with the others.
    pub(super) fn goes_on_as_saga(&self) -> bool {
        matches!(&self.step, Step::Saga(state) if !state.outputs.is_empty())
    }
}

fn parts(node: &Node) -> Option<(&[SagaStep], UndoRetry)> {
    match &node.kind {
        Kind::Saga { steps, retry } => Some((steps, *retry)),
        _ => None,
    }
}

impl Machine<'_> {
    pub(super) fn begin_saga(&mut self, id: u32) -> Res<()> {
        if let Some(frame) = self.frame_mut(id) {
            frame.step = Step::Saga(Box::default());
        }
        self.set_next(id, Next::Refill);
        Ok(())
    }

    fn saga(&self, id: u32) -> Option<&SagaState> {
        match self.frame(id).map(|frame| &frame.step) {
            Some(Step::Saga(state)) => Some(state),
            _ => None,
        }
    }

    fn saga_mut(&mut self, id: u32) -> Option<&mut SagaState> {
        match self.frame_mut(id).map(|frame| &mut frame.step) {
            Some(Step::Saga(state)) => Some(state),
            _ => None,
        }
    }

    /// Begins the next step, or ends with the outputs of all.
    pub(super) fn saga_on(&mut self, id: u32) -> Res<()> {
        let Some(frame) = self.frame(id) else { return Ok(()) };
        let (owner, input, limit) = (frame.seq, frame.input.clone(), frame.limit_ms);
        let Some(node) = self.node(frame) else { return Ok(()) };
        let (Some((steps, _)), Some(state)) = (parts(node), self.saga(id)) else { return Ok(()) };
        let Some(step) = steps.get(state.outputs.len()) else {
            let outputs = state.outputs.clone();
            if self.def.planted().has(Bug::UndoAfterSaga) {
                let armed = state.armed.clone();
                armed.into_iter().for_each(|undo| self.head.undo_mut().arm(undo));
            }
            let output = self.assemble(&[], &outputs, outputs.len() as u64)?;
            return self.finish_body(id, output, None);
        };
        let extra = self.finished_steps(id, steps)?;
        let args = self.eval(step.with, &Look { extra: &extra, ..Look::body(id, &input) })?;
        self.bound(id, &args)?;
        let hints = self.hints(id, node, &input)?;
        let key = Key { scope: self.saga_scope(id), kind: EntryKind::Task, name: step.reference.clone(), n: 0 };
        let entry = match self.opened(id, key.clone()) {
            Ok(entry) => entry,
            Err(end) => {
                // A reset goes on from here.
                self.set_next(id, Next::Refill);
                return Err(end.into());
            }
        };
        self.note_args(entry, &args);
        let deadline_ms = if limit == 0 { 0 } else { self.now.saturating_add(limit) };
        let target = step.target.clone();
        let task = OpenTask { entry, key, target, args, sealed: false, items: None, awaited: true, deadline_ms, hints };
        self.act(Act::OpenTask(Box::new(task)));
        self.open(entry, id, owner, Outside::Task);
        Ok(())
    }

    /// `$steps`: the outputs of the steps that finished, by name.
    fn finished_steps(&self, id: u32, steps: &[SagaStep]) -> Res<[(Name, Data); 1]> {
        let mut finished = serde_json::Map::new();
        for (step, output) in steps.iter().zip(self.saga(id).map_or(&[][..], |state| &state.outputs)) {
            finished.insert(step.name.to_string(), (*self.json(output)?).clone());
        }
        Ok([("steps".into(), Data::small(Json::Object(finished)))])
    }

    /// Scope of the keys of the steps.
    fn saga_scope(&self, id: u32) -> Name {
        let Some(line) = self.head.line(id) else { return "".into() };
        let depth = line.frames.len();
        line.frames.last().map_or_else(
            || "".into(),
            |frame| match frame.n {
                0 => frame.scope.clone(),
                n => format!("{}/r{n}@{depth}", frame.scope).into(),
            },
        )
    }

    /// The task of the step at work ended.
    pub(super) fn saga_step_ended(&mut self, id: u32, entry: Seq, outcome: &Outcome) -> Result<(), End> {
        let result = self.take_step(id, entry, outcome);
        self.guard(id, result)
    }

    fn take_step(&mut self, id: u32, entry: Seq, outcome: &Outcome) -> Res<()> {
        let Some(node) = self.frame(id).and_then(|frame| self.node(frame)) else { return Ok(()) };
        let (Some((steps, retry)), Some(state)) = (parts(node), self.saga(id)) else { return Ok(()) };
        let Some(step) = steps.get(state.outputs.len()) else { return Ok(()) };
        match outcome {
            Outcome::Ok(output) => {
                let value = self.value(output);
                self.done(entry, Ending::Ok(value));
                self.step_done(id, node, (steps, step, retry), entry, output)
            }
            Outcome::Err(fault) => {
                let fault = Fault::complete(&fault.0, self.plan.profile, &step.reference);
                let value = self.fault_value(&fault);
                self.done(entry, Ending::Err(value));
                if self.def.planted().has(Bug::UndoOfFailedStep) {
                    self.step_done(id, node, (steps, step, retry), entry, &Data::null())?;
                }
                Err(Stop::Fault(fault))
            }
            Outcome::Cancelled => {
                self.done(entry, Ending::Cancelled);
                let text = format!("the task of the step `{}` was cancelled", step.name);
                Err(self.fault(id, Standard::Runtime, &text))
            }
        }
    }

    /// A step finished: its output is kept, and what undoes it is armed with its arguments as they are now.
    fn step_done(
        &mut self,
        id: u32,
        node: &Node,
        (steps, step, retry): (&[SagaStep], &SagaStep, UndoRetry),
        entry: Seq,
        output: &Data,
    ) -> Res<()> {
        if let Some(state) = self.saga_mut(id) {
            state.outputs.push(output.clone());
        }
        if let Some((target, with)) = &step.undo {
            let extra = self.finished_steps(id, steps)?;
            let input = self.frame(id).map_or_else(Data::null, |frame| frame.input.clone());
            let dot = if self.def.planted().has(Bug::UndoOfOther) { &input } else { output };
            let args = match self.eval(*with, &Look { extra: &extra, ..Look::body(id, dot) }) {
                Err(Stop::Fault(fault)) => return Err(Stop::Fault(not_undone(&fault, &step.name))),
                other => other?,
            };
            let hints = self.hints(id, node, &input)?;
            let (name, scope) = (step.name.clone(), undo_scope(&self.saga_scope(id), entry));
            let reference: Name = format!("{}/undo", step.reference).into();
            let target = target.clone();
            let (tries, failures) = (0, 0);
            let undo = Undo { name, of: entry, scope, reference, target, args, hints, retry, tries, failures };
            self.note_armed(&undo);
            if let Some(state) = self.saga_mut(id) {
                state.armed.push(undo);
            }
        }
        self.bound(id, output)?;
        self.set_next(id, Next::Refill);
        Ok(())
    }

    /// A saga whose steps hold goes on with the others.
    pub(super) fn saga_again(&mut self, id: u32) {
        self.set_next(id, Next::Refill);
    }

    /// The run faults: what sagas have done so far is undone, and they would begin anew. Gives the lines of those that were
    /// about to go on.
    pub(super) fn give_up_sagas(&mut self) -> Vec<(u32, Seq)> {
        let (mut armed, mut stopped) = (Vec::new(), Vec::new());
        let ids: Vec<u32> = self.head.lines.iter().map(|line| line.id).collect();
        for id in ids {
            let Some(state) = self.saga_mut(id) else { continue };
            armed.append(&mut state.armed);
            state.outputs.clear();
            if let Some(line) = self.line_mut(id).filter(|line| line.next == Next::Refill) {
                line.next = Next::Interrupted;
                stopped.extend(line.frames.last().map(|frame| (id, frame.seq)));
            }
        }
        self.undo_later(armed);
        stopped
    }

    /// Before a suspended run is cancelled: the ends of steps that it has not taken in yet.
    pub(super) fn take_held_steps(&mut self) -> Result<(), End> {
        let held = std::mem::take(&mut self.head.held);
        for event in held {
            match &event {
                super::act::Event::Done { entry, outcome: outcome @ Outcome::Ok(_) } if self.is_saga_step(*entry) => {
                    self.outside_done(*entry, outcome)?;
                }
                _ => self.head.held.push(event),
            }
        }
        Ok(())
    }

    fn is_saga_step(&self, entry: Seq) -> bool {
        let open = self.head.opened(entry).filter(|open| open.what == Outside::Task && open.owner != entry);
        open.is_some_and(|open| self.saga(open.line).is_some())
    }
}

/// The error of a step whose undo has no arguments.
fn not_undone(fault: &Fault, step: &str) -> Fault {
    let Json::Object(mut error) = (*fault.0).clone() else { return fault.clone() };
    let detail = error.get("detail").and_then(Json::as_str).unwrap_or_default();
    let text = format!("the arguments of the undo of `{step}` could not be made, so that it is not undone: {detail}");
    error.insert("detail".into(), text.into());
    Fault(Arc::new(Json::Object(error)))
}

/// How a run goes back.
pub(super) struct GoesBack {
    /// As another run.
    pub(super) forks: bool,
    /// Revision of the turn.
    pub(super) revision: u16,
    pub(super) planted: Planted,
}

/// A run went back to an earlier moment (`head`); `later` is what happened since, up to `current`. A fork answers for its own steps
/// alone: its sagas begin anew if something was undone since, and what the program of the other run armed is that run's.
///
/// Up to revision 5 also without a fork ([`super::rollback`] is what it is now): what later steps of sagas did that had not ended is
/// undone first, and so is the rest of what was being undone. A saga or a program of which something was undone since begins anew.
pub(super) fn went_back(head: &mut Head, current: &Head, later: &[Segment], how: &GoesBack) {
    let facts = later.iter().flat_map(|segment| &segment.facts);
    let undone: BTreeSet<(&Name, &Name)> = facts
        .filter_map(|fact| match fact {
            Fact::Opened { key, .. } if key.kind == EntryKind::Undo => Some((&key.scope, &key.name)),
            _ => None,
        })
        .collect();
    let was_undone = |undo: &Undo| undone.contains(&(&undo.scope, &undo.reference));
    let mut kept: BTreeSet<Seq> = BTreeSet::new();
    for line in &mut head.lines {
        for frame in &mut Arc::make_mut(line).frames {
            let Step::Saga(state) = &mut frame.step else { continue };
            if how.forks || state.armed.iter().any(was_undone) {
                **state = SagaState::default();
            }
            kept.extend(state.armed.iter().map(|undo| undo.of));
        }
    }
    if how.revision >= 3 {
        // What a program had done by then may have been armed only later.
        let unwound = !undone.is_empty() || head.undo.as_ref().is_some_and(|undo| undo.unwinding);
        if unwound {
            begins_anew(head);
        } else if how.forks {
            nothing_armed(head);
        }
        if unwound || how.forks {
            // Whatever of it is still to be undone, the run as it is now knows.
            head.undo = None;
        }
    }
    let begun = current.undo.as_ref().filter(|undo| undo.unwinding || !undo.failed.is_empty());
    if how.forks {
        return;
    }
    if begun.is_some() {
        head.undo = begun.cloned();
    }
    let frames = current.lines.iter().flat_map(|line| &line.frames);
    let of_sagas = frames.filter_map(|frame| match &frame.step {
        Step::Saga(state) => Some(&state.armed),
        _ => None,
    });
    let given_up: Vec<Undo> = of_sagas.flatten().filter(|undo| !kept.contains(&undo.of)).cloned().collect();
    if !given_up.is_empty() && !how.planted.has(Bug::ForgottenGivenUp) {
        head.undo_mut().take_in(given_up);
    }
}

fn code_of(line: &mut Line) -> Option<&mut CodeState> {
    match line.frames.last_mut().map(|frame| &mut frame.step) {
        Some(Step::Code(state)) => Some(state),
        _ => None,
    }
}

/// What a program of a run had done was undone since the moment to which the run went back: it begins anew, as with a retry.
pub(super) fn begins_anew(head: &mut Head) {
    let is_it = |line: &Line| matches!(line.frames.last().map(|frame| &frame.step), Some(Step::Code(_)));
    let Some(id) = head.lines.iter().find(|line| is_it(line)).map(|line| line.id) else { return };
    // A program stands in the main line, and all others are what it asked for.
    head.lines.retain(|line| line.id <= id);
    for line in &mut head.lines {
        let line = Arc::make_mut(line);
        if let Some(state) = code_of(line) {
            (state.open, state.active) = (Vec::new(), None);
            state.armed = state.armed.max(1);
            line.next = Next::Interrupted;
        }
    }
}

/// What the program of another run armed is that run's to undo.
pub(super) fn nothing_armed(head: &mut Head) {
    for line in &mut head.lines {
        if let Some(state) = code_of(Arc::make_mut(line)) {
            state.armed = 0;
        }
    }
}
