//! `package push`, and the upload that `deploy` uses.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tidewheel_agent::BuiltPackage;

use crate::cli::Ctx;
use crate::cli::shapes::PACKAGE;
use crate::client::{Client, Upload, segment};
use crate::fail::{Exit, Outcome, While};

/// Build a package and upload it
///
/// Takes a folder, a wheel or an sdist. Versions are immutable: the same content again changes nothing, other content
/// under the same version is refused. The tasks of the package can be submitted as soon as the command returns.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel package push dist/reports-1.4.0.tar.gz
  tidewheel package push . --as 1.4.0rc1")]
pub(crate) struct Push {
    /// Folder with `pyproject.toml`, a wheel or an sdist
    source: PathBuf,
    /// Upload it under this version
    #[arg(long = "as", value_name = "VERSION")]
    version: Option<String>,
    /// Leave the dependencies unlocked
    #[arg(long)]
    no_lock: bool,
}

impl Push {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let folder = scratch()?;
        let built = super::build(ctx, &self.source, folder.path(), !self.no_lock).await?;
        ctx.out.brief(&PACKAGE, &push(ctx, &client, &built, self.version.as_deref()).await?)
    }
}

/// A folder for an archive that is only passed on.
pub(crate) fn scratch() -> Outcome<tempfile::TempDir> {
    tempfile::tempdir().doing(Exit::Failed, || "cannot make a temporary folder".to_owned())
}

/// Puts a built package on the server; an archive that is there already is named by its hash and not sent again.
pub(crate) async fn push(ctx: &Ctx, client: &Client, built: &BuiltPackage, version: Option<&str>) -> Outcome<Value> {
    let version = version.unwrap_or(&built.version);
    let what = format!("upload {} {version}", built.name);
    let known = client.head(format!("/blobs/{}", segment(&built.hash))).doing(what.clone()).send().await;
    let stored = match known {
        Ok(_) => {
            let body = json!({ "hash": built.hash, "manifest": built.upload_manifest() });
            client.put(super::path(&built.name, version)).doing(what).json(&body).long().value().await?
        }
        Err(failure) if failure.exit() == Exit::Missing => upload(ctx, client, built, version).await?,
        Err(failure) => return Err(failure),
    };
    for warning in stored.get("warnings").and_then(Value::as_array).into_iter().flatten() {
        ctx.out.note(&format!("warning: {}", crate::text::one_line(warning.as_str().unwrap_or_default())));
    }
    Ok(stored)
}

/// Sends the archive, with a bar over its bytes.
async fn upload(ctx: &Ctx, client: &Client, built: &BuiltPackage, version: &str) -> Outcome<Value> {
    let sent = Arc::new(AtomicU64::new(0));
    let file_name = built.archive.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let upload = Upload {
        file: built.archive.clone(),
        name: file_name,
        field: "archive",
        json: ("manifest", built.upload_manifest().to_string()),
        sent: sent.clone(),
    };
    let bar = crate::progress::bytes(&ctx.out, built.size, "uploading");
    let shown = bar.clone();
    let ticker = async move {
        loop {
            shown.set_position(sent.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let what = format!("upload {} {version}", built.name);
    let request = client.put(super::path(&built.name, version)).doing(what).upload(upload);
    let answer = tokio::select! {
        answer = request.value() => answer,
        () = ticker => Ok(Value::Null),
    };
    bar.finish_and_clear();
    answer
}
