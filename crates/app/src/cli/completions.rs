//! `tidewheel completions`

use clap::Args;
use clap_complete::Shell;
use clap_complete::env::Shells;

use super::Ctx;
use crate::fail::{Exit, Failure, Outcome, While};

/// Print the completion script of a shell
///
/// Put the output where the shell looks for completions, or evaluate it in the shell's start file. With `--live` the
/// script asks this program at each key, which proposes queues, workers, packages, profiles and recent tasks too; a
/// server that does not answer within 300 ms is not waited for.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel completions bash > ~/.local/share/bash-completion/completions/tidewheel
  tidewheel completions zsh --live")]
pub(crate) struct Completions {
    /// Shell to write for
    shell: Shell,
    /// Propose live names and ids
    #[arg(long)]
    live: bool,
}

impl Completions {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let mut text = Vec::new();
        if self.live {
            let shells = Shells::builtins();
            let completer = shells.completer(&self.shell.to_string()).ok_or_else(|| {
                Failure::usage("cannot write this script", format!("{} cannot ask at each key", self.shell))
            })?;
            let written = completer.write_registration(
                super::complete::VARIABLE,
                "tidewheel",
                "tidewheel",
                "tidewheel",
                &mut text,
            );
            written.doing(Exit::Failed, || "cannot write the script".to_owned())?;
            return ctx.out.write_bytes(&text);
        }
        clap_complete::generate(self.shell, &mut super::command(), "tidewheel", &mut text);
        ctx.out.write_bytes(&text)
    }
}
