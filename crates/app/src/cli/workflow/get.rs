//! `workflow get`

use clap::Args;

use super::WorkflowName;
use crate::cli::Ctx;
use crate::cli::shapes::WORKFLOW;
use crate::fail::Outcome;

/// Show a deployed workflow
///
/// The latest version, if none is named. With `--document` its document as JSON, with `--schema` what its input and output have
/// to be, with `--graph` its statements as text for Mermaid.
#[derive(Args)]
#[command(visible_alias = "show")]
#[command(after_help = "Examples:
  tidewheel workflow get shop/order
  tidewheel workflow get shop/order:1.2.0 --document -o yaml
  tidewheel workflow get shop/order --graph")]
pub(crate) struct Get {
    /// NAMESPACE/NAME, or NAMESPACE/NAME:VERSION
    #[arg(value_name = "WORKFLOW")]
    workflow: WorkflowName,
    /// Print the document
    #[arg(long, conflicts_with_all = ["schema", "graph"])]
    document: bool,
    /// Print the JSON Schemas of input and output
    #[arg(long, conflicts_with = "graph")]
    schema: bool,
    /// Print the graph
    #[arg(long)]
    graph: bool,
}

impl Get {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let path = self.workflow.version_path();
        let read = |path: String| {
            client.get(path).doing(format!("read workflow {}", self.workflow.text())).next("tidewheel workflow list")
        };
        if self.document {
            return ctx.out.value(&read(format!("{path}/document")).value().await?);
        }
        if self.schema {
            return ctx.out.value(&read(format!("{path}/schema")).value().await?);
        }
        if self.graph && ctx.out.is_text() {
            let answer = read(format!("{path}/graph")).query("format", "mermaid").send().await?;
            return ctx.out.write(&answer.text().await.unwrap_or_default());
        }
        if self.graph {
            return ctx.out.value(&read(format!("{path}/graph")).value().await?);
        }
        ctx.out.one(&WORKFLOW, &read(path).value().await?)
    }
}
