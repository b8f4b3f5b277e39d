//! `task why`

use clap::Args;

use crate::cli::Ctx;
use crate::cli::common::{field, items};
use crate::cli::shapes::REASON;
use crate::fail::Outcome;

/// Say why a task is not running
///
/// Computed when it is asked for: a paused queue, a limit that is reached, no worker with a needed label, an earlier
/// task of the same key, a time that has not come. For an ended task it says how it ended.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel task why task_01jd8z5r7m0000000000000000
  tidewheel task why task_01jd8z5r7m0000000000000000 -o json --jq '.reasons[].code'")]
pub(crate) struct Why {
    /// Id of the task
    id: String,
}

impl Why {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let request = client.get(format!("{}/why", super::path(&self.id))).doing(format!("explain {}", self.id));
        let mut why = request.next("tidewheel task list").value().await?;
        if !ctx.out.is_table() {
            return ctx.out.value(&why);
        }
        ctx.out.write_line(&crate::text::one_line(field(&why, "summary")))?;
        let page = serde_json::json!({ "items": why["reasons"].take() });
        if items(&page).len() > 1 {
            ctx.out.list(&REASON, &page)?;
        }
        Ok(())
    }
}
