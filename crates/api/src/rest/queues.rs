//! `/queues`.

use axum::extract::State;
use axum::http::Method;
use tidewheel_engine::config::QueueState;
use tidewheel_proto::rest;

use super::operations::bulk;
use super::params::{CURSOR, FIELDS, FILTER, LIMIT, Params, Path, SHORT_LIMIT, SORT};
use super::reply::{IfMatch, JsonBody, Reply, hashed, no_content, page, versioned, written};
use super::route::{Param, Route};
use crate::auth::guard::{Operator, Viewer};
use crate::body;
use crate::service::list_filter;
use crate::service::list_tasks::{self, refused};
use crate::service::queue::{self, Write};
use crate::service::short_list::{self, Order};
use crate::state::Api;

const LIST: &[Param] = &[FILTER, CURSOR, SHORT_LIMIT, FIELDS];
const DEAD: &[Param] = &[FILTER, CURSOR, LIMIT, FIELDS, SORT];
const ONE: &[Param] = &[FIELDS];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/queues", "listQueues", "Lists the queues with their live figures.", list)
            .query(LIST)
            .answers_page::<rest::QueueStats>("A page, by name."),
        Route::new(Method::PUT, "/queues/{name}", "putQueue", "Creates a queue or replaces its settings.", put)
            .may_take::<rest::QueueSettings>()
            .answers::<rest::Queue>(200, "Changed.")
            .answers::<rest::Queue>(201, "Created."),
        Route::new(Method::PATCH, "/queues/{name}", "patchQueue", "Changes some settings of a queue.", patch)
            .takes::<rest::QueueSettings>()
            .answers::<rest::Queue>(200, "Changed."),
        Route::new(Method::GET, "/queues/{name}", "getQueue", "Shows a queue and its settings.", get)
            .query(ONE)
            .answers::<rest::Queue>(200, "The queue."),
        Route::new(Method::DELETE, "/queues/{name}", "deleteQueue", "Deletes an empty queue.", delete)
            .answers_plain(204, "Deleted.", ""),
        Route::new(
            Method::GET,
            "/queues/{name}/stats",
            "getQueueStats",
            "Shows live figures; autoscalers read it.",
            stats,
        )
        .query(ONE)
        .answers::<rest::QueueStats>(200, "The figures."),
        Route::new(Method::POST, "/queues/{name}:pause", "pauseQueue", "Stops giving out tasks.", pause)
            .answers::<rest::Queue>(200, "Paused."),
        Route::new(Method::POST, "/queues/{name}:resume", "resumeQueue", "Gives out and takes in again.", resume)
            .answers::<rest::Queue>(200, "Active."),
        Route::new(
            Method::POST,
            "/queues/{name}:drain",
            "drainQueue",
            "Takes no new tasks; works off what is there.",
            drain,
        )
        .answers::<rest::Queue>(200, "Draining."),
        Route::new(Method::POST, "/queues/{name}:purge", "purgeQueue", "Cancels every task that waits in it.", purge)
            .may_take::<rest::ActionBody>()
            .answers::<rest::Operation>(202, "Started; follow it at Location."),
        Route::new(Method::GET, "/queues/{name}/dead", "listDead", "Lists its dead tasks, newest first.", dead)
            .query(DEAD)
            .answers_page::<rest::Task>("A page."),
        Route::new(Method::POST, "/queues/{name}/dead:redrive", "redriveDead", "Runs its dead tasks again.", redrive)
            .may_take::<rest::Redrive>()
            .answers::<rest::Operation>(202, "Started; follow it at Location."),
    ]
}

async fn list(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let part = params.short()?;
    let all = queue::all_stats(&api, &caller).await?;
    let items = list_filter::queues(&part.filter, all, api.runtime.now_ms()).map_err(refused)?;
    let found = short_list::page(&api, &caller, "queues", (items, Order::Ascending), &part, |q| q.name.clone())?;
    page("/api/v1/queues", &params, &found)
}

async fn put(
    caller: Operator,
    State(api): State<Api>,
    Path(name): Path<String>,
    IfMatch(seen): IfMatch,
    JsonBody(bytes): JsonBody,
) -> Reply {
    write(&api, &caller, &name, seen.as_deref(), &bytes, Write::Put).await
}

async fn patch(
    caller: Operator,
    State(api): State<Api>,
    Path(name): Path<String>,
    IfMatch(seen): IfMatch,
    JsonBody(bytes): JsonBody,
) -> Reply {
    write(&api, &caller, &name, seen.as_deref(), &bytes, Write::Patch).await
}

async fn write(
    api: &Api,
    caller: &crate::auth::Principal,
    name: &str,
    seen: Option<&str>,
    bytes: &[u8],
    write: Write,
) -> Reply {
    let settings: rest::QueueSettings = body::parse_or_default(bytes)?;
    let (queue, is_new) = queue::put(api, caller, name, &settings, write, seen).await?;
    let place = is_new.then(|| format!("/api/v1/queues/{name}"));
    written(place.as_deref(), &queue::etag(&queue), &queue::shown(&queue))
}

async fn get(caller: Viewer, State(api): State<Api>, Path(name): Path<String>, params: Params) -> Reply {
    let queue = queue::find(&api, &caller, &name)?;
    versioned(&params, &queue::etag(&queue), &queue::shown(&queue))
}

async fn delete(caller: Operator, State(api): State<Api>, Path(name): Path<String>, IfMatch(seen): IfMatch) -> Reply {
    queue::delete(&api, &caller, &name, seen.as_deref()).await?;
    Ok(no_content())
}

async fn stats(caller: Viewer, State(api): State<Api>, Path(name): Path<String>, params: Params) -> Reply {
    hashed(&params, &queue::stats(&api, &caller, &name).await?)
}

async fn pause(caller: Operator, State(api): State<Api>, Path(name): Path<String>) -> Reply {
    set(&api, &caller, &name, QueueState::Paused).await
}

async fn resume(caller: Operator, State(api): State<Api>, Path(name): Path<String>) -> Reply {
    set(&api, &caller, &name, QueueState::Active).await
}

async fn drain(caller: Operator, State(api): State<Api>, Path(name): Path<String>) -> Reply {
    set(&api, &caller, &name, QueueState::Draining).await
}

async fn set(api: &Api, caller: &crate::auth::Principal, name: &str, state: QueueState) -> Reply {
    let queue = queue::set_state(api, caller, name, state).await?;
    written(None, &queue::etag(&queue), &queue::shown(&queue))
}

async fn purge(caller: Operator, State(api): State<Api>, Path(name): Path<String>, JsonBody(bytes): JsonBody) -> Reply {
    let body: rest::ActionBody = body::parse_or_default(&bytes)?;
    let queue = queue::find(&api, &caller, &name)?;
    let request = rest::BulkRequest {
        filter: format!("queue:{} state:queued,scheduled", queue.name),
        reason: Some(body.reason.unwrap_or_else(|| "the queue was purged".to_owned())),
        ..rest::BulkRequest::default()
    };
    bulk(&api, &caller, (false, "cancel"), &request).await
}

async fn dead(caller: Viewer, State(api): State<Api>, Path(name): Path<String>, params: Params) -> Reply {
    let queue = queue::find(&api, &caller, &name)?;
    let mut request = params.list()?;
    request.filter = format!("queue:{} state:dead {}", queue.name, request.filter);
    let found = list_tasks::list(&api, &caller, &request).await?;
    page(&format!("/api/v1/queues/{name}/dead"), &params, &found)
}

async fn redrive(
    caller: Operator,
    State(api): State<Api>,
    Path(name): Path<String>,
    JsonBody(bytes): JsonBody,
) -> Reply {
    let body: rest::Redrive = body::parse_or_default(&bytes)?;
    let queue = queue::find(&api, &caller, &name)?;
    let more = body.filter.unwrap_or_default();
    let request = rest::BulkRequest {
        filter: format!("queue:{} state:dead {more}", queue.name).trim_end().to_owned(),
        max: body.max,
        dry_run: body.dry_run,
        ..rest::BulkRequest::default()
    };
    bulk(&api, &caller, (false, "redrive"), &request).await
}
