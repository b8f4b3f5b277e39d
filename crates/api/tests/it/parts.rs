//! Packages as parts: versions share them, nothing is stored or sent twice, and what nothing names goes.

use axum::http::Method;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidewheel_proto::v1::server_message::Message as ToWorker;
use tidewheel_proto::v1::worker_client::WorkerClient;
use tidewheel_proto::v1::worker_message::Message as FromWorker;
use tidewheel_proto::{chunk, v1};
use tidewheel_store::blob::{BlobFigures, Blobs, Pending};
use tokio_stream::StreamExt;

use crate::grpc::{Worker, channel, hello, with_token};
use crate::listener;
use crate::node::{MemoryBlobs, Node};
use crate::packages::{archive, put};
use crate::tasks::finished;
use crate::tenancy::tenant;

const MANIFEST: &str = r#"{"format":"folder","entries":[{"name":"extract","fn":"pdf:extract"}]}"#;

/// Text that does not pack well, different for each seed.
fn noise(bytes: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(33 + (state >> 40) as u8 % 94)
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn version(change: &str) -> Vec<u8> {
    let (a, b, c) = (noise(400_000, 1), noise(400_000, 2), noise(400_000, 3));
    archive(&[("a.txt", &a), ("b.txt", &b), ("pdf.py", change), ("c.txt", &c)])
}

fn parts(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    chunk::split(bytes, |part| {
        out.push((format!("sha256:{}", hex::encode(Sha256::digest(part))), part.to_vec()));
        true
    })
    .unwrap();
    out
}

fn hash_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Uploads as the command line does; the bytes that were sent.
async fn push(node: &Node, version: &str, bytes: &[u8]) -> (u64, Value) {
    let parts = parts(bytes);
    let hashes: Vec<&str> = parts.iter().map(|(hash, _)| hash.as_str()).collect();
    let asked = json!({ "hashes": hashes }).to_string();
    let missing = node.post("/api/v1/blobs:missing", asked).await.is(200).json();
    let missing: Vec<&str> = missing["missing"].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect();
    let mut sent = 0;
    for (hash, part) in parts.iter().filter(|(hash, _)| missing.contains(&hash.as_str())) {
        sent += part.len() as u64;
        node.call(Method::PUT, &format!("/api/v1/blobs/{hash}"), part.clone()).await.is(201);
    }
    let listed: Vec<Value> = parts.iter().map(|(hash, part)| json!({ "hash": hash, "size": part.len() })).collect();
    let manifest: Value = serde_json::from_str(MANIFEST).unwrap();
    let body = json!({ "hash": hash_of(bytes), "manifest": manifest, "parts": listed });
    let path = format!("/api/v1/packages/pdf/{version}");
    let request = node.request(Method::PUT, &path, &node.admin).header("content-type", "application/json");
    (sent, node.send(request.body(body.to_string().into()).unwrap()).await.is(201).json())
}

#[tokio::test]
async fn a_second_upload_sends_nothing_and_a_new_version_what_changed() {
    let node = Node::start().await;
    let one = version("def extract(): return 1");
    let (sent, _) = push(&node, "1", &one).await;
    assert_eq!(sent, one.len() as u64);
    let (sent, stored) = push(&node, "1-again", &one).await;
    assert_eq!((sent, &stored["new_bytes"]), (0, &json!(0)));
    let two = version("def extract(): return 2, 'and more'");
    let (sent, stored) = push(&node, "2", &two).await;
    assert!(sent > 0 && sent < two.len() as u64 / 2, "{sent} of {} bytes", two.len());
    for (version, bytes) in [("1", &one), ("1-again", &one), ("2", &two)] {
        let content = node.get(&format!("/api/v1/packages/pdf/{version}/content")).await.is(200);
        assert!(content.body == *bytes);
    }
    // A range that goes over the border of a part.
    let path = format!("/api/v1/blobs/{}", stored["hash"].as_str().unwrap());
    let request = node.request(Method::GET, &path, &node.admin).header("range", "bytes=100-700000");
    let got = node.send(request.body(axum::body::Body::empty()).unwrap()).await.is(206);
    assert_eq!(got.body, two[100..=700_000]);
    // An upload as a whole is stored as the same parts.
    let got = put(&node, "/api/v1/packages/pdf/2-whole", &two, MANIFEST).await.is(201).json();
    assert_eq!(got["new_bytes"], 0);
}

#[tokio::test]
async fn parts_that_are_missing_or_do_not_fit_are_refused() {
    let node = Node::start().await;
    let bytes = version("x = 1");
    let manifest: Value = serde_json::from_str(MANIFEST).unwrap();
    let send = async |parts: Value, hash: String| {
        let body = json!({ "hash": hash, "manifest": manifest, "parts": parts }).to_string();
        let request = node.request(Method::PUT, "/api/v1/packages/pdf/1", &node.admin);
        node.send(request.header("content-type", "application/json").body(body.into()).unwrap()).await
    };
    let listed: Vec<Value> = parts(&bytes).iter().map(|(hash, p)| json!({ "hash": hash, "size": p.len() })).collect();
    let got = send(json!(listed), hash_of(&bytes)).await.is(409);
    assert!(got.json()["detail"].as_str().unwrap().contains("blobs:missing"));
    for (hash, part) in parts(&bytes) {
        node.call(Method::PUT, &format!("/api/v1/blobs/{hash}"), part).await.is(201);
    }
    let got = send(json!(listed), hash_of(b"other")).await.is(400);
    assert!(got.json().to_string().contains("/hash"));
    let got = send(json!([{ "hash": "sha256:x", "size": 1 }]), hash_of(&bytes)).await.is(400);
    assert!(got.json().to_string().contains("/parts/0/hash"));
    let got = send(json!([{ "hash": hash_of(b""), "size": 1 << 30 }]), hash_of(&bytes)).await.is(400);
    assert!(got.json().to_string().contains("/parts/0/size"));
    // A wrong size, though the hash is that of what would come out.
    let mut short = listed.clone();
    short[1]["size"] = json!(1);
    let cut: Vec<u8> = parts(&bytes)
        .iter()
        .enumerate()
        .flat_map(|(i, (_, p))| p[..if i == 1 { 1 } else { p.len() }].to_vec())
        .collect();
    let got = send(json!(short), hash_of(&cut)).await.is(400).json().to_string();
    assert!(got.contains("/parts/1/size") && got.contains(parts(&bytes)[1].0.as_str()), "{got}");
    send(json!(listed), hash_of(&bytes)).await.is(201);
    assert!(node.get("/api/v1/packages/pdf/1/content").await.is(200).body == bytes);
}

#[tokio::test]
async fn a_task_of_one_tenant_on_a_shared_agent_read_the_blob_of_another_by_its_hash() {
    let served = listener::start().await;
    let node = &served.node;
    let ann = tenant(node, "ann").await;
    let put = async |token: &str, content: &'static str| {
        let got = node.call_as(token, Method::PUT, "/api/v1/blobs", content).await.is(201).json();
        got["hash"].as_str().unwrap().to_owned()
    };
    let hers = put(&ann, "of ann").await;
    let others = put(&node.admin, "of another tenant").await;
    let bytes = version("def extract(): return 1");
    let (_, stored) = push(node, "1", &bytes).await;
    let package = stored["hash"].as_str().unwrap().to_owned();
    let mut shared = Worker::connect(&served, &node.admin, hello(1)).await.unwrap();
    shared.welcome().await;
    node.call_as(&ann, Method::POST, "/api/v1/tasks", r#"{"type":"a"}"#).await.is(201);
    let attempt = shared.grant().await.token;
    let client = WorkerClient::new(channel(&served).await);
    let fetch = async |hash: &str, token: &Bytes| {
        let asked = v1::FetchBlobRequest { hash: hash.to_owned(), offset: 0, token: token.clone() };
        client.clone().fetch_blob(with_token(asked, &node.admin)).await.map(drop).map_err(|status| status.code())
    };
    let none = Bytes::new();
    assert_eq!(fetch(&hers, &attempt).await, Ok(()));
    assert_eq!(fetch(&others, &attempt).await, Err(tonic::Code::NotFound));
    assert_eq!(fetch(&package, &attempt).await, Err(tonic::Code::NotFound));
    assert_eq!(
        fetch(&hers, &none).await,
        Err(tonic::Code::NotFound),
        "no package, and of another tenant than the agent"
    );
    assert_eq!(fetch(&package, &none).await, Ok(()));
    let asked = |token: &Bytes| v1::PackagePartsRequest { hash: package.clone(), token: token.clone() };
    assert!(client.clone().package_parts(with_token(asked(&none), &node.admin)).await.is_ok());
    let refused = client.clone().package_parts(with_token(asked(&attempt), &node.admin)).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn an_unreadable_package_of_one_tenant_ended_the_sweep_for_those_after_it() {
    let node = Node::start().await;
    let (_, stored) = push(&node, "1", &version("def extract(): return 1")).await;
    let list = hex::decode(stored["parts"].as_str().unwrap().trim_start_matches("sha256:")).unwrap();
    let first = node.runtime.directory().tenants().iter().map(|t| t.id.0).min().unwrap();
    let age = std::time::Duration::from_secs(1);
    assert!(node.runtime.blobs().remove(first, list.try_into().unwrap(), age).await.unwrap());
    let ann = tenant(&node, "ann").await;
    let mine = node.call(Method::PUT, "/api/v1/blobs", "kept").await.is(201).json();
    let hers = node.call_as(&ann, Method::PUT, "/api/v1/blobs", "given up").await.is(201).json();
    assert_eq!(tidewheel_api::sweep_blobs(&node.runtime, age).await, 1);
    node.get(&format!("/api/v1/blobs/{}", mine["hash"].as_str().unwrap())).await.is(200);
    let path = format!("/api/v1/blobs/{}", hers["hash"].as_str().unwrap());
    node.call_as(&ann, Method::GET, &path, "").await.is(404);
}

#[tokio::test]
async fn a_deploy_is_told_to_the_agents_that_serve_it_and_a_rollout_waits_for_them() {
    let served = listener::start().await;
    let node = &served.node;
    let agent = |name: &str, queue: &str| v1::Hello {
        name: name.into(),
        queues: vec![queue.into()],
        runs_packages: true,
        ..hello(2)
    };
    let mut serving = Worker::connect(&served, &node.admin, agent("one", "default")).await.unwrap();
    let mut other = Worker::connect(&served, &node.admin, agent("two", "mail")).await.unwrap();
    serving.welcome().await;
    other.welcome().await;
    let bytes = version("def extract(): return 1");
    let (_, stored) = push(node, "1", &bytes).await;
    let hash = stored["hash"].as_str().unwrap().to_owned();
    match serving.next().await.unwrap() {
        ToWorker::PackageHint(hint) => assert_eq!(hint.packages[0], hash),
        other => panic!("{other:?}"),
    }
    // What it is told of it can fetch: all of it, and parts of it; also when somebody has stored the archive as a whole.
    node.call(Method::PUT, "/api/v1/blobs", bytes.clone()).await.is(201);
    let mut client = WorkerClient::new(channel(&served).await);
    let asked = v1::PackagePartsRequest { hash: hash.clone(), token: Bytes::new() };
    let list = client.package_parts(with_token(asked, &node.admin)).await.unwrap().into_inner();
    assert_eq!((list.size, list.parts.len()), (bytes.len() as u64, parts(&bytes).len()));
    let wanted = v1::FetchPartsRequest { hash: hash.clone(), parts: vec![1, 2], token: Bytes::new() };
    let chunks = client.fetch_parts(with_token(wanted, &node.admin)).await.unwrap().into_inner();
    let got: Vec<u8> = chunks.map(|c| c.unwrap().data.to_vec()).collect::<Vec<_>>().await.concat();
    assert!(got == [parts(&bytes)[1].1.clone(), parts(&bytes)[2].1.clone()].concat());
    let whole = v1::FetchBlobRequest { hash: hash.clone(), offset: 5, token: Bytes::new() };
    let chunks = client.fetch_blob(with_token(whole, &node.admin)).await.unwrap().into_inner();
    let got: Vec<u8> = chunks.map(|c| c.unwrap().data.to_vec()).collect::<Vec<_>>().await.concat();
    assert!(got == bytes[5..]);
    let wrong = v1::FetchPartsRequest { hash: hash.clone(), parts: vec![9_999], token: Bytes::new() };
    assert!(client.fetch_parts(with_token(wrong, &node.admin)).await.is_err());
    let again = v1::FetchPartsRequest { hash: hash.clone(), parts: vec![1, 1], token: Bytes::new() };
    assert!(client.fetch_parts(with_token(again, &node.admin)).await.is_err());

    let got = node.post("/api/v1/packages/pdf/1:prefetch", "").await.is(202);
    let path = format!("/api/v1/operations/{}", got.json()["id"].as_str().unwrap());
    assert!(matches!(serving.next().await.unwrap(), ToWorker::PackageHint(_)));
    let fault = v1::PackageFault { hash: hash.clone(), reason: "no room".into() };
    serving.send(FromWorker::Heartbeat(v1::Heartbeat { packages_failed: vec![fault], ..Default::default() })).await;
    let failed = finished(node, &path).await;
    assert_eq!((&failed["state"], &failed["seen"], &failed["failed"]), (&json!("done"), &json!(1), &json!(1)));
    assert_eq!((&failed["agents"][0]["agent"], &failed["agents"][0]["detail"]), (&json!("one"), &json!("no room")));

    // A newer version serves the type; the older one comes back when its agent has it, and not before.
    push(node, "2", &version("def extract(): return 2")).await;
    let got = node.post("/api/v1/packages/pdf/1:rollout", r#"{"timeout":"50ms"}"#).await.is(202).json();
    let late = finished(node, &format!("/api/v1/operations/{}", got["id"].as_str().unwrap())).await;
    assert_eq!((&late["state"], &late["agents"][0]["state"]), (&json!("failed"), &json!("late")));
    let types = node.get("/api/v1/task-types").await.is(200).json();
    assert_eq!(types["items"][0]["version"], "2");
    let got = node.post("/api/v1/packages/pdf/1:rollout", "{}").await.is(202).json();
    let beat = v1::Heartbeat { packages_added: vec![hash], ..Default::default() };
    serving.send(FromWorker::Heartbeat(beat)).await;
    let done = finished(node, &format!("/api/v1/operations/{}", got["id"].as_str().unwrap())).await;
    assert_eq!((&done["state"], &done["done"], &done["package"]), (&json!("done"), &json!(1), &json!("pdf@1")));
    let types = node.get("/api/v1/task-types").await.is(200).json();
    assert_eq!(types["items"][0]["version"], "1");
    let metrics = node.get("/metrics").await.is(200);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(
        metrics.contains("tidewheel_package_bytes_total{direction=\"uploaded\"}")
            || metrics.contains("tidewheel_package_cache_hits_total")
    );
    for (path, body) in
        [("rollout", r#"{"percent":101}"#), ("prefetch", r#"{"percent":1}"#), ("rollout", r#"{"timeout":"2h"}"#)]
    {
        node.post(&format!("/api/v1/packages/pdf/1:{path}"), body).await.is(400);
    }
}

#[tokio::test]
async fn a_rollout_gave_new_tasks_a_version_that_was_yanked_meanwhile() {
    let served = listener::start().await;
    let node = &served.node;
    let agent = v1::Hello { name: "one".into(), queues: vec!["default".into()], runs_packages: true, ..hello(2) };
    let mut serving = Worker::connect(&served, &node.admin, agent).await.unwrap();
    serving.welcome().await;
    let (_, stored) = push(node, "1", &version("def extract(): return 1")).await;
    push(node, "2", &version("def extract(): return 2")).await;
    let got = node.post("/api/v1/packages/pdf/1:rollout", "{}").await.is(202).json();
    node.post("/api/v1/packages/pdf/1:yank", "").await.is(200);
    let added = vec![stored["hash"].as_str().unwrap().to_owned()];
    serving.send(FromWorker::Heartbeat(v1::Heartbeat { packages_added: added, ..Default::default() })).await;
    let failed = finished(node, &format!("/api/v1/operations/{}", got["id"].as_str().unwrap())).await;
    assert_eq!((&failed["state"], &failed["done"]), (&json!("failed"), &json!(1)));
    assert!(failed["detail"].as_str().unwrap().contains("pdf@1 is yanked"), "{failed}");
    let types = node.get("/api/v1/task-types").await.is(200).json();
    assert_eq!(types["items"][0]["version"], "2");
}

#[tokio::test]
async fn blobs_that_nothing_names_go_and_all_others_stay() {
    let node = Node::start().await;
    let bytes = version("def extract(): return 1");
    push(&node, "1", &bytes).await;
    let blob = async |content: String| {
        let got = node.call(Method::PUT, "/api/v1/blobs", content).await.is(201).json();
        got["hash"].as_str().unwrap().to_owned()
    };
    let orphan = blob("an upload that was given up".into()).await;
    let named = blob("read by a task".into()).await;
    let large = json!({ "type": "t", "input": { "file": named, "text": "y".repeat(100_000) } });
    let small = blob("read by a small task".into()).await;
    let task = node.submit(&large.to_string()).await;
    node.submit(&json!({ "type": "t", "input": { "file": small } }).to_string()).await;
    let gone = tidewheel_api::sweep_blobs(&node.runtime, std::time::Duration::from_secs(1)).await;
    assert_eq!(gone, 1);
    node.get(&format!("/api/v1/blobs/{orphan}")).await.is(404);
    node.get(&format!("/api/v1/blobs/{named}")).await.is(200);
    node.get(&format!("/api/v1/blobs/{small}")).await.is(200);
    node.get(&format!("/api/v1/tasks/{task}")).await.is(200);
    assert!(node.get("/api/v1/packages/pdf/1/content").await.is(200).body == bytes);
}

/// Blobs of which one is read for the first time only when somebody lets it.
struct Held {
    blobs: MemoryBlobs,
    asked: tokio::sync::Notify,
    go_on: tokio::sync::Notify,
    hash: std::sync::OnceLock<[u8; 32]>,
    once: std::sync::Once,
}

impl Blobs for Held {
    fn put(&self, tenant: u32, bytes: Bytes) -> Pending<'_, [u8; 32]> {
        self.blobs.put(tenant, bytes)
    }
    fn put_file<'a>(&'a self, tenant: u32, path: &'a std::path::Path) -> Pending<'a, ([u8; 32], u64)> {
        self.blobs.put_file(tenant, path)
    }
    fn size(&self, tenant: u32, hash: [u8; 32]) -> Pending<'_, Option<u64>> {
        self.blobs.size(tenant, hash)
    }
    fn read(&self, tenant: u32, hash: [u8; 32], offset: u64, limit: u64) -> Pending<'_, Bytes> {
        Box::pin(async move {
            if self.hash.get() == Some(&hash) && !self.once.is_completed() {
                self.once.call_once(|| {});
                self.asked.notify_one();
                self.go_on.notified().await;
            }
            self.blobs.read(tenant, hash, offset, limit).await
        })
    }
    fn old(&self, tenant: u32, age: std::time::Duration) -> Pending<'_, Vec<[u8; 32]>> {
        self.blobs.old(tenant, age)
    }
    fn remove(&self, tenant: u32, hash: [u8; 32], age: std::time::Duration) -> Pending<'_, bool> {
        self.blobs.remove(tenant, hash, age)
    }
    fn count(&self, tenant: u32) -> Pending<'_, u64> {
        self.blobs.count(tenant)
    }
    fn figures(&self) -> BlobFigures {
        self.blobs.figures()
    }
}

#[tokio::test]
async fn a_task_that_came_while_the_tasks_were_read_lost_the_blob_it_names() {
    let held = std::sync::Arc::new(Held {
        blobs: MemoryBlobs::default(),
        asked: tokio::sync::Notify::new(),
        go_on: tokio::sync::Notify::new(),
        hash: std::sync::OnceLock::new(),
        once: std::sync::Once::new(),
    });
    let node = Node::with_blobs(held.clone()).await;
    let put = async |content: &'static str| {
        let got = node.call(Method::PUT, "/api/v1/blobs", content).await.is(201).json();
        got["hash"].as_str().unwrap().to_owned()
    };
    let named = put("named in a text alone").await;
    put("named by nothing").await;
    let large = json!({ "type": "t", "input": "y".repeat(100_000) }).to_string();
    node.submit(&large).await;
    let input = Sha256::digest(json!("y".repeat(100_000)).to_string());
    held.hash.set(input.into()).unwrap();
    let sweep = tidewheel_api::sweep_blobs(&node.runtime, std::time::Duration::from_secs(1));
    let others = async {
        // The newest tasks have been read, and this one is newer.
        held.asked.notified().await;
        node.submit(&json!({ "type": "t", "input": { "file": named } }).to_string()).await;
        held.go_on.notify_one();
    };
    let both = async { tokio::join!(sweep, others) };
    let (gone, ()) = tokio::time::timeout(std::time::Duration::from_secs(60), both).await.expect("it ends");
    assert_eq!(gone, 1, "what nothing names goes");
    node.get(&format!("/api/v1/blobs/{named}")).await.is(200);
}
