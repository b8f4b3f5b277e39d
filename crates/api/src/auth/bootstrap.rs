//! The first start: a tenant, its queue and a token to begin with.

use tidewheel_engine::Command;
use tidewheel_engine::config::TenantConfig;
use tidewheel_engine::effect::{Refusal, Reply};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_runtime::{Error, Runtime};

use super::token::{self, StoredToken, TOKEN_TENANT};

/// What the first start made.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// The token's text; shown once and never stored.
    pub secret: String,
    /// `tok_...`
    pub token_id: String,
}

/// Makes sure that the tenant `default` and its queue `default` exist, and creates an admin token with system scope.
///
/// With `only_if_none`, nothing is created and `None` is returned when any token exists: a server calls it so at each
/// start, while `tidewheel dev` asks for a token of its own.
///
/// `keep` puts the token where its owner finds it, durably, and is called before the token is stored: a crash in between
/// leaves a text that opens nothing and that the next start replaces. The other order would leave a server that has a
/// token which nobody knows.
///
/// # Errors
///
/// When `keep` fails, or the store is not available. Nothing is stored then.
pub async fn bootstrap_token(
    runtime: &Runtime,
    name: &str,
    only_if_none: bool,
    keep: impl FnOnce(&Bootstrap) -> std::io::Result<()>,
) -> Result<Option<Bootstrap>, Error> {
    let tenant = ensure_tenant(runtime, "default").await?;
    ensure_queue(runtime, tenant, "default").await?;
    if only_if_none && !runtime.directory().records(RecordKind::Token, TOKEN_TENANT).is_empty() {
        return Ok(None);
    }
    let now = runtime.now_ms();
    let new = token::draw(now).map_err(|_| Error::Unavailable("no random bytes".to_owned()))?;
    let stored = StoredToken {
        name: name.to_owned(),
        role: "admin".to_owned(),
        tenant: tenant.0,
        system: true,
        hash: new.hash,
        created: now,
        expires: None,
        enrolment: None,
    };
    let made = Bootstrap { secret: new.text, token_id: new.id };
    keep(&made).map_err(|error| Error::Unavailable(format!("the token cannot be written: {error}")))?;
    // A record of strings and numbers always serialises.
    let value = serde_json::to_string(&stored).unwrap_or_default();
    let key = made.token_id.as_str().into();
    let reply = runtime
        .call(|request| Command::PutRecord {
            request,
            kind: RecordKind::Token,
            tenant: TOKEN_TENANT,
            key,
            value: Some(value.into()),
            expected: Some(0),
        })
        .await?;
    match reply {
        Reply::Refused(refusal) => Err(Error::Unavailable(format!("the first token was refused: {refusal:?}"))),
        _ => Ok(Some(made)),
    }
}

async fn ensure_tenant(runtime: &Runtime, name: &str) -> Result<tidewheel_engine::id::TenantId, Error> {
    if let Some(tenant) = runtime.directory().tenant(name) {
        return Ok(tenant.id);
    }
    let reply = runtime
        .call(|request| Command::PutTenant {
            request,
            name: name.into(),
            config: TenantConfig::default(),
            expected: None,
        })
        .await?;
    match reply {
        Reply::Tenant(tenant) => Ok(tenant.id),
        other => Err(Error::Unavailable(format!("the tenant '{name}' was refused: {other:?}"))),
    }
}

async fn ensure_queue(runtime: &Runtime, tenant: tidewheel_engine::id::TenantId, name: &str) -> Result<(), Error> {
    if runtime.directory().queue(tenant, name).is_some() {
        return Ok(());
    }
    let reply = runtime
        .call(|request| Command::PutQueue {
            request,
            tenant,
            name: name.into(),
            config: Some(Box::default()),
            state: None,
            expected: Some(0),
        })
        .await?;
    match reply {
        // Another start of the same moment made it: all that was wanted.
        Reply::Queue(_) | Reply::Refused(Refusal::Version { .. }) => Ok(()),
        other => Err(Error::Unavailable(format!("the queue '{name}' was refused: {other:?}"))),
    }
}
