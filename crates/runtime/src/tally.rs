//! What a batch did to tasks, for the figures: remembered when it is handed to the store, counted when it is durable.
//!
//! A batch names the same few queues and types again and again, so counters are summed in the batch and added once;
//! a histogram gets each time, which is a lock nobody else holds and an addition.

use hashbrown::HashMap;
use tidewheel_engine::id::{QueueId, TypeId};
use tidewheel_engine::mutation::AttemptOutcome;
use tidewheel_engine::task::{State, Task};

use crate::Shared;
use crate::metrics::{TaskFigures, TaskLabels};

/// What the figures need of a batch.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) mutations: usize,
    pub(crate) tasks: Vec<Written>,
    /// Attempts whose worker fell silent.
    pub(crate) lost: u64,
}

/// A task that was written.
pub(crate) struct Written {
    queue: QueueId,
    kind: TypeId,
    inserted: bool,
    step: Step,
    created: u64,
    run_at: u64,
    granted: u64,
    started: u64,
    changed: u64,
}

impl Written {
    /// `attempt`: how an attempt of it ended in this batch; `labelled`: its labels were changed in it.
    pub(crate) fn of(task: &Task, inserted: bool, attempt: Option<AttemptOutcome>, labelled: bool) -> Written {
        Written {
            queue: task.queue,
            kind: task.kind,
            inserted,
            step: Step::of(task, attempt, labelled),
            created: task.created,
            run_at: task.run_at,
            granted: task.granted,
            started: task.started,
            changed: task.changed,
        }
    }
}

/// What a written task has just gone through, as far as the figures want to know.
#[derive(Clone, Copy)]
enum Step {
    /// Perhaps again, in the batch in which the attempt before ended so.
    Granted(Option<AttemptOutcome>),
    /// Its attempt ended so, and another one follows.
    Retried(AttemptOutcome),
    Ended(State),
    /// Accepted, or changed by a person.
    Other,
}

impl Step {
    fn of(task: &Task, attempt: Option<AttemptOutcome>, labelled: bool) -> Step {
        match task.state {
            // A later change of a running task moves its time, or cancels it.
            State::Running if task.changed == task.granted && !task.cancelling => Step::Granted(attempt),
            state if state.is_terminal() && !labelled => Step::Ended(state),
            State::Queued | State::Scheduled => attempt.map_or(Step::Other, Step::Retried),
            _ => Step::Other,
        }
    }
}

/// Types beyond the bound share this one.
const OTHER: TypeId = TypeId(u32::MAX);

/// The figures of queues and types at hand: finding them by their labels costs more than counting.
#[derive(Default)]
pub(crate) struct Figures {
    places: HashMap<(QueueId, TypeId), usize>,
    all: Vec<TaskFigures>,
    /// Types that have a label of their own.
    types: HashMap<TypeId, ()>,
    /// Counted in the open batch.
    touched: Vec<usize>,
}

impl Figures {
    /// A batch is durable; `now` is the wall time at which its effects leave.
    pub(crate) fn count(&mut self, shared: &Shared, tasks: &[Written], now: u64) {
        let seconds = |from: u64, until: u64| until.saturating_sub(from) as f64 / 1000.0;
        let mut last = None;
        for task in tasks {
            let key = (task.queue, task.kind);
            let at = match last {
                Some((known, at)) if known == key => at,
                _ => self.place(shared, key),
            };
            last = Some((key, at));
            let figures = &mut self.all[at];
            if !std::mem::replace(&mut figures.touched, true) {
                self.touched.push(at);
            }
            figures.batch.created += u64::from(task.inserted);
            match task.step {
                Step::Granted(before) => {
                    if let Some(outcome) = before {
                        figures.retried(outcome, &shared.metrics).inc();
                    }
                    let since = task.created.max(task.run_at);
                    figures.batch.granted += 1;
                    figures.task_wait.observe(seconds(since, task.granted));
                    figures.task_assign.observe(seconds(since, now));
                }
                Step::Ended(state) => {
                    figures.batch.ended += 1;
                    figures.finished(state, &shared.metrics).inc();
                    figures.dead_lettered.inc_by(u64::from(state == State::Dead));
                    figures.task_duration.observe(seconds(task.granted, task.changed));
                    figures.task_end_to_end.observe(seconds(task.created, task.changed));
                    figures.begun(task.granted, task.started);
                }
                Step::Retried(outcome) => {
                    figures.retried(outcome, &shared.metrics).inc();
                    figures.begun(task.granted, task.started);
                }
                Step::Other => {}
            }
        }
        self.touched.drain(..).for_each(|at| self.all[at].flush());
    }

    fn place(&mut self, shared: &Shared, (queue, kind): (QueueId, TypeId)) -> usize {
        if let Some(at) = self.places.get(&(queue, kind)) {
            return *at;
        }
        let own = self.types.contains_key(&kind) || self.types.len() < shared.config.metric_types;
        if !own {
            // Found again by the first look only if it is kept under its own name, which would be one entry per type.
            if kind == OTHER {
                return self.make(shared, (queue, OTHER));
            }
            return self.place(shared, (queue, OTHER));
        }
        self.types.insert(kind, ());
        self.make(shared, (queue, kind))
    }

    fn make(&mut self, shared: &Shared, key: (QueueId, TypeId)) -> usize {
        self.all.push(shared.metrics.of_tasks(labels_of(shared, key)));
        self.places.insert(key, self.all.len() - 1);
        self.all.len() - 1
    }
}

fn labels_of(shared: &Shared, (queue, kind): (QueueId, TypeId)) -> TaskLabels {
    let directory = shared.directory.current();
    let queue = directory.queue_by_id(queue);
    let tenant =
        queue.as_ref().and_then(|q| directory.tenant_by_id(q.tenant)).map_or_else(String::new, |t| t.name.to_string());
    let kind = match kind {
        OTHER => "other".to_owned(),
        known => directory.type_name(known).map_or_else(String::new, |name| name.to_string()),
    };
    [("tenant", tenant), ("queue", queue.map_or_else(String::new, |q| q.name.to_string())), ("type", kind)]
}
