//! Every error leaves as `application/problem+json` (RFC 9457) with a code of the closed list in `proto`.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tidewheel_engine::effect::Refusal;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest::{FieldError, Problem};
use tidewheel_runtime::Error as RuntimeError;

use crate::text::nearest;

/// Nothing is left, and when to ask again: the draft standard's header, on what was refused for a bound, and on what a
/// throttled queue let in.
pub(crate) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// How many are taken in a second now, on what was refused for a rate.
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// An error on its way out. Boxed: the good path should not carry its size.
#[derive(Debug, Clone)]
pub(crate) struct Failure(pub(crate) Box<Problem>);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

// A body that is streamed can only break off with an error of this kind.
impl std::error::Error for Failure {}

impl Failure {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Failure {
        Failure(Box::new(Problem::new(code, detail)))
    }

    /// The uniform 404: the same for what does not exist and for what belongs to another tenant.
    pub(crate) fn not_found(what: &str, name: &str) -> Failure {
        let shown: String = name.chars().take(80).collect();
        let place = if what == "tenant" { "that this token may see" } else { "in this tenant" };
        Failure::new(Code::NotFound, format!("There is no {what} '{shown}' {place}."))
    }

    /// The same with the nearest of the names there are, for typing errors.
    pub(crate) fn not_found_near<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Failure {
        let mut failure = Failure::not_found(what, name);
        if let Some(near) = nearest(name, known) {
            failure.0.detail.push_str(&format!(" Did you mean '{near}'?"));
        }
        failure
    }

    pub(crate) fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Failure {
        let detail = detail.into();
        let pointer = pointer.into();
        let first = said_of(&pointer, &detail);
        Failure(Box::new(Problem::new(Code::InvalidField, first).with_field(pointer, detail)))
    }

    /// What a package says of itself, in its manifest.
    pub(crate) fn package(pointer: impl Into<String>, detail: impl Into<String>) -> Failure {
        let (pointer, detail) = (pointer.into(), detail.into());
        let first = said_of(&pointer, &detail);
        Failure(Box::new(Problem::new(Code::InvalidPackage, first).with_field(pointer, detail)))
    }

    pub(crate) fn query(parameter: &str, detail: impl Into<String>) -> Failure {
        let detail = detail.into();
        let first = format!("?{parameter}=: {detail}");
        Failure(Box::new(Problem::new(Code::InvalidQuery, first).with_field(parameter, detail)))
    }

    /// A name that cannot be one, in the body or in the path: a sentence that says so, and its place.
    pub(crate) fn named(place: &str, detail: impl Into<String>) -> Failure {
        let detail = detail.into();
        Failure(Box::new(Problem::new(Code::InvalidField, detail.clone()).with_field(place, detail)))
    }

    /// A bug of ours. The cause goes to the log, not to the caller.
    pub(crate) fn internal(cause: &str) -> Failure {
        tracing::error!(cause, "internal error");
        Failure::new(Code::Internal, "The server met a condition it did not expect; its log has the cause.")
    }

    /// Puts `prefix` before every pointer: the error was found in a part of the body.
    pub(crate) fn under(mut self, prefix: &str) -> Failure {
        let Problem { errors, detail, .. } = &mut *self.0;
        let mut told = errors.first().is_some_and(|first| *detail == said_of(&first.pointer, &first.detail));
        for error in errors {
            error.pointer.insert_str(0, prefix);
            if std::mem::take(&mut told) {
                *detail = said_of(&error.pointer, &error.detail);
            }
        }
        self
    }

    pub(crate) fn code(&self) -> Code {
        self.0.code
    }
}

/// What is said of a place of the body; of the body as a whole there is no place to name.
fn said_of(pointer: &str, detail: &str) -> String {
    if pointer.is_empty() { detail.to_owned() } else { format!("{pointer}: {detail}") }
}

/// What a refused command means to the caller.
pub(crate) fn from_refusal(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::UnknownQueue { name, nearest } => {
            let hint = match nearest {
                Some(name) => format!(" Did you mean '{name}'?"),
                None => " Create it with PUT /api/v1/queues/{name}.".to_owned(),
            };
            let shown: String = name.chars().take(80).collect();
            let detail = format!("There is no queue '{shown}' in this tenant.{hint}");
            let mut failure = Failure::new(Code::UnknownQueue, detail);
            // Queues of paths are looked up before a command is made, so this one was named by a field.
            failure.0.errors.push(FieldError::new("/queue", "there is no such queue"));
            failure
        }
        Refusal::QueueDraining => Failure::new(
            Code::Conflict,
            "The queue is draining and takes no new tasks. Resume it with POST /api/v1/queues/{name}:resume.",
        ),
        Refusal::Overloaded { what, retry_after_ms } => {
            let mut failure = Failure::new(Code::Overloaded, format!("{what} is at its bound; nothing was stored."));
            failure.0.retry_after = Some(seconds(retry_after_ms));
            failure
        }
        Refusal::Throttled { what, retry_after_ms, per_second } => {
            let detail = format!("{what} is deep, so a part of what comes is not taken now; nothing was stored.");
            let mut failure = Failure::new(Code::RateLimited, sentence(&detail));
            failure.0.retry_after = Some(seconds(retry_after_ms));
            failure.0.rate = Some(per_second);
            failure
        }
        Refusal::IdempotencyMismatch { task } => Failure::new(
            Code::IdempotencyMismatch,
            format!(
                "The idempotency key belongs to {} which was sent with another body.",
                crate::text::task_text(task)
            ),
        ),
        Refusal::NotFound => Failure::new(Code::NotFound, "There is no such thing in this tenant."),
        Refusal::Conflict(why) => Failure::new(Code::Conflict, sentence(&why)),
        Refusal::Version { current } => Failure::new(
            Code::PreconditionFailed,
            format!("The current version is {current}; read it again and repeat."),
        ),
        Refusal::Invalid(why) => Failure::new(Code::InvalidField, sentence(&why)),
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::Overloaded { retry_after_ms } => {
                let mut failure = Failure::new(Code::Overloaded, "The server is at its bound; nothing was stored.");
                failure.0.retry_after = Some(seconds(retry_after_ms));
                failure
            }
            RuntimeError::Unavailable(why) => {
                let mut failure = Failure::new(Code::Unavailable, sentence(&why));
                failure.0.retry_after = Some(1);
                failure
            }
            RuntimeError::OutcomeUnknown => {
                let mut failure = Failure::new(
                    Code::OutcomeUnknown,
                    "The store failed while the request was under way; it may or may not have been stored. \
                     Repeat it with the same idempotency key.",
                );
                failure.0.retry_after = Some(1);
                failure
            }
            RuntimeError::Store(error) => error.into(),
            RuntimeError::Closed => {
                let mut failure = Failure::new(Code::Unavailable, "The server is shutting down.");
                failure.0.retry_after = Some(1);
                failure
            }
        }
    }
}

impl From<crate::store::Error> for Failure {
    fn from(error: crate::store::Error) -> Self {
        use crate::store::Error;
        match &error {
            Error::Full(_) | Error::Failed(_) | Error::Stale { .. } | Error::Closed => {
                // Paths and SQL of the store's own message are for the log alone.
                tracing::warn!(%error, "the store refused a read or write");
                let mut failure = Failure::new(Code::Unavailable, "The store cannot answer now.");
                failure.0.retry_after = Some(1);
                failure
            }
            Error::Fsync(_) | Error::Corrupt(_) | Error::TooNew(_) => Failure::internal(&error.to_string()),
        }
    }
}

/// The response carries the problem as an extension; [`render`] writes the body once, where the request's path is
/// known.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of a problem.
pub(crate) fn render(failure: Failure, path: &str, response: &mut Response) {
    let mut problem = failure.0;
    problem.instance = path.to_owned();
    problem.retry_after = problem.retry_after.or(match problem.code {
        Code::Overloaded | Code::Unavailable | Code::RateLimited | Code::OutcomeUnknown => Some(1),
        _ => None,
    });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.remove(header::CONTENT_ENCODING);
    headers.remove(header::CONTENT_LENGTH);
    if let Some(seconds) = problem.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        if matches!(problem.code, Code::Overloaded | Code::RateLimited)
            && let Ok(value) = HeaderValue::from_str(&format!("\"default\";r=0;t={seconds}"))
        {
            headers.insert(RATE_LIMIT, value);
        }
        if let Some(rate) = problem.rate
            && let Ok(value) = HeaderValue::from_str(&format!("\"default\";q={rate};w=1"))
        {
            headers.insert(RATE_LIMIT_POLICY, value);
        }
    }
    if problem.code == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidewheel\""));
    }
    // A problem holds only strings and numbers: it always serialises.
    *response.body_mut() = Body::from(serde_json::to_vec(&problem).unwrap_or_default());
}

impl From<Failure> for tonic::Status {
    fn from(failure: Failure) -> Self {
        use tonic::Code as G;
        let code = match failure.code() {
            Code::MalformedBody | Code::InvalidField | Code::InvalidQuery => G::InvalidArgument,
            Code::InvalidPackage | Code::InvalidWorkflow | Code::UnsupportedMediaType | Code::MethodNotAllowed => {
                G::InvalidArgument
            }
            Code::TooLarge => G::OutOfRange,
            Code::Unauthenticated => G::Unauthenticated,
            Code::NotAllowed => G::PermissionDenied,
            Code::NotFound | Code::UnknownQueue => G::NotFound,
            Code::Conflict | Code::PreconditionFailed => G::FailedPrecondition,
            Code::IdempotencyMismatch => G::AlreadyExists,
            Code::RateLimited | Code::Overloaded => G::ResourceExhausted,
            Code::Unavailable | Code::OutcomeUnknown => G::Unavailable,
            Code::WaitTimeout => G::DeadlineExceeded,
            Code::Internal => G::Internal,
        };
        let mut status = tonic::Status::new(code, failure.0.detail.clone());
        status
            .metadata_mut()
            .insert("tidewheel-code", tonic::metadata::MetadataValue::from_static(failure.code().as_str()));
        status
    }
}

/// `Retry-After` knows whole seconds only, and zero would invite a storm.
fn seconds(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(1_000).clamp(1, 3_600)).unwrap_or(3_600)
}

/// The engine's lower-case fragment as a sentence.
fn sentence(fragment: &str) -> String {
    let mut chars = fragment.chars();
    let Some(first) = chars.next() else { return String::new() };
    let mut out: String = first.to_uppercase().collect();
    out.push_str(chars.as_str());
    if !out.ends_with(['.', '!', '?']) {
        out.push('.');
    }
    out
}
