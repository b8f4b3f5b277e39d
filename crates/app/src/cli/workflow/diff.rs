//! `workflow diff`

use clap::Args;
use serde_json::Value;

use super::WorkflowName;
use crate::cli::Ctx;
use crate::cli::common::field;
use crate::fail::Outcome;
use crate::output::compact;
use crate::text::one_line;

/// Characters of a value that is shown in a line.
const VALUE: usize = 200;

/// Show what two versions of a workflow have differently
///
/// Place by place; statements of a list are told by their names. Without a second version the first one is compared with the
/// latest.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel workflow diff shop/order:1.0.0 1.1.0
  tidewheel workflow diff shop/order:1.0.0 -o json --jq '.changes[].path'")]
pub(crate) struct Diff {
    /// NAMESPACE/NAME:VERSION
    #[arg(value_name = "WORKFLOW")]
    workflow: WorkflowName,
    /// The other version, with or without the name; the latest if absent
    #[arg(value_name = "VERSION")]
    to: Option<String>,
}

impl Diff {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        // The other one may be written as the first one is.
        let own = format!("{}/{}:", self.workflow.namespace, self.workflow.name);
        let to = self.to.as_deref().map(|to| to.strip_prefix(&own).unwrap_or(to));
        let request = client.get(format!("{}/diff", self.workflow.version_path())).maybe("to", to);
        let request = request.doing(format!("compare versions of {}", self.workflow.text()));
        let diff = request.next("tidewheel workflow list").value().await?;
        if !ctx.out.is_table() {
            return ctx.out.value(&diff);
        }
        let mut out = format!("--- {}\n+++ {}\n", field(&diff, "from"), field(&diff, "to"));
        let changes = diff.get("changes").and_then(Value::as_array);
        for change in changes.into_iter().flatten() {
            let value = |name: &str| {
                let text: String = change.get(name).map(compact).unwrap_or_default().chars().take(VALUE).collect();
                one_line(&text)
            };
            let path = one_line(field(change, "path"));
            out.push_str(&match field(change, "change") {
                "added" => format!("+ {path} {}\n", value("to")),
                "removed" => format!("- {path} {}\n", value("from")),
                "moved" => format!("> {path} stands elsewhere\n"),
                _ => format!("~ {path} {} -> {}\n", value("from"), value("to")),
            });
        }
        ctx.out.write(&out)?;
        if diff.get("same").and_then(Value::as_bool).unwrap_or(false) {
            ctx.out.note("they do the same");
        }
        Ok(())
    }
}
