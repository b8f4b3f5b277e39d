//! A test file with its workflows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value as Json;
use tidewheel_engine::id::Name;
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::eval::Definition;
use tidewheel_engine::run::plan::{Kind, SagaStep};

use super::file::{self, Elapsed, File};
use super::mock::{Mock, Pick, Reply};
use super::play::Played;
use super::world::title;
use crate::diagnostic::{Diagnostic, UNKNOWN_NAME, has_errors, nearest};
use crate::expr::{Builder, Programs};
use crate::feature::Features;
use crate::model::Text;
use crate::resolve::{Options, Request, Resolver, deploy};
use crate::text::{At, Tree};

/// Documents of one file.
const MAX_DOCUMENTS: usize = 100;
/// Findings after which no nearest names are looked for any more.
const MANY: usize = 200;

/// Reads the files that a test file names.
pub trait Files {
    /// The bytes of a file, by its path as the test file writes it. The error is one sentence.
    fn read(&self, path: &str) -> Result<Vec<u8>, String>;
}

/// What was found in one text.
#[derive(Debug)]
pub struct Findings {
    /// Path of the file, as the test file writes it; `None` = the test file itself.
    pub file: Option<String>,
    /// Its text.
    pub text: String,
    /// What was found.
    pub diagnostics: Vec<Diagnostic>,
}

/// A test that can be played.
#[derive(Debug)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) line: u32,
    pub(super) input: Json,
    pub(super) secrets: Json,
    pub(super) start: Option<u64>,
    pub(super) mocks: Vec<Mock>,
    pub(super) programs: Programs,
    pub(super) beside: Vec<(u64, Event)>,
    pub(super) expect: Expect,
}

/// What has to hold, with names looked up. Names stay, for messages.
#[derive(Debug)]
pub(super) struct Expect {
    pub(super) phase: &'static str,
    pub(super) output: Option<Json>,
    pub(super) error: Option<Json>,
    pub(super) calls: Vec<(String, Pick, Option<u64>)>,
    pub(super) steps: Vec<(String, BTreeSet<Name>)>,
    pub(super) not_run: Vec<(String, BTreeSet<Name>)>,
    pub(super) events: Vec<Json>,
    pub(super) elapsed: Option<Elapsed>,
}

/// A workflow of a suite.
#[derive(Debug)]
struct Source {
    path: String,
    /// Lines of its statements.
    lines: BTreeMap<Name, u32>,
}

/// A test file with its workflows, ready to be played.
#[derive(Debug)]
pub struct Suite {
    pub(super) documents: Vec<Arc<dyn Definition>>,
    sources: Vec<Source>,
    pub(super) tests: Vec<Test>,
}

/// Which statements of a workflow were run by a set of tests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Coverage {
    /// Path of the workflow, as the test file writes it.
    pub workflow: String,
    /// How many statements it has.
    pub statements: usize,
    /// How many of them were run.
    pub run: usize,
    /// Those that no test ran.
    pub never_run: Vec<Uncovered>,
}

/// A statement that no test ran.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Uncovered {
    /// Its name.
    pub name: String,
    /// Its reference.
    pub reference: String,
    /// Its line; 0 = it does not stand in the document.
    pub line: u32,
}

/// Reads a test file and the workflows that it names. `beside` is the path of the workflow that is under test where the file
/// names none. The suite is there if nothing found is an error.
pub fn load(text: &[u8], beside: Option<&str>, files: &dyn Files) -> (Option<Suite>, Vec<Findings>) {
    let own = || String::from_utf8_lossy(text).into_owned();
    let alone = |diagnostics| (None, vec![Findings { file: None, text: own(), diagnostics }]);
    let tree = match Tree::parse(text) {
        Ok(tree) => tree,
        Err(error) => return alone(vec![error]),
    };
    let (file, found) = crate::check::test_file(&tree);
    let Some(file) = file else { return alone(found) };
    let mut loader = Loader {
        tree: &tree,
        files,
        found,
        others: Vec::new(),
        documents: Vec::new(),
        sources: Vec::new(),
        statements: BTreeMap::new(),
    };
    loader.documents(&file, beside);
    let sound = loader.others.is_empty() && !has_errors(&loader.found);
    let tests: Vec<Test> = if sound { file.tests.iter().map(|test| loader.test(test)).collect() } else { Vec::new() };
    let Loader { mut found, mut others, documents, sources, .. } = loader;
    found.sort_by_key(|one| one.span.start);
    found.truncate(crate::check::MAX_FOUND);
    let sound = sound && !has_errors(&found);
    if !found.is_empty() {
        others.insert(0, Findings { file: None, text: own(), diagnostics: found });
    }
    (sound.then_some(Suite { documents, sources, tests }), others)
}

/// What documents name elsewhere, as the test file gives it.
struct Given<'l> {
    resources: &'l [(Text, Text)],
    files: &'l dyn Files,
}

impl Resolver for Given<'_> {
    fn fetch(&self, request: &Request) -> Result<Vec<u8>, String> {
        match self.resources.iter().find(|(uri, _)| *uri.text == *request.uri) {
            Some((_, path)) => self.files.read(&path.text),
            None => Err(format!("a test fetches nothing; name a file for `{}` under `resources`", request.uri)),
        }
    }
}

struct Loader<'l> {
    tree: &'l Tree,
    files: &'l dyn Files,
    found: Vec<Diagnostic>,
    others: Vec<Findings>,
    documents: Vec<Arc<dyn Definition>>,
    sources: Vec<Source>,
    /// Statements by name and by reference: their references, and whether they ask anybody.
    statements: BTreeMap<Name, BTreeMap<Name, bool>>,
}

impl Loader<'_> {
    fn error(&mut self, at: At, code: &'static str, message: impl Into<String>) -> &mut Diagnostic {
        self.found.push(self.tree.error(at, code, message));
        self.found.last_mut().expect("just pushed")
    }

    fn documents(&mut self, file: &File, beside: Option<&str>) {
        let given = Given { resources: &file.resources, files: self.files };
        let at = self.tree.root();
        match (&file.workflow, beside) {
            (Some(path), _) => self.document(path.at, &path.text, &given),
            (None, Some(path)) => self.document(at, path, &given),
            (None, None) => {
                let span = self.tree.key_span(at);
                let found = self.error(at, "missing-field", "a test file needs the field `workflow`");
                found.span = span;
                found.hint = Some(
                    "it is the path of the workflow; only `NAME.test.yaml` beside `NAME.yaml` does without it"
                        .to_string(),
                );
            }
        }
        if file.workflows.len() > MAX_DOCUMENTS {
            let at = self.tree.get(at, "workflows").unwrap_or(at);
            self.error(at, "too-large", format!("a test file names at most {MAX_DOCUMENTS} workflows"));
            return;
        }
        for path in &file.workflows {
            self.document(path.at, &path.text, &given);
        }
    }

    fn document(&mut self, at: At, path: &str, given: &Given<'_>) {
        let text = match self.files.read(path) {
            Ok(text) => text,
            Err(why) => {
                self.error(at, "not-found", format!("`{path}` cannot be read: {why}"));
                return;
            }
        };
        let deployed = deploy(&text, Options { profile: None, features: Features::all() }, given);
        let Some((_, compiled)) = deployed.workflow else {
            let (text, diagnostics) = (String::from_utf8_lossy(&text).into_owned(), deployed.diagnostics);
            self.others.push(Findings { file: Some(path.to_string()), text, diagnostics });
            return;
        };
        let compiled: Arc<dyn Definition> = Arc::new(compiled);
        let name = title(&*compiled);
        if self.documents.iter().any(|known| title(&**known) == name) {
            self.error(at, "ambiguous-name", format!("two documents of the test are the workflow `{name}`"));
        }
        let mut lines = BTreeMap::new();
        if let Ok(tree) = Tree::parse(&text) {
            for node in &compiled.plan().nodes {
                let outside = matches!(node.kind, Kind::Call { .. } | Kind::Map { .. } | Kind::Child { .. });
                if let Kind::Saga { steps, .. } = &node.kind {
                    self.steps(steps);
                }
                for name in [&node.name, &node.reference] {
                    self.statements.entry(name.clone()).or_default().insert(node.reference.clone(), outside);
                }
                let line = tree.find(&node.reference).map_or(0, |at| tree.key_span(at).start.line);
                lines.insert(node.reference.clone(), line);
            }
        }
        self.sources.push(Source { path: path.to_string(), lines });
        self.documents.push(compiled);
    }

    /// Steps of a saga are answered by their names, what undoes them by the name and `/undo`.
    fn steps(&mut self, steps: &[SagaStep]) {
        for step in steps {
            let undo: Name = format!("{}/undo", step.reference).into();
            let undo_name: Name = format!("{}/undo", step.name).into();
            for (name, reference) in
                [(&step.name, &step.reference), (&step.reference, &step.reference), (&undo_name, &undo), (&undo, &undo)]
            {
                self.statements.entry(name.clone()).or_default().insert(reference.clone(), true);
            }
        }
    }

    /// The statements of a name or reference; an unknown one is reported with the nearest known one.
    fn statement(&mut self, text: &Text, asks: bool) -> BTreeSet<Name> {
        let found = self.statements.get(&text.text);
        let fit: BTreeSet<Name> = found
            .into_iter()
            .flatten()
            .filter(|(_, outside)| !asks || **outside)
            .map(|(reference, _)| reference.clone())
            .collect();
        if !fit.is_empty() {
            return fit;
        }
        if found.is_some() {
            let message =
                format!("`{}` asks nobody: only calls, processes, workflows and maps are answered", text.text);
            self.error(text.at, "wrong-value", message);
            return fit;
        }
        let (look, by_reference) = (self.found.len() < MANY, text.text.starts_with('/'));
        let alike = |(name, all): &(&Name, &BTreeMap<Name, bool>)| {
            look && name.starts_with('/') == by_reference && (!asks || all.values().any(|outside| *outside))
        };
        let known: Vec<Name> = self.statements.iter().filter(alike).map(|(name, _)| name.clone()).collect();
        let near = nearest(&text.text, known.iter().map(|name| &**name)).map(str::to_string);
        let some: Vec<&str> = known.iter().take(20).map(|name| &**name).collect();
        let some = (!some.is_empty()).then(|| format!("there is `{}`", some.join("`, `")));
        let found = self.error(text.at, UNKNOWN_NAME, format!("there is no statement `{}`", text.text));
        found.hint = near.as_ref().map(|near| format!("did you mean `{near}`?")).or(some);
        found.fix = near;
        fit
    }

    fn statements(&mut self, names: &[Text]) -> Vec<(String, BTreeSet<Name>)> {
        names.iter().map(|name| (name.text.to_string(), self.statement(name, false))).collect()
    }

    fn pick(&mut self, statement: &Option<Text>, call: &Option<String>, with: &Option<Json>) -> Pick {
        let references = statement.as_ref().map(|statement| self.statement(statement, true));
        Pick { references, call: call.clone(), with: with.clone() }
    }

    fn test(&mut self, test: &file::Test) -> Test {
        let mut builder = Builder::new();
        let mocks = test.mocks.iter().map(|mock| self.mock(mock, &mut builder)).collect();
        let expect = &test.expect;
        let mut calls = Vec::new();
        for call in &expect.calls {
            let name = call.statement.as_ref().map_or_else(
                || format!("call: {}", call.call.as_deref().unwrap_or("any")),
                |statement| statement.text.to_string(),
            );
            calls.push((name, self.pick(&call.statement, &call.call, &call.with), call.times));
        }
        let phase = expect.phase.unwrap_or(if expect.error.is_some() { "faulted" } else { "completed" });
        Test {
            name: test.name.text.to_string(),
            line: self.tree.span(test.name.at).start.line,
            input: test.input.clone(),
            secrets: test.secrets.clone(),
            start: test.start,
            mocks,
            programs: builder.finish(),
            beside: beside(test),
            expect: Expect {
                phase,
                output: expect.output.clone(),
                error: expect.error.clone(),
                calls,
                steps: self.statements(&expect.steps),
                not_run: self.statements(&expect.not_run),
                events: expect.events.clone(),
                elapsed: expect.elapsed,
            },
        }
    }

    fn mock(&mut self, mock: &file::Mock, builder: &mut Builder) -> Mock {
        let pick = self.pick(&mock.statement, &mock.call, &mock.with);
        let reply = match &mock.reply {
            file::Reply::Never => Reply::Never,
            file::Reply::Error(error) => Reply::Error(error.clone()),
            file::Reply::Result(None) => Reply::Result(builder.literal(Json::Null)),
            file::Reply::Result(Some(at)) => Reply::Result(self.result(*at, builder)),
        };
        let line = self.tree.span(mock.at).start.line;
        Mock { pick, line, times: mock.times, delay: mock.delay, reply }
    }

    fn result(&mut self, at: At, builder: &mut Builder) -> tidewheel_engine::run::plan::ExprId {
        match builder.template(&self.tree.json(at), &[]) {
            Ok(expr) => {
                if let Some(global) = builder.uses(expr).first() {
                    let message = format!("`${}` cannot be used in a mock", global.name());
                    self.error(at, "variable-out-of-place", message).hint =
                        Some("the dot is what the call was given; nothing else is there".to_string());
                }
                expr
            }
            Err(error) => {
                let at = self.tree.find(&(self.tree.pointer(at) + &error.path)).unwrap_or(at);
                self.error(at, "expression", error.message).hint = error.hint;
                builder.literal(Json::Null)
            }
        }
    }
}

/// What comes from outside during a test.
fn beside(test: &file::Test) -> Vec<(u64, Event)> {
    let mut all = Vec::new();
    for (number, event) in (1..).zip(&test.events) {
        let mut value = event.value.clone();
        for (name, default) in
            [("specversion", "1.0".to_string()), ("id", format!("event-{number}")), ("source", "/tests".to_string())]
        {
            if value.get(name).is_none() {
                value[name] = default.into();
            }
        }
        all.push((event.after, Event::Arrived { event: Data::of(value).0 }));
    }
    for (number, signal) in (1..).zip(&test.signals) {
        let kind = signal.value["type"].as_str().unwrap_or_default().into();
        let data = Data::of(signal.value.get("data").cloned().unwrap_or_default()).0;
        all.push((signal.after, Event::Signal { id: format!("signal-{number}").into(), kind, data }));
    }
    all.extend(test.cancel.map(|after| (after, Event::Cancel { reason: "cancelled by the test".into() })));
    all
}

impl Suite {
    /// Names of the tests.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tests.iter().map(|test| &*test.name)
    }

    /// Which statements of its workflows these tests ran.
    pub fn coverage(&self, played: &[Played]) -> Vec<Coverage> {
        let mut ran: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); self.documents.len()];
        for (document, reference) in played.iter().flat_map(|one| &one.ran) {
            ran[*document].insert(reference);
        }
        let one = |(at, source): (usize, &Source)| {
            let mut nodes: Vec<_> = self.documents[at].plan().nodes.iter().collect();
            let line = |reference: &Name| source.lines.get(reference).copied().unwrap_or(0);
            nodes.sort_by_key(|node| (line(&node.reference), node.reference.clone()));
            nodes.dedup_by_key(|node| node.reference.clone());
            let missed = nodes.iter().filter(|node| !ran[at].contains(&*node.reference));
            let never_run: Vec<Uncovered> = missed
                .map(|node| Uncovered {
                    name: node.name.to_string(),
                    reference: node.reference.to_string(),
                    line: line(&node.reference),
                })
                .collect();
            let (statements, workflow) = (nodes.len(), source.path.clone());
            Coverage { workflow, statements, run: statements - never_run.len(), never_run }
        };
        self.sources.iter().enumerate().map(one).collect()
    }
}
