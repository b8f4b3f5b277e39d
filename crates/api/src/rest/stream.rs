//! `/stream` and the events of one task.

use axum::extract::State;
use axum::http::Method;
use axum::response::IntoResponse;

use super::params::{Params, Path};
use super::reply::Reply;
use super::route::{Param, Route};
use crate::auth::guard::Viewer;
use crate::live::stream::{self, LastEvent, Topics};
use crate::service::get_task;
use crate::state::Api;
use crate::text::task_id;

const TOPICS: &[Param] = &[(
    "topics",
    "What to stream, separated by commas: tasks, queued (one event for each task that is accepted), queues, workers.",
)];

pub(super) fn routes() -> Vec<Route> {
    let all =
        Route::new(Method::GET, "/stream", "stream", "Streams everything live of the tenant, folded.", everything);
    vec![all.query(TOPICS).answers_plain(200, "Server-sent events.", "text/event-stream").raw()]
}

async fn everything(caller: Viewer, State(api): State<Api>, params: Params, last: LastEvent) -> Reply {
    let topics = Topics::parse(params.get("topics").unwrap_or("tasks,queues,workers"))?;
    Ok(stream::everything(&api, &caller, topics, &last)?.into_response())
}

pub(super) async fn of_task(caller: Viewer, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    let task = task_id(&id)?;
    get_task::record(&api, &caller, task).await?;
    Ok(stream::task(&api, &caller, task)?.into_response())
}
