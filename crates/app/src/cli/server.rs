//! `tidewheel server`

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use tidewheel_proto::rest::Reloaded;

use super::Ctx;
use crate::config::{Config, FlagValue, find, from_text};
use crate::fail::{Exit, Failure, Outcome, While};
use crate::wire::{Ask, Logging, Node, Signals, raise_file_limit};

/// Run a server
///
/// Takes its settings from a file (`--config`), the environment (TIDEWHEEL__SECTION__KEY) and flags; later ones win.
/// The first start writes an admin token to `admin-token` in the data folder. SIGTERM ends it after what runs has
/// ended, within `server.drainTimeout`; SIGHUP reads the configuration again. Exit 74 means that the disk did not keep
/// data.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel server --data-dir /var/lib/tidewheel --listen 0.0.0.0:8080
  tidewheel server --config tidewheel.yaml --set log.level=debug")]
pub(crate) struct Server {
    /// Configuration in YAML or TOML
    #[arg(long, value_name = "FILE", env = "TIDEWHEEL_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// What this process does, separated by commas: api, scheduler, executor, agents, notifier
    #[arg(long, value_name = "ROLES")]
    roles: Option<String>,
    /// Address to listen on
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Folder of database, logs, blobs and keys
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Certificate chain (PEM); with it the server speaks TLS only
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<String>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<String>,
    /// Run an agent in the same process
    #[arg(long)]
    with_agent: bool,
    /// Any other setting; may be given several times
    #[arg(long, value_name = "SETTING=VALUE", value_parser = super::common::pair)]
    set: Vec<(String, String)>,
}

impl Server {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let config = Config::load(self.config.as_deref(), self.flags())?;
        let logging = Logging::start(&config.text("log.level"), &config.text("log.format"))?;
        raise_file_limit();
        runtime(&config)?.block_on(serve(ctx, config, logging))
    }

    fn flags(&self) -> Vec<FlagValue> {
        let mut out = Vec::new();
        let mut add = |flag: &str, path: &str, value: Value| out.push((flag.to_owned(), path.to_owned(), value));
        let given = [
            ("--listen", "server.listen", &self.listen),
            ("--data-dir", "storage.dataDir", &self.data_dir),
            ("--tls-cert", "tls.certFile", &self.tls_cert),
            ("--tls-key", "tls.keyFile", &self.tls_key),
        ];
        for (flag, path, value) in given {
            if let Some(value) = value {
                add(flag, path, Value::String(value.clone()));
            }
        }
        if let Some(roles) = &self.roles {
            let roles = roles.split(',').map(|role| Value::String(role.trim().to_owned())).collect();
            add("--roles", "server.roles", Value::Array(roles));
        }
        if self.with_agent {
            add("--with-agent", "agent.enabled", Value::Bool(true));
        }
        for (path, text) in &self.set {
            let value = find(path).map_or_else(|| Value::String(text.clone()), |setting| from_text(setting, text));
            add("--set", path, value);
        }
        out
    }
}

/// The threads of a server.
pub(crate) fn runtime(config: &Config) -> Outcome<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Ok(threads @ 1..) = usize::try_from(config.count("server.workerThreads")) {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().doing(Exit::Failed, || "cannot start the server's threads".to_owned())
}

/// What a start that was broken off ends with.
pub(crate) fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted", "the server was not up yet")
}

async fn serve(ctx: &Ctx, mut config: Config, logging: Logging) -> Outcome {
    // Caught from the first moment: a signal during a long recovery ends the process as one later would.
    let mut signals = Signals::take()?;
    let mut node = tokio::select! {
        node = Box::pin(Node::start(&config)) => node?,
        () = signals.impatient() => return Err(interrupted()),
    };
    ctx.out.note(&format!("listening on {} (data in {})", node.url, node.data_dir.display()));
    loop {
        // Two waits of the node cannot stand in one select: each needs the whole of it.
        let step = {
            let (ended, asked) = node.events();
            tokio::select! {
                ask = signals.next() => Step::Signal(ask),
                failure = ended => return Err(failure),
                asked = asked => Step::Asked(asked),
            }
        };
        match step {
            Step::Signal(Ask::Reload) => drop(reload(&mut config, &node, &logging)),
            // Whoever asked may have gone.
            Step::Asked(asked) => drop(asked.send(reload(&mut config, &node, &logging))),
            Step::Signal(Ask::Stop | Ask::Interrupt) => break,
        }
    }
    let drain = config.duration("server.drainTimeout");
    tracing::info!(seconds = drain.as_secs(), "asked to end; draining");
    tokio::select! {
        () = Box::pin(node.stop(drain)) => Ok(()),
        () = signals.impatient() => Err(Failure::new(Exit::Interrupted, "ended at once", "asked a second time")),
    }
}

/// What a running server waits for.
enum Step {
    Signal(Ask),
    Asked(crate::wire::ReloadAsked),
}

/// Takes over what can change at once, and says what cannot. A mistake leaves everything as it is.
fn reload(config: &mut Config, node: &Node, logging: &Logging) -> Result<Reloaded, String> {
    let new = match config.reload() {
        Ok(new) => new,
        Err(failure) => {
            tracing::error!("the configuration was not taken over: {failure}");
            return Err(failure.to_string());
        }
    };
    let (now, later) = config.changed(&new);
    if let Err(failure) = logging.set(&new.text("log.level")) {
        tracing::error!("{failure}");
        return Err(failure.to_string());
    }
    node.reload(&new);
    if !now.is_empty() {
        tracing::info!(settings = now.join(", "), "the configuration was taken over");
    }
    if !later.is_empty() {
        tracing::warn!(settings = later.join(", "), "these settings need a restart");
    }
    if now.is_empty() && later.is_empty() {
        tracing::info!("the configuration has not changed");
    }
    *config = new;
    let names = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
    Ok(Reloaded { changed: names(now), needs_restart: names(later) })
}
