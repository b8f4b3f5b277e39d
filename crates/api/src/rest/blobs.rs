//! `/blobs`: content by its hash, with ranges; `/artifacts`: the same by the id of a file that a task left.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::params::Path;
use super::reply::{JsonBody, Reply, check_length, json, with_header};
use super::route::Route;
use crate::auth::guard::{Anyone, Submitter};
use crate::body;
use crate::problem::Failure;
use crate::service::{blob, get_task, parts};
use crate::state::Api;
use crate::text::{hash_text, parse_hash};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::PUT, "/blobs", "putBlob", "Stores bytes; the answer is their hash.", put)
            .takes_bytes("application/octet-stream")
            .answers::<rest::Blob>(201, "Stored and durable.")
            .raw(),
        Route::new(Method::PUT, "/blobs/{hash}", "putBlobAs", "Stores bytes that have to have this hash.", put_as)
            .takes_bytes("application/octet-stream")
            .answers::<rest::Blob>(201, "Stored and durable.")
            .answers::<rest::Blob>(200, "It was there already.")
            .raw(),
        Route::new(
            Method::POST,
            "/blobs:missing",
            "missingBlobs",
            "Says which blobs are not stored, so that only those are sent.",
            missing,
        )
        .takes::<rest::AskBlobs>()
        .answers::<rest::MissingBlobs>(200, "Those."),
        Route::new(Method::GET, "/blobs/{hash}", "getBlob", "Gives the bytes, or a range of them.", get)
            .answers_plain(200, "The bytes.", "application/octet-stream")
            .answers_plain(206, "A range.", "application/octet-stream")
            .raw(),
        Route::new(
            Method::GET,
            "/artifacts/{id}",
            "getArtifact",
            "Gives the content of a file that a task left, or a range of it.",
            artifact,
        )
        .answers_plain(200, "The bytes.", "application/octet-stream")
        .answers_plain(206, "A range.", "application/octet-stream")
        .raw(),
    ]
}

async fn artifact(caller: Anyone, State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Reply {
    let found = get_task::artifact(&api, &caller, &id).await?;
    let hash = parse_hash(&found.hash).ok_or_else(|| Failure::internal("a stored artefact has no hash"))?;
    let response = content(&api, &caller, hash, &headers).await?;
    // The name came from a task: as a file name it is its last part, in printable ASCII.
    let name = found.name.rsplit('/').next().unwrap_or_default();
    let plain: String =
        name.chars().map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\') { c } else { '_' }).collect();
    Ok(with_header(response, header::CONTENT_DISPOSITION, &format!("attachment; filename=\"{plain}\"")))
}

async fn put(caller: Submitter, State(api): State<Api>, request: Request) -> Reply {
    store(&api, &caller, request, None).await
}

async fn put_as(caller: Submitter, State(api): State<Api>, Path(hash): Path<String>, request: Request) -> Reply {
    let wanted = parse_hash(&hash)
        .ok_or_else(|| Failure::named("hash", "A blob's address is sha256: and 64 hexadecimal digits."))?;
    // An upload that was done before costs nothing, which makes a broken-off one cheap to repeat.
    if let Some(size) = api.runtime.blobs().size(caller.tenant.0, wanted).await? {
        return json(200, &rest::Blob { hash: hash_text(&wanted), size });
    }
    store(&api, &caller, request, Some(wanted)).await
}

async fn missing(caller: Submitter, State(api): State<Api>, JsonBody(bytes): JsonBody) -> Reply {
    let asked: rest::AskBlobs = body::parse(&bytes)?;
    if asked.hashes.len() > parts::MAX_ASKED {
        let detail = format!("at most {} hashes are looked up at once", parts::MAX_ASKED);
        return Err(Failure::field("/hashes", detail));
    }
    json(200, &rest::MissingBlobs { missing: parts::missing(&api, &caller, &asked.hashes).await? })
}

async fn store(api: &Api, caller: &crate::auth::Principal, request: Request, wanted: Option<[u8; 32]>) -> Reply {
    let bound = api.config.blob_bound();
    let stream = check_length(request, bound, 0).await?.into_body().into_data_stream();
    let upload = blob::receive(api, bound, stream).await?;
    if wanted.is_some_and(|wanted| wanted != upload.hash) {
        let detail = format!("The content has another hash: {}.", hash_text(&upload.hash));
        return Err(Failure::new(Code::InvalidField, detail));
    }
    let size = upload.size;
    let hash = upload.keep(api, caller.tenant).await?;
    let address = hash_text(&hash);
    let response = json(201, &rest::Blob { hash: address.clone(), size })?;
    Ok(with_header(response, header::LOCATION, &format!("/api/v1/blobs/{address}")))
}

async fn get(caller: Anyone, State(api): State<Api>, Path(hash): Path<String>, headers: HeaderMap) -> Reply {
    let wanted = parse_hash(&hash).ok_or_else(|| Failure::not_found("blob", &hash))?;
    content(&api, &caller, wanted, &headers).await
}

/// The bytes of a blob, whole or the range that the caller asked for.
pub(super) async fn content(api: &Api, caller: &crate::auth::Principal, hash: [u8; 32], headers: &HeaderMap) -> Reply {
    let found = parts::find(api, caller.tenant, hash).await?;
    let found = found.ok_or_else(|| Failure::not_found("blob", &hash_text(&hash)))?;
    let size = found.size();
    let etag = format!("\"{}\"", hash_text(&hash));
    let has = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    if has.is_some_and(|list| list.split(',').any(|tag| tag.trim() == etag || tag.trim() == "*")) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(with_header(response, header::ETAG, &etag));
    }
    let range = headers.get(header::RANGE).and_then(|v| v.to_str().ok()).map(|text| range_of(text, size));
    let (status, from, until) = match range {
        None | Some(Range::Ignored) => (StatusCode::OK, 0, size),
        Some(Range::Part(from, until)) => (StatusCode::PARTIAL_CONTENT, from, until),
        Some(Range::Unsatisfiable) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            return Ok(with_header(response, header::CONTENT_RANGE, &format!("bytes */{size}")));
        }
    };
    let mut response =
        Response::new(Body::from_stream(parts::content(api, caller.tenant, hash, &found, (from, until))));
    *response.status_mut() = status;
    let out = response.headers_mut();
    // What a task wrote is never interpreted by a browser: no type of its choosing, and a download.
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    out.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, immutable, max-age=31536000"));
    out.insert(header::CONTENT_LENGTH, HeaderValue::from(until - from));
    if status == StatusCode::PARTIAL_CONTENT {
        response = with_header(response, header::CONTENT_RANGE, &format!("bytes {from}-{}/{size}", until - 1));
    }
    Ok(with_header(response, header::ETAG, &etag))
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// From, and before which byte.
    Part(u64, u64),
    Unsatisfiable,
    /// Not one range of bytes: the whole is a valid answer.
    Ignored,
}

fn range_of(text: &str, size: u64) -> Range {
    let Some(spec) = text.strip_prefix("bytes=").filter(|s| !s.contains(',')) else { return Range::Ignored };
    let Some((from, to)) = spec.split_once('-') else { return Range::Ignored };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (from.trim().is_empty(), to.trim().is_empty()) {
        (false, false) => match (number(from), number(to)) {
            (Some(from), Some(to)) if from <= to && from < size => Range::Part(from, (to.saturating_add(1)).min(size)),
            (Some(_), Some(_)) => Range::Unsatisfiable,
            _ => Range::Ignored,
        },
        (false, true) => match number(from) {
            Some(from) if from < size => Range::Part(from, size),
            Some(_) => Range::Unsatisfiable,
            None => Range::Ignored,
        },
        (true, false) => match number(to) {
            Some(last) if last > 0 && size > 0 => Range::Part(size.saturating_sub(last), size),
            Some(_) => Range::Unsatisfiable,
            None => Range::Ignored,
        },
        (true, true) => Range::Ignored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_hundred_bytes() {
        for (text, wanted) in [
            ("bytes=0-9", Range::Part(0, 10)),
            ("bytes=90-", Range::Part(90, 100)),
            ("bytes=-10", Range::Part(90, 100)),
            ("bytes=-1000", Range::Part(0, 100)),
            ("bytes=0-18446744073709551615", Range::Part(0, 100)),
            ("bytes=100-", Range::Unsatisfiable),
            ("bytes=9-0", Range::Unsatisfiable),
            ("bytes=0-1,5-6", Range::Ignored),
            ("lines=0-1", Range::Ignored),
            ("bytes=a-b", Range::Ignored),
        ] {
            assert_eq!(range_of(text, 100), wanted, "{text}");
        }
        assert_eq!(range_of("bytes=-5", 0), Range::Unsatisfiable);
    }
}
