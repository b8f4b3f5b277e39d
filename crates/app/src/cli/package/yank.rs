//! `package yank`

use clap::Args;
use serde_json::json;

use crate::cli::Ctx;
use crate::cli::shapes::PACKAGE;
use crate::fail::Outcome;

/// Take a version out of use
///
/// New tasks no longer get it; tasks that were submitted with it still run, because versions are immutable and stay
/// stored. The latest version that is not yanked serves the types again. Asks first.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel package yank reports@1.4.1
  tidewheel package yank reports 1.4.1 --yes")]
pub(crate) struct Yank {
    /// `name@version`, or the name
    name: String,
    /// The version
    version: Option<String>,
}

impl Yank {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let (name, version) = super::name_version(&self.name, self.version.as_deref())?;
        ctx.ask.confirm(&format!("1 version will be taken out of use: {name} {version}."))?;
        let request = ctx.client()?.post(format!("{}:yank", super::path(&name, &version)));
        let request = request.doing(format!("yank {name} {version}")).next("tidewheel package list").json(&json!({}));
        ctx.out.brief(&PACKAGE, &request.value().await?)
    }
}
