//! `/runs`, and the runs of one workflow.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tidewheel_engine::command::{GivenUp, RunAction};
use tidewheel_engine::run::head::Head;
use tidewheel_proto::rest;
use tokio_stream::wrappers::ReceiverStream;

use super::logs;
use super::operations::bulk_route;
use super::params::{CURSOR, FIELDS, FILTER, LIMIT, Params, Path};
use super::reply::{JsonBody, REPLAYED, Reply, bytes_of, json, no_content, page, versioned, with_header};
use super::route::{Param, Route};
use super::tasks::SubmitHeaders;
use crate::auth::Principal;
use crate::auth::guard::{Anyone, Operator, Submitter, Viewer};
use crate::auth::promise::Completer;
use crate::body;
use crate::live::stream;
use crate::problem::Failure;
use crate::service::list_tasks::MAX_LIMIT;
use crate::service::run::{self, Wanted};
use crate::service::{moving, promise, run_graph, run_history, run_journal, run_look};
use crate::state::Api;
use crate::text::{run_id, run_text};

const WAIT: Param = ("wait", "Waits so long for the end of the run, such as `30s`; a number alone is seconds.");
const WAITING: &[Param] = &[WAIT];
const ONE: &[Param] = &[FIELDS, WAIT];
const JOURNAL: &[Param] = &[CURSOR, ("limit", "Entries of the page, 1 to 1,000; default 100."), FIELDS];
const TIMELINE: &[Param] = &[CURSOR, ("limit", "Entries of the page, 1 to 1,000; default 100.")];
const GRAPH: &[Param] = &[("format", "`json` (the default) or `mermaid`.")];
const COMPARE: &[Param] = &[("with", "The other run.")];
const LOGS: &[Param] = &[
    ("tail", "Only the last so many lines."),
    ("since", "Only lines from this time on: `10m` (ago), a date or a time."),
    ("level", "At least this severe: debug, info, warning, error."),
    ("after", "Only lines after this row: `next_cursor` of the answer before."),
    ("limit", "Lines of the answer, 1 to 10,000; default 1,000."),
];
const LIST: &[Param] = &[
    (
        "phase",
        "Only runs in these phases, separated by commas: pending, running, waiting, suspended, cancelled, faulted, completed.",
    ),
    ("workflow", "Only runs of this workflow: `namespace/name`, or a name."),
    ("version", "Only runs of this version."),
    ("parent", "Only runs that this run started."),
    ("correlation", "Only runs with this correlation id."),
    ("started_from", "Only runs started at or after this time (RFC 3339)."),
    ("started_until", "Only runs started before this time (RFC 3339)."),
    FILTER,
    CURSOR,
    LIMIT,
    FIELDS,
];

pub(super) fn routes() -> Vec<Route> {
    let mut all = vec![
        Route::new(Method::POST, "/runs", "startRun", "Starts a run of a workflow.", start)
            .query(WAITING)
            .takes::<rest::StartRun>()
            .answers::<rest::Run>(201, "Started.")
            .answers::<rest::Run>(200, "The idempotency key was known: the earlier run; or the wait saw its end.")
            .answers::<rest::Run>(202, "Started; the wait ran out before its end."),
        Route::new(
            Method::POST,
            "/workflows/{namespace}/{name}/runs",
            "startWorkflowRun",
            "Starts a run of this workflow.",
            start_of,
        )
        .query(WAITING)
        .may_take::<rest::StartRun>()
        .answers::<rest::Run>(201, "Started.")
        .answers::<rest::Run>(200, "The idempotency key was known: the earlier run; or the wait saw its end.")
        .answers::<rest::Run>(202, "Started; the wait ran out before its end."),
        Route::new(Method::GET, "/runs", "listRuns", "Lists runs, newest first.", list)
            .query(LIST)
            .answers_page::<rest::Run>("A page, newest first."),
        Route::new(
            Method::GET,
            "/runs/{id}",
            "getRun",
            "Shows a run with its input, its output or error, and what it waits for.",
            get,
        )
        .query(ONE)
        .answers::<rest::Run>(200, "The run."),
        Route::new(Method::GET, "/runs/{id}/journal", "getRunJournal", "Shows what a run has done, in order.", journal)
            .query(JOURNAL)
            .answers_page::<rest::JournalEntry>("A page, oldest first."),
        Route::new(
            Method::GET,
            "/runs/{id}/history",
            "getRunHistory",
            "Gives the history of a run written in Python, as `tidewheel.testing.replay` reads it, whole and however long it is.",
            history,
        )
        .answers::<serde_json::Value>(
            200,
            "Its input and turns, on one line, with large values in the place of their references; one that is gone or no JSON stays a reference.",
        ),
        Route::new(Method::GET, "/runs/counts", "countRuns", "Counts runs by phase.", counts)
            .answers::<rest::RunCounts>(200, "The counts."),
        Route::new(Method::GET, "/runs/{id}/why", "whyRun", "Says what a run waits for, computed now.", why)
            .answers::<rest::RunWhy>(200, "The reasons."),
        Route::new(Method::GET, "/runs/{id}/timeline", "getRunTimeline", "Shows what a run did when.", timeline)
            .query(TIMELINE)
            .answers::<rest::RunTimeline>(200, "A page, oldest first."),
        Route::new(
            Method::GET,
            "/runs/{id}/graph",
            "getRunGraph",
            "Shows the statements of a run's document as a graph, with what became of each.",
            graph,
        )
        .query(GRAPH)
        .answers::<rest::RunGraph>(200, "The graph."),
        Route::new(Method::GET, "/runs/{id}/logs", "getRunLogs", "Shows the log lines of all tasks of a run.", logs_of)
            .query(LOGS)
            .answers_page::<rest::LogLine>("Lines, oldest first."),
        Route::new(
            Method::GET,
            "/runs/{id}/compare",
            "compareRuns",
            "Shows two runs side by side: the first entry that differs, inputs, outputs, durations.",
            compare,
        )
        .query(COMPARE)
        .answers::<rest::RunComparison>(200, "The comparison."),
        Route::new(Method::GET, "/runs/{id}/tree", "getRunTree", "Shows a run and all that it started.", tree)
            .answers::<rest::RunTree>(200, "The run and those below it, at most 1,000."),
        Route::new(Method::GET, "/runs/{id}/events", "watchRun", "Streams the changes of a run.", events)
            .answers_plain(200, "Server-sent events.", "text/event-stream")
            .raw(),
        Route::new(
            Method::POST,
            "/runs/{id}/signals/{type}",
            "signalRun",
            "Gives a run a signal: an event of this type, which a `listen` takes.",
            signal,
        )
        .may_take::<rest::SignalRun>()
        .answers::<rest::Run>(200, "The run as it is now."),
        Route::new(
            Method::POST,
            "/runs/{id}/promises/{promise}",
            "completePromise",
            "Completes what a workflow in Python made with `wf.promise(name)`, by its name or by its token; the first one counts.",
            promise,
        )
        .may_take::<rest::CompletePromise>()
        .answers::<rest::Run>(200, "By its name: the run as it is now.")
        .answers_plain(204, "By its token: it is completed. The same again is answered the same; something else is a 409.", ""),
    ];
    let acts = [
        ("/runs/{id}:cancel", "cancelRun", "Ends a run; what it has open is cancelled, depth first.", "cancel"),
        ("/runs/{id}:terminate", "terminateRun", "Ends a run at once, without compensation.", "terminate"),
        ("/runs/{id}:suspend", "suspendRun", "Holds a run; what ends meanwhile is kept until it resumes.", "suspend"),
        ("/runs/{id}:resume", "resumeRun", "Lets a suspended run go on.", "resume"),
        ("/runs/{id}:retry", "retryRun", "Lets a faulted run go on from what failed.", "retry"),
    ];
    all.extend(acts.map(act_route));
    let bulks = [
        ("/runs:cancel", "cancelRuns", "Cancels all runs that a filter finds.", "cancel"),
        (
            "/runs:terminate",
            "terminateRuns",
            "Ends all runs that a filter finds at once, without compensation.",
            "terminate",
        ),
        ("/runs:suspend", "suspendRuns", "Holds all runs that a filter finds.", "suspend"),
        ("/runs:resume", "resumeRuns", "Lets all suspended runs that a filter finds go on.", "resume"),
        ("/runs:retry", "retryRuns", "Lets all faulted runs that a filter finds go on from what failed.", "retry"),
        (
            "/runs:reprioritise",
            "reprioritiseRuns",
            "Changes the priority of the tasks that the runs which a filter finds wait for.",
            "reprioritise",
        ),
        ("/runs:move", "moveRuns", "Moves all runs that a filter finds to another version of their workflow.", "move"),
        (
            "/runs:accept",
            "acceptRuns",
            "Accepts for all runs that a filter finds what a replay of their programs found to differ.",
            "accept",
        ),
    ];
    all.extend(bulks.map(|(path, id, summary, action)| bulk_route((path, id, summary), (true, action))));
    let summary = "Moves a run to another version of its workflow.";
    all.push(
        Route::new(Method::POST, "/runs/{id}:move", "moveRun", summary, move_one)
            .takes::<rest::MoveRun>()
            .answers::<rest::Run>(200, "The run as it is now."),
    );
    let summary = "Accepts what a replay of a run's program found to differ from its history, and lets it go on.";
    all.push(
        Route::new(Method::POST, "/runs/{id}:accept", "acceptRun", summary, accept)
            .answers::<rest::Run>(200, "The run as it is now."),
    );
    let summary = "Takes a run back to an entry of its journal. What sagas did after it is undone first, unless it is told otherwise.";
    all.push(
        Route::new(Method::POST, "/runs/{id}:reset", "resetRun", summary, reset)
            .takes::<rest::ResetRun>()
            .answers::<rest::Run>(200, "The run as it is now."),
    );
    let summary = "Starts another run that goes on from an entry of this one's journal.";
    all.push(
        Route::new(Method::POST, "/runs/{id}:fork", "forkRun", summary, fork)
            .takes::<rest::GoBack>()
            .answers::<rest::Run>(201, "The new run."),
    );
    all
}

/// The route of an action that needs no more than a reason.
fn act_route((path, id, summary, verb): (&'static str, &'static str, &'static str, &'static str)) -> Route {
    let handler = move |caller: Operator, State(api): State<Api>, Path(id): Path<String>, JsonBody(bytes): JsonBody| async move {
        let body: rest::RunActionBody = body::parse_or_default(&bytes)?;
        let action = run::action(verb, body.reason.as_deref())?;
        let action = action.ok_or_else(|| Failure::internal("a route names an action that there is not"))?;
        let head = run::act(&api, &caller, run_id(&id)?, action).await?;
        answer(&api, &caller, &head).await
    };
    Route::new(Method::POST, path, id, summary, handler)
        .may_take::<rest::RunActionBody>()
        .answers::<rest::Run>(200, "The run as it is now.")
}

/// How long to wait: `30s`, or seconds as a number alone.
fn wait_of(params: &Params) -> Result<Option<Duration>, Failure> {
    match params.get("wait").map(str::parse::<u32>) {
        Some(Ok(seconds)) => Ok(Some(Duration::from_secs(seconds.into()))),
        _ => params.duration("wait"),
    }
}

async fn start(
    caller: Submitter,
    State(api): State<Api>,
    params: Params,
    headers: SubmitHeaders,
    JsonBody(bytes): JsonBody,
) -> Reply {
    started(&api, &caller, &params, &headers, None, &bytes).await
}

async fn start_of(
    caller: Submitter,
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    (params, headers): (Params, SubmitHeaders),
    JsonBody(bytes): JsonBody,
) -> Reply {
    started(&api, &caller, &params, &headers, Some((&namespace, &name)), &bytes).await
}

async fn started(
    api: &Api,
    caller: &Principal,
    params: &Params,
    headers: &SubmitHeaders,
    path: Option<(&str, &str)>,
    bytes: &Bytes,
) -> Reply {
    let wait = wait_of(params)?;
    let key = headers.around()?.key;
    let body: rest::StartRun = body::parse_or_default(bytes)?;
    let started = run::start(api, caller, body, path, key, bytes).await?;
    let id = started.head.identity.run;
    let (status, head) = match wait {
        None => (if started.replayed { 200 } else { 201 }, started.head),
        Some(wait) => {
            let head = run::wait(api, caller, id, wait).await?;
            (if head.phase.ended() { 200 } else { 202 }, head)
        }
    };
    let response = json(status, &run::shown(api, caller, &head).await?)?;
    let response = with_header(response, header::LOCATION, &format!("/api/v1/runs/{}", run_text(id)));
    Ok(if started.replayed { with_header(response, REPLAYED, "true") } else { response })
}

async fn list(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let limit = params.number("limit", 1..=MAX_LIMIT as u64)?.map_or(run::DEFAULT_LIMIT, |n| n as usize);
    let wanted = Wanted {
        phase: params.get("phase"),
        workflow: params.get("workflow"),
        version: params.get("version"),
        parent: params.get("parent"),
        correlation: params.get("correlation"),
        started_from: params.get("started_from"),
        started_until: params.get("started_until"),
        filter: params.get("filter"),
        cursor: params.get("cursor"),
        limit,
    };
    page("/api/v1/runs", &params, &run::list(&api, &caller, &wanted).await?)
}

async fn get(caller: Anyone, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    let wait = wait_of(&params)?.unwrap_or(Duration::ZERO);
    let head = run::wait(&api, &caller, run_id(&id)?, wait).await?;
    versioned(&params, &etag(&head), &run::shown(&api, &caller, &head).await?)
}

/// Every turn changes it, and nothing else does.
fn etag(head: &Head) -> String {
    format!("\"{}-{}\"", head.turns, run::phase_name(head.phase))
}

async fn journal(caller: Viewer, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    let limit = params.number("limit", 1..=MAX_LIMIT as u64)?.map_or(run_journal::DEFAULT_LIMIT, |n| n as usize);
    let found = run_journal::page(&api, &caller, run_id(&id)?, params.get("cursor"), limit).await?;
    page(&format!("/api/v1/runs/{id}/journal"), &params, &found)
}

async fn history(caller: Viewer, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    let pieces = run_history::text(&api, caller.tenant, run_id(&id)?).await?;
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(pieces)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn counts(caller: Viewer, State(api): State<Api>) -> Reply {
    json(200, &run_look::counts(&api, &caller).await?)
}

async fn why(caller: Viewer, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    json(200, &run_look::why(&api, &caller, run_id(&id)?).await?)
}

async fn timeline(caller: Viewer, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    let limit = params.number("limit", 1..=MAX_LIMIT as u64)?.map_or(run_journal::DEFAULT_LIMIT, |n| n as usize);
    json(200, &run_look::timeline(&api, &caller, run_id(&id)?, params.get("cursor"), limit).await?)
}

async fn logs_of(caller: Viewer, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    let wanted = logs::lines(&api, &params)?;
    let (items, next) = run_look::lines(&api, &caller, run_id(&id)?, &wanted).await?;
    let as_of = api.runtime.committed_index();
    let next_cursor = next.map(|row| row.to_string());
    json(200, &rest::Page { items, next_cursor, as_of, searched_back_to: None })
}

async fn compare(caller: Viewer, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    let with = params.get("with").ok_or_else(|| Failure::query("with", "name the other run: ?with=run_..."))?;
    let other = run_id(with).map_err(|_| Failure::query("with", "this is no id of a run"))?;
    json(200, &run_look::compare(&api, &caller, run_id(&id)?, other).await?)
}

async fn tree(caller: Viewer, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    json(200, &run::tree(&api, &caller, run_id(&id)?).await?)
}

async fn events(caller: Viewer, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    let run = run_id(&id)?;
    run::head(&api, &caller, run).await?;
    Ok(stream::run(&api, &caller, run)?.into_response())
}

async fn signal(
    caller: Submitter,
    State(api): State<Api>,
    Path((id, kind)): Path<(String, String)>,
    JsonBody(bytes): JsonBody,
) -> Reply {
    let body: rest::SignalRun = body::parse_or_default(&bytes)?;
    let head = run::signal(&api, &caller, run_id(&id)?, &kind, body).await?;
    answer(&api, &caller, &head).await
}

async fn promise(
    completer: Completer,
    State(api): State<Api>,
    Path((id, name)): Path<(String, String)>,
    JsonBody(bytes): JsonBody,
) -> Reply {
    let body: rest::CompletePromise = body::parse_or_default(&bytes)?;
    match completer {
        Completer::Holder(holder) => promise::by_token(&api, &holder, body).await.map(|()| no_content()),
        Completer::Caller(caller) => {
            let head = promise::by_name(&api, &caller, run_id(&id)?, &name, body).await?;
            answer(&api, &caller, &head).await
        }
    }
}

async fn graph(caller: Viewer, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    let graph = run_graph::graph(&api, &caller, run_id(&id)?).await?;
    match params.get("format") {
        None | Some("json") => json(200, &graph.shown()),
        Some("mermaid") => Ok(bytes_of(200, "text/plain; charset=utf-8", graph.mermaid().into())),
        Some(_) => Err(Failure::query("format", "the format is json or mermaid")),
    }
}

async fn answer(api: &Api, caller: &Principal, head: &Head) -> Reply {
    let response = json(200, &run::shown(api, caller, head).await?)?;
    Ok(with_header(response, header::ETAG, &etag(head)))
}

async fn move_one(
    caller: Operator,
    State(api): State<Api>,
    Path(id): Path<String>,
    JsonBody(bytes): JsonBody,
) -> Reply {
    let head = moving::by_hand(&api, &caller, run_id(&id)?, &body::parse(&bytes)?).await?;
    answer(&api, &caller, &head).await
}

async fn accept(caller: Operator, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    let head = run::act(&api, &caller, run_id(&id)?, RunAction::Accept(caller.name.clone())).await?;
    answer(&api, &caller, &head).await
}

async fn reset(caller: Operator, State(api): State<Api>, Path(id): Path<String>, JsonBody(bytes): JsonBody) -> Reply {
    let body: rest::ResetRun = body::parse(&bytes)?;
    let given_up = if body.undo { GivenUp::Undone } else { GivenUp::Kept };
    let (key, input) = run::go_back(&api, &caller, rest::GoBack { key: body.key, input: body.input }).await?;
    let head = run::act(&api, &caller, run_id(&id)?, RunAction::Reset(key, input, given_up)).await?;
    answer(&api, &caller, &head).await
}

async fn fork(caller: Operator, State(api): State<Api>, Path(id): Path<String>, JsonBody(bytes): JsonBody) -> Reply {
    let (key, input) = run::go_back(&api, &caller, body::parse(&bytes)?).await?;
    let head = run::act(&api, &caller, run_id(&id)?, RunAction::Fork(key, input)).await?;
    let response = json(201, &run::shown(&api, &caller, &head).await?)?;
    Ok(with_header(response, header::LOCATION, &format!("/api/v1/runs/{}", run_text(head.identity.run))))
}
