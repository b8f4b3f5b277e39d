//! How much a run may carry, and how much memory many large ones take: a step that would pass the limit fails with a clear error
//! and the run stays usable; large runs that do not fit into memory wait in the store, and all of them end.

use std::time::Duration;

use serde_json::{Value, json};
use tidewheel_e2e::agent::{Agent, deploy, package};
use tidewheel_e2e::process::peak_bytes;
use tidewheel_e2e::server::{Server, run};
use tidewheel_e2e::{PATIENCE, figure, gate, need, need_binary, until, until_done};

/// A workflow of branches, each of which keeps a text of so many bytes until all are done: as its result, or as its context, too.
fn wide(name: &str, branches: usize, context: bool, last: &Value) -> String {
    let branch = |n| {
        let mut body = json!({ "set": { "text": "${ \"x\" * .bytes }" } });
        if context {
            body["export"] = json!({ "as": "." });
        }
        json!({ format!("b{n}"): body })
    };
    let mut all: Vec<Value> = (0..branches).map(branch).collect();
    all.push(json!({ "last": last }));
    let document = json!({ "dsl": "1.0.3", "namespace": "shop", "name": name, "version": "1.0.0" });
    let end = json!({ "set": { "lengths": "${ [.[] | .text? // \"\" | length] | add }" } });
    json!({ "document": document, "do": [
        { "size": { "set": { "bytes": "${ .bytes }" } } },
        { "wide": { "fork": { "branches": all } } },
        { "end": end },
    ] })
    .to_string()
}

async fn deploy_workflow(server: &Server, name: &str, text: &str) -> anyhow::Result<()> {
    let file = format!("{name}.json");
    std::fs::write(server.home().join(&file), text)?;
    run(server, server.home(), &["workflow", "deploy", &file]).await?.exits(0)?;
    Ok(())
}

async fn phase_of(server: &Server, id: &str, wanted: &str) -> anyhow::Result<Value> {
    let rest = server.rest();
    until(&format!("{id} to be {wanted}"), PATIENCE, || async {
        let seen = rest.get(&format!("/api/v1/runs/{id}")).await?.ok()?.json()?;
        Ok((seen["phase"] == wanted).then_some(seen))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_would_carry_more_than_a_run_may_faults_and_the_run_goes_on_with_less() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    deploy_workflow(&server, "wide", &wide("wide", 20, true, &json!({ "set": { "text": "" } }))).await?;
    let rest = server.rest();
    let body = json!({ "workflow": "shop/wide", "input": { "bytes": 60_000 } });
    let id = rest.post("/api/v1/runs", &body).await?.ok()?.text("/id")?;
    let told = |seen: &Value| {
        let error = &seen["error"];
        let detail = error["detail"].as_str().unwrap_or_default();
        // The limit, what to do, and which step.
        let clear = detail.contains("1 MiB") && detail.contains("keep less") && detail.contains("store it elsewhere");
        anyhow::ensure!(clear && error["instance"].as_str().is_some_and(|at| at.contains("/wide/")), "{seen}");
        Ok(())
    };
    told(&phase_of(&server, &id, "faulted").await?)?;
    // The same again fails in the same way; nothing of it is left hanging.
    run(&server, server.home(), &["run", "retry", &id]).await?.exits(0)?;
    let again = until("the retry to fault", PATIENCE, || async {
        let seen = rest.get(&format!("/api/v1/runs/{id}")).await?.ok()?.json()?;
        let retried = seen["phase"] == "faulted";
        Ok(retried.then_some(seen))
    })
    .await?;
    told(&again)?;
    // With less it goes through, from the step that said how much.
    let input = r#"{"bytes": 1000}"#;
    let back = ["run", "reset", &id, "--to", "/set:/do/0/size#0", "--input", input];
    run(&server, server.home(), &back).await?.exits(0)?;
    let done = phase_of(&server, &id, "completed").await?;
    anyhow::ensure!(done["output"]["lengths"] == 20_000, "{done}");
    server.still_serves().await
}

/// Tasks side by side, whose results the run keeps until all are there.
const PROGRAM: &str = r#"
from tidewheel import task, wf, workflow


@task
def echo(n: int, size: int) -> str:
    return chr(97 + n % 26) * size


@workflow(version="1")
def gather(count: int, size: int) -> int:
    return sum(len(text) for text in wf.all(*[echo.submit(n, size) for n in range(count)]))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_hears_of_more_than_its_run_may_carry() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let _agent = Agent::start(&server, "one", &server.home().join("agent"), 2, &[]).await?;
    let folder = package(server.home(), "much", "1.0.0", PROGRAM, &[])?;
    deploy(&server, &folder).await?.exits(0)?;
    let words = ["workflow", "run", "default/gather", "--input", r#"{"count": 40, "size": 60000}"#, "-o", "json"];
    let started = run(&server, server.home(), &words).await?.exits(0)?.json()?;
    let id = started["id"].as_str().unwrap_or_default().to_owned();
    // More than twice what a run may carry: large results are kept beside it, and the program reads them there.
    let done = phase_of(&server, &id, "completed").await?;
    anyhow::ensure!(done["output"] == 2_400_000, "{done}");
    server.still_serves().await
}

/// Runs that carry 780 kB each.
const LARGE: usize = 250;
const BRANCHES: usize = 13;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_runs_stay_within_a_small_memory_and_all_complete() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let args = ["--set", "engine.runCacheSize=4Mi", "--set", "storage.cacheSize=8Mi"];
    let mut server = Server::start_at(None, &args).await?;
    let listen = json!({ "listen": { "to": { "one": { "with": { "type": "go" } } } } });
    deploy_workflow(&server, "large", &wide("large", BRANCHES, false, &listen)).await?;
    let rest = server.rest();
    server.still_serves().await?;
    let before = peak_bytes(server.pid());
    let body = json!({ "workflow": "shop/large", "input": { "bytes": 60_000 } });
    let (mut ids, mut paused) = (Vec::new(), 0);
    while ids.len() < LARGE {
        let answer = rest.post("/api/v1/runs", &body).await?;
        match answer.status {
            // There is no room for one more just now: it says so and when to come again, and takes nothing in.
            429 | 503 => {
                anyhow::ensure!(!answer.header("retry-after").is_empty(), "{}", answer.shown());
                paused += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            _ => ids.push(answer.ok()?.text("/id")?),
        }
    }
    until_done("all to wait", || async {
        let now = counts(&rest).await?["waiting"].as_u64().unwrap_or_default();
        anyhow::Ok(if now == LARGE as u64 { Ok(()) } else { Err(now) })
    })
    .await?;
    let grown = peak_bytes(server.pid()).saturating_sub(before);
    figure(&format!("{LARGE} runs that carry {} MB: {} MB of memory more", LARGE * 780 / 1000, grown >> 20));
    // Without a bound they would take at least what they carry.
    anyhow::ensure!(grown < 120 << 20, "{grown} bytes more");
    // A restart reads none of them before something comes for it.
    server.kill()?;
    server.launch().await?;
    let rest = server.rest();
    let before = peak_bytes(server.pid());
    // All in one moment: many more than fit into memory have something to do.
    let signals: Vec<_> = (ids.iter().cloned())
        .map(|id| {
            let rest = server.rest();
            tokio::spawn(async move { rest.post(&format!("/api/v1/runs/{id}/signals/go"), &json!({})).await?.ok() })
        })
        .collect();
    for signal in signals {
        signal.await??;
    }
    until_done("all to complete", || async {
        let seen = counts(&rest).await?;
        anyhow::ensure!(seen["faulted"] == 0, "{seen}");
        let done = seen["completed"].as_u64().unwrap_or_default();
        anyhow::Ok(if done == LARGE as u64 { Ok(()) } else { Err(done) })
    })
    .await?;
    let grown = peak_bytes(server.pid()).saturating_sub(before);
    figure(&format!("all signalled at once: {} MB of memory more; starts that had to wait: {paused}", grown >> 20));
    anyhow::ensure!(grown < 120 << 20, "{grown} bytes more");
    for id in ids.iter().step_by(50) {
        let seen = rest.get(&format!("/api/v1/runs/{id}")).await?.ok()?.json()?;
        anyhow::ensure!(seen["output"]["lengths"] == 60_000 * BRANCHES, "{}", seen["output"]);
    }
    server.still_serves().await
}

async fn counts(rest: &tidewheel_e2e::rest::Rest) -> anyhow::Result<Value> {
    Ok(rest.get("/api/v1/runs/counts").await?.ok()?.json()?["counts"].clone())
}
