//! JSON Schema, draft 2020-12. Documents that a schema refers to come out of [`Resources`]; nothing is ever fetched.

mod cost;

use std::collections::BTreeMap;

use serde_json::Value as Json;
use tidewheel_engine::run::eval::{EvalError, Fuel, Violation};

use cost::{Costs, Index};

/// Violations that are reported of one value.
const MAX_VIOLATIONS: usize = 16;
/// Values in a schema and the documents that it refers to.
const MAX_NODES: usize = 50_000;
/// Levels of a schema.
const MAX_DEPTH: usize = 100;
/// Bytes that a compiled regular expression of a schema may take.
const MAX_PATTERN: usize = 256 * 1024;
/// Characters of a violation's message.
const MAX_MESSAGE: usize = 400;

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

impl SchemaError {
    fn new(message: impl Into<String>) -> SchemaError {
        SchemaError { path: String::new(), message: message.into() }
    }
}

impl std::fmt::Display for SchemaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SchemaError {}

/// A compiled schema.
pub struct Schema {
    validator: jsonschema::Validator,
    /// The schema and the documents that it may refer to, for the count of what a check costs; `None` = it refers to
    /// nothing, and the cost is known from the sizes.
    index: Option<Index>,
    nodes: usize,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schema").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

struct Local(BTreeMap<String, Json>);

impl jsonschema::Retrieve for Local {
    fn retrieve(&self, uri: &jsonschema::Uri<String>) -> Result<Json, Box<dyn std::error::Error + Send + Sync>> {
        let text = uri.as_str();
        let found = self.0.get(text).or_else(|| self.0.get(text.trim_end_matches('#')));
        found.cloned().ok_or_else(|| not_there(text).into())
    }
}

fn not_there(uri: &str) -> String {
    format!(
        "the schema refers to {uri}, which is not there: schemas are never fetched when they are used, put it into the document"
    )
}

impl Schema {
    /// Compiles a schema.
    pub fn compile(document: &Json, resources: &Resources) -> Result<Schema, SchemaError> {
        if !matches!(document, Json::Object(_) | Json::Bool(_)) {
            return Err(SchemaError::new("a schema is an object, or true or false"));
        }
        let mut nodes = 0;
        let refers = measure(document, 0, &mut nodes)?;
        let mut index = None;
        if refers {
            for other in resources.documents.values() {
                measure(other, 0, &mut nodes)?;
            }
            let made = Index::new(document, &resources.documents);
            Costs::new(&made).check_loops()?;
            index = Some(made);
        }
        let patterns = jsonschema::PatternOptions::regex().size_limit(MAX_PATTERN).dfa_size_limit(MAX_PATTERN);
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(patterns)
            .with_retriever(Local(resources.documents.clone()))
            .build(document)
            .map_err(|error| SchemaError {
                path: error.instance_path().to_string(),
                message: shorten(&error.to_string()),
            })?;
        Ok(Schema { validator, index, nodes })
    }

    /// Bytes that it takes in memory, about.
    pub fn weight(&self) -> usize {
        1024 + self.nodes * 256
    }

    /// What of a value does not fit: at most 16 violations. Charged by the sizes of value and schema before any of it.
    pub fn check(&self, value: &Json, fuel: &mut Fuel) -> Result<Vec<Violation>, EvalError> {
        let steps = match &self.index {
            // Each part of the schema meets each part of the value at most once.
            None => (size(value) as u64).saturating_mul(2 + self.nodes as u64 / 16) + self.nodes as u64 / 4,
            Some(index) => Costs::new(index).of(value, fuel)?,
        };
        if !fuel.take(steps) {
            return Err(EvalError::Fuel);
        }
        if self.validator.is_valid(value) {
            return Ok(Vec::new());
        }
        if !fuel.take(steps) {
            return Err(EvalError::Fuel);
        }
        Ok(self
            .validator
            .iter_errors(value)
            .take(MAX_VIOLATIONS)
            .map(|error| Violation { path: error.instance_path().to_string(), message: shorten(&error.to_string()) })
            .collect())
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_MESSAGE {
        return text.to_owned();
    }
    text.chars().take(MAX_MESSAGE).chain("...".chars()).collect()
}

/// Counts the values of a schema; true = it refers to a schema.
fn measure(document: &Json, depth: usize, nodes: &mut usize) -> Result<bool, SchemaError> {
    *nodes += 1;
    if *nodes > MAX_NODES {
        return Err(SchemaError::new(format!("a schema has at most {MAX_NODES} values, those it refers to included")));
    }
    if depth > MAX_DEPTH {
        return Err(SchemaError::new(format!("a schema is nested at most {MAX_DEPTH} levels deep")));
    }
    let mut refers = false;
    match document {
        Json::Array(items) => {
            for item in items {
                refers |= measure(item, depth + 1, nodes)?;
            }
        }
        Json::Object(entries) => {
            for (key, item) in entries {
                refers |= matches!(key.as_str(), "$ref" | "$dynamicRef") | measure(item, depth + 1, nodes)?;
            }
        }
        _ => {}
    }
    Ok(refers)
}

/// Values in a value, long strings counted more.
fn size(value: &Json) -> usize {
    match value {
        Json::String(text) => 1 + text.len() / 16,
        Json::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Json::Object(entries) => 1 + entries.iter().map(|(key, item)| 1 + key.len() / 16 + size(item)).sum::<usize>(),
        _ => 1,
    }
}
