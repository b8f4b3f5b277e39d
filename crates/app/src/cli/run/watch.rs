//! `run watch`

use clap::Args;

use crate::cli::Ctx;
use crate::cli::common::follow_changes;
use crate::cli::shapes::{RUN, RUN_CHANGE};
use crate::cli::workflow::run_outcome;
use crate::fail::Outcome;

/// Follow a run to its end
///
/// Prints each change as it is committed. Ends with the run: exit 0 if it completed, 1 if it did not. A lost connection is
/// opened again.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run watch run_01jd8z5r7m0000000000000000
  tidewheel run watch run_01jd8z5r7m0000000000000000 -o jsonl")]
pub(crate) struct Watch {
    /// Id of the run
    id: String,
}

impl Watch {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let path = super::path(&self.id);
        let what = format!("follow run {}", self.id);
        let events = client.get(format!("{path}/events")).doing(what.clone()).next("tidewheel run list");
        let ended = |phase: &str| matches!(phase, "completed" | "faulted" | "cancelled");
        follow_changes(ctx, &RUN_CHANGE, events, ("phase", "turn"), ended).await?;
        let run = client.get(&path).doing(what).value().await?;
        if ctx.out.is_for_people() {
            ctx.out.one(&RUN, &run)?;
        }
        run_outcome(&run)
    }
}
