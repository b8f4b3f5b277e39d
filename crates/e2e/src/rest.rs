//! A REST client that shows everything: status, headers and body, without retries of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;

/// A client with a token.
#[derive(Clone)]
pub struct Rest {
    http: reqwest::Client,
    /// `http://127.0.0.1:port`
    pub url: String,
    /// The token that is sent; empty = none.
    pub token: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: Bytes,
}

impl Rest {
    /// A client for a server.
    pub fn new(url: &str, token: &str) -> Rest {
        // Without a proxy: the tests stay on the loopback whatever the environment says.
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .expect("a plain client needs nothing of the machine");
        Rest { http, url: url.to_owned(), token: token.to_owned() }
    }

    /// The same client with another token.
    pub fn with_token(&self, token: &str) -> Rest {
        Rest { token: token.to_owned(), ..self.clone() }
    }

    /// Any request.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Bytes>,
    ) -> anyhow::Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = |v: &reqwest::header::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        let headers = response.headers().iter().map(|(n, v)| (n.as_str().to_owned(), text(v))).collect();
        Ok(Answer { status, headers, body: response.bytes().await? })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, &[], None).await
    }

    /// POST of a JSON value.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.json(Method::POST, path, body).await
    }

    /// PUT of a JSON value.
    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.json(Method::PUT, path, body).await
    }

    async fn json(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(method, path, &[JSON], Some(body.to_string().into())).await
    }

    /// Submits a task with an idempotency key.
    pub async fn submit(&self, key: &str, task: &Value) -> anyhow::Result<Answer> {
        self.send(Method::POST, "/api/tasks", &[JSON, ("idempotency-key", key)], Some(task.to_string().into())).await
    }

    /// Submits a task and gives its id; anything but success is an error.
    pub async fn task(&self, task: &Value) -> anyhow::Result<String> {
        self.post("/api/tasks", task).await?.ok()?.text("/id")
    }

    /// Waits until a task has ended and gives its record.
    pub async fn ended(&self, id: &str) -> anyhow::Result<Value> {
        let path = format!("/api/tasks/{id}");
        crate::until(&format!("the end of {id}"), crate::PATIENCE, || async {
            let task = self.get(&path).await?.ok()?.json()?;
            let state = task["state"].as_str().unwrap_or_default();
            let open = matches!(state, "queued" | "running" | "scheduled" | "waiting");
            Ok((!open).then_some(task))
        })
        .await
    }

    /// Makes a queue with these settings, or gives an existing one these settings.
    pub async fn queue(&self, name: &str, settings: &Value) -> anyhow::Result<()> {
        self.put(&format!("/api/queues/{name}"), settings).await?.ok().map(drop)
    }

    /// A token of a role; `more` goes into the request as it is.
    pub async fn new_token(&self, name: &str, role: &str, more: &Value) -> anyhow::Result<String> {
        let mut body = more.clone();
        body["name"] = name.into();
        body["role"] = role.into();
        self.post("/api/tokens", &body).await?.ok()?.text("/secret")
    }
}

/// The header of every JSON body.
pub const JSON: (&str, &str) = ("content-type", "application/json");

impl Answer {
    /// The answer itself if it is a success.
    pub fn ok(self) -> anyhow::Result<Answer> {
        anyhow::ensure!((200..300).contains(&self.status), "status {}: {}", self.status, self.shown());
        Ok(self)
    }

    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.shown()))
    }

    /// A text at a JSON pointer of the body.
    pub fn text(&self, pointer: &str) -> anyhow::Result<String> {
        let value = self.json()?;
        let text = value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        text.with_context(|| format!("no text at {pointer}: {}", self.shown()))
    }

    /// A header, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// `code` of a problem, or an empty text where the body is none.
    pub fn code(&self) -> String {
        self.json().ok().and_then(|v| v["code"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The body for messages.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(600).collect()
    }
}
