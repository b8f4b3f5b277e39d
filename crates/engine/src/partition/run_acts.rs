//! What turns of runs ask for, and how tasks of runs report their ends.

use std::sync::Arc;

use super::step_options::{self, Asked};
use super::submit::deadline;
use super::{NOBODY, Partition, Purpose};
use crate::command::Command;
use crate::id::{Name, RunId, Slot, TaskId, TenantId};
use crate::load::Load;
use crate::mutation::{Mutation, RunTimer};
use crate::planted::Bug;
use crate::ready::lane_key;
use crate::run::act::{Act, Event, OpenTask, Outcome, StartChild};
use crate::run::data::{BlobHash, Data};
use crate::run::eval::Json;
use crate::run::fault::{Fault, Standard};
use crate::run::head::{Head, Identity, Parent, Phase, Seq, Step as HeadStep};
use crate::run::plan::{Kind, Process, Profile, Protocol, Target};
use crate::task::{Payload, Spec, State, Step, Task};
use crate::time::Now;

/// Queue of tasks that name none.
const DEFAULT_QUEUE: &str = "default";

/// The task of a step that no run needs any more, with the row that keeps the wish to cancel it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unneeded {
    pub(super) tenant: TenantId,
    pub(super) run: RunId,
    pub(super) entry: Seq,
    pub(super) first: u64,
    pub(super) number: u64,
}

/// Entry and item of an event that brings nothing but the news of a cancel.
pub(super) fn cancelled(event: &Event) -> Option<(Seq, u64)> {
    match event {
        Event::Done { entry, outcome: Outcome::Cancelled } => Some((*entry, 0)),
        Event::Items { entry, first, outcomes } if matches!(outcomes[..], [Outcome::Cancelled]) => {
            Some((*entry, *first))
        }
        _ => None,
    }
}

/// What a worker is asked to do for a step.
struct Work {
    kind: Name,
    spec: Arc<Spec>,
    input: Payload,
    queue: Option<Name>,
    priority: Option<u8>,
}

impl Partition {
    pub(super) fn act(&mut self, tenant: TenantId, run: RunId, before: Option<&Head>, act: Act, now: Now) {
        match act {
            Act::PutBlob { hash, bytes } => {
                self.mutations.push(Mutation::PutValue { tenant, run, hash: hash.0, bytes })
            }
            Act::OpenTask(open) => self.open_step(tenant, run, *open, now),
            Act::CancelTask { .. } if self.options.planted.has(Bug::ForgottenCancel) => {}
            Act::CancelTask { entry } => self.cancel_step((tenant, run), entry, now),
            Act::CancelItems { entry } => self.cancel_items(tenant, run, before, entry),
            Act::OpenTimer { entry, due } => {
                let timer = RunTimer { tenant, run, entry };
                if !self.options.planted.has(Bug::ForgottenRunTimer) {
                    self.mutations.push(Mutation::PutRunTimer { timer, due });
                }
                self.arm_run(timer, due);
            }
            Act::CancelTimer { entry } => {
                self.mutations.push(Mutation::DeleteRunTimer(RunTimer { tenant, run, entry }));
                self.disarm_run(run, entry);
            }
            Act::StartChild(child) => self.start_child(tenant, run, *child),
            Act::CancelChild { entry } => {
                let reason = "the run that started it ended".into();
                self.queue_event(tenant, RunId::of_child(run, entry, 0), Event::Cancel { reason });
            }
            Act::Finished { phase, outcome } => self.run_finished(tenant, run, phase, outcome),
            // Events of others come with a room of their own; signals go to their run by its id.
            Act::Emit { .. } | Act::Subscribe { .. } | Act::Unsubscribe { .. } | Act::Defer { .. } => {}
            // They are in the head, which is written with the turn that ends or rests.
            Act::Attributes(_) => {}
        }
    }

    fn disarm_run(&mut self, run: RunId, entry: Seq) {
        let Some(held) = self.runs.held.get_mut(&run) else { return };
        if let Some(at) = held.timers.iter().position(|(timer, _)| *timer == entry) {
            let (_, key) = held.timers.swap_remove(at);
            self.wall_wheel.cancel(key);
        }
    }

    fn open_step(&mut self, tenant: TenantId, run: RunId, open: OpenTask, now: Now) {
        let (first, items) = open.items.unwrap_or((0, 0));
        let (entry, awaited) = (open.entry, open.awaited);
        let id = TaskId::of_step(run, entry, first);
        if self.tasks.contains_key(&id) {
            return;
        }
        let work = self.work_of(tenant, open);
        let placed = work.and_then(|work| {
            let queue = work.queue.clone().unwrap_or_else(|| DEFAULT_QUEUE.into());
            let found = self.queue_id(tenant, &queue);
            found.map(|queue| (work, queue)).ok_or_else(|| {
                let near = self.nearest_queue(tenant, &queue).map(|near| format!("; there is '{near}'"));
                format!("there is no queue '{queue}'{}", near.unwrap_or_default())
            })
        });
        let step = awaited.then(|| Box::new(Step { run, entry, first, items }));
        match placed {
            Ok((work, queue)) => self.place_step(tenant, id, (work, queue, step), now),
            Err(detail) => {
                let outcome = Outcome::Err(Fault::new(Standard::Configuration, Profile::default(), &detail, ""));
                self.report(tenant, Step { run, entry, first, items }, outcome);
            }
        }
    }

    fn place_step(
        &mut self,
        tenant: TenantId,
        id: TaskId,
        (work, queue, step): (Work, crate::id::QueueId, Option<Box<Step>>),
        now: Now,
    ) {
        let kind = self.type_id(tenant, &work.kind);
        self.seq += 1;
        let spec = if *work.spec == *self.plain_spec { self.plain_spec.clone() } else { work.spec };
        let priority = work.priority.unwrap_or(5).min(9);
        let by_key = self.queues[&queue].gives_by_key();
        let lane = Some(lane_key(priority, &work.kind, &spec, by_key));
        let mut task = Task {
            queue,
            kind,
            priority,
            seq: self.seq,
            lane,
            created: now.wall,
            changed: now.wall,
            input: work.input,
            step,
            ..Task::blank(tenant, id, spec)
        };
        task.due = deadline(&task, &self.queues[&queue].queue.config);
        self.place(task, now);
    }

    /// A task has ended: the run that waits for it hears of it.
    pub(super) fn step_ended(&mut self, id: TaskId, now: Now) {
        let task = &self.tasks[&id].task;
        let Some(step) = task.step.as_deref().copied() else { return };
        if self.options.planted.has(Bug::LostStepEnd) && task.attempt > 1 {
            return;
        }
        let tenant = task.tenant;
        let outcome = outcome_of(task);
        if let Outcome::Ok(Data::Ref { hash, .. }) = &outcome {
            // The task may be forgotten before its run looks at what it gave.
            self.mutations.push(Mutation::PutValue { tenant, run: step.run, hash: hash.0, bytes: bytes::Bytes::new() });
        }
        if step.items == 0 {
            return self.deliver(tenant, step.run, Event::Done { entry: step.entry, outcome }, now);
        }
        let event = Event::Items { entry: step.entry, first: step.first, outcomes: items_of(outcome, step.items) };
        self.deliver(tenant, step.run, event, now);
    }

    /// As [`Partition::step_ended`], from within a turn of that run: it hears of it in its next one.
    fn report(&mut self, tenant: TenantId, step: Step, outcome: Outcome) {
        let event = if step.items == 0 {
            Event::Done { entry: step.entry, outcome }
        } else {
            Event::Items { entry: step.entry, first: step.first, outcomes: items_of(outcome, step.items) }
        };
        self.queue_event(tenant, step.run, event);
    }

    /// Cancels the task of a step: at once, if it is in memory.
    fn cancel_step(&mut self, (tenant, run): (TenantId, RunId), entry: Seq, now: Now) {
        let id = TaskId::of_step(run, entry, 0);
        if self.tasks.contains_key(&id) {
            return self.cancel_task(tenant, id, now);
        }
        let unneeded = self.remember_cancel((tenant, run), entry, None);
        self.cancel_unneeded(unneeded, now);
    }

    /// Keeps a cancel that cannot be made in this batch, as what it will lead to: the news that it was cancelled, which
    /// nobody waits for.
    fn remember_cancel(&mut self, (tenant, run): (TenantId, RunId), entry: Seq, item: Option<u64>) -> Unneeded {
        let number = self.next_event_of(run);
        let event = Box::new(match item {
            None => Event::Done { entry, outcome: Outcome::Cancelled },
            Some(first) => Event::Items { entry, first, outcomes: vec![Outcome::Cancelled] },
        });
        self.mutations.push(Mutation::PutRunEvent { tenant, run, number, event });
        Unneeded { tenant, run, entry, first: item.unwrap_or(0), number }
    }

    /// Cancels a task that is not needed; reads it first if it is not in memory. The row that keeps the wish goes with it.
    pub(super) fn cancel_unneeded(&mut self, unneeded: Unneeded, now: Now) {
        let id = TaskId::of_step(unneeded.run, unneeded.entry, unneeded.first);
        if self.tasks.contains_key(&id) {
            return self.cancel_read(unneeded, now);
        }
        self.ask(Load::Tasks(vec![(unneeded.tenant, id)]), Purpose::Unneeded(unneeded));
    }

    /// The task is in memory by now, if there is one.
    pub(super) fn cancel_read(&mut self, unneeded: Unneeded, now: Now) {
        let Unneeded { tenant, run, entry, first, number } = unneeded;
        let id = TaskId::of_step(run, entry, first);
        if self.tasks.contains_key(&id) {
            self.cancel_task(tenant, id, now);
        }
        self.mutations.push(Mutation::DeleteRunEvent { tenant, run, number });
    }

    fn cancel_task(&mut self, tenant: TenantId, id: TaskId, now: Now) {
        let Some(entry) = self.tasks.get_mut(&id).filter(|entry| !entry.task.state.is_terminal()) else { return };
        // The run does not wait for it any more.
        entry.task.step = None;
        let reason = "the run no longer needs it".into();
        self.execute(Command::Cancel { request: NOBODY, tenant, task: id, reason }, Vec::new(), now, None);
    }

    /// Puts the tasks of the items of a map that are at work in line to be cancelled, and cancels its runs.
    fn cancel_items(&mut self, tenant: TenantId, run: RunId, before: Option<&Head>, entry: Seq) {
        let Some(head) = before else { return };
        let Some(definition) = self.definition(tenant, &head.identity.plan) else { return };
        let plan = definition.plan();
        for frame in head.lines.iter().flat_map(|line| &line.frames).filter(|frame| frame.seq == entry) {
            let HeadStep::Map(map) = &frame.step else { continue };
            let kind = frame.place.find(plan).map(|node| &plan.node(node).kind);
            let of_runs = match (&map.given, kind) {
                (Some(given), _) => matches!(given.target, Target::Workflow(..)),
                (None, kind) => matches!(kind, Some(Kind::Map { target: Target::Workflow(..), .. })),
            };
            for item in (0..map.cursor).filter(|item| map.at_work(*item)) {
                if of_runs {
                    let reason = "the run that started it ended".into();
                    self.queue_event(tenant, RunId::of_child(run, entry, item), Event::Cancel { reason });
                } else {
                    let unneeded = self.remember_cancel((tenant, run), entry, Some(item));
                    self.runs.cancels.push_back(unneeded);
                }
            }
        }
    }

    fn start_child(&mut self, tenant: TenantId, run: RunId, child: StartChild) {
        let Some((plan, version)) = self.workflow(tenant, &child.namespace, &child.name, &child.version) else {
            let (namespace, name, version) = (&child.namespace, &child.name, &child.version);
            let detail = format!("there is no workflow {namespace}/{name}:{version}");
            let outcome = Outcome::Err(Fault::new(Standard::Configuration, Profile::default(), &detail, ""));
            let items = u32::from(child.item.is_some());
            return self.report(
                tenant,
                Step { run, entry: child.entry, first: child.item.unwrap_or(0), items },
                outcome,
            );
        };
        let id = RunId::of_child(run, child.entry, child.item.unwrap_or(0));
        if self.runs.held.contains_key(&id) {
            return;
        }
        let correlation = self.runs.held.get(&run).and_then(|entry| entry.head()?.identity.correlation.clone());
        let parent = Parent { run, entry: child.entry, item: child.item, close: child.close };
        let identity = Arc::new(Identity {
            run: id,
            plan,
            namespace: child.namespace,
            name: child.name,
            version,
            parent: Some(parent),
            correlation,
            depth: child.depth,
        });
        self.adopt_child(tenant, identity, child.input);
    }

    fn run_finished(&mut self, tenant: TenantId, run: RunId, phase: Phase, outcome: Outcome) {
        let parent = self.runs.held.get(&run).and_then(|entry| entry.head()?.identity.parent.clone());
        let _ = phase;
        let Some(parent) = parent else { return };
        let event = match parent.item {
            None => Event::Done { entry: parent.entry, outcome },
            Some(first) => Event::Items { entry: parent.entry, first, outcomes: vec![outcome] },
        };
        if self.options.planted.has(Bug::ChildEndsTwice) {
            self.queue_event(tenant, parent.run, event.clone());
        }
        self.queue_event(tenant, parent.run, event);
    }

    /// An id for a run that nobody's entry gives one.
    pub(super) fn new_run_id(&mut self, claim: Option<&[u8; 16]>, now: Now) -> RunId {
        self.id_sequence += 1;
        self.seq += 1;
        let slot = match claim {
            Some(hash) => Slot(u16::from_be_bytes([hash[0], hash[1]]) % crate::id::SLOTS),
            None => Slot((crate::ready::mix(self.seq) % u64::from(crate::id::SLOTS)) as u16),
        };
        RunId(TaskId::build(now.wall, slot, self.epoch(), self.id_sequence).0)
    }
}

impl Partition {
    /// What a step becomes. The error is one sentence, for the author of the workflow.
    fn work_of(&mut self, tenant: TenantId, open: OpenTask) -> Result<Work, String> {
        let hints = open.hints;
        let of_items = open.items.is_some_and(|(_, items)| items > 1);
        let (kind, input, known) = match &open.target {
            Target::Task(kind) => (kind.clone(), payload(&open.args), self.step_type(tenant, kind)),
            Target::Process(process) => (process_type(*process).into(), payload(&open.args), None),
            Target::Python => {
                let args =
                    open.args.json().ok_or("the arguments of a Python function are larger than a run carries")?;
                let text = |key: &str| args.get(key).and_then(Json::as_str);
                let entry = text("entrypoint").ok_or("a Python call names its `entrypoint`")?;
                let (kind, known) = self.python_function(tenant, text("package"), text("version"), entry)?;
                let given = args.get("args").cloned().unwrap_or_else(|| Json::Object(serde_json::Map::new()));
                (kind, inline(&given), Some(known))
            }
            Target::Workflow(..) => return Err("a workflow is no task".into()),
            // A deploy refuses them as long as nothing serves these types.
            Target::Outbound(protocol) => (outbound_type(*protocol).into(), payload(&open.args), None),
            Target::Catalog(name, version) => return Err(format!("the function {name}:{version} is not served here")),
        };
        let mut spec = known.as_ref().map_or_else(|| self.plain_spec.clone(), |known| known.spec.clone());
        let call = open.args.json().filter(|_| matches!(open.target, Target::Python));
        let of_task = |why: String| format!("the task '{kind}': {why}");
        let asked = call.map_or_else(|| Ok(Asked::default()), |call| step_options::apply(call, &mut spec));
        let asked = asked.map_err(of_task)?;
        let (queue, priority) = (asked.queue.or(hints.queue.clone()), asked.priority.or(hints.priority));
        step_options::hint(hints, &mut spec).map_err(of_task)?;
        if let Some(keys) = known.as_ref().and_then(|known| known.keys.as_ref()).filter(|_| !of_items)
            && keys.is_wanted(&spec)
        {
            let none = Json::Null;
            let given = match call {
                Some(call) => call.get("args"),
                None => open.args.json(),
            };
            keys.fill(Arc::make_mut(&mut spec), given.unwrap_or(&none)).map_err(of_task)?;
        }
        let queue = queue.or_else(|| known.as_ref().and_then(|known| known.queue.clone()));
        let priority = priority.or_else(|| known.as_ref().and_then(|known| known.priority));
        Ok(Work { kind, spec, input, queue, priority })
    }
}

/// Task types that agents serve for code in documents.
fn process_type(process: Process) -> &'static str {
    match process {
        Process::Shell => "run.shell",
        Process::Python => "run.python",
        Process::JavaScript => "run.javascript",
        Process::Container => "run.container",
    }
}

/// Task types of outbound calls.
fn outbound_type(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "call.http",
        Protocol::Grpc => "call.grpc",
        Protocol::OpenApi => "call.openapi",
        Protocol::AsyncApi => "call.asyncapi",
        Protocol::A2a => "call.a2a",
        Protocol::Mcp => "call.mcp",
    }
}

fn inline(value: &Json) -> Payload {
    Payload::Inline(serde_json::to_vec(value).unwrap_or_default().into())
}

fn payload(data: &Data) -> Payload {
    match data {
        Data::Inline { value, .. } => inline(value),
        Data::Ref { hash, size, .. } => Payload::Blob { hash: hash.0, size: *size },
    }
}

/// A payload as a value of a run.
pub(super) fn data_of(payload: &Payload) -> Data {
    match payload {
        Payload::Inline(bytes) => {
            let value = serde_json::from_slice(bytes).unwrap_or(Json::Null);
            Data::Inline { value: Arc::new(value), size: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }
        }
        Payload::Blob { hash, size } => Data::Ref { hash: BlobHash(*hash), size: *size, value: None },
        Payload::None | Payload::Cold => Data::null(),
    }
}

/// How a task ended, as its run sees it.
fn outcome_of(task: &Task) -> Outcome {
    let ending = task.ending.as_deref();
    if task.state == State::Succeeded {
        return Outcome::Ok(ending.map_or_else(Data::null, |ending| data_of(&ending.result)));
    }
    let Some(failure) = ending.and_then(|ending| ending.failure.as_ref()) else { return Outcome::Cancelled };
    if task.state == State::Cancelled {
        return Outcome::Cancelled;
    }
    let standard = match &*failure.kind {
        "timeout" | "start-timeout" | "queue-timeout" | "heartbeat-timeout" | "expired" => Standard::Timeout,
        _ => Standard::Runtime,
    };
    // An error that the code named by an address is that error; its details may be the error itself, with its status.
    let own = failure.kind.starts_with("https://").then(|| failure.kind.to_string());
    if own.is_some()
        && let Ok(Json::Object(mut error)) = serde_json::from_str(&failure.detail)
    {
        error.insert("type".into(), failure.kind.to_string().into());
        error.entry("detail").or_insert_with(|| failure.message.to_string().into());
        error.remove("instance");
        error.insert("task".into(), task_text(task.id).into());
        return Outcome::Err(Fault(Arc::new(Json::Object(error))));
    }
    let Json::Object(mut error) = (*Fault::new(standard, Profile::default(), &failure.message, "").0).clone() else {
        return Outcome::Cancelled;
    };
    error.insert("title".into(), failure.kind.to_string().into());
    // Where it happened is the run's to say.
    error.remove("instance");
    error.insert("task".into(), task_text(task.id).into());
    if let Some(own) = own {
        error.insert("type".into(), own.into());
    }
    Outcome::Err(Fault(Arc::new(Json::Object(error))))
}

fn task_text(id: TaskId) -> String {
    RunId(id.0).to_string()
}

/// The ends of the items of one task: its result is an array with one value each.
fn items_of(outcome: Outcome, items: u32) -> Vec<Outcome> {
    if items <= 1 {
        return vec![outcome];
    }
    if let Outcome::Ok(data) = &outcome
        && let Some(Json::Array(values)) = data.json()
        && values.len() == items as usize
    {
        return values.iter().map(|value| Outcome::Ok(Data::of(value.clone()).0)).collect();
    }
    match outcome {
        Outcome::Ok(_) => {
            let detail = format!("a task with {items} items has to give an array with one result for each");
            vec![Outcome::Err(Fault::new(Standard::Validation, Profile::default(), &detail, ""))]
        }
        other => vec![other],
    }
}
