//! From statement to statement: begin, data flow, end, and what follows.

use std::sync::Arc;

use super::act::{Act, EventFilter, Outcome};
use super::data::Data;
use super::eval::Json;
use super::fault::Standard;
use super::head::{Frame, Line, List, Next, Outside, Phase, Place, Seq, Step, TryState};
use super::journal::{Ending, EntryKind, Fact, Key};
use super::look::Look;
use super::machine::{End, Machine, Mode, Res};
use super::plan::{Duration, Extension, Flow, Intake, Kind, ListId, Node, NodeId, Plan, Target};
use crate::id::Name;
use crate::limit::{ATTRIBUTE_BYTES, ATTRIBUTES, FRAMES};

/// The kind of entry of a statement.
pub(super) fn entry_kind(node: Option<&Node>) -> EntryKind {
    let Some(node) = node else { return EntryKind::Run };
    if let Some(kind) = super::code::kind_of(&node.reference) {
        return kind;
    }
    match &node.kind {
        Kind::Code(_) => EntryKind::Program,
        Kind::Activation => EntryKind::Activation,
        Kind::Asked => EntryKind::Task,
        Kind::Do(_) => EntryKind::Do,
        Kind::Set(_) => EntryKind::Set,
        Kind::Switch(_) => EntryKind::Switch,
        Kind::For { .. } => EntryKind::For,
        Kind::Fork { .. } => EntryKind::Fork,
        Kind::Try { .. } => EntryKind::Try,
        Kind::Raise { .. } => EntryKind::Raise,
        Kind::Wait(_) => EntryKind::Sleep,
        Kind::Call { target: Target::Catalog(name, _), .. } if &**name == "human" => EntryKind::Human,
        Kind::Call { .. } => EntryKind::Task,
        Kind::Function { .. } => EntryKind::Function,
        Kind::Child { .. } => EntryKind::Child,
        Kind::Map { .. } => EntryKind::Map,
        Kind::Saga { .. } => EntryKind::Saga,
        Kind::Emit { .. } => EntryKind::Emit,
        Kind::Listen(_) => EntryKind::Event,
    }
}

/// The list that a frame walks.
pub(super) fn list_of<'a>(plan: &'a Plan, node: Option<&'a Node>, list: List) -> &'a [NodeId] {
    let extension = |at: u16| node.and_then(|node| node.extensions.get(at as usize));
    let id: Option<ListId> = match (list, node.map(|node| &node.kind)) {
        (List::None, _) => None,
        (List::Before(at), _) => extension(at).and_then(|extension| extension.before),
        (List::After(at), _) => extension(at).and_then(|extension| extension.after),
        (_, None) => Some(plan.root),
        (List::Body, Some(Kind::Do(body) | Kind::For { body, .. } | Kind::Try { body, .. })) => Some(*body),
        (List::Body, Some(Kind::Listen(listen))) => listen.foreach.as_ref().and_then(|foreach| foreach.body),
        (List::Catch, Some(Kind::Try { catch, .. })) => catch.body,
        _ => None,
    };
    id.map_or(&[], |id| plan.list(id))
}

impl Machine<'_> {
    /// The run begins: its main line, whose first frame is the run itself.
    pub(super) fn begin_run(&mut self, input: &Data) {
        self.head.started_ms = self.now;
        self.head.phase = Phase::Running;
        self.head.input = input.clone();
        let value = Some(self.value(input));
        self.facts.push(Fact::Phase { phase: Phase::Running, reason: None, value });
        self.subscribe_from_the_start();
        let raw = input.clone();
        let next = Next::Begin { place: Place::new("".into()), raw, n: 0, scope: "".into() };
        self.head.next_line = 1;
        let line = Line { id: 0, parent: None, context: Data::null(), exported: false, frames: Vec::new(), next };
        self.head.lines.push(Arc::new(line));
    }

    /// Asks for the events of every `listen` of the plan: what comes before one begins counts for it.
    pub(super) fn subscribe_from_the_start(&mut self) {
        let filters = self.wanted_from_the_start();
        if !filters.is_empty() {
            self.act(Act::Subscribe { entry: 0, filters });
        }
    }

    /// One filter for each type of event that a `listen` of the plan may take, where types are literals of the filter.
    fn wanted_from_the_start(&self) -> Vec<EventFilter> {
        let mut filters: Vec<EventFilter> = Vec::new();
        for node in &self.plan.nodes {
            if let Kind::Listen(listen) = &node.kind
                && !node.hints.live_only
            {
                super::listen::filters_of(&listen.strategy, &mut |filter| {
                    let correlate =
                        filter.map_or(Vec::new(), |f| f.correlate.iter().map(|c| (c.0.clone(), None)).collect());
                    let kind = filter.and_then(|filter| self.literal_type(filter));
                    let wanted = EventFilter { kind, correlate };
                    if !filters.contains(&wanted) {
                        filters.push(wanted);
                    }
                });
            }
        }
        filters
    }

    pub(super) fn step(&mut self, id: u32) -> Result<(), End> {
        let Some(line) = self.line_mut(id) else { return Ok(()) };
        let result = match std::mem::replace(&mut line.next, Next::Wait) {
            Next::Begin { place, raw, n, scope } => self.begin(id, place, raw, n, scope),
            Next::Return { output, flow } => self.returned(id, output, flow),
            Next::Listen => self.listen_on(id),
            Next::Refill if matches!(line.frames.last().map(|frame| &frame.step), Some(Step::Saga(_))) => {
                self.saga_on(id)
            }
            Next::Refill => self.refill(id),
            next @ (Next::Wait | Next::Failed(_) | Next::Interrupted) => {
                line.next = next;
                Ok(())
            }
        };
        self.guard(id, result)
    }

    /// Opens an entry for a statement.
    pub(super) fn opened(&mut self, line: u32, key: Key) -> Result<Seq, End> {
        if let Mode::Replay { until: Some(until), .. } = self.mode
            && key.to_string() == until
        {
            return Err(End::Reached);
        }
        let entry = self.next_seq();
        self.head.entries += 1;
        let within = self.head.line(line).map_or(0, |at| match (at.frames.last(), at.parent) {
            (Some(frame), _) => frame.seq,
            (None, Some((parent, _))) => self.frame(parent).map_or(0, |frame| frame.seq),
            (None, None) => 0,
        });
        self.facts.push(Fact::Opened { entry, within, key, value: None, args_hash: 0, due_ms: 0 });
        Ok(entry)
    }

    fn begin(&mut self, id: u32, mut place: Place, raw: Data, n: u32, scope: Name) -> Res<()> {
        let found = place.find(self.plan);
        if let Some(found) = found {
            place.hint = found;
        }
        let root = place.reference.is_empty();
        let node = found.map(|found| self.plan.node(found));
        let key = Key { scope: scope.clone(), kind: entry_kind(node), name: place.name(), n };
        let seq = match self.opened(id, key) {
            Ok(seq) => seq,
            Err(end) => {
                // A reset goes on from here.
                self.set_next(id, Next::Begin { place, raw, n, scope });
                return Err(end.into());
            }
        };
        let within_work = self.count();
        let step = if root { Step::Root } else { Step::Plain };
        let frame = Frame {
            place,
            seq,
            n,
            inner: scope.clone(),
            scope,
            started_ms: self.now,
            input: raw.clone(),
            raw,
            result: None,
            flow: None,
            limit_ms: 0,
            list: List::None,
            cursor: 0,
            round: 0,
            step,
        };
        let depth = match self.line_mut(id) {
            Some(line) => {
                line.frames.push(frame);
                line.frames.len()
            }
            None => return Ok(()),
        };
        if !within_work {
            let text = "the run did 10 million units of work without waiting for anything: does it loop for ever?";
            return Err(self.fault(id, Standard::Runtime, text));
        }
        if depth > FRAMES {
            return Err(self.fault(
                id,
                Standard::Runtime,
                "statements are nested more than 256 deep: does a function call itself?",
            ));
        }
        self.bound_asked(id)?;
        match (node, root) {
            (Some(node), _) => self.enter(id, node),
            (None, true) => self.enter_root(id),
            (None, false) => Err(self.fault(id, Standard::Configuration, "the plan no longer has this statement")),
        }
    }

    fn enter_root(&mut self, id: u32) -> Res<()> {
        let plan = self.plan;
        let input = self.intake(id, &plan.input)?;
        if let Some(limit) = plan.timeout {
            self.arm(id, limit)?;
        }
        self.attributes(id)?;
        self.walk(id, List::Body, input, None)
    }

    fn enter(&mut self, id: u32, node: &'_ Node) -> Res<()> {
        if let Some(condition) = node.condition {
            let raw = self.raw_of(id);
            if !self.holds(condition, &Look::raw(id, &raw))? {
                if let Some(frame) = self.line_mut(id).and_then(|line| line.frames.pop()) {
                    self.done(frame.seq, Ending::Skipped);
                }
                self.set_next(id, Next::Return { output: raw, flow: Flow::Continue });
                return Ok(());
            }
        }
        self.intake(id, &node.input)?;
        if let Some(limit) = node.timeout {
            self.arm(id, limit)?;
        }
        if node.extensions.is_empty() { self.body(id, node) } else { self.before(id, node, 0) }
    }

    fn raw_of(&self, id: u32) -> Data {
        self.frame(id).map_or_else(Data::null, |frame| frame.raw.clone())
    }

    /// Schema and transformation of the raw input.
    fn intake(&mut self, id: u32, intake: &Intake) -> Res<Data> {
        let raw = self.raw_of(id);
        if let Some(schema) = intake.schema {
            self.check(schema, &raw, id)?;
        }
        let Some(from) = intake.from else { return Ok(raw) };
        let input = self.eval(from, &Look::raw(id, &raw))?;
        self.bound(id, &input)?;
        if let Some(frame) = self.frame_mut(id) {
            frame.input = input.clone();
        }
        Ok(input)
    }

    /// Sets the time limit of the statement at hand.
    fn arm(&mut self, id: u32, limit: super::plan::Duration) -> Res<()> {
        let input = self.frame(id).map_or_else(Data::null, |frame| frame.input.clone());
        let look = Look::body(id, &input);
        let ms = match limit {
            Duration::Given(expr) => {
                let given = self.eval(expr, &look)?;
                match self.json(&given)?.as_u64() {
                    Some(ms) => ms,
                    None => return Ok(()),
                }
            }
            limit => self.millis(limit, &look)?,
        };
        let Some(frame) = self.frame_mut(id) else { return Ok(()) };
        frame.limit_ms = ms;
        let seq = frame.seq;
        self.open_timer(id, seq, Outside::Timeout, ms);
        Ok(())
    }

    /// The next extension that applies before the statement, or its body.
    fn before(&mut self, id: u32, node: &Node, from: usize) -> Res<()> {
        for (at, extension) in node.extensions.iter().enumerate().skip(from) {
            if extension.before.is_some() && self.applies(id, extension)? {
                let input = self.raw_of(id);
                return self.walk(id, List::Before(at as u16), input, None);
            }
        }
        if let Some(frame) = self.frame_mut(id) {
            frame.list = List::None;
        }
        self.body(id, node)
    }

    fn applies(&mut self, id: u32, extension: &Extension) -> Res<bool> {
        let Some(when) = extension.when else { return Ok(true) };
        let input = self.frame(id).map_or_else(Data::null, |frame| frame.input.clone());
        self.holds(when, &Look::body(id, &input))
    }

    /// The next extension that applies after the statement, or its end.
    fn after(&mut self, id: u32, node: &Node, below: usize, output: Data) -> Res<()> {
        for at in (0..below).rev() {
            let extension = &node.extensions[at];
            if extension.after.is_some() && self.applies(id, extension)? {
                if let Some(frame) = self.frame_mut(id) {
                    frame.result = Some(output.clone());
                }
                return self.walk(id, List::After(at as u16), output, None);
            }
        }
        self.complete(id, output);
        Ok(())
    }

    /// Begins to walk a list, whose first statement gets a raw input.
    pub(super) fn walk(&mut self, id: u32, list: List, raw: Data, ordinal: Option<(char, u64)>) -> Res<()> {
        let plan = self.plan;
        let Some(line) = self.head.line(id) else { return Ok(()) };
        let depth = line.frames.len();
        let Some(frame) = line.frames.last() else { return Ok(()) };
        let nodes = list_of(plan, self.node(frame), list);
        let mut inner = frame.scope.clone();
        if frame.n > 0 {
            inner = format!("{inner}/r{}@{depth}", frame.n).into();
        }
        match (list, ordinal) {
            // Left out for the first attempt, so that it has to say of which `try` it is.
            (_, Some(('a', ordinal))) => inner = format!("{inner}/a{ordinal}@{depth}").into(),
            (_, Some((letter, ordinal))) => inner = format!("{inner}/{letter}{ordinal}").into(),
            (List::Before(at), None) => inner = format!("{inner}/x{at}@{depth}").into(),
            (List::After(at), None) => inner = format!("{inner}/y{at}@{depth}").into(),
            _ => {}
        }
        if let Some(frame) = self.frame_mut(id) {
            (frame.list, frame.cursor, frame.round) = (list, 0, 0);
            frame.inner = inner.clone();
        }
        match nodes.first() {
            Some(first) => {
                self.set_next(id, Next::Begin { place: Place::of(plan, *first), raw, n: 0, scope: inner });
                Ok(())
            }
            None => self.list_done(id, raw, None),
        }
    }

    /// A statement of the list that the frame at hand walks gave its output.
    fn returned(&mut self, id: u32, output: Data, flow: Flow) -> Res<()> {
        let Some(line) = self.head.line(id) else { return Ok(()) };
        let Some(frame) = line.frames.last() else {
            return match (line.parent, flow) {
                (None, _) => self.root_done(output),
                (Some(_), Flow::End) => self.complete_run(id, output),
                (Some(parent), _) => self.branch_done(id, parent, output),
            };
        };
        if flow == Flow::End {
            return self.complete_run(id, output);
        }
        let node = self.node(frame);
        let list = list_of(self.plan, node, frame.list);
        let (at, back) = match flow {
            Flow::Continue => (frame.cursor + 1, false),
            Flow::To(at) => (at, at <= frame.cursor),
            Flow::Exit | Flow::End => (u32::MAX, false),
        };
        match list.get(at as usize) {
            Some(next) => {
                let place = Place::of(self.plan, *next);
                let Some(frame) = self.frame_mut(id) else { return Ok(()) };
                frame.cursor = at;
                frame.round += u32::from(back);
                let (n, scope) = (frame.round, frame.inner.clone());
                self.set_next(id, Next::Begin { place, raw: output, n, scope });
                Ok(())
            }
            None => self.list_done(id, output, Some(flow)),
        }
    }

    /// The list is at its end, or was left.
    fn list_done(&mut self, id: u32, output: Data, flow: Option<Flow>) -> Res<()> {
        let Some(frame) = self.frame(id) else { return Ok(()) };
        let (node, list) = (self.node(frame), frame.list);
        let Some(node) = node else { return self.finish_body(id, output, None) };
        match (list, &node.kind) {
            (List::Before(_), _) if flow == Some(Flow::Exit) => self.finish_body(id, output, None),
            (List::Before(at), _) => self.before(id, node, at as usize + 1),
            (List::After(at), _) => {
                let result = self.frame(id).and_then(|frame| frame.result.clone()).unwrap_or(output);
                self.after(id, node, at as usize, result)
            }
            (_, Kind::For { .. }) => self.next_iteration(id, node, output),
            (_, Kind::Listen(listen)) => self.event_done(id, listen, output),
            (List::Catch, Kind::Try { catch, .. }) => self.finish_body(id, output, catch.then),
            _ => self.finish_body(id, output, None),
        }
    }

    /// The body has its raw output: transform, check, export.
    pub(super) fn finish_body(&mut self, id: u32, output: Data, flow: Option<Flow>) -> Res<()> {
        let output = self.bounded_result(id, output)?;
        let Some(frame) = self.frame_mut(id) else { return Ok(()) };
        frame.result = Some(output.clone());
        frame.flow = flow;
        frame.step = match std::mem::replace(&mut frame.step, Step::Plain) {
            Step::Root => Step::Root,
            _ => Step::Plain,
        };
        frame.list = List::None;
        let seq = frame.seq;
        if !self.head.open.is_empty() {
            self.close(seq, None);
        }
        let Some(node) = self.frame(id).and_then(|frame| self.node(frame)) else {
            return self.finish_run(id, output);
        };
        let mut result = output;
        if let Some(transform) = node.output.output_as {
            result = self.eval(transform, &Look::body(id, &result))?;
        }
        if let Some(schema) = node.output.output_schema {
            self.check(schema, &result, id)?;
        }
        let result = self.bounded_result(id, result)?;
        if let Some(export) = node.output.export_as {
            let look = Look { output: Some(&result), ..Look::body(id, &result) };
            let context = self.eval(export, &look)?;
            if let Some(schema) = node.output.export_schema {
                self.check(schema, &context, id)?;
            }
            self.bound(id, &context)?;
            if let Some(line) = self.line_mut(id) {
                (line.context, line.exported) = (context, true);
            }
            self.attributes(id)?;
        }
        if node.extensions.is_empty() {
            self.complete(id, result);
            return Ok(());
        }
        self.after(id, node, node.extensions.len(), result)
    }

    /// The statement has ended well.
    fn complete(&mut self, id: u32, output: Data) {
        let Some(frame) = self.line_mut(id).and_then(|line| line.frames.pop()) else { return };
        let then = self.node(&frame).map_or(Flow::Continue, |node| node.then);
        let value = self.value(&output);
        self.done(frame.seq, Ending::Ok(value));
        self.set_next(id, Next::Return { output, flow: frame.flow.unwrap_or(then) });
    }

    /// The run's own way out.
    fn finish_run(&mut self, id: u32, output: Data) -> Res<()> {
        let mut result = output;
        if let Some(transform) = self.plan.output.output_as {
            result = self.eval(transform, &Look::body(id, &result))?;
        }
        if let Some(schema) = self.plan.output.output_schema {
            self.check(schema, &result, id)?;
        }
        self.complete(id, result);
        Ok(())
    }

    fn root_done(&mut self, output: Data) -> Res<()> {
        self.end_run(Phase::Completed, Outcome::Ok(output));
        Ok(())
    }

    /// `then: end`: everything else of the run is cancelled, and this is its raw output.
    fn complete_run(&mut self, id: u32, output: Data) -> Res<()> {
        let context = self.head.line(id).map(|line| line.context.clone());
        let how = Ending::Ok(self.value(&output));
        let mark = super::unwind::Mark { path: self.path_of(id), how };
        self.unwind(0, 1, Some(&mark));
        if let (Some(line), Some(context)) = (self.line_mut(0), context) {
            line.context = context;
            line.next = Next::Wait;
        }
        let result = self.finish_body(0, output, None);
        Ok(self.guard(0, result)?)
    }

    /// Search attributes that have changed.
    fn attributes(&mut self, id: u32) -> Res<()> {
        if self.plan.attributes.is_empty() {
            return Ok(());
        }
        let context = self.head.line(id).map_or_else(Data::null, |line| line.context.clone());
        let mut changed = Vec::new();
        for (name, expr) in self.plan.attributes.iter().take(ATTRIBUTES) {
            let value = self.eval(*expr, &Look { depth: Some(0), ..Look::body(0, &context) })?;
            let value = match value.json() {
                Some(json) if super::data::measure(json) <= ATTRIBUTE_BYTES => json.clone(),
                _ => Json::Null,
            };
            let old = self.head.attributes.iter().find(|known| known.0 == *name).map(|known| &known.1);
            if old.unwrap_or(&Json::Null) != &value {
                changed.push((name.clone(), value));
            }
        }
        self.change_attributes(changed);
        Ok(())
    }

    /// Sets search attributes; `null` removes one. Those above [`ATTRIBUTES`] are left out.
    pub(super) fn change_attributes(&mut self, changed: Vec<(Name, Json)>) {
        if changed.is_empty() {
            return;
        }
        let all = Arc::make_mut(&mut self.head.attributes);
        for (name, value) in &changed {
            all.retain(|known| known.0 != *name);
            if !value.is_null() && all.len() < ATTRIBUTES {
                all.push((name.clone(), value.clone()));
            }
        }
        self.act(Act::Attributes(changed));
    }

    /// The state of a `try` that begins.
    pub(super) fn begin_try(&mut self, id: u32) {
        let now = self.now;
        if let Some(frame) = self.frame_mut(id) {
            frame.step = Step::Try(TryState { attempt: 0, first_ms: now, limit_ms: 0, error: None });
        }
    }
}
