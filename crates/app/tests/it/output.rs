//! The forms of data.

use serde_json::{Value, json};

use crate::mock::{Mock, json as answer};

fn page() -> Value {
    json!({
        "items": [
            {"id": "task_1", "state": "failed", "type": "resize", "queue": "pdf", "priority": 5, "attempt": 3,
             "created_at": "2026-01-02T03:04:05.678Z", "labels": {"env": "prod"},
             "error": {"type": "E", "message": "bad \u{1b}]0;owned\u{7} \"page\", 4"}},
            {"id": "task_2", "state": "queued", "type": "greet", "queue": "default", "priority": 5, "attempt": 0,
             "created_at": "2026-01-02T03:04:06.000Z"},
        ],
        "as_of": 7,
    })
}

fn run(args: &[&str]) -> String {
    let mock = Mock::always(answer(200, page()));
    let ran = mock.run(&[&["task", "list"], args].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.out
}

#[test]
fn a_pipe_gets_one_json_document_per_line() {
    let lines: Vec<Value> = run(&[]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Value::Array(lines), page()["items"]);
}

#[test]
fn json_and_yaml_are_the_servers_own_document() {
    assert_eq!(serde_json::from_str::<Value>(&run(&["-o", "json"])).unwrap(), page());
    let yaml = run(&["-o", "yaml"]);
    assert!(yaml.contains("- id: task_1") && yaml.contains("as_of: 7"), "{yaml}");
}

#[test]
fn names_are_ids_alone() {
    assert_eq!(run(&["-o", "name"]), "task_1\ntask_2\n");
    assert_eq!(run(&["-o", "none"]), "");
}

#[test]
fn a_table_has_no_frames_and_no_control_characters() {
    let table = run(&["-o", "table", "--time", "iso"]);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("ID"), "{table}");
    assert!(lines[1].contains("task_1") && lines[1].contains("2026-01-02T03:04:05.678Z"), "{table}");
    assert!(!table.contains('\u{1b}') && !table.contains('|') && !table.contains('─'), "{table}");
}

#[test]
fn columns_choose_order_and_nested_fields() {
    let table = run(&["-o", "table", "--columns", "state,labels.env,id"]);
    assert_eq!(table, "STATE   LABELS.ENV  ID\nfailed  prod        task_1\nqueued              task_2\n");
    let csv = run(&["-o", "csv", "--columns", "id,error.message"]);
    assert_eq!(csv.lines().next(), Some("id,error.message"));
    assert!(csv.contains(r#""bad "#) && csv.contains(r#"""page"", 4""#), "{csv}");
}

#[test]
fn a_column_that_there_is_not_is_refused_with_those_that_there_are() {
    let asked = |page: Value, args: &[&str]| Mock::always(answer(200, page)).run(&[&["task", "list"], args].concat());
    for page in [page(), json!({ "items": [], "as_of": 7 })] {
        for form in [&["-o", "table"][..], &["-o", "csv"], &["-o", "csv", "--all"]] {
            let ran = asked(page.clone(), &[form, &["--columns", "id,stat"]].concat());
            assert_eq!((ran.code, &*ran.out), (2, ""), "{ran:?}");
            let said = ran.err.contains("no column 'stat'") && ran.err.contains("did you mean 'state'");
            assert!(said && ran.err.contains("correlation_id"), "{ran:?}");
            // The head of a column, a field that no task here has, one that a newer server may have.
            let known = [form, &["--columns", "prio,run_at,labels.none,error.message"]].concat();
            assert_eq!(asked(page.clone(), &known).code, 0);
        }
    }
    let newer = json!({ "items": [{ "id": "task_1", "from_later": 5 }] });
    assert!(asked(newer, &["-o", "csv", "--columns", "from_later"]).out.ends_with("5\r\n"));
    // What was done is not called a failure for the way in which it should be shown.
    let mock = Mock::always(answer(200, json!({ "id": "task_1", "state": "cancelled" })));
    assert_eq!(mock.run(&["task", "cancel", "task_1", "--yes", "--columns", "nope", "-o", "table"]).code, 0);
}

#[test]
fn jq_sees_each_item_of_a_list() {
    assert_eq!(run(&["--jq", "select(.state == \"failed\") | .id"]), "task_1\n");
    assert_eq!(run(&["--jq", ".id"]), "task_1\ntask_2\n");
    let mock = Mock::always(answer(200, page()));
    let ran = mock.run(&["task", "list", "--jq", ".items["]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("cannot use --jq"), "{ran:?}");
    assert!(mock.asked().is_empty(), "a wrong filter is found before the call");
}

#[test]
fn an_endless_jq_filter_is_stopped() {
    let mock = Mock::always(answer(200, page()));
    let ran = mock.run(&["task", "list", "--jq", "[limit(1e8; repeat(1))] | length"]);
    assert_ne!(ran.code, 0, "{}", ran.err);
    let ran = mock.run(&["task", "list", "--jq", "range(1e9)"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
}

#[test]
fn sort_and_limit_hold_for_what_is_shown() {
    assert_eq!(run(&["-o", "name", "--sort", "type"]), "task_2\ntask_1\n");
    assert_eq!(run(&["-o", "name", "--sort", "-attempt"]), "task_1\ntask_2\n");
    assert_eq!(run(&["-o", "name", "--limit", "1"]), "task_1\n");
}

#[test]
fn all_pages_are_read_to_the_end() {
    let mock = Mock::start(|asked, _| {
        if asked.path.contains("cursor=two") {
            return answer(200, json!({"items": [{"id": "task_2"}], "as_of": 2}));
        }
        answer(200, json!({"items": [{"id": "task_1"}], "as_of": 1, "next_cursor": "two"}))
    });
    assert_eq!(mock.run(&["task", "list", "--all", "-o", "name"]).out, "task_1\ntask_2\n");
    let whole = mock.run(&["task", "list", "--all", "-o", "json"]).json();
    assert_eq!(whole["items"].as_array().unwrap().len(), 2);
    // A limit above one page asks for the rest only.
    assert_eq!(mock.run(&["task", "list", "--limit", "1", "-o", "name"]).out, "task_1\n");
}

#[test]
fn one_thing_is_shown_field_by_field() {
    let task = json!({"id": "task_1", "state": "succeeded", "result": {"pages": [1, 2], "by": {"a": {"b": 1}}}});
    let mock = Mock::always(answer(200, task.clone()));
    let shown = mock.run(&["task", "get", "task_1", "-o", "table"]).out;
    assert!(shown.starts_with("id      task_1\nstate   succeeded\nresult  {"), "{shown}");
    assert_eq!(mock.run(&["task", "get", "task_1", "-o", "json"]).json(), task);
}

#[test]
fn a_result_keeps_its_digits() {
    let big = "123456789012345678901234567890.5";
    let mock = Mock::start(move |asked, _| {
        if asked.path.ends_with("/result") {
            return crate::mock::Answer { status: 200, headers: Vec::new(), body: big.to_owned() };
        }
        answer(200, json!({"id": "task_1", "state": "succeeded"}))
    });
    assert_eq!(mock.run(&["task", "result", "task_1"]).out, format!("{big}\n"));
}
