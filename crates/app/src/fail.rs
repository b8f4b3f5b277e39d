//! How a verb fails: one line for what, one for why, one for the next command, and an exit code scripts can rely on.

use std::fmt;

use serde_json::{Value, json};
use tidewheel_proto::code::Code;
use tidewheel_proto::rest::Problem;

/// Exit codes. They are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The work failed.
    Failed = 1,
    /// The call was wrong: a flag, a file, a value.
    Usage = 2,
    /// No or not enough rights.
    Denied = 3,
    /// Not found, or in conflict with the current state.
    Missing = 4,
    /// The server cannot be reached, is overloaded, or a wait ran out.
    Unreachable = 5,
    /// The disk did not keep data (`EX_IOERR`): the server ends itself, because its caches cannot be trusted any more.
    Fsync = 74,
    /// Interrupted by Ctrl-C.
    Interrupted = 130,
}

/// What every verb ends with.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// A failure as people and programs see it.
#[derive(Debug)]
pub(crate) struct Failure(Box<Inner>);

#[derive(Debug)]
struct Inner {
    exit: Exit,
    what: String,
    why: String,
    next: String,
    problem: Option<Problem>,
    causes: Vec<String>,
}

impl Failure {
    /// A failure with this exit code; `what` reads like "cannot open the file", `why` like "it does not exist".
    pub(crate) fn new(exit: Exit, what: impl Into<String>, why: impl Into<String>) -> Failure {
        Failure(Box::new(Inner {
            exit,
            what: what.into(),
            why: why.into(),
            next: String::new(),
            problem: None,
            causes: Vec::new(),
        }))
    }

    /// A wrong call.
    pub(crate) fn usage(what: impl Into<String>, why: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, what, why)
    }

    /// Another reason, where the own one has been told already. The problem of the server stays as it is.
    pub(crate) fn why(mut self, why: impl Into<String>) -> Failure {
        self.0.why = why.into();
        self
    }

    /// Names the command to try next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Failure {
        self.0.next = next.into();
        self
    }

    /// Adds the chain of an error below, shown with `--verbose`.
    pub(crate) fn cause(mut self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let mut at = Some(error);
        while let Some(error) = at {
            let text = error.to_string();
            if self.0.causes.last() != Some(&text) {
                self.0.causes.push(text);
            }
            at = error.source();
        }
        self
    }

    /// A problem the server answered with, while doing `what`.
    pub(crate) fn problem(what: impl Into<String>, problem: Problem) -> Failure {
        let mut why = problem.detail.trim().to_owned();
        if why.is_empty() {
            why = problem.title.clone();
        }
        // Places in a document are told with its lines by whoever has the document.
        let told = why.to_lowercase();
        let is_told = |text: &str| told.contains(&text.to_lowercase());
        for field in problem.errors.iter().filter(|field| field.line.is_none()) {
            // The detail of a problem with one field often is that of the field.
            if !(is_told(&field.detail) && is_told(field.pointer.trim_start_matches('/'))) {
                why.push_str(&format!(" [{}: {}]", field.pointer, field.detail));
            }
        }
        let mut failure = Failure::new(exit_of(problem.code), what, why).next(next_of(problem.code));
        failure.0.problem = Some(problem);
        failure
    }

    /// The process's exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.0.exit
    }

    /// The server's code, where the failure came from the server.
    pub(crate) fn code(&self) -> Option<Code> {
        self.0.problem.as_ref().map(|p| p.code)
    }

    /// The fields that the server found wrong.
    pub(crate) fn fields(&self) -> &[tidewheel_proto::rest::FieldError] {
        self.0.problem.as_ref().map_or(&[], |problem| &problem.errors)
    }

    /// The lines for people.
    pub(crate) fn text(&self, verbose: bool) -> String {
        let Inner { what, why, next, causes, .. } = &*self.0;
        let mut out = format!("error: {what}");
        if !why.is_empty() {
            out.push_str(&format!("\n  why: {}", crate::text::one_line(why)));
        }
        if !next.is_empty() {
            out.push_str(&format!("\n  next: {next}"));
        }
        if verbose {
            // The first cause often is the reason itself.
            for cause in causes.iter().filter(|cause| *cause != why) {
                out.push_str(&format!("\n  caused by: {}", crate::text::one_line(cause)));
            }
            if let Some(problem) = &self.0.problem {
                out.push_str(&format!("\n  code: {} (HTTP {})", problem.code, problem.status));
            }
        }
        out
    }

    /// The problem object for programs: the server's own where there is one.
    pub(crate) fn json(&self) -> Value {
        let Inner { exit, what, why, next, problem, causes } = &*self.0;
        if let Some(problem) = problem {
            return serde_json::to_value(problem).unwrap_or(Value::Null);
        }
        let code = match exit {
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::Denied => "unauthenticated",
            Exit::Missing => "not-found",
            Exit::Unreachable => "unreachable",
            Exit::Fsync => "fsync",
            Exit::Interrupted => "interrupted",
        };
        json!({
            "type": format!("/docs/reference/errors#{code}"),
            "title": what,
            "detail": why,
            "code": code,
            "next": next,
            "exit": *exit as u8,
            "causes": causes,
        })
    }
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::Unauthenticated | Code::NotAllowed => Exit::Denied,
        Code::NotFound | Code::UnknownQueue | Code::Conflict | Code::IdempotencyMismatch | Code::PreconditionFailed => {
            Exit::Missing
        }
        Code::RateLimited | Code::Overloaded | Code::Unavailable | Code::OutcomeUnknown | Code::WaitTimeout => {
            Exit::Unreachable
        }
        Code::MalformedBody
        | Code::InvalidField
        | Code::InvalidQuery
        | Code::MethodNotAllowed
        | Code::TooLarge
        | Code::UnsupportedMediaType
        | Code::InvalidPackage
        | Code::InvalidWorkflow => Exit::Usage,
        Code::Internal => Exit::Failed,
    }
}

fn next_of(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated => "tidewheel login",
        Code::NotAllowed => "tidewheel whoami",
        Code::UnknownQueue => "tidewheel queue list",
        Code::RateLimited | Code::Overloaded | Code::Unavailable | Code::Internal => "tidewheel status",
        Code::OutcomeUnknown => "repeat the command with the same --idempotency-key",
        _ => "",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.what, self.0.why)
    }
}

impl std::error::Error for Failure {}

/// Names what was being done when an error of another crate came up.
pub(crate) trait While<T> {
    /// Turns the error into a failure with this exit code.
    fn doing(self, exit: Exit, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: std::error::Error + 'static> While<T> for Result<T, E> {
    fn doing(self, exit: Exit, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure::new(exit, what(), error.to_string()).cause(&error))
    }
}
