//! Kept records: the JSON documents of tokens, packages, operations and types that the engine stores without reading
//! them.

use std::sync::Arc;

use serde::Serialize;
use tidewheel_engine::Command;
use tidewheel_engine::effect::{Refusal, Reply};
use tidewheel_engine::id::{Name, TenantId};
use tidewheel_engine::mutation::{Record, RecordKind};

use crate::problem::{Failure, from_refusal};
use crate::state::Api;

/// Stores a record. With `expected`, only over that version; `Some(0)` = it has to be new.
///
/// The outer error is a failure of the call, the inner one the engine's refusal: a lost race is often expected.
pub(crate) async fn put<T: Serialize>(
    api: &Api,
    kind: RecordKind,
    tenant: TenantId,
    key: &str,
    value: &T,
    expected: Option<u64>,
) -> Result<Result<Option<Arc<Record>>, Refusal>, Failure> {
    let text = serde_json::to_string(value).map_err(|_| Failure::internal("a record does not serialise"))?;
    send(api, kind, tenant, key, Some(text.into()), expected).await
}

/// The same for a text that is no JSON alone.
pub(crate) async fn put_text(
    api: &Api,
    kind: RecordKind,
    tenant: TenantId,
    key: &str,
    text: String,
    expected: Option<u64>,
) -> Result<Result<Option<Arc<Record>>, Refusal>, Failure> {
    send(api, kind, tenant, key, Some(text.into()), expected).await
}

/// Deletes a record.
pub(crate) async fn delete(api: &Api, kind: RecordKind, tenant: TenantId, key: &str) -> Result<(), Failure> {
    send(api, kind, tenant, key, None, None).await?.map_err(from_refusal)?;
    Ok(())
}

async fn send(
    api: &Api,
    kind: RecordKind,
    tenant: TenantId,
    key: &str,
    value: Option<Name>,
    expected: Option<u64>,
) -> Result<Result<Option<Arc<Record>>, Refusal>, Failure> {
    let key: Name = key.into();
    let reply =
        api.runtime.call(move |request| Command::PutRecord { request, kind, tenant, key, value, expected }).await?;
    match reply {
        Reply::Record(record) => Ok(Ok(record)),
        Reply::Done => Ok(Ok(None)),
        Reply::Refused(refusal) => Ok(Err(refusal)),
        _ => Err(Failure::internal("a record was answered with something else")),
    }
}
