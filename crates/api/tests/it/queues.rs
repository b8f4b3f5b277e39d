//! Queues.

use axum::body::Body;
use axum::http::Method;
use serde_json::json;

use crate::node::Node;
use crate::tasks::finished;

#[tokio::test]
async fn a_queue_is_created_changed_and_deleted() {
    let node = Node::start().await;
    let path = "/api/v1/queues/pdf";
    let got =
        node.call(Method::PUT, path, r#"{"concurrency":4,"rate":"100/s","retry":{"max_attempts":5}}"#).await.is(201);
    assert_eq!(got.json()["settings"]["concurrency"], 4);
    let etag = got.header("etag").to_owned();
    let got = node.call(Method::PATCH, path, r#"{"ttl":"1h"}"#).await.is(200);
    let settings = got.json()["settings"].clone();
    assert_eq!((&settings["concurrency"], &settings["ttl"]), (&json!(4), &json!("1h")));
    let stale = node.request(Method::PUT, path, &node.admin).header("if-match", etag).body(Body::from("{}")).unwrap();
    assert_eq!(node.send(stale).await.is(412).code(), "precondition-failed");
    let got = node.call(Method::PUT, path, "{}").await.is(200);
    assert_eq!(got.json()["settings"]["concurrency"], 0, "put takes defaults");
    assert_eq!(node.call(Method::PATCH, path, r#"{"concurency":4}"#).await.is(400).code(), "invalid-field");
    assert_eq!(node.call(Method::PUT, "/api/v1/queues/a%2Fb", "{}").await.is(400).code(), "invalid-field");
    let tag = node.get(path).await.header("etag").to_owned();
    for (wanted, status) in [("\"1\"", 412), ("nonsense", 412), (tag.as_str(), 204)] {
        let delete = node.request(Method::DELETE, path, &node.admin).header("if-match", wanted);
        node.send(delete.body(Body::empty()).unwrap()).await.is(status);
    }
    let got = node.get("/api/v1/queues/pdf").await.is(404);
    assert_eq!(got.code(), "unknown-queue");
    let got = node.get("/api/v1/queues/defaul/stats").await.is(404);
    assert!(got.json()["detail"].as_str().unwrap().contains("'default'"));
}

/// Names or ids of a list, walked in pages of two, while `between` runs after each page.
async fn walk(node: &Node, path: &str, field: &str, mut between: impl AsyncFnMut()) -> Vec<String> {
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let got = node.get(&format!("/api/v1/{path}?limit=2{cursor}")).await.is(200);
        let page = got.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2, "{page}");
        assert!(page["as_of"].is_u64(), "{page}");
        seen.extend(items.iter().map(|item| item[field].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { return seen };
        assert!(got.header("link").contains(next), "{:?}", got.headers);
        cursor = format!("&cursor={next}");
        between().await;
    }
}

#[tokio::test]
async fn every_list_has_pages_that_stay_in_place_while_others_write() {
    let node = Node::start().await;
    for name in ["b", "d", "f", "h"] {
        node.call(Method::PUT, &format!("/api/v1/queues/{name}"), "{}").await.is(201);
        node.call(Method::PUT, &format!("/api/v1/tenants/{name}"), "{}").await.is(201);
        node.token(name.replace(['b', 'd', 'f', 'h'], "viewer").as_str()).await;
        let id = node.submit(r#"{"type":"a"}"#).await;
        let cancelled = node.post("/api/v1/tasks:cancel", format!(r#"{{"filter":"id:{id}"}}"#)).await.is(202);
        finished(&node, cancelled.header("location")).await;
        let manifest = format!(r#"{{"format":"folder","entries":[{{"name":"{name}","fn":"a:b"}}]}}"#);
        let archive = crate::packages::archive(&[("a.py", name)]);
        crate::packages::put(&node, &format!("/api/v1/packages/p/{name}"), &archive, &manifest).await.is(201);
    }
    let workers: Vec<_> = ["x", "y", "z"].iter().map(|name| node.worker_named(name, 1)).collect();
    // What comes before the place of the cursor is not shown twice, what comes behind it is shown, nothing is lost.
    let mut names = ["a", "g", "e"].into_iter();
    let seen = walk(&node, "queues", "name", async || {
        let Some(name) = names.next() else { return };
        node.call(Method::PUT, &format!("/api/v1/queues/{name}"), "{}").await.is(201);
        node.call(Method::DELETE, "/api/v1/queues/b", Body::empty()).await;
    });
    assert_eq!(seen.await, ["b", "d", "default", "f", "g", "h"]);
    assert_eq!(walk(&node, "tenants", "name", async || {}).await, ["b", "d", "default", "f", "h"]);
    assert_eq!(walk(&node, "task-types", "name", async || {}).await, ["b", "d", "f", "h"]);
    assert_eq!(walk(&node, "packages", "version", async || {}).await.len(), 4);
    assert_eq!(walk(&node, "packages/p", "version", async || {}).await.len(), 4);
    assert_eq!(walk(&node, "workers", "id", async || {}).await.len(), workers.len());
    for path in ["tokens", "operations"] {
        let ids = walk(&node, path, "id", async || {}).await;
        assert_eq!(ids.len(), if path == "tokens" { 5 } else { 4 });
        assert!(ids.is_sorted_by(|a, b| a > b), "{ids:?}");
    }
    for path in ["queues", "tenants", "task-types", "packages", "workers", "tokens", "operations"] {
        let whole = node.get(&format!("/api/v1/{path}")).await.is(200).json();
        assert!(whole.get("next_cursor").is_none() && whole["items"].as_array().unwrap().len() > 2, "{path}");
        for query in ["limit=0", "limit=1001", "cursor=broken", "lim=1"] {
            let got = node.get(&format!("/api/v1/{path}?{query}")).await.is(400);
            assert_eq!(got.code(), "invalid-query", "{path}?{query}");
        }
    }
    let cursor = node.get("/api/v1/queues?limit=1").await.json()["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(node.get(&format!("/api/v1/tenants?cursor={cursor}")).await.is(400).code(), "invalid-query");
}

#[tokio::test]
async fn a_paused_queue_gives_nothing_out_and_says_so() {
    let node = Node::start().await;
    assert_eq!(node.post("/api/v1/queues/default:pause", Body::empty()).await.is(200).json()["state"], "paused");
    let id = node.submit(r#"{"type":"a"}"#).await;
    let why = node.get(&format!("/api/v1/tasks/{id}/why")).await.json();
    assert!(why["reasons"].as_array().unwrap().iter().any(|r| r["code"] == "queue-paused"), "{why}");
    let stats = node.get("/api/v1/queues/default/stats").await.is(200).json();
    assert_eq!((&stats["depth"], &stats["state"]), (&json!(1), &json!("paused")));
    assert_eq!(node.post("/api/v1/queues/default:drain", Body::empty()).await.is(200).json()["state"], "draining");
    assert_eq!(node.post("/api/v1/tasks", r#"{"type":"a"}"#).await.is(409).code(), "conflict");
    assert_eq!(node.post("/api/v1/queues/default:resume", Body::empty()).await.is(200).json()["state"], "active");
    let mut worker = node.worker(1);
    worker.run(1).await;
    let listed = node.get("/api/v1/queues?filter=state:active").await.is(200).json();
    assert_eq!(listed["items"][0]["name"], "default");
}

#[tokio::test]
async fn dead_tasks_are_listed_and_redriven() {
    let node = Node::start().await;
    let body = r#"{"retry":{"max_attempts":1}}"#;
    node.call(Method::PATCH, "/api/v1/queues/default", body).await.is(200);
    // The inner worker's failures allow no retry, which ends a task as failed; losing the lease would end it as dead.
    // So the dead list is empty here, and redriving nothing is an operation that ends at once.
    node.submit(r#"{"type":"a","input":{"fail":true}}"#).await;
    node.worker(1).run(1).await;
    let dead = node.get("/api/v1/queues/default/dead").await.is(200).json();
    assert_eq!(dead["items"], json!([]));
    let got = node.post("/api/v1/queues/default/dead:redrive", Body::empty()).await.is(202);
    assert_eq!(finished(&node, got.header("location")).await["state"], "done");
}

#[tokio::test]
async fn a_purge_cancels_what_waits() {
    let node = Node::start().await;
    for _ in 0..3 {
        node.submit(r#"{"type":"a"}"#).await;
    }
    let got = node.post("/api/v1/queues/default:purge", Body::empty()).await.is(202);
    assert_eq!(finished(&node, got.header("location")).await["done"], 3);
    assert_eq!(node.get("/api/v1/tasks/counts").await.json()["counts"]["cancelled"], 3);
}

#[tokio::test]
async fn metrics_show_queues_under_every_name() {
    let node = Node::start().await;
    node.submit(r#"{"type":"a"}"#).await;
    node.post("/api/v1/tasks", r#"{"type":"a","queue":"nowhere"}"#).await.is(404);
    let text = String::from_utf8(node.get("/metrics").await.is(200).body.to_vec()).unwrap();
    for line in [
        r#"tidewheel_queue_depth{tenant="default",queue="default",priority="all"} 1"#,
        r#"orchestrator_job_queue_depth{tenant="default",queue="default",priority="all"} 1"#,
        r#"queue_depth{queue="default"} 1"#,
        "tidewheel_http_request_duration_seconds_count{route=\"/tasks\",method=\"POST\",code=\"201\"} 1",
        "tidewheel_build_info",
        "tidewheel_tasks_rejected_total{reason=\"unknown-queue\"} 1",
        "tidewheel_tasks_dead_lettered_total{tenant=\"default\",queue=\"default\",type=\"a\"} 0",
        "tidewheel_permits_used{tenant=\"default\",queue=\"default\"} 0",
        "tidewheel_leases_lost_total 0",
        "tidewheel_worker_reconnects_total 0",
        "tidewheel_worker_utilization_ratio 0",
        "tidewheel_timers_pending{level=\"ms\"}",
        "tidewheel_timers_pending{level=\"overflow\"}",
        "tidewheel_http_request_duration_seconds_bucket{le=\"60.0\",route=\"/tasks\",method=\"POST\",code=\"201\"} 1",
        "tidewheel_disk_io_bytes_total{direction=\"write\"}",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    for name in [
        "tidewheel_process_cpu_seconds_total",
        "tidewheel_process_resident_bytes",
        "tidewheel_process_open_fds",
        "tidewheel_process_start_time_seconds",
        "process_start_time_seconds",
        "tidewheel_disk_free_bytes",
    ] {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value.is_some_and(|value| value > 0.0), "{name}: {value:?} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(node.call_as("", Method::GET, "/metrics", Body::empty()).await.is(401).code(), "unauthenticated");
}

#[tokio::test]
async fn a_list_that_did_not_change_is_304_and_is_never_older_than_an_acknowledged_write() {
    let node = Node::start().await;
    let known = async |path: &str, tag: &str| {
        let request = node.request(Method::GET, path, &node.admin).header("if-none-match", tag);
        node.send(request.body(Body::empty()).unwrap()).await
    };
    for path in ["/api/v1/tasks", "/api/v1/tasks?fields=id&limit=100", "/api/v1/queues/default/dead"] {
        let mut tag = String::new();
        for round in 0..4 {
            let got = known(path, &tag).await.is(200);
            assert!(got.header("etag") != tag && got.header("etag").starts_with("W/\""), "{path} {round}");
            tag = got.header("etag").to_owned();
            // What changed elsewhere moves `as_of`, and not the tag.
            node.call(Method::PUT, &format!("/api/v1/tenants/t{round}"), Body::empty()).await;
            for wanted in [tag.as_str(), "*", &format!("\"x\", {tag}"), tag.trim_start_matches("W/")] {
                let same = known(path, wanted).await.is(304);
                assert!(same.body.is_empty() && same.header("etag") == tag, "{path} {wanted}");
            }
            if path.ends_with("/dead") {
                break;
            }
            node.submit(r#"{"type":"a"}"#).await;
        }
    }
    let id = node.submit(r#"{"type":"builtin"}"#).await;
    let tag = node.get(&format!("/api/v1/tasks/{id}")).await.header("etag").to_owned();
    known(&format!("/api/v1/tasks/{id}"), &tag).await.is(304);
}

#[tokio::test]
async fn a_throttled_queue_says_how_many_it_takes() {
    let node = Node::start().await;
    let settings = r#"{"max_depth":1000,"throttle_depth":100}"#;
    node.call(Method::PUT, "/api/v1/queues/q", settings).await.is(201);
    let mut refused = None;
    for _ in 0..200 {
        let got = node.post("/api/v1/tasks", r#"{"type":"a","queue":"q"}"#.to_owned()).await;
        if got.status != 201 {
            refused = Some(got);
            break;
        }
    }
    let got = refused.expect("it is deep").is(429);
    let rate = got.json()["rate"].as_u64().expect("a rate");
    assert!(rate >= 1);
    assert_eq!(got.header("ratelimit-policy"), format!("\"default\";q={rate};w=1"));
    assert!(got.header("ratelimit").starts_with("\"default\";r=0;t="));
}
