//! `/operations`.

use axum::extract::State;
use axum::http::Method;
use axum::response::IntoResponse;
use tidewheel_proto::rest;

use super::params::{CURSOR, FIELDS, Params, Path, SHORT_LIMIT};
use super::reply::{Reply, json, page};
use super::route::{Param, Route};
use crate::auth::guard::{Operator, Viewer};
use crate::live::stream;
use crate::service::operation;
use crate::service::short_list::{self, Order};
use crate::state::Api;

const LIST: &[Param] = &[CURSOR, SHORT_LIMIT, FIELDS];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/operations", "listOperations", "Lists background operations, newest first.", list)
            .query(LIST)
            .answers_page::<rest::Operation>("A page."),
        Route::new(Method::GET, "/operations/{id}", "getOperation", "Shows how far an operation is.", get)
            .answers::<rest::Operation>(200, "The operation."),
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
    params.only(LIST)?;
    // Ids begin with the time of their making.
    let all = (operation::list(&api, &caller), Order::Descending);
    let found = short_list::page(&api, &caller, "operations", all, &params.short()?, |o| o.id.clone())?;
    page("/api/v1/operations", &params, &found)
}

async fn get(caller: Viewer, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    json(200, &operation::get(&api, &caller, &id)?)
}

async fn events(caller: Viewer, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    operation::get(&api, &caller, &id)?;
    Ok(stream::operation(&api, &caller, id)?.into_response())
}

async fn cancel(caller: Operator, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    json(200, &operation::cancel(&api, &caller, &id).await?)
}
