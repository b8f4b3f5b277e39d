//! Workflows that never end, answer wrongly or go round in circles: each has an outcome, says why, and leaves a run that a person can
//! resolve.

use serde_json::{Value, json};
use tidewheel_engine::task::Payload;

use crate::node::Node;
use crate::workflows::{deploy, document};

/// Starts a run and waits for its end, or for as long as it takes to see that it stands.
async fn run(node: &Node, name: &str) -> Value {
    node.post(&format!("/api/v1/workflows/shop/{name}/runs?wait=30s"), "{}").await.is(200).json()
}

/// All runs: how many, and how many of them have not ended.
async fn counts(node: &Node) -> (usize, usize) {
    let all = node.get("/api/v1/runs?limit=500").await.is(200).json();
    let all = all["items"].as_array().unwrap().clone();
    let ended = |run: &&Value| ["completed", "faulted", "cancelled"].contains(&run["phase"].as_str().unwrap());
    (all.len(), all.len() - all.iter().filter(ended).count())
}

fn child(name: &str) -> String {
    format!("  - next: {{run: {{workflow: {{namespace: shop, name: {name}, version: latest}}}}}}\n")
}

#[tokio::test]
async fn a_workflow_that_runs_itself_ends_with_an_error_that_says_how_deep_it_was() {
    let node = Node::start().await;
    deploy(&node, "itself", &child("itself")).await;
    let ended = run(&node, "itself").await;
    assert_eq!(ended["phase"], "faulted", "{ended}");
    assert!(ended["error"]["detail"].as_str().unwrap().contains("32 deep"), "{ended}");
    let (all, open) = counts(&node).await;
    assert!(all <= 34 && open == 0, "{all} runs, {open} of them open");
}

#[tokio::test]
async fn a_circle_of_three_workflows_ends_the_same_and_can_be_stopped_and_mended() {
    let node = Node::start().await;
    for (name, next) in [("one", "two"), ("two", "three"), ("three", "one")] {
        deploy(&node, name, &child(next)).await;
    }
    let ended = run(&node, "one").await;
    assert_eq!(ended["phase"], "faulted", "{ended}");
    assert!(ended["error"]["detail"].as_str().unwrap().contains("32 deep"), "{ended}");
    assert_eq!(counts(&node).await.1, 0);
    // A version without the circle, and the next run is well.
    let mended = document("three", "1.0.1", "  - end: {set: {well: true}}\n");
    node.call(axum::http::Method::PUT, "/api/v1/workflows/shop/three/1.0.1", mended).await.is(201);
    assert_eq!(run(&node, "one").await["output"], json!({"well": true}));
}

#[tokio::test]
async fn a_loop_without_end_is_an_error_and_its_run_can_be_retried_and_deleted() {
    let node = Node::start().await;
    // `then` back to itself, and a loop over what it makes longer.
    deploy(&node, "back", "  - a: {set: {x: 1}}\n  - b: {set: {x: 2}, then: a}\n").await;
    let ended = run(&node, "back").await;
    assert_eq!(ended["phase"], "faulted", "{ended}");
    assert!(ended["error"]["detail"].as_str().unwrap().contains("work"), "{ended}");
    let id = ended["id"].as_str().unwrap();
    let again = node.post(&format!("/api/v1/runs/{id}:retry"), "{}").await.is(200).json();
    assert_eq!(again["id"], ended["id"]);
    let again = node.get(&format!("/api/v1/runs/{id}?wait=30s")).await.is(200).json();
    assert_eq!(again["phase"], "faulted", "it has no end this time either: {again}");
}

#[tokio::test]
async fn an_expression_that_explodes_is_an_error_of_its_statement() {
    let node = Node::start().await;
    for (name, bomb) in [
        ("steps", "def f: f; f"),
        ("range", "[range(1e12)] | length"),
        ("bytes", "[limit(40; repeat(\"x\"))] | reduce range(60) as $i (\"x\"; . + .)"),
        ("deep", "reduce range(1e6) as $i (1; [.])"),
    ] {
        deploy(&node, name, &format!("  - a: {{set: {{x: '${{ {} }}'}}}}\n", bomb.replace('\'', "''"))).await;
        let ended = run(&node, name).await;
        assert_eq!(ended["phase"], "faulted", "{name}: {ended}");
        assert_eq!(
            (&ended["error"]["status"], &ended["error"]["instance"]),
            (&json!(400), &json!("/do/0/a")),
            "{name}"
        );
    }
    assert_eq!(run_of_another(&node).await, json!({"x": 1}), "the neighbours are well");
}

async fn run_of_another(node: &Node) -> Value {
    deploy(node, "neighbour", "  - a: {set: {x: 1}}\n").await;
    run(node, "neighbour").await["output"].clone()
}

#[tokio::test]
async fn a_schema_that_refers_elsewhere_is_refused_at_the_deploy_with_its_place() {
    let node = Node::start().await;
    let head = "document: {dsl: '1.0.3', namespace: shop, name: a, version: '1.0.0'}\n";
    for (schema, says) in [
        ("{document: {$ref: 'https://a.example/order.json'}}", "a.example"),
        ("{resource: {endpoint: 'https://a.example/order.json'}}", "fetches nothing"),
        ("{document: {$ref: 'file:///etc/passwd'}}", "passwd"),
    ] {
        let text = format!("{head}input: {{schema: {schema}}}\ndo:\n  - a: {{set: {{x: 1}}}}\n");
        let problem = node.post("/api/v1/workflows", text).await.is(422).json();
        assert_eq!(problem["errors"][0]["line"], 2, "{problem}");
        assert!(problem.to_string().contains(says), "{says}: {problem}");
    }
}

#[tokio::test]
async fn a_result_of_the_wrong_type_is_an_error_of_the_statement_and_a_reset_gives_another_chance() {
    let node = Node::start().await;
    let body = "  - ask:
      call: task:1.0.0@default
      with: {type: ask}
      output: {schema: {document: {type: object, required: [n], properties: {n: {type: integer}}}}}
  - use: {set: {n: '${ .n + 1 }'}}
";
    deploy(&node, "typed", body).await;
    let start = async || {
        let run = node.post("/api/v1/runs", json!({"workflow": "shop/typed"}).to_string()).await.is(201).json();
        run["id"].as_str().unwrap().to_owned()
    };
    let end = async |id: &str| node.get(&format!("/api/v1/runs/{id}?wait=30s")).await.is(200).json();
    let inline = |text: &'static str| Payload::Inline(bytes::Bytes::from_static(text.as_bytes()));
    for wrong in [inline("\"seven\""), inline("{\"n\":\"7\"}"), inline("null"), Payload::None] {
        let id = start().await;
        node.worker(1).give(&wrong).await;
        let ended = end(&id).await;
        assert_eq!(ended["phase"], "faulted", "{wrong:?}: {ended}");
        let error = &ended["error"];
        assert_eq!((&error["status"], &error["instance"]), (&json!(400), &json!("/do/0/ask")), "{wrong:?}: {ended}");
        assert!(error["type"].as_str().unwrap().ends_with("/validation"), "{ended}");
        // A person looks at it, has the code mended, and lets the statement be done again.
        node.post(&format!("/api/v1/runs/{id}:reset"), json!({"key": "/task:/do/0/ask#0"}).to_string()).await.is(200);
        node.worker(1).give(&inline("{\"n\":7}")).await;
        assert_eq!(end(&id).await["output"], json!({"n": 8}));
    }
}
