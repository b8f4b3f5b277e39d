//! Affinity keys over the wire: each key has one worker, over a restart of the server and while workers come and go.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tidewheel_e2e::ledger::Ledger;
use tidewheel_e2e::rest::Rest;
use tidewheel_e2e::server::Server;
use tidewheel_e2e::worker::{Plan, Worker};
use tidewheel_e2e::{PATIENCE, gate, need_binary, until};

const KEYS: usize = 24;
/// Tasks of each key in a round.
const EACH: usize = 5;

/// Does a round of tasks of every key; which worker did those of each.
async fn round(rest: &Rest) -> anyhow::Result<BTreeMap<usize, String>> {
    let mut tasks = Vec::new();
    for n in 0..KEYS * EACH {
        let key = n % KEYS;
        let task = json!({ "type": "visit", "queue": "sessions", "affinity_key": format!("user-{key}") });
        tasks.push((key, rest.task(&task).await?));
    }
    let mut found: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for (key, id) in tasks {
        let task = rest.ended(&id).await?;
        anyhow::ensure!(task["state"] == "succeeded", "{task}");
        found.entry(key).or_default().insert(task["result"].as_str().unwrap_or_default().to_owned());
    }
    let one = |(key, workers): (usize, BTreeSet<String>)| {
        anyhow::ensure!(workers.len() == 1, "the tasks of user-{key} went to {workers:?}");
        Ok((key, workers.into_iter().next().unwrap_or_default()))
    };
    found.into_iter().map(one).collect()
}

/// Waits until exactly these workers are connected.
async fn connected(rest: &Rest, names: &[&str]) -> anyhow::Result<()> {
    let wanted: BTreeSet<&str> = names.iter().copied().collect();
    until("the workers", PATIENCE, || async {
        let seen = rest.get("/api/v1/workers").await?.ok()?.json()?;
        let all = seen["items"].as_array().cloned().unwrap_or_default();
        let there = all.iter().filter(|one| one["state"] == "online").filter_map(|one| one["name"].as_str());
        Ok((there.collect::<BTreeSet<_>>() == wanted).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tasks_of_an_affinity_key_go_to_one_worker_which_it_keeps() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    rest.queue("sessions", &json!({ "policy": "consistent_hash", "affinity_wait": "2m" })).await?;
    let token = rest.new_token("w", "worker", &json!({})).await?;
    let url = server.url();
    let worker = |name: &str| Worker::start(Plan::new(&url, &token, name, &["sessions"], 2), Ledger::default());
    let (_ann, _bob) = (worker("ann"), worker("bob"));
    let cleo = worker("cleo");
    connected(&rest, &["ann", "bob", "cleo"]).await?;
    let first = round(&rest).await?;
    let used: BTreeSet<&String> = first.values().collect();
    anyhow::ensure!(used.len() == 3, "{KEYS} keys are spread over all workers: {first:?}");
    anyhow::ensure!(round(&rest).await? == first, "each key keeps its worker");
    // The server is killed; the workers come back to the next one by themselves.
    server.kill()?;
    server.launch().await?;
    let rest = server.rest();
    connected(&rest, &["ann", "bob", "cleo"]).await?;
    anyhow::ensure!(round(&rest).await? == first, "each key has the worker that it had before the restart");
    // One leaves: its keys go to others, each to one, and no other key moves.
    drop(cleo);
    connected(&rest, &["ann", "bob"]).await?;
    let without = round(&rest).await?;
    for (key, had) in &first {
        let has = &without[key];
        anyhow::ensure!(has != "cleo" && (had == "cleo" || has == had), "user-{key} went from {had} to {has}");
    }
    // It comes back, and so do its keys.
    let _cleo = worker("cleo");
    connected(&rest, &["ann", "bob", "cleo"]).await?;
    anyhow::ensure!(round(&rest).await? == first, "a worker that comes back has the keys that it had");
    server.still_serves().await
}
