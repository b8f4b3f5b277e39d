//! The channel to the server: address, certificate authority, token, keep-alive and compression. It dials when it is
//! first used and again whenever the connection is gone; what is said over it is not its business.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidewheel_proto::v1::worker_client::WorkerClient;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::config::AgentConfig;
use crate::error::Error;

/// A silent peer is noticed after interval + timeout: before a lease of 4 s is over, but not while a busy server stalls.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(1);
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// What the server may send in one message; its own bound on grants is far below.
const MAX_MESSAGE: usize = 64 << 20;

/// Makes stubs of the service `Worker`. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    auth: Auth,
    compress: Arc<AtomicBool>,
    trust: Trust,
}

/// How a server has to prove who it is.
#[derive(Clone)]
struct Trust {
    secure: bool,
    authority: Option<Certificate>,
}

/// Adds the token to every call.
#[derive(Clone)]
pub(crate) struct Auth {
    header: MetadataValue<Ascii>,
}

impl tonic::service::Interceptor for Auth {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.header.clone());
        Ok(request)
    }
}

impl Client {
    pub(crate) fn new(config: &AgentConfig) -> Result<Self, Error> {
        let mut header = MetadataValue::try_from(format!("Bearer {}", config.token.expose()))
            .map_err(|_| Error::Config("the token holds a character that no token has".into()))?;
        header.set_sensitive(true);
        let read = |path: &std::path::PathBuf| std::fs::read(path).map_err(Error::file("read", path));
        let authority = config.ca.as_ref().map(read).transpose()?.map(Certificate::from_pem);
        let trust = Trust { secure: config.server.starts_with("https:"), authority };
        Self::dial(&config.server, Auth { header }, trust)
    }

    /// The same at another address, which proves who it is in the same way: over TLS if the first one does.
    pub(crate) fn at(&self, address: &str) -> Result<Self, Error> {
        Self::dial(address, self.auth.clone(), self.trust.clone())
    }

    fn dial(address: &str, auth: Auth, trust: Trust) -> Result<Self, Error> {
        let bad = |e: &dyn std::fmt::Display| Error::Config(format!("`{address}` is not a server address: {e}"));
        let mut endpoint = Endpoint::from_shared(address.to_owned()).map_err(|e| bad(&e))?;
        let host = endpoint.uri().host().unwrap_or_default().to_owned();
        let secure = match endpoint.uri().scheme_str() {
            Some("https") => true,
            Some("http") if !trust.secure => false,
            Some("http") => return Err(bad(&"the token is only sent over TLS")),
            _ => return Err(bad(&"it has to begin with http:// or https://")),
        };
        if secure {
            let tls = match &trust.authority {
                Some(authority) => ClientTlsConfig::new().ca_certificate(authority.clone()),
                None => ClientTlsConfig::new().with_native_roots(),
            };
            endpoint = endpoint.tls_config(tls).map_err(|e| bad(&e))?;
        }
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(15)))
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20);
        let local = matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1" | "[::1]");
        Ok(Self {
            channel: endpoint.connect_lazy(),
            auth,
            trust,
            // On one machine compression costs more than the bytes it saves.
            compress: Arc::new(AtomicBool::new(!local)),
        })
    }

    pub(crate) fn worker(&self) -> WorkerClient<InterceptedService<Channel, Auth>> {
        let mut client = WorkerClient::with_interceptor(self.channel.clone(), self.auth.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .accept_compressed(CompressionEncoding::Zstd)
            .accept_compressed(CompressionEncoding::Gzip);
        if self.compress.load(Ordering::Relaxed) {
            client = client.send_compressed(CompressionEncoding::Zstd);
        }
        client
    }

    /// The server may not know the compression: the next stub goes without.
    pub(crate) fn without_compression(&self) -> bool {
        self.compress.swap(false, Ordering::Relaxed)
    }
}
