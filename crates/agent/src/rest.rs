//! What a task asks the server through its agent: submit further tasks, look at them, wait for them, add, take and settle
//! items of queues, start runs of workflows, wait for them and give them signals. The agent uses its own token; the shim has
//! no network. Every answer is a frame for the shim, a problem included.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::RwLock;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::config::{AgentConfig, Credential, Reread};
use crate::error::Error;
use crate::shim;

const TRIES: u32 = 5;
/// One question about a result stays open so long at most; the shim asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The server's REST interface.
#[derive(Clone)]
pub(crate) struct Rest {
    live: Arc<RwLock<Live>>,
    base: String,
    /// Certificates the server's one is checked against, instead of the machine's.
    authority: Option<Arc<[u8]>>,
    reread: Option<Reread>,
    /// The tenant of the task that asks, for an agent that serves several.
    tenant: Option<Arc<str>>,
}

#[derive(Clone)]
struct Live {
    http: reqwest::Client,
    credential: Credential,
}

/// The parts of a `handle` message that matter here.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Handle<'a> {
    timeout_ms: u64,
    reason: String,
    queue: String,
    verb: String,
    /// Idempotency key of the start of a run.
    key: String,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// What of a run's record decides how it is passed on.
#[derive(Deserialize)]
struct RunRecord<'a> {
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
}

/// A large value, which is kept apart.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Apart {
    #[serde(rename = "$ref")]
    hash: String,
    #[serde(rename = "size")]
    _size: u64,
}

#[derive(Deserialize)]
struct BatchAnswer<'a> {
    #[serde(borrow)]
    items: Vec<ItemAnswer<'a>>,
}

#[derive(Deserialize)]
struct ItemAnswer<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(borrow, default)]
    problem: Option<&'a RawValue>,
}

impl Rest {
    pub(crate) fn new(config: &AgentConfig) -> Result<Self, Error> {
        let read = |path: &std::path::PathBuf| std::fs::read(path).map_err(Error::file("read", path));
        let authority: Option<Arc<[u8]>> = config.ca.as_ref().map(read).transpose()?.map(Into::into);
        let live = Self::dial(&config.credential, authority.as_deref())?;
        let base = format!("{}/api/v1", config.server.trim_end_matches('/'));
        Ok(Self { live: Arc::new(RwLock::new(live)), base, authority, reread: config.reread.clone(), tenant: None })
    }

    fn dial(credential: &Credential, authority: Option<&[u8]>) -> Result<Live, Error> {
        let mut builder = reqwest::Client::builder().connect_timeout(Duration::from_secs(5));
        if let Some(pem) = authority {
            let authority = reqwest::Certificate::from_pem(pem)
                .map_err(|e| Error::Config(format!("the certificate authority is not a certificate: {e}")))?;
            builder = builder.tls_certs_only([authority]);
        }
        if let Some((certificate, key)) = credential.identity() {
            let identity = reqwest::Identity::from_pem(format!("{certificate}\n{key}").as_bytes())
                .map_err(|e| Error::Config(format!("the agent's certificate cannot be used: {e}")))?;
            builder = builder.identity(identity);
        }
        let http = builder.build().map_err(|e| Error::Config(format!("no HTTP client: {e}")))?;
        Ok(Live { http, credential: credential.clone() })
    }

    /// Takes over a credential that was changed since; whether there was one.
    fn renew(&self) -> bool {
        let Some(now) = self.reread.as_ref().and_then(|reread| (reread.0)()) else { return false };
        if self.live.read().credential.is(&now) {
            return false;
        }
        let Ok(live) = Self::dial(&now, self.authority.as_deref()) else { return false };
        *self.live.write() = live;
        true
    }

    /// The same, for a task of this tenant.
    pub(crate) fn within(&self, tenant: Option<Arc<str>>) -> Rest {
        Rest { tenant, ..self.clone() }
    }

    /// The answer to `enqueue`: ids, or the first problem.
    pub(crate) async fn enqueue(&self, req: Bytes, items: Bytes) -> Bytes {
        let mut body = BytesMut::with_capacity(items.len() + 12);
        body.put_slice(b"{\"tasks\":");
        body.put_slice(&items);
        body.put_u8(b'}');
        let answer = self.call(Method::POST, "/tasks:batch", Some(body.freeze()), Duration::from_secs(60)).await;
        match answer {
            Ok(text) => match serde_json::from_slice::<BatchAnswer<'_>>(&text) {
                Ok(answer) => match answer.items.iter().find_map(|i| i.problem) {
                    Some(problem) => reply("enqueued", &req, "problem", problem.get().as_bytes()),
                    None => {
                        let ids: Vec<_> = answer.items.into_iter().map(|i| i.id.unwrap_or_default()).collect();
                        reply("enqueued", &req, "ids", json!(ids).to_string().as_bytes())
                    }
                },
                Err(error) => reply("enqueued", &req, "problem", &problem(&format!("unreadable answer: {error}"))),
            },
            Err(text) => reply("enqueued", &req, "problem", &text),
        }
    }

    /// The answer to `handle`.
    pub(crate) async fn handle(&self, req: Bytes, op: &str, id: &str, body: Bytes) -> Bytes {
        let more: Handle<'_> = serde_json::from_slice(&body).unwrap_or_default();
        let other = match op {
            "add_item" | "take_items" | "settle_item" => Some(self.item(op, id, &more).await),
            "start_run" | "run" | "signal_run" | "complete_promise" => Some(self.run(op, id, &more).await),
            _ => None,
        };
        if let Some(answer) = other {
            return match answer {
                Ok(text) => reply("handle_reply", &req, "body", &text),
                Err(text) => reply("handle_reply", &req, "problem", &text),
            };
        }
        let known = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !known {
            return reply("handle_reply", &req, "problem", &problem("the id of the task is not readable"));
        }
        let usual = Duration::from_secs(30);
        let answer = match op {
            "status" => self.call(Method::GET, &format!("/tasks/{id}"), None, usual).await,
            "why" => self.call(Method::GET, &format!("/tasks/{id}/why"), None, usual).await,
            "logs" => self.call(Method::GET, &format!("/tasks/{id}/logs"), None, usual).await,
            "cancel" => {
                let body = json!({ "reason": more.reason }).to_string();
                self.call(Method::POST, &format!("/tasks/{id}:cancel"), Some(body.into()), usual).await
            }
            "result" => self.result(id, Duration::from_millis(more.timeout_ms).min(LONGEST_WAIT)).await,
            other => Err(problem(&format!("this agent does not know the operation `{other}`"))),
        };
        match answer {
            Ok(text) if text.is_empty() => reply("handle_reply", &req, "body", b"{}"),
            Ok(text) => reply("handle_reply", &req, "body", &text),
            Err(text) => reply("handle_reply", &req, "problem", &text),
        }
    }

    /// Items of a queue: added, taken, settled. The server decides whether this agent may. An add carries its idempotency key
    /// in its body. A take whose answer is lost costs its items' lease, so it is repeated only where nothing was taken.
    async fn item(&self, op: &str, id: &str, more: &Handle<'_>) -> Result<Bytes, Vec<u8>> {
        let name = path_part(&more.queue).ok_or_else(|| problem("a queue is named by a text"))?;
        let body =
            more.body.map_or_else(|| Bytes::from_static(b"{}"), |body| Bytes::copy_from_slice(body.get().as_bytes()));
        let usual = Duration::from_secs(30);
        let (path, time) = match op {
            "add_item" => (format!("/queues/{name}/items"), usual),
            "take_items" => {
                let wait = Duration::from_millis(more.timeout_ms).min(LONGEST_WAIT);
                (format!("/queues/{name}/items:take"), wait + usual)
            }
            _ => {
                let verb = ["done", "fail", "postpone", "renew"].into_iter().find(|verb| *verb == more.verb);
                let (Some(verb), Some(id)) = (verb, path_part(id)) else {
                    return Err(problem("an item is settled by its id, with done, fail, postpone or renew"));
                };
                (format!("/queues/{name}/items/{id}:{verb}"), usual)
            }
        };
        self.call(Method::POST, &path, Some(body), time).await
    }

    /// Runs of workflows: started, looked at or waited for, given a signal or what a promise waits for. The server decides whether
    /// this agent may. A start carries an idempotency key, the others an id, so that all may be repeated.
    async fn run(&self, op: &str, id: &str, more: &Handle<'_>) -> Result<Bytes, Vec<u8>> {
        let body =
            more.body.map_or_else(|| Bytes::from_static(b"{}"), |body| Bytes::copy_from_slice(body.get().as_bytes()));
        let usual = Duration::from_secs(30);
        if op == "start_run" {
            let key = (!more.key.is_empty()).then_some(more.key.as_str());
            let (status, text) = self.send(Method::POST, "/runs", (Some(body), key), usual).await?;
            return if status.is_success() { Ok(text) } else { Err(as_problem(status, &text)) };
        }
        let id = path_part(id).ok_or_else(|| problem("a run is named by its id"))?;
        if op == "signal_run" {
            let kind = path_part(&more.verb).ok_or_else(|| problem("a signal has a type"))?;
            return self.call(Method::POST, &format!("/runs/{id}/signals/{kind}"), Some(body), usual).await;
        }
        if op == "complete_promise" {
            let name = path_part(&more.verb).ok_or_else(|| problem("a promise has a name"))?;
            return self.call(Method::POST, &format!("/runs/{id}/promises/{name}"), Some(body), usual).await;
        }
        let wait = Duration::from_millis(more.timeout_ms).min(LONGEST_WAIT);
        let path = format!("/runs/{id}?wait={}ms", wait.as_millis());
        let text = self.call(Method::GET, &path, None, wait + usual).await?;
        let record: RunRecord<'_> =
            serde_json::from_slice(&text).map_err(|e| problem(&format!("unreadable answer: {e}")))?;
        let apart = record.output.and_then(|output| serde_json::from_str::<Apart>(output.get()).ok());
        let (Some(output), Some(apart)) = (record.output, apart) else { return Ok(text) };
        let hash = path_part(&apart.hash).ok_or_else(|| problem("the output of the run is not readable"))?;
        let value = self.call(Method::GET, &format!("/blobs/{hash}"), None, usual).await?;
        // The value in the place of its reference, which is a part of the text.
        let from = output.get().as_ptr().addr() - text.as_ptr().addr();
        Ok([&text[..from], &value, &text[from + output.get().len()..]].concat().into())
    }

    /// The record of a task that has ended, as the shim reads it: state, result, error.
    async fn result(&self, id: &str, wait: Duration) -> Result<Bytes, Vec<u8>> {
        let time = wait + Duration::from_secs(30);
        let path = format!("/tasks/{id}/result?wait={}ms", wait.as_millis());
        match self.fetch(Method::GET, &path, None, time).await? {
            (StatusCode::ACCEPTED, _) => Err(problem_with("wait-timeout", 504, "the wait ran out; the task goes on")),
            (status, value) if status.is_success() => {
                let mut record = BytesMut::with_capacity(value.len() + 40);
                record.put_slice(b"{\"state\":\"succeeded\",\"result\":");
                record.put_slice(if value.is_empty() { b"null" } else { &value });
                record.put_u8(b'}');
                Ok(record.freeze())
            }
            // It ended without a result: its record has the error.
            (StatusCode::CONFLICT, _) => self.call(Method::GET, &format!("/tasks/{id}"), None, time).await,
            (status, text) => Err(as_problem(status, &text)),
        }
    }

    /// The body of a 2xx answer, or a problem.
    async fn call(&self, method: Method, path: &str, body: Option<Bytes>, time: Duration) -> Result<Bytes, Vec<u8>> {
        let (status, text) = self.fetch(method, path, body, time).await?;
        if status.is_success() { Ok(text) } else { Err(as_problem(status, &text)) }
    }

    /// Any answer of the server. Repeats what was certainly not accepted.
    async fn fetch(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        time: Duration,
    ) -> Result<(StatusCode, Bytes), Vec<u8>> {
        self.send(method, path, (body, None), time).await
    }

    /// The same, with an idempotency key.
    async fn send(
        &self,
        method: Method,
        path: &str,
        (body, key): (Option<Bytes>, Option<&str>),
        time: Duration,
    ) -> Result<(StatusCode, Bytes), Vec<u8>> {
        let url = format!("{}{path}", self.base);
        let mut tries = 0;
        loop {
            let Live { http, credential } = self.live.read().clone();
            let authorization = credential.authorization();
            let mut request = http.request(method.clone(), &url).header("authorization", authorization).timeout(time);
            if let Some(tenant) = &self.tenant {
                request = request.header("tidewheel-tenant", &**tenant);
            }
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            if let Some(body) = &body {
                request = request.header("content-type", "application/json").body(body.clone());
            }
            tries += 1;
            let pause = match request.send().await {
                Ok(answer) => {
                    let status = answer.status();
                    let after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
                    let text = answer.bytes().await.map_err(|e| problem(&format!("the answer broke off: {e}")))?;
                    let busy = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
                    // It may have been stored: only the task can know whether a second time does harm.
                    let changed = status == StatusCode::UNAUTHORIZED && tries < TRIES && self.renew();
                    if changed {
                        continue;
                    }
                    let unknown = text.windows(15).any(|w| w == b"outcome-unknown");
                    if !busy || unknown || tries >= TRIES {
                        return Ok((status, text));
                    }
                    after.map_or(Duration::from_millis(100 << tries), Duration::from_secs)
                }
                Err(error) if error.is_connect() && tries < TRIES => Duration::from_millis(100 << tries),
                Err(error) if error.is_timeout() => return Err(problem_with("wait-timeout", 504, "the wait ran out")),
                Err(error) => return Err(problem(&format!("the server cannot be reached: {error}"))),
            };
            tokio::time::sleep(pause.min(Duration::from_secs(5))).await;
        }
    }
}

/// `{"t":...,"req":...,"<field>":<raw>}`; a value above the bound of a frame becomes a problem.
fn reply(kind: &str, req: &[u8], field: &str, raw: &[u8]) -> Bytes {
    if raw.len() + req.len() + 256 > shim::MAX_FRAME || serde_json::from_slice::<&RawValue>(raw).is_err() {
        let why =
            if raw.len() > 1024 { "the answer is too large for a frame" } else { "the server's answer is not JSON" };
        return reply(kind, req, "problem", &problem(why));
    }
    let mut out = BytesMut::with_capacity(raw.len() + 64);
    shim::frame(&mut out, |out| {
        out.put_slice(format!("{{\"t\":\"{kind}\",\"req\":").as_bytes());
        out.put_slice(req);
        out.put_slice(format!(",\"{field}\":").as_bytes());
        out.put_slice(raw);
        out.put_u8(b'}');
    });
    out.freeze()
}

/// The answer to a `fetch`.
pub(crate) fn fetched(req: &[u8], outcome: Result<String, String>) -> Bytes {
    match outcome {
        Ok(path) => reply("handle_reply", req, "body", json!({ "path": path }).to_string().as_bytes()),
        Err(why) => reply("handle_reply", req, "problem", &problem_with("not-found", 404, &why)),
    }
}

/// The refusal of a fetch that the asking process has no right to.
pub(crate) fn not_fetched(req: &[u8], why: &str) -> Bytes {
    reply("handle_reply", req, "problem", &problem_with("not-allowed", 403, why))
}

/// The answer to a `history`: a JSON array of turns, or why there is none.
pub(crate) fn history(req: &[u8], outcome: Result<Bytes, String>) -> Bytes {
    match outcome {
        Ok(turns) => reply("history", req, "turns", &turns),
        Err(why) => reply("history", req, "error", Value::from(why).to_string().as_bytes()),
    }
}

pub(crate) fn no_asset(req: &[u8]) -> Bytes {
    let text = problem_with("not-found", 404, "this server has no assets");
    reply("asset_value", req, "problem", &text)
}

/// What a task asked for cannot be had now, and may be later.
pub(crate) fn not_now(req: &[u8], why: &str) -> Bytes {
    reply("handle_reply", req, "problem", &problem(why))
}

/// A name as one part of a path; nothing for one that is none.
fn path_part(name: &str) -> Option<String> {
    use std::fmt::Write;
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            // Dots too: `..` would lead out of the path.
            other => write!(out, "%{other:02X}").ok()?,
        }
    }
    (!name.is_empty() && name.len() <= 256).then_some(out)
}

fn as_problem(status: StatusCode, text: &Bytes) -> Vec<u8> {
    match serde_json::from_slice::<Value>(text) {
        Ok(Value::Object(_)) => text.to_vec(),
        _ => problem_with("internal", status.as_u16(), &format!("the server answered {status}")),
    }
}

fn problem(detail: &str) -> Vec<u8> {
    problem_with("unavailable", 503, detail)
}

fn problem_with(code: &str, status: u16, detail: &str) -> Vec<u8> {
    json!({ "code": code, "status": status, "title": detail, "detail": detail, "retryable": status >= 500 })
        .to_string()
        .into_bytes()
}
