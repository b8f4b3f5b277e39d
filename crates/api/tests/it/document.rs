//! The OpenAPI document: it says of bodies and answers what they are.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use tidewheel_engine::command::Hello;

use crate::node::Node;
use crate::packages::{archive, put};
use crate::workflows::{deploy, document as workflow};

/// The served document.
struct Document(Value);

impl Document {
    async fn of(node: &Node) -> Document {
        Document(node.get("/openapi.json").await.is(200).json())
    }

    /// What is wrong with a value, held against a schema of the document.
    fn errors(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut whole = schema.clone();
        whole["components"] = self.0["components"].clone();
        let schema = jsonschema::options().with_draft(jsonschema::Draft::Draft202012).build(&whole).unwrap();
        schema.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    fn operation(&self, method: &str, path: &str) -> &Value {
        let operation = &self.0["paths"][format!("/api/v1{path}")][method];
        assert!(operation.is_object(), "{method} {path} is not in the document");
        operation
    }

    /// Holds an answer against what the document says of it.
    fn answers(&self, method: &str, path: &str, status: u16, body: &Value) {
        let content = &self.operation(method, path)["responses"][status.to_string()]["content"]["application/json"];
        let errors = self.errors(&content["schema"], body);
        assert!(errors.is_empty(), "{method} {path}: {errors:?} in {body}");
    }

    /// Holds a body that is taken against what the document says of it.
    fn takes(&self, path: &str, body: &Value) {
        let content = &self.operation("post", path)["requestBody"]["content"]["application/json"];
        let errors = self.errors(&content["schema"], body);
        assert!(errors.is_empty(), "{path}: {errors:?} in {body}");
    }
}

/// One of each kind of JSON.
fn values() -> [Value; 6] {
    [Value::Null, json!(7), json!([1, "b"]), json!("text"), json!(true), json!({"a": null})]
}

#[tokio::test]
async fn tasks_and_items_of_any_json_value_fit_the_document() {
    let node = Node::start().await;
    let document = Document::of(&node).await;
    let mut worker = node.worker(1);
    node.call(Method::PUT, "/api/v1/queues/hold", "{}").await.is(201);
    for value in values() {
        let body = json!({"type": "any", "input": value, "resources": {"memory": "1Mi"}});
        document.takes("/tasks", &body);
        document.takes("/tasks:batch", &json!({"tasks": [body]}));
        let id = node.submit(&body.to_string()).await;
        worker.answer(&value).await;
        let task = node.get_owned(format!("/api/v1/tasks/{id}?wait=10s")).await;
        assert_eq!((&task["input"], &task["result"]), (&value, &value), "{task}");
        document.answers("get", "/tasks/{id}", 200, &task);
        let body = json!({ "input": value });
        document.takes("/queues/{name}/items", &body);
        node.post("/api/v1/queues/hold/items", body.to_string()).await.is(201);
        let taken = node.post("/api/v1/queues/hold/items:take", "{}").await.is(200).json();
        document.answers("post", "/queues/{name}/items:take", 200, &taken);
        let item = &taken["items"][0];
        let done = json!({"token": item["token"], "result": value});
        document.takes("/queues/{name}/items/{id}:done", &done);
        let path = format!("/api/v1/queues/hold/items/{}:done", item["id"].as_str().unwrap());
        let done = node.post(&path, done.to_string()).await.is(200).json();
        assert_eq!((&done["input"], &done["result"]), (&value, &value), "{done}");
        document.answers("post", "/queues/{name}/items/{id}:done", 200, &done);
    }
    document.takes("/tasks", &json!({"type": "any", "resources": {"memory": 1_048_576}}));
    document.answers("get", "/tasks", 200, &node.get("/api/v1/tasks").await.json());
}

#[tokio::test]
async fn runs_of_any_json_value_fit_the_document() {
    let node = Node::start().await;
    let document = Document::of(&node).await;
    deploy(&node, "echo", "  - same: {set: '${ . }'}\n").await;
    let mut ids = Vec::new();
    for value in values() {
        let body = json!({ "input": value });
        document.takes("/workflows/{namespace}/{name}/runs", &body);
        document.takes("/runs", &body);
        let path = "/api/v1/workflows/shop/echo/runs?wait=10s";
        let run = node.post(path, body.to_string()).await.is(200).json();
        assert_eq!((&run["input"], &run["output"]), (&value, &value), "{run}");
        document.answers("post", "/workflows/{namespace}/{name}/runs", 200, &run);
        let id = run["id"].as_str().unwrap().to_owned();
        let of = |part: &str| format!("/api/v1/runs/{id}{part}");
        document.answers("get", "/runs/{id}", 200, &node.get_owned(of("")).await);
        document.answers("get", "/runs/{id}/journal", 200, &node.get_owned(of("/journal")).await);
        document.answers("get", "/runs/{id}/graph", 200, &node.get_owned(of("/graph")).await);
        document.takes("/runs/{id}:reset", &json!({"key": "k", "input": value}));
        document.takes("/runs/{id}:fork", &json!({"key": "k", "input": value}));
        document.takes("/runs/{id}/signals/{type}", &json!({ "data": value }));
        ids.push(id);
    }
    for id in &ids {
        let compared = node.get_owned(format!("/api/v1/runs/{}/compare?with={id}", ids[0])).await;
        document.answers("get", "/runs/{id}/compare", 200, &compared);
    }
    for body in [json!({"value": null}), json!({"data": 3}), json!({"error": "no"}), json!({"error": {"title": "no"}})]
    {
        document.takes("/runs/{id}/promises/{promise}", &body);
    }
    // A run that failed, and what two versions have differently.
    deploy(&node, "fails", "  - no: {raise: {error: {type: 'https://shop.example/late', status: 409}}}\n").await;
    let failed = node.post("/api/v1/workflows/shop/fails/runs?wait=10s", "{}").await.is(200).json();
    document.answers("post", "/workflows/{namespace}/{name}/runs", 200, &failed);
    let journal = node.get_owned(format!("/api/v1/runs/{}/journal", failed["id"].as_str().unwrap())).await;
    document.answers("get", "/runs/{id}/journal", 200, &journal);
    let other = workflow("echo", "1.1.0", "  - same: {set: {n: 5}}\n");
    node.call(Method::PUT, "/api/v1/workflows/shop/echo/1.1.0", other).await.is(201);
    let diff = node.get_owned("/api/v1/workflows/shop/echo/1.0.0/diff?to=1.1.0".to_owned()).await;
    assert!(diff["changes"].as_array().unwrap().iter().any(|change| change["from"].is_string()), "{diff}");
    document.answers("get", "/workflows/{namespace}/{name}/{version}/diff", 200, &diff);
}

#[tokio::test]
async fn packages_fit_the_document_and_it_says_in_which_forms_they_are_taken() {
    let node = Node::start().await;
    let document = Document::of(&node).await;
    let bytes = archive(&[("pdf.py", "def extract(): pass")]);
    // Schemas are JSON Schema, which may be `true`; the second task says nothing at all.
    let manifest = r#"{"format":"folder","entries":[{"name":"extract","fn":"pdf:extract","schema_in":true,"defaults":{"memory":1024}},
        {"name":"plain","fn":"pdf:plain"}]}"#;
    let stored = put(&node, "/api/v1/packages/pdf/1.0.0", &bytes, manifest).await.is(201).json();
    document.answers("put", "/packages/{name}/{version}", 201, &stored);
    document.answers("get", "/packages", 200, &node.get("/api/v1/packages").await.json());
    document.answers("get", "/task-types", 200, &node.get("/api/v1/task-types").await.json());
    let content = &document.operation("put", "/packages/{name}/{version}")["requestBody"]["content"];
    let kinds: Vec<&String> = content.as_object().unwrap().keys().collect();
    for kind in ["application/json", "application/zip", "application/gzip", "application/octet-stream"] {
        assert!(content[kind]["schema"].is_object(), "{kind} is not in {kinds:?}");
        let request = node.request(Method::PUT, "/api/v1/packages/pdf/2.0.0", &node.admin).header("content-type", kind);
        let got = node.send(request.body(Body::from("no archive")).unwrap()).await;
        assert_ne!(got.status, 415, "{kind} is taken");
    }
    let form = json!({"manifest": serde_json::from_str::<Value>(manifest).unwrap(), "archive": "bytes"});
    let schema = &content["multipart/form-data"]["schema"];
    assert_eq!(document.errors(schema, &form), Vec::<String>::new());
    assert_ne!(document.errors(schema, &json!({"manifest": {}})), Vec::<String>::new(), "the archive is needed");
}

#[tokio::test]
async fn workers_and_queues_fit_the_document() {
    let node = Node::start().await;
    let document = Document::of(&node).await;
    let labels = vec![("group".into(), "berlin".into())];
    let _worker = node.worker_with(Hello { name: "w".into(), permits: 1, labels, ..Hello::default() });
    let listed = node.get("/api/v1/workers").await.is(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    document.answers("get", "/workers", 200, &listed);
    document.answers("get", "/queues", 200, &node.get("/api/v1/queues").await.json());
    document.answers("get", "/queues/{name}", 200, &node.get("/api/v1/queues/default").await.json());
    let refused = node.get("/api/v1/queues?filter=depth:x").await.is(400).json();
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    assert_eq!(document.errors(&problem, &refused), Vec::<String>::new(), "{refused}");
}
