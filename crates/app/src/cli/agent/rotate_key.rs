//! `agent rotate-key`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::identity::{self, Identity};
use crate::cli::Ctx;
use crate::fail::{Exit, Failure, Outcome};
use crate::output::{Col, Kind, Shape};

/// Give the agent of this machine a new key
///
/// The server refuses the old one from then on. A running agent of the folder goes on with the new one within seconds, and
/// its attempts live on. For agents that enrolled themselves; a token made by `tidewheel token create` is replaced by hand.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel agent rotate-key
  tidewheel agent rotate-key --data-dir /var/lib/tidewheel-agent")]
pub(super) struct RotateKey {
    /// Folder of the agent
    #[arg(long, value_name = "DIR", env = "TIDEWHEEL_AGENT_DATA_DIR", hide_env_values = true)]
    data_dir: Option<PathBuf>,
}

const ROTATED: Shape = Shape {
    plural: "agents",
    id: "id",
    cols: &[
        Col::new("AGENT", "agent", Kind::Text),
        Col::new("ID", "id", Kind::Text),
        Col::new("SERVER", "server", Kind::Text),
        Col::new("CREDENTIAL", "credential", Kind::Text),
    ],
};

impl RotateKey {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let folder = self.data_dir.unwrap_or_else(super::default_dir);
        let kept = Identity::read(&folder).ok_or_else(|| {
            let why = format!("no agent that enrolled itself has its folder in {}", folder.display());
            Failure::new(Exit::Missing, "cannot rotate the key", why).next("tidewheel agent --server URL --join TOKEN")
        })?;
        let connection = ctx.connection_to(Some(&kept.server))?;
        let now = identity::rotate(&folder, &connection).await?;
        let shown = json!({"id": now.id, "agent": now.agent, "server": now.server, "credential": now.kind()});
        ctx.out.one(&ROTATED, &shown)
    }
}
