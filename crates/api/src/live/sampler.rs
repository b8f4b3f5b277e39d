//! Samples of a tenant's queues and workers, shared by all streams that show them: however many look, the engine is
//! asked at most four times a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidewheel_engine::id::TenantId;

use crate::auth::Principal;
use crate::problem::Failure;
use crate::service::{queue, worker};
use crate::state::Api;

/// What is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    Queues,
    Workers,
}

/// Age up to which a sample is given out again. Streams look every 300 ms or slower, so each tick asks once.
const FRESH: Duration = Duration::from_millis(250);

type Key = (Topic, TenantId, bool);

/// The newest sample of each topic and tenant, as JSON text.
#[derive(Default)]
pub(crate) struct Sampler(Mutex<HashMap<Key, (Instant, Arc<str>)>>);

/// The topic's JSON text.
pub(crate) async fn sample(api: &Api, caller: &Principal, topic: Topic) -> Result<Arc<str>, Failure> {
    // Callers with system scope see workers of every tenant.
    let key = (topic, caller.tenant, caller.system && !caller.tenant_named);
    if let Some((at, text)) = api.sampler.0.lock().get(&key)
        && at.elapsed() < FRESH
    {
        return Ok(text.clone());
    }
    let text = match topic {
        Topic::Queues => serde_json::to_string(&queue::all_stats(api, caller).await?),
        Topic::Workers => serde_json::to_string(&worker::list(api, caller).await?),
    };
    let text: Arc<str> = text.map_err(|_| Failure::internal("a sample does not serialise"))?.into();
    let mut samples = api.sampler.0.lock();
    samples.retain(|_, (at, _)| at.elapsed() < FRESH * 40);
    samples.insert(key, (Instant::now(), text.clone()));
    Ok(text)
}
