//! What becomes of statements, and what is said of mistakes.

use tidewheel_engine::run::eval::Definition;
use tidewheel_engine::run::plan::{Flow, Kind};
use tidewheel_lang::compile::Compiled;
use tidewheel_lang::diagnostic::Diagnostic;
use tidewheel_lang::feature::{Feature, Features};
use tidewheel_lang::resolve::{Offline, Options, deploy};

const HEAD: &str = "document: { dsl: '1.0.3', namespace: test, name: flow, version: '1.0.0' }\n";

fn features() -> Features {
    Features::of(&[
        Feature::Http,
        Feature::Python,
        Feature::Map,
        Feature::Saga,
        Feature::Workflow,
        Feature::PythonScript,
        Feature::Shell,
    ])
}

pub(crate) fn plan(body: &str) -> Compiled {
    let options = Options { profile: None, features: features() };
    let deployed = deploy(format!("{HEAD}{body}").as_bytes(), options, &Offline);
    match deployed.workflow {
        Some((_, compiled)) => compiled,
        None => panic!("{:#?}", deployed.diagnostics),
    }
}

fn errors(body: &str) -> Vec<Diagnostic> {
    let options = Options { profile: None, features: features() };
    let deployed = deploy(format!("{HEAD}{body}").as_bytes(), options, &Offline);
    assert!(deployed.workflow.is_none(), "it was accepted");
    deployed.diagnostics
}

fn error(body: &str) -> (String, String, u32, Option<String>) {
    let found = errors(body);
    assert_eq!(found.len(), 1, "{found:#?}");
    let one = &found[0];
    (one.message.clone(), one.hint.clone().unwrap_or_default(), one.span.start.line, one.fix.clone())
}

#[test]
fn references_are_written_as_the_standard_writes_instances() {
    let compiled = plan(
        "do:\n  - tryGetPet:\n      try:\n        - getPet: { set: { a: 1 } }\n      catch: { do: [ { tell: { set: { b: 2 } } } ] }\n  - side:\n      fork: { branches: [ { left: { wait: { seconds: 1 } } } ] }\n  - loop:\n      for: { in: .x }\n      do: [ { step: { set: { c: 3 } } } ]\n",
    );
    for reference in [
        "/do/0/tryGetPet/try/0/getPet",
        "/do/0/tryGetPet/catch/do/0/tell",
        "/do/1/side/fork/branches/0/left",
        "/do/2/loop/do/0/step",
    ] {
        assert!(compiled.plan().find(reference).is_some(), "{reference}");
    }
}

#[test]
fn a_then_becomes_a_position_of_its_list() {
    let compiled = plan(
        "do:\n  - a: { set: { x: 1 }, then: c }\n  - b: { set: { x: 1 }, then: end }\n  - c: { set: { x: 1 }, then: b }\n",
    );
    let flows: Vec<Flow> =
        compiled.plan().list(compiled.plan().root).iter().map(|id| compiled.plan().node(*id).then).collect();
    assert_eq!(flows, [Flow::To(2), Flow::End, Flow::To(1)]);
}

#[test]
fn an_unknown_then_names_the_nearest_statement() {
    let (message, hint, line, fix) =
        error("do:\n  - first: { set: { x: 1 }, then: secnod }\n  - second: { set: { x: 1 } }\n");
    assert_eq!(message, "there is no statement `secnod` in this list");
    assert_eq!((hint.as_str(), line, fix.as_deref()), ("did you mean `second`?", 3, Some("second")));
}

#[test]
fn all_problems_are_reported_not_the_first() {
    let found = errors("do:\n  - a: { cal: http }\n  - b: { wait: { secnds: 5 } }\n  - c: { set: {} }\n");
    let codes: Vec<&str> = found.iter().map(|one| one.code).collect();
    assert_eq!(codes, ["unknown-statement", "unknown-field", "missing-field"]);
    let spans: Vec<(u32, u32)> = found.iter().map(|one| (one.span.start.line, one.span.start.column)).collect();
    assert_eq!(spans, [(3, 10), (4, 18), (5, 15)]);
}

#[test]
fn secrets_are_legal_in_the_arguments_of_a_call_alone() {
    let (message, hint, ..) = error("use: { secrets: [ key ] }\ndo:\n  - a: { set: { x: '${ $secrets.key }' } }\n");
    assert!(message.contains("`$secrets` cannot be used"), "{message}");
    assert!(hint.contains("`with` of a call"), "{hint}");
}

#[test]
fn a_call_that_reaches_secrets_is_sealed_with_the_variables_that_it_needs() {
    let options = Options { profile: None, features: features().with(Feature::Secrets) };
    let text = format!(
        "{HEAD}use: {{ secrets: [ key ] }}\ndo:\n  - a:\n      call: http\n      with:\n        method: get\n        endpoint: https://x.y/{{id}}\n        headers: {{ k: '${{ $secrets.key + $context.b }}' }}\n"
    );
    let (_, compiled) = deploy(text.as_bytes(), options, &Offline).workflow.unwrap();
    let Kind::Call { sealed, with, .. } = compiled.plan().nodes[0].kind else { panic!() };
    assert!(sealed);
    let value = compiled.eval(with, &Dot(serde_json::json!({"id": 1})), &mut fuel()).unwrap();
    assert_eq!(value["template"]["headers"]["k"], "${ $secrets.key + $context.b }");
    assert_eq!(value["dot"], serde_json::json!({"id": 1}));
    assert!(value["variables"].get("context").is_some() && value["variables"].get("secrets").is_none());
}

#[test]
fn an_undeclared_secret_is_an_unknown_name() {
    let options = Options { profile: None, features: Features::all() };
    let text = format!(
        "{HEAD}use: {{ secrets: [ token ] }}\ndo:\n  - a: {{ run: {{ shell: {{ command: 'x ${{ $secrets.tokn }}' }} }} }}\n"
    );
    let found = deploy(text.as_bytes(), options, &Offline).diagnostics;
    assert_eq!(found[0].fix.as_deref(), Some("token"), "{found:#?}");
}

pub(crate) struct Dot(pub(crate) serde_json::Value);

impl tidewheel_engine::run::eval::Scope for Dot {
    fn dot(&self) -> std::borrow::Cow<'_, serde_json::Value> {
        std::borrow::Cow::Borrowed(&self.0)
    }

    fn var(&self, _: &tidewheel_engine::run::eval::Var) -> std::borrow::Cow<'_, serde_json::Value> {
        std::borrow::Cow::Owned(serde_json::json!({}))
    }

    fn now(&self) -> u64 {
        0
    }
}

pub(crate) fn fuel() -> tidewheel_engine::run::eval::Fuel {
    tidewheel_engine::run::eval::Fuel { steps: 1_000_000, bytes: 1_000_000 }
}

#[test]
fn the_arguments_of_an_http_call_are_evaluated_with_the_address_expanded_and_the_policy_in_place_of_its_name() {
    let compiled = plan(
        "use: { authentications: { me: { basic: { username: a, password: '${ .p }' } } } }\ndo:\n  - a:\n      call: http\n      with: { method: get, endpoint: { uri: 'https://x.y/{id}', authentication: { use: me } }, body: { n: '${ .id }' } }\n",
    );
    let Kind::Call { with, sealed, .. } = compiled.plan().nodes[0].kind else { panic!() };
    assert!(!sealed);
    let value = compiled.eval(with, &Dot(serde_json::json!({"id": 7, "p": "q"})), &mut fuel()).unwrap();
    assert_eq!(
        value,
        serde_json::json!({"method": "get", "endpoint": "https://x.y/7", "authentication": {"basic": {"username": "a", "password": "q"}}, "body": {"n": 7}})
    );
}

#[test]
fn variables_are_there_where_the_standard_says() {
    let (message, hint, ..) = error("do:\n  - a: { set: { x: 1 }, output: { as: '$output.x' } }\n");
    assert_eq!(message, "`$output` cannot be used in `output.as`");
    assert!(hint.contains('.'));
    let (message, ..) = error("input: { from: $context }\ndo:\n  - a: { set: { x: 1 } }\n");
    assert!(message.contains("`$context` cannot be used"), "{message}");
    plan("do:\n  - a: { if: $context.x == 1, set: { x: '${ $input }' }, export: { as: '$output' } }\n");
    plan(
        "do:\n  - a: { for: { in: .x, each: pet }, while: $pet != null, do: [ { b: { set: { y: '${ $pet + $index }' } } } ] }\n",
    );
    let found =
        errors("do:\n  - a: { for: { in: .x, each: pet }, do: [ { b: { set: { y: 1 } } } ], output: { as: $pet } }\n");
    assert_eq!(found[0].code, "expression");
}

#[test]
fn what_the_server_cannot_do_is_refused_by_name_with_a_hint() {
    let (message, hint, ..) = error("do:\n  - a: { emit: { event: { with: { type: x, source: 'https://x' } } } }\n");
    assert_eq!(message, "`emit` is not supported by this server");
    assert!(!hint.is_empty());
    let (message, ..) = error("do:\n  - a: { call: 'human:1.0.0@default', with: { title: x } }\n");
    assert_eq!(message, "`call: human:1.0.0@default` is not supported by this server");
    let (message, hint, ..) = error("do:\n  - a: { run: { script: { language: ruby, code: x } } }\n");
    assert_eq!(message, "scripts in `ruby` are not supported");
    assert!(hint.contains("python"));
    let (message, ..) = error("schedule: { cron: '0 0 * * *' }\ndo:\n  - a: { set: { x: 1 } }\n");
    assert_eq!(message, "`schedule` is not supported by this server");
}

#[test]
fn functions_are_compiled_once_and_may_not_call_themselves() {
    let compiled = plan(
        "use: { functions: { f: { set: { x: '${ .a }' } } } }\ndo:\n  - a: { call: f, with: { a: 1 } }\n  - b: { call: f, with: { a: 2 } }\n",
    );
    let bodies: Vec<_> = compiled
        .plan()
        .nodes
        .iter()
        .filter_map(|node| if let Kind::Function { body, .. } = node.kind { Some(body) } else { None })
        .collect();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0], bodies[1]);
    assert_eq!(&*compiled.plan().node(bodies[0]).reference, "/use/functions/f");
    let found = errors("use: { functions: { f: { call: g }, g: { call: f } } }\ndo:\n  - a: { call: f }\n");
    assert!(found.iter().any(|one| one.code == "recursive-function"), "{found:#?}");
    let (_, hint, ..) = error("do:\n  - a: { call: python, with: { package: p, entrypoint: e } }\n");
    assert_eq!(hint, "functions of the default catalog are written `python:1.0.0@default`");
}

#[test]
fn an_unknown_hint_is_refused_and_known_ones_reach_the_plan() {
    let (message, hint, ..) = error("do:\n  - a: { set: { x: 1 }, metadata: { tidewheel: { qeue: fast } } }\n");
    assert_eq!(message, "there is no hint `qeue` here");
    assert_eq!(hint, "did you mean `queue`?");
    let compiled = plan(
        "do:\n  - a: { run: { shell: { command: ls } }, metadata: { tidewheel: { queue: fast, priority: 7, requires: { gpu: true }, affinityKey: '${ .k }' } } }\n",
    );
    let hints = &compiled.plan().nodes[0].hints;
    assert_eq!((hints.queue.as_deref(), hints.priority), (Some("fast"), Some(7)));
    assert_eq!(hints.requires, [("gpu".into(), "true".into())]);
    assert!(hints.affinity_key.is_some());
}

#[test]
fn the_version_policy_of_a_document_is_one_of_three() {
    use tidewheel_engine::run::plan::VersionPolicy;
    let of = |policy: &str| {
        let hints = format!("metadata: {{ tidewheel: {{ versionPolicy: {policy}, concurrencyKey: '${{ .k }}' }} }}");
        let head = HEAD.replace(" }\n", &format!(", {hints} }}\n"));
        deploy(
            format!("{head}do:\n  - a: {{ set: {{ x: 1 }} }}\n").as_bytes(),
            Options { profile: None, features: features() },
            &Offline,
        )
    };
    for (name, policy) in VersionPolicy::ALL {
        let (resolved, compiled) = of(name).workflow.unwrap();
        assert_eq!((resolved.version_policy(), compiled.plan().version_policy), (policy, policy));
        assert!(compiled.plan().hints.concurrency_key.is_some());
    }
    let wrong = of("newest").diagnostics;
    assert_eq!(wrong[0].message, "the hint `versionPolicy` is pin, compatible or latest");
    assert_eq!(plan("do:\n  - a: { set: { x: 1 } }\n").plan().version_policy, VersionPolicy::Pin);
}

#[test]
fn map_takes_items_a_target_and_limits() {
    let compiled = plan(
        "do:\n  - a:\n      call: map:1.0.0@default\n      with: { items: '${ .rows }', function: 'python:1.0.0@default', with: { package: p, entrypoint: e, args: [ '${ $item.id }' ] }, concurrency: 20, onError: collect }\n",
    );
    let Kind::Map { concurrency, batch, collect, .. } = &compiled.plan().nodes[0].kind else { panic!() };
    assert_eq!((*concurrency, *batch, *collect), (20, 1, true));
}

#[test]
fn a_broken_expression_is_reported_at_its_place() {
    let found = errors("do:\n  - a:\n      set:\n        x: '${ .a | }'\n");
    assert_eq!((found[0].code, found[0].span.start.line), ("expression", 5));
    assert_eq!(found[0].pointer, "/do/0/a/set/x");
}

#[test]
fn a_document_as_deep_and_as_large_as_allowed_is_read_back_from_what_was_stored() {
    use tidewheel_engine::run::eval::Compiler;
    let deep = "{ a: ".repeat(95) + "1" + &" }".repeat(95);
    let text = format!("{HEAD}do:\n  - a: {{ set: {deep} }}\n");
    let options = Options { profile: None, features: features() };
    let deployed = deploy(text.as_bytes(), options, &Offline);
    let (resolved, compiled) = deployed.workflow.unwrap_or_else(|| panic!("{:?}", deployed.diagnostics));
    assert_eq!(tidewheel_lang::compile::Language.compile(&resolved.bytes).unwrap().plan(), compiled.plan());
}

#[test]
fn a_workflow_of_too_many_statements_is_refused_at_once() {
    let body: String = (0..10_001).map(|n| format!("  - s{n}: {{ set: {{ x: 1 }}, then: nowhere{n} }}\n")).collect();
    let (message, ..) = error(&format!("do:\n{body}"));
    assert!(message.contains("10001 statements"), "{message}");
}

#[test]
fn circles_of_workflows_are_found_by_their_names() {
    let name = |n: &str| ("ns".into(), n.into(), "1.0.0".into());
    let lookup = |of: &(std::sync::Arc<str>, std::sync::Arc<str>, std::sync::Arc<str>)| match &*of.1 {
        "a" => vec![name("b")],
        "b" => vec![name("c"), name("a")],
        _ => Vec::new(),
    };
    let found = tidewheel_lang::compile::circle(&name("a"), &lookup).unwrap();
    assert_eq!(found.iter().map(|one| one.1.to_string()).collect::<Vec<_>>(), ["a", "b", "a"]);
    assert!(tidewheel_lang::compile::circle(&name("c"), &lookup).is_none());
}

/// Code, line, column and message of the mistakes of a saga with these steps.
fn saga_errors(steps: &str) -> Vec<(String, u32, u32, String)> {
    let body = format!("do:\n  - trip:\n      call: saga:1.0.0@default\n      with:\n        steps:\n{steps}");
    let found = errors(&body).into_iter();
    found.map(|one| (one.code.to_string(), one.span.start.line, one.span.start.column, one.message)).collect()
}

#[test]
fn each_mistake_in_a_saga_has_a_line_and_a_column() {
    // The first step stands in line 7, and its fields begin in column 13.
    let task = "task:1.0.0@default";
    let a = format!("          - {{ name: a, do: '{task}', with: {{ type: t }} }}\n");
    let cases: Vec<(String, &str, (u32, u32), &str)> = vec![
        ("          - name: a\n            with: { type: t }\n".into(), "missing-field", (7, 13), "a step needs `do`"),
        (
            format!("          - do: {task}\n            with: {{ type: t }}\n"),
            "missing-field",
            (7, 13),
            "a step needs `name`",
        ),
        (
            format!("          - name: a\n            do: {task}\n"),
            "missing-field",
            (8, 17),
            "`do` needs its arguments in `with`, a map",
        ),
        (
            format!(
                "          - name: a\n            do: {task}\n            with: {{ type: t }}\n            rollback: {task}\n"
            ),
            "unknown-name",
            (10, 13),
            "a step has no field `rollback`",
        ),
        (
            format!("          - name: a\n            do: {task}\n            with: {{ type: t, payload: 1 }}\n"),
            "unknown-name",
            (9, 30),
            "this function has no argument `payload`",
        ),
        (
            format!(
                "          - name: a\n            do: {task}\n            with: {{ type: t }}\n            undoWith: {{ type: u }}\n"
            ),
            "missing-field",
            (10, 23),
            "`undoWith` are the arguments of `undo`, which is missing",
        ),
        (
            format!(
                "          - name: a\n            do: {task}\n            with: {{ type: t }}\n            undo: {task}\n"
            ),
            "missing-field",
            (10, 19),
            "`undo` needs its arguments in `undoWith`, a map",
        ),
        (
            format!(
                "{a}          - name: b\n            do: {task}\n            with: {{ type: t, input: '${{ $steps.c.id }}' }}\n"
            ),
            "unknown-name",
            (10, 37),
            "no step before `b` has the name `c`: `$steps` has the outputs of the steps that finished",
        ),
        (
            format!(
                "          - name: b\n            do: {task}\n            with: {{ type: t }}\n            undo: {task}\n            undoWith: {{ type: u, input: '${{ $steps.c.id }}' }}\n          - {{ name: c, do: '{task}', with: {{ type: t }} }}\n"
            ),
            "unknown-name",
            (11, 41),
            "neither `b` nor a step before it has the name `c`: `$steps` has the outputs of the steps that finished",
        ),
        (
            format!("{a}          - name: a\n            do: {task}\n            with: {{ type: t }}\n"),
            "duplicate-name",
            (8, 19),
            "two steps have the name `a`",
        ),
        (
            "          - name: a\n            do: saga:1.0.0@default\n            with: { steps: [] }\n".into(),
            "not-supported",
            (8, 17),
            "`do` is no saga in a saga",
        ),
        (
            "          - name: a\n            do: map:1.0.0@default\n            with: { items: [] }\n".into(),
            "not-supported",
            (8, 17),
            "`do` is `python:1.0.0@default` or `task:1.0.0@default`",
        ),
        (
            format!("          - name: a\n            do: {task}\n            with: {{ input: 1 }}\n"),
            "missing-field",
            (9, 13),
            "this function needs the argument `type`",
        ),
        (
            "          - 5\n".into(),
            "wrong-type",
            (7, 13),
            "a step is a map with `name`, `do`, `with`, `undo` and `undoWith`",
        ),
        (
            format!("          - name: a/b\n            do: {task}\n            with: {{ type: t }}\n"),
            "wrong-value",
            (7, 19),
            "the name of a step is a plain text of 1 to 100 bytes without `/`, `~` and `$`",
        ),
    ];
    for (steps, code, place, message) in cases {
        let expected = vec![(code.to_string(), place.0, place.1, message.to_string())];
        assert_eq!(saga_errors(&steps), expected, "{steps}");
    }
}

#[test]
fn a_saga_without_steps_or_with_a_retry_that_it_cannot_keep_is_refused() {
    let with = |with: &str| {
        let (message, hint, line, _) =
            error(&format!("do:\n  - trip: {{ call: 'saga:1.0.0@default', with: {with} }}\n"));
        assert_eq!(line, 3);
        (message, hint)
    };
    let step = "{ name: a, do: 'task:1.0.0@default', with: { type: t } }";
    assert_eq!(with("{ retry: {} }").0, "this function needs the argument `steps`");
    assert_eq!(with("{ steps: [] }").0, "`steps` is a list of 1 to 100 steps, each with `name`, `do` and `with`");
    assert!(with(&format!("{{ steps: [ {step} ], retry: {{ jitter: {{}} }} }}")).1.contains("it has to be done"));
    assert!(with(&format!("{{ steps: [ {step} ], retry: none }}")).0.contains("no retry policy `none`"));
    assert_eq!(with(&format!("{{ steps: [ {step} ], then: 1 }}")).0, "this function has no argument `then`");
}
