//! The closed list of error codes that leave the server, in REST (`problem+json`), gRPC and the CLI.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = ($text:literal, $status:literal, $title:literal, $retryable:literal)),* $(,)?) => {
        /// What went wrong, from the caller's view. Each code has one HTTP status and says whether the same call may be
        /// sent again unchanged.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[$doc])* #[serde(rename = $text)] $name),* }
        impl Code {
            /// Every code, in the order of the reference page.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];
            /// The stable text used on the wire.
            pub fn as_str(self) -> &'static str { match self { $(Code::$name => $text),* } }
            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 { match self { $(Code::$name => $status),* } }
            /// A short English title.
            pub fn title(self) -> &'static str { match self { $(Code::$name => $title),* } }
            /// Whether the same request may be sent again unchanged, after `Retry-After` where given.
            pub fn is_retryable(self) -> bool { match self { $(Code::$name => $retryable),* } }
            /// The code for its text.
            pub fn parse(text: &str) -> Option<Code> { match text { $($text => Some(Code::$name),)* _ => None } }
        }
    };
}

codes! {
    /// The body is not valid JSON, or not UTF-8, or nested too deep, or has a duplicate key.
    MalformedBody = ("malformed-body", 400, "The request body is malformed", false),
    /// A field is missing, unknown, of the wrong type or out of bounds.
    InvalidField = ("invalid-field", 400, "A field is invalid", false),
    /// A cursor, filter or query parameter cannot be read.
    InvalidQuery = ("invalid-query", 400, "A query parameter is invalid", false),
    /// No token, or one that is unknown, revoked or expired.
    Unauthenticated = ("unauthenticated", 401, "Authentication is needed", false),
    /// The token's role does not allow this.
    NotAllowed = ("not-allowed", 403, "Not allowed", false),
    /// There is no such thing in this tenant.
    NotFound = ("not-found", 404, "Not found", false),
    /// The queue does not exist.
    UnknownQueue = ("unknown-queue", 404, "Unknown queue", false),
    /// The path exists, but not with this method.
    MethodNotAllowed = ("method-not-allowed", 405, "Method not allowed", false),
    /// The state does not allow this action.
    Conflict = ("conflict", 409, "Conflict with the current state", false),
    /// The idempotency key was used with another body.
    IdempotencyMismatch = ("idempotency-mismatch", 409, "Idempotency key used with another body", false),
    /// `If-Match` does not name the current version.
    PreconditionFailed = ("precondition-failed", 412, "Precondition failed", false),
    /// The body or a payload is over its limit.
    TooLarge = ("too-large", 413, "Too large", false),
    /// The content type is not one this path takes.
    UnsupportedMediaType = ("unsupported-media-type", 415, "Unsupported media type", false),
    /// A package cannot be accepted: unsafe members, no manifest, does not build.
    InvalidPackage = ("invalid-package", 422, "The package is invalid", false),
    /// A workflow cannot be deployed: the document is not well formed, or needs what this server cannot do.
    InvalidWorkflow = ("invalid-workflow", 422, "The workflow is invalid", false),
    /// A rate or quota of the tenant or queue is used up.
    RateLimited = ("rate-limited", 429, "Rate limit reached", true),
    /// The server is at its bound and has not accepted the request.
    Overloaded = ("overloaded", 503, "Overloaded", true),
    /// The server is starting, draining or without its store, and has not accepted the request.
    Unavailable = ("unavailable", 503, "Unavailable", true),
    /// The store failed while the request was under way; it may or may not have been stored. Repeat it with the same
    /// idempotency key.
    OutcomeUnknown = ("outcome-unknown", 503, "Outcome unknown", true),
    /// The wait ran out; the work goes on.
    WaitTimeout = ("wait-timeout", 504, "The wait ran out", true),
    /// A bug of the server.
    Internal = ("internal", 500, "Internal error", false),
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
