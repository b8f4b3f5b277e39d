//! `task attempts`

use clap::Args;

use crate::cli::Ctx;
use crate::cli::common::as_page;
use crate::cli::shapes::ATTEMPT;
use crate::fail::Outcome;

/// List the attempts of a task
///
/// Each grant to a worker is an attempt, with its worker, its times and how it ended: succeeded, failed, lost, timed
/// out, cancelled or returned.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel task attempts task_01jd8z5r7m0000000000000000
  tidewheel task attempts task_01jd8z5r7m0000000000000000 -o json --jq '.items[].error.type'")]
pub(crate) struct Attempts {
    /// Id of the task
    id: String,
}

impl Attempts {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let page = as_page(super::subject(&self.id).get(&client, "/attempts", "read").value().await?);
        ctx.out.list(&ATTEMPT, &page)
    }
}
