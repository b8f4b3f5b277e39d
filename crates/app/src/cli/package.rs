//! `tidewheel package`: versions of automation code.

mod analyse;
mod build;
mod delete;
mod get;
mod list;
mod push;
mod rollout;
mod yank;

pub(crate) use build::{build, cache_dir, shown};
pub(crate) use push::{push, scratch};

use clap::{Args, Subcommand};

use super::Ctx;
use crate::client::segment;
use crate::fail::{Failure, Outcome};

/// Build, upload and inspect packages
///
/// A package is an immutable version of automation code: a folder with `pyproject.toml`, a wheel or an sdist, its tasks
/// with their schemas, and its locked dependencies. `tidewheel deploy` builds and uploads in one step.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:\n  tidewheel package build .\n  tidewheel package list")]
pub(crate) struct PackageCommand {
    #[command(subcommand)]
    verb: PackageVerb,
}

#[derive(Subcommand)]
enum PackageVerb {
    Build(build::Build),
    Push(push::Push),
    List(list::List),
    Get(get::Get),
    Yank(yank::Yank),
    Delete(delete::Delete),
    Analyse(analyse::Analyse),
    Prefetch(rollout::Prefetch),
    Rollout(rollout::Rollout),
}

impl PackageCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            PackageVerb::Build(verb) => verb.run(ctx).await,
            PackageVerb::Push(verb) => verb.run(ctx).await,
            PackageVerb::List(verb) => verb.run(ctx).await,
            PackageVerb::Get(verb) => verb.run(ctx).await,
            PackageVerb::Yank(verb) => verb.run(ctx).await,
            PackageVerb::Delete(verb) => verb.run(ctx).await,
            PackageVerb::Analyse(verb) => verb.run(ctx).await,
            PackageVerb::Prefetch(verb) => verb.run(ctx).await,
            PackageVerb::Rollout(verb) => verb.run(ctx).await,
        }
    }
}

/// The path of a version.
pub(crate) fn path(name: &str, version: &str) -> String {
    format!("/packages/{}/{}", segment(name), segment(version))
}

/// `name@version`, or `name` and `version` apart.
pub(crate) fn name_version(name: &str, version: Option<&str>) -> Outcome<(String, String)> {
    let (name, version) = match (name.split_once('@'), version) {
        (Some((name, version)), None) => (name, version),
        (None, Some(version)) => (name, version),
        _ => {
            return Err(Failure::usage(format!("which version of '{name}'?"), "a name and one version are needed")
                .next(format!("tidewheel package get {}", name.split('@').next().unwrap_or(name))));
        }
    };
    Ok((name.to_owned(), version.to_owned()))
}
