//! `task get`

use clap::Args;

use crate::cli::Ctx;
use crate::cli::common::{Wait, WaitArg, wait_task};
use crate::cli::shapes::TASK;
use crate::fail::Outcome;

/// Show a task with its input and result
///
/// Shows everything that is recorded of a task: state, times, what was asked for on submit (time limits, retry policy,
/// keys, needs, package), the last error, input and result. What was not asked for is as its queue says. With `--wait` it
/// first waits for the task's end.
#[derive(Args)]
#[command(visible_alias = "show")]
#[command(after_help = "Examples:
  tidewheel task get task_01jd8z5r7m0000000000000000
  tidewheel task get task_01jd8z5r7m0000000000000000 -o json --jq .error.message")]
pub(crate) struct Get {
    /// Id of the task
    id: String,
    #[command(flatten)]
    wait: WaitArg,
}

impl Get {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let wait = self.wait.get()?;
        let task = match wait {
            Wait::No => super::subject(&self.id).get(&client, "", "read task").value().await?,
            wait => wait_task(&client, &self.id, wait).await?,
        };
        ctx.out.one(&TASK, &task)
    }
}
