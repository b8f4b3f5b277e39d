//! `queue pause`

use clap::Args;

use crate::cli::Ctx;
use crate::fail::Outcome;

/// Stop giving out tasks of a queue
///
/// The queue goes on taking tasks in, running ones end normally, and nothing new is given to workers until
/// `tidewheel queue resume`.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel queue pause pdf\n  tidewheel queue pause pdf mail")]
pub(crate) struct Pause {
    /// Names of queues
    #[arg(required = true, num_args = 1..)]
    names: Vec<String>,
}

impl Pause {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        super::set_state(ctx, self.names, "pause").await
    }
}
