//! `queue purge`

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Ctx;
use crate::cli::common::WaitArg;
use crate::cli::op::{self, show};
use crate::fail::Outcome;

/// Cancel every waiting task of a queue
///
/// Says how many tasks would go and asks first. Running tasks are not touched. The cancelled tasks stay in the records,
/// and can be retried. The work is a background operation.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel queue purge pdf --dry-run\n  tidewheel queue purge pdf --yes --wait")]
pub(crate) struct Purge {
    /// Name of the queue
    name: String,
    /// Count only, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArg,
}

impl Purge {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let stats = client.get(format!("{}/stats", super::path(&self.name))).doing(format!("read queue {}", self.name));
        let stats = stats.value().await?;
        let count = |name: &str| stats.get(name).and_then(Value::as_u64).unwrap_or(0);
        let waiting = count("depth") + count("scheduled");
        let what = format!("{} waiting tasks of queue {} will be cancelled.", crate::text::count(waiting), self.name);
        if self.dry_run {
            ctx.out.note(&what);
            return ctx.out.value(&json!({"queue": self.name, "waiting": waiting, "dry_run": true}));
        }
        ctx.ask.confirm(&what)?;
        let request =
            client.post(format!("{}:purge", super::path(&self.name))).doing(format!("purge queue {}", self.name));
        let operation = request.json(&json!({})).value().await?;
        match op::follow(ctx, &client, operation, self.wait.get()?).await? {
            Some(operation) => show(ctx, &operation),
            None => Ok(()),
        }
    }
}
