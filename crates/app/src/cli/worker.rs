//! `tidewheel worker`: whatever takes tasks; agents are workers.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Ctx;
use super::common::{self, ShortArgs, as_page, field, items, pair};
use super::shapes::{LOG, WORKER};
use crate::client::{Client, segment};
use crate::fail::Outcome;

/// Manage workers: drain, resume, label
///
/// A worker is anything that takes tasks over the worker protocol: an agent of ours, or a program of yours. Workers
/// connect by themselves; here they are looked at and steered.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:\n  tidewheel worker list --watch\n  tidewheel worker drain agent-7")]
pub(crate) struct WorkerCommand {
    #[command(subcommand)]
    verb: WorkerVerb,
}

#[derive(Subcommand)]
enum WorkerVerb {
    List(List),
    Get(Get),
    Drain(Drain),
    Resume(Resume),
    Label(Label),
    Logs(Logs),
}

/// List workers
///
/// Those that are connected or just were: state, queues, permits in use, load, and when they were last heard.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:
  tidewheel worker list --watch
  tidewheel worker list --filter 'state:online label.gpu:true' -o wide")]
struct List {
    /// Which ones: `state:online`, `label.zone:a`, `capability:gpu`
    #[arg(long, short, value_name = "FILTER")]
    filter: Option<String>,
    /// Only those of this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    #[command(flatten)]
    list: ShortArgs,
}

/// Show one worker
///
/// Labels and discovered capabilities, packages in its cache, which walls its sandbox has up, clock offset.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel worker get agent-7
  tidewheel worker get agent-7 -o json --jq .enforced")]
struct Get {
    /// Id or name of the worker
    worker: String,
}

/// Give workers nothing new
///
/// What runs on them goes on to its end. Use it before maintenance; `tidewheel worker resume` undoes it.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel worker drain agent-7
  tidewheel worker list --filter label.rack:r1 -o name | xargs tidewheel worker drain")]
struct Drain {
    /// Ids or names of workers
    #[arg(required = true, num_args = 1..)]
    workers: Vec<String>,
}

/// Give drained workers tasks again
///
/// They take tasks from the moment the command returns.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel worker resume agent-7\n  tidewheel worker resume agent-7 agent-8")]
struct Resume {
    /// Ids or names of workers
    #[arg(required = true, num_args = 1..)]
    workers: Vec<String>,
}

/// Set labels or the number of permits of a worker
///
/// The labels that an operator set are replaced by those given; what the worker discovered by itself stays. Tasks ask
/// for labels with `requires`. Permits hold at once and after a restart of the worker; they can be no more than the worker
/// offers (`tidewheel agent --capacity`). `--permits 0` gives it nothing new.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel worker label agent-7 zone=a gpu=true
  tidewheel worker label agent-7 --permits 2")]
struct Label {
    /// Id or name of the worker
    worker: String,
    /// Labels, all of them
    #[arg(value_name = "NAME=VALUE", value_parser = pair, required_unless_present_any = ["permits", "clear"])]
    labels: Vec<(String, String)>,
    /// Attempts it runs at once, at most what it offers
    #[arg(long, value_name = "N")]
    permits: Option<u32>,
    /// Take all labels away that an operator set
    #[arg(long, conflicts_with = "labels")]
    clear: bool,
}

/// Show what the latest tasks of a worker printed
///
/// The log lines of the tasks that ran on it last, oldest line first.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel worker logs agent-7
  tidewheel worker logs agent-7 --tasks 50 --level error")]
struct Logs {
    /// Id or name of the worker
    worker: String,
    /// Number of tasks to look at
    #[arg(long, value_name = "N", default_value_t = 10)]
    tasks: usize,
    /// At least this severe: debug, info, warning, error
    #[arg(long)]
    level: Option<String>,
}

fn path(worker: &str) -> String {
    format!("/workers/{}", segment(worker))
}

impl WorkerCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        match self.verb {
            WorkerVerb::List(verb) => {
                let group = verb.group.as_deref().map(|group| format!("group:{}", json!(group)));
                let terms: Vec<String> = verb.filter.clone().into_iter().chain(group).collect();
                let filter = (!terms.is_empty()).then(|| terms.join(" "));
                let make = || client.get("/workers").doing("list the workers").maybe("filter", filter.as_deref());
                common::short_list(ctx, &WORKER, &verb.list, make).await
            }
            WorkerVerb::Get(verb) => ctx.out.one(&WORKER, &read(&client, &verb.worker).await?),
            WorkerVerb::Drain(verb) => set(ctx, &client, verb.workers, "drain").await,
            WorkerVerb::Resume(verb) => set(ctx, &client, verb.workers, "resume").await,
            WorkerVerb::Label(verb) => verb.run(ctx, &client).await,
            WorkerVerb::Logs(verb) => verb.run(ctx, &client).await,
        }
    }
}

async fn read(client: &Client, worker: &str) -> Outcome<Value> {
    let request = client.get(path(worker)).doing(format!("read worker {worker}"));
    request.next("tidewheel worker list").value().await
}

async fn set(ctx: &Ctx, client: &Client, workers: Vec<String>, action: &'static str) -> Outcome {
    common::each(ctx, &WORKER, workers, |worker| {
        let request = client.post(format!("{}:{action}", path(&worker))).doing(format!("{action} worker {worker}"));
        request.json(&json!({})).next("tidewheel worker list").value()
    })
    .await
}

impl Label {
    async fn run(self, ctx: &Ctx, client: &Client) -> Outcome {
        let mut body = json!({});
        if let Some(permits) = self.permits {
            body["permits"] = json!(permits);
        }
        if self.clear || !self.labels.is_empty() {
            body["labels"] = json!(self.labels.into_iter().collect::<BTreeMap<_, _>>());
        }
        let request = client.patch(path(&self.worker)).doing(format!("change worker {}", self.worker));
        ctx.out.brief(&WORKER, &request.json(&body).next("tidewheel worker list").value().await?)
    }
}

impl Logs {
    async fn run(self, ctx: &Ctx, client: &Client) -> Outcome {
        let worker = read(client, &self.worker).await?;
        let filter = format!("worker:\"{}\"", field(&worker, "name").replace('"', ""));
        let tasks =
            client.get("/tasks").doing("list the worker's tasks").query("filter", filter).query("limit", self.tasks);
        let tasks = tasks.value().await?;
        let mut lines = Vec::new();
        for task in items(&tasks) {
            let id = field(task, "id");
            let request =
                client.get(format!("/tasks/{id}/logs")).doing(format!("read the logs of {id}")).query("tail", 1_000);
            let page = as_page(request.maybe("level", self.level.as_deref()).value().await?);
            lines.extend_from_slice(items(&page));
        }
        lines.sort_by(|a, b| field(a, "at").cmp(field(b, "at")));
        ctx.out.list(&LOG, &json!({ "items": lines }))
    }
}
