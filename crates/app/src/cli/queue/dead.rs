//! `queue dead`: tasks that ran out of attempts.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::Ctx;
use crate::cli::common::{self, ListArgs, WaitArg};
use crate::cli::op;
use crate::cli::shapes::TASK;
use crate::fail::Outcome;

/// Look at dead letters and run them again
///
/// A task whose attempts are used up goes to its queue's dead letters with the last error. It stays there until it is
/// run again or its retention ends.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:\n  tidewheel queue dead list pdf\n  tidewheel queue dead redrive pdf --max 100")]
pub(crate) struct DeadCommand {
    #[command(subcommand)]
    verb: DeadVerb,
}

#[derive(Subcommand)]
enum DeadVerb {
    List(List),
    Redrive(Redrive),
}

/// List the dead letters of a queue
///
/// Newest first, with the last error of each. The filter grammar is that of `tidewheel task list`.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:
  tidewheel queue dead list pdf
  tidewheel queue dead list pdf --filter error:TimeoutError --all -o name")]
struct List {
    /// Name of the queue
    name: String,
    #[command(flatten)]
    list: ListArgs,
}

/// Run dead letters of a queue again
///
/// Puts dead tasks back into their queue with a new allowance of attempts. Says how many first and asks; the work is a
/// background operation.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel queue dead redrive pdf --dry-run
  tidewheel queue dead redrive pdf --filter error:TimeoutError --max 100 --yes --wait")]
struct Redrive {
    /// Name of the queue
    name: String,
    /// Only those that a filter finds
    #[arg(long, short, value_name = "FILTER")]
    filter: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Count only, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArg,
}

impl DeadCommand {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            DeadVerb::List(verb) => {
                let client = ctx.client()?;
                let path = format!("{}/dead", super::path(&verb.name));
                common::list(ctx, &TASK, &verb.list, || client.get(&path).doing("list the dead letters")).await
            }
            DeadVerb::Redrive(verb) => verb.run(ctx).await,
        }
    }
}

impl Redrive {
    async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let path = format!("{}/dead:redrive", super::path(&self.name));
        let body = |dry_run: bool| {
            let mut body = json!({ "dry_run": dry_run });
            if let Some(filter) = &self.filter {
                body["filter"] = json!(filter);
            }
            if let Some(max) = self.max {
                body["max"] = json!(max);
            }
            body
        };
        let start = |body: Value| client.post(&path).doing(format!("redrive queue {}", self.name)).json(&body).value();
        op::counted(ctx, &client, "run again", self.dry_run, self.wait.get()?, |dry_run| start(body(dry_run))).await
    }
}
