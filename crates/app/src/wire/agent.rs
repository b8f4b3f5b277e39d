//! The agent: its settings from the configuration, and one that runs inside the server's process.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tidewheel_agent::{Agent, AgentConfig, AgentHandle, Isolation, Serves};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Node;
use crate::client::Client;
use crate::config::Config;
use crate::fail::{Exit, Failure, Outcome, While};
use crate::profile::{Secret, read_token, write_private};

/// The token of the embedded agent; made once per folder.
const TOKEN_FILE: &str = "agent-token";
/// The file in which a running agent says how it is.
pub(crate) const STATUS_FILE: &str = "status.json";
/// How often it is written.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// The agent's settings.
pub(super) fn agent_config(config: &Config, server: &str, token: Secret) -> Outcome<AgentConfig> {
    let data_dir = config
        .maybe("agent.dataDir")
        .map_or_else(|| PathBuf::from(config.text("storage.dataDir")).join("agent"), PathBuf::from);
    let mut out = AgentConfig::new(server, tidewheel_agent::Secret::new(token.expose()), data_dir);
    out.name = config.maybe("agent.name");
    out.queues = config.list("agent.queues");
    out.types = config.list("agent.types");
    let bounds = config.list("agent.serve");
    let bounds = Serves::parse(bounds.iter().map(String::as_str));
    out.serves = bounds.map_err(|why| Failure::usage("cannot read agent.serve", why))?;
    if let Some(pool) = config.maybe("agent.pool") {
        out.serves = out.serves.in_pool(&pool).map_err(|why| Failure::usage("cannot read agent.pool", why))?;
    }
    out.data = config.list("agent.data");
    out.labels = config.map("agent.labels");
    if let Ok(capacity @ 1..) = u32::try_from(config.count("agent.capacity")) {
        out.permits = capacity;
    }
    out.isolation = match config.text("agent.isolation").as_str() {
        "on" => Isolation::On,
        "off" => Isolation::Off,
        _ => Isolation::Auto,
    };
    out.isolated_network = config.flag("agent.network");
    out.limits.memory_bytes = config.size("agent.memory");
    out.limits.cpu_millis = (config.number("agent.cpu") * 1_000.0) as u32;
    out.limits.processes = u32::try_from(config.count("agent.processes")).unwrap_or(u32::MAX);
    out.limits.output_bytes = config.size("agent.output");
    out.build = tidewheel_agent::BuildLimits {
        time: config.duration("agent.buildTime"),
        memory_bytes: config.size("agent.buildMemory"),
        disk_bytes: config.size("agent.buildDisk"),
        processes: u32::try_from(config.count("agent.buildProcesses")).unwrap_or(u32::MAX),
    };
    out.cache_bytes = config.size("agent.cacheSize");
    out.cache_age = config.duration("agent.cacheAge");
    out.python = config.maybe("agent.python").map(PathBuf::from);
    out.drain = config.duration("server.drainTimeout");
    // An agent beside its own server trusts exactly the server's certificate.
    out.ca = config.maybe("tls.certFile").map(PathBuf::from);
    Ok(out)
}

/// A token with the role worker for the embedded agent, kept in the folder over restarts.
pub(super) async fn worker_token(node: &Node, admin: Secret) -> Outcome<Secret> {
    let path = node.data_dir.join(TOKEN_FILE);
    if let Ok(kept) = read_token(&path.display().to_string())
        && Client::new(&node.own_connection(kept.clone()))?
            .get("/whoami")
            .doing("check the agent's token")
            .value()
            .await
            .is_ok()
    {
        return Ok(kept);
    }
    let body = json!({"name": "embedded-agent", "role": "worker", "system": true});
    let client = Client::new(&node.own_connection(admin))?;
    let made = client.post("/tokens").doing("create the agent's token").json(&body).value().await?;
    let secret = made.get("secret").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    write_private(&path, &format!("{secret}\n")).doing(Exit::Failed, || format!("cannot write {}", path.display()))?;
    Ok(Secret::new(secret))
}

/// Writes how an agent is, for `tidewheel agent status`. Not synced: it is worthless after a crash anyway.
pub(crate) async fn report_status(handle: AgentHandle, server: String, data_dir: PathBuf) {
    let path = data_dir.join(STATUS_FILE);
    let partial = path.with_extension("partial");
    loop {
        // A plain record always serialises.
        let mut status = serde_json::to_value(handle.status()).unwrap_or_default();
        status["pid"] = json!(std::process::id());
        status["server"] = json!(server);
        status["at"] = json!(jiff::Timestamp::now().to_string());
        let written = std::fs::write(&partial, status.to_string()).and_then(|()| std::fs::rename(&partial, &path));
        if let Err(error) = written {
            tracing::debug!(%error, "the status file was not written");
        }
        tokio::time::sleep(STATUS_EVERY).await;
    }
}

/// An agent that runs in this process.
pub(super) struct Embedded {
    reporter: JoinHandle<()>,
    status_file: PathBuf,
    handle: AgentHandle,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), tidewheel_agent::Error>>,
}

impl Embedded {
    pub(super) async fn start(config: AgentConfig) -> Outcome<Embedded> {
        let (server, data_dir) = (config.server.clone(), config.data_dir.clone());
        let agent = Agent::new(config).await.map_err(|error| {
            Failure::new(Exit::Failed, "cannot start the agent", error.to_string())
                .cause(&error)
                .next("tidewheel doctor")
        })?;
        let shutdown = CancellationToken::new();
        let handle = agent.handle();
        let status_file = data_dir.join(STATUS_FILE);
        let reporter = tokio::spawn(report_status(handle.clone(), server, data_dir));
        let task = tokio::spawn(agent.run(shutdown.clone()));
        Ok(Embedded { reporter, status_file, handle, shutdown, task })
    }

    /// Lets its attempts end, at most so long.
    pub(super) async fn stop(self, limit: Duration) {
        tracing::info!(running = self.handle.status().running, "the agent drains");
        self.shutdown.cancel();
        self.reporter.abort();
        // Best effort: an old file is recognised by its age.
        let _ = std::fs::remove_file(&self.status_file);
        match tokio::time::timeout(limit, self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the agent ended with an error"),
            Ok(Err(error)) => tracing::warn!(%error, "the agent ended by a bug"),
            Err(_) => tracing::warn!("the agent did not end in time"),
        }
    }
}
