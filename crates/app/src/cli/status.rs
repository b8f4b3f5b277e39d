//! `tidewheel status`

use clap::Args;
use serde_json::{Value, json};

use super::Ctx;
use super::common::field;
use super::shapes::STATUS;
use crate::fail::{Exit, Failure, Outcome};

/// Show whether the server is up and what it does
///
/// State, version, tasks and workers, figures of its store. `--probe` only asks whether it takes work, without a token:
/// exit 0 if it does, 5 if it does not. Health checks of containers use it.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel status\n  tidewheel status --probe --quiet")]
pub(crate) struct Status {
    /// Only ask whether the server is ready
    #[arg(long)]
    probe: bool,
}

impl Status {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let connection = ctx.connection()?;
        let client = crate::client::Client::new(&connection)?;
        if self.probe {
            let ready = client.system("/health/ready").doing("find the server ready").at_once().value().await?;
            if field(&ready, "status") != "ready" {
                let why = format!("{} answered, but not as a Tidewheel server does", client.base());
                return Err(Failure::new(Exit::Unreachable, "cannot find the server ready", why));
            }
            return ctx.out.value(&ready);
        }
        let mut status = client.get("/system/status").doing("read the server's status").at_once().value().await?;
        if let Ok(counts) = client.get("/tasks/counts").at_once().value().await {
            status["tasks"] = counts.get("counts").cloned().unwrap_or(Value::Null);
        }
        status["url"] = json!(connection.url);
        ctx.out.one(&STATUS, &status)
    }
}
