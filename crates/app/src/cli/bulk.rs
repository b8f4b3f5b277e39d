//! `tidewheel bulk`: one action over everything that a filter finds.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidewheel_proto::rest::Priority;

use super::Ctx;
use super::common::WaitArg;
use super::op;
use crate::fail::Outcome;

/// Act on every task that a filter finds
///
/// Counts first and asks; the work is a background operation at the server, 256 tasks at a time, with an outcome per
/// task. Use `tidewheel op` to follow it.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel bulk retry --filter 'state:failed after:2h' --dry-run
  tidewheel bulk cancel --filter 'queue:pdf state:queued' --yes --wait")]
pub(crate) struct BulkCommand {
    #[command(subcommand)]
    verb: BulkVerb,
}

#[derive(Subcommand)]
enum BulkVerb {
    Cancel(Cancel),
    Retry(Retry),
    Redrive(Redrive),
    Reprioritise(Reprioritise),
}

/// What every bulk action takes.
#[derive(Args)]
struct Selection {
    /// Which tasks, in the filter grammar; an empty filter is refused
    #[arg(long, short, value_name = "FILTER")]
    filter: String,
    /// Count only, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Change at most so many
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Shown in each task's error and in the audit
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    wait: WaitArg,
}

/// Cancel every task that a filter finds
///
/// Waiting tasks are cancelled at once; running ones are told to stop and killed after the grace time.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel bulk cancel --filter 'queue:pdf state:queued' --dry-run
  tidewheel bulk cancel --filter correlation:batch-7 --reason 'wrong batch' --yes")]
struct Cancel {
    #[command(flatten)]
    selection: Selection,
}

/// Run every ended task that a filter finds again
///
/// Failed, dead, cancelled and expired tasks go back into their queues with a new allowance of attempts.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel bulk retry --filter 'state:failed after:2h' --dry-run
  tidewheel bulk retry --filter error:TimeoutError --max 500 --yes --wait")]
struct Retry {
    #[command(flatten)]
    selection: Selection,
}

/// Run every dead letter that a filter finds again
///
/// As `retry`, over all queues, but for dead letters alone.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel bulk redrive --filter queue:pdf --dry-run
  tidewheel bulk redrive --filter 'error:ConnectionError after:1d' --yes --wait")]
struct Redrive {
    #[command(flatten)]
    selection: Selection,
}

/// Change the priority of every waiting task that a filter finds
///
/// The tasks move within their queues at once.
#[derive(Args)]
#[command(visible_alias = "reprioritize")]
#[command(after_help = "Examples:
  tidewheel bulk reprioritise --filter 'label.customer:acme state:queued' --priority high
  tidewheel bulk reprioritise --filter queue:reports --priority 1 --yes")]
struct Reprioritise {
    /// 0 to 9, 9 first, or low, medium, high
    #[arg(long, value_parser = super::task::priority)]
    priority: Priority,
    #[command(flatten)]
    selection: Selection,
}

impl BulkCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            BulkVerb::Cancel(verb) => verb.selection.run(ctx, "cancel", None).await,
            BulkVerb::Retry(verb) => verb.selection.run(ctx, "retry", None).await,
            BulkVerb::Redrive(mut verb) => {
                // A redrive is a retry of what is dead.
                verb.selection.filter = format!("state:dead {}", verb.selection.filter).trim_end().to_owned();
                verb.selection.run(ctx, "retry", None).await
            }
            BulkVerb::Reprioritise(verb) => verb.selection.run(ctx, "reprioritise", Some(verb.priority)).await,
        }
    }
}

impl Selection {
    async fn run(self, ctx: &Ctx, action: &'static str, priority: Option<Priority>) -> Outcome {
        let client = ctx.client()?;
        let body = |dry_run: bool| {
            let mut body = json!({ "filter": self.filter, "dry_run": dry_run });
            let parts: [(&str, Option<Value>); 3] = [
                ("max", self.max.map(|max| json!(max))),
                ("reason", self.reason.as_ref().map(|reason| json!(reason))),
                ("priority", priority.as_ref().map(|priority| json!(priority))),
            ];
            for (name, value) in parts {
                if let Some(value) = value {
                    body[name] = value;
                }
            }
            body
        };
        let path = format!("/tasks:{action}");
        let start = |dry_run| client.post(&path).doing(format!("{action} the tasks")).json(&body(dry_run)).value();
        op::counted(ctx, &client, action, self.dry_run, self.wait.get()?, start).await
    }
}
