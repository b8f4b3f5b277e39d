//! The bodies of statements, by kind.

use super::act::{Act, OpenTask, StartChild, TaskHints};
use super::calendar::rfc3339;
use super::data::Data;
use super::eval::Json;
use super::fault::{Fault, Standard};
use super::head::{Line, List, Next, Outside, Place, Seq, Step};
use super::journal::{Fact, Key};
use super::look::Look;
use super::machine::{Machine, Res, Stop};
use super::plan::{Case, ExprId, Kind, Node, NodeId, ParentClose, Target};
use super::step::entry_kind;
use crate::id::Name;
use crate::limit::CHILD_DEPTH;

impl Machine<'_> {
    /// Begins the body of the statement at hand.
    pub(super) fn body(&mut self, id: u32, node: &Node) -> Res<()> {
        let Some(frame) = self.frame(id) else { return Ok(()) };
        let input = frame.input.clone();
        match &node.kind {
            Kind::Do(_) => self.walk(id, List::Body, input, None),
            Kind::Set(value) => {
                let value = self.eval(*value, &Look::body(id, &input))?;
                self.finish_body(id, value, None)
            }
            Kind::Switch(cases) => self.switch(id, cases, input),
            Kind::For { items, .. } => self.begin_for(id, node, *items, input),
            Kind::Fork { branches, .. } => self.begin_fork(id, branches, input),
            Kind::Try { .. } => {
                self.begin_try(id);
                self.attempt(id)
            }
            Kind::Raise { error } => {
                let error = self.eval(*error, &Look::body(id, &input))?;
                let error = self.json(&error)?;
                Err(Stop::Fault(Fault::complete(&error, self.plan.profile, &node.reference)))
            }
            Kind::Wait(duration) => {
                let ms = self.millis(*duration, &Look::body(id, &input))?;
                if ms == 0 {
                    return self.finish_body(id, input, None);
                }
                let seq = self.frame(id).map_or(0, |frame| frame.seq);
                let due = self.open_timer(id, seq, Outside::Wait, ms);
                if let Some(Fact::Opened { due_ms, .. }) = self.fact_of(seq) {
                    *due_ms = due;
                }
                Ok(())
            }
            Kind::Call { target, with, sealed, awaited } => {
                self.call(id, node, target, *with, (*sealed, *awaited), input)
            }
            Kind::Function { with, schema, body } => {
                let args = self.eval(*with, &Look::body(id, &input))?;
                if let Some(schema) = schema {
                    self.check(*schema, &args, id)?;
                }
                self.bound(id, &args)?;
                self.begin_function(id, *body, args);
                Ok(())
            }
            Kind::Child { .. } => self.child(id, node, input),
            Kind::Map { .. } => self.begin_map(id, node, input),
            Kind::Saga { .. } => self.begin_saga(id),
            Kind::Emit { event } => self.emit(id, *event, input),
            Kind::Listen(listen) => self.begin_listen(id, listen),
            Kind::Code(_) => self.begin_code(id, input),
            Kind::Activation => self.begin_activation(id, node),
            Kind::Asked => self.begin_asked(id, node, &input),
        }
    }

    fn switch(&mut self, id: u32, cases: &[Case], input: Data) -> Res<()> {
        for case in cases {
            let fits = match case.when {
                Some(when) => self.holds(when, &Look::body(id, &input))?,
                None => true,
            };
            if fits {
                return self.finish_body(id, input, Some(case.then));
            }
        }
        self.finish_body(id, input, None)
    }

    fn begin_for(&mut self, id: u32, node: &Node, items: ExprId, input: Data) -> Res<()> {
        let items = self.eval(items, &Look::body(id, &input))?;
        if !self.json(&items)?.is_array() {
            return Err(self.fault(id, Standard::Expression, "`for.in` has to give an array"));
        }
        self.bound(id, &items)?;
        if let Some(frame) = self.frame_mut(id) {
            frame.step = Step::For { items, index: 0 };
        }
        self.iterate(id, node, input)
    }

    /// The iteration that the index stands at, or the end of the loop.
    fn iterate(&mut self, id: u32, node: &Node, data: Data) -> Res<()> {
        let Some(Step::For { items, index }) = self.frame(id).map(|frame| &frame.step) else { return Ok(()) };
        let (items, index) = (items.clone(), *index);
        let more = self.json(&items)?.as_array().is_some_and(|items| (index as usize) < items.len());
        let Kind::For { condition, .. } = &node.kind else { return Ok(()) };
        let go = match condition {
            _ if !more => false,
            Some(condition) => self.holds(*condition, &Look::body(id, &data))?,
            None => true,
        };
        if !go {
            return self.finish_body(id, data, None);
        }
        self.walk(id, List::Body, data, Some(('i', u64::from(index))))
    }

    pub(super) fn next_iteration(&mut self, id: u32, node: &Node, output: Data) -> Res<()> {
        if let Some(Step::For { index, .. }) = self.frame_mut(id).map(|frame| &mut frame.step) {
            *index += 1;
        }
        // An empty body never begins a statement: its iterations are counted here.
        if matches!(&node.kind, Kind::For { body, .. } if self.plan.list(*body).is_empty()) {
            return self.finish_body(id, output, None);
        }
        self.iterate(id, node, output)
    }

    fn begin_function(&mut self, id: u32, body: NodeId, args: Data) {
        let place = Place::of(self.plan, body);
        let Some(frame) = self.frame_mut(id) else { return };
        let scope: Name = format!("{}/f@{}#{}", frame.scope, frame.place.reference, frame.n).into();
        frame.inner = scope.clone();
        self.set_next(id, Next::Begin { place, raw: args, n: 0, scope });
    }

    /// The fact that an entry was opened with, if that was in this turn.
    fn fact_of(&mut self, entry: Seq) -> Option<&mut Fact> {
        self.facts.iter_mut().rev().find(|fact| matches!(fact, Fact::Opened { entry: known, .. } if *known == entry))
    }

    /// Notes what an entry was given.
    pub(super) fn note_args(&mut self, entry: Seq, args: &Data) {
        let hash = hash_of(args);
        let id = self.value(args);
        if let Some(Fact::Opened { value, args_hash, .. }) = self.fact_of(entry) {
            (*value, *args_hash) = (Some(id), hash);
        }
    }

    /// The key of the statement at hand.
    pub(super) fn key(&self, id: u32, node: &Node) -> Key {
        let (scope, n) = self.frame(id).map_or(("".into(), 0), |frame| (frame.scope.clone(), frame.n));
        let name = self.frame(id).map_or_else(|| node.reference.clone(), |frame| frame.place.name());
        Key { scope, kind: entry_kind(Some(node)), name, n }
    }

    fn call(&mut self, id: u32, node: &Node, target: &Target, with: ExprId, how: (bool, bool), input: Data) -> Res<()> {
        let (sealed, awaited) = how;
        let args = self.eval(with, &Look::body(id, &input))?;
        let hints = self.hints(id, node, &input)?;
        let Some(frame) = self.frame(id) else { return Ok(()) };
        let entry = frame.seq;
        let deadline_ms = if frame.limit_ms == 0 { 0 } else { self.now.saturating_add(frame.limit_ms) };
        let (key, target) = (self.key(id, node), target.clone());
        self.note_args(entry, &args);
        let task = OpenTask { entry, key, target, args, sealed, items: None, awaited, deadline_ms, hints };
        self.act(Act::OpenTask(Box::new(task)));
        if awaited {
            self.open(entry, id, entry, Outside::Task);
            return Ok(());
        }
        self.finish_body(id, input, None)
    }

    /// The hints of a statement with their values.
    pub(super) fn hints(&mut self, id: u32, node: &Node, input: &Data) -> Res<TaskHints> {
        let (hints, plan) = (&node.hints, self.plan);
        // Turns of older journals did not look at those of the document.
        let of_all = self.revision() >= 4;
        let mut text = |expr: Option<ExprId>| -> Res<Option<Name>> {
            let Some(expr) = expr else { return Ok(None) };
            let value = self.eval(expr, &Look::body(id, input))?;
            Ok(match &*self.json(&value)? {
                Json::Null => None,
                Json::String(text) => Some(text.as_str().into()),
                other => Some(other.to_string().into()),
            })
        };
        // What the document says holds where a statement says nothing.
        let all = &plan.hints;
        let affinity_key = text(hints.affinity_key.or(all.affinity_key.filter(|_| of_all)))?;
        let concurrency_key = text(hints.concurrency_key.or(all.concurrency_key.filter(|_| of_all)))?;
        let idempotency_key = text(hints.idempotency_key.or(all.idempotency_key.filter(|_| of_all)))?;
        Ok(TaskHints {
            queue: hints.queue.clone().or_else(|| all.queue.clone()),
            priority: hints.priority.or(all.priority),
            requires: if hints.requires.is_empty() { all.requires.clone() } else { hints.requires.clone() },
            affinity_key,
            concurrency_key,
            idempotency_key,
            sla_ms: if hints.sla_ms > 0 { hints.sla_ms } else { all.sla_ms },
        })
    }

    fn child(&mut self, id: u32, node: &Node, data: Data) -> Res<()> {
        let Kind::Child { namespace, name, version, input, awaited, parent_close } = &node.kind else { return Ok(()) };
        let mut text = |expr: ExprId, what: &str| -> Res<Name> {
            let value = self.eval(expr, &Look::body(id, &data))?;
            match value.json().and_then(Json::as_str) {
                Some(text) if !text.is_empty() => Ok(text.into()),
                _ => Err(self.fault(
                    id,
                    Standard::Configuration,
                    &format!("the {what} of the workflow has to be a text"),
                )),
            }
        };
        let (namespace, name) = (text(*namespace, "namespace")?, text(*name, "name")?);
        let version = text(*version, "version")?;
        let input = self.eval(*input, &Look::body(id, &data))?;
        let depth = self.child_depth(id)?;
        let entry = self.frame(id).map_or(0, |frame| frame.seq);
        self.note_args(entry, &input);
        let (key, close, awaited) = (self.key(id, node), *parent_close, *awaited);
        let child = StartChild { entry, key, namespace, name, version, input, item: None, awaited, close, depth };
        self.act(Act::StartChild(Box::new(child)));
        if awaited {
            self.open(entry, id, entry, Outside::Child(close));
            return Ok(());
        }
        if close != ParentClose::Abandon {
            self.head.children.push((entry, close));
        }
        self.finish_body(id, data, None)
    }

    /// The depth of a child of this run.
    pub(super) fn child_depth(&self, id: u32) -> Res<u8> {
        let depth = self.head.identity.depth + 1;
        if depth > CHILD_DEPTH {
            return Err(self.fault(
                id,
                Standard::Runtime,
                "runs start runs more than 32 deep: does a workflow start itself?",
            ));
        }
        Ok(depth)
    }

    fn emit(&mut self, id: u32, event: ExprId, input: Data) -> Res<()> {
        let event = self.eval(event, &Look::body(id, &input))?;
        let Json::Object(given) = &*self.json(&event)? else {
            return Err(self.fault(id, Standard::Expression, "`emit` has to give the attributes of an event"));
        };
        let seq = self.frame(id).map_or(0, |frame| frame.seq);
        let identity = &self.head.identity;
        let mut event = serde_json::Map::new();
        event.insert("specversion".into(), "1.0".into());
        event.insert("id".into(), format!("{}-{seq}", identity.run).into());
        event.insert("source".into(), format!("/workflows/{}/{}", identity.namespace, identity.name).into());
        event.insert("time".into(), rfc3339(self.now).into());
        for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
            event.insert(name.clone(), value.clone());
        }
        if !event.get("type").is_some_and(Json::is_string) {
            return Err(self.fault(id, Standard::Validation, "an event needs a `type`, a text"));
        }
        let event = self.keep(Json::Object(event));
        self.bound(id, &event)?;
        self.act(Act::Emit { entry: seq, event: event.clone() });
        self.finish_body(id, event, None)
    }

    /// Branches side by side: each a line of its own, with a copy of the context.
    fn begin_fork(&mut self, id: u32, branches: &[NodeId], input: Data) -> Res<()> {
        if branches.is_empty() {
            return self.finish_body(id, Data::small(Json::Array(Vec::new())), None);
        }
        let Some(line) = self.head.line(id) else { return Ok(()) };
        let context = line.context.clone();
        let (depth, Some(frame)) = (line.frames.len(), line.frames.last()) else { return Ok(()) };
        let round = if frame.n > 0 { format!("/r{}@{depth}", frame.n) } else { String::new() };
        let scope = format!("{}{round}", frame.scope);
        let mut open = Vec::with_capacity(branches.len());
        for (at, branch) in branches.iter().enumerate() {
            let number = self.head.next_line;
            self.head.next_line += 1;
            let place = Place::of(self.plan, *branch);
            let scope: Name = format!("{scope}/b{at}").into();
            let next = Next::Begin { place, raw: input.clone(), n: 0, scope };
            let parent = Some((id, at as u32));
            let line = Line { id: number, parent, context: context.clone(), exported: false, frames: Vec::new(), next };
            self.head.lines.push(line.into());
            self.ready.push_back(number);
            open.push(super::head::Branch::Open(number));
        }
        if let Some(frame) = self.frame_mut(id) {
            frame.step = Step::Fork(open);
        }
        Ok(())
    }

    /// Whether the fork at hand is a competition.
    pub(super) fn competes(&self, id: u32) -> bool {
        let node = self.frame(id).and_then(|frame| self.node(frame));
        matches!(node.map(|node| &node.kind), Some(Kind::Fork { compete: true, .. }))
    }
}

/// Hash of arguments that is the same on every machine.
fn hash_of(args: &Data) -> u64 {
    let bytes = match args {
        Data::Ref { hash, .. } => hash.0,
        Data::Inline { value, .. } => {
            let mut hasher = blake3::Hasher::new();
            let text = serde_json::to_vec(&**value).unwrap_or_default();
            hasher.update(&text);
            *hasher.finalize().as_bytes()
        }
    };
    u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}
