//! `package analyse`

use clap::Args;

use crate::cli::Ctx;
use crate::fail::Outcome;

/// Show what the server's check of a version found
///
/// Kind of archive, number of members, packed and unpacked size, and findings. The check ran when the version was
/// uploaded.
#[derive(Args)]
#[command(visible_alias = "analyze")]
#[command(after_help = "Examples:
  tidewheel package analyse reports@1.4.0
  tidewheel package analyse reports 1.4.0 -o json --jq .unpacked_bytes")]
pub(crate) struct Analyse {
    /// `name@version`, or the name
    name: String,
    /// The version
    version: Option<String>,
}

impl Analyse {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let (name, version) = super::name_version(&self.name, self.version.as_deref())?;
        let request = ctx.client()?.get(format!("{}/analysis", super::path(&name, &version)));
        let request = request.doing(format!("read the analysis of {name} {version}")).next("tidewheel package list");
        ctx.out.one(&crate::cli::shapes::PACKAGE, &request.value().await?)
    }
}
