//! Expressions, templates and literals of a definition.
//!
//! A [`Builder`] takes texts and values of a document and gives numbers for them; [`Programs`] is what stands behind the
//! numbers. It never changes: the same expression over the same scope gives the same value and uses the same fuel.

mod ast;
mod builtin;
mod code;
mod compile;
mod fast;
mod lex;
mod machine;
mod native;
mod ops;
mod parse;
mod paths;
mod program;
mod tank;
mod template;
mod value;

use serde_json::Value as Json;
use tidewheel_engine::id::Name;
use tidewheel_engine::run::eval::{EvalError, Fuel, Scope, Var, Violation};
use tidewheel_engine::run::plan::{ExprId, SchemaId};

use crate::schema::{Resources, Schema, SchemaError};
use program::Program;
use template::Template;

/// A free variable of an expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Global {
    /// One that the engine knows.
    Engine(Var),
    /// `$secrets`: only an executor may see it. At evaluation the scope is asked for the local `secrets`.
    Secrets,
    /// `$authorization`: only an executor may see it. At evaluation the scope is asked for the local `authorization`.
    Authorization,
}

impl Global {
    /// Its name, without `$`.
    pub fn name(&self) -> &str {
        match self {
            Global::Engine(Var::Context) => "context",
            Global::Engine(Var::Input) => "input",
            Global::Engine(Var::Output) => "output",
            Global::Engine(Var::Task) => "task",
            Global::Engine(Var::Workflow) => "workflow",
            Global::Engine(Var::Runtime) => "runtime",
            Global::Engine(Var::Local(name)) => name,
            Global::Secrets => "secrets",
            Global::Authorization => "authorization",
        }
    }

    /// Whether only an executor may see it.
    pub fn sealed(&self) -> bool {
        matches!(self, Global::Secrets | Global::Authorization)
    }

    /// What a scope is asked for.
    fn asked(&self) -> Var {
        match self {
            Global::Engine(var) => var.clone(),
            other => Var::Local(other.name().into()),
        }
    }

    /// The variable of a name; a local hides one of the same name.
    fn find(name: &str, locals: &[Name]) -> Option<Global> {
        if let Some(local) = locals.iter().find(|local| &***local == name) {
            return Some(Global::Engine(Var::Local(local.clone())));
        }
        Some(match name {
            "context" => Global::Engine(Var::Context),
            "input" => Global::Engine(Var::Input),
            "output" => Global::Engine(Var::Output),
            "task" => Global::Engine(Var::Task),
            "workflow" => Global::Engine(Var::Workflow),
            "runtime" => Global::Engine(Var::Runtime),
            "secrets" => Global::Secrets,
            "authorization" => Global::Authorization,
            _ => return None,
        })
    }
}

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    /// JSON pointer into the template where the text stands; empty for an expression.
    pub path: String,
    /// Bytes from the start of the text to the place.
    pub offset: usize,
    /// One sentence for the author.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ExprError {
    fn new(offset: usize, message: impl Into<String>) -> ExprError {
        ExprError { path: String::new(), offset, message: message.into(), hint: None }
    }
}

impl std::fmt::Display for ExprError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ExprError {}

/// Collects the expressions and schemas of one definition.
#[derive(Debug, Default)]
pub struct Builder {
    programs: Programs,
}

impl Builder {
    /// Nothing yet.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// An expression: text with or without `${ }` around it. `locals` are the variables of loops, catches and listens
    /// around it, without `$`.
    pub fn expression(&mut self, text: &str, locals: &[Name]) -> Result<ExprId, ExprError> {
        let (code, offset) = template::unwrap(text).unwrap_or((text, 0));
        let program = Program::compile(code, locals).map_err(|error| error.shifted(offset))?;
        Ok(self.add(Template::Program(Box::new(program))))
    }

    /// A value in which strings that are `${ ... }` are expressions, and `${ }` inside a longer string is replaced by its
    /// value (a string as it is, anything else as JSON). Without any expression it is a literal.
    pub fn template(&mut self, value: &Json, locals: &[Name]) -> Result<ExprId, ExprError> {
        Template::compile(value, locals).map(|template| self.add(template))
    }

    /// A value as it is.
    pub fn literal(&mut self, value: Json) -> ExprId {
        self.add(Template::Literal(value))
    }

    /// A URI template (RFC 6570, simple expansion `{name}` of top-level scalars of the dot), or an expression if it is
    /// `${ ... }`.
    pub fn uri_template(&mut self, text: &str, locals: &[Name]) -> Result<ExprId, ExprError> {
        Template::uri(text, locals).map(|template| self.add(template))
    }

    /// A JSON Schema, draft 2020-12. What it refers to has to be in `resources`.
    pub fn schema(&mut self, document: &Json, resources: &Resources) -> Result<SchemaId, SchemaError> {
        let id = SchemaId(self.programs.schemas.len() as u32);
        self.programs.schemas.push(Schema::compile(document, resources)?);
        Ok(id)
    }

    /// An object of expressions that were built before. They become part of it: their own numbers give `null` from then on.
    pub fn object(&mut self, fields: Vec<(String, ExprId)>) -> ExprId {
        let mut taken = Vec::with_capacity(fields.len());
        for (key, expr) in fields {
            let part = &mut self.programs.exprs[expr.0 as usize];
            part.uses.clear();
            taken.push((key, std::mem::replace(&mut part.template, Template::Literal(Json::Null))));
        }
        self.add(Template::Object(taken))
    }

    /// The free variables that an expression names, each once, sorted.
    pub fn uses(&self, expr: ExprId) -> &[Global] {
        self.programs.uses(expr)
    }

    /// The value of an expression that is a literal.
    pub fn as_literal(&self, expr: ExprId) -> Option<&Json> {
        self.programs.as_literal(expr)
    }

    /// Everything collected.
    pub fn finish(self) -> Programs {
        self.programs
    }

    fn add(&mut self, template: Template) -> ExprId {
        let mut uses = Vec::new();
        template.uses(&mut uses);
        uses.sort();
        uses.dedup();
        let id = ExprId(self.programs.exprs.len() as u32);
        self.programs.exprs.push(Expr { template, uses });
        id
    }
}

/// The expressions and schemas of one definition.
#[derive(Debug, Default)]
pub struct Programs {
    exprs: Vec<Expr>,
    schemas: Vec<Schema>,
}

#[derive(Debug)]
struct Expr {
    template: Template,
    uses: Vec<Global>,
}

impl Programs {
    /// The value of an expression, template or literal.
    pub fn eval(&self, expr: ExprId, scope: &dyn Scope, fuel: &mut Fuel) -> Result<Json, EvalError> {
        self.exprs[expr.0 as usize].template.eval(scope, fuel)
    }

    /// All values of an expression, one after another: what a preview or a test shows. The value of anything else comes
    /// once.
    pub fn eval_all(
        &self,
        expr: ExprId,
        scope: &dyn Scope,
        fuel: &mut Fuel,
        mut each: impl FnMut(Json),
    ) -> Result<(), EvalError> {
        match &self.exprs[expr.0 as usize].template {
            Template::Program(program) => program.run(scope, fuel, |value| {
                each(value);
                Ok(())
            }),
            template => template.eval(scope, fuel).map(each),
        }
    }

    /// Whether a value fits a schema: at most 16 violations, none = it does.
    pub fn check(&self, schema: SchemaId, value: &Json, fuel: &mut Fuel) -> Result<Vec<Violation>, EvalError> {
        self.schemas[schema.0 as usize].check(value, fuel)
    }

    /// Reads a value as a length of time, in milliseconds.
    pub fn duration(&self, value: &Json) -> Result<u64, EvalError> {
        crate::duration::millis(value).map_err(EvalError::Failed)
    }

    /// The free variables that an expression names, each once, sorted.
    pub fn uses(&self, expr: ExprId) -> &[Global] {
        &self.exprs[expr.0 as usize].uses
    }

    /// The value of an expression that is a literal.
    pub fn as_literal(&self, expr: ExprId) -> Option<&Json> {
        match &self.exprs[expr.0 as usize].template {
            Template::Literal(value) => Some(value),
            _ => None,
        }
    }

    /// Bytes that it takes in memory, about.
    pub fn weight(&self) -> usize {
        let exprs: usize = self.exprs.iter().map(|expr| 128 + expr.template.weight()).sum();
        exprs + self.schemas.iter().map(Schema::weight).sum::<usize>()
    }
}

impl ExprError {
    fn hinted(mut self, hint: &str) -> ExprError {
        self.hint = Some(hint.to_owned());
        self
    }

    fn shifted(mut self, by: usize) -> ExprError {
        self.offset += by;
        self
    }

    fn within(mut self, key: &str) -> ExprError {
        self.path = format!("/{}{}", key.replace('~', "~0").replace('/', "~1"), self.path);
        self
    }
}
