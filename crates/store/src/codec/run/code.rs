//! The state of a program (durable Python).

use std::sync::Arc;

use tidewheel_engine::id::Name;
use tidewheel_engine::run::code::{Await, CodeState};
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::history::{CodeTurn, Told};
use tidewheel_engine::run::map::Given;

use super::super::Decoded;
use super::act::empty;
use super::fields::{Fields, Part, Values, Writer};
use super::needed;

impl Part for CodeState {
    fn write(&self, to: &mut Writer<'_>) {
        to.data(1, &self.input);
        to.number(2, u64::from(self.generation));
        to.number(3, self.epoch);
        to.number(4, self.activation);
        if let Some(line) = self.active {
            to.present(5, u64::from(line));
        }
        self.turns.iter().for_each(|turn| to.part(6, &**turn));
        to.number(7, self.bytes as u64);
        to.parts(8, &self.news);
        for (line, key) in &self.open {
            to.part(9, &Keyed(u64::from(*line), key.clone()));
        }
        to.parts(10, &self.waits);
        to.option(11, &self.cancel);
        to.flag(12, self.cancel_told);
        if let Some(state) = &self.state {
            to.data(13, state);
        }
        for (key, reference, raw) in &self.failed {
            to.part(14, &Failed(key.clone(), reference.clone(), raw.clone()));
        }
        to.option(15, &self.blame);
        if let Some(mismatch) = &self.mismatch {
            to.data(16, mismatch);
        }
        to.number(17, u64::from(self.armed));
        if let Some(page) = &self.before {
            to.data(18, page);
        }
        to.number(19, self.accepted);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut input = None;
        let mut code = CodeState {
            input: Data::null(),
            generation: 0,
            epoch: 0,
            activation: 0,
            active: None,
            before: None,
            turns: Vec::new(),
            bytes: 0,
            news: Vec::new(),
            open: Vec::new(),
            waits: Vec::new(),
            cancel: None,
            cancel_told: false,
            state: None,
            failed: Vec::new(),
            blame: None,
            armed: 0,
            mismatch: None,
            accepted: 0,
        };
        fields.each(|tag, field| {
            match tag {
                1 => input = Some(field.data(values)?),
                2 => code.generation = field.small()?,
                3 => code.epoch = field.number()?,
                4 => code.activation = field.number()?,
                5 => code.active = Some(field.small()?),
                6 => code.turns.push(Arc::new(field.part(values)?)),
                7 => code.bytes = field.small()?,
                8 => code.news.push(field.part(values)?),
                9 => {
                    let Keyed(line, key) = field.part(values)?;
                    code.open.push((u32::try_from(line).unwrap_or(u32::MAX), key));
                }
                10 => code.waits.push(field.part(values)?),
                11 => code.cancel = Some(field.text()?),
                12 => code.cancel_told = field.flag()?,
                13 => code.state = Some(field.data(values)?),
                14 => {
                    let Failed(key, reference, raw) = field.part(values)?;
                    code.failed.push((key, reference, raw));
                }
                15 => code.blame = Some(field.text()?),
                16 => code.mismatch = Some(field.data(values)?),
                17 => code.armed = field.small()?,
                19 => code.accepted = field.number()?,
                18 => code.before = Some(field.data(values)?),
                _ => {}
            }
            Ok(())
        })?;
        code.input = needed(input, "input of a program")?;
        Ok(code)
    }
}

impl Part for CodeTurn {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(1, self.no);
        to.number(2, self.now_ms);
        to.parts(3, &self.done);
        to.parts(4, &self.opened);
        to.option(5, &self.cancel);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut turn = CodeTurn::default();
        fields.each(|tag, field| {
            match tag {
                1 => turn.no = field.number()?,
                2 => turn.now_ms = field.number()?,
                3 => turn.done.push(field.part(values)?),
                4 => turn.opened.push(field.part(values)?),
                5 => turn.cancel = Some(field.text()?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(turn)
    }
}

impl Part for Told {
    fn write(&self, to: &mut Writer<'_>) {
        to.text(1, &self.key);
        to.part(2, &self.how);
        to.number(3, self.at_ms);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut key, mut how, mut at_ms) = (empty(), None, 0);
        fields.each(|tag, field| {
            match tag {
                1 => key = field.text()?,
                2 => how = Some(field.part(values)?),
                3 => at_ms = field.number()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(Told { key, how: needed(how, "end of an entry")?, at_ms })
    }
}

impl Part for Await {
    fn write(&self, to: &mut Writer<'_>) {
        to.flag(1, self.any);
        self.keys.iter().for_each(|key| to.text(2, key));
    }

    fn read(fields: Fields<'_>, _: &mut Values) -> Decoded<Self> {
        let mut wait = Await { any: false, keys: Vec::new() };
        fields.each(|tag, field| {
            match tag {
                1 => wait.any = field.flag()?,
                2 => wait.keys.push(field.text()?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(wait)
    }
}

struct Keyed(u64, Name);

impl Part for Keyed {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(1, self.0);
        to.text(2, &self.1);
    }

    fn read(fields: Fields<'_>, _: &mut Values) -> Decoded<Self> {
        let mut keyed = Keyed(0, empty());
        fields.each(|tag, field| {
            match tag {
                1 => keyed.0 = field.number()?,
                2 => keyed.1 = field.text()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(keyed)
    }
}

/// Key, statement and arguments of what failed.
struct Failed(Name, Name, Data);

impl Part for Failed {
    fn write(&self, to: &mut Writer<'_>) {
        to.text(1, &self.0);
        to.text(2, &self.1);
        to.data(3, &self.2);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut key, mut reference, mut raw) = (empty(), empty(), None);
        fields.each(|tag, field| {
            match tag {
                1 => key = field.text()?,
                2 => reference = field.text()?,
                3 => raw = Some(field.data(values)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(Failed(key, reference, needed(raw, "arguments of an entry")?))
    }
}

impl Part for Given {
    fn write(&self, to: &mut Writer<'_>) {
        to.part(1, &self.target);
        to.data(2, &self.call);
        to.number(3, u64::from(self.concurrency));
        to.number(4, u64::from(self.batch));
        to.flag(5, self.collect);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut target, mut call, mut concurrency, mut batch, mut collect) = (None, None, 0, 0, false);
        fields.each(|tag, field| {
            match tag {
                1 => target = Some(field.part(values)?),
                2 => call = Some(field.data(values)?),
                3 => concurrency = field.small()?,
                4 => batch = field.small()?,
                5 => collect = field.flag()?,
                _ => {}
            }
            Ok(())
        })?;
        let (target, call) = (needed(target, "target of a map")?, needed(call, "call of a map")?);
        Ok(Given { target, call, concurrency, batch, collect })
    }
}
