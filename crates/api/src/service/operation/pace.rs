//! How fast an operation works: as fast as it can while nobody else calls, and in small pieces with pauses while somebody does, so that a
//! caller hardly ever waits behind more than one small commit of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::state::Api;

/// Calls a second from which on there is somebody who would notice. That a person follows an operation is no reason to be slow.
const BUSY: f64 = 20.0;
/// Calls are counted over so long.
const WINDOW: Duration = Duration::from_millis(250);
/// What a piece is to take while somebody calls: about one commit.
const PIECE: Duration = Duration::from_millis(3);
/// The smallest piece.
const LEAST: usize = 16;

/// Calls from outside so far: requests over HTTP, and messages of streams that submit.
#[derive(Debug, Default)]
pub(crate) struct Calls(AtomicU64);

impl Calls {
    /// One more.
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The pace of one operation.
pub(super) struct Pace {
    /// Things in a piece now, and at most.
    together: usize,
    most: usize,
    /// When calls were counted last, and how many there were.
    counted: (Instant, u64),
    busy: bool,
}

impl Pace {
    pub(super) fn new(api: &Api, most: usize) -> Pace {
        let counted = (Instant::now(), api.calls.0.load(Ordering::Relaxed));
        Pace { together: most, most, counted, busy: false }
    }

    /// Things to do together next.
    pub(super) fn together(&self) -> usize {
        self.together
    }

    /// After a piece: learns from how long it took, and leaves as much time to others while there are some.
    pub(super) async fn rest(&mut self, api: &Api, took: Duration) {
        let (since, elapsed) = (self.counted.1, self.counted.0.elapsed());
        if elapsed >= WINDOW {
            let calls = api.calls.0.load(Ordering::Relaxed);
            self.busy = (calls - since) as f64 >= BUSY * elapsed.as_secs_f64();
            self.counted = (Instant::now(), calls);
        }
        self.together = next(self.together, self.most, self.busy, took);
        if self.busy {
            tokio::time::sleep(took).await;
        }
    }
}

/// The size of the next piece.
fn next(together: usize, most: usize, busy: bool, took: Duration) -> usize {
    match took {
        _ if !busy => most,
        took if took > PIECE => (together / 2).max(LEAST.min(most)),
        took if took < PIECE / 2 => (together * 2).min(most),
        _ => together,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_small_while_somebody_calls_and_whole_pages_while_nobody_does() {
        let ms = Duration::from_millis;
        assert_eq!(next(256, 256, true, ms(20)), 128);
        assert_eq!(next(16, 256, true, ms(20)), LEAST);
        assert_eq!(next(16, 256, true, ms(1)), 32);
        assert_eq!(next(32, 256, true, ms(2)), 32);
        assert_eq!(next(256, 256, true, ms(1)), 256);
        assert_eq!(next(16, 256, false, ms(20)), 256);
        assert_eq!(next(8, 8, true, ms(20)), 8, "a page that is smaller than the smallest piece stays whole");
    }
}
