//! Workflows written in Python: what is stored of one, and the plan it compiles to.
//!
//! The plan has the program as its only statement, and beside it, in no list, one statement for each kind of thing that a
//! program may ask for. The engine begins those by name, each on a line of its own.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tidewheel_engine::id::Name;
use tidewheel_engine::run::plan::{
    Duration, ExprId, Filter, Hints, Intake, Kind, ListId, Listen, Node, NodeId, ParentClose, Plan, Profile, Program,
    Read, Strategy, Target, VersionPolicy, Yield,
};

use crate::compile::Compiled;
use crate::expr::Builder;
use crate::resolve::Resolved;
use crate::schema::Resources;

/// A workflow of a package.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgramDocument {
    /// Namespace: a DNS label.
    #[serde(skip)]
    pub namespace: String,
    /// Name: a DNS label.
    #[serde(skip)]
    pub name: String,
    /// Semantic version.
    #[serde(skip)]
    pub version: String,
    /// One sentence for people.
    #[serde(skip)]
    pub summary: String,
    /// JSON Schema of its input; `null` = anything.
    #[serde(skip)]
    pub input: Json,
    /// JSON Schema of its output; `null` = anything.
    #[serde(skip)]
    pub output: Json,
    /// Its package.
    pub package: String,
    /// Version of the package.
    pub package_version: String,
    /// Hash of the package.
    pub package_hash: String,
    /// `module:function`.
    pub function: String,
    /// Tasks that the package brings.
    pub tasks: Vec<String>,
    /// Queue of its activations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Priority of its activations, 0 to 9.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Time limit of a run in milliseconds; 0 = none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout_ms: u64,
    /// What becomes of its runs when another version is deployed; empty = `pin`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version_policy: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl ProgramDocument {
    /// As it is stored. Compiles it, so that nothing is stored that cannot run; the error is one sentence.
    pub fn resolved(&self) -> Result<Resolved, String> {
        let named = [("namespace", &self.namespace), ("name", &self.name)];
        if let Some((what, text)) = named.into_iter().find(|(_, text)| !is_label(text)) {
            return Err(format!("the {what} '{text}' is no DNS label: 1 to 63 of a-z, 0-9 and '-', not at its ends"));
        }
        let program = serde_json::to_value(self).map_err(|error| error.to_string())?;
        let mut workflow = json!({
            "document": {
                "dsl": "1.0.3", "namespace": self.namespace, "name": self.name, "version": self.version,
                "summary": self.summary,
            },
            "program": {
                "package": self.package, "version": self.package_version, "hash": self.package_hash, "fn": self.function,
            },
        });
        for (part, schema) in [("input", &self.input), ("output", &self.output)] {
            if !schema.is_null() {
                workflow[part] = json!({"schema": {"document": schema}});
            }
        }
        let resolved = Resolved::of_program(program, workflow);
        self.compile(resolved.hash)?;
        Ok(resolved)
    }

    pub(crate) fn read(program: &Json, workflow: &Json) -> Option<ProgramDocument> {
        let mut read: ProgramDocument = serde_json::from_value(program.clone()).ok()?;
        let text = |name: &str| workflow["document"][name].as_str().unwrap_or_default().to_owned();
        (read.namespace, read.name, read.version) = (text("namespace"), text("name"), text("version"));
        read.summary = text("summary");
        let schema = |part: &str| workflow[part]["schema"].get("document").cloned().unwrap_or(Json::Null);
        (read.input, read.output) = (schema("input"), schema("output"));
        Some(read)
    }

    /// See [`ProgramDocument::version_policy`].
    pub fn policy(&self) -> Result<VersionPolicy, String> {
        match &*self.version_policy {
            "" => Ok(VersionPolicy::Pin),
            name => VersionPolicy::named(name)
                .ok_or_else(|| format!("its version_policy is '{name}'; there are pin, compatible and latest")),
        }
    }

    pub(crate) fn compile(&self, hash: [u8; 32]) -> Result<Compiled, String> {
        let mut work = Work { builder: Builder::new(), nodes: Vec::new() };
        let mut schema = |part: &str, document: &Json| match document {
            Json::Null => Ok(None),
            document => {
                let found = work.builder.schema(document, &Resources::new());
                found.map(Some).map_err(|error| format!("the schema of its {part}: {error}"))
            }
        };
        // The arguments by name. As an array, by position, the program itself takes them, as a task does.
        let by_name = match &self.input {
            Json::Null => Json::Null,
            document => {
                // What it refers to (`#/$defs/Order`) is looked for from the root of the whole.
                let mut then = document.clone();
                let shared = then.as_object_mut().and_then(|then| then.remove("$defs"));
                let mut whole = json!({"if": {"type": "object"}, "then": then});
                if let Some(shared) = shared {
                    whole["$defs"] = shared;
                }
                whole
            }
        };
        let input = Intake { schema: schema("input", &by_name)?, from: None };
        let output = Yield { output_schema: schema("output", &self.output)?, ..Yield::default() };
        let program = Program {
            package: self.package.as_str().into(),
            version: self.package_version.as_str().into(),
            function: self.function.as_str().into(),
            tasks: self.tasks.iter().map(|task| task.as_str().into()).collect(),
            queue: self.queue.as_deref().map(Name::from),
            priority: self.priority,
        };
        work.add("/program", Kind::Code(Box::new(program)))?;
        work.statements()?;
        let definition = work.builder.literal(json!({"program": self.function}));
        let plan = Plan {
            hash,
            namespace: self.namespace.as_str().into(),
            name: self.name.as_str().into(),
            version: self.version.as_str().into(),
            profile: Profile::V1_0_3,
            input,
            output,
            timeout: (self.timeout_ms > 0).then_some(Duration::Fixed(self.timeout_ms)),
            root: ListId(0),
            nodes: work.nodes,
            lists: vec![vec![NodeId(0)]],
            attributes: Vec::new(),
            definition,
            hints: Hints::default(),
            version_policy: self.policy()?,
        };
        Ok(Compiled::new(plan, work.builder.finish()))
    }
}

struct Work {
    builder: Builder,
    nodes: Vec<Node>,
}

impl Work {
    fn jq(&mut self, text: &str) -> Result<ExprId, String> {
        self.builder.expression(text, &[]).map_err(|error| error.to_string())
    }

    fn add(&mut self, reference: &str, kind: Kind) -> Result<&mut Node, String> {
        let definition = self.builder.literal(Json::Null);
        let node = Node {
            name: reference.trim_start_matches(['/', '@']).into(),
            reference: reference.into(),
            condition: None,
            input: Intake::default(),
            output: Yield::default(),
            timeout: None,
            then: Default::default(),
            extensions: Vec::new(),
            hints: Hints::default(),
            definition,
            kind,
        };
        self.nodes.push(node);
        self.nodes.last_mut().ok_or_else(|| "no statement".to_owned())
    }

    /// One for each kind of thing that a program may ask for. Each gets `{name, args, opts}`.
    fn statements(&mut self) -> Result<(), String> {
        self.add("@activation", Kind::Activation)?;
        let limit = Some(Duration::Given(self.jq(".opts.timeout_ms")?));
        self.add("@task", Kind::Asked)?.timeout = limit;
        let ms = self.jq("{milliseconds: .opts.ms}")?;
        let nothing = self.jq("null")?;
        self.add("@sleep", Kind::Wait(Duration::Computed(ms)))?.output.output_as = Some(nothing);
        for (reference, parent_close) in [
            ("@child", ParentClose::Cancel),
            ("@child-abandon", ParentClose::Abandon),
            ("@child-wait", ParentClose::Wait),
        ] {
            // `namespace/name:version`; without a version it is the latest, without a namespace the default one.
            let namespace =
                self.jq(r#".name | split(":")[0] | split("/") | if length > 1 then .[0] else "default" end"#)?;
            let name = self.jq(r#".name | split(":")[0] | split("/") | .[-1]"#)?;
            let version = self.jq(r#".name | split(":")[1] // "latest""#)?;
            let (input, awaited) = (self.jq(".args")?, true);
            let child = Kind::Child { namespace, name, version, input, awaited, parent_close };
            self.add(reference, child)?.timeout = limit;
        }
        let (items, target) = (self.jq(".args")?, Target::Python);
        let map = Kind::Map { items, target, with: None, concurrency: 1, batch: 1, collect: false };
        self.add("@map", map)?.timeout = limit;
        for (reference, kind) in
            [("@signal", "$input.name"), ("@event", "$input.name"), ("@promise", r#""promise:" + $input.name"#)]
        {
            let mut with = vec![("type".into(), self.jq(kind)?)];
            if reference == "@event" {
                let fits = r#". as $data | all(($input.opts.where // {}) | to_entries[]; . as $e | try ($data[$e.key] == $e.value) catch false)"#;
                with.push(("data".into(), self.jq(fits)?));
            }
            let filter = Filter { with, correlate: Vec::new() };
            let listen = Listen { strategy: Strategy::One(filter), read: Read::Data, foreach: None };
            let first = self.jq(".[0]")?;
            let node = self.add(reference, Kind::Listen(listen))?;
            (node.timeout, node.output.output_as) = (limit, Some(first));
        }
        Ok(())
    }
}

fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

/// A version of `@workflow` as a semantic version: `3` is `3.0.0`, `1.2` is `1.2.0`. `build` of the package's version is kept, so that
/// each change of code that is under development is a version of its own. `None` = it cannot be read as one.
pub fn version_of(given: Option<&str>, package_version: &str) -> Option<String> {
    let (package, build) = package_version.split_once('+').map_or((package_version, None), |(v, b)| (v, Some(b)));
    let (numbers, candidate) = match given.unwrap_or(package).split_once('-') {
        Some((numbers, candidate)) => (numbers, Some(candidate)),
        None => (given.unwrap_or(package), None),
    };
    let mut parts: Vec<&str> = numbers.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.len() <= 9 && part.bytes().all(|b| b.is_ascii_digit());
    let all = parts.iter().filter(|part| is_number(part)).count();
    if all != parts.len() || parts.len() > 3 {
        // A version of Python that is no semantic one, such as 1.0rc1: what is a number of it counts, the rest is build metadata.
        if given.is_some() {
            return None;
        }
        let text: String = package.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '.' }).collect();
        let lead: Vec<&str> = numbers.split('.').take_while(|part| is_number(part)).take(3).collect();
        let lead = lead.into_iter().chain(["0"; 3]).take(3).collect::<Vec<_>>().join(".");
        return Some(format!("{lead}+{text}{}", build.map(|b| format!(".{b}")).unwrap_or_default()));
    }
    parts.resize(3, "0");
    let no_zeros = |part: &&str| part.trim_start_matches('0').to_owned();
    let parts: Vec<String> = parts.iter().map(no_zeros).map(|p| if p.is_empty() { "0".into() } else { p }).collect();
    let mut version = parts.join(".");
    if let Some(candidate) = candidate {
        version = format!("{version}-{candidate}");
    }
    Some(build.map_or(version.clone(), |build| format!("{version}+{build}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewheel_engine::run::eval::Compiler;

    fn program() -> ProgramDocument {
        ProgramDocument {
            namespace: "default".into(),
            name: "settle".into(),
            version: "3.0.0".into(),
            summary: "Settles an order.".into(),
            input: json!({"type": "object", "required": ["order"]}),
            package: "billing".into(),
            package_version: "1.2.0".into(),
            package_hash: "sha256:00".into(),
            function: "billing.flows:settle".into(),
            tasks: vec!["fetch".into()],
            ..ProgramDocument::default()
        }
    }

    #[test]
    fn a_program_is_stored_read_and_compiled() {
        let resolved = program().resolved().unwrap();
        let read = Resolved::read(&resolved.bytes).unwrap();
        assert_eq!(read.program().unwrap(), program());
        let compiled = crate::compile::Language.compile(&resolved.bytes).unwrap();
        let plan = compiled.plan();
        assert_eq!((&*plan.name, &*plan.version, plan.hash), ("settle", "3.0.0", resolved.hash));
        assert!(plan.find("@task:fetch").is_some() && plan.find("@signal:paid").is_some());
        assert!(plan.find("@nothing:x").is_none());
    }

    #[test]
    fn what_cannot_run_is_refused_when_it_is_registered() {
        let named = |name: &str| ProgramDocument { name: name.into(), ..program() }.resolved().unwrap_err();
        assert!(named("Settle_All").contains("no DNS label"));
        let broken = ProgramDocument { input: json!({"type": 5}), ..program() };
        assert!(broken.resolved().unwrap_err().contains("input"));
    }

    #[test]
    fn versions_become_semantic_ones() {
        let of = |given, package| version_of(given, package);
        assert_eq!(of(Some("3"), "1.2.0").as_deref(), Some("3.0.0"));
        assert_eq!(of(Some("3.1-rc.1"), "1.2.0+dev.5").as_deref(), Some("3.1.0-rc.1+dev.5"));
        assert_eq!(of(None, "1.2").as_deref(), Some("1.2.0"));
        assert_eq!(of(None, "2026.01.05").as_deref(), Some("2026.1.5"));
        assert_eq!(of(None, "1.0rc1+dev.9").as_deref(), Some("1.0.0+1.0rc1.dev.9"));
        assert_eq!(of(Some("new"), "1.0.0"), None);
    }
}
