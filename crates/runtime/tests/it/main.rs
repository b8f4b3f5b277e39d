//! The runtime over a store in memory that fails when it is told to.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tidewheel_engine::command::{Hello, Submit};
use tidewheel_engine::config::{QueueConfig, RetryPolicy, TenantConfig};
use tidewheel_engine::effect::{Refusal, Submitted};
use tidewheel_engine::id::{RunId, TaskId, TenantId};
use tidewheel_engine::load::{Load, Loaded, StoredRun};
use tidewheel_engine::mutation::{AttemptRecord, Batch, Recovered};
use tidewheel_engine::run::journal::Segment;
use tidewheel_engine::task::{Failure, Outcome, Payload, Spec, State, Task};
use tidewheel_engine::view::{Answer, View};
use tidewheel_engine::{Command, Reply};
use tidewheel_runtime::{Config, Error, Runtime, Session, ToWorker};
use tidewheel_store::blob::{BlobFigures, Blobs, Pending};
use tidewheel_store::log::{Line, LogPage, LogQuery, LogStore};
use tidewheel_store::memory::MemoryStore;
use tidewheel_store::{Committed, Figures, RunPage, RunQuery, Store, TaskPage, TaskQuery};

const TENANT: TenantId = TenantId(1);

/// Fails the commits with these indexes: bit 0 of the mode = it landed all the same.
struct Flaky {
    inner: Arc<MemoryStore>,
    fail_at: AtomicU64,
    lands: bool,
}

impl Store for Flaky {
    fn open(&self, partition: u32) -> Result<Recovered, tidewheel_store::Error> {
        self.inner.open(partition)
    }
    fn commit(&self, batch: Batch, done: Committed) {
        let fail = batch.index == self.fail_at.load(Ordering::SeqCst);
        if !fail {
            return self.inner.commit(batch, done);
        }
        self.fail_at.store(u64::MAX, Ordering::SeqCst);
        if self.lands {
            self.inner.commit(batch, Box::new(|_| {}));
        }
        done(Err(tidewheel_store::Error::Failed("told to".to_owned())));
    }
    fn load(&self, partition: u32, load: &Load) -> Result<(u64, Loaded), tidewheel_store::Error> {
        self.inner.load(partition, load)
    }
    fn may_know(&self, tenant: TenantId, hash: &[u8; 16]) -> bool {
        self.inner.may_know(tenant, hash)
    }
    fn task(&self, tenant: TenantId, id: TaskId) -> Result<Option<Task>, tidewheel_store::Error> {
        self.inner.task(tenant, id)
    }
    fn tasks(&self, query: &TaskQuery) -> Result<TaskPage, tidewheel_store::Error> {
        self.inner.tasks(query)
    }
    fn attempts(&self, tenant: TenantId, id: TaskId) -> Result<Vec<AttemptRecord>, tidewheel_store::Error> {
        self.inner.attempts(tenant, id)
    }
    fn sweep(&self, now: u64, finished_before: u64, limit: usize) -> Result<u64, tidewheel_store::Error> {
        self.inner.sweep(now, finished_before, limit)
    }
    fn run(&self, tenant: TenantId, run: RunId) -> Result<Option<Box<StoredRun>>, tidewheel_store::Error> {
        self.inner.run(tenant, run)
    }
    fn turns(
        &self,
        tenant: TenantId,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Segment>, tidewheel_store::Error> {
        self.inner.turns(tenant, run, after, limit)
    }
    fn runs(&self, query: &RunQuery) -> Result<RunPage, tidewheel_store::Error> {
        self.inner.runs(query)
    }
    fn value(&self, tenant: TenantId, hash: &[u8; 32]) -> Result<Option<Bytes>, tidewheel_store::Error> {
        self.inner.value(tenant, hash)
    }
    fn run_counts(
        &self,
        tenant: tidewheel_engine::id::TenantId,
        at_most: u64,
    ) -> Result<Vec<(tidewheel_engine::run::head::Phase, u64)>, tidewheel_store::Error> {
        self.inner.run_counts(tenant, at_most)
    }

    fn sweep_runs(&self, ended_before: u64, limit: usize) -> Result<u64, tidewheel_store::Error> {
        self.inner.sweep_runs(ended_before, limit)
    }
    fn backup(&self, path: &Path) -> Result<(), tidewheel_store::Error> {
        self.inner.backup(path)
    }
    fn figures(&self) -> Figures {
        self.inner.figures()
    }
    fn close(&self) {
        self.inner.close();
    }
}

struct NoLogs;
impl LogStore for NoLogs {
    fn append(&self, _: Vec<Line>) -> Result<(), tidewheel_store::Error> {
        Ok(())
    }
    fn query(&self, _: &LogQuery) -> Result<LogPage, tidewheel_store::Error> {
        Ok(Vec::new())
    }
    fn sweep(&self, _: u64, _: usize) -> Result<u64, tidewheel_store::Error> {
        Ok(0)
    }
    fn backup(&self, _: &Path) -> Result<(), tidewheel_store::Error> {
        Ok(())
    }
}

struct NoBlobs;
impl Blobs for NoBlobs {
    fn put(&self, _: u32, _: Bytes) -> Pending<'_, [u8; 32]> {
        Box::pin(async { Err(tidewheel_store::Error::Closed) })
    }
    fn put_file<'a>(&'a self, _: u32, _: &'a Path) -> Pending<'a, ([u8; 32], u64)> {
        Box::pin(async { Err(tidewheel_store::Error::Closed) })
    }
    fn size(&self, _: u32, _: [u8; 32]) -> Pending<'_, Option<u64>> {
        Box::pin(async { Ok(None) })
    }
    fn read(&self, _: u32, _: [u8; 32], _: u64, _: u64) -> Pending<'_, Bytes> {
        Box::pin(async { Err(tidewheel_store::Error::Closed) })
    }
    fn old(&self, _: u32, _: std::time::Duration) -> Pending<'_, Vec<[u8; 32]>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn remove(&self, _: u32, _: [u8; 32], _: std::time::Duration) -> Pending<'_, bool> {
        Box::pin(async { Ok(false) })
    }
    fn count(&self, _: u32) -> Pending<'_, u64> {
        Box::pin(async { Ok(0) })
    }
    fn figures(&self) -> BlobFigures {
        BlobFigures::default()
    }
}

fn start(store: Arc<dyn Store>) -> Runtime {
    let fatal = Box::new(|text: &str| panic!("{text}"));
    // A short lease, so that attempts lost with a failed commit are granted again soon.
    let mut config = Config::default();
    config.options.lease_ms = 100;
    Runtime::start(config, store, Arc::new(NoLogs), Arc::new(NoBlobs), fatal).expect("it starts")
}

async fn prepared(store: Arc<dyn Store>) -> Runtime {
    let runtime = start(store);
    runtime
        .call(|request| Command::PutTenant {
            request,
            name: "acme".into(),
            config: TenantConfig::default(),
            expected: None,
        })
        .await
        .expect("a tenant");
    runtime
        .call(|request| Command::PutQueue {
            request,
            tenant: TENANT,
            name: "default".into(),
            config: Some(Box::new(QueueConfig::default())),
            state: None,
            expected: None,
        })
        .await
        .expect("a queue");
    runtime
}

fn item(key: Option<u64>) -> Submit {
    let hash = |n: u64| {
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&n.to_le_bytes());
        (hash, n)
    };
    Submit {
        kind: "noop".into(),
        queue: "default".into(),
        priority: 5,
        run_at: 0,
        delay_ms: 0,
        input: Payload::Inline(Bytes::from_static(b"{}")),
        spec: Arc::new(Spec::default()),
        idempotency: key.map(hash),
    }
}

fn worker(runtime: &Runtime) -> Session {
    let hello = Hello { tenant: Some(TENANT), name: "w".into(), permits: 10, ..Hello::default() };
    runtime.connect(hello).expect("a session")
}

/// Runs every grant until `total` results are accepted; comes back after each reload.
async fn work(runtime: Runtime, total: u32) {
    let mut session = worker(&runtime);
    let mut accepted = 0;
    while accepted < total {
        match session.events.recv().await {
            Some(ToWorker::Grants(grants)) => {
                let ok = || Outcome::Ok { result: Payload::None, artifacts: Vec::new() };
                let results = grants.iter().map(|g| (g.task, g.token, ok())).collect();
                let _ = runtime.send_wait(Command::Results { session: session.id, results }).await;
            }
            Some(ToWorker::Accepted { count, refused }) => accepted += count - refused.len() as u32,
            Some(ToWorker::Close { .. }) | None => session = worker(&runtime),
            Some(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_submitted_task_is_granted_and_completed() {
    let store = MemoryStore::new();
    let runtime = prepared(store.clone()).await;
    let worker = tokio::spawn(work(runtime.clone(), 500));
    let outcomes = runtime.submit(TENANT, (0..500).map(|i| item(Some(i))).collect()).await.expect("accepted");
    worker.await.expect("the worker ends");
    for outcome in outcomes {
        let Submitted::New(id) = outcome else { panic!("{outcome:?}") };
        let task = store.task(TENANT, id).expect("a read").expect("it is stored");
        assert_eq!(task.state, State::Succeeded);
    }
    tokio::task::spawn_blocking(move || runtime.stop()).await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_gives_the_same_task_and_another_body_is_refused() {
    let runtime = prepared(MemoryStore::new()).await;
    let first = runtime.submit(TENANT, vec![item(Some(7))]).await.expect("accepted");
    let Submitted::New(id) = first[0] else { panic!("{first:?}") };
    let again = runtime.submit(TENANT, vec![item(Some(7))]).await.expect("accepted");
    assert_eq!(again, [Submitted::Replayed(id)]);
    let mut other = item(Some(7));
    other.idempotency.as_mut().expect("a key").1 = 8;
    let other = runtime.submit(TENANT, vec![other]).await.expect("answered");
    assert_eq!(other, [Submitted::Refused(Refusal::IdempotencyMismatch { task: id })]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_commit_is_an_unknown_outcome_whether_it_landed_or_not() {
    for lands in [false, true] {
        let store = Arc::new(Flaky { inner: MemoryStore::new(), fail_at: AtomicU64::new(u64::MAX), lands });
        let runtime = prepared(store.clone()).await;
        store.fail_at.store(runtime.committed_index() + 1, Ordering::SeqCst);
        let lost = runtime.submit(TENANT, vec![item(Some(1))]).await;
        assert!(matches!(lost, Err(Error::OutcomeUnknown)), "{lost:?}");
        // The repeat with the same key gives one task, whatever became of the first.
        let again = runtime.submit(TENANT, vec![item(Some(1))]).await.expect("accepted");
        match (lands, &again[0]) {
            (true, Submitted::Replayed(_)) | (false, Submitted::New(_)) => {}
            other => panic!("{other:?}"),
        }
        let worker = tokio::spawn(work(runtime.clone(), 1));
        worker.await.expect("it is run once");
        let page = store
            .tasks(&TaskQuery { tenant: TENANT, limit: 10, scan_limit: 100, ..TaskQuery::default() })
            .expect("a list");
        assert_eq!(page.tasks.len(), 1);
        assert_eq!(page.tasks[0].state, State::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_over_failures_at_every_commit() {
    for lands in [false, true] {
        for at in 3..20 {
            let store = Arc::new(Flaky { inner: MemoryStore::new(), fail_at: AtomicU64::new(u64::MAX), lands });
            let runtime = prepared(store.clone()).await;
            store.fail_at.store(at, Ordering::SeqCst);
            let mut known = BTreeSet::new();
            let running = runtime.clone();
            let worker = tokio::spawn(async move {
                // Until everything has ended: a result whose commit failed may be known as accepted or not.
                let mut session = worker(&running);
                loop {
                    match session.events.recv().await {
                        Some(ToWorker::Grants(grants)) => {
                            let ok = || Outcome::Ok { result: Payload::None, artifacts: Vec::new() };
                            let results = grants.iter().map(|g| (g.task, g.token, ok())).collect();
                            let _ = running.send_wait(Command::Results { session: session.id, results }).await;
                        }
                        Some(ToWorker::Close { .. }) | None => session = self::worker(&running),
                        Some(_) => {}
                    }
                }
            });
            for number in 0..12 {
                let outcome = loop {
                    match runtime.submit(TENANT, vec![item(Some(number))]).await {
                        Ok(outcome) => break outcome,
                        Err(Error::OutcomeUnknown) => {}
                        Err(error) => panic!("{error}"),
                    }
                };
                match &outcome[0] {
                    Submitted::New(id) | Submitted::Replayed(id) => known.insert(*id),
                    refused => panic!("{refused:?}"),
                };
            }
            assert_eq!(known.len(), 12, "one task per key");
            until_all_succeeded(&store.inner, &known).await;
            worker.abort();
        }
    }
}

async fn until_all_succeeded(store: &MemoryStore, ids: &BTreeSet<TaskId>) {
    let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let done = ids
            .iter()
            .filter(|id| store.task(TENANT, **id).expect("a read").is_some_and(|t| t.state == State::Succeeded));
        if done.count() == ids.len() {
            return;
        }
        assert!(tokio::time::Instant::now() < limit, "tasks did not end");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_queue_is_refused_with_the_nearest_name() {
    let runtime = prepared(MemoryStore::new()).await;
    let outcome =
        runtime.submit(TENANT, vec![Submit { queue: "defualt".into(), ..item(None) }]).await.expect("answered");
    assert_eq!(
        outcome,
        [Submitted::Refused(Refusal::UnknownQueue { name: "defualt".into(), nearest: Some("default".into()) })]
    );
}

async fn event(session: &mut Session) -> ToWorker {
    let next = tokio::time::timeout(std::time::Duration::from_secs(20), session.events.recv());
    next.await.expect("an event comes").expect("the session stands")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_grants_nothing_and_takes_the_results_of_what_runs() {
    let store = MemoryStore::new();
    let runtime = prepared(store.clone()).await;
    let hello = |resume| Hello { tenant: Some(TENANT), name: "w".into(), permits: 1, resume, ..Hello::default() };
    let mut first = runtime.connect(hello(Vec::new())).expect("a session");
    let outcomes = runtime.submit(TENANT, vec![item(None), item(None)]).await.expect("accepted");
    let [Submitted::New(runs), Submitted::New(waits)] = outcomes[..] else { panic!("{outcomes:?}") };
    assert!(matches!(event(&mut first).await, ToWorker::Welcome { .. }));
    let ToWorker::Grants(grants) = event(&mut first).await else { panic!("no grant") };
    assert_eq!(grants[0].task, runs);
    runtime.drain();
    assert!(matches!(event(&mut first).await, ToWorker::Drain));
    assert!(runtime.submit(TENANT, vec![item(None)]).await.is_err(), "intake has stopped");
    assert!(runtime.connect(hello(Vec::new())).is_err(), "a worker without attempts has nothing to do here");
    runtime.disconnect(first.id);
    let mut second = runtime.connect(hello(vec![(runs, grants[0].token)])).expect("it has a live attempt");
    let ToWorker::Welcome { resumed, .. } = event(&mut second).await else { panic!("no welcome") };
    assert_eq!(resumed, [(runs, grants[0].token)]);
    assert!(matches!(event(&mut second).await, ToWorker::Drain));
    let ok = Outcome::Ok { result: Payload::None, artifacts: Vec::new() };
    let results = vec![(runs, grants[0].token, ok)];
    runtime.send_wait(Command::Results { session: second.id, results }).await.expect("taken");
    let accepted = event(&mut second).await;
    assert!(matches!(&accepted, ToWorker::Accepted { count: 1, refused } if refused.is_empty()), "{accepted:?}");
    // Its permit is free again; an answer of the engine is later than any grant of the same turn.
    let why = runtime.read(View::Why { tenant: TENANT, task: waits }).await.expect("answered");
    assert!(matches!(&why, Answer::Why(reasons) if reasons[0].code == "server-draining"), "{why:?}");
    assert!(second.events.try_recv().is_err(), "nothing is granted");
    let states = [runs, waits].map(|id| store.task(TENANT, id).expect("a read").expect("stored").state);
    assert_eq!(states, [State::Succeeded, State::Queued]);
    runtime.close_sessions();
    assert!(matches!(event(&mut second).await, ToWorker::Close { .. }));
    assert!(runtime.connect(hello(vec![(waits, grants[0].token)])).is_err(), "it is over");
    tokio::task::spawn_blocking(move || runtime.stop()).await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_is_counted() {
    let runtime = prepared(MemoryStore::new()).await;
    let mut session = worker(&runtime);
    runtime.submit(TENANT, vec![item(None)]).await.expect("accepted");
    while !matches!(event(&mut session).await, ToWorker::Grants(_)) {}
    assert_eq!(runtime.metrics().leases_lost.get(), 0);
    // It says nothing more; the end of its lease closes the session.
    while !matches!(event(&mut session).await, ToWorker::Close { .. }) {}
    assert_eq!(runtime.metrics().leases_lost.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_changes_is_no_grant_no_retry_and_no_end() {
    let runtime = prepared(MemoryStore::new()).await;
    let mut session = worker(&runtime);
    // So short that a failure and the next grant may come in one commit.
    let retry = Some(RetryPolicy { delay_ms: 1, jitter_ms: 0, max_attempts: 2, ..RetryPolicy::default() });
    let spec = Arc::new(Spec { retry, ..Spec::default() });
    runtime.submit(TENANT, vec![Submit { spec, ..item(None) }]).await.expect("accepted");
    let grants = loop {
        if let ToWorker::Grants(grants) = event(&mut session).await {
            break grants;
        }
    };
    let (task, token) = (grants[0].task, grants[0].token);
    let patch = async |priority: Option<u8>, label: &str| {
        let labels = (!label.is_empty()).then(|| vec![("l".into(), label.into())]);
        let change = |request| Command::Patch { request, tenant: TENANT, task, priority, run_at: None, labels };
        let reply = runtime.call(change).await.expect("answered");
        assert!(matches!(reply, Reply::Task(_)), "{reply:?}");
    };
    patch(Some(9), "").await;
    patch(None, "running").await;
    let failure = Failure { retryable: true, ..Failure::ours("E", "once") };
    let failed = Outcome::Failed { failure, artifacts: Vec::new(), cancelled: false };
    runtime
        .send_wait(Command::Results { session: session.id, results: vec![(task, token, failed)] })
        .await
        .expect("taken");
    // It backs off, is granted again, and ends well.
    let grants = loop {
        if let ToWorker::Grants(grants) = event(&mut session).await {
            break grants;
        }
    };
    let ok = Outcome::Ok { result: Payload::None, artifacts: Vec::new() };
    let results = vec![(task, grants[0].token, ok)];
    runtime.send_wait(Command::Results { session: session.id, results }).await.expect("taken");
    while !matches!(event(&mut session).await, ToWorker::Accepted { .. }) {}
    patch(None, "ended").await;
    let metrics = runtime.metrics();
    let of = |last: Option<(&'static str, &str)>| {
        let own = [("tenant", "acme".to_owned()), ("queue", "default".to_owned()), ("type", "noop".to_owned())];
        let [tenant, queue, kind] = own.clone();
        (own, last.map(|(name, value)| [tenant, queue, kind, (name, value.to_owned())]))
    };
    assert_eq!(metrics.granted.get_or_create(&of(None).0).get(), 2);
    let count =
        |family: &prometheus_client::metrics::family::Family<_, prometheus_client::metrics::counter::Counter>, last| {
            family.get_or_create(&of(Some(last)).1.expect("four labels")).get()
        };
    assert_eq!(count(&metrics.retried, ("reason", "failed")), 1);
    assert_eq!(count(&metrics.finished, ("outcome", "succeeded")), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_never_runs() {
    let runtime = prepared(MemoryStore::new()).await;
    let outcome = runtime.submit(TENANT, vec![item(None)]).await.expect("accepted");
    let Submitted::New(task) = outcome[0] else { panic!("{outcome:?}") };
    let cancel = |request| Command::Cancel { request, tenant: TENANT, task, reason: "not wanted".into() };
    let reply = runtime.call(cancel).await.expect("answered");
    let Reply::Task(cancelled) = reply else { panic!("{reply:?}") };
    assert_eq!(cancelled.state, State::Cancelled);
    let mut session = worker(&runtime);
    runtime.submit(TENANT, vec![item(None)]).await.expect("accepted");
    loop {
        if let Some(ToWorker::Grants(grants)) = session.events.recv().await {
            assert!(grants.iter().all(|g| g.task != task));
            break;
        }
    }
}
