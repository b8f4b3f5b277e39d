//! `task watch`

use clap::Args;
use serde_json::Value;

use crate::cli::Ctx;
use crate::cli::common::{field, is_terminal, state_of, task_outcome};
use crate::cli::shapes::{CHANGE, TASK};
use crate::fail::Outcome;

/// Follow a task to its end
///
/// Prints each change of state as it is committed. Ends with the task: exit 0 if it succeeded, 1 if it did not. A lost
/// connection is opened again without losing a change.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel task watch task_01jd8z5r7m0000000000000000
  tidewheel task watch task_01jd8z5r7m0000000000000000 -o jsonl")]
pub(crate) struct Watch {
    /// Id of the task
    id: String,
}

impl Watch {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let path = super::path(&self.id);
        let what = format!("follow task {}", self.id);
        let mut events = client.get(format!("{path}/events")).doing(what.clone()).next("tidewheel task list").events();
        let mut feed = ctx.out.feed(&CHANGE);
        let mut last = String::new();
        while let Some(event) = events.next().await? {
            let Ok(change) = serde_json::from_str::<Value>(&event.data) else { continue };
            let state = state_of(&change).to_owned();
            let seen = format!("{state} {}", change.get("attempt").unwrap_or(&Value::Null));
            // The stream repeats the current state when it is opened again.
            if !state.is_empty() && seen != last && !field(&change, "id").is_empty() {
                feed.push(&change)?;
                last = seen;
            }
            if is_terminal(&state) {
                break;
            }
        }
        let task = client.get(&path).doing(what).value().await?;
        if ctx.out.is_for_people() {
            ctx.out.one(&TASK, &task)?;
        }
        task_outcome(&task)
    }
}
