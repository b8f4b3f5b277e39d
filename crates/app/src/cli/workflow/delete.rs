//! `workflow delete`

use clap::Args;
use serde_json::json;

use super::WorkflowName;
use crate::cli::Ctx;
use crate::fail::{Failure, Outcome};

/// Delete versions of workflows
///
/// Refused while an open run follows the version. Runs that have ended stay readable.
#[derive(Args)]
#[command(visible_alias = "rm")]
#[command(after_help = "Examples:
  tidewheel workflow delete shop/order:1.0.0
  tidewheel workflow delete shop/order:1.0.0 shop/order:1.0.1 --yes")]
pub(crate) struct Delete {
    /// NAMESPACE/NAME:VERSION
    #[arg(required = true, value_name = "WORKFLOW")]
    workflows: Vec<WorkflowName>,
}

impl Delete {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        if let Some(open) = self.workflows.iter().find(|workflow| workflow.version.is_none()) {
            let why = "name the version that is to be deleted";
            return Err(Failure::usage(format!("cannot delete {}", open.text()), why)
                .next(format!("tidewheel workflow list {}", open.text())));
        }
        let names: Vec<String> = self.workflows.iter().map(WorkflowName::text).collect();
        ctx.ask.confirm(&format!("{} will be deleted.", names.join(", ")))?;
        let client = ctx.client()?;
        for workflow in &self.workflows {
            let request = client.delete(workflow.version_path()).doing(format!("delete {}", workflow.text()));
            request.next("tidewheel workflow list").value().await?;
            ctx.out.text_or(|| workflow.text(), &json!({ "deleted": workflow.text() }))?;
        }
        Ok(())
    }
}
