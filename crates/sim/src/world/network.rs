//! The network between the node and its workers: ordered streams that are slow, break, and are noticed late. What was
//! under way when a stream broke may still arrive, on either side, even after the worker has come back on a new one.

use tidewheel_engine::Command;
use tidewheel_engine::id::SessionId;

use super::World;
use crate::event::{Event, ToWorker};
use crate::plan::{MS, SECOND};

/// A stream. Its number is the session's.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) worker: usize,
    pub(crate) link: usize,
    pub(crate) life: u32,
    pub(crate) process: u64,
    /// Arrival of the newest message to the node, and to the worker: streams keep their order.
    arrivals: [u64; 2],
    /// Nothing arrives at the node, or at the worker, after this.
    cuts: [u64; 2],
    pub(crate) node_told: bool,
    pub(crate) worker_told: bool,
}

const TO_NODE: usize = 0;
const TO_WORKER: usize = 1;

impl World {
    /// The time a message takes.
    pub(crate) fn delay(&mut self) -> u64 {
        let usual = self.plan.faults.delay.max(1);
        let delay = usual / 2 + self.rng.below(usual);
        if !self.is_quiet() && self.rng.chance(self.plan.faults.spike) {
            return delay * self.rng.range(2, 100);
        }
        delay
    }

    pub(crate) fn open_conn(&mut self, worker: usize, link: usize, process: u64) -> u64 {
        let id = self.next_conn;
        self.next_conn += 1;
        let life = self.workers[worker].life;
        let conn = Conn {
            worker,
            link,
            life,
            process,
            arrivals: [0; 2],
            cuts: [u64::MAX; 2],
            node_told: false,
            worker_told: false,
        };
        self.conns.insert(id, conn);
        id
    }

    fn arrival(&mut self, conn: u64, way: usize) -> Option<u64> {
        let delay = self.delay();
        let now = self.now;
        let conn = self.conns.get_mut(&conn)?;
        let at = (now + delay).max(conn.arrivals[way] + 1);
        conn.arrivals[way] = at;
        Some(at)
    }

    pub(crate) fn send_to_node(&mut self, conn: u64, command: Command) {
        if let Some(at) = self.arrival(conn, TO_NODE) {
            self.at(at, Event::FromWorker { conn, command: Box::new(command) });
        }
    }

    pub(crate) fn send_to_worker(&mut self, conn: u64, message: ToWorker) {
        if let Some(at) = self.arrival(conn, TO_WORKER) {
            self.at(at, Event::ToWorker { conn, message });
        }
    }

    pub(crate) fn worker_says(&mut self, conn: u64, command: Box<Command>) {
        let Some(c) = self.conns.get(&conn) else { return };
        if self.now > c.cuts[TO_NODE] || c.node_told {
            return;
        }
        let (process, partition) = (c.process, c.link);
        if let Some(until) = self.paused(process) {
            return self.at(until, Event::FromWorker { conn, command });
        }
        self.give(process, partition, *command);
    }

    pub(crate) fn arrives_at_worker(&mut self, conn: u64, message: ToWorker) {
        let Some(c) = self.conns.get(&conn) else { return };
        let (worker, link, life) = (c.worker, c.link, c.life);
        if self.now > c.cuts[TO_WORKER] || c.worker_told || self.workers[worker].life != life {
            return;
        }
        let frozen = self.workers[worker].frozen_until;
        if frozen > self.now {
            return self.at(frozen, Event::ToWorker { conn, message });
        }
        self.worker_hears(worker, link, conn, message);
    }

    /// Breaks a stream. Each side still gets what was on its way for a while, and learns of the break later.
    pub(crate) fn break_conn(&mut self, id: u64) {
        let spread = self.plan.faults.delay * 4 + 1;
        let (a, b) = (self.rng.below(spread), self.rng.below(spread));
        let keepalive = if self.rng.chance(0.5) { 100 * MS } else { 3 * SECOND };
        let (c, d) = (self.rng.below(keepalive), self.rng.below(keepalive));
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.cuts = [conn.cuts[0].min(now + a), conn.cuts[1].min(now + b)];
        self.after(a + c, Event::NodeSeesBreak { conn: id });
        self.after(b + d, Event::WorkerSeesBreak { conn: id });
    }

    /// The node's end is gone at once: the process died or closed it.
    pub(crate) fn node_closes(&mut self, id: u64) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.node_told = true;
        conn.cuts[TO_NODE] = now;
        // What was sent before the close still arrives.
        let last = conn.arrivals[TO_WORKER].max(now);
        let wait = self.rng.below(200 * MS);
        self.at(last + wait, Event::WorkerSeesBreak { conn: id });
    }

    pub(crate) fn node_sees_break(&mut self, id: u64) {
        let Some(conn) = self.conns.get(&id) else { return };
        let process = conn.process;
        if let Some(until) = self.paused(process) {
            return self.at(until, Event::NodeSeesBreak { conn: id });
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut conn.node_told, true) {
            return;
        }
        let partition = conn.link;
        self.give(process, partition, Command::Disconnect { session: SessionId(id) });
        self.forget_conn(id);
    }

    pub(crate) fn worker_sees_break(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (worker, link, life) = (conn.worker, conn.link, conn.life);
        let frozen = self.workers[worker].frozen_until;
        if frozen > self.now && self.workers[worker].life == life {
            return self.at(frozen, Event::WorkerSeesBreak { conn: id });
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !std::mem::replace(&mut conn.worker_told, true) && self.workers[worker].life == life {
            self.worker_lost_conn(worker, link, id);
        }
        self.forget_conn(id);
    }

    fn forget_conn(&mut self, id: u64) {
        if self.conns.get(&id).is_some_and(|c| c.node_told && c.worker_told) {
            self.conns.remove(&id);
        }
    }
}
