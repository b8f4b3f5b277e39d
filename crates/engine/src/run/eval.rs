//! What a turn asks of the language: values of expressions and verdicts of schemas, under fuel.

use std::borrow::Cow;

use super::plan::{ExprId, Plan, SchemaId};
use crate::id::Name;
use crate::planted::Planted;

/// A JSON value.
pub type Json = serde_json::Value;

/// A variable that an expression may name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Var {
    /// `$context`.
    Context,
    /// `$input`.
    Input,
    /// `$output`.
    Output,
    /// `$task`.
    Task,
    /// `$workflow`.
    Workflow,
    /// `$runtime`.
    Runtime,
    /// Of a loop, a catch, a listen.
    Local(Name),
}

/// What an expression sees.
pub trait Scope {
    /// The dot.
    fn dot(&self) -> Cow<'_, Json>;
    /// A variable; asked only for those that the expression names. `null` where it has no value.
    fn var(&self, var: &Var) -> Cow<'_, Json>;
    /// Wall time of the turn in milliseconds: what `now` gives.
    fn now(&self) -> u64;
}

/// What may still be used up. Charged in steps (each call of a definition or native filter, and by the size of what a native
/// filter reads or makes) and in bytes of output; never in time, so that the same program ends at the same step on every
/// machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fuel {
    /// Steps left.
    pub steps: u64,
    /// Bytes left that values may take.
    pub bytes: u64,
}

impl Fuel {
    /// Takes steps; false = there are not so many, and none are left.
    pub fn take(&mut self, steps: u64) -> bool {
        let enough = self.steps >= steps;
        self.steps = self.steps.saturating_sub(steps);
        enough
    }
}

/// Why there is no value.
#[derive(Clone, Debug, PartialEq)]
pub enum EvalError {
    /// The fuel was used up. In a slice this means "go on elsewhere with more"; with full fuel it is an error of the run.
    Fuel,
    /// The expression failed: what it said.
    Failed(String),
}

/// What of a value does not fit its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer into the value.
    pub path: String,
    /// One sentence.
    pub message: String,
}

/// A compiled workflow: its plan, and what stands behind the numbers in it. Immutable; the same arguments always give the
/// same answer and use the same fuel.
pub trait Definition: Send + Sync + std::fmt::Debug {
    /// The plan.
    fn plan(&self) -> &Plan;
    /// The value of an expression or template.
    fn eval(&self, expr: ExprId, scope: &dyn Scope, fuel: &mut Fuel) -> Result<Json, EvalError>;
    /// Whether a value fits: at most 16 violations, none = it does.
    fn check(&self, schema: SchemaId, value: &Json, fuel: &mut Fuel) -> Result<Vec<Violation>, EvalError>;
    /// Reads a value as a length of time, in milliseconds.
    fn duration(&self, value: &Json) -> Result<u64, EvalError>;
    /// Bytes it takes in memory, about.
    fn weight(&self) -> usize;
    /// The bug that is planted in its turns: none, but in a simulation.
    fn planted(&self) -> Planted {
        Planted::default()
    }
}

/// Makes definitions of resolved documents. Given to the shell, so that neither it nor the engine knows the language.
pub trait Compiler: Send + Sync {
    /// Compiles a resolved document, as it was stored at its deploy.
    fn compile(&self, document: &[u8]) -> Result<std::sync::Arc<dyn Definition>, String>;
}
