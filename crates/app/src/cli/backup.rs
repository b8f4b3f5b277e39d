//! `tidewheel backup`: a copy of everything a server keeps.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::Ctx;
use crate::fail::{Exit, Failure, Outcome, While};

/// Copy what a server keeps
///
/// A backup is a folder that a server can be started on.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel backup create --data-dir /var/lib/tidewheel --to /backup/2026-11-21
  tidewheel backup create --data-dir data --to copy && tidewheel server --data-dir copy")]
pub(crate) struct BackupCommand {
    #[command(subcommand)]
    verb: BackupVerb,
}

#[derive(Subcommand)]
enum BackupVerb {
    Create(Create),
}

/// Copy the data folder of a stopped server
///
/// Copies database, logs, blobs and keys into a new folder, and checks the copy of the database by opening it. The
/// server has to be stopped: its lock says so. The copy holds secrets and can be read by its owner alone.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel backup create --data-dir /var/lib/tidewheel --to /backup/2026-11-21
  tidewheel backup create --data-dir data --to copy -o json")]
struct Create {
    /// Data folder of the server
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// New folder for the copy
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// What a server makes anew, what belongs to a running process, and the database, which is copied by its own means.
const LEFT_OUT: &[&str] = &[
    "uploads",
    "agent",
    "build",
    "dev.json",
    ".gitignore",
    "tidewheel.db",
    "tidewheel.db-wal",
    "tidewheel.db-shm",
    "tidewheel.db.lock",
    "logs.db.lock",
];

impl BackupCommand {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let BackupVerb::Create(verb) = self.verb;
        verb.run(ctx)
    }
}

impl Create {
    fn run(self, ctx: &Ctx) -> Outcome {
        let database = self.data_dir.join("tidewheel.db");
        if !database.is_file() {
            let why = format!("there is no database in {}", self.data_dir.display());
            return Err(Failure::new(Exit::Missing, "cannot make a backup", why).next("give the server's --data-dir"));
        }
        let what = || format!("cannot write the backup to {}", self.to.display());
        // Under another name until it is complete: half a backup must not look like one.
        let name = self.to.file_name().ok_or_else(|| Failure::usage(what(), "it has to name a new folder"))?;
        if self.to.exists() {
            return Err(Failure::usage(what(), "it exists").next("name a folder that does not exist yet"));
        }
        let partial = self.to.with_file_name(format!(".{}.partial", name.to_string_lossy()));
        make_private(&partial).doing(Exit::Failed, what)?;
        let spinner = crate::progress::spinner(&ctx.out, "copying");
        let copied = self.copy(&partial);
        spinner.finish_and_clear();
        let bytes = match copied {
            Ok(bytes) => bytes,
            Err(failure) => {
                let _ = std::fs::remove_dir_all(&partial);
                return Err(failure);
            }
        };
        std::fs::rename(&partial, &self.to).doing(Exit::Failed, what)?;
        ctx.out.note(&format!("{} copied to {}", crate::text::bytes(bytes as f64), self.to.display()));
        ctx.out.value(&json!({"from": self.data_dir, "to": self.to, "bytes": bytes}))
    }

    fn copy(&self, to: &Path) -> Outcome<u64> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: tidewheel_store::Error| {
                Failure::new(Exit::Failed, what, error.to_string()).next("stop the server first")
            }
        };
        let (from, copy) = (self.data_dir.join("tidewheel.db"), to.join("tidewheel.db"));
        let store = crate::wire::open_database(&from).map_err(failed("cannot open the database"))?;
        tidewheel_store::Store::backup(&*store, &copy).map_err(failed("cannot copy the database"))?;
        let what = || "cannot copy the other files".to_owned();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600)).doing(Exit::Failed, what)?;
        // While the lock of the database is held, so that no server starts on the folder meanwhile.
        let rest = copy_tree(&self.data_dir, to, LEFT_OUT).doing(Exit::Failed, what)?;
        tidewheel_store::Store::close(&*store);
        drop(store);
        let check = crate::wire::open_database(&copy).map_err(failed("the copy of the database cannot be opened"))?;
        tidewheel_store::Store::close(&*check);
        drop(check);
        let _ = std::fs::remove_file(to.join("tidewheel.db.lock"));
        let size = std::fs::metadata(&copy).map(|meta| meta.len()).unwrap_or(0);
        Ok(rest + size)
    }
}

fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let _ = std::fs::remove_dir_all(path);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Copies files and folders; modes stay. Links are not followed: the server makes none.
fn copy_tree(from: &Path, to: &Path, left_out: &[&str]) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if left_out.iter().any(|skip| name == *skip) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            make_private(&to.join(&name))?;
            bytes += copy_tree(&entry.path(), &to.join(&name), &[])?;
        } else if kind.is_file() {
            bytes += std::fs::copy(entry.path(), to.join(&name))?;
            std::fs::File::open(to.join(&name))?.sync_all()?;
        }
    }
    Ok(bytes)
}
