//! `/routing`.

use axum::extract::State;
use axum::http::{Method, header};
use tidewheel_proto::rest;

use super::params::{FIELDS, Params};
use super::reply::{Conditions, JsonBody, Reply, json, versioned, with_header};
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

async fn get(caller: Viewer, State(api): State<Api>, params: Params, conditions: Conditions) -> Reply {
    params.only(ONE)?;
    let found = routing::get(&api, &caller);
    versioned(&conditions, &params, &routing::etag(&found), &found)
}

async fn put(caller: Operator, State(api): State<Api>, conditions: Conditions, JsonBody(bytes): JsonBody) -> Reply {
    let wanted: rest::Routing = body::parse(&bytes)?;
    let now = routing::put(&api, &caller, wanted, conditions.if_match.as_deref()).await?;
    Ok(with_header(json(200, &now)?, header::ETAG, &routing::etag(&now)))
}

async fn test(caller: Viewer, State(api): State<Api>, JsonBody(bytes): JsonBody) -> Reply {
    json(200, &routing::test(&api, &caller, &body::parse(&bytes)?)?)
}
