//! How runs begin and are waited for: bodies, keys, large inputs, runs that runs start.

use axum::body::Body;
use axum::http::Method;
use serde_json::json;

use super::{act, run, start};
use crate::node::{Node, another_millisecond};
use crate::workflows::deploy;

#[tokio::test]
async fn a_start_under_a_key_is_one_run() {
    let node = Node::start().await;
    deploy(&node, "quick", "  - a: {set: {x: '${ .x }'}}\n").await;
    let send = |key: &'static str, body: &'static str| {
        let request = node.request(Method::POST, "/api/v1/runs", &node.admin).header("idempotency-key", key);
        node.send(request.body(Body::from(body)).unwrap())
    };
    let body = r#"{"workflow":"shop/quick","input":{"x":1}}"#;
    let first = send("k1", body).await.is(201).json();
    another_millisecond().await;
    let second = send("k1", body).await.is(200);
    assert_eq!(second.header("idempotency-replayed"), "true");
    assert_eq!(second.json()["id"], first["id"]);
    let other = send("k1", r#"{"workflow":"shop/quick","input":{"x":2}}"#).await.is(409);
    assert_eq!(other.code(), "idempotency-mismatch");
    assert_ne!(send("k2", body).await.is(201).json()["id"], first["id"]);
    // A task with the same key is something else.
    let task = node.request(Method::POST, "/api/v1/tasks", &node.admin).header("idempotency-key", "k1");
    node.send(task.body(Body::from(r#"{"type":"t"}"#)).unwrap()).await.is(201);
    assert_eq!(node.get("/api/v1/runs").await.json()["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn runs_start_runs_which_are_a_tree_and_end_with_them() {
    let node = Node::start().await;
    deploy(&node, "child", "  - pause: {wait: {hours: 1}}\n").await;
    let body = "  - both:
      fork:
        branches:
          - one: {run: {workflow: {namespace: shop, name: child, version: latest, input: {n: 1}}}}
          - two: {run: {workflow: {namespace: shop, name: child, version: '1.0.0', input: {n: 2}}}}
";
    deploy(&node, "parent", body).await;
    let body = json!({"workflow": "shop/parent", "correlation_id": "order-7"}).to_string();
    let id = node.post("/api/v1/runs", body).await.is(201).json()["id"].as_str().unwrap().to_owned();
    let tree = node.get(&format!("/api/v1/runs/{id}/tree")).await.is(200).json();
    let children = tree["children"].as_array().unwrap();
    assert_eq!(children.len(), 2, "{tree}");
    assert!(
        children
            .iter()
            .all(|child| child["run"]["parent"] == id.as_str() && child["run"]["correlation_id"] == "order-7")
    );
    let parent = node.get(&format!("/api/v1/runs/{id}")).await.json();
    let named: Vec<_> = parent["waiting"].as_array().unwrap().iter().map(|wait| wait["run"].clone()).collect();
    assert!(children.iter().all(|child| named.contains(&child["run"]["id"])), "{parent}");
    let found = node.get(&format!("/api/v1/runs?parent={id}")).await.is(200).json();
    assert_eq!(found["items"].as_array().unwrap().len(), 2);
    act(&node, &id, "cancel", json!({})).await;
    for child in children {
        let child = child["run"]["id"].as_str().unwrap();
        let ended = node.get(&format!("/api/v1/runs/{child}?wait=10s")).await.is(200).json();
        assert_eq!(ended["phase"], "cancelled", "{ended}");
    }
}

#[tokio::test]
async fn bodies_are_checked_field_by_field() {
    let node = Node::start().await;
    deploy(&node, "quick", "  - a: {set: {x: 1}}\n").await;
    for (body, says) in [
        ("", "/workflow"),
        (r#"{"workflow":"quick"}"#, "namespace/name"),
        (r#"{"workflow":"shop/quick","inputs":{}}"#, "inputs"),
        (r#"{"workflow":"shop/quick","input":{"#, ""),
        (r#"[1]"#, "object"),
    ] {
        let got = node.post("/api/v1/runs", body).await.is(400);
        assert!(got.json()["detail"].as_str().unwrap().contains(says), "{body}: {got:?}");
    }
    node.post("/api/v1/workflows/shop/quick/runs", r#"{"workflow":"shop/other"}"#).await.is(400);
    let unknown = node.post("/api/v1/runs", r#"{"workflow":"shop/quik"}"#).await.is(404).json();
    assert!(unknown["detail"].as_str().unwrap().contains("Did you mean 'shop/quick'"), "{unknown}");
    let unknown = node.post("/api/v1/runs", r#"{"workflow":"shop/quick","version":"2.0.0"}"#).await.is(404).json();
    assert!(unknown["detail"].as_str().unwrap().contains("shop/quick has 1.0.0"), "{unknown}");
    for path in ["/api/v1/runs/x", "/api/v1/runs/task_00000000000000000000000000", "/api/v1/runs/run_0/journal"] {
        node.get(path).await.is(404);
    }
    let long = "x".repeat(2_000);
    let id = start(&node, "quick", json!({})).await;
    node.post(&format!("/api/v1/runs/{id}:cancel"), format!(r#"{{"reason":"{long}"}}"#)).await.is(400);
    node.post(&format!("/api/v1/runs/{id}:cancel"), r#"{"reson":"x"}"#).await.is(400);
}

#[tokio::test]
async fn a_large_input_is_a_blob_and_is_seen_whole_by_the_run() {
    let node = Node::start().await;
    deploy(&node, "measure", "  - a: {set: {bytes: '${ .text | length }'}}\n").await;
    let done = run(&node, "measure", json!({"text": "x".repeat(300_000)})).await;
    assert_eq!(done["output"], json!({"bytes": 300_000}), "{done}");
    let reference = done["input"]["$ref"].as_str().unwrap_or_else(|| panic!("{done}"));
    let blob = node.get(&format!("/api/v1/blobs/{reference}")).await.is(200);
    assert_eq!(blob.json()["text"].as_str().unwrap().len(), 300_000);
    let huge = json!({"workflow": "shop/measure", "input": "x".repeat(5 << 20)}).to_string();
    node.post("/api/v1/runs", huge).await.is(413);
}

#[tokio::test]
async fn many_who_wait_for_one_run_are_all_told() {
    let node = Node::start().await;
    deploy(&node, "brief", "  - pause: {wait: {milliseconds: 80}}\n").await;
    let id = start(&node, "brief", json!({})).await;
    let path = format!("/api/v1/runs/{id}?wait=10s");
    let waits = (0..20).map(|_| node.get(&path));
    for got in futures::future::join_all(waits).await {
        assert_eq!(got.is(200).json()["phase"], "completed");
    }
}

#[tokio::test]
async fn an_error_without_a_place_of_a_run_that_was_started_is_at_the_statement_that_waits_for_it() {
    let node = Node::start().await;
    let missing = "  - kid: {run: {workflow: {namespace: shop, name: nobody, version: latest}}}\n";
    deploy(&node, "lonely", missing).await;
    let ended = run(&node, "lonely", json!({})).await;
    assert_eq!(ended["error"]["instance"], "/do/0/kid", "{ended}");
    assert!(ended["error"]["detail"].as_str().unwrap().contains("shop/nobody"), "{ended}");
}
