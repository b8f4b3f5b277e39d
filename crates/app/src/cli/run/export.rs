//! `run export`

use clap::Args;
use futures::StreamExt;
use serde_json::Value;

use crate::cli::Ctx;
use crate::cli::common::{as_page, field, ids, items};
use crate::client::{Client, segment};
use crate::fail::{Exit, Outcome, While};
use crate::output::compact;

/// Entries read at once.
const PAGE: usize = 1_000;

/// Write runs with everything known of them
///
/// One JSON document per line: the run with input and output, the document that it follows, and its whole journal; of a workflow in
/// Python also the history that `tidewheel.testing.replay` checks new code against. It is written as it comes, however long a history is;
/// as one value, for `--output json` or `--jq`, it is held in memory first. For archives, bug reports and tests.
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
            let run = Run::read(&client, &id).await?;
            if ctx.out.is_lines() {
                run.write(&client, &mut |text| ctx.out.write_bytes(text)).await?;
                ctx.out.write("\n")?;
            } else {
                let mut text = Vec::new();
                let write = &mut |part: &[u8]| {
                    text.extend_from_slice(part);
                    Ok(())
                };
                run.write(&client, write).await?;
                let whole = serde_json::from_slice(&text);
                let whole: Value = whole.doing(Exit::Failed, || format!("cannot read what the server gave of {id}"))?;
                ctx.out.text_or(|| compact(&whole), &whole)?;
            }
        }
        Ok(())
    }
}

/// A run, as far as it is small: its journal and its history may be long, and are written as they come.
struct Run {
    path: String,
    what: String,
    run: Value,
    document: Option<Value>,
}

impl Run {
    async fn read(client: &Client, id: &str) -> Outcome<Run> {
        let (path, what) = (super::path(id), format!("read run {id}"));
        let run = client.get(&path).doing(what.clone()).next("tidewheel run list").value().await?;
        let (namespace, name, version) = (field(&run, "namespace"), field(&run, "workflow"), field(&run, "version"));
        let document = format!("/workflows/{}/{}/{}/document", segment(namespace), segment(name), segment(version));
        // The version may have been deleted since.
        let document = client.get(document).doing(what.clone()).value().await.ok();
        Ok(Run { path, what, run, document })
    }

    /// Writes it as one JSON document on one line.
    async fn write(&self, client: &Client, write: &mut dyn FnMut(&[u8]) -> Outcome) -> Outcome {
        let Run { path, what, run, document } = self;
        let document_text = document.as_ref().map_or_else(|| "null".to_owned(), compact);
        write(format!("{{\"run\":{},\"document\":{document_text},\"journal\":[", compact(run)).as_bytes())?;
        let (mut cursor, mut empty) = (None::<String>, true);
        loop {
            let request = client.get(format!("{path}/journal")).doing(what.clone()).query("limit", PAGE);
            let page = as_page(request.maybe("cursor", cursor).value().await?);
            for entry in items(&page) {
                let comma = if std::mem::replace(&mut empty, false) { "" } else { "," };
                write(format!("{comma}{}", compact(entry)).as_bytes())?;
            }
            cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        write(b"]")?;
        // Of a version that was deleted, only its history says whether it was a program.
        let program = document.as_ref().map(|document| document.get("program").is_some());
        if program != Some(false) {
            let pieces = client.get(format!("{path}/history")).doing(what.clone()).chunks().await;
            if let Some(mut pieces) = if program.is_some() { Some(pieces?) } else { pieces.ok() } {
                write(b",\"history\":")?;
                while let Some(piece) = pieces.next().await {
                    write(&piece?)?;
                }
            }
        }
        write(b"}")
    }
}
