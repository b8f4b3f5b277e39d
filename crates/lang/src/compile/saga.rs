//! `saga`: steps, and what undoes them.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use tidewheel_engine::id::Name;
use tidewheel_engine::run::plan::{Backoff, Duration, ExprId, Kind, SagaStep, Target};
use tidewheel_engine::run::undo::UndoRetry;

use super::Work;
use super::expression::Place;
use crate::duration;
use crate::lint::{expressions, texts};
use crate::model::{self, Statement};
use crate::resolve::{PYTHON, SAGA, TASK};
use crate::saga;
use crate::text::{At, Node};

/// Steps of a saga.
const MAX_STEPS: usize = 100;
/// Bytes of the name of a step.
const MAX_NAME: usize = 100;
/// Retries of an undo.
const MAX_RETRIES: u64 = 1_000;

impl<'t> Work<'t> {
    pub(super) fn saga(&mut self, statement: &'t Statement, with: Option<At>) -> Kind {
        self.check_arguments(statement, with, &["steps", "retry"], &["steps"]);
        let argument = |work: &Self, name: &str| with.and_then(|with| work.tree.get(with, name));
        let retry = argument(self, "retry").map_or_else(UndoRetry::default, |at| self.undo_retry(at));
        let Some(at) = argument(self, "steps") else { return Kind::Saga { steps: Vec::new(), retry } };
        let all = match self.tree.node(at) {
            Node::List(all) => all.clone(),
            _ => Vec::new(),
        };
        if all.is_empty() || all.len() > MAX_STEPS {
            let message = format!("`steps` is a list of 1 to {MAX_STEPS} steps, each with `name`, `do` and `with`");
            self.error(at, "wrong-value", message);
        }
        let mut names = BTreeSet::new();
        let mut steps = Vec::new();
        for at in all.into_iter().take(MAX_STEPS) {
            let Some(step) = self.saga_step(statement, at, &names) else { continue };
            if !names.insert(step.name.clone()) {
                let message = format!("two steps have the name `{}`", step.name);
                let at = self.tree.get(at, "name").unwrap_or(at);
                self.error(at, "duplicate-name", message).hint =
                    Some("outputs are found by the names of their steps: rename one".to_string());
            }
            steps.push(step);
        }
        Kind::Saga { steps, retry }
    }

    /// A step; `before` are those that have finished when it begins.
    fn saga_step(&mut self, statement: &'t Statement, at: At, before: &BTreeSet<Name>) -> Option<SagaStep> {
        if !self.is_map(at) {
            self.error(at, "wrong-type", "a step is a map with `name`, `do`, `with`, `undo` and `undoWith`");
            return None;
        }
        let known = ["name", "do", "with", "undo", "undoWith"];
        for (name, value) in self.entries(at) {
            if !known.contains(&&*name) {
                let span = self.tree.key_span(value);
                self.unknown(value, format!("a step has no field `{name}`"), known, &name);
                self.found.last_mut().expect("just reported").span = span;
            }
        }
        let part = |work: &Self, name: &str| work.tree.get(at, name);
        let name = self.step_name(at, part(self, "name"))?;
        let steps: [Name; 1] = ["steps".into()];
        let (target, with) = self.with_locals(&steps, |work| {
            let function = work.needed(at, part(work, "do"), "do")?;
            work.step_call(statement, function, part(work, "with"), ("do", "with"))
        })?;
        if let Some(with) = part(self, "with") {
            let missing = format!("no step before `{name}` has the name");
            self.known_steps(with, &missing, before);
        }
        if let Some(with) = part(self, "undoWith") {
            let missing = format!("neither `{name}` nor a step before it has the name");
            let own = before.iter().cloned().chain([name.clone()]).collect();
            self.known_steps(with, &missing, &own);
        }
        let undo = match (part(self, "undo"), part(self, "undoWith")) {
            (None, None) => None,
            (None, Some(with)) => {
                self.error(with, "missing-field", "`undoWith` are the arguments of `undo`, which is missing");
                None
            }
            (Some(undo), with) => {
                self.with_locals(&steps, |work| work.step_call(statement, undo, with, ("undo", "undoWith")))
            }
        };
        let reference = format!("{}/{name}", self.tree.pointer(statement.at)).into();
        Some(SagaStep { name, reference, target, with, undo })
    }

    /// Outputs that expressions name are those of steps that have finished by then: any other would be null, and nobody would notice.
    fn known_steps(&mut self, with: At, missing: &str, known: &BTreeSet<Name>) {
        let mut unknown = Vec::new();
        texts(self.tree, with, &mut |at, text| {
            let named = expressions(text, false).into_iter().flat_map(saga::named_steps);
            unknown.extend(named.filter(|name| !known.contains(*name)).map(|name| (at, name.to_string())));
        });
        for (at, name) in unknown {
            let message = format!("{missing} `{name}`: `$steps` has the outputs of the steps that finished");
            self.unknown(at, message, known.iter().map(|name| &**name), &name);
        }
    }

    fn needed(&mut self, at: At, found: Option<At>, name: &str) -> Option<At> {
        if found.is_none() {
            self.error(at, "missing-field", format!("a step needs `{name}`"));
        }
        found
    }

    /// The name of a step: part of the references by which it is called.
    fn step_name(&mut self, at: At, name: Option<At>) -> Option<Name> {
        let name = self.needed(at, name, "name")?;
        let fits = |text: &&str| !text.is_empty() && text.len() <= MAX_NAME && !text.contains(['/', '~', '$']);
        let text = self.tree.text(name).filter(fits).map(Name::from);
        if text.is_none() {
            let message =
                format!("the name of a step is a plain text of 1 to {MAX_NAME} bytes without `/`, `~` and `$`");
            self.error(name, "wrong-value", message);
        }
        text
    }

    /// What a step or its undo calls, and its arguments.
    fn step_call(
        &mut self,
        statement: &'t Statement,
        function: At,
        with: Option<At>,
        (what, arguments): (&str, &str),
    ) -> Option<(Target, ExprId)> {
        let python = match self.tree.text(function) {
            Some(PYTHON) => true,
            Some(TASK) => false,
            Some(SAGA) => {
                let message = format!("`{what}` is no saga in a saga");
                self.error(function, "not-supported", message).hint = Some(
                    "write its steps into this one, or start a workflow that has it behind this statement".to_string(),
                );
                return None;
            }
            _ => {
                let message = format!("`{what}` is `{PYTHON}` or `{TASK}`");
                self.error(function, "not-supported", message).hint =
                    Some("a step has to be one task, so that it is known whether it was done".to_string());
                return None;
            }
        };
        let Some(with) = with.filter(|with| self.is_map(*with)) else {
            let message = format!("`{what}` needs its arguments in `{arguments}`, a map");
            self.error(function, "missing-field", message);
            return None;
        };
        if python {
            return Some((Target::Python, self.map_arguments(statement, with)));
        }
        self.check_arguments(statement, Some(with), &["type", "input"], &["type"]);
        let kind = self.tree.get(with, "type").and_then(|at| self.task_type(at))?;
        let input = match self.tree.get(with, "input") {
            Some(input) => self.template(input, Place::Body),
            None => self.dot(),
        };
        Some((Target::Task(kind), input))
    }

    /// How undos are tried again: a retry policy of which `delay`, `backoff` and `limit.attempt.count` are used, all known now.
    fn undo_retry(&mut self, at: At) -> UndoRetry {
        if let Some(name) = self.tree.text(at) {
            let document = self.document;
            let all = &document.uses.retries;
            if let Some((_, retry)) = all.iter().find(|(known, _)| *known.text == *name) {
                return self.named_retry(at, retry);
            }
            let (known, name) = (all.iter().map(|(known, _)| &*known.text), name.to_string());
            self.unknown(at, format!("there is no retry policy `{name}` in `use.retries`"), known, &name);
            return UndoRetry::default();
        }
        let policy = self.tree.json(at);
        let mut retry = UndoRetry::default();
        let known = |fields: &Json, known: &[&str]| {
            fields.as_object().is_some_and(|fields| fields.keys().all(|key| known.contains(&key.as_str())))
        };
        let limit = policy.get("limit").cloned().unwrap_or_else(|| serde_json::json!({}));
        let attempt = limit.get("attempt").cloned().unwrap_or_else(|| serde_json::json!({}));
        let fits = known(&policy, &["delay", "backoff", "limit"])
            && known(&limit, &["attempt"])
            && known(&attempt, &["count"]);
        if !fits {
            let message =
                "the retry of a saga has `delay`, `backoff` and `limit: { attempt: { count } }`, and nothing else";
            self.error(at, "wrong-value", message).hint =
                Some("an undo is tried again after any error: it has to be done".to_string());
            return retry;
        }
        if let Some(delay) = policy.get("delay") {
            match duration::millis(delay) {
                Ok(ms) => retry.delay_ms = ms,
                Err(why) => {
                    self.error(self.tree.get(at, "delay").unwrap_or(at), "wrong-value", why);
                }
            }
        }
        if let Some(backoff) = policy.get("backoff") {
            let names: Vec<&str> =
                backoff.as_object().map(|map| map.keys().map(String::as_str).collect()).unwrap_or_default();
            match names[..] {
                ["constant"] => retry.backoff = Backoff::Constant,
                ["exponential"] => retry.backoff = Backoff::Exponential,
                ["linear"] => retry.backoff = Backoff::Linear,
                _ => {
                    let at = self.tree.get(at, "backoff").unwrap_or(at);
                    self.error(at, "wrong-value", "`backoff` is one of `constant`, `exponential`, `linear`, each `{}`");
                }
            }
        }
        if let Some(count) = attempt.get("count") {
            match count.as_u64().filter(|count| *count <= MAX_RETRIES) {
                Some(count) => retry.count = count as u32,
                None => {
                    self.error(at, "wrong-value", format!("`count` is a number of retries: 0 to {MAX_RETRIES}"));
                }
            }
        }
        retry
    }

    fn named_retry(&mut self, at: At, policy: &model::Retry) -> UndoRetry {
        let other = policy.when.is_some() || policy.except_when.is_some() || policy.jitter.is_some();
        if other || policy.attempt_limit.is_some() || policy.limit.is_some() {
            self.error(
                at,
                "wrong-value",
                "a saga uses of a retry policy `delay`, `backoff` and `limit.attempt.count` alone",
            );
        }
        let mut retry = UndoRetry { backoff: policy.backoff, ..UndoRetry::default() };
        if let Some(delay) = &policy.delay {
            match self.duration(delay, Place::Body) {
                Some(Duration::Fixed(ms)) => retry.delay_ms = ms,
                _ => {
                    self.error(at, "wrong-value", "the delay of a saga's retry is no expression");
                }
            }
        }
        if let Some((_, count)) = policy.count {
            retry.count = u32::try_from(count).unwrap_or(u32::MAX).min(MAX_RETRIES as u32);
        }
        retry
    }
}
