//! The configuration of a running server: read again on SIGHUP and over the API, shown with its origins.

use serde_json::{Value, json};
use tidewheel_e2e::process::Signal;
use tidewheel_e2e::rest::Rest;
use tidewheel_e2e::server::Server;
use tidewheel_e2e::{PATIENCE, gate, need_binary, until};

async fn shown(rest: &Rest) -> anyhow::Result<Value> {
    Ok(rest.get("/api/v1/system/config").await?.ok()?.json()?["retention"]["finished"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_is_read_again_without_a_restart() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::prepare()?;
    let file = server.home().join("tidewheel.yaml");
    let write = |text: &str| std::fs::write(&file, text);
    write("retention:\n  finished: 7d\n")?;
    server.args = vec!["--config".to_owned(), file.display().to_string()];
    server.launch().await?;
    let rest = server.rest();
    let origin = format!("{}:2", file.display());
    anyhow::ensure!(shown(&rest).await? == json!({ "value": "7d", "origin": origin }), "{}", shown(&rest).await?);
    write("retention:\n  finished: 9d\nserver:\n  maxWait: 30s\n")?;
    let reloaded = rest.post("/api/v1/system/config:reload", &json!({})).await?.ok()?.json()?;
    let wanted = json!({ "changed": ["retention.finished"], "needs_restart": ["server.maxWait"] });
    anyhow::ensure!(reloaded == wanted, "{reloaded}");
    anyhow::ensure!(shown(&rest).await?["value"] == "9d");
    // A mistake is told, and everything stays.
    write("retention:\n  finisht: 1d\n")?;
    let refused = rest.post("/api/v1/system/config:reload", &json!({})).await?;
    anyhow::ensure!(refused.status == 409 && refused.shown().contains("finisht"), "{}", refused.shown());
    anyhow::ensure!(shown(&rest).await?["value"] == "9d");
    let viewer = rest.new_token("v", "viewer", &json!({})).await?;
    let denied = rest.with_token(&viewer).post("/api/v1/system/config:reload", &json!({})).await?;
    anyhow::ensure!(denied.status == 403, "{}", denied.shown());
    // The signal does the same.
    write("retention:\n  finished: 11d\n")?;
    server.signal(Signal::HUP);
    until("the new value", PATIENCE, || async { Ok((shown(&rest).await?["value"] == "11d").then_some(())) }).await?;
    server.still_serves().await
}
