//! Order: the longest chain of work, and work that waits without need.

use serde::Serialize;

use super::{Linter, expressions, texts, uses_dot};
use crate::diagnostic::Severity;
use crate::model::{Call, Kind, Statement};
use crate::saga;

/// The longest chain of statements that wait for each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CriticalPath {
    /// References of the statements on it that do work elsewhere or wait; of a saga, those of its steps.
    pub statements: Vec<String>,
    /// All statements that do work elsewhere or wait, each step of a saga counted.
    pub work: usize,
}

/// What a statement reads and writes.
struct Access {
    dot: bool,
    context: bool,
    exports: bool,
}

impl<'t> Linter<'t> {
    pub(super) fn order(&mut self) -> CriticalPath {
        let document = self.document;
        let mut lists: Vec<&'t [Statement]> = vec![&document.body];
        let mut work = 0;
        for statement in &document.body {
            statement.visit(&mut |statement| {
                work += match saga::steps(self.tree, statement) {
                    Some(steps) => steps.len(),
                    None => usize::from(is_work(statement)),
                };
                if !matches!(statement.kind, Kind::Fork { .. }) {
                    lists.extend(statement.lists());
                }
            });
        }
        for list in lists {
            self.independent(list);
        }
        let statements = self.longest(&document.body);
        CriticalPath { statements, work }
    }

    fn longest(&self, list: &[Statement]) -> Vec<String> {
        list.iter().flat_map(|statement| self.chain(statement)).collect()
    }

    fn chain(&self, statement: &Statement) -> Vec<String> {
        if let Some(steps) = saga::steps(self.tree, statement) {
            return steps.into_iter().map(|step| step.reference).collect();
        }
        match &statement.kind {
            Kind::Fork { branches, compete } => {
                let chains = branches.iter().map(|branch| self.chain(branch));
                // A race is over with its first branch.
                let chosen = if *compete { chains.min_by_key(Vec::len) } else { chains.rev().max_by_key(Vec::len) };
                chosen.unwrap_or_default()
            }
            Kind::Try { body, .. } => self.longest(body),
            Kind::Do(body) | Kind::For { body, .. } => self.longest(body),
            _ if is_work(statement) => vec![self.tree.pointer(statement.at)],
            _ => Vec::new(),
        }
    }

    /// Neighbours of which none reads what another one makes.
    fn independent(&mut self, list: &'t [Statement]) {
        let mut start = 0;
        while start < list.len() {
            let mut end = start + 1;
            if is_plain_work(&list[start]) {
                let mut exported = self.access(&list[start]).exports;
                while end < list.len() && is_plain_work(&list[end]) && list[end - 1].then.is_none() {
                    let access = self.access(&list[end]);
                    if access.dot || access.context && exported {
                        break;
                    }
                    exported |= access.exports;
                    end += 1;
                }
            }
            if end - start > 1 {
                let names: Vec<String> = list[start..end].iter().map(|one| format!("`{}`", one.name)).collect();
                let message = format!("{} do not use each other's data, and yet wait for each other", names.join(", "));
                let span = self.tree.key_span(list[start].at);
                let hint = "put them into the branches of a `fork`; its output is an array in their order";
                self.note(Severity::Hint, list[start].at, "lost-parallelism", message, hint).span = span;
            }
            start = end;
        }
    }

    fn access(&self, statement: &Statement) -> Access {
        let mut access = Access { dot: false, context: false, exports: statement.export.transform.is_some() };
        let saga = saga::steps(self.tree, statement).is_some();
        // Arguments that are left out are the input.
        access.dot |= matches!(&statement.kind, Kind::Call(Call::Function { with: None, .. }));
        let bare = ["if", "from", "as", "in", "while", "when"];
        for (name, value) in self.tree.entries(statement.at) {
            if &**name == "output" || &**name == "export" {
                continue;
            }
            texts(self.tree, *value, &mut |at, text| {
                let pointer = self.tree.pointer(at);
                // There the dot is what the step gave.
                let undoes = saga && pointer.contains("/undoWith/");
                let field = pointer.rsplit('/').next().unwrap_or("");
                for code in expressions(text, bare.contains(&field)) {
                    access.dot |= uses_dot(code) && !undoes || code.contains("$input") || code.contains("$task");
                    access.context |= code.contains("$context");
                }
                access.dot |= ["endpoint", "uri"].contains(&field) && text.contains('{') && !text.contains("${");
            });
        }
        for transform in [statement.output.transform, statement.export.transform].into_iter().flatten() {
            texts(self.tree, transform, &mut |_, text| {
                access.dot |= text.contains("$input");
                access.context |= text.contains("$context");
            });
        }
        access
    }
}

/// Whether it does work elsewhere, or waits.
fn is_work(statement: &Statement) -> bool {
    matches!(statement.kind, Kind::Call(_) | Kind::Run { .. } | Kind::Wait(_) | Kind::Listen { .. })
}

/// Work whose place in the list does not matter by itself: no wait, no condition on the way.
fn is_plain_work(statement: &Statement) -> bool {
    let work = matches!(&statement.kind, Kind::Call(_) | Kind::Run { awaited: true, .. });
    work && statement.condition.is_none() && statement.then.as_ref().is_none_or(|then| &*then.text == "continue")
}
