//! `run cancel`, `terminate`, `suspend`, `resume`, `retry` and `reprioritise`: of runs that are named, or of all that are found.

use clap::Args;
use serde_json::{Value, json};
use tidewheel_proto::rest::Priority;

use super::select::Selection;
use crate::cli::common::{WaitArg, each, ids};
use crate::cli::shapes::RUN;
use crate::cli::{Ctx, op};
use crate::fail::{Failure, Outcome};

/// Cancel runs
///
/// What they have open (tasks, waits, runs that they started) is cancelled first. Runs are named by their ids, or found by what
/// they are: then they are counted first, and the work is a background operation at the server.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run cancel run_01jd8z5r7m0000000000000000 --reason 'wrong input'
  tidewheel run cancel --workflow shop/order --phase waiting --dry-run
  tidewheel run cancel --filter 'attribute.customer:acme after:2h' --yes --wait")]
pub(crate) struct Cancel {
    #[command(flatten)]
    which: Which,
    /// Shown with the run
    #[arg(long)]
    reason: Option<String>,
}

/// End runs at once, without compensation
///
/// For runs that a cancellation does not end.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run terminate run_01jd8z5r7m0000000000000000 --reason 'stuck'
  tidewheel run terminate --workflow shop/order --started-until 2026-11-01T00:00:00Z --yes")]
pub(crate) struct Terminate {
    #[command(flatten)]
    which: Which,
    /// Shown with the run
    #[arg(long)]
    reason: Option<String>,
}

/// Hold runs
///
/// A run that is held begins nothing. What ends meanwhile is kept until it is resumed.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run suspend run_01jd8z5r7m0000000000000000 --reason 'maintenance'
  tidewheel run suspend --workflow shop/order --phase waiting,running --reason 'maintenance' --wait")]
pub(crate) struct Suspend {
    #[command(flatten)]
    which: Which,
    /// Shown with the run
    #[arg(long)]
    reason: Option<String>,
}

/// Let suspended runs go on
///
/// They go on where they were, with what ended meanwhile.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run resume run_01jd8z5r7m0000000000000000
  tidewheel run resume --phase suspended --workflow shop/order --yes --wait")]
pub(crate) struct Resume {
    #[command(flatten)]
    which: Which,
}

/// Let faulted runs go on from what failed
///
/// What was done stays done; the statements that failed or were interrupted are begun again.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run retry run_01jd8z5r7m0000000000000000
  tidewheel run retry --phase faulted --filter 'error:timeout after:2h' --max 500 --yes --wait")]
pub(crate) struct Retry {
    #[command(flatten)]
    which: Which,
}

/// Change the priority of the tasks that runs wait for
///
/// The tasks move within their queues at once. Tasks that the runs begin later have the priority that their workflow gives.
#[derive(Args)]
#[command(visible_alias = "reprioritize")]
#[command(after_help = "Examples:
  tidewheel run reprioritise run_01jd8z5r7m0000000000000000 --priority high
  tidewheel run reprioritise --filter attribute.customer:acme --priority 9 --yes --wait")]
pub(crate) struct Reprioritise {
    #[command(flatten)]
    which: Which,
    /// 0 to 9, 9 first, or low, medium, high
    #[arg(long, value_parser = crate::cli::task::priority)]
    priority: Priority,
}

// Without a doc comment: it would become the help of the verbs.
#[derive(Args)]
struct Which {
    /// Ids of the runs, or `-` to read them from standard input
    #[arg(num_args = 1..)]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// All runs, where no other condition is given
    #[arg(long)]
    all: bool,
    /// Count only, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Change at most so many
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    #[command(flatten)]
    wait: WaitArg,
}

impl Cancel {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "cancel", self.reason.as_deref(), None).await
    }
}

impl Terminate {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "terminate", self.reason.as_deref(), None).await
    }
}

impl Suspend {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "suspend", self.reason.as_deref(), None).await
    }
}

impl Resume {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "resume", None, None).await
    }
}

impl Retry {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "retry", None, None).await
    }
}

impl Reprioritise {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "reprioritise", None, Some(&self.priority)).await
    }
}

impl Which {
    async fn act(&self, ctx: &Ctx, action: &str, reason: Option<&str>, priority: Option<&Priority>) -> Outcome {
        let filter = self.filter()?;
        let client = ctx.client()?;
        let mut body = json!({});
        if let Some(reason) = reason {
            body["reason"] = reason.into();
        }
        if let Some(priority) = priority {
            body["priority"] = json!(priority);
        }
        let Some(filter) = filter else {
            return match priority {
                // It is not an action of a run itself: an operation over those that are named.
                Some(_) => {
                    let named = format!("id:{}", ids(&self.ids)?.join(","));
                    self.bulk(ctx, action, named, body).await
                }
                None => {
                    each(ctx, &RUN, ids(&self.ids)?, |id| {
                        let request = client.post(format!("{}:{action}", super::path(&id)));
                        let request = request.doing(format!("{action} {id}")).json(&body);
                        request.next(format!("tidewheel run get {id}")).value()
                    })
                    .await
                }
            };
        };
        self.bulk(ctx, action, filter, body).await
    }

    async fn bulk(&self, ctx: &Ctx, action: &str, filter: String, mut body: Value) -> Outcome {
        let client = ctx.client()?;
        body["filter"] = filter.into();
        if let Some(max) = self.max {
            body["max"] = max.into();
        }
        let path = format!("/runs:{action}");
        let start = |dry_run: bool| {
            let mut body = body.clone();
            body["dry_run"] = dry_run.into();
            client.post(&path).doing(format!("{action} the runs")).json(&body).value()
        };
        op::counted(ctx, &client, action, self.dry_run, self.wait.get()?, start).await
    }

    /// What finds the runs; `None` = they are named.
    fn filter(&self) -> Outcome<Option<String>> {
        let filter = self.selection.filter();
        let hint = "name runs by their ids, say which with --phase, --workflow, --attribute, --filter, or --all";
        match (self.ids.is_empty(), filter.is_empty(), self.all) {
            (false, true, false) if self.dry_run || self.max.is_some() => {
                Err(Failure::usage("--dry-run and --max go with runs that are found", hint))
            }
            (false, true, false) => Ok(None),
            (false, ..) => Err(Failure::usage("runs are named and searched for at once", hint)),
            (true, true, false) => Err(Failure::usage("no runs are given", hint)),
            // A server refuses a filter that says nothing; this one says that all are meant.
            (true, true, true) => Ok(Some("created:1970-01-01..".to_owned())),
            (true, false, _) => Ok(Some(filter)),
        }
    }
}
