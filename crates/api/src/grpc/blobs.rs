//! Blobs over gRPC: in parts, with bounded memory, in the tenant of the attempt that names them.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use tidewheel_engine::id::{TenantId, Token};
use tidewheel_engine::task::Task;
use tidewheel_proto::code::Code;
use tidewheel_proto::v1;
use tonic::{Status, Streaming};

use crate::auth::Principal;
use crate::problem::Failure;
use crate::seal::Sealer;
use crate::service::blob::Upload;
use crate::service::parts::{self, Content, Parts};
use crate::state::Api;
use crate::text::{hash_text, parse_hash};

pub(crate) async fn fetch(
    api: &Api,
    caller: &Principal,
    request: v1::FetchBlobRequest,
) -> Result<impl Stream<Item = Result<v1::BlobChunk, Status>> + Send + 'static + use<>, Failure> {
    let hash = parse_hash(&request.hash).ok_or_else(|| Failure::not_found("blob", &request.hash))?;
    let (tenant, found) = locate(api, caller, &request.token, hash).await?;
    let total = found.size();
    if request.offset > total {
        return Err(Failure::new(Code::InvalidField, format!("the offset lies behind the end at {total}")));
    }
    // An empty blob is one empty part: the stream has to say the total once.
    let empty = (request.offset == total).then_some(Ok(v1::BlobChunk { data: bytes::Bytes::new(), total }));
    let parts = parts::content(api, tenant, hash, &found, (request.offset, total))
        .map(move |part| part.map(|data| v1::BlobChunk { data, total }).map_err(Status::from));
    Ok(futures::stream::iter(empty).chain(parts))
}

/// The list of parts of a package.
pub(crate) async fn parts_of(
    api: &Api,
    caller: &Principal,
    request: v1::PackagePartsRequest,
) -> Result<v1::PackagePartsResponse, Failure> {
    let (_, parts) = package(api, caller, &request.token, &request.hash).await?;
    let part = |(hex, size): &(String, u64)| v1::Part { hash: format!("sha256:{hex}"), size: *size };
    Ok(v1::PackagePartsResponse { parts: parts.parts.iter().map(part).collect(), size: parts.size })
}

/// Some of them.
pub(crate) async fn fetch_parts(
    api: &Api,
    caller: &Principal,
    request: v1::FetchPartsRequest,
) -> Result<impl Stream<Item = Result<v1::BlobChunk, Status>> + Send + 'static + use<>, Failure> {
    let (tenant, parts) = package(api, caller, &request.token, &request.hash).await?;
    let total = parts.size;
    let chosen = parts::chosen(api, tenant, &parts, &request.parts)?;
    Ok(chosen.map(move |part| part.map(|data| v1::BlobChunk { data, total }).map_err(Status::from)))
}

async fn package(api: &Api, caller: &Principal, token: &[u8], hash: &str) -> Result<(TenantId, Arc<Parts>), Failure> {
    let wanted = parse_hash(hash).ok_or_else(|| Failure::not_found("package", hash))?;
    let mut tenants = vec![tenant_of(api, caller, token).await?];
    if serves_all(caller, token) {
        tenants.extend(api.runtime.directory().tenants().iter().map(|tenant| tenant.id));
    }
    for tenant in tenants {
        // Its parts, though the archive may be there as a whole, too: those a worker may have already.
        if let Some(parts) = parts::of_archive(api, tenant, wanted).await? {
            return Ok((tenant, parts));
        }
    }
    Err(Failure::not_found("package", hash))
}

/// Whether packages of every tenant may be fetched. A worker with system scope gets packages ready before it has a task
/// that needs them. An attempt is of one tenant and sees that one alone: its code may name any hash.
fn serves_all(caller: &Principal, token: &[u8]) -> bool {
    caller.system && !caller.tenant_named && token.is_empty()
}

/// The tenant that has the content: that of the attempt, else the caller's own, else for archives of packages the first
/// that has it, since equal hashes are equal bytes.
async fn locate(api: &Api, caller: &Principal, token: &[u8], hash: [u8; 32]) -> Result<(TenantId, Content), Failure> {
    let home = tenant_of(api, caller, token).await?;
    if let Some(found) = parts::find(api, home, hash).await? {
        return Ok((home, found));
    }
    if serves_all(caller, token) {
        for tenant in api.runtime.directory().tenants() {
            if let Some(found) = parts::find_package(api, tenant.id, hash).await? {
                return Ok((tenant.id, found));
            }
        }
    }
    Err(Failure::not_found("blob", &hash_text(&hash)))
}

/// The tenant of an attempt, or the caller's own.
async fn tenant_of(api: &Api, caller: &Principal, token: &[u8]) -> Result<TenantId, Failure> {
    if !caller.system || caller.tenant_named || token.is_empty() {
        return Ok(caller.tenant);
    }
    Ok(task_of(api, caller, token).await?.0)
}

/// The task of an attempt, with its owner and the attempt that the token is of.
pub(super) async fn task_of(api: &Api, caller: &Principal, token: &[u8]) -> Result<(TenantId, Task, Token), Failure> {
    let own = if caller.system && !caller.tenant_named { None } else { Some(caller.tenant) };
    let sealer = Sealer::new(api.runtime.token_key(), own);
    let (id, attempt) =
        sealer.open(token).ok_or_else(|| Failure::new(Code::NotAllowed, "The attempt token is not valid."))?;
    let tenants: Vec<TenantId> = match own {
        Some(tenant) => vec![tenant],
        None => api.runtime.directory().tenants().iter().map(|t| t.id).collect(),
    };
    let found = api.read_store(move |store| {
        for tenant in tenants {
            if let Some(task) = store.task(tenant, id)? {
                return Ok(Some((tenant, task)));
            }
        }
        Ok(None)
    });
    let (tenant, task) = found.await?.ok_or_else(|| Failure::not_found("task", &crate::text::task_text(id)))?;
    Ok((tenant, task, attempt))
}

pub(crate) async fn put(
    api: &Api,
    caller: &Principal,
    mut parts: Streaming<v1::PutBlobRequest>,
) -> Result<v1::PutBlobResponse, Status> {
    let bound = api.config.blob_bound();
    let Some(first) = parts.message().await? else {
        return Err(Status::invalid_argument("the first message names the size"));
    };
    if first.size > bound.bytes {
        return Err(bound.exceeded().into());
    }
    let tenant = tenant_of(api, caller, &first.token).await?;
    let declared = first.size;
    let mut upload = Upload::new(api, bound);
    upload.push(&first.data)?;
    while let Some(part) = parts.message().await? {
        upload.push(&part.data)?;
    }
    let uploaded = upload.finish()?;
    if declared != 0 && declared != uploaded.size {
        return Err(Status::invalid_argument(format!("{declared} bytes were announced and {} came", uploaded.size)));
    }
    let size = uploaded.size;
    let hash = uploaded.keep(api, tenant).await?;
    Ok(v1::PutBlobResponse { hash: hash_text(&hash), size })
}
