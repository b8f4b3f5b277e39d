//! Server-sent events.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use futures::StreamExt;
use tower::ServiceExt;

use crate::node::Node;

/// Reads a stream until a text has come.
struct Reader {
    body: axum::body::BodyDataStream,
    text: String,
}

impl Reader {
    async fn open(node: &Node, path: &str, last: Option<&str>) -> Reader {
        let mut request = node.request(Method::GET, path, &node.admin);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = node.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Reader { body: response.into_body().into_data_stream(), text: String::new() }
    }

    async fn until(&mut self, wanted: &str) -> &str {
        while !self.text.contains(wanted) {
            let part = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await;
            let part = part.unwrap_or_else(|_| panic!("'{wanted}' did not come after {}", self.text));
            let part = part.unwrap_or_else(|| panic!("the stream ended after {}", self.text)).unwrap();
            self.text.push_str(std::str::from_utf8(&part).unwrap());
        }
        &self.text
    }

    /// Reads to the end.
    async fn end(mut self) -> String {
        while let Some(part) = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await.unwrap() {
            self.text.push_str(std::str::from_utf8(&part.unwrap()).unwrap());
        }
        self.text
    }
}

#[tokio::test]
async fn the_openapi_document_is_compressed_for_those_who_can_read_it() {
    let node = Node::start().await;
    let plain = node.get("/openapi.json").await.is(200);
    assert_eq!(plain.header("content-encoding"), "");
    let request = node.request(axum::http::Method::GET, "/openapi.json", "").header("accept-encoding", "gzip");
    let packed = node.send(request.body(axum::body::Body::empty()).unwrap()).await.is(200);
    assert_eq!((packed.header("content-encoding"), packed.header("vary")), ("gzip", "accept-encoding"));
    assert!(packed.body.len() * 4 < plain.body.len(), "{} of {}", packed.body.len(), plain.body.len());
}

#[tokio::test]
async fn a_task_is_watched_to_its_end() {
    let node = Node::start().await;
    let id = node.submit(r#"{"type":"a"}"#).await;
    let mut events = Reader::open(&node, &format!("/api/v1/tasks/{id}/events"), None).await;
    events.until("\"state\":\"queued\"").await;
    node.worker(1).run(1).await;
    events.until("\"state\":\"succeeded\"").await;
    assert!(events.end().await.contains("event: end"));
}

#[tokio::test]
async fn each_task_is_told_as_queued_once_with_its_queue_and_executor() {
    let node = Node::start().await;
    node.call(Method::PUT, "/api/v1/queues/fast", "{}").await.is(201);
    let rules = r#"{"rules":[{"name":"r","priority":["high"],"queue":"fast","executor":"gpu"}]}"#;
    node.call(Method::PUT, "/api/v1/routing", rules).await.is(200);
    let mut all = Reader::open(&node, "/api/v1/stream?topics=queued", None).await;
    let mut ids = Vec::new();
    for n in 0..30 {
        let body = if n % 2 == 0 { r#"{"type":"a","priority":"high"}"# } else { r#"{"type":"a"}"# };
        ids.push(node.submit(body).await);
    }
    let last = ids.last().unwrap().clone();
    let text = all.until(&last).await.to_owned();
    for (n, id) in ids.iter().enumerate() {
        let (executor, queue) = if n % 2 == 0 { ("gpu", "fast") } else { ("automated", "default") };
        let data = format!(r#"{{"executorKey":"{executor}","queueName":"{queue}","taskInstanceId":"{id}"}}"#);
        assert_eq!(text.matches(&data).count(), 1, "{n}: {text}");
    }
    assert_eq!(text.matches("event: task.queued").count(), 30);
    // Who comes back goes on behind the last event it saw.
    let position = text.lines().filter_map(|l| l.strip_prefix("id: ")).nth(9).unwrap().to_owned();
    let mut again = Reader::open(&node, "/api/v1/stream?topics=queued", Some(&position)).await;
    assert_eq!(again.until(&last).await.matches("event: task.queued").count(), 20);
    // The stream of one task begins with it, and does not tell it again.
    let mut one = Reader::open(&node, &format!("/api/v1/tasks/{}/events", ids[0]), None).await;
    one.until("\"state\":\"queued\"").await;
    let mut worker = node.worker(1);
    worker.run(30).await;
    let text = one.end().await;
    assert_eq!(text.matches("event: task.queued").count(), 1, "{text}");
    assert!(text.find("task.queued").unwrap() < text.find("event: state").unwrap());
}

#[tokio::test]
async fn everything_live_comes_folded_and_can_be_resumed() {
    let node = Node::start().await;
    let mut all = Reader::open(&node, "/api/v1/stream?topics=tasks,queues", None).await;
    all.until("event: queues").await;
    let id = node.submit(r#"{"type":"a"}"#).await;
    let text = all.until(&id).await;
    let last = text.lines().rev().find_map(|l| l.strip_prefix("id: ")).unwrap().to_owned();
    drop(all);
    let second = node.submit(r#"{"type":"b"}"#).await;
    let mut resumed = Reader::open(&node, "/api/v1/stream?topics=tasks", Some(&last)).await;
    let text = resumed.until(&second).await;
    assert!(!text.contains(&id), "what was seen does not come again");
    let mut foreign = Reader::open(&node, "/api/v1/stream?topics=tasks", Some("1-1")).await;
    foreign.until("event: resync").await;
    assert_eq!(node.get("/api/v1/stream?topics=secrets").await.is(400).code(), "invalid-query");
}

#[tokio::test]
async fn the_number_of_streams_is_bounded() {
    let config = tidewheel_api::ApiConfig { max_streams: 1, ..tidewheel_api::ApiConfig::default() };
    let node = Node::with(config).await;
    let first = Reader::open(&node, "/api/v1/stream", None).await;
    let refused = node.get("/api/v1/stream").await.is(503);
    assert_eq!(refused.code(), "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    drop(first);
    Reader::open(&node, "/api/v1/stream", None).await;
}

#[tokio::test]
async fn an_operation_is_watched_to_its_end() {
    let node = Node::start().await;
    node.submit(r#"{"type":"a"}"#).await;
    let got = node.post("/api/v1/tasks:cancel", r#"{"filter":"type:a"}"#).await.is(202);
    let events = Reader::open(&node, &format!("{}/events", got.header("location")), None).await;
    let text = events.end().await;
    assert!(text.contains("\"done\":1") && text.contains("event: end"), "{text}");
}

#[tokio::test]
async fn a_queue_that_fills_up_says_so_in_the_stream() {
    let node = Node::start().await;
    let settings = r#"{"alert_depth":1,"throttle_depth":3,"max_depth":4}"#;
    node.call(Method::PUT, "/api/v1/queues/narrow", settings).await.is(201);
    let mut reader = Reader::open(&node, "/api/v1/stream?topics=queues", None).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let got = node.post("/api/v1/tasks", r#"{"type":"a","queue":"narrow"}"#).await;
        if got.status != 201 {
            assert_eq!((got.header("retry-after"), got.header("ratelimit")), ("1", "\"default\";r=0;t=1"));
        }
        statuses.push(got.status);
    }
    // Three are free, the fourth is the one that a throttled queue lets in at once; then it is full.
    assert_eq!(statuses, [201, 201, 201, 201, 503, 503]);
    reader.until("\"to\":\"alert\"").await;
    let text = reader.until("\"to\":\"full\"").await;
    let alert = text.find("\"to\":\"alert\"").unwrap();
    assert!(alert < text.find("\"to\":\"full\"").unwrap(), "{text}");
    assert!(text.contains("event: pressure"), "{text}");
    reader.until("\"pressure\":\"full\"").await;
}
