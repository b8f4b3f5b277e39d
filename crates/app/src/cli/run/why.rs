//! `run why`

use clap::Args;

use crate::cli::Ctx;
use crate::cli::common::{field, items};
use crate::cli::shapes::RUN_REASON;
use crate::fail::Outcome;
use crate::text::one_line;

/// Say what a run waits for
///
/// Computed when it is asked for: the tasks and why they are not running, runs, times, events, with the entries of the journal. For an
/// ended run it says how it ended.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run why run_01jd8z5r7m0000000000000000
  tidewheel run why run_01jd8z5r7m0000000000000000 -o json --jq '.reasons[].key'")]
pub(crate) struct Why {
    /// Id of the run
    id: String,
}

impl Why {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let request = client.get(format!("{}/why", super::path(&self.id))).doing(format!("explain {}", self.id));
        let mut why = request.next("tidewheel run list").value().await?;
        if !ctx.out.is_table() {
            return ctx.out.value(&why);
        }
        ctx.out.write_line(&one_line(field(&why, "summary")))?;
        let page = serde_json::json!({ "items": why["reasons"].take() });
        let named = items(&page).iter().any(|reason| !field(reason, "key").is_empty());
        if items(&page).len() > 1 || named {
            ctx.out.list(&RUN_REASON, &page)?;
        }
        if why.get("more").is_some() {
            ctx.out.note("there are more");
        }
        Ok(())
    }
}
