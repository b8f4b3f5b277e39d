//! Tests of workflows: mocks, the clock, expectations, and files that are wrong or mean harm.

use std::collections::BTreeMap;

use serde_json::json;
use tidewheel_lang::testkit::{Files, Findings, Played, Report, Suite, load};

/// Files by their names.
pub(crate) struct Memory(pub(crate) BTreeMap<String, String>);

impl Files for Memory {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        self.0.get(path).map(|text| text.clone().into_bytes()).ok_or_else(|| "there is no such file".to_string())
    }
}

fn head(name: &str) -> String {
    format!("document: {{ dsl: '1.0.3', namespace: test, name: {name}, version: '1.0.0' }}\n")
}

const ORDER: &str = "do:
  - price:
      try:
        - fetch:
            call: http
            with: { method: get, endpoint: 'https://prices.example/{item}' }
      catch:
        errors: { with: { status: 503 } }
        retry: { delay: { seconds: 2 }, backoff: { exponential: {} }, limit: { attempt: { count: 3 } } }
  - check:
      switch:
        - large: { when: .amount > 1000, then: review }
        - other: { then: accept }
  - review: { set: { accepted: false }, then: end }
  - accept: { set: { accepted: true } }
";

fn files(all: &[(&str, &str)]) -> Memory {
    Memory(all.iter().map(|(name, body)| (format!("{name}.yaml"), format!("{}{body}", head(name)))).collect())
}

fn suite(files: &Memory, tests: &str) -> Suite {
    let (suite, found) = load(tests.as_bytes(), Some("order.yaml"), files);
    suite.unwrap_or_else(|| panic!("{found:#?}"))
}

fn play(files: &Memory, tests: &str) -> Vec<Played> {
    let suite = suite(files, tests);
    let (calm, crashed): (Report, Report) = (suite.play_all(None, false), suite.play_all(None, true));
    let ends = |report: &Report| -> Vec<_> {
        report.tests.iter().map(|test| (test.phase, test.output.clone(), test.passed, test.elapsed_ms)).collect()
    };
    assert_eq!(ends(&calm), ends(&crashed), "{crashed:#?}");
    calm.tests
}

/// The only test of a file for the workflow `order` with this body.
fn one(body: &str, test: &str) -> Played {
    let mut played = play(&files(&[("order", body)]), &format!("tests:\n  - name: it\n{test}"));
    assert_eq!(played.len(), 1);
    played.remove(0)
}

fn passes(body: &str, test: &str) {
    let played = one(body, test);
    assert!(played.passed, "{played:#?}");
}

fn failure(body: &str, test: &str) -> (String, String) {
    let played = one(body, test);
    assert_eq!(played.failures.len(), 1, "{played:#?}");
    (played.failures[0].message.clone(), played.failures[0].diff.clone().unwrap_or_default())
}

fn found(tests: &str) -> Vec<Findings> {
    let (suite, found) = load(tests.as_bytes(), Some("order.yaml"), &files(&[("order", ORDER)]));
    assert!(suite.is_none());
    found
}

/// The only finding: line, column, message, hint.
fn finding(tests: &str) -> (u32, u32, String, String) {
    let all = found(tests);
    assert!(all.len() == 1 && all[0].diagnostics.len() == 1, "{all:#?}");
    let one = &all[0].diagnostics[0];
    (one.span.start.line, one.span.start.column, one.message.clone(), one.hint.clone().unwrap_or_default())
}

#[test]
fn a_mock_answers_and_what_is_expected_holds() {
    passes(
        ORDER,
        "    input: { item: 7 }
    mocks:
      - { statement: fetch, with: { endpoint: 'https://prices.example/7' }, result: { amount: 5 } }
    expect:
      output: { accepted: true }
      calls: [ { statement: fetch, times: 1 }, { call: http, with: { method: get } }, { call: grpc, times: 0 } ]
      steps: [ price, fetch, check, accept ]
      notRun: [ review ]
      elapsed: { seconds: 0 }
",
    );
}

#[test]
fn retries_take_no_time_but_that_of_the_clock() {
    passes(
        ORDER,
        "    mocks:
      - { statement: fetch, times: 2, error: { status: 503 } }
      - { statement: fetch, delay: PT0.5S, result: { amount: 2000 } }
    expect: { output: { accepted: false }, calls: [ { statement: fetch, times: 3 } ], elapsed: PT6.5S, notRun: [ accept ] }
",
    );
}

#[test]
fn an_error_that_is_not_caught_is_compared_in_part_and_by_meaning() {
    passes(
        ORDER,
        "    mocks: [ { call: http, error: { type: authentication, status: 401, title: no } } ]
    expect: { error: { type: authentication, status: 401 } }
",
    );
    let (message, diff) = failure(
        ORDER,
        "    mocks: [ { call: http, error: { status: 404 } } ]
    expect: { error: { type: communication, status: 401 } }
",
    );
    assert!(message.contains("the error is not as expected"), "{message}");
    assert!(diff.contains("-   \"status\": 401,\n+   \"status\": 404,"), "{diff}");
    assert!(diff.contains("    \"type\": \"communication\","), "{diff}");
}

#[test]
fn a_wrong_output_shows_both_sides_and_the_journal() {
    let played = one(
        ORDER,
        "    mocks: [ { call: http, result: { amount: 5 } } ]\n    expect: { output: { accepted: false } }\n",
    );
    assert!(!played.passed);
    assert_eq!(played.failures[0].diff.as_deref(), Some("  {\n-   \"accepted\": false,\n+   \"accepted\": true,\n  }"));
    let journal = played.journal.join("\n");
    assert!(journal.contains("opened /task:/do/0/price/try/0/fetch#0"), "{journal}");
    assert!(journal.contains("run completed {\"accepted\":true}"), "{journal}");
}

#[test]
fn a_call_without_a_mock_says_what_to_add() {
    let (message, _) = failure(ORDER, "    input: { item: 7 }\n");
    assert!(message.contains("no mock answers `/do/0/price/try/0/fetch` (`call: http`)"), "{message}");
    assert!(message.contains("prices.example/7") && message.contains("statement: fetch, result: .."), "{message}");
    let (message, _) = failure(
        ORDER,
        "    mocks: [ { statement: fetch, times: 1, error: { status: 503 } }, { statement: fetch, with: { method: post }, result: 1 } ]\n",
    );
    assert!(message.contains("line 3 has answered 1 times"), "{message}");
    assert!(message.contains("wants {\"method\":\"post\"}"), "{message}");
}

#[test]
fn calls_are_counted_and_their_arguments_compared() {
    let mocks = "    input: { item: 7 }\n    mocks: [ { call: http, result: { amount: 5 } } ]\n";
    let (message, _) =
        failure(ORDER, &format!("{mocks}    expect: {{ calls: [ {{ statement: fetch, times: 2 }} ] }}\n"));
    assert_eq!(message, "`fetch` made 1 calls, not 2");
    let wanted = "    expect: { calls: [ { statement: fetch, with: { endpoint: 'https://prices.example/8' } } ] }\n";
    let (message, diff) = failure(ORDER, &format!("{mocks}{wanted}"));
    assert!(message.contains("its call had"), "{message}");
    assert!(diff.contains("-   \"endpoint\": \"https://prices.example/8\""), "{diff}");
    let (message, _) = failure(ORDER, &format!("{mocks}    expect: {{ steps: [ accept, fetch ] }}\n"));
    assert!(
        message.contains("`fetch` was not run after `accept`; the order was price, fetch, check, accept"),
        "{message}"
    );
    let (message, _) = failure(ORDER, &format!("{mocks}    expect: {{ elapsed: {{ atLeast: PT1S }} }}\n"));
    assert_eq!(message, "0s passed, not at least 1s");
    let (message, _) = failure(ORDER, &format!("{mocks}    expect: {{ phase: faulted }}\n"));
    assert!(message.contains("the run is completed, not faulted; its output is"), "{message}");
}

#[test]
fn a_mock_may_compute_its_result_from_the_arguments() {
    passes(
        "do:\n  - a: { call: 'task:1.0.0@default', with: { type: double, input: { n: 21 } } }\n",
        "    mocks: [ { call: task, result: { twice: '${ .n * 2 }' } } ]\n    expect: { output: { twice: 42 } }\n",
    );
}

#[test]
fn every_item_of_a_map_is_answered_by_itself_in_batches_too() {
    for batch in [1, 2, 3] {
        let body = format!(
            "do:\n  - all:\n      call: map:1.0.0@default\n      with: {{ items: '${{ .n }}', task: square, batch: {batch}, onError: collect }}\n"
        );
        passes(
            &body,
            "    input: { n: [1, 2, 3, 4] }
    mocks:
      - { statement: all, with: 3, error: { status: 400, title: no three, type: https://example.com/three, instance: x } }
      - { statement: all, result: '${ . * . }' }
    expect:
      output:
        - ok: 1
        - ok: 4
        - error: { status: 400, title: no three, type: https://example.com/three, instance: x }
        - ok: 16
      calls: [ { statement: all, times: 4 } ]
",
        );
    }
}

#[test]
fn processes_are_answered_and_secrets_are_those_of_the_test() {
    passes(
        "use: { secrets: [ key ] }
do:
  - a:
      call: http
      with: { method: get, endpoint: 'https://x.example/{id}', headers: { k: '${ \"Bearer \" + $secrets.key }' } }
  - b: { run: { shell: { command: 'ls ${ .dir }' } } }
  - c: { run: { script: { language: python, code: 'print(1)' } } }
",
        "    input: { id: 3 }
    secrets: { key: s3cret }
    mocks:
      - { call: http, with: { endpoint: 'https://x.example/3', headers: { k: Bearer s3cret } }, result: { dir: /tmp } }
      - { call: shell, with: { command: ls /tmp }, result: listing }
      - { call: script, result: '1' }
    expect: { output: '1', steps: [ a, b, c ] }
",
    );
}

#[test]
fn time_limits_end_what_never_answers() {
    passes(
        "do:\n  - slow:\n      call: http\n      with: { method: get, endpoint: https://x.example }\n      timeout: { after: { minutes: 5 } }\n",
        "    mocks: [ { statement: slow, never: true } ]\n    expect: { error: { type: timeout, status: 408 }, elapsed: { minutes: 5 } }\n",
    );
}

#[test]
fn a_year_passes_at_once_and_the_clock_begins_where_the_test_says() {
    passes(
        "do:\n  - sleep: { wait: { days: 365 } }\n  - when: { set: { at: '${ now | floor }' } }\n",
        "    now: 2026-01-01T00:00:00Z\n    expect: { output: { at: 1798761600 }, elapsed: { days: 365 } }\n",
    );
}

#[test]
fn events_come_at_their_time_and_sent_ones_are_compared() {
    let body = "do:
  - hear: { listen: { to: { one: { with: { type: com.acme.paid } } } } }
  - tell: { emit: { event: { with: { source: 'https://orders.example', type: com.acme.shipped, data: { sum: '${ .[0].sum }' } } } } }
";
    passes(
        body,
        "    events: [ { at: PT1M, type: com.acme.other }, { at: PT2M, type: com.acme.paid, data: { sum: 3 } } ]
    expect: { elapsed: PT2M, events: [ { type: com.acme.shipped, data: { sum: 3 } } ] }
",
    );
    passes(
        body,
        "    signals: [ { at: PT3M, type: com.acme.paid, data: { sum: 4 } } ]\n    expect: { elapsed: PT3M }\n",
    );
    passes(body, "    expect: { phase: waiting }\n");
    passes(body, "    cancel: PT1H\n    expect: { phase: cancelled, elapsed: PT1H }\n");
    let (message, _) = failure(body, "    events: [ { type: com.acme.payed } ]\n");
    assert!(message.contains("the run is waiting, not completed"), "{message}");
    let (message, diff) = failure(
        body,
        "    events: [ { type: com.acme.paid, data: { sum: 3 } } ]\n    expect: { events: [ { type: com.acme.shipped, data: { sum: 4 } } ] }\n",
    );
    assert!(message.contains("event 1 of the expected ones was not sent"), "{message}");
    assert!(diff.contains("-     \"sum\": 4") && diff.contains("+     \"sum\": 3"), "{diff}");
}

const PARENT: &str = "do:\n  - ship: { run: { workflow: { namespace: test, name: ship, version: latest, input: { id: '${ .id }' } } } }\n";

#[test]
fn child_workflows_are_run_from_other_documents_or_mocked() {
    let ship = "do:\n  - pack: { call: 'task:1.0.0@default', with: { type: pack } }\n  - done: { set: { shipped: '${ .box }' } }\n";
    let files = files(&[("order", PARENT), ("ship", ship)]);
    let tests = "workflows: [ ship.yaml ]
tests:
  - name: runs
    input: { id: 4 }
    mocks: [ { statement: pack, with: { id: 4 }, delay: PT1S, result: { box: 9 } } ]
    expect: { output: { shipped: 9 }, steps: [ ship, pack, done ], elapsed: PT1S, calls: [ { call: workflow, with: { id: 4 } } ] }
  - name: mocked
    input: { id: 4 }
    mocks: [ { statement: ship, result: { shipped: no } } ]
    expect: { output: { shipped: no }, notRun: [ pack ] }
  - name: fails
    mocks: [ { statement: pack, error: { status: 507 } } ]
    expect: { error: { status: 507 } }
";
    for test in play(&files, tests) {
        assert!(test.passed, "{test:#?}");
    }
    let coverage = suite(&files, tests).coverage(&[]);
    let counts: Vec<_> = coverage.iter().map(|one| (&*one.workflow, one.statements, one.run)).collect();
    assert_eq!(counts, [("order.yaml", 1, 0), ("ship.yaml", 2, 0)]);
    let alone = self::files(&[("order", PARENT)]);
    let played = play(&alone, "tests: [ { name: alone } ]");
    let message = &played[0].failures[0].message;
    assert!(message.contains("`test/ship:latest`, which is neither mocked nor among the documents"), "{message}");
}

#[test]
fn coverage_names_the_statements_that_no_test_ran() {
    let files = files(&[("order", ORDER)]);
    let suite = suite(
        &files,
        "tests:\n  - { name: small, mocks: [ { call: http, result: { amount: 5 } } ] }\n  - { name: large, mocks: [ { call: http, result: { amount: 5000 } } ] }\n",
    );
    let report = suite.play_all(Some("small"), false);
    let coverage = &suite.coverage(&report.tests)[0];
    assert_eq!((coverage.statements, coverage.run), (5, 4));
    assert_eq!(json!(coverage.never_run), json!([{"name": "review", "reference": "/do/2/review", "line": 15}]));
    let report = suite.play_all(None, false);
    assert_eq!(suite.coverage(&report.tests)[0].run, 5);
    assert_eq!(suite.names().collect::<Vec<_>>(), ["small", "large"]);
}

#[test]
fn a_mock_that_answers_nothing_is_named() {
    let played =
        one(ORDER, "    mocks:\n      - { call: http, result: { amount: 5 } }\n      - { call: grpc, result: 1 }\n");
    assert!(played.passed && played.unused_mocks == [5], "{played:#?}");
}

#[test]
fn mistakes_of_a_test_file_are_reported_with_their_place_and_the_nearest_name() {
    let (line, column, message, hint) =
        finding("tests:\n  - name: a\n    mocks:\n      - { statement: fetsh, result: 1 }\n");
    assert_eq!((line, column, &*message, &*hint), (4, 22, "there is no statement `fetsh`", "did you mean `fetch`?"));
    let (line, column, message, hint) = finding("tests:\n  - name: a\n    expct: {}\n");
    assert_eq!((line, column, &*message, &*hint), (3, 5, "a test has no field `expct`", "did you mean `expect`?"));
    let (_, _, message, hint) = finding("tests: [ { name: a, mocks: [ { call: htp, result: 1 } ] } ]");
    assert!(message.contains("has to be one of `http`") && hint == "did you mean `http`?", "{message} {hint}");
    let (_, _, message, _) = finding("tests: [ { name: a, mocks: [ { statement: accept, result: 1 } ] } ]");
    assert!(message.contains("`accept` asks nobody"), "{message}");
    let (_, _, message, _) = finding("tests: [ { name: a, mocks: [ { call: http, result: 1, error: {} } ] } ]");
    assert_eq!(message, "a mock has one of `result`, `error`, `never`");
    let (_, _, message, _) = finding("tests: [ { name: a, mocks: [ { call: http, result: '${ .a + }' } ] } ]");
    assert!(!message.is_empty());
    let (_, _, message, _) = finding("tests: [ { name: a, mocks: [ { call: http, result: '${ $context }' } ] } ]");
    assert_eq!(message, "`$context` cannot be used in a mock");
    let (_, _, message, _) = finding("tests: [ { name: a }, { name: a } ]");
    assert_eq!(message, "two tests have the name `a`");
    let (_, _, message, _) = finding("tests: [ { name: a, expect: { elapsed: soon } } ]");
    assert!(message.contains("`soon` is not an ISO 8601 duration"), "{message}");
    let (_, _, message, _) = finding("tests: [ { name: a, expect: { steps: [ /do/9/x ] } } ]");
    assert_eq!(message, "there is no statement `/do/9/x`");
    let (_, _, message, _) = finding("tests: []");
    assert!(message.contains("1 to 1000 tests"), "{message}");
    let (_, _, message, _) = finding("workflow: absent.yaml\ntests: [ { name: a } ]");
    assert_eq!(message, "`absent.yaml` cannot be read: there is no such file");
    let (_, _, message, _) = finding("workflows: [ order.yaml ]\ntests: [ { name: a } ]");
    assert!(message.contains("two documents of the test are the workflow `test/order:1.0.0`"), "{message}");
    assert!(found(&(head("order") + ORDER)).iter().any(|one| {
        one.diagnostics.iter().any(|one| one.hint.as_deref().is_some_and(|hint| hint.contains("this is a workflow")))
    }));
    let (suite, found) = load(b"tests: [ { name: a } ]", None, &files(&[]));
    assert!(suite.is_none() && found[0].diagnostics[0].hint.as_deref().unwrap().contains("NAME.test.yaml"));
}

#[test]
fn mistakes_of_the_workflow_are_reported_in_its_own_text() {
    let broken = files(&[("order", "do:\n  - a: { sett: {} }\n")]);
    let (suite, found) = load(b"tests: [ { name: a } ]", Some("order.yaml"), &broken);
    assert!(suite.is_none() && found.len() == 1, "{found:#?}");
    assert_eq!(found[0].file.as_deref(), Some("order.yaml"));
    assert_eq!(found[0].diagnostics[0].span.start.line, 3);
}

#[test]
fn what_a_workflow_names_elsewhere_is_given_by_files() {
    let mut all = files(&[(
        "order",
        "input: { schema: { resource: { endpoint: https://x.example/order.json } } }\ndo:\n  - a: { set: { b: 1 } }\n",
    )]);
    let tests = "tests: [ { name: a, input: { n: x }, expect: { error: { type: validation } } } ]";
    let (suite, found) = load(tests.as_bytes(), Some("order.yaml"), &all);
    assert!(suite.is_none());
    assert!(found[0].diagnostics[0].message.contains("name a file for `https://x.example/order.json`"), "{found:#?}");
    all.0.insert("order.json".into(), r#"{"properties": {"n": {"type": "number"}}}"#.into());
    let tests = format!("resources: {{ 'https://x.example/order.json': order.json }}\n{tests}");
    for test in play(&all, &tests) {
        assert!(test.passed, "{test:#?}");
    }
}

#[test]
fn what_never_ends_is_ended() {
    let circle = files(&[
        ("order", PARENT),
        (
            "ship",
            "do:\n  - back: { run: { workflow: { namespace: test, name: order, version: latest, input: { id: 1 } } } }\n",
        ),
    ]);
    let tests = "workflows: [ ship.yaml ]\ntests: [ { name: circle, expect: { error: { type: runtime } } } ]";
    let played = suite(&circle, tests).play_all(None, false).tests.remove(0);
    assert!(played.passed, "{:?}", played.failures);
    let bomb = "do:\n  - all: { call: 'map:1.0.0@default', with: { items: '${ [range(40)] }', workflow: { namespace: test, name: order }, concurrency: 40 } }\n";
    let endless = "do:\n  - a: { wait: { seconds: 1 } }\n  - b: { set: { x: 1 }, then: a }\n";
    let busy = "do:\n  - a: { set: { x: 1 } }\n  - b: { set: { x: 1 }, then: a }\n";
    let events = "do:\n  - a: { emit: { event: { with: { type: x, source: 'https://x.example' } } } }\n  - b: { listen: { to: { one: { with: { type: x } } } }, then: a }\n";
    let large = "do:\n  - a: { set: { x: '${ [range(40000)] }' } }\n  - b: { wait: { seconds: 1 }, then: a }\n";
    let fails = |body: &str| {
        let played = suite(&files(&[("order", body)]), "tests: [ { name: it } ]").play_all(None, false).tests.remove(0);
        played.failures[0].message.clone()
    };
    let message = fails(bomb);
    assert!(message.contains("starts more than 1000 runs"), "{message}");
    for body in [endless, events] {
        let message = fails(body);
        assert!(message.contains("does a loop never end?"), "{message}");
    }
    let message = fails(busy);
    assert!(message.contains("the run is faulted") || message.contains("256 MiB"), "{message}");
    let message = fails(large);
    assert!(message.contains("256 MiB") || message.contains("never end"), "{message}");
}

#[test]
fn huge_mocks_are_taken_and_too_many_are_refused() {
    let rows = "[".to_string() + &"1,".repeat(200_000) + "1]";
    let text = format!("tests: [ {{ name: a, mocks: [ {{ call: http, result: {{ amount: 5, rows: {rows} }} }} ] }} ]");
    let played = play(&files(&[("order", ORDER)]), &text);
    assert!(played[0].passed, "{:?}", played[0].failures);
    let many = "{ call: http, result: 1 },".repeat(10_001);
    let (_, _, message, _) = finding(&format!("tests: [ {{ name: a, mocks: [ {many} ] }} ]"));
    assert!(message.contains("at most 10000"), "{message}");
    let long = "x".repeat(200_000);
    let (_, _, message, _) =
        finding(&format!("tests: [ {{ name: a, mocks: [ {{ statement: {long}, result: 1 }} ] }} ]"));
    assert!(message.starts_with("there is no statement"), "{}", message.len());
    let many = "{ statement: fetsh, result: 1 },".repeat(9_000);
    assert_eq!(found(&format!("tests: [ {{ name: a, mocks: [ {many} ] }} ]"))[0].diagnostics.len(), 1_000);
}

#[test]
fn mocks_are_bounded_as_runs_are() {
    let body = "do:\n  - a: { call: 'task:1.0.0@default', with: { type: t }, then: a }\n";
    let message = |result: &str| {
        let tests = format!("tests: [ {{ name: it, mocks: [ {{ call: task, result: {result} }} ] }} ]");
        let played = suite(&files(&[("order", body)]), &tests).play_all(None, false).tests.remove(0);
        played.failures[0].message.clone()
    };
    let heavy = message("'${ [range(300000)] | length }'");
    assert!(heavy.contains("the result of the mock in line 1: it takes too much work"), "{heavy}");
    let large = message("'${ \"x\" * 60000 }'");
    assert!(large.contains("256 MiB") || large.contains("never end"), "{large}");
}

#[test]
fn events_that_nobody_wants_do_not_pile_up() {
    let body = "do:
  - many: { for: { in: '${ [range(1500)] }' }, do: [ { tell: { emit: { event: { with: { type: x, source: 'https://x.example' } } } } } ] }
  - rest: { wait: { days: 1 } }
";
    passes(body, "    expect: { elapsed: P1D }\n");
    let body = format!(
        "{body}  - hear: {{ listen: {{ to: {{ any: [ {{ with: {{ type: x }} }} ], until: '${{ length == 1500 }}' }} }}, output: {{ as: length }} }}\n"
    );
    passes(&body, "    expect: { elapsed: P1D, output: 1500 }\n");
}
