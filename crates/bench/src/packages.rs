//! A package deployed to many agents: from the upload's first byte until the last agent has fetched and checked it. The
//! agents are streams of the worker protocol that do what an agent does up to unpacking, over a connection each.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};
use tidewheel_proto::v1::server_message::Message as FromServer;
use tidewheel_proto::v1::worker_client::WorkerClient;
use tidewheel_proto::v1::worker_message::Message as ToServer;
use tidewheel_proto::v1::{FetchPartsRequest, Heartbeat, Hello, PackagePartsRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Authed, connect, message};
use crate::server::Server;
use crate::{Figure, Options};

const AGENTS: usize = 100;
const BYTES: usize = 10_000_000;
/// Milliseconds.
const TARGET: f64 = 3_000.0;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let (agents, bytes) = if options.quick { (10, 1_000_000) } else { (AGENTS, BYTES) };
    let server = Server::start(options)?;
    let (first, second) = (archive(bytes, 1)?, archive(bytes, 2)?);
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    tokio.block_on(async {
        let (ready, mut online) = mpsc::channel(agents);
        let (done, mut fetched) = mpsc::channel(agents);
        for n in 0..agents {
            let (url, token, ready, done) = (server.url.clone(), server.token.clone(), ready.clone(), done.clone());
            tokio::spawn(async move {
                if let Err(error) = agent(n, url, &token, ready, done.clone()).await {
                    let _ = done.send(Err(error)).await;
                }
            });
        }
        for _ in 0..agents {
            online.recv().await.context("an agent did not come online")?;
        }
        for (version, content, name) in
            [("1", first, "deploy_100_agents_ms"), ("2", second, "deploy_100_agents_new_version_ms")]
        {
            let begun = Instant::now();
            let (url, token) = (server.url.clone(), server.token.clone());
            let size = content.len();
            tokio::task::spawn_blocking(move || upload(&url, &token, version, &content)).await??;
            let uploaded = begun.elapsed();
            let mut network = 0;
            for _ in 0..agents {
                let one = tokio::time::timeout(PATIENCE, fetched.recv()).await.context("an agent has no package")?;
                network += one.context("the agents are gone")??;
            }
            let took = begun.elapsed().as_secs_f64() * 1_000.0;
            let config = serde_json::json!({
                "agents": agents, "bytes": size, "fetched_bytes": network, "quick": options.quick,
                "upload_ms": uploaded.as_millis() as u64,
            });
            report(Figure::low("packages", name, took, "ms", TARGET).with(config));
        }
        Ok(())
    })
}

/// Fetches what it is told of, parts it has not, and says how many bytes that took.
async fn agent(
    number: usize,
    url: String,
    token: &str,
    ready: mpsc::Sender<()>,
    done: mpsc::Sender<anyhow::Result<u64>>,
) -> anyhow::Result<()> {
    let (channel, bearer) = connect(url, token).await?;
    let mut client: WorkerClient<Authed> =
        WorkerClient::with_interceptor(channel, bearer).max_decoding_message_size(64 << 20);
    let (sender, receiver) = mpsc::channel(16);
    let hello = Hello {
        name: format!("agent-{number}"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        queues: vec!["*".to_owned()],
        permits: 1,
        instance: number.to_string(),
        kind: "sdk".to_owned(),
        runs_packages: true,
        ..Hello::default()
    };
    sender.send(message(ToServer::Hello(hello))).await?;
    let mut stream = client.clone().connect(ReceiverStream::new(receiver)).await?.into_inner();
    // Apart, as an agent does it: a lease must not end while a package comes.
    let beats = sender.clone();
    tokio::spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        loop {
            beat.tick().await;
            if beats.send(message(ToServer::Heartbeat(Heartbeat::default()))).await.is_err() {
                return;
            }
        }
    });
    let mut cache = std::collections::HashMap::new();
    loop {
        let came = stream.message().await?.context("the server closed the stream")?;
        match came.message {
            Some(FromServer::Welcome(_)) => ready.send(()).await?,
            Some(FromServer::PackageHint(hint)) => {
                for hash in hint.packages {
                    let network = fetch(&mut client, &hash, &mut cache).await?;
                    let beat = Heartbeat { packages_added: vec![hash], ..Heartbeat::default() };
                    sender.send(message(ToServer::Heartbeat(beat))).await?;
                    done.send(Ok(network)).await?;
                }
            }
            _ => {}
        }
    }
}

async fn fetch(
    client: &mut WorkerClient<Authed>,
    hash: &str,
    cache: &mut std::collections::HashMap<String, Vec<u8>>,
) -> anyhow::Result<u64> {
    let request = PackagePartsRequest { hash: hash.to_owned(), ..PackagePartsRequest::default() };
    let list = client.package_parts(request).await?.into_inner();
    let missing: Vec<usize> = (0..list.parts.len()).filter(|n| !cache.contains_key(&list.parts[*n].hash)).collect();
    let parts = missing.iter().map(|n| *n as u32).collect();
    let request = FetchPartsRequest { hash: hash.to_owned(), parts, ..FetchPartsRequest::default() };
    let mut chunks = client.fetch_parts(request).await?.into_inner();
    let (mut came, mut network) = (Vec::new(), 0);
    // As an agent does it: a package of which it has nothing is hashed once, as a whole.
    let is_fresh = missing.len() == list.parts.len();
    let mut whole = Sha256::new();
    let mut next = missing.into_iter();
    let mut wanted = next.next();
    while let Some(chunk) = chunks.message().await? {
        network += chunk.data.len() as u64;
        came.extend_from_slice(&chunk.data);
        while let Some(part) = wanted.map(|n| &list.parts[n]).filter(|part| came.len() as u64 >= part.size) {
            let content: Vec<u8> = came.drain(..part.size as usize).collect();
            if is_fresh {
                whole.update(&content);
            } else {
                ensure!(sha256(&content) == part.hash, "a part arrived damaged");
            }
            cache.insert(part.hash.clone(), content);
            wanted = next.next();
        }
    }
    ensure!(wanted.is_none(), "the stream ended before the last part");
    if !is_fresh {
        list.parts.iter().for_each(|part| whole.update(&cache[&part.hash]));
    }
    ensure!(format!("sha256:{}", hex::encode(whole.finalize())) == hash, "the package arrived damaged");
    Ok(network)
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A gzipped tar without compression, by hand: the manifest, a file that each version has of its own, and one that does
/// not pack and that all versions share.
fn archive(bytes: usize, version: u8) -> anyhow::Result<Vec<u8>> {
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let noise = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 32) as u8
    };
    let shared: Vec<u8> = (0..bytes).map(|_| noise(&mut state)).collect();
    let manifest = br#"{"format":"sdist","entries":[{"name":"bench","fn":"bench:run"}]}"#;
    let module = format!("def run():\n    return {version}\n");
    let mut tar = Vec::with_capacity(bytes + 4096);
    let files: [(&str, &[u8]); 3] =
        [("p/tidewheel-manifest.json", manifest), ("p/bench.py", module.as_bytes()), ("p/data.bin", &shared)];
    for (name, content) in files {
        let mut head = [0u8; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[100..107].copy_from_slice(b"0000644");
        head[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        head[148..156].copy_from_slice(b"        ");
        head[156] = b'0';
        head[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
        head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        tar.extend_from_slice(&head);
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    // Stored blocks: what does not pack costs no time to unpack, and a change shifts nothing.
    let mut out = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF];
    let blocks = tar.chunks(0xFFFF).count();
    for (n, block) in tar.chunks(0xFFFF).enumerate() {
        out.push(u8::from(n + 1 == blocks));
        let length = block.len() as u16;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    out.extend_from_slice(&crc32(&tar).to_le_bytes());
    out.extend_from_slice(&(tar.len() as u32).to_le_bytes());
    Ok(out)
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// `PUT` by hand: no client library in the way.
fn upload(url: &str, token: &str, version: &str, content: &[u8]) -> anyhow::Result<()> {
    let address = url.strip_prefix("http://").context("a server without TLS")?;
    let mut stream = TcpStream::connect(address)?;
    let head = format!(
        "PUT /api/v1/packages/bench/{version} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/gzip\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        content.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(content)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.1 201") {
        bail!("the upload got: {}", answer.lines().last().unwrap_or_default());
    }
    Ok(())
}
