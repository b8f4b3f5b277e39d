//! What this machine is and how busy it is: capabilities for matching, use of CPU, memory and disk for the heartbeat,
//! and the number of grants worth holding ready. It measures and never acts on what it measures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use tidewheel_proto::v1::{Resources, Usage};

/// Below this share of memory left, or of disk, nothing new is taken.
const TIGHT_SHARE: f64 = 0.05;
/// ... but a large machine with so much left is not short of it.
const PLENTY_BYTES: u64 = 4 << 30;
/// Grants worth holding: what the agent finishes in this time. It covers the way to the server and its commit.
const AHEAD: Duration = Duration::from_millis(50);

/// The measured use, shared with the heartbeat.
#[derive(Clone, Default)]
pub(crate) struct Gauge {
    usage: Arc<Mutex<Usage>>,
    pub(crate) running: Arc<AtomicU32>,
    pub(crate) buffered: Arc<AtomicU32>,
}

impl Gauge {
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            running: self.running.load(Ordering::Relaxed),
            buffered: self.buffered.load(Ordering::Relaxed),
            ..*self.usage.lock()
        }
    }

    /// Measures until the agent ends. Its own thread: reading /proc blocks, and a busy runtime must not delay it.
    pub(crate) fn start(&self, dir: &Path) {
        let (usage, dir) = (Arc::downgrade(&self.usage), dir.to_owned());
        let spawned = std::thread::Builder::new().name("tidewheel-usage".into()).spawn(move || {
            let Ok(mut system) = System::new_with_specifics(refresh()) else { return };
            loop {
                system.refresh_specifics(refresh());
                let Some(usage) = usage.upgrade() else { return };
                *usage.lock() = measure(&system, &dir);
                drop(usage);
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "the use of the machine is not measured");
        }
    }
}

fn refresh() -> RefreshKind {
    RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram())
}

/// Memory of the machine, or of the control group this runs in where that is less: (total, used).
fn memory(system: &System) -> (u64, u64) {
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 && limits.total_memory < system.total_memory() => {
            (limits.total_memory, limits.total_memory.saturating_sub(limits.free_memory))
        }
        _ => (system.total_memory(), system.used_memory()),
    }
}

fn disk(dir: &Path) -> (u64, u64) {
    rustix::fs::statvfs(dir).map_or((0, 0), |s| (s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize))
}

fn measure(system: &System, dir: &Path) -> Usage {
    let (memory_total, memory_used) = memory(system);
    let (disk_total, disk_free) = disk(dir);
    let short = |free: u64, total: u64| total > 0 && free < PLENTY_BYTES && (free as f64) < TIGHT_SHARE * total as f64;
    Usage {
        cpu_ratio: system.global_cpu_usage() / 100.0,
        memory_used_bytes: memory_used,
        disk_free_bytes: disk_free,
        tight: short(memory_total.saturating_sub(memory_used), memory_total) || short(disk_free, disk_total),
        ..Usage::default()
    }
}

/// Totals of the machine.
pub(crate) fn resources(dir: &Path) -> Resources {
    let system =
        System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()));
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    Resources { cpu_millis: cores * 1000, memory_bytes: system.map_or(0, |s| memory(&s).0), disk_bytes: disk(dir).0 }
}

pub(crate) fn host_name() -> String {
    System::host_name().ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "agent".into())
}

/// Labels found out; those given by hand win.
pub(crate) fn labels(given: &BTreeMap<String, String>, python: Option<&str>) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("os", std::env::consts::OS.to_owned()),
        ("arch", std::env::consts::ARCH.to_owned()),
        ("host", host_name()),
        ("cpus", std::thread::available_parallelism().map_or(1, |n| n.get()).to_string()),
        ("gpu", gpus().to_string()),
        ("container", in_container().to_string()),
        ("shell", "true".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if let Some(version) = python {
        labels.insert("python".into(), version.to_owned());
        for found in pythons() {
            labels.insert(format!("python{found}"), "true".into());
        }
    }
    labels.extend(given.clone());
    labels
}

/// Whether there is an NVIDIA device that can be opened.
fn gpus() -> bool {
    (0..16).any(|n| Path::new(&format!("/dev/nvidia{n}")).exists()) || Path::new("/dev/kfd").exists()
}

fn in_container() -> bool {
    Path::new("/.dockerenv").exists()
        || Path::new("/run/.containerenv").exists()
        || std::env::var_os("container").is_some()
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Minor versions with an interpreter on PATH, such as `3.11`.
fn pythons() -> Vec<String> {
    (9..=20).map(|minor| format!("3.{minor}")).filter(|v| find(&format!("python{v}")).is_some()).collect()
}

/// A program on PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|file| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

/// How many grants to ask for beside those that run, from the pace of the last moments.
pub(crate) struct Appetite {
    permits: u32,
    most: u32,
    since: Instant,
    finished: u32,
    current: u32,
}

impl Appetite {
    pub(crate) fn new(permits: u32, most: u32, now: Instant) -> Self {
        let least = (permits * 2).min(most);
        Self { permits, most, since: now, finished: 0, current: least }
    }

    pub(crate) fn current(&self) -> u32 {
        self.current
    }

    pub(crate) fn finished(&mut self, count: u32) {
        self.finished += count;
    }

    /// Looks at the pace since the last call; the new number when it changed enough to tell the server.
    pub(crate) fn review(&mut self, now: Instant) -> Option<u32> {
        let past = now.duration_since(self.since);
        if past < AHEAD {
            return None;
        }
        let ahead = f64::from(self.finished) * AHEAD.as_secs_f64() / past.as_secs_f64();
        (self.since, self.finished) = (now, 0);
        let least = (self.permits * 2).min(self.most);
        // Up at once, because a pipe that runs dry is what hides the real pace; down by half, because pauses are short.
        let wanted = (ahead as u32 * 2).max(self.current / 2).clamp(least, self.most);
        let changed = wanted > self.current + self.current / 4 || wanted < self.current;
        changed.then(|| {
            self.current = wanted;
            wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_tasks_raise_the_appetite_and_a_pause_lowers_it_step_by_step() {
        let start = Instant::now();
        let mut appetite = Appetite::new(2, 1024, start);
        assert_eq!(appetite.current(), 4);
        appetite.finished(200);
        assert_eq!(appetite.review(start + Duration::from_millis(10)), None, "too early to tell");
        assert_eq!(appetite.review(start + Duration::from_millis(50)), Some(400));
        appetite.finished(10_000);
        assert_eq!(appetite.review(start + Duration::from_millis(100)), Some(1024));
        assert_eq!(appetite.review(start + Duration::from_millis(150)), Some(512));
        for _ in 0..20 {
            appetite.review(appetite.since + AHEAD);
        }
        assert_eq!(appetite.current(), 4);
    }

    #[test]
    fn labels_given_by_hand_win() {
        let given = [("os".to_owned(), "plan9".to_owned())].into();
        assert_eq!(labels(&given, None)["os"], "plan9");
    }
}
