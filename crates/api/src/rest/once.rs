//! `Idempotency-Key` on the POSTs that have no keys of their own (submits do, in the engine). The answer of a call that
//! changed something is kept, durable before it is sent; the same call under the same key gets it again, and nothing is
//! done a second time. A call that failed is not kept: repeating it is harmless.
//!
//! A server that dies between the change and the keeping of its answer has acknowledged neither: the repeat is a call
//! like the first.

use std::collections::HashSet;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidewheel_engine::id::TenantId;
use tidewheel_engine::mutation::RecordKind;
use tidewheel_proto::code::Code;

use super::PREFIXES;
use super::reply::{REPLAYED, read_body};
use crate::auth::Principal;
use crate::auth::guard::TENANT_HEADER;
use crate::auth::promise::holds_token;
use crate::problem::{Failure, from_refusal};
use crate::service::submit_task::{idempotency_mismatch, key_hash, short_hash};
use crate::service::{records, spec};
use crate::state::Api;

const KEY: &str = "idempotency-key";
/// How long an answer is kept at most, in milliseconds: as long as the engine keeps its keys.
const KEEP_MS: u64 = tidewheel_engine::limit::IDEMPOTENCY_MS;
/// Answers kept per tenant, the newest: each of them is in memory.
const KEPT: usize = 1_000;
/// So many more may be there before the oldest are deleted together.
const SLACK: usize = 64;
/// A longer answer is not kept, and its call not protected. The largest is a task with its inline result.
const ANSWER_BYTES: usize = 256 << 10;

/// Calls under a key that are being worked on.
#[derive(Default)]
pub(crate) struct InFlight(Mutex<HashSet<(TenantId, String)>>);

/// Frees its key when the call has ended, or was given up.
struct Place<'a> {
    all: &'a InFlight,
    key: (TenantId, String),
}

impl InFlight {
    fn enter(&self, key: (TenantId, String)) -> Option<Place<'_>> {
        let is_new = self.0.lock().insert(key.clone());
        // Made only then, and with the lock given back: the end of a place takes its key out, under the same lock.
        is_new.then(|| Place { all: self, key })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.key);
    }
}

/// An answer as it is stored, as JSON under the hash of token and key.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Tells one request from another.
    request: u64,
    /// Wall time.
    at: u64,
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// Headers of an answer that belong to it and not to its transport.
const HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::LOCATION, header::ETAG];

/// The layer. `hides`: the answer holds a secret that is shown once and kept nowhere, so a repeat gets the rest.
pub(super) async fn layer(State((api, hides)): State<(Api, bool)>, request: Request, next: Next) -> Response {
    // A token of a promise can be repeated as it is, and its holder has no API token to keep an answer for.
    if !request.headers().contains_key(KEY) || holds_token(request.uri().path()) {
        return next.run(request).await;
    }
    answer(&api, hides, request, next).await.unwrap_or_else(Failure::into_response)
}

async fn answer(api: &Api, hides: bool, request: Request, next: Next) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).map(HeaderValue::as_bytes);
    let caller =
        Principal::of(api, header(header::AUTHORIZATION.as_str()), header(TENANT_HEADER), parts.extensions.get())?;
    let key = header(KEY).and_then(|value| std::str::from_utf8(value).ok());
    let key = key.ok_or_else(|| Failure::query("Idempotency-Key", "the header is not printable ASCII"))?;
    spec::key(key, "Idempotency-Key")?;
    // Of one token: another one may not have the rights that this answer needed.
    let name = hex::encode(key_hash(caller.tenant, &format!("{}\0{key}", caller.token_id)));
    let path = parts.uri.path_and_query().map_or("", |p| p.as_str());
    let path = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix)).unwrap_or(path).to_owned();
    let bytes = read_body(Request::from_parts(parts.clone(), body), api.config.body_bound()).await?;
    let fingerprint = short_hash(&[path.as_bytes(), &bytes]);
    let Some(_place) = api.in_flight.enter((caller.tenant, name.clone())) else {
        let detail = "A call with this idempotency key is being worked on; repeat it in a moment.";
        return Err(Failure::new(Code::Conflict, detail));
    };
    if let Some(kept) = find(api, &caller, &name) {
        return if kept.request == fingerprint { Ok(replayed(&kept)) } else { Err(idempotency_mismatch()) };
    }
    let response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    keep(api, &caller, &name, (fingerprint, hides), response).await
}

fn find(api: &Api, caller: &Principal, name: &str) -> Option<Kept> {
    let record = api.runtime.directory().record(RecordKind::Answer, caller.tenant, name)?;
    let kept: Kept = serde_json::from_str(&record.value).ok()?;
    (kept.at + KEEP_MS > api.runtime.now_ms()).then_some(kept)
}

fn replayed(kept: &Kept) -> Response {
    let mut response = Response::new(Body::from(kept.body.clone()));
    *response.status_mut() = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in &kept.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

/// Stores an answer; it leaves only after that.
async fn keep(
    api: &Api,
    caller: &Principal,
    name: &str,
    (request, hides): (u64, bool),
    response: Response,
) -> Result<Response, Failure> {
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.map_err(|_| Failure::internal("an answer cannot be read"))?;
    if bytes.len() <= ANSWER_BYTES {
        let text = |name: &HeaderName| Some((name.to_string(), parts.headers.get(name)?.to_str().ok()?.to_owned()));
        let kept = Kept {
            request,
            at: api.runtime.now_ms(),
            status: parts.status.as_u16(),
            headers: HEADERS.iter().filter_map(text).collect(),
            body: shown_again(&bytes, hides),
        };
        records::put(api, RecordKind::Answer, caller.tenant, name, &kept, None).await?.map_err(from_refusal)?;
        prune(api, caller.tenant).await?;
    }
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

fn shown_again(bytes: &Bytes, hides: bool) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    match (hides, serde_json::from_str::<Value>(&text)) {
        (true, Ok(Value::Object(mut fields))) => {
            fields.remove("secret");
            Value::Object(fields).to_string()
        }
        _ => text,
    }
}

/// Deletes the oldest answers of a tenant above the bound.
async fn prune(api: &Api, tenant: TenantId) -> Result<(), Failure> {
    let all = api.runtime.directory().records(RecordKind::Answer, tenant);
    if all.len() <= KEPT + SLACK {
        return Ok(());
    }
    #[derive(Deserialize)]
    struct Age {
        at: u64,
    }
    let age = |value: &str| serde_json::from_str::<Age>(value).map_or(0, |age| age.at);
    let mut oldest: Vec<_> = all.iter().map(|record| (age(&record.value), record.key.clone())).collect();
    oldest.sort_unstable();
    for (_, key) in oldest.iter().take(all.len() - KEPT) {
        match records::delete(api, RecordKind::Answer, tenant, key).await {
            // Another call deletes them, too.
            Err(failure) if failure.code() == Code::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_free_again_when_its_call_has_ended_and_not_when_another_was_refused() {
        let all = InFlight::default();
        let key = || (TenantId(1), "k".to_owned());
        let first = all.enter(key()).expect("nobody has it");
        assert!(all.enter(key()).is_none() && all.enter(key()).is_none());
        drop(first);
        assert!(all.enter(key()).is_some());
    }
}
