//! Routing: which queue and executor a task gets, and that each queue keeps its own pace.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tidewheel_engine::command::Hello;
use tidewheel_engine::serve::Serves;

use crate::node::Node;

async fn queues(node: &Node, names: &[&str]) {
    for name in names {
        node.call(Method::PUT, &format!("/api/v1/queues/{name}"), "{}").await.is(201);
    }
}

async fn set(node: &Node, rules: Value) -> Value {
    node.call(Method::PUT, "/api/v1/routing", json!({ "rules": rules }).to_string()).await.is(200).json()
}

async fn shown(node: &Node, id: &str) -> Value {
    node.get(&format!("/api/v1/tasks/{id}")).await.is(200).json()
}

#[tokio::test]
async fn without_rules_a_task_goes_to_default_and_is_automated() {
    let node = Node::start().await;
    let rules = node.get("/api/v1/routing").await.is(200);
    assert_eq!((rules.json(), rules.header("etag")), (json!({"rules": [], "version": 0}), "\"0\""));
    let created = node.post("/api/v1/tasks", r#"{"type":"a"}"#).await.is(201).json();
    assert_eq!((&created["queue"], &created["executor"]), (&json!("default"), &json!("automated")));
    let read = shown(&node, created["id"].as_str().unwrap()).await;
    assert!(read.get("rule").is_none() && created.get("rule").is_none());
}

#[tokio::test]
async fn tasks_land_where_type_priority_workflow_label_and_tenant_say() {
    let node = Node::start().await;
    queues(&node, &["pdf", "fast", "billing", "eu"]).await;
    let now = set(
        &node,
        json!([
            {"name": "urgent", "type": "pdf.*", "priority": ["high"], "queue": "fast", "executor": "gpu"},
            {"name": "pdf", "type": "pdf.*", "queue": "pdf"},
            {"name": "billing", "workflow": "billing-*", "queue": "billing"},
            {"name": "eu", "labels": {"region": "eu-*"}, "queue": "eu"},
            {"name": "rest", "priority": ["low"], "executor": "spare"},
        ]),
    )
    .await;
    assert_eq!(now["version"], 1);
    for (body, queue, executor, rule) in [
        (json!({"type": "pdf.a", "priority": 9}), "fast", "gpu", json!("urgent")),
        (json!({"type": "pdf.a"}), "pdf", "automated", json!("pdf")),
        (json!({"type": "pdf.a", "priority": "high", "queue": "eu"}), "eu", "gpu", json!("urgent")),
        (json!({"type": "b", "workflow_id": "billing-7"}), "billing", "automated", json!("billing")),
        (json!({"type": "b", "labels": {"region": "eu-west"}}), "eu", "automated", json!("eu")),
        (json!({"type": "b", "priority": "low"}), "default", "spare", json!("rest")),
        (json!({"type": "b"}), "default", "automated", Value::Null),
    ] {
        let created = node.post("/api/v1/tasks", body.to_string()).await.is(201).json();
        let read = shown(&node, created["id"].as_str().unwrap()).await;
        for answer in [&created, &read] {
            let found = (&answer["queue"], &answer["executor"], &answer["rule"]);
            assert_eq!(found, (&json!(queue), &json!(executor), &rule), "{body}");
        }
        let mut test = body.clone();
        test.as_object_mut().unwrap().remove("idempotency_key");
        let route = node.post("/api/v1/routing:test", test.to_string()).await.is(200).json();
        assert_eq!((&route["queue"], &route["executor"], &route["rule"]), (&json!(queue), &json!(executor), &rule));
    }
    // Rules are a tenant's own.
    node.call(Method::PUT, "/api/v1/tenants/acme", "{}").await.is(201);
    let request = node.request(Method::POST, "/api/v1/tasks", &node.admin).header("tidewheel-tenant", "acme");
    let other = node.send(request.body(r#"{"type":"pdf.a","priority":9}"#.into()).unwrap()).await.is(201).json();
    assert_eq!((&other["queue"], &other["executor"]), (&json!("default"), &json!("automated")));
}

#[tokio::test]
async fn wrong_rules_are_refused_with_their_place_and_change_nothing() {
    let node = Node::start().await;
    queues(&node, &["reports"]).await;
    set(&node, json!([{"name": "a", "queue": "reports"}])).await;
    let good = |extra: Value| {
        let mut rule = json!({"name": "x", "queue": "reports"});
        rule.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([{"name": "first", "queue": "reports"}, rule])
    };
    for (rules, pointer) in [
        (good(json!({"queue": "reprots"})), "/rules/1/queue"),
        (json!([{"name": "x"}]), "/rules/0/queue"),
        (good(json!({"name": "first"})), "/rules/1/name"),
        (good(json!({"name": "a b"})), "/rules/1/name"),
        (good(json!({"type": ""})), "/rules/1/type"),
        (good(json!({"priority": ["high", "urgent"]})), "/rules/1/priority/1"),
        (good(json!({"kind": "magic"})), "/rules/1/kind"),
        (good(json!({"executor": "a/b"})), "/rules/1/executor"),
        (good(json!({"workflow": "x".repeat(201)})), "/rules/1/workflow"),
        (good(json!({"labels": {"l": ""}})), "/rules/1/labels/l"),
        (good(json!({"tpye": "a"})), "/rules/1/tpye"),
        (Value::Array((0..257).map(|n| json!({"name": n.to_string(), "executor": "e"})).collect()), "/rules"),
    ] {
        let got = node.call(Method::PUT, "/api/v1/routing", json!({ "rules": rules }).to_string()).await.is(400);
        assert_eq!(got.json()["errors"][0]["pointer"], pointer, "{}", got.json());
    }
    let typo = node.call(Method::PUT, "/api/v1/routing", r#"{"rules":[{"name":"x","queue":"reprots"}]}"#).await;
    assert!(typo.json()["detail"].as_str().unwrap().contains("did you mean 'reports'?"));
    assert_eq!(node.get("/api/v1/routing").await.json()["rules"], json!([{"name": "a", "queue": "reports"}]));
    assert_eq!(node.call(Method::DELETE, "/api/v1/queues/reports", "").await.is(409).code(), "conflict");
    let stale = node.request(Method::PUT, "/api/v1/routing", &node.admin).header("if-match", "\"7\"");
    assert_eq!(node.send(stale.body(r#"{"rules":[]}"#.into()).unwrap()).await.is(412).code(), "precondition-failed");
    set(&node, json!([])).await;
    node.call(Method::DELETE, "/api/v1/queues/reports", "").await.is(204);
}

#[tokio::test]
async fn a_blocked_queue_delays_no_other_and_no_worker_gets_a_type_of_another_queue() {
    let node = Node::start().await;
    queues(&node, &["mail", "pdf", "urgent", "nightly"]).await;
    set(
        &node,
        json!([
            {"name": "urgent", "priority": ["high"], "queue": "urgent"},
            {"name": "nightly", "workflow": "nightly-*", "queue": "nightly"},
            {"name": "mail", "type": "mail.*", "queue": "mail"},
            {"name": "pdf", "type": "pdf.*", "queue": "pdf"},
        ]),
    )
    .await;
    // One of four channels is paused and full, another has nobody: the two left go on.
    node.post("/api/v1/queues/pdf:pause", "").await.is(200);
    for _ in 0..200 {
        node.submit(r#"{"type":"pdf.render"}"#).await;
        node.submit(r#"{"type":"x","workflow_id":"nightly-1"}"#).await;
    }
    let serving = |name: &str, queue: &str| Hello {
        name: name.into(),
        permits: 2,
        queues: vec![queue.into()],
        ..Hello::default()
    };
    let mut mailer = node.worker_with(serving("mailer", "mail"));
    let mut hurried = node.worker_with(serving("hurried", "urgent"));
    let mail = node.submit(r#"{"type":"mail.send"}"#).await;
    let urgent = node.submit(r#"{"type":"pdf.render","priority":"high"}"#).await;
    tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(mailer.run(1), hurried.run(1)) }).await.unwrap();
    for (id, worker) in [(mail, "mailer"), (urgent, "hurried")] {
        let task = node.get(&format!("/api/v1/tasks/{id}?wait=10s")).await.is(200).json();
        assert_eq!((&task["state"], &task["worker"]), (&json!("succeeded"), &json!(worker)));
    }
    let stats = |queue: &'static str| node.get_owned(format!("/api/v1/queues/{queue}/stats"));
    assert_eq!(stats("pdf").await["depth"], 200);
    assert_eq!(stats("nightly").await["depth"], 200);
}

#[tokio::test]
async fn an_executor_key_binds_a_task_to_the_workers_that_serve_it() {
    let node = Node::start().await;
    set(&node, json!([{"name": "heavy", "type": "train.*", "executor": "gpu"}])).await;
    let serves = Serves { executors: vec!["automated".into()], ..Serves::default() };
    let _plain = node.worker_with(Hello { name: "plain".into(), permits: 4, serves, ..Hello::default() });
    let id = node.submit(r#"{"type":"train.model"}"#).await;
    let why = node.get(&format!("/api/v1/tasks/{id}/why")).await.is(200).json();
    assert_eq!(why["reasons"][0]["code"], "missing-capability");
    assert!(why["summary"].as_str().unwrap().contains("serves executor gpu"), "{why}");
    assert!(why["summary"].as_str().unwrap().contains("rule heavy"), "{why}");
    let serves = Serves { executors: vec!["gpu".into()], ..Serves::default() };
    let mut gpu = node.worker_with(Hello { name: "gpu".into(), permits: 4, serves, ..Hello::default() });
    gpu.run(1).await;
    let workers = node.get("/api/v1/workers").await.is(200).json();
    let of = |name: &str| workers["items"].as_array().unwrap().iter().find(|w| w["name"] == name).unwrap().clone();
    assert_eq!(of("gpu")["serves"], json!({"executor": ["gpu"]}));
}

#[tokio::test]
async fn resources_are_shown_with_their_class() {
    let node = Node::start().await;
    const MB: u64 = 1 << 20;
    for (body, class, cpu, memory, iops) in [
        (json!({"type": "a"}), json!("default"), 1.0, 256 * MB, Value::Null),
        (json!({"type": "cpu-intensive"}), json!("cpu-intensive"), 2.0, 1_024 * MB, Value::Null),
        (json!({"type": "memory-intensive"}), json!("memory-intensive"), 1.0, 4_096 * MB, Value::Null),
        (json!({"type": "io-intensive"}), json!("io-intensive"), 1.0, 512 * MB, json!("high")),
        (
            json!({"type": "a", "resources": {"class": "io-intensive"}}),
            json!("io-intensive"),
            1.0,
            512 * MB,
            json!("high"),
        ),
        (
            json!({"type": "cpu-intensive", "resources": {"cpu": 4, "memory": "1Gi"}}),
            Value::Null,
            4.0,
            1_024 * MB,
            Value::Null,
        ),
        (
            json!({"type": "io-intensive", "resources": {"class": "io-intensive", "iops": "normal"}}),
            Value::Null,
            1.0,
            512 * MB,
            Value::Null,
        ),
    ] {
        let resources = shown(&node, &node.submit(&body.to_string()).await).await["resources"].clone();
        let found = (&resources["class"], &resources["cpu"], &resources["memory"], &resources["iops"]);
        assert_eq!(found, (&class, &json!(cpu), &json!(memory), &iops), "{body}");
    }
    let got = node.post("/api/v1/tasks", r#"{"type":"a","resources":{"iops":"much"}}"#).await.is(400);
    assert_eq!(got.json()["errors"][0]["pointer"], "/resources/iops");
}

#[tokio::test]
async fn placement_hints_are_checked_and_shown() {
    let node = Node::start().await;
    let id = node.submit(r#"{"type":"a","near":["set-1"],"expected_duration":"15m"}"#).await;
    let task = shown(&node, &id).await;
    assert_eq!((&task["near"], &task["expected_duration"]), (&json!(["set-1"]), &json!("15m")));
    for (body, pointer) in [
        (json!({"type": "a", "near": vec!["x"; 9]}), "/near"),
        (json!({"type": "a", "near": ["x", ""]}), "/near/1"),
        (json!({"type": "a", "expected_duration": "soon"}), "/expected_duration"),
        (json!({"type": "a", "expected_duration": 0}), "/expected_duration"),
    ] {
        let got = node.post("/api/v1/tasks", body.to_string()).await.is(400);
        assert_eq!(got.json()["errors"][0]["pointer"], pointer, "{body}");
    }
}

#[tokio::test]
async fn routing_is_measured() {
    let node = Node::start().await;
    node.submit(r#"{"type":"a"}"#).await;
    let metrics = node.get("/metrics").await.is(200);
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(text.contains("tidewheel_task_route_seconds_count 1"), "{text}");
}

#[tokio::test]
async fn a_text_above_the_bounds_of_a_task_was_compared_with_patterns_before_it_was_refused() {
    let node = Node::start().await;
    let stars = |count: usize| json!({"name": "deep", "workflow": "*a".repeat(count), "executor": "e"});
    let got = node.call(Method::PUT, "/api/v1/routing", json!({"rules": [stars(9)]}).to_string()).await.is(400).json();
    assert_eq!(got["errors"][0]["pointer"], "/rules/0/workflow");
    assert!(got["errors"][0]["detail"].as_str().unwrap().contains("rule 'deep' has more than 8 stars"), "{got}");
    for rules in [json!([]), json!([stars(8)])] {
        set(&node, rules).await;
        let many: serde_json::Map<String, Value> = (0..9).map(|n| (n.to_string(), json!("a"))).collect();
        for (body, pointer) in [
            (json!({"type": "a", "workflow_id": "a".repeat(300_000)}), "/workflow_id"),
            (json!({"type": "a", "labels": {"l": "a".repeat(300_000)}}), "/labels/l"),
            (json!({"type": "a", "labels": many}), "/labels"),
        ] {
            for path in ["/api/v1/tasks", "/api/v1/routing:test"] {
                let got = node.post(path, body.to_string()).await.is(400).json();
                assert_eq!(got["errors"][0]["pointer"], pointer, "{path} {got}");
            }
        }
    }
    let route = node.post("/api/v1/routing:test", json!({"type": "a", "workflow_id": "a".repeat(256)}).to_string());
    assert_eq!(route.await.is(200).json()["rule"], "deep");
}
