//! `tidewheel docs`: what a person and a script are given, without a server.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use crate::mock::{Ran, command, ran};

fn docs(args: &[&str]) -> Ran {
    let home = tempfile::tempdir().unwrap();
    let mut command = command(home.path());
    command.arg("docs").args(args);
    ran(command, "")
}

fn held(page: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn pages_are_listed_and_shown_as_they_are_in_a_pipe() {
    let list = docs(&["-o", "json"]);
    let value: Value = serde_json::from_str(&list.out).unwrap();
    let items = value["items"].as_array().unwrap();
    let retries = items.iter().find(|item| item["page"] == "guide/retries").unwrap();
    assert_eq!((&retries["group"], &retries["title"]), (&"guide".into(), &"Retries and dead letters".into()));
    assert!(docs(&["-o", "name"]).out.lines().any(|line| line == "reference/cli"));
    assert!(docs(&["-o", "table"]).out.contains("concepts/timers"));

    assert_eq!(docs(&["retries"]).out, held("guide/retries.md"));
    assert_eq!(docs(&["reference/wh"]).out, held("reference/why.md"));
    let one: Value = serde_json::from_str(&docs(&["retries", "--output", "json"]).out).unwrap();
    assert_eq!(one["markdown"], held("guide/retries.md"));
    assert_eq!(docs(&["retries", "--jq", ".title"]).out, "Retries and dead letters\n");
    let section = docs(&["retries#time-limits"]).out;
    assert!(section.starts_with("## Time limits\n") && section.matches("\n## ").count() == 0, "{section}");
    assert!(held("guide/retries.md").contains(&section), "{section}");
}

#[test]
fn a_page_is_set_to_the_width_where_a_person_reads_it() {
    let home = tempfile::tempdir().unwrap();
    for width in ["60", "80"] {
        let mut command = command(home.path());
        command.args(["docs", "retries", "--color", "always"]).env("COLUMNS", width);
        let out = ran(command, "").out;
        assert!(out.starts_with("\u{1b}[1;4mRetries and dead letters\u{1b}[0m\n"), "{out}");
        assert!(!out.contains("```") && !out.contains("|---"), "{out}");
    }
}

#[test]
fn a_wrong_name_is_told_with_the_nearest() {
    for (page, code, said) in [
        ("retreis", 4, "guide/retries"),
        ("retries#tim-limits", 4, "guide/retries#time-limits"),
        ("workflows", 2, "guide/workflows, concepts/workflows"),
        ("zzzz", 4, "tidewheel docs"),
        ("", 4, "tidewheel docs"),
        ("../../../../etc/passwd", 4, "there is no page"),
        ("\u{1b}]0;x\u{7}", 4, "there is no page"),
    ] {
        let ran = docs(&[page]);
        assert_eq!(ran.code, code, "{page:?}: {ran:?}");
        assert!(ran.err.contains(said) && ran.out.is_empty() && !ran.err.contains('\u{1b}'), "{page:?}: {ran:?}");
    }
    let json: Value = serde_json::from_str(&docs(&["retreis", "-o", "json"]).err).unwrap();
    assert_eq!(json["code"], "not-found");
}

#[test]
fn lines_are_found_by_all_their_words_with_page_and_section() {
    let found = docs(&["--search", "Idempotency KEY", "-o", "jsonl"]).out;
    let lines: Vec<Value> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() > 3, "{found}");
    // The page of the command line is written by a test, maybe after this program was built.
    for line in lines.iter().filter(|line| line["page"] != "reference/cli") {
        let text = line["text"].as_str().unwrap().to_lowercase();
        assert!(text.contains("idempotency") && text.contains("key"), "{line}");
        let page = held(&format!("{}.md", line["page"].as_str().unwrap()));
        let number = usize::try_from(line["line"].as_u64().unwrap()).unwrap();
        assert_eq!(page.lines().nth(number - 1).unwrap().trim(), line["text"], "{line}");
    }
    let one = docs(&["retries", "--search", "attempts", "-o", "jsonl"]).out;
    assert!(!one.is_empty() && one.lines().all(|line| line.contains("\"guide/retries\"")), "{one}");
    assert_eq!(docs(&["--search", "nothingofthekind"]).code, 0);
    assert_eq!(docs(&["--search", " "]).code, 2);
    assert_eq!(docs(&["retries#time-limits", "--search", "x"]).code, 2);
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let home = tempfile::tempdir().unwrap();
    for args in [&["docs", "cli"][..], &["docs", "cli", "--color", "always"], &["docs", "--search", "the"]] {
        let mut command = command(home.path());
        let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 1];
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut first).unwrap();
        drop(out);
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{args:?}");
    }
    // Nor does one of the errors change how it ends.
    let mut command = command(home.path());
    let mut child = command.args(["docs", "zzzz"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(4));
}
