//! Control groups, version 1 and 2: one group per process of user code, for limits on memory, processes and CPU, and
//! for a kill that nothing escapes. Where the hierarchy is not writable there are none, and the watch in `process`
//! bounds what it can see. It never moves a process that is not the agent's own child, except the agent itself into a
//! leaf of its own group when it is alone there, because version 2 allows limits only on groups without processes.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Limits;

const CPU_PERIOD_US: u64 = 100_000;
/// Of 1 to 1,000 in both versions; a group that says nothing has 100 (or 500 in version 1).
const FIRST_IO_WEIGHT: u32 = 1_000;
/// Where the weight of reads and writes is written, in either version: it depends on the scheduler that the kernel has.
const IO_WEIGHTS: [&str; 4] = ["io.weight", "io.bfq.weight", "blkio.weight", "blkio.bfq.weight"];

/// The hierarchies in which groups can be made.
#[derive(Default)]
pub(crate) struct Cgroups {
    /// (controllers, folder of this agent).
    roots: Vec<(Vec<&'static str>, PathBuf)>,
    unified: bool,
}

/// The group of one process.
pub(crate) struct Group {
    dirs: Vec<PathBuf>,
    unified: bool,
}

impl Cgroups {
    /// Finds what is writable. A second agent, even in the same process, has folders of its own.
    pub(crate) fn detect(instance: &str) -> Self {
        let name = format!("tidewheel-{}.{instance}", std::process::id());
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let v1 = version_1(&own, &mounts, &name);
        if !v1.is_empty() {
            return Self { roots: v1, unified: false };
        }
        match version_2(&own, &mounts, &name) {
            Some((controllers, dir)) => Self { roots: vec![(controllers, dir)], unified: true },
            None => Self::default(),
        }
    }

    pub(crate) fn has(&self, controller: &str) -> bool {
        self.roots.iter().any(|(list, _)| list.contains(&controller))
    }

    /// How a share of CPU and memory is kept: under pressure only, and no bound.
    pub(crate) fn shares(&self) -> &'static str {
        match (self.has("cpu"), self.has("memory")) {
            (true, true) => "cgroup",
            (true, false) => "cgroup: cpu alone",
            (false, true) => "cgroup: memory alone",
            (false, false) => "none",
        }
    }

    /// What puts reads and writes of a task first. Each of them is a word to the disk's scheduler: where the disk has
    /// none, all are alike.
    pub(crate) fn io_priority(&self) -> String {
        let root = self.roots.iter().find(|(list, _)| list.iter().any(|c| matches!(*c, "io" | "blkio")));
        let weight = root.and_then(|(_, dir)| IO_WEIGHTS.iter().find(|file| dir.join(file).exists()));
        weight.map_or_else(|| "ioprio".to_owned(), |file| format!("cgroup {file} + ioprio"))
    }

    /// How the walls are called in `Hello.enforced`.
    pub(crate) fn describe(&self) -> String {
        let mut all: Vec<&str> = self.roots.iter().flat_map(|(list, _)| list.iter().copied()).collect();
        all.sort_unstable();
        match (self.roots.is_empty(), self.unified) {
            (true, _) => "none".into(),
            (_, true) => format!("v2 ({})", all.join(", ")),
            (_, false) => format!("v1 ({})", all.join(", ")),
        }
    }

    /// A new group with the limits, or `None` where there are no control groups.
    pub(crate) fn create(&self, name: &str, limits: &Limits) -> Option<Group> {
        if self.roots.is_empty() {
            return None;
        }
        let mut group = Group { dirs: Vec::new(), unified: self.unified };
        for (controllers, root) in &self.roots {
            let dir = root.join(name);
            if fs::create_dir_all(&dir).is_ok() {
                for controller in controllers {
                    set_limit(&dir, controller, limits, self.unified);
                }
                group.dirs.push(dir);
            }
        }
        Some(group)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for (_, root) in &self.roots {
            let _ = fs::remove_dir(root);
        }
    }
}

fn set_limit(dir: &Path, controller: &str, limits: &Limits, unified: bool) {
    let write = |file: &str, text: String| {
        if let Err(error) = fs::write(dir.join(file), text) {
            tracing::debug!(file, %error, "a limit of a control group could not be set");
        }
    };
    match controller {
        "memory" if limits.memory_bytes > 0 && unified => {
            write("memory.max", limits.memory_bytes.to_string());
            write("memory.swap.max", "0".into());
            write("memory.oom.group", "1".into());
        }
        "memory" if limits.memory_bytes > 0 => {
            write("memory.limit_in_bytes", limits.memory_bytes.to_string());
            write("memory.memsw.limit_in_bytes", limits.memory_bytes.to_string());
        }
        // Who holds more than its share gives back first when the machine is short.
        "memory" if unified => write("memory.low", limits.share.memory_bytes.to_string()),
        "memory" => write("memory.soft_limit_in_bytes", limits.share.memory_bytes.to_string()),
        "io" | "blkio" if limits.fast_io => {
            for file in IO_WEIGHTS.into_iter().filter(|file| dir.join(file).exists()) {
                write(file, FIRST_IO_WEIGHT.to_string());
            }
        }
        "pids" if limits.processes > 0 => write("pids.max", limits.processes.to_string()),
        "cpu" if limits.cpu_millis > 0 => {
            let quota = u64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000;
            if unified {
                write("cpu.max", format!("{quota} {CPU_PERIOD_US}"));
            } else {
                write("cpu.cfs_period_us", CPU_PERIOD_US.to_string());
                write("cpu.cfs_quota_us", quota.to_string());
            }
        }
        "cpu" if unified => write("cpu.weight", (limits.share.cpu_millis / 10).clamp(1, 10_000).to_string()),
        "cpu" => write("cpu.shares", (u64::from(limits.share.cpu_millis) * 1024 / 1000).max(2).to_string()),
        _ => {}
    }
}

impl Group {
    /// Open files into which a child writes `0` to enter, before it becomes the user's program.
    pub(crate) fn entrances(&self) -> Vec<OwnedFd> {
        self.dirs
            .iter()
            .filter_map(|dir| fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs")).ok())
            .map(OwnedFd::from)
            .collect()
    }

    /// The list of members, for the guard.
    pub(crate) fn members_file(&self) -> Option<PathBuf> {
        self.dirs.first().map(|dir| dir.join("cgroup.procs"))
    }

    pub(crate) fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .dirs
            .iter()
            .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills every member. The caller repeats until `pids` is empty: version 1 has no atomic kill.
    pub(crate) fn kill(&self) {
        if self.unified
            && let Some(dir) = self.dirs.first()
            && fs::write(dir.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for pid in self.pids() {
            crate::process::signal(pid, rustix::process::Signal::KILL);
        }
    }

    /// Whether the kernel killed a member because the memory limit was reached.
    pub(crate) fn out_of_memory(&self) -> bool {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        self.dirs
            .iter()
            .filter_map(|dir| fs::read_to_string(dir.join(file)).ok())
            .any(|text| text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|n| n.trim() != "0")))
    }
}

impl Group {
    /// Whether a member was refused a new process because their number is limited.
    pub(crate) fn out_of_processes(&self) -> bool {
        self.dirs
            .iter()
            .filter_map(|dir| fs::read_to_string(dir.join("pids.events")).ok())
            .any(|text| text.lines().any(|line| line.strip_prefix("max ").is_some_and(|n| n.trim() != "0")))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let dirs = std::mem::take(&mut self.dirs);
        if dirs.iter().all(|dir| fs::remove_dir(dir).is_ok()) {
            return;
        }
        // A member that was killed leaves the group only once it is gone: try again shortly, apart.
        let _ = std::thread::Builder::new().name("tidewheel-cgroup".into()).spawn(move || {
            for _ in 0..50 {
                std::thread::sleep(Duration::from_millis(20));
                if dirs.iter().all(|dir| fs::remove_dir(dir).is_ok() || !dir.exists()) {
                    return;
                }
            }
        });
    }
}

fn version_1(own: &str, mounts: &str, name: &str) -> Vec<(Vec<&'static str>, PathBuf)> {
    let mut roots = Vec::new();
    for controller in ["memory", "pids", "cpu", "blkio"] {
        let mount = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (_, at, kind, options) = (words.next()?, words.next()?, words.next()?, words.next()?);
            (kind == "cgroup" && options.split(',').any(|o| o == controller)).then(|| PathBuf::from(at))
        });
        let path = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            parts.next()?.split(',').any(|c| c == controller).then(|| parts.next())?
        });
        let (Some(mount), Some(path)) = (mount, path) else { continue };
        let parent = mount.join(path.trim_start_matches('/'));
        sweep(&parent);
        let dir = parent.join(name);
        if writable(&dir) {
            roots.push((vec![controller], dir));
        }
    }
    roots
}

fn version_2(own: &str, mounts: &str, name: &str) -> Option<(Vec<&'static str>, PathBuf)> {
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let at = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(at))
    })?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let parent = mount.join(path.trim_start_matches('/'));
    sweep(&parent);
    let wanted = ["memory", "pids", "cpu", "io"];
    let enabled = |dir: &Path| -> Vec<&'static str> {
        let text = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        wanted.into_iter().filter(|c| text.split_whitespace().any(|t| t == *c)).collect()
    };
    if enabled(&parent).is_empty() {
        leave_alone(&parent)?;
        for controller in wanted {
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    let dir = parent.join(name);
    if !writable(&dir) {
        return None;
    }
    for controller in wanted {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    let controllers = enabled(&dir);
    (!controllers.is_empty()).then_some((controllers, dir))
}

/// Moves this process into a leaf of its own group, if it is the only one there.
fn leave_alone(parent: &Path) -> Option<()> {
    let members = fs::read_to_string(parent.join("cgroup.procs")).ok()?;
    let own = std::process::id().to_string();
    if members.split_whitespace().any(|pid| pid != own) {
        return None;
    }
    let leaf = parent.join("tidewheel-self");
    fs::create_dir_all(&leaf).ok()?;
    fs::OpenOptions::new().write(true).open(leaf.join("cgroup.procs")).ok()?.write_all(own.as_bytes()).ok()
}

fn writable(dir: &Path) -> bool {
    fs::create_dir_all(dir).is_ok() && fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs")).is_ok()
}

/// The process in the name of a folder of ours.
fn owner_of(name: &str) -> Option<i32> {
    name.strip_prefix("tidewheel-")?.split('.').next()?.parse().ok()
}

/// Ends what an agent left that was killed, and removes its groups.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let Some(pid) = file.to_str().and_then(owner_of) else { continue };
        if Path::new(&format!("/proc/{pid}")).exists() {
            continue;
        }
        for group in fs::read_dir(entry.path()).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
            let group = Group { dirs: vec![group.path()], unified: false };
            group.kill();
        }
        let _ = fs::remove_dir(entry.path());
    }
}
