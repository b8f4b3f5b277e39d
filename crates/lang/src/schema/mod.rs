//! JSON Schema, draft 2020-12. Documents that a schema refers to come out of [`Resources`]; nothing is ever fetched.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use tidewheel_engine::run::eval::{EvalError, Fuel, Violation};

/// Violations that are reported of one value.
const MAX_VIOLATIONS: usize = 16;

/// Documents by their absolute URI: what a schema may refer to.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    documents: BTreeMap<String, Json>,
}

impl Resources {
    /// None.
    pub fn new() -> Resources {
        Resources::default()
    }

    /// Adds a document under its absolute URI.
    pub fn insert(&mut self, uri: impl Into<String>, document: Json) {
        self.documents.insert(uri.into(), document);
    }

    /// The document of a URI.
    pub fn get(&self, uri: &str) -> Option<&Json> {
        self.documents.get(uri)
    }
}

/// Why a schema cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaError {
    /// JSON pointer into the schema; empty where it is not known.
    pub path: String,
    /// One sentence for the author of the schema.
    pub message: String,
}

impl std::fmt::Display for SchemaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SchemaError {}

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    validator: jsonschema::Validator,
    weight: usize,
}

struct Local(BTreeMap<String, Json>);

impl jsonschema::Retrieve for Local {
    fn retrieve(&self, uri: &jsonschema::Uri<String>) -> Result<Json, Box<dyn std::error::Error + Send + Sync>> {
        self.0.get(uri.as_str()).cloned().ok_or_else(|| {
            format!("the schema refers to {uri}, which is not part of the document; schemas are not fetched when they are used").into()
        })
    }
}

impl Schema {
    /// Compiles a schema.
    pub fn compile(document: &Json, resources: &Resources) -> Result<Schema, SchemaError> {
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_retriever(Local(resources.documents.clone()))
            .build(document)
            .map_err(|error| SchemaError { path: error.instance_path().to_string(), message: error.to_string() })?;
        Ok(Schema { validator, weight: 1024 + document.to_string().len() * 8 })
    }

    /// Bytes that it takes in memory, about.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// What of a value does not fit: at most 16 violations.
    pub fn check(&self, value: &Json, fuel: &mut Fuel) -> Result<Vec<Violation>, EvalError> {
        if !fuel.take(16) {
            return Err(EvalError::Fuel);
        }
        Ok(self
            .validator
            .iter_errors(value)
            .take(MAX_VIOLATIONS)
            .map(|error| Violation { path: error.instance_path().to_string(), message: error.to_string() })
            .collect())
    }
}
