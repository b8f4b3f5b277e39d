//! From a text to what is stored at a deploy: everything that the document names elsewhere is fetched once, and kept with
//! it under its hash.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use tidewheel_engine::run::plan::{Profile, VersionPolicy};

use crate::check::check;
use crate::compile::{CatalogName, Compiled, catalog_name, compile, digest};
use crate::diagnostic::{Diagnostic, has_errors};
use crate::feature::{Feature, Features};
use crate::model::{Authentication, AuthenticationRef, Call, Document, Endpoint, Kind, Run, SchemaSource, Text};
use crate::program::ProgramDocument;
use crate::schema::Resources;
use crate::text::{Tree, read_json};

/// Things that one document may name elsewhere.
const MAX_FETCHED: usize = 64;
/// The function of the default catalog that calls Python.
pub(crate) const PYTHON: &str = "python:1.0.0@default";
/// The one that does it for many items.
const MAP: &str = "map:1.0.0@default";
/// The one that has steps which are undone.
pub(crate) const SAGA: &str = "saga:1.0.0@default";
/// The one that opens a task of any type.
pub(crate) const TASK: &str = "task:1.0.0@default";
/// Version of the stored form.
const FORMAT: u64 = 1;

/// Fetches what a document names elsewhere. Called while a workflow is deployed, never when it runs.
pub trait Resolver {
    /// The bytes at an address. The error is one sentence.
    fn fetch(&self, request: &Request) -> Result<Vec<u8>, String>;

    /// The version of a Python package that a call is pinned to: the one it names, else the newest one that has the entry. `None` =
    /// packages are not known here, and the call stays as it is. The error is one sentence.
    fn package(&self, package: &str, version: Option<&str>, entrypoint: &str) -> Result<Option<String>, String> {
        let _ = (package, version, entrypoint);
        Ok(None)
    }
}

/// Something to fetch.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Absolute URI.
    pub uri: String,
    /// Authentication policy as the document gives it, such as `{"basic": {..}}`.
    pub authentication: Option<Json>,
}

/// Fetches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offline;

impl Resolver for Offline {
    fn fetch(&self, _: &Request) -> Result<Vec<u8>, String> {
        Err("nothing is fetched here".to_string())
    }
}

/// How a document is deployed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Edition; `None` = what `document.dsl` says.
    pub profile: Option<Profile>,
    /// What the server can do.
    pub features: Features,
}

/// What a deploy stores: canonical JSON that holds all that is needed to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Their SHA-256.
    pub hash: [u8; 32],
    content: Json,
}

/// What was fetched.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pinned {
    /// Functions by the name that calls give them.
    functions: BTreeMap<String, Json>,
    /// Schemas, scripts and descriptions by their URI: JSON, or text.
    resources: BTreeMap<String, Json>,
    /// Versions of packages by [`package_key`].
    pub(crate) packages: BTreeMap<String, String>,
}

/// The name under which a resolved document keeps the version of a package.
pub(crate) fn package_key(package: &str, version: Option<&str>, entrypoint: &str) -> String {
    format!("{package}@{}#{entrypoint}", version.unwrap_or("latest"))
}

impl Pinned {
    pub(crate) fn schemas(&self) -> Resources {
        let mut resources = Resources::new();
        for (uri, document) in &self.resources {
            resources.insert(uri.clone(), document.clone());
        }
        resources
    }
}

/// What a deploy found.
#[derive(Debug)]
pub struct Deployed {
    /// What is to be stored, and what it compiles to; `None` = an error is among the diagnostics.
    pub workflow: Option<(Resolved, Compiled)>,
    /// All findings, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads, checks, resolves and compiles a text.
pub fn deploy(text: &[u8], options: Options, resolver: &dyn Resolver) -> Deployed {
    let tree = match Tree::parse(text) {
        Ok(tree) => tree,
        Err(error) => return Deployed { workflow: None, diagnostics: vec![error] },
    };
    let (document, mut diagnostics) = check(&tree, options.profile);
    let Some(document) = document else { return Deployed { workflow: None, diagnostics } };
    let workflow = match resolve_and_compile(tree, document, options, resolver) {
        Ok(workflow) => Some(workflow),
        Err(found) => {
            diagnostics.extend(found);
            diagnostics.sort_by_key(|one| one.span.start);
            None
        }
    };
    Deployed { workflow, diagnostics }
}

fn resolve_and_compile(
    mut tree: Tree,
    mut document: Document,
    options: Options,
    resolver: &dyn Resolver,
) -> Result<(Resolved, Compiled), Vec<Diagnostic>> {
    let profile = document.profile;
    let workflow = tree.json(tree.root());
    let mut pinned = Pinned::default();
    loop {
        let mut fetch = Fetch { tree: &tree, resolver, pinned: &mut pinned, found: Vec::new(), functions: Vec::new() };
        fetch.document(&document, options.features);
        let Fetch { found, functions, .. } = fetch;
        if has_errors(&found) {
            return Err(found);
        }
        if functions.is_empty() {
            break;
        }
        for (name, function, at) in functions {
            tree.graft(&["use", "functions"], &name, &function, tree.span(at));
        }
        let (again, found) = check(&tree, Some(profile));
        document = again.ok_or(found)?;
    }
    let resolved = Resolved::new(workflow.clone(), profile, &pinned);
    let compiled = compile(&tree, &document, &pinned, workflow, resolved.hash, options.features)?;
    Ok((resolved, compiled))
}

impl Resolved {
    fn new(workflow: Json, profile: Profile, pinned: &Pinned) -> Resolved {
        let resource = |(uri, content): (&String, &Json)| {
            let hash = hex(&digest(canonical(content).to_string().as_bytes()));
            (uri.clone(), json!({ "sha256": hash, "content": content }))
        };
        let profile = if profile == Profile::Next { "next" } else { "1.0.3" };
        let mut content = json!({
            "tidewheel": FORMAT,
            "profile": profile,
            "workflow": workflow,
            "functions": pinned.functions,
            "resources": pinned.resources.iter().map(resource).collect::<serde_json::Map<_, _>>(),
        });
        if !pinned.packages.is_empty() {
            content["packages"] = json!(pinned.packages);
        }
        let content = canonical(&content);
        let bytes = content.to_string().into_bytes();
        Resolved { hash: digest(&bytes), bytes, content }
    }

    /// What is stored of a program.
    pub(crate) fn of_program(program: Json, workflow: Json) -> Resolved {
        let content = json!({ "tidewheel": FORMAT, "profile": "1.0.3", "program": program, "workflow": workflow });
        let content = canonical(&content);
        let bytes = content.to_string().into_bytes();
        Resolved { hash: digest(&bytes), bytes, content }
    }

    /// The program, if it is one: a workflow written in Python.
    pub fn program(&self) -> Option<ProgramDocument> {
        ProgramDocument::read(self.content.get("program")?, self.workflow())
    }

    /// The versions of packages that it calls, each by its name: those that a deploy pinned, and that of a program.
    pub fn packages(&self) -> Vec<(&str, &str)> {
        let pinned = self.content["packages"].as_object().into_iter().flatten();
        let pinned = pinned.filter_map(|(key, version)| Some((key.split_once('@')?.0, version.as_str()?)));
        let program = &self.content["program"];
        let own = program["package"].as_str().zip(program["package_version"].as_str());
        pinned.chain(own).collect()
    }

    /// What becomes of its runs when another version is deployed.
    pub fn version_policy(&self) -> VersionPolicy {
        if let Some(program) = self.program() {
            return program.policy().unwrap_or_default();
        }
        let hint = &self.workflow()["document"]["metadata"]["tidewheel"]["versionPolicy"];
        hint.as_str().and_then(VersionPolicy::named).unwrap_or_default()
    }

    /// Reads what a deploy stored.
    pub fn read(bytes: &[u8]) -> Result<Resolved, String> {
        let content = read_json(bytes).ok_or("not a resolved document: it is not JSON")?;
        match content["tidewheel"].as_u64() {
            Some(FORMAT) => Ok(Resolved { bytes: bytes.to_vec(), hash: digest(bytes), content }),
            Some(other) => Err(format!("the document has the stored form {other}; this version reads {FORMAT}")),
            None => Err("not a resolved document: `tidewheel` is missing".to_string()),
        }
    }

    /// The workflow as its author wrote it.
    pub fn workflow(&self) -> &Json {
        &self.content["workflow"]
    }

    /// Its edition.
    pub fn profile(&self) -> Profile {
        if self.content["profile"] == "next" { Profile::Next } else { Profile::V1_0_3 }
    }

    /// Compiles it.
    pub fn compile(&self, features: Features) -> Result<Compiled, Vec<Diagnostic>> {
        let workflow = self.workflow().clone();
        let mut tree = Tree::from_json(&workflow);
        let mut pinned = Pinned::default();
        for (name, function) in self.content["functions"].as_object().into_iter().flatten() {
            tree.graft(&["use", "functions"], name, function, tree.span(tree.root()));
            pinned.functions.insert(name.clone(), function.clone());
        }
        for (uri, resource) in self.content["resources"].as_object().into_iter().flatten() {
            pinned.resources.insert(uri.clone(), resource["content"].clone());
        }
        for (key, version) in self.content["packages"].as_object().into_iter().flatten() {
            pinned.packages.insert(key.clone(), version.as_str().unwrap_or_default().to_string());
        }
        let (document, found) = check(&tree, Some(self.profile()));
        let document = document.ok_or(found)?;
        compile(&tree, &document, &pinned, workflow, self.hash, features)
    }
}

/// With sorted keys.
pub(crate) fn canonical(value: &Json) -> Json {
    match value {
        Json::Array(items) => Json::Array(items.iter().map(canonical).collect()),
        Json::Object(fields) => {
            let sorted: BTreeMap<&String, Json> = fields.iter().map(|(key, value)| (key, canonical(value))).collect();
            Json::Object(sorted.into_iter().map(|(key, value)| (key.clone(), value)).collect())
        }
        other => other.clone(),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fetches what one pass over a document finds missing.
struct Fetch<'w> {
    tree: &'w Tree,
    resolver: &'w dyn Resolver,
    pinned: &'w mut Pinned,
    found: Vec<Diagnostic>,
    functions: Vec<(String, Json, crate::text::At)>,
}

impl Fetch<'_> {
    fn document(&mut self, document: &Document, features: Features) {
        let mut schemas = vec![&document.input.schema, &document.output.schema];
        let mut calls: Vec<(&Text, &Document)> = Vec::new();
        let mut calls_of_python = Vec::new();
        let mut resources = Vec::new();
        document.visit(&mut |statement| {
            schemas.extend([&statement.input.schema, &statement.output.schema, &statement.export.schema]);
            match &statement.kind {
                Kind::Call(Call::Function { name, with: Some(with) }) if &*name.text == PYTHON => {
                    calls_of_python.push(*with)
                }
                Kind::Call(Call::Function { name, with: Some(with) }) if &*name.text == MAP => {
                    let function = self.tree.get(*with, "function").and_then(|at| self.tree.text(at));
                    calls_of_python.extend(self.tree.get(*with, "with").filter(|_| function == Some(PYTHON)));
                }
                Kind::Call(Call::Function { name, with: Some(with) }) if &*name.text == SAGA => {
                    let steps = self.tree.get(*with, "steps").map_or(&[][..], |steps| self.tree.items(steps));
                    for (step, (function, with)) in
                        steps.iter().flat_map(|step| [(step, ("do", "with")), (step, ("undo", "undoWith"))])
                    {
                        let function = self.tree.get(*step, function).and_then(|at| self.tree.text(at));
                        calls_of_python.extend(self.tree.get(*step, with).filter(|_| function == Some(PYTHON)));
                    }
                }
                Kind::Call(Call::Function { name, .. }) => calls.push((name, document)),
                Kind::Call(Call::Protocol { protocol, resource: Some(resource), .. })
                    if features.has(Feature::of_protocol(*protocol)) =>
                {
                    resources.push(&resource.endpoint);
                }
                Kind::Run { run: Run::Process { source: Some(source), process, .. }, .. }
                    if features.has(Feature::of_process(*process)) =>
                {
                    resources.push(&source.endpoint);
                }
                _ => {}
            }
        });
        for schema in schemas.into_iter().flatten() {
            match &schema.source {
                SchemaSource::Resource(resource) => self.schema(&resource.endpoint, document),
                SchemaSource::Inline(at) => {
                    let inline = self.tree.json(*at);
                    self.references(&inline, *at);
                }
            }
        }
        for endpoint in resources {
            self.resource(endpoint, document);
        }
        for (name, document) in calls {
            self.function(name, document);
        }
        for with in calls_of_python {
            self.python(with);
        }
    }

    /// The version of the package that a Python call names. What is missing or no text is found by the compiler.
    fn python(&mut self, with: crate::text::At) {
        let argument = |name: &str| self.tree.get(with, name).and_then(|at| Some((at, self.tree.text(at)?)));
        let (Some((at, package)), Some((_, entrypoint))) = (argument("package"), argument("entrypoint")) else {
            return;
        };
        let version = argument("version").map(|(_, version)| version);
        let key = package_key(package, version, entrypoint);
        let computed = [Some(package), version, Some(entrypoint)].into_iter().flatten().any(|text| text.contains("${"));
        if computed || self.pinned.packages.contains_key(&key) {
            return;
        }
        match self.resolver.package(package, version, entrypoint) {
            Ok(None) => {}
            Ok(Some(version)) => {
                self.pinned.packages.insert(key, version);
            }
            Err(error) => self.fail(at, "unknown-package", error),
        }
    }

    fn fail(&mut self, at: crate::text::At, code: &'static str, message: String) {
        if !self.found.iter().any(|one| one.message == message) {
            let found = self.tree.error(at, code, message);
            self.found.push(match code {
                "not-fetched" => {
                    found.hint("put the content into the document, or deploy it from where that can be read")
                }
                _ => found,
            });
        }
    }

    /// The bytes at an address.
    fn fetch(&mut self, at: crate::text::At, uri: &str, authentication: Option<Json>) -> Option<Vec<u8>> {
        if self.pinned.resources.len() + self.pinned.functions.len() >= MAX_FETCHED {
            self.fail(at, "not-fetched", format!("a document may name at most {MAX_FETCHED} things elsewhere"));
            return None;
        }
        match self.resolver.fetch(&Request { uri: uri.to_string(), authentication }) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.fail(at, "not-fetched", format!("`{uri}` could not be fetched: {error}"));
                None
            }
        }
    }

    /// Only a literal address can be fetched at a deploy.
    fn literal(&mut self, endpoint: &Endpoint) -> bool {
        let literal = !endpoint.uri.text.contains(['{', '}']);
        if !literal {
            let message = "an address that is fetched at the deploy has to be a plain URI, without expressions or names in braces";
            self.fail(endpoint.uri.at, "not-fetched", message.to_string());
        }
        literal
    }

    fn policy(&self, endpoint: &Endpoint, document: &Document) -> Option<Json> {
        let policy: &Authentication = match endpoint.authentication.as_ref()? {
            AuthenticationRef::Inline(policy) => policy,
            AuthenticationRef::Named(name) => {
                &document.uses.authentications.iter().find(|(known, _)| known.text == name.text)?.1
            }
        };
        Some(json!({ policy.scheme: self.tree.json(policy.properties) }))
    }

    fn schema(&mut self, endpoint: &Endpoint, document: &Document) {
        let uri = endpoint.uri.text.to_string();
        if self.pinned.resources.contains_key(&uri) || !self.literal(endpoint) {
            return;
        }
        let policy = self.policy(endpoint, document);
        let Some(bytes) = self.fetch(endpoint.uri.at, &uri, policy) else { return };
        match Tree::parse(&bytes) {
            Ok(tree) => {
                let schema = tree.json(tree.root());
                self.pinned.resources.insert(uri, schema.clone());
                self.references(&schema, endpoint.uri.at);
            }
            Err(error) => self.fail(endpoint.uri.at, "not-fetched", format!("`{uri}` is not readable: {error}")),
        }
    }

    /// Fetches what a schema refers to by an absolute URI.
    fn references(&mut self, schema: &Json, at: crate::text::At) {
        let mut named = Vec::new();
        absolute_references(schema, &mut named);
        for uri in named {
            let known = self.pinned.resources.contains_key(&uri);
            if known || uri.starts_with("https://json-schema.org/") || schema["$id"] == Json::String(uri.clone()) {
                continue;
            }
            let Some(bytes) = self.fetch(at, &uri, None) else { continue };
            match Tree::parse(&bytes) {
                Ok(tree) => {
                    let inner = tree.json(tree.root());
                    self.pinned.resources.insert(uri, inner.clone());
                    self.references(&inner, at);
                }
                Err(error) => self.fail(at, "not-fetched", format!("`{uri}` is not readable: {error}")),
            }
        }
    }

    /// A script or a description of a peer, as text.
    fn resource(&mut self, endpoint: &Endpoint, document: &Document) {
        let uri = endpoint.uri.text.to_string();
        if self.pinned.resources.contains_key(&uri) || !self.literal(endpoint) {
            return;
        }
        let policy = self.policy(endpoint, document);
        let Some(bytes) = self.fetch(endpoint.uri.at, &uri, policy) else { return };
        match String::from_utf8(bytes) {
            Ok(text) => {
                self.pinned.resources.insert(uri, Json::String(text));
            }
            Err(_) => self.fail(endpoint.uri.at, "not-fetched", format!("`{uri}` is not UTF-8 text")),
        }
    }

    /// A function by its URL, or of a catalog of the document.
    fn function(&mut self, name: &Text, document: &Document) {
        let known = document.uses.functions.iter().any(|function| function.name == name.text);
        if known || self.functions.iter().any(|(function, ..)| **function == *name.text) {
            return;
        }
        let (uri, policy) = match catalog_name(&name.text) {
            _ if name.text.contains("://") => (raw(&name.text), None),
            Some(CatalogName { name: function, version, catalog }) if catalog != "default" => {
                let Some((_, endpoint)) = document.uses.catalogs.iter().find(|(known, _)| &*known.text == catalog)
                else {
                    return;
                };
                if !self.literal(endpoint) {
                    return;
                }
                let root = raw(endpoint.uri.text.trim_end_matches('/'));
                (format!("{root}/functions/{function}/{version}/function.yaml"), self.policy(endpoint, document))
            }
            _ => return,
        };
        let Some(bytes) = self.fetch(name.at, &uri, policy) else { return };
        match Tree::parse(&bytes) {
            Ok(tree) => {
                let function = tree.json(tree.root());
                self.pinned.functions.insert(name.text.to_string(), function.clone());
                self.functions.push((name.text.to_string(), function, name.at));
            }
            Err(error) => self.fail(name.at, "not-fetched", format!("`{uri}` is not readable: {error}")),
        }
    }
}

/// Absolute addresses of `$ref`s, without their fragments.
fn absolute_references(schema: &Json, into: &mut Vec<String>) {
    match schema {
        Json::Array(items) => items.iter().for_each(|item| absolute_references(item, into)),
        Json::Object(fields) => {
            if let Some(Json::String(reference)) = fields.get("$ref") {
                let uri = reference.split('#').next().unwrap_or("");
                if uri.contains("://") && !into.iter().any(|known| known == uri) {
                    into.push(uri.to_string());
                }
            }
            fields.values().for_each(|value| absolute_references(value, into));
        }
        _ => {}
    }
}

/// The address of the files behind a page of GitHub or GitLab.
pub(crate) fn raw(uri: &str) -> String {
    if let Some(path) = uri.strip_prefix("https://github.com/") {
        let mut parts = path.trim_end_matches('/').splitn(4, '/');
        if let (Some(owner), Some(name)) = (parts.next(), parts.next()) {
            let base = format!("https://raw.githubusercontent.com/{owner}/{name}");
            return match (parts.next(), parts.next()) {
                (Some("tree" | "blob"), Some(rest)) => format!("{base}/{rest}"),
                (None, None) => format!("{base}/main"),
                _ => uri.to_string(),
            };
        }
    }
    if uri.starts_with("https://gitlab.com/") {
        return uri.replacen("/-/tree/", "/-/raw/", 1).replacen("/-/blob/", "/-/raw/", 1);
    }
    uri.to_string()
}
