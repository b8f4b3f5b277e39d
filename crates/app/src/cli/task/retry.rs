//! `task retry`

use clap::Args;
use serde_json::json;

use crate::cli::Ctx;
use crate::cli::common::{each, ids};
use crate::cli::shapes::TASK;
use crate::fail::Outcome;

/// Run ended tasks again
///
/// Puts failed, dead, cancelled or expired tasks back into their queue with a new allowance of attempts. The id stays,
/// and the earlier attempts stay in its history. To retry everything that a filter finds, use `tidewheel bulk retry`.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel task retry task_01jd8z5r7m0000000000000000
  tidewheel task list --filter 'state:failed error:TimeoutError' -o name | tidewheel task retry -")]
pub(crate) struct Retry {
    /// Ids of the tasks, or `-` to read them from standard input
    #[arg(required = true, num_args = 1..)]
    ids: Vec<String>,
}

impl Retry {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        each(ctx, &TASK, ids(&self.ids)?, |id| {
            let request = client.post(format!("{}:retry", super::path(&id))).doing(format!("retry {id}"));
            request.json(&json!({})).next(format!("tidewheel task get {id}")).value()
        })
        .await
    }
}
