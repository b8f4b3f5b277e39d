use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::code::Code;

/// An error, as RFC 9457 has it (`application/problem+json`).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Address of the page that explains the code: `/docs/reference/errors#<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short title of the code.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened and what to do, for this request.
    pub detail: String,
    /// The path of the request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Stable machine-readable code.
    #[schema(value_type = String)]
    pub code: Code,
    /// The fields that are wrong, as JSON pointers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Whether the same request may be sent again unchanged.
    pub retryable: bool,
    /// The shortest time to wait before a repeat, in seconds; also in the `Retry-After` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
    /// How many such requests are taken in a second at present, where it was refused for their rate; also in the
    /// `RateLimit-Policy` header. It follows what is worked off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
}

/// One wrong field.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer into the body, or the name of the parameter of the query or the path.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
    /// Line in a document, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column in characters, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// What to do about it, in a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl FieldError {
    /// A field and what is wrong with it.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError { pointer: pointer.into(), detail: detail.into(), ..FieldError::default() }
    }
}

impl Problem {
    /// A problem of this code with a sentence for this request.
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("/docs/reference/errors#{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            instance: String::new(),
            code,
            errors: Vec::new(),
            retryable: code.is_retryable(),
            retry_after: None,
            rate: None,
        }
    }

    /// Adds a wrong field.
    pub fn with_field(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Problem {
        self.errors.push(FieldError::new(pointer, detail));
        self
    }

    /// Says when to come again.
    pub fn after_seconds(mut self, seconds: u32) -> Problem {
        self.retry_after = Some(seconds);
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)?;
        for e in &self.errors {
            write!(f, "\n  {}: {}", e.pointer, e.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
