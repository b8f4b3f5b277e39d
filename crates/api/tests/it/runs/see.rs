//! Seeing runs: lists, counts, streams, reasons, comparisons, lines of logs, graphs.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{act, key_of, run, start, why};
use crate::node::Node;
use crate::workflows::{deploy, document};

#[tokio::test]
async fn lists_narrow_and_go_page_by_page() {
    let node = Node::start().await;
    deploy(&node, "quick", "  - a: {set: {x: 1}}\n").await;
    deploy(&node, "slow", "  - pause: {wait: {hours: 1}}\n").await;
    for n in 0..5 {
        let body = json!({"workflow": "shop/quick", "correlation_id": format!("c{}", n % 2)}).to_string();
        node.post("/api/v1/runs?wait=10s", body).await.is(200);
    }
    let open = start(&node, "slow", json!({})).await;
    let count = |query: &'static str| {
        let node = &node;
        async move { node.get(&format!("/api/v1/runs?{query}")).await.is(200).json()["items"].as_array().unwrap().len() }
    };
    assert_eq!(count("phase=completed").await, 5);
    assert_eq!(count("phase=waiting,running").await, 1);
    assert_eq!(count("workflow=shop/quick&correlation=c0").await, 3);
    assert_eq!(count("workflow=slow").await, 1);
    assert_eq!(count("workflow=shop/quick&version=9.9.9").await, 0);
    assert_eq!(count("started_from=2000-01-01T00:00:00Z&started_until=2001-01-01T00:00:00Z").await, 0);
    assert_eq!(count("started_from=2000-01-01T00:00:00Z").await, 6);
    let mut seen = Vec::new();
    let mut path = "/api/v1/runs?limit=4".to_owned();
    loop {
        let page = node.get(&path).await.is(200).json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/runs?limit=4&cursor={cursor}");
    }
    assert!(seen.len() == 6 && seen.contains(&open));
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first: {seen:?}");
    for query in ["phase=done", "parent=x", "started_from=yesterday", "limit=0", "cursor=x", "fase=running"] {
        let got = node.get(&format!("/api/v1/runs?{query}")).await.is(400);
        assert_eq!(got.code(), "invalid-query", "{query}");
    }
}

#[tokio::test]
async fn the_changes_of_a_run_are_streamed_to_its_end() {
    let node = Node::start().await;
    let body = "  - go: {listen: {to: {one: {with: {type: go}}}}}\n  - a: {set: {x: 1}}\n";
    deploy(&node, "listens", body).await;
    let id = start(&node, "listens", json!({})).await;
    let request = node.request(Method::GET, &format!("/api/v1/runs/{id}/events"), &node.admin);
    let response = node.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.into_body().into_data_stream();
    let (mut text, mut told) = (String::new(), false);
    while !text.contains("event: end") {
        let part = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&part).unwrap());
        if !told && text.contains("\"waiting\"") {
            told = true;
            node.post(&format!("/api/v1/runs/{id}/signals/go"), "").await.is(200);
        }
    }
    let (first, last) = (text.find("\"phase\":\"waiting\"").unwrap(), text.find("\"phase\":\"completed\"").unwrap());
    assert!(first < last && text.contains("the run has ended"), "{text}");
}

#[tokio::test]
async fn a_run_says_in_words_what_it_waits_for() {
    let node = Node::start().await;
    deploy(&node, "slow", "  - pause: {wait: {hours: 1}}\n").await;
    let id = start(&node, "slow", json!({})).await;
    let said = why(&node, &id).await;
    assert!(said["summary"].as_str().unwrap().starts_with("It waits until 2"), "{said}");
    assert_eq!(said["reasons"][0]["key"], json!(key_of(&node, &id, "/do/0/pause").await), "{said}");
    act(&node, &id, "suspend", json!({"reason": "lunch"})).await;
    let said = why(&node, &id).await;
    assert!(said["summary"].as_str().unwrap().starts_with("It is held: lunch."), "{said}");
    act(&node, &id, "cancel", json!({})).await;
    assert!(why(&node, &id).await["summary"].as_str().unwrap().starts_with("It was cancelled"));
    let body = "  - paid: {listen: {to: {any: [{with: {type: order.paid}}, {with: {type: order.gone}}]}}}\n";
    deploy(&node, "listens", body).await;
    let id = start(&node, "listens", json!({})).await;
    let said = why(&node, &id).await;
    assert!(said["summary"].as_str().unwrap().contains("order.paid, order.gone"), "{said}");
    deploy(&node, "tasks", "  - one: {call: 'task:1.0.0@default', with: {type: a}}\n").await;
    deploy(&node, "parent", "  - kid: {run: {workflow: {namespace: shop, name: tasks, version: '1.0.0'}}}\n").await;
    let id = start(&node, "parent", json!({})).await;
    let said = why(&node, &id).await;
    assert!(said["summary"].as_str().unwrap().contains("of shop/tasks:1.0.0, which is running"), "{said}");
    let child = said["reasons"][0]["run"].as_str().unwrap().to_owned();
    let said = why(&node, &child).await;
    assert_eq!(said["reasons"][0]["code"], "task", "{said}");
    assert!(!said["reasons"][0]["reasons"].as_array().unwrap().is_empty(), "why the task is not running: {said}");
    deploy(&node, "fails", "  - f: {raise: {error: {type: 'https://a.example/b', status: 400, title: Bad}}}\n").await;
    let failed = run(&node, "fails", json!({})).await;
    let said = why(&node, failed["id"].as_str().unwrap()).await;
    assert!(said["summary"].as_str().unwrap().starts_with("It failed at /do/0/f: Bad"), "{said}");
    node.get("/api/v1/runs/run_00000000000000000000000000/why").await.is(404);
}

#[tokio::test]
async fn runs_are_counted_by_phase_and_listed_by_filter_page_by_page() {
    let node = Node::start().await;
    deploy(&node, "slow", "  - pause: {wait: {hours: 1}}\n").await;
    deploy(&node, "quick", "  - a: {set: {x: 1}}\n").await;
    let mut ids = Vec::new();
    for _ in 0..25 {
        ids.push(start(&node, "slow", json!({})).await);
    }
    for _ in 0..5 {
        run(&node, "quick", json!({})).await;
    }
    let counts = node.get("/api/v1/runs/counts").await.is(200).json();
    assert_eq!((&counts["counts"]["waiting"], &counts["counts"]["completed"]), (&json!(25), &json!(5)), "{counts}");
    ids.sort();
    // Runs that end or begin between two pages leave the others where they are.
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/runs?filter=workflow:shop/slow%20-version:9*&limit=4{cursor}");
        let page = node.get(&path).await.is(200).json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()));
        act(&node, &ids[ids.len() - 1 - seen.len().min(24)], "cancel", json!({})).await;
        start(&node, "slow", json!({})).await;
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    seen.reverse();
    assert_eq!(seen, ids, "each once");
    // A cursor belongs to its filter.
    let page = node.get("/api/v1/runs?filter=workflow:slow&limit=1").await.is(200).json();
    let next = page["next_cursor"].as_str().unwrap();
    node.get(&format!("/api/v1/runs?filter=workflow:quick&limit=1&cursor={next}")).await.is(400);
    let both = node.get("/api/v1/runs?filter=phase:waiting&workflow=shop/quick").await.is(200).json();
    assert_eq!(both["items"], json!([]), "parameters and filter hold together");
    let refused = node.get("/api/v1/runs?filter=phase:wating").await.is(400).json();
    assert!(refused["detail"].as_str().unwrap().contains("did you mean 'waiting'?"), "{refused}");
}

#[tokio::test]
async fn a_run_is_listed_while_its_first_task_is_open() {
    let node = Node::start().await;
    deploy(&node, "tasks", "  - one: {call: 'task:1.0.0@default', with: {type: a}}\n").await;
    let id = start(&node, "tasks", json!({})).await;
    let page = node.get("/api/v1/runs?phase=running").await.is(200).json();
    assert_eq!(page["items"][0]["id"], json!(id), "{page}");
}

#[tokio::test]
async fn two_runs_are_compared_to_the_first_entry_that_differs() {
    let node = Node::start().await;
    let body = "  - total: {set: {sum: '${ .a + 1 }'}}
  - size:
      switch:
        - large: {when: '${ .sum > 10 }', then: big}
        - other: {then: small}
  - big: {set: {big: true}}
  - small: {set: {done: true}}
";
    deploy(&node, "steps", body).await;
    let id = |run: &Value| run["id"].as_str().unwrap().to_owned();
    let one = id(&run(&node, "steps", json!({"a": 1})).await);
    let same = id(&run(&node, "steps", json!({"a": 1})).await);
    let other = id(&run(&node, "steps", json!({"a": 20})).await);
    let compare = |a: String, b: String| {
        let path = format!("/api/v1/runs/{a}/compare?with={b}");
        async { node.get_owned(path).await }
    };
    let found = compare(one.clone(), same).await;
    assert_eq!((&found["same"], &found["first"]), (&json!(true), &Value::Null), "{found}");
    let found = compare(one.clone(), other.clone()).await;
    assert_eq!((&found["same"], &found["first"]["what"]), (&json!(false), &json!("output")), "{found}");
    assert!(found["first"]["key"].as_str().unwrap().contains("/do/0/total"), "what follows from it is not the first");
    assert!(found["summary"].as_str().unwrap().contains("Their inputs differ"), "{found}");
    assert_eq!((&found["a"]["input"], &found["b"]["outcome"]["done"]), (&json!({"a": 1}), &json!(true)), "{found}");
    let only: Vec<&Value> =
        found["entries"].as_array().unwrap().iter().filter(|entry| entry["differs"] == "missing").collect();
    assert!(only.iter().any(|entry| entry["key"].as_str().unwrap().contains("/big")), "{found}");
    node.get(&format!("/api/v1/runs/{one}/compare")).await.is(400);
    node.get(&format!("/api/v1/runs/{one}/compare?with=x")).await.is(400);
    node.get(&format!("/api/v1/runs/{one}/compare?with=run_00000000000000000000000000")).await.is(404);
    // What it did when.
    let timeline = node.get(&format!("/api/v1/runs/{other}/timeline?limit=2")).await.is(200).json();
    assert_eq!(timeline["items"].as_array().unwrap().len(), 2);
    assert!(timeline["items"][0]["took_ms"].is_u64() && timeline["next_cursor"].is_string(), "{timeline}");
}

#[tokio::test]
async fn versions_of_a_workflow_are_compared_statement_by_statement() {
    let node = Node::start().await;
    node.post("/api/v1/workflows", document("order", "1.0.0", "  - a: {set: {x: 1}}\n  - b: {set: {y: 1}}\n"))
        .await
        .is(201);
    node.post("/api/v1/workflows", document("order", "1.1.0", "  - a: {set: {x: 2}}\n  - c: {set: {z: 1}}\n"))
        .await
        .is(201);
    node.post("/api/v1/workflows", document("order", "1.2.0", "  - a: {set: {x: 2}}\n  - c: {set: {z: 1}}\n"))
        .await
        .is(201);
    let path = "/api/v1/workflows/shop/order/1.0.0/diff";
    let diff = node.get(&format!("{path}?to=1.1.0")).await.is(200).json();
    let told: Vec<String> = diff["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("{} {}", c["change"], c["path"]).replace('"', ""))
        .collect();
    assert_eq!(told, ["removed /do/b", "changed /do/a/set/x", "added /do/c", "changed /document/version"], "{diff}");
    assert_eq!(diff["same"], json!(false));
    let latest = node.get("/api/v1/workflows/shop/order/1.1.0/diff").await.is(200).json();
    assert_eq!((&latest["to"], &latest["same"]), (&json!("shop/order:1.2.0"), &json!(true)), "{latest}");
    node.get(&format!("{path}?to=9.9.9")).await.is(404);
}

#[tokio::test]
async fn the_lines_of_all_tasks_of_a_run_come_in_order() {
    let node = Node::start().await;
    let body = "  - both:
      fork:
        branches:
          - left: {call: 'task:1.0.0@default', with: {type: a}}
          - right: {call: 'task:1.0.0@default', with: {type: a}}
";
    deploy(&node, "tasks", body).await;
    let id = start(&node, "tasks", json!({})).await;
    let waiting = node.get(&format!("/api/v1/runs/{id}")).await.is(200).json();
    let tasks: Vec<_> =
        waiting["waiting"].as_array().unwrap().iter().map(|wait| wait["task"].as_str().unwrap()).collect();
    assert_eq!(tasks.len(), 2, "{waiting}");
    for number in 0..4u64 {
        node.log(tasks[number as usize % 2], number, &format!("line {number}"));
    }
    let read = |query: &str| node.get_owned(format!("/api/v1/runs/{id}/logs{query}"));
    let texts = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect()
    };
    let page = read("").await;
    assert_eq!(texts(&page), ["line 0", "line 1", "line 2", "line 3"], "{page}");
    assert!(page["items"][0]["statement"].as_str().unwrap().contains("/left"), "{page}");
    assert_eq!(texts(&read("?tail=1").await), ["line 3"]);
    let first = read("?limit=3").await;
    let next = first["next_cursor"].as_str().unwrap();
    assert_eq!(texts(&read(&format!("?after={next}")).await), ["line 3"], "{first}");
    node.get(&format!("/api/v1/runs/{id}/logs?level=loud")).await.is(400);
}

#[tokio::test]
async fn the_tasks_of_a_run_and_their_lines_are_found_by_its_id() {
    let node = Node::start().await;
    deploy(&node, "tasks", "  - one: {call: 'task:1.0.0@default', with: {type: a}}\n  - two: {wait: {hours: 1}}\n")
        .await;
    node.submit(r#"{"type":"a"}"#).await;
    let (id, other) = (start(&node, "tasks", json!({})).await, start(&node, "tasks", json!({})).await);
    let found = async |path: &str| node.get(path).await.is(200).json()["items"].as_array().unwrap().clone();
    let tasks = found(&format!("/api/v1/tasks?filter=run:{id}")).await;
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    assert_eq!((&tasks[0]["run"], tasks[0].get("workflow_id")), (&json!(id), None));
    assert_eq!(found(&format!("/api/v1/tasks?filter=run:{id},{other}")).await.len(), 2);
    assert_eq!(found(&format!("/api/v1/tasks?filter=-run:{id}")).await.len(), 2);
    assert_eq!(found("/api/v1/tasks?filter=run:*").await.len(), 2);
    let plain = tidewheel_proto::id::parse("run", &id).map(|id| format!("{id:032x}")).unwrap();
    let uuid = [&plain[..8], &plain[8..12], &plain[12..16], &plain[16..20], &plain[20..]].join("-");
    assert_eq!(found(&format!("/api/v1/tasks?filter=run:{uuid}")).await.len(), 1, "an id may be written as a UUID");
    node.worker(1).run(3).await;
    let task = tidewheel_proto::id::parse("task", tasks[0]["id"].as_str().unwrap()).unwrap();
    let line = tidewheel_store::log::Line {
        tenant: tidewheel_engine::id::TenantId(1),
        task: tidewheel_engine::id::TaskId(task),
        attempt: 1,
        offset: 0,
        at: 1_767_225_600_000,
        stream: tidewheel_store::log::Stream::Log,
        level: tidewheel_store::log::Level::Info,
        text: "of the run".to_owned(),
    };
    node.runtime.logs().append(vec![line]).unwrap();
    assert_eq!(found(&format!("/api/v1/logs?filter=run:{id}")).await.len(), 1);
    assert_eq!(found(&format!("/api/v1/logs?filter=run:{other}")).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_graph_of_a_run_says_what_became_of_each_statement() {
    let node = Node::start().await;
    let statements = "  - loop:\n      for: {each: i, in: '${ [1, 2, 3] }'}\n      do:\n        - inner: {set: {x: '${ $i }'}}\n  \
                      - choose:\n      switch:\n        - yes: {when: '${ true }', then: held}\n        - no: {then: never}\n  \
                      - never: {set: {x: 1}}\n  - held: {wait: {hours: 1}}\n  - last: {set: {x: 2}}\n";
    deploy(&node, "drawn", statements).await;
    let id = start(&node, "drawn", json!({})).await;
    let wait = || async { node.get(&format!("/api/v1/runs/{id}")).await.is(200).json()["phase"] == "waiting" };
    while !wait().await {
        tokio::task::yield_now().await;
    }
    let graph = node.get(&format!("/api/v1/runs/{id}/graph")).await.is(200).json();
    assert_eq!((&graph["id"], &graph["phase"], &graph["more"]), (&json!(id), &json!("waiting"), &json!(false)));
    let nodes = graph["nodes"].as_array().unwrap();
    let of = |name: &str| {
        let node = nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("no {name}: {graph}"));
        (node["status"].clone(), node["entries"].clone())
    };
    assert_eq!(of("inner"), (json!("done"), json!(3)));
    assert_eq!(of("loop"), (json!("done"), json!(1)));
    assert_eq!(of("held"), (json!("open"), json!(1)));
    assert_eq!((of("never"), of("last")), ((Value::Null, Value::Null), (Value::Null, Value::Null)));
    assert_eq!((of("start").0, of("end").0), (json!("done"), Value::Null));
    let drawn = node.get(&format!("/api/v1/runs/{id}/graph?format=mermaid")).await.is(200).body;
    let drawn = String::from_utf8(drawn.to_vec()).unwrap();
    assert!(
        drawn.starts_with("flowchart TD") && drawn.contains("classDef open") && drawn.contains(" open\n"),
        "{drawn}"
    );
    assert_eq!(node.get(&format!("/api/v1/runs/{id}/graph?format=svg")).await.is(400).json()["code"], "invalid-query");
    act(&node, &id, "cancel", json!({})).await;
    let cancelled = node.get(&format!("/api/v1/runs/{id}/graph")).await.is(200).json();
    let held = cancelled["nodes"].as_array().unwrap().iter().find(|node| node["name"] == "held").cloned().unwrap();
    assert_eq!(held["status"], "cancelled", "{cancelled}");
    node.get("/api/v1/runs/run_01jd8z5r7m0000000000000000/graph").await.is(404);
}
