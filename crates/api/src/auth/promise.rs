//! Tokens of promises: who holds one may complete this promise of this run, once, and nothing else.
//!
//! Nothing is stored of them. A key of the run is derived from the server's secret, and goes with each activation of its program to
//! the process that runs it, beside the input and never in it. The program makes the tokens of its promises from that, the same
//! ones in each replay, and the server makes the same when one comes back.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tidewheel_engine::id::{Name, RunId, TenantId};
use tidewheel_proto::code::Code;
use tidewheel_proto::promise::{MAC_BYTES, PREFIX, PromiseToken, head};

use super::guard::{Access, Guard, Submitter};
use crate::problem::Failure;
use crate::rest::Path;
use crate::state::Api;

/// What a path shows in place of a token.
const HIDDEN: &str = "twp_...";
/// Block of SHA-256, which HMAC works with.
const BLOCK: usize = 64;

/// Makes the keys of runs.
#[derive(Clone)]
pub(crate) struct PromiseKeys([u8; 32]);

impl PromiseKeys {
    pub(crate) fn new(secret: &[u8; 32]) -> PromiseKeys {
        PromiseKeys(blake3::derive_key("tidewheel 2026 promise token v1", secret))
    }

    /// What the program of a run makes tokens from: what they begin with, and the key of their hash.
    pub(crate) fn of_run(&self, tenant: TenantId, run: RunId) -> Bytes {
        let head = head(tenant.0, run.0);
        [&head[..], &self.key(&head)].concat().into()
    }

    fn key(&self, head: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, head).as_bytes()
    }

    /// Whose token this is, if it is one of ours.
    fn check(&self, text: &str) -> Option<PromiseToken> {
        let token = PromiseToken::read(text)?;
        let head = head(token.tenant, token.run);
        let own = mac(&self.key(&head), &[&head, token.key.as_bytes()]);
        // Every byte is compared, so that the time does not tell how many were right.
        let difference = own.iter().zip(&token.mac).fold(0u8, |sum, (a, b)| sum | (a ^ b));
        (difference == 0).then_some(token)
    }
}

/// HMAC-SHA256, cut short. Not blake3, for a program has nothing but the standard library of Python.
fn mac(key: &[u8; 32], message: &[&[u8]]) -> [u8; MAC_BYTES] {
    let pad = |with: u8| {
        let mut block = [with; BLOCK];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let mut inner = Sha256::new_with_prefix(pad(0x36));
    message.iter().for_each(|part| inner.update(part));
    let whole = Sha256::new_with_prefix(pad(0x5C)).chain_update(inner.finalize()).finalize();
    let mut out = [0; MAC_BYTES];
    out.copy_from_slice(&whole[..MAC_BYTES]);
    out
}

/// Who holds the token of a promise. Made here alone, of a token that was checked.
pub(crate) struct Holder {
    pub(crate) tenant: TenantId,
    pub(crate) run: RunId,
    /// The key of the promise's entry.
    pub(crate) key: Name,
}

/// Access rule of the completion of a promise: the token of one in the path, or an API token, with which the path has its name.
pub(crate) enum Completer {
    Holder(Holder),
    Caller(Submitter),
}

impl Guard for Completer {
    const ACCESS: Access = Access { holder: true, ..Submitter::ACCESS };
}

impl FromRequestParts<Api> for Completer {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let Path((run, promise)) = Path::<(String, String)>::from_request_parts(parts, api).await?;
        if !promise.starts_with(PREFIX) {
            return Submitter::from_request_parts(parts, api).await.map(Completer::Caller);
        }
        Holder::of(api, &run, &promise).map(Completer::Holder)
    }
}

impl Holder {
    fn of(api: &Api, run: &str, promise: &str) -> Result<Holder, Failure> {
        let token = PromiseKeys::new(api.runtime.token_key()).check(promise).ok_or_else(no_promise)?;
        let tenant = TenantId(token.tenant);
        if tidewheel_proto::id::parse("run", run) != Some(token.run)
            || api.runtime.directory().tenant_by_id(tenant).is_none()
        {
            return Err(no_promise());
        }
        Ok(Holder { tenant, run: RunId(token.run), key: token.key.as_str().into() })
    }

    /// Why the token in a path opens nothing; `None` = it does.
    pub(crate) fn barred(api: &Api, path: &str) -> Option<Failure> {
        let parts = path.rsplit_once("/promises/").and_then(|(before, last)| {
            let run = before.rsplit('/').next().and_then(crate::rest::decode)?;
            Some((run, crate::rest::decode(last)?))
        });
        let Some((run, promise)) = parts else { return Some(no_promise()) };
        Holder::of(api, &run, &promise).err()
    }
}

/// The one answer to every token that opens nothing, so that nothing is learned from it about runs and tenants.
pub(crate) fn no_promise() -> Failure {
    let detail = "There is no promise here that this token completes: it is not whole, of another run or of another server, or \
                  the run is not kept any more.";
    Failure::new(Code::NotFound, detail)
}

/// A path as it may be shown: without the token that it holds.
pub(crate) fn shown_path(path: &str) -> std::borrow::Cow<'_, str> {
    let Some((before, last)) = path.rsplit_once("/promises/") else { return path.into() };
    match crate::rest::decode(last) {
        Some(name) if !name.starts_with(PREFIX) => path.into(),
        _ => format!("{before}/promises/{HIDDEN}").into(),
    }
}

/// Whether a path holds such a token.
pub(crate) fn holds_token(path: &str) -> bool {
    matches!(shown_path(path), std::borrow::Cow::Owned(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId(7);
    const RUN: RunId = RunId(0x0123_4567_89AB_CDEF_0011_2233_4455_6677);
    const KEY: &str = "/promise:answer#0";

    /// What a program does with what it is given.
    fn made(given: &[u8], key: &str) -> String {
        let (head, secret) = given.split_at(given.len() - 32);
        let mac = mac(secret.try_into().unwrap(), &[head, key.as_bytes()]);
        PromiseToken { tenant: TENANT.0, run: RUN.0, mac, key: key.to_owned() }.text()
    }

    #[test]
    fn a_token_is_checked_by_whoever_gave_its_key_and_by_no_other() {
        let keys = PromiseKeys::new(&[1; 32]);
        let text = made(&keys.of_run(TENANT, RUN), KEY);
        let token = keys.check(&text).unwrap();
        assert_eq!((token.tenant, token.run, token.key.as_str()), (TENANT.0, RUN.0, KEY));
        assert!(PromiseKeys::new(&[2; 32]).check(&text).is_none());
        for (at, old) in text.char_indices() {
            let new = if old == 'z' { 'y' } else { 'z' };
            let changed = format!("{}{new}{}", &text[..at], &text[at + 1..]);
            assert!(keys.check(&changed).is_none(), "{changed}");
        }
        // The key of a run is that of no other, and not that of another tenant's.
        for (tenant, run) in [(TENANT, RunId(RUN.0 + 1)), (TenantId(8), RUN)] {
            assert!(keys.check(&made(&keys.of_run(tenant, run), KEY)).is_none());
        }
    }

    #[test]
    fn tokens_are_those_that_a_program_in_python_makes() {
        // The same numbers stand in `python/tests/test_promise.py`.
        let given: Vec<u8> = [&head(TENANT.0, RUN.0)[..], &[9; 32]].concat();
        assert_eq!(
            made(&given, KEY),
            "twp_0400000704hmasw9nf6yy00h48sm8nb6exzs8hjp36m4t272dhxm6btg5tg2yw3jdxppjwv579gpwwvqcns26c0"
        );
    }

    #[test]
    fn no_path_shows_a_token() {
        let hidden = "/api/v1/runs/run_1/promises/twp_...";
        for path in ["/api/v1/runs/run_1/promises/twp_0abc", "/api/v1/runs/run_1/promises/%74wp_0abc"] {
            assert_eq!(shown_path(path), hidden);
            assert!(holds_token(path));
        }
        assert_eq!(shown_path("/api/v1/runs/run_1/promises/%ff%"), hidden, "what cannot be read may be one");
        for path in ["/api/v1/runs/run_1/promises/answer", "/api/v1/runs/run_1"] {
            assert_eq!(shown_path(path), path);
        }
    }
}
