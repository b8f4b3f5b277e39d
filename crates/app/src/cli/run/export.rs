//! `run export`

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Ctx;
use crate::cli::common::{as_page, field, ids, items};
use crate::client::{Client, segment};
use crate::fail::Outcome;
use crate::output::compact;

/// Entries read at once.
const PAGE: usize = 1_000;

/// Write runs with everything known of them
///
/// One JSON document per line: the run with input and output, the document that it follows, and its whole journal; of a workflow in
/// Python also the history that `tidewheel.testing.replay` checks new code against. For archives, bug reports and tests.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run export run_01jd8z5r7m0000000000000000 > run.json
  tidewheel run list --phase faulted -o name | tidewheel run export - > faulted.jsonl")]
pub(crate) struct Export {
    /// Ids of the runs, or `-` to read them from standard input
    #[arg(required = true, num_args = 1..)]
    ids: Vec<String>,
}

impl Export {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        for id in ids(&self.ids)? {
            let run = whole(&client, &id).await?;
            ctx.out.text_or(|| compact(&run), &run)?;
        }
        Ok(())
    }
}

async fn whole(client: &Client, id: &str) -> Outcome<Value> {
    let path = super::path(id);
    let what = format!("read run {id}");
    let run = client.get(&path).doing(what.clone()).next("tidewheel run list").value().await?;
    let (namespace, name, version) = (field(&run, "namespace"), field(&run, "workflow"), field(&run, "version"));
    let document = format!("/workflows/{}/{}/{}/document", segment(namespace), segment(name), segment(version));
    // The version may have been deleted since.
    let document = client.get(document).doing(what.clone()).value().await.ok();
    let python = document.as_ref().is_some_and(|document| document.get("program").is_some());
    let (mut entries, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let request = client.get(format!("{path}/journal")).doing(what.clone()).query("limit", PAGE);
        let page = as_page(request.maybe("cursor", cursor).value().await?);
        entries.extend_from_slice(items(&page));
        cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    let mut whole = json!({ "run": run, "document": document, "journal": entries });
    if python {
        whole["history"] = client.get(format!("{path}/history")).doing(what).value().await?;
    }
    Ok(whole)
}
