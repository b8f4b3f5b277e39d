//! Queues: settings, state, live figures.

use std::sync::Arc;

use tidewheel_engine::Command;
use tidewheel_engine::config::{Queue, QueueConfig, QueueState};
use tidewheel_engine::effect::{Refusal, Reply};
use tidewheel_engine::id::Name;
use tidewheel_engine::task::State;
use tidewheel_engine::view::{Answer, QueueFigures, View};
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::queue_settings::{apply, shown_settings};
use super::routing;
use crate::auth::Principal;
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::text::{check_name, nearest};

/// A queue of the caller's tenant, or a 404 that proposes the nearest name.
pub(crate) fn find(api: &Api, caller: &Principal, name: &str) -> Result<Arc<Queue>, Failure> {
    let directory = api.runtime.directory();
    if let Some(queue) = directory.queue(caller.tenant, name).filter(|q| !q.deleted) {
        return Ok(queue);
    }
    let queues = directory.queues(caller.tenant);
    let near = nearest(name, queues.iter().filter(|q| !q.deleted).map(|q| &*q.name));
    let hint = near.map(|near| format!(" Did you mean '{near}'?")).unwrap_or_default();
    let shown: String = name.chars().take(80).collect();
    Err(Failure::new(Code::UnknownQueue, format!("There is no queue '{shown}' in this tenant.{hint}")))
}

pub(crate) fn shown(queue: &Queue) -> rest::Queue {
    rest::Queue {
        name: queue.name.to_string(),
        state: state_text(queue.state).to_owned(),
        version: queue.version,
        settings: shown_settings(&queue.config),
    }
}

pub(crate) fn etag(queue: &Queue) -> String {
    format!("\"{}\"", queue.version)
}

/// What [`state_text`] gives.
pub(crate) const STATES: &[&str] = &["active", "paused", "draining"];

pub(crate) fn state_text(state: QueueState) -> &'static str {
    match state {
        QueueState::Active => "active",
        QueueState::Paused => "paused",
        QueueState::Draining => "draining",
    }
}

/// How settings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// Absent settings take their default; the queue is created if it does not exist.
    Put,
    /// Absent settings stay.
    Patch,
}

/// Creates or changes a queue; true = it is new.
pub(crate) async fn put(
    api: &Api,
    caller: &Principal,
    name: &str,
    settings: &rest::QueueSettings,
    write: Write,
    if_match: Option<&str>,
) -> Result<(Arc<Queue>, bool), Failure> {
    check_name("queue", "name", name)?;
    let existing = api.runtime.directory().queue(caller.tenant, name).filter(|q| !q.deleted);
    if write == Write::Patch && existing.is_none() {
        find(api, caller, name)?;
    }
    let mut config = match (&existing, write) {
        (Some(queue), Write::Patch) => queue.config.clone(),
        _ => QueueConfig::default(),
    };
    apply(&mut config, settings, "")?;
    let expected = expected_version("queue", if_match, existing.as_ref().map(|q| q.version))?;
    // A patch without If-Match is still a read-modify-write: it must not undo a change made in between.
    let expected = expected.or(if write == Write::Patch { existing.as_ref().map(|q| q.version) } else { None });
    let is_new = existing.is_none();
    let queue = send(api, caller, name, Some(Box::new(config)), None, expected).await?;
    Ok((queue, is_new))
}

/// The version that `If-Match` asks for.
pub(crate) fn expected_version(
    what: &str,
    if_match: Option<&str>,
    current: Option<u64>,
) -> Result<Option<u64>, Failure> {
    let Some(text) = if_match else { return Ok(None) };
    if text.trim() == "*" {
        return match current {
            Some(_) => Ok(None),
            None => Err(Failure::new(
                Code::PreconditionFailed,
                format!("If-Match: * asks for a {what} that exists; it does not."),
            )),
        };
    }
    let version = text.trim().trim_matches('"').parse::<u64>();
    version
        .map(Some)
        .map_err(|_| Failure::new(Code::PreconditionFailed, format!("If-Match names no version of this {what}.")))
}

/// Pauses, resumes or drains a queue. Answers after every partition applied it.
pub(crate) async fn set_state(
    api: &Api,
    caller: &Principal,
    name: &str,
    state: QueueState,
) -> Result<Arc<Queue>, Failure> {
    find(api, caller, name)?;
    send(api, caller, name, None, Some(state), None).await
}

async fn send(
    api: &Api,
    caller: &Principal,
    name: &str,
    config: Option<Box<QueueConfig>>,
    state: Option<QueueState>,
    expected: Option<u64>,
) -> Result<Arc<Queue>, Failure> {
    let tenant = caller.tenant;
    let name: Name = name.into();
    let reply =
        api.runtime.call(move |request| Command::PutQueue { request, tenant, name, config, state, expected }).await?;
    match reply {
        Reply::Queue(queue) => Ok(queue),
        Reply::Refused(refusal) => Err(from_refusal(refusal)),
        _ => Err(Failure::internal("a queue was answered with something else")),
    }
}

/// Creates a queue unless it exists.
pub(crate) async fn ensure(api: &Api, caller: &Principal, name: &str, config: QueueConfig) -> Result<(), Failure> {
    if api.runtime.directory().queue(caller.tenant, name).is_some_and(|q| !q.deleted) {
        return Ok(());
    }
    check_name("queue", "/queue", name)?;
    match send(api, caller, name, Some(Box::new(config)), None, Some(0)).await {
        // Somebody else made it in this moment: that is all that was wanted.
        Err(failure) if failure.code() == Code::PreconditionFailed => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Deletes an empty queue.
pub(crate) async fn delete(api: &Api, caller: &Principal, name: &str, if_match: Option<&str>) -> Result<(), Failure> {
    let current = find(api, caller, name)?.version;
    let expected = expected_version("queue", if_match, Some(current))?;
    let tenant = caller.tenant;
    if let Some(rule) = routing::rule_to(api, tenant, name) {
        let detail = format!("The routing rule '{rule}' sends tasks to this queue; take the rule away first.");
        return Err(Failure::new(Code::Conflict, detail));
    }
    let name: Name = name.into();
    let reply = api.runtime.call(move |request| Command::DeleteQueue { request, tenant, name, expected }).await?;
    match reply {
        Reply::Refused(Refusal::NotFound) => {
            Err(Failure::new(Code::UnknownQueue, "There is no such queue in this tenant."))
        }
        Reply::Refused(refusal) => Err(from_refusal(refusal)),
        _ => Ok(()),
    }
}

/// Live figures of one queue.
pub(crate) async fn stats(api: &Api, caller: &Principal, name: &str) -> Result<rest::QueueStats, Failure> {
    let queue = find(api, caller, name)?;
    let view = View::Queues { tenant: caller.tenant, name: Some(queue.name.clone()) };
    match api.runtime.read(view).await? {
        Answer::Queues(figures) => {
            let found = figures.into_iter().find(|f| f.name == queue.name);
            let found = found.ok_or_else(|| Failure::not_found("queue", name))?;
            Ok(figures_of(&found, queue.state, api.runtime.now_ms()))
        }
        _ => Err(Failure::not_found("queue", name)),
    }
}

/// Live figures of every queue of the tenant.
pub(crate) async fn all_stats(api: &Api, caller: &Principal) -> Result<Vec<rest::QueueStats>, Failure> {
    let directory = api.runtime.directory();
    let now = api.runtime.now_ms();
    let answer = api.runtime.read(View::Queues { tenant: caller.tenant, name: None }).await?;
    let Answer::Queues(figures) = answer else { return Ok(Vec::new()) };
    let mut out: Vec<_> = figures
        .iter()
        .filter_map(|f| {
            let queue = directory.queue(caller.tenant, &f.name).filter(|q| !q.deleted)?;
            Some(figures_of(f, queue.state, now))
        })
        .collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn figures_of(figures: &QueueFigures, state: QueueState, now: u64) -> rest::QueueStats {
    let count = |state: State| figures.counts[state as usize];
    let depth = count(State::Queued);
    let running = count(State::Running);
    let oldest = if figures.oldest == 0 { 0 } else { now.saturating_sub(figures.oldest) };
    rest::QueueStats {
        name: figures.name.to_string(),
        state: state_text(state).to_owned(),
        depth,
        scheduled: count(State::Scheduled),
        running,
        dead: count(State::Dead),
        oldest_wait_seconds: oldest as f64 / 1_000.0,
        in_per_s: figures.in_per_s,
        out_per_s: figures.out_per_s,
        workers: figures.workers,
        desired_permits: desired_permits(running, depth, figures.in_per_s, figures.out_per_s),
        pressure: figures.pressure.as_str().to_owned(),
    }
}

/// Permits at which as much leaves as comes in, plus what clears the backlog within a minute. By Little's law the
/// running attempts divided by the rate at which they end is the time that one takes.
pub(crate) fn desired_permits(running: u64, depth: u64, in_per_s: f64, out_per_s: f64) -> u64 {
    const CLEAR_WITHIN_S: f64 = 60.0;
    if running == 0 && depth == 0 {
        return 0;
    }
    if out_per_s <= 0.01 || running == 0 {
        // Nothing has ended yet, so nothing is known of the time one takes: one permit per waiting task, within reason.
        return running + depth.min(100);
    }
    let seconds_each = running as f64 / out_per_s;
    let wanted = (in_per_s + depth as f64 / CLEAR_WITHIN_S) * seconds_each;
    (wanted.ceil() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn desired_permits_follow_the_load() {
        assert_eq!(desired_permits(0, 0, 0.0, 0.0), 0);
        assert_eq!(desired_permits(0, 7, 0.0, 0.0), 7);
        assert_eq!(desired_permits(0, 1_000_000, 0.0, 0.0), 100);
        // Ten running end at 10/s, so each takes a second; 20/s come in: twenty are needed.
        assert_eq!(desired_permits(10, 0, 20.0, 10.0), 20);
        // A backlog of 600 adds 10/s for a minute.
        assert_eq!(desired_permits(10, 600, 20.0, 10.0), 30);
    }
}
