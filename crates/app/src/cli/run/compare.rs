//! `run compare`

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Ctx;
use crate::cli::common::{field, items};
use crate::cli::shapes::{COMPARED_ENTRY, COMPARED_RUN};
use crate::fail::Outcome;
use crate::output::compact;
use crate::text::one_line;

/// Characters of a value that is shown in a line.
const VALUE: usize = 400;

/// Compare two runs
///
/// The first entry of their journals that differs, their inputs and outputs, and how long each entry took in both. Entries are told by
/// their keys.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run compare run_01jd8z5r7m0000000000000000 run_01jd8z5r7m0000000000000001
  tidewheel run compare run_01jd8z5r7m0000000000000000 run_01jd8z5r7m0000000000000001 -o json --jq .first")]
pub(crate) struct Compare {
    /// Id of the first run
    a: String,
    /// Id of the second run
    b: String,
    /// Only the entries that differ
    #[arg(long)]
    differing: bool,
}

impl Compare {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let request = client.get(format!("{}/compare", super::path(&self.a))).query("with", &self.b);
        let request = request.doing(format!("compare {} with {}", self.a, self.b)).next("tidewheel run list");
        let found = request.value().await?;
        if !ctx.out.is_table() {
            return ctx.out.value(&found);
        }
        ctx.out.write_line(&one_line(field(&found, "summary")))?;
        if let Some(first) = found.get("first") {
            for (side, run) in [("a", &self.a), ("b", &self.b)] {
                let Some(entry) = first.get(side) else { continue };
                let shown = ["input", "output", "error"].into_iter().filter_map(|name| {
                    let text: String = compact(entry.get(name)?).chars().take(VALUE).collect();
                    Some(format!("{name} {}", one_line(&text)))
                });
                let shown = shown.collect::<Vec<_>>().join(", ");
                ctx.out.write_line(&format!("  {run}: {} {shown}", field(entry, "status")))?;
            }
        }
        let runs = json!({ "items": [found.get("a"), found.get("b")] });
        ctx.out.list(&COMPARED_RUN, &runs)?;
        let entries = found.get("entries").and_then(Value::as_array).cloned().unwrap_or_default();
        let entries: Vec<Value> =
            entries.into_iter().filter(|entry| !self.differing || entry.get("differs").is_some()).collect();
        let page = json!({ "items": entries });
        if !items(&page).is_empty() {
            ctx.out.list(&COMPARED_ENTRY, &page)?;
        }
        if found.get("more").is_some() {
            ctx.out.note("the journals are longer than what is compared or shown here");
        }
        Ok(())
    }
}
