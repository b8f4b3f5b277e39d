//! Bad input, hostile or careless: a clear error, nothing lost, and the server goes on serving.

mod access;
mod body;
mod package;
mod rpc;
mod transport;

use anyhow::Context;
use tidewheel_e2e::rest::Answer;

/// Fails unless the answer is a problem of this status and code, in the form that RFC 9457 asks for.
fn problem(what: &str, answer: &Answer, status: u16, code: &str) -> anyhow::Result<serde_json::Value> {
    let shown = format!("{what}: {} {}", answer.status, answer.shown());
    anyhow::ensure!(answer.status == status, "expected status {status}; {shown}");
    anyhow::ensure!(answer.header("content-type") == "application/problem+json", "content type; {shown}");
    let body = answer.json().with_context(|| shown.clone())?;
    anyhow::ensure!(body["code"] == code, "expected code {code}; {shown}");
    anyhow::ensure!(body["status"] == status, "the status in the body; {shown}");
    for field in ["type", "title", "detail"] {
        anyhow::ensure!(body[field].as_str().is_some_and(|text| !text.is_empty()), "no {field}; {shown}");
    }
    anyhow::ensure!(body["retryable"].is_boolean(), "no retryable; {shown}");
    Ok(body)
}
