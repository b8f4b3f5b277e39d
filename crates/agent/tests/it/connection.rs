//! The stream: losing it, resuming, acknowledging, leases and leaving.

use std::time::Duration;

use bytes::Bytes;
use tidewheel_agent::{Agent, AgentConfig, Error, Secret};
use tidewheel_proto::v1::server_message::Message as ToAgent;
use tidewheel_proto::v1::{Ack, Grant, PackageHint, Recall, Reconnect, Revoke};

use crate::mock::*;

fn list(tokens: &[&str]) -> Vec<Bytes> {
    tokens.iter().map(|t| Bytes::copy_from_slice(t.as_bytes())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn live_attempts_survive_a_lost_connection() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let flag = bench.dir.path().join("flag");
    let input = serde_json::json!({ "path": flag }).to_string();
    s.grant(vec![bench.python("1", "wait_for", &input), bench.python("2", "wait_for", &input)]).await;
    s.started("1").await;
    s.started("2").await;
    s.hang_up();
    let mut s = bench.session().await;
    let mut resume: Vec<_> = s.hello.resume.iter().map(|a| a.token.clone()).collect();
    resume.sort();
    assert_eq!(resume, list(&["1", "2"]));
    // The server gave the second one away.
    s.welcome(|w| w.resumed = list(&["1"])).await;
    // The first message may have been lost with the stream, and the time limit of the run counts from it.
    s.started("1").await;
    let marker = format!("TIDEWHEEL_ARTIFACTS={}", bench.dir.path().display());
    eventually("the process of the second is gone", || processes_of(&marker).len() == 1).await;
    std::fs::write(&flag, "").expect("written");
    assert_eq!(s.ok("1").await, "seen");
    s.grant(vec![bench.python("3", "add", "[1]")]).await;
    s.ok("3").await;
    assert!(!s.results.contains_key(&b"2"[..]), "a revoked attempt reports nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_sent_again_until_it_is_acknowledged() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    s.acknowledge = false;
    s.grant(vec![bench.python("1", "add", "[1]"), bench.python("2", "add", "[2]"), bench.python("3", "add", "[3]")])
        .await;
    for token in ["1", "2", "3"] {
        s.result(token).await;
    }
    s.send(ToAgent::Ack(Ack { accepted: 1, refused: Vec::new() })).await;
    // An answer to a later grant shows that the acknowledgement was read.
    s.grant(vec![Grant { r#type: "builtin.noop".into(), ..grant("4", "") }]).await;
    s.result("4").await;
    let kept = s.results.clone();
    s.hang_up();
    let mut s = bench.session().await;
    assert_eq!(s.hello.resume.len(), 3, "all but the acknowledged one: {:?}", s.hello.resume);
    s.acknowledge = false;
    s.welcome(|_| {}).await;
    s.until("three results", |s| s.results.len() == 3).await;
    assert!(s.results.iter().all(|(token, result)| kept[token] == *result), "the same results");
    s.hang_up();
    // A server that no longer knows one of them does not get it again.
    let mut s = bench.session().await;
    let first = s.hello.resume[0].token.clone();
    s.welcome(|w| w.resumed = vec![first.clone()]).await;
    s.until("one result", |s| s.results.contains_key(&first)).await;
    s.hang_up();
    let s = bench.session().await;
    assert!(s.hello.resume.is_empty(), "everything was acknowledged or given up");
}

#[tokio::test(flavor = "multi_thread")]
async fn unstarted_grants_go_back_when_the_agent_stops() {
    let mut bench = Bench::start_with(|c| c.permits = 1).await;
    let mut s = bench.connected().await;
    let flag = bench.dir.path().join("flag");
    let input = serde_json::json!({ "path": flag }).to_string();
    s.grant(vec![bench.python("1", "wait_for", &input)]).await;
    s.started("1").await;
    s.grant(vec![
        bench.python("2", "add", "[1]"),
        shell("3", "true"),
        Grant { r#type: "builtin.noop".into(), ..grant("n", "") },
    ])
    .await;
    s.ok("n").await;
    bench.shutdown.cancel();
    s.until("both come back", |s| s.returned.len() == 2).await;
    assert_eq!(tokens(&s.returned), ["2", "3"].map(str::to_owned).into());
    s.grant(vec![bench.python("4", "add", "[1]")]).await;
    s.until("the late one comes back too", |s| s.returned.len() == 3).await;
    std::fs::write(&flag, "").expect("written");
    assert_eq!(s.ok("1").await, "seen");
    s.until("goodbye", |s| s.bye).await;
    s.hang_up();
    bench.end().await.expect("it ends well");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_in_the_drain_time_is_killed_and_reported() {
    let mut bench = Bench::start_with(|c| c.drain = Duration::from_millis(200)).await;
    let mut s = bench.connected().await;
    s.grant(vec![bench.python("1", "spin", "null")]).await;
    s.started("1").await;
    bench.shutdown.cancel();
    let failure = s.failure("1").await;
    assert_eq!((failure.r#type.as_str(), failure.retryable), ("agent-stopped", true));
    s.until("goodbye", |s| s.bye).await;
    s.hang_up();
    let marker = format!("TIDEWHEEL_ARTIFACTS={}", bench.dir.path().display());
    bench.end().await.expect("it ends well");
    assert!(processes_of(&marker).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_takes_back_what_waits_and_what_runs() {
    let mut bench = Bench::start_with(|c| c.permits = 1).await;
    let mut s = bench.connected().await;
    s.grant(vec![bench.python("1", "spin", "null"), bench.python("2", "add", "[1]"), bench.python("3", "add", "[1]")])
        .await;
    s.started("1").await;
    s.send(ToAgent::Recall(Recall { tokens: list(&["1", "2", "9"]) })).await;
    s.until("one comes back", |s| !s.returned.is_empty()).await;
    assert_eq!(s.returned, list(&["2"]), "a running attempt is not recalled");
    s.send(ToAgent::Revoke(Revoke { tokens: list(&["1"]) })).await;
    assert_eq!(s.ok("3").await, 2);
    assert!(!s.results.contains_key(&b"1"[..]));
}

/// Passes connections on to `to`; its address, and how many came.
async fn relay(to: std::net::SocketAddr) -> (std::net::SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (addr, count) =
        (listener.local_addr().expect("bound"), std::sync::Arc::<std::sync::atomic::AtomicUsize>::default());
    let seen = count.clone();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut to = tokio::net::TcpStream::connect(to).await.expect("the server listens");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    });
    (addr, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_connects_where_the_server_asks_it_to_and_its_attempts_go_on() {
    let mut bench = Bench::start().await;
    let (addr, seen) = relay(bench.addr).await;
    let count = || seen.load(std::sync::atomic::Ordering::Relaxed);
    let mut s = bench.connected().await;
    let flag = bench.dir.path().join("flag");
    s.grant(vec![bench.python("1", "wait_for", &serde_json::json!({ "path": flag }).to_string())]).await;
    s.started("1").await;
    let to = |address: &str| ToAgent::Reconnect(Reconnect { address: address.into(), reason: "a test".into() });
    s.send(to(&format!("http://{addr}"))).await;
    let mut s = bench.connected().await;
    assert_eq!((count(), s.hello.resume.len()), (1, 1), "the attempt goes on over the other address");
    std::fs::write(&flag, "").expect("written");
    assert_eq!(s.ok("1").await, "seen");
    // Without an address, and with one that cannot be used, it is the first one again.
    for address in ["", "ftp://nowhere", "not an address"] {
        s.send(to(address)).await;
        s = bench.connected().await;
        assert_eq!(count(), 1, "{address}");
    }
    // With one where nobody answers, it comes back by itself.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
    s.send(to(&format!("http://{closed}"))).await;
    let mut s = bench.connected().await;
    s.grant(vec![bench.python("2", "add", "[1]")]).await;
    assert_eq!(s.ok("2").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_that_will_be_needed_are_fetched_ahead() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let unknown = format!("sha256:{}", "0".repeat(64));
    let packages = vec!["../../etc".into(), "local:x".into(), unknown, bench.package.clone()];
    s.send(ToAgent::PackageHint(PackageHint { packages, tenant: 1 })).await;
    let folder = bench.dir.path().join("packages").join(&bench.package["sha256:".len()..]);
    eventually("the package is here", || folder.is_dir()).await;
    let built = || {
        std::fs::read_dir(bench.dir.path().join("envs"))
            .expect("there")
            .flatten()
            .any(|e| e.path().join("bin").is_dir())
    };
    eventually("so is its environment", built).await;
    // What the server says it has not is taken from the cache.
    bench.blobs.lock().clear();
    s.grant(vec![bench.python("1", "add", "[1]")]).await;
    assert_eq!(s.ok("1").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_reach_the_server_ends_its_attempts_with_its_lease() {
    let mut bench = Bench::start().await;
    let mut s = bench.session().await;
    s.welcome(|w| w.lease_ms = 1500).await;
    s.grant(vec![bench.python("1", "spin", "null"), shell("2", "sleep 600")]).await;
    s.started("1").await;
    s.started("2").await;
    s.hang_up();
    // The agent comes back, and is never welcomed.
    let s = bench.session().await;
    assert_eq!(s.hello.resume.len(), 2);
    let marker = format!("HOME={}/work", bench.dir.path().display());
    eventually("both are gone", || processes_of(&marker).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_ends_the_agent_with_a_clear_error() {
    let bench = Bench::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    let config = AgentConfig::new(format!("http://{}", bench.addr), Secret::new("wrong"), dir.path());
    let agent = Agent::new(config).await.expect("it starts");
    let ended = tokio::time::timeout(PATIENCE, agent.run(bench.shutdown.clone())).await.expect("it ends");
    assert!(matches!(ended, Err(Error::Refused(why)) if why == "unknown token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_says_what_it_is() {
    let mut bench = Bench::start_with(|c| {
        c.labels = [("zone".to_owned(), "a".to_owned())].into();
        c.serves = tidewheel_agent::Serves::parse(["priority=high"]).expect("a bound");
        c.data = vec!["set-1".to_owned()];
    })
    .await;
    let s = bench.session().await;
    let hello = &s.hello;
    assert_eq!((hello.name.as_str(), hello.queues.as_slice()), ("bench", ["*".to_owned()].as_slice()));
    assert_eq!((hello.labels["os"].as_str(), hello.labels["zone"].as_str()), ("linux", "a"));
    assert!(hello.permits >= 2 && hello.resources.as_ref().is_some_and(|r| r.cpu_millis >= 1000 && r.memory_bytes > 0));
    assert!(hello.enforced.contains_key("cgroup") && hello.enforced.contains_key("sandbox"), "{:?}", hello.enforced);
    let iops = hello.enforced["iops"].as_str();
    assert!(iops == "ioprio" || iops.starts_with("cgroup") && iops.ends_with("weight + ioprio"), "{iops}");
    assert!(hello.enforced.contains_key("share"), "what is not enforced is said, not left out");
    assert_eq!(hello.serves.as_ref().map(|s| s.priorities.clone()), Some(vec!["high".to_owned()]));
    assert_eq!(hello.data, ["set-1"]);
}

/// Not a test by itself: the agent that `nothing_outlives_a_killed_agent` kills, in a process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test"]
async fn an_agent_to_be_killed() {
    let (Ok(server), Ok(dir)) = (std::env::var("IT_SERVER"), std::env::var("IT_DIR")) else { return };
    let mut config = AgentConfig::new(server, Secret::new("secret"), dir);
    if std::env::var_os("IT_PLAIN").is_some() {
        config.isolation = tidewheel_agent::Isolation::Off;
        config.control_groups = false;
    }
    tidewheel_agent::run(config, Default::default()).await.expect("it is killed before");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_killed_agent() {
    outlives_nothing(false).await;
}

/// As on a machine that gives ordinary users neither namespaces nor control groups.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_killed_agent_that_has_no_help_of_the_kernel() {
    outlives_nothing(true).await;
}

async fn outlives_nothing(plain: bool) {
    let mut bench = Bench::start().await;
    drop(bench.connected().await);
    let dir = tempfile::tempdir().expect("a folder");
    let mut agent = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "connection::an_agent_to_be_killed"])
        .env("IT_SERVER", format!("http://{}", bench.addr))
        .env("IT_DIR", dir.path())
        .envs(plain.then_some(("IT_PLAIN", "1")))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    // The first agent comes back too, because its stream was dropped.
    let mut s = loop {
        let session = bench.session().await;
        if session.hello.name != "bench" {
            break session;
        }
    };
    s.welcome(|_| {}).await;
    let pid_file = dir.path().join("grandchild");
    let input = serde_json::json!({ "path": pid_file }).to_string();
    s.grant(vec![bench.python("1", "fork", &input), shell("2", "sleep 600 & sleep 600")]).await;
    s.started("2").await;
    eventually("the grandchild is there", || read_pid(&pid_file).is_some_and(alive)).await;
    let grandchild = read_pid(&pid_file).expect("read above");
    agent.kill().expect("it is killed");
    agent.wait().expect("it is gone");
    let begin = std::time::Instant::now();
    let marker = format!("HOME={}/work", dir.path().display());
    eventually("everything is gone", || processes_of(&marker).is_empty() && !alive(grandchild)).await;
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}
