//! Comparing values, and showing how they differ.

use serde_json::Value as Json;
use tidewheel_engine::run::fault::same_type;

/// Lines of one difference that are shown.
const MAX_LINES: usize = 200;
/// Lines of a value that is the same on both sides that are shown.
const MAX_SAME: usize = 6;
/// Characters of one line that are shown.
const WIDTH: usize = 200;

/// Whether two values are the same; numbers are compared by what they stand for.
pub(super) fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(x), Json::Number(y)) => x == y || x.as_f64() == y.as_f64() && x.is_f64() != y.is_f64(),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

/// Whether a value holds all that is wanted: objects may have more entries, anything else has to be the same.
pub(super) fn holds(wanted: &Json, found: &Json) -> bool {
    match (wanted, found) {
        (Json::Object(wanted), Json::Object(found)) => {
            wanted.iter().all(|(key, wanted)| found.get(key).is_some_and(|found| holds(wanted, found)))
        }
        (Json::Array(wanted), Json::Array(found)) => {
            wanted.len() == found.len() && wanted.iter().zip(found).all(|(wanted, found)| holds(wanted, found))
        }
        _ => same(wanted, found),
    }
}

/// Whether an error holds all that is wanted; the types of the standard are compared by meaning, and may be named by their
/// last word.
pub(super) fn error_holds(wanted: &Json, found: &Json) -> bool {
    let Json::Object(entries) = wanted else { return holds(wanted, found) };
    entries.iter().all(|(key, wanted)| match (key.as_str(), wanted.as_str(), found[key].as_str()) {
        ("type", Some(wanted), Some(found)) => same_type(&super::mock::error_type(wanted), found),
        _ => found.get(key).is_some_and(|found| holds(wanted, found)),
    })
}

/// The part of a value that is compared with what is wanted of it.
pub(super) fn part(wanted: &Json, found: &Json) -> Json {
    match (wanted, found) {
        (Json::Object(wanted), Json::Object(found)) => Json::Object(
            wanted.iter().filter_map(|(key, wanted)| Some((key.clone(), part(wanted, found.get(key)?)))).collect(),
        ),
        (Json::Array(wanted), Json::Array(found)) if wanted.len() == found.len() => {
            Json::Array(wanted.iter().zip(found).map(|(wanted, found)| part(wanted, found)).collect())
        }
        _ => found.clone(),
    }
}

/// How two values differ: lines of their JSON, with `-` before what was expected and `+` before what was found.
pub fn diff(expected: &Json, found: &Json) -> String {
    let mut lines = Lines { lines: Vec::new(), left: MAX_LINES };
    lines.values("", expected, found, 0, "");
    if lines.left == 0 {
        lines.lines.push("  ... and more".to_string());
    }
    lines.lines.join("\n")
}

struct Lines {
    lines: Vec<String>,
    left: usize,
}

impl Lines {
    fn push(&mut self, sign: char, depth: usize, text: &str) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let mut text: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        if let Some((end, _)) = text.char_indices().nth(WIDTH) {
            text.truncate(end);
            text.push_str("...");
        }
        self.lines.push(format!("{sign} {}{text}", "  ".repeat(depth.min(40))));
    }

    /// A whole value.
    fn whole(&mut self, sign: char, name: &str, value: &Json, depth: usize, comma: &str) {
        if self.left == 0 {
            return;
        }
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        let lines: Vec<&str> = text.lines().take(MAX_LINES).collect();
        let short = sign == ' ' && lines.len() > MAX_SAME;
        if short {
            let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
            return self.push(sign, depth, &format!("{name}{open} ... {close}{comma}"));
        }
        for (at, line) in lines.iter().enumerate() {
            let name = if at == 0 { name } else { "" };
            let comma = if at + 1 == lines.len() { comma } else { "" };
            let indent = (line.len() - line.trim_start().len()) / 2;
            self.push(sign, depth + indent, &format!("{name}{}{comma}", line.trim_start()));
        }
    }

    fn values(&mut self, name: &str, expected: &Json, found: &Json, depth: usize, comma: &str) {
        if self.left == 0 {
            return;
        }
        if same(expected, found) {
            return self.whole(' ', name, found, depth, comma);
        }
        match (expected, found) {
            (Json::Object(a), Json::Object(b)) => {
                self.push(' ', depth, &format!("{name}{{"));
                for (key, a) in a {
                    let name = format!("{}: ", Json::from(key.as_str()));
                    match b.get(key) {
                        Some(b) => self.values(&name, a, b, depth + 1, ","),
                        None => self.whole('-', &name, a, depth + 1, ","),
                    }
                }
                for (key, b) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                    self.whole('+', &format!("{}: ", Json::from(key.as_str())), b, depth + 1, ",");
                }
                self.push(' ', depth, &format!("}}{comma}"));
            }
            (Json::Array(a), Json::Array(b)) => {
                self.push(' ', depth, &format!("{name}["));
                for at in 0..a.len().max(b.len()) {
                    match (a.get(at), b.get(at)) {
                        (Some(a), Some(b)) => self.values("", a, b, depth + 1, ","),
                        (Some(a), None) => self.whole('-', "", a, depth + 1, ","),
                        (_, Some(b)) => self.whole('+', "", b, depth + 1, ","),
                        (None, None) => {}
                    }
                }
                self.push(' ', depth, &format!("]{comma}"));
            }
            _ => {
                self.whole('-', name, expected, depth, comma);
                self.whole('+', name, found, depth, comma);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_shows_both_sides_where_they_differ_and_what_is_around() {
        let expected = json!({"a": 1, "b": {"c": [1, 2]}, "gone": true});
        let found = json!({"a": 1, "b": {"c": [1, 3, 4]}, "new": "x"});
        let text = "  {\n    \"a\": 1,\n    \"b\": {\n      \"c\": [\n        1,\n-       2,\n+       3,\n+       4,\n      ],\n    },\n-   \"gone\": true,\n+   \"new\": \"x\",\n  }";
        assert_eq!(diff(&expected, &found), text);
    }

    #[test]
    fn a_huge_difference_is_cut() {
        let many = |from: u64| Json::Array((from..from + 100_000).map(Json::from).collect());
        assert!(diff(&many(0), &many(1)).lines().count() < 210);
        assert!(diff(&json!("x".repeat(1_000_000)), &json!("y")).len() < 1_000);
    }

    #[test]
    fn an_object_holds_another_if_it_has_its_entries() {
        assert!(holds(&json!({"a": {"b": 1}}), &json!({"a": {"b": 1.0, "c": 2}, "d": 3})));
        assert!(!holds(&json!({"a": [1]}), &json!({"a": [1, 2]})));
        assert!(error_holds(
            &json!({"type": "timeout"}),
            &json!({"type": "https://serverlessworkflow.io/spec/1.0.0/errors/timeout", "status": 408})
        ));
    }
}
