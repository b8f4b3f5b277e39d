//! `tidewheel artifact`: files that tasks left.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, Subcommand};
use futures::StreamExt;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::Ctx;
use super::common::{as_page, field, items};
use super::shapes::{ARTIFACT, BLOB};
use crate::client::{Client, SentFile, segment};
use crate::fail::{Exit, Failure, Outcome, While};

/// Files that tasks leave and take
///
/// A task leaves files with `ctx.artifact("report.csv", path)`. They are stored by their content and fetched by name or id.
/// `put` stores a file of yours, which a task reads with `ctx.fetch(hash, path)`.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel artifact list task_01jd8z5r7m0000000000000000
  tidewheel artifact get task_01jd8z5r7m0000000000000000 report.csv
  tidewheel artifact put scans.tar")]
pub(crate) struct ArtifactCommand {
    #[command(subcommand)]
    verb: ArtifactVerb,
}

#[derive(Subcommand)]
enum ArtifactVerb {
    List(List),
    Get(Get),
    Put(Put),
}

/// List the files of a task
///
/// Those of its last attempt that ended, with size and media type.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:
  tidewheel artifact list task_01jd8z5r7m0000000000000000
  tidewheel artifact list task_01jd8z5r7m0000000000000000 -o name")]
struct List {
    /// Id of the task
    task: String,
}

/// Fetch a file of a task
///
/// Writes it under its own name into the current folder, to the place `--to` names, or to standard output with `--to
/// -`. An existing file is not replaced without `--yes`.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel artifact get task_01jd8z5r7m0000000000000000 report.csv
  tidewheel artifact get task_01jd8z5r7m0000000000000000 report.csv --to - | head")]
struct Get {
    /// Id of the task, or of the file (`art_...`)
    task: String,
    /// Name of the file; the only one if absent
    name: Option<String>,
    /// File or folder to write, or `-`
    #[arg(long, value_name = "PATH")]
    to: Option<String>,
}

/// Store a file by its content
///
/// Prints its hash, with which a task reads it: `ctx.fetch(hash, path)`. Content that is stored already is not sent again. A
/// file that no task names is deleted after a day.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel artifact put scans.tar
  tidewheel task submit ocr -i \"{\\\"scans\\\": \\\"$(tidewheel artifact put scans.tar -o name)\\\"}\"")]
struct Put {
    /// The file
    file: std::path::PathBuf,
}

impl ArtifactCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        match self.verb {
            ArtifactVerb::List(verb) => ctx.out.list(&ARTIFACT, &read(&client, &verb.task).await?),
            ArtifactVerb::Get(verb) => verb.run(ctx, &client).await,
            ArtifactVerb::Put(verb) => verb.run(ctx, &client).await,
        }
    }
}

async fn read(client: &Client, task: &str) -> Outcome<serde_json::Value> {
    let request = client.get(format!("/tasks/{}/artifacts", segment(task))).doing(format!("list the files of {task}"));
    request.next("tidewheel task list").value().await.map(as_page)
}

impl Put {
    async fn run(self, ctx: &Ctx, client: &Client) -> Outcome {
        let what = || format!("cannot read {}", self.file.display());
        let mut file = std::fs::File::open(&self.file).doing(Exit::Usage, what)?;
        let size = file.metadata().doing(Exit::Usage, what)?.len();
        let mut hasher = Sha256::new();
        std::io::copy(&mut file, &mut hasher).doing(Exit::Usage, what)?;
        let hash = format!("sha256:{}", hex::encode(hasher.finalize()));
        let path = format!("/blobs/{}", segment(&hash));
        let doing = format!("store {}", self.file.display());
        let known =
            client.post("/blobs:missing").doing(doing.clone()).json(&json!({ "hashes": [hash] })).value().await?;
        let mut stored = json!({ "hash": hash, "size": size });
        if known["missing"].as_array().is_some_and(|missing| !missing.is_empty()) {
            let sent = Arc::new(AtomicU64::new(0));
            let bar = crate::progress::bytes(&ctx.out, size, "storing");
            let shown = bar.clone();
            let moving = sent.clone();
            let ticker = async move {
                loop {
                    shown.set_position(moving.load(Ordering::Relaxed));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let request = client.put(path).doing(doing).file(SentFile { path: self.file.clone(), sent });
            stored = tokio::select! {
                answer = request.value() => answer?,
                () = ticker => stored,
            };
            bar.finish_and_clear();
        } else {
            ctx.out.note("the server has it already: 0 B sent");
        }
        stored["name"] = json!(self.file.file_name().map(|name| name.to_string_lossy()));
        ctx.out.one(&BLOB, &stored)
    }
}

impl Get {
    async fn run(self, ctx: &Ctx, client: &Client) -> Outcome {
        let (task, id) = match self.task.strip_prefix("art_").and_then(|rest| rest.split_once('-')) {
            Some((task, _)) => (format!("task_{task}"), Some(self.task.clone())),
            None => (self.task.clone(), None),
        };
        let page = read(client, &task).await?;
        let files = items(&page);
        let found = match &self.name {
            _ if id.is_some() => files.iter().find(|file| Some(field(file, "id")) == id.as_deref()),
            Some(name) => files.iter().find(|file| field(file, "name") == name),
            None if files.len() == 1 => files.first(),
            None => None,
        };
        let Some(file) = found else {
            let names: Vec<_> = files.iter().map(|file| field(file, "name")).collect();
            let near = self.name.as_deref().map(|name| crate::text::did_you_mean(name, names.iter().copied()));
            let why = format!("it has {} files: {}{}", names.len(), names.join(", "), near.unwrap_or_default());
            return Err(Failure::new(Exit::Missing, format!("no such file of {}", self.task), why)
                .next(format!("tidewheel artifact list {}", self.task)));
        };
        let (name, hash) = (field(file, "name"), field(file, "hash"));
        let size = file.get("size").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let request = client
            .get(match field(file, "id") {
                // A server of an earlier version.
                "" => format!("/blobs/{}", segment(hash)),
                id => format!("/artifacts/{}", segment(id)),
            })
            .doing(format!("fetch {name}"));
        if self.to.as_deref() == Some("-") {
            let mut chunks = request.chunks().await?;
            while let Some(chunk) = chunks.next().await {
                ctx.out.write_bytes(&chunk?)?;
            }
            return Ok(());
        }
        let path = target(self.to.as_deref(), name);
        if path.exists() {
            ctx.ask.confirm(&format!("1 file will be replaced: {}.", path.display()))?;
        }
        // Under another name until it is complete: a broken download must not look like the file.
        let partial =
            path.with_file_name(format!(".{}.partial", path.file_name().unwrap_or_default().to_string_lossy()));
        let what = || format!("cannot write {}", path.display());
        let mut out = tokio::fs::File::create(&partial).await.doing(Exit::Usage, what)?;
        let bar = crate::progress::bytes(&ctx.out, size, name);
        let mut chunks = request.chunks().await?;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            out.write_all(&chunk).await.doing(Exit::Failed, what)?;
            bar.inc(chunk.len() as u64);
        }
        out.flush().await.doing(Exit::Failed, what)?;
        drop(out);
        tokio::fs::rename(&partial, &path).await.doing(Exit::Failed, what)?;
        bar.finish_and_clear();
        ctx.out.note(&format!("{} written to {}", crate::text::bytes(size as f64), path.display()));
        Ok(())
    }
}

/// Where a file goes. Its name came from the task: only the last part of it counts, so that it cannot leave the folder.
fn target(to: Option<&str>, name: &str) -> std::path::PathBuf {
    let own = Path::new(name).file_name().map_or_else(|| Path::new("artifact"), Path::new);
    match to {
        None => own.to_owned(),
        Some(to) if Path::new(to).is_dir() => Path::new(to).join(own),
        Some(to) => Path::new(to).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_the_folder() {
        assert_eq!(target(None, "../../etc/passwd"), Path::new("passwd"));
        assert_eq!(target(None, ".."), Path::new("artifact"));
        assert_eq!(target(Some("x.csv"), "report.csv"), Path::new("x.csv"));
    }
}
