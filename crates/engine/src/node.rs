//! The shell's decisions, without its I/O: when a batch is closed, how many are under way, when effects may leave, what
//! a failed commit means, and what time it is. `runtime` performs them, the simulator runs them.

mod intake;
mod pace;

use std::collections::VecDeque;

pub use intake::{Intake, SUBMIT_PACE};
pub use pace::{PAUSE_MS, Pace};

use crate::command::Command;
use crate::effect::{Effect, Reply};
use crate::id::RequestId;
use crate::load::{Load, LoadId, Loaded};
use crate::mutation::{Batch, Recovered};
use crate::partition::{Options, Partition, Probe};
use crate::planted::Bug;
use crate::time::{Now, Steady};

/// Batches under way at once. One is being synced, one is queued behind it, a third is being built; more would only
/// delay the news of a failed commit.
pub const BATCHES_IN_FLIGHT: usize = 2;

/// A batch is closed when it has so many changes and effects, so that a reply never waits for an endless batch.
pub const BATCH_ITEMS: usize = 8_192;

/// A batch that takes no more commands still grants until it has so many.
pub const GRANTED_ITEMS: usize = 2 * BATCH_ITEMS;

/// A batch that could still grow is closed after so many milliseconds: what it has to tell must not wait for a run that always has
/// something to do, and changes little with it.
pub const GROWTH_MS: u64 = 50;

/// What is due still becomes ready in a batch with so many changes. It is granted by the same batch as a rule, and then
/// costs no row of its own; firing late would cost accuracy.
pub const FIRED_ITEMS: usize = 4 * BATCH_ITEMS;

/// What the shell has to do.
#[derive(Debug)]
pub enum Action {
    /// Store this batch and report [`Shell::committed`] or [`Shell::failed`].
    Commit(Batch),
    /// Read and report [`Shell::loaded`] or [`Shell::load_failed`].
    Load(LoadId, Load),
    /// Perform these now.
    Perform(Vec<Effect>),
    /// Tasks became ready so many milliseconds after their due times. For the figures only.
    Fired(Vec<u64>),
}

/// The state of a partition's shell.
#[derive(Debug)]
pub struct Shell {
    partition: Partition,
    under_way: VecDeque<(u64, Vec<Effect>)>,
    pace: Pace,
    /// Since when the open batch is held open because it grows.
    growing: Option<u64>,
    planted: crate::planted::Planted,
}

impl Shell {
    /// A shell around a fresh partition.
    pub fn new(options: Options, recovered: Recovered, now: Now) -> Shell {
        let planted = options.planted;
        let (partition, pace) = (Partition::new(options, recovered, now), Pace::default());
        Shell { partition, under_way: VecDeque::new(), pace, growing: None, planted }
    }

    /// Whether commands may be applied now: the open batch has room, or can be closed.
    pub fn takes_commands(&self) -> bool {
        self.under_way.len() < BATCHES_IN_FLIGHT && self.partition.output_len() < BATCH_ITEMS
    }

    /// See [`Partition::hold_grants`].
    pub fn hold_grants(&mut self, holding: bool) {
        self.partition.hold_grants(holding);
    }

    /// Batches under way.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// The next command of an intake that the open batch has room for.
    pub fn next(&self, intake: &mut Intake, now: Now) -> Option<Command> {
        if !self.takes_commands() {
            return None;
        }
        intake.next(self.partition.output_len(), self.partition.spare_permits(), now.mono)
    }

    /// Whether [`Shell::next`] has a command.
    pub fn has_next(&self, intake: &Intake, now: Now) -> bool {
        self.takes_commands() && intake.gives(self.partition.spare_permits(), now.mono)
    }

    /// Applies a command to the open batch.
    pub fn command(&mut self, command: Command, now: Now, probe: &dyn Probe) {
        self.partition.apply(command, now, probe);
    }

    /// The answer of a read.
    pub fn loaded(&mut self, id: LoadId, as_of: u64, loaded: Loaded, now: Now) {
        self.partition.loaded(id, as_of, loaded, now);
    }

    /// A read failed; it is asked again.
    pub fn load_failed(&mut self, id: LoadId, load: Load) {
        self.partition.load_failed(id, load);
    }

    /// Batch `index` is durable: its effects leave, in order.
    pub fn committed(&mut self, index: u64, actions: &mut Vec<Action>) {
        let Some((expected, effects)) = self.under_way.pop_front() else { return };
        assert_eq!(expected, index, "commits are reported in order");
        self.partition.committed(index);
        if !effects.is_empty() {
            actions.push(Action::Perform(effects));
        }
    }

    /// A commit failed. Nothing that was not yet performed may be performed any more: the partition is dropped with
    /// everything it had in memory, and a new one is opened from the store at a higher epoch. Returns the callers whose
    /// outcome is unknown.
    pub fn failed(self) -> Vec<RequestId> {
        let waiting = self.under_way.into_iter().flat_map(|(_, effects)| effects);
        waiting
            .filter_map(|effect| match effect {
                Effect::Reply { request, .. } => Some(request),
                _ => None,
            })
            .collect()
    }

    /// Makes ready what has come due since. Called between the pieces of long work, so that no timer waits for the whole
    /// of it: what is due does not wait for the disk; its commit does.
    pub fn fire(&mut self, now: Now) -> bool {
        self.fires() && self.partition.fire(now)
    }

    /// One turn: timers, a piece of dispatch, and the batch closed if there is room for it. Returns whether there is more
    /// to do at once.
    ///
    /// A batch stays open until all is granted that can be, in pieces, each with a newer time: a task that is granted by
    /// the batch that brings it costs one row instead of two.
    pub fn turn(&mut self, now: Now, actions: &mut Vec<Action>) -> bool {
        let more = if self.under_way.len() < BATCHES_IN_FLIGHT {
            let more = self.partition.turn(now);
            let grows = more && self.partition.output_len() < GRANTED_ITEMS && self.grows_on(now);
            if self.partition.has_output() && !grows && self.closes(now) {
                self.close_batch(now, actions);
            } else if !grows {
                // Nothing is held open for what is still to come.
                self.growing = None;
            }
            more
        } else {
            self.fire(now)
        };
        let fired = self.partition.take_fired();
        if !fired.is_empty() {
            actions.push(Action::Fired(fired));
        }
        actions.extend(self.partition.take_loads().into_iter().map(|(id, load)| Action::Load(id, load)));
        more
    }

    /// Whether the open batch has not been held open for too long.
    fn grows_on(&mut self, now: Now) -> bool {
        let since = *self.growing.get_or_insert(now.mono);
        now.mono < since.saturating_add(GROWTH_MS)
    }

    /// Whether the open batch is closed now: it is full, or changes nothing, or its time has come.
    fn closes(&self, now: Now) -> bool {
        now.mono >= self.pace.opens() || self.partition.output_len() >= BATCH_ITEMS || !self.partition.has_changes()
    }

    fn close_batch(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.growing = None;
        let (batch, effects) = self.partition.finish_batch();
        if !batch.mutations.is_empty() {
            self.pace.closed(batch.mutations.len(), now.mono);
        }
        let early = self.planted.has(Bug::EffectBeforeCommit);
        let overtake = self.planted.has(Bug::EffectsOvertake);
        if batch.mutations.is_empty() || early {
            // Effects without a change of their own may show what is still under way: they wait for it.
            match self.under_way.back_mut() {
                Some((_, waiting)) if !early && !overtake => waiting.extend(effects),
                _ => actions.push(Action::Perform(effects)),
            }
            if !batch.mutations.is_empty() {
                self.under_way.push_back((batch.index, Vec::new()));
                actions.push(Action::Commit(batch));
            }
            return;
        }
        self.under_way.push_back((batch.index, effects));
        actions.push(Action::Commit(batch));
    }

    /// Whether timers may fire now.
    fn fires(&self) -> bool {
        self.under_way.len() < BATCHES_IN_FLIGHT || self.partition.output_len() < FIRED_ITEMS
    }

    /// See [`Partition::next_wake`]. What has to wait for a commit has no time of its own: the commit wakes it.
    pub fn next_wake(&self, intake: &Intake) -> (Option<u64>, Option<u64>) {
        let (wall, mono) = self.partition.next_wake();
        let takes = self.under_way.len() < BATCHES_IN_FLIGHT;
        let paced = self.partition.has_output().then(|| self.pace.opens());
        let mono = [mono, intake.next_wake(), paced].into_iter().flatten().min();
        (wall.filter(|_| self.fires()), mono.filter(|_| takes))
    }

    /// The partition, for looks.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }
}

/// Whether a reply tells of a change (and so must not be sent when its commit failed).
pub fn is_answer(reply: &Reply) -> bool {
    !matches!(reply, Reply::View(_))
}

/// A jump of the wall clock ahead of the monotonic one by more than this is held back until it is confirmed.
pub const JUMP_MS: u64 = 5_000;
/// A jump that has stood for so long is taken as right.
pub const JUMP_HOLD_MS: u64 = 10_000;

/// Turns two raw clocks into one sane [`Now`]: wall time never falls, follows the monotonic clock over jumps, and slews
/// back when it is ahead.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    steady: Option<Steady>,
    jumped_at: Option<u64>,
}

impl Clock {
    /// The time to work with, from what the machine says.
    pub fn observe(&mut self, raw: Now) -> Now {
        let steady = self.steady.get_or_insert(Steady::new(raw));
        let last = steady.last();
        let mono = raw.mono.max(last.mono);
        let expected = last.wall + (mono - last.mono);
        if raw.wall <= expected + JUMP_MS {
            self.jumped_at = None;
            return steady.observe(Now { wall: raw.wall, mono });
        }
        let since = *self.jumped_at.get_or_insert(mono);
        if mono - since < JUMP_HOLD_MS {
            return steady.observe(Now { wall: expected, mono });
        }
        self.jumped_at = None;
        steady.observe(Now { wall: raw.wall, mono })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_never_falls_and_a_jump_ahead_is_held_until_it_has_stood() {
        let mut clock = Clock::default();
        assert_eq!(clock.observe(Now { wall: 1_000_000, mono: 0 }).wall, 1_000_000);
        assert_eq!(clock.observe(Now { wall: 1_000_100, mono: 100 }).wall, 1_000_100);
        assert_eq!(clock.observe(Now { wall: 4_600_000, mono: 200 }).wall, 1_000_200, "held");
        assert_eq!(clock.observe(Now { wall: 4_605_000, mono: 5_200 }).wall, 1_005_200, "still held");
        assert_eq!(clock.observe(Now { wall: 4_610_000, mono: 10_200 }).wall, 4_610_000, "it has stood");
        let back = clock.observe(Now { wall: 1_000_000, mono: 10_400 });
        assert_eq!(back.wall, 4_610_100, "half speed while the machine is behind");
    }
}
