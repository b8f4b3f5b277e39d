//! `queue limits`, and the settings that `queue create` takes too.

use clap::Args;
use serde_json::{Map, Value};

use crate::cli::Ctx;
use crate::cli::common::put;
use crate::cli::shapes::QUEUE;
use crate::fail::Outcome;

/// Show or change the limits of a queue
///
/// Changes the settings that are given and leaves the others; without any it shows those in force. Limits hold from the
/// moment the command returns; 0 takes a limit away.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel queue limits pdf
  tidewheel queue limits pdf --concurrency 25 --key-concurrency 1")]
pub(crate) struct Limits {
    /// Name of the queue
    name: String,
    #[command(flatten)]
    settings: SettingArgs,
}

/// Settings of a queue as flags.
#[derive(Args)]
pub(crate) struct SettingArgs {
    /// Attempts that run at once; 0 = no limit
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Attempts at once per concurrency key; 0 = no limit
    #[arg(long, value_name = "N")]
    key_concurrency: Option<u32>,
    /// Grants per time: `100/s`, `30/m`
    #[arg(long)]
    rate: Option<String>,
    /// Grants that may come together within the rate
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
    /// Choice of worker: least_loaded, round_robin, weighted, consistent_hash
    #[arg(long)]
    policy: Option<String>,
    /// Tasks that may wait; a submit above is refused
    #[arg(long, value_name = "N")]
    max_depth: Option<u64>,
    /// From so many waiting tasks on, new ones are taken only as fast as old ones end; 0 = 80 % of --max-depth
    #[arg(long, value_name = "N")]
    throttle_depth: Option<u64>,
    /// More ready tasks than this are an alert; 0 = never
    #[arg(long, value_name = "N")]
    alert_depth: Option<u64>,
    /// Waiting so long raises a task by one priority class
    #[arg(long, value_name = "TIME")]
    aging: Option<String>,
    /// With consistent_hash: how long a task waits for the worker of its affinity key; 0 = not at all
    #[arg(long, value_name = "TIME")]
    affinity_wait: Option<String>,
    /// Tasks handed over together; below 2 = one by one
    #[arg(long, value_name = "N")]
    batch_size: Option<u32>,
    /// A smaller batch is handed over after so long
    #[arg(long, value_name = "TIME")]
    batch_wait: Option<String>,
    /// Time to live of tasks that bring none
    #[arg(long, value_name = "TIME")]
    ttl: Option<String>,
    /// Longest run of tasks that name none
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Attempts of tasks that name none
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Wait before the second attempt
    #[arg(long, value_name = "TIME")]
    retry_delay: Option<String>,
    /// Whether tasks out of attempts go to the dead-letter queue
    #[arg(long, value_name = "BOOL")]
    dead_letter: Option<bool>,
}

impl SettingArgs {
    pub(crate) fn body(&self) -> Value {
        let mut body = Map::new();
        put(&mut body, "concurrency", &self.concurrency);
        put(&mut body, "key_concurrency", &self.key_concurrency);
        put(&mut body, "rate", &self.rate);
        put(&mut body, "burst", &self.burst);
        put(&mut body, "policy", &self.policy);
        put(&mut body, "max_depth", &self.max_depth);
        put(&mut body, "throttle_depth", &self.throttle_depth);
        put(&mut body, "alert_depth", &self.alert_depth);
        put(&mut body, "aging", &self.aging);
        put(&mut body, "affinity_wait", &self.affinity_wait);
        put(&mut body, "batch_size", &self.batch_size);
        put(&mut body, "batch_wait", &self.batch_wait);
        put(&mut body, "ttl", &self.ttl);
        put(&mut body, "dead_letter", &self.dead_letter);
        let mut timeout = Map::new();
        put(&mut timeout, "run", &self.timeout);
        let mut retry = Map::new();
        put(&mut retry, "max_attempts", &self.max_attempts);
        put(&mut retry, "delay", &self.retry_delay);
        for (name, part) in [("timeout", timeout), ("retry", retry)] {
            if !part.is_empty() {
                body.insert(name.to_owned(), Value::Object(part));
            }
        }
        Value::Object(body)
    }
}

impl Limits {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let body = self.settings.body();
        if body.as_object().is_none_or(Map::is_empty) {
            let request = client.get(super::path(&self.name)).doing(format!("read queue {}", self.name));
            return ctx.out.one(&QUEUE, &request.value().await?);
        }
        let request = client.patch(super::path(&self.name)).doing(format!("change queue {}", self.name));
        ctx.out.brief(&QUEUE, &request.json(&body).value().await?)
    }
}
