//! The `tidewheel` program: verbs, configuration and wiring. It is the only place that knows every other room; it holds
//! no rule of scheduling, storage or execution itself.

mod ask;
mod cli;
mod client;
mod config;
mod fail;
mod files;
mod output;
mod pages;
mod profile;
mod progress;
mod reference;
mod text;
mod units;
mod wire;

use std::process::ExitCode;

pub use cli::command;
pub use reference::{configuration_markdown, markdown};
pub use text::shell_words;

/// Runs the program.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os();
    // Scripts ask for the version often: it is answered before anything is built.
    if let (Some(flag), None) = (args.nth(1), args.next())
        && (flag == "--version" || flag == "-V")
    {
        println!("tidewheel {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    // Before any TLS user starts: two libraries would otherwise each choose a provider of their own. A second install
    // only says that there is one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::main()
}
