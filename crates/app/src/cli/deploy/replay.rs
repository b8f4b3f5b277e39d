//! `deploy --replay`: the histories of open runs on code that is about to be deployed.

use std::io::Write;
use std::path::Path;

use futures::StreamExt;
use serde_json::Value;
use tidewheel_agent::{BuildOptions, BuiltPackage};

use crate::cli::Ctx;
use crate::cli::common::{as_page, field, items};
use crate::cli::package::cache_dir;
use crate::client::{Client, segment};
use crate::fail::{Exit, Failure, Outcome, While};

/// Runs per workflow whose histories are replayed: the newest.
const MOST: usize = 1_000;
/// Runs read at once.
const PAGE: usize = 500;
/// Runs that are named in a refusal.
const SHOWN: usize = 5;
/// Phases of runs that have not ended.
const OPEN: &str = "pending,running,waiting,suspended";

/// Replays the open runs of the workflows that a package brings on its code. Fails if one does not fit.
pub(super) async fn check(ctx: &Ctx, client: &Client, source: &Path, built: &BuiltPackage, folder: &Path) -> Outcome {
    let path = folder.join("histories.jsonl");
    let mut file = std::fs::File::create(&path).doing(Exit::Failed, || "cannot write the histories".to_owned())?;
    let mut count = 0usize;
    for entry in built.manifest["entries"].as_array().into_iter().flatten() {
        if field(entry, "kind") != "workflow" {
            continue;
        }
        let namespace = entry["namespace"].as_str().unwrap_or("default");
        let workflow = format!("{namespace}/{}", field(entry, "name"));
        for run in open_runs(client, &workflow).await? {
            let what = format!("read the history of {run}");
            let history = client.get(format!("/runs/{}/history", segment(&run))).doing(what).chunks().await;
            let mut pieces = match history {
                Ok(pieces) => pieces,
                // A version of the workflow before this package may not be written in Python; a run may be forgotten meanwhile.
                Err(failure) if failure.exit() == Exit::Missing => {
                    ctx.out.note(&format!("{run} is not replayed: {}", failure.text(false).trim_end()));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let unwritten = || "cannot write the histories".to_owned();
            while let Some(piece) = pieces.next().await {
                file.write_all(&piece?).doing(Exit::Failed, unwritten)?;
            }
            // A history is one line.
            file.write_all(b"\n").doing(Exit::Failed, unwritten)?;
            count += 1;
        }
    }
    if count == 0 {
        ctx.out.note("no open run follows its workflows: nothing to replay");
        return Ok(());
    }
    let spinner = crate::progress::spinner(&ctx.out, &format!("replaying {count} runs"));
    let replayed = tidewheel_agent::replay(source, &path, &BuildOptions::new(cache_dir())).await;
    spinner.finish_and_clear();
    let replayed = replayed.doing(Exit::Failed, || "cannot replay the open runs".to_owned())?;
    let unfit: Vec<&Value> = replayed.iter().filter(|one| one["ok"] != true).collect();
    if unfit.is_empty() {
        ctx.out.note(&format!("{count} open runs replayed: the new code fits all of them"));
        return Ok(());
    }
    let shown: Vec<String> = unfit.iter().take(SHOWN).map(|one| said(one)).collect();
    let more = unfit.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    let why = format!("{} of {count} open runs do not fit the new code:\n  {}{more}", unfit.len(), shown.join("\n  "));
    let next = "guard the change with wf.patched(), or leave --replay out: runs keep the code that they began with";
    Err(Failure::new(Exit::Failed, "nothing was deployed", why).next(next))
}

fn said(one: &Value) -> String {
    let place = match (one["file"].as_str(), one["line"].as_u64()) {
        (Some(file), Some(line)) if !file.is_empty() => format!(" ({file}:{line})"),
        _ => String::new(),
    };
    format!("{}: {}{place}", field(one, "run"), field(one, "why"))
}

async fn open_runs(client: &Client, workflow: &str) -> Outcome<Vec<String>> {
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let request = client.get("/runs").doing(format!("list the open runs of {workflow}"));
        let request = request.query("workflow", workflow).query("phase", OPEN).query("limit", PAGE);
        let page = as_page(request.maybe("cursor", cursor).value().await?);
        found.extend(items(&page).iter().map(|run| field(run, "id").to_owned()));
        cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() || found.len() >= MOST {
            found.truncate(MOST);
            return Ok(found);
        }
    }
}
