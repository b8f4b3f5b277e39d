//! What this machine is and how busy it is: capabilities for matching, use of CPU, memory and disk for the heartbeat,
//! and the number of grants worth holding ready. It measures and never acts on what it measures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
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
/// A probe that takes longer gives no label: an agent is at work within two seconds of its start, without probes.
const PROBE_TIME: Duration = Duration::from_secs(5);
/// Bytes read of what a probe prints.
const PROBE_BYTES: u64 = 4096;
/// Bytes of a label's value that the server keeps.
const LABEL_BYTES: usize = 256;
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
    let memory_bytes = system.map_or(0, |s| memory(&s).0);
    Resources { cpu_millis: cores * 1000, memory_bytes, disk_bytes: disk(dir).0, ..Resources::default() }
}

/// The machine's name; what an agent is called that was given none.
pub(crate) fn host_name() -> String {
    System::host_name().ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "agent".into())
}

/// What the probes say, all at once: name and first line of output. One that fails, says nothing or takes too long gives
/// no label, and a warning that says why.
pub(crate) async fn probe(probes: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ask = |(name, command): (&String, &String)| {
        let (name, command) = (name.clone(), command.clone());
        async move {
            let mut child = tokio::process::Command::new("sh");
            child.args(["-c", &command]).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).process_group(0);
            let answer = tokio::time::timeout(PROBE_TIME, first_line(child)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("it took longer than {} s", PROBE_TIME.as_secs())));
            match answer {
                Ok(value) => Some((name, value)),
                Err(why) => {
                    tracing::warn!(label = name, command, why, "a probe gave no label");
                    None
                }
            }
        }
    };
    futures::future::join_all(probes.iter().map(ask)).await.into_iter().flatten().collect()
}

/// Ends what a probe started, its children too: a shell's `sleep` outlives the shell.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

async fn first_line(mut command: tokio::process::Command) -> Result<String, String> {
    use tokio::io::AsyncReadExt;
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    let _group = Group(child.id());
    let mut text = Vec::new();
    if let Some(out) = child.stdout.take() {
        out.take(PROBE_BYTES).read_to_end(&mut text).await.map_err(|e| e.to_string())?;
    }
    let status = child.wait().await.map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("it ended with {status}"));
    }
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default().trim();
    match line.len() {
        0 => Err("it printed nothing".into()),
        n if n > LABEL_BYTES => Err(format!("it printed {n} bytes; a label has at most {LABEL_BYTES}")),
        _ => Ok(line.to_owned()),
    }
}

/// Labels found out; those given by hand win.
pub(crate) fn labels(given: &BTreeMap<String, String>, python: Option<&str>) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("os", std::env::consts::OS.to_owned()),
        ("arch", std::env::consts::ARCH.to_owned()),
        ("host", host_name()),
        ("cpus", std::thread::available_parallelism().map_or(1, |n| n.get()).to_string()),
        ("gpu", (gpus() > 0).to_string()),
        ("memory", memory_label()),
        ("container", in_container().to_string()),
        ("shell", "true".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let found = [("kernel", System::kernel_version().ok()), ("os-release", os_release()), ("gpu-model", gpu_model())];
    labels.extend(found.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    if gpus() > 0 {
        labels.insert("gpus".into(), gpus().to_string());
    }
    if let Some(version) = python {
        labels.insert("python".into(), version.to_owned());
        for found in pythons() {
            labels.insert(format!("python{found}"), "true".into());
        }
    }
    labels.extend(given.clone());
    labels
}

/// Graphics processors that can be opened.
fn gpus() -> usize {
    let nvidia = (0..16).filter(|n| Path::new(&format!("/dev/nvidia{n}")).exists()).count();
    nvidia.max(usize::from(Path::new("/dev/kfd").exists()))
}

/// As the driver names the first one.
fn gpu_model() -> Option<String> {
    let first = std::fs::read_dir("/proc/driver/nvidia/gpus").ok()?.flatten().next()?;
    let text = std::fs::read_to_string(first.path().join("information")).ok()?;
    let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim();
    (!model.is_empty() && model.len() <= LABEL_BYTES).then(|| model.to_owned())
}

/// Memory in whole gibibytes, rounded up, as `16Gi`.
fn memory_label() -> String {
    let system =
        System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()));
    format!("{}Gi", system.map_or(0, |s| memory(&s).0).div_ceil(1 << 30))
}

/// Distribution and version, such as `debian-12`.
fn os_release() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim_matches('"').to_owned());
    let (id, version) = (field("ID=")?, field("VERSION_ID=").unwrap_or_default());
    Some(format!("{id}-{version}").trim_end_matches('-').to_owned()).filter(|v| v.len() <= LABEL_BYTES)
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

    #[tokio::test]
    async fn a_probe_gives_its_first_line_and_a_bad_one_gives_nothing() {
        let probes = [("site", "echo berlin; echo more"), ("broken", "echo x; exit 3"), ("mute", "true")];
        let probes = probes.map(|(name, command)| (name.to_owned(), command.to_owned())).into();
        assert_eq!(probe(&probes).await, [("site".to_owned(), "berlin".to_owned())].into());
    }
}
