//! `queue resume`

use clap::Args;

use crate::cli::Ctx;
use crate::fail::Outcome;

/// Let a paused or draining queue run again
///
/// The queue takes tasks in and gives them out again from the moment the command returns.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel queue resume pdf
  tidewheel queue list -o name | xargs tidewheel queue resume")]
pub(crate) struct Resume {
    /// Names of queues
    #[arg(required = true, num_args = 1..)]
    names: Vec<String>,
}

impl Resume {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        super::set_state(ctx, self.names, "resume").await
    }
}
