//! S6 for runs: what waits for a time has a row that says which, no row is left of what waits no more, and none fires early.

use tidewheel_engine::id::RunId;
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::head::Head;
use tidewheel_engine::run::journal::Segment;

use super::runs::{Found, Log};

/// A turn that a timer brought.
pub(super) fn fired(run: RunId, log: &Log, segment: &Segment) -> Option<(&'static str, String)> {
    let Event::Fired { entry } = segment.event else { return None };
    match log.due.get(&entry) {
        None => Some(("S6", format!("a timer of run {run} fires that was never set: {:?}", log.head.open))),
        Some(due) if *due > segment.now_ms => {
            Some(("S6", format!("a timer of run {run} fires {} ms early", due - segment.now_ms)))
        }
        Some(_) => None,
    }
}

fn held(head: &Head, entry: u64) -> bool {
    head.held.iter().any(|event| matches!(event, Event::Fired { entry: held } if *held == entry))
}

/// The rows of a run after a commit.
pub(super) fn rows(run: RunId, log: &Log) -> Found {
    let mut found = Found::new();
    let owed = !log.head.owed.is_empty();
    for (entry, open) in log.head.open.iter().filter(|(_, open)| open.what.is_timer()) {
        if !log.timers.contains_key(entry) && !held(&log.head, *entry) && !owed {
            found.push(("S6", format!("run {run} waits for a time, {open:?}, that no row keeps")));
        }
    }
    for entry in log.timers.keys() {
        let wanted = log.head.opened(*entry).is_some_and(|open| open.what.is_timer());
        if !wanted && !owed {
            found.push(("S6", format!("a timer of entry {entry} of run {run} is left, and nothing waits for it")));
        }
    }
    found
}
