//! `run tree`

use clap::Args;
use serde_json::Value;

use crate::cli::Ctx;
use crate::cli::common::field;
use crate::fail::Outcome;

/// Show a run and all that it started
///
/// Each below the one that started it, with its phase.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run tree run_01jd8z5r7m0000000000000000
  tidewheel run tree run_01jd8z5r7m0000000000000000 -o json")]
pub(crate) struct Tree {
    /// Id of the run
    id: String,
}

impl Tree {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let tree = super::subject(&self.id).get(&client, "/tree", "read run").value().await?;
        if !ctx.out.is_table() {
            return ctx.out.value(&tree);
        }
        let mut text = String::new();
        draw(&tree, &mut text, 0);
        ctx.out.write(&text)
    }
}

fn draw(tree: &Value, out: &mut String, depth: usize) {
    let Some(run) = tree.get("run") else { return };
    let (id, phase) = (field(run, "id"), field(run, "phase"));
    let name = format!("{}/{}:{}", field(run, "namespace"), field(run, "workflow"), field(run, "version"));
    out.push_str(&format!("{}{id}  {phase}  {name}\n", "  ".repeat(depth)));
    for child in tree.get("children").and_then(Value::as_array).into_iter().flatten() {
        draw(child, out, depth + 1);
    }
    if tree.get("more").and_then(Value::as_bool).unwrap_or(false) {
        out.push_str(&format!("{}... more: tidewheel run list --parent {id}\n", "  ".repeat(depth + 1)));
    }
}
