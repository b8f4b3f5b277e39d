//! The agent itself.

use std::path::{Path, PathBuf};

use clap::Args;
use tidewheel_agent::{Agent, AgentConfig, BuildLimits, Credential, Isolation, Serves};
use tidewheel_proto::token;
use tokio_util::sync::CancellationToken;

use super::identity::{self, Identity};
use super::renew;
use crate::cli::Ctx;
use crate::cli::common::pair;
use crate::fail::{Exit, Failure, Outcome, While};
use crate::profile::{Connection, Secret, read_token};
use crate::text::parse_wait;
use crate::wire::{Ask, Logging, STATUS_FILE, Signals, raise_file_limit, report_status};

/// Settings of an agent as flags.
#[derive(Args)]
pub(super) struct Run {
    /// Address of the server; as `--url`
    #[arg(long, value_name = "URL", env = "TIDEWHEEL_AGENT_SERVER", hide_env_values = true)]
    server: Option<String>,
    /// Join token: enrols this agent once, and is not looked at again while its own credential stands; a lasting token
    /// comes from `--token-file` or TIDEWHEEL_TOKEN
    #[arg(long = "join", visible_alias = "token", value_name = "TOKEN", env = "TIDEWHEEL_AGENT_JOIN")]
    #[arg(hide_env_values = true)]
    join: Option<String>,
    /// File with the join token
    #[arg(
        long,
        value_name = "FILE",
        env = "TIDEWHEEL_AGENT_JOIN_FILE",
        conflicts_with = "join",
        hide_env_values = true
    )]
    join_file: Option<String>,
    /// Name shown to people; that of the join token or of the machine if absent
    #[arg(long, env = "TIDEWHEEL_AGENT_NAME", hide_env_values = true)]
    name: Option<String>,
    /// Queue to serve; all if absent; may be given several times
    #[arg(long, env = "TIDEWHEEL_AGENT_QUEUES", value_delimiter = ',', hide_env_values = true)]
    queue: Vec<String>,
    /// Task type to serve; all if absent; may be given several times
    #[arg(
        long = "type",
        value_name = "TYPE",
        env = "TIDEWHEEL_AGENT_TYPES",
        value_delimiter = ',',
        hide_env_values = true
    )]
    types: Vec<String>,
    /// Serve only some tasks: priority=low|medium|high, duration=short|medium|long, executor=KEY; may be given several times
    #[arg(long, value_name = "KIND=VALUE,...", env = "TIDEWHEEL_AGENT_SERVE", hide_env_values = true)]
    #[arg(value_delimiter = ';')]
    serve: Vec<String>,
    /// Priorities served by pool: dedicated (high), shared (high, medium), best-effort (all)
    #[arg(long, value_name = "POOL", env = "TIDEWHEEL_AGENT_POOL", hide_env_values = true)]
    pool: Option<String>,
    /// Data that this machine holds: tasks that work on it come here before its equals; may be given several times
    #[arg(long, value_name = "NAME", env = "TIDEWHEEL_AGENT_DATA", value_delimiter = ',', hide_env_values = true)]
    data: Vec<String>,
    /// Label that tasks can ask for; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    #[arg(env = "TIDEWHEEL_AGENT_LABELS", value_delimiter = ',', hide_env_values = true)]
    label: Vec<(String, String)>,
    /// Group by purpose or place: the label `group`, which tasks can ask for
    #[arg(long, value_name = "NAME", env = "TIDEWHEEL_AGENT_GROUP", hide_env_values = true)]
    group: Option<String>,
    /// Label from a command: `site=cat /etc/site`; run once at the start, its first line is the value; may be given several
    /// times
    #[arg(long, value_name = "NAME=COMMAND", value_parser = pair)]
    probe: Vec<(String, String)>,
    /// Attempts at once; by the number of cores if absent
    #[arg(long, value_name = "N", env = "TIDEWHEEL_AGENT_CAPACITY", hide_env_values = true)]
    capacity: Option<u32>,
    /// Run every attempt in a sandbox, or refuse it
    #[arg(long, env = "TIDEWHEEL_AGENT_ISOLATED", value_parser = clap::builder::FalseyValueParser::new())]
    #[arg(hide_env_values = true)]
    isolated: bool,
    /// Never use a sandbox; a server with several tenants then refuses this agent
    #[arg(long, conflicts_with = "isolated")]
    no_isolation: bool,
    /// Network inside the sandbox
    #[arg(long)]
    network: bool,
    /// Memory of an attempt that names none: `512MB`
    #[arg(long, value_name = "SIZE", env = "TIDEWHEEL_AGENT_MEMORY", hide_env_values = true)]
    memory: Option<String>,
    /// Cores of an attempt that names none
    #[arg(long, value_name = "CORES", env = "TIDEWHEEL_AGENT_CPU", hide_env_values = true)]
    cpu: Option<f64>,
    /// Processes of an attempt
    #[arg(long, value_name = "N")]
    processes: Option<u32>,
    /// Time for the build of an environment, fetching included
    #[arg(long, value_name = "TIME", default_value = "30m")]
    build_time: String,
    /// Memory for the build of an environment; 0 = no bound
    #[arg(long, value_name = "SIZE", default_value = "4Gi")]
    build_memory: String,
    /// Disk for the build of an environment; 0 = no bound
    #[arg(long, value_name = "SIZE", default_value = "20Gi")]
    build_disk: String,
    /// Processes and threads of the build of an environment
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..))]
    build_processes: u32,
    /// Folder of packages and environments
    #[arg(long, value_name = "DIR", env = "TIDEWHEEL_AGENT_DATA_DIR", hide_env_values = true)]
    data_dir: Option<PathBuf>,
    /// Packages, environments and downloads kept between uses; the longest unused go first
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "20Gi",
        env = "TIDEWHEEL_AGENT_CACHE_SIZE",
        hide_env_values = true
    )]
    cache_size: String,
    /// What was not used for so long is removed; 0 = kept
    #[arg(long, value_name = "TIME", default_value = "30d", env = "TIDEWHEEL_AGENT_CACHE_AGE", hide_env_values = true)]
    cache_age: String,
    /// Python to use; the one on PATH if absent
    #[arg(long, value_name = "FILE", env = "TIDEWHEEL_PYTHON", hide_env_values = true)]
    python: Option<PathBuf>,
    /// User and group id of the processes; only root can change them
    #[arg(long, value_name = "UID:GID", value_parser = ids)]
    run_as: Option<(u32, u32)>,
    /// Time that running attempts get after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "30s", env = "TIDEWHEEL_AGENT_DRAIN", hide_env_values = true)]
    drain_timeout: String,
    /// Level of the log: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "TIDEWHEEL_LOG", hide_env_values = true)]
    log: String,
}

fn ids(text: &str) -> Result<(u32, u32), String> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    match (user.parse(), group.parse()) {
        (Ok(user), Ok(group)) => Ok((user, group)),
        _ => Err("write UID:GID".to_owned()),
    }
}

impl Run {
    pub(super) fn run(self, ctx: &Ctx) -> Outcome {
        let _logging = Logging::start(&self.log, "auto")?;
        raise_file_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.doing(Exit::Failed, || "cannot start the agent's threads".to_owned())?;
        runtime.block_on(async {
            let (config, connection) = self.config(ctx).await?;
            run(ctx, config, connection).await
        })
    }

    /// The data folder that was named.
    pub(super) fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// The server that was named.
    pub(super) fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// The name that was named.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Time that running attempts get after SIGTERM.
    pub(super) fn drain(&self) -> Outcome<std::time::Duration> {
        parse_wait(&self.drain_timeout).map_err(|why| Failure::usage("cannot read --drain-timeout", why))
    }

    /// What stands in place of a join token: one, or a lasting one that `--token` was given.
    fn given(&self) -> Outcome<Option<String>> {
        match &self.join_file {
            Some(file) => Ok(Some(read_token(file)?.expose().to_owned())),
            None => Ok(self.join.as_ref().map(|text| text.trim().to_owned())),
        }
    }

    /// The join token.
    pub(super) fn join_token(&self) -> Outcome<Option<String>> {
        let given = self.given()?;
        if given.as_deref().is_some_and(|text| !token::is_join(text)) {
            let failure = Failure::usage("cannot install the service", "that is no join token; one begins with twj_");
            return Err(failure.next("--token-file, for a lasting token"));
        }
        Ok(given)
    }

    /// The credential: a lasting token that was named for this start, else what this agent got when it enrolled itself (now,
    /// with a join token), else the token of the profile.
    async fn credential(
        &self,
        ctx: &Ctx,
        connection: &Connection,
        folder: &Path,
    ) -> Outcome<(Credential, Option<Identity>)> {
        let lasting = |token: &Secret| Credential::Token(tidewheel_agent::Secret::new(token.expose()));
        let join = match self.given()? {
            // `--token` takes a lasting token, too.
            Some(text) if self.join_file.is_none() && !token::is_join(&text) => {
                return Ok((lasting(&Secret::new(text)), None));
            }
            given => given,
        };
        let wishes = ctx.wishes();
        let named = |wish: &Option<String>| wish.as_deref().is_some_and(|text| !text.trim().is_empty());
        if join.is_none() && (named(&wishes.token) || named(&wishes.token_file)) {
            return connection.token.as_ref().map(|token| (lasting(token), None)).ok_or_else(no_token);
        }
        let note = |text: &str| ctx.out.note(text);
        if let Some(identity) =
            identity::obtain(folder, connection, join.as_deref(), self.name.as_deref(), &note).await?
        {
            return Ok((identity.credential(), Some(identity)));
        }
        connection.token.as_ref().map(|token| (lasting(token), None)).ok_or_else(no_token)
    }

    async fn config(&self, ctx: &Ctx) -> Outcome<(AgentConfig, Connection)> {
        let connection = ctx.connection_to(self.server.as_deref())?;
        let data_dir = self.data_dir.clone().unwrap_or_else(super::default_dir);
        let (credential, identity) = self.credential(ctx, &connection, &data_dir).await?;
        let none = tidewheel_agent::Secret::new(String::new());
        let mut out = AgentConfig::new(connection.url.clone(), none, data_dir.clone());
        out.credential = credential;
        out.name = self.name.clone();
        if let Some(identity) = identity {
            out.reread = Some(identity::reread(data_dir));
            out.name = Some(self.name.clone().unwrap_or(identity.agent));
        }
        out.probes = self.probe.iter().cloned().collect();
        if !self.queue.is_empty() {
            out.queues = self.queue.clone();
        }
        out.types = self.types.clone();
        let bounds = Serves::parse(self.serve.iter().map(String::as_str));
        out.serves = bounds.map_err(|why| Failure::usage("cannot read --serve", why))?;
        if let Some(pool) = &self.pool {
            out.serves = out.serves.in_pool(pool).map_err(|why| Failure::usage("cannot read --pool", why))?;
        }
        out.data = self.data.clone();
        out.labels = self.label.iter().cloned().collect();
        if let Some(group) = &self.group {
            out.labels.insert("group".to_owned(), group.clone());
        }
        if let Some(capacity) = self.capacity {
            out.permits = capacity;
        }
        out.isolation = match (self.isolated, self.no_isolation) {
            (true, _) => Isolation::On,
            (_, true) => Isolation::Off,
            _ => Isolation::Auto,
        };
        out.isolated_network = self.network;
        if let Some(memory) = &self.memory {
            let bytes = crate::units::parse_size(memory);
            out.limits.memory_bytes = bytes.map_err(|why| Failure::usage("cannot read --memory", why))?;
        }
        if let Some(cpu) = self.cpu.filter(|cpu| *cpu > 0.0) {
            out.limits.cpu_millis = (cpu * 1_000.0) as u32;
        }
        if let Some(processes) = self.processes {
            out.limits.processes = processes;
        }
        out.build = self.build_limits()?;
        let size = crate::units::parse_size(&self.cache_size);
        out.cache_bytes = size.map_err(|why| Failure::usage("cannot read --cache-size", why))?;
        let age = crate::units::parse_duration_ms(&self.cache_age);
        let age = age.map_err(|why| Failure::usage("cannot read --cache-age", why))?;
        out.cache_age = std::time::Duration::from_millis(age);
        out.python = self.python.clone();
        out.run_as = self.run_as;
        out.ca = connection.ca_file.clone().map(PathBuf::from);
        out.drain = self.drain()?;
        Ok((out, connection))
    }
}

impl Run {
    /// Bounds of what builds environments.
    fn build_limits(&self) -> Outcome<BuildLimits> {
        let size = |flag: &str, text: &str| {
            crate::units::parse_size(text).map_err(|why| Failure::usage(format!("cannot read {flag}"), why))
        };
        let time = crate::units::parse_duration_ms(&self.build_time);
        let time = match time {
            Ok(0) => Err("a build needs some time, such as 30m".to_owned()),
            other => other,
        };
        Ok(BuildLimits {
            time: std::time::Duration::from_millis(
                time.map_err(|why| Failure::usage("cannot read --build-time", why))?,
            ),
            memory_bytes: size("--build-memory", &self.build_memory)?,
            disk_bytes: size("--build-disk", &self.build_disk)?,
            processes: self.build_processes,
        })
    }
}

fn no_token() -> Failure {
    Failure::new(Exit::Denied, "cannot start the agent", "there is no token for this server")
        .next("tidewheel agent enroll-token NAME, then --join TOKEN")
}

async fn run(ctx: &Ctx, config: AgentConfig, connection: Connection) -> Outcome {
    let mut signals = Signals::take()?;
    let (server, data_dir) = (config.server.clone(), config.data_dir.clone());
    let enrolled = config.reread.is_some();
    let agent = Agent::new(config).await.map_err(|error| failure("cannot start the agent", &error))?;
    let handle = agent.handle();
    ctx.out.note(&format!("agent {} for {server} (data in {})", handle.status().name, data_dir.display()));
    let reporter = tokio::spawn(report_status(handle, server, data_dir.clone()));
    let renewal = enrolled.then(|| tokio::spawn(renew::keep_fresh(data_dir.clone(), connection)));
    let shutdown = CancellationToken::new();
    let mut working = tokio::spawn(agent.run(shutdown.clone()));
    let ended = loop {
        tokio::select! {
            ended = &mut working => break ended,
            ask = signals.next() => {
                // There is nothing to read again.
                if ask == Ask::Reload {
                    continue;
                }
                tracing::info!("asked to end; draining");
                shutdown.cancel();
                tokio::select! {
                    ended = &mut working => break ended,
                    () = signals.impatient() => {
                        return Err(Failure::new(Exit::Interrupted, "ended at once", "asked a second time"));
                    }
                }
            }
        }
    };
    reporter.abort();
    if let Some(renewal) = renewal {
        renewal.abort();
    }
    // Best effort: an old file is recognised by its age.
    let _ = std::fs::remove_file(data_dir.join(STATUS_FILE));
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failure("the agent ended", &error)),
        Err(error) => Err(Failure::new(Exit::Failed, "the agent ended by a bug", error.to_string())),
    }
}

fn failure(what: &str, error: &tidewheel_agent::Error) -> Failure {
    let exit = match error {
        tidewheel_agent::Error::Refused(_) => Exit::Denied,
        tidewheel_agent::Error::Config(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, what, error.to_string()).cause(error).next("tidewheel doctor")
}
