//! Processes of a test: each in a group of its own that ends with the test, whatever happened to it.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, kill_process, kill_process_group};

pub use rustix::process::Signal;

/// A child and the process group it leads.
pub struct Group {
    child: Child,
    status: Option<ExitStatus>,
}

impl Group {
    /// Starts a command as the leader of a new group, with stdout and stderr in `log`.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Group> {
        // Appended: a server that is restarted keeps the story of its earlier life.
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        Group::start_as_is(command)
    }

    /// Starts a command whose streams the caller has arranged.
    pub fn start_as_is(command: &mut Command) -> anyhow::Result<Group> {
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Group { child, status: None })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The standard output, where it was piped.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends a signal to the leader alone.
    pub fn signal(&self, signal: Signal) {
        if let (None, Some(pid)) = (self.status, self.raw()) {
            // It may have ended a moment ago.
            let _ = kill_process(pid, signal);
        }
    }

    /// How it ended, or nothing while it lives.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits for the end.
    pub async fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            anyhow::ensure!(begun.elapsed() < limit, "the process did not end within {} s", limit.as_secs());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGKILL for the leader, and waits until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if self.status.is_none() {
            self.child.kill()?;
            self.status = Some(self.child.wait()?);
        }
        Ok(())
    }

    fn raw(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.raw() {
            // A stopped group does not react to anything but SIGKILL.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        if self.status.is_none() {
            let _ = self.child.wait();
        }
    }
}

/// A process, told from a later one with the same number by its start time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// Process id.
    pub pid: u32,
    started: u64,
    /// Its name, for messages.
    pub name: String,
}

impl Id {
    /// Whether it is still there and not a zombie.
    pub fn lives(&self) -> bool {
        read_stat(self.pid).is_some_and(|now| now.started == self.started && now.state != 'Z')
    }
}

struct Stat {
    parent: u32,
    state: char,
    started: u64,
    name: String,
}

fn read_stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and brackets: the fields begin after the last bracket.
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        name,
    })
}

/// Every process below `ancestor`, as far as the kernel still knows the parents.
pub fn descendants(ancestor: u32) -> Vec<Id> {
    let mut children: HashMap<u32, Vec<Id>> = HashMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    for pid in entries.flatten().filter_map(|e| e.file_name().to_string_lossy().parse::<u32>().ok()) {
        if let Some(stat) = read_stat(pid) {
            children.entry(stat.parent).or_default().push(Id { pid, started: stat.started, name: stat.name });
        }
    }
    let mut found = Vec::new();
    let mut open = vec![ancestor];
    while let Some(parent) = open.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            open.push(child.pid);
            found.push(child);
        }
    }
    found
}

/// CPU time a process has used, in clock ticks (1/100 s).
pub fn cpu_ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        text.rsplit_once(')').map(|(_, tail)| tail.split_whitespace().collect()).unwrap_or_default();
    let tick = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    tick(11) + tick(12)
}

/// Resident bytes of a process.
pub fn resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmRSS:")
}

/// The most that were resident at a time, since its start.
pub fn peak_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let kib: u64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    kib * 1024
}
