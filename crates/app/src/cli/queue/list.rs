//! `queue list`

use clap::Args;

use crate::cli::Ctx;
use crate::cli::common::{self, ShortArgs};
use crate::cli::shapes::QUEUE_STATS;
use crate::fail::Outcome;

/// List queues with their figures
///
/// Shows every queue of the tenant with its state, depth, age and rates. For the settings of one, use `tidewheel queue
/// get`.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:\n  tidewheel queue list --filter 'depth:>100'\n  tidewheel queue list -o name")]
pub(crate) struct List {
    /// Which ones: `state:paused`, `depth:>100`, `dead:>0`
    #[arg(long, short, value_name = "FILTER")]
    filter: Option<String>,
    #[command(flatten)]
    list: ShortArgs,
}

impl List {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        common::short_list(ctx, &QUEUE_STATS, &self.list, || {
            client.get("/queues").doing("list the queues").maybe("filter", self.filter.as_deref())
        })
        .await
    }
}
