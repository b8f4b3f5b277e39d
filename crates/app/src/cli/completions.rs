//! `tidewheel completions`

use clap::Args;
use clap_complete::Shell;

use super::Ctx;
use crate::fail::Outcome;

/// Print the completion script of a shell
///
/// Put the output where the shell looks for completions, or evaluate it in the shell's start file.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel completions bash > ~/.local/share/bash-completion/completions/tidewheel
  tidewheel completions zsh")]
pub(crate) struct Completions {
    /// Shell to write for
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "tidewheel", &mut text);
        ctx.out.write_bytes(&text)
    }
}
