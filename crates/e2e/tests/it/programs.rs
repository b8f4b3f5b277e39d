//! Workflows written in Python on the real server with a real agent: killed in the middle, changed, replayed, exported, hostile.

use serde_json::{Value, json};
use tidewheel_e2e::agent::{Agent, deploy, package};
use tidewheel_e2e::server::{Server, run};
use tidewheel_e2e::{PATIENCE, gate, need, need_binary, until};

const FLOWS: &str = r#"
import os
import time

from tidewheel import task, wf, workflow


def mark(folder, name):
    with open(os.path.join(folder, name), "a") as file:
        file.write("x")


@task(retry=5)
def pay(amount: int, folder: str, seconds: float = 0):
    mark(folder, "begun")
    time.sleep(seconds)
    mark(folder, f"paid-{amount}")
    return amount


@task
def refund(folder: str):
    mark(folder, "refunded")


@task
def refuse(folder: str):
    raise ValueError("refused")


@workflow(version="1")
def order(folder: str, seconds: float = 0) -> dict:
    first = pay(1, folder, 0)
    second, third = wf.all(pay.submit(2, folder, seconds), pay.submit(3, folder, 0))
    wf.step("remember", mark, folder, "stepped")
    wf.sleep(0.2)
    return {"paid": first + second + third}


@task
def count(n: int, folder: str) -> dict:
    mark(folder, "counted")
    return {"n": n, "text": "x" * 700}


@workflow(version="1")
def long(folder: str, steps: int) -> dict:
    total = large = 0
    for n in range(steps):
        if n == steps // 2:
            # It waits here until everything was killed.
            wf.signal("go")
        if n % 1000 == 500:
            large += len(wf.step("large", lambda: "y" * 100_000))
        total += count(n, folder)["n"]
    return {"total": total, "large": large}


@workflow(version="1")
def failing(folder: str) -> dict:
    pay(7, folder)
    wf.undo(refund, folder)
    refuse(folder)
    return {}


@workflow(version="1")
async def waiting(folder: str) -> dict:
    wf.status({"waits": True})
    answer = await wf.signal("answer")
    return {"answer": answer}


@workflow(version="1")
def bad(how: str) -> object:
    if how == "exit":
        os._exit(3)
    if how == "loop":
        while True:
            pass
    if how == "text":
        return object()
    if how == "huge":
        return "x" * 40_000_000
    raise SystemExit("leaving")
"#;

pub(crate) fn marks(folder: &std::path::Path, name: &str) -> usize {
    std::fs::read_to_string(folder.join(name)).map_or(0, |text| text.len())
}

pub(crate) struct Place {
    pub(crate) server: Server,
    pub(crate) agent: Agent,
    pub(crate) home: std::path::PathBuf,
    pub(crate) work: std::path::PathBuf,
}

impl Place {
    async fn new() -> anyhow::Result<Place> {
        Place::with(FLOWS).await
    }

    /// With this module deployed as `shop` 1.0.0.
    pub(crate) async fn with(module: &str) -> anyhow::Result<Place> {
        let server = Server::start().await?;
        let agent = Agent::start(&server, "one", &server.home().join("agent"), 2, &[]).await?;
        let (home, work) = (server.home().to_path_buf(), server.home().join("work"));
        std::fs::create_dir_all(&work)?;
        let place = Place { server, agent, home, work };
        place.deploy("1.0.0", module).await?;
        Ok(place)
    }

    pub(crate) async fn deploy(&self, version: &str, module: &str) -> anyhow::Result<()> {
        let folder = package(&self.home, "shop", version, module, &[])?;
        deploy(&self.server, &folder).await?.exits(0)?;
        Ok(())
    }

    pub(crate) fn input(&self, more: Value) -> String {
        let mut input = json!({ "folder": self.work.to_string_lossy() });
        for (name, value) in more.as_object().into_iter().flatten() {
            input[name] = value.clone();
        }
        input.to_string()
    }

    pub(crate) async fn start(&self, workflow: &str, input: &str) -> anyhow::Result<String> {
        let arguments = ["workflow", "run", workflow, "--input", input, "-o", "json"];
        let started = run(&self.server, &self.home, &arguments).await?.exits(0)?.json()?;
        Ok(started["id"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn get(&self, id: &str, wait: &str) -> anyhow::Result<Value> {
        let got = run(&self.server, &self.home, &["run", "get", id, wait, "-o", "json"]).await?;
        got.json().map_err(|e| e.context(self.agent.log_end()))
    }

    pub(crate) async fn journal(&self, id: &str) -> anyhow::Result<Vec<Value>> {
        let journal = run(&self.server, &self.home, &["run", "journal", id, "-o", "json"]).await?.exits(0)?.json()?;
        Ok(journal["items"].as_array().cloned().unwrap_or_default())
    }

    pub(crate) async fn phase(&self, id: &str, wanted: &str) -> anyhow::Result<()> {
        self.phase_within(id, wanted, PATIENCE).await
    }

    async fn phase_within(&self, id: &str, wanted: &str, patience: std::time::Duration) -> anyhow::Result<()> {
        let rest = self.server.rest();
        let found = until("the run to get there", patience, || async {
            let seen = rest.get(&format!("/api/runs/{id}")).await?.ok()?.json()?;
            Ok((seen["phase"] == wanted).then_some(()))
        });
        found.await.map_err(|e| e.context(self.agent.log_end()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_completes_once_although_server_and_agent_are_killed_in_the_middle() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let mut place = Place::new().await?;
    let id = place.start("default/order", &place.input(json!({ "seconds": 3 }))).await?;
    let work = place.work.clone();
    until("the long task to begin", PATIENCE, || async { Ok((marks(&work, "begun") >= 2).then_some(())) })
        .await
        .map_err(|e| e.context(place.agent.log_end()))?;
    place.agent.kill()?;
    place.server.kill()?;
    place.server.launch().await?;
    place.agent = Agent::start(&place.server, "one", &place.home.join("agent"), 2, &[]).await?;
    let done = place.get(&id, "--wait=60s").await?;
    anyhow::ensure!(done["phase"] == "completed" && done["output"] == json!({ "paid": 6 }), "{done}");
    let paid = [1, 2, 3].map(|amount| marks(&work, &format!("paid-{amount}")));
    anyhow::ensure!(paid[0] == 1 && paid[1] == 1 && paid[2] >= 1, "{paid:?}");
    anyhow::ensure!(marks(&work, "stepped") == 1, "the step was done once: nothing was killed while it ran");
    let entries = place.journal(&id).await?;
    let mut keys: Vec<&str> = entries.iter().filter_map(|entry| entry["key"].as_str()).collect();
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    anyhow::ensure!(keys.len() == all, "a key is there twice: {keys:?}");
    anyhow::ensure!(entries.iter().all(|entry| entry["status"] == "done"), "{entries:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_is_undone_when_a_program_fails() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let place = Place::new().await?;
    let id = place.start("default/failing", &place.input(json!({}))).await?;
    let done = place.get(&id, "--wait=60s").await?;
    anyhow::ensure!(done["phase"] == "faulted", "{done}");
    let error = &done["error"];
    anyhow::ensure!(error["detail"] == "refused" && error["instance"] == "/task:refuse#0", "{error}");
    anyhow::ensure!(error["traceback"].as_str().is_some_and(|text| text.contains("in failing")), "{error}");
    anyhow::ensure!((marks(&place.work, "paid-7"), marks(&place.work, "refunded")) == (1, 1), "undone once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_replays_open_runs_first_and_refuses_what_does_not_fit() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let mut place = Place::new().await?;
    let id = place.start("default/waiting", &place.input(json!({}))).await?;
    place.phase(&id, "waiting").await?;
    // What waits costs nothing, and comes back after everything was killed.
    place.agent.kill()?;
    place.server.kill()?;
    place.server.launch().await?;
    let changed = FLOWS.replace("await wf.signal(\"answer\")", "await wf.signal(\"reply\")");
    let folder = package(&place.home, "shop", "1.1.0", &changed, &[])?;
    let path = folder.to_string_lossy().into_owned();
    let refused = run(&place.server, &place.home, &["deploy", &path, "--replay"]).await?;
    anyhow::ensure!(refused.code != Some(0), "it was deployed");
    let said = format!("{}{}", refused.stdout, refused.stderr);
    anyhow::ensure!(said.contains("do not fit the new code") && said.contains(&id), "{said}");
    let fits = FLOWS.replace("\"answer\": answer", "\"answer\": [answer]");
    let folder = package(&place.home, "shop", "1.2.0", &fits, &[])?;
    let path = folder.to_string_lossy().into_owned();
    run(&place.server, &place.home, &["deploy", &path, "--replay"]).await?.exits(0)?;
    let exported = run(&place.server, &place.home, &["run", "export", &id]).await?.exits(0)?.json()?;
    let turns = exported["history"]["turns"].as_array().cloned().unwrap_or_default();
    anyhow::ensure!(turns.len() == 1 && turns[0]["opened"][0]["key"] == "/signal:answer#0", "{exported}");
    place.agent = Agent::start(&place.server, "one", &place.home.join("agent"), 2, &[]).await?;
    run(&place.server, &place.home, &["run", "signal", &id, "answer", "--data", "42"]).await?.exits(0)?;
    let done = place.get(&id, "--wait=60s").await?;
    anyhow::ensure!(done["output"] == json!({ "answer": 42 }), "it kept the code that it began with: {done}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_misbehaves_harms_nobody_and_ends_in_a_state_that_can_be_resolved() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let place = Place::new().await?;
    let looping = place.start("default/bad", &json!({ "how": "loop" }).to_string()).await?;
    let dying = place.start("default/bad", &json!({ "how": "exit" }).to_string()).await?;
    for how in ["text", "huge", "leave"] {
        let id = place.start("default/bad", &json!({ "how": how }).to_string()).await?;
        place.phase(&id, "faulted").await.map_err(|e| e.context(format!("how: {how}")))?;
    }
    // A neighbour runs on beside them, and they can be ended.
    let id = place.start("default/order", &place.input(json!({}))).await?;
    let done = place.get(&id, "--wait=60s").await?;
    anyhow::ensure!(done["phase"] == "completed", "{done}");
    for id in [looping, dying] {
        run(&place.server, &place.home, &["run", "terminate", &id]).await?.exits(0)?;
        place.phase(&id, "cancelled").await?;
    }
    Ok(())
}

/// More than 5,000 steps and 3 MiB of history. Everything is killed while it waits in the middle, and once more while it is at work, so that
/// it is replayed from all that left the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_thousands_of_steps_comes_back_from_a_kill_of_everything_in_its_middle() -> anyhow::Result<()> {
    const STEPS: u64 = 5_200;
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let mut place = Place::new().await?;
    let id = place.start("default/long", &place.input(json!({ "steps": STEPS }))).await?;
    let rest = place.server.rest();
    let path = format!("/api/runs/{id}");
    let long = PATIENCE * 10;
    until("half of the steps", long, || async {
        let seen = rest.get(&path).await?.ok()?.json()?;
        anyhow::ensure!(seen["phase"] != "faulted", "{seen}");
        Ok((seen["phase"] == "waiting" && marks(&place.work, "counted") as u64 >= STEPS / 2).then_some(()))
    })
    .await
    .map_err(|e| e.context(place.agent.log_end()))?;
    place.agent.kill()?;
    place.server.kill()?;
    place.server.launch().await?;
    place.agent = Agent::start(&place.server, "one", &place.home.join("agent"), 2, &[]).await?;
    run(&place.server, &place.home, &["run", "signal", &id, "go", "--data", "1"]).await?.exits(0)?;
    let work = place.work.clone();
    until("some more steps", long, || async { Ok((marks(&work, "counted") as u64 >= STEPS * 3 / 4).then_some(())) })
        .await
        .map_err(|e| e.context(place.agent.log_end()))?;
    place.agent.kill()?;
    place.server.kill()?;
    place.server.launch().await?;
    place.agent = Agent::start(&place.server, "one", &place.home.join("agent"), 2, &[]).await?;
    place.phase_within(&id, "completed", long).await?;
    let done = place.get(&id, "--wait=1s").await?;
    let total = STEPS * (STEPS - 1) / 2;
    anyhow::ensure!(done["output"] == json!({ "total": total, "large": 500_000 }), "{done}");
    let counted = marks(&place.work, "counted") as u64;
    anyhow::ensure!((STEPS..STEPS + 4).contains(&counted), "what a kill interrupted alone was done again: {counted}");
    let exported = run(&place.server, &place.home, &["run", "export", &id]).await?.exits(0)?;
    anyhow::ensure!(exported.stdout.len() > 3 << 20, "{} bytes of history", exported.stdout.len());
    let exported = exported.json()?;
    let turns = exported["history"]["turns"].as_array().cloned().unwrap_or_default();
    anyhow::ensure!(turns.len() as u64 > STEPS, "{} turns", turns.len());
    let numbers = turns.iter().enumerate().all(|(at, turn)| turn["no"] == at as u64 + 1);
    anyhow::ensure!(numbers, "the history is whole");
    // It goes back to what left it long ago, and on from there.
    let reset = ["run", "reset", &id, "--to", "/task:count#5190"];
    run(&place.server, &place.home, &reset).await?.exits(0)?;
    place.phase_within(&id, "completed", long).await?;
    let again = marks(&place.work, "counted") as u64 - counted;
    anyhow::ensure!((10..14).contains(&again), "{again} steps were done again");
    Ok(())
}

const STARTS: &str = r#"
from dataclasses import dataclass

from tidewheel import TaskFailed, ctx, task, wf, workflow


@dataclass
class Order:
    id: str
    sum: int = 0


@workflow(version="1")
def approve(order: Order) -> Order:
    order.sum = wf.signal("sum", timeout="1m")
    return order


@workflow(version="1")
def large(n: int) -> str:
    return "y" * n


@workflow(version="1")
def ask() -> str:
    first = wf.promise("first", timeout="1m").result()
    try:
        return wf.promise("second", timeout="1m").result()
    except TaskFailed as error:
        return f"{first} {error.status} {error}"


@task
def begin(name: str) -> list:
    key = ctx.idempotency_key("approve")
    run = approve.start(Order(name), idempotency_key=key)
    again = approve.start(Order(name), idempotency_key=key)
    run.signal("sum", 5)
    asked = ask.start()
    asked.complete("first", 42)
    asked.complete("second", error={"detail": "the customer said no", "status": 422})
    return [asked.result(timeout=30), run.result(timeout=30).sum, again.id == run.id, len(large.start(200_000).result(timeout=30))]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_starts_runs_gives_them_signals_and_answers_and_waits_for_what_they_give() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let place = Place::with(STARTS).await?;
    let arguments = ["task", "submit", "begin", "--input", r#"{"name":"a"}"#, "--wait=60s", "-o", "json"];
    let done = run(&place.server, &place.home, &arguments).await?.exits(0)?.json()?;
    anyhow::ensure!(done["result"] == json!(["42 422 the customer said no", 5, true, 200_000]), "{done}");
    let list = ["run", "list", "--workflow", "default/approve", "-o", "json"];
    let runs = run(&place.server, &place.home, &list).await?.exits(0)?.json()?;
    anyhow::ensure!(runs["items"].as_array().is_some_and(|runs| runs.len() == 1), "one key, one run: {runs}");
    let id = runs["items"][0]["id"].as_str().unwrap_or_default().to_owned();
    let filter = format!("run:{id}");
    let tasks = run(&place.server, &place.home, &["task", "list", "--filter", &filter, "-o", "json"]).await?;
    let tasks = tasks.exits(0)?.json()?;
    let own = tasks["items"].as_array().cloned().unwrap_or_default();
    anyhow::ensure!(!own.is_empty() && own.iter().all(|task| task["run"] == id.as_str()), "{tasks}");
    Ok(())
}
