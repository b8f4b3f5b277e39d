//! `queue create`

use clap::Args;

use super::limits::SettingArgs;
use crate::cli::Ctx;
use crate::cli::shapes::QUEUE;
use crate::fail::Outcome;

/// Create a queue, or set all its settings
///
/// What is not given takes its default, so that the same command always gives the same queue. To change single settings
/// of a queue that exists, use `tidewheel queue limits`.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel queue create pdf --concurrency 10 --rate 100/s --burst 20
  tidewheel queue create mail --batch-size 50 --batch-wait 200ms --max-attempts 5")]
pub(crate) struct Create {
    /// Name of the queue
    name: String,
    #[command(flatten)]
    settings: SettingArgs,
}

impl Create {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let request = ctx.client()?.put(super::path(&self.name)).doing(format!("create queue {}", self.name));
        ctx.out.brief(&QUEUE, &request.json(&self.settings.body()).value().await?)
    }
}
