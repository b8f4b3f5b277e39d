//! Workers: who is there, what an operator changes about them.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidewheel_engine::Command;
use tidewheel_engine::effect::{Refusal, Reply};
use tidewheel_engine::id::{Name, SessionId, TenantId, WorkerId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::serve::{Length, Serves, class_name};
use tidewheel_engine::view::{Answer, View, WorkerFigures};
use tidewheel_proto::code::Code;
use tidewheel_proto::{id, rest, v1};

use super::{convert, records, spec};
use crate::auth::Principal;
use crate::grpc::package_text;
use crate::problem::{Failure, from_refusal};
use crate::state::{Api, Offer};
use crate::text::parse_hash;
use crate::units::time_text;

/// What an operator set for a worker's name, as JSON under that name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredOverride {
    #[serde(default)]
    pub(crate) permits: Option<u32>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
}

impl StoredOverride {
    /// What is taken of an offer. A worker that may run fewer than it offers holds no more than those: it would begin
    /// what lies in its buffer.
    pub(crate) fn within(&self, offer: Offer) -> Offer {
        match self.permits {
            Some(most) if most < offer.permits => Offer { permits: most, buffer: 0 },
            _ if offer.permits == 0 => Offer { permits: 0, buffer: 0 },
            _ => offer,
        }
    }

    /// Puts the labels over those that a worker says it has.
    pub(crate) fn set_labels(&self, labels: &mut Vec<(Name, Name)>) {
        for (name, value) in &self.labels {
            labels.retain(|(k, _)| **k != **name);
            labels.push((name.as_str().into(), value.as_str().into()));
        }
        labels.sort();
    }
}

/// Workers that were asked to open their stream anew, as they were then: they are shown while they do, and not as if they had
/// never been there. Each is forgotten when its new stream has come, when it said goodbye, or after a lease.
#[derive(Default)]
pub(crate) struct Returning(Mutex<HashMap<WorkerId, Away>>);

/// One of them.
struct Away {
    was: WorkerFigures,
    /// Until when it is waited for, in milliseconds of the wall clock.
    until: u64,
}

impl Returning {
    fn expect(&self, was: WorkerFigures, now: u64, lease_ms: u64) {
        let mut all = self.0.lock();
        all.retain(|_, away| now < away.until);
        all.insert(was.worker, Away { was, until: now.saturating_add(lease_ms) });
    }

    /// A stream of the worker has come.
    pub(crate) fn is_back(&self, worker: WorkerId) {
        self.0.lock().remove(&worker);
    }

    /// The worker has ended and does not come back.
    pub(crate) fn said_goodbye(&self, session: SessionId) {
        self.0.lock().retain(|_, away| away.was.session != session);
    }

    fn is_waited_for(&self, session: SessionId, now: u64) -> bool {
        self.0.lock().values().any(|away| away.was.session == session && now < away.until)
    }

    /// Adds those of a tenant (`None` = of all) that have no session at the moment.
    fn add_to(&self, workers: &mut Vec<WorkerFigures>, tenant: Option<TenantId>, now: u64) {
        let all = self.0.lock();
        let of_tenant =
            |was: &WorkerFigures| tenant.is_none() || was.hello.tenant.is_none_or(|own| Some(own) == tenant);
        let gone = all.values().filter(|away| now < away.until && of_tenant(&away.was));
        let gone: Vec<_> = gone.filter(|away| workers.iter().all(|w| w.worker != away.was.worker)).collect();
        workers.extend(gone.into_iter().map(|away| WorkerFigures { connected: false, used: 0, ..away.was.clone() }));
    }
}

/// Longest silence of a worker that is shown as online: three heartbeats.
const SILENT_HEARTBEATS: u64 = 3;

/// What a worker's state is shown as.
pub(crate) const STATES: &[&str] = &["online", "silent", "draining", RECONNECTING, "lost"];

/// State of a worker that was asked to open its stream anew.
const RECONNECTING: &str = "reconnecting";

/// Workers that the caller sees: those of its tenant, and those that serve every tenant when it has system scope.
async fn figures(api: &Api, caller: &Principal) -> Result<Vec<WorkerFigures>, Failure> {
    let tenant = if caller.system && !caller.tenant_named { None } else { Some(caller.tenant) };
    match api.runtime.read(View::Workers { tenant }).await? {
        Answer::Workers(mut workers) => {
            api.returning.add_to(&mut workers, tenant, api.runtime.now_ms());
            Ok(workers)
        }
        _ => Ok(Vec::new()),
    }
}

pub(crate) async fn list(api: &Api, caller: &Principal) -> Result<Vec<rest::Worker>, Failure> {
    let mut workers: Vec<_> = figures(api, caller).await?.iter().map(|w| shown(api, w)).collect();
    workers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(workers)
}

/// A worker by its id or its name.
pub(crate) async fn find(api: &Api, caller: &Principal, wanted: &str) -> Result<WorkerFigures, Failure> {
    let number = id::parse("work", wanted);
    let mut all = figures(api, caller).await?;
    let is_it = |w: &WorkerFigures| number == Some(u128::from(w.worker.0)) || &*w.hello.name.0 == wanted;
    // While a new stream of it takes over, its old session may still be there.
    let found = all.iter().position(|w| is_it(w) && w.connected).or_else(|| all.iter().position(is_it));
    match found {
        Some(index) => Ok(all.swap_remove(index)),
        None => Err(Failure::not_found_near("worker", wanted, all.iter().map(|w| &*w.hello.name.0))),
    }
}

/// How often a worker sends a heartbeat: four fit into a lease, so that three may be lost.
pub(crate) fn heartbeat_ms(api: &Api) -> u64 {
    (api.runtime.lease_ms() / 4).max(1)
}

/// The public text of a worker's id.
pub(crate) fn worker_text(worker: WorkerId) -> String {
    id::format("work", u128::from(worker.0))
}

pub(crate) fn shown(api: &Api, worker: &WorkerFigures) -> rest::Worker {
    let hello = &worker.hello;
    let now = api.runtime.now_ms();
    let silence = now.saturating_sub(worker.seen);
    let heartbeat = heartbeat_ms(api);
    let state = match (worker.connected, worker.draining) {
        (false, _) if api.returning.is_waited_for(worker.session, now) => RECONNECTING,
        (false, _) => "lost",
        (true, true) => "draining",
        (true, false) if silence > heartbeat * SILENT_HEARTBEATS => "silent",
        (true, false) => "online",
    };
    rest::Worker {
        id: worker_text(worker.worker),
        name: hello.name.0.to_string(),
        kind: hello.kind.0.to_string(),
        state: state.to_owned(),
        version: hello.version.0.to_string(),
        queues: hello.queues.iter().map(|q| q.to_string()).collect(),
        serves: serves(&hello.serves),
        // What its owner says that it holds. Inputs in its cache are other tenants' business, too.
        data: hello.data.iter().filter(|name| parse_hash(name).is_none()).map(|name| name.to_string()).collect(),
        labels: convert::pairs(&hello.labels),
        permits: hello.permits,
        offered_permits: api.sessions.offer(worker.session).map(|offer| offer.permits),
        used: worker.used,
        cpu: f64::from(hello.resources.cpu_millis) / 1_000.0,
        memory_bytes: hello.resources.memory_bytes,
        cpu_ratio: f64::from(worker.usage.cpu_ratio),
        memory_used_bytes: worker.usage.memory_used_bytes,
        disk_free_bytes: worker.usage.disk_free_bytes,
        clock_offset_ms: hello.clock_offset_ms,
        packages: hello.packages.iter().map(|p| package_text(p)).collect(),
        enforced: convert::pairs(&hello.enforced),
        last_seen: time_text(worker.seen),
    }
}

fn serves(given: &Serves) -> rest::Serves {
    let of = |bits: u8, name: &dyn Fn(u8) -> &'static str| {
        (0..3).filter(|n| bits & (1 << n) != 0).map(|n| name(n).to_owned()).collect()
    };
    let length = |n: u8| [Length::Short, Length::Medium, Length::Long][usize::from(n)].as_str();
    rest::Serves {
        priority: of(given.classes, &class_name),
        duration: of(given.lengths, &length),
        executor: given.executors.iter().map(|key| key.to_string()).collect(),
    }
}

/// Stops giving a worker new tasks, or starts again.
pub(crate) async fn drain(
    api: &Api,
    caller: &Principal,
    wanted: &str,
    draining: bool,
) -> Result<rest::Worker, Failure> {
    let worker = find(api, caller, wanted).await?;
    let tenant = worker.hello.tenant;
    let name = worker.hello.name.0.clone();
    let session = Some(worker.session);
    let reply = api
        .runtime
        .call(move |request| Command::DrainWorker { request: Some(request), tenant, name, session, draining })
        .await?;
    match reply {
        Reply::Refused(Refusal::NotFound) if api.returning.is_waited_for(worker.session, api.runtime.now_ms()) => {
            let detail = format!(
                "Worker {} opens its stream anew because its labels were changed. Try again in a moment.",
                worker.hello.name.0
            );
            return Err(Failure::new(Code::Conflict, detail));
        }
        Reply::Refused(refusal) => return Err(from_refusal(refusal)),
        _ => {}
    }
    find(api, caller, wanted).await.map(|w| shown(api, &w))
}

/// Changes permits and labels. Permits hold at once, and over every later offer of the worker: what it runs at once is
/// the smaller of both, so more than it offers now is refused. Labels hold after the worker's stream was opened anew, which
/// this asks the worker to do, because the engine places work by what a session said when it began.
pub(crate) async fn patch(
    api: &Api,
    caller: &Principal,
    wanted: &str,
    change: &rest::PatchWorker,
) -> Result<rest::Worker, Failure> {
    let worker = find(api, caller, wanted).await?;
    let owner = worker.hello.tenant.unwrap_or(TenantId(0));
    let name = worker.hello.name.0.clone();
    let offer = api.sessions.offer(worker.session);
    if let (Some(permits), Some(offer)) = (change.permits, offer)
        && permits > offer.permits
    {
        return Err(beyond_offer(&name, permits, offer));
    }
    let mut stored = overrides(api, owner, &name);
    if let Some(permits) = change.permits {
        stored.permits = Some(permits);
    }
    let before = std::mem::take(&mut stored.labels);
    stored.labels = match &change.labels {
        Some(labels) => {
            spec::labels(labels)?;
            labels.clone()
        }
        None => before.clone(),
    };
    records::put(api, RecordKind::WorkerOverride, owner, &name, &stored, None).await?.map_err(from_refusal)?;
    // A worker that is away gets its permits when it comes back.
    if let (Some(_), Some(offer)) = (change.permits, offer) {
        let Offer { permits, buffer } = stored.within(offer);
        api.runtime.send_wait(Command::Capacity { session: worker.session, permits, buffer }).await?;
    }
    if change.labels.is_some() {
        let reconnect =
            v1::Reconnect { address: String::new(), reason: "labels were changed by an operator".to_owned() };
        let message = v1::ServerMessage { message: Some(v1::server_message::Message::Reconnect(reconnect)) };
        let mut was = worker.clone();
        was.hello.labels.retain(|(name, _)| !before.contains_key(&**name));
        stored.set_labels(&mut was.hello.labels);
        api.returning.expect(was, api.runtime.now_ms(), api.runtime.lease_ms());
        api.sessions.tell(worker.worker, &message);
    }
    find(api, caller, wanted).await.map(|w| shown(api, &w))
}

fn beyond_offer(name: &str, permits: u32, offer: Offer) -> Failure {
    let offered = offer.permits;
    let detail = format!(
        "{permits} permits are more than worker {name} offers, which is {offered}; permits can be lowered here and raised \
         again up to that. To have it offer more, start it with a larger capacity (tidewheel agent --capacity {permits})"
    );
    let mut failure = Failure::field("/permits", detail);
    failure.0.status = 422;
    failure
}

/// What an operator set for this name.
pub(crate) fn overrides(api: &Api, tenant: TenantId, name: &Name) -> StoredOverride {
    let record = api.runtime.directory().record(RecordKind::WorkerOverride, tenant, name);
    record.and_then(|r| serde_json::from_str(&r.value).ok()).unwrap_or_default()
}
