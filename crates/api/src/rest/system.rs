//! Health, metrics, documentation, status.

use std::io::Write as _;
use std::sync::OnceLock;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::params::Path;
use super::reply::{JsonBody, Reply, bytes_of, json as answer};
use super::route::Route;
use crate::auth::Principal;
use crate::auth::guard::{self, Admin, Guard, SystemAdmin, Viewer};
use crate::body;
use crate::config::BackupFailed;
use crate::problem::Failure;
use crate::server::Peer;
use crate::service::status;
use crate::state::Api;
use crate::{metrics, openapi};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/system/status", "getStatus", "Shows how the server is.", show_status)
            .answers::<rest::SystemStatus>(200, "The status."),
        Route::new(
            Method::GET,
            "/system/config",
            "getConfig",
            "Shows the configuration in force, secrets masked.",
            config,
        )
        .answers_plain(200, "The configuration.", "application/json"),
        Route::new(
            Method::POST,
            "/system/config:reload",
            "reloadConfig",
            "Reads file and environment again, as SIGHUP does; a mistake leaves everything as it is.",
            reload,
        )
        .answers::<rest::Reloaded>(200, "What holds now, and what needs a restart."),
        Route::new(
            Method::POST,
            "/backups",
            "createBackup",
            "Copies database, log lines, blobs and keys into a folder of the server's machine, while it runs.",
            backup,
        )
        .may_take::<rest::CreateBackup>()
        .answers::<rest::Backup>(201, "Complete and on disk."),
    ]
}

/// The few paths without a token (`decisions.md` G17), and `/metrics`, which has a rule of its own. They ignore query
/// parameters: probes, scrapers and browsers add some that are not meant for us, and a probe that fails for that restarts a server.
pub(super) fn open_routes(router: Router<Api>) -> Router<Api> {
    router
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(show_metrics))
        .route("/openapi.json", get(document))
        .route("/docs", get(docs))
        .route("/docs/reference/errors", get(errors))
        .route("/docs/{*page}", get(no_page))
}

async fn live() -> Response {
    bytes_of(200, "application/json", "{\"status\":\"live\"}".into())
}

async fn ready(State(api): State<Api>) -> Reply {
    if api.runtime.is_draining() {
        return Err(Failure::new(Code::Unavailable, "The server is draining."));
    }
    match api.runtime.is_ready() {
        Ok(()) => answer(200, &json!({ "status": "ready", "committed_index": api.runtime.committed_index() })),
        Err(why) => Err(Failure::new(Code::Unavailable, format!("The server is not ready: {why}."))),
    }
}

/// Open on loopback, so that a scraper on the same machine needs no secret; from elsewhere with a viewer's token.
async fn show_metrics(State(api): State<Api>, request: Request) -> Reply {
    let near = request.extensions().get::<Peer>().is_some_and(|peer| peer.0.ip().is_loopback());
    // A proxy on this machine makes everybody look near.
    let forwarded = request.headers().contains_key("forwarded") || request.headers().contains_key("x-forwarded-for");
    if !near || forwarded {
        let authorization = request.headers().get(header::AUTHORIZATION).map(|v| v.as_bytes());
        let caller = Principal::of(&api, authorization, None, request.extensions().get())?;
        guard::check(&caller, Viewer::ACCESS)?;
    }
    let text = metrics::encode(&api).await?;
    Ok(bytes_of(200, "application/openmetrics-text; version=1.0.0; charset=utf-8", text.into()))
}

/// A text that anybody may ask for without a token: made and compressed once, so that all answers share its bytes, however many
/// somebody asks for and does not read.
pub(crate) struct Page {
    content_type: &'static str,
    plain: Bytes,
    gzip: Bytes,
}

impl Page {
    fn new(content_type: &'static str, text: String) -> Page {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let zipped = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
        // A vector takes what is written to it; were it otherwise, the plain text would do.
        Page { content_type, gzip: zipped.unwrap_or_default().into(), plain: text.into() }
    }

    fn answer(&self, request: &HeaderMap) -> Response {
        let accepted = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let mut codings = accepted.flat_map(|value| value.split(',')).map(|coding| coding.split(';').map(str::trim));
        let zipped = !self.gzip.is_empty()
            && codings
                .any(|mut parts| parts.next() == Some("gzip") && parts.all(|q| q.trim_end_matches(['0', '.']) != "q="));
        let bytes = if zipped { &self.gzip } else { &self.plain };
        let mut response = bytes_of(200, self.content_type, bytes.clone());
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if zipped {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

async fn document(State(api): State<Api>, headers: HeaderMap) -> Response {
    let make = || Page::new("application/json", openapi::openapi_json(&api.config.version));
    api.openapi.get_or_init(make).answer(&headers)
}

async fn docs(headers: HeaderMap) -> Response {
    static PAGE: OnceLock<Page> = OnceLock::new();
    PAGE.get_or_init(|| Page::new("text/html; charset=utf-8", openapi::listing_html())).answer(&headers)
}

async fn errors(headers: HeaderMap) -> Response {
    static PAGE: OnceLock<Page> = OnceLock::new();
    PAGE.get_or_init(|| Page::new("text/markdown; charset=utf-8", openapi::errors_markdown())).answer(&headers)
}

async fn no_page(Path(_): Path<String>) -> Response {
    Failure::new(Code::NotFound, "There is no such page; /docs lists what there is.").into_response()
}

async fn show_status(_: Viewer, State(api): State<Api>) -> Reply {
    answer(200, &status::status(&api).await?)
}

/// One at a time: two copies at once would only make both slow.
static BACKUP: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const BACKUP_NAME: usize = 100;

async fn backup(_: SystemAdmin, State(api): State<Api>, JsonBody(bytes): JsonBody) -> Reply {
    let wanted: rest::CreateBackup = body::parse_or_default(&bytes)?;
    let name = wanted.name.unwrap_or_else(|| api.runtime.now_ms().to_string());
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > BACKUP_NAME || name.starts_with('.') || !name.bytes().all(plain) {
        let detail = format!("a name has 1 to {BACKUP_NAME} letters, digits, '-', '_' and '.', and no dot first");
        return Err(Failure::field("/name", detail));
    }
    let Some(maker) = api.config.backup.clone() else {
        return Err(Failure::new(Code::Unavailable, "This server keeps no files that could be copied."));
    };
    let Ok(alone) = BACKUP.try_lock() else {
        return Err(Failure::new(Code::Conflict, "Another backup is being made; wait for its end."));
    };
    let made = tokio::task::spawn_blocking(move || {
        let _alone = alone;
        (maker.0)(&name)
    });
    let made = made.await.map_err(|_| Failure::internal("making a backup panicked"))?;
    let (code, why) = match made {
        Ok(made) => return answer(201, &made),
        Err(BackupFailed::Taken(why)) => (Code::Conflict, why),
        Err(BackupFailed::Disk(why)) => (Code::Unavailable, why),
    };
    tracing::warn!(why, "a backup was not made");
    Err(Failure::new(code, format!("The backup was not made: {why}.")))
}

async fn reload(_: SystemAdmin, State(api): State<Api>) -> Reply {
    let gone = || Failure::new(Code::Unavailable, "This server has no configuration that could be read again.");
    let requests = api.config.reload.as_ref().ok_or_else(gone)?;
    let (tell, told) = tokio::sync::oneshot::channel();
    requests.0.send(tell).await.map_err(|_| gone())?;
    let reloaded = told.await.map_err(|_| gone())?;
    answer(200, &reloaded.map_err(|why| Failure::new(Code::Conflict, format!("Nothing was changed: {why}")))?)
}

async fn config(_: Admin, State(api): State<Api>) -> Reply {
    answer(200, &api.config.shown_config.get())
}
