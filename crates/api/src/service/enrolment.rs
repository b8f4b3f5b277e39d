//! Enrolment: an agent exchanges a join token for a credential of its own.
//!
//! Protocol. A join token is a token record with the role `join`. Its use is one write of that record over the version that
//! was read: role `worker`, and in place of the join token's hash that of a secret which the agent has drawn, or the
//! fingerprint of its certificate. So it is used once, durably, and of two at once one wins. The agent draws its secret
//! before the call, which makes the call repeatable: the same secret again is answered again.

use tidewheel_engine::effect::Refusal;
use tidewheel_engine::id::{Name, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use sha2::{Digest, Sha256};

use super::{records, spec, token};
use crate::auth::Principal;
use crate::auth::token::{StoredEnrolment, StoredToken, TOKEN_TENANT, draw_join, hash_of};
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::text::{check_name, is_name};
use crate::units::{duration_ms, time_text};

/// Life of a join token that names none, and the longest, in milliseconds: it is typed or put into an image soon after.
const LIFE_MS: u64 = 3_600_000;
const MAX_LIFE_MS: u64 = 30 * 24 * 3_600_000;
/// Join tokens of one tenant that are neither used nor expired. Each is in memory.
const MAX_OPEN: usize = 1_000;
/// Queues an enrolment may name.
const MAX_QUEUES: usize = 100;
/// Bytes of a signing request; one with a large RSA key has about 2 KiB.
const MAX_CSR: usize = 8 << 10;
/// A change of a key is tried so often when its record changes at the same time.
const ROTATIONS: usize = 3;
/// The label that says which group a worker belongs to.
pub(crate) const GROUP: &str = "group";

/// Makes a join token. The answer is the only place where it ever stands.
pub(crate) async fn create(
    api: &Api,
    caller: &Principal,
    wanted: &rest::CreateEnrolment,
) -> Result<rest::Enrolment, Failure> {
    check_name("enrolment", "/name", &wanted.name)?;
    if wanted.system && !caller.system {
        return Err(Failure::new(Code::NotAllowed, "Only a system admin may enrol agents that serve every tenant."));
    }
    if wanted.queues.len() > MAX_QUEUES {
        return Err(Failure::field("/queues", format!("an agent is bound to at most {MAX_QUEUES} queues")));
    }
    if let Some(index) = wanted.queues.iter().position(|q| !is_name(q)) {
        let why = "a queue name has letters, digits, '.', '_' or '-'";
        return Err(Failure::field(format!("/queues/{index}"), why));
    }
    spec::labels(&wanted.labels)?;
    if let Some(group) = &wanted.group {
        check_name("group", "/group", group)
            .map_err(|_| Failure::field("/group", "a group has letters, digits, '.', '_' or '-'"))?;
    }
    let life = wanted.expires_in.as_ref().map(duration_ms).transpose();
    let life = life.map_err(|detail| Failure::field("/expires_in", detail))?.unwrap_or(LIFE_MS);
    if life == 0 || life > MAX_LIFE_MS {
        return Err(Failure::field(
            "/expires_in",
            "a join token lives at most 30 days, and longer than no time at all",
        ));
    }
    make_room(api, caller).await?;
    let now = api.runtime.now_ms();
    let new = draw_join(now)?;
    let stored = StoredToken {
        name: wanted.name.clone(),
        role: "join".to_owned(),
        tenant: caller.tenant.0,
        system: wanted.system,
        hash: new.hash,
        created: now,
        expires: Some(now + life),
        enrolment: Some(StoredEnrolment {
            queues: wanted.queues.clone(),
            labels: wanted.labels.clone(),
            group: wanted.group.clone(),
            by: caller.name.to_string(),
            ..StoredEnrolment::default()
        }),
    };
    records::put(api, RecordKind::Token, TOKEN_TENANT, &new.id, &stored, Some(0)).await?.map_err(from_refusal)?;
    let mut shown =
        shown(api, caller, &new.id, &stored).ok_or_else(|| Failure::internal("an enrolment has no data"))?;
    shown.secret = Some(new.text);
    Ok(shown)
}

/// Deletes the tenant's join tokens that expired unused, and refuses another one above the bound of open ones. A token that
/// was used is its agent's credential and stays.
async fn make_room(api: &Api, caller: &Principal) -> Result<(), Failure> {
    let now = api.runtime.now_ms();
    let unused = token::of_tenant(api, caller).into_iter().filter(|(_, stored)| stored.role == "join");
    let (expired, open): (Vec<_>, Vec<_>) = unused.partition(|(_, stored)| stored.expires.is_some_and(|at| now >= at));
    let deletes = expired.iter().map(|(id, _)| records::delete(api, RecordKind::Token, TOKEN_TENANT, id));
    for deleted in futures::future::join_all(deletes).await {
        match deleted {
            // Another call deletes them, too.
            Err(failure) if failure.code() == Code::NotFound => {}
            other => other?,
        }
    }
    if open.len() >= MAX_OPEN {
        let detail = format!(
            "There are {MAX_OPEN} join tokens that wait to be used, the most that a tenant may have. Revoke some, or give them a \
             shorter life with expires_in."
        );
        return Err(Failure::new(Code::Conflict, detail));
    }
    Ok(())
}

/// Join tokens and agents that used one, of the caller's tenant, newest first.
pub(crate) fn list(api: &Api, caller: &Principal) -> Vec<rest::Enrolment> {
    let mut all = token::of_tenant(api, caller);
    all.sort_by(|(a, _), (b, _)| b.cmp(a));
    all.iter().filter_map(|(id, stored)| shown(api, caller, id, stored)).collect()
}

pub(crate) fn get(api: &Api, caller: &Principal, id: &str) -> Result<rest::Enrolment, Failure> {
    let found = token::of_tenant(api, caller).into_iter().find(|(key, _)| key == id);
    found.and_then(|(key, stored)| shown(api, caller, &key, &stored)).ok_or_else(|| Failure::not_found("enrolment", id))
}

/// Takes a join token back, or cuts off the agent that used it: refused from the commit on, streams end within seconds.
pub(crate) async fn revoke(api: &Api, caller: &Principal, id: &str) -> Result<(), Failure> {
    get(api, caller, id)?;
    token::revoke(api, caller, id).await
}

/// Exchanges a join token. The caller is its holder.
pub(crate) async fn redeem(api: &Api, caller: &Principal, wanted: &rest::Redeem) -> Result<rest::Enrolled, Failure> {
    let (mut stored, version) = read(api, caller)?;
    let redeemed = hash_of(&secret(wanted)?);
    let agent = wanted.name.clone().unwrap_or_else(|| stored.name.clone());
    if agent.is_empty() || agent.len() > 200 || agent.chars().any(char::is_control) {
        return Err(Failure::field("/name", "an agent's name has 1 to 200 bytes without control characters"));
    }
    if wanted.name.is_some() {
        free_name(api, caller, &stored, &agent)?;
    }
    let mut enrolment = stored.enrolment.take().ok_or_else(|| Failure::internal("a join token has no data"))?;
    if enrolment.at.is_some() && enrolment.redeemed != redeemed {
        return Err(used(&enrolment));
    }
    // The answer of the first call was lost: the same again, with a certificate for the key it has now.
    enrolment.at.get_or_insert(api.runtime.now_ms());
    if enrolment.joined.is_empty() {
        enrolment.joined = std::mem::take(&mut stored.hash);
    }
    enrolment.agent = Some(agent);
    enrolment.redeemed = redeemed.clone();
    enrolment.previous.clear();
    stored.role = "worker".to_owned();
    stored.expires = None;
    give(api, caller, (stored, enrolment, version), redeemed, wanted).await
}

/// Gives an agent that enrolled itself a new key. The old one, by which it asks, is taken until the new one is first used: the
/// answer may be lost on its way, and then it asks again.
pub(crate) async fn rotate(api: &Api, caller: &Principal, wanted: &rest::Redeem) -> Result<rest::Enrolled, Failure> {
    for _ in 1..ROTATIONS {
        match rotate_once(api, caller, wanted).await {
            // The key before this one is settled at the same time.
            Err(failure) if failure.code() == Code::Conflict && caller.enrolment.is_some() => {}
            other => return other,
        }
    }
    rotate_once(api, caller, wanted).await
}

async fn rotate_once(api: &Api, caller: &Principal, wanted: &rest::Redeem) -> Result<rest::Enrolled, Failure> {
    let (mut stored, version) = read(api, caller)?;
    let hash = hash_of(&secret(wanted)?);
    let Some(mut enrolment) = stored.enrolment.take() else {
        return Err(Failure::new(
            Code::Conflict,
            "This token was made by an admin, not by an enrolment; replace it with 'tidewheel token create'.",
        ));
    };
    enrolment.redeemed.clear();
    enrolment.previous = caller.key.to_string();
    enrolment.rotated = Some(api.runtime.now_ms());
    give(api, caller, (stored, enrolment, version), hash, wanted).await
}

/// Writes the new credential over the version that was read, and says what it is.
async fn give(
    api: &Api,
    caller: &Principal,
    (mut stored, mut enrolment, version): (StoredToken, StoredEnrolment, u64),
    hash: String,
    wanted: &rest::Redeem,
) -> Result<rest::Enrolled, Failure> {
    let id = &*caller.token_id;
    let signed = match (&api.config.authority, &wanted.csr) {
        (Some(authority), Some(csr)) if csr.len() <= MAX_CSR => {
            let signed = (authority.0)(csr, id);
            Some(signed.map_err(|why| Failure::field("/csr", format!("the signing request is not usable: {why}")))?)
        }
        (_, Some(csr)) if csr.len() > MAX_CSR => {
            return Err(Failure::field("/csr", format!("a signing request has at most {MAX_CSR} bytes")));
        }
        _ => None,
    };
    enrolment.certificate = signed.as_ref().map(|signed| hex::encode(Sha256::digest(&signed.der)));
    stored.hash = if signed.is_some() { String::new() } else { hash };
    let answer = rest::Enrolled {
        id: id.to_owned(),
        name: enrolment.agent.clone().unwrap_or_else(|| stored.name.clone()),
        tenant: caller.tenant_name.to_string(),
        queues: enrolment.queues.clone(),
        labels: enrolment.labels.clone(),
        group: enrolment.group.clone(),
        credential: if signed.is_some() { "certificate" } else { "token" }.to_owned(),
        certificate_expires_at: signed.as_ref().map(|signed| time_text(signed.not_after_ms)),
        certificate: signed.map(|signed| signed.pem),
    };
    stored.enrolment = Some(enrolment);
    match records::put(api, RecordKind::Token, TOKEN_TENANT, id, &stored, Some(version)).await? {
        Ok(_) => Ok(answer),
        // Another one was quicker by one commit, or it was revoked.
        Err(Refusal::Version { current: 0 }) => Err(crate::auth::unauthenticated(api, "The token was revoked.")),
        Err(Refusal::Version { .. }) => {
            let (stored, _) = read(api, caller)?;
            Err(used(&stored.enrolment.unwrap_or_default()))
        }
        Err(other) => Err(from_refusal(other)),
    }
}

fn used(enrolment: &StoredEnrolment) -> Failure {
    let at = enrolment.at.map(time_text).unwrap_or_default();
    let agent = enrolment.agent.as_deref().unwrap_or_default();
    let detail = format!(
        "The join token was used at {at} by the agent '{agent}'; each enrols one agent. Make another one with \
         'tidewheel agent enroll-token NAME'."
    );
    Failure::new(Code::Conflict, detail)
}

fn secret(wanted: &rest::Redeem) -> Result<[u8; 32], Failure> {
    let why = "a secret is 32 random bytes as 52 characters of 0-9 a-z without i, l, o, u";
    tidewheel_proto::token::decode(&wanted.secret).ok_or_else(|| Failure::field("/secret", why))
}

fn read(api: &Api, caller: &Principal) -> Result<(StoredToken, u64), Failure> {
    let record = api.runtime.directory().record(RecordKind::Token, TOKEN_TENANT, &caller.token_id);
    let record = record.ok_or_else(|| crate::auth::unauthenticated(api, "The token was revoked."))?;
    let stored = serde_json::from_str(&record.value);
    Ok((stored.map_err(|_| Failure::internal("a stored token cannot be read"))?, record.version))
}

fn shown(api: &Api, caller: &Principal, id: &str, stored: &StoredToken) -> Option<rest::Enrolment> {
    let enrolment = stored.enrolment.as_ref()?;
    let over = stored.expires.is_some_and(|at| api.runtime.now_ms() >= at);
    let state = match (enrolment.at, over) {
        (Some(_), _) => "enrolled",
        (None, true) => "expired",
        (None, false) => "open",
    };
    Some(rest::Enrolment {
        id: id.to_owned(),
        name: stored.name.clone(),
        state: state.to_owned(),
        tenant: caller.tenant_name.to_string(),
        system: stored.system,
        queues: enrolment.queues.clone(),
        labels: enrolment.labels.clone(),
        group: enrolment.group.clone(),
        created_by: enrolment.by.clone(),
        created_at: time_text(stored.created),
        expires_at: stored.expires.map(time_text),
        enrolled_at: enrolment.at.map(time_text),
        agent: enrolment.agent.clone(),
        credential: enrolment
            .at
            .map(|_| if enrolment.certificate.is_some() { "certificate" } else { "token" }.to_owned()),
        rotated_at: enrolment.rotated.map(time_text),
        secret: None,
    })
}

/// Holds an agent to what its join token says: queues it may serve, labels and group it has. The reason is shown to it.
pub(crate) fn bind(bound: &StoredEnrolment, hello: &mut tidewheel_engine::command::Hello) -> Result<(), String> {
    if !bound.queues.is_empty() {
        if let Some(queue) = hello.queues.iter().find(|q| !bound.queues.iter().any(|b| **b == ***q)) {
            let may = bound.queues.join(", ");
            return Err(format!("this agent was enrolled for the queues {may} and may not serve '{queue}'"));
        }
        if hello.queues.is_empty() {
            hello.queues = bound.queues.iter().map(|q| Name::from(q.as_str())).collect();
        }
    }
    let group = bound.group.as_deref().map(|group| (GROUP, group));
    for (name, value) in bound.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).chain(group) {
        hello.labels.retain(|(k, _)| **k != *name);
        hello.labels.push((name.into(), value.into()));
    }
    hello.labels.sort();
    Ok(())
}

/// An agent that enrolled itself may not come under the name of another one of its scope (`tenant`; `None` = every tenant).
/// Names that no other enrolment has are free. The reason is shown to the agent.
pub(crate) fn check_agent(api: &Api, caller: &Principal, tenant: Option<TenantId>, name: &str) -> Result<(), String> {
    let Some(own) = &caller.enrolment else { return Ok(()) };
    // The usual case: nobody else is looked at.
    if *caller.name == *name || own.agent.as_deref() == Some(name) {
        return Ok(());
    }
    if is_taken(api, caller, tenant, name) {
        let own = own.agent.as_deref().unwrap_or(&caller.name);
        return Err(format!(
            "the name '{name}' is that of another enrolled agent; this one was enrolled as '{own}': connect under that name or \
             another that is free, or have the other enrolment revoked"
        ));
    }
    Ok(())
}

/// A join token is not used under the name of another agent, with which it would compete for the name. The name that whoever
/// made the token gave it is always free to it.
fn free_name(api: &Api, caller: &Principal, stored: &StoredToken, name: &str) -> Result<(), Failure> {
    let scope = (!stored.system).then_some(TenantId(stored.tenant));
    if stored.name == name || !is_taken(api, caller, scope, name) {
        return Ok(());
    }
    let why = format!(
        "the name '{name}' is that of another enrolled agent: enrol under one that is free (that of the join token is \
         '{}'), or have the other enrolment revoked with 'tidewheel token revoke'",
        stored.name
    );
    Err(Failure::field("/name", why))
}

/// Whether another enrolment of a scope has a name.
fn is_taken(api: &Api, caller: &Principal, tenant: Option<TenantId>, name: &str) -> bool {
    let quoted = serde_json::to_string(name).unwrap_or_default();
    let all = api.runtime.directory().records(RecordKind::Token, TOKEN_TENANT);
    // Most records are not worth reading: the name does not stand in them.
    let others = all.iter().filter(|r| *r.key != *caller.token_id && r.value.contains(&quoted));
    let holds = |stored: &StoredToken| {
        let scope = (!stored.system).then_some(TenantId(stored.tenant));
        let enrolled = stored.enrolment.as_ref().filter(|e| e.at.is_some());
        scope == tenant && enrolled.is_some_and(|e| stored.name == name || e.agent.as_deref() == Some(name))
    };
    others.filter_map(|r| serde_json::from_str::<StoredToken>(&r.value).ok()).any(|stored| holds(&stored))
}

/// Refuses a queue that an enrolled agent is not bound to, for calls beside its stream.
pub(crate) fn check_queue(caller: &Principal, queue: &str) -> Result<(), Failure> {
    let Some(bound) = caller.enrolment.as_ref().filter(|bound| !bound.queues.is_empty()) else { return Ok(()) };
    if bound.queues.iter().any(|own| own == queue) {
        return Ok(());
    }
    let may = bound.queues.join(", ");
    let detail = format!("This agent was enrolled for the queues {may} and may not take or settle items of '{queue}'.");
    Err(Failure::new(Code::NotAllowed, detail))
}

/// Groups of the workers that the caller sees, by name. Workers without the label belong to none.
pub(crate) async fn groups(api: &Api, caller: &Principal) -> Result<Vec<rest::Group>, Failure> {
    let mut groups: Vec<rest::Group> = Vec::new();
    for worker in super::worker::list(api, caller).await? {
        let Some(name) = worker.labels.get(GROUP) else { continue };
        let at = groups.iter().position(|g| g.name == *name).unwrap_or_else(|| {
            let labels = worker.labels.clone();
            groups.push(rest::Group { name: name.clone(), labels, ..rest::Group::default() });
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.workers += 1;
        group.used += u64::from(worker.used);
        group.labels.retain(|k, v| worker.labels.get(k) == Some(v));
        let every = ["*".to_owned()];
        for queue in if worker.queues.is_empty() { &every } else { &worker.queues[..] } {
            if !group.queues.contains(queue) {
                group.queues.push(queue.clone());
            }
        }
        if matches!(worker.state.as_str(), "online" | "silent") {
            group.online += u32::from(worker.state == "online");
            group.permits += u64::from(worker.permits);
            group.cpu += worker.cpu;
            group.memory_bytes += worker.memory_bytes;
        }
    }
    groups.iter_mut().for_each(|g| g.queues.sort());
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(groups)
}
