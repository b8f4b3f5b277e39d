//! What a Python project says about itself: `pyproject.toml`, or the metadata of a wheel. Read, never run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::on_demand::OnDemand;

/// The file at the root of every package archive.
pub(crate) const MANIFEST: &str = tidewheel_proto::MANIFEST_FILE;

/// What is in it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Manifest {
    /// `wheel`, `sdist` or `folder`
    pub(crate) format: String,
    pub(crate) entries: Vec<serde_json::Value>,
    pub(crate) lock: String,
    pub(crate) modules: Vec<String>,
    pub(crate) requires_python: String,
    /// Patterns of files that are fetched when a task asks for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) on_demand: Vec<String>,
}

/// The part of a project that matters here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Project {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) dependencies: Vec<String>,
    pub(crate) requires_python: String,
    pub(crate) modules: Vec<String>,
    pub(crate) on_demand: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PyProject {
    project: ProjectTable,
    tool: Tools,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct ProjectTable {
    name: String,
    version: Option<String>,
    dependencies: Vec<String>,
    requires_python: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tools {
    tidewheel: Own,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct Own {
    modules: Vec<String>,
    on_demand: Vec<String>,
}

impl Project {
    /// Of a folder: its `pyproject.toml`, else the metadata of an unpacked wheel, else nothing but the folder's name.
    pub(crate) fn read(dir: &Path) -> Result<Self, Error> {
        let file = dir.join("pyproject.toml");
        if file.is_file() {
            return Self::of_pyproject(&file, dir);
        }
        match dist_info(dir) {
            Some(info) => Ok(Self::of_wheel(&info)),
            None => Ok(Self { name: folder_name(dir), version: "0.0.0".into(), ..Self::default() }),
        }
    }

    fn of_pyproject(file: &Path, dir: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file).map_err(Error::file("read", file))?;
        let read: PyProject = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            Error::Package(format!("{}:{line}: {}", file.display(), error.message()))
        })?;
        OnDemand::parse(&read.tool.tidewheel.on_demand)
            .map_err(|why| Error::Package(format!("{}: [tool.tidewheel]: {why}", file.display())))?;
        let table = read.project;
        Ok(Self {
            name: if table.name.is_empty() { folder_name(dir) } else { table.name },
            version: table.version.unwrap_or_else(|| "0.0.0".into()),
            dependencies: table.dependencies.into_iter().filter(|d| !is_own(d)).collect(),
            requires_python: table.requires_python.unwrap_or_default(),
            modules: read.tool.tidewheel.modules,
            on_demand: read.tool.tidewheel.on_demand,
        })
    }

    fn of_wheel(info: &Path) -> Self {
        let text = std::fs::read_to_string(info.join("METADATA")).unwrap_or_default();
        let head = text.split("\n\n").next().unwrap_or_default();
        let values = |name: &str| -> Vec<String> {
            head.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(|v| v.trim().to_owned()).collect()
        };
        let first = |name: &str| values(name).into_iter().next().unwrap_or_default();
        Self {
            name: first("Name"),
            version: first("Version"),
            dependencies: values("Requires-Dist")
                .into_iter()
                .filter(|d| !d.contains("extra ==") && !d.contains("extra==") && !is_own(d))
                .collect(),
            requires_python: first("Requires-Python"),
            modules: Vec::new(),
            on_demand: Vec::new(),
        }
    }

    /// The dependencies as a list for pip or uv.
    pub(crate) fn requirements(&self) -> String {
        self.dependencies.iter().map(|d| format!("{d}\n")).collect()
    }
}

/// The agent brings this package itself.
fn is_own(requirement: &str) -> bool {
    let end =
        requirement.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).unwrap_or(requirement.len());
    requirement[..end].eq_ignore_ascii_case("tidewheel")
}

fn folder_name(dir: &Path) -> String {
    let name = std::path::absolute(dir).ok().and_then(|d| d.file_name().map(|n| n.to_string_lossy().into_owned()));
    name.unwrap_or_else(|| "package".into())
}

pub(crate) fn dist_info(dir: &Path) -> Option<PathBuf> {
    std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "dist-info") && p.join("METADATA").is_file())
}

/// An sdist has one folder at its root that holds everything.
pub(crate) fn inner_root(dir: &Path) -> PathBuf {
    let known = |d: &Path| [MANIFEST, "pyproject.toml", "PKG-INFO"].iter().any(|f| d.join(f).is_file());
    let mut entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    match (entries.next(), entries.next()) {
        (Some(only), None) if !known(dir) && only.is_dir() && known(&only) => only,
        _ => dir.to_owned(),
    }
}

/// Where a package's modules are imported from.
pub(crate) fn module_paths(root: &Path) -> Vec<PathBuf> {
    let source = root.join("src");
    if source.is_dir() { vec![source, root.to_owned()] } else { vec![root.to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_pyproject_is_named_with_its_line() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("pyproject.toml"), "[project]\nname = \"a\"\ndependencies = 7\n")
            .expect("written");
        let error = Project::read(dir.path()).expect_err("refused").to_string();
        assert!(error.contains("pyproject.toml:3:"), "{error}");
    }

    #[test]
    fn the_own_package_is_not_a_dependency() {
        for (text, own) in
            [("tidewheel", true), ("Tidewheel>=0.1", true), ("tidewheel-extras", false), ("requests", false)]
        {
            assert_eq!(is_own(text), own, "{text}");
        }
    }
}
