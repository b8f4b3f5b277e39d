//! A node in memory and a client that speaks to its router.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tidewheel_api::{ApiConfig, bootstrap_token, router};
use tidewheel_engine::Command;
use tidewheel_engine::command::Hello;
use tidewheel_engine::effect::Grant;
use tidewheel_engine::partition::WithCompiler;
use tidewheel_engine::task::{Failure, Outcome, Payload};
use tidewheel_runtime::{Config, Runtime, Session, ToWorker};
use tidewheel_store::blob::{BlobFigures, Blobs, Pending};
use tidewheel_store::log::{Line, LogPage, LogQuery, LogStore};
use tidewheel_store::memory::MemoryStore;
use tidewheel_store::{Error, Hash};
use tower::ServiceExt;

/// Log lines in a list.
#[derive(Default)]
pub(crate) struct MemoryLogs(Mutex<Vec<Line>>);

impl LogStore for MemoryLogs {
    fn append(&self, lines: Vec<Line>) -> Result<(), Error> {
        let mut all = self.0.lock();
        for line in lines {
            let same = |l: &Line| (l.task, l.attempt, l.offset) == (line.task, line.attempt, line.offset);
            if !all.iter().any(same) {
                all.push(line);
            }
        }
        Ok(())
    }

    fn query(&self, query: &LogQuery) -> Result<LogPage, Error> {
        let all = self.0.lock();
        let fits = |line: &Line| {
            line.tenant == query.tenant
                && query.task.is_none_or(|t| t == line.task)
                && query.attempt.is_none_or(|a| a == line.attempt)
                && query.level.is_none_or(|l| line.level >= l)
                && query.text.as_ref().is_none_or(|t| t.split(' ').all(|word| line.text.contains(word)))
        };
        let rows = all.iter().enumerate().map(|(i, line)| (i as u64 + 1, line)).filter(|(_, line)| fits(line));
        let mut rows: Vec<(u64, Line)> = rows.map(|(row, line)| (row, line.clone())).collect();
        if query.task.is_none() || query.tail {
            rows.reverse();
        }
        rows.retain(|(row, _)| match query.cursor {
            Some(cursor) if query.task.is_some() => *row > cursor,
            Some(cursor) => *row < cursor,
            None => true,
        });
        rows.truncate(query.limit);
        Ok(rows)
    }

    fn sweep(&self, _: u64, _: usize) -> Result<u64, Error> {
        Ok(0)
    }

    fn backup(&self, _: &std::path::Path) -> Result<(), Error> {
        Err(Error::Closed)
    }
}

/// Waits until the clock shows another millisecond: for what is told apart by when it came.
pub(crate) async fn another_millisecond() {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let begun = now();
    while now() <= begun {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Blobs in a map.
#[derive(Default)]
pub(crate) struct MemoryBlobs(Mutex<HashMap<(u32, Hash), Bytes>>);

impl Blobs for MemoryBlobs {
    fn put(&self, tenant: u32, bytes: Bytes) -> Pending<'_, Hash> {
        let hash: Hash = Sha256::digest(&bytes).into();
        self.0.lock().insert((tenant, hash), bytes);
        Box::pin(async move { Ok(hash) })
    }

    fn put_file<'a>(&'a self, tenant: u32, path: &'a std::path::Path) -> Pending<'a, (Hash, u64)> {
        Box::pin(async move {
            let bytes: Bytes = std::fs::read(path).map_err(|e| Error::Failed(e.to_string()))?.into();
            let size = bytes.len() as u64;
            Ok((self.put(tenant, bytes).await?, size))
        })
    }

    fn size(&self, tenant: u32, hash: Hash) -> Pending<'_, Option<u64>> {
        let size = self.0.lock().get(&(tenant, hash)).map(|b| b.len() as u64);
        Box::pin(async move { Ok(size) })
    }

    fn read(&self, tenant: u32, hash: Hash, offset: u64, limit: u64) -> Pending<'_, Bytes> {
        let bytes = self.0.lock().get(&(tenant, hash)).cloned();
        Box::pin(async move {
            let bytes = bytes.ok_or_else(|| Error::Failed("no blob".to_owned()))?;
            let from = (offset as usize).min(bytes.len());
            let until = from.saturating_add(limit as usize).min(bytes.len());
            Ok(bytes.slice(from..until))
        })
    }

    // Age is of no interest here: everything is old.
    fn old(&self, tenant: u32, _: std::time::Duration) -> Pending<'_, Vec<Hash>> {
        let all = self.0.lock().keys().filter(|(owner, _)| *owner == tenant).map(|(_, hash)| *hash).collect();
        Box::pin(async move { Ok(all) })
    }

    fn remove(&self, tenant: u32, hash: Hash, _: std::time::Duration) -> Pending<'_, bool> {
        let gone = self.0.lock().remove(&(tenant, hash)).is_some();
        Box::pin(async move { Ok(gone) })
    }

    fn count(&self, tenant: u32) -> Pending<'_, u64> {
        let held = self.0.lock().iter().filter(|((owner, _), _)| *owner == tenant).map(|(_, b)| b.len() as u64).sum();
        Box::pin(async move { Ok(held) })
    }

    fn figures(&self) -> BlobFigures {
        let held = self.0.lock().values().map(|bytes| bytes.len() as u64).sum();
        BlobFigures { held, written: held, read: 0 }
    }
}

/// A running node with its first token.
pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    pub(crate) router: Router,
    /// System admin of the tenant `default`.
    pub(crate) admin: String,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// The answer, if it has this status.
    pub(crate) fn is(self, status: u16) -> Got {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// The problem's code, after checking that it is a problem.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        problem["code"].as_str().unwrap().to_owned()
    }
}

impl Node {
    pub(crate) async fn start() -> Node {
        Node::with(ApiConfig::default()).await
    }

    pub(crate) async fn with(config: ApiConfig) -> Node {
        let store = MemoryStore::new();
        let logs = Arc::new(MemoryLogs::default());
        Node::on(config, store, logs, Arc::new(MemoryBlobs::default())).await
    }

    pub(crate) async fn with_blobs(blobs: Arc<dyn Blobs>) -> Node {
        Node::on(ApiConfig::default(), MemoryStore::new(), Arc::new(MemoryLogs::default()), blobs).await
    }

    /// On what another node may have left.
    pub(crate) async fn on(
        config: ApiConfig,
        store: Arc<MemoryStore>,
        logs: Arc<MemoryLogs>,
        blobs: Arc<dyn Blobs>,
    ) -> Node {
        let mut settings = Config::default();
        settings.options.compiler = WithCompiler(Some(Arc::new(tidewheel_lang::compile::Language)));
        let runtime = Runtime::start(settings, store, logs, blobs, Box::new(|why| panic!("{why}"))).unwrap();
        let admin = bootstrap_token(&runtime, "test", false, |_| Ok(())).await.unwrap().unwrap().secret;
        let router = router(runtime.clone(), config);
        Node { runtime, router, admin }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Got {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Got { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(crate) fn request(&self, method: Method, path: &str, token: &str) -> axum::http::request::Builder {
        let request = Request::builder().method(method).uri(path);
        if token.is_empty() { request } else { request.header("authorization", format!("Bearer {token}")) }
    }

    /// With the admin's token.
    pub(crate) async fn call(&self, method: Method, path: &str, body: impl Into<Body>) -> Got {
        self.call_as(&self.admin, method, path, body).await
    }

    pub(crate) async fn call_as(&self, token: &str, method: Method, path: &str, body: impl Into<Body>) -> Got {
        self.send(self.request(method, path, token).body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Got {
        self.call(Method::GET, path, Body::empty()).await
    }

    /// The body of what a path shows.
    pub(crate) async fn get_owned(&self, path: String) -> Value {
        self.get(&path).await.is(200).json()
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> Got {
        self.call(Method::POST, path, body).await
    }

    /// The same with a path and a body of its own.
    pub(crate) async fn post_owned(&self, path: String, body: String) -> Got {
        self.post(&path, body).await
    }

    /// Submits a task and gives its id.
    pub(crate) async fn submit(&self, body: &str) -> String {
        let got = self.post("/api/v1/tasks", body.to_owned()).await.is(201);
        got.json()["id"].as_str().unwrap().to_owned()
    }

    /// A token of a role in the tenant `default`.
    pub(crate) async fn token(&self, role: &str) -> String {
        let body = format!(r#"{{"name":"{role}","role":"{role}"}}"#);
        let got = self.post("/api/v1/tokens", body).await.is(201);
        got.json()["secret"].as_str().unwrap().to_owned()
    }

    /// Stores a log line of a task's first attempt.
    pub(crate) fn log(&self, task: &str, offset: u64, text: &str) {
        let tenant = self.runtime.directory().tenant("default").unwrap().id;
        let task = tidewheel_engine::id::TaskId(tidewheel_proto::id::parse("task", task).unwrap());
        let (stream, level) = (tidewheel_store::log::Stream::Stdout, tidewheel_store::log::Level::Info);
        let at = self.runtime.now_ms();
        let line = Line { tenant, task, attempt: 1, offset, at, stream, level, text: text.to_owned() };
        self.runtime.logs().append(vec![line]).unwrap();
    }

    /// The worker `inner`.
    pub(crate) fn worker(&self, permits: u32) -> InnerWorker {
        self.worker_named("inner", permits)
    }

    /// A worker inside the process.
    pub(crate) fn worker_named(&self, name: &str, permits: u32) -> InnerWorker {
        self.worker_with(Hello { name: name.into(), permits, ..Hello::default() })
    }

    /// A worker inside the process that says this of itself.
    pub(crate) fn worker_with(&self, hello: Hello) -> InnerWorker {
        let hello = Hello { kind: "sdk".into(), ..hello };
        InnerWorker { runtime: self.runtime.clone(), session: self.runtime.connect(hello).unwrap() }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Tests of one process run beside each other: a node must not leave its thread behind.
        let runtime = self.runtime.clone();
        std::thread::spawn(move || runtime.stop());
    }
}

/// Takes grants straight from the runtime.
pub(crate) struct InnerWorker {
    runtime: Runtime,
    session: Session,
}

impl InnerWorker {
    /// Waits for grants and keeps them.
    pub(crate) async fn take(&mut self) {
        while !matches!(self.session.events.recv().await.expect("the session stands"), ToWorker::Grants(_)) {}
    }

    /// Waits for the next attempt, of a worker with one permit, and ends it with a value; what was granted.
    pub(crate) async fn answer(&mut self, value: &Value) -> Grant {
        loop {
            let event = self.session.events.recv().await.expect("the session stands");
            let ToWorker::Grants(mut grants) = event else { continue };
            let grant = grants.pop().expect("a grant");
            let outcome = Outcome::Ok { result: Payload::Inline(value.to_string().into()), artifacts: Vec::new() };
            let results = vec![(grant.task, grant.token, outcome)];
            self.runtime.send_wait(Command::Results { session: self.session.id, results }).await.unwrap();
            return grant;
        }
    }

    /// Ends the next attempt with a result.
    pub(crate) async fn give(&mut self, result: &Payload) {
        loop {
            let event = self.session.events.recv().await.expect("the session stands");
            let ToWorker::Grants(grants) = event else { continue };
            let outcome = || Outcome::Ok { result: result.clone(), artifacts: Vec::new() };
            let results = grants.into_iter().map(|grant| (grant.task, grant.token, outcome())).collect();
            return self.runtime.send_wait(Command::Results { session: self.session.id, results }).await.unwrap();
        }
    }

    /// Ends the next `count` attempts: input `{"fail": true}` fails, everything else gives its input back.
    pub(crate) async fn run(&mut self, count: usize) {
        let mut done = 0;
        while done < count {
            let event = self.session.events.recv().await.expect("the session stands");
            let ToWorker::Grants(grants) = event else { continue };
            let results = grants.into_iter().map(|grant| {
                done += 1;
                let fails = matches!(&grant.input, Payload::Inline(b) if b.windows(6).any(|w| w == b"\"fail\""));
                let outcome = if fails {
                    let failure = Failure::ours("ValueError", "told to fail");
                    Outcome::Failed {
                        failure: Failure { retryable: false, ..failure },
                        artifacts: Vec::new(),
                        cancelled: false,
                    }
                } else {
                    Outcome::Ok { result: grant.input.clone(), artifacts: Vec::new() }
                };
                (grant.task, grant.token, outcome)
            });
            let results = results.collect();
            self.runtime.send_wait(Command::Results { session: self.session.id, results }).await.unwrap();
        }
    }
}
