//! JSON types of the REST interface, shared by server and CLI. Field names are the wire's; unknown fields are refused.

mod enrolment;
mod item;
mod object;
mod package;
mod problem;
mod queue;
mod routing;
mod run;
mod run_look;
mod search;
mod task;
mod tenancy;
mod worker;
mod workflow;

pub use enrolment::*;
pub use item::*;
pub use package::*;
pub use problem::*;
pub use queue::*;
pub use routing::*;
pub use run::*;
pub use run_look::*;
pub use search::*;
pub use task::*;
pub use tenancy::*;
pub use worker::*;
pub use workflow::*;

use serde::{Deserialize, Serialize};

/// A page of a list: keyset paging, opaque cursor, no totals.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// Give it back as `?cursor=` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// The commit the page was read at; a later read with this value in `Tidewheel-Index` sees at least as much.
    pub as_of: u64,
    /// Set when the search stopped early: how far back it looked (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub searched_back_to: Option<String>,
}
