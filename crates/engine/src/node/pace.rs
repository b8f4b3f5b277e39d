//! How close commits follow each other.
//!
//! Without a pause, a commit begins when the one before it has ended, so that a fast disk is asked for thousands of syncs a
//! second although each carries a few tasks only. When work comes by itself (many clients, none of which waits for the one
//! before), a short pause lets more of it gather: the same work with a fifth of the disk's operations. When it comes from
//! callers that wait for each answer, a pause holds them up and gathers nothing.
//!
//! Which of the two it is shows when it is tried: for the length of a window commits keep a distance of [`PAUSE_MS`]. If as
//! much work was done as in the window before, the distance is kept, and left out for a window now and then to see whether
//! more would come without it; if less was done, it is given up, and tried again later and later.

/// Distance between the beginnings of two commits while they are paced, in milliseconds. Two commits of a sync and a page
/// or so each: under 1,000 operations of the disk a second, and less than 5 ms added to an answer.
pub const PAUSE_MS: u64 = 3;
/// Length of a window in milliseconds.
const WINDOW_MS: u64 = 250;
/// Commits in a window from which on a pause is worth a try: 600 a second.
const MANY: u64 = 150;
/// Changes per commit above which there is nothing to gain.
const LARGE: u64 = 256;
/// A try that failed is repeated after so long, and after twice as long each time, up to the longest.
const RETRY_MS: u64 = 30_000;
const RETRY_MOST_MS: u64 = 600_000;
/// While commits are paced, a window without a pause comes after so long.
const CHECK_MS: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// No pause.
    Off,
    /// A pause, for a look at what it does.
    Trying,
    /// A pause.
    On,
    /// No pause, for a look at what it held back.
    Checking,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    mode: Mode,
    /// Beginning of the window; commits and changes in it.
    window: u64,
    commits: u64,
    changes: u64,
    /// Changes of the window before the last change of mode.
    before: u64,
    /// When the mode may change next.
    next: u64,
    /// Pause before the next try.
    retry: u64,
    /// When the last commit began.
    last: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { mode: Mode::Off, window: 0, commits: 0, changes: 0, before: 0, next: 0, retry: RETRY_MS, last: 0 }
    }
}

impl Pace {
    /// From when on a batch may be closed that is neither full nor empty.
    pub fn opens(&self) -> u64 {
        if matches!(self.mode, Mode::Trying | Mode::On) { self.last + PAUSE_MS } else { 0 }
    }

    /// A batch with so many changes was closed.
    pub fn closed(&mut self, changes: usize, now: u64) {
        self.last = now;
        self.commits += 1;
        self.changes += changes as u64;
        if now >= self.window + WINDOW_MS {
            // A window that is much longer than it should be had a rest in it and says nothing.
            if now < self.window + 2 * WINDOW_MS {
                self.judge(now);
            } else if self.mode != Mode::Off {
                self.mode = Mode::Off;
            }
            (self.window, self.commits, self.changes) = (now, 0, 0);
        }
    }

    fn judge(&mut self, now: u64) {
        let changes = self.changes;
        let busy = self.commits >= MANY && changes < self.commits * LARGE;
        match self.mode {
            Mode::Off if busy && now >= self.next => {
                self.before = changes;
                self.mode = Mode::Trying;
            }
            Mode::Off => {}
            Mode::Trying if changes * 10 >= self.before * 9 => {
                (self.mode, self.next, self.retry) = (Mode::On, now + CHECK_MS, RETRY_MS);
            }
            Mode::Trying => self.give_up(now),
            // So little comes that commits are apart by themselves.
            Mode::On if changes < MANY => self.mode = Mode::Off,
            Mode::On if now >= self.next => {
                self.before = changes;
                self.mode = Mode::Checking;
            }
            Mode::On => {}
            Mode::Checking if changes * 10 > self.before * 12 => self.give_up(now),
            Mode::Checking => (self.mode, self.next) = (Mode::On, now + CHECK_MS),
        }
    }

    fn give_up(&mut self, now: u64) {
        (self.mode, self.next) = (Mode::Off, now + self.retry);
        self.retry = (2 * self.retry).min(RETRY_MOST_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs for so many milliseconds; `arrive` says how many changes come in a millisecond, given the commits of the one
    /// before. Returns commits and changes.
    fn run(pace: &mut Pace, from: u64, ms: u64, mut arrive: impl FnMut(u64, u64) -> u64) -> (u64, u64) {
        let (mut commits, mut changes, mut open, mut last) = (0, 0, 0, 0);
        for now in from..from + ms {
            open += arrive(now, last);
            last = 0;
            // The disk does two commits in a millisecond.
            if open > 0 && now >= pace.opens() {
                pace.closed(open as usize, now);
                (commits, changes, last, open) = (commits + 1, changes + open, open, 0);
            }
        }
        (commits, changes)
    }

    #[test]
    fn work_that_comes_by_itself_is_gathered() {
        let mut pace = Pace::default();
        run(&mut pace, 1_000, 2_000, |_, _| 20);
        let (commits, changes) = run(&mut pace, 3_000, 9_000, |_, _| 20);
        assert!((2_900..3_400).contains(&commits), "{commits}");
        assert!(changes >= 179_900, "{changes}");
    }

    /// Callers that wait for their answers: as many changes come as were answered in the millisecond before.
    fn waiting(callers: u64) -> impl FnMut(u64, u64) -> u64 {
        let mut first = true;
        move |_, answered| if std::mem::take(&mut first) { callers } else { answered }
    }

    #[test]
    fn callers_that_wait_for_their_answers_are_not_held_up() {
        let mut pace = Pace::default();
        let (_, changes) = run(&mut pace, 1_000, 60_000, waiting(10));
        assert!(changes >= 10 * 59_000, "{changes}: two tries in a minute");
    }

    #[test]
    fn a_pause_that_holds_back_is_noticed() {
        let mut pace = Pace::default();
        run(&mut pace, 1_000, 5_000, |_, _| 20);
        assert!(pace.opens() > 0);
        let (_, changes) = run(&mut pace, 6_000, 60_000, waiting(60));
        assert!(changes > 60 * 50_000, "{changes}: noticed at the next check");
    }

    #[test]
    fn few_commits_are_left_as_they_are() {
        let mut pace = Pace::default();
        run(&mut pace, 1_000, 10_000, |now, _| u64::from(now % 10 == 0));
        assert_eq!(pace.opens(), 0);
    }
}
