//! `run reset` and `run fork`.

use clap::Args;
use serde_json::Value;

use crate::cli::Ctx;
use crate::cli::common::json_input;
use crate::cli::shapes::RUN;
use crate::fail::{Exit, Outcome, While};

/// Take a run back to an entry of its journal
///
/// It goes on from there as if nothing had happened since; what was open is cancelled. The input of that statement may be
/// another one. What sagas and programs (`wf.undo`) did after that entry, and know how to undo, is undone before it goes on.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run reset run_01jd8z5r7m0000000000000000 --to '/task:/do/1/pay#0'
  tidewheel run reset run_01jd8z5r7m0000000000000000 --to '/task:/do/1/pay#0' --input '{\"amount\": 5}'
  tidewheel run reset run_01jd8z5r7m0000000000000000 --to '/task:/do/1/pay#0' --no-undo")]
pub(crate) struct Reset {
    /// Id of the run
    id: String,
    #[command(flatten)]
    back: Back,
    /// Undo nothing of what came after that entry: it holds, or was undone by hand
    #[arg(long)]
    no_undo: bool,
}

/// Start another run from an entry of a run's journal
///
/// The new run has done everything that was done before that entry, and goes on from there. The old one stays as it is.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run fork run_01jd8z5r7m0000000000000000 --to '/task:/do/1/pay#0'
  tidewheel run fork run_01jd8z5r7m0000000000000000 --to '/task:/do/1/pay#0' --input @other.json")]
pub(crate) struct Fork {
    /// Id of the run
    id: String,
    #[command(flatten)]
    back: Back,
}

// Without a doc comment: it would become the help of the verbs.
#[derive(Args)]
struct Back {
    /// Key of the entry, as `tidewheel run journal` shows it
    #[arg(long, value_name = "KEY")]
    to: String,
    /// Replaces the input of that statement: JSON, `@FILE`, or `-` for standard input
    #[arg(long, short, value_name = "JSON", allow_hyphen_values = true)]
    input: Option<String>,
}

impl Reset {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        go(ctx, "reset", &self.id, &self.back, self.no_undo).await
    }
}

impl Fork {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        go(ctx, "fork", &self.id, &self.back, false).await
    }
}

async fn go(ctx: &Ctx, action: &str, id: &str, back: &Back, keeps: bool) -> Outcome {
    let mut body = serde_json::json!({ "key": back.to });
    if let Some(input) = back.input.as_deref().map(json_input).transpose()? {
        body["input"] =
            serde_json::from_str::<Value>(&input).doing(Exit::Usage, || "cannot read the input".to_owned())?;
    }
    if keeps {
        body["undo"] = false.into();
    }
    let client = ctx.client()?;
    let request = client.post(format!("{}:{action}", super::path(id))).doing(format!("{action} {id}")).json(&body);
    ctx.out.brief(&RUN, &request.next(format!("tidewheel run journal {id}")).value().await?)
}
