//! Reading one task: the record, its attempts, its files, why it is not running.

use tidewheel_engine::id::TaskId;
use tidewheel_engine::task::{State, Task};
use tidewheel_engine::view::{Answer, View};
use tidewheel_proto::code::Code;
use tidewheel_proto::{id, rest};

use super::{convert, package};
use crate::auth::Principal;
use crate::problem::Failure;
use crate::state::Api;
use crate::text::{hash_text, task_text};
use crate::units::time_text;

/// The committed record.
pub(crate) async fn record(api: &Api, caller: &Principal, task: TaskId) -> Result<Task, Failure> {
    let tenant = caller.tenant;
    let found = api.read_store(move |store| store.task(tenant, task)).await?;
    found.ok_or_else(|| Failure::not_found("task", &task_text(task)))
}

/// The task as it is shown, with what its worker last reported.
pub(crate) async fn shown(api: &Api, caller: &Principal, task: &Task) -> Result<rest::Task, Failure> {
    let mut out = convert::task(&api.runtime.directory(), task, true);
    if let Some(hash) = &task.spec.package {
        out.package_version = package::version_of(api, caller, hash);
    }
    if task.state == State::Running {
        let view = View::Progress { tenant: caller.tenant, task: task.id };
        if let Answer::Progress(Some((fraction, text))) = api.runtime.read(view).await? {
            out.progress = Some(rest::Progress { fraction, text: text.to_string() });
        }
    }
    Ok(out)
}

/// Every attempt, oldest first, the current one included.
pub(crate) async fn attempts(api: &Api, caller: &Principal, task: TaskId) -> Result<Vec<rest::Attempt>, Failure> {
    let tenant = caller.tenant;
    let found = record(api, caller, task).await?;
    let ended = api.read_store(move |store| store.attempts(tenant, task)).await?;
    let directory = api.runtime.directory();
    let mut out: Vec<_> = ended.iter().map(|a| convert::attempt(&directory, a)).collect();
    out.extend(convert::last_attempt(&directory, &found));
    Ok(out)
}

/// Files of the last attempt that ended.
pub(crate) async fn artifacts(api: &Api, caller: &Principal, task: TaskId) -> Result<Vec<rest::Artifact>, Failure> {
    let found = record(api, caller, task).await?;
    let Some(ending) = &found.ending else { return Ok(Vec::new()) };
    let one = |(index, a): (usize, &tidewheel_engine::task::Artifact)| rest::Artifact {
        id: artifact_text(task, found.attempt, index),
        name: a.name.to_string(),
        hash: hash_text(&a.hash),
        size: a.size,
        content_type: a.content_type.to_string(),
        attempt: found.attempt,
    };
    Ok(ending.artifacts.iter().enumerate().map(one).collect())
}

/// `art_<task>-<attempt>-<number>`: an artefact has no record of its own, it stands in its task's.
fn artifact_text(task: TaskId, attempt: u32, index: usize) -> String {
    format!("{}-{attempt}-{index}", id::format("art", task.0))
}

/// The file of this id.
pub(crate) async fn artifact(api: &Api, caller: &Principal, wanted: &str) -> Result<rest::Artifact, Failure> {
    let missing = || Failure::not_found("artifact", wanted);
    let mut places = wanted.splitn(2, '-');
    let task = places.next().and_then(|text| id::parse("art", text)).map(TaskId).ok_or_else(missing)?;
    // One that belongs to an earlier attempt is no longer there: a retry has files of its own.
    let found = artifacts(api, caller, task).await.map_err(|failure| match failure.code() {
        Code::NotFound => missing(),
        _ => failure,
    })?;
    found.into_iter().find(|artifact| artifact.id == wanted).ok_or_else(missing)
}

/// Why it is not running, computed now.
pub(crate) async fn why(api: &Api, caller: &Principal, task: TaskId) -> Result<rest::Why, Failure> {
    let found = record(api, caller, task).await?;
    let answer = api.runtime.read(View::Why { tenant: caller.tenant, task }).await?;
    let reasons = match answer {
        Answer::Why(reasons) => reasons,
        // Terminal tasks leave the engine's memory; the record says it all.
        _ => Vec::new(),
    };
    let reasons: Vec<_> = reasons
        .into_iter()
        .map(|r| {
            let since = since(&found, r.code).map(time_text);
            let text = match r.task {
                Some(first) => format!("{}: {}", r.text, task_text(first)),
                None => r.text,
            };
            rest::WhyReason { code: r.code.to_owned(), text, since, until: r.until.map(time_text) }
        })
        .collect();
    let mut summary = match reasons.first() {
        Some(first) => first.text.clone(),
        None => summary(&found),
    };
    if let Some(failed) = failed_before(&found) {
        let end = if summary.ends_with('.') { "" } else { "." };
        summary = format!("{summary}{end} {failed}");
    }
    if let Some(rule) = &found.spec.rule
        && !found.state.is_terminal()
    {
        summary.push_str(&format!(" (routed by rule {rule})"));
    }
    Ok(rest::Why { summary, reasons, since: time_text(found.changed) })
}

/// Longest message of a failed attempt that is told on the way.
const TOLD_CHARS: usize = 300;

/// What the attempt before ended with, of a task that is tried again.
fn failed_before(task: &Task) -> Option<String> {
    let failure = task.ending.as_ref().and_then(|e| e.failure.as_ref()).filter(|_| !task.state.is_terminal())?;
    let attempt = if task.state == State::Running { task.attempt.saturating_sub(1) } else { task.attempt };
    let message: String = failure.message.chars().take(TOLD_CHARS).collect();
    Some(format!("Attempt {attempt} ended with {}: {message}", failure.kind))
}

/// Since when a reason has held, for those that come with a change of the task itself. When a queue was paused or a limit
/// reached is written nowhere.
fn since(task: &Task, code: &str) -> Option<u64> {
    matches!(code, "not-due" | "backing-off" | "running" | "waiting" | "ended").then_some(task.changed)
}

fn summary(task: &Task) -> String {
    let error = task.ending.as_ref().and_then(|e| e.failure.as_ref());
    match (task.state, error) {
        (State::Scheduled, _) => format!("It is scheduled for {}.", time_text(task.due.max(task.run_at))),
        (State::Queued, _) => "It is queued and nothing holds it back: a worker will take it next.".to_owned(),
        (State::Running, _) => format!("It is running: attempt {} since {}.", task.attempt, time_text(task.granted)),
        (State::Waiting, _) => "It waits for an answer from outside.".to_owned(),
        (State::Succeeded, _) => "It has succeeded.".to_owned(),
        (state, Some(error)) => format!("It ended as {}: {}: {}", state.as_str(), error.kind, error.message),
        (state, None) => format!("It ended as {}.", state.as_str()),
    }
}
