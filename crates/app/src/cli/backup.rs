//! `tidewheel backup`: a copy of everything a server keeps.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Ctx;
use crate::fail::{Exit, Failure, Outcome, While};
use crate::wire::backup;

/// Copy what a server keeps
///
/// A backup is a folder that a server can be started on.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel backup create --name before-upgrade
  tidewheel backup verify /var/lib/tidewheel/backups/before-upgrade")]
pub(crate) struct BackupCommand {
    #[command(subcommand)]
    verb: BackupVerb,
}

#[derive(Subcommand)]
enum BackupVerb {
    Create(Create),
    Verify(Verify),
    Restore(Restore),
}

/// Copy a running server's data, or a stopped server's folder
///
/// Copies database, log lines, blobs and keys into a new folder, and checks the copy of the database by opening it. A
/// running server makes the copy itself, in the folder `backups` of its data folder, while it goes on working; that needs
/// an admin token with system scope. With --data-dir and --to the folder of a stopped server is copied. Blobs in S3 stay
/// where they are. The copy holds secrets and can be read by its owner alone.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel backup create --name before-upgrade
  tidewheel backup create --data-dir /var/lib/tidewheel --to /backup/2026-11-21")]
struct Create {
    /// Name of the backup that a running server makes; the time if absent
    #[arg(long, conflicts_with_all = ["data_dir", "to"])]
    name: Option<String>,
    /// Data folder of a stopped server
    #[arg(long, value_name = "DIR", requires = "to")]
    data_dir: Option<PathBuf>,
    /// New folder for the copy of a stopped server
    #[arg(long, value_name = "DIR", requires = "data_dir")]
    to: Option<PathBuf>,
}

/// Check that a backup can be used
///
/// Opens the database of the copy as a server would, and compares every blob with the hash in its name. It reads everything
/// and changes nothing. A damaged backup ends with exit 1.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel backup verify /var/lib/tidewheel/backups/before-upgrade
  tidewheel backup verify /backup/2026-11-21 -o json")]
struct Verify {
    /// Folder of the backup
    folder: PathBuf,
}

/// Make a data folder from a backup
///
/// Copies a backup that `verify` finds sound into a new data folder; the backup stays as it is. Start a server on the folder
/// with --data-dir. Everything after the backup is gone there, and tasks that have run since may run again.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel backup restore /backup/2026-11-21 --to /var/lib/tidewheel-restored
  tidewheel backup restore before-upgrade --to data && tidewheel server --data-dir data")]
struct Restore {
    /// Folder of the backup
    folder: PathBuf,
    /// New data folder
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

impl BackupCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            BackupVerb::Create(verb) => verb.run(ctx).await,
            BackupVerb::Verify(verb) => verb.run(ctx),
            BackupVerb::Restore(verb) => verb.run(ctx),
        }
    }
}

impl Create {
    async fn run(self, ctx: &Ctx) -> Outcome {
        let spinner = crate::progress::spinner(&ctx.out, "copying");
        let made = match (&self.data_dir, &self.to) {
            (Some(from), Some(to)) => copy_folder(from, to),
            _ => {
                let body = self.name.as_ref().map_or_else(|| json!({}), |name| json!({ "name": name }));
                let client = ctx.client()?;
                // Not repeated: a second try would find the name taken.
                client.post("/backups").doing("make a backup").json(&body).at_once().long().value().await
            }
        };
        spinner.finish_and_clear();
        let made = made?;
        let bytes = made.get("bytes").and_then(Value::as_f64).unwrap_or(0.0);
        let path = made.get("path").and_then(Value::as_str).unwrap_or_default();
        ctx.out.note(&format!("{} copied to {path}", crate::text::bytes(bytes)));
        ctx.out.value(&made)
    }
}

fn copy_folder(from: &Path, to: &Path) -> Outcome<Value> {
    let what = "cannot make a backup";
    if !from.join("tidewheel.db").is_file() {
        let why = format!("there is no database in {}", from.display());
        return Err(Failure::new(Exit::Missing, what, why).next("give the server's --data-dir"));
    }
    if to.exists() {
        return Err(
            Failure::usage(what, format!("{} exists", to.display())).next("name a folder that does not exist yet")
        );
    }
    let failed = |why: String| Failure::new(Exit::Failed, what, why);
    let store = crate::wire::open_database(&from.join("tidewheel.db")).map_err(|error| {
        failed(error.to_string()).next("leave --data-dir out while the server runs: it makes the copy itself")
    })?;
    let copied = backup::of_stopped(&*store, from, to);
    tidewheel_store::Store::close(&*store);
    let bytes = copied.map_err(failed)?;
    Ok(json!({ "name": to.file_name().map(|n| n.to_string_lossy()), "path": to, "bytes": bytes }))
}

impl Verify {
    fn run(self, ctx: &Ctx) -> Outcome {
        let blobs = verified(ctx, &self.folder)?;
        ctx.out.note(&format!("{} can be used", self.folder.display()));
        ctx.out.value(&json!({ "path": self.folder, "blobs": blobs }))
    }
}

/// Checks a backup and counts its blobs.
fn verified(ctx: &Ctx, folder: &Path) -> Outcome<u64> {
    let what = || format!("cannot use the backup {}", folder.display());
    let database = folder.join("tidewheel.db");
    if !database.is_file() {
        return Err(Failure::new(Exit::Missing, what(), "there is no database in it"));
    }
    let spinner = crate::progress::spinner(&ctx.out, "reading");
    let checked = backup::check_copy(folder);
    spinner.finish_and_clear();
    checked.map_err(|why| Failure::new(Exit::Failed, what(), why).next("use an earlier backup"))
}

impl Restore {
    fn run(self, ctx: &Ctx) -> Outcome {
        let what = || format!("cannot restore to {}", self.to.display());
        if self.to.exists() {
            return Err(Failure::usage(what(), "it exists").next("name a folder that does not exist yet"));
        }
        verified(ctx, &self.folder)?;
        let bytes = backup::restore(&self.folder, &self.to).doing(Exit::Failed, what)?;
        let next = format!("start it with tidewheel server --data-dir {}", self.to.display());
        ctx.out.note(&format!("{} restored; {next}", crate::text::bytes(bytes as f64)));
        ctx.out.value(&json!({ "from": self.folder, "path": self.to, "bytes": bytes }))
    }
}
