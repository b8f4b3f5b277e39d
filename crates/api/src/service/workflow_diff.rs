//! What two versions of a workflow have differently, place by place.

use serde_json::{Map, Value};
use tidewheel_proto::rest::{self, WorkflowChange};

use super::workflow::{self, Named};
use crate::auth::Principal;
use crate::problem::Failure;
use crate::state::Api;

/// Changes that one answer holds.
const MAX_CHANGES: usize = 1_000;

/// The differences of two versions of a workflow.
pub(crate) fn diff(api: &Api, caller: &Principal, from: Named<'_>, to: &str) -> Result<rest::WorkflowDiff, Failure> {
    let other = Named { namespace: from.namespace, name: from.name, version: to };
    let text = |document: &Value| {
        let field = |name: &str| document.pointer(&format!("/document/{name}")).and_then(Value::as_str).unwrap_or("");
        format!("{}/{}:{}", field("namespace"), field("name"), field("version"))
    };
    let (_, before) = workflow::document(api, caller, from)?;
    let (_, after) = workflow::document(api, caller, other)?;
    let mut changes = Vec::new();
    compare("", &before, &after, &mut changes);
    let more = changes.len() > MAX_CHANGES;
    let same = changes.iter().all(|change| change.path == "/document/version");
    changes.truncate(MAX_CHANGES);
    Ok(rest::WorkflowDiff { from: text(&before), to: text(&after), same, changes, more })
}

fn note(change: &str, path: String, from: Option<&Value>, to: Option<&Value>, out: &mut Vec<WorkflowChange>) {
    out.push(WorkflowChange { change: change.to_owned(), path, from: from.cloned(), to: to.cloned() });
}

fn compare(path: &str, from: &Value, to: &Value, out: &mut Vec<WorkflowChange>) {
    // One more than is shown tells that there are more.
    if from == to || out.len() > MAX_CHANGES {
        return;
    }
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => objects(path, from, to, out),
        (Value::Array(from), Value::Array(to)) => match (named(from), named(to)) {
            (Some(from), Some(to)) => statements(path, &from, &to, out),
            _ => items(path, from, to, out),
        },
        _ => note("changed", path.to_owned(), Some(from), Some(to), out),
    }
}

fn below(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn objects(path: &str, from: &Map<String, Value>, to: &Map<String, Value>, out: &mut Vec<WorkflowChange>) {
    for (name, old) in from {
        match to.get(name) {
            Some(new) => compare(&below(path, name), old, new, out),
            None => note("removed", below(path, name), Some(old), None, out),
        }
    }
    for (name, new) in to.iter().filter(|(name, _)| !from.contains_key(*name)) {
        note("added", below(path, name), None, Some(new), out);
    }
}

fn items(path: &str, from: &[Value], to: &[Value], out: &mut Vec<WorkflowChange>) {
    for at in 0..from.len().max(to.len()) {
        let here = format!("{path}/{at}");
        match (from.get(at), to.get(at)) {
            (Some(old), Some(new)) => compare(&here, old, new, out),
            (old, new) => note(if old.is_some() { "removed" } else { "added" }, here, old, new, out),
        }
    }
}

/// The statements of a list: objects of one field each, which is the name. `None` = it is another kind of list, or two have one
/// name.
fn named(list: &[Value]) -> Option<Vec<(&str, &Value)>> {
    let mut found: Vec<(&str, &Value)> = Vec::with_capacity(list.len());
    for item in list {
        let object = item.as_object().filter(|object| object.len() == 1)?;
        let (name, value) = object.iter().next()?;
        if found.iter().any(|(known, _)| known == name) {
            return None;
        }
        found.push((name, value));
    }
    (!found.is_empty()).then_some(found)
}

fn statements(path: &str, from: &[(&str, &Value)], to: &[(&str, &Value)], out: &mut Vec<WorkflowChange>) {
    let place = |list: &[(&str, &Value)], name: &str| list.iter().position(|(own, _)| *own == name);
    for (name, old) in from {
        if place(to, name).is_none() {
            note("removed", below(path, name), Some(old), None, out);
        }
    }
    // Statements of both that keep their order among themselves stand still; the others moved.
    let mut highest = None;
    for (name, new) in to {
        let Some(at) = place(from, name) else {
            note("added", below(path, name), None, Some(new), out);
            continue;
        };
        if highest.is_some_and(|highest| at < highest) {
            note("moved", below(path, name), None, None, out);
        }
        highest = highest.max(Some(at));
        compare(&below(path, name), from[at].1, new, out);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changes(from: Value, to: Value) -> Vec<String> {
        let mut out = Vec::new();
        compare("", &from, &to, &mut out);
        out.iter().map(|change| format!("{} {}", change.change, change.path)).collect()
    }

    #[test]
    fn statements_are_told_by_their_names() {
        let from = json!({"do": [{"a": {"set": {"x": 1}}}, {"b": {"wait": {"seconds": 1}}}, {"c": {"set": {}}}]});
        let to = json!({"do": [{"new": {"set": {}}}, {"a": {"set": {"x": 2, "y": 1}}}, {"c": {"set": {}}}]});
        assert_eq!(
            changes(from.clone(), to),
            ["removed /do/b", "added /do/new", "changed /do/a/set/x", "added /do/a/set/y"]
        );
        assert!(changes(from.clone(), from.clone()).is_empty());
        let moved = json!({"do": [{"b": {"wait": {"seconds": 1}}}, {"a": {"set": {"x": 1}}}, {"c": {"set": {}}}]});
        assert_eq!(changes(from, moved), ["moved /do/a"]);
    }

    #[test]
    fn other_lists_are_compared_by_place() {
        assert_eq!(changes(json!({"a/b": [1, 2, 3]}), json!({"a/b": [1, 4]})), ["changed /a~1b/1", "removed /a~1b/2"]);
        assert_eq!(changes(json!({"a": [1]}), json!({"a": {"b": 1}})), ["changed /a"]);
    }
}
