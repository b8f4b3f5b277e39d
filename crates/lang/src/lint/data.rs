//! Warnings about data: contexts, literals that look like expressions, time, secrets.

use std::collections::BTreeMap;

use super::{Linter, expressions, texts};
use crate::diagnostic::Severity;
use crate::model::{Call, Kind, Output, Run, Statement};
use crate::text::At;

/// Functions whose value differs from one look to the next.
const CLOCK: [&str; 4] = ["now", "localtime", "gmtime", "mktime"];

impl<'t> Linter<'t> {
    pub(super) fn data(&mut self) {
        let document = self.document;
        let mut all: Vec<&'t Statement> = Vec::new();
        document.visit(&mut |statement| all.push(statement));
        self.contexts(&all);
        for statement in all {
            self.literals(statement);
            self.times(statement);
            self.secrets(statement);
            self.branches(statement);
            self.reads(statement);
        }
        self.braces();
    }

    /// An `export.as` without `$context` throws away what was exported before.
    fn contexts(&mut self, all: &[&'t Statement]) {
        let mut exported = false;
        for statement in all {
            let Output { transform: Some(at), .. } = &statement.export else { continue };
            if exported && !self.tree.json(*at).to_string().contains("$context") {
                self.warn(
                    *at,
                    "context-replaced",
                    "this export replaces the context: what statements before it exported is gone",
                    "keep it with `$context + { .. }`",
                );
            }
            exported = true;
        }
    }

    /// Values that look like expressions and are texts.
    fn literals(&mut self, statement: &'t Statement) {
        if self.document.loose {
            return;
        }
        let at = match &statement.kind {
            Kind::Set(at) => Some(*at),
            Kind::Call(Call::Protocol { with, .. }) => Some(*with),
            Kind::Call(Call::Function { with, .. }) => *with,
            Kind::Run { run: Run::Workflow { input, .. }, .. } => *input,
            Kind::Emit { with } => *with,
            _ => None,
        };
        let Some(at) = at else { return };
        let mut found = Vec::new();
        texts(self.tree, at, &mut |at, text| {
            if looks_like_expression(text) {
                found.push((at, text));
            }
        });
        for (at, text) in found {
            let message = format!("`{text}` is a text here, not an expression");
            self.warn(at, "literal-expression", message, "value fields need `${ }`").fix =
                Some(format!("${{ {text} }}"));
        }
    }

    /// `{{ }}` belongs to other languages.
    fn braces(&mut self) {
        let mut found = Vec::new();
        texts(self.tree, self.tree.root(), &mut |at, text| {
            if text.contains("{{") && text.contains("}}") && !text.contains("${") {
                found.push(at);
            }
        });
        for at in found {
            self.warn(
                at,
                "double-braces",
                "`{{ }}` means nothing here",
                "expressions stand in `${ }`, names in a URI in `{ }`",
            );
        }
    }

    /// A condition that looks at the clock gives another answer when it is looked at again.
    fn times(&mut self, statement: &'t Statement) {
        let mut conditions: Vec<_> = statement.condition.iter().collect();
        match &statement.kind {
            Kind::For { condition, .. } => conditions.extend(condition),
            Kind::Switch(cases) => conditions.extend(cases.iter().filter_map(|case| case.when.as_ref())),
            Kind::Try { catch, .. } => conditions.extend(catch.when.iter().chain(&catch.except_when)),
            _ => {}
        }
        for condition in conditions {
            for code in expressions(&condition.text, true) {
                if let Some(name) = CLOCK.iter().find(|name| has_word(code, name)) {
                    let message =
                        format!("`{name}` in a condition: the way of the run depends on when it is looked at");
                    self.warn(
                        condition.at,
                        "time-in-condition",
                        message,
                        "take the time once with `set`, and compare that",
                    );
                }
            }
        }
    }

    /// Secrets that come back in an output.
    fn secrets(&mut self, statement: &'t Statement) {
        let tree = self.tree;
        let names = |at: At| {
            let text = tree.json(at).to_string();
            text.contains("$secrets") || text.contains("$authorization")
        };
        match &statement.kind {
            Kind::Call(Call::Protocol { with, .. }) => {
                let output = tree.get(*with, "output").filter(|at| tree.text(*at) == Some("response"));
                let headers =
                    ["headers", "query", "endpoint"].iter().filter_map(|name| tree.get(*with, name)).any(names);
                if let (Some(at), true) = (output, headers) {
                    self.warn(
                        at,
                        "secret-in-output",
                        "the output holds the request with its headers and address, and these hold a secret",
                        "use `output: content`, or drop `.request` with `output.as`",
                    );
                }
            }
            Kind::Run { run: Run::Process { with, .. }, .. } => {
                for name in ["command", "arguments"] {
                    if let Some(at) = tree.get(*with, name).filter(|at| names(*at)) {
                        self.warn(
                            at,
                            "secret-in-output",
                            "a secret in the command line is seen by everything on that machine, and easily printed",
                            "pass it through `environment` or `stdin`",
                        );
                    }
                }
            }
            _ => {}
        }
    }

    /// Branches that export the same key: the last in the order of the text wins.
    fn branches(&mut self, statement: &'t Statement) {
        let Kind::Fork { branches, compete: false } = &statement.kind else { return };
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut found = Vec::new();
        for (index, branch) in branches.iter().enumerate() {
            branch.visit(&mut |statement| {
                let Some(at) = statement.export.transform else { return };
                for key in exported_keys(self, at) {
                    let first = *seen.entry(key.clone()).or_insert(index);
                    if first != index {
                        found.push((at, key, first));
                    }
                }
            });
        }
        for (at, key, first) in found {
            let message =
                format!("the branch `{}` exports `{key}` too: the later one in the text wins", branches[first].name);
            self.warn(at, "branches-export-same-key", message, "give each branch a key of its own");
        }
    }

    /// `.data` of what is the data already.
    fn reads(&mut self, statement: &'t Statement) {
        let Kind::Listen { read: tidewheel_engine::run::plan::Read::Data, .. } = &statement.kind else { return };
        let Some(at) = statement.output.transform else { return };
        if self.tree.text(at).is_some_and(|text| text.contains(".data")) {
            self.note(
                Severity::Hint,
                at,
                "data-of-data",
                "a listen reads the data of an event; `.data` is a field inside them",
                "write `read: envelope` beside `to` if the field of the event is meant",
            );
        }
    }
}

/// Keys of an export: those of a map, or of an object that the expression makes.
fn exported_keys(linter: &Linter<'_>, at: At) -> Vec<String> {
    let entries = linter.tree.entries(at);
    if !entries.is_empty() {
        return entries.iter().map(|(key, _)| key.to_string()).collect();
    }
    let Some(text) = linter.tree.text(at) else { return Vec::new() };
    let Some((_, object)) = text.trim_start_matches("${").split_once('{') else { return Vec::new() };
    object
        .split(',')
        .filter_map(|field| field.split(':').next())
        .map(|key| key.trim().trim_matches('"').to_string())
        .filter(|key| !key.is_empty() && key.chars().all(|char| char.is_alphanumeric() || char == '_'))
        .collect()
}

/// `$name`, `$name.field`, `.field`, `.field.other`: hardly ever meant as a text.
fn looks_like_expression(text: &str) -> bool {
    let path = |text: &str| {
        text.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_')
            && text.chars().all(|char| char.is_ascii_alphanumeric() || "_.[]\"".contains(char))
    };
    match text.strip_prefix('$') {
        Some(rest) => path(rest),
        None => text.strip_prefix('.').is_some_and(path),
    }
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_' || char == '.' || char == '$'))
        .any(|part| part == word)
}
