//! `task watch`

use clap::Args;

use crate::cli::Ctx;
use crate::cli::common::{follow_changes, is_terminal, task_outcome};
use crate::cli::shapes::{CHANGE, TASK};
use crate::fail::Outcome;

/// Follow a task to its end
///
/// Prints each change of state as it is committed. Ends with the task: exit 0 if it succeeded, 1 if it did not. A lost
/// connection is opened again without losing a change.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel task watch task_01jd8z5r7m0000000000000000
  tidewheel task watch task_01jd8z5r7m0000000000000000 -o jsonl")]
pub(crate) struct Watch {
    /// Id of the task
    id: String,
}

impl Watch {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let path = super::path(&self.id);
        let what = format!("follow task {}", self.id);
        let events = client.get(format!("{path}/events")).doing(what.clone()).next("tidewheel task list");
        follow_changes(ctx, &CHANGE, events, ("state", "attempt"), is_terminal).await?;
        let task = client.get(&path).doing(what).value().await?;
        if ctx.out.is_for_people() {
            ctx.out.one(&TASK, &task)?;
        }
        task_outcome(&task)
    }
}
