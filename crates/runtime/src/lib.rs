//! The shell around the engine: one OS thread per partition that takes commands from a mailbox, applies them, hands
//! batches to the store and performs effects after their commit.
//!
//! ```text
//!  callers ──► mailbox (bounded) ──► partition loop ──► Store::commit ──► writer thread
//!     ▲                                │   ▲  ▲                              │
//!     └── reply table ◄── effects ◄────┘   │  └───────── committed ◄─────────┘
//!                                          └── loaded ◄── reader threads
//! ```
//!
//! Never here: HTTP, gRPC, SQL, a concrete backend. What to do is decided in `engine::node`; this crate does it.

mod compute;
mod directory;
mod error;
mod mailbox;
mod metrics;
mod partition_loop;
mod reader;
mod replies;
mod run_feed;
mod sessions;
mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tidewheel_engine::command::{Hello, Submit};
use tidewheel_engine::config::Pressure;
use tidewheel_engine::effect::{Refusal, Submitted};
use tidewheel_engine::id::{Name, QueueId, RequestId, SessionId, TaskId, TenantId, TypeId};
use tidewheel_engine::partition::Options;
use tidewheel_engine::task::State;
use tidewheel_engine::time::Now;
use tidewheel_engine::view::{Answer, View};
use tidewheel_engine::{Command, Reply};
use tidewheel_store::blob::Blobs;
use tidewheel_store::log::LogStore;
use tidewheel_store::{SharedStore, Store};

/// The contract of the store, for whoever reads through [`Runtime::store`], [`Runtime::logs`] and [`Runtime::blobs`].
pub use tidewheel_store as store;

pub use directory::Directory;
pub use error::Error;
pub use metrics::Metrics;
pub use run_feed::RunChange;
pub use sessions::{Session, ToWorker};

/// How a runtime is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Engine options; the partition number is set by the runtime.
    pub options: Options,
    /// New tasks that may wait in the mailbox; beyond, callers hear `Overloaded`. As much again may wait of results and
    /// everything else. At 150,000 items/s this is about a second of work: a longer queue would only make every answer
    /// late.
    pub mailbox_items: usize,
    /// Threads that read for the engine.
    pub readers: usize,
    /// Threads that take turns of runs which need more than the loop can give.
    pub computers: usize,
    /// Secret for MACs of attempt tokens and cursors; has to survive restarts.
    pub token_key: [u8; 32],
    /// Task types that have a label of their own in metrics; the others share `other`. Each costs about 100 series per
    /// queue that it is used in.
    pub metric_types: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            options: Options::default(),
            mailbox_items: 150_000,
            readers: 2,
            computers: 2,
            token_key: [7; 32],
            metric_types: 100,
        }
    }
}

/// A committed change of a task, as live streams see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Owner.
    pub tenant: TenantId,
    /// Which.
    pub task: TaskId,
    /// Its queue.
    pub queue: QueueId,
    /// Its type.
    pub kind: TypeId,
    /// Where it is now.
    pub state: State,
    /// Grants so far.
    pub attempt: u32,
    /// Wall time of the change.
    pub at: u64,
    /// It is new.
    pub inserted: bool,
    /// Executor key of a new one, if routing gave it any.
    pub executor: Option<Name>,
}

/// A queue came nearer to its bounds, or left them; as live streams see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PressureChange {
    /// Owner.
    pub tenant: TenantId,
    /// Which.
    pub queue: Name,
    /// Stage before.
    pub from: Pressure,
    /// Stage now.
    pub to: Pressure,
    /// Tasks that wait, delayed ones included.
    pub waiting: u64,
    /// Wall time.
    pub at: u64,
}

/// What the process does when the disk fails to keep data. Called on the loop thread; is not expected to return.
pub type OnFatal = Box<dyn Fn(&str) + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) mailbox: mailbox::Mailbox,
    pub(crate) replies: replies::Replies,
    pub(crate) sessions: sessions::Sessions,
    pub(crate) directory: directory::Home,
    pub(crate) feed: tokio::sync::broadcast::Sender<Arc<Vec<Change>>>,
    pub(crate) run_feed: tokio::sync::broadcast::Sender<Arc<Vec<RunChange>>>,
    pub(crate) pressure: tokio::sync::broadcast::Sender<PressureChange>,
    /// Queues that throttle what comes, and their number, which spares the lock while there is none.
    pub(crate) throttled: (AtomicU64, parking_lot::RwLock<hashbrown::HashSet<(TenantId, Name)>>),
    pub(crate) store: SharedStore,
    pub(crate) logs: Arc<dyn LogStore>,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) metrics: Metrics,
    pub(crate) next_request: AtomicU64,
    pub(crate) next_session: AtomicU64,
    pub(crate) committed: AtomicU64,
    pub(crate) wall: AtomicU64,
    pub(crate) ready: parking_lot::Mutex<Result<(), String>>,
    pub(crate) draining: AtomicBool,
    /// No worker may come any more.
    pub(crate) closing: AtomicBool,
    pub(crate) started: Instant,
    pub(crate) on_fatal: OnFatal,
    pub(crate) threads: parking_lot::Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Shared {
    /// What the machine's clocks say.
    pub(crate) fn raw_now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Now { wall, mono: self.started.elapsed().as_millis() as u64 }
    }

    /// A queue reached another stage: the log, the figures and the live streams learn of it.
    pub(crate) fn tell_pressure(&self, change: PressureChange) {
        let directory = self.directory.current();
        let tenant = directory.tenant_by_id(change.tenant).map_or_else(String::new, |t| t.name.to_string());
        let (queue, stage, waiting) = (&*change.queue, change.to.as_str(), change.waiting);
        if change.to > change.from {
            tracing::warn!(tenant, queue, stage, waiting, "a queue comes to its bounds");
            let labels = [("tenant", tenant), ("queue", queue.to_owned()), ("stage", stage.to_owned())];
            self.metrics.alerts.get_or_create(&labels).inc();
        } else {
            tracing::info!(tenant, queue, stage, waiting, "a queue leaves its bounds");
        }
        let mut throttled = self.throttled.1.write();
        let key = (change.tenant, change.queue.clone());
        if change.to == Pressure::Throttled {
            throttled.insert(key)
        } else {
            throttled.remove(&key)
        };
        self.throttled.0.store(throttled.len() as u64, Ordering::Release);
        drop(throttled);
        // Nobody may be listening.
        let _ = self.pressure.send(change);
    }

    /// A partition that is opened anew tells of each queue that is throttled then.
    pub(crate) fn forget_throttled(&self) {
        let mut throttled = self.throttled.1.write();
        throttled.clear();
        self.throttled.0.store(0, Ordering::Release);
    }
}

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

impl Runtime {
    /// Opens the store's partition and starts the loop. Returns when it takes commands.
    pub fn start(
        config: Config,
        store: SharedStore,
        logs: Arc<dyn LogStore>,
        blobs: Arc<dyn Blobs>,
        on_fatal: OnFatal,
    ) -> Result<Runtime, Error> {
        let recovered = store.open(config.options.partition).map_err(Error::Store)?;
        let shared = Arc::new(Shared {
            mailbox: mailbox::Mailbox::new(config.mailbox_items),
            replies: replies::Replies::default(),
            sessions: sessions::Sessions::default(),
            directory: directory::Home::new(&recovered),
            feed: tokio::sync::broadcast::channel(1_024).0,
            run_feed: tokio::sync::broadcast::channel(1_024).0,
            pressure: tokio::sync::broadcast::channel(256).0,
            throttled: Default::default(),
            store,
            logs,
            blobs,
            metrics: Metrics::default(),
            next_request: AtomicU64::new(1),
            next_session: AtomicU64::new(1),
            committed: AtomicU64::new(recovered.last_index),
            wall: AtomicU64::new(recovered.wall),
            ready: parking_lot::Mutex::new(Ok(())),
            draining: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            started: Instant::now(),
            on_fatal,
            threads: parking_lot::Mutex::new(Vec::new()),
            config,
        });
        let reader = reader::Reader::start(&shared);
        let pool = compute::Pool::start(&shared);
        let for_loop = shared.clone();
        let handle = std::thread::Builder::new()
            .name("partition-0".to_owned())
            .spawn(move || partition_loop::run(&for_loop, &reader, &pool, recovered))
            .map_err(|e| Error::Unavailable(format!("the partition thread does not start: {e}")))?;
        shared.threads.lock().push(handle);
        Ok(Runtime { shared })
    }

    /// Accepts tasks; one outcome each, in order. Returns after the commit.
    pub async fn submit(&self, tenant: TenantId, items: Vec<Submit>) -> Result<Vec<Submitted>, Error> {
        if self.is_draining() {
            return Err(Error::Unavailable("the server is shutting down".to_owned()));
        }
        let reply = self.ask(|request| Command::Submit { request, tenant, items }).await?;
        match reply {
            Reply::Submitted(outcomes) => Ok(outcomes),
            Reply::Refused(refusal) => Ok(vec![Submitted::Refused(refusal)]),
            other => Err(unexpected(&other)),
        }
    }

    /// As [`Runtime::submit`], under a key for the whole: `claim` is its hash and that of the body. The inner error is the
    /// refusal of all of it: the key was used with another body.
    pub async fn submit_once(
        &self,
        tenant: TenantId,
        claim: ([u8; 16], u64),
        items: Vec<Submit>,
    ) -> Result<Result<Vec<Submitted>, Refusal>, Error> {
        if self.is_draining() {
            return Err(Error::Unavailable("the server is shutting down".to_owned()));
        }
        match self.ask(|request| Command::SubmitOnce { request, tenant, claim, items }).await? {
            Reply::Submitted(outcomes) => Ok(Ok(outcomes)),
            Reply::Refused(refusal) => Ok(Err(refusal)),
            other => Err(unexpected(&other)),
        }
    }

    /// Executes a command that has a reply.
    pub async fn call(&self, make: impl FnOnce(RequestId) -> Command) -> Result<Reply, Error> {
        self.ask(make).await
    }

    /// Looks at the engine's state; sees at least everything this caller was told before.
    pub async fn read(&self, view: View) -> Result<Answer, Error> {
        match self.ask(|request| Command::Read { request, view }).await? {
            Reply::View(answer) => Ok(answer),
            Reply::Refused(Refusal::NotFound) => Ok(Answer::NotFound),
            Reply::Refused(Refusal::Overloaded { retry_after_ms, .. }) => Err(Error::Overloaded { retry_after_ms }),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, make: impl FnOnce(RequestId) -> Command) -> Result<Reply, Error> {
        let request = RequestId(self.shared.next_request.fetch_add(1, Ordering::Relaxed));
        // The waiter is there before the command, so that no reply can come too early. It takes itself out when dropped.
        let waiter = self.shared.replies.wait(&self.shared, request);
        self.shared.mailbox.push(make(request))?;
        waiter.answer().await
    }

    /// Executes a command without a reply; refused when the mailbox is full.
    pub fn send(&self, command: Command) -> Result<(), Error> {
        self.shared.mailbox.push(command)
    }

    /// The same, but waits for room: for what has already been done and must not be refused, such as results.
    pub async fn send_wait(&self, command: Command) -> Result<(), Error> {
        self.shared.mailbox.push_wait(command).await
    }

    /// Opens a worker's session. Its events come in order; the first is `Welcome`. While the node drains, only a worker
    /// that has live attempts to report is let in.
    pub fn connect(&self, hello: Hello) -> Result<Session, Error> {
        let refused = self.is_draining() && hello.resume.is_empty();
        if refused || self.shared.closing.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("the server is shutting down".to_owned()));
        }
        let id = SessionId(self.shared.next_session.fetch_add(1, Ordering::Relaxed));
        let session = self.shared.sessions.open(id);
        self.shared.mailbox.push(Command::Connect { session: id, hello: Box::new(hello) })?;
        Ok(session)
    }

    /// Ends a session's stream. Its attempts live on until the lease ends.
    pub fn disconnect(&self, session: SessionId) {
        self.shared.sessions.close(session);
        self.shared.mailbox.push_always(Command::Disconnect { session });
    }

    /// Committed configuration.
    pub fn directory(&self) -> Arc<Directory> {
        self.shared.directory.current()
    }

    /// Committed changes of tasks. A slow receiver misses some and is told so.
    pub fn feed(&self) -> tokio::sync::broadcast::Receiver<Arc<Vec<Change>>> {
        self.shared.feed.subscribe()
    }

    /// Committed changes of runs: those of a batch together. A slow receiver misses some and is told so.
    pub fn run_feed(&self) -> tokio::sync::broadcast::Receiver<Arc<Vec<RunChange>>> {
        self.shared.run_feed.subscribe()
    }

    /// Stages that queues reach, from now on. A slow receiver misses some.
    pub fn pressure(&self) -> tokio::sync::broadcast::Receiver<PressureChange> {
        self.shared.pressure.subscribe()
    }

    /// Whether a queue takes only a part of what comes. Costs a load while none does.
    pub fn is_throttled(&self, tenant: TenantId, queue: &Name) -> bool {
        let (count, queues) = &self.shared.throttled;
        count.load(Ordering::Acquire) > 0 && queues.read().contains(&(tenant, queue.clone()))
    }

    /// The store, for its readers.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// Log lines.
    pub fn logs(&self) -> &Arc<dyn LogStore> {
        &self.shared.logs
    }

    /// Blobs.
    pub fn blobs(&self) -> &Arc<dyn Blobs> {
        &self.shared.blobs
    }

    /// Figures.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Whether new work is taken, or why not.
    pub fn is_ready(&self) -> Result<(), String> {
        if self.is_draining() {
            return Err("the server is shutting down".to_owned());
        }
        self.shared.ready.lock().clone()
    }

    /// Whether `drain` was called.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// Wall time in milliseconds, as the engine sees it: never falls.
    pub fn now_ms(&self) -> u64 {
        self.shared.raw_now().wall.max(self.shared.wall.load(Ordering::Relaxed))
    }

    /// Index of the newest commit.
    pub fn committed_index(&self) -> u64 {
        self.shared.committed.load(Ordering::Acquire)
    }

    /// Secret for MACs.
    pub fn token_key(&self) -> &[u8; 32] {
        &self.shared.config.token_key
    }

    /// How long an attempt lives without a heartbeat, in milliseconds.
    pub fn lease_ms(&self) -> u64 {
        self.shared.config.options.lease_ms
    }

    /// Takes no new work, grants nothing more, turns not ready and tells the workers. What is under way goes on: results,
    /// heartbeats and log lines are taken, and a worker with live attempts may come back.
    pub fn drain(&self) {
        if !self.shared.draining.swap(true, Ordering::Relaxed) {
            self.shared.sessions.drain();
        }
    }

    /// Ends every worker's session; none may come any more. Attempts that still run live on until their lease ends.
    pub fn close_sessions(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.sessions.close_all("the server is shutting down");
    }

    /// Finishes what is in the mailbox and stops. Blocks; call it outside async code.
    pub fn stop(&self) {
        self.drain();
        self.shared.mailbox.close();
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a runtime thread ended by a panic");
            }
        }
        self.shared.store.close();
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Unavailable(format!("the engine gave an answer of another kind: {reply:?}"))
}
