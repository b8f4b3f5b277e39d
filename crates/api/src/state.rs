//! What all handlers share: the runtime's handle, the settings, and a few bounded caches. Cheap to clone.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use parking_lot::Mutex;
use tidewheel_engine::id::{Name, SessionId, WorkerId};
use tidewheel_engine::task::Spec;
use tidewheel_proto::v1;
use tidewheel_runtime::Runtime;
use tokio::sync::mpsc;

use crate::auth::token::TokenCache;
use crate::config::ApiConfig;
use crate::live::hub::Hub;
use crate::live::sampler::Sampler;
use crate::metrics::ApiMetrics;
use crate::problem::Failure;
use crate::rest::InFlight;
use crate::service::task_type::TypeCache;
use crate::store;

/// The shared state.
#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) runtime: Runtime,
    pub(crate) config: ApiConfig,
    pub(crate) tokens: TokenCache,
    pub(crate) types: TypeCache,
    pub(crate) hub: Arc<Hub>,
    pub(crate) sampler: Sampler,
    pub(crate) metrics: ApiMetrics,
    pub(crate) sessions: Sessions,
    pub(crate) in_flight: InFlight,
    /// Live streams that are open.
    pub(crate) streams: Arc<AtomicUsize>,
    /// Stands for "nothing special" in every submit, so that such tasks share one allocation.
    pub(crate) plain_spec: Arc<Spec>,
    pub(crate) default_queue: Name,
    pub(crate) started_ms: u64,
}

impl Deref for Api {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Api {
    /// Builds the state and starts what runs beside the requests: the live hub and operations that a restart broke off.
    pub(crate) fn start(runtime: Runtime, config: ApiConfig) -> Api {
        let hub = Hub::start(&runtime);
        let api = Api(Arc::new(Inner {
            started_ms: runtime.now_ms(),
            tokens: TokenCache::default(),
            types: TypeCache::default(),
            hub,
            sampler: Sampler::default(),
            metrics: ApiMetrics::new(&config.version),
            sessions: Sessions::default(),
            in_flight: InFlight::default(),
            streams: Arc::new(AtomicUsize::new(0)),
            plain_spec: Arc::new(Spec::default()),
            default_queue: "default".into(),
            runtime,
            config,
        }));
        crate::service::operation::resume_all(&api);
        api
    }

    /// Runs a read of the store on a thread that may block.
    pub(crate) async fn read_store<T, F>(&self, read: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&dyn store::Store) -> Result<T, store::Error> + Send + 'static,
    {
        let store = self.runtime.store().clone();
        let begun = Instant::now();
        let joined = tokio::task::spawn_blocking(move || read(&*store)).await;
        self.runtime.metrics().store_query.observe(begun.elapsed().as_secs_f64());
        joined.map_err(|_| Failure::internal("a read of the store panicked"))?.map_err(Failure::from)
    }

    /// The same for the log store.
    pub(crate) async fn read_logs<T, F>(&self, read: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&dyn store::log::LogStore) -> Result<T, store::Error> + Send + 'static,
    {
        let logs = self.runtime.logs().clone();
        let joined = tokio::task::spawn_blocking(move || read(&*logs)).await;
        joined.map_err(|_| Failure::internal("a read of the log store panicked"))?.map_err(Failure::from)
    }
}

/// The sending end of a worker's stream.
pub(crate) type Out = mpsc::Sender<Result<v1::ServerMessage, tonic::Status>>;

/// What a worker last said that it takes, before what an operator set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Attempts it runs at once.
    pub(crate) permits: u32,
    /// Attempts it holds beyond those.
    pub(crate) buffer: u32,
}

struct Stream {
    worker: WorkerId,
    out: Out,
    offer: Offer,
}

/// Streams of workers that are open, so that an operator's change can reach a worker at once.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<SessionId, Stream>>);

impl Sessions {
    pub(crate) fn insert(&self, session: SessionId, worker: WorkerId, out: Out, offer: Offer) {
        self.0.lock().insert(session, Stream { worker, out, offer });
    }

    /// The worker offers something else now.
    pub(crate) fn offers(&self, session: SessionId, offer: Offer) {
        if let Some(stream) = self.0.lock().get_mut(&session) {
            stream.offer = offer;
        }
    }

    /// What the worker of an open stream offers.
    pub(crate) fn offer(&self, session: SessionId) -> Option<Offer> {
        self.0.lock().get(&session).map(|stream| stream.offer)
    }

    pub(crate) fn remove(&self, session: SessionId) {
        self.0.lock().remove(&session);
    }

    /// Sends to every open stream of a worker; one whose buffer is full will learn it at its next connect.
    pub(crate) fn tell(&self, worker: WorkerId, message: &v1::ServerMessage) {
        for stream in self.0.lock().values() {
            if stream.worker == worker {
                let _ = stream.out.try_send(Ok(message.clone()));
            }
        }
    }
}
