//! Blobs: stored in parts through a file of bounded size, read in parts, apart for each tenant.

use std::io::Write as _;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tidewheel_engine::id::TenantId;
use tidewheel_proto::code::Code;

use crate::config::Bound;
use crate::problem::Failure;
use crate::state::Api;

/// Bytes read from the blob store at once; the memory a download holds is about twice this.
pub(crate) const READ_CHUNK: u64 = 256 * 1024;
/// Uploads up to this size never touch a file.
const SMALL: usize = 1 << 20;

/// An upload that is under way: in memory while it is small, in a temporary file beyond.
pub(crate) struct Upload {
    memory: Vec<u8>,
    file: Option<NamedTempFile>,
    hasher: Sha256,
    size: u64,
    bound: Bound,
    temp_dir: std::path::PathBuf,
}

/// A complete upload.
pub(crate) struct Uploaded {
    pub(crate) hash: [u8; 32],
    pub(crate) size: u64,
    content: Content,
}

enum Content {
    Memory(Bytes),
    File(NamedTempFile),
}

impl Upload {
    pub(crate) fn new(api: &Api, bound: Bound) -> Upload {
        Upload {
            memory: Vec::new(),
            file: None,
            hasher: Sha256::new(),
            size: 0,
            bound,
            temp_dir: api.config.temp_dir.clone(),
        }
    }

    /// Adds bytes. File writes go to the page cache and block for microseconds only.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.size += bytes.len() as u64;
        if self.size > self.bound.bytes {
            return Err(self.bound.exceeded());
        }
        self.hasher.update(bytes);
        if self.file.is_none() && self.memory.len() + bytes.len() <= SMALL {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        let failed = |error: std::io::Error| {
            tracing::warn!(%error, "an upload could not be written to the temporary folder");
            Failure::new(Code::Unavailable, "The upload cannot be kept now.")
        };
        if self.file.is_none() {
            let mut file = NamedTempFile::new_in(&self.temp_dir).map_err(failed)?;
            file.write_all(&self.memory).map_err(failed)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(failed),
            None => Ok(()),
        }
    }

    pub(crate) fn finish(mut self) -> Result<Uploaded, Failure> {
        let content = match self.file.take() {
            Some(mut file) => {
                file.flush().map_err(|_| Failure::new(Code::Unavailable, "The upload cannot be kept now."))?;
                Content::File(file)
            }
            None => Content::Memory(self.memory.into()),
        };
        Ok(Uploaded { hash: self.hasher.finalize().into(), size: self.size, content })
    }
}

impl Uploaded {
    /// Opens the content for reading and seeking, for the analysis of archives.
    pub(crate) fn open(&self) -> std::io::Result<Box<dyn ReadSeek + Send>> {
        match &self.content {
            Content::Memory(bytes) => Ok(Box::new(std::io::Cursor::new(bytes.clone()))),
            Content::File(file) => Ok(Box::new(file.reopen()?)),
        }
    }

    /// Makes it durable; the store's own hash has to agree with ours.
    pub(crate) async fn keep(self, api: &Api, tenant: TenantId) -> Result<[u8; 32], Failure> {
        let blobs = api.runtime.blobs().clone();
        let stored = match &self.content {
            Content::Memory(bytes) => blobs.put(tenant.0, bytes.clone()).await?,
            Content::File(file) => blobs.put_file(tenant.0, file.path()).await?.0,
        };
        if stored != self.hash {
            return Err(Failure::internal("a blob was stored under another hash than its content has"));
        }
        Ok(stored)
    }
}

/// What an archive is read from.
pub(crate) trait ReadSeek: std::io::Read + std::io::Seek {}
impl<T: std::io::Read + std::io::Seek> ReadSeek for T {}

/// Reads a whole body into an upload.
pub(crate) async fn receive<E>(
    api: &Api,
    bound: Bound,
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<Uploaded, Failure> {
    let mut upload = Upload::new(api, bound);
    while let Some(part) = body.next().await {
        let part = part.map_err(|_| Failure::new(Code::MalformedBody, "The body ended before it was complete."))?;
        upload.push(&part)?;
    }
    upload.finish()
}

/// The bytes from `from` to before `until`, in parts, each read when the one before has left.
pub(crate) fn stream(
    api: &Api,
    tenant: TenantId,
    hash: [u8; 32],
    from: u64,
    until: u64,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send + 'static + use<> {
    let blobs = api.runtime.blobs().clone();
    futures::stream::try_unfold(from, move |at| {
        let blobs = blobs.clone();
        async move {
            if at >= until {
                return Ok(None);
            }
            let part = blobs.read(tenant.0, hash, at, READ_CHUNK.min(until - at)).await?;
            if part.is_empty() {
                return Err(Failure::internal("a blob is shorter than its size"));
            }
            let next = at + part.len() as u64;
            Ok(Some((part, next)))
        }
    })
}
