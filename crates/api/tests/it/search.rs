//! Search over tasks and log lines.

use serde_json::{Value, json};
use tidewheel_engine::id::TenantId;
use tidewheel_store::log::{Level, Line, Stream};

use crate::node::Node;

/// 2026-01-01T00:00:00Z
const START: u64 = 1_767_225_600_000;

fn line(task: &str, offset: u64, level: Level, text: &str) -> Line {
    let task = tidewheel_engine::id::TaskId(tidewheel_proto::id::parse("task", task).unwrap());
    let at = START + offset * 60_000;
    Line { tenant: TenantId(1), task, attempt: 1, offset, at, stream: Stream::Log, level, text: text.to_owned() }
}

/// A node with two ended tasks, one of a run, and six lines a minute apart.
async fn ready() -> (Node, [String; 2]) {
    let node = Node::start().await;
    let ids = [node.submit(r#"{"type":"mail","workflow_id":"order-7"}"#).await, node.submit(r#"{"type":"pdf"}"#).await];
    node.worker(2).run(2).await;
    let lines = (0..6).map(|n| {
        let level = if n == 5 { Level::Error } else { Level::Info };
        line(&ids[usize::from(n % 2 == 1)], n, level, &format!("mail number {n}"))
    });
    node.runtime.logs().append(lines.collect()).unwrap();
    (node, ids)
}

fn texts(answer: &Value, list: &str) -> Vec<String> {
    answer[list].as_array().unwrap().iter().map(|l| l["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn lines_are_found_by_worker_run_and_time() {
    let (node, _) = ready().await;
    let find = async |filter: &str| {
        let path = format!("/api/v1/logs?filter={}", filter.replace(' ', "%20"));
        texts(&node.get(&path).await.is(200).json(), "items").len()
    };
    for (filter, found) in [
        ("worker:inner", 6),
        ("worker:nobody", 0),
        ("run:order-7", 3),
        ("run:order-7 worker:inner level:error", 0),
        ("after:2026-01-01T00:03:00Z", 3),
        ("before:2026-01-01T00:03:00Z mail", 3),
        ("after:2026-01-01T00:01:00Z before:2026-01-01T00:02:00Z", 1),
    ] {
        assert_eq!(find(filter).await, found, "{filter}");
    }
    let bad = node.get("/api/v1/logs?filter=worker:a*").await.is(400);
    assert_eq!(bad.code(), "invalid-query");
}

#[tokio::test]
async fn pages_of_a_narrowed_search_follow_each_other() {
    let (node, _) = ready().await;
    let mut path = "/api/v1/logs?filter=run:order-7&limit=2&fields=text".to_owned();
    let mut all = Vec::new();
    loop {
        let got = node.get(&path).await.is(200);
        let page = got.json();
        assert!(page["items"][0].get("level").is_none(), "{page}");
        all.extend(texts(&page, "items"));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/logs?filter=run:order-7&limit=2&fields=text&cursor={cursor}");
        assert!(got.header("link").contains(cursor));
    }
    assert_eq!(all, ["mail number 4", "mail number 2", "mail number 0"]);
}

#[tokio::test]
async fn a_histogram_counts_what_the_filter_finds() {
    let (node, _) = ready().await;
    let got = node.get("/api/v1/logs?filter=mail&limit=1&histogram=3").await.is(200).json();
    let histogram = &got["histogram"];
    assert_eq!((&histogram["complete"], &histogram["step_ms"]), (&json!(true), &json!(100_001)));
    let buckets = histogram["buckets"].as_array().unwrap();
    let infos: Vec<u64> = buckets.iter().map(|b| b["info"].as_u64().unwrap()).collect();
    let errors: Vec<u64> = buckets.iter().map(|b| b["error"].as_u64().unwrap()).collect();
    assert_eq!((infos, errors), (vec![2, 2, 1], vec![0, 0, 1]), "{histogram}");
    assert_eq!(buckets[0]["at"], "2026-01-01T00:00:00.000Z");
    let none = node.get("/api/v1/logs?filter=nothing&histogram=3").await.is(200).json();
    assert_eq!(none["histogram"]["buckets"], json!([]));
}

#[tokio::test]
async fn one_search_finds_tasks_and_lines() {
    let (node, ids) = ready().await;
    let got = node.get("/api/v1/search?filter=type:mail").await.is(200).json();
    assert_eq!((&got["tasks"][0]["id"], &got["lines"]), (&json!(ids[0]), &json!([])));
    let got = node.get("/api/v1/search?filter=number&limit=2").await.is(200).json();
    assert_eq!(texts(&got, "lines"), ["mail number 5", "mail number 4"]);
    let got = node.get(&format!("/api/v1/search?filter=id:{}", ids[1])).await.is(200).json();
    assert_eq!((got["tasks"].as_array().unwrap().len(), got["lines"].as_array().unwrap().len()), (1, 3));
    assert_eq!(node.get("/api/v1/search?filter=colour:red").await.is(400).code(), "invalid-query");
}
