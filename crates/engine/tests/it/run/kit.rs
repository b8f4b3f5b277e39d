//! A workflow made by hand, and a shell that keeps the books: it stores segments, remembers what is open outside, and checks
//! after each turn what has to hold always.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};
use tidewheel_engine::id::RunId;
use tidewheel_engine::run::act::{Act, Event, OpenTask, Outcome, StartChild};
use tidewheel_engine::run::data::{BlobHash, Data};
use tidewheel_engine::run::eval::{Definition, EvalError, Fuel, Scope, Var, Violation};
use tidewheel_engine::run::fault::Fault;
use tidewheel_engine::run::fold::Journal;
use tidewheel_engine::run::head::{Head, Identity, Phase, Seq};
use tidewheel_engine::run::journal::{Ending, Fact, Segment};
use tidewheel_engine::run::plan::{
    Backoff, Catch, Duration, ExprId, Flow, Hints, Intake, Kind, ListId, Node, NodeId, ParentClose, Plan, Profile,
    Retry, SagaStep, SchemaId, Target, Yield,
};
use tidewheel_engine::run::turn::{Env, Halt, Turn, advance};
use tidewheel_engine::run::undo::UndoRetry;

pub(crate) type Eval = Arc<dyn Fn(&dyn Scope) -> Result<Json, EvalError> + Send + Sync>;

type Fits = Box<dyn Fn(&Json) -> bool + Send + Sync>;

/// Expressions are closures, schemas are closures.
pub(crate) struct Flowchart {
    pub(crate) plan: Plan,
    exprs: Vec<(Eval, u64)>,
    schemas: Vec<Fits>,
}

impl std::fmt::Debug for Flowchart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.plan.fmt(f)
    }
}

impl Definition for Flowchart {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn eval(&self, expr: ExprId, scope: &dyn Scope, fuel: &mut Fuel) -> Result<Json, EvalError> {
        let (eval, cost) = &self.exprs[expr.0 as usize];
        if !fuel.take(*cost) {
            return Err(EvalError::Fuel);
        }
        eval(scope)
    }

    fn check(&self, schema: SchemaId, value: &Json, _: &mut Fuel) -> Result<Vec<Violation>, EvalError> {
        let fits = self.schemas[schema.0 as usize](value);
        let violation = || Violation { path: "/x".into(), message: "does not fit".into() };
        Ok(if fits { Vec::new() } else { vec![violation()] })
    }

    fn duration(&self, value: &Json) -> Result<u64, EvalError> {
        value.as_u64().ok_or_else(|| EvalError::Failed("not a duration".into()))
    }

    fn weight(&self) -> usize {
        0
    }
}

impl Default for Flowchart {
    fn default() -> Flowchart {
        let mut chart = Flowchart {
            plan: Plan {
                hash: [7; 32],
                namespace: "test".into(),
                name: "flow".into(),
                version: "1.0.0".into(),
                profile: Profile::V1_0_3,
                input: Intake::default(),
                output: Yield::default(),
                timeout: None,
                root: ListId(0),
                nodes: Vec::new(),
                lists: vec![Vec::new()],
                attributes: Vec::new(),
                definition: ExprId(0),
                hints: Hints::default(),
                version_policy: Default::default(),
            },
            exprs: Vec::new(),
            schemas: Vec::new(),
        };
        chart.lit(json!({"document": {}}));
        chart
    }
}

/// Variables of a loop and the like.
pub(crate) fn local(scope: &dyn Scope, name: &str) -> Json {
    scope.var(&Var::Local(name.into())).into_owned()
}

impl Flowchart {
    pub(crate) fn expr(&mut self, eval: impl Fn(&dyn Scope) -> Json + Send + Sync + 'static) -> ExprId {
        self.fallible(move |scope| Ok(eval(scope)))
    }

    pub(crate) fn fallible(
        &mut self,
        eval: impl Fn(&dyn Scope) -> Result<Json, EvalError> + Send + Sync + 'static,
    ) -> ExprId {
        self.costly(1, eval)
    }

    pub(crate) fn costly(
        &mut self,
        steps: u64,
        eval: impl Fn(&dyn Scope) -> Result<Json, EvalError> + Send + Sync + 'static,
    ) -> ExprId {
        self.exprs.push((Arc::new(eval), steps));
        ExprId(self.exprs.len() as u32 - 1)
    }

    pub(crate) fn lit(&mut self, value: Json) -> ExprId {
        self.expr(move |_| value.clone())
    }

    pub(crate) fn schema(&mut self, fits: impl Fn(&Json) -> bool + Send + Sync + 'static) -> SchemaId {
        self.schemas.push(Box::new(fits));
        SchemaId(self.schemas.len() as u32 - 1)
    }

    /// A flowchart with these statements.
    pub(crate) fn of(statements: &[S]) -> Flowchart {
        let mut chart = Flowchart::default();
        chart.plan.lists.clear();
        chart.plan.lists.push(Vec::new());
        let list = chart.list(statements, "/do");
        chart.plan.root = list;
        chart
    }

    pub(crate) fn list(&mut self, statements: &[S], at: &str) -> ListId {
        let nodes =
            statements.iter().enumerate().map(|(i, statement)| self.node(statement, &format!("{at}/{i}"))).collect();
        self.plan.lists.push(nodes);
        ListId(self.plan.lists.len() as u32 - 1)
    }

    fn node(&mut self, statement: &S, at: &str) -> NodeId {
        let (name, statement) = match statement {
            S::Named(name, statement) => (*name, &**statement),
            other => ("step", other),
        };
        let reference = format!("{at}/{name}");
        let definition = self.lit(json!({"of": reference}));
        let mut node = Node {
            name: name.into(),
            reference: reference.as_str().into(),
            condition: None,
            input: Intake::default(),
            output: Yield::default(),
            timeout: None,
            then: Flow::Continue,
            extensions: Vec::new(),
            hints: Hints::default(),
            definition,
            kind: Kind::Do(ListId(0)),
        };
        self.fill(&mut node, statement, &reference);
        self.plan.nodes.push(node);
        NodeId(self.plan.nodes.len() as u32 - 1)
    }

    fn fill(&mut self, node: &mut Node, statement: &S, at: &str) {
        node.kind = match statement {
            S::With(change, statement) => {
                self.fill(node, statement, at);
                change(self, node);
                return;
            }
            S::Named(_, statement) => return self.fill(node, statement, at),
            S::Lit(value) => Kind::Set(self.lit(value.clone())),
            S::Eval(eval) => {
                let eval = eval.clone();
                Kind::Set(self.fallible(move |scope| eval(scope)))
            }
            S::Task(name) => {
                let with = self.expr(|scope| scope.dot().into_owned());
                Kind::Call { target: Target::Task((*name).into()), with, sealed: false, awaited: true }
            }
            S::Wait(ms) => Kind::Wait(Duration::Fixed(*ms)),
            S::Raise(status) => {
                let kind = "https://serverlessworkflow.io/spec/1.0.0/errors/communication";
                Kind::Raise { error: self.lit(json!({"type": kind, "status": status})) }
            }
            S::Do(list) => Kind::Do(self.list(list, &format!("{at}/do"))),
            S::For(items, list) => Kind::For {
                each: "item".into(),
                items: self.lit(items.clone()),
                at: "index".into(),
                condition: None,
                body: self.list(list, &format!("{at}/do")),
            },
            S::Fork(compete, branches) => {
                let branches = branches
                    .iter()
                    .enumerate()
                    .map(|(i, branch)| self.node(branch, &format!("{at}/fork/branches/{i}")))
                    .collect();
                Kind::Fork { branches, compete: *compete }
            }
            S::Try(body, catch) => {
                let body = self.list(body, &format!("{at}/try"));
                let handler = catch.handler.as_ref().map(|list| self.list(list, &format!("{at}/catch/do")));
                let filter = catch.filter.clone().map(|filter| self.lit(filter));
                let retry = catch.retry.clone();
                let name = "error".into();
                let catch = Catch { filter, name, when: None, except_when: None, retry, body: handler, then: None };
                Kind::Try { body, catch }
            }
            S::Child(close, awaited) => {
                let (namespace, name) = (self.lit(json!("test")), self.lit(json!("other")));
                let (version, input) = (self.lit(json!("latest")), self.expr(|scope| scope.dot().into_owned()));
                Kind::Child { namespace, name, version, input, awaited: *awaited, parent_close: *close }
            }
            S::Map { items, concurrency, batch, collect } => Kind::Map {
                items: self.lit(items.clone()),
                target: Target::Task("each".into()),
                with: None,
                concurrency: *concurrency,
                batch: *batch,
                collect: *collect,
            },
            S::Saga(steps) => {
                let steps = steps.iter().map(|(name, undo)| self.saga_step(name, *undo, at)).collect();
                Kind::Saga { steps, retry: UndoRetry { count: 1, delay_ms: 10, backoff: Backoff::Constant } }
            }
            S::Emit(event) => Kind::Emit { event: self.lit(event.clone()) },
            S::Kind(make) => make(self, at),
        };
    }
}

impl Flowchart {
    /// A step that is a task of its name, and an undo that is one of `undo <name>` and gets the step's output.
    fn saga_step(&mut self, name: &str, undo: bool, at: &str) -> SagaStep {
        let with = self.expr(|scope| json!({"in": scope.dot().into_owned(), "steps": local(scope, "steps")}));
        let with_output = self.expr(|scope| scope.dot().into_owned());
        SagaStep {
            name: name.into(),
            reference: format!("{at}/{name}").into(),
            target: Target::Task(name.into()),
            with,
            undo: undo.then(|| (Target::Task(format!("undo {name}").into()), with_output)),
        }
    }
}

type Change = Arc<dyn Fn(&mut Flowchart, &mut Node) + Send + Sync>;
type Make = Arc<dyn Fn(&mut Flowchart, &str) -> Kind + Send + Sync>;

/// A statement, as tests write it.
#[derive(Clone)]
pub(crate) enum S {
    Named(&'static str, Box<S>),
    With(Change, Box<S>),
    Lit(Json),
    Eval(Eval),
    Task(&'static str),
    Wait(u64),
    Raise(u16),
    Do(Vec<S>),
    For(Json, Vec<S>),
    Fork(bool, Vec<S>),
    Try(Vec<S>, Handler),
    Child(ParentClose, bool),
    Map { items: Json, concurrency: u32, batch: u32, collect: bool },
    Saga(Vec<(&'static str, bool)>),
    Emit(Json),
    Kind(Make),
}

impl std::fmt::Debug for S {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            S::Named(name, s) => write!(f, "{name}: {s:?}"),
            S::With(_, s) => write!(f, "with {s:?}"),
            S::Lit(value) => write!(f, "set {value}"),
            S::Eval(_) => write!(f, "eval"),
            S::Task(name) => write!(f, "task {name}"),
            S::Wait(ms) => write!(f, "wait {ms}"),
            S::Raise(status) => write!(f, "raise {status}"),
            S::Do(list) => write!(f, "do {list:?}"),
            S::For(items, list) => write!(f, "for {items} {list:?}"),
            S::Fork(compete, list) => write!(f, "fork {compete} {list:?}"),
            S::Try(list, handler) => write!(f, "try {list:?} {:?} {:?}", handler.retry.is_some(), handler.handler),
            S::Child(close, awaited) => write!(f, "child {close:?} {awaited}"),
            S::Map { items, .. } => write!(f, "map {items}"),
            S::Saga(steps) => write!(f, "saga {steps:?}"),
            S::Emit(_) => write!(f, "emit"),
            S::Kind(_) => write!(f, "kind"),
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Handler {
    pub(crate) filter: Option<Json>,
    pub(crate) retry: Option<Retry>,
    pub(crate) handler: Option<Vec<S>>,
}

impl S {
    pub(crate) fn eval(eval: impl Fn(&dyn Scope) -> Json + Send + Sync + 'static) -> S {
        S::Eval(Arc::new(move |scope| Ok(eval(scope))))
    }

    pub(crate) fn named(self, name: &'static str) -> S {
        S::Named(name, Box::new(self))
    }

    pub(crate) fn with(self, change: impl Fn(&mut Flowchart, &mut Node) + Send + Sync + 'static) -> S {
        S::With(Arc::new(change), Box::new(self))
    }

    pub(crate) fn kind(make: impl Fn(&mut Flowchart, &str) -> Kind + Send + Sync + 'static) -> S {
        S::Kind(Arc::new(make))
    }

    pub(crate) fn then(self, flow: Flow) -> S {
        self.with(move |_, node| node.then = flow)
    }

    pub(crate) fn timeout(self, ms: u64) -> S {
        self.with(move |_, node| node.timeout = Some(Duration::Fixed(ms)))
    }

    /// Adds a text to the array that comes in.
    pub(crate) fn push(text: &'static str) -> S {
        S::eval(move |scope| {
            let mut list = scope.dot().as_array().cloned().unwrap_or_default();
            list.push(text.into());
            Json::Array(list)
        })
    }
}

pub(crate) fn retry(count: u32, delay: u64) -> Retry {
    Retry {
        when: None,
        except_when: None,
        delay: Duration::Fixed(delay),
        backoff: Default::default(),
        count: Some(count),
        attempt_limit: None,
        limit: None,
        jitter: None,
    }
}

/// What stands outside.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outside {
    Task(Box<OpenTask>),
    Items(Vec<(u64, u32)>),
    Timer(u64),
    Child(Box<StartChild>),
}

/// A run with its journal and what it has open.
pub(crate) struct World {
    pub(crate) chart: Arc<Flowchart>,
    pub(crate) head: Head,
    pub(crate) segments: Vec<Segment>,
    pub(crate) now: u64,
    pub(crate) open: BTreeMap<Seq, Outside>,
    pub(crate) blobs: BTreeMap<BlobHash, Arc<Json>>,
    pub(crate) emitted: Vec<Json>,
    pub(crate) acts: Vec<Act>,
    pub(crate) finished: Option<(Phase, Outcome)>,
    keys: BTreeSet<String>,
    live: BTreeSet<Seq>,
    /// Whether each turn is checked against a fold of the whole journal.
    pub(crate) checked: bool,
}

pub(crate) const FUEL: Fuel = Fuel { steps: 20_000, bytes: 4 << 20 };

impl World {
    pub(crate) fn new(chart: Flowchart) -> World {
        let head = Head::new(Arc::new(Identity::new(RunId(77), &chart.plan)));
        World {
            chart: Arc::new(chart),
            head,
            segments: Vec::new(),
            now: 1_000,
            open: BTreeMap::new(),
            blobs: BTreeMap::new(),
            emitted: Vec::new(),
            acts: Vec::new(),
            finished: None,
            keys: BTreeSet::new(),
            live: BTreeSet::new(),
            checked: true,
        }
    }

    /// A run that has begun with an input.
    pub(crate) fn started(chart: Flowchart, input: Json) -> World {
        let mut world = World::new(chart);
        world.start(input);
        world
    }

    pub(crate) fn start(&mut self, input: Json) {
        let identity = self.head.identity.clone();
        let input = self.data(input);
        self.send(Event::Start { identity, input });
    }

    pub(crate) fn data(&mut self, value: Json) -> Data {
        let (data, bytes) = Data::of(value.clone());
        if let (Data::Ref { hash, size, .. }, Some(_)) = (&data, bytes) {
            self.blobs.insert(*hash, Arc::new(value));
            return Data::Ref { hash: *hash, size: *size, value: None };
        }
        data
    }

    /// One event and all `Continue` that follow from it; how many turns that took.
    pub(crate) fn send(&mut self, event: Event) -> usize {
        let mut turns = 0;
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let Some(turn) = self.turn(event) else { return turns };
            turns += 1;
            assert!(turns < 100_000, "it never ends");
            next = self.commit(turn).then_some(Event::Continue);
        }
        turns
    }

    /// One turn, not committed.
    pub(crate) fn turn(&mut self, event: Event) -> Option<Turn> {
        let env = Env { definition: &*self.chart, blobs: &self.blobs, now_ms: self.now, bounds: Default::default() };
        match advance(&self.head, event.clone(), &env, &mut FUEL.clone()) {
            Ok(turn) => turn,
            Err(Halt::OutOfFuel) => {
                let mut fuel = Fuel { steps: 10_000_000, bytes: 1 << 30 };
                advance(&self.head, event, &env, &mut fuel).expect("with full fuel there is always a turn")
            }
            Err(Halt::Blobs(missing)) => panic!("blobs that were stored: {missing:?}"),
        }
    }

    /// Takes a turn in; whether it goes on by itself.
    pub(crate) fn commit(&mut self, turn: Turn) -> bool {
        let Turn { head, segment, acts, more, .. } = turn;
        let counted = acts.iter().filter(|act| !matches!(act, Act::PutBlob { .. })).count();
        assert!(counted <= 256, "{counted} acts");
        self.judge(&segment);
        self.head = head;
        self.segments.push(segment);
        acts.into_iter().for_each(|act| self.act(act));
        if self.checked {
            assert_eq!(self.fold(), self.head, "the fold of the journal is the head");
        }
        more
    }

    pub(crate) fn fold(&self) -> Head {
        let stored: Vec<Segment> = self.segments.iter().map(stored).collect();
        self.journal(&stored).fold().expect("a journal folds")
    }

    pub(crate) fn journal<'a>(&'a self, segments: &'a [Segment]) -> Journal<'a> {
        Journal { from: None, segments, definition: &*self.chart, earlier: &[], blobs: &self.blobs }
    }

    /// What has to hold of every segment: keys are opened once, entries end once and after they began, and nothing begins
    /// inside of what has ended.
    fn judge(&mut self, segment: &Segment) {
        if let Event::Reset { .. } = segment.event {
            self.keys.clear();
            self.live.clear();
            self.live.extend(self.head.lines.iter().flat_map(|line| line.frames.iter().map(|frame| frame.seq)));
            self.live.extend(0..self.head.next_seq);
        }
        for fact in &segment.facts {
            match fact {
                Fact::Opened { entry, within, key, .. } => {
                    assert!(self.keys.insert(key.to_string()), "{key} was opened twice");
                    assert!(*within == 0 || self.live.contains(within), "{key} was opened inside of what had ended");
                    self.live.insert(*entry);
                }
                Fact::Done { entry, .. } => assert!(self.live.remove(entry), "entry {entry} ended twice"),
                Fact::Retried { .. } | Fact::Phase { .. } => {}
            }
        }
    }

    fn act(&mut self, act: Act) {
        self.acts.push(act.clone());
        match act {
            Act::PutBlob { hash, bytes } => {
                self.blobs.insert(hash, Arc::new(serde_json::from_slice(&bytes).expect("blobs are JSON")));
            }
            Act::OpenTask(task) => match task.items {
                Some(items) => match self.open.entry(task.entry).or_insert_with(|| Outside::Items(Vec::new())) {
                    Outside::Items(all) => all.push(items),
                    other => panic!("{other:?} is open for a map"),
                },
                None if task.awaited => {
                    let entry = task.entry;
                    assert!(self.open.insert(entry, Outside::Task(task)).is_none(), "{entry} is open");
                }
                None => {}
            },
            Act::OpenTimer { entry, due } => {
                assert!(due >= self.now);
                assert!(self.open.insert(entry, Outside::Timer(due)).is_none(), "{entry} is open");
            }
            Act::StartChild(child) => {
                self.open.insert(child.entry, Outside::Child(child));
            }
            Act::CancelTask { entry } => self.cancelled(entry, |o| matches!(o, Outside::Task(_))),
            Act::CancelItems { entry } => {
                self.open.remove(&entry);
            }
            Act::CancelTimer { entry } => self.cancelled(entry, |o| matches!(o, Outside::Timer(_))),
            Act::CancelChild { entry } => self.cancelled(entry, |o| matches!(o, Outside::Child(_))),
            Act::Emit { event, .. } => self.emitted.push(self.read(&event)),
            Act::Finished { phase, outcome } => {
                assert!(self.finished.is_none() || self.head.turns > 1);
                self.finished = Some((phase, outcome));
            }
            Act::Subscribe { .. } | Act::Unsubscribe { .. } | Act::Defer { .. } | Act::Attributes(_) => {}
        }
    }

    fn cancelled(&mut self, entry: Seq, is: fn(&Outside) -> bool) {
        // What has ended while the run was suspended is gone already.
        let was = self.open.remove(&entry);
        assert!(was.as_ref().is_none_or(is), "cancelled {entry}, which was {was:?}");
    }

    pub(crate) fn read(&self, data: &Data) -> Json {
        match data {
            Data::Ref { hash, .. } => (*self.blobs[hash]).clone(),
            data => data.json().cloned().expect("inline"),
        }
    }

    /// The one task with a type.
    pub(crate) fn task(&self, name: &str) -> Seq {
        self.tasks(name).first().copied().unwrap_or_else(|| panic!("no task {name} among {:?}", self.open))
    }

    pub(crate) fn tasks(&self, name: &str) -> Vec<Seq> {
        let is = |outside: &Outside| matches!(outside, Outside::Task(task) if task.target == Target::Task(name.into()));
        self.open.iter().filter(|(_, outside)| is(outside)).map(|(entry, _)| *entry).collect()
    }

    pub(crate) fn complete(&mut self, name: &str, value: Json) {
        let entry = self.task(name);
        self.finish(entry, value);
    }

    pub(crate) fn finish(&mut self, entry: Seq, value: Json) {
        self.open.remove(&entry);
        let value = self.data(value);
        self.send(Event::Done { entry, outcome: Outcome::Ok(value) });
    }

    pub(crate) fn break_task(&mut self, name: &str, status: u16) {
        let entry = self.task(name);
        self.open.remove(&entry);
        self.send(Event::Done { entry, outcome: Outcome::Err(error(status)) });
    }

    pub(crate) fn items(&mut self, entry: Seq, first: u64, outcomes: Vec<Outcome>) {
        self.close_items(entry, first);
        self.send(Event::Items { entry, first, outcomes });
    }

    /// As [`World::items`] for several, in one turn.
    pub(crate) fn many_items(&mut self, entry: Seq, ended: Vec<(u64, Vec<Outcome>)>) {
        ended.iter().for_each(|(first, _)| self.close_items(entry, *first));
        self.send(Event::Many { entry, ended });
    }

    fn close_items(&mut self, entry: Seq, first: u64) {
        if let Some(Outside::Items(all)) = self.open.get_mut(&entry) {
            all.retain(|items| items.0 != first);
            if all.is_empty() {
                self.open.remove(&entry);
            }
        }
    }

    /// The timers that are set, soonest first.
    pub(crate) fn timers(&self) -> Vec<(u64, Seq)> {
        let mut timers: Vec<_> = self
            .open
            .iter()
            .filter_map(|(entry, outside)| match outside {
                Outside::Timer(due) => Some((*due, *entry)),
                _ => None,
            })
            .collect();
        timers.sort_unstable();
        timers
    }

    /// Time goes on, and timers fire.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some((due, entry)) = self.timers().first().copied().filter(|timer| timer.0 <= end) {
            self.now = self.now.max(due);
            self.open.remove(&entry);
            self.send(Event::Fired { entry });
        }
        self.now = end;
    }

    pub(crate) fn output(&self) -> Json {
        match &self.finished {
            Some((Phase::Completed, Outcome::Ok(data))) => self.read(data),
            other => panic!("not completed: {other:?}, {:?}, open {:?}", self.head.phase, self.open),
        }
    }

    pub(crate) fn error(&self) -> Json {
        match &self.finished {
            Some((Phase::Faulted, Outcome::Err(fault))) => (*fault.0).clone(),
            other => panic!("not faulted: {other:?}, {:?}", self.head.phase),
        }
    }

    /// Keys of statements by kind and reference, in the order in which they were opened.
    pub(crate) fn keys(&self) -> Vec<String> {
        let facts = self.segments.iter().flat_map(|segment| &segment.facts);
        facts
            .filter_map(|fact| match fact {
                Fact::Opened { key, .. } => Some(key.to_string()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn endings(&self) -> Vec<(Seq, Ending)> {
        let facts = self.segments.iter().flat_map(|segment| &segment.facts);
        facts
            .filter_map(|fact| match fact {
                Fact::Done { entry, how } => Some((*entry, *how)),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn event(&mut self, kind: &str, id: &str, data: Json) -> usize {
        let event = json!({"specversion": "1.0", "type": kind, "source": "/test", "id": id, "data": data});
        let event = self.data(event);
        self.send(Event::Arrived { event })
    }
}

/// A segment as it comes back from a store: values that are blobs are not at hand.
fn stored(segment: &Segment) -> Segment {
    let mut segment = segment.clone();
    for value in &mut segment.values {
        if let Data::Ref { value, .. } = value {
            *value = None;
        }
    }
    segment
}

pub(crate) fn error(status: u16) -> Fault {
    Fault(Arc::new(json!({
        "type": "https://open-workflow-specification.org/dsl/errors/types/communication", "status": status,
    })))
}

pub(crate) fn run(statements: &[S], input: Json) -> World {
    World::started(Flowchart::of(statements), input)
}
