//! System calls of a server, watched and broken from outside with strace.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Group, Signal};

/// A tracer on a running process; it lets go when dropped.
pub struct Trace {
    group: Group,
    lines: PathBuf,
}

impl Trace {
    /// Attaches and waits until the process is traced. `inject` is strace's own expression, or empty.
    pub async fn attach(pid: u32, calls: &str, inject: &str, folder: &Path) -> anyhow::Result<Trace> {
        let lines = folder.join(format!("trace-{}", crate::server::free_port()?));
        let mut command = Command::new("strace");
        command.args(["-f", "-p", &pid.to_string(), "-e", &format!("trace={calls}"), "-o"]).arg(&lines);
        if !inject.is_empty() {
            command.args(["-e", &format!("inject={inject}")]);
        }
        let group = Group::start(&mut command, &folder.join("strace.log"))?;
        let trace = Trace { group, lines };
        crate::until("strace to attach to every thread", crate::PATIENCE, || async {
            Ok(is_traced(pid).then_some(()))
        })
        .await?;
        Ok(trace)
    }

    /// Calls seen so far, those that are split over two lines counted once.
    pub fn count(&self) -> usize {
        let text = std::fs::read_to_string(&self.lines).unwrap_or_default();
        text.lines().filter(|line| line.contains('(') && !line.contains(" resumed>")).count()
    }

    /// The calls themselves, from the `n`-th on.
    pub fn since(&self, n: usize) -> Vec<String> {
        let text = std::fs::read_to_string(&self.lines).unwrap_or_default();
        let calls = text.lines().filter(|line| line.contains('(') && !line.contains(" resumed>"));
        calls.skip(n).map(str::to_owned).collect()
    }

    /// Detaches and waits until the tracer is gone; gives the number of calls.
    pub async fn detach(mut self) -> anyhow::Result<usize> {
        self.group.signal(Signal::INT);
        self.group.wait(crate::PATIENCE).await?;
        Ok(self.count())
    }
}

/// Whether every thread of a process has a tracer. A process that is gone was traced: an injected fault may end it at once.
fn is_traced(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    if state.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z')) {
        return true;
    }
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap_or("0");
        tracer.trim() != "0"
    })
}
