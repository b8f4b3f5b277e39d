//! Items of queues over REST.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::node::Node;

const ITEMS: &str = "/api/v1/queues/invoices/items";

async fn node() -> Node {
    let node = Node::start().await;
    node.call(Method::PUT, "/api/v1/queues/invoices", r#"{"retry":{"max_attempts":2,"delay":"1ms","jitter":"0ms"}}"#)
        .await
        .is(201);
    node
}

async fn take(node: &Node, body: &str) -> Vec<Value> {
    let got = node.post(&format!("{ITEMS}:take"), body.to_owned()).await.is(200);
    got.json()["items"].as_array().unwrap().clone()
}

async fn settle(node: &Node, item: &Value, verb: &str, more: Value) -> crate::node::Got {
    let mut body = more;
    body["token"] = item["token"].clone();
    node.post(&format!("{ITEMS}/{}:{verb}", item["id"].as_str().unwrap()), body.to_string()).await
}

#[tokio::test]
async fn an_item_goes_from_the_queue_to_its_taker_and_to_its_end() {
    let node = node().await;
    assert!(take(&node, "").await.is_empty());
    let body = r#"{"input":{"number":77},"priority":"high","labels":{"batch":"7"},"key":"customer-9"}"#;
    let added = node.post(ITEMS, body).await.is(201);
    let id = added.json()["id"].clone();
    assert!(added.header("location").ends_with(id.as_str().unwrap()));
    assert_eq!(added.json()["type"], "item");
    let why = node.get(&format!("/api/v1/tasks/{}/why", id.as_str().unwrap())).await.is(200).json();
    assert_eq!(why["reasons"][0]["code"], "not-taken", "{why}");
    let item = take(&node, r#"{"lease":"10m"}"#).await.remove(0);
    assert_eq!((&item["id"], &item["input"], &item["attempt"]), (&id, &json!({"number": 77}), &json!(1)));
    assert_eq!(
        (&item["lease_ms"], &item["key"], &item["labels"]),
        (&json!(600_000), &json!("customer-9"), &json!({"batch": "7"}))
    );
    assert!(take(&node, "{}").await.is_empty(), "it is out");
    let shown = node.get(&format!("/api/v1/tasks/{}", id.as_str().unwrap())).await.json();
    assert_eq!((&shown["state"], &shown["worker"]), (&json!("running"), &json!("test")), "{shown}");
    let lease = settle(&node, &item, "renew", json!({})).await.is(200).json();
    assert!(lease["leased_until"].as_str() >= item["leased_until"].as_str(), "{lease}");
    let done = settle(&node, &item, "done", json!({"result": [1, 2]})).await.is(200);
    assert_eq!((&done.json()["state"], &done.json()["result"]), (&json!("succeeded"), &json!([1, 2])));
    assert_eq!(settle(&node, &item, "postpone", json!({"delay": "1h"})).await.is(409).code(), "conflict");
    let listed = node.get(&format!("{ITEMS}?filter=label.batch:7&fields=id,state")).await.is(200).json();
    assert_eq!(listed["items"], json!([{"id": id, "state": "succeeded"}]));
}

#[tokio::test]
async fn errors_of_items_are_of_two_kinds_and_lead_to_dead_letters_or_the_end() {
    let node = node().await;
    for _ in 0..2 {
        node.post(ITEMS, r#"{"input":1}"#).await.is(201);
    }
    let item = take(&node, "").await.remove(0);
    let failed = json!({"kind": "business", "message": "no such customer"});
    let failed = settle(&node, &item, "fail", failed).await.is(200).json();
    assert_eq!((&failed["state"], &failed["error"]["type"]), (&json!("failed"), &json!("BusinessError")));
    for state in ["scheduled", "dead"] {
        let item = take(&node, r#"{"wait":"10s"}"#).await.remove(0);
        let failed = settle(&node, &item, "fail", json!({"type": "SapDown"})).await.is(200).json();
        assert_eq!(failed["state"], state, "{failed}");
    }
    let dead = node.get("/api/v1/queues/invoices/dead").await.json();
    assert_eq!(dead["items"][0]["error"]["type"], "SapDown", "{dead}");
}

#[tokio::test]
async fn a_caller_that_waits_gets_the_item_that_comes() {
    let node = node().await;
    let (taken, _) = tokio::join!(take(&node, r#"{"wait":"20s","max":5}"#), async {
        tokio::task::yield_now().await;
        node.post(ITEMS, r#"{"input":2}"#).await.is(201);
    });
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0]["input"], 2);
    let postponed = settle(&node, &taken[0], "postpone", json!({"delay": "1ms"})).await.is(200).json();
    assert_eq!(postponed["state"], "scheduled");
    let again = take(&node, r#"{"wait":"20s"}"#).await.remove(0);
    assert_eq!((&again["attempt"], &again["max_attempts"]), (&json!(2), &json!(3)), "it was not held against it");
}

#[tokio::test]
async fn a_repeated_call_gets_the_same_answer_and_a_foreign_token_none() {
    let node = node().await;
    let keyed = |path: &str, key: &str, body: &str| {
        let request = node.request(Method::POST, path, &node.admin).header("idempotency-key", key);
        node.send(request.body(Body::from(body.to_owned())).unwrap())
    };
    let first = keyed(ITEMS, "a", r#"{"input":1}"#).await.is(201).json();
    let second = keyed(ITEMS, "a", r#"{"input":1}"#).await.is(200);
    assert_eq!((&second.json()["id"], second.header("idempotency-replayed")), (&first["id"], "true"));
    node.call(Method::PUT, "/api/v1/queues/other", "{}").await.is(201);
    let elsewhere = keyed("/api/v1/queues/other/items", "a", r#"{"input":1}"#).await.is(409);
    assert_eq!(elsewhere.code(), "idempotency-mismatch", "the same key and body, another queue");
    let path = format!("{ITEMS}:take");
    let (one, two) = (keyed(&path, "t", "{}").await.is(200).json(), keyed(&path, "t", "{}").await.is(200).json());
    assert!(
        two["items"].as_array().unwrap().is_empty(),
        "takes are not repeated: what is out stays out until its lease ends"
    );
    let item = one["items"][0].clone();
    node.post(ITEMS, r#"{"input":2}"#).await.is(201);
    let other = take(&node, "{}").await.remove(0);
    for (token, status) in
        [(json!(""), 400), (json!("zz"), 409), (json!("00".repeat(36)), 409), (other["token"].clone(), 400)]
    {
        let path = format!("{ITEMS}/{}:done", item["id"].as_str().unwrap());
        node.post(&path, json!({"token": token}).to_string()).await.is(status);
    }
    settle(&node, &item, "done", json!({})).await.is(200);
}

#[tokio::test]
async fn a_task_behind_an_untaken_item_of_its_ordering_key_says_which_it_is() {
    let node = node().await;
    let mut worker = node.worker(1);
    let added = node.post(ITEMS, r#"{"key":"customer-9"}"#).await.is(201).json();
    let item = added["id"].as_str().unwrap().to_owned();
    let task = node.submit(r#"{"type":"a","queue":"invoices","key":"customer-9"}"#).await;
    let why = async || node.get(&format!("/api/v1/tasks/{task}/why")).await.is(200).json();
    let got = why().await;
    let text = format!("it waits behind an item of ordering key customer-9 that nobody has taken: {item}");
    assert_eq!((&got["summary"], &got["reasons"][0]["code"]), (&json!(text), &json!("ordering")), "{got}");
    let item = take(&node, "{}").await.remove(0);
    let text = format!("a task before it with key customer-9 has not ended: {}", item["id"].as_str().unwrap());
    assert_eq!(why().await["summary"], json!(text));
    settle(&node, &item, "done", json!({})).await.is(200);
    worker.run(1).await;
    let ended = node.get(&format!("/api/v1/tasks/{task}?wait=10s")).await.is(200).json();
    assert_eq!(ended["state"], "succeeded", "{ended}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_field() {
    let node = node().await;
    for (body, pointer) in [
        (r#"{"lease":"500ms"}"#, "/lease"),
        (r#"{"lease":"25h"}"#, "/lease"),
        (r#"{"max":0}"#, "/max"),
        (r#"{"max":101}"#, "/max"),
        (r#"{"wait":"soon"}"#, "/wait"),
        (r#"{"leese":"1m"}"#, "/leese"),
    ] {
        let got = node.post(&format!("{ITEMS}:take"), body).await.is(400).json();
        assert_eq!(got["errors"][0]["pointer"], pointer, "{got}");
    }
    assert_eq!(node.post("/api/v1/queues/invoice/items:take", "").await.is(404).code(), "unknown-queue");
    node.post(ITEMS, r#"{"input":1}"#).await.is(201);
    let item = take(&node, "{}").await.remove(0);
    for (verb, body, pointer) in [
        ("fail", json!({"kind": "technical"}), "/kind"),
        ("fail", json!({"type": "x".repeat(300)}), "/type"),
        ("postpone", json!({}), "/delay"),
        ("postpone", json!({"delay": "1h", "until": "2030-01-01T00:00:00Z"}), "/delay"),
    ] {
        let got = settle(&node, &item, verb, body).await.is(400).json();
        assert_eq!(got["errors"][0]["pointer"], pointer, "{got}");
    }
    let viewer = node.token("viewer").await;
    let got = node.call_as(&viewer, Method::POST, &format!("{ITEMS}:take"), "{}").await.is(403);
    assert_eq!(got.code(), "not-allowed");
    // A task of workers is no item, whatever its token.
    let mut worker = node.worker(1);
    let task = node.submit(r#"{"type":"a","queue":"invoices"}"#).await;
    worker.take().await;
    let path = format!("{ITEMS}/{task}:done");
    node.post(&path, json!({"token": item["token"]}).to_string()).await.is(400);
}
