//! Compensations.

use tidewheel_engine::run::act::TaskHints;
use tidewheel_engine::run::plan::Backoff;
use tidewheel_engine::run::undo::{Compensations, Undo, UndoRetry};

use super::super::Decoded;
use super::act::empty;
use super::fields::{Field, Fields, Part, Values, Writer};
use super::{needed, wrong};

fn backoff_number(backoff: Backoff) -> u64 {
    match backoff {
        Backoff::Constant => 0,
        Backoff::Exponential => 1,
        Backoff::Linear => 2,
    }
}

fn backoff(field: Field<'_>) -> Decoded<Backoff> {
    match field.number()? {
        0 => Ok(Backoff::Constant),
        1 => Ok(Backoff::Exponential),
        2 => Ok(Backoff::Linear),
        _ => Err(wrong("how a pause grows is unknown")),
    }
}

impl Part for UndoRetry {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(1, u64::from(self.count));
        to.number(2, self.delay_ms);
        to.number(3, backoff_number(self.backoff));
    }

    fn read(fields: Fields<'_>, _: &mut Values) -> Decoded<Self> {
        let mut retry = UndoRetry { count: 0, delay_ms: 0, backoff: Backoff::Constant };
        fields.each(|tag, field| {
            match tag {
                1 => retry.count = field.small()?,
                2 => retry.delay_ms = field.number()?,
                3 => retry.backoff = backoff(field)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(retry)
    }
}

impl Part for Undo {
    fn write(&self, to: &mut Writer<'_>) {
        to.text(1, &self.name);
        to.number(2, self.of);
        to.text(3, &self.scope);
        to.text(4, &self.reference);
        to.part(5, &self.target);
        to.data(6, &self.args);
        if self.hints != TaskHints::default() {
            to.part(7, &self.hints);
        }
        to.part(8, &self.retry);
        to.number(9, u64::from(self.tries));
        to.number(10, u64::from(self.failures));
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut label, mut of, mut scope, mut reference) = (empty(), 0, empty(), empty());
        let (mut target, mut args, mut hints, mut retry) = (None, None, TaskHints::default(), None);
        let (mut tries, mut failures) = (0, 0);
        fields.each(|tag, field| {
            match tag {
                1 => label = field.text()?,
                2 => of = field.number()?,
                3 => scope = field.text()?,
                4 => reference = field.text()?,
                5 => target = Some(field.part(values)?),
                6 => args = Some(field.data(values)?),
                7 => hints = field.part(values)?,
                8 => retry = Some(field.part(values)?),
                9 => tries = field.small()?,
                10 => failures = field.small()?,
                _ => {}
            }
            Ok(())
        })?;
        let (target, args) = (needed(target, "task that undoes")?, needed(args, "arguments of an undo")?);
        let retry = needed(retry, "retry of an undo")?;
        Ok(Undo { name: label, of, scope, reference, target, args, hints, retry, tries, failures })
    }
}

impl Part for Compensations {
    fn write(&self, to: &mut Writer<'_>) {
        to.parts(1, &self.armed);
        if let Some((entry, undo)) = &self.running {
            to.present(2, *entry);
            to.part(3, undo);
        }
        if let Some(timer) = self.pause {
            to.present(4, timer);
        }
        to.flag(5, self.unwinding);
        self.failed.iter().for_each(|name| to.bytes(6, name.as_bytes()));
        to.number(7, self.holds as u64);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut all = Compensations::default();
        let (mut entry, mut running): (Option<u64>, Option<Undo>) = (None, None);
        fields.each(|tag, field| {
            match tag {
                1 => all.armed.push(field.part(values)?),
                2 => entry = Some(field.number()?),
                3 => running = Some(field.part(values)?),
                4 => all.pause = Some(field.number()?),
                5 => all.unwinding = field.flag()?,
                6 => all.failed.push(field.text()?),
                7 => all.holds = usize::try_from(field.number()?).unwrap_or(usize::MAX),
                _ => {}
            }
            Ok(())
        })?;
        all.holds = all.holds.min(all.armed.len());
        all.running = match (entry, running) {
            (None, None) => None,
            (entry, running) => Some((needed(entry, "entry of an undo")?, needed(running, "undo at work")?)),
        };
        Ok(all)
    }
}
