//! Virtual environments, one per (tenant, lock, Python): built by uv where it is found, else by venv and pip; kept and shared by
//! every package of a tenant with the same lock, and by no other tenant: what a build of one tenant ran has written it. An environment is built beside its place and moved there when it is whole, so
//! that a killed build leaves nothing that looks like one. It runs no user code but what building a package runs, and that behind
//! the walls of `builds`; downloads are kept apart for each tenant for the same reason.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::builds::{self, Builds, Job};
use crate::cache::{self, Hold};
use crate::error::Error;
use crate::python::{self, Python};
use crate::tally::Tally;

/// The number of a server's first tenant; a folder that is run in place has 0.
const FIRST_TENANT: u32 = 1;
/// The builder of environments under `data_dir/envs`.
pub(crate) struct Environments {
    dir: PathBuf,
    data_dir: PathBuf,
    uv: Option<Vec<OsString>>,
    builds: Arc<Builds>,
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
    pub(crate) async fn open(
        data_dir: &Path,
        python: Python,
        builds: Builds,
        tally: Arc<Tally>,
    ) -> Result<Self, Error> {
        let dir = data_dir.join("envs");
        std::fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
        let uv = find_uv(data_dir, &python).await;
        match &uv {
            Some(uv) => tracing::debug!(uv = %uv[0].to_string_lossy(), "environments are built by uv"),
            None => tracing::warn!("uv was not found: environments are built by venv and pip, which is slower"),
        }
        let (data_dir, builds) = (data_dir.to_owned(), Arc::new(builds));
        Ok(Self { dir, data_dir, uv, builds, python, flights: Mutex::default(), tally })
    }

    pub(crate) fn builder(&self) -> &'static str {
        if self.uv.is_some() { "uv" } else { "pip" }
    }

    /// Behind which walls packages are built, for `Hello.enforced`.
    pub(crate) fn walls(&self) -> String {
        self.builds.describe()
    }

    /// Downloads for a tenant's environments: what a build can write is read by no other tenant's.
    fn cache(&self, tenant: u32) -> PathBuf {
        match tenant {
            ..=FIRST_TENANT => self.data_dir.join(cache::UV_CACHE),
            other => self.data_dir.join(format!("{}-{other}", cache::UV_CACHE)),
        }
    }

    /// For a folder that is run in place: without dependencies of its own it sees what is installed on the machine.
    pub(crate) async fn get_local(
        &self,
        lock: &str,
        requires_python: &str,
        isolated: bool,
    ) -> Result<Environment, Error> {
        if is_empty(lock) && python::satisfies(&self.python.version, requires_python) {
            return Ok(self.plain());
        }
        // A folder is run for whoever started this agent.
        self.get(0, lock, requires_python, isolated).await
    }

    /// The environment of a lock; built if it is not there. An empty lock has one too: what happens to be installed on
    /// the machine must not decide whether a package runs, and its start-up files cost every process tens of milliseconds.
    /// `isolated`: what its packages run to be built is kept in a sandbox.
    pub(crate) async fn get(
        &self,
        tenant: u32,
        lock: &str,
        requires_python: &str,
        isolated: bool,
    ) -> Result<Environment, Error> {
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
                self.build((tenant, isolated), lock, &wanted, &place).await?;
                self.tally.start("environment", begun.elapsed());
                hold.measured(&place);
                self.compile_later(&place, isolated, hold.clone());
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

    async fn build(
        &self,
        (tenant, isolated): (u32, bool),
        lock: &str,
        python: &OsString,
        place: &Path,
    ) -> Result<(), Error> {
        let begin = std::time::Instant::now();
        let part = tempfile::Builder::new().prefix(".part-").tempdir_in(&self.dir);
        let part = part.map_err(Error::file("write in", &self.dir))?;
        let venv = part.path().join("env");
        // Nothing of a package runs before its installation.
        self.make_venv(is_empty(lock) && *python == self.python.program, python, &venv).await?;
        if !is_empty(lock) {
            let note = venv.join(builds::NOTE);
            let note = std::fs::read(&note).map_err(Error::file("read", &note))?;
            self.install((tenant, isolated), lock, part.path(), &venv).await?;
            builds::check_built(&venv, &note)?;
        }
        std::fs::rename(&venv, place).map_err(Error::file("make", place))?;
        tracing::info!(env = %place.display(), seconds = begin.elapsed().as_secs_f32(), by = self.builder(), "built");
        Ok(())
    }

    async fn make_venv(&self, is_plain: bool, python: &OsString, venv: &Path) -> Result<(), Error> {
        match &self.uv {
            Some(uv) if !is_plain => {
                let mut make = Command::new(&uv[0]);
                make.args(&uv[1..]).args(["venv", "--relocatable", "--python"]).arg(python).arg(venv);
                // Not a cache that builds write: what it says of a Python would be believed outside of their walls.
                let own = self.data_dir.join(format!("{}-own", cache::UV_CACHE));
                make.env("UV_CACHE_DIR", own).env("UV_NO_PROGRESS", "1").env_remove("VIRTUAL_ENV");
                builds::plain("uv venv", make).await.map(drop)
            }
            _ => {
                let mut make = Command::new(&self.python.program);
                make.args(["-I", "-m", "venv"]).args(is_plain.then_some("--without-pip")).arg(venv);
                builds::plain("python -m venv", make).await.map(drop)
            }
        }
    }

    /// Installs what a lock names, which may run what its packages bring.
    async fn install(
        &self,
        (tenant, isolated): (u32, bool),
        lock: &str,
        part: &Path,
        venv: &Path,
    ) -> Result<(), Error> {
        let list = part.join("requirements.txt");
        std::fs::write(&list, lock).map_err(Error::file("write", &list))?;
        let cache = self.cache(tenant);
        std::fs::create_dir_all(&cache).map_err(Error::file("make", &cache))?;
        let _held = Hold::take(&cache).map_err(Error::file("mark the use of", &cache))?;
        let (hashed, program) = (lock.contains("--hash="), venv.join("bin/python"));
        let text = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let (what, tool, mut args) = match &self.uv {
            Some(uv) => {
                let verb = if hashed { text(&["pip", "sync", "--require-hashes"]) } else { text(&["pip", "install"]) };
                let python = ["--python".into(), program.into(), if hashed { "--".into() } else { "-r".into() }];
                ("uv pip install", uv[0].clone(), [&uv[1..], &verb[..], &python[..]].concat())
            }
            None => {
                let words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
                let hashes: &[&str] = if hashed { &["--require-hashes"] } else { &[] };
                ("pip install", program.into(), text(&[&words[..], hashes, &["-r"][..]].concat()))
            }
        };
        args.push(list.into());
        self.builds.hand_over(part)?;
        self.builds.hand_over(&cache)?;
        let env = [
            // On the file system of the environments, so that files are linked and not copied; a sandbox has them in two places.
            ("UV_CACHE_DIR", cache.clone().into()),
            ("UV_LINK_MODE", OsString::from(if isolated { "copy" } else { "hardlink" })),
            ("UV_NO_PROGRESS", "1".into()),
            ("UV_PYTHON_DOWNLOADS", "never".into()),
            ("PIP_CACHE_DIR", cache.join("pip").into()),
        ];
        let job = Job {
            what,
            readable: self.seen_by_builds(Path::new(&tool), venv),
            program: tool.into(),
            args,
            env: builds::trust()
                .map(|(name, value)| (name, value.into()))
                .chain(env)
                .map(|(name, value): (&str, OsString)| (name.into(), value))
                .collect(),
            place: part,
            writable: &cache,
            network: true,
            isolated,
        };
        let installed = self.builds.run(job).await;
        self.builds.take_back(part)?;
        installed.map(drop)
    }

    /// What a build sees of the machine beside system folders: the tool and the Python.
    fn seen_by_builds(&self, tool: &Path, venv: &Path) -> Vec<PathBuf> {
        let homes = [Some(self.python.prefix.clone()), home_of(venv)].into_iter().flatten();
        let tool = (!tool.starts_with(venv)).then(|| tool.to_owned());
        let mut seen: Vec<PathBuf> = homes.chain(tool).filter(|path| !path.starts_with("/usr")).collect();
        seen.sort();
        seen.dedup();
        seen
    }

    /// Compiles the modules behind the first tasks' back: done before them, it would be most of the time of a build. Start-up files of
    /// packages are theirs, so that this, too, runs behind walls.
    fn compile_later(&self, place: &Path, isolated: bool, hold: Hold) {
        let (builds, dir, lib) = (self.builds.clone(), self.dir.clone(), place.join("lib"));
        let python = place.join("bin/python");
        let mut args: Vec<OsString> = ["-I", "-S", "-m", "compileall", "-q"].map(OsString::from).to_vec();
        args.push(lib.clone().into());
        let program = match crate::capacity::find("nice") {
            Some(nice) => {
                args.splice(0..0, ["-n".into(), "19".into(), python.into()]);
                nice
            }
            None => python,
        };
        let mut readable = self.seen_by_builds(&program, place);
        readable.push(place.to_owned());
        tokio::spawn(async move {
            let Ok(part) = tempfile::Builder::new().prefix(".part-").tempdir_in(dir) else { return };
            let given = builds.hand_over(part.path()).and_then(|()| builds.hand_over(&lib));
            let job = Job {
                what: "python -m compileall",
                program,
                args,
                env: Vec::new(),
                place: part.path(),
                writable: &lib,
                readable,
                network: false,
                isolated,
            };
            let compiled = match given {
                Ok(()) => builds.run(job).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = compiled.and(builds.take_back(&lib)) {
                // A file of a package that does not compile is reported when it is imported.
                tracing::debug!(%error, "the modules of an environment were not all compiled");
            }
            drop(hold);
        });
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
        let cache = self.cache(0);
        command.env("UV_CACHE_DIR", &cache).env("UV_NO_PROGRESS", "1").env_remove("VIRTUAL_ENV").current_dir(dir);
        command.envs(builds::trust());
        let _held = Hold::take(&cache).map_err(Error::file("mark the use of", &cache))?;
        builds::plain("uv pip compile", command).await.map(Some)
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
