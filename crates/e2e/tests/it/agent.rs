//! Real Python on the real agent: what tasks return, how they fail, and that nothing they do reaches their neighbours.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidewheel_e2e::agent::{Agent, deploy, package, worker};
use tidewheel_e2e::process::descendants;
use tidewheel_e2e::rest::Rest;
use tidewheel_e2e::server::Server;
use tidewheel_e2e::{PATIENCE, figure, gate, is_chaos, need, need_binary, until};

const PROBE: &str = include_str!("agent/probe.py");

/// A server with the probe package and one agent.
async fn ready(capacity: u32) -> anyhow::Result<(Server, Agent)> {
    let server = Server::start().await?;
    let agent = Agent::start(&server, "one", &server.home().join("agent"), capacity, &[]).await?;
    let folder = package(server.home(), "probe", "1.0", PROBE, &[])?;
    deploy(&server, &folder).await?.exits(0)?;
    Ok((server, agent))
}

/// Runs one task to its end.
async fn run(rest: &Rest, name: &str, input: Value, more: Value) -> anyhow::Result<Value> {
    let id = submit(rest, name, input, more).await?;
    rest.ended(&id).await
}

async fn submit(rest: &Rest, name: &str, input: Value, more: Value) -> anyhow::Result<String> {
    let mut task = json!({ "type": name, "input": input, "retry": { "max_attempts": 1 } });
    for (field, value) in more.as_object().into_iter().flatten() {
        task[field] = value.clone();
    }
    rest.task(&task).await
}

/// Process numbers that a task left as file names.
fn family(folder: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_string_lossy().parse().ok()).collect()
}

/// Waits until a task has its whole family.
async fn has_family(folder: &Path) -> anyhow::Result<Vec<u32>> {
    until("a task to have children", PATIENCE, || async {
        let pids = family(folder);
        Ok((pids.len() == 3).then_some(pids))
    })
    .await
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Gone, or dead and only not yet collected by its parent.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

async fn gone(what: &str, pids: &[u32], limit: Duration) -> anyhow::Result<()> {
    until(&format!("{what}: no process of the task lives"), limit, || async {
        Ok(pids.iter().all(|pid| !lives(*pid)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_end_as_their_code_says() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let (mut server, agent) = ready(4).await?;
    let rest = server.rest();
    let none = || json!({});
    let done = run(&rest, "add", json!({ "a": 2, "b": 3 }), none()).await.map_err(|e| e.context(agent.log_end()))?;
    anyhow::ensure!(done["state"] == "succeeded" && done["result"] == 5, "{done}");
    let id = done["id"].as_str().unwrap_or_default().to_owned();
    until("the printed line in the log", PATIENCE, || async {
        let logs = rest.get(&format!("/api/tasks/{id}/logs")).await?.ok()?;
        Ok(logs.shown().contains("adding 2 and 3").then_some(()))
    })
    .await?;
    let failed = run(&rest, "fail", json!({ "text": "no luck" }), none()).await?;
    let error = &failed["error"];
    anyhow::ensure!(matches!(failed["state"].as_str(), Some("dead" | "failed")), "{failed}");
    anyhow::ensure!(error["type"] == "ValueError" && error["message"] == "no luck", "{failed}");
    anyhow::ensure!(error["detail"].as_str().is_some_and(|d| d.contains("probe.py")), "no traceback: {failed}");
    let wrong = run(&rest, "add", json!({ "a": "two" }), json!({ "retry": { "max_attempts": 5 } })).await?;
    anyhow::ensure!(wrong["state"] == "failed" && wrong["attempt"] == 1, "a wrong input was retried: {wrong}");
    anyhow::ensure!(wrong["error"]["message"].as_str().is_some_and(|m| m.contains("input.a")), "{wrong}");
    let retry = json!({ "retry": { "max_attempts": 3, "delay": "50ms", "backoff": "constant" } });
    let flaky = run(&rest, "flaky", Value::Null, retry).await?;
    anyhow::ensure!(flaky["state"] == "succeeded" && flaky["result"] == 3, "{flaky}");
    let ended = run(&rest, "quit_hard", json!({ "code": 7 }), none()).await?;
    let said = ended["error"]["message"].as_str().unwrap_or_default();
    anyhow::ensure!(ended["state"] != "succeeded" && said.contains('7'), "os._exit(7): {ended}");
    let after = run(&rest, "add", json!({ "a": 1 }), none()).await?;
    anyhow::ensure!(after["result"] == 2, "after all that: {after}");
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_stopped_leaves_no_process() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let (server, agent) = ready(4).await?;
    let rest = server.rest();
    let folders = ["timeout", "cancel"].map(|name| server.home().join(name));
    for folder in &folders {
        std::fs::create_dir_all(folder)?;
    }
    let input = |i: usize| json!({ "folder": folders[i].to_string_lossy() });
    let limited = submit(&rest, "family", input(0), json!({ "timeout": { "run": "4s" } })).await?;
    let cancelled = submit(&rest, "family", input(1), json!({})).await?;
    let of_limited = has_family(&folders[0]).await.map_err(|e| e.context(agent.log_end()))?;
    let of_cancelled = has_family(&folders[1]).await?;
    rest.post(&format!("/api/tasks/{cancelled}:cancel"), &json!({ "reason": "enough" })).await?.ok()?;
    let task = rest.ended(&cancelled).await?;
    anyhow::ensure!(task["state"] == "cancelled", "{task}");
    // The grace to end by itself comes first; the task ignores it.
    gone("cancel", &of_cancelled, Duration::from_secs(20)).await?;
    let task = rest.ended(&limited).await?;
    anyhow::ensure!(task["error"]["type"] == "timeout", "{task}");
    gone("timeout", &of_limited, Duration::from_secs(20)).await?;
    let after = run(&rest, "add", json!({ "a": 1 }), json!({})).await?;
    anyhow::ensure!(after["result"] == 2, "after the kills: {after}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_neighbours_do_not_hold_good_tasks_up() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::alone().await;
    let (mut server, agent) = ready(8).await?;
    let rest = server.rest();
    run(&rest, "good", json!({ "n": 1 }), json!({})).await?;
    let limits = json!({ "resources": { "memory": "256MB" }, "timeout": { "run": "60s" } });
    let megabytes = if is_chaos() { 10 * 1024 } else { 1024 };
    let bad = [
        submit(&rest, "multiply", json!({ "most": 3_000 }), json!({ "timeout": { "run": "60s" } })).await?,
        submit(&rest, "hoard", json!({ "megabytes": 4096 }), limits.clone()).await?,
        submit(&rest, "chatter", json!({ "megabytes": megabytes }), limits.clone()).await?,
        submit(&rest, "quit_hard", json!({ "code": 1 }), limits).await?,
    ];
    let begun = Instant::now();
    let mut good = Vec::new();
    for n in 0..50 {
        good.push((n, submit(&rest, "good", json!({ "n": n }), json!({})).await?));
    }
    for (n, id) in &good {
        let task = rest.ended(id).await.map_err(|e| e.context(agent.log_end()))?;
        let sound = task["state"] == "succeeded" && task["result"] == n * n;
        anyhow::ensure!(
            sound,
            "a good task: {task}; the agent:\n{}\nthe server:\n{}",
            agent.log_end(),
            server.log_end()
        );
    }
    let took = begun.elapsed();
    let mut ends = Vec::new();
    for id in &bad {
        let task = rest.ended(id).await?;
        let name = task["type"].as_str().unwrap_or_default().to_owned();
        ends.push(format!("{name}: {} {}", task["state"].as_str().unwrap_or_default(), task["error"]["type"]));
        let told = task["error"]["type"] != "lost";
        anyhow::ensure!(
            told,
            "the agent fell silent over it: {task}\n{}\nthe server:\n{}",
            agent.log_end(),
            server.log_end()
        );
        // A flood of output alone is no failure: what is beyond the limit is dropped.
        let may_succeed = name == "chatter";
        anyhow::ensure!(may_succeed || task["state"] != "succeeded", "{task}");
    }
    figure(&format!("neighbours: 50 good tasks in {} ms beside {}", took.as_millis(), ends.join(", ")));
    // What an ended attempt has forked does not stay: it would use up the limits of those that come after it.
    let left = until("the processes of ended attempts to go", Duration::from_secs(60), || async {
        Ok((descendants(agent.pid()).len() < 50).then_some(()))
    });
    left.await.map_err(|e| {
        let found = descendants(agent.pid());
        e.context(format!("{} processes are left, as {:?}; the agent:\n{}", found.len(), found.last(), agent.log_end()))
    })?;
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_killed_agent_run_again_and_nothing_of_it_lives() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let (server, mut agent) = ready(4).await?;
    let rest = server.rest();
    let mut tasks = Vec::new();
    for i in 0..3 {
        let folder = server.home().join(format!("family-{i}"));
        std::fs::create_dir_all(&folder)?;
        let more = json!({ "retry": { "max_attempts": 3, "delay": "10ms" } });
        let id = submit(&rest, "patient_family", json!({ "folder": folder.to_string_lossy() }), more).await?;
        tasks.push((id, folder));
    }
    let mut pids = Vec::new();
    for (_, folder) in &tasks {
        pids.extend(has_family(folder).await.map_err(|e| e.context(agent.log_end()))?);
    }
    let below = descendants(agent.pid());
    agent.kill()?;
    let killed = Instant::now();
    gone("SIGKILL of the agent", &pids, Duration::from_secs(20)).await?;
    until("no process below the agent", Duration::from_secs(20), || async {
        Ok(below.iter().all(|process| !process.lives()).then_some(()))
    })
    .await
    .map_err(|e| e.context(format!("{:?}", below.iter().filter(|p| p.lives()).collect::<Vec<_>>())))?;
    let emptied = killed.elapsed();
    // A second start on the same folder has the package already: it says so before it gets any work.
    let again = Agent::start(&server, "one", &server.home().join("agent"), 4, &[]).await?;
    let shown = worker(&rest, "one").await?.unwrap_or_default();
    let hash = rest.get("/api/packages/probe/1.0").await?.ok()?.text("/hash")?;
    let held: HashSet<&str> = shown["packages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    anyhow::ensure!(held.contains(hash.as_str()), "the second start has to download the package again: {shown}");
    for (id, _) in &tasks {
        let task = rest.ended(id).await.map_err(|e| e.context(again.log_end()))?;
        anyhow::ensure!(task["state"] == "succeeded" && task["result"] == "later", "{task}");
        anyhow::ensure!(task["attempt"] == 2, "{task}");
        let attempts = rest.get(&format!("/api/tasks/{id}/attempts")).await?.ok()?.json()?;
        anyhow::ensure!(attempts["items"][0]["outcome"] == "lost", "{attempts}");
    }
    figure(&format!(
        "agent killed: its {} processes were gone after {} ms, its tasks done again after {} ms (lease 4 s)",
        below.len(),
        emptied.as_millis(),
        killed.elapsed().as_millis(),
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_that_cannot_be_used_say_why() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let (mut server, agent) = ready(2).await?;
    let rest = server.rest();
    let broken =
        package(server.home(), "broken", "1.0", "from tidewheel import task\nimport nothing_of_this_name\n", &[])?;
    let output = deploy(&server, &broken).await?;
    let told = output.stderr.contains("nothing_of_this_name") || output.stderr.contains("broken.py");
    anyhow::ensure!(output.code != Some(0) && told, "a module that cannot be imported: {output:?}");
    let syntax = package(server.home(), "syntax", "1.0", "from tidewheel import task\ndef x(:\n", &[])?;
    let output = deploy(&server, &syntax).await?;
    anyhow::ensure!(output.code != Some(0) && output.stderr.contains("syntax.py"), "{output:?}");
    let empty = server.home().join("empty");
    std::fs::create_dir_all(&empty)?;
    let output = deploy(&server, &empty).await?;
    anyhow::ensure!(output.code != Some(0) && output.stderr.contains("empty"), "{output:?}");
    // It is sound until it runs: the task fails with the reason, and the agent goes on.
    let module = "from tidewheel import task\n\n\n@task\ndef lazy():\n    import nothing_of_this_name\n";
    let lazy = package(server.home(), "lazy", "1.0", module, &[])?;
    deploy(&server, &lazy).await?.exits(0)?;
    let task = run(&rest, "lazy", Value::Null, json!({})).await.map_err(|e| e.context(agent.log_end()))?;
    let said = task["error"]["message"].as_str().unwrap_or_default();
    anyhow::ensure!(task["state"] != "succeeded" && said.contains("nothing_of_this_name"), "{task}");
    // Its environment cannot be built: either the deploy says so or the task does, and both name what is missing.
    let module = "from tidewheel import task\n\n\n@task\ndef unbuildable():\n    return 1\n";
    let wanted = ["nothing-of-this-name @ file:///nonexistent/nothing_of_this_name-1.0-py3-none-any.whl"];
    let unbuildable = package(server.home(), "unbuildable", "1.0", module, &wanted)?;
    let output = deploy(&server, &unbuildable).await?;
    if output.code == Some(0) {
        let task = run(&rest, "unbuildable", Value::Null, json!({})).await?;
        let said = task["error"].to_string().replace('-', "_");
        anyhow::ensure!(task["state"] != "succeeded" && said.contains("nothing_of_this_name"), "{task}");
    } else {
        anyhow::ensure!(output.stderr.replace('-', "_").contains("nothing_of_this_name"), "{output:?}");
    }
    let after = run(&rest, "add", json!({ "a": 1 }), json!({})).await?;
    anyhow::ensure!(after["result"] == 2, "after packages that failed: {after}");
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_without_python() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let agent = Agent::start(&server, "one", &server.home().join("agent"), 2, &[]).await?;
    let rest = server.rest();
    let shell = |command: &str| json!({ "command": command });
    let done = run(&rest, "shell", shell("echo hello; echo there >&2"), json!({})).await;
    let done = done.map_err(|e| e.context(agent.log_end()))?;
    anyhow::ensure!(done["state"] == "succeeded" && done["result"].to_string().contains("hello"), "{done}");
    let failed = run(&rest, "shell", shell("echo broken >&2; exit 9"), json!({})).await?;
    anyhow::ensure!(failed["state"] != "succeeded" && failed["error"].to_string().contains('9'), "{failed}");
    let limited = run(&rest, "shell", shell("sleep 600"), json!({ "timeout": { "run": "1s" } })).await?;
    anyhow::ensure!(limited["error"]["type"] == "timeout", "{limited}");
    let echo = run(&rest, "builtin.echo", json!({ "x": [1, 2] }), json!({})).await?;
    anyhow::ensure!(echo["result"] == json!({ "x": [1, 2] }), "{echo}");
    server.still_serves().await
}

/// A type without a package is a mistake that the next deploy may mend: the task waits, and says what for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_nobody_serves_waits_and_says_so() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let server = Server::start().await?;
    let _agent = Agent::start(&server, "one", &server.home().join("agent"), 2, &[]).await?;
    let rest = server.rest();
    let id = submit(&rest, "nobody.serves.this", Value::Null, json!({})).await?;
    // A later task of a type that is served: had the earlier one been taken, it would be over by now.
    run(&rest, "builtin.noop", Value::Null, json!({})).await?;
    let task = rest.get(&format!("/api/tasks/{id}")).await?.ok()?.json()?;
    anyhow::ensure!(task["state"] == "queued", "an unknown type did not wait: {task}");
    let why = rest.get(&format!("/api/tasks/{id}/why")).await?.ok()?.json()?;
    let code = why["reasons"][0]["code"].as_str().unwrap_or_default();
    anyhow::ensure!(matches!(code, "no-worker" | "missing-capability"), "{why}");
    Ok(())
}

/// SIGTERM: what runs may end, nothing new begins, exit 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_asked_to_end_finishes_its_tasks() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let server = Server::start().await?;
    let mut agent = Agent::start(&server, "one", &server.home().join("agent"), 2, &[]).await?;
    let rest = server.rest();
    let id = submit(&rest, "builtin.sleep", json!({ "ms": 2_000 }), json!({})).await?;
    until("the task to run", PATIENCE, || async {
        Ok((rest.get(&format!("/api/tasks/{id}")).await?.text("/state")? == "running").then_some(()))
    })
    .await?;
    let status = agent.stop().await?;
    anyhow::ensure!(status.code() == Some(0), "{status}: {}", agent.log_end());
    let task = rest.ended(&id).await?;
    anyhow::ensure!(task["state"] == "succeeded" && task["attempt"] == 1, "{task}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_works_off_the_items_of_a_queue() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let (mut server, agent) = ready(2).await?;
    let rest = server.rest();
    rest.queue("invoices", &json!({})).await?;
    for n in 1..=3 {
        rest.post("/api/v1/queues/invoices/items", &json!({ "input": { "n": n } })).await?.ok()?;
    }
    let done = run(&rest, "work_off", json!({ "name": "invoices" }), json!({})).await;
    let done = done.map_err(|e| e.context(agent.log_end()))?;
    anyhow::ensure!(done["state"] == "succeeded" && done["result"] == json!([1, 2, 3, 4]), "{done}");
    let items = rest.get("/api/v1/queues/invoices/items").await?.ok()?.json()?;
    let of = |state: &str| items["items"].as_array().into_iter().flatten().filter(|i| i["state"] == state).count();
    anyhow::ensure!((of("succeeded"), of("failed")) == (2, 2), "{items}");
    // A queue that is not there is an error in the code, which can be caught.
    let wrong = run(&rest, "work_off", json!({ "name": "nowhere" }), json!({})).await?;
    anyhow::ensure!(wrong["state"] == "failed" && wrong["error"]["type"] == "NotFound", "{wrong}");
    // One that waits for items ends with its cancel.
    let waits = submit(&rest, "work_off", json!({ "name": "invoices", "wait": "10m" }), json!({})).await?;
    until("it to take its own item", PATIENCE, || async {
        let items = rest.get("/api/v1/queues/invoices/items?filter=state:succeeded").await?.ok()?.json()?;
        Ok((items["items"].as_array().map(Vec::len) == Some(3)).then_some(()))
    })
    .await?;
    rest.post(&format!("/api/v1/tasks/{waits}:cancel"), &json!({})).await?.ok()?;
    let ended = rest.ended(&waits).await?;
    anyhow::ensure!(ended["state"] == "cancelled", "{ended}");
    server.still_serves().await
}
