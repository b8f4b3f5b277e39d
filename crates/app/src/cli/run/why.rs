//! `run why`

use clap::Args;

use crate::cli::shapes::RUN_REASON;
use crate::cli::{Ctx, look};
use crate::fail::Outcome;

/// Say what a run waits for
///
/// Computed when it is asked for: the tasks and why they are not running, runs, times, events, with the entries of the journal. For an
/// ended run it says how it ended.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run why run_01jd8z5r7m0000000000000000
  tidewheel run why run_01jd8z5r7m0000000000000000 -o json --jq '.reasons[].key'")]
pub(crate) struct Why {
    /// Id of the run
    id: String,
}

impl Why {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        look::why(ctx, &super::subject(&self.id), &RUN_REASON).await
    }
}
