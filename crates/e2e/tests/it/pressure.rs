//! A queue that fills up: it tells, then it throttles, then it refuses, and goes back the same way; what it has accepted
//! is done.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tidewheel_e2e::ledger::Ledger;
use tidewheel_e2e::rest::Rest;
use tidewheel_e2e::server::{Server, run};
use tidewheel_e2e::worker::{Deed, Plan, Worker};
use tidewheel_e2e::{PATIENCE, gate, need_binary, until};

const ALERT: u64 = 20;
const THROTTLE: u64 = 60;
const BOUND: u64 = 64;
const NARROW: &str = r#"queue="narrow""#;

/// The `pressure` events of the live stream, as `from > to`.
async fn listen(rest: Rest, seen: Arc<Mutex<Vec<String>>>) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let request = http.get(format!("{}/api/v1/stream?topics=queues", rest.url)).bearer_auth(&rest.token);
    let mut stream = request.send().await?.error_for_status()?;
    let mut text = String::new();
    while let Some(chunk) = stream.chunk().await? {
        text.push_str(&String::from_utf8_lossy(&chunk));
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            if let (true, Some(data)) = (event.contains("event: pressure"), data) {
                let change: Value = serde_json::from_str(data)?;
                let text = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{} > {}", text("from"), text("to")));
            }
        }
    }
    Ok(())
}

async fn stats(rest: &Rest) -> anyhow::Result<Value> {
    rest.get("/api/v1/queues/narrow/stats").await?.ok()?.json()
}

/// A figure with a label, as `queue="narrow"`.
async fn metric(rest: &Rest, name: &str, label: &str) -> anyhow::Result<f64> {
    let text = String::from_utf8(rest.get("/metrics").await?.ok()?.body.to_vec())?;
    let line = text.lines().find(|line| line.starts_with(name) && line.contains(label));
    Ok(line.and_then(|line| line.rsplit(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(-1.0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_comes_in_stages_and_accepted_work_is_done() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    let settings = json!({ "alert_depth": ALERT, "throttle_depth": THROTTLE, "max_depth": BOUND });
    rest.queue("narrow", &settings).await?;
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = tokio::spawn(listen(rest.clone(), seen.clone()));
    let told = || seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let task = json!({ "type": "e2e.step", "queue": "narrow", "input": 1 });
    let mut accepted = Vec::new();
    for _ in 0..=ALERT {
        accepted.push(rest.task(&task).await?);
    }
    // First stage: it is told, to people and to scalers, and nothing else.
    until("the alert in the stream", PATIENCE, || async {
        Ok(told().contains(&"none > alert".to_owned()).then_some(()))
    })
    .await?;
    let shown = stats(&rest).await?;
    anyhow::ensure!(shown["pressure"] == "alert" && shown["desired_permits"].as_u64() > Some(0), "{shown}");
    anyhow::ensure!(metric(&rest, "tidewheel_queue_pressure", NARROW).await? == 1.0);
    anyhow::ensure!(metric(&rest, "tidewheel_queue_desired_permits", NARROW).await? >= 1.0);
    anyhow::ensure!(metric(&rest, "orchestrator_job_queue_depth", NARROW).await? == (ALERT + 1) as f64);
    // Second: a part of what comes is taken, about as much as ends, which is nothing yet; the rest hears when to come back.
    let (mut throttled, mut answers) = (0, Vec::new());
    loop {
        let answer = rest.post("/api/v1/tasks", &task).await?;
        answers.push(answer.status);
        match answer.status {
            201 => accepted.push(answer.text("/id")?),
            429 => {
                throttled += 1;
                anyhow::ensure!(answer.code() == "rate-limited", "{}", answer.shown());
                anyhow::ensure!(answer.header("retry-after") == "1", "{:?}", answer.headers);
                anyhow::ensure!(answer.header("ratelimit").contains("r=0"), "{:?}", answer.headers);
                anyhow::ensure!(accepted.len() as u64 >= THROTTLE, "throttled at {}", accepted.len());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            503 => {
                anyhow::ensure!(!answer.header("retry-after").is_empty(), "{:?}", answer.headers);
                break;
            }
            _ => anyhow::bail!("{}: {}", answer.status, answer.shown()),
        }
        anyhow::ensure!(answers.len() < 5_000, "it never refuses");
    }
    anyhow::ensure!(
        throttled > 0 && accepted.len() as u64 == BOUND,
        "{} accepted, {throttled} throttled",
        accepted.len()
    );
    let first = answers.iter().position(|status| *status == 429).unwrap_or(0);
    anyhow::ensure!(answers[..first].iter().all(|status| *status == 201), "throttled before it was deep: {answers:?}");
    // Third: it is full.
    let upwards = ["none > alert", "alert > throttled", "throttled > full"];
    until("the stages in the stream", PATIENCE, || async { Ok((told() == upwards).then_some(())) }).await?;
    anyhow::ensure!(stats(&rest).await?["pressure"] == "full");
    anyhow::ensure!(server.log().contains("a queue comes to its bounds"), "{}", server.log_end());
    // The command line comes again by itself until it is taken.
    let home = server.home().to_path_buf();
    let submit = ["task", "submit", "e2e.step", "--queue", "narrow", "--input", "1", "-o", "json"];
    let (patient, ledger) = (run(&server, &home, &submit), Ledger::default());
    let plan = Plan::new(&server.url(), &server.token, "w", &["narrow"], 2);
    let plan = plan.with(|_| Deed::After(Duration::from_millis(5), "1".into()));
    let refusals = || metric(&rest, "tidewheel_requests_refused_total", r#"code="overloaded""#);
    let before = refusals().await?;
    let later = async {
        until("it to be refused", PATIENCE, || async { Ok((refusals().await? > before).then_some(())) }).await?;
        anyhow::Ok(Worker::start(plan, ledger.clone()))
    };
    let (submitted, worker) = tokio::join!(patient, later);
    let _worker = worker?;
    let id = submitted?.exits(0)?.json()?["id"].as_str().unwrap_or_default().to_owned();
    accepted.push(id);
    for id in &accepted {
        let ended = rest.ended(id).await?;
        anyhow::ensure!(ended["state"] == "succeeded", "{ended}");
    }
    until("the way back", PATIENCE, || async {
        Ok(told().last().is_some_and(|last| last.ends_with("> none")).then_some(()))
    })
    .await?;
    anyhow::ensure!(rest.post("/api/v1/tasks", &task).await?.status == 201, "it takes everything again");
    listener.abort();
    server.still_serves().await
}
