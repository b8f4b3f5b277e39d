//! Names that are refused say which field, or which part of the path, is wrong; and lives of tokens that end at once.

use axum::http::Method;
use serde_json::Value;

use crate::node::{Got, Node};
use crate::packages::{MANIFEST, archive, put};

/// The place that a refusal names.
fn place(got: Got) -> String {
    let problem: Value = got.is(400).json();
    assert_eq!(problem["code"], "invalid-field", "{problem}");
    let error = &problem["errors"][0];
    assert!(!error["detail"].as_str().unwrap().is_empty(), "{problem}");
    error["pointer"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_name_that_cannot_be_says_where_it_stands() {
    let node = Node::start().await;
    let bytes = archive(&[("pdf/tasks.py", "def extract(): pass")]);
    assert_eq!(place(put(&node, "/api/v1/packages/a%20b/1.0.0", &bytes, MANIFEST).await), "name");
    assert_eq!(place(put(&node, "/api/v1/packages/pdf/1%200", &bytes, MANIFEST).await), "version");
    assert_eq!(place(node.call(Method::PUT, "/api/v1/queues/.hidden", "{}").await), "name");
    assert_eq!(place(node.call(Method::PUT, "/api/v1/tenants/a%20b", "{}").await), "name");
    assert_eq!(place(node.call(Method::PUT, "/api/v1/blobs/sha256:x", "x").await), "hash");
    assert_eq!(place(node.post("/api/v1/tokens", r#"{"name":"a b","role":"viewer"}"#).await), "/name");
    assert_eq!(place(node.post("/api/v1/enrolments", r#"{"name":"a b"}"#).await), "/name");
    assert_eq!(place(node.post("/api/v1/enrolments", r#"{"name":"a","group":"a b"}"#).await), "/group");
}

#[tokio::test]
async fn a_token_that_would_be_dead_at_birth_is_refused() {
    let node = Node::start().await;
    for life in [r#""0s""#, "0", r#""0.1ms""#] {
        let body = format!(r#"{{"name":"t","role":"viewer","expires_in":{life}}}"#);
        assert_eq!(place(node.post("/api/v1/tokens", body).await), "/expires_in", "{life}");
    }
    let body = r#"{"name":"t","role":"viewer","expires_in":"1m"}"#;
    assert!(node.post("/api/v1/tokens", body).await.is(201).json()["expires_at"].is_string());
}
