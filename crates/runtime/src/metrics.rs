//! Figures of the runtime. What the engine counts itself (tasks by state, accepted, ended) is read at scrape time; here
//! is what only passes by: times and batch sizes. One observation costs a lock and an addition; per-task ones are taken
//! per batch and queue.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tidewheel_engine::mutation::AttemptOutcome;
use tidewheel_engine::task::State;

/// The documents' own limits in seconds, so that each of them is an edge.
pub(crate) const SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// Labels of figures of tasks: tenant, queue, type.
pub(crate) type TaskLabels = [(&'static str, String); 3];

type TaskTimes = Family<TaskLabels, Histogram, fn() -> Histogram>;

/// See the module.
pub struct Metrics {
    /// Everything registered; others add their own families.
    pub registry: parking_lot::Mutex<Registry>,
    /// Accept, or due time, to the decision to grant.
    pub task_wait: TaskTimes,
    /// Accept, or due time, to the grant on its way to the worker, durable.
    pub task_assign: TaskTimes,
    /// Grant to the start of the handler.
    pub task_start: TaskTimes,
    /// Grant to end.
    pub task_duration: TaskTimes,
    /// Accept to end.
    pub task_end_to_end: TaskTimes,
    /// Tasks ended, by outcome.
    pub finished: Family<[(&'static str, String); 4], Counter>,
    /// Grants.
    pub granted: Family<TaskLabels, Counter>,
    /// Attempts that are followed by another one, by how they ended.
    pub retried: Family<[(&'static str, String); 4], Counter>,
    /// Tasks accepted.
    pub created: Family<TaskLabels, Counter>,
    /// Tasks that went to the dead-letter queue.
    pub dead_lettered: Family<TaskLabels, Counter>,
    /// Tasks submitted, granted and finished, by tenant.
    pub activity: Family<[(&'static str, String); 2], Counter>,
    /// Reads of the store.
    pub store_query: Histogram,
    /// Stages of overload that queues have reached.
    pub alerts: Family<[(&'static str, String); 3], Counter>,
    /// Mutations per batch.
    pub batch_size: Histogram,
    /// Hand-over to the store until the news that it is durable.
    pub commit_seconds: Histogram,
    /// One round of the loop.
    pub loop_seconds: Histogram,
    /// Items waiting in the mailbox.
    pub mailbox_depth: Gauge,
    /// Epoch of the partition.
    pub epoch: Gauge,
    /// Attempts whose worker fell silent.
    pub leases_lost: Counter,
    /// Due time to firing.
    pub timer_late: Histogram,
}

/// The figures of one type in one queue, at hand: finding them by their labels costs more than counting.
pub(crate) struct TaskFigures {
    labels: TaskLabels,
    pub(crate) task_wait: Histogram,
    pub(crate) task_assign: Histogram,
    task_start: Histogram,
    pub(crate) task_duration: Histogram,
    pub(crate) task_end_to_end: Histogram,
    pub(crate) dead_lettered: Counter,
    created: Counter,
    granted: Counter,
    /// Submitted, granted, finished, of the tenant.
    activity: [Counter; 3],
    /// By how the attempt before ended.
    retried: Vec<(AttemptOutcome, Counter)>,
    /// Of the outcomes seen so far; most queues see one or two.
    finished: Vec<(State, Counter)>,
    /// Counts of the open batch.
    pub(crate) batch: BatchCounts,
    /// It has some.
    pub(crate) touched: bool,
}

/// What one batch adds.
#[derive(Default)]
pub(crate) struct BatchCounts {
    pub(crate) created: u64,
    pub(crate) granted: u64,
    pub(crate) ended: u64,
}

impl TaskFigures {
    /// Attempts that ended so and are followed by another one.
    pub(crate) fn retried(&mut self, outcome: AttemptOutcome, metrics: &Metrics) -> &Counter {
        let at = self.retried.iter().position(|(known, _)| *known == outcome).unwrap_or_else(|| {
            let [tenant, queue, kind] = self.labels.clone();
            let reason = [tenant, queue, kind, ("reason", outcome.as_str().to_owned())];
            self.retried.push((outcome, metrics.retried.get_or_create(&reason).clone()));
            self.retried.len() - 1
        });
        &self.retried[at].1
    }

    /// Tasks that ended in this state.
    pub(crate) fn finished(&mut self, state: State, metrics: &Metrics) -> &Counter {
        let at = self.finished.iter().position(|(known, _)| *known == state).unwrap_or_else(|| {
            let [tenant, queue, kind] = self.labels.clone();
            let outcome = [tenant, queue, kind, ("outcome", state.as_str().to_owned())];
            self.finished.push((state, metrics.finished.get_or_create(&outcome).clone()));
            self.finished.len() - 1
        });
        &self.finished[at].1
    }

    /// An attempt ended whose handler had begun; 0 = it had not.
    pub(crate) fn begun(&self, granted: u64, started: u64) {
        if started > 0 {
            self.task_start.observe(started.saturating_sub(granted) as f64 / 1_000.0);
        }
    }

    /// Adds what the batch counted.
    pub(crate) fn flush(&mut self) {
        self.touched = false;
        let BatchCounts { created, granted, ended } = std::mem::take(&mut self.batch);
        self.created.inc_by(created);
        self.granted.inc_by(granted);
        self.activity.iter().zip([created, granted, ended]).for_each(|(counter, count)| {
            counter.inc_by(count);
        });
    }
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Metrics {
            registry: parking_lot::Mutex::new(Registry::with_prefix("tidewheel")),
            task_wait: Family::new_with_constructor(seconds as fn() -> Histogram),
            task_assign: Family::new_with_constructor(seconds as fn() -> Histogram),
            task_start: Family::new_with_constructor(seconds as fn() -> Histogram),
            task_duration: Family::new_with_constructor(seconds as fn() -> Histogram),
            task_end_to_end: Family::new_with_constructor(seconds as fn() -> Histogram),
            finished: Family::default(),
            granted: Family::default(),
            retried: Family::default(),
            created: Family::default(),
            dead_lettered: Family::default(),
            activity: Family::default(),
            store_query: seconds(),
            alerts: Family::default(),
            batch_size: Histogram::new([1.0, 10.0, 100.0, 1_000.0, 4_000.0, 8_192.0, 16_384.0]),
            commit_seconds: seconds(),
            loop_seconds: Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 1.0]),
            mailbox_depth: Gauge::default(),
            epoch: Gauge::default(),
            leases_lost: Counter::default(),
            timer_late: seconds(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    pub(crate) fn of_tasks(&self, labels: TaskLabels) -> TaskFigures {
        let activity = ["submitted", "granted", "finished"].map(|activity| {
            let [tenant, ..] = labels.clone();
            self.activity.get_or_create(&[tenant, ("activity", activity.to_owned())]).clone()
        });
        TaskFigures {
            task_wait: self.task_wait.get_or_create(&labels).clone(),
            task_assign: self.task_assign.get_or_create(&labels).clone(),
            task_start: self.task_start.get_or_create(&labels).clone(),
            task_duration: self.task_duration.get_or_create(&labels).clone(),
            task_end_to_end: self.task_end_to_end.get_or_create(&labels).clone(),
            granted: self.granted.get_or_create(&labels).clone(),
            created: self.created.get_or_create(&labels).clone(),
            dead_lettered: self.dead_lettered.get_or_create(&labels).clone(),
            activity,
            retried: Vec::new(),
            finished: Vec::new(),
            batch: BatchCounts::default(),
            touched: false,
            labels,
        }
    }

    fn register(&self) {
        let mut r = self.registry.lock();
        let help = "Accept, or due time, until the grant was decided";
        r.register("task_wait_seconds", help, self.task_wait.clone());
        let help = "Accept, or due time, until the durable grant left for its worker";
        r.register("task_assign_seconds", help, self.task_assign.clone());
        let help = "Grant until the handler began, of attempts that have ended";
        r.register("task_start_seconds", help, self.task_start.clone());
        r.register("task_duration_seconds", "Grant to end of the task", self.task_duration.clone());
        r.register("task_end_to_end_seconds", "Accept to end of the task", self.task_end_to_end.clone());
        r.register("tasks_finished", "Tasks ended, by outcome", self.finished.clone());
        r.register("tasks_granted", "Attempts granted", self.granted.clone());
        r.register("tasks_retried", "Attempts followed by another one", self.retried.clone());
        let help = "Tasks that went to the dead-letter queue";
        r.register("tasks_dead_lettered", help, self.dead_lettered.clone());
        r.register("tasks_created", "Tasks accepted", self.created.clone());
        let help = "Tasks submitted, granted and finished, by tenant";
        r.register("tenant_activity", help, self.activity.clone());
        r.register("store_query_seconds", "Reads of the store", self.store_query.clone());
        r.register("queue_alerts", "Stages of overload that queues have reached", self.alerts.clone());
        r.register("commit_batch_size", "Mutations per batch", self.batch_size.clone());
        r.register("commit_seconds", "Hand-over of a batch until it is durable", self.commit_seconds.clone());
        r.register("engine_loop_seconds", "One round of a partition loop", self.loop_seconds.clone());
        r.register("mailbox_depth", "Items that wait for a partition loop", self.mailbox_depth.clone());
        r.register("partition_epoch", "Epoch of the partition", self.epoch.clone());
        r.register("leases_lost", "Attempts whose worker fell silent", self.leases_lost.clone());
        r.register("timer_late_seconds", "Due time of a task until it was ready", self.timer_late.clone());
    }
}
