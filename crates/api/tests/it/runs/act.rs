//! Acting on runs: cancel, terminate, suspend, resume, retry, reset, fork.

use serde_json::{Value, json};

use super::{act, journal, key_of, run, start, with_task};
use crate::node::Node;
use crate::workflows::deploy;

#[tokio::test]
async fn a_run_is_cancelled_and_terminated_in_each_phase_it_can_be_in() {
    let node = Node::start().await;
    deploy(&node, "slow", "  - pause: {wait: {hours: 1}}\n").await;
    for action in ["cancel", "terminate"] {
        let id = start(&node, "slow", json!({})).await;
        let ended = act(&node, &id, action, json!({"reason": "wrong order"})).await;
        assert_eq!((&ended["phase"], &ended["reason"]), (&json!("cancelled"), &json!("wrong order")), "{ended}");
        let id = start(&node, "slow", json!({})).await;
        act(&node, &id, "suspend", json!({})).await;
        assert_eq!(act(&node, &id, action, json!({})).await["phase"], "cancelled");
    }
    deploy(&node, "quick", "  - a: {set: {x: 1}}\n").await;
    let done = run(&node, "quick", json!({})).await;
    let id = done["id"].as_str().unwrap();
    let refused = node.post(&format!("/api/v1/runs/{id}:cancel"), "").await.is(409);
    assert!(refused.json()["detail"].as_str().unwrap().contains("already ended: completed"), "{refused:?}");
    for action in ["suspend", "resume", "retry"] {
        node.post(&format!("/api/v1/runs/{id}:{action}"), "").await.is(409);
    }
    let unknown = node.post("/api/v1/runs/run_00000000000000000000000000:cancel", "").await.is(404);
    assert_eq!(unknown.code(), "not-found");
}

#[tokio::test]
async fn a_suspended_run_keeps_what_ends_until_it_resumes() {
    let node = Node::start().await;
    deploy(&node, "brief", "  - pause: {wait: {milliseconds: 40}}\n  - done: {set: {ok: true}}\n").await;
    let id = start(&node, "brief", json!({})).await;
    let held = act(&node, &id, "suspend", json!({"reason": "lunch"})).await;
    assert_eq!((&held["phase"], &held["reason"]), (&json!("suspended"), &json!("lunch")));
    let still = node.get(&format!("/api/v1/runs/{id}?wait=200ms")).await.is(200).json();
    assert_eq!(still["phase"], "suspended");
    act(&node, &id, "resume", json!({})).await;
    let done = node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
    assert_eq!((&done["phase"], &done["output"]), (&json!("completed"), &json!({"ok": true})), "{done}");
}

#[tokio::test]
async fn a_faulted_run_goes_on_from_what_failed() {
    let node = Node::start().await;
    with_task(&node).await;
    let mut worker = node.worker(1);
    let id = start(&node, "order", json!({"fail": true})).await;
    worker.run(1).await;
    let faulted = node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
    assert_eq!(faulted["phase"], "faulted", "{faulted}");
    assert_eq!(faulted["error"]["title"], "ValueError", "{faulted}");
    let again = act(&node, &id, "retry", json!({})).await;
    assert_eq!(again["phase"], "running", "{again}");
    worker.run(1).await;
    let faulted = node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
    assert_eq!(faulted["phase"], "faulted");
    let entries = journal(&node, &id).await;
    assert_eq!(entries.iter().filter(|entry| entry.contains("/do/0/first")).count(), 1, "{entries:?}");
}

#[tokio::test]
async fn a_run_is_reset_to_a_key_with_other_input_and_its_past_is_marked() {
    let node = Node::start().await;
    with_task(&node).await;
    let mut worker = node.worker(1);
    let id = start(&node, "order", json!({"fail": true})).await;
    worker.run(1).await;
    node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200);
    let key = key_of(&node, &id, "/do/1/pay").await;
    let back = act(&node, &id, "reset", json!({"key": key, "input": {"amount": 5}})).await;
    assert_eq!((&back["id"], &back["phase"]), (&json!(id), &json!("running")), "{back}");
    worker.run(1).await;
    let done = node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
    assert_eq!(done["output"], json!({"amount": 5}), "{done}");
    let entries = journal(&node, &id).await;
    let of = |part: &str| entries.iter().filter(|entry| entry.contains(part)).cloned().collect::<Vec<_>>();
    assert_eq!(of("/do/1/pay"), ["task /do/1/pay superseded", "task /do/1/pay done"], "{entries:?}");
    assert_eq!(of("/do/0/first"), ["set /do/0/first done"], "{entries:?}");
    assert!(entries[0].starts_with("run") && entries[0].ends_with("done"), "{entries:?}");
    // Page by page it is the same.
    let mut paged = Vec::new();
    let mut path = format!("/api/v1/runs/{id}/journal?limit=2");
    loop {
        let page = node.get(&path).await.is(200).json();
        for entry in page["items"].as_array().unwrap() {
            paged.push(format!("{} {} {}", entry["kind"], entry["statement"], entry["status"]).replace('"', ""));
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/runs/{id}/journal?limit=2&cursor={cursor}");
    }
    assert_eq!(paged, entries);
    let unknown = node.post(&format!("/api/v1/runs/{id}:reset"), r#"{"key":"/set:/do/9/x#0"}"#).await.is(409);
    assert!(unknown.json()["detail"].as_str().unwrap().contains("no key"), "{unknown:?}");
    node.post(&format!("/api/v1/runs/{id}:reset"), r#"{"key":""}"#).await.is(400);
    node.post(&format!("/api/v1/runs/{id}:reset"), "").await.is(400);
}

#[tokio::test]
async fn a_fork_is_another_run_with_the_same_past() {
    let node = Node::start().await;
    with_task(&node).await;
    let mut worker = node.worker(1);
    let id = start(&node, "order", json!({"amount": 1})).await;
    worker.run(1).await;
    let first = node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
    let key = key_of(&node, &id, "/do/1/pay").await;
    let body = json!({"key": key, "input": {"amount": 2}}).to_string();
    let made = node.post(&format!("/api/v1/runs/{id}:fork"), body).await.is(201);
    let fork = made.json();
    let forked = fork["id"].as_str().unwrap().to_owned();
    assert!(forked != id && made.header("location").ends_with(&forked));
    worker.run(1).await;
    let done = node.get(&format!("/api/v1/runs/{forked}?wait=10s")).await.is(200).json();
    assert_eq!(done["output"], json!({"amount": 2}), "{done}");
    assert_eq!(node.get(&format!("/api/v1/runs/{id}")).await.json()["output"], first["output"]);
    // Its tasks are its own; those before the fork are the other run's.
    let tasks = |page: Value| -> Vec<Value> {
        let entries = page["items"].as_array().unwrap().clone();
        entries.iter().filter(|entry| entry["kind"] == "task").map(|entry| entry["task"].clone()).collect()
    };
    let of_fork = tasks(node.get(&format!("/api/v1/runs/{forked}/journal")).await.json());
    let of_first = tasks(node.get(&format!("/api/v1/runs/{id}/journal")).await.json());
    assert_eq!((of_fork.len(), of_first.len()), (2, 1));
    assert_eq!(of_fork[0], of_first[0]);
    for task in of_fork {
        node.get(&format!("/api/v1/tasks/{}", task.as_str().unwrap())).await.is(200);
    }
}
