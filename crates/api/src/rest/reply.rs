//! Bodies in, responses out: the few forms that all routes share.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use serde::Serialize;
use serde_json::Value;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest::Page;

use super::params::Params;
use crate::config::Bound;
use crate::problem::Failure;
use crate::state::Api;

/// What a handler gives back.
pub(crate) type Reply = Result<Response, Failure>;

/// A body that does not arrive within this time is given up (slow senders hold a connection each).
pub(crate) const BODY_TIME: Duration = Duration::from_secs(30);

/// What is read of a body that was refused for its length, and for how long.
const DRAIN_BYTES: usize = 32 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A JSON body up to the limit of single calls.
pub(crate) struct JsonBody(pub(crate) Bytes);

/// A JSON body up to the limit of batches.
pub(crate) struct BatchBody(pub(crate) Bytes);

impl FromRequest<Api> for JsonBody {
    type Rejection = Failure;
    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        read_json(request, api.config.body_bound()).await.map(JsonBody)
    }
}

impl FromRequest<Api> for BatchBody {
    type Rejection = Failure;
    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        read_json(request, api.config.batch_bound()).await.map(BatchBody)
    }
}

async fn read_json(request: Request, bound: Bound) -> Result<Bytes, Failure> {
    check_json_type(request.headers())?;
    read_body(request, bound).await
}

/// The whole body, bounded in size and time.
pub(crate) async fn read_body(request: Request, bound: Bound) -> Result<Bytes, Failure> {
    check_encoding(request.headers())?;
    let request = check_length(request, bound, 0).await?;
    let read = axum::body::to_bytes(request.into_body(), usize::try_from(bound.bytes).unwrap_or(usize::MAX));
    match tokio::time::timeout(BODY_TIME, read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_length_limit(&error) => Err(bound.exceeded()),
        Ok(Err(_)) => Err(Failure::new(Code::MalformedBody, "The body ended before it was complete.")),
        Err(_) => {
            Err(Failure::new(Code::MalformedBody, format!("The body did not arrive within {} s.", BODY_TIME.as_secs())))
        }
    }
}

/// Reads a refused body away, within bounds: an answer that overtakes a client that is still sending is lost with the
/// connection, and the client never learns why. One that asked first (`Expect`) sends nothing.
async fn drain(request: Request) {
    if request.headers().contains_key(header::EXPECT) {
        return;
    }
    let mut frames = request.into_body().into_data_stream();
    let mut left = DRAIN_BYTES;
    let read = async {
        while left > 0
            && let Some(Ok(bytes)) = frames.next().await
        {
            left = left.saturating_sub(bytes.len());
        }
    };
    // Too slow or too much: the connection is closed over it.
    let _ = tokio::time::timeout(DRAIN_TIME, read).await;
}

/// Refuses what says that it is longer than its bound, `around` bytes for what surrounds it allowed.
pub(crate) async fn check_length(request: Request, bound: Bound, around: u64) -> Result<Request, Failure> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if length.is_some_and(|length| length > bound.bytes.saturating_add(around)) {
        drain(request).await;
        return Err(bound.exceeded());
    }
    Ok(request)
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = source {
        if current.to_string().contains("length limit") {
            return true;
        }
        source = current.source();
    }
    false
}

fn check_json_type(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json")
        || (essence.starts_with("application/") && essence.ends_with("+json"))
    {
        return Ok(());
    }
    let shown: String = essence.chars().take(60).collect();
    let detail =
        format!("This path takes application/json, not {shown}. With curl, add -H 'Content-Type: application/json'.");
    Err(Failure::new(Code::UnsupportedMediaType, detail))
}

/// Bodies are taken as they are: one that is compressed would be read as something else.
fn check_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(()) };
    let text = value.to_str().unwrap_or("?").trim();
    if text.is_empty() || text.eq_ignore_ascii_case("identity") {
        return Ok(());
    }
    let shown: String = text.chars().take(60).collect();
    let detail = format!("Bodies are taken uncompressed; this one has the Content-Encoding {shown}.");
    Err(Failure::new(Code::UnsupportedMediaType, detail))
}

/// The version that a write is to change: `If-Match`.
pub(crate) struct IfMatch(pub(crate) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Ok(IfMatch(parts.headers.get(header::IF_MATCH).and_then(|v| v.to_str().ok()).map(str::to_owned)))
    }
}

/// `{"items": [...]}`
#[derive(Serialize)]
pub(crate) struct Items<T> {
    pub(crate) items: Vec<T>,
}

/// JSON with a status.
pub(crate) fn json<T: Serialize>(status: u16, value: &T) -> Reply {
    let bytes = serde_json::to_vec(value).map_err(|_| Failure::internal("an answer does not serialise"))?;
    Ok(bytes_of(status, "application/json", bytes.into()))
}

pub(crate) fn bytes_of(status: u16, content_type: &'static str, bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(crate) fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Adds a header whose value we made ourselves; one that is no header value is left out.
pub(crate) fn with_header(mut response: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// What a write answers: 200, or 201 with its address where it made something, with the version that it is now.
pub(crate) fn written<T: Serialize>(made: Option<&str>, etag: &str, value: &T) -> Reply {
    let response = with_header(json(if made.is_some() { 201 } else { 200 }, value)?, header::ETAG, etag);
    Ok(match made {
        Some(location) => with_header(response, header::LOCATION, location),
        None => response,
    })
}

/// An answer with its `ETag`, or 304 when the caller has it.
pub(crate) fn unless_known(params: &Params, etag: &str, response: impl FnOnce() -> Reply) -> Reply {
    let response = if params.has(etag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        response()?
    };
    Ok(with_header(response, header::ETAG, etag))
}

/// JSON with an `ETag`, or 304 when the caller has it; only the wanted fields.
pub(crate) fn versioned<T: Serialize>(params: &Params, etag: &str, value: &T) -> Reply {
    unless_known(params, etag, || {
        let Some(fields) = params.get("fields") else { return json(200, value) };
        let mut value = to_value(value)?;
        project(&mut value, fields);
        json(200, &value)
    })
}

/// The same for what has no version of its own: the tag is made of what would be sent.
pub(crate) fn hashed<T: Serialize>(params: &Params, value: &T) -> Reply {
    versioned(params, &format!("\"{}\"", digest(value)?), value)
}

fn digest<T: Serialize>(value: &T) -> Result<String, Failure> {
    let bytes = serde_json::to_vec(value).map_err(|_| Failure::internal("an answer does not serialise"))?;
    Ok(blake3::hash(&bytes).to_hex()[..20].to_owned())
}

/// A page with its `Link` and only the wanted fields, or 304 when the caller has it. The tag is made of what is in it, each
/// time it is asked for, so that a page is never older than the newest write that was acknowledged; it is a weak one, because
/// `as_of` goes on while the items stay the same.
pub(crate) fn page<T: Serialize>(path: &str, params: &Params, page: &Page<T>) -> Reply {
    let etag = format!("W/\"{}\"", digest(&(&page.items, &page.next_cursor, &page.searched_back_to))?);
    unless_known(params, &etag, || Ok(with_next(narrowed(params, page)?, path, params, page.next_cursor.as_deref())))
}

/// A page with the address of the next one.
pub(crate) fn with_next(response: Response, path: &str, params: &Params, cursor: Option<&str>) -> Response {
    let Some(cursor) = cursor else { return response };
    with_header(response, header::LINK, &format!("<{path}?{}>; rel=\"next\"", params.with_cursor(cursor)))
}

/// A list with only the wanted fields of its `items`.
pub(crate) fn narrowed<T: Serialize>(params: &Params, list: &T) -> Reply {
    let Some(fields) = params.get("fields") else { return json(200, list) };
    let mut value = to_value(list)?;
    if let Some(Value::Array(items)) = value.get_mut("items") {
        items.iter_mut().for_each(|item| project(item, fields));
    }
    json(200, &value)
}

fn to_value<T: Serialize>(value: &T) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|_| Failure::internal("an answer does not serialise"))
}

fn project(value: &mut Value, fields: &str) {
    if let Value::Object(map) = value {
        map.retain(|key, _| fields.split(',').any(|field| field.trim() == key));
    }
}
