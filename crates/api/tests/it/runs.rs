//! Runs: what their statements do, what reaches them; below, how they begin, are acted on and are seen.

mod act;
mod begin;
mod see;

use serde_json::{Value, json};

use crate::node::Node;
use crate::workflows::{deploy, document};

/// Starts a run and waits for its end.
async fn run(node: &Node, name: &str, input: Value) -> Value {
    let body = json!({ "input": input }).to_string();
    node.post(&format!("/api/v1/workflows/shop/{name}/runs?wait=10s"), body).await.is(200).json()
}

/// Starts a run that does not end by itself, and gives its id.
async fn start(node: &Node, name: &str, input: Value) -> String {
    let body = json!({ "workflow": format!("shop/{name}"), "input": input }).to_string();
    let run = node.post("/api/v1/runs", body).await.is(201).json();
    run["id"].as_str().unwrap().to_owned()
}

async fn act(node: &Node, id: &str, action: &str, body: Value) -> Value {
    node.post(&format!("/api/v1/runs/{id}:{action}"), body.to_string()).await.is(200).json()
}

/// The journal as `kind name status`.
async fn journal(node: &Node, id: &str) -> Vec<String> {
    let page = node.get(&format!("/api/v1/runs/{id}/journal")).await.is(200).json();
    let one = |entry: &Value| format!("{} {} {}", entry["kind"], entry["statement"], entry["status"]).replace('"', "");
    page["items"].as_array().unwrap().iter().map(one).collect()
}

async fn key_of(node: &Node, id: &str, statement: &str) -> String {
    let page = node.get(&format!("/api/v1/runs/{id}/journal")).await.is(200).json();
    let found = page["items"].as_array().unwrap().iter().find(|entry| entry["statement"] == statement).cloned();
    found.unwrap_or_else(|| panic!("{statement} is not in {page}"))["key"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_run_sets_chooses_loops_and_branches_to_its_end() {
    let node = Node::start().await;
    let body = "  - total: {set: {items: '${ .items }', sum: '${ [.items[]] | add }'}}
  - size:
      switch:
        - large: {when: '${ .sum > 10 }', then: each}
        - other: {then: end}
  - each:
      for: {each: item, in: '${ .items }'}
      do:
        - double: {set: '${ $item * 2 }'}
  - both:
      fork:
        branches:
          - left: {set: {l: 1}}
          - right: {set: {r: 2}}
";
    deploy(&node, "steps", body).await;
    let done = run(&node, "steps", json!({"items": [3, 4, 5]})).await;
    assert_eq!(done["phase"], "completed", "{done}");
    assert_eq!(done["output"], json!([{"l": 1}, {"r": 2}]), "{done}");
    assert_eq!(done["input"], json!({"items": [3, 4, 5]}));
    assert!(done["ended_at"].is_string() && done["waiting"].is_null());
    let small = run(&node, "steps", json!({"items": [1]})).await;
    assert_eq!(small["output"], json!({"items": [1], "sum": 1}), "{small}");
    let entries = journal(&node, done["id"].as_str().unwrap()).await;
    assert!(entries.contains(&"set /do/0/total done".to_owned()), "{entries:?}");
    assert!(entries.iter().filter(|entry| entry.contains("double")).count() == 3, "{entries:?}");
    assert!(entries.iter().all(|entry| entry.ends_with("done")), "{entries:?}");
}

#[tokio::test]
async fn errors_are_caught_or_end_the_run() {
    let node = Node::start().await;
    let body = "  - careful:
      try:
        - fail: {raise: {error: {type: 'https://shop.example/late', status: 409, title: Late}}}
      catch:
        as: problem
        do:
          - note: {set: {caught: '${ $problem.title }'}}
";
    deploy(&node, "caught", body).await;
    assert_eq!(run(&node, "caught", json!({})).await["output"], json!({"caught": "Late"}));
    let body =
        "  - fail: {raise: {error: {type: 'https://shop.example/late', status: 409, title: Late, detail: too late}}}\n";
    deploy(&node, "fails", body).await;
    let faulted = run(&node, "fails", json!({})).await;
    assert_eq!(faulted["phase"], "faulted");
    assert_eq!((&faulted["error"]["detail"], &faulted["error"]["status"]), (&json!("too late"), &json!(409)));
    assert_eq!(faulted["error"]["instance"], "/do/0/fail");
    let id = faulted["id"].as_str().unwrap();
    let entries = journal(&node, id).await;
    assert!(entries.contains(&"raise /do/0/fail failed".to_owned()));
    assert!(entries.iter().all(|entry| !entry.ends_with("open")), "{entries:?}");
    // Input that does not fit is an error of the run, with its place.
    let text = "document: {dsl: '1.0.3', namespace: shop, name: strict, version: '1.0.0'}\ninput:\n  schema:\n    \
                document: {type: object, required: [id]}\ndo:\n  - a: {set: {x: 1}}\n";
    node.post("/api/v1/workflows", text).await.is(201);
    let faulted = run(&node, "strict", json!({})).await;
    assert!(faulted["error"]["type"].as_str().unwrap().ends_with("/validation"), "{faulted}");
}

#[tokio::test]
async fn a_wait_ends_by_its_time_and_shows_until_when() {
    let node = Node::start().await;
    deploy(&node, "brief", "  - pause: {wait: {milliseconds: 30}}\n  - done: {set: {ok: true}}\n").await;
    assert_eq!(run(&node, "brief", json!({})).await["output"], json!({"ok": true}));
    deploy(&node, "slow", "  - pause: {wait: {hours: 1}}\n").await;
    let id = start(&node, "slow", json!({})).await;
    let waiting = node.get(&format!("/api/v1/runs/{id}?wait=10ms")).await.is(200).json();
    assert_eq!(waiting["phase"], "waiting");
    let wait = &waiting["waiting"][0];
    assert_eq!((&wait["for"], &wait["statement"]), (&json!("time"), &json!("/do/0/pause")), "{waiting}");
    assert!(wait["until"].as_str().unwrap() > wait["since"].as_str().unwrap());
    let got = node.post("/api/v1/runs?wait=20ms", r#"{"workflow":"shop/slow"}"#).await.is(202).json();
    assert_eq!(got["phase"], "waiting", "a wait that runs out says where the run is");
}

#[tokio::test]
async fn a_task_of_a_run_is_done_by_a_worker() {
    let node = Node::start().await;
    let archive = crate::packages::archive(&[("a.py", "")]);
    let manifest = r#"{"format":"folder","entries":[{"name":"pay","fn":"a:pay"}]}"#;
    crate::packages::put(&node, "/api/v1/packages/shop/1.0.0", &archive, manifest).await.is(201);
    let body = "  - pay: {call: 'python:1.0.0@default', with: {package: shop, entrypoint: pay, args: {amount: '${ .amount }'}}}
  - note: {set: {paid: '${ .amount }'}}
";
    deploy(&node, "order", body).await;
    let id = start(&node, "order", json!({"amount": 7})).await;
    let seen = node.get(&format!("/api/v1/runs/{id}")).await.is(200).json();
    let wait = &seen["waiting"][0];
    assert_eq!((&wait["for"], &wait["statement"]), (&json!("task"), &json!("/do/0/pay")), "{seen}");
    let task = node.get(&format!("/api/v1/tasks/{}", wait["task"].as_str().unwrap())).await.is(200).json();
    assert_eq!((&task["type"], &task["input"]), (&json!("pay"), &json!({"amount": 7})), "{task}");
    assert_eq!(task["package_version"], "shop@1.0.0", "{task}");
    node.worker(1).run(1).await;
    let done = node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
    assert_eq!(done["output"], json!({"paid": 7}), "{done}");
    let entry = &node.get(&format!("/api/v1/runs/{id}/journal")).await.json()["items"];
    let entry = entry.as_array().unwrap().iter().find(|entry| entry["kind"] == "task").unwrap();
    assert_eq!((&entry["output"], &entry["task"]), (&json!({"amount": 7}), &wait["task"]), "{entry}");
}

#[tokio::test]
async fn a_version_of_a_package_is_pinned_at_the_deploy() {
    let node = Node::start().await;
    let manifest = r#"{"format":"folder","entries":[{"name":"pay","fn":"a:pay"}]}"#;
    let one = crate::packages::archive(&[("a.py", "1")]);
    crate::packages::put(&node, "/api/v1/packages/shop/1.0.0", &one, manifest).await.is(201);
    let body = "  - pay: {call: 'python:1.0.0@default', with: {package: shop, entrypoint: 'a:pay'}}\n";
    deploy(&node, "order", body).await;
    let two = crate::packages::archive(&[("a.py", "2")]);
    crate::packages::put(&node, "/api/v1/packages/shop/2.0.0", &two, manifest).await.is(201);
    let id = start(&node, "order", json!({})).await;
    let task = node.get(&format!("/api/v1/runs/{id}")).await.json()["waiting"][0]["task"].clone();
    let task = node.get(&format!("/api/v1/tasks/{}", task.as_str().unwrap())).await.is(200).json();
    assert_eq!(task["package_version"], "shop@1.0.0", "{task}");
    // A deploy from now on gets the new one.
    let later = document("order", "1.0.1", body);
    node.post("/api/v1/workflows", later).await.is(201);
    let id = start(&node, "order", json!({})).await;
    let task = node.get(&format!("/api/v1/runs/{id}")).await.json()["waiting"][0]["task"].clone();
    let task = node.get(&format!("/api/v1/tasks/{}", task.as_str().unwrap())).await.is(200).json();
    assert_eq!(task["package_version"], "shop@2.0.0", "{task}");
}

/// A package with one task, and a workflow of two statements that calls it in the second.
async fn with_task(node: &Node) {
    let archive = crate::packages::archive(&[("a.py", "")]);
    let manifest = r#"{"format":"folder","entries":[{"name":"pay","fn":"a:pay"}]}"#;
    crate::packages::put(node, "/api/v1/packages/shop/1.0.0", &archive, manifest).await.is(201);
    let body = "  - first: {set: '${ .  + {seen: true} }'}
  - pay: {call: 'python:1.0.0@default', with: {package: shop, entrypoint: pay, args: '${ . }'}}
";
    deploy(node, "order", body).await;
}

#[tokio::test]
async fn a_signal_reaches_a_listen_once() {
    let node = Node::start().await;
    let body = "  - paid: {listen: {to: {one: {with: {type: order.paid}}}}}\n  - note: {set: {got: '${ . }'}}\n";
    deploy(&node, "listens", body).await;
    let id = start(&node, "listens", json!({})).await;
    let seen = node.get(&format!("/api/v1/runs/{id}")).await.is(200).json();
    assert_eq!((&seen["phase"], &seen["waiting"][0]["for"]), (&json!("waiting"), &json!("event")), "{seen}");
    let signal = |kind: &str, body: &str| node.post_owned(format!("/api/v1/runs/{id}/signals/{kind}"), body.to_owned());
    signal("order.seen", "").await.is(200);
    assert_eq!(node.get(&format!("/api/v1/runs/{id}")).await.json()["phase"], "waiting");
    signal("order.paid", r#"{"id":"p1","data":{"amount":5}}"#).await.is(200);
    let done = node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
    assert_eq!(done["output"], json!({"got": [{"amount": 5}]}), "{done}");
    let late = signal("order.paid", r#"{"id":"p1"}"#).await.is(409);
    assert!(late.json()["detail"].as_str().unwrap().contains("ended"), "{late:?}");
}

#[tokio::test]
async fn the_type_of_a_signal_may_have_a_colon() {
    let node = Node::start().await;
    let signals = [
        ("order:paid", "order:paid"),
        ("order:paid", "order%3Apaid"),
        ("a:b:c", "a:b%3ac"),
        ("run:cancel", "run:cancel"),
        ("~done", "~done"),
        ("pay/now", "pay%2Fnow"),
    ];
    for (number, (kind, path)) in signals.into_iter().enumerate() {
        let body = format!("  - paid: {{listen: {{to: {{one: {{with: {{type: '{kind}'}}}}}}}}}}\n");
        let name = format!("listens-{number}");
        deploy(&node, &name, &body).await;
        let id = start(&node, &name, json!({})).await;
        node.post(&format!("/api/v1/runs/{id}/signals/{path}"), r#"{"data":5}"#).await.is(200);
        let done = node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
        assert_eq!((&done["phase"], &done["output"]), (&json!("completed"), &json!([5])), "{kind} {done}");
    }
    // Actions of runs are what they were, and an inner form is still no address.
    let run = "/api/v1/runs/run_00000000000000000000000000";
    node.post(&format!("{run}:cancel"), "").await.is(404);
    assert!(node.post(&format!("{run}/~cancel"), "").await.is(404).json()["detail"].as_str().unwrap().contains("path"));
}

async fn why(node: &Node, id: &str) -> Value {
    node.get(&format!("/api/v1/runs/{id}/why")).await.is(200).json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_loops_without_waiting_keeps_nobody_else_waiting() {
    let node = Node::start().await;
    deploy(&node, "loops", "  - a: {set: {x: 1}}\n  - b: {set: {x: 2}, then: a}\n").await;
    let id = start(&node, "loops", json!({})).await;
    // Were they held back, they would be answered when the run has used up what it may do.
    for _ in 0..3 {
        node.submit(r#"{"type":"a"}"#).await;
    }
    let run = node.get(&format!("/api/v1/runs/{id}")).await.is(200).json();
    assert_eq!(run["phase"], "running", "{run}");
    act(&node, &id, "terminate", json!({})).await;
    let ended = node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
    assert_eq!(ended["phase"], "cancelled", "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_is_completed_by_its_name() {
    let node = Node::start().await;
    let statements = "  - heard:\n      listen: {to: {one: {with: {type: 'promise:paid'}}}}\n";
    deploy(&node, "promised", statements).await;
    let id = start(&node, "promised", json!({})).await;
    node.post(&format!("/api/v1/runs/{id}/promises/paid"), r#"{"data": {"by": "ann"}}"#).await.is(200);
    let ended = node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
    assert_eq!((&ended["phase"], &ended["output"][0]["by"]), (&json!("completed"), &json!("ann")), "{ended}");
}
