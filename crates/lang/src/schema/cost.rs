//! What a check costs, counted before it is made: a schema that refers to itself may meet a value exponentially often, and
//! the validator has no step limit. The count itself takes each pair of schema and value once.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;
use tidewheel_engine::run::eval::{EvalError, Fuel};

use super::SchemaError;

/// Schemas in schemas in values in values.
const MAX_DEPTH: usize = 1_000;

/// A schema and all that it may refer to. Documents are numbered; the first is the schema.
#[derive(Debug)]
pub(super) struct Index {
    documents: Vec<Json>,
    /// Absolute URI, with a fragment for anchors: document and pointer.
    targets: BTreeMap<String, (usize, String)>,
    /// Anchors of `$dynamicRef` by name.
    dynamic: BTreeMap<String, Vec<(usize, String)>>,
}

impl Index {
    pub(super) fn new(schema: &Json, others: &BTreeMap<String, Json>) -> Index {
        let mut index = Index { documents: Vec::new(), targets: BTreeMap::new(), dynamic: BTreeMap::new() };
        for (uri, document) in std::iter::once((&String::new(), schema)).chain(others) {
            let number = index.documents.len();
            index.documents.push(document.clone());
            index.targets.insert(uri.trim_end_matches('#').to_owned(), (number, String::new()));
            index.note(document, number, uri.trim_end_matches('#'), &mut String::new());
        }
        index
    }

    fn note(&mut self, value: &Json, document: usize, base: &str, pointer: &mut String) {
        let length = pointer.len();
        match value {
            Json::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    pointer.push_str(&format!("/{at}"));
                    self.note(item, document, base, pointer);
                    pointer.truncate(length);
                }
            }
            Json::Object(entries) => {
                let own = entries.get("$id").and_then(Json::as_str).map(|id| join(base, id));
                let base = own.as_deref().unwrap_or(base);
                if own.is_some() {
                    self.targets.entry(base.trim_end_matches('#').to_owned()).or_insert((document, pointer.clone()));
                }
                for key in ["$anchor", "$dynamicAnchor"] {
                    let Some(name) = entries.get(key).and_then(Json::as_str) else { continue };
                    self.targets.insert(format!("{base}#{name}"), (document, pointer.clone()));
                    if key == "$dynamicAnchor" {
                        self.dynamic.entry(name.to_owned()).or_default().push((document, pointer.clone()));
                    }
                }
                for (key, item) in entries {
                    pointer.push('/');
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                    self.note(item, document, base, pointer);
                    pointer.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn at(&self, (document, pointer): &(usize, String)) -> Option<&Json> {
        self.documents[*document].pointer(pointer)
    }

    /// What a reference leads to, and the base there.
    fn resolve(&self, base: &str, reference: &str) -> Option<(&Json, String)> {
        let whole = join(base, reference);
        let (uri, fragment) = whole.split_once('#').unwrap_or((&whole, ""));
        if fragment.is_empty() {
            return self.targets.get(uri).and_then(|target| self.at(target)).map(|found| (found, uri.to_owned()));
        }
        if !fragment.starts_with('/') {
            return self.targets.get(&whole).and_then(|target| self.at(target)).map(|found| (found, uri.to_owned()));
        }
        let fragment = decode(fragment);
        let mut found = self.targets.get(uri).and_then(|target| self.at(target))?;
        let mut base = uri.to_owned();
        for part in fragment.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            found = match found {
                Json::Array(items) => items.get(part.parse::<usize>().ok()?)?,
                Json::Object(entries) => entries.get(&part)?,
                _ => return None,
            };
            if let Some(id) = found.get("$id").and_then(Json::as_str) {
                base = join(&base, id);
            }
        }
        Some((found, base))
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A reference against a base, as far as schemas need it.
fn join(base: &str, reference: &str) -> String {
    if reference.contains("://") || reference.starts_with("urn:") || reference.starts_with("tag:") {
        return reference.to_owned();
    }
    let base = base.split_once('#').map_or(base, |(uri, _)| uri);
    if reference.is_empty() || reference.starts_with('#') {
        return format!("{base}{reference}");
    }
    let host = base.find("://").map_or(0, |at| base[at + 3..].find('/').map_or(base.len(), |slash| at + 3 + slash));
    if reference.starts_with('/') {
        return format!("{}{reference}", &base[..host]);
    }
    let folder = base[host..].rfind('/').map_or("/", |slash| &base[host..host + slash + 1]);
    let mut rest = reference;
    let mut folder = folder.to_owned();
    while let Some(after) = rest.strip_prefix("../") {
        rest = after;
        folder.truncate(folder.trim_end_matches('/').rfind('/').map_or(0, |slash| slash + 1));
    }
    let joined = format!("{}{folder}{}", &base[..host], rest.strip_prefix("./").unwrap_or(rest));
    if base.is_empty() { joined.trim_start_matches('/').to_owned() } else { joined }
}

type Pair = (*const Json, *const Json);

/// A count in progress.
pub(super) struct Costs<'i> {
    index: &'i Index,
    known: HashMap<Pair, Option<u64>>,
    steps: u64,
}

enum Stop {
    Fuel,
    Loop,
    Deep,
}

impl<'i> Costs<'i> {
    pub(super) fn new(index: &'i Index) -> Costs<'i> {
        Costs { index, known: HashMap::new(), steps: u64::MAX }
    }

    /// Steps that a check of a value takes; the count is charged too.
    pub(super) fn of(mut self, value: &Json, fuel: &mut Fuel) -> Result<u64, EvalError> {
        self.steps = fuel.steps;
        let counted = self.cost(&self.index.documents[0], "", value, 0);
        fuel.steps = self.steps;
        match counted {
            Ok(steps) => Ok(steps),
            Err(Stop::Fuel) => {
                fuel.steps = 0;
                Err(EvalError::Fuel)
            }
            Err(Stop::Loop) => Err(EvalError::Failed("the schema refers to itself in a loop".to_owned())),
            Err(Stop::Deep) => Err(EvalError::Failed("schema and value are nested too deep".to_owned())),
        }
    }

    /// Refuses schemas that come back to themselves without going into the value.
    pub(super) fn check_loops(mut self) -> Result<(), SchemaError> {
        let mut all = Vec::new();
        for document in &self.index.documents[..1] {
            collect(document, &mut all);
        }
        // A scalar meets only what applies in place.
        for schema in all {
            match self.cost(schema, "", &Json::Null, 0) {
                Err(Stop::Loop) => {
                    let message =
                        "the schema refers to itself without going into the value, so that it would never end";
                    return Err(SchemaError::new(message));
                }
                Err(Stop::Deep) => return Err(SchemaError::new("the schema refers to itself too deep")),
                Ok(_) | Err(Stop::Fuel) => {}
            }
        }
        Ok(())
    }

    fn cost(&mut self, schema: &'i Json, base: &str, value: &Json, depth: usize) -> Result<u64, Stop> {
        let Json::Object(keywords) = schema else { return Ok(1) };
        if depth > MAX_DEPTH {
            return Err(Stop::Deep);
        }
        let pair = (std::ptr::from_ref(schema), std::ptr::from_ref(value));
        match self.known.get(&pair) {
            Some(Some(cost)) => return Ok(*cost),
            Some(None) => return Err(Stop::Loop),
            None => {}
        }
        self.steps = self.steps.checked_sub(1 + keywords.len() as u64).ok_or(Stop::Fuel)?;
        self.known.insert(pair, None);
        let own = keywords.get("$id").and_then(Json::as_str).map(|id| join(base, id));
        let base = own.as_deref().unwrap_or(base);
        let mut total = 2 + keywords.len() as u64 + super::size(value).min(4096) as u64 / 16;
        for (keyword, inner) in keywords {
            let cost = self.keyword(keyword, inner, base, value, depth + 1)?;
            total = total.saturating_add(cost);
        }
        self.known.insert(pair, Some(total));
        Ok(total)
    }

    fn keyword(&mut self, keyword: &str, inner: &'i Json, base: &str, value: &Json, depth: usize) -> Result<u64, Stop> {
        let mut total = 0u64;
        let mut add = |cost: u64| total = total.saturating_add(cost);
        match (keyword, inner, value) {
            ("$ref" | "$dynamicRef", Json::String(reference), _) => {
                if let Some((found, base)) = self.index.resolve(base, reference) {
                    add(self.cost(found, &base, value, depth)?);
                }
                let name = reference.rsplit_once('#').map_or("", |(_, name)| name);
                if keyword == "$dynamicRef"
                    && let Some(targets) = self.index.dynamic.get(name)
                {
                    for target in targets {
                        if let Some(found) = self.index.at(target) {
                            add(self.cost(found, base, value, depth)?);
                        }
                    }
                }
            }
            ("allOf" | "anyOf" | "oneOf", Json::Array(schemas), _) => {
                for schema in schemas {
                    add(self.cost(schema, base, value, depth)?);
                }
            }
            ("not" | "if" | "then" | "else", schema, _) => add(self.cost(schema, base, value, depth)?),
            ("dependentSchemas", Json::Object(schemas), Json::Object(entries)) => {
                for (key, schema) in schemas {
                    if entries.contains_key(key) {
                        add(self.cost(schema, base, value, depth)?);
                    }
                }
            }
            ("properties", Json::Object(schemas), Json::Object(entries)) => {
                for (key, item) in entries {
                    if let Some(schema) = schemas.get(key) {
                        add(self.cost(schema, base, item, depth)?);
                    }
                }
            }
            ("patternProperties", Json::Object(schemas), Json::Object(entries)) => {
                for schema in schemas.values() {
                    for (key, item) in entries {
                        add(2 + key.len() as u64 / 16);
                        add(self.cost(schema, base, item, depth)?);
                    }
                }
            }
            ("additionalProperties" | "unevaluatedProperties" | "propertyNames", schema, Json::Object(entries)) => {
                for (key, item) in entries {
                    add(1 + key.len() as u64 / 16);
                    add(self.cost(schema, base, item, depth)?);
                }
            }
            ("items" | "contains" | "unevaluatedItems", schema, Json::Array(items)) => {
                for item in items {
                    add(1);
                    add(self.cost(schema, base, item, depth)?);
                }
            }
            ("prefixItems", Json::Array(schemas), Json::Array(items)) => {
                for (schema, item) in schemas.iter().zip(items) {
                    add(self.cost(schema, base, item, depth)?);
                }
            }
            ("enum" | "const", constants, _) => add(super::size(constants).min(100_000) as u64 / 4),
            ("uniqueItems", _, Json::Array(items)) => {
                let length = items.len() as u64;
                add(length.saturating_mul(length.min(16)) + super::size(value) as u64);
            }
            _ => {}
        }
        Ok(total)
    }
}

fn collect<'i>(value: &'i Json, into: &mut Vec<&'i Json>) {
    match value {
        Json::Array(items) => items.iter().for_each(|item| collect(item, into)),
        Json::Object(entries) => {
            if entries.contains_key("$ref") || entries.contains_key("$dynamicRef") {
                into.push(value);
            }
            entries.values().for_each(|item| collect(item, into));
        }
        _ => {}
    }
}
