//! Builds a package from a project folder, a wheel or an sdist: locks its dependencies, builds its environment, asks its
//! code what tasks it has, and writes an archive that is the same for the same content. It uploads nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tidewheel_proto::builtin;
use tokio::process::Command;
use zip::write::SimpleFileOptions;

use crate::builds::Builds;
use crate::environment::{Environment, Environments};
use crate::error::Error;
use crate::import::{self, Bounds};
use crate::project::{self, MANIFEST, Manifest, Project};
use crate::python::{self, Python};

/// How to build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Where environments and the cache of downloads are kept; an agent's data folder may be shared.
    pub data_dir: PathBuf,
    /// The Python to use; found if absent.
    pub python: Option<PathBuf>,
    /// Whether to resolve dependencies to exact versions with hashes.
    pub lock: bool,
}

impl BuildOptions {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), python: None, lock: true }
    }
}

/// A package ready for upload.
#[derive(Clone, Debug, Serialize)]
pub struct BuiltPackage {
    pub name: String,
    pub version: String,
    pub archive: PathBuf,
    /// `sha256:...` of the archive.
    pub hash: String,
    pub size: u64,
    pub members: usize,
    /// As it lies in the archive: format, entries, lock, modules, requires_python.
    pub manifest: Value,
    /// What people should know, such as dependencies that could not be locked.
    pub warnings: Vec<String>,
}

impl BuiltPackage {
    /// The manifest as the REST interface takes it with an upload.
    pub fn upload_manifest(&self) -> Value {
        let mut manifest = self.manifest.clone();
        if let Some(fields) = manifest.as_object_mut() {
            // What only agents look at, in the archive itself.
            fields.remove("modules");
            fields.remove("on_demand");
        }
        manifest
    }
}

/// What the shim prints for `--describe`.
#[derive(Deserialize)]
struct Described {
    manifest: Vec<Value>,
}

/// Folders that are never part of a project's code.
const LEFT_OUT: &[&str] = &["__pycache__", "node_modules", "venv", "build", "dist", "site-packages"];
const MAX_MEMBERS: usize = 100_000;
const MAX_BYTES: u64 = 2 << 30;
/// Bytes of a description, which a server takes no longer one of; and of what the code prints meanwhile.
const DESCRIPTION_BYTES: usize = 4 << 20;
/// The same of replays: some hundred bytes for each of many histories.
const REPLAY_BYTES: usize = 64 << 20;
/// Importing the code, and running its workflows on histories.
const CODE_TIME: Duration = Duration::from_secs(120);

/// The tasks of a project folder, with their schemas and defaults: `{sdk, python, manifest: [...]}`.
pub async fn describe(dir: &Path, options: &BuildOptions) -> Result<Value, Error> {
    let workshop = Workshop::open(options).await?;
    let project = Project::read(dir)?;
    let environment = workshop.environments.get(0, &project.requirements(), &project.requires_python, false).await?;
    workshop.describe(dir, &environment).await
}

/// Replays histories of runs (a file with one per line, as the API gives them) on the code of a project folder, a wheel or an sdist, and
/// gives what came of each: `{run, workflow, ok}`, and `why`, `expected`, `actual`, `file`, `line` where it does not fit.
pub async fn replay(source: &Path, histories: &Path, options: &BuildOptions) -> Result<Vec<Value>, Error> {
    let workshop = Workshop::open(options).await?;
    let staged = Staged::open(source).await?;
    let project = Project::read(&staged.root)?;
    let environment = workshop.environments.get(0, &project.requirements(), &project.requires_python, false).await?;
    let histories = std::fs::canonicalize(histories).map_err(Error::file("open", histories))?;
    let asked = ["--replay".as_ref(), histories.as_os_str()];
    let said = workshop.shim(&staged.root, &environment, &asked, REPLAY_BYTES).await?;
    let read = said.iter().map(|line| serde_json::from_str(line.get())).collect::<Result<Vec<Value>, _>>();
    read.map_err(|e| Error::Package(format!("what came of the replays cannot be read: {e}")))
}

/// What it takes to run a file of Python code on this machine.
#[derive(Clone, Debug)]
pub struct LocalCode {
    /// The interpreter: that of an environment with the project's dependencies, or the machine's where it has none.
    pub python: PathBuf,
    /// Folders for `PYTHONPATH`: the embedded package, then the project's own.
    pub paths: Vec<PathBuf>,
}

/// Prepares the project around `file` (the nearest folder above it with a `pyproject.toml`; without one, nothing is installed):
/// builds or reuses the environment of its dependencies. Without a lock, so newer versions than a deployed package has may
/// be installed. Errors: no Python, a wrong `pyproject.toml`, dependencies that cannot be installed.
pub async fn prepare_local(file: &Path, options: &BuildOptions) -> Result<LocalCode, Error> {
    let workshop = Workshop::open(options).await?;
    let mut paths = vec![workshop.library.clone()];
    let file = std::path::absolute(file).map_err(Error::file("find", file))?;
    let root = file.ancestors().skip(1).find(|dir| dir.join("pyproject.toml").is_file());
    let project = root.map(Project::read).transpose()?.unwrap_or_default();
    paths.extend(root.into_iter().flat_map(project::module_paths));
    let environment = workshop.environments.get_local(&project.requirements(), &project.requires_python, false).await?;
    Ok(LocalCode { python: environment.program, paths })
}

/// Builds the package of a folder, a wheel or an sdist. `out` is a file to write or a folder to write it in.
pub async fn build_package(source: &Path, out: &Path, options: &BuildOptions) -> Result<BuiltPackage, Error> {
    let workshop = Workshop::open(options).await?;
    let staged = Staged::open(source).await?;
    let project = Project::read(&staged.root)?;
    let mut warnings = Vec::new();
    let lock = workshop.lock(&project, &staged.root, options.lock, &mut warnings).await?;
    let environment = workshop.environments.get(0, &lock, &project.requires_python, false).await?;
    let described: Described = serde_json::from_value(workshop.describe(&staged.root, &environment).await?)
        .map_err(|e| Error::Package(format!("the description of the code cannot be read: {e}")))?;
    described.manifest.iter().try_for_each(not_built_in)?;
    let modules: BTreeSet<String> = (described.manifest.iter())
        .filter_map(|entry| Some(entry.get("fn")?.as_str()?.split(':').next()?.to_owned()))
        .collect();
    let manifest = Manifest {
        format: staged.format.to_owned(),
        entries: described.manifest,
        lock,
        modules: modules.into_iter().collect(),
        requires_python: project.requires_python.clone(),
        on_demand: project.on_demand.clone(),
    };
    let manifest = serde_json::to_value(&manifest).expect("a manifest is plain data");
    let file =
        if out.is_dir() { out.join(format!("{}-{}.zip", project.name, project.version)) } else { out.to_owned() };
    let (root, to, text) = (staged.root.clone(), file.clone(), manifest.to_string());
    let members = tokio::task::spawn_blocking(move || write_archive(&root, &to, &text))
        .await
        .map_err(|_| Error::Package("the archive could not be written".into()))??;
    let (hash, size) = crate::blobs::hash_file(&file).await.map_err(Error::file("read", &file))?;
    Ok(BuiltPackage {
        name: project.name,
        version: project.version,
        archive: file,
        hash,
        size,
        members,
        manifest,
        warnings,
    })
}

/// A server refuses a package that takes over what every agent runs itself; here there is a function to name.
fn not_built_in(entry: &Value) -> Result<(), Error> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("kind") != "workflow" && builtin::is_one(text("name")) {
        return Err(Error::Package(format!("{}: {}", text("fn"), builtin::taken(text("name")))));
    }
    Ok(())
}

/// Python, its environments and the embedded package.
struct Workshop {
    environments: Environments,
    library: PathBuf,
}

impl Workshop {
    async fn open(options: &BuildOptions) -> Result<Self, Error> {
        std::fs::create_dir_all(&options.data_dir).map_err(Error::file("make", &options.data_dir))?;
        let data_dir = std::fs::canonicalize(&options.data_dir).map_err(Error::file("open", &options.data_dir))?;
        let python = Python::find(options.python.as_deref()).await?;
        let library = python::lay_down(&data_dir, &python).await?;
        Ok(Self {
            environments: Environments::open(&data_dir, python, Builds::plain(), Arc::default()).await?,
            library,
        })
    }

    async fn lock(
        &self,
        project: &Project,
        root: &Path,
        wanted: bool,
        warnings: &mut Vec<String>,
    ) -> Result<String, Error> {
        let list = project.requirements();
        if list.is_empty() {
            return Ok(list);
        }
        if wanted && let Some(locked) = self.environments.lock(&list, root).await? {
            return Ok(locked);
        }
        warnings.push("the dependencies are not locked: other versions may be installed later (uv locks them)".into());
        Ok(list)
    }

    async fn describe(&self, root: &Path, environment: &Environment) -> Result<Value, Error> {
        let said = self.shim(root, environment, &["--describe".as_ref()], DESCRIPTION_BYTES).await?;
        let why = |e: String| Error::Package(format!("the description of the code cannot be read: {e}"));
        let last = said.last().ok_or_else(|| why("there is none".into()))?;
        serde_json::from_str(last.get()).map_err(|e| why(e.to_string()))
    }

    /// Runs the shim over the code of a folder; the lines it answered.
    async fn shim(
        &self,
        root: &Path,
        environment: &Environment,
        arguments: &[&OsStr],
        bytes: usize,
    ) -> Result<Vec<Box<RawValue>>, Error> {
        let root = std::fs::canonicalize(root).map_err(Error::file("open", root))?;
        let mut command = Command::new(&environment.program);
        command.args(["-m", "tidewheel._shim", "--steps", "--dir"]).arg(&root).args(arguments);
        command.env("PYTHONPATH", &self.library).env("PYTHONDONTWRITEBYTECODE", "1");
        // The code of the project runs here: it is not to see the token of whoever builds it.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEWHEEL_") {
                command.env_remove(name);
            }
        }
        command.current_dir(&root);
        import::run(command, Bounds { bytes, time: CODE_TIME }).await
    }
}

/// The content of a source, unpacked if it was an archive.
struct Staged {
    root: PathBuf,
    format: &'static str,
    _unpacked: Option<tempfile::TempDir>,
}

impl Staged {
    async fn open(source: &Path) -> Result<Self, Error> {
        if source.is_dir() {
            return Ok(Self { root: source.to_owned(), format: "folder", _unpacked: None });
        }
        if !source.is_file() {
            return Err(Error::Package(format!("there is no {}", source.display())));
        }
        let name = source.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let format = if name.ends_with(".whl") {
            "wheel"
        } else if name.ends_with(".tar.gz") || name.ends_with(".tgz") || name.ends_with(".zip") {
            "sdist"
        } else {
            let why = "a package is a folder, a wheel (.whl) or an sdist (.tar.gz, .zip)";
            return Err(Error::Package(format!("{}: {why}", source.display())));
        };
        let dir = tempfile::tempdir().map_err(Error::io("cannot make a temporary folder"))?;
        let (from, to) = (source.to_owned(), dir.path().to_owned());
        tokio::task::spawn_blocking(move || crate::unpack::unpack(&from, &to))
            .await
            .map_err(|_| Error::Package("the archive cannot be unpacked".into()))??;
        Ok(Self { root: project::inner_root(dir.path()), format, _unpacked: Some(dir) })
    }
}

/// Sorted names, fixed times and modes: the same content gives the same hash.
fn write_archive(root: &Path, file: &Path, manifest: &str) -> Result<usize, Error> {
    let mut names = Vec::new();
    let base = std::fs::canonicalize(root).map_err(Error::file("open", root))?;
    collect(&base, &base, &mut names)?;
    names.retain(|name| name != MANIFEST);
    names.sort();
    let part = file.with_extension("zip.part");
    let out = std::fs::File::create(&part).map_err(Error::file("write", &part))?;
    let mut zip = zip::ZipWriter::new(std::io::BufWriter::new(out));
    let packed = |e: zip::result::ZipError| Error::Package(format!("the archive could not be written: {e}"));
    let options = |mode: u32| {
        SimpleFileOptions::default()
            .last_modified_time(zip::DateTime::default())
            .compression_method(zip::CompressionMethod::Deflated)
            .unix_permissions(mode)
    };
    zip.start_file(MANIFEST, options(0o644)).map_err(packed)?;
    zip.write_all(manifest.as_bytes()).map_err(Error::file("write", &part))?;
    let mut total = 0;
    for name in &names {
        use std::os::unix::fs::PermissionsExt;
        let path = base.join(name);
        let mut source = std::fs::File::open(&path).map_err(Error::file("read", &path))?;
        let meta = source.metadata().map_err(Error::file("read", &path))?;
        total += meta.len();
        if total > MAX_BYTES {
            return Err(Error::Package(format!("{} is more than {} MiB", root.display(), MAX_BYTES >> 20)));
        }
        let mode = if meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 };
        zip.start_file(name.as_str(), options(mode)).map_err(packed)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = source.read(&mut buffer).map_err(Error::file("read", &path))?;
            if n == 0 {
                break;
            }
            zip.write_all(&buffer[..n]).map_err(Error::file("write", &part))?;
        }
    }
    zip.finish().map_err(packed)?.flush().map_err(Error::file("write", &part))?;
    std::fs::rename(&part, file).map_err(Error::file("write", file))?;
    Ok(names.len() + 1)
}

fn collect(base: &Path, dir: &Path, names: &mut Vec<String>) -> Result<(), Error> {
    for entry in std::fs::read_dir(dir).map_err(Error::file("read", dir))? {
        let path = entry.map_err(Error::file("read", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with(".pyc") || name.ends_with(".egg-info") {
            continue;
        }
        // A link may lead out of the project, where what it shows is not the project's.
        let real = std::fs::canonicalize(&path).map_err(Error::file("read", &path))?;
        if !real.starts_with(base) {
            return Err(Error::Package(format!("{} is a link that leads out of the project", path.display())));
        }
        if real.is_dir() {
            let link = path.is_symlink();
            if !link && !LEFT_OUT.contains(&name.as_str()) && !path.join("pyvenv.cfg").is_file() {
                collect(base, &path, names)?;
            }
        } else if real.is_file() {
            let relative = path.strip_prefix(base).expect("found below the base");
            names.push(relative.to_string_lossy().into_owned());
        }
        if names.len() > MAX_MEMBERS {
            return Err(Error::Package(format!("{} has more than {MAX_MEMBERS} files", base.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_gives_the_same_archive() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("p");
        std::fs::create_dir_all(root.join("pkg/__pycache__")).expect("made");
        for (name, text) in [("pkg/b.py", "b"), ("pkg/a.py", "a"), ("pkg/__pycache__/a.pyc", "x"), (".env", "secret")] {
            std::fs::write(root.join(name), text).expect("written");
        }
        let mut hashes = Vec::new();
        for name in ["1.zip", "2.zip"] {
            let file = dir.path().join(name);
            assert_eq!(write_archive(&root, &file, "{}").expect("written"), 3);
            hashes.push(crate::blobs::hash_of(&std::fs::read(&file).expect("there")));
            std::fs::File::open(root.join("pkg/a.py"))
                .and_then(|f| f.set_modified(std::time::SystemTime::UNIX_EPOCH))
                .ok();
        }
        assert_eq!(hashes[0], hashes[1]);
    }

    #[test]
    fn a_link_out_of_the_project_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("p");
        std::fs::create_dir_all(&root).expect("made");
        std::os::unix::fs::symlink("/etc/passwd", root.join("stolen.txt")).expect("linked");
        let error = write_archive(&root, &dir.path().join("a.zip"), "{}").expect_err("refused").to_string();
        assert!(error.contains("stolen.txt"), "{error}");
    }
}
