//! Stored content that tasks were given: inputs too large for a grant, and what tasks asked for with `ctx.fetch`. It is kept for
//! the next task with the same one, within the bounds of the cache, and announced to the server, which gives such a task
//! to a worker that holds it.
//!
//! `inputs/<tenant>-<digest>/content`. Each tenant has its own: what one has stored is given to no other, even if it knows
//! the hash. The folder is for the agent alone. What is read is checked against its hash, and fetched anew if it is not right.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::blobs::{Blobs, digest_of};
use crate::cache::{Hold, INPUTS};
use crate::error::Error;

/// A larger share of the cache than one in so many is not given to one input.
const SHARE: u64 = 8;
const CONTENT: &str = "content";

/// The cache of inputs.
pub(crate) struct Inputs {
    dir: PathBuf,
    blobs: Blobs,
    /// The largest that is kept.
    most: u64,
    /// One fetch of an input at a time, whoever asks.
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What came of asking for an input.
pub(crate) struct Got<T> {
    pub(crate) content: T,
    /// Its hash and size, if it is in the cache now and was not before.
    pub(crate) kept: Option<(String, u64)>,
}

impl Inputs {
    /// `bytes` bounds the whole cache; 0 keeps nothing.
    pub(crate) fn open(data_dir: &Path, blobs: Blobs, bytes: u64) -> Result<Self, Error> {
        let dir = data_dir.join(INPUTS);
        fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
        // Whoever else runs on this machine, tasks above all, has no business here.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(Error::file("close", &dir))?;
        for entry in fs::read_dir(&dir).map_err(Error::file("read", &dir))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(".new-") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(Self { dir, blobs, most: bytes / SHARE, flights: Mutex::default() })
    }

    /// Hashes of what is here, over all tenants, for the server's choice of a worker.
    pub(crate) fn held(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut held: Vec<String> = entries
            .filter(|e| e.path().is_dir())
            .filter_map(|e| hash_of_name(&e.file_name().to_string_lossy()))
            .collect();
        held.sort();
        held.dedup();
        held
    }

    /// The hash of an input, by its folder.
    pub(crate) fn hash_at(&self, place: &Path) -> Option<String> {
        hash_of_name(place.strip_prefix(&self.dir).ok()?.to_str()?)
    }

    /// Into memory. `tenant` is 0 where the server does not name it: then nothing is kept.
    pub(crate) async fn bytes(&self, tenant: u32, hash: &str, token: Bytes) -> Result<Got<Bytes>, Error> {
        let Some(place) = self.place(tenant, hash) else {
            return Ok(Got { content: self.blobs.fetch(hash, token).await?, kept: None });
        };
        let flight = self.flight(&place);
        let one = flight.lock().await;
        let wanted = (place.clone(), hash.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            let mut content = Vec::new();
            take(&wanted.0, &wanted.1, &mut content).then(|| Bytes::from(content))
        });
        let got = match read.await.ok().flatten() {
            Some(content) => Ok(Got { content, kept: None }),
            None => match self.blobs.fetch(hash, token).await {
                Ok(content) => {
                    let kept = self.keep(&place, hash, content.len() as u64, Source::Memory(content.clone())).await;
                    Ok(Got { content, kept })
                }
                Err(error) => Err(error),
            },
        };
        drop(one);
        self.land(&place, flight);
        got
    }

    /// Into a new file at `target`, through memory in pieces.
    pub(crate) async fn file(&self, tenant: u32, hash: &str, token: Bytes, target: &Path) -> Result<Got<()>, Error> {
        let Some(place) = self.place(tenant, hash) else {
            self.blobs.fetch_file(hash, token, target).await?;
            return Ok(Got { content: (), kept: None });
        };
        let flight = self.flight(&place);
        let one = flight.lock().await;
        let (from, wanted, to) = (place.clone(), hash.to_owned(), target.to_owned());
        let copied = tokio::task::spawn_blocking(move || {
            let done = File::create_new(&to).is_ok_and(|mut out| take(&from, &wanted, &mut out));
            if !done {
                let _ = fs::remove_file(&to);
            }
            done
        });
        let got = if copied.await.unwrap_or(false) {
            Ok(Got { content: (), kept: None })
        } else {
            match self.blobs.fetch_file(hash, token, target).await {
                Ok(_) => {
                    let size = fs::metadata(target).map_or(u64::MAX, |m| m.len());
                    let kept = self.keep(&place, hash, size, Source::File(target.to_owned())).await;
                    Ok(Got { content: (), kept })
                }
                Err(error) => Err(error),
            }
        };
        drop(one);
        self.land(&place, flight);
        got
    }

    fn place(&self, tenant: u32, hash: &str) -> Option<PathBuf> {
        let digest = digest_of(hash)?;
        (tenant > 0 && self.most > 0).then(|| self.dir.join(format!("{tenant}-{digest}")))
    }

    fn flight(&self, place: &Path) -> Arc<tokio::sync::Mutex<()>> {
        self.flights.lock().entry(place.display().to_string()).or_default().clone()
    }

    /// Forgets a flight that nobody else is in.
    fn land(&self, place: &Path, flight: Arc<tokio::sync::Mutex<()>>) {
        let mut flights = self.flights.lock();
        drop(flight);
        let name = place.display().to_string();
        if flights.get(&name).is_some_and(|flight| Arc::strong_count(flight) == 1) {
            flights.remove(&name);
        }
    }

    /// Keeps content for the next time. It is an optimisation: what goes wrong is logged, and the task has its input.
    async fn keep(&self, place: &Path, hash: &str, size: u64, source: Source) -> Option<(String, u64)> {
        if size > self.most {
            return None;
        }
        let (dir, place, hash) = (self.dir.clone(), place.to_owned(), hash.to_owned());
        let kept = tokio::task::spawn_blocking(move || store(&dir, &place, source).map(|()| (hash, size)));
        match kept.await {
            Ok(Ok(kept)) => Some(kept),
            Ok(Err(error)) => {
                tracing::warn!(%error, "an input could not be kept for the next task");
                None
            }
            Err(_) => None,
        }
    }
}

enum Source {
    Memory(Bytes),
    File(PathBuf),
}

fn store(dir: &Path, place: &Path, source: Source) -> std::io::Result<()> {
    let hold = Hold::take(place)?;
    if place.is_dir() {
        return Ok(());
    }
    let new = tempfile::Builder::new().prefix(".new-").tempdir_in(dir)?;
    match source {
        Source::Memory(bytes) => fs::write(new.path().join(CONTENT), bytes)?,
        Source::File(path) => drop(fs::copy(path, new.path().join(CONTENT))?),
    }
    fs::rename(new.path(), place)?;
    // It has another name now.
    let _ = new.keep();
    hold.measured(place);
    Ok(())
}

/// Copies what is kept, if it is and has its hash; what has not is removed.
fn take(place: &Path, hash: &str, out: &mut dyn Write) -> bool {
    if !place.is_dir() {
        return false;
    }
    let Ok(_hold) = Hold::take(place) else { return false };
    let Ok(mut file) = File::open(place.join(CONTENT)) else { return false };
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                if out.write_all(&buffer[..n]).is_err() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    let sound = format!("sha256:{}", hex::encode(hasher.finalize())) == hash;
    if !sound {
        tracing::warn!(place = %place.display(), "an input in the cache is damaged; it is fetched anew");
        let _ = fs::remove_dir_all(place);
    }
    sound
}

fn hash_of_name(name: &str) -> Option<String> {
    let (tenant, digest) = name.split_once('-')?;
    let hash = format!("sha256:{digest}");
    (tenant.parse::<u32>().is_ok() && digest_of(&hash).is_some()).then_some(hash)
}
