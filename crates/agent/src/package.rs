//! The cache of packages: fetched by content hash, checked, unpacked once, moved into place in one step. What lies under a hash never changes. It does not build environments
//! and removes nothing (`cache` does).

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::blobs::{Blobs, digest_of};
use crate::cache::Hold;
use crate::error::Error;
use crate::on_demand::{self, OnDemand};
use crate::parts;
use crate::project::{self, MANIFEST, Manifest, Project};
use crate::python::{self, Python};
use crate::tally::Tally;

/// A package that can be run.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) root: PathBuf,
    pub(crate) manifest: Manifest,
    /// Folders for the module search path.
    pub(crate) paths: Vec<PathBuf>,
    /// Keeps it in the cache; a folder run in place is in none.
    #[allow(dead_code, reason = "it is held, not read")]
    pub(crate) hold: Option<Hold>,
}

/// Packages under `data_dir/packages` and folders run in place.
pub(crate) struct Packages {
    dir: PathBuf,
    /// Archives, from which those of other versions are put together.
    archives: PathBuf,
    blobs: Blobs,
    tally: Arc<Tally>,
    /// One fetch of a package at a time, whoever asks.
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    folders: Mutex<HashMap<String, PathBuf>>,
}

impl Packages {
    pub(crate) fn open(data_dir: &Path, blobs: Blobs, tally: Arc<Tally>) -> Result<Self, Error> {
        let (dir, archives) = (data_dir.join("packages"), data_dir.join("archives"));
        for folder in [&dir, &archives] {
            std::fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
        }
        // What a killed agent left half unpacked.
        for entry in std::fs::read_dir(&dir).map_err(Error::file("read", &dir))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(".part-") {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(Self { dir, archives, blobs, tally, flights: Mutex::default(), folders: Mutex::default() })
    }

    /// Hashes of what is here, for the server's choice of a worker.
    pub(crate) fn cached(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .filter(|e| e.path().is_dir())
            .map(|e| format!("sha256:{}", e.file_name().to_string_lossy()))
            .filter(|hash| digest_of(hash).is_some())
            .collect()
    }

    /// A folder to run in place, under the name `local:<hash of its path>`.
    pub(crate) fn add_folder(&self, dir: &Path) -> Result<String, Error> {
        let dir = std::fs::canonicalize(dir).map_err(Error::file("open", dir))?;
        let name = local_name(&dir);
        self.folders.lock().insert(name.clone(), dir);
        Ok(name)
    }

    /// The package of a hash, fetched if need be.
    pub(crate) async fn get(&self, hash: &str, token: Bytes, python: &Python) -> Result<Package, Error> {
        if let Some(dir) = self.folders.lock().get(hash) {
            return open(dir);
        }
        let Some(digest) = digest_of(hash) else {
            return Err(Error::Package(format!("`{hash}` is not a package this agent knows")));
        };
        let dir = self.dir.join(digest);
        let flight = self.flights.lock().entry(digest.to_owned()).or_default().clone();
        let _one = flight.lock().await;
        // Before it is looked for, so that it cannot be pruned in between.
        let hold = Hold::take(&dir).map_err(Error::file("mark the use of", &dir))?;
        self.tally.package(dir.is_dir());
        if !dir.is_dir() {
            let kept = self.archives.join(digest);
            let used = Hold::take(&kept).map_err(Error::file("mark the use of", &kept))?;
            if !kept.join(parts::ARCHIVE).is_file() {
                parts::obtain(&self.blobs, hash, token, &kept, &self.tally).await?;
                used.measured(&kept);
            }
            let placed = self.place(&kept.join(parts::ARCHIVE), &dir, python).await;
            if placed.is_err() {
                // Whatever is wrong with it, the next try begins from nothing.
                let _ = std::fs::remove_dir_all(&kept);
            }
            placed?;
            hold.measured(&dir);
        }
        Ok(Package { hold: Some(hold), ..open(&dir)? })
    }

    async fn place(&self, archive: &Path, dir: &Path, python: &Python) -> Result<(), Error> {
        let part = tempfile::Builder::new().prefix(".part-").tempdir_in(&self.dir);
        let part = part.map_err(Error::file("write in", &self.dir))?;
        let (from, to) = (archive.to_owned(), part.path().to_owned());
        let unpacked = tokio::task::spawn_blocking(move || {
            let files = OnDemand::of_archive(File::open(&from).map_err(Error::file("read", &from))?);
            crate::unpack::unpack_some(&from, &to, &|name| !files.covers(name))
        });
        unpacked.await.map_err(|_| Error::Package("the package cannot be unpacked".into()))??;
        python::compile(python, part.path()).await;
        python::open_to_all(part.path());
        std::fs::rename(part.keep(), dir).map_err(Error::file("make", dir))
    }

    /// Makes sure that a file of a package that is here lies in its folder: one that is fetched on demand comes when it is
    /// asked for, once. The path of the file. `package` has to be one that [`Packages::get`] gave for the hash.
    pub(crate) async fn file(&self, hash: &str, token: Bytes, package: &Package, name: &str) -> Result<PathBuf, Error> {
        on_demand::check_name(name)?;
        let target = package.root.join(name);
        if target.is_file() {
            return Ok(target);
        }
        let missing = || Error::Package(format!("the package has no file {name:?}"));
        // A folder run in place has all its files, and so has an archive within an archive.
        let Some(digest) = digest_of(hash) else { return Err(missing()) };
        let dir = self.dir.join(digest);
        if package.root != dir || !OnDemand::parse(&package.manifest.on_demand).unwrap_or_default().covers(name) {
            return Err(missing());
        }
        let flight = self.flights.lock().entry(digest.to_owned()).or_default().clone();
        let _one = flight.lock().await;
        if target.is_file() {
            return Ok(target);
        }
        let kept = self.archives.join(digest);
        let used = Hold::take(&kept).map_err(Error::file("mark the use of", &kept))?;
        if !kept.join(parts::ARCHIVE).is_file() {
            parts::obtain(&self.blobs, hash, token.clone(), &kept, &self.tally).await?;
        }
        parts::complete(&self.blobs, (hash, token), &kept, name, &self.tally).await?;
        used.measured(&kept);
        self.place_one(&kept.join(parts::ARCHIVE), &target, name).await?;
        if let Some(hold) = &package.hold {
            hold.measured(&dir);
        }
        Ok(target)
    }

    /// Unpacks one member to where it belongs, in one step.
    async fn place_one(&self, archive: &Path, target: &Path, name: &str) -> Result<(), Error> {
        let part = tempfile::Builder::new().prefix(".part-").tempdir_in(&self.dir);
        let part = part.map_err(Error::file("write in", &self.dir))?;
        let (from, to, name, target) = (archive.to_owned(), part.path().to_owned(), name.to_owned(), target.to_owned());
        let placed = tokio::task::spawn_blocking(move || {
            crate::unpack::unpack_some(&from, &to, &|member| member == name)?;
            python::open_to_all(&to);
            let parent = target.parent().expect("a file of a package lies below its root");
            std::fs::create_dir_all(parent).map_err(Error::file("make", parent))?;
            std::fs::rename(to.join(&name), &target).map_err(Error::file("make", &target))
        });
        placed.await.map_err(|_| Error::Package("the package cannot be unpacked".into()))?
    }

    /// The hash of a package, by its folder.
    pub(crate) fn hash_at(&self, place: &Path) -> Option<String> {
        let name = place.strip_prefix(&self.dir).ok()?;
        Some(format!("sha256:{}", name.to_str()?)).filter(|hash| digest_of(hash).is_some())
    }
}

/// The name of a folder that is run in place.
pub fn local_name(dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    format!("local:{}", &crate::blobs::hash_of(dir.as_os_str().as_bytes())["sha256:".len()..][..32])
}

fn open(dir: &Path) -> Result<Package, Error> {
    let root = project::inner_root(dir);
    let file = root.join(MANIFEST);
    let manifest = match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| Error::Package(format!("{MANIFEST} of the package cannot be read: {e}")))?,
        // A folder run in place, or an archive made by other means: its own metadata has to do.
        Err(_) => {
            let project = Project::read(&root)?;
            Manifest {
                format: "folder".into(),
                lock: project.requirements(),
                modules: project.modules,
                requires_python: project.requires_python,
                ..Manifest::default()
            }
        }
    };
    Ok(Package { paths: project::module_paths(&root), root, manifest, hold: None })
}
