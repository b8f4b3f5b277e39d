//! Expressions in their scope: which variables may be used where.

use serde_json::Value as Json;
use tidewheel_engine::id::Name;
use tidewheel_engine::run::eval::Var;
use tidewheel_engine::run::plan::{Duration, ExprId, Intake, SchemaId, Yield};

use super::Work;
use crate::diagnostic::{Position, Span};
use crate::expr::{Builder, ExprError, Global};
use crate::feature::Feature;
use crate::model::{self, SchemaSource, Text};
use crate::text::{At, Node};

/// Where an expression stands: what it may use follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `input.from` of the run: neither a context nor a statement yet.
    RunInput,
    /// `output.as` of the run.
    RunOutput,
    /// Time limit of the run, a schedule, hints of the document.
    RunTimeout,
    /// `if`, `input.from` and time limit of a statement: its input is not transformed yet.
    Early,
    /// The body of a statement.
    Body,
    /// Arguments of a call or a process: the one place that may reach secrets.
    With,
    /// `output.as`.
    Output,
    /// `export.as`.
    Export,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::RunInput => "the run's `input.from`",
            Place::RunOutput => "the run's `output.as`",
            Place::RunTimeout => "an expression of the whole run",
            Place::Early => "an expression before the body (`if`, `input.from`, `timeout`)",
            Place::Body | Place::With => "the body of a statement",
            Place::Output => "`output.as`",
            Place::Export => "`export.as`",
        }
    }

    fn allows(self, global: &Global) -> bool {
        let run = matches!(self, Place::RunInput | Place::RunOutput | Place::RunTimeout);
        match global {
            Global::Secrets | Global::Authorization => self == Place::With,
            Global::Engine(Var::Workflow | Var::Runtime | Var::Local(_)) => true,
            Global::Engine(Var::Context) => self != Place::RunInput,
            Global::Engine(Var::Task) => !run,
            Global::Engine(Var::Input) => !run && self != Place::Early,
            Global::Engine(Var::Output) => self == Place::Export,
        }
    }

    /// What to use instead of a variable that is not there yet.
    fn instead(self, global: &Global) -> &'static str {
        match global {
            Global::Secrets | Global::Authorization => {
                "it may be used in the `with` of a call, the properties of a process, and its authentication alone; there only \
                 the executor sees it"
            }
            Global::Engine(Var::Output) if self == Place::Output => {
                "the dot is the output: write `.` instead of `$output`"
            }
            Global::Engine(Var::Output) => {
                "it is there in `export.as` alone; the output of the statement before is `.`"
            }
            Global::Engine(Var::Input) => "the dot is the input: write `.` instead of `$input`",
            Global::Engine(Var::Context) => "a run has no context yet; the dot is its input",
            _ => "it is there inside statements alone",
        }
    }
}

impl Work<'_> {
    /// An expression, with or without `${ }`.
    pub(super) fn expression(&mut self, at: At, text: &str, place: Place) -> ExprId {
        let whole = text.trim().starts_with("${") && text.trim().ends_with('}');
        let compiled = if text.contains("${") && !whole {
            self.builder.template(&Json::String(text.to_string()), &self.locals)
        } else {
            self.builder.expression(text, &self.locals)
        };
        self.compiled(at, compiled, place)
    }

    pub(super) fn optional(&mut self, text: &Option<Text>, place: Place) -> Option<ExprId> {
        text.as_ref().map(|text| self.expression(text.at, &text.text, place))
    }

    /// A value in which `${ }` are expressions.
    pub(super) fn template(&mut self, at: At, place: Place) -> ExprId {
        let value = self.tree.json(at);
        self.value(at, value, place)
    }

    /// As [`Work::template`], of a value that stands for the one in the document.
    pub(super) fn value(&mut self, at: At, value: Json, place: Place) -> ExprId {
        let value = if self.document.loose { loose(value, &self.locals) } else { value };
        let compiled = self.builder.template(&value, &self.locals);
        self.compiled(at, compiled, place)
    }

    /// A text is an expression, a map a template.
    pub(super) fn transform(&mut self, at: At, place: Place) -> ExprId {
        match self.tree.text(at).map(str::to_string) {
            Some(text) => self.expression(at, &text, place),
            None => self.template(at, place),
        }
    }

    /// A URI, a template of one, or an expression.
    pub(super) fn uri(&mut self, text: &Text, place: Place) -> ExprId {
        let compiled = self.builder.uri_template(&text.text, &self.locals);
        self.compiled(text.at, compiled, place)
    }

    fn compiled(&mut self, at: At, compiled: Result<ExprId, ExprError>, place: Place) -> ExprId {
        match compiled {
            Ok(expr) => {
                self.check_scope(at, expr, place);
                expr
            }
            Err(error) => {
                self.report(at, &error);
                self.builder.literal(Json::Null)
            }
        }
    }

    fn report(&mut self, at: At, error: &ExprError) {
        let inner = (!error.path.is_empty())
            .then(|| self.tree.find(&(self.tree.pointer(at) + &error.path)))
            .flatten()
            .unwrap_or(at);
        let span = self.within(inner, error.offset);
        let (message, hint) = (error.message.clone(), error.hint.clone());
        let found = self.error(inner, "expression", message);
        found.hint = hint;
        found.span = span;
    }

    /// The rest of a text from a byte on, where the source shows it as it is; else the whole text.
    fn within(&self, at: At, offset: usize) -> Span {
        let span = self.tree.span(at);
        let Some(text) = self.tree.text(at) else { return span };
        let width = (span.end.offset - span.start.offset) as usize;
        let quote = usize::from(width == text.len() + 2);
        if offset == 0
            || span.start.line != span.end.line
            || (width != text.len() && quote == 0)
            || !text.is_char_boundary(offset)
        {
            return span;
        }
        let before = text[..offset].chars().count() + quote;
        let start = Position {
            line: span.start.line,
            column: span.start.column + before as u32,
            offset: span.start.offset + (offset + quote) as u32,
        };
        Span { start, end: span.end }
    }

    /// Refuses variables that do not exist at this place.
    fn check_scope(&mut self, at: At, expr: ExprId, place: Place) {
        for global in self.builder.uses(expr).to_vec() {
            if place.allows(&global) {
                if global.sealed() {
                    self.require(at, Feature::Secrets);
                    self.check_secrets(at);
                }
                continue;
            }
            let message = format!("`${}` cannot be used in {}", global.name(), place.name());
            let code = if global.sealed() { "secret-out-of-place" } else { "variable-out-of-place" };
            self.error(at, code, message).hint = Some(place.instead(&global).to_string());
        }
    }

    /// Every secret that a text names has to be declared.
    fn check_secrets(&mut self, at: At) {
        let text = self.tree.json(at).to_string().replace("\\\"", "\"");
        for after in text.split("$secrets").skip(1) {
            let rest = after.trim_start_matches(['.', '[', '"']);
            let dashed = !after.starts_with('.') || after.starts_with(".\"") || after.starts_with(".[");
            let end = rest.find(|char: char| !(char.is_alphanumeric() || char == '_' || dashed && char == '-'));
            let name = &rest[..end.unwrap_or(rest.len())];
            if name.is_empty() || rest.len() == after.len() {
                continue;
            }
            self.check_secret(at, name);
        }
    }

    pub(super) fn check_secret(&mut self, at: At, name: &str) {
        let document = self.document;
        let known: Vec<&str> = document.uses.secrets.iter().map(|secret| &*secret.text).collect();
        if !known.contains(&name) {
            self.unknown(at, format!("the secret `{name}` is not declared in `use.secrets`"), known, name);
        }
    }

    /// Whether the value of an expression reaches what only an executor may see.
    pub(super) fn sealed(&self, expr: ExprId) -> bool {
        self.builder.uses(expr).iter().any(Global::sealed)
    }

    /// A variable of a loop, a catch or a listen.
    pub(super) fn local(&mut self, given: &Option<Text>, default: &str) -> Name {
        let Some(text) = given else { return default.into() };
        let name = text.text.strip_prefix('$').unwrap_or(&text.text);
        let word = |char: char| char.is_ascii_alphanumeric() || char == '_';
        if name.is_empty() || !name.chars().all(word) || name.starts_with(|char: char| char.is_ascii_digit()) {
            let message = format!("`{}` cannot be the name of a variable", text.text);
            self.error(text.at, "wrong-value", message).hint = Some("use letters, digits and `_`".to_string());
        }
        name.into()
    }

    /// Compiles something with more variables in scope.
    pub(super) fn with_locals<T>(&mut self, names: &[Name], compile: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.locals.len();
        self.locals.extend_from_slice(names);
        let value = compile(self);
        self.locals.truncate(before);
        value
    }

    pub(super) fn intake(&mut self, input: &model::Input, place: Place) -> Intake {
        Intake {
            schema: input.schema.as_ref().and_then(|schema| self.schema(schema)),
            from: input.from.map(|from| self.transform(from, place)),
        }
    }

    pub(super) fn run_output(&mut self, output: &model::Output) -> Yield {
        Yield {
            output_as: output.transform.map(|at| self.transform(at, Place::RunOutput)),
            output_schema: output.schema.as_ref().and_then(|schema| self.schema(schema)),
            ..Yield::default()
        }
    }

    pub(super) fn outlet(&mut self, output: &model::Output, export: &model::Output) -> Yield {
        Yield {
            output_as: output.transform.map(|at| self.transform(at, Place::Output)),
            output_schema: output.schema.as_ref().and_then(|schema| self.schema(schema)),
            export_as: export.transform.map(|at| self.transform(at, Place::Export)),
            export_schema: export.schema.as_ref().and_then(|schema| self.schema(schema)),
        }
    }

    pub(super) fn schema(&mut self, schema: &model::Schema) -> Option<SchemaId> {
        if let Some(format) = &schema.format
            && format.text.split(':').next() != Some("json")
        {
            let message = format!("schemas in the format `{}` are not supported", format.text);
            self.error(format.at, "not-supported", message).hint = Some("the format is `json`".to_string());
            return None;
        }
        let (at, document) = match &schema.source {
            SchemaSource::Inline(at) => (*at, self.tree.json(*at)),
            SchemaSource::Resource(resource) => {
                let uri = &resource.endpoint.uri;
                match self.resources.get(&uri.text).cloned() {
                    Some(document) => (uri.at, document),
                    None => {
                        let message = format!("the schema at `{}` was not fetched", uri.text);
                        self.error(uri.at, "not-fetched", message);
                        return None;
                    }
                }
            }
        };
        if !matches!(document, Json::Object(_) | Json::Bool(_)) {
            self.error(at, "schema", "a JSON Schema is a map, or true or false");
            return None;
        }
        match self.builder.schema(&document, &self.resources) {
            Ok(id) => Some(id),
            Err(error) => {
                let inline = matches!(schema.source, SchemaSource::Inline(_));
                let inner = self.tree.find(&(self.tree.pointer(at) + &error.path)).filter(|_| inline).unwrap_or(at);
                self.error(inner, "schema", format!("not a JSON Schema: {}", error.message));
                None
            }
        }
    }

    pub(super) fn timeout(&mut self, timeout: &model::Timeout, place: Place) -> Option<Duration> {
        match timeout {
            model::Timeout::Inline(duration) => self.duration(duration, place),
            model::Timeout::Named(name) => {
                let document = self.document;
                let all = &document.uses.timeouts;
                match all.iter().find(|(known, _)| known.text == name.text) {
                    Some((_, duration)) => self.duration(duration, place),
                    None => {
                        let known = all.iter().map(|(known, _)| &*known.text);
                        self.unknown(
                            name.at,
                            format!("there is no timeout `{}` in `use.timeouts`", name.text),
                            known,
                            &name.text,
                        );
                        None
                    }
                }
            }
        }
    }

    pub(super) fn duration(&mut self, duration: &model::Duration, place: Place) -> Option<Duration> {
        match duration {
            model::Duration::Parts(at, _) => self.fixed(*at),
            model::Duration::Text(text) if text.text.contains("${") => {
                Some(Duration::Computed(self.expression(text.at, &text.text, place)))
            }
            model::Duration::Text(text) => self.fixed(text.at),
        }
    }

    fn fixed(&mut self, at: At) -> Option<Duration> {
        match crate::duration::millis(&self.tree.json(at)) {
            Ok(millis) => Some(Duration::Fixed(millis)),
            Err(message) => {
                self.error(at, "not-a-duration", message);
                None
            }
        }
    }

    /// An object of expressions that were compiled one by one.
    pub(super) fn object(&mut self, fields: Vec<(String, ExprId)>) -> ExprId {
        self.builder.object(fields)
    }

    /// Whether a value of the document is a map.
    pub(super) fn is_map(&self, at: At) -> bool {
        matches!(self.tree.node(at), Node::Map(_))
    }
}

/// Under `evaluate.mode: loose` every text that is an expression is evaluated, and stands for itself where that fails.
fn loose(value: Json, locals: &[Name]) -> Json {
    match value {
        Json::String(text) if !text.contains("${") => {
            let compiles = Builder::new().expression(&text, locals).is_ok();
            let itself = Json::String(text.clone()).to_string();
            Json::String(if compiles { format!("${{ try ({text}) catch {itself} }}") } else { text })
        }
        Json::Array(items) => Json::Array(items.into_iter().map(|item| loose(item, locals)).collect()),
        Json::Object(fields) => {
            Json::Object(fields.into_iter().map(|(key, value)| (key, loose(value, locals))).collect())
        }
        other => other,
    }
}
