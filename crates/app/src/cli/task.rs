//! `tidewheel task`: submit work and follow it.

mod attempts;
mod cancel;
mod export;
mod get;
mod list;
mod logs;
mod reprioritise;
mod result;
mod retry;
mod submit;
pub(crate) use submit::priority;
mod watch;
mod why;

use clap::{Args, Subcommand};

use super::Ctx;
use crate::fail::Outcome;

/// Submit tasks and follow them
///
/// A task is one unit of work: a type, an input and a queue. The server keeps it durably from the moment the submit
/// returns, gives it to a worker, retries it as its policy says, and keeps its result.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel task submit greet --input '{\"name\": \"Ann\"}'
  tidewheel task list --filter state:failed")]
pub(crate) struct TaskCommand {
    #[command(subcommand)]
    verb: TaskVerb,
}

#[derive(Subcommand)]
enum TaskVerb {
    Submit(Box<submit::Submit>),
    Get(get::Get),
    List(list::List),
    Watch(watch::Watch),
    Logs(logs::Logs),
    Result(result::TaskResult),
    Cancel(cancel::Cancel),
    Retry(retry::Retry),
    Reprioritise(reprioritise::Reprioritise),
    Why(why::Why),
    Attempts(attempts::Attempts),
    Export(export::Export),
}

impl TaskCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            TaskVerb::Submit(verb) => verb.run(ctx).await,
            TaskVerb::Get(verb) => verb.run(ctx).await,
            TaskVerb::List(verb) => verb.run(ctx).await,
            TaskVerb::Watch(verb) => verb.run(ctx).await,
            TaskVerb::Logs(verb) => verb.run(ctx).await,
            TaskVerb::Result(verb) => verb.run(ctx).await,
            TaskVerb::Cancel(verb) => verb.run(ctx).await,
            TaskVerb::Retry(verb) => verb.run(ctx).await,
            TaskVerb::Reprioritise(verb) => verb.run(ctx).await,
            TaskVerb::Why(verb) => verb.run(ctx).await,
            TaskVerb::Attempts(verb) => verb.run(ctx).await,
            TaskVerb::Export(verb) => verb.run(ctx).await,
        }
    }
}

/// A task as the verbs that tasks and runs share know it.
fn subject(id: &str) -> super::look::Subject<'_> {
    super::look::Subject { noun: "task", id }
}

/// The path of a task.
pub(super) fn path(id: &str) -> String {
    format!("/tasks/{}", crate::client::segment(id))
}
