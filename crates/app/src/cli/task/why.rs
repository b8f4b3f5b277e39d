//! `task why`

use clap::Args;

use crate::cli::shapes::REASON;
use crate::cli::{Ctx, look};
use crate::fail::Outcome;

/// Say why a task is not running
///
/// Computed when it is asked for: a paused queue, a limit that is reached, no worker with a needed label, an earlier
/// task of the same key, a time that has not come. For an ended task it says how it ended.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel task why task_01jd8z5r7m0000000000000000
  tidewheel task why task_01jd8z5r7m0000000000000000 -o json --jq '.reasons[].code'")]
pub(crate) struct Why {
    /// Id of the task
    id: String,
}

impl Why {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        look::why(ctx, &super::subject(&self.id), &REASON).await
    }
}
