//! A version of a package is kept as long as anything needs it: a workflow that calls it, a run, and what a run does after it
//! moved on.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use tidewheel_api::{OldDocuments, sweep_documents};
use tidewheel_engine::command::Hello;
use tidewheel_engine::mutation::RecordKind;

use crate::node::{Got, InnerWorker, Node};
use crate::packages::{archive, put};
use crate::values::Disk;
use crate::workflows::document;

const TASKS: &str = r#"{"format":"folder","entries":[{"name":"pay","fn":"a:pay"},{"name":"refund","fn":"a:refund"}]}"#;

/// A version of the package `shop`, and its hash.
async fn shop(node: &Node, version: &str, manifest: &str) -> String {
    let got = put(node, &format!("/api/v1/packages/shop/{version}"), &archive(&[("a.py", version)]), manifest).await;
    got.is(201).json()["hash"].as_str().unwrap().trim_start_matches("sha256:").to_owned()
}

async fn delete(node: &Node, version: &str) -> Got {
    node.call(Method::DELETE, &format!("/api/v1/packages/shop/{version}"), Body::empty()).await
}

/// Why the version is kept.
async fn kept(node: &Node, version: &str) -> String {
    let refused = delete(node, version).await.is(409);
    assert_eq!(refused.code(), "conflict");
    let shown = node.get(&format!("/api/v1/packages/shop/{version}")).await.is(200).json();
    assert_eq!(shown["state"], "active", "a refusal changes nothing");
    refused.json()["detail"].as_str().unwrap().to_owned()
}

async fn start(node: &Node, workflow: &str) -> String {
    let run = node.post("/api/v1/runs", json!({"workflow": workflow}).to_string()).await.is(201).json();
    run["id"].as_str().unwrap().to_owned()
}

async fn phase(node: &Node, id: &str) -> Value {
    node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json()["phase"].clone()
}

async fn deploy(node: &Node, version: &str, body: &str) {
    node.post("/api/v1/workflows", document("order", version, body)).await.is(201);
}

async fn forget(node: &Node, version: &str) {
    node.call(Method::DELETE, &format!("/api/v1/workflows/shop/order/{version}"), Body::empty()).await.is(204);
}

async fn moved(node: &Node, id: &str, to: &str) {
    node.post(&format!("/api/v1/runs/{id}:move"), json!({"to": to}).to_string()).await.is(200);
}

#[tokio::test]
async fn a_version_that_a_deployed_workflow_calls_is_not_deleted() {
    let node = Node::start().await;
    shop(&node, "1.0.0", TASKS).await;
    deploy(
        &node,
        "1.0.0",
        "  - pause: {wait: {hours: 1}}
  - pay: {call: 'python:1.0.0@default', with: {package: shop, entrypoint: pay}}
",
    )
    .await;
    let why = kept(&node, "1.0.0").await;
    assert!(why.contains("shop/order:1.0.0 calls shop 1.0.0") && why.contains("tidewheel workflow delete"), "{why}");
    // Its runs keep the version of the workflow, and so that of the package.
    let id = start(&node, "shop/order").await;
    node.call(Method::DELETE, "/api/v1/workflows/shop/order/1.0.0", Body::empty()).await.is(409);
    node.post(&format!("/api/v1/runs/{id}:cancel"), "").await.is(200);
    forget(&node, "1.0.0").await;
    delete(&node, "1.0.0").await.is(204);
    let refused = node.post("/api/v1/workflows", document("order", "1.0.1", PAY)).await.is(422);
    assert!(refused.json()["detail"].as_str().unwrap().contains("no package `shop`"), "{refused:?}");
}

const PAY: &str = "  - pay: {call: 'python:1.0.0@default', with: {package: shop, entrypoint: pay}}\n";

#[tokio::test]
async fn a_run_that_moved_keeps_the_package_of_what_it_has_armed() {
    let node = Node::start().await;
    let first = shop(&node, "1.0.0", TASKS).await;
    let saga = "  - book:
      call: saga:1.0.0@default
      with:
        steps:
          - name: pay
            do: python:1.0.0@default
            with: {package: shop, entrypoint: pay, args: {n: 1}}
            undo: python:1.0.0@default
            undoWith: {package: shop, entrypoint: refund, args: {n: 1}}
          - name: ship
            do: task:1.0.0@default
            with: {type: ship}
";
    deploy(&node, "1.0.0", saga).await;
    // Nobody ships, so that no saga comes to its end.
    let types = vec!["pay".into(), "refund".into()];
    let mut worker = node.worker_with(Hello { name: "cashier".into(), permits: 1, types, ..Hello::default() });
    let (armed, early) = (start(&node, "shop/order").await, start(&node, "shop/order").await);
    for _ in 0..2 {
        assert_eq!(&*worker.answer(&json!(1)).await.kind, "pay");
    }
    node.post(&format!("/api/v1/runs/{early}:suspend"), "").await.is(200);
    let second = shop(&node, "2.0.0", TASKS).await;
    deploy(&node, "1.1.0", saga).await;
    for id in [&armed, &early] {
        moved(&node, id, "1.1.0").await;
    }
    forget(&node, "1.0.0").await;
    let why = kept(&node, "1.0.0").await;
    assert!(why.contains("has moved on from a version that runs shop 1.0.0"), "{why}");
    assert!(why.contains(&armed) || why.contains(&early), "{why}");
    // What was armed is undone by the package of that time.
    for id in [&early, &armed] {
        kept(&node, "1.0.0").await;
        node.post(&format!("/api/v1/runs/{id}:cancel"), "").await.is(200);
        let undo = worker.answer(&json!(null)).await;
        assert_eq!((&*undo.kind, undo.spec.package.as_deref()), ("refund", Some(&*first)));
        assert_eq!(phase(&node, id).await, "cancelled");
    }
    delete(&node, "1.0.0").await.is(204);
    assert_eq!(node.get("/api/v1/packages/shop/2.0.0").await.is(200).json()["hash"], format!("sha256:{second}"));
    assert!(kept(&node, "2.0.0").await.contains("shop/order:1.1.0 calls"));
}

/// The package with a program of this version.
fn with_program(version: &str) -> String {
    TASKS.replacen(
        "\"entries\":[",
        &format!(
            r#""entries":[{{"name":"flow","fn":"a:flow","kind":"workflow","namespace":"shop","version":"{version}"}},"#
        ),
        1,
    )
}

pub(crate) fn command(kind: &str, name: &str, args: &Value) -> Value {
    json!({"key": format!("/{kind}:{name}#0"), "kind": kind, "name": name, "args": args, "hash": "00"})
}

/// A run of the program that has armed an undo, and waits for a signal.
async fn waiting_program(node: &Node, worker: &mut InnerWorker, args: &Value) -> String {
    let id = start(node, "shop/flow").await;
    let commands = [command("undo", "refund", args), command("signal", "go", &Value::Null)];
    let waits = json!([{"mode": "all", "keys": ["/signal:go#0"]}]);
    let begun = worker.answer(&json!({"v": 1, "commands": commands, "wait": waits})).await;
    assert_eq!(&*begun.kind, "flow");
    assert_eq!(phase_now(node, &id).await, "waiting");
    id
}

async fn phase_now(node: &Node, id: &str) -> Value {
    node.get(&format!("/api/v1/runs/{id}?wait=1ms")).await.json()["phase"].clone()
}

#[tokio::test]
async fn a_program_that_moved_keeps_the_package_of_what_it_has_armed() {
    let node = Node::start().await;
    let mut worker = node.worker(1);
    let first = shop(&node, "1.0.0", &with_program("1.0.0")).await;
    // One with arguments that the run does not carry along.
    for args in [json!({"n": 1}), json!({"text": "x".repeat(100_000)})] {
        let id = waiting_program(&node, &mut worker, &args).await;
        assert!(kept(&node, "1.0.0").await.contains("1 run of shop/flow that has not ended run shop 1.0.0"));
        put(&node, "/api/v1/packages/shop/2.0.0", &archive(&[("a.py", "2")]), &with_program("2.0.0")).await;
        moved(&node, &id, "2.0.0").await;
        let why = kept(&node, "1.0.0").await;
        assert!(why.contains(&id) && why.contains("a compensation that it armed before"), "{why}");
        node.post(&format!("/api/v1/runs/{id}:cancel"), "").await.is(200);
        let told = worker.answer(&json!({"v": 1, "commands": [], "end": {"cancelled": true}})).await;
        assert_ne!(told.spec.package.as_deref(), Some(&*first), "the program has the code of its version");
        let undo = worker.answer(&json!(null)).await;
        assert_eq!((&*undo.kind, undo.spec.package.as_deref()), ("refund", Some(&*first)));
        assert_eq!(phase(&node, &id).await, "cancelled");
        node.call(Method::DELETE, "/api/v1/packages/shop/2.0.0", Body::empty()).await.is(204);
    }
    delete(&node, "1.0.0").await.is(204);
}

#[tokio::test]
async fn runs_of_other_workflows_and_runs_that_armed_nothing_do_not_keep_a_version() {
    let node = Node::start().await;
    let mut worker = node.worker(1);
    shop(&node, "1.0.0", &with_program("1.0.0")).await;
    node.post("/api/v1/workflows", document("other", "1.0.0", "  - pause: {wait: {hours: 1}}\n")).await.is(201);
    start(&node, "shop/other").await;
    let id = start(&node, "shop/flow").await;
    let signal = command("signal", "go", &Value::Null);
    let waits = json!([{"mode": "all", "keys": ["/signal:go#0"]}]);
    worker.answer(&json!({"v": 1, "commands": [signal], "wait": waits})).await;
    shop(&node, "2.0.0", &with_program("2.0.0")).await;
    moved(&node, &id, "2.0.0").await;
    delete(&node, "1.0.0").await.is(204);
    assert_eq!(phase_now(&node, &id).await, "waiting");
    // It does not go back to code that is not there any more.
    let back = node.post(&format!("/api/v1/runs/{id}:move"), json!({"to": "previous"}).to_string()).await.is(409);
    assert!(back.json()["detail"].as_str().unwrap().contains("the package shop 1.0.0, which was deleted"), "{back:?}");
    shop(&node, "1.0.0", &with_program("1.0.0")).await;
    moved(&node, &id, "previous").await;
}

#[tokio::test]
async fn the_document_of_a_program_goes_once_neither_its_package_nor_a_run_of_its_workflow_is_there() {
    let mut disk = Disk::new();
    let node = disk.start().await;
    let mut worker = node.worker(1);
    let documents = |node: &Node| {
        let tenant = node.runtime.directory().tenant("default").unwrap().id;
        node.runtime.directory().records(RecordKind::Definition, tenant).len()
    };
    // Two rounds have to find it: one may come in the middle of a deploy.
    let sweep = async |node: &Node| {
        let mut found = OldDocuments::new();
        let first = sweep_documents(&node.runtime, &mut found).await.unwrap();
        (first, sweep_documents(&node.runtime, &mut found).await.unwrap())
    };
    shop(&node, "1.0.0", &with_program("1.0.0")).await;
    let id = start(&node, "shop/flow").await;
    worker.answer(&json!({"v": 1, "commands": [], "end": {"ok": 1}})).await;
    assert_eq!(phase(&node, &id).await, "completed");
    shop(&node, "2.0.0", &with_program("2.0.0")).await;
    deploy(&node, "1.0.0", "  - a: {set: {x: 1}}\n").await;
    delete(&node, "1.0.0").await.is(204);
    assert_eq!((sweep(&node).await, documents(&node)), ((0, 0), 3), "its run is kept, and may be reset or forked");
    drop(worker);
    let node = disk.restart(node).await;
    disk.forget_a_run();
    assert_eq!((sweep(&node).await, documents(&node)), ((0, 1), 2), "those of what is deployed stay");
    assert_eq!((sweep(&node).await, documents(&node)), ((0, 0), 2));
    node.get("/api/v1/workflows/shop/flow/2.0.0").await.is(200);
    node.get("/api/v1/workflows/shop/order/1.0.0/document").await.is(200);
}
