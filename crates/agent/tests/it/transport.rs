//! What lies between agent and server, and whom tasks run as: compression, TLS with a private authority, another user.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tidewheel_agent::{Agent, AgentConfig, Secret};
use tonic::transport::Identity;

use crate::mock::*;

/// Passes connections on from an address that the agent does not take for its own machine; counts the bytes it says.
fn relay(to: &str) -> (String, Arc<AtomicU64>) {
    let listener = std::net::TcpListener::bind("127.0.0.2:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
    let to = to.trim_start_matches("http://").to_owned();
    let said = Arc::<AtomicU64>::default();
    let count = said.clone();
    tokio::spawn(async move {
        while let Ok((agent, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(&to).await.expect("the server listens");
            let ((mut agent_read, mut agent_write), (mut server_read, mut server_write)) =
                (agent.into_split(), server.into_split());
            let count = count.clone();
            tokio::spawn(async move { tokio::io::copy(&mut server_read, &mut agent_write).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(n @ 1..) = tokio::io::AsyncReadExt::read(&mut agent_read, &mut buffer).await {
                    count.fetch_add(n as u64, Ordering::Relaxed);
                    if tokio::io::AsyncWriteExt::write_all(&mut server_write, &buffer[..n]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (format!("http://{addr}"), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_compressed_where_the_server_can_read_it() {
    for compressed in [true, false] {
        let mut said = None;
        let change = |c: &mut AgentConfig| {
            let (server, count) = relay(&c.server);
            (c.server, said) = (server, Some(count));
        };
        // A server that cannot read it is spoken to without.
        let mut bench =
            if compressed { Bench::start_compressed(change).await } else { Bench::start_with(change).await };
        let mut s = bench.connected().await;
        s.grant(vec![bench.python("1", "big", r#"{"n": 60000}"#)]).await;
        assert_eq!(s.ok("1").await.as_str().map(str::len), Some(60_000));
        let said = said.expect("set above").load(Ordering::Relaxed);
        assert_eq!(said < 60_000, compressed, "{said} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_where_it_is_named_and_nowhere_else() {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
    };
    let (ours, other) = (authority("ours"), authority("other"));
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &ours).expect("signed");
    let mut server = TlsServer::start(Identity::from_pem(certificate.pem(), key.serialize_pem())).await;
    let port = server.port;
    let dir = tempfile::tempdir().expect("a folder");
    let start = async |ca: Option<&rcgen::Certificate>, host: &str| {
        let mut config =
            AgentConfig::new(format!("https://{host}:{port}"), Secret::new("secret"), dir.path().join("data"));
        config.ca = ca.map(|ca| {
            let file = dir.path().join("ca.pem");
            std::fs::write(&file, ca.pem()).expect("written");
            file
        });
        let stop = tokio_util::sync::CancellationToken::new();
        let agent = Agent::new(config).await.expect("the agent starts");
        (tokio::spawn(agent.run(stop.clone())), stop)
    };
    let strangers = [(None, "localhost"), (Some(other.as_ref()), "localhost"), (Some(ours.as_ref()), "127.0.0.1")];
    for (ca, host) in strangers {
        let before = server.tries.load(Ordering::Relaxed);
        let (agent, stop) = start(ca, host).await;
        // Its second try shows that the first one failed.
        eventually("it tries again", || server.tries.load(Ordering::Relaxed) >= before + 2).await;
        assert!(server.sessions.try_recv().is_err(), "{host}");
        stop.cancel();
        agent.abort();
    }
    let (agent, stop) = start(Some(ours.as_ref()), "localhost").await;
    let session = tokio::time::timeout(PATIENCE, server.sessions.recv()).await.expect("it connects");
    session.expect("the server runs").welcome(|_| {}).await;
    stop.cancel();
    agent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_run_as_another_user_where_that_is_asked_for() {
    if !is_root() {
        println!("not run: only root can change users");
        return;
    }
    let python = std::path::Path::new("/usr/bin/python3");
    if !python.exists() {
        println!("not run: there is no Python that every user can reach");
        return;
    }
    let mut bench = Bench::start_with(|c| {
        use std::os::unix::fs::PermissionsExt;
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&c.data_dir, open).expect("ours");
        let hidden = std::fs::Permissions::from_mode(0o600);
        std::fs::write(c.data_dir.join("secret"), "s").expect("written");
        std::fs::set_permissions(c.data_dir.join("secret"), hidden).expect("ours");
        c.run_as = Some((65_534, 65_534));
        c.python = Some(python.to_owned());
    })
    .await;
    let mut s = bench.connected().await;
    assert_eq!(s.hello.enforced["user"], "65534");
    let secret = bench.dir.path().join("secret");
    s.grant(vec![
        bench.python("1", "who", &serde_json::json!({ "path": secret }).to_string()),
        bench.python("2", "report", "null"),
        shell("3", &format!("id -u; id -g; cat {} || echo no", secret.display())),
    ])
    .await;
    assert_eq!(s.ok("1").await, serde_json::json!([65_534, 65_534, [], "PermissionError"]));
    assert_eq!(s.result("2").await.artifacts.len(), 1, "its folder is its own");
    assert_eq!(s.ok("3").await["stdout"], "65534\n65534\nno\n");
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}
