//! The developer's code: built and uploaded at the start and after each change.
//!
//! A change goes the way of a deploy: a build, an upload under a version of its own (`1.2.0+dev.<ms>`), a registration. The
//! agent in the same process fetches it like any other package, so that what works here works there. Of a package the
//! newest few such versions are kept, for tasks that still run them; the others are deleted, whoever uploaded them, so that
//! days of editing do not fill the disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tidewheel_agent::{BuildOptions, build_package};
use tokio::sync::mpsc;

use crate::cli::Ctx;
use crate::cli::package;
use crate::client::{Client, segment};
use crate::fail::Outcome;

/// Editors write a file in several steps, and tools write several files: what follows within this time is one change.
const SETTLE: Duration = Duration::from_millis(60);
/// Changes that wait to be looked at; more say nothing new.
const CHANGES: usize = 64;
/// Versions of one package that are kept beside the newest one.
const KEPT: usize = 2;
/// What the version of a change has in it.
const MARK: &str = "+dev.";
/// Folders whose changes are not the developer's.
const IGNORED: &[&str] =
    &[".tidewheel", ".git", "__pycache__", ".venv", "venv", "node_modules", ".mypy_cache", ".pytest_cache"];

/// The watched code.
pub(super) struct Code {
    client: Client,
    dir: PathBuf,
    /// Changes, while the folder is watched. The watcher lives beside its channel.
    changes: Option<(mpsc::Receiver<()>, RecommendedWatcher)>,
    /// Content that was uploaded last.
    hash: String,
    started: bool,
    /// The code as it was looked at last could not be used.
    broken: bool,
}

impl Code {
    pub(super) fn new(client: Client, dir: &Path, watch: bool) -> Code {
        let changes = if watch { watcher(dir) } else { None };
        Code { client, dir: dir.to_owned(), changes, hash: String::new(), started: false, broken: false }
    }

    /// Uploads at the first call; later waits for a change and uploads it. Mistakes in the code are shown, and waited
    /// out.
    pub(super) async fn step(&mut self, ctx: &Ctx) {
        if std::mem::replace(&mut self.started, true) {
            let Some((changes, _)) = &mut self.changes else { return std::future::pending().await };
            if changes.recv().await.is_none() {
                return std::future::pending().await;
            }
            tokio::time::sleep(SETTLE).await;
            while changes.try_recv().is_ok() {}
        }
        if !has_code(&self.dir) {
            ctx.out.note("no Python code here yet (tidewheel init NAME makes some); built-in and command tasks run");
            return;
        }
        let began = Instant::now();
        let uploaded = self.upload(ctx, began).await;
        self.broken = uploaded.is_err();
        if let Err(failure) = uploaded {
            ctx.out.note(&failure.text(true));
            ctx.out.note(match self.hash.is_empty() {
                true => "  it is looked at again when a file changes",
                false => "  tasks run the code from before; it is looked at again when a file changes",
            });
        }
    }

    async fn upload(&mut self, ctx: &Ctx, began: Instant) -> Outcome {
        use crate::fail::{Exit, While};
        let scratch = package::scratch()?;
        let mut options = BuildOptions::new(self.dir.join(".tidewheel/build"));
        // Resolving versions anew at each save would be the slowest part of it; a deploy locks them.
        options.lock = false;
        let built = build_package(&self.dir, scratch.path(), &options).await;
        let built = built.doing(Exit::Failed, || "the code cannot be used as it is".to_owned())?;
        let entries = built.manifest["entries"].as_array().map_or(&[][..], Vec::as_slice);
        let names: Vec<_> = entries.iter().filter_map(|entry| entry["name"].as_str()).collect();
        let names = names.join(", ");
        if built.hash == self.hash {
            if self.broken {
                ctx.out.note(&format!("{} is as it was: {names}", built.name));
            }
            return Ok(());
        }
        let again = if self.hash.is_empty() { "ready" } else { "reloaded" };
        // A version of its own for each change: versions are immutable, and going back to earlier code is a change too.
        let version = format!("{}{MARK}{}", built.version, jiff::Timestamp::now().as_millisecond());
        package::push(ctx, &self.client, &built, Some(&version)).await?;
        self.hash.clone_from(&built.hash);
        ctx.out.note(&format!("{} is {again}: {names} ({} ms)", built.name, began.elapsed().as_millis()));
        // What cannot be deleted now, because a task still runs it, is looked at again after the next change.
        if let Err(failure) = self.forget_superseded(&built.name).await {
            tracing::debug!(why = %failure.text(true), "superseded versions are kept");
        }
        Ok(())
    }

    async fn forget_superseded(&self, name: &str) -> Outcome {
        let listed = self.client.get(format!("/packages/{}", segment(name))).query("fields", "version").value().await?;
        let versions = listed["items"].as_array().map_or(&[][..], Vec::as_slice);
        let superseded = versions.iter().filter_map(|item| item["version"].as_str()).filter(|v| v.contains(MARK));
        for version in superseded.skip(1 + KEPT) {
            let gone = self.client.delete(package::path(name, version)).send().await;
            if let Err(failure) = gone {
                tracing::debug!(version, why = %failure.text(true), "a superseded version is kept");
            }
        }
        Ok(())
    }
}

fn has_code(dir: &Path) -> bool {
    let python = |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|e| e == "py");
    dir.join("pyproject.toml").is_file() || std::fs::read_dir(dir).is_ok_and(|entries| entries.flatten().any(python))
}

/// Watches the folder. Without a watch (no inotify left, a strange file system) the server works, without reload.
fn watcher(dir: &Path) -> Option<(mpsc::Receiver<()>, RecommendedWatcher)> {
    let (sender, receiver) = mpsc::channel(CHANGES);
    let root = dir.to_owned();
    let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| event.paths.iter().any(|path| counts(&root, path)) && !event.kind.is_access()) {
            // A full channel already holds the news.
            let _ = sender.try_send(());
        }
    });
    let watched = made.and_then(|mut watcher| watcher.watch(dir, RecursiveMode::Recursive).map(|()| watcher));
    match watched {
        Ok(watcher) => Some((receiver, watcher)),
        Err(error) => {
            tracing::warn!(%error, "changes of the code are not noticed");
            None
        }
    }
}

/// Whether a path is code: Python, or what decides how it is installed. Rename targets count, so atomic saves are seen.
fn counts(root: &Path, path: &Path) -> bool {
    let Ok(inner) = path.strip_prefix(root) else { return false };
    if inner.components().any(|part| IGNORED.iter().any(|ignored| part.as_os_str() == *ignored)) {
        return false;
    }
    let extension = inner.extension().and_then(|e| e.to_str()).unwrap_or_default();
    matches!(extension, "py" | "toml" | "lock" | "json" | "yaml" | "yml" | "txt" | "sql" | "csv")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_counts_and_its_by_products_do_not() {
        let root = Path::new("/p");
        for (path, wanted) in [
            ("/p/tasks.py", true),
            ("/p/pkg/deep.py", true),
            ("/p/pyproject.toml", true),
            ("/p/.tidewheel/tidewheel.db-wal", false),
            ("/p/.tidewheel/dev.json", false),
            ("/p/pkg/__pycache__/deep.cpython-312.pyc", false),
            ("/p/.git/HEAD", false),
            ("/elsewhere/tasks.py", false),
        ] {
            assert_eq!(counts(root, Path::new(path)), wanted, "{path}");
        }
    }
}
