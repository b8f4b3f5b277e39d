//! `Idempotency-Key`: the same call twice is one call.

use axum::http::Method;
use serde_json::json;

use crate::node::{Got, Node};
use crate::tasks::finished;

async fn post(node: &Node, path: &str, key: &str, body: &str) -> Got {
    let request = node.request(Method::POST, path, &node.admin).header("idempotency-key", key);
    node.send(request.body(body.to_owned().into()).unwrap()).await
}

#[tokio::test]
async fn an_action_is_done_once_and_answered_twice() {
    let node = Node::start().await;
    let first = post(&node, "/api/v1/queues/default:pause", "k", "").await.is(200);
    assert_eq!(first.header("idempotency-replayed"), "");
    node.post("/api/v1/queues/default:resume", "").await.is(200);
    // The alias without the version is the same call.
    let again = post(&node, "/api/queues/default:pause", "k", "").await.is(200);
    assert_eq!((again.header("idempotency-replayed"), again.header("etag")), ("true", first.header("etag")));
    assert_eq!(again.body, first.body);
    assert_eq!(node.get("/api/v1/queues/default").await.json()["state"], "active", "it was not paused again");
    let other = post(&node, "/api/v1/queues/default:drain", "k", "").await.is(409);
    assert_eq!(other.code(), "idempotency-mismatch");
    let long = "x".repeat(300);
    for key in ["", long.as_str()] {
        post(&node, "/api/v1/queues/default:pause", key, "").await.is(400);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_call_many_times_at_once_holds_up_nobody() {
    let node = Node::start().await;
    for round in 0..20 {
        let key = format!("k{round}");
        let calls = (0..16).map(|_| post(&node, "/api/v1/queues/default:pause", &key, ""));
        let answers = futures::future::join_all(calls).await;
        let done = answers.iter().filter(|answer| answer.status == 200).count();
        assert!(done > 0 && answers.iter().all(|answer| matches!(answer.status, 200 | 409)), "{round}: {done}");
        node.get("/health/live").await.is(200);
    }
}

#[tokio::test]
async fn what_failed_is_not_kept() {
    let node = Node::start().await;
    post(&node, "/api/v1/queues/late:pause", "k", "").await.is(404);
    node.call(Method::PUT, "/api/v1/queues/late", "{}").await.is(201);
    assert_eq!(post(&node, "/api/v1/queues/late:pause", "k", "").await.is(200).json()["state"], "paused");
}

#[tokio::test]
async fn a_repeated_bulk_action_is_one_operation() {
    let node = Node::start().await;
    node.submit(r#"{"type":"a"}"#).await;
    let body = r#"{"filter":"type:a"}"#;
    let first = post(&node, "/api/v1/tasks:cancel", "k", body).await.is(202);
    finished(&node, first.header("location")).await;
    let again = post(&node, "/api/v1/tasks:cancel", "k", body).await.is(202);
    assert_eq!(first.header("location"), again.header("location"));
    let all = node.get("/api/v1/operations").await.json();
    assert_eq!(all["items"].as_array().unwrap().len(), 1, "{all}");
    let other = post(&node, "/api/v1/tasks:cancel", "k", r#"{"filter":"type:b"}"#).await.is(409);
    assert_eq!(other.code(), "idempotency-mismatch");
}

#[tokio::test]
async fn a_token_is_made_once_and_its_secret_is_kept_nowhere() {
    let node = Node::start().await;
    let body = r#"{"name":"t","role":"viewer"}"#;
    let first = post(&node, "/api/v1/tokens", "k", body).await.is(201).json();
    let secret = first["secret"].as_str().unwrap().to_owned();
    let again = post(&node, "/api/v1/tokens", "k", body).await.is(201);
    assert_eq!(again.json()["id"], first["id"]);
    assert!(again.json().get("secret").is_none() && !String::from_utf8_lossy(&again.body).contains(&secret));
    // Another token's key of the same text is another key.
    let other = first["secret"].as_str().unwrap();
    let request = node.request(Method::POST, "/api/v1/tokens", other).header("idempotency-key", "k");
    assert_eq!(node.send(request.body(body.into()).unwrap()).await.is(403).code(), "not-allowed");
    let request = node.request(Method::POST, "/api/v1/tokens", "").header("idempotency-key", "k");
    assert_eq!(node.send(request.body(body.into()).unwrap()).await.is(401).code(), "unauthenticated");
}

#[tokio::test]
async fn a_repeated_batch_finds_every_task_again() {
    let node = Node::start().await;
    let body = r#"{"tasks":[{"type":"a"},{"type":""},{"type":"a"},{"type":"b","idempotency_key":"own"}]}"#;
    let first = post(&node, "/api/v1/tasks:batch", "k", body).await.is(200).json();
    assert_eq!((&first["accepted"], &first["refused"]), (&json!(3), &json!(1)));
    let again = post(&node, "/api/v1/tasks:batch", "k", body).await.is(200).json();
    for index in [0, 2, 3] {
        assert_eq!(again["items"][index]["id"], first["items"][index]["id"]);
        assert_eq!(again["items"][index]["replayed"], true);
    }
    assert_ne!(first["items"][0]["id"], first["items"][2]["id"], "equal tasks of one batch are two");
    let longer = r#"{"tasks":[{"type":"a"},{"type":""},{"type":"a"},{"type":"b"},{"type":"c"}]}"#;
    let other = post(&node, "/api/v1/tasks:batch", "k", longer).await.is(409);
    assert_eq!(other.code(), "idempotency-mismatch");
    assert_eq!(node.get("/api/v1/tasks/counts").await.json()["counts"]["queued"], 3, "nothing of it was stored");
    // The same text on a single submit is another key.
    post(&node, "/api/v1/tasks", "k", r#"{"type":"a"}"#).await.is(201);
}

#[tokio::test]
async fn answers_are_bounded() {
    let node = Node::start().await;
    for n in 0..1_070 {
        post(&node, "/api/v1/queues/default:resume", &format!("k{n}"), "").await.is(200);
    }
    let kept = node
        .runtime
        .directory()
        .records(tidewheel_engine::mutation::RecordKind::Answer, tidewheel_engine::id::TenantId(1));
    assert!(kept.len() <= 1_064, "{}", kept.len());
    let newest = post(&node, "/api/v1/queues/default:resume", "k1069", "").await.is(200);
    assert_eq!(newest.header("idempotency-replayed"), "true");
}

#[tokio::test]
async fn takes_of_items_pushed_other_answers_out_and_left_their_tokens_in_records() {
    let node = Node::start().await;
    node.post("/api/v1/queues/default/items", r#"{"input":1}"#).await.is(201);
    for left in [1, 0] {
        let got = post(&node, "/api/v1/queues/default/items:take", "k", "{}").await.is(200);
        assert_eq!(got.json()["items"].as_array().unwrap().len(), left, "it is not the answer of before");
    }
    let kept = node
        .runtime
        .directory()
        .records(tidewheel_engine::mutation::RecordKind::Answer, tidewheel_engine::id::TenantId(1));
    assert!(kept.is_empty());
}
