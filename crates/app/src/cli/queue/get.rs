//! `queue get`

use clap::Args;

use crate::cli::Ctx;
use crate::cli::shapes::QUEUE;
use crate::fail::Outcome;

/// Show one queue with all its settings
///
/// Shows the settings in force, defaults included, and the version that rises with each change.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel queue get default\n  tidewheel queue get pdf -o yaml")]
pub(crate) struct Get {
    /// Name of the queue
    name: String,
}

impl Get {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let request = ctx.client()?.get(super::path(&self.name)).doing(format!("read queue {}", self.name));
        ctx.out.one(&QUEUE, &request.value().await?)
    }
}
