//! Results of tasks, which outlive the server that took them.

use bytes::Bytes;
use serde_json::json;
use tidewheel_e2e::ledger::Ledger;
use tidewheel_e2e::server::Server;
use tidewheel_e2e::worker::{Deed, Plan, Worker};
use tidewheel_e2e::{gate, need_binary};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_the_same_after_the_server_was_killed_and_after_it_was_stopped() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    let token = rest.new_token("w", "worker", &json!({})).await?;
    // A small one, one that is kept apart from its task's row, and a failure.
    let long = Bytes::from(format!("{{\"text\": \"{}\"}}", "x".repeat(60_000)));
    let of_long = long.clone();
    let plan = Plan::new(&server.url(), &token, "w", &["default"], 4).with(move |grant| match &*grant.r#type {
        "long" => Deed::Done(of_long.clone()),
        "bad" => Deed::Fail(tidewheel_proto::v1::Failure {
            r#type: "ValueError".to_owned(),
            message: "no such number".to_owned(),
            ..Default::default()
        }),
        _ => Deed::Done(Bytes::from_static(b"{\"n\": [1, 2.5, null, \"\xc3\xbc\"]}")),
    });
    let worker = Worker::start(plan, Ledger::default());
    worker.connected().await?;
    let mut tasks = Vec::new();
    for kind in ["small", "long", "bad"] {
        let id = rest.task(&json!({ "type": kind, "retry": { "max_attempts": 1 } })).await?;
        let ended = rest.ended(&id).await?;
        let result = rest.get(&format!("/api/v1/tasks/{id}/result")).await?;
        let attempts = rest.get(&format!("/api/v1/tasks/{id}/attempts")).await?.ok()?.json()?;
        tasks.push((id, ended, result, attempts));
    }
    anyhow::ensure!(tasks[0].2.json()? == json!({ "n": [1, 2.5, null, "ü"] }), "{}", tasks[0].2.shown());
    anyhow::ensure!(tasks[1].2.body == long, "as the worker sent it");
    anyhow::ensure!(tasks[2].1["state"] != "succeeded" && tasks[2].1["error"]["message"] == "no such number");
    for killed in [true, false] {
        if killed {
            server.kill()?;
        } else {
            server.stop().await?;
        }
        server.launch().await?;
        let rest = server.rest();
        for (id, ended, result, attempts) in &tasks {
            let now = rest.get(&format!("/api/tasks/{id}")).await?.ok()?.json()?;
            anyhow::ensure!(now == *ended, "killed: {killed}; {now}, and before {ended}");
            let again = rest.get(&format!("/api/v1/tasks/{id}/result")).await?;
            anyhow::ensure!((again.status, &again.body) == (result.status, &result.body), "{}", again.shown());
            let tries = rest.get(&format!("/api/v1/tasks/{id}/attempts")).await?.ok()?.json()?;
            anyhow::ensure!(tries == *attempts, "{tries}");
        }
    }
    server.still_serves().await
}
