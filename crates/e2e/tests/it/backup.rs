//! A backup of a server that goes on working: complete, checked, and good for a start.

use std::path::PathBuf;

use serde_json::json;
use tidewheel_e2e::ledger::Ledger;
use tidewheel_e2e::server::{Server, run};
use tidewheel_e2e::worker::{Deed, Plan, Worker};
use tidewheel_e2e::{PATIENCE, gate, need_binary, until};

use crate::load::{Load, check_states};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_busy_server_has_everything_acknowledged_before_it() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let here = server.home().to_path_buf();
    let rest = server.rest();
    rest.queue("busy", &json!({})).await?;
    // Larger than what is stored inline: a blob.
    let large = "x".repeat(200_000);
    let with_blob = rest.task(&json!({ "type": "kept", "input": large })).await?;
    let ledger = Ledger::default();
    let load = Load::new(&server.url(), &server.token, "busy", &ledger, 1_000);
    let mut submitters = tokio::task::JoinSet::new();
    submitters.spawn(load.clone().bulk(20, 2));
    let plan = Plan::new(&server.url(), &server.token, "w", &["busy"], 50).with(|_| Deed::Done("1".into()));
    let _worker = Worker::start(plan, ledger.clone());
    until("work on the server", PATIENCE, || async { Ok((ledger.completed() > 200).then_some(())) }).await?;
    let before: Vec<(u64, u128)> = {
        let book = ledger.book();
        book.submitted.iter().flat_map(|(n, ids)| ids.iter().map(|id| (*n, *id))).collect()
    };
    let made = run(&server, &here, &["backup", "create", "--name", "first", "-o", "json"]).await?.exits(0)?.json()?;
    let folder = PathBuf::from(made["path"].as_str().unwrap_or_default());
    let after = ledger.completed();
    until("work during and after the backup", PATIENCE, || async { Ok((ledger.completed() > after).then_some(())) })
        .await?;
    run(&server, &here, &["backup", "create", "--name", "first"]).await?.exits(4)?;
    run(&server, &here, &["backup", "create", "--name", "../first"]).await?.exits(2)?;
    std::fs::write(folder.with_file_name(".blocked.partial"), "in the way")?;
    let blocked = rest.post("/api/v1/backups", &json!({ "name": "blocked" })).await?;
    anyhow::ensure!(blocked.status == 503 && blocked.code() == "unavailable", "{}", blocked.shown());
    anyhow::ensure!(blocked.shown().contains("backups/blocked: "), "it names the cause: {}", blocked.shown());
    let path = folder.to_string_lossy().into_owned();
    let found = run(&server, &here, &["backup", "verify", &path, "-o", "json"]).await?.exits(0)?.json()?;
    anyhow::ensure!(found["blobs"].as_u64() >= Some(1), "{found}");
    let data = here.join("restored").to_string_lossy().into_owned();
    run(&server, &here, &["backup", "restore", &path, "--to", &data]).await?.exits(0)?;
    load.stop();
    submitters.shutdown().await;
    server.stop().await?;
    let mut restored = Server::start_at(Some(here.join("restored").as_path()), &[]).await?;
    anyhow::ensure!(restored.token == server.token, "the backup has another admin token");
    check_states(&restored.url(), &restored.token, &before, None).await?;
    let task = restored.rest().get(&format!("/api/tasks/{with_blob}")).await?.ok()?.json()?;
    anyhow::ensure!(task["state"] == "queued", "{}", task["state"]);
    restored.still_serves().await?;
    // One byte of a blob.
    let blob = first_file(&folder.join("blobs")).ok_or_else(|| anyhow::anyhow!("there are no blobs"))?;
    let mut bytes = std::fs::read(&blob)?;
    bytes[0] ^= 1;
    std::fs::write(&blob, bytes)?;
    let told = run(&server, &here, &["backup", "verify", &path]).await?.exits(1)?;
    anyhow::ensure!(told.stderr.contains("damaged"), "{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_server_left_of_a_backup_is_gone_after_its_start() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let here = server.home().to_path_buf();
    let half = server.data.join("backups/.first.partial");
    let leave = || {
        std::fs::create_dir_all(half.join("blobs"))?;
        std::fs::write(half.join("tidewheel.db"), vec![0; 100_000])
    };
    server.kill()?;
    leave()?;
    server.launch().await?;
    until("the end of the half", PATIENCE, || async { Ok((!half.exists()).then_some(())) }).await?;
    // One that came otherwise goes before the next backup.
    leave()?;
    run(&server, &here, &["backup", "create", "--name", "second"]).await?.exits(0)?;
    anyhow::ensure!(!half.exists(), "the half is still there");
    let made = std::fs::read_dir(server.data.join("backups"))?.flatten().map(|entry| entry.file_name());
    anyhow::ensure!(made.collect::<Vec<_>>() == ["second"], "there is more than the backup");
    server.stop().await?;
    Ok(())
}

fn first_file(folder: &std::path::Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    entries.map(|entry| entry.path()).find_map(|path| if path.is_dir() { first_file(&path) } else { Some(path) })
}
