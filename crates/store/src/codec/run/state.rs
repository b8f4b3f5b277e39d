//! Lines, frames, and the state of statements.

use std::sync::Arc;

use tidewheel_engine::id::Name;
use tidewheel_engine::limit::MAP_PAGE;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::fault::Fault;
use tidewheel_engine::run::head::{Branch, Frame, Line, List, Next, Place, Step, TryState};
use tidewheel_engine::run::listen::ListenState;
use tidewheel_engine::run::map::{MapState, Page};
use tidewheel_engine::run::plan::Flow;
use tidewheel_engine::run::saga::SagaState;

use super::super::Decoded;
use super::act::{empty, fault};
use super::fields::{Field, Fields, Part, Values, Writer};
use super::{needed, wrong};

/// `Continue`, `Exit` and `End` are 0 to 2, a position is 3 and so many.
fn flow_number(flow: Flow) -> u64 {
    match flow {
        Flow::Continue => 0,
        Flow::Exit => 1,
        Flow::End => 2,
        Flow::To(position) => 3 + u64::from(position),
    }
}

fn flow(field: Field<'_>) -> Decoded<Flow> {
    Ok(match field.number()? {
        0 => Flow::Continue,
        1 => Flow::Exit,
        2 => Flow::End,
        position => Flow::To(u32::try_from(position - 3).map_err(|_| wrong("a position is too large"))?),
    })
}

/// `None`, `Body` and `Catch` are 0 to 2; extensions are odd before and even after a statement.
fn list_number(list: List) -> u64 {
    match list {
        List::None => 0,
        List::Body => 1,
        List::Catch => 2,
        List::Before(extension) => 3 + 2 * u64::from(extension),
        List::After(extension) => 4 + 2 * u64::from(extension),
    }
}

fn list(field: Field<'_>) -> Decoded<List> {
    let number = field.number()?;
    let extension = || u16::try_from((number - 3) / 2).map_err(|_| wrong("an extension is unknown"));
    Ok(match number {
        0 => List::None,
        1 => List::Body,
        2 => List::Catch,
        odd if odd % 2 == 1 => List::Before(extension()?),
        _ => List::After(extension()?),
    })
}

impl Part for Line {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(1, u64::from(self.id));
        if let Some((parent, branch)) = self.parent {
            to.present(2, u64::from(parent));
            to.number(3, u64::from(branch));
        }
        to.data(4, &self.context);
        to.flag(5, self.exported);
        to.parts(6, &self.frames);
        to.part(7, &self.next);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut id, mut parent, mut branch, mut context) = (0, None, 0, None);
        let (mut exported, mut frames, mut next) = (false, Vec::new(), None);
        fields.each(|tag, field| {
            match tag {
                1 => id = field.small()?,
                2 => parent = Some(field.small()?),
                3 => branch = field.small()?,
                4 => context = Some(field.data(values)?),
                5 => exported = field.flag()?,
                6 => frames.push(field.part(values)?),
                7 => next = Some(field.part(values)?),
                _ => {}
            }
            Ok(())
        })?;
        let parent = parent.map(|parent| (parent, branch));
        let (context, next) = (needed(context, "context of a line")?, needed(next, "next step of a line")?);
        Ok(Line { id, parent, context, exported, frames, next })
    }
}

/// What a next step may have; each kind has some of it.
#[derive(Default)]
struct NextFields {
    kind: u64,
    reference: Option<Name>,
    data: Option<Data>,
    n: u32,
    scope: Option<Name>,
    flow: Flow,
    fault: Option<Fault>,
}

impl Part for Next {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Next::Begin { place, raw, n, scope } => {
                to.number(1, 1);
                to.text(2, &place.reference);
                to.data(3, raw);
                to.number(4, u64::from(*n));
                to.text(5, scope);
            }
            Next::Return { output, flow } => {
                to.number(1, 2);
                to.data(3, output);
                to.number(6, flow_number(*flow));
            }
            Next::Listen => to.number(1, 3),
            Next::Refill => to.number(1, 4),
            Next::Wait => to.number(1, 5),
            Next::Failed(fault) => {
                to.number(1, 6);
                to.json(7, &fault.0);
            }
            Next::Interrupted => to.number(1, 7),
        }
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut found = NextFields::default();
        fields.each(|tag, field| {
            match tag {
                1 => found.kind = field.number()?,
                2 => found.reference = Some(field.text()?),
                3 => found.data = Some(field.data(values)?),
                4 => found.n = field.small()?,
                5 => found.scope = Some(field.text()?),
                6 => found.flow = flow(field)?,
                7 => found.fault = Some(fault(field)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(match found.kind {
            1 => Next::Begin {
                place: Place::new(found.reference.unwrap_or_else(empty)),
                raw: needed(found.data, "input of a statement")?,
                n: found.n,
                scope: found.scope.unwrap_or_else(empty),
            },
            2 => Next::Return { output: needed(found.data, "output of a statement")?, flow: found.flow },
            3 => Next::Listen,
            4 => Next::Refill,
            5 => Next::Wait,
            6 => Next::Failed(needed(found.fault, "error of a line")?),
            7 => Next::Interrupted,
            _ => return Err(wrong("what a line does next is unknown")),
        })
    }
}

impl Part for Frame {
    fn write(&self, to: &mut Writer<'_>) {
        to.text(1, &self.place.reference);
        to.number(2, self.seq);
        to.number(3, u64::from(self.n));
        to.text(4, &self.scope);
        to.text(5, &self.inner);
        to.number(6, self.started_ms);
        to.data(7, &self.raw);
        to.data(8, &self.input);
        if let Some(result) = &self.result {
            to.data(9, result);
        }
        if let Some(flow) = self.flow {
            to.present(10, flow_number(flow));
        }
        to.number(11, self.limit_ms);
        to.number(12, list_number(self.list));
        to.number(13, u64::from(self.cursor));
        to.number(14, u64::from(self.round));
        if self.step != Step::Plain {
            to.part(15, &self.step);
        }
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut reference, mut seq, mut n) = (empty(), 0, 0);
        let (mut scope, mut inner, mut started_ms) = (empty(), empty(), 0);
        let (mut raw, mut input, mut result, mut then) = (None, None, None, None);
        let (mut limit_ms, mut walks, mut cursor, mut round, mut step) = (0, List::None, 0, 0, Step::Plain);
        fields.each(|tag, field| {
            match tag {
                1 => reference = field.text()?,
                2 => seq = field.number()?,
                3 => n = field.small()?,
                4 => scope = field.text()?,
                5 => inner = field.text()?,
                6 => started_ms = field.number()?,
                7 => raw = Some(field.data(values)?),
                8 => input = Some(field.data(values)?),
                9 => result = Some(field.data(values)?),
                10 => then = Some(flow(field)?),
                11 => limit_ms = field.number()?,
                12 => walks = list(field)?,
                13 => cursor = field.small()?,
                14 => round = field.small()?,
                15 => step = field.part(values)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(Frame {
            place: Place::new(reference),
            seq,
            n,
            scope,
            inner,
            started_ms,
            raw: needed(raw, "raw input of a statement")?,
            input: needed(input, "input of a statement")?,
            result,
            flow: then,
            limit_ms,
            list: walks,
            cursor,
            round,
            step,
        })
    }
}

impl Part for Step {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Step::Plain => {}
            Step::Root => to.number(1, 1),
            Step::For { items, index } => {
                to.number(1, 2);
                to.data(2, items);
                to.number(3, u64::from(*index));
            }
            Step::Fork(branches) => {
                to.number(1, 3);
                to.parts(4, branches);
            }
            Step::Try(state) => {
                to.number(1, 4);
                to.part(5, state);
            }
            Step::Map(state) => {
                to.number(1, 5);
                to.part(6, &**state);
            }
            Step::Listen(state) => {
                to.number(1, 6);
                to.part(7, &**state);
            }
            Step::Code(state) => {
                to.number(1, 7);
                to.part(8, &**state);
            }
            Step::Saga(state) => {
                to.number(1, 8);
                to.part(9, &**state);
            }
        }
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut kind, mut items, mut index, mut branches) = (0, None, 0, Vec::new());
        let (mut tried, mut mapped, mut listened, mut coded, mut saga) = (None, None, None, None, None);
        fields.each(|tag, field| {
            match tag {
                1 => kind = field.number()?,
                2 => items = Some(field.data(values)?),
                3 => index = field.small()?,
                4 => branches.push(field.part(values)?),
                5 => tried = Some(field.part(values)?),
                6 => mapped = Some(Box::new(field.part(values)?)),
                7 => listened = Some(Box::new(field.part(values)?)),
                8 => coded = Some(Box::new(field.part(values)?)),
                9 => saga = Some(Box::new(field.part(values)?)),
                _ => {}
            }
            Ok(())
        })?;
        Ok(match kind {
            0 => Step::Plain,
            1 => Step::Root,
            2 => Step::For { items: needed(items, "items of a loop")?, index },
            3 => Step::Fork(branches),
            4 => Step::Try(needed(tried, "state of a try")?),
            5 => Step::Map(needed(mapped, "state of a map")?),
            6 => Step::Listen(needed(listened, "state of a listen")?),
            7 => Step::Code(needed(coded, "state of a program")?),
            8 => Step::Saga(needed(saga, "state of a saga")?),
            _ => return Err(wrong("a statement is of an unknown kind")),
        })
    }
}

impl Part for Branch {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Branch::Open(line) => to.present(1, u64::from(*line)),
            Branch::Done(output, context) => {
                to.data(2, output);
                if let Some(context) = context {
                    to.data(3, context);
                }
            }
            Branch::Failed(fault) => to.json(4, &fault.0),
        }
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut line, mut output, mut context, mut failed) = (None, None, None, None);
        fields.each(|tag, field| {
            match tag {
                1 => line = Some(field.small()?),
                2 => output = Some(field.data(values)?),
                3 => context = Some(field.data(values)?),
                4 => failed = Some(fault(field)?),
                _ => {}
            }
            Ok(())
        })?;
        match (line, output, failed) {
            (Some(line), None, None) => Ok(Branch::Open(line)),
            (None, Some(output), None) => Ok(Branch::Done(output, context)),
            (None, None, Some(fault)) => Ok(Branch::Failed(fault)),
            _ => Err(wrong("a branch is of an unknown kind")),
        }
    }
}

impl Part for TryState {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(1, u64::from(self.attempt));
        to.number(2, self.first_ms);
        to.number(3, self.limit_ms);
        if let Some(error) = &self.error {
            to.data(4, error);
        }
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut state = TryState { attempt: 0, first_ms: 0, limit_ms: 0, error: None };
        fields.each(|tag, field| {
            match tag {
                1 => state.attempt = field.small()?,
                2 => state.first_ms = field.number()?,
                3 => state.limit_ms = field.number()?,
                4 => state.error = Some(field.data(values)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(state)
    }
}

impl Part for MapState {
    fn write(&self, to: &mut Writer<'_>) {
        to.data(1, &self.items);
        to.number(2, self.total);
        to.number(3, self.cursor);
        to.number(4, u64::from(self.working));
        to.number(5, self.done);
        self.finished.iter().for_each(|page| to.alone(6, page));
        for page in &self.pages {
            to.part(7, &**page);
        }
        to.number(8, self.bytes as u64);
        self.again.iter().for_each(|item| to.present(9, *item));
        if let Some(given) = &self.given {
            to.part(10, &**given);
        }
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut items, mut total, mut cursor, mut working, mut done) = (None, 0, 0, 0, 0);
        let (mut finished, mut pages, mut bytes, mut again) = (Vec::new(), Vec::new(), 0, Vec::new());
        let mut given = None;
        fields.each(|tag, field| {
            match tag {
                1 => items = Some(field.data(values)?),
                2 => total = field.number()?,
                3 => cursor = field.number()?,
                4 => working = field.small()?,
                5 => done = field.number()?,
                6 => finished.push(field.data(values)?),
                7 => pages.push(Arc::new(field.part(values)?)),
                8 => bytes = field.small()?,
                9 => again.push(field.number()?),
                10 => given = Some(Box::new(field.part(values)?)),
                _ => {}
            }
            Ok(())
        })?;
        let items = needed(items, "items of a map")?;
        Ok(MapState { items, total, cursor, working, done, finished, pages, bytes, again, given })
    }
}

impl Part for SagaState {
    fn write(&self, to: &mut Writer<'_>) {
        self.outputs.iter().for_each(|output| to.data(1, output));
        to.parts(2, &self.armed);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut state = SagaState::default();
        fields.each(|tag, field| {
            match tag {
                1 => state.outputs.push(field.data(values)?),
                2 => state.armed.push(field.part(values)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(state)
    }
}

impl Part for Page {
    fn write(&self, to: &mut Writer<'_>) {
        for chunk in &self.chunks {
            to.within(1, |to| {
                let mut open = 0;
                for item in chunk.iter() {
                    let Some(data) = item else {
                        open += 1;
                        continue;
                    };
                    to.number(1, std::mem::take(&mut open));
                    to.alone(2, data);
                }
                to.number(1, open);
            });
        }
        to.number(2, self.done);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let mut page = Page::default();
        fields.each(|tag, field| {
            match tag {
                1 => page.chunks.push(Arc::new(chunk(field.fields()?, values)?)),
                2 => page.done = field.number()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(page)
    }
}

/// Items in order: how many that are not done come next, or the result of one.
fn chunk(fields: Fields<'_>, values: &mut Values) -> Decoded<Vec<Option<Data>>> {
    let mut chunk = Vec::new();
    fields.each(|tag, field| {
        match tag {
            1 => {
                let open = field.small::<usize>()?.saturating_add(chunk.len());
                if open as u64 > MAP_PAGE {
                    return Err(wrong("a page of a map is too long"));
                }
                chunk.resize(open, None);
            }
            2 => chunk.push(Some(field.data(values)?)),
            _ => {}
        }
        Ok(())
    })?;
    Ok(chunk)
}

fn signs(signs: &[bool]) -> Vec<u8> {
    signs.iter().map(|sign| u8::from(*sign)).collect()
}

fn read_signs(field: Field<'_>) -> Decoded<Vec<bool>> {
    Ok(field.bytes()?.iter().map(|sign| *sign != 0).collect())
}

impl Part for ListenState {
    fn write(&self, to: &mut Writer<'_>) {
        self.read.iter().for_each(|data| to.alone(1, data));
        for (tag, list) in [(2, &self.matched), (3, &self.ended)] {
            if !list.is_empty() {
                to.bytes(tag, &signs(list));
            }
        }
        to.parts(4, &self.correlations);
        if let Some(data) = &self.at_hand {
            to.data(5, data);
        }
        to.flag(6, self.complete);
        to.number(7, self.looked);
        self.pages.iter().for_each(|page| to.alone(8, page));
        to.number(9, self.count);
    }

    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self> {
        let (mut read, mut matched, mut ended, mut correlations) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut at_hand, mut complete, mut looked, mut pages, mut count) = (None, false, 0, Vec::new(), 0);
        fields.each(|tag, field| {
            match tag {
                1 => read.push(field.data(values)?),
                2 => matched = read_signs(field)?,
                3 => ended = read_signs(field)?,
                4 => correlations.push(field.part(values)?),
                5 => at_hand = Some(field.data(values)?),
                6 => complete = field.flag()?,
                7 => looked = field.number()?,
                8 => pages.push(field.data(values)?),
                9 => count = field.number()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(ListenState { read, pages, count, matched, ended, correlations, at_hand, complete, looked })
    }
}
