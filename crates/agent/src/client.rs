//! The channel to the server: address, certificate authority, token, keep-alive and compression. It dials when it is
//! first used and again whenever the connection is gone; what is said over it is not its business.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tidewheel_proto::v1::worker_client::WorkerClient;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::config::{AgentConfig, Credential, Reread};
use crate::error::Error;

/// A silent peer is noticed after interval + timeout: before a lease of 4 s is over, but not while a busy server stalls.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(1);
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// What the server may send in one message; its own bound on grants is far below.
const MAX_MESSAGE: usize = 64 << 20;

/// Makes stubs of the service `Worker`. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    /// Shared by all clones: a changed credential holds for everybody.
    live: Arc<RwLock<Live>>,
    address: Arc<str>,
    compress: Arc<AtomicBool>,
    trust: Trust,
    reread: Option<Reread>,
}

#[derive(Clone)]
struct Live {
    channel: Channel,
    auth: Auth,
    credential: Credential,
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
        let read = |path: &std::path::PathBuf| std::fs::read(path).map_err(Error::file("read", path));
        let authority = config.ca.as_ref().map(read).transpose()?.map(Certificate::from_pem);
        let trust = Trust { secure: config.server.starts_with("https:"), authority };
        Self::to(&config.server, &config.credential, trust, config.reread.clone())
    }

    /// The same at another address, which proves who it is in the same way: over TLS if the first one does.
    pub(crate) fn at(&self, address: &str) -> Result<Self, Error> {
        let credential = self.live.read().credential.clone();
        Self::to(address, &credential, self.trust.clone(), self.reread.clone())
    }

    fn to(address: &str, credential: &Credential, trust: Trust, reread: Option<Reread>) -> Result<Self, Error> {
        let (live, local) = Self::dial(address, credential, &trust)?;
        Ok(Self {
            live: Arc::new(RwLock::new(live)),
            address: address.into(),
            // On one machine compression costs more than the bytes it saves.
            compress: Arc::new(AtomicBool::new(!local)),
            trust,
            reread,
        })
    }

    /// Takes over a credential that was changed since; whether there was one. Asked when the one in use is refused.
    pub(crate) fn renew(&self) -> bool {
        let Some(now) = self.reread.as_ref().and_then(|reread| (reread.0)()) else { return false };
        if self.live.read().credential.is(&now) {
            return false;
        }
        match Self::dial(&self.address, &now, &self.trust) {
            Ok((live, _)) => {
                tracing::info!("the credential was changed; going on with the new one");
                *self.live.write() = live;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the new credential cannot be used");
                false
            }
        }
    }

    fn dial(address: &str, credential: &Credential, trust: &Trust) -> Result<(Live, bool), Error> {
        let mut header = MetadataValue::try_from(credential.authorization())
            .map_err(|_| Error::Config("the token holds a character that no token has".into()))?;
        header.set_sensitive(true);
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
            let mut tls = match &trust.authority {
                Some(authority) => ClientTlsConfig::new().ca_certificate(authority.clone()),
                None => ClientTlsConfig::new().with_native_roots(),
            };
            if let Some((certificate, key)) = credential.identity() {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
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
        let auth = Auth { header };
        Ok((Live { channel: endpoint.connect_lazy(), auth, credential: credential.clone() }, local))
    }

    pub(crate) fn worker(&self) -> WorkerClient<InterceptedService<Channel, Auth>> {
        let live = self.live.read().clone();
        let mut client = WorkerClient::with_interceptor(live.channel, live.auth)
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
