//! `tidewheel agent`: runs packages on this machine for a server.

mod run;
mod status;

use clap::{Args, Subcommand};

use super::Ctx;
use crate::fail::Outcome;

/// Run an agent, which takes tasks from a server and runs them here
///
/// Connects to the server, registers itself with what this machine can do, and runs Python packages and commands in
/// processes of their own, within their limits. It only opens connections, never listens. SIGTERM lets what runs end
/// first. Address and token come from `--server` and `--token-file`, the environment, or the profile in use.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  tidewheel agent --server https://tidewheel.example --token-file agent.token --queue pdf --label zone=a
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
}

impl AgentCommand {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            Some(AgentVerb::Status(verb)) => verb.run(ctx),
            None => self.run.run(ctx),
        }
    }
}

/// Where an agent keeps packages, environments and its status.
pub(super) fn default_dir() -> std::path::PathBuf {
    let data = std::env::var_os("XDG_DATA_HOME").filter(|v| !v.is_empty()).map(std::path::PathBuf::from);
    let data = data.or_else(|| std::env::var_os("HOME").map(|h| std::path::PathBuf::from(h).join(".local/share")));
    data.unwrap_or_else(std::env::temp_dir).join("tidewheel/agent")
}
