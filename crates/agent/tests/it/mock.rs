//! A server that speaks the worker protocol and does exactly what a test tells it.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tidewheel_agent::{AgentConfig, AgentHandle, Secret};
use tidewheel_proto::v1::server_message::Message as ToAgent;
use tidewheel_proto::v1::task_result::Outcome;
use tidewheel_proto::v1::worker_message::Message as FromAgent;
use tidewheel_proto::v1::worker_server::{Worker, WorkerServer};
use tidewheel_proto::v1::*;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Nothing in these tests takes longer, on however slow a machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

type Blobs = Arc<Mutex<HashMap<String, Bytes>>>;

#[derive(Clone)]
struct Service {
    sessions: mpsc::UnboundedSender<Session>,
    blobs: Blobs,
    /// Bytes of each part that was fetched.
    parts: Arc<Mutex<Vec<u64>>>,
    /// Answers with parts of which one is yet to arrive damaged.
    spoil: Arc<AtomicUsize>,
}

/// One stream of an agent.
pub(crate) struct Session {
    pub(crate) hello: Hello,
    incoming: mpsc::UnboundedReceiver<FromAgent>,
    outgoing: Option<mpsc::Sender<Result<ServerMessage, Status>>>,
    pub(crate) logs: Vec<LogLine>,
    pub(crate) started: Vec<Bytes>,
    pub(crate) results: HashMap<Bytes, TaskResult>,
    pub(crate) returned: Vec<Bytes>,
    pub(crate) credits: Vec<Credit>,
    /// What the agent has said that it holds, in heartbeats.
    pub(crate) data: HashSet<String>,
    pub(crate) bye: bool,
    pub(crate) closed: bool,
    stored: u64,
    /// Whether results are acknowledged as they come.
    pub(crate) acknowledge: bool,
}

type Answers = Pin<Box<dyn tokio_stream::Stream<Item = Result<ServerMessage, Status>> + Send>>;

#[tonic::async_trait]
impl Worker for Service {
    type ConnectStream = Answers;
    type FetchPartsStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<BlobChunk, Status>> + Send>>;
    type FetchBlobStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<BlobChunk, Status>> + Send>>;

    async fn connect(&self, request: Request<Streaming<WorkerMessage>>) -> Result<Response<Answers>, Status> {
        if request.metadata().get("authorization").is_none_or(|t| t != "Bearer secret") {
            return Err(Status::unauthenticated("unknown token"));
        }
        let mut stream = request.into_inner();
        let Some(WorkerMessage { message: Some(FromAgent::Hello(hello)) }) = stream.message().await? else {
            return Err(Status::invalid_argument("hello first"));
        };
        let (outgoing, answers) = mpsc::channel(1024);
        let (sender, incoming) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                let _ = sender.send(message.message.expect("a message says something"));
            }
        });
        let session = Session {
            hello,
            incoming,
            outgoing: Some(outgoing),
            logs: Vec::new(),
            started: Vec::new(),
            results: HashMap::new(),
            returned: Vec::new(),
            credits: Vec::new(),
            data: HashSet::new(),
            bye: false,
            closed: false,
            stored: 0,
            acknowledge: true,
        };
        let _ = self.sessions.send(session);
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn fetch_blob(&self, request: Request<FetchBlobRequest>) -> Result<Response<Self::FetchBlobStream>, Status> {
        let request = request.into_inner();
        let blob = self.blobs.lock().get(&request.hash).cloned().ok_or_else(|| Status::not_found("no such blob"))?;
        let total = blob.len() as u64;
        let rest = blob.slice(request.offset as usize..);
        let chunks: Vec<_> =
            rest.chunks(64 << 10).map(|c| Ok(BlobChunk { data: Bytes::copy_from_slice(c), total })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn package_parts(
        &self,
        request: Request<PackagePartsRequest>,
    ) -> Result<Response<PackagePartsResponse>, Status> {
        let whole = self.blobs.lock().get(&request.into_inner().hash).cloned();
        let whole = whole.ok_or_else(|| Status::not_found("no such package"))?;
        let parts = parts_of(&whole).into_iter().map(|p| Part { hash: hash_of(&p), size: p.len() as u64 }).collect();
        Ok(Response::new(PackagePartsResponse { parts, size: whole.len() as u64 }))
    }

    async fn fetch_parts(
        &self,
        request: Request<FetchPartsRequest>,
    ) -> Result<Response<Self::FetchPartsStream>, Status> {
        let request = request.into_inner();
        let whole = self.blobs.lock().get(&request.hash).cloned();
        let whole = whole.ok_or_else(|| Status::not_found("no such package"))?;
        let parts = parts_of(&whole);
        self.parts.lock().extend(request.parts.iter().map(|n| parts[*n as usize].len() as u64));
        let mut chosen: Vec<_> = request.parts.iter().map(|n| parts[*n as usize].clone()).collect();
        let middle = chosen.len() / 2;
        if self.spoil.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            chosen[middle][0] ^= 1;
        }
        let chunks = chosen.into_iter().map(|data| Ok(BlobChunk { data: data.into(), total: 0 }));
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks.collect::<Vec<_>>()))))
    }

    /// The turns that a test put there under `turns-<below>`, as if the attempt were current.
    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        let request = request.into_inner();
        let turns = self.blobs.lock().get(&format!("turns-{}", request.below)).cloned();
        let turns = turns.ok_or_else(|| Status::failed_precondition("The attempt is not current any more."))?;
        let read: serde_json::Value = serde_json::from_slice(&turns).expect("turns are JSON");
        Ok(Response::new(HistoryResponse { first: read[0]["no"].as_u64().expect("a number"), turns }))
    }

    async fn put_blob(&self, request: Request<Streaming<PutBlobRequest>>) -> Result<Response<PutBlobResponse>, Status> {
        let mut stream = request.into_inner();
        let mut all = Vec::new();
        while let Some(part) = stream.next().await {
            all.extend_from_slice(&part?.data);
        }
        let size = all.len() as u64;
        let hash = hash_of(&all);
        self.blobs.lock().insert(hash.clone(), all.into());
        Ok(Response::new(PutBlobResponse { hash, size }))
    }
}

fn parts_of(whole: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    tidewheel_proto::chunk::split(whole, |part| {
        parts.push(part.to_vec());
        true
    })
    .expect("memory can be read");
    parts
}

pub(crate) fn hash_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Session {
    pub(crate) async fn send(&self, message: ToAgent) {
        let sender = self.outgoing.as_ref().expect("the stream is open");
        sender.send(Ok(ServerMessage { message: Some(message) })).await.expect("the agent listens");
    }

    /// Ends the stream as a server does that goes away.
    pub(crate) fn hang_up(&mut self) {
        self.outgoing = None;
    }

    pub(crate) async fn welcome(&self, change: impl FnOnce(&mut Welcome)) {
        let mut welcome = Welcome {
            worker_id: "work_1".into(),
            lease_ms: 30_000,
            heartbeat_ms: 100,
            resumed: self.hello.resume.iter().map(|a| a.token.clone()).collect(),
            inline_bytes: 64 << 10,
            ..Welcome::default()
        };
        change(&mut welcome);
        self.send(ToAgent::Welcome(welcome)).await;
    }

    pub(crate) async fn grant(&self, grants: Vec<Grant>) {
        self.send(ToAgent::Grants(Grants { grants, ..Grants::default() })).await;
    }

    /// Takes the next message in; false at the end of the stream.
    async fn step(&mut self) -> bool {
        let Some(message) = self.incoming.recv().await else {
            self.closed = true;
            return false;
        };
        match message {
            FromAgent::Logs(logs) => {
                self.logs.extend(logs.lines);
                self.send(ToAgent::LogAck(LogAck { sequence: logs.sequence })).await;
            }
            FromAgent::Results(results) => {
                self.stored += results.results.len() as u64;
                self.results.extend(results.results.into_iter().map(|r| (r.token.clone(), r)));
                if self.acknowledge {
                    self.send(ToAgent::Ack(Ack { accepted: self.stored, refused: Vec::new() })).await;
                }
            }
            FromAgent::Started(started) => self.started.extend(started.tokens),
            FromAgent::Returned(returned) => self.returned.extend(returned.tokens),
            FromAgent::Credit(credit) => self.credits.push(credit),
            FromAgent::Bye(_) => self.bye = true,
            FromAgent::Hello(_) => panic!("hello twice"),
            FromAgent::Heartbeat(beat) => {
                self.data.retain(|name| !beat.data_removed.contains(name));
                self.data.extend(beat.data_added);
            }
            FromAgent::Progress(_) | FromAgent::Drain(_) => {}
        }
        true
    }

    /// Reads until `done`.
    pub(crate) async fn until(&mut self, what: &str, mut done: impl FnMut(&Session) -> bool) {
        let wait = async {
            while !done(self) {
                assert!(self.step().await, "the stream ended before {what}");
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("waited in vain for {what}");
        }
    }

    pub(crate) async fn result(&mut self, token: &str) -> TaskResult {
        let token = Bytes::copy_from_slice(token.as_bytes());
        self.until(&format!("the result of {token:?}"), |s| s.results.contains_key(&token)).await;
        self.results[&token].clone()
    }

    pub(crate) async fn ok(&mut self, token: &str) -> serde_json::Value {
        match self.result(token).await.outcome {
            Some(Outcome::Ok(value)) => serde_json::from_slice(&value).expect("a result is JSON"),
            other => panic!("{token} did not succeed: {other:?}"),
        }
    }

    pub(crate) async fn failure(&mut self, token: &str) -> Failure {
        match self.result(token).await.outcome {
            Some(Outcome::Failed(failure)) => failure,
            other => panic!("{token} did not fail: {other:?}"),
        }
    }

    pub(crate) async fn started(&mut self, token: &str) {
        let token = Bytes::copy_from_slice(token.as_bytes());
        self.until(&format!("the start of {token:?}"), |s| s.started.contains(&token)).await;
    }

    pub(crate) fn lines(&self, token: &str) -> Vec<&str> {
        self.logs.iter().filter(|l| l.token == token.as_bytes()).map(|l| l.text.as_str()).collect()
    }
}

/// A server, an agent that talks to it, and a package with the tasks of `tasks.py`.
pub(crate) struct Bench {
    sessions: mpsc::UnboundedReceiver<Session>,
    pub(crate) blobs: Blobs,
    /// Bytes of each part of a package that the agent fetched.
    pub(crate) parts: Arc<Mutex<Vec<u64>>>,
    /// How many answers with parts from now on have a damaged one.
    pub(crate) spoil: Arc<AtomicUsize>,
    /// Bodies of submits over REST.
    pub(crate) submitted: Arc<Mutex<Vec<serde_json::Value>>>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) package: String,
    pub(crate) shutdown: CancellationToken,
    pub(crate) handle: AgentHandle,
    agent: tokio::task::JoinHandle<Result<(), tidewheel_agent::Error>>,
    pub(crate) addr: std::net::SocketAddr,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut AgentConfig)) -> Self {
        Self::start_at(change, |server| server).await
    }

    /// A server that understands zstd.
    pub(crate) async fn start_compressed(change: impl FnOnce(&mut AgentConfig)) -> Self {
        use tonic::codec::CompressionEncoding::Zstd;
        Self::start_at(change, |server| server.accept_compressed(Zstd).send_compressed(Zstd)).await
    }

    async fn start_at(
        change: impl FnOnce(&mut AgentConfig),
        server: impl FnOnce(WorkerServer<Service>) -> WorkerServer<Service>,
    ) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter("tidewheel_agent=debug").with_test_writer().try_init();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (sender, sessions) = mpsc::unbounded_channel();
        let blobs: Blobs = Arc::default();
        let parts = Arc::<Mutex<Vec<u64>>>::default();
        let spoil = Arc::<AtomicUsize>::default();
        let service = Service { sessions: sender, blobs: blobs.clone(), parts: parts.clone(), spoil: spoil.clone() };
        let submitted = Arc::new(Mutex::new(Vec::new()));
        let service = server(WorkerServer::new(service).max_decoding_message_size(64 << 20));
        let router = tonic::service::Routes::new(service).into_axum_router().merge(rest(submitted.clone()));
        let listener = axum::serve::ListenerExt::tap_io(listener, |s| s.set_nodelay(true).expect("a socket"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let package = pack(&[("tasks.py", include_bytes!("tasks.py"))], &["tasks"]);
        let hash = hash_of(&package);
        blobs.lock().insert(hash.clone(), package.into());
        let dir = tempfile::tempdir().expect("a folder");
        let mut config = AgentConfig::new(format!("http://{addr}"), Secret::new("secret"), dir.path());
        config.name = Some("bench".into());
        config.drain = Duration::from_secs(5);
        change(&mut config);
        let agent = tidewheel_agent::Agent::new(config).await.expect("the agent starts");
        let handle = agent.handle();
        let shutdown = CancellationToken::new();
        let agent = tokio::spawn(agent.run(shutdown.clone()));
        Self { sessions, blobs, parts, spoil, submitted, dir, package: hash, shutdown, handle, agent, addr }
    }

    /// The next stream the agent opens.
    pub(crate) async fn session(&mut self) -> Session {
        tokio::time::timeout(PATIENCE, self.sessions.recv())
            .await
            .expect("the agent connects")
            .expect("the server runs")
    }

    /// The next stream, welcomed.
    pub(crate) async fn connected(&mut self) -> Session {
        let session = self.session().await;
        session.welcome(|_| {}).await;
        session
    }

    pub(crate) async fn end(self) -> Result<(), tidewheel_agent::Error> {
        tokio::time::timeout(PATIENCE, self.agent).await.expect("the agent ends").expect("the agent does not panic")
    }

    /// A grant of a function of `tasks.py`.
    pub(crate) fn python(&self, token: &str, function: &str, input: &str) -> Grant {
        Grant {
            package: self.package.clone(),
            entrypoint: format!("tasks:{function}"),
            r#type: function.into(),
            ..grant(token, input)
        }
    }
}

/// A server with TLS on a port of its own.
pub(crate) struct TlsServer {
    pub(crate) port: u16,
    pub(crate) sessions: mpsc::UnboundedReceiver<Session>,
    /// Connections so far, before anybody proved who he is.
    pub(crate) tries: Arc<std::sync::atomic::AtomicUsize>,
}

impl TlsServer {
    pub(crate) async fn start(identity: tonic::transport::Identity) -> Self {
        let (sender, sessions) = mpsc::unbounded_channel();
        let (blobs, parts, spoil) = Default::default();
        let service = WorkerServer::new(Service { sessions: sender, blobs, parts, spoil });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let tries = Arc::<std::sync::atomic::AtomicUsize>::default();
        let count = tries.clone();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener).map(move |stream| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            stream
        });
        let tls = tonic::transport::ServerTlsConfig::new().identity(identity);
        let server = tonic::transport::Server::builder().tls_config(tls).expect("a certificate").add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        Self { port, sessions, tries }
    }
}

/// As much of the REST interface as a task reaches through its agent.
fn rest(submitted: Arc<Mutex<Vec<serde_json::Value>>>) -> axum::Router {
    use axum::Json;
    use axum::extract::Path;
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use serde_json::{Value, json};
    let busy = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = submitted.clone();
    let items = move |Path(path): Path<String>, headers: axum::http::HeaderMap, Json(body): Json<Value>| {
        let tenant = headers.get("tidewheel-tenant").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let answer = match path.rsplit_once(':') {
            Some((_, "take")) => {
                json!({ "items": [{ "id": "task_i", "token": "t", "queue": "q", "input": 7, "attempt": 1 }] })
            }
            _ => json!({ "id": "task_i" }),
        };
        asked.lock().push(json!({ "path": path, "tenant": tenant, "body": body }));
        async move { Json(answer) }
    };
    let batch = move |Json(body): Json<Value>| {
        // Refused once: the agent has to repeat it.
        let refused = busy.swap(false, std::sync::atomic::Ordering::Relaxed);
        let count = body["tasks"].as_array().map_or(0, Vec::len);
        if !refused {
            submitted.lock().push(body);
        }
        let items: Vec<_> = (0..count).map(|i| json!({ "status": 201, "id": format!("task_{i}") })).collect();
        async move {
            if refused {
                return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "code": "overloaded", "status": 503 })));
            }
            (StatusCode::OK, Json(json!({ "items": items, "accepted": count, "refused": 0 })))
        }
    };
    let result = |Path(id): Path<String>| async move {
        match id.as_str() {
            "task_0" => (StatusCode::OK, Json(json!({ "rows": 3 }))),
            "task_1" => (StatusCode::CONFLICT, Json(json!({ "code": "conflict", "status": 409 }))),
            _ => (StatusCode::ACCEPTED, Json(json!({ "state": "running" }))),
        }
    };
    let record = |Path(id): Path<String>| async move {
        let error = json!({ "type": "ValueError", "message": "no luck" });
        Json(json!({ "id": id, "state": "failed", "error": error }))
    };
    axum::Router::new()
        .route("/api/v1/queues/{*path}", post(items))
        .route("/api/v1/tasks:batch", post(batch))
        .route("/api/v1/tasks/{id}/result", get(result))
        .route("/api/v1/tasks/{id}", get(record).post(|| async { Json(json!({})) }))
}

pub(crate) fn grant(token: &str, input: &str) -> Grant {
    Grant {
        token: Bytes::copy_from_slice(token.as_bytes()),
        task: Bytes::from(vec![7; 16]),
        queue: "default".into(),
        attempt: 1,
        input: Bytes::copy_from_slice(input.as_bytes()),
        ..Grant::default()
    }
}

pub(crate) fn shell(token: &str, command: &str) -> Grant {
    let input = serde_json::json!({ "command": command }).to_string();
    Grant { r#type: "shell".into(), ..grant(token, &input) }
}

/// A package archive.
pub(crate) fn pack(files: &[(&str, &[u8])], modules: &[&str]) -> Vec<u8> {
    pack_locked(files, modules, "")
}

pub(crate) fn pack_locked(files: &[(&str, &[u8])], modules: &[&str], lock: &str) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let manifest = serde_json::json!({ "format": "folder", "entries": [], "lock": lock, "modules": modules, "requires_python": "" });
    let manifest = manifest.to_string();
    let all = [("tidewheel-manifest.json", manifest.as_bytes())].into_iter().chain(files.iter().copied());
    for (name, content) in all {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).expect("a member");
        zip.write_all(content).expect("content");
    }
    zip.finish().expect("an archive").into_inner()
}

/// Processes whose command line or environment names `needle`, zombies left out.
pub(crate) fn processes_of(needle: &str) -> Vec<i32> {
    let own = std::process::id() as i32;
    let entries = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    entries
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let stat = String::from_utf8_lossy(&read("stat")).into_owned();
            let zombie = stat.rfind(')').is_some_and(|at| stat[at..].starts_with(") Z"));
            let names = [read("cmdline"), read("environ")];
            !zombie && names.iter().any(|text| text.windows(needle.len()).any(|w| w == needle.as_bytes()))
        })
        .collect()
}

/// Waits for a condition that nothing announces.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

pub(crate) fn tokens(all: &[Bytes]) -> HashSet<String> {
    all.iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect()
}

pub(crate) fn read_pid(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Whether this machine has bubblewrap and lets this user make namespaces; where not, it says what is not run for it.
pub(crate) fn has_sandbox(test: &str) -> bool {
    static HAS: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let program = std::env::var_os("TIDEWHEEL_BWRAP").unwrap_or_else(|| "bwrap".into());
        let probe = std::process::Command::new(program)
            .args(["--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "true"])
            .output();
        probe.is_ok_and(|output| output.status.success())
    });
    if !*HAS {
        println!("not run: {test} in the sandbox: bubblewrap is missing, or this user may not make namespaces");
    }
    *HAS
}
