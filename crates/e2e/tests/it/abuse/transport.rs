//! Below the requests: heads that flood, senders that trickle, bytes that are no HTTP.

use std::time::{Duration, Instant};

use tidewheel_e2e::server::Server;
use tidewheel_e2e::{gate, need_binary};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(server: &Server) -> anyhow::Result<TcpStream> {
    Ok(TcpStream::connect(("127.0.0.1", server.port)).await?)
}

/// Sends bytes and reads until the server closes or has been silent for a while.
async fn exchange(server: &Server, bytes: &[u8]) -> anyhow::Result<String> {
    let mut stream = connect(server).await?;
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(got)) = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await {
        if got == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..got]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_too_large_get_431() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let many: String = (0..500).map(|i| format!("x-{i}: y\r\n")).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(20_000));
    for (what, headers) in [("500 header lines", many), ("a header of 20 KB", long)] {
        let request = format!("GET /health/live HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n");
        let answer = exchange(&server, request.as_bytes()).await?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 431"), "{what}: '{}'", answer.lines().next().unwrap_or_default());
    }
    // Far beyond any buffer, the answer may be lost with the connection; it only must not be taken.
    let huge = "x".repeat(1_000_000);
    for request in
        [format!("GET /{huge} HTTP/1.1\r\nhost: x\r\n\r\n"), format!("GET /x HTTP/1.1\r\nx-huge: {huge}\r\n\r\n")]
    {
        let answer = exchange(&server, request.as_bytes()).await?;
        let refused = ["HTTP/1.1 414", "HTTP/1.1 431"].iter().any(|status| answer.starts_with(status));
        anyhow::ensure!(refused || answer.is_empty(), "a head of 1 MB: {}", answer.lines().next().unwrap_or_default());
    }
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_http_end_their_connection_only() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let h2 = |rest: &[u8]| [preface.as_slice(), rest].concat();
    let frames: Vec<(&str, Vec<u8>)> = vec![
        ("noise", (0..=255).collect()),
        ("nothing but zeros", vec![0; 10_000]),
        ("half a TLS hello", vec![0x16, 3, 1, 2, 0, 1, 0]),
        ("half a request", b"POST /api/tasks HTTP/1.1\r\nhost: x\r\ncontent-le".to_vec()),
        (
            "two lengths",
            b"POST /api/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello".to_vec(),
        ),
        (
            "a chunk of wrong length",
            b"POST /api/tasks HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello".to_vec(),
        ),
        ("half a settings frame", h2(&[0, 0, 6, 4, 0])),
        ("data on a stream that is not open", h2(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 9, 1])),
        ("a frame of 16 MB", h2(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 255, 255, 255, 1, 4, 0, 0, 0, 1])),
        ("headers that do not decode", h2(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 1, 5, 0, 0, 0, 1, 255, 255, 255, 255])),
    ];
    for (what, bytes) in frames {
        let mut stream = connect(&server).await?;
        let _ = stream.write_all(&bytes).await;
        drop(stream);
        server.still_serves().await.map_err(|e| e.context(what))?;
    }
    Ok(())
}

/// Streams that are opened and reset at once, thousands of them, on one connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_do_not_stop_the_server() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec();
    // :method GET, :scheme http and :path / stand in the static table.
    let head = [0x82, 0x86, 0x84];
    for i in 0..5_000u32 {
        let stream = (2 * i + 1).to_be_bytes();
        bytes.extend_from_slice(&[0, 0, 3, 1, 5]);
        bytes.extend_from_slice(&stream);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
        bytes.extend_from_slice(&stream);
        bytes.extend_from_slice(&[0, 0, 0, 8]);
    }
    let mut stream = connect(&server).await?;
    let _ = stream.write_all(&bytes).await;
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_hold_nobody_up_and_are_let_go() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let authorization = format!("authorization: Bearer {}\r\n", server.token);
    let heads = [
        // A head that never ends, a body that never comes, a connection that says nothing.
        "GET /health/live HTTP/1.1\r\nhost: x\r\nx-slow:".to_owned(),
        format!("POST /api/tasks HTTP/1.1\r\nhost: x\r\n{authorization}content-length: 100\r\n\r\n{{\"type\":"),
        String::new(),
    ];
    let mut slow = Vec::new();
    for head in heads.iter().cycle().take(300) {
        let mut stream = connect(&server).await?;
        stream.write_all(head.as_bytes()).await?;
        slow.push(stream);
    }
    for _ in 0..20 {
        server.still_serves().await?;
    }
    // A byte now and then does not keep them alive for ever.
    let begun = Instant::now();
    let mut open: Vec<usize> = (0..3).collect();
    while !open.is_empty() && begun.elapsed() < Duration::from_secs(90) {
        for kind in std::mem::take(&mut open) {
            let mut byte = [0; 1024];
            let read = tokio::time::timeout(Duration::from_secs(1), slow[kind].read(&mut byte)).await;
            match read {
                // Silent still: another byte, except for the one that says nothing.
                Err(_) => {
                    if kind != 2 {
                        let _ = slow[kind].write_all(b" ").await;
                    }
                    open.push(kind);
                }
                Ok(Ok(got)) if got > 0 => open.push(kind),
                Ok(_) => {}
            }
        }
    }
    anyhow::ensure!(open.is_empty(), "slow connections are kept for ever: kinds {open:?}");
    server.still_serves().await
}

/// A client that asks and never reads the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_hold_nobody_up() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    for n in 0..50 {
        rest.task(&serde_json::json!({ "type": "a", "labels": { "n": n.to_string(), "pad": "x".repeat(200) } }))
            .await?;
    }
    let request =
        format!("GET /api/tasks?limit=1000 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", server.token);
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut stream = connect(&server).await?;
        // Pipelined: far more answers than any buffer holds.
        let many = request.repeat(200);
        let _ = tokio::time::timeout(Duration::from_millis(200), stream.write_all(many.as_bytes())).await;
        held.push(stream);
    }
    for _ in 0..20 {
        server.still_serves().await?;
    }
    let rss = tidewheel_e2e::process::resident_bytes(server.pid()) >> 20;
    anyhow::ensure!(rss < 500, "50 readers that do not read cost {rss} MB");
    Ok(())
}
