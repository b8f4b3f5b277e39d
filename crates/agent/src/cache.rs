//! What the agent keeps on disk for the next time: packages and their archives, environments, inputs of tasks, copies of the embedded Python package, and uv's
//! downloads. Each is a folder with a file `<name>.used` beside it, whose time is that of the last use, whose content is
//! the size, and on which whoever uses the folder holds a shared lock. Pruning takes what was not used for too long, then
//! the longest unused until the rest fits, and never what is locked, be it by this process or by another on the same folder.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What holds folders named by their content.
const SHELVES: [&str; 5] = ["packages", "archives", "envs", "pylib", INPUTS];
/// Inputs of tasks; see `inputs`.
pub(crate) const INPUTS: &str = "inputs";
/// Inputs that are kept, at most: each is announced to the server, which looks for them with every task.
const MOST_INPUTS: usize = 1_000;
/// uv's downloads, one folder as a whole; further tenants have one each, with their number behind it.
pub(crate) const UV_CACHE: &str = "uv-cache";
/// A folder that was being built so long ago was left by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// While this lives, the folder is not pruned.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    file: Arc<File>,
}

impl Hold {
    /// Marks a folder as used now, and keeps it. The folder may be made afterwards. Blocks while it is being pruned.
    pub(crate) fn take(place: &Path) -> std::io::Result<Self> {
        let path = used_file(place);
        loop {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.lock_shared()?;
            // Pruned between the two calls: the lock is on a file that no longer has the name.
            if fs::metadata(&path).is_ok_and(|now| now.ino() == file.metadata().map_or(0, |m| m.ino())) {
                let _ = file.set_modified(SystemTime::now());
                return Ok(Self { file: Arc::new(file) });
            }
        }
    }

    /// Notes the size of the folder, so that pruning need not walk through it again.
    pub(crate) fn measured(&self, place: &Path) {
        let _ = self.file.set_len(0);
        let _ = std::io::Write::write_all(&mut &*self.file, disk_bytes(place).to_string().as_bytes());
    }
}

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) bytes: u64,
    /// Zero: for ever.
    pub(crate) age: Duration,
}

struct Kept {
    used: SystemTime,
    bytes: u64,
    place: PathBuf,
}

/// Removes what the bounds do not allow; the folders that are gone. Walks through folders: not for a thread that must not wait.
pub(crate) fn prune(data_dir: &Path, bounds: Bounds, now: SystemTime) -> Vec<PathBuf> {
    let mut kept: Vec<Kept> = SHELVES.iter().flat_map(|shelf| folders(&data_dir.join(shelf), now)).map(look).collect();
    let is_downloads = |place: &PathBuf| place.file_name().is_some_and(|n| n.to_string_lossy().starts_with(UV_CACHE));
    for downloads in folders(data_dir, now).into_iter().filter(is_downloads) {
        kept.push(Kept { bytes: disk_bytes(&downloads), ..look(downloads) });
    }
    kept.sort_by(|a, b| (a.used, &a.place).cmp(&(b.used, &b.place)));
    let mut total: u64 = kept.iter().map(|k| k.bytes).sum();
    let is_input = |place: &Path| place.parent().is_some_and(|shelf| shelf.ends_with(INPUTS));
    let mut inputs = kept.iter().filter(|k| is_input(&k.place)).count();
    let mut removed = Vec::new();
    for item in kept {
        let old = !bounds.age.is_zero() && now.duration_since(item.used).is_ok_and(|unused| unused > bounds.age);
        let many = inputs > MOST_INPUTS && is_input(&item.place);
        if (old || many || total > bounds.bytes) && remove(&item.place) {
            inputs -= usize::from(is_input(&item.place));
            tracing::info!(place = %item.place.display(), bytes = item.bytes, old, "removed from the cache");
            total = total.saturating_sub(item.bytes);
            removed.push(item.place);
        }
    }
    removed
}

/// Removes a folder nobody holds.
fn remove(place: &Path) -> bool {
    let path = used_file(place);
    let Ok(lock) = OpenOptions::new().create(true).append(true).open(&path) else { return false };
    if lock.try_lock().is_err() {
        return false;
    }
    // Renamed first, so that a killed agent leaves no half of a folder under its name.
    let gone = place.with_file_name(format!(".part-{}", place.file_name().unwrap_or_default().to_string_lossy()));
    if fs::rename(place, &gone).is_err() {
        return false;
    }
    let _ = fs::remove_file(&path);
    let _ = fs::remove_dir_all(&gone);
    true
}

/// Whole folders of a shelf; those a killed process left half built are removed.
fn folders(shelf: &Path, now: SystemTime) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(shelf).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_dir() {
            continue;
        }
        if !entry.file_name().to_string_lossy().starts_with(".part-") {
            out.push(path);
        } else if meta.modified().is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > ABANDONED)) {
            let _ = fs::remove_dir_all(path);
        }
    }
    out
}

fn look(place: PathBuf) -> Kept {
    let file = used_file(&place);
    let used = fs::metadata(&file).or_else(|_| fs::metadata(&place)).and_then(|m| m.modified());
    let noted = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    let bytes = noted.unwrap_or_else(|| disk_bytes(&place));
    Kept { used: used.unwrap_or(SystemTime::UNIX_EPOCH), bytes, place }
}

fn used_file(place: &Path) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(".used");
    place.with_file_name(name)
}

/// What a folder takes on the disk. A file that also lies elsewhere (an environment shares its files with uv's downloads) counts
/// by its share, so that the sum over all folders is what is there.
pub(crate) fn disk_bytes(dir: &Path) -> u64 {
    disk_bytes_since(dir, SystemTime::UNIX_EPOCH)
}

/// The same of the files that were made or changed since a time, as the disk itself saw it.
pub(crate) fn disk_bytes_since(dir: &Path, since: SystemTime) -> u64 {
    let since = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
    let mut total = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                open.push(entry.path());
            }
            let counts = !meta.is_dir() && meta.ctime() >= since;
            total += if counts { meta.blocks() * 512 / meta.nlink().max(1) } else { 0 };
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// A folder of 100 KiB that was used so many days ago.
    fn put(data: &Path, name: &str, days: u32) -> PathBuf {
        let place = data.join(name);
        fs::create_dir_all(&place).expect("made");
        fs::write(place.join("content"), vec![1u8; 100 << 10]).expect("written");
        let hold = Hold::take(&place).expect("held");
        hold.measured(&place);
        hold.file.set_modified(SystemTime::now() - DAY * days).expect("set");
        place
    }

    #[test]
    fn what_was_unused_for_longest_goes_first_and_only_as_much_as_needed() {
        let dir = tempfile::tempdir().expect("a folder");
        let data = dir.path();
        let (a, b, c) = (put(data, "packages/a", 1), put(data, "envs/b", 3), put(data, "pylib/c", 2));
        let downloads = put(data, UV_CACHE, 4);
        let bounds = |kib: u64| Bounds { bytes: kib << 10, age: Duration::ZERO };
        assert!(prune(data, bounds(1000), SystemTime::now()).is_empty());
        assert_eq!(prune(data, bounds(250), SystemTime::now()), [downloads, b.clone()]);
        assert!(a.is_dir() && c.is_dir() && !b.exists() && !used_file(&b).exists());
        assert!(fs::read_dir(data.join("envs")).expect("there").next().is_none(), "nothing of it is left");
    }

    #[test]
    fn what_was_unused_for_too_long_goes_although_there_is_room() {
        let dir = tempfile::tempdir().expect("a folder");
        let (old, new) = (put(dir.path(), "envs/old", 31), put(dir.path(), "envs/new", 29));
        let bounds = Bounds { bytes: u64::MAX, age: DAY * 30 };
        assert_eq!(prune(dir.path(), bounds, SystemTime::now()), [old]);
        assert!(new.is_dir());
    }

    #[test]
    fn more_inputs_than_are_announced_are_not_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let name = |n: usize| format!("{INPUTS}/1-{n:064}");
        for n in 0..MOST_INPUTS + 2 {
            let place = dir.path().join(name(n));
            fs::create_dir_all(&place).expect("made");
            let used = SystemTime::now() - DAY + Duration::from_secs(n as u64);
            Hold::take(&place).expect("held").file.set_modified(used).expect("set");
        }
        let other = put(dir.path(), "envs/other", 2);
        let bounds = Bounds { bytes: u64::MAX, age: Duration::ZERO };
        assert_eq!(prune(dir.path(), bounds, SystemTime::now()), [dir.path().join(name(0)), dir.path().join(name(1))]);
        assert!(other.is_dir());
    }

    #[test]
    fn what_is_held_stays_whatever_the_bounds_say() {
        let dir = tempfile::tempdir().expect("a folder");
        let (held, free) = (put(dir.path(), "envs/held", 99), put(dir.path(), "envs/free", 1));
        let hold = Hold::take(&held).expect("held");
        hold.file.set_modified(SystemTime::now() - DAY * 99).expect("set");
        let bounds = Bounds { bytes: 0, age: DAY };
        assert_eq!(prune(dir.path(), bounds, SystemTime::now()), [free]);
        assert!(held.join("content").is_file());
        drop(hold);
        assert_eq!(prune(dir.path(), bounds, SystemTime::now()), [held]);
    }

    #[test]
    fn what_a_killed_build_left_is_swept_and_what_is_being_built_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let part = dir.path().join("envs/.part-x");
        fs::create_dir_all(&part).expect("made");
        let bounds = Bounds { bytes: u64::MAX, age: Duration::ZERO };
        prune(dir.path(), bounds, SystemTime::now());
        assert!(part.is_dir());
        prune(dir.path(), bounds, SystemTime::now() + DAY * 2);
        assert!(!part.exists());
    }
}
