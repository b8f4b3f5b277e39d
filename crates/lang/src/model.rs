//! The language as types: what a document says once it is known to be well formed.
//!
//! Values that may hold expressions stay in the tree (an [`At`]); the compiler reads them there. Everything else is typed.

use tidewheel_engine::id::Name;
use tidewheel_engine::run::plan::{Backoff, Process, Profile, Protocol, Read};

use crate::text::At;

/// A text, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Where.
    pub at: At,
    /// What.
    pub text: Name,
}

/// A workflow.
#[derive(Clone, Debug)]
pub struct Document {
    /// The root.
    pub at: At,
    /// Version of the language that it was written for.
    pub dsl: Text,
    /// Edition that follows from it, or was asked for.
    pub profile: Profile,
    /// Namespace.
    pub namespace: Text,
    /// Name.
    pub name: Text,
    /// Semantic version.
    pub version: Text,
    /// Title for people.
    pub title: Option<Text>,
    /// Summary in Markdown.
    pub summary: Option<Text>,
    /// Tags: a map.
    pub tags: Option<At>,
    /// Metadata: a map.
    pub metadata: Option<At>,
    /// Of the run's input.
    pub input: Input,
    /// Of the run's output.
    pub output: Output,
    /// Reusable parts.
    pub uses: Use,
    /// What it does.
    pub body: Vec<Statement>,
    /// The run's time limit.
    pub timeout: Option<Timeout>,
    /// When it starts by itself.
    pub schedule: Option<Schedule>,
    /// Language of expressions, if given.
    pub language: Option<Text>,
    /// Whether value fields are expressions without `${ }` too.
    pub loose: bool,
}

/// Reusable parts of a document, each by name.
#[derive(Clone, Debug, Default)]
pub struct Use {
    /// Authentication policies.
    pub authentications: Vec<(Text, Authentication)>,
    /// Catalogs.
    pub catalogs: Vec<(Text, Endpoint)>,
    /// Errors.
    pub errors: Vec<(Text, Error)>,
    /// Extensions.
    pub extensions: Vec<Extension>,
    /// Functions: statements.
    pub functions: Vec<Statement>,
    /// Retry policies.
    pub retries: Vec<(Text, Retry)>,
    /// Names of secrets.
    pub secrets: Vec<Text>,
    /// Time limits.
    pub timeouts: Vec<(Text, Duration)>,
}

/// A statement.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its map.
    pub at: At,
    /// Its name: the key of the map.
    pub name: Name,
    /// Runs only if it gives true.
    pub condition: Option<Text>,
    /// Way in.
    pub input: Input,
    /// Way out.
    pub output: Output,
    /// To the context.
    pub export: Output,
    /// Its time limit.
    pub timeout: Option<Timeout>,
    /// What follows.
    pub then: Option<Text>,
    /// Metadata: a map.
    pub metadata: Option<At>,
    /// What it does.
    pub kind: Kind,
}

/// What a statement does.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `call` of a protocol or function.
    Call(Call),
    /// `do`.
    Do(Vec<Statement>),
    /// `fork`.
    Fork {
        /// Side by side.
        branches: Vec<Statement>,
        /// The first success wins.
        compete: bool,
    },
    /// `emit`.
    Emit {
        /// Attributes and data of the event; `None` = the document gives none.
        with: Option<At>,
    },
    /// `for`.
    For {
        /// Variable of the item.
        each: Option<Text>,
        /// The items: an expression or a list.
        items: At,
        /// Variable of the index.
        at: Option<Text>,
        /// `while`.
        condition: Option<Text>,
        /// The body.
        body: Vec<Statement>,
    },
    /// `listen`.
    Listen {
        /// To what.
        to: Strategy,
        /// What is read of each event.
        read: Read,
        /// What is done for each.
        foreach: Option<Iterator>,
    },
    /// `raise`.
    Raise(RaiseError),
    /// `run`.
    Run {
        /// What.
        run: Run,
        /// Whether it is waited for.
        awaited: bool,
        /// What of a process is the output: `stdout` if it is not given.
        result: Option<Text>,
    },
    /// `set`: a map or an expression.
    Set(At),
    /// `switch`.
    Switch(Vec<Case>),
    /// `try`.
    Try {
        /// The body.
        body: Vec<Statement>,
        /// What is done with its errors.
        catch: Catch,
    },
    /// `wait`.
    Wait(Duration),
}

/// `input`.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// What it has to fit.
    pub schema: Option<Schema>,
    /// Transforms it.
    pub from: Option<At>,
}

/// `output` or `export`.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// What it has to fit.
    pub schema: Option<Schema>,
    /// Transforms it.
    pub transform: Option<At>,
}

/// A JSON Schema.
#[derive(Clone, Debug)]
pub struct Schema {
    /// Where.
    pub at: At,
    /// `json` unless said.
    pub format: Option<Text>,
    /// Where it comes from.
    pub source: SchemaSource,
}

/// Where a schema comes from.
#[derive(Clone, Debug)]
pub enum SchemaSource {
    /// The document.
    Inline(At),
    /// Elsewhere.
    Resource(Resource),
}

/// Something elsewhere.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Where it is named.
    pub at: At,
    /// Where it is.
    pub endpoint: Endpoint,
}

/// An address.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is named: a text, or the map with `uri`.
    pub at: At,
    /// A URI, a template of one, or an expression.
    pub uri: Text,
    /// How to prove who calls.
    pub authentication: Option<AuthenticationRef>,
}

/// A policy, or the name of one.
#[derive(Clone, Debug)]
pub enum AuthenticationRef {
    /// In `use.authentications`.
    Named(Text),
    /// Here.
    Inline(Authentication),
}

/// An authentication policy.
#[derive(Clone, Debug)]
pub struct Authentication {
    /// Its map.
    pub at: At,
    /// `basic`, `bearer`, `digest`, `oauth2` or `oidc`.
    pub scheme: &'static str,
    /// Its properties.
    pub properties: At,
    /// The secret that holds the properties.
    pub secret: Option<Text>,
}

/// A time limit, or the name of one.
#[derive(Clone, Debug)]
pub enum Timeout {
    /// In `use.timeouts`.
    Named(Text),
    /// Here.
    Inline(Duration),
}

/// A length of time.
#[derive(Clone, Debug)]
pub enum Duration {
    /// Parts in whole numbers: where, and the milliseconds they make.
    Parts(At, i64),
    /// ISO 8601, or an expression.
    Text(Text),
}

/// An error.
#[derive(Clone, Debug)]
pub struct Error {
    /// Its map.
    pub at: At,
}

/// What a `raise` raises.
#[derive(Clone, Debug)]
pub enum RaiseError {
    /// In `use.errors`.
    Named(Text),
    /// Here.
    Inline(Error),
}

/// A case of a `switch`.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its map.
    pub at: At,
    /// Its name.
    pub name: Name,
    /// `None` = always.
    pub when: Option<Text>,
    /// What follows.
    pub then: Text,
}

/// `catch`.
#[derive(Clone, Debug)]
pub struct Catch {
    /// Its map.
    pub at: At,
    /// `errors.with`: a map.
    pub filter: Option<At>,
    /// Variable of the error.
    pub name: Option<Text>,
    /// Only if it gives true.
    pub when: Option<Text>,
    /// Not if it gives true.
    pub except_when: Option<Text>,
    /// Tried again so.
    pub retry: Option<RetryRef>,
    /// Done when it is not tried again.
    pub body: Option<Vec<Statement>>,
    /// What follows then.
    pub then: Option<Text>,
}

/// A retry policy, or the name of one.
#[derive(Clone, Debug)]
pub enum RetryRef {
    /// In `use.retries`.
    Named(Text),
    /// Here.
    Inline(Box<Retry>),
}

/// A retry policy.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Its map.
    pub at: At,
    /// Only if it gives true.
    pub when: Option<Text>,
    /// Not if it gives true.
    pub except_when: Option<Text>,
    /// Before the first retry.
    pub delay: Option<Duration>,
    /// How the delay grows.
    pub backoff: Backoff,
    /// Retries.
    pub count: Option<(At, i64)>,
    /// Bounds each attempt.
    pub attempt_limit: Option<Duration>,
    /// Bounds all of them.
    pub limit: Option<Duration>,
    /// From, to.
    pub jitter: Option<(Duration, Duration)>,
}

/// `call`.
// Nearly every call is one of a protocol: a box would cost what the smaller variant saves.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Call {
    /// Of a protocol, with its arguments.
    Protocol {
        /// Which.
        protocol: Protocol,
        /// `with`.
        with: At,
        /// The address and authentication in it, where it has them as a field of their own.
        endpoint: Option<Endpoint>,
        /// Authentication beside the address.
        authentication: Option<AuthenticationRef>,
        /// Document that describes the peer (OpenAPI, AsyncAPI, protobuf, agent card).
        resource: Option<Resource>,
        /// `subscription.foreach`.
        foreach: Option<Iterator>,
    },
    /// Of a function.
    Function {
        /// Its name.
        name: Text,
        /// Its arguments.
        with: Option<At>,
    },
}

/// `run`.
#[derive(Clone, Debug)]
pub enum Run {
    /// Code that the document brings.
    Process {
        /// Which kind; scripts by their language.
        process: Process,
        /// Its properties.
        with: At,
        /// Where the code of a script is, if it is not in the document.
        source: Option<Resource>,
    },
    /// A script in a language that the standard does not name.
    OtherScript(Text),
    /// Another workflow.
    Workflow {
        /// Namespace.
        namespace: Text,
        /// Name.
        name: Text,
        /// Version or `latest`.
        version: Text,
        /// Its input: a map.
        input: Option<At>,
    },
}

/// Which events.
#[derive(Clone, Debug)]
pub enum Strategy {
    /// One.
    One(Filter),
    /// Any of them, and what ends it.
    Any(Vec<Filter>, Option<Until>),
    /// One for each.
    All(Vec<Filter>),
}

/// What ends a strategy for any event.
#[derive(Clone, Debug)]
pub enum Until {
    /// It gives true.
    Condition(Text),
    /// These came.
    Events(Box<Strategy>),
}

/// Which events fit.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Its map.
    pub at: At,
    /// Attributes.
    pub with: At,
    /// Name, what is taken, what is expected.
    pub correlate: Vec<(Text, Text, Option<Text>)>,
}

/// What is done for each event or message.
#[derive(Clone, Debug)]
pub struct Iterator {
    /// Its map.
    pub at: At,
    /// Variable of the event.
    pub item: Option<Text>,
    /// Variable of its index.
    pub index: Option<Text>,
    /// The body.
    pub body: Option<Vec<Statement>>,
    /// Way out.
    pub output: Output,
    /// To the context.
    pub export: Output,
}

/// When a workflow starts by itself.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Its map.
    pub at: At,
    /// Every so often.
    pub every: Option<Duration>,
    /// By a cron expression.
    pub cron: Option<Text>,
    /// So long after it completed.
    pub after: Option<Duration>,
    /// When events come.
    pub on: Option<Strategy>,
    /// What is read of them.
    pub read: Option<Read>,
}

/// Statements around other statements.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Its map.
    pub at: At,
    /// Its name.
    pub name: Name,
    /// Around which kind.
    pub extend: Text,
    /// Applies only if it gives true.
    pub when: Option<Text>,
    /// Before.
    pub before: Option<Vec<Statement>>,
    /// After.
    pub after: Option<Vec<Statement>>,
}

impl Kind {
    /// The keyword of the statement.
    pub fn keyword(&self) -> &'static str {
        match self {
            Kind::Call(_) => "call",
            Kind::Do(_) => "do",
            Kind::Fork { .. } => "fork",
            Kind::Emit { .. } => "emit",
            Kind::For { .. } => "for",
            Kind::Listen { .. } => "listen",
            Kind::Raise(_) => "raise",
            Kind::Run { .. } => "run",
            Kind::Set(_) => "set",
            Kind::Switch(_) => "switch",
            Kind::Try { .. } => "try",
            Kind::Wait(_) => "wait",
        }
    }
}

impl Statement {
    /// The lists inside it, in the order of the text.
    pub fn lists(&self) -> Vec<&[Statement]> {
        match &self.kind {
            Kind::Do(body) | Kind::For { body, .. } => vec![body],
            Kind::Fork { branches, .. } => vec![branches],
            Kind::Try { body, catch } => std::iter::once(&body[..]).chain(catch.body.as_deref()).collect(),
            Kind::Listen { foreach: Some(each), .. } => each.body.as_deref().into_iter().collect(),
            Kind::Call(Call::Protocol { foreach: Some(each), .. }) => each.body.as_deref().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// Visits it and all statements inside it.
    pub fn visit<'m>(&'m self, each: &mut dyn FnMut(&'m Statement)) {
        each(self);
        for list in self.lists() {
            for statement in list {
                statement.visit(each);
            }
        }
    }
}

impl Document {
    /// Visits all statements: those of the body, of functions and of extensions.
    pub fn visit<'m>(&'m self, each: &mut dyn FnMut(&'m Statement)) {
        let extensions = self.uses.extensions.iter();
        let wrapped = extensions.flat_map(|one| one.before.iter().chain(&one.after).flatten());
        for statement in self.body.iter().chain(&self.uses.functions).chain(wrapped) {
            statement.visit(each);
        }
    }
}
