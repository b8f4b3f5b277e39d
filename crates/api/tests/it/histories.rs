//! Histories of programs: whole, however long they are, and piece by piece.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Method;
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use tidewheel_engine::task::Payload;
use tidewheel_store::blob::Blobs;
use tower::ServiceExt;

use crate::node::{InnerWorker, MemoryBlobs, Node};
use crate::package_use::command;
use crate::packages::{archive, put};

const MANIFEST: &str = r#"{"format":"folder","entries":[{"name":"long","fn":"flows:long","kind":"workflow","version":"1.0.0"},
    {"name":"fetch","fn":"flows:fetch"}]}"#;

async fn started(node: &Node) -> String {
    put(node, "/api/v1/packages/flows/1.0.0", &archive(&[("flows.py", "")]), MANIFEST).await.is(201);
    let run = node.post("/api/v1/runs", r#"{"workflow":"default/long"}"#).await.is(201).json();
    run["id"].as_str().unwrap().to_owned()
}

/// Answers the next activation with a step whose value is a text of so many bytes.
async fn step(worker: &mut InnerWorker, n: usize, bytes: usize) {
    let step = json!({"key": format!("/step:big#{n}"), "kind": "step", "name": "big", "hash": "00", "value": "x".repeat(bytes)});
    worker.answer(&json!({"v": 1, "commands": [step], "wait": [], "again": true})).await;
}

/// The history of a run, and the size of the largest piece of it.
async fn history(node: &Node, id: &str) -> (Value, usize) {
    let request = node.request(Method::GET, &format!("/api/v1/runs/{id}/history"), &node.admin);
    let response = node.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    let (mut pieces, mut text, mut most) = (response.into_body().into_data_stream(), Vec::new(), 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        most = most.max(piece.len());
        text.extend_from_slice(&piece);
    }
    assert!(!text.contains(&b'\n'), "a history is one line");
    (serde_json::from_slice(&text).unwrap(), most)
}

#[tokio::test]
async fn a_history_of_any_size_is_given_whole_and_in_small_pieces() {
    // More than an answer was once allowed to have.
    const SIZE: usize = 66 << 20;
    let blobs = Arc::new(MemoryBlobs::default());
    let node = Node::with_blobs(blobs.clone()).await;
    let tenant = node.runtime.directory().tenant("default").unwrap().id.0;
    let content = Bytes::from(format!("\"{}\"", "x".repeat(SIZE - 2)));
    let hash = blobs.put(tenant, content).await.unwrap();
    let id = started(&node).await;
    let mut worker = node.worker(1);
    let waits = json!([{"mode": "all", "keys": ["/task:fetch#0"]}]);
    let commands = [command("task", "fetch", &json!({}))];
    worker.answer(&json!({"v": 1, "commands": commands, "wait": waits})).await;
    worker.give(&Payload::Blob { hash, size: SIZE as u64 }).await;
    step(&mut worker, 0, 300_000).await;
    worker.take().await;
    let (history, most) = history(&node, &id).await;
    assert!(most <= 128 << 10, "a piece has {most} bytes");
    let value = |turn: usize| history["turns"][turn]["done"][0]["value"].as_str().map(str::len);
    assert_eq!((value(1), value(2)), (Some(SIZE - 2), Some(300_000)));
    assert_eq!(history["turns"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn turns_in_pages_come_before_those_that_the_run_carries_before_and_after_its_end() {
    let node = Node::start().await;
    let mut worker = node.worker(1);
    let id = started(&node).await;
    for n in 0..60 {
        step(&mut worker, n, 3_000).await;
    }
    for ended in [false, true] {
        let (history, _) = history(&node, &id).await;
        assert_eq!((history["first"].as_u64(), history["v"].as_u64(), history.get("before")), (Some(1), Some(1), None));
        assert_eq!((history["run"].as_str(), &history["input"]), (Some(&*id), &json!({})));
        let turns = history["turns"].as_array().unwrap();
        assert_eq!(turns.len(), 61);
        for (n, turn) in turns.iter().enumerate() {
            assert_eq!(turn["no"].as_u64(), Some(n as u64 + 1));
            if let Some(n) = n.checked_sub(1) {
                assert_eq!(turn["done"][0]["key"], format!("/step:big#{n}"));
                assert_eq!(turn["done"][0]["value"].as_str().map(str::len), Some(3_000));
            }
        }
        if !ended {
            worker.answer(&json!({"v": 1, "commands": [], "end": {"ok": null}})).await;
            assert_eq!(node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.json()["phase"], "completed");
        }
    }
}

#[tokio::test]
async fn a_large_result_of_a_task_is_put_in_if_it_is_json_and_stays_a_reference_else() {
    let blobs = Arc::new(MemoryBlobs::default());
    let node = Node::with_blobs(blobs.clone()).await;
    let tenant = node.runtime.directory().tenant("default").unwrap().id.0;
    let mut worker = node.worker(1);
    let id = started(&node).await;
    let pretty = serde_json::to_string_pretty(&json!({"text": "line\nfeed", "more": vec![7; 100_000]})).unwrap();
    let (large, broken) = (Bytes::from(pretty), Bytes::from("{".repeat(100_000)));
    for (n, content) in [large.clone(), broken.clone()].into_iter().enumerate() {
        let mut task = command("task", "fetch", &json!({}));
        task["key"] = format!("/task:fetch#{n}").into();
        let waits = json!([{"mode": "all", "keys": [task["key"]]}]);
        worker.answer(&json!({"v": 1, "commands": [task], "wait": waits})).await;
        let size = content.len() as u64;
        let hash = blobs.put(tenant, content).await.unwrap();
        worker.give(&Payload::Blob { hash, size }).await;
    }
    // The third activation is at work.
    worker.take().await;
    let (history, _) = history(&node, &id).await;
    let told = |turn: usize| history["turns"][turn]["done"][0].clone();
    assert_eq!(told(1)["value"], serde_json::from_slice::<Value>(&large).unwrap());
    assert_eq!((told(2)["status"].as_str(), &told(2)["value"]["size"]), (Some("ok"), &json!(broken.len())));
}

#[tokio::test]
async fn a_document_has_no_history() {
    let node = Node::start().await;
    crate::workflows::deploy(&node, "quick", "  - a: {set: {x: 1}}\n").await;
    let run = node.post("/api/v1/workflows/shop/quick/runs?wait=10s", "{}").await.is(200).json();
    let refused = node.get(&format!("/api/v1/runs/{}/history", run["id"].as_str().unwrap())).await.is(409);
    assert!(refused.json()["detail"].as_str().unwrap().contains("no workflow in Python"), "{refused:?}");
}

#[tokio::test]
async fn a_run_that_carries_much_says_what_takes_most_and_what_to_do() {
    let node = Node::start().await;
    let mut worker = node.worker(1);
    let id = started(&node).await;
    let why = async || node.get(&format!("/api/v1/runs/{id}/why")).await.is(200).json();
    let found =
        |why: &Value| why["reasons"].as_array().unwrap().iter().find(|one| one["code"] == "much_carried").cloned();
    let ask = |keys: std::ops::Range<usize>| {
        let big = |n: usize| {
            let mut signal = command("signal", "s", &json!("x".repeat(40_000)));
            signal["key"] = format!("/signal:s#{n}").into();
            signal
        };
        let commands: Vec<Value> = keys.map(big).collect();
        json!({"v": 1, "commands": commands, "wait": [{"mode": "any", "keys": [commands[0]["key"], "/signal:go#0"]}]})
    };
    let mut first = ask(0..5);
    first["commands"].as_array_mut().unwrap().push(command("signal", "go", &Value::Null));
    worker.answer(&first).await;
    assert_eq!(found(&why().await), None, "a part of what it may carry");
    node.post(&format!("/api/v1/runs/{id}/signals/go"), "").await.is(200);
    // From now on it goes on at once.
    worker.answer(&ask(5..10)).await;
    worker.answer(&ask(10..16)).await;
    node.post(&format!("/api/v1/runs/{id}:suspend"), "").await.is(200);
    let all = why().await;
    let said = found(&all).unwrap_or_else(|| panic!("{all}"));
    let text = said["text"].as_str().unwrap();
    let most = "in what is open (16 entries), the largest /signal:s#";
    assert!(text.contains("may carry 1024 KiB") && text.contains(most) && text.contains("wf.map"), "{text}");
    node.post(&format!("/api/v1/runs/{id}:resume"), "").await.is(200);
    // What goes past it is not begun, and says what takes most.
    worker.answer(&ask(16..26)).await;
    worker.answer(&json!({"v": 1, "commands": [], "wait": [{"mode": "all", "keys": ["/signal:s#25"]}]})).await;
    worker.take().await;
    let (history, _) = history(&node, &id).await;
    let told = history["turns"].as_array().and_then(|turns| turns.last()).map(|turn| turn["done"].clone());
    let detail =
        told.as_ref().and_then(|done| done[0]["error"]["detail"].as_str()).unwrap_or_else(|| panic!("{told:?}"));
    assert!(detail.contains("more than 768 KiB") && detail.contains("in what is open ("), "{detail}");
}

#[tokio::test]
async fn what_a_program_says_of_itself_is_shown_while_it_goes_on_and_after_its_end() {
    let node = Node::start().await;
    let mut worker = node.worker(1);
    let id = started(&node).await;
    let shown = async || node.get(&format!("/api/v1/runs/{id}")).await.is(200).json();
    assert_eq!(shown().await.get("status"), None);
    for at in ["fetching", "asking"] {
        let mut signal = command("signal", "go", &Value::Null);
        signal["key"] = format!("/signal:go#{}", usize::from(at == "asking")).into();
        let waits = json!([{"mode": "all", "keys": [signal["key"]]}]);
        worker.answer(&json!({"v": 1, "commands": [signal], "wait": waits, "state": {"at": at}})).await;
        assert_eq!(shown().await["status"], json!({"at": at}));
        node.post(&format!("/api/v1/runs/{id}/signals/go"), "").await.is(200);
    }
    worker.answer(&json!({"v": 1, "commands": [], "end": {"ok": null}})).await;
    node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200);
    let ended = shown().await;
    assert_eq!((&ended["phase"], &ended["status"]), (&json!("completed"), &json!({"at": "asking"})));
}

#[tokio::test]
async fn the_last_status_of_a_run_is_what_it_said_in_its_last_history() {
    let node = Node::start().await;
    let mut worker = node.worker(1);
    let ended = async |id: &str| node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
    // In the moment of its end, and of any size.
    let id = started(&node).await;
    worker.answer(&json!({"v": 1, "commands": [], "state": {"at": "end"}, "end": {"ok": null}})).await;
    assert_eq!(ended(&id).await["status"], json!({"at": "end"}));
    let again = async || node.post("/api/v1/runs", r#"{"workflow":"default/long"}"#).await.is(201).json()["id"].clone();
    let id = again().await;
    let large = json!({"at": "x".repeat(200_000)});
    worker.answer(&json!({"v": 1, "commands": [], "state": large, "end": {"ok": null}})).await;
    assert_eq!(ended(id.as_str().unwrap()).await["status"]["size"], json!(large.to_string().len()));
    // One that continued as new has said nothing since, and a task that answers like a program is none.
    let id = again().await;
    worker.answer(&json!({"v": 1, "commands": [], "state": {"at": "old"}, "end": {"continue": null}})).await;
    let fetch = command("task", "fetch", &json!({"args": []}));
    let waits = json!([{"mode": "all", "keys": [fetch["key"]]}]);
    worker.answer(&json!({"v": 1, "commands": [fetch], "wait": waits})).await;
    worker.answer(&json!({"v": 1, "commands": [], "state": {"at": "a task"}})).await;
    worker.answer(&json!({"v": 1, "commands": [], "end": {"ok": null}})).await;
    let got = ended(id.as_str().unwrap()).await;
    assert_eq!((&got["phase"], got.get("status")), (&json!("completed"), None), "{got}");
    // One that is cancelled keeps what it said.
    let id = again().await;
    let mut signal = command("signal", "go", &Value::Null);
    signal["key"] = "/signal:go#0".into();
    let waits = json!([{"mode": "all", "keys": [signal["key"]]}]);
    worker.answer(&json!({"v": 1, "commands": [signal], "wait": waits, "state": {"at": "waiting"}})).await;
    node.post(&format!("/api/v1/runs/{}:cancel", id.as_str().unwrap()), "").await.is(200);
    worker.answer(&json!({"v": 1, "commands": [], "end": {"cancelled": null}})).await;
    let got = ended(id.as_str().unwrap()).await;
    assert_eq!((&got["phase"], &got["status"]), (&json!("cancelled"), &json!({"at": "waiting"})), "{got}");
}
