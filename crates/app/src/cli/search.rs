//! `tidewheel search`: log lines of the whole tenant.

use clap::Args;

use super::Ctx;
use super::common::{self, ListArgs};
use super::shapes::LOG;
use crate::fail::Outcome;

/// Search the log lines of all tasks
///
/// Finds lines by words, newest first, over everything that the tenant's tasks printed and logged. `level:warning` asks
/// for at least that level, `task:ID` for one task.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel search 'connection refused' --limit 20
  tidewheel search timeout level:error -o jsonl --all")]
pub(crate) struct Search {
    /// Words and fields; all of them have to hold
    #[arg(required = true, num_args = 1..)]
    words: Vec<String>,
    #[command(flatten)]
    list: ListArgs,
}

impl Search {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let mut list = self.list;
        list.filter = Some([self.words.join(" "), list.filter.unwrap_or_default()].join(" ").trim().to_owned());
        common::list(ctx, &LOG, &list, || client.get("/logs").doing("search the logs")).await
    }
}
