//! Virtual environments, one per (tenant, lock, Python): built by uv where it is found, else by venv and pip; kept and shared by
//! every package of a tenant with the same lock, and by no other tenant: what a build of one tenant ran has written it. An environment is built beside its place and moved there when it is whole, so
//! that a killed build leaves nothing that looks like one. It runs no user code but what building a package runs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::cache::{self, Hold};
use crate::error::{Error, clip_front};
use crate::python::{self, Python};
use crate::tally::Tally;

/// The number of a server's first tenant; a folder that is run in place has 0.
const FIRST_TENANT: u32 = 1;
/// Shown of a build that failed.
const TAIL_BYTES: usize = 8 << 10;
/// A build that takes longer hangs.
const BUILD_TIME: std::time::Duration = std::time::Duration::from_secs(30 * 60);

/// The builder of environments under `data_dir/envs`.
pub(crate) struct Environments {
    dir: PathBuf,
    cache: PathBuf,
    uv: Option<Vec<OsString>>,
    pub(crate) python: Python,
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    tally: Arc<Tally>,
}

/// Where to run code.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) program: PathBuf,
    /// What a sandbox has to show beside system folders.
    pub(crate) readable: Vec<PathBuf>,
    /// Keeps it in the cache; the machine's own Python is in none.
    #[allow(dead_code, reason = "it is held, not read")]
    pub(crate) hold: Option<Hold>,
}

impl Environments {
    pub(crate) async fn open(data_dir: &Path, python: Python, tally: Arc<Tally>) -> Result<Self, Error> {
        let (dir, cache) = (data_dir.join("envs"), data_dir.join(cache::UV_CACHE));
        std::fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
        let uv = find_uv(data_dir, &python).await;
        match &uv {
            Some(uv) => tracing::debug!(uv = %uv[0].to_string_lossy(), "environments are built by uv"),
            None => tracing::warn!("uv was not found: environments are built by venv and pip, which is slower"),
        }
        Ok(Self { dir, cache, uv, python, flights: Mutex::default(), tally })
    }

    pub(crate) fn builder(&self) -> &'static str {
        if self.uv.is_some() { "uv" } else { "pip" }
    }

    /// For a folder that is run in place: without dependencies of its own it sees what is installed on the machine.
    pub(crate) async fn get_local(&self, lock: &str, requires_python: &str) -> Result<Environment, Error> {
        if is_empty(lock) && python::satisfies(&self.python.version, requires_python) {
            return Ok(self.plain());
        }
        // A folder is run for whoever started this agent.
        self.get(0, lock, requires_python).await
    }

    /// The environment of a lock; built if it is not there. An empty lock has one too: what happens to be installed on
    /// the machine must not decide whether a package runs, and its start-up files cost every process tens of milliseconds.
    pub(crate) async fn get(&self, tenant: u32, lock: &str, requires_python: &str) -> Result<Environment, Error> {
        let fits = python::satisfies(&self.python.version, requires_python);
        let key = key_of(tenant, lock, &self.python.version, if fits { "" } else { requires_python });
        let place = self.dir.join(&key);
        let flight = self.flights.lock().entry(key.clone()).or_default().clone();
        let _one = flight.lock().await;
        // Before it is looked for, so that it cannot be pruned in between.
        let hold = Hold::take(&place).map_err(Error::file("mark the use of", &place))?;
        if !place.is_dir() {
            // Another agent on the same folder may be building it.
            let _other = lock_file(self.dir.join(format!("{key}.lock"))).await?;
            if !place.is_dir() {
                let wanted = if fits { self.python.program.clone().into() } else { OsString::from(requires_python) };
                let begun = std::time::Instant::now();
                self.build(lock, &wanted, &place).await?;
                self.tally.start("environment", begun.elapsed());
                hold.measured(&place);
                self.compile_later(&place, hold.clone());
            }
        }
        let program = place.join("bin/python");
        let mut readable = vec![place.clone()];
        readable.extend(home_of(&place).into_iter().filter(|p| !p.starts_with("/usr")));
        Ok(Environment { program, readable, hold: Some(hold) })
    }

    /// The machine's Python as it is.
    fn plain(&self) -> Environment {
        let mut readable = Vec::new();
        if !self.python.prefix.starts_with("/usr") {
            readable.push(self.python.prefix.clone());
        }
        Environment { program: self.python.program.clone(), readable, hold: None }
    }

    async fn build(&self, lock: &str, python: &OsString, place: &Path) -> Result<(), Error> {
        let begin = std::time::Instant::now();
        let part = tempfile::Builder::new().prefix(".part-").tempdir_in(&self.dir);
        let part = part.map_err(Error::file("write in", &self.dir))?;
        let venv = part.path().join("env");
        let list = part.path().join("requirements.txt");
        std::fs::write(&list, lock).map_err(Error::file("write", &list))?;
        let hashed = lock.contains("--hash=");
        match &self.uv {
            _ if is_empty(lock) && *python == self.python.program => {
                let mut make = Command::new(&self.python.program);
                make.args(["-I", "-m", "venv", "--without-pip"]).arg(&venv);
                run("python -m venv", make).await?;
            }
            Some(_) => {
                self.uv(&[&"venv", &"--relocatable", &"--python", python, &venv]).await?;
                let program = venv.join("bin/python");
                if hashed {
                    self.uv(&[&"pip", &"sync", &"--require-hashes", &"--python", &program, &list]).await?;
                } else if !is_empty(lock) {
                    self.uv(&[&"pip", &"install", &"--python", &program, &"-r", &list]).await?;
                }
            }
            None => {
                let mut make = Command::new(&self.python.program);
                make.args(["-m", "venv"]).arg(&venv);
                run("python -m venv", make).await?;
                let mut install = Command::new(venv.join("bin/python"));
                install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&list);
                if hashed {
                    install.arg("--require-hashes");
                }
                run("pip install", install).await?;
            }
        }
        std::fs::rename(&venv, place).map_err(Error::file("make", place))?;
        tracing::info!(env = %place.display(), seconds = begin.elapsed().as_secs_f32(), by = self.builder(), "built");
        Ok(())
    }

    /// Compiles the modules behind the first tasks' back: done before them, it would be most of the time of a build.
    fn compile_later(&self, place: &Path, hold: Hold) {
        let program = place.join("bin/python");
        let mut command = match crate::capacity::find("nice") {
            Some(nice) => {
                let mut command = Command::new(nice);
                command.args(["-n", "19"]).arg(&program);
                command
            }
            None => Command::new(&program),
        };
        command.args(["-I", "-m", "compileall", "-q"]).arg(place.join("lib"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        tokio::spawn(async move {
            let _ = command.status().await;
            drop(hold);
        });
    }

    async fn uv(&self, args: &[&(dyn AsRef<std::ffi::OsStr> + Sync)]) -> Result<String, Error> {
        let uv = self.uv.as_ref().expect("only called where uv was found");
        let mut command = Command::new(&uv[0]);
        command.args(&uv[1..]).args(args.iter().map(|a| a.as_ref()));
        // One cache per agent on the file system of the environments, so that files are linked and not copied.
        command.env("UV_CACHE_DIR", &self.cache).env("UV_NO_PROGRESS", "1").env_remove("VIRTUAL_ENV");
        let _held = Hold::take(&self.cache).map_err(Error::file("mark the use of", &self.cache))?;
        run("uv", command).await
    }

    /// The dependencies with exact versions and hashes. `None` without uv.
    pub(crate) async fn lock(&self, requirements: &str, dir: &Path) -> Result<Option<String>, Error> {
        if self.uv.is_none() {
            return Ok(None);
        }
        let file =
            tempfile::Builder::new().suffix(".in").tempfile().map_err(Error::io("cannot write a temporary file"))?;
        std::fs::write(file.path(), requirements).map_err(Error::file("write", file.path()))?;
        let uv = self.uv.as_ref().expect("looked at above");
        let mut command = Command::new(&uv[0]);
        command.args(&uv[1..]).args(["pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate"]);
        command.arg("--python").arg(&self.python.program).arg(file.path());
        command.env("UV_CACHE_DIR", &self.cache).env("UV_NO_PROGRESS", "1").env_remove("VIRTUAL_ENV").current_dir(dir);
        let _held = Hold::take(&self.cache).map_err(Error::file("mark the use of", &self.cache))?;
        run("uv pip compile", command).await.map(Some)
    }
}

/// Whether a lock asks for nothing.
fn is_empty(lock: &str) -> bool {
    lock.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

fn key_of(tenant: u32, lock: &str, version: &str, requires: &str) -> String {
    let mut hasher = Sha256::new();
    // The first tenant is the only one of most servers: its environments keep the names they always had.
    if tenant > FIRST_TENANT {
        hasher.update(tenant.to_be_bytes());
    }
    for part in [lock, version, requires] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hex::encode(hasher.finalize())[..40].to_owned()
}

/// The installation a virtual environment was made from.
fn home_of(venv: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(venv.join("pyvenv.cfg")).ok()?;
    let home = text.lines().find_map(|l| l.strip_prefix("home")?.trim_start().strip_prefix('='))?;
    std::fs::canonicalize(home.trim()).ok()?.parent().map(Path::to_owned)
}

async fn find_uv(data_dir: &Path, python: &Python) -> Option<Vec<OsString>> {
    let given = std::env::var_os("TIDEWHEEL_UV");
    if given.as_ref().is_some_and(|g| g == "none" || g.is_empty()) {
        return None;
    }
    let candidates = [
        given.map(|p| vec![p]),
        crate::capacity::find("uv").map(|p| vec![p.into()]),
        Some(vec![python.program.clone().into(), "-m".into(), "uv".into()]),
        Some(vec![data_dir.join("tools/uv").into()]),
        Some(vec![data_dir.join("tools/bin/uv").into()]),
    ];
    for candidate in candidates.into_iter().flatten() {
        let mut command = Command::new(&candidate[0]);
        command.args(&candidate[1..]).arg("--version").stdin(Stdio::null());
        if command.output().await.is_ok_and(|o| o.status.success()) {
            return Some(candidate);
        }
    }
    None
}

/// Runs a tool; its standard output, or an error with the end of what it said.
pub(crate) async fn run(what: &str, mut command: Command) -> Result<String, Error> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match tokio::time::timeout(BUILD_TIME, command.output()).await {
        Ok(output) => output.map_err(Error::io(format!("cannot run {what}")))?,
        Err(_) => return Err(Error::Environment { message: format!("{what} did not end in time"), retryable: true }),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let said = clip_front(said.trim().to_owned(), TAIL_BYTES);
    Err(Error::Environment {
        retryable: is_network(&said),
        message: format!("{what} failed ({}):\n{said}", output.status),
    })
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

struct FileLock(#[allow(dead_code, reason = "the lock is held while the file is open")] std::fs::File);

async fn lock_file(path: PathBuf) -> Result<FileLock, Error> {
    let locked = tokio::task::spawn_blocking(move || -> Result<FileLock, Error> {
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::file("write", &path))?;
        rustix::fs::flock(file.as_fd(), rustix::fs::FlockOperation::LockExclusive)
            .map_err(|e| Error::file("lock", &path)(e.into()))?;
        Ok(FileLock(file))
    });
    locked.await.map_err(|_| Error::Config("the lock of an environment failed".into()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_an_empty_lock_and_the_key_depends_on_all_parts() {
        assert!(is_empty("# nothing\n\n"));
        assert!(!is_empty("a==1"));
        let keys = [
            key_of(0, "a", "3.11", ""),
            key_of(0, "a", "3.12", ""),
            key_of(0, "a3", ".11", ""),
            key_of(0, "a", "3.11", ">=3.12"),
            key_of(2, "a", "3.11", ""),
            key_of(3, "a", "3.11", ""),
        ];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
    }
}
