//! Filters of lists: every field that the reference promises works, and everything else is refused.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use tidewheel_engine::command::Hello;

use crate::node::{Got, Node};

/// A list with a filter, as a client sends it.
async fn list(node: &Node, of: &str, filter: &str) -> Got {
    let encoded: String = filter.bytes().map(|byte| format!("%{byte:02X}")).collect();
    node.get(&format!("/api/v1/{of}?filter={encoded}")).await
}

/// How many a filter finds.
async fn found(node: &Node, of: &str, filter: &str) -> usize {
    let got = list(node, of, filter).await;
    assert_eq!(got.status, 200, "{of} {filter}: {}", String::from_utf8_lossy(&got.body));
    got.json()["items"].as_array().unwrap().len()
}

/// Why a filter is refused.
async fn refusal(node: &Node, of: &str, filter: &str) -> String {
    let got = list(node, of, filter).await;
    assert_eq!(got.status, 400, "{of} {filter}: {}", String::from_utf8_lossy(&got.body));
    assert_eq!(got.code(), "invalid-query", "{of} {filter}");
    let problem = got.json();
    assert_eq!(problem["errors"][0]["pointer"], "filter", "{problem}");
    problem["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn queues_are_found_by_what_they_have_and_by_nothing_else() {
    let node = Node::start().await;
    node.call(Method::PUT, "/api/v1/queues/pdf", "{}").await.is(201);
    node.post("/api/v1/queues/pdf:pause", Body::empty()).await.is(200);
    node.submit(r#"{"type":"a","queue":"pdf"}"#).await;
    for (filter, count) in [
        ("state:paused", 1),
        ("state:Active,PAUSED", 2),
        ("-state:paused", 1),
        ("depth:>0", 1),
        ("depth:0..", 2),
        ("depth:*", 2),
        ("dead:0", 2),
        ("id:pd*", 1),
        ("pdf", 1),
        ("id:pdf depth>=1", 1),
    ] {
        assert_eq!(found(&node, "queues", filter).await, count, "{filter}");
    }
    for (filter, why) in [
        ("created:today", "queues have id, state, depth, dead"),
        ("after:1d", "unknown field 'after'"),
        ("before:1m", "unknown field 'before'"),
        ("label.env:prod", "unknown field 'label.env'; queues have id, state, depth, dead"),
        ("state:zz", "there is no state 'zz'; states are active, paused, draining"),
        ("state:pause", "did you mean 'paused'?"),
        ("-state:zz", "there is no state 'zz'"),
        ("state:a*", "whole values"),
        ("state:>active", "whole values"),
        ("id:>a", "this field is a text; use ':'"),
        ("depth:abc", "'abc' is not a whole number"),
    ] {
        let told = refusal(&node, "queues", filter).await;
        assert!(told.contains(why), "{filter}: {told}");
    }
}

#[tokio::test]
async fn workers_are_found_by_state_labels_and_their_last_sign_of_life() {
    let node = Node::start().await;
    // An empty list refuses what a full one refuses.
    assert!(refusal(&node, "workers", "state:zz").await.contains("states are online, silent"));
    let labels = vec![("group".into(), "berlin".into()), ("gpu".into(), "true".into())];
    let hello = Hello { name: "w".into(), version: "1.2.0".into(), permits: 1, labels, ..Hello::default() };
    let _worker = node.worker_with(hello);
    for (filter, count) in [
        ("seen:>1h", 1),
        ("seen:<1h", 0),
        ("-seen:<1h", 1),
        ("seen:1h..", 1),
        ("seen:..1h", 0),
        ("seen:today,1d..", 1),
        ("seen>=2026-01-01", 1),
        ("seen:<2026-01-01T00:00:00Z", 0),
        ("seen:*", 1),
        ("state:online", 1),
        ("state:lost,Silent", 0),
        ("version:1.*", 1),
        ("group:berlin", 1),
        ("label.gpu:true", 1),
        ("label.gpu:false", 0),
        ("capability:gpu", 1),
        ("-capability:gpu", 0),
        ("W", 1),
    ] {
        assert_eq!(found(&node, "workers", filter).await, count, "{filter}");
    }
    for (filter, why) in [
        ("created:today", "unknown field 'created'; workers have id, state, version, group, capability, seen, label.*"),
        ("after:1d", "unknown field 'after'"),
        ("before:1d", "unknown field 'before'"),
        ("seen:soon", "'soon' is not a time"),
        ("seen:a*", "a value, a comparison or a range"),
        ("state:zz", "there is no state 'zz'; states are online, silent, draining, reconnecting, lost"),
        ("state:onlin", "did you mean 'online'?"),
        ("version:>1", "this field is a text; use ':'"),
    ] {
        let told = refusal(&node, "workers", filter).await;
        assert!(told.contains(why), "{filter}: {told}");
    }
}

#[tokio::test]
async fn log_lines_are_found_by_every_form_of_time_and_by_their_task() {
    let node = Node::start().await;
    let id = node.submit(r#"{"type":"a"}"#).await;
    let other = node.submit(r#"{"type":"a"}"#).await;
    node.log(&id, 0, "first line");
    node.log(&id, 1, "second line");
    for (filter, count) in [
        ("created:today,1d..", 2),
        ("created:>1h", 2),
        ("created:>=2026-01-01", 2),
        ("created:<1h", 0),
        ("created:<=1h", 0),
        ("created:1h..", 2),
        ("created:2020-01-01..2020-01-02", 0),
        ("created:1h.. created:..1h", 0),
        ("after:1h", 2),
        ("before:1h", 0),
        ("after:1h before:2020-01-01", 0),
        (&format!("id:{id}"), 2),
        (&format!("task:{id} second"), 1),
        (&format!("id:{other}"), 0),
    ] {
        assert_eq!(found(&node, "logs", filter).await, count, "{filter}");
    }
    for (filter, why) in [
        ("id:x", "an id looks like task_01h..."),
        ("task:x", "an id looks like task_01h..."),
        ("created:soon", "'soon' is not a time"),
        ("after:>1h", "'after' takes one time"),
        ("label.env:prod", "unknown field 'label.env'; logs have id, created, after, before, level, task, run, worker"),
        ("level:zz", "a level is debug, info, warning or error"),
    ] {
        let told = refusal(&node, "logs", filter).await;
        assert!(told.contains(why), "{filter}: {told}");
    }
}

#[tokio::test]
async fn the_search_over_everything_takes_what_one_of_its_lists_takes() {
    let node = Node::start().await;
    let id = node.submit(r#"{"type":"a"}"#).await;
    node.log(&id, 0, "a line");
    let get = |filter: String| {
        let node = &node;
        async move { node.get(&format!("/api/v1/search?filter={filter}")).await }
    };
    let all: Value = get(format!("id:{id}")).await.is(200).json();
    assert_eq!((all["tasks"].as_array().unwrap().len(), all["lines"].as_array().unwrap().len()), (1, 1), "{all}");
    let recent = get("created:1h..".to_owned()).await.is(200).json();
    assert_eq!((&recent["tasks"][0]["id"], &recent["lines"][0]["text"]), (&json!(id), &json!("a line")));
    assert_eq!(get("id:x".to_owned()).await.is(400).code(), "invalid-query");
    assert_eq!(get("level:info".to_owned()).await.is(200).json()["tasks"], json!([]));
}
