//! The gRPC side: messages that are too large, streams that begin wrongly, tokens of attempts that are not the sender's.

use anyhow::Context;
use bytes::Bytes;
use serde_json::json;
use tidewheel_e2e::server::Server;
use tidewheel_e2e::worker::{message, outcome};
use tidewheel_e2e::{PATIENCE, gate, need_binary, wire};
use tidewheel_proto::v1;
use tidewheel_proto::v1::server_message::Message as FromServer;
use tidewheel_proto::v1::task_result::Outcome;
use tidewheel_proto::v1::worker_message::Message as ToServer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

fn hello(name: &str, permits: u32) -> v1::WorkerMessage {
    message(ToServer::Hello(v1::Hello {
        name: name.to_owned(),
        queues: vec!["*".to_owned()],
        permits,
        instance: name.to_owned(),
        kind: "sdk".to_owned(),
        ..v1::Hello::default()
    }))
}

/// Opens a worker stream with these messages and gives the error it ends with.
async fn refused(server: &Server, token: &str, messages: Vec<v1::WorkerMessage>) -> anyhow::Result<tonic::Status> {
    let mut client = wire::worker(&server.url(), token).await?;
    let (out, stream) = mpsc::channel(16);
    for message in messages {
        out.send(message).await?;
    }
    let ended = async {
        let mut inbound = client.connect(ReceiverStream::new(stream)).await?.into_inner();
        while inbound.message().await?.is_some() {}
        Ok::<(), tonic::Status>(())
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await.context("the stream was not ended")?;
    drop(out);
    ended.err().context("the stream ended without an error")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_begin_wrongly_are_refused() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    let viewer = rest.new_token("v", "viewer", &json!({})).await?;
    let status = refused(&server, "", vec![hello("a", 1)]).await?;
    anyhow::ensure!(status.code() == Code::Unauthenticated, "no token: {status}");
    let status = refused(&server, "tw_x_y", vec![hello("a", 1)]).await?;
    anyhow::ensure!(status.code() == Code::Unauthenticated, "a wrong token: {status}");
    let status = refused(&server, &viewer, vec![hello("a", 1)]).await?;
    anyhow::ensure!(status.code() == Code::PermissionDenied, "a viewer: {status}");
    let wrong = [
        ("no hello", message(ToServer::Heartbeat(v1::Heartbeat::default()))),
        ("an empty message", v1::WorkerMessage { message: None }),
        ("a hello without a name", hello("", 1)),
        ("a hello with a name of 100 KB", hello(&"n".repeat(100_000), 1)),
    ];
    for (what, first) in wrong {
        let status = refused(&server, &server.token, vec![first]).await?;
        let told = matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange);
        anyhow::ensure!(told, "{what}: {status}");
    }
    let status = refused(&server, &server.token, vec![hello("twice", 1), hello("twice", 1)]).await?;
    anyhow::ensure!(matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition), "two hellos: {status}");
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submits_that_are_too_large_are_refused_whole() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let mut client = wire::client(&server.url(), &server.token).await?;
    let many: Vec<_> = (0..10_001).map(|n| wire::numbered("default", "a", "", n)).collect();
    let answer = client.submit(v1::SubmitRequest { request: 1, tasks: many }).await;
    let status = answer.err().context("10,001 tasks were taken")?;
    let told = |code| matches!(code, Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted);
    anyhow::ensure!(told(status.code()), "10,001 tasks: {status}");
    let mut large = wire::numbered("default", "a", "", 1);
    large.input = format!("\"{}\"", "x".repeat(40 << 20)).into();
    let answer = client.submit(v1::SubmitRequest { request: 2, tasks: vec![large] }).await;
    let status = answer.err().context("a message of 40 MB was taken")?;
    anyhow::ensure!(told(status.code()), "a message of 40 MB: {status}");
    // The same connection serves on, and single faults are told one by one.
    let mut tasks = vec![wire::numbered("default", "a", "", 1); 6];
    tasks[1].input = Bytes::from_static(b"{\"n\":");
    tasks[2].queue = "nowhere".to_owned();
    tasks[3].r#type = String::new();
    tasks[4].priority = Some(10);
    let answer = client.submit(v1::SubmitRequest { request: 3, tasks }).await?.into_inner();
    let codes: Vec<&str> = answer.outcomes.iter().map(|o| o.error_code.as_str()).collect();
    anyhow::ensure!(codes.len() == 6 && codes[0].is_empty() && codes[5].is_empty(), "{codes:?}");
    anyhow::ensure!(codes[1..5].iter().all(|code| !code.is_empty()), "{codes:?}");
    anyhow::ensure!(codes[2] == "unknown-queue", "{codes:?}");
    let answer = client.get(v1::GetRequest { id: Bytes::from_static(b"short"), wait_ms: 0 }).await;
    let status = answer.err().context("an id of 5 bytes was taken")?;
    anyhow::ensure!(matches!(status.code(), Code::InvalidArgument | Code::NotFound), "{status}");
    let answer = client.get(v1::GetRequest { id: vec![7; 16].into(), wait_ms: 0 }).await;
    anyhow::ensure!(answer.err().is_some_and(|s| s.code() == Code::NotFound), "an unknown id");
    let counts = server.rest().get("/api/tasks/counts").await?.ok()?.json()?;
    anyhow::ensure!(counts["counts"]["queued"] == 2, "{counts}");
    server.still_serves().await
}

/// Tokens that are made up, changed, or of an attempt that is over: refused by name, and they change nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_under_wrong_tokens_change_nothing() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    let id = rest.task(&json!({ "type": "a", "input": 1 })).await?;
    let mut client = wire::worker(&server.url(), &server.token).await?;
    let (out, stream) = mpsc::channel(64);
    out.send(hello("careless", 4)).await?;
    let mut inbound = client.connect(ReceiverStream::new(stream)).await?.into_inner();
    let mut token = Bytes::new();
    while token.is_empty() {
        let received = tokio::time::timeout(PATIENCE, inbound.message()).await??.context("the stream ended")?;
        if let Some(FromServer::Grants(grants)) = received.message {
            token = grants.grants.first().map(|g| g.token.clone()).unwrap_or_default();
        }
    }
    let mut flipped = token.to_vec();
    *flipped.last_mut().context("a token has bytes")? ^= 1;
    let mut first = token.to_vec();
    first[0] ^= 0x80;
    let wrong: Vec<Bytes> = vec![
        Bytes::new(),
        vec![0; 16].into(),
        vec![255; 64].into(),
        vec![1; 5_000].into(),
        flipped.into(),
        first.into(),
        token.slice(..token.len() - 1),
        [&token[..], b"x"].concat().into(),
    ];
    let ok = |token: &Bytes| outcome(token.clone(), Outcome::Ok(Bytes::from_static(b"\"forged\"")));
    for token in &wrong {
        out.send(message(ToServer::Started(v1::Started { tokens: vec![token.clone()] }))).await?;
        let progress = v1::Progress { token: token.clone(), fraction: 0.9, text: "forged".to_owned() };
        out.send(message(ToServer::Progress(progress))).await?;
        let line = v1::LogLine { token: token.clone(), text: "forged".to_owned(), ..v1::LogLine::default() };
        out.send(message(ToServer::Logs(v1::Logs { sequence: 1, lines: vec![line] }))).await?;
    }
    out.send(message(ToServer::Results(v1::Results { results: wrong.iter().map(ok).collect() }))).await?;
    let mut refused = 0;
    while refused < wrong.len() {
        let received = tokio::time::timeout(PATIENCE, inbound.message()).await;
        let received = received.with_context(|| format!("{refused} of {} were refused", wrong.len()))??;
        if let Some(FromServer::Ack(ack)) = received.context("the stream ended")?.message {
            anyhow::ensure!(ack.accepted == 0, "a result under a wrong token was accepted");
            refused += ack.refused.len();
        }
    }
    let task = rest.get(&format!("/api/tasks/{id}")).await?.ok()?.json()?;
    anyhow::ensure!(task["state"] == "running", "wrong tokens changed the task: {task}");
    let logs = rest.get(&format!("/api/tasks/{id}/logs")).await?.ok()?;
    anyhow::ensure!(!logs.shown().contains("forged"), "{}", logs.shown());
    // The right token still works, once.
    let right = outcome(token.clone(), Outcome::Ok(Bytes::from_static(b"\"right\"")));
    out.send(message(ToServer::Results(v1::Results { results: vec![right.clone()] }))).await?;
    rest.ended(&id).await?;
    let again = outcome(token.clone(), Outcome::Failed(v1::Failure::default()));
    out.send(message(ToServer::Results(v1::Results { results: vec![again] }))).await?;
    loop {
        let received =
            tokio::time::timeout(PATIENCE, inbound.message()).await.context("a repeat was not refused")??;
        if let Some(FromServer::Ack(ack)) = received.context("the stream ended")?.message
            && ack.refused.contains(&token)
        {
            break;
        }
    }
    let task = rest.get(&format!("/api/tasks/{id}")).await?.ok()?.json()?;
    anyhow::ensure!(task["state"] == "succeeded" && task["result"] == "right", "{task}");
    server.still_serves().await
}

/// A result that is no JSON, or larger than it may be: the attempt fails with the reason, or the stream is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_are_no_json_are_not_stored() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    let id = rest.task(&json!({ "type": "a", "retry": { "max_attempts": 1 } })).await?;
    let ledger = tidewheel_e2e::ledger::Ledger::default();
    let plan = tidewheel_e2e::worker::Plan::new(&server.url(), &server.token, "w", &["*"], 1)
        .with(|_| tidewheel_e2e::worker::Deed::Done(Bytes::from_static(b"{\"half\":")));
    let _worker = tidewheel_e2e::worker::Worker::start(plan, ledger.clone());
    let task = rest.ended(&id).await?;
    anyhow::ensure!(task["state"] != "succeeded", "a result that is no JSON was stored: {task}");
    let result = rest.get(&format!("/api/tasks/{id}/result")).await?;
    anyhow::ensure!(result.status == 409, "{} {}", result.status, result.shown());
    server.still_serves().await
}
