//! More work than the system can do. It says so early, with the time to come back, and what it has accepted goes on as if
//! nothing were the matter.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tidewheel_e2e::ledger::Ledger;
use tidewheel_e2e::rest::Rest;
use tidewheel_e2e::server::Server;
use tidewheel_e2e::worker::{Deed, Plan, Worker};
use tidewheel_e2e::{figure, gate, is_chaos, need_binary, until_done};

use crate::load::check_states;

/// What the one worker can do: permits divided by the time each task takes.
const PERMITS: u32 = 20;
const TAKES: Duration = Duration::from_millis(50);
/// Tasks that may wait; at the bound, submits are refused.
const DEPTH: u64 = 300;
const SUBMITTERS: u64 = 16;
/// Seconds on end without a completion that are a standstill.
const STANDSTILL_S: usize = 5;

#[derive(Default)]
struct Outcomes {
    accepted: HashMap<u64, u128>,
    refused: Vec<u64>,
    without_retry_after: u64,
    wrong: Vec<String>,
    slowest_refusal: Duration,
}

/// Submits at a fixed pace, whatever the answers are: an open loop, as the world is.
async fn submit(rest: Rest, mine: u64, every: Duration, until: Instant, outcomes: Arc<Mutex<Outcomes>>) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut n = mine;
    while Instant::now() < until {
        tick.tick().await;
        let begun = Instant::now();
        let body = json!({ "type": "e2e.step", "queue": "busy", "input": { "n": n } });
        let answer = rest.submit(&format!("k{n}"), &body).await;
        let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(answer) if answer.status == 201 => {
                let text = answer.text("/id").unwrap_or_default();
                outcomes.accepted.insert(n, tidewheel_proto::id::parse("task", &text).unwrap_or(0));
            }
            Ok(answer) if matches!(answer.status, 429 | 503) && answer.code() != "outcome-unknown" => {
                outcomes.refused.push(n);
                outcomes.slowest_refusal = outcomes.slowest_refusal.max(begun.elapsed());
                if answer.header("retry-after").parse::<u64>().unwrap_or(0) == 0 {
                    outcomes.without_retry_after += 1;
                }
            }
            Ok(answer) => outcomes.wrong.push(format!("{}: {}", answer.status, answer.shown())),
            Err(error) => outcomes.wrong.push(error.to_string()),
        }
        n += SUBMITTERS;
    }
}

/// Waits until everything that was accepted is completed, for as long as it goes on.
async fn all_done(ledger: &Ledger, accepted: usize) -> anyhow::Result<()> {
    until_done("the accepted work", || async {
        let completed = ledger.completed();
        Ok(if completed >= accepted { Ok(()) } else { Err(accepted - completed) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twice_the_capacity_is_refused_early_and_accepted_work_goes_on() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::alone().await;
    let lasts = Duration::from_secs(if is_chaos() { 60 } else { 10 });
    let mut server = Server::start().await?;
    let rest = server.rest();
    rest.queue("busy", &json!({ "max_depth": DEPTH })).await?;
    let ledger = Ledger::default();
    let worker =
        Plan::new(&server.url(), &server.token, "busy", &["busy"], PERMITS).with(|_| Deed::After(TAKES, "1".into()));
    let _worker = Worker::start(worker, ledger.clone());
    let outcomes: Arc<Mutex<Outcomes>> = Arc::default();
    let end = Instant::now() + lasts;
    // Twice what the worker can do in the same time.
    let every = TAKES * SUBMITTERS as u32 / PERMITS / 2;
    let mut submitters = tokio::task::JoinSet::new();
    for mine in 0..SUBMITTERS {
        submitters.spawn(submit(rest.clone(), mine, every, end, outcomes.clone()));
    }
    // The goodput of each second, the first apart, in which the queue is still filling.
    let mut paces = Vec::new();
    let mut last = 0;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = ledger.completed();
        paces.push(now - last);
        last = now;
    }
    while submitters.join_next().await.is_some() {}
    let Outcomes { accepted, refused, without_retry_after, wrong, slowest_refusal } =
        std::mem::take(&mut *outcomes.lock().unwrap_or_else(PoisonError::into_inner));
    anyhow::ensure!(wrong.is_empty(), "neither accepted nor refused: {:#?}", &wrong[..wrong.len().min(5)]);
    anyhow::ensure!(!refused.is_empty(), "twice the capacity was accepted: {} tasks", accepted.len());
    anyhow::ensure!(without_retry_after == 0, "{without_retry_after} refusals without Retry-After");
    // Overload must not become standstill. Several seconds, since the whole machine may stand still for one.
    let still = paces.split(|n| *n > 0).map(<[usize]>::len).max().unwrap_or(0);
    anyhow::ensure!(still < STANDSTILL_S, "{still} seconds on end without any completion: {paces:?}");
    all_done(&ledger, accepted.len()).await?;
    ledger.check()?;
    let tasks: Vec<(u64, u128)> = accepted.iter().map(|(n, id)| (*n, *id)).collect();
    check_states(&server.url(), &server.token, &tasks, Some("succeeded")).await?;
    let counts = rest.get("/api/tasks/counts").await?.ok()?.json()?;
    let stored: u64 = counts["counts"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    anyhow::ensure!(stored == tasks.len() as u64, "{} accepted, but the store has {stored}: {counts}", tasks.len());
    // Refused means not stored: the key is new.
    for n in refused.iter().take(20) {
        let body = json!({ "type": "e2e.step", "queue": "busy", "input": { "n": n } });
        let answer = rest.submit(&format!("k{n}"), &body).await?;
        anyhow::ensure!(answer.status == 201, "refused number {n} had been stored: {}", answer.shown());
    }
    server.still_serves().await?;
    let capacity = u64::from(PERMITS) * 1_000 / TAKES.as_millis() as u64;
    figure(&format!(
        "overload: {} s at twice the capacity of {capacity}/s; {} accepted and all completed, {} refused with Retry-After \
         (slowest refusal {} ms); completions per second {paces:?}",
        lasts.as_secs(),
        tasks.len(),
        refused.len(),
        slowest_refusal.as_millis(),
    ));
    Ok(())
}

/// Many connections, as fast as they can: the bound is then the server's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_leaves_the_server_answering() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::alone().await;
    let lasts = Duration::from_secs(if is_chaos() { 60 } else { 5 });
    let mut server = Server::start().await?;
    let rest = server.rest();
    rest.queue("busy", &json!({})).await?;
    let ledger = Ledger::default();
    let _worker = Worker::start(Plan::new(&server.url(), &server.token, "w", &["busy"], 500), ledger.clone());
    let outcomes: Arc<Mutex<Outcomes>> = Arc::default();
    let end = Instant::now() + lasts;
    let mut submitters = tokio::task::JoinSet::new();
    for mine in 0..400 {
        // The interval of one millisecond is never reached: each sends as soon as it is answered.
        let (rest, outcomes) = (rest.clone(), outcomes.clone());
        submitters.spawn(submit(rest, mine * 1_000_000_000, Duration::from_millis(1), end, outcomes));
    }
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let begun = Instant::now();
        let live = rest.get("/health/live").await?;
        anyhow::ensure!(live.status == 200, "not live under load: {}", live.status);
        slowest = slowest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    while submitters.join_next().await.is_some() {}
    let Outcomes { accepted, refused, without_retry_after, wrong, .. } =
        std::mem::take(&mut *outcomes.lock().unwrap_or_else(PoisonError::into_inner));
    anyhow::ensure!(wrong.is_empty(), "neither accepted nor refused: {:#?}", &wrong[..wrong.len().min(5)]);
    anyhow::ensure!(without_retry_after == 0, "{without_retry_after} refusals without Retry-After");
    all_done(&ledger, accepted.len()).await?;
    ledger.check()?;
    let tasks: Vec<(u64, u128)> = accepted.iter().map(|(n, id)| (*n, *id)).collect();
    // The count covers all of them, the reads a sample.
    let counts = rest.get("/api/tasks/counts").await?.ok()?.json()?;
    let stored = counts["counts"]["succeeded"].as_u64().unwrap_or(0);
    anyhow::ensure!(stored == tasks.len() as u64, "{} accepted, but {stored} succeeded: {counts}", tasks.len());
    check_states(&server.url(), &server.token, &tasks[..tasks.len().min(2_000)], Some("succeeded")).await?;
    server.still_serves().await?;
    figure(&format!(
        "flood: 400 connections for {} s; {} accepted and all completed, {} refused; slowest /health/live {} ms",
        lasts.as_secs(),
        tasks.len(),
        refused.len(),
        slowest.as_millis(),
    ));
    Ok(())
}
