//! Acts, and what events have in common with them.

use std::sync::Arc;

use bytes::Bytes;
use tidewheel_engine::id::{Name, RunId};
use tidewheel_engine::run::act::{Act, EventFilter, OpenTask, Outcome, StartChild, TaskHints};
use tidewheel_engine::run::data::{BlobHash, Data};
use tidewheel_engine::run::eval::Json;
use tidewheel_engine::run::fault::Fault;
use tidewheel_engine::run::head::{Identity, Parent, Phase};
use tidewheel_engine::run::journal::{EntryKind, Key};
use tidewheel_engine::run::plan::{ParentClose, Process, Protocol, Target};

use super::super::{Decoded, name};
use super::fields::{Field, Fields, Part, Values, Writer};
use super::{needed, wrong};

/// Phases by number. Never reordered.
pub(super) const PHASES: [Phase; 7] = [
    Phase::Pending,
    Phase::Running,
    Phase::Waiting,
    Phase::Suspended,
    Phase::Cancelled,
    Phase::Faulted,
    Phase::Completed,
];

/// The number under which a phase is stored.
pub fn phase_number(phase: Phase) -> u8 {
    match phase {
        Phase::Pending => 0,
        Phase::Running => 1,
        Phase::Waiting => 2,
        Phase::Suspended => 3,
        Phase::Cancelled => 4,
        Phase::Faulted => 5,
        Phase::Completed => 6,
    }
}

pub(super) fn phase(field: Field<'_>) -> Decoded<Phase> {
    let number: u8 = field.small()?;
    PHASES.get(usize::from(number)).copied().ok_or_else(|| wrong("its phase is unknown"))
}

/// Kinds of entries by number, from 1. Never reordered.
pub(super) const KINDS: [EntryKind; 27] = [
    EntryKind::Run,
    EntryKind::Do,
    EntryKind::Set,
    EntryKind::Switch,
    EntryKind::For,
    EntryKind::Fork,
    EntryKind::Try,
    EntryKind::Raise,
    EntryKind::Function,
    EntryKind::Task,
    EntryKind::Child,
    EntryKind::Sleep,
    EntryKind::Event,
    EntryKind::Emit,
    EntryKind::Map,
    EntryKind::Step,
    EntryKind::Signal,
    EntryKind::Promise,
    EntryKind::Human,
    EntryKind::Undo,
    EntryKind::Patch,
    EntryKind::State,
    EntryKind::Program,
    EntryKind::Activation,
    EntryKind::Saga,
    EntryKind::Moved,
    EntryKind::Accepted,
];

pub(super) fn close_number(close: ParentClose) -> u64 {
    match close {
        ParentClose::Cancel => 0,
        ParentClose::Abandon => 1,
        ParentClose::Wait => 2,
    }
}

pub(super) fn close(number: u64) -> Decoded<ParentClose> {
    match number {
        0 => Ok(ParentClose::Cancel),
        1 => Ok(ParentClose::Abandon),
        2 => Ok(ParentClose::Wait),
        _ => Err(wrong("what becomes of a child is unknown")),
    }
}

pub(super) fn run_id(field: Field<'_>) -> Decoded<RunId> {
    field.array().map(|bytes| RunId(u128::from_be_bytes(bytes)))
}

pub(super) fn empty() -> Name {
    name(String::new())
}

impl Part for Identity {
    fn write(&self, to: &mut Writer<'_>) {
        to.bytes(1, &self.run.0.to_be_bytes());
        to.bytes(2, &self.plan);
        to.text(3, &self.namespace);
        to.text(4, &self.name);
        to.text(5, &self.version);
        if let Some(parent) = &self.parent {
            to.part(6, parent);
        }
        to.option(7, &self.correlation);
        to.number(8, u64::from(self.depth));
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut run, mut plan) = (None, None);
        let (mut namespace, mut title, mut version) = (empty(), empty(), empty());
        let (mut parent, mut correlation, mut depth) = (None, None, 0);
        fields.each(|tag, field| {
            match tag {
                1 => run = Some(run_id(field)?),
                2 => plan = Some(field.array()?),
                3 => namespace = field.text()?,
                4 => title = field.text()?,
                5 => version = field.text()?,
                6 => parent = Some(field.part(values)?),
                7 => correlation = Some(field.text()?),
                8 => depth = field.small()?,
                _ => {}
            }
            Ok(())
        })?;
        let (run, plan) = (needed(run, "id")?, needed(plan, "plan")?);
        Ok(Identity { run, plan, namespace, name: title, version, parent, correlation, depth })
    }
}

impl Part for Parent {
    fn write(&self, to: &mut Writer<'_>) {
        to.bytes(1, &self.run.0.to_be_bytes());
        to.number(2, self.entry);
        if let Some(item) = self.item {
            to.present(3, item);
        }
        to.number(4, close_number(self.close));
    }

    fn read(fields: Fields<'_>, _: &mut Values) -> Decoded<Self> {
        let (mut run, mut entry, mut item, mut on_close) = (None, 0, None, ParentClose::default());
        fields.each(|tag, field| {
            match tag {
                1 => run = Some(run_id(field)?),
                2 => entry = field.number()?,
                3 => item = Some(field.number()?),
                4 => on_close = close(field.number()?)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(Parent { run: needed(run, "parent")?, entry, item, close: on_close })
    }
}

/// Nothing at all = cancelled.
impl Part for Outcome {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Outcome::Ok(data) => to.data(1, data),
            Outcome::Err(fault) => to.json(2, &fault.0),
            Outcome::Cancelled => {}
        }
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut outcome = Outcome::Cancelled;
        fields.each(|tag, field| {
            match tag {
                1 => outcome = Outcome::Ok(field.data(values)?),
                2 => outcome = Outcome::Err(fault(field)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(outcome)
    }
}

pub(super) fn fault(field: Field<'_>) -> Decoded<Fault> {
    field.json().map(|json| Fault(Arc::new(json)))
}

impl Part for Key {
    fn write(&self, to: &mut Writer<'_>) {
        to.text(1, &self.scope);
        let kind = KINDS.iter().position(|kind| *kind == self.kind).map_or(0, |at| at as u64 + 1);
        to.number(2, kind);
        to.text(3, &self.name);
        to.number(4, u64::from(self.n));
    }

    fn read(fields: Fields<'_>, _: &mut Values) -> Decoded<Self> {
        let (mut scope, mut kind, mut title, mut n) = (empty(), None, empty(), 0);
        fields.each(|tag, field| {
            match tag {
                1 => scope = field.text()?,
                2 => {
                    let number: usize = field.small()?;
                    kind = number.checked_sub(1).and_then(|at| KINDS.get(at)).copied();
                }
                3 => title = field.text()?,
                4 => n = field.small()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(Key { scope, kind: needed(kind, "kind of entry that is known")?, name: title, n })
    }
}

impl Part for Target {
    fn write(&self, to: &mut Writer<'_>) {
        let (kind, names): (u64, &[&Name]) = match self {
            Target::Python => (1, &[]),
            Target::Process(Process::Python) => (2, &[]),
            Target::Process(Process::JavaScript) => (3, &[]),
            Target::Process(Process::Shell) => (4, &[]),
            Target::Process(Process::Container) => (5, &[]),
            Target::Task(kind) => (6, &[kind]),
            Target::Workflow(namespace, title, version) => (7, &[namespace, title, version]),
            Target::Outbound(Protocol::Http) => (8, &[]),
            Target::Outbound(Protocol::Grpc) => (9, &[]),
            Target::Outbound(Protocol::OpenApi) => (10, &[]),
            Target::Outbound(Protocol::AsyncApi) => (11, &[]),
            Target::Outbound(Protocol::A2a) => (12, &[]),
            Target::Outbound(Protocol::Mcp) => (13, &[]),
            Target::Catalog(title, version) => (14, &[title, version]),
        };
        to.number(1, kind);
        for (tag, text) in (2..).zip(names) {
            to.text(tag, text);
        }
    }

    fn read(fields: Fields<'_>, _: &mut Values) -> Decoded<Self> {
        let (mut kind, mut names) = (0, [empty(), empty(), empty()]);
        fields.each(|tag, field| {
            match tag {
                1 => kind = field.number()?,
                2..=4 => names[tag as usize - 2] = field.text()?,
                _ => {}
            }
            Ok(())
        })?;
        let [a, b, c] = names;
        Ok(match kind {
            1 => Target::Python,
            2 => Target::Process(Process::Python),
            3 => Target::Process(Process::JavaScript),
            4 => Target::Process(Process::Shell),
            5 => Target::Process(Process::Container),
            6 => Target::Task(a),
            7 => Target::Workflow(a, b, c),
            8 => Target::Outbound(Protocol::Http),
            9 => Target::Outbound(Protocol::Grpc),
            10 => Target::Outbound(Protocol::OpenApi),
            11 => Target::Outbound(Protocol::AsyncApi),
            12 => Target::Outbound(Protocol::A2a),
            13 => Target::Outbound(Protocol::Mcp),
            14 => Target::Catalog(a, b),
            _ => return Err(wrong("who does a task is unknown")),
        })
    }
}

impl Part for TaskHints {
    fn write(&self, to: &mut Writer<'_>) {
        to.option(1, &self.queue);
        if let Some(priority) = self.priority {
            to.present(2, u64::from(priority));
        }
        to.parts(3, &self.requires);
        to.option(4, &self.affinity_key);
        to.option(5, &self.concurrency_key);
        to.option(6, &self.idempotency_key);
        to.number(7, self.sla_ms);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut hints = TaskHints::default();
        fields.each(|tag, field| {
            match tag {
                1 => hints.queue = Some(field.text()?),
                2 => hints.priority = Some(field.small()?),
                3 => hints.requires.push(field.part(values)?),
                4 => hints.affinity_key = Some(field.text()?),
                5 => hints.concurrency_key = Some(field.text()?),
                6 => hints.idempotency_key = Some(field.text()?),
                7 => hints.sla_ms = field.number()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(hints)
    }
}

impl Part for OpenTask {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(1, self.entry);
        to.part(2, &self.key);
        to.part(3, &self.target);
        to.data(4, &self.args);
        to.flag(5, self.sealed);
        if let Some((first, count)) = self.items {
            to.present(6, first);
            to.present(7, u64::from(count));
        }
        to.flag(8, self.awaited);
        to.number(9, self.deadline_ms);
        to.part(10, &self.hints);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut entry, mut key, mut target, mut args) = (0, None, None, None);
        let (mut sealed, mut first, mut count, mut awaited) = (false, None, 0, false);
        let (mut deadline_ms, mut hints) = (0, TaskHints::default());
        fields.each(|tag, field| {
            match tag {
                1 => entry = field.number()?,
                2 => key = Some(field.part(values)?),
                3 => target = Some(field.part(values)?),
                4 => args = Some(field.data(values)?),
                5 => sealed = field.flag()?,
                6 => first = Some(field.number()?),
                7 => count = field.small()?,
                8 => awaited = field.flag()?,
                9 => deadline_ms = field.number()?,
                10 => hints = field.part(values)?,
                _ => {}
            }
            Ok(())
        })?;
        let (key, target) = (needed(key, "key of a task")?, needed(target, "target of a task")?);
        let (args, items) = (needed(args, "arguments of a task")?, first.map(|first| (first, count)));
        Ok(OpenTask { entry, key, target, args, sealed, items, awaited, deadline_ms, hints })
    }
}

impl Part for StartChild {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(1, self.entry);
        to.part(2, &self.key);
        to.text(3, &self.namespace);
        to.text(4, &self.name);
        to.text(5, &self.version);
        to.data(6, &self.input);
        if let Some(item) = self.item {
            to.present(7, item);
        }
        to.flag(8, self.awaited);
        to.number(9, close_number(self.close));
        to.number(10, u64::from(self.depth));
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut entry, mut key, mut input, mut item) = (0, None, None, None);
        let (mut namespace, mut title, mut version) = (empty(), empty(), empty());
        let (mut awaited, mut on_close, mut depth) = (false, ParentClose::default(), 0);
        fields.each(|tag, field| {
            match tag {
                1 => entry = field.number()?,
                2 => key = Some(field.part(values)?),
                3 => namespace = field.text()?,
                4 => title = field.text()?,
                5 => version = field.text()?,
                6 => input = Some(field.data(values)?),
                7 => item = Some(field.number()?),
                8 => awaited = field.flag()?,
                9 => on_close = close(field.number()?)?,
                10 => depth = field.small()?,
                _ => {}
            }
            Ok(())
        })?;
        let (key, input) = (needed(key, "key of a child")?, needed(input, "input of a child")?);
        Ok(StartChild { entry, key, namespace, name: title, version, input, item, awaited, close: on_close, depth })
    }
}

/// What a correlation has to be, if that is known.
struct Expected(Name, Option<Json>);

impl Part for Expected {
    fn write(&self, to: &mut Writer<'_>) {
        to.text(1, &self.0);
        if let Some(json) = &self.1 {
            to.json(2, json);
        }
    }

    fn read(fields: Fields<'_>, _: &mut Values) -> Decoded<Self> {
        let mut expected = Expected(empty(), None);
        fields.each(|tag, field| {
            match tag {
                1 => expected.0 = field.text()?,
                2 => expected.1 = Some(field.json()?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(expected)
    }
}

impl Part for EventFilter {
    fn write(&self, to: &mut Writer<'_>) {
        to.option(1, &self.kind);
        for (title, json) in &self.correlate {
            to.part(2, &Expected(title.clone(), json.clone()));
        }
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut filter = EventFilter::default();
        fields.each(|tag, field| {
            match tag {
                1 => filter.kind = Some(field.text()?),
                2 => {
                    let Expected(title, json) = field.part(values)?;
                    filter.correlate.push((title, json));
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(filter)
    }
}

/// What an act may have; each kind has some of it.
#[derive(Default)]
struct ActFields {
    kind: u64,
    entry: u64,
    due: u64,
    data: Option<Data>,
    task: Option<OpenTask>,
    child: Option<StartChild>,
    filters: Vec<EventFilter>,
    attributes: Vec<(Name, Json)>,
    phase: Option<Phase>,
    outcome: Option<Outcome>,
    hash: Option<[u8; 32]>,
    bytes: Bytes,
}

impl Part for Act {
    fn write(&self, to: &mut Writer<'_>) {
        let mut plain = |kind: u64, entry: u64| {
            to.number(1, kind);
            to.number(2, entry);
        };
        match self {
            Act::PutBlob { hash, bytes } => {
                plain(1, 0);
                to.bytes(11, &hash.0);
                to.bytes(12, bytes);
            }
            Act::OpenTask(task) => {
                plain(2, 0);
                to.part(5, &**task);
            }
            Act::CancelTask { entry } => plain(3, *entry),
            Act::CancelItems { entry } => plain(4, *entry),
            Act::OpenTimer { entry, due } => {
                plain(5, *entry);
                to.number(3, *due);
            }
            Act::CancelTimer { entry } => plain(6, *entry),
            Act::StartChild(child) => {
                plain(7, 0);
                to.part(6, &**child);
            }
            Act::CancelChild { entry } => plain(8, *entry),
            Act::Emit { entry, event } => {
                plain(9, *entry);
                to.data(4, event);
            }
            Act::Subscribe { entry, filters } => {
                plain(10, *entry);
                to.parts(7, filters);
            }
            Act::Unsubscribe { entry } => plain(11, *entry),
            Act::Defer { event } => {
                plain(12, 0);
                to.data(4, event);
            }
            Act::Attributes(attributes) => {
                plain(13, 0);
                to.parts(8, attributes);
            }
            Act::Finished { phase, outcome } => {
                plain(14, 0);
                to.present(9, u64::from(phase_number(*phase)));
                to.part(10, outcome);
            }
        }
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut found = ActFields::default();
        fields.each(|tag, field| {
            match tag {
                1 => found.kind = field.number()?,
                2 => found.entry = field.number()?,
                3 => found.due = field.number()?,
                4 => found.data = Some(field.data(values)?),
                5 => found.task = Some(field.part(values)?),
                6 => found.child = Some(field.part(values)?),
                7 => found.filters.push(field.part(values)?),
                8 => found.attributes.push(field.part(values)?),
                9 => found.phase = Some(phase(field)?),
                10 => found.outcome = Some(field.part(values)?),
                11 => found.hash = Some(field.array()?),
                12 => found.bytes = Bytes::copy_from_slice(field.bytes()?),
                _ => {}
            }
            Ok(())
        })?;
        found.act()
    }
}

impl ActFields {
    fn act(self) -> Decoded<Act> {
        let entry = self.entry;
        let event = || needed(self.data.clone(), "event in an act");
        Ok(match self.kind {
            1 => Act::PutBlob { hash: BlobHash(needed(self.hash, "hash of a value")?), bytes: self.bytes },
            2 => Act::OpenTask(Box::new(needed(self.task, "task in an act")?)),
            3 => Act::CancelTask { entry },
            4 => Act::CancelItems { entry },
            5 => Act::OpenTimer { entry, due: self.due },
            6 => Act::CancelTimer { entry },
            7 => Act::StartChild(Box::new(needed(self.child, "child in an act")?)),
            8 => Act::CancelChild { entry },
            9 => Act::Emit { entry, event: event()? },
            10 => Act::Subscribe { entry, filters: self.filters },
            11 => Act::Unsubscribe { entry },
            12 => Act::Defer { event: event()? },
            13 => Act::Attributes(self.attributes),
            14 => {
                let phase = needed(self.phase, "phase of an end")?;
                Act::Finished { phase, outcome: needed(self.outcome, "outcome of an end")? }
            }
            _ => return Err(wrong("an act is of an unknown kind")),
        })
    }
}
