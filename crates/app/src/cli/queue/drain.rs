//! `queue drain`

use clap::Args;

use crate::cli::Ctx;
use crate::fail::Outcome;

/// Take no new tasks, finish the old ones
///
/// Submits to the queue are refused while what waits is worked off. Use `tidewheel queue stats` to see when it is
/// empty, and `tidewheel queue resume` to open it again.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel queue drain pdf\n  tidewheel queue drain pdf mail")]
pub(crate) struct Drain {
    /// Names of queues
    #[arg(required = true, num_args = 1..)]
    names: Vec<String>,
}

impl Drain {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        super::set_state(ctx, self.names, "drain").await
    }
}
