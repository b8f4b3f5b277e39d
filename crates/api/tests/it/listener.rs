//! The listener: what only shows over a socket.

use std::sync::Arc;
use std::time::Duration;

use tidewheel_api::serve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::node::Node;

pub(crate) struct Served {
    pub(crate) node: Node,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<Result<(), tidewheel_api::ServeError>>,
}

pub(crate) async fn start() -> Served {
    serve_node(Node::start().await).await
}

pub(crate) async fn serve_node(node: Node) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, node.router.clone(), None, shutdown.clone()));
    Served { node, address, shutdown, task }
}

async fn exchange(address: std::net::SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut out)).await;
    String::from_utf8_lossy(&out).into_owned()
}

#[tokio::test]
async fn metrics_are_open_on_loopback_but_not_through_a_proxy() {
    let served = start().await;
    let got = exchange(served.address, "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    let got = exchange(
        served.address,
        "GET /metrics HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.2.3.4\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(got.starts_with("HTTP/1.1 401"), "{got}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let served = start().await;
    let text = format!("GET /health/live HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    let got = exchange(served.address, &text).await;
    assert!(got.starts_with("HTTP/1.1 431"), "{}", &got[..got.len().min(200)]);
}

#[tokio::test]
async fn connections_are_kept_and_end_with_the_server() {
    let served = start().await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let body = r#"{"type":"a"}"#;
    let request = format!(
        "POST /api/tasks HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        served.node.admin,
        body.len()
    );
    for _ in 0..3 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut buffer = [0u8; 4_096];
        let got = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..got].starts_with(b"HTTP/1.1 201"));
    }
    served.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(30), served.task).await;
    ended.expect("an idle connection does not hold the server up").unwrap().unwrap();
    let mut buffer = [0u8; 16];
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
}

#[tokio::test]
async fn tls_speaks_both_versions_of_http() {
    let node = Node::start().await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider.clone());
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, node.router.clone(), Some(config), CancellationToken::new()));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let client = rustls::ClientConfig::builder_with_provider(provider.clone());
        let client = client.with_safe_default_protocol_versions().unwrap();
        let mut client = client.with_root_certificates(roots.clone()).with_no_client_auth();
        client.alpn_protocols = vec![protocol.to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        if protocol == b"http/1.1" {
            stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut out = Vec::new();
            let _ = stream.read_to_end(&mut out).await;
            assert!(out.starts_with(b"HTTP/1.1 200"));
        }
    }
}
