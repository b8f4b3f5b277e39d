//! The HTTP client of all verbs: one place for addresses, tokens, retries, idempotency keys and problem documents.
//!
//! A request is repeated only where the server says that it was not accepted (429, 503 with a retryable code), waits as
//! long as `Retry-After` asks, and every POST carries an idempotency key, so that a repeat cannot do the work twice.

mod events;
mod multipart;
mod retry;

pub(crate) use events::Events;
pub(crate) use multipart::{SentFile, Upload};
pub(crate) use retry::random_hex;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest::Problem;

use crate::fail::{Exit, Failure, Outcome, While};
use crate::profile::{Connection, Secret};
use retry::Retries;

/// Prefix of the versioned surface.
const PREFIX: &str = "/api/v1";
/// Time to reach the server. A machine that is up answers the handshake much sooner; one that is not should not hold a
/// script.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time until the answer begins, and between two pieces of it, where `--server-timeout` says nothing else. What the
/// server was asked to wait comes on top, and an upload that moves is no silence.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same after an upload, which is unpacked and checked before it is answered.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);
/// The same for the calls whose work takes as long as the server has data: backups.
const LONG_ANSWER_TIMEOUT: Duration = Duration::from_secs(3_600);

/// A connection to one server as one principal. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    /// The whole header: a token, or the id that goes with a client certificate.
    authorization: Option<Secret>,
    tenant: Option<String>,
    /// What the caller allows for an answer.
    timeout: Option<Duration>,
}

impl Client {
    /// A client for a resolved connection; opens nothing yet.
    pub(crate) fn new(connection: &Connection) -> Outcome<Client> {
        let authorization = connection.token.as_ref().map(|token| Secret::new(format!("Bearer {}", token.expose())));
        Client::dial(connection, authorization, None)
    }

    /// A client that proves who it is by a certificate (chain and key as PEM) instead of a token; `id` is its token's.
    pub(crate) fn with_certificate(connection: &Connection, id: &str, pem: &str) -> Outcome<Client> {
        let identity = reqwest::Identity::from_pem(pem.as_bytes());
        let identity = identity.doing(Exit::Failed, || "cannot use the certificate of this agent".to_owned())?;
        Client::dial(connection, Some(Secret::new(format!("Certificate {id}"))), Some(identity))
    }

    fn dial(
        connection: &Connection,
        authorization: Option<Secret>,
        identity: Option<reqwest::Identity>,
    ) -> Outcome<Client> {
        let base = connection.url.trim_end_matches('/').to_owned();
        let parsed = reqwest::Url::parse(&base)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
            .ok_or_else(|| {
                Failure::usage(
                    "cannot use this server address",
                    format!("'{base}' is not an http:// or https:// URL ({})", connection.url_origin),
                )
                .next("give --url http://HOST:PORT")
            })?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tidewheel-cli/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect could carry the token to another host; the API has none.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&parsed) {
            builder = builder.no_proxy();
        }
        builder = match &connection.ca_file {
            Some(path) => builder.tls_certs_only(read_certificates(path)?),
            // Reading the machine's certificates takes longer than a local call: not for plain HTTP.
            None if parsed.scheme() == "http" => builder.tls_certs_only([]),
            None => builder,
        };
        if let Some(identity) = identity {
            builder = builder.identity(identity);
        }
        let http = builder.build().doing(Exit::Failed, || "cannot start the HTTP client".to_owned())?;
        Ok(Client { http, base, authorization, tenant: connection.tenant.clone(), timeout: connection.timeout })
    }

    /// The same without any token: for a call whose path holds all that is needed.
    pub(crate) fn anonymous(&self) -> Client {
        Client { authorization: None, tenant: None, ..self.clone() }
    }

    /// The server's address.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// `GET /api/v1{path}`
    pub(crate) fn get(&self, path: impl AsRef<str>) -> Request {
        self.request(Method::GET, path.as_ref())
    }

    /// `POST /api/v1{path}`, with an idempotency key of its own.
    pub(crate) fn post(&self, path: impl AsRef<str>) -> Request {
        self.request(Method::POST, path.as_ref()).idempotency_key(&format!("cli-{}", random_hex()))
    }

    /// `PUT /api/v1{path}`
    pub(crate) fn put(&self, path: impl AsRef<str>) -> Request {
        self.request(Method::PUT, path.as_ref())
    }

    /// `PATCH /api/v1{path}`
    pub(crate) fn patch(&self, path: impl AsRef<str>) -> Request {
        self.request(Method::PATCH, path.as_ref())
    }

    /// `DELETE /api/v1{path}`
    pub(crate) fn delete(&self, path: impl AsRef<str>) -> Request {
        self.request(Method::DELETE, path.as_ref())
    }

    /// A path outside the versioned surface, such as `/health/ready`.
    pub(crate) fn system(&self, path: &str) -> Request {
        let mut request = self.request(Method::GET, "");
        request.url = format!("{}{path}", self.base);
        request
    }

    fn request(&self, method: Method, path: &str) -> Request {
        Request {
            client: self.clone(),
            method,
            url: format!("{}{PREFIX}{path}", self.base),
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: Body::None,
            doing: "talk to the server".to_owned(),
            next: None,
            patient: true,
            usual: ANSWER_TIMEOUT,
        }
    }
}

pub(crate) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn read_certificates(path: &str) -> Outcome<Vec<reqwest::Certificate>> {
    let what = || format!("cannot read the certificates in {path}");
    let pem = std::fs::read(path).doing(Exit::Usage, what)?;
    reqwest::Certificate::from_pem_bundle(&pem).doing(Exit::Usage, what)
}

/// A path segment: names may hold anything, a `:` too, which would otherwise begin a verb.
pub(crate) fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~@".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[derive(Clone)]
enum Body {
    None,
    Bytes(&'static str, Bytes),
    Upload(Upload),
    File(SentFile),
}

/// A request under construction.
#[must_use]
pub(crate) struct Request {
    client: Client,
    method: Method,
    url: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Body,
    doing: String,
    next: Option<String>,
    patient: bool,
    /// Silence of the server that is no reason to give up.
    usual: Duration,
}

impl Request {
    /// What this is for, as in "cannot ...".
    pub(crate) fn doing(mut self, what: impl Into<String>) -> Request {
        self.doing = what.into();
        self
    }

    /// The command to propose when it fails, where the problem's code knows no better one.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Request {
        self.next = Some(next.into());
        self
    }

    /// Adds a query parameter.
    pub(crate) fn query(mut self, name: &str, value: impl ToString) -> Request {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds a query parameter if there is a value.
    pub(crate) fn maybe(self, name: &str, value: Option<impl ToString>) -> Request {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// A JSON body.
    pub(crate) fn json(self, body: &impl Serialize) -> Request {
        // Values made of strings, numbers and maps with text keys always serialise.
        let text = serde_json::to_vec(body).unwrap_or_default();
        self.raw_json(text)
    }

    /// A JSON body that is text already.
    pub(crate) fn raw_json(mut self, body: impl Into<Bytes>) -> Request {
        self.body = Body::Bytes("application/json", body.into());
        self
    }

    /// A workflow document.
    pub(crate) fn raw_document(mut self, body: impl Into<Bytes>) -> Request {
        self.body = Body::Bytes("application/yaml", body.into());
        self
    }

    /// Bytes as they are.
    pub(crate) fn raw_bytes(mut self, body: impl Into<Bytes>) -> Request {
        self.body = Body::Bytes("application/octet-stream", body.into());
        self
    }

    /// A file as it is, read while it is sent.
    pub(crate) fn file(mut self, file: SentFile) -> Request {
        self.body = Body::File(file);
        self.usual = UPLOAD_TIMEOUT;
        self
    }

    /// A multipart body with a file.
    pub(crate) fn upload(mut self, upload: Upload) -> Request {
        self.body = Body::Upload(upload);
        self.usual = UPLOAD_TIMEOUT;
        self
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Request {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Replaces the idempotency key.
    pub(crate) fn idempotency_key(self, key: &str) -> Request {
        self.header("idempotency-key", key)
    }

    /// Fails at once instead of waiting for an overloaded server; for probes and redraws.
    pub(crate) fn at_once(mut self) -> Request {
        self.patient = false;
        self
    }

    /// The work behind it may take long before the answer begins.
    pub(crate) fn long(mut self) -> Request {
        self.usual = LONG_ANSWER_TIMEOUT;
        self
    }

    /// The server was asked, in the body, to wait so long before it answers.
    pub(crate) fn maybe_patient(mut self, wait: Option<&str>) -> Request {
        let asked = wait.and_then(|text| crate::units::parse_duration_ms(text).ok()).unwrap_or(0);
        self.usual += Duration::from_millis(asked);
        self
    }

    /// How long the server may be silent.
    fn limit(&self) -> Duration {
        let waits = self.query.iter().find(|(name, _)| name == "wait");
        let asked = waits.and_then(|(_, value)| crate::units::parse_duration_ms(value).ok()).unwrap_or(0);
        self.client.timeout.unwrap_or(self.usual) + Duration::from_millis(asked)
    }

    /// Sends it and gives the answer, whatever its status below 400; problems become failures.
    pub(crate) async fn send(self) -> Outcome<reqwest::Response> {
        let mut retries = Retries::new(self.patient);
        loop {
            let answer = self.once().await?;
            if answer.status().as_u16() < 400 {
                return Ok(answer);
            }
            let problem = problem_of(answer).await;
            match retries.after(&problem) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => {
                    let mut failure = Failure::problem(format!("cannot {}", self.doing), problem);
                    if let Some(next) = &self.next
                        && !matches!(failure.exit(), Exit::Denied | Exit::Unreachable)
                    {
                        failure = failure.next(next.clone());
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// Sends it and reads the answer as JSON; an empty answer is `null`.
    pub(crate) async fn value(self) -> Outcome<Value> {
        let (doing, base) = (self.doing.clone(), self.client.base.clone());
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            let why = format!("{base} answered something that is not JSON: is it a Tidewheel server?");
            Failure::new(Exit::Unreachable, format!("cannot {doing}"), why).cause(&error)
        })
    }

    /// Sends it and reads the whole answer.
    pub(crate) async fn bytes(self) -> Outcome<Bytes> {
        let mut chunks = self.chunks().await?;
        let mut whole = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            whole.extend_from_slice(&chunk?);
        }
        Ok(whole.freeze())
    }

    /// Sends it and gives the answer piece by piece.
    pub(crate) async fn chunks(self) -> Outcome<BoxStream<'static, Outcome<Bytes>>> {
        let (doing, base, limit, method) =
            (self.doing.clone(), self.client.base.clone(), self.limit(), self.method.clone());
        let answer = self.send().await?;
        let next = move |mut answer: reqwest::Response| {
            let (doing, base, method) = (doing.clone(), base.clone(), method.clone());
            async move {
                match tokio::time::timeout(limit, answer.chunk()).await {
                    Ok(Ok(chunk)) => Ok(chunk.map(|chunk| (chunk, answer))),
                    Ok(Err(error)) => Err(broken(&doing, &error)),
                    Err(_) => Err(silent(&doing, &base, limit, &method)),
                }
            }
        };
        Ok(stream::try_unfold(answer, next).boxed())
    }

    /// Opens a stream of server-sent events.
    pub(crate) fn events(self) -> Events {
        Events::new(self.header("accept", "text/event-stream"))
    }

    async fn once(&self) -> Outcome<reqwest::Response> {
        let Client { http, base, authorization, tenant, timeout: _ } = &self.client;
        let mut request = http.request(self.method.clone(), &self.url).headers(self.headers.clone());
        if !self.query.is_empty() {
            request = request.query(&self.query);
        }
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::try_from(authorization.expose())
                .doing(Exit::Usage, || "cannot send this token: it holds a character that no token has".to_owned())?;
            value.set_sensitive(true);
            request = request.header("authorization", value);
        }
        if let Some(tenant) = tenant {
            request = request.header("tidewheel-tenant", tenant);
        }
        request = match &self.body {
            Body::None => request,
            Body::Bytes(kind, bytes) => request.header("content-type", *kind).body(bytes.clone()),
            Body::Upload(upload) => upload.attach(request).await?,
            Body::File(file) => file.attach(request).await?,
        };
        let sent = match &self.body {
            Body::Upload(upload) => Some(&*upload.sent),
            Body::File(file) => Some(&*file.sent),
            _ => None,
        };
        let limit = self.limit();
        let answered = heard(request.send(), limit, sent).await;
        answered.ok_or_else(|| silent(&self.doing, base, limit, &self.method))?.map_err(|error| {
            // A path may hold a token.
            let error = error.without_url();
            if error.is_connect() {
                let why = format!("no server answers at {base}");
                return Failure::new(Exit::Unreachable, format!("cannot {}", self.doing), why)
                    .next("tidewheel dev   (or name another server with --url)")
                    .cause(&error);
            }
            broken(&self.doing, &error)
        })
    }
}

/// The outcome of a call, or nothing after the time limit; a body that is still being sent moves the limit.
async fn heard<T>(call: impl Future<Output = T>, limit: Duration, sent: Option<&AtomicU64>) -> Option<T> {
    let mut call = std::pin::pin!(call);
    let count = || sent.map_or(0, |sent| sent.load(Ordering::Relaxed));
    loop {
        let before = count();
        match tokio::time::timeout(limit, &mut call).await {
            Ok(outcome) => return Some(outcome),
            Err(_) if count() != before => {}
            Err(_) => return None,
        }
    }
}

/// The server took the connection and says nothing.
fn silent(doing: &str, base: &str, limit: Duration, method: &Method) -> Failure {
    let waited = match limit.subsec_millis() {
        0 => format!("{} s", limit.as_secs()),
        _ => format!("{} ms", limit.as_millis()),
    };
    let may_have = if method.is_safe() { "" } else { "; what was asked for may have been done all the same" };
    let why = format!("{base} accepted the connection and gave no answer within {waited}{may_have}");
    let next = "tidewheel status   (or allow more time with --server-timeout)";
    Failure::new(Exit::Unreachable, format!("cannot {doing}"), why).next(next)
}

fn broken(doing: &str, error: &reqwest::Error) -> Failure {
    let why = "the connection broke before the answer was complete";
    Failure::new(Exit::Unreachable, format!("cannot {doing}"), why).next("tidewheel status").cause(error)
}

/// The problem an answer carries; one is made up where a proxy or a foreign server answered.
async fn problem_of(answer: reqwest::Response) -> Problem {
    let status = answer.status();
    let retry_after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    // The status says enough where the rest does not come.
    let bytes = tokio::time::timeout(ANSWER_TIMEOUT, answer.bytes()).await;
    let bytes = bytes.ok().and_then(Result::ok).unwrap_or_default();
    let mut problem = serde_json::from_slice::<Problem>(&bytes).unwrap_or_else(|_| {
        let mut text = crate::text::one_line(&String::from_utf8_lossy(&bytes));
        if text.chars().count() > 200 {
            text = text.chars().take(200).collect::<String>() + "...";
        }
        let detail = format!("HTTP {}: {text}", status.as_u16());
        let mut problem = Problem::new(code_for(status), detail.trim_end_matches([':', ' ']));
        problem.status = status.as_u16();
        problem
    });
    problem.retry_after = problem.retry_after.or(retry_after);
    problem
}

fn code_for(status: StatusCode) -> Code {
    match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::NotAllowed,
        404 => Code::NotFound,
        405 => Code::MethodNotAllowed,
        409 => Code::Conflict,
        412 => Code::PreconditionFailed,
        413 => Code::TooLarge,
        415 => Code::UnsupportedMediaType,
        429 => Code::RateLimited,
        502..=504 => Code::Unavailable,
        400..=499 => Code::InvalidField,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(timeout: Option<Duration>) -> Request {
        let connection = Connection {
            url: "http://127.0.0.1:9".to_owned(),
            url_origin: String::new(),
            token: None,
            token_origin: String::new(),
            tenant: None,
            ca_file: None,
            profile: None,
            timeout,
        };
        Client::new(&connection).unwrap().get("/tasks")
    }

    #[test]
    fn a_silent_server_has_half_a_minute_and_the_wait_it_was_asked_for() {
        let seconds = Duration::from_secs;
        assert_eq!(request(None).limit(), seconds(30));
        assert_eq!(request(None).query("wait", "20000ms").limit(), seconds(50));
        assert_eq!(request(Some(seconds(2))).limit(), seconds(2));
        assert_eq!(request(Some(seconds(2))).long().query("wait", "1s").limit(), seconds(3));
        assert!(request(None).long().limit() > seconds(600));
    }

    #[tokio::test]
    async fn an_upload_that_moves_is_not_given_up() {
        let sent = AtomicU64::new(0);
        // Each time the limit runs out, a piece more has been sent.
        let slow = std::future::poll_fn(|_| match sent.fetch_add(1, Ordering::Relaxed) {
            10 => std::task::Poll::Ready(()),
            _ => std::task::Poll::Pending,
        });
        assert_eq!(heard(slow, Duration::ZERO, Some(&sent)).await, Some(()));
        assert_eq!(heard(std::future::pending::<()>(), Duration::ZERO, Some(&sent)).await, None);
    }
}
