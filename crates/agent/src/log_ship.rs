//! Log lines on their way to the server: batched, numbered, kept until acknowledged, bounded. Pure: the link moves the
//! batches. Results never wait for it; when it is full it drops lines, the least important ones first, and says so.

use std::collections::VecDeque;

use bytes::Bytes;
use tidewheel_proto::v1::{LogLine, Logs};

/// Lines of one message.
pub(crate) const BATCH_LINES: usize = 512;
/// Text of one message.
const BATCH_BYTES: usize = 512 << 10;
/// Messages under way without an answer: enough to fill a link, few enough that results get through between them.
const WINDOW: usize = 8;
/// Text held for a server that does not answer.
const MAX_BYTES: usize = 32 << 20;
const MAX_LINES: usize = 200_000;

struct Batch {
    sequence: u64,
    lines: Vec<LogLine>,
    bytes: usize,
}

/// The lines that are not acknowledged.
#[derive(Default)]
pub(crate) struct LogBuffer {
    waiting: VecDeque<LogLine>,
    waiting_bytes: usize,
    flying: VecDeque<Batch>,
    flying_bytes: usize,
    /// How many of `flying` were sent on this stream.
    sent: usize,
    sequence: u64,
    /// Lines dropped and not yet spoken of: the attempt of the last one and how many.
    dropped: Option<(Bytes, u64, u64)>,
}

fn size(line: &LogLine) -> usize {
    line.text.len() + 64
}

impl LogBuffer {
    pub(crate) fn push(&mut self, line: LogLine) {
        if self.is_full(size(&line)) && !self.make_room(&line) {
            let (_, offset, count) = self.dropped.take().unwrap_or_default();
            self.dropped = Some((line.token, offset.max(line.offset), count + 1));
            return;
        }
        self.say_what_was_dropped(&line);
        self.waiting_bytes += size(&line);
        self.waiting.push_back(line);
    }

    fn is_full(&self, more: usize) -> bool {
        self.waiting_bytes + self.flying_bytes + more > MAX_BYTES || self.waiting.len() > MAX_LINES
    }

    /// Gives up the waiting debug lines for a line that matters more.
    fn make_room(&mut self, line: &LogLine) -> bool {
        if line.level == "debug" || !self.waiting.iter().any(|l| l.level == "debug") {
            return false;
        }
        let before = self.waiting.len();
        self.waiting.retain(|l| l.level != "debug");
        let gone = (before - self.waiting.len()) as u64;
        self.waiting_bytes = self.waiting.iter().map(size).sum();
        let (token, offset, count) = self.dropped.take().unwrap_or((line.token.clone(), 0, 0));
        self.dropped = Some((token, offset, count + gone));
        !self.is_full(size(line))
    }

    fn say_what_was_dropped(&mut self, next: &LogLine) {
        let Some((token, offset, count)) = self.dropped.take() else { return };
        let notice = LogLine {
            // The number of the last dropped line is free, because that line was never sent.
            offset,
            token,
            at_unix_ms: next.at_unix_ms,
            stream: "log".into(),
            level: "warning".into(),
            text: format!("{count} lines were dropped, because the server could not take them in time"),
        };
        self.waiting_bytes += size(&notice);
        self.waiting.push_back(notice);
    }

    /// The next message to send, if the window has room. `flush` sends a small one too.
    pub(crate) fn next(&mut self, flush: bool) -> Option<Logs> {
        if let Some(batch) = self.flying.get(self.sent) {
            self.sent += 1;
            return Some(Logs { sequence: batch.sequence, lines: batch.lines.clone() });
        }
        let ready = self.waiting.len() >= BATCH_LINES || self.waiting_bytes >= BATCH_BYTES;
        if self.waiting.is_empty() || self.flying.len() >= WINDOW || !(flush || ready) {
            return None;
        }
        let mut bytes = 0;
        let mut lines = Vec::new();
        while lines.len() < BATCH_LINES && bytes < BATCH_BYTES {
            let Some(line) = self.waiting.pop_front() else { break };
            bytes += size(&line);
            lines.push(line);
        }
        self.waiting_bytes -= bytes;
        self.flying_bytes += bytes;
        self.sequence += 1;
        self.flying.push_back(Batch { sequence: self.sequence, lines: lines.clone(), bytes });
        self.sent += 1;
        Some(Logs { sequence: self.sequence, lines })
    }

    pub(crate) fn acknowledge(&mut self, sequence: u64) {
        while self.sent > 0
            && let Some(batch) = self.flying.pop_front_if(|batch| batch.sequence <= sequence)
        {
            self.flying_bytes -= batch.bytes;
            self.sent -= 1;
        }
    }

    /// A new stream: what was not acknowledged is sent again; offsets make a second copy harmless.
    pub(crate) fn restart(&mut self) {
        self.sent = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.flying.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(offset: u64, level: &str, text: &str) -> LogLine {
        LogLine {
            token: Bytes::from_static(b"t"),
            offset,
            level: level.into(),
            text: text.into(),
            ..LogLine::default()
        }
    }

    #[test]
    fn small_batches_wait_for_the_flush() {
        let mut logs = LogBuffer::default();
        logs.push(line(0, "info", "a"));
        assert!(logs.next(false).is_none());
        assert_eq!(logs.next(true).map(|l| l.lines.len()), Some(1));
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_under_its_number() {
        let mut logs = LogBuffer::default();
        logs.push(line(0, "info", "a"));
        let first = logs.next(true).expect("a batch");
        logs.restart();
        assert_eq!(logs.next(true), Some(first.clone()));
        logs.acknowledge(first.sequence);
        assert!(logs.is_empty());
    }

    #[test]
    fn debug_lines_go_first_and_the_loss_is_spoken_of() {
        let mut logs = LogBuffer::default();
        let long = "x".repeat(1 << 20);
        for i in 0..16 {
            logs.push(line(i, "debug", &long));
        }
        for i in 16..64 {
            logs.push(line(i, "info", &long));
        }
        assert!(logs.waiting_bytes <= MAX_BYTES + 1024);
        assert!(logs.waiting.iter().all(|l| l.level != "debug"));
        assert!(logs.waiting.iter().any(|l| l.text.contains("16 lines were dropped")));
        while let Some(batch) = logs.next(true) {
            logs.acknowledge(batch.sequence);
        }
        logs.push(line(64, "info", "after"));
        assert!(logs.waiting.iter().any(|l| l.text.contains("were dropped")));
    }
}
