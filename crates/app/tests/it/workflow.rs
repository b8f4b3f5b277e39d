//! `tidewheel workflow test` on files.

use std::path::Path;

use crate::mock::{Ran, command, ran};

const FLOW: &str = "document: { dsl: '1.0.3', namespace: shop, name: order, version: '1.0.0' }
do:
  - price: { call: http, with: { method: get, endpoint: 'https://prices.example/{item}' } }
  - check:
      switch:
        - large: { when: .amount > 1000, then: review }
        - other: { then: accept }
  - review: { set: { accepted: false }, then: end }
  - accept: { set: { accepted: true } }
";

const TESTS: &str = "tests:
  - name: cheap
    mocks: [ { statement: price, result: { amount: 5 } } ]
    expect: { output: { accepted: true } }
  - name: wrong
    mocks: [ { statement: price, delay: PT3S, result: { amount: 5 } } ]
    expect: { output: { accepted: false } }
";

fn test(folder: &Path, args: &[&str]) -> Ran {
    let home = tempfile::tempdir().unwrap();
    let mut command = command(home.path());
    command.current_dir(folder).args(["workflow", "test"]).args(args);
    ran(command, "")
}

fn folder(tests: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("flows")).unwrap();
    std::fs::write(folder.path().join("flows/order.yaml"), FLOW).unwrap();
    std::fs::write(folder.path().join("flows/order.test.yaml"), tests).unwrap();
    folder
}

#[test]
fn a_test_that_fails_shows_what_differs_and_the_journal_and_ends_with_1() {
    let folder = folder(TESTS);
    let ran = test(folder.path(), &["--coverage", "--output", "table"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for line in [
        "flows/order.test.yaml\n",
        "  ok   cheap (1 call)\n",
        "  FAIL wrong (1 call, 3s passed)\n",
        "         -   \"accepted\": false,\n         +   \"accepted\": true,\n",
        "+3.000s done /task:/do/0/price#0 {\"amount\":5}\n",
        "  order.yaml: 3 of 4 statements were run (75 %)\n    never: review (line 8, /do/2/review)\n",
        "1 passed, 1 failed\n",
    ] {
        assert!(ran.out.contains(line), "{line}\n{}", ran.out);
    }
    assert!(ran.err.contains("1 of 2 tests failed"), "{ran:?}");
}

#[test]
fn tests_that_pass_end_with_0_with_crashes_too_and_are_data_for_programs() {
    let folder = folder(TESTS);
    let ran = test(folder.path(), &["flows", "--filter", "cheap", "--crash", "--coverage", "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&value["ok"], &value["passed"]), (&true.into(), &1.into()));
    let file = &value["files"][0];
    assert_eq!(file["tests"][0]["output"]["accepted"], true);
    assert_eq!(file["tests"][0]["calls"][0]["call"], "http");
    assert_eq!(file["coverage"][0]["never_run"][0]["name"], "review");
}

#[test]
fn a_mistake_is_shown_with_its_line_and_the_nearest_name() {
    let folder = folder(&TESTS.replace("statement: price, result", "statement: prize, result"));
    let ran = test(folder.path(), &["flows/order.test.yaml", "--output", "table"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("flows/order.test.yaml:3:27"), "{}", ran.out);
    assert!(ran.out.contains("did you mean `price`?"), "{}", ran.out);
    assert!(ran.err.contains("1 of 1 test files cannot be run"), "{ran:?}");
}

#[test]
fn nothing_to_run_is_an_error_and_says_why() {
    let empty = tempfile::tempdir().unwrap();
    let nothing = test(empty.path(), &[]);
    assert_eq!(nothing.code, 2, "{nothing:?}");
    assert!(nothing.err.contains("no file `*.test.yaml`"), "{nothing:?}");
    let folder = folder(TESTS);
    let none = test(folder.path(), &["--filter", "absent"]);
    assert_eq!(none.code, 2, "{none:?}");
    assert!(none.err.contains("none of 1 files has a test with `absent` in its name"), "{none:?}");
    assert_eq!(test(folder.path(), &["absent.test.yaml"]).code, 2);
}
