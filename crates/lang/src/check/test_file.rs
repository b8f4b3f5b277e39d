//! Reads test files of workflows. Names of statements are looked up later, when the workflows are at hand.

use serde_json::Value as Json;

use super::Checker;
use crate::diagnostic::{Diagnostic, has_errors};
use crate::testkit::file::{Call, Elapsed, Event, Expect, File, Mock, Reply, Test};
use crate::text::{At, Node, Tree};

/// Tests of one file.
const MAX_TESTS: usize = 1_000;
/// Mocks, events or expectations of one test.
const MAX_PARTS: usize = 10_000;
/// What may be called, as `call` of a mock names it.
const CALLS: [&str; 13] = [
    "http",
    "grpc",
    "openapi",
    "asyncapi",
    "a2a",
    "mcp",
    "python",
    "task",
    "script",
    "shell",
    "container",
    "workflow",
    "any",
];
const PHASES: [&str; 5] = ["completed", "faulted", "cancelled", "waiting", "running"];

/// Reads a test file. It is there if no diagnostic is an error.
pub(crate) fn test_file(tree: &Tree) -> (Option<File>, Vec<Diagnostic>) {
    let mut checker = Checker { tree, profile: Default::default(), found: Vec::new() };
    let file = checker.test_file();
    let mut found = checker.found;
    found.sort_by_key(|one| one.span.start);
    let sound = !has_errors(&found);
    found.truncate(super::MAX_FOUND);
    (file.filter(|_| sound), found)
}

impl Checker<'_> {
    fn test_file(&mut self) -> Option<File> {
        let at = self.tree.root();
        let mut fields = self.fields(at, "a test file")?;
        let workflow = self.opt(&mut fields, "workflow", Self::text);
        let workflows = self.opt(&mut fields, "workflows", |this, at| this.list(at, Self::text));
        let resources = self.opt(&mut fields, "resources", |this, at| this.named(at, Self::text));
        let tests = self.need(&mut fields, "tests", |this, at| this.list(at, Self::test));
        let workflow_given = [("document", "this is a workflow; its tests stand in a file of their own, with `tests`")];
        self.close_for(fields, &workflow_given);
        let tests = tests?;
        if tests.is_empty() || tests.len() > MAX_TESTS {
            let at = self.tree.get(at, "tests").unwrap_or(at);
            self.error(at, "wrong-value", format!("a file has 1 to {MAX_TESTS} tests, this one has {}", tests.len()));
        }
        let mut names: Vec<(&str, At)> = tests.iter().map(|test| (&*test.name.text, test.name.at)).collect();
        names.sort();
        for two in names.windows(2).filter(|two| two[0].0 == two[1].0) {
            self.error(two[1].1, "ambiguous-name", format!("two tests have the name `{}`", two[1].0));
        }
        Some(File {
            workflow,
            workflows: workflows.unwrap_or_default(),
            resources: resources.unwrap_or_default(),
            tests,
        })
    }

    fn test(&mut self, at: At) -> Option<Test> {
        let mut fields = self.fields(at, "a test")?;
        let name = self.need(&mut fields, "name", Self::text);
        let input = self.opt(&mut fields, "input", Self::any);
        let secrets = self.opt(&mut fields, "secrets", Self::map);
        let start = self.opt(&mut fields, "now", Self::moment);
        let mocks = self.opt(&mut fields, "mocks", |this, at| this.parts(at, Self::mock));
        let events = self.opt(&mut fields, "events", |this, at| this.parts(at, Self::sent_event));
        let signals = self.opt(&mut fields, "signals", |this, at| this.parts(at, Self::sent_signal));
        let cancel = self.opt(&mut fields, "cancel", Self::length);
        let expect = self.opt(&mut fields, "expect", Self::expect);
        self.close(fields);
        Some(Test {
            name: name?,
            input: input.map(|at| self.tree.json(at)).unwrap_or_default(),
            secrets: secrets.map(|at| self.tree.json(at)).unwrap_or_else(|| Json::Object(Default::default())),
            start,
            mocks: mocks.unwrap_or_default(),
            events: events.unwrap_or_default(),
            signals: signals.unwrap_or_default(),
            cancel,
            expect: expect.unwrap_or_default(),
        })
    }

    fn parts<T>(&mut self, at: At, read: impl FnMut(&mut Self, At) -> Option<T>) -> Option<Vec<T>> {
        let count = self.tree.items(at).len();
        if count > MAX_PARTS {
            self.error(at, "too-large", format!("a test has at most {MAX_PARTS} of these, here are {count}"));
            return None;
        }
        self.list(at, read)
    }

    /// A length of time that is known beforehand, in milliseconds.
    fn length(&mut self, at: At) -> Option<u64> {
        match crate::duration::millis(&self.tree.json(at)) {
            Ok(millis) => Some(millis),
            Err(why) => {
                self.error(at, "not-a-duration", why);
                None
            }
        }
    }

    /// A point in time, in milliseconds.
    fn moment(&mut self, at: At) -> Option<u64> {
        let text = self.text(at)?;
        let read = text.text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
        if read.is_none() {
            let message = format!("`{}` is no time of RFC 3339 since 1970, such as `2026-01-31T08:00:00Z`", text.text);
            self.error(at, "wrong-value", message);
        }
        read
    }

    fn count(&mut self, at: At) -> Option<u64> {
        let whole = self.whole(at)?;
        let count = u64::try_from(whole).ok();
        if count.is_none() {
            self.error(at, "wrong-value", "has to be at least 0");
        }
        count
    }

    /// The name of a kind of call; that of a function of the default catalog stands for it too.
    fn call_kind(&mut self, at: At) -> Option<String> {
        let text = self.text(at)?;
        let bare = text.text.strip_suffix(":1.0.0@default").unwrap_or(&text.text);
        if CALLS.contains(&bare) {
            return Some(bare.to_string());
        }
        self.word(at, &CALLS).map(str::to_string)
    }

    fn mock(&mut self, at: At) -> Option<Mock> {
        let mut fields = self.fields(at, "a mock")?;
        let chosen = self.choice(&mut fields, &["statement", "call"]);
        let statement = self.tree.get(at, "statement").and_then(|at| self.text(at));
        let call = self.tree.get(at, "call").and_then(|at| self.call_kind(at));
        let with = self.opt(&mut fields, "with", Self::any);
        let times = self.opt(&mut fields, "times", Self::count);
        let delay = self.opt(&mut fields, "delay", Self::length);
        let result = self.opt(&mut fields, "result", Self::any);
        let error = self.opt(&mut fields, "error", Self::map);
        let never = self.opt(&mut fields, "never", Self::boolean).unwrap_or(false);
        self.close(fields);
        let given = usize::from(result.is_some()) + usize::from(error.is_some()) + usize::from(never);
        if given > 1 {
            self.error(at, "conflicting-fields", "a mock has one of `result`, `error`, `never`");
        }
        if given == 0 && delay.is_none() {
            let span = self.tree.key_span(at);
            let found = self.error(at, "missing-field", "a mock needs one of `result`, `error`, `never`, `delay`");
            found.span = span;
        }
        chosen?;
        let reply = match (result, error) {
            (_, Some(error)) => Reply::Error(self.tree.json(error)),
            _ if never => Reply::Never,
            (result, None) => Reply::Result(result),
        };
        let with = with.map(|at| self.tree.json(at));
        Some(Mock { at, statement, call, with, times, delay: delay.unwrap_or(0), reply })
    }

    fn sent_event(&mut self, at: At) -> Option<Event> {
        self.fields(at, "an event")?;
        let after = self.tree.get(at, "at").and_then(|at| self.length(at));
        let mut attributes = serde_json::Map::new();
        for (name, value) in self.tree.entries(at).iter().filter(|(name, _)| &**name != "at") {
            attributes.insert(name.to_string(), self.tree.json(*value));
        }
        if !attributes.get("type").is_some_and(Json::is_string) {
            let span = self.tree.key_span(at);
            self.error(at, "missing-field", "an event needs the field `type`, a text").span = span;
        }
        Some(Event { after: after.unwrap_or(0), value: Json::Object(attributes) })
    }

    fn sent_signal(&mut self, at: At) -> Option<Event> {
        let mut fields = self.fields(at, "a signal")?;
        let after = self.opt(&mut fields, "at", Self::length);
        self.need(&mut fields, "type", Self::text);
        self.opt(&mut fields, "data", Self::any);
        self.close(fields);
        Some(Event { after: after.unwrap_or(0), value: self.tree.json(at) })
    }

    fn expect(&mut self, at: At) -> Option<Expect> {
        let mut fields = self.fields(at, "an expectation")?;
        let phase = self.opt(&mut fields, "phase", |this, at| this.word(at, &PHASES));
        let output = self.opt(&mut fields, "output", Self::any);
        let error = self.opt(&mut fields, "error", Self::map);
        let calls = self.opt(&mut fields, "calls", |this, at| this.parts(at, Self::expected_call));
        let steps = self.opt(&mut fields, "steps", |this, at| this.parts(at, Self::text));
        let not_run = self.opt(&mut fields, "notRun", |this, at| this.parts(at, Self::text));
        let events = self.opt(&mut fields, "events", |this, at| this.parts(at, Self::map));
        let elapsed = self.opt(&mut fields, "elapsed", Self::elapsed);
        self.close(fields);
        if output.is_some() && error.is_some() {
            self.error(at, "conflicting-fields", "a run ends with an `output` or with an `error`, not with both");
        }
        Some(Expect {
            phase,
            output: output.map(|at| self.tree.json(at)),
            error: error.map(|at| self.tree.json(at)),
            calls: calls.unwrap_or_default(),
            steps: steps.unwrap_or_default(),
            not_run: not_run.unwrap_or_default(),
            events: events.unwrap_or_default().into_iter().map(|at| self.tree.json(at)).collect(),
            elapsed,
        })
    }

    fn expected_call(&mut self, at: At) -> Option<Call> {
        let mut fields = self.fields(at, "an expected call")?;
        let chosen = self.choice(&mut fields, &["statement", "call"]);
        let statement = self.tree.get(at, "statement").and_then(|at| self.text(at));
        let call = self.tree.get(at, "call").and_then(|at| self.call_kind(at));
        let with = self.opt(&mut fields, "with", Self::any);
        let times = self.opt(&mut fields, "times", Self::count);
        self.close(fields);
        chosen?;
        let with = with.map(|at| self.tree.json(at));
        Some(Call { statement, call, with, times })
    }

    fn elapsed(&mut self, at: At) -> Option<Elapsed> {
        let bounds = ["atLeast", "atMost"];
        let bounded =
            matches!(self.tree.node(at), Node::Map(_)) && bounds.iter().any(|b| self.tree.get(at, b).is_some());
        if !bounded {
            let exact = self.length(at)?;
            return Some(Elapsed { least: exact, most: exact });
        }
        let mut fields = self.fields(at, "a time that passes")?;
        let least = self.opt(&mut fields, "atLeast", Self::length);
        let most = self.opt(&mut fields, "atMost", Self::length);
        self.close(fields);
        Some(Elapsed { least: least.unwrap_or(0), most: most.unwrap_or(u64::MAX) })
    }
}
