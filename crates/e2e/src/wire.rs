//! The gRPC side as a client sees it: a channel, the token on every call, bulk submits.

use std::time::Duration;

use tidewheel_proto::v1;
use tidewheel_proto::v1::client_client::ClientClient;
use tidewheel_proto::v1::worker_client::WorkerClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Puts the token on each call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// For a token; an empty one sends nothing.
    pub fn new(token: &str) -> anyhow::Result<Bearer> {
        let value = if token.is_empty() { None } else { Some(format!("Bearer {token}").parse()?) };
        Ok(Bearer(value))
    }
}

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A channel with the token on it.
pub type Authorized = InterceptedService<Channel, Bearer>;

/// Dials a server.
pub async fn channel(url: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true);
    Ok(endpoint.connect().await?)
}

/// The client service.
pub async fn client(url: &str, token: &str) -> anyhow::Result<ClientClient<Authorized>> {
    let client = ClientClient::with_interceptor(channel(url).await?, Bearer::new(token)?);
    Ok(client.max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20))
}

/// The worker service.
pub async fn worker(url: &str, token: &str) -> anyhow::Result<WorkerClient<Authorized>> {
    let client = WorkerClient::with_interceptor(channel(url).await?, Bearer::new(token)?);
    Ok(client.max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20))
}

/// A task id on the wire.
pub fn id(bytes: &[u8]) -> u128 {
    bytes.try_into().map(u128::from_be_bytes).unwrap_or(0)
}

/// The public text of a task id.
pub fn text(id: u128) -> String {
    tidewheel_proto::id::format("task", id)
}

/// A task whose input is `{"n": n}`, by which the ledger tells tasks apart.
pub fn numbered(queue: &str, kind: &str, key: &str, n: u64) -> v1::TaskSpec {
    v1::TaskSpec {
        r#type: kind.to_owned(),
        queue: queue.to_owned(),
        input: format!("{{\"n\":{n}}}").into(),
        idempotency_key: key.to_owned(),
        ..v1::TaskSpec::default()
    }
}

/// The number in such an input.
pub fn number(input: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(input).ok()?["n"].as_u64()
}
