//! Metrics of the interfaces, and `/metrics`: the runtime's families and ours in one text. Queue and worker gauges
//! are read from the engine when somebody scrapes; nothing is kept up to date for nobody.

mod process;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::extract::Request;
use axum::response::Response;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tidewheel_engine::load::{Load, Loaded};
use tidewheel_engine::task::State;
use tidewheel_engine::view::{Answer, View};
use tidewheel_engine::wheel::LEVEL_NAMES;
use tidewheel_proto::code::Code;
use tidewheel_proto::v1;
use tower::{Layer, Service};

use self::process::ProcessMetrics;
use crate::problem::Failure;
use crate::service::queue::desired_permits;
use crate::state::Api;
use crate::store::Times;

/// Bucket edges: they contain the limits that the requirement documents name.
const SECONDS: [f64; 15] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// Bucket edges of checks: most take some microseconds.
const VALIDATION: [f64; 10] = [0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 1.0];
/// Levels of [`tidewheel_engine::view::PartitionFigures::timer_hits`].
const TIMER_LEVELS: [&str; 3] = ["task", "wheel", "store"];
/// Overdue tasks that a scrape counts, at most.
const MOST_OVERDUE: usize = 1_000;
/// Starts of Python taken from one heartbeat.
const MAX_STARTS: usize = 256;

type Labels<const N: usize> = [(&'static str, String); N];
type Number = Gauge<f64, AtomicU64>;

pub(crate) struct ApiMetrics {
    registry: parking_lot::Mutex<Registry>,
    http: Family<Labels<3>, Histogram, fn() -> Histogram>,
    grpc: Family<Labels<2>, Histogram, fn() -> Histogram>,
    route: Histogram,
    refused: Family<Labels<1>, Counter>,
    rejected: Family<Labels<1>, Counter>,
    streams: Gauge,
    depth: [Family<Labels<3>, Gauge>; 2],
    plain_depth: Family<Labels<1>, Gauge>,
    active: Family<Labels<3>, Gauge>,
    oldest: Family<Labels<2>, Number>,
    dead: Family<Labels<2>, Gauge>,
    desired: Family<Labels<2>, Gauge>,
    pressure: Family<Labels<2>, Gauge>,
    workers: Family<Labels<1>, Gauge>,
    permits: Family<Labels<1>, Gauge>,
    permits_used: Family<Labels<2>, Gauge>,
    utilization: Number,
    clock_offset: Number,
    reconnects: Counter,
    quota_used: Family<Labels<2>, Number>,
    fair_share: Family<Labels<1>, Number>,
    timers: Family<Labels<1>, Gauge>,
    timer_hits: Family<[(&'static str, &'static str); 1], Counter>,
    overdue: Gauge,
    validate: Histogram,
    worker_cpu: Number,
    worker_memory: Gauge,
    worker_disk: Gauge,
    caches: [CacheFamily; 2],
    /// Looks for tokens.
    pub(crate) tokens: CacheCounters,
    /// Looks for what a task type gives.
    pub(crate) types: CacheCounters,
    package_hits: Counter,
    package_misses: Counter,
    package_bytes: Family<Labels<1>, Counter>,
    python_start: Family<Labels<1>, Histogram, fn() -> Histogram>,
    wal_bytes: Gauge,
    database_bytes: Gauge,
    /// Commits, syncs, mutations and reads of the store.
    store: [Counter; 4],
    fsync: StoreTimes,
    connections: Family<[(&'static str, &'static str); 2], Gauge>,
    blob_bytes: Gauge,
    blob_moved: Family<[(&'static str, &'static str); 1], Counter>,
    process: ProcessMetrics,
    /// One scrape at a time fills the gauges.
    scrape: tokio::sync::Mutex<()>,
}

/// How often a cache knew the answer. Counted without a map: each look is on the way of a request.
pub(crate) struct CacheCounters {
    hits: Counter,
    misses: Counter,
}

/// Times that the store counted itself.
#[derive(Clone, Debug, Default)]
struct StoreTimes(Arc<parking_lot::Mutex<Times>>);

impl EncodeMetric for StoreTimes {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let times = *self.0.lock();
        let edges = Times::EDGES_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = edges.zip(times.counts).collect();
        let count = times.counts.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(times.sum_us as f64 / 1e6, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

type CacheFamily = Family<[(&'static str, &'static str); 1], Counter>;

impl CacheCounters {
    fn of([hits, misses]: &[CacheFamily; 2], level: &'static str) -> CacheCounters {
        let labels = [("level", level)];
        CacheCounters { hits: hits.get_or_create_owned(&labels), misses: misses.get_or_create_owned(&labels) }
    }

    pub(crate) fn hit(&self) {
        self.hits.inc();
    }

    pub(crate) fn miss(&self) {
        self.misses.inc();
    }
}

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

impl ApiMetrics {
    pub(crate) fn new(version: &str) -> ApiMetrics {
        let caches: [CacheFamily; 2] = Default::default();
        let metrics = ApiMetrics {
            registry: parking_lot::Mutex::default(),
            http: Family::new_with_constructor(histogram as fn() -> Histogram),
            grpc: Family::new_with_constructor(histogram as fn() -> Histogram),
            route: histogram(),
            refused: Family::default(),
            rejected: Family::default(),
            streams: Gauge::default(),
            depth: Default::default(),
            plain_depth: Family::default(),
            active: Family::default(),
            oldest: Family::default(),
            dead: Family::default(),
            desired: Family::default(),
            pressure: Family::default(),
            workers: Family::default(),
            permits: Family::default(),
            permits_used: Family::default(),
            utilization: Number::default(),
            clock_offset: Number::default(),
            reconnects: Counter::default(),
            quota_used: Family::default(),
            fair_share: Family::default(),
            timers: Family::default(),
            timer_hits: Family::default(),
            overdue: Gauge::default(),
            validate: Histogram::new(VALIDATION),
            worker_cpu: Number::default(),
            worker_memory: Gauge::default(),
            worker_disk: Gauge::default(),
            tokens: CacheCounters::of(&caches, "token"),
            types: CacheCounters::of(&caches, "type"),
            caches,
            package_hits: Counter::default(),
            package_misses: Counter::default(),
            package_bytes: Family::default(),
            python_start: Family::new_with_constructor(histogram as fn() -> Histogram),
            wal_bytes: Gauge::default(),
            database_bytes: Gauge::default(),
            store: Default::default(),
            fsync: StoreTimes::default(),
            connections: Family::default(),
            blob_bytes: Gauge::default(),
            blob_moved: Family::default(),
            process: ProcessMetrics::default(),
            scrape: tokio::sync::Mutex::default(),
        };
        metrics.register(version);
        metrics
    }

    fn register(&self, version: &str) {
        let mut r = self.registry.lock();
        let name = "tidewheel_http_request_duration_seconds";
        r.register(name, "Time from request to the head of its answer", self.http.clone());
        let name = "tidewheel_grpc_request_duration_seconds";
        r.register(name, "Time of calls that are no streams", self.grpc.clone());
        let help = "Time from a submit to its tasks being stored in the queues that routing chose";
        r.register("tidewheel_task_route_seconds", help, self.route.clone());
        r.register("tidewheel_requests_refused", "Requests that ended in a problem, by code", self.refused.clone());
        r.register("tidewheel_tasks_rejected", "Tasks that were not accepted, by reason", self.rejected.clone());
        r.register("tidewheel_sse_clients", "Live streams that are open", self.streams.clone());
        let [depth, job_depth] = &self.depth;
        r.register("tidewheel_queue_depth", "Tasks that could run", depth.clone());
        // Names that document B's autoscaler reads.
        r.register("orchestrator_job_queue_depth", "The same as tidewheel_queue_depth", job_depth.clone());
        r.register("queue_depth", "Tasks that could run, over all tenants", self.plain_depth.clone());
        r.register("tidewheel_tasks_active", "Tasks that have not ended", self.active.clone());
        r.register("tidewheel_queue_oldest_wait_seconds", "Age of the oldest waiting task", self.oldest.clone());
        r.register("tidewheel_queue_dead", "Tasks in the dead-letter queue", self.dead.clone());
        let help = "Permits that would keep the depth from growing";
        r.register("tidewheel_queue_desired_permits", help, self.desired.clone());
        let help = "How far a queue is from its bounds: 0 none, 1 alert, 2 throttled, 3 full";
        r.register("tidewheel_queue_pressure", help, self.pressure.clone());
        r.register("tidewheel_workers", "Workers by state", self.workers.clone());
        r.register("tidewheel_worker_permits", "Permits of connected workers", self.permits.clone());
        r.register("tidewheel_permits_used", "Attempts that run", self.permits_used.clone());
        let help = "Permits in use to permits of connected workers";
        r.register("tidewheel_worker_utilization_ratio", help, self.utilization.clone());
        let help = "Largest difference between a connected worker's clock and this server's";
        r.register("tidewheel_worker_clock_offset_seconds", help, self.clock_offset.clone());
        let help = "Streams of workers that had been here before";
        r.register("tidewheel_worker_reconnects", help, self.reconnects.clone());
        let help = "Use of a tenant's limits that are set";
        r.register("tidewheel_tenant_quota_used_ratio", help, self.quota_used.clone());
        let help = "Share of the running attempts to the share that its weight gives it, among tenants with work";
        r.register("tidewheel_tenant_fair_share_ratio", help, self.fair_share.clone());
        r.register("tidewheel_timers_pending", "Timers in memory, by level of the wheel", self.timers.clone());
        let help =
            "Due times whose task was in memory (task), whose timer was (wheel), and that were read ahead (store)";
        r.register("tidewheel_timer_cache_hits", help, self.timer_hits.clone());
        let help = "Tasks due for more than a second that are not ready yet, counted up to 1,000";
        r.register("tidewheel_tasks_overdue", help, self.overdue.clone());
        r.register("tidewheel_task_validate_seconds", "Reading and checking what was submitted", self.validate.clone());
        r.register("tidewheel_worker_cpu_ratio", "CPU in use on connected workers, mean", self.worker_cpu.clone());
        let help = "Memory in use on connected workers, sum";
        r.register("tidewheel_worker_memory_used_bytes", help, self.worker_memory.clone());
        let help = "Free disk of the connected worker that has least";
        r.register("tidewheel_worker_disk_free_bytes", help, self.worker_disk.clone());
        let [hits, misses] = &self.caches;
        r.register("tidewheel_cache_hits", "Found in a cache of the interfaces", hits.clone());
        r.register("tidewheel_cache_misses", "Not found in a cache of the interfaces", misses.clone());
        r.register("tidewheel_store_wal_bytes", "Size of the store's write-ahead log", self.wal_bytes.clone());
        r.register("tidewheel_store_database_bytes", "Size of the database", self.database_bytes.clone());
        let help = "Time in which a commit reached the disk: the log written and synced";
        r.register("tidewheel_fsync_seconds", help, self.fsync.clone());
        let help = "Open connections to the database, by what they are for; those of reads are used or idle";
        r.register("tidewheel_store_connections", help, self.connections.clone());
        let help = "Bytes of blobs: as last listed (at the start, then hourly), plus what came and went since";
        r.register("tidewheel_blob_bytes", help, self.blob_bytes.clone());
        let help = "Bytes of blobs written to where they are kept, and read from there";
        r.register("tidewheel_blob_moved_bytes", help, self.blob_moved.clone());
        let [commits, syncs, mutations, reads] = &self.store;
        r.register("tidewheel_store_commits", "Transactions committed", commits.clone());
        r.register("tidewheel_store_fsyncs", "Syncs of the store's log to the disk", syncs.clone());
        r.register("tidewheel_store_mutations", "Changes of records, over all transactions", mutations.clone());
        r.register("tidewheel_store_reads", "Reads", reads.clone());
        let help = "Packages that agents needed and had";
        r.register("tidewheel_package_cache_hits", help, self.package_hits.clone());
        let help = "Packages that agents needed and fetched";
        r.register("tidewheel_package_cache_misses", help, self.package_misses.clone());
        let help = "Bytes of packages: uploaded (new to the server), fetched by agents, reused by agents";
        r.register("tidewheel_package_bytes", help, self.package_bytes.clone());
        let help = "Time to build a Python environment, and until a Python process takes calls, on agents";
        r.register("tidewheel_python_start_seconds", help, self.python_start.clone());
        self.process.register(&mut r);
        let build = Info::new([("version", version.to_owned())]);
        r.register("tidewheel_build", "Version of the server", build);
    }

    /// The layer that observes one route.
    pub(crate) fn route(&self, method: &str, route: &'static str) -> ObserveLayer {
        let codes = Default::default();
        ObserveLayer(Arc::new(RouteMetrics { family: self.http.clone(), method: method.to_owned(), route, codes }))
    }

    /// Observes a submit whose tasks are stored, whatever their number.
    pub(crate) fn routed(&self, begun: Instant) {
        self.route.observe(begun.elapsed().as_secs_f64());
    }

    /// Counts a request that ended in a problem.
    pub(crate) fn refused(&self, code: Code) {
        self.refused.get_or_create(&[("code", code.as_str().to_owned())]).inc();
    }

    /// Counts a task that was not accepted.
    pub(crate) fn rejected(&self, code: Code) {
        self.rejected.get_or_create(&[("reason", code.as_str().to_owned())]).inc();
    }

    /// Observes the reading and checking of a submit.
    pub(crate) fn validated(&self, took: std::time::Duration) {
        self.validate.observe(took.as_secs_f64());
    }

    /// Counts the stream of a worker that had been here before.
    pub(crate) fn reconnected(&self) {
        self.reconnects.inc();
    }

    /// Adds what an agent has said of its cache and its processes since its last heartbeat.
    pub(crate) fn agent(&self, package: Option<&v1::PackageUse>, starts: &[v1::PythonStart]) {
        if let Some(used) = package {
            self.package_hits.inc_by(used.hits);
            self.package_misses.inc_by(used.misses);
            self.package_moved("fetched", used.fetched_bytes);
            self.package_moved("reused", used.reused_bytes);
        }
        // Of the kinds we know: a label must not be an agent's to invent.
        for start in starts.iter().take(MAX_STARTS).filter(|s| s.seconds.is_finite() && s.seconds >= 0.0) {
            if let Some(kind) = ["environment", "process"].into_iter().find(|kind| *kind == start.kind) {
                let family = &self.python_start;
                family.get_or_create(&[("kind", kind.to_owned())]).observe(f64::from(start.seconds));
            }
        }
    }

    /// Counts bytes of packages.
    pub(crate) fn package_moved(&self, direction: &'static str, bytes: u64) {
        if bytes > 0 {
            self.package_bytes.get_or_create(&[("direction", direction.to_owned())]).inc_by(bytes);
        }
    }

    /// Observes a unary call.
    pub(crate) fn grpc(&self, method: &'static str, started: Instant, is_ok: bool) {
        let code = if is_ok { "ok" } else { "error" };
        let labels = [("method", method.to_owned()), ("code", code.to_owned())];
        self.grpc.get_or_create(&labels).observe(started.elapsed().as_secs_f64());
    }

    fn clear(&self) {
        self.depth.iter().for_each(Family::clear);
        self.plain_depth.clear();
        self.active.clear();
        self.oldest.clear();
        self.dead.clear();
        self.desired.clear();
        self.pressure.clear();
        self.workers.clear();
        self.permits.clear();
        self.permits_used.clear();
        self.quota_used.clear();
        self.fair_share.clear();
    }
}

/// The histograms of a route, one per status, found without a map.
struct RouteMetrics {
    family: Family<Labels<3>, Histogram, fn() -> Histogram>,
    method: String,
    route: &'static str,
    codes: [OnceLock<Histogram>; CODES.len() + 1],
}

/// Statuses with a place of their own; the rest share the last one.
const CODES: [u16; 17] = [200, 201, 202, 204, 206, 304, 400, 401, 403, 404, 409, 412, 413, 415, 422, 500, 503];

impl RouteMetrics {
    fn observe(&self, status: u16, seconds: f64) {
        let index = CODES.iter().position(|code| *code == status).unwrap_or(CODES.len());
        let histogram = self.codes[index].get_or_init(|| {
            let code = CODES.get(index).map_or_else(|| "other".to_owned(), u16::to_string);
            let labels = [("route", self.route.to_owned()), ("method", self.method.clone()), ("code", code)];
            self.family.get_or_create_owned(&labels)
        });
        histogram.observe(seconds);
    }
}

/// See [`ApiMetrics::route`].
#[derive(Clone)]
pub(crate) struct ObserveLayer(Arc<RouteMetrics>);

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;
    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, metrics: self.0.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Observe<S> {
    inner: S,
    metrics: Arc<RouteMetrics>,
}

impl<S> Service<Request> for Observe<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let started = Instant::now();
        let metrics = self.metrics.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            metrics.observe(response.status().as_u16(), started.elapsed().as_secs_f64());
            Ok(response)
        })
    }
}

/// The text of `/metrics`.
pub(crate) async fn encode(api: &Api) -> Result<String, Failure> {
    let metrics = &api.metrics;
    let _one = metrics.scrape.lock().await;
    metrics.clear();
    metrics.streams.set(i64::try_from(api.streams.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
    fill_queues(api).await?;
    fill_workers(api).await?;
    fill_engine(api).await?;
    let (of_process, dir) = (api.clone(), api.config.temp_dir.clone());
    let _ = tokio::task::spawn_blocking(move || of_process.metrics.process.fill(&dir)).await;
    let mut text = String::with_capacity(64 * 1024);
    let encoded = encode_registry(&mut text, &api.runtime.metrics().registry.lock())
        .and_then(|()| encode_registry(&mut text, &metrics.registry.lock()))
        .and_then(|()| encode_eof(&mut text));
    encoded.map_err(|_| Failure::internal("metrics cannot be written"))?;
    Ok(text)
}

async fn fill_queues(api: &Api) -> Result<(), Failure> {
    let metrics = &api.metrics;
    let now = api.runtime.now_ms();
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    // Running attempts and weight of each tenant that has work.
    let mut at_work: Vec<(String, u64, u64)> = Vec::new();
    for tenant in api.runtime.directory().tenants() {
        let Answer::Queues(queues) = api.runtime.read(View::Queues { tenant: tenant.id, name: None }).await? else {
            continue;
        };
        let sum = |state: State| queues.iter().map(|q| q.counts[state as usize]).sum::<u64>();
        let limits = [
            ("concurrency", sum(State::Running), u64::from(tenant.config.concurrency)),
            ("queued", sum(State::Queued) + sum(State::Scheduled), tenant.config.max_queued),
        ];
        for (quota, used, limit) in limits.into_iter().filter(|(_, _, limit)| *limit > 0) {
            let labels = [("tenant", tenant.name.to_string()), ("quota", quota.to_owned())];
            metrics.quota_used.get_or_create(&labels).set(used as f64 / limit as f64);
        }
        if sum(State::Running) + sum(State::Queued) > 0 {
            at_work.push((tenant.name.to_string(), sum(State::Running), u64::from(tenant.config.weight)));
        }
        for figures in queues {
            let (tenant, queue) = (tenant.name.to_string(), figures.name.to_string());
            let depth = figures.counts[State::Queued as usize];
            // The engine counts a queue as one; the label is there because the documents' queries name it.
            let labels = [("tenant", tenant.clone()), ("queue", queue.clone()), ("priority", "all".to_owned())];
            for family in &metrics.depth {
                family.get_or_create(&labels).set(count(depth));
            }
            metrics.plain_depth.get_or_create(&[("queue", queue.clone())]).inc_by(count(depth));
            for state in [State::Scheduled, State::Queued, State::Running, State::Waiting] {
                let labels =
                    [("tenant", tenant.clone()), ("queue", queue.clone()), ("state", state.as_str().to_owned())];
                metrics.active.get_or_create(&labels).set(count(figures.counts[state as usize]));
            }
            let labels = [("tenant", tenant), ("queue", queue)];
            let oldest = if figures.oldest == 0 { 0 } else { now.saturating_sub(figures.oldest) };
            metrics.oldest.get_or_create(&labels).set(oldest as f64 / 1_000.0);
            metrics.dead.get_or_create(&labels).set(count(figures.counts[State::Dead as usize]));
            let running = figures.counts[State::Running as usize];
            metrics.permits_used.get_or_create(&labels).set(count(running));
            let desired = desired_permits(running, depth, figures.in_per_s, figures.out_per_s);
            metrics.desired.get_or_create(&labels).set(count(desired));
            metrics.pressure.get_or_create(&labels).set(figures.pressure as i64);
        }
    }
    let (running, weights) = at_work.iter().fold((0, 0), |(r, w), (_, running, weight)| (r + running, w + weight));
    for (tenant, own, weight) in at_work {
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let ratio = share(own, running) / share(weight, weights);
        metrics.fair_share.get_or_create(&[("tenant", tenant)]).set(ratio);
    }
    Ok(())
}

async fn fill_workers(api: &Api) -> Result<(), Failure> {
    let metrics = &api.metrics;
    let Answer::Workers(workers) = api.runtime.read(View::Workers { tenant: None }).await? else { return Ok(()) };
    let (mut used, mut all, mut offset) = (0, 0, 0);
    let (mut cpu, mut memory, mut disk, mut connected) = (0.0, 0, u64::MAX, 0);
    for worker in workers {
        let state = match (worker.connected, worker.draining) {
            (false, _) => "lost",
            (true, true) => "draining",
            (true, false) => "online",
        };
        metrics.workers.get_or_create(&[("state", state.to_owned())]).inc();
        if worker.connected {
            connected += 1;
            cpu += f64::from(worker.usage.cpu_ratio);
            memory += worker.usage.memory_used_bytes;
            if worker.usage.disk_free_bytes > 0 {
                disk = disk.min(worker.usage.disk_free_bytes);
            }
            used += u64::from(worker.used.min(worker.hello.permits));
            all += u64::from(worker.hello.permits);
            offset = worker.hello.clock_offset_ms.unsigned_abs().max(offset);
            let free = worker.hello.permits.saturating_sub(worker.used);
            metrics.permits.get_or_create(&[("state", "used".to_owned())]).inc_by(i64::from(worker.used));
            metrics.permits.get_or_create(&[("state", "free".to_owned())]).inc_by(i64::from(free));
        }
    }
    metrics.utilization.set(if all == 0 { 0.0 } else { used as f64 / all as f64 });
    metrics.clock_offset.set(offset as f64 / 1_000.0);
    metrics.worker_cpu.set(if connected == 0 { 0.0 } else { cpu / f64::from(connected) });
    metrics.worker_memory.set(i64::try_from(memory).unwrap_or(i64::MAX));
    metrics.worker_disk.set(if disk == u64::MAX { 0 } else { i64::try_from(disk).unwrap_or(i64::MAX) });
    Ok(())
}

async fn fill_engine(api: &Api) -> Result<(), Failure> {
    let metrics = &api.metrics;
    if let Answer::Partition(figures) = api.runtime.read(View::Partition).await? {
        for (level, pending) in LEVEL_NAMES.iter().zip(&figures.timers) {
            let gauge = metrics.timers.get_or_create(&[("level", (*level).to_owned())]).clone();
            gauge.set(i64::try_from(*pending).unwrap_or(i64::MAX));
        }
        for (level, hits) in TIMER_LEVELS.iter().zip(figures.timer_hits) {
            // A partition that was opened anew counts from zero, as a restarted process does.
            metrics.timer_hits.get_or_create(&[("level", *level)]).inner().store(hits, Ordering::Relaxed);
        }
    }
    let until = api.runtime.now_ms().saturating_sub(1_000);
    let load = Load::Due { from: (0, 0, 0), until, limit: MOST_OVERDUE };
    if let Loaded::Due(late) = api.read_store(move |store| Ok(store.load(0, &load)?.1)).await? {
        metrics.overdue.set(i64::try_from(late.len()).unwrap_or(i64::MAX));
    }
    let figures = api.read_store(|store| Ok(store.figures())).await?;
    metrics.database_bytes.set(i64::try_from(figures.database_bytes).unwrap_or(i64::MAX));
    let counted = [figures.commits, figures.fsyncs, figures.mutations, figures.reads];
    for (counter, count) in metrics.store.iter().zip(counted) {
        counter.inner().store(count, Ordering::Relaxed);
    }
    metrics.wal_bytes.set(i64::try_from(figures.wal_bytes).unwrap_or(i64::MAX));
    *metrics.fsync.0.lock() = figures.syncs;
    let open = figures.connections;
    for (role, state, count) in [
        ("writer", "used", open.writers),
        ("copier", "used", open.copiers),
        ("reader", "used", open.readers_used),
        ("reader", "idle", open.readers_idle),
    ] {
        let gauge = metrics.connections.get_or_create(&[("role", role), ("state", state)]).clone();
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let blobs = api.runtime.blobs().figures();
    metrics.blob_bytes.set(i64::try_from(blobs.held).unwrap_or(i64::MAX));
    for (direction, bytes) in [("written", blobs.written), ("read", blobs.read)] {
        let counter = metrics.blob_moved.get_or_create(&[("direction", direction)]).clone();
        counter.inner().store(bytes, Ordering::Relaxed);
    }
    Ok(())
}
