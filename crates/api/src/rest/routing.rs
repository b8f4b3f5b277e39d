//! `/routing`.

use axum::extract::State;
use axum::http::Method;
use tidewheel_proto::rest;

use super::params::{FIELDS, Params};
use super::reply::{IfMatch, JsonBody, Reply, json, versioned, written};
use super::route::{Param, Route};
use crate::auth::guard::{Operator, Viewer};
use crate::body;
use crate::service::routing;
use crate::state::Api;

const ONE: &[Param] = &[FIELDS];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/routing", "getRouting", "Shows the routing rules of the tenant, in order.", get)
            .query(ONE)
            .answers::<rest::Routing>(200, "The rules."),
        Route::new(Method::PUT, "/routing", "putRouting", "Replaces the routing rules; the first match decides.", put)
            .takes::<rest::Routing>()
            .answers::<rest::Routing>(200, "The rules as they are now."),
        Route::new(Method::POST, "/routing:test", "testRouting", "Says where a task would go; submits nothing.", test)
            .takes::<rest::RouteTest>()
            .answers::<rest::Route>(200, "Queue, executor key and the rule that decides."),
    ]
}

async fn get(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let found = routing::get(&api, &caller);
    versioned(&params, &routing::etag(&found), &found)
}

async fn put(caller: Operator, State(api): State<Api>, IfMatch(seen): IfMatch, JsonBody(bytes): JsonBody) -> Reply {
    let wanted: rest::Routing = body::parse(&bytes)?;
    let now = routing::put(&api, &caller, wanted, seen.as_deref()).await?;
    written(None, &routing::etag(&now), &now)
}

async fn test(caller: Viewer, State(api): State<Api>, JsonBody(bytes): JsonBody) -> Reply {
    json(200, &routing::test(&api, &caller, &body::parse(&bytes)?)?)
}
