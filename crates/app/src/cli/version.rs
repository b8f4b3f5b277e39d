//! `tidewheel version`

use clap::Args;
use serde_json::{Value, json};

use super::Ctx;
use crate::fail::Outcome;
use crate::output::{Col, Kind, Shape};

/// Show the versions of this program and of the server
///
/// Asks no server unless `--server` is given.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel version\n  tidewheel version --server -o json")]
pub(crate) struct Version {
    /// Ask the server too
    #[arg(long)]
    server: bool,
}

const SHAPE: Shape = Shape {
    plural: "versions",
    id: "client",
    cols: &[Col::new("CLIENT", "client", Kind::Text), Col::new("SERVER", "server", Kind::Text)],
};

impl Version {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let mut value = json!({
            "client": env!("CARGO_PKG_VERSION"),
            "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        });
        if self.server {
            let status = ctx.client()?.get("/system/status").doing("ask the server for its version").value().await?;
            value["server"] = status.get("version").cloned().unwrap_or(Value::Null);
        }
        ctx.out.one(&SHAPE, &value)
    }
}
