//! Tools that build environments (uv, pip), and with them the code that a package brings for its own build: the `setup.py` or the
//! build backend of an sdist. An agent runs them behind the walls that tasks have: limits, a kill of all that was started, and a
//! sandbox whenever tasks are isolated. Nothing of the agent's environment that is its own reaches them in either case. On a
//! person's own machine (`tidewheel package build`) the tools run as that person's programs do.

use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::cache;
use crate::config::{BuildLimits, Limits};
use crate::error::{Error, clip_front};
use crate::process::{self, Running, Spawn, Spawner, Tree};
use crate::procfs;
use crate::sandbox::{Sandbox, View};

/// Shown of a build that failed, and all that is kept of what one says, however much that is.
const TAIL_BYTES: usize = 8 << 10;
/// How often a build is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After the end of a build: for what is left in its pipes.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// A build is stopped when the disk has less than this left: the rest belongs to everybody.
const DISK_RESERVE: u64 = 512 << 20;
/// What an isolated build is told of the agent's environment: how the network and the index of packages are reached.
const TOLD: [&str; 10] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// The same by how their names begin: settings of the tools themselves.
const TOLD_PREFIXES: [&str; 2] = ["UV_", "PIP_"];
/// Those of them that may name a file or a folder, which an isolated build then sees.
const NAMES_OF_FILES: [&str; 7] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "PIP_CERT",
    "PIP_CONFIG_FILE",
    "PIP_FIND_LINKS",
    "UV_CONFIG_FILE",
    "UV_FIND_LINKS",
];
/// Never told to any build: what is the agent's own.
const OWN: [&str; 3] = ["TIDEWHEEL_", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"];

/// Where systems keep the certificates that they trust.
const TRUSTED: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Settings that let uv trust what this machine trusts, the authority of a proxy for one. By itself it goes by a list of its own.
/// Nothing where there is no such list, or where the agent was started with a setting of its own.
pub(crate) fn trust() -> impl Iterator<Item = (&'static str, &'static str)> {
    // The newer name and the older one.
    let names = ["UV_SYSTEM_CERTS", "UV_NATIVE_TLS"];
    let given = names.iter().any(|name| std::env::var_os(name).is_some());
    let wanted = !given && TRUSTED.iter().any(|file| Path::new(file).exists());
    names.into_iter().filter(move |_| wanted).map(|name| (name, "true"))
}

/// Runs what builds environments.
pub(crate) struct Builds {
    /// None on a person's own machine.
    walls: Option<Walls>,
}

struct Walls {
    spawner: Spawner,
    sandbox: Sandbox,
    limits: BuildLimits,
}

/// One call of a tool.
pub(crate) struct Job<'a> {
    /// For the error, such as `uv pip install`.
    pub(crate) what: &'a str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    /// The folder of this build: its home, its place for temporary files, and what it builds lie there.
    pub(crate) place: &'a Path,
    /// What else it writes: downloads that are kept for the next build.
    pub(crate) writable: &'a Path,
    /// What it has to see beside system folders.
    pub(crate) readable: Vec<PathBuf>,
    /// Whether it fetches something.
    pub(crate) network: bool,
    pub(crate) isolated: bool,
}

impl Builds {
    /// Those of an agent.
    pub(crate) fn behind_walls(spawner: Spawner, sandbox: Sandbox, limits: BuildLimits) -> Builds {
        Builds { walls: Some(Walls { spawner, sandbox, limits }) }
    }

    /// Those of a person on the own machine.
    pub(crate) fn plain() -> Builds {
        Builds { walls: None }
    }

    /// For `Hello.enforced`.
    pub(crate) fn describe(&self) -> String {
        let Some(walls) = &self.walls else { return "none".to_owned() };
        let BuildLimits { time, memory_bytes, disk_bytes, processes } = &walls.limits;
        format!(
            "sandbox: {}; time {} s, memory {}, disk {}, processes {processes}",
            walls.sandbox.describe(),
            time.as_secs(),
            size(*memory_bytes),
            size(*disk_bytes)
        )
    }

    /// Runs a tool to its end: what it said on its standard output, or an error with the end of what it said.
    pub(crate) async fn run(&self, job: Job<'_>) -> Result<String, Error> {
        match &self.walls {
            Some(walls) => walls.run(job).await,
            None => {
                let mut command = Command::new(&job.program);
                command.args(&job.args).envs(job.env).env_remove("VIRTUAL_ENV");
                plain(job.what, command).await
            }
        }
    }

    /// Makes a folder belong to whom builds run as.
    pub(crate) fn hand_over(&self, dir: &Path) -> Result<(), Error> {
        self.walls.as_ref().map_or(Ok(()), |walls| walls.hand_over(dir))
    }

    /// Makes what a build left belong to the agent again, so that no task that runs as the same user changes it.
    pub(crate) fn take_back(&self, dir: &Path) -> Result<(), Error> {
        if self.walls.as_ref().and_then(|walls| walls.spawner.run_as()).is_none() {
            return Ok(());
        }
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        own(dir, uid, gid).map_err(Error::file("take back", dir))
    }
}

/// Gives a folder and all in it to a user. Links are changed themselves, not what they lead to.
fn own(dir: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        lchown(&path, Some(uid), Some(gid))?;
        if std::fs::symlink_metadata(&path)?.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        }
    }
    Ok(())
}

/// Kills a build whose future is gone before its end, so that no part of it goes on unseen.
struct Ends(Option<Arc<Tree>>);

impl Drop for Ends {
    fn drop(&mut self) {
        if let (Some(tree), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(tree.kill());
        }
    }
}

impl Walls {
    async fn run(&self, job: Job<'_>) -> Result<String, Error> {
        let what = job.what;
        let (place, cache) = (job.place.to_owned(), job.writable.to_owned());
        let started = Instant::now();
        let watch = Watch { began: SystemTime::now(), free: free_bytes(&place), place, cache };
        let Running { mut child, stdout, stderr, tree } = self.start(job).await?;
        let mut unended = Ends(Some(tree.clone()));
        let (mut out, mut err) = (Said::of(stdout), Said::of(stderr));
        let mut look = tokio::time::interval(LOOK_EVERY);
        let (status, stopped) = loop {
            tokio::select! {
                status = child.wait() => break (status.ok(), None),
                () = out.more() => {}
                () = err.more() => {}
                _ = look.tick() => {
                    let over = self.over(&tree, &watch, started).await;
                    if over.is_some() {
                        break (None, over);
                    }
                }
            }
        };
        // What it left running is ended, whatever became of it.
        tree.clone().kill().await;
        unended.0 = None;
        let status = match status {
            Some(status) => Some(status),
            None => child.wait().await.ok(),
        };
        let _ = tokio::time::timeout(LAST_WORDS, async { tokio::join!(out.rest(), err.rest()) }).await;
        // It may have gone too far between two looks, and have ended by that.
        let stopped = match stopped {
            None if !status.is_some_and(|s| s.success()) => self.over(&tree, &watch, started).await,
            other => other,
        };
        if let Some(why) = stopped {
            return Err(Error::Environment { message: format!("{what} was stopped: {why}"), retryable: false });
        }
        if status.is_some_and(|s| s.success()) {
            return Ok(out.text());
        }
        let how = process::describe_exit(status);
        Err(failed(what, &how, &format!("{}{}", out.text(), err.text())))
    }

    async fn start(&self, job: Job<'_>) -> Result<Running, Error> {
        let Job { what, program, args, env: more, place, writable, mut readable, network, isolated } = job;
        let mut env = environment(isolated, std::env::vars_os());
        let home = [("HOME", place.join("home")), ("TMPDIR", place.join("tmp"))];
        for (name, dir) in home {
            std::fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
            self.hand_over(&dir)?;
            if isolated || name == "TMPDIR" {
                set(&mut env, name, dir.into());
            }
        }
        more.into_iter().for_each(|(name, value)| set(&mut env, &name.to_string_lossy(), value));
        let (program, args) = match isolated {
            false => (program, args),
            true => {
                let named = env.iter().filter(|(name, _)| NAMES_OF_FILES.iter().any(|known| name == known));
                readable.extend(named.map(|(_, path)| PathBuf::from(path)).filter(|p| p.is_absolute() && p.exists()));
                let writable = [place, writable];
                self.sandbox.wrap(&View { readable: &readable, writable: &writable, network }, &program, args)
            }
        };
        let spawn =
            Spawn { program, args, env, dir: place.to_owned(), limits: self.limits(), keep: None, stdin: false };
        self.spawner.spawn(spawn).await.map_err(Error::io(format!("cannot run {what}")))
    }

    fn hand_over(&self, dir: &Path) -> Result<(), Error> {
        match self.spawner.run_as() {
            Some((uid, gid)) => own(dir, uid, gid).map_err(Error::file("hand over", dir)),
            None => Ok(()),
        }
    }

    fn limits(&self) -> Limits {
        let BuildLimits { memory_bytes, disk_bytes, processes, .. } = self.limits;
        Limits { memory_bytes, processes, file_bytes: disk_bytes, ..Limits::default() }
    }

    /// Which limit a build has passed, if any, and what to do about it.
    async fn over(&self, tree: &Arc<Tree>, watch: &Watch, started: Instant) -> Option<String> {
        let BuildLimits { time, memory_bytes, disk_bytes, processes } = self.limits;
        let more = |setting: &str| format!("; raise --build-{setting} of the agent if the package needs more");
        if started.elapsed() >= time {
            return Some(format!("it did not end within {} s{}", time.as_secs(), more("time")));
        }
        let memory = || Some(format!("it used more than {} of memory{}", size(memory_bytes), more("memory")));
        let count = || Some(format!("it started more than {processes} processes and threads{}", more("processes")));
        if tree.was_refused_processes() {
            return count();
        }
        let tree = tree.clone();
        let seen = tokio::task::spawn_blocking(move || match tree.is_watched() {
            true => tree.over_limit(&procfs::table()).or_else(|| tree.verdict()),
            false => tree.verdict(),
        });
        match seen.await.ok().flatten() {
            Some("memory-limit") => return memory(),
            Some(_) => return count(),
            None => {}
        }
        let look = watch.clone();
        let filled = tokio::task::spawn_blocking(move || look.fills(disk_bytes));
        match filled.await.ok()?? {
            Filled::Limit => Some(format!("it used {} of disk{}", size(disk_bytes), more("disk"))),
            Filled::Disk => Some(format!("the agent's disk has less than {} left", size(DISK_RESERVE))),
        }
    }
}

/// What a build does to the disk.
#[derive(Clone)]
struct Watch {
    began: SystemTime,
    /// Free bytes then.
    free: u64,
    place: PathBuf,
    cache: PathBuf,
}

enum Filled {
    Limit,
    Disk,
}

impl Watch {
    /// Whether it has taken too much. Folders are only walked through when the disk lost enough for it: that is one call.
    fn fills(&self, limit: u64) -> Option<Filled> {
        let free = free_bytes(&self.place);
        if limit > 0 && self.free.saturating_sub(free) >= limit / 2 {
            let used = cache::disk_bytes(&self.place) + cache::disk_bytes_since(&self.cache, self.began);
            if used >= limit {
                return Some(Filled::Limit);
            }
        }
        (free < DISK_RESERVE && free < self.free).then_some(Filled::Disk)
    }
}

fn free_bytes(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(u64::MAX, |s| s.f_bavail * s.f_frsize)
}

fn size(bytes: u64) -> String {
    match bytes {
        0 => "without bound".to_owned(),
        n if n >= 1 << 30 => format!("{:.1} GiB", n as f64 / f64::from(1 << 30)),
        n => format!("{} MiB", n >> 20),
    }
}

/// The environment of a build: of an agent's own, what is not the agent's alone; where it is isolated, only what it is told.
fn environment(isolated: bool, own: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let told = |name: &str| TOLD.contains(&name) || TOLD_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let passes = |name: &str| match isolated {
        true => told(name),
        false => !OWN.iter().any(|prefix| name.starts_with(prefix)) && name != "VIRTUAL_ENV",
    };
    let mut env: Vec<_> = own.filter(|(name, _)| passes(&name.to_string_lossy())).collect();
    if isolated {
        set(&mut env, "PATH", "/usr/local/bin:/usr/bin:/bin".into());
        set(&mut env, "LANG", "C.UTF-8".into());
    }
    env
}

fn set(env: &mut Vec<(OsString, OsString)>, name: &str, value: OsString) {
    env.retain(|(known, _)| known.to_string_lossy() != name);
    env.push((name.into(), value));
}

/// One of the streams of a build, of which the end is kept.
struct Said {
    pipe: pipe::Receiver,
    kept: Vec<u8>,
    ended: bool,
}

impl Said {
    fn of(pipe: pipe::Receiver) -> Said {
        Said { pipe, kept: Vec::new(), ended: false }
    }

    /// Takes what has come; never returns after its end.
    async fn more(&mut self) {
        if self.ended {
            return std::future::pending().await;
        }
        self.kept.reserve(16 << 10);
        if !matches!(self.pipe.read_buf(&mut self.kept).await, Ok(1..)) {
            self.ended = true;
        }
        if self.kept.len() > 8 * TAIL_BYTES {
            self.kept.drain(..self.kept.len() - TAIL_BYTES);
        }
    }

    async fn rest(&mut self) {
        while !self.ended {
            self.more().await;
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

/// Runs a tool without walls; its standard output, or an error with the end of what it said.
pub(crate) async fn plain(what: &str, mut command: Command) -> Result<String, Error> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match tokio::time::timeout(BuildLimits::default().time, command.output()).await {
        Ok(output) => output.map_err(Error::io(format!("cannot run {what}")))?,
        Err(_) => return Err(Error::Environment { message: format!("{what} did not end in time"), retryable: true }),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(failed(what, &output.status.to_string(), &said))
}

fn failed(what: &str, how: &str, said: &str) -> Error {
    let said = clip_front(said.trim().to_owned(), TAIL_BYTES);
    Error::Environment { retryable: is_network(&said), message: format!("{what} failed ({how}):\n{said}") }
}

/// Whether a tool's words are about the network, so that another try may work.
fn is_network(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    [
        "error sending request",
        "failed to fetch",
        "dns error",
        "timed out",
        "connection refused",
        "connection reset",
        "tcp connect error",
        "temporary failure in name resolution",
        "network is unreachable",
        "502 bad gateway",
        "503 service",
        "429 too many",
        "newconnectionerror",
        "max retries exceeded",
    ]
    .iter()
    .any(|sign| said.contains(sign))
}

/// What a build left where an environment is to be: a folder of its own and no link to another place, whose note of the Python that
/// it was made with is as it was before the build could write into it.
pub(crate) fn check_built(venv: &Path, note: &[u8]) -> Result<(), Error> {
    let is_folder = std::fs::symlink_metadata(venv).is_ok_and(|meta| meta.is_dir());
    if !is_folder {
        let message = "the build of a package removed its environment, or put a link in its place".to_owned();
        return Err(Error::Environment { message, retryable: false });
    }
    let file = venv.join(NOTE);
    let _ = std::fs::remove_file(&file);
    let written = std::fs::OpenOptions::new().write(true).create_new(true).open(&file);
    written.and_then(|mut file| std::io::Write::write_all(&mut file, note)).map_err(Error::file("write", &file))?;
    let _ = std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644));
    let _ = std::fs::set_permissions(venv, std::fs::Permissions::from_mode(0o755));
    Ok(())
}

/// The file of a virtual environment that says which Python it was made with.
pub(crate) const NOTE: &str = "pyvenv.cfg";

#[cfg(test)]
mod tests {
    use super::*;

    fn names(isolated: bool) -> Vec<String> {
        let own = [
            "TIDEWHEEL_TOKEN",
            "CREDENTIALS_DIRECTORY",
            "AWS_SECRET_ACCESS_KEY",
            "HTTPS_PROXY",
            "UV_INDEX_URL",
            "HOME",
        ];
        let env = environment(isolated, own.iter().map(|name| ((*name).into(), "x".into())));
        env.iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_build_is_not_told_what_is_the_agents_own() {
        assert_eq!(names(false), ["AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "UV_INDEX_URL", "HOME"]);
        assert_eq!(names(true), ["HTTPS_PROXY", "UV_INDEX_URL", "PATH", "LANG"]);
    }

    #[test]
    fn a_build_that_puts_a_link_in_place_of_its_environment_or_changes_its_note_gains_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let venv = dir.path().join("env");
        std::os::unix::fs::symlink("/etc", &venv).expect("linked");
        assert!(check_built(&venv, b"home = /usr/bin\n").is_err());
        std::fs::remove_file(&venv).expect("removed");
        assert!(check_built(&venv, b"home = /usr/bin\n").is_err());
        std::fs::create_dir(&venv).expect("made");
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "secret").expect("written");
        std::os::unix::fs::symlink(&secret, venv.join(NOTE)).expect("linked");
        check_built(&venv, b"home = /usr/bin\n").expect("it is made good");
        assert_eq!(std::fs::read_to_string(venv.join(NOTE)).expect("there"), "home = /usr/bin\n");
        assert_eq!(std::fs::read_to_string(&secret).expect("there"), "secret");
    }

    #[test]
    fn what_a_build_adds_is_counted_and_what_was_there_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("old"), vec![1u8; 1 << 20]).expect("written");
        let later = SystemTime::now() + Duration::from_secs(5);
        assert_eq!(cache::disk_bytes_since(dir.path(), later), 0);
        assert!(cache::disk_bytes_since(dir.path(), SystemTime::UNIX_EPOCH) >= 1 << 20);
    }
}
