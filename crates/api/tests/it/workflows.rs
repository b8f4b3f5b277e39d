//! Deploying, reading and deleting workflows.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::node::Node;
use crate::tasks::finished;

/// A document with these statements.
pub(crate) fn document(name: &str, version: &str, body: &str) -> String {
    format!("document: {{dsl: '1.0.3', namespace: shop, name: {name}, version: '{version}'}}\ndo:\n{body}")
}

const SET: &str = "  - greet: {set: {greeting: '${ \"Hello \" + .name }'}}\n";

/// Deploys a document that has to be good.
pub(crate) async fn deploy(node: &Node, name: &str, body: &str) {
    let text = document(name, "1.0.0", body);
    node.call(Method::PUT, &format!("/api/v1/workflows/shop/{name}/1.0.0"), text).await.is(201);
}

#[tokio::test]
async fn a_version_is_deployed_once_and_never_changes() {
    let node = Node::start().await;
    let path = "/api/v1/workflows/shop/greet/1.0.0";
    let text = format!("# a comment\n{}", document("greet", "1.0.0", SET));
    let made = node.call(Method::PUT, path, text.clone()).await.is(201);
    assert_eq!(made.header("location"), path);
    let made = made.json();
    assert_eq!(
        (&made["namespace"], &made["name"], &made["version"]),
        (&json!("shop"), &json!("greet"), &json!("1.0.0"))
    );
    assert_eq!(made["latest"], true);
    // The same content in another form is the same version.
    let as_json = json!({
        "document": {"dsl": "1.0.3", "namespace": "shop", "name": "greet", "version": "1.0.0"},
        "do": [{"greet": {"set": {"greeting": "${ \"Hello \" + .name }"}}}],
    });
    let again = node.call(Method::PUT, path, as_json.to_string()).await.is(200).json();
    assert_eq!(again["hash"], made["hash"]);
    let other = document("greet", "1.0.0", "  - greet: {set: {greeting: Bye}}\n");
    let refused = node.call(Method::PUT, path, other.clone()).await.is(409);
    assert_eq!(refused.code(), "conflict");
    assert!(refused.json()["detail"].as_str().unwrap().contains("Raise document.version"), "{refused:?}");
    // Without a path, the document says what it is.
    node.post("/api/v1/workflows", text).await.is(200);
    node.post("/api/v1/workflows", other.replace("1.0.0", "1.1.0")).await.is(201);
    let got = node.get("/api/v1/workflows/shop/greet/latest").await.is(200).json();
    assert_eq!(got["version"], "1.1.0");
    let old = node.get(path).await.is(200).json();
    assert_eq!(old["latest"], false);
}

#[tokio::test]
async fn what_was_deployed_can_be_read() {
    let node = Node::start().await;
    let text = "document:\n  dsl: '1.0.3'\n  namespace: shop\n  name: order\n  version: '2.0.0'\n  title: Orders\n  \
                tags: {team: blue}\ninput:\n  schema:\n    document: {type: object, required: [id]}\ndo:\n  - a: {set: {x: 1}}\n";
    node.post("/api/v1/workflows", text).await.is(201);
    let got = node.get("/api/v1/workflows/shop/order/2.0.0").await.is(200).json();
    assert_eq!((&got["title"], &got["tags"]), (&json!("Orders"), &json!({"team": "blue"})));
    let document = node.get("/api/v1/workflows/shop/order/2.0.0/document").await.is(200).json();
    assert_eq!(document["document"]["title"], "Orders");
    let schema = node.get("/api/v1/workflows/shop/order/latest/schema").await.is(200).json();
    assert_eq!(schema, json!({"input": {"type": "object", "required": ["id"]}}));
    let graph = node.get("/api/v1/workflows/shop/order/2.0.0/graph").await.is(200).json();
    assert_eq!(graph["workflow"], "shop/order:2.0.0");
    assert_eq!(graph["nodes"].as_array().unwrap().len(), 3);
    let text = node.get("/api/v1/workflows/shop/order/2.0.0/graph?format=mermaid").await.is(200);
    assert!(text.body.starts_with(b"flowchart"));
    assert_eq!(node.get("/api/v1/workflows/shop/order/2.0.0/graph?format=png").await.is(400).code(), "invalid-query");
}

#[tokio::test]
async fn bad_documents_are_refused_with_the_place_and_what_to_do() {
    let node = Node::start().await;
    let cases = [
        // Text, what the first error says, where it is.
        ("do: [", "", 1),
        ("document: {dsl: '1.0.3', namespace: shop, name: a, version: '1.0.0'}\n", "do", 1),
        ("document: {dsl: '1.0.3', namespace: shop, name: a, version: one}\ndo:\n  - a: {set: {x: 1}}\n", "version", 1),
        (&document("a", "1.0.0", "  - a: {sett: {x: 1}}\n"), "sett", 3),
        (&document("a", "1.0.0", "  - a: {set: {x: '${ .a | }'}}\n"), "", 3),
        (
            &document("a", "1.0.0", "  - a: {call: http, with: {method: get, endpoint: 'http://a.example'}}\n"),
            "call: http",
            3,
        ),
        (
            &document("a", "1.0.0", "  - a: {emit: {event: {with: {source: 'https://a.example', type: t}}}}\n"),
            "emit",
            3,
        ),
        (&document("a", "1.0.0", "  - a: {run: {container: {image: a}}}\n"), "run.container", 3),
        (&document("a", "1.0.0", "  - a: {call: 'human:1.0.0@default', with: {title: x}}\n"), "human", 3),
        (
            &document("a", "1.0.0", "  - a: {call: 'python:1.0.0@default', with: {package: nosuch, entrypoint: x}}\n"),
            "no package `nosuch`",
            3,
        ),
        (&document("a", "1.0.0", "  - a: {set: {x: 1}, then: nowhere}\n"), "nowhere", 3),
    ];
    for (text, says, line) in cases {
        let got = node.post("/api/v1/workflows", text.to_owned()).await.is(422);
        assert_eq!(got.code(), "invalid-workflow", "{text}");
        let problem = got.json();
        let first = &problem["errors"][0];
        assert!(problem["detail"].as_str().unwrap().contains(says), "{says} is not in {problem}");
        assert_eq!(first["line"], line, "{text}: {problem}");
        assert!(first["column"].as_u64().unwrap() > 0 && first["pointer"].is_string(), "{problem}");
    }
    let http = document("a", "1.0.0", "  - a: {call: http, with: {method: get, endpoint: 'http://a.example'}}\n");
    let problem = node.post("/api/v1/workflows", http).await.is(422).json();
    assert!(problem["errors"][0]["hint"].as_str().unwrap().contains("python"), "{problem}");
    for body in ["", "   \n"] {
        let got = node.post("/api/v1/workflows", body).await.is(422);
        assert!(got.json()["detail"].as_str().unwrap().contains("empty"));
    }
    let list = node.get("/api/v1/workflows").await.is(200).json();
    assert_eq!(list["items"], json!([]), "nothing of it was kept");
}

#[tokio::test]
async fn a_path_and_its_document_have_to_agree() {
    let node = Node::start().await;
    let text = document("greet", "1.0.0", SET);
    for path in ["shop/greet/1.0.1", "shop/other/1.0.0", "else/greet/1.0.0"] {
        let got = node.call(Method::PUT, &format!("/api/v1/workflows/{path}"), text.clone()).await.is(400);
        assert_eq!(got.code(), "invalid-field");
        let error = got.json()["errors"][0].clone();
        assert!(error["pointer"].as_str().unwrap().starts_with("/document/"), "{error}");
        assert_eq!(error["line"], 1);
    }
}

#[tokio::test]
async fn other_content_types_and_sizes_are_refused() {
    let node = Node::start().await;
    let request = node.request(Method::POST, "/api/v1/workflows", &node.admin).header("content-type", "image/png");
    node.send(request.body(Body::from("x")).unwrap()).await.is(415);
    let huge = format!("{}# {}", document("greet", "1.0.0", SET), "x".repeat(5 << 20));
    node.post("/api/v1/workflows", huge).await.is(413);
    node.call(Method::PUT, "/api/v1/workflows/shop/greet/1.0.0?forse=1", "x").await.is(400);
}

#[tokio::test]
async fn lint_says_everything_and_keeps_nothing() {
    let node = Node::start().await;
    let good = node.post("/api/v1/workflows:lint", document("greet", "1.0.0", SET)).await.is(200).json();
    assert_eq!((&good["deployable"], &good["class"]), (&json!(true), &json!("portable")), "{good}");
    let bad = document("a", "1.0.0", "  - a: {emit: {event: {with: {source: 'https://a.example', type: t}}}}\n");
    let bad = node.post("/api/v1/workflows:lint", bad).await.is(200).json();
    assert_eq!(bad["deployable"], false);
    assert_eq!(bad["diagnostics"][0]["severity"], "error");
    assert_eq!(node.get("/api/v1/workflows").await.json()["items"], json!([]));
}

#[tokio::test]
async fn lists_name_the_latest_of_each_and_go_page_by_page() {
    let node = Node::start().await;
    for (name, version) in [("a", "1.0.0"), ("a", "1.10.0"), ("a", "1.9.0"), ("a", "2.0.0-rc.1"), ("b", "0.1.0-x")] {
        node.post("/api/v1/workflows", document(name, version, SET)).await.is(201);
    }
    let all = node.get("/api/v1/workflows").await.is(200).json();
    let latest: Vec<_> = all["items"].as_array().unwrap().iter().filter(|w| w["latest"] == true).collect();
    let mut names: Vec<_> = latest.iter().map(|w| format!("{}:{}", w["name"], w["version"]).replace('"', "")).collect();
    names.sort();
    assert_eq!(names, ["a:1.10.0", "b:0.1.0-x"], "a candidate is the latest only where there is no release");
    assert_eq!(node.get("/api/v1/workflows/shop/a").await.json()["items"].as_array().unwrap().len(), 4);
    let page = node.get("/api/v1/workflows?name=a&limit=3").await.is(200).json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = node.get(&format!("/api/v1/workflows?name=a&limit=3&cursor={cursor}")).await.is(200).json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    node.get(&format!("/api/v1/workflows?name=b&cursor={cursor}")).await.is(400);
    let unknown = node.get("/api/v1/workflows/shop/aa/1.0.0").await.is(404).json();
    assert!(unknown["detail"].as_str().unwrap().contains("Did you mean 'shop/a'"), "{unknown}");
    let version = node.get("/api/v1/workflows/shop/a/3.0.0").await.is(404).json();
    assert!(version["detail"].as_str().unwrap().contains("1.10.0"), "{version}");
}

#[tokio::test]
async fn a_version_that_an_open_run_follows_is_not_deleted() {
    let node = Node::start().await;
    deploy(&node, "slow", "  - pause: {wait: {hours: 1}}\n").await;
    let path = "/api/v1/workflows/shop/slow/1.0.0";
    let run = node.post("/api/v1/workflows/shop/slow/runs", "").await.is(201).json();
    let id = run["id"].as_str().unwrap().to_owned();
    let refused = node.call(Method::DELETE, path, Body::empty()).await.is(409);
    assert!(refused.json()["detail"].as_str().unwrap().contains("followed by 1 run that has not ended"), "{refused:?}");
    assert_eq!(node.get(path).await.is(200).json()["open_runs"], 1);
    node.call(Method::DELETE, "/api/v1/workflows/shop/slow/latest", Body::empty()).await.is(400);
    node.post(&format!("/api/v1/runs/{id}:cancel"), "").await.is(200);
    node.call(Method::DELETE, path, Body::empty()).await.is(204);
    node.get(path).await.is(404);
    node.call(Method::DELETE, path, Body::empty()).await.is(404);
    // Its run is there, and nothing starts with it any more; the same version may come again.
    assert_eq!(node.get(&format!("/api/v1/runs/{id}")).await.is(200).json()["phase"], "cancelled");
    node.post("/api/v1/workflows/shop/slow/runs", "").await.is(404);
    deploy(&node, "slow", "  - pause: {wait: {hours: 2}}\n").await;
}

/// A version of `shop/order` whose runs may move.
fn movable(version: &str, body: &str) -> String {
    let metadata = ", metadata: {tidewheel: {versionPolicy: compatible}}}\ndo:";
    document("order", version, body).replacen("}\ndo:", metadata, 1)
}

#[tokio::test]
async fn a_deploy_moves_the_runs_that_fit_and_says_why_others_stay() {
    let node = Node::start().await;
    let put = async |version: &str, body: &str| {
        let path = format!("/api/v1/workflows/shop/order/{version}");
        node.call(Method::PUT, &path, movable(version, body)).await
    };
    let first = put("1.0.0", "  - pause: {wait: {hours: 1}}\n").await.is(201).json();
    assert_eq!((&first["version_policy"], &first["moving"]), (&json!("compatible"), &Value::Null));
    let run = node.post("/api/v1/workflows/shop/order/runs", "").await.is(201).json();
    let id = run["id"].as_str().unwrap().to_owned();
    let done = async |operation: &Value| {
        let path = format!("/api/v1/operations/{}", operation["moving"].as_str().unwrap());
        finished(&node, &path).await;
        node.get(&format!("{path}/items")).await.is(200).json()["items"][0].clone()
    };
    // What is open is another statement there: the run stays, and says so.
    let unfit = put("1.1.0", "  - other: {set: {a: 1}}\n  - pause: {wait: {hours: 1}}\n").await.is(201).json();
    let item = done(&unfit).await;
    assert_eq!((&item["run"], &item["outcome"]), (&json!(id), &json!("failed")));
    assert!(item["detail"].as_str().unwrap().contains("/do/0/pause"), "{item}");
    let why = node.get(&format!("/api/v1/runs/{id}/why")).await.is(200).json().to_string();
    assert!(why.contains("It stays on 1.0.0 although 1.1.0 is there") && why.contains("/do/0/pause"), "{why}");
    let refused = node.post(&format!("/api/v1/runs/{id}:move"), json!({"to": "1.1.0"}).to_string()).await.is(409);
    assert!(refused.json()["detail"].as_str().unwrap().contains("/do/0/pause"));
    // What fits moves, and its journal says so.
    let fit = put("1.2.0", "  - pause: {wait: {hours: 1}}\n  - other: {set: {a: 1}}\n").await.is(201).json();
    assert_eq!(done(&fit).await["outcome"], "done");
    assert_eq!(node.get(&format!("/api/v1/runs/{id}")).await.is(200).json()["version"], "1.2.0");
    let journal = node.get(&format!("/api/v1/runs/{id}/journal")).await.is(200).json();
    let moved = journal["items"].as_array().unwrap().iter().find(|entry| entry["kind"] == "moved").unwrap();
    assert_eq!(
        (&moved["input"]["from"]["version"], &moved["input"]["to"]["version"]),
        (&json!("1.0.0"), &json!("1.2.0"))
    );
    // Back by hand, and on by a filter.
    let back = node.post(&format!("/api/v1/runs/{id}:move"), json!({"to": "previous"}).to_string()).await.is(200);
    assert_eq!(back.json()["version"], "1.0.0");
    for (body, status) in
        [(json!({"to": ""}), 400), (json!({"to": "9.0.0"}), 404), (json!({"to": "sha256:00"}), 400), (json!({}), 400)]
    {
        node.post(&format!("/api/v1/runs/{id}:move"), body.to_string()).await.is(status);
    }
    node.post(&format!("/api/v1/runs/{id}:accept"), "").await.is(409);
    node.post("/api/v1/runs:move", json!({"filter": "workflow:shop/order"}).to_string()).await.is(400);
    let body = json!({"filter": "workflow:shop/order version:1.0.0", "to": "latest"});
    let started = node.post("/api/v1/runs:move", body.to_string()).await.is(202).json();
    assert_eq!((&started["action"], &started["to"]), (&json!("move"), &json!("latest")));
    assert_eq!(done(&json!({"moving": started["id"]})).await["outcome"], "done");
    assert_eq!(node.get("/api/v1/workflows/shop/order/1.0.0").await.is(200).json()["open_runs"], 0);
    node.call(Method::DELETE, "/api/v1/workflows/shop/order/1.0.0", Body::empty()).await.is(204);
    // The journal goes through the deleted version, and is still read whole.
    let body = json!({"key": "/sleep:/do/0/pause#0"}).to_string();
    assert_eq!(node.post(&format!("/api/v1/runs/{id}:reset"), body).await.is(200).json()["version"], "1.2.0");
}

#[tokio::test]
async fn workflows_of_tenants_are_apart() {
    let node = Node::start().await;
    deploy(&node, "greet", SET).await;
    node.call(Method::PUT, "/api/v1/tenants/other", "{}").await.is(201);
    let as_other = |method: Method, path: &str, body: String| {
        let request = node.request(method, path, &node.admin).header("tidewheel-tenant", "other");
        node.send(request.body(Body::from(body)).unwrap())
    };
    let list: Value = as_other(Method::GET, "/api/v1/workflows", String::new()).await.is(200).json();
    assert_eq!(list["items"], json!([]));
    as_other(Method::GET, "/api/v1/workflows/shop/greet/1.0.0", String::new()).await.is(404);
    as_other(Method::POST, "/api/v1/workflows/shop/greet/runs", String::new()).await.is(404);
    let run = node.post("/api/v1/workflows/shop/greet/runs", "{}").await.is(201).json();
    let id = run["id"].as_str().unwrap();
    for (method, path) in [
        (Method::GET, format!("/api/v1/runs/{id}")),
        (Method::GET, format!("/api/v1/runs/{id}/journal")),
        (Method::GET, format!("/api/v1/runs/{id}/tree")),
        (Method::GET, format!("/api/v1/runs/{id}/events")),
        (Method::POST, format!("/api/v1/runs/{id}:cancel")),
        (Method::POST, format!("/api/v1/runs/{id}/signals/x")),
    ] {
        as_other(method, &path, String::new()).await.is(404);
    }
    assert_eq!(as_other(Method::GET, "/api/v1/runs", String::new()).await.is(200).json()["items"], json!([]));
    // The same name may be something else there.
    let text = document("greet", "1.0.0", "  - a: {set: {x: 2}}\n");
    as_other(Method::POST, "/api/v1/workflows", text).await.is(201);
}
