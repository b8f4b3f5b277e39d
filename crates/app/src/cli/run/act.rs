//! `run cancel`, `terminate`, `suspend`, `resume` and `retry`.

use clap::Args;
use serde_json::json;

use crate::cli::Ctx;
use crate::cli::common::{each, ids};
use crate::cli::shapes::RUN;
use crate::fail::Outcome;

/// Cancel runs
///
/// What they have open (tasks, waits, runs that they started) is cancelled first.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run cancel run_01jd8z5r7m0000000000000000 --reason 'wrong input'
  tidewheel run list --workflow shop/order --phase waiting -o name | tidewheel run cancel -")]
pub(crate) struct Cancel {
    /// Ids of the runs, or `-` to read them from standard input
    #[arg(required = true, num_args = 1..)]
    ids: Vec<String>,
    /// Shown with the run
    #[arg(long)]
    reason: Option<String>,
}

/// End runs at once, without compensation
///
/// For runs that a cancellation does not end.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run terminate run_01jd8z5r7m0000000000000000
  tidewheel run terminate run_01jd8z5r7m0000000000000000 --reason 'stuck'")]
pub(crate) struct Terminate {
    /// Ids of the runs, or `-` to read them from standard input
    #[arg(required = true, num_args = 1..)]
    ids: Vec<String>,
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
  tidewheel run list --phase running -o name | tidewheel run suspend -")]
pub(crate) struct Suspend {
    /// Ids of the runs, or `-` to read them from standard input
    #[arg(required = true, num_args = 1..)]
    ids: Vec<String>,
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
  tidewheel run list --phase suspended -o name | tidewheel run resume -")]
pub(crate) struct Resume {
    /// Ids of the runs, or `-` to read them from standard input
    #[arg(required = true, num_args = 1..)]
    ids: Vec<String>,
}

/// Let faulted runs go on from what failed
///
/// What was done stays done; the statements that failed or were interrupted are begun again.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run retry run_01jd8z5r7m0000000000000000
  tidewheel run list --phase faulted -o name | tidewheel run retry -")]
pub(crate) struct Retry {
    /// Ids of the runs, or `-` to read them from standard input
    #[arg(required = true, num_args = 1..)]
    ids: Vec<String>,
}

impl Cancel {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        act(ctx, "cancel", &self.ids, self.reason.as_deref()).await
    }
}

impl Terminate {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        act(ctx, "terminate", &self.ids, self.reason.as_deref()).await
    }
}

impl Suspend {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        act(ctx, "suspend", &self.ids, self.reason.as_deref()).await
    }
}

impl Resume {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        act(ctx, "resume", &self.ids, None).await
    }
}

impl Retry {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        act(ctx, "retry", &self.ids, None).await
    }
}

async fn act(ctx: &Ctx, action: &str, given: &[String], reason: Option<&str>) -> Outcome {
    let client = ctx.client()?;
    let body = match reason {
        Some(reason) => json!({ "reason": reason }),
        None => json!({}),
    };
    each(ctx, &RUN, ids(given)?, |id| {
        let request = client.post(format!("{}:{action}", super::path(&id))).doing(format!("{action} {id}")).json(&body);
        request.next(format!("tidewheel run get {id}")).value()
    })
    .await
}
