//! Columns: where a value stands in the JSON and how it is shown.

use comfy_table::Color;
use jiff::Timestamp;
use serde_json::Value;

use crate::text::{self, TimeStyle};

/// How a value is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As it is.
    Text,
    /// A state; coloured, and the word says it too.
    State,
    /// RFC 3339.
    Time,
    /// The same as the time of the day, for what is printed as it happens.
    Clock,
    /// A number of bytes.
    Bytes,
    /// A whole number.
    Count,
    /// A number with two places.
    Number,
    /// 0..1 as a percentage.
    Share,
    /// Seconds.
    Seconds,
    /// Seconds since the value, at the end of the task or now.
    Names,
    /// The length of a list.
    Length,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Col {
    /// Heading.
    pub(crate) head: &'static str,
    /// Dotted path into the item.
    pub(crate) path: &'static str,
    /// Form.
    pub(crate) kind: Kind,
    /// Only with `-o wide` or `--columns`.
    pub(crate) wide: bool,
    /// Left out first where the terminal is narrow.
    pub(crate) minor: bool,
}

impl Col {
    /// A column that is always shown.
    pub(crate) const fn new(head: &'static str, path: &'static str, kind: Kind) -> Col {
        Col { head, path, kind, wide: false, minor: false }
    }

    /// A column that a narrow terminal does without.
    pub(crate) const fn minor(head: &'static str, path: &'static str, kind: Kind) -> Col {
        Col { head, path, kind, wide: false, minor: true }
    }

    /// A column of the wide table.
    pub(crate) const fn wide(head: &'static str, path: &'static str, kind: Kind) -> Col {
        Col { head, path, kind, wide: true, minor: true }
    }
}

/// What people want to see of a kind of thing.
#[derive(Debug)]
pub(crate) struct Shape {
    /// For "no tasks".
    pub(crate) plural: &'static str,
    /// Path of the id or name.
    pub(crate) id: &'static str,
    /// Columns in order.
    pub(crate) cols: &'static [Col],
}

impl Shape {
    /// The id or name of an item.
    pub(crate) fn name_of(&self, item: &Value) -> String {
        self.id.split('+').map(|path| plain(at_path(item, path))).collect::<Vec<_>>().join("@")
    }

    /// How the field at a path is shown: as its column says, else by its name.
    pub(super) fn kind_of(&self, path: &str, value: &Value) -> Kind {
        if let Some(col) = self.cols.iter().find(|col| col.path == path && col.kind != Kind::Length) {
            return col.kind;
        }
        match value {
            Value::String(_) if path.ends_with("_at") || path.ends_with("until") => Kind::Time,
            Value::Number(_) if path.ends_with("_bytes") => Kind::Bytes,
            _ => Kind::Text,
        }
    }
}

/// The value at a dotted path; `null` when there is none. A key that has dots itself (labels) is found too.
pub(crate) fn at_path<'a>(item: &'a Value, path: &str) -> &'a Value {
    static NULL: Value = Value::Null;
    if path.is_empty() {
        return item;
    }
    if let Some(value) = item.get(path) {
        return value;
    }
    let found = match item {
        Value::Array(items) => {
            let (head, rest) = path.split_once('.').unwrap_or((path, ""));
            head.parse::<usize>().ok().and_then(|i| items.get(i)).map(|value| at_path(value, rest))
        }
        _ => path
            .match_indices('.')
            .find_map(|(at, _)| item.get(&path[..at]).map(|value| at_path(value, &path[at + 1..]))),
    };
    found.unwrap_or(&NULL)
}

/// A value as plain text, without quotes around strings.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(|v| !v.is_object() && !v.is_array()) => {
            items.iter().map(plain).collect::<Vec<_>>().join(",")
        }
        other => super::compact(other),
    }
}

/// A value as people read it.
pub(super) fn show(value: &Value, kind: Kind, time: TimeStyle, now: Timestamp) -> String {
    let number = value.as_f64();
    match (kind, number) {
        (Kind::Clock, _) if time == TimeStyle::Relative => {
            let at = plain(value);
            at.get(11..23).map_or(at.clone(), str::to_owned)
        }
        (Kind::Time | Kind::Clock, _) => text::show_time(&plain(value), time, now),
        (Kind::Bytes, Some(number)) => text::bytes(number),
        (Kind::Count, Some(_)) => value.as_u64().map_or_else(|| plain(value), text::count),
        (Kind::Number, Some(number)) => format!("{number:.2}"),
        (Kind::Share, Some(number)) => format!("{:.0}%", number * 100.0),
        (Kind::Seconds, Some(number)) => text::rough(jiff::SignedDuration::from_secs_f64(number.clamp(0.0, 1e12))),
        (Kind::Length, _) => value.as_array().map_or(0, Vec::len).to_string(),
        (Kind::Names, _) => match value {
            Value::Object(map) => map.iter().map(|(k, v)| format!("{k}={}", plain(v))).collect::<Vec<_>>().join(","),
            other => plain(other),
        },
        _ => plain(value),
    }
}

/// The colour of a state; the word beside it always says the same.
pub(super) fn colour_of(state: &str) -> Option<Color> {
    Some(match state {
        "succeeded" | "completed" | "online" | "active" | "done" | "ok" | "ready" => Color::Green,
        "failed" | "faulted" | "dead" | "lost" | "timed_out" | "yanked" | "error" => Color::Red,
        "running" | "draining" | "reconnecting" => Color::Cyan,
        "cancelled" | "expired" | "paused" | "suspended" | "silent" | "warning" | "warn" | "returned" => Color::Yellow,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ends_of_runs_have_the_colours_of_ends_of_tasks() {
        for (run, task) in [("completed", "succeeded"), ("faulted", "failed"), ("suspended", "paused")] {
            assert!(colour_of(run).is_some() && colour_of(run) == colour_of(task), "{run}");
        }
        assert_eq!(colour_of("queued"), None);
    }

    #[test]
    fn paths_reach_nested_values_lists_and_keys_with_dots() {
        let item = json!({"labels": {"app.kubernetes.io/name": "x"}, "a": {"b": [1, {"c": 2}]}});
        assert_eq!(at_path(&item, "labels.app.kubernetes.io/name"), &json!("x"));
        assert_eq!(at_path(&item, "a.b.1.c"), &json!(2));
        assert_eq!(at_path(&item, "a.z"), &Value::Null);
    }
}
