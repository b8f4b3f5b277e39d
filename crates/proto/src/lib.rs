//! The wire: the worker protocol (`.proto` files and the code generated from them), REST data types and error codes.
//!
//! Never here: the engine's records or the store's. Conversions stand at the edge, in `api`.

/// The worker protocol, version 1. Its rules are in `proto/tidewheel/v1/worker.proto`.
#[allow(clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("tidewheel.v1");
}

pub mod code;
pub mod id;
pub mod rest;
