//! Copies of a data folder: of a running server through its open stores, of a stopped one through its files. A copy is a
//! folder that a server can be started on. It is written under another name until it is complete, so that half a backup
//! never looks like one.
//!
//! Order: the database first, then the blobs. A blob is written before the record that names it and is never changed, so
//! every blob that the copied database names is in the copy.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tidewheel_proto::rest::Backup;
use tidewheel_runtime::Runtime;
use tidewheel_store::Store;

use crate::profile::folder_of;

/// Where a running server puts its backups, below the data folder.
pub(crate) const FOLDER: &str = "backups";

/// What a server makes anew, what belongs to a running process, and the databases, which are copied by their own means.
const LEFT_OUT: &[&str] = &["uploads", "agent", "build", "dev.json", ".gitignore", FOLDER];

/// A database and what SQLite and the lock keep beside it.
fn is_of(name: &str, database: &str) -> bool {
    name.strip_prefix(database).is_some_and(|rest| matches!(rest, "" | "-wal" | "-shm" | ".lock"))
}

/// Copies a running server's folder.
pub(super) fn of_running(runtime: &Runtime, data_dir: &Path, database: &Path, name: &str) -> Result<Backup, String> {
    let to = data_dir.join(FOLDER).join(name);
    let database = database.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let bytes = complete(&to, |partial| {
        let failed = |error: tidewheel_store::Error| std::io::Error::other(error.to_string());
        runtime.store().backup(&partial.join("tidewheel.db")).map_err(failed)?;
        runtime.logs().backup(&partial.join("logs.db")).map_err(failed)?;
        copy_rest(data_dir, partial, |file| is_of(file, &database) || is_of(file, "logs.db"))
    })?;
    Ok(Backup { name: name.to_owned(), path: to.display().to_string(), bytes })
}

/// Copies a stopped server's folder; the lock of its database is held meanwhile, so that no server starts on it.
pub(crate) fn of_stopped(store: &dyn Store, data_dir: &Path, to: &Path) -> Result<u64, String> {
    complete(to, |partial| {
        let copied = store.backup(&partial.join("tidewheel.db"));
        copied.map_err(|error| std::io::Error::other(error.to_string()))?;
        // Nobody writes to the log lines: the file and what SQLite keeps beside it are copied as they are.
        copy_rest(data_dir, partial, |file| is_of(file, "tidewheel.db") || file == "logs.db.lock")
    })
}

fn complete(to: &Path, fill: impl FnOnce(&Path) -> std::io::Result<u64>) -> Result<u64, String> {
    let what = |error: std::io::Error| format!("{}: {error}", to.display());
    let name = to.file_name().ok_or_else(|| "the folder has no name".to_owned())?.to_string_lossy().into_owned();
    if to.exists() {
        return Err(format!("{} exists", to.display()));
    }
    let partial = to.with_file_name(format!(".{name}.partial"));
    make_private(&partial).map_err(what)?;
    let filled = fill(&partial).map_err(what).and_then(|rest| {
        let size = private_databases(&partial).map_err(what)?;
        check_database(&partial.join("tidewheel.db"))?;
        sync(&partial).map_err(what)?;
        std::fs::rename(&partial, to).map_err(what)?;
        sync(folder_of(to)).map_err(what)?;
        Ok(rest + size)
    });
    if filled.is_err() {
        // What cannot be removed is overwritten by the next backup of this name.
        let _ = std::fs::remove_dir_all(&partial);
    }
    filled
}

/// Opens a copy of a database as a server would, and closes it again.
pub(crate) fn check_database(path: &Path) -> Result<(), String> {
    let opened = super::open_database(path).and_then(|store| {
        let recovered = store.open(0);
        Store::close(&*store);
        recovered.map(|_| ())
    });
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    let _ = std::fs::remove_file(PathBuf::from(lock));
    opened.map_err(|error| format!("the copy of the database cannot be opened: {error}"))
}

/// Opens the database of a backup, in a copy of it so that the backup stays as it is, and compares every blob with its hash.
/// Gives the number of blobs.
pub(crate) fn check_copy(folder: &Path) -> Result<u64, String> {
    let scratch = folder.join(".verify");
    let what = |error: std::io::Error| format!("{}: {error}", folder.display());
    make_private(&scratch).map_err(what)?;
    let copied = std::fs::copy(folder.join("tidewheel.db"), scratch.join("tidewheel.db")).map_err(what);
    let checked = copied.and_then(|_| check_database(&scratch.join("tidewheel.db")));
    let _ = std::fs::remove_dir_all(&scratch);
    checked?;
    let blobs = folder.join("blobs");
    if blobs.is_dir() { check_blobs(&blobs) } else { Ok(0) }
}

fn check_blobs(folder: &Path) -> Result<u64, String> {
    let what = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut count = 0;
    for entry in std::fs::read_dir(folder).map_err(what)? {
        let path = entry.map_err(what)?.path();
        if path.is_dir() {
            count += check_blobs(&path)?;
            continue;
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut hasher = Sha256::new();
        std::fs::File::open(&path).and_then(|mut file| std::io::copy(&mut file, &mut hasher)).map_err(what)?;
        if hex::encode(hasher.finalize()) != name {
            return Err(format!("the blob {name} is damaged"));
        }
        count += 1;
    }
    Ok(count)
}

/// Copies a whole backup into a new data folder.
pub(crate) fn restore(from: &Path, to: &Path) -> std::io::Result<u64> {
    make_private(to)?;
    copy_tree(from, to, &|_| false)
}

fn private_databases(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for name in ["tidewheel.db", "logs.db"] {
        let path = folder.join(name);
        if path.is_file() {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        }
        if name == "tidewheel.db" {
            bytes += std::fs::metadata(&path)?.len();
        }
    }
    Ok(bytes)
}

fn sync(folder: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

fn make_private(path: &Path) -> std::io::Result<()> {
    let _ = std::fs::remove_dir_all(path);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn copy_rest(from: &Path, to: &Path, skip: impl Fn(&str) -> bool) -> std::io::Result<u64> {
    copy_tree(from, to, &|name| LEFT_OUT.contains(&name) || skip(name))
}

/// Copies files and folders; modes stay. Links are not followed: the server makes none. A file that goes meanwhile was an
/// upload that was not complete.
fn copy_tree(from: &Path, to: &Path, skip: &dyn Fn(&str) -> bool) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        // A blob that is being written has a `#` in its name until it is whole.
        if skip(&name.to_string_lossy()) || name.to_string_lossy().contains('#') {
            continue;
        }
        let (kind, target) = (entry.file_type()?, to.join(&name));
        if kind.is_dir() {
            make_private(&target)?;
            bytes += copy_tree(&entry.path(), &target, &|_| false)?;
        } else if kind.is_file() {
            match std::fs::copy(entry.path(), &target) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                copied => bytes += copied?,
            }
            std::fs::File::open(&target)?.sync_all()?;
        }
    }
    sync(to)?;
    Ok(bytes)
}
