//! `tidewheel top`

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::Ctx;
use super::common::{Screen, as_page, field, items};
use super::shapes::{QUEUE_STATS, TASK, WORKER};
use crate::client::Client;
use crate::fail::{Failure, Outcome};
use crate::text::count;

/// Running tasks shown.
const TASKS: usize = 8;

/// Watch queues, workers and running tasks
///
/// A screen that is refreshed until interrupted: rates, depths, workers and the tasks that run now. In a pipe it prints
/// one JSON document per refresh.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel top\n  tidewheel top --every 5s")]
pub(crate) struct Top {
    /// Time between two refreshes
    #[arg(long, value_name = "TIME", default_value = "1s")]
    every: String,
    /// End after so many refreshes
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl Top {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let every = crate::text::parse_wait(&self.every).map_err(|why| Failure::usage("cannot read --every", why))?;
        let client = ctx.client()?;
        let mut screen = Screen::default();
        for round in 1u64.. {
            let view = read(&client).await?;
            if ctx.out.is_for_people() && self.count != Some(1) {
                screen.show(ctx, &render(ctx, &client, &view))?;
            } else if ctx.out.is_table() {
                ctx.out.write(&render(ctx, &client, &view))?;
            } else {
                ctx.out.value(&view)?;
            }
            if self.count == Some(round) {
                break;
            }
            tokio::time::sleep(every.max(Duration::from_millis(100))).await;
        }
        Ok(())
    }
}

async fn read(client: &Client) -> Outcome<Value> {
    let what = "read the server's figures";
    let running = client.get("/tasks").query("filter", "state:running").query("limit", TASKS).doing(what);
    let [status, queues, workers] = ["/system/status", "/queues", "/workers"].map(|path| client.get(path).doing(what));
    let asked = [status, queues, workers, running].map(|request| request.value());
    let answers = futures::future::try_join_all(asked).await?;
    let [status, queues, workers, tasks]: [Value; 4] = answers.try_into().expect("one answer to each request");
    Ok(json!({
        "status": status,
        "queues": items(&as_page(queues)),
        "workers": items(&as_page(workers)),
        "running": items(&as_page(tasks)),
    }))
}

fn render(ctx: &Ctx, client: &Client, view: &Value) -> String {
    let list = |name: &str| view.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let sum = |name: &str, part: &str| list(name).iter().filter_map(|v| v.get(part)?.as_f64()).sum::<f64>();
    let status = &view["status"];
    let head = format!(
        "{}  {} {}  in {:.1}/s  out {:.1}/s  waiting {}  running {}  permits {}/{}\n\n",
        client.base(),
        field(status, "state"),
        field(status, "version"),
        sum("queues", "in_per_s"),
        sum("queues", "out_per_s"),
        count(sum("queues", "depth") as u64),
        count(sum("queues", "running") as u64),
        count(sum("workers", "used") as u64),
        count(sum("workers", "permits") as u64),
    );
    let mut queues = list("queues").to_vec();
    // The busiest first: what one looks for on such a screen.
    queues.sort_by(|a, b| b["depth"].as_u64().cmp(&a["depth"].as_u64()));
    let parts = [
        ctx.out.list_text(&QUEUE_STATS, &queues),
        ctx.out.list_text(&WORKER, list("workers")),
        ctx.out.list_text(&TASK, list("running")),
    ];
    head + &parts.join("\n")
}
