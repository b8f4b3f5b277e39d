//! A package on its agents: they are told of a new version at once, and fetch it ahead of the first task; an operator may
//! have a version fetched, with an outcome per agent, and have new tasks get it only when the agents are ready.
//!
//! Nothing is polled: what agents say in their heartbeats wakes the operations that wait for it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidewheel_engine::effect::Refusal;
use tidewheel_engine::id::{Name, SessionId, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::operation::{self, Stored};
use super::{package, records};
use crate::auth::Principal;
use crate::problem::{Failure, from_refusal};
use crate::state::{Api, Holder};
use crate::units::duration_ms;

/// Agents that are told at once, and the pause before the next ones: 10,000 agents begin to fetch within 16 seconds, and a
/// hundred within a moment. What a server sends at once is bounded by its network, its memory by one part per agent.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);
/// Time that agents get.
const TIMEOUT_MS: u64 = 300_000;
const MAX_TIMEOUT_MS: u64 = 3_600_000;
/// Progress is written at most so often.
const WRITE_EVERY: Duration = Duration::from_millis(250);
/// Agents that are shown by name; with more, those that are done are only counted.
const SHOWN: usize = 1_000;

/// An operation's part that is about a package.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Job {
    /// `name@version`
    pub(crate) package: String,
    /// Give new tasks this version at the end.
    switch: bool,
    /// ... if so many agents in a hundred have it.
    percent: u8,
    /// Wall time at which it ends.
    deadline: u64,
    #[serde(default)]
    pub(crate) agents: Vec<rest::OperationAgent>,
}

/// Tells the agents that serve a new version, some after the other, beside the caller.
pub(crate) fn announce(api: &Api, tenant: TenantId, package: &rest::Package) {
    let (api, hash, queues) = (api.clone(), bare(package), queues_of(&api.default_queue, package));
    tokio::spawn(async move {
        let missing: Vec<SessionId> = api
            .sessions
            .holders(tenant, &queues, &hash)
            .into_iter()
            .filter(|holder| holder.state.is_none())
            .map(|holder| holder.session)
            .collect();
        tell(&api, tenant, &missing, &hash).await;
    });
}

async fn tell(api: &Api, tenant: TenantId, sessions: &[SessionId], hash: &str) {
    for (index, burst) in sessions.chunks(BURST).enumerate() {
        if index > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        burst.iter().for_each(|session| api.sessions.hint(*session, tenant, hash));
    }
}

fn bare(package: &rest::Package) -> String {
    package.hash.trim_start_matches("sha256:").to_owned()
}

/// Queues whose tasks run this package, as its entries say.
fn queues_of(default: &Name, package: &rest::Package) -> Vec<Name> {
    let named = |entry: &rest::PackageEntry| entry.defaults.get("queue").and_then(|q| q.as_str()).map(Name::from);
    let mut queues: Vec<Name> =
        package.entries.iter().map(|entry| named(entry).unwrap_or_else(|| default.clone())).collect();
    queues.sort();
    queues.dedup();
    queues
}

/// Starts a prefetch, or with `switch` a rollout.
pub(crate) async fn start(
    api: &Api,
    caller: &Principal,
    package: &rest::Package,
    wanted: &rest::RolloutRequest,
    switch: bool,
) -> Result<rest::Operation, Failure> {
    let time = wanted.timeout.as_ref().map(duration_ms).transpose();
    let time = time.map_err(|detail| Failure::field("/timeout", detail))?.unwrap_or(TIMEOUT_MS);
    if time == 0 || time > MAX_TIMEOUT_MS {
        return Err(Failure::field("/timeout", "agents get at most an hour, and longer than no time at all"));
    }
    let percent = wanted.percent.unwrap_or(100);
    if percent > 100 {
        return Err(Failure::field("/percent", "a share is 0 to 100"));
    }
    if wanted.percent.is_some() && !switch {
        return Err(Failure::field("/percent", "a prefetch changes nothing, so that no share is needed"));
    }
    if switch && package.state != "active" {
        let detail =
            format!("{} {} is {}; upload it under a new version.", package.name, package.version, package.state);
        return Err(Failure::new(Code::Conflict, detail));
    }
    let created = api.runtime.now_ms();
    let job = Job {
        package: package::key_of(&package.name, &package.version),
        switch,
        percent,
        deadline: created + time,
        agents: Vec::new(),
    };
    let stored = Stored {
        action: if switch { "rollout" } else { "prefetch" }.to_owned(),
        state: "running".to_owned(),
        by: caller.name.to_string(),
        created,
        package: Some(job),
        ..Stored::default()
    };
    operation::begin(api, caller, stored).await
}

/// Works on one until it has ended. After a restart it begins anew: agents that have the package say so at once.
pub(super) async fn work(api: &Api, tenant: TenantId, key: &str) -> Result<(), Failure> {
    let Some((stored, _)) = operation::read(api, tenant, key) else { return Ok(()) };
    let Some(job) = stored.package.clone() else { return Ok(()) };
    let Some(package) = package::of_key(api, tenant, &job.package) else {
        return Err(Failure::internal("an operation is about a package that is not there"));
    };
    let (hash, queues) = (bare(&package), queues_of(&api.default_queue, &package));
    let mut changes = api.sessions.changes();
    let first = api.sessions.holders(tenant, &queues, &hash);
    let missing: Vec<SessionId> = first.iter().filter(|h| !matches!(h.state, Some(None))).map(|h| h.session).collect();
    let mut seen: BTreeMap<Name, rest::OperationAgent> = BTreeMap::new();
    merge(&mut seen, &first, stored.created, api.runtime.now_ms(), true);
    tell(api, tenant, &missing, &hash).await;
    loop {
        let now = api.runtime.now_ms();
        merge(&mut seen, &api.sessions.holders(tenant, &queues, &hash), stored.created, now, false);
        let over = now >= job.deadline;
        let waiting = seen.values().any(|agent| matches!(agent.state.as_str(), "waiting" | "offline"));
        let ended = over || !waiting;
        if ended {
            seen.values_mut().filter(|a| a.state == "waiting").for_each(|a| a.state = "late".to_owned());
        }
        match write(api, tenant, key, &seen, ended).await {
            Ok(goes_on) if ended || !goes_on => return Ok(()),
            Ok(_) => {}
            // Nothing wakes an operation that was left: it would stand as running until the next start.
            Err(failure) if operation::passes(api, &failure) => {
                tokio::time::sleep(operation::RETRY_PAUSE).await;
                continue;
            }
            Err(failure) => return Err(failure),
        }
        let left = Duration::from_millis(job.deadline.saturating_sub(now));
        // Many agents say something at the same time: one write for all.
        tokio::time::sleep(WRITE_EVERY.min(left)).await;
        let _ = tokio::time::timeout(left, changes.changed()).await;
    }
}

/// What the agents say now. One that comes later than the first look is not waited for: it fetches with its first task.
fn merge(seen: &mut BTreeMap<Name, rest::OperationAgent>, now: &[Holder], begun: u64, at: u64, first: bool) {
    if first {
        for holder in now {
            let agent = rest::OperationAgent { agent: holder.name.to_string(), ..rest::OperationAgent::default() };
            seen.insert(holder.name.clone(), rest::OperationAgent { state: "waiting".to_owned(), ..agent });
        }
    }
    for (name, agent) in seen.iter_mut().filter(|(_, agent)| agent.state != "done") {
        let found = now.iter().find(|holder| holder.name == *name);
        let (state, detail) = match found.map(|holder| &holder.state) {
            None => ("offline", ""),
            // An earlier failure is tried again: it was forgotten when the agent was told.
            Some(None) => ("waiting", ""),
            Some(Some(None)) => ("done", ""),
            Some(Some(Some(_))) if first => ("waiting", ""),
            Some(Some(Some(why))) => ("failed", why.as_str()),
        };
        (agent.state, agent.detail) = (state.to_owned(), detail.to_owned());
        if state == "done" {
            agent.after_ms = Some(at.saturating_sub(begun));
        }
    }
}

/// Writes how far it is; at the end, gives new tasks the version if that was asked for and enough agents have it. False =
/// it was cancelled.
async fn write(
    api: &Api,
    tenant: TenantId,
    key: &str,
    seen: &BTreeMap<Name, rest::OperationAgent>,
    ended: bool,
) -> Result<bool, Failure> {
    let Some((mut stored, version)) = operation::read(api, tenant, key) else { return Ok(false) };
    if stored.state != "running" {
        return Ok(false);
    }
    let Some(job) = &mut stored.package else { return Ok(false) };
    let done = seen.values().filter(|agent| agent.state == "done").count();
    let mut agents: Vec<_> = seen.values().cloned().collect();
    if agents.len() > SHOWN {
        agents.retain(|agent| agent.state != "done");
        agents.truncate(SHOWN);
    }
    job.agents = agents;
    let enough = done * 100 >= seen.len() * usize::from(job.percent);
    let (switch, named) = (job.switch, job.package.clone());
    (stored.seen, stored.done) = (seen.len() as u64, done as u64);
    stored.failed = seen.values().filter(|a| matches!(a.state.as_str(), "failed" | "late")).count() as u64;
    if ended {
        stored.detail = match switch {
            true if enough => switch_to(api, tenant, &named).await?,
            true => Some(format!("{done} of {} agents have it.", seen.len())),
            false => None,
        };
        stored.state = if stored.detail.is_some() { "failed" } else { "done" }.to_owned();
        stored.finished = Some(api.runtime.now_ms());
    }
    match records::put(api, RecordKind::Operation, tenant, key, &stored, Some(version)).await? {
        Ok(_) => Ok(true),
        // Cancelled meanwhile.
        Err(Refusal::Version { .. }) => Ok(false),
        Err(other) => Err(from_refusal(other)),
    }
}

/// Gives new tasks the version, before the operation says that it is done: repeated after a crash in between, it changes
/// nothing. Or says why not: agents may take an hour, and an operator takes a version out of use in that time.
async fn switch_to(api: &Api, tenant: TenantId, named: &str) -> Result<Option<String>, Failure> {
    let Some(package) = package::of_key(api, tenant, named) else {
        return Ok(Some(format!("{named} is not there any more.")));
    };
    if package.state != "active" {
        return Ok(Some(format!("{named} is {} by now; upload it under a new version.", package.state)));
    }
    package::register(api, tenant, &package).await?;
    super::program::deployed(api, tenant, "rollout", &package).await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str, state: Option<Option<&str>>) -> Holder {
        let state = state.map(|failed| failed.map(str::to_owned));
        Holder { session: SessionId(1), name: name.into(), state }
    }

    #[test]
    fn each_agent_has_an_outcome_and_latecomers_are_not_waited_for() {
        let mut seen = BTreeMap::new();
        merge(
            &mut seen,
            &[holder("a", None), holder("b", Some(None)), holder("c", None), holder("d", None)],
            0,
            5,
            true,
        );
        let then = [holder("a", Some(None)), holder("c", Some(Some("no room"))), holder("new", None)];
        merge(&mut seen, &then, 0, 9, false);
        let state = |name: &str| seen[&Name::from(name)].state.clone();
        assert_eq!([state("a"), state("b"), state("c"), state("d")], ["done", "done", "failed", "offline"]);
        assert_eq!((seen[&Name::from("a")].after_ms, seen[&Name::from("b")].after_ms), (Some(9), Some(5)));
        assert_eq!(seen.len(), 4);
    }
}
