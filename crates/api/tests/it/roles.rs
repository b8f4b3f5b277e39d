//! Every route of the OpenAPI document with every role: deny by default, and the document says what is true.

use axum::body::Body;
use axum::http::Method;
use serde_json::Value;

use crate::node::Node;

const ROLES: [&str; 4] = ["viewer", "operator", "admin", "worker"];

#[tokio::test]
async fn routes_admit_the_roles_they_document_and_no_other() {
    let node = Node::start().await;
    let mut tokens = Vec::new();
    for role in ROLES {
        tokens.push((role, node.token(role).await));
    }
    let document: Value = serde_json::from_str(&tidewheel_api::openapi_json("test")).unwrap();
    let mut checked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let admitted: Vec<_> =
                operation["security"][0]["bearer"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
            let system = operation["description"].as_str().unwrap().contains("system scope");
            let path = path.replace("{id}", "task_00000000000000000000000000").replace("{hash}", "sha256:00");
            let path = path.replace("{name}", "nosuch").replace("{version}", "1").replace("{namespace}", "nosuch");
            if path.ends_with("/stream") {
                // It never ends by itself; that it admits a viewer is shown by its own test.
                continue;
            }
            let anonymous = node.call_as("", method.clone(), &path, Body::empty()).await;
            assert_eq!(anonymous.status, 401, "{method} {path} without a token");
            assert!(anonymous.json()["detail"].as_str().unwrap().contains("tidewheel token create"));
            for (role, token) in &tokens {
                let got = node.call_as(token, method.clone(), &path, Body::empty()).await;
                // Tokens of this test have no system scope.
                if admitted.contains(role) && !system {
                    assert!(!matches!(got.status, 401 | 403 | 500), "{method} {path} as {role}: {got:?}");
                } else {
                    assert_eq!(got.status, 403, "{method} {path} as {role}: {got:?}");
                    assert_eq!(got.code(), "not-allowed");
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 150, "{checked}");
}

#[tokio::test]
async fn few_paths_are_open() {
    let node = Node::start().await;
    for path in ["/health/live", "/health/ready", "/openapi.json", "/docs", "/docs/reference/errors"] {
        node.call_as("", Method::GET, path, Body::empty()).await.is(200);
    }
}

#[tokio::test]
async fn probes_and_scrapers_may_add_parameters_of_their_own() {
    let node = Node::start().await;
    for path in ["/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs", "/docs/reference/errors"] {
        node.get(&format!("{path}?name[]=queue_depth&_=17")).await.is(200);
    }
    assert_eq!(node.get("/api/v1/system/status?_=17").await.is(400).code(), "invalid-query");
}

#[tokio::test]
async fn broken_expired_and_revoked_tokens_are_401() {
    let node = Node::start().await;
    let mut changed = node.admin.clone().into_bytes();
    let last = changed.len() - 1;
    changed[last] = if changed[last] == b'0' { b'1' } else { b'0' };
    let changed = String::from_utf8(changed).unwrap();
    for token in ["x", "tw_", &changed, &node.admin[..40], &node.admin.to_uppercase()] {
        let got = node.call_as(token, Method::GET, "/api/v1/whoami", Body::empty()).await.is(401);
        assert_eq!(got.code(), "unauthenticated");
        assert!(got.header("www-authenticate").starts_with("Bearer"));
    }
    let basic =
        node.request(Method::GET, "/api/v1/whoami", "").header("authorization", format!("Basic {}", node.admin));
    node.send(basic.body(Body::empty()).unwrap()).await.is(401);
    let got =
        node.post("/api/v1/tokens", r#"{"name":"brief","role":"viewer","expires_in":"1ms"}"#).await.is(201).json();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let secret = got["secret"].as_str().unwrap();
    node.call_as(secret, Method::GET, "/api/v1/whoami", Body::empty()).await.is(401);
    let got = node.post("/api/v1/tokens", r#"{"name":"other","role":"viewer"}"#).await.is(201).json();
    let secret = got["secret"].as_str().unwrap();
    node.call_as(secret, Method::GET, "/api/v1/whoami", Body::empty()).await.is(200);
    let path = format!("/api/v1/tokens/{}", got["id"].as_str().unwrap());
    node.call(Method::DELETE, &path, Body::empty()).await.is(204);
    node.call_as(secret, Method::GET, "/api/v1/whoami", Body::empty()).await.is(401);
    let listed = String::from_utf8(node.get("/api/v1/tokens").await.is(200).body.to_vec()).unwrap();
    assert!(!listed.contains("hash") && !listed.contains("secret"), "{listed}");
}
