//! `/tasks` and `/task-types`.

use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::response::Response;
use tidewheel_engine::serve::PLAIN_EXECUTOR;
use tidewheel_engine::task::{Payload, State as TaskState, Task};
use tidewheel_engine::view::{Answer, View};
use tidewheel_proto::code::Code;
use tidewheel_proto::{id, rest};

use super::operations::bulk_route;
use super::params::{CURSOR, FIELDS, FILTER, LIMIT, Params, Path, SHORT_LIMIT, SORT, WAIT};
use super::reply::{
    BatchBody, IfMatch, Items, JsonBody, REPLAYED, Reply, bytes_of, json, page, unless_known, versioned, with_header,
    written,
};
use super::route::{Param, Route};
use super::{logs, stream};
use crate::auth::guard::{Anyone, Operator, Submitter, Viewer};
use crate::body;
use crate::problem::{Failure, RATE_LIMIT};
use crate::service::short_list::{self, Order};
use crate::service::submit_task::{Accepted, Around};
use crate::service::task_action::{Action, checked};
use crate::service::{blob, convert, get_task, list_tasks, submit_task, task_type, wait_task};
use crate::state::Api;
use crate::text::{hash_text, task_id, task_text};
use crate::units::{push_time, time_text};

const LIST: &[Param] = &[FILTER, CURSOR, LIMIT, FIELDS, SORT];
const ONE: &[Param] = &[FIELDS, WAIT];
const WAITING: &[Param] = &[WAIT];
const TYPES: &[Param] = &[CURSOR, SHORT_LIMIT, FIELDS];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/tasks", "submitTask", "Submits a task.", submit)
            .query(WAITING)
            .takes::<rest::SubmitTask>()
            .answers::<rest::Task>(201, "Stored.")
            .answers::<rest::Task>(200, "The idempotency key was known: the earlier task; or the wait saw its end.")
            .answers::<rest::Task>(202, "Stored; the wait ran out before its end.")
            .raw(),
        Route::new(Method::POST, "/tasks:batch", "submitBatch", "Submits up to 1,000 tasks; one outcome each.", batch)
            .takes::<rest::SubmitBatch>()
            .answers::<rest::SubmitBatchAnswer>(200, "One outcome per task, in order."),
        Route::new(Method::GET, "/tasks", "listTasks", "Lists tasks, newest first.", list)
            .query(LIST)
            .answers_page::<rest::Task>("A page."),
        Route::new(Method::GET, "/tasks/counts", "countTasks", "Counts the tasks of the tenant by state.", counts)
            .answers::<rest::TaskCounts>(200, "Exact counts."),
        Route::new(Method::GET, "/tasks/{id}", "getTask", "Shows a task with its input and result.", get)
            .query(ONE)
            .answers::<rest::Task>(200, "The task."),
        Route::new(Method::PATCH, "/tasks/{id}", "patchTask", "Changes priority, labels or the earliest time.", patch)
            .takes::<rest::PatchTask>()
            .answers::<rest::Task>(200, "The task as it is now."),
        Route::new(Method::GET, "/tasks/{id}/attempts", "listAttempts", "Lists every attempt, oldest first.", attempts)
            .answers_list::<rest::Attempt>("The attempts."),
        Route::new(
            Method::GET,
            "/tasks/{id}/logs",
            "getTaskLogs",
            "Shows or follows the log of a task.",
            logs::of_task,
        )
        .query(logs::TASK_LOGS)
        .answers_list::<rest::LogLine>("Lines, oldest first; with follow, a stream of server-sent events."),
        Route::new(Method::GET, "/tasks/{id}/result", "getTaskResult", "Gives the result as raw JSON.", result)
            .query(WAITING)
            .answers_plain(200, "The result.", "application/json")
            .answers::<rest::Task>(202, "It has not ended yet.")
            .raw(),
        Route::new(Method::GET, "/tasks/{id}/why", "whyTask", "Says why a task is not running, computed now.", why)
            .answers::<rest::Why>(200, "The reasons."),
        Route::new(Method::GET, "/tasks/{id}/artifacts", "listArtifacts", "Lists the files a task left.", artifacts)
            .answers_list::<rest::Artifact>("The files."),
        Route::new(Method::GET, "/tasks/{id}/events", "watchTask", "Streams the changes of a task.", stream::of_task)
            .answers_plain(200, "Server-sent events.", "text/event-stream")
            .raw(),
        Route::new(Method::POST, "/tasks/{id}:cancel", "cancelTask", "Cancels a task in any state.", cancel)
            .may_take::<rest::ActionBody>()
            .answers::<rest::Task>(200, "The task as it is now."),
        Route::new(
            Method::POST,
            "/tasks/{id}:retry",
            "retryTask",
            "Runs an ended task again, with fresh attempts.",
            retry,
        )
        .may_take::<rest::ActionBody>()
        .answers::<rest::Task>(200, "The task as it is now."),
        Route::new(
            Method::POST,
            "/tasks/{id}:reprioritise",
            "reprioritiseTask",
            "Changes a task's priority.",
            reprioritise,
        )
        .takes::<rest::ActionBody>()
        .answers::<rest::Task>(200, "The task as it is now."),
        bulk_route(("/tasks:cancel", "cancelTasks", "Cancels all tasks that a filter finds."), (false, "cancel")),
        bulk_route(("/tasks:retry", "retryTasks", "Retries all tasks that a filter finds."), (false, "retry")),
        bulk_route(
            ("/tasks:reprioritise", "reprioritiseTasks", "Changes the priority of many tasks."),
            (false, "reprioritise"),
        ),
        Route::new(Method::GET, "/task-types", "listTaskTypes", "Lists the task types that packages serve.", types)
            .query(TYPES)
            .answers_page::<rest::TaskType>("A page, by name."),
    ]
}

/// The two headers that belong to a task; taking the whole map would copy it.
pub(super) struct SubmitHeaders {
    key: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
}

impl<S: Send + Sync> FromRequestParts<S> for SubmitHeaders {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let take = |name: &str| parts.headers.get(name).cloned();
        Ok(SubmitHeaders { key: take("idempotency-key"), traceparent: take("traceparent") })
    }
}

impl SubmitHeaders {
    pub(super) fn around(&self) -> Result<Around<'_>, Failure> {
        let key = self.key.as_ref().map(|value| value.to_str()).transpose();
        let key = key.map_err(|_| Failure::query("Idempotency-Key", "the header is not printable ASCII"))?;
        Ok(Around { key, traceparent: self.traceparent.as_ref().and_then(|value| value.to_str().ok()) })
    }
}

async fn submit(
    caller: Submitter,
    State(api): State<Api>,
    params: Params,
    headers: SubmitHeaders,
    JsonBody(bytes): JsonBody,
) -> Reply {
    let around = headers.around()?;
    let accepted = submit_task::one(&api, &caller, &bytes, around).await?;
    if let Some(wait) = params.duration("wait")? {
        let task = wait_task::wait(&api, &caller, accepted.id, wait).await?;
        return waited(&api, &caller, &task, accepted.replayed).await;
    }
    if accepted.replayed {
        let task = get_task::record(&api, &caller, accepted.id).await?;
        return waited(&api, &caller, &task, true).await;
    }
    Ok(created(&api, &accepted))
}

/// The answer to a create, written by hand: it is the hottest answer of the server, and building a tree of strings
/// for it would cost more than everything else in this file together.
pub(super) fn created(api: &Api, accepted: &Accepted) -> Response {
    let mut text = String::with_capacity(360 + accepted.kind.len() + accepted.queue.len());
    let task = id::format("task", accepted.id.0);
    let at = accepted.id.millis();
    let state = if accepted.due > 0 { "scheduled" } else { "queued" };
    let max_attempts = accepted.spec.retry.as_ref().map_or(0, |r| r.max_attempts);
    text.push_str("{\"id\":\"");
    text.push_str(&task);
    text.push_str("\",\"state\":\"");
    text.push_str(state);
    text.push_str("\",\"type\":");
    push_json(&mut text, &accepted.kind);
    text.push_str(",\"executor\":");
    push_json(&mut text, accepted.spec.executor.as_deref().unwrap_or(PLAIN_EXECUTOR));
    if let Some(rule) = &accepted.spec.rule {
        text.push_str(",\"rule\":");
        push_json(&mut text, rule);
    }
    text.push_str(",\"queue\":");
    push_json(&mut text, &accepted.queue);
    // A write to a String does not fail.
    let _ = write!(text, ",\"priority\":{},\"attempt\":0,\"max_attempts\":", accepted.priority);
    let _ = write!(text, "{}", if max_attempts > 0 { max_attempts } else { api_attempts(api, accepted) });
    text.push_str(",\"created_at\":\"");
    push_time(&mut text, at);
    text.push_str("\",\"updated_at\":\"");
    push_time(&mut text, at);
    text.push('"');
    if accepted.due > 0 {
        text.push_str(",\"run_at\":\"");
        push_time(&mut text, accepted.due);
        text.push('"');
    }
    if !accepted.spec.labels.is_empty() {
        text.push_str(",\"labels\":{");
        for (i, (name, value)) in accepted.spec.labels.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            push_json(&mut text, name);
            text.push(':');
            push_json(&mut text, value);
        }
        text.push('}');
    }
    if let Some(correlation) = &accepted.spec.correlation_id {
        text.push_str(",\"correlation_id\":");
        push_json(&mut text, correlation);
    }
    text.push('}');
    let response = bytes_of(201, "application/json", text.into());
    let mut response = with_header(response, header::LOCATION, &format!("/api/v1/tasks/{task}"));
    if api.runtime.is_throttled(accepted.tenant, &accepted.queue) {
        // It was let in, and the next one has to wait for its turn.
        response = with_header(response, RATE_LIMIT, "\"default\";r=0;t=1");
    }
    with_header(response, header::ETAG, &format!("\"{at:x}-0-{}\"", if accepted.due > 0 { 0 } else { 1 }))
}

/// Attempts of a task that brings no policy: its queue's. The tenant's queue is known by the submit that just passed.
fn api_attempts(api: &Api, accepted: &Accepted) -> u32 {
    let queue = api.runtime.directory().queue(accepted.tenant, &accepted.queue);
    queue.map_or(1, |q| q.config.retry.max_attempts)
}

/// A text as a JSON string; plain ASCII, the usual case, needs no escaping.
fn push_json(out: &mut String, text: &str) {
    if text.bytes().all(|b| (0x20..0x7F).contains(&b) && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// A task after a wait: 200 at its end, 202 before.
pub(super) async fn waited(api: &Api, caller: &crate::auth::Principal, task: &Task, replayed: bool) -> Reply {
    let mut shown = get_task::shown(api, caller, task).await?;
    shown.replayed = replayed;
    // An earlier task is a complete answer in whatever state it is.
    let status = if task.state.is_terminal() || replayed { 200 } else { 202 };
    let response = json(status, &shown)?;
    let response = with_header(response, header::LOCATION, &format!("/api/v1/tasks/{}", shown.id));
    let response = with_header(response, header::ETAG, &convert::task_etag(task));
    Ok(if replayed { with_header(response, REPLAYED, "true") } else { response })
}

async fn batch(
    caller: Submitter,
    State(api): State<Api>,
    headers: SubmitHeaders,
    BatchBody(bytes): BatchBody,
) -> Reply {
    json(200, &submit_task::batch(&api, &caller, &bytes, headers.around()?.key).await?)
}

async fn list(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let found = list_tasks::list(&api, &caller, &params.list()?).await?;
    page("/api/v1/tasks", &params, &found)
}

async fn counts(caller: Viewer, State(api): State<Api>) -> Reply {
    let mut counts: std::collections::BTreeMap<String, u64> =
        TaskState::ALL.iter().map(|s| (s.as_str().to_owned(), 0)).collect();
    if let Answer::Queues(figures) = api.runtime.read(View::Queues { tenant: caller.tenant, name: None }).await? {
        for figure in figures {
            for (state, count) in TaskState::ALL.iter().zip(figure.counts) {
                *counts.entry(state.as_str().to_owned()).or_default() += count;
            }
        }
    }
    json(200, &rest::TaskCounts { counts, relation: "eq".to_owned(), as_of: api.runtime.committed_index() })
}

async fn get(caller: Anyone, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    let wait = params.duration("wait")?.unwrap_or(Duration::ZERO);
    let task = wait_task::wait(&api, &caller, task_id(&id)?, wait).await?;
    let etag = convert::task_etag(&task);
    let shown = get_task::shown(&api, &caller, &task).await?;
    versioned(&params, &etag, &shown)
}

async fn patch(
    caller: Operator,
    State(api): State<Api>,
    Path(id): Path<String>,
    IfMatch(seen): IfMatch,
    JsonBody(bytes): JsonBody,
) -> Reply {
    let change = Action::patch(&body::parse::<rest::PatchTask>(&bytes)?)?;
    act(&api, &caller, &id, seen.as_deref(), &change).await
}

async fn act(api: &Api, caller: &crate::auth::Principal, id: &str, seen: Option<&str>, action: &Action) -> Reply {
    let (task, etag) = checked(api, caller, task_id(id)?, seen, action).await?;
    written(None, &etag, &task)
}

/// Code that runs in a worker may cancel what it submitted through the worker's token.
async fn cancel(
    caller: Submitter,
    State(api): State<Api>,
    Path(id): Path<String>,
    IfMatch(seen): IfMatch,
    JsonBody(bytes): JsonBody,
) -> Reply {
    let body: rest::ActionBody = body::parse_or_default(&bytes)?;
    act(&api, &caller, &id, seen.as_deref(), &Action::cancel(body.reason.as_deref())?).await
}

async fn retry(
    caller: Operator,
    State(api): State<Api>,
    Path(id): Path<String>,
    IfMatch(seen): IfMatch,
    JsonBody(bytes): JsonBody,
) -> Reply {
    let _: rest::ActionBody = body::parse_or_default(&bytes)?;
    act(&api, &caller, &id, seen.as_deref(), &Action::Retry).await
}

async fn reprioritise(
    caller: Operator,
    State(api): State<Api>,
    Path(id): Path<String>,
    IfMatch(seen): IfMatch,
    JsonBody(bytes): JsonBody,
) -> Reply {
    let body: rest::ActionBody = body::parse_or_default(&bytes)?;
    act(&api, &caller, &id, seen.as_deref(), &Action::reprioritise(body.priority.as_ref())?).await
}

async fn attempts(caller: Viewer, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    json(200, &Items { items: get_task::attempts(&api, &caller, task_id(&id)?).await? })
}

async fn artifacts(caller: Viewer, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    json(200, &Items { items: get_task::artifacts(&api, &caller, task_id(&id)?).await? })
}

async fn why(caller: Anyone, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    json(200, &get_task::why(&api, &caller, task_id(&id)?).await?)
}

/// The result alone: 200 with the JSON that the task returned, 202 while there is none, 409 when there never will be.
async fn result(caller: Anyone, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    let wait = params.duration("wait")?.unwrap_or(Duration::ZERO);
    let task = wait_task::wait(&api, &caller, task_id(&id)?, wait).await?;
    if !task.state.is_terminal() {
        return json(202, &convert::task(&api.runtime.directory(), &task, false));
    }
    if task.state != TaskState::Succeeded {
        return Err(no_result(&task));
    }
    let payload = task.ending.as_ref().map_or(&Payload::None, |ending| &ending.result);
    unless_known(&params, &convert::task_etag(&task), || {
        Ok(match payload {
            Payload::Inline(bytes) => bytes_of(200, "application/json", bytes.clone()),
            Payload::None | Payload::Cold => bytes_of(200, "application/json", "null".into()),
            Payload::Blob { hash, size } => {
                let parts = blob::stream(&api, caller.tenant, *hash, 0, *size);
                let mut response = bytes_of(200, "application/json", bytes::Bytes::new());
                *response.body_mut() = axum::body::Body::from_stream(parts);
                let response = with_header(response, header::CONTENT_LENGTH, &size.to_string());
                with_header(response, HeaderName::from_static("tidewheel-blob"), &hash_text(hash))
            }
        })
    })
}

fn no_result(task: &Task) -> Failure {
    let why = match task.ending.as_ref().and_then(|e| e.failure.as_ref()) {
        Some(failure) => format!(": {}: {}", failure.kind, failure.message),
        None => String::new(),
    };
    let detail = format!("{} ended as {} at {}{why}", task_text(task.id), task.state.as_str(), time_text(task.changed));
    Failure::new(Code::Conflict, detail)
}

async fn types(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let all = (task_type::list(&api, &caller), Order::Ascending);
    let found = short_list::page(&api, &caller, "task-types", all, &params.short()?, |t| t.name.clone())?;
    page("/api/v1/task-types", &params, &found)
}
