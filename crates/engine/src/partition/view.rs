//! Views: looks at the state, computed when asked.

use super::pool::{could_fit, runs};
use super::{Partition, Requirement, Session};
use crate::command::Command;
use crate::config::QueueState;
use crate::effect::{Refusal, Reply};
use crate::id::{Name, QueueId, RequestId, TaskId, TenantId};
use crate::ready::{Ready, gcra};
use crate::serve::{PLAIN_EXECUTOR, Serves, class_name};
use crate::task::{State, Task};
use crate::time::Now;
use crate::view::{Answer, PartitionFigures, QueueFigures, Reason, View, WorkerFigures};

impl Partition {
    pub(super) fn read(&mut self, request: RequestId, view: View, now: Now) {
        let answer = match view {
            View::Why { tenant, task } => match self.tasks.get(&task) {
                Some(entry) if entry.task.tenant == tenant => Answer::Why(self.why(task, now)),
                Some(_) => return self.refuse(request, Refusal::NotFound),
                None => {
                    let view = View::Why { tenant, task };
                    return self.wait_for_task(tenant, task, Command::Read { request, view });
                }
            },
            View::Queues { tenant, name } => Answer::Queues(self.queue_figures(tenant, name.as_ref(), now)),
            View::Workers { tenant } => Answer::Workers(self.worker_figures(tenant)),
            View::Progress { tenant, task } => {
                let entry = self.tasks.get(&task).filter(|e| e.task.tenant == tenant);
                Answer::Progress(entry.and_then(|e| e.run.as_ref()).and_then(|run| run.progress.clone()))
            }
            View::Run { tenant, run } => return self.read_run(request, tenant, run),
            View::Partition => Answer::Partition(PartitionFigures {
                epoch: self.epoch,
                index: self.index,
                tasks_in_memory: self.tasks.len(),
                running: self.running,
                timers: self
                    .wall_wheel
                    .levels()
                    .into_iter()
                    .zip(self.mono_wheel.levels())
                    .map(|(a, b)| a + b)
                    .collect(),
                timer_hits: self.fired.hits,
                sessions: self.sessions.len(),
                parked: self.waiting.len(),
                loads: self.purposes.len(),
            }),
        };
        self.reply(request, Reply::View(answer));
    }

    fn queue_figures(&mut self, tenant: TenantId, name: Option<&Name>, now: Now) -> Vec<QueueFigures> {
        let mut ids: Vec<QueueId> = match name {
            Some(name) => self.queue_id(tenant, name).into_iter().collect(),
            None => self.tenants.get(&tenant).map(|t| t.queues.clone()).unwrap_or_default(),
        };
        ids.retain(|id| !self.queues[id].queue.deleted);
        ids.into_iter().map(|id| self.figures_of(id, now)).collect()
    }

    fn figures_of(&mut self, id: QueueId, now: Now) -> QueueFigures {
        let pools = self.queues[&id].pools.clone();
        let serving = self.sessions.values().filter(|s| s.connected && pools.contains(&(s.pool as u32)));
        let (workers, permits) = serving.fold((0, 0), |(n, p), s| (n + 1, p + u64::from(s.hello.permits)));
        let q = self.queues.get_mut(&id).expect("the caller found it");
        let heads = q.lanes.values().filter_map(|lane| lane.window.front());
        QueueFigures {
            name: q.queue.name.clone(),
            tenant: q.queue.tenant,
            counts: q.counts,
            oldest: heads.map(|r| r.since).min().unwrap_or(0),
            workers,
            permits,
            accepted: q.accepted.0,
            ended: q.ended.0,
            in_per_s: q.accepted.1.per_second(now.mono),
            out_per_s: q.ended.1.per_second(now.mono),
            pressure: q.pressure,
        }
    }

    fn worker_figures(&self, tenant: Option<TenantId>) -> Vec<WorkerFigures> {
        let seen = |s: &super::Session| tenant.is_none() || s.hello.tenant == tenant || s.hello.tenant.is_none();
        let mut figures: Vec<WorkerFigures> = self
            .sessions
            .iter()
            .filter(|(_, s)| seen(s))
            .map(|(id, s)| WorkerFigures {
                worker: s.worker,
                session: *id,
                hello: s.hello.clone(),
                used: s.used,
                connected: s.connected,
                draining: s.draining,
                usage: s.usage,
                seen: s.seen.wall,
            })
            .collect();
        figures.sort_by_key(|f| f.worker);
        figures
    }

    fn why(&mut self, id: TaskId, now: Now) -> Vec<Reason> {
        let task = self.tasks[&id].task.clone();
        match task.state {
            State::Scheduled if task.attempt > 0 => {
                vec![reason(
                    "backing-off",
                    format!("attempt {} failed; the next one is due", task.attempt),
                    Some(task.due),
                )]
            }
            State::Scheduled => vec![reason("not-due", "its time has not come".to_owned(), Some(task.due))],
            State::Queued => self.why_queued(&task, now),
            State::Running => {
                let worker = self.workers.get(&task.worker).map_or("a worker", |(_, name)| name);
                let claimed = self.tasks[&id].run.as_ref().is_some_and(|run| run.session.is_some());
                let text = match (claimed, task.cancelling) {
                    _ if task.lease_ms() > 0 => {
                        format!("{worker} has taken it for {} s at a time", task.lease_ms() / 1_000)
                    }
                    (true, false) => format!("it runs on {worker}"),
                    (true, true) => format!("it was cancelled; {worker} is stopping it"),
                    (false, _) => format!("it was granted to {worker}, which has not come back yet"),
                };
                vec![reason("running", text, None)]
            }
            State::Waiting => vec![reason("waiting", "it waits for an answer from outside".to_owned(), None)],
            ended => vec![reason("ended", format!("it has ended: {}", ended.as_str()), None)],
        }
    }

    fn why_queued(&mut self, task: &Task, now: Now) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let q = &self.queues[&task.queue];
        let name = &q.queue.name;
        if self.holding {
            reasons.push(reason(
                "server-draining",
                "the server is shutting down; it goes on when it is back".to_owned(),
                None,
            ));
        }
        if q.queue.state == QueueState::Paused {
            reasons.push(reason("queue-paused", format!("queue {name} is paused"), None));
        }
        if q.queue.config.concurrency > 0 && q.running >= q.queue.config.concurrency {
            let text = format!("queue {name} is at its limit: {} of {} run", q.running, q.queue.config.concurrency);
            reasons.push(reason("queue-limit", text, None));
        }
        if let Some(rate) = q.queue.config.rate
            && let Err(wait) = gcra(q.tat_us, now.wall * 1000, rate)
        {
            reasons.push(reason(
                "rate-limit",
                format!("queue {name} is at its rate"),
                Some(now.wall + wait.div_ceil(1000)),
            ));
        }
        if let Some(t) = self.tenants.get(&task.tenant) {
            let limit = t.tenant.config.concurrency;
            if limit > 0 && t.running >= limit {
                reasons.push(reason("tenant-limit", format!("the tenant is at {} of {limit}", t.running), None));
            }
            if let Some(rate) = t.tenant.config.rate
                && let Err(wait) = gcra(t.tat_us, now.wall * 1000, rate)
            {
                reasons.push(reason(
                    "rate-limit",
                    "the tenant is at its rate".to_owned(),
                    Some(now.wall + wait.div_ceil(1000)),
                ));
            }
        }
        self.why_key(task, &mut reasons);
        if !self.why_affinity(task, now, &mut reasons) {
            self.why_workers(task, &mut reasons);
        }
        if reasons.is_empty() {
            let ahead = self.queues[&task.queue].counts[State::Queued as usize];
            reasons.push(reason("behind", format!("it is next or near: {ahead} tasks wait in its queue"), None));
        }
        reasons
    }

    fn why_key(&self, task: &Task, reasons: &mut Vec<Reason>) {
        let q = &self.queues[&task.queue];
        if let Some(name) = &task.spec.concurrency_key {
            let own = task.spec.concurrency_limit;
            let limit = if own > 0 { own } else { q.queue.config.key_concurrency };
            let running = q.keys.get(name).map_or(0, |k| k.running);
            if limit > 0 && running >= limit {
                reasons.push(reason(
                    "key-limit",
                    format!("key {name} is at its limit: {running} of {limit} run"),
                    None,
                ));
            }
        }
        self.why_order(task, reasons);
    }

    /// Which task of its ordering key goes first: the one that was granted, or the first of those that wait in memory.
    fn why_order(&self, task: &Task, reasons: &mut Vec<Reason>) {
        let Some(name) = &task.spec.ordering_key else { return };
        let Some(lane_id) = self.lane_of(task) else { return };
        let (text, first) = match self.holders.get(&(task.queue, lane_id)) {
            Some((holder, _)) if self.is_held(task.queue, lane_id, task.id, task.seq) => {
                (format!("a task before it with key {name} has not ended"), *holder)
            }
            _ => {
                let Some(first) = self.first_in_order(task, lane_id) else { return };
                let text = match first.spec.is_item() {
                    true => format!("it waits behind an item of ordering key {name} that nobody has taken"),
                    false => format!("it waits behind a task of ordering key {name} that goes first"),
                };
                (text, first.id)
            }
        };
        reasons.push(Reason { task: Some(first), ..reason("ordering", text, None) });
    }

    /// The head of an ordering key's lane, where it is another task and goes before this one. The window may still name what
    /// has left it.
    fn first_in_order(&self, task: &Task, lane_id: i64) -> Option<&Task> {
        let lane = self.queues.get(&task.queue)?.lanes.get(&lane_id)?;
        let waiting = |ready: &Ready| {
            let entry = self.tasks.get(&ready.id)?;
            (entry.in_window && entry.task.lane == Some(lane_id)).then_some(&entry.task)
        };
        let head = lane.window.iter().find_map(waiting)?;
        (head.id != task.id && head.seq < task.seq).then_some(head)
    }

    /// Whether it waits for the worker of its affinity key.
    fn why_affinity(&self, task: &Task, now: Now, reasons: &mut Vec<Reason>) -> bool {
        let Some((session, until)) = self.held_for(task) else { return false };
        let Some(s) = self.sessions.get(&session) else { return false };
        let key = task.spec.affinity_key.as_deref().unwrap_or_default();
        let text = format!("affinity key {key} belongs to worker {}, which has no room", s.hello.name.0);
        reasons.push(reason("affinity", text, Some(now.wall + until.saturating_sub(now.mono))));
        true
    }

    fn why_workers(&mut self, task: &Task, reasons: &mut Vec<Reason>) {
        let requirement = self.requirement_of(task.kind, task.priority, &task.spec);
        let needed = self.requirements[requirement.0 as usize].clone();
        let packaged = self.is_packaged(&needed);
        let q = &self.queues[&task.queue];
        let name = &q.queue.name;
        if task.spec.is_item() {
            let text = format!("it waits for somebody to take it: POST /api/v1/queues/{name}/items:take");
            return reasons.push(reason("not-taken", text, None));
        }
        let serving: Vec<_> =
            self.sessions.values().filter(|s| s.connected && q.pools.contains(&(s.pool as u32))).collect();
        if serving.is_empty() {
            return reasons.push(reason("no-worker", format!("no worker serves queue {name}"), None));
        }
        let able: Vec<_> = serving.iter().filter(|s| could_fit(&needed, s, packaged)).collect();
        if able.is_empty() {
            let mut text = missing(&needed, packaged, &serving, name);
            if !packaged && let Some(near) = self.nearest_type(task.tenant, &needed.kind) {
                text.push_str(&format!("; did you mean {near}?"));
            }
            return reasons.push(reason("missing-capability", text, None));
        }
        if able.iter().all(|s| s.draining) {
            return reasons.push(reason(
                "workers-draining",
                "every worker that could run it is draining".to_owned(),
                None,
            ));
        }
        if able.iter().all(|s| s.usage.tight || s.draining) {
            return reasons.push(reason(
                "workers-tight",
                "every worker that could run it is short of memory or disk".to_owned(),
                None,
            ));
        }
        if able.iter().all(|s| !s.is_free() || !super::pool::fits(&needed, s, packaged)) {
            let text = format!("all permits are in use on the {} workers that could run it", able.len());
            reasons.push(reason("no-permit", text, None));
        }
    }
}

fn reason(code: &'static str, text: String, until: Option<u64>) -> Reason {
    Reason { code, text, task: None, until }
}

/// What keeps every one of a queue's workers from such tasks: the type, each label and each resource for itself.
fn missing(needed: &Requirement, packaged: bool, serving: &[&Session], queue: &Name) -> String {
    let kind = &needed.kind;
    let typed = serving.iter().filter(|s| runs(needed, &s.hello, packaged)).count();
    let mut lacks = Vec::new();
    if typed == 0 {
        lacks.push(match packaged {
            true => format!("no worker of queue {queue} takes type {kind}"),
            false => format!("no package brings type {kind}, and no worker of queue {queue} offers it by itself"),
        });
    }
    lacks.extend(unserved(needed, serving, queue));
    for (name, value) in &needed.requires {
        let has = |s: &&Session| s.hello.labels.iter().any(|(n, v)| n == name && (v == value || &**value == "*"));
        if !serving.iter().any(has) {
            lacks.push(format!("no worker of queue {queue} has label {name}={value}"));
        }
    }
    // A worker that says 0 does not count the resource.
    let cores = f64::from(needed.resources.cpu_millis) / 1000.0;
    let most = serving.iter().map(|s| s.hello.resources.cpu_millis).max().unwrap_or(0);
    if serving.iter().all(|s| (1..needed.resources.cpu_millis).contains(&s.hello.resources.cpu_millis)) {
        let most = f64::from(most) / 1000.0;
        lacks.push(format!("no worker of queue {queue} has {cores:.1} cores, the most is {most:.1}"));
    }
    let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
    let memory = needed.resources.memory_bytes;
    let most = serving.iter().map(|s| s.hello.resources.memory_bytes).max().unwrap_or(0);
    if serving.iter().all(|s| (1..memory).contains(&s.hello.resources.memory_bytes)) {
        let (memory, most) = (mib(memory), mib(most));
        lacks.push(format!("no worker of queue {queue} has {memory} MiB of memory, the most is {most} MiB"));
    }
    if lacks.is_empty() {
        lacks.push(format!("no single worker of queue {queue} has all that it asks for: {}", wanted(needed, serving)));
    }
    if typed > 0 {
        let offer = if typed == 1 { "1 worker offers".to_owned() } else { format!("{typed} workers offer") };
        lacks.push(format!("{offer} type {kind}"));
    }
    lacks.join("; ")
}

/// The bounds of what workers serve that keep every one of them from such tasks.
fn unserved(needed: &Requirement, serving: &[&Session], queue: &Name) -> Vec<String> {
    let nobody = |serves: &dyn Fn(&Serves) -> bool| !serving.iter().any(|s| serves(&s.hello.serves));
    let mut lacks = Vec::new();
    if nobody(&|s| s.takes_class(needed.class)) {
        lacks.push(format!("no worker of queue {queue} serves priority {}", class_name(needed.class)));
    }
    if nobody(&|s| s.takes_length(needed.length)) {
        lacks.push(format!("no worker of queue {queue} serves duration {}", needed.length.as_str()));
    }
    if nobody(&|s| s.takes_executor(needed.executor.as_ref())) {
        let key = needed.executor.as_deref().unwrap_or(PLAIN_EXECUTOR);
        lacks.push(format!("no worker of queue {queue} serves executor {key}"));
    }
    lacks
}

/// Everything that a requirement names.
fn wanted(needed: &Requirement, serving: &[&Session]) -> String {
    let mut wants = vec![format!("type {}", needed.kind)];
    // Bounds are named only where somebody declares them.
    if serving.iter().any(|s| !s.hello.serves.takes_class(needed.class)) {
        wants.push(format!("priority {}", class_name(needed.class)));
    }
    if serving.iter().any(|s| !s.hello.serves.takes_length(needed.length)) {
        wants.push(format!("duration {}", needed.length.as_str()));
    }
    wants.extend(needed.executor.iter().map(|key| format!("executor {key}")));
    wants.extend(needed.requires.iter().map(|(name, value)| format!("label {name}={value}")));
    if needed.resources.cpu_millis > 0 {
        wants.push(format!("{:.1} cores", f64::from(needed.resources.cpu_millis) / 1000.0));
    }
    if needed.resources.memory_bytes > 0 {
        wants.push(format!("{} MiB of memory", needed.resources.memory_bytes.div_ceil(1024 * 1024)));
    }
    wants.join(", ")
}
