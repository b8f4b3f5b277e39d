//! `tidewheel queue`: lines of tasks and their limits.

mod create;
mod dead;
mod drain;
mod get;
mod item;
mod limits;
mod list;
mod pause;
mod purge;
mod resume;
mod stats;

use clap::{Args, Subcommand};

use super::Ctx;
use crate::fail::Outcome;

/// Manage queues: limits, pausing, dead letters
///
/// A queue is a named line of tasks with a policy: how many run at once, at what rate, how they are retried, and what
/// becomes of those that are out of attempts.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel queue stats
  tidewheel queue create pdf --concurrency 10 --rate 100/s")]
pub(crate) struct QueueCommand {
    #[command(subcommand)]
    verb: QueueVerb,
}

#[derive(Subcommand)]
enum QueueVerb {
    Create(create::Create),
    List(list::List),
    Get(get::Get),
    Stats(stats::Stats),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Drain(drain::Drain),
    Limits(limits::Limits),
    Purge(purge::Purge),
    Dead(dead::DeadCommand),
    Item(item::ItemCommand),
}

impl QueueCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            QueueVerb::Create(verb) => verb.run(ctx).await,
            QueueVerb::List(verb) => verb.run(ctx).await,
            QueueVerb::Get(verb) => verb.run(ctx).await,
            QueueVerb::Stats(verb) => verb.run(ctx).await,
            QueueVerb::Pause(verb) => verb.run(ctx).await,
            QueueVerb::Resume(verb) => verb.run(ctx).await,
            QueueVerb::Drain(verb) => verb.run(ctx).await,
            QueueVerb::Limits(verb) => verb.run(ctx).await,
            QueueVerb::Purge(verb) => verb.run(ctx).await,
            QueueVerb::Dead(verb) => verb.run(ctx).await,
            QueueVerb::Item(verb) => verb.run(ctx).await,
        }
    }
}

/// The path of a queue.
pub(super) fn path(name: &str) -> String {
    format!("/queues/{}", crate::client::segment(name))
}

/// Changes the state of queues.
pub(super) async fn set_state(ctx: &Ctx, names: Vec<String>, action: &'static str) -> Outcome {
    let client = ctx.client()?;
    super::common::each(ctx, &super::shapes::QUEUE, names, |name| {
        let request = client.post(format!("{}:{action}", path(&name))).doing(format!("{action} queue {name}"));
        request.json(&serde_json::json!({})).next("tidewheel queue list").value()
    })
    .await
}
