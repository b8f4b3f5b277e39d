//! `package delete`

use clap::Args;
use serde_json::json;

use crate::cli::Ctx;
use crate::cli::shapes::PACKAGE;
use crate::fail::Outcome;

/// Delete a version for good
///
/// The version is gone and its content with it, unless something else still names it. The latest version that is left serves the
/// types again. A version that is needed is kept, and the command fails and says by what: a task or a run that has not ended, also
/// one that moved on and may have to undo something with it, or a workflow that calls it and is deployed. `tidewheel package yank`
/// takes it out of use meanwhile. Asks first.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel package delete reports@1.4.1
  tidewheel package delete reports 1.4.1 --yes")]
pub(crate) struct Delete {
    /// `name@version`, or the name
    name: String,
    /// The version
    version: Option<String>,
}

impl Delete {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let (name, version) = super::name_version(&self.name, self.version.as_deref())?;
        ctx.ask.confirm(&format!("1 version will be deleted for good: {name} {version}."))?;
        let request = ctx.client()?.delete(super::path(&name, &version));
        request.long().doing(format!("delete {name} {version}")).next("tidewheel package list").send().await?;
        ctx.out.brief(&PACKAGE, &json!({"name": name, "version": version, "state": "deleted"}))
    }
}
