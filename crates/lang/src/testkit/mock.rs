//! Workers and services of a test: mocks, and a record of who was asked what.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use tidewheel_engine::id::Name;
use tidewheel_engine::limit::{EVAL_BYTES, EVAL_STEPS};
use tidewheel_engine::run::eval::{EvalError, Fuel, Scope, Var};
use tidewheel_engine::run::plan::{ExprId, Process, Protocol, Target};

use super::compare::holds;
use super::world::{Answer, Ask, Peer, Whom};
use crate::expr::{Builder, Programs};

/// Calls of one test.
const CALLS: usize = 100_000;
/// Work of the expressions of all mocks of a test together.
pub(super) const MOCK_WORK: u64 = 2 * tidewheel_engine::limit::RUN_WORK;

/// What a mock or an expectation picks out.
#[derive(Clone, Debug)]
pub(super) struct Pick {
    /// References of the statement; `None` = any.
    pub(super) references: Option<BTreeSet<Name>>,
    /// Kind of call; `None` = any.
    pub(super) call: Option<String>,
    /// What the arguments hold.
    pub(super) with: Option<Json>,
}

impl Pick {
    pub(super) fn fits(&self, reference: &Name, call: &str, args: &Json) -> bool {
        self.references.as_ref().is_none_or(|references| references.contains(reference))
            && self.call.as_ref().is_none_or(|wanted| wanted == call || wanted == "any")
            && self.with.as_ref().is_none_or(|wanted| holds(wanted, args))
    }
}

/// A mock with its expressions compiled.
#[derive(Clone, Debug)]
pub(super) struct Mock {
    pub(super) pick: Pick,
    pub(super) line: u32,
    pub(super) times: Option<u64>,
    pub(super) delay: u64,
    pub(super) reply: Reply,
}

/// What it says.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Result(ExprId),
    Error(Json),
    Never,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) reference: Name,
    pub(super) call: String,
    pub(super) args: Json,
}

/// The mocks of a test at work.
pub(super) struct Mocks<'t> {
    pub(super) mocks: &'t [Mock],
    pub(super) programs: &'t Programs,
    pub(super) secrets: &'t Json,
    /// How often each answered.
    pub(super) used: Vec<u64>,
    pub(super) calls: Vec<Call>,
    /// Work that their expressions may still use.
    pub(super) work: u64,
}

impl Peer for Mocks<'_> {
    fn answer(&mut self, ask: &Ask<'_>) -> Answer {
        let call = kind_of(ask.whom);
        if self.calls.len() >= CALLS {
            return Answer::Nobody(format!("the test makes more than {CALLS} calls: does a loop never end?"));
        }
        let args = match ask.sealed {
            true => match opened(ask.args, self.secrets) {
                Ok(args) => Cow::Owned(args),
                Err(why) => return Answer::Nobody(format!("the arguments of `{}`: {why}", ask.reference)),
            },
            false => Cow::Borrowed(ask.args),
        };
        let fits = |(mock, used): &(&Mock, &mut u64)| {
            mock.times.is_none_or(|times| **used < times) && mock.pick.fits(ask.reference, call, &args)
        };
        let found = self.mocks.iter().zip(&mut self.used).find(fits);
        let answer = match found {
            Some((mock, used)) => {
                *used += 1;
                reply(mock, self.programs, &args, ask, &mut self.work)
            }
            None if matches!(ask.whom, Whom::Workflow(..)) => Answer::Run,
            None => Answer::Nobody(nobody(self.mocks, &self.used, ask, call, &args)),
        };
        self.calls.push(Call { reference: ask.reference.clone(), call: call.to_string(), args: args.into_owned() });
        answer
    }
}

fn reply(mock: &Mock, programs: &Programs, args: &Json, ask: &Ask<'_>, work: &mut u64) -> Answer {
    match &mock.reply {
        Reply::Never => Answer::Never,
        Reply::Error(error) => {
            let mut error = error.clone();
            let outbound = matches!(ask.whom, Whom::Task(Target::Outbound(_)));
            let given = error.get("type").and_then(Json::as_str).map(str::to_owned);
            let name = given.unwrap_or_else(|| if outbound { "communication" } else { "runtime" }.to_owned());
            error["type"] = error_type(&name).into();
            Answer::Ends(Err(error), mock.delay)
        }
        Reply::Result(result) => {
            let allowed = EVAL_STEPS.min(*work);
            let mut fuel = Fuel { steps: allowed, bytes: EVAL_BYTES };
            let value = programs.eval(*result, &Dot { dot: args, variables: &Json::Null }, &mut fuel);
            *work -= allowed - fuel.steps.min(allowed);
            match value {
                Ok(value) => Answer::Ends(Ok(value), mock.delay),
                Err(error) => Answer::Nobody(format!("the result of the mock in line {}: {}", mock.line, said(error))),
            }
        }
    }
}

/// What to say when no mock answers.
fn nobody(mocks: &[Mock], used: &[u64], ask: &Ask<'_>, call: &str, args: &Json) -> String {
    let mut text = format!("no mock answers `{}` (`call: {call}`) with {}", ask.reference, short(args));
    let here = |pick: &Pick| Pick { with: None, ..pick.clone() }.fits(ask.reference, call, args);
    let near: Vec<(&Mock, u64)> = mocks.iter().zip(used.iter().copied()).filter(|(mock, _)| here(&mock.pick)).collect();
    for (mock, used) in near.iter().take(5) {
        let why = match mock.times {
            Some(times) if *used >= times => format!("has answered {times} times"),
            _ => format!("wants {}", short(mock.pick.with.as_ref().unwrap_or(&Json::Null))),
        };
        text += &format!("; the mock in line {} {why}", mock.line);
    }
    if near.is_empty() {
        let name = ask.reference.rsplit('/').next().unwrap_or_default();
        text += &format!("; add `- {{ statement: {name}, result: .. }}` to `mocks`");
    }
    text
}

/// A value in at most so many characters.
pub(super) fn short(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The kind of a call, as mocks name it.
pub(super) fn kind_of(whom: Whom<'_>) -> &str {
    match whom {
        Whom::Workflow(..) | Whom::Task(Target::Workflow(..)) => "workflow",
        Whom::Task(target) => match target {
            Target::Python => "python",
            Target::Task(_) => "task",
            Target::Process(Process::Python | Process::JavaScript) => "script",
            Target::Process(Process::Shell) => "shell",
            Target::Process(Process::Container) => "container",
            Target::Outbound(Protocol::Http) => "http",
            Target::Outbound(Protocol::Grpc) => "grpc",
            Target::Outbound(Protocol::OpenApi) => "openapi",
            Target::Outbound(Protocol::AsyncApi) => "asyncapi",
            Target::Outbound(Protocol::A2a) => "a2a",
            Target::Outbound(Protocol::Mcp) => "mcp",
            Target::Catalog(name, _) => name,
            Target::Workflow(..) => "workflow",
        },
    }
}

/// A type of the standard by its last word, or any other as it is.
pub(super) fn error_type(name: &str) -> Cow<'_, str> {
    const STANDARD: [&str; 8] = [
        "configuration",
        "validation",
        "expression",
        "authentication",
        "authorization",
        "timeout",
        "communication",
        "runtime",
    ];
    if STANDARD.contains(&name) {
        return Cow::Owned(format!("https://serverlessworkflow.io/spec/1.0.0/errors/{name}"));
    }
    Cow::Borrowed(name)
}

fn said(error: EvalError) -> String {
    match error {
        EvalError::Fuel => "it takes too much work".to_string(),
        EvalError::Failed(why) => why,
    }
}

/// What an expression of a mock, or a sealed argument, sees.
struct Dot<'d> {
    dot: &'d Json,
    variables: &'d Json,
}

impl Scope for Dot<'_> {
    fn dot(&self) -> Cow<'_, Json> {
        Cow::Borrowed(self.dot)
    }

    fn var(&self, var: &Var) -> Cow<'_, Json> {
        let name = match var {
            Var::Context => "context",
            Var::Input => "input",
            Var::Output => "output",
            Var::Task => "task",
            Var::Workflow => "workflow",
            Var::Runtime => "runtime",
            Var::Local(name) => name,
        };
        self.variables.get(name).map_or(Cow::Owned(Json::Null), Cow::Borrowed)
    }

    fn now(&self) -> u64 {
        super::world::START_MS
    }
}

/// Sealed arguments as their executor would see them, with the secrets of the test.
fn opened(sealed: &Json, secrets: &Json) -> Result<Json, String> {
    let mut variables = sealed["variables"].clone();
    let locals: Vec<Name> =
        variables.as_object().into_iter().flatten().map(|(name, _)| Name::from(name.as_str())).collect();
    if !variables.is_object() {
        variables = json!({});
    }
    variables["secrets"] = secrets.clone();
    let mut opened = serde_json::Map::new();
    for (name, value) in sealed["template"].as_object().into_iter().flatten() {
        let mut builder = Builder::new();
        let compiled = match value {
            Json::String(uri) if name == "endpoint" => builder.uri_template(uri, &locals),
            value => builder.template(value, &locals),
        };
        let expr = compiled.map_err(|error| format!("`{name}`: {error}"))?;
        let mut fuel = Fuel { steps: EVAL_STEPS, bytes: EVAL_BYTES };
        let scope = Dot { dot: &sealed["dot"], variables: &variables };
        // What is asked of each message can only be evaluated where messages come.
        let value = match builder.finish().eval(expr, &scope, &mut fuel) {
            Err(_) if name == "subscription" => value.clone(),
            other => other.map_err(|error| format!("`{name}`: {}", said(error)))?,
        };
        opened.insert(name.clone(), value);
    }
    Ok(Json::Object(opened))
}
