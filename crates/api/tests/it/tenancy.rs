//! Tenants are apart.

use axum::body::Body;
use axum::http::Method;

use crate::node::{Got, Node};

/// A tenant with its own admin, and without system scope.
pub(crate) async fn tenant(node: &Node, name: &str) -> String {
    node.call(Method::PUT, &format!("/api/v1/tenants/{name}"), Body::empty()).await.is(201);
    let request = node.request(Method::POST, "/api/v1/tokens", &node.admin).header("tidewheel-tenant", name);
    let got = node.send(request.body(Body::from(r#"{"name":"admin","role":"admin"}"#)).unwrap()).await.is(201);
    assert_eq!(got.json()["tenant"], name);
    got.json()["secret"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn nothing_of_another_tenant_is_seen_or_changed() {
    let node = Node::start().await;
    let (ann, bob) = (tenant(&node, "ann").await, tenant(&node, "bob").await);
    let as_of = |token: &str, method: Method, path: String, body: &'static str| {
        let token = token.to_owned();
        let node = &node;
        async move { node.call_as(&token, method, &path, body).await }
    };
    let got = as_of(&ann, Method::POST, "/api/v1/tasks".to_owned(), r#"{"type":"a","input":"secret"}"#).await.is(201);
    let id = got.json()["id"].as_str().unwrap().to_owned();
    as_of(&ann, Method::PUT, "/api/v1/queues/private".to_owned(), "{}").await.is(201);
    let blob = as_of(&ann, Method::PUT, "/api/v1/blobs".to_owned(), "content").await.is(201).json();
    let blob = blob["hash"].as_str().unwrap().to_owned();
    let unknown =
        as_of(&bob, Method::GET, "/api/v1/tasks/task_00000000000000000000000000".to_owned(), "").await.is(404);
    let shape = |got: &Got| (got.status, got.json()["code"].clone(), got.json()["title"].clone());
    for (method, path) in [
        (Method::GET, format!("/api/v1/tasks/{id}")),
        (Method::GET, format!("/api/v1/tasks/{id}/result")),
        (Method::GET, format!("/api/v1/tasks/{id}/why")),
        (Method::GET, format!("/api/v1/tasks/{id}/logs")),
        (Method::GET, format!("/api/v1/tasks/{id}/events")),
        (Method::POST, format!("/api/v1/tasks/{id}:cancel")),
        (Method::POST, format!("/api/v1/tasks/{id}:retry")),
        (Method::GET, format!("/api/v1/blobs/{blob}")),
    ] {
        let got = as_of(&bob, method.clone(), path.clone(), "").await;
        assert_eq!(shape(&got), shape(&unknown), "{method} {path}");
    }
    as_of(&bob, Method::GET, "/api/v1/queues/private".to_owned(), "").await.is(404);
    as_of(&bob, Method::GET, "/api/v1/tenants/ann".to_owned(), "").await.is(404);
    let listed = as_of(&bob, Method::GET, "/api/v1/tasks".to_owned(), "").await.is(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 0);
    let tenants = as_of(&bob, Method::GET, "/api/v1/tenants".to_owned(), "").await.is(200).json();
    assert_eq!(tenants["items"].as_array().unwrap().len(), 1);
    assert_eq!(as_of(&ann, Method::GET, format!("/api/v1/tasks/{id}"), "").await.is(200).json()["state"], "queued");
}

#[tokio::test]
async fn only_system_scope_names_a_tenant() {
    let node = Node::start().await;
    let ann = tenant(&node, "ann").await;
    let named = |token: String, name: &'static str| {
        let request = node.request(Method::GET, "/api/v1/whoami", &token).header("tidewheel-tenant", name);
        node.send(request.body(Body::empty()).unwrap())
    };
    assert_eq!(named(ann.clone(), "default").await.is(403).code(), "not-allowed");
    assert_eq!(named(ann.clone(), "ann").await.is(200).json()["tenant"], "ann");
    assert_eq!(named(node.admin.clone(), "ann").await.is(200).json()["tenant"], "ann");
    let unknown = named(node.admin.clone(), "nosuch").await.is(404);
    assert_eq!(unknown.code(), "not-found");
    for got in [unknown, node.get("/api/v1/tenants/nosuch").await.is(404)] {
        let detail = got.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("There is no tenant 'nosuch' that this token may see."), "{detail}");
    }
    let got = node.call_as(&ann, Method::PUT, "/api/v1/tenants/eve", Body::empty()).await.is(403);
    assert_eq!(got.code(), "not-allowed");
    let body = r#"{"name":"x","role":"admin","system":true}"#;
    assert_eq!(node.call_as(&ann, Method::POST, "/api/v1/tokens", body).await.is(403).code(), "not-allowed");
}

#[tokio::test]
async fn the_same_idempotency_key_in_two_tenants_is_two_tasks() {
    let node = Node::start().await;
    let (ann, bob) = (tenant(&node, "ann").await, tenant(&node, "bob").await);
    let body = r#"{"type":"a","idempotency_key":"k"}"#;
    node.call_as(&ann, Method::POST, "/api/v1/tasks", body).await.is(201);
    node.call_as(&bob, Method::POST, "/api/v1/tasks", body).await.is(201);
}

#[tokio::test]
async fn single_things_have_a_tag_and_only_the_wanted_fields() {
    let node = Node::start().await;
    let _worker = node.worker_named("w", 3);
    let token = node.post("/api/v1/tokens", r#"{"name":"t","role":"viewer"}"#).await.is(201).json()["id"].clone();
    let token = format!("/api/v1/tokens/{}", token.as_str().unwrap());
    for (path, field) in [
        ("/api/v1/tenants/default", "name"),
        ("/api/v1/queues/default", "version"),
        ("/api/v1/queues/default/stats", "depth"),
        (token.as_str(), "role"),
    ] {
        let got = node.get(&format!("{path}?fields={field}")).await.is(200);
        assert_eq!(got.json().as_object().unwrap().keys().collect::<Vec<_>>(), [field], "{path}");
        let etag = node.get(path).await.is(200).header("etag").to_owned();
        let again = node.request(Method::GET, path, &node.admin).header("if-none-match", &etag);
        let again = node.send(again.body(Body::empty()).unwrap()).await.is(304);
        assert_eq!((again.header("etag"), again.body.len()), (etag.as_str(), 0), "{path}");
        assert_eq!(node.get(&format!("{path}?field=x")).await.is(400).code(), "invalid-query", "{path}");
    }
    let tag = node.get("/api/v1/tenants/default").await.header("etag").to_owned();
    let weigh = |tag: &str| {
        let request = node.request(Method::PATCH, "/api/v1/tenants/default", &node.admin).header("if-match", tag);
        node.send(request.body(Body::from(r#"{"weight":50}"#)).unwrap())
    };
    weigh(&tag).await.is(200);
    assert_eq!(weigh(&tag).await.is(412).code(), "precondition-failed", "somebody has changed it since");
    let before = node.get("/api/v1/queues/default/stats").await.header("etag").to_owned();
    node.submit(r#"{"type":"a"}"#).await;
    assert_ne!(node.get("/api/v1/queues/default/stats").await.header("etag"), before, "never stale after a write");
}
