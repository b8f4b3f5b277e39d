//! What takes how much of what a run may carry ([`INLINE_STATE`](crate::limit::INLINE_STATE)): for those who have to make room.

use std::collections::BTreeMap;

use super::code;
use super::data::Data;
use super::head::{Frame, Head, Line, Step};
use crate::id::Name;

/// A kind of values that a run carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What a program has open: its arguments, and what was made of them.
    Open,
    /// `$context`, once for each branch.
    Context,
    /// Inputs of the statements at hand.
    Inputs,
    /// Outputs that something waits for: of branches, and of statements that are about to end.
    Outputs,
    /// Items and results of loops and maps.
    Items,
    /// Events that came and were not taken, or are being taken.
    Events,
    /// Compensations that are armed, and outputs of the steps of sagas.
    Undo,
    /// The newest turns of a program.
    History,
}

impl Part {
    /// How it can be made less.
    pub fn advice(self) -> &'static str {
        match self {
            Part::Open => {
                "give what is asked for less (the name of a file in place of its content), use wf.map for many of one kind, or wait for \
                 some before asking for more"
            }
            Part::Context => "export less (`export.as`)",
            Part::Inputs => "let statements take less of their input (`input.from`)",
            Part::Outputs => "let outputs be smaller (`output.as`)",
            Part::Items => "go through names of things in place of the things",
            Part::Events => "take events as they come, or send less with each",
            Part::Undo => "give what undoes less: a name or an id is enough as a rule",
            Part::History => "call wf.continue_as_new",
        }
    }
}

/// What one kind takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Which.
    pub part: Part,
    /// Bytes, about.
    pub bytes: usize,
    /// Of so many entries, statements or events.
    pub count: usize,
    /// The largest of them, where they have names (the key of an entry, the reference of a statement): its bytes and its name.
    pub largest: (usize, Name),
}

#[derive(Default)]
struct Scale(BTreeMap<Part, Weight>);

impl Scale {
    fn put(&mut self, part: Part, name: &Name, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let nothing = || Weight { part, bytes: 0, count: 0, largest: (0, name.clone()) };
        let weight = self.0.entry(part).or_insert_with(nothing);
        (weight.bytes, weight.count) = (weight.bytes + bytes, weight.count + 1);
        if bytes > weight.largest.0 {
            weight.largest = (bytes, name.clone());
        }
    }

    fn frame(&mut self, frame: &Frame) {
        let name = &frame.place.reference;
        self.put(Part::Inputs, name, inputs(frame));
        self.put(Part::Outputs, name, frame.result.as_ref().map_or(0, Data::stored));
        let (part, bytes) = step(&frame.step);
        self.put(part, name, bytes);
    }
}

fn inputs(frame: &Frame) -> usize {
    let own = if frame.input.same(&frame.raw) { 0 } else { frame.input.stored() };
    frame.raw.stored() + own
}

fn step(step: &Step) -> (Part, usize) {
    match step {
        Step::For { items, .. } => (Part::Items, items.stored()),
        Step::Map(map) => (Part::Items, map.stored()),
        Step::Listen(listen) => (Part::Events, listen.stored()),
        Step::Code(code) => (Part::History, code.stored()),
        Step::Saga(saga) => (Part::Undo, saga.stored()),
        Step::Fork(branches) => (Part::Outputs, branches.iter().map(super::head::Branch::stored).sum()),
        _ => (Part::Outputs, 0),
    }
}

/// All that an entry of a program carries.
fn whole(line: &Line) -> usize {
    let frame = |frame: &Frame| inputs(frame) + frame.result.as_ref().map_or(0, Data::stored) + step(&frame.step).1;
    line.context.stored() + line.frames.iter().map(frame).sum::<usize>()
}

/// What a run carries, by kind, the heaviest first. In all it is [`Head::inline`].
pub fn weights(head: &Head) -> Vec<Weight> {
    let mut scale = Scale::default();
    let open: BTreeMap<u32, &Name> =
        code::of(head).map_or_else(BTreeMap::new, |code| code.open.iter().map(|(line, key)| (*line, key)).collect());
    let nameless: Name = "".into();
    let mut of_entry: BTreeMap<u32, &Name> = BTreeMap::new();
    // A line that branches off from another one has the greater number.
    for line in &head.lines {
        let key = open.get(&line.id).or_else(|| line.parent.and_then(|(parent, _)| of_entry.get(&parent)));
        if let Some(key) = key.copied() {
            of_entry.insert(line.id, key);
            scale.put(Part::Open, key, whole(line));
            continue;
        }
        scale.put(Part::Context, &nameless, line.context.stored());
        line.frames.iter().for_each(|frame| scale.frame(frame));
    }
    for waiting in &head.inbox {
        scale.put(Part::Events, &nameless, waiting.event.stored());
    }
    for undo in head.undo.iter().flat_map(|undo| undo.all()) {
        scale.put(Part::Undo, &undo.name, undo.stored());
    }
    let mut weights: Vec<Weight> = scale.0.into_values().collect();
    weights.sort_by_key(|weight| std::cmp::Reverse(weight.bytes));
    weights
}

/// Kinds that are named in a sentence: the heaviest.
const NAMED: usize = 3;

/// Bytes in words.
pub fn kib(bytes: usize) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}

impl std::fmt::Display for Weight {
    /// `640 KiB in what is open (120 entries), the largest /task:fetch#7 with 12 KiB`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Weight { part, bytes, count, largest: (most, name) } = self;
        write!(f, "{} in ", kib(*bytes))?;
        match part {
            Part::Open => write!(f, "what is open ({count} entries)"),
            Part::Context => write!(f, "the context"),
            Part::Inputs => write!(f, "inputs of statements"),
            Part::Outputs => write!(f, "outputs"),
            Part::Items => write!(f, "items and results of loops and maps"),
            Part::Events => write!(f, "events that were not taken ({count})"),
            Part::Undo => write!(f, "what may have to be undone ({count})"),
            Part::History => write!(f, "the newest turns of the program"),
        }?;
        if *count < 2 || name.is_empty() {
            return Ok(());
        }
        write!(f, ", the largest {name} with {}", kib(*most))
    }
}

/// What takes most of what a run carries, in words, and how it can be made less; nothing of a run that carries nothing.
pub fn most(head: &Head) -> Option<(String, &'static str)> {
    let weights = weights(head);
    let text = weights.iter().take(NAMED).map(Weight::to_string).collect::<Vec<_>>().join("; ");
    Some((text, weights.first()?.part.advice()))
}
