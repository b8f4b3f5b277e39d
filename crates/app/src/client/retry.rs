//! When a refused request is sent again.

use std::time::Duration;

use tidewheel_proto::rest::Problem;

/// Tries in all. With the waits below this is about half a minute, after which a person would rather know.
const MAX_TRIES: u32 = 6;
/// The first wait, and the least one where the server names another; it doubles.
const FIRST_WAIT_MS: u64 = 250;
/// A server that asks for more is taken at its word, and the verb fails at once with that word.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The state of one request's repeats.
pub(super) struct Retries {
    tries: u32,
    most: u32,
}

impl Retries {
    pub(super) fn new(patient: bool) -> Retries {
        Retries { tries: 1, most: if patient { MAX_TRIES } else { 1 } }
    }

    /// How long to wait before the next try, or `None` when it is over.
    pub(super) fn after(&mut self, problem: &Problem) -> Option<Duration> {
        if self.tries >= self.most || !problem.retryable || !matches!(problem.status, 429 | 503) {
            return None;
        }
        let asked = problem.retry_after.map(|s| Duration::from_secs(s.into()));
        if asked.is_some_and(|asked| asked > LONGEST_WAIT) {
            return None;
        }
        // Growing all the same: a server that says one second to everybody would have everybody back each second.
        let base = asked.unwrap_or_default().max(Duration::from_millis(FIRST_WAIT_MS << self.tries.min(6)));
        self.tries += 1;
        // Jitter only adds: coming earlier than asked would be refused again.
        Some(base + Duration::from_millis(random() % (base.as_millis() as u64 / 2).max(50)))
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random bytes the jitter is zero, which is safe.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_hex() -> String {
    format!("{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewheel_proto::code::Code;

    #[test]
    fn only_what_was_not_accepted_is_repeated_and_never_too_early() {
        let mut retries = Retries::new(true);
        let wait = retries.after(&Problem::new(Code::Overloaded, "").after_seconds(2));
        assert!(wait.is_some_and(|w| w >= Duration::from_secs(2) && w <= Duration::from_secs(3)));
        assert_eq!(retries.after(&Problem::new(Code::NotFound, "")), None);
        assert_eq!(retries.after(&Problem::new(Code::Overloaded, "").after_seconds(3600)), None);
    }

    #[test]
    fn waits_grow_though_the_server_always_asks_for_the_same() {
        let mut retries = Retries::new(true);
        let problem = Problem::new(Code::RateLimited, "").after_seconds(1);
        let waits: Vec<u64> = std::iter::from_fn(|| retries.after(&problem)).map(|w| w.as_millis() as u64).collect();
        for (wait, least) in waits.iter().zip([1_000, 1_000, 2_000, 4_000, 8_000]) {
            assert!((least..=least * 3 / 2 + 50).contains(wait), "{waits:?}");
        }
    }

    #[test]
    fn it_gives_up() {
        let mut retries = Retries::new(true);
        let problem = Problem::new(Code::RateLimited, "").after_seconds(0);
        assert_eq!(std::iter::from_fn(|| retries.after(&problem)).count(), MAX_TRIES as usize - 1);
        assert_eq!(Retries::new(false).after(&problem), None);
    }
}
