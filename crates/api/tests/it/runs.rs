//! Runs: started, waited for, acted on, listed.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::node::{Node, another_millisecond};
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

async fn why(node: &Node, id: &str) -> Value {
    node.get(&format!("/api/v1/runs/{id}/why")).await.is(200).json()
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

#[tokio::test]
async fn an_error_without_a_place_of_a_run_that_was_started_is_at_the_statement_that_waits_for_it() {
    let node = Node::start().await;
    let missing = "  - kid: {run: {workflow: {namespace: shop, name: nobody, version: latest}}}\n";
    deploy(&node, "lonely", missing).await;
    let ended = run(&node, "lonely", json!({})).await;
    assert_eq!(ended["error"]["instance"], "/do/0/kid", "{ended}");
    assert!(ended["error"]["detail"].as_str().unwrap().contains("shop/nobody"), "{ended}");
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
