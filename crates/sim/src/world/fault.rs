//! Faults: each is counted when it happens, and comes again after a random time until the run heals.

use super::World;
use crate::disk::Fate;
use crate::event::{Event, Fault};
use crate::plan::{FaultPlan, MS, SECOND};

impl Fault {
    const ALL: [Fault; 14] = [
        Fault::Crash,
        Fault::Takeover,
        Fault::Pause,
        Fault::CommitFails,
        Fault::CommitLandsAndFails,
        Fault::FsyncFails,
        Fault::Full,
        Fault::Slow,
        Fault::WorkerCrash,
        Fault::WorkerFreeze,
        Fault::BreakLink,
        Fault::Clog,
        Fault::Jump,
        Fault::WorkerDrain,
    ];

    fn name(self) -> &'static str {
        match self {
            Fault::Crash => "node crash",
            Fault::Takeover => "takeover",
            Fault::Pause => "node pause",
            Fault::CommitFails => "commit fails",
            Fault::CommitLandsAndFails => "commit lands and fails",
            Fault::FsyncFails => "fsync fails",
            Fault::Full => "disk full",
            Fault::Slow => "disk slow",
            Fault::WorkerCrash => "worker crash",
            Fault::WorkerFreeze => "worker freeze",
            Fault::BreakLink => "link breaks",
            Fault::Clog => "all links clog",
            Fault::Jump => "clock jump",
            Fault::WorkerDrain => "worker drain",
        }
    }

    fn mean(self, plan: &FaultPlan) -> u64 {
        match self {
            Fault::Crash => plan.crash,
            Fault::Takeover => plan.takeover,
            Fault::Pause => plan.pause,
            Fault::CommitFails => plan.commit_fails,
            Fault::CommitLandsAndFails => plan.commit_lands_and_fails,
            Fault::FsyncFails => plan.fsync_fails,
            Fault::Full => plan.full,
            Fault::Slow => plan.slow,
            Fault::WorkerCrash => plan.worker_crash,
            Fault::WorkerFreeze => plan.worker_freeze,
            Fault::BreakLink => plan.break_link,
            Fault::Clog => plan.clog,
            Fault::Jump => plan.jump,
            Fault::WorkerDrain => plan.worker_drain,
        }
    }
}

impl World {
    pub(crate) fn plan_faults(&mut self) {
        for fault in Fault::ALL {
            self.fault_after(fault.mean(&self.plan.faults), fault);
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        if self.is_quiet() {
            return;
        }
        self.count(fault.name());
        self.inject(fault);
        self.fault_after(fault.mean(&self.plan.faults), fault);
    }

    fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Crash => {
                if let Some(process) = self.current {
                    self.kill_process(process);
                    let wait = self.rng.range(10, 8_000) * MS;
                    self.after(wait, Event::NodeStarts);
                }
            }
            Fault::Takeover => self.take_over(),
            Fault::Pause => {
                let length = self.rng.range(10, 3 * self.plan.options.lease_ms) * MS;
                self.pause_node(length);
            }
            Fault::CommitFails => self.next_commit(Fate::Fails),
            Fault::CommitLandsAndFails => self.next_commit(Fate::LandsAndFails),
            Fault::FsyncFails => {
                let lands = self.rng.chance(0.5);
                self.next_commit(Fate::FsyncFails(lands));
            }
            Fault::Full => self.full_until = self.now + self.rng.range(100, 6_000) * MS,
            Fault::Slow => self.slow_until = self.now + self.rng.range(1_000, 6_000) * MS,
            Fault::WorkerCrash => {
                let worker = self.some_worker();
                self.kill_worker(worker);
            }
            Fault::WorkerFreeze => {
                let worker = self.some_worker();
                let lease = self.plan.options.lease_ms;
                // It wakes up just after it lost what it has, and claims it while those who have it now are cut off.
                let claims = self.rng.chance(0.4);
                let length = if claims { lease + self.rng.below(1_500) } else { self.rng.range(100, 3 * lease) } * MS;
                if self.workers[worker].frozen_until > self.now {
                    return;
                }
                self.workers[worker].frozen_until = self.now + length;
                if claims {
                    let before = self.rng.below(SECOND);
                    self.after(length - before, Event::LinksBreak);
                }
                if self.rng.chance(0.3) {
                    let conns: Vec<u64> = self.workers[worker].links.iter().filter_map(|l| l.conn).collect();
                    conns.into_iter().for_each(|conn| self.break_conn(conn));
                }
            }
            Fault::BreakLink => {
                let worker = self.some_worker();
                let link = self.rng.below(self.disks.len() as u64) as usize;
                if let Some(conn) = self.workers[worker].links[link].conn {
                    self.break_conn(conn);
                }
            }
            Fault::Clog => {
                let conns: Vec<u64> = self.workers.iter().flat_map(|w| w.links.iter().filter_map(|l| l.conn)).collect();
                conns.into_iter().filter(|conn| conn % 3 != 0).for_each(|conn| self.break_conn(conn));
            }
            Fault::Jump => {
                let jumps: [i64; 8] = [150, -150, 3_000, -3_000, 40_000, -40_000, 3_600_000, -3_600_000];
                self.wall_offset += *self.rng.pick(&jumps);
            }
            Fault::WorkerDrain => {
                let worker = self.some_worker();
                let life = self.workers[worker].life;
                self.after(0, Event::WorkerDrains { worker, life, draining: true });
            }
        }
    }

    pub(crate) fn break_all_conns(&mut self) {
        let mut conns: Vec<u64> = self.conns.keys().copied().collect();
        conns.sort_unstable();
        conns.into_iter().for_each(|conn| self.break_conn(conn));
    }

    fn some_worker(&mut self) -> usize {
        self.rng.below(self.workers.len() as u64) as usize
    }

    fn next_commit(&mut self, fate: Fate) {
        let partition = self.rng.below(self.disks.len() as u64) as usize;
        self.disks[partition].fate = Some(fate);
    }

    fn pause_node(&mut self, length: u64) {
        let now = self.now;
        if let Some(process) = self.current.and_then(|id| self.processes.get_mut(&id))
            && process.paused_until <= now
        {
            process.paused_until = now + length;
        }
    }

    /// The owner stands still, somebody starts another one, and then the first one wakes up in the middle of what it
    /// was doing.
    fn take_over(&mut self) {
        let length = self.rng.range(500, 12_000) * MS;
        self.pause_node(length);
        let Some(old) = self.current else { return };
        self.start_node();
        // Streams of the old owner stand still with it, until somebody loses patience.
        let conns: Vec<u64> = self.conns.iter().filter(|(_, c)| c.process == old).map(|(id, _)| *id).collect();
        for conn in conns {
            let wait = self.rng.below(3 * SECOND);
            self.after(wait, Event::WorkerSeesBreak { conn });
        }
    }
}
