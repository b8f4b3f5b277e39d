//! `run logs`

use clap::Args;
use serde_json::Value;

use crate::cli::Ctx;
use crate::cli::common::{as_page, field, items};
use crate::cli::task::print_line;
use crate::client::{Client, Request};
use crate::fail::Outcome;

/// How long one look at a run waits for its end when its lines are followed.
const LOOK: &str = "1s";

/// Show what the tasks of a run printed and logged
///
/// The lines of all tasks in the order in which they came, each behind the statement that its task is for. With `--follow` new
/// lines appear until the run has ended. Runs that this one started have logs of their own.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run logs run_01jd8z5r7m0000000000000000 --follow
  tidewheel run logs run_01jd8z5r7m0000000000000000 --tail 100 --level warning")]
pub(crate) struct Logs {
    /// Id of the run
    id: String,
    /// Go on with new lines until the run ends
    #[arg(long)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Only lines since then: a time, or so long ago (`10m`)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// At least this severe: debug, info, warning, error
    #[arg(long)]
    level: Option<String>,
}

impl Logs {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let mut after = None;
        loop {
            // Looked at first: lines that come before its end are read after this.
            let ended = !self.follow || self.has_ended(&client).await?;
            loop {
                let page = as_page(self.request(&client, after.as_deref()).value().await?);
                for line in items(&page) {
                    print_line(ctx, line, field(line, "statement"))?;
                }
                let next = page.get("next_cursor").and_then(Value::as_str);
                let Some(next) = next else { break };
                after = Some(next.to_owned());
                if items(&page).is_empty() || self.tail.is_some() {
                    break;
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn has_ended(&self, client: &Client) -> Outcome<bool> {
        let request = client.get(super::path(&self.id)).doing(format!("follow run {}", self.id)).query("wait", LOOK);
        let run = request.next("tidewheel run list").value().await?;
        Ok(matches!(field(&run, "phase"), "completed" | "faulted" | "cancelled"))
    }

    fn request(&self, client: &Client, after: Option<&str>) -> Request {
        client
            .get(format!("{}/logs", super::path(&self.id)))
            .doing(format!("read the logs of {}", self.id))
            .next("tidewheel run list")
            .maybe("tail", self.tail.filter(|_| after.is_none()))
            .maybe("since", self.since.as_deref())
            .maybe("level", self.level.as_deref())
            .maybe("after", after)
    }
}
