//! `tidewheel run`: follow runs of workflows and act on them.

mod act;
mod compare;
mod counts;
mod export;
mod go_back;
mod graph;
mod journal;
mod logs;
mod promise;
mod select;
mod signal;
mod timeline;
mod tree;
mod watch;
mod why;

use clap::{Args, Subcommand};

use self::select::Selection;
use super::Ctx;
use super::common::{self, Wait, WaitArg, field};
use super::shapes::RUN;
use super::workflow::{Start, follow_run};
use crate::fail::Outcome;

/// Follow runs of workflows and act on them
///
/// A run is one execution of a version of a workflow. The server keeps it durably from its start: what it has done is in its
/// journal, and it goes on after every restart.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel run list --phase faulted
  tidewheel run journal run_01jd8z5r7m0000000000000000
  tidewheel run retry run_01jd8z5r7m0000000000000000")]
pub(crate) struct RunCommand {
    #[command(subcommand)]
    verb: RunVerb,
}

#[derive(Subcommand)]
enum RunVerb {
    Start(Start),
    List(List),
    Get(Get),
    Counts(counts::Counts),
    Watch(watch::Watch),
    Why(why::Why),
    Logs(logs::Logs),
    Journal(journal::Journal),
    Timeline(timeline::Timeline),
    Graph(graph::Graph),
    Tree(tree::Tree),
    Compare(compare::Compare),
    Cancel(act::Cancel),
    Terminate(act::Terminate),
    Suspend(act::Suspend),
    Resume(act::Resume),
    Retry(act::Retry),
    Reprioritise(act::Reprioritise),
    Move(act::Move),
    Accept(act::Accept),
    Reset(go_back::Reset),
    Fork(go_back::Fork),
    Signal(signal::Signal),
    Promise(promise::Promise),
    Export(export::Export),
}

/// List runs, newest first
///
/// Without a condition the newest runs of all workflows; all conditions that are given hold together. A list shows each run as it
/// was last written whole: `run get` shows it as it is now.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:
  tidewheel run list --phase faulted --workflow shop/order
  tidewheel run list --filter 'error:timeout duration:>1h' --started-from 2d --all -o csv
  tidewheel run list --attribute customer=acme
  tidewheel run list --correlation-id order-7 --watch")]
struct List {
    #[command(flatten)]
    selection: Selection,
    /// Sort what is shown by a field; `-field` for the largest first
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Number of items
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Go on where an earlier page ended
    #[arg(long, value_name = "CURSOR", conflicts_with = "all")]
    cursor: Option<String>,
    /// Everything, page by page
    #[arg(long)]
    all: bool,
    /// Keep showing changes until interrupted
    #[arg(long, conflicts_with_all = ["cursor", "all"])]
    watch: bool,
}

/// Show a run with its input and output
///
/// Its phase, what it waits for, its output or the error that ended it. With `--wait` it first waits for the run's end.
#[derive(Args)]
#[command(visible_alias = "show")]
#[command(after_help = "Examples:
  tidewheel run get run_01jd8z5r7m0000000000000000
  tidewheel run get run_01jd8z5r7m0000000000000000 -o json --jq .output")]
struct Get {
    /// Id of the run
    id: String,
    #[command(flatten)]
    wait: WaitArg,
}

impl RunCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            RunVerb::Start(verb) => verb.run(ctx).await,
            RunVerb::List(verb) => verb.run(ctx).await,
            RunVerb::Get(verb) => verb.run(ctx).await,
            RunVerb::Watch(verb) => verb.run(ctx).await,
            RunVerb::Compare(verb) => verb.run(ctx).await,
            RunVerb::Timeline(verb) => verb.run(ctx).await,
            RunVerb::Graph(verb) => verb.run(ctx).await,
            RunVerb::Logs(verb) => verb.run(ctx).await,
            RunVerb::Why(verb) => verb.run(ctx).await,
            RunVerb::Counts(verb) => verb.run(ctx).await,
            RunVerb::Journal(verb) => verb.run(ctx).await,
            RunVerb::Tree(verb) => verb.run(ctx).await,
            RunVerb::Cancel(verb) => verb.run(ctx).await,
            RunVerb::Terminate(verb) => verb.run(ctx).await,
            RunVerb::Suspend(verb) => verb.run(ctx).await,
            RunVerb::Resume(verb) => verb.run(ctx).await,
            RunVerb::Retry(verb) => verb.run(ctx).await,
            RunVerb::Reprioritise(verb) => verb.run(ctx).await,
            RunVerb::Move(verb) => verb.run(ctx).await,
            RunVerb::Accept(verb) => verb.run(ctx).await,
            RunVerb::Reset(verb) => verb.run(ctx).await,
            RunVerb::Fork(verb) => verb.run(ctx).await,
            RunVerb::Signal(verb) => verb.run(ctx).await,
            RunVerb::Promise(verb) => verb.run(ctx).await,
            RunVerb::Export(verb) => verb.run(ctx).await,
        }
    }
}

impl List {
    async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let List { selection, sort, limit, cursor, all, watch } = self;
        let filter = Some(selection.filter()).filter(|filter| !filter.is_empty());
        let list = common::ListArgs { filter, sort, limit, cursor, all, watch };
        let make = || client.get("/runs").doing("list the runs");
        common::list(ctx, &RUN, &list, make).await
    }
}

impl Get {
    async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let wait = self.wait.get()?;
        let mut run = subject(&self.id).get(&client, "", "read run").value().await?;
        if wait != Wait::No {
            run = follow_run(ctx, &client, run, wait).await?;
        }
        ctx.out.one(&RUN, &run)?;
        if let Some(status) = run.get("status").filter(|_| ctx.out.is_for_people()) {
            ctx.out.note(&format!("it says of itself: {status}"));
        }
        let waits = run.get("waiting").and_then(serde_json::Value::as_array);
        for wait in waits.into_iter().flatten().filter(|_| ctx.out.is_for_people()) {
            let what = field(wait, "for");
            let which =
                [field(wait, "task"), field(wait, "run"), field(wait, "until")].into_iter().find(|t| !t.is_empty());
            let which = which.map(|which| format!(" ({which})")).unwrap_or_default();
            // What the whole run waits for is of no statement, such as its own time limit.
            let who = Some(field(wait, "statement")).filter(|statement| !statement.is_empty()).unwrap_or("the run");
            ctx.out.note(&format!("{who} waits for {what}{which}"));
        }
        Ok(())
    }
}

/// A run as the verbs that tasks and runs share know it.
fn subject(id: &str) -> super::look::Subject<'_> {
    super::look::Subject { noun: "run", id }
}

/// The path of a run.
fn path(id: &str) -> String {
    format!("/runs/{}", crate::client::segment(id))
}
