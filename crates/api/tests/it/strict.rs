//! What a route does not take is refused by name, on every route: a slip of the hand is never an answer to another question.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::Method;
use serde_json::Value;

use crate::node::{Got, Node};
use crate::workflows::deploy;

/// An operation of the OpenAPI document: method, a path without placeholders, and the document's words on it.
fn operations() -> Vec<(Method, String, Value)> {
    let document: Value = serde_json::from_str(&tidewheel_api::openapi_json("test")).unwrap();
    let mut out = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let mut path = path.replace("{hash}", &format!("sha256:{}", "0".repeat(64)));
            while let (Some(from), Some(to)) = (path.find('{'), path.find('}')) {
                path.replace_range(from..=to, "nosuch");
            }
            out.push((method, path, operation.clone()));
        }
    }
    out
}

fn takes(operation: &Value, name: &str) -> bool {
    operation["parameters"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["name"] == name && one["in"] == "query"))
}

/// The problem of a refused query names the parameter.
fn refused(got: &Got, parameter: &str, what: &str) -> String {
    assert_eq!(got.status, 400, "{what}: {got:?}");
    assert_eq!(got.code(), "invalid-query", "{what}");
    let problem = got.json();
    assert_eq!(problem["errors"][0]["pointer"], parameter, "{what}: {problem}");
    problem["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_route_refuses_a_parameter_that_it_does_not_know() {
    let node = Node::start().await;
    let worker = node.token("worker").await;
    let join = node.post("/api/v1/enrolments", r#"{"name":"a"}"#).await.is(201).json();
    let join = join["secret"].as_str().unwrap();
    let all = operations();
    assert!(all.len() > 90, "{}", all.len());
    for (method, path, operation) in all {
        let what = format!("{method} {path}");
        // Of the few that no admin may call.
        let admits = |role: &str| operation["security"][0]["bearer"].as_array().unwrap().iter().any(|one| one == role);
        let tokens = [("admin", &*node.admin), ("worker", &*worker), ("join", join)];
        let token = tokens.iter().find(|(role, _)| admits(role)).map(|(_, token)| *token).unwrap();
        let got = node.call_as(token, method.clone(), &format!("{path}?nope=1"), Body::empty()).await;
        let said = refused(&got, "nope", &what);
        assert!(said.contains("?nope=") && said.contains("unknown parameter"), "{what}: {said}");
        // Where there is another one, it is named.
        if let Some(known) = operation["parameters"].as_array().and_then(|all| all.iter().find(|p| p["in"] == "query"))
        {
            let near = format!("{}x", known["name"].as_str().unwrap());
            let said =
                refused(&node.call_as(token, method, &format!("{path}?{near}=1"), Body::empty()).await, &near, &what);
            assert!(said.contains("did you mean"), "{what}: {said}");
        }
    }
}

#[tokio::test]
async fn every_route_that_takes_fields_refuses_one_that_it_has_not() {
    let node = Node::start().await;
    let mut taking = 0;
    for (method, path, _) in operations().into_iter().filter(|(_, _, operation)| takes(operation, "fields")) {
        let what = format!("{method} {path}");
        for (fields, says) in [("nope", "no field 'nope'"), ("", "no field is named"), ("%20,", "no field is named")] {
            let got = node.call(method.clone(), &format!("{path}?fields={fields}"), Body::empty()).await;
            let said = refused(&got, "fields", &what);
            assert!(said.contains(says) && said.contains("known are "), "{what}: {said}");
        }
        taking += 1;
    }
    assert!(taking > 20, "{taking}");
    let said = node.get("/api/v1/tasks?fields=id,stat").await.json()["detail"].as_str().unwrap().to_owned();
    assert!(said.contains("did you mean 'state'?"), "{said}");
    let long = node.get(&format!("/api/v1/tasks?fields={}", "x".repeat(5_000))).await;
    assert!(refused(&long, "fields", "a long name").len() < 1_500);
}

#[tokio::test]
async fn who_may_not_call_is_told_that_and_nothing_of_the_parameters() {
    let node = Node::start().await;
    let viewer = node.token("viewer").await;
    let call = |token: String| {
        let node = &node;
        async move { node.call_as(&token, Method::POST, "/api/v1/tasks?nope=1", Body::from("{}")).await }
    };
    let anonymous = call(String::new()).await.is(401);
    let barred = call(viewer).await.is(403);
    for got in [anonymous, barred] {
        assert!(!String::from_utf8_lossy(&got.body).contains("nope="), "{got:?}");
    }
}

#[tokio::test]
async fn every_field_of_an_answer_can_be_asked_for() {
    let node = Node::start().await;
    deploy(&node, "flow", "  - a: {set: {x: 1}}\n").await;
    let run = node.post("/api/v1/workflows/shop/flow/runs?wait=30s", "{}").await.is(200).json();
    let run = run["id"].as_str().unwrap();
    let task = node.post("/api/v1/tasks", r#"{"type":"t","labels":{"a":"b"},"key":"k"}"#).await.is(201).json();
    let task = task["id"].as_str().unwrap();
    let mut fields = 0;
    for path in [
        "/tasks".to_owned(),
        format!("/tasks/{task}"),
        "/runs".to_owned(),
        format!("/runs/{run}"),
        format!("/runs/{run}/journal"),
        "/queues".to_owned(),
        "/queues/default".to_owned(),
        "/queues/default/stats".to_owned(),
        "/workflows".to_owned(),
        "/workflows/shop/flow/1.0.0".to_owned(),
        "/tenants".to_owned(),
        "/tokens".to_owned(),
        "/routing".to_owned(),
    ] {
        let whole = node.get(&format!("/api/v1{path}")).await.is(200).json();
        let items = whole["items"].as_array().cloned().unwrap_or_else(|| vec![whole.clone()]);
        assert!(!items.is_empty(), "{path} is empty");
        let names: BTreeSet<String> = items.iter().flat_map(|item| item.as_object().unwrap().keys().cloned()).collect();
        for name in names {
            let got = node.get(&format!("/api/v1{path}?fields={name}")).await.is(200).json();
            let items = got["items"].as_array().cloned().unwrap_or_else(|| vec![got.clone()]);
            let has = |item: &Value| item.as_object().unwrap().keys().all(|key| *key == name);
            assert!(
                items.iter().all(has) && items.iter().any(|item| item.get(&name).is_some()),
                "{path} {name}: {got}"
            );
            fields += 1;
        }
    }
    assert!(fields > 60, "{fields}");
}
