//! Enrolment: a join token is used once, its agent is held to it, and groups are seen.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use tidewheel_api::{ApiConfig, Authority, SignedCertificate};
use tidewheel_proto::{token, v1};

use crate::grpc::{Worker, hello};
use crate::listener;
use crate::node::Node;

fn secret(n: u8) -> String {
    token::encode(&[n; 32])
}

async fn make(node: &Node, more: Value) -> Value {
    let mut body = json!({ "name": "berlin-1" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    node.post("/api/v1/enrolments", body.to_string()).await.is(201).json()
}

async fn redeem(node: &Node, join: &str, n: u8) -> crate::node::Got {
    let body = json!({ "secret": secret(n), "name": "agent-1" }).to_string();
    node.call_as(join, Method::POST, "/api/v1/enrolments:redeem", body).await
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}

#[tokio::test]
async fn a_join_token_enrols_one_agent_and_the_same_call_again_is_answered_again() {
    let node = Node::start().await;
    let made = make(&node, json!({ "group": "berlin", "queues": ["pdf"], "labels": { "rack": "r1" } })).await;
    let (id, join) = (text(&made, "id"), text(&made, "secret"));
    assert!(join.starts_with("twj_") && made["state"] == "open");
    // It opens nothing but its one door.
    node.call_as(&join, Method::GET, "/api/v1/whoami", Body::empty()).await.is(403);
    node.call_as(&join, Method::POST, "/api/v1/tasks", r#"{"type":"x"}"#).await.is(403);
    let got = redeem(&node, &join, 7).await.is(200).json();
    assert_eq!((&got["id"], &got["credential"], &got["group"]), (&json!(id), &json!("token"), &json!("berlin")));
    // The answer was lost: the same call again.
    redeem(&node, &join, 7).await.is(200);
    let other = redeem(&node, &join, 8).await.is(409);
    assert!(other.json()["detail"].as_str().unwrap().contains("used at"), "{other:?}");
    let own = token::text(&id, &[7; 32]);
    let who = node.call_as(&own, Method::GET, "/api/v1/whoami", Body::empty()).await.is(200).json();
    assert_eq!(who["role"], "worker");
    let shown = node.get(&format!("/api/v1/enrolments/{id}")).await.is(200).json();
    assert_eq!(
        (&shown["state"], &shown["agent"], &shown["credential"]),
        (&json!("enrolled"), &json!("agent-1"), &json!("token"))
    );
    assert!(shown.get("secret").is_none() && !shown.to_string().contains(&secret(7)));
    // A new key, whose answer is lost: the old one asks again, and is refused once the new one is used.
    let rotate = async |own: &str, n: u8| {
        let body = json!({ "secret": secret(n) }).to_string();
        node.call_as(own, Method::POST, "/api/v1/enrolments:rotate", body).await
    };
    rotate(&own, 8).await.is(200);
    rotate(&own, 9).await.is(200);
    let lost = token::text(&id, &[8; 32]);
    node.call_as(&lost, Method::GET, "/api/v1/whoami", Body::empty()).await.is(401);
    node.call_as(&own, Method::GET, "/api/v1/whoami", Body::empty()).await.is(200);
    let rotated = token::text(&id, &[9; 32]);
    node.call_as(&rotated, Method::GET, "/api/v1/whoami", Body::empty()).await.is(200);
    refused(&node, &own).await;
    rotate(&own, 7).await.is(401);
    redeem(&node, &join, 7).await.is(409);
    node.call(Method::DELETE, &format!("/api/v1/enrolments/{id}"), Body::empty()).await.is(204);
    node.call_as(&rotated, Method::GET, "/api/v1/whoami", Body::empty()).await.is(401);
    redeem(&node, &join, 7).await.is(401);
}

/// Waits until a credential is refused: what settles it is a commit that nobody waits for.
async fn refused(node: &Node, own: &str) {
    for _ in 0..6_000 {
        if node.call_as(own, Method::GET, "/api/v1/whoami", Body::empty()).await.status == 401 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the old key is still taken");
}

#[tokio::test]
async fn a_join_token_could_be_used_under_the_name_of_another_agent() {
    let node = Node::start().await;
    enrolled(&node, json!({ "name": "first" }), "one", 1).await;
    let made = make(&node, json!({ "name": "second" })).await;
    let redeem = async |join: &str, name: &str| {
        let body = json!({ "secret": secret(2), "name": name }).to_string();
        node.call_as(join, Method::POST, "/api/v1/enrolments:redeem", body).await
    };
    for theirs in ["one", "first"] {
        let got = redeem(&text(&made, "secret"), theirs).await.is(400).json().to_string();
        assert!(got.contains(&format!("'{theirs}' is that of another")) && got.contains("/name"), "{got}");
    }
    assert_eq!(node.get(&format!("/api/v1/enrolments/{}", text(&made, "id"))).await.is(200).json()["state"], "open");
    // Its own name, and one that is free; the same call again is no other agent.
    redeem(&text(&made, "secret"), "two").await.is(200);
    redeem(&text(&made, "secret"), "two").await.is(200);
    // An admin may give a name twice: a machine that is set up anew comes back under it.
    let again = make(&node, json!({ "name": "first" })).await;
    redeem(&text(&again, "secret"), "first").await.is(200);
}

#[tokio::test]
async fn of_many_that_use_a_join_token_at_once_exactly_one_wins() {
    let node = Node::start().await;
    let join = text(&make(&node, json!({})).await, "secret");
    let calls = (0..20).map(|n| redeem(&node, &join, n));
    let statuses: Vec<u16> = futures::future::join_all(calls).await.iter().map(|got| got.status).collect();
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|s| matches!(s, 200 | 409)), "{statuses:?}");
}

#[tokio::test]
async fn an_expired_join_token_says_so_and_bad_ones_are_not_made() {
    let node = Node::start().await;
    let join = text(&make(&node, json!({ "expires_in": "1ms" })).await, "secret");
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let got = redeem(&node, &join, 1).await.is(401);
    assert!(got.json()["detail"].as_str().unwrap().contains("expired"), "{got:?}");
    let all = node.get("/api/v1/enrolments").await.is(200).json();
    assert_eq!(all["items"][0]["state"], "expired");
    for (more, field) in [
        (json!({ "expires_in": "31d" }), "/expires_in"),
        (json!({ "queues": ["no such/name"] }), "/queues/0"),
        (json!({ "group": "" }), "/group"),
    ] {
        let mut body = json!({ "name": "x" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let got = node.post("/api/v1/enrolments", body.to_string()).await.is(400).json();
        assert!(got.to_string().contains(field), "{got}");
    }
    // An agent of one tenant cannot be made one of all, and a token of this role is made here alone.
    node.post("/api/v1/tokens", r#"{"name":"x","role":"join"}"#).await.is(400);
    let admin = node.token("admin").await;
    let body = r#"{"name":"x","system":true}"#;
    node.call_as(&admin, Method::POST, "/api/v1/enrolments", body).await.is(403);
}

#[tokio::test]
async fn an_enrolled_agent_is_held_to_its_queues_labels_and_group() {
    let served = listener::start().await;
    let made = make(&served.node, json!({ "group": "berlin", "queues": ["pdf"], "labels": { "rack": "r1" } })).await;
    redeem(&served.node, &text(&made, "secret"), 3).await.is(200);
    let own = token::text(&text(&made, "id"), &[3; 32]);
    let mut worker = Worker::connect(&served, &own, hello(4)).await.expect("it connects");
    worker.welcome().await;
    let groups = served.node.get("/api/v1/groups").await.is(200).json();
    assert_eq!((&groups["items"][0]["name"], &groups["items"][0]["queues"]), (&json!("berlin"), &json!(["pdf"])));
    assert_eq!((&groups["items"][0]["online"], &groups["items"][0]["permits"]), (&json!(1), &json!(4)));
    let found = served.node.get("/api/v1/workers?filter=group:berlin").await.is(200).json();
    assert_eq!(found["items"][0]["labels"]["rack"], "r1");
    assert_eq!(served.node.get("/api/v1/workers?filter=group:paris").await.is(200).json()["items"], json!([]));
    let greedy = v1::Hello { name: "greedy".into(), queues: vec!["mail".into()], ..hello(1) };
    let refused = match Worker::connect(&served, &own, greedy).await {
        Ok(mut worker) => worker.next().await.expect_err("it is refused"),
        Err(status) => status,
    };
    assert!(refused.message().contains("may not serve 'mail'"), "{refused:?}");
    // Its record goes, and with it its stream.
    let path = format!("/api/v1/enrolments/{}", text(&made, "id"));
    served.node.call(Method::DELETE, &path, Body::empty()).await.is(204);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), async {
        loop {
            if let Err(status) = worker.next().await {
                break status;
            }
        }
    });
    assert_eq!(ended.await.expect("it is cut off").code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn a_certificate_takes_the_place_of_the_secret() {
    let sign = |csr: &str, id: &str| match csr {
        "good" => {
            let pem = format!("certificate of {id}");
            Ok(SignedCertificate { pem, der: b"der".to_vec(), not_after_ms: 1_900_000_000_000 })
        }
        _ => Err("it is none".to_owned()),
    };
    let config = ApiConfig { authority: Some(Authority(Arc::new(sign))), ..ApiConfig::default() };
    let node = Node::with(config).await;
    let made = make(&node, json!({})).await;
    let (id, join) = (text(&made, "id"), text(&made, "secret"));
    let body = |csr: &str| json!({ "secret": secret(5), "csr": csr }).to_string();
    let path = "/api/v1/enrolments:redeem";
    let bad = node.call_as(&join, Method::POST, path, body("bad")).await.is(400);
    assert!(bad.json().to_string().contains("/csr"));
    let got = node.call_as(&join, Method::POST, path, body("good")).await.is(200).json();
    assert_eq!(
        (&got["credential"], &got["certificate"]),
        (&json!("certificate"), &json!(format!("certificate of {id}")))
    );
    assert_eq!(got["certificate_expires_at"], "2030-03-17T17:46:40.000Z", "{got}");
    // The secret opens nothing, and neither does the id without the connection that shows the certificate.
    node.call_as(&token::text(&id, &[5; 32]), Method::GET, "/api/v1/whoami", Body::empty()).await.is(401);
    let request = node.request(Method::GET, "/api/v1/whoami", "").header("authorization", format!("Certificate {id}"));
    let got = node.send(request.body(Body::empty()).unwrap()).await.is(401);
    assert!(got.json()["detail"].as_str().unwrap().contains("shows no client certificate"));
}

/// An agent that has enrolled under a name: its token.
async fn enrolled(node: &Node, more: Value, agent: &str, n: u8) -> String {
    let made = make(node, more).await;
    let body = json!({ "secret": secret(n), "name": agent }).to_string();
    let path = "/api/v1/enrolments:redeem";
    node.call_as(&text(&made, "secret"), Method::POST, path, body).await.is(200);
    token::text(&text(&made, "id"), &[n; 32])
}

async fn refusal(served: &listener::Served, token: &str, hello: v1::Hello) -> tonic::Status {
    match Worker::connect(served, token, hello).await {
        Ok(mut worker) => worker.next().await.expect_err("it is refused"),
        Err(status) => status,
    }
}

#[tokio::test]
async fn an_enrolled_agent_could_connect_under_the_name_of_another_one() {
    let served = listener::start().await;
    let one = enrolled(&served.node, json!({ "name": "first" }), "one", 1).await;
    let two = enrolled(&served.node, json!({ "name": "second" }), "two", 2).await;
    let named = |name: &str| v1::Hello { name: name.into(), ..hello(1) };
    for theirs in ["one", "first"] {
        let refused = refusal(&served, &two, named(theirs)).await;
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(refused.message().contains(&format!("'{theirs}' is that of another")), "{refused:?}");
    }
    for (token, name) in [(&one, "one"), (&two, "two"), (&two, "second"), (&two, "free")] {
        Worker::connect(&served, token, named(name)).await.expect("it connects").welcome().await;
    }
}

#[tokio::test]
async fn an_enrolled_agent_could_take_items_of_queues_it_is_not_bound_to() {
    let node = Node::start().await;
    for queue in ["pdf", "mail"] {
        node.call(Method::PUT, &format!("/api/v1/queues/{queue}"), "{}").await.is(201);
        node.post(&format!("/api/v1/queues/{queue}/items"), r#"{"input":1}"#).await.is(201);
    }
    let own = enrolled(&node, json!({ "queues": ["pdf"] }), "one", 1).await;
    let take =
        async |queue: &str| node.call_as(&own, Method::POST, &format!("/api/v1/queues/{queue}/items:take"), "{}").await;
    let refused = take("mail").await.is(403).json();
    assert!(refused["detail"].as_str().unwrap().contains("may not take or settle items of 'mail'"), "{refused}");
    let item = take("pdf").await.is(200).json()["items"][0].clone();
    let done = async |queue: &str| {
        let path = format!("/api/v1/queues/{queue}/items/{}:done", text(&item, "id"));
        node.call_as(&own, Method::POST, &path, json!({ "token": item["token"] }).to_string()).await
    };
    done("mail").await.is(403);
    done("pdf").await.is(200);
}

#[tokio::test]
async fn join_tokens_that_nobody_used_piled_up_without_bound() {
    let node = Node::start().await;
    make(&node, json!({ "name": "short", "expires_in": "1ms" })).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let made: Vec<_> = (0..1_000).map(|_| make(&node, json!({}))).collect();
    let made = futures::future::join_all(made).await;
    let names = node.get("/api/v1/enrolments?limit=1000").await.is(200).json();
    assert!(!names.to_string().contains("short"), "the expired one is gone");
    let refused = node.post("/api/v1/enrolments", r#"{"name":"one-more"}"#).await.is(409).json();
    assert!(refused["detail"].as_str().unwrap().contains("1000 join tokens"), "{refused}");
    // One that was used is a token that waits no more.
    redeem(&node, &text(&made[0], "secret"), 1).await.is(200);
    make(&node, json!({})).await;
}
