//! What can go wrong, in two vocabularies: `Error` for who runs the agent, `Fault` for the task that failed.

use std::path::PathBuf;

use tidewheel_proto::v1;

/// An error of the agent or of building a package.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot be used.
    #[error("{0}")]
    Config(String),
    /// The server does not accept this worker.
    #[error("the server refused this agent: {0}")]
    Refused(String),
    /// A package or project is not acceptable.
    #[error("{0}")]
    Package(String),
    /// The environment of a package could not be built.
    #[error("{message}")]
    Environment { message: String, retryable: bool },
    /// The user's code could not be loaded.
    #[error("{message}")]
    Code { message: String, traceback: String },
    /// A file or process operation failed.
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    pub(crate) fn file(verb: &str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        Error::io(format!("cannot {verb} {}", path.into().display()))
    }

    /// Whether doing the same again may work.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Environment { retryable, .. } => *retryable,
            Error::Io { .. } => true,
            Error::Config(_) | Error::Refused(_) | Error::Package(_) | Error::Code { .. } => false,
        }
    }
}

/// Why an attempt failed, as the server stores it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) detail: String,
    pub(crate) retryable: bool,
    pub(crate) cancelled: bool,
}

/// Texts of failures are shown to people; more than this helps nobody and fills the store.
const FAULT_TEXT_BYTES: usize = 32 << 10;

impl Fault {
    pub(crate) fn new(kind: &str, message: impl Into<String>, retryable: bool) -> Self {
        Self { kind: kind.into(), message: message.into(), detail: String::new(), retryable, cancelled: false }
    }

    pub(crate) fn cancelled(reason: &str) -> Self {
        let message = if reason.is_empty() { "cancelled".to_owned() } else { format!("cancelled: {reason}") };
        Self { cancelled: true, ..Self::new("cancelled", message, false) }
    }

    pub(crate) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    pub(crate) fn into_wire(self) -> v1::Failure {
        v1::Failure {
            r#type: clip(self.kind, 256),
            message: clip(self.message, FAULT_TEXT_BYTES),
            detail: clip_front(self.detail, FAULT_TEXT_BYTES),
            retryable: self.retryable,
            cancelled: self.cancelled,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let retryable = error.is_retryable();
        let message = error.to_string();
        match error {
            Error::Package(_) => Fault::new("invalid-package", message, retryable),
            Error::Environment { .. } => Fault::new("environment", message, retryable),
            Error::Code { traceback, .. } => Fault::new("load-error", message, retryable).with_detail(traceback),
            Error::Config(_) | Error::Refused(_) | Error::Io { .. } => Fault::new("agent", message, retryable),
        }
    }
}

/// The first bytes of a text, cut between characters.
pub(crate) fn clip(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
    text
}

/// The last bytes of a text: the end of a traceback or of a build's output names the cause.
pub(crate) fn clip_front(text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    let start = text.ceil_char_boundary(text.len() - max);
    format!("...{}", &text[start..])
}
