//! Submit: accept tasks. Each item stands alone: one that is refused does not hold up the others.

use super::{Entry, Partition, Probe, Purpose, Waiting, WallTimer};
use crate::command::{Command, Submit};
use crate::config::{QueueConfig, QueueState};
use crate::effect::{Refusal, Reply, Submitted};
use crate::id::{Name, QueueId, RequestId, Slot, TaskId, TenantId, TypeId};
use crate::limit;
use crate::load::Load;
use crate::mutation::{Mutation, NameKind, RecordKind};
use crate::planted::Bug;
use crate::ready::lane_key;
use crate::task::{State, Task};
use crate::time::Now;

/// What the store said about idempotency keys.
pub(crate) type Known = Vec<((TenantId, [u8; 16]), Option<(TaskId, u64)>)>;

impl Partition {
    pub(super) fn submit(
        &mut self,
        request: RequestId,
        tenant: TenantId,
        items: Vec<Submit>,
        known: Known,
        now: Now,
        probe: Option<&dyn Probe>,
    ) {
        if items.len() > limit::SUBMIT_ITEMS {
            return self.refuse(request, Refusal::Invalid("at most 10,000 tasks in one submit".into()));
        }
        if let Some(probe) = probe
            && let missing = self.keys_to_read(tenant, None, &items, probe)
            && !missing.is_empty()
        {
            return self.wait_for_keys(Command::Submit { request, tenant, items }, missing);
        }
        self.submit_all(request, tenant, items, &known, now);
    }

    /// As [`Partition::submit`], under a key for the whole.
    #[expect(clippy::too_many_arguments, reason = "the fields of one command, and what every command gets")]
    pub(super) fn submit_once(
        &mut self,
        request: RequestId,
        tenant: TenantId,
        claim: ([u8; 16], u64),
        items: Vec<Submit>,
        known: Known,
        now: Now,
        probe: Option<&dyn Probe>,
    ) {
        if items.len() > limit::SUBMIT_ITEMS {
            return self.refuse(request, Refusal::Invalid("at most 10,000 tasks in one submit".into()));
        }
        if let Some(probe) = probe
            && let missing = self.keys_to_read(tenant, Some(claim.0), &items, probe)
            && !missing.is_empty()
        {
            return self.wait_for_keys(Command::SubmitOnce { request, tenant, claim, items }, missing);
        }
        let (hash, body) = claim;
        match self.earlier((tenant, hash), &known) {
            Some((task, earlier)) if earlier != body && !self.options.planted.has(Bug::SkippedBodyHash) => {
                return self.refuse(request, Refusal::IdempotencyMismatch { task });
            }
            Some(_) => {}
            None => self.remember_key((tenant, hash), TaskId::default(), body, now),
        }
        self.submit_all(request, tenant, items, &known, now);
    }

    fn submit_all(&mut self, request: RequestId, tenant: TenantId, items: Vec<Submit>, known: &Known, now: Now) {
        let mut outcomes = Vec::with_capacity(items.len());
        for item in items {
            outcomes.push(self.submit_one(tenant, item, known, now));
        }
        self.reply(request, Reply::Submitted(outcomes));
    }

    fn keys_to_read(
        &self,
        tenant: TenantId,
        claim: Option<[u8; 16]>,
        items: &[Submit],
        probe: &dyn Probe,
    ) -> Vec<(TenantId, [u8; 16])> {
        let keys = keys_of(claim, items).map(|hash| (tenant, hash));
        keys.filter(|key| !self.idempotency.contains_key(key) && probe.may_know(key.0, &key.1)).collect()
    }

    pub(super) fn wait_for_keys(&mut self, command: Command, missing: Vec<(TenantId, [u8; 16])>) {
        let number = self.next_waiting;
        self.next_waiting += 1;
        // What memory knows of the other keys now may be gone from it when the answers come.
        let (tenant, claim, items) = match &command {
            Command::Submit { tenant, items, .. } => (*tenant, None, items.as_slice()),
            Command::SubmitOnce { tenant, claim, items, .. } => (*tenant, Some(claim.0), items.as_slice()),
            _ => (TenantId(0), None, [].as_slice()),
        };
        let keys = keys_of(claim, items).map(|hash| (tenant, hash));
        let known = keys.filter_map(|key| self.idempotency.get(&key).map(|answer| (key, Some(*answer)))).collect();
        self.waiting.insert(number, Waiting { command, missing: missing.len(), known });
        for (tenant, hash) in missing {
            self.ask(Load::Idempotency { tenant, hash }, Purpose::Key(number, (tenant, hash)));
        }
    }

    fn submit_one(&mut self, tenant: TenantId, item: Submit, known: &Known, now: Now) -> Submitted {
        if let Some((hash, body)) = item.idempotency
            && let Some((task, earlier_body)) = self.earlier((tenant, hash), known)
        {
            if earlier_body == body || self.options.planted.has(Bug::SkippedBodyHash) {
                return Submitted::Replayed(task);
            }
            return Submitted::Refused(Refusal::IdempotencyMismatch { task });
        }
        let Some(queue) = self.queue_id(tenant, &item.queue) else {
            let nearest = self.nearest_queue(tenant, &item.queue);
            return Submitted::Refused(Refusal::UnknownQueue { name: item.queue, nearest });
        };
        if let Some(refusal) = self.refusal(tenant, queue, &item, now) {
            if self.options.planted.has(Bug::RefusedButStored) {
                self.accept(tenant, queue, item, now);
            }
            return Submitted::Refused(refusal);
        }
        Submitted::New(self.accept(tenant, queue, item, now))
    }

    /// What a key was used for before.
    pub(super) fn earlier(&self, key: (TenantId, [u8; 16]), known: &Known) -> Option<(TaskId, u64)> {
        let in_memory = self.idempotency.get(&key).copied();
        in_memory.or_else(|| known.iter().find(|(k, _)| *k == key).and_then(|(_, answer)| *answer))
    }

    pub(super) fn remember_key(&mut self, (tenant, hash): (TenantId, [u8; 16]), task: TaskId, body: u64, now: Now) {
        let expires = now.wall + limit::IDEMPOTENCY_MS;
        self.mutations.push(Mutation::PutIdempotency { tenant, hash, task, body, expires });
        if !self.options.planted.has(Bug::ForgottenIdempotency) {
            self.idempotency.insert((tenant, hash), (task, body));
            self.idempotency_settled.push_back((self.index, (tenant, hash)));
        }
    }

    fn refusal(&mut self, tenant: TenantId, queue: QueueId, item: &Submit, now: Now) -> Option<Refusal> {
        if self.queues[&queue].queue.state == QueueState::Draining {
            return Some(Refusal::QueueDraining);
        }
        let overloaded = |what: &str| Some(Refusal::Overloaded { what: what.into(), retry_after_ms: 1_000 });
        if self.options.max_live > 0 && self.live >= self.options.max_live {
            return overloaded("the server");
        }
        if item.priority > 9 {
            return Some(Refusal::Invalid("priority is 0 to 9".into()));
        }
        let types = self.type_ids.get(&tenant);
        if types.is_some_and(|t| t.len() >= limit::TYPES_PER_TENANT && !t.contains_key(&item.kind)) {
            return Some(Refusal::Invalid("the tenant has too many task types".into()));
        }
        // Last, since what is throttled counts what it lets in.
        self.overloaded(queue, now).or_else(|| self.tenant_overloaded(tenant, now))
    }

    fn accept(&mut self, tenant: TenantId, queue: QueueId, item: Submit, now: Now) -> TaskId {
        let kind = self.type_id(tenant, &item.kind);
        self.seq += 1;
        let id = self.make_id(tenant, &item, now);
        let run_at = match item.delay_ms {
            0 => item.run_at,
            delay => item.run_at.max(now.wall + delay),
        };
        let state = if run_at > now.wall { State::Scheduled } else { State::Queued };
        let spec = if *item.spec == *self.plain_spec { self.plain_spec.clone() } else { item.spec };
        let waits = state == State::Queued || spec.ordering_key.is_some();
        let by_key = self.queues[&queue].gives_by_key();
        let lane = waits.then(|| lane_key(item.priority, &item.kind, &spec, by_key));
        let mut task = Task {
            queue,
            kind,
            state,
            priority: item.priority,
            seq: self.seq,
            lane,
            created: now.wall,
            changed: now.wall,
            run_at,
            input: item.input,
            ..Task::blank(tenant, id, spec)
        };
        task.due = deadline(&task, &self.queues[&queue].queue.config);
        if let Some((hash, body)) = item.idempotency {
            self.remember_key((tenant, hash), id, body, now);
        }
        self.place(task, now);
        id
    }

    /// Puts a new task into memory, its timer into the wheel, and into its lane.
    pub(super) fn place(&mut self, task: Task, now: Now) {
        let (id, state, due, waits) = (task.id, task.state, task.due, task.lane.is_some());
        let (queue, tenant) = (task.queue, task.tenant);
        let batch = self.index;
        self.tasks.insert(id, Entry { task, batch, dirty: true, new: true, in_window: false, warm: false, run: None });
        self.dirty.push(id);
        self.count(queue, tenant, None, state, now);
        self.arm(tenant, id, due);
        if waits {
            self.enqueue(id);
        }
    }

    /// Arms the stored deadline of a task, or leaves it to the store when it is far away.
    pub(crate) fn arm(&mut self, tenant: TenantId, id: TaskId, due: u64) {
        self.arm_timer(WallTimer::Task(tenant, id), due);
    }

    /// Sets a stored timer. `None` = it is far away, and the store keeps it until then.
    pub(super) fn arm_timer(&mut self, timer: WallTimer, due: u64) -> Option<crate::wheel::TimerKey> {
        if due == 0 {
            return None;
        }
        if due <= self.due.horizon && self.wall_wheel.len() >= self.options.timers_in_memory {
            // A full wheel holds less far ahead; what is urgent fits always.
            self.due.horizon = self.due.horizon.min((due - 1).max(self.wall + limit::TIMER_URGENT_MS));
        }
        if due <= self.due.horizon {
            return Some(self.wall_wheel.insert(due, timer));
        }
        if !self.options.planted.has(Bug::ForgottenTimer) {
            self.due.far = self.due.far.min(due);
        }
        None
    }

    fn make_id(&mut self, tenant: TenantId, item: &Submit, now: Now) -> TaskId {
        self.id_sequence += 1;
        let root = match (&item.idempotency, &item.spec.ordering_key) {
            (_, Some(key)) => Slot::of(tenant, key.as_bytes()),
            (Some((hash, _)), None) => Slot((u16::from_be_bytes([hash[0], hash[1]])) % crate::id::SLOTS),
            (None, None) => Slot((crate::ready::mix(self.seq) % u64::from(crate::id::SLOTS)) as u16),
        };
        let epoch = if self.options.planted.has(Bug::ReusedId) { 1 } else { self.epoch };
        let time = if self.options.planted.has(Bug::ReusedId) { 0 } else { now.wall };
        TaskId::build(time, root, epoch, self.id_sequence)
    }

    pub(crate) fn type_id(&mut self, tenant: TenantId, name: &Name) -> TypeId {
        if let Some(id) = self.type_ids.get(&tenant).and_then(|t| t.get(name)) {
            return *id;
        }
        let id = TypeId(self.next_type);
        self.next_type += 1;
        self.mutations.push(Mutation::PutName { kind: NameKind::Type, tenant, id: id.0, name: name.clone() });
        self.adopt_type(tenant, id, name.clone());
        id
    }

    pub(crate) fn queue_id(&self, tenant: TenantId, name: &Name) -> Option<QueueId> {
        self.queue_names.get(&(tenant, name.clone())).copied()
    }

    /// The registered type whose name is most like this one.
    pub(crate) fn nearest_type(&self, tenant: TenantId, name: &str) -> Option<Name> {
        let registered =
            self.records.keys().filter(|(kind, owner, _)| *kind == RecordKind::TaskType && *owner == tenant);
        let near = registered.map(|(_, _, known)| (distance(known, name), known));
        near.filter(|(d, known)| *d <= 1 + known.len() / 3).min().map(|(_, known)| known.clone())
    }

    pub(super) fn nearest_queue(&self, tenant: TenantId, name: &str) -> Option<Name> {
        let queues = self.tenants.get(&tenant)?.queues.iter().filter_map(|id| self.queues.get(id));
        let live = queues.filter(|q| !q.queue.deleted).map(|q| q.queue.name.clone());
        live.map(|n| (distance(&n, name), n)).filter(|(d, n)| *d <= 1 + n.len() / 3).min().map(|(_, n)| n)
    }
}

/// Key hashes of a submit, that of the whole first.
fn keys_of(claim: Option<[u8; 16]>, items: &[Submit]) -> impl Iterator<Item = [u8; 16]> + '_ {
    claim.into_iter().chain(items.iter().filter_map(|item| item.idempotency.map(|(hash, _)| hash)))
}

/// The stored deadline of a waiting task: when a scheduled one becomes ready, or when a waiting one gives up. 0 = none.
pub(crate) fn deadline(task: &Task, queue: &QueueConfig) -> u64 {
    let pick = |own: u64, theirs: u64| if own > 0 { own } else { theirs };
    let earliest = |a: u64, b: u64| if a == 0 || (b > 0 && b < a) { b } else { a };
    let ttl = match pick(task.spec.ttl_ms, queue.ttl_ms) {
        ttl if ttl > 0 && lives_by_ttl(task) => task.created + ttl,
        _ => 0,
    };
    match task.state {
        State::Scheduled => earliest(task.run_at, ttl),
        State::Queued => {
            let limit = match pick(task.spec.timeouts.queue_ms, queue.timeouts.queue_ms) {
                0 => 0,
                limit => task.created.max(task.run_at) + limit,
            };
            if lives_by_ttl(task) { earliest(ttl, limit) } else { 0 }
        }
        _ => 0,
    }
}

/// Whether the time to live of a task that never started has run out.
pub(crate) fn has_expired(task: &Task, queue: &QueueConfig, wall: u64) -> bool {
    let ttl = if task.spec.ttl_ms > 0 { task.spec.ttl_ms } else { queue.ttl_ms };
    ttl > 0 && lives_by_ttl(task) && wall >= task.created + ttl
}

/// Whether a task's time to live still counts: it was never started, and it never ended. Who asks for an expired task
/// again asks for it without that bound.
fn lives_by_ttl(task: &Task) -> bool {
    task.attempt == 0 && task.ending.is_none()
}

/// Edit distance, for "did you mean". Names are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
