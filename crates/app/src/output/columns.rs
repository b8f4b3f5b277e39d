//! Whether the columns that a person names are there. An empty column for a slip of the hand would look like data that are missing.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Shape, at_path};
use crate::fail::{Failure, Outcome};
use crate::text;

/// Refuses a column that neither the shape, nor one of the items, nor the interface knows. A field that is only absent from these
/// items is known.
pub(super) fn check(wanted: &[String], shape: &Shape, items: &[Value]) -> Outcome {
    let shown = |path: &str| shape.cols.iter().any(|col| col.path == path || col.head.eq_ignore_ascii_case(path));
    let there = |path: &str| items.iter().any(|item| item.get(top(path)).is_some() || !at_path(item, path).is_null());
    let mut doubtful = wanted.iter().filter(|path| !shown(path) && !there(path)).peekable();
    if doubtful.peek().is_none() {
        return Ok(());
    }
    let fields = fields(shape);
    if fields.is_empty() {
        return Ok(());
    }
    match doubtful.find(|path| !fields.contains(top(path))) {
        None => Ok(()),
        Some(path) => {
            let near = text::did_you_mean(path, fields.iter().map(String::as_str));
            let all = fields.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let shown: String = text::one_line(path).chars().take(60).collect();
            Err(Failure::usage(format!("there is no column '{shown}'"), format!("{} have {all}{near}", shape.plural)))
        }
    }
}

fn top(path: &str) -> &str {
    path.split_once('.').map_or(path, |(top, _)| top)
}

/// The fields of a kind of thing: those of the interface's schemas that have all of its columns. Empty for what only the command
/// line knows.
fn fields(shape: &Shape) -> BTreeSet<String> {
    let document: Value = serde_json::from_str(&tidewheel_api::openapi_json("")).unwrap_or_default();
    let schemas = document["components"]["schemas"].as_object();
    let has_all = |schema: &&Value| shape.cols.iter().all(|col| schema["properties"].get(top(col.path)).is_some());
    let fitting = schemas.into_iter().flat_map(|all| all.values()).filter(has_all);
    fitting.filter_map(|schema| schema["properties"].as_object()).flat_map(|all| all.keys().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::shapes;

    #[test]
    fn the_fields_of_what_the_server_lists_are_those_of_the_interface() {
        for (shape, field) in [
            (&shapes::TASK, "correlation_id"),
            (&shapes::RUN, "phase"),
            (&shapes::QUEUE, "settings"),
            (&shapes::WORKER, "labels"),
            (&shapes::PACKAGE, "created_at"),
            (&shapes::WORKFLOW, "version"),
            (&shapes::OPERATION, "done"),
            (&shapes::TOKEN, "role"),
            (&shapes::TENANT, "settings"),
            (&shapes::ATTEMPT, "worker"),
        ] {
            let fields = fields(shape);
            assert!(fields.contains(field) && fields.len() < 100, "{}: {fields:?}", shape.plural);
        }
        assert!(fields(&shapes::PROFILE).is_empty());
    }
}
