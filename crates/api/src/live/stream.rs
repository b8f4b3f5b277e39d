//! Streams of server-sent events. Each is a state machine that is polled by its connection: no task of its own, no
//! buffer but the events of one tick. It ends when its token is revoked, when the server drains, or when there is
//! nothing more to say (then its last event is `end`).

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use tidewheel_engine::id::{Name, QueueId, RunId, TaskId};
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::serve::PLAIN_EXECUTOR;
use tidewheel_engine::task::State;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;
use tidewheel_runtime::{Change, Directory, PressureChange};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::TryRecvError;

use super::hub::{Since, TaskWatch};
use super::runs::RunWatch;
use super::sampler::{Topic, sample};
use super::waiters::Seen;
use crate::auth::Principal;
use crate::problem::Failure;
use crate::service::logs::{self, LinesRequest};
use crate::service::{get_task, operation as operations, run as run_service};
use crate::state::Api;
use crate::text::{run_text, task_text};
use crate::units::time_text;

/// Time over which changes are folded: three times a second is smooth for people and cheap for the server.
const TICK: Duration = Duration::from_millis(300);
/// Workers change slowly.
const WORKERS_EVERY: Duration = Duration::from_secs(2);
/// How often a stream asks whether its token still stands.
const TOKEN_EVERY: Duration = Duration::from_secs(2);
/// A comment keeps proxies from closing a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Tasks told in one event; above, the client loads its list anew.
const MAX_FOLDED: usize = 500;
/// How long a follower of logs stays after the task's end: lines may come later than the result.
const LOG_GRACE: Duration = Duration::from_secs(2);
/// A follower looks for lines at least so often, should a signal be missed.
const LOG_POLL: Duration = Duration::from_secs(1);

type Item = Result<Event, Infallible>;
pub(crate) type Events = Sse<axum::response::sse::KeepAliveStream<std::pin::Pin<Box<dyn Stream<Item = Item> + Send>>>>;

/// The `Last-Event-ID` of a client that comes back.
pub(crate) struct LastEvent(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for LastEvent {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let value = parts.headers.get("last-event-id").and_then(|v| v.to_str().ok());
        Ok(LastEvent(value.map(str::to_owned)))
    }
}

impl LastEvent {
    /// A row of the log.
    pub(crate) fn row(&self) -> Option<u64> {
        self.0.as_deref()?.parse().ok()
    }

    /// A position of this process's hub; `Some(None)` when the id is of another process.
    fn position(&self, boot: u64) -> Option<Option<u64>> {
        let text = self.0.as_deref()?;
        let own = text.split_once('-').filter(|(b, _)| b.parse() == Ok(boot)).and_then(|(_, p)| p.parse().ok());
        Some(own)
    }
}

/// What a client wants to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topics {
    tasks: bool,
    queued: bool,
    queues: bool,
    workers: bool,
}

impl Topics {
    pub(crate) fn parse(text: &str) -> Result<Topics, Failure> {
        let mut out = Topics::default();
        for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match name {
                "tasks" => out.tasks = true,
                "queued" => out.queued = true,
                "queues" => out.queues = true,
                "workers" => out.workers = true,
                _ => return Err(Failure::query("topics", "topics are tasks, queued, queues and workers")),
            }
        }
        if out == Topics::default() {
            return Err(Failure::query("topics", "at least one topic is needed"));
        }
        Ok(out)
    }
}

/// Counts an open stream; the count falls when it is dropped.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(api: &Api) -> Result<Slot, Failure> {
        let open = api.streams.fetch_add(1, Ordering::AcqRel);
        let slot = Slot(api.streams.clone());
        if open >= api.config.max_streams {
            return Err(Failure::new(Code::Overloaded, "Too many live streams are open."));
        }
        Ok(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What every stream has.
struct Base {
    api: Api,
    caller: Principal,
    pending: VecDeque<Event>,
    token_checked: Instant,
    over: bool,
    _slot: Slot,
}

impl Base {
    fn new(api: &Api, caller: &Principal) -> Result<Base, Failure> {
        Ok(Base {
            _slot: Slot::take(api)?,
            api: api.clone(),
            caller: caller.clone(),
            pending: VecDeque::new(),
            token_checked: Instant::now(),
            over: false,
        })
    }

    /// Whether to go on; asked once per tick.
    fn may_go_on(&mut self) -> bool {
        if self.api.runtime.is_draining() {
            return false;
        }
        if self.token_checked.elapsed() >= TOKEN_EVERY {
            self.token_checked = Instant::now();
            return self.caller.is_valid(&self.api);
        }
        true
    }

    fn push(&mut self, name: &str, id: Option<String>, data: &str) {
        let mut event = Event::default().event(name);
        if let Some(id) = id {
            event = event.id(id);
        }
        self.pending.push_back(event.data(data));
    }

    fn push_json<T: serde::Serialize>(&mut self, name: &str, id: Option<String>, value: &T) {
        // Wire types always serialise.
        let data = serde_json::to_string(value).unwrap_or_default();
        self.push(name, id, &data);
    }

    fn end(&mut self, why: &str) {
        self.push("end", None, &serde_json::json!({ "reason": why }).to_string());
        self.over = true;
    }
}

/// A source of events: waits, then fills the base's pending events.
trait Source: Send + 'static {
    fn base(&mut self) -> &mut Base;
    fn step(&mut self) -> impl Future<Output = ()> + Send;
}

fn events<S: Source>(source: S) -> Events {
    let stream = futures::stream::unfold(source, |mut source| async move {
        loop {
            if let Some(event) = source.base().pending.pop_front() {
                return Some((Ok(event), source));
            }
            if source.base().over {
                return None;
            }
            if source.base().may_go_on() {
                source.step().await;
            } else {
                source.base().end("the server is draining or the token no longer stands");
            }
        }
    });
    let boxed: std::pin::Pin<Box<dyn Stream<Item = Item> + Send>> = Box::pin(stream);
    Sse::new(boxed).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

/// Everything live of a tenant.
pub(crate) fn everything(api: &Api, caller: &Principal, topics: Topics, last: &LastEvent) -> Result<Events, Failure> {
    let mut base = Base::new(api, caller)?;
    let position = match last.position(api.hub.boot) {
        None => api.hub.position(),
        Some(Some(position)) => position,
        Some(None) => {
            base.push("resync", Some(format!("{}-{}", api.hub.boot, api.hub.position())), "{}");
            api.hub.position()
        }
    };
    let pressure = api.runtime.pressure();
    Ok(events(Everything { base, topics, position, pressure, queues: None, workers: None, workers_at: None }))
}

struct Everything {
    base: Base,
    topics: Topics,
    position: u64,
    pressure: tokio::sync::broadcast::Receiver<PressureChange>,
    queues: Option<Arc<str>>,
    workers: Option<Arc<str>>,
    workers_at: Option<Instant>,
}

impl Source for Everything {
    fn base(&mut self) -> &mut Base {
        &mut self.base
    }

    async fn step(&mut self) {
        if self.topics.queues || self.topics.workers {
            tokio::time::sleep(TICK).await;
        } else {
            // Only tasks: sleep until one changes, then fold what follows within a tick.
            let mut newest = self.base.api.hub.subscribe();
            let position = self.position;
            // The guard that comes back must not live across the next wait.
            let changed = tokio::time::timeout(TOKEN_EVERY, newest.wait_for(|next| *next > position)).await.is_ok();
            if changed {
                tokio::time::sleep(TICK).await;
            }
        }
        if self.topics.tasks || self.topics.queued {
            self.tasks();
        }
        if self.topics.queues {
            self.pressure();
        }
        if self.topics.queues
            && let Ok(text) = sample(&self.base.api, &self.base.caller, Topic::Queues).await
            && self.queues.as_ref() != Some(&text)
        {
            self.base.push("queues", None, &text);
            self.queues = Some(text);
        }
        if self.topics.workers && self.workers_at.is_none_or(|at| at.elapsed() >= WORKERS_EVERY) {
            self.workers_at = Some(Instant::now());
            if let Ok(text) = sample(&self.base.api, &self.base.caller, Topic::Workers).await
                && self.workers.as_ref() != Some(&text)
            {
                self.base.push("workers", None, &text);
                self.workers = Some(text);
            }
        }
    }
}

impl Everything {
    /// Stages of overload that queues reached since the last tick. What was missed shows in the figures.
    fn pressure(&mut self) {
        while let Ok(change) = self.pressure.try_recv().or_else(|error| match error {
            TryRecvError::Lagged(_) => self.pressure.try_recv(),
            other => Err(other),
        }) {
            if change.tenant == self.base.caller.tenant {
                let shown = rest::QueuePressure {
                    queue: change.queue.to_string(),
                    from: change.from.as_str().to_owned(),
                    to: change.to.as_str().to_owned(),
                    waiting: change.waiting,
                    at: time_text(change.at),
                };
                self.base.push_json("pressure", None, &shown);
            }
        }
    }

    /// The newest change of each task since the last tick, and each task that came.
    fn tasks(&mut self) {
        let hub = self.base.api.hub.clone();
        let (batches, next) = match hub.since(self.position) {
            Since::Gap(next) => {
                self.position = next;
                self.base.push("resync", Some(format!("{}-{next}", hub.boot)), "{}");
                return;
            }
            Since::Changes(batches, next) => (batches, next),
        };
        if self.topics.queued {
            self.queued(&batches, next);
        }
        if !self.topics.tasks {
            self.position = next;
            return;
        }
        let mut folded: HashMap<TaskId, &Change> = HashMap::new();
        'all: for (first, batch) in &batches {
            let skip = usize::try_from(self.position.saturating_sub(*first)).unwrap_or(0);
            for change in batch.iter().skip(skip).filter(|c| c.tenant == self.base.caller.tenant) {
                folded.insert(change.task, change);
                if folded.len() > MAX_FOLDED {
                    break 'all;
                }
            }
        }
        self.position = next;
        let id = Some(format!("{}-{next}", hub.boot));
        if folded.len() > MAX_FOLDED {
            self.base.push("resync", id, "{}");
        } else if !folded.is_empty() {
            let directory = self.base.api.runtime.directory();
            let mut changes: Vec<_> = folded.into_values().map(|c| shown(&directory, c)).collect();
            changes.sort_by(|a, b| a.id.cmp(&b.id));
            self.base.push_json("tasks", id, &changes);
        }
    }
}

impl Everything {
    /// One event for each task that was accepted since the last tick: these are not folded.
    fn queued(&mut self, batches: &[(u64, Arc<Vec<Change>>)], next: u64) {
        let boot = self.base.api.hub.boot;
        let directory = self.base.api.runtime.directory();
        for (first, batch) in batches {
            let skip = usize::try_from(self.position.saturating_sub(*first)).unwrap_or(0);
            for (index, change) in batch.iter().enumerate().skip(skip) {
                if change.inserted && change.tenant == self.base.caller.tenant {
                    // Who comes back after this event goes on behind it. With other topics, whose events follow, the
                    // whole tick is told again.
                    let position = if self.topics.tasks { self.position } else { first + index as u64 + 1 };
                    let event = queued(&directory, change.queue, change.executor.as_ref(), change.task);
                    self.base.push_json(QUEUED, Some(format!("{boot}-{}", position.min(next))), &event);
                }
            }
        }
    }
}

/// The event that tells of an accepted task.
const QUEUED: &str = "task.queued";

fn queued(directory: &Directory, queue: QueueId, executor: Option<&Name>, task: TaskId) -> rest::TaskQueued {
    rest::TaskQueued {
        executor_key: executor.map_or(PLAIN_EXECUTOR, |key| key).to_owned(),
        queue_name: directory.queue_by_id(queue).map(|q| q.name.to_string()).unwrap_or_default(),
        task_instance_id: task_text(task),
    }
}

fn shown(directory: &Directory, change: &Change) -> rest::TaskChange {
    rest::TaskChange {
        id: task_text(change.task),
        state: change.state.as_str().to_owned(),
        kind: directory.type_name(change.kind).map(|n| n.to_string()).unwrap_or_default(),
        queue: directory.queue_by_id(change.queue).map(|q| q.name.to_string()).unwrap_or_default(),
        attempt: change.attempt,
        at: time_text(change.at),
    }
}

/// The changes of one task: that it was queued, its state now, then each change, then `end`.
pub(crate) fn task(api: &Api, caller: &Principal, task: TaskId) -> Result<Events, Failure> {
    let base = Base::new(api, caller)?;
    Ok(events(OneTask { base, watch: api.hub.watch(task), task, told: None }))
}

struct OneTask {
    base: Base,
    watch: TaskWatch,
    task: TaskId,
    told: Option<(State, u32)>,
}

impl Source for OneTask {
    fn base(&mut self) -> &mut Base {
        &mut self.base
    }

    async fn step(&mut self) {
        let seen = match self.told {
            // The first look comes from the store; the watch is already registered.
            None => Seen::Resync,
            Some(_) => match tokio::time::timeout(TOKEN_EVERY, self.watch.next()).await {
                Ok(seen) => seen,
                Err(_) => return,
            },
        };
        let (change, state) = match seen {
            Seen::Change(change) => (shown(&self.base.api.runtime.directory(), &change), change.state),
            Seen::Resync => match get_task::record(&self.base.api, &self.base.caller, self.task).await {
                Err(failure) => return self.base.end(&failure.0.detail),
                Ok(task) => {
                    let change = Change {
                        tenant: task.tenant,
                        task: task.id,
                        queue: task.queue,
                        kind: task.kind,
                        state: task.state,
                        attempt: task.attempt,
                        at: task.changed,
                        inserted: false,
                        executor: None,
                    };
                    let directory = self.base.api.runtime.directory();
                    if self.told.is_none() {
                        let event = queued(&directory, task.queue, task.spec.executor.as_ref(), task.id);
                        self.base.push_json(QUEUED, None, &event);
                    }
                    (shown(&directory, &change), task.state)
                }
            },
        };
        let now = (state, change.attempt);
        if self.told != Some(now) {
            self.told = Some(now);
            self.base.push_json("state", None, &change);
        }
        if state.is_terminal() {
            self.base.end("the task has ended");
        }
    }
}

/// The lines of a task as they come.
pub(crate) fn follow_logs(
    api: &Api,
    caller: &Principal,
    task: TaskId,
    wanted: LinesRequest,
) -> Result<Events, Failure> {
    let base = Base::new(api, caller)?;
    let arrived = api.hub.watch_logs(task);
    Ok(events(Logs { base, task, wanted, arrived, ended: None }))
}

struct Logs {
    base: Base,
    task: TaskId,
    wanted: LinesRequest,
    arrived: Arc<Notify>,
    ended: Option<Instant>,
}

impl Source for Logs {
    fn base(&mut self) -> &mut Base {
        &mut self.base
    }

    async fn step(&mut self) {
        let arrived = self.arrived.clone();
        let signal = arrived.notified();
        tokio::pin!(signal);
        // Registered before the read, so that lines stored during it are not waited for in vain.
        signal.as_mut().enable();
        let rows = match logs::of_task(&self.base.api, &self.base.caller, self.task, &self.wanted).await {
            Ok((rows, _)) => rows,
            Err(failure) => return self.base.end(&failure.0.detail),
        };
        // The tail is of the lines that were there at the beginning.
        if self.wanted.tail.take().is_some() && rows.is_empty() {
            self.wanted.after = Some(0);
        }
        for (row, line) in &rows {
            self.wanted.after = Some(*row);
            self.base.push_json("line", Some(row.to_string()), &logs::shown(*row, line));
        }
        if !rows.is_empty() {
            return;
        }
        if self.ended.is_some_and(|at| at.elapsed() >= LOG_GRACE) {
            return self.base.end("the task has ended");
        }
        if self.ended.is_none() {
            match get_task::record(&self.base.api, &self.base.caller, self.task).await {
                Ok(task) if task.state.is_terminal() => self.ended = Some(Instant::now()),
                Ok(_) => {}
                Err(failure) => return self.base.end(&failure.0.detail),
            }
        }
        let _ = tokio::time::timeout(LOG_POLL, signal).await;
    }
}

/// The changes of one run: as it is now, then each change, then `end`.
pub(crate) fn run(api: &Api, caller: &Principal, run: RunId) -> Result<Events, Failure> {
    let base = Base::new(api, caller)?;
    Ok(events(OneRun { base, watch: api.runs.watch(run), run, phase: None, told: None }))
}

struct OneRun {
    base: Base,
    watch: RunWatch,
    run: RunId,
    phase: Option<Phase>,
    told: Option<rest::RunChange>,
}

impl Source for OneRun {
    fn base(&mut self) -> &mut Base {
        &mut self.base
    }

    async fn step(&mut self) {
        let seen = match self.told {
            // The first look comes from the engine; the watch is already registered.
            None => Seen::Resync,
            Some(_) => match tokio::time::timeout(TOKEN_EVERY, self.watch.next()).await {
                Ok(seen) => seen,
                Err(_) => return,
            },
        };
        let id = run_text(self.run);
        let (phase, turn, at) = match seen {
            Seen::Change(change) => {
                let Some(phase) = change.phase.or(self.phase) else { return };
                (phase, change.turn, change.at)
            }
            Seen::Resync => match run_service::head(&self.base.api, &self.base.caller, self.run).await {
                Err(failure) => return self.base.end(&failure.0.detail),
                Ok(head) => {
                    let at = if head.ended_ms > 0 { head.ended_ms } else { self.base.api.runtime.now_ms() };
                    (head.phase, head.turns, at)
                }
            },
        };
        self.phase = Some(phase);
        let name = run_service::phase_name(phase).to_owned();
        // A look may have been ahead of the feed.
        if self.told.as_ref().is_none_or(|told| turn > told.turn || told.phase != name && turn == told.turn) {
            let change = rest::RunChange { id, phase: name, turn, at: time_text(at) };
            self.base.push_json("run", None, &change);
            self.told = Some(change);
        }
        if phase.ended() {
            self.base.end("the run has ended");
        }
    }
}

/// The progress of an operation.
pub(crate) fn operation(api: &Api, caller: &Principal, id: String) -> Result<Events, Failure> {
    let base = Base::new(api, caller)?;
    Ok(events(OneOperation { base, id, told: None }))
}

struct OneOperation {
    base: Base,
    id: String,
    told: Option<String>,
}

impl Source for OneOperation {
    fn base(&mut self) -> &mut Base {
        &mut self.base
    }

    async fn step(&mut self) {
        if self.told.is_some() {
            tokio::time::sleep(TICK).await;
        }
        let operation = match operations::get(&self.base.api, &self.base.caller, &self.id) {
            Ok(operation) => operation,
            Err(failure) => return self.base.end(&failure.0.detail),
        };
        let text = serde_json::to_string(&operation).unwrap_or_default();
        if self.told.as_ref() != Some(&text) {
            self.base.push("operation", None, &text);
            self.told = Some(text);
        }
        if operation.state != "running" {
            self.base.end("the operation has ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_stream_goes_on_only_in_the_same_process() {
        assert_eq!(LastEvent(None).position(7), None);
        assert_eq!(LastEvent(Some("7-42".to_owned())).position(7), Some(Some(42)));
        assert_eq!(LastEvent(Some("8-42".to_owned())).position(7), Some(None));
        assert_eq!(LastEvent(Some("nonsense".to_owned())).position(7), Some(None));
    }

    #[test]
    fn topics_are_a_closed_list() {
        assert!(Topics::parse("tasks, queues").is_ok());
        assert!(Topics::parse("").is_err());
        assert!(Topics::parse("tasks,secrets").is_err());
    }
}
