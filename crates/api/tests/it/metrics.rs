//! `/metrics`: what is served, and that the reference page lists it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use axum::body::Body;
use axum::http::Method;

use crate::node::Node;

/// Everything that leads to a series: tasks that end in each way, a queue at its bounds, a tenant with a quota.
async fn busy() -> Node {
    let node = Node::start().await;
    let queue = r#"{"alert_depth":1,"throttle_depth":3,"max_depth":4,"retry":{"max_attempts":2,"delay":"1ms"}}"#;
    node.call(Method::PUT, "/api/v1/queues/narrow", queue).await.is(201);
    node.call(Method::PATCH, "/api/v1/tenants/default", r#"{"max_queued":1000}"#).await;
    for _ in 0..5 {
        node.post("/api/v1/tasks", r#"{"type":"a","queue":"narrow","input":1}"#).await;
    }
    node.post("/api/v1/tasks", "{").await.is(400);
    let mut worker = node.worker(10);
    worker.run(3).await;
    node.submit(r#"{"type":"b","input":{"fail":true}}"#).await;
    worker.run(1).await;
    node.get("/api/v1/tasks").await.is(200);
    node.get("/api/v1/nothing").await.is(404);
    node
}

async fn text(node: &Node) -> String {
    let got = node.call(Method::GET, "/metrics", Body::empty()).await.is(200);
    String::from_utf8(got.body.to_vec()).unwrap()
}

#[derive(Default)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

fn parse(text: &str) -> BTreeMap<String, Metric> {
    let mut found: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            found.entry(name.to_owned()).or_default().help = help.trim_end_matches('.').to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            found.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#')
            && let Some((name, labels)) = line.split_once('{')
        {
            let ends = ["_bucket", "_sum", "_count", "_total", "_info"];
            let base = ends.iter().find_map(|end| name.strip_suffix(end).filter(|base| found.contains_key(*base)));
            let names = labels.split('}').next().unwrap().split("\",").filter_map(|pair| pair.split_once('='));
            let metric = found.get_mut(base.unwrap_or(name)).unwrap_or_else(|| panic!("{line}"));
            metric.labels.extend(names.map(|(name, _)| name.to_owned()).filter(|name| name != "le"));
        }
    }
    found
}

fn page(metrics: &BTreeMap<String, Metric>) -> String {
    let mut out = String::from(
        "# Metrics\n\nMade from the running server; a test fails when it is stale.\n\n`GET /metrics` serves these in the OpenMetrics \
         text format: to everybody on the loopback, to a viewer's token from elsewhere. Units are base units; times are\nhistograms \
         whose edges contain 5, 10, 50, 100, 200 and 500 ms, 1, 2, 5, 10, 30 and 60 s. No label is ever an id. `type` has a value \
         of its own\nfor the first `metrics.taskTypes` task types (default 100); the others share `other`. Query parameters \
         are ignored, so that a\nscraper may send its own (`name[]`, `collect[]`); every family is in every answer.\n\nGauges of \
         queues, workers and timers are read from the engine when somebody scrapes; nothing is kept up to date for nobody.\n\n\
         | name | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for (name, metric) in metrics {
        let total = if metric.kind == "counter" { "_total" } else { "" };
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let help = metric.help.replace('|', "\\|");
        let _ = writeln!(out, "| `{name}{total}` | {} | {} | {help} |", metric.kind, labels.join(" "));
    }
    out.push_str(
        "\n## For autoscalers\n\n`tidewheel_queue_desired_permits` is the number of permits at which as much leaves a queue as comes \
         in, plus what clears the backlog within a\nminute. `orchestrator_job_queue_depth` and `queue_depth` are other names of \
         `tidewheel_queue_depth`, for scalers and dashboards that expect them.\n`GET /api/v1/queues/{name}/stats` has the same as \
         JSON.\n\n## Alerts worth having\n\n| when | expression |\n|---|---|\n\
         | a queue is deep for five minutes | `tidewheel_queue_pressure >= 1` for 5m |\n\
         | work is refused | `rate(tidewheel_tasks_rejected_total[5m]) > 0` |\n\
         | dead letters grow | `delta(tidewheel_queue_dead[15m]) > 0` |\n\
         | workers are lost | `rate(tidewheel_leases_lost_total[5m]) > 0` |\n\
         | workers are full | `tidewheel_worker_utilization_ratio > 0.8` |\n\
         | clocks differ | `tidewheel_worker_clock_offset_seconds > 1` |\n\
         | a quota is nearly used up | `tidewheel_tenant_quota_used_ratio > 0.9` |\n",
    );
    out
}

#[tokio::test]
async fn the_reference_page_lists_what_is_served() {
    let node = busy().await;
    node.call(Method::PUT, "/api/v1/queues/still", "{}").await.is(201);
    node.post("/api/v1/queues/still:pause", "").await.is(200);
    node.submit(r#"{"type":"c","queue":"still"}"#).await;
    let metrics = parse(&text(&node).await);
    for (name, metric) in &metrics {
        assert!(!metric.help.is_empty() && !metric.kind.is_empty(), "{name} is not explained");
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
    let made = page(&metrics);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    // The times of calls over gRPC have series only after one; all others are here.
    assert!(held == made, "docs/reference/metrics.md is stale: run the test again with UPDATE_EXPECT=1");
}

#[tokio::test]
async fn figures_of_tasks_say_their_type_and_figures_of_queues_their_pressure() {
    let node = busy().await;
    let text = text(&node).await;
    for line in [
        "tidewheel_tasks_created_total{tenant=\"default\",queue=\"narrow\",type=\"a\"} 4",
        "tidewheel_tasks_created_total{tenant=\"default\",queue=\"default\",type=\"b\"} 1",
        "tidewheel_tenant_activity_total{tenant=\"default\",activity=\"submitted\"} 5",
        "tidewheel_queue_alerts_total{tenant=\"default\",queue=\"narrow\",stage=\"alert\"} 1",
        "tidewheel_queue_alerts_total{tenant=\"default\",queue=\"narrow\",stage=\"throttled\"} 1",
        "tidewheel_queue_alerts_total{tenant=\"default\",queue=\"narrow\",stage=\"full\"} 1",
        "tidewheel_tasks_rejected_total{reason=\"overloaded\"} 1",
        "tidewheel_tasks_finished_total{tenant=\"default\",queue=\"default\",type=\"b\",outcome=\"failed\"} 1",
        "tidewheel_task_assign_seconds_count{tenant=\"default\",queue=\"default\",type=\"b\"} 1",
        "tidewheel_task_start_seconds_count{tenant=\"default\",queue=\"default\",type=\"b\"} 1",
        "tidewheel_tasks_overdue 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing:\n{text}");
    }
    for name in [
        "orchestrator_job_queue_depth{",
        "queue_depth{",
        "tidewheel_timers_pending{",
        "tidewheel_timer_cache_hits_total{",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing");
    }
}

#[tokio::test]
async fn the_store_says_how_long_commits_took_what_is_open_and_what_blobs_weigh() {
    let node = busy().await;
    node.call(Method::PUT, "/api/v1/blobs", vec![7u8; 5_000]).await.is(201);
    let text = text(&node).await;
    let value = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
        found.unwrap_or_else(|| panic!("{name} is missing:\n{text}"))
    };
    // The store in memory has neither; what the real one says is tested there.
    let all = value("tidewheel_fsync_seconds_bucket{le=\"+Inf\"}");
    assert!((all - value("tidewheel_fsync_seconds_count")).abs() < 0.5 && value("tidewheel_fsync_seconds_sum") >= 0.0);
    assert!(text.contains("tidewheel_fsync_seconds_bucket{le=\"0.005\"} "), "5 ms is an edge");
    for labels in [
        "role=\"writer\",state=\"used\"",
        "role=\"copier\",state=\"used\"",
        "role=\"reader\",state=\"used\"",
        "role=\"reader\",state=\"idle\"",
    ] {
        assert!(value(&format!("tidewheel_store_connections{{{labels}}}")) >= 0.0);
    }
    assert!(value("tidewheel_blob_bytes") >= 5_000.0);
    assert!(value("tidewheel_blob_moved_bytes_total{direction=\"written\"}") >= 5_000.0);
}

#[tokio::test]
async fn types_beyond_the_bound_share_one_label() {
    let node = Node::start().await;
    let tasks: Vec<_> = (0..120).map(|n| format!(r#"{{"type":"t{n}"}}"#)).collect();
    node.post("/api/v1/tasks:batch", format!(r#"{{"tasks":[{}]}}"#, tasks.join(","))).await.is(200);
    let text = text(&node).await;
    let created = |kind: &str| {
        let start = format!("tidewheel_tasks_created_total{{tenant=\"default\",queue=\"default\",type=\"{kind}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).and_then(|n| n.parse::<u64>().ok())
    };
    assert_eq!((created("t0"), created("t99"), created("t100"), created("other")), (Some(1), Some(1), None, Some(20)));
}
