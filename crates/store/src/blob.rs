//! Blobs: immutable bytes addressed by their SHA-256. A blob is durable before anything that names it is committed.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use crate::{Error, Hash};

/// A future that can be sent.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Where blobs are kept, apart for each tenant.
pub trait Blobs: Send + Sync + 'static {
    /// Stores bytes and returns when they are durable. The same bytes again cost nothing.
    fn put(&self, tenant: u32, bytes: Bytes) -> Pending<'_, Hash>;
    /// Stores a file of any size in parts, with bounded memory.
    fn put_file<'a>(&'a self, tenant: u32, path: &'a std::path::Path) -> Pending<'a, (Hash, u64)>;
    /// Size, or `None` if there is no such blob.
    fn size(&self, tenant: u32, hash: Hash) -> Pending<'_, Option<u64>>;
    /// Bytes from `offset`, at most `limit`.
    fn read(&self, tenant: u32, hash: Hash, offset: u64, limit: u64) -> Pending<'_, Bytes>;
    /// Blobs that were written longer than `age` ago and neither put nor asked for since ([`Blobs::put`], [`Blobs::size`]).
    /// At most a million, in no order.
    fn old(&self, tenant: u32, age: Duration) -> Pending<'_, Vec<Hash>>;
    /// Deletes a blob if it is still as old as that; whether it did. What was put or found in the meantime stays.
    fn remove(&self, tenant: u32, hash: Hash, age: Duration) -> Pending<'_, bool>;
    /// Counts what a tenant has, by a listing; [`Blobs::old`] does it on its way.
    fn count(&self, tenant: u32) -> Pending<'_, u64>;
    /// Figures for `/metrics`. Asks nothing of the store itself.
    fn figures(&self) -> BlobFigures;
}

/// Figures of a blob store since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobFigures {
    /// Bytes that it has over all tenants: as they were last listed, plus what was written and deleted since.
    pub held: u64,
    /// Bytes written. What was there already is not.
    pub written: u64,
    /// Bytes read.
    pub read: u64,
}
