//! `run logs`

use std::time::Duration;

use clap::Args;

use crate::cli::Ctx;
use crate::cli::common::field;
use crate::cli::look::{LogArgs, Subject};
use crate::client::Client;
use crate::fail::Outcome;

/// How long one look at a run waits for its end when its lines are followed.
const LOOK: &str = "1s";
/// Looks without a new line after the end of a run until its log counts as whole, and the pause between two.
const QUIET: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

/// Show what the tasks of a run printed and logged
///
/// The lines of all tasks in the order in which they came, each behind the statement that its task is for. With `--follow` new
/// lines appear until the run has ended. Runs that this one started have logs of their own.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run logs run_01jd8z5r7m0000000000000000 --follow
  tidewheel run logs run_01jd8z5r7m0000000000000000 --tail 100 --level warning")]
pub(crate) struct Logs {
    /// Id of the run
    id: String,
    #[command(flatten)]
    lines: LogArgs,
}

impl Logs {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let of = super::subject(&self.id);
        let (mut after, mut quiet) = (None, 0);
        loop {
            // Looked at first: lines that come before its end are read after this.
            let ended = !self.lines.follow || has_ended(&client, &of).await?;
            let before = after.clone();
            after = self.lines.pages(ctx, |after| self.lines.request(&client, &of, after), after).await?;
            if !self.lines.follow {
                return Ok(());
            }
            // The last lines of a task may be stored a moment after its result.
            quiet = if ended && after == before { quiet + 1 } else { 0 };
            if quiet == QUIET {
                return Ok(());
            }
            if ended {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn has_ended(client: &Client, of: &Subject<'_>) -> Outcome<bool> {
    let run = of.get(client, "", "follow run").query("wait", LOOK).value().await?;
    Ok(matches!(field(&run, "phase"), "completed" | "faulted" | "cancelled"))
}
