//! `queue stats`

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Ctx;
use crate::cli::common::{as_page, items, watch};
use crate::cli::shapes::QUEUE_STATS;
use crate::client::Client;
use crate::fail::Outcome;

/// Show depth, age and rates of queues
///
/// Depth counts what could run now; scheduled what is delayed or backs off. Rates are means of the last minute. With
/// `--watch` the figures are refreshed until interrupted.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel queue stats --watch\n  tidewheel queue stats pdf -o json --jq .depth")]
pub(crate) struct Stats {
    /// Names of queues; all if absent
    names: Vec<String>,
    /// Keep showing them until interrupted
    #[arg(long, short)]
    watch: bool,
}

impl Stats {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        if self.watch {
            return watch(ctx, &QUEUE_STATS, || read(&client, &self.names)).await;
        }
        let page = read(&client, &self.names).await?;
        match (self.names.as_slice(), items(&page)) {
            ([_], [only]) => ctx.out.brief(&QUEUE_STATS, only),
            _ => ctx.out.list(&QUEUE_STATS, &page),
        }
    }
}

/// Figures of some queues or of all.
pub(crate) async fn read(client: &Client, names: &[String]) -> Outcome<Value> {
    if names.is_empty() {
        return client.get("/queues").doing("list the queues").value().await.map(as_page);
    }
    let mut all = Vec::new();
    for name in names {
        all.push(one(client, name).await?);
    }
    Ok(json!({ "items": all }))
}

async fn one(client: &Client, name: &str) -> Outcome<Value> {
    client.get(format!("{}/stats", super::path(name))).doing(format!("read the figures of queue {name}")).value().await
}
