//! The disk says that it did not keep the data, and how often the server asks it to. Both are seen from outside the
//! process, where no figure of the server itself can flatter.

use std::time::Duration;

use serde_json::json;
use tidewheel_e2e::ledger::Ledger;
use tidewheel_e2e::server::Server;
use tidewheel_e2e::trace::Trace;
use tidewheel_e2e::worker::{Plan, Worker};
use tidewheel_e2e::{PATIENCE, figure, gate, need, need_binary, process, until};

use crate::load::{Load, check_states};

const SYNCS: &str = "fsync,fdatasync,sync_file_range,sync,syncfs,msync";
/// How long an idle server is watched.
const IDLE: Duration = Duration::from_secs(60);
/// The exit code of a server whose disk did not keep data (`EX_IOERR`).
const EXIT_FSYNC: i32 = 74;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fsync_ends_the_server_and_loses_nothing_acknowledged() -> anyhow::Result<()> {
    need_binary!();
    need!(strace);
    let _machine = gate::alone().await;
    let mut server = Server::start().await?;
    server.rest().queue("fsync", &json!({ "retry": { "max_attempts": 100, "delay": "10ms" } })).await?;
    let ledger = Ledger::default();
    let load = Load::new(&server.url(), &server.token, "fsync", &ledger, 2_000);
    let mut submitters = tokio::task::JoinSet::new();
    submitters.spawn(load.clone().bulk(20, 4));
    submitters.spawn(load.clone().single());
    let _worker = Worker::start(Plan::new(&server.url(), &server.token, "w", &["fsync"], 100), ledger.clone());
    for when in [1, 7, 40] {
        let before = ledger.completed();
        until("load on the server", PATIENCE, || async { Ok((ledger.completed() > before + 50).then_some(())) })
            .await?;
        // The n-th call of a thread; everything after it would succeed again, which is what a real disk does too.
        let inject = format!("fsync,fdatasync:error=EIO:when={when}");
        let trace = Trace::attach(server.pid(), "fsync,fdatasync", &inject, server.home()).await?;
        let status = server.wait(PATIENCE).await?;
        drop(trace);
        anyhow::ensure!(
            status.code() == Some(EXIT_FSYNC),
            "the server ended with {status}; its log:\n{}",
            server.log_end()
        );
        let log = server.log_end().to_lowercase();
        anyhow::ensure!(log.contains("sync"), "the message does not name the failed sync:\n{log}");
        server.launch().await?;
        let acknowledged: Vec<(u64, u128)> = {
            let book = ledger.book();
            book.submitted.iter().flat_map(|(n, ids)| ids.iter().map(|id| (*n, *id))).collect()
        };
        check_states(&server.url(), &server.token, &acknowledged, None).await?;
        ledger.check()?;
    }
    load.stop();
    load.settled(&server.rest()).await?;
    load.check_store(&server.rest()).await?;
    figure(&format!(
        "fsync error: 3 faults, 3 times exit {EXIT_FSYNC}; {} acknowledged, 0 lost",
        ledger.acknowledged()
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_submit_waited_for_the_disk() -> anyhow::Result<()> {
    need_binary!();
    need!(strace);
    let _machine = gate::alone().await;
    let server = Server::start().await?;
    let rest = server.rest();
    rest.queue("sync", &json!({})).await?;
    let trace = Trace::attach(server.pid(), SYNCS, "", server.home()).await?;
    // One after the other: none can share a sync with the next, so there is at least one each.
    let before = trace.count();
    for n in 0..50 {
        rest.task(&json!({ "type": "e2e.step", "queue": "sync", "input": { "alone": n } })).await?;
    }
    let alone = trace.count() - before;
    anyhow::ensure!(alone >= 50, "50 submits, each acknowledged before the next, made {alone} syncs");
    // Many at once: they share.
    let ledger = Ledger::default();
    let load = Load::new(&server.url(), &server.token, "sync", &ledger, 20_000);
    let figures = server.store_figures().await?;
    let before = trace.count();
    let mut submitters = tokio::task::JoinSet::new();
    submitters.spawn(load.clone().bulk(500, 4));
    let plan = Plan::new(&server.url(), &server.token, "w", &["sync"], 1_000);
    let _worker = Worker::start(plan, ledger.clone());
    until("10,000 tasks", PATIENCE, || async { Ok((ledger.completed() >= 10_000).then_some(())) }).await?;
    load.stop();
    load.settled(&rest).await?;
    ledger.check()?;
    let outside = trace.count() - before;
    let inside = &server.store_figures().await?;
    let delta = |name: &str| inside[name].as_u64().unwrap_or(0) - figures[name].as_u64().unwrap_or(0);
    let commits = delta("commits");
    anyhow::ensure!(outside as u64 >= commits, "{commits} commits, but only {outside} syncs were seen from outside");
    let tasks = ledger.completed();
    figure(&format!(
        "fsync: {alone} for 50 submits one by one; {outside} from outside for {tasks} tasks submitted, granted and completed \
         in bulk ({:.1} tasks per fsync; the server counts {commits} commits and {} syncs)",
        tasks as f64 / outside.max(1) as f64,
        delta("fsyncs"),
    ));
    trace.detach().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_server_does_not_touch_its_store() -> anyhow::Result<()> {
    need_binary!();
    need!(strace);
    let _machine = gate::beside().await;
    let server = Server::start().await?;
    let rest = server.rest();
    // Not new and empty: with work that waits for hours, and a worker that has nothing to do.
    let ledger = Ledger::default();
    let worker = Worker::start(Plan::new(&server.url(), &server.token, "w", &["default"], 10), ledger.clone());
    worker.connected().await?;
    for n in 0..20 {
        rest.task(&json!({ "type": "e2e.step", "input": { "n": n }, "delay": "5h" })).await?;
        rest.task(&json!({ "type": "e2e.step", "input": { "n": 100 + n } })).await?;
    }
    until("the work that is due", PATIENCE, || async { Ok((ledger.completed() == 20).then_some(())) }).await?;
    // What SQLite does for any statement: locks (fcntl), reads and writes at a position, syncs.
    let calls = format!("{SYNCS},fcntl,pread64,pwrite64,ftruncate");
    let trace = Trace::attach(server.pid(), &calls, "", server.home()).await?;
    // What the last commits left to do, a checkpoint perhaps, may still come.
    let mut quiet_since = trace.count();
    until("the server to come to rest", PATIENCE, || {
        let seen = trace.count();
        let at_rest = seen == quiet_since;
        quiet_since = seen;
        async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(at_rest.then_some(()))
        }
    })
    .await?;
    let before = trace.count();
    let ticks = process::cpu_ticks(server.pid());
    tokio::time::sleep(IDLE).await;
    // A development build looks at every descriptor before it closes it, whatever it is of.
    let seen: Vec<_> = trace.since(before).into_iter().filter(|call| !call.contains("F_GETFD")).collect();
    let used = process::cpu_ticks(server.pid()) - ticks;
    let rss = process::resident_bytes(server.pid());
    figure(&format!(
        "idle: {} store calls in {} s, {used} ticks of CPU (1/100 s, tracing included), RSS {} MB",
        seen.len(),
        IDLE.as_secs(),
        rss >> 20,
    ));
    anyhow::ensure!(seen.is_empty(), "an idle server touched its store: {:#?}", &seen[..seen.len().min(10)]);
    trace.detach().await?;
    Ok(())
}
