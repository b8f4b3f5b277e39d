//! Items of queues: taken under a lease, settled under its token, over kills of the server.

use std::time::Duration;

use serde_json::{Value, json};
use tidewheel_e2e::rest::Rest;
use tidewheel_e2e::server::{Server, run};
use tidewheel_e2e::{PATIENCE, gate, need_binary, until};

async fn take(rest: &Rest, body: &Value) -> anyhow::Result<Vec<Value>> {
    let answer = rest.post("/api/v1/queues/invoices/items:take", body).await?.ok()?.json()?;
    Ok(answer["items"].as_array().cloned().unwrap_or_default())
}

fn path(item: &Value, verb: &str) -> String {
    format!("/api/v1/queues/invoices/items/{}:{verb}", item["id"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_item_is_still_its_holders_after_the_server_was_killed() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    rest.queue("invoices", &json!({ "retry": { "max_attempts": 3 } })).await?;
    for n in 1..=2 {
        let added = rest.post("/api/v1/queues/invoices/items", &json!({ "input": { "n": n } })).await?;
        anyhow::ensure!(added.status == 201, "{}", added.shown());
    }
    let held = take(&rest, &json!({ "lease": "2m" })).await?.remove(0);
    anyhow::ensure!(held["input"] == json!({ "n": 1 }) && held["attempt"] == 1, "{held}");
    let hasty = take(&rest, &json!({ "lease": "15s" })).await?.remove(0);
    server.kill()?;
    server.launch().await?;
    let rest = server.rest();
    // Both leases go on, in full: nobody else gets the items, though the lease of workers (4 s) has passed.
    tokio::time::sleep(Duration::from_secs(5)).await;
    anyhow::ensure!(take(&rest, &json!({})).await?.is_empty(), "an item was given away under its holder");
    let done = rest.post(&path(&held, "done"), &json!({ "token": held["token"], "result": 7 })).await?.ok()?.json()?;
    anyhow::ensure!(done["state"] == "succeeded" && done["result"] == 7, "{done}");
    // A repeat after a lost answer is told the same.
    let again = rest.post(&path(&held, "done"), &json!({ "token": held["token"], "result": 7 })).await?;
    anyhow::ensure!(again.status == 200, "{}", again.shown());
    // The other one is forgotten: its lease ends, the attempt counts, and the old token is worth nothing, whoever asks.
    let next =
        until("the end of a lease", PATIENCE, || async { Ok(take(&rest, &json!({ "lease": "2m" })).await?.pop()) });
    let next = next.await?;
    anyhow::ensure!(next["id"] == hasty["id"] && next["attempt"] == 2, "{next}");
    for _ in 0..2 {
        let rest = server.rest();
        let late = rest.post(&path(&hasty, "done"), &json!({ "token": hasty["token"] })).await?;
        anyhow::ensure!(late.status == 409 && late.code() == "conflict", "{}", late.shown());
        server.kill()?;
        server.launch().await?;
    }
    let rest = server.rest();
    let failed = json!({ "token": next["token"], "kind": "business", "message": "no such customer" });
    let failed = rest.post(&path(&next, "fail"), &failed).await?.ok()?.json()?;
    anyhow::ensure!(failed["state"] == "failed" && failed["error"]["type"] == "BusinessError", "{failed}");
    let attempts = rest.get(&format!("/api/v1/tasks/{}/attempts", next["id"].as_str().unwrap_or_default())).await?;
    let outcomes: Vec<String> =
        attempts.json()?["items"].as_array().into_iter().flatten().map(|a| a["outcome"].to_string()).collect();
    anyhow::ensure!(outcomes == ["\"lost\"", "\"failed\""], "{outcomes:?}");
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_adds_takes_and_settles_items() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let here = server.home().to_path_buf();
    let verb = async |args: &[&str]| run(&server, &here, &[&["queue", "item"], args, &["-o", "json"]].concat()).await;
    server.rest().queue("invoices", &json!({})).await?;
    verb(&["next", "invoices"]).await?.exits(4)?;
    for n in ["1", "2", "3"] {
        let input = format!("{{\"n\":{n}}}");
        verb(&["add", "invoices", "--input", &input, "--label", "batch=7", "--idempotency-key", n]).await?.exits(0)?;
        verb(&["add", "invoices", "--input", &input, "--label", "batch=7", "--idempotency-key", n]).await?.exits(0)?;
    }
    let mut items = Vec::new();
    for _ in 0..3 {
        let item = verb(&["next", "invoices", "--lease", "10m"]).await?.exits(0)?.json()?;
        let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        items.push((text("id"), text("token")));
    }
    let (id, token) = &items[0];
    verb(&["renew", "invoices", id, "--token", token]).await?.exits(0)?;
    let done =
        verb(&["done", "invoices", id, "--token", token, "--result", "12345678901234567890123"]).await?.exits(0)?;
    anyhow::ensure!(done.json()?["state"] == "succeeded", "{done:?}");
    let (id, token) = &items[1];
    verb(&["fail", "invoices", id, "--token", token, "--kind", "business", "--message", "wrong"]).await?.exits(0)?;
    verb(&["done", "invoices", id, "--token", token]).await?.exits(4)?;
    verb(&["done", "invoices", id, "--token", &items[2].1]).await?.exits(2)?;
    let (id, token) = &items[2];
    verb(&["postpone", "invoices", id, "--token", token, "--delay", "1h"]).await?.exits(0)?;
    let listed = verb(&["list", "invoices", "--filter", "label.batch:7"]).await?.exits(0)?.json()?;
    anyhow::ensure!(
        listed.as_array().map(Vec::len).or(listed["items"].as_array().map(Vec::len)) == Some(3),
        "{listed}"
    );
    server.still_serves().await
}
