//! The head: first what lists show, then what the run goes on with.

use std::sync::Arc;

use tidewheel_engine::id::Name;
use tidewheel_engine::run::act::Outcome;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::eval::Json;
use tidewheel_engine::run::head::{Compacted, Head, Identity, Line, Open, Outside, Phase, Waiting};
use tidewheel_engine::run::plan::ParentClose;
use tidewheel_engine::run::undo::Compensations;

use super::super::Decoded;
use super::act::{close, close_number, phase, phase_number};
use super::fields::{Field, Fields, Part, Values, Writer};
use super::{needed, wrong};

/// What lists show of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFacts {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Phase.
    pub phase: Phase,
    /// Why it is in that phase, where somebody said so.
    pub reason: Option<Name>,
    /// Wall time of its start.
    pub started: u64,
    /// Wall time of its end; 0 = not ended.
    pub ended: u64,
    /// Turns so far.
    pub turns: u64,
    /// Raw input.
    pub input: Data,
    /// Output or error, once it ended.
    pub outcome: Option<Outcome>,
    /// Search attributes.
    pub attributes: Vec<(Name, Json)>,
}

impl Part for Head {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(1, u64::from(self.version));
        to.part(2, &*self.identity);
        to.number(3, u64::from(phase_number(self.phase)));
        to.option(4, &self.reason);
        to.number(5, self.started_ms);
        to.number(6, self.ended_ms);
        to.number(7, self.turns);
        to.data(8, &self.input);
        if let Some(outcome) = &self.outcome {
            to.part(9, outcome);
        }
        to.parts(10, &self.attributes);
        if let Some((phase, outcome)) = &self.closing {
            to.present(11, u64::from(phase_number(*phase)));
            to.part(12, outcome);
        }
        for line in &self.lines {
            to.part(13, &**line);
        }
        to.number(14, u64::from(self.next_line));
        to.number(15, self.next_seq);
        to.number(16, self.entries);
        to.number(17, self.work);
        for (entry, open) in &self.open {
            to.within(18, |to| write_open(to, *entry, open));
        }
        for (entry, close) in &self.children {
            to.within(19, |to| {
                to.number(1, *entry);
                to.number(2, close_number(*close));
            });
        }
        to.parts(20, &self.inbox);
        to.number(21, self.arrivals);
        if !self.seen.is_empty() {
            let bytes: Vec<u8> = self.seen.iter().flat_map(|hash| hash.to_le_bytes()).collect();
            to.bytes(22, &bytes);
        }
        to.parts(23, &self.held);
        to.parts(24, &self.owed);
        if let Some(compacted) = &self.compacted {
            to.within(25, |to| {
                to.number(1, compacted.turns);
                to.bytes(2, &compacted.chain);
            });
        }
        if let Some(undo) = &self.undo {
            to.part(26, &**undo);
        }
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut head, mut body) = (Facts::default(), Body::default());
        fields.each(|tag, field| match tag {
            ..=10 => head.read(tag, field, values),
            _ => body.read(tag, field, values),
        })?;
        let closing = match (body.closing, body.closing_outcome) {
            (None, None) => None,
            (phase, outcome) => Some((needed(phase, "phase of its end")?, needed(outcome, "outcome of its end")?)),
        };
        Ok(Head {
            version: head.version,
            identity: Arc::new(needed(head.identity, "identity")?),
            phase: head.phase,
            reason: head.reason,
            started_ms: head.started,
            ended_ms: head.ended,
            input: needed(head.input, "input")?,
            outcome: head.outcome,
            closing,
            lines: body.lines,
            next_line: body.next_line,
            next_seq: body.next_seq,
            turns: head.turns,
            entries: body.entries,
            work: body.work,
            open: body.open,
            children: body.children,
            attributes: Arc::new(head.attributes),
            inbox: body.inbox,
            arrivals: body.arrivals,
            seen: Arc::new(body.seen),
            held: body.held,
            owed: body.owed,
            compacted: body.compacted,
            undo: body.undo,
        })
    }
}

/// Read only: heads are written whole.
impl Part for RunFacts {
    fn write(&self, _: &mut Writer<'_>) {}

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut facts = Facts::default();
        fields.each(|tag, field| if tag <= 10 { facts.read(tag, field, values) } else { Ok(()) })?;
        Ok(RunFacts {
            identity: Arc::new(needed(facts.identity, "identity")?),
            phase: facts.phase,
            reason: facts.reason,
            started: facts.started,
            ended: facts.ended,
            turns: facts.turns,
            input: needed(facts.input, "input")?,
            outcome: facts.outcome,
            attributes: facts.attributes,
        })
    }
}

/// Fields 1 to 10.
#[derive(Default)]
struct Facts {
    version: u16,
    identity: Option<Identity>,
    phase: Phase,
    reason: Option<Name>,
    started: u64,
    ended: u64,
    turns: u64,
    input: Option<Data>,
    outcome: Option<Outcome>,
    attributes: Vec<(Name, Json)>,
}

impl Facts {
    fn read(&mut self, tag: u32, field: Field<'_>, values: &mut Values) -> Decoded<()> {
        match tag {
            1 => self.version = field.small()?,
            2 => self.identity = Some(field.part(values)?),
            3 => self.phase = phase(field)?,
            4 => self.reason = Some(field.text()?),
            5 => self.started = field.number()?,
            6 => self.ended = field.number()?,
            7 => self.turns = field.number()?,
            8 => self.input = Some(field.data(values)?),
            9 => self.outcome = Some(field.part(values)?),
            10 => self.attributes.push(field.part(values)?),
            _ => {}
        }
        Ok(())
    }
}

/// Fields from 11 on.
#[derive(Default)]
struct Body {
    closing: Option<Phase>,
    closing_outcome: Option<Outcome>,
    lines: Vec<Arc<Line>>,
    next_line: u32,
    next_seq: u64,
    entries: u64,
    work: u64,
    open: Vec<(u64, Open)>,
    children: Vec<(u64, ParentClose)>,
    inbox: Vec<Waiting>,
    arrivals: u64,
    seen: Vec<u64>,
    held: Vec<tidewheel_engine::run::act::Event>,
    owed: Vec<tidewheel_engine::run::act::Act>,
    compacted: Option<Compacted>,
    undo: Option<Arc<Compensations>>,
}

impl Body {
    fn read(&mut self, tag: u32, field: Field<'_>, values: &mut Values) -> Decoded<()> {
        match tag {
            11 => self.closing = Some(phase(field)?),
            12 => self.closing_outcome = Some(field.part(values)?),
            13 => self.lines.push(Arc::new(field.part(values)?)),
            14 => self.next_line = field.small()?,
            15 => self.next_seq = field.number()?,
            16 => self.entries = field.number()?,
            17 => self.work = field.number()?,
            18 => self.open.push(read_open(field)?),
            19 => self.children.push(read_child(field)?),
            20 => self.inbox.push(field.part(values)?),
            21 => self.arrivals = field.number()?,
            22 => {
                let (hashes, rest) = field.bytes()?.as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(wrong("hashes of events have a wrong length"));
                }
                self.seen = hashes.iter().map(|hash| u64::from_le_bytes(*hash)).collect();
            }
            23 => self.held.push(field.part(values)?),
            24 => self.owed.push(field.part(values)?),
            25 => self.compacted = Some(read_compacted(field)?),
            26 => self.undo = Some(Arc::new(field.part(values)?)),
            _ => {}
        }
        Ok(())
    }
}

impl Part for Waiting {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(1, self.no);
        to.data(2, &self.event);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut no, mut event) = (0, None);
        fields.each(|tag, field| {
            match tag {
                1 => no = field.number()?,
                2 => event = Some(field.data(values)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(Waiting { no, event: needed(event, "event that waits")? })
    }
}

/// The owner is left out where it is the entry itself.
fn write_open(to: &mut Writer<'_>, entry: u64, open: &Open) {
    to.number(1, entry);
    to.number(2, u64::from(open.line));
    if open.owner != entry {
        to.present(3, open.owner);
    }
    let what = match open.what {
        Outside::Task => 1,
        Outside::Items => 2,
        Outside::Wait => 3,
        Outside::Timeout => 4,
        Outside::AttemptLimit => 5,
        Outside::Backoff => 6,
        Outside::Events => 7,
        Outside::Child(close) => 8 + close_number(close),
        Outside::Undo => 11,
        Outside::UndoPause => 12,
    };
    to.number(4, what);
}

fn read_open(field: Field<'_>) -> Decoded<(u64, Open)> {
    let (mut entry, mut line, mut owner, mut what) = (0, 0, None, 0);
    field.fields()?.each(|tag, field| {
        match tag {
            1 => entry = field.number()?,
            2 => line = field.small()?,
            3 => owner = Some(field.number()?),
            4 => what = field.number()?,
            _ => {}
        }
        Ok(())
    })?;
    let what = match what {
        1 => Outside::Task,
        2 => Outside::Items,
        3 => Outside::Wait,
        4 => Outside::Timeout,
        5 => Outside::AttemptLimit,
        6 => Outside::Backoff,
        7 => Outside::Events,
        8..=10 => Outside::Child(close(what - 8)?),
        11 => Outside::Undo,
        12 => Outside::UndoPause,
        _ => return Err(wrong("what is open outside is unknown")),
    };
    Ok((entry, Open { line, owner: owner.unwrap_or(entry), what }))
}

fn read_child(field: Field<'_>) -> Decoded<(u64, ParentClose)> {
    let mut child = (0, ParentClose::default());
    field.fields()?.each(|tag, field| {
        match tag {
            1 => child.0 = field.number()?,
            2 => child.1 = close(field.number()?)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(child)
}

fn read_compacted(field: Field<'_>) -> Decoded<Compacted> {
    let (mut turns, mut chain) = (0, None);
    field.fields()?.each(|tag, field| {
        match tag {
            1 => turns = field.number()?,
            2 => chain = Some(field.array()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(Compacted { turns, chain: needed(chain, "chain of hashes")? })
}
