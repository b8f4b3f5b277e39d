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
