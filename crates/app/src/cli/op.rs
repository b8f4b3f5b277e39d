//! `tidewheel op`: background operations, and how bulk verbs start and follow them.

use std::future::Future;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Ctx;
use super::common::{self, ShortArgs, Wait, field};
use super::shapes::{OPERATION, OUTCOME, RUN_OUTCOME};
use crate::client::{Client, segment};
use crate::fail::{Exit, Failure, Outcome};

/// Pause between two looks at a running operation.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Follow background operations
///
/// Actions over many tasks or runs (bulk cancel, retry, redrive, reprioritise, move, purge) run at the server and survive restarts.
/// Each has a record with its counts and the first failures.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:\n  tidewheel op list\n  tidewheel op watch op_01jd8z5r7m0000000000000000")]
pub(crate) struct OpCommand {
    #[command(subcommand)]
    verb: OpVerb,
}

#[derive(Subcommand)]
enum OpVerb {
    List(List),
    Get(Get),
    Items(Items),
    Watch(Watch),
    Cancel(Cancel),
}

/// List operations, newest first
///
/// Running ones and the last hundred that ended, with their counts.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:\n  tidewheel op list\n  tidewheel op list --watch")]
struct List {
    #[command(flatten)]
    list: ShortArgs,
}

/// Show an operation
///
/// Counts, filter and the first tasks or runs that could not be changed, with the reason.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel op get op_01jd8z5r7m0000000000000000
  tidewheel op get op_01jd8z5r7m0000000000000000 -o json --jq .done")]
struct Get {
    /// Id of the operation
    id: String,
}

/// List what became of each task or run
///
/// The newest first, with the reason where one could not be changed. A dry run lists what would be changed.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel op items op_01jd8z5r7m0000000000000000
  tidewheel op items op_01jd8z5r7m0000000000000000 --outcome failed --all -o jsonl")]
struct Items {
    /// Id of the operation
    id: String,
    /// Only those that are done, failed or would_change
    #[arg(long, value_parser = ["done", "failed", "would_change"])]
    outcome: Option<String>,
    /// How many to show
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Every one of them, page by page
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

/// Follow an operation to its end
///
/// Shows the counts while it runs. Exit 0 when all were changed, 1 when some could not be.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel op watch op_01jd8z5r7m0000000000000000
  tidewheel op watch op_01jd8z5r7m0000000000000000 --quiet -o json")]
struct Watch {
    /// Id of the operation
    id: String,
}

/// Stop an operation
///
/// It ends before its next page of 256 tasks or 64 runs; what it changed so far stays changed.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel op cancel op_01jd8z5r7m0000000000000000
  tidewheel op list -o name | head -1 | xargs tidewheel op cancel")]
struct Cancel {
    /// Ids of the operations
    #[arg(required = true, num_args = 1..)]
    ids: Vec<String>,
}

impl OpCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        match self.verb {
            OpVerb::List(verb) => {
                let make = || client.get("/operations").doing("list the operations");
                common::short_list(ctx, &OPERATION, &verb.list, make).await
            }
            OpVerb::Get(verb) => ctx.out.one(&OPERATION, &read(&client, &verb.id).await?),
            OpVerb::Items(verb) => verb.run(ctx, &client).await,
            OpVerb::Watch(verb) => {
                let operation = read(&client, &verb.id).await?;
                let end = follow(ctx, &client, operation, Wait::Ever).await?;
                end.map_or(Ok(()), |operation| show(ctx, &operation))
            }
            OpVerb::Cancel(verb) => {
                common::each(ctx, &OPERATION, verb.ids, |id| {
                    let path = format!("/operations/{}:cancel", segment(&id));
                    client.post(path).doing(format!("cancel {id}")).json(&serde_json::json!({})).value()
                })
                .await
            }
        }
    }
}

impl Items {
    async fn run(self, ctx: &Ctx, client: &Client) -> Outcome {
        let path = format!("/operations/{}/items", segment(&self.id));
        let mut left = if self.all { usize::MAX } else { self.limit };
        let mut items: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        while left > 0 {
            let request =
                client.get(&path).doing(format!("list the outcomes of {}", self.id)).next("tidewheel op list");
            let request = request.maybe("outcome", self.outcome.as_ref()).maybe("cursor", cursor.as_ref());
            let page = request.query("limit", left.min(1_000)).value().await?;
            let found = common::items(&page);
            left = left.saturating_sub(found.len());
            items.extend(found.iter().cloned());
            cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        let of_runs = items.first().is_some_and(|item| item.get("run").is_some());
        let shape = if of_runs { &RUN_OUTCOME } else { &OUTCOME };
        ctx.out.list(shape, &serde_json::json!({ "items": items }))?;
        if cursor.is_some() {
            ctx.out.note("there are more: --all shows them");
        }
        Ok(())
    }
}

async fn read(client: &Client, id: &str) -> Outcome<Value> {
    let request = client.get(format!("/operations/{}", segment(id))).doing(format!("read operation {id}"));
    request.next("tidewheel op list").value().await
}

/// Prints an operation that has ended; failures of single tasks make it a failure.
pub(crate) fn show(ctx: &Ctx, operation: &Value) -> Outcome {
    ctx.out.brief(&OPERATION, operation)?;
    let failed = number(operation, "failed");
    if failed == 0 {
        return Ok(());
    }
    let failures = operation.get("failures").and_then(Value::as_array);
    for failure in failures.into_iter().flatten() {
        let id = [field(failure, "task"), field(failure, "run")].concat();
        ctx.out.note(&format!("{id}: {}", crate::text::one_line(field(failure, "detail"))));
    }
    let (verb, id) = (if failed == 1 { "was" } else { "were" }, field(operation, "id"));
    let what = format!("{} {verb} not changed", crate::text::many(failed, noun(operation)));
    Err(Failure::new(Exit::Failed, what, "the first of them are listed above")
        .next(format!("tidewheel op items {id} --outcome failed")))
}

fn number(operation: &Value, name: &str) -> u64 {
    operation.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// What an operation acts on.
fn noun(operation: &Value) -> &'static str {
    if field(operation, "resource") == "runs" { "run" } else { "task" }
}

/// Waits for an operation's end with a progress line. Without a wait it is printed as it is, and `None` comes back.
pub(crate) async fn follow(ctx: &Ctx, client: &Client, operation: Value, wait: Wait) -> Outcome<Option<Value>> {
    follow_of(ctx, client, operation, wait, None).await
}

/// The same with a bar, where it is known how many there are.
async fn follow_of(
    ctx: &Ctx,
    client: &Client,
    mut operation: Value,
    wait: Wait,
    total: Option<u64>,
) -> Outcome<Option<Value>> {
    let id = field(&operation, "id").to_owned();
    if wait == Wait::No {
        ctx.out.brief(&OPERATION, &operation)?;
        if ctx.out.is_for_people() {
            ctx.out.note(&format!("it runs in the background: tidewheel op watch {id}"));
        }
        return Ok(None);
    }
    let action = field(&operation, "action").to_owned();
    let progress = match total {
        Some(total) => crate::progress::bar(&ctx.out, total, &action),
        None => crate::progress::spinner(&ctx.out, &action),
    };
    while field(&operation, "state") == "running" {
        if wait.is_over() {
            let why = "it goes on at the server";
            return Err(Failure::new(Exit::Unreachable, format!("the wait for {id} ran out"), why)
                .next(format!("tidewheel op watch {id}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        operation = read(client, &id).await?;
        if total.is_some() {
            progress.set_position(number(&operation, "done"));
        } else {
            let count = |name: &str| crate::text::count(number(&operation, name));
            let changed = if number(&operation, "would_change") > 0 { "would_change" } else { "done" };
            progress.set_message(format!("{action} {} of {} seen", count(changed), count("seen")));
        }
    }
    progress.finish_and_clear();
    Ok(Some(operation))
}

/// Counts by a dry run, asks with the count, then starts the operation and follows it as wished.
pub(crate) async fn counted<R>(
    ctx: &Ctx,
    client: &Client,
    verb: &str,
    dry_run: bool,
    wait: Wait,
    start: impl Fn(bool) -> R,
) -> Outcome
where
    R: Future<Output = Outcome<Value>>,
{
    // With --yes nobody reads the count: the first pass is saved.
    let mut total = None;
    if dry_run || !ctx.ask.yes {
        let operation = start(true).await?;
        let Some(counted) = follow(ctx, client, operation, Wait::Ever).await? else { return Ok(()) };
        let (count, noun) = (number(&counted, "would_change"), noun(&counted));
        if dry_run {
            // The operation that counted is done; what it counted is not, and a row that says `done` would be misread.
            let said = format!("{} would be {}", crate::text::many(count, noun), past(verb));
            if ctx.out.is_table() {
                return ctx.out.write_line(&said);
            }
            ctx.out.note(&said);
            return ctx.out.brief(&OPERATION, &counted);
        }
        if count == 0 {
            ctx.out.note(&format!("no {noun} matches"));
            return Ok(());
        }
        ctx.ask.confirm(&format!("{} will be {}.", crate::text::many(count, noun), past(verb)))?;
        total = Some(count);
    }
    let operation = start(false).await?;
    match follow_of(ctx, client, operation, wait, total).await? {
        Some(operation) => show(ctx, &operation),
        None => Ok(()),
    }
}

fn past(verb: &str) -> &str {
    match verb {
        "cancel" => "cancelled",
        "terminate" => "terminated",
        "suspend" => "suspended",
        "resume" => "resumed",
        "retry" => "retried",
        "redrive" | "run again" => "run again",
        "reprioritise" => "given the new priority",
        "move" => "moved",
        "accept" => "let go on with what differs",
        other => other,
    }
}
