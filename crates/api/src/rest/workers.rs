//! `/workers`.

use axum::extract::State;
use axum::http::Method;
use tidewheel_proto::rest;

use super::params::{CURSOR, FIELDS, FILTER, Params, Path, SHORT_LIMIT};
use super::reply::{JsonBody, Reply, hashed, json, page};
use super::route::{Param, Route};
use crate::auth::guard::{Operator, Viewer};
use crate::body;
use crate::service::list_tasks::refused;
use crate::service::short_list::{self, Order};
use crate::service::{list_filter, worker};
use crate::state::Api;

const LIST: &[Param] = &[FILTER, CURSOR, SHORT_LIMIT, FIELDS];
const ONE: &[Param] = &[FIELDS];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/workers", "listWorkers", "Lists the workers that are or just were connected.", list)
            .query(LIST)
            .answers_page::<rest::Worker>("A page, by name."),
        Route::new(Method::GET, "/workers/{id}", "getWorker", "Shows a worker, by its id or name.", get)
            .query(ONE)
            .answers::<rest::Worker>(200, "The worker."),
        Route::new(Method::PATCH, "/workers/{id}", "patchWorker", "Changes a worker's permits or labels.", patch)
            .takes::<rest::PatchWorker>()
            .answers::<rest::Worker>(200, "The worker as it is now."),
        Route::new(Method::POST, "/workers/{id}:drain", "drainWorker", "Gives a worker nothing new.", drain)
            .answers::<rest::Worker>(200, "The worker as it is now."),
        Route::new(Method::POST, "/workers/{id}:resume", "resumeWorker", "Gives a worker tasks again.", resume)
            .answers::<rest::Worker>(200, "The worker as it is now."),
    ]
}

async fn list(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let part = params.short()?;
    let all = worker::list(&api, &caller).await?;
    let items = list_filter::workers(&part.filter, all, api.runtime.now_ms()).map_err(refused)?;
    // Workers of two owners may have one name.
    let place = |worker: &rest::Worker| format!("{}\0{}", worker.name, worker.id);
    let found = short_list::page(&api, &caller, "workers", (items, Order::Ascending), &part, place)?;
    page("/api/v1/workers", &params, &found)
}

async fn get(caller: Viewer, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    hashed(&params, &worker::shown(&api, &worker::find(&api, &caller, &id).await?))
}

async fn patch(caller: Operator, State(api): State<Api>, Path(id): Path<String>, JsonBody(bytes): JsonBody) -> Reply {
    let change: rest::PatchWorker = body::parse(&bytes)?;
    json(200, &worker::patch(&api, &caller, &id, &change).await?)
}

async fn drain(caller: Operator, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    json(200, &worker::drain(&api, &caller, &id, true).await?)
}

async fn resume(caller: Operator, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    json(200, &worker::drain(&api, &caller, &id, false).await?)
}
