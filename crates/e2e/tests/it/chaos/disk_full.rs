//! No space left. The server stays up, says that it is not ready, refuses what it could not keep, keeps what it has, and
//! goes on by itself once there is room.

use std::time::Duration;

use serde_json::json;
use tidewheel_e2e::ledger::Ledger;
use tidewheel_e2e::server::Server;
use tidewheel_e2e::tools::SmallDisk;
use tidewheel_e2e::worker::{Deed, Plan, Worker};
use tidewheel_e2e::{PATIENCE, figure, gate, need, need_binary, until, until_done};

use crate::load::{check_states, open_in};

const DISK: u64 = 64 << 20;
/// Inputs that are stored inline and fill a log file in a few hundred submits.
const INPUT: usize = 30_000;

fn task(n: u64) -> serde_json::Value {
    json!({ "type": "e2e.step", "queue": "full", "input": { "n": n, "fill": "x".repeat(INPUT) } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_work_and_keeps_the_old() -> anyhow::Result<()> {
    need_binary!();
    need!(mount);
    let _machine = gate::beside().await;
    let folder = tempfile::tempdir()?;
    let disk = SmallDisk::at(folder.path(), DISK)?;
    let mut server = Server::start_at(Some(&disk.path().join("data")), &[]).await?;
    let rest = server.rest();
    rest.queue("full", &json!({ "retry": { "max_attempts": 100, "delay": "10ms" } })).await?;
    let ledger = Ledger::default();
    // Slow enough that results are under way when the disk is full.
    let slow = Plan::new(&server.url(), &server.token, "slow", &["full"], 4)
        .with(|_| Deed::After(Duration::from_millis(200), "1".into()));
    let _worker = Worker::start(slow, ledger.clone());
    let mut accepted = Vec::new();
    for n in 0..50 {
        let answer = rest.submit(&format!("k{n}"), &task(n)).await?.ok()?;
        accepted.push((n, tidewheel_proto::id::parse("task", &answer.text("/id")?).unwrap_or(0)));
    }
    let filler = disk.fill()?;
    let mut refused = Vec::new();
    let mut unknown = Vec::new();
    // A log file that exists can still be written over for a while.
    for n in 50..2_000 {
        let answer = rest.submit(&format!("k{n}"), &task(n)).await?;
        match (answer.status, answer.code().as_str()) {
            (201, _) => accepted.push((n, tidewheel_proto::id::parse("task", &answer.text("/id")?).unwrap_or(0))),
            (503, "outcome-unknown") => unknown.push(n),
            (503, "overloaded" | "unavailable") => {
                anyhow::ensure!(!answer.header("retry-after").is_empty(), "no Retry-After: {}", answer.shown());
                refused.push(n);
            }
            _ => anyhow::bail!("status {} on a full disk: {}", answer.status, answer.shown()),
        }
        if refused.len() == 20 {
            break;
        }
    }
    anyhow::ensure!(refused.len() == 20, "the full disk did not show: {} accepted", accepted.len());
    anyhow::ensure!(server.lives(), "the server ended on a full disk; its log:\n{}", server.log_end());
    anyhow::ensure!(rest.get("/health/live").await?.status == 200, "not live on a full disk");
    let ready = rest.get("/health/ready").await?;
    anyhow::ensure!(ready.status == 503, "ready on a full disk: {} {}", ready.status, ready.shown());
    std::fs::remove_file(filler)?;
    until("ready again by itself", PATIENCE, || async {
        Ok((rest.get("/health/ready").await?.status == 200).then_some(()))
    })
    .await?;
    // Refused means not stored: the same key is new now. Unknown may have been either, but never both.
    for n in &refused {
        let answer = until("room for new work", PATIENCE, || async {
            let answer = rest.submit(&format!("k{n}"), &task(*n)).await?;
            Ok((answer.status != 503).then_some(answer))
        })
        .await?;
        anyhow::ensure!(answer.status == 201, "refused number {n} had been stored: {}", answer.status);
        accepted.push((*n, tidewheel_proto::id::parse("task", &answer.text("/id")?).unwrap_or(0)));
    }
    for n in &unknown {
        let answer = rest.submit(&format!("k{n}"), &task(*n)).await?.ok()?;
        accepted.push((*n, tidewheel_proto::id::parse("task", &answer.text("/id")?).unwrap_or(0)));
    }
    // By the store's word: the acknowledgement of a result may have been lost with the commit that carried it.
    let settled = until_done("every accepted task to end", || async {
        let open = open_in(&rest, "full").await?;
        Ok(if open == 0 { Ok(()) } else { Err(open) })
    })
    .await;
    let stats = rest.get("/api/queues/full/stats").await?.shown();
    settled
        .map_err(|e: anyhow::Error| e.context(format!("{} completed, the queue says {stats}", ledger.completed())))?;
    ledger.check()?;
    check_states(&server.url(), &server.token, &accepted, Some("succeeded")).await?;
    server.still_serves().await?;
    figure(&format!(
        "disk full: {} refused with 503, {} unknown, {} accepted and all completed once",
        refused.len(),
        unknown.len(),
        accepted.len(),
    ));
    Ok(())
}
