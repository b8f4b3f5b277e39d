//! `run cancel`, `terminate`, `suspend`, `resume`, `retry`, `reprioritise`, `move` and `accept`: of runs that are named, or of all that are found.

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

/// Move runs to another version of their workflow
///
/// A run stays with the version that it began with, unless its versionPolicy says otherwise or it is moved. The run of a document
/// moves if every statement that is open is in the other version, too. A workflow in Python goes on with the other code at once;
/// with `--check` only if an agent has replayed its history on it and found nothing that differs. A run that holds because a replay
/// differed goes on when it is moved: `--to previous` takes it back to the code that it came from.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run move run_01jd8z5r7m0000000000000000 --to 1.3.0
  tidewheel run move run_01jd8z5r7m0000000000000000 --to previous
  tidewheel run move --workflow shop/order --of-version 1.2.0 --to latest --check --yes --wait")]
pub(crate) struct Move {
    #[command(flatten)]
    which: Which,
    /// A version, `latest`, `previous` (the one before the last move), or the hash of a document (sha256:...)
    #[arg(long, value_name = "VERSION")]
    to: String,
    /// Replay the history of a workflow in Python on the new code first; move it only if it fits
    #[arg(long)]
    check: bool,
}

/// Accept that a program differs from its history
///
/// For runs that are suspended with `replay-mismatch`. Their histories so far are compared no more: what is in one stays, and is given
/// to the code wherever it asks for it; what the code asks for instead is begun. The journal keeps who accepted what.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run accept run_01jd8z5r7m0000000000000000
  tidewheel run why run_01jd8z5r7m0000000000000000")]
pub(crate) struct Accept {
    #[command(flatten)]
    which: Which,
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
        self.which.act(ctx, "cancel", reason(self.reason)).await
    }
}

impl Terminate {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "terminate", reason(self.reason)).await
    }
}

impl Suspend {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "suspend", reason(self.reason)).await
    }
}

impl Resume {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "resume", json!({})).await
    }
}

impl Retry {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "retry", json!({})).await
    }
}

impl Reprioritise {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "reprioritise", json!({ "priority": self.priority })).await
    }
}

impl Move {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let mut body = json!({ "to": self.to });
        if self.check {
            body["check"] = true.into();
        }
        self.which.act(ctx, "move", body).await
    }
}

impl Accept {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.act(ctx, "accept", json!({})).await
    }
}

fn reason(reason: Option<String>) -> Value {
    reason.map_or_else(|| json!({}), |reason| json!({ "reason": reason }))
}

impl Which {
    async fn act(&self, ctx: &Ctx, action: &str, body: Value) -> Outcome {
        let Some(filter) = self.filter()? else {
            if action == "reprioritise" {
                // It is not an action of a run itself: an operation over those that are named.
                let named = format!("id:{}", ids(&self.ids)?.join(","));
                return self.bulk(ctx, action, named, body).await;
            }
            let client = ctx.client()?;
            return each(ctx, &RUN, ids(&self.ids)?, |id| {
                let request = client.post(format!("{}:{action}", super::path(&id)));
                let request = request.doing(format!("{action} {id}")).json(&body);
                request.next(format!("tidewheel run get {id}")).value()
            })
            .await;
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
