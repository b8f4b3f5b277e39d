//! Large things to and from the server by content hash: packages, inputs, results, artefacts. Downloads resume where they
//! broke off and are checked against their hash; nothing unchecked is handed on.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tidewheel_proto::v1::{
    FetchBlobRequest, FetchPartsRequest, HistoryRequest, PackagePartsRequest, Part, PutBlobRequest, PutBlobResponse,
};
use tokio::io::AsyncReadExt;
use tonic::Code;

use crate::client::Client;
use crate::error::Error;

/// Of one message; well below what any peer refuses.
const CHUNK: usize = 256 << 10;
/// An input or result that has to be held in memory.
const MAX_IN_MEMORY: u64 = 256 << 20;
pub(crate) const TRIES: u32 = 6;

/// Access to the server's blobs.
#[derive(Clone)]
pub(crate) struct Blobs {
    client: Client,
}

/// Takes a chunk and the size of the whole.
type Sink<'a> = dyn FnMut(&[u8], u64) -> Result<(), Error> + Send + 'a;

/// The hex digits of `sha256:<64 hex>`; refuses anything else, so that a hash can be part of a path.
pub(crate) fn digest_of(hash: &str) -> Option<&str> {
    let hex = hash.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))).then_some(hex)
}

pub(crate) fn hash_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn network(what: &str, status: &tonic::Status) -> Error {
    let never = [Code::NotFound, Code::PermissionDenied, Code::InvalidArgument, Code::FailedPrecondition];
    let retryable = !never.contains(&status.code());
    Error::Environment { message: format!("{what}: {}", status.message()), retryable }
}

impl Blobs {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Into memory.
    pub(crate) async fn fetch(&self, hash: &str, token: Bytes) -> Result<Bytes, Error> {
        let mut out = BytesMut::new();
        let mut hasher = Sha256::new();
        let mut sink = |chunk: &[u8], total: u64| {
            if total > MAX_IN_MEMORY {
                return Err(Error::Package(format!("{hash} has {total} bytes, more than this agent holds in memory")));
            }
            hasher.update(chunk);
            out.extend_from_slice(chunk);
            Ok(())
        };
        self.download(hash, token, 0, &mut sink).await?;
        check(hash, hasher)?;
        Ok(out.freeze())
    }

    /// The parts of a package; `None` where the server has it as a whole, or does not know parts.
    pub(crate) async fn parts(&self, hash: &str, token: Bytes) -> Result<Option<Vec<Part>>, Error> {
        let mut tries = 0;
        loop {
            let request = PackagePartsRequest { hash: hash.to_owned(), token: token.clone() };
            match self.client.worker().package_parts(request).await {
                Ok(answer) => return Ok(Some(answer.into_inner().parts)),
                Err(status) if matches!(status.code(), Code::Unimplemented | Code::NotFound) => return Ok(None),
                Err(status) => {
                    tries += 1;
                    let error = network(&format!("cannot fetch {hash}"), &status);
                    if !error.is_retryable() || tries >= TRIES {
                        return Err(error);
                    }
                    tokio::time::sleep(Duration::from_millis(100 << tries)).await;
                }
            }
        }
    }

    /// Some parts of a package, one after the other. Once: the caller knows what it has.
    pub(crate) async fn fetch_parts(
        &self,
        hash: &str,
        token: Bytes,
        parts: Vec<u32>,
        sink: &mut (dyn FnMut(&[u8]) -> Result<(), Error> + Send),
    ) -> Result<(), Error> {
        let what = format!("cannot fetch {hash}");
        let request = FetchPartsRequest { hash: hash.to_owned(), parts, token };
        let answer = self.client.worker().fetch_parts(request).await.map_err(|status| network(&what, &status))?;
        let mut chunks = answer.into_inner();
        while let Some(chunk) = chunks.message().await.map_err(|status| network(&what, &status))? {
            sink(&chunk.data)?;
        }
        Ok(())
    }

    /// Into a file, which appears under its name only when it is whole and its hash is right; the bytes that came.
    pub(crate) async fn fetch_file(&self, hash: &str, token: Bytes, path: &Path) -> Result<u64, Error> {
        let part = path.with_extension("part");
        let mut hasher = Sha256::new();
        let mut have = 0;
        if let Ok(mut old) = std::fs::File::open(&part) {
            have = std::io::copy(&mut old, &mut hasher).map_err(Error::file("read", &part))?;
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&part);
        let mut file = file.map_err(Error::file("write", &part))?;
        let mut came = 0;
        let mut sink = |chunk: &[u8], _total: u64| {
            use std::io::Write;
            hasher.update(chunk);
            came += chunk.len() as u64;
            file.write_all(chunk).map_err(Error::file("write", &part))
        };
        self.download(hash, token, have, &mut sink).await?;
        if let Err(error) = check(hash, hasher) {
            let _ = std::fs::remove_file(&part);
            return Err(error);
        }
        std::fs::rename(&part, path).map_err(Error::file("write", path))?;
        Ok(came)
    }

    async fn download(&self, hash: &str, token: Bytes, mut offset: u64, sink: &mut Sink<'_>) -> Result<(), Error> {
        let what = format!("cannot fetch {hash}");
        let mut tries = 0;
        loop {
            let before = offset;
            let request = FetchBlobRequest { hash: hash.to_owned(), offset, token: token.clone() };
            let broken = match self.client.worker().fetch_blob(request).await {
                Ok(answer) => {
                    let mut chunks = answer.into_inner();
                    loop {
                        match chunks.message().await {
                            Ok(Some(chunk)) => {
                                offset += chunk.data.len() as u64;
                                sink(&chunk.data, chunk.total)?;
                            }
                            Ok(None) => return Ok(()),
                            Err(status) => break status,
                        }
                    }
                }
                Err(status) => status,
            };
            tries = if offset > before { 0 } else { tries + 1 };
            let error = network(&what, &broken);
            if !error.is_retryable() || tries >= TRIES {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(100 << tries)).await;
        }
    }

    /// Turns of a workflow before one of them, of the activation that the token stands for: a JSON array, at most as much as the server
    /// gives at once.
    pub(crate) async fn history(&self, token: Bytes, below: u64) -> Result<Bytes, Error> {
        let mut tries = 0;
        loop {
            let request = HistoryRequest { token: token.clone(), below };
            let status = match self.client.worker().history(request).await {
                Ok(answer) => return Ok(answer.into_inner().turns),
                Err(status) => status,
            };
            tries += 1;
            let error = network("cannot read the history of the workflow", &status);
            if !error.is_retryable() || tries >= TRIES {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(100 << tries)).await;
        }
    }

    pub(crate) async fn put(&self, bytes: Bytes, token: Bytes) -> Result<PutBlobResponse, Error> {
        let total = bytes.len() as u64;
        self.put_with(token, total, move |offset| {
            let end = (offset + CHUNK).min(bytes.len());
            let chunk = bytes.slice(offset..end);
            async move { Ok(chunk) }
        })
        .await
    }

    /// `file` was opened by the caller, at once when the task named it: the task may delete its name.
    pub(crate) async fn put_file(&self, file: std::fs::File, token: Bytes) -> Result<PutBlobResponse, Error> {
        let size = file.metadata().map_err(Error::io("cannot read an artifact"))?.len();
        let file = std::sync::Arc::new(file);
        self.put_with(token, size, move |offset| {
            let file = file.clone();
            async move {
                use std::os::unix::fs::FileExt;
                let mut buffer = vec![0; CHUNK.min((size - offset as u64) as usize)];
                file.read_exact_at(&mut buffer, offset as u64).map_err(Error::io("cannot read an artifact"))?;
                Ok(Bytes::from(buffer))
            }
        })
        .await
    }

    async fn put_with<F, R>(&self, token: Bytes, size: u64, read: F) -> Result<PutBlobResponse, Error>
    where
        F: Fn(usize) -> R + Clone + Send + 'static,
        R: Future<Output = Result<Bytes, Error>> + Send + 'static,
    {
        let mut tries = 0;
        loop {
            let (sender, queue) = tokio::sync::mpsc::channel(4);
            let (read, first) = (read.clone(), token.clone());
            let feeder = tokio::spawn(async move {
                let mut offset = 0;
                let mut token = first;
                loop {
                    let data = if offset as u64 == size { Bytes::new() } else { read(offset).await? };
                    offset += data.len();
                    let message = PutBlobRequest { size, data, token: std::mem::take(&mut token) };
                    if sender.send(message).await.is_err() || offset as u64 >= size {
                        return Ok::<(), Error>(());
                    }
                }
            });
            let answer = self.client.worker().put_blob(tokio_stream::wrappers::ReceiverStream::new(queue)).await;
            // A file that got shorter meanwhile is the task's fault, not the network's.
            if let Ok(Err(error)) = feeder.await {
                return Err(error);
            }
            match answer {
                Ok(stored) => return Ok(stored.into_inner()),
                Err(status) => {
                    tries += 1;
                    let error = network("cannot store a result", &status);
                    if !error.is_retryable() || tries >= TRIES {
                        return Err(error);
                    }
                    tokio::time::sleep(Duration::from_millis(100 << tries)).await;
                }
            }
        }
    }
}

fn check(hash: &str, hasher: Sha256) -> Result<(), Error> {
    let found = format!("sha256:{}", hex::encode(hasher.finalize()));
    if found == hash {
        return Ok(());
    }
    Err(Error::Environment { message: format!("{hash} arrived damaged: its hash is {found}"), retryable: true })
}

/// The hash and size of a file.
pub(crate) async fn hash_file(path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = tokio::fs::File::open(path).await?;
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = file.read(&mut buffer).await?;
        if n == 0 {
            return Ok((format!("sha256:{}", hex::encode(hasher.finalize())), size));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}
