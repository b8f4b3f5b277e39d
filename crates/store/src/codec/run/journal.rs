//! Turns: what came, what was evaluated, what it meant.

use std::sync::Arc;

use tidewheel_engine::run::eval::Violation;
use tidewheel_engine::run::journal::{Ending, Fact, Segment, Taped, ValueId};

use super::super::Decoded;
use super::act::{phase, phase_number};
use super::fields::{Field, Fields, Part, Values, Writer};
use super::{needed, wrong};

impl Part for Segment {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(1, u64::from(self.revision));
        to.number(2, self.turn);
        to.number(3, self.now_ms);
        to.part(4, &self.event);
        to.number(5, u64::from(self.begun));
        to.flag(6, self.more);
        to.number(7, self.work);
        self.values.iter().for_each(|value| to.data(8, value));
        self.tape.iter().for_each(|taped| write_taped(to, taped));
        self.facts.iter().for_each(|fact| to.within(11, |to| write_fact(to, fact)));
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut revision, mut turn, mut now_ms, mut event) = (0, 0, 0, None);
        let (mut begun, mut more, mut work) = (0, false, 0);
        let (mut tape, mut kept, mut facts) = (Vec::new(), Vec::new(), Vec::new());
        fields.each(|tag, field| {
            match tag {
                1 => revision = field.small()?,
                2 => turn = field.number()?,
                3 => now_ms = field.number()?,
                4 => event = Some(field.part(values)?),
                5 => begun = field.small()?,
                6 => more = field.flag()?,
                7 => work = field.number()?,
                8 => kept.push(field.data(values)?),
                9 => tape.push(read_short(field)?),
                10 => tape.push(read_taped(field)?),
                11 => facts.push(read_fact(field)?),
                _ => {}
            }
            Ok(())
        })?;
        let event = needed(event, "event")?;
        Ok(Segment { revision, turn, now_ms, event, begun, more, work, tape, values: kept, facts })
    }
}

/// Kinds of what is taped as one number: its lowest two bits.
const VALUE: u64 = 0;
const VERDICT: u64 = 1;
const FUEL: u64 = 2;
const WORK: u64 = 3;
/// Kinds of what has fields of its own and came with revision 5.
const PAGE: u64 = 4;
/// See [`PAGE`].
const FULL: u64 = 5;

/// Field 9 is one number, field 10 has fields of its own; together they are in order.
fn write_taped(to: &mut Writer<'_>, taped: &Taped) {
    match taped {
        Taped::Value(id) => to.present(9, u64::from(id.0) << 2 | VALUE),
        Taped::Verdict(verdict) => to.present(9, u64::from(*verdict) << 2 | VERDICT),
        Taped::Fuel => to.present(9, FUEL),
        Taped::Work => to.present(9, WORK),
        Taped::Failed(why) => to.within(10, |to| {
            to.number(1, 1);
            to.text(2, why);
        }),
        Taped::Checked(violations) => to.within(10, |to| {
            to.number(1, 2);
            for violation in violations {
                to.within(3, |to| {
                    to.text(1, &violation.path);
                    to.text(2, &violation.message);
                });
            }
        }),
        Taped::Millis(millis) => to.within(10, |to| {
            to.number(1, 3);
            to.number(4, *millis);
        }),
        Taped::Page { page, first } => to.within(10, |to| {
            to.number(1, PAGE);
            to.number(4, *first);
            to.number(5, u64::from(page.0));
        }),
        Taped::Full => to.within(10, |to| to.number(1, FULL)),
    }
}

fn read_short(field: Field<'_>) -> Decoded<Taped> {
    let number = field.number()?;
    Ok(match number & 3 {
        VALUE => Taped::Value(ValueId(u32::try_from(number >> 2).map_err(|_| wrong("a value's place is too large"))?)),
        VERDICT => Taped::Verdict(number >> 2 != 0),
        FUEL => Taped::Fuel,
        _ => Taped::Work,
    })
}

fn read_taped(field: Field<'_>) -> Decoded<Taped> {
    let (mut kind, mut why, mut violations, mut number, mut page) = (0, None, Vec::new(), 0, 0);
    field.fields()?.each(|tag, field| {
        match tag {
            1 => kind = field.number()?,
            2 => why = Some(field.text()?),
            3 => violations.push(read_violation(field)?),
            4 => number = field.number()?,
            5 => page = field.small()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(match kind {
        1 => Taped::Failed(why.unwrap_or_else(|| Arc::from(""))),
        2 => Taped::Checked(violations),
        3 => Taped::Millis(number),
        PAGE => Taped::Page { page: ValueId(page), first: number },
        FULL => Taped::Full,
        _ => return Err(wrong("what was evaluated is of an unknown kind")),
    })
}

fn read_violation(field: Field<'_>) -> Decoded<Violation> {
    let mut violation = Violation { path: String::new(), message: String::new() };
    field.fields()?.each(|tag, field| {
        match tag {
            1 => violation.path = field.string()?,
            2 => violation.message = field.string()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(violation)
}

/// Kinds of facts, in field 1; the most frequent takes no bytes.
const DONE: u64 = 1;
const RETRIED: u64 = 2;
const PHASE: u64 = 3;

/// Places of values are counted from 1: 0 = none.
fn write_fact(to: &mut Writer<'_>, fact: &Fact) {
    let place = |id: &ValueId| u64::from(id.0) + 1;
    match fact {
        Fact::Opened { entry, within, key, value, args_hash, due_ms } => {
            to.number(2, *entry);
            to.number(3, *within);
            to.part(4, key);
            to.number(5, value.as_ref().map_or(0, place));
            to.number(6, *args_hash);
            to.number(7, *due_ms);
        }
        Fact::Done { entry, how } => {
            to.number(1, DONE);
            to.number(2, *entry);
            let (how, value) = match how {
                Ending::Ok(id) => (0, place(id)),
                Ending::Skipped => (1, 0),
                Ending::Err(id) => (2, place(id)),
                Ending::Cancelled => (3, 0),
            };
            to.number(5, value);
            to.number(8, how);
        }
        Fact::Retried { entry, attempt, due_ms, error } => {
            to.number(1, RETRIED);
            to.number(2, *entry);
            to.number(5, place(error));
            to.number(7, *due_ms);
            to.number(9, u64::from(*attempt));
        }
        Fact::Phase { phase, reason, value } => {
            to.number(1, PHASE);
            to.number(5, value.as_ref().map_or(0, place));
            to.number(10, u64::from(phase_number(*phase)));
            to.option(11, reason);
        }
    }
}

fn read_fact(field: Field<'_>) -> Decoded<Fact> {
    let (mut kind, mut entry, mut within, mut key, mut place) = (0, 0, 0, None, 0u64);
    let (mut args_hash, mut due_ms, mut how, mut attempt) = (0, 0, 0u64, 0);
    let (mut phase_now, mut reason) = (Default::default(), None);
    field.fields()?.each(|tag, field| {
        match tag {
            1 => kind = field.number()?,
            2 => entry = field.number()?,
            3 => within = field.number()?,
            4 => key = Some(field.part(&mut Values::default())?),
            5 => place = field.number()?,
            6 => args_hash = field.number()?,
            7 => due_ms = field.number()?,
            8 => how = field.number()?,
            9 => attempt = field.small()?,
            10 => phase_now = phase(field)?,
            11 => reason = Some(field.text()?),
            _ => {}
        }
        Ok(())
    })?;
    let value = match place.checked_sub(1).map(u32::try_from) {
        None => None,
        Some(Ok(place)) => Some(ValueId(place)),
        Some(Err(_)) => return Err(wrong("a value's place is too large")),
    };
    let valued = || needed(value, "value of a fact");
    Ok(match kind {
        0 => Fact::Opened { entry, within, key: needed(key, "key of an entry")?, value, args_hash, due_ms },
        DONE => {
            let how = match how {
                0 => Ending::Ok(valued()?),
                1 => Ending::Skipped,
                2 => Ending::Err(valued()?),
                3 => Ending::Cancelled,
                _ => return Err(wrong("how an entry ended is unknown")),
            };
            Fact::Done { entry, how }
        }
        RETRIED => Fact::Retried { entry, attempt, due_ms, error: valued()? },
        PHASE => Fact::Phase { phase: phase_now, reason, value },
        _ => return Err(wrong("a fact is of an unknown kind")),
    })
}
