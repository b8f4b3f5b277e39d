//! Results of tasks: kept with the task until its retention ends, over a restart as well, and forgotten with it.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidewheel_engine::task::Payload;
use tidewheel_store::Store;
use tidewheel_store::blob::Blobs;

use crate::node::{Node, another_millisecond};
use crate::values::Disk;

#[tokio::test]
async fn a_result_is_kept_over_a_restart_until_its_retention_ends_and_its_blob_goes_with_it() {
    let mut disk = Disk::new();
    let node = disk.start().await;
    let tenant = node.runtime.directory().tenant("default").unwrap().id.0;
    let large = json!({"text": "x".repeat(300_000)});
    let content = Bytes::from(large.to_string());
    let size = content.len() as u64;
    let hash = disk.blobs.put(tenant, content).await.unwrap();
    let mut worker = node.worker(1);
    let small = node.submit(r#"{"type":"small"}"#).await;
    worker.answer(&json!({"n": 1})).await;
    let big = node.submit(r#"{"type":"big"}"#).await;
    worker.give(&Payload::Blob { hash, size }).await;
    drop(worker);
    let open_task = node.submit(r#"{"type":"later","delay":"1h"}"#).await;
    let results = async |node: &Node| -> Vec<(u16, Value)> {
        let mut found = Vec::new();
        for id in [&small, &big] {
            let got = node.get(&format!("/api/v1/tasks/{id}/result")).await;
            found.push((got.status, if got.status == 200 { got.json() } else { Value::Null }));
        }
        found
    };
    let kept = vec![(200, json!({"n": 1})), (200, large)];
    assert_eq!(results(&node).await, kept);
    let node = disk.restart(node).await;
    assert_eq!(results(&node).await, kept);
    assert_eq!(tidewheel_api::sweep_blobs(&node.runtime, Duration::ZERO).await, 0, "the result names its blob");
    // What ended before a moment is forgotten; first one before the tasks ended, then one after.
    let now = node.runtime.now_ms();
    assert_eq!(disk.store.sweep(now, now - 3_600_000, 100).unwrap(), 0);
    assert_eq!(results(&node).await, kept);
    another_millisecond().await;
    let now = node.runtime.now_ms();
    assert!(disk.store.sweep(now, now, 100).unwrap() >= 2);
    assert_eq!(results(&node).await, [(404, Value::Null), (404, Value::Null)]);
    for id in [&small, &big] {
        node.get(&format!("/api/v1/tasks/{id}")).await.is(404);
    }
    assert_eq!(node.get(&format!("/api/v1/tasks/{open_task}")).await.is(200).json()["state"], "scheduled");
    assert_eq!(tidewheel_api::sweep_blobs(&node.runtime, Duration::ZERO).await, 1, "nothing names the blob any more");
    assert_eq!(disk.blobs.size(tenant, hash).await.unwrap(), None);
}
