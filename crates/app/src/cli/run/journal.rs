//! `run journal`

use clap::Args;

use crate::cli::Ctx;
use crate::cli::common::{self, ListArgs};
use crate::cli::shapes::JOURNAL;
use crate::fail::Outcome;

/// Show what a run has done, in order
///
/// One entry for each statement that was begun: its key, when it began and ended, and in JSON what it was given and gave. The
/// key is what `reset` and `fork` go back to.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run journal run_01jd8z5r7m0000000000000000
  tidewheel run journal run_01jd8z5r7m0000000000000000 --all -o jsonl --jq 'select(.status == \"failed\")'")]
pub(crate) struct Journal {
    /// Id of the run
    id: String,
    /// Number of entries
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Go on where an earlier page ended
    #[arg(long, value_name = "CURSOR", conflicts_with = "all")]
    cursor: Option<String>,
    /// Everything, page by page
    #[arg(long)]
    all: bool,
}

impl Journal {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let Journal { id, limit, cursor, all } = self;
        let list = ListArgs { filter: None, sort: None, limit, cursor, all, watch: false };
        let make = || super::subject(&id).get(&client, "/journal", "read the journal of");
        common::list(ctx, &JOURNAL, &list, make).await
    }
}
