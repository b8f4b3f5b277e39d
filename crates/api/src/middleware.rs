//! What happens to every request before and after its handler, in one service and one future: actions in paths,
//! request ids, waiting for a commit, panics, the body of problems. One layer instead of six, because each layer of a
//! stack costs a boxed future on the way of each submit.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tidewheel_proto::code::Code;
use tower::Service;

use crate::auth::promise::shown_path;
use crate::problem::{Failure, render};
use crate::state::Api;

/// The commit that an answer was made at; sent back, it makes a reader wait for that commit.
const INDEX: HeaderName = HeaderName::from_static("tidewheel-index");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long a reader waits for a commit. One that has not come by then is of another server or lies in the future.
const INDEX_WAIT: Duration = Duration::from_secs(5);
/// Head of a request. No client of ours comes near it. The listener's own bound is larger, so that this answer is read.
const HEADER_BYTES: usize = 16 * 1024;
const INDEX_POLL: Duration = Duration::from_millis(5);
/// Longest request id that is taken over from a caller.
const REQUEST_ID_BYTES: usize = 128;

/// Puts the service around the routes.
pub(crate) fn wrap(inner: Router, api: Api) -> Router {
    // Ids of one process never repeat: a random start and a counter.
    let start = crate::text::fresh_id(api.started_ms) as u64;
    let names = crate::rest::names_at_the_end().into();
    Router::new().fallback_service(Gate { inner, api, ids: Arc::new(AtomicU64::new(start)), names })
}

#[derive(Clone)]
struct Gate {
    inner: Router,
    api: Api,
    ids: Arc<AtomicU64>,
    /// Paths whose last segment is a name as a whole, with colons or not.
    names: Arc<[String]>,
}

impl Service<Request> for Gate {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // An axum router is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        self.api.calls.count();
        let original = request.uri().clone();
        let id = self.request_id(request.headers());
        if head_bytes(&request) > HEADER_BYTES {
            let mut failure =
                Failure::new(Code::TooLarge, format!("The head of the request is larger than {HEADER_BYTES} bytes."));
            failure.0.status = 431;
            let api = self.api.clone();
            return Box::pin(async move { Ok(finish(&api, failure.into_response(), &original, id, false)) });
        }
        let wanted_index = request.headers().get(&INDEX).cloned();
        let is_grpc = is_grpc(request.headers());
        let is_name = request.method() == Method::POST && ends_in_a_name(&self.names, request.uri().path());
        if !is_name && request.uri().path().contains("/~") {
            // The inner form of an action is no address.
            let failure =
                Failure::new(Code::NotFound, "There is nothing at this path. /openapi.json lists what there is.");
            let response = failure.into_response();
            let api = self.api.clone();
            return Box::pin(async move { Ok(finish(&api, response, &original, id, false)) });
        }
        if request.method() == Method::POST
            && !is_name
            && let Some(uri) = split_action(request.uri())
        {
            *request.uri_mut() = uri;
        }
        let mut inner = self.inner.clone();
        let api = self.api.clone();
        Box::pin(async move {
            if let Some(value) = wanted_index
                && let Err(failure) = reach(&api, &value).await
            {
                return Ok(finish(&api, failure.into_response(), &original, id, is_grpc));
            }
            let response = match AssertUnwindSafe(inner.call(request)).catch_unwind().await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => Failure::internal("a handler panicked").into_response(),
            };
            Ok(finish(&api, response, &original, id, is_grpc))
        })
    }
}

impl Gate {
    fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(given) = headers.get(&REQUEST_ID) {
            let plain = |b: &u8| b.is_ascii_graphic();
            if !given.is_empty() && given.len() <= REQUEST_ID_BYTES && given.as_bytes().iter().all(plain) {
                return given.clone();
            }
        }
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        let mut text = *b"req_0000000000000000";
        for (i, slot) in text[4..].iter_mut().enumerate() {
            *slot = b"0123456789abcdef"[((number >> (60 - i * 4)) & 15) as usize];
        }
        // Letters, digits and an underscore are always a header value.
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("req"))
    }
}

/// What the head took on the wire, about.
fn head_bytes(request: &Request) -> usize {
    let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    request.uri().path().len() + request.uri().query().map_or(0, str::len) + lines.sum::<usize>()
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// Whether a path is one of these, whose last segment is a name. An empty segment is none.
fn ends_in_a_name(names: &[String], path: &str) -> bool {
    let fits = |name: &&str, found: &&str| match name.starts_with('{') {
        true => !found.is_empty() && !found.starts_with('~'),
        false => name == found,
    };
    names.iter().any(|name| {
        let Some((head, _)) = name.rsplit_once('/') else { return false };
        let Some((found, last)) = path.rsplit_once('/') else { return false };
        !last.is_empty()
            && head.split('/').count() == found.split('/').count()
            && head.split('/').zip(found.split('/')).all(|(name, found)| fits(&name, &found))
    })
}

/// `/tasks/x:cancel` as `/tasks/x/~cancel`, so that the router can tell the actions of a path apart. `%3A` counts as
/// `:`.
fn split_action(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let last = path.rfind('/')?;
    let segment = &path[last..];
    let (at, length) = match segment.rfind(':') {
        Some(i) => (last + i, 1),
        None => (last + segment.to_ascii_uppercase().rfind("%3A")?, 3),
    };
    let verb = &path[at + length..];
    if verb.is_empty() || !verb.bytes().all(|b| b.is_ascii_lowercase()) {
        return None;
    }
    let mut text = format!("{}/~{verb}", &path[..at]);
    if let Some(query) = uri.query() {
        text.push('?');
        text.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
    Uri::from_parts(parts).ok()
}

/// Waits until the commit that the caller has seen is visible here.
async fn reach(api: &Api, value: &HeaderValue) -> Result<(), Failure> {
    let index = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
    let index = index.ok_or_else(|| Failure::query("Tidewheel-Index", "the header is a whole number"))?;
    let arrived = async {
        while api.runtime.committed_index() < index {
            tokio::time::sleep(INDEX_POLL).await;
        }
    };
    let detail = || format!("Commit {index} did not arrive within {} s.", INDEX_WAIT.as_secs());
    tokio::time::timeout(INDEX_WAIT, arrived).await.map_err(|_| Failure::new(Code::WaitTimeout, detail()))
}

/// What every answer gets.
fn finish(api: &Api, mut response: Response, uri: &Uri, id: HeaderValue, is_grpc: bool) -> Response {
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        api.metrics.refused(failure.code());
        if is_grpc {
            let unimplemented = matches!(failure.code(), Code::NotFound | Code::MethodNotAllowed);
            response = match unimplemented {
                true => tonic::Status::unimplemented("there is no such method").into_http(),
                false => tonic::Status::from(failure).into_http(),
            };
        } else {
            render(failure, &shown_path(uri.path()), &mut response);
        }
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    if !is_grpc && uri.path().starts_with("/api") {
        headers.insert(INDEX, HeaderValue::from(api.runtime.committed_index()));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Option<String> {
        split_action(&text.parse().unwrap()).map(|uri| uri.to_string())
    }

    #[test]
    fn a_name_at_the_end_of_a_path_is_no_action() {
        let names = crate::rest::names_at_the_end();
        for path in ["/api/v1/runs/run_1/signals/order:paid", "/api/runs/run_1/signals/~x", "/api/runs/r/signals/a%3Ab"]
        {
            assert!(ends_in_a_name(&names, path), "{path}");
        }
        for path in
            ["/api/v1/runs/run_1:cancel", "/api/runs/r/signals/", "/api/runs/~r/signals/a", "/api/runs//signals/a"]
        {
            assert!(!ends_in_a_name(&names, path), "{path}");
        }
    }

    #[test]
    fn actions_become_a_segment() {
        assert_eq!(split("/api/tasks/task_1:cancel").as_deref(), Some("/api/tasks/task_1/~cancel"));
        assert_eq!(split("/api/tasks:batch?x=1").as_deref(), Some("/api/tasks/~batch?x=1"));
        assert_eq!(split("/api/queues/a/dead:redrive").as_deref(), Some("/api/queues/a/dead/~redrive"));
        assert_eq!(split("/api/tasks/task_1%3Acancel").as_deref(), Some("/api/tasks/task_1/~cancel"));
        for text in ["/api/tasks", "/api/tasks/x:", "/api/tasks/x:Y", "/a:b/c", "/"] {
            assert_eq!(split(text), None, "{text}");
        }
    }
}
