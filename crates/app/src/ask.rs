//! Questions. They are put on a terminal only; elsewhere the verb fails and names the flag that answers.

use std::io::{BufRead, IsTerminal, Write};

use crate::fail::{Exit, Failure, Outcome, While};
use crate::profile::Secret;

/// Whether a person can be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// `--yes`
    pub(crate) yes: bool,
    /// `--no-input`
    pub(crate) no_input: bool,
}

impl Asker {
    fn can_ask(self) -> bool {
        !self.no_input && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Goes on only with a yes. `what` is a full sentence that names the count.
    pub(crate) fn confirm(self, what: &str) -> Outcome {
        if self.yes {
            return Ok(());
        }
        if !self.can_ask() {
            return Err(Failure::usage("not done without a yes", what).next("repeat the command with --yes"));
        }
        eprint!("{what} Go on? [y/N] ");
        let _ = std::io::stderr().flush();
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).doing(Exit::Usage, || "cannot read the answer".to_owned())?;
        if matches!(line.trim().to_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(Failure::new(Exit::Failed, "not done", "the answer was not yes"))
    }

    /// Asks for a line; without a terminal the call has to bring `flag`.
    pub(crate) fn line(self, prompt: &str, default: &str, flag: &str) -> Outcome<String> {
        if !self.can_ask() {
            return Err(Failure::usage(
                format!("{} is missing", prompt.to_lowercase()),
                "there is no terminal to ask on",
            )
            .next(format!("give {flag}")));
        }
        let shown = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        eprint!("{prompt}{shown}: ");
        let _ = std::io::stderr().flush();
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).doing(Exit::Usage, || "cannot read the answer".to_owned())?;
        let answer = line.trim();
        Ok(if answer.is_empty() { default } else { answer }.to_owned())
    }

    /// Asks for a secret without showing it.
    pub(crate) fn secret(self, prompt: &str, flag: &str) -> Outcome<Secret> {
        if !self.can_ask() {
            return Err(Failure::usage(
                format!("{} is missing", prompt.to_lowercase()),
                "there is no terminal to ask on",
            )
            .next(format!("give {flag}")));
        }
        eprint!("{prompt}: ");
        let _ = std::io::stderr().flush();
        let text =
            console::Term::stderr().read_secure_line().doing(Exit::Usage, || "cannot read the answer".to_owned())?;
        Ok(Secret::new(text.trim()))
    }
}
