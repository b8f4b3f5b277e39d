//! API tokens: created and revoked by admins, each for one tenant.

use tidewheel_engine::mutation::{Record, RecordKind};
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::records;
use crate::auth::token::{StoredToken, TOKEN_TENANT, draw};
use crate::auth::{Principal, Role};
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::text::check_name;
use crate::units::{duration_ms, time_text};

/// Creates a token for the caller's tenant. The answer is the only place where its secret ever stands.
pub(crate) async fn create(api: &Api, caller: &Principal, wanted: &rest::CreateToken) -> Result<rest::Token, Failure> {
    check_name("token", "/name", &wanted.name)?;
    let role = Role::parse(&wanted.role)
        .filter(|role| *role != Role::Joiner)
        .ok_or_else(|| Failure::field("/role", "a role is admin, operator, viewer or worker"))?;
    if wanted.system && !caller.system {
        return Err(Failure::new(Code::NotAllowed, "Only a system admin may give system scope."));
    }
    let now = api.runtime.now_ms();
    let life = wanted.expires_in.as_ref().map(duration_ms).transpose();
    let life = life.map_err(|detail| Failure::field("/expires_in", detail))?;
    if life == Some(0) {
        return Err(Failure::field(
            "/expires_in",
            "a token lives longer than no time at all; leave it out for one without an end",
        ));
    }
    let new = draw(now)?;
    let stored = StoredToken {
        name: wanted.name.clone(),
        role: role.as_str().to_owned(),
        tenant: caller.tenant.0,
        system: wanted.system,
        hash: new.hash,
        created: now,
        expires: life.map(|ms| now + ms),
        enrolment: None,
    };
    records::put(api, RecordKind::Token, TOKEN_TENANT, &new.id, &stored, Some(0)).await?.map_err(from_refusal)?;
    let mut shown = shown(caller, &new.id, &stored);
    shown.secret = Some(new.text);
    Ok(shown)
}

/// Tokens of the caller's tenant, newest first.
pub(crate) fn list(api: &Api, caller: &Principal) -> Vec<rest::Token> {
    let mut tokens: Vec<_> = of_tenant(api, caller);
    tokens.sort_by(|(a, _), (b, _)| b.cmp(a));
    tokens.iter().map(|(id, stored)| shown(caller, id, stored)).collect()
}

pub(crate) fn get(api: &Api, caller: &Principal, id: &str) -> Result<rest::Token, Failure> {
    let found = of_tenant(api, caller).into_iter().find(|(key, _)| key == id);
    found.map(|(key, stored)| shown(caller, &key, &stored)).ok_or_else(|| Failure::not_found("token", id))
}

/// Revokes a token; it is refused from the commit on.
pub(crate) async fn revoke(api: &Api, caller: &Principal, id: &str) -> Result<(), Failure> {
    let token = get(api, caller, id)?;
    if token.system && !caller.system {
        return Err(Failure::new(Code::NotAllowed, "Only a system admin may revoke a token with system scope."));
    }
    records::delete(api, RecordKind::Token, TOKEN_TENANT, id).await
}

pub(crate) fn of_tenant(api: &Api, caller: &Principal) -> Vec<(String, StoredToken)> {
    let all = api.runtime.directory().records(RecordKind::Token, TOKEN_TENANT);
    let read = |record: &Record| serde_json::from_str::<StoredToken>(&record.value).ok();
    all.iter()
        .filter_map(|record| Some((record.key.to_string(), read(record)?)))
        .filter(|(_, stored)| stored.tenant == caller.tenant.0)
        .collect()
}

fn shown(caller: &Principal, id: &str, stored: &StoredToken) -> rest::Token {
    rest::Token {
        id: id.to_owned(),
        name: stored.name.clone(),
        role: stored.role.clone(),
        tenant: caller.tenant_name.to_string(),
        system: stored.system,
        created_at: time_text(stored.created),
        expires_at: stored.expires.map(time_text),
        secret: None,
    }
}
