//! `tidewheel man`

use std::path::Path;

use clap::Args;

use super::Ctx;
use crate::fail::{Exit, Failure, Outcome, While};

/// Print or write the man pages
///
/// Prints the page of a verb, or writes the pages of all verbs into a folder.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel man task submit | man -l -\n  tidewheel man --dir man1")]
pub(crate) struct Man {
    /// Verb whose page is wanted; the program's own if absent
    #[arg(num_args = 0.., conflicts_with = "dir")]
    verb: Vec<String>,
    /// Write all pages into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<String>,
}

impl Man {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let mut root = super::command();
        root.build();
        if let Some(dir) = &self.dir {
            std::fs::create_dir_all(dir).doing(Exit::Usage, || format!("cannot make the folder {dir}"))?;
            let count = write_all(&root, "tidewheel", Path::new(dir))?;
            ctx.out.note(&format!("{count} pages written to {dir}"));
            return Ok(());
        }
        let mut at = &root;
        for name in &self.verb {
            at = at.find_subcommand(name).ok_or_else(|| {
                let known = at.get_subcommands().map(clap::Command::get_name);
                let near = crate::text::did_you_mean(name, known);
                Failure::usage(
                    format!("no page for '{}'", self.verb.join(" ")),
                    format!("there is no verb '{name}'{near}"),
                )
            })?;
        }
        let name =
            std::iter::once("tidewheel").chain(self.verb.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
        ctx.out.write_bytes(&page(at, &name)?)
    }
}

fn page(command: &clap::Command, name: &str) -> Outcome<Vec<u8>> {
    let mut text = Vec::new();
    let man = clap_mangen::Man::new(command.clone().name(name.to_owned()).display_name(name.to_owned()));
    man.render(&mut text).doing(Exit::Failed, || "cannot write the page".to_owned())?;
    Ok(text)
}

fn write_all(command: &clap::Command, name: &str, dir: &Path) -> Outcome<usize> {
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page(command, name)?).doing(Exit::Failed, || format!("cannot write {}", path.display()))?;
    let mut count = 1;
    for verb in command.get_subcommands() {
        count += write_all(verb, &format!("{name}-{}", verb.get_name()), dir)?;
    }
    Ok(count)
}
