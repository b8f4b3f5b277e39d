//! `run graph`

use clap::Args;

use crate::cli::Ctx;
use crate::fail::Outcome;

/// Show the statements of a run's document as a graph, with what became of each
///
/// A flowchart of Mermaid, in colours: green is done, yellow is open, red failed, grey was cancelled. As data, each statement that the run
/// came to has its status and how often that was. Of a workflow in Python see `run tree` and `run timeline`.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run graph run_01jd8z5r7m0000000000000000 > run.mmd
  tidewheel run graph run_01jd8z5r7m0000000000000000 -o json --jq '.nodes[] | select(.status == \"failed\") | .id'")]
pub(crate) struct Graph {
    /// Id of the run
    id: String,
}

impl Graph {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let request = super::subject(&self.id).get(&client, "/graph", "draw run");
        let request = request.next(format!("tidewheel run tree {}", self.id));
        if ctx.out.is_text() {
            let answer = request.query("format", "mermaid").send().await?;
            return ctx.out.write(&answer.text().await.unwrap_or_default());
        }
        ctx.out.value(&request.value().await?)
    }
}
