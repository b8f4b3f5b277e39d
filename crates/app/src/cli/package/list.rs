//! `package list`

use clap::Args;

use crate::cli::Ctx;
use crate::cli::common::{self, ShortArgs};
use crate::cli::shapes::PACKAGE;
use crate::fail::Outcome;

/// List package versions, newest first
///
/// All versions of all packages, or of one, with state, size and number of tasks.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:\n  tidewheel package list\n  tidewheel package list reports -o wide")]
pub(crate) struct List {
    /// Only versions of this package
    name: Option<String>,
    #[command(flatten)]
    list: ShortArgs,
}

impl List {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let make = || client.get("/packages").doing("list the packages").maybe("name", self.name.as_deref());
        common::short_list(ctx, &PACKAGE, &self.list, make).await
    }
}
