//! `/packages`.

use axum::extract::multipart::MultipartError;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::blobs;
use super::params::{CURSOR, FIELDS, Params, Path, SHORT_LIMIT};
use super::reply::{IfMatch, JsonBody, Reply, check_length, json, no_content, page, read_body, versioned, with_header};
use super::route::{Param, Route};
use crate::auth::guard::{Anyone, Operator, Viewer};
use crate::body;
use crate::config::Bound;
use crate::problem::Failure;
use crate::service::blob::{self, Upload, Uploaded};
use crate::service::package::{self, Source};
use crate::service::rollout;
use crate::service::short_list::{self, Order, Part};
use crate::state::Api;
use crate::text::parse_hash;

const ONE: &[Param] = &[FIELDS];
const LIST: &[Param] = &[("name", "Only versions of this package."), CURSOR, SHORT_LIMIT, FIELDS];
const VERSIONS: &[Param] = &[CURSOR, SHORT_LIMIT, FIELDS];
/// Types of a body that is an archive with its manifest in it. One without a type is taken as such, too.
const ARCHIVES: &[&str] = &["application/zip", "application/gzip", "application/x-gzip", "application/octet-stream"];
/// Fields of a multipart body.
const MANIFEST_FIELD: &str = "manifest";
const ARCHIVE_FIELD: &str = "archive";
/// A manifest: entries with their schemas, and a lock file.
const MANIFEST_BYTES: u64 = 4 << 20;
const MANIFEST: Bound = Bound::new("The manifest", MANIFEST_BYTES, "Shorten its schemas or its lock.");
/// The same with the list of parts: 65,536 of some 110 bytes.
const MANIFEST_AND_PARTS: Bound = Bound::new("The manifest", 12 << 20, "Shorten its schemas or its lock.");
/// Names and borders of the parts of a multipart body; two short ones are usual.
const BORDER_BYTES: u64 = 64 << 10;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/packages", "listPackages", "Lists package versions, newest first.", list)
            .query(LIST)
            .answers_page::<rest::Package>("A page, newest first."),
        Route::new(
            Method::PUT,
            "/packages/{name}/{version}",
            "putPackage",
            "Uploads a version; versions are immutable.",
            put,
        )
        .takes::<rest::PutPackage>()
        .or_bytes::<rest::PackageManifest>(ARCHIVES, (MANIFEST_FIELD, ARCHIVE_FIELD))
        .answers::<rest::Package>(201, "Stored and registered.")
        .answers::<rest::Package>(200, "The same content was there already."),
        Route::new(Method::GET, "/packages/{name}", "listVersions", "Lists the versions of a package.", versions)
            .query(VERSIONS)
            .answers_page::<rest::Package>("A page, newest first."),
        Route::new(Method::GET, "/packages/{name}/{version}", "getPackage", "Shows a version.", get)
            .query(ONE)
            .answers::<rest::Package>(200, "The version."),
        Route::new(
            Method::GET,
            "/packages/{name}/{version}/analysis",
            "getAnalysis",
            "Shows what the check found.",
            analysis,
        )
        .answers_plain(200, "The findings.", "application/json"),
        Route::new(Method::GET, "/packages/{name}/{version}/content", "getContent", "Gives the archive.", content)
            .answers_plain(200, "The archive.", "application/octet-stream")
            .raw(),
        Route::new(Method::POST, "/packages/{name}/{version}:yank", "yankPackage", "Takes a version out of use.", yank)
            .answers::<rest::Package>(200, "Yanked."),
        Route::new(
            Method::DELETE,
            "/packages/{name}/{version}",
            "deletePackage",
            "Deletes a version that nothing needs: no task or run that has not ended, and no workflow that is deployed; new tasks get the newest one that is left.",
            delete,
        )
        .answers_plain(204, "Deleted.", ""),
        Route::new(
            Method::POST,
            "/packages/{name}/{version}:prefetch",
            "prefetchPackage",
            "Has the connected agents that serve it fetch a version and build its environment.",
            prefetch,
        )
        .may_take::<rest::RolloutRequest>()
        .answers::<rest::Operation>(202, "The operation that does it."),
        Route::new(
            Method::POST,
            "/packages/{name}/{version}:rollout",
            "rolloutPackage",
            "Does the same, and then gives new tasks this version, which may be an older one.",
            roll_out,
        )
        .may_take::<rest::RolloutRequest>()
        .answers::<rest::Operation>(202, "The operation that does it."),
    ]
}

async fn list(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let name = params.get("name");
    pages(&api, &caller, &params, package::list(&api, &caller, name), name.unwrap_or_default(), "/api/v1/packages")
}

async fn versions(caller: Viewer, State(api): State<Api>, Path(name): Path<String>, params: Params) -> Reply {
    let items = package::list(&api, &caller, Some(&name));
    if items.is_empty() {
        let all = package::list(&api, &caller, None);
        return Err(Failure::not_found_near("package", &name, all.iter().map(|p| p.name.as_str())));
    }
    pages(&api, &caller, &params, items, &name, &format!("/api/v1/packages/{name}"))
}

/// A page of packages, newest first. `name`: the only package in the list, to which its cursors are bound.
fn pages(
    api: &Api,
    caller: &crate::auth::Principal,
    params: &Params,
    items: Vec<rest::Package>,
    name: &str,
    path: &str,
) -> Reply {
    let part = Part { filter: name.to_owned(), ..params.short()? };
    let place = |p: &rest::Package| format!("{}\0{}\0{}", p.created_at, p.name, p.version);
    let found = short_list::page(api, caller, "packages", (items, Order::Descending), &part, place)?;
    page(path, params, &found)
}

async fn get(
    caller: Anyone,
    State(api): State<Api>,
    Path((name, version)): Path<(String, String)>,
    params: Params,
) -> Reply {
    let package = package::get(&api, &caller, &name, &version)?;
    versioned(&params, &package::etag(&package), &package)
}

async fn analysis(caller: Viewer, State(api): State<Api>, Path((name, version)): Path<(String, String)>) -> Reply {
    json(200, &package::get(&api, &caller, &name, &version)?.analysis)
}

async fn content(
    caller: Anyone,
    State(api): State<Api>,
    Path((name, version)): Path<(String, String)>,
    headers: HeaderMap,
) -> Reply {
    let package = package::get(&api, &caller, &name, &version)?;
    let hash = parse_hash(&package.hash).ok_or_else(|| Failure::internal("a stored package has no hash"))?;
    blobs::content(&api, &caller, hash, &headers).await
}

async fn yank(caller: Operator, State(api): State<Api>, Path((name, version)): Path<(String, String)>) -> Reply {
    json(200, &package::yank(&api, &caller, &name, &version).await?)
}

async fn delete(
    caller: Operator,
    State(api): State<Api>,
    Path((name, version)): Path<(String, String)>,
    IfMatch(seen): IfMatch,
) -> Reply {
    package::delete(&api, &caller, &name, &version, seen.as_deref()).await?;
    Ok(no_content())
}

async fn prefetch(
    caller: Operator,
    State(api): State<Api>,
    Path((name, version)): Path<(String, String)>,
    JsonBody(bytes): JsonBody,
) -> Reply {
    start(&api, &caller, &name, &version, (&bytes, false)).await
}

async fn roll_out(
    caller: Operator,
    State(api): State<Api>,
    Path((name, version)): Path<(String, String)>,
    JsonBody(bytes): JsonBody,
) -> Reply {
    start(&api, &caller, &name, &version, (&bytes, true)).await
}

async fn start(
    api: &Api,
    caller: &crate::auth::Principal,
    name: &str,
    version: &str,
    (bytes, switch): (&[u8], bool),
) -> Reply {
    let wanted: rest::RolloutRequest = body::parse_or_default(bytes)?;
    let package = package::get(api, caller, name, version)?;
    let operation = rollout::start(api, caller, &package, &wanted, switch).await?;
    let location = format!("/api/v1/operations/{}", operation.id);
    Ok(with_header(json(202, &operation)?, header::LOCATION, &location))
}

/// Four forms: multipart (`manifest`, `archive`), JSON that names a stored blob or stored parts, or the archive alone with its
/// manifest in it.
async fn put(
    caller: Operator,
    State(api): State<Api>,
    Path((name, version)): Path<(String, String)>,
    request: Request,
) -> Reply {
    let bound = api.config.package_bound();
    let request = check_length(request, bound, MANIFEST_BYTES + BORDER_BYTES).await?;
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (source, manifest) = match essence.as_str() {
        "multipart/form-data" => {
            let (upload, manifest) = multipart(&api, request).await?;
            (Source::Upload(upload), manifest)
        }
        "application/json" => {
            let wanted: rest::PutPackage = body::parse(&read_body(request, MANIFEST_AND_PARTS).await?)?;
            let hash = parse_hash(&wanted.hash)
                .ok_or_else(|| Failure::field("/hash", "a hash is sha256: and 64 hexadecimal digits"))?;
            let source = match wanted.parts.is_empty() {
                true => Source::Blob(hash),
                false => Source::Parts(hash, wanted.parts),
            };
            (source, Some(wanted.manifest))
        }
        kind if kind.is_empty() || ARCHIVES.contains(&kind) => {
            let stream = request.into_body().into_data_stream();
            (Source::Upload(blob::receive(&api, bound, stream).await?), None)
        }
        other => {
            let shown: String = other.chars().take(60).collect();
            let known =
                "multipart/form-data, application/json, application/zip, application/gzip or application/octet-stream";
            return Err(Failure::new(Code::UnsupportedMediaType, format!("This path takes {known}, not {shown}.")));
        }
    };
    let (stored, is_new) = package::put(&api, &caller, &name, &version, source, manifest).await?;
    let response = json(if is_new { 201 } else { 200 }, &stored)?;
    Ok(with_header(response, header::LOCATION, &format!("/api/v1/packages/{name}/{version}")))
}

async fn multipart(api: &Api, mut request: Request) -> Result<(Uploaded, Option<rest::PackageManifest>), Failure> {
    let broken = |detail: &str| Failure::new(Code::MalformedBody, format!("The multipart body is broken: {detail}."));
    let bound = api.config.package_bound();
    // The framework's own bound of 2 MB is none of ours: each part below has its bound, and this is for all together.
    let all = usize::try_from(bound.bytes + MANIFEST_BYTES + BORDER_BYTES).unwrap_or(usize::MAX);
    DefaultBodyLimit::max(all).apply(&mut request);
    let failed = |error: MultipartError| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => bound.exceeded(),
        _ => broken(&error.body_text()),
    };
    let mut form = Multipart::from_request(request, api).await.map_err(|e| broken(&e.body_text()))?;
    let mut manifest = None;
    let mut archive = None;
    while let Some(mut field) = form.next_field().await.map_err(failed)? {
        match field.name() {
            Some(MANIFEST_FIELD) if manifest.is_none() => {
                let mut text = Vec::new();
                while let Some(part) = field.chunk().await.map_err(failed)? {
                    if (text.len() + part.len()) as u64 > MANIFEST.bytes {
                        return Err(MANIFEST.exceeded());
                    }
                    text.extend_from_slice(&part);
                }
                manifest = Some(body::parse(&text)?);
            }
            Some(ARCHIVE_FIELD) if archive.is_none() => {
                let mut upload = Upload::new(api, bound);
                while let Some(part) = field.chunk().await.map_err(failed)? {
                    upload.push(&part)?;
                }
                archive = Some(upload.finish()?);
            }
            _ => return Err(broken("there is one field 'manifest' and one field 'archive'")),
        }
    }
    let archive = archive.ok_or_else(|| broken("the field 'archive' is missing"))?;
    Ok((archive, manifest))
}
