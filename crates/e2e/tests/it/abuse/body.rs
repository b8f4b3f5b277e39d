//! Bodies and query parameters of REST calls.

use bytes::Bytes;
use reqwest::Method;
use serde_json::json;
use tidewheel_e2e::rest::JSON;
use tidewheel_e2e::server::Server;
use tidewheel_e2e::{gate, need_binary};

use super::problem;

struct Case {
    what: &'static str,
    body: Bytes,
    status: u16,
    code: &'static str,
    /// JSON pointer that the problem has to name; empty = none is asked for.
    pointer: &'static str,
    /// A text of its detail.
    hint: &'static str,
}

fn case(
    what: &'static str,
    body: impl Into<Bytes>,
    code: &'static str,
    pointer: &'static str,
    hint: &'static str,
) -> Case {
    let status = match code {
        "too-large" => 413,
        "unknown-queue" => 404,
        _ => 400,
    };
    Case { what, body: body.into(), status, code, pointer, hint }
}

fn deep(levels: usize) -> String {
    format!(r#"{{"type":"a","input":{}1{}}}"#, "[".repeat(levels), "]".repeat(levels))
}

fn cases() -> Vec<Case> {
    let many_labels: Vec<_> = (0..9).map(|i| format!(r#""l{i}":"x""#)).collect();
    vec![
        case("no body", "", "invalid-field", "", "type"),
        case("a text that is no JSON", "type=greet", "malformed-body", "", "JSON"),
        case("a body that ends early", r#"{"type":"a","input":{"x":"#, "malformed-body", "", "JSON"),
        case("a comma too many", r#"{"type":"a",}"#, "malformed-body", "", "JSON"),
        case("two values", r#"{"type":"a"}{"type":"b"}"#, "malformed-body", "", ""),
        case("a list", "[]", "invalid-field", "", ""),
        case("null", "null", "invalid-field", "", ""),
        case("a missing type", r#"{"queue":"default"}"#, "invalid-field", "/type", "missing"),
        case("a type that is a number", r#"{"type":5}"#, "invalid-field", "/type", "string"),
        case("a type that is empty", r#"{"type":""}"#, "invalid-field", "/type", ""),
        case("a type that is long", format!(r#"{{"type":"{}"}}"#, "x".repeat(201)), "invalid-field", "/type", "200"),
        case("an unknown field", r#"{"type":"a","prioritty":3}"#, "invalid-field", "/prioritty", "priority"),
        case(
            "an unknown field below",
            r#"{"type":"a","retry":{"delya":"1s"}}"#,
            "invalid-field",
            "/retry/delya",
            "delay",
        ),
        case("a priority out of range", r#"{"type":"a","priority":10}"#, "invalid-field", "/priority", ""),
        case("a priority that is no word", r#"{"type":"a","priority":"urgent"}"#, "invalid-field", "/priority", ""),
        case("a priority that is huge", r#"{"type":"a","priority":1e400}"#, "invalid-field", "/priority", "double"),
        case("a delay that is none", r#"{"type":"a","delay":"soon"}"#, "invalid-field", "/delay", ""),
        case("a negative delay", r#"{"type":"a","delay":-5}"#, "invalid-field", "/delay", ""),
        case("a time that is none", r#"{"type":"a","run_at":"tomorrow"}"#, "invalid-field", "/run_at", ""),
        case(
            "attempts out of range",
            r#"{"type":"a","retry":{"max_attempts":1001}}"#,
            "invalid-field",
            "/retry/max_attempts",
            "",
        ),
        case("no attempts", r#"{"type":"a","retry":{"max_attempts":0}}"#, "invalid-field", "/retry/max_attempts", ""),
        case("labels of a wrong type", r#"{"type":"a","labels":{"x":1}}"#, "invalid-field", "/labels/x", "string"),
        case(
            "too many labels",
            format!(r#"{{"type":"a","labels":{{{}}}}}"#, many_labels.join(",")),
            "invalid-field",
            "/labels",
            "8",
        ),
        case("a duplicate key", r#"{"type":"a","type":"b"}"#, "malformed-body", "", "twice"),
        case("a duplicate key in the input", r#"{"type":"a","input":{"x":1,"x":2}}"#, "malformed-body", "", "twice"),
        case("invalid UTF-8", &b"{\"type\":\"\xff\xfe\"}"[..], "malformed-body", "", "UTF-8"),
        case("a lone surrogate", r#"{"type":"\ud800"}"#, "invalid-field", "/type", "surrogate"),
        case(
            "half a pair in the input",
            r#"{"type":"a","input":["\ud800"]}"#,
            "invalid-field",
            "/input/0",
            "surrogate",
        ),
        case(
            "a huge number in the input",
            r#"{"type":"a","input":{"n":1e999}}"#,
            "invalid-field",
            "/input/n",
            "double",
        ),
        case("nesting of 100,000 lists", deep(100_000), "malformed-body", "", "nested"),
        case("nesting of 100,000 objects", r#"{"input":"#.repeat(100_000), "malformed-body", "", "nested"),
        case("a queue name that is a path", r#"{"type":"a","queue":"../default"}"#, "invalid-field", "/queue", ""),
        case("an unknown queue", r#"{"type":"a","queue":"invioces"}"#, "unknown-queue", "", "invoices"),
        case("an oversized body", format!(r#"{{"type":"a","input":"{}"}}"#, "x".repeat(5 << 20)), "too-large", "", ""),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_wrong_are_refused_with_the_place() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    rest.queue("invoices", &json!({})).await?;
    let mut wrong = Vec::new();
    for case in cases() {
        let answer = rest.send(Method::POST, "/api/tasks", &[JSON], Some(case.body.clone())).await?;
        match problem(case.what, &answer, case.status, case.code) {
            Err(error) => wrong.push(error.to_string()),
            Ok(body) => {
                let pointers: Vec<_> =
                    body["errors"].as_array().into_iter().flatten().map(|e| e["pointer"].clone()).collect();
                if !case.pointer.is_empty() && !pointers.contains(&json!(case.pointer)) {
                    wrong.push(format!("{}: expected the pointer {}: {body}", case.what, case.pointer));
                }
                if !body.to_string().contains(case.hint) {
                    wrong.push(format!("{}: expected '{}' in {body}", case.what, case.hint));
                }
            }
        }
    }
    anyhow::ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases().len(), wrong.join("\n"));
    // Nothing of all this was stored.
    let counts = rest.get("/api/tasks/counts").await?.ok()?.json()?;
    let stored: u64 = counts["counts"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    anyhow::ensure!(stored == 0, "refused bodies were stored: {counts}");
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_refuse_one_by_one() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    let tasks =
        json!({ "tasks": [{ "type": "a" }, { "typ": "a" }, { "type": "b", "queue": "nowhere" }, { "type": "c" }] });
    let answer = rest.post("/api/tasks:batch", &tasks).await?.ok()?.json()?;
    let states: Vec<_> = answer["items"].as_array().into_iter().flatten().map(|item| item["status"].clone()).collect();
    anyhow::ensure!(states == [201, 400, 404, 201], "{answer}");
    anyhow::ensure!(answer["items"][1]["problem"]["errors"][0]["pointer"] == "/tasks/1/typ", "{answer}");
    anyhow::ensure!(answer["accepted"] == 2 && answer["refused"] == 2, "{answer}");
    let many: Vec<_> = (0..1_001).map(|_| json!({ "type": "a" })).collect();
    let answer = rest.post("/api/tasks:batch", &json!({ "tasks": many })).await?;
    problem("1,001 tasks", &answer, 400, "invalid-field")?;
    let answer = rest.post("/api/tasks:batch", &json!({ "tasks": "all" })).await?;
    problem("tasks that are a text", &answer, 400, "invalid-field")?;
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_and_parameters_that_are_wrong_are_named() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    let own = rest.task(&json!({ "type": "a" })).await?;
    rest.task(&json!({ "type": "b" })).await?;
    let cursor = rest.get("/api/tasks?limit=1").await?.ok()?.text("/next_cursor")?;
    let flipped = if cursor.ends_with('A') {
        format!("{}B", &cursor[..cursor.len() - 1])
    } else {
        format!("{}A", &cursor[..cursor.len() - 1])
    };
    let queries = [
        "cursor=nonsense".to_owned(),
        "cursor=%00%01".to_owned(),
        "cursor=..%2f..%2fetc%2fpasswd".to_owned(),
        format!("cursor={flipped}&limit=1"),
        // A cursor of one list is none of another.
        format!("cursor={cursor}&filter=state:failed"),
        format!("cursor={}", "A".repeat(5_000)),
        "limit=0".to_owned(),
        "limit=ten".to_owned(),
        "limit=1001".to_owned(),
        "limit=-1".to_owned(),
        "limit=99999999999999999999".to_owned(),
        "limt=5".to_owned(),
        "limit=5&limit=6".to_owned(),
        "filter=stat:failed".to_owned(),
        "filter=state:borked".to_owned(),
        "filter=%22open".to_owned(),
        "filter=%ff".to_owned(),
        "sort=name".to_owned(),
    ];
    for query in &queries {
        let answer = rest.get(&format!("/api/tasks?{query}")).await?;
        problem(query, &answer, 400, "invalid-query")?;
    }
    let answer = rest.get("/api/tasks?filter=stat:failed").await?;
    anyhow::ensure!(answer.shown().contains("state"), "no nearest name: {}", answer.shown());
    for path in ["/api/tasks/task_x", "/api/tasks/..%2f..%2fetc%2fpasswd", "/api/nothing", "/api/tasks/0/result", "/x"]
    {
        let answer = rest.get(path).await?;
        anyhow::ensure!(matches!(answer.status, 400 | 404), "{path}: {} {}", answer.status, answer.shown());
        problem(path, &answer, answer.status, if answer.status == 404 { "not-found" } else { "invalid-field" })?;
    }
    let unknown = tidewheel_proto::id::format("task", 7);
    problem("an unknown task", &rest.get(&format!("/api/tasks/{unknown}")).await?, 404, "not-found")?;
    let answer = rest.send(Method::DELETE, "/api/tasks", &[], None).await?;
    problem("a wrong method", &answer, 405, "method-not-allowed")?;
    anyhow::ensure!(!answer.header("allow").is_empty(), "405 without Allow");
    let text = ("content-type", "text/plain");
    let answer = rest.send(Method::POST, "/api/tasks", &[text], Some(r#"{"type":"a"}"#.into())).await?;
    problem("a text body", &answer, 415, "unsupported-media-type")?;
    let answer = rest.send(Method::POST, &format!("/api/tasks/{own}:explode"), &[JSON], Some("{}".into())).await?;
    problem("an unknown action", &answer, 404, "not-found")?;
    let answer = rest.get("/api/queues/nowhere").await?;
    anyhow::ensure!(answer.status == 404, "an unknown queue: {}", answer.shown());
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_belongs_to_one_body() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    let first = rest.submit("k1", &json!({ "type": "a" })).await?;
    anyhow::ensure!(first.status == 201, "{}", first.shown());
    let again = rest.submit("k1", &json!({ "type": "a" })).await?;
    anyhow::ensure!(again.status == 200, "{} {}", again.status, again.shown());
    anyhow::ensure!(again.header("idempotency-replayed") == "true", "{:?}", again.headers);
    anyhow::ensure!(first.text("/id")? == again.text("/id")?, "one key, two tasks");
    let other = rest.submit("k1", &json!({ "type": "b" })).await?;
    problem("another body", &other, 409, "idempotency-mismatch")?;
    // Twenty at once: one task.
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let rest = rest.clone();
        calls.spawn(async move { rest.submit("k2", &json!({ "type": "a" })).await?.ok()?.text("/id") });
    }
    let mut ids = std::collections::HashSet::new();
    while let Some(id) = calls.join_next().await {
        ids.insert(id??);
    }
    anyhow::ensure!(ids.len() == 1, "one key, {} tasks", ids.len());
    server.still_serves().await
}
