//! `task result`

use clap::Args;
use serde_json::Value;

use crate::cli::Ctx;
use crate::cli::common::{Wait, WaitArg, is_terminal, state_of, task_outcome, wait_task};
use crate::fail::{Exit, Failure, Outcome, While};
use crate::output::Format;

/// Print a task's result
///
/// Prints the JSON value that the task returned, and nothing else. Exit 1 if the task ended without success; with
/// `--wait` it first waits for the end. Results of any size are streamed to standard output or a file.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel task result task_01jd8z5r7m0000000000000000 --wait
  tidewheel task result task_01jd8z5r7m0000000000000000 --to report.json")]
pub(crate) struct TaskResult {
    /// Id of the task
    id: String,
    #[command(flatten)]
    wait: WaitArg,
    /// Write it to a file
    #[arg(long, value_name = "FILE")]
    to: Option<String>,
}

impl TaskResult {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let wait = self.wait.get()?;
        let path = super::path(&self.id);
        let what = format!("read the result of {}", self.id);
        let task = match wait {
            Wait::No => client.get(&path).doing(what.clone()).next("tidewheel task list").value().await?,
            wait => wait_task(&client, &self.id, wait).await?,
        };
        if !is_terminal(state_of(&task)) {
            let why = format!("the task is {}", state_of(&task));
            return Err(Failure::new(Exit::Missing, format!("{} has no result yet", self.id), why)
                .next(format!("tidewheel task result {} --wait", self.id)));
        }
        task_outcome(&task)?;
        let bytes = client.get(format!("{path}/result")).doing(what).bytes().await?;
        if let Some(file) = &self.to {
            std::fs::write(file, &bytes).doing(Exit::Usage, || format!("cannot write {file}"))?;
            ctx.out.note(&format!("{} written to {file}", crate::text::bytes(bytes.len() as f64)));
            return Ok(());
        }
        // Without a form that needs parsing the value is printed as the task gave it: long numbers keep their digits.
        let parse = ctx.out.jq.is_some() || !matches!(ctx.out.format, Format::Jsonl | Format::Name);
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(value) if parse => ctx.out.value(&value),
            _ => {
                ctx.out.write_bytes(&bytes)?;
                ctx.out.write("\n")
            }
        }
    }
}
