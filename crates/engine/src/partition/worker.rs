//! Workers: sessions, their capacity and leases. Everything here but a worker's name is memory only: a heartbeat writes
//! no row, whatever the number of workers.

use std::collections::BTreeSet;

use super::affinity::Awaiting;
use super::{MonoTimer, Partition, Run};
use crate::command::{Beat, Hello, Usage};
use crate::effect::{Effect, Grant, Refusal, Reply};
use crate::id::{Name, QueueId, RequestId, SessionId, TaskId, TenantId, Token, WorkerId};
use crate::limit;
use crate::mutation::{AttemptOutcome, Mutation, NameKind};
use crate::planted::Bug;
use crate::task::{Failure, Resources, State};
use crate::time::Now;

/// A worker's connection, and its lease, which outlives the connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) worker: WorkerId,
    pub(crate) hello: Hello,
    /// Its stream is open.
    pub(crate) connected: bool,
    /// Gets nothing new.
    pub(crate) draining: bool,
    /// Why it is over, while what it had is being given to others.
    over: Option<&'static str>,
    pub(crate) usage: Usage,
    /// Monotonic and wall time of the last sign of life.
    pub(crate) seen: Now,
    /// Permits in use: attempts, those of one handler call counted once.
    pub(crate) used: u32,
    /// Resources in use.
    pub(crate) taken: Resources,
    /// Attempts out.
    pub(crate) attempts: Vec<TaskId>,
    /// Open handler calls of several tasks: (call, members left).
    pub(crate) calls: Vec<(u32, u32)>,
    /// Grants of the open batch.
    pub(crate) outbox: Vec<Grant>,
    /// Its pool.
    pub(crate) pool: usize,
    /// Lanes that wait for room here, see `affinity.rs`.
    pub(crate) awaited: BTreeSet<Awaiting>,
    /// Those of them that its room was offered to, and that have not taken it yet.
    pub(crate) called: Vec<(QueueId, i64)>,
    /// Position keys in the pool's orders while it is free, see `pool.rs`, and the permits it has free.
    pub(crate) place: Option<([u64; 3], u32)>,
    /// Number of its last grant; grants it got, in units of its weight.
    pub(crate) virtual_time: [u64; 2],
}

impl Session {
    /// Attempts it may have out.
    pub(crate) fn capacity(&self) -> u32 {
        self.hello.permits.saturating_add(self.hello.buffer)
    }

    /// Whether it takes another attempt.
    pub(crate) fn is_free(&self) -> bool {
        self.connected && !self.draining && self.over.is_none() && !self.usage.tight && self.used < self.capacity()
    }
}

impl Partition {
    pub(super) fn connect(&mut self, session: SessionId, mut hello: Hello, now: Now) {
        let owner = hello.tenant.unwrap_or(TenantId(0));
        let worker = self.worker_id(owner, &hello.name.0);
        let name = (hello.tenant, hello.name.0.clone());
        let resume = std::mem::take(&mut hello.resume);
        if let Some(old) = self.session_names.insert(name, session)
            && old != session
        {
            self.replace(old, &resume, now);
        }
        if self.options.planted.has(Bug::IgnoredServes) {
            hello.serves = Default::default();
        }
        let pool = self.pool_for(&hello);
        self.sessions.insert(
            session,
            Session {
                worker,
                hello,
                connected: true,
                draining: false,
                over: None,
                usage: Usage::default(),
                seen: now,
                used: 0,
                taken: Resources::default(),
                attempts: Vec::new(),
                calls: Vec::new(),
                outbox: Vec::new(),
                pool,
                awaited: BTreeSet::new(),
                called: Vec::new(),
                place: None,
                virtual_time: [0; 2],
            },
        );
        self.pools[pool].members.insert(session);
        self.homes.forget();
        let resumed = self.claim(session, resume, now);
        self.effects.push(Effect::Welcome { session, worker, resumed });
        self.mono_wheel.insert(now.mono + self.options.lease_ms, MonoTimer::Session(session));
        self.enter_pool(session);
        self.pool_changed(pool);
    }

    /// A new stream of a worker has come while the old session still stands: what the worker names goes over to it,
    /// what it does not name is lost, in pieces as when a worker falls silent.
    fn replace(&mut self, old: SessionId, resume: &[(TaskId, Token)], now: Now) {
        self.withdraw(old, now);
        let Some(s) = self.sessions.get_mut(&old) else { return };
        s.over = Some("the worker no longer had the attempt");
        if std::mem::take(&mut s.connected) {
            self.effects
                .push(Effect::Close { session: old, reason: "another connection of the same worker has come".into() });
        }
        self.leave_pool(old);
        self.release_awaiting(old);
        for (id, token) in resume {
            let goes_over = self.tasks.get(id).is_some_and(|entry| {
                entry.task.token == *token && entry.run.as_ref().is_some_and(|run| run.session == Some(old))
            });
            if goes_over {
                self.unbind(*id);
            }
        }
        self.lose_piece(old, now);
    }

    /// Grants that no batch has taken along yet go back: nobody has seen them, so they use up no attempt.
    fn withdraw(&mut self, session: SessionId, now: Now) {
        let Some(s) = self.sessions.get_mut(&session) else { return };
        let unsent: Vec<(TaskId, Token)> =
            std::mem::take(&mut s.outbox).into_iter().map(|grant| (grant.task, grant.token)).collect();
        self.returned(session, &unsent, now);
    }

    /// Gives attempts that have no session to this one.
    fn claim(&mut self, session: SessionId, resume: Vec<(TaskId, Token)>, now: Now) -> Vec<(TaskId, Token)> {
        let mut resumed = Vec::new();
        for (id, token) in resume {
            let Some(entry) = self.tasks.get(&id) else { continue };
            let current = entry.task.state == State::Running
                && (entry.task.token == token || self.options.planted.has(Bug::StaleClaim));
            if !current || entry.run.as_ref().is_some_and(|run| run.session.is_some()) {
                continue;
            }
            self.bind(session, id, 0);
            resumed.push((id, token));
            if self.tasks[&id].task.cancelling {
                self.ask_to_stop(id, "cancelled".into(), now);
            }
        }
        resumed
    }

    /// Counts an attempt to a session. `call` = the handler call it is part of; only its first member takes a permit.
    pub(crate) fn bind(&mut self, session: SessionId, id: TaskId, call: u32) {
        let s = self.sessions.get_mut(&session).expect("attempts are bound to live sessions");
        let entry = self.tasks.get_mut(&id).expect("a running task is in memory");
        let run = entry.run.get_or_insert_with(|| Box::new(Run::default()));
        run.session = Some(session);
        run.position = s.attempts.len();
        run.call = call;
        s.attempts.push(id);
        let first = match s.calls.iter_mut().find(|(c, _)| call != 0 && *c == call) {
            Some((_, members)) => {
                *members += 1;
                false
            }
            None => {
                if call != 0 {
                    s.calls.push((call, 1));
                }
                true
            }
        };
        if first {
            s.used += 1;
        }
        s.taken.cpu_millis += entry.task.spec.resources.cpu_millis;
        s.taken.memory_bytes += entry.task.spec.resources.memory_bytes;
    }

    /// Takes an attempt from its session; the permit is free again.
    pub(crate) fn unbind(&mut self, id: TaskId) {
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        let Some(run) = entry.run.as_mut() else { return };
        let Some(session) = run.session.take() else { return };
        let (position, call) = (run.position, run.call);
        let resources = entry.task.spec.resources;
        let Some(s) = self.sessions.get_mut(&session) else { return };
        s.attempts.swap_remove(position);
        let moved = s.attempts.get(position).copied();
        s.taken.cpu_millis = s.taken.cpu_millis.saturating_sub(resources.cpu_millis);
        s.taken.memory_bytes = s.taken.memory_bytes.saturating_sub(resources.memory_bytes);
        let last = match s.calls.iter().position(|(c, _)| call != 0 && *c == call) {
            Some(i) => {
                s.calls[i].1 -= 1;
                let last = s.calls[i].1 == 0;
                if last {
                    s.calls.swap_remove(i);
                }
                last
            }
            None => true,
        };
        if last {
            s.used = s.used.saturating_sub(1);
        }
        if let Some(moved) = moved
            && let Some(run) = self.tasks.get_mut(&moved).and_then(|e| e.run.as_mut())
        {
            run.position = position;
        }
        self.reenter_pool(session);
    }

    pub(super) fn disconnect(&mut self, session: SessionId, now: Now) {
        let Some(s) = self.sessions.get_mut(&session) else { return };
        s.connected = false;
        self.withdraw(session, now);
        let Some(s) = self.sessions.get(&session) else { return };
        let empty = s.attempts.is_empty();
        self.reenter_pool(session);
        self.release_awaiting(session);
        if empty {
            self.drop_session(session, "");
        }
    }

    pub(super) fn set_capacity(&mut self, session: SessionId, permits: u32, buffer: u32) {
        let Some(s) = self.sessions.get_mut(&session) else { return };
        s.hello.permits = permits;
        s.hello.buffer = buffer;
        self.reenter_pool(session);
    }

    pub(super) fn heartbeat(&mut self, session: SessionId, beat: Beat, now: Now) {
        let Some(s) = self.sessions.get_mut(&session) else { return };
        s.seen = now;
        s.usage = beat.usage;
        s.hello.clock_offset_ms = beat.clock_offset_ms;
        let (added, removed) = (beat.packages_added, beat.packages_removed);
        if !(added.is_empty() && removed.is_empty()) {
            let gone: BTreeSet<_> = removed.iter().chain(&added).collect();
            s.hello.packages.retain(|p| !gone.contains(p));
            s.hello.packages.extend(added);
            s.hello.packages.truncate(crate::limit::HELD_DATA);
        }
        if !(beat.data_added.is_empty() && beat.data_removed.is_empty()) {
            let gone: BTreeSet<_> = beat.data_removed.iter().collect();
            s.hello.data.retain(|d| !gone.contains(d));
            s.hello.data.extend(beat.data_added);
            s.hello.data.sort();
            s.hello.data.dedup();
            s.hello.data.truncate(crate::limit::HELD_DATA);
        }
        self.reenter_pool(session);
    }

    /// The session's lease timer. It is not moved by each heartbeat: it looks when the last one came and waits the rest.
    pub(super) fn session_timer(&mut self, session: SessionId, now: Now) {
        let lease = self.options.lease_ms;
        let Some(s) = self.sessions.get(&session) else { return };
        let until = s.seen.mono + lease;
        if s.over.is_some() {
            // A sign of life comes too late now: a part of what it had is somebody else's.
            self.lose_piece(session, now);
            return;
        }
        if until > now.mono || (self.options.planted.has(Bug::ImmortalLease) && !s.connected) {
            self.mono_wheel.insert(until.max(now.mono + 1), MonoTimer::Session(session));
            return;
        }
        self.withdraw(session, now);
        let Some(s) = self.sessions.get_mut(&session) else { return };
        s.over = Some("the worker fell silent");
        self.reenter_pool(session);
        self.lose_piece(session, now);
    }

    /// Gives some of what a worker had that is over to others, and forgets its session after the last of it: one worker may have
    /// had tens of thousands, and the others go on meanwhile.
    fn lose_piece(&mut self, session: SessionId, now: Now) {
        let Some(s) = self.sessions.get(&session) else { return };
        let Some(why) = s.over else { return };
        let forgotten = self.options.planted.has(Bug::ForgottenLoss);
        let piece: Vec<TaskId> = s.attempts.iter().rev().take(limit::LOST_AT_ONCE).copied().collect();
        let all = piece.len() == s.attempts.len() || forgotten;
        for id in piece.into_iter().filter(|_| !forgotten) {
            self.lose(id, AttemptOutcome::Lost, Failure::ours("lost", why), now);
        }
        if all {
            self.drop_session(session, "no heartbeat within the lease");
        } else {
            self.mono_wheel.insert(now.mono + limit::LOST_EVERY_MS, MonoTimer::Session(session));
        }
    }

    /// Attempts that nobody claimed after a reload.
    pub(super) fn orphan_timer(&mut self, now: Now) {
        if self.options.planted.has(Bug::ForgottenOrphans) {
            return;
        }
        let mut left = crate::limit::TIMERS_PER_TURN;
        while let Some(id) = self.orphans.pop() {
            let unclaimed = self.tasks.get(&id).and_then(|e| e.run.as_ref()).is_some_and(|run| run.session.is_none());
            if unclaimed {
                self.lose(id, AttemptOutcome::Lost, Failure::ours("lost", "no worker claimed the attempt"), now);
                left -= 1;
            }
            if left == 0 {
                // The rest in the next turn, so that a million lost attempts do not stall the loop.
                self.mono_wheel.insert(now.mono, MonoTimer::Orphans);
                return;
            }
        }
    }

    fn drop_session(&mut self, session: SessionId, reason: &str) {
        self.leave_pool(session);
        // While it is still there, so that what waits for it is found.
        let waiting = self.sessions.get(&session).map(|s| s.awaited.clone()).unwrap_or_default();
        waiting.iter().for_each(|(queue, _, _, _, lane)| self.stop_waiting(*queue, *lane));
        let Some(s) = self.sessions.remove(&session) else { return };
        self.homes.forget();
        self.pools[s.pool].members.remove(&session);
        let name = (s.hello.tenant, s.hello.name.0.clone());
        if self.session_names.get(&name) == Some(&session) {
            self.session_names.remove(&name);
        }
        if s.connected {
            self.effects.push(Effect::Close { session, reason: reason.into() });
        }
        waiting.iter().for_each(|(queue, _, _, _, lane)| self.offer_lane(*queue, *lane));
        self.pool_changed(s.pool);
    }

    pub(super) fn drain_worker(
        &mut self,
        request: Option<RequestId>,
        tenant: Option<TenantId>,
        name: &Name,
        session: Option<SessionId>,
        draining: bool,
    ) {
        let session = session.or_else(|| self.session_names.get(&(tenant, name.clone())).copied());
        let found = session.and_then(|id| self.sessions.get_mut(&id).map(|s| (id, s)));
        let done = match found {
            Some((id, s)) => {
                s.draining = draining;
                self.reenter_pool(id);
                self.release_awaiting(id);
                true
            }
            None => false,
        };
        if let Some(request) = request {
            self.reply(request, if done { Reply::Done } else { Reply::Refused(Refusal::NotFound) });
        }
    }

    pub(super) fn worker_id(&mut self, tenant: TenantId, name: &Name) -> WorkerId {
        if let Some(id) = self.worker_ids.get(&(tenant, name.clone())) {
            return *id;
        }
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        self.mutations.push(Mutation::PutName { kind: NameKind::Worker, tenant, id: id.0, name: name.clone() });
        self.adopt_worker(tenant, id, name.clone());
        id
    }

    pub(crate) fn adopt_worker(&mut self, tenant: TenantId, id: WorkerId, name: Name) {
        self.workers.insert(id, (tenant, name.clone()));
        self.worker_ids.insert((tenant, name), id);
    }
}
