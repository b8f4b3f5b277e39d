//! Blobs in an object store: a local folder, or S3 and what speaks its protocol. Content-addressed, apart per tenant.
//!
//! A crate of its own, so that the object store client stays out of the builds of the engine, the stores and the
//! simulator. Never here: what a blob is for.
//!
//! Path of a blob: `t<tenant>/<2 hex>/<2 hex>/<64 hex>`: the SHA-256 of its content. It is written once and never changed,
//! so that a repeated put costs one look.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig, WriteMultipart,
};
use sha2::{Digest, Sha256};
use tidewheel_store::blob::{BlobFigures, Blobs, Pending};
use tidewheel_store::{Error, Hash};
use tokio::io::AsyncReadExt;

/// Part of a large upload. S3 takes no smaller part than 5 MiB but the last.
const PART_BYTES: usize = 8 << 20;
/// Parts under way at once: bounds the memory of one upload to three parts.
const PARTS_AT_ONCE: usize = 2;
/// Blobs that are remembered as touched: old ones that were put or found again. Beyond, all count as touched until they are
/// old again.
const TOUCHED: usize = 1 << 18;
/// A blob that was written so short a time ago needs no remembering: its own time keeps it.
const FRESH: Duration = Duration::from_secs(60);
/// A file is copied so often at most, until it is there as a blob of its size.
const COPIES: usize = 3;
/// Old blobs named in one round.
const OLD: usize = 1_000_000;

/// A call to S3 that fails for the moment is repeated so often and so long: a task or a request waits for it.
const RETRIES: usize = 5;
const RETRY_TIME: Duration = Duration::from_secs(20);

/// Where an S3 bucket is and how to get in.
#[derive(Clone, Default)]
pub struct S3Settings {
    /// Bucket.
    pub bucket: String,
    /// Region; `us-east-1` if empty.
    pub region: String,
    /// Address of a server that is not Amazon's; empty = Amazon's.
    pub endpoint: String,
    /// Access key id; empty = the machine's role.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// Put before every path.
    pub prefix: String,
    /// Allow plain HTTP: for a server on the same machine.
    pub allow_http: bool,
}

impl std::fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Settings")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// See the module.
#[derive(Debug)]
pub struct ObjectBlobs {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    /// Bucket and address, for messages; nothing for a folder.
    place: Option<String>,
    touches: Touches,
    moved: Moved,
}

/// Bytes that came and went.
#[derive(Debug, Default)]
struct Moved {
    written: AtomicU64,
    read: AtomicU64,
    /// Of each tenant: as last listed, and what changed since.
    held: Mutex<HashMap<u32, u64>>,
}

impl Moved {
    fn wrote(&self, tenant: u32, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
        *lock(&self.held).entry(tenant).or_default() += bytes;
    }

    fn deleted(&self, tenant: u32, bytes: u64) {
        let mut held = lock(&self.held);
        let held = held.entry(tenant).or_default();
        *held = held.saturating_sub(bytes);
    }
}

/// When blobs were last put or found. A blob that is found is about to be named, however old it is: it must not be deleted
/// between the two. Deleting takes the gate alone, finding shares it. Whatever is written is written outside of it, so that a
/// slow upload holds nobody up: small bytes count as being written for as long as it takes, a file is touched before and
/// looked for after.
#[derive(Debug)]
struct Touches {
    gate: tokio::sync::RwLock<()>,
    last: Mutex<HashMap<(u32, Hash), Instant>>,
    /// Being written: how many are at it. Their own time keeps them afterwards, so that no put has to be remembered.
    writing: Mutex<HashMap<(u32, Hash), u32>>,
    /// All were touched then at the latest, if ever since the start.
    all: Mutex<Option<Instant>>,
    /// What was put or found before that, nobody knows any more: it counts as touched then.
    born: Instant,
    fresh: Duration,
}

impl Touches {
    fn new() -> Touches {
        Touches {
            gate: tokio::sync::RwLock::default(),
            last: Mutex::default(),
            writing: Mutex::default(),
            all: Mutex::default(),
            born: Instant::now(),
            fresh: FRESH,
        }
    }

    fn touch(&self, tenant: u32, hash: Hash) {
        let now = Instant::now();
        let mut last = lock(&self.last);
        if last.len() >= TOUCHED {
            last.clear();
            *lock(&self.all) = Some(now);
        }
        last.insert((tenant, hash), now);
    }

    /// Not old until this is dropped.
    fn write(&self, tenant: u32, hash: Hash) -> Writing<'_> {
        *lock(&self.writing).entry((tenant, hash)).or_default() += 1;
        Writing { touches: self, blob: (tenant, hash) }
    }

    fn is_old(&self, tenant: u32, hash: Hash, age: Duration) -> bool {
        if lock(&self.writing).contains_key(&(tenant, hash)) {
            return false;
        }
        let touched = lock(&self.last).get(&(tenant, hash)).copied();
        let touched = touched.or(*lock(&self.all)).unwrap_or(self.born);
        touched.elapsed() >= age
    }

    fn forget(&self, age: Duration) {
        lock(&self.last).retain(|_, touched| touched.elapsed() < age);
    }
}

/// A blob that is being written, see [`Touches::write`].
struct Writing<'a> {
    touches: &'a Touches,
    blob: (u32, Hash),
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut writing = lock(&self.touches.writing);
        if let Some(count) = writing.get_mut(&self.blob) {
            *count -= 1;
            if *count == 0 {
                writing.remove(&self.blob);
            }
        }
    }
}

/// What is behind the lock is whole after a panic, too: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl ObjectBlobs {
    /// Blobs in a folder, which is made if it is missing. Every write is synced before it is named.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made or used.
    pub fn local(folder: &Path) -> Result<ObjectBlobs, Error> {
        std::fs::create_dir_all(folder).map_err(|e| Error::Failed(format!("{}: {e}", folder.display())))?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(plain)?.with_fsync(true);
        Ok(ObjectBlobs::new(Arc::new(store), String::new(), None))
    }

    /// Blobs in a bucket.
    ///
    /// # Errors
    ///
    /// When the settings do not make sense; the bucket itself is first asked by the first call.
    pub fn s3(settings: &S3Settings) -> Result<ObjectBlobs, Error> {
        let region = if settings.region.is_empty() { "us-east-1" } else { &settings.region };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(region)
            .with_allow_http(settings.allow_http)
            .with_retry(RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIME, ..RetryConfig::default() });
        // Without a key the machine's own role is asked for one.
        if !settings.access_key_id.is_empty() {
            builder =
                builder.with_access_key_id(&settings.access_key_id).with_secret_access_key(&settings.secret_access_key);
        }
        if !settings.endpoint.is_empty() {
            builder = builder.with_endpoint(&settings.endpoint);
        }
        let store = builder.build().map_err(plain)?;
        let address = if settings.endpoint.is_empty() { "Amazon S3" } else { &settings.endpoint };
        let place = Some(format!("'{}' of {address}", settings.bucket));
        Ok(ObjectBlobs::new(Arc::new(store), settings.prefix.clone(), place))
    }

    fn new(store: Arc<dyn ObjectStore>, prefix: String, place: Option<String>) -> ObjectBlobs {
        ObjectBlobs { store, prefix, place, touches: Touches::new(), moved: Moved::default() }
    }

    /// What went wrong in words that name the setting to look at. Object stores tell little themselves.
    fn failed(&self, error: object_store::Error) -> Error {
        let Some(place) = &self.place else { return plain(error) };
        let refused = |why: &str| Error::Failed(format!("the bucket {place} {why}: {error}"));
        match &error {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                refused("refuses these credentials (blobs.s3.accessKey, blobs.s3.secretKey)")
            }
            object_store::Error::NotFound { .. } => refused("is not there, or has lost a blob (blobs.s3.bucket)"),
            _ => match plain(error) {
                Error::Failed(why) => Error::Failed(format!("the bucket {place} cannot be used: {why}")),
                other => other,
            },
        }
    }

    fn folder(&self, tenant: u32) -> Key {
        let base = Key::from(self.prefix.as_str());
        base.join(format!("t{tenant}"))
    }

    fn key(&self, tenant: u32, hash: &Hash) -> Key {
        let text = hex::encode(hash);
        self.folder(tenant).join(text[0..2].to_owned()).join(text[2..4].to_owned()).join(text)
    }

    async fn has(&self, key: &Key) -> Result<Option<u64>, Error> {
        Ok(self.meta(key).await?.map(|meta| meta.size))
    }

    async fn meta(&self, key: &Key) -> Result<Option<object_store::ObjectMeta>, Error> {
        match self.store.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Looks for a blob that is about to be named. The caller holds the gate.
    async fn find(&self, tenant: u32, hash: Hash, key: &Key) -> Result<Option<u64>, Error> {
        let Some(meta) = self.meta(key).await? else { return Ok(None) };
        let written = std::time::SystemTime::now().duration_since(meta.last_modified.into()).unwrap_or_default();
        if written >= self.touches.fresh {
            self.touches.touch(tenant, hash);
        }
        Ok(Some(meta.size))
    }

    async fn put_bytes(&self, tenant: u32, bytes: Bytes) -> Result<Hash, Error> {
        let hash: Hash = Sha256::digest(&bytes).into();
        let key = self.key(tenant, &hash);
        let _writing = {
            let _open = self.touches.gate.read().await;
            if self.find(tenant, hash, &key).await?.is_some() {
                return Ok(hash);
            }
            self.touches.write(tenant, hash)
        };
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let size = bytes.len() as u64;
        match self.store.put_opts(&key, bytes.into(), options).await {
            Ok(_) => {
                self.moved.wrote(tenant, size);
                Ok(hash)
            }
            // Somebody else was quicker with the same bytes.
            Err(object_store::Error::AlreadyExists { .. }) => Ok(hash),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn put_path(&self, tenant: u32, path: &Path) -> Result<(Hash, u64), Error> {
        let (hash, size) = hash_of(path).await?;
        let key = self.key(tenant, &hash);
        let mut copies = 0;
        while self.touch_and_find(tenant, hash, &key).await? != Some(size) {
            // Changed since its hash was taken; or deleted as old during a copy that took longer than a blob is kept.
            if copies == COPIES {
                let why = format!("{}: it changes while it is stored, or its blob is deleted", path.display());
                return Err(Error::Failed(why));
            }
            copies += 1;
            self.copy(path, &key).await?;
            self.moved.wrote(tenant, size);
        }
        Ok((hash, size))
    }

    /// Looks for a blob that is about to be named or written, which is not deleted from here on, whether it is there or not.
    async fn touch_and_find(&self, tenant: u32, hash: Hash, key: &Key) -> Result<Option<u64>, Error> {
        let _open = self.touches.gate.read().await;
        self.touches.touch(tenant, hash);
        self.has(key).await
    }

    async fn copy(&self, path: &Path, key: &Key) -> Result<(), Error> {
        let upload = self.store.put_multipart(key).await.map_err(|e| self.failed(e))?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut file = tokio::fs::File::open(path).await.map_err(|e| io(path, &e))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer).await.map_err(|e| io(path, &e))?;
            if read == 0 {
                break;
            }
            writer.wait_for_capacity(PARTS_AT_ONCE).await.map_err(|e| self.failed(e))?;
            writer.write(&buffer[..read]);
        }
        writer.finish().await.map_err(|e| self.failed(e))?;
        Ok(())
    }

    async fn read_range(&self, tenant: u32, hash: Hash, offset: u64, limit: u64) -> Result<Bytes, Error> {
        let key = self.key(tenant, &hash);
        let Some(size) = self.has(&key).await? else {
            return Err(Error::Failed(format!("there is no blob {}", hex::encode(hash))));
        };
        let until = offset.saturating_add(limit).min(size);
        if offset >= until {
            return Ok(Bytes::new());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(offset..until)), ..GetOptions::default() };
        let bytes = self
            .store
            .get_opts(&key, options)
            .await
            .map_err(|e| self.failed(e))?
            .bytes()
            .await
            .map_err(|e| self.failed(e))?;
        self.moved.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if offset == 0 && until == size && Hash::from(Sha256::digest(&bytes)) != hash {
            return Err(Error::Corrupt(format!("the content of blob {} does not have its hash", hex::encode(hash))));
        }
        Ok(bytes)
    }

    async fn look(&self, tenant: u32, hash: Hash) -> Result<Option<u64>, Error> {
        let _open = self.touches.gate.read().await;
        self.find(tenant, hash, &self.key(tenant, &hash)).await
    }

    async fn list_old(&self, tenant: u32, age: Duration) -> Result<Vec<Hash>, Error> {
        self.touches.forget(age);
        let now = std::time::SystemTime::now();
        let mut listed = self.store.list(Some(&self.folder(tenant)));
        let (mut out, mut held) = (Vec::new(), 0);
        while let Some(meta) = listed.try_next().await.map_err(|e| self.failed(e))? {
            held += meta.size;
            let written = now.duration_since(meta.last_modified.into()).unwrap_or_default();
            let name = meta.location.filename().and_then(|name| hex::decode(name).ok());
            let Some(hash) = name.and_then(|h| Hash::try_from(h).ok()) else { continue };
            if written > age && self.touches.is_old(tenant, hash, age) {
                out.push(hash);
            }
            if out.len() >= OLD {
                // The listing was not read to its end, and says nothing of what there is in all.
                return Ok(out);
            }
        }
        lock(&self.moved.held).insert(tenant, held);
        Ok(out)
    }

    async fn remove_old(&self, tenant: u32, hash: Hash, age: Duration) -> Result<bool, Error> {
        let _alone = self.touches.gate.write().await;
        if !self.touches.is_old(tenant, hash, age) {
            return Ok(false);
        }
        let key = self.key(tenant, &hash);
        let size = self.has(&key).await?.unwrap_or(0);
        match self.store.delete(&key).await {
            Ok(()) => {
                self.moved.deleted(tenant, size);
                Ok(true)
            }
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed(error)),
        }
    }
}

impl Blobs for ObjectBlobs {
    fn put(&self, tenant: u32, bytes: Bytes) -> Pending<'_, Hash> {
        Box::pin(self.put_bytes(tenant, bytes))
    }

    fn put_file<'a>(&'a self, tenant: u32, path: &'a Path) -> Pending<'a, (Hash, u64)> {
        Box::pin(self.put_path(tenant, path))
    }

    fn size(&self, tenant: u32, hash: Hash) -> Pending<'_, Option<u64>> {
        Box::pin(self.look(tenant, hash))
    }

    fn read(&self, tenant: u32, hash: Hash, offset: u64, limit: u64) -> Pending<'_, Bytes> {
        Box::pin(self.read_range(tenant, hash, offset, limit))
    }

    fn old(&self, tenant: u32, age: Duration) -> Pending<'_, Vec<Hash>> {
        Box::pin(self.list_old(tenant, age))
    }

    fn remove(&self, tenant: u32, hash: Hash, age: Duration) -> Pending<'_, bool> {
        Box::pin(self.remove_old(tenant, hash, age))
    }

    fn count(&self, tenant: u32) -> Pending<'_, u64> {
        Box::pin(async move {
            let mut listed = self.store.list(Some(&self.folder(tenant)));
            let mut held = 0;
            while let Some(meta) = listed.try_next().await.map_err(|e| self.failed(e))? {
                held += meta.size;
            }
            lock(&self.moved.held).insert(tenant, held);
            Ok(held)
        })
    }

    fn figures(&self) -> BlobFigures {
        BlobFigures {
            held: lock(&self.moved.held).values().sum(),
            written: self.moved.written.load(Ordering::Relaxed),
            read: self.moved.read.load(Ordering::Relaxed),
        }
    }
}

async fn hash_of(path: &Path) -> Result<(Hash, u64), Error> {
    let mut file = tokio::fs::File::open(path).await.map_err(|e| io(path, &e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer).await.map_err(|e| io(path, &e))?;
        if read == 0 {
            return Ok((hasher.finalize().into(), size));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull => Error::Full(error.to_string()),
        _ => Error::Failed(format!("{}: {error}", path.display())),
    }
}

fn plain(error: object_store::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::StorageFull
        {
            return Error::Full(io.to_string());
        }
        source = cause.source();
    }
    Error::Failed(error.to_string())
}

// The promises are checked in `tests/it`, for folders and S3 alike; here is what needs a look at the files.
#[cfg(test)]
mod tests {
    use super::*;

    async fn blobs() -> (tempfile::TempDir, ObjectBlobs) {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = ObjectBlobs::local(&folder.path().join("blobs")).expect("blobs");
        (folder, blobs)
    }

    #[tokio::test]
    async fn a_changed_byte_is_found_when_the_blob_is_read() {
        let (folder, blobs) = blobs().await;
        let hash = blobs.put(1, Bytes::from_static(b"precious")).await.expect("put");
        let text = hex::encode(hash);
        let path = folder.path().join("blobs/t1").join(&text[0..2]).join(&text[2..4]).join(&text);
        std::fs::write(&path, b"Precious").expect("damage");
        assert!(matches!(blobs.read(1, hash, 0, 100).await, Err(Error::Corrupt(_))));
    }

    #[tokio::test]
    async fn bytes_are_counted_as_they_come_and_go_and_anew_by_a_listing() {
        let (folder, blobs) = blobs().await;
        let hash = blobs.put(1, Bytes::from_static(b"seven b")).await.expect("put");
        blobs.put(1, Bytes::from_static(b"seven b")).await.expect("put again");
        let file = folder.path().join("file");
        std::fs::write(&file, vec![7; 1000]).expect("written");
        blobs.put_file(2, &file).await.expect("put");
        blobs.read(1, hash, 2, 4).await.expect("read");
        assert_eq!(blobs.figures(), BlobFigures { held: 1007, written: 1007, read: 4 });
        assert!(blobs.remove(1, hash, Duration::ZERO).await.expect("removed"));
        assert_eq!(blobs.figures().held, 1000);
        // One opened later knows nothing until it has listed them.
        let later = ObjectBlobs::local(&folder.path().join("blobs")).expect("blobs");
        assert_eq!(later.figures(), BlobFigures::default());
        assert_eq!((later.count(1).await.expect("listed"), later.count(2).await.expect("listed")), (0, 1000));
        assert_eq!(later.figures(), BlobFigures { held: 1000, written: 0, read: 0 });
    }

    #[tokio::test]
    async fn a_slow_upload_during_a_deletion_held_up_every_other_put() {
        let (folder, blobs) = blobs().await;
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
        let hash = Hash::from(Sha256::digest(b"slow"));
        let write = || {
            let pipe = pipe.clone();
            tokio::task::spawn_blocking(move || std::fs::write(pipe, b"slow").expect("written"))
        };
        let others = async {
            write().await.expect("read for the hash");
            while !lock(&blobs.touches.last).contains_key(&(1, hash)) {
                tokio::task::yield_now().await;
            }
            // Its copy waits for the second writer now.
            assert!(!blobs.remove(1, [0; 32], Duration::ZERO).await.expect("asked"));
            blobs.put(1, Bytes::from_static(b"quick")).await.expect("put");
            assert_eq!(blobs.size(1, hash).await.expect("looked"), None);
            let day = Duration::from_secs(24 * 3600);
            assert!(!blobs.remove(1, hash, day).await.expect("asked"));
            write().await.expect("read for the copy");
        };
        let both = async { tokio::join!(blobs.put_file(1, &pipe), others) };
        let (stored, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("nobody waits for it");
        assert_eq!(stored.expect("stored"), (hash, 4));
        assert_eq!(blobs.read(1, hash, 0, 9).await.expect("read"), "slow");
    }

    /// A bucket without anything in it, whose server answers a put when it is told to.
    fn slow_bucket(asked: std::sync::mpsc::Sender<()>, go_on: std::sync::mpsc::Receiver<()>) -> ObjectBlobs {
        use std::io::{BufRead, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = std::io::BufReader::new(stream.expect("a connection"));
                let mut request = String::new();
                while stream.read_line(&mut request).expect("a request") > 2 {}
                let put = request.starts_with("PUT");
                if put {
                    asked.send(()).expect("the test listens");
                    go_on.recv().expect("the test goes on");
                }
                let status = if put { "200 OK\r\netag: \"x\"" } else { "404 Not Found" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.get_mut().write_all(answer.as_bytes()).expect("an answer");
            }
        });
        let (access_key_id, secret_access_key) = ("key".to_owned(), "secret".to_owned());
        let settings =
            S3Settings { bucket: "b".into(), endpoint, access_key_id, secret_access_key, ..Default::default() };
        ObjectBlobs::s3(&S3Settings { allow_http: true, ..settings }).expect("the settings make sense")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_slow_put_of_small_bytes_held_up_the_sweep_and_with_it_every_other_put() {
        let (asked, hears) = std::sync::mpsc::channel();
        let (tells, go_on) = std::sync::mpsc::channel();
        let blobs = slow_bucket(asked, go_on);
        let hash = Hash::from(Sha256::digest(b"slow"));
        let others = async {
            tokio::task::spawn_blocking(move || hears.recv().expect("a put")).await.expect("it comes");
            // The put is under way. What is being written is left alone, and nobody waits to hear it.
            assert!(!blobs.remove(1, hash, Duration::ZERO).await.expect("asked"));
            assert!(blobs.touches.gate.try_write().is_ok(), "the gate is open");
            tells.send(()).expect("the server listens");
        };
        let both = async { tokio::join!(blobs.put(1, Bytes::from_static(b"slow")), others) };
        let (stored, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("nobody waits for it");
        assert_eq!(stored.expect("stored"), hash);
        assert!(lock(&blobs.touches.writing).is_empty());
    }

    #[tokio::test]
    async fn an_old_blob_that_was_put_or_found_again_is_not_deleted() {
        let (_folder, mut blobs) = blobs().await;
        blobs.touches.fresh = Duration::ZERO;
        let age = Duration::from_millis(30);
        let [a, b, c] = [b"a", b"b", b"c"].map(|content| blobs.put(1, Bytes::from_static(content)));
        let (a, b, c) = (a.await.expect("put"), b.await.expect("put"), c.await.expect("put"));
        let long = Duration::from_secs(3600);
        assert!(blobs.old(1, long).await.expect("listed").is_empty(), "just written");
        // They become old by themselves; how long that takes does not matter.
        let mut old = Vec::new();
        while old.len() < 3 {
            tokio::time::sleep(age / 10).await;
            old = blobs.old(1, age).await.expect("listed");
        }
        assert_eq!(blobs.size(1, a).await.expect("looked"), Some(1));
        blobs.put(1, Bytes::from_static(b"b")).await.expect("put again");
        assert!(!blobs.remove(1, a, long).await.expect("asked"));
        assert!(!blobs.remove(1, b, long).await.expect("asked"));
        assert!(blobs.remove(1, c, age).await.expect("asked"));
        assert!(!blobs.remove(1, c, age).await.expect("asked"), "gone already");
        assert_eq!((blobs.size(1, a).await.unwrap(), blobs.size(1, c).await.unwrap()), (Some(1), None));
    }
}
