//! `package get`

use clap::Args;
use serde_json::json;

use crate::cli::Ctx;
use crate::cli::common::{as_page, items};
use crate::cli::shapes::{ENTRY, PACKAGE};
use crate::client::segment;
use crate::fail::{Exit, Outcome, While};
use crate::output::Format;

/// Show a package, its tasks and its versions
///
/// With a version: the tasks it brings, their schemas and defaults, its lock. Without: the versions there are. `--to`
/// writes the archive to a file.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel package get reports
  tidewheel package get reports@1.4.0 --to reports-1.4.0.zip")]
pub(crate) struct Get {
    /// `name` or `name@version`
    name: String,
    /// Write the archive to a file
    #[arg(long, value_name = "FILE")]
    to: Option<String>,
}

impl Get {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let what = format!("read package {}", self.name);
        let next = "tidewheel package list";
        if !self.name.contains('@') && self.to.is_none() {
            let versions = client.get(format!("/packages/{}", segment(&self.name))).doing(what).next(next);
            return ctx.out.list(&PACKAGE, &as_page(versions.value().await?));
        }
        let (name, version) = super::name_version(&self.name, None)?;
        let path = super::path(&name, &version);
        if let Some(file) = &self.to {
            let bytes = client.get(format!("{path}/content")).doing(what).next(next).bytes().await?;
            std::fs::write(file, &bytes).doing(Exit::Usage, || format!("cannot write {file}"))?;
            ctx.out.note(&format!("{} written to {file}", crate::text::bytes(bytes.len() as f64)));
            return Ok(());
        }
        let mut package = client.get(path).doing(what).next(next).value().await?;
        if !matches!(ctx.out.format, Format::Table | Format::Wide) || ctx.out.jq.is_some() {
            return ctx.out.value(&package);
        }
        // The tasks are a table of their own below the fields.
        let entries = json!({ "items": package["entries"].take() });
        ctx.out.one(&PACKAGE, &package)?;
        if items(&entries).is_empty() { Ok(()) } else { ctx.out.list(&ENTRY, &entries) }
    }
}
