//! `run watch`

use clap::Args;
use serde_json::Value;

use crate::cli::Ctx;
use crate::cli::common::field;
use crate::cli::shapes::{RUN, RUN_CHANGE};
use crate::cli::workflow::run_outcome;
use crate::fail::Outcome;

/// Follow a run to its end
///
/// Prints each change as it is committed. Ends with the run: exit 0 if it completed, 1 if it did not. A lost connection is
/// opened again.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run watch run_01jd8z5r7m0000000000000000
  tidewheel run watch run_01jd8z5r7m0000000000000000 -o jsonl")]
pub(crate) struct Watch {
    /// Id of the run
    id: String,
}

impl Watch {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let path = super::path(&self.id);
        let what = format!("follow run {}", self.id);
        let mut events = client.get(format!("{path}/events")).doing(what.clone()).next("tidewheel run list").events();
        let mut feed = ctx.out.feed(&RUN_CHANGE);
        let mut last = String::new();
        while let Some(event) = events.next().await? {
            let Ok(change) = serde_json::from_str::<Value>(&event.data) else { continue };
            let phase = field(&change, "phase").to_owned();
            let seen = format!("{phase} {}", change.get("turn").unwrap_or(&Value::Null));
            // The stream repeats the current state when it is opened again.
            if !phase.is_empty() && seen != last {
                feed.push(&change)?;
                last = seen;
            }
            if matches!(phase.as_str(), "completed" | "faulted" | "cancelled") {
                break;
            }
        }
        let run = client.get(&path).doing(what).value().await?;
        if ctx.out.is_for_people() {
            ctx.out.one(&RUN, &run)?;
        }
        run_outcome(&run)
    }
}
