//! What a server takes from a machine while it has nothing to do.

use serde_json::json;
use tidewheel_e2e::server::Server;
use tidewheel_e2e::{PATIENCE, gate, need_binary, until};

/// Memory of its own, without pages of the program's file: 11 to 15 MB on 2 cores. It was 38 MB when the schemas of all routes were
/// made at each start, and 25 MB with huge pages.
const OWN_MEMORY_KB: u64 = 24_000;

/// What `/proc/PID/status` says under a name.
fn status(pid: u32, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_is_small_and_one_with_work_has_huge_pages() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let server = Server::start().await?;
    let shown = status(server.pid(), "RssAnon:").unwrap_or_default();
    let own: u64 = shown.trim_end_matches(" kB").parse()?;
    anyhow::ensure!(own < OWN_MEMORY_KB, "an idle server holds {own} kB");
    let huge_pages = || status(server.pid(), "THP_enabled:");
    if status(std::process::id(), "THP_enabled:").as_deref() != Some("1") {
        println!("not run: huge pages are off here");
        return Ok(());
    }
    anyhow::ensure!(huge_pages().as_deref() == Some("0"), "{:?}", huge_pages());
    server.rest().task(&json!({ "type": "e2e.step", "input": 1 })).await?;
    until("huge pages", PATIENCE, || async { Ok((huge_pages().as_deref() == Some("1")).then_some(())) }).await?;
    // What an agent starts has the setting of its process.
    let beside_an_agent = Server::start_at(None, &["--with-agent"]).await?;
    let setting = status(beside_an_agent.pid(), "THP_enabled:");
    anyhow::ensure!(setting.as_deref() == Some("1"), "{setting:?}");
    Ok(())
}
