//! Archives of packages are stored as parts: blobs cut by their content ([`tidewheel_proto::chunk`]), and a list of them
//! that is a blob, too. Versions share what they share, and the archive is put together again when it is read. The record
//! of a version names its list, the list names the parts.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tidewheel_engine::id::TenantId;
use tidewheel_engine::mutation::RecordKind;
use tidewheel_proto::code::Code;
use tidewheel_proto::{chunk, rest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::blob::{self, Upload, Uploaded};
use crate::auth::Principal;
use crate::problem::Failure;
use crate::state::Api;
use crate::text::{hash_text, parse_hash};

/// Parts stored at once: each is a file that is synced.
const PUTS: usize = 8;
/// Parts of one archive; the largest archive of the default bound has some 5,000.
const MAX_PARTS: usize = 65_536;
/// Hashes of one question.
pub(crate) const MAX_ASKED: usize = 10_000;
/// Parts kept in memory while many agents fetch the same package; and the parts that the lists in memory have together,
/// each of some 100 bytes.
const CACHE_BYTES: usize = 32 << 20;
const CACHE_LISTED: usize = 2 * MAX_PARTS;
/// Tenants whose archives are kept as an index.
const CACHE_TENANTS: usize = 1024;

/// An archive as the list of its parts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Parts {
    /// Bytes of the archive.
    pub(crate) size: u64,
    /// Hash (hex digits) and bytes of each, in order.
    pub(crate) parts: Vec<(String, u64)>,
}

/// A stored list.
pub(crate) struct Kept {
    /// `sha256:...` of the list.
    pub(crate) list: String,
    /// Bytes of parts that were new.
    pub(crate) new_bytes: u64,
}

/// A blob of a tenant.
type Key = (TenantId, [u8; 32]);

/// What agents fetch at the same time: the same parts, mostly within seconds.
#[derive(Default)]
pub(crate) struct PartsCache {
    lists: Mutex<Lists>,
    parts: Mutex<Recent>,
    archives: Mutex<HashMap<TenantId, (u64, Arc<Archives>)>>,
}

/// The archives of a tenant's packages by their hash, with the list of the parts; without one, it is kept as a whole by
/// an earlier version. For one version of the directory, so that asking for hashes that no package has costs one look.
type Archives = HashMap<[u8; 32], Option<[u8; 32]>>;

/// Lists of parts, the oldest of which goes first.
#[derive(Default)]
struct Lists {
    parts: usize,
    order: VecDeque<Key>,
    lists: HashMap<Key, Arc<Parts>>,
}

impl Lists {
    fn add(&mut self, key: Key, list: Arc<Parts>) {
        // An empty one takes room, too.
        let cost = |list: &Parts| list.parts.len() + 1;
        if self.lists.contains_key(&key) {
            return;
        }
        self.parts += cost(&list);
        self.order.push_back(key);
        self.lists.insert(key, list);
        while self.parts > CACHE_LISTED
            && let Some(oldest) = self.order.pop_front()
        {
            self.parts -= self.lists.remove(&oldest).map_or(0, |list| cost(&list));
        }
    }
}

#[derive(Default)]
struct Recent {
    bytes: usize,
    order: VecDeque<Key>,
    parts: HashMap<Key, Bytes>,
}

impl Recent {
    fn add(&mut self, key: Key, part: Bytes) {
        if part.len() > CACHE_BYTES / 4 || self.parts.contains_key(&key) {
            return;
        }
        self.bytes += part.len();
        self.order.push_back(key);
        self.parts.insert(key, part);
        while self.bytes > CACHE_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.parts.remove(&oldest).map_or(0, |part| part.len());
        }
    }
}

impl Parts {
    /// Their hashes.
    pub(crate) fn hashes(&self) -> Option<Vec<[u8; 32]>> {
        self.parts.iter().map(|(hex, _)| parse_hash(&format!("sha256:{hex}"))).collect()
    }
}

/// Stores an archive as parts, durably.
pub(crate) async fn keep(api: &Api, tenant: TenantId, upload: &Uploaded) -> Result<Kept, Failure> {
    let reader = upload.open().map_err(|_| unreadable())?;
    let (sender, cut) = mpsc::channel::<Bytes>(PUTS);
    let cutter = tokio::task::spawn_blocking(move || {
        chunk::split(reader, |part| sender.blocking_send(Bytes::copy_from_slice(part)).is_ok())
    });
    let blobs = api.runtime.blobs().clone();
    let stored: Vec<((String, u64), u64)> = ReceiverStream::new(cut)
        .map(move |part| {
            let blobs = blobs.clone();
            async move {
                let hash: [u8; 32] = Sha256::digest(&part).into();
                let size = part.len() as u64;
                let known = blobs.size(tenant.0, hash).await? == Some(size);
                if !known {
                    blobs.put(tenant.0, part).await?;
                }
                Ok::<_, Failure>(((hex::encode(hash), size), if known { 0 } else { size }))
            }
        })
        .buffered(PUTS)
        .try_collect()
        .await?;
    cutter.await.map_err(|_| unreadable())?.map_err(|_| unreadable())?;
    let new_bytes = stored.iter().map(|(_, new)| new).sum();
    let parts = Parts { size: upload.size, parts: stored.into_iter().map(|(part, _)| part).collect() };
    keep_list(api, tenant, &parts, new_bytes).await
}

/// Stores the list of parts that are stored.
pub(crate) async fn keep_list(api: &Api, tenant: TenantId, parts: &Parts, new_bytes: u64) -> Result<Kept, Failure> {
    let text = serde_json::to_vec(parts).map_err(|_| Failure::internal("a list of parts does not serialise"))?;
    let hash = api.runtime.blobs().put(tenant.0, text.into()).await?;
    api.metrics.package_moved("uploaded", new_bytes);
    Ok(Kept { list: hash_text(&hash), new_bytes })
}

fn unreadable() -> Failure {
    Failure::new(Code::Unavailable, "The upload cannot be read now.")
}

/// The parts that a client names, looked up: each has to be there.
pub(crate) async fn named(api: &Api, caller: &Principal, given: &[rest::Blob]) -> Result<Parts, Failure> {
    if given.len() > MAX_PARTS {
        return Err(Failure::field("/parts", format!("an archive has at most {MAX_PARTS} parts")));
    }
    let mut parts = Parts::default();
    let mut hashes = Vec::with_capacity(given.len());
    for (index, part) in given.iter().enumerate() {
        let place = format!("/parts/{index}");
        let hash = parse_hash(&part.hash)
            .ok_or_else(|| Failure::field(format!("{place}/hash"), "a hash is sha256: and 64 hexadecimal digits"))?;
        if part.size == 0 || part.size > chunk::MAX as u64 {
            let why = format!("a part has 1 to {} bytes", chunk::MAX);
            return Err(Failure::field(format!("{place}/size"), why));
        }
        parts.size += part.size;
        parts.parts.push((hex::encode(hash), part.size));
        hashes.push(hash);
    }
    let bound = api.config.package_bound();
    if parts.size > bound.bytes {
        return Err(bound.exceeded());
    }
    let sizes = sizes(api, caller, hashes).await?;
    let missing = || sizes.iter().zip(given).filter(|(stored, _)| stored.is_none());
    if let Some((_, first)) = missing().next() {
        let detail = format!(
            "{} of the parts are not stored, {} for one: ask with POST /api/v1/blobs:missing, send them with \
             PUT /api/v1/blobs/HASH, and repeat the call.",
            missing().count(),
            first.hash
        );
        return Err(Failure::new(Code::Conflict, detail));
    }
    let mut claimed = sizes.iter().flatten().zip(given).enumerate();
    if let Some((index, (stored, part))) = claimed.find(|(_, (stored, part))| **stored != part.size) {
        let why = format!("the part {} has {stored} bytes, not {}", part.hash, part.size);
        return Err(Failure::field(format!("/parts/{index}/size"), why));
    }
    Ok(parts)
}

/// Those of the hashes that are not stored.
pub(crate) async fn missing(api: &Api, caller: &Principal, hashes: &[String]) -> Result<Vec<String>, Failure> {
    let mut wanted = Vec::with_capacity(hashes.len());
    for (index, text) in hashes.iter().enumerate() {
        let why = "a hash is sha256: and 64 hexadecimal digits";
        let hash = parse_hash(text).ok_or_else(|| Failure::field(format!("/hashes/{index}"), why))?;
        wanted.push(hash);
    }
    let found = sizes(api, caller, wanted).await?;
    let missing = found.iter().zip(hashes).filter(|(stored, _)| stored.is_none());
    Ok(missing.map(|(_, text)| text.clone()).collect())
}

/// The size of each blob, or `None` where there is none.
async fn sizes(api: &Api, caller: &Principal, hashes: Vec<[u8; 32]>) -> Result<Vec<Option<u64>>, Failure> {
    let (blobs, tenant) = (api.runtime.blobs().clone(), caller.tenant.0);
    let asked = futures::stream::iter(hashes).map(move |hash| {
        let blobs = blobs.clone();
        async move { Ok::<_, Failure>(blobs.size(tenant, hash).await?) }
    });
    asked.buffered(PUTS).try_collect().await
}

/// Parts put together as an upload, whose hash is that of the whole.
pub(crate) async fn assemble(api: &Api, tenant: TenantId, parts: &Arc<Parts>) -> Result<Uploaded, Failure> {
    let mut upload = Upload::new(api, api.config.package_bound());
    let mut content = Box::pin(stream(api, tenant, parts, 0, parts.size));
    while let Some(part) = content.next().await {
        upload.push(&part?)?;
    }
    upload.finish()
}

/// The parts of the package whose archive has this hash, if the tenant has one that is stored so.
pub(crate) async fn of_archive(api: &Api, tenant: TenantId, hash: [u8; 32]) -> Result<Option<Arc<Parts>>, Failure> {
    if let Some(known) = api.parts.lists.lock().lists.get(&(tenant, hash)) {
        return Ok(Some(known.clone()));
    }
    let Some(list) = archives(api, tenant).get(&hash).copied().flatten() else { return Ok(None) };
    let bytes = api.runtime.blobs().read(tenant.0, list, 0, u64::MAX).await?;
    let parts: Parts =
        serde_json::from_slice(&bytes).map_err(|_| Failure::internal("a stored list of parts cannot be read"))?;
    let parts = Arc::new(parts);
    api.parts.lists.lock().add((tenant, hash), parts.clone());
    Ok(Some(parts))
}

/// Reads the records of a tenant's packages, once per version of the directory.
fn archives(api: &Api, tenant: TenantId) -> Arc<Archives> {
    #[derive(Deserialize)]
    struct Named {
        hash: String,
        #[serde(default)]
        parts: Option<String>,
    }
    let directory = api.runtime.directory();
    let version = directory.version();
    if let Some((_, known)) = api.parts.archives.lock().get(&tenant).filter(|(of, _)| *of == version) {
        return known.clone();
    }
    let mut archives = Archives::new();
    for record in directory.records(RecordKind::Package, tenant) {
        let Ok(named) = serde_json::from_str::<Named>(&record.value) else { continue };
        let Some(hash) = parse_hash(&named.hash) else { continue };
        let list = named.parts.as_deref().and_then(parse_hash);
        let known = archives.entry(hash).or_insert(list);
        *known = known.or(list);
    }
    let archives = Arc::new(archives);
    let mut all = api.parts.archives.lock();
    if all.len() >= CACHE_TENANTS && !all.contains_key(&tenant) {
        all.clear();
    }
    all.insert(tenant, (version, archives.clone()));
    archives
}

/// The bytes of an archive from `from` to before `until`.
pub(crate) fn stream(
    api: &Api,
    tenant: TenantId,
    parts: &Arc<Parts>,
    from: u64,
    until: u64,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send + 'static + use<> {
    let mut at = 0;
    let mut wanted = Vec::new();
    for (index, (_, size)) in parts.parts.iter().enumerate() {
        let (begin, end) = (at, at + size);
        at = end;
        if end > from && begin < until {
            wanted.push((index, from.saturating_sub(begin), size - end.saturating_sub(until)));
        }
    }
    some(api, tenant, parts, wanted)
}

/// Whole parts by their numbers.
pub(crate) fn chosen(
    api: &Api,
    tenant: TenantId,
    parts: &Arc<Parts>,
    numbers: &[u32],
) -> Result<impl Stream<Item = Result<Bytes, Failure>> + Send + 'static + use<>, Failure> {
    // Rising, so that no list is longer than the package has parts.
    if !numbers.is_sorted_by(|a, b| a < b) {
        return Err(Failure::new(Code::InvalidField, "the numbers of the parts have to rise"));
    }
    let one = |number: &u32| {
        let index = *number as usize;
        parts.parts.get(index).map(|(_, size)| (index, 0, *size))
    };
    let wanted: Option<Vec<_>> = numbers.iter().map(one).collect();
    let wanted = wanted.ok_or_else(|| Failure::new(Code::InvalidField, "the package has no part of this number"))?;
    Ok(some(api, tenant, parts, wanted))
}

fn some(
    api: &Api,
    tenant: TenantId,
    parts: &Arc<Parts>,
    wanted: Vec<(usize, u64, u64)>,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send + 'static + use<> {
    let (api, parts) = (api.clone(), parts.clone());
    // One after the other: the memory of a download is one part, whatever reads slowly.
    futures::stream::iter(wanted).then(move |(index, from, until)| {
        let (api, parts) = (api.clone(), parts.clone());
        async move {
            let (hex, size) = &parts.parts[index];
            let hash = parse_hash(&format!("sha256:{hex}"));
            let hash = hash.ok_or_else(|| Failure::internal("a stored list of parts cannot be read"))?;
            let key = (tenant, hash);
            let kept = api.parts.parts.lock().parts.get(&key).cloned();
            let part = match kept {
                Some(part) => part,
                None => {
                    // One more than it has, so that a part is whole or seen to be longer.
                    let part = api.runtime.blobs().read(tenant.0, hash, 0, size.saturating_add(1)).await?;
                    if part.len() as u64 == *size {
                        api.parts.parts.lock().add(key, part.clone());
                    }
                    part
                }
            };
            if part.len() as u64 != *size {
                return Err(Failure::internal("a part of a package does not have the size that its list says"));
            }
            Ok(part.slice(from as usize..until as usize))
        }
    })
}

/// Where the bytes of a hash are.
pub(crate) enum Content {
    /// One blob of so many bytes.
    Blob(u64),
    /// The archive of a package.
    Parts(Arc<Parts>),
    /// A value of a run.
    Value(Bytes),
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Content::Blob(size) => *size,
            Content::Parts(parts) => parts.size,
            Content::Value(bytes) => bytes.len() as u64,
        }
    }
}

/// Finds a blob or the archive of a package.
pub(crate) async fn find(api: &Api, tenant: TenantId, hash: [u8; 32]) -> Result<Option<Content>, Failure> {
    if let Some(size) = api.runtime.blobs().size(tenant.0, hash).await? {
        return Ok(Some(Content::Blob(size)));
    }
    if let Some(parts) = of_archive(api, tenant, hash).await? {
        return Ok(Some(Content::Parts(parts)));
    }
    // A large value that a run of the tenant made: inputs of its tasks name it.
    let value = api.read_store(move |store| store.value(tenant, &hash)).await?;
    Ok(value.filter(|bytes| !bytes.is_empty()).map(Content::Value))
}

/// Finds the archive of a package, and nothing else.
pub(crate) async fn find_package(api: &Api, tenant: TenantId, hash: [u8; 32]) -> Result<Option<Content>, Failure> {
    if let Some(parts) = of_archive(api, tenant, hash).await? {
        return Ok(Some(Content::Parts(parts)));
    }
    if !archives(api, tenant).contains_key(&hash) {
        return Ok(None);
    }
    Ok(api.runtime.blobs().size(tenant.0, hash).await?.map(Content::Blob))
}

/// Its bytes from `from` to before `until`.
pub(crate) fn content(
    api: &Api,
    tenant: TenantId,
    hash: [u8; 32],
    found: &Content,
    (from, until): (u64, u64),
) -> futures::stream::BoxStream<'static, Result<Bytes, Failure>> {
    match found {
        Content::Blob(_) => blob::stream(api, tenant, hash, from, until).boxed(),
        Content::Parts(parts) => stream(api, tenant, parts, from, until).boxed(),
        Content::Value(bytes) => {
            let end = bytes.len();
            let at = |at: u64| usize::try_from(at).unwrap_or(end).min(end);
            let part = bytes.slice(at(from).min(at(until))..at(until));
            futures::stream::once(async move { Ok(part) }).boxed()
        }
    }
}
