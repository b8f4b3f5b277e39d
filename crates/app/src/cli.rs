//! The command line: one file per subcommand below, and here what they share.

mod common;
mod complete;
pub(crate) mod shapes;

mod agent;
mod api;
mod artifact;
mod backup;
mod bench;
mod bulk;
mod completions;
mod config;
mod deploy;
mod dev;
mod docs;
mod doctor;
mod exec;
mod init;
mod login;
mod logout;
mod look;
mod man;
mod op;
mod package;
mod profiles;
mod queue;
mod routing;
mod run;
mod search;
mod server;
mod sim;
mod status;
mod task;
mod tenant;
mod test;
mod token;
mod top;
mod version;
mod whoami;
mod worker;
mod workflow;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::ask::Asker;
use crate::client::Client;
use crate::fail::{Exit, Failure, Outcome, While};
use crate::output::{Format, Printer, When, jq::Jq};
use crate::profile::{Connection, Profiles, Wishes, find_dev, resolve};
use crate::text::TimeStyle;

/// Durable tasks, workflows and automations in one binary.
///
/// Tidewheel takes tasks over REST, gRPC or this command line, keeps them durably, and runs them on agents: Python
/// packages, commands, integrations. `tidewheel dev` starts everything on this machine.
#[derive(Parser)]
#[command(name = "tidewheel", version, disable_help_subcommand = true, max_term_width = 110)]
#[command(after_help = "Examples:
  tidewheel dev
  tidewheel task submit greet --input '{\"name\": \"Ann\"}' --wait")]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// Options of every verb.
#[derive(Args, Clone)]
struct Globals {
    /// Form of the data: table on a terminal, jsonl in a pipe
    #[arg(short, long, global = true, value_enum, env = "TIDEWHEEL_OUTPUT", value_name = "FORM")]
    #[arg(help_heading = "Output", hide_env_values = true)]
    output: Option<Format>,
    /// Columns to show, as field names: `id,state,labels.env`
    #[arg(long, global = true, value_delimiter = ',', value_name = "FIELDS", help_heading = "Output")]
    columns: Option<Vec<String>>,
    /// Filter the JSON through a jq expression; of a list, each item
    #[arg(long, global = true, value_name = "EXPR", help_heading = "Output")]
    jq: Option<String>,
    /// How times are shown
    #[arg(long, global = true, value_enum, env = "TIDEWHEEL_TIME", value_name = "STYLE", help_heading = "Output")]
    #[arg(hide_short_help = true, hide_env_values = true)]
    time: Option<TimeStyle>,
    /// When to use colours; `NO_COLOR` is obeyed
    #[arg(long, global = true, value_enum, env = "TIDEWHEEL_COLOR", value_name = "WHEN", help_heading = "Output")]
    #[arg(hide_short_help = true, hide_env_values = true)]
    color: Option<When>,
    /// Print data alone: no progress, counts or hints
    #[arg(short, long, global = true, help_heading = "Output", hide_short_help = true)]
    quiet: bool,
    /// Show the causes of errors
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Output", hide_short_help = true)]
    verbose: u8,
    /// Answer every question with yes
    #[arg(short, long, global = true, help_heading = "Output", hide_short_help = true)]
    yes: bool,
    /// Never ask; fail and name the flag instead
    #[arg(long, global = true, env = "TIDEWHEEL_NO_INPUT", help_heading = "Output", hide_short_help = true)]
    #[arg(hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    no_input: bool,
    /// Address of the server
    #[arg(long, global = true, env = "TIDEWHEEL_URL", value_name = "URL", help_heading = "Connection")]
    #[arg(hide_short_help = true, hide_env_values = true)]
    url: Option<String>,
    /// Stored connection to use
    #[arg(short, long, global = true, env = "TIDEWHEEL_PROFILE", value_name = "NAME", help_heading = "Connection")]
    #[arg(hide_short_help = true, hide_env_values = true)]
    profile: Option<String>,
    /// Tenant to act in, for tokens with system scope
    #[arg(long, global = true, env = "TIDEWHEEL_TENANT", value_name = "NAME", help_heading = "Connection")]
    #[arg(hide_short_help = true, hide_env_values = true)]
    tenant: Option<String>,
    /// File that holds the token; the token itself goes into TIDEWHEEL_TOKEN, never on the command line
    #[arg(long, global = true, env = "TIDEWHEEL_TOKEN_FILE", value_name = "FILE", help_heading = "Connection")]
    #[arg(hide_short_help = true, hide_env_values = true)]
    token_file: Option<String>,
    /// Certificate authority (PEM) to check the server against
    #[arg(long, global = true, env = "TIDEWHEEL_CA_FILE", value_name = "FILE", help_heading = "Connection")]
    #[arg(hide_short_help = true, hide_env_values = true)]
    ca_file: Option<String>,
    /// How long the server may be silent before the command gives up: `30s` (the default) or `2m`
    #[arg(long, global = true, env = "TIDEWHEEL_SERVER_TIMEOUT", value_name = "TIME", help_heading = "Connection")]
    #[arg(hide_short_help = true, hide_env_values = true)]
    server_timeout: Option<String>,
}

/// The verbs, in the order of the help.
#[derive(Subcommand)]
enum Verb {
    Dev(dev::Dev),
    Init(init::Init),
    Exec(exec::Exec),
    Test(test::Test),
    Deploy(deploy::Deploy),
    Login(login::Login),
    Logout(logout::Logout),
    Whoami(whoami::Whoami),
    Profile(profiles::ProfileCommand),
    Docs(docs::Docs),
    Task(task::TaskCommand),
    Queue(queue::QueueCommand),
    Routing(routing::RoutingCommand),
    Workflow(workflow::WorkflowCommand),
    Run(run::RunCommand),
    Lint(workflow::ShortLint),
    Search(search::Search),
    Bulk(bulk::BulkCommand),
    Op(op::OpCommand),
    Server(server::Server),
    Agent(Box<agent::AgentCommand>),
    Worker(worker::WorkerCommand),
    Package(package::PackageCommand),
    Artifact(artifact::ArtifactCommand),
    Top(top::Top),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Bench(bench::Bench),
    Sim(sim::Sim),
    Tenant(tenant::TenantCommand),
    Token(token::TokenCommand),
    Backup(backup::BackupCommand),
    Api(api::Api),
    Config(config::ConfigCommand),
    Completions(completions::Completions),
    Man(man::Man),
    Version(version::Version),
}

/// The groups of the help.
pub(crate) const GROUPS: &[(&str, &[&str])] = &[
    ("Start", &["dev", "init", "exec", "test", "deploy", "login", "logout", "whoami", "profile", "docs"]),
    ("Work", &["task", "workflow", "run", "queue", "routing", "search", "bulk", "op", "lint"]),
    ("Operate", &["server", "agent", "worker", "package", "artifact", "top", "status", "doctor", "bench", "sim"]),
    ("Admin", &["tenant", "token", "backup", "config", "api", "completions", "man", "version"]),
];

/// The whole command tree, with its help arranged in groups.
pub fn command() -> clap::Command {
    let root = Cli::command();
    let mut text = String::new();
    for (title, names) in GROUPS {
        text.push_str(&format!("{title}:\n"));
        for name in *names {
            if let Some(verb) = root.find_subcommand(name) {
                let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
                text.push_str(&format!("  {name:<12} {about}\n"));
            }
        }
        text.push('\n');
    }
    root.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{text}Options:\n{{options}}{{after-help}}"
    ))
    .mut_subcommands(|verb| verb.help_expected(false))
}

/// What a verb is given.
pub(crate) struct Ctx {
    /// Where data goes.
    pub(crate) out: Printer,
    /// Who answers questions.
    pub(crate) ask: Asker,
    wishes: Wishes,
}

impl Ctx {
    /// The server this call is for.
    pub(crate) fn connection(&self) -> Outcome<Connection> {
        self.connection_to(None)
    }

    /// The same with an address that goes before all others.
    pub(crate) fn connection_to(&self, url: Option<&str>) -> Outcome<Connection> {
        let mut wishes = self.wishes.clone();
        if let Some(url) = url {
            wishes.url = Some(url.to_owned());
        }
        let dev = std::env::current_dir().ok().and_then(|folder| find_dev(&folder));
        resolve(&wishes, &Profiles::load()?, dev.as_ref())
    }

    /// A client for it.
    pub(crate) fn client(&self) -> Outcome<Client> {
        Client::new(&self.connection()?)
    }

    /// What flags and environment said of the connection.
    pub(crate) fn wishes(&self) -> &Wishes {
        &self.wishes
    }
}

/// Parses the command line, runs the verb, reports how it ended.
pub(crate) fn main() -> ExitCode {
    complete::answer_shell();
    let args: Vec<_> = std::env::args_os().collect();
    let json_errors = wants_json(&args);
    let parsed = command().try_get_matches_from(&args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error, json_errors),
    };
    let verbose = cli.globals.verbose > 0;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if json_errors {
                crate::output::say(&crate::output::compact(&failure.json()));
            } else {
                crate::output::say(&failure.text(verbose));
            }
            ExitCode::from(failure.exit() as u8)
        }
    }
}

/// Whether errors are wanted as JSON: needed before the command line is known to be right.
fn wants_json(args: &[std::ffi::OsString]) -> bool {
    let is_json = |text: &str| matches!(text, "json" | "jsonl");
    let mut before = "";
    for arg in args.iter().filter_map(|arg| arg.to_str()) {
        if arg == "--" {
            break;
        }
        let value = if matches!(before, "-o" | "--output") {
            arg
        } else {
            arg.strip_prefix("--output=").or_else(|| arg.strip_prefix("-o")).unwrap_or_default()
        };
        if is_json(value.trim_start_matches('=')) {
            return true;
        }
        before = arg;
    }
    std::env::var("TIDEWHEEL_OUTPUT").is_ok_and(|text| is_json(&text))
}

fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        let text = error.to_string();
        let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: ")).unwrap_or_default();
        let failure = Failure::usage(what, tip).next("add --help");
        crate::output::say(&crate::output::compact(&failure.json()));
    } else {
        // A reader that went away is no reason for another error.
        let _ = error.print();
    }
    ExitCode::from(error.exit_code() as u8)
}

fn context(globals: &Globals) -> Outcome<Ctx> {
    let terminal = std::io::stdout().is_terminal();
    let colour = match globals.color.unwrap_or(When::Auto) {
        When::Always => true,
        When::Never => false,
        When::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    };
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let width = columns.unwrap_or_else(|| console::Term::stdout().size().1).max(40);
    let out = Printer {
        format: globals.output.unwrap_or(if terminal { Format::Table } else { Format::Jsonl }),
        asked: globals.output.is_some(),
        columns: globals.columns.clone(),
        jq: globals.jq.as_deref().map(Jq::compile).transpose()?,
        time: globals.time.unwrap_or(TimeStyle::Relative),
        colour,
        terminal,
        width,
        quiet: globals.quiet,
    };
    let wishes = Wishes {
        url: globals.url.clone(),
        token_file: globals.token_file.clone(),
        token: std::env::var("TIDEWHEEL_TOKEN").ok(),
        tenant: globals.tenant.clone(),
        profile: globals.profile.clone(),
        ca_file: globals.ca_file.clone(),
        timeout: globals.server_timeout.clone(),
    };
    let ask = Asker { yes: globals.yes, no_input: globals.no_input };
    Ok(Ctx { out, ask, wishes })
}

fn run(cli: Cli) -> Outcome {
    let ctx = context(&cli.globals)?;
    match cli.verb {
        Verb::Dev(verb) => verb.run(&ctx),
        Verb::Server(verb) => verb.run(&ctx),
        Verb::Agent(verb) => verb.run(&ctx),
        Verb::Bench(verb) => verb.run(&ctx),
        Verb::Sim(verb) => verb.run(&ctx),
        Verb::Config(verb) => verb.run(&ctx),
        Verb::Completions(verb) => verb.run(&ctx),
        Verb::Man(verb) => verb.run(&ctx),
        Verb::Docs(verb) => verb.run(&ctx),
        Verb::Init(verb) => verb.run(&ctx),
        Verb::Exec(verb) => verb.run(&ctx),
        Verb::Test(verb) => verb.run(&ctx),
        Verb::Doctor(verb) => verb.run(&ctx),
        Verb::Workflow(verb) if verb.is_local() => verb.run_here(&ctx),
        Verb::Lint(verb) => verb.run(&ctx),
        verb => client_verb(verb, &ctx),
    }
}

/// Verbs that talk to a server: one thread is enough, and starts in well under a millisecond.
fn client_verb(verb: Verb, ctx: &Ctx) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(Exit::Failed, || "cannot start".to_owned())?;
    runtime.block_on(async {
        tokio::select! {
            outcome = Box::pin(dispatch(verb, ctx)) => outcome,
            _ = tokio::signal::ctrl_c() => {
                Err(Failure::new(Exit::Interrupted, "interrupted", "what the server accepted goes on there"))
            }
        }
    })
}

async fn dispatch(verb: Verb, ctx: &Ctx) -> Outcome {
    match verb {
        Verb::Deploy(verb) => verb.run(ctx).await,
        Verb::Login(verb) => verb.run(ctx).await,
        Verb::Logout(verb) => verb.run(ctx),
        Verb::Whoami(verb) => verb.run(ctx).await,
        Verb::Profile(verb) => verb.run(ctx),
        Verb::Task(verb) => verb.run(ctx).await,
        Verb::Queue(verb) => verb.run(ctx).await,
        Verb::Routing(verb) => verb.run(ctx).await,
        Verb::Search(verb) => verb.run(ctx).await,
        Verb::Bulk(verb) => verb.run(ctx).await,
        Verb::Op(verb) => verb.run(ctx).await,
        Verb::Workflow(verb) => verb.run(ctx).await,
        Verb::Run(verb) => verb.run(ctx).await,
        Verb::Worker(verb) => verb.run(ctx).await,
        Verb::Package(verb) => verb.run(ctx).await,
        Verb::Artifact(verb) => verb.run(ctx).await,
        Verb::Top(verb) => verb.run(ctx).await,
        Verb::Status(verb) => verb.run(ctx).await,
        Verb::Tenant(verb) => verb.run(ctx).await,
        Verb::Token(verb) => verb.run(ctx).await,
        Verb::Version(verb) => verb.run(ctx).await,
        Verb::Api(verb) => verb.run(ctx).await,
        Verb::Backup(verb) => verb.run(ctx).await,
        // Run before, without a server.
        Verb::Dev(_)
        | Verb::Server(_)
        | Verb::Agent(_)
        | Verb::Bench(_)
        | Verb::Sim(_)
        | Verb::Config(_)
        | Verb::Completions(_)
        | Verb::Man(_)
        | Verb::Docs(_)
        | Verb::Init(_)
        | Verb::Exec(_)
        | Verb::Test(_)
        | Verb::Doctor(_)
        | Verb::Lint(_) => Ok(()),
    }
}

/// Whether a path names something that is there; for messages that would otherwise blame the wrong thing.
pub(crate) fn exists(path: &str) -> bool {
    Path::new(path).exists()
}
