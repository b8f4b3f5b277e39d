//! What all handlers share: the runtime's handle, the settings, and a few bounded caches. Cheap to clone.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use tidewheel_engine::id::{Name, SessionId, TenantId, WorkerId};
use tidewheel_engine::task::Spec;
use tidewheel_proto::v1;
use tidewheel_runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::auth::token::TokenCache;
use crate::config::ApiConfig;
use crate::live::hub::Hub;
use crate::live::runs::{self, RunWaiters};
use crate::live::sampler::Sampler;
use crate::metrics::ApiMetrics;
use crate::problem::Failure;
use crate::rest::{InFlight, Page};
use crate::service::operation::pace::Calls;
use crate::service::parts::PartsCache;
use crate::service::routing::RuleCache;
use crate::service::task_type::TypeCache;
use crate::service::worker::Returning;
use crate::store;

/// The shared state.
#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) runtime: Runtime,
    pub(crate) config: ApiConfig,
    pub(crate) tokens: TokenCache,
    pub(crate) types: TypeCache,
    pub(crate) rules: RuleCache,
    pub(crate) hub: Arc<Hub>,
    pub(crate) runs: Arc<RunWaiters>,
    pub(crate) sampler: Sampler,
    pub(crate) metrics: ApiMetrics,
    pub(crate) sessions: Sessions,
    /// Workers that open their stream anew.
    pub(crate) returning: Returning,
    pub(crate) in_flight: InFlight,
    /// What background work makes room for.
    pub(crate) calls: Calls,
    pub(crate) parts: PartsCache,
    /// Held by whoever deploys or deletes a version of a workflow.
    pub(crate) deploys: tokio::sync::Mutex<()>,
    /// Live streams that are open.
    pub(crate) streams: Arc<AtomicUsize>,
    /// Stands for "nothing special" in every submit, so that such tasks share one allocation.
    pub(crate) plain_spec: Arc<Spec>,
    pub(crate) default_queue: Name,
    pub(crate) started_ms: u64,
    /// The OpenAPI document, from the first call for it on: it takes 10 ms to make, and anybody may ask for it.
    pub(crate) openapi: OnceLock<Page>,
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
        let runs = runs::start(&runtime);
        let api = Api(Arc::new(Inner {
            started_ms: runtime.now_ms(),
            openapi: OnceLock::new(),
            tokens: TokenCache::default(),
            types: TypeCache::default(),
            rules: RuleCache::default(),
            hub,
            runs,
            sampler: Sampler::default(),
            metrics: ApiMetrics::new(&config.version),
            sessions: Sessions::default(),
            returning: Returning::default(),
            in_flight: InFlight::default(),
            calls: Calls::default(),
            parts: PartsCache::default(),
            deploys: tokio::sync::Mutex::default(),
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

/// What a session said of the packages it can run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Serves {
    /// Name of the worker.
    pub(crate) name: Name,
    /// `None` = every tenant.
    pub(crate) tenant: Option<TenantId>,
    /// Queues; empty = all.
    pub(crate) queues: Vec<Name>,
    /// It runs the code of packages at all.
    pub(crate) runs_packages: bool,
    /// Packages it has (bare hex), and those it could not fetch, with the reason.
    pub(crate) packages: HashMap<Name, Option<String>>,
}

/// Packages that are known of one session, as many as a hello may name.
const SESSION_PACKAGES: usize = 10_000;

/// Puts in what is new, up to a bound.
fn remember(
    packages: &mut HashMap<Name, Option<String>>,
    new: impl Iterator<Item = (Name, Option<String>)>,
    most: usize,
) {
    // Failures that may give way, looked for once, and only by what meets the bound.
    let mut spare: Option<Vec<Name>> = None;
    for (hash, state) in new {
        if packages.len() >= most && !packages.contains_key(&hash) {
            let failures = || packages.iter().filter(|(_, why)| why.is_some()).map(|(hash, _)| hash.clone()).collect();
            match spare.get_or_insert_with(failures).pop() {
                Some(old) => drop(packages.remove(&old)),
                None => continue,
            }
        }
        packages.insert(hash, state);
    }
}

struct Stream {
    worker: WorkerId,
    out: Out,
    offer: Offer,
    serves: Serves,
}

/// Streams of workers that are open, so that an operator's change can reach a worker at once.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<SessionId, Stream>>, Changes);

/// Rises when what some session has of packages changes, or a session comes or goes; rollouts wait for it.
struct Changes(watch::Sender<u64>);

impl Default for Changes {
    fn default() -> Self {
        Changes(watch::Sender::new(0))
    }
}

/// A session that may be asked to fetch a package.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) session: SessionId,
    pub(crate) name: Name,
    /// `None` = not yet there; else whether it is there, or why not.
    pub(crate) state: Option<Option<String>>,
}

impl Sessions {
    pub(crate) fn insert(&self, session: SessionId, worker: WorkerId, out: Out, offer: Offer, serves: Serves) {
        self.0.lock().insert(session, Stream { worker, out, offer, serves });
        self.1.0.send_modify(|n| *n += 1);
    }

    /// What a session has fetched, removed, or failed to fetch. Above the bound of a hello a failure gives way to what is
    /// newer; with none to give way, what is newer is not kept.
    pub(crate) fn packages(
        &self,
        session: SessionId,
        added: &[Name],
        removed: &[Name],
        failed: impl Iterator<Item = (Name, String)>,
    ) {
        if let Some(stream) = self.0.lock().get_mut(&session) {
            let packages = &mut stream.serves.packages;
            removed.iter().for_each(|hash| drop(packages.remove(hash)));
            let added = added.iter().map(|hash| (hash.clone(), None));
            remember(packages, added.chain(failed.map(|(hash, why)| (hash, Some(why)))), SESSION_PACKAGES);
        }
        self.1.0.send_modify(|n| *n += 1);
    }

    /// Sessions that run packages of this tenant from one of these queues, and how they stand to this one (bare hex).
    pub(crate) fn holders(&self, tenant: TenantId, queues: &[Name], hash: &str) -> Vec<Holder> {
        let serves = |s: &Serves| {
            s.runs_packages
                && s.tenant.is_none_or(|own| own == tenant)
                && (s.queues.is_empty() || s.queues.iter().any(|q| queues.contains(q)))
        };
        let all = self.0.lock();
        let found = all.iter().filter(|(_, stream)| serves(&stream.serves));
        found
            .map(|(session, stream)| Holder {
                session: *session,
                name: stream.serves.name.clone(),
                state: stream.serves.packages.get(hash).cloned(),
            })
            .collect()
    }

    /// Asks a session to fetch a package; forgets an earlier failure. A full stream misses it.
    pub(crate) fn hint(&self, session: SessionId, tenant: TenantId, hash: &str) {
        if let Some(stream) = self.0.lock().get_mut(&session) {
            if stream.serves.packages.get(hash).is_some_and(Option::is_some) {
                stream.serves.packages.remove(hash);
            }
            let hint = v1::PackageHint { packages: vec![format!("sha256:{hash}")], tenant: tenant.0 };
            let message = v1::ServerMessage { message: Some(v1::server_message::Message::PackageHint(hint)) };
            let _ = stream.out.try_send(Ok(message));
        }
    }

    /// Sees every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.1.0.subscribe()
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
        self.1.0.send_modify(|n| *n += 1);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_session_says_of_packages_is_bounded_and_failures_give_way() {
        let mut packages = HashMap::new();
        let failed = |hash: &str| (Name::from(hash), Some("no room".to_owned()));
        let added = |hash: &str| (Name::from(hash), None);
        remember(&mut packages, [added("a"), failed("b"), added("c")].into_iter(), 3);
        remember(&mut packages, [added("d"), added("e"), failed("f"), failed("a")].into_iter(), 3);
        let mut known: Vec<_> = packages.iter().map(|(hash, why)| (&**hash, why.is_some())).collect();
        known.sort_unstable();
        assert_eq!(known, [("a", true), ("c", false), ("d", false)]);
    }
}
