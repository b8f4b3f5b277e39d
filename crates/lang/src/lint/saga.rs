//! Sagas: what is not undone when it should be, and what is never undone.
//!
//! That its steps wait for each other is no mistake: in branches of a `fork` each would be a saga of its own, and stay done where another one
//! fails later.

use super::{Linter, texts};
use crate::diagnostic::Severity;
use crate::model::Statement;
use crate::saga::{self, Part};

impl<'t> Linter<'t> {
    pub(super) fn sagas(&mut self) {
        let document = self.document;
        let mut all: Vec<&'t Statement> = Vec::new();
        document.visit(&mut |statement| all.push(statement));
        for statement in all {
            if let Some(steps) = saga::steps(self.tree, statement) {
                self.saga(statement, &steps);
            }
        }
    }

    fn saga(&mut self, statement: &'t Statement, steps: &[Part]) {
        let Some((last, before)) = steps.split_last() else { return };
        if steps.iter().all(|step| step.undo.is_none()) {
            let span = self.tree.key_span(statement.at);
            self.warn(
                statement.at,
                "nothing-undone",
                "no step of this saga has an `undo`: when one fails, what the others did stays",
                "give its steps an `undo`, or write them as a list of calls",
            )
            .span = span;
            return;
        }
        for step in before.iter().filter(|step| step.undo.is_none()) {
            let message = format!("when a step after `{}` fails, what it did stays: it has no `undo`", step.name);
            self.note(
                Severity::Hint,
                step.at,
                "step-without-undo",
                message,
                "give it an `undo`, or put it behind the steps that may fail",
            );
        }
        if let Some((undo, _)) = last.undo {
            let message = format!(
                "nothing comes after `{}`: its undo runs only when the saga is stopped in the moment in which it ends, or its output does not fit",
                last.name
            );
            self.note(
                Severity::Hint,
                undo,
                "undo-of-last-step",
                message,
                "leave it out, unless `output` of the saga may fail: a saga that has ended stays done",
            );
        }
        for step in steps {
            self.constant_undo(step);
        }
    }

    /// An undo that is given the same whatever its step did.
    fn constant_undo(&mut self, step: &Part) {
        let Some((_, Some(with))) = step.undo else { return };
        let whole = self.tree.get(with, "type").is_some() && self.tree.get(with, "input").is_none();
        let mut uses = whole;
        texts(self.tree, with, &mut |_, text| uses |= text.contains("${"));
        if !uses {
            let message = format!("the undo of `{}` is given the same whatever the step did", step.name);
            let hint = "name what is to be undone with an expression: in `undoWith` the dot is the output of the step";
            self.note(Severity::Hint, with, "constant-undo", message, hint);
        }
    }
}
