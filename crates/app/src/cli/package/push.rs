//! `package push`, and the upload that `deploy` uses.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidewheel_agent::BuiltPackage;

use crate::cli::Ctx;
use crate::cli::shapes::PACKAGE;
use crate::client::{Client, Upload, segment};
use crate::fail::{Exit, Outcome, While};

/// Hashes asked about at once; the server's bound.
const ASKED: usize = 10_000;
/// Parts sent at once: each is one round trip and one sync of the server's disk.
const AT_ONCE: usize = 8;

/// Build a package and upload it
///
/// Takes a folder, a wheel or an sdist. Versions are immutable: the same content again changes nothing, other content
/// under the same version is refused. Only parts that the server has not are sent. The tasks of the package can be submitted as soon as the command returns.
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

/// Puts a built package on the server. Its archive is cut into parts, and only those that the server has not are sent: a
/// new version costs what changed, the same content nothing.
pub(crate) async fn push(ctx: &Ctx, client: &Client, built: &BuiltPackage, version: Option<&str>) -> Outcome<Value> {
    let version = version.unwrap_or(&built.version);
    let what = format!("upload {} {version}", built.name);
    let parts = parts_of(built)?;
    let stored = match send_missing(ctx, client, built, &parts, &what).await {
        Ok(sent) => {
            let parts: Vec<Value> = parts.iter().map(|part| json!({ "hash": part.hash, "size": part.size })).collect();
            let body = json!({ "hash": built.hash, "manifest": built.upload_manifest(), "parts": parts });
            let request = client.put(super::path(&built.name, version)).doing(what).json(&body).long();
            let stored = request.value().await?;
            let whole = crate::text::bytes(built.size as f64);
            ctx.out.note(&match sent == built.size {
                true => format!("{whole} sent"),
                false => format!("{} of {whole} sent: the server had the rest", crate::text::bytes(sent as f64)),
            });
            stored
        }
        // A server of an earlier version: it takes archives as a whole.
        Err(failure) if failure.exit() == Exit::Missing => upload(ctx, client, built, version).await?,
        Err(failure) => return Err(failure),
    };
    for warning in stored.get("warnings").and_then(Value::as_array).into_iter().flatten() {
        ctx.out.note(&format!("warning: {}", crate::text::one_line(warning.as_str().unwrap_or_default())));
    }
    Ok(stored)
}

/// A part of an archive, by its place in the file.
struct Part {
    hash: String,
    at: u64,
    size: u64,
}

fn parts_of(built: &BuiltPackage) -> Outcome<Vec<Part>> {
    let what = || format!("cannot read {}", built.archive.display());
    let file = std::fs::File::open(&built.archive).doing(Exit::Failed, what)?;
    let (mut parts, mut at) = (Vec::new(), 0);
    let split = tidewheel_proto::chunk::split(file, |part| {
        let hash = format!("sha256:{}", hex::encode(Sha256::digest(part)));
        parts.push(Part { hash, at, size: part.len() as u64 });
        at += part.len() as u64;
        true
    });
    split.doing(Exit::Failed, what)?;
    Ok(parts)
}

/// Asks which parts the server has not, and sends those, some at once; the bytes that were sent.
async fn send_missing(ctx: &Ctx, client: &Client, built: &BuiltPackage, parts: &[Part], what: &str) -> Outcome<u64> {
    let mut missing: Vec<&Part> = Vec::new();
    for asked in parts.chunks(ASKED) {
        let hashes: Vec<&str> = asked.iter().map(|part| part.hash.as_str()).collect();
        let answer = client.post("/blobs:missing").doing(what).json(&json!({ "hashes": hashes })).value().await?;
        let named: std::collections::HashSet<&str> =
            answer["missing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        missing.extend(asked.iter().filter(|part| named.contains(part.hash.as_str())));
    }
    // A part that is there twice is sent once.
    let mut seen = std::collections::HashSet::new();
    missing.retain(|part| seen.insert(part.hash.as_str()));
    let total = missing.iter().map(|part| part.size).sum();
    let bar = crate::progress::bytes(&ctx.out, total, "uploading");
    let read = || format!("cannot read {}", built.archive.display());
    let file = std::fs::File::open(&built.archive).doing(Exit::Failed, read)?;
    let send = |part: &Part| {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; part.size as usize];
        let content = file.read_exact_at(&mut bytes, part.at).doing(Exit::Failed, read);
        let request = client.put(format!("/blobs/{}", segment(&part.hash))).doing(what).raw_bytes(bytes);
        let (size, bar) = (part.size, &bar);
        async move {
            content?;
            request.value().await?;
            bar.inc(size);
            Ok::<(), crate::fail::Failure>(())
        }
    };
    futures::stream::iter(missing.into_iter().map(send)).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    bar.finish_and_clear();
    Ok(total)
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
