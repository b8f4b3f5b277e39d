//! Programs that go over to other code, options of the tasks that they call, and programs that are to end and do not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidewheel_e2e::server::run;
use tidewheel_e2e::{PATIENCE, gate, need, need_binary, until};

use crate::programs::{Place, marks};

const FLOWS: &str = r#"
import os
import time

from tidewheel import task, wf, workflow


def mark(folder, name):
    with open(os.path.join(folder, name), "a") as file:
        file.write("x")


@task(concurrency={"key": "account", "limit": 1})
def book(account: str, folder: str):
    mark(folder, "in-book")
    seen = os.path.join(folder, "inside")
    if os.path.exists(seen):
        mark(folder, "overlapped")
    open(seen, "w").close()
    time.sleep(0.5)
    os.unlink(seen)
    return account


@task(memory="64Mi", resource_class="io-intensive", labels={"team": "a"})
def plain(folder: str):
    return 1


@task
def refund(folder: str):
    mark(folder, "refunded")


@workflow(version="1", version_policy="POLICY")
def order(folder: str) -> dict:
    first = plain(folder)
    wf.signal("go")
    return {"first": first, "code": "one"}


@workflow
def accounts(folder: str) -> list:
    return list(wf.all(book.submit("a-1", folder), book.submit("a-1", folder)))


@workflow
def options(folder: str) -> int:
    return plain.with_options(affinity_key="eu", timeout={"queue": "5m", "run": "1m"}, ttl="10m", priority="high")(folder)


@workflow
def impossible(folder: str) -> int:
    return plain.with_options(concurrency_key="k" * 300)(folder)


@workflow
def looping(folder: str) -> int:
    wf.undo(refund, folder)
    plain(folder)
    mark(folder, "looping")
    while True:
        pass
"#;

fn flows(policy: &str) -> String {
    FLOWS.replace("POLICY", policy)
}

/// The same workflow in code that its history does not fit.
fn unfit(policy: &str) -> String {
    flows(policy)
        .replace("first = plain(folder)\n    wf.signal", "first = refund(folder)\n    wf.signal")
        .replace("one", "two")
}

/// ... and in code that it does fit.
fn fit(policy: &str) -> String {
    flows(policy).replace("\"code\": \"one\"", "\"code\": \"three\"")
}

async fn version_of(place: &Place, id: &str) -> anyhow::Result<String> {
    let seen = place.server.rest().get(&format!("/api/runs/{id}")).await?.ok()?.json()?;
    Ok(seen["hash"].as_str().unwrap_or_default().to_owned())
}

/// Waits for the newest operation that moves runs; its items.
async fn moved(place: &Place) -> anyhow::Result<Vec<Value>> {
    let rest = place.server.rest();
    until("the runs to be moved", PATIENCE, || async {
        let all = rest.get("/api/v1/operations").await?.ok()?.json()?;
        let of_moves = all["items"].as_array().into_iter().flatten().find(|one| one["action"] == "move").cloned();
        let Some(found) = of_moves.filter(|found| found["state"] == "done") else { return Ok(None) };
        let id = found["id"].as_str().unwrap_or_default();
        let items = rest.get(&format!("/api/v1/operations/{id}/items")).await?.ok()?.json()?;
        Ok(Some(items["items"].as_array().cloned().unwrap_or_default()))
    })
    .await
    .map_err(|e| e.context(place.agent.log_end()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_of_tasks_in_programs_count() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let place = Place::with(&flows("pin")).await?;
    let input = place.input(json!({}));
    let both = [place.start("default/accounts", &input).await?, place.start("default/accounts", &input).await?];
    for id in &both {
        let done = place.get(id, "--wait=60s").await?;
        anyhow::ensure!(done["phase"] == "completed", "{done}");
    }
    anyhow::ensure!(marks(&place.work, "in-book") == 4, "each was done once");
    anyhow::ensure!(
        marks(&place.work, "overlapped") == 0,
        "tasks of two runs with one concurrency key ran side by side"
    );
    let id = place.start("default/options", &input).await?;
    let done = place.get(&id, "--wait=60s").await?;
    anyhow::ensure!(done["phase"] == "completed", "{done}");
    let entries = place.journal(&id).await?;
    let task = entries.iter().find(|entry| entry["kind"] == "task").and_then(|entry| entry["task"].as_str());
    let task = place.server.rest().get(&format!("/api/tasks/{}", task.unwrap_or_default())).await?.ok()?.json()?;
    anyhow::ensure!(task["affinity_key"] == "eu" && task["priority"] == 8 && task["labels"]["team"] == "a", "{task}");
    anyhow::ensure!(task["resources"]["memory"] == 64 << 20 && task["resources"]["iops"] == "high", "{task}");
    let id = place.start("default/impossible", &input).await?;
    let done = place.get(&id, "--wait=60s").await?;
    let error = &done["error"];
    let said = error["detail"].as_str().unwrap_or_default();
    anyhow::ensure!(done["phase"] == "faulted" && said.contains("`concurrency_key`"), "{done}");
    anyhow::ensure!(error["key"] == "/task:plain#0", "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_moves_compatible_runs_that_fit_and_leaves_the_others() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let place = Place::with(&flows("compatible")).await?;
    let id = place.start("default/order", &place.input(json!({}))).await?;
    place.phase(&id, "waiting").await?;
    let first = version_of(&place, &id).await?;
    place.deploy("1.1.0", &unfit("compatible")).await?;
    let items = moved(&place).await?;
    anyhow::ensure!(items.len() == 1 && items[0]["outcome"] == "failed", "{items:?}");
    let why = items[0]["detail"].as_str().unwrap_or_default();
    anyhow::ensure!(why.contains("does not fit shop 1.1.0") && why.contains("/task:refund#0"), "{why}");
    anyhow::ensure!(version_of(&place, &id).await? == first, "it stays");
    let why = run(&place.server, &place.home, &["run", "why", &id, "-o", "json"]).await?.exits(0)?.json()?;
    anyhow::ensure!(why.to_string().contains("It stays on"), "{why}");
    place.deploy("1.2.0", &fit("compatible")).await?;
    until("the run to be moved", PATIENCE, || async { Ok((version_of(&place, &id).await? != first).then_some(())) })
        .await
        .map_err(|e| e.context(place.agent.log_end()))?;
    run(&place.server, &place.home, &["run", "signal", &id, "go"]).await?.exits(0)?;
    let done = place.get(&id, "--wait=60s").await?;
    anyhow::ensure!(done["output"] == json!({ "first": 1, "code": "three" }), "{done}");
    let entries = place.journal(&id).await?;
    anyhow::ensure!(entries.iter().any(|entry| entry["kind"] == "moved"), "{entries:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_not_fit_its_new_code_goes_back_is_accepted_or_reset() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let place = Place::with(&flows("latest")).await?;
    let input = place.input(json!({}));
    let mut runs = Vec::new();
    for _ in 0..3 {
        let id = place.start("default/order", &input).await?;
        place.phase(&id, "waiting").await?;
        runs.push(id);
    }
    let first = version_of(&place, &runs[0]).await?;
    place.deploy("1.1.0", &unfit("latest")).await?;
    for id in &runs {
        until("the run to be moved", PATIENCE, || async { Ok((version_of(&place, id).await? != first).then_some(())) })
            .await?;
        run(&place.server, &place.home, &["run", "signal", id, "go"]).await?.exits(0)?;
        place.phase(id, "suspended").await?;
    }
    let why = run(&place.server, &place.home, &["run", "why", &runs[0], "-o", "json"]).await?.exits(0)?.json()?;
    let summary = why["summary"].as_str().unwrap_or_default();
    anyhow::ensure!(summary.contains("/task:plain#0") && summary.contains("/task:refund#0"), "{why}");
    // Back to the code that it came from.
    run(&place.server, &place.home, &["run", "move", &runs[0], "--to", "previous"]).await?.exits(0)?;
    let done = place.get(&runs[0], "--wait=60s").await?;
    anyhow::ensure!(done["output"] == json!({ "first": 1, "code": "one" }), "{done}");
    // What differs is accepted, and stands in the journal.
    run(&place.server, &place.home, &["run", "accept", &runs[1]]).await?.exits(0)?;
    let done = place.get(&runs[1], "--wait=60s").await?;
    anyhow::ensure!(done["output"] == json!({ "first": null, "code": "two" }), "{done}");
    anyhow::ensure!(marks(&place.work, "refunded") == 1, "what the code asks for instead was done");
    let entries = place.journal(&runs[1]).await?;
    let accepted = entries.iter().find(|entry| entry["kind"] == "accepted");
    anyhow::ensure!(accepted.is_some_and(|entry| entry["input"]["expected"] == "/task:plain#0"), "{entries:?}");
    // Taken back to before the difference, it does its work with the code that it has; the signal is there once more.
    run(&place.server, &place.home, &["run", "reset", &runs[2], "--to", "/task:plain#0"]).await?.exits(0)?;
    let done = place.get(&runs[2], "--wait=60s").await?;
    anyhow::ensure!(done["output"]["code"] == "two", "{done}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_loops_is_cancelled_promptly_and_what_it_did_is_undone() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let place = Place::with(&flows("pin")).await?;
    let id = place.start("default/looping", &place.input(json!({}))).await?;
    let work = place.work.clone();
    until("the program to loop", PATIENCE, || async { Ok((marks(&work, "looping") > 0).then_some(())) })
        .await
        .map_err(|e| e.context(place.agent.log_end()))?;
    let asked = Instant::now();
    run(&place.server, &place.home, &["run", "cancel", &id]).await?.exits(0)?;
    place.phase(&id, "cancelled").await?;
    // Its grace, and not the retries of its activation of thirty seconds each.
    anyhow::ensure!(asked.elapsed() < Duration::from_secs(40), "{:?}", asked.elapsed());
    anyhow::ensure!(marks(&work, "refunded") == 1, "undone once");
    Ok(())
}
