//! The built binary as an agent, and packages to run on it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use crate::process::{Group, Signal};
use crate::server::{Server, command};

/// An agent process of a server.
pub struct Agent {
    group: Group,
    log: PathBuf,
}

impl Agent {
    /// Starts one that keeps its caches in `data`, and waits until the server knows it.
    pub async fn start(
        server: &Server,
        name: &str,
        data: &Path,
        capacity: u32,
        more: &[&str],
    ) -> anyhow::Result<Agent> {
        std::fs::create_dir_all(data)?;
        let token = data.join("agent-token");
        std::fs::write(&token, &server.token)?;
        let log = server.home().join(format!("agent-{name}.log"));
        let mut command = command(server.home());
        command.args(["agent", "--server", &server.url(), "--name", name, "--capacity", &capacity.to_string()]);
        command.arg("--token-file").arg(&token).arg("--data-dir").arg(data).args(more);
        let mut agent = Agent { group: Group::start(&mut command, &log)?, log };
        let rest = server.rest();
        let waited = crate::until("the agent to come online", crate::PATIENCE, || {
            let ended = agent.group.ended();
            let rest = &rest;
            async move {
                if let Some(status) = ended? {
                    anyhow::bail!("the agent ended with {status}");
                }
                Ok(worker(rest, name).await?.filter(|w| w["state"] == "online"))
            }
        })
        .await;
        waited.map_err(|e| e.context(agent.log_end()))?;
        Ok(agent)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.group.pid()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.group.signal(signal);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.group.kill()
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        self.group.signal(Signal::TERM);
        self.group.wait(crate::PATIENCE).await
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let text = String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// A worker by its name, as the server shows it.
pub async fn worker(rest: &crate::rest::Rest, name: &str) -> anyhow::Result<Option<Value>> {
    let workers = rest.get("/api/workers").await?.ok()?.json()?;
    Ok(workers["items"].as_array().into_iter().flatten().find(|w| w["name"] == name).cloned())
}

/// Writes a package of one module into a folder.
pub fn package(
    folder: &Path,
    name: &str,
    version: &str,
    module: &str,
    dependencies: &[&str],
) -> anyhow::Result<PathBuf> {
    let at = folder.join(format!("{name}-{version}"));
    std::fs::create_dir_all(&at)?;
    let quoted: Vec<String> = dependencies.iter().map(|d| format!("{d:?}")).collect();
    let project = format!(
        "[project]\nname = \"{name}\"\nversion = \"{version}\"\nrequires-python = \">=3.9\"\ndependencies = [{}]\n\n\
         [tool.tidewheel]\nmodules = [\"{name}\"]\n",
        quoted.join(", "),
    );
    std::fs::write(at.join("pyproject.toml"), project)?;
    std::fs::write(at.join(format!("{name}.py")), module)?;
    Ok(at)
}

/// Deploys a folder with the command line, as a person would.
pub async fn deploy(server: &Server, folder: &Path) -> anyhow::Result<crate::server::Output> {
    let folder = folder.to_str().context("temporary folders have plain names")?;
    crate::server::run(server, server.home(), &["deploy", folder, "-o", "json"]).await
}
