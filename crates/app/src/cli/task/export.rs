//! `task export`

use clap::Args;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::io::Write;

use crate::cli::Ctx;
use crate::cli::common::{as_page, field, ids, items};
use crate::client::Client;
use crate::fail::{Exit, Failure, Outcome, While};
use crate::output::compact;

/// Tasks read at once.
const PARALLEL: usize = 16;
/// Ids of one page.
const PAGE: usize = 500;

/// Write tasks with everything known of them
///
/// One JSON document per line: the task with input and result, its attempts and artefacts, and with `--logs` its log
/// lines. For archives, bug reports and tests. Takes ids or a filter.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel task export task_01jd8z5r7m0000000000000000 --logs
  tidewheel task export --filter 'state:failed after:1d' --to failed.jsonl")]
pub(crate) struct Export {
    /// Ids of the tasks, or `-` to read them from standard input
    #[arg(required_unless_present = "filter", conflicts_with = "filter")]
    ids: Vec<String>,
    /// Every task that a filter finds
    #[arg(long, short, value_name = "FILTER")]
    filter: Option<String>,
    /// With the log lines
    #[arg(long)]
    logs: bool,
    /// Write to a file instead of standard output
    #[arg(long, value_name = "FILE")]
    to: Option<String>,
}

impl Export {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let mut sink = Sink::open(ctx, self.to.as_deref())?;
        let spinner = crate::progress::spinner(&ctx.out, "exporting");
        let mut written = 0u64;
        let mut cursor = None;
        loop {
            let (batch, next) = match &self.filter {
                None => (ids(&self.ids)?, None),
                Some(filter) => page(&client, filter, cursor).await?,
            };
            let mut tasks = stream::iter(batch).map(|id| whole(&client, id, self.logs)).buffered(PARALLEL);
            while let Some(task) = tasks.next().await {
                sink.put(&task?)?;
                written += 1;
                spinner.set_message(format!("exporting {written}"));
            }
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        spinner.finish_and_clear();
        sink.finish()?;
        ctx.out.note(&format!("{} exported", crate::text::tasks(written)));
        Ok(())
    }
}

async fn page(client: &Client, filter: &str, cursor: Option<String>) -> Outcome<(Vec<String>, Option<String>)> {
    let request = client.get("/tasks").doing("list the tasks").query("filter", filter).query("limit", PAGE);
    let page = request.maybe("cursor", cursor).value().await?;
    let ids = items(&page).iter().map(|task| field(task, "id").to_owned()).collect();
    Ok((ids, page.get("next_cursor").and_then(Value::as_str).map(str::to_owned)))
}

async fn whole(client: &Client, id: String, logs: bool) -> Outcome<Value> {
    let path = super::path(&id);
    let what = format!("read task {id}");
    let task = client.get(&path).doing(what.clone()).next("tidewheel task list").value().await?;
    let attempts = client.get(format!("{path}/attempts")).doing(what.clone()).value().await?;
    let artifacts = client.get(format!("{path}/artifacts")).doing(what.clone()).value().await?;
    let mut out = json!({"task": task, "attempts": items(&as_page(attempts)), "artifacts": items(&as_page(artifacts))});
    if logs {
        let mut lines = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let request = client.get(format!("{path}/logs")).doing(what.clone()).maybe("after", after);
            let page = as_page(request.value().await?);
            lines.extend_from_slice(items(&page));
            after = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if after.is_none() {
                break;
            }
        }
        out["logs"] = Value::Array(lines);
    }
    Ok(out)
}

/// Where the documents go. A file appears under its name only when it is complete.
enum Sink<'a> {
    Out(&'a Ctx),
    File { file: std::io::BufWriter<std::fs::File>, partial: String, name: String },
}

impl<'a> Sink<'a> {
    fn open(ctx: &'a Ctx, to: Option<&str>) -> Outcome<Sink<'a>> {
        let Some(name) = to else { return Ok(Sink::Out(ctx)) };
        let partial = format!("{name}.partial");
        let file = std::fs::File::create(&partial).doing(Exit::Usage, || format!("cannot write {partial}"))?;
        Ok(Sink::File { file: std::io::BufWriter::new(file), partial, name: name.to_owned() })
    }

    fn put(&mut self, task: &Value) -> Outcome {
        match self {
            Sink::Out(ctx) => ctx.out.text_or(|| compact(task), task),
            Sink::File { file, partial, .. } => {
                writeln!(file, "{}", compact(task)).doing(Exit::Failed, || format!("cannot write {partial}"))
            }
        }
    }

    fn finish(self) -> Outcome {
        let Sink::File { mut file, partial, name } = self else { return Ok(()) };
        let done = file.flush().and_then(|()| std::fs::rename(&partial, &name));
        done.map_err(|error| Failure::new(Exit::Failed, format!("cannot write {name}"), error.to_string()))
    }
}
