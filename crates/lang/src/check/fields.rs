//! Reading maps, lists and plain values, with what is wrong about them.

use super::Checker;
use crate::diagnostic::{Diagnostic, Severity, nearest};
use crate::model::Text;
use crate::text::{At, Node};

/// Findings after which no nearest names are looked for any more: it takes too long, and nobody reads so many.
const MANY: usize = 200;

/// A map that is being read.
pub(super) struct Fields {
    pub(super) at: At,
    /// What the map is, for messages.
    what: &'static str,
    known: Vec<&'static str>,
}

impl Checker<'_> {
    pub(super) fn error(&mut self, at: At, code: &'static str, message: impl Into<String>) -> &mut Diagnostic {
        self.found.push(self.tree.error(at, code, message));
        self.found.last_mut().expect("just pushed")
    }

    fn wrong_type(&mut self, at: At, expected: &str) {
        let kind = self.tree.kind(at);
        let quoted = match self.tree.node(at) {
            Node::Number(number) if expected.contains("text") => Some(number.to_string()),
            Node::Bool(bool) if expected.contains("text") => Some(bool.to_string()),
            _ => None,
        };
        let found = self.error(at, "wrong-type", format!("has to be {expected}, not {kind}"));
        if let Some(text) = quoted {
            found.hint = Some("put it in quotes".to_string());
            found.fix = Some(format!("'{text}'"));
        }
    }

    /// Begins to read a map.
    pub(super) fn fields(&mut self, at: At, what: &'static str) -> Option<Fields> {
        if !matches!(self.tree.node(at), Node::Map(_)) {
            self.wrong_type(at, "a map");
            return None;
        }
        Some(Fields { at, what, known: Vec::new() })
    }

    /// Reads a field that may be absent.
    pub(super) fn opt<T>(
        &mut self,
        fields: &mut Fields,
        name: &'static str,
        read: impl FnOnce(&mut Self, At) -> Option<T>,
    ) -> Option<T> {
        fields.known.push(name);
        let at = self.tree.get(fields.at, name)?;
        read(self, at)
    }

    /// Reads a field that has to be there.
    pub(super) fn need<T>(
        &mut self,
        fields: &mut Fields,
        name: &'static str,
        read: impl FnOnce(&mut Self, At) -> Option<T>,
    ) -> Option<T> {
        if self.tree.get(fields.at, name).is_none() {
            fields.known.push(name);
            self.missing(fields, name);
            return None;
        }
        self.opt(fields, name, read)
    }

    /// Reports a field that is not there. A misspelt one is reported as unknown, with this name as its fix.
    pub(super) fn missing(&mut self, fields: &Fields, name: &str) {
        let span = self.tree.key_span(fields.at);
        let what = fields.what;
        let found = self.error(fields.at, "missing-field", format!("{what} needs the field `{name}`"));
        found.span = span;
    }

    /// Which one of several fields is there; not exactly one is an error.
    pub(super) fn choice(&mut self, fields: &mut Fields, names: &[&'static str]) -> Option<&'static str> {
        fields.known.extend(names);
        let given: Vec<&'static str> =
            names.iter().copied().filter(|name| self.tree.get(fields.at, name).is_some()).collect();
        let listed = names.join("`, `");
        let what = fields.what;
        match given[..] {
            [one] => return Some(one),
            [] => {
                let span = self.tree.key_span(fields.at);
                let found = self.error(fields.at, "missing-field", format!("{what} needs one of `{listed}`"));
                found.span = span;
            }
            [_, second, ..] => {
                let at = self.tree.get(fields.at, second).expect("given");
                let span = self.tree.key_span(at);
                let both = given.join("`, `");
                let found = self.error(at, "conflicting-fields", format!("{what} may have only one of `{both}`"));
                found.span = span;
            }
        }
        None
    }

    /// Ends a map that may have no other fields.
    pub(super) fn close(&mut self, fields: Fields) {
        self.close_for(fields, &[]);
    }

    /// Ends a map; some unknown fields have a reason of their own.
    pub(super) fn close_for(&mut self, fields: Fields, reasons: &[(&str, &str)]) {
        let absent = self.absent(&fields);
        for (name, at) in self.tree.entries(fields.at) {
            if fields.known.contains(&&**name) {
                continue;
            }
            if self.found.len() > super::MAX_FOUND && self.found.last().is_some_and(|last| last.code == "unknown-field")
            {
                break;
            }
            let near = if self.found.len() < MANY { nearest(name, absent.iter().copied()) } else { None };
            let reason = reasons.iter().find(|(field, _)| *field == &**name);
            let span = self.tree.key_span(*at);
            let what = fields.what;
            let found = self.error(*at, "unknown-field", format!("{what} has no field `{name}`"));
            found.span = span;
            match (reason, near) {
                (Some((_, reason)), _) => found.hint = Some(reason.to_string()),
                (None, Some(near)) => {
                    found.hint = Some(format!("did you mean `{near}`?"));
                    found.fix = Some(near.to_string());
                }
                (None, None) => {
                    let mut known = fields.known.clone();
                    known.dedup();
                    found.hint = Some(format!("it has `{}`", known.join("`, `")));
                }
            }
        }
    }

    /// Known fields that are not there: one of them may be what a wrong name means.
    fn absent(&self, fields: &Fields) -> Vec<&'static str> {
        fields.known.iter().copied().filter(|known| self.tree.get(fields.at, known).is_none()).collect()
    }

    /// Ends a map that may have other fields; one that nearly has the name of a known one is a warning.
    pub(super) fn open(&mut self, fields: Fields) {
        let absent = self.absent(&fields);
        for (name, at) in self.tree.entries(fields.at).iter().take(MANY) {
            if fields.known.contains(&&**name) {
                continue;
            }
            if let Some(near) = nearest(name, absent.iter().copied()) {
                let mut found = self.tree.finding(
                    Severity::Warning,
                    *at,
                    "unknown-field",
                    format!("`{name}` is passed over; did you mean `{near}`?"),
                );
                found.span = self.tree.key_span(*at);
                found.fix = Some(near.to_string());
                self.found.push(found);
            }
        }
    }

    pub(super) fn text(&mut self, at: At) -> Option<Text> {
        match self.tree.text(at) {
            Some(text) => Some(Text { at, text: text.into() }),
            None => {
                self.wrong_type(at, "a text");
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, at: At) -> Option<bool> {
        match self.tree.node(at) {
            Node::Bool(bool) => Some(*bool),
            _ => {
                self.wrong_type(at, "true or false");
                None
            }
        }
    }

    /// A whole number; one with a fraction of zero is whole.
    pub(super) fn whole(&mut self, at: At) -> Option<i64> {
        if let Node::Number(number) = self.tree.node(at) {
            if let Some(whole) = number.as_i64() {
                return Some(whole);
            }
            if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0) {
                return Some(float as i64);
            }
        }
        self.wrong_type(at, "a whole number");
        None
    }

    pub(super) fn any(&mut self, at: At) -> Option<At> {
        Some(at)
    }

    /// A map of anything.
    pub(super) fn map(&mut self, at: At) -> Option<At> {
        self.fields(at, "this").map(|_| at)
    }

    /// A map of texts.
    pub(super) fn texts(&mut self, at: At) -> Option<At> {
        self.fields(at, "this")?;
        for (_, value) in self.tree.entries(at) {
            self.text(*value);
        }
        Some(at)
    }

    pub(super) fn map_or_text(&mut self, at: At) -> Option<At> {
        match self.tree.node(at) {
            Node::Map(_) | Node::String(_) => Some(at),
            _ => {
                self.wrong_type(at, "a text (an expression) or a map");
                None
            }
        }
    }

    /// One of some words.
    pub(super) fn word(&mut self, at: At, words: &[&'static str]) -> Option<&'static str> {
        let text = self.text(at)?;
        if let Some(word) = words.iter().find(|word| **word == &*text.text) {
            return Some(word);
        }
        let near = nearest(&text.text, words.iter().copied()).map(str::to_string);
        let message = format!("has to be one of `{}`, not `{}`", words.join("`, `"), text.text);
        let found = self.error(at, "wrong-value", message);
        if let Some(near) = near {
            found.hint = Some(format!("did you mean `{near}`?"));
            found.fix = Some(near);
        }
        None
    }

    /// A list.
    pub(super) fn list<T>(&mut self, at: At, mut read: impl FnMut(&mut Self, At) -> Option<T>) -> Option<Vec<T>> {
        if !matches!(self.tree.node(at), Node::List(_)) {
            self.wrong_type(at, "a list");
            return None;
        }
        let items: Vec<At> = self.tree.items(at).to_vec();
        let read: Vec<Option<T>> = items.into_iter().map(|item| read(self, item)).collect();
        read.into_iter().collect()
    }

    /// A map whose keys are names.
    pub(super) fn named<T>(
        &mut self,
        at: At,
        mut read: impl FnMut(&mut Self, At) -> Option<T>,
    ) -> Option<Vec<(Text, T)>> {
        self.fields(at, "this")?;
        let mut all = Vec::new();
        for (name, value) in self.tree.entries(at) {
            let name = Text { at: *value, text: (&**name).into() };
            if let Some(value) = read(self, *value) {
                all.push((name, value));
            }
        }
        Some(all)
    }

    /// An item of a list of named things: a map with one key.
    pub(super) fn single(&mut self, at: At, what: &'static str) -> Option<(Box<str>, At)> {
        self.fields(at, what)?;
        match self.tree.entries(at) {
            [(name, value)] => Some((name.clone(), *value)),
            [] => {
                self.error(at, "missing-name", format!("{what} needs a name"));
                None
            }
            [_, (second, value), ..] => {
                let span = self.tree.key_span(*value);
                let message = format!("{what} has one name, and `{second}` is a second one");
                let found = self.error(*value, "several-names", message);
                found.span = span;
                found.hint = Some(format!("begin a new item of the list: `- {second}:`"));
                None
            }
        }
    }
}
