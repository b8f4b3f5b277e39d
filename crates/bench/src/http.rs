//! Document B's load test: `POST /api/tasks` from 100 users with keep-alive connections. A small client by hand, so that
//! the load costs as little of the two cores as possible.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Arguments;
use crate::figure::percentile;
use crate::server::Server;
use crate::{Figure, Options};

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let (connections, seconds) = (100, if options.quick { 2 } else { 10 });
    let server = Server::start(options)?;
    let answer =
        server.role("http", &[format!("connections={connections}"), format!("seconds={seconds}")])?.answer()?;
    let number = |name: &str| answer[name].as_f64().with_context(|| format!("`{name}`"));
    let config = json!({"connections": connections, "seconds": seconds, "body": "{\"type\":\"bench.noop\"}", "errors": answer["errors"]});
    if number("errors")? > 0.0 {
        bail!("{} requests failed: {}", answer["errors"], answer["first_error"]);
    }
    report(Figure::high("api", "create_per_s", number("per_s")?, "requests/s", 20_000.0).with(config.clone()));
    report(Figure::low("api", "create_p50_ms", number("p50_ms")?, "ms", None).with(config.clone()));
    report(Figure::low("api", "create_p95_ms", number("p95_ms")?, "ms", 20.0).with(config.clone()));
    report(Figure::low("api", "create_p99_ms", number("p99_ms")?, "ms", None).with(config));
    Ok(())
}

/// The load itself, in a process of its own.
pub(crate) async fn load(arguments: &Arguments) -> anyhow::Result<serde_json::Value> {
    let (connections, seconds) = (arguments.number("connections")?, arguments.number("seconds")?);
    let url = std::env::var("TIDEWHEEL_BENCH_URL")?;
    let token = std::env::var("TIDEWHEEL_BENCH_TOKEN")?;
    let address = url.trim_start_matches("http://").to_owned();
    let body = r#"{"type":"bench.noop"}"#;
    let request = format!(
        "POST /api/tasks HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds);
    let mut users = Vec::new();
    for _ in 0..connections {
        users.push(tokio::spawn(user(address.clone(), request.clone(), until)));
    }
    let (mut times, mut errors, mut first_error) = (Vec::new(), 0u64, String::new());
    for user in users {
        let (mine, failed, error) = user.await??;
        times.extend(mine);
        errors += failed;
        if first_error.is_empty() {
            first_error = error;
        }
    }
    let wall = begun.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    Ok(json!({
        "per_s": times.len() as f64 / wall, "requests": times.len(), "errors": errors, "first_error": first_error,
        "p50_ms": percentile(&times, 0.5), "p95_ms": percentile(&times, 0.95), "p99_ms": percentile(&times, 0.99),
    }))
}

async fn user(address: String, request: String, until: Instant) -> anyhow::Result<(Vec<f64>, u64, String)> {
    let mut stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let (mut times, mut errors, mut first) = (Vec::new(), 0, String::new());
    let mut buffer = vec![0u8; 16 * 1024];
    while Instant::now() < until {
        let at = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let head = answer(&mut stream, &mut buffer).await?;
        times.push(at.elapsed().as_secs_f64() * 1000.0);
        if !head.starts_with("HTTP/1.1 201") {
            errors += 1;
            first = head;
        }
    }
    Ok((times, errors, first))
}

/// Reads one answer with a `content-length` and returns its first bytes.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<String> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            bail!("the server closed the connection");
        }
        filled += read;
        let Some(end) = buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&buffer[..end])?;
        let length = head
            .lines()
            .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse::<usize>()))
            .context("an answer without content-length")??;
        if filled >= end + 4 + length {
            return Ok(String::from_utf8_lossy(&buffer[..filled.min(600)]).into_owned());
        }
    }
}
