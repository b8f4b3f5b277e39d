//! Large results of tasks that runs name: they stay as long as a run names them, however long the task is forgotten, and no longer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidewheel_api::{ApiConfig, sweep_blobs};
use tidewheel_engine::id::TenantId;
use tidewheel_engine::task::Payload;
use tidewheel_store::memory::MemoryStore;
use tidewheel_store::{Hash, Store};

use crate::node::{MemoryBlobs, MemoryLogs, Node};
use crate::workflows::deploy;

const AGE: Duration = Duration::from_secs(1);
/// Later than everything.
const EVER: u64 = u64::MAX >> 2;

/// What outlives a node.
pub(crate) struct Disk {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) blobs: Arc<MemoryBlobs>,
}

impl Disk {
    pub(crate) fn new() -> Disk {
        Disk { store: MemoryStore::new(), blobs: Arc::default() }
    }

    pub(crate) async fn start(&self) -> Node {
        Node::on(ApiConfig::default(), self.store.clone(), Arc::new(MemoryLogs::default()), self.blobs.clone()).await
    }

    /// The server dies, and another one opens what was committed.
    pub(crate) async fn restart(&mut self, node: Node) -> Node {
        self.store = MemoryStore::from_state(self.store.snapshot());
        drop(node);
        self.start().await
    }

    /// Tasks that ended are forgotten, as their retention has it.
    fn forget_tasks(&self) {
        while self.store.sweep(EVER, EVER, 100).unwrap() > 0 {}
    }

    /// The run that ended first is forgotten.
    pub(crate) fn forget_a_run(&self) {
        assert_eq!(self.store.sweep_runs(EVER, 1).unwrap(), 1);
    }
}

fn tenant(node: &Node) -> TenantId {
    node.runtime.directory().tenant("default").unwrap().id
}

/// A text so large that it is a blob, and its hash.
async fn large(node: &Node, letter: &str) -> (Hash, Payload) {
    let bytes = Bytes::from(json!(letter.repeat(200_000)).to_string());
    let size = bytes.len() as u64;
    let hash = node.runtime.blobs().put(tenant(node).0, bytes).await.unwrap();
    (hash, Payload::Blob { hash, size })
}

async fn is_there(node: &Node, hash: Hash) -> bool {
    node.runtime.blobs().size(tenant(node).0, hash).await.unwrap().is_some()
}

async fn measure(node: &Node) {
    let body = "  - get: {call: 'task:1.0.0@default', with: {type: get}}\n  - size: {set: {size: '${ length }'}}\n";
    deploy(node, "measure", body).await;
}

async fn start(node: &Node) -> String {
    let run = node.post("/api/v1/runs", json!({"workflow": "shop/measure"}).to_string()).await.is(201).json();
    run["id"].as_str().unwrap().to_owned()
}

async fn end_of(node: &Node, id: &str) -> Value {
    let run = node.get(&format!("/api/v1/runs/{id}?wait=10s")).await.is(200).json();
    assert_eq!(run["phase"], "completed", "{run}");
    run["output"].clone()
}

/// A run whose task gave this.
async fn run_with(node: &Node, result: &Payload) {
    let id = start(node).await;
    node.worker(1).give(result).await;
    assert_eq!(end_of(node, &id).await, json!({"size": 200_000}));
}

#[tokio::test]
async fn a_result_that_a_run_names_stays_when_its_task_is_forgotten_and_goes_after_the_run() {
    let disk = Disk::new();
    let node = disk.start().await;
    measure(&node).await;
    let (named, result) = large(&node, "a").await;
    let (orphan, _) = large(&node, "o").await;
    run_with(&node, &result).await;
    disk.forget_tasks();
    assert_eq!(sweep_blobs(&node.runtime, AGE).await, 1, "the one that nothing ever named");
    assert!(is_there(&node, named).await && !is_there(&node, orphan).await);
    disk.forget_a_run();
    assert_eq!(sweep_blobs(&node.runtime, AGE).await, 1);
    assert!(!is_there(&node, named).await);
    assert_eq!(sweep_blobs(&node.runtime, AGE).await, 0);
}

#[tokio::test]
async fn a_result_that_two_runs_name_goes_with_the_second() {
    let disk = Disk::new();
    let node = disk.start().await;
    measure(&node).await;
    let (named, result) = large(&node, "b").await;
    run_with(&node, &result).await;
    run_with(&node, &result).await;
    disk.forget_tasks();
    disk.forget_a_run();
    assert_eq!(sweep_blobs(&node.runtime, AGE).await, 0);
    assert!(is_there(&node, named).await, "the other run has it");
    disk.forget_a_run();
    assert_eq!(sweep_blobs(&node.runtime, AGE).await, 1);
    assert!(!is_there(&node, named).await);
}

#[tokio::test]
async fn a_crash_between_the_end_of_a_run_and_the_sweep_leaves_nothing_behind() {
    let mut disk = Disk::new();
    let node = disk.start().await;
    measure(&node).await;
    let (named, result) = large(&node, "d").await;
    run_with(&node, &result).await;
    disk.forget_tasks();
    disk.forget_a_run();
    let node = disk.restart(node).await;
    assert!(is_there(&node, named).await, "the blobs are swept later than the rows");
    assert_eq!(sweep_blobs(&node.runtime, AGE).await, 1);
    assert!(!is_there(&node, named).await);
}
