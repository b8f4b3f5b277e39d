//! SIGKILL at random times under load. Nothing acknowledged may be lost and nothing may be completed twice.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use tidewheel_e2e::ledger::Ledger;
use tidewheel_e2e::rng::{Rng, seed};
use tidewheel_e2e::server::Server;
use tidewheel_e2e::worker::{Plan, Worker};
use tidewheel_e2e::{chaos_rounds, figure, gate, need_binary};

use crate::load::{Load, check_states};

/// Rounds of the normal test command.
const ROUNDS: u32 = 20;
/// Tasks that may be open at once: enough to keep commits in flight at each kill, few enough to end soon.
const OPEN: u64 = 3_000;

/// Attempts are lost with each kill and each forgetful worker; none of that may use a task up.
fn patient_queue() -> serde_json::Value {
    json!({ "retry": { "max_attempts": 1000, "delay": "20ms", "backoff": "constant" } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_done_twice() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::alone().await;
    let rounds = chaos_rounds().unwrap_or(ROUNDS);
    let mut rng = Rng::of_run();
    let mut server = Server::start().await?;
    server.rest().queue("kill", &patient_queue()).await?;
    let ledger = Ledger::default();
    let load = Load::new(&server.url(), &server.token, "kill", &ledger, OPEN);
    // The end of the test ends them: a JoinSet aborts what it holds.
    let mut submitters = tokio::task::JoinSet::new();
    submitters.spawn(load.clone().bulk(50, 4));
    submitters.spawn(load.clone().bulk(7, 2));
    for _ in 0..4 {
        submitters.spawn(load.clone().single());
    }
    let plan = |name: &str| Plan::new(&server.url(), &server.token, name, &["kill"], 200);
    let resuming = Worker::start(plan("resuming"), ledger.clone());
    let mut forgetful = plan("forgetful");
    forgetful.forgetful = true;
    let forgetful = Worker::start(forgetful, ledger.clone());
    let mut stubborn = plan("stubborn");
    stubborn.stubborn = true;
    let stubborn = Worker::start(stubborn, ledger.clone());
    let mut slowest = Duration::ZERO;
    let mut looked_at = 0;
    for round in 1..=rounds {
        let before = ledger.acknowledged();
        // Load first: a kill of an idle server proves nothing.
        tidewheel_e2e::until("load on the server", tidewheel_e2e::PATIENCE, || async {
            Ok((ledger.acknowledged() > before).then_some(()))
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(rng.between(1, 500))).await;
        server.kill()?;
        let killed = Instant::now();
        server.launch().await.map_err(|e| e.context(format!("after the kill of round {round}, seed {}", seed())))?;
        slowest = slowest.max(killed.elapsed());
        looked_at += check_acknowledged(&server, &ledger, before, &mut rng).await?;
        ledger.check().map_err(|e| e.context(format!("round {round}, seed {}", seed())))?;
    }
    load.stop();
    load.settled(&server.rest()).await?;
    load.check_store(&server.rest()).await?;
    check_attempts(&server, &ledger, &mut rng).await?;
    drop((submitters, resuming, forgetful, stubborn));
    let completed = ledger.completed();
    let book = ledger.book();
    figure(&format!(
        "kill: {rounds} rounds of SIGKILL, seed {}; {} tasks acknowledged, {} outcomes unknown and repeated, {} grants, \
         {} results sent, {} refused as stale, {} completed without the acknowledgement having arrived; {looked_at} reads after restarts; slowest restart {} ms; 0 lost, 0 twice",
        seed(),
        book.submitted.len(),
        load.unknowns.load(Ordering::Relaxed),
        book.grants,
        book.sent,
        book.refused,
        book.submitted.len() - completed,
        slowest.as_millis(),
    ));
    Ok(())
}

/// Everything acknowledged since the last round is there, and a sample of what is older.
async fn check_acknowledged(server: &Server, ledger: &Ledger, before: usize, rng: &mut Rng) -> anyhow::Result<usize> {
    let tasks: Vec<(u64, u128)> = {
        let book = ledger.book();
        let recent = book.submitted.len() - before.min(book.submitted.len());
        let last = book.submitted.last_key_value().map_or(0, |(n, _)| *n);
        // Numbers are settled roughly in order, so the newest stand at the end; the sample covers the rest.
        let newest = book.submitted.iter().rev().take(recent + 200);
        let sample = (0..200).filter_map(|_| book.submitted.range(rng.between(0, last + 1)..).next());
        newest.chain(sample).flat_map(|(n, ids)| ids.iter().map(|id| (*n, *id))).collect()
    };
    check_states(&server.url(), &server.token, &tasks, None).await?;
    Ok(tasks.len())
}

/// The attempts of a sample, as the server tells them: one success each, and it is the last.
async fn check_attempts(server: &Server, ledger: &Ledger, rng: &mut Rng) -> anyhow::Result<()> {
    let tasks: Vec<(u128, usize)> = ledger.book().tasks.iter().map(|(id, seen)| (*id, seen.grants.len())).collect();
    let rest = server.rest();
    for _ in 0..200.min(tasks.len()) {
        let (id, grants) = tasks[rng.between(0, tasks.len() as u64) as usize];
        let text = tidewheel_e2e::wire::text(id);
        let answer = rest.get(&format!("/api/tasks/{text}/attempts")).await?.ok()?.json()?;
        let attempts = answer["items"].as_array().cloned().unwrap_or_default();
        let won = attempts.iter().filter(|a| a["outcome"] == "succeeded").count();
        anyhow::ensure!(won == 1, "{text} has {won} successful attempts: {answer}");
        anyhow::ensure!(attempts.last().is_some_and(|a| a["outcome"] == "succeeded"), "{text}: {answer}");
        // A grant is durable before a worker sees it, so the store knows at least as many as the ledger.
        anyhow::ensure!(attempts.len() >= grants, "{text} was granted {grants} times, the server knows: {answer}");
    }
    Ok(())
}
