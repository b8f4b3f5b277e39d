//! Blobs: immutable bytes addressed by their SHA-256. A blob is durable before anything that names it is committed.

use std::future::Future;
use std::pin::Pin;

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
    /// Deletes blobs older than 24 h that `keep` does not want; returns how many went.
    fn sweep<'a>(&'a self, tenant: u32, keep: &'a (dyn Fn(&Hash) -> bool + Send + Sync)) -> Pending<'a, u64>;
}
