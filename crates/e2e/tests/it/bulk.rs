//! Bulk actions over kills of the server: every task once, each with its outcome.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidewheel_e2e::rest::Rest;
use tidewheel_e2e::server::{Server, run};
use tidewheel_e2e::{PATIENCE, gate, need_binary, until};

const TASKS: usize = 4_000;

/// Starts an action and kills the server in the middle of it; the operation's address.
async fn broken_off(server: &mut Server, body: &Value) -> anyhow::Result<String> {
    let location = server.rest().post("/api/v1/bulk", body).await?.ok()?.header("location").to_owned();
    let rest = server.rest();
    until("the first page", PATIENCE, || async {
        let operation = rest.get(&location).await?.ok()?.json()?;
        Ok((operation["done"].as_u64() > Some(0)).then_some(()))
    })
    .await?;
    server.kill()?;
    server.launch().await?;
    Ok(location)
}

async fn ended(rest: &Rest, location: &str) -> anyhow::Result<Value> {
    until("the end of the operation", PATIENCE, || async {
        let operation = rest.get(location).await?.ok()?.json()?;
        Ok((operation["state"] != "running").then_some(operation))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_action_that_a_kill_broke_off_goes_on_and_counts_every_task_once() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let tasks: Vec<Value> = (0..1_000).map(|_| json!({ "type": "doomed" })).collect();
    for _ in 0..TASKS / 1_000 {
        let answer = server.rest().post("/api/v1/tasks:batch", &json!({ "tasks": tasks })).await?.ok()?.json()?;
        anyhow::ensure!(answer["accepted"] == 1_000, "{answer}");
    }
    // A retry takes tasks out of what its filter finds, so a page that was half done is not found by the filter again.
    for body in [
        json!({ "action": "cancel", "filter": "type:doomed state:queued" }),
        json!({ "action": "retry", "filter": "type:doomed state:cancelled" }),
    ] {
        let location = broken_off(&mut server, &body).await?;
        let operation = ended(&server.rest(), &location).await?;
        let figures = ["seen", "done", "failed"].map(|name| operation[name].as_u64().unwrap_or(u64::MAX));
        anyhow::ensure!(figures == [TASKS as u64, TASKS as u64, 0], "{operation}");
        let id = operation["id"].as_str().unwrap_or_default();
        let home = server.home().to_path_buf();
        let listed = run(&server, &home, &["op", "items", id, "--all", "-o", "jsonl"]).await?.exits(0)?;
        let lines: Vec<Value> = listed.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let ids: BTreeSet<&str> = lines.iter().filter_map(|item| item["task"].as_str()).collect();
        anyhow::ensure!(lines.len() == TASKS && ids.len() == TASKS, "{} lines, {} tasks", lines.len(), ids.len());
        anyhow::ensure!(
            lines.iter().all(|item| item["outcome"] == "done"),
            "{:?}",
            lines.iter().find(|i| i["outcome"] != "done")
        );
    }
    let counts = server.rest().get("/api/v1/tasks/counts").await?.ok()?.json()?;
    anyhow::ensure!(counts["counts"]["queued"] == TASKS as u64, "{counts}");
    server.still_serves().await
}
