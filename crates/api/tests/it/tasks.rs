//! Reading and changing tasks.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::node::Node;

/// Ids of a page, in the order of the page.
fn ids(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|t| t["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_walk_the_whole_list_and_cursors_are_bound_to_it() {
    let node = Node::start().await;
    let mut all = Vec::new();
    for i in 0..7 {
        all.push(node.submit(&format!(r#"{{"type":"t{}"}}"#, i % 2)).await);
    }
    // Within one millisecond the order is that of the ids.
    all.sort_by(|a, b| b.cmp(a));
    let mut seen = Vec::new();
    let mut path = "/api/v1/tasks?limit=3".to_owned();
    loop {
        let got = node.get(&path).await.is(200);
        let page = got.json();
        seen.extend(ids(&page));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        assert!(got.header("link").contains(cursor));
        path = format!("/api/v1/tasks?limit=3&cursor={cursor}");
    }
    assert_eq!(seen, all);
    let cursor = node.get("/api/v1/tasks?limit=3").await.json()["next_cursor"].as_str().unwrap().to_owned();
    let foreign = node.get(&format!("/api/v1/tasks?limit=3&filter=type:t0&cursor={cursor}")).await.is(400);
    assert_eq!(foreign.code(), "invalid-query");
    assert_eq!(node.get("/api/v1/tasks?cursor=broken").await.is(400).code(), "invalid-query");
    let by_type = node.get("/api/v1/tasks?filter=type:t0&fields=id").await.json();
    assert_eq!(by_type["items"].as_array().unwrap().len(), 4);
    assert_eq!(by_type["items"][0].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn a_task_shows_everything_that_was_asked_for() {
    let node = Node::start().await;
    let archive = crate::packages::archive(&[("a.py", "")]);
    let manifest = r#"{"format":"folder","entries":[{"name":"a","fn":"a:b"}]}"#;
    let package = crate::packages::put(&node, "/api/v1/packages/p/0.4.0", &archive, manifest).await.is(201).json();
    let asked = json!({
        "ttl": "1h", "timeout": {"queue": "10m", "start": "30s", "run": "1m30s", "heartbeat": "5s"},
        "retry": {"max_attempts": 7, "delay": "2s", "backoff": "exponential", "factor": 3.0, "max_delay": "1m",
                  "jitter": "500ms", "on": ["IOError"], "not_on": ["ValueError"]},
        "key": "k", "concurrency_key": "ck", "concurrency_limit": 3, "affinity_key": "ak", "requires": {"gpu": "true"},
        "resources": {"cpu": 1.5, "memory": 512_000_000}, "batchable": true, "labels": {"env": "test"},
        "correlation_id": "c", "workflow_id": "w", "idempotency_key": "ik", "priority": 7,
    });
    let mut body = asked.clone();
    body["type"] = json!("a");
    body["package"] = json!("p@0.4.0");
    let path = format!("/api/v1/tasks/{}", node.submit(&body.to_string()).await);
    let shown = node.get(&path).await.is(200).json();
    for (name, value) in asked.as_object().unwrap() {
        assert_eq!(shown[name], *value, "{name} in {shown}");
    }
    assert_eq!((&shown["package"], &shown["package_version"]), (&package["hash"], &json!("p@0.4.0")));
    let plain = node.get(&format!("/api/v1/tasks/{}", node.submit(r#"{"type":"b"}"#).await)).await.is(200).json();
    for name in ["ttl", "timeout", "retry", "affinity_key", "requires", "batchable", "package"] {
        assert!(plain.get(name).is_none(), "{name} in {plain}");
    }
}

#[tokio::test]
async fn tasks_are_found_by_the_name_and_version_of_their_package() {
    let node = Node::start().await;
    let manifest = r#"{"format":"folder","entries":[{"name":"a","fn":"a:b"}]}"#;
    let mut tasks = Vec::new();
    let mut hashes = Vec::new();
    for (name, version) in [("hello", "0.4.0"), ("hello", "0.5.0"), ("hello-world", "0.4.0"), ("other", "0.4.0")] {
        let archive = crate::packages::archive(&[("a.py", &format!("{name} {version}"))]);
        let path = format!("/api/v1/packages/{name}/{version}");
        let package = crate::packages::put(&node, &path, &archive, manifest).await.is(201).json();
        hashes.push(package["hash"].as_str().unwrap().to_owned());
        tasks.push(node.submit(&format!(r#"{{"type":"a","package":"{name}@{version}"}}"#)).await);
    }
    let none = node.submit(r#"{"type":"unpackaged"}"#).await;
    let [four, five, world, other] = tasks.try_into().unwrap();
    let bare = hashes[1].trim_start_matches("sha256:");
    for (filter, wanted) in [
        ("package:hello".to_owned(), vec![&four, &five]),
        ("package:hello@0.4.0".to_owned(), vec![&four]),
        ("package:hello*".to_owned(), vec![&four, &five, &world]),
        ("package:hello@0.*".to_owned(), vec![&four, &five]),
        ("package:hello@0.5.0,other".to_owned(), vec![&five, &other]),
        ("-package:hello".to_owned(), vec![&world, &other, &none]),
        ("package:nosuch".to_owned(), vec![]),
        ("package:hello@9".to_owned(), vec![]),
        ("package:*".to_owned(), vec![&four, &five, &world, &other]),
        (format!("package:\"{}\"", hashes[0]), vec![&four]),
        (format!("package:{bare}"), vec![&five]),
    ] {
        let path = format!("/api/v1/tasks?filter={}", filter.replace('"', "%22"));
        let mut wanted: Vec<String> = wanted.into_iter().cloned().collect();
        wanted.sort_by(|a, b| b.cmp(a));
        assert_eq!(ids(&node.get(&path).await.is(200).json()), wanted, "{filter}");
    }
}

#[tokio::test]
async fn filters_find_what_they_say() {
    let node = Node::start().await;
    let red = node.submit(r#"{"type":"pdf","labels":{"colour":"red"},"priority":9,"key":"k"}"#).await;
    let blue = node.submit(r#"{"type":"pdf.big","labels":{"colour":"blue"},"correlation_id":"c1"}"#).await;
    let later = node.submit(r#"{"type":"mail","delay":"1h"}"#).await;
    for (filter, wanted) in [
        ("label.colour:red", vec![&red]),
        ("label.colour:red,blue", vec![&blue, &red]),
        ("-label.colour:red", vec![&later, &blue]),
        ("label.colour:*", vec![&blue, &red]),
        ("type:pdf*", vec![&blue, &red]),
        ("type:pdf", vec![&red]),
        ("-type:pdf", vec![&later, &blue]),
        ("type:nosuch", vec![]),
        ("state:scheduled", vec![&later]),
        ("-state:scheduled priority:>5", vec![&red]),
        ("priority:high", vec![]),
        ("priority:8..9", vec![&red]),
        ("correlation:c1", vec![&blue]),
        ("key:k", vec![&red]),
        ("attempts:0 after:1h", vec![&later, &blue, &red]),
        ("before:1h", vec![]),
        ("created:today", vec![&later, &blue, &red]),
        ("due:*", vec![&later]),
        ("queue:default kind:automated", vec![&later, &blue, &red]),
        ("queue:nosuch", vec![]),
    ] {
        let path = format!("/api/v1/tasks?filter={}", filter.replace(' ', "%20").replace('>', "%3E"));
        let mut wanted: Vec<String> = wanted.into_iter().cloned().collect();
        wanted.sort_by(|a, b| b.cmp(a));
        assert_eq!(ids(&node.get(&path).await.is(200).json()), wanted, "{filter}");
    }
    let got = node.get(&format!("/api/v1/tasks?filter=id:{red}")).await.is(200);
    assert_eq!(ids(&got.json()), [red]);
    let got = node.get("/api/v1/tasks?filter=stat:queued").await.is(400);
    let detail = got.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("position 1") && detail.contains("did you mean 'state'?"), "{detail}");
    let got = node.get("/api/v1/tasks?filter=state:quued").await.is(400);
    assert!(got.json()["detail"].as_str().unwrap().contains("'queued'"));
}

#[tokio::test]
async fn a_task_is_cancelled_retried_and_reprioritised() {
    let node = Node::start().await;
    let id = node.submit(r#"{"type":"a"}"#).await;
    let path = format!("/api/v1/tasks/{id}");
    let got = node.post(&format!("{path}:reprioritise"), r#"{"priority":"low"}"#).await.is(200);
    assert_eq!(got.json()["priority"], 2);
    let got = node.post(&format!("{path}:cancel"), r#"{"reason":"not needed"}"#).await.is(200);
    assert_eq!(got.json()["state"], "cancelled");
    let shown = node.get(&path).await.is(200).json();
    assert!(shown["error"]["message"].as_str().unwrap().contains("not needed"), "{shown}");
    let got = node.post(&format!("{path}:retry"), Body::empty()).await.is(200);
    assert_eq!(got.json()["state"], "queued");
    assert_eq!(node.post(&format!("{path}:explode"), Body::empty()).await.is(404).code(), "not-found");
    assert_eq!(node.get(&format!("{path}/~cancel")).await.is(404).code(), "not-found");
    let mut worker = node.worker(1);
    worker.run(1).await;
    let got = node.get(&format!("{path}/result?wait=5s")).await.is(200);
    assert_eq!(got.json(), Value::Null);
    assert_eq!(node.post(&format!("{path}:retry"), Body::empty()).await.is(409).code(), "conflict");
}

#[tokio::test]
async fn patch_checks_the_version_it_was_based_on() {
    let node = Node::start().await;
    let id = node.submit(r#"{"type":"a","delay":"1h"}"#).await;
    let path = format!("/api/v1/tasks/{id}");
    let etag = node.get(&path).await.header("etag").to_owned();
    let patch = |tag: String, body: &'static str| {
        let request = node.request(Method::PATCH, &path, &node.admin).header("if-match", tag);
        node.send(request.body(Body::from(body)).unwrap())
    };
    assert_eq!(patch("\"other\"".to_owned(), r#"{"priority":1}"#).await.is(412).code(), "precondition-failed");
    let got = patch(etag, r#"{"priority":1,"labels":{"a":"b"}}"#).await.is(200);
    assert_eq!((&got.json()["priority"], &got.json()["labels"]), (&json!(1), &json!({"a": "b"})));
    assert_eq!(node.call(Method::PATCH, &path, "{}").await.is(400).code(), "invalid-field");
    let request = node.request(Method::GET, &path, &node.admin);
    let etag = node.get(&path).await.header("etag").to_owned();
    node.send(request.header("if-none-match", etag).body(Body::empty()).unwrap()).await.is(304);
}

#[tokio::test]
async fn results_attempts_and_reasons() {
    let node = Node::start().await;
    let waiting = node.submit(r#"{"type":"a"}"#).await;
    let why = node.get(&format!("/api/v1/tasks/{waiting}/why")).await.is(200).json();
    assert!(!why["summary"].as_str().unwrap().is_empty());
    assert!(!why["reasons"].as_array().unwrap().is_empty(), "{why}");
    node.get(&format!("/api/v1/tasks/{waiting}/result")).await.is(202);
    let failing = node.submit(r#"{"type":"a","input":{"fail":true}}"#).await;
    let mut worker = node.worker(10);
    worker.run(2).await;
    node.get(&format!("/api/v1/tasks/{waiting}/result?wait=5s")).await.is(200);
    let got = node.get(&format!("/api/v1/tasks/{failing}/result?wait=5s")).await.is(409);
    assert!(got.json()["detail"].as_str().unwrap().contains("ValueError"));
    let attempts = node.get(&format!("/api/v1/tasks/{failing}/attempts")).await.is(200).json();
    assert_eq!(attempts["items"][0]["outcome"], "failed", "{attempts}");
    assert_eq!(attempts["items"][0]["worker"], "inner");
    let counts = node.get("/api/v1/tasks/counts").await.is(200).json();
    assert_eq!((&counts["counts"]["succeeded"], &counts["counts"]["failed"]), (&json!(1), &json!(1)), "{counts}");
    assert_eq!(ids(&node.get("/api/v1/tasks?filter=error:ValueError").await.json()), std::slice::from_ref(&failing));
    assert_eq!(ids(&node.get("/api/v1/tasks?filter=worker:inner%20-state:failed").await.json()), [waiting]);
    assert_eq!(ids(&node.get("/api/v1/tasks?filter=%22TOLD%20to%22").await.json()), [failing]);
}

#[tokio::test]
async fn a_task_that_no_worker_can_run_says_what_is_missing() {
    use tidewheel_engine::command::Hello;
    let node = Node::start().await;
    let hello = |name: &str, types: &[&str]| Hello {
        name: name.into(),
        permits: 1,
        types: types.iter().map(|t| (*t).into()).collect(),
        labels: vec![("zone".into(), name.into())],
        resources: tidewheel_engine::task::Resources { cpu_millis: 4_000, memory_bytes: 1 << 30 },
        ..Hello::default()
    };
    let _workers = [node.worker_with(hello("a", &["shell"])), node.worker_with(hello("b", &["mail"]))];
    for (body, text) in [
        (
            json!({"requires": {"gpu": true}}),
            "no worker of queue default has label gpu=true; 1 worker offers type shell",
        ),
        (
            json!({"requires": {"gpu": true, "disk": "ssd", "zone": "a"}}),
            "no worker of queue default has label disk=ssd; no worker of queue default has label gpu=true; \
             1 worker offers type shell",
        ),
        (
            json!({"resources": {"cpu": 8, "memory": "2Gi"}}),
            "no worker of queue default has 8.0 cores, the most is 4.0; no worker of queue default has 2048 MiB of \
             memory, the most is 1024 MiB; 1 worker offers type shell",
        ),
        (
            json!({"requires": {"zone": "b"}}),
            "no single worker of queue default has all that it asks for: type shell, label zone=b; \
             1 worker offers type shell",
        ),
        (json!({"type": "pdf"}), "no package brings type pdf, and no worker of queue default offers it by itself"),
    ] {
        let mut task = json!({"type": "shell"});
        task.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let id = node.submit(&task.to_string()).await;
        let why = node.get(&format!("/api/v1/tasks/{id}/why")).await.is(200).json();
        assert_eq!(why["reasons"][0]["code"], "missing-capability", "{why}");
        let found = why["reasons"][0]["text"].as_str().unwrap();
        assert!(found.starts_with(text), "{found}");
        let task = node.get(&format!("/api/v1/tasks/{id}")).await.json();
        assert_eq!(why["since"], task["updated_at"]);
    }
    let later = node.submit(r#"{"type":"a","delay":"1h"}"#).await;
    let why = node.get(&format!("/api/v1/tasks/{later}/why")).await.json();
    assert_eq!((&why["reasons"][0]["code"], &why["reasons"][0]["since"]), (&json!("not-due"), &why["since"]));
}

#[tokio::test]
async fn unknown_tasks_and_paths_are_uniform() {
    let node = Node::start().await;
    let gone = "task_00000000000000000000000000";
    for path in [gone, "nonsense", "..%2f..%2fetc", "run_00000000000000000000000000"] {
        for part in ["", "/result", "/why", "/attempts", "/logs", "/artifacts", "/events"] {
            let got = node.get(&format!("/api/v1/tasks/{path}{part}")).await.is(404);
            assert_eq!(got.code(), "not-found", "{path}{part}");
        }
    }
    assert_eq!(node.get("/api/v1/nothing").await.is(404).code(), "not-found");
    assert_eq!(node.get("/nothing").await.is(404).code(), "not-found");
    let got = node.call(Method::DELETE, "/api/v1/tasks", Body::empty()).await.is(405);
    assert_eq!(got.code(), "method-not-allowed");
    assert!(got.header("allow").contains("GET"), "{:?}", got.headers);
}

#[tokio::test]
async fn a_broken_parameter_of_any_path_or_query_is_a_problem() {
    let node = Node::start().await;
    let document: Value = serde_json::from_str(&tidewheel_api::openapi_json("0")).unwrap();
    let mut broken = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            if path.contains('{') {
                let text = path.split('{').map(|part| part.split_once('}').map_or(part, |(_, rest)| rest));
                let got = node.call(method.clone(), &text.collect::<Vec<_>>().join("%ff"), Body::empty()).await;
                assert_eq!((got.is(404).code(), broken), ("not-found".to_owned(), broken), "{method} {path}");
                broken += 1;
            }
            let parameters = methods[method.as_str().to_lowercase()]["parameters"].as_array();
            if parameters.is_some_and(|all| all.iter().any(|p| p["in"] == "query")) {
                let named = path.replace(['{', '}'], "");
                let got = node.call(method.clone(), &format!("{named}?limit=%ff"), "{}").await;
                assert!(got.status == 400 || got.status == 404, "{method} {path}: {got:?}");
                got.code();
            }
        }
    }
    assert!(broken > 30, "{broken}");
}

#[tokio::test]
async fn bulk_actions_are_operations() {
    let node = Node::start().await;
    for _ in 0..600 {
        node.submit(r#"{"type":"bulk"}"#).await;
    }
    let keep = node.submit(r#"{"type":"keep"}"#).await;
    assert_eq!(node.post("/api/v1/tasks:cancel", r#"{"filter":""}"#).await.is(400).code(), "invalid-field");
    let dry = node.post("/api/v1/tasks:cancel", r#"{"filter":"type:bulk","dry_run":true}"#).await.is(202);
    let dry = finished(&node, dry.header("location")).await;
    assert_eq!((&dry["seen"], &dry["would_change"]), (&json!(600), &json!(600)));
    let got = node.post("/api/v1/tasks:cancel", r#"{"filter":"type:bulk state:queued","reason":"test"}"#).await.is(202);
    let done = finished(&node, got.header("location")).await;
    assert_eq!((&done["done"], &done["failed"], &done["state"]), (&json!(600), &json!(0), &json!("done")));
    let counts = node.get("/api/v1/tasks/counts").await.json();
    assert_eq!((&counts["counts"]["cancelled"], &counts["counts"]["queued"]), (&json!(600), &json!(1)));
    assert_eq!(node.get(&format!("/api/v1/tasks/{keep}")).await.json()["state"], "queued");
    let got = node.post("/api/v1/tasks:retry", r#"{"filter":"type:bulk state:cancelled","max":5}"#).await.is(202);
    assert_eq!(finished(&node, got.header("location")).await["done"], 5);
    assert_eq!(node.get("/api/v1/operations").await.json()["items"].as_array().unwrap().len(), 3);
}

/// A background operation, once it is over.
pub(crate) async fn finished(node: &Node, location: &str) -> Value {
    let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let operation = node.get(location).await.is(200).json();
        if operation["state"] != "running" {
            return operation;
        }
        assert!(tokio::time::Instant::now() < patience, "it does not end: {operation}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_reader_waits_for_the_commit_it_names() {
    let node = Node::start().await;
    let index: u64 = node.post("/api/v1/tasks", r#"{"type":"a"}"#).await.header("tidewheel-index").parse().unwrap();
    let send = |index: String| {
        let request = node.request(Method::GET, "/api/v1/tasks", &node.admin).header("tidewheel-index", index);
        node.send(request.body(Body::empty()).unwrap())
    };
    send(index.to_string()).await.is(200);
    let (got, _) = tokio::join!(send((index + 1).to_string()), node.post("/api/v1/tasks", r#"{"type":"a"}"#));
    assert!(got.is(200).json()["as_of"].as_u64().unwrap() > index);
    assert_eq!(send("x".to_owned()).await.is(400).code(), "invalid-query");
}

#[tokio::test]
async fn an_operation_goes_on_after_a_restart() {
    let node = Node::start().await;
    for _ in 0..3 {
        node.submit(r#"{"type":"a"}"#).await;
    }
    let tenant = node.runtime.directory().tenant("default").unwrap().id;
    let key = "op_00000000000000000000000001";
    let value =
        r#"{"action":"cancel","state":"running","filter":"type:a","by":"x","seen":0,"done":0,"failed":0,"created":1}"#;
    let put = |request| tidewheel_engine::Command::PutRecord {
        request,
        kind: tidewheel_engine::mutation::RecordKind::Operation,
        tenant,
        key: key.into(),
        value: Some(value.into()),
        expected: None,
    };
    node.runtime.call(put).await.unwrap();
    let again = tidewheel_api::router(node.runtime.clone(), tidewheel_api::ApiConfig::default());
    drop(again);
    let done = finished(&node, &format!("/api/v1/operations/{key}")).await;
    assert_eq!((&done["state"], &done["done"]), (&json!("done"), &json!(3)));
    assert_eq!(node.post(&format!("/api/v1/operations/{key}:cancel"), Body::empty()).await.is(409).code(), "conflict");
}

#[tokio::test]
async fn answers_are_compressed_when_asked() {
    let node = Node::start().await;
    for _ in 0..20 {
        node.submit(r#"{"type":"a"}"#).await;
    }
    for encoding in ["gzip", "zstd", "br"] {
        let request = node.request(Method::GET, "/api/v1/tasks", &node.admin).header("accept-encoding", encoding);
        let got = node.send(request.body(Body::empty()).unwrap()).await.is(200);
        assert_eq!(got.header("content-encoding"), encoding);
    }
    // A problem is written after the compression and stays readable.
    let request = node.request(Method::GET, "/api/v1/tasks/x", &node.admin).header("accept-encoding", "gzip");
    assert_eq!(node.send(request.body(Body::empty()).unwrap()).await.is(404).code(), "not-found");
}

#[tokio::test]
async fn a_given_request_id_comes_back_and_a_bad_one_does_not() {
    let node = Node::start().await;
    for (given, kept) in [("abc-1", true), ("a b", false), (&*"x".repeat(200), false)] {
        let request = node.request(Method::GET, "/api/v1/whoami", &node.admin).header("x-request-id", given);
        let got = node.send(request.body(Body::empty()).unwrap()).await.is(200);
        assert_eq!(got.header("x-request-id") == given, kept, "{given}");
    }
}

#[tokio::test]
async fn of_two_changes_that_saw_the_same_version_one_holds() {
    let node = Node::start().await;
    let id = node.submit(r#"{"type":"a"}"#).await;
    let path = format!("/api/v1/tasks/{id}");
    let etag = node.get(&path).await.header("etag").to_owned();
    let change = |priority: u8, tag: &str| {
        let request = node.request(Method::PATCH, &path, &node.admin).header("if-match", tag);
        node.send(request.body(Body::from(format!(r#"{{"priority":{priority}}}"#))).unwrap())
    };
    let both = tokio::join!(change(1, &etag), change(9, &etag));
    let mut statuses = [both.0.status, both.1.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412], "{both:?}");
    let newest = node.get(&path).await.header("etag").to_owned();
    assert_ne!(newest, etag);
    change(2, &format!("\"0-0-0\", W/{newest}")).await.is(200);
    for wrong in ["\"never\"", "x", "\"1-2\"", "\"1-0-77\""] {
        assert_eq!(change(3, wrong).await.is(412).code(), "precondition-failed", "{wrong}");
    }
    change(4, "*").await.is(200);
    assert_eq!(node.get(&path).await.json()["priority"], 4);
}

#[tokio::test]
async fn changed_labels_are_stored() {
    let node = Node::start().await;
    let id = node.submit(r#"{"type":"a","labels":{"env":"test","team":"x"}}"#).await;
    let path = format!("/api/v1/tasks/{id}");
    let got = node.call(Method::PATCH, &path, r#"{"labels":{"env":"prod"}}"#).await.is(200);
    let shown = node.get(&path).await;
    assert_eq!(shown.json()["labels"], json!({"env": "prod"}));
    assert_eq!(shown.header("etag"), got.header("etag"));
    for (filter, found) in [("label.env:prod", 1), ("label.env:test", 0), ("label.team:x", 0)] {
        let page = node.get(&format!("/api/v1/tasks?filter={filter}")).await.is(200).json();
        assert_eq!(ids(&page).len(), found, "{filter}");
    }
}

#[tokio::test]
async fn a_running_task_takes_a_priority_for_its_next_attempt() {
    let node = Node::start().await;
    let id = node.submit(r#"{"type":"a","retry":{"max_attempts":2,"delay":"1ms"}}"#).await;
    let mut worker = node.worker(1);
    worker.take().await;
    let got = node.post(&format!("/api/v1/tasks/{id}:reprioritise"), r#"{"priority":9}"#).await.is(200).json();
    assert_eq!((&got["state"], &got["priority"]), (&"running".into(), &9.into()));
    let late = node.call(Method::PATCH, &format!("/api/v1/tasks/{id}"), r#"{"run_at":"2100-01-01T00:00:00Z"}"#).await;
    assert_eq!(late.is(409).code(), "conflict");
    assert_eq!(node.get(&format!("/api/v1/tasks/{id}")).await.json()["priority"], 9);
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let node = Node::start().await;
    for _ in 0..3 {
        node.submit(r#"{"type":"a"}"#).await;
    }
    let ended = node.submit(r#"{"type":"a"}"#).await;
    node.post(&format!("/api/v1/tasks/{ended}:cancel"), Body::empty()).await.is(200);
    for (action, wanted) in [("cancel", 3), ("retry", 1)] {
        let path = format!("/api/v1/tasks:{action}");
        let got = node.post(&path, r#"{"filter":"type:a","dry_run":true}"#).await.is(202);
        let operation = finished(&node, got.header("location")).await;
        assert_eq!(operation["would_change"], wanted, "{operation}");
        assert_eq!((&operation["seen"], &operation["done"]), (&4.into(), &0.into()), "{operation}");
    }
    let counts = node.get("/api/v1/tasks/counts").await.json();
    assert_eq!((&counts["counts"]["queued"], &counts["counts"]["cancelled"]), (&3.into(), &1.into()));
}
