//! A process that is stopped and goes on later: it does not know that time has passed without it.

use std::io::BufRead as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tidewheel_e2e::ledger::Ledger;
use tidewheel_e2e::process::{Group, Signal};
use tidewheel_e2e::server::Server;
use tidewheel_e2e::worker::{Deed, Plan, Worker};
use tidewheel_e2e::{PATIENCE, figure, gate, need_binary, until};
use tokio::sync::mpsc;

use crate::load::{Load, check_states};

/// Tasks that are in the hands of the worker when it is frozen.
const TASKS: u64 = 40;
/// Beyond the lease of 4 s by a good half.
const FREEZE: Duration = Duration::from_millis(6_500);

/// A worker as a process, and the events that it prints.
struct Frozen {
    group: Group,
    events: mpsc::UnboundedReceiver<String>,
}

impl Frozen {
    fn start(server: &Server, queue: &str, takes_ms: u64) -> anyhow::Result<Frozen> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_e2e-worker"));
        command.args([&server.url(), "frozen", queue, &TASKS.to_string(), &takes_ms.to_string()]);
        command.env("E2E_TOKEN", &server.token).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut group = Group::start_as_is(&mut command)?;
        let stdout = group.stdout().context("stdout is piped")?;
        let (out, events) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(stdout).lines().map_while(Result::ok) {
                if out.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Frozen { group, events })
    }

    /// Waits for so many events of a kind; fails on one that must not come.
    async fn sees(&mut self, what: &str, count: u64, never: &str) -> anyhow::Result<()> {
        for seen in 0..count {
            loop {
                let line = tokio::time::timeout(PATIENCE, self.events.recv()).await;
                let line = line.with_context(|| format!("{seen} of {count} events '{what}'"))?;
                let line = line.context("the worker process ended")?;
                anyhow::ensure!(never.is_empty() || !line.starts_with(never), "the frozen worker saw: {line}");
                if line.starts_with(what) {
                    break;
                }
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_frozen_worker_run_elsewhere_and_its_late_results_are_refused() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let server = Server::start().await?;
    let rest = server.rest();
    rest.queue("freeze", &json!({ "retry": { "max_attempts": 5, "delay": "10ms" } })).await?;
    let mut frozen = Frozen::start(&server, "freeze", 3_000)?;
    let mut ids = Vec::new();
    for n in 0..TASKS {
        let task = json!({ "type": "e2e.step", "queue": "freeze", "input": { "n": n } });
        let id = rest.task(&task).await?;
        ids.push((n, tidewheel_proto::id::parse("task", &id).context("an id")?));
    }
    frozen.sees("granted", TASKS, "").await?;
    frozen.group.signal(Signal::STOP);
    let ledger = Ledger::default();
    let _other = Worker::start(Plan::new(&server.url(), &server.token, "other", &["freeze"], 100), ledger.clone());
    until("the other worker to complete every task", PATIENCE, || async {
        Ok((ledger.completed() as u64 == TASKS).then_some(()))
    })
    .await?;
    check_states(&server.url(), &server.token, &ids, Some("succeeded")).await?;
    frozen.group.signal(Signal::CONT);
    frozen.sees("refused", TASKS, "accepted").await?;
    ledger.check()?;
    for (_, id) in &ids {
        let text = tidewheel_e2e::wire::text(*id);
        let result = rest.get(&format!("/api/tasks/{text}/result")).await?.ok()?;
        anyhow::ensure!(&result.body[..] == b"\"other\"", "the late result replaced the first: {}", result.shown());
        let attempts = rest.get(&format!("/api/tasks/{text}/attempts")).await?.ok()?.json()?;
        let outcomes: Vec<_> =
            attempts["items"].as_array().into_iter().flatten().map(|a| a["outcome"].clone()).collect();
        anyhow::ensure!(outcomes == ["lost", "succeeded"], "{text}: {attempts}");
    }
    figure(&format!(
        "freeze: {TASKS} tasks of a worker stopped beyond its lease ran elsewhere, {TASKS} late results refused"
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_frozen_goes_on() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let server = Server::start().await?;
    let rest = server.rest();
    rest.queue("freeze", &json!({ "retry": { "max_attempts": 20, "delay": "10ms" } })).await?;
    let ledger = Ledger::default();
    let load = Load::new(&server.url(), &server.token, "freeze", &ledger, 500);
    let mut submitters = tokio::task::JoinSet::new();
    submitters.spawn(load.clone().bulk(20, 2));
    submitters.spawn(load.clone().single());
    let slow = Plan::new(&server.url(), &server.token, "slow", &["freeze"], 50)
        .with(|_| Deed::After(Duration::from_millis(20), "1".into()));
    let _worker = Worker::start(slow, ledger.clone());
    for _ in 0..2 {
        let before = ledger.completed();
        until("work to go on", PATIENCE, || async { Ok((ledger.completed() > before + 100).then_some(())) }).await?;
        server.signal(Signal::STOP);
        tokio::time::sleep(FREEZE).await;
        server.signal(Signal::CONT);
    }
    let after = ledger.completed();
    until("work after the freeze", PATIENCE, || async { Ok((ledger.completed() > after + 100).then_some(())) }).await?;
    load.stop();
    load.settled(&rest).await?;
    load.check_store(&rest).await?;
    let book = ledger.book();
    let again = book.tasks.values().filter(|seen| seen.grants.len() > 1).count();
    figure(&format!(
        "freeze: server stopped twice for {} ms; {} tasks acknowledged and completed once, {again} of them granted again",
        FREEZE.as_millis(),
        book.submitted.len(),
    ));
    Ok(())
}
