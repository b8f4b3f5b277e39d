//! Functions: those of the document, of catalogs, and of the default catalog.

use serde_json::Value as Json;
use tidewheel_engine::id::Name;
use tidewheel_engine::run::plan::{Kind, NodeId, Target};

use super::Work;
use super::expression::Place;
use crate::diagnostic::{UNKNOWN_NAME, nearest};
use crate::feature::Feature;
use crate::model::{Statement, Text};
use crate::text::At;

/// Functions of the default catalog that this server knows of.
const DEFAULT: [&str; 14] = [
    "python",
    "task",
    "map",
    "human",
    "saga",
    "queue",
    "signal",
    "lock",
    "ratelimit",
    "sql",
    "mail",
    "s3",
    "validate",
    "asset",
];

/// `name:version@catalog`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CatalogName<'n> {
    pub(crate) name: &'n str,
    pub(crate) version: &'n str,
    pub(crate) catalog: &'n str,
}

/// Reads the name of a function of a catalog.
pub(crate) fn catalog_name(text: &str) -> Option<CatalogName<'_>> {
    let (function, catalog) = text.rsplit_once('@')?;
    let (name, version) = function.split_once(':')?;
    Some(CatalogName { name, version, catalog })
}

impl<'t> Work<'t> {
    pub(super) fn call_function(&mut self, statement: &'t Statement, name: &'t Text, with: Option<At>) -> Kind {
        let document = self.document;
        if let Some(function) = document.uses.functions.iter().find(|function| function.name == name.text) {
            let with = match with {
                Some(with) => self.template(with, Place::Body),
                None => self.dot(),
            };
            let Some(body) = self.function(function) else {
                let message = format!("the function `{}` calls itself", name.text);
                self.error(name.at, "recursive-function", message).hint =
                    Some("repeat with `for`, or run a workflow that runs itself with `run.workflow`".to_string());
                return Kind::Set(with);
            };
            return Kind::Function { with, schema: None, body };
        }
        match catalog_name(&name.text) {
            Some(CatalogName { name: function, version, catalog: "default" }) => {
                self.default_function(statement, name, function, version, with)
            }
            Some(CatalogName { catalog, .. }) => {
                let known = document.uses.catalogs.iter().map(|(known, _)| &*known.text).chain(["default"]);
                self.unknown(name.at, format!("there is no catalog `{catalog}` in `use.catalogs`"), known, catalog);
                self.nothing()
            }
            None => {
                self.unknown_function(name);
                self.nothing()
            }
        }
    }

    fn unknown_function(&mut self, name: &Text) {
        const PROTOCOLS: [&str; 6] = ["http", "grpc", "openapi", "asyncapi", "a2a", "mcp"];
        let document = self.document;
        let bare = name.text.split([':', '@']).next().unwrap_or("");
        if DEFAULT.contains(&bare)
            && nearest(&name.text, document.uses.functions.iter().map(|one| &*one.name)).is_none()
        {
            let full = format!("{bare}:1.0.0@default");
            let found =
                self.error(name.at, UNKNOWN_NAME, format!("there is no function `{}` in `use.functions`", name.text));
            found.hint = Some(format!("functions of the default catalog are written `{full}`"));
            found.fix = Some(full);
            return;
        }
        let known = document.uses.functions.iter().map(|one| &*one.name).chain(PROTOCOLS);
        self.unknown(name.at, format!("there is no function `{}` in `use.functions`", name.text), known, &name.text);
    }

    /// What stands for a call that was refused.
    fn nothing(&mut self) -> Kind {
        Kind::Set(self.builder.literal(Json::Null))
    }

    pub(super) fn dot(&mut self) -> tidewheel_engine::run::plan::ExprId {
        self.builder.expression(".", &[]).unwrap_or_else(|_| self.builder.literal(Json::Null))
    }

    /// The body of a function, compiled once; `None` = it is on its way, so that it calls itself.
    pub(super) fn function(&mut self, function: &'t Statement) -> Option<NodeId> {
        if let Some(known) = self.functions.get(&function.name) {
            return *known;
        }
        self.functions.insert(function.name.clone(), None);
        // A function sees its arguments and the context, not the variables around the call.
        let locals = std::mem::take(&mut self.locals);
        let body = self.statement(function, &[]);
        self.locals = locals;
        self.functions.insert(function.name.clone(), Some(body));
        Some(body)
    }

    fn default_function(
        &mut self,
        statement: &'t Statement,
        name: &Text,
        function: &str,
        version: &str,
        with: Option<At>,
    ) -> Kind {
        if DEFAULT.contains(&function) && version != "1.0.0" {
            let message = format!("the default catalog has `{function}` in version 1.0.0, not {version}");
            self.error(name.at, UNKNOWN_NAME, message).fix = Some(format!("{function}:1.0.0@default"));
            return self.nothing();
        }
        match function {
            "python" => {
                self.require(name.at, Feature::Python);
                let mut arguments = self.arguments(with);
                if let Some((name, value)) = self.python(statement, with) {
                    let expr = self.builder.literal(value.clone());
                    arguments.add(name, value, expr);
                }
                self.finish_call(Target::Python, arguments, true)
            }
            "task" => {
                self.check_arguments(statement, with, &["type", "input"], &["type"]);
                let part = |work: &Self, name: &str| with.and_then(|with| work.tree.get(with, name));
                let kind = part(self, "type").and_then(|at| self.task_type(at));
                let input = match part(self, "input") {
                    Some(input) => self.template(input, Place::Body),
                    None => self.dot(),
                };
                let Some(kind) = kind else { return self.nothing() };
                Kind::Call { target: Target::Task(kind), with: input, sealed: false, awaited: true }
            }
            "map" => {
                self.require(name.at, Feature::Map);
                self.map(statement, with)
            }
            "saga" => {
                self.require(name.at, Feature::Saga);
                self.saga(statement, with)
            }
            _ if DEFAULT.contains(&function) => {
                let message = format!("`call: {}` is not supported by this server", name.text);
                self.error(name.at, "not-supported", message).hint =
                    Some("use a Python function through `call: python:1.0.0@default`".to_string());
                self.nothing()
            }
            _ => {
                self.unknown(name.at, format!("the default catalog has no function `{function}`"), DEFAULT, function);
                self.nothing()
            }
        }
    }

    /// Checks the arguments of a Python call, and gives the one that follows from the package as it was pinned.
    fn python(&mut self, statement: &Statement, with: Option<At>) -> Option<(&'static str, Json)> {
        let known =
            ["package", "version", "entrypoint", "args", "queue", "priority", "requires", "range", "env", "assets"];
        self.check_arguments(statement, with, &known, &["package", "entrypoint"]);
        let with = with?;
        let instead = [
            ("range", "name the version under `version`, or leave it out for the newest one"),
            ("env", "give the values as `args`"),
            ("assets", "give the values as `args`"),
        ];
        for (name, hint) in instead {
            if let Some(at) = self.tree.get(with, name) {
                self.refuse(at, &format!("the argument `{name}` of a Python call"), hint);
            }
        }
        let mut texts = [None; 3];
        for (name, found) in ["package", "version", "entrypoint"].iter().zip(&mut texts) {
            let Some(at) = self.tree.get(with, name) else { continue };
            *found = self.tree.text(at).filter(|text| !text.contains("${"));
            if found.is_none() {
                let message = format!("`{name}` is a plain text: the package is pinned when the workflow is deployed");
                self.error(at, "wrong-value", message).hint =
                    Some("choose between packages with a `switch`, a call in each case".to_string());
            }
        }
        let [Some(package), version, Some(entrypoint)] = texts else { return None };
        let pinned = self.packages.get(&crate::resolve::package_key(package, version, entrypoint));
        pinned.filter(|_| version.is_none()).map(|version| ("version", Json::from(version.as_str())))
    }

    /// The arguments of an item of a map, or of a step of a saga, that calls Python.
    pub(super) fn map_arguments(&mut self, statement: &Statement, with: At) -> tidewheel_engine::run::plan::ExprId {
        let pinned = self.python(statement, Some(with));
        let mut fields = Vec::new();
        for (name, value) in self.entries(with) {
            fields.push((name.to_string(), self.template(value, Place::Body)));
        }
        if let Some((name, value)) = pinned {
            fields.push((name.to_string(), self.builder.literal(value)));
        }
        self.object(fields)
    }

    pub(super) fn check_arguments(&mut self, statement: &Statement, with: Option<At>, known: &[&str], needed: &[&str]) {
        let at = with.unwrap_or(statement.at);
        for name in needed {
            if with.and_then(|with| self.tree.get(with, name)).is_none() {
                let span = self.tree.key_span(at);
                let found = self.error(at, "missing-field", format!("this function needs the argument `{name}`"));
                found.span = span;
            }
        }
        for (name, value) in with.map(|with| self.entries(with)).unwrap_or_default() {
            if !known.contains(&&*name) {
                let span = self.tree.key_span(value);
                self.unknown(value, format!("this function has no argument `{name}`"), known.iter().copied(), &name);
                self.found.last_mut().expect("just reported").span = span;
            }
        }
    }

    fn map(&mut self, statement: &'t Statement, with: Option<At>) -> Kind {
        let known = ["items", "function", "task", "workflow", "with", "concurrency", "batch", "onError"];
        self.check_arguments(statement, with, &known, &["items"]);
        let argument = |work: &Self, name: &str| with.and_then(|with| work.tree.get(with, name));
        let items = match argument(self, "items") {
            Some(items) => self.template(items, Place::Body),
            None => self.builder.literal(Json::Null),
        };
        let target = match (argument(self, "function"), argument(self, "workflow"), argument(self, "task")) {
            (Some(function), None, None) => self.map_function(function),
            (None, Some(workflow), None) => self.map_workflow(workflow),
            (None, None, Some(task)) => self.task_type(task).map(Target::Task),
            _ => {
                let at = with.unwrap_or(statement.at);
                self.error(at, "missing-field", "a map needs one of `function`, `task`, `workflow`");
                None
            }
        };
        let names: [Name; 2] = ["item".into(), "index".into()];
        let each = argument(self, "with");
        let python = target == Some(Target::Python);
        if python && each.is_none() {
            let found =
                self.error(with.unwrap_or(statement.at), "missing-field", "a map that calls Python needs `with`");
            found.hint = Some("give it `package`, `entrypoint` and `args`, such as `args: ${ [$item] }`".to_string());
        }
        let each = each.map(|each| {
            self.with_locals(&names, |work| match python {
                true => work.map_arguments(statement, each),
                false => work.template(each, Place::Body),
            })
        });
        let concurrency = self.count(argument(self, "concurrency"), "concurrency", 10, 2_000);
        let batch = self.count(argument(self, "batch"), "batch", 1, 1_000);
        let collect = match argument(self, "onError").map(|at| (at, self.tree.text(at).map(str::to_string))) {
            None => false,
            Some((at, mode)) => match mode.as_deref() {
                Some("collect") => true,
                Some("fail") => false,
                _ => {
                    self.error(at, "wrong-value", "`onError` is `fail` or `collect`");
                    false
                }
            },
        };
        let Some(target) = target else { return self.nothing() };
        Kind::Map { items, target, with: each, concurrency, batch, collect }
    }

    /// The type of a task: a plain text, since it decides who can do it.
    pub(super) fn task_type(&mut self, at: At) -> Option<Name> {
        let text = self.tree.text(at).filter(|text| !text.is_empty() && text.len() <= 200 && !text.contains("${"));
        let kind = text.map(Name::from);
        if kind.is_none() {
            self.error(at, "wrong-value", "the type of a task is a plain text of at most 200 bytes");
        }
        kind
    }

    fn map_function(&mut self, at: At) -> Option<Target> {
        if self.tree.text(at) == Some("python:1.0.0@default") {
            return Some(Target::Python);
        }
        let message = "a map calls `python:1.0.0@default` or runs a workflow; other functions are not supported";
        self.error(at, "not-supported", message).hint =
            Some("put the call into a workflow of its own and name it under `workflow`".to_string());
        None
    }

    fn map_workflow(&mut self, at: At) -> Option<Target> {
        let part =
            |name: &str| self.tree.get(at, name).and_then(|at| self.tree.text(at)).filter(|text| !text.contains("${"));
        match (part("namespace"), part("name"), part("version").or(Some("latest"))) {
            (Some(namespace), Some(name), Some(version)) => {
                Some(Target::Workflow(namespace.into(), name.into(), version.into()))
            }
            _ => {
                self.error(
                    at,
                    "wrong-value",
                    "the workflow of a map has `namespace`, `name` and maybe `version`, each a plain text",
                );
                None
            }
        }
    }

    fn count(&mut self, at: Option<At>, name: &str, default: u32, most: u32) -> u32 {
        let Some(at) = at else { return default };
        match self.tree.json(at).as_u64().and_then(|count| u32::try_from(count).ok()) {
            Some(count) if (1..=most).contains(&count) => count,
            _ => {
                self.error(at, "wrong-value", format!("`{name}` is a number from 1 to {most}"));
                default
            }
        }
    }
}
