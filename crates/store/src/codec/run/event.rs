//! What happens to a run.

use std::sync::Arc;

use tidewheel_engine::id::Name;
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::head::Identity;

use super::super::Decoded;
use super::act::empty;
use super::fields::{Field, Fields, Part, Values, Writer};
use super::{needed, wrong};

/// What an event may have; each kind has some of it.
#[derive(Default)]
struct EventFields {
    kind: u64,
    entry: u64,
    first: u64,
    outcomes: Vec<Outcome>,
    data: Option<Data>,
    text: Option<Name>,
    second: Option<Name>,
    next_seq: u64,
    identity: Option<Identity>,
    ended: Vec<(u64, Vec<Outcome>)>,
}

impl Part for Event {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Event::Start { identity, input } => {
                to.number(1, 1);
                to.part(9, &**identity);
                to.data(5, input);
            }
            Event::Continue => to.number(1, 2),
            Event::Done { entry, outcome } => {
                to.number(1, 3);
                to.number(2, *entry);
                to.part(4, outcome);
            }
            Event::Items { entry, first, outcomes } => {
                to.number(1, 4);
                to.number(2, *entry);
                to.number(3, *first);
                to.parts(4, outcomes);
            }
            Event::Many { entry, ended } => {
                to.number(1, 14);
                to.number(2, *entry);
                for (first, outcomes) in ended {
                    to.within(10, |to| {
                        to.number(1, *first);
                        to.parts(2, outcomes);
                    });
                }
            }
            Event::Fired { entry } => {
                to.number(1, 5);
                to.number(2, *entry);
            }
            Event::Arrived { event } => {
                to.number(1, 6);
                to.data(5, event);
            }
            Event::Signal { id, kind, data } => {
                to.number(1, 7);
                to.data(5, data);
                to.text(6, id);
                to.text(7, kind);
            }
            Event::Cancel { reason } => reason_of(to, 8, reason),
            Event::Terminate { reason } => reason_of(to, 9, reason),
            Event::Suspend { reason } => reason_of(to, 10, reason),
            Event::Resume => to.number(1, 11),
            Event::Retry => to.number(1, 12),
            Event::Reset { key, input, next_seq, identity, since } => {
                to.number(1, 13);
                if let Some(input) = input {
                    to.data(5, input);
                }
                to.text(6, key);
                to.number(8, *next_seq);
                to.part(9, &**identity);
                // No entry has the number 0.
                to.number(2, since.unwrap_or(0));
            }
            Event::Moved { identity, by } => {
                to.number(1, 15);
                to.text(6, by);
                to.part(9, &**identity);
            }
            Event::Accepted { by } => reason_of(to, 16, by),
        }
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut found = EventFields::default();
        fields.each(|tag, field| {
            match tag {
                1 => found.kind = field.number()?,
                2 => found.entry = field.number()?,
                3 => found.first = field.number()?,
                4 => found.outcomes.push(field.part(values)?),
                5 => found.data = Some(field.data(values)?),
                6 => found.text = Some(field.text()?),
                7 => found.second = Some(field.text()?),
                8 => found.next_seq = field.number()?,
                9 => found.identity = Some(field.part(values)?),
                10 => found.ended.push(read_ended(field, values)?),
                _ => {}
            }
            Ok(())
        })?;
        found.event()
    }
}

fn read_ended(field: Field<'_>, values: &mut Values) -> Decoded<(u64, Vec<Outcome>)> {
    let (mut first, mut outcomes) = (0, Vec::new());
    field.fields()?.each(|tag, field| {
        match tag {
            1 => first = field.number()?,
            2 => outcomes.push(field.part(values)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok((first, outcomes))
}

fn reason_of(to: &mut Writer<'_>, kind: u64, reason: &Name) {
    to.number(1, kind);
    to.text(6, reason);
}

impl EventFields {
    fn event(mut self) -> Decoded<Event> {
        let text = self.text.take().unwrap_or_else(empty);
        let entry = self.entry;
        Ok(match self.kind {
            1 => Event::Start { identity: Arc::new(self.identity()?), input: self.data()? },
            2 => Event::Continue,
            3 => Event::Done { entry, outcome: needed(self.outcomes.pop(), "outcome")? },
            4 => Event::Items { entry, first: self.first, outcomes: self.outcomes },
            5 => Event::Fired { entry },
            6 => Event::Arrived { event: self.data()? },
            7 => {
                let kind = self.second.take().unwrap_or_else(empty);
                Event::Signal { id: text, kind, data: self.data()? }
            }
            8 => Event::Cancel { reason: text },
            9 => Event::Terminate { reason: text },
            10 => Event::Suspend { reason: text },
            11 => Event::Resume,
            12 => Event::Retry,
            13 => {
                let (input, next_seq) = (self.data.take(), self.next_seq);
                let since = (self.entry > 0).then_some(self.entry);
                Event::Reset { key: text, input, next_seq, identity: Arc::new(self.identity()?), since }
            }
            14 => Event::Many { entry, ended: self.ended },
            15 => Event::Moved { identity: Arc::new(self.identity()?), by: text },
            16 => Event::Accepted { by: text },
            _ => return Err(wrong("an event is of an unknown kind")),
        })
    }

    fn data(&mut self) -> Decoded<Data> {
        needed(self.data.take(), "value in an event")
    }

    fn identity(&mut self) -> Decoded<Identity> {
        needed(self.identity.take(), "identity in an event")
    }
}
