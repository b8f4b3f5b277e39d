//! `POST /tasks` and everything that can be wrong with it.

use axum::body::Body;
use axum::http::Method;
use serde_json::json;

use crate::node::Node;

#[tokio::test]
async fn a_task_is_stored_and_shown() {
    let node = Node::start().await;
    let got =
        node.post("/api/tasks", r#"{"type":"noop","input":{"n":1},"labels":{"env":"prod"},"priority":"high"}"#).await;
    let got = got.is(201);
    let created = got.json();
    let id = created["id"].as_str().unwrap();
    assert_eq!(got.header("location"), format!("/api/v1/tasks/{id}"));
    assert!(!got.header("etag").is_empty() && !got.header("tidewheel-index").is_empty());
    assert!(got.header("x-request-id").starts_with("req_"));
    let shown = node.get(&format!("/api/v1/tasks/{id}")).await.is(200).json();
    assert_eq!(shown["input"], json!({"n": 1}));
    // What the create answered by hand is what a read answers.
    for field in
        ["id", "state", "type", "executor", "queue", "priority", "attempt", "max_attempts", "created_at", "labels"]
    {
        assert_eq!(created[field], shown[field], "{field}");
    }
    assert_eq!(shown["priority"], 8);
    let typed: tidewheel_proto::rest::Task = serde_json::from_slice(&got.body).unwrap();
    assert_eq!(typed.kind, "noop");
}

#[tokio::test]
async fn an_empty_body_shows_the_smallest_valid_one() {
    let node = Node::start().await;
    for body in ["", " ", "{}", r#"{"queue":"default"}"#] {
        let got = node.post("/api/tasks", body).await.is(400);
        assert_eq!(got.code(), "invalid-field");
        let problem = got.json();
        assert_eq!(problem["errors"][0]["pointer"], "/type", "{body}");
        assert_eq!(problem["instance"], "/api/tasks");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(r#"{"type":"builtin.noop"}"#) && detail.contains("curl"), "{detail}");
    }
    node.post("/api/tasks", r#"{"type":"builtin.noop"}"#).await.is(201);
}

#[tokio::test]
async fn bad_bodies_are_refused_with_their_place() {
    let node = Node::start().await;
    let deep = format!(r#"{{"type":"a","input":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    let long_type = format!(r#"{{"type":"{}"}}"#, "x".repeat(201));
    let nine: Vec<String> = (0..9).map(|i| format!(r#""l{i}":"v""#)).collect();
    let nine = format!(r#"{{"type":"a","labels":{{{}}}}}"#, nine.join(","));
    for (body, code, pointer) in [
        ("{", "malformed-body", ""),
        (&deep, "malformed-body", ""),
        (r#"{"type":"a","type":"b"}"#, "malformed-body", ""),
        (r#"{"type":"a","input":{"x":1,"x":2}}"#, "malformed-body", ""),
        (r#"{"type":""}"#, "invalid-field", "/type"),
        (&long_type, "invalid-field", "/type"),
        (r#"{"type":"a","priority":10}"#, "invalid-field", "/priority"),
        (r#"{"type":"a","priorty":1}"#, "invalid-field", "/priorty"),
        (r#"["a"]"#, "invalid-field", ""),
        (r#"{"type":"a","retry":[3]}"#, "invalid-field", "/retry"),
        (r#"{"type":"a","timeout":["1s"]}"#, "invalid-field", "/timeout"),
        (r#"{"type":"a","resources":[1]}"#, "invalid-field", "/resources"),
        (r#"{"type":"a","retry":"5"}"#, "invalid-field", "/retry"),
        (r#"{"type":"a","retry":{"max_attempt":3}}"#, "invalid-field", "/retry/max_attempt"),
        (r#"{"type":"a","labels":[1]}"#, "invalid-field", "/labels"),
        (r#"{"type":"a","delay":"soon"}"#, "invalid-field", "/delay"),
        (r#"{"type":"a","run_at":"tomorrow"}"#, "invalid-field", "/run_at"),
        (r#"{"type":"a","delay":"1s","run_at":"2030-01-01T00:00:00Z"}"#, "invalid-field", "/delay"),
        (r#"{"type":"a","retry":{"max_attempts":0}}"#, "invalid-field", "/retry/max_attempts"),
        (r#"{"type":"a","resources":{"memory":"much"}}"#, "invalid-field", "/resources/memory"),
        (r#"{"type":"a","resources":{"class":"huge"}}"#, "invalid-field", "/resources/class"),
        (r#"{"type":"a","key":""}"#, "invalid-field", "/key"),
        (r#"{"type":"a","queue":"../x"}"#, "invalid-field", "/queue"),
        (r#"{"type":"a","package":"nosuch"}"#, "invalid-field", "/package"),
        (r#"["a"]"#, "invalid-field", ""),
        (&nine, "invalid-field", "/labels"),
    ] {
        let got = node.post("/api/v1/tasks", body.to_owned()).await.is(400);
        assert_eq!(got.code(), code, "{body}");
        let found = got.json()["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned();
        assert_eq!(found, pointer, "{body}");
    }
    assert_eq!(node.get("/api/v1/tasks").await.json()["items"], json!([]));
}

#[tokio::test]
async fn an_unknown_queue_is_404_with_the_nearest_name() {
    let node = Node::start().await;
    let got = node.post("/api/v1/tasks", r#"{"type":"a","queue":"defualt"}"#).await.is(404);
    assert_eq!(got.code(), "unknown-queue");
    let detail = got.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("'defualt'") && detail.contains("'default'"), "{detail}");
}

#[tokio::test]
async fn oversized_and_foreign_bodies_are_refused() {
    let node = Node::start().await;
    let big = format!(r#"{{"type":"a","input":"{}"}}"#, "x".repeat(5 << 20));
    assert_eq!(node.post("/api/v1/tasks", big).await.is(413).code(), "too-large");
    let request = node.request(Method::POST, "/api/v1/tasks", &node.admin);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let got = node.send(request.body(Body::from(r#"{"type":"a"}"#)).unwrap()).await.is(415);
    assert_eq!(got.code(), "unsupported-media-type");
    let request = node.request(Method::POST, "/api/v1/runs", &node.admin).header("content-encoding", "gzip");
    let got = node.send(request.body(Body::from(r#"{"workflow":"a/b"}"#)).unwrap()).await.is(415);
    assert!(got.json()["detail"].as_str().unwrap().contains("gzip"), "{:?}", got.json());
    let got = node.post("/api/v1/runs/run_00000000000000000000000000:reset", "").await.is(400);
    assert!(got.json()["detail"].as_str().unwrap().contains("empty"), "{:?}", got.json());
    let got = node.post("/api/v1/tasks", vec![b'{', 0xFF, b'}']).await.is(400);
    assert_eq!(got.code(), "malformed-body");
}

#[tokio::test]
async fn a_large_input_is_a_blob_and_comes_back() {
    let node = Node::start().await;
    let input = "y".repeat(100_000);
    let id = node.submit(&format!(r#"{{"type":"a","input":"{input}"}}"#)).await;
    let shown = node.get(&format!("/api/v1/tasks/{id}")).await.json();
    let address = shown["input_ref"].as_str().unwrap();
    let got = node.get(&format!("/api/v1/blobs/{address}")).await.is(200);
    assert_eq!(got.body.len(), input.len() + 2);
}

#[tokio::test]
async fn the_same_key_gives_the_same_task() {
    let node = Node::start().await;
    let send = |body: &'static str, key: &'static str| {
        let request = node.request(Method::POST, "/api/v1/tasks", &node.admin).header("idempotency-key", key);
        node.send(request.body(Body::from(body)).unwrap())
    };
    let first = send(r#"{"type":"a"}"#, "k1").await.is(201).json();
    let again = send(r#"{"type":"a"}"#, "k1").await.is(200);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.json()["id"], first["id"]);
    assert_eq!(again.json()["replayed"], true);
    assert_eq!(send(r#"{"type":"b"}"#, "k1").await.is(409).code(), "idempotency-mismatch");
    // The field is the same key as the header.
    let field = node.post("/api/v1/tasks", r#"{"type":"a","idempotency_key":"k2"}"#).await.is(201).json();
    let again = node.post("/api/v1/tasks", r#"{"type":"a","idempotency_key":"k2"}"#).await.is(200).json();
    assert_eq!(field["id"], again["id"]);
    assert_eq!(send(r#"{"type":"a","idempotency_key":"other"}"#, "k3").await.is(400).code(), "invalid-field");
}

#[tokio::test]
async fn an_unknown_queue_is_pointed_at() {
    let node = Node::start().await;
    let got = node.post("/api/v1/tasks", r#"{"type":"a","queue":"defualt"}"#).await.is(404);
    assert_eq!(got.code(), "unknown-queue");
    let problem = got.json();
    assert_eq!(problem["errors"][0]["pointer"], "/queue", "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("Did you mean 'default'?"), "{problem}");
    let body = r#"{"tasks":[{"type":"a"},{"type":"a","queue":"nosuch"}]}"#;
    let answer = node.post("/api/v1/tasks:batch", body).await.is(200).json();
    assert_eq!(answer["items"][1]["problem"]["errors"][0]["pointer"], "/tasks/1/queue", "{answer}");
}

#[tokio::test]
async fn a_batch_without_its_frame_is_told_the_smallest_body() {
    let node = Node::start().await;
    for body in [r#"[{"type":"a"}]"#, "[]", "", r#"{}"#, r#"{"tasks":{"type":"a"}}"#, "7"] {
        let got = node.post("/api/v1/tasks:batch", body).await.is(400);
        assert_eq!(got.code(), "invalid-field", "{body}");
        let detail = got.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("an object with an array 'tasks'"), "{body}: {detail}");
        assert!(detail.contains(r#"{"tasks":[{"type":"builtin.noop"}]}"#), "{body}: {detail}");
    }
    assert_eq!(node.post("/api/v1/tasks:batch", "[1,").await.is(400).code(), "malformed-body");
    node.post("/api/v1/tasks:batch", r#"{"tasks":[{"type":"builtin.noop"}]}"#).await.is(200);
}

#[tokio::test]
async fn a_batch_answers_each_item() {
    let node = Node::start().await;
    let body = r#"{"tasks":[{"type":"a"},{"type":"b","priority":99},{"type":"c","queue":"nosuch"},{"type":"d"}]}"#;
    let answer = node.post("/api/v1/tasks:batch", body).await.is(200).json();
    assert_eq!((&answer["accepted"], &answer["refused"]), (&json!(2), &json!(2)));
    let statuses: Vec<_> = answer["items"].as_array().unwrap().iter().map(|i| i["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 400, 404, 201]);
    assert_eq!(answer["items"][1]["problem"]["errors"][0]["pointer"], "/tasks/1/priority");
    let many = vec![r#"{"type":"a"}"#; 1_001].join(",");
    assert_eq!(
        node.post("/api/v1/tasks:batch", format!(r#"{{"tasks":[{many}]}}"#)).await.is(400).code(),
        "invalid-field"
    );
}

#[tokio::test]
async fn a_wait_gives_the_result_or_202() {
    let node = Node::start().await;
    let got = node.post("/api/v1/tasks?wait=50ms", r#"{"type":"a"}"#).await.is(202);
    assert_eq!(got.json()["state"], "queued");
    let mut worker = node.worker(10);
    let (_, got) = tokio::join!(worker.run(2), node.post("/api/v1/tasks?wait=10s", r#"{"type":"a","input":[1,2]}"#));
    let task = got.is(200).json();
    assert_eq!(task["state"], "succeeded");
    assert_eq!(task["result"], json!([1, 2]));
    assert_eq!(node.post("/api/v1/tasks?wait=never", r#"{"type":"a"}"#).await.is(400).code(), "invalid-query");
    assert_eq!(node.post("/api/v1/tasks?wiat=1s", r#"{"type":"a"}"#).await.is(400).code(), "invalid-query");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_again() {
    let node = Node::start().await;
    node.call(Method::PUT, "/api/v1/queues/small", r#"{"max_depth":1}"#).await.is(201);
    let body = r#"{"type":"a","queue":"small"}"#;
    node.post("/api/v1/tasks", body).await.is(201);
    let got = node.post("/api/v1/tasks", body).await.is(503);
    assert_eq!(got.code(), "overloaded");
    let seconds: u32 = got.header("retry-after").parse().unwrap();
    assert!(seconds > 0);
    assert_eq!(got.header("ratelimit"), format!("\"default\";r=0;t={seconds}"));
}
