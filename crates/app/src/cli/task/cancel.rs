//! `task cancel`

use clap::Args;
use serde_json::json;

use crate::cli::Ctx;
use crate::cli::common::{each, ids};
use crate::cli::shapes::TASK;
use crate::fail::Outcome;

/// Cancel tasks
///
/// A waiting task is cancelled at once. A running one is told to stop, and killed with its processes after the grace
/// time. To cancel everything that a filter finds, use `tidewheel bulk cancel`.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel task cancel task_01jd8z5r7m0000000000000000 --reason 'wrong input'
  tidewheel task list --filter key:inv-77 -o name | tidewheel task cancel -")]
pub(crate) struct Cancel {
    /// Ids of the tasks, or `-` to read them from standard input
    #[arg(required = true, num_args = 1..)]
    ids: Vec<String>,
    /// Shown in the task's error and in the audit
    #[arg(long)]
    reason: Option<String>,
}

impl Cancel {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let body = match &self.reason {
            Some(reason) => json!({ "reason": reason }),
            None => json!({}),
        };
        each(ctx, &TASK, ids(&self.ids)?, |id| {
            let request = client.post(format!("{}:cancel", super::path(&id))).doing(format!("cancel {id}")).json(&body);
            request.next(format!("tidewheel task get {id}")).value()
        })
        .await
    }
}
