//! What a server refuses to deploy: each with its place in the document and with what to do instead.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use tidewheel_lang::feature::Feature;

use crate::node::Node;
use crate::packages::{archive, put};
use crate::workflows::document;

/// What this server serves; everything else of the language has a case below.
const SERVED: [Feature; 7] = [
    Feature::Workflow,
    Feature::Python,
    Feature::Map,
    Feature::Saga,
    Feature::Listen,
    Feature::Shell,
    Feature::PythonScript,
];

/// A document, what of it is refused, the text at its place, and what the hint says.
struct Case {
    document: String,
    says: &'static str,
    at: &'static str,
    hint: &'static str,
}

fn case(body: &str, says: &'static str, at: &'static str, hint: &'static str) -> Case {
    Case { document: document("a", "1.0.0", body), says, at, hint }
}

fn cases() -> Vec<Case> {
    let python = "python:1.0.0@default";
    let mut cases = vec![
        case(
            "  - a:\n      call: http\n      with: {method: get, endpoint: 'https://a.example'}\n",
            "`call: http`",
            "http",
            python,
        ),
        case(
            "  - a:\n      call: grpc\n      with:\n        proto: {endpoint: 'https://a.example/a.proto'}\n        service: {name: S, \
             host: a.example}\n        method: M\n",
            "`call: grpc`",
            "grpc",
            python,
        ),
        case(
            "  - a:\n      call: openapi\n      with: {document: {endpoint: 'https://a.example'}, operationId: x}\n",
            "`call: openapi`",
            "openapi",
            python,
        ),
        case(
            "  - a:\n      call: asyncapi\n      with: {document: {endpoint: 'https://a.example'}, operation: x, message: {payload: {}}}\n",
            "`call: asyncapi`",
            "asyncapi",
            python,
        ),
        case(
            "  - a:\n      emit: {event: {with: {source: 'https://a.example', type: t}}}\n",
            "`emit`",
            "{event",
            "run.workflow",
        ),
        case("  - a:\n      run: {container: {image: busybox}}\n", "`run.container`", "{image", "run.shell"),
        case(
            "  - a:\n      run: {script: {language: js, code: '1'}}\n",
            "`run.script in JavaScript`",
            "{language",
            "Python",
        ),
        case(
            "  - a:\n      call: 'python:1.0.0@default'\n      with: {package: p, entrypoint: f, range: '>1'}\n",
            "argument `range`",
            ">1",
            "name the version",
        ),
        case(
            "  - a:\n      set: {x: 1}\n      metadata: {tidewheel: {rateLimit: 5}}\n",
            "hint `rateLimit`",
            "5",
            "the hint `queue`",
        ),
    ];
    for function in ["human", "queue", "signal", "lock", "ratelimit", "sql", "mail", "s3", "validate", "asset"] {
        let body = format!("  - a:\n      call: '{function}:1.0.0@default'\n      with: {{x: 1}}\n");
        cases.push(case(&body, "is not supported by this server", "@default", python));
    }
    // Of the edition after 1.0.3.
    let next = |body: &str| document("a", "1.0.0", body).replace("1.0.3", "1.1.0");
    cases.push(Case {
        document: next("  - a:\n      call: a2a\n      with: {method: message/send, server: 'https://a.example'}\n"),
        says: "`call: a2a`",
        at: "a2a",
        hint: python,
    });
    cases.push(Case {
        document: next(
            "  - a:\n      call: mcp\n      with: {method: tools/list, transport: {http: {endpoint: 'https://a.example'}}}\n",
        ),
        says: "`call: mcp`",
        at: "mcp",
        hint: python,
    });
    let whole = document("a", "1.0.0", "  - a: {set: {x: 1}}\n");
    cases.push(Case {
        document: whole.replacen("\ndo:", "\nschedule: {every: {minutes: 1}}\ndo:", 1),
        says: "`schedule`",
        at: "{every",
        hint: "start runs through the API",
    });
    cases.push(Case {
        document: document("a", "1.0.0", "  - a:\n      run: {shell: {command: 'echo ${ $secrets.token }'}}\n")
            .replacen("\ndo:", "\nuse: {secrets: [token]}\ndo:", 1),
        says: "`$secrets`",
        at: "$secrets",
        hint: python,
    });
    cases.push(Case {
        document: whole.replacen("\ndo:", "\nevaluate: {language: js}\ndo:", 1),
        says: "expressions in `js`",
        at: "js",
        hint: "`jq`",
    });
    cases
}

/// The errors of a refused deploy.
async fn refused(node: &Node, text: &str) -> Vec<Value> {
    let got = node.post("/api/v1/workflows", text.to_owned()).await.is(422);
    assert_eq!(got.code(), "invalid-workflow", "{text}");
    got.json()["errors"].as_array().unwrap().clone()
}

/// The text of a document from the place of an error to the end of the line.
fn place<'t>(text: &'t str, error: &Value) -> Option<&'t str> {
    let (line, column) = (error["line"].as_u64()?, error["column"].as_u64()?);
    let line = text.lines().nth(usize::try_from(line.checked_sub(1)?).ok()?)?;
    line.get(usize::try_from(column.checked_sub(1)?).ok()?..)
}

#[tokio::test]
async fn what_this_server_does_not_do_is_refused_with_line_column_and_hint() {
    let node = Node::start().await;
    let manifest = r#"{"format":"folder","entries":[{"name":"f","fn":"a:f"}]}"#;
    put(&node, "/api/v1/packages/p/1.0.0", &archive(&[("a.py", "")]), manifest).await.is(201);
    for Case { document, says, at, hint } in cases() {
        let errors = refused(&node, &document).await;
        let found = errors.iter().find(|error| error["detail"].as_str().unwrap_or_default().contains(says));
        let error = found.unwrap_or_else(|| panic!("{says} is not refused in {document}: {errors:?}"));
        let there = place(&document, error).unwrap_or_else(|| panic!("no place: {error}\n{document}"));
        assert!(there.contains(at), "{says} is said of `{there}`: {error}");
        assert!(error["hint"].as_str().unwrap_or_default().contains(hint), "{says}: {error}");
        assert!(error["pointer"].as_str().is_some_and(|pointer| pointer.starts_with('/')), "{error}");
    }
    assert_eq!(node.get("/api/v1/workflows").await.json()["items"], serde_json::json!([]), "nothing of it was kept");
}

#[test]
fn every_feature_of_the_language_is_served_or_has_a_case_that_is_refused() {
    let said: BTreeSet<&str> = cases().iter().map(|case| case.says.trim_matches('`')).collect();
    let open: Vec<&str> = Feature::ALL.into_iter().filter(|one| !SERVED.contains(one)).map(Feature::name).collect();
    let missing: Vec<&&str> = open.iter().filter(|name| !said.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?} have no case");
}

/// The examples and reference documents of the standard, where they are at hand.
#[tokio::test]
async fn the_documents_of_the_standard_that_are_refused_say_where_and_what_to_do() {
    let root = std::env::var_os("TIDEWHEEL_CONFORMANCE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
        std::path::PathBuf::from,
    );
    let node = Node::start().await;
    let (mut refusals, mut all) = (0, 0);
    for part in ["v1.0.3/examples", "v1.0.3/reference-blocks", "main/examples", "main/reference-blocks"] {
        let folder = root.join("ows").join(part);
        if !folder.is_dir() {
            eprintln!("not run: there is no {}; set TIDEWHEEL_CONFORMANCE", folder.display());
            return;
        }
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|ending| ending != "yaml") {
                continue;
            }
            all += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let got = node.post("/api/v1/workflows", text.clone()).await;
            if got.status != 422 {
                assert!([200, 201, 409].contains(&got.status), "{}: {got:?}", path.display());
                continue;
            }
            for error in got.json()["errors"].as_array().unwrap() {
                assert!(place(&text, error).is_some_and(|there| !there.is_empty()), "{}: {error}", path.display());
                let unsupported = error["detail"].as_str().unwrap_or_default().contains("not supported");
                assert!(!unsupported || error["hint"].is_string(), "{}: {error}", path.display());
                refusals += usize::from(unsupported);
            }
        }
    }
    assert!(all > 150 && refusals > 50, "{refusals} refusals in {all} documents");
}
