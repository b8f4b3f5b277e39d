//! One jq program.

use jaq_core::data::JustLut;
use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, unwrap_valr};
use jaq_json::Val;
use serde_json::Value as Json;
use tidewheel_engine::id::Name;
use tidewheel_engine::run::eval::{EvalError, Fuel, Scope};

use super::{ExprError, Global};

/// One jq program.
pub(super) struct Program {
    filter: jaq_core::Filter<JustLut<Val>>,
    uses: Vec<Global>,
    length: usize,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("uses", &self.uses).finish_non_exhaustive()
    }
}

impl Program {
    /// Compiles a text.
    pub(super) fn compile(code: &str, locals: &[Name]) -> Result<Program, ExprError> {
        let mut uses: Vec<Global> = Vec::new();
        let all = ["context", "input", "output", "task", "workflow", "runtime", "secrets", "authorization"];
        for name in locals.iter().map(|name| &**name).chain(all) {
            if code.contains(&format!("${name}")) {
                uses.extend(Global::find(name, locals));
            }
        }
        uses.sort();
        uses.dedup();
        let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let arena = Arena::default();
        let modules = Loader::new(defs)
            .load(&arena, File { code, path: () })
            .map_err(|_| ExprError::new(0, format!("`{}` is not a jq expression", code.trim())))?;
        let names: Vec<String> = uses.iter().map(|global| format!("${}", global.name())).collect();
        let filter = Compiler::default()
            .with_funs(funs)
            .with_global_vars(names.iter().map(String::as_str))
            .compile(modules)
            .map_err(|_| {
                ExprError::new(0, format!("`{}` names a function or variable that does not exist", code.trim()))
            })?;
        Ok(Program { filter, uses, length: code.len() })
    }

    /// The free variables.
    pub(super) fn uses(&self) -> &[Global] {
        &self.uses
    }

    /// Its value.
    pub(super) fn eval(&self, scope: &dyn Scope, fuel: &mut Fuel) -> Result<Json, EvalError> {
        if !fuel.take(8) {
            return Err(EvalError::Fuel);
        }
        let failed = |what: String| EvalError::Failed(what);
        let to = |value: &Json| serde_json::from_value::<Val>(value.clone()).map_err(|error| failed(error.to_string()));
        let vars = self.uses.iter().map(|global| to(&scope.var(&global.asked()))).collect::<Result<Vec<_>, _>>()?;
        let ctx = Ctx::<JustLut<Val>>::new(&self.filter.lut, Vars::new(vars));
        let first = self.filter.id.run((ctx, to(&scope.dot())?)).next();
        match first.map(unwrap_valr) {
            None => Ok(Json::Null),
            Some(Ok(value)) => serde_json::from_str(&value.to_string()).map_err(|error| failed(error.to_string())),
            Some(Err(error)) => Err(failed(error.to_string())),
        }
    }

    /// Bytes that it takes in memory, about.
    pub(super) fn weight(&self) -> usize {
        512 + self.length * 32
    }
}
