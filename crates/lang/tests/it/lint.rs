//! What the linter says, and when it keeps quiet.

use tidewheel_lang::check::check;
use tidewheel_lang::diagnostic::Severity;
use tidewheel_lang::feature::Features;
use tidewheel_lang::graph::Graph;
use tidewheel_lang::lint::{Class, Report, lint};
use tidewheel_lang::resolve::{Offline, Options};
use tidewheel_lang::text::Tree;

const HEAD: &str = "document: { dsl: '1.0.3', namespace: test, name: flow, version: '1.0.0' }\n";

fn report(body: &str) -> Report {
    lint(format!("{HEAD}{body}").as_bytes(), Options { profile: None, features: Features::all() }, &Offline)
}

fn codes(body: &str) -> Vec<&'static str> {
    report(body).diagnostics.iter().map(|one| one.code).collect()
}

#[test]
fn a_workflow_has_one_of_three_classes() {
    assert_eq!(report("do:\n  - a: { set: { x: 1 } }\n").class, Some(Class::Portable));
    assert_eq!(
        report("do:\n  - a: { set: { x: 1 }, metadata: { tidewheel: { queue: q } } }\n").class,
        Some(Class::PortableWithHints)
    );
    let product = report("do:\n  - a: { call: 'python:1.0.0@default', with: { package: p, entrypoint: e } }\n");
    assert_eq!(product.class, Some(Class::ProductOnly));
    assert_eq!(report("do: 5\n").class, None);
}

#[test]
fn warnings_have_code_place_and_fix() {
    let found = report("do:\n  - a: { set: { error: $error } }\n").diagnostics;
    assert_eq!(
        (found[0].code, &*found[0].pointer, found[0].fix.as_deref()),
        ("literal-expression", "/do/0/a/set/error", Some("${ $error }"))
    );
    assert_eq!(found[0].span.start.line, 3);
}

#[test]
fn each_mistake_that_is_legal_is_found() {
    let cases: [(&str, &str); 12] = [
        (
            "context-replaced",
            "do:\n  - a: { set: { x: 1 }, export: { as: '{ a: .x }' } }\n  - b: { set: { x: 1 }, export: { as: '{ b: .x }' } }\n",
        ),
        ("double-braces", "do:\n  - a: { set: { x: 'hi {{ name }}' } }\n"),
        ("time-in-condition", "do:\n  - a: { if: now > 5, set: { x: 1 } }\n"),
        ("no-default-case", "do:\n  - a: { switch: [ { one: { when: .x, then: end } } ] }\n  - b: { set: { x: 1 } }\n"),
        ("unreachable", "do:\n  - a: { set: { x: 1 }, then: end }\n  - b: { set: { x: 1 } }\n"),
        ("duplicate-name", "do:\n  - a: { set: { x: 1 } }\n  - a: { set: { x: 1 } }\n"),
        ("endless-retry", "do:\n  - a: { try: [ { b: { set: { x: 1 } } } ], catch: { retry: { delay: PT1S } } }\n"),
        (
            "unlimited-fan-out",
            "do:\n  - a: { for: { in: .x }, do: [ { b: { run: { await: false, workflow: { namespace: n, name: m, version: '1.0.0' } } } } ] }\n",
        ),
        (
            "branches-export-same-key",
            "do:\n  - a:\n      fork:\n        branches:\n          - l: { set: { x: 1 }, export: { as: { k: 1 } } }\n          - r: { set: { x: 1 }, export: { as: '$context + { k: .x }' } }\n",
        ),
        (
            "secret-in-output",
            "use: { secrets: [ k ] }\ndo:\n  - a: { call: http, with: { method: get, endpoint: 'https://x', headers: { k: '${ $secrets.k }' }, output: response } }\n",
        ),
        (
            "lost-parallelism",
            "do:\n  - a: { call: http, with: { method: get, endpoint: 'https://x' } }\n  - b: { call: http, with: { method: get, endpoint: 'https://y' } }\n",
        ),
        ("data-of-data", "do:\n  - a: { listen: { to: { any: [] } }, output: { as: '.[0].data' } }\n"),
    ];
    for (code, body) in cases {
        assert!(codes(body).contains(&code), "{code}: {:?}", report(body).diagnostics);
    }
}

#[test]
fn what_is_meant_so_is_not_reported() {
    let quiet = [
        "do:\n  - a: { set: { x: '${ .y }' }, export: { as: '$context + { a: .x }' } }\n  - b: { set: { x: 1 }, export: { as: '$context + { b: .x }' } }\n",
        "do:\n  - a: { switch: [ { one: { when: .x, then: b } }, { other: { then: end } } ] }\n  - b: { set: { x: 1 } }\n",
        "do:\n  - a: { call: http, with: { method: get, endpoint: 'https://x' } }\n  - b: { call: http, with: { method: get, endpoint: 'https://y/{id}' } }\n",
        "do:\n  - a: { call: http, with: { method: get, endpoint: 'https://x' } }\n  - b: { call: http, with: { method: post, endpoint: 'https://y', body: '${ . }' } }\n",
        "do:\n  - a: { call: http, with: { method: get, endpoint: 'https://x' }, export: { as: . } }\n  - b: { call: http, with: { method: post, endpoint: 'https://y', body: '${ $context.z }' } }\n",
    ];
    for body in quiet {
        assert!(codes(body).is_empty(), "{:#?}", report(body).diagnostics);
    }
}

#[test]
fn the_critical_path_is_the_longest_chain_of_work() {
    let body = "do:\n  - a: { wait: PT1S }\n  - b:\n      fork:\n        branches:\n          - l: { do: [ { l1: { wait: PT1S } }, { l2: { wait: PT1S } } ] }\n          - r: { wait: PT1S }\n";
    let path = report(body).critical_path.unwrap();
    assert_eq!(path.work, 4);
    assert_eq!(path.statements, ["/do/0/a", "/do/1/b/fork/branches/0/l/do/0/l1", "/do/1/b/fork/branches/0/l/do/1/l2"]);
}

#[test]
fn a_graph_has_the_ways_between_statements() {
    let text = format!(
        "{HEAD}do:\n  - a: {{ switch: [ {{ big: {{ when: .x, then: c }} }} ] }}\n  - b: {{ set: {{ x: 1 }}, then: end }}\n  - c: {{ do: [ {{ d: {{ wait: PT1S }} }} ] }}\n"
    );
    let tree = Tree::parse(text.as_bytes()).unwrap();
    let graph = Graph::of(&tree, &check(&tree, None).0.unwrap());
    let edges: Vec<String> =
        graph.edges.iter().map(|edge| format!("{} -{}> {}", edge.from, edge.label, edge.to)).collect();
    assert_eq!(
        edges,
        [
            "start -> /do/0/a",
            "/do/0/a -big> /do/2/c",
            "/do/0/a -else> /do/1/b",
            "/do/1/b -> end",
            "/do/2/c -> /do/2/c/do/0/d",
            "/do/2/c -> end"
        ]
    );
    assert!(graph.dot().contains("\"/do/0/a\" -> \"/do/2/c\" [label=\"big\"];"));
    assert!(graph.mermaid().contains("n1 -->|big| n3"), "{}", graph.mermaid());
}

const TRIP: &str = "do:
  - trip:
      call: saga:1.0.0@default
      with:
        steps:
          - name: flight
            do: task:1.0.0@default
            with: { type: book, input: '${ .seat }' }
            undo: task:1.0.0@default
            undoWith: { type: cancel, input: '${ .id }' }
          - name: mail
            do: python:1.0.0@default
            with: { package: mails, entrypoint: 'mails:send' }
          - name: hotel
            do: task:1.0.0@default
            with: { type: book, input: '${ $steps.flight }' }
            undo: task:1.0.0@default
            undoWith: { type: cancel, input: '${ .id }' }
          - name: pay
            do: task:1.0.0@default
            with: { type: pay }
";

#[test]
fn a_graph_draws_the_steps_of_a_saga_and_the_way_back() {
    let tree = Tree::parse(format!("{HEAD}{TRIP}").as_bytes()).unwrap();
    let graph = Graph::of(&tree, &check(&tree, None).0.unwrap());
    let node = |id: &str| graph.nodes.iter().find(|node| node.id == id).unwrap_or_else(|| panic!("no node {id}"));
    assert_eq!((&*node("/do/0/trip/flight").kind, &*node("/do/0/trip/mail").kind), ("task: book", "task: mails:send"));
    let undo = node("/do/0/trip/hotel/undo");
    assert_eq!((&*undo.name, &*undo.kind, undo.parent.as_deref()), ("undo hotel", "task: cancel", Some("/do/0/trip")));
    let edges: Vec<String> = graph
        .edges
        .iter()
        .map(|edge| format!("{} -{}> {}", edge.from, edge.label, edge.to).replace("/do/0/trip", "trip"))
        .collect();
    assert_eq!(
        edges,
        [
            "start -> trip",
            "trip -step> trip/flight",
            "trip/flight -> trip/mail",
            "trip/mail -fails> trip/flight/undo",
            "trip/mail -> trip/hotel",
            "trip/hotel -fails> trip/flight/undo",
            "trip/hotel/undo -> trip/flight/undo",
            "trip/hotel -> trip/pay",
            "trip/pay -fails> trip/hotel/undo",
            "trip -> end"
        ]
    );
    assert!(graph.dot().contains("subgraph cluster_") && graph.mermaid().contains("|fails|"));
}

#[test]
fn the_critical_path_goes_through_the_steps_of_a_saga() {
    let path = report(TRIP).critical_path.unwrap();
    assert_eq!(path.work, 4);
    assert_eq!(path.statements, ["flight", "mail", "hotel", "pay"].map(|step| format!("/do/0/trip/{step}")));
}

#[test]
fn a_saga_that_leaves_something_behind_or_undoes_in_vain_is_told_of() {
    let found = report(TRIP).diagnostics;
    let of = |code: &str| -> Vec<(&str, u32)> {
        let all = found.iter().filter(|one| one.code == code);
        all.map(|one| (&*one.pointer, one.span.start.line)).collect()
    };
    assert_eq!(of("step-without-undo"), [("/do/0/trip/with/steps/1", 12)]);
    let text =
        |steps: &str| format!("do:\n  - trip: {{ call: 'saga:1.0.0@default', with: {{ steps: [ {steps} ] }} }}\n");
    let step =
        |name: &str, undo: &str| format!("{{ name: {name}, do: 'task:1.0.0@default', with: {{ type: t }}{undo} }}");
    let undone = ", undo: 'task:1.0.0@default', undoWith: { type: u, input: '${ .id }' }";
    let constant = ", undo: 'task:1.0.0@default', undoWith: { type: u, input: { id: 7 } }";
    let sagas = |steps: &str| -> Vec<&'static str> {
        codes(&text(steps)).into_iter().filter(|code| *code != "product-only").collect()
    };
    assert_eq!(sagas(&format!("{}, {}", step("a", ""), step("b", ""))), ["nothing-undone"]);
    assert_eq!(sagas(&format!("{}, {}", step("a", undone), step("b", undone))), ["undo-of-last-step"]);
    assert_eq!(sagas(&format!("{}, {}", step("a", constant), step("b", ""))), ["constant-undo"]);
    assert_eq!(sagas(&format!("{}, {}", step("a", undone), step("b", ""))), [] as [&str; 0]);
}

#[test]
fn sagas_side_by_side_in_a_list_wait_without_need_if_neither_uses_the_other() {
    let saga = |name: &str, input: &str| {
        format!(
            "  - {name}: {{ call: 'saga:1.0.0@default', with: {{ steps: [ {{ name: s, do: 'task:1.0.0@default', with: {{ type: t, input: {input} }}, undo: 'task:1.0.0@default', undoWith: {{ type: u, input: '${{ .id }}' }} }} ] }} }}\n"
        )
    };
    let two = |second: &str| codes(&format!("do:\n{}{}", saga("a", "1"), saga("b", second)));
    assert!(two("2").contains(&"lost-parallelism"));
    assert!(!two("'${ .x }'").contains(&"lost-parallelism"));
}

#[test]
fn what_is_said_of_a_mistake_helps_with_that_one() {
    let said = |body: &str| {
        let found = report(body).diagnostics;
        found
            .iter()
            .map(|one| format!("{}: {} {}", one.code, one.message, one.hint.clone().unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    let unknown = said("do:\n  - a: { call: 'pythn:1.0.0@default', with: { x: 1 } }\n");
    assert!(unknown.iter().all(|one| !one.contains("is a function of this product")), "{unknown:?}");
    let two = said("do:\n  - a:\n      set: { x: 1 }\n      wait: { seconds: 1 }\n");
    assert!(two[0].contains("does one thing"), "{two:?}");
    let letters = said("do:\n  - a: { set: { x: '${ .имя }' } }\n");
    assert!(letters[0].contains(".[\"имя\"]"), "{letters:?}");
}

/// Code, line and message of the findings with one of these codes.
fn found(body: &str, codes: &[&str]) -> Vec<(&'static str, u32, String)> {
    let all = report(body).diagnostics;
    assert!(all.iter().all(|one| one.severity != Severity::Error), "{all:#?}");
    let wanted = all.iter().filter(|one| codes.contains(&one.code));
    wanted.map(|one| (one.code, one.span.start.line, one.message.clone())).collect()
}

#[test]
fn a_jump_back_that_nothing_leads_out_of_and_in_which_nothing_waits_is_an_endless_loop() {
    let loops = [
        // Itself, and by a round of two behind a lead-in.
        ("do:\n  - a:\n      set: { x: 1 }\n      then: a\n", 5, "`a` goes round"),
        (
            "do:\n  - i: { set: { x: 0 } }\n  - a: { set: { x: 1 } }\n  - b:\n      set: { x: 2 }\n      then: a\n",
            7,
            "from `a` to `b`",
        ),
        // Each case leads back.
        (
            "do:\n  - a: { set: { x: 1 } }\n  - b:\n      switch:\n        - one: { when: .x, then: a }\n        - two: { then: a }\n",
            6,
            "from `a` to `b`",
        ),
        // What is inside only works here, starts what it does not wait for, or calls a function that does nothing else.
        (
            "do:\n  - a: { for: { in: '${ [1, 2] }' }, do: [ { s: { set: { x: 1 } } } ] }\n  - b: { set: { x: 1 }, then: a }\n",
            4,
            "from `a`",
        ),
        (
            "do:\n  - a: { do: [ { s: { set: { x: 1 }, then: exit } } ] }\n  - b: { set: { x: 1 }, then: a }\n",
            4,
            "from `a`",
        ),
        (
            "do:\n  - a:\n      run: { await: false, workflow: { namespace: n, name: m, version: '1.0.0' } }\n      then: a\n",
            5,
            "`a` goes",
        ),
        (
            "use: { functions: { f: { set: { x: 1 } } } }\ndo:\n  - a: { call: f }\n  - b: { set: { x: 1 }, then: a }\n",
            5,
            "from `a`",
        ),
        // In a list inside.
        ("do:\n  - o:\n      do:\n        - a: { set: { x: 1 }, then: a }\n", 5, "`a` goes"),
    ];
    for (body, line, says) in loops {
        let all = found(body, &["endless-loop"]);
        assert!(all.len() == 1 && all[0].1 == line && all[0].2.contains(says), "{body}\n{all:#?}");
    }
    let one = report(loops[1].0).diagnostics.into_iter().find(|one| one.code == "endless-loop").unwrap();
    assert_eq!((&*one.pointer, one.severity), ("/do/2/b/then", Severity::Warning));
    assert!(one.hint.unwrap().contains("`switch`"));
}

#[test]
fn loops_that_wait_or_may_end_are_not_reported() {
    let quiet = [
        "do:\n  - a: { wait: PT1S, then: a }\n",
        "do:\n  - a: { listen: { to: { one: { with: { type: t } } } } }\n  - b: { set: { x: 1 }, then: a }\n",
        "do:\n  - a: { call: http, with: { method: get, endpoint: 'https://x' }, then: a }\n",
        "do:\n  - a: { run: { shell: { command: date } }, then: a }\n",
        // A way out: by a case, by the end of the list, by a switch that no case of fits, by an error.
        "do:\n  - a: { set: { x: 1 } }\n  - b: { switch: [ { more: { when: .x, then: a } }, { done: { then: end } } ] }\n",
        "do:\n  - a: { set: { x: 1 } }\n  - b: { switch: [ { more: { when: .x, then: a } } ] }\n",
        "do:\n  - a: { set: { x: 1 } }\n  - b: { switch: [ { more: { when: .x, then: a } }, { bad: { then: c } } ] }\n  - c: { raise: { error: { type: 'https://x', status: 400 } } }\n",
        "do:\n  - a: { do: [ { s: { switch: [ { one: { when: .x, then: end } }, { two: { then: exit } } ] } } ] }\n  - b: { set: { x: 1 }, then: a }\n",
        // Waiting may be a part of it alone, under a condition, in a function, or around each statement.
        "do:\n  - a: { if: .x, wait: PT1S }\n  - b: { set: { x: 1 }, then: a }\n",
        "do:\n  - a: { fork: { branches: [ { l: { set: { x: 1 } } }, { r: { wait: PT1S } } ] } }\n  - b: { set: { x: 1 }, then: a }\n",
        "use: { functions: { f: { wait: PT1S } } }\ndo:\n  - a: { call: f, then: a }\n",
        "use: { extensions: [ { e: { extend: all, before: [ { w: { wait: PT1S } } ] } } ] }\ndo:\n  - a: { set: { x: 1 }, then: a }\n",
        // A list ends, and what is not reached does no harm.
        "do:\n  - a: { for: { in: '${ [range(9)] }' }, do: [ { s: { set: { x: 1 } } } ] }\n",
        "do:\n  - a: { set: { x: 1 }, then: end }\n  - b: { set: { x: 1 }, then: b }\n",
        // What is skipped is followed by the next one, whatever it would go to.
        "do:\n  - f: { set: { x: 1 } }\n  - a: { if: .x, set: { x: 2 }, then: f }\n  - d: { set: { x: 3 } }\n",
        // Forwards.
        "do:\n  - a: { set: { x: 1 }, then: c }\n  - b: { set: { x: 1 } }\n  - c: { set: { x: 1 } }\n",
    ];
    for body in quiet {
        assert_eq!(found(body, &["endless-loop"]), [], "{body}");
    }
    let skipped = "do:\n  - a: { if: .x, set: { x: 1 }, then: end }\n  - b: { if: .x, set: { x: 1 }, then: d }\n  - c: { set: { x: 2 } }\n  - d: { set: { x: 3 } }\n";
    assert_eq!(found(skipped, &["unreachable"]), []);
}

#[test]
fn a_workflow_of_which_every_run_starts_another_one_is_told_of() {
    let again = "run: { workflow: { namespace: test, name: flow, version: latest } }";
    let later = "run: { await: false, workflow: { namespace: test, name: flow, version: '1.0.0' } }";
    let loud = [
        format!("do:\n  - a: {{ {again} }}\n"),
        format!("do:\n  - w: {{ wait: P1D }}\n  - a: {{ {later} }}\n"),
        format!("do:\n  - w: {{ do: [ {{ a: {{ {again} }} }} ] }}\n"),
        format!("do:\n  - w: {{ fork: {{ branches: [ {{ s: {{ set: {{ x: 1 }} }} }}, {{ a: {{ {again} }} }} ] }} }}\n"),
        format!(
            "do:\n  - s: {{ switch: [ {{ one: {{ when: .x, then: a }} }}, {{ two: {{ then: b }} }} ] }}\n  - a: {{ {again} }}\n  - b: {{ {again} }}\n"
        ),
    ];
    for body in &loud {
        let all = found(body, &["starts-itself"]);
        assert!(all.len() == 1 && all[0].2.contains("32 deep"), "{body}\n{all:#?}");
    }
    assert_eq!(found(&loud[1], &["starts-itself"])[0].1, 4);
    let quiet = [
        format!("do:\n  - a: {{ if: .more, {again} }}\n"),
        format!(
            "do:\n  - s: {{ switch: [ {{ done: {{ when: .x, then: end }} }}, {{ more: {{ then: a }} }} ] }}\n  - a: {{ {again} }}\n"
        ),
        // A tree is walked like this.
        format!("do:\n  - a: {{ for: {{ in: .children }}, do: [ {{ c: {{ {again} }} }} ] }}\n"),
        format!("do:\n  - r: {{ raise: {{ error: {{ type: 'https://x', status: 400 }} }} }}\n  - a: {{ {again} }}\n"),
        // Others, and an earlier version of it.
        "do:\n  - a: { run: { workflow: { namespace: other, name: flow, version: latest } } }\n".to_owned(),
        "do:\n  - a: { run: { workflow: { namespace: test, name: flow, version: '0.9.0' } } }\n".to_owned(),
    ];
    for body in &quiet {
        assert_eq!(found(body, &["starts-itself"]), [], "{body}");
    }
}
