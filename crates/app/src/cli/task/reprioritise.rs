//! `task reprioritise`

use clap::Args;
use serde_json::json;
use tidewheel_proto::rest::Priority;

use super::submit::priority;
use crate::cli::Ctx;
use crate::cli::common::{each, ids};
use crate::cli::shapes::TASK;
use crate::fail::Outcome;

/// Change the priority of waiting tasks
///
/// A task that waits, in its queue, for its time or for its next attempt, gets its new place at once. One that runs or has
/// ended is refused with exit 4.
#[derive(Args)]
#[command(visible_alias = "reprioritize")]
#[command(after_help = "Examples:
  tidewheel task reprioritise task_01jd8z5r7m0000000000000000 --priority high
  tidewheel task list --filter 'queue:pdf state:queued' -o name | tidewheel task reprioritise - --priority 9")]
pub(crate) struct Reprioritise {
    /// Ids of the tasks, or `-` to read them from standard input
    #[arg(required = true, num_args = 1..)]
    ids: Vec<String>,
    /// 0 to 9, 9 first, or low, medium, high
    #[arg(long, value_parser = priority)]
    priority: Priority,
}

impl Reprioritise {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let body = json!({ "priority": self.priority });
        each(ctx, &TASK, ids(&self.ids)?, |id| {
            let request = client.post(format!("{}:reprioritise", super::path(&id))).doing(format!("reprioritise {id}"));
            request.json(&body).next(format!("tidewheel task get {id}")).value()
        })
        .await
    }
}
