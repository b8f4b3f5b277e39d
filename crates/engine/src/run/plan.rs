//! The plan: a workflow as the engine walks it. `lang` compiles it from a document; it is immutable and addressed by the
//! hash of the resolved document.
//!
//! Statements, lists, expressions and schemas are numbered. Numbers belong to one compiled plan and are never stored: a run
//! remembers the reference of a statement (a JSON pointer into the document, [`Node::reference`]), so that a newer compiler
//! takes an older run on.

use super::undo::UndoRetry;
use crate::id::Name;

/// A statement: index into [`Plan::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// A list of statements: index into [`Plan::lists`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListId(pub u32);

/// A compiled expression, literal or template (a value with expressions inside): known to [`super::eval::Definition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExprId(pub u32);

/// A compiled JSON Schema: known to [`super::eval::Definition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SchemaId(pub u32);

/// Which edition of the standard a document follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Version 1.0.3.
    #[default]
    V1_0_3,
    /// What is to follow it.
    Next,
}

/// A workflow.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// SHA-256 of the resolved document.
    pub hash: [u8; 32],
    /// Namespace.
    pub namespace: Name,
    /// Name.
    pub name: Name,
    /// Semantic version.
    pub version: Name,
    /// Edition.
    pub profile: Profile,
    /// Of the run's input.
    pub input: Intake,
    /// Of the run's output; `export` is not used.
    pub output: Yield,
    /// The run's time limit.
    pub timeout: Option<Duration>,
    /// What it does.
    pub root: ListId,
    /// All statements.
    pub nodes: Vec<Node>,
    /// All lists, each with its statements in order.
    pub lists: Vec<Vec<NodeId>>,
    /// Search attributes: name and the expression over the run's context and input that gives the value.
    pub attributes: Vec<(Name, ExprId)>,
    /// The document as `$workflow.definition` shows it: a literal.
    pub definition: ExprId,
    /// Hints of the document.
    pub hints: Hints,
    /// What becomes of its runs when another version is deployed.
    pub version_policy: VersionPolicy,
}

/// What becomes of runs of a version when another one is deployed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VersionPolicy {
    /// They stay.
    #[default]
    Pin,
    /// They move if they fit: a program's history is replayed first.
    Compatible,
    /// They move; whether a program fits shows when it is replayed next.
    Latest,
}

impl VersionPolicy {
    /// All, with their names.
    pub const ALL: [(&'static str, VersionPolicy); 3] =
        [("pin", VersionPolicy::Pin), ("compatible", VersionPolicy::Compatible), ("latest", VersionPolicy::Latest)];

    /// The one of a name.
    pub fn named(name: &str) -> Option<VersionPolicy> {
        VersionPolicy::ALL.iter().find(|(own, _)| *own == name).map(|(_, policy)| *policy)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        VersionPolicy::ALL.iter().find(|(_, policy)| *policy == self).map_or("pin", |(name, _)| name)
    }
}

impl Plan {
    /// A statement.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// A list.
    pub fn list(&self, id: ListId) -> &[NodeId] {
        &self.lists[id.0 as usize]
    }

    /// The statement with a reference.
    pub fn find(&self, reference: &str) -> Option<NodeId> {
        let reference = super::code::statement_of(reference);
        self.nodes.iter().position(|node| &*node.reference == reference).map(|at| NodeId(at as u32))
    }
}

/// What happens to data on the way in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Intake {
    /// The raw input has to fit.
    pub schema: Option<SchemaId>,
    /// Transforms it; the dot is the raw input.
    pub from: Option<ExprId>,
}

/// What happens to data on the way out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Yield {
    /// Transforms the raw output; it is the dot.
    pub output_as: Option<ExprId>,
    /// The transformed output has to fit.
    pub output_schema: Option<SchemaId>,
    /// Gives the new context; the dot is the transformed output.
    pub export_as: Option<ExprId>,
    /// The new context has to fit.
    pub export_schema: Option<SchemaId>,
}

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duration {
    /// Milliseconds.
    Fixed(u64),
    /// An expression that gives an ISO 8601 duration, or an object of days, hours, minutes, seconds, milliseconds; what it
    /// gave is read by [`super::eval::Definition::duration`].
    Computed(ExprId),
    /// As [`Duration::Computed`], in milliseconds; `null` = none at all.
    Given(ExprId),
}

/// Where a run goes after a statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// On to the next one of the list.
    #[default]
    Continue,
    /// Out of the list.
    Exit,
    /// To the end of the run.
    End,
    /// To the statement at this position of the same list.
    To(u32),
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name in its list.
    pub name: Name,
    /// JSON pointer to it, as the standard writes the `instance` of an error: `/do/0/step`, `/do/0/try1/try/0/get`.
    pub reference: Name,
    /// Runs only if it gives true; the dot is the raw input. Skipped, it passes the raw input on.
    pub condition: Option<ExprId>,
    /// Way in.
    pub input: Intake,
    /// Way out.
    pub output: Yield,
    /// Its time limit; past it, it is interrupted with a `timeout` error.
    pub timeout: Option<Duration>,
    /// What follows.
    pub then: Flow,
    /// Extensions that wrap it, the outermost first.
    pub extensions: Vec<Extension>,
    /// Hints.
    pub hints: Hints,
    /// The definition as `$task.definition` shows it: a literal.
    pub definition: ExprId,
    /// What it does.
    pub kind: Kind,
}

/// Statements around a statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Extension {
    /// Applies only if it gives true.
    pub when: Option<ExprId>,
    /// Before it; `exit` in here skips the wrapped statement.
    pub before: Option<ListId>,
    /// After it.
    pub after: Option<ListId>,
}

/// Hints of `metadata.tidewheel`: what a foreign engine may ignore.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hints {
    /// Queue of the tasks.
    pub queue: Option<Name>,
    /// 0 to 9.
    pub priority: Option<u8>,
    /// Labels a worker has to have.
    pub requires: Vec<(Name, Name)>,
    /// Prefers the same worker for the same value.
    pub affinity_key: Option<ExprId>,
    /// Tasks with the same value share a limit.
    pub concurrency_key: Option<ExprId>,
    /// Key under which an effect counts once.
    pub idempotency_key: Option<ExprId>,
    /// Expected time from opened to done.
    pub sla_ms: u64,
    /// Of a `listen`: it takes only events that come while it waits (`buffer: false`).
    pub live_only: bool,
}

/// What a statement does.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A list, one after another; the output of each is the raw input of the next.
    Do(ListId),
    /// Gives a value.
    Set(ExprId),
    /// Chooses what follows; the output is the input.
    Switch(Vec<Case>),
    /// A list per item.
    For {
        /// Variable of the item.
        each: Name,
        /// Gives the items.
        items: ExprId,
        /// Variable of the index.
        at: Name,
        /// Looked at before each iteration; ends the loop when it is not true.
        condition: Option<ExprId>,
        /// The body.
        body: ListId,
    },
    /// Branches side by side.
    Fork {
        /// Each a statement.
        branches: Vec<NodeId>,
        /// The first success wins, the others are cancelled.
        compete: bool,
    },
    /// A list whose errors may be caught.
    Try {
        /// The body.
        body: ListId,
        /// What is done with its errors.
        catch: Catch,
    },
    /// Raises an error.
    Raise {
        /// Gives an object with `type`, `status`, `title`, `detail`, `instance`.
        error: ExprId,
    },
    /// Waits; the output is the input.
    Wait(Duration),
    /// Work done elsewhere: a task.
    Call {
        /// By whom.
        target: Target,
        /// Gives its arguments.
        with: ExprId,
        /// The arguments are given as they are at the executor: they reach `$secrets` or `$authorization`, which only
        /// it may see. `with` gives the template and the variables that it needs.
        sealed: bool,
        /// Whether the run waits for it; if not, the output is the input.
        awaited: bool,
    },
    /// A function of the document: its arguments are the raw input of its body.
    Function {
        /// Gives the arguments.
        with: ExprId,
        /// They have to fit.
        schema: Option<SchemaId>,
        /// What it does.
        body: NodeId,
    },
    /// Another run.
    Child {
        /// Namespace, name and version (`latest` or a version): literals or expressions.
        namespace: ExprId,
        /// See `namespace`.
        name: ExprId,
        /// See `namespace`.
        version: ExprId,
        /// Gives its input.
        input: ExprId,
        /// Whether the run waits for it; if not, the output is the input.
        awaited: bool,
        /// What becomes of it when this run ends first.
        parent_close: ParentClose,
    },
    /// Many items by the same function or workflow, so many at a time.
    Map {
        /// Gives the items: an array.
        items: ExprId,
        /// By whom. Where a program asks for a map, it says by whom and how.
        target: Target,
        /// Gives the arguments of each; the variables `item` and `index` are set. `None` = the item itself.
        with: Option<ExprId>,
        /// Items at work at a time.
        concurrency: u32,
        /// Items per task; 1 = each its own.
        batch: u32,
        /// Whether errors become results (`{"error": ...}` beside `{"ok": ...}`) instead of ending the map.
        collect: bool,
    },
    /// Tasks one after another, of which those that finished are undone where it does not come to its end.
    Saga {
        /// In order; their names differ.
        steps: Vec<SagaStep>,
        /// How each undo is tried again.
        retry: UndoRetry,
    },
    /// Sends an event.
    Emit {
        /// Gives the attributes and data of a CloudEvent.
        event: ExprId,
    },
    /// Waits for events.
    Listen(Listen),
    /// A program: durable Python.
    Code(Box<Program>),
    /// An activation of the program that it is a branch of.
    Activation,
    /// A task that the program asked for that it is a branch of.
    Asked,
}

/// A program that is replayed.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Its package.
    pub package: Name,
    /// Version of the package.
    pub version: Name,
    /// `module:function`.
    pub function: Name,
    /// Tasks that the package itself brings: they are those of this version.
    pub tasks: Vec<Name>,
    /// Queue of the activations.
    pub queue: Option<Name>,
    /// Priority of the activations, 0 to 9.
    pub priority: Option<u8>,
}

/// A step of a saga.
#[derive(Clone, Debug, PartialEq)]
pub struct SagaStep {
    /// Its name.
    pub name: Name,
    /// The reference of the saga, a slash and its name.
    pub reference: Name,
    /// By whom.
    pub target: Target,
    /// Gives its arguments; the variable `steps` has the outputs of the steps before it, by name.
    pub with: ExprId,
    /// By whom it is undone, and what gives the arguments of that: looked at when it has finished, with its output as the
    /// dot. `None` = nothing is to be undone.
    pub undo: Option<(Target, ExprId)>,
}

/// A case of a switch.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its name.
    pub name: Name,
    /// `None` = always.
    pub when: Option<ExprId>,
    /// What follows.
    pub then: Flow,
}

/// What happens to errors of a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Catch {
    /// Only errors like this: an object whose `type`, `status`, `instance`, `title` and `detail` are compared, those that it
    /// has; `None` = every one.
    pub filter: Option<ExprId>,
    /// Variable of the error.
    pub name: Name,
    /// Only if it gives true.
    pub when: Option<ExprId>,
    /// Not if it gives true.
    pub except_when: Option<ExprId>,
    /// Tried again so.
    pub retry: Option<Retry>,
    /// Done once, when it is not tried again.
    pub body: Option<ListId>,
    /// What follows then.
    pub then: Option<Flow>,
}

/// How often and when a body is tried again. Numbers of ruling 11: exponential x2, linear + delay, at most an hour.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Only if it gives true.
    pub when: Option<ExprId>,
    /// Not if it gives true.
    pub except_when: Option<ExprId>,
    /// Before the first retry.
    pub delay: Duration,
    /// How the delay grows.
    pub backoff: Backoff,
    /// Retries (not attempts); `None` = no bound but the others'.
    pub count: Option<u32>,
    /// Bounds each attempt.
    pub attempt_limit: Option<Duration>,
    /// Bounds all of them together.
    pub limit: Option<Duration>,
    /// Added to each delay, after its cap: from, to.
    pub jitter: Option<(Duration, Duration)>,
}

/// How a delay grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backoff {
    /// Not at all.
    #[default]
    Constant,
    /// Doubles.
    Exponential,
    /// By the first delay each time.
    Linear,
}

/// What becomes of a child run whose parent ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ParentClose {
    /// It is cancelled.
    #[default]
    Cancel = 0,
    /// It goes on.
    Abandon = 1,
    /// The parent ends only when it has ended.
    Wait = 2,
}

/// Who does the work of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A Python function on an agent: `with` gives `package`, `entrypoint`, `args`, `queue` and so on.
    Python,
    /// A script, command or container on an agent.
    Process(Process),
    /// A task of this type, for any worker that serves it: `with` gives its input.
    Task(Name),
    /// A workflow, as the items of a map: namespace, name, version.
    Workflow(Name, Name, Name),
    /// An outbound call.
    Outbound(Protocol),
    /// Another function of the default catalog, by name and version.
    Catalog(Name, Name),
}

/// Code that a document brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// `run.script` in Python.
    Python,
    /// `run.script` in JavaScript.
    JavaScript,
    /// `run.shell`.
    Shell,
    /// `run.container`.
    Container,
}

/// Protocols of outbound calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP.
    Http,
    /// gRPC.
    Grpc,
    /// OpenAPI.
    OpenApi,
    /// AsyncAPI.
    AsyncApi,
    /// Agent to agent.
    A2a,
    /// Model context protocol.
    Mcp,
}

/// What a listen waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// Which events end it.
    pub strategy: Strategy,
    /// What is read of each.
    pub read: Read,
    /// Done for each event, first in, first out.
    pub foreach: Option<Foreach>,
}

/// Which events end a listen.
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// One that fits.
    One(Filter),
    /// The first that fits one of these (none = every event), or all up to one that ends it.
    Any(Vec<Filter>, Option<Until>),
    /// One for each.
    All(Vec<Filter>),
}

/// What ends a listen for any event.
#[derive(Clone, Debug, PartialEq)]
pub enum Until {
    /// It gives true; the dot is the array of what was read so far.
    Condition(ExprId),
    /// These came.
    Events(Box<Strategy>),
}

/// Which events fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// Attribute and what it has to be. The dot is the value of the attribute (`null` if the event has none). Where this gives
    /// true the attribute fits, where it gives false it does not; any other value has to be equal to the attribute. So a
    /// literal stands for itself, and a regular expression compiles to one that tests the dot.
    pub with: Vec<(Name, ExprId)>,
    /// Name, what is taken of the event (the dot is the whole event), and what is expected (the dot is the input of the
    /// listen); without expectation the first value becomes it.
    pub correlate: Vec<(Name, ExprId, Option<ExprId>)>,
}

/// What is read of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Read {
    /// Its data.
    #[default]
    Data,
    /// The event.
    Envelope,
    /// Its data as they came.
    Raw,
}

/// Done for each event.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreach {
    /// Variable of the event.
    pub item: Name,
    /// Variable of its index.
    pub at: Name,
    /// The body.
    pub body: Option<ListId>,
    /// Way out.
    pub output: Yield,
}
