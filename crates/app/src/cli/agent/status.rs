//! `agent status`

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::identity::Identity;
use crate::cli::Ctx;
use crate::fail::{Exit, Failure, Outcome, While};
use crate::output::{Col, Kind, Shape};
use crate::wire::STATUS_FILE;

/// A status older than this was left by an agent that is gone.
const STALE_S: i64 = 15;

/// Show the agent of this machine
///
/// Whether it runs and is connected, what it runs, as whom it is enrolled, and what the machine offers: labels, and which
/// walls of the sandbox are up. Exit 1 if no agent runs here.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel agent status
  tidewheel agent status --data-dir /var/lib/tidewheel-agent -o json")]
pub(super) struct Status {
    /// Folder of the agent
    #[arg(long, value_name = "DIR", env = "TIDEWHEEL_AGENT_DATA_DIR", hide_env_values = true)]
    data_dir: Option<PathBuf>,
}

const AGENT: Shape = Shape {
    plural: "agents",
    id: "name",
    cols: &[
        Col::new("NAME", "name", Kind::Text),
        Col::new("STATE", "state", Kind::State),
        Col::new("SERVER", "server", Kind::Text),
        Col::new("RUNNING", "running", Kind::Count),
        Col::new("CPU", "cpu_ratio", Kind::Share),
        Col::new("MEMORY", "memory_used_bytes", Kind::Bytes),
        Col::new("DISK FREE", "disk_free_bytes", Kind::Bytes),
        Col::minor("ENROLLED AS", "identity.id", Kind::Text),
        Col::minor("GROUP", "identity.group", Kind::Text),
        Col::wide("CREDENTIAL", "identity.credential", Kind::Text),
        Col::wide("EXPIRES", "identity.certificate_expires_at", Kind::Time),
        Col::wide("ENFORCED", "machine.enforced", Kind::Names),
        Col::wide("LABELS", "machine.labels", Kind::Names),
    ],
};

impl Status {
    pub(super) fn run(self, ctx: &Ctx) -> Outcome {
        let data_dir = self.data_dir.unwrap_or_else(super::default_dir);
        let said = std::fs::read_to_string(data_dir.join(STATUS_FILE)).ok();
        let said = said.and_then(|text| serde_json::from_str::<Value>(&text).ok()).filter(is_fresh);
        let mut status = said.unwrap_or_else(|| json!({}));
        let runs = status.get("pid").is_some();
        let connected = status.get("connected").and_then(Value::as_bool).unwrap_or(false);
        let state = match (runs, connected) {
            (true, true) => "online",
            (true, false) => "disconnected",
            _ => "stopped",
        };
        status["state"] = json!(state);
        if let Some(identity) = Identity::read(&data_dir) {
            status["identity"] = json!({
                "id": identity.id,
                "agent": identity.agent,
                "server": identity.server,
                "tenant": identity.tenant,
                "group": identity.group,
                "queues": identity.queues,
                "credential": identity.kind(),
                "certificate_expires_at": identity.expires_at.map(|end| end.to_string()),
            });
        }
        status["machine"] = machine(&data_dir)?;
        ctx.out.one(&AGENT, &status)?;
        if runs {
            return Ok(());
        }
        let why = format!("none has its folder in {}", data_dir.display());
        Err(Failure::new(Exit::Failed, "no agent runs here", why).next("tidewheel agent --server URL --join TOKEN"))
    }
}

fn is_fresh(status: &Value) -> bool {
    let at = status.get("at").and_then(Value::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok());
    at.is_some_and(|at| jiff::Timestamp::now().duration_since(at).as_secs().abs() <= STALE_S)
}

/// What an agent started here would say of the machine. Looked at in a folder of its own: the agent's may be in use.
fn machine(data_dir: &std::path::Path) -> Outcome<Value> {
    let what = || "cannot look at this machine".to_owned();
    let scratch = tempfile::tempdir().doing(Exit::Failed, what)?;
    // The Python library and the tools that an agent of this folder has are found again, not fetched anew.
    let folder = if data_dir.is_dir() { data_dir.to_owned() } else { scratch.path().to_owned() };
    let config = tidewheel_agent::AgentConfig::new("http://127.0.0.1:1", tidewheel_agent::Secret::new("none"), folder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(Exit::Failed, what)?;
    let seen = runtime.block_on(tidewheel_agent::inspect(config)).doing(Exit::Failed, what)?;
    serde_json::to_value(seen).doing(Exit::Failed, what)
}
