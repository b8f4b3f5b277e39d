//! Evaluation: what an expression sees, and the tape of what it gave.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::act::Act;
use super::calendar::date_time;
use super::code;
use super::data::{BlobHash, Blobs, Data};
use super::eval::{Definition, EvalError, Fuel, Json, Scope, Var, Violation};
use super::fault::{Fault, Standard};
use super::head::{Frame, Head, Line, List, Step};
use super::journal::{Taped, ValueId};
use super::machine::{End, Machine, Mode, Res, Stop};
use super::plan::{Duration, ExprId, Kind, SchemaId};
use super::turn::Halt;
use super::weight::{kib, most};
use crate::id::Name;
use crate::limit::{ASKED_STATE, INLINE_STATE, SMALL_VALUE};

/// From where an expression looks.
#[derive(Clone, Copy)]
pub(super) struct Look<'b> {
    pub(super) line: u32,
    /// Which frame of the line; none = the innermost.
    pub(super) depth: Option<usize>,
    pub(super) dot: &'b Data,
    /// The dot is an array in parts: pages, and what follows them.
    pub(super) parts: Option<(&'b [Data], &'b [Data])>,
    /// Whether `$input` is there.
    pub(super) input: bool,
    /// `$output`.
    pub(super) output: Option<&'b Data>,
    /// Variables besides those of the frames.
    pub(super) extra: &'b [(Name, Data)],
}

impl<'b> Look<'b> {
    pub(super) fn raw(line: u32, dot: &'b Data) -> Look<'b> {
        Look { line, depth: None, dot, parts: None, input: false, output: None, extra: &[] }
    }

    pub(super) fn body(line: u32, dot: &'b Data) -> Look<'b> {
        Look { line, depth: None, dot, parts: None, input: true, output: None, extra: &[] }
    }
}

struct View<'v> {
    head: &'v Head,
    def: &'v dyn Definition,
    blobs: &'v dyn Blobs,
    made: &'v BTreeMap<BlobHash, Arc<Json>>,
    look: &'v Look<'v>,
    line: Option<&'v Line>,
    frame: Option<&'v Frame>,
    now: u64,
    missing: RefCell<Vec<BlobHash>>,
}

impl<'v> View<'v> {
    fn read(&self, data: &'v Data) -> Cow<'v, Json> {
        match (data.json(), data) {
            (Some(json), _) => Cow::Borrowed(json),
            (None, Data::Ref { hash, .. }) => match self.blobs.get(hash).or_else(|| self.made.get(hash)) {
                Some(json) => Cow::Borrowed(&**json),
                None => {
                    self.missing.borrow_mut().push(*hash);
                    Cow::Owned(Json::Null)
                }
            },
            (None, Data::Inline { .. }) => Cow::Owned(Json::Null),
        }
    }

    fn maybe(&self, data: Option<&'v Data>) -> Cow<'v, Json> {
        data.map_or(Cow::Owned(Json::Null), |data| self.read(data))
    }

    /// A variable of a loop, a catch or a listen: the innermost one with that name. A function sees none from outside.
    fn local(&self, name: &str) -> Cow<'v, Json> {
        if let Some((_, value)) = self.look.extra.iter().find(|(known, _)| &**known == name) {
            return self.read(value);
        }
        let mut line = self.line;
        let mut depth = self.look.depth.map_or(usize::MAX, |depth| depth + 1);
        while let Some(at) = line {
            for frame in at.frames.iter().take(depth).rev() {
                match self.in_frame(frame, name) {
                    Found::Value(value) => return value,
                    // Its own arguments are evaluated outside of it.
                    Found::Wall if self.frame.is_some_and(|own| std::ptr::eq(own, frame)) => {}
                    Found::Wall => return Cow::Owned(Json::Null),
                    Found::No => {}
                }
            }
            depth = usize::MAX;
            line = at.parent.and_then(|(id, _)| self.head.line(id));
        }
        Cow::Owned(Json::Null)
    }

    fn in_frame(&self, frame: &'v Frame, name: &str) -> Found<'v> {
        let node = || frame.place.find(self.def.plan()).map(|id| self.def.plan().node(id));
        match &frame.step {
            Step::For { items, index } => {
                let Some(Kind::For { each, at, .. }) = node().map(|node| &node.kind) else { return Found::No };
                if **at == *name {
                    return Found::Value(Cow::Owned(Json::from(*index)));
                }
                if **each != *name {
                    return Found::No;
                }
                let at = *index as usize;
                match self.read(items) {
                    Cow::Borrowed(items) => Found::Value(items.get(at).map_or(Cow::Owned(Json::Null), Cow::Borrowed)),
                    Cow::Owned(_) => Found::Value(Cow::Owned(Json::Null)),
                }
            }
            Step::Try(state) if frame.list == List::Catch => match (node().map(|node| &node.kind), &state.error) {
                (Some(Kind::Try { catch, .. }), Some(error)) if *catch.name == *name => Found::Value(self.read(error)),
                _ => Found::No,
            },
            Step::Listen(state) => {
                let Some(Kind::Listen(listen)) = node().map(|node| &node.kind) else { return Found::No };
                let Some(foreach) = &listen.foreach else { return Found::No };
                match &state.at_hand {
                    Some(event) if *foreach.item == *name => Found::Value(self.read(event)),
                    Some(_) if *foreach.at == *name => Found::Value(Cow::Owned(Json::from(state.count))),
                    _ => Found::No,
                }
            }
            Step::Plain if matches!(node().map(|node| &node.kind), Some(Kind::Function { .. })) => Found::Wall,
            _ => Found::No,
        }
    }

    /// `$task`.
    fn task(&self) -> Json {
        let Some(frame) = self.frame else { return Json::Null };
        let plan = self.def.plan();
        let Some(node) = frame.place.find(plan).map(|id| plan.node(id)) else { return Json::Null };
        let result = frame.result.as_ref();
        serde_json::json!({
            "name": &*node.name,
            "reference": &*node.reference,
            "definition": self.literal(node.definition),
            "input": self.read(&frame.raw),
            "output": self.maybe(result),
            "startedAt": date_time(frame.started_ms),
        })
    }

    fn workflow(&self) -> Json {
        serde_json::json!({
            "id": self.head.identity.run.to_string(),
            "definition": self.literal(self.def.plan().definition),
            "input": self.read(&self.head.input),
            "startedAt": date_time(self.head.started_ms),
        })
    }

    /// A literal of the plan: no expression is in it, so that its evaluation looks at nothing.
    fn literal(&self, expr: ExprId) -> Json {
        let mut fuel = Fuel { steps: 100_000, bytes: 1 << 20 };
        self.def.eval(expr, &Nothing { now: self.now }, &mut fuel).unwrap_or_default()
    }
}

enum Found<'v> {
    Value(Cow<'v, Json>),
    Wall,
    No,
}

struct Nothing {
    now: u64,
}

impl Scope for Nothing {
    fn dot(&self) -> Cow<'_, Json> {
        Cow::Owned(Json::Null)
    }
    fn var(&self, _: &Var) -> Cow<'_, Json> {
        Cow::Owned(Json::Null)
    }
    fn now(&self) -> u64 {
        self.now
    }
}

impl Scope for View<'_> {
    fn dot(&self) -> Cow<'_, Json> {
        let Some((pages, rest)) = self.look.parts else { return self.read(self.look.dot) };
        let pages = pages.iter().map(|page| self.read(page));
        let mut all: Vec<Json> = pages.flat_map(|page| page.as_array().cloned().unwrap_or_default()).collect();
        all.extend(rest.iter().map(|value| self.read(value).into_owned()));
        Cow::Owned(Json::Array(all))
    }

    fn var(&self, var: &Var) -> Cow<'_, Json> {
        match var {
            Var::Context => self.maybe(self.line.map(|line| &line.context)),
            Var::Input if self.look.input => self.maybe(self.frame.map(|frame| &frame.input)),
            Var::Input => Cow::Owned(Json::Null),
            Var::Output => self.maybe(self.look.output),
            Var::Task => Cow::Owned(self.task()),
            Var::Workflow => Cow::Owned(self.workflow()),
            Var::Runtime => Cow::Owned(serde_json::json!({
                "name": "tidewheel", "version": env!("CARGO_PKG_VERSION"), "metadata": {},
            })),
            Var::Local(name) => self.local(name),
        }
    }

    fn now(&self) -> u64 {
        self.now
    }
}

impl Machine<'_> {
    /// Evaluates, or takes from the tape when it is played again.
    pub(super) fn eval(&mut self, expr: ExprId, look: &Look<'_>) -> Res<Data> {
        if self.replays() {
            return match self.played()? {
                Taped::Value(id) => self.played_value(id),
                other => Err(self.not_a_value(look, &other)),
            };
        }
        match self.evaluate(expr, look)? {
            Ok(json) => {
                let data = self.keep(json);
                let id = self.value(&data);
                self.tape.push(Taped::Value(id));
                Ok(data)
            }
            Err(taped) => {
                self.tape.push(taped.clone());
                Err(self.not_a_value(look, &taped))
            }
        }
    }

    /// Whether a condition gives true.
    pub(super) fn holds(&mut self, expr: ExprId, look: &Look<'_>) -> Res<bool> {
        if self.replays() {
            return match self.played()? {
                Taped::Verdict(verdict) => Ok(verdict),
                other => Err(self.not_a_value(look, &other)),
            };
        }
        match self.evaluate(expr, look)? {
            Ok(json) => {
                let verdict = json == Json::Bool(true);
                self.tape.push(Taped::Verdict(verdict));
                Ok(verdict)
            }
            Err(taped) => {
                self.tape.push(taped.clone());
                Err(self.not_a_value(look, &taped))
            }
        }
    }

    fn evaluate(&mut self, expr: ExprId, look: &Look<'_>) -> Res<Result<Json, Taped>> {
        let (allowed, most) = self.meter.allowance();
        let mut fuel = allowed;
        let line = self.head.line(look.line);
        let frame = line.and_then(|line| match look.depth {
            Some(depth) => line.frames.get(depth),
            None => line.frames.last(),
        });
        let (head, now) = (&self.head, self.now);
        let view = View {
            head,
            def: self.def,
            blobs: self.blobs,
            made: &self.made,
            look,
            line,
            frame,
            now,
            missing: RefCell::default(),
        };
        let result = self.def.eval(expr, &view, &mut fuel);
        let missing = view.missing.into_inner();
        self.meter.charge(allowed.steps - fuel.steps.min(allowed.steps), allowed.bytes - fuel.bytes.min(allowed.bytes));
        if !missing.is_empty() {
            return Err(End::Halt(Halt::Blobs(missing)).into());
        }
        match result {
            Ok(json) => Ok(Ok(json)),
            Err(EvalError::Fuel) if !most => Err(End::Halt(Halt::OutOfFuel).into()),
            Err(EvalError::Fuel) => Ok(Err(Taped::Fuel)),
            Err(EvalError::Failed(text)) => Ok(Err(Taped::Failed(text.into()))),
        }
    }

    fn not_a_value(&self, look: &Look<'_>, taped: &Taped) -> Stop {
        let text = match taped {
            Taped::Failed(text) => text,
            Taped::Fuel => "the expression used up its fuel: it takes too many steps or makes too large a value",
            _ => return End::Diverged("another kind of evaluation").into(),
        };
        let frame = self.head.line(look.line).and_then(|line| match look.depth {
            Some(depth) => line.frames.get(depth),
            None => line.frames.last(),
        });
        let instance = frame.map_or("", |frame| &frame.place.reference);
        Stop::Fault(Fault::new(Standard::Expression, self.plan.profile, text, instance))
    }

    /// A new value; a large one is stored with the turn.
    pub(super) fn keep(&mut self, json: Json) -> Data {
        let (data, bytes) = Data::of(json);
        if let (Some(bytes), Data::Ref { hash, value: Some(value), .. }) = (bytes, &data) {
            self.put(*hash, value.clone(), bytes);
        }
        data
    }

    /// Has a blob stored with the turn.
    pub(super) fn put(&mut self, hash: BlobHash, value: Arc<Json>, bytes: bytes::Bytes) {
        self.meter.written += bytes.len() as u64;
        self.made.insert(hash, value);
        self.blobs_made.push(Act::PutBlob { hash, bytes });
    }

    /// Fails with a `validation` error if a value does not fit.
    pub(super) fn check(&mut self, schema: SchemaId, value: &Data, line: u32) -> Res<()> {
        let violations = if self.replays() {
            match self.played()? {
                Taped::Checked(violations) => Ok(violations),
                other => Err(other),
            }
        } else {
            self.judge(schema, value)?
        };
        match violations {
            Ok(violations) if violations.is_empty() => Ok(()),
            Ok(violations) => {
                let all: Vec<String> = violations.iter().map(said).collect();
                Err(self.fault(line, Standard::Validation, &all.join("; ")))
            }
            Err(taped) => Err(self.not_a_value(&Look::raw(line, value), &taped)),
        }
    }

    fn judge(&mut self, schema: SchemaId, value: &Data) -> Res<Result<Vec<Violation>, Taped>> {
        let (allowed, most) = self.meter.allowance();
        let mut fuel = allowed;
        let json = self.json(value)?;
        let result = self.def.check(schema, &json, &mut fuel);
        self.meter.charge(allowed.steps - fuel.steps.min(allowed.steps), allowed.bytes - fuel.bytes.min(allowed.bytes));
        let taped = match result {
            Ok(violations) => Taped::Checked(violations),
            Err(EvalError::Fuel) if !most => return Err(End::Halt(Halt::OutOfFuel).into()),
            Err(EvalError::Fuel) => Taped::Fuel,
            Err(EvalError::Failed(text)) => Taped::Failed(text.into()),
        };
        self.tape.push(taped.clone());
        Ok(match taped {
            Taped::Checked(violations) => Ok(violations),
            other => Err(other),
        })
    }

    /// Milliseconds.
    pub(super) fn millis(&mut self, duration: Duration, look: &Look<'_>) -> Res<u64> {
        let expr = match duration {
            Duration::Fixed(ms) => return Ok(ms),
            Duration::Computed(expr) | Duration::Given(expr) => expr,
        };
        if self.replays() {
            return match self.played()? {
                Taped::Millis(ms) => Ok(ms),
                other => Err(self.not_a_value(look, &other)),
            };
        }
        let read = self.evaluate(expr, look)?.and_then(|json| match self.def.duration(&json) {
            Ok(ms) => Ok(ms),
            Err(EvalError::Failed(text)) => Err(Taped::Failed(text.into())),
            Err(EvalError::Fuel) => Err(Taped::Fuel),
        });
        match read {
            Ok(ms) => {
                self.tape.push(Taped::Millis(ms));
                Ok(ms)
            }
            Err(taped) => {
                self.tape.push(taped.clone());
                Err(self.not_a_value(look, &taped))
            }
        }
    }

    /// The value itself; asks for its blob where it is not at hand.
    pub(super) fn json(&self, data: &Data) -> Res<Arc<Json>> {
        match data {
            Data::Inline { value, .. } | Data::Ref { value: Some(value), .. } => Ok(value.clone()),
            Data::Ref { hash, value: None, .. } => match self.made.get(hash).or_else(|| self.blobs.get(hash)) {
                Some(json) => Ok(json.clone()),
                None => Err(End::Halt(Halt::Blobs(vec![*hash])).into()),
            },
        }
    }

    /// Several values; asks for all blobs at once that are not at hand.
    pub(super) fn jsons<'d>(&self, all: impl IntoIterator<Item = &'d Data>) -> Res<Vec<Arc<Json>>> {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for data in all {
            match self.json(data) {
                Ok(json) => found.push(json),
                Err(Stop::End(End::Halt(Halt::Blobs(hashes)))) => missing.extend(hashes),
                Err(stop) => return Err(stop),
            }
        }
        if missing.is_empty() { Ok(found) } else { Err(End::Halt(Halt::Blobs(missing)).into()) }
    }

    /// Fails the statement at hand if the run carries too much since it got this value.
    pub(super) fn bound(&self, line: u32, value: &Data) -> Res<()> {
        if value.stored() < SMALL_VALUE || self.head.inline() + value.stored() <= INLINE_STATE {
            return Ok(());
        }
        // Made of what the head has, so that a fold says the same.
        let more = kib(value.stored());
        let (beside, advice) =
            most(&self.head).map_or_else(Default::default, |(text, advice)| (format!(" beside {text}"), advice));
        let text = format!(
            "the run would carry more than 1 MiB of values: {more}{beside}; keep less of it, or store it elsewhere ({advice})"
        );
        Err(self.fault(line, Standard::Runtime, &text))
    }

    /// A result as the run carries it: beside the run where there is no room in it. What has been done is not failed for its size.
    pub(super) fn bounded_result(&mut self, line: u32, value: Data) -> Res<Data> {
        if value.stored() < SMALL_VALUE || self.head.inline() + value.stored() <= INLINE_STATE {
            return Ok(value);
        }
        if self.revision() < 7 {
            return self.bound(line, &value).map(|()| value);
        }
        Ok(self.as_blob(&value))
    }

    /// Fails what a program asked for if the run carries so much with its arguments that what is to come finds too little room: before
    /// anything is done for it, not after.
    pub(super) fn bound_asked(&mut self, line: u32) -> Res<()> {
        let Some(frame) = self.frame(line) else { return Ok(()) };
        let (statement, bytes) = (code::statement_of(&frame.place.reference), frame.raw.stored());
        let asked = statement.starts_with('@') && statement != code::ACTIVATION;
        if !asked || bytes < SMALL_VALUE || self.revision() < 6 {
            return Ok(());
        }
        // Counted once in a turn, however much is asked for in it.
        let carried = self.carried.unwrap_or_else(|| self.head.inline().saturating_sub(bytes));
        let fits = carried + bytes <= ASKED_STATE;
        self.carried = Some(if fits { carried + bytes } else { carried });
        if fits {
            return Ok(());
        }
        let (beside, advice) =
            most(&self.head).map_or_else(Default::default, |(text, advice)| (format!(" beside {text}"), advice));
        let text = format!(
            "it was not begun: with its arguments the run would carry more than {}, which leaves too little room for results: {}{beside}; \
             {advice}",
            kib(ASKED_STATE),
            kib(bytes)
        );
        Err(self.fault(line, Standard::Runtime, &text))
    }

    fn replays(&self) -> bool {
        matches!(self.mode, Mode::Replay { .. })
    }

    fn played(&mut self) -> Res<Taped> {
        let Mode::Replay { segment, at, .. } = &mut self.mode else { return Err(End::Diverged("not a fold").into()) };
        let taped = segment.tape.get(*at).cloned().ok_or(End::Diverged("the tape is at its end"))?;
        *at += 1;
        // A value's number belongs to its segment: it is put on this turn's own tape when it is read.
        if !matches!(taped, Taped::Value(_)) {
            self.tape.push(taped.clone());
        }
        Ok(taped)
    }

    fn played_value(&mut self, id: ValueId) -> Res<Data> {
        let Mode::Replay { segment, .. } = self.mode else { return Err(End::Diverged("not a fold").into()) };
        let data = segment.value(id).cloned().ok_or(End::Diverged("a value of the tape is missing"))?;
        let id = self.value(&data);
        self.tape.push(Taped::Value(id));
        Ok(data)
    }
}

fn said(violation: &Violation) -> String {
    let path = if violation.path.is_empty() { "/" } else { &violation.path };
    format!("{path}: {}", violation.message)
}
