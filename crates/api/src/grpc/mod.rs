//! gRPC: the worker protocol and the bulk client, on the same port as REST.

mod blobs;
mod client;
mod convert;
mod history;
mod session;
mod submit;
mod worker;

pub(crate) use convert::package_text;

use axum::Router;
use tidewheel_proto::v1::client_server::ClientServer;
use tidewheel_proto::v1::worker_server::WorkerServer;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;

use crate::auth::Principal;
use crate::auth::guard::{self, Access, TENANT_HEADER};
use crate::problem::Failure;
use crate::state::Api;

/// A message in either direction: a batch of results or grants with inline payloads.
pub(crate) const MESSAGE_BYTES: usize = 16 << 20;

/// The services as routes. Their own fallback would answer every unknown path with 200, so it is taken away.
pub(crate) fn routes(api: &Api) -> Router {
    let worker = WorkerServer::new(worker::WorkerService(api.clone()))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Zstd)
        .accept_compressed(CompressionEncoding::Gzip);
    let client = ClientServer::new(client::ClientService(api.clone()))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Zstd)
        .accept_compressed(CompressionEncoding::Gzip);
    let (_, health) = tonic_health::server::health_reporter();
    let mut builder = Routes::builder();
    builder.add_service(worker).add_service(client).add_service(health);
    builder.routes().prepare().into_axum_router().reset_fallback()
}

/// The caller of a method with this access rule.
fn caller<T>(api: &Api, request: &tonic::Request<T>, access: Access) -> Result<Principal, Failure> {
    let metadata = request.metadata();
    let authorization = metadata.get("authorization").map(|v| v.as_bytes());
    let tenant = metadata.get(TENANT_HEADER).map(|v| v.as_bytes());
    let principal = Principal::of(api, authorization, tenant, request.extensions().get())?;
    guard::check(&principal, access)?;
    Ok(Principal::clone(&principal))
}
