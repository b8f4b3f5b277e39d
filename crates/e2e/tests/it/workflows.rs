//! Workflows on the real server with a real agent: deployed, run, and still run to their end when everything is killed.

use serde_json::{Value, json};
use tidewheel_e2e::agent::{Agent, deploy, package};
use tidewheel_e2e::server::{Server, run};
use tidewheel_e2e::{PATIENCE, gate, need, need_binary, until};

/// Each attempt leaves a line; the call takes long enough to be killed in the middle.
const MODULE: &str = r#"
import time

from tidewheel import task


@task(retry=5)
def pay(amount: int, folder: str, seconds: float = 0):
    with open(folder + "/begun", "a") as begun:
        begun.write("x")
    time.sleep(seconds)
    with open(folder + "/done", "a") as done:
        done.write("x")
    return {"paid": amount}
"#;

const ORDER: &str = "document: {dsl: '1.0.3', namespace: shop, name: order, version: '1.0.0'}
do:
  - total:
      set: {amount: '${ [.prices[]] | add }', folder: '${ .folder }'}
  - pay:
      call: python:1.0.0@default
      with:
        package: shop
        entrypoint: pay
        args: {amount: '${ .amount }', folder: '${ .folder }', seconds: 4}
  - rest:
      wait: {milliseconds: 500}
  - done:
      set: {paid: '${ .paid }', thanks: true}
";

fn marks(folder: &std::path::Path, name: &str) -> usize {
    std::fs::read_to_string(folder.join(name)).map_or(0, |text| text.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_completes_once_although_server_and_agent_are_killed_in_the_middle() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let mut agent = Agent::start(&server, "one", &server.home().join("agent"), 2, &[]).await?;
    let folder = package(server.home(), "shop", "1.0.0", MODULE, &[])?;
    deploy(&server, &folder).await?.exits(0)?;
    std::fs::write(server.home().join("order.yaml"), ORDER)?;
    let work = server.home().join("work");
    std::fs::create_dir_all(&work)?;
    let home = server.home().to_path_buf();
    run(&server, &home, &["workflow", "deploy", "order.yaml"]).await?.exits(0)?;
    let input = json!({ "prices": [3, 4], "folder": work.to_string_lossy() }).to_string();
    let started = run(&server, &home, &["workflow", "run", "shop/order", "--input", &input, "-o", "json"]).await?;
    let id = started.exits(0)?.json()?["id"].as_str().unwrap_or_default().to_owned();
    until("the task to begin", PATIENCE, || async { Ok((marks(&work, "begun") > 0).then_some(())) })
        .await
        .map_err(|e| e.context(agent.log_end()))?;
    agent.kill()?;
    server.kill()?;
    server.launch().await?;
    let agent = Agent::start(&server, "one", &server.home().join("agent"), 2, &[]).await?;
    let got = run(&server, &home, &["run", "get", &id, "--wait=60s", "-o", "json"]).await?;
    let done = got.exits(0).map_err(|e| e.context(agent.log_end()))?.json()?;
    anyhow::ensure!(done["phase"] == "completed" && done["output"] == json!({ "paid": 7, "thanks": true }), "{done}");
    anyhow::ensure!(marks(&work, "begun") == 2 && marks(&work, "done") == 1, "the attempt that was killed left a mark");
    let journal = run(&server, &home, &["run", "journal", &id, "-o", "json"]).await?.exits(0)?.json()?;
    let entries = journal["items"].as_array().cloned().unwrap_or_default();
    let tasks: Vec<&Value> = entries.iter().filter(|entry| entry["kind"] == "task").collect();
    anyhow::ensure!(tasks.len() == 1 && entries.iter().all(|entry| entry["status"] == "done"), "{journal}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_reach_the_agent_and_come_back() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let agent = Agent::start(&server, "one", &server.home().join("agent"), 2, &[]).await?;
    let module = "from tidewheel import task\n\n\n@task\ndef double(text: str):\n    return {'text': text + text}\n";
    let folder = package(server.home(), "words", "1.0.0", module, &[])?;
    deploy(&server, &folder).await?.exits(0)?;
    let document = "document: {dsl: '1.0.3', namespace: shop, name: words, version: '1.0.0'}
do:
  - keep: {set: {text: '${ .text + \"!\" }'}}
  - double: {call: 'python:1.0.0@default', with: {package: words, entrypoint: double, args: '${ . }'}}
  - rest: {wait: {seconds: 2}}
  - measure: {set: {bytes: '${ .text | length }'}}
";
    let home = server.home().to_path_buf();
    std::fs::write(home.join("words.yaml"), document)?;
    run(&server, &home, &["workflow", "deploy", "words.yaml"]).await?.exits(0)?;
    std::fs::write(home.join("input.json"), json!({ "text": "x".repeat(199_999) }).to_string())?;
    let started =
        run(&server, &home, &["workflow", "run", "shop/words", "--input", "@input.json", "-o", "json"]).await?;
    let id = started.exits(0)?.json()?["id"].as_str().unwrap_or_default().to_owned();
    let rest = server.rest();
    until("the run to rest", PATIENCE, || async {
        let seen = rest.get(&format!("/api/runs/{id}")).await?.ok()?.json()?;
        anyhow::ensure!(seen["phase"] != "faulted", "{seen}");
        Ok((seen["waiting"][0]["for"] == "time").then_some(()))
    })
    .await
    .map_err(|e| e.context(agent.log_end()))?;
    // What it holds has to be read again after this.
    server.kill()?;
    server.launch().await?;
    let got = run(&server, &home, &["run", "get", &id, "--wait=60s", "-o", "json"]).await?.exits(0)?.json()?;
    anyhow::ensure!(got["output"] == json!({ "bytes": 400_000 }), "{got}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_cancel_of_runs_goes_on_after_a_kill_and_has_one_outcome_for_each() -> anyhow::Result<()> {
    const RUNS: usize = 1_000;
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let home = server.home().to_path_buf();
    let document =
        "document: {dsl: '1.0.3', namespace: shop, name: slow, version: '1.0.0'}\ndo:\n  - rest: {wait: {hours: 1}}\n";
    std::fs::write(home.join("slow.yaml"), document)?;
    run(&server, &home, &["workflow", "deploy", "slow.yaml"]).await?.exits(0)?;
    let rest = server.rest();
    for _ in 0..RUNS {
        rest.post("/api/v1/runs", &json!({ "workflow": "shop/slow" })).await?.ok()?;
    }
    let body = json!({ "filter": "workflow:shop/slow", "reason": "wrong" });
    let id = rest.post("/api/v1/runs:cancel", &body).await?.ok()?.text("/id")?;
    let path = format!("/api/v1/operations/{id}");
    // In the middle: some are done, most are not.
    until("the first outcomes", PATIENCE, || async {
        let seen = rest.get(&path).await?.ok()?.json()?;
        Ok((seen["done"].as_u64() > Some(0)).then_some(()))
    })
    .await?;
    server.kill()?;
    server.launch().await?;
    let rest = server.rest();
    let done = until("the operation to end", PATIENCE, || async {
        let seen = rest.get(&path).await?.ok()?.json()?;
        Ok((seen["state"] == "done").then_some(seen))
    })
    .await?;
    anyhow::ensure!(done["done"] == RUNS && done["failed"] == 0, "{done}");
    let items = run(&server, &home, &["op", "items", &id, "--all", "-o", "json"]).await?.exits(0)?.json()?;
    let runs: std::collections::BTreeSet<&str> =
        items["items"].as_array().into_iter().flatten().filter_map(|item| item["run"].as_str()).collect();
    anyhow::ensure!(runs.len() == RUNS, "{} outcomes", runs.len());
    let counts = rest.get("/api/v1/runs/counts").await?.ok()?.json()?;
    anyhow::ensure!(counts["counts"]["cancelled"] == RUNS && counts["counts"]["waiting"] == 0, "{counts}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_run_is_followed_to_its_end_and_each_line_comes_once() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let server = Server::start().await?;
    let _agent = Agent::start(&server, "one", &server.home().join("agent"), 2, &[]).await?;
    let say = |word: &str, seconds: u32| {
        json!({ "call": "task:1.0.0@default", "with": { "type": "shell",
            "input": { "command": format!("for i in 1 2 3; do echo {word} $i; sleep {seconds}; done") } } })
    };
    let document = json!({
        "document": { "dsl": "1.0.3", "namespace": "shop", "name": "talk", "version": "1.0.0" },
        "do": [{ "first": say("first", 1) }, { "second": say("second", 0) }],
    });
    let home = server.home().to_path_buf();
    std::fs::write(home.join("talk.json"), document.to_string())?;
    run(&server, &home, &["workflow", "deploy", "talk.json"]).await?.exits(0)?;
    let started = run(&server, &home, &["workflow", "run", "shop/talk", "-o", "json"]).await?.exits(0)?.json()?;
    let id = started["id"].as_str().unwrap_or_default();
    let followed = run(&server, &home, &["run", "logs", id, "--follow", "-o", "jsonl"]).await?.exits(0)?;
    let lines: Vec<Value> = followed.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let texts: Vec<&str> = lines.iter().filter_map(|line| line["text"].as_str()).collect();
    anyhow::ensure!(texts == ["first 1", "first 2", "first 3", "second 1", "second 2", "second 3"], "{texts:?}");
    anyhow::ensure!(lines.iter().all(|line| line["statement"].is_string()), "{}", followed.stdout);
    Ok(())
}
