//! Definitions with a planted bug in their turns.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewheel_engine::planted::Planted;
use tidewheel_engine::run::eval::{Compiler, Definition, EvalError, Fuel, Json, Scope, Violation};
use tidewheel_engine::run::plan::{ExprId, Plan, SchemaId};
use tidewheel_lang::compile::Language;

use super::Flows;

/// Definitions by the hash of their documents.
pub fn definitions(flows: &Flows, planted: Planted) -> BTreeMap<[u8; 32], Arc<dyn Definition>> {
    flows.iter().map(|flow| (flow.definition.plan().hash, WithBug::of(flow.definition.clone(), planted))).collect()
}

/// Compiles what has a bug in its turns.
pub(crate) struct Spoiled(pub(crate) Planted);

impl Compiler for Spoiled {
    fn compile(&self, document: &[u8]) -> Result<Arc<dyn Definition>, String> {
        Ok(WithBug::of(Language.compile(document)?, self.0))
    }
}

/// A definition in whose turns a bug is planted. What folds its journals has the same bug, so that it has to be found by what it does.
#[derive(Debug)]
struct WithBug(Arc<dyn Definition>, Planted);

impl WithBug {
    fn of(definition: Arc<dyn Definition>, planted: Planted) -> Arc<dyn Definition> {
        Arc::new(WithBug(definition, planted))
    }
}

impl Definition for WithBug {
    fn plan(&self) -> &Plan {
        self.0.plan()
    }

    fn eval(&self, expr: ExprId, scope: &dyn Scope, fuel: &mut Fuel) -> Result<Json, EvalError> {
        self.0.eval(expr, scope, fuel)
    }

    fn check(&self, schema: SchemaId, value: &Json, fuel: &mut Fuel) -> Result<Vec<Violation>, EvalError> {
        self.0.check(schema, value, fuel)
    }

    fn duration(&self, value: &Json) -> Result<u64, EvalError> {
        self.0.duration(value)
    }

    fn weight(&self) -> usize {
        self.0.weight()
    }

    fn planted(&self) -> Planted {
        self.1
    }
}
