//! Warnings about the way of a run: statements that are never reached, switches without a way out, retries without end.

use std::collections::BTreeSet;

use super::circle::Waits;
use super::{Linter, texts};
use crate::diagnostic::Severity;
use crate::model::{Call, Kind, RetryRef, Run, Statement};

impl<'t> Linter<'t> {
    pub(super) fn flow(&mut self) {
        let document = self.document;
        let waits = Waits::of(document);
        self.list(&document.body, &waits);
        let extensions = document.uses.extensions.iter();
        for list in extensions.flat_map(|one| one.before.iter().chain(&one.after)) {
            self.list(list, &waits);
        }
        let mut all: Vec<&'t Statement> = Vec::new();
        document.visit(&mut |statement| all.push(statement));
        for statement in all {
            let branches = matches!(statement.kind, Kind::Fork { .. });
            for list in statement.lists().into_iter().filter(|_| !branches) {
                self.list(list, &waits);
            }
            self.switch(statement);
            self.retries(statement);
            self.fan_out(statement);
        }
    }

    /// Names given twice, statements that nothing leads to, and circles that nothing leads out of.
    fn list(&mut self, list: &'t [Statement], waits: &Waits<'t>) {
        let mut names = BTreeSet::new();
        for statement in list {
            if !names.insert(&statement.name) {
                let span = self.tree.key_span(statement.at);
                let message = format!("two statements of this list have the name `{}`", statement.name);
                self.warn(statement.at, "duplicate-name", message, "rename one: a `then` could not tell them apart")
                    .span = span;
            }
        }
        let mut reached = vec![false; list.len()];
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            if at >= list.len() || std::mem::replace(&mut reached[at], true) {
                continue;
            }
            open.extend(next(list, at));
        }
        for (statement, _) in list.iter().zip(&reached).filter(|(_, reached)| !**reached) {
            let span = self.tree.key_span(statement.at);
            let message = format!("nothing leads to `{}`", statement.name);
            self.warn(statement.at, "unreachable", message, "drop it, or name it in a `then`").span = span;
        }
        self.circles(list, &reached, waits);
        let jumps = list.iter().filter(|statement| target(list, statement).is_some()).count();
        if list.len() > 100 {
            let message = format!("a list of {} statements is hard to follow and to change", list.len());
            self.note(
                Severity::Hint,
                list[0].at,
                "over-coupled",
                message,
                "move parts that belong together into workflows of their own, and run them with `run.workflow`",
            );
        } else if jumps > 4 && jumps * 2 > list.len() {
            let message = format!(
                "{jumps} of the {} statements of this list jump: each is coupled to the others by name",
                list.len()
            );
            self.note(
                Severity::Hint,
                list[0].at,
                "over-coupled",
                message,
                "group what belongs together in `do`, so that `switch` chooses between groups",
            );
        }
    }

    fn switch(&mut self, statement: &'t Statement) {
        let Kind::Switch(cases) = &statement.kind else { return };
        if cases.iter().all(|case| case.when.is_some()) && statement.then.is_none() {
            let span = self.tree.key_span(statement.at);
            self.warn(
                statement.at,
                "no-default-case",
                "if no case fits, the run goes on with the next statement of the list",
                "add a case without `when`, or a `then` to the switch",
            )
            .span = span;
        }
        for (index, case) in cases.iter().enumerate() {
            if case.when.is_none() && index + 1 < cases.len() {
                let message = format!("`{}` always fits: the cases after it are never looked at", case.name);
                self.warn(case.at, "unreachable", message, "move it to the end");
            }
        }
    }

    fn retries(&mut self, statement: &'t Statement) {
        let Kind::Try { catch, .. } = &statement.kind else { return };
        let (at, retry) = match &catch.retry {
            None => return,
            Some(RetryRef::Inline(retry)) => (retry.at, Some(&**retry)),
            Some(RetryRef::Named(name)) => {
                let all = &self.document.uses.retries;
                (name.at, all.iter().find(|(known, _)| known.text == name.text).map(|(_, retry)| retry))
            }
        };
        if retry.is_some_and(|retry| retry.count.is_none() && retry.limit.is_none()) {
            self.warn(at, "endless-retry", "this retry has no end", "set `limit.attempt.count` or `limit.duration`");
        }
    }

    /// Work that is started for each item without a bound on how much of it there is at a time.
    fn fan_out(&mut self, statement: &'t Statement) {
        match &statement.kind {
            Kind::For { body, .. } => {
                let mut starts = Vec::new();
                for inner in body {
                    inner.visit(&mut |inner| {
                        if let Kind::Run { awaited: false, .. } = inner.kind {
                            starts.push(inner.at);
                        }
                    });
                }
                for at in starts {
                    self.warn(
                        at,
                        "unlimited-fan-out",
                        "the loop starts one for each item and waits for none: nothing bounds how many there are at a time",
                        "use `call: map:1.0.0@default` with `concurrency`, or wait for each with `await: true`",
                    );
                }
            }
            Kind::Call(Call::Function { name, with }) if name.text.starts_with("map:") => {
                let limited = with.is_some_and(|with| self.tree.get(with, "concurrency").is_some());
                if !limited {
                    self.note(
                        Severity::Hint,
                        name.at,
                        "fan-out-default",
                        "at most 10 items are at work at a time",
                        "set `concurrency` to what the peer takes",
                    );
                }
            }
            Kind::Run { run: Run::Workflow { .. }, awaited: false, .. } => {
                let mut used = false;
                if let Some(at) = statement.output.transform {
                    texts(self.tree, at, &mut |_, _| used = true);
                }
                if used {
                    self.warn(
                        statement.at,
                        "output-not-awaited",
                        "with `await: false` the output is the input, not what the workflow gives",
                        "drop `output.as`, or wait with `await: true`",
                    );
                }
            }
            _ => {}
        }
    }
}

fn target(list: &[Statement], statement: &Statement) -> Option<usize> {
    let then = statement.then.as_ref()?;
    list.iter().position(|sibling| sibling.name == then.text)
}

/// Where the run may be after a statement; behind the list where it leaves the list.
pub(super) fn next(list: &[Statement], at: usize) -> Vec<usize> {
    let statement = &list[at];
    let named = |name: &str| match name {
        "continue" => Some(at + 1),
        "exit" | "end" => Some(list.len()),
        name => list.iter().position(|sibling| &*sibling.name == name),
    };
    let mut all = Vec::new();
    let mut default = true;
    match &statement.kind {
        Kind::Switch(cases) => {
            all.extend(cases.iter().filter_map(|case| named(&case.then.text)));
            default = cases.iter().all(|case| case.when.is_some());
        }
        Kind::Try { catch, .. } => all.extend(catch.then.iter().filter_map(|then| named(&then.text))),
        // Nothing comes after an error that is raised, unless the statement is skipped.
        Kind::Raise(_) => default = statement.condition.is_some(),
        _ => {}
    }
    if default || statement.condition.is_some() {
        match &statement.then {
            Some(then) => all.extend(named(&then.text)),
            None => all.push(at + 1),
        }
    }
    if statement.condition.is_some() {
        // After a statement that is skipped comes the next one, whatever its `then` says.
        all.push(at + 1);
    }
    all
}
