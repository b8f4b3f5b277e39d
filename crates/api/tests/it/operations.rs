//! Operations: outcomes of each task, in pages.

use axum::http::Method;
use serde_json::{Value, json};

use crate::node::Node;
use crate::tasks::finished;

async fn outcomes(node: &Node, location: &str, query: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let got = node.get(&format!("{location}/items?limit=100{query}{cursor}")).await.is(200);
        let page = got.json();
        found.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next_cursor"].as_str() else { return found };
        assert!(got.header("link").contains(next));
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn every_task_of_an_operation_has_its_outcome() {
    let node = Node::start().await;
    let batch: Vec<_> = (0..600).map(|_| json!({"type": "a", "labels": {"batch": "7"}})).collect();
    let answer = node.post("/api/v1/tasks:batch", json!({"tasks": batch}).to_string()).await.is(200).json();
    let mut ids: Vec<String> =
        answer["items"].as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect();
    let body = r#"{"action":"cancel","filter":"label.batch:7","dry_run":true}"#;
    let counted = node.post("/api/v1/bulk", body).await.is(202);
    let location = counted.header("location").to_owned();
    assert_eq!(finished(&node, &location).await["would_change"], 600);
    let would = outcomes(&node, &location, "").await;
    assert!(would.len() == 600 && would.iter().all(|item| item["outcome"] == "would_change"));
    let mut worker = node.worker(10);
    worker.run(10).await;
    let started = node.post("/api/v1/bulk", r#"{"action":"cancel","filter":"label.batch:7"}"#).await.is(202);
    let location = started.header("location").to_owned();
    let operation = finished(&node, &location).await;
    let figures = ["seen", "done", "failed"].map(|name| operation[name].as_u64().unwrap());
    assert_eq!((figures[0], figures[1] + figures[2]), (600, 600), "{operation}");
    assert!(figures[2] >= 10, "what had ended could not be cancelled: {operation}");
    let all = outcomes(&node, &location, "").await;
    let mut seen: Vec<String> = all.iter().map(|item| item["task"].as_str().unwrap().to_owned()).collect();
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids, "each of them once");
    let failed = outcomes(&node, &location, "&outcome=failed").await;
    assert_eq!(failed.len() as u64, figures[2]);
    assert!(failed.iter().all(|item| item["detail"].as_str().unwrap().contains("already ended")), "{failed:?}");
    assert_eq!(node.get(&format!("{location}/items?outcome=bad")).await.is(400).code(), "invalid-query");
    assert_eq!(node.get(&format!("{location}/items?cursor=x")).await.is(400).code(), "invalid-query");
    let etag = node.get(&location).await.header("etag").to_owned();
    let request = node.request(Method::GET, &location, &node.admin).header("if-none-match", etag);
    node.send(request.body(axum::body::Body::empty()).unwrap()).await.is(304);
}

#[tokio::test]
async fn the_general_bulk_call_knows_its_actions() {
    let node = Node::start().await;
    let got = node.post("/api/v1/bulk", r#"{"action":"delete","filter":"state:failed"}"#).await.is(400).json();
    assert_eq!(got["errors"][0]["pointer"], "/action");
    assert_eq!(
        node.post("/api/v1/bulk", r#"{"action":"cancel","filter":" "}"#).await.is(400).json()["errors"][0]["pointer"],
        "/filter"
    );
    let body = r#"{"action":"reprioritise","filter":"state:queued","priority":9}"#;
    let id = node.submit(r#"{"type":"a"}"#).await;
    let started = node.post("/api/v1/bulk", body).await.is(202);
    finished(&node, started.header("location")).await;
    assert_eq!(node.get(&format!("/api/v1/tasks/{id}")).await.json()["priority"], 9);
}

/// Starts runs that wait for an hour, some with an attribute, all at once.
async fn waiting_runs(node: &Node, count: usize) -> Vec<String> {
    let body = "  - pause: {wait: {hours: 1}}\n";
    crate::workflows::deploy(node, "slow", body).await;
    let mut ids = Vec::with_capacity(count);
    for chunk in (0..count).collect::<Vec<_>>().chunks(200) {
        let start = |_: &usize| node.post_owned("/api/v1/runs".to_owned(), r#"{"workflow":"shop/slow"}"#.to_owned());
        for got in futures::future::join_all(chunk.iter().map(start)).await {
            ids.push(got.is(201).json()["id"].as_str().unwrap().to_owned());
        }
    }
    // Of one millisecond they are in an order of their own.
    ids.sort();
    ids
}

async fn bulk(node: &Node, action: &str, body: Value) -> Value {
    let started = node.post(&format!("/api/v1/runs:{action}"), body.to_string()).await.is(202);
    finished(node, started.header("location")).await
}

async fn phase(node: &Node, id: &str) -> String {
    node.get(&format!("/api/v1/runs/{id}")).await.is(200).json()["phase"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn runs_are_suspended_resumed_cancelled_and_retried_by_filter() {
    let node = Node::start().await;
    let ids = waiting_runs(&node, 150).await;
    let counted = bulk(&node, "suspend", json!({"filter": "workflow:shop/slow", "dry_run": true})).await;
    assert_eq!((&counted["would_change"], &counted["resource"]), (&json!(150), &json!("runs")), "{counted}");
    assert_eq!(phase(&node, &ids[0]).await, "waiting", "a dry run changes nothing");
    let held = bulk(&node, "suspend", json!({"filter": "phase:waiting", "reason": "lunch", "max": 100})).await;
    assert_eq!((&held["done"], &held["failed"]), (&json!(100), &json!(0)), "{held}");
    // Newest first: the oldest fifty were left.
    assert_eq!((phase(&node, &ids[149]).await, phase(&node, &ids[0]).await), ("suspended".into(), "waiting".into()));
    let resumed = bulk(&node, "resume", json!({"filter": "workflow:slow"})).await;
    assert_eq!((&resumed["done"], &resumed["failed"]), (&json!(100), &json!(50)), "{resumed}");
    let location = format!("/api/v1/operations/{}", resumed["id"].as_str().unwrap());
    let failed = outcomes(&node, &location, "&outcome=failed").await;
    assert_eq!(failed.len(), 50);
    assert!(failed.iter().all(|item| item["run"].as_str().unwrap().starts_with("run_") && item["task"].is_null()));
    assert!(failed[0]["detail"].as_str().unwrap().contains("Only a suspended run"), "{}", failed[0]);
    let body = json!({"resource": "runs", "action": "cancel", "filter": "after:1h -phase:suspended"});
    let started = node.post("/api/v1/bulk", body.to_string()).await.is(202);
    assert_eq!(finished(&node, started.header("location")).await["done"], 150);
    let none = bulk(&node, "cancel", json!({"filter": "phase:waiting"})).await;
    assert_eq!((&none["seen"], &none["done"], &none["state"]), (&json!(0), &json!(0), &json!("done")), "{none}");
    // What has ended stays as it is.
    let late = bulk(&node, "terminate", json!({"filter": "phase:cancelled", "max": 1_000_000})).await;
    assert_eq!(late["seen"], 150);
    let fails = "  - fail: {raise: {error: {type: 'https://shop.example/late', status: 409, title: Late}}}\n";
    crate::workflows::deploy(&node, "fails", fails).await;
    for _ in 0..3 {
        node.post("/api/v1/runs?wait=10s", r#"{"workflow":"shop/fails"}"#).await.is(200);
    }
    let retried = bulk(&node, "retry", json!({"filter": "error:late phase:faulted"})).await;
    assert_eq!((&retried["seen"], &retried["done"]), (&json!(3), &json!(3)), "{retried}");
}

#[tokio::test]
async fn tasks_that_runs_wait_for_get_another_priority() {
    let node = Node::start().await;
    let body = "  - one: {call: 'task:1.0.0@default', with: {type: a}}\n";
    let text = crate::workflows::document("tasks", "1.0.0", body);
    node.post("/api/v1/workflows", text).await.is(201);
    let run = node.post("/api/v1/runs", r#"{"workflow":"shop/tasks"}"#).await.is(201).json();
    let task = run["waiting"][0]["task"].as_str().unwrap().to_owned();
    let done = bulk(&node, "reprioritise", json!({"filter": "workflow:tasks", "priority": 9})).await;
    assert_eq!((&done["done"], &done["failed"]), (&json!(1), &json!(0)), "{done}");
    assert_eq!(node.get(&format!("/api/v1/tasks/{task}")).await.is(200).json()["priority"], 9);
    node.post("/api/v1/runs:reprioritise", r#"{"filter":"workflow:tasks"}"#).await.is(400);
    node.worker(1).run(1).await;
    node.get(&format!("/api/v1/runs/{}?wait=10s", run["id"].as_str().unwrap())).await.is(200);
    let late = bulk(&node, "reprioritise", json!({"filter": "workflow:tasks", "priority": "high"})).await;
    assert!(late["failures"][0]["detail"].as_str().unwrap().contains("already ended"), "{late}");
}

#[tokio::test]
async fn hostile_filters_of_runs_are_refused_by_name() {
    let node = Node::start().await;
    let long = format!("workflow:{}", "x".repeat(5_000));
    let terms = "workflow:a ".repeat(65);
    for filter in
        ["", "  ", "queue:a", "phase:weird", "parent:x", "id:nonsense", "\"open", "duration:soon", &long, &terms]
    {
        for action in ["cancel", "terminate", "suspend", "resume", "retry"] {
            let got = node.post(&format!("/api/v1/runs:{action}"), json!({ "filter": filter }).to_string()).await;
            assert_eq!(got.status, 400, "{filter} {got:?}");
        }
        let body = json!({"resource": "runs", "action": "cancel", "filter": filter});
        assert_eq!(node.post("/api/v1/bulk", body.to_string()).await.status, 400);
    }
    for body in [
        r#"{"resource":"runs","action":"redrive","filter":"phase:faulted"}"#,
        r#"{"resource":"queues","action":"cancel","filter":"phase:faulted"}"#,
    ] {
        node.post("/api/v1/bulk", body).await.is(400);
    }
    // A viewer cannot, and another tenant's runs are not found.
    let viewer = node.token("viewer").await;
    node.call_as(&viewer, Method::POST, "/api/v1/runs:cancel", r#"{"filter":"phase:waiting"}"#).await.is(403);
    assert_eq!(node.get("/api/v1/operations").await.json()["items"], json!([]));
}

#[tokio::test]
async fn ten_thousand_runs_are_cancelled_each_once_while_others_are_served() {
    let node = Node::start().await;
    let mut ids = waiting_runs(&node, 10_100).await;
    let started = node.post("/api/v1/runs:cancel", r#"{"filter":"workflow:shop/slow"}"#).await.is(202);
    // A page is bounded: what others ask comes between two of them. What begins in the millisecond of the request may count as before it.
    let asked = node.runtime.now_ms();
    while node.runtime.now_ms() <= asked {
        tokio::task::yield_now().await;
    }
    let late = node.post("/api/v1/runs", r#"{"workflow":"shop/slow"}"#).await.is(201).json();
    let operation = finished(&node, started.header("location")).await;
    assert_eq!((&operation["done"], &operation["failed"]), (&json!(10_100), &json!(0)), "{operation}");
    let all = outcomes(&node, started.header("location"), "").await;
    let mut seen: Vec<String> = all.iter().map(|item| item["run"].as_str().unwrap().to_owned()).collect();
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids, "each of them once, and none that came later");
    assert_eq!(phase(&node, late["id"].as_str().unwrap()).await, "waiting");
}

#[tokio::test]
async fn an_operation_on_runs_goes_on_after_a_restart_and_does_nothing_twice() {
    let node = Node::start().await;
    let fails = "  - fail: {raise: {error: {type: 'https://shop.example/late', status: 409, title: Late}}}\n";
    crate::workflows::deploy(&node, "fails", fails).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let run = node.post("/api/v1/runs?wait=10s", r#"{"workflow":"shop/fails"}"#).await.is(200).json();
        ids.push(run["id"].as_str().unwrap().to_owned());
    }
    // As a process left it that was killed in the middle of a page: the first of them had been retried.
    let created = node.runtime.now_ms();
    node.post(&format!("/api/v1/runs/{}:retry", ids[0]), "").await.is(200);
    let record = json!({
        "action": "retry", "state": "running", "of_runs": true, "filter": "phase:faulted", "by": "ann", "seen": 3, "done": 0,
        "failed": 0, "created": created, "planned": ids, "is_last": true,
    });
    let tenant = node.runtime.directory().tenant("default").unwrap().id;
    let key = "op_00000000000000000000000001";
    let put = |request| tidewheel_engine::Command::PutRecord {
        request,
        kind: tidewheel_engine::mutation::RecordKind::Operation,
        tenant,
        key: key.into(),
        value: Some(record.to_string().as_str().into()),
        expected: None,
    };
    node.runtime.call(put).await.unwrap();
    drop(tidewheel_api::router(node.runtime.clone(), tidewheel_api::ApiConfig::default()));
    let operation = finished(&node, &format!("/api/v1/operations/{key}")).await;
    assert_eq!((&operation["done"], &operation["failed"]), (&json!(3), &json!(0)), "{operation}");
    for id in &ids {
        let turns = node.get(&format!("/api/v1/runs/{id}")).await.json()["turns"].as_u64().unwrap();
        assert_eq!(turns, 2, "a start and one retry of {id}");
    }
}
