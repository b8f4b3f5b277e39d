//! The history of a program as text, on its way to a client: turn by turn and value by value, so that what is held of it at a time
//! does not grow with the history.
//!
//! The pages of a history name the one before. Their names are gathered on the way back, which also shows that none is missing; then
//! each is read once more, the oldest first.

use std::io::Read;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use tidewheel_engine::id::TenantId;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::run_pages;
use crate::problem::Failure;
use crate::state::Api;
use crate::store::blob::Blobs;

/// Bytes of one piece, about, and pieces that wait for a slow reader.
const PIECE: usize = 64 << 10;
const PIECES: usize = 4;
/// Bytes of a blob that are read at once.
const PART: u64 = 1 << 20;

/// A page: its name, and the turns that are taken from it.
struct Page {
    hash: [u8; 32],
    /// Its turns below this one.
    below: u64,
}

/// The text of a history: `history` as the engine writes it, with the turns of its pages before its own, and every large value in the place
/// of its reference.
pub(super) async fn text(
    api: &Api,
    tenant: TenantId,
    run: String,
    history: Value,
) -> Result<Receiver<Result<Bytes, Failure>>, Failure> {
    let Value::Object(mut head) = history else { return Err(Failure::internal("a history is no object")) };
    let first = head.get("first").and_then(Value::as_u64).unwrap_or(1);
    let pages = pages(api, tenant, &run, head.remove("before").as_ref(), first).await?;
    let (sender, receiver) = channel(PIECES);
    let mut writer = Writer { api: api.clone(), tenant, run, sender, held: BytesMut::new() };
    tokio::spawn(async move {
        if let Err(failure) = writer.history(head, pages).await {
            let why = failure.0.detail.clone();
            // Whoever reads sees the answer break off; a reader that has gone needs nothing.
            if writer.sender.send(Err(failure)).await.is_ok() {
                tracing::warn!(run = %writer.run, why, "a history could not be given to its end");
            }
        }
    });
    Ok(receiver)
}

/// The pages with the turns before one, the oldest last.
async fn pages(
    api: &Api,
    tenant: TenantId,
    run: &str,
    newest: Option<&Value>,
    first: u64,
) -> Result<Vec<Page>, Failure> {
    let (mut pages, mut below, mut next) = (Vec::new(), first, newest.and_then(name_in));
    while below > 1 {
        let hash = next.ok_or_else(|| run_pages::gone(run, below))?;
        let page = run_pages::read(api, tenant, hash).await?.ok_or_else(|| run_pages::gone(run, below))?;
        if page.first >= below || page.turns_below(below).is_none() {
            return Err(run_pages::gone(run, below));
        }
        pages.push(Page { hash, below });
        (below, next) = (page.first, page.before());
    }
    Ok(pages)
}

/// The hash that a reference names.
pub(super) fn name_in(value: &Value) -> Option<[u8; 32]> {
    let map = value.as_object().filter(|map| map.len() == 2 && map.contains_key("size"))?;
    crate::text::parse_hash(map.get("$ref")?.as_str()?)
}

struct Writer {
    api: Api,
    tenant: TenantId,
    run: String,
    sender: Sender<Result<Bytes, Failure>>,
    held: BytesMut,
}

impl Writer {
    async fn history(&mut self, mut head: Map<String, Value>, pages: Vec<Page>) -> Result<(), Failure> {
        let own = match head.remove("turns") {
            Some(Value::Array(turns)) => turns,
            _ => Vec::new(),
        };
        let input = head.remove("input").unwrap_or(Value::Null);
        head.insert("first".into(), 1.into());
        self.members(head).await?;
        self.put(b",\"input\":").await?;
        self.value(&input).await?;
        self.put(b",\"turns\":[").await?;
        let mut empty = true;
        for Page { hash, below } in pages.into_iter().rev() {
            let page = run_pages::read(&self.api, self.tenant, hash).await?;
            let gone = || run_pages::gone(&self.run, below);
            let page = page.ok_or_else(gone)?;
            for turn in page.turns_below(below).ok_or_else(gone)? {
                self.comma(&mut empty).await?;
                // The text of one without large values goes on as it is.
                match turn.get().contains("\"$ref\"") {
                    false => self.put(turn.get().as_bytes()).await?,
                    true => {
                        let read = serde_json::from_str(turn.get());
                        self.turn(read.map_err(|_| Failure::internal("a turn cannot be read"))?).await?;
                    }
                }
            }
        }
        for turn in own {
            self.comma(&mut empty).await?;
            self.turn(turn).await?;
        }
        self.put(b"]}").await?;
        self.flush().await
    }

    async fn turn(&mut self, turn: Value) -> Result<(), Failure> {
        let Value::Object(mut turn) = turn else { return self.put(turn.to_string().as_bytes()).await };
        let Some(Value::Array(done)) = turn.remove("done") else {
            return self.put(Value::Object(turn).to_string().as_bytes()).await;
        };
        self.members(turn).await?;
        self.put(b",\"done\":[").await?;
        let mut empty = true;
        for mut told in done {
            self.comma(&mut empty).await?;
            let large = told.get("value").is_some_and(|value| name_in(value).is_some());
            match (large, told.as_object_mut()) {
                (true, Some(map)) => {
                    let value = map.remove("value").unwrap_or(Value::Null);
                    let rest = std::mem::take(map);
                    self.members(rest).await?;
                    self.put(b",\"value\":").await?;
                    self.value(&value).await?;
                    self.put(b"}").await?;
                }
                _ => self.put(told.to_string().as_bytes()).await?,
            }
        }
        self.put(b"]}").await
    }

    /// An object without its end: there is more to come. It has a member.
    async fn members(&mut self, map: Map<String, Value>) -> Result<(), Failure> {
        let text = Value::Object(map).to_string();
        self.put(&text.as_bytes()[..text.len() - 1]).await
    }

    async fn comma(&mut self, empty: &mut bool) -> Result<(), Failure> {
        match std::mem::replace(empty, false) {
            true => Ok(()),
            false => self.put(b",").await,
        }
    }

    /// A value, or what its reference names: a value that a run made, or a result of a task. One that is not here any more, or
    /// is no JSON, stays a reference.
    async fn value(&mut self, value: &Value) -> Result<(), Failure> {
        if let Some(hash) = name_in(value) {
            let tenant = self.tenant;
            let own = self.api.read_store(move |store| store.value(tenant, &hash)).await?;
            if let Some(text) = own.filter(|text| !text.is_empty()) {
                return self.put(&text).await;
            }
            let blobs = self.api.runtime.blobs().clone();
            let size = blobs.size(tenant.0, hash).await?;
            if let Some(size) = size
                && is_json(Blob { blobs: blobs.clone(), tenant, hash, at: 0, size, part: Bytes::new() }).await?
            {
                return self.blob(&*blobs, hash, size).await;
            }
        }
        self.put(value.to_string().as_bytes()).await
    }

    async fn blob(&mut self, blobs: &dyn Blobs, hash: [u8; 32], size: u64) -> Result<(), Failure> {
        let mut at = 0;
        while at < size {
            let part = blobs.read(self.tenant.0, hash, at, PART.min(size - at)).await?;
            if part.is_empty() {
                return Err(Failure::internal("a blob is shorter than its size"));
            }
            at += part.len() as u64;
            // A line feed in JSON is nothing but space: a history is one line, whatever a worker made of its results.
            let line = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
            let part: Vec<u8> = part.iter().map(line).collect();
            self.put(&part).await?;
        }
        Ok(())
    }

    async fn put(&mut self, text: &[u8]) -> Result<(), Failure> {
        for part in text.chunks(PIECE) {
            self.held.extend_from_slice(part);
            if self.held.len() >= PIECE {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let piece = self.held.split().freeze();
        self.sender.send(Ok(piece)).await.map_err(|_| Failure::internal("nobody reads the history any more"))
    }
}

/// Whether a blob is JSON: it is read in parts, and nothing of it kept.
async fn is_json(blob: Blob) -> Result<bool, Failure> {
    let handle = tokio::runtime::Handle::current();
    let work = move || match serde_json::from_reader::<_, IgnoredAny>(Parts { blob, handle }) {
        Ok(_) => Ok(true),
        Err(error) if error.is_io() => Err(Failure::internal(&format!("a large value cannot be read: {error}"))),
        Err(_) => Ok(false),
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::internal("a read of a blob panicked"))?
}

/// A blob and how far it was read.
struct Blob {
    blobs: Arc<dyn Blobs>,
    tenant: TenantId,
    hash: [u8; 32],
    at: u64,
    size: u64,
    part: Bytes,
}

/// A blob as a reader outside of the async threads.
struct Parts {
    blob: Blob,
    handle: tokio::runtime::Handle,
}

impl Read for Parts {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let Blob { blobs, tenant, hash, at, size, part } = &mut self.blob;
        if part.is_empty() && *at < *size {
            let read = blobs.read(tenant.0, *hash, *at, PART.min(*size - *at));
            *part = self.handle.block_on(read).map_err(|error| std::io::Error::other(error.to_string()))?;
            *at += part.len() as u64;
        }
        let count = part.len().min(out.len());
        out[..count].copy_from_slice(&part.split_to(count));
        Ok(count)
    }
}
