//! `task logs`

use clap::Args;
use serde_json::Value;

use crate::cli::Ctx;
use crate::cli::look::{LogArgs, print_line};
use crate::fail::Outcome;

/// Show what a task printed and logged
///
/// Lines of standard output, standard error and `ctx.log`, of all attempts in order. With `--follow` new lines appear
/// as they come, until the task has ended.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel task logs task_01jd8z5r7m0000000000000000 --follow
  tidewheel task logs task_01jd8z5r7m0000000000000000 --tail 100 --level warning")]
pub(crate) struct Logs {
    /// Id of the task
    id: String,
    #[command(flatten)]
    lines: LogArgs,
    /// Only this attempt
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

impl Logs {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let of = super::subject(&self.id);
        let make = |after: Option<&str>| self.lines.request(&client, &of, after).maybe("attempt", self.attempt);
        if !self.lines.follow {
            return self.lines.pages(ctx, make, None).await.map(drop);
        }
        let mut events = make(None).query("follow", true).events();
        while let Some(event) = events.next().await? {
            if let Ok(line) = serde_json::from_str::<Value>(&event.data)
                && line.get("text").is_some()
            {
                print_line(ctx, &line)?;
            }
        }
        Ok(())
    }
}
