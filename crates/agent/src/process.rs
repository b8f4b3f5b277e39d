//! Processes of user code: how one is started behind its limits and how it is ended with all it started. Every child
//! leads a session of its own, enters its control group before it runs the user's program, dies with the agent, and
//! is killed as a whole. It knows nothing of tasks.
//!
//! All children are forked by one thread that lives as long as the agent: the kernel ties `PR_SET_PDEATHSIG` to the
//! thread that forked, so a thread of a pool would take its children with it when the pool shrinks.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::cgroup::{Cgroups, Group};
use crate::config::Limits;
use crate::guard::Guard;
use crate::procfs;

/// What to start.
pub(crate) struct Spawn {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) dir: PathBuf,
    pub(crate) limits: Limits,
    /// Kept open in the child under the same number.
    pub(crate) keep: Option<OwnedFd>,
    pub(crate) stdin: bool,
}

/// The entry in the environment of each process that user code is started in; its children inherit it, and what left its session is
/// found by it. Value: the agent's instance, a dot, a number.
const MARK: &str = "TIDEWHEEL_MARK";

/// A started process, the leader of its session.
pub(crate) struct Running {
    pub(crate) child: tokio::process::Child,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
    pub(crate) tree: Arc<Tree>,
}

/// What has to be ended with a process.
pub(crate) struct Tree {
    pub(crate) pid: i32,
    marker: String,
    group: Option<Group>,
    pub(crate) limits: Limits,
    owner: Arc<Inner>,
    /// Set by the watch or after the end: why it was killed.
    verdict: Mutex<Option<&'static str>>,
}

/// Starts processes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Spawner {
    inner: Arc<Inner>,
    requests: std::sync::mpsc::Sender<Request>,
}

struct Inner {
    cgroups: Cgroups,
    guard: Guard,
    instance: String,
    run_as: Option<(u32, u32)>,
    counter: std::sync::atomic::AtomicU64,
}

type Request = (Spawn, oneshot::Sender<std::io::Result<Running>>);

impl Spawner {
    /// Needs a tokio runtime, whose driver will own the pipes.
    pub(crate) fn start(instance: &str, run_as: Option<(u32, u32)>, control_groups: bool) -> std::io::Result<Self> {
        // Orphans of user code become children of this process, where the kill finds them.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let inner = Arc::new(Inner {
            cgroups: if control_groups { Cgroups::detect(instance) } else { Cgroups::default() },
            guard: Guard::start(&format!("{MARK}={instance}.")),
            instance: instance.to_owned(),
            run_as: run_as.filter(|_| rustix::process::geteuid().is_root()),
            counter: std::sync::atomic::AtomicU64::new(1),
        });
        let (requests, queue) = std::sync::mpsc::channel::<Request>();
        let (runtime, state) = (tokio::runtime::Handle::current(), inner.clone());
        std::thread::Builder::new().name("tidewheel-spawn".into()).spawn(move || {
            while let Ok((spawn, reply)) = queue.recv() {
                let _context = runtime.enter();
                let _ = reply.send(state.clone().fork(spawn));
            }
        })?;
        Ok(Self { inner, requests })
    }

    pub(crate) async fn spawn(&self, spawn: Spawn) -> std::io::Result<Running> {
        let (reply, answer) = oneshot::channel();
        let gone = || std::io::Error::other("the agent is ending");
        self.requests.send((spawn, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Which limits hold, for `Hello.enforced`.
    pub(crate) fn enforced(&self) -> Vec<(String, String)> {
        let by = |controller: &str, other: &str| {
            if self.inner.cgroups.has(controller) { "cgroup".to_owned() } else { other.to_owned() }
        };
        vec![
            ("cgroup".into(), self.inner.cgroups.describe()),
            ("memory".into(), by("memory", "watch")),
            ("processes".into(), by("pids", "watch")),
            ("cpu".into(), by("cpu", "none")),
            ("share".into(), self.inner.cgroups.shares().into()),
            // Not held to a figure: reads and writes of a task that wants much of them go first.
            ("iops".into(), self.inner.cgroups.io_priority()),
            ("time".into(), "kill".into()),
            ("orphans".into(), if self.inner.guard.is_up() { "guard".into() } else { "death-signal".into() }),
            ("user".into(), self.inner.run_as.map_or("agent".into(), |(uid, _)| uid.to_string())),
        ]
    }

    pub(crate) fn run_as(&self) -> Option<(u32, u32)> {
        self.inner.run_as
    }
}

impl Inner {
    fn fork(self: Arc<Self>, spawn: Spawn) -> std::io::Result<Running> {
        let number = self.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let marker = format!("{MARK}={}.{number}", self.instance);
        let group = self.cgroups.create(&format!("p{number}"), &spawn.limits);
        let (stdout_read, stdout_write) = output_pipe()?;
        let (stderr_read, stderr_write) = output_pipe()?;
        let mut command = tokio::process::Command::new(&spawn.program);
        command.args(&spawn.args).env_clear().envs(spawn.env.iter().cloned()).current_dir(&spawn.dir);
        let (mark, value) = marker.split_once('=').expect("the marker is written with a sign of equality");
        command.env(mark, value);
        command.stdin(if spawn.stdin { Stdio::piped() } else { Stdio::null() });
        command.stdout(stdout_write).stderr(stderr_write).kill_on_drop(true);
        let plan = ChildPlan {
            entrances: group.iter().flat_map(Group::entrances).collect(),
            keep: spawn.keep.as_ref().map(AsRawFd::as_raw_fd),
            limits: rlimits(&spawn.limits, self.cgroups.has("memory")),
            first_io: spawn.limits.fast_io,
            run_as: self.run_as,
            parent: rustix::process::getpid().as_raw_nonzero().get(),
        };
        // SAFETY: `enter` only makes system calls and reads memory that was prepared before the fork.
        unsafe { command.pre_exec(move || plan.enter()) };
        let child = command.spawn()?;
        let pid = child.id().expect("a child that was not waited for has an id") as i32;
        self.guard.add(pid, group.as_ref().and_then(Group::members_file).as_deref());
        let tree = Arc::new(Tree { pid, marker, group, limits: spawn.limits, owner: self, verdict: Mutex::new(None) });
        let receiver = pipe::Receiver::from_owned_fd;
        Ok(Running { child, stdout: receiver(stdout_read)?, stderr: receiver(stderr_read)?, tree })
    }
}

/// What stdout and stderr hold before a child waits.
pub(crate) const PIPE_BYTES: usize = 256 << 10;

/// A pipe large enough that a child that prints a lot does not wait for every 64 KiB.
fn output_pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let _ = rustix::pipe::fcntl_setpipe_size(&read, PIPE_BYTES);
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read, write))
}

/// What the child does between fork and exec.
struct ChildPlan {
    entrances: Vec<OwnedFd>,
    keep: Option<RawFd>,
    limits: Vec<(u32, u64)>,
    /// Best effort, at the level that goes first; where no control group weighs reads and writes.
    first_io: bool,
    run_as: Option<(u32, u32)>,
    parent: i32,
}

fn rlimits(limits: &Limits, memory_is_grouped: bool) -> Vec<(u32, u64)> {
    let mut out = vec![(libc::RLIMIT_CORE, 0)];
    let mut add = |resource: u32, value: u64| {
        if value > 0 {
            out.push((resource, value));
        }
    };
    add(libc::RLIMIT_NOFILE, limits.open_files);
    add(libc::RLIMIT_FSIZE, limits.file_bytes);
    if !memory_is_grouped {
        // Private writable memory; address space would forbid the large reservations numeric libraries make.
        add(libc::RLIMIT_DATA, limits.memory_bytes);
    }
    out
}

/// The process itself, see `ioprio_set(2)`.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// Class best effort (2), level 0 of 0 to 7; a process that says nothing has level 4.
const IOPRIO_FIRST: libc::c_int = 2 << 13;

impl ChildPlan {
    fn enter(&self) -> std::io::Result<()> {
        let check = |result: i32| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
        // SAFETY: plain system calls on values and descriptors owned by this struct.
        unsafe {
            check(libc::setsid())?;
            for entrance in &self.entrances {
                libc::write(entrance.as_raw_fd(), c"0".as_ptr().cast(), 1);
            }
            if let Some(fd) = self.keep {
                check(libc::fcntl(fd, libc::F_SETFD, 0))?;
            }
            // When memory runs out, a task goes before the agent.
            let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if score >= 0 {
                libc::write(score, c"500".as_ptr().cast(), 3);
                libc::close(score);
            }
            for (resource, value) in &self.limits {
                let limit = libc::rlimit { rlim_cur: *value, rlim_max: *value };
                libc::setrlimit(*resource as _, &raw const limit);
            }
            if self.first_io {
                // A kernel without it, or a disk without a scheduler, leaves things as they are.
                libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_FIRST);
            }
            if let Some((uid, gid)) = self.run_as {
                check(libc::setgroups(0, std::ptr::null()))?;
                check(libc::setgid(gid))?;
                check(libc::setuid(uid))?;
            }
            // Last, because a change of the user id clears it.
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            if libc::getppid() != self.parent {
                libc::_exit(1);
            }
        }
        Ok(())
    }
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid).filter(|p| p.as_raw_nonzero().get() > 1) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

impl Tree {
    /// Asks the whole process group to end.
    pub(crate) fn terminate(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = rustix::process::kill_process_group(pid, Signal::TERM);
        }
    }

    /// Kills everything that belongs to the process and returns once nothing of it runs, or after two seconds.
    pub(crate) async fn kill(self: Arc<Self>) {
        for round in 0..40u64 {
            let tree = self.clone();
            let alive = tokio::task::spawn_blocking(move || tree.kill_once()).await.unwrap_or(0);
            if alive == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5 * (round + 1).min(10))).await;
        }
        tracing::warn!(pid = self.pid, "a process of user code does not end after SIGKILL");
    }

    fn kill_once(&self) -> usize {
        if let Some(group) = &self.group {
            group.kill();
        }
        // A leader that was already waited for has a number that may be used again: its group is only addressed while
        // /proc still shows members of the session.
        let table = procfs::table();
        let family = procfs::family(&table, self.pid, &self.marker);
        let mut alive = 0;
        for entry in &family {
            if entry.zombie {
                self.reap(entry);
            } else {
                signal(entry.pid, Signal::KILL);
                alive += 1;
            }
        }
        alive
    }

    /// Takes the exit of an orphan that became this process's child. The leader itself is waited for by its owner.
    fn reap(&self, entry: &procfs::Entry) {
        if entry.pid != self.pid
            && entry.parent == std::process::id() as i32
            && let Some(pid) = Pid::from_raw(entry.pid)
        {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
        }
    }

    /// Whether there is a limit that no control group holds.
    pub(crate) fn is_watched(&self) -> bool {
        let cgroups = &self.owner.cgroups;
        self.limits.memory_bytes > 0 && !cgroups.has("memory") || self.limits.processes > 0 && !cgroups.has("pids")
    }

    /// Bounds what no control group bounds: called now and then with a table of processes.
    pub(crate) fn over_limit(&self, table: &[procfs::Entry]) -> Option<&'static str> {
        let cgroups = &self.owner.cgroups;
        let watch_memory = self.limits.memory_bytes > 0 && !cgroups.has("memory");
        let watch_count = self.limits.processes > 0 && !cgroups.has("pids");
        let family = procfs::family(table, self.pid, &self.marker);
        let memory: u64 = family.iter().map(|e| e.resident_bytes).sum();
        let count: u32 = family.iter().map(|e| e.threads).sum();
        // What forks without end is over both: its processes are why it has so much memory.
        let verdict = if watch_count && count > self.limits.processes {
            "process-limit"
        } else if watch_memory && memory > self.limits.memory_bytes {
            "memory-limit"
        } else {
            return None;
        };
        *self.verdict.lock() = Some(verdict);
        Some(verdict)
    }

    /// Whether daemons of it are about: processes that outlived the one that started them, and so became children of this one.
    pub(crate) fn has_strays(&self, table: &[procfs::Entry]) -> bool {
        let own = std::process::id() as i32;
        let family = procfs::family(table, self.pid, &self.marker);
        family.iter().any(|e| e.parent == own && e.pid != self.pid && !e.zombie)
    }

    /// Whether the kernel refused it a process.
    pub(crate) fn was_refused_processes(&self) -> bool {
        self.group.as_ref().is_some_and(Group::out_of_processes)
    }

    /// Why it ended, where that is more than its exit code.
    pub(crate) fn verdict(&self) -> Option<&'static str> {
        self.verdict.lock().or_else(|| self.group.as_ref().is_some_and(Group::out_of_memory).then_some("memory-limit"))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.owner.guard.remove(self.pid);
    }
}

/// An exit in words.
pub(crate) fn describe_exit(status: Option<ExitStatus>) -> String {
    match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("the process exited with code {code}"),
            (None, Some(signal)) => format!("the process was ended by signal {signal}"),
            (None, None) => "the process ended".into(),
        },
        None => "the process ended".into(),
    }
}
