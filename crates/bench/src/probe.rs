//! What the machine itself can do, printed beside every figure.

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::Figure;

/// fdatasync rate after 4 KiB appends to a growing file, for half a second.
pub(crate) fn disk(report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let mut file = tempfile::tempfile()?;
    file.seek(SeekFrom::End(0))?;
    let block = [7u8; 4096];
    let begun = Instant::now();
    let mut syncs = 0u32;
    while begun.elapsed() < Duration::from_millis(500) {
        file.write_all(&block)?;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = f64::from(syncs) / begun.elapsed().as_secs_f64();
    report(Figure::high("machine", "fdatasync_per_s", rate, "1/s", None));
    Ok(())
}

/// Resident bytes of a process.
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or("VmRSS: 0 kB");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    Ok(kib * 1024.0)
}

/// CPU seconds a process has used.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

/// A process and everything below it.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process that has just ended is in none.
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
        let (state, parent) = (fields.next(), fields.next().and_then(|f| f.parse::<u32>().ok()));
        if let Some(parent) = parent.filter(|_| state != Some("Z")) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

/// Resident bytes of a process and everything below it; pages they share count for each.
pub(crate) fn resident_of_tree(root: u32) -> f64 {
    tree(root).into_iter().filter_map(|pid| resident_bytes(pid).ok()).sum()
}

/// CPU seconds of the processes that live now below a process, itself included.
pub(crate) fn cpu_of_tree(root: u32) -> f64 {
    tree(root).into_iter().filter_map(|pid| cpu_seconds(pid).ok()).sum()
}

/// Bytes of all files in a folder.
pub(crate) fn folder_bytes(folder: &Path) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        // Blocks that are there, not the length: a file may be allocated ahead, or have holes.
        sum += if data.is_dir() { folder_bytes(&entry.path())? } else { data.blocks() as f64 * 512.0 };
    }
    Ok(sum)
}

/// Fails early, with what to do, where a run would fill the disk.
pub(crate) fn room_for(folder: &Path, bytes: u64) -> anyhow::Result<()> {
    // Beside the records: the write-ahead log, and room to breathe for whoever else uses the disk.
    let needed = bytes + (1 << 30);
    let free = free_bytes(folder)?;
    if free < needed {
        let giga = |bytes: u64| bytes as f64 / 1e9;
        bail!(
            "this run needs about {:.1} GB of disk, {} has {:.1} GB left; set TMPDIR to a folder on a larger disk, or make the \
             run smaller with --tasks",
            giga(needed),
            folder.display(),
            giga(free),
        );
    }
    Ok(())
}

/// What is left on the disk of a folder.
fn free_bytes(folder: &Path) -> anyhow::Result<u64> {
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string and the struct is ours.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
        bail!("cannot ask for the room in {}: {}", folder.display(), std::io::Error::last_os_error());
    }
    Ok(stat.f_bavail as u64 * stat.f_frsize as u64)
}

/// Open files that a process may have.
pub(crate) fn open_file_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is ours. The limit of a part is raised to the hard one, as the server's is.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    if read { limit.rlim_max } else { 0 }
}

/// Raises this process's limit of open files as far as it may.
pub(crate) fn raise_open_files() {
    let limit = open_file_limit();
    let wanted = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the struct is ours. Where it fails, the connections say so.
    let _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) };
}

/// Write requests that the disk of a server's folder has completed since the machine started; nothing where the folder
/// lies on no disk of its own (memory, network).
pub(crate) fn device_writes(server: &crate::server::Server) -> Option<f64> {
    let device = std::fs::metadata(server.data()).ok()?.dev();
    let path = format!("/sys/dev/block/{}:{}/stat", libc::major(device), libc::minor(device));
    std::fs::read_to_string(path).ok()?.split_whitespace().nth(4)?.parse().ok()
}
