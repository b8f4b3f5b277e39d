//! `tidewheel agent`: runs packages on this machine for a server.

mod enroll_token;
mod identity;
mod renew;
mod rotate_key;
mod run;
mod service;
mod status;
mod unit;

use clap::{Args, Subcommand};

use super::Ctx;
use crate::fail::{Exit, Outcome, While};

/// Run an agent, which takes tasks from a server and runs them here
///
/// Connects to the server, registers itself with what this machine can do, and runs Python packages and commands in
/// processes of their own, within their limits. It only opens connections, never listens. SIGTERM lets what runs end
/// first. With `--join TOKEN` it enrols itself once and keeps a credential of its own in its folder; without, address and
/// token come from `--server` and `--token-file`, the environment, or the profile in use.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  tidewheel agent --server https://tidewheel.example --token-file agent.token --queue pdf --label zone=a
  tidewheel agent --server https://tidewheel.example --join-file join.token --group berlin
  tidewheel agent --capacity 8 --isolated")]
pub(crate) struct AgentCommand {
    #[command(subcommand)]
    verb: Option<AgentVerb>,
    #[command(flatten)]
    run: run::Run,
}

#[derive(Subcommand)]
enum AgentVerb {
    Status(status::Status),
    EnrollToken(enroll_token::EnrollToken),
    RotateKey(rotate_key::RotateKey),
    InstallService(Box<service::InstallService>),
    UninstallService(service::UninstallService),
}

impl AgentCommand {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            Some(AgentVerb::Status(verb)) => verb.run(ctx),
            Some(AgentVerb::EnrollToken(verb)) => block_on(verb.run(ctx)),
            Some(AgentVerb::RotateKey(verb)) => block_on(verb.run(ctx)),
            Some(AgentVerb::InstallService(verb)) => block_on(verb.run(ctx)),
            Some(AgentVerb::UninstallService(verb)) => verb.run(ctx),
            None => self.run.run(ctx),
        }
    }
}

/// Runs a verb that talks to the server.
fn block_on(verb: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.doing(Exit::Failed, || "cannot start".to_owned())?.block_on(verb)
}

/// Where an agent keeps packages, environments and its status.
pub(super) fn default_dir() -> std::path::PathBuf {
    let data = std::env::var_os("XDG_DATA_HOME").filter(|v| !v.is_empty()).map(std::path::PathBuf::from);
    let data = data.or_else(|| std::env::var_os("HOME").map(|h| std::path::PathBuf::from(h).join(".local/share")));
    data.unwrap_or_else(std::env::temp_dir).join("tidewheel/agent")
}
