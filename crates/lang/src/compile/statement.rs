//! Statements to nodes.

use serde_json::{Value as Json, json};
use tidewheel_engine::id::Name;
use tidewheel_engine::run::plan::{Case, Catch, Duration, Extension, Flow, Kind, Node, NodeId, Retry};

use super::expression::Place;
use super::{MANY, MAX_DEFINITIONS, Work};
use crate::diagnostic::{UNKNOWN_NAME, nearest};
use crate::model::{self, RaiseError, RetryRef, Statement, Text};
use crate::text::At;

impl<'t> Work<'t> {
    /// A statement and what is inside it. `siblings` is its list: what its `then` may name.
    pub(super) fn statement(&mut self, statement: &'t Statement, siblings: &'t [Statement]) -> NodeId {
        let definition = self.definition(statement);
        let condition = self.optional(&statement.condition, Place::Early);
        let input = self.intake(&statement.input, Place::Early);
        let timeout = statement.timeout.as_ref().and_then(|timeout| self.timeout(timeout, Place::Early));
        let then = statement.then.as_ref().map_or(Flow::Continue, |then| self.flow(then, siblings));
        let hints = self.hints(statement);
        let extensions = self.extensions_of(statement);
        let kind = self.kind(statement, siblings);
        let output = self.outlet(&statement.output, &statement.export);
        let definition = self.builder.literal(definition);
        let reference: Name = self.tree.pointer(statement.at).into();
        self.add(Node {
            name: statement.name.clone(),
            reference,
            condition,
            input,
            output,
            timeout,
            then,
            extensions,
            hints,
            definition,
            kind,
        })
    }

    /// The statement as `$task.definition` shows it.
    fn definition(&mut self, statement: &Statement) -> Json {
        let span = self.tree.span(statement.at);
        let before = self.defined;
        self.defined += u64::from(span.end.offset.saturating_sub(span.start.offset));
        if self.defined <= MAX_DEFINITIONS {
            return self.tree.json(statement.at);
        }
        if before <= MAX_DEFINITIONS {
            let message = "the statements around statements are too large together";
            self.error(statement.at, "too-large", message).hint =
                Some("nest less deeply, or move parts into workflows of their own".to_string());
        }
        Json::Null
    }

    fn extensions_of(&self, statement: &Statement) -> Vec<Extension> {
        if self.plain > 0 {
            return Vec::new();
        }
        let keyword = match statement.kind.keyword() {
            "do" => "composite",
            "fork" => "composite",
            other => other,
        };
        let fits = |extend: &Name| &**extend == "all" || &**extend == keyword;
        self.extensions.iter().filter(|(extend, _)| fits(extend)).map(|(_, extension)| extension.clone()).collect()
    }

    /// Where a `then` goes.
    pub(super) fn flow(&mut self, then: &Text, siblings: &'t [Statement]) -> Flow {
        match &*then.text {
            "continue" => return Flow::Continue,
            "exit" => return Flow::Exit,
            "end" => return Flow::End,
            _ => {}
        }
        let mut named = siblings.iter().enumerate().filter(|(_, sibling)| sibling.name == then.text);
        if let Some((at, _)) = named.next() {
            if named.next().is_some() {
                let message = format!("two statements of this list have the name `{}`", then.text);
                self.error(then.at, "ambiguous-name", message).hint = Some("rename one of them".to_string());
            }
            return Flow::To(at as u32);
        }
        let document = self.document;
        let mut elsewhere = false;
        if self.found.len() < MANY {
            document.visit(&mut |statement| elsewhere |= statement.name == then.text);
        }
        let message = format!("there is no statement `{}` in this list", then.text);
        let known = siblings.iter().map(|sibling| &*sibling.name).chain(["continue", "exit", "end"]);
        if elsewhere && nearest(&then.text, known.clone()).is_none() {
            self.error(then.at, UNKNOWN_NAME, message).hint = Some(
                "a `then` names a statement of its own list; there is one of this name in another list".to_string(),
            );
        } else {
            self.unknown(then.at, message, known, &then.text);
        }
        Flow::Continue
    }

    fn kind(&mut self, statement: &'t Statement, siblings: &'t [Statement]) -> Kind {
        match &statement.kind {
            model::Kind::Call(call) => self.call(statement, call),
            model::Kind::Do(body) => Kind::Do(self.list(body)),
            model::Kind::Fork { branches, compete } => {
                if branches.is_empty() {
                    self.error(statement.at, "missing-field", "a fork needs at least one branch");
                }
                let branches = branches.iter().map(|branch| self.statement(branch, &[])).collect();
                Kind::Fork { branches, compete: *compete }
            }
            model::Kind::Emit { with } => self.emit(statement, *with),
            model::Kind::For { each, items, at, condition, body } => {
                let items = self.transform(*items, Place::Body);
                let each = self.local(each, "item");
                let at = self.local(at, "index");
                let (condition, body) = self.with_locals(&[each.clone(), at.clone()], |work| {
                    (work.optional(condition, Place::Body), work.list(body))
                });
                Kind::For { each, items, at, condition, body }
            }
            model::Kind::Listen { to, read, foreach } => self.listen(statement, to, *read, foreach.as_ref()),
            model::Kind::Raise(error) => Kind::Raise { error: self.raised(error) },
            model::Kind::Run { run, awaited, result } => self.run(statement, run, *awaited, result.as_ref()),
            model::Kind::Set(at) => Kind::Set(self.template(*at, Place::Body)),
            model::Kind::Switch(cases) => {
                let compile = |case: &'t model::Case| Case {
                    name: case.name.clone(),
                    when: self.optional(&case.when, Place::Body),
                    then: self.flow(&case.then, siblings),
                };
                let compiled: Vec<Case> = cases.iter().map(compile).collect();
                let defaults: Vec<At> = cases.iter().filter(|case| case.when.is_none()).map(|case| case.at).collect();
                if let [_, second, ..] = defaults[..] {
                    self.error(second, "conflicting-fields", "a switch has at most one case without `when`");
                }
                Kind::Switch(compiled)
            }
            model::Kind::Try { body, catch } => {
                let body = self.list(body);
                Kind::Try { body, catch: self.catch(catch, siblings) }
            }
            model::Kind::Wait(duration) => {
                Kind::Wait(self.duration(duration, Place::Body).unwrap_or(Duration::Fixed(0)))
            }
        }
    }

    fn raised(&mut self, error: &RaiseError) -> tidewheel_engine::run::plan::ExprId {
        match error {
            RaiseError::Inline(error) => self.template(error.at, Place::Body),
            RaiseError::Named(name) if name.text.contains("${") => self.expression(name.at, &name.text, Place::Body),
            RaiseError::Named(name) => {
                let document = self.document;
                let all = &document.uses.errors;
                match all.iter().find(|(known, _)| known.text == name.text) {
                    Some((_, error)) => self.template(error.at, Place::Body),
                    None => {
                        let known = all.iter().map(|(known, _)| &*known.text);
                        let message = format!("there is no error `{}` in `use.errors`", name.text);
                        self.unknown(name.at, message, known, &name.text);
                        self.builder.literal(Json::Null)
                    }
                }
            }
        }
    }

    fn catch(&mut self, catch: &'t model::Catch, siblings: &'t [Statement]) -> Catch {
        let filter = catch.filter.map(|at| {
            let mut filter = self.tree.json(at);
            if let Some(fields) = filter.as_object_mut()
                && let Some(details) = fields.remove("details")
            {
                fields.entry("detail").or_insert(details);
            }
            self.value(at, filter, Place::Body)
        });
        let name = self.local(&catch.name, "error");
        let then = catch.then.as_ref().map(|then| self.flow(then, siblings));
        let names = [name.clone()];
        self.with_locals(&names, |work| Catch {
            filter,
            when: work.optional(&catch.when, Place::Body),
            except_when: work.optional(&catch.except_when, Place::Body),
            retry: catch.retry.as_ref().and_then(|retry| work.retry_ref(retry)),
            body: catch.body.as_deref().map(|body| work.list(body)),
            name,
            then,
        })
    }

    fn retry_ref(&mut self, retry: &'t RetryRef) -> Option<Retry> {
        match retry {
            RetryRef::Inline(retry) => Some(self.retry(retry)),
            RetryRef::Named(name) => {
                let document = self.document;
                let all = &document.uses.retries;
                match all.iter().find(|(known, _)| known.text == name.text) {
                    Some((_, retry)) => Some(self.retry(retry)),
                    None => {
                        let known = all.iter().map(|(known, _)| &*known.text);
                        let message = format!("there is no retry policy `{}` in `use.retries`", name.text);
                        self.unknown(name.at, message, known, &name.text);
                        None
                    }
                }
            }
        }
    }

    fn retry(&mut self, retry: &model::Retry) -> Retry {
        let mut part = |duration: &Option<model::Duration>| {
            duration.as_ref().and_then(|duration| self.duration(duration, Place::Body))
        };
        let delay = part(&retry.delay).unwrap_or(Duration::Fixed(0));
        let attempt_limit = part(&retry.attempt_limit);
        let limit = part(&retry.limit);
        let jitter = retry.jitter.as_ref().and_then(|(from, to)| {
            let from = self.duration(from, Place::Body)?;
            let to = self.duration(to, Place::Body)?;
            if let (Duration::Fixed(low), Duration::Fixed(high)) = (from, to)
                && low > high
            {
                self.error(retry.at, "wrong-value", "`jitter.from` is longer than `jitter.to`");
            }
            Some((from, to))
        });
        let count = retry.count.and_then(|(at, count)| match u32::try_from(count) {
            Ok(count) => Some(count),
            Err(_) => {
                let message = format!("{count} is no number of retries: 0 to {}", u32::MAX);
                self.error(at, "wrong-value", message);
                None
            }
        });
        Retry {
            when: self.optional(&retry.when, Place::Body),
            except_when: self.optional(&retry.except_when, Place::Body),
            delay,
            backoff: retry.backoff,
            count,
            attempt_limit,
            limit,
            jitter,
        }
    }

    /// The arguments of a call whose values reach secrets: the template as it stands, and what it needs to be evaluated
    /// where they are known.
    pub(super) fn seal(
        &mut self,
        template: Json,
        expr: tidewheel_engine::run::plan::ExprId,
    ) -> tidewheel_engine::run::plan::ExprId {
        let mut variables = serde_json::Map::new();
        for global in self.builder.uses(expr).iter().filter(|global| !global.sealed()) {
            variables.insert(global.name().to_string(), json!(format!("${{ ${} }}", global.name())));
        }
        let template = self.builder.literal(template);
        let values = json!({ "dot": "${ . }", "variables": variables });
        let [dot, variables] = ["dot", "variables"].map(|name| {
            let compiled = self.builder.template(&values[name], &self.locals);
            compiled.unwrap_or_else(|_| self.builder.literal(Json::Null))
        });
        let fields = [("template", template), ("dot", dot), ("variables", variables)];
        self.object(fields.into_iter().map(|(name, expr)| (name.to_string(), expr)).collect())
    }
}
