use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{LogLine, Task};

/// Log lines over time: `GET /logs?histogram=N`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LogHistogram {
    /// Length of a bucket in milliseconds.
    pub step_ms: u64,
    /// Every bucket from the oldest line counted to the newest, empty ones too.
    pub buckets: Vec<LogBucket>,
    /// Every line that the filter finds is counted; otherwise only the newest are.
    pub complete: bool,
}

/// Lines of one span of time, by level.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LogBucket {
    /// Where it begins (RFC 3339).
    pub at: String,
    /// Lines.
    pub debug: u64,
    /// Lines.
    pub info: u64,
    /// Lines.
    pub warning: u64,
    /// Lines.
    pub error: u64,
}

/// A page of log lines.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LogLines {
    /// Newest first.
    pub items: Vec<LogLine>,
    /// Give it back as `?cursor=` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// The commit the page was read at.
    pub as_of: u64,
    /// Set when the search stopped early: how far back it looked (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub searched_back_to: Option<String>,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub histogram: Option<LogHistogram>,
}

/// What a search over everything found, newest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct SearchAnswer {
    /// Tasks that the filter finds.
    pub tasks: Vec<Task>,
    /// Log lines that it finds; none when it names what lines do not have.
    pub lines: Vec<LogLine>,
    /// The commit it was read at.
    pub as_of: u64,
}
