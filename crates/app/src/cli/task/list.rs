//! `task list`

use clap::Args;

use crate::cli::Ctx;
use crate::cli::common::{self, ListArgs};
use crate::cli::shapes::TASK;
use crate::fail::Outcome;
use crate::output::{Col, Kind, Shape};

/// List tasks, newest first
///
/// Shows the newest tasks that a filter finds. The filter grammar is the same in the CLI, the REST interface and the
/// dashboard: `state:failed,dead queue:pdf label.env:prod after:2h attempts:>3 -type:noop "time out"`.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:
  tidewheel task list --filter 'state:failed after:2h'
  tidewheel task list --all --filter queue:pdf -o csv --columns id,state,type")]
pub(crate) struct List {
    #[command(flatten)]
    list: ListArgs,
    /// Count by state instead of listing
    #[arg(long, conflicts_with_all = ["all", "cursor", "watch", "sort", "filter"])]
    counts: bool,
}

const COUNTS: Shape = Shape {
    plural: "counts",
    id: "counts",
    cols: &[
        Col::new("QUEUED", "counts.queued", Kind::Count),
        Col::new("SCHEDULED", "counts.scheduled", Kind::Count),
        Col::new("RUNNING", "counts.running", Kind::Count),
        Col::new("SUCCEEDED", "counts.succeeded", Kind::Count),
        Col::new("FAILED", "counts.failed", Kind::Count),
        Col::new("DEAD", "counts.dead", Kind::Count),
        Col::new("CANCELLED", "counts.cancelled", Kind::Count),
        Col::new("EXPIRED", "counts.expired", Kind::Count),
    ],
};

impl List {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        if self.counts {
            let counts = client.get("/tasks/counts").doing("count the tasks").value().await?;
            return ctx.out.brief(&COUNTS, &counts);
        }
        common::list(ctx, &TASK, &self.list, || client.get("/tasks").doing("list the tasks")).await
    }
}
