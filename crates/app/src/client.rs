//! The HTTP client of all verbs: one place for addresses, tokens, retries, idempotency keys and problem documents.
//!
//! A request is repeated only where the server says that it was not accepted (429, 503 with a retryable code), waits as
//! long as `Retry-After` asks, and every POST carries an idempotency key, so that a repeat cannot do the work twice.

mod events;
mod multipart;
mod retry;

pub(crate) use events::Events;
pub(crate) use multipart::Upload;
pub(crate) use retry::random_hex;

use std::time::Duration;

use bytes::Bytes;
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
/// Time between two pieces of an answer, waits of the call itself not counted.
const READ_TIMEOUT: Duration = Duration::from_secs(75);

/// A connection to one server as one principal. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<Secret>,
    tenant: Option<String>,
}

impl Client {
    /// A client for a resolved connection; opens nothing yet.
    pub(crate) fn new(connection: &Connection) -> Outcome<Client> {
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
            .read_timeout(READ_TIMEOUT)
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
        let http = builder.build().doing(Exit::Failed, || "cannot start the HTTP client".to_owned())?;
        Ok(Client { http, base, token: connection.token.clone(), tenant: connection.tenant.clone() })
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
        }
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
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
    Json(Bytes),
    Upload(Upload),
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
        self.body = Body::Json(body.into());
        self
    }

    /// A multipart body with a file.
    pub(crate) fn upload(mut self, upload: Upload) -> Request {
        self.body = Body::Upload(upload);
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
        let doing = self.doing.clone();
        self.send().await?.bytes().await.map_err(|error| broken(&doing, &error))
    }

    /// Opens a stream of server-sent events.
    pub(crate) fn events(self) -> Events {
        Events::new(self.header("accept", "text/event-stream"))
    }

    async fn once(&self) -> Outcome<reqwest::Response> {
        let Client { http, base, token, tenant } = &self.client;
        let mut request = http.request(self.method.clone(), &self.url).headers(self.headers.clone());
        if !self.query.is_empty() {
            request = request.query(&self.query);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(tenant) = tenant {
            request = request.header("tidewheel-tenant", tenant);
        }
        request = match &self.body {
            Body::None => request,
            Body::Json(bytes) => request.header("content-type", "application/json").body(bytes.clone()),
            Body::Upload(upload) => upload.attach(request).await?,
        };
        request.send().await.map_err(|error| {
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

fn broken(doing: &str, error: &reqwest::Error) -> Failure {
    let why = if error.is_timeout() {
        "the server did not answer in time"
    } else {
        "the connection broke before the answer was complete"
    };
    Failure::new(Exit::Unreachable, format!("cannot {doing}"), why).next("tidewheel status").cause(error)
}

/// The problem an answer carries; one is made up where a proxy or a foreign server answered.
async fn problem_of(answer: reqwest::Response) -> Problem {
    let status = answer.status();
    let retry_after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let bytes = answer.bytes().await.unwrap_or_default();
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
