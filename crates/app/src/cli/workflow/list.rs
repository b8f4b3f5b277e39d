//! `workflow list`

use clap::Args;

use super::WorkflowName;
use crate::cli::Ctx;
use crate::cli::common::{self, ShortArgs};
use crate::cli::shapes::WORKFLOW;
use crate::fail::Outcome;

/// List deployed workflows, newest first
///
/// Every version is an item; `latest` tells which one a run gets that names none.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:
  tidewheel workflow list
  tidewheel workflow list shop/order
  tidewheel workflow list --namespace shop -o json")]
pub(crate) struct List {
    /// Only the versions of this one: NAMESPACE/NAME
    #[arg(value_name = "WORKFLOW")]
    workflow: Option<WorkflowName>,
    /// Only workflows of this namespace
    #[arg(long, conflicts_with = "workflow")]
    namespace: Option<String>,
    #[command(flatten)]
    list: ShortArgs,
}

impl List {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let make = || match &self.workflow {
            Some(workflow) => client.get(workflow.path()).doing("list the versions").next("tidewheel workflow list"),
            None => client.get("/workflows").doing("list the workflows").maybe("namespace", self.namespace.as_ref()),
        };
        common::short_list(ctx, &WORKFLOW, &self.list, make).await
    }
}
