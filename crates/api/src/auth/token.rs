//! API tokens: `tw_<id>_<secret>`. The store keeps the blake3 of the secret only, so a stolen backup opens nothing.
//!
//! A checked token is remembered by the hash of its text together with the version of the directory it was checked
//! against: a revocation raises that version, so it takes effect with its commit.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tidewheel_engine::id::TenantId;
use tidewheel_engine::mutation::RecordKind;

use super::{Principal, Proof, Role, unauthenticated};
use crate::problem::Failure;
use crate::state::Api;

/// Tokens live in the system's own tenant: a token id is looked up before any tenant is known.
pub(crate) const TOKEN_TENANT: TenantId = TenantId(0);
/// Characters of 128 and of 256 bits in base32.
const ID_CHARS: usize = 26;
const SECRET_CHARS: usize = 52;
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
}

/// A new token: its id, the text that its owner gets once, and the hash that is stored.
pub(crate) struct NewToken {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) hash: String,
}

/// Draws a token.
pub(crate) fn draw(now_ms: u64) -> Result<NewToken, Failure> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(|_| Failure::internal("no random bytes for a token"))?;
    let id = tidewheel_proto::id::format("tok", crate::text::fresh_id(now_ms));
    let bare = id.trim_start_matches("tok_");
    let text = format!("tw_{bare}_{}", encode(&secret));
    Ok(NewToken { text, hash: blake3::hash(&secret).to_hex().to_string(), id })
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
    let record = directory.record(RecordKind::Token, TOKEN_TENANT, &id).ok_or_else(refused)?;
    let stored: StoredToken =
        serde_json::from_str(&record.value).map_err(|_| Failure::internal("a stored token cannot be read"))?;
    let wanted = blake3::Hash::from_hex(&stored.hash).map_err(|_| Failure::internal("a stored token has no hash"))?;
    // `blake3::Hash` compares in constant time.
    if blake3::hash(&secret) != wanted || is_over(api, stored.expires) {
        return Err(refused());
    }
    let role = Role::parse(&stored.role).ok_or_else(|| Failure::internal("a stored token has an unknown role"))?;
    let tenant = directory.tenant_by_id(TenantId(stored.tenant)).ok_or_else(refused)?;
    let principal = Arc::new(Principal {
        tenant: tenant.id,
        tenant_name: tenant.name.clone(),
        role,
        system: stored.system,
        tenant_named: false,
        token_id: id.as_str().into(),
        name: stored.name.as_str().into(),
        _proof: Proof,
    });
    let mut cache = api.tokens.0.write();
    if cache.len() >= CACHE_ENTRIES {
        cache.clear();
    }
    cache.insert(digest, Cached { directory: version, expires: stored.expires, principal: principal.clone() });
    Ok(principal)
}

/// Whether a token of this id exists and has not expired.
pub(crate) fn stands(api: &Api, id: &str) -> bool {
    let record = api.runtime.directory().record(RecordKind::Token, TOKEN_TENANT, id);
    let stored = record.and_then(|r| serde_json::from_str::<StoredToken>(&r.value).ok());
    stored.is_some_and(|s| !is_over(api, s.expires))
}

fn is_over(api: &Api, expires: Option<u64>) -> bool {
    expires.is_some_and(|at| api.runtime.now_ms() >= at)
}

/// Token id (`tok_...`) and secret of `tw_<id>_<secret>`.
fn split(text: &str) -> Option<(String, [u8; 32])> {
    let rest = text.strip_prefix("tw_")?;
    let (id, secret) = rest.split_once('_')?;
    if id.len() != ID_CHARS || !id.bytes().all(|b| ALPHABET.contains(&b)) {
        return None;
    }
    Some((format!("tok_{id}"), decode(secret)?))
}

/// The alphabet of public ids.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// 32 bytes as 52 characters: 260 bits, of which the first four are zero.
fn encode(bytes: &[u8; 32]) -> String {
    let mut out = String::with_capacity(SECRET_CHARS);
    for i in 0..SECRET_CHARS {
        let mut digit = 0usize;
        for bit in 0..5 {
            let position = i * 5 + bit;
            let value = if position < 4 { 0 } else { (bytes[(position - 4) / 8] >> (7 - (position - 4) % 8)) & 1 };
            digit = (digit << 1) | usize::from(value);
        }
        out.push(ALPHABET[digit] as char);
    }
    out
}

fn decode(text: &str) -> Option<[u8; 32]> {
    if text.len() != SECRET_CHARS {
        return None;
    }
    let mut out = [0u8; 32];
    for (i, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|c| *c == byte)?;
        for bit in 0..5 {
            let position = i * 5 + bit;
            let value = u8::try_from((digit >> (4 - bit)) & 1).ok()?;
            if position < 4 {
                if value != 0 {
                    return None;
                }
            } else {
                out[(position - 4) / 8] |= value << (7 - (position - 4) % 8);
            }
        }
    }
    Some(out)
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

    #[test]
    fn every_secret_round_trips() {
        for secret in [[0u8; 32], [255; 32], core::array::from_fn(|i| i as u8 * 7)] {
            assert_eq!(decode(&encode(&secret)), Some(secret));
        }
    }

    #[test]
    fn broken_texts_are_no_tokens() {
        let good = draw(1).unwrap().text;
        for text in ["", "tw_", "tw__", &good[1..], &good[..good.len() - 1], &good.to_uppercase(), &format!("{good}0")]
        {
            assert!(split(text).is_none(), "{text}");
        }
    }
}
