//! The doors of Tidewheel: REST, gRPC, live streams, health and metrics on one port.
//!
//! A request comes in through an adapter (`rest`, `grpc`), which proves who is asking (`auth`), and ends in one
//! module of `service` per use case, which asks the runtime. Never here: SQL, a concrete backend, a scheduling rule.
//! The tenant of every call is that of the authenticated principal; no body, path or parameter can name another one.

mod auth;
mod body;
mod config;
mod cursor;
mod grpc;
mod live;
mod metrics;
mod middleware;
mod openapi;
mod problem;
mod rest;
mod seal;
mod server;
mod service;
mod state;
mod text;
mod units;

// The contract of the store, named in one place: everything else here says `crate::store`.
pub(crate) use tidewheel_runtime::store;

pub use auth::bootstrap::{Bootstrap, bootstrap_token};
pub use config::{ApiConfig, Authority, BackupFailed, BackupMaker, ReloadRequests, ShownConfig, SignedCertificate};
pub use openapi::openapi_json;
pub use server::{ServeError, serve};
pub use service::old_documents::{OldDocuments, sweep_documents};
pub use service::orphans::{count_blobs, sweep_blobs};
pub use units::{parse_duration_ms, parse_rate, parse_size};

use tidewheel_runtime::Runtime;

/// Everything the server shows, as one service: REST under `/api/v1` and `/api`, gRPC, health, metrics, documentation.
///
/// Has to be called inside a tokio runtime: it starts the task that feeds the live streams.
pub fn router(runtime: Runtime, config: ApiConfig) -> axum::Router {
    let api = state::Api::start(runtime, config);
    middleware::wrap(rest::build(&api).merge(grpc::routes(&api)), api)
}
