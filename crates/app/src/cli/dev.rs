//! `tidewheel dev`: everything in one process, for the machine of a developer.

mod code;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::Ctx;
use crate::client::Client;
use crate::config::{Config, FlagValue};
use crate::fail::{Exit, Failure, Outcome, While};
use crate::profile::{Connection, DEV_FILE, DevFile, Secret, write_private};
use crate::wire::{Ask, Logging, Node, Signals, raise_file_limit, self_signed};

/// Folder of everything that `dev` keeps.
const FOLDER: &str = ".tidewheel";
/// What runs gets so long when the developer stops the server.
const DRAIN: Duration = Duration::from_secs(2);

/// Run server, agent and your code on this machine
///
/// Starts a server and an agent in this process, keeps everything in `.tidewheel` below the folder, uploads the package
/// in the folder and uploads it again whenever a file changes. Prints address and token, and opens nothing unless
/// --open says so. Verbs that are run in or below the folder find the server by themselves.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel dev
  tidewheel dev reports --port 9000 --db :memory:")]
pub(crate) struct Dev {
    /// Folder with your code
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Port on the loopback
    #[arg(long, default_value_t = 8080, env = "TIDEWHEEL_DEV_PORT", hide_env_values = true)]
    port: u16,
    /// Database file, or `:memory:` to forget everything at the end
    #[arg(long, value_name = "FILE")]
    db: Option<String>,
    /// Upload the code once and do not watch it
    #[arg(long)]
    no_reload: bool,
    /// Open the documentation in the browser
    #[arg(long)]
    open: bool,
    /// Speak TLS with a certificate made for this machine
    #[arg(long)]
    tls_self_signed: bool,
    /// Attempts at once; by the number of cores if absent
    #[arg(long, value_name = "N")]
    capacity: Option<u32>,
    /// Level of the log
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "warn,tidewheel_agent::environment=error",
        env = "TIDEWHEEL_LOG",
        hide_env_values = true
    )]
    log: String,
}

impl Dev {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let dir =
            std::fs::canonicalize(&self.dir).doing(Exit::Usage, || format!("cannot use {}", self.dir.display()))?;
        if !dir.is_dir() {
            return Err(Failure::usage(format!("cannot use {}", self.dir.display()), "it is not a folder"));
        }
        let folder = dir.join(FOLDER);
        prepare(&folder).doing(Exit::Failed, || format!("cannot write to {}", folder.display()))?;
        let config = Config::load(None, self.flags(&folder)?)?;
        let _logging = Logging::start(&self.log, "pretty")?;
        raise_file_limit();
        super::server::runtime(&config)?.block_on(serve(ctx, &self, &config, &dir))
    }

    fn flags(&self, folder: &Path) -> Outcome<Vec<FlagValue>> {
        let mut out: Vec<FlagValue> = Vec::new();
        let mut add = |flag: &str, path: &str, value: Value| out.push((flag.to_owned(), path.to_owned(), value));
        add("--port", "server.listen", json!(format!("127.0.0.1:{}", self.port)));
        add("DIR", "storage.dataDir", json!(folder));
        add("dev", "agent.enabled", json!(true));
        add("dev", "agent.name", json!("dev"));
        if let Some(db) = &self.db {
            add("--db", "storage.database", json!(db));
        }
        if let Some(capacity) = self.capacity {
            add("--capacity", "agent.capacity", json!(capacity));
        }
        if self.tls_self_signed {
            let (cert, key) = self_signed(folder)?;
            add("--tls-self-signed", "tls.certFile", json!(cert));
            add("--tls-self-signed", "tls.keyFile", json!(key));
        }
        Ok(out)
    }
}

/// The folder, kept out of version control and of other people's eyes.
fn prepare(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    std::fs::write(folder.join(".gitignore"), "*\n")
}

async fn serve(ctx: &Ctx, dev: &Dev, config: &Config, dir: &Path) -> Outcome {
    let mut signals = Signals::take()?;
    let mut node = tokio::select! {
        node = Box::pin(Node::start(config)) => node?,
        () = signals.impatient() => return Err(super::server::interrupted()),
    };
    node.refuse_reloads();
    let token = token(&node).await?;
    let connection = Connection {
        url: node.url.clone(),
        url_origin: "tidewheel dev".to_owned(),
        token: Some(token.clone()),
        token_origin: "tidewheel dev".to_owned(),
        tenant: None,
        ca_file: config.maybe("tls.certFile"),
        profile: None,
        timeout: None,
    };
    let dev_file = dir.join(DEV_FILE);
    let left = DevFile {
        url: node.url.clone(),
        token: token.clone(),
        ca_file: connection.ca_file.clone(),
        pid: std::process::id(),
    };
    let text = serde_json::to_string_pretty(&left).doing(Exit::Failed, || "cannot write the connection".to_owned())?;
    write_private(&dev_file, &text).doing(Exit::Failed, || format!("cannot write {}", dev_file.display()))?;
    banner(&node, &token);
    if dev.open {
        open(ctx, &format!("{}/docs", node.url));
    }
    let mut code = code::Code::new(Client::new(&connection)?, dir, !dev.no_reload);
    let outcome = loop {
        tokio::select! {
            // Signals first: an endless row of changes must not keep the server alive.
            biased;
            ask = signals.next() => if ask != Ask::Reload { break Ok(()) },
            failure = node.ended() => break Err(failure),
            () = code.step(ctx) => {}
        }
    };
    let _ = std::fs::remove_file(&dev_file);
    if outcome.is_ok() {
        ctx.out.note("stopping");
        tokio::select! {
            () = Box::pin(node.stop(DRAIN)) => {}
            () = signals.impatient() => {}
        }
    }
    outcome
}

/// The token of the folder: the same over restarts, so that scripts and editors keep working.
async fn token(node: &Node) -> Outcome<Secret> {
    match node.admin_token() {
        Some(token) if node.accepts(&token).await => Ok(token),
        _ => node.renew_admin_token().await,
    }
}

/// Opens an address as the desktop would. Without a desktop the address on the screen has to do.
fn open(ctx: &Ctx, url: &str) {
    let program = std::env::var_os("BROWSER").unwrap_or_else(|| "xdg-open".into());
    let quiet = std::process::Stdio::null;
    let started =
        tokio::process::Command::new(&program).arg(url).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
    if let Err(error) = started {
        ctx.out.note(&format!("cannot open a browser with {}: {error}", program.to_string_lossy()));
    }
}

fn banner(node: &Node, token: &Secret) {
    let url = &node.url;
    let text = format!(
        "\n  REST, gRPC and documentation   {url}/docs\n  token                          {}\n  \
         data                           {}\n\n  \
         For programs outside this folder:\n  \
         export TIDEWHEEL_URL={url} TIDEWHEEL_TOKEN=...\n\n  \
         Ctrl-C stops everything\n\n",
        token.expose(),
        node.data_dir.display(),
    );
    let mut out = std::io::stdout().lock();
    // A closed stdout is no reason not to serve.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
