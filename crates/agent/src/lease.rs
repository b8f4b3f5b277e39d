//! The agent's own view of its lease: when the server was last reached, and whether so long has passed that it must have
//! given the attempts away. It only keeps time; the runner kills.
//!
//! A lapse is sticky. A machine that was frozen may run the heartbeat before anything else when it wakes; that heartbeat
//! must not hide that the lease was over.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Shared by the heartbeat, the link and the runner.
pub(crate) struct Lease {
    state: Mutex<State>,
}

struct State {
    contact: Instant,
    length: Duration,
    /// Nothing is at stake before the first welcome and between lapse and the next welcome.
    held: bool,
    lapsed: bool,
}

impl Lease {
    pub(crate) fn new(now: Instant) -> Self {
        Self { state: Mutex::new(State { contact: now, length: Duration::MAX, held: false, lapsed: false }) }
    }

    /// The server answered.
    pub(crate) fn welcome(&self, length: Duration, now: Instant) {
        let mut state = self.state.lock();
        state.note(now);
        state.length = length;
        state.contact = now;
        state.held = true;
    }

    /// A heartbeat left on a live connection, or something came from the server.
    pub(crate) fn contact(&self, now: Instant) {
        let mut state = self.state.lock();
        state.note(now);
        state.contact = now;
    }

    /// The connection was found dead only by its silence: what was sent in the last moments did not arrive.
    pub(crate) fn was_silent(&self, silence: Duration) {
        let mut state = self.state.lock();
        state.contact = state.contact.checked_sub(silence).unwrap_or(state.contact);
    }

    /// Whether the lease ended since the last call.
    pub(crate) fn take_lapse(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.note(now);
        std::mem::take(&mut state.lapsed)
    }
}

impl State {
    fn note(&mut self, now: Instant) {
        if self.held && now.saturating_duration_since(self.contact) >= self.length {
            self.held = false;
            self.lapsed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn contact_keeps_the_lease() {
        let start = Instant::now();
        let lease = Lease::new(start);
        lease.welcome(SECOND * 4, start);
        for i in 1..10 {
            lease.contact(start + SECOND * i);
            assert!(!lease.take_lapse(start + SECOND * i));
        }
        assert!(lease.take_lapse(start + SECOND * 13));
        assert!(!lease.take_lapse(start + SECOND * 20), "a lapse is told once");
    }

    #[test]
    fn a_heartbeat_after_a_freeze_does_not_hide_the_lapse() {
        let start = Instant::now();
        let lease = Lease::new(start);
        lease.welcome(SECOND * 4, start);
        lease.contact(start + SECOND * 60);
        assert!(lease.take_lapse(start + SECOND * 60));
    }

    #[test]
    fn silence_counts_from_before_it_was_noticed() {
        let start = Instant::now();
        let lease = Lease::new(start);
        lease.welcome(SECOND * 4, start);
        lease.contact(start + SECOND * 10);
        let lease = Lease::new(start);
        lease.welcome(SECOND * 4, start);
        lease.contact(start + SECOND * 3);
        lease.was_silent(SECOND * 2);
        assert!(lease.take_lapse(start + SECOND * 5));
    }
}
