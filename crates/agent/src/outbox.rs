//! Results that the server has not acknowledged yet. Pure: the link asks it what to send and tells it what was
//! acknowledged. It never forgets a result that a stream's `Ack` does not cover.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use prost::Message;
use tidewheel_proto::v1::{Ack, TaskResult};

/// Results of one message at most, so that the server's batches stay small enough to be quick.
const MAX_BATCH: usize = 1024;

/// Results in the order they came, the sent ones first.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Slot>,
    /// How many of `queue`, from the front, were sent on this stream.
    sent: usize,
    /// Results of this stream that the server has stored.
    stored: u64,
}

struct Slot {
    result: TaskResult,
    refused: bool,
}

impl Outbox {
    pub(crate) fn push(&mut self, results: impl IntoIterator<Item = TaskResult>) {
        self.queue.extend(results.into_iter().map(|result| Slot { result, refused: false }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn tokens(&self) -> impl Iterator<Item = &Bytes> {
        self.queue.iter().map(|slot| &slot.result.token)
    }

    /// A new stream: everything is sent again, but for what the server says is no longer current.
    pub(crate) fn restart(&mut self, current: &HashSet<Bytes>) {
        self.queue.retain(|slot| current.contains(&slot.result.token));
        self.sent = 0;
        self.stored = 0;
    }

    /// The next results to send, within `max_bytes` (one result goes alone if it is larger).
    pub(crate) fn next(&mut self, max_bytes: usize) -> Vec<TaskResult> {
        let mut bytes = 0;
        let mut batch = Vec::new();
        for slot in self.queue.iter().skip(self.sent).take(MAX_BATCH) {
            bytes += slot.result.encoded_len() + 8;
            if !batch.is_empty() && bytes > max_bytes {
                break;
            }
            batch.push(slot.result.clone());
        }
        self.sent += batch.len();
        batch
    }

    /// `accepted` counts the results of this stream that were stored, in order; refused ones are not among them, and are
    /// named by their token in the same acknowledgement at the latest.
    pub(crate) fn acknowledge(&mut self, ack: &Ack) {
        if !ack.refused.is_empty() {
            let refused: HashSet<&Bytes> = ack.refused.iter().collect();
            for slot in self.queue.iter_mut().take(self.sent) {
                slot.refused |= refused.contains(&slot.result.token);
            }
        }
        while self.sent > 0
            && let Some(slot) = self.queue.pop_front_if(|slot| slot.refused || self.stored < ack.accepted)
        {
            self.sent -= 1;
            self.stored += u64::from(!slot.refused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(token: &'static str) -> TaskResult {
        TaskResult { token: Bytes::from_static(token.as_bytes()), ..TaskResult::default() }
    }

    fn names(batch: &[TaskResult]) -> Vec<&str> {
        batch.iter().map(|r| std::str::from_utf8(&r.token).expect("tokens of tests are text")).collect()
    }

    fn ack(accepted: u64, refused: &[&'static str]) -> Ack {
        Ack { accepted, refused: refused.iter().map(|t| Bytes::from_static(t.as_bytes())).collect() }
    }

    #[test]
    fn only_what_an_ack_covers_is_forgotten() {
        let mut outbox = Outbox::default();
        outbox.push([result("a"), result("b"), result("c")]);
        assert_eq!(names(&outbox.next(1 << 20)), ["a", "b", "c"]);
        outbox.acknowledge(&ack(2, &[]));
        outbox.restart(&outbox.tokens().cloned().collect());
        assert_eq!(names(&outbox.next(1 << 20)), ["c"]);
        outbox.acknowledge(&ack(1, &[]));
        assert!(outbox.is_empty());
    }

    #[test]
    fn an_ack_never_covers_what_was_not_sent() {
        let mut outbox = Outbox::default();
        outbox.push([result("a")]);
        outbox.acknowledge(&ack(5, &[]));
        assert!(!outbox.is_empty());
    }

    #[test]
    fn refused_results_are_not_among_the_counted_ones() {
        let mut outbox = Outbox::default();
        outbox.push([result("a"), result("b"), result("c")]);
        outbox.next(1 << 20);
        outbox.acknowledge(&ack(0, &["b"]));
        assert_eq!(outbox.tokens().count(), 3, "a is not stored yet");
        outbox.acknowledge(&ack(1, &[]));
        assert_eq!(outbox.tokens().collect::<Vec<_>>(), ["c"]);
        outbox.acknowledge(&ack(2, &[]));
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_is_no_longer_current_is_dropped_at_a_reconnect() {
        let mut outbox = Outbox::default();
        outbox.push([result("a"), result("b")]);
        outbox.restart(&[Bytes::from_static(b"b")].into());
        assert_eq!(names(&outbox.next(1 << 20)), ["b"]);
    }
}
