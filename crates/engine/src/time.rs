//! Time as an argument. The engine never reads a clock; each call brings the time it happens at.

/// Both clocks at one moment, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since 1970. Never falls within a partition; used for absolute dates and for everything that is stored.
    pub wall: u64,
    /// Since some start. Never falls, not affected by clock changes; used for leases and timeouts in memory.
    pub mono: u64,
}

/// A wall clock that never falls: when the given one is behind, it goes on at half speed until that has caught up, so
/// that nothing happens twice and nothing waits for ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Steady {
    last: Now,
    /// Where it began to go slowly. The half is taken of all that has passed since, or many short steps would add up to
    /// nothing.
    slow: Option<Now>,
}

impl Steady {
    /// One that does not go below `now`.
    pub fn new(now: Now) -> Steady {
        Steady { last: now, slow: None }
    }

    /// The time to work with, from what the caller says.
    pub fn observe(&mut self, given: Now) -> Now {
        let mono = given.mono.max(self.last.mono);
        if given.wall >= self.last.wall {
            self.slow = None;
            self.last = Now { wall: given.wall, mono };
            return self.last;
        }
        let from = *self.slow.get_or_insert(self.last);
        let wall = (from.wall + (mono - from.mono) / 2).max(self.last.wall);
        self.last = Now { wall, mono };
        self.last
    }

    /// What was observed last.
    pub fn last(&self) -> Now {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_short_steps_behind_are_half_of_one_long_step() {
        let mut clock = Steady::new(Now { wall: 10_000, mono: 0 });
        for mono in 1..=1_000 {
            clock.observe(Now { wall: 5_000 + mono, mono });
        }
        assert_eq!(clock.last(), Now { wall: 10_500, mono: 1_000 });
        assert_eq!(clock.observe(Now { wall: 10_501, mono: 1_001 }).wall, 10_501, "caught up");
    }
}
