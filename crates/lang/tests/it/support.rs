//! What the tests share.

use std::borrow::Cow;
use std::path::PathBuf;

use serde_json::Value as Json;
use tidewheel_engine::run::eval::{EvalError, Fuel, Scope, Var};
use tidewheel_lang::expr::{Builder, ExprError};

/// The fuel of a slice.
pub(crate) const SLICE: Fuel = Fuel { steps: 100_000, bytes: 16 << 20 };
/// All the fuel that a run may get at once.
pub(crate) const FULL: Fuel = Fuel { steps: 10_000_000, bytes: 256 << 20 };

/// A dot and variables.
pub(crate) struct World {
    pub(crate) dot: Json,
    pub(crate) vars: Vec<(Var, Json)>,
}

impl World {
    pub(crate) fn of(dot: Json) -> World {
        World { dot, vars: Vec::new() }
    }
}

impl Scope for World {
    fn dot(&self) -> Cow<'_, Json> {
        Cow::Borrowed(&self.dot)
    }

    fn var(&self, var: &Var) -> Cow<'_, Json> {
        match self.vars.iter().find(|(known, _)| known == var) {
            Some((_, value)) => Cow::Borrowed(value),
            None => Cow::Owned(Json::Null),
        }
    }

    fn now(&self) -> u64 {
        1_700_000_000_250
    }
}

/// Compiles and evaluates a text.
pub(crate) fn eval(text: &str, dot: Json) -> Result<Json, EvalError> {
    eval_with(text, &World::of(dot), SLICE).1
}

/// What an expression used and gave.
pub(crate) fn eval_with(text: &str, world: &World, fuel: Fuel) -> (Fuel, Result<Json, EvalError>) {
    let mut builder = Builder::new();
    let id = builder.expression(text, &[]).unwrap_or_else(|error| panic!("{text}: {error}"));
    let programs = builder.finish();
    let mut left = fuel;
    let value = programs.eval(id, world, &mut left);
    (Fuel { steps: fuel.steps - left.steps, bytes: fuel.bytes - left.bytes }, value)
}

/// The error of a text that does not compile.
pub(crate) fn refused(text: &str) -> ExprError {
    match Builder::new().expression(text, &[]) {
        Ok(_) => panic!("{text} compiles"),
        Err(error) => error,
    }
}

/// A folder of the conformance data; `None`, and a word about it, if it is not there.
pub(crate) fn conformance(folder: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("TIDEWHEEL_CONFORMANCE") {
        Some(root) => PathBuf::from(root),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
    };
    let path = root.join(folder);
    if path.exists() {
        return Some(path);
    }
    eprintln!("NOT RUN: there is no conformance data at {}; set TIDEWHEEL_CONFORMANCE", path.display());
    None
}
