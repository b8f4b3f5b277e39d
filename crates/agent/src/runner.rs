//! The heart of the agent: one task that owns every attempt, lane and process and decides what happens to them.
//!
//! ```text
//!  link ---events--->  +--------+  ---Out---> link
//!  pumps --events--->  | runner |  ---frames-> processes
//!  helpers -events-->  +--------+  ---spawn--> helpers (fetch, prepare, start, upload, kill)
//! ```
//! Events come through one bounded queue; the runner never waits for any of its senders, so none can deadlock it. Everything
//! that takes time (fetching, building, starting, uploading, killing) is a helper task that answers with an event. Per
//! round it takes what is ready, handles it, hands out work, and sends what came of it in one message of each kind.

mod commands;
mod dispatch;
mod outcome;
mod processes;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tidewheel_proto::builtin;
use tidewheel_proto::v1::server_message::Message as In;
use tidewheel_proto::v1::worker_message::Message as Wire;
use tidewheel_proto::v1::{
    Artifact, Attempt as LiveAttempt, Credit, Drain, Grant, Hello, LogLine, Returned, TaskResult, Welcome,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::attempt::{AttemptId, Attempts, Phase};
use crate::blobs::Blobs;
use crate::cache::{self, Bounds, Hold};
use crate::capacity::{Appetite, Gauge};
use crate::config::{AgentConfig, Limits};
use crate::environment::Environments;
use crate::error::Fault;
use crate::inputs::Inputs;
use crate::lease::Lease;
use crate::link::{LinkEvent, LinkState, Out};
use crate::noop::{self, Builtin};
use crate::package::Packages;
use crate::process::{Spawner, Tree};
use crate::pump::Said;
use crate::rest::Rest;
use crate::sandbox::Sandbox;
use crate::shell::ShellSaid;
use crate::warm::{Home, LaneId, Pool, ProcId, Unit};

/// Deadlines, cancellations and the lease are looked at so often while there are attempts.
const TICK: Duration = Duration::from_millis(20);
/// Idle processes are looked at so often.
const SLOW_TICK: Duration = Duration::from_secs(1);
/// The cache is looked through so often, and whenever something came into it.
const PRUNE_EVERY: Duration = Duration::from_secs(60 * 60);
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// Between asking a task to stop at its deadline and killing it.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);
/// Events handled before their effects are sent.
const ROUND: usize = 256;
/// The cache is looked through after so many inputs came into it, or a part of so much of its size: each look walks through it.
const PRUNE_INPUTS: usize = 100;
const PRUNE_SHARE: u64 = 50;
/// Packages taken from one hint.
const MAX_HINTS: usize = 16;
const DEFAULT_INLINE: usize = 64 << 10;

/// Whatever happens to the runner.
pub(crate) enum Event {
    Link(LinkEvent),
    LaneReady(LaneId, u64, Result<Arc<Home>, Fault>),
    Started(ProcId, Result<(Arc<Tree>, mpsc::UnboundedSender<Bytes>), Fault>),
    Said(ProcId, Said),
    Shell(AttemptId, ShellSaid),
    Input(AttemptId, Result<Bytes, Fault>),
    /// Content of this hash and size is in the cache now.
    InputKept(String, u64),
    Stored(AttemptId, Result<String, Fault>),
    Artifact(AttemptId, Result<Artifact, Fault>),
    FolderChanged(String),
    /// A task left a daemon behind.
    Strays(ProcId),
    /// A package is ready before the first task that needs it.
    Prefetched(String),
    /// Folders that are no longer in the cache.
    Pruned(Vec<PathBuf>),
}

/// What every helper may use.
pub(crate) struct Tools {
    pub(crate) config: AgentConfig,
    pub(crate) instance: String,
    pub(crate) spawner: Spawner,
    pub(crate) sandbox: Sandbox,
    pub(crate) packages: Arc<Packages>,
    pub(crate) inputs: Inputs,
    pub(crate) environments: Option<Environments>,
    /// Why there is no Python here.
    pub(crate) no_python: Option<String>,
    pub(crate) library: PathBuf,
    #[allow(dead_code, reason = "it is held, not read")]
    pub(crate) library_hold: Option<Hold>,
    pub(crate) work: PathBuf,
    pub(crate) blobs: Blobs,
    pub(crate) rest: Rest,
}

pub(crate) struct Runner {
    pub(crate) tools: Arc<Tools>,
    pub(crate) events: mpsc::Sender<Event>,
    queue: mpsc::Receiver<Event>,
    link: mpsc::UnboundedSender<Out>,
    state: Arc<LinkState>,
    lease: Arc<Lease>,
    gauge: Gauge,
    hello: Hello,
    pub(crate) attempts: Attempts,
    pub(crate) pool: Pool,
    /// Names of tenants, where this agent serves several: what a task asks of the server is asked in its own.
    pub(crate) tenants: std::collections::HashMap<u32, Arc<str>>,
    /// Command lines: waiting ones, and what runs.
    shell_queue: std::collections::VecDeque<AttemptId>,
    shell_served: Instant,
    shells: std::collections::HashMap<AttemptId, Shell>,
    pub(crate) outgoing: Outgoing,
    appetite: Appetite,
    inline_bytes: usize,
    pub(crate) require_isolation: bool,
    draining: Option<Instant>,
    last_watch: Instant,
    /// When daemons were last searched for.
    last_search: Option<Instant>,
    /// When the cache was last looked through; nothing while somebody does.
    last_prune: Option<Instant>,
    /// Bytes and number of inputs that came into the cache since.
    unpruned: (u64, usize),
}

struct Shell {
    tree: Option<Arc<Tree>>,
    muted: Arc<std::sync::atomic::AtomicBool>,
    work: PathBuf,
}

/// What leaves at the end of a round.
#[derive(Default)]
pub(crate) struct Outgoing {
    pub(crate) results: Vec<TaskResult>,
    pub(crate) started: Vec<Bytes>,
    pub(crate) returned: Vec<Bytes>,
    pub(crate) logs: Vec<LogLine>,
    pub(crate) other: Vec<Wire>,
}

/// The ends of the runner that others hold.
pub(crate) struct Wiring {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) queue: mpsc::Receiver<Event>,
    pub(crate) link: mpsc::UnboundedSender<Out>,
    pub(crate) state: Arc<LinkState>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) gauge: Gauge,
    pub(crate) hello: Hello,
}

impl Runner {
    pub(crate) fn new(tools: Arc<Tools>, wiring: Wiring) -> Self {
        let now = Instant::now();
        let appetite = Appetite::new(tools.config.permits, tools.config.buffer, now);
        let Wiring { events, queue, link, state, lease, gauge, hello } = wiring;
        Self {
            tools,
            events,
            queue,
            link,
            state,
            lease,
            gauge,
            hello,
            attempts: Attempts::default(),
            pool: Pool::default(),
            tenants: Default::default(),
            shell_queue: Default::default(),
            shell_served: now,
            shells: Default::default(),
            outgoing: Outgoing::default(),
            appetite,
            inline_bytes: DEFAULT_INLINE,
            require_isolation: false,
            draining: None,
            last_watch: now,
            last_search: None,
            last_prune: Some(now),
            unpruned: (0, 0),
        }
    }

    /// Runs until a shutdown was asked for and everything that ran has ended, or was killed.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut round = Vec::with_capacity(ROUND);
        let mut last_tick = Instant::now();
        self.prune_cache();
        loop {
            let pause = if self.attempts.is_empty() { SLOW_TICK } else { TICK };
            let idle = self.attempts.is_empty() && self.pool.procs.is_empty();
            tokio::select! {
                _ = self.queue.recv_many(&mut round, ROUND) => {}
                () = tokio::time::sleep_until((last_tick + pause).into()), if !idle => {}
                () = shutdown.cancelled(), if self.draining.is_none() => self.begin_drain(),
            }
            let now = Instant::now();
            let tick = now.duration_since(last_tick) >= pause;
            // Before anything else: after a freeze the events that waited are not to be believed.
            if self.lease.take_lapse(now) {
                self.lose_all("the server was not reached for the length of the lease");
            }
            for event in round.drain(..) {
                self.handle(event, now);
            }
            if tick {
                last_tick = now;
                self.tick(now);
            }
            self.dispatch(now);
            self.flush(now);
            if self.draining.is_some() && self.attempts.is_empty() {
                break;
            }
        }
        self.end_all().await;
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Link(LinkEvent::Hello(reply)) => drop(reply.send(self.make_hello())),
            Event::Link(LinkEvent::Welcome(welcome)) => self.welcome(&welcome, now),
            Event::Link(LinkEvent::Message(message)) => self.message(message, now),
            Event::Link(LinkEvent::Lost) => {}
            Event::LaneReady(lane, generation, home) => self.lane_ready(lane, generation, home),
            Event::Started(proc, outcome) => self.proc_started(proc, outcome),
            Event::Said(proc, Said::Items(items)) => self.proc_said(proc, items, now),
            Event::Said(proc, Said::Exited(status)) => self.proc_exited(proc, status, now),
            Event::Shell(id, said) => self.shell_said(id, said),
            Event::Input(id, input) => self.input_came(id, input, now),
            Event::InputKept(hash, bytes) => self.input_kept(hash, bytes),
            Event::Stored(id, stored) => self.stored(id, stored),
            Event::Artifact(id, artifact) => self.artifact_came(id, artifact),
            Event::FolderChanged(name) => self.folder_changed(&name),
            Event::Strays(id) => {
                tracing::info!(proc = id, "a task left a daemon running; its process is replaced");
                self.retire(id);
            }
            Event::Prefetched(hash) => {
                self.note_packages(Some(hash), Vec::new());
                self.prune_cache();
            }
            Event::Pruned(places) => {
                self.last_prune = Some(now);
                let removed = places.iter().filter_map(|place| self.tools.packages.hash_at(place)).collect();
                self.note_packages(None, removed);
                self.inputs_gone(&places);
            }
        }
    }

    // -- the server's messages ---------------------------------------------------------------------------------------

    fn make_hello(&self) -> Hello {
        let live = |token: &Bytes| LiveAttempt { token: token.clone() };
        Hello {
            packages: self.tools.packages.cached(),
            data: self.hello.data.iter().cloned().chain(self.tools.inputs.held()).collect(),
            resume: self.attempts.tokens().map(live).collect(),
            permits: if self.draining.is_some() { 0 } else { self.hello.permits },
            buffer: if self.draining.is_some() { 0 } else { self.appetite.current() },
            ..self.hello.clone()
        }
    }

    fn welcome(&mut self, welcome: &Welcome, now: Instant) {
        if welcome.inline_bytes > 0 {
            self.inline_bytes = welcome.inline_bytes as usize;
        }
        self.require_isolation = welcome.require_isolation;
        let current: HashSet<&Bytes> = welcome.resumed.iter().collect();
        let gone: Vec<AttemptId> =
            self.attempts.iter().filter(|(_, a)| !current.contains(&a.grant.token)).map(|(id, _)| id).collect();
        // That they began may have been lost with the stream before; saying it twice does no harm.
        let began = self.attempts.iter().filter(|(_, a)| a.began.is_some() && current.contains(&a.grant.token));
        self.outgoing.started.extend(began.map(|(_, a)| a.grant.token.clone()));
        for id in gone {
            self.silence(id, now);
        }
    }

    fn message(&mut self, message: In, now: Instant) {
        match message {
            In::Grants(grants) => {
                self.tenants.extend(grants.tenants.into_iter().map(|(number, name)| (number, name.into())));
                grants_by_batch(grants.grants).into_iter().for_each(|group| self.take(group, now));
            }
            In::Cancel(cancel) => {
                if let Some(id) = self.attempts.find(&cancel.token) {
                    let grace = Duration::from_millis(cancel.grace_ms.into());
                    self.end(id, Fault::cancelled(&cancel.reason), grace, now);
                }
            }
            In::Revoke(revoke) => {
                let ids: Vec<_> = revoke.tokens.iter().filter_map(|t| self.attempts.find(t)).collect();
                ids.into_iter().for_each(|id| self.silence(id, now));
            }
            In::Recall(recall) => {
                let wanted: HashSet<AttemptId> = recall.tokens.iter().filter_map(|t| self.attempts.find(t)).collect();
                self.give_back(|id| wanted.contains(&id));
            }
            In::Drain(drain) => {
                tracing::info!(reason = %drain.reason, "the server asks this agent to finish");
                self.outgoing.other.push(Wire::Credit(Credit { permits: 0, buffer: 0 }));
                self.give_back(|_| true);
            }
            In::PackageHint(hint) => self.prefetch(hint.tenant, hint.packages),
            In::Welcome(_) | In::Ack(_) | In::LogAck(_) | In::Reconnect(_) => {}
        }
    }

    fn take(&mut self, group: Vec<Grant>, now: Instant) {
        let batch = group.first().is_some_and(|g| g.batch != 0);
        let mut members = Vec::with_capacity(group.len());
        for grant in group {
            if self.draining.is_some() {
                self.outgoing.returned.push(grant.token);
                continue;
            }
            let by_reference = !grant.input_ref.is_empty();
            let Some(id) = self.attempts.add(grant) else { continue };
            if by_reference {
                self.fetch_input(id);
            } else {
                members.push(id);
            }
        }
        // A member whose input has to be fetched runs by itself; a batch is an optimisation and no promise.
        if batch && members.len() > 1 {
            let lease = self.attempts.number();
            self.route(Unit { lease, members, batch: true }, now);
        } else {
            members.into_iter().for_each(|id| self.route(Unit { lease: id, members: vec![id], batch: false }, now));
        }
    }

    /// Decides who does it.
    fn route(&mut self, unit: Unit, now: Instant) {
        let id = unit.members[0];
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        let grant = &attempt.grant;
        if !grant.input.is_empty() && serde_json::from_slice::<&serde_json::value::RawValue>(&grant.input).is_err() {
            self.fail_all(&unit.members, &Fault::new("invalid-input", "the input is not JSON", false));
        } else if grant.r#type.starts_with(builtin::PREFIX) {
            unit.members.iter().for_each(|id| self.builtin(*id, now));
        } else if grant.entrypoint.is_empty() && builtin::COMMANDS.contains(&grant.r#type.as_str()) {
            self.shell_queue.extend(unit.members);
        } else if grant.entrypoint.is_empty() || grant.package.is_empty() {
            let why = format!("the grant of a task of type `{}` names no package to run it", grant.r#type);
            self.fail_all(&unit.members, &Fault::new("no-package", why, true));
        } else {
            self.route_python(unit, now);
        }
    }

    fn builtin(&mut self, id: AttemptId, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        match noop::run(&attempt.grant) {
            Builtin::Done(outcome) => self.settle(id, outcome),
            Builtin::Sleep(time) => {
                attempt.phase = Phase::Sleeping(now + time);
                attempt.began = Some(now);
                self.outgoing.started.push(attempt.grant.token.clone());
            }
        }
    }

    /// Fetches packages and builds their environments, one after the other. It is an optimisation: what fails here is tried
    /// again, and reported, when a task needs it.
    fn prefetch(&self, tenant: u32, packages: Vec<String>) {
        let wanted = packages.into_iter().filter(|hash| hash.starts_with("sha256:")).take(MAX_HINTS);
        let wanted: Vec<String> = wanted.collect();
        if wanted.is_empty() || self.draining.is_some() {
            return;
        }
        if self.tools.environments.is_none() {
            let why = self.tools.no_python.as_deref().unwrap_or("there is no Python here");
            wanted.into_iter().for_each(|hash| self.state.tally.failed(hash, why.to_owned()));
            return;
        }
        // What has to be isolated and cannot be is refused when a task needs it.
        let Ok(isolated) = self.tools.sandbox.decide(self.require_isolation) else { return };
        let (tools, events, tally) = (self.tools.clone(), self.events.clone(), self.state.tally.clone());
        tokio::spawn(async move {
            for hash in wanted {
                match tools.home((tenant, isolated), &hash, Bytes::new()).await {
                    Ok(_) => drop(events.send(Event::Prefetched(hash)).await),
                    Err(error) => {
                        tracing::warn!(%hash, %error, "a package could not be fetched ahead");
                        tally.failed(hash, error.to_string());
                    }
                }
            }
        });
    }

    // -- time --------------------------------------------------------------------------------------------------------

    fn tick(&mut self, now: Instant) {
        let mut late = Vec::new();
        let mut kill = Vec::new();
        let mut awake = Vec::new();
        for (id, attempt) in self.attempts.iter() {
            let limit = Duration::from_millis(attempt.grant.run_timeout_ms);
            let over = attempt.began.is_some_and(|began| now.duration_since(began) >= limit);
            if over && !limit.is_zero() && attempt.ending.is_none() {
                late.push(id);
            }
            if attempt.ending.as_ref().is_some_and(|e| !e.killed && now >= e.kill_at) {
                kill.push(id);
            }
            if matches!(attempt.phase, Phase::Sleeping(until) if now >= until) {
                awake.push(id);
            }
        }
        for id in late {
            self.end(id, Fault::new("timeout", "the time for this attempt ran out", true), DEADLINE_GRACE, now);
        }
        kill.into_iter().for_each(|id| self.kill(id));
        awake.into_iter().for_each(|id| self.settle(id, Ok(Bytes::from_static(b"null"))));
        if let Some(until) = self.draining
            && now >= until
        {
            for id in self.attempts.ids() {
                let fault = Fault::new("agent-stopped", "the agent was stopped before the task was done", true);
                self.end(id, fault, Duration::from_secs(1), now);
            }
        }
        self.retire_idle(now);
        self.recall_stalled(now);
        self.search_strays(now);
        if self.last_prune.is_some_and(|last| now.duration_since(last) >= PRUNE_EVERY) {
            self.prune_cache();
        }
        if now.duration_since(self.last_watch) >= WATCH_EVERY && !self.attempts.is_empty() {
            self.last_watch = now;
            self.watch();
        }
    }

    fn kill(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        match attempt.phase {
            Phase::Running(proc) => {
                if !self.may_kill(proc, id) {
                    return;
                }
                self.kill_proc(proc, "stopped");
            }
            Phase::Shell => {
                if let Some(tree) = self.shells.get(&id).and_then(|s| s.tree.clone()) {
                    tokio::spawn(tree.kill());
                } else {
                    return;
                }
            }
            _ => return,
        }
        if let Some(ending) = self.attempts.get_mut(id).and_then(|a| a.ending.as_mut()) {
            ending.killed = true;
        }
    }

    /// Bounds what no control group bounds.
    fn watch(&self) {
        let trees: Vec<Arc<Tree>> = (self.pool.procs.values().filter_map(|p| p.tree.clone()))
            .chain(self.shells.values().filter_map(|s| s.tree.clone()))
            .filter(|tree| tree.is_watched())
            .collect();
        if trees.is_empty() {
            return;
        }
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let table = crate::procfs::table();
            for tree in trees {
                if tree.over_limit(&table).is_some() {
                    runtime.spawn(tree.kill());
                }
            }
        });
    }

    // -- the end -----------------------------------------------------------------------------------------------------

    fn begin_drain(&mut self) {
        tracing::info!(running = self.attempts.len(), "the agent is stopping");
        self.draining = Some(Instant::now() + self.tools.config.drain);
        self.outgoing.other.push(Wire::Drain(Drain { reason: "the agent is stopping".into() }));
        self.give_back(|_| true);
    }

    async fn end_all(&mut self) {
        let trees: Vec<_> = self.pool.procs.values().filter_map(|p| p.tree.clone()).collect();
        futures::future::join_all(trees.into_iter().map(Tree::kill)).await;
        let _ = std::fs::remove_dir_all(&self.tools.work);
    }

    fn flush(&mut self, now: Instant) {
        use std::sync::atomic::Ordering::Relaxed;
        let out = std::mem::take(&mut self.outgoing);
        // A result says that its attempt had begun.
        let done: HashSet<&Bytes> = out.results.iter().map(|r| &r.token).collect();
        let started: Vec<Bytes> = out.started.into_iter().filter(|t| !done.contains(t)).collect();
        let send = |message: Out| drop(self.link.send(message));
        if !started.is_empty() {
            send(Out::Started(started));
        }
        if !out.logs.is_empty() {
            send(Out::Logs(out.logs));
        }
        if !out.results.is_empty() {
            send(Out::Results(out.results));
        }
        if !out.returned.is_empty() {
            send(Out::Other(Box::new(Wire::Returned(Returned { tokens: out.returned }))));
        }
        out.other.into_iter().for_each(|message| send(Out::Other(Box::new(message))));
        if self.draining.is_none()
            && let Some(buffer) = self.appetite.review(now)
            && self.state.connected.load(Relaxed)
        {
            send(Out::Other(Box::new(Wire::Credit(Credit { permits: self.tools.config.permits, buffer }))));
        }
        let running = self.pool.busy() + self.shells.len();
        self.gauge.running.store(running as u32, Relaxed);
        self.gauge.buffered.store(self.attempts.len().saturating_sub(running) as u32, Relaxed);
    }

    /// Looks through the cache, apart; one at a time.
    pub(crate) fn prune_cache(&mut self) {
        if self.last_prune.take().is_none() {
            return;
        }
        self.unpruned = (0, 0);
        let config = &self.tools.config;
        let bounds = Bounds { bytes: config.cache_bytes, age: config.cache_age };
        let (data_dir, events) = (config.data_dir.clone(), self.events.clone());
        tokio::spawn(async move {
            let pruned = tokio::task::spawn_blocking(move || cache::prune(&data_dir, bounds, SystemTime::now()));
            let _ = events.send(Event::Pruned(pruned.await.unwrap_or_default())).await;
        });
    }

    /// Announces an input that tasks of the same one find here.
    fn input_kept(&mut self, hash: String, bytes: u64) {
        // Each is in one of the two lists only: the server takes what is gone away before it adds what came.
        self.state.data_removed.lock().retain(|gone| *gone != hash);
        self.state.data_added.lock().push(hash);
        self.unpruned = (self.unpruned.0 + bytes, self.unpruned.1 + 1);
        if self.unpruned.0 > self.tools.config.cache_bytes / PRUNE_SHARE || self.unpruned.1 >= PRUNE_INPUTS {
            self.prune_cache();
        }
    }

    /// Takes back what was announced, unless another tenant's copy is still here, or the owner of this machine named it.
    fn inputs_gone(&self, places: &[PathBuf]) {
        let mut gone: Vec<String> = places.iter().filter_map(|place| self.tools.inputs.hash_at(place)).collect();
        if !gone.is_empty() {
            let held = self.tools.inputs.held();
            gone.retain(|hash| held.binary_search(hash).is_err() && !self.hello.data.contains(hash));
            self.state.data_added.lock().retain(|added| !gone.contains(added));
            self.state.data_removed.lock().extend(gone);
        }
    }

    pub(crate) fn note_packages(&self, added: Option<String>, removed: Vec<String>) {
        self.state.packages_added.lock().extend(added);
        self.state.packages_removed.lock().extend(removed);
    }
}

/// Grants with the same number, next to each other or not, form one group.
fn grants_by_batch(grants: Vec<Grant>) -> Vec<Vec<Grant>> {
    let mut groups: Vec<Vec<Grant>> = Vec::with_capacity(grants.len());
    let mut open: std::collections::HashMap<u32, usize> = Default::default();
    for grant in grants {
        if grant.batch == 0 {
            groups.push(vec![grant]);
        } else if let Some(at) = open.get(&grant.batch) {
            groups[*at].push(grant);
        } else {
            open.insert(grant.batch, groups.len());
            groups.push(vec![grant]);
        }
    }
    groups
}

/// The limits of a grant, where it names any.
pub(crate) fn limits_of(grant: &Grant, default: &Limits) -> Limits {
    let mut limits = default.clone();
    if let Some(wanted) = &grant.resources {
        if wanted.memory_bytes > 0 {
            limits.memory_bytes = wanted.memory_bytes;
            limits.share.memory_bytes = wanted.memory_bytes;
        }
        if wanted.cpu_millis > 0 {
            limits.cpu_millis = wanted.cpu_millis;
            limits.share.cpu_millis = wanted.cpu_millis;
        }
        if wanted.disk_bytes > 0 {
            limits.file_bytes = wanted.disk_bytes;
        }
        limits.fast_io = wanted.fast_io;
    }
    limits
}

/// Variables of the host a trusted child may see: how to reach the network and how to speak, nothing that is a secret of the agent.
const SHARED: &[&str] = &[
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "USER",
    "LOGNAME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
];

pub(crate) fn child_env(work: &Path, isolated: bool) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    let mut env: Vec<(std::ffi::OsString, std::ffi::OsString)> = vec![("HOME".into(), work.into())];
    if !isolated {
        env.extend(SHARED.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?))));
    }
    for (name, value) in [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8")] {
        if !env.iter().any(|(k, _)| k == name) {
            env.push((name.into(), value.into()));
        }
    }
    env
}

/// A folder of a process that ended; it may be large.
pub(crate) fn remove_later(dir: PathBuf) {
    tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir));
}

impl Tools {
    /// A folder for one process, writable by it.
    pub(crate) fn make_work(&self, name: &str) -> Result<PathBuf, Fault> {
        let dir = self.work.join(name);
        let made = std::fs::create_dir_all(&dir).and_then(|()| match self.spawner.run_as() {
            Some((uid, gid)) => std::os::unix::fs::chown(&dir, Some(uid), Some(gid)),
            None => Ok(()),
        });
        made.map_err(|e| Fault::new("agent", format!("cannot make {}: {e}", dir.display()), true))?;
        Ok(dir)
    }
}
