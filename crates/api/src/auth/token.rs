//! API tokens: `tw_<id>_<secret>`. The store keeps the blake3 of the secret only, so a stolen backup opens nothing.
//!
//! A checked token is remembered by the hash of its text together with the version of the directory it was checked
//! against: a revocation raises that version, so it takes effect with its commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tidewheel_engine::id::TenantId;
use tidewheel_engine::mutation::RecordKind;
use tidewheel_proto::token::split;

use super::{Fingerprint, Principal, Proof, Role, unauthenticated};
use crate::problem::Failure;
use crate::service::records;
use crate::state::Api;

/// Tokens live in the system's own tenant: a token id is looked up before any tenant is known.
pub(crate) const TOKEN_TENANT: TenantId = TenantId(0);
/// Checked tokens that are remembered. Beyond, all are forgotten at once: a check costs a few microseconds.
const CACHE_ENTRIES: usize = 10_000;

/// A token as it is stored, as JSON under its id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredToken {
    pub(crate) name: String,
    pub(crate) role: String,
    /// Number of the tenant it speaks for.
    pub(crate) tenant: u32,
    #[serde(default)]
    pub(crate) system: bool,
    /// blake3 of the 32 secret bytes, in hex.
    pub(crate) hash: String,
    /// Wall time.
    pub(crate) created: u64,
    /// Wall time; `None` = no end.
    #[serde(default)]
    pub(crate) expires: Option<u64>,
    /// Of a join token, and of the agent that used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) enrolment: Option<StoredEnrolment>,
}

/// What a join token gives, and what became of it. Its use replaces the token's secret by one of the agent's own, in the
/// same record: one commit that only one of two can win.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredEnrolment {
    /// The only queues; empty = all.
    #[serde(default)]
    pub(crate) queues: Vec<String>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) group: Option<String>,
    /// Name of the token that made it.
    pub(crate) by: String,
    /// Wall time of its use.
    #[serde(default)]
    pub(crate) at: Option<u64>,
    /// Name of the agent.
    #[serde(default)]
    pub(crate) agent: Option<String>,
    /// Hash of the join token's secret, kept after its use: a second one is told what happened.
    #[serde(default)]
    pub(crate) joined: String,
    /// Hash of the secret that the agent drew for the call, so that it may be repeated.
    #[serde(default)]
    pub(crate) redeemed: String,
    /// SHA-256 of the agent's certificate, in hex; then `hash` is empty and no secret is taken.
    #[serde(default)]
    pub(crate) certificate: Option<String>,
    /// Hash or fingerprint of the key before the last change, which is taken until the new one is first used: the answer that
    /// brings the new one may be lost. Empty = none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) previous: String,
    /// Wall time of the last change of its key.
    #[serde(default)]
    pub(crate) rotated: Option<u64>,
}

/// A new token: its id, the text that its owner gets once, and the hash that is stored.
pub(crate) struct NewToken {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) hash: String,
}

/// Draws a token.
pub(crate) fn draw(now_ms: u64) -> Result<NewToken, Failure> {
    draw_as(now_ms, tidewheel_proto::token::text)
}

/// Draws a join token.
pub(crate) fn draw_join(now_ms: u64) -> Result<NewToken, Failure> {
    draw_as(now_ms, tidewheel_proto::token::join_text)
}

fn draw_as(now_ms: u64, text: fn(&str, &[u8; 32]) -> String) -> Result<NewToken, Failure> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(|_| Failure::internal("no random bytes for a token"))?;
    let id = tidewheel_proto::id::format("tok", crate::text::fresh_id(now_ms));
    Ok(NewToken { text: text(&id, &secret), hash: hash_of(&secret), id })
}

/// What is stored of a secret.
pub(crate) fn hash_of(secret: &[u8; 32]) -> String {
    blake3::hash(secret).to_hex().to_string()
}

#[derive(Default)]
pub(crate) struct TokenCache(RwLock<HashMap<[u8; 32], Cached>>);

struct Cached {
    directory: u64,
    expires: Option<u64>,
    principal: Arc<Principal>,
}

/// The principal of a token's text.
pub(crate) fn check(api: &Api, text: &str) -> Result<Arc<Principal>, Failure> {
    let directory = api.runtime.directory();
    let version = directory.version();
    let digest = *blake3::hash(text.as_bytes()).as_bytes();
    if let Some(cached) = api.tokens.0.read().get(&digest)
        && cached.directory == version
        && !is_over(api, cached.expires)
    {
        api.metrics.tokens.hit();
        return Ok(cached.principal.clone());
    }
    api.metrics.tokens.miss();
    let refused = || unauthenticated(api, "The token is unknown, revoked or expired.");
    let (id, secret) = split(text).ok_or_else(refused)?;
    let (stored, record) = read(api, &id)?.ok_or_else(refused)?;
    // `blake3::Hash` compares in constant time. A certificate's token has no hash and is equal to none.
    let given = blake3::hash(&secret);
    let is = |hash: &str| blake3::Hash::from_hex(hash).is_ok_and(|wanted| wanted == given);
    let used = stored.enrolment.as_ref().is_some_and(|e| is(&e.joined));
    let is_new = is(&stored.hash);
    let previous = stored.enrolment.as_ref().map(|e| e.previous.as_str()).filter(|previous| is(previous));
    if !is_new && !used && previous.is_none() {
        return Err(refused());
    }
    let mut principal = principal(api, &id, &stored, if is_new { &stored.hash } else { previous.unwrap_or_default() })?;
    if is_new {
        settle(api, &id, &stored, record);
    }
    if used {
        // It opens the one door at which it is told that it was used.
        principal.role = Role::Joiner;
    } else if is_over(api, stored.expires) {
        return Err(match principal.role {
            Role::Joiner => unauthenticated(
                api,
                "The join token has expired. Make another one with 'tidewheel agent enroll-token NAME'.",
            ),
            _ => refused(),
        });
    }
    let principal = Arc::new(principal);
    let mut cache = api.tokens.0.write();
    if cache.len() >= CACHE_ENTRIES {
        cache.clear();
    }
    cache.insert(digest, Cached { directory: version, expires: stored.expires, principal: principal.clone() });
    Ok(principal)
}

/// The principal of an agent that shows a certificate of ours and names its token.
pub(crate) fn check_certificate(
    api: &Api,
    id: &str,
    certificate: Option<&Fingerprint>,
) -> Result<Arc<Principal>, Failure> {
    let refused = |why: &str| unauthenticated(api, why);
    let shown = certificate.ok_or_else(|| {
        refused("The connection shows no client certificate; a proxy that ends TLS in front of the server hides it.")
    })?;
    let unknown = || refused("The certificate is unknown, revoked or replaced.");
    let (stored, record) = read(api, id)?.ok_or_else(unknown)?;
    let shown = hex::encode(shown.0);
    let is_new = stored.enrolment.as_ref().is_some_and(|e| e.certificate.as_ref() == Some(&shown));
    let is_ours = is_new || stored.enrolment.as_ref().is_some_and(|e| e.previous == shown);
    if !is_ours || is_over(api, stored.expires) {
        return Err(unknown());
    }
    if is_new {
        settle(api, id, &stored, record);
    }
    principal(api, id, &stored, &shown).map(Arc::new)
}

/// The new key of an agent is used: from the commit of this on, the one before it is refused. Not waited for: whoever uses the
/// new one has all rights already, and a record that was changed meanwhile is left to its next use.
fn settle(api: &Api, id: &str, stored: &StoredToken, version: u64) {
    if stored.enrolment.as_ref().is_none_or(|enrolment| enrolment.previous.is_empty()) {
        return;
    }
    let (api, id, mut stored) = (api.clone(), id.to_owned(), stored.clone());
    if let Some(enrolment) = &mut stored.enrolment {
        enrolment.previous.clear();
    }
    tokio::spawn(async move {
        let written = records::put(&api, RecordKind::Token, TOKEN_TENANT, &id, &stored, Some(version)).await;
        if let Err(failure) = written {
            tracing::warn!(token = %id, reason = %failure.0.detail, "the key before the last change is still taken");
        }
    });
}

/// A token and the version of its record.
fn read(api: &Api, id: &str) -> Result<Option<(StoredToken, u64)>, Failure> {
    let Some(record) = api.runtime.directory().record(RecordKind::Token, TOKEN_TENANT, id) else { return Ok(None) };
    let stored = serde_json::from_str(&record.value);
    let stored = stored.map_err(|_| Failure::internal("a stored token cannot be read"))?;
    Ok(Some((stored, record.version)))
}

fn principal(api: &Api, id: &str, stored: &StoredToken, key: &str) -> Result<Principal, Failure> {
    let role = Role::parse(&stored.role).ok_or_else(|| Failure::internal("a stored token has an unknown role"))?;
    let tenant = api.runtime.directory().tenant_by_id(TenantId(stored.tenant));
    let tenant = tenant.ok_or_else(|| unauthenticated(api, "The token is unknown, revoked or expired."))?;
    Ok(Principal {
        tenant: tenant.id,
        tenant_name: tenant.name.clone(),
        role,
        system: stored.system,
        tenant_named: false,
        token_id: id.into(),
        name: stored.name.as_str().into(),
        key: key.into(),
        enrolment: stored.enrolment.clone().map(Arc::new),
        _proof: Proof,
    })
}

/// Whether a token of this id exists, has not expired, and still has this key.
pub(crate) fn stands(api: &Api, id: &str, key: &str) -> bool {
    let Ok(Some((stored, _))) = read(api, id) else { return false };
    let of_agent = |e: &StoredEnrolment| e.certificate.as_deref() == Some(key) || e.previous == key;
    let is_its = !key.is_empty() && (stored.hash == key || stored.enrolment.as_ref().is_some_and(of_agent));
    is_its && !is_over(api, stored.expires)
}

fn is_over(api: &Api, expires: Option<u64>) -> bool {
    expires.is_some_and(|at| api.runtime.now_ms() >= at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_token_reads_back() {
        let token = draw(1_700_000_000_000).unwrap();
        let (id, secret) = split(&token.text).unwrap();
        assert_eq!(id, token.id);
        assert_eq!(blake3::hash(&secret).to_hex().to_string(), token.hash);
        assert_ne!(draw(1).unwrap().text, draw(1).unwrap().text);
    }
}
