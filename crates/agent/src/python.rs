//! The Python of this machine and the package `tidewheel` that this binary carries. It finds the interpreter behind
//! whatever shim is on PATH and lays the embedded package down beside the agent's data. It runs no user code.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::error::Error;

#[derive(rust_embed::RustEmbed)]
#[folder = "../../python/src"]
#[allow_missing = true]
struct Library;

/// An interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Python {
    /// The program itself. A version manager's shim on PATH is a script that takes longer than Python's own start.
    pub(crate) program: PathBuf,
    /// Where its standard library is.
    pub(crate) prefix: PathBuf,
    /// `3.11.7`
    pub(crate) version: String,
}

const ASK: &str =
    "import sys,os\nprint(sys.executable)\nprint(sys.base_prefix)\nprint('%d.%d.%d' % sys.version_info[:3])";

impl Python {
    /// The configured one, or `TIDEWHEEL_PYTHON`, or the first on PATH.
    pub(crate) async fn find(configured: Option<&Path>) -> Result<Self, Error> {
        let given = std::env::var_os("TIDEWHEEL_PYTHON").map(PathBuf::from);
        let candidates = match configured.map(Path::to_owned).or(given) {
            Some(path) => vec![path],
            None => ["python3", "python"].iter().filter_map(|name| crate::capacity::find(name)).collect(),
        };
        let mut last = Error::Environment { message: "there is no Python on PATH".into(), retryable: false };
        for program in candidates {
            match Self::ask(&program).await {
                Ok(python) => return Ok(python),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(crate) async fn ask(program: &Path) -> Result<Self, Error> {
        let output = Command::new(program)
            .args(["-I", "-c", ASK])
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(Error::file("run", program))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = text.lines().collect();
        let [program_line, prefix, version] = lines[..] else {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let message = format!("{} is not a Python that works: {why}", program.display());
            return Err(Error::Environment { message, retryable: false });
        };
        Ok(Self { program: program_line.into(), prefix: prefix.into(), version: version.to_owned() })
    }
}

/// Lays the embedded package down under `data_dir/pylib/<hash>` and returns that folder, which goes on the module path.
/// `TIDEWHEEL_PYLIB` names another folder, for work on the package itself.
pub(crate) async fn lay_down(data_dir: &Path, python: &Python) -> Result<PathBuf, Error> {
    if let Some(dir) = std::env::var_os("TIDEWHEEL_PYLIB") {
        return Ok(dir.into());
    }
    let mut files: Vec<_> = Library::iter()
        .filter(|name| name.ends_with(".py") || name.ends_with(".pyi") || name.ends_with("py.typed"))
        .filter_map(|name| Library::get(&name).map(|file| (name.into_owned(), file.data)))
        .collect();
    files.sort();
    let mut hasher = Sha256::new();
    // Compiled files differ between versions and lie beside the sources.
    hasher.update(python.version.as_bytes());
    for (name, data) in &files {
        hasher.update((name.len() as u64).to_be_bytes());
        hasher.update(name);
        hasher.update((data.len() as u64).to_be_bytes());
        hasher.update(data);
    }
    let base = data_dir.join("pylib");
    let dir = base.join(&hex::encode(hasher.finalize())[..16]);
    if dir.is_dir() {
        return Ok(dir);
    }
    std::fs::create_dir_all(&base).map_err(Error::file("make", &base))?;
    let part = tempfile::Builder::new().prefix(".part-").tempdir_in(&base).map_err(Error::file("write in", &base))?;
    for (name, data) in &files {
        let path = part.path().join(name);
        let parent = path.parent().expect("a file below a folder has a parent");
        std::fs::create_dir_all(parent).map_err(Error::file("make", parent))?;
        std::fs::write(&path, data).map_err(Error::file("write", &path))?;
    }
    compile(python, part.path()).await;
    let part = part.keep();
    open_to_all(&part);
    if let Err(error) = std::fs::rename(&part, &dir) {
        let _ = std::fs::remove_dir_all(&part);
        // Another agent of the same folder was quicker.
        if !dir.is_dir() {
            return Err(Error::Io { what: format!("cannot make {}", dir.display()), source: error });
        }
    }
    Ok(dir)
}

/// Temporary folders are made for their owner alone; children may run as another user.
pub(crate) fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755));
}

/// Compiles what lies in a folder, so that no process has to at its start. Best effort: a file of the user's that does
/// not compile is reported when it is imported.
pub(crate) async fn compile(python: &Python, dir: &Path) {
    let _ = Command::new(&python.program)
        // By hash, not by time: the files are moved into place afterwards and never change.
        .args(["-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
}

/// Whether a version satisfies a specifier such as `>=3.9,<3.13`. What cannot be read counts as satisfied: the build of
/// the environment will say what is wrong with it.
pub(crate) fn satisfies(version: &str, specifier: &str) -> bool {
    let have = numbers(version);
    specifier.split(',').map(str::trim).filter(|s| !s.is_empty()).all(|clause| {
        let end = clause.find(|c: char| c.is_ascii_digit()).unwrap_or(clause.len());
        let (operator, wanted) = clause.split_at(end);
        let prefix = wanted.strip_suffix(".*");
        let want = numbers(prefix.unwrap_or(wanted));
        if want.is_empty() {
            return true;
        }
        let starts = have.starts_with(&want);
        let mut padded = want.clone();
        padded.resize(have.len().max(want.len()), 0);
        match operator.trim() {
            ">=" => have >= padded,
            ">" => have > padded,
            "<=" => have <= padded,
            "<" => have < padded,
            "==" | "===" => {
                if prefix.is_some() {
                    starts
                } else {
                    have == padded
                }
            }
            "!=" => {
                if prefix.is_some() {
                    !starts
                } else {
                    have != padded
                }
            }
            "~=" => have >= padded && have.starts_with(&want[..want.len() - 1]),
            _ => true,
        }
    })
}

fn numbers(text: &str) -> Vec<u32> {
    text.trim().split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_specifiers_are_understood() {
        for specifier in ["", ">=3.9", ">=3.9,<3.12", "~=3.10", "==3.11.*", "!=3.10.*", ">3.11.6", "<=3.11.7"] {
            assert!(satisfies("3.11.7", specifier), "{specifier}");
        }
        for specifier in [">=3.12", "<3.11", "==3.11", "~=3.12", "==3.10.*", "!=3.11.*", ">3.11.7"] {
            assert!(!satisfies("3.11.7", specifier), "{specifier}");
        }
    }
}
