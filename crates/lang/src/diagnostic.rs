//! What is wrong with a document, where, and what to do about it.

use std::fmt;

use serde::Serialize;

/// A place in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Bytes from the start of the text.
    #[serde(skip)]
    pub offset: u32,
}

/// A stretch of a text: from `start` up to, and without, `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Span {
    /// First position.
    pub start: Position,
    /// The position after the last one.
    pub end: Position,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document cannot be used.
    Error,
    /// It can, but it hardly does what was meant.
    Warning,
    /// It could be better.
    Hint,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Stable code, such as `unknown-field`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence: what is wrong.
    pub message: String,
    /// JSON pointer to the value.
    pub pointer: String,
    /// Where it stands in the text.
    pub span: Span,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Text that put in place of the span mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Diagnostic {
    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the text that mends it.
    pub fn fix(mut self, fix: impl Into<String>) -> Diagnostic {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column, .. } = self.span.start;
        write!(out, "{line}:{column}: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(out, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// The code of a name that nothing has.
pub const UNKNOWN_NAME: &str = "unknown-name";

/// Whether one of them is an error.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|one| one.severity == Severity::Error)
}

/// The known name that is nearest to a wrong one, if one is near enough to be meant: at most a third of its letters differ.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wrong.to_lowercase();
    known
        .into_iter()
        .map(|name| (distance(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= name.chars().count().max(3).div_ceil(3))
        .min()
        .map(|(_, name)| name)
}

/// Edits (insert, drop, replace, swap of neighbours) between two words. Words over 64 letters are far from everything.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(65).collect();
    let right: Vec<char> = right.chars().take(65).collect();
    if left.len() > 64 || right.len() > 64 {
        return usize::MAX;
    }
    let width = right.len() + 1;
    let mut rows = vec![0usize; (left.len() + 1) * width];
    for row in 0..=left.len() {
        for column in 0..width {
            rows[row * width + column] = match (row, column) {
                (0, n) | (n, 0) => n,
                _ => {
                    let same = usize::from(left[row - 1] != right[column - 1]);
                    let mut best = (rows[(row - 1) * width + column] + 1)
                        .min(rows[row * width + column - 1] + 1)
                        .min(rows[(row - 1) * width + column - 1] + same);
                    let swapped = row > 1
                        && column > 1
                        && left[row - 1] == right[column - 2]
                        && left[row - 2] == right[column - 1];
                    if swapped {
                        best = best.min(rows[(row - 2) * width + column - 2] + 1);
                    }
                    best
                }
            };
        }
    }
    rows[left.len() * width + right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_when_it_is_near() {
        assert_eq!(nearest("metod", ["method", "endpoint"]), Some("method"));
        assert_eq!(nearest("hedaers", ["headers", "query"]), Some("headers"));
        assert_eq!(nearest("Endpoint", ["endpoint"]), Some("endpoint"));
        assert_eq!(nearest("banana", ["method", "endpoint"]), None);
    }
}
