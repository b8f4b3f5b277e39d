//! Copies of a data folder: of a running server through its open stores, of a stopped one through its files. A copy is a
//! folder that a server can be started on. It is written under another name until it is complete, so that half a backup
//! never looks like one.
//!
//! Order: the database first, then the blobs. A blob is written before the record that names it and is never changed, so
//! every blob that the copied database names is in the copy.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tidewheel_proto::rest::Backup;
use tidewheel_runtime::Runtime;
use tidewheel_store::Store;

use crate::profile::folder_of;

/// Where a running server puts its backups, below the data folder.
pub(crate) const FOLDER: &str = "backups";

/// End of the name of a backup that is not complete; a dot begins it.
const PARTIAL: &str = ".partial";

/// What a server makes anew, what belongs to a running process, and the databases, which are copied by their own means.
const LEFT_OUT: &[&str] = &["uploads", "agent", "build", "dev.json", ".gitignore", FOLDER];

/// A database and what SQLite and the lock keep beside it.
fn is_of(name: &str, database: &str) -> bool {
    name.strip_prefix(database).is_some_and(|rest| matches!(rest, "" | "-wal" | "-shm" | ".lock"))
}

/// Copies a running server's folder.
pub(super) fn of_running(runtime: &Runtime, data_dir: &Path, database: &Path, name: &str) -> Result<Backup, String> {
    remove_abandoned(data_dir);
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
    let is_free = || if to.exists() { Err(format!("{} exists", to.display())) } else { Ok(()) };
    is_free()?;
    let partial = to.with_file_name(format!(".{name}{PARTIAL}"));
    let _ours = take_partial(&partial).map_err(what)?;
    // Somebody else's may have become complete since.
    let filled = is_free().and_then(|()| fill(&partial).map_err(what)).and_then(|rest| {
        let size = private_databases(&partial).map_err(what)?;
        check_database(&partial.join("tidewheel.db"))?;
        sync(&partial).map_err(what)?;
        std::fs::rename(&partial, to).map_err(what)?;
        sync(folder_of(to)).map_err(what)?;
        Ok(rest + size)
    });
    if filled.is_err() {
        // What cannot be removed is so before the next backup.
        let _ = std::fs::remove_dir_all(&partial);
    }
    filled
}

/// How often, and how long apart, the lock of a folder is tried: one that looks whether it is abandoned has it for a moment.
const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(25);

/// Makes the folder that a backup is written to, empty and locked as long as what is given lives. The lock is the kernel's, so that a dead
/// process leaves none behind: a folder that nobody has locked is abandoned. File systems that cannot lock a folder do without.
fn take_partial(folder: &Path) -> std::io::Result<Option<File>> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder_of(folder))?;
    for _ in 0..LOCK_TRIES {
        match std::fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        match lock_of(folder) {
            Ok(Some(lock)) => {
                remove_content(folder)?;
                return Ok(Some(lock));
            }
            Ok(None) => std::thread::sleep(LOCK_WAIT),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => {
                make_private(folder)?;
                return Ok(None);
            }
        }
    }
    Err(std::io::Error::new(ErrorKind::WouldBlock, "another process is writing a backup of this name"))
}

/// Takes the lock of a folder; `None` = somebody has it.
fn lock_of(folder: &Path) -> std::io::Result<Option<File>> {
    let file = File::open(folder)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Whoever had the lock before may have removed the folder, and somebody made another.
    let (locked, there) = (file.metadata()?, std::fs::symlink_metadata(folder)?);
    let same = (locked.dev(), locked.ino()) == (there.dev(), there.ino());
    if same { Ok(Some(file)) } else { Err(ErrorKind::NotFound.into()) }
}

fn remove_content(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes the halves of backups that a process left which was killed meanwhile; never one that is being written.
pub(super) fn remove_abandoned(data_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(data_dir.join(FOLDER)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_half = name.starts_with('.') && name.ends_with(PARTIAL);
        if !is_half || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let folder = entry.path();
        let Ok(Some(_lock)) = lock_of(&folder) else { continue };
        match std::fs::remove_dir_all(&folder) {
            Ok(()) => tracing::info!(folder = %folder.display(), "removed a backup that was not completed"),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "a backup that was not completed cannot be removed");
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A data folder with a half of a backup in it.
    fn with_half(name: &str) -> (tempfile::TempDir, PathBuf) {
        let data = tempfile::tempdir().expect("a folder");
        let half = data.path().join(FOLDER).join(name);
        std::fs::create_dir_all(half.join("blobs/aa")).expect("made");
        std::fs::write(half.join("tidewheel.db"), vec![0; 10_000]).expect("written");
        (data, half)
    }

    #[test]
    fn what_a_dead_process_left_of_a_backup_is_removed_and_all_else_stays() {
        let (data, half) = with_half(".first.partial");
        let folder = data.path().join(FOLDER);
        for kept in ["first", "second.partial", ".hidden"] {
            std::fs::create_dir(folder.join(kept)).expect("made");
        }
        std::fs::write(folder.join(".file.partial"), "x").expect("written");
        std::os::unix::fs::symlink(folder.join("first"), folder.join(".link.partial")).expect("linked");
        remove_abandoned(data.path());
        assert!(!half.exists());
        for kept in ["first", "second.partial", ".hidden", ".file.partial", ".link.partial"] {
            assert!(folder.join(kept).exists(), "{kept}");
        }
        remove_abandoned(&data.path().join("nothing"));
    }

    #[test]
    fn a_backup_that_is_being_written_stays_and_is_written_by_one_alone() {
        let (data, half) = with_half(".first.partial");
        let to = data.path().join(FOLDER).join("first");
        let made = complete(&to, |partial| {
            assert_eq!(partial, half);
            assert_eq!(std::fs::read_dir(partial)?.count(), 0, "what was there before is gone");
            std::fs::write(partial.join("data"), "new")?;
            remove_abandoned(data.path());
            assert!(partial.join("data").is_file(), "it is being written");
            let why = complete(&to, |_| panic!("a second one began")).expect_err("refused");
            assert!(why.contains("another process is writing a backup of this name"), "{why}");
            assert!(partial.join("data").is_file(), "the second one left it alone");
            Err(std::io::Error::other("no room"))
        });
        assert!(made.expect_err("it failed").contains("no room"));
        assert!(!half.exists() && !to.exists());
    }
}
