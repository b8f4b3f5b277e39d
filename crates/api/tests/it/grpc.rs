//! The worker protocol and the bulk client over a real connection.

use std::time::Duration;

use bytes::Bytes;
use tidewheel_proto::v1;
use tidewheel_proto::v1::client_client::ClientClient;
use tidewheel_proto::v1::server_message::Message as ToWorker;
use tidewheel_proto::v1::worker_client::WorkerClient;
use tidewheel_proto::v1::worker_message::Message as FromWorker;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::listener::{Served, serve_node, start};
use crate::node::Node;
use crate::packages::{MANIFEST, archive, put};

pub(crate) async fn channel(served: &Served) -> Channel {
    Endpoint::from_shared(format!("http://{}", served.address)).unwrap().connect().await.unwrap()
}

pub(crate) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

pub(crate) struct Worker {
    out: mpsc::Sender<v1::WorkerMessage>,
    from: Streaming<v1::ServerMessage>,
}

impl Worker {
    pub(crate) async fn connect(served: &Served, token: &str, hello: v1::Hello) -> Result<Worker, Status> {
        let (out, stream) = mpsc::channel(16);
        let worker_message = v1::WorkerMessage { message: Some(FromWorker::Hello(hello)) };
        out.send(worker_message).await.unwrap();
        let mut client = WorkerClient::new(channel(served).await);
        let from = client.connect(with_token(ReceiverStream::new(stream), token)).await?.into_inner();
        Ok(Worker { out, from })
    }

    pub(crate) async fn send(&self, message: FromWorker) {
        self.out.send(v1::WorkerMessage { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Result<ToWorker, Status> {
        let message =
            tokio::time::timeout(Duration::from_secs(10), self.from.message()).await.expect("a message comes");
        Ok(message?.expect("the stream goes on").message.unwrap())
    }

    pub(crate) async fn welcome(&mut self) -> v1::Welcome {
        match self.next().await.unwrap() {
            ToWorker::Welcome(welcome) => welcome,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn grant(&mut self) -> v1::Grant {
        loop {
            if let ToWorker::Grants(mut grants) = self.next().await.unwrap() {
                return grants.grants.remove(0);
            }
        }
    }

    async fn ack(&mut self) -> v1::Ack {
        loop {
            if let ToWorker::Ack(ack) = self.next().await.unwrap() {
                return ack;
            }
        }
    }

    pub(crate) async fn result(&self, token: Bytes, outcome: v1::task_result::Outcome) {
        let result = v1::TaskResult { token, outcome: Some(outcome), artifacts: Vec::new() };
        self.send(FromWorker::Results(v1::Results { results: vec![result] })).await;
    }
}

pub(crate) fn hello(permits: u32) -> v1::Hello {
    let labels = [("os".to_owned(), "linux".to_owned())].into();
    v1::Hello { name: "w1".to_owned(), kind: "sdk".to_owned(), permits, labels, ..v1::Hello::default() }
}

use v1::task_result::Outcome;

#[tokio::test]
async fn a_task_with_a_large_input_goes_to_the_worker_that_holds_it() {
    use sha2::Digest;
    let served = start().await;
    let token = served.node.token("worker").await;
    let inputs = ["a", "b"].map(|letter| format!("\"{}\"", letter.repeat(100_000)));
    let hashes = inputs.each_ref().map(|text| format!("sha256:{}", hex::encode(sha2::Sha256::digest(text))));
    let mut workers = Vec::new();
    for (name, held) in [("w1", &hashes[0]), ("w2", &hashes[1])] {
        let data = vec!["set-1".to_owned(), held.clone()];
        let hello = v1::Hello { name: name.to_owned(), data, ..hello(8) };
        let mut worker = Worker::connect(&served, &token, hello).await.unwrap();
        worker.welcome().await;
        workers.push(worker);
    }
    let id = served.node.submit(&format!(r#"{{"type":"a","input":{}}}"#, inputs[0])).await;
    let task = served.node.get(&format!("/api/v1/tasks/{id}")).await.is(200).json();
    assert_eq!(task["near"], serde_json::json!([hashes[0]]));
    assert_eq!(workers[0].grant().await.input_ref, hashes[0]);
    // Workers that are equally loaded are told apart by what they hold; the second of each pair makes them equal again.
    served.node.submit(&format!(r#"{{"type":"a","input":{}}}"#, inputs[1])).await;
    assert_eq!(workers[1].grant().await.input_ref, hashes[1]);
    for which in [1, 0, 0, 1] {
        served.node.submit(&format!(r#"{{"type":"a","input":{}}}"#, inputs[which])).await;
        let grant = workers[which].grant().await;
        assert!(grant.input_ref == hashes[which] && grant.tenant > 0);
    }
    let shown = served.node.get("/api/v1/workers/w1").await.is(200).json();
    assert_eq!(shown["data"], serde_json::json!(["set-1"]), "what lies in its cache is not shown: {shown}");
}

#[tokio::test]
async fn a_task_goes_from_submit_to_result() {
    let served = start().await;
    let token = served.node.token("worker").await;
    let mut worker = Worker::connect(&served, &token, hello(4)).await.unwrap();
    let welcome = worker.welcome().await;
    assert!(welcome.worker_id.starts_with("work_") && welcome.lease_ms > welcome.heartbeat_ms);
    let id = served.node.submit(r#"{"type":"a","input":{"n":1},"labels":{"x":"y"},"idempotency_key":"k"}"#).await;
    let grant = worker.grant().await;
    assert_eq!((&grant.input[..], grant.attempt, &*grant.queue), (&b"{\"n\":1}"[..], 1, "default"));
    assert_eq!((grant.labels["x"].as_str(), grant.idempotency_key.as_str()), ("y", "k"));
    assert_eq!(grant.task, grant.token[..16]);
    worker.send(FromWorker::Started(v1::Started { tokens: vec![grant.token.clone()] })).await;
    let progress = v1::Progress { token: grant.token.clone(), fraction: 0.5, text: "half".to_owned() };
    worker.send(FromWorker::Progress(progress)).await;
    worker.send(FromWorker::Heartbeat(v1::Heartbeat::default())).await;
    let line = |offset: u64| v1::LogLine {
        token: grant.token.clone(),
        offset,
        at_unix_ms: 1,
        stream: "stdout".to_owned(),
        level: "info".to_owned(),
        text: format!("line {offset}"),
    };
    worker.send(FromWorker::Logs(v1::Logs { sequence: 7, lines: vec![line(0), line(1)] })).await;
    loop {
        if let ToWorker::LogAck(ack) = worker.next().await.unwrap() {
            assert_eq!(ack.sequence, 7);
            break;
        }
    }
    let shown = served.node.get(&format!("/api/v1/tasks/{id}")).await.json();
    assert_eq!((shown["state"].as_str(), shown["progress"]["text"].as_str()), (Some("running"), Some("half")));
    worker.result(grant.token.clone(), Outcome::Ok("[7]".into())).await;
    assert_eq!(worker.ack().await.accepted, 1);
    assert_eq!(served.node.get(&format!("/api/v1/tasks/{id}/result")).await.is(200).body, "[7]");
    // Lines that come after the result still find their attempt.
    worker.send(FromWorker::Logs(v1::Logs { sequence: 8, lines: vec![line(1), line(2)] })).await;
    worker.next().await.unwrap();
    let logs = served.node.get(&format!("/api/v1/tasks/{id}/logs")).await.is(200).json();
    let texts: Vec<_> = logs["items"].as_array().unwrap().iter().map(|l| l["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["line 0", "line 1", "line 2"]);
    assert_eq!(logs["items"][2]["attempt"], 1);
    let found = served.node.get("/api/v1/logs?filter=%22line%202%22").await.is(200).json();
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let followed = served.node.get(&format!("/api/v1/tasks/{id}/logs?follow&tail=1")).await.is(200);
    let text = String::from_utf8(followed.body.to_vec()).unwrap();
    assert!(text.contains("line 2") && !text.contains("line 0") && text.contains("event: end"), "{text}");
    let workers = served.node.get("/api/v1/workers").await.is(200).json();
    assert_eq!((&workers["items"][0]["name"], &workers["items"][0]["labels"]["os"]), (&"w1".into(), &"linux".into()));
}

#[tokio::test]
async fn a_server_of_several_tenants_took_an_agent_that_filters_no_system_calls() {
    let config = tidewheel_api::ApiConfig { require_isolation: true, ..tidewheel_api::ApiConfig::default() };
    let served = serve_node(Node::with(config).await).await;
    let token = served.node.token("worker").await;
    let agent = |walls: &[(&str, &str)]| v1::Hello {
        kind: "agent".to_owned(),
        runs_packages: true,
        own_types: vec!["shell".to_owned()],
        enforced: walls.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..hello(4)
    };
    let (up, filter) = (("sandbox", "bubblewrap"), ("seccomp", "refuses dangerous calls"));
    for (walls, missing) in [
        (&[][..], "no sandbox"),
        (&[("sandbox", "none"), filter][..], "no sandbox"),
        (&[up][..], "no seccomp"),
        (&[up, ("seccomp", "none")][..], "no seccomp"),
    ] {
        // What it calls itself opens nothing: it is the code of packages that has to be walled in.
        for kind in ["agent", "executor"] {
            let hello = v1::Hello { kind: kind.to_owned(), ..agent(walls) };
            let mut worker = Worker::connect(&served, &token, hello).await.unwrap();
            let refused = worker.next().await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition);
            let said = refused.message();
            assert!(said.contains(missing) && said.contains("To have it") && said.contains("bubblewrap"), "{said}");
        }
    }
    let mut worker = Worker::connect(&served, &token, agent(&[up, filter])).await.unwrap();
    assert!(worker.welcome().await.require_isolation);
    served.node.submit(r#"{"type":"shell","input":{"command":"true"}}"#).await;
    let grants = loop {
        if let ToWorker::Grants(grants) = worker.next().await.unwrap() {
            break grants;
        }
    };
    let tenant = grants.grants[0].tenant;
    assert!(tenant > 0, "a grant says whose it is");
    assert!(grants.tenants.is_empty(), "and what its own tenant is called, it knows by its token");
}

#[tokio::test]
async fn a_type_without_code_waits_until_its_package_is_deployed() {
    let served = start().await;
    let node = &served.node;
    let token = node.token("worker").await;
    let own_types = vec!["builtin.*".to_owned()];
    let labels = [("gpu".to_owned(), "true".to_owned())].into();
    let hello = v1::Hello { runs_packages: true, own_types, labels, ..hello(4) };
    let mut worker = Worker::connect(&served, &token, hello).await.unwrap();
    worker.welcome().await;
    let id = node.submit(r#"{"type":"extract"}"#).await;
    let built_in = node.submit(r#"{"type":"builtin.noop"}"#).await;
    let grant = worker.grant().await;
    assert_eq!(grant.r#type, "builtin.noop", "{built_in}");
    let why = node.get(&format!("/api/v1/tasks/{id}/why")).await.is(200).json();
    assert_eq!(why["reasons"][0]["code"], "missing-capability", "{why}");
    assert!(why["reasons"][0]["text"].as_str().unwrap().contains("no package brings type extract"), "{why}");
    let bytes = archive(&[("pdf/tasks.py", "def extract(): pass")]);
    let package = put(node, "/api/v1/packages/pdf/1.0.0", &bytes, MANIFEST).await.is(201).json();
    let grant = worker.grant().await;
    assert_eq!((grant.r#type.as_str(), grant.entrypoint.as_str()), ("extract", "pdf.tasks:extract"));
    assert_eq!(grant.package, package["hash"]);
}

#[tokio::test]
async fn a_server_that_drains_takes_results_logs_and_reconnects() {
    let served = start().await;
    let token = served.node.token("worker").await;
    let mut first = Worker::connect(&served, &token, hello(1)).await.unwrap();
    first.welcome().await;
    let ids = [served.node.submit(r#"{"type":"a"}"#).await, served.node.submit(r#"{"type":"a"}"#).await];
    let grant = first.grant().await;
    served.node.runtime.drain();
    assert!(matches!(first.next().await.unwrap(), ToWorker::Drain(_)));
    drop(first);
    let mut idle = Worker::connect(&served, &token, v1::Hello { name: "w2".to_owned(), ..hello(1) }).await.unwrap();
    assert_eq!(idle.next().await.unwrap_err().code(), Code::Unavailable);
    let resume = vec![v1::Attempt { token: grant.token.clone() }];
    let mut second = Worker::connect(&served, &token, v1::Hello { resume, ..hello(1) }).await.unwrap();
    assert_eq!(second.welcome().await.resumed, std::slice::from_ref(&grant.token));
    assert!(matches!(second.next().await.unwrap(), ToWorker::Drain(_)));
    second.send(FromWorker::Heartbeat(v1::Heartbeat::default())).await;
    let line = v1::LogLine { token: grant.token.clone(), text: "late".to_owned(), ..v1::LogLine::default() };
    second.send(FromWorker::Logs(v1::Logs { sequence: 1, lines: vec![line] })).await;
    assert!(matches!(second.next().await.unwrap(), ToWorker::LogAck(_)));
    second.result(grant.token, Outcome::Ok("1".into())).await;
    assert_eq!(second.ack().await.accepted, 1);
    let state = async |id: &str| served.node.get(&format!("/api/v1/tasks/{id}")).await.json()["state"].clone();
    assert_eq!((state(&ids[0]).await, state(&ids[1]).await), ("succeeded".into(), "queued".into()));
    served.node.runtime.close_sessions();
    assert_eq!(second.next().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_forged_or_late_token_is_refused_and_changes_nothing() {
    let served = start().await;
    let token = served.node.token("worker").await;
    let mut worker = Worker::connect(&served, &token, hello(1)).await.unwrap();
    worker.welcome().await;
    let id = served.node.submit(r#"{"type":"a"}"#).await;
    let grant = worker.grant().await;
    let mut forged = grant.token.to_vec();
    forged[27] ^= 1;
    worker.result(forged.clone().into(), Outcome::Ok("1".into())).await;
    let ack = worker.ack().await;
    assert_eq!((ack.accepted, ack.refused), (0, vec![Bytes::from(forged)]));
    worker.result(grant.token.clone(), Outcome::Ok("2".into())).await;
    assert_eq!(worker.ack().await.accepted, 1);
    worker.result(grant.token.clone(), Outcome::Ok("3".into())).await;
    let ack = worker.ack().await;
    assert_eq!((ack.accepted, ack.refused), (1, vec![grant.token]));
    assert_eq!(served.node.get(&format!("/api/v1/tasks/{id}/result")).await.is(200).body, "2");
}

#[tokio::test]
async fn results_that_cannot_be_kept_fail_the_task() {
    let served = start().await;
    let token = served.node.token("worker").await;
    let mut worker = Worker::connect(&served, &token, hello(1)).await.unwrap();
    worker.welcome().await;
    for (outcome, kind) in [
        (Outcome::Ok("not json".into()), "invalid-result"),
        (Outcome::Ok(format!("\"{}\"", "x".repeat(70_000)).into()), "result-too-large"),
        (Outcome::OkRef(format!("sha256:{}", "0".repeat(64))), "unknown-blob"),
    ] {
        let id = served.node.submit(r#"{"type":"a"}"#).await;
        let grant = worker.grant().await;
        worker.result(grant.token, outcome).await;
        worker.ack().await;
        let shown = served.node.get(&format!("/api/v1/tasks/{id}")).await.json();
        assert_eq!((shown["state"].as_str(), shown["error"]["type"].as_str()), (Some("failed"), Some(kind)));
    }
}

#[tokio::test]
async fn a_reconnected_worker_keeps_its_attempt() {
    let served = start().await;
    let token = served.node.token("worker").await;
    let mut first = Worker::connect(&served, &token, hello(1)).await.unwrap();
    first.welcome().await;
    let id = served.node.submit(r#"{"type":"a"}"#).await;
    let grant = first.grant().await;
    drop(first);
    let resume = vec![v1::Attempt { token: grant.token.clone() }, v1::Attempt { token: Bytes::from_static(b"forged") }];
    let mut second = Worker::connect(&served, &token, v1::Hello { resume, ..hello(1) }).await.unwrap();
    assert_eq!(second.welcome().await.resumed, std::slice::from_ref(&grant.token));
    // The new stream was never told the attempt's number; its lines find it all the same.
    let line = v1::LogLine { token: grant.token.clone(), text: "again".to_owned(), ..v1::LogLine::default() };
    second.send(FromWorker::Logs(v1::Logs { sequence: 1, lines: vec![line] })).await;
    second.next().await.unwrap();
    second.result(grant.token, Outcome::Ok("true".into())).await;
    assert_eq!(second.ack().await.accepted, 1);
    let logs = served.node.get(&format!("/api/v1/tasks/{id}/logs")).await.json();
    assert_eq!(logs["items"][0]["text"], "again");
}

#[tokio::test]
async fn large_results_go_through_blobs() {
    let served = start().await;
    let token = served.node.token("worker").await;
    let mut worker = Worker::connect(&served, &token, hello(1)).await.unwrap();
    worker.welcome().await;
    let big = format!("\"{}\"", "z".repeat(3 << 20));
    let parts = big.as_bytes().chunks(1 << 20).enumerate().map(|(i, chunk)| v1::PutBlobRequest {
        size: if i == 0 { big.len() as u64 } else { 0 },
        data: Bytes::copy_from_slice(chunk),
        token: Bytes::new(),
    });
    let parts: Vec<_> = parts.collect();
    let mut client = WorkerClient::new(channel(&served).await);
    let put = client.put_blob(with_token(tokio_stream::iter(parts), &token)).await.unwrap().into_inner();
    assert_eq!(put.size, big.len() as u64);
    let id = served.node.submit(r#"{"type":"a"}"#).await;
    let grant = worker.grant().await;
    worker.result(grant.token, Outcome::OkRef(put.hash.clone())).await;
    worker.ack().await;
    let got = served.node.get(&format!("/api/v1/tasks/{id}/result")).await.is(200);
    assert_eq!(got.body, big);
    let request = v1::FetchBlobRequest { hash: put.hash, offset: big.len() as u64 - 3, token: Bytes::new() };
    let mut chunks = client.fetch_blob(with_token(request, &token)).await.unwrap().into_inner();
    let chunk = chunks.message().await.unwrap().unwrap();
    assert_eq!((&chunk.data[..], chunk.total), (&b"zz\""[..], big.len() as u64));
    let request =
        v1::FetchBlobRequest { hash: format!("sha256:{}", "0".repeat(64)), ..v1::FetchBlobRequest::default() };
    assert_eq!(client.fetch_blob(with_token(request, &token)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn streams_need_a_token_of_the_right_role() {
    let served = start().await;
    for (token, code) in [
        ("x".to_owned(), Code::Unauthenticated),
        (served.node.token("viewer").await, Code::PermissionDenied),
        (served.node.token("operator").await, Code::PermissionDenied),
    ] {
        match Worker::connect(&served, &token, hello(1)).await {
            Err(status) => assert_eq!(status.code(), code),
            Ok(_) => panic!("{token} was let in"),
        }
    }
    let viewer = served.node.token("viewer").await;
    let mut client = ClientClient::new(channel(&served).await);
    let status = client.submit(with_token(v1::SubmitRequest::default(), &viewer)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let token = served.node.token("worker").await;
    let mut nameless = Worker::connect(&served, &token, v1::Hello::default()).await.unwrap();
    assert_eq!(nameless.next().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_revoked_token_ends_its_stream() {
    let served = start().await;
    let made = served.node.post("/api/v1/tokens", r#"{"name":"w","role":"worker"}"#).await.is(201).json();
    let mut worker = Worker::connect(&served, made["secret"].as_str().unwrap(), hello(1)).await.unwrap();
    worker.welcome().await;
    let path = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    served.node.call(axum::http::Method::DELETE, &path, axum::body::Body::empty()).await.is(204);
    assert_eq!(worker.next().await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_cancel_and_a_drain_reach_the_worker() {
    let served = start().await;
    let token = served.node.token("worker").await;
    let mut worker = Worker::connect(&served, &token, hello(8)).await.unwrap();
    worker.welcome().await;
    let id = served.node.submit(r#"{"type":"a"}"#).await;
    let grant = worker.grant().await;
    served.node.post(&format!("/api/v1/tasks/{id}:cancel"), r#"{"reason":"stop it"}"#).await.is(200);
    match worker.next().await.unwrap() {
        ToWorker::Cancel(cancel) => assert_eq!((cancel.token, &*cancel.reason), (grant.token.clone(), "stop it")),
        other => panic!("{other:?}"),
    }
    let failure = v1::Failure { r#type: "Cancelled".to_owned(), cancelled: true, ..v1::Failure::default() };
    worker.result(grant.token, Outcome::Failed(failure)).await;
    worker.ack().await;
    assert_eq!(served.node.get(&format!("/api/v1/tasks/{id}")).await.json()["state"], "cancelled");
    let near = served.node.get("/api/v1/workers/w11").await.is(404).json();
    assert!(near["detail"].as_str().unwrap().contains("Did you mean 'w1'?"), "{near}");
    let drained = served.node.post("/api/v1/workers/w1:drain", axum::body::Body::empty()).await.is(200).json();
    assert_eq!(drained["state"], "draining");
    served.node.post("/api/v1/workers/w1:resume", axum::body::Body::empty()).await.is(200);
    let patch = r#"{"permits":3,"labels":{"room":"a"}}"#;
    let got = served.node.call(axum::http::Method::PATCH, "/api/v1/workers/w1", patch).await.is(200).json();
    assert_eq!(got["permits"], 3);
    assert!(matches!(worker.next().await.unwrap(), ToWorker::Reconnect(_)));
    drop(worker);
    let mut again = Worker::connect(&served, &token, hello(8)).await.unwrap();
    again.welcome().await;
    let shown = served.node.get("/api/v1/workers/w1").await.is(200).json();
    assert_eq!((shown["permits"].as_u64(), shown["labels"]["room"].as_str()), (Some(3), Some("a")));
}

#[tokio::test]
async fn a_worker_whose_labels_were_changed_is_found_by_its_name_until_it_is_back() {
    let served = start().await;
    let node = &served.node;
    let token = node.token("worker").await;
    let mut worker = Worker::connect(&served, &token, hello(8)).await.unwrap();
    worker.welcome().await;
    let label = async |room: &str| {
        let patch = format!(r#"{{"labels":{{"room":"{room}"}}}}"#);
        node.call(axum::http::Method::PATCH, "/api/v1/workers/w1", patch).await.is(200).json()
    };
    let shown = async || node.get("/api/v1/workers/w1").await.is(200).json();
    let until = async |state: &str| {
        let seen = async {
            loop {
                let got = shown().await;
                if got["state"] == state {
                    return got;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen).await.expect("the state is seen")
    };
    let id = label("a").await["id"].clone();
    assert!(matches!(worker.next().await.unwrap(), ToWorker::Reconnect(_)));
    drop(worker);
    let away = until("reconnecting").await;
    assert_eq!((&away["id"], &away["labels"]["room"]), (&id, &"a".into()), "{away}");
    assert_eq!(node.get("/api/v1/workers").await.is(200).json()["items"][0]["state"], "reconnecting");
    let early = node.post("/api/v1/workers/w1:drain", axum::body::Body::empty()).await.is(409).json();
    assert!(early["detail"].as_str().unwrap().contains("Try again in a moment"), "{early}");
    assert_eq!(label("b").await["labels"]["room"], "b", "while it is away, too");
    let mut worker = Worker::connect(&served, &token, hello(8)).await.unwrap();
    worker.welcome().await;
    let back = shown().await;
    assert_eq!((&back["id"], &back["state"], &back["labels"]["room"]), (&id, &"online".into(), &"b".into()), "{back}");
    // One that ends instead does not come back.
    label("c").await;
    worker.send(FromWorker::Bye(v1::Bye { reason: "it ends".to_owned() })).await;
    let gone = async {
        while node.get("/api/v1/workers/w1").await.status != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("it is gone");
}

/// Waits until the server has done everything that the worker sent: it answers in order.
async fn settle(worker: &mut Worker) {
    worker.send(FromWorker::Started(v1::Started { tokens: vec![Bytes::from_static(b"forged")] })).await;
    assert_eq!(worker.ack().await.refused.len(), 1);
}

#[tokio::test]
async fn permits_of_an_operator_hold_within_what_the_worker_offers() {
    let served = start().await;
    let node = &served.node;
    let token = node.token("worker").await;
    let offers = |permits| v1::Hello { buffer: 4, ..hello(permits) };
    let mut worker = Worker::connect(&served, &token, offers(8)).await.unwrap();
    worker.welcome().await;
    let set = |permits: u32| {
        node.call(axum::http::Method::PATCH, "/api/v1/workers/w1", format!(r#"{{"permits":{permits}}}"#))
    };
    let shown = async || {
        let got = node.get("/api/v1/workers/w1").await.is(200).json();
        (got["permits"].as_u64().unwrap(), got["offered_permits"].as_u64().unwrap(), got["used"].as_u64().unwrap())
    };
    let refused = set(9).await.is(422);
    assert_eq!(refused.code(), "invalid-field");
    let problem = refused.json();
    assert_eq!(problem["errors"][0]["pointer"], "/permits");
    assert!(problem["detail"].as_str().unwrap().contains("more than worker w1 offers, which is 8"), "{problem}");
    assert_eq!(shown().await, (8, 8, 0));
    set(3).await.is(200);
    for _ in 0..20 {
        node.submit(r#"{"type":"a"}"#).await;
    }
    worker.grant().await;
    // Its buffer is not filled either: it would run that, too.
    assert_eq!(shown().await, (3, 8, 3));
    worker.send(FromWorker::Credit(v1::Credit { permits: 8, buffer: 16 })).await;
    settle(&mut worker).await;
    assert_eq!(shown().await, (3, 8, 3));
    worker.send(FromWorker::Credit(v1::Credit { permits: 2, buffer: 0 })).await;
    settle(&mut worker).await;
    assert_eq!(shown().await, (2, 2, 3));
    set(3).await.is(422);
    drop(worker);
    let mut again = Worker::connect(&served, &token, offers(8)).await.unwrap();
    again.welcome().await;
    let (permits, offered, _) = shown().await;
    assert_eq!((permits, offered), (3, 8));
    set(8).await.is(200);
    again.grant().await;
    assert_eq!(shown().await.0, 8);
    set(0).await.is(200);
    assert_eq!(shown().await.0, 0);
}

#[tokio::test]
async fn bulk_submits_are_answered_in_order() {
    let served = start().await;
    let token = served.node.token("operator").await;
    let mut client = ClientClient::new(channel(&served).await);
    let spec = |kind: &str| v1::TaskSpec { r#type: kind.to_owned(), ..v1::TaskSpec::default() };
    let requests: Vec<_> =
        (0..200u64).map(|request| v1::SubmitRequest { request, tasks: vec![spec("a"), spec(""), spec("b")] }).collect();
    let mut answers =
        client.submit_stream(with_token(tokio_stream::iter(requests), &token)).await.unwrap().into_inner();
    let mut expected = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.request, expected);
        expected += 1;
        let codes: Vec<_> = answer.outcomes.iter().map(|o| (o.id.len(), o.error_code.as_str())).collect();
        assert_eq!(codes, [(16, ""), (0, "invalid-field"), (16, "")]);
    }
    assert_eq!(expected, 200);
    assert_eq!(served.node.get("/api/v1/tasks/counts").await.json()["counts"]["queued"], 400);
    let keyed = v1::TaskSpec { idempotency_key: "k".to_owned(), ..spec("c") };
    let request = v1::SubmitRequest { request: 1, tasks: vec![keyed.clone(), keyed] };
    let answer = client.submit(with_token(request, &token)).await.unwrap().into_inner();
    assert_eq!(answer.outcomes[0].id, answer.outcomes[1].id);
    assert!(!answer.outcomes[0].replayed && answer.outcomes[1].replayed);
    let get = v1::GetRequest { id: answer.outcomes[0].id.clone(), wait_ms: 10 };
    let view = client.get(with_token(get, &token)).await.unwrap().into_inner();
    assert_eq!((&*view.state, &*view.r#type), ("queued", "c"));
}

#[tokio::test]
async fn items_are_taken_and_settled_over_grpc() {
    use v1::settle_item_request::How;
    let served = start().await;
    let token = served.node.token("operator").await;
    let mut client = ClientClient::new(channel(&served).await);
    let queue = "default".to_owned();
    let take = || with_token(v1::TakeItemsRequest { queue: queue.clone(), ..v1::TakeItemsRequest::default() }, &token);
    assert!(client.take_items(take()).await.unwrap().into_inner().items.is_empty());
    for n in 0..2 {
        let body = format!(r#"{{"input":{n},"labels":{{"a":"b"}}}}"#);
        served.node.post("/api/v1/queues/default/items", body).await.is(201);
    }
    let first = client.take_items(take()).await.unwrap().into_inner().items.remove(0);
    assert_eq!((&first.input[..], first.attempt, first.lease_ms), (&b"0"[..], 1, 300_000));
    assert_eq!(first.labels["a"], "b");
    let settle = |item: &v1::TakenItem, how: How| {
        let (id, of) = (item.id.clone(), item.token.clone());
        with_token(v1::SettleItemRequest { queue: queue.clone(), id, token: of, how: Some(how) }, &token)
    };
    assert_eq!(client.settle_item(settle(&first, How::Renew(true))).await.unwrap().into_inner().state, "running");
    let done = client.settle_item(settle(&first, How::Done("[1]".into()))).await.unwrap().into_inner();
    assert_eq!((done.state.as_str(), &done.result[..]), ("succeeded", &b"[1]"[..]));
    let late = client.settle_item(settle(&first, How::PostponeMs(1))).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition);
    let second = client.take_items(take()).await.unwrap().into_inner().items.remove(0);
    let broken = client.settle_item(settle(&second, How::Done("{".into()))).await.unwrap_err();
    assert_eq!(broken.code(), Code::InvalidArgument);
    let error = v1::ItemError { business: true, message: "no".to_owned(), ..v1::ItemError::default() };
    let failed = client.settle_item(settle(&second, How::Failed(error))).await.unwrap().into_inner();
    assert_eq!((failed.state.as_str(), failed.error.as_str()), ("failed", "BusinessError: no"));
    let viewer = served.node.token("viewer").await;
    let refused = client.take_items(with_token(v1::TakeItemsRequest::default(), &viewer)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_heartbeat_could_name_packages_without_bound() {
    let served = start().await;
    let mut worker = Worker::connect(&served, &served.node.admin, hello(1)).await.unwrap();
    worker.welcome().await;
    let packages = |count: usize| (0..count).map(|n| format!("local:{n}")).collect();
    let beat = |count| v1::Heartbeat { packages_added: packages(count), ..Default::default() };
    worker.send(FromWorker::Heartbeat(beat(10_000))).await;
    worker.send(FromWorker::Heartbeat(beat(10_001))).await;
    let ended = loop {
        if let Err(status) = worker.next().await {
            break status;
        }
    };
    assert_eq!(ended.code(), Code::InvalidArgument);
    assert!(ended.message().contains("at most 10000 entries in packages_added, not 10001"), "{ended:?}");
}

/// A workflow in Python whose worker gives one large step per activation, so that its turns leave the run.
#[tokio::test]
async fn a_worker_reads_the_history_of_an_activation_that_it_holds_and_no_other() {
    use serde_json::{Value, json};
    let served = start().await;
    let node = &served.node;
    let token = node.token("worker").await;
    let manifest =
        r#"{"format":"folder","entries":[{"name":"long","fn":"flows:long","kind":"workflow","version":"1.0.0"}]}"#;
    let bytes = archive(&[("flows.py", "def long(): pass")]);
    put(node, "/api/v1/packages/flows/1.0.0", &bytes, manifest).await.is(201);
    let mut worker = Worker::connect(&served, &token, hello(1)).await.unwrap();
    worker.welcome().await;
    let run = node.post("/api/v1/runs", r#"{"workflow":"default/long"}"#).await.json();
    let run = run["id"].as_str().unwrap().to_owned();
    let mut client = WorkerClient::new(channel(&served).await);
    let mut history = async |attempt: &Bytes, below: u64| {
        let request = v1::HistoryRequest { token: attempt.clone(), below };
        client.history(with_token(request, &token)).await.map(|answer| answer.into_inner())
    };
    let mut seen: Vec<Value> = Vec::new();
    let mut late = None;
    let mut paged = 0;
    for n in 0..40u64 {
        let grant = worker.grant().await;
        let input: Value = serde_json::from_slice(&grant.input).unwrap();
        let (first, turns) = (input["first"].as_u64().unwrap(), input["turns"].as_array().unwrap());
        assert!(grant.input.len() < 40_000, "{} bytes at turn {n}", grant.input.len());
        assert_eq!(turns.last().unwrap()["no"], n + 1);
        if first > 1 {
            paged += 1;
            let answer = history(&grant.token, first).await.unwrap();
            assert_eq!(answer.first, 1);
            let earlier: Vec<Value> = serde_json::from_slice(&answer.turns).unwrap();
            let all: Vec<Value> = earlier.iter().chain(&turns[..turns.len() - 1]).cloned().collect();
            assert_eq!(all[..seen.len()], seen[..], "the history goes on from what it was");
            assert_eq!(all.len() as u64, n);
            seen = all;
            // Only what is before its turns, and some of it.
            assert_eq!(history(&grant.token, first + 1).await.unwrap_err().code(), Code::InvalidArgument);
            assert_eq!(history(&grant.token, 1).await.unwrap_err().code(), Code::InvalidArgument);
            let answer = history(&grant.token, 2).await.unwrap();
            assert_eq!(serde_json::from_slice::<Vec<Value>>(&answer.turns).unwrap(), seen[..1]);
            let mut forged = grant.token.to_vec();
            forged[3] ^= 1;
            assert_eq!(history(&forged.into(), first).await.unwrap_err().code(), Code::PermissionDenied);
        }
        let result = if n < 39 {
            let key = format!("/step:big#{n}");
            let step = json!({"key": key, "kind": "step", "name": "big", "hash": "00", "value": "x".repeat(5_000)});
            json!({"v": 1, "commands": [step], "wait": [], "again": true})
        } else {
            json!({"v": 1, "commands": [], "end": {"ok": n}})
        };
        worker.result(grant.token.clone(), Outcome::Ok(result.to_string().into())).await;
        late = Some((grant.token, first));
    }
    worker.ack().await;
    let done = node.get(&format!("/api/v1/runs/{run}?wait=30s")).await.is(200).json();
    assert_eq!(done["phase"], "completed", "{done}");
    assert!(paged > 30, "its turns left the run: {paged}");
    let (attempt, first) = late.unwrap();
    let stale = history(&attempt, first).await.unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition);
    assert!(stale.message().contains("not current"), "{stale}");
    // Another task has no history, and the run has its whole one, also after its end.
    node.submit(r#"{"type":"a"}"#).await;
    let grant = worker.grant().await;
    assert_eq!(history(&grant.token, 2).await.unwrap_err().code(), Code::FailedPrecondition);
    let whole = node.get(&format!("/api/v1/runs/{run}/history")).await.is(200).json();
    let turns = whole["turns"].as_array().unwrap();
    assert_eq!((turns.len(), whole["first"].as_u64()), (40, Some(1)));
    assert_eq!(turns[..seen.len()], seen[..]);
    assert!(whole.get("before").is_none());
}
