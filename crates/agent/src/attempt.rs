//! The attempts this agent holds: what is known of each and where it stands. A table, without a decision in it.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use tidewheel_proto::v1::{Artifact, Grant, LogLine};

use crate::error::Fault;
use crate::link::now_ms;

/// Our own number of an attempt; also its `lease` towards the shim. Never 0.
pub(crate) type AttemptId = u64;

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Phase {
    /// The input is being fetched.
    Fetching,
    /// Waits in a lane or for a permit.
    Waiting,
    /// Handed to a process, which has not begun it.
    Sent(u64),
    /// A process works on it.
    Running(u64),
    /// A command line works on it.
    Shell,
    /// A built-in type that waits.
    Sleeping(Instant),
    /// Done; its result or artifacts are on their way to the server's store.
    Storing,
}

/// The attempt is to end before it is done.
pub(crate) struct Ending {
    pub(crate) fault: Fault,
    pub(crate) kill_at: Instant,
    pub(crate) killed: bool,
}

pub(crate) struct Attempt {
    pub(crate) grant: Box<Grant>,
    pub(crate) phase: Phase,
    /// When its handler began; its time limit counts from then.
    pub(crate) began: Option<Instant>,
    pub(crate) ending: Option<Ending>,
    /// Not ours any more: it is stopped and nothing is reported.
    pub(crate) silent: bool,
    pub(crate) artifacts: Vec<Artifact>,
    pub(crate) uploads: u32,
    /// An artifact that could not be stored; it fails an attempt that would have succeeded, which counts on it.
    pub(crate) artifact_fault: Option<Fault>,
    pub(crate) outcome: Option<Result<Bytes, Fault>>,
    next_line: u64,
    output_bytes: u64,
    truncated: bool,
}

/// What became of a line.
#[derive(Debug, PartialEq)]
pub(crate) enum Logged {
    Line(LogLine),
    /// The bound was just passed: this line says so, and what comes is dropped.
    Last(LogLine),
    Dropped,
}

impl Attempt {
    pub(crate) fn new(grant: Grant) -> Self {
        Self {
            grant: Box::new(grant),
            phase: Phase::Waiting,
            began: None,
            ending: None,
            silent: false,
            artifacts: Vec::new(),
            uploads: 0,
            artifact_fault: None,
            outcome: None,
            next_line: 0,
            output_bytes: 0,
            truncated: false,
        }
    }

    pub(crate) fn log(&mut self, stream: &str, level: &str, text: String, at_ms: i64, max_bytes: u64) -> Logged {
        if self.truncated {
            return Logged::Dropped;
        }
        self.output_bytes += text.len() as u64 + 1;
        self.truncated = self.output_bytes > max_bytes;
        let (level, text) = if self.truncated { ("warning", "output truncated".to_owned()) } else { (level, text) };
        let line = LogLine {
            token: self.grant.token.clone(),
            offset: self.next_line,
            at_unix_ms: if at_ms > 0 { at_ms } else { now_ms() },
            stream: stream.to_owned(),
            level: level.to_owned(),
            text,
        };
        self.next_line += 1;
        if self.truncated { Logged::Last(line) } else { Logged::Line(line) }
    }
}

/// All attempts, by number and by token.
#[derive(Default)]
pub(crate) struct Attempts {
    by_id: HashMap<AttemptId, Attempt>,
    by_token: HashMap<Bytes, AttemptId>,
    last: AttemptId,
}

impl Attempts {
    /// `None` if the token is there already: a grant that came twice.
    pub(crate) fn add(&mut self, grant: Grant) -> Option<AttemptId> {
        if self.by_token.contains_key(&grant.token) {
            return None;
        }
        self.last += 1;
        self.by_token.insert(grant.token.clone(), self.last);
        self.by_id.insert(self.last, Attempt::new(grant));
        Some(self.last)
    }

    /// A number that no attempt has, for a batch.
    pub(crate) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(crate) fn get(&self, id: AttemptId) -> Option<&Attempt> {
        self.by_id.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        self.by_id.get_mut(&id)
    }

    pub(crate) fn find(&self, token: &Bytes) -> Option<AttemptId> {
        self.by_token.get(token).copied()
    }

    pub(crate) fn remove(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.by_id.remove(&id)?;
        self.by_token.remove(&attempt.grant.token);
        Some(attempt)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(crate) fn ids(&self) -> Vec<AttemptId> {
        self.by_id.keys().copied().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (AttemptId, &Attempt)> {
        self.by_id.iter().map(|(id, attempt)| (*id, attempt))
    }

    pub(crate) fn tokens(&self) -> impl Iterator<Item = &Bytes> {
        self.by_id.values().filter(|a| !a.silent).map(|a| &a.grant.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_ends_with_a_line_that_says_so() {
        let mut attempt = Attempt::new(Grant::default());
        assert!(matches!(attempt.log("stdout", "info", "12345".into(), 1, 10), Logged::Line(l) if l.offset == 0));
        assert!(
            matches!(attempt.log("stdout", "info", "12345".into(), 1, 10), Logged::Last(l) if l.text == "output truncated")
        );
        assert_eq!(attempt.log("stdout", "info", "x".into(), 1, 10), Logged::Dropped);
    }

    #[test]
    fn a_grant_that_comes_twice_is_held_once() {
        let mut attempts = Attempts::default();
        let grant = Grant { token: Bytes::from_static(b"t"), ..Grant::default() };
        let id = attempts.add(grant.clone()).expect("new");
        assert_eq!(attempts.add(grant), None);
        attempts.remove(id);
        assert!(attempts.is_empty());
    }
}
