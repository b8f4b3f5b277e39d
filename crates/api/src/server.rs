//! The listener: HTTP/1.1, HTTP/2 with and without TLS on one port, bounded headers and times, an end without broken
//! answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::auth::Fingerprint;

/// Read buffer of a connection, and so the longest head that is read at all. Above, hyper answers 431 and closes, and
/// a client that is still sending may not see the answer; between 16 KiB and this, `middleware` answers with a
/// problem.
const BUFFER_BYTES: usize = 64 * 1024;
/// The same over HTTP/2, where the answer always arrives.
const HEADER_BYTES: u32 = 16 * 1024;
/// Lines of a head.
const HEADERS: usize = 100;
/// A head has to be complete within this time; idle connections are closed after it as well.
const HEADER_TIME: Duration = Duration::from_secs(60);
/// The first request of a connection has to arrive within this time, whatever trickles in before it.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// A TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections at once. Each costs a file descriptor and about 20 KiB.
const CONNECTIONS: usize = 20_000;
/// Requests that are under way when the server ends get so long.
const GRACE: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection: a worker needs a handful.
const H2_STREAMS: u32 = 256;
/// Flow-control windows: large enough that a batch of a megabyte needs no round trip.
const H2_STREAM_WINDOW: u32 = 2 << 20;
const H2_CONNECTION_WINDOW: u32 = 8 << 20;
/// Dead peers are found by HTTP/2 pings.
const H2_PING: Duration = Duration::from_secs(20);
/// After an error of accept (out of descriptors), wait before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Address of the caller, as the socket has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Why the server ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener cannot be used.
    #[error("the listener failed: {0}")]
    Listener(#[from] std::io::Error),
}

/// Serves until `shutdown` is cancelled and the open requests have ended.
///
/// # Errors
///
/// When the listener's own address cannot be read.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<rustls::ServerConfig>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    let acceptor = tls.map(|mut config| {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    });
    let graceful = GracefulShutdown::new();
    let builder = Arc::new(builder());
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    tracing::info!(%address, tls = acceptor.is_some(), "listening");
    loop {
        let slot = tokio::select! {
            () = shutdown.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot,
        };
        // The semaphore is never closed.
        let Ok(slot) = slot else { break };
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        // Small answers leave at once; batching is done by us.
        let _ = stream.set_nodelay(true);
        let connection = Connection {
            builder: builder.clone(),
            router: router.clone(),
            peer,
            watcher: graceful.watcher(),
            acceptor: acceptor.clone(),
        };
        tokio::spawn(async move {
            connection.run(stream).await;
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still open when the grace time ended");
    }
    Ok(())
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(BUFFER_BYTES)
        // Without `pipeline_flush`: it keeps back what hyper itself answers to a head that it cannot read.
        .max_headers(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES)
        .max_concurrent_streams(H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING);
    builder
}

struct Connection {
    builder: Arc<auto::Builder<TokioExecutor>>,
    router: Router,
    peer: SocketAddr,
    watcher: hyper_util::server::graceful::Watcher,
    acceptor: Option<TlsAcceptor>,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        match &self.acceptor {
            None => self.http(stream, None).await,
            Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    // The handshake has checked it against the authority the listener was given.
                    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                    let certificate = shown.map(|der| Fingerprint(Sha256::digest(der.as_ref()).into()));
                    self.http(stream, certificate).await;
                }
                Ok(Err(error)) => tracing::debug!(peer = %self.peer, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(peer = %self.peer, "a TLS handshake took too long"),
            },
        }
    }

    async fn http<I>(self, stream: I, certificate: Option<Fingerprint>)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let begun = Arc::new(AtomicBool::new(false));
        let seen = begun.clone();
        let (router, peer) = (self.router, self.peer);
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            seen.store(true, Ordering::Relaxed);
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(Peer(peer));
            if let Some(certificate) = certificate {
                request.extensions_mut().insert(certificate);
            }
            router.clone().call(request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let watched = self.watcher.watch(connection);
        tokio::pin!(watched);
        // Until the version of HTTP is known, the connection has no timer of its own.
        tokio::select! {
            ended = &mut watched => return note(peer, ended),
            () = tokio::time::sleep(FIRST_REQUEST) => {}
        }
        if begun.load(Ordering::Relaxed) {
            note(peer, watched.await);
        }
    }
}

fn note(peer: SocketAddr, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        // Clients go away in the middle of things all the time.
        tracing::debug!(%peer, %error, "a connection ended with an error");
    }
}
