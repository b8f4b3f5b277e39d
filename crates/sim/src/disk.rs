//! A store on a disk that fails in all the ways a disk can: commits are queued, take time, fail, land and report
//! failure, or vanish with the machine.

use std::collections::VecDeque;

use tidewheel_engine::Batch;
use tidewheel_engine::mutation::Recovered;
use tidewheel_engine::planted::{Bug, Planted};
use tidewheel_store::Error;
use tidewheel_store::memory::{self, State};

/// A queued commit.
#[derive(Debug)]
pub struct Pending {
    /// Process that asked for it.
    pub process: u64,
    /// What to store.
    pub batch: Batch,
}

/// What becomes of the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Stored.
    Stored,
    /// Not stored, and said so.
    Fails,
    /// Stored, and reported as failed.
    LandsAndFails,
    /// The sync fails; whether it was stored is open.
    FsyncFails(bool),
}

/// The store of one partition.
#[derive(Debug)]
pub struct Disk {
    /// What readers see.
    pub state: State,
    /// What a loss of power leaves; only apart from `state` when the sync is dropped.
    synced: Option<State>,
    unsynced: Vec<Batch>,
    /// Commits under way, in order.
    pub queue: VecDeque<Pending>,
    /// The first of the queue is being written.
    pub busy: bool,
    /// Next commit's fate, if not the usual one.
    pub fate: Option<Fate>,
    planted: Planted,
}

impl Disk {
    /// An empty one.
    pub fn new(planted: Planted) -> Disk {
        let synced = planted.has(Bug::DropFsync).then(State::default);
        Disk {
            state: State::default(),
            synced,
            unsynced: Vec::new(),
            queue: VecDeque::new(),
            busy: false,
            fate: None,
            planted,
        }
    }

    /// A new owner.
    pub fn take_over(&mut self, partition: u32) -> Recovered {
        if let Some(synced) = &mut self.synced {
            // Opening a file syncs it.
            for batch in self.unsynced.drain(..) {
                memory::apply(synced, &batch).expect("what readers saw fits what was synced");
            }
            memory::take_over(synced, partition);
        }
        memory::take_over(&mut self.state, partition)
    }

    /// Writes the first commit of the queue. Returns what was stored, under the number it got, and the report.
    pub fn write(&mut self) -> Option<(Pending, Fate, Result<(), Error>)> {
        self.busy = false;
        let mut pending = self.queue.pop_front()?;
        if self.planted.has(Bug::SkipEpochCheck) {
            let (epoch, last) = self.state.position(pending.batch.partition);
            if pending.batch.epoch < epoch {
                // What a store without the check would do: take it, and count it as the next one.
                let old = pending.batch.epoch;
                let mut forged = pending.batch.clone();
                (forged.epoch, forged.index) = (epoch, last + 1);
                let result = memory::apply(&mut self.state, &forged);
                pending.batch.epoch = old;
                return Some((pending, Fate::Stored, result));
            }
        }
        let fate = self.fate.take().unwrap_or(Fate::Stored);
        let result = match fate {
            Fate::Fails | Fate::FsyncFails(false) => Err(Error::Failed("injected".to_owned())),
            Fate::Stored | Fate::LandsAndFails | Fate::FsyncFails(true) => self.apply(&pending.batch),
        };
        Some((pending, fate, result))
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), Error> {
        memory::apply(&mut self.state, batch)?;
        if let Some(synced) = &mut self.synced {
            self.unsynced.push(batch.clone());
            // The disk gets round to it some time, as an operating system's cache does.
            while self.unsynced.len() > 40 {
                memory::apply(synced, &self.unsynced.remove(0))?;
            }
        }
        Ok(())
    }

    /// The machine lost power: what was queued by the process is gone, and so is what was not synced.
    pub fn lose_power(&mut self, process: u64) {
        self.queue.retain(|pending| pending.process != process);
        if let Some(synced) = &self.synced {
            self.unsynced.clear();
            self.state = synced.clone();
        }
    }
}
