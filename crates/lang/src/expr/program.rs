//! One jq program.

use serde_json::Value as Json;
use tidewheel_engine::id::Name;
use tidewheel_engine::run::eval::{EvalError, Fuel, Scope};

use super::code::Code;
use super::fast::Fast;
use super::machine::Machine;
use super::native::Host;
use super::tank::{Fault, Tank, report};
use super::value::Val;
use super::{ExprError, Global, compile, parse};

/// Levels that the value of an expression may have: so it can be stored, and read again inside of others.
pub(super) const MAX_RESULT_DEPTH: usize = 100;

/// One jq program.
#[derive(Debug)]
pub(super) struct Program {
    fast: Option<Fast>,
    code: Code,
    uses: Vec<Global>,
}

impl Program {
    /// Compiles a text.
    pub(super) fn compile(text: &str, locals: &[Name]) -> Result<Program, ExprError> {
        let term = parse::program(text)?;
        let code = compile::compile(&term, locals)?;
        let fast = Fast::find(&term, &code.globals, locals);
        let mut uses = code.globals.clone();
        uses.sort();
        Ok(Program { fast, code, uses })
    }

    /// The free variables.
    pub(super) fn uses(&self) -> &[Global] {
        &self.uses
    }

    /// Its value: null if there is none.
    pub(super) fn eval(&self, scope: &dyn Scope, fuel: &mut Fuel) -> Result<Json, EvalError> {
        let mut tank = Tank::new(fuel);
        if let Some(fast) = &self.fast {
            let value = fast.eval(&self.code.globals, scope, &mut tank);
            tank.give(fuel);
            return value.map_err(report);
        }
        let mut one = None;
        self.run(scope, fuel, |value| match one.replace(value) {
            None => Ok(()),
            Some(_) => {
                Err("it gives more than one value; put it in `[ ]` to get them as an array, or use `first(...)`")
            }
        })?;
        Ok(one.unwrap_or(Json::Null))
    }

    /// All of its values, without short cuts.
    pub(super) fn run(
        &self,
        scope: &dyn Scope,
        fuel: &mut Fuel,
        mut each: impl FnMut(Json) -> Result<(), &'static str>,
    ) -> Result<(), EvalError> {
        let dot = scope.dot();
        let vars: Vec<_> = self.code.globals.iter().map(|global| scope.var(&global.asked())).collect();
        let mut host = Host::new(Tank::new(fuel), scope.now());
        let done = (|| {
            let mut machine = Machine::new(&self.code, Val::from_json(&dot), &vars, &mut host);
            while let Some(value) = machine.next()? {
                let value = value.into_json(&mut machine.host.tank)?;
                if deeper(&value, MAX_RESULT_DEPTH) {
                    return Err(too_deep());
                }
                each(value).map_err(Fault::raise)?;
            }
            Ok(())
        })();
        host.tank.give(fuel);
        done.map_err(report)
    }

    /// Bytes that it takes in memory, about.
    pub(super) fn weight(&self) -> usize {
        let constants: usize = self.code.constants.iter().map(super::template::weigh).sum();
        512 + self.code.ops.len() * 32 + self.code.functions.len() * 8 + self.code.args.len() * 8 + constants
    }
}

/// Whether a value has more levels.
pub(super) fn deeper(value: &Json, levels: usize) -> bool {
    match value {
        Json::Array(items) => levels == 0 || items.iter().any(|item| deeper(item, levels - 1)),
        Json::Object(entries) => levels == 0 || entries.values().any(|item| deeper(item, levels - 1)),
        _ => false,
    }
}

/// The error for a value with too many levels.
pub(super) fn too_deep<'a>() -> Fault<'a> {
    Fault::raise(format!("its value is nested more than {MAX_RESULT_DEPTH} levels deep"))
}
