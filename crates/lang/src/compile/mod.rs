//! A document to the engine's plan: names resolved, expressions compiled in their scope, and everything refused that this
//! server could not run.

mod call;
mod event;
mod expression;
mod function;
mod hints;
mod process;
mod saga;
mod statement;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use tidewheel_engine::id::Name;
use tidewheel_engine::run::eval::{Compiler, Definition, EvalError, Fuel, Scope, Violation};
use tidewheel_engine::run::plan::{ExprId, ListId, Node, NodeId, Plan, SchemaId};

use crate::diagnostic::{Diagnostic, Severity, UNKNOWN_NAME, has_errors, nearest};
use crate::expr::{Builder, Programs};
use crate::feature::{Feature, Features};
use crate::model::{self, Document, Statement};
use crate::resolve::{Pinned, Resolved};
use crate::schema::Resources;
use crate::text::{At, Tree};

use expression::Place;
pub(crate) use function::{CatalogName, catalog_name};

/// Statements of one workflow.
const MAX_STATEMENTS: usize = 10_000;
/// Bytes that the definitions of all statements together may have; each holds those inside it once more.
const MAX_DEFINITIONS: u64 = 32 << 20;
/// Findings after which no nearest names are looked for any more.
const MANY: usize = 200;

/// A compiled workflow.
#[derive(Debug)]
pub struct Compiled {
    plan: Plan,
    programs: Programs,
}

impl Compiled {
    pub(crate) fn new(plan: Plan, programs: Programs) -> Compiled {
        Compiled { plan, programs }
    }
}

impl Definition for Compiled {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn eval(&self, expr: ExprId, scope: &dyn Scope, fuel: &mut Fuel) -> Result<Json, EvalError> {
        self.programs.eval(expr, scope, fuel)
    }

    fn check(&self, schema: SchemaId, value: &Json, fuel: &mut Fuel) -> Result<Vec<Violation>, EvalError> {
        self.programs.check(schema, value, fuel)
    }

    fn duration(&self, value: &Json) -> Result<u64, EvalError> {
        self.programs.duration(value)
    }

    fn weight(&self) -> usize {
        self.programs.weight() + self.plan.nodes.len() * size_of::<Node>()
    }
}

/// Compiles resolved documents for the engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Language;

impl Compiler for Language {
    fn compile(&self, document: &[u8]) -> Result<Arc<dyn Definition>, String> {
        let resolved = Resolved::read(document)?;
        if let Some(program) = resolved.program() {
            return Ok(Arc::new(program.compile(resolved.hash)?));
        }
        match resolved.compile(Features::all()) {
            Ok(compiled) => Ok(Arc::new(compiled)),
            Err(found) => Err(found.first().map_or_else(|| "it cannot be compiled".to_string(), ToString::to_string)),
        }
    }
}

/// Compiles a document that is well formed. Warnings are left to the linter.
pub(crate) fn compile(
    tree: &Tree,
    document: &Document,
    pinned: &Pinned,
    definition: Json,
    hash: [u8; 32],
    features: Features,
) -> Result<Compiled, Vec<Diagnostic>> {
    let mut work = Work {
        tree,
        document,
        features,
        resources: pinned.schemas(),
        packages: &pinned.packages,
        builder: Builder::new(),
        nodes: Vec::new(),
        lists: Vec::new(),
        locals: Vec::new(),
        functions: BTreeMap::new(),
        extensions: Vec::new(),
        plain: 0,
        defined: 0,
        found: Vec::new(),
    };
    let mut statements = 0;
    document.visit(&mut |_| statements += 1);
    if statements > MAX_STATEMENTS {
        let message = format!("the workflow has {statements} statements; at most {MAX_STATEMENTS} are taken");
        return Err(vec![tree.error(document.at, "too-large", message).hint("move parts into workflows of their own")]);
    }
    let plan = work.plan(definition, hash);
    let mut found = work.found;
    found.sort_by_key(|one| one.span.start);
    if has_errors(&found) {
        found.truncate(crate::check::MAX_FOUND);
        return Err(found);
    }
    Ok(Compiled { plan, programs: work.builder.finish() })
}

/// SHA-256.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A document on its way to a plan.
struct Work<'t> {
    tree: &'t Tree,
    document: &'t Document,
    features: Features,
    resources: Resources,
    /// Versions of packages as they were pinned.
    packages: &'t BTreeMap<String, String>,
    builder: Builder,
    nodes: Vec<Node>,
    lists: Vec<Vec<NodeId>>,
    /// Variables of the loops, catches and listens around the place that is compiled.
    locals: Vec<Name>,
    /// Functions compiled so far; `None` = on its way, so that a call of it is a circle.
    functions: BTreeMap<Name, Option<NodeId>>,
    /// Extensions: around which kind, and what.
    extensions: Vec<(Name, tidewheel_engine::run::plan::Extension)>,
    /// Above 0 inside an extension, whose own statements are not wrapped again.
    plain: usize,
    /// Bytes of the definitions so far.
    defined: u64,
    found: Vec<Diagnostic>,
}

impl<'t> Work<'t> {
    fn plan(&mut self, definition: Json, hash: [u8; 32]) -> Plan {
        let document = self.document;
        self.language();
        self.schedule();
        let (hints, version_policy) = (self.document_hints(), self.version_policy());
        let attributes = self.attributes();
        let input = self.intake(&document.input, Place::RunInput);
        self.wrap();
        let root = self.list(&document.body);
        let mut functions: Vec<&Statement> = document.uses.functions.iter().collect();
        functions.sort_by_key(|function| &function.name);
        for function in functions {
            self.function(function);
        }
        let output = self.run_output(&document.output);
        let timeout = document.timeout.as_ref().and_then(|timeout| self.timeout(timeout, Place::RunTimeout));
        let definition = self.builder.literal(definition);
        Plan {
            hash,
            namespace: document.namespace.text.clone(),
            name: document.name.text.clone(),
            version: document.version.text.clone(),
            profile: document.profile,
            input,
            output,
            timeout,
            root,
            nodes: std::mem::take(&mut self.nodes),
            lists: std::mem::take(&mut self.lists),
            attributes,
            definition,
            hints,
            version_policy,
        }
    }

    fn error(&mut self, at: At, code: &'static str, message: impl Into<String>) -> &mut Diagnostic {
        self.found.push(self.tree.error(at, code, message));
        self.found.last_mut().expect("just pushed")
    }

    /// An unknown name, with the nearest known one.
    fn unknown<'n>(&mut self, at: At, message: String, known: impl IntoIterator<Item = &'n str>, name: &str) {
        let look = self.found.len() < MANY;
        let known: Vec<&str> = known.into_iter().take(if look { usize::MAX } else { 20 }).collect();
        let near = if look { nearest(name, known.iter().copied()).map(str::to_string) } else { None };
        let known = &known[..known.len().min(20)];
        let hint = match &near {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if known.is_empty() => None,
            None => Some(format!("there is `{}`", known.join("`, `"))),
        };
        let found = self.error(at, UNKNOWN_NAME, message);
        found.hint = hint;
        found.fix = near;
    }

    /// Refuses what this server cannot do.
    fn require(&mut self, at: At, feature: Feature) {
        if !self.features.has(feature) {
            let message = format!("`{}` is not supported by this server", feature.name());
            self.error(at, "not-supported", message).hint = Some(feature.instead().to_string());
        }
    }

    fn refuse(&mut self, at: At, what: &str, hint: &str) {
        self.error(at, "not-supported", format!("{what} is not supported")).hint = Some(hint.to_string());
    }

    fn language(&mut self) {
        if let Some(language) = &self.document.language
            && &*language.text != "jq"
        {
            let message = format!("expressions in `{}` are not supported", language.text);
            self.error(language.at, "not-supported", message).hint = Some("the language is `jq`".to_string());
        }
    }

    fn schedule(&mut self) {
        let Some(schedule) = &self.document.schedule else { return };
        self.require(schedule.at, Feature::Schedule);
        let given = [
            ("every", schedule.every.is_some()),
            ("cron", schedule.cron.is_some()),
            ("after", schedule.after.is_some()),
            ("on", schedule.on.is_some()),
        ];
        let given: Vec<&str> = given.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
        if given.len() > 1 {
            let message =
                format!("a schedule has one of `every`, `cron`, `after`, `on`; this one has `{}`", given.join("`, `"));
            self.error(schedule.at, "conflicting-fields", message).hint =
                Some("deploy the same work as two workflows, or use a schedule resource for each".to_string());
        }
        for duration in [&schedule.every, &schedule.after].into_iter().flatten() {
            self.duration(duration, Place::RunTimeout);
        }
        if let Some(strategy) = &schedule.on {
            self.strategy(strategy, Place::RunTimeout);
        }
    }

    /// Compiles the extensions, before the statements that they wrap.
    fn wrap(&mut self) {
        let document = self.document;
        self.plain += 1;
        for extension in &document.uses.extensions {
            let when = extension.when.as_ref().map(|when| self.expression(when.at, &when.text, Place::Early));
            let before = extension.before.as_deref().map(|list| self.list(list));
            let after = extension.after.as_deref().map(|list| self.list(list));
            let compiled = tidewheel_engine::run::plan::Extension { when, before, after };
            self.extensions.push((extension.extend.text.clone(), compiled));
        }
        self.plain -= 1;
    }

    /// The entries of a map by their names: what is compiled from a document and from its stored form is the same plan.
    fn entries(&self, at: At) -> Vec<(Box<str>, At)> {
        let mut entries = self.tree.entries(at).to_vec();
        entries.sort();
        entries
    }

    fn list(&mut self, statements: &'t [Statement]) -> ListId {
        let names = statements;
        let nodes = statements.iter().map(|statement| self.statement(statement, names)).collect();
        self.lists.push(nodes);
        ListId(self.lists.len() as u32 - 1)
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }
}

/// Whether a diagnostic says that a document is sound but this server cannot run it.
pub fn is_refusal(diagnostic: &Diagnostic) -> bool {
    diagnostic.code == "not-supported" && diagnostic.severity == Severity::Error
}

/// Namespace, name and version of a workflow.
pub type WorkflowName = (Name, Name, Name);

/// The literal names of the workflows that a document runs: namespace, name, version.
pub fn children(document: &Document) -> Vec<WorkflowName> {
    let mut found = Vec::new();
    document.visit(&mut |statement| {
        if let model::Kind::Run { run: model::Run::Workflow { namespace, name, version, .. }, .. } = &statement.kind {
            let parts = [namespace, name, version];
            if parts.iter().all(|part| !part.text.contains("${")) {
                found.push((namespace.text.clone(), name.text.clone(), version.text.clone()));
            }
        }
    });
    found
}

/// A circle of workflows that run each other by literal names, if there is one that goes through `start`: its names from
/// `start` back to `start`. `lookup` gives the children of a workflow, none if it is not known.
pub fn circle(start: &WorkflowName, lookup: &dyn Fn(&WorkflowName) -> Vec<WorkflowName>) -> Option<Vec<WorkflowName>> {
    let mut path = vec![(start.clone(), lookup(start).into_iter())];
    let mut seen = std::collections::BTreeSet::new();
    while let Some((_, children)) = path.last_mut() {
        let Some(child) = children.next() else {
            path.pop();
            continue;
        };
        if child == *start {
            let names = path.iter().map(|(name, _)| name.clone());
            return Some(names.chain([child]).collect());
        }
        if seen.insert(child.clone()) {
            let next = lookup(&child).into_iter();
            path.push((child, next));
        }
    }
    None
}
