//! The wire: the worker protocol (`.proto` files and the code generated from them), REST data types and error codes.
//!
//! Never here: the engine's records or the store's. Conversions stand at the edge, in `api`.

/// The worker protocol, version 1. Its rules are in `proto/tidewheel/v1/worker.proto`.
#[allow(clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("tidewheel.v1");
}

/// The file at the root of a package archive that says what is in it: a [`rest::PackageManifest`] as JSON.
pub const MANIFEST_FILE: &str = "tidewheel-manifest.json";

pub mod builtin;
pub mod chunk;
pub mod code;
pub mod id;
pub mod promise;
pub mod rest;
pub mod token;
