//! What goes into a batch first: commands that were accepted and not yet applied, in two lines.
//!
//! Results, signs of life, cancels and looks go before new tasks: each result frees a permit, and a task that comes when
//! a permit is free is stored running, by one row. One that comes before has to be stored waiting, found again and
//! changed: half as much work again. So while results come in numbers, new tasks are taken as permits are spare for
//! them, and a backlog shrinks instead of growing; the others wait in the mailbox, which is bounded. New tasks always
//! keep a pace of their own ([`SUBMIT_PACE`]), so that they never wait for a backlog to end. While few results come, the
//! server has time for both, and nothing is held back.
//!
//! Order holds within each line. Between the lines nothing relies on it: a caller that needs it waits for its answer.

use std::collections::VecDeque;

use super::BATCH_ITEMS;
use crate::command::Command;

/// New tasks taken in a millisecond, whatever else waits.
pub const SUBMIT_PACE: u64 = 32;
/// What of that pace may be saved up.
const SAVED: u64 = 32 * SUBMIT_PACE;
/// Results in two windows from which on new tasks may have to wait: 10,000 to 20,000 a second, a tenth of what two
/// cores do.
const MANY_RESULTS: usize = 5_000;
/// Length of a window in milliseconds. Longer than it takes busy workers to answer a burst of grants.
const WINDOW_MS: u64 = 250;
/// Room that others leave in a batch.
const SUBMIT_ROOM: usize = BATCH_ITEMS / 4;

/// See the module.
#[derive(Debug, Default)]
pub struct Intake {
    submits: VecDeque<Command>,
    others: VecDeque<Command>,
    /// When the newer window began; results of the older one and of the newer.
    window: u64,
    results: [usize; 2],
    /// Up to when the pace of new tasks is used up by those that were taken: milliseconds times [`SUBMIT_PACE`].
    paced: u64,
}

impl Intake {
    /// Adds a command.
    pub fn push(&mut self, command: Command) {
        let line = if command.is_submit() { &mut self.submits } else { &mut self.others };
        line.push_back(command);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.submits.is_empty() && self.others.is_empty()
    }

    /// Takes out all that waits.
    pub fn drain(&mut self) -> Vec<Command> {
        self.others.drain(..).chain(self.submits.drain(..)).collect()
    }

    /// Whether [`Intake::next`] would give something to a batch with room.
    pub fn gives(&self, spare: u64, now: u64) -> bool {
        !self.others.is_empty() || (!self.submits.is_empty() && self.takes_submits(spare, now))
    }

    /// When new tasks that are held back may be taken at the latest, on the monotonic clock.
    pub fn next_wake(&self) -> Option<u64> {
        (!self.submits.is_empty()).then(|| self.paced.div_ceil(SUBMIT_PACE).min(self.window + 2 * WINDOW_MS))
    }

    /// The next command for the open batch, which has so many changes and effects already, while so many permits are
    /// free that nobody waits for. `now` is the monotonic time. `None` = nothing that waits may be taken.
    pub fn next(&mut self, items: usize, spare: u64, now: u64) -> Option<Command> {
        if now >= self.window + WINDOW_MS {
            let older = if now < self.window + 2 * WINDOW_MS { self.results[1] } else { 0 };
            (self.window, self.results) = (now, [older, 0]);
        }
        let submit = !self.submits.is_empty() && self.takes_submits(spare, now);
        if (items < BATCH_ITEMS - SUBMIT_ROOM || !submit)
            && let Some(command) = self.others.pop_front()
        {
            if matches!(command, Command::Results { .. }) {
                self.results[1] += command.weight();
            }
            return Some(command);
        }
        let command = if submit { self.submits.pop_front()? } else { return None };
        // What was taken while nothing was held back is not owed later.
        let tick = now * SUBMIT_PACE;
        self.paced = self.paced.clamp(tick.saturating_sub(SAVED), tick) + command.weight() as u64;
        Some(command)
    }

    fn takes_submits(&self, spare: u64, now: u64) -> bool {
        let fresh = if now < self.window + 2 * WINDOW_MS { self.results[0] + self.results[1] } else { 0 };
        fresh < MANY_RESULTS || spare > 0 || now * SUBMIT_PACE >= self.paced
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::command::Submit;
    use crate::id::{RequestId, SessionId, TaskId, TenantId, Token};
    use crate::task::{Outcome, Payload};

    fn submit(items: usize) -> Command {
        let one = Submit {
            kind: "noop".into(),
            queue: "default".into(),
            priority: 5,
            run_at: 0,
            delay_ms: 0,
            input: Payload::None,
            spec: Arc::default(),
            idempotency: None,
        };
        Command::Submit { request: RequestId(1), tenant: TenantId(1), items: vec![one; items] }
    }

    fn results(count: usize) -> Command {
        let one = (TaskId(1), Token::default(), Outcome::Ok { result: Payload::None, artifacts: Vec::new() });
        Command::Results { session: SessionId(1), results: vec![one; count] }
    }

    /// What a batch takes, as letters, when each command adds its weight to the batch. `backlog` = each permit that is
    /// freed is waited for.
    fn batch(intake: &mut Intake, now: u64, backlog: bool) -> String {
        let (mut taken, mut items, mut spare) = (String::new(), 0, 0);
        while items < BATCH_ITEMS {
            let Some(command) = intake.next(items, spare, now) else { break };
            items += command.weight();
            let weight = if backlog { 0 } else { command.weight() as u64 };
            spare = if command.is_submit() { spare.saturating_sub(weight) } else { spare + weight };
            taken.push(if command.is_submit() { 's' } else { 'r' });
        }
        taken
    }

    #[test]
    fn results_go_first_and_new_tasks_are_as_many_as_the_permits_they_free() {
        let mut intake = Intake::default();
        (0..12).for_each(|_| intake.push(submit(1_600)));
        (0..2).for_each(|_| intake.push(results(3_200)));
        assert_eq!(batch(&mut intake, 1_000, false), "rrss");
        (0..2).for_each(|_| intake.push(results(1_600)));
        assert_eq!(batch(&mut intake, 1_001, false), "rrss");
        assert_eq!(batch(&mut intake, 1_002, false), "", "more results are on their way");
        assert!(!intake.gives(0, 1_002));
        assert_eq!(intake.next_wake(), Some(1_051));
        assert_eq!(batch(&mut intake, 1_051, false), "s", "their own pace");
        assert_eq!(batch(&mut intake, 1_600, false), "ssssss", "no results came for a while");
    }

    #[test]
    fn new_tasks_keep_their_pace_whatever_waits() {
        let mut intake = Intake::default();
        (0..100).for_each(|_| intake.push(submit(100)));
        let mut taken = 0;
        for now in 1_000..1_100 {
            (0..10).for_each(|_| intake.push(results(1_024)));
            taken += 100 * batch(&mut intake, now, true).matches('s').count() as u64;
        }
        assert!((100 * SUBMIT_PACE..100 * SUBMIT_PACE + SAVED + 200).contains(&taken), "{taken}");
    }

    #[test]
    fn few_results_hold_nothing_back() {
        let mut intake = Intake::default();
        for now in 1_000..1_400 {
            intake.push(results(10));
            (0..8).for_each(|_| intake.push(submit(1_000)));
            assert_eq!(batch(&mut intake, now, true), "rssssssss");
            intake.drain();
        }
    }

    #[test]
    fn results_alone_fill_a_batch() {
        let mut intake = Intake::default();
        (0..10).for_each(|_| intake.push(results(1_024)));
        assert_eq!(batch(&mut intake, 1_000, true), "rrrrrrrr");
    }
}
