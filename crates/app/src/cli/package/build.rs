//! `package build`, and the build that `push`, `deploy` and `dev` use.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use tidewheel_agent::{BuildOptions, BuiltPackage, build_package};

use crate::cli::Ctx;
use crate::cli::shapes::{ENTRY, PACKAGE};
use crate::fail::{Exit, Failure, Outcome, While};

/// Build a package from a folder, a wheel or an sdist
///
/// Locks the dependencies, imports the code to see which tasks it has, and writes an archive that is the same for the
/// same content. Nothing is uploaded.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel package build .
  tidewheel package build dist/reports-1.4.0-py3-none-any.whl --to out")]
pub(crate) struct Build {
    /// Folder with `pyproject.toml`, a wheel or an sdist
    #[arg(default_value = ".")]
    source: PathBuf,
    /// File to write, or folder to write it in
    #[arg(long, value_name = "PATH", default_value = ".")]
    to: PathBuf,
    /// Leave the dependencies unlocked
    #[arg(long)]
    no_lock: bool,
}

impl Build {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let built = build(ctx, &self.source, &self.to, !self.no_lock).await?;
        ctx.out.brief(&PACKAGE, &shown(&built))?;
        if ctx.out.is_for_people() {
            ctx.out.list(&ENTRY, &json!({ "items": built.manifest["entries"] }))?;
            ctx.out.note(&format!("written to {}", built.archive.display()));
        }
        Ok(())
    }
}

/// A built package in the form of one that is shown.
pub(crate) fn shown(built: &BuiltPackage) -> Value {
    json!({
        "name": built.name,
        "version": built.version,
        "state": "built",
        "format": built.manifest["format"],
        "hash": built.hash,
        "size": built.size,
        "archive": built.archive,
        "entries": built.manifest["entries"],
        "warnings": built.warnings,
    })
}

/// Where builds keep environments and downloads.
pub(crate) fn cache_dir() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("tidewheel/build")
}

/// Builds a package, with a spinner and its warnings.
pub(crate) async fn build(ctx: &Ctx, source: &Path, to: &Path, lock: bool) -> Outcome<BuiltPackage> {
    if !source.exists() {
        let why = format!("there is no {}", source.display());
        return Err(Failure::usage("cannot build the package", why).next("tidewheel init NAME"));
    }
    let mut options = BuildOptions::new(cache_dir());
    options.lock = lock;
    let spinner = crate::progress::spinner(&ctx.out, "building");
    let built = build_package(source, to, &options).await;
    spinner.finish_and_clear();
    let built = built.doing(Exit::Failed, || format!("cannot build {}", source.display()))?;
    for warning in &built.warnings {
        ctx.out.note(&format!("warning: {warning}"));
    }
    Ok(built)
}
