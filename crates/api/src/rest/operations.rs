//! `/operations`.

use axum::extract::State;
use axum::http::{Method, header};
use axum::response::IntoResponse;
use tidewheel_proto::rest;

use super::params::{CURSOR, FIELDS, Params, Path, SHORT_LIMIT};
use super::reply::{JsonBody, Reply, json, page, versioned, with_header};
use super::route::{Param, Route};
use crate::auth::Principal;
use crate::auth::guard::{Operator, Viewer};
use crate::body;
use crate::live::stream;
use crate::problem::Failure;
use crate::service::operation;
use crate::service::short_list::{self, Order};
use crate::state::Api;

const LIST: &[Param] = &[CURSOR, SHORT_LIMIT, FIELDS];
const ONE: &[Param] = &[FIELDS];
const OUTCOME: Param = ("outcome", "Only those that are `done`, `failed` or `would_change`.");
const ITEMS: &[Param] = &[OUTCOME, CURSOR, SHORT_LIMIT, FIELDS];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/operations", "listOperations", "Lists background operations, newest first.", list)
            .query(LIST)
            .answers_page::<rest::Operation>("A page."),
        Route::new(Method::GET, "/operations/{id}", "getOperation", "Shows how far an operation is.", get)
            .query(ONE)
            .answers::<rest::Operation>(200, "The operation."),
        Route::new(
            Method::GET,
            "/operations/{id}/items",
            "listOperationItems",
            "Lists what became of each task or run, the newest first.",
            items,
        )
        .query(ITEMS)
        .answers_page::<rest::OperationItem>("A page."),
        Route::new(Method::POST, "/bulk", "bulk", "Acts on all tasks, or all runs, that a filter finds.", bulk_any)
            .takes::<rest::Bulk>()
            .answers::<rest::Operation>(202, "Started; follow it at Location."),
        Route::new(Method::GET, "/operations/{id}/events", "watchOperation", "Streams its progress.", events)
            .answers_plain(200, "Server-sent events.", "text/event-stream")
            .raw(),
        Route::new(
            Method::POST,
            "/operations/{id}:cancel",
            "cancelOperation",
            "Stops it before its next page.",
            cancel,
        )
        .answers::<rest::Operation>(200, "Cancelled; what was changed stays changed."),
    ]
}

async fn list(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    // Ids begin with the time of their making.
    let all = (operation::list(&api, &caller), Order::Descending);
    let found = short_list::page(&api, &caller, "operations", all, &params.short()?, |o| o.id.clone())?;
    page("/api/v1/operations", &params, &found)
}

async fn get(caller: Viewer, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    let (shown, version) = operation::get_versioned(&api, &caller, &id)?;
    versioned(&params, &format!("\"{version}\""), &shown)
}

async fn items(caller: Viewer, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    let wanted = params.get("outcome");
    if wanted.is_some_and(|wanted| !matches!(wanted, "done" | "failed" | "skipped" | "would_change")) {
        return Err(Failure::query("outcome", "an outcome is done, failed, skipped or would_change"));
    }
    let found = operation::items(&api, &caller, &id, wanted, &params.short()?).await?;
    page(&format!("/api/v1/operations/{id}/items"), &params, &found)
}

/// One address for every action; those of `/tasks`, `/runs` and `/queues` say the same with fewer words.
async fn bulk_any(caller: Operator, State(api): State<Api>, JsonBody(bytes): JsonBody) -> Reply {
    let rest::Bulk { resource, action, filter, reason, priority, to, check, dry_run, max } = body::parse(&bytes)?;
    let request = |filter| rest::BulkRequest { filter, reason, priority, to, check, dry_run, max };
    match resource.as_deref() {
        None | Some("tasks") => {}
        Some("runs") => return bulk(&api, &caller, (true, &action), &request(filter)).await,
        Some(_) => return Err(Failure::field("/resource", "a resource is tasks or runs")),
    }
    if !matches!(action.as_str(), "cancel" | "retry" | "redrive" | "reprioritise") {
        return Err(Failure::field("/action", "an action is cancel, retry, redrive or reprioritise"));
    }
    let filter = if action == "redrive" { format!("{filter} state:dead") } else { filter };
    bulk(&api, &caller, (false, &action), &request(filter)).await
}

/// The route of an action on all tasks, or on all runs, that a filter finds.
pub(super) fn bulk_route(
    (path, id, summary): (&'static str, &'static str, &'static str),
    (of_runs, action): (bool, &'static str),
) -> Route {
    let handler = move |caller: Operator, State(api): State<Api>, JsonBody(bytes): JsonBody| async move {
        bulk(&api, &caller, (of_runs, action), &body::parse(&bytes)?).await
    };
    Route::new(Method::POST, path, id, summary, handler)
        .takes::<rest::BulkRequest>()
        .answers::<rest::Operation>(202, "Started; follow it at Location.")
}

/// Starts an operation on tasks, or on runs: 202 with its address.
pub(super) async fn bulk(api: &Api, caller: &Principal, what: (bool, &str), request: &rest::BulkRequest) -> Reply {
    let started = operation::start(api, caller, what, request).await?;
    let location = format!("/api/v1/operations/{}", started.id);
    Ok(with_header(json(202, &started)?, header::LOCATION, &location))
}

async fn events(caller: Viewer, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    operation::get(&api, &caller, &id)?;
    Ok(stream::operation(&api, &caller, id)?.into_response())
}

async fn cancel(caller: Operator, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    json(200, &operation::cancel(&api, &caller, &id).await?)
}
