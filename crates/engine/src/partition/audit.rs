//! Audit: what the partition believes of permits and records, for tests and the simulator to hold against the log.

use super::Partition;
use crate::id::{Name, QueueId, SessionId, TaskId, TenantId, Token, WorkerId};
use crate::task::Task;

/// Permits as the partition counts them; zeros are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Attempts out.
    pub running: usize,
    /// By queue.
    pub queues: Vec<(QueueId, u32)>,
    /// By tenant.
    pub tenants: Vec<(TenantId, u32)>,
    /// By concurrency key.
    pub keys: Vec<(QueueId, Name, u32)>,
    /// By session.
    pub sessions: Vec<SessionAudit>,
}

/// A session's permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionAudit {
    /// Which.
    pub session: SessionId,
    /// Its worker.
    pub worker: WorkerId,
    /// Permits in use.
    pub used: u32,
    /// Attempts out.
    pub attempts: u32,
    /// Lanes that wait for it.
    pub awaited: usize,
    /// It takes another attempt.
    pub free: bool,
}

impl Partition {
    /// See [`Audit`].
    pub fn audit(&self) -> Audit {
        let mut audit = Audit { running: self.running, ..Audit::default() };
        audit.queues = self.queues.iter().filter(|(_, q)| q.running > 0).map(|(id, q)| (*id, q.running)).collect();
        audit.tenants = self.tenants.iter().filter(|(_, t)| t.running > 0).map(|(id, t)| (*id, t.running)).collect();
        for (id, q) in &self.queues {
            let used = q.keys.iter().filter(|(_, k)| k.running > 0);
            audit.keys.extend(used.map(|(name, k)| (*id, name.clone(), k.running)));
        }
        audit.sessions = self
            .sessions
            .iter()
            .map(|(id, s)| SessionAudit {
                session: *id,
                worker: s.worker,
                used: s.used,
                attempts: u32::try_from(s.attempts.len()).unwrap_or(u32::MAX),
                awaited: s.awaited.len(),
                free: s.is_free(),
            })
            .collect();
        audit.queues.sort();
        audit.tenants.sort();
        audit.keys.sort();
        audit.sessions.sort_by_key(|s| s.session);
        audit
    }

    /// Whether lanes that wait for workers of their keys are counted right and named by those workers, and by no other.
    pub fn waits_agree(&self) -> bool {
        let named: usize = self.sessions.values().map(|s| s.awaited.len()).sum();
        let mut waiting = 0;
        // In whatever order: they are counted.
        for (id, q) in &self.queues {
            for (class, line) in q.lines.iter().enumerate() {
                // In whatever order, too.
                let lanes = q.lanes.keys().filter(|lane| crate::ready::class_of_lane(**lane) == class);
                let places = lanes.filter_map(|lane| super::affinity::awaiting(q, *id, *lane));
                let (found, known) = places.fold((0, true), |(n, known), (session, place)| {
                    (n + 1, known && self.sessions.get(&session).is_some_and(|s| s.awaited.contains(&place)))
                });
                if found != line.waiting || !known {
                    return false;
                }
                waiting += found;
            }
        }
        named == waiting
    }

    /// Token of the newest grant of a task in memory.
    pub fn token_of(&self, task: TaskId) -> Option<Token> {
        self.tasks.get(&task).map(|entry| entry.task.token)
    }

    /// Records in memory that the store has in the same form.
    pub fn settled_records(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values().filter(|e| !e.dirty && !e.new && e.batch <= self.committed).map(|e| &e.task)
    }

    /// Where a waiting task stands, for a person who looks for the reason why it does.
    pub fn describe_place(&self, task: &Task) -> String {
        let memory = self.tasks.get(&task.id).map(|e| (e.task.state, e.in_window, e.dirty, e.batch));
        let Some(q) = self.queues.get(&task.queue) else { return "its queue is unknown".to_owned() };
        let class = task.lane.map_or(0, crate::ready::class_of_lane);
        let lane = task.lane.and_then(|lane| q.lanes.get(&lane));
        let holder = task.lane.and_then(|lane| self.holders.get(&(task.queue, lane)));
        let turns: Vec<_> = q.pools.iter().map(|p| self.pools[*p as usize].tenants.get(&task.tenant)).collect();
        let line = &q.lines[class];
        let requirement = self.known_requirement(task).unwrap_or_default();
        let aside = (q.aside.by.get(&requirement), &q.aside.called, q.aside.coming);
        let awaited: Vec<bool> =
            q.pools.iter().map(|p| self.pools[*p as usize].starved.contains_key(&requirement)).collect();
        format!(
            "in memory {memory:?}; lane {lane:?}; holder {holder:?}; line {line:?}; {requirement:?} aside {aside:?}, awaited {awaited:?}; \
             running {}; rate until {}; turns {turns:?}; later {:?}; committed {}",
            q.running, q.rate_until, self.later, self.committed
        )
    }

    /// Whether a session could run a task, with what it has left.
    pub fn session_fits(&self, session: SessionId, task: &Task) -> bool {
        let Some(s) = self.sessions.get(&session) else { return false };
        let Some(requirement) = self.needs_of(task) else { return false };
        let pool = &self.pools[s.pool];
        let queue = self.queues.get(&task.queue);
        queue.is_some_and(|q| pool.serves(task.tenant, &q.queue.name))
            && s.is_free()
            && super::pool::fits(&requirement, s, self.is_packaged(&requirement))
    }
}
