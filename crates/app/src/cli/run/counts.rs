//! `run counts`

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Ctx;
use crate::cli::shapes::RUN_COUNT;
use crate::fail::Outcome;

/// Count runs by phase
///
/// Counted in the indexes of the database when it is asked for; exact up to 100,000 runs of a phase.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run counts
  tidewheel run counts -o json --jq .counts.faulted")]
pub(crate) struct Counts {}

impl Counts {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let found = client.get("/runs/counts").doing("count the runs").value().await?;
        if !ctx.out.is_table() {
            return ctx.out.value(&found);
        }
        let at_least = |phase: &str| {
            let phases = found.get("at_least").and_then(Value::as_array);
            phases.is_some_and(|phases| phases.iter().any(|own| own == phase))
        };
        // In the order of a run's life, which a map of names does not have.
        let rows = super::select::PHASES.map(|phase| {
            let count = found.pointer(&format!("/counts/{phase}")).and_then(Value::as_u64).unwrap_or(0);
            let count = crate::text::count(count);
            json!({ "phase": phase, "count": if at_least(phase) { format!("{count} or more") } else { count } })
        });
        ctx.out.list(&RUN_COUNT, &json!({ "items": rows }))
    }
}
